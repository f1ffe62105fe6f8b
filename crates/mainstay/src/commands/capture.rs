//! `capture mongo`: follows the change log until asked to stop; `capture postgres` is in [`capture_wal`], `capture redis` in
//! [`capture_replication`].

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::SignedDuration;
use mainstay_guard::{BackupEvidence, Outcome};
use mainstay_model::{ByteSize, Count, ExitStatus, Result, ResultExt, StoreKind};
use mainstay_ops::capture::{
    self, CaptureContext, CaptureEvent, CaptureObserver, CaptureOptions, CaptureReport, SLICE_AGE_MIN,
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::capture_wal::{self, WalCaptureArgs};
use super::{capture_replication, close};
use crate::printer::shown::{duration, millis, moment};
use crate::printer::{Look, Printer, Report, Tone};
use crate::wiring::Session;

/// The commands below `capture`.
#[derive(Debug, Subcommand)]
pub(crate) enum CaptureCommand {
    /// Follow the oplog and keep it in the repository, so that any moment can be restored
    Mongo(CaptureArgs),
    /// Follow the WAL and keep it in the repository, so that any moment can be restored
    Postgres(WalCaptureArgs),
    /// Follow the replication stream and keep it in the repository, so that any moment can be restored
    Redis(CaptureArgs),
}

/// Arguments of every capture.
#[derive(Debug, Args)]
pub(crate) struct CaptureArgs {
    /// Write what was read at the latest after this time: what the loss of the server can cost [default: `capture.slice_age`]
    #[arg(long, value_name = "TIME")]
    slice_age: Option<SliceAge>,
    /// Catch up with what the server has now, then end
    #[arg(long)]
    pub(super) once: bool,
}

impl CaptureArgs {
    /// How old a slice may become, in milliseconds.
    pub(super) fn slice_age_ms(&self, session: &Session) -> u64 {
        let age = self.slice_age.map_or(session.configuration.slice_age, |age| age.0);
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        age_ms.max(u64::try_from(SLICE_AGE_MIN.as_millis()).unwrap_or(0))
    }
}

/// How old a slice may become.
#[derive(Debug, Clone, Copy)]
struct SliceAge(SignedDuration);

impl FromStr for SliceAge {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<SignedDuration>() {
            Ok(age) if age.is_positive() => Ok(Self(age)),
            _ => Err("expected a duration such as 5s".to_owned()),
        }
    }
}

impl CaptureCommand {
    /// The operation's name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Mongo(_) => capture::OPERATION,
            Self::Postgres(_) => capture::wal::OPERATION,
            Self::Redis(_) => capture::replication::OPERATION,
        }
    }
}

/// Runs a command below `capture`.
///
/// # Errors
/// The operation's.
pub(crate) async fn run(command: CaptureCommand, session: &Session) -> Result<ExitStatus> {
    match command {
        CaptureCommand::Mongo(args) => mongo(&args, session).await,
        CaptureCommand::Postgres(args) => capture_wal::run(&args, session).await,
        CaptureCommand::Redis(args) => capture_replication::run(&args, session).await,
    }
}

async fn mongo(args: &CaptureArgs, session: &Session) -> Result<ExitStatus> {
    let documents = session.documents(StoreKind::Mongo).await?;
    let target = session.target(documents.probe.as_ref()).await?;
    // A server without a log is told before a repository is made for it.
    documents.changes.change_log_facts().await.context("look at the change log")?;
    let options = CaptureOptions { slice_age_ms: args.slice_age_ms(session), once: args.once };
    let plan = capture::plan(target, options, session.clock.as_ref());
    let repository = session.repository_or_create().await?;
    let guard = session.guard(&repository);
    let permit = guard.permit(&plan, &BackupEvidence::default(), &session.consent(None)?).await?;
    let context = CaptureContext {
        source: documents.changes,
        repository,
        holder: session.holder(),
        lease_ttl: session.lease_ttl(),
        clock: session.clock.clone(),
        observer: Arc::new(Teller(session.printer.clone())),
        cancel: session.cancel.clone(),
    };
    let captured = capture::capture(&context, &plan, &permit).await;
    let outcome = match &captured {
        Ok(report) => Outcome::Done {
            summary: format!("captured {} entries", report.entries),
            facts: json!({"chain": report.chain, "recovery_point": report.recovery_point, "slices": report.slices}),
        },
        Err(error) => Outcome::of_error(error),
    };
    let report = close(&guard, permit, captured, outcome).await?;
    Ok(session.printer.report(&Captured(report)))
}

