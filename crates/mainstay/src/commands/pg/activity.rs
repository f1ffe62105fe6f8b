//! `pg activity`: what sessions do now, and ending one statement or connection.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args};
use mainstay_engine::BackendEnd;
use mainstay_guard::{BackupEvidence, Outcome};
use mainstay_model::{ExitStatus, Plan, Result, ResultExt, Severity, StoreKind};
use mainstay_ops::relational::sessions::{
    self, EndReport, OPERATION_CANCEL, OPERATION_TERMINATE, SessionActivity, SessionQuery, SessionReport,
};
use serde_json::{Map, Value, json};

use crate::commands::mongo::choice::{LiteralArgs, parse_duration};
use crate::commands::plan::{self, by_plan_file};
use crate::commands::restore::other_target;
use crate::commands::{close, findings};
use crate::printer::shown::{millis, plain};
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::Session;

/// How much of a statement fits into a table.
const STATEMENT_CHARS_MAX: usize = 80;

/// Arguments of `pg activity`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("end").args(["cancel", "terminate"])))]
pub(crate) struct ActivityArgs {
    /// Only what has been going on for at least so long
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    longer_than: Duration,
    /// Idle sessions and the server's own work too
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    literals: LiteralArgs,
    /// End the statement that this process runs; its connection stays
    #[arg(long, value_name = "PID", conflicts_with_all = ["longer_than", "all"])]
    cancel: Option<i32>,
    /// End the connection of this process; its transaction is undone
    #[arg(long, value_name = "PID", conflicts_with_all = ["longer_than", "all"])]
    terminate: Option<i32>,
    /// With --cancel or --terminate: show what would be done, and do nothing
    #[arg(long, requires = "end")]
    dry_run: bool,
    /// With --cancel or --terminate: write the plan to this file instead of carrying it out
    #[arg(long, value_name = "FILE", requires = "end")]
    output: Option<PathBuf>,
}

impl ActivityArgs {
    /// The operation's name.
    pub(crate) fn name(&self) -> &'static str {
        match (self.cancel, self.terminate) {
            (Some(_), _) => OPERATION_CANCEL,
            (_, Some(_)) => OPERATION_TERMINATE,
            _ => "pg.activity",
        }
    }

    fn end(&self) -> Option<(i32, BackendEnd)> {
        let cancel = self.cancel.map(|pid| (pid, BackendEnd::Cancel));
        cancel.or(self.terminate.map(|pid| (pid, BackendEnd::Terminate)))
    }
}

/// Shows or ends.
///
/// # Errors
/// See the operations.
pub(crate) async fn run(args: ActivityArgs, session: &Session) -> Result<ExitStatus> {
    if let Some((pid, how)) = args.end() {
        return plan_end(pid, how, &args, session).await;
    }
    let (inspection, address) = session.relational()?;
    let query =
        SessionQuery { longer_than: args.longer_than, all: args.all, literals: args.literals.literals() };
    let report = sessions::observe(inspection.as_ref(), &address, query).await?;
    Ok(session.printer.report(&Shown(report)))
}

async fn plan_end(pid: i32, how: BackendEnd, args: &ActivityArgs, session: &Session) -> Result<ExitStatus> {
    let (inspection, _) = session.relational()?;
    let probe = session.probe(StoreKind::Postgres).await?;
    let target = session.target(probe.as_ref()).await?;
    let plan = sessions::plan_end(inspection.as_ref(), pid, how, target, session.clock.as_ref()).await?;
    if let Some(status) = plan::only_planned(&plan, args.output.as_deref(), args.dry_run, session)? {
        return Ok(status);
    }
    apply_plan(&plan, None, session).await.map_err(by_plan_file)
}

/// Carries out a plan to end a session.
///
/// # Errors
/// `StalePlan` when the process is gone or at something else; `Refused` by policy; the server's.
pub(crate) async fn apply_plan(plan: &Plan, approve: Option<&str>, session: &Session) -> Result<ExitStatus> {
    let (inspection, _) = session.relational()?;
    let repository = session.repository_or_create().await.context("open the audit log")?;
    let guard = session.guard(&repository);
    let probe = session.probe(StoreKind::Postgres).await?;
    let target = session.target(probe.as_ref()).await?;
    let checked = match other_target(&plan.target, &target) {
        Some(stale) => Err(stale),
        None => sessions::check_end(inspection.as_ref(), plan, &target.fingerprint).await,
    };
    if let Err(stale) = checked {
        return Err(guard.refuse(&plan.operation, Some(&plan.target), Some(plan.hash()?), stale).await);
    }
    let permit = guard.permit(plan, &BackupEvidence::default(), &session.consent(approve)?).await?;
    let ended = sessions::end(inspection.as_ref(), plan, &permit).await;
    let outcome = match &ended {
        Ok(report) => {
            Outcome::Done { summary: format!("ended process {}", report.pid), facts: json!(report) }
        }
        Err(error) => Outcome::of_error(error),
    };
    let report = close(&guard, permit, ended, outcome).await?;
    Ok(session.printer.report(&Ended(report)))
}

