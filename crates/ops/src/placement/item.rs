//! Bringing one collection to the server, step by step: load, prove, index, place.
//!
//! Each step leaves a record behind, and each begins with what the records of earlier tries say, so that a step that was taken is not taken
//! again. Most operations take all steps of a collection in one go ([`ItemWork::bring`]); a restore with a log takes each step for all
//! collections, because the log is replayed into all of them together.

use futures::{StreamExt, TryStreamExt, stream};
use mainstay_engine::{
    ChangeCounts, CollectionIdentity, CollectionInfo, CollectionKind, DocumentDigest, DocumentFailure,
    Namespace, ScanSetback, SnapshotRequest, metadata_differences,
};
use mainstay_model::progress::{Silent, Work};
use mainstay_model::{Error, ErrorKind, Result, ResultExt};

use super::content::{Content, Filling, Loaded, Logged};
use super::decide::{Item, Way, target_assumption};
use super::run::{Event, Held, Stage};
use super::work::{Placement, find, is_own};

/// How many ranges of one collection are read at the same time for the proof.
const PROOF_RANGE_COUNT_MAX: usize = 2;

/// How often a collection is read for its proof when the server cannot let a reading end. Of the reasons one comes once, the other with a
/// change of the member that is read.
const PROOF_COUNT_MAX: usize = 4;

/// What became of one collection.
#[derive(Debug, Clone)]
pub struct ItemReport {
    /// Its name where it comes from: in a set or dump, or at the moment restored to.
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
    /// What a log did to the documents that were loaded; `None` when none was replayed into it.
    pub changes: Option<ChangeCounts>,
    /// The digest it must have: that of what it comes from, brought forward by the log. `None` where nobody can tell it: a capped collection that
    /// the log has changed, which the server trims by rules of its own.
    pub expected: Option<DocumentDigest>,
    /// The digest read back from the target; `None` where it cannot be compared (merge, views, kept or placed by an earlier try).
    pub found: Option<DocumentDigest>,
    /// How options and indexes differ from what they must be; empty when equal.
    pub differences: Vec<String>,
}

impl ItemReport {
    /// Whether the collection is as it must be, as far as it can be compared.
    pub fn is_proven(&self) -> bool {
        let equal = self.expected.is_none_or(|expected| self.found.is_none_or(|found| found == expected));
        self.failure_count == 0 && self.differences.is_empty() && equal
    }

    /// The documents that came back.
    pub fn digest(&self) -> DocumentDigest {
        self.expected.or(self.found).unwrap_or_default()
    }
}

/// One collection's part of the work.
pub(crate) struct ItemWork<'a> {
    pub(super) placement: Placement<'a>,
    /// Its position in the plan's list.
    pub(crate) index: usize,
    pub(crate) item: &'a Item,
    pub(super) content: Box<dyn Content + 'a>,
}

/// How far a collection has come.
pub(crate) enum Step {
    /// It has no documents of its own: it is made, or kept, at the end.
    AtTheEnd,
    /// An earlier try has put it in place.
    InPlace,
    /// It is filled.
    Made(Box<Made>),
}

/// A collection that this run has created and filled.
pub(crate) struct Made {
    /// Where it is: beside its name, or under it.
    pub(crate) name: Namespace,
    uuid: Option<CollectionIdentity>,
    pub(crate) held: Held,
    loaded: Loaded,
    /// What its documents must be, where that can be told.
    expected: Option<DocumentDigest>,
    found: Option<DocumentDigest>,
    differences: Vec<String>,
}

impl Step {
    fn made(made: Made) -> Self {
        Self::Made(Box::new(made))
    }
}

impl Made {
    fn new(name: &Namespace, uuid: Option<CollectionIdentity>, held: Held, loaded: Loaded) -> Self {
        let (expected, found) = match held {
            Held::Loaded { digest, .. } | Held::Proven(digest) => (Some(digest), Some(digest)),
            Held::End(digest) => (digest, None),
        };
        Self { name: name.clone(), uuid, held, loaded, expected, found, differences: Vec::new() }
    }

    /// The log has been replayed into it to its end.
    pub(crate) fn replayed(&mut self, digest: Option<DocumentDigest>) {
        (self.held, self.expected, self.found) = (Held::End(digest), digest, None);
    }
}

