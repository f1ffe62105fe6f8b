//! Looking into a stored change log for people: what was destroyed, and when.

use mainstay_model::{OpTime, Result};
use serde::{Deserialize, Serialize};

/// Something in a change log that destroyed data or definitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeSight {
    /// The entry's position.
    pub at: OpTime,
    /// What it did.
    pub kind: SightKind,
    /// The collection, or the database, it did it to.
    pub namespace: String,
    /// More, in words: the index dropped, the name taken. May be empty.
    pub detail: String,
}

/// What an entry destroyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SightKind {
    /// A collection or view was dropped.
    Drop,
    /// A database was dropped.
    DropDatabase,
    /// A collection was replaced by one that was renamed onto it.
    RenameOver,
    /// A collection's options or an index's were changed.
    CollMod,
    /// Indexes were dropped.
    DropIndexes,
    /// A document was deleted.
    Delete,
}

impl SightKind {
    /// In a word or two.
    pub fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::DropDatabase => "drop database",
            Self::RenameOver => "rename over",
            Self::CollMod => "collMod",
            Self::DropIndexes => "drop indexes",
            Self::Delete => "delete",
        }
    }
}

/// Looks into stored change logs. Asks no server.
pub trait ChangeLens: Send + Sync {
    /// Tells `found` what the whole `entries` destroyed, in order.
    ///
    /// # Errors
    /// `Corrupt` for bytes that are no change log.
    fn look(&self, entries: &[u8], found: &mut dyn FnMut(ChangeSight)) -> Result<()>;
}
