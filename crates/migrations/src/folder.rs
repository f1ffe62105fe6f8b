//! A folder of migrations, in either of Drizzle's formats.
//!
//! The 0.x line keeps `meta/_journal.json` and `<tag>.sql`; the 1.0 line one folder per migration with `migration.sql`. What Drizzle's
//! migrator refuses is refused here too; what it takes silently and is suspicious becomes a [`FolderNote`].

use std::collections::BTreeMap;

use mainstay_model::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

use crate::statement::Chunk;

/// The path of the journal in a folder of the 0.x line.
pub const JOURNAL_PATH: &str = "meta/_journal.json";
/// What parts a file into chunks: this exact text, also within strings and bodies.
pub const MARKER: &str = "--> statement-breakpoint";
/// The most bytes that a file may have.
pub const FILE_SIZE_MAX: u64 = 64 << 20;
/// The most files of which names are taken.
pub const FILE_COUNT_MAX: usize = 200_000;
/// The most migrations of a folder.
pub const MIGRATION_COUNT_MAX: usize = 50_000;

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
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        _ if path == JOURNAL_PATH => true,
        [name] => name.ends_with(".sql"),
        [_, name] => *name == "migration.sql",
        _ => false,
    }
}

impl Format {
    /// The format of a folder that has these files, by their names alone.
    ///
    /// # Errors
    /// [`FolderError`]: nothing there, no journal beside its files, both formats mixed, too many files.
    pub fn of_paths<'a>(paths: impl IntoIterator<Item = &'a str>) -> Result<Self, FolderError> {
        let _ = paths;
        Err(FolderError::Nothing)
    }
}

impl Folder {
    /// Reads a folder: every file by its path relative to it, with `/` between parts; files for which [`is_read`] says no may stand without bytes.
    ///
    /// # Errors
    /// [`FolderError`], for whatever Drizzle's migrator would refuse or could not mean.
    pub fn read(files: &BTreeMap<String, Vec<u8>>) -> Result<Self, FolderError> {
        let format = Format::of_paths(files.keys().map(String::as_str))?;
        Ok(Self { format, migrations: Vec::new(), notes: Vec::new() })
    }

    /// The migration of this tag.
    #[must_use]
    pub fn migration(&self, tag: &str) -> Option<&Migration> {
        self.migrations.iter().find(|migration| migration.tag == tag)
    }
}

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
        Self { tag: tag.into(), path: path.into(), created_at, hash: crate::hash::hash(&text), text }
    }

    /// Its chunks in order, with their statements; at least one, for a text without the marker is one chunk.
    #[must_use]
    pub fn chunks(&self) -> Vec<Chunk> {
        Vec::new()
    }
}

impl FolderNote {
    /// What was found, one factual line in lower case.
    #[must_use]
    pub fn message(&self) -> String {
        String::new()
    }
}

impl From<FolderError> for Error {
    fn from(error: FolderError) -> Self {
        let kind = match &error {
            FolderError::Dialect { .. } => ErrorKind::Unsupported,
            FolderError::Nothing | FolderError::JournalMissing { .. } | FolderError::FileMissing { .. } => {
                ErrorKind::NotFound
            }
            _ => ErrorKind::Config,
        };
        Self::new(kind, error.to_string()).with_state("nothing was changed")
    }
}
