//! Whether Drizzle 1.0 could take a classic table over, and what it would write there.
//!
//! Its rule, exactly: rows by `id`; `created_at` cut to whole seconds; the only entry of that second, whatever its hash; of several the one with the
//! row's hash; of none the one with the row's hash; a row that matches nothing ends it all. Matched rows get the entry's name and no
//! `applied_at`. (`upToV1` of drizzle-orm 1.0.0-rc.5; the names are those of `drizzle-kit up`.)

use std::collections::{BTreeMap, BTreeSet};

use mainstay_model::Timestamp;
use serde::{Deserialize, Serialize};

use crate::collate;
use crate::folder::{Folder, Format, Migration};
use crate::tracking::TrackingRow;

/// What the take-over would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// What each row would become, by `id`.
    pub matches: Vec<RowMatch>,
    /// Rows that match nothing; any ends the take-over.
    pub unmatched: Vec<i64>,
    /// What would go through and is not right, or stands in the way: one factual line in lower case each.
    pub problems: Vec<String>,
    /// Entries that Drizzle 1.0 would apply right after, by tag; for a folder of the 0.x line, after `drizzle-kit up`.
    pub would_apply: Vec<String>,
}

/// A row and the entry that it is taken for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowMatch {
    /// The row's `id`.
    pub row: i64,
    /// The entry's tag.
    pub tag: String,
    /// The name that is written: the tag in a folder of the 1.0 line, what `drizzle-kit up` makes of it in one of the 0.x line.
    pub name: String,
    /// The hashes differ: it was matched by its second alone.
    pub is_edited: bool,
}

impl Readiness {
    /// Whether the take-over goes through and means what it should.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.problems.is_empty()
    }
}

/// What taking the table over would do, for a folder of either format (for the 0.x line: as `drizzle-kit up` would name its folders).
#[must_use]
pub fn readiness(folder: &Folder, rows: &[TrackingRow]) -> Readiness {
    let mut rows: Vec<&TrackingRow> = rows.iter().collect();
    rows.sort_by_key(|row| row.id);
    take_over(folder, &rows)
}

/// An entry as Drizzle 1.0 sees it.
struct Local<'a> {
    migration: &'a Migration,
    name: String,
    milliseconds: i64,
}

/// As [`readiness`], of rows that stand by `id`.
pub(crate) fn take_over(folder: &Folder, rows: &[&TrackingRow]) -> Readiness {
    let locals: Vec<Local<'_>> = folder.migrations.iter().map(|found| local(found, folder.format)).collect();
    let mut sorted: Vec<&Local<'_>> = locals.iter().collect();
    sorted.sort_by(|one, other| {
        one.milliseconds.cmp(&other.milliseconds).then_with(|| collate::compare(&one.name, &other.name))
    });
    let mut by_second: BTreeMap<i64, Vec<&Local<'_>>> = BTreeMap::new();
    let mut by_hash: BTreeMap<&str, &Local<'_>> = BTreeMap::new();
    for local in sorted {
        by_second.entry(local.milliseconds).or_default().push(local);
        by_hash.insert(&local.migration.hash, local);
    }
    let (mut matches, mut unmatched) = (Vec::new(), Vec::new());
    for row in rows {
        let candidates = cut(row.created_at).and_then(|second| by_second.get(&second));
        let found = match candidates.map(Vec::as_slice) {
            Some([only]) => Some(*only),
            Some(several) => several.iter().copied().find(|local| local.migration.hash == row.hash),
            None => by_hash.get(row.hash.as_str()).copied(),
        };
        match found {
            Some(local) => matches.push(RowMatch {
                row: row.id,
                tag: local.migration.tag.clone(),
                name: local.name.clone(),
                is_edited: local.migration.hash != row.hash,
            }),
            None => unmatched.push(row.id),
        }
    }
    let taken: BTreeSet<&str> = matches.iter().map(|found| found.tag.as_str()).collect();
    let is_open = |local: &&Local<'_>| !taken.contains(local.migration.tag.as_str());
    let would_apply = locals.iter().filter(is_open).map(|local| local.migration.tag.clone()).collect();
    let problems = [
        unmatched
            .iter()
            .map(|row| format!("row {row} matches no migration, neither by its second nor by its hash"))
            .collect(),
        taken_twice(&matches),
        if folder.format == Format::Journal { of_names(&locals) } else { Vec::new() },
        late(&locals, &taken),
    ]
    .concat();
    Readiness { matches, unmatched, problems, would_apply }
}

