//! `capture redis`: follows the replication stream until asked to stop.

use std::sync::Arc;

use mainstay_engine::{Probe, ReplicationSource};
use mainstay_guard::{BackupEvidence, Outcome};
use mainstay_model::{ByteSize, Count, Error, ErrorKind, ExitStatus, Result, ResultExt, StoreKind, Target};
use mainstay_ops::capture::replication::{
    self, BacklogSlack, ReplicationCaptureContext, ReplicationCaptureEvent, ReplicationCaptureObserver,
    ReplicationCaptureOptions, ReplicationCaptureReport,
};
use mainstay_ops::capture::{PAUSE_FIRST, PAUSE_MAX};
use serde_json::{Map, Value, json};

use super::capture::{CaptureArgs, fields_of, volume_text, waiting_text};
use super::close;
use crate::printer::shown::{duration, millis, moment};
use crate::printer::{Look, Printer, Report, Tone};
use crate::wiring::Session;

/// Captures.
///
/// # Errors
/// The operation's. A server that is not there yet is waited for, but with `--once`.
pub(crate) async fn run(args: &CaptureArgs, session: &Session) -> Result<ExitStatus> {
    let source = session.replication()?;
    let probe = session.probe(StoreKind::Redis).await?;
    let target = match args.once {
        true => look(probe.as_ref(), source.as_ref(), session).await?,
        false => await_server(probe.as_ref(), source.as_ref(), session).await?,
    };
    let options = ReplicationCaptureOptions { slice_age_ms: args.slice_age_ms(session), once: args.once };
    let plan = replication::plan(target, options, session.clock.as_ref());
    let repository = session.repository_or_create().await?;
    let guard = session.guard(&repository);
    let permit = guard.permit(&plan, &BackupEvidence::default(), &session.consent(None)?).await?;
    let context = ReplicationCaptureContext {
        source,
        repository,
        holder: session.holder(),
        lease_ttl: session.lease_ttl(),
        clock: session.clock.clone(),
        observer: Arc::new(Teller(session.printer.clone())),
        cancel: session.cancel.clone(),
    };
    let captured = replication::capture(&context, &plan, &permit).await;
    let outcome = match &captured {
        Ok(report) => Outcome::Done {
            summary: format!("captured {} of the stream", ByteSize(report.bytes)),
            facts: json!({
                "chain": report.chain,
                "base": report.base,
                "recovery_point": report.recovery_point,
                "slices": report.slices,
            }),
        },
        Err(error) => Outcome::of_error(error),
    };
    let report = close(&guard, permit, captured, outcome).await?;
    Ok(session.printer.report(&Captured(report)))
}

/// Which server it is, and that it has a stream: one without is told before a repository is made for it.
async fn look(probe: &dyn Probe, source: &dyn ReplicationSource, session: &Session) -> Result<Target> {
    let target = session.target(probe).await?;
    source.replication_facts().await.context("look at the server's stream")?;
    Ok(target)
}

