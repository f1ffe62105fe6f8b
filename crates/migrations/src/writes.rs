//! The rows that marking as applied, a baseline and a repair would write. Values only: who writes them holds a permit and the lock.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_model::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

use crate::classify::{EntryState, EntryVerdict, Notice, NoticeKind, Reaction, RowState, Verdict};
use crate::folder::{Folder, Format, Migration};
use crate::tracking::{NewRow, TrackingRow};

/// What a repair may change. Nothing by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairOptions {
    /// Rows of edited entries get the hash that the file has now; also where only the ends of lines differ.
    pub edited: bool,
    /// As `edited`, for those alone of which only the ends of lines differ.
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
    fits(verdict)?;
    if let Some(tag) = tags.iter().find(|tag| folder.migration(tag).is_none()) {
        return Err(unknown(tag));
    }
    let wanted: BTreeSet<&str> = tags.iter().map(String::as_str).collect();
    let entries: Vec<&EntryVerdict> =
        verdict.entries.iter().filter(|entry| wanted.contains(entry.tag.as_str())).collect();
    if let Some(entry) = entries.iter().find(|entry| entry.row.is_some()) {
        return Err(refused(entry.message.clone(), "leave it out: it has a row already"));
    }
    Ok(rows_of(folder, &entries))
}

/// The rows that say of all entries up to this one, which is among them, that they are applied; those that have a row are left out.
///
/// # Errors
/// As [`mark_applied`]; and `Precondition` when the table has rows that belong to no entry.
pub fn baseline(folder: &Folder, verdict: &Verdict, to: &str) -> Result<Vec<NewRow>, Error> {
    fits(verdict)?;
    let Some(last) = verdict.entry(to) else { return Err(unknown(to)) };
    if let Some(row) = verdict.rows.iter().find(|row| row.state == RowState::Orphan) {
        return Err(refused(
            row.message.clone(),
            "a baseline is for a database of which the whole history is in the folder; mark single migrations with `mainstay sql mark-applied`",
        ));
    }
    let open = |entry: &&EntryVerdict| entry.index <= last.index && entry.row.is_none();
    let entries: Vec<&EntryVerdict> = verdict.entries.iter().filter(open).collect();
    Ok(rows_of(folder, &entries))
}

/// Refuses a folder and a table of different lines, and a table that must be mended first.
fn fits(verdict: &Verdict) -> Result<(), Error> {
    let blocks = |notice: &&Notice| {
        notice.reaction == Reaction::Block
            || matches!(
                notice.kind,
                NoticeKind::FutureEntry | NoticeKind::TableToUpgrade | NoticeKind::NullNames
            )
    };
    match verdict.notices.iter().find(blocks) {
        Some(notice) => Err(refused(notice.message.clone(), notice.remedy.clone())),
        None => Ok(()),
    }
}

fn rows_of(folder: &Folder, entries: &[&EntryVerdict]) -> Vec<NewRow> {
    let migrations = entries.iter().filter_map(|entry| folder.migrations.get(entry.index));
    migrations.map(|migration| NewRow::of(migration, folder.format)).collect()
}

fn unknown(tag: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no migration {tag:?} in the folder"))
        .with_state("nothing was changed")
        .with_hint("see the tags with `mainstay sql status`")
}

fn refused(message: String, hint: impl Into<String>) -> Error {
    Error::new(ErrorKind::Precondition, message).with_state("nothing was changed").with_hint(hint)
}

/// The changes that a repair would make, by the `id` of the rows; none where nothing of what is asked for is wrong.
#[must_use]
pub fn repair(
    folder: &Folder,
    verdict: &Verdict,
    rows: &[TrackingRow],
    options: RepairOptions,
) -> Vec<RowRepair> {
    let by_id: BTreeMap<i64, &TrackingRow> = rows.iter().map(|row| (row.id, row)).collect();
    let entry_of: BTreeMap<i64, &EntryVerdict> =
        verdict.entries.iter().filter_map(|entry| Some((entry.row?, entry))).collect();
    let found = verdict.rows.iter().filter_map(|found| {
        let row = *by_id.get(&found.row)?;
        let entry = entry_of.get(&found.row).copied();
        let migration = entry.and_then(|entry| folder.migrations.get(entry.index));
        let (change, reason) = match (&found.state, entry.zip(migration)) {
            (RowState::Duplicate { .. }, _) if options.duplicates => (RowChange::Delete, &found.message),
            (RowState::NullCreatedAt { .. } | RowState::NullName { .. }, Some((_, migration)))
                if options.nulls =>
            {
                (RowChange::Set(kept(row, NewRow::of(migration, folder.format))), &found.message)
            }
            (RowState::Matched { .. }, Some((entry, migration))) => {
                (RowChange::Set(mended(row, entry, migration, folder.format, options)?), &entry.message)
            }
            _ => return None,
        };
        Some(RowRepair { row: row.clone(), change, reason: reason.clone() })
    });
    found.collect()
}

