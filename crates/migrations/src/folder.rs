//! A folder of migrations, in either of Drizzle's formats.
//!
//! The 0.x line keeps `meta/_journal.json` and `<tag>.sql`; the 1.0 line one folder per migration with `migration.sql`. What Drizzle's
//! migrator refuses is refused here too; what it takes silently and is suspicious becomes a [`FolderNote`].

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use mainstay_model::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

use crate::collate;
use crate::cut::chunks;
use crate::hash::hash;
use crate::journal::{Journal, JournalEntry};
use crate::statement::Chunk;

/// The path of the journal in a folder of the 0.x line.
pub(crate) const JOURNAL_PATH: &str = "meta/_journal.json";
/// What parts a file into chunks: this exact text, also within strings and bodies.
pub const MARKER: &str = "--> statement-breakpoint";
/// The most bytes that a file may have.
pub const FILE_SIZE_MAX: u64 = 64 << 20;
/// The most files of which names are taken.
pub const FILE_COUNT_MAX: usize = 200_000;
/// The most migrations of a folder.
const MIGRATION_COUNT_MAX: usize = 50_000;

/// How a folder is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Drizzle 0.x: a journal, and a file for each of its entries.
    Journal,
    /// Drizzle 1.0: a folder for each migration, and no journal.
    Folders,
}

/// A folder that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// How it is laid out.
    pub format: Format,
    /// Its migrations in the order in which Drizzle looks at them.
    pub migrations: Vec<Migration>,
    /// What is suspicious about it, though Drizzle takes it; in the order of paths and entries.
    pub notes: Vec<FolderNote>,
}

/// One migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// What it is called: the tag in the journal, or the name of the folder.
    pub tag: String,
    /// The path of its file in the folder, for messages.
    pub path: String,
    /// Milliseconds since 1970 that become `created_at`: the entry's `when`, or the first 14 digits of the folder's name.
    pub created_at: i64,
    /// What Drizzle stores of its text.
    pub hash: String,
    /// The text after decoding, with U+FFFD for what was no UTF-8.
    pub text: String,
}

/// Something suspicious that Drizzle takes silently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FolderNote {
    /// An SQL file that no entry names is never applied.
    StrayFile {
        /// Its path.
        path: String,
    },
    /// A snapshot that belongs to no entry: what is left of a merge or of a removed migration.
    StraySnapshot {
        /// Its path.
        path: String,
    },
    /// A folder of the 1.0 line without `migration.sql`.
    EmptyFolder {
        /// Its path.
        path: String,
    },
    /// The numbers of the journal leave one out, or have it twice.
    IndexGap {
        /// The entry.
        tag: String,
        /// The number that would follow.
        expected: i64,
        /// The number that it has.
        found: i64,
    },
    /// The number before the tag is not the entry's.
    PrefixMismatch {
        /// The entry.
        tag: String,
        /// The number that it has in the journal.
        index: i64,
    },
    /// An entry is not later than one before it: where that one was applied, this one is skipped.
    NotLater {
        /// The entry.
        tag: String,
        /// The entry before it that is as late, or later.
        than: String,
    },
    /// Two folders begin with the same second: their order is that of their names in the sorting of the runner's language.
    SameSecond {
        /// The earlier in our order.
        first: String,
        /// The later.
        second: String,
    },
    /// The file is no UTF-8; its hash is one of what decoding made of it.
    NotUtf8 {
        /// Its path.
        path: String,
    },
    /// The file begins with a byte order mark, which the server takes for a syntax error.
    ByteOrderMark {
        /// Its path.
        path: String,
    },
    /// The entry says `breakpoints: false`, and the text has the marker: it is cut all the same.
    SplitAnyway {
        /// The entry.
        tag: String,
    },
}

