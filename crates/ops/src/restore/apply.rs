//! Applying a restore plan.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::SignedDuration;
use mainstay_engine::{CollectionInfo, DocumentSink, DocumentSource, Namespace};
use mainstay_guard::Permit;
use mainstay_journal::{Journal, Lease};
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{Clock, Error, ErrorKind, Plan, Result, ResultExt, RunId, Severity, StoreKind};
use mainstay_repository::{Repository, Set, VerifyReport};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::item::{ItemReport, ItemWork};
use super::plan::{
    Item, Parameters, Way, existing_collections, manifest_assumption, server_assumption, target_assumption,
};
use super::run::{self, Ending, Event, Header, Run, Stage, UnfinishedRun};
use super::{OPERATION_DROP, OPERATION_MERGE, OPERATION_NEW};
use crate::contents::DocumentSetContents;

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
    let parameters = Parameters::of(plan)?;
    check_permit(plan, permit)?;
    let set =
        context.repository.set(Some(StoreKind::Mongo), &parameters.set).await.context("open backup set")?;
    let lease = Lease::acquire(
        context.repository.store(),
        Arc::clone(&context.clock),
        &format!("restore-{}", short_name(&plan.target.fingerprint)),
        context.holder,
        context.lease_ttl,
    )
    .await
    .context("take the restore lease of this server")?
    .keep();
    let outcome = tokio::select! {
        outcome = apply_leased(context, plan, &parameters, &set, permit) => outcome,
        () = context.cancel.cancelled() => Err(Error::new(ErrorKind::Interrupted, "the restore was stopped on request")),
        () = lease.lost().cancelled_owned() => Err(Error::new(ErrorKind::Locked, "the restore lease was lost to another holder")),
    };
    let released = lease.release().await;
    let report = outcome.map_err(with_resume_hint)?;
    released.context("release the restore lease")?;
    Ok(report)
}

fn check_permit(plan: &Plan, permit: &Permit) -> Result<()> {
    let known = [OPERATION_NEW, OPERATION_MERGE, OPERATION_DROP].contains(&plan.operation.as_str());
    if known && permit.operation() == plan.operation && permit.plan_hash() == plan.hash()? {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Refused, "the permit is not for this plan").with_state("nothing was changed"))
}

/// A name that is safe in a lease key, whatever a server calls itself.
fn short_name(fingerprint: &str) -> String {
    mainstay_model::Blake3::of(fingerprint.as_bytes()).short()
}

fn with_resume_hint(error: Error) -> Error {
    match error.kind() {
        ErrorKind::StalePlan | ErrorKind::Refused | ErrorKind::Usage => error,
        _ if error.hint().is_some() => error,
        _ => error.with_hint(
            "apply the same plan again to continue, or give it up with `mainstay restore abandon`",
        ),
    }
}

async fn apply_leased(
    context: &RestoreContext<'_>,
    plan: &Plan,
    parameters: &Parameters,
    set: &Set,
    permit: &Permit,
) -> Result<RestoreReport> {
    let run = Run::begin(context.repository, context.clock.as_ref(), plan).await?;
    check_open(&run)?;
    check_world(context, plan, parameters, set, &run).await?;
    tell_resumption(context.observer, &run, parameters);
    check_set_whole(context, set).await?;
    let contents: DocumentSetContents = set.contents()?;
    let items = restore_items(context, &run, parameters, &contents, set, permit).await?;
    if items.iter().all(|item| item.failure_count == 0) {
        run.record(Event::Completed).await?;
    }
    Ok(RestoreReport { run: run.id.clone(), resumed: run.resumed, items })
}

fn check_open(run: &Run) -> Result<()> {
    let ended = match run.ending {
        Ending::Open => return Ok(()),
        Ending::Completed => "has been applied already",
        Ending::Abandoned => "was given up",
    };
    Err(Error::new(ErrorKind::StalePlan, format!("this plan {ended} (run {})", run.id))
        .with_state("nothing was changed")
        .with_hint("make a new plan with `mainstay restore plan`"))
}

/// Compares what the plan took for granted with what is there now. Collections that this run has begun are its own and are left out.
async fn check_world(
    context: &RestoreContext<'_>,
    plan: &Plan,
    parameters: &Parameters,
    set: &Set,
    run: &Run,
) -> Result<()> {
    let facts = context.source.server_facts().await.context("ask the server which one it is")?;
    let mut target = plan.target.clone();
    target.fingerprint = facts.fingerprint;
    let existing =
        existing_collections(context.source, parameters.items.iter().map(|item| &item.target)).await?;
    let mut seen = vec![manifest_assumption(set), server_assumption(&target)];
    for (index, item) in parameters.items.iter().enumerate() {
        let planned = plan.assumptions.iter().find(|assumption| assumption.name == item.target.to_string());
        seen.push(match (run.stage(index), planned) {
            (Stage::Untouched, _) | (_, None) => target_assumption(&item.target, existing.get(&item.target)),
            (_, Some(planned)) => planned.clone(),
        });
    }
    plan.check_assumptions(&seen)
}

fn tell_resumption(observer: &dyn Observer, run: &Run, parameters: &Parameters) {
    if !run.resumed {
        return;
    }
    let placed = run.stages.values().filter(|stage| **stage == Stage::Placed).count();
    observer.notice(&format!(
        "continuing run {}: {placed} of {} collections are in place, the others are loaded again",
        run.id,
        parameters.items.len()
    ));
}