struct Ended(EndReport);

impl Report for Ended {
    fn json(&self) -> Map<String, Value> {
        Map::from_iter([("ended".to_owned(), json!(self.0))])
    }

    fn text(&self, _look: &Look) -> String {
        let EndReport { pid, how, gone } = &self.0;
        match (how, gone) {
            (BackendEnd::Cancel, true) => format!("the statement of process {pid} has ended\n"),
            (BackendEnd::Terminate, true) => format!("process {pid} has ended\n"),
            (_, false) => format!("process {pid} was told to end and will at its next safe point\n"),
        }
    }
}

struct Shown(SessionReport);

impl Report for Shown {
    fn json(&self) -> Map<String, Value> {
        let report = &self.0;
        Map::from_iter([
            ("sessions".to_owned(), json!(report.sessions)),
            ("connections".to_owned(), json!(report.connections)),
            ("connections_max".to_owned(), json!(report.connections_max)),
            ("connections_reserved".to_owned(), json!(report.connections_reserved)),
            ("unseen".to_owned(), json!(report.unseen)),
            ("findings".to_owned(), json!(report.findings)),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let report = &self.0;
        let mut text = format!(
            "{} of {} connections in use, {} of them kept for the few\n",
            report.connections, report.connections_max, report.connections_reserved
        );
        if report.unseen > 0 {
            text.push_str(&format!(
                "{} sessions are not to be seen by this role: grant it pg_monitor\n",
                report.unseen
            ));
        }
        if report.sessions.is_empty() {
            text.push_str("nothing is going on\n");
        } else {
            text.push_str(&table(&report.sessions, look));
        }
        text + &findings::text(&report.findings, look)
    }

    fn exit_status(&self) -> ExitStatus {
        Severity::worst_exit_status(&self.0.findings)
    }
}

fn table(sessions: &[SessionActivity], look: &Look) -> String {
    let mut table = Table::new(&[
        "PID",
        "STATEMENT FOR",
        "TRANSACTION FOR",
        "STATE",
        "DATABASE",
        "WHO",
        "WAITS FOR",
        "STATEMENT",
    ]);
    for session in sessions {
        let for_long = |micros: Option<u64>| micros.map_or("-".to_owned(), |micros| millis(micros / 1_000));
        let (state, tone) = state(session);
        let statement_max = if look.verbose { usize::MAX } else { STATEMENT_CHARS_MAX };
        let statement = session.statement.as_deref().unwrap_or("");
        table.row(vec![
            Cell::right(session.pid.to_string()),
            Cell::right(for_long(session.statement_micros)),
            Cell::right(for_long(session.transaction_micros)),
            Cell::new(plain(&state, 60)).tone(tone),
            Cell::new(plain(session.database.as_deref().unwrap_or("-"), 80)),
            Cell::new(plain(&who(session), 120)),
            Cell::new(plain(&waits_for(session), 80)),
            Cell::new(plain(statement, statement_max)).tone(Tone::Faint),
        ]);
    }
    table.render(look)
}

fn state(session: &SessionActivity) -> (String, Tone) {
    let is_client = session.kind.as_deref().is_none_or(|kind| kind == "client backend");
    match (&session.state, &session.kind) {
        (Some(state), _) if is_client && state.starts_with("idle in transaction") => {
            (state.clone(), Tone::Warn)
        }
        (Some(state), _) if is_client => (state.clone(), Tone::Plain),
        (_, Some(kind)) => (kind.clone(), Tone::Faint),
        (_, None) => ("not to be seen".to_owned(), Tone::Faint),
    }
}

fn who(session: &SessionActivity) -> String {
    let parts = [
        session.user.as_deref().unwrap_or(""),
        session.app_name.as_str(),
        session.client.as_deref().unwrap_or(""),
    ];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

fn waits_for(session: &SessionActivity) -> String {
    let blockers: Vec<String> = session.blocked_by.iter().map(ToString::to_string).collect();
    match (blockers.is_empty(), &session.wait) {
        (false, _) => format!("process {}", blockers.join(", ")),
        (true, Some(wait)) if session.statement_micros.is_some() => wait.clone(),
        _ => String::new(),
    }
}
