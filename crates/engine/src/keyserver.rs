//! Looking into a running server of keys: what it holds in memory and for whom, how it answers, what it has written to disk, which commands
//! were slow; and changing how it persists and evicts.
//!
//! Arguments of commands cross as [`CallText`]: they are somebody's data and stay out of sight unless they are asked for by name. Counters
//! are the server's own, since it began: a rate needs two looks. Nothing here walks over keys.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use mainstay_guard::Permit;
use mainstay_model::Result;
use serde::Serialize;

use crate::keyspace::KeyspaceSize;
use crate::literal::Literal;

/// A command with its arguments. Shown without their values; the whole of it is a [`Literal`], which must be asked for.
#[derive(Clone, PartialEq, Eq)]
pub struct CallText {
    masked: String,
    whole: Literal,
}

impl CallText {
    /// A command that reads `masked` without the values of its arguments, and `whole` with them.
    pub fn new(masked: String, whole: String) -> Self {
        Self { masked, whole: Literal::new("command", whole) }
    }

    /// The command with the sizes of its arguments in their places, and of a key its first words.
    pub fn masked(&self) -> &str {
        &self.masked
    }

    /// The command as it was sent. Somebody's data: only for whoever asked to see it.
    pub fn whole(&self) -> &Literal {
        &self.whole
    }
}

impl MemoryLook {
    /// The most that the server may use: its limit, and no more than its machine has; `None` where neither is known.
    pub fn room(&self) -> Option<u64> {
        [Some(self.used_max).filter(|max| *max > 0), self.machine].into_iter().flatten().min()
    }
}

impl fmt::Debug for CallText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked)
    }
}

/// A server at a glance. Where a number is `None`, the server does not tell it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KeyServerLook {
    /// When it was seen, in microseconds since 1970 by the server's clock.
    pub seen_micros: i64,
    /// Its version.
    pub version: String,
    /// `standalone`, `cluster`, `sentinel`.
    pub mode: String,
    /// Which process of the server answers: another one after each start.
    pub run: String,
    /// Since when it runs.
    pub uptime_seconds: u64,
    /// The file it was started with and can keep changes in; `None` without one.
    pub config_file: Option<String>,
    /// Who is connected.
    pub clients: ClientsLook,
    /// What it holds.
    pub memory: MemoryLook,
    /// What it did.
    pub traffic: TrafficLook,
    /// What it wrote to disk.
    pub persistence: PersistenceLook,
    /// Whom it copies, and who copies it.
    pub replication: ReplicationLook,
    /// Its databases.
    pub databases: Vec<KeyspaceSize>,
}

/// Who is connected to a server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ClientsLook {
    /// How many now.
    pub connected: u64,
    /// The most it allows.
    pub connected_max: Option<u64>,
    /// How many wait in a blocking command.
    pub blocked: u64,
    /// Connections turned away for want of room, since it began.
    pub rejected: u64,
    /// Connections cut because they did not read their answers, since it began.
    pub cut_off: u64,
}

/// What a server holds in memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct MemoryLook {
    /// Bytes that it asked for.
    pub used: u64,
    /// The most that ever were.
    pub used_peak: u64,
    /// Bytes that the system gave it.
    pub resident: u64,
    /// The most it may use; 0 for no limit.
    pub used_max: u64,
    /// What it does at that limit, in its own words: `noeviction`, `allkeys-lru`, ….
    pub eviction: String,
    /// Bytes given by the system for each byte asked for.
    pub fragmentation: Option<f64>,
    /// Bytes of keys and values, without what the server needs besides.
    pub dataset: Option<u64>,
    /// Memory of the machine.
    pub machine: Option<u64>,
    /// Keys removed to make room, since it began.
    pub evicted: u64,
    /// Writes refused for want of memory, since it began.
    pub refused: u64,
}

/// What a server did since it began.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TrafficLook {
    /// Commands.
    pub commands: u64,
    /// Look-ups that found their key.
    pub hits: u64,
    /// Look-ups that did not.
    pub misses: u64,
    /// Keys removed because their time had come.
    pub expired: u64,
    /// Share of expired keys that are still there, in percent, as the server guesses.
    pub expired_stale_percent: Option<f64>,
    /// Bytes read from clients.
    pub bytes_in: u64,
    /// Bytes sent to clients.
    pub bytes_out: u64,
    /// Errors answered, by their first word.
    pub errors: BTreeMap<String, u64>,
}

/// What a server wrote to disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PersistenceLook {
    /// Whether it is reading its data and answers hardly anything.
    pub loading: bool,
    /// Changes since the last snapshot.
    pub unsaved_changes: u64,
    /// When the last snapshot ended well, in seconds since 1970; when there was none, when the server began.
    pub saved_at: u64,
    /// Whether the last snapshot went well.
    pub save_ok: bool,
    /// Whether one is under way.
    pub saving: bool,
    /// Snapshots begun since the server began.
    pub saves: u64,
    /// Whether every change goes to the append-only file.
    pub log_on: bool,
    /// Whether that file is being rewritten, or soon will be.
    pub log_rewriting: bool,
    /// Whether the last rewrite went well.
    pub log_rewrite_ok: bool,
    /// How many rewrites have failed since the last that went well.
    pub log_rewrite_failures: u64,
    /// Whether the last write went well.
    pub log_write_ok: bool,
    /// Bytes of the base that the last rewrite made; `None` where there is no such file.
    pub log_base_bytes: Option<u64>,
    /// Bytes of the file now.
    pub log_bytes: Option<u64>,
    /// How often writing had to wait for the disk, since the server began.
    pub log_delayed: u64,
    /// How long the last fork took: so long did nobody get an answer.
    pub fork_micros: u64,
    /// When a snapshot is made: after so many seconds when so many changes came; `None` when the user may not know.
    pub save_after: Option<Vec<(u64, u64)>>,
}

