//! Every entry against every row: what is applied, what was changed since, what would never run, and what may be applied.
//!
//! Drizzle decides by one number, the latest `created_at`, or by names alone; this module never does. A row is matched by hash and `when`, then by
//! `when`, then by hash, each row once; what then has no partner on either side has a state of its own. Everything here is decided from values;
//! the time is a parameter.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mainstay_model::{Error, ErrorKind, Timestamp};
use serde::{Deserialize, Serialize};

use crate::folder::{Folder, FolderNote, Format, Migration};
use crate::hash::HashForms;
use crate::readiness::take_over;
use crate::tracking::{TableVersion, TrackingRow, Watermark};

/// How far in the future a `when` may be before it counts as one: clocks of developers differ. Milliseconds.
const FUTURE_TOLERANCE_MS: i64 = 10 * 60 * 1_000;

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
    /// Drizzle's own migrator would apply it now, be that right or wrong.
    pub is_applied_by_drizzle: bool,
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
    let mut rows: Vec<&TrackingRow> = rows.iter().collect();
    rows.sort_by_key(|row| row.id);
    let world = World {
        folder,
        table,
        matching: matching(folder, table, &rows),
        watermark: Watermark::of(&rows),
        latest: latest(&rows),
        rows,
        half_applied: half_applied.iter().map(String::as_str).collect(),
        future: now.as_millisecond().saturating_add(FUTURE_TOLERANCE_MS),
    };
    let entries: Vec<EntryVerdict> =
        (0..folder.migrations.len()).filter_map(|index| world.entry(index)).collect();
    let rows: Vec<RowVerdict> = (0..world.rows.len()).filter_map(|at| world.row(at)).collect();
    let notices = world.notices(&entries, &rows);
    Verdict { format: folder.format, table, watermark: world.watermark, entries, rows, notices }
}

/// All that the states are told from.
struct World<'a> {
    folder: &'a Folder,
    table: TableVersion,
    /// By `id`.
    rows: Vec<&'a TrackingRow>,
    matching: Matching,
    watermark: Watermark,
    /// The row with the latest `created_at`, and that; rows without one do not count.
    latest: Option<(usize, i64)>,
    half_applied: BTreeSet<&'a str>,
    /// Later than this is the future.
    future: i64,
}

fn latest(rows: &[&TrackingRow]) -> Option<(usize, i64)> {
    let dated = rows.iter().enumerate().filter_map(|(at, row)| Some((at, row.created_at?)));
    dated.min_by_key(|(at, created_at)| (Reverse(*created_at), *at))
}

