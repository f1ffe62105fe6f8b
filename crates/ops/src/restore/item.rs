//! Restoring one collection.

use futures::{StreamExt, TryStreamExt, stream};
use mainstay_engine::{
    CollectionInfo, CollectionKind, DocumentBatch, DocumentDigest, DocumentFailure, Namespace,
    SnapshotRequest, metadata_differences,
};
use mainstay_model::progress::{Silent, Work};
use mainstay_model::{Error, ErrorKind, Result, ResultExt};
use tokio::sync::Semaphore;

use super::apply::{Restore, find, is_own};
use super::plan::{Item, Way, read_metadata, target_assumption, uuid};
use super::run::{Event, Stage};
use crate::contents::{CollectionRecord, PartRecord};
use crate::framing::Framer;

/// How many refused documents are named; all are counted.
const FAILURE_COUNT_SHOWN: usize = 20;
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
    /// Whether an earlier try of the same plan has put it in place.
    pub placed_before: bool,
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
    pub(super) restore: Restore<'a>,
    pub(super) load_slots: &'a Semaphore,
    pub(super) index: usize,
    pub(super) item: &'a Item,
    pub(super) record: &'a CollectionRecord,
}

/// A collection that was filled and proven.
struct Filled {
    uuid: Option<String>,
    loaded: Loaded,
    found: Option<DocumentDigest>,
    differences: Vec<String>,
}

