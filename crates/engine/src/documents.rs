//! Document stores: reading a whole one at one moment, and filling one.
//!
//! The contract in short. A [`DocumentSource`] lists collections and opens a [`Snapshot`]; a snapshot splits a collection into ranges and
//! streams each as batches of raw documents; together the ranges give every document of the collection exactly once, in no promised
//! order. A [`DocumentSink`] creates collections, loads batches, builds indexes, and drops or replaces only under a
//! [`Permit`](mainstay_guard::Permit).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mainstay_guard::Permit;
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{Error, OpTime, Result};
use serde::{Deserialize, Serialize};

use crate::changes::CollectionIdentity;
use crate::digest::DocumentDigest;
use crate::part::ServerPart;

/// A database and a collection. Written `database.collection`; the collection may itself contain dots.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Namespace {
    /// The database's name.
    pub database: String,
    /// The collection's name, unescaped.
    pub collection: String,
}

impl Namespace {
    /// The namespace of `collection` in `database`.
    pub fn new(database: impl Into<String>, collection: impl Into<String>) -> Self {
        Self { database: database.into(), collection: collection.into() }
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.database, self.collection)
    }
}

/// What a namespace is. Decides how it is read and made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CollectionKind {
    /// Documents under an `_id` index or a clustered key. Capped ones have [`CollectionInfo::capped`] set.
    Collection,
    /// A stored query: options only, no documents.
    View,
    /// Measurements; the documents to move are those of the bucket collection.
    TimeSeries,
}

/// A collection as the server describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionInfo {
    /// Its name.
    pub namespace: Namespace,
    /// Its kind.
    pub kind: CollectionKind,
    /// Whether it keeps insertion order and a bounded size. Loaded by one connection, in order.
    pub capped: bool,
    /// Whether `_id` is its storage key (no separate `_id` index).
    pub clustered: bool,
    /// The server's estimate of documents and data bytes; zero for views.
    pub estimate: Work,
    /// How many indexes, `_id` included.
    pub index_count: u32,
    /// What the server calls the collection that holds its documents; `None` for views.
    pub identity: Option<CollectionIdentity>,
    /// Options, indexes, uuid, name and type in the form of mongodump's `.metadata.json`: one line of canonical Extended JSON v2.
    pub metadata: String,
}

impl CollectionInfo {
    /// The namespace that holds the documents to move: `system.buckets.<name>` for time series, the collection itself otherwise.
    pub fn data_namespace(&self) -> Namespace {
        data_namespace(&self.namespace, self.kind)
    }
}

/// As [`CollectionInfo::data_namespace`], for a collection that may not exist yet.
pub fn data_namespace(namespace: &Namespace, kind: CollectionKind) -> Namespace {
    match kind {
        CollectionKind::TimeSeries => {
            Namespace::new(&namespace.database, format!("system.buckets.{}", namespace.collection))
        }
        CollectionKind::Collection | CollectionKind::View => namespace.clone(),
    }
}

/// What moment the documents of a scan belong to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Consistency {
    /// All documents as they were at one cluster time.
    ClusterTime {
        /// That time.
        at: OpTime,
    },
    /// Each document as it was when the scan reached it; a document that moved meanwhile is still met exactly once.
    DuringScan {
        /// Why no single moment could be had.
        reason: String,
    },
}

/// How a snapshot is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SnapshotRequest {
    /// One cluster time where the server can; otherwise, said aloud, what it can do.
    #[default]
    Best,
    /// One cluster time or an error.
    ClusterTime,
    /// Read without a snapshot: for servers whose history window is too short for the size of the data.
    DuringScan,
}

/// A fingerprint that begins so does not tell the server from others like it: the user may not see what would. Nothing that destroys may
/// rest on it.
pub const UNIDENTIFIED: &str = "unidentified";

/// What a server says of itself before a backup or a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerFacts {
    /// The server's version, such as `6.0.27`.
    pub version: String,
    /// `standalone`, `replica set rs0`, `sharded cluster`; `cluster` of a node whose servers share the keys.
    pub topology: String,
    /// Which server this is, stable over restarts: the replica-set id, or an id kept by the server. Never an address.
    pub fingerprint: String,
    /// The address that answered, without credentials.
    pub address: String,
    /// What it holds of a cluster whose servers share the keys; absent of a server that has all of its own, in older sets,
    /// and where it was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<ServerPart>,
}

