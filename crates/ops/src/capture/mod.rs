//! Capture: a server's change log followed and kept in the repository, slice by slice, so that any moment can be restored.
//!
//! [`capture`] runs until it is asked to stop, or with [`CaptureOptions::once`] until it has caught up. It lives in *sessions*. Each claims
//! the server's log (a fenced lease), finds the newest chain of this server, proves with the chain's last entry that the server's log
//! continues it ([`begin`]), and then moves entries from the server to the repository ([`pump`]). Whatever breaks a session (the server,
//! the store, a lost lease, a log overwritten under it) ends it, and the next begins from what is stored: what was not stored was never
//! told as a recovery point, and nothing is kept in memory across sessions. A kill is no different.
//!
//! Relies on [`ChangeSource`] for entries that the server never takes back, and on the repository for slices without holes. Refuses to
//! bridge a gap: when continuity cannot be proven it begins a new chain and says why. [`wal`] does the same for the log of PostgreSQL, which
//! is bytes, has timelines, and is kept by the server until it is acknowledged; [`replication`] for the stream of Redis, which is kept by nobody for long.

mod begin;
mod claim;
mod pump;
pub mod replication;
mod risk;
mod sessions;
pub mod wal;
mod writing;

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use mainstay_engine::ChangeSource;
use mainstay_guard::Permit;
use mainstay_model::{
    BlastRadius, ChainId, Clock, Effect, Error, ErrorKind, OpTime, PLAN_FORMAT, Plan, PlanStep, Result,
    Target, Timestamp,
};
use mainstay_repository::{ChainReason, Repository};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use claim::Claiming;
pub use risk::OverrunRisk;
use sessions::{Ended, Sessions, keep_on, under_claim};

/// The operation's registered name.
pub const OPERATION: &str = "capture.mongo";

/// The youngest age at which a slice may be cut: a slice is an object, and objects cost.
pub const SLICE_AGE_MIN: Duration = Duration::from_millis(100);

/// The pause after the first failure; it doubles up to [`PAUSE_MAX`].
pub const PAUSE_FIRST: Duration = Duration::from_millis(200);
/// The longest pause.
pub const PAUSE_MAX: Duration = Duration::from_secs(10);

/// How a capture is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureOptions {
    /// How old the oldest entry of a slice may become before the slice is written, in milliseconds: what the loss of the server can cost.
    pub slice_age_ms: u64,
    /// End as soon as everything the server had at the beginning is stored.
    pub once: bool,
}

/// What a capture works with.
#[derive(Clone)]
pub struct CaptureContext {
    /// The server whose log is followed.
    pub source: Arc<dyn ChangeSource>,
    /// Where slices go.
    pub repository: Repository,
    /// Who runs this, for the lease: `user@host`.
    pub holder: String,
    /// How long the lease of a killed capture keeps others away.
    pub lease_ttl: SignedDuration,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Told what happens.
    pub observer: Arc<dyn CaptureObserver>,
    /// Stops: what has been read is stored, then the capture ends.
    pub cancel: CancellationToken,
}

/// Told what happens, in order. Must return at once.
pub trait CaptureObserver: Send + Sync {
    /// Something happened.
    fn event(&self, event: &CaptureEvent);
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum CaptureEvent {
    /// A new chain was begun.
    ChainBegun {
        /// The chain.
        chain: ChainId,
        /// The position it begins after.
        after: OpTime,
        /// Why.
        why: ChainReason,
        /// The chain before it, and where that ends: what lies between is a gap.
        gap_after: Option<OpTime>,
    },
    /// An existing chain is gone on with.
    ChainResumed {
        /// The chain.
        chain: ChainId,
        /// Its end.
        at: OpTime,
    },
    /// A slice is durable: its end is the recovery point now.
    SliceStored {
        /// The chain.
        chain: ChainId,
        /// The position it begins after.
        after: OpTime,
        /// The position of its last entry.
        through: OpTime,
        /// How many entries it has.
        entries: u64,
        /// Their bytes.
        bytes: u64,
        /// Bytes in the store.
        stored_bytes: u64,
        /// How long its oldest entry waited here until it was durable, in milliseconds.
        held_ms: u64,
        /// When it became durable.
        at: Timestamp,
    },
    /// Something failed and is tried again.
    Waiting {
        /// What failed, in one line.
        message: String,
        /// Up to where the log is stored; `None` before anything is known.
        recovery_point: Option<OpTime>,
        /// Seconds from that position to now.
        recovery_point_age_seconds: Option<i64>,
        /// Until the next try, in milliseconds.
        pause_ms: u64,
    },
    /// A server that did not answer does so again, and its log goes on where it was left.
    ServerBack {
        /// Up to where the log is stored.
        recovery_point: OpTime,
        /// How long it was away, in milliseconds.
        away_ms: u64,
    },
    /// The server may overwrite its log before it is stored.
    OverrunRisk(OverrunRisk),
}

/// What a capture did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CaptureReport {
    /// The chain written last.
    pub chain: Option<ChainId>,
    /// Up to where the log is stored.
    pub recovery_point: Option<OpTime>,
    /// Slices stored.
    pub slices: u64,
    /// Entries in them.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes in the store.
    pub stored_bytes: u64,
}