impl World<'_> {
    fn entry(&self, index: usize) -> Option<EntryVerdict> {
        let migration = self.folder.migrations.get(index)?;
        let row = self.matching.row_of(index).and_then(|at| self.rows.get(at)).copied();
        let state = match row {
            Some(row) => self.state_of_pair(migration, row),
            None => self.state_without_row(index, migration),
        };
        Some(EntryVerdict {
            index,
            tag: migration.tag.clone(),
            created_at: migration.created_at,
            row: row.map(|row| row.id),
            reaction: state.reaction(),
            is_applied_by_drizzle: self.is_applied_by_drizzle(index, migration),
            message: state.message(migration, row),
            state,
        })
    }

    fn state_of_pair(&self, migration: &Migration, row: &TrackingRow) -> EntryState {
        let is_same_text = migration.hash == row.hash;
        let is_same_key = match (self.folder.format, self.table) {
            (Format::Journal, _) => row.created_at == Some(migration.created_at),
            (Format::Folders, TableVersion::Named) => row.name.as_deref() == Some(migration.tag.as_str()),
            // The take-over matches as it does; what it makes of the row is right from then on.
            (Format::Folders, TableVersion::Classic | TableVersion::Absent) => row.created_at.is_some(),
        };
        match (is_same_text, is_same_key) {
            (true, true) => EntryState::Applied,
            (true, false) => {
                EntryState::Retimed { row_created_at: row.created_at, row_name: row.name.clone() }
            }
            (false, _) => {
                EntryState::Edited { line_endings_only: HashForms::of(&migration.text).contains(&row.hash) }
            }
        }
    }

    fn state_without_row(&self, index: usize, migration: &Migration) -> EntryState {
        if self.half_applied.contains(migration.tag.as_str()) {
            return EntryState::HalfApplied;
        }
        match (self.folder.format, self.latest) {
            (Format::Journal, Some((at, created_at))) if migration.created_at <= created_at => {
                EntryState::Skipped {
                    blocking_row: self.rows.get(at).map_or(0, |row| row.id),
                    blocking_created_at: created_at,
                    blocking_tag: self.matching.entry_of(at).and_then(|index| self.tag(index)),
                }
            }
            (Format::Journal, _) => EntryState::Pending { is_late: false },
            (Format::Folders, _) => {
                EntryState::Pending { is_late: self.matching.last_entry.is_some_and(|last| index < last) }
            }
        }
    }

    fn tag(&self, index: usize) -> Option<String> {
        self.folder.migrations.get(index).map(|migration| migration.tag.clone())
    }

    /// What Drizzle decides: by the first row of its order alone, or by names alone.
    fn is_applied_by_drizzle(&self, index: usize, migration: &Migration) -> bool {
        match (self.folder.format, self.table) {
            (Format::Journal, _) => match self.watermark {
                Watermark::None => true,
                // `Number(null)` is 0.
                Watermark::Null { .. } => migration.created_at > 0,
                Watermark::At { created_at, .. } => migration.created_at > created_at,
            },
            (Format::Folders, TableVersion::Absent) => true,
            (Format::Folders, TableVersion::Classic) => {
                self.matching.row_of(index).is_none() && self.matching.orphan_count(self.rows.len()) == 0
            }
            (Format::Folders, TableVersion::Named) => !self.matching.names.contains(migration.tag.as_str()),
        }
    }

    fn row(&self, at: usize) -> Option<RowVerdict> {
        let row = self.rows.get(at)?;
        let tag = self.matching.entry_of(at).and_then(|index| self.tag(index));
        let state = match (self.matching.first_of(at), tag) {
            (Some(first), _) => RowState::Duplicate { of: self.rows.get(first)?.id },
            (None, tag) if row.created_at.is_none() && self.folder.format == Format::Journal => {
                RowState::NullCreatedAt { tag }
            }
            (None, tag) if row.name.is_none() && self.table == TableVersion::Named => {
                RowState::NullName { tag }
            }
            (None, Some(tag)) => RowState::Matched { tag },
            (None, None) => RowState::Orphan,
        };
        Some(RowVerdict { row: row.id, reaction: state.reaction(), message: state.message(row), state })
    }

    fn notices(&self, entries: &[EntryVerdict], rows: &[RowVerdict]) -> Vec<Notice> {
        let mut notices = Vec::new();
        notices.extend(self.about_versions());
        notices.extend(self.about_the_future(entries, rows));
        notices.extend(about_rows(rows));
        notices.extend(out_of_order(entries));
        notices.extend(self.folder.notes.iter().map(|note| about_folder(note, entries)));
        notices
    }

    fn about_versions(&self) -> Option<Notice> {
        match (self.folder.format, self.table) {
            (Format::Journal, TableVersion::Named) => Some(Notice {
                kind: NoticeKind::OldFolderNewTable,
                reaction: Reaction::Block,
                message: "the table is drizzle 1.0's, and the folder 0.x's: what is applied now has no name, and 1.0 applies it again"
                    .to_owned(),
                remedy: "Convert the folder with `drizzle-kit up`, or take the branch of which the table is.".to_owned(),
            }),
            (Format::Folders, TableVersion::Classic) => Some(self.about_taking_over()),
            _ => None,
        }
    }

    fn about_taking_over(&self) -> Notice {
        let readiness = take_over(self.folder, &self.rows);
        match readiness.problems.first() {
            None => Notice {
                kind: NoticeKind::TableToUpgrade,
                reaction: Reaction::Warn,
                message:
                    "the table is drizzle 0.x's, and the folder 1.0's: the next run gives each row its name"
                        .to_owned(),
                remedy: "Look at it first: `mainstay sql verify --drizzle-v1`.".to_owned(),
            },
            Some(problem) => Notice {
                kind: NoticeKind::NotReady,
                reaction: Reaction::Block,
                message: format!("the table cannot be taken over by drizzle 1.0: {problem}"),
                remedy: "See all of it with `mainstay sql verify --drizzle-v1`.".to_owned(),
            },
        }
    }

    fn about_the_future(&self, entries: &[EntryVerdict], rows: &[RowVerdict]) -> Vec<Notice> {
        if self.folder.format == Format::Folders {
            return Vec::new();
        }
        let poisoned = self.latest.filter(|(_, created_at)| *created_at > self.future).map(|(at, created_at)| {
            let id = self.rows.get(at).map_or(0, |row| row.id);
            let is_of_nobody = |row: &RowVerdict| row.row == id && matches!(row.state, RowState::Orphan);
            Notice {
                kind: NoticeKind::PoisonedWatermark,
                reaction: Reaction::Fail,
                message: format!(
                    "row {id} is of the future, {}: drizzle skips everything that is made before then",
                    moment(created_at)
                ),
                remedy: match rows.iter().any(is_of_nobody) {
                    true => format!("No entry has it: find out whose it is, and delete it by hand (`DELETE … WHERE id = {id}`)."),
                    false => "Put the true time into `when` of its entry, then `mainstay sql repair --retimed`.".to_owned(),
                },
            }
        });
        let open = entries.iter().filter(|entry| entry.row.is_none() && entry.created_at > self.future);
        let future = open.map(|entry| Notice {
            kind: NoticeKind::FutureEntry,
            reaction: Reaction::Fail,
            message: format!(
                "{} is of the future, {}: applied, it would make drizzle skip everything that is made before then",
                entry.tag,
                moment(entry.created_at)
            ),
            remedy: "Put the true time into `when` of its entry in meta/_journal.json.".to_owned(),
        });
        poisoned.into_iter().chain(future).collect()
    }
}

/// Which row belongs to which entry.
#[derive(Debug, Default)]
struct Matching {
    row_of: BTreeMap<usize, usize>,
    entry_of: BTreeMap<usize, usize>,
    /// Rows that repeat an earlier one, and which.
    first_of: BTreeMap<usize, usize>,
    /// The names in the table.
    names: BTreeSet<String>,
    /// The last entry, in the folder's order, that has a row.
    last_entry: Option<usize>,
}

impl Matching {
    fn row_of(&self, index: usize) -> Option<usize> {
        self.row_of.get(&index).copied()
    }

    fn entry_of(&self, at: usize) -> Option<usize> {
        self.entry_of.get(&at).copied()
    }

    fn first_of(&self, at: usize) -> Option<usize> {
        self.first_of.get(&at).copied()
    }

    fn pair(&mut self, index: usize, at: usize) {
        self.row_of.insert(index, at);
        self.entry_of.insert(at, index);
        self.last_entry = self.last_entry.max(Some(index));
    }

    fn is_free(&self, at: usize) -> bool {
        !self.entry_of.contains_key(&at) && !self.first_of.contains_key(&at)
    }

    /// Rows that belong to nothing and repeat nothing.
    fn orphan_count(&self, row_count: usize) -> usize {
        row_count - self.entry_of.len() - self.first_of.len()
    }
}

fn matching(folder: &Folder, table: TableVersion, rows: &[&TrackingRow]) -> Matching {
    let mut matching = match (folder.format, table) {
        (Format::Journal, _) => by_hash_and_when(folder, rows),
        (Format::Folders, TableVersion::Named) => by_name(folder, rows),
        (Format::Folders, TableVersion::Classic | TableVersion::Absent) => by_take_over(folder, rows),
    };
    matching.names = rows.iter().filter_map(|row| row.name.clone()).collect();
    matching
}

