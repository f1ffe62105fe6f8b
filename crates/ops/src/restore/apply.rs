//! Applying a restore plan.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::SignedDuration;
use mainstay_engine::{
    ChangeReplay, CollectionIdentity, CollectionInfo, CollectionKind, DocumentSink, DocumentSource,
    Namespace, Until,
};
use mainstay_guard::Permit;
use mainstay_journal::{KeptLease, Lease};
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{
    Assumption, Blake3, ChainId, Clock, Count, Error, ErrorKind, OpTime, Plan, Result, ResultExt, RunId,
    SetId, Severity, StoreKind,
};
use mainstay_repository::{Repository, Set};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::item::{ItemReport, ItemWork};
use super::log::{Log, LogSpan};
use super::plan::{
    Item, Parameters, Way, existing_collections, manifest_assumption, server_assumption, stake,
    target_assumption,
};
use super::point::PointContext;
use super::run::{Ending, Event, Run, Stage};
use super::wanted::Wanted;
use crate::contents::DocumentSetContents;
use crate::inspect::inspect_objects;

/// How many collections are worked on at the same time: one loads while another's indexes are built.
const COLLECTION_COUNT_MAX: usize = 3;

/// What a restore works with.
pub struct RestoreContext<'a> {
    /// The target, for reading: what exists, and the proof.
    pub source: &'a dyn DocumentSource,
    /// The target, for writing.
    pub sink: &'a dyn DocumentSink,
    /// The target, for replaying a log.
    pub replay: &'a dyn ChangeReplay,
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
    /// The moment that was restored; `None` for a set as it is.
    pub moment: Option<MomentReport>,
    /// The collections of the plan, in its order.
    pub items: Vec<ItemReport>,
}

/// A moment that was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MomentReport {
    /// The end that was asked for.
    pub until: Until,
    /// The last entry of the log within it; `None` when the set was that far already.
    pub reached: Option<OpTime>,
    /// The set that was begun with.
    pub set: SetId,
    /// The chain that was replayed.
    pub chain: ChainId,
    /// Entries of the log up to the end, those of other collections included.
    pub entries: u64,
}

impl RestoreReport {
    /// Documents that are not at the target, over all collections.
    pub fn failure_count(&self) -> u64 {
        self.items.iter().map(|item| item.failure_count).sum()
    }

    /// Whether every collection was proven equal to what was stored and described equally by the server.
    pub fn is_proven(&self) -> bool {
        self.items.iter().all(ItemReport::is_proven)
    }
}

