//! The tracking table: which version it has, what its rows say, what Drizzle takes from them.

use mainstay_model::{Error, ErrorKind, Timestamp};
use serde::{Deserialize, Serialize};

use crate::folder::{Format, Migration};

/// Where the tracking table is. The default is Drizzle's: `drizzle.__drizzle_migrations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackingTable {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
}

/// The columns that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableVersion {
    /// It does not exist.
    Absent,
    /// `id`, `hash`, `created_at`: the 0.x line.
    Classic,
    /// These with `name` and `applied_at`: the 1.0 line.
    Named,
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackingRow {
    /// Its number; gaps are ordinary.
    pub id: i64,
    /// What was stored as the hash of the file, as it stands.
    pub hash: String,
    /// Milliseconds of the entry; the column allows nothing there.
    pub created_at: Option<i64>,
    /// The name of the folder; always `None` in a classic table.
    pub name: Option<String>,
    /// When it was applied; `None` in a classic table and for rows that were taken over from one.
    pub applied_at: Option<Timestamp>,
}

/// A row to be written. `id` and `applied_at` are the server's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewRow {
    /// The hash of the file.
    pub hash: String,
    /// Milliseconds of the entry.
    pub created_at: i64,
    /// The name of the folder, for a named table.
    pub name: Option<String>,
}

/// What Drizzle 0.x reads of the table, and decides by: the first row ordered by `created_at` descending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Watermark {
    /// No rows: everything is applied.
    None,
    /// A row without `created_at` sorts first: everything is applied again.
    Null {
        /// The row.
        row: i64,
    },
    /// Entries later than this are applied, strictly.
    At {
        /// The row, the lowest of equals.
        row: i64,
        /// Its milliseconds.
        created_at: i64,
    },
}

/// A table that is none of Drizzle's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{table} is no tracking table of Drizzle: it has no column {missing}")]
pub struct TrackingError {
    /// The table.
    pub table: String,
    /// The column that it lacks.
    pub missing: String,
}

impl Default for TrackingTable {
    fn default() -> Self {
        Self { schema: "drizzle".to_owned(), name: "__drizzle_migrations".to_owned() }
    }
}

impl std::fmt::Display for TrackingTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

impl TableVersion {
    /// The version of a table that has these columns; none at all means that it does not exist.
    ///
    /// # Errors
    /// [`TrackingError`] when `id`, `hash` or `created_at` is missing.
    pub fn of_columns(table: &TrackingTable, columns: &[String]) -> Result<Self, TrackingError> {
        if columns.is_empty() {
            return Ok(Self::Absent);
        }
        let has = |name: &str| columns.iter().any(|column| column == name);
        match ["id", "hash", "created_at"].into_iter().find(|name| !has(name)) {
            Some(missing) => Err(TrackingError { table: table.to_string(), missing: missing.to_owned() }),
            None if has("name") => Ok(Self::Named),
            None => Ok(Self::Classic),
        }
    }

    /// The version that a runner of this format makes.
    #[must_use]
    pub fn of_format(format: Format) -> Self {
        match format {
            Format::Journal => Self::Classic,
            Format::Folders => Self::Named,
        }
    }
}

impl NewRow {
    /// The row that applying a migration writes, in a folder of this format.
    #[must_use]
    pub fn of(migration: &Migration, format: Format) -> Self {
        Self {
            hash: migration.hash.clone(),
            created_at: migration.created_at,
            name: (format == Format::Folders).then(|| migration.tag.clone()),
        }
    }
}

impl Watermark {
    /// What the first row would be.
    #[must_use]
    pub fn of(rows: &[TrackingRow]) -> Self {
        if let Some(row) = rows.iter().filter(|row| row.created_at.is_none()).map(|row| row.id).min() {
            return Self::Null { row };
        }
        let latest = rows.iter().filter_map(|row| Some((row.created_at?, row.id)));
        match latest.min_by_key(|(at, id)| (std::cmp::Reverse(*at), *id)) {
            Some((created_at, row)) => Self::At { row, created_at },
            None => Self::None,
        }
    }
}

impl From<TrackingError> for Error {
    fn from(error: TrackingError) -> Self {
        Self::new(ErrorKind::Precondition, error.to_string())
            .with_state("nothing was changed")
            .with_hint("name the table that Drizzle keeps its migrations in: `schema` and `table` of [sql] in mainstay.toml")
    }
}
