//! Loading the sample into servers: raw batches over several connections, indexes after the data, keys in pipelines.
//!
//! A load first looks whether the collections are free (or drops them when told to), creates the special ones with their options,
//! inserts, builds the indexes, and then writes the Redis keys. It is not resumable: a load that failed is repeated with `drop`.

mod mongo;
mod redis;

use crate::collection::Collection;
use crate::sample::Sample;
use std::fmt;
use std::time::{Duration, Instant};

/// The servers to load into. Either may be left out. The URLs may hold passwords, so this type does not print them.
#[derive(Clone, Default)]
pub struct LoadTarget {
    /// Where the documents go.
    pub mongo: Option<MongoTarget>,
    /// The URL of the Redis that the keys go to, `redis://host:port/database`.
    pub redis_url: Option<String>,
}

/// A MongoDB database to load into.
#[derive(Clone)]
pub struct MongoTarget {
    /// The connection string.
    pub url: String,
    /// The database.
    pub database: String,
}

impl fmt::Debug for LoadTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let database = self.mongo.as_ref().map(|mongo| &mongo.database);
        f.debug_struct("LoadTarget")
            .field("database", &database)
            .field("redis", &self.redis_url.is_some())
            .finish()
    }
}

impl fmt::Debug for MongoTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MongoTarget").field("database", &self.database).finish_non_exhaustive()
    }
}

/// What to load and how.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The sample.
    pub sample: Sample,
    /// Bytes of [`Collection::Orders`] to load beside it, rounded up to whole documents; zero for none.
    pub bulk_bytes: u64,
    /// Redis keys to load beside the sample's: [`crate::keys::bulk_entries`].
    pub bulk_keys: u64,
    /// Whether to drop the collections and keys that this load writes first. Nothing else is dropped.
    pub drop: bool,
    /// Inserts under way at once, each on its own connection; at least 1.
    pub connections: usize,
}

impl LoadOptions {
    /// Loads a sample over four connections, refusing to overwrite.
    pub fn new(sample: Sample) -> LoadOptions {
        LoadOptions { sample, bulk_bytes: 0, bulk_keys: 0, drop: false, connections: 4 }
    }

    /// The number of documents of a collection that the load writes.
    pub fn count(&self, collection: Collection) -> u64 {
        match collection {
            Collection::Orders => self.bulk_bytes.div_ceil(crate::ORDER_BYTES),
            _ => self.sample.count(collection),
        }
    }

    /// The collections that the load writes, with their numbers of documents.
    fn collections(&self) -> Vec<(Collection, u64)> {
        let all = Collection::ALL.into_iter().chain([Collection::Orders]);
        all.map(|collection| (collection, self.count(collection))).filter(|&(_, count)| count > 0).collect()
    }
}

/// What a load wrote.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// Each collection written, in order.
    pub collections: Vec<CollectionLoad>,
    /// The special collections that this server refused to create.
    pub skipped: Vec<SkippedCollection>,
    /// Redis keys written.
    pub key_count: u64,
    /// Time of the inserts.
    pub documents_took: Duration,
    /// Time of the index builds.
    pub indexes_took: Duration,
    /// Time of the Redis keys.
    pub keys_took: Duration,
}

/// What a load wrote into one collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectionLoad {
    /// The collection.
    pub collection: Collection,
    /// Documents written.
    pub documents: u64,
    /// Bytes of BSON written.
    pub bytes: u64,
}

/// A special collection that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedCollection {
    /// The collection.
    pub collection: Collection,
    /// What the server answered.
    pub reason: String,
}

impl LoadReport {
    /// Documents written to all collections.
    pub fn documents(&self) -> u64 {
        self.collections.iter().map(|load| load.documents).sum()
    }

    /// Bytes of BSON written to all collections.
    pub fn bytes(&self) -> u64 {
        self.collections.iter().map(|load| load.bytes).sum()
    }
}

/// Why a load ended early. What was written until then stays.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Neither server was named.
    #[error("no server to load into")]
    NoTarget,
    /// A collection of the sample is already there.
    #[error("collection {database}.{collection} exists")]
    Exists {
        /// The database.
        database: String,
        /// The first collection or view found.
        collection: String,
    },
    /// A database without the means to talk to it, or a command it refused.
    #[error("{action}: {message}")]
    Mongo {
        /// What was tried.
        action: String,
        /// What the driver or the server said, without secrets.
        message: String,
    },
    /// The server took a batch but refused documents of it.
    #[error("insert into {collection}: {refused} documents refused, the first with: {message}")]
    Documents {
        /// The collection.
        collection: &'static str,
        /// How many of the batch were refused.
        refused: usize,
        /// What the server said of the first.
        message: String,
    },
    /// Redis could not be reached or refused a command.
    #[error("{action}: {message}")]
    Redis {
        /// What was tried.
        action: &'static str,
        /// What the driver or the server said, without secrets.
        message: String,
    },
}

