//! `pg reset`: wipes the configured development database.

use std::path::PathBuf;

use clap::Args;
use mainstay_guard::{BackupEvidence, Outcome};
use mainstay_model::{ByteSize, Count, ExitStatus, Plan, Result, ResultExt, StoreKind};
use mainstay_ops::reset::{self, ResetReport};
use serde_json::{Map, Value, json};

use crate::commands::close;
use crate::commands::plan::{self, by_plan_file};
use crate::commands::restore::other_target;
use crate::printer::{Look, Report};
use crate::wiring::Session;

/// Arguments of `pg reset`.
#[derive(Debug, Args)]
pub(crate) struct ResetArgs {
    /// Show what would be gone, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Write the plan to this file instead of carrying it out
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Plans and wipes.
///
/// # Errors
/// The operation's.
pub(super) async fn run(args: ResetArgs, session: &Session) -> Result<ExitStatus> {
    let store = session.databases()?;
    let probe = session.probe(StoreKind::Postgres).await?;
    let target = session.target(probe.as_ref()).await?;
    let plan = reset::plan(store.as_ref(), target, session.clock.as_ref()).await?;
    if let Some(status) = plan::only_planned(&plan, args.output.as_deref(), args.dry_run, session)? {
        return Ok(status);
    }
    apply_plan(&plan, None, session).await.map_err(by_plan_file)
}

/// Carries out a plan to wipe a database.
///
/// # Errors
/// `Refused` unless it still is a development database; `StalePlan` when it is another one; the server's.
pub(crate) async fn apply_plan(plan: &Plan, approve: Option<&str>, session: &Session) -> Result<ExitStatus> {
    let store = session.databases()?;
    let repository = session.repository_or_create().await.context("open the audit log")?;
    let guard = session.guard(&repository);
    let probe = session.probe(StoreKind::Postgres).await?;
    let target = session.target(probe.as_ref()).await?;
    let checked = match other_target(&plan.target, &target) {
        Some(stale) => Err(stale),
        None => reset::check(store.as_ref(), plan, &target).await,
    };
    let found = match checked {
        Ok(found) => found,
        Err(error) => {
            return Err(guard.refuse(&plan.operation, Some(&plan.target), Some(plan.hash()?), error).await);
        }
    };
    let permit = guard.permit(plan, &BackupEvidence::default(), &session.consent(approve)?).await?;
    let wiped = reset::reset(store.as_ref(), plan, &found, &permit).await;
    let outcome = match &wiped {
        Ok(report) => {
            Outcome::Done { summary: format!("wiped database {}", report.database), facts: json!(report) }
        }
        Err(error) => Outcome::of_error(error),
    };
    let report = close(&guard, permit, wiped, outcome).await?;
    Ok(session.printer.report(&Wiped(report)))
}

struct Wiped(ResetReport);

impl Report for Wiped {
    fn json(&self) -> Map<String, Value> {
        Map::from_iter([("reset".to_owned(), json!(self.0))])
    }

    fn text(&self, _look: &Look) -> String {
        let ResetReport { database, rows, bytes } = &self.0;
        format!(
            "database {database} is empty: about {} rows, {} are gone\nnext: run the migrations, then the seeds\n",
            Count(*rows),
            ByteSize(*bytes)
        )
    }
}
