//! `redis undo`: keys as they were before a database was emptied, brought back from the captured stream.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use mainstay_guard::Outcome;
use mainstay_model::{Count, Error, ErrorKind, ExitStatus, Plan, Result, StoreKind};
use mainstay_ops::replication::restore::{self, Expiry, KeysPlanContext};
use mainstay_ops::replication::undo::{self, UndoContext, UndoReport, UndoRequest, UndoServer};
use mainstay_redis::{RedisCarrier, RedisKeyspace};
use serde_json::{Map, Value, json};

use crate::commands::close;
use crate::commands::plan::{self, by_plan_file_again};
use crate::commands::replication::TtlArgument;
use crate::commands::restore::other_target;
use crate::printer::shown::moment;
use crate::printer::{Look, Report, Tone};
use crate::wiring::Session;

/// Arguments of `redis undo`.
#[derive(Debug, Args)]
pub(crate) struct UndoArgs {
    /// The command, by its offset as `redis flushes` lists it [default: the newest FLUSHALL or FLUSHDB]
    #[arg(long, value_name = "OFFSET")]
    at: Option<u64>,
    /// Only keys whose names match this glob come back; may be repeated
    #[arg(long, value_name = "GLOB")]
    keys: Vec<String>,
    /// In the database with this number alone; may be repeated [default: what the command emptied]
    #[arg(long, alias = "db", value_name = "NUMBER")]
    database: Vec<u64>,
    /// Replace keys that were written since, instead of leaving them as they are
    #[arg(long)]
    replace: bool,
    /// What becomes of the moments at which keys expire [default: keep]
    #[arg(long, value_enum, value_name = "WHAT")]
    ttl: Option<TtlArgument>,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Write the plan to this file instead of carrying it out
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Plans, asks and brings back.
///
/// # Errors
/// The operation's.
pub(crate) async fn run(args: UndoArgs, session: &Session) -> Result<ExitStatus> {
    let repository = session.repository().await?;
    let probe = session.probe(StoreKind::Redis).await?;
    let target = session.target(probe.as_ref()).await?;
    let held = session.keyspace()?.databases().await?.iter().map(|size| size.keys).sum();
    let request = UndoRequest {
        at: args.at,
        patterns: args.keys,
        databases: args.database,
        replace: args.replace,
        expiry: match args.ttl {
            None | Some(TtlArgument::Keep) => Expiry::Keep,
            Some(TtlArgument::Shift) => Expiry::Shift,
        },
    };
    let progress = session.printer.progress();
    let clock = session.clock.as_ref();
    let context = KeysPlanContext { repository: &repository, clock, observer: progress.as_ref() };
    let stream = session.replication()?.replication_facts().await?;
    let plan = tokio::select! {
        plan = undo::plan(&context, UndoServer { target, stream, held }, request) => plan?,
        () = session.cancel.cancelled() => {
            return Err(Error::new(ErrorKind::Interrupted, "the plan was stopped on request")
                .with_state("nothing was changed"));
        }
    };
    drop(progress);
    if let Some(status) = plan::only_planned(&plan, args.output.as_deref(), args.dry_run, session)? {
        return Ok(status);
    }
    let undone = apply_plan(&plan, None, session).await;
    undone.map_err(|refusal| by_plan_file_again("--output plan.json", session, refusal))
}

/// Carries out a plan to bring keys back.
///
/// # Errors
/// `StalePlan` when another server answers; `Refused` by policy; the operation's.
pub(crate) async fn apply_plan(plan: &Plan, approve: Option<&str>, session: &Session) -> Result<ExitStatus> {
    let began = Instant::now();
    let repository = session.repository().await?;
    let probe = session.probe(StoreKind::Redis).await?;
    let guard = session.guard(&repository);
    let target = session.target(probe.as_ref()).await?;
    if let Some(stale) = other_target(&plan.target, &target) {
        return Err(guard.refuse(&plan.operation, Some(&plan.target), Some(plan.hash()?), stale).await);
    }
    let to = session.carrier()?;
    let program = session.replica()?.replica_facts().await?.program;
    let evidence = restore::evidence(&repository, plan).await?;
    let permit = guard.permit(plan, &evidence, &session.consent(approve)?).await?;
    let progress = session.printer.progress();
    let undone = async {
        let scratch = session.redis_scratch().await?;
        let (shown, from) = (RedisKeyspace::new(scratch.config())?, RedisCarrier::new(scratch.config())?);
        let context = UndoContext {
            scratch: &scratch.replica()?,
            shown: &shown,
            from: &from,
            to: to.as_ref(),
            program: &program,
            repository: &repository,
            clock: session.clock.as_ref(),
            observer: progress.as_ref(),
            cancel: &session.cancel,
        };
        let undone = undo::apply(&context, plan, &permit).await;
        scratch.end().await;
        undone
    }
    .await;
    drop(progress);
    let outcome = match &undone {
        Ok(report) => {
            Outcome::Done { summary: format!("brought back {} keys", report.written), facts: json!(report) }
        }
        Err(error) => Outcome::of_error(error),
    };
    let report = close(&guard, permit, undone, outcome).await?;
    // What cannot be asked any more is not told.
    let is_unmarked = matches!(probe.marker().await, Ok(None));
    let flags = plan::flags(session);
    Ok(session.printer.report(&Undone { report, elapsed: began.elapsed(), is_unmarked, flags }))
}

struct Undone {
    report: UndoReport,
    elapsed: Duration,
    /// Whether the server has no marker now: one that went with the keys does not come back.
    is_unmarked: bool,
    /// How server and repository were named, for what comes next.
    flags: String,
}

impl Report for Undone {
    fn json(&self) -> Map<String, Value> {
        let Value::Object(mut fields) = json!(self.report) else { return Map::new() };
        fields.insert("seconds".to_owned(), json!(self.elapsed.as_secs_f64()));
        fields.insert("unmarked".to_owned(), json!(self.is_unmarked));
        fields
    }

    fn text(&self, look: &Look) -> String {
        let report = &self.report;
        let when = report.moment.map_or_else(String::new, |at| format!(", {}", moment(at)));
        let marker = match self.is_unmarked {
            false => String::new(),
            true => format!(
                "  the server has no marker of an environment, which an undo leaves out: it counts as production until it is marked\n\
                 next: mainstay{} environment mark --store redis\n",
                self.flags
            ),
        };
        format!(
            "{} {} keys as they were at offset {}{when}, in {:.1} s\n  {} of that moment, {} are there and stayed as they are\n{marker}",
            look.paint(Tone::Good, "brought back"),
            Count(report.written),
            report.offset,
            self.elapsed.as_secs_f64(),
            Count(report.shown),
            Count(report.kept),
        )
    }
}