/// Tells events as they happen.
struct Teller(Arc<Printer>);

impl CaptureObserver for Teller {
    fn event(&self, event: &CaptureEvent) {
        let is_detail = matches!(event, CaptureEvent::SliceStored { .. });
        self.0.event(fields_of(event), &text_of(event), is_detail);
    }
}

/// An event as `--json` shows it.
pub(super) fn fields_of(event: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(event) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

/// That something failed and is tried again.
pub(super) fn waiting_text(message: &str, recovery_point_age_seconds: Option<i64>, pause_ms: u64) -> String {
    let age = recovery_point_age_seconds.map_or_else(String::new, |age| {
        format!(", the recovery point is {} old", duration(u64::try_from(age).unwrap_or(0)))
    });
    format!("warning: {message}; trying again in {:?}{age}", Duration::from_millis(pause_ms))
}

/// How much of a log that is bytes was stored, in a line of its own.
pub(super) fn volume_text(bytes: u64, slices: u64, stored_bytes: u64, held_ms_max: u64) -> String {
    format!(
        "  {} in {} slices, {} stored; the oldest byte waited {}\n",
        ByteSize(bytes),
        Count(slices),
        ByteSize(stored_bytes),
        millis(held_ms_max)
    )
}

fn text_of(event: &CaptureEvent) -> String {
    match event {
        CaptureEvent::ChainBegun { chain, after, why, gap_after } => {
            let gap = gap_after.filter(|gap| gap < after).map_or_else(String::new, |gap| {
                format!("; what lies between {gap} and {after} cannot be restored")
            });
            format!(
                "chain {chain} begins after {after}, {}: {}{gap}",
                moment(after.timestamp()),
                why.explanation()
            )
        }
        CaptureEvent::ChainResumed { chain, at } => {
            format!("chain {chain} goes on after {at}, {}", moment(at.timestamp()))
        }
        CaptureEvent::SliceStored { through, entries, bytes, stored_bytes, .. } => format!(
            "stored up to {through}: {} entries, {} in {}",
            Count(*entries),
            ByteSize(*bytes),
            ByteSize(*stored_bytes)
        ),
        CaptureEvent::Waiting { message, recovery_point_age_seconds, pause_ms, .. } => {
            waiting_text(message, *recovery_point_age_seconds, *pause_ms)
        }
        CaptureEvent::ServerBack { away_ms, .. } => {
            format!(
                "the server answers again after {}; the log goes on without a gap",
                duration(away_ms / 1000)
            )
        }
        CaptureEvent::OverrunRisk(risk) => format!(
            "warning: capture is {} behind and the server keeps {}: it may overwrite what is not stored yet; \
             make the oplog larger with db.adminCommand({{replSetResizeOplog: 1, size: MEGABYTES}})",
            duration(risk.lag_seconds),
            duration(risk.window_seconds)
        ),
    }
}

struct Captured(CaptureReport);

impl Report for Captured {
    fn json(&self) -> Map<String, Value> {
        let report = &self.0;
        Map::from_iter([
            ("event".to_owned(), json!("ended")),
            ("chain".to_owned(), json!(report.chain)),
            ("recovery_point".to_owned(), json!(report.recovery_point)),
            ("slices".to_owned(), json!(report.slices)),
            ("entries".to_owned(), json!(report.entries)),
            ("bytes".to_owned(), json!(report.bytes)),
            ("stored_bytes".to_owned(), json!(report.stored_bytes)),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let report = &self.0;
        let Some(point) = report.recovery_point else {
            return "nothing was captured\n".to_owned();
        };
        format!(
            "{} {point}, {}\n  {} entries, {} in {} slices, {} stored\n",
            look.paint(Tone::Strong, "recovery point"),
            moment(point.timestamp()),
            Count(report.entries),
            ByteSize(report.bytes),
            report.slices,
            ByteSize(report.stored_bytes)
        )
    }
}