/// Says what a capture will do.
pub fn plan(target: Target, options: CaptureOptions, clock: &dyn Clock) -> Plan {
    let created_at = clock.now();
    let age = Duration::from_millis(options.slice_age_ms);
    let until = if options.once { "until everything it has now is stored" } else { "until asked to stop" };
    Plan {
        format: PLAN_FORMAT,
        operation: OPERATION.to_owned(),
        effect: Effect::Additive,
        blast_radius: BlastRadius { phrase: format!("capture {}", target.environment), items: 0, bytes: 0 },
        target,
        assumptions: Vec::new(),
        steps: vec![PlanStep {
            name: "follow the change log".to_owned(),
            mark: ' ',
            summary: format!("{until}, in slices at most {age:?} old"),
        }],
        parameters: serde_json::to_value(options).expect("options have a JSON form"),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Follows the log as `plan` says.
///
/// # Errors
/// `Locked` when another capture follows the same server; `Precondition` when the server keeps no log; with `once` whatever failed,
/// otherwise only what trying again cannot mend. Whatever was told as stored is.
pub async fn capture(context: &CaptureContext, plan: &Plan, permit: &Permit) -> Result<CaptureReport> {
    let options: CaptureOptions = serde_json::from_value(plan.parameters.clone()).map_err(|source| {
        Error::new(ErrorKind::Usage, "the plan's parameters are not those of a capture").with_source(source)
    })?;
    permit.covers(plan)?;
    let goal = if options.once { Some(context.source.change_log_facts().await?.newest) } else { None };
    let mut running =
        Running { context, target: &plan.target, options, goal, report: CaptureReport::default() };
    keep_on(&mut running, options.once, &context.cancel).await?;
    Ok(running.report)
}

/// A capture that is under way.
struct Running<'a> {
    context: &'a CaptureContext,
    target: &'a Target,
    options: CaptureOptions,
    goal: Option<OpTime>,
    report: CaptureReport,
}

impl Sessions for Running<'_> {
    async fn session(&mut self) -> Result<Ended> {
        let Self { context, target, options, goal, report } = self;
        let claiming = Claiming {
            repository: &context.repository,
            holder: &context.holder,
            lease_ttl: context.lease_ttl,
            cancel: &context.cancel,
        };
        under_claim(claiming, target, async |claim| {
            let begun = begin::begin(context, target, claim).await?;
            report.chain = Some(begun.writer.id().clone());
            report.recovery_point = Some(begun.writer.end().optime());
            pump::pump(context, *options, *goal, begun, report).await
        })
        .await
    }

    fn slices(&self) -> u64 {
        self.report.slices
    }

    fn has_begun(&self) -> bool {
        self.report.chain.is_some()
    }

    fn tell_waiting(&self, error: &Error, pause: Duration) {
        tell_waiting(self.context, error, self.report.recovery_point, pause);
    }

    fn explain(&self, error: Error) -> Error {
        with_recovery_point(error, &self.report)
    }
}

/// Whether trying again may help a service that runs for months: servers and stores come back, disks are emptied, keys are renewed.
fn may_pass(error: &Error) -> bool {
    error.is_temporary()
        || matches!(
            error.kind(),
            ErrorKind::Unreachable | ErrorKind::Storage | ErrorKind::Auth | ErrorKind::Server
        )
}

fn tell_waiting(context: &CaptureContext, error: &Error, recovery_point: Option<OpTime>, pause: Duration) {
    let now = context.clock.now();
    context.observer.event(&CaptureEvent::Waiting {
        message: error.to_string(),
        recovery_point,
        recovery_point_age_seconds: recovery_point.map(|point| point.age_seconds(now)),
        pause_ms: milliseconds(pause),
    });
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn with_recovery_point(error: Error, report: &CaptureReport) -> Error {
    let state = match report.recovery_point {
        Some(point) => format!(
            "the log is stored up to {point} ({}); the next capture goes on from there",
            point.timestamp()
        ),
        None => "nothing was stored".to_owned(),
    };
    if error.state().is_some() { error } else { error.with_state(state) }
}