impl ServerFacts {
    /// What it holds of a cluster, as far as it is told: of a set that names such a server and no slots, some part.
    pub fn part_told(&self) -> Option<ServerPart> {
        self.part.clone().or_else(|| (self.topology == "cluster").then(ServerPart::default))
    }
}

/// One piece of a collection, as the adapter made it. Opaque to operations; serialisable so that it can be journalled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanRange {
    /// Position in the list of ranges, from 0.
    pub ordinal: u32,
    /// The adapter's own description of the range.
    pub bounds: serde_json::Value,
}

/// A collection made ready to be scanned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedScan {
    /// What moment the scan will show; differs from the snapshot's when the server refuses this collection (capped, changed since).
    pub consistency: Consistency,
    /// The ranges: disjoint, together the whole collection; at least one.
    pub ranges: Vec<ScanRange>,
}

/// Whole documents, one after another.
#[derive(Debug, Clone)]
pub struct DocumentBatch {
    /// The concatenated documents. Framing has been checked: every length is within bounds and every document ends in NUL.
    pub bytes: Bytes,
    /// How many documents.
    pub documents: u64,
}

/// Why a scan at one moment cannot go on although the server answers. An adapter makes it the cause of its error; [`ScanSetback::of`] finds
/// it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScanSetback {
    /// The server does not keep the history of the moment, or no longer: what has not been read can only be read as it is now.
    #[error("the server does not keep the history of that moment any more")]
    HistoryPassed,
    /// The ranges are places in the storage of one server that is gone; the moment can still be read, in ranges prepared anew.
    #[error("the ranges belong to a member that does not answer any more")]
    RangesLost,
}

impl ScanSetback {
    /// The setback that caused `error`, if one did.
    pub fn of(error: &Error) -> Option<Self> {
        let mut next = std::error::Error::source(error);
        while let Some(cause) = next {
            if let Some(setback) = cause.downcast_ref::<Self>() {
                return Some(*setback);
            }
            next = cause.source();
        }
        None
    }
}

/// How a server fares at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    /// How long one document took to be found by its key.
    pub latency: Duration,
    /// How much of its cache is full, in percent; `None` when this user may not see it.
    pub cache_used_percent: Option<u8>,
    /// How much of its cache waits to be written, in percent.
    pub cache_dirty_percent: Option<u8>,
    /// How many more reads it would begin at once.
    pub read_tickets: Option<u64>,
    /// How far back it keeps history.
    pub history: Option<Duration>,
}

/// Measures a server's [`Pressure`], on a connection of its own that is opened again when it breaks.
#[async_trait]
pub trait PressureGauge: Send {
    /// How the server fares now.
    async fn measure(&mut self) -> Result<Pressure>;
}

/// Reads a document store.
#[async_trait]
pub trait DocumentSource: Send + Sync {
    /// What the server says of itself.
    async fn server_facts(&self) -> Result<ServerFacts>;

    /// The databases that hold user data and that this user may see, by name; the server's own (`admin`, `config`, `local`) are left out.
    async fn databases(&self) -> Result<Vec<String>>;

    /// As [`DocumentSource::databases`], but all of them: for whoever promises that nothing is missing.
    ///
    /// # Errors
    /// `Auth` when the server shows this user only some of its databases.
    async fn every_database(&self) -> Result<Vec<String>>;

    /// The collections of `database`, by name, with their metadata; the server's own `system.*` are left out, bucket collections too.
    /// A database that does not exist gives an empty list.
    async fn collections(&self, database: &str) -> Result<Vec<CollectionInfo>>;

    /// The newest operation that any reader may meet now; `None` where there is no history (a standalone).
    async fn position(&self) -> Result<Option<OpTime>>;

    /// Fixes a moment to read at.
    ///
    /// # Errors
    /// `Precondition` when [`SnapshotRequest::ClusterTime`] was asked of a server that has none.
    async fn snapshot(&self, request: SnapshotRequest) -> Result<Arc<dyn Snapshot>>;