/// The values that a row gets whose entry was edited or retimed; nothing when that was not asked for, or is not so.
fn mended(
    row: &TrackingRow,
    entry: &EntryVerdict,
    migration: &Migration,
    format: Format,
    options: RepairOptions,
) -> Option<NewRow> {
    match entry.state {
        EntryState::Edited { line_endings_only }
            if options.edited || (line_endings_only && options.line_endings) =>
        {
            let created_at = row.created_at.unwrap_or(migration.created_at);
            Some(NewRow { hash: migration.hash.clone(), created_at, name: row.name.clone() })
        }
        EntryState::Retimed { .. } if options.retimed => Some(kept(row, NewRow::of(migration, format))),
        _ => None,
    }
}

/// The new values, with what a row has and the format would not give: the name of a named table.
fn kept(row: &TrackingRow, new: NewRow) -> NewRow {
    NewRow { name: new.name.or_else(|| row.name.clone()), hash: row.hash.clone(), ..new }
}

#[cfg(test)]
mod tests {
    use mainstay_model::Timestamp;

    use super::*;
    use crate::classify::classify;
    use crate::hash::hash;
    use crate::tracking::TableVersion;

    const BASE: i64 = 1_700_000_000_000;

    fn folder(format: Format, entries: &[(&str, i64, &str)]) -> Folder {
        let migrations = entries
            .iter()
            .map(|(tag, at, text)| Migration::new(*tag, format!("{tag}.sql"), BASE + at, *text));
        Folder { format, migrations: migrations.collect(), notes: Vec::new() }
    }

    fn row(id: i64, text: &str, at: i64) -> TrackingRow {
        TrackingRow { id, hash: hash(text), created_at: Some(BASE + at), name: None, applied_at: None }
    }

    fn verdict(folder: &Folder, rows: &[TrackingRow]) -> Verdict {
        let table = TableVersion::of_format(folder.format);
        classify(folder, table, rows, &[], Timestamp::from_millisecond(BASE + 1_000_000).unwrap())
    }

    fn times(rows: Result<Vec<NewRow>, Error>) -> Vec<i64> {
        rows.unwrap().iter().map(|row| row.created_at - BASE).collect()
    }

    #[test]
    fn marking_writes_the_rows_that_applying_would_write() {
        let folder = folder(Format::Journal, &[("0000_a", 1, "a"), ("0001_b", 2, "b"), ("0002_c", 3, "c")]);
        let found = verdict(&folder, &[row(1, "a", 1)]);
        let tags = |tags: &[&str]| tags.iter().map(|tag| (*tag).to_owned()).collect::<Vec<_>>();
        let rows = mark_applied(&folder, &found, &tags(&["0002_c", "0001_b", "0002_c"])).unwrap();
        assert_eq!(
            rows,
            [
                NewRow { hash: hash("b"), created_at: BASE + 2, name: None },
                NewRow { hash: hash("c"), created_at: BASE + 3, name: None },
            ]
        );
        assert_eq!(mark_applied(&folder, &found, &tags(&["x"])).unwrap_err().kind(), ErrorKind::NotFound);
        let again = mark_applied(&folder, &found, &tags(&["0001_b", "0000_a"])).unwrap_err();
        assert_eq!((again.kind(), again.message()), (ErrorKind::Precondition, "0000_a is applied, row 1"));
    }

