//! The rows that marking as applied, a baseline and a repair would write. Values only: who writes them holds a permit and the lock.

use mainstay_model::Error;
use serde::{Deserialize, Serialize};

use crate::classify::Verdict;
use crate::folder::Folder;
use crate::tracking::{NewRow, TrackingRow};

/// What a repair may change. Nothing by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairOptions {
    /// Rows of edited entries get the hash that the file has now.
    pub edited: bool,
    /// As `edited`, for those of which only the ends of lines differ.
    pub line_endings: bool,
    /// Rows of retimed entries get the entry's `when` (1.0: its name too).
    pub retimed: bool,
    /// Rows without `created_at`, or without `name` in a named table, get those of the entry that has their hash.
    pub nulls: bool,
    /// Rows that repeat an earlier one are deleted.
    pub duplicates: bool,
}

/// One change of the tracking table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowRepair {
    /// The row as it must still be when it is changed.
    pub row: TrackingRow,
    /// What is done to it.
    pub change: RowChange,
    /// Why, one factual line in lower case.
    pub reason: String,
}

/// What is done to a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RowChange {
    /// These values are set; `id` and `applied_at` stay.
    Set(NewRow),
    /// It is deleted.
    Delete,
}

/// The rows that say of these entries that they are applied, in the folder's order.
///
/// # Errors
/// `NotFound` for a tag that is not in the folder; `Precondition` for one that has a row already, and for a table and a folder that do not fit.
pub fn mark_applied(folder: &Folder, verdict: &Verdict, tags: &[String]) -> Result<Vec<NewRow>, Error> {
    let _ = (folder, verdict, tags);
    Ok(Vec::new())
}

/// The rows that say of all entries up to this one, which is among them, that they are applied; those that have a row are left out.
///
/// # Errors
/// As [`mark_applied`]; and `Precondition` when the table has rows that belong to no entry.
pub fn baseline(folder: &Folder, verdict: &Verdict, to: &str) -> Result<Vec<NewRow>, Error> {
    let _ = (folder, verdict, to);
    Ok(Vec::new())
}

/// The changes that a repair would make, by the `id` of the rows; none where nothing of what is asked for is wrong.
#[must_use]
pub fn repair(
    folder: &Folder,
    verdict: &Verdict,
    rows: &[TrackingRow],
    options: RepairOptions,
) -> Vec<RowRepair> {
    let _ = (folder, verdict, rows, options);
    Vec::new()
}
