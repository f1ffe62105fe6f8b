//! What the manifest of a logical set says of its contents, and how the table of contents is found in the stream.

use mainstay_engine::{DatabaseDefinition, ServerFacts};
use mainstay_model::{ObjectName, Timestamp};
use mainstay_pgdump::{TOC_BYTES_MAX, Toc, TocError};
use mainstay_repository::Set;
use serde::{Deserialize, Serialize};

/// The role of the object that is a dump.
pub(super) const ROLE_DUMP: &str = "dump";
/// How many bytes are gathered before the first try to read a table of contents.
const FIRST_TRY_BYTES: usize = 16 * 1024;

/// The contents of a set that holds a dump of one database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogicalSetContents {
    /// The environment it was taken from.
    pub environment: String,
    /// The server it was taken from.
    pub server: ServerFacts,
    /// What the database is.
    pub database: DatabaseDefinition,
    /// The dump.
    pub logical: DumpRecord,
}

/// The dump of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DumpRecord {
    /// The object: a custom archive of `pg_dump`, not compressed by it.
    pub object: ObjectName,
    /// The program that made it, with its version.
    pub program: String,
    /// When it began: what was committed by then is in it, nothing that began later.
    pub begun_at: Timestamp,
    /// Its bytes.
    pub bytes: u64,
    /// How many things it holds: tables, their rows, indexes, functions, …
    pub entries: u64,
    /// The tables with rows in it.
    pub tables: Vec<DumpTable>,
}

/// A table of a dump.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DumpTable {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub table: String,
}

impl LogicalSetContents {
    /// Whether `set` holds a dump, and not the files of a server.
    pub fn is_of(set: &Set) -> bool {
        set.manifest().contents.get("logical").is_some()
    }
}

/// Finds the table of contents at the beginning of a stream. Keeps no more of the stream than that.
#[derive(Debug)]
pub(super) struct TocSeeker {
    gathered: Vec<u8>,
    next_try: usize,
    found: Option<Result<Toc, String>>,
}

impl TocSeeker {
    pub(super) fn new() -> Self {
        Self { gathered: Vec::new(), next_try: FIRST_TRY_BYTES, found: None }
    }

    /// Takes the next bytes of the stream.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        if self.found.is_some() {
            return;
        }
        self.gathered.extend_from_slice(bytes);
        // Each try reads from the beginning, so tries are as far apart as there are bytes.
        if self.gathered.len() >= self.next_try {
            self.next_try = self.gathered.len() * 2;
            self.look(false);
        }
    }

    /// The table of contents, as soon as it is known.
    pub(super) fn found(&self) -> Option<&Result<Toc, String>> {
        self.found.as_ref()
    }

    /// The table of contents, when the stream has ended.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn end(mut self) -> Result<Toc, String> {
        if self.found.is_none() {
            self.look(true);
        }
        self.found.unwrap_or_else(|| Err(TocError::Incomplete.to_string()))
    }

    fn look(&mut self, at_end: bool) {
        match Toc::read(&self.gathered) {
            Err(TocError::Incomplete) if !at_end && self.gathered.len() <= TOC_BYTES_MAX => return,
            Err(TocError::Incomplete) if !at_end => {
                self.found = Some(Err(format!("its table of contents is longer than {TOC_BYTES_MAX} bytes")));
            }
            Err(error) => self.found = Some(Err(error.to_string())),
            Ok(toc) => self.found = Some(Ok(toc)),
        }
        self.gathered = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_dump_is_told_early_and_what_is_cut_off_at_the_end() {
        let mut seeker = TocSeeker::new();
        seeker.bytes(b"PGDMP");
        assert!(seeker.found().is_none());
        let ended = seeker.end().expect_err("it is cut off");
        assert!(ended.contains("ends within its table of contents"), "{ended}");
        let mut seeker = TocSeeker::new();
        seeker.bytes(&[b'x'; FIRST_TRY_BYTES]);
        assert!(seeker.found().is_some_and(Result::is_err) && seeker.gathered.is_empty());
    }
}