/// The 0.x line: hash and `when`; then `when`, for an entry of which no row has the text; then the hash.
fn by_hash_and_when(folder: &Folder, rows: &[&TrackingRow]) -> Matching {
    let mut matching = Matching::default();
    let exact = entries_by(folder, |migration| (migration.hash.clone(), migration.created_at));
    pair_exactly(&mut matching, rows, exact, |row| Some((row.hash.clone(), row.created_at?)));

    let by_hash = free_rows_by(&matching, rows, |row| Some(row.hash.clone()));
    let by_when = free_rows_by(&matching, rows, |row| row.created_at);
    let alone = |index: &usize, matching: &Matching| matching.row_of(*index).is_none();
    for (index, migration) in folder.migrations.iter().enumerate() {
        if alone(&index, &matching) && !by_hash.contains_key(&migration.hash) {
            pair_first_free(&mut matching, index, by_when.get(&migration.created_at));
        }
    }
    for (index, migration) in folder.migrations.iter().enumerate() {
        if alone(&index, &matching) {
            pair_first_free(&mut matching, index, by_hash.get(&migration.hash));
        }
    }
    // What has its text in a row that another entry took has its time left.
    for (index, migration) in folder.migrations.iter().enumerate() {
        if alone(&index, &matching) {
            pair_first_free(&mut matching, index, by_when.get(&migration.created_at));
        }
    }
    matching
}

/// The 1.0 line: names; then, for rows without a name or with one that no folder has, the hash.
fn by_name(folder: &Folder, rows: &[&TrackingRow]) -> Matching {
    let mut matching = Matching::default();
    let named = entries_by(folder, |migration| migration.tag.clone());
    pair_exactly(&mut matching, rows, named, |row| row.name.clone());
    let by_hash = free_rows_by(&matching, rows, |row| Some(row.hash.clone()));
    for (index, migration) in folder.migrations.iter().enumerate() {
        if matching.row_of(index).is_none() {
            pair_first_free(&mut matching, index, by_hash.get(&migration.hash));
        }
    }
    matching
}

/// A table that Drizzle 1.0 has yet to take over: as it would.
fn by_take_over(folder: &Folder, rows: &[&TrackingRow]) -> Matching {
    let mut matching = Matching::default();
    let index_of: BTreeMap<&str, usize> = folder
        .migrations
        .iter()
        .enumerate()
        .map(|(index, migration)| (migration.tag.as_str(), index))
        .collect();
    let at_of: BTreeMap<i64, usize> = rows.iter().enumerate().map(|(at, row)| (row.id, at)).collect();
    for found in take_over(folder, rows).matches {
        let (Some(index), Some(at)) = (index_of.get(found.tag.as_str()), at_of.get(&found.row)) else {
            continue;
        };
        match matching.row_of(*index) {
            Some(first) => {
                matching.first_of.insert(*at, first);
            }
            None => matching.pair(*index, *at),
        }
    }
    matching
}

fn entries_by<K: Ord>(folder: &Folder, key: impl Fn(&Migration) -> K) -> BTreeMap<K, VecDeque<usize>> {
    let mut map: BTreeMap<K, VecDeque<usize>> = BTreeMap::new();
    for (index, migration) in folder.migrations.iter().enumerate() {
        map.entry(key(migration)).or_default().push_back(index);
    }
    map
}

/// Gives each entry the first row of its key; further rows of a key repeat the first, whether it belongs to an entry or to none.
fn pair_exactly<K: Ord>(
    matching: &mut Matching,
    rows: &[&TrackingRow],
    mut entries: BTreeMap<K, VecDeque<usize>>,
    key: impl Fn(&TrackingRow) -> Option<K>,
) {
    let mut firsts: BTreeMap<K, usize> = BTreeMap::new();
    for (at, row) in rows.iter().enumerate() {
        let Some(key) = key(row) else { continue };
        match (entries.get_mut(&key).and_then(VecDeque::pop_front), firsts.get(&key)) {
            (Some(index), _) => matching.pair(index, at),
            (None, Some(first)) => {
                matching.first_of.insert(at, *first);
            }
            (None, None) => {}
        }
        firsts.entry(key).or_insert(at);
    }
}

fn free_rows_by<K: Ord>(
    matching: &Matching,
    rows: &[&TrackingRow],
    key: impl Fn(&TrackingRow) -> Option<K>,
) -> BTreeMap<K, Vec<usize>> {
    let mut map: BTreeMap<K, Vec<usize>> = BTreeMap::new();
    for (at, row) in rows.iter().enumerate() {
        if let (true, Some(key)) = (matching.is_free(at), key(row)) {
            map.entry(key).or_default().push(at);
        }
    }
    map
}

fn pair_first_free(matching: &mut Matching, index: usize, rows: Option<&Vec<usize>>) {
    if let Some(at) = rows.into_iter().flatten().copied().find(|at| matching.is_free(*at)) {
        matching.pair(index, at);
    }
}

impl EntryState {
    /// What is to be done.
    #[must_use]
    pub fn reaction(&self) -> Reaction {
        match self {
            Self::Applied | Self::Pending { is_late: false } => Reaction::Ok,
            Self::Edited { line_endings_only: true }
            | Self::Retimed { .. }
            | Self::Pending { is_late: true }
            | Self::HalfApplied => Reaction::Warn,
            Self::Edited { line_endings_only: false } | Self::Skipped { .. } => Reaction::Fail,
        }
    }

    /// The word for a column of states.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Edited { line_endings_only: true } => "line endings",
            Self::Edited { line_endings_only: false } => "edited",
            Self::Retimed { .. } => "retimed",
            Self::Pending { .. } => "pending",
            Self::Skipped { .. } => "skipped",
            Self::HalfApplied => "half applied",
        }
    }

    fn message(&self, migration: &Migration, row: Option<&TrackingRow>) -> String {
        let tag = &migration.tag;
        let row_id = row.map_or(0, |row| row.id);
        match self {
            Self::Applied => format!("{tag} is applied, row {row_id}"),
            Self::Edited { line_endings_only: true } => {
                format!("{tag} has other ends of lines than when it was applied, row {row_id}")
            }
            Self::Edited { line_endings_only: false } => format!(
                "{tag} was changed after it was applied: its hash is {}, that of row {row_id} {}",
                short(&migration.hash),
                short(row.map_or("", |row| &row.hash))
            ),
            Self::Retimed { row_name: Some(name), .. } => {
                format!("{tag} is applied as {name}, row {row_id}: drizzle 1.0 would apply it again")
            }
            Self::Retimed { row_created_at: Some(created_at), .. } => format!(
                "{tag} is applied, and its `when` is not that of row {row_id}: {}, not {}",
                migration.created_at, created_at
            ),
            Self::Retimed { .. } => format!("{tag} is applied, and row {row_id} does not say when"),
            Self::Pending { is_late: false } => format!("{tag} is not applied yet"),
            Self::Pending { is_late: true } => {
                format!("{tag} is not applied yet, and stands before ones that are; drizzle 1.0 applies it")
            }
            Self::Skipped { blocking_row, blocking_created_at, blocking_tag } => {
                let of = blocking_tag.as_ref().map_or_else(String::new, |tag| format!(" ({tag})"));
                format!(
                    "{tag} is never applied by drizzle: its `when` {} is not later than {blocking_created_at} of row {blocking_row}{of}",
                    migration.created_at
                )
            }
            Self::HalfApplied => {
                format!("{tag} is applied in part: it goes on at its first step that is not recorded")
            }
        }
    }
}

