//! Looking into a running document store: sizes, counts, the profiler, slow and current operations, locks.
//!
//! The contract in short. Every method but two reads; [`Inspection::set_profiler`] and [`Inspection::kill`] change the server and take a
//! [`Permit`](mainstay_guard::Permit). What is told is of the server that answers: on a replica set the primary, or the member that a direct
//! connection names. Nothing is retried past its bound, and nothing that a user may not ask is left out in silence: it is an `Auth` error
//! that names the action and the role that has it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use mainstay_guard::Permit;
use mainstay_model::{Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{CollectionKind, CommandValue, Namespace};

/// Which documents are counted, and for how long at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountRequest {
    /// A query as Extended JSON; every document when `None`.
    pub query: Option<String>,
    /// The server gives up after this.
    pub time_max: Duration,
}

/// What a collection takes, as its storage engine counts it; summed over the shards of a sharded one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CollectionStatistics {
    /// Documents; buckets for time series.
    pub documents: u64,
    /// Bytes of the documents, uncompressed.
    pub data_bytes: u64,
    /// Bytes of the collection's file, indexes not counted.
    pub storage_bytes: u64,
    /// Bytes inside that file that are free to be written again.
    pub reusable_bytes: u64,
    /// Bytes of the collection in the server's cache.
    pub cache_bytes: u64,
    /// Its indexes, in the server's order.
    pub indexes: Vec<IndexStatistics>,
}

/// What an index takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IndexStatistics {
    /// Its name.
    pub name: String,
    /// Bytes of its file.
    pub bytes: u64,
    /// Bytes inside that file that are free to be written again; `None` when the server does not tell.
    pub reusable_bytes: Option<u64>,
    /// Bytes of it in the server's cache; `None` when the server does not tell.
    pub cache_bytes: Option<u64>,
}

/// Which process answers. Settings that a server keeps in memory last as long as it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerProcess {
    /// The member's own address.
    pub address: String,
    /// An id that every start of the server makes anew; empty when the server tells none.
    pub process: String,
}

/// What the profiler of a database does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfilerSettings {
    /// 0 nothing, 1 slow operations, 2 every operation.
    pub level: u8,
    /// From how many milliseconds on an operation is slow. Of the whole server, and of its log too.
    pub slow_ms: i64,
    /// Which share of the slow operations is recorded. Of the whole server, and of its log too.
    pub sample_rate: SampleRate,
    /// The filter that decides in the place of `slow_ms` and `sample_rate`, as canonical Extended JSON.
    pub filter: Option<String>,
}

/// A share from 0 to 1, kept bit for bit so that what is put back is what stood there. Serialised as text, for sealed JSON holds no
/// floating-point numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SampleRate(u64);

impl SampleRate {
    /// Everything.
    pub const ALL: Self = Self(1.0_f64.to_bits());

    /// The share `rate`; `None` when that is not from 0 to 1.
    pub fn new(rate: f64) -> Option<Self> {
        (0.0..=1.0).contains(&rate).then_some(Self(rate.to_bits()))
    }

    /// As a number.
    pub fn get(self) -> f64 {
        f64::from_bits(self.0)
    }
}

impl fmt::Display for SampleRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.get())
    }
}

impl FromStr for SampleRate {
    type Err = ParseSampleRateError;

    fn from_str(text: &str) -> Result<Self, ParseSampleRateError> {
        text.parse().ok().and_then(Self::new).ok_or_else(|| ParseSampleRateError(text.to_owned()))
    }
}

impl TryFrom<String> for SampleRate {
    type Error = ParseSampleRateError;

    fn try_from(text: String) -> Result<Self, ParseSampleRateError> {
        text.parse()
    }
}

impl From<SampleRate> for String {
    fn from(rate: SampleRate) -> Self {
        rate.to_string()
    }
}

/// Text that is not a share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a share: expected a number from 0 to 1")]
pub struct ParseSampleRateError(String);

/// The profiler of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profiler {
    /// The server whose settings these are.
    pub server: ServerProcess,
    /// What it does.
    pub settings: ProfilerSettings,
    /// What it has recorded; `None` when there is no such collection.
    pub recorded: Option<Recorded>,
}

/// The collection that the profiler writes into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Recorded {
    /// Its entries.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Where it begins to overwrite the oldest; `None` when it is not capped.
    pub bytes_max: Option<u64>,
}

/// Which slow operations are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlowRequest {
    /// None older than this.
    pub since: Option<Timestamp>,
    /// At most so many, the newest.
    pub entries_max: u32,
}

/// Where slow operations were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SlowSource {
    /// What the profiler recorded.
    Profiler,
    /// The last lines of the server's log, where the profiler recorded nothing.
    Log,
}

