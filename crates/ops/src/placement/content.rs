//! A collection's documents and definition, wherever they come from, and the loading of them.

use async_trait::async_trait;
use mainstay_engine::{
    ChangeCounts, CollectionIdentity, CollectionKind, DocumentBatch, DocumentDigest, DocumentFailure,
    DocumentSink, LoadOutcome, Loader, Namespace,
};
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{OpTime, Result};

/// How many refused documents are named; all are counted.
const FAILURE_COUNT_SHOWN: usize = 20;

/// A collection to bring.
#[async_trait]
pub(crate) trait Content: Send + Sync {
    /// What it is.
    fn kind(&self) -> CollectionKind;

    /// Its documents, where they are known before they come.
    fn digest(&self) -> Option<DocumentDigest>;

    /// The options and indexes that it must have in the end, as text.
    fn metadata(&self) -> &str;

    /// How a log goes on after they are loaded; `None` when none is replayed into it.
    fn log(&self) -> Option<Logged> {
        None
    }

    /// Loads all its documents, once. Gives what became of them and what they were.
    ///
    /// # Errors
    /// `Corrupt` when they are not what was promised: then the collection must not be put in place.
    async fn load(&self, filling: &Filling<'_>) -> Result<(Loaded, DocumentDigest)>;

    /// Its documents are not asked for any more: whoever waits to hand them over need not.
    fn let_go(&self) {}
}

/// What a log does to a collection that was loaded.
#[derive(Debug, Clone)]
pub(crate) struct Logged {
    /// Which collection of the log it is; `None` for views.
    pub(crate) identity: Option<CollectionIdentity>,
    pub(crate) capped: bool,
    /// Entries up to and including this one are in the documents that come.
    pub(crate) holds_through: OpTime,
    pub(crate) counts: ChangeCounts,
}

/// A collection that is being filled.
pub(crate) struct Filling<'a> {
    pub(crate) sink: &'a dyn DocumentSink,
    pub(crate) observer: &'a dyn Observer,
    pub(crate) name: &'a Namespace,
}

impl Filling<'_> {
    /// A loading connection.
    pub(crate) async fn loader(&self, kind: CollectionKind) -> Result<Filler<'_>> {
        let loader = self.sink.loader(self.name, kind).await?;
        Ok(Filler {
            loader,
            observer: self.observer,
            sets_doubles_aside: false,
            loaded: Loaded::default(),
            digest: DocumentDigest::default(),
        })
    }
}

/// One loading connection with what it has done.
pub(crate) struct Filler<'a> {
    loader: Box<dyn Loader>,
    observer: &'a dyn Observer,
    sets_doubles_aside: bool,
    loaded: Loaded,
    digest: DocumentDigest,
}

impl Filler<'_> {
    /// Of documents with the same `_id` one is enough: a log will tell which it must be in the end.
    pub(crate) fn set_doubles_aside(&mut self) {
        self.sets_doubles_aside = true;
    }

    /// Loads framed documents.
    pub(crate) async fn load(&mut self, batch: &DocumentBatch) -> Result<()> {
        self.digest.add_concatenation(&batch.bytes).expect("batches are framed");
        let outcome = self.loader.load(batch).await?;
        self.observer.advance(Work { items: batch.documents, bytes: batch.bytes.len() as u64 });
        self.loaded.count(outcome, self.sets_doubles_aside);
        Ok(())
    }

    /// Waits until all that was loaded here will last.
    pub(crate) async fn finish(mut self) -> Result<(Loaded, DocumentDigest)> {
        let rest = self.loader.finish().await?;
        self.loaded.count(rest, self.sets_doubles_aside);
        Ok((self.loaded, self.digest))
    }
}

/// What loading did.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) inserted: u64,
    pub(crate) identical: u64,
    pub(crate) failure_count: u64,
    pub(crate) failures: Vec<DocumentFailure>,
    /// What was set aside, because a document with its `_id` had come before.
    pub(crate) aside: DocumentDigest,
}

impl Loaded {
    fn count(&mut self, outcome: LoadOutcome, sets_doubles_aside: bool) {
        let LoadOutcome { inserted, mut identical, mut failures, doubles } = outcome;
        let mut aside = DocumentDigest::default();
        if sets_doubles_aside {
            aside = doubles;
            let before = failures.len();
            failures.retain(|failure| !failure.same_id);
            let different = (before - failures.len()) as u64;
            identical = identical.saturating_sub(doubles.documents.saturating_sub(different));
        }
        self.add(Self { inserted, identical, failure_count: failures.len() as u64, failures, aside });
    }

    /// Adds what another connection did.
    pub(crate) fn add(&mut self, other: Self) {
        self.inserted += other.inserted;
        self.identical += other.identical;
        self.failure_count += other.failure_count;
        self.failures.extend(other.failures);
        self.failures.truncate(FAILURE_COUNT_SHOWN);
        self.aside += other.aside;
    }
}
