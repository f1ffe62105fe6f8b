//! Writing an archive: what stock tools need to restore it is checked here, so that no caller can write one that hangs them.
//!
//! The rules, beyond the grammar: every entry gets a closing block and nothing after it; users, roles and their version stand before the
//! first ordinary entry; the oplog is last; and no more ordinary entries are open at one time than the header says, because mongorestore
//! has no more workers than that and waits for ever for one that is free.

use crate::checksum::Checksum;
use crate::document::{DocumentWriter, Front, front};
use crate::prelude::{Entry, Header, Role};

/// What may not be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// A prelude that is larger than a document may be, or the like.
    #[error("{0} does not fit into an archive: it has {1} bytes, a document has at most 16 MiB")]
    Size(String, usize),
    /// Documents that are not framed, or are larger than an archive carries.
    #[error("documents of {0} are not framed, or larger than 16 MiB")]
    Unframed(String),
    /// Something comes where it may not.
    #[error("{0} {1}")]
    Order(String, &'static str),
}

/// Writes one archive. It gives the bytes that stand before and between documents; the documents themselves stay with the caller.
#[derive(Debug)]
pub struct ArchiveWriter {
    tracks: Vec<Track>,
    /// The entry of the block that is being written.
    current: Option<usize>,
    open: u32,
    open_max: u32,
    ordinary_begun: bool,
    oplog_begun: bool,
}

#[derive(Debug)]
struct Track {
    database: String,
    collection: String,
    role: Role,
    stage: Stage,
    checksum: Checksum,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Unseen,
    Open,
    Closed,
}

impl ArchiveWriter {
    /// Begins an archive of `entries`, which the other calls name by position. Gives its first bytes.
    ///
    /// # Errors
    /// `Size` when an entry's metadata is larger than a document may be; `Order` when two entries have one name.
    pub fn begin(header: &Header, entries: &[Entry]) -> Result<(Self, Vec<u8>), WriteError> {
        let mut bytes = crate::MAGIC.to_vec();
        bytes.extend(header.to_document());
        let mut names = std::collections::BTreeSet::new();
        let mut tracks = Vec::with_capacity(entries.len());
        for entry in entries {
            let document = entry.to_document();
            if document.len() > crate::DOCUMENT_BYTES_MAX {
                return Err(WriteError::Size(format!("the definition of {}", entry.name()), document.len()));
            }
            bytes.extend(document);
            let collection = entry.data_collection(header);
            if !names.insert((entry.database.clone(), collection.clone())) {
                return Err(WriteError::Order(entry.name(), "is listed twice"));
            }
            tracks.push(Track {
                database: entry.database.clone(),
                collection,
                role: entry.role(),
                stage: Stage::Unseen,
                checksum: Checksum::EMPTY,
            });
        }
        bytes.extend(crate::TERMINATOR);
        let writer = Self {
            tracks,
            current: None,
            open: 0,
            open_max: header.concurrent_collections.max(1),
            ordinary_begun: false,
            oplog_begun: false,
        };
        Ok((writer, bytes))
    }

    /// Takes documents of an entry, one after another; gives the bytes that stand before them, none when they go on where the last ones ended.
    ///
    /// # Errors
    /// Whatever stock tools could not restore; nothing is to be written then.
    pub fn documents(&mut self, entry: usize, documents: &[u8]) -> Result<Vec<u8>, WriteError> {
        self.check_framed(entry, documents)?;
        self.admit(entry)?;
        let mut before = Vec::new();
        if self.current != Some(entry) {
            self.end_block(&mut before);
            before.extend(self.head(entry, None));
            self.current = Some(entry);
        }
        self.tracks[entry].checksum.add(documents);
        Ok(before)
    }

