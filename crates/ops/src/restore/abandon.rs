//! Giving up a restore run: what it was loading beside others' names is removed, and the run can never be continued.
//!
//! Collections in place stay. Views and time series that were being made under their own names stay too, and are named, for the operator to
//! judge. Nothing that held data before the restore is touched.

use mainstay_engine::{CollectionKind, DocumentSource, Namespace};
use mainstay_guard::{Permit, operation};
use mainstay_model::{
    BlastRadius, Clock, Error, ErrorKind, PLAN_FORMAT, Plan, PlanStep, Result, ResultExt, RunId, Target,
};
use mainstay_repository::Repository;
use serde::{Deserialize, Serialize};

use super::OPERATION_ABANDON;
use super::apply::RestoreContext;
use crate::placement::run::{self, Ending, Event, Progress, Run, Stage};
use crate::placement::{
    Item, Parameters, Way, existing_collections, is_own, leased, server_assumption, stoppable,
};

/// The decided parameters.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AbandonParameters {
    run: RunId,
}

/// What was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AbandonReport {
    /// The run.
    pub run: RunId,
    /// What it had been loading, removed now.
    pub removed: Vec<Namespace>,
    /// Collections that it had put in place; they stay.
    pub placed: Vec<Namespace>,
    /// Views and time series that it had begun under their own names; they stay as they are.
    pub half_done: Vec<Namespace>,
}

/// Decides to give up `run`.
///
/// # Errors
/// `NotFound` when there is no such run; `Precondition` when it has ended or was on another server.
pub async fn plan_abandon(
    repository: &Repository,
    run: &RunId,
    source: &dyn DocumentSource,
    target: Target,
    clock: &dyn Clock,
) -> Result<Plan> {
    let (_, header, progress) =
        run::read(repository, run).await.with_context(|| format!("open run {run}"))?;
    check_open(run, progress.ending)?;
    if header.plan.target.fingerprint != target.fingerprint {
        return Err(Error::new(
            ErrorKind::Precondition,
            format!(
                "run {run} was on server {}, this is {}",
                header.plan.target.fingerprint, target.fingerprint
            ),
        )
        .with_state("nothing was changed")
        .with_hint("point the configuration at that server"));
    }
    let parameters = Parameters::of(&header.plan)?;
    let shadows = shadows(run, &parameters, &progress);
    let standing = existing_collections(source, shadows.iter()).await?;
    let step = |name: &Namespace| PlanStep {
        name: format!("remove {name}"),
        mark: '-',
        summary: "what the run was loading".to_owned(),
    };
    let created_at = clock.now();
    Ok(Plan {
        format: PLAN_FORMAT,
        operation: OPERATION_ABANDON.to_owned(),
        effect: operation(OPERATION_ABANDON).expect("abandon is registered").effect,
        assumptions: vec![server_assumption(&target)],
        blast_radius: BlastRadius {
            phrase: format!("abandon {run}@{}", target.environment),
            items: 0,
            bytes: 0,
        },
        target,
        steps: standing.keys().map(step).collect(),
        parameters: serde_json::to_value(AbandonParameters { run: run.clone() })
            .expect("parameters have a JSON form"),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

fn check_open(run: &RunId, ending: Ending) -> Result<()> {
    match ending {
        Ending::Open | Ending::Abandoning => Ok(()),
        Ending::Completed => Err(ended(run, "has completed")),
        Ending::Abandoned => Err(ended(run, "was given up already")),
    }
}

fn ended(run: &RunId, how: &str) -> Error {
    Error::new(ErrorKind::Precondition, format!("run {run} {how}")).with_state("nothing was changed")
}

/// Names that the run may have loaded under.
fn shadows(run: &RunId, parameters: &Parameters, progress: &Progress) -> Vec<Namespace> {
    let unplaced = |index: &usize| !matches!(progress.stage(*index), Stage::Untouched | Stage::Placed);
    parameters
        .items
        .iter()
        .enumerate()
        .filter(|(index, _)| unplaced(index))
        .map(|(index, item)| run::shadow(run, index, &item.target))
        .collect()
}

/// Gives up the run as `plan` says.
///
/// # Errors
/// `Locked` while the run is being applied; `Precondition` when it has ended. Repeating is safe.
pub async fn abandon(context: &RestoreContext<'_>, plan: &Plan, permit: &Permit) -> Result<AbandonReport> {
    permit.covers(plan)?;
    let parameters: AbandonParameters =
        serde_json::from_value(plan.parameters.clone()).map_err(|source| {
            Error::new(ErrorKind::Usage, "the plan's parameters are not those of giving up a restore")
                .with_source(source)
        })?;
    let placement_context = context.placement();
    leased(&placement_context, &plan.target.fingerprint, async |lease| {
        stoppable(&placement_context, lease, abandon_leased(context, &parameters.run, permit)).await
    })
    .await
}

async fn abandon_leased(context: &RestoreContext<'_>, id: &RunId, permit: &Permit) -> Result<AbandonReport> {
    let (_, header, _) = run::read(context.repository, id).await.with_context(|| format!("open run {id}"))?;
    let run = Run::open(context.repository, &header.plan).await?;
    check_open(id, run.before.ending)?;
    let facts = context.source.server_facts().await.context("ask the server which one it is")?;
    if facts.fingerprint != header.plan.target.fingerprint {
        return Err(ended(id, "was on another server"));
    }
    // From here on the run cannot be continued, so that nobody takes a missing shadow for a collection in place.
    run.record(Event::Abandoning).await?;
    let parameters = Parameters::of(&header.plan)?;
    let placed = placed(context.source, &parameters, &run.before).await?;
    let mut removed = Vec::new();
    let standing = existing_collections(context.source, shadows(id, &parameters, &run.before).iter()).await?;
    for shadow in standing.into_keys() {
        context.sink.drop_collection(&shadow, permit).await?;
        removed.push(shadow);
    }
    run.record(Event::Abandoned).await?;
    Ok(report(id, &parameters, &run.before, removed, placed))
}

/// What the run has put in place, whether it came to record that or was killed between the two.
async fn placed(
    source: &dyn DocumentSource,
    parameters: &Parameters,
    progress: &Progress,
) -> Result<Vec<Namespace>> {
    let items = || parameters.items.iter().enumerate();
    let doubtful = items().filter(|(index, _)| matches!(progress.stage(*index), Stage::Placing(_)));
    let standing = existing_collections(source, doubtful.map(|(_, item)| &item.target)).await?;
    let stands = |(index, item): &(usize, &Item)| match progress.stage(*index) {
        Stage::Placed => true,
        Stage::Placing(uuid) => is_own(uuid.as_ref(), standing.get(&item.target)),
        Stage::Untouched | Stage::Begun | Stage::Created(_) | Stage::Filled(..) => false,
    };
    Ok(items().filter(stands).map(|(_, item)| item.target.clone()).collect())
}

fn report(
    run: &RunId,
    parameters: &Parameters,
    progress: &Progress,
    removed: Vec<Namespace>,
    placed: Vec<Namespace>,
) -> AbandonReport {
    let made_in_place = |item: &Item| item.way == Way::DropFirst || item.kind != CollectionKind::Collection;
    let half_done = { parameters.items.iter().enumerate() }
        .filter(|(index, _)| !matches!(progress.stage(*index), Stage::Untouched | Stage::Placed))
        .filter(|(_, item)| made_in_place(item))
        .map(|(_, item)| item.target.clone())
        .collect();
    AbandonReport { run: run.clone(), removed, placed, half_done }
}
