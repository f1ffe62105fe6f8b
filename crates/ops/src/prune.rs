//! Removal of what interrupted backups left behind.
//!
//! Only leftovers: objects of sets that never got a manifest. A set that exists is never touched here, and neither is one that somebody is
//! writing now (its lease is live), or one that a set builds on: that had a manifest once, and may get it back. What a run left that can be
//! continued ([`ResumableRun`]) stays for a day after its last range, unless its removal is asked for. Journals of backups whose set is complete or gone are removed, too.

use jiff::SignedDuration;
use mainstay_guard::{Permit, operation};
use mainstay_journal::Journal;
use mainstay_model::{
    BlastRadius, ByteSize, Clock, EnvironmentClass, Error, ErrorKind, PLAN_FORMAT, Plan, PlanStep, Result,
    ResultExt, RunId, StoreKind, Target,
};
use mainstay_repository::{Leftover, LeftoverKind, Repository};
use serde::{Deserialize, Serialize};

use crate::backup::{self, ResumableRun};
use crate::cluster;

/// The operation's registered name.
pub const OPERATION: &str = "backup.prune";

/// How long after its last range a run that can be continued is kept.
const RESUMABLE_KEPT: SignedDuration = SignedDuration::from_hours(24);

/// What may be removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruneScope {
    /// Also what runs left that could be continued, however young.
    pub resumable: bool,
}

/// A leftover, judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// What was left.
    pub leftover: Leftover,
    /// The run that can be continued with it.
    pub run: Option<ResumableRun>,
    /// What becomes of it.
    pub fate: Fate,
}

/// What becomes of a leftover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Somebody may be writing it.
    InUse,
    /// It can be continued, and is young.
    Resumable,
    /// It was a set, and others build on it: only its manifest is missing.
    Needed,
    /// Nobody needs it.
    Removed,
}

/// What a prune found and did.
#[derive(Debug, Default)]
pub struct PruneReport {
    /// Removed.
    pub removed: Vec<Leftover>,
    /// Left alone, because a running backup holds them.
    pub in_use: Vec<Leftover>,
    /// Left alone, because their run can be continued.
    pub resumable: Vec<(Leftover, ResumableRun)>,
    /// Left alone, because sets build on what they were.
    pub needed: Vec<Leftover>,
}

impl PruneReport {
    /// What would become of `judged`.
    pub fn of(judged: Vec<Judged>) -> Self {
        let mut report = Self::default();
        for Judged { leftover, run, fate } in judged {
            match (fate, run) {
                (Fate::InUse, _) => report.in_use.push(leftover),
                (Fate::Needed, _) => report.needed.push(leftover),
                (Fate::Resumable, Some(run)) => report.resumable.push((leftover, run)),
                (Fate::Resumable | Fate::Removed, _) => report.removed.push(leftover),
            }
        }
        report
    }

    /// Bytes given back.
    pub fn removed_bytes(&self) -> ByteSize {
        ByteSize(self.removed.iter().map(|leftover| leftover.bytes).sum())
    }
}

/// Looks for leftovers and judges each, those in use included.
///
/// # Errors
/// What the store fails with.
pub async fn judge(repository: &Repository, scope: PruneScope, clock: &dyn Clock) -> Result<Vec<Judged>> {
    let mut judged = Vec::new();
    let needed = cluster::needed_sets(repository).await?;
    for leftover in repository.leftovers().await.context("look for leftovers")? {
        let run = match &leftover.kind {
            LeftoverKind::Set { store: StoreKind::Mongo, id } => backup::resumable(repository, id).await?,
            LeftoverKind::Set { .. } | LeftoverKind::Partial(_) => None,
        };
        let is_young = |run: &ResumableRun| run.last_at + RESUMABLE_KEPT > clock.now();
        let is_needed = matches!(
            &leftover.kind,
            LeftoverKind::Set { store: StoreKind::Postgres, id } if needed.may_need(id)
        );
        let fate = if leftover.in_use {
            Fate::InUse
        } else if is_needed {
            Fate::Needed
        } else if !scope.resumable && run.as_ref().is_some_and(is_young) {
            Fate::Resumable
        } else {
            Fate::Removed
        };
        judged.push(Judged { leftover, run, fate });
    }
    Ok(judged)
}

