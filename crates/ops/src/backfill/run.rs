//! Running: segments walked two at a time, batch by batch, with somebody beside who says that we live and looks whether we should wait or stop.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::{join, join_all};
use mainstay_engine::{BackfillClaim, BackfillHold, BackfillRemains, BackfillStore, ClaimFor};
use mainstay_guard::Permit;
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{Count, Error, ErrorKind, Plan, Result};
use serde::Serialize;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::pace::Pace;
use super::plan::BackfillParameters;
use crate::lease::Holder;

/// How many segments a walk is cut into at most: more than workers, so that none waits long for the last.
const SEGMENTS_MAX: u32 = 16;
/// How often it is said that we live, at least.
const BEAT_EVERY_MAX: Duration = Duration::from_secs(1);
/// How often a worker that waits looks again.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What running works with.
pub struct BackfillContext<'a> {
    /// The store.
    pub store: &'a dyn BackfillStore,
    /// Who runs, and for how long a run that was killed is held.
    pub holder: &'a Holder<'a>,
    /// Told how far it is.
    pub observer: &'a dyn Observer,
    /// Stops after the batch.
    pub cancel: &'a CancellationToken,
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackfillReport {
    /// The backfill.
    pub id: String,
    /// The collection or table.
    pub place: String,
    /// Documents or rows changed by this walk, by all who were at it.
    pub changed: u64,
    /// Of those, by this run.
    pub changed_now: u64,
    /// Batches of this run.
    pub batches: u64,
    /// Whether it went on where another was.
    pub resumed: bool,
    /// How long it took.
    pub millis: u64,
    /// What is left: written meanwhile behind the walk, or wrong by the declared verification.
    pub remains: BackfillRemains,
}

/// Runs what `plan` says.
///
/// # Errors
/// `Locked` when somebody is at it; `Interrupted` when it was asked to stop, with what is changed by then; the store's. The same command goes on.
pub async fn run(context: &BackfillContext<'_>, plan: &Plan, permit: &Permit) -> Result<BackfillReport> {
    permit.covers(plan)?;
    let parameters = BackfillParameters::of(plan)?;
    let purpose = ClaimFor::Run { resumes: parameters.resumes };
    let backfill = &parameters.declared.backfill;
    let hold = context.store.claim(backfill, &claim(context, plan, purpose), permit).await?;
    let begun = Instant::now();
    context.observer.phase("change");
    context.observer.expect(Work { items: plan.blast_radius.items.max(hold.changed), bytes: 0 });
    context.observer.advance(Work { items: hold.changed, bytes: 0 });
    let watch = Watch::new(context, &hold, &parameters);
    let walk = Walk {
        context,
        parameters: &parameters,
        permit,
        watch: &watch,
        segments: Mutex::new(hold.open_segments.iter().copied().collect()),
        changed: AtomicU64::new(0),
        batches: AtomicU64::new(0),
    };
    let workers = (0..parameters.workers.max(1)).map(|_| walk.worker());
    let walked = watch.beside(join_all(workers)).await.and_then(outcome);
    let changed_now = walk.changed.load(Ordering::Relaxed);
    let changed = hold.changed.saturating_add(changed_now);
    let released = context.store.release(&hold, walked.is_ok()).await;
    if let Err(error) = walked {
        return Err(stopped(error, &parameters, changed));
    }
    released?;
    context.observer.phase("verify");
    let remains = context.store.remains(backfill).await?;
    Ok(BackfillReport {
        id: backfill.id.clone(),
        place: backfill.place(),
        changed,
        changed_now,
        batches: walk.batches.load(Ordering::Relaxed),
        resumed: hold.resumed,
        millis: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        remains,
    })
}

pub(super) fn claim(context: &BackfillContext<'_>, plan: &Plan, purpose: ClaimFor) -> BackfillClaim {
    let ttl = context.holder.lease_ttl.unsigned_abs();
    BackfillClaim {
        holder: context.holder.name.to_owned(),
        tool_version: plan.tool_version.clone(),
        lease: ttl,
        purpose,
        segments_max: SEGMENTS_MAX,
    }
}

/// What came of all workers: of several errors the one that made the others stop.
pub(super) fn outcome(workers: Vec<Result<()>>) -> Result<()> {
    let mut errors: Vec<Error> = workers.into_iter().filter_map(Result::err).collect();
    let first = errors.iter().position(|error| error.kind() != ErrorKind::Interrupted).unwrap_or(0);
    match errors.is_empty() {
        true => Ok(()),
        false => Err(errors.swap_remove(first)),
    }
}

/// What a run that stopped has left.
fn stopped(error: Error, parameters: &BackfillParameters, changed: u64) -> Error {
    let backfill = &parameters.declared.backfill;
    let state = format!(
        "{}{} in {} are changed, each wholly and once; the others are as they were",
        least(&error),
        Count(changed),
        backfill.place()
    );
    outlook(error, state, format!("`mainstay backfill resume {}` goes on", backfill.id))
}

/// Whoever lost the server does not know whether it has done the last batch.
pub(super) fn least(error: &Error) -> &'static str {
    if error.kind() == ErrorKind::Unreachable { "at least " } else { "" }
}

