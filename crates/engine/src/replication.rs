//! A store's stream of changes, as its replicas get it, and a store that is filled as a replica.
//!
//! The contract in short. A [`ReplicationSource`] goes on after a point where the server proves that nothing lies between, and otherwise gives
//! all keys as one file and the stream behind it. A [`ReplicationStream`] gives bytes without a gap; their positions are counted by whoever
//! takes them. What was acknowledged is durable. A [`ReplicaTarget`] takes such a file and such bytes as if a primary sent them, so that a
//! server shows what its primary showed, expiry included, and says exactly how far it has got.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mainstay_guard::Permit;
use mainstay_model::progress::Observer;
use mainstay_model::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::keyfile::KeyFile;
use crate::keyspace::KeyspaceSize;

/// A place in a server's stream of changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicationPoint {
    /// The stream.
    pub id: String,
    /// Bytes of it.
    pub offset: u64,
}

impl ReplicationPoint {
    /// The name of a stream as servers give it, 40 hexadecimal digits; `None` of anything else: it goes into names, files and terminals.
    pub fn id_of(bytes: &[u8]) -> Option<String> {
        let is_id = bytes.len() == 40 && bytes.iter().all(u8::is_ascii_hexdigit);
        is_id.then(|| bytes.iter().copied().map(char::from).collect())
    }
}

/// Where a server's stream stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicationFacts {
    /// Which server it is.
    pub fingerprint: String,
    /// Whether that outlives a restart.
    pub is_marked: bool,
    /// The present point.
    pub at: ReplicationPoint,
    /// The stream that the server went on with when it took over, and up to where that leads here.
    pub earlier: Option<ReplicationPoint>,
    /// What the server keeps for replicas that come back; `None` when it keeps nothing yet.
    pub backlog: Option<Backlog>,
}

impl ReplicationFacts {
    /// Whether what the server has now follows from `point`.
    pub fn follow_from(&self, point: &ReplicationPoint) -> bool {
        let through = |end: &ReplicationPoint| end.id == point.id && point.offset <= end.offset;
        through(&self.at) || self.earlier.as_ref().is_some_and(through)
    }
}

/// The end of a stream that a server keeps in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Backlog {
    /// How many bytes it keeps at most.
    pub bytes_max: u64,
    /// The position after which it has everything.
    pub after: u64,
    /// The most memory that the server may use, where it tells.
    pub room: Option<u64>,
}

impl Backlog {
    /// Who follows a stream should be able to be away for so many seconds.
    pub const SLACK_SECONDS_WANTED: u64 = 600;
    /// Below this it is worth a warning: a restart of whoever follows takes longer.
    pub const SLACK_SECONDS_MIN: u64 = 120;
    /// No advice is below this, unless the server's memory has no room for it.
    const ADVISED_BYTES_MIN: u64 = 64 << 20;
    /// The part of its memory that a server should keep of its stream at most.
    const ROOM_PART: u64 = 8;

    /// How much a server whose stream grows so fast should keep: a power of two, not too little, and not too much for its `room`.
    pub fn advised_bytes(bytes_per_second: u64, room: Option<u64>) -> u64 {
        let wanted = bytes_per_second.saturating_mul(Self::SLACK_SECONDS_WANTED);
        let wanted = wanted.checked_next_power_of_two().unwrap_or(1 << 63).max(Self::ADVISED_BYTES_MIN);
        let most = room.and_then(|room| (room / Self::ROOM_PART).checked_ilog2()).map(|log| 1 << log);
        wanted.min(most.unwrap_or(u64::MAX))
    }
}

/// What following gives.
pub enum FollowedReplication {
    /// The stream goes on after the point that was asked for.
    Continued {
        /// Its name now: another one when another server took over.
        id: String,
        /// What follows.
        stream: Box<dyn ReplicationStream>,
    },
    /// The server cannot go on from there: all keys, and the stream behind them.
    Anew {
        /// The point that the keys show.
        at: ReplicationPoint,
        /// The keys.
        file: Box<dyn ReplicationFile>,
    },
}

