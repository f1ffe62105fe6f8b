//! What `sql mark-applied`, `sql baseline` and `sql repair` share: a plan about rows, shown, kept, or carried out.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use mainstay_guard::{BackupEvidence, Guard, Outcome};
use mainstay_model::{ErrorKind, ExitStatus, Plan, Result, ResultExt, StoreKind};
use mainstay_ops::shape::Literals;
use mainstay_ops::sql::{
    self, OPERATION_REPAIR, PlannedRow, RowParameters, RowReport, SqlContext, mark, repair,
};
use serde_json::{Map, Value, json};

use super::{FolderArgs, Migrations, repository};
use crate::commands::close;
use crate::commands::plan::{self, by_plan_file};
use crate::commands::restore::other_target;
use crate::printer::shown::plain;
use crate::printer::{Look, Report, Tone};
use crate::wiring::Session;

/// How long another run is waited for.
const WAIT: Duration = Duration::from_secs(30);

/// What becomes of a plan that is made.
#[derive(Debug, Args)]
pub(super) struct MakingArgs {
    /// Show which rows would be written, and write none
    #[arg(long)]
    dry_run: bool,
    /// Write the plan to this file instead of carrying it out
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Shows the plan, or keeps it, or does what it says.
///
/// # Errors
/// The operation's.
pub(super) async fn make(
    context: &SqlContext<'_>,
    plan: &Plan,
    making: &MakingArgs,
    session: &Session,
) -> Result<ExitStatus> {
    if RowParameters::of(plan)?.rows.is_empty() {
        return Ok(session.printer.report(&Written(RowReport { rows: Vec::new(), millis: 0 })));
    }
    if let Some(status) = plan::only_planned(plan, making.output.as_deref(), making.dry_run, session)? {
        return Ok(status);
    }
    carry_out(context, plan, None, session).await.map_err(by_plan_file)
}

/// Carries out a plan about rows.
///
/// # Errors
/// As [`super::apply_plan`].
pub(super) async fn apply_plan(plan: &Plan, approve: Option<&str>, session: &Session) -> Result<ExitStatus> {
    RowParameters::of(plan)?;
    let migrations = Migrations::open(&FolderArgs::default(), session)?;
    let progress = session.printer.progress();
    let context = migrations.context(session, progress.as_ref(), Literals::Hidden);
    carry_out(&context, plan, approve, session).await
}

async fn carry_out(
    context: &SqlContext<'_>,
    plan: &Plan,
    approve: Option<&str>,
    session: &Session,
) -> Result<ExitStatus> {
    let repository = repository(session).await.context("open the audit log")?;
    let guard = session.guard_of(repository.as_ref());
    let written = under_guard(context, plan, approve, &guard, session).await;
    session.printer.end_progress();
    Ok(session.printer.report(&Written(written?)))
}

async fn under_guard(
    context: &SqlContext<'_>,
    plan: &Plan,
    approve: Option<&str>,
    guard: &Guard,
    session: &Session,
) -> Result<RowReport> {
    let probe = session.probe(StoreKind::Postgres).await?;
    let target = session.target(probe.as_ref()).await?;
    if let Some(stale) = other_target(&plan.target, &target) {
        return Err(guard.refuse(&plan.operation, Some(&plan.target), Some(plan.hash()?), stale).await);
    }
    let run = sql::open(context, WAIT).await?;
    let is_repair = plan.operation == OPERATION_REPAIR;
    let checked = match is_repair {
        true => repair::check(context, plan).await,
        false => mark::check(context, plan).await,
    };
    if let Err(stale) = checked {
        return Err(match stale.kind() {
            ErrorKind::StalePlan => {
                guard.refuse(&plan.operation, Some(&plan.target), Some(plan.hash()?), stale).await
            }
            _ => stale,
        });
    }
    let permit = guard.permit(plan, &BackupEvidence::default(), &session.consent(approve)?).await?;
    let written = match is_repair {
        true => repair::apply(context, plan, run.as_ref(), &permit).await,
        false => mark::apply(context, plan, run.as_ref(), &permit).await,
    };
    let outcome = match &written {
        Ok(report) => {
            Outcome::Done { summary: format!("wrote {} rows", report.rows.len()), facts: json!(report) }
        }
        Err(error) => Outcome::of_error(error),
    };
    close(guard, permit, written, outcome).await
}

struct Written(RowReport);

impl Report for Written {
    fn json(&self) -> Map<String, Value> {
        Map::from_iter([("rows".to_owned(), json!(self.0.rows))])
    }

    fn text(&self, look: &Look) -> String {
        if self.0.rows.is_empty() {
            return format!("{}\n", look.paint(Tone::Good, "no row is to be written"));
        }
        let line = |row: &PlannedRow| match row {
            PlannedRow::Insert { tag, .. } => format!("  + {tag} counts as applied"),
            PlannedRow::Repair { repair } => format!("  ~ row {}: {}", repair.row.id, repair.reason),
        };
        let mut text = String::new();
        for row in &self.0.rows {
            text.push_str(&format!("{}\n", plain(&line(row), usize::MAX)));
        }
        text + &format!("wrote {} rows; nothing was run\nnext: mainstay sql verify\n", self.0.rows.len())
    }
}