/// A folder that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FolderError {
    /// Nothing that is a migration, and no journal.
    #[error("there are no migrations: neither meta/_journal.json nor a folder with migration.sql")]
    Nothing,
    /// SQL files beside each other without a journal.
    #[error("there is no meta/_journal.json, and {count} SQL files that it would name")]
    JournalMissing {
        /// How many files.
        count: usize,
    },
    /// A journal and folders of the 1.0 line.
    #[error("both formats are mixed: meta/_journal.json, and {path}")]
    Mixed {
        /// The first file of the other format.
        path: String,
    },
    /// The journal cannot be read.
    #[error("meta/_journal.json cannot be read: {reason}")]
    Journal {
        /// What is wrong.
        reason: String,
    },
    /// The journal is for another kind of server.
    #[error("meta/_journal.json is for {dialect}, not for postgresql")]
    Dialect {
        /// What it says.
        dialect: String,
    },
    /// Two entries have one tag.
    #[error("meta/_journal.json names {tag} twice")]
    DuplicateTag {
        /// The tag.
        tag: String,
    },
    /// A tag that is no plain name of a file.
    #[error("meta/_journal.json names {tag:?}, which is no plain name of a file")]
    Tag {
        /// The tag.
        tag: String,
    },
    /// A listed file is missing; Drizzle refuses the whole folder, though it be applied long ago.
    #[error("{path} is missing, and meta/_journal.json names it")]
    FileMissing {
        /// Its path.
        path: String,
    },
    /// A folder of the 1.0 line whose name does not begin with 14 digits.
    #[error("{path} is in a folder that does not begin with the 14 digits of a date (YYYYMMDDHHMMSS)")]
    Prefix {
        /// The path of the file.
        path: String,
    },
    /// A file is too large.
    #[error("{path} has {size} bytes; at most {max} are taken")]
    TooLarge {
        /// Its path.
        path: String,
        /// Its bytes.
        size: u64,
        /// The most that are taken.
        max: u64,
    },
    /// There are too many files or entries.
    #[error("there are {count} {what}; at most {max} are taken")]
    TooMany {
        /// `files`, `migrations`.
        what: &'static str,
        /// How many.
        count: usize,
        /// The most that are taken.
        max: usize,
    },
}

/// Whether the bytes of a file are needed; of all others the path is enough. Snapshots never are.
#[must_use]
pub fn is_read(path: &str) -> bool {
    matches!(Part::of(path), Part::Journal | Part::Sql(_) | Part::Migration(_))
}

impl Format {
    /// The format of a folder that has these files, by their names alone.
    ///
    /// # Errors
    /// [`FolderError`]: nothing there, no journal beside its files, both formats mixed, too many files.
    fn of_paths<'a>(paths: impl IntoIterator<Item = &'a str>) -> Result<Self, FolderError> {
        let (mut has_journal, mut file_count, mut sql_count) = (false, 0, 0);
        let mut folder = None;
        for path in paths {
            file_count += 1;
            match Part::of(path) {
                Part::Journal => has_journal = true,
                Part::Sql(_) => sql_count += 1,
                Part::Migration(_) if folder.is_none() => folder = Some(path),
                _ => {}
            }
        }
        at_most("files", file_count, FILE_COUNT_MAX)?;
        match (has_journal, folder) {
            (true, Some(path)) => Err(FolderError::Mixed { path: path.to_owned() }),
            (true, None) => Ok(Self::Journal),
            (false, Some(_)) => Ok(Self::Folders),
            (false, None) if sql_count > 0 => Err(FolderError::JournalMissing { count: sql_count }),
            (false, None) => Err(FolderError::Nothing),
        }
    }
}