/// Whom a server copies, and who copies it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ReplicationLook {
    /// Whether it copies another one.
    pub is_replica: bool,
    /// Whether that one answers; `None` of a server that copies nobody.
    pub link_up: Option<bool>,
    /// How many copy it.
    pub replicas: u64,
    /// The largest distance of a replica that is connected, in bytes of the stream.
    pub lag_bytes_max: Option<u64>,
    /// Bytes of the stream that a replica which was away may ask for.
    pub backlog_bytes: Option<u64>,
    /// Where the stream is.
    pub offset: Option<u64>,
    /// How many bytes go to each replica in a second, as the server reckons over its last moments.
    pub sent_bytes_per_second: Option<u64>,
}

/// What memory is taken by, in bytes. Where a number is `None`, the server does not tell it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct MemoryParts {
    /// Keys and values.
    pub dataset: Option<u64>,
    /// What the server needs to begin with.
    pub startup: Option<u64>,
    /// Buffers for replicas.
    pub replicas: Option<u64>,
    /// What replicas that were away may ask for.
    pub backlog: Option<u64>,
    /// Buffers of clients.
    pub clients: Option<u64>,
    /// What waits to be written to the append-only file.
    pub log: Option<u64>,
    /// Scripts and functions.
    pub scripts: Option<u64>,
    /// Tables of keys and of expiries.
    pub tables: Option<u64>,
    /// How many keys there are.
    pub keys: Option<u64>,
    /// Bytes for each key, all in all.
    pub bytes_per_key: Option<u64>,
    /// Bytes that the allocator has and does not use, beside those in use.
    pub allocator_waste: Option<u64>,
    /// What the server itself has to say about its memory, in its words.
    pub doctor: Option<String>,
}

/// A command that was slow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlowCall {
    /// The server's number for it: larger than those before, from nothing on after each start.
    pub id: u64,
    /// When it was given, in seconds since 1970 by the server's clock.
    pub at: i64,
    /// How long the server was busy with it.
    pub micros: u64,
    /// The command's name, in upper case.
    pub name: String,
    /// The command.
    pub text: CallText,
    /// Where it came from.
    pub client: Option<String>,
    /// What that connection calls itself.
    pub client_name: Option<String>,
}

/// The slow commands that a server remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlowCalls {
    /// The newest first.
    pub calls: Vec<SlowCall>,
    /// From how many microseconds on one is remembered; negative for none. `None` when the user may not know.
    pub threshold_micros: Option<i64>,
    /// How many it remembers at most; `None` when the user may not know.
    pub kept_max: Option<u64>,
}

/// What the calls of one command cost since the server began, or since its statistics were reset.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CommandCost {
    /// Its name, `config|get` for the part of one.
    pub name: String,
    /// How often it was given.
    pub calls: u64,
    /// How long the server was busy with it, in microseconds.
    pub micros: u64,
    /// How often it was turned away before it began.
    pub rejected: u64,
    /// How often it failed.
    pub failed: u64,
    /// Half the calls took at most so many microseconds.
    pub p50_micros: Option<f64>,
    /// 99 of 100 calls did.
    pub p99_micros: Option<f64>,
    /// 999 of 1,000 calls did.
    pub p999_micros: Option<f64>,
}

/// Settings by name, as the server writes them.
pub type KeyServerSettings = BTreeMap<String, String>;

/// A running server of keys, looked at.
#[async_trait]
pub trait KeyServerInspection: Send + Sync {
    /// Where it is, without credentials.
    fn address(&self) -> String;

    /// The server at a glance.
    async fn look(&self) -> Result<KeyServerLook>;

    /// What its memory is taken by.
    async fn memory(&self) -> Result<MemoryParts>;

    /// The slow commands it remembers, at most so many, the newest first.
    async fn slow_calls(&self, count_max: u32) -> Result<SlowCalls>;

    /// What each command cost, in no order.
    async fn command_costs(&self) -> Result<Vec<CommandCost>>;

    /// The settings of these names. One that the server does not have is missing.
    ///
    /// # Errors
    /// `Auth` when this user may not know.
    async fn settings(&self, names: &[&str]) -> Result<KeyServerSettings>;
}

/// A running server of keys, whose settings can be changed. Each function checks that the permit is for the server that answers.
#[async_trait]
pub trait KeyServerControl: KeyServerInspection {
    /// Changes settings, all or none of them, at once and until the server ends.
    async fn set(&self, settings: &KeyServerSettings, permit: &Permit) -> Result<()>;

    /// Writes the settings as they are into the file that the server was started with, so that they outlive it. Durable when it returns.
    ///
    /// # Errors
    /// `Precondition` when there is no such file or it cannot be replaced; the error says why, and nothing was changed then.
    async fn keep(&self, permit: &Permit) -> Result<()>;

    /// [`KeyServerControl::set`] and [`KeyServerControl::keep`] with no write of anybody in between.
    ///
    /// # Errors
    /// As both; when only keeping failed, the settings are changed until the server ends, and the state says so.
    async fn set_and_keep(&self, settings: &KeyServerSettings, permit: &Permit) -> Result<()>;

    /// Begins a snapshot. Whether it ends well, [`KeyServerInspection::look`] tells.
    ///
    /// # Errors
    /// `Conflict` when one is under way; whoever wants one that begins now waits and tries again.
    async fn begin_snapshot(&self, permit: &Permit) -> Result<()>;
}
