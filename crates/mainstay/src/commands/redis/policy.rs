//! `redis policy plan|apply|drift`: how Redis persists and evicts, declared, compared and changed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use mainstay_guard::{BackupEvidence, Outcome, Permit};
use mainstay_model::{ExitStatus, Plan, Result, ResultExt, Severity, StoreKind};
use mainstay_ops::doctor::compose::redis_start;
use mainstay_ops::key_policy::{
    self, DriftReport, OPERATION, OPERATION_EVICT, PolicyContext, PolicyReport, PolicyRequest, StartCommand,
};
use mainstay_ops::purge::evidence;
use serde_json::{Map, Value, json};

use super::keys::parse_busy_time;
use crate::commands::close;
use crate::commands::doctor::compose_files;
use crate::commands::findings;
use crate::commands::plan::{self, by_kept_plan};
use crate::commands::restore::other_target;
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::Session;

/// The commands below `redis policy`.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Compare the server with what is declared, also as it will be after a restart
    Drift(DriftArgs),
    /// Decide the steps from what the server has to what is declared, and show them
    Plan(PlanArgs),
    /// Change the server to what is declared, step by step
    Apply(ApplyArgs),
}

/// Which compose file starts the server.
#[derive(Debug, Args)]
struct ComposeArgs {
    /// The compose file that starts the server; the configured one, or compose.yaml and its kin, when left out
    #[arg(long, value_name = "FILE")]
    compose: Option<PathBuf>,
}

/// Arguments of `redis policy drift`.
#[derive(Debug, Args)]
pub(crate) struct DriftArgs {
    #[command(flatten)]
    compose: ComposeArgs,
}

/// What is decided, and how freely.
#[derive(Debug, Args)]
struct DecideArgs {
    #[command(flatten)]
    compose: ComposeArgs,
    /// Change the running server also where a restart would forget that
    #[arg(long)]
    run_time_only: bool,
    /// Sessions, revocations, idempotency keys and jobs may be evicted
    #[arg(long)]
    evict_protected: bool,
    /// The longest that the server should be busy with one answer while keys are counted
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = parse_busy_time)]
    busy_at_most: Duration,
}