/// What a path is in a folder of migrations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part<'a> {
    /// The journal.
    Journal,
    /// `<tag>.sql`.
    Sql(&'a str),
    /// `<name>/migration.sql`.
    Migration(&'a str),
    /// `<name>/snapshot.json`.
    FolderSnapshot(&'a str),
    /// `meta/<prefix>_snapshot.json`.
    Snapshot(&'a str),
    /// Anything else.
    Other,
}

impl<'a> Part<'a> {
    fn of(path: &'a str) -> Self {
        if path == JOURNAL_PATH {
            return Self::Journal;
        }
        match path.split_once('/') {
            None => path.strip_suffix(".sql").map_or(Self::Other, Self::Sql),
            Some((folder, "migration.sql")) => Self::Migration(folder),
            Some(("meta", name)) => name.strip_suffix("_snapshot.json").map_or(Self::Other, Self::Snapshot),
            Some((folder, "snapshot.json")) => Self::FolderSnapshot(folder),
            Some(_) => Self::Other,
        }
    }
}

fn at_most(what: &'static str, count: usize, max: usize) -> Result<(), FolderError> {
    if count > max { Err(FolderError::TooMany { what, count, max }) } else { Ok(()) }
}

impl Folder {
    /// Reads a folder: every file by its path relative to it, with `/` between parts; files for which [`is_read`] says no may stand without bytes.
    ///
    /// # Errors
    /// [`FolderError`], for whatever Drizzle's migrator would refuse or could not mean.
    pub fn read(files: &BTreeMap<String, Vec<u8>>) -> Result<Self, FolderError> {
        match Format::of_paths(files.keys().map(String::as_str))? {
            Format::Journal => read_journal(files),
            Format::Folders => read_folders(files),
        }
    }

    /// The migration of this tag.
    #[must_use]
    pub fn migration(&self, tag: &str) -> Option<&Migration> {
        self.migrations.iter().find(|migration| migration.tag == tag)
    }
}

fn read_journal(files: &BTreeMap<String, Vec<u8>>) -> Result<Folder, FolderError> {
    let journal = Journal::read(bytes(files, JOURNAL_PATH)?)?;
    if let Some(dialect) = journal.dialect.filter(|dialect| dialect != "postgresql") {
        return Err(FolderError::Dialect { dialect });
    }
    at_most("migrations", journal.entries.len(), MIGRATION_COUNT_MAX)?;
    let mut tags = BTreeSet::new();
    let mut migrations = Vec::with_capacity(journal.entries.len());
    let mut notes = Vec::new();
    for entry in &journal.entries {
        if !is_plain(&entry.tag) {
            return Err(FolderError::Tag { tag: entry.tag.clone() });
        }
        if !tags.insert(entry.tag.as_str()) {
            return Err(FolderError::DuplicateTag { tag: entry.tag.clone() });
        }
        let path = format!("{}.sql", entry.tag);
        let migration = read_migration(&entry.tag, path, entry.when, files, &mut notes)?;
        if entry.breakpoints == Some(false) && migration.text.contains(MARKER) {
            notes.push(FolderNote::SplitAnyway { tag: entry.tag.clone() });
        }
        migrations.push(migration);
    }
    notes.extend(order_notes(&journal.entries));
    let prefixes: BTreeSet<&str> = tags.iter().filter_map(|tag| tag.split('_').next()).collect();
    notes.extend(files.keys().filter_map(|path| stray(path, &tags, &prefixes)));
    Ok(Folder { format: Format::Journal, migrations, notes })
}

/// What the numbers and times of the entries tell.
fn order_notes(entries: &[JournalEntry]) -> Vec<FolderNote> {
    let mut notes = Vec::new();
    let mut latest: Option<&JournalEntry> = None;
    let mut expected = 0;
    for entry in entries {
        if let Some(index) = entry.index {
            if index != expected {
                notes.push(FolderNote::IndexGap { tag: entry.tag.clone(), expected, found: index });
            }
            if prefix(&entry.tag).is_some_and(|number| number != index) {
                notes.push(FolderNote::PrefixMismatch { tag: entry.tag.clone(), index });
            }
        }
        expected = entry.index.unwrap_or(expected).saturating_add(1);
        match latest {
            Some(latest) if latest.when >= entry.when => {
                notes.push(FolderNote::NotLater { tag: entry.tag.clone(), than: latest.tag.clone() });
            }
            _ => latest = Some(entry),
        }
    }
    notes
}

/// The number that Drizzle's own naming puts before a tag: four digits exactly. Longer ones are times.
fn prefix(tag: &str) -> Option<i64> {
    let (digits, _) = tag.split_once('_')?;
    let is_number = digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { digits.parse().ok() } else { None }
}

fn stray(path: &str, tags: &BTreeSet<&str>, prefixes: &BTreeSet<&str>) -> Option<FolderNote> {
    match Part::of(path) {
        Part::Sql(tag) if !tags.contains(tag) => Some(FolderNote::StrayFile { path: path.to_owned() }),
        Part::Snapshot(name) if !prefixes.contains(name) && !tags.contains(name) => {
            Some(FolderNote::StraySnapshot { path: path.to_owned() })
        }
        _ => None,
    }
}

fn read_folders(files: &BTreeMap<String, Vec<u8>>) -> Result<Folder, FolderError> {
    let found = files.keys().filter_map(|path| match Part::of(path) {
        Part::Migration(name) => Some(name),
        _ => None,
    });
    let known: BTreeSet<&str> = found.collect();
    let mut names: Vec<&str> = known.iter().copied().collect();
    at_most("migrations", names.len(), MIGRATION_COUNT_MAX)?;
    names.sort_by(|one, other| collate::compare(one, other));
    let mut migrations = Vec::with_capacity(names.len());
    let mut notes = Vec::new();
    for name in &names {
        let path = format!("{name}/migration.sql");
        let created_at = milliseconds(name).ok_or_else(|| FolderError::Prefix { path: path.clone() })?;
        migrations.push(read_migration(name, path, created_at, files, &mut notes)?);
    }
    for pair in migrations.windows(2) {
        if let [first, second] = pair
            && first.tag.get(..STAMP_LENGTH) == second.tag.get(..STAMP_LENGTH)
        {
            notes.push(FolderNote::SameSecond { first: first.tag.clone(), second: second.tag.clone() });
        }
    }
    for path in files.keys() {
        match Part::of(path) {
            Part::FolderSnapshot(name) if !known.contains(name) => {
                notes.push(FolderNote::EmptyFolder { path: path.clone() });
            }
            Part::Sql(_) => notes.push(FolderNote::StrayFile { path: path.clone() }),
            _ => {}
        }
    }
    Ok(Folder { format: Format::Folders, migrations, notes })
}

/// How many digits a folder's name begins with.
pub(crate) const STAMP_LENGTH: usize = 14;

/// The moment that the first 14 characters of a name say, as JavaScript's `Date.UTC` understands the parts: what is beyond a month, a day or an hour carries
/// over, and years below 100 are those of the last century.
fn milliseconds(name: &str) -> Option<i64> {
    let digits =
        name.get(..STAMP_LENGTH).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let number = |from: usize, to: usize| digits.get(from..to).and_then(|part| part.parse::<i64>().ok());
    let (year, month) = (number(0, 4)?, number(4, 6)? - 1);
    let century = if year < 100 { 1_900 } else { 0 };
    let days = days_before(century + year + month.div_euclid(12), month.rem_euclid(12)) + number(6, 8)? - 1;
    let seconds = (days * 24 + number(8, 10)?) * 3_600 + number(10, 12)? * 60 + number(12, 14)?;
    Some(seconds * 1_000)
}

/// Days from 1970-01-01 to the first of a month; months count from 0.
fn days_before(year: i64, month: i64) -> i64 {
    const BEFORE: [i64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let before = usize::try_from(month).ok().and_then(|month| BEFORE.get(month)).copied().unwrap_or(0);
    let last = year - 1;
    let to_year = last * 365 + last.div_euclid(4) - last.div_euclid(100) + last.div_euclid(400) - 719_162;
    to_year + before + i64::from(is_leap && month > 1)
}

fn read_migration(
    tag: &str,
    path: String,
    created_at: i64,
    files: &BTreeMap<String, Vec<u8>>,
    notes: &mut Vec<FolderNote>,
) -> Result<Migration, FolderError> {
    let text = String::from_utf8_lossy(bytes(files, &path)?);
    if matches!(text, Cow::Owned(_)) {
        notes.push(FolderNote::NotUtf8 { path: path.clone() });
    }
    if text.starts_with('\u{feff}') {
        notes.push(FolderNote::ByteOrderMark { path: path.clone() });
    }
    Ok(Migration::new(tag, path, created_at, text))
}

fn bytes<'f>(files: &'f BTreeMap<String, Vec<u8>>, path: &str) -> Result<&'f [u8], FolderError> {
    let bytes = files.get(path).ok_or_else(|| FolderError::FileMissing { path: path.to_owned() })?;
    let size = bytes.len() as u64;
    if size > FILE_SIZE_MAX {
        return Err(FolderError::TooLarge { path: path.to_owned(), size, max: FILE_SIZE_MAX });
    }
    Ok(bytes)
}

/// A tag that is the name of a file in the folder itself, and can stand in a message.
fn is_plain(tag: &str) -> bool {
    let has_bad =
        tag.chars().any(|character| matches!(character, '/' | '\\' | '\0') || character.is_control());
    !tag.is_empty() && tag.len() <= TAG_BYTES_MAX && !tag.starts_with('.') && !has_bad
}

/// What file systems allow in a name, less the ending.
const TAG_BYTES_MAX: usize = 251;

impl Migration {
    /// A migration of a text, with the hash that it has.
    #[must_use]
    pub fn new(
        tag: impl Into<String>,
        path: impl Into<String>,
        created_at: i64,
        text: impl Into<String>,
    ) -> Self {
        let text = text.into();
        Self { tag: tag.into(), path: path.into(), created_at, hash: hash(&text), text }
    }

    /// Its chunks in order, with their statements; at least one, for a text without the marker is one chunk.
    #[must_use]
    pub fn chunks(&self) -> Vec<Chunk> {
        chunks(&self.text)
    }
}

impl FolderNote {
    /// What was found, one factual line in lower case.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::StrayFile { path } => format!("{path} is in no entry, and is never applied"),
            Self::StraySnapshot { path } => format!("{path} belongs to no entry of the journal"),
            Self::EmptyFolder { path } => {
                format!("{path} has no migration.sql beside it, and is passed over")
            }
            Self::IndexGap { tag, expected, found } => {
                format!("the journal has number {found} for {tag}, where {expected} would follow")
            }
            Self::PrefixMismatch { tag, index } => format!("{tag} has number {index} in the journal"),
            Self::NotLater { tag, than } => {
                format!(
                    "{tag} is not later than {than}, which stands before it: where {than} is applied, drizzle skips {tag}"
                )
            }
            Self::SameSecond { first, second } => {
                format!("{first} and {second} begin with the same second: their order is that of their names")
            }
            Self::NotUtf8 { path } => format!("{path} is not valid UTF-8; what is not has become U+FFFD"),
            Self::ByteOrderMark { path } => {
                format!("{path} begins with a byte order mark, which the server takes for a syntax error")
            }
            Self::SplitAnyway { tag } => {
                format!(
                    "{tag} has `breakpoints: false` in the journal, and is cut at its markers all the same"
                )
            }
        }
    }
}

