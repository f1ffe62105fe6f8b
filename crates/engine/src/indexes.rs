//! The indexes of a document store: what there is, what is being built, who uses it, and changing it.
//!
//! The contract in short. [`IndexCatalog`] reads; [`IndexControl`] changes, and each of its functions takes a
//! [`Permit`](mainstay_guard::Permit) for the server that answers: a build disturbs, an expiry deletes. Definitions cross as values of
//! `mainstay-indexes`, filters and pipelines as JSON in order, which an adapter turns into the server's own form. An answer of the server that
//! refuses keeps its code in the error, with the collection and the index that it is about.

use std::time::Duration;

use async_trait::async_trait;
use mainstay_guard::Permit;
use mainstay_indexes::{Collation, Json, ListedIndex};
use mainstay_model::{Error, Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{CollectionIdentity, CollectionKind, Namespace};

/// A collection with the indexes it has and is getting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexedCollection {
    /// Its name.
    pub namespace: Namespace,
    /// Its kind; views have no indexes, those of a time series are told as the server shows them.
    pub kind: CollectionKind,
    /// What the server calls it, whatever its name; `None` for views.
    pub identity: Option<CollectionIdentity>,
    /// The collation that its indexes inherit.
    pub collation: Collation,
    /// Its options as canonical Extended JSON.
    pub options: String,
    /// Its indexes in the server's order, those that are being built among them.
    pub indexes: Vec<ListedIndex>,
}

/// A build of indexes that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexBuild {
    /// On which collection.
    pub namespace: Namespace,
    /// The names of the indexes that it makes.
    pub indexes: Vec<String>,
    /// The id of the build, as [`ListedIndex::build`] tells it; empty when the server does not.
    pub build: String,
    /// The id of the operation that waits for it, for `killOp`.
    pub operation: Option<String>,
    /// What it is at.
    pub phase: BuildPhase,
    /// Steps done of this phase; `None` when the server does not tell.
    pub done: Option<u64>,
    /// Steps of this phase.
    pub total: Option<u64>,
    /// Since when it runs, in microseconds.
    pub micros: u64,
}

/// What a build is at. The order is the order in which they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildPhase {
    /// Nothing is told of it yet, or it waits: for a lock, for other members to commit.
    Waiting,
    /// It reads the collection.
    Scanning,
    /// It inserts the sorted keys.
    Inserting,
    /// It takes in what was written meanwhile.
    Draining,
}

/// What one member has counted of an index's use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberUsage {
    /// The member.
    pub member: String,
    /// How often it used the index.
    pub operations: u64,
    /// Since when it counts: its start, or the last change of the index.
    pub since: Timestamp,
}

/// The use of one index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexUsage {
    /// The collection.
    pub namespace: Namespace,
    /// Its name.
    pub name: String,
    /// What each member that answered has counted.
    pub members: Vec<MemberUsage>,
}

/// The use of the indexes of some collections, over all members that hold data.
#[derive(Debug)]
pub struct UsageReport {
    /// By collection as they were asked about, and by index in the server's order.
    pub indexes: Vec<IndexUsage>,
    /// Members that did not answer, each once; without them nothing can be called unused.
    pub silent: Vec<(String, Error)>,
}

impl UsageReport {
    /// The use of one index; `None` when no member told any.
    pub fn index(&self, namespace: &Namespace, name: &str) -> Option<&IndexUsage> {
        self.indexes.iter().find(|index| index.name == name && index.namespace == *namespace)
    }
}

/// An aggregation that reads.
#[derive(Debug, Clone, PartialEq)]
pub struct AggregateRequest {
    /// Its stages, as Extended JSON in order.
    pub pipeline: Vec<Json>,
    /// How texts are compared; byte by byte when `None`, whatever the collection says.
    pub collation: Option<Collation>,
    /// The index to use, by name.
    pub hint: Option<String>,
    /// The server gives up after this.
    pub time_max: Duration,
    /// How many results are kept at most; more are an error, so that nothing is judged by a part.
    pub results_max: usize,
}

/// The server's monitor that deletes what has expired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TtlMonitor {
    /// The member that answers, which is the one that deletes.
    pub member: String,
    /// Whether it is at work; `None` when this user may not know.
    pub enabled: Option<bool>,
    /// How many seconds it sleeps between two passes; `None` when this user may not know.
    pub sleep_seconds: Option<u64>,
    /// How many passes it has made since the server began.
    pub passes: u64,
    /// How many documents it has deleted since then.
    pub deleted: u64,
    /// How many seconds the server runs.
    pub uptime_seconds: u64,
    /// The server's clock, which decides what has expired.
    pub now: Timestamp,
}

