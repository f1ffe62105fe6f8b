//! PostgreSQL's base backup as bytes: the archives, the pages of the files in them, the manifest that the server makes of them.
//!
//! Opens nothing and waits for nothing: bytes go in as they come, in pieces cut anywhere, and are not copied. [`TarReader`] walks an archive
//! and refuses what no server puts into one, so that nothing can be written outside the place that it is unpacked to. [`ArchiveJudge`] sums
//! up every file and checks its pages; [`Manifest`] says whether that is what the server read. What `pg_verifybackup` checks is checked
//! here: that every file is there, with its size and its checksum, and no other; and that the WAL which the files need is there. An incremental
//! backup holds changes of files; [`IncrementalReader`] says which blocks of them.
//! [`WalWalker`] reads WAL itself, record by record, for what recovery can be told to stop at; [`Lineage`] says which timelines lead where.
//!
//! Relies on PostgreSQL 15 to 18 with blocks of 8 KiB, segments of 1 GiB and little-endian processors; what differs is found damaged, never
//! passed as sound. Source: manual (18), "Backup Manifest Format", "Database Page Layout", "Streaming Replication Protocol".

#[doc(hidden)]
pub mod fuzzing;
mod incremental;
mod judge;
mod label;
mod manifest;
mod page;
mod record;
mod tar;
mod timeline;
mod wal;

pub use incremental::{
    Changed, Changes, INCREMENTAL_PREFIX, IncrementalError, IncrementalReader, incremental_of,
    incremental_path,
};
pub use judge::{
    ArchiveJudge, DAMAGED_COUNT_MAX, DamagedPage, FileJudge, JudgeOptions, SeenArchive, SeenFile,
};
pub use label::{BuildsOn, LABEL_BYTES_MAX, LABEL_FILE, builds_on, combined_label};
pub use manifest::{Algorithm, FileSum, MANIFEST_BYTES_MAX, Manifest, ManifestError, combined_manifest};
pub use record::{FIRST_PAGE_BYTES, RecordKind, SeenRecord, SegmentHeader, WalError, WalWalker};
pub use tar::{BLOCK_BYTES, Entry, EntryKind, TarError, TarReader, Visitor, padding};
pub use timeline::{Branch, Lineage, LineageError};
pub use wal::{WalFile, WalRange, WalSegment};

/// Where `pg_control` lies: without it no server starts.
pub const CONTROL_FILE: &str = "global/pg_control";