    /// Completes an entry; gives its closing block, and the end of the block before it.
    ///
    /// # Errors
    /// As [`ArchiveWriter::documents`].
    pub fn close(&mut self, entry: usize) -> Result<Vec<u8>, WriteError> {
        self.admit(entry)?;
        let mut bytes = Vec::new();
        self.end_block(&mut bytes);
        bytes.extend(self.head(entry, Some(self.tracks[entry].checksum.value())));
        bytes.extend(crate::TERMINATOR);
        let track = &mut self.tracks[entry];
        track.stage = Stage::Closed;
        if track.role == Role::Ordinary {
            self.open -= 1;
        }
        Ok(bytes)
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// `Order` when an entry was not closed.
    pub fn end(self) -> Result<(), WriteError> {
        match self.tracks.iter().find(|track| track.stage != Stage::Closed) {
            None => Ok(()),
            Some(track) => Err(WriteError::Order(track.name(), "was not closed")),
        }
    }

    /// Whether the entry may be written to now.
    fn admit(&mut self, entry: usize) -> Result<(), WriteError> {
        let track = &mut self.tracks[entry];
        let refuse = |track: &Track, why| Err(WriteError::Order(track.name(), why));
        match (track.stage, track.role) {
            (Stage::Closed, _) => return refuse(track, "was closed already"),
            (Stage::Open, _) => return Ok(()),
            (Stage::Unseen, _) if self.oplog_begun => return refuse(track, "comes after the oplog"),
            (Stage::Unseen, Role::Users | Role::Roles | Role::AuthVersion) if self.ordinary_begun => {
                return refuse(track, "comes after the first collection");
            }
            (Stage::Unseen, Role::Users | Role::Roles | Role::AuthVersion) => {}
            (Stage::Unseen, Role::Oplog) if self.open > 0 => {
                return refuse(track, "comes before a collection is closed");
            }
            (Stage::Unseen, Role::Oplog) => self.oplog_begun = true,
            (Stage::Unseen, Role::Ordinary) if self.open == self.open_max => {
                return refuse(track, "would be open beside more collections than the header says");
            }
            (Stage::Unseen, Role::Ordinary) => {
                self.ordinary_begun = true;
                self.open += 1;
            }
        }
        track.stage = Stage::Open;
        Ok(())
    }

    fn check_framed(&self, entry: usize, documents: &[u8]) -> Result<(), WriteError> {
        let mut rest = documents;
        while !rest.is_empty() {
            rest = match front(rest) {
                Front::Document(length) if rest.get(length - 1) == Some(&0) => &rest[length..],
                _ => return Err(WriteError::Unframed(self.tracks[entry].name())),
            };
        }
        Ok(())
    }

    fn end_block(&mut self, bytes: &mut Vec<u8>) {
        if self.current.take().is_some() {
            bytes.extend(crate::TERMINATOR);
        }
    }

    fn head(&self, entry: usize, checksum: Option<u64>) -> Vec<u8> {
        let track = &self.tracks[entry];
        DocumentWriter::new()
            .text("db", &track.database)
            .text("collection", &track.collection)
            .flag("EOF", checksum.is_some())
            .long("CRC", checksum.unwrap_or(0).cast_signed())
            .finish()
    }
}

impl Track {
    fn name(&self) -> String {
        format!("{}.{}", self.database, self.collection)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::EntryKind;

    const DOCUMENT: [u8; 5] = [5, 0, 0, 0, 0];

    fn entry(database: &str, collection: &str) -> Entry {
        Entry {
            database: database.into(),
            collection: collection.into(),
            metadata: String::new(),
            kind: EntryKind::Collection,
        }
    }

    fn begin(open_max: u32, entries: &[Entry]) -> ArchiveWriter {
        let header = Header {
            concurrent_collections: open_max,
            server_version: "6.0.27".into(),
            tool_version: "t".into(),
        };
        ArchiveWriter::begin(&header, entries).unwrap().0
    }

    #[test]
    fn an_empty_collection_is_the_example_of_the_format() {
        let mut writer = begin(4, &[entry("shop", "empty")]);
        let opened = writer.documents(0, &[]).unwrap();
        let mut head = vec![0x3B, 0, 0, 0, 2];
        head.extend(
            b"db\0\x05\0\0\0shop\0\x02collection\0\x06\0\0\0empty\0\x08EOF\0\0\x12CRC\0\0\0\0\0\0\0\0\0\0",
        );
        assert_eq!(opened, head);
        assert_eq!(opened.len(), 59);
        let closed = writer.close(0).unwrap();
        let flag = head.iter().position(|byte| *byte == 0x08).unwrap() + 5;
        head[flag] = 1;
        assert_eq!(closed, [&crate::TERMINATOR[..], &head, &crate::TERMINATOR].concat());
        writer.end().unwrap();
    }

    #[test]
    fn one_head_serves_slices_that_follow_each_other() {
        let mut writer = begin(4, &[entry("a", "b"), entry("a", "c")]);
        assert!(!writer.documents(0, &DOCUMENT).unwrap().is_empty());
        assert!(writer.documents(0, &DOCUMENT).unwrap().is_empty());
        assert!(writer.documents(1, &DOCUMENT).unwrap().starts_with(&crate::TERMINATOR));
        assert!(writer.documents(0, &DOCUMENT).unwrap().starts_with(&crate::TERMINATOR));
        writer.close(1).unwrap();
        assert!(writer.documents(1, &DOCUMENT).is_err());
        assert!(matches!(writer.end(), Err(WriteError::Order(name, _)) if name == "a.b"));
    }

    #[test]
    fn what_would_hang_or_fail_a_restore_is_refused() {
        let entries = [
            entry("a", "1"),
            entry("a", "2"),
            entry("admin", "system.users"),
            Entry::oplog(),
            entry("a", "3"),
        ];
        let mut writer = begin(1, &entries);
        writer.documents(0, &DOCUMENT).unwrap();
        assert!(writer.documents(1, &DOCUMENT).is_err(), "one more is open than the header says");
        assert!(writer.close(2).is_err(), "users after a collection");
        assert!(writer.close(3).is_err(), "oplog before a collection is closed");
        assert!(writer.documents(0, &[4, 0, 0, 0]).is_err(), "no frame");
        writer.close(0).unwrap();
        writer.close(1).unwrap();
        writer.close(3).unwrap();
        assert!(writer.close(4).is_err(), "a collection after the oplog");
        let header =
            Header { concurrent_collections: 1, server_version: String::new(), tool_version: String::new() };
        assert!(ArchiveWriter::begin(&header, &[entry("a", "1"), entry("a", "1")]).is_err());
    }
}