impl RowState {
    /// What is to be done.
    #[must_use]
    pub fn reaction(&self) -> Reaction {
        match self {
            Self::Matched { .. } => Reaction::Ok,
            Self::Duplicate { .. } | Self::Orphan => Reaction::Warn,
            Self::NullName { .. } => Reaction::Fail,
            Self::NullCreatedAt { .. } => Reaction::Block,
        }
    }

    fn message(&self, row: &TrackingRow) -> String {
        let id = row.id;
        let tag =
            |tag: &Option<String>| tag.as_ref().map_or_else(String::new, |tag| format!(", and is of {tag}"));
        match self {
            Self::Matched { tag } => format!("row {id} is of {tag}"),
            Self::Duplicate { of } => format!("row {id} repeats row {of}: two runs may both have applied it"),
            Self::NullCreatedAt { tag: of } => {
                format!("row {id} has no created_at{}: drizzle 0.x would apply everything again", tag(of))
            }
            Self::NullName { tag: of } => {
                format!("row {id} has no name{}: drizzle 1.0 would apply its migration again", tag(of))
            }
            Self::Orphan => match (&row.name, row.created_at) {
                (Some(name), _) => format!("row {id} ({name}) is of no migration in the folder"),
                (None, Some(created_at)) => {
                    format!("row {id} of {} is of no migration in the folder", moment(created_at))
                }
                (None, None) => format!("row {id} is of no migration in the folder"),
            },
        }
    }
}

/// One notice for each kind of trouble that rows have.
fn about_rows(rows: &[RowVerdict]) -> Vec<Notice> {
    let ids = |is: fn(&RowState) -> bool| -> Vec<i64> {
        rows.iter().filter(|row| is(&row.state)).map(|row| row.row).collect()
    };
    let kinds = [
        (
            NoticeKind::NullRows,
            Reaction::Block,
            ids(|state| matches!(state, RowState::NullCreatedAt { tag: Some(_) })),
            "have no created_at, and sort before all others: drizzle 0.x would apply everything again",
            "Give them the time of their entries: `mainstay sql repair --nulls`.",
        ),
        (
            NoticeKind::NullRows,
            Reaction::Block,
            ids(|state| matches!(state, RowState::NullCreatedAt { tag: None })),
            "have no created_at and no hash of a file here, and sort before all others: drizzle 0.x would apply everything again",
            "Nothing says when they were applied: find out whose they are, and delete them by hand (`DELETE … WHERE id IN (…)`).",
        ),
        (
            NoticeKind::NullNames,
            Reaction::Fail,
            ids(|state| matches!(state, RowState::NullName { .. })),
            "have no name: drizzle 0.x wrote them after the table was taken over, and 1.0 would apply their migrations again",
            "Give them the names of their entries: `mainstay sql repair --nulls`.",
        ),
        (
            NoticeKind::DuplicateRows,
            Reaction::Warn,
            ids(|state| matches!(state, RowState::Duplicate { .. })),
            "repeat earlier ones: two runs raced, and what they changed may have been changed twice",
            "Look at what those migrations did, then `mainstay sql repair --duplicates`.",
        ),
        (
            NoticeKind::OrphanRows,
            Reaction::Warn,
            ids(|state| matches!(state, RowState::Orphan)),
            "are of no migration in the folder: of another branch, of a history that was squashed, or of another project",
            "Give each project a table of its own: `table` of [sql] in mainstay.toml, and `migrations.table` in drizzle.config.ts.",
        ),
    ];
    let found = kinds.into_iter().filter(|(_, _, ids, _, _)| !ids.is_empty());
    found
        .map(|(kind, reaction, ids, message, remedy)| Notice {
            kind,
            reaction,
            message: format!("rows {} {message}", listed(&ids)),
            remedy: remedy.to_owned(),
        })
        .collect()
}

/// Up to ten of them; how many more there are.
fn listed(ids: &[i64]) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<String> = ids.iter().take(SHOWN).map(ToString::to_string).collect();
    match ids.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Entries to apply of which one is not later than one before it.
fn out_of_order(entries: &[EntryVerdict]) -> Option<Notice> {
    let pending: Vec<&EntryVerdict> =
        entries.iter().filter(|entry| entry.state == EntryState::Pending { is_late: false }).collect();
    let (first, second) = pending.windows(2).find_map(|pair| match pair {
        [first, second] if second.created_at <= first.created_at => Some((first, second)),
        _ => None,
    })?;
    Some(Notice {
        kind: NoticeKind::PendingOutOfOrder,
        reaction: Reaction::Warn,
        message: format!(
            "{} is not later than {}, which is applied before it: a run that ends between the two makes drizzle skip it",
            second.tag, first.tag
        ),
        remedy: "Give the later entry a later `when` in meta/_journal.json before either is applied."
            .to_owned(),
    })
}

fn about_folder(note: &FolderNote, entries: &[EntryVerdict]) -> Notice {
    let is_settled =
        |tag: &String| entries.iter().any(|entry| entry.tag == *tag && entry.state == EntryState::Applied);
    let reaction = match note {
        FolderNote::SplitAnyway { .. } | FolderNote::EmptyFolder { .. } => Reaction::Ok,
        FolderNote::NotLater { tag, .. }
        | FolderNote::IndexGap { tag, .. }
        | FolderNote::PrefixMismatch { tag, .. }
            if is_settled(tag) =>
        {
            Reaction::Ok
        }
        _ => Reaction::Warn,
    };
    Notice { kind: NoticeKind::Folder, reaction, message: note.message(), remedy: note.remedy().to_owned() }
}