/// Decides a prune of `repository`: what nobody holds is removed. It concerns the repository alone, whatever environment that belongs to.
///
/// # Errors
/// What the store fails with.
pub async fn plan(
    repository: &Repository,
    environment: &str,
    class: EnvironmentClass,
    scope: PruneScope,
    clock: &dyn Clock,
) -> Result<Plan> {
    let step = |Judged { leftover, fate, .. }: &Judged| PlanStep {
        name: match fate {
            Fate::Removed => format!("remove {}", leftover.subject()),
            Fate::InUse => format!("leave in use: {}", leftover.subject()),
            Fate::Resumable => format!("keep resumable: {}", leftover.subject()),
            Fate::Needed => format!("keep what others build on: {}", leftover.subject()),
        },
        mark: if *fate == Fate::Removed { '-' } else { ' ' },
        summary: format!("{} objects, {}", leftover.objects, ByteSize(leftover.bytes)),
    };
    let created_at = clock.now();
    Ok(Plan {
        format: PLAN_FORMAT,
        operation: OPERATION.to_owned(),
        effect: operation(OPERATION).expect("prune is registered").effect,
        target: Target {
            environment: environment.to_owned(),
            class,
            store: StoreKind::Mongo,
            fingerprint: format!("repository {}", repository.id()),
            address: repository.store().describe(),
        },
        assumptions: Vec::new(),
        steps: judge(repository, scope, clock).await?.iter().map(step).collect(),
        blast_radius: BlastRadius { phrase: "prune leftovers".to_owned(), items: 0, bytes: 0 },
        parameters: serde_json::to_value(scope).expect("a scope has a JSON form"),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// Removes the leftovers that nobody holds or needs now.
///
/// # Errors
/// What the store fails with; what was removed before stays removed, and repeating is safe.
pub async fn prune(
    repository: &Repository,
    plan: &Plan,
    permit: &Permit,
    clock: &dyn Clock,
) -> Result<PruneReport> {
    permit.covers(plan)?;
    let scope: PruneScope = serde_json::from_value(plan.parameters.clone()).map_err(|source| {
        Error::new(ErrorKind::Usage, "the plan's parameters are not those of a prune").with_source(source)
    })?;
    // Listed before the leftovers: a backup that begins meanwhile has no journal in this list.
    let runs = Journal::runs(repository.store()).await.context("list journals")?;
    let judged = judge(repository, scope, clock).await?;
    let report = PruneReport::of(judged);
    for leftover in &report.removed {
        repository.remove_leftover(leftover).await.context("remove leftover")?;
        if let LeftoverKind::Set { id, .. } = &leftover.kind {
            backup::forget(repository, id).await.context("remove the journal of the run")?;
        }
    }
    let kept = report.in_use.iter().chain(report.resumable.iter().map(|(leftover, _)| leftover));
    let kept: Vec<&str> = kept.filter_map(set_of).collect();
    for run in runs.iter().filter(|run| !kept.contains(&run.as_str())) {
        forget_backup(repository, run).await?;
    }
    Ok(report)
}

fn set_of(leftover: &Leftover) -> Option<&str> {
    match &leftover.kind {
        LeftoverKind::Set { id, .. } => Some(id.as_str()),
        LeftoverKind::Partial(_) => None,
    }
}

/// Removes the journal of a backup that ended; other operations' journals stay, damaged ones too.
async fn forget_backup(repository: &Repository, run: &RunId) -> Result<()> {
    let ended = async {
        let journal = Journal::open(repository.store(), run).await?;
        let header: serde_json::Value = journal.header().await?;
        Ok::<_, Error>((header["operation"] == backup::JOURNAL_OPERATION).then_some(journal))
    };
    match ended.await {
        Ok(Some(journal)) => journal.remove().await,
        Ok(None) => Ok(()),
        Err(error) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::Corrupt | ErrorKind::Unsupported => Ok(()),
            _ => Err(error),
        },
    }
}