/// Reads the whole set back; a damaged one is refused before the first write.
async fn check_set_whole(context: &RestoreContext<'_>, set: &Set) -> Result<()> {
    let report: VerifyReport = crate::verify::verify(context.repository, set, context.observer).await?;
    let damaged: Vec<String> = report
        .findings
        .iter()
        .filter(|finding| finding.severity == Severity::Critical)
        .map(|finding| format!("{}: {}", finding.subject, finding.message))
        .collect();
    if damaged.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Corrupt, format!("backup set {} is damaged: {}", set.id(), damaged.join("; ")))
        .with_state("nothing was changed by this run")
        .with_hint("choose another set: `mainstay backup list`"))
}

async fn restore_items(
    context: &RestoreContext<'_>,
    run: &Run,
    parameters: &Parameters,
    contents: &DocumentSetContents,
    set: &Set,
    permit: &Permit,
) -> Result<Vec<ItemReport>> {
    let mut works = Vec::with_capacity(parameters.items.len());
    for (index, item) in parameters.items.iter().enumerate() {
        works.push((index, item, contents.collection(&item.source)?));
    }
    // Largest first, so that the longest load does not begin last; views last of all, so that what they read stands before them.
    works.sort_by_key(|(_, _, record)| std::cmp::Reverse(record.digest().bytes));
    context.observer.phase("restore");
    context.observer.expect(works.iter().fold(Work::default(), |total, (_, _, record)| {
        let digest = record.digest();
        Work { items: total.items + digest.documents, bytes: total.bytes + digest.bytes }
    }));
    let load_slots = Semaphore::new(parameters.load_count_max);
    let load_slots = &load_slots;
    let mut reports: Vec<(usize, ItemReport)> = stream::iter(works)
        .map(|(index, item, record)| async move {
            let work = ItemWork { context, run, set, permit, load_slots, index, item, record };
            work.restore()
                .await
                .map(|report| (index, report))
                .with_context(|| format!("restore {}", item.target))
        })
        .buffer_unordered(COLLECTION_COUNT_MAX)
        .try_collect()
        .await?;
    reports.sort_by_key(|(index, _)| *index);
    Ok(reports.into_iter().map(|(_, report)| report).collect())
}

/// The restores in the repository that were begun and have neither completed nor been given up.
///
/// # Errors
/// What the store fails with. Journals of other operations are passed over.
pub async fn unfinished_runs(repository: &Repository) -> Result<Vec<UnfinishedRun>> {
    let mut unfinished = Vec::new();
    for id in Journal::runs(repository.store()).await.context("list journals")? {
        let Ok((header, events)) = run::read(repository, &id).await else { continue };
        let (stages, ending) = run::fold(&events);
        if ending == Ending::Open {
            unfinished.push(describe(id, &header, &stages)?);
        }
    }
    Ok(unfinished)
}

fn describe(id: RunId, header: &Header, stages: &BTreeMap<usize, Stage>) -> Result<UnfinishedRun> {
    let parameters = Parameters::of(&header.plan)?;
    let begun = stages
        .iter()
        .filter(|(_, stage)| **stage != Stage::Placed)
        .filter_map(|(index, _)| parameters.items.get(*index))
        .map(|item| item.target.clone())
        .collect();
    Ok(UnfinishedRun {
        run: id,
        plan_hash: header.plan_hash,
        placed: stages.values().filter(|stage| **stage == Stage::Placed).count(),
        total: parameters.items.len(),
        begun,
    })
}

/// Gives up the run of `plan`: removes the collections it was loading beside others. Collections in place stay; those that were being
/// created under a free name are named in the answer and stay, half loaded, for the operator to judge.
///
/// # Errors
/// `NotFound` when the plan was never applied; `StalePlan` when its run has ended.
pub async fn abandon(context: &RestoreContext<'_>, plan: &Plan, permit: &Permit) -> Result<UnfinishedRun> {
    check_permit(plan, permit)?;
    let id = run::run_id(plan)?;
    let (header, events) =
        run::read(context.repository, &id).await.context("open the journal of this plan")?;
    let run = Run::begin(context.repository, context.clock.as_ref(), plan).await?;
    check_open(&run)?;
    let parameters = Parameters::of(plan)?;
    for (index, item) in parameters.items.iter().enumerate() {
        if item.way == Way::Swap && run.stage(index) != Stage::Placed {
            context.sink.drop_collection(&run.shadow(index, &item.target), permit).await?;
        }
    }
    run.record(Event::Abandoned).await?;
    let (stages, _) = run::fold(&events);
    describe(id, &header, &stages)
}

/// What stands under `name` at the target.
pub(super) async fn find(source: &dyn DocumentSource, name: &Namespace) -> Result<Option<CollectionInfo>> {
    Ok(existing_collections(source, std::iter::once(name)).await?.remove(name))
}

/// Used by [`ItemWork`] to say which item it is about.
pub(super) fn item_state(item: &Item) -> String {
    match item.way {
        Way::Swap => format!("{} still holds its old data", item.target),
        Way::Create | Way::DropFirst => format!("{} is not whole yet", item.target),
        Way::Merge => format!("{} holds its old data and part of the set's", item.target),
        Way::Keep => format!("{} is untouched", item.target),
    }
}
