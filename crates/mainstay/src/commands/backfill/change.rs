//! `backfill run|resume|pause|undo|import`: planned, agreed to, done.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use mainstay_engine::{Backfill, BackfillStore};
use mainstay_guard::{BackupEvidence, Guard, Outcome, Permit};
use mainstay_model::{
    EnvironmentClass, Error, ErrorKind, ExitStatus, Plan, Result, ResultExt, StoreKind, Target,
};
use mainstay_ops::Holder;
use mainstay_ops::backfill::{
    self, BackfillContext, BackfillParameters, BackfillPlanning, BackupWish, OPERATION, OPERATION_IMPORT,
    OPERATION_PAUSE, OPERATION_UNDO,
};
use serde_json::{Value, json};

use super::declared;
use super::view::{Done, NothingToDo, Ran, Undone};
use crate::commands::close;
use crate::commands::mongo::choice::parse_duration;
use crate::commands::plan::{self, by_plan_file};
use crate::commands::restore::other_target;
use crate::printer::Report;
use crate::wiring::Session;

/// What becomes of a plan that is made.
#[derive(Debug, Args)]
struct MakingArgs {
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Write the plan to this file instead of carrying it out
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Arguments of `backfill run` and `backfill resume`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Which one
    #[arg(value_name = "ID")]
    id: String,
    /// How long a batch is to take at most: another client that writes the same documents waits as long
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = parse_duration)]
    latency_budget: Duration,
    /// Wait while the slowest replica lags behind by more than this
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    lag_at_most: Duration,
    /// How many batches run at a time
    #[arg(long, value_name = "NUMBER", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=i64::from(BackfillParameters::WORKERS_MAX)))]
    workers: u32,
    #[command(flatten)]
    making: MakingArgs,
}

/// Arguments of `backfill undo`.
#[derive(Debug, Args)]
pub(crate) struct UndoArgs {
    /// Which one
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    making: MakingArgs,
}

/// Arguments of `backfill pause`.
#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    /// Which one
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    making: MakingArgs,
}

/// Arguments of `backfill import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The collection that migrate-mongo writes down in
    #[arg(long, value_name = "NAME", default_value = "changelog")]
    collection: String,
    #[command(flatten)]
    making: MakingArgs,
}

/// Runs `backfill run`, or `backfill resume`.
///
/// # Errors
/// The operation's.
pub(super) async fn run(args: RunArgs, resumes: bool, session: &Session) -> Result<ExitStatus> {
    let (declared, store) = declared(&args.id, session).await?;
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let parameters = BackfillParameters {
        declared,
        latency_budget_ms: millis(args.latency_budget).max(1),
        lag_max_ms: millis(args.lag_at_most),
        workers: args.workers,
        resumes,
    };
    let target = target(parameters.declared.store(), session).await?;
    let progress = session.printer.progress();
    let planning = BackfillPlanning {
        store: store.as_ref(),
        clock: session.clock.as_ref(),
        observer: progress.as_ref(),
    };
    let planned = backfill::plan(&planning, target, &parameters).await;
    session.printer.end_progress();
    match planned? {
        Some(plan) => carry_out(&plan, &args.making, session).await,
        None => Ok(session.printer.report(&NothingToDo(args.id))),
    }
}

/// Runs `backfill undo`.
///
/// # Errors
/// The operation's.
pub(super) async fn undo(args: &UndoArgs, session: &Session) -> Result<ExitStatus> {
    let (declared, store) = declared(&args.id, session).await?;
    let target = target(declared.store(), session).await?;
    let parameters =
        BackfillParameters { declared, latency_budget_ms: 1, lag_max_ms: 10_000, workers: 2, resumes: false };
    let progress = session.printer.progress();
    let planning = BackfillPlanning {
        store: store.as_ref(),
        clock: session.clock.as_ref(),
        observer: progress.as_ref(),
    };
    let plan = backfill::plan_undo(&planning, target, &parameters).await;
    session.printer.end_progress();
    carry_out(&plan?, &args.making, session).await
}

