//! `redis purge`: keys removed by pattern, counted before and permitted.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use mainstay_guard::Outcome;
use mainstay_model::{Count, ExitStatus, Plan, Result, ResultExt, StoreKind};
use mainstay_ops::purge::{self, PurgeContext, PurgeReport, PurgeRequest};
use serde_json::{Map, Value, json};

use super::keys::parse_busy_time;
use crate::commands::close;
use crate::commands::plan::{self, PlanReport, by_plan_file};
use crate::commands::restore::other_target;
use crate::printer::{Look, Report, Tone};
use crate::wiring::Session;

/// Arguments of `redis purge`.
#[derive(Debug, Args)]
pub(crate) struct PurgeArgs {
    /// Keys whose names match one of these globs go, such as 'payment:idem:*'
    #[arg(required = true, value_name = "GLOB")]
    patterns: Vec<String>,
    /// Keys whose names match this glob stay nevertheless; may be repeated
    #[arg(long, value_name = "GLOB")]
    protect: Vec<String>,
    /// In the database with this number alone; may be repeated
    #[arg(long, alias = "db", value_name = "NUMBER")]
    database: Vec<u64>,
    /// Every key is really meant, where a pattern matches all
    #[arg(long)]
    everything: bool,
    /// The longest that the server should be busy with one answer: others wait meanwhile
    #[arg(long, value_name = "TIME", default_value = "500us", value_parser = parse_busy_time)]
    busy_at_most: Duration,
    /// Count what would go, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Write the plan to this file instead of carrying it out
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Plans, asks and removes.
///
/// # Errors
/// The operation's.
pub(crate) async fn run(args: PurgeArgs, session: &Session) -> Result<ExitStatus> {
    let keyspace = session.keyspace()?;
    let probe = session.probe(StoreKind::Redis).await?;
    let target = session.target(probe.as_ref()).await?;
    let request = PurgeRequest {
        patterns: args.patterns,
        protect: args.protect,
        databases: args.database,
        everything: args.everything,
        answer_micros_max: u64::try_from(args.busy_at_most.as_micros()).unwrap_or(u64::MAX),
    };
    let progress = session.printer.progress();
    let (clock, observer, cancel) = (session.clock.as_ref(), progress.as_ref(), &session.cancel);
    let plan = purge::plan(keyspace.as_ref(), target, &request, clock, observer, cancel).await?;
    drop(progress);
    if let Some(file) = &args.output {
        plan::write(&plan, &session.path(file))?;
    }
    if args.dry_run || args.output.is_some() {
        return Ok(session.printer.report(&PlanReport::new(plan, args.output, session.clock.now())?));
    }
    apply_plan(&plan, None, session).await.map_err(by_plan_file)
}

/// Carries out a plan to purge.
///
/// # Errors
/// `StalePlan` when another server answers; `Refused` by policy; the operation's.
pub(crate) async fn apply_plan(plan: &Plan, approve: Option<&str>, session: &Session) -> Result<ExitStatus> {
    let keyspace = session.keyspace()?;
    let probe = session.probe(StoreKind::Redis).await?;
    let repository = session.repository_or_create().await.context("open the audit log")?;
    let guard = session.guard(&repository);
    let target = session.target(probe.as_ref()).await?;
    if let Some(stale) = other_target(&plan.target, &target) {
        return Err(guard.refuse(&plan.operation, Some(&plan.target), Some(plan.hash()?), stale).await);
    }
    let evidence = purge::evidence(&repository, &target.fingerprint).await?;
    let permit = guard.permit(plan, &evidence, &session.consent(approve)?).await?;
    let progress = session.printer.progress();
    let context =
        PurgeContext { keyspace: keyspace.as_ref(), observer: progress.as_ref(), cancel: &session.cancel };
    let purged = purge::apply(&context, plan, &permit).await;
    drop(progress);
    let outcome = match &purged {
        Ok(report) => {
            Outcome::Done { summary: format!("removed {} keys", report.removed), facts: json!(report) }
        }
        Err(error) => Outcome::of_error(error),
    };
    let report = close(&guard, permit, purged, outcome).await?;
    Ok(session.printer.report(&Purged(report)))
}

struct Purged(PurgeReport);

impl Report for Purged {
    fn json(&self) -> Map<String, Value> {
        Map::from_iter([
            ("removed".to_owned(), json!(self.0.removed)),
            ("planned".to_owned(), json!(self.0.planned)),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let PurgeReport { removed, planned } = self.0;
        let rest = match removed == planned {
            true => String::new(),
            false => format!(" ({} when they were counted)", Count(planned)),
        };
        format!("{} {} keys{rest}\n", look.paint(Tone::Good, "removed"), Count(removed))
    }
}