/// Room on the volume that holds a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRoom {
    /// Its bytes.
    pub total_bytes: u64,
    /// Those that are free.
    pub free_bytes: u64,
}

/// The indexes of a document store, looked at.
#[async_trait]
pub trait IndexCatalog: Send + Sync {
    /// The collections of a database with their indexes, by name. The server's own are left out.
    async fn indexed_collections(&self, database: &str) -> Result<Vec<IndexedCollection>>;

    /// One collection; `None` when it is not there.
    async fn indexed_collection(&self, namespace: &Namespace) -> Result<Option<IndexedCollection>>;

    /// The builds under way on the server that answers, of one database or of all.
    ///
    /// # Errors
    /// `Auth` when this user may not see the operations of others.
    async fn index_builds(&self, database: Option<&str>) -> Result<Vec<IndexBuild>>;

    /// Who uses the indexes of these collections, asked of every member that holds data, each over one connection. A member that fails on one
    /// of them is silent about all; a collection that is not there has no indexes.
    async fn index_usage(&self, namespaces: &[Namespace]) -> Result<UsageReport>;

    /// What an aggregation gives, as canonical Extended JSON.
    ///
    /// # Errors
    /// `Precondition` when it gives more than is kept; `Server` when it took too long.
    async fn aggregate(&self, namespace: &Namespace, request: &AggregateRequest) -> Result<Vec<Json>>;

    /// Room on the volume of a database; `None` when the server or this user does not tell.
    async fn disk_room(&self, database: &str) -> Result<Option<DiskRoom>>;

    /// The clock of the server that answers, which decides what has expired. Everybody may ask.
    async fn server_time(&self) -> Result<Timestamp>;

    /// The monitor that deletes what has expired.
    ///
    /// # Errors
    /// `Auth` when this user may not ask; `Unsupported` through a mongos, where each shard has its own.
    async fn ttl_monitor(&self) -> Result<TtlMonitor>;
}

/// A change of an index where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "change")]
pub enum IndexChange {
    /// New duplicates are refused, or taken again (MongoDB 6.0 and later).
    PrepareUnique {
        /// Whether they are refused.
        on: bool,
    },
    /// It becomes unique. It must be prepared, and hold no duplicates.
    Unique,
    /// Documents expire after so many seconds.
    TtlSeconds {
        /// The number.
        seconds: i64,
    },
    /// Queries do not use it, or do again.
    Hidden {
        /// Whether it is hidden.
        hidden: bool,
    },
}

/// Whether an index could become unique now.
#[derive(Debug, Clone, PartialEq)]
pub struct UniqueVerdict {
    /// The `_id`s that share one key, for each such key that the server tells; none when it could.
    pub violations: Vec<Vec<Json>>,
}

/// How many members must have built an index before it is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommitQuorum {
    /// All that vote and hold data; the server's default.
    VotingMembers,
    /// Most of them.
    Majority,
    /// So many.
    Members(u32),
}

/// The indexes of a document store, changed.
#[async_trait]
pub trait IndexControl: IndexCatalog {
    /// Builds indexes in one pass over the collection, which is made when it is not there, and waits for their end. `definitions` are as
    /// [`DeclaredIndex::definition`](mainstay_indexes::DeclaredIndex::definition) gives them. A connection that breaks does not end a build,
    /// and asking again waits for it; one that is there already changes nothing. When this is cancelled the server may go on:
    /// [`IndexControl::drop_index`] ends a build, too.
    ///
    /// # Errors
    /// `Conflict` when a name or an equal index is in the way (server codes 85, 86) or documents are not unique (11000); the server's.
    async fn create_indexes(
        &self,
        namespace: &Namespace,
        definitions: &[Json],
        quorum: Option<&CommitQuorum>,
        permit: &Permit,
    ) -> Result<()>;

    /// Changes one index, by name.
    ///
    /// # Errors
    /// `Conflict` when it was to become unique and documents are not (server code 359); the server's.
    async fn change_index(
        &self,
        namespace: &Namespace,
        index: &str,
        change: IndexChange,
        permit: &Permit,
    ) -> Result<()>;

    /// Asks the server whether a prepared index could become unique now. Changes nothing.
    ///
    /// # Errors
    /// `Precondition` when it is not prepared (server code 72); the server's.
    async fn try_unique(&self, namespace: &Namespace, index: &str) -> Result<UniqueVerdict>;

    /// Drops one index by name, or ends its build, of which nothing is left. One that is not there is no error: `false`.
    async fn drop_index(&self, namespace: &Namespace, index: &str, permit: &Permit) -> Result<bool>;
}