/// Runs `backfill pause`.
///
/// # Errors
/// The operation's.
pub(super) async fn pause(args: &PauseArgs, session: &Session) -> Result<ExitStatus> {
    let (declared, _) = declared(&args.id, session).await?;
    let target = target(declared.store(), session).await?;
    let plan = backfill::plan_pause(session.clock.as_ref(), target, &declared.backfill)?;
    carry_out(&plan, &args.making, session).await
}

/// Runs `backfill import`.
///
/// # Errors
/// The operation's.
pub(super) async fn import(args: &ImportArgs, session: &Session) -> Result<ExitStatus> {
    let target = target(StoreKind::Mongo, session).await?;
    let plan = backfill::plan_import(session.clock.as_ref(), target, &args.collection)?;
    carry_out(&plan, &args.making, session).await
}

async fn target(kind: StoreKind, session: &Session) -> Result<Target> {
    let probe = session.probe(kind).await?;
    session.target(probe.as_ref()).await
}

/// Shows the plan, or keeps it, or does what it says.
async fn carry_out(plan: &Plan, making: &MakingArgs, session: &Session) -> Result<ExitStatus> {
    if let Some(status) = plan::only_planned(plan, making.output.as_deref(), making.dry_run, session)? {
        return Ok(status);
    }
    Box::pin(apply_plan(plan, None, session)).await.map_err(by_plan_file)
}

/// Carries out a plan about backfills.
///
/// # Errors
/// `StalePlan` when another server answers; `Refused` by policy; `Locked` when somebody is at the same backfill; the operation's.
pub(crate) async fn apply_plan(plan: &Plan, approve: Option<&str>, session: &Session) -> Result<ExitStatus> {
    let store = session.backfill_store(plan.target.store).await?;
    let repository = session.repository_or_create().await.context("open the audit log")?;
    let guard = session.guard(&repository);
    let found = target(plan.target.store, session).await?;
    if let Some(stale) = other_target(&plan.target, &found) {
        return Err(guard.refuse(&plan.operation, Some(&plan.target), Some(plan.hash()?), stale).await);
    }
    let evidence = match plan.operation.as_str() {
        OPERATION | OPERATION_UNDO => {
            let parameters = BackfillParameters::of(plan)?;
            let evidence = backfill::evidence(&repository, &found, &parameters).await?;
            check_wish(&guard, plan, &parameters, &evidence, session).await?;
            evidence
        }
        _ => BackupEvidence::default(),
    };
    let permit = guard.permit(plan, &evidence, &session.consent(approve)?).await?;
    match plan.operation.as_str() {
        OPERATION => {
            let ran = changed(plan, &permit, store.as_ref(), session).await;
            let summary = |ran: &Ran| format!("changed {} of {}", ran.0.changed_now, ran.0.place);
            ended(&guard, permit, ran, summary, |ran| json!(ran.0), session).await
        }
        OPERATION_UNDO => {
            let undone = brought_back(plan, &permit, store.as_ref(), session).await;
            let summary =
                |undone: &Undone| format!("brought {} back, left {}", undone.0.restored, undone.0.left);
            ended(&guard, permit, undone, summary, |undone| json!(undone.0), session).await
        }
        OPERATION_PAUSE | OPERATION_IMPORT => {
            let done = small(plan, &permit, store.as_ref()).await;
            let summary = |done: &Done| done.text.clone();
            ended(&guard, permit, done, summary, |done| Value::Object(done.json()), session).await
        }
        other => {
            let unknown: Result<Done> = Err(Error::new(
                ErrorKind::Unsupported,
                format!("a plan of {other} cannot be applied by this version"),
            )
            .with_state("nothing was changed"));
            ended(&guard, permit, unknown, |_| String::new(), |_| Value::Null, session).await
        }
    }
}

