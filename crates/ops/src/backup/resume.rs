//! Going on with an interrupted backup.
//!
//! [`plan_resume`] reads the run's journal and shows what is missing. When the plan is carried out the set is opened again under a lease of
//! its own, what the journal names and the store still holds is adopted, and everything else is read: at the moment of the run while the
//! server has its history. After that only a change log can make the set whole: complete collections keep their moment, the others are read
//! as they are now, and the set says of each through which change it holds. Without such a log there is nothing to be gained, and the run is
//! refused. What decides is [`Continuation::of`], which reads nothing.

use std::time::{Duration, Instant};

use mainstay_engine::{Consistency, Snapshot, SnapshotRequest};
use mainstay_journal::Journal;
use mainstay_model::{
    ByteSize, Clock, Error, ErrorKind, ObjectName, OpTime, Plan, PlanStep, Result, ResultExt, RunId,
    StoreKind, Target, Timestamp,
};
use mainstay_repository::{Interrupted, Repository, SetWriter};
use std::sync::Arc;

use super::run::{Ready, Recorded, Recorder, read};
use super::watch::Meter;
use super::{Attempt, BackupContext, Parameters, SnapshotChoice, accounts_step, milliseconds, plan_of};
use crate::contents::{DocumentSetContents, ROLE_METADATA};
use crate::scan::{tell_consistency, total_estimate};

/// How an interrupted backup is to go on.
#[derive(Debug, Clone)]
pub struct ResumeRequest {
    /// The run.
    pub run: RunId,
    /// How many ranges are read at the same time; at least 1.
    pub scan_count_max: usize,
    /// As for a new backup.
    pub impact_max: Option<Duration>,
}

/// Decides how an interrupted backup of the server `target` goes on. Reads the journal only.
///
/// # Errors
/// `NotFound` when there is no such run; `Precondition` when it has nothing to continue, or was a backup of another server.
pub async fn plan_resume(
    repository: &Repository,
    target: Target,
    request: &ResumeRequest,
    clock: &dyn Clock,
) -> Result<Plan> {
    let (_, recorded) = recorded(repository, &request.run).await?;
    check_server(&recorded, &target)?;
    let mut parameters = Parameters::of(&recorded.header.plan)?;
    parameters.scan_count_max = request.scan_count_max.max(1);
    parameters.impact_max_ms = request.impact_max.map(milliseconds);
    parameters.resume = Some(request.run.clone());
    let steps = recorded.ready.iter().enumerate().map(|(index, ready)| step_of(&recorded, index, ready));
    let steps = steps.chain(accounts_step(parameters.accounts));
    Ok(plan_of(&parameters, target, steps.collect(), clock))
}

fn step_of(recorded: &Recorded, index: usize, ready: &Ready) -> PlanStep {
    let complete = recorded.parts.range((index, 0)..=(index, u32::MAX));
    let (count, bytes) =
        complete.fold((0, 0), |(count, bytes), (_, part)| (count + 1, bytes + part.digest.bytes));
    let total = ready.scan.ranges.len();
    let summary = match total {
        0 => "view: definition only".to_owned(),
        _ if count == total => format!("complete: {} in {total} ranges", ByteSize(bytes)),
        _ => format!("{count} of {total} ranges are complete, {}", ByteSize(bytes)),
    };
    PlanStep { name: format!("read {}", ready.info.namespace), mark: ' ', summary }
}

async fn recorded(repository: &Repository, run: &RunId) -> Result<(Journal, Recorded)> {
    match read(repository, run).await.with_context(|| format!("continue run {run}"))? {
        Some(found) => Ok(found),
        None => Err(Error::new(ErrorKind::Precondition, format!("run {run} ended before anything was read"))
            .with_state("nothing was changed")
            .with_hint("take a new backup: `mainstay backup create`")),
    }
}

fn check_server(recorded: &Recorded, target: &Target) -> Result<()> {
    let whose = &recorded.header.server.fingerprint;
    if *whose == target.fingerprint {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Precondition,
        format!(
            "the run was a backup of server {whose}, the one at {} is {}",
            target.address, target.fingerprint
        ),
    )
    .with_state("nothing was changed")
    .with_hint("name the server of the run with `--mongo-url`, or take a new backup"))
}