/// The first twelve digits of a hash.
fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

/// Milliseconds as a date, and as they stand where they are none.
pub(crate) fn moment(milliseconds: i64) -> String {
    Timestamp::from_millisecond(milliseconds).map_or_else(|_| milliseconds.to_string(), |at| at.to_string())
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
        if let Some(obstacle) = self.obstacle(options) {
            return Err(obstacle);
        }
        let wanted = self.entries.iter().filter(|entry| {
            matches!(
                entry.state,
                EntryState::Pending { .. } | EntryState::HalfApplied | EntryState::Skipped { .. }
            )
        });
        Ok(wanted.filter_map(|entry| folder.migrations.get(entry.index)).collect())
    }

    /// What stands in the way of applying anything: the worst first, in one error.
    fn obstacle(&self, options: ApplyOptions) -> Option<Error> {
        let skipped_hint =
            "apply it in its place with `mainstay sql apply --include-skipped`, or give it a later `when`";
        let edited_hint =
            "bring the file back as it was, or accept it as it is: `mainstay sql repair --edited`";
        let entries = self.entries.iter().filter_map(|entry| match entry.state {
            EntryState::Skipped { .. } if options.include_skipped => None,
            EntryState::Skipped { .. } => Some((entry.reaction, &entry.message, skipped_hint)),
            _ => Some((entry.reaction, &entry.message, edited_hint)),
        });
        let notices = self.notices.iter().filter_map(|notice| match notice.kind {
            NoticeKind::PoisonedWatermark if options.include_skipped => None,
            _ => Some((notice.reaction, &notice.message, notice.remedy.as_str())),
        });
        let mut all: Vec<_> =
            notices.chain(entries).filter(|(reaction, _, _)| *reaction >= Reaction::Fail).collect();
        all.sort_by_key(|(reaction, _, _)| Reverse(*reaction));
        let (_, message, hint) = all.first()?;
        let more = match all.len() - 1 {
            0 => String::new(),
            count => format!(" (and {count} more)"),
        };
        let error = Error::new(ErrorKind::Precondition, format!("{message}{more}"));
        Some(error.with_state("nothing was changed").with_hint(*hint))
    }

    /// The migrations that Drizzle's own migrator would apply now, in its order; for a word of what differs.
    #[must_use]
    pub fn drizzle_would_apply(&self) -> Vec<&EntryVerdict> {
        self.entries.iter().filter(|entry| entry.is_applied_by_drizzle).collect()
    }

    /// The entry of this tag.
    #[must_use]
    pub fn entry(&self, tag: &str) -> Option<&EntryVerdict> {
        self.entries.iter().find(|entry| entry.tag == tag)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    const DAY: i64 = 86_400_000;
    const BASE: i64 = 1_700_000_000_000;

    /// A migration whose text is its letter.
    fn entry(tag: &str, day: i64, text: &str) -> Migration {
        Migration::new(tag, format!("{tag}.sql"), BASE + day * DAY, text)
    }

    fn journal(migrations: Vec<Migration>) -> Folder {
        Folder { format: Format::Journal, migrations, notes: Vec::new() }
    }

    fn row(id: i64, text: &str, day: i64) -> TrackingRow {
        let hash = crate::hash::hash(text);
        TrackingRow { id, hash, created_at: Some(BASE + day * DAY), name: None, applied_at: None }
    }

    fn named(id: i64, text: &str, name: &str) -> TrackingRow {
        TrackingRow { name: Some(name.to_owned()), ..row(id, text, 0) }
    }

    fn now() -> Timestamp {
        Timestamp::from_millisecond(BASE + 100 * DAY).unwrap()
    }

    fn verdict(folder: &Folder, table: TableVersion, rows: &[TrackingRow]) -> Verdict {
        classify(folder, table, rows, &[], now())
    }

    /// Entry by entry: state, row, whether Drizzle would apply it.
    fn states(verdict: &Verdict) -> Vec<(&str, Option<i64>, bool)> {
        verdict
            .entries
            .iter()
            .map(|entry| (entry.state.name(), entry.row, entry.is_applied_by_drizzle))
            .collect()
    }

    fn row_states(verdict: &Verdict) -> Vec<(i64, RowState, Reaction)> {
        verdict.rows.iter().map(|row| (row.row, row.state.clone(), row.reaction)).collect()
    }

    fn kinds(verdict: &Verdict) -> Vec<(NoticeKind, Reaction)> {
        verdict.notices.iter().map(|notice| (notice.kind, notice.reaction)).collect()
    }

    fn matched(tag: &str) -> RowState {
        RowState::Matched { tag: tag.to_owned() }
    }

    fn tags(found: Result<Vec<&Migration>, Error>) -> Vec<String> {
        found.unwrap().into_iter().map(|migration| migration.tag.clone()).collect()
    }

    #[test]
    fn what_is_applied_and_what_is_pending() {
        let folder = journal(vec![entry("0000_a", 1, "a"), entry("0001_b", 2, "b"), entry("0002_c", 3, "c")]);
        let none = verdict(&folder, TableVersion::Absent, &[]);
        assert_eq!(
            states(&none),
            [("pending", None, true), ("pending", None, true), ("pending", None, true)]
        );
        assert_eq!(none.worst(), Reaction::Ok);

        let found = verdict(&folder, TableVersion::Classic, &[row(7, "b", 2), row(3, "a", 1)]);
        assert_eq!(
            states(&found),
            [("applied", Some(3), false), ("applied", Some(7), false), ("pending", None, true)]
        );
        assert_eq!(
            row_states(&found),
            [(3, matched("0000_a"), Reaction::Ok), (7, matched("0001_b"), Reaction::Ok)]
        );
        assert_eq!(found.entries[1].message, "0001_b is applied, row 7");
        assert_eq!(tags(found.to_apply(&folder, ApplyOptions::default())), ["0002_c"]);
    }

    #[test]
    fn an_edited_file_is_told_and_other_ends_of_lines_apart() {
        let folder = journal(vec![entry("0000_a", 1, "a\nb\n"), entry("0001_b", 2, "now")]);
        let found = verdict(&folder, TableVersion::Classic, &[row(1, "a\r\nb\r\n", 1), row(2, "then", 2)]);
        assert_eq!(states(&found), [("line endings", Some(1), false), ("edited", Some(2), false)]);
        assert_eq!(found.entries[0].reaction, Reaction::Warn);
        assert_eq!(found.entries[1].reaction, Reaction::Fail);
        assert!(
            found.entries[1].message.starts_with("0001_b was changed after it was applied: its hash is ")
        );
        let error = found.to_apply(&folder, ApplyOptions { include_skipped: true }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Precondition);
        assert!(error.hint().is_some_and(|hint| hint.contains("mainstay sql repair --edited")));
    }

    #[test]
    fn a_retimed_entry_is_known_by_its_text() {
        let folder = journal(vec![entry("0000_a", 1, "a"), entry("0001_b", 9, "b")]);
        let found = verdict(&folder, TableVersion::Classic, &[row(1, "a", 1), row(2, "b", 2)]);
        assert_eq!(states(&found), [("applied", Some(1), false), ("retimed", Some(2), true)]);
        assert_eq!(found.worst(), Reaction::Warn);
        assert!(tags(found.to_apply(&folder, ApplyOptions::default())).is_empty(), "it is applied already");
        assert_eq!(
            found.entries[1].message,
            format!(
                "0001_b is applied, and its `when` is not that of row 2: {}, not {}",
                BASE + 9 * DAY,
                BASE + 2 * DAY
            )
        );
    }

    #[test]
    fn a_skipped_entry_names_what_it_is_not_later_than() {
        let folder = journal(vec![
            entry("0000_a", 1, "a"),
            entry("0001_late", 2, "late"),
            entry("0001_b", 5, "b"),
            entry("0002_same", 5, "same"),
            entry("0003_c", 6, "c"),
        ]);
        let found = verdict(&folder, TableVersion::Classic, &[row(1, "a", 1), row(2, "b", 5)]);
        assert_eq!(
            states(&found),
            [
                ("applied", Some(1), false),
                ("skipped", None, false),
                ("applied", Some(2), false),
                ("skipped", None, false),
                ("pending", None, true),
            ]
        );
        assert_eq!(
            found.entries[1].state,
            EntryState::Skipped {
                blocking_row: 2,
                blocking_created_at: BASE + 5 * DAY,
                blocking_tag: Some("0001_b".to_owned()),
            }
        );
        assert!(found.entries[1].message.ends_with("of row 2 (0001_b)"), "{}", found.entries[1].message);
        let error = found.to_apply(&folder, ApplyOptions::default()).unwrap_err();
        assert!(error.message().ends_with("(and 1 more)"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("--include-skipped")));
        let all = tags(found.to_apply(&folder, ApplyOptions { include_skipped: true }));
        assert_eq!(all, ["0001_late", "0002_same", "0003_c"]);
        let drizzle: Vec<_> = found.drizzle_would_apply().iter().map(|entry| entry.tag.clone()).collect();
        assert_eq!(drizzle, ["0003_c"]);
    }

    #[test]
    fn a_watermark_of_the_future_is_told() {
        let folder =
            journal(vec![entry("0000_a", 1, "a"), entry("0001_b", 500, "b"), entry("0002_c", 3, "c")]);
        let found = verdict(&folder, TableVersion::Classic, &[row(1, "a", 1), row(2, "b", 500)]);
        assert_eq!(states(&found)[2], ("skipped", None, false));
        assert_eq!(kinds(&found), [(NoticeKind::PoisonedWatermark, Reaction::Fail)]);
        assert!(found.to_apply(&folder, ApplyOptions::default()).is_err());
        assert_eq!(tags(found.to_apply(&folder, ApplyOptions { include_skipped: true })), ["0002_c"]);
        assert!(found.notices[0].remedy.contains("repair --retimed"), "{:?}", found.notices);
        let of_nobody = verdict(&folder, TableVersion::Classic, &[row(1, "a", 1), row(9, "z", 600)]);
        assert!(of_nobody.notices[0].remedy.contains("WHERE id = 9"), "{:?}", of_nobody.notices);

        let open = verdict(&folder, TableVersion::Classic, &[row(1, "a", 1)]);
        assert_eq!(
            kinds(&open),
            [(NoticeKind::FutureEntry, Reaction::Fail), (NoticeKind::PendingOutOfOrder, Reaction::Warn)]
        );
        let error = open.to_apply(&folder, ApplyOptions { include_skipped: true }).unwrap_err();
        assert!(error.message().starts_with("0001_b is of the future, 2025-03-28T22:13:20Z"), "{error}");

        let soon =
            Migration { created_at: now().as_millisecond() + FUTURE_TOLERANCE_MS, ..entry("0000_a", 1, "a") };
        assert_eq!(verdict(&journal(vec![soon]), TableVersion::Absent, &[]).worst(), Reaction::Ok);
    }

    #[test]
    fn a_row_without_created_at_blocks_everything() {
        let folder = journal(vec![entry("0000_a", 1, "a"), entry("0001_b", 2, "b"), entry("0002_c", 3, "c")]);
        let null = TrackingRow { created_at: None, ..row(2, "b", 2) };
        let found = verdict(&folder, TableVersion::Classic, &[row(1, "a", 1), null]);
        assert_eq!(found.watermark, Watermark::Null { row: 2 });
        assert_eq!(
            states(&found),
            [("applied", Some(1), true), ("retimed", Some(2), true), ("pending", None, true)]
        );
        assert_eq!(
            row_states(&found)[1],
            (2, RowState::NullCreatedAt { tag: Some("0001_b".to_owned()) }, Reaction::Block)
        );
        assert_eq!(kinds(&found), [(NoticeKind::NullRows, Reaction::Block)]);
        let error = found.to_apply(&folder, ApplyOptions { include_skipped: true }).unwrap_err();
        assert!(error.message().contains("would apply everything again"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("repair --nulls")), "{error}");

        let of_nobody = TrackingRow { created_at: None, ..row(2, "z", 2) };
        let found = verdict(&folder, TableVersion::Classic, &[row(1, "a", 1), of_nobody]);
        let error = found.to_apply(&folder, ApplyOptions::default()).unwrap_err();
        assert!(error.hint().is_some_and(|hint| hint.contains("by hand")), "{error}");
    }

    #[test]
    fn rows_that_repeat_and_rows_of_nothing_are_told_apart() {
        let folder = journal(vec![entry("0000_a", 1, "a"), entry("0001_b", 2, "b")]);
        let rows = [row(1, "a", 1), row(2, "a", 1), row(3, "x", 2), row(4, "x", 2), row(5, "y", 1)];
        let found = verdict(&folder, TableVersion::Classic, &rows);
        assert_eq!(states(&found), [("applied", Some(1), false), ("edited", Some(3), false)]);
        assert_eq!(
            row_states(&found),
            [
                (1, matched("0000_a"), Reaction::Ok),
                (2, RowState::Duplicate { of: 1 }, Reaction::Warn),
                (3, matched("0001_b"), Reaction::Ok),
                (4, RowState::Duplicate { of: 3 }, Reaction::Warn),
                (5, RowState::Orphan, Reaction::Warn),
            ]
        );
        assert_eq!(
            kinds(&found),
            [(NoticeKind::DuplicateRows, Reaction::Warn), (NoticeKind::OrphanRows, Reaction::Warn)]
        );
        assert!(found.notices[0].message.starts_with("rows 2, 4 repeat"));
    }

    #[test]
    fn equal_texts_are_told_apart_by_their_time() {
        let empty = |tag, day| entry(tag, day, "-- Custom SQL migration file\n");
        // An empty one that was filled after it was applied, and a new empty one.
        let folder = journal(vec![entry("0000_a", 1, "filled in"), empty("0001_b", 2)]);
        let rows = [row(1, "-- Custom SQL migration file\n", 1)];
        assert_eq!(
            states(&verdict(&folder, TableVersion::Classic, &rows)),
            [("edited", Some(1), false), ("pending", None, true),]
        );
        // Two that had their times changed with each other.
        let folder = journal(vec![entry("0000_a", 2, "a"), entry("0001_b", 1, "b")]);
        let rows = [row(1, "a", 1), row(2, "b", 2)];
        assert_eq!(
            states(&verdict(&folder, TableVersion::Classic, &rows)),
            [("retimed", Some(1), false), ("retimed", Some(2), false),]
        );
        // Two of one text and one time take two rows.
        let folder = journal(vec![empty("0000_a", 1), empty("0001_b", 1)]);
        let rows = [row(1, "-- Custom SQL migration file\n", 1), row(2, "-- Custom SQL migration file\n", 1)];
        assert_eq!(
            states(&verdict(&folder, TableVersion::Classic, &rows)),
            [("applied", Some(1), false), ("applied", Some(2), false),]
        );
    }

    #[test]
    fn what_is_done_in_part_goes_on() {
        let folder = journal(vec![entry("0000_a", 1, "a"), entry("0001_b", 2, "b")]);
        let half = ["0001_b".to_owned()];
        let found = classify(&folder, TableVersion::Classic, &[row(1, "a", 1)], &half, now());
        assert_eq!(states(&found)[1], ("half applied", None, true));
        assert_eq!(tags(found.to_apply(&folder, ApplyOptions::default())), ["0001_b"]);
        let done = classify(&folder, TableVersion::Classic, &[row(1, "a", 1), row(2, "b", 2)], &half, now());
        assert_eq!(states(&done)[1], ("applied", Some(2), false), "what has its row is done");
    }

    #[test]
    fn pending_entries_out_of_order_are_told() {
        let folder = journal(vec![entry("0000_a", 5, "a"), entry("0001_b", 5, "b")]);
        let found = verdict(&folder, TableVersion::Absent, &[]);
        assert_eq!(kinds(&found), [(NoticeKind::PendingOutOfOrder, Reaction::Warn)]);
        assert_eq!(tags(found.to_apply(&folder, ApplyOptions::default())), ["0000_a", "0001_b"]);
    }

    #[test]
    fn an_old_folder_on_a_new_table_is_blocked() {
        let folder = journal(vec![entry("0000_a", 1, "a")]);
        let found = verdict(&folder, TableVersion::Named, &[named(1, "a", "20231115221320_a")]);
        assert!(kinds(&found).contains(&(NoticeKind::OldFolderNewTable, Reaction::Block)));
        assert!(found.to_apply(&folder, ApplyOptions { include_skipped: true }).is_err());
    }

    fn folders(names: &[(&str, &str)]) -> Folder {
        let migrations = names.iter().map(|(tag, text)| {
            let created_at = BASE + tag.get(12..14).unwrap().parse::<i64>().unwrap() * 1_000;
            Migration::new(*tag, format!("{tag}/migration.sql"), created_at, *text)
        });
        Folder { format: Format::Folders, migrations: migrations.collect(), notes: Vec::new() }
    }

    #[test]
    fn the_new_line_goes_by_names_and_late_ones_run() {
        let folder = folders(&[
            ("20231114221300_a", "a"),
            ("20231114221301_b", "b"),
            ("20231114221302_c", "now"),
            ("20231114221303_d", "d"),
        ]);
        let rows = [named(1, "a", "20231114221300_a"), named(2, "then", "20231114221302_c")];
        let found = verdict(&folder, TableVersion::Named, &rows);
        assert_eq!(
            states(&found),
            [
                ("applied", Some(1), false),
                ("pending", None, true),
                ("edited", Some(2), false),
                ("pending", None, true),
            ]
        );
        assert_eq!(found.entries[1].state, EntryState::Pending { is_late: true });
        assert_eq!(found.entries[1].reaction, Reaction::Warn);
        assert_eq!(found.entries[3].state, EntryState::Pending { is_late: false });
    }

    #[test]
    fn a_renamed_folder_and_a_row_without_a_name_would_run_again() {
        let folder = folders(&[("20231114221300_new", "a"), ("20231114221301_b", "b")]);
        let rows = [named(1, "a", "20231114221300_old"), row(2, "b", 0), named(3, "x", "gone")];
        let found = verdict(&folder, TableVersion::Named, &rows);
        assert_eq!(states(&found), [("retimed", Some(1), true), ("retimed", Some(2), true)]);
        assert_eq!(
            found.entries[0].message,
            "20231114221300_new is applied as 20231114221300_old, row 1: drizzle 1.0 would apply it again"
        );
        assert_eq!(
            row_states(&found),
            [
                (1, matched("20231114221300_new"), Reaction::Ok),
                (2, RowState::NullName { tag: Some("20231114221301_b".to_owned()) }, Reaction::Fail),
                (3, RowState::Orphan, Reaction::Warn),
            ]
        );
        assert_eq!(
            kinds(&found),
            [(NoticeKind::NullNames, Reaction::Fail), (NoticeKind::OrphanRows, Reaction::Warn)]
        );
        assert!(found.to_apply(&folder, ApplyOptions::default()).is_err());
    }

    #[test]
    fn a_classic_table_under_a_new_folder_is_taken_over_or_blocks() {
        let folder = folders(&[("20231114221300_a", "a"), ("20231114221301_b", "b")]);
        let of_second = |id, text, second: i64| TrackingRow {
            created_at: Some(BASE + second * 1_000 + 7),
            ..row(id, text, 0)
        };
        let ready = verdict(&folder, TableVersion::Classic, &[of_second(1, "a", 0)]);
        assert_eq!(states(&ready), [("applied", Some(1), false), ("pending", None, true)]);
        assert_eq!(kinds(&ready), [(NoticeKind::TableToUpgrade, Reaction::Warn)]);

        let broken = verdict(&folder, TableVersion::Classic, &[of_second(1, "a", 0), of_second(2, "x", 40)]);
        assert_eq!(
            kinds(&broken),
            [(NoticeKind::NotReady, Reaction::Block), (NoticeKind::OrphanRows, Reaction::Warn)]
        );
        assert_eq!(states(&broken)[1], ("pending", None, false), "drizzle ends before it applies anything");

        let repeated = verdict(&folder, TableVersion::Classic, &[of_second(1, "a", 0), of_second(2, "a", 0)]);
        assert_eq!(row_states(&repeated)[1].1, RowState::Duplicate { of: 1 });
    }

    #[test]
    fn what_is_suspicious_about_a_folder_is_a_notice() {
        let owned = str::to_owned;
        let mut folder = journal(vec![entry("0000_a", 2, "a"), entry("0001_b", 1, "b")]);
        folder.notes = vec![
            FolderNote::StrayFile { path: owned("x.sql") },
            FolderNote::NotLater { tag: owned("0001_b"), than: owned("0000_a") },
            FolderNote::SplitAnyway { tag: owned("0000_a") },
        ];
        let both = verdict(&folder, TableVersion::Classic, &[row(1, "a", 2), row(2, "b", 1)]);
        let reactions: Vec<_> = both.notices.iter().map(|notice| notice.reaction).collect();
        assert_eq!(reactions, [Reaction::Warn, Reaction::Ok, Reaction::Ok], "what both have is settled");
        let one = verdict(&folder, TableVersion::Classic, &[row(1, "a", 2)]);
        assert!(
            one.notices.iter().any(|notice| notice.message.starts_with("0001_b is not later than 0000_a")
                && notice.reaction == Reaction::Warn)
        );
    }

    /// Numbers that follow from a seed (xorshift64*).
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) % bound
        }
    }

    /// What stock drizzle 0.x would apply, as its source decides.
    fn drizzle(folder: &Folder, rows: &[TrackingRow]) -> Vec<String> {
        let mut sorted: Vec<Option<i64>> = rows.iter().map(|row| row.created_at).collect();
        // `order by created_at desc`: nothing sorts first.
        sorted.sort_by_key(|created_at| Reverse(created_at.unwrap_or(i64::MAX)));
        let last = sorted.first().map(|created_at| created_at.unwrap_or(0));
        let applies = |migration: &&Migration| last.is_none_or(|last| last < migration.created_at);
        folder.migrations.iter().filter(applies).map(|migration| migration.tag.clone()).collect()
    }

    #[test]
    fn whatever_the_folder_and_the_rows_every_one_is_accounted_for_once() {
        let mut random = Random(20_261_126);
        for _ in 0..3_000 {
            let mut some = |most: u64| -> Vec<(String, i64)> {
                let count = random.below(most);
                let one = |_| {
                    (
                        ["a", "b", "c", "a\n", "a\r\n"][random.below(5) as usize].to_owned(),
                        random.below(6) as i64,
                    )
                };
                (0..count).map(one).collect()
            };
            let (entries, mut tracked) = (some(6), some(7));
            tracked.truncate(6);
            let migrations = entries.iter().enumerate();
            let folder = journal(
                migrations.map(|(index, (text, day))| entry(&format!("{index:04}_x"), *day, text)).collect(),
            );
            let rows: Vec<TrackingRow> = tracked
                .iter()
                .enumerate()
                .map(|(at, (text, day))| TrackingRow {
                    created_at: (*day > 0).then_some(BASE + *day * DAY),
                    ..row(at as i64 + 1, text, *day)
                })
                .collect();
            let found = verdict(&folder, TableVersion::Classic, &rows);
            assert_eq!(found.entries.len(), folder.migrations.len());
            assert_eq!(found.rows.len(), rows.len());
            let taken: Vec<i64> = found.entries.iter().filter_map(|entry| entry.row).collect();
            let distinct: BTreeSet<i64> = taken.iter().copied().collect();
            assert_eq!(taken.len(), distinct.len(), "a row is of two entries: {folder:?} {rows:?}");
            for verdict in &found.rows {
                let is_taken = distinct.contains(&verdict.row);
                let says_taken = matches!(
                    &verdict.state,
                    RowState::Matched { .. } | RowState::NullCreatedAt { tag: Some(_) }
                );
                assert_eq!(is_taken, says_taken, "{folder:?} {rows:?}");
            }
            let by_drizzle: Vec<_> =
                found.drizzle_would_apply().iter().map(|entry| entry.tag.clone()).collect();
            assert_eq!(by_drizzle, drizzle(&folder, &rows), "{folder:?} {rows:?}");
            // What we would apply has no row with its text and time.
            if let Ok(ours) = found.to_apply(&folder, ApplyOptions { include_skipped: true }) {
                for migration in ours {
                    let has = rows
                        .iter()
                        .filter(|row| {
                            row.hash == migration.hash && row.created_at == Some(migration.created_at)
                        })
                        .count();
                    let twins = folder.migrations.iter().filter(|other| {
                        other.hash == migration.hash && other.created_at == migration.created_at
                    });
                    assert!(has < twins.count(), "it would be applied twice: {folder:?} {rows:?}");
                }
            }
        }
    }
}
