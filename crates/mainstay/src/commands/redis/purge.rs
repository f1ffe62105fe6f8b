//! `redis purge`: keys removed by pattern, counted before and permitted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use mainstay_guard::Outcome;
use mainstay_model::{Count, Error, ErrorKind, ExitStatus, Plan, Result, ResultExt, SetId, StoreKind};
use mainstay_ops::purge::{self, NamesFile, PurgeContext, PurgePlanning, PurgeReport, PurgeRequest};
use mainstay_ops::{Holder, KeyClass};
use serde_json::{Map, Value, json};

use super::keys::parse_busy_time;
use crate::commands::close;
use crate::commands::plan::{self, by_plan_file_again};
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
    /// Take the names from this database file (RDB) instead of having the server list them
    #[arg(long, value_name = "FILE")]
    rdb: Option<PathBuf>,
    /// Keys of this protected class go, too (see [redis.classes] of mainstay.toml); may be repeated
    #[arg(long, value_name = "CLASS", value_parser = parse_class)]
    with_class: Vec<KeyClass>,
    /// Count what would go, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Write the plan to this file instead of carrying it out
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

fn parse_class(text: &str) -> Result<KeyClass, String> {
    let protected = || KeyClass::ALL.into_iter().filter(|class| class.is_protected());
    protected().find(|class| class.name() == text).ok_or_else(|| {
        format!("expected one of {}", protected().map(KeyClass::name).collect::<Vec<_>>().join(", "))
    })
}

/// The file, which must be there when the plan is carried out, too.
async fn names_file(path: &Path, session: &Session) -> Result<NamesFile> {
    let path = path.canonicalize().map_err(|source| {
        Error::new(ErrorKind::NotFound, format!("cannot read {}", path.display())).with_source(source)
    })?;
    NamesFile::at(path, &session.cancel).await
}

/// Plans, asks and removes.
///
/// # Errors
/// The operation's.
pub(crate) async fn run(args: PurgeArgs, session: &Session) -> Result<ExitStatus> {
    let keyspace = session.keyspace()?;
    let probe = session.probe(StoreKind::Redis).await?;
    let target = session.target(probe.as_ref()).await?;
    let file = match &args.rdb {
        Some(file) => Some(names_file(&session.path(file), session).await?),
        None => None,
    };
    let request = PurgeRequest {
        patterns: args.patterns,
        protect: args.protect,
        databases: args.database,
        everything: args.everything,
        answer_micros_max: u64::try_from(args.busy_at_most.as_micros()).unwrap_or(u64::MAX),
        classes: session.configuration.redis_classes.clone(),
        with_classes: args.with_class,
        file,
    };
    let repository = match session.configuration.repository {
        Some(_) => session.existing_repository().await?,
        None => None,
    };
    let undo = match &repository {
        Some(repository) => purge::undo_point(repository, &target.fingerprint).await?,
        None => None,
    };
    let progress = session.printer.progress();
    let planning = PurgePlanning {
        keyspace: keyspace.as_ref(),
        undo,
        undo_age_max: session.configuration.backup_age_max,
        clock: session.clock.as_ref(),
        observer: progress.as_ref(),
        cancel: &session.cancel,
    };
    let plan = purge::plan(&planning, target, &request).await?;
    drop(progress);
    if let Some(status) = plan::only_planned(&plan, args.output.as_deref(), args.dry_run, session)? {
        return Ok(status);
    }
    let purged = apply_plan(&plan, None, session).await;
    purged.map_err(|refusal| by_plan_file_again("--output plan.json", session, refusal))
}

/// Carries out a plan to purge.
///
/// # Errors
/// `StalePlan` when another server answers; `Refused` by policy; `Locked` when another purge is under way; the operation's.
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
    let undo = purge::undo_point(&repository, &target.fingerprint).await?;
    let permit = guard.permit(plan, &evidence, &session.consent(approve)?).await?;
    let progress = session.printer.progress();
    let name = session.holder();
    let holder = Holder { name: &name, lease_ttl: session.lease_ttl(), clock: session.clock.clone() };
    let context = PurgeContext {
        keyspace: keyspace.as_ref(),
        repository: &repository,
        holder: &holder,
        observer: progress.as_ref(),
        cancel: &session.cancel,
    };
    let purged = purge::apply(&context, plan, &permit).await;
    drop(progress);
    let outcome = match &purged {
        Ok(report) => {
            let undo_point = undo.as_ref().map(|undo| &undo.set);
            let facts = json!({"purge": report, "undo_point": undo_point});
            Outcome::Done { summary: format!("removed {} keys", report.removed), facts }
        }
        Err(error) => Outcome::of_error(error),
    };
    let report = close(&guard, permit, purged, outcome).await?;
    Ok(session.printer.report(&Purged { report, undo_point: undo.map(|undo| undo.set) }))
}

struct Purged {
    report: PurgeReport,
    undo_point: Option<SetId>,
}

impl Report for Purged {
    fn json(&self) -> Map<String, Value> {
        Map::from_iter([
            ("removed".to_owned(), json!(self.report.removed)),
            ("planned".to_owned(), json!(self.report.planned)),
            ("resumed".to_owned(), json!(self.report.resumed)),
            ("undo_point".to_owned(), json!(self.undo_point)),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let PurgeReport { removed, planned, resumed } = self.report;
        let rest = match removed == planned {
            true => String::new(),
            false => format!(" ({} when they were counted)", Count(planned)),
        };
        let runs = if resumed { ", by this run and those before it" } else { "" };
        format!("{} {} keys{rest}{runs}\n", look.paint(Tone::Good, "removed"), Count(removed))
    }
}