impl ItemWork<'_> {
    /// Brings the collection back in the way the plan decided.
    pub(super) async fn restore(&self) -> Result<ItemReport> {
        if self.stage() == Stage::Placed {
            return Ok(self.placed_before());
        }
        let outcome = match self.item.way {
            Way::Create if self.record.kind == CollectionKind::Collection => self.beside().await,
            Way::Create => self.create().await,
            Way::Swap => self.beside().await,
            Way::DropFirst => self.drop_first().await,
            Way::Merge => self.merge().await,
            Way::Keep => Ok(self.report(Loaded::default(), None, Vec::new())),
        };
        outcome.map_err(|error| if error.state().is_some() { error } else { error.with_state(self.state()) })
    }

    /// What stands under the name after a failure.
    fn state(&self) -> String {
        let target = &self.item.target;
        match self.item.way {
            Way::Swap => format!("{target} still holds its old data"),
            Way::Create => format!("{target} is not in place yet"),
            Way::DropFirst => format!("{target} is not whole yet; its old data is gone"),
            Way::Merge => format!("{target} holds its old data and part of the set's"),
            Way::Keep => format!("{target} is untouched"),
        }
    }

    fn stage(&self) -> Stage {
        self.restore.run.before.stage(self.index)
    }

    async fn record(&self, event: Event) -> Result<()> {
        self.restore.run.record(event).await
    }

    async fn find(&self, name: &Namespace) -> Result<Option<CollectionInfo>> {
        find(self.restore.context.source, name).await
    }

    /// Drops a collection, if this process still holds the lease.
    async fn drop_collection(&self, name: &Namespace) -> Result<()> {
        self.restore.lease.check()?;
        self.restore.context.sink.drop_collection(name, self.restore.permit).await
    }

    /// Loads into a collection of the run's own, proves it, and gives it its name in one step: under the name stands what stood there before,
    /// or the whole and proven collection.
    async fn beside(&self) -> Result<ItemReport> {
        if let Stage::Placing(uuid) = self.stage()
            && is_own(uuid.as_ref(), self.find(&self.item.target).await?.as_ref())
        {
            // An earlier try was killed between putting it in place and recording that.
            self.record(Event::Placed { item: self.index }).await?;
            return Ok(self.placed_before());
        }
        let shadow = self.restore.run.shadow(self.index, &self.item.target);
        self.drop_collection(&shadow).await?;
        self.record(Event::Begun { item: self.index }).await?;
        let filled = self.fill(&shadow).await?;
        self.check_description(&filled.differences)?;
        self.check_target_unmoved().await?;
        self.record(Event::Placing { item: self.index, uuid: filled.uuid.clone() }).await?;
        self.put_in_place(&shadow).await.map_err(|error| {
            let error = error.context("put the new data in place");
            if matches!(
                error.kind(),
                ErrorKind::Conflict | ErrorKind::Locked | ErrorKind::Refused | ErrorKind::Auth
            ) {
                // Refused before anything was done.
                return error;
            }
            error
                .with_state(format!(
                    "whether {} holds the old or the new data is not known",
                    self.item.target
                ))
                .with_hint("apply the same plan again: it finds out and continues")
        })?;
        self.record(Event::Placed { item: self.index }).await?;
        Ok(self.report(filled.loaded, filled.found, filled.differences))
    }

    async fn put_in_place(&self, shadow: &Namespace) -> Result<()> {
        self.restore.lease.check()?;
        let Restore { context, permit, .. } = self.restore;
        match self.item.way {
            Way::Swap => context.sink.replace(shadow, &self.item.target, permit).await,
            _ => context.sink.rename(shadow, &self.item.target).await,
        }
    }

    /// Refuses to put in place what the server describes otherwise than the set does, unless the plan accepts that.
    fn check_description(&self, differences: &[String]) -> Result<()> {
        if differences.is_empty() || self.restore.parameters.accept_differences {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Precondition,
            format!("the server describes the loaded copy otherwise than the set: {}", differences.join("; ")),
        )
        .with_hint("if this is right, for another server version say, give the run up and plan again with `--accept-differences`"))
    }

    /// Refuses when somebody has replaced, made or removed what stands under the name while this run was loading.
    async fn check_target_unmoved(&self) -> Result<()> {
        let standing = self.find(&self.item.target).await?;
        let seen = target_assumption(&self.item.target, standing.as_ref());
        if self.restore.planned(&self.item.target).is_none_or(|planned| *planned == seen) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::StalePlan,
            format!("{} has changed since the plan was made: it is {}", self.item.target, seen.value),
        )
        .with_state(format!("{} is untouched; what was loaded beside it stays until the run is given up", self.item.target))
        .with_hint("give the run up (`mainstay restore list` names it, `mainstay restore abandon RUN`), then make a new plan"))
    }

    /// Creates under the free name itself: for views and time series, which the server cannot rename. What this run did not create is never
    /// dropped.
    async fn create(&self) -> Result<ItemReport> {
        if matches!(self.stage(), Stage::Created(_)) {
            self.drop_collection(&self.item.target).await?;
        }
        self.record(Event::Begun { item: self.index }).await?;
        let filled = self.fill(&self.item.target).await?;
        self.record(Event::Placed { item: self.index }).await?;
        Ok(self.report(filled.loaded, filled.found, filled.differences))
    }

    /// Drops what the plan names, then creates under the name. Before the first drop, and until this run has created, what stands there must be
    /// what the plan names.
    async fn drop_first(&self) -> Result<ItemReport> {
        let standing = self.find(&self.item.target).await?;
        if standing.is_some() && !matches!(self.stage(), Stage::Created(_)) {
            self.check_target_unmoved().await?;
        }
        self.record(Event::Begun { item: self.index }).await?;
        self.drop_collection(&self.item.target).await?;
        let filled = self.fill(&self.item.target).await?;
        self.record(Event::Placed { item: self.index }).await?;
        Ok(self.report(filled.loaded, filled.found, filled.differences))
    }

    async fn merge(&self) -> Result<ItemReport> {
        self.record(Event::Begun { item: self.index }).await?;
        let metadata = self.metadata().await?;
        let loaded = self.load(&self.item.target).await?;
        self.build_indexes(&self.item.target, &metadata).await?;
        let differences = self.described(&self.item.target, &metadata).await?.1;
        if loaded.failure_count == 0 {
            self.record(Event::Placed { item: self.index }).await?;
        }
        Ok(self.report(loaded, None, differences))
    }

    /// Creates `name`, loads it, proves its documents equal to the set's and builds its indexes. Nothing stood under `name`.
    ///
    /// The proof comes before the indexes: with a TTL index the server would begin to delete what has expired since the backup.
    async fn fill(&self, name: &Namespace) -> Result<Filled> {
        let metadata = self.metadata().await?;
        self.restore.lease.check()?;
        self.restore.context.sink.create(name, &metadata).await?;
        let info = self.find(name).await?.ok_or_else(|| vanished(name))?;
        let uuid = uuid(&info);
        self.record(Event::Created { item: self.index, uuid: uuid.clone() }).await?;
        if self.record.kind == CollectionKind::View {
            let differences = metadata_differences(&metadata, &info.metadata);
            return Ok(Filled { uuid, loaded: Loaded::default(), found: None, differences });
        }
        let loaded = self.load(name).await?;
        refuse_failures(&loaded)?;
        let found = self.prove(name).await?;
        self.build_indexes(name, &metadata).await?;
        let differences = self.described(name, &metadata).await?.1;
        Ok(Filled { uuid, loaded, found: Some(found), differences })
    }

    async fn build_indexes(&self, name: &Namespace, metadata: &str) -> Result<()> {
        // The observer shows documents loaded, which the progress of index builds would confuse.
        self.restore.context.sink.build_indexes(name, metadata, &Silent).await.map_err(|error| {
            if error.hint().is_some() {
                return error;
            }
            error.with_hint("correct what the index refuses at the source and back up again, or restore without this collection")
        })
    }

    /// Reads `name` back and compares it with the set.
    async fn prove(&self, name: &Namespace) -> Result<DocumentDigest> {
        let info = self.find(name).await?.ok_or_else(|| vanished(name))?;
        let found = self.read_back(&info).await.context("read back for the proof")?;
        let expected = self.record.digest();
        if found == expected {
            return Ok(found);
        }
        Err(Error::new(
            ErrorKind::Corrupt,
            format!("what was loaded differs from the set: digest {found} instead of {expected}"),
        )
        .with_hint("look for a writer on this collection, stop it, and apply the same plan again"))
    }

    async fn metadata(&self) -> Result<String> {
        read_metadata(self.restore.set, self.record).await
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
        let mut object = self.restore.set.read(&part.object).await?;
        let mut loader = self.restore.context.sink.loader(name, self.record.kind).await?;
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
        let rest = loader.finish().await?;
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
        self.restore
            .context
            .observer
            .advance(Work { items: batch.documents, bytes: batch.bytes.len() as u64 });
        Ok(counted(outcome))
    }

    /// What the server says of `name` now, and how that differs from the set.
    async fn described(&self, name: &Namespace, metadata: &str) -> Result<(CollectionInfo, Vec<String>)> {
        let info = self.find(name).await?.ok_or_else(|| {
            Error::new(ErrorKind::Server, format!("{name} has vanished after it was created"))
        })?;
        let differences = metadata_differences(metadata, &info.metadata);
        Ok((info, differences))
    }

    /// The digest of all documents of a collection as the server gives them now.
    async fn read_back(&self, info: &CollectionInfo) -> Result<DocumentDigest> {
        let snapshot = self.restore.context.source.snapshot(SnapshotRequest::Best).await?;
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

    /// The report of a collection that an earlier try has put in place, proven then.
    fn placed_before(&self) -> ItemReport {
        let digest = self.record.digest();
        self.restore.context.observer.advance(Work { items: digest.documents, bytes: digest.bytes });
        ItemReport { placed_before: true, ..self.report(Loaded::default(), None, Vec::new()) }
    }

    fn report(&self, loaded: Loaded, found: Option<DocumentDigest>, differences: Vec<String>) -> ItemReport {
        ItemReport {
            source: self.item.source.clone(),
            target: self.item.target.clone(),
            way: self.item.way,
            placed_before: false,
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

fn vanished(name: &Namespace) -> Error {
    Error::new(ErrorKind::Server, format!("{name} has vanished after it was created"))
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
    )
    .with_hint("see why this server refuses documents that the source had (validator, unique index), then apply the same plan again"))
}