    #[test]
    fn a_baseline_leaves_out_what_has_a_row() {
        let folder = folder(Format::Journal, &[("0000_a", 1, "a"), ("0001_b", 2, "b"), ("0002_c", 3, "c")]);
        assert_eq!(times(baseline(&folder, &verdict(&folder, &[]), "0001_b")), [1, 2]);
        assert_eq!(times(baseline(&folder, &verdict(&folder, &[row(4, "b", 2)]), "0002_c")), [1, 3]);
        assert!(times(baseline(&folder, &verdict(&folder, &[row(4, "a", 1)]), "0000_a")).is_empty());
        assert_eq!(baseline(&folder, &verdict(&folder, &[]), "x").unwrap_err().kind(), ErrorKind::NotFound);
        let orphan = baseline(&folder, &verdict(&folder, &[row(4, "x", 9)]), "0001_b").unwrap_err();
        assert!(orphan.message().contains("is of no migration"), "{orphan}");
    }

    #[test]
    fn nothing_is_written_into_a_table_that_must_be_mended_first() {
        let old = folder(Format::Journal, &[("0000_a", 1, "a"), ("0001_b", 2, "b")]);
        let null = TrackingRow { created_at: None, ..row(1, "a", 1) };
        assert!(baseline(&old, &verdict(&old, &[null]), "0001_b").is_err());
        let future = folder(Format::Journal, &[("0000_a", 99_000_000, "a")]);
        assert!(baseline(&future, &verdict(&future, &[]), "0000_a").is_err());
        let new = folder(Format::Folders, &[("20231114221320_a", 0, "a")]);
        let classic =
            classify(&new, TableVersion::Classic, &[], &[], Timestamp::from_millisecond(BASE).unwrap());
        assert!(baseline(&new, &classic, "20231114221320_a").is_err());
    }

    #[test]
    fn the_new_line_writes_names() {
        let folder = folder(Format::Folders, &[("20231114221320_a", 0, "a")]);
        let rows = baseline(&folder, &verdict(&folder, &[]), "20231114221320_a").unwrap();
        assert_eq!(
            rows,
            [NewRow { hash: hash("a"), created_at: BASE, name: Some("20231114221320_a".to_owned()) }]
        );
    }

    #[test]
    fn a_repair_changes_what_is_asked_for_and_nothing_else() {
        let folder = folder(
            Format::Journal,
            &[("0000_a", 1, "a\n"), ("0001_b", 2, "now"), ("0002_c", 9, "c"), ("0003_d", 4, "d")],
        );
        let rows = [
            row(1, "a\r\n", 1),
            row(2, "then", 2),
            row(3, "c", 3),
            TrackingRow { created_at: None, ..row(4, "d", 4) },
            row(5, "then", 2),
        ];
        let found = verdict(&folder, &rows);
        let with = |options: RepairOptions| {
            let repairs = repair(&folder, &found, &rows, options);
            repairs.into_iter().map(|repair| (repair.row.id, repair.change)).collect::<Vec<_>>()
        };
        let set = |hash: String, at: i64| RowChange::Set(NewRow { hash, created_at: BASE + at, name: None });
        let none = RepairOptions::default();
        assert_eq!(with(none), []);
        assert_eq!(with(RepairOptions { line_endings: true, ..none }), [(1, set(hash("a\n"), 1))]);
        assert_eq!(
            with(RepairOptions { edited: true, ..none }),
            [(1, set(hash("a\n"), 1)), (2, set(hash("now"), 2))]
        );
        assert_eq!(with(RepairOptions { retimed: true, ..none }), [(3, set(hash("c"), 9))]);
        assert_eq!(with(RepairOptions { nulls: true, ..none }), [(4, set(hash("d"), 4))]);
        assert_eq!(with(RepairOptions { duplicates: true, ..none }), [(5, RowChange::Delete)]);

        // After all of it nothing is left to repair.
        let all =
            RepairOptions { edited: true, line_endings: true, retimed: true, nulls: true, duplicates: true };
        let mut mended = rows.to_vec();
        for repair in repair(&folder, &found, &rows, all) {
            match repair.change {
                RowChange::Delete => mended.retain(|row| row.id != repair.row.id),
                RowChange::Set(new) => {
                    let row = mended.iter_mut().find(|row| row.id == repair.row.id).unwrap();
                    (row.hash, row.created_at, row.name) = (new.hash, Some(new.created_at), new.name);
                }
            }
        }
        let after = verdict(&folder, &mended);
        assert!(after.entries.iter().all(|entry| entry.state == EntryState::Applied), "{after:?}");
        assert_eq!(repair(&folder, &after, &mended, all), []);
    }
}