fn local(migration: &Migration, format: Format) -> Local<'_> {
    match format {
        Format::Folders => {
            Local { migration, name: migration.tag.clone(), milliseconds: migration.created_at }
        }
        Format::Journal => Local {
            migration,
            name: name_of(migration),
            milliseconds: migration.created_at.div_euclid(1_000).saturating_mul(1_000),
        },
    }
}

/// The folder that `drizzle-kit up` makes of an entry: the second of its `when`, and its tag without the prefix.
fn name_of(migration: &Migration) -> String {
    let rest = migration.tag.split_once('_').map_or("", |(_, rest)| rest);
    let stamp =
        Timestamp::from_millisecond(migration.created_at).map(|at| at.strftime("%Y%m%d%H%M%S").to_string());
    format!("{}_{rest}", stamp.unwrap_or_else(|_| migration.created_at.to_string()))
}

/// The second of a row as Drizzle cuts it: the last three characters of the number become zeros.
fn cut(created_at: Option<i64>) -> Option<i64> {
    let text = created_at?.to_string();
    let seconds = text.get(..text.len().saturating_sub(3)).unwrap_or("");
    if matches!(seconds, "" | "-") { Some(0) } else { seconds.parse::<i64>().ok()?.checked_mul(1_000) }
}

fn taken_twice(matches: &[RowMatch]) -> Vec<String> {
    let mut rows: BTreeMap<&str, i64> = BTreeMap::new();
    let mut problems = Vec::new();
    for found in matches {
        match rows.get(found.tag.as_str()) {
            Some(first) => {
                problems.push(format!("rows {first} and {} would both become {}", found.row, found.tag))
            }
            None => {
                rows.insert(&found.tag, found.row);
            }
        }
    }
    problems
}

/// Names that `drizzle-kit up` would make twice, or sort otherwise than the journal.
fn of_names(locals: &[Local<'_>]) -> Vec<String> {
    let mut problems = Vec::new();
    for pair in locals.windows(2) {
        let [first, second] = pair else { continue };
        let (one, other) = (&first.migration.tag, &second.migration.tag);
        match collate::compare(&first.name, &second.name) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => {
                problems.push(format!("{one} and {other} would both become {}", second.name))
            }
            std::cmp::Ordering::Greater => {
                problems.push(format!("{other} would become {}, and stand before {one}", second.name));
            }
        }
    }
    problems
}

