//! Restoring one collection.

use futures::{StreamExt, TryStreamExt, stream};
use mainstay_engine::{
    CollectionInfo, CollectionKind, DocumentBatch, DocumentDigest, DocumentFailure, Namespace,
    SnapshotRequest, metadata_differences,
};
use mainstay_guard::Permit;
use mainstay_model::progress::Work;
use mainstay_model::{Error, ErrorKind, Result, ResultExt};
use mainstay_repository::Set;
use tokio::sync::Semaphore;

use super::apply::{RestoreContext, find, item_state};
use super::plan::{Item, Way};
use super::run::{Event, Run, Stage};
use crate::contents::{CollectionRecord, PartRecord};
use crate::framing::Framer;

/// How many refused documents are named; all are counted.
const FAILURE_COUNT_SHOWN: usize = 20;
/// The most bytes of a metadata object.
const METADATA_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How many ranges of one collection are read at the same time for the proof.
const PROOF_RANGE_COUNT_MAX: usize = 2;

/// What became of one collection.
#[derive(Debug, Clone)]
pub struct ItemReport {
    /// Its name in the set.
    pub source: Namespace,
    /// Its name at the target.
    pub target: Namespace,
    /// How it came back.
    pub way: Way,
    /// Documents inserted by this run.
    pub inserted: u64,
    /// Documents that were there already, byte for byte.
    pub identical: u64,
    /// Documents that are not at the target.
    pub failure_count: u64,
    /// The first of them.
    pub failures: Vec<DocumentFailure>,
    /// The digest in the manifest.
    pub expected: DocumentDigest,
    /// The digest read back from the target; `None` where it cannot be compared (merge, views, kept or placed by an earlier try).
    pub found: Option<DocumentDigest>,
    /// How options and indexes differ from the set's; empty when equal.
    pub differences: Vec<String>,
}

impl ItemReport {
    /// Whether the collection is as the set says, as far as it can be compared.
    pub fn is_proven(&self) -> bool {
        self.failure_count == 0
            && self.differences.is_empty()
            && self.found.is_none_or(|found| found == self.expected)
    }
}

/// What loading did.
#[derive(Debug, Default)]
struct Loaded {
    inserted: u64,
    identical: u64,
    failure_count: u64,
    failures: Vec<DocumentFailure>,
}

impl Loaded {
    fn add(&mut self, other: Self) {
        self.inserted += other.inserted;
        self.identical += other.identical;
        self.failure_count += other.failure_count;
        self.failures.extend(other.failures);
        self.failures.truncate(FAILURE_COUNT_SHOWN);
    }
}

/// One collection's part of a restore.
pub(super) struct ItemWork<'a> {
    pub(super) context: &'a RestoreContext<'a>,
    pub(super) run: &'a Run,
    pub(super) set: &'a Set,
    pub(super) permit: &'a Permit,
    pub(super) load_slots: &'a Semaphore,
    pub(super) index: usize,
    pub(super) item: &'a Item,
    pub(super) record: &'a CollectionRecord,
}