/// The same of a server that may begin later than the capture does, or is reading its data still: both are started together after a machine
/// was, and the one that waits for nobody would have to be started again by somebody.
async fn await_server(
    probe: &dyn Probe,
    source: &dyn ReplicationSource,
    session: &Session,
) -> Result<Target> {
    let mut pause = PAUSE_FIRST;
    loop {
        let error = match look(probe, source, session).await {
            Err(error) if error.kind() == ErrorKind::Unreachable && error.is_temporary() => error,
            looked => return looked,
        };
        Teller(session.printer.clone()).event(&ReplicationCaptureEvent::Waiting {
            message: error.to_string(),
            hint: error.hint().map(str::to_owned),
            recovery_point: None,
            recovery_point_age_seconds: None,
            pause_ms: u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
        });
        tokio::select! {
            () = session.cancel.cancelled() => return Err(
                Error::new(ErrorKind::Interrupted, "the capture was stopped on request before the server answered")
                    .with_state("nothing was changed")
            ),
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Tells events as they happen.
struct Teller(Arc<Printer>);

impl ReplicationCaptureObserver for Teller {
    fn event(&self, event: &ReplicationCaptureEvent) {
        let is_detail = matches!(event, ReplicationCaptureEvent::SliceStored { .. });
        self.0.event(fields_of(event), &text_of(event), is_detail);
    }
}

fn text_of(event: &ReplicationCaptureEvent) -> String {
    match event {
        ReplicationCaptureEvent::BaseBegun { id, at, direct } => {
            let way = if *direct { "" } else { "; every byte passes through its one thread" };
            format!("the server sends all its keys, as they are at offset {at} of stream {id}{way}")
        }
        ReplicationCaptureEvent::BaseProgress { bytes, expected_bytes } => {
            format!("{} of about {} of the keys have come", ByteSize(*bytes), ByteSize(*expected_bytes))
        }
        ReplicationCaptureEvent::BaseStored { set, keys, bytes } => {
            format!("backup set {set} holds them: {} keys, {}", Count(*keys), ByteSize(*bytes))
        }
        ReplicationCaptureEvent::BaseJoined { set, at } => {
            format!("backup set {set} is gone on from, after offset {at}")
        }
        ReplicationCaptureEvent::ChainBegun { chain, id, after, why, gap_after } => {
            let gap = gap_after.map_or_else(String::new, |gap| {
                format!("; what followed offset {gap} of the chain before cannot be restored")
            });
            format!("chain {chain} of stream {id} begins after offset {after}: {}{gap}", why.explanation())
        }
        ReplicationCaptureEvent::ChainResumed { chain, id, at } => {
            format!("chain {chain} of stream {id} goes on after offset {at}")
        }
        ReplicationCaptureEvent::TimelineEnded { id, next, at } => {
            format!(
                "another server has taken over: stream {id} ends at offset {at} and goes on as {next}, without a gap"
            )
        }
        ReplicationCaptureEvent::SliceStored { through, bytes, stored_bytes, held_ms, .. } => format!(
            "stored up to offset {through}: {} in {}, {} old",
            ByteSize(*bytes),
            ByteSize(*stored_bytes),
            millis(*held_ms)
        ),
        ReplicationCaptureEvent::Waiting { message, hint, recovery_point_age_seconds, pause_ms, .. } => {
            let hint = hint.as_ref().map_or_else(String::new, |hint| format!("; {hint}"));
            waiting_text(message, *recovery_point_age_seconds, *pause_ms) + &hint
        }
        ReplicationCaptureEvent::BacklogShort(slack) => {
            format!("warning: {}: {}", slack_text(slack), advice(slack))
        }
    }
}

fn advice(slack: &BacklogSlack) -> String {
    match slack.advised_bytes > slack.backlog_bytes {
        true => format!("type `CONFIG SET repl-backlog-size {}`, then `CONFIG REWRITE`", slack.advised_bytes),
        false => {
            "it is as large as the server's memory allows: write less at once, or give the server more memory"
                .to_owned()
        }
    }
}

/// How long a capture may be away, for people.
fn slack_text(slack: &BacklogSlack) -> String {
    let backlog = ByteSize(slack.backlog_bytes);
    match slack.seconds {
        None => format!("the server keeps {backlog} of its stream, and nothing is written now"),
        Some(seconds) => format!(
            "the server keeps {backlog} of its stream, {} at the present rate: a capture that is away for longer must begin anew",
            duration(seconds)
        ),
    }
}

struct Captured(ReplicationCaptureReport);

impl Report for Captured {
    fn json(&self) -> Map<String, Value> {
        let report = &self.0;
        Map::from_iter([
            ("event".to_owned(), json!("ended")),
            ("chain".to_owned(), json!(report.chain)),
            ("id".to_owned(), json!(report.id)),
            ("base".to_owned(), json!(report.base)),
            ("recovery_point".to_owned(), json!(report.recovery_point)),
            ("complete_at".to_owned(), json!(report.complete_at)),
            ("slices".to_owned(), json!(report.slices)),
            ("bytes".to_owned(), json!(report.bytes)),
            ("stored_bytes".to_owned(), json!(report.stored_bytes)),
            ("held_ms_max".to_owned(), json!(report.held_ms_max)),
            ("slack".to_owned(), json!(report.slack)),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let report = &self.0;
        let (Some(point), Some(id)) = (report.recovery_point, &report.id) else {
            return "nothing was captured\n".to_owned();
        };
        let complete =
            report.complete_at.map_or_else(String::new, |at| format!(", complete as of {}", moment(at)));
        let slack =
            report.slack.as_ref().map_or_else(String::new, |slack| format!("  {}\n", slack_text(slack)));
        format!(
            "{} offset {point} of stream {id}{complete}\n{}{slack}",
            look.paint(Tone::Strong, "recovery point"),
            volume_text(report.bytes, report.slices, report.stored_bytes, report.held_ms_max)
        )
    }
}