/// Refuses where the declaration asks for a backup that policy would do without.
async fn check_wish(
    guard: &Guard,
    plan: &Plan,
    parameters: &BackfillParameters,
    evidence: &BackupEvidence,
    session: &Session,
) -> Result<()> {
    // In production policy asks for the same, and says so in its own words.
    if parameters.declared.backup != BackupWish::Always || plan.target.class == EnvironmentClass::Production {
        return Ok(());
    }
    let age_max = session.configuration.backup_age_max;
    let is_fresh = evidence
        .newest_verified
        .as_ref()
        .is_some_and(|(_, verified_at)| session.clock.now().duration_since(*verified_at) < age_max);
    if is_fresh {
        return Ok(());
    }
    let (id, store) = (&parameters.declared.backfill.id, plan.target.store);
    let refusal = Error::new(
        ErrorKind::Refused,
        format!(
            "the backfill {id} asks for a backup that was verified less than {age_max:#} ago; there is none"
        ),
    )
    .with_state("nothing was changed")
    .with_hint(format!(
        "type `mainstay backup create --store {store}` and `mainstay backup verify --store {store}`"
    ));
    Err(guard.refuse(&plan.operation, Some(&plan.target), Some(plan.hash()?), refusal).await)
}

async fn changed(plan: &Plan, permit: &Permit, store: &dyn BackfillStore, session: &Session) -> Result<Ran> {
    let progress = session.printer.progress();
    let name = session.holder();
    let holder = Holder { name: &name, lease_ttl: session.lease_ttl(), clock: session.clock.clone() };
    let context =
        BackfillContext { store, holder: &holder, observer: progress.as_ref(), cancel: &session.cancel };
    let ran = backfill::run(&context, plan, permit).await;
    session.printer.end_progress();
    ran.map(Ran)
}

async fn brought_back(
    plan: &Plan,
    permit: &Permit,
    store: &dyn BackfillStore,
    session: &Session,
) -> Result<Undone> {
    let progress = session.printer.progress();
    let name = session.holder();
    let holder = Holder { name: &name, lease_ttl: session.lease_ttl(), clock: session.clock.clone() };
    let context =
        BackfillContext { store, holder: &holder, observer: progress.as_ref(), cancel: &session.cancel };
    let undone = backfill::undo(&context, plan, permit).await;
    session.printer.end_progress();
    undone.map(Undone)
}

/// What takes one command of the store.
async fn small(plan: &Plan, permit: &Permit, store: &dyn BackfillStore) -> Result<Done> {
    permit.covers(plan)?;
    let parameter = |name: &str| {
        let found = plan.parameters.get(name).and_then(Value::as_str).map(str::to_owned);
        found.ok_or_else(|| Error::new(ErrorKind::Usage, format!("the plan's parameters name no {name}")))
    };
    if plan.operation == OPERATION_PAUSE {
        let backfill = plan.parameters.get("backfill").cloned().unwrap_or_default();
        let backfill: Backfill = serde_json::from_value(backfill)
            .map_err(|_| Error::new(ErrorKind::Usage, "the plan's parameters name no backfill"))?;
        store.pause(&backfill, permit).await?;
        let id = &backfill.id;
        return Ok(Done {
            text: format!("{id} stops after its batch; `mainstay backfill resume {id}` goes on"),
            fields: vec![("paused", json!(id))],
        });
    }
    let source = parameter("source")?;
    let added = store.import(&source, permit).await?;
    Ok(Done {
        text: format!("{added} entries of {source} are history now"),
        fields: vec![("imported", json!(added))],
    })
}

/// Records how it ended, and tells it.
async fn ended<T: Report>(
    guard: &Guard,
    permit: Permit,
    done: Result<T>,
    summary: impl FnOnce(&T) -> String,
    facts: impl FnOnce(&T) -> Value,
    session: &Session,
) -> Result<ExitStatus> {
    let outcome = match &done {
        Ok(done) => Outcome::Done { summary: summary(done), facts: facts(done) },
        Err(error) => Outcome::of_error(error),
    };
    let report = close(guard, permit, done, outcome).await?;
    Ok(session.printer.report(&report))
}
