//! Capture of Redis: its replication stream followed byte by byte and kept in the repository, so that any moment can be restored.
//!
//! As with the other stores a capture lives in sessions that end with whatever breaks them and begin again from what is stored. What differs:
//! the server keeps what comes next in memory alone, a *backlog* of a fixed size. A capture that is away for longer loses the rest, and the
//! server says so; then it sends all its keys, which become a backup set, and a new chain begins behind it ([`begin`]). How long a capture
//! may be away is watched and told ([`risk`]). Continuity is proven by the server: it goes on from a position of a history, by name, only when
//! it is the same up to there. A server that has taken over goes on under a new name, and its log is a chain of its own.
//!
//! Relies on [`ReplicationSource`] for bytes without a gap. Refuses to bridge a gap, and acknowledges only what the store has made durable: so
//! a client that waits for one replica more than there are others (`WAIT 1 …` where there are none) waits for the repository.

mod begin;
mod pump;
mod risk;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::SignedDuration;
use mainstay_engine::ReplicationSource;
use mainstay_guard::Permit;
use mainstay_model::{
    BlastRadius, ChainId, Clock, Effect, Error, ErrorKind, PLAN_FORMAT, Plan, PlanStep, Result, SetId,
    Target, Timestamp,
};
use mainstay_repository::{ChainReason, Repository};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use risk::BacklogSlack;

use super::claim::Claiming;
use super::sessions::{Ended, Sessions, keep_on, under_claim};

/// The operation's registered name.
pub const OPERATION: &str = "capture.redis";

/// The longest that the server is left alone after it has sent its keys in vain.
const BASE_REST_MAX: Duration = Duration::from_secs(3_600);

/// How a capture is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicationCaptureOptions {
    /// How old the oldest byte of a slice may become before the slice is written, in milliseconds: what the loss of the server can cost.
    pub slice_age_ms: u64,
    /// End as soon as everything the server had at the beginning is stored.
    pub once: bool,
}

/// What a capture works with.
#[derive(Clone)]
pub struct ReplicationCaptureContext {
    /// The server whose stream is followed.
    pub source: Arc<dyn ReplicationSource>,
    /// Where slices go.
    pub repository: Repository,
    /// Who runs this, for the lease: `user@host`.
    pub holder: String,
    /// How long the lease of a killed capture keeps others away.
    pub lease_ttl: SignedDuration,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Told what happens.
    pub observer: Arc<dyn ReplicationCaptureObserver>,
    /// Stops: what has been read is stored, then the capture ends.
    pub cancel: CancellationToken,
}

impl ReplicationCaptureContext {
    fn now_ms(&self) -> i64 {
        self.clock.now().as_millisecond()
    }
}

