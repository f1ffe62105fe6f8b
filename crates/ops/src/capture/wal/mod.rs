//! Capture of PostgreSQL: its WAL followed byte by byte and kept in the repository, so that any moment can be restored.
//!
//! As with MongoDB a capture lives in sessions that end with whatever breaks them and begin again from what is stored. What differs: the
//! server keeps its log for a *slot* until it is told that it is durable elsewhere, so a capture that is away loses nothing, and a full
//! disk is what it may cost; that is watched ([`risk`]). Continuity is proven by the server's identity, its timeline, the position, and the
//! bytes before that position, which must be those that are stored ([`proof`]). The log of each timeline is a chain of its own, which
//! begins with the whole segment in which the timeline branches off, and whose description holds the timeline's history.
//!
//! Relies on [`WalSource`] for bytes without a gap. Refuses to bridge a gap, to go on with the log of another branch that has the same
//! number, and to acknowledge what the store has not made durable.

mod begin;
mod proof;
mod pump;
mod risk;

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use mainstay_engine::WalSource;
use mainstay_guard::Permit;
use mainstay_model::{
    BlastRadius, ChainId, Clock, Effect, Error, ErrorKind, Lsn, PLAN_FORMAT, Plan, PlanStep, Result, Target,
    Timestamp,
};
use mainstay_repository::{ChainReason, Repository};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

pub use risk::{SlotConcern, SlotRisk};

use super::claim::Claiming;
use super::milliseconds;
use super::sessions::{Ended, Sessions, keep_on, under_claim};

/// The operation's registered name.
pub const OPERATION: &str = "capture.postgres";

/// How long a slot's name may be.
const SLOT_NAME_BYTES_MAX: usize = 63;

/// How a capture is to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalCaptureOptions {
    /// The slot that keeps the log meanwhile; made when it is not there.
    pub slot: String,
    /// How old the oldest byte of a slice may become before the slice is written, in milliseconds: what the loss of the server can cost.
    pub slice_age_ms: u64,
    /// End as soon as everything the server had at the beginning is stored.
    pub once: bool,
}

/// What a capture works with.
#[derive(Clone)]
pub struct WalCaptureContext {
    /// The server whose log is followed.
    pub source: Arc<dyn WalSource>,
    /// Where slices go.
    pub repository: Repository,
    /// Who runs this, for the lease: `user@host`.
    pub holder: String,
    /// How long the lease of a killed capture keeps others away.
    pub lease_ttl: SignedDuration,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Told what happens.
    pub observer: Arc<dyn WalCaptureObserver>,
    /// Stops: what has been read is stored, then the capture ends.
    pub cancel: CancellationToken,
}

/// Told what happens, in order. Must return at once.
pub trait WalCaptureObserver: Send + Sync {
    /// Something happened.
    fn event(&self, event: &WalCaptureEvent);
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum WalCaptureEvent {
    /// The server keeps its log for us from now on.
    SlotCreated {
        /// The slot.
        slot: String,
    },
    /// The server has given up the slot, because too much would have had to be kept; it is made anew.
    SlotLost {
        /// The slot.
        slot: String,
    },
    /// A new chain was begun.
    ChainBegun {
        /// The chain.
        chain: ChainId,
        /// Its timeline.
        timeline: u32,
        /// The position it begins after.
        after: Lsn,
        /// Why.
        why: ChainReason,
        /// Where the chain before it ends, when what lies between is a gap.
        gap_after: Option<Lsn>,
    },
    /// An existing chain is gone on with.
    ChainResumed {
        /// The chain.
        chain: ChainId,
        /// Its timeline.
        timeline: u32,
        /// Its end.
        at: Lsn,
    },
    /// A slice is durable: its end is the recovery point now.
    SliceStored {
        /// The chain.
        chain: ChainId,
        /// Its timeline.
        timeline: u32,
        /// The position it begins after.
        after: Lsn,
        /// The position after its last byte.
        through: Lsn,
        /// Its bytes.
        bytes: u64,
        /// Bytes in the store.
        stored_bytes: u64,
        /// How long its oldest byte waited here until it was durable, in milliseconds: how old the recovery point became.
        held_ms: u64,
        /// When it became durable.
        at: Timestamp,
    },
    /// A timeline has ended; the next is followed from there.
    TimelineEnded {
        /// The timeline.
        timeline: u32,
        /// The next.
        next: u32,
        /// Where.
        at: Lsn,
    },
    /// Something failed and is tried again.
    Waiting {
        /// What failed, in one line.
        message: String,
        /// Up to where the log is stored; `None` before anything is known.
        recovery_point: Option<Lsn>,
        /// Seconds since everything the server had was stored.
        recovery_point_age_seconds: Option<i64>,
        /// Until the next try, in milliseconds.
        pause_ms: u64,
    },
    /// What the server keeps for the slot may be removed, or fill its disk.
    SlotRisk(SlotRisk),
}

/// What a capture did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct WalCaptureReport {
    /// The chain written last.
    pub chain: Option<ChainId>,
    /// Its timeline.
    pub timeline: Option<u32>,
    /// Up to where the log is stored.
    pub recovery_point: Option<Lsn>,
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
}