/// Gives a server's stream of changes.
#[async_trait]
pub trait ReplicationSource: Send + Sync {
    /// Where the stream stands.
    async fn replication_facts(&self) -> Result<ReplicationFacts>;

    /// Goes on after `after`, or begins anew when the server cannot or nothing was asked for.
    ///
    /// # Errors
    /// `Auth` when the user may not replicate; `Unreachable` while the server loads its data or has lost its own primary.
    async fn follow_replication(&self, after: Option<&ReplicationPoint>) -> Result<FollowedReplication>;
}

/// All keys of a server, and the stream behind them.
#[async_trait]
pub trait ReplicationFile: KeyFile {
    /// The stream that follows. Only when the file has come to its end.
    ///
    /// # Errors
    /// The connection's.
    async fn stream(self: Box<Self>) -> Result<Box<dyn ReplicationStream>>;
}

/// A stream being followed.
#[async_trait]
pub trait ReplicationStream: Send {
    /// The next bytes; `None` when none came for as long as `patience`. May be dropped while it waits.
    ///
    /// # Errors
    /// `Unreachable` when the connection broke or the server ended it.
    async fn next(&mut self, patience: Duration) -> Result<Option<Bytes>>;

    /// Tells the server that everything up to `durable` is durable here, and that it is not alone.
    ///
    /// # Errors
    /// The connection's.
    async fn acknowledge(&mut self, durable: u64) -> Result<()>;
}

/// Which program a server of keys is. What one writes another cannot always read, however the versions compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyServerName {
    /// Redis.
    Redis,
    /// Valkey.
    Valkey,
}

/// A server's program, and its own version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyServerProgram {
    /// Which one.
    pub name: KeyServerName,
    /// As it says it, such as `8.0.2`.
    pub version: String,
}

impl KeyServerProgram {
    /// The first two numbers of the version, which decide what it reads; `None` when it has none.
    pub fn release(&self) -> Option<(u32, u32)> {
        let mut parts = self.version.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

impl fmt::Display for KeyServerProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.name {
            KeyServerName::Redis => "Redis",
            KeyServerName::Valkey => "Valkey",
        };
        write!(f, "{name} {}", self.version)
    }
}

/// Whom a server replicates from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrimaryAddress {
    /// As the server was told it.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for PrimaryAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A server that may be filled, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaFacts {
    /// Which server it is.
    pub fingerprint: String,
    /// Its process: another one after each start.
    pub process: String,
    /// What it is.
    pub program: KeyServerProgram,
    /// Whom it replicates from; `None` for a server of its own.
    pub primary: Option<PrimaryAddress>,
    /// Databases that hold keys; environment's markers are not counted.
    pub databases: Vec<KeyspaceSize>,
    /// The environment's markers in it, of which there is one for each database that somebody has marked.
    pub markers: Vec<KeptMarker>,
    /// Why it cannot be filled, whatever it holds.
    pub obstacle: Option<FillObstacle>,
    /// Whether it is reached by TLS over a network, and would come for what fills it without.
    pub comes_unencrypted: bool,
    /// How much it has room for.
    pub room: ReplicaRoom,
}

/// The environment's marker of a database as the server keeps it, its fingerprint with it, to be put back just so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptMarker {
    /// Where it is.
    pub database: u64,
    /// Its fields; what they mean, the adapter and `guard` know.
    pub fields: BTreeMap<String, String>,
}

/// What keeps a server from being filled, known without touching it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FillObstacle {
    /// Sentinels watch it, and would take it for a replica while it is filled.
    Watched {
        /// What they call it, where it was named by them.
        name: Option<String>,
    },
    /// It is a node of a cluster.
    ClusterNode,
    /// It replicates over TLS alone.
    TlsReplication,
}