/// Slow operations as the server noted them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlowOperations {
    /// Where they were found.
    pub source: SlowSource,
    /// Newest first.
    pub operations: Vec<SlowOperation>,
    /// Whether there may be more of them than were asked for.
    pub more: bool,
    /// Entries that could not be read, such as log lines that the server cut off.
    pub unreadable: u64,
}

/// One slow operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlowOperation {
    /// When it ended.
    pub at: Timestamp,
    /// What it was about, `database.collection`.
    pub namespace: String,
    /// The kind of operation in the profiler's words: `query`, `update`, `command`, `getmore`.
    pub kind: String,
    /// What was sent; of a `getMore`, the command that began the cursor.
    pub command: CommandValue,
    /// Whether it continued an earlier one, as `getMore` does.
    pub is_continuation: bool,
    /// What the client calls itself.
    pub app_name: Option<String>,
    /// How long it took.
    pub millis: u64,
    /// Documents looked at.
    pub documents_examined: u64,
    /// Index keys looked at.
    pub keys_examined: u64,
    /// Documents given back, or changed or removed.
    pub returned: u64,
    /// The plan in a few words: `COLLSCAN`, `IXSCAN { n: 1 }`.
    pub plan: Option<String>,
    /// Whether it sorted by itself what no index gave in order.
    pub sorted: bool,
    /// Whether it wrote to disk what did not fit into memory.
    pub used_disk: bool,
    /// The server's own hash of the query's shape, if it made one.
    pub query_hash: Option<String>,
    /// The server's hash of shape and indexes, if it made one.
    pub plan_cache_key: Option<String>,
}

/// What the server is doing in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningOperation {
    /// What [`Inspection::kill`] takes; `None` for a transaction between two commands.
    pub id: Option<String>,
    /// Whether it works, or keeps a transaction open without working.
    pub active: bool,
    /// The kind in the server's words: `query`, `update`, `command`, `getmore`, `none`.
    pub kind: String,
    /// What it is about; may be empty.
    pub namespace: String,
    /// What was sent.
    pub command: CommandValue,
    /// How long it has been running, or has kept its transaction open.
    pub micros: u64,
    /// The client's address; `None` for the server's own work.
    pub client: Option<String>,
    /// What the server calls the thread: `conn42`, `Checkpointer`.
    pub description: String,
    /// What the client calls itself.
    pub app_name: Option<String>,
    /// Whose rights it has, as `user@database`.
    pub users: Vec<String>,
    /// The plan in a few words.
    pub plan: Option<String>,
    /// How often it stepped aside for others.
    pub yields: u64,
    /// Whether it waits for a lock.
    pub waits_for_lock: bool,
    /// Whether it waits because replication is behind.
    pub waits_for_flow_control: bool,
    /// How long it has waited for locks in all.
    pub lock_wait_micros: u64,
    /// What it says of how far it is.
    pub progress: Option<OperationProgress>,
    /// The session it belongs to, 32 hexadecimal digits.
    pub session: Option<String>,
    /// Its transaction, if it is in one.
    pub transaction: Option<OpenTransaction>,
}

/// How far an operation is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OperationProgress {
    /// In the server's words: `Index Build: scanning collection`.
    pub message: String,
    /// Steps done; `None` when the server tells none.
    pub done: Option<u64>,
    /// Steps in all.
    pub total: Option<u64>,
}

/// A transaction that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct OpenTransaction {
    /// How long it has been open.
    pub open_micros: u64,
    /// How long of that nothing happened in it.
    pub inactive_micros: u64,
}

/// The mode of a lock (MongoDB manual, "FAQ: Concurrency").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum LockMode {
    /// Will read below.
    #[serde(rename = "IS")]
    IntentShared,
    /// Will write below.
    #[serde(rename = "IX")]
    IntentExclusive,
    /// Reads all of it.
    #[serde(rename = "S")]
    Shared,
    /// Has it alone.
    #[serde(rename = "X")]
    Exclusive,
}

impl LockMode {
    /// `IS`, `IX`, `S`, `X`.
    pub fn name(self) -> &'static str {
        match self {
            Self::IntentShared => "IS",
            Self::IntentExclusive => "IX",
            Self::Shared => "S",
            Self::Exclusive => "X",
        }
    }
}

/// Where the server's operations wait for one another, since it began.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Contention {
    /// Milliseconds since the server began.
    pub uptime_millis: u64,
    /// Lock waits by resource and mode, those without any left out.
    pub waits: Vec<LockWaits>,
    /// Operations that wait for a lock or a ticket to read, now.
    pub queued_readers: u64,
    /// Operations that wait for a lock or a ticket to write, now.
    pub queued_writers: u64,
    /// Tickets to read and to write; empty when the server tells none.
    pub tickets: Vec<Tickets>,
    /// The storage engine's cache; `None` when the server tells nothing of it.
    pub cache: Option<CacheUse>,
    /// Flow control; `None` when the server has none.
    pub flow_control: Option<FlowControl>,
    /// Who holds and who waits for what, of every lock that somebody waits for; `None` when the server does not tell.
    pub queues: Option<Vec<LockQueue>>,
}