/// The name of the slot of an environment. Slots have lower-case letters, digits and underscores only.
pub fn slot_name(environment: &str) -> String {
    let part = environment.to_lowercase();
    let plain = part.chars().map(|one| if one.is_ascii_alphanumeric() { one } else { '_' });
    format!("mainstay_{}", plain.collect::<String>()).chars().take(SLOT_NAME_BYTES_MAX).collect()
}

/// Refuses a name that no slot can have.
///
/// # Errors
/// `Usage`.
pub fn check_slot_name(name: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if (1..=SLOT_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Usage, format!("`{name}` is no name of a replication slot"))
        .with_state("nothing was changed")
        .with_hint("a slot's name has up to 63 lower-case letters, digits and underscores"))
}

/// Says what a capture will do.
pub fn plan(target: Target, options: WalCaptureOptions, clock: &dyn Clock) -> Plan {
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
            step("keep WAL", format!("for replication slot {}, made when it is not there", options.slot)),
            step("follow WAL", format!("{until}, in slices at most {age:?} old")),
        ],
        parameters: serde_json::to_value(options).expect("options have a JSON form"),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Follows the log as `plan` says.
///
/// # Errors
/// `Locked` when another capture follows the same server; `StalePlan` when another server answers; `Precondition` when what is stored is of
/// another branch; with `once` whatever failed, otherwise only what trying again cannot mend. Whatever was told as stored is.
pub async fn capture(context: &WalCaptureContext, plan: &Plan, permit: &Permit) -> Result<WalCaptureReport> {
    let options: WalCaptureOptions = serde_json::from_value(plan.parameters.clone()).map_err(|source| {
        Error::new(ErrorKind::Usage, "the plan's parameters are not those of a capture").with_source(source)
    })?;
    permit.covers(plan)?;
    let goal = match options.once {
        true => {
            context.source.wal_position().await.map(|position| Some((position.timeline, position.flushed)))?
        }
        false => None,
    };
    let report = WalCaptureReport::default();
    let mut running = Running { context, target: &plan.target, options: &options, permit, goal, report };
    keep_on(&mut running, options.once, &context.cancel).await?;
    Ok(running.report)
}

/// A capture that is under way.
struct Running<'a> {
    context: &'a WalCaptureContext,
    target: &'a Target,
    options: &'a WalCaptureOptions,
    permit: &'a Permit,
    goal: Option<(u32, Lsn)>,
    report: WalCaptureReport,
}

impl Sessions for Running<'_> {
    async fn session(&mut self) -> Result<Ended> {
        let Self { context, target, options, permit, goal, report } = self;
        let claiming = Claiming {
            repository: &context.repository,
            holder: &context.holder,
            lease_ttl: context.lease_ttl,
            cancel: &context.cancel,
        };
        under_claim(claiming, target, async |claim| {
            let beginning = begin::Beginning { context, target, slot: &options.slot, permit, claim };
            let begun = beginning.begin().await?;
            report.chain = Some(begun.writer.id().clone());
            report.timeline = Some(begun.timeline);
            report.recovery_point = Some(Lsn(begun.writer.end().0));
            pump::pump(context, options, *goal, begun, report).await
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
        tell_waiting(self.context, error, self.report.recovery_point, self.report.complete_at, pause);
    }

    fn explain(&self, error: Error) -> Error {
        with_recovery_point(error, &self.report)
    }
}

fn tell_waiting(
    context: &WalCaptureContext,
    error: &Error,
    recovery_point: Option<Lsn>,
    complete_at: Option<Timestamp>,
    pause: Duration,
) {
    let now = context.clock.now();
    context.observer.event(&WalCaptureEvent::Waiting {
        message: error.to_string(),
        recovery_point,
        recovery_point_age_seconds: complete_at.map(|at| now.duration_since(at).as_secs()),
        pause_ms: milliseconds(pause),
    });
}

fn with_recovery_point(error: Error, report: &WalCaptureReport) -> Error {
    let state = match report.recovery_point {
        Some(point) => format!("WAL is stored up to {point}; the next capture goes on from there"),
        None => "nothing was stored".to_owned(),
    };
    if error.state().is_some() { error } else { error.with_state(state) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_named_after_its_environment() {
        let long = "x".repeat(80);
        for (environment, name) in
            [("shop", "mainstay_shop"), ("Shop-EU.1", "mainstay_shop_eu_1"), ("é", "mainstay__")]
        {
            assert_eq!(slot_name(environment), name);
            assert!(check_slot_name(name).is_ok());
        }
        assert_eq!(slot_name(&long).len(), SLOT_NAME_BYTES_MAX);
        for bad in ["", "Upper", "a-b", "a b", "é", long.as_str()] {
            assert!(check_slot_name(bad).is_err(), "{bad}");
        }
    }
}
