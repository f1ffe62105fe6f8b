//! `mongo ops`: what the server is doing now, and ending one operation of it.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use mainstay_guard::{BackupEvidence, Outcome};
use mainstay_model::{ExitStatus, Plan, Result, ResultExt, StoreKind};
use mainstay_ops::activity::{self, Activity, ActivityKind, ActivityQuery, KillReport};
use serde_json::{Map, Value, json};

use super::choice::{LiteralArgs, parse_duration};
use crate::commands::close;
use crate::commands::plan::{self, by_plan_file};
use crate::commands::restore::other_target;
use crate::printer::shown::{millis, plain};
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::Session;

/// How much of a shape fits into a table.
const SHAPE_CHARS_MAX: usize = 80;

/// Arguments of `mongo ops`.
#[derive(Debug, Args)]
pub(crate) struct OpsArgs {
    /// Only what has been going on for at least so long
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    longer_than: Duration,
    /// The server's own work too
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    literals: LiteralArgs,
    /// End the operation of this number
    #[arg(long, value_name = "OPID", conflicts_with_all = ["longer_than", "all"])]
    kill: Option<String>,
    /// With --kill: show what would be done, and do nothing
    #[arg(long, requires = "kill")]
    dry_run: bool,
    /// With --kill: write the plan to this file instead of carrying it out
    #[arg(long, value_name = "FILE", requires = "kill")]
    output: Option<PathBuf>,
}

impl OpsArgs {
    /// The operation's name.
    pub(crate) fn name(&self) -> &'static str {
        if self.kill.is_some() { activity::OPERATION_KILL } else { "mongo.ops" }
    }
}

/// Shows or ends.
///
/// # Errors
/// See the operations.
pub(crate) async fn run(args: OpsArgs, session: &Session) -> Result<ExitStatus> {
    if let Some(id) = &args.kill {
        return plan_kill(id, &args, session).await;
    }
    let documents = session.documents(StoreKind::Mongo).await?;
    let query =
        ActivityQuery { longer_than: args.longer_than, all: args.all, literals: args.literals.literals() };
    let activities = activity::activities(documents.inspection.as_ref(), query).await?;
    Ok(session.printer.report(&Shown(activities)))
}

async fn plan_kill(id: &str, args: &OpsArgs, session: &Session) -> Result<ExitStatus> {
    let documents = session.documents(StoreKind::Mongo).await?;
    let target = session.target(documents.probe.as_ref()).await?;
    let plan = activity::plan_kill(documents.inspection.as_ref(), id, target, session.clock.as_ref()).await?;
    if let Some(status) = plan::only_planned(&plan, args.output.as_deref(), args.dry_run, session)? {
        return Ok(status);
    }
    apply_plan(&plan, None, session).await.map_err(by_plan_file)
}

/// Carries out a plan to end an operation.
///
/// # Errors
/// `StalePlan` when the operation is gone or another one has its number; `Refused` by policy; the server's.
pub(crate) async fn apply_plan(plan: &Plan, approve: Option<&str>, session: &Session) -> Result<ExitStatus> {
    let documents = session.documents(StoreKind::Mongo).await?;
    let inspection = documents.inspection.as_ref();
    let repository = session.repository_or_create().await.context("open the audit log")?;
    let guard = session.guard(&repository);
    let target = session.target(documents.probe.as_ref()).await?;
    let checked = match other_target(&plan.target, &target) {
        Some(stale) => Err(stale),
        None => activity::check_kill(inspection, plan, &target.fingerprint).await,
    };
    if let Err(stale) = checked {
        return Err(guard.refuse(&plan.operation, Some(&plan.target), Some(plan.hash()?), stale).await);
    }
    let permit = guard.permit(plan, &BackupEvidence::default(), &session.consent(approve)?).await?;
    let killed = activity::kill(inspection, plan, &permit).await;
    let outcome = match &killed {
        Ok(report) => {
            Outcome::Done { summary: format!("ended operation {}", report.operation), facts: json!(report) }
        }
        Err(error) => Outcome::of_error(error),
    };
    let report = close(&guard, permit, killed, outcome).await?;
    Ok(session.printer.report(&Killed(report)))
}