impl ItemWork<'_> {
    /// Brings the collection back in the way the plan decided.
    pub(super) async fn restore(&self) -> Result<ItemReport> {
        if self.run.stage(self.index) == Stage::Placed {
            return self.report_placed_before().await;
        }
        let outcome = match self.item.way {
            Way::Create => self.create().await,
            Way::Swap => self.swap().await,
            Way::DropFirst => self.drop_first().await,
            Way::Merge => self.merge().await,
            Way::Keep => Ok(self.report(Loaded::default(), None, Vec::new())),
        };
        outcome.map_err(
            |error| if error.state().is_some() { error } else { error.with_state(item_state(self.item)) },
        )
    }

    async fn create(&self) -> Result<ItemReport> {
        self.clear_own_try().await?;
        self.run.record(Event::Begun { item: self.index }).await?;
        let (loaded, found, differences) = self.fill(&self.item.target).await?;
        self.run.record(Event::Placed { item: self.index }).await?;
        Ok(self.report(loaded, found, differences))
    }

    /// Removes what an earlier try of this run created under the free name. What this run did not create is never dropped.
    async fn clear_own_try(&self) -> Result<()> {
        let target = &self.item.target;
        match self.run.stage(self.index) {
            Stage::Untouched => Ok(()),
            Stage::Begun => match find(self.context.source, target).await? {
                None => Ok(()),
                // The kill may have come between creating and recording it; a collection without documents loses nothing.
                Some(info) if info.estimate.items == 0 => {
                    self.context.sink.drop_collection(target, self.permit).await
                }
                Some(_) => Err(Error::new(
                    ErrorKind::Conflict,
                    format!("{target} appeared since the plan was made and holds documents"),
                )
                .with_state(format!("{target} is untouched"))
                .with_hint("move it away, or plan the restore again with `--drop` or `--into NAME`")),
            },
            Stage::Created | Stage::Placing | Stage::Placed => {
                self.context.sink.drop_collection(target, self.permit).await
            }
        }
    }

    async fn swap(&self) -> Result<ItemReport> {
        let shadow = self.run.shadow(self.index, &self.item.target);
        let shadow_stands = find(self.context.source, &shadow).await?.is_some();
        if self.run.stage(self.index) == Stage::Placing && !shadow_stands {
            // Killed after the swap and before it was recorded: the new data stands under its name.
            self.run.record(Event::Placed { item: self.index }).await?;
            return self.report_placed_before().await;
        }
        self.context.sink.drop_collection(&shadow, self.permit).await?;
        self.run.record(Event::Begun { item: self.index }).await?;
        let (loaded, found, differences) = self.fill(&shadow).await?;
        self.run.record(Event::Placing { item: self.index }).await?;
        self.context
            .sink
            .replace(&shadow, &self.item.target, self.permit)
            .await
            .context("put the new data in place")?;
        self.run.record(Event::Placed { item: self.index }).await?;
        Ok(self.report(loaded, found, differences))
    }

    async fn drop_first(&self) -> Result<ItemReport> {
        self.run.record(Event::Begun { item: self.index }).await?;
        self.context.sink.drop_collection(&self.item.target, self.permit).await?;
        let (loaded, found, differences) = self.fill(&self.item.target).await?;
        self.run.record(Event::Placed { item: self.index }).await?;
        Ok(self.report(loaded, found, differences))
    }

    async fn merge(&self) -> Result<ItemReport> {
        self.run.record(Event::Begun { item: self.index }).await?;
        let metadata = self.metadata().await?;
        let loaded = self.load(&self.item.target).await?;
        self.context
            .sink
            .build_indexes(&self.item.target, &metadata, self.context.observer)
            .await
            .context("build indexes")?;
        if loaded.failure_count == 0 {
            self.run.record(Event::Placed { item: self.index }).await?;
        }
        Ok(self.report(loaded, None, Vec::new()))
    }

    /// Creates `name`, loads it, builds its indexes and proves it equal to the set. Nothing stood under `name`.
    async fn fill(&self, name: &Namespace) -> Result<(Loaded, Option<DocumentDigest>, Vec<String>)> {
        let metadata = self.metadata().await?;
        self.context.sink.create(name, &metadata).await.context("create collection")?;
        self.run.record(Event::Created { item: self.index }).await?;
        if self.record.kind == CollectionKind::View {
            let differences = self.described(name, &metadata).await?.1;
            return Ok((Loaded::default(), None, differences));
        }
        let loaded = self.load(name).await?;
        refuse_failures(&loaded)?;
        self.context
            .sink
            .build_indexes(name, &metadata, self.context.observer)
            .await
            .context("build indexes")?;
        let (info, differences) = self.described(name, &metadata).await?;
        let found = self.read_back(&info).await.context("read back for the proof")?;
        let expected = self.record.digest();
        if found == expected {
            return Ok((loaded, Some(found), differences));
        }
        Err(Error::new(
            ErrorKind::Corrupt,
            format!("what was loaded differs from the set: digest {found} instead of {expected}"),
        )
        .with_hint("look for a writer on this collection, stop it, and apply the same plan again"))
    }

    async fn metadata(&self) -> Result<String> {
        let mut object = self.set.read(&self.record.metadata).await.context("read metadata")?;
        let mut text = Vec::new();
        while let Some(chunk) = object.next().await? {
            text.extend_from_slice(&chunk);
            if text.len() > METADATA_BYTES_MAX {
                return Err(Error::new(ErrorKind::Corrupt, format!("{} is too large", self.record.metadata)));
            }
        }
        String::from_utf8(text)
            .map_err(|source| Error::new(ErrorKind::Corrupt, "metadata is not UTF-8").with_source(source))
    }

    async fn load(&self, name: &Namespace) -> Result<Loaded> {
        // A capped collection keeps the order of insertion: one part after the other.
        let parallel = if self.record.capped { 1 } else { self.record.parts.len().max(1) };
        stream::iter(&self.record.parts)
            .map(|part| self.load_part(name, part))
            .buffered(parallel)
            .try_fold(Loaded::default(), |mut total, loaded| async move {
                total.add(loaded);
                Ok(total)
            })
            .await
    }

    async fn load_part(&self, name: &Namespace, part: &PartRecord) -> Result<Loaded> {
        let _slot = self.load_slots.acquire().await.expect("the semaphore is never closed");
        let mut object = self.set.read(&part.object).await?;
        let mut loader = self.context.sink.loader(name, self.record.kind).await?;
        let (mut framer, mut digest, mut loaded) =
            (Framer::default(), DocumentDigest::default(), Loaded::default());
        let unframed = |source| {
            Error::new(ErrorKind::Corrupt, format!("{} is not framed documents", part.object))
                .with_source(source)
        };
        while let Some(chunk) = object.next().await? {
            for batch in framer.push(&chunk).map_err(unframed)?.into_iter().flatten() {
                digest.add_concatenation(&batch.bytes).expect("the framer gives framed documents");
                loaded.add(self.load_batch(loader.as_mut(), &batch).await?);
            }
        }
        framer.end().map_err(unframed)?;
        let rest = loader.finish().await.context("wait until the documents are durable")?;
        loaded.add(counted(rest));
        if digest != part.digest {
            let message = format!(
                "{} changed while it was read: digest {digest} instead of {}",
                part.object, part.digest
            );
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(loaded)
    }

    async fn load_batch(
        &self,
        loader: &mut dyn mainstay_engine::Loader,
        batch: &DocumentBatch,
    ) -> Result<Loaded> {
        let outcome = loader.load(batch).await?;
        self.context.observer.advance(Work { items: batch.documents, bytes: batch.bytes.len() as u64 });
        Ok(counted(outcome))
    }

    /// What the server says of `name` now, and how that differs from the set.
    async fn described(&self, name: &Namespace, metadata: &str) -> Result<(CollectionInfo, Vec<String>)> {
        let info = find(self.context.source, name).await?.ok_or_else(|| {
            Error::new(ErrorKind::Server, format!("{name} has vanished after it was created"))
        })?;
        let differences = metadata_differences(metadata, &info.metadata);
        Ok((info, differences))
    }

    /// The digest of all documents of a collection as the server gives them now.
    async fn read_back(&self, info: &CollectionInfo) -> Result<DocumentDigest> {
        let snapshot = self.context.source.snapshot(SnapshotRequest::Best).await?;
        let prepared = snapshot.prepare(info, PROOF_RANGE_COUNT_MAX).await?;
        let (snapshot, prepared) = (&snapshot, &prepared);
        stream::iter(&prepared.ranges)
            .map(|range| async move {
                let mut digest = DocumentDigest::default();
                let mut documents = snapshot.scan(info, prepared, range).await?;
                while let Some(batch) = documents.next().await? {
                    digest.add_concatenation(&batch.bytes).map_err(|source| {
                        Error::new(ErrorKind::Corrupt, "the server sent unframed documents")
                            .with_source(source)
                    })?;
                }
                Ok::<_, Error>(digest)
            })
            .buffer_unordered(PROOF_RANGE_COUNT_MAX)
            .try_fold(DocumentDigest::default(), |mut total, digest| async move {
                total += digest;
                Ok(total)
            })
            .await
    }

    async fn report_placed_before(&self) -> Result<ItemReport> {
        let digest = self.record.digest();
        self.context.observer.advance(Work { items: digest.documents, bytes: digest.bytes });
        Ok(self.report(Loaded::default(), None, Vec::new()))
    }

    fn report(&self, loaded: Loaded, found: Option<DocumentDigest>, differences: Vec<String>) -> ItemReport {
        ItemReport {
            source: self.item.source.clone(),
            target: self.item.target.clone(),
            way: self.item.way,
            inserted: loaded.inserted,
            identical: loaded.identical,
            failure_count: loaded.failure_count,
            failures: loaded.failures,
            expected: self.record.digest(),
            found,
            differences,
        }
    }
}

fn counted(outcome: mainstay_engine::LoadOutcome) -> Loaded {
    let mut loaded = Loaded { inserted: outcome.inserted, identical: outcome.identical, ..Loaded::default() };
    loaded.failure_count = outcome.failures.len() as u64;
    loaded.failures = outcome.failures;
    loaded.failures.truncate(FAILURE_COUNT_SHOWN);
    loaded
}

/// A new collection must hold every document; one that lacks some is never put in place.
fn refuse_failures(loaded: &Loaded) -> Result<()> {
    let Some(first) = loaded.failures.first() else { return Ok(()) };
    Err(Error::new(
        ErrorKind::Server,
        format!(
            "{} documents were refused by the server; the first, _id {}: {} (code {})",
            loaded.failure_count, first.id, first.message, first.code
        ),
    ))
}