/// Told what happens, in order. Must return at once.
pub trait ReplicationCaptureObserver: Send + Sync {
    /// Something happened.
    fn event(&self, event: &ReplicationCaptureEvent);
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ReplicationCaptureEvent {
    /// The server sends all its keys, because its stream cannot be gone on with.
    BaseBegun {
        /// The stream that goes on behind them.
        id: String,
        /// The position that they show.
        at: u64,
        /// Whether the process that writes them sends them itself; else they pass through the server's one thread.
        direct: bool,
    },
    /// So much of the keys has come; told now and then.
    BaseProgress {
        /// Bytes.
        bytes: u64,
        /// How many there will be, as far as the server tells.
        expected_bytes: u64,
    },
    /// All keys are a backup set.
    BaseStored {
        /// The set.
        set: SetId,
        /// Keys in it.
        keys: u64,
        /// Its bytes.
        bytes: u64,
    },
    /// A backup set that was there is gone on from.
    BaseJoined {
        /// The set.
        set: SetId,
        /// The position that it shows.
        at: u64,
    },
    /// A new chain was begun.
    ChainBegun {
        /// The chain.
        chain: ChainId,
        /// Its stream.
        id: String,
        /// The position it begins after.
        after: u64,
        /// Why.
        why: ChainReason,
        /// Where the chain before it ends, when what lies between is lost.
        gap_after: Option<u64>,
    },
    /// An existing chain is gone on with.
    ChainResumed {
        /// The chain.
        chain: ChainId,
        /// Its stream.
        id: String,
        /// Its end.
        at: u64,
    },
    /// Another server has taken over and goes on from what the one before had.
    TimelineEnded {
        /// The stream that ends.
        id: String,
        /// The stream that goes on.
        next: String,
        /// Where.
        at: u64,
    },
    /// A slice is durable: its end is the recovery point now.
    SliceStored {
        /// The chain.
        chain: ChainId,
        /// The position it begins after.
        after: u64,
        /// The position of its last byte.
        through: u64,
        /// Its bytes.
        bytes: u64,
        /// Bytes in the store.
        stored_bytes: u64,
        /// How long its oldest byte waited here until it was durable, in milliseconds: how old the recovery point became.
        held_ms: u64,
        /// When it became durable.
        at: Timestamp,
    },
    /// Something failed and is tried again.
    Waiting {
        /// What failed, in one line.
        message: String,
        /// What may be done about it.
        hint: Option<String>,
        /// Up to where the stream is stored; `None` before anything is known.
        recovery_point: Option<u64>,
        /// Seconds since everything the server had was stored.
        recovery_point_age_seconds: Option<i64>,
        /// Until the next try, in milliseconds.
        pause_ms: u64,
    },
    /// A capture that is away for longer than this loses something.
    BacklogShort(BacklogSlack),
}

/// What a capture did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ReplicationCaptureReport {
    /// The chain written last.
    pub chain: Option<ChainId>,
    /// Its stream.
    pub id: Option<String>,
    /// The set made of the keys that the server had to send, the last one.
    pub base: Option<SetId>,
    /// Up to where the stream is stored.
    pub recovery_point: Option<u64>,
    /// When everything that the server had was stored, for the last time.
    pub complete_at: Option<Timestamp>,
    /// Slices stored.
    pub slices: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes in the store.
    pub stored_bytes: u64,
    /// The longest that a byte waited here until it was durable, in milliseconds.
    pub held_ms_max: u64,
    /// How long a capture may be away; `None` when it did not run long enough to tell.
    pub slack: Option<BacklogSlack>,
}