impl FolderNote {
    /// What to do, a sentence.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::StrayFile { .. } => {
                "Add its entry to meta/_journal.json with a later `when`, or remove the file."
            }
            Self::StraySnapshot { .. } => "Remove it, or bring the entry back that it belongs to.",
            Self::EmptyFolder { .. } => "Remove the folder, or bring its migration.sql back.",
            Self::IndexGap { .. } | Self::PrefixMismatch { .. } => {
                "Look at the merge that it came from: an entry may be missing; generate the later migration anew."
            }
            Self::NotLater { .. } => {
                "Give it a later `when` in meta/_journal.json before it is applied anywhere."
            }
            Self::SameSecond { .. } => "Rename the later one by a second before it is applied anywhere.",
            Self::NotUtf8 { .. } => "Save the file as UTF-8 before it is applied anywhere.",
            Self::ByteOrderMark { .. } => "Save the file as UTF-8 without a byte order mark.",
            Self::SplitAnyway { .. } => {
                "Nothing, unless the markers are to be no borders: take them out then."
            }
        }
    }
}

impl From<FolderError> for Error {
    /// `Unsupported` for another dialect, `NotFound` for what is missing, `Config` for all else.
    fn from(error: FolderError) -> Self {
        let (kind, hint) = match &error {
            FolderError::Nothing => (
                ErrorKind::NotFound,
                "name the folder that drizzle-kit writes: `folder` of [sql] in mainstay.toml",
            ),
            FolderError::JournalMissing { .. } => {
                (ErrorKind::NotFound, "bring meta/_journal.json back: `git checkout -- meta/_journal.json`")
            }
            FolderError::FileMissing { .. } => {
                (ErrorKind::NotFound, "bring the file back as it was applied; its entry cannot do without it")
            }
            FolderError::Mixed { .. } => {
                (ErrorKind::Config, "end the conversion with `drizzle-kit up`, which removes the journal")
            }
            FolderError::Dialect { .. } => (
                ErrorKind::Unsupported,
                "name the folder of the PostgreSQL schema: `folder` of [sql] in mainstay.toml",
            ),
            FolderError::Journal { .. } | FolderError::DuplicateTag { .. } | FolderError::Tag { .. } => (
                ErrorKind::Config,
                "mend the journal, or bring it back from version control: nothing is applied from one that is in doubt",
            ),
            FolderError::Prefix { .. } => {
                (ErrorKind::Config, "rename the folder as drizzle-kit names them: 20260131120000_add_users")
            }
            FolderError::TooLarge { .. } | FolderError::TooMany { .. } => (
                ErrorKind::Config,
                "keep data out of migrations: declare it as a seed, or load it by `\\copy`",
            ),
        };
        Self::new(kind, error.to_string()).with_state("nothing was changed").with_hint(hint)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn tree(files: &[(&str, &[u8])]) -> BTreeMap<String, Vec<u8>> {
        files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec())).collect()
    }

    fn journal(entries: &str) -> Vec<u8> {
        format!("{{\"version\":\"7\",\"dialect\":\"postgresql\",\"entries\":[{entries}]}}").into_bytes()
    }

    #[test]
    fn the_format_is_told_by_names() {
        let table: &[(&[&str], &str)] = &[
            (&["meta/_journal.json"], "journal"),
            (&["0000_a.sql", "meta/_journal.json", "meta/0000_snapshot.json", "schema.ts"], "journal"),
            (&["20250101000000_a/migration.sql", "20250101000000_a/snapshot.json"], "folders"),
            (
                &["20250101000000_a/migration.sql", "meta/_journal.json"],
                "both formats are mixed: meta/_journal.json, and 20250101000000_a/migration.sql",
            ),
            (
                &["0000_a.sql", "0001_b.sql"],
                "there is no meta/_journal.json, and 2 SQL files that it would name",
            ),
            (
                &["a/b/migration.sql", "README.md"],
                "there are no migrations: neither meta/_journal.json nor a folder with migration.sql",
            ),
            (&[], "there are no migrations: neither meta/_journal.json nor a folder with migration.sql"),
        ];
        for (paths, expected) in table {
            let found = match Format::of_paths(paths.iter().copied()) {
                Ok(Format::Journal) => "journal".to_owned(),
                Ok(Format::Folders) => "folders".to_owned(),
                Err(error) => error.to_string(),
            };
            assert_eq!(&found, expected);
        }
        let many: Vec<String> = (0..=FILE_COUNT_MAX).map(|number| number.to_string()).collect();
        assert!(matches!(
            Format::of_paths(many.iter().map(String::as_str)),
            Err(FolderError::TooMany { .. })
        ));
    }

    #[test]
    fn bytes_are_asked_for_of_migrations_alone() {
        for path in ["meta/_journal.json", "0000_a.sql", "20250101000000_a/migration.sql"] {
            assert!(is_read(path), "{path}");
        }
        for path in [
            "meta/0000_snapshot.json",
            "20250101000000_a/snapshot.json",
            "a/b/migration.sql",
            "meta/x.sql",
            "x.ts",
        ] {
            assert!(!is_read(path), "{path}");
        }
    }

    #[test]
    fn a_journal_is_read_in_its_own_order() {
        let entries = r#"{"idx":0,"when":20,"tag":"0000_a","breakpoints":true},{"idx":1,"when":30,"tag":"0001_b","breakpoints":false}"#;
        let files = tree(&[
            ("meta/_journal.json", &journal(entries)),
            ("0001_b.sql", b"x--> statement-breakpointy"),
            ("0000_a.sql", b"a"),
            ("meta/0000_snapshot.json", b""),
            ("meta/0001_snapshot.json", b""),
        ]);
        let folder = Folder::read(&files).unwrap();
        assert_eq!(folder.format, Format::Journal);
        let found: Vec<_> = folder
            .migrations
            .iter()
            .map(|migration| (migration.tag.as_str(), migration.created_at))
            .collect();
        assert_eq!(found, [("0000_a", 20), ("0001_b", 30)]);
        assert_eq!(folder.migrations[1].chunks().len(), 2);
        assert_eq!(folder.notes, [FolderNote::SplitAnyway { tag: "0001_b".to_owned() }]);
    }

    #[test]
    fn what_drizzle_takes_silently_is_noted() {
        let entries = r#"{"idx":0,"when":20,"tag":"0000_a"},{"idx":2,"when":20,"tag":"0003_b"},{"idx":3,"when":10,"tag":"0003_c"}"#;
        let files = tree(&[
            ("meta/_journal.json", &journal(entries)),
            ("0000_a.sql", b"\xef\xbb\xbfselect 1"),
            ("0003_b.sql", b"select '\xff'"),
            ("0003_c.sql", b""),
            ("0004_d.sql", b""),
            ("meta/0009_snapshot.json", b""),
        ]);
        let notes = Folder::read(&files).unwrap().notes;
        let owned = str::to_owned;
        assert_eq!(
            notes,
            [
                FolderNote::ByteOrderMark { path: owned("0000_a.sql") },
                FolderNote::NotUtf8 { path: owned("0003_b.sql") },
                FolderNote::IndexGap { tag: owned("0003_b"), expected: 1, found: 2 },
                FolderNote::PrefixMismatch { tag: owned("0003_b"), index: 2 },
                FolderNote::NotLater { tag: owned("0003_b"), than: owned("0000_a") },
                FolderNote::NotLater { tag: owned("0003_c"), than: owned("0000_a") },
                FolderNote::StrayFile { path: owned("0004_d.sql") },
                FolderNote::StraySnapshot { path: owned("meta/0009_snapshot.json") },
            ]
        );
        assert!(notes.iter().all(|note| !note.message().is_empty()));
    }

    #[test]
    fn what_is_in_doubt_is_refused() {
        let with = |entries: &str| {
            Folder::read(&tree(&[("meta/_journal.json", &journal(entries)), ("a.sql", b"")])).unwrap_err()
        };
        let table = [
            (
                with(r#"{"when":1,"tag":"a"},{"when":2,"tag":"b"}"#),
                "b.sql is missing, and meta/_journal.json names it",
            ),
            (with(r#"{"when":1,"tag":"a"},{"when":2,"tag":"a"}"#), "meta/_journal.json names a twice"),
            (
                with(r#"{"when":1,"tag":"../a"}"#),
                r#"meta/_journal.json names "../a", which is no plain name of a file"#,
            ),
            (
                with(r#"{"when":1,"tag":".."}"#),
                r#"meta/_journal.json names "..", which is no plain name of a file"#,
            ),
            (
                with(r#"{"when":1,"tag":"a\u0000"}"#),
                r#"meta/_journal.json names "a\0", which is no plain name of a file"#,
            ),
            (
                with(r#"{"when":1,"tag":"c:\\a"}"#),
                r#"meta/_journal.json names "c:\\a", which is no plain name of a file"#,
            ),
            (
                with(r#"{"when":1,"tag":""}"#),
                r#"meta/_journal.json names "", which is no plain name of a file"#,
            ),
            (
                Folder::read(&tree(&[("meta/_journal.json", br#"{"dialect":"mysql","entries":[]}"#)]))
                    .unwrap_err(),
                "meta/_journal.json is for mysql, not for postgresql",
            ),
            (
                Folder::read(&tree(&[("2025_a/migration.sql", b"")])).unwrap_err(),
                "2025_a/migration.sql is in a folder that does not begin with the 14 digits of a date (YYYYMMDDHHMMSS)",
            ),
        ];
        for (error, expected) in table {
            assert_eq!(error.to_string(), expected);
            assert!(Error::from(error).hint().is_some());
        }
        let huge =
            BTreeMap::from([("meta/_journal.json".to_owned(), vec![b' '; (FILE_SIZE_MAX + 1) as usize])]);
        assert!(matches!(Folder::read(&huge), Err(FolderError::TooLarge { .. })));
    }

    #[test]
    fn folders_are_read_in_the_order_of_their_names() {
        let files = tree(&[
            ("20250101000001_A/migration.sql", b"2"),
            ("20250101000001_a/migration.sql", b"1"),
            ("20241231235959_z/migration.sql", b"0"),
            ("20250301000000_c/snapshot.json", b""),
            ("old.sql", b""),
            ("meta/0000_snapshot.json", b""),
        ]);
        let folder = Folder::read(&files).unwrap();
        let found: Vec<_> =
            folder.migrations.iter().map(|found| (found.tag.as_str(), found.created_at)).collect();
        assert_eq!(
            found,
            [
                ("20241231235959_z", 1_735_689_599_000),
                ("20250101000001_a", 1_735_689_601_000),
                ("20250101000001_A", 1_735_689_601_000),
            ]
        );
        assert_eq!(
            folder.notes,
            [
                FolderNote::SameSecond {
                    first: "20250101000001_a".to_owned(),
                    second: "20250101000001_A".to_owned()
                },
                FolderNote::EmptyFolder { path: "20250301000000_c/snapshot.json".to_owned() },
                FolderNote::StrayFile { path: "old.sql".to_owned() },
            ]
        );
    }

    #[test]
    fn a_stamp_is_understood_as_javascript_understands_it() {
        // `Date.UTC(year, month - 1, day, hour, minute, second)` under Node 20.
        let table = [
            ("19700101000000", 0),
            ("20000229120000", 951_825_600_000),
            ("20251126123910", 1_764_160_750_000),
            ("20251301000000", 1_767_225_600_000),
            ("20250230000000", 1_740_873_600_000),
            ("20250100000000", 1_735_603_200_000),
            ("20250000000000", 1_732_924_800_000),
            ("20250101996199", 1_736_049_759_000),
            ("00990101000000", 915_148_800_000),
            ("01000101000000", -59_011_459_200_000),
            ("99991231235959", 253_402_300_799_000),
        ];
        for (stamp, expected) in table {
            assert_eq!(milliseconds(&format!("{stamp}_x")), Some(expected), "{stamp}");
        }
        for name in ["2025", "2025010100000x_a", "２０２５０１０１００００００", ""] {
            assert_eq!(milliseconds(name), None, "{name}");
        }
    }
}
