//! What operations need of a store of keys: which there are, and what each is, without a word of what they hold.

use std::time::Duration;

use async_trait::async_trait;
use mainstay_guard::Permit;
use mainstay_model::Result;
use serde::{Deserialize, Serialize};

use crate::part::ServerPart;

/// What a key's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// Bytes or a number.
    String,
    /// A list.
    List,
    /// A set.
    Set,
    /// A set whose members have scores.
    SortedSet,
    /// Fields with values.
    Hash,
    /// A stream with its groups.
    Stream,
    /// Something else: a module's.
    Other,
}

impl KeyKind {
    /// In lower case, for tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::List => "list",
            Self::Set => "set",
            Self::SortedSet => "sorted set",
            Self::Hash => "hash",
            Self::Stream => "stream",
            Self::Other => "other",
        }
    }
}

/// One key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// The number of its database.
    pub database: u64,
    /// Its name: any bytes.
    pub name: Vec<u8>,
    /// What its value is.
    pub kind: KeyKind,
    /// What it takes, in bytes; `None` when the store does not say.
    pub bytes: Option<u64>,
    /// How many elements its value has; `None` where that was not asked.
    pub elements: Option<u64>,
    /// When it expires, in milliseconds since 1970; `None` for never.
    pub expires_at: Option<i64>,
    /// Seconds since it was used last, where that is known.
    pub idle_seconds: Option<u64>,
}

/// One database of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyspaceSize {
    /// Its number.
    pub database: u64,
    /// Its keys.
    pub keys: u64,
    /// Those that expire.
    pub expiring: u64,
}

/// Which keys are asked for, and how gently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyScanRequest {
    /// The databases, in this order.
    pub databases: Vec<u64>,
    /// Only names that match this glob of the store.
    pub pattern: Option<Vec<u8>>,
    /// The longest that the store should be busy with one answer: others wait meanwhile.
    pub answer_time_max: Duration,
    /// The moment that remaining lifetimes are counted from, in milliseconds since 1970.
    pub now: i64,
    /// Whether it is asked since when keys were not used. A store that does not tell leaves it out.
    pub asks_idle: bool,
}

/// A store of keys.
#[async_trait]
pub trait Keyspace: Send + Sync {
    /// The key that holds the environment's marker, which nobody but its writer may touch.
    fn marker(&self) -> &'static [u8];

    /// Databases that hold keys, by number.
    async fn databases(&self) -> Result<Vec<KeyspaceSize>>;

    /// What the server holds of a cluster; `None` for one that has all keys of its own.
    async fn part(&self) -> Result<Option<ServerPart>>;

    /// Begins to list keys. What is there from beginning to end is told at least once; what comes, goes or is moved meanwhile may be missing
    /// or told twice. The store's memory of what was used last stays as it was.
    async fn scan<'a>(&'a self, request: KeyScanRequest) -> Result<Box<dyn KeyScan + 'a>>;

    /// Begins to list names alone, for those who remove keys. The same promises; `from` a place that an earlier sweep of the same process was
    /// at, for what was there all the while.
    async fn sweep<'a>(
        &'a self,
        request: KeyScanRequest,
        from: Option<&SweepPlace>,
    ) -> Result<Box<dyn KeySweep + 'a>>;

    /// Begins to remove keys whose names come from elsewhere, keeping the store busy for at most so long at a time.
    async fn removal<'a>(&'a self, answer_time_max: Duration) -> Result<Box<dyn KeyRemoval + 'a>>;
}

/// Where a sweep is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepPlace {
    /// Which process of the store: another one lists in another order.
    pub process: String,
    /// The number of the database under way; those before it in the request are done.
    pub database: u64,
    /// The store's own word for the place in it; 0 for its beginning.
    pub cursor: u64,
}

/// Names being listed, and removed as they come.
#[async_trait]
pub trait KeySweep: Send {
    /// The next names, possibly none; `None` behind the last.
    async fn next(&mut self) -> Result<Option<Vec<Vec<u8>>>>;

    /// Where it goes on behind the names told last; `None` when there is nothing behind them.
    fn place(&self) -> Option<SweepPlace>;

    /// Removes keys of the database whose names were told last; gives how many were there. Memory is freed behind everybody's back, and the names
    /// behind them are listed meanwhile.
    ///
    /// # Errors
    /// The permit must be for this server; the store's, with nothing said about how many of these keys are gone.
    async fn remove(&mut self, names: &[Vec<u8>], permit: &Permit) -> Result<u64>;
}

/// Keys being removed whose names come from elsewhere.
#[async_trait]
pub trait KeyRemoval: Send {
    /// Removes keys of a database; gives how many were there.
    ///
    /// # Errors
    /// As [`KeySweep::remove`].
    async fn remove(&mut self, database: u64, names: &[Vec<u8>], permit: &Permit) -> Result<u64>;
}

/// Keys being listed.
#[async_trait]
pub trait KeyScan: Send {
    /// The next names, possibly none; `None` behind the last.
    async fn names(&mut self) -> Result<Option<ListedNames>>;

    /// What the keys of these names are; those that have gone are left out. The names behind them are listed meanwhile.
    async fn describe(&mut self, listed: &ListedNames) -> Result<Vec<KeyRecord>>;

    /// Whether sizes are told: this user may not be allowed to ask for them.
    fn tells_bytes(&self) -> bool;

    /// The next keys, possibly none; `None` behind the last.
    async fn next(&mut self) -> Result<Option<Vec<KeyRecord>>> {
        let Some(listed) = self.names().await? else { return Ok(None) };
        self.describe(&listed).await.map(Some)
    }
}

/// Names of keys that the store has listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedNames {
    /// The number of their database.
    pub database: u64,
    /// The names.
    pub names: Vec<Vec<u8>>,
}

/// A key as it is carried from one server to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarriedKey {
    /// Its name.
    pub name: Vec<u8>,
    /// Its value in the store's own form, which says by itself what it is.
    pub payload: Vec<u8>,
    /// When it expires, in milliseconds since 1970; `None` for never.
    pub expires_at: Option<i64>,
}

/// Keys that are on their way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenKeys {
    /// How many of the names were dealt with: one at least, where there are any.
    pub names: usize,
    /// Those of them that are there, in the same order.
    pub keys: Vec<CarriedKey>,
}

/// What became of keys that were carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CarriedCount {
    /// Written.
    pub written: u64,
    /// Left as they were, because there are such keys.
    pub kept: u64,
}

/// A store between which and others of its kind keys are carried.
#[async_trait]
pub trait KeyCarrier: Send + Sync {
    /// Begins to take keys, on one connection.
    async fn taking<'a>(&'a self) -> Result<Box<dyn KeyTaking + 'a>>;

    /// Begins to put keys, on one connection. Those that are there stay as they are, unless they are to be replaced.
    ///
    /// # Errors
    /// The permit must be for this server; the store's.
    async fn putting<'a>(&'a self, replace: bool, permit: &Permit) -> Result<Box<dyn KeyPutting + 'a>>;
}

/// Keys being taken.
#[async_trait]
pub trait KeyTaking: Send {
    /// Keys of a database, of the first of `names`: as many as take `bytes_max` at most in the store's memory, and one however large it is. All
    /// their values are in memory at once.
    async fn take(&mut self, database: u64, names: &[Vec<u8>], bytes_max: u64) -> Result<TakenKeys>;
}

/// Keys being put.
#[async_trait]
pub trait KeyPutting: Send {
    /// Writes keys into a database. What is known to have become of them is added to `counted`, also when it fails.
    async fn put(&mut self, database: u64, keys: &[CarriedKey], counted: &mut CarriedCount) -> Result<()>;
}