    /// The moment of an earlier snapshot again; `None` when the server no longer has its history, which is found out by looking at `near`.
    async fn snapshot_again(
        &self,
        consistency: &Consistency,
        near: &CollectionInfo,
    ) -> Result<Option<Arc<dyn Snapshot>>>;
}

/// A moment of a document store.
#[async_trait]
pub trait Snapshot: Send + Sync {
    /// What moment this is.
    fn consistency(&self) -> &Consistency;

    /// Splits a collection into at most `ranges_max` ranges of similar size (fewer when it is small), and finds out which consistency the
    /// server grants it. Never called for views.
    async fn prepare(&self, collection: &CollectionInfo, ranges_max: usize) -> Result<PreparedScan>;

    /// Streams one range. An error that the scan of another kind would not meet has a [`ScanSetback`] for its cause. Each call opens a connection of its own; ranges may be streamed at the same time.
    async fn scan(
        &self,
        collection: &CollectionInfo,
        prepared: &PreparedScan,
        range: &ScanRange,
    ) -> Result<Box<dyn DocumentStream>>;

    /// What these scans cannot do or do not keep, in words for whoever reads the backup's output: one line each.
    fn limits(&self) -> Vec<String> {
        Vec::new()
    }

    /// A gauge of the server that the scans burden; it looks for documents in `near`. Nothing is connected by making it.
    fn gauge(&self, near: &CollectionInfo) -> Box<dyn PressureGauge>;
}

/// The documents of a range. Retries a broken connection by itself where it can continue without a gap or a repeat; otherwise the error
/// is temporary and the whole range must be read again.
#[async_trait]
pub trait DocumentStream: Send {
    /// The next batch; `None` at the end, and at the end alone: what stops before it gives an error. A batch is meant to hold a megabyte or
    /// two, and may reach the size of a server's reply, 16 MiB and a little, when documents are large. Dropping the stream ends the server's
    /// cursor.
    async fn next(&mut self) -> Result<Option<DocumentBatch>>;
}

/// A document that the server refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentFailure {
    /// Its `_id` as canonical Extended JSON, cut at 200 characters.
    pub id: String,
    /// The server's error code.
    pub code: i32,
    /// The server's message without the document's values.
    pub message: String,
    /// Whether it was refused because another document with its `_id` is there.
    #[serde(skip)]
    pub same_id: bool,
}

/// What became of a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadOutcome {
    /// Documents inserted.
    pub inserted: u64,
    /// Documents that were already there, byte for byte: a repeat after a broken connection, or a merge into equal data.
    pub identical: u64,
    /// Documents that are not there now, one entry each: refused, or another document with that `_id` stands there.
    pub failures: Vec<DocumentFailure>,
    /// The documents, identical or not, that were not inserted because one with their `_id` was there before they were first sent.
    pub doubles: DocumentDigest,
}

/// Fills a document store.
#[async_trait]
pub trait DocumentSink: Send + Sync {
    /// Creates `target` with the options of `metadata` and no index but that on `_id`; for a view, the whole view. `uuid` is not kept.
    ///
    /// # Errors
    /// `Conflict` when a collection of that name exists.
    async fn create(&self, target: &Namespace, metadata: &str) -> Result<()>;

    /// Opens a connection that loads into the documents of `target` (the buckets when `kind` is a time series).
    async fn loader(&self, target: &Namespace, kind: CollectionKind) -> Result<Box<dyn Loader>>;

    /// Builds the indexes of `metadata` other than `_id`, in one command; waits until they are built, telling `observer` how far.
    /// Those that exist already with the same definition are kept.
    async fn build_indexes(&self, target: &Namespace, metadata: &str, observer: &dyn Observer) -> Result<()>;

    /// Gives the collection `from` the free name `to`, in the same database.
    ///
    /// # Errors
    /// `Conflict` when something stands under that name; it is left alone.
    async fn rename(&self, from: &Namespace, to: &Namespace) -> Result<()>;

    /// Puts the collection `from` in the place of `to` in one step: whoever reads `to` sees the old or the new, never neither.
    ///
    /// # Errors
    /// `Refused`, with nothing changed, when `permit` is for another server or for something else than a restore.
    async fn replace(&self, from: &Namespace, to: &Namespace, permit: &Permit) -> Result<()>;

