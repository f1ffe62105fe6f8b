//! Every entry against every row: what is applied, what was changed since, what would never run, and what may be applied.
//!
//! Drizzle decides by one number, the latest `created_at`, or by names alone; this module never does. A row is matched by hash and `when`, then by
//! `when`, then by hash, each row once; what then has no partner on either side has a state of its own. Everything here is decided from values;
//! the time is a parameter.

use mainstay_model::{Error, Timestamp};
use serde::{Deserialize, Serialize};

use crate::folder::{Folder, Format, Migration};
use crate::tracking::{TableVersion, TrackingRow, Watermark};

/// How far in the future a `when` may be before it counts as one: clocks of developers differ. Milliseconds.
pub const FUTURE_TOLERANCE_MS: i64 = 10 * 60 * 1_000;

/// What is to be done about a state. The order is the order of badness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reaction {
    /// Nothing.
    Ok,
    /// It is told; applying goes on.
    Warn,
    /// `verify` fails; applying waits until it is mended, or accepted by an option.
    Fail,
    /// Nothing can be applied, whatever the options: a runner would do harm.
    Block,
}

/// What an entry of the folder is to the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum EntryState {
    /// A row has its hash and its `when` (1.0: its name and its hash).
    Applied,
    /// A row has its `when` (1.0: its name) and another hash: the file was changed after it was applied.
    Edited {
        /// Only the ends of lines differ.
        line_endings_only: bool,
    },
    /// A row has its hash and another `when` (1.0: another name, which Drizzle would run again).
    Retimed {
        /// What the row says; `None` where it says nothing.
        row_created_at: Option<i64>,
        /// The name in the row, where it has another.
        row_name: Option<String>,
    },
    /// No row, and Drizzle would apply it.
    Pending {
        /// It comes before one that is applied: only the 1.0 line applies it.
        is_late: bool,
    },
    /// No row, and not later than the latest row: Drizzle 0.x never applies it.
    Skipped {
        /// The row that it is not later than.
        blocking_row: i64,
        /// The milliseconds of that row.
        blocking_created_at: i64,
        /// The entry of that row, where it has one.
        blocking_tag: Option<String>,
    },
    /// Some of its steps are done and recorded, and it is not: it goes on at the first that is not.
    HalfApplied,
}

/// What a row of the tracking table is to the folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum RowState {
    /// The row of an entry, whatever that entry's state.
    Matched {
        /// The entry.
        tag: String,
    },
    /// The same hash and `when` as an earlier row: two runs raced, and both applied it.
    Duplicate {
        /// The earlier row.
        of: i64,
    },
    /// No `created_at`: it sorts first, and Drizzle 0.x applies everything again.
    NullCreatedAt {
        /// The entry that has its hash, if one does.
        tag: Option<String>,
    },
    /// No `name` in a named table: written by Drizzle 0.x after the table was taken over; Drizzle 1.0 runs that migration again.
    NullName {
        /// The entry that it would be.
        tag: Option<String>,
    },
    /// No entry: of another branch, of a squashed history, or of another project that shares the table.
    Orphan,
}

/// An entry and its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryVerdict {
    /// Its place in [`Folder::migrations`], from 0.
    pub index: usize,
    /// Its tag.
    pub tag: String,
    /// Its milliseconds.
    pub created_at: i64,
    /// Its state.
    #[serde(flatten)]
    pub state: EntryState,
    /// The row that it was held against.
    pub row: Option<i64>,
    /// What is to be done.
    pub reaction: Reaction,
    /// What was found, one factual line in lower case, with tag and row.
    pub message: String,
}

/// A row and its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowVerdict {
    /// Its `id`.
    pub row: i64,
    /// Its state.
    #[serde(flatten)]
    pub state: RowState,
    /// What is to be done.
    pub reaction: Reaction,
    /// What was found, one factual line in lower case.
    pub message: String,
}

/// What concerns no single entry or row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// What it is.
    pub kind: NoticeKind,
    /// What is to be done.
    pub reaction: Reaction,
    /// What was found, one factual line in lower case.
    pub message: String,
    /// What to do, a sentence with something to type.
    pub remedy: String,
}

/// The kinds of notices; the names are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeKind {
    /// The latest row is in the future: Drizzle 0.x skips all that is made before that.
    PoisonedWatermark,
    /// An entry that is not applied yet is in the future: its row would poison the watermark.
    FutureEntry,
    /// Rows that repeat.
    DuplicateRows,
    /// Rows without an entry.
    OrphanRows,
    /// Rows without `created_at`.
    NullRows,
    /// Rows without `name`.
    NullNames,
    /// A folder of the 0.x line and a table of the 1.0 line.
    OldFolderNewTable,
    /// A folder of the 1.0 line and a table of the 0.x line: Drizzle takes the table over at its next run.
    TableToUpgrade,
    /// That take-over would fail, or match what does not belong together.
    NotReady,
    /// Entries that are not applied are not in the order of their `when`: ended half way, the rest would be skipped.
    PendingOutOfOrder,
    /// Something about the folder alone ([`crate::FolderNote`]).
    Folder,
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// How the folder is laid out.
    pub format: Format,
    /// The version of the table.
    pub table: TableVersion,
    /// What Drizzle 0.x would decide by.
    pub watermark: Watermark,
    /// The entries, in the folder's order.
    pub entries: Vec<EntryVerdict>,
    /// The rows, by `id`.
    pub rows: Vec<RowVerdict>,
    /// What concerns more than one.
    pub notices: Vec<Notice>,
}

/// What may be accepted when migrations are applied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyOptions {
    /// Skipped entries are applied too, each in its place among the others.
    pub include_skipped: bool,
}

/// Holds every entry against every row.
///
/// `half_applied`: tags of which the ledger of steps has some and which have no end; `now`: what counts as the future is later than this.
/// Rows may come in any order.
#[must_use]
pub fn classify(
    folder: &Folder,
    table: TableVersion,
    rows: &[TrackingRow],
    half_applied: &[String],
    now: Timestamp,
) -> Verdict {
    let _ = (half_applied, now);
    Verdict {
        format: folder.format,
        table,
        watermark: Watermark::of(rows),
        entries: Vec::new(),
        rows: Vec::new(),
        notices: Vec::new(),
    }
}

impl Verdict {
    /// The worst reaction of all; [`Reaction::Ok`] when there is nothing at all.
    #[must_use]
    pub fn worst(&self) -> Reaction {
        let entries = self.entries.iter().map(|entry| entry.reaction);
        let rows = self.rows.iter().map(|row| row.reaction);
        let notices = self.notices.iter().map(|notice| notice.reaction);
        entries.chain(rows).chain(notices).max().unwrap_or(Reaction::Ok)
    }

    /// The migrations to apply, in the folder's order: pending and half applied ones, and skipped ones where that is accepted.
    ///
    /// # Errors
    /// `Precondition`, naming what blocks or fails and with a hint what to type: nothing may be applied before it is mended.
    pub fn to_apply<'f>(
        &self,
        folder: &'f Folder,
        options: ApplyOptions,
    ) -> Result<Vec<&'f Migration>, Error> {
        let _ = (folder, options);
        Ok(Vec::new())
    }

    /// The migrations that Drizzle's own migrator would apply now, in its order; for a word of what differs.
    #[must_use]
    pub fn drizzle_would_apply(&self) -> Vec<&EntryVerdict> {
        Vec::new()
    }
}