/// A run that was taken up again.
pub(super) struct Continued {
    pub(super) writer: SetWriter,
    pub(super) journal: Journal,
    /// What the journal says and the store confirms.
    pub(super) recorded: Recorded,
}

/// Takes the set of `run` up again.
///
/// # Errors
/// `Locked` when somebody else writes it; `Conflict` when it is complete; as [`plan_resume`] otherwise.
pub(super) async fn open(context: &BackupContext<'_>, plan: &Plan, run: &RunId) -> Result<Continued> {
    let (_, before) = recorded(context.repository, run).await?;
    check_server(&before, &plan.target)?;
    let set = Interrupted {
        kind: StoreKind::Mongo,
        id: before.header.set.clone(),
        begun_at: before.header.begun_at,
        objects: before.objects(),
    };
    let reopened = context.repository.reopen_set(set, context.holder).await?;
    // Under the lease: what another process has recorded meanwhile was not adopted.
    match recorded(context.repository, run).await {
        Ok((journal, mut now)) if now == before => {
            for lost in &reopened.lost {
                context
                    .observer
                    .notice(&format!("warning: {} is not there any more and is written anew", lost.name));
                now.parts.retain(|_, part| part.entry.name != lost.name);
            }
            let lost: Vec<_> = reopened.lost.into_iter().map(|entry| entry.name).collect();
            if let Err(error) = put_metadata(&reopened.writer, &now, &lost).await {
                let _ = reopened.writer.suspend().await;
                return Err(error.with_state("no backup set was made; what is stored of it is kept"));
            }
            Ok(Continued { writer: reopened.writer, journal, recorded: now })
        }
        moved => {
            let _ = reopened.writer.suspend().await;
            moved?;
            Err(Error::new(
                ErrorKind::Locked,
                format!("run {run} was continued by another process meanwhile"),
            )
            .with_hint("run the same command again"))
        }
    }
}

/// Stores the metadata among `lost` again.
async fn put_metadata(writer: &SetWriter, recorded: &Recorded, lost: &[ObjectName]) -> Result<()> {
    for ready in recorded.ready.iter().filter(|ready| lost.contains(&ready.metadata.name)) {
        writer.put(&ready.metadata.name, ROLE_METADATA, ready.info.metadata.clone().into()).await?;
    }
    Ok(())
}

/// How a run goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Continuation {
    /// At its moment, or with nothing left that needs one.
    AsBegun,
    /// Without its moment: a change log makes the set whole.
    WithLog,
    /// Not at all.
    Refused(&'static str),
}

impl Continuation {
    /// Decides. `passed`: whether a collection that is to be read at the moment is missing, and the server has the history no longer;
    /// `moment`: that moment; `log_since`: since when a change log holds everything.
    fn of(passed: bool, choice: SnapshotChoice, moment: Option<OpTime>, log_since: Option<OpTime>) -> Self {
        if !passed {
            return Self::AsBegun;
        }
        if choice != SnapshotChoice::Best {
            return Self::Refused("one moment for all collections was asked for");
        }
        match (moment, log_since) {
            (Some(moment), Some(since)) if since <= moment => Self::WithLog,
            (_, Some(_)) => Self::Refused("the change log that is being captured begins after that moment"),
            (_, None) => Self::Refused("no change log is being captured that would make the set whole"),
        }
    }
}