    /// Drops a collection or view; one that does not exist is no error.
    ///
    /// # Errors
    /// `Refused` as for [`DocumentSink::replace`].
    async fn drop_collection(&self, target: &Namespace, permit: &Permit) -> Result<()>;
}

/// One loading connection. Batches go to the server as they are, unordered (ordered for capped collections), without waiting for the journal.
#[async_trait]
pub trait Loader: Send {
    /// Loads a batch, or holds it back to send it together with the next ones; the outcome speaks of the documents that were sent. A broken connection is retried a bounded number of times; documents that an earlier try has put there count as
    /// [`LoadOutcome::identical`].
    async fn load(&mut self, batch: &DocumentBatch) -> Result<LoadOutcome>;

    /// Sends what was held back, waits until all that was loaded here is journalled (on a replica set: majority-committed), and closes the
    /// connection. The outcome is that of the documents whose fate [`Loader::load`] had not told yet.
    async fn finish(self: Box<Self>) -> Result<LoadOutcome>;
}

/// Bytes that are not framed documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length below 5 or above the bytes left.
    #[error("document at byte {offset} has length {length}, {left} bytes are left")]
    Length {
        /// Where the document begins.
        offset: usize,
        /// The length it claims.
        length: i64,
        /// What is there.
        left: usize,
    },
    /// The last byte is not NUL.
    #[error("document at byte {offset} does not end in NUL")]
    Terminator {
        /// Where the document begins.
        offset: usize,
    },
}

/// The documents of a concatenation, framed by their own lengths; ends after the first fault. Their insides are not looked at.
pub fn document_frames(bytes: &[u8]) -> impl Iterator<Item = Result<&[u8], FrameError>> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        let rest = bytes.get(offset..).filter(|rest| !rest.is_empty())?;
        let frame = first_frame(rest, offset);
        offset = match frame {
            Ok(document) => offset + document.len(),
            Err(_) => bytes.len(),
        };
        Some(frame)
    })
}

fn first_frame(rest: &[u8], offset: usize) -> Result<&[u8], FrameError> {
    let claimed = rest.first_chunk::<4>().map_or(0, |length| i64::from(i32::from_le_bytes(*length)));
    let document =
        usize::try_from(claimed).ok().filter(|length| *length >= 5).and_then(|length| rest.get(..length));
    match document {
        None => Err(FrameError::Length { offset, length: claimed, left: rest.len() }),
        Some(document) if document.last() != Some(&0) => Err(FrameError::Terminator { offset }),
        Some(document) => Ok(document),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_end_at_the_first_fault() {
        let good: &[u8] = &[5, 0, 0, 0, 0];
        let frames =
            |bytes: &[u8]| document_frames(bytes).map(|frame| frame.map(<[u8]>::len)).collect::<Vec<_>>();
        assert_eq!(frames(&[]), []);
        assert_eq!(frames(&[good, good].concat()), [Ok(5), Ok(5)]);
        assert_eq!(
            frames(&[good, &[4, 0, 0, 0]].concat()),
            [Ok(5), Err(FrameError::Length { offset: 5, length: 4, left: 4 })]
        );
        assert_eq!(
            frames(&[255, 255, 255, 255, 0]),
            [Err(FrameError::Length { offset: 0, length: -1, left: 5 })]
        );
        assert_eq!(frames(&[6, 0, 0, 0, 0]), [Err(FrameError::Length { offset: 0, length: 6, left: 5 })]);
        assert_eq!(frames(&[5, 0, 0, 0, 1]), [Err(FrameError::Terminator { offset: 0 })]);
        assert_eq!(frames(&[5]), [Err(FrameError::Length { offset: 0, length: 0, left: 1 })]);
    }

    #[test]
    fn time_series_live_in_their_buckets() {
        let name = Namespace::new("shop", "prices");
        assert_eq!(
            data_namespace(&name, CollectionKind::TimeSeries).to_string(),
            "shop.system.buckets.prices"
        );
        assert_eq!(data_namespace(&name, CollectionKind::Collection), name);
    }
}