impl LoadError {
    /// What the user can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            LoadError::NoTarget => {
                "give --mongo-url or --redis-url, or set MARKETPLACE_MONGO_URL or MARKETPLACE_REDIS_URL"
            }
            LoadError::Exists { .. } => {
                "add --drop to replace the sample's collections, or load into another --db"
            }
            LoadError::Mongo { .. } => "check the server with `mongosh` and repeat the load with --drop",
            LoadError::Documents { .. } => {
                "repeat the load with --drop; the sample's documents are valid for MongoDB 5.0 and later"
            }
            LoadError::Redis { .. } => {
                "check the server with `redis-cli ping` and repeat the load with --drop"
            }
        }
    }
}

/// The part of a load that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Inserting documents; bytes are BSON.
    Documents,
    /// Building indexes, counted by collection.
    Indexes,
    /// Writing Redis keys.
    Keys,
}

/// How far a phase has come.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// The phase.
    pub phase: Phase,
    /// Documents, collections or keys done.
    pub done: u64,
    /// Documents, collections or keys to do.
    pub total: u64,
    /// Bytes of BSON written; zero in the other phases.
    pub bytes: u64,
    /// About how many bytes will be written; zero in the other phases.
    pub bytes_total: u64,
    /// Time since the phase began.
    pub elapsed: Duration,
}

impl Snapshot {
    /// Bytes per second since the phase began.
    pub fn bytes_per_second(&self) -> f64 {
        rate(self.bytes, self.elapsed)
    }

    /// Documents, collections or keys per second since the phase began.
    pub fn rate(&self) -> f64 {
        rate(self.done, self.elapsed)
    }

    /// The time left at the rate so far; nothing before there is a rate.
    pub fn eta(&self) -> Option<Duration> {
        let (done, total) =
            if self.bytes_total > 0 { (self.bytes, self.bytes_total) } else { (self.done, self.total) };
        let left = total.saturating_sub(done) as f64;
        let rate = rate(done, self.elapsed);
        (rate > 0.0).then(|| Duration::try_from_secs_f64(left / rate).unwrap_or(Duration::MAX))
    }
}

fn rate(done: u64, elapsed: Duration) -> f64 {
    let seconds = elapsed.as_secs_f64();
    if seconds > 0.0 { done as f64 / seconds } else { 0.0 }
}

/// Is told how a load comes along: at the beginning of each phase, after each step, from one task at a time.
pub trait Progress: Send + Sync {
    /// Takes notice of a new state; must not block for long.
    fn report(&self, snapshot: &Snapshot);
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn report(&self, _snapshot: &Snapshot) {}
}

/// The state of the phase under way, shared by those who work on it.
struct Meter<'a> {
    progress: &'a dyn Progress,
    begun: Instant,
    state: std::sync::Mutex<Snapshot>,
}

impl<'a> Meter<'a> {
    fn begin(progress: &'a dyn Progress, phase: Phase, total: u64, bytes_total: u64) -> Meter<'a> {
        let state = Snapshot { phase, done: 0, total, bytes: 0, bytes_total, elapsed: Duration::ZERO };
        let meter = Meter { progress, begun: Instant::now(), state: state.into() };
        meter.add(0, 0);
        meter
    }

    fn add(&self, done: u64, bytes: u64) {
        let mut state = self.state.lock().expect("nobody panics while reporting");
        state.done += done;
        state.bytes += bytes;
        state.elapsed = self.begun.elapsed();
        self.progress.report(&state);
    }

    fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}

/// Loads the sample, and the bulk if any, into the target.
///
/// Needs a Tokio runtime; generates on its blocking threads. Documents are acknowledged by the primary alone while they stream in and
/// by the majority at the end, when the indexes are built.
///
/// # Errors
/// See [`LoadError`]. Repeat a failed load with [`LoadOptions::drop`].
pub async fn load(
    target: &LoadTarget,
    options: &LoadOptions,
    progress: &dyn Progress,
) -> Result<LoadReport, LoadError> {
    if target.mongo.is_none() && target.redis_url.is_none() {
        return Err(LoadError::NoTarget);
    }
    let mut report = LoadReport::default();
    if let Some(mongo) = &target.mongo {
        Box::pin(mongo::load(mongo, options, progress, &mut report)).await?;
    }
    if let Some(url) = &target.redis_url {
        Box::pin(redis::load(url, options, progress, &mut report)).await?;
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_follows_the_bytes_where_they_are_known() {
        let mut snapshot = Snapshot {
            phase: Phase::Documents,
            done: 90,
            total: 100,
            bytes: 100,
            bytes_total: 400,
            elapsed: Duration::from_secs(10),
        };
        assert_eq!(snapshot.eta(), Some(Duration::from_secs(30)));
        snapshot.bytes_total = 0;
        assert_eq!(snapshot.eta().map(|eta| eta.as_secs()), Some(1));
        snapshot.done = 0;
        assert_eq!(snapshot.eta(), None);
    }

    #[test]
    fn targets_do_not_print_their_urls() {
        let mongo = MongoTarget { url: "mongodb://app:secret@db".to_owned(), database: "shop".to_owned() };
        let target = LoadTarget { mongo: Some(mongo), redis_url: Some("redis://:secret@db".to_owned()) };
        assert!(!format!("{target:?} {:?}", target.mongo).contains("secret"));
    }
}