/// Entries without a row that stand before one that has a row: Drizzle 1.0 applies them, though 0.x never did.
fn late(locals: &[Local<'_>], taken: &BTreeSet<&str>) -> Vec<String> {
    let is_taken = |local: &Local<'_>| taken.contains(local.migration.tag.as_str());
    let last = locals.iter().rposition(is_taken).unwrap_or(0);
    let before = locals.iter().take(last).filter(|local| !is_taken(local));
    before
        .map(|local| {
            format!(
                "{} was passed over, and drizzle 1.0 would apply it behind later ones",
                local.migration.tag
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: i64 = 1_700_000_000_000;

    fn migration(tag: &str, created_at: i64, text: &str) -> Migration {
        Migration::new(tag, format!("{tag}.sql"), created_at, text)
    }

    fn folder(format: Format, migrations: Vec<Migration>) -> Folder {
        Folder { format, migrations, notes: Vec::new() }
    }

    fn row(id: i64, text: &str, created_at: impl Into<Option<i64>>) -> TrackingRow {
        let hash = crate::hash::hash(text);
        TrackingRow { id, hash, created_at: created_at.into(), name: None, applied_at: None }
    }

    fn pairs(found: &Readiness) -> Vec<(i64, &str, bool)> {
        found.matches.iter().map(|found| (found.row, found.tag.as_str(), found.is_edited)).collect()
    }

    #[test]
    fn rows_are_matched_as_drizzle_matches_them() {
        let folder = folder(
            Format::Folders,
            vec![
                migration("20231114221320_a", BASE, "a"),
                migration("20231114221321_b", BASE + 1_000, "b"),
                migration("20231114221321_c", BASE + 1_000, "c"),
                migration("20231114221325_d", BASE + 5_000, "d"),
            ],
        );
        // The only one of its second, whatever the hash; of several by hash; of none by hash.
        let found = readiness(
            &folder,
            &[
                row(4, "d", BASE + 99_000),
                row(1, "changed", BASE + 999),
                row(2, "c", BASE + 1_500),
                row(3, "b", BASE + 1_999),
            ],
        );
        assert_eq!(
            pairs(&found),
            [
                (1, "20231114221320_a", true),
                (2, "20231114221321_c", false),
                (3, "20231114221321_b", false),
                (4, "20231114221325_d", false),
            ]
        );
        assert!(found.is_ready() && found.would_apply.is_empty(), "{found:?}");
    }

    #[test]
    fn what_matches_nothing_or_one_thing_twice_is_told() {
        let folder = folder(
            Format::Folders,
            vec![
                migration("20231114221320_a", BASE, "a"),
                migration("20231114221321_b", BASE + 1_000, "b"),
                migration("20231114221321_c", BASE + 1_000, "c"),
            ],
        );
        let found = readiness(
            &folder,
            &[
                row(1, "x", BASE + 1_000),
                row(2, "x", BASE + 7_000),
                row(3, "c", None),
                row(4, "c", BASE + 1_000),
            ],
        );
        assert_eq!(found.unmatched, [1, 2]);
        assert_eq!(pairs(&found), [(3, "20231114221321_c", false), (4, "20231114221321_c", false)]);
        assert_eq!(
            found.problems,
            [
                "row 1 matches no migration, neither by its second nor by its hash",
                "row 2 matches no migration, neither by its second nor by its hash",
                "rows 3 and 4 would both become 20231114221321_c",
                "20231114221320_a was passed over, and drizzle 1.0 would apply it behind later ones",
                "20231114221321_b was passed over, and drizzle 1.0 would apply it behind later ones",
            ]
        );
        assert_eq!(found.would_apply, ["20231114221320_a", "20231114221321_b"]);
    }

    #[test]
    fn of_equal_texts_the_last_is_found_by_hash() {
        let folder = folder(
            Format::Folders,
            vec![migration("20231114221321_b", BASE + 1_000, ""), migration("20231114221320_a", BASE, "")],
        );
        assert_eq!(
            pairs(&readiness(&folder, &[row(1, "", BASE + 50_000)])),
            [(1, "20231114221321_b", false)]
        );
    }

    #[test]
    fn a_journal_is_seen_as_it_would_be_converted() {
        let entries = folder(
            Format::Journal,
            vec![
                migration("0000_first_one", BASE + 123, "a"),
                migration("0001_second", BASE + 999, "b"),
                migration("0002_early", BASE - 1_000, "c"),
                migration("0003_early", BASE - 500, "d"),
            ],
        );
        let found = readiness(&entries, &[row(1, "a", BASE + 123), row(2, "b", BASE + 999)]);
        let names: Vec<_> = found.matches.iter().map(|found| found.name.as_str()).collect();
        assert_eq!(names, ["20231114221320_first_one", "20231114221320_second"]);
        assert_eq!(
            found.problems,
            [
                "0002_early would become 20231114221319_early, and stand before 0001_second",
                "0002_early and 0003_early would both become 20231114221319_early",
            ]
        );
        assert_eq!(found.would_apply, ["0002_early", "0003_early"]);
    }

    #[test]
    fn seconds_are_cut_as_text_is() {
        let table = [
            (Some(1_700_000_000_999), Some(1_700_000_000_000)),
            (Some(12), Some(0)),
            (Some(0), Some(0)),
            (Some(-12), Some(0)),
            (Some(-1_234), Some(-1_000)),
            (Some(i64::MAX), Some(i64::MAX / 1_000 * 1_000)),
            (None, None),
        ];
        for (created_at, expected) in table {
            assert_eq!(cut(created_at), expected, "{created_at:?}");
        }
    }
}