/// Arguments of `redis policy plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    decide: DecideArgs,
    /// Write the plan to this file
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Arguments of `redis policy apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    decide: DecideArgs,
    /// Carry out this plan file instead of deciding anew
    #[arg(value_name = "FILE", conflicts_with_all = ["compose", "run_time_only", "evict_protected", "busy_at_most"])]
    file: Option<PathBuf>,
    /// Approve the plan file with this hash beforehand; needed where there is no terminal
    #[arg(long, value_name = "HASH", requires = "file")]
    approve: Option<String>,
}

impl PolicyCommand {
    /// The operation's name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Drift(_) => "redis.policy.drift",
            Self::Plan(_) => "redis.policy.plan",
            Self::Apply(_) => OPERATION,
        }
    }
}

/// Runs a command below `redis policy`.
///
/// # Errors
/// The operation's.
pub(super) async fn run(command: PolicyCommand, session: &Session) -> Result<ExitStatus> {
    match command {
        PolicyCommand::Drift(args) => drift(&args, session).await,
        PolicyCommand::Plan(args) => {
            let plan = decide(&args.decide, session).await?;
            plan::report(&plan, args.output.as_deref(), session)
        }
        PolicyCommand::Apply(ApplyArgs { file: Some(file), approve, .. }) => {
            apply_plan(&plan::read(&session.path(&file))?, approve.as_deref(), session).await
        }
        PolicyCommand::Apply(args) => {
            let plan = decide(&args.decide, session).await?;
            let applied = apply_plan(&plan, None, session).await;
            applied.map_err(|refusal| {
                let flags = plan::flags(session);
                let how = format!("run `mainstay{flags} redis policy plan --output plan.json`");
                by_kept_plan(&how, &flags, refusal)
            })
        }
    }
}

async fn drift(args: &DriftArgs, session: &Session) -> Result<ExitStatus> {
    let server = session.key_server()?;
    let configuration = &session.configuration;
    let (declared, classes) = (&configuration.redis_policy, &configuration.redis_classes);
    let start = start_command(&args.compose, session)?;
    let report = key_policy::drift(server.as_ref(), declared, classes, start.as_ref()).await?;
    Ok(session.printer.report(&Drift(report)))
}

async fn decide(args: &DecideArgs, session: &Session) -> Result<Plan> {
    let (server, keyspace) = (session.key_server()?, session.keyspace()?);
    let probe = session.probe(StoreKind::Redis).await?;
    let target = session.target(probe.as_ref()).await?;
    let start = start_command(&args.compose, session)?;
    let progress = session.printer.progress();
    let request = PolicyRequest {
        server: server.as_ref(),
        keyspace: keyspace.as_ref(),
        declared: &session.configuration.redis_policy,
        classes: &session.configuration.redis_classes,
        start: start.as_ref(),
        run_time_only: args.run_time_only,
        evict_protected: args.evict_protected,
        answer_time_max: args.busy_at_most,
        clock: session.clock.as_ref(),
        observer: progress.as_ref(),
        cancel: &session.cancel,
    };
    key_policy::plan(&request, target).await
}

/// How the one compose file that has a Redis starts it.
fn start_command(args: &ComposeArgs, session: &Session) -> Result<Option<StartCommand>> {
    let files = compose_files(args.compose.as_deref(), session)?;
    let mut starts = files.iter().filter_map(|(path, file)| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        redis_start(file, &name)
    });
    // Of several files nobody knows which one started the server.
    Ok(starts.next().filter(|_| starts.next().is_none()))
}

/// Carries out a plan of changing a policy.
///
/// # Errors
/// `StalePlan` when the server is another one or was changed by others; `Refused` by policy; the operation's.
pub(crate) async fn apply_plan(plan: &Plan, approve: Option<&str>, session: &Session) -> Result<ExitStatus> {
    let server = session.key_server()?;
    let probe = session.probe(StoreKind::Redis).await?;
    let repository = session.repository_or_create().await.context("open the audit log")?;
    let guard = session.guard(&repository);
    let (progress, holder) = (session.printer.progress(), session.holder());
    let context = PolicyContext {
        server: server.as_ref(),
        repository: &repository,
        clock: session.clock.as_ref(),
        observer: progress.as_ref(),
        cancel: &session.cancel,
        holder: &holder,
    };
    let target = session.target(probe.as_ref()).await?;
    let checked = match other_target(&plan.target, &target) {
        Some(stale) => Err(stale),
        None => key_policy::check(&context, plan).await,
    };
    if let Err(stale) = checked {
        return Err(guard.refuse(&plan.operation, Some(&plan.target), Some(plan.hash()?), stale).await);
    }
    let evidence = match plan.operation == OPERATION_EVICT {
        true => evidence(&repository, &target.fingerprint).await?,
        false => BackupEvidence::default(),
    };
    let permit: Permit = guard.permit(plan, &evidence, &session.consent(approve)?).await?;
    if key_policy::resumable(&context, plan).await? {
        session.printer.notice("a run of this plan was begun before: it goes on");
    }
    let applied = key_policy::apply(&context, plan, &permit).await;
    session.printer.end_progress();
    let outcome = match &applied {
        Ok(report) => Outcome::Done { summary: summary(report), facts: json!(report) },
        Err(error) => Outcome::of_error(error),
    };
    let report = close(&guard, permit, applied, outcome).await?;
    Ok(session.printer.report(&Applied { report, flags: plan::flags(session) }))
}

fn summary(report: &PolicyReport) -> String {
    let settings: Vec<String> =
        report.settings.iter().map(|(name, value)| format!("{name} {value:?}")).collect();
    format!("the server has {}", settings.join(", "))
}

struct Drift(DriftReport);

impl Report for Drift {
    fn json(&self) -> Map<String, Value> {
        match json!(self.0) {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }

    fn text(&self, look: &Look) -> String {
        let report = &self.0;
        let mut table = Table::new(&["SETTING", "NOW", "DECLARED"]);
        for (name, declared) in &report.declared {
            let now = report.now.get(name).map(String::as_str).unwrap_or_default();
            let tone = if now == declared { Tone::Plain } else { Tone::Warn };
            let value = |text: &str| if text.is_empty() { "(none)".to_owned() } else { text.to_owned() };
            table.row(vec![name.clone().into(), Cell::new(value(now)).tone(tone), value(declared).into()]);
        }
        let kept = match (&report.durability.config_file, report.durability.is_given()) {
            (_, false) => "a change does not outlive a restart\n".to_owned(),
            (Some(file), true) => format!("the server keeps changes in {file}\n"),
            (None, true) => "the command that starts the server says what is declared\n".to_owned(),
        };
        [table.render(look), kept, findings::text(&report.findings, look)].concat()
    }

    fn exit_status(&self) -> ExitStatus {
        Severity::worst_exit_status(&self.0.findings)
    }
}

struct Applied {
    report: PolicyReport,
    /// How the server was named, for what comes next.
    flags: String,
}

impl Report for Applied {
    fn json(&self) -> Map<String, Value> {
        match json!(self.report) {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }

    fn text(&self, look: &Look) -> String {
        let mut table = Table::new(&["STEP", ""]);
        for step in &self.report.steps {
            let how = if step.was_done { "held already" } else { "done" };
            table.row(vec![step.name.clone().into(), Cell::new(how).tone(Tone::Good)]);
        }
        let kept = match self.report.durable {
            true => look.paint(Tone::Good, "the server is as declared, also after a restart"),
            false => look.paint(
                Tone::Warn,
                &format!(
                    "the server is as declared until it ends: `mainstay{} redis policy drift` shows what to write where",
                    self.flags
                ),
            ),
        };
        format!("{}{kept}\n", table.render(look))
    }

    fn exit_status(&self) -> ExitStatus {
        match self.report.durable {
            true => ExitStatus::Ok,
            false => ExitStatus::Findings,
        }
    }
}
