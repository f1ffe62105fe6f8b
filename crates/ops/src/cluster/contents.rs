//! What the manifest of a cluster's backup set says of its contents.

use mainstay_engine::{FileChecksum, ServerFacts, Tablespace};
use mainstay_model::{Blake3, Lsn, ObjectName, SetId};
use serde::{Deserialize, Serialize};

use super::damage::DamagedFile;

/// The role of objects that are archives of files.
pub(super) const ROLE_ARCHIVE: &str = "archive";
/// The role of the server's list of files.
pub(super) const ROLE_FILE_LIST: &str = "file_list";

/// The contents of a set that holds the files of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSetContents {
    /// The environment it was taken from.
    pub environment: String,
    /// The server it was taken from.
    pub server: ServerFacts,
    /// What the server was told to call it.
    pub label: String,
    /// Recovery begins here.
    pub begin: Lsn,
    /// Recovery must come this far before the files are consistent: the moment that the set shows.
    pub end: Lsn,
    /// The timeline of both.
    pub timeline: u32,
    /// How files are summed up in the server's list of files.
    pub checksum: FileChecksum,
    /// Whether pages carry checksums.
    pub page_checksums: bool,
    /// Pages whose checksums were wrong on the server already, when that was allowed.
    pub damaged_pages: u64,
    /// Which pages these are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<DamagedFile>,
    /// How long a segment of WAL is, in bytes.
    pub wal_segment_bytes: u64,
    /// The object with the server's list of files, `backup_manifest`.
    pub file_list: ObjectName,
    /// The archives, that of the data directory first.
    pub archives: Vec<ArchiveRecord>,
    /// The sets that this one is of no use without, oldest first: the first is whole, each other holds what has changed since the one before it,
    /// and this one what has changed since the last. Empty when this one is whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<EarlierSet>,
}

/// A set that another one builds on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlierSet {
    /// The set.
    pub set: SetId,
    /// The seal of its manifest.
    pub manifest: Blake3,
}

/// One archive of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveRecord {
    /// The object.
    pub object: ObjectName,
    /// The tablespace that it is of; absent for that of the data directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tablespace: Option<Tablespace>,
    /// How many files it holds.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl ArchiveRecord {
    /// The tablespace's number; `None` for the data directory.
    pub(super) fn oid(&self) -> Option<u32> {
        self.tablespace.as_ref().map(|tablespace| tablespace.oid)
    }
}

impl ClusterSetContents {
    /// How many files all archives hold.
    pub fn files(&self) -> u64 {
        self.archives.iter().map(|archive| archive.files).fold(0, u64::saturating_add)
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.archives.iter().map(|archive| archive.bytes).fold(0, u64::saturating_add)
    }

    /// The tablespaces that have an archive of their own.
    pub fn tablespaces(&self) -> impl Iterator<Item = &Tablespace> {
        self.archives.iter().filter_map(|archive| archive.tablespace.as_ref())
    }

    /// Whether it holds changes alone, so that it is of no use without the sets of its chain.
    pub fn is_incremental(&self) -> bool {
        !self.chain.is_empty()
    }

    pub(super) fn oids(&self) -> Vec<u32> {
        self.tablespaces().map(|tablespace| tablespace.oid).collect()
    }

    /// Every object that it names.
    pub(super) fn objects(&self) -> impl Iterator<Item = &ObjectName> {
        self.archives.iter().map(|archive| &archive.object).chain([&self.file_list])
    }
}
