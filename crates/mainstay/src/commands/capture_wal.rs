//! `capture postgres`: follows WAL until asked to stop.

use std::sync::Arc;

use clap::Args;
use mainstay_guard::{BackupEvidence, Outcome};
use mainstay_model::{ByteSize, ExitStatus, Result, ResultExt, StoreKind};
use mainstay_ops::capture::wal::{
    self, SlotConcern, SlotRisk, WalCaptureContext, WalCaptureEvent, WalCaptureObserver, WalCaptureOptions,
    WalCaptureReport,
};
use serde_json::{Map, Value, json};

use super::capture::{CaptureArgs, fields_of, volume_text, waiting_text};
use super::close;
use crate::printer::shown::{millis, moment};
use crate::printer::{Look, Printer, Report, Tone};
use crate::wiring::Session;

/// Arguments of `capture postgres`.
#[derive(Debug, Args)]
pub(crate) struct WalCaptureArgs {
    #[command(flatten)]
    capture: CaptureArgs,
    /// The replication slot that keeps WAL while nobody captures it; made when it is not there [default: mainstay_ and the environment's name]
    #[arg(long, value_name = "NAME")]
    slot: Option<String>,
}

/// Captures.
///
/// # Errors
/// The operation's.
pub(crate) async fn run(args: &WalCaptureArgs, session: &Session) -> Result<ExitStatus> {
    let source = session.wal()?;
    let probe = session.probe(StoreKind::Postgres).await?;
    let target = session.target(probe.as_ref()).await?;
    let slot = args.slot.clone().unwrap_or_else(|| wal::slot_name(&target.environment));
    wal::check_slot_name(&slot)?;
    // A role that may not replicate is told before a repository is made for it.
    source.wal_position().await.context("look at the server's WAL")?;
    let options =
        WalCaptureOptions { slot, slice_age_ms: args.capture.slice_age_ms(session), once: args.capture.once };
    let plan = wal::plan(target, options, session.clock.as_ref());
    let repository = session.repository_or_create().await?;
    let guard = session.guard(&repository);
    let permit = guard.permit(&plan, &BackupEvidence::default(), &session.consent(None)?).await?;
    let context = WalCaptureContext {
        source,
        repository,
        holder: session.holder(),
        lease_ttl: session.lease_ttl(),
        clock: session.clock.clone(),
        observer: Arc::new(Teller(session.printer.clone())),
        cancel: session.cancel.clone(),
    };
    let captured = wal::capture(&context, &plan, &permit).await;
    let outcome = match &captured {
        Ok(report) => Outcome::Done {
            summary: format!("captured {} of WAL", ByteSize(report.bytes)),
            facts: json!({"chain": report.chain, "recovery_point": report.recovery_point, "slices": report.slices}),
        },
        Err(error) => Outcome::of_error(error),
    };
    let report = close(&guard, permit, captured, outcome).await?;
    Ok(session.printer.report(&Captured(report)))
}

/// Tells events as they happen.
struct Teller(Arc<Printer>);

impl WalCaptureObserver for Teller {
    fn event(&self, event: &WalCaptureEvent) {
        let is_detail = matches!(event, WalCaptureEvent::SliceStored { .. });
        self.0.event(fields_of(event), &text_of(event), is_detail);
    }
}

fn text_of(event: &WalCaptureEvent) -> String {
    match event {
        WalCaptureEvent::SlotCreated { slot } => {
            format!("the server keeps its WAL for replication slot {slot} from now on, until it is stored")
        }
        WalCaptureEvent::SlotLost { slot } => format!(
            "warning: the server has given up replication slot {slot} (max_slot_wal_keep_size), and WAL that was not stored is gone; \
             the slot is made anew; take a new base backup: mainstay backup create --store postgres"
        ),
        WalCaptureEvent::ChainBegun { chain, timeline, after, why, gap_after } => {
            let gap = gap_after.map_or_else(String::new, |gap| {
                format!("; what lies between {gap} and {after} cannot be restored")
            });
            format!("chain {chain} of timeline {timeline} begins at {after}: {}{gap}", why.explanation())
        }
        WalCaptureEvent::ChainResumed { chain, timeline, at } => {
            format!("chain {chain} of timeline {timeline} goes on at {at}")
        }
        WalCaptureEvent::SliceStored { through, bytes, stored_bytes, held_ms, .. } => format!(
            "stored up to {through}: {} in {}, {} old",
            ByteSize(*bytes),
            ByteSize(*stored_bytes),
            millis(*held_ms)
        ),
        WalCaptureEvent::TimelineEnded { timeline, next, at } => {
            format!("timeline {timeline} ends at {at}; timeline {next} is followed from there")
        }
        WalCaptureEvent::Waiting { message, recovery_point_age_seconds, pause_ms, .. } => {
            waiting_text(message, *recovery_point_age_seconds, *pause_ms)
        }
        WalCaptureEvent::SlotRisk(risk) => risk_text(risk),
    }
}

fn risk_text(risk: &SlotRisk) -> String {
    let retained = ByteSize(risk.health.retained_bytes);
    let safe = ByteSize(risk.health.safe_bytes.unwrap_or_default());
    match risk.concern {
        SlotConcern::Disk => format!(
            "warning: the server keeps {retained} of WAL that is not stored yet, without a limit: see that its disk has room, or set \
             max_slot_wal_keep_size"
        ),
        SlotConcern::Limit => format!(
            "warning: the server keeps {retained} of WAL that is not stored yet, and {safe} more are left of what it may keep \
             (max_slot_wal_keep_size)"
        ),
        SlotConcern::Removal => format!(
            "warning: the server keeps {retained} of WAL that is not stored yet, which is more than it may (max_slot_wal_keep_size): it may \
             remove some of it now"
        ),
        SlotConcern::Lost => "warning: the server has removed WAL that is not stored yet".to_owned(),
    }
}

struct Captured(WalCaptureReport);

impl Report for Captured {
    fn json(&self) -> Map<String, Value> {
        let report = &self.0;
        Map::from_iter([
            ("event".to_owned(), json!("ended")),
            ("chain".to_owned(), json!(report.chain)),
            ("timeline".to_owned(), json!(report.timeline)),
            ("recovery_point".to_owned(), json!(report.recovery_point)),
            ("complete_at".to_owned(), json!(report.complete_at)),
            ("slices".to_owned(), json!(report.slices)),
            ("bytes".to_owned(), json!(report.bytes)),
            ("stored_bytes".to_owned(), json!(report.stored_bytes)),
            ("held_ms_max".to_owned(), json!(report.held_ms_max)),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let report = &self.0;
        let (Some(point), Some(timeline)) = (report.recovery_point, report.timeline) else {
            return "nothing was captured\n".to_owned();
        };
        let complete =
            report.complete_at.map_or_else(String::new, |at| format!(", complete as of {}", moment(at)));
        format!(
            "{} LSN {point} on timeline {timeline}{complete}\n{}",
            look.paint(Tone::Strong, "recovery point"),
            volume_text(report.bytes, report.slices, report.stored_bytes, report.held_ms_max)
        )
    }
}
