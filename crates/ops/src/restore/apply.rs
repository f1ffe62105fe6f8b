//! Applying a restore plan.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::SignedDuration;
use mainstay_engine::{CollectionInfo, CollectionKind, DocumentSink, DocumentSource, Namespace};
use mainstay_guard::Permit;
use mainstay_journal::{KeptLease, Lease};
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{
    Assumption, Blake3, Clock, Count, Error, ErrorKind, Plan, Result, ResultExt, RunId, Severity, StoreKind,
};
use mainstay_repository::{Repository, Set};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::item::{ItemReport, ItemWork};
use super::plan::{
    Item, Parameters, Way, existing_collections, manifest_assumption, server_assumption, stake,
    target_assumption,
};
use super::run::{Ending, Event, Run, Stage};
use crate::contents::{CollectionRecord, DocumentSetContents};
use crate::inspect::inspect;

/// How many collections are worked on at the same time: one loads while another's indexes are built.
const COLLECTION_COUNT_MAX: usize = 3;

/// What a restore works with.
pub struct RestoreContext<'a> {
    /// The target, for reading: what exists, and the proof.
    pub source: &'a dyn DocumentSource,
    /// The target, for writing.
    pub sink: &'a dyn DocumentSink,
    /// Where the set is, and where journal and lease are kept.
    pub repository: &'a Repository,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who runs this, for the lease: `user@host`.
    pub holder: &'a str,
    /// How long the lease lives without being renewed: so long a killed restore keeps others out.
    pub lease_ttl: SignedDuration,
    /// Told how far it is.
    pub observer: &'a dyn Observer,
    /// Stops at the next batch; the same plan continues later.
    pub cancel: &'a CancellationToken,
}

/// What a restore did.
#[derive(Debug)]
pub struct RestoreReport {
    /// Its run.
    pub run: RunId,
    /// Whether it continued an earlier try.
    pub resumed: bool,
    /// The collections of the plan, in its order.
    pub items: Vec<ItemReport>,
}

impl RestoreReport {
    /// Documents that are not at the target, over all collections.
    pub fn failure_count(&self) -> u64 {
        self.items.iter().map(|item| item.failure_count).sum()
    }

    /// Whether every collection was proven equal to the set and described equally by the server.
    pub fn is_proven(&self) -> bool {
        self.items.iter().all(ItemReport::is_proven)
    }
}

/// Restores as `plan` says.
///
/// # Errors
/// `StalePlan` when the world has moved; `Corrupt` when the set is damaged (then nothing was written); `Locked` when another restore
/// works on this server; `Interrupted` when cancelled. After any error past the first write, applying the same plan again continues.
pub async fn apply(context: &RestoreContext<'_>, plan: &Plan, permit: &Permit) -> Result<RestoreReport> {
    permit.covers(plan)?;
    let parameters = Parameters::of(plan)?;
    let set =
        context.repository.set(Some(StoreKind::Mongo), &parameters.set).await.context("open backup set")?;
    let work = async |lease: &KeptLease| {
        // Under the lease: what the journal says must stay true until this process has acted on it.
        let run = Run::open(context.repository, plan).await?;
        let restore = Restore { context, plan, parameters: &parameters, set: &set, permit, run: &run, lease };
        let outcome = stoppable(context, lease, restore.run()).await;
        outcome.map_err(|error| with_state_of(error, &run, parameters.items.len()))
    };
    leased(context, &plan.target.fingerprint, work).await
}

/// Does `work` while holding the lease of restores into one server. A lease that cannot be given back runs out by itself.
pub(super) async fn leased<T>(
    context: &RestoreContext<'_>,
    fingerprint: &str,
    work: impl AsyncFnOnce(&KeptLease) -> Result<T>,
) -> Result<T> {
    let store = context.repository.store();
    let name = format!("restore-{}", Blake3::of(fingerprint.as_bytes()).short());
    let lease = Lease::acquire(store, Arc::clone(&context.clock), &name, context.holder, context.lease_ttl)
        .await
        .context("take the restore lease of this server")?
        .keep();
    let outcome = work(&lease).await;
    if let Err(error) = lease.release().await {
        context.observer.notice(&format!("warning: the restore lease stays until it runs out: {error}"));
    }
    outcome
}

