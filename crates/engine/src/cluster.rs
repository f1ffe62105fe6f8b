//! Physical backups of a whole server: its files as archives, copied while it runs, and a list of them made by the server.
//!
//! The contract in short. A [`BaseBackupSource`] begins a backup; the [`BaseBackup`] gives events in order: an archive begins, its bytes, the
//! next archive, … , the manifest begins, its bytes, nothing more; then [`BaseBackup::end`] tells how far WAL is needed. What an archive
//! holds is the server's business: nobody here reads it. Of files that have changed little since an [`EarlierBackup`] the server sends the
//! changes alone, when it is told of that backup.

use async_trait::async_trait;
use bytes::Bytes;
use mainstay_model::{Lsn, Result};
use serde::{Deserialize, Serialize};

use crate::documents::ServerFacts;

/// How the server shall begin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckpointPace {
    /// At once, with as much writing as the disk bears.
    #[default]
    Fast,
    /// Spread over some minutes, so that others hardly notice.
    Spread,
}

/// How the server sums up each file in its manifest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileChecksum {
    /// CRC-32C: finds accidents, and costs the server next to nothing.
    #[default]
    Crc32c,
    /// SHA-256: finds forgeries too, at the price of a core of the server.
    Sha256,
}

/// How the server packs archives for the way to us.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkCompression {
    /// Not at all.
    #[default]
    None,
    /// With gzip at its quickest.
    Gzip,
    /// With zstd at its quickest.
    Zstd,
}

/// What is wanted of the link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkChoice {
    /// Packed when the server is far away, with the best that it has.
    #[default]
    Auto,
    /// This.
    #[serde(untagged)]
    Always(LinkCompression),
}

/// How a base backup is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseBackupRequest {
    /// What the server calls it in its log and in `backup_label`.
    pub label: String,
    /// How it begins.
    pub checkpoint: CheckpointPace,
    /// Most bytes per second that the server sends; `None` for as many as it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_max: Option<u64>,
    /// How files are summed up.
    pub checksum: FileChecksum,
    /// Whether the server checks its pages while it reads them, and fails when one is damaged.
    pub check_pages: bool,
    /// How archives come. Whoever reads them has them as they were.
    #[serde(default)]
    pub link: LinkChoice,
}

/// The backup that an incremental one builds on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EarlierBackup {
    /// The server's list of its files, as it was sent.
    pub file_list: Bytes,
    /// Which cluster it is a copy of.
    pub fingerprint: String,
    /// The position that its recovery begins at.
    pub begin: Lsn,
    /// The timeline of that position.
    pub timeline: u32,
}

/// A place of files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tablespace {
    /// What the server calls it, and its link below `pg_tblspc`.
    pub oid: u32,
    /// Where it lies on the server's host.
    pub location: String,
}

/// What the server says before the first archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupBeginning {
    /// The server.
    pub server: ServerFacts,
    /// The position that recovery must begin at; pages that are newer may be torn.
    pub at: Lsn,
    /// The timeline of that position.
    pub timeline: u32,
    /// Whether pages carry checksums.
    pub page_checksums: bool,
    /// How long a segment of WAL is, in bytes.
    pub wal_segment_bytes: u64,
    /// The places other than the data directory, by oid.
    pub tablespaces: Vec<Tablespace>,
    /// The server's estimate of all archives, in bytes; WAL is not counted.
    pub estimated_bytes: u64,
    /// How archives come.
    pub link: LinkCompression,
    /// Why they do not come as it was asked.
    pub link_refusal: Option<String>,
}

/// What a base backup gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupEvent {
    /// An archive begins; the one of the data directory has no tablespace.
    Archive(Option<Tablespace>),
    /// The manifest begins.
    Manifest,
    /// Bytes of what began last.
    Bytes(Bytes),
}

/// What the server says after the last byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupEnding {
    /// The position that recovery must reach before the files are consistent.
    pub at: Lsn,
    /// The timeline of that position.
    pub timeline: u32,
    /// What the server remarked meanwhile, one line each.
    pub notices: Vec<String>,
}

/// Copies the files of a server.
#[async_trait]
pub trait BaseBackupSource: Send + Sync {
    /// What the server says of itself.
    async fn server_facts(&self) -> Result<ServerFacts>;

    /// Begins a base backup, or one of what has changed since an `earlier` one; waits for the server's checkpoint. Dropping what comes of it ends
    /// the backup on the server, too.
    ///
    /// # Errors
    /// `Auth` when the role may not, `Precondition` when the server is not set up for it, `Unsupported` when it is too old or keeps files
    /// where no backup can follow. With an `earlier` backup also `Precondition` when that is of another cluster or timeline, or when the server
    /// does not know any more what has changed since.
    async fn begin(
        &self,
        request: &BaseBackupRequest,
        earlier: Option<&EarlierBackup>,
    ) -> Result<Box<dyn BaseBackup>>;
}

/// A base backup under way.
#[async_trait]
pub trait BaseBackup: Send {
    /// What the server said at its beginning.
    fn beginning(&self) -> &BackupBeginning;

    /// The next event; `None` after the last byte. A piece of bytes is meant to be some ten kilobytes long. May be dropped while it waits.
    ///
    /// # Errors
    /// Archives under names that were not announced or come twice are refused, as is anything out of its order.
    async fn next(&mut self) -> Result<Option<BackupEvent>>;

    /// How far WAL is needed. To be called once, after the last event.
    async fn end(&mut self) -> Result<BackupEnding>;
}