/// Says what a capture will do.
pub fn plan(target: Target, options: ReplicationCaptureOptions, clock: &dyn Clock) -> Plan {
    let created_at = clock.now();
    let age = Duration::from_millis(options.slice_age_ms);
    let until = if options.once { "until everything it has now is stored" } else { "until asked to stop" };
    let step = |name: &str, summary: String| PlanStep { name: name.to_owned(), mark: ' ', summary };
    Plan {
        format: PLAN_FORMAT,
        operation: OPERATION.to_owned(),
        effect: Effect::Additive,
        blast_radius: BlastRadius { phrase: format!("capture {}", target.environment), items: 0, bytes: 0 },
        target,
        assumptions: Vec::new(),
        steps: vec![
            step(
                "read all keys",
                "where the stream cannot be gone on with: the server forks once".to_owned(),
            ),
            step("follow the replication stream", format!("{until}, in slices at most {age:?} old")),
        ],
        parameters: serde_json::to_value(options).expect("options have a JSON form"),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Follows the stream as `plan` says.
///
/// # Errors
/// `Locked` when another capture follows the same server; `StalePlan` when another server answers; with `once` whatever failed, and `Interrupted`
/// when it was stopped before it had caught up; otherwise only what trying again cannot mend. Whatever was told as stored is.
pub async fn capture(
    context: &ReplicationCaptureContext,
    plan: &Plan,
    permit: &Permit,
) -> Result<ReplicationCaptureReport> {
    let options: ReplicationCaptureOptions =
        serde_json::from_value(plan.parameters.clone()).map_err(|source| {
            Error::new(ErrorKind::Usage, "the plan's parameters are not those of a capture")
                .with_source(source)
        })?;
    permit.covers(plan)?;
    let report = ReplicationCaptureReport::default();
    let mut running = Running { context, target: &plan.target, options, report, in_vain: Duration::ZERO };
    keep_on(&mut running, options.once, &context.cancel).await?;
    Ok(running.report)
}

/// A capture that is under way.
struct Running<'a> {
    context: &'a ReplicationCaptureContext,
    target: &'a Target,
    options: ReplicationCaptureOptions,
    report: ReplicationCaptureReport,
    /// How long the server sent keys that came to nothing, since the last that became a set.
    in_vain: Duration,
}

impl Sessions for Running<'_> {
    async fn session(&mut self) -> Result<Ended> {
        let Self { context, target, options, report, in_vain } = self;
        let server = begin::server(context, target).await?;
        let target = Target { fingerprint: server, ..target.clone() };
        let claiming = Claiming {
            repository: &context.repository,
            holder: &context.holder,
            lease_ttl: context.lease_ttl,
            cancel: &context.cancel,
        };
        under_claim(claiming, &target, async |claim| {
            let base_begun = OnceLock::new();
            let beginning = begin::Beginning { context, target: &target, claim, base_begun: &base_begun };
            let begun = match beginning.begin().await {
                Ok(begun) => begun,
                // Who was to go on until asked to stop has not failed.
                Err(error) if error.kind() == ErrorKind::Interrupted && !options.once => {
                    return Ok(Ended::Complete);
                }
                Err(error) => {
                    *in_vain += base_begun.get().map_or(Duration::ZERO, Instant::elapsed);
                    return Err(error);
                }
            };
            *in_vain = Duration::ZERO;
            report.chain = Some(begun.writer.id().clone());
            report.id = Some(begun.id.clone());
            report.base = begun.base.clone().or(report.base.take());
            report.recovery_point = Some(begun.writer.end().0);
            pump::pump(context, *options, begun, report).await
        })
        .await
    }

    fn slices(&self) -> u64 {
        self.report.slices
    }

    fn has_begun(&self) -> bool {
        self.report.chain.is_some()
    }

    /// Sending keys in vain may not take the server more than half its time, and less the longer it goes on.
    fn rest(&self) -> Duration {
        self.in_vain.min(BASE_REST_MAX)
    }

    fn tell_waiting(&self, error: &Error, pause: Duration) {
        tell_waiting(self.context, error, self.report.recovery_point, self.report.complete_at, pause);
    }

    fn explain(&self, error: Error) -> Error {
        with_recovery_point(error, &self.report)
    }
}

fn tell_waiting(
    context: &ReplicationCaptureContext,
    error: &Error,
    recovery_point: Option<u64>,
    complete_at: Option<Timestamp>,
    pause: Duration,
) {
    let now = context.clock.now();
    context.observer.event(&ReplicationCaptureEvent::Waiting {
        message: error.to_string(),
        hint: error.hint().map(str::to_owned),
        recovery_point,
        recovery_point_age_seconds: complete_at.map(|at| now.duration_since(at).as_secs()),
        pause_ms: super::milliseconds(pause),
    });
}

/// A capture was asked to stop before it had done what it was to do.
fn stopped() -> Error {
    Error::new(ErrorKind::Interrupted, "the capture was stopped on request")
        .with_hint("run the same command again: it goes on from what is stored")
}

fn with_recovery_point(error: Error, report: &ReplicationCaptureReport) -> Error {
    let state = match report.recovery_point {
        Some(point) => {
            format!("the stream is stored up to offset {point}; the next capture goes on from there")
        }
        None => "nothing was stored".to_owned(),
    };
    if error.state().is_some() { error } else { error.with_state(state) }
}