/// Does `work` until it ends, is cancelled, or the lease is lost.
pub(super) async fn stoppable<T>(
    context: &RestoreContext<'_>,
    lease: &KeptLease,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::select! {
        outcome = work => outcome,
        () = context.cancel.cancelled() => {
            Err(Error::new(ErrorKind::Interrupted, "the restore was stopped on request").with_state(STOPPED))
        }
        () = lease.lost().cancelled_owned() => {
            let lost = || Error::new(ErrorKind::Locked, "the restore lease was lost");
            Err(lease.check().err().unwrap_or_else(lost).with_state(STOPPED))
        }
    }
}

/// How the server stands when a run was stopped from outside.
const STOPPED: &str = "what is in place stays, and under every other name stands what stood there before; \
                       a view or time series that was being replaced may be missing until the run continues";

/// Tells how far the run has come, and how to go on.
fn with_state_of(error: Error, run: &Run, total: usize) -> Error {
    if matches!(
        error.kind(),
        ErrorKind::StalePlan | ErrorKind::Refused | ErrorKind::Usage | ErrorKind::Locked
    ) {
        return error;
    }
    let far = format!("{} of {total} collections are in place", run.placed());
    let error = match error.state().map(str::to_owned) {
        Some(state) => error.with_state(format!("{state}; {far}")),
        None => error.with_state(far),
    };
    if error.hint().is_some() {
        return error;
    }
    error.with_hint(
        "apply the same plan again to continue, or give it up: `mainstay restore list` names the run",
    )
}

/// One application of one plan.
#[derive(Clone, Copy)]
pub(super) struct Restore<'a> {
    pub(super) context: &'a RestoreContext<'a>,
    pub(super) plan: &'a Plan,
    pub(super) parameters: &'a Parameters,
    pub(super) set: &'a Set,
    pub(super) permit: &'a Permit,
    pub(super) run: &'a Run,
    pub(super) lease: &'a KeptLease,
}