/// An error of a batch with what it means for all of the data: the batch itself knows only that nothing of its own was changed. Whoever lost
/// the run to another speaks for itself.
pub(super) fn outlook(error: Error, state: String, hint: String) -> Error {
    let is_lost = error.kind() == ErrorKind::Locked && error.state().is_some();
    let error = if is_lost { error } else { error.with_state(state) };
    if error.hint().is_some() { error } else { error.with_hint(hint) }
}

/// The walk that the workers share.
struct Walk<'a> {
    context: &'a BackfillContext<'a>,
    parameters: &'a BackfillParameters,
    permit: &'a Permit,
    watch: &'a Watch<'a>,
    segments: Mutex<VecDeque<u32>>,
    changed: AtomicU64,
    batches: AtomicU64,
}

impl Walk<'_> {
    /// Walks over segments until none is left or somebody says stop.
    async fn worker(&self) -> Result<()> {
        let declared = &self.parameters.declared;
        let budget = Duration::from_millis(self.parameters.latency_budget_ms.max(1));
        let mut pace = Pace::new(declared.batch, budget);
        while let Some(segment) = self.next_segment() {
            let walked = self.over(segment, &mut pace).await;
            if walked.is_err() {
                // The other is at the end of its batch when it sees this.
                self.watch.stop.cancel();
                return walked;
            }
        }
        Ok(())
    }

    async fn over(&self, segment: u32, pace: &mut Pace) -> Result<()> {
        let Self { context, parameters, permit, watch, .. } = self;
        let declared = &parameters.declared;
        loop {
            watch.ready().await?;
            let keys = pace.keys();
            let begun = Instant::now();
            let step = context.store.step(&declared.backfill, watch.hold, segment, keys, permit).await?;
            if step.is_last {
                self.count(step.changed);
                return Ok(());
            }
            pace.learn(keys, begun.elapsed());
            context.observer.hold_back(pace.percent());
            self.count(step.changed);
            watch.rest(Duration::from_millis(declared.pause_ms)).await;
        }
    }

    fn count(&self, changed: u64) {
        self.changed.fetch_add(changed, Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.context.observer.advance(Work { items: changed, bytes: 0 });
    }

    fn next_segment(&self) -> Option<u32> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// Beside the work: says that we live, and learns whether to wait or to stop.
pub(super) struct Watch<'a> {
    context: &'a BackfillContext<'a>,
    pub(super) hold: &'a BackfillHold,
    lag_max: Duration,
    /// Somebody, or something, said stop.
    pub(super) stop: CancellationToken,
    lags: AtomicBool,
    why: Mutex<Option<Error>>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(
        context: &'a BackfillContext<'a>,
        hold: &'a BackfillHold,
        parameters: &BackfillParameters,
    ) -> Self {
        Self {
            context,
            hold,
            lag_max: Duration::from_millis(parameters.lag_max_ms),
            stop: context.cancel.child_token(),
            lags: AtomicBool::new(false),
            why: Mutex::new(None),
        }
    }

    /// Does `work` to its end while it is said that we live. What made the work stop is the error, before what the work says of it.
    pub(super) async fn beside<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        let over = CancellationToken::new();
        let working = async {
            let done = work.await;
            over.cancel();
            done
        };
        let (done, ()) = join(working, self.keep(&over)).await;
        match self.why.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(why) => Err(why),
            None => Ok(done),
        }
    }

    /// Waits until a batch may begin.
    ///
    /// # Errors
    /// `Interrupted` when none may any more.
    pub(super) async fn ready(&self) -> Result<()> {
        loop {
            if self.stop.is_cancelled() {
                return Err(Error::new(ErrorKind::Interrupted, "stopped after a batch"));
            }
            if !self.lags.load(Ordering::Relaxed) {
                return Ok(());
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Rests between two batches, for less where somebody says stop.
    async fn rest(&self, pause: Duration) {
        if !pause.is_zero() {
            // Whichever comes first; `ready` tells which it was.
            let _ = timeout(pause, self.stop.cancelled()).await;
        }
    }

    async fn keep(&self, over: &CancellationToken) {
        let lease = self.context.holder.lease_ttl.unsigned_abs();
        let every = BEAT_EVERY_MAX.min(lease / 4).max(Duration::from_millis(20));
        let mut heard = Instant::now();
        loop {
            if timeout(every, over.cancelled()).await.is_ok() {
                return;
            }
            match self.context.store.beat(self.hold).await {
                Ok(false) => heard = Instant::now(),
                Ok(true) => {
                    let error = Error::new(ErrorKind::Interrupted, "somebody asked it to pause");
                    return self.stop_for(error);
                }
                // A server that is away for a moment has forgotten nobody.
                Err(error) if error.is_temporary() && heard.elapsed() < lease => {}
                Err(error) => return self.stop_for(error),
            }
            self.look_at_replicas().await;
        }
    }

    fn stop_for(&self, error: Error) {
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        self.stop.cancel();
    }

    /// Waits for replicas. Who may not know how far they are does without.
    async fn look_at_replicas(&self) {
        let Ok(Some(lag)) = self.context.store.lag().await else { return };
        let lags = lag > self.lag_max;
        if lags != self.lags.swap(lags, Ordering::Relaxed) {
            let text = match lags {
                true => format!("a replica lags by {} s: waiting for it", lag.as_secs()),
                false => "the replicas have caught up: going on".to_owned(),
            };
            self.context.observer.notice(&text);
        }
    }
}