/// Waits for the locks of one kind of resource in one mode, since the server began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LockWaits {
    /// `Global`, `Database`, `Collection`, …
    pub resource: String,
    /// The mode.
    pub mode: LockMode,
    /// How often it was taken.
    pub acquired: u64,
    /// How often that took waiting.
    pub waited: u64,
    /// How long in all.
    pub wait_micros: u64,
}

/// The right to work inside the storage engine, of which there are so many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tickets {
    /// `read` or `write`.
    pub kind: &'static str,
    /// In use.
    pub used: u64,
    /// There are.
    pub total: u64,
    /// Operations that wait for one; `None` for servers that do not tell (before 7.0).
    pub queued: Option<u64>,
}

/// The storage engine's cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CacheUse {
    /// Bytes in it.
    pub bytes: u64,
    /// Bytes it may hold.
    pub bytes_max: u64,
    /// Bytes in it that are not on disk yet.
    pub dirty_bytes: u64,
}

/// Writers held back because members of the set are behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FlowControl {
    /// Whether it holds back now.
    pub lagged: bool,
    /// How long it has held back since the server began.
    pub lagged_micros: u64,
}

/// A lock that somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockQueue {
    /// `Collection shop.users`, `Global`.
    pub resource: String,
    /// Who has it.
    pub granted: Vec<LockRequest>,
    /// Who waits, first come first.
    pub pending: Vec<LockRequest>,
}

/// One who has or wants a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockRequest {
    /// In which mode.
    pub mode: LockMode,
    /// The operation, as [`RunningOperation::id`]; `None` for a transaction between two commands.
    pub operation: Option<String>,
    /// The session of that transaction.
    pub session: Option<String>,
    /// What the server calls the thread.
    pub description: String,
}

/// Looks into a running document store.
#[async_trait]
pub trait Inspection: Send + Sync {
    /// Counts the documents of `namespace` one by one, measurements for time series.
    ///
    /// # Errors
    /// `Usage` when the query is no Extended JSON document; `Server`, temporary, when the time was over.
    async fn count(&self, namespace: &Namespace, request: &CountRequest) -> Result<u64>;

    /// What `namespace` takes. Views take nothing.
    ///
    /// # Errors
    /// `Auth` for want of `collStats`; `NotFound` when it is gone.
    async fn statistics(&self, namespace: &Namespace, kind: CollectionKind) -> Result<CollectionStatistics>;

    /// The profiler of `database` on the server that answers.
    ///
    /// # Errors
    /// `Auth` for want of `enableProfiler`; `Unsupported` through a mongos, which has none.
    async fn profiler(&self, database: &str) -> Result<Profiler>;

    /// Gives the profiler of `database` these settings. Repeating is safe.
    ///
    /// # Errors
    /// As [`Inspection::profiler`]; `Refused` when `permit` is for another server or something else.
    async fn set_profiler(&self, database: &str, settings: &ProfilerSettings, permit: &Permit) -> Result<()>;

    /// The slow operations on `database`: what its profiler recorded, or, where that is nothing, those in the last lines of the server's log.
    ///
    /// # Errors
    /// `Auth` for want of `find` on `system.profile`, or of `getLog`; `Unsupported` through a mongos.
    async fn slow_operations(&self, database: &str, request: &SlowRequest) -> Result<SlowOperations>;

    /// Everything the server is doing, idle transactions included, idle connections not.
    ///
    /// # Errors
    /// `Auth` for want of `inprog`.
    async fn running_operations(&self) -> Result<Vec<RunningOperation>>;

    /// Asks the server to end an operation. It ends at its next safe point, which may take a while; an operation that is gone is no error.
    ///
    /// # Errors
    /// `Auth` for want of `killop`; `Refused` when `permit` is for another server or something else.
    async fn kill(&self, operation: &str, permit: &Permit) -> Result<()>;

    /// Where operations wait for one another.
    ///
    /// # Errors
    /// `Auth` for want of `serverStatus`; `Unsupported` through a mongos.
    async fn contention(&self) -> Result<Contention>;
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_kept_bit_for_bit() {
        for rate in [0.0, 0.1, 1.0 / 3.0, 1e-9, 1.0] {
            let kept = SampleRate::new(rate).unwrap();
            let text = serde_json::to_string(&kept).unwrap();
            assert_eq!(
                serde_json::from_str::<SampleRate>(&text).unwrap().get().to_bits(),
                rate.to_bits(),
                "{text}"
            );
        }
        for bad in ["", "-0.1", "1.1", "NaN", "x"] {
            assert!(bad.parse::<SampleRate>().is_err(), "{bad}");
        }
    }
}