impl FillObstacle {
    /// The refusal to fill the server at `address`, before anything was changed.
    pub fn refusal(&self, address: &str) -> Error {
        let (what, hint) = match self {
            Self::Watched { name } => {
                let (watched, by, itself) = match name {
                    Some(name) => {
                        (name.clone(), name.as_str(), ", and name the server itself: `--redis-url redis://host:port`")
                    }
                    None => (format!("the server at {address}"), "NAME", ""),
                };
                (
                    format!("Sentinels watch {watched}: they would take a server that is being filled for a replica"),
                    format!(
                        "have them look away meanwhile: type `SENTINEL REMOVE {by}` on each of them, and `SENTINEL MONITOR` when it is filled{itself}"
                    ),
                )
            }
            Self::ClusterNode => (
                format!("the server at {address} is a node of a cluster, which cannot be filled"),
                "name a single server with --redis-url, or look at the keys in a throw-away one: `--into scratch`".to_owned(),
            ),
            Self::TlsReplication => (
                format!("the server at {address} replicates over TLS alone, and this process speaks to it without"),
                "type `CONFIG SET tls-replication no` on it while it is filled, or name another server with --redis-url".to_owned(),
            ),
        };
        Error::new(ErrorKind::Precondition, what).with_state("nothing was changed").with_hint(hint)
    }
}

/// What a server has room for, as far as it tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReplicaRoom {
    /// How many databases it has. One more ends it, for good: it takes its own file for broken from then on.
    pub databases: Option<u64>,
    /// What its keys may take in memory, in bytes; `None` also where that is as much as there is.
    pub memory_bytes: Option<u64>,
}

/// A fill that was begun: what is written down before the server is told of it, so that what is left of it can be known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BegunFill {
    /// The server's process.
    pub process: String,
    /// Where it was to come.
    pub primary: PrimaryAddress,
    /// The name of the stream that it was to get, which no other has.
    pub stream: String,
    /// The server's own markers, which go with its keys and are to stand in it afterwards.
    #[serde(default)]
    pub markers: Vec<KeptMarker>,
}

/// How a server keeps what it was filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WrittenAs {
    /// Its append-only file was made anew, and goes on.
    AppendOnlyFile,
    /// A snapshot shows all of it; what is written from then on is kept as the server's own rules say.
    Snapshot,
    /// Nothing: the user may not have a snapshot made, so that a restart loads what lies there.
    Nothing,
}

/// A server that takes what a primary would send it.
#[async_trait]
pub trait ReplicaTarget: Send + Sync {
    /// What it is now.
    async fn replica_facts(&self) -> Result<ReplicaFacts>;

    /// Opens a place for the server to come to. It does not hear of it yet.
    ///
    /// # Errors
    /// `Storage` when there is no such place.
    async fn invite(&self) -> Result<Box<dyn ReplicaInvitation>>;

    /// Takes back a fill, whatever became of it: the server is one of its own again, empty if what it held is gone or is of the fill, and else
    /// with what it held. Its own markers are put back where they have gone with its keys, unless the user may not write them. Tells which, for
    /// people. Waits while it loads. From then on it counts as the server of the permit, even if it has no marker.
    ///
    /// # Errors
    /// `StalePlan` when it is another process, a replica of somebody else, or takes writes with what it was filled with; the permit must be for
    /// filling this server; the server's.
    async fn take_back(&self, fill: &BegunFill, permit: &Permit) -> Result<&'static str>;
}

/// A place for a server to come to.
#[async_trait]
pub trait ReplicaInvitation: Send {
    /// Where it is.
    fn primary(&self) -> &PrimaryAddress;

    /// Makes the server a replica of this process, which will send a file of `file_bytes` bytes that shows `at`. All its keys go when the file
    /// has come. When this fails or is dropped, [`ReplicaTarget::take_back`] puts the server right.
    ///
    /// # Errors
    /// The permit must be for this server; `Auth` when the user may not make it a replica; `Unreachable` when it does not come.
    async fn feed(
        self: Box<Self>,
        at: &ReplicationPoint,
        file_bytes: u64,
        permit: &Permit,
    ) -> Result<Box<dyn ReplicaFeed>>;
}

