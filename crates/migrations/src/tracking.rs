//! The tracking table: which version it has, what its rows say, what Drizzle takes from them.

use std::borrow::Borrow;
use std::cmp::Reverse;

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
    pub fn of<R: Borrow<TrackingRow>>(rows: &[R]) -> Self {
        let rows = || rows.iter().map(Borrow::borrow);
        if let Some(row) = rows().filter(|row| row.created_at.is_none()).map(|row| row.id).min() {
            return Self::Null { row };
        }
        let latest = rows().filter_map(|row| Some((row.created_at?, row.id)));
        match latest.min_by_key(|(at, id)| (Reverse(*at), *id)) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: i64, created_at: Option<i64>) -> TrackingRow {
        TrackingRow { id, hash: String::new(), created_at, name: None, applied_at: None }
    }

    #[test]
    fn the_watermark_is_the_first_row_of_a_descending_order() {
        let table: [(&[(i64, Option<i64>)], Watermark); 5] = [
            (&[], Watermark::None),
            (&[(1, Some(10)), (2, Some(5))], Watermark::At { row: 1, created_at: 10 }),
            (&[(4, Some(10)), (2, Some(10))], Watermark::At { row: 2, created_at: 10 }),
            (&[(1, Some(10)), (2, None)], Watermark::Null { row: 2 }),
            (&[(1, Some(-5))], Watermark::At { row: 1, created_at: -5 }),
        ];
        for (rows, expected) in table {
            let rows: Vec<TrackingRow> = rows.iter().map(|(id, created_at)| row(*id, *created_at)).collect();
            assert_eq!(Watermark::of(&rows), expected);
        }
    }

    #[test]
    fn the_version_is_told_by_columns() {
        let of = |columns: &[&str]| {
            let columns: Vec<String> = columns.iter().map(|column| (*column).to_owned()).collect();
            TableVersion::of_columns(&TrackingTable::default(), &columns)
        };
        assert_eq!(of(&[]), Ok(TableVersion::Absent));
        assert_eq!(of(&["id", "hash", "created_at"]), Ok(TableVersion::Classic));
        assert_eq!(of(&["created_at", "hash", "id", "applied_at", "name"]), Ok(TableVersion::Named));
        assert_eq!(
            of(&["id", "name"]).unwrap_err().to_string(),
            "drizzle.__drizzle_migrations is no tracking table of Drizzle: it has no column hash"
        );
    }
}