struct Killed(KillReport);

impl Report for Killed {
    fn json(&self) -> Map<String, Value> {
        Map::from_iter([("killed".to_owned(), json!(self.0))])
    }

    fn text(&self, _look: &Look) -> String {
        let KillReport { operation, gone } = &self.0;
        let operation = plain(operation, 100);
        match gone {
            true => format!("operation {operation} has ended\n"),
            false => format!("operation {operation} was told to end and will at its next safe point\n"),
        }
    }
}

struct Shown(Vec<Activity>);

impl Report for Shown {
    fn json(&self) -> Map<String, Value> {
        Map::from_iter([("operations".to_owned(), json!(self.0))])
    }

    fn text(&self, look: &Look) -> String {
        if self.0.is_empty() {
            return "nothing is going on\n".to_owned();
        }
        let mut table =
            Table::new(&["ID", "AGE", "COMMAND", "NAMESPACE", "CLIENT", "PLAN", "YIELDS", "STATE", "SHAPE"]);
        for activity in &self.0 {
            let app = activity.app_name.as_deref().map(|name| format!(" {name}")).unwrap_or_default();
            let client = match &activity.client {
                Some(client) => format!("{client}{app}"),
                None => activity.description.clone(),
            };
            let (state, tone) = state(activity);
            let shape_max = if look.verbose { usize::MAX } else { SHAPE_CHARS_MAX };
            table.row(vec![
                Cell::new(plain(activity.id.as_deref().unwrap_or("-"), 60)),
                Cell::right(millis(activity.micros / 1_000)),
                Cell::new(plain(command(activity), 40)),
                Cell::new(plain(&activity.namespace, 120)),
                Cell::new(plain(&client, 80)),
                Cell::new(plain(activity.plan.as_deref().unwrap_or(""), 60)),
                Cell::right(activity.yields.to_string()),
                Cell::new(state).tone(tone),
                Cell::new(plain(&activity.shape.text, shape_max)).tone(Tone::Faint),
            ]);
        }
        let mut text = table.render(look);
        for activity in &self.0 {
            if let Some(advice) = &activity.advice {
                let whose = activity.id.as_deref().or(activity.session.as_deref()).unwrap_or("-");
                text.push_str(&format!(
                    "{} to end {}: {}\n",
                    look.paint(Tone::Faint, "advice:"),
                    plain(whose, 60),
                    advice
                ));
            }
        }
        text
    }
}

fn command(activity: &Activity) -> &str {
    match activity.kind {
        ActivityKind::IdleTransaction => "(transaction)",
        _ => &activity.shape.verb,
    }
}

fn state(activity: &Activity) -> (String, Tone) {
    if activity.waits_for_lock {
        return ("waits for a lock".to_owned(), Tone::Bad);
    }
    if activity.waits_for_flow_control {
        return ("held back by flow control".to_owned(), Tone::Warn);
    }
    if let Some(progress) = &activity.progress {
        let steps = match (progress.done, progress.total) {
            (Some(done), Some(total)) if total > 0 => {
                format!(" {:.0} %", done as f64 * 100.0 / total as f64)
            }
            _ => String::new(),
        };
        return (plain(&format!("{}{steps}", progress.message), 80), Tone::Plain);
    }
    match activity.transaction {
        Some(transaction) if activity.kind == ActivityKind::IdleTransaction => {
            (format!("idle for {}", millis(transaction.inactive_micros / 1_000)), Tone::Warn)
        }
        Some(_) => ("in a transaction".to_owned(), Tone::Plain),
        None => (String::new(), Tone::Plain),
    }
}
