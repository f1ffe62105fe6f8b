//! Filling a store with rows that a project keeps in files, and what the store itself says of where that is.
//!
//! The contract in short. A row crosses as its fields in order with their values as JSON texts, of Extended JSON for documents. A row is known by its *natural key*: named fields that no
//! two rows share, which the store must enforce itself by a unique index or constraint, so that two that seed at once cannot write a row twice.
//! What may not happen everywhere ([`SeedWriting::Insert`], [`SeedWriting::Replace`]) is told the environment marker that it was allowed under,
//! and the adapter reads the marker inside the database once more, right before it writes, over the connection that it writes with.

use async_trait::async_trait;
use mainstay_guard::{Marker, Permit};
use mainstay_model::{Result, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Where a seed's rows go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedPlace {
    /// The collection; or the table, with its schema before a dot when that is not `public`.
    pub into: String,
    /// The natural key, at least one field.
    pub key: Vec<String>,
}

/// A row: its fields in order, each with its value as JSON text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedRow(pub Vec<(String, String)>);

impl SeedRow {
    /// The row as the text of one JSON object.
    pub fn text(&self) -> String {
        let member = |(field, value): &(String, String)| format!("{}:{value}", Value::from(field.as_str()));
        format!("{{{}}}", self.0.iter().map(member).collect::<Vec<_>>().join(","))
    }
}

/// The database that is seeded, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedGround {
    /// Its name.
    pub database: String,
    /// The environment marker inside it; `None` when it has none.
    pub marker: Option<Marker>,
}

/// What the rows of a seed meet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedStanding {
    /// Rows or documents that are there, whoever wrote them.
    pub held: u64,
    /// Rows of the seed whose key nobody has.
    pub absent: u64,
    /// Rows of the seed whose key is there with other values in the seed's fields.
    pub different: u64,
}

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeedWriting {
    /// Those that are absent are inserted; the fields of a seed are set in those that are there, whose other fields stay.
    Upsert,
    /// Those that are absent are inserted; nothing that is there changes.
    Insert,
    /// Everything that is there goes, then all are inserted.
    Replace,
}

impl SeedWriting {
    /// The registered operation that a permit for it is of, or the beginning of its name.
    pub fn operation(self) -> &'static str {
        match self {
            Self::Upsert | Self::Insert => "seed.run",
            Self::Replace => "seed.run.replace",
        }
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedWritten {
    /// New rows.
    pub inserted: u64,
    /// Rows whose values changed.
    pub changed: u64,
    /// Rows that went.
    pub removed: u64,
}

impl std::ops::AddAssign for SeedWritten {
    fn add_assign(&mut self, more: Self) {
        self.inserted += more.inserted;
        self.changed += more.changed;
        self.removed += more.removed;
    }
}

/// Who counts as a user whom a person made, for the seeding of a new installation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewcomerRule {
    /// The collection or table of users.
    pub users: String,
    /// The field that tells administrators,
    pub field: String,
    /// by this value.
    pub administrator: String,
}

/// Who seeds a new installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeedClaim {
    /// Whoever asked. The claim runs out when it is not renewed.
    Ours {
        /// Somebody claimed it before, renewed the claim, and did not end it. Who claims looks first and renews before anything is written, so
        /// what was claimed once and no more is begun anew.
        is_continued: bool,
    },
    /// Another, who is at it.
    Taken {
        /// Who.
        by: String,
        /// The claim runs out then, by the server's clock.
        until: Timestamp,
    },
    /// It was done.
    Done {
        /// By whom.
        by: String,
    },
}

/// A store that can be seeded.
#[async_trait]
pub trait SeedTarget: Send + Sync {
    /// Which database would be filled, and what the marker inside it says.
    ///
    /// # Errors
    /// `Precondition` when no database is configured; `Corrupt` when the marker is damaged; the server's.
    async fn ground(&self) -> Result<SeedGround>;

    /// Compares `rows`, at most [`SEED_BATCH_MAX`], with what is there. `held` is counted in each call.
    ///
    /// # Errors
    /// `Precondition` when nothing there keeps the key unique, or the place does not take such rows; the server's.
    async fn standing(&self, place: &SeedPlace, rows: &[SeedRow]) -> Result<SeedStanding>;

    /// Writes `rows`; at most [`SEED_BATCH_MAX`] of them unless everything is replaced. `under` is the marker that the decision was made
    /// under, which must still be there. Rows may be written again: none is there twice.
    ///
    /// # Errors
    /// `Refused` when `permit` is for something else, or the marker is another one by now; `Precondition` as [`SeedTarget::standing`]; the
    /// server's, with what stands then.
    async fn write(
        &self,
        place: &SeedPlace,
        rows: &[SeedRow],
        writing: SeedWriting,
        under: Option<&Marker>,
        permit: &Permit,
    ) -> Result<SeedWritten>;

    /// Whether somebody is there who is no administrator. A place that does not exist holds nobody.
    ///
    /// # Errors
    /// The server's.
    async fn has_users(&self, rule: &NewcomerRule) -> Result<bool>;

    /// The claim on the seeding as it stands, never [`SeedClaim::Ours`]; `None` where nobody has made one. Changes nothing.
    ///
    /// # Errors
    /// `Corrupt` when it is not readable; the server's.
    async fn claimed(&self) -> Result<Option<SeedClaim>>;

    /// Claims the seeding of a new installation for `holder`, or renews the claim, for [`CLAIM_SECONDS`] by the server's clock. One step of
    /// the server: of many that ask at once, one is told that it is theirs. No two processes may have the same name.
    ///
    /// # Errors
    /// The server's.
    async fn claim(&self, holder: &str, permit: &Permit) -> Result<SeedClaim>;

    /// Ends the claim of `holder`: done for good, or given up so that the next may try. Does nothing when it is another's by now.
    ///
    /// # Errors
    /// The server's.
    async fn end_claim(&self, holder: &str, is_done: bool, permit: &Permit) -> Result<()>;
}

/// How many rows are compared or written in one step.
pub const SEED_BATCH_MAX: usize = 500;

/// How long a claim lives without being renewed.
pub const CLAIM_SECONDS: u32 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_an_object_whatever_its_fields_are_called() {
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let row = SeedRow(vec![field("b\"c", "1"), field("a", r#"{"z":[null]}"#)]);
        assert_eq!(row.text(), r#"{"b\"c":1,"a":{"z":[null]}}"#);
        assert_eq!(SeedRow(Vec::new()).text(), "{}");
    }
}
