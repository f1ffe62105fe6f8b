//! What the tests share: a clock that stands still, repositories, data that is always the same.

use std::sync::Arc;

use bytes::Bytes;
use jiff::SignedDuration;
use mainstay_model::{Clock, ManualClock, ObjectName, StoreKind, Timestamp};
use mainstay_repository::{Compression, Repository, RepositoryOptions, Set, VerifyReport};
use mainstay_store::{Location, Store, StoreOptions};

/// A clock at an instant of its own.
pub(crate) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp::from_second(1_795_000_000).unwrap()))
}

/// More than any lease of a set lives.
pub(crate) const LONG: SignedDuration = SignedDuration::from_secs(3600);

/// Two threads whatever the machine has.
pub(crate) fn options() -> RepositoryOptions {
    RepositoryOptions { compression: Compression { level: 1, threads: 2 }, ..RepositoryOptions::default() }
}

pub(crate) async fn repository(store: &Store, clock: &Arc<ManualClock>) -> Repository {
    let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(clock);
    Repository::open_or_create(store.clone(), clock, options()).await.unwrap()
}

/// A store in a temporary directory, which goes with the first value.
pub(crate) fn directory() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&Location::directory(folder.path()), &StoreOptions::default()).unwrap();
    (folder, store)
}

pub(crate) fn name(text: &str) -> ObjectName {
    ObjectName::from_parts(text.split('/'))
}

/// Numbers that look random and are the same in every run (xorshift64*).
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// `length` bytes that do not compress.
    pub(crate) fn noise(&mut self, length: usize) -> Bytes {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes.into()
    }

    /// `length` bytes that compress like documents do.
    pub(crate) fn documents(&mut self, length: usize) -> Bytes {
        let mut text = Vec::with_capacity(length + 128);
        while text.len() < length {
            let line =
                format!("{{\"_id\":{},\"status\":\"open\",\"total\":{}}}\n", self.next(), self.below(5_000));
            text.extend_from_slice(line.as_bytes());
        }
        text.truncate(length);
        text.into()
    }
}

/// A committed set with a few small objects.
pub(crate) async fn small_set(repository: &Repository) -> Set {
    let writer = repository.begin_set(StoreKind::Mongo, "test").await.unwrap();
    let objects = [("shop/users.bson", 700), ("shop/users.metadata.json", 60), ("shop/empty.bson", 0)];
    for (seed, (text, length)) in (1..).zip(objects) {
        writer.put(&name(text), "documents", Numbers::new(seed).documents(length)).await.unwrap();
    }
    writer.commit(&serde_json::json!({"databases": ["shop"], "documents": 12})).await.unwrap()
}

pub(crate) async fn verify(repository: &Repository, set: &Set) -> VerifyReport {
    repository.verify(set, &|_| None, 4, &mainstay_model::progress::Silent).await.unwrap()
}