impl Restore<'_> {
    async fn run(self) -> Result<RestoreReport> {
        let resumed = self.run.is_begun().await;
        self.check_open()?;
        self.check_world(resumed).await.map_err(|error| if resumed { after_begin(error) } else { error })?;
        self.tell_resumption(resumed);
        self.check_set_whole().await?;
        let contents: DocumentSetContents = self.set.contents()?;
        self.run.begin(self.context.repository, self.context.clock.as_ref(), self.plan).await?;
        let items = self.items(&contents).await?;
        if items.iter().all(|item| item.failure_count == 0) {
            self.run.record(Event::Completed).await?;
        }
        Ok(RestoreReport { run: self.run.id.clone(), resumed, items })
    }

    fn check_open(self) -> Result<()> {
        let ended = match self.run.before.ending {
            Ending::Open => return Ok(()),
            Ending::Completed => "has been applied already",
            Ending::Abandoning | Ending::Abandoned => "was given up",
        };
        Err(Error::new(ErrorKind::StalePlan, format!("this plan {ended} (run {})", self.run.id))
            .with_state("nothing was changed")
            .with_hint("make a new plan with `mainstay restore plan`"))
    }

    /// Compares what the plan took for granted with what is there now, but for names under which this run has already acted.
    async fn check_world(self, resumed: bool) -> Result<()> {
        let facts = self.context.source.server_facts().await.context("ask the server which one it is")?;
        let mut target = self.plan.target.clone();
        target.fingerprint = facts.fingerprint;
        let targets = self.parameters.items.iter().map(|item| &item.target);
        let existing = existing_collections(self.context.source, targets).await?;
        let mut seen = vec![manifest_assumption(self.set), server_assumption(&target)];
        for (index, item) in self.parameters.items.iter().enumerate() {
            let standing = existing.get(&item.target);
            let planned = self.planned(&item.target);
            seen.push(match planned {
                Some(planned) if self.has_acted(index, item, standing) => planned.clone(),
                _ => target_assumption(&item.target, standing),
            });
        }
        self.plan.check_assumptions(&seen)?;
        if resumed { Ok(()) } else { self.check_stake(&existing) }
    }

    /// Whether this run has already changed what stands under the item's name, so that it need not be as planned.
    fn has_acted(self, index: usize, item: &Item, standing: Option<&CollectionInfo>) -> bool {
        match self.run.before.stage(index) {
            Stage::Untouched => false,
            Stage::Placed => true,
            Stage::Placing(uuid) if is_own(uuid.as_ref(), standing) => true,
            Stage::Begun => item.way == Way::DropFirst && standing.is_none(),
            // Views and time series are made under their own names.
            Stage::Created(None) | Stage::Placing(None) => true,
            Stage::Created(_) | Stage::Placing(_) => false,
        }
    }

    /// Refuses when much more is at stake now than the plan that was approved says.
    fn check_stake(self, existing: &std::collections::BTreeMap<Namespace, CollectionInfo>) -> Result<()> {
        let (documents, _) = stake(&self.parameters.items, existing);
        let planned = self.plan.blast_radius.items;
        if documents <= planned + planned / 2 + 1_000 {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::StalePlan,
            format!("{} documents are at stake, the plan says {}", Count(documents), Count(planned)),
        )
        .with_state("nothing was changed")
        .with_hint("make the plan again and review it"))
    }

    /// What the plan took for granted about the name `target`.
    pub(super) fn planned(&self, target: &Namespace) -> Option<&Assumption> {
        let name = target.to_string();
        self.plan.assumptions.iter().find(|assumption| assumption.name == name)
    }

    fn tell_resumption(self, resumed: bool) {
        if resumed {
            self.context.observer.notice(&format!(
                "continuing run {}: {} of {} collections are in place, the others are loaded again",
                self.run.id,
                self.run.before.placed(),
                self.parameters.items.len()
            ));
        }
    }

    /// Reads the whole set back; a damaged one is refused before the first write.
    async fn check_set_whole(self) -> Result<()> {
        let report = inspect(self.context.repository, self.set, self.context.observer).await?;
        let damaged: Vec<String> = report
            .findings
            .iter()
            .filter(|finding| finding.severity == Severity::Critical)
            .map(|finding| format!("{}: {}", finding.subject, finding.message))
            .collect();
        if damaged.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Corrupt,
            format!("backup set {} is damaged: {}", self.set.id(), damaged.join("; ")),
        )
        .with_state("nothing was changed by this run")
        .with_hint("choose another set: `mainstay backup list`"))
    }

    async fn items(self, contents: &DocumentSetContents) -> Result<Vec<ItemReport>> {
        let mut works = Vec::with_capacity(self.parameters.items.len());
        for (index, item) in self.parameters.items.iter().enumerate() {
            works.push((index, item, contents.collection(&item.source)?));
        }
        // Largest first, so that the longest load does not begin last.
        works.sort_by_key(|(_, _, record)| std::cmp::Reverse(record.digest().bytes));
        self.context.observer.phase("restore");
        self.context.observer.expect(works.iter().fold(Work::default(), |total, (_, _, record)| {
            let digest = record.digest();
            Work { items: total.items + digest.documents, bytes: total.bytes + digest.bytes }
        }));
        // Views last, so that what they read stands before them.
        let (views, collections) =
            works.into_iter().partition(|(_, _, record)| record.kind == CollectionKind::View);
        let mut reports = self.pass(collections).await?;
        reports.extend(self.pass(views).await?);
        reports.sort_by_key(|(index, _)| *index);
        Ok(reports.into_iter().map(|(_, report)| report).collect())
    }

    async fn pass(self, works: Vec<(usize, &Item, &CollectionRecord)>) -> Result<Vec<(usize, ItemReport)>> {
        let load_slots = Semaphore::new(self.parameters.load_count_max);
        let load_slots = &load_slots;
        stream::iter(works)
            .map(|(index, item, record)| async move {
                let work = ItemWork { restore: self, load_slots, index, item, record };
                work.restore()
                    .await
                    .map(|report| (index, report))
                    .with_context(|| format!("restore {}", item.target))
            })
            .buffer_unordered(COLLECTION_COUNT_MAX)
            .try_collect()
            .await
    }
}

/// Whether `standing` is the collection that this run created.
pub(super) fn is_own(uuid: Option<&String>, standing: Option<&CollectionInfo>) -> bool {
    uuid.is_some() && standing.and_then(super::plan::uuid).as_ref() == uuid
}

/// A refusal in the middle of a run must not say that nothing was changed.
fn after_begin(error: Error) -> Error {
    error
        .with_state(STOPPED)
        .with_hint("`mainstay restore list` shows the run; give it up with `mainstay restore abandon RUN`, then plan again")
}

/// What stands under `name` at the target.
pub(super) async fn find(source: &dyn DocumentSource, name: &Namespace) -> Result<Option<CollectionInfo>> {
    Ok(existing_collections(source, std::iter::once(name)).await?.remove(name))
}