impl ItemWork<'_> {
    /// Takes the collection through all its steps, in the way the plan decided.
    pub(super) async fn bring(&self) -> Result<ItemReport> {
        if self.item.way == Way::Merge && self.stage() != Stage::Placed {
            return self.told(self.merge()).await;
        }
        let step = self.load().await?;
        let step = self.index(step).await?;
        self.place(step).await
    }

    /// Loads the documents into a collection of the run's own and proves them, unless an earlier try has.
    pub(crate) async fn load(&self) -> Result<Step> {
        let step = self.told(self.begin()).await?;
        self.content.let_go();
        Ok(step)
    }

    /// Reads a collection back after the log was replayed into it, and compares it with what it must be.
    pub(crate) async fn prove(&self, step: Step) -> Result<Step> {
        match step {
            Step::Made(made) => self.told(self.prove_end(*made)).await.map(Step::made),
            other => Ok(other),
        }
    }

    /// Builds the indexes and compares how the server describes the collection.
    ///
    /// After the proof: with a TTL index the server would begin to delete what has expired since.
    pub(crate) async fn index(&self, step: Step) -> Result<Step> {
        match step {
            Step::Made(made) => self.told(self.build(*made)).await.map(Step::made),
            other => Ok(other),
        }
    }

    /// Gives the collection its name; makes views.
    pub(crate) async fn place(&self, step: Step) -> Result<ItemReport> {
        self.told(async {
            match step {
                Step::InPlace => Ok(self.placed_before()),
                Step::AtTheEnd if self.item.way == Way::Keep => {
                    Ok(self.report(Loaded::default(), Some(self.known_digest()), None, Vec::new()))
                }
                Step::AtTheEnd => self.make_view().await,
                Step::Made(made) if self.is_beside() => self.put_in_place(*made).await,
                Step::Made(made) => {
                    self.record(Event::Placed { item: self.index }).await?;
                    Ok(self.report(made.loaded, made.expected, made.found, made.differences))
                }
            }
        })
        .await
    }

    /// Adds to an error what stands under the name now.
    async fn told<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let outcome = work.await;
        outcome.map_err(|error| if error.state().is_some() { error } else { error.with_state(self.state()) })
    }

    /// What stands under the name after a failure.
    fn state(&self) -> String {
        let target = &self.item.target;
        match self.item.way {
            Way::Swap => format!("{target} still holds its old data"),
            Way::Create => format!("{target} is not in place yet"),
            Way::DropFirst => format!("{target} is not whole yet; its old data is gone"),
            Way::Merge => format!("{target} holds its old data and part of the new"),
            Way::Keep => format!("{target} is untouched"),
        }
    }

    fn stage(&self) -> Stage {
        self.placement.run.before.stage(self.index)
    }

    /// Whether it is a view.
    pub(crate) fn is_view(&self) -> bool {
        self.content.kind() == CollectionKind::View
    }

    /// Whether it is loaded beside its name, which is possible where the server can rename.
    fn is_beside(&self) -> bool {
        match self.item.way {
            Way::Swap => true,
            Way::Create => self.content.kind() == CollectionKind::Collection,
            Way::DropFirst | Way::Merge | Way::Keep => false,
        }
    }

    /// Where it is loaded.
    fn place_of_loading(&self) -> Namespace {
        if self.is_beside() {
            self.placement.run.shadow(self.index, &self.item.target)
        } else {
            self.item.target.clone()
        }
    }

    async fn record(&self, event: Event) -> Result<()> {
        self.placement.run.record(event).await
    }

    async fn find(&self, name: &Namespace) -> Result<Option<CollectionInfo>> {
        find(self.placement.context.source, name).await
    }

    /// Drops a collection, if this process still holds the lease.
    async fn drop_collection(&self, name: &Namespace) -> Result<()> {
        self.placement.check_lease()?;
        self.placement.context.sink.drop_collection(name, self.placement.permit).await
    }

    async fn begin(&self) -> Result<Step> {
        let stage = self.stage();
        if stage == Stage::Placed {
            return Ok(Step::InPlace);
        }
        if self.item.way == Way::Keep || self.is_view() {
            return Ok(Step::AtTheEnd);
        }
        if let Stage::Placing(uuid) = &stage
            && is_own(uuid.as_ref(), self.find(&self.item.target).await?.as_ref())
        {
            // An earlier try was killed between putting it in place and recording that.
            self.record(Event::Placed { item: self.index }).await?;
            return Ok(Step::InPlace);
        }
        let name = self.place_of_loading();
        let standing = self.find(&name).await?;
        let own = stage.created().filter(|uuid| is_own(uuid.as_ref(), standing.as_ref()));
        if let (Some(uuid), Some(held)) = (own, self.held(&stage)) {
            self.placement.context.observer.advance(self.work());
            return Ok(Step::made(Made::new(&name, uuid.clone(), held, Loaded::default())));
        }
        self.make_room(&name, standing.as_ref(), &stage).await?;
        self.fill(&name).await.map(Step::made)
    }

    /// What an earlier try has left in the collection that it was filling, if that is known.
    fn held(&self, stage: &Stage) -> Option<Held> {
        match stage {
            Stage::Filled(_, held) => Some(held.clone()),
            // Nothing is put in place unproven.
            Stage::Placing(_) => self.placement.run.before.proven.get(&self.index).copied().map(Held::Proven),
            Stage::Untouched | Stage::Begun | Stage::Created(_) | Stage::Placed => None,
        }
    }

    /// Takes away what stands where the collection is to be created: remains of an earlier try, or what the plan says is dropped first.
    async fn make_room(
        &self,
        name: &Namespace,
        standing: Option<&CollectionInfo>,
        stage: &Stage,
    ) -> Result<()> {
        let is_remains = match standing {
            None => self.is_beside(),
            Some(standing) => self.is_beside() || self.is_remains(stage, standing).await?,
        };
        if is_remains {
            self.drop_collection(name).await?;
        } else if standing.is_some() {
            self.check_target_unmoved().await?;
        }
        self.record(Event::Begun { item: self.index }).await?;
        if !is_remains && self.item.way == Way::DropFirst {
            self.drop_collection(name).await?;
        }
        Ok(())
    }

    /// Whether what stands under the collection's own name was made by an earlier try.
    async fn is_remains(&self, stage: &Stage, standing: &CollectionInfo) -> Result<bool> {
        match (stage, stage.created()) {
            // Of views the server tells no identity.
            (_, Some(created)) => Ok(created.is_none() || is_own(created.as_ref(), Some(standing))),
            // A try that was killed between creating and recording it left something empty. Should it be somebody else's, nothing is lost.
            (Stage::Begun, None) if standing.kind != self.content.kind() => Ok(false),
            (Stage::Begun, None) if self.is_view() => {
                Ok(metadata_differences(self.content.metadata(), &standing.metadata).is_empty())
            }
            (Stage::Begun, None) => Ok(self.digest_of(standing).await? == DocumentDigest::default()),
            _ => Ok(false),
        }
    }

    /// Creates `name`, loads it, and proves its documents equal to those that came. Nothing stood under `name`.
    async fn fill(&self, name: &Namespace) -> Result<Made> {
        let (uuid, _) = self.create(name).await?;
        let (loaded, digest) = self.load_documents(name).await?;
        self.refuse_failures(&loaded)?;
        let _turn = self.placement.context.finish_slots.turn().await;
        let digest = match self.log() {
            // Of what a capped collection was seen to hold while it was written to, the server keeps as much as it may hold; which documents
            // gave way at the source, the log tells.
            Some(log) if log.capped && log.counts != ChangeCounts::default() => self.read_back(name).await?,
            _ => self.compare(name, digest).await?,
        };
        self.record(Event::Loaded { item: self.index, digest }).await?;
        Ok(Made::new(name, uuid, Held::Loaded { digest, through: None }, loaded))
    }

    async fn create(&self, name: &Namespace) -> Result<(Option<CollectionIdentity>, CollectionInfo)> {
        self.placement.check_lease()?;
        self.placement.context.sink.create(name, self.content.metadata()).await?;
        let info = self.find(name).await?.ok_or_else(|| vanished(name))?;
        let uuid = info.identity.clone();
        self.record(Event::Created { item: self.index, uuid: uuid.clone() }).await?;
        Ok((uuid, info))
    }

    async fn prove_end(&self, mut made: Made) -> Result<Made> {
        let Held::End(expected) = made.held else { return Ok(made) };
        let found = match expected {
            None => self.read_back(&made.name).await?,
            Some(expected) => match self.compare(&made.name, expected).await {
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    // Nobody knows what it holds: the next try shall not go on from it.
                    self.drop_collection(&made.name).await?;
                    self.record(Event::Begun { item: self.index }).await?;
                    return Err(error);
                }
                found => found?,
            },
        };
        self.placement.context.observer.advance(Work { items: found.documents, bytes: found.bytes });
        self.record(Event::Proven { item: self.index, digest: found }).await?;
        (made.found, made.held) = (Some(found), Held::Proven(found));
        Ok(made)
    }

    async fn build(&self, mut made: Made) -> Result<Made> {
        let _turn = self.placement.context.finish_slots.turn().await;
        self.build_indexes(&made.name).await?;
        made.differences = self.differences(&made.name).await?;
        if self.is_beside() {
            self.check_description(&made.differences)?;
        }
        Ok(made)
    }

    /// Gives a proven collection its name in one step: under the name stands what stood there before, or the whole and proven collection.
    async fn put_in_place(&self, made: Made) -> Result<ItemReport> {
        self.check_target_unmoved().await?;
        self.record(Event::Placing { item: self.index, uuid: made.uuid.clone() }).await?;
        self.rename(&made.name).await.map_err(|error| {
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
                .with_hint(format!("look what stands there, and {}", self.again()))
        })?;
        self.record(Event::Placed { item: self.index }).await?;
        Ok(self.report(made.loaded, made.expected, made.found, made.differences))
    }

    async fn rename(&self, shadow: &Namespace) -> Result<()> {
        self.placement.check_lease()?;
        let Placement { context, permit, .. } = self.placement;
        match self.item.way {
            Way::Swap => context.sink.replace(shadow, &self.item.target, permit).await,
            _ => context.sink.rename(shadow, &self.item.target).await,
        }
    }

    /// Refuses to put in place what the server describes otherwise than it must be, unless the plan accepts that.
    fn check_description(&self, differences: &[String]) -> Result<()> {
        if differences.is_empty() || self.placement.parameters.accept_differences {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Precondition,
            format!("the server describes the loaded copy otherwise than it must be: {}", differences.join("; ")),
        )
        .with_hint(if self.placement.parameters.origin.keeps_unfinished() {
            "if this is right, for another server version say, give the run up and plan again with `--accept-differences`"
        } else {
            "if this is right, for another server version say, load again with `--accept-differences`"
        }))
    }

    /// Refuses when somebody has replaced, made or removed what stands under the name while this run was loading.
    async fn check_target_unmoved(&self) -> Result<()> {
        let standing = self.find(&self.item.target).await?;
        let seen = target_assumption(&self.item.target, standing.as_ref());
        if self.placement.planned(&self.item.target).is_none_or(|planned| *planned == seen) {
            return Ok(());
        }
        let refusal = Error::new(
            ErrorKind::StalePlan,
            format!("{} has changed since the plan was made: it is {}", self.item.target, seen.value),
        );
        Err(if self.placement.parameters.origin.keeps_unfinished() {
            refusal
                .with_state(format!("{} is untouched; what was loaded beside it stays until the run is given up", self.item.target))
                .with_hint("give the run up (`mainstay restore list` names it, `mainstay restore abandon RUN`), then make a new plan")
        } else {
            refusal.with_state(format!("{} is untouched", self.item.target)).with_hint("make a new plan")
        })
    }

    /// Makes a view under its name.
    async fn make_view(&self) -> Result<ItemReport> {
        let name = &self.item.target;
        let standing = self.find(name).await?;
        self.make_room(name, standing.as_ref(), &self.stage()).await?;
        let (_, info) = self.create(name).await?;
        let differences = metadata_differences(self.content.metadata(), &info.metadata);
        self.record(Event::Placed { item: self.index }).await?;
        Ok(self.report(Loaded::default(), Some(self.known_digest()), None, differences))
    }

    async fn merge(&self) -> Result<ItemReport> {
        let name = &self.item.target;
        self.record(Event::Begun { item: self.index }).await?;
        let (loaded, digest) = self.load_documents(name).await?;
        let _turn = self.placement.context.finish_slots.turn().await;
        self.build_indexes(name).await?;
        let differences = self.differences(name).await?;
        if loaded.failure_count == 0 {
            self.record(Event::Placed { item: self.index }).await?;
        }
        Ok(self.report(loaded, Some(digest), None, differences))
    }

    async fn build_indexes(&self, name: &Namespace) -> Result<()> {
        // The observer shows documents, which the progress of index builds would confuse.
        let built = self.placement.context.sink.build_indexes(name, self.content.metadata(), &Silent).await;
        built.map_err(|error| {
            if error.hint().is_some() {
                return error;
            }
            error.with_hint("correct what the index refuses at the source, or leave this collection out")
        })
    }

    /// Reads `name` back and compares it with what must be there.
    async fn compare(&self, name: &Namespace, expected: DocumentDigest) -> Result<DocumentDigest> {
        let found = self.read_back(name).await?;
        if found == expected {
            return Ok(found);
        }
        Err(Error::new(
            ErrorKind::Corrupt,
            format!("what was loaded differs from what it must be: digest {found} instead of {expected}"),
        )
        .with_hint(format!("look for a writer on this collection, stop it, and {}", self.again())))
    }

    /// What a log does to its documents after they are loaded; `None` without one.
    pub(super) fn changes(&self) -> Option<ChangeCounts> {
        self.log().map(|log| log.counts)
    }

    /// How a log goes on after they are loaded; `None` without one.
    pub(super) fn log(&self) -> Option<Logged> {
        self.content.log()
    }

    /// What it is.
    pub(super) fn kind(&self) -> CollectionKind {
        self.content.kind()
    }

    /// What is being done, for errors.
    pub(super) fn doing(&self) -> String {
        self.placement.doing(self.item)
    }

    /// The work that loading is.
    fn work(&self) -> Work {
        let digest = self.known_digest();
        Work { items: digest.documents, bytes: digest.bytes }
    }

    /// How to go on after a failure.
    fn again(&self) -> &'static str {
        self.placement.parameters.origin.again()
    }

    /// Its documents, as far as they are known before they come.
    fn known_digest(&self) -> DocumentDigest {
        self.content.digest().unwrap_or_default()
    }

    async fn load_documents(&self, name: &Namespace) -> Result<(Loaded, DocumentDigest)> {
        let Placement { context, .. } = self.placement;
        self.content.load(&Filling { sink: context.sink, observer: context.observer, name }).await
    }

    /// A new collection must hold every document; one that lacks some is never put in place.
    fn refuse_failures(&self, loaded: &Loaded) -> Result<()> {
        let Some(first) = loaded.failures.first() else { return Ok(()) };
        Err(Error::new(
            ErrorKind::Server,
            format!(
                "{} documents were refused by the server; the first, _id {}: {} (code {})",
                loaded.failure_count, first.id, first.message, first.code
            ),
        )
        .with_hint(format!(
            "see why this server refuses documents that the source had (validator, unique index), then {}",
            self.again()
        )))
    }

    /// How options and indexes of `name` differ from what they must be.
    async fn differences(&self, name: &Namespace) -> Result<Vec<String>> {
        let info = self.find(name).await?.ok_or_else(|| vanished(name))?;
        Ok(metadata_differences(self.content.metadata(), &info.metadata))
    }

    /// The digest of all documents of a collection as the server gives them now.
    pub(super) async fn read_back(&self, name: &Namespace) -> Result<DocumentDigest> {
        let info = self.find(name).await?.ok_or_else(|| vanished(name))?;
        self.digest_of(&info).await.context("read back for the proof")
    }

    /// The digest of all documents of a collection, at one moment where the server can. A reading that outlasts the history the server keeps
    /// is taken again without a moment: nobody else writes to what a run has created, and whoever does is found by the difference.
    async fn digest_of(&self, info: &CollectionInfo) -> Result<DocumentDigest> {
        let mut request = SnapshotRequest::Best;
        for _ in 1..PROOF_COUNT_MAX {
            let read = self.digest_at(info, request).await;
            match read.as_ref().err().and_then(ScanSetback::of) {
                None => return read,
                Some(ScanSetback::HistoryPassed) => request = SnapshotRequest::DuringScan,
                Some(ScanSetback::RangesLost) => {}
            }
        }
        self.digest_at(info, request).await
    }

    async fn digest_at(&self, info: &CollectionInfo, request: SnapshotRequest) -> Result<DocumentDigest> {
        let snapshot = self.placement.context.source.snapshot(request).await?;
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
        self.placement.context.observer.advance(self.work());
        let proven = self.placement.run.before.proven.get(&self.index).copied();
        let expected = proven.unwrap_or_else(|| self.known_digest());
        let report = self.report(Loaded::default(), Some(expected), None, Vec::new());
        ItemReport { placed_before: true, ..report }
    }

    fn report(
        &self,
        loaded: Loaded,
        expected: Option<DocumentDigest>,
        found: Option<DocumentDigest>,
        differences: Vec<String>,
    ) -> ItemReport {
        ItemReport {
            source: self.item.source.clone(),
            target: self.item.target.clone(),
            way: self.item.way,
            placed_before: false,
            inserted: loaded.inserted,
            identical: loaded.identical,
            failure_count: loaded.failure_count,
            failures: loaded.failures,
            changes: self.changes(),
            expected,
            found,
            differences,
        }
    }
}

fn vanished(name: &Namespace) -> Error {
    Error::new(ErrorKind::Server, format!("{name} has vanished after it was created"))
}