/// A server being filled. Dropping it leaves the server a replica of nobody that answers: see [`ReplicaTarget::take_back`].
#[async_trait]
pub trait ReplicaFeed: Send {
    /// Sends the next bytes: of the file, then of the stream.
    ///
    /// # Errors
    /// `Unreachable` when the server has gone away or does not take the file.
    async fn send(&mut self, bytes: Bytes) -> Result<()>;

    /// Waits until the server has acknowledged every byte that was sent, and gives its position, which is exactly that.
    ///
    /// # Errors
    /// `Server` when it acknowledges another one, or has refused a command of the stream; `Unreachable` when it falls silent.
    async fn settle(&mut self) -> Result<u64>;

    /// Moves every moment of expiry by so many milliseconds, of keys and of fields, in steps that each keep the server busy for a moment. Only
    /// when settled; ends settled. May be dropped while it waits.
    ///
    /// # Errors
    /// As [`ReplicaFeed::settle`].
    async fn shift_expiry(&mut self, by_ms: i64) -> Result<()>;

    /// Removes the environment's markers that came with the keys, which are another server's, and writes `own` in their place: no moment in which
    /// it takes writes shows anything else. Gives its databases, markers not counted, with the keys whose time has passed meanwhile: a
    /// replica keeps them. Only when settled; ends settled.
    ///
    /// # Errors
    /// As [`ReplicaFeed::settle`].
    async fn take_identity(&mut self, own: &[KeptMarker]) -> Result<Vec<KeyspaceSize>>;

    /// Makes it a server of its own.
    ///
    /// # Errors
    /// The server's.
    async fn promote(&mut self) -> Result<()>;

    /// Waits until a restart would bring back what the server holds: until the append-only file is written that a server begins anew when it is
    /// filled, or, of a server without one, a snapshot that begins now. Only when promoted. May be dropped while it waits; the server goes on.
    ///
    /// # Errors
    /// `Server` when it could not write, or began anew meanwhile; `Unreachable` when it does not answer.
    async fn write_down(&mut self, observer: &dyn Observer) -> Result<WrittenAs>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_without_markers_is_read() {
        let noted = r#"{"process":"p","primary":{"host":"h","port":1},"stream":"s"}"#;
        let read: Option<BegunFill> = serde_json::from_str(noted).ok();
        assert_eq!(read.map(|fill| fill.markers), Some(Vec::new()));
    }

    #[test]
    fn every_obstacle_is_a_precondition_with_something_to_type() {
        let named = FillObstacle::Watched { name: Some("shop".to_owned()) };
        for (obstacle, told, hint) in [
            (named, "Sentinels watch shop", "SENTINEL REMOVE shop"),
            (
                FillObstacle::Watched { name: None },
                "Sentinels watch the server at h:1",
                "SENTINEL REMOVE NAME",
            ),
            (FillObstacle::ClusterNode, "h:1 is a node of a cluster", "--into scratch"),
            (FillObstacle::TlsReplication, "h:1 replicates over TLS", "CONFIG SET tls-replication no"),
        ] {
            let refusal = obstacle.refusal("h:1");
            assert_eq!(refusal.kind(), ErrorKind::Precondition, "{obstacle:?}");
            assert!(refusal.message().contains(told), "{refusal:?}");
            assert!(refusal.hint().is_some_and(|shown| shown.contains(hint)), "{refusal:?}");
        }
    }

    #[test]
    fn advice_lasts_for_ten_minutes_and_fits_into_the_server() {
        let cases: [(u64, Option<u64>, u64); 6] = [
            (0, None, 64 << 20),
            (1 << 20, None, 1 << 30),
            (1 << 20, Some(16 << 30), 1 << 30),
            (1 << 40, Some(16 << 30), 2 << 30),
            (0, Some(100 << 20), 8 << 20),
            (u64::MAX, None, 1 << 63),
        ];
        for (rate, room, advised) in cases {
            assert_eq!(Backlog::advised_bytes(rate, room), advised, "{rate} {room:?}");
        }
    }
}