/// Restores as `plan` says.
///
/// # Errors
/// `StalePlan` when the world has moved; `Corrupt` when set or log are damaged (then nothing was written); `Locked` when another restore
/// works on this server; `Interrupted` when cancelled. After any error past the first write, applying the same plan again continues.
pub async fn apply(context: &RestoreContext<'_>, plan: &Plan, permit: &Permit) -> Result<RestoreReport> {
    permit.covers(plan)?;
    let parameters = Parameters::of(plan)?;
    let set =
        context.repository.set(Some(StoreKind::Mongo), &parameters.set).await.context("open backup set")?;
    let contents: DocumentSetContents = set.contents()?;
    let work = async |lease: &KeptLease| {
        // Under the lease: what the journal says must stay true until this process has acted on it.
        let run = Run::open(context.repository, plan).await?;
        let restore = Restore {
            context,
            plan,
            parameters: &parameters,
            set: &set,
            contents: &contents,
            permit,
            run: &run,
            lease,
        };
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
    pub(super) contents: &'a DocumentSetContents,
    pub(super) permit: &'a Permit,
    pub(super) run: &'a Run,
    pub(super) lease: &'a KeptLease,
}

impl<'a> Restore<'a> {
    async fn run(self) -> Result<RestoreReport> {
        let resumed = self.run.is_begun().await;
        self.check_open()?;
        self.check_world(resumed).await.map_err(|error| if resumed { after_begin(error) } else { error })?;
        self.tell_resumption(resumed);
        let log = self.open_log().await?;
        let wanted = self.wanted(log.as_ref()).await?;
        self.check_set_whole(&wanted).await?;
        self.run.begin(self.context.repository, self.context.clock.as_ref(), self.plan).await?;
        let items = self.items(&wanted, log.as_ref()).await?;
        if items.iter().all(|item| item.failure_count == 0) {
            self.run.record(Event::Completed).await?;
        }
        let moment = log.map(|log| log.report(self.set.id()));
        Ok(RestoreReport { run: self.run.id.clone(), resumed, moment, items })
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
        // What was taken for granted of the log is compared when it has been read.
        let log_names = self.parameters.log.iter().flat_map(LogSpan::assumption_names);
        seen.extend(log_names.filter_map(|name| self.assumption(&name).cloned()));
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
            // What is made under its own name may stand there already, which is found out before anything is dropped.
            Stage::Begun => item.way == Way::DropFirst || item.kind != CollectionKind::Collection,
            // Views, of which the server tells no identity, are made under their own names.
            Stage::Created(None) => true,
            Stage::Created(uuid) | Stage::Filled(uuid, _) | Stage::Placing(uuid) => {
                is_own(uuid.as_ref(), standing) || (item.way == Way::DropFirst && standing.is_none())
            }
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
        self.assumption(&target.to_string())
    }

    fn assumption(&self, name: &str) -> Option<&Assumption> {
        self.plan.assumptions.iter().find(|assumption| assumption.name == name)
    }

    fn tell_resumption(self, resumed: bool) {
        if resumed {
            self.context.observer.notice(&format!(
                "continuing run {}: {} of {} collections are in place; what was loaded and proven is kept, the rest is loaded again",
                self.run.id,
                self.run.before.placed(),
                self.parameters.items.len()
            ));
        }
    }

    /// Reads the log that the plan names from beginning to end, and compares what it tells with what the plan was made with.
    async fn open_log(self) -> Result<Option<Log>> {
        let Some(span) = &self.parameters.log else { return Ok(None) };
        let RestoreContext { repository, replay, observer, .. } = *self.context;
        let context =
            PointContext { repository, replay, fingerprint: &self.plan.target.fingerprint, observer };
        let log = Log::open(&context, self.set, self.contents, span).await.map_err(|error| {
            if error.state().is_some() { error } else { error.with_state("nothing was changed by this run") }
        })?;
        let seen = log.assumptions()?;
        match seen.iter().find(|seen| self.assumption(&seen.name) != Some(seen)) {
            None => Ok(Some(log)),
            Some(moved) => Err(Error::new(
                ErrorKind::StalePlan,
                format!("{} is no longer what the plan was made with: {}", moved.name, moved.value),
            )
            .with_state("nothing was changed by this run")
            .with_hint("make the plan again and review it")),
        }
    }

    /// What each collection of the plan must become, in the plan's order.
    async fn wanted(self, log: Option<&Log>) -> Result<Vec<Wanted<'a>>> {
        let mut wanted = Vec::with_capacity(self.parameters.items.len());
        for item in &self.parameters.items {
            wanted.push(match log {
                None => Wanted::of_record(self.set, self.contents.collection(&item.source)?).await?,
                Some(log) => Wanted::of_point(self.contents, log.collection(&item.source)?)?,
            });
        }
        Ok(wanted)
    }

    /// Reads back everything of the set that is needed; what is damaged is refused before the first write.
    async fn check_set_whole(self, wanted: &[Wanted<'_>]) -> Result<()> {
        let objects = match &self.parameters.log {
            // The definitions of all collections have been read for the survey.
            Some(_) => {
                self.contents.metadata_objects().chain(wanted.iter().flat_map(Wanted::objects)).collect()
            }
            None => wanted.iter().flat_map(Wanted::objects).collect(),
        };
        let findings =
            inspect_objects(self.context.repository, self.set, &objects, self.context.observer).await?;
        let damaged: Vec<String> = findings
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

    async fn items(self, wanted: &[Wanted<'_>], log: Option<&Log>) -> Result<Vec<ItemReport>> {
        let load_slots = Semaphore::new(self.parameters.load_count_max);
        let mut works: Vec<ItemWork<'_>> = self
            .parameters
            .items
            .iter()
            .zip(wanted)
            .enumerate()
            .map(|(index, (item, wanted))| ItemWork {
                restore: self,
                load_slots: &load_slots,
                index,
                item,
                wanted,
            })
            .collect();
        // Largest first, so that the longest load does not begin last.
        works.sort_by_key(|work| std::cmp::Reverse(work.work().bytes));
        let mut reports = match log {
            None => self.one_by_one(works).await?,
            Some(log) => self.all_together(works, log).await?,
        };
        reports.sort_by_key(|(index, _)| *index);
        Ok(reports.into_iter().map(|(_, report)| report).collect())
    }

    /// Takes each collection through all its steps; views last, so that what they read stands before them.
    async fn one_by_one(self, works: Vec<ItemWork<'_>>) -> Result<Vec<(usize, ItemReport)>> {
        self.begin_phase("restore", works.iter().map(ItemWork::work).sum());
        let works = works.iter().map(|work| (work, ()));
        let (views, collections): (Vec<_>, Vec<_>) = works.partition(|(work, ())| work.is_view());
        let restore = async |work: &ItemWork<'_>, ()| work.restore().await;
        let mut reports = pass(collections, restore).await?;
        reports.extend(pass(views, restore).await?);
        Ok(reports.into_iter().map(|(work, report)| (work.index, report)).collect())
    }

    /// Takes all collections through each step: the log is replayed into all of them together, and none gets its name before all are
    /// proven and indexed.
    async fn all_together(self, works: Vec<ItemWork<'_>>, log: &Log) -> Result<Vec<(usize, ItemReport)>> {
        self.begin_phase("load", works.iter().map(ItemWork::work).sum());
        let begun: Vec<_> = works.iter().map(|work| (work, ())).collect();
        let steps = pass(begun, async |work, ()| work.load().await).await?;
        let steps = self.replay(log, steps).await?;
        self.begin_phase("prove", works.iter().map(ItemWork::work).sum());
        let steps = pass(steps, async |work, step| work.prove(step).await).await?;
        self.begin_phase("indexes", Work { items: works.len() as u64, bytes: 0 });
        let steps = pass(steps, async |work, step| {
            let step = work.index(step).await;
            self.context.observer.advance(Work { items: 1, bytes: 0 });
            step
        })
        .await?;
        self.begin_phase("put in place", Work { items: works.len() as u64, bytes: 0 });
        let (views, collections): (Vec<_>, Vec<_>) = steps.into_iter().partition(|(work, _)| work.is_view());
        let place = async |work: &ItemWork<'_>, step| {
            let report = work.place(step).await;
            self.context.observer.advance(Work { items: 1, bytes: 0 });
            report
        };
        let mut reports = pass(collections, place).await?;
        reports.extend(pass(views, place).await?);
        Ok(reports.into_iter().map(|(work, report)| (work.index, report)).collect())
    }

    pub(super) fn begin_phase(self, name: &str, expected: Work) {
        self.context.observer.phase(name);
        self.context.observer.expect(expected);
    }
}

/// Collections, each with how far it has come.
pub(super) type Works<'w, T> = Vec<(&'w ItemWork<'w>, T)>;

/// Takes collections through one step, several at the same time, each with what the step before gave.
async fn pass<'w, T, U>(
    works: Works<'w, T>,
    step: impl AsyncFn(&'w ItemWork<'w>, T) -> Result<U>,
) -> Result<Works<'w, U>> {
    let step = &step;
    stream::iter(works)
        .map(|(work, before)| async move {
            let done = step(work, before).await;
            done.map(|done| (work, done)).with_context(|| format!("restore {}", work.item.target))
        })
        .buffer_unordered(COLLECTION_COUNT_MAX)
        .try_collect()
        .await
}

/// Whether `standing` is the collection that this run created.
pub(super) fn is_own(uuid: Option<&CollectionIdentity>, standing: Option<&CollectionInfo>) -> bool {
    uuid.is_some() && standing.and_then(|standing| standing.identity.as_ref()) == uuid
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