impl Attempt<'_> {
    /// Reads what is missing of an interrupted run.
    pub(super) async fn go_on(&self, journal: Journal, recorded: Recorded) -> Result<DocumentSetContents> {
        let context = self.context;
        let header = recorded.header.clone();
        let (snapshot, passed) = self.moment_again(&recorded).await?;
        let moment = match header.consistency {
            Consistency::ClusterTime { at } => Some(at),
            Consistency::DuringScan { .. } => None,
        };
        let log_since =
            if passed { log_since(context.repository, &header.server.fingerprint).await? } else { None };
        let continuation = Continuation::of(passed, self.parameters.snapshot, moment, log_since);
        if let Continuation::Refused(why) = continuation {
            return Err(Error::new(
                ErrorKind::Precondition,
                format!("the server no longer has the history of the moment this run reads at, and {why}"),
            )
            .with_hint("take a new backup with `mainstay backup create`, and remove this run with `mainstay backup prune --resumable`"));
        }
        context.observer.notice(&format!(
            "continuing run {}: {} of {} ranges are complete",
            super::run_of(&header.set),
            recorded.parts.len(),
            recorded.ready.iter().map(|ready| ready.scan.ranges.len()).sum::<usize>()
        ));
        tell_consistency(context.observer, &header.consistency);
        if continuation == Continuation::WithLog {
            context.observer.notice(
                "warning: the server no longer has the history of that moment: what is missing is read as it is now, and the set shows one \
                 moment only together with the change log, which a restore replays",
            );
        }
        context.observer.phase("back up");
        let infos: Vec<_> = recorded.ready.iter().map(|ready| ready.info.clone()).collect();
        context.observer.expect(total_estimate(&infos));
        for part in recorded.parts.values() {
            let (items, bytes) = (part.digest.documents, part.digest.bytes);
            context.observer.advance(mainstay_model::progress::Work { items, bytes });
        }
        let meter = Meter::new();
        let mut scan = self.scan(snapshot, &meter);
        scan.has_passed = passed;
        let recorder = Recorder::on(journal, recorded.parts.len());
        let age = moment.map_or(Duration::ZERO, |at| age(at, context.clock.now()));
        let fixed_at = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
        self.read(&scan, &header, recorded.ready, recorded.parts, recorder, fixed_at).await
    }

    /// What to read with, and whether the moment that is still needed has passed.
    async fn moment_again(&self, recorded: &Recorded) -> Result<(Arc<dyn Snapshot>, bool)> {
        let source = self.context.source;
        let consistency = &recorded.header.consistency;
        let needs_moment = |(index, ready): &(usize, &Ready)| {
            let complete = recorded.parts.range((*index, 0)..=(*index, u32::MAX)).count();
            complete < ready.scan.ranges.len() && ready.scan.consistency == *consistency
        };
        let needing = recorded.ready.iter().enumerate().find(needs_moment).map(|(_, ready)| ready);
        if let Some(near) = needing {
            let again = source
                .snapshot_again(consistency, &near.info)
                .await
                .context("return to the moment of the run")?;
            if let Some(snapshot) = again {
                return Ok((snapshot, false));
            }
        }
        let now = source.snapshot(SnapshotRequest::DuringScan).await.context("read the server as it is")?;
        Ok((now, needing.is_some()))
    }
}

/// The position after which the change log that is being captured from a server holds everything; `None` when nobody captures it.
async fn log_since(repository: &Repository, fingerprint: &str) -> Result<Option<OpTime>> {
    let looking: Result<_> = async {
        if repository.log_holder(StoreKind::Mongo, fingerprint).await?.is_none() {
            return Ok(None);
        }
        let chains = repository.chains_of(StoreKind::Mongo, fingerprint).await?;
        Ok(chains.last().and_then(|chain| chain.runs().last().map(|run| run.after.optime())))
    }
    .await;
    looking.context("look for a change log")
}

fn age(moment: OpTime, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(moment.timestamp())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passed_moment_needs_a_log_from_before_it() {
        let at = |seconds| Some(OpTime { seconds, increment: 1 });
        let refused = |continuation| matches!(continuation, Continuation::Refused(_));
        let best = SnapshotChoice::Best;
        assert_eq!(Continuation::of(false, SnapshotChoice::ClusterTime, at(5), None), Continuation::AsBegun);
        assert_eq!(Continuation::of(false, SnapshotChoice::DuringScan, None, None), Continuation::AsBegun);
        assert_eq!(Continuation::of(true, best, at(5), at(5)), Continuation::WithLog);
        assert_eq!(Continuation::of(true, best, at(5), at(4)), Continuation::WithLog);
        assert!(refused(Continuation::of(true, best, at(5), at(6))));
        assert!(refused(Continuation::of(true, best, at(5), None)));
        assert!(refused(Continuation::of(true, SnapshotChoice::ClusterTime, at(5), at(1))));
    }
}
