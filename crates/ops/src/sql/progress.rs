//! Work that is under way: watched, tried again when a lock was not to be had, ended on request.
//!
//! Who is waited for is known only while the work waits, so it is asked meanwhile, often at first and seldom later. A request to stop ends the
//! statement that runs, again and again until the work has ended: the first may have come between two statements.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::pin::pin;
use std::time::Duration;

use mainstay_engine::{LockBlocker, MigrationRun};
use mainstay_model::Result;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{SqlContext, told};

/// How often is looked at first, for how long that is, and how often afterwards.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const LOOK_CLOSELY_FOR: Duration = Duration::from_secs(2);
const LOOK_SELDOM_EVERY: Duration = Duration::from_secs(1);
/// Before the first repetition, and at most.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Waits; `false` when it was cut short on request.
pub(super) async fn pause(cancel: &CancellationToken, length: Duration) -> bool {
    tokio::select! {
        biased;
        () = cancel.cancelled() => false,
        () = sleep(length) => true,
    }
}

/// Something between a half and the whole of `length`, so that two who wait do not meet again and again.
pub(super) fn jittered(length: Duration) -> Duration {
    // The keys of a new hasher are random.
    let share = RandomState::new().build_hasher().finish() % 1_000;
    length.mul_f64(0.5 + share as f64 / 2_000.0)
}

/// How long is waited before the try after so many.
pub(super) fn backoff(tries: u32) -> Duration {
    jittered(BACKOFF_MIN.saturating_mul(1 << tries.saturating_sub(1).min(10)).min(BACKOFF_MAX))
}

/// Waits for `work` to end, and tells who kept it waiting last.
pub(super) async fn watched<T>(
    context: &SqlContext<'_>,
    run: &dyn MigrationRun,
    work: impl Future<Output = Result<T>>,
) -> (Result<T>, Vec<LockBlocker>) {
    let mut work = pin!(work);
    let began = Instant::now();
    let mut blockers = Vec::new();
    let mut told_of: Vec<i32> = Vec::new();
    loop {
        let look_every = if began.elapsed() < LOOK_CLOSELY_FOR { LOOK_EVERY } else { LOOK_SELDOM_EVERY };
        tokio::select! {
            biased;
            ended = &mut work => return (ended, blockers),
            () = next_look(context.cancel, look_every) => {}
        }
        if context.cancel.is_cancelled() {
            run.cancel().await;
            continue;
        }
        // What cannot be asked now is not worth failing for.
        let Ok(seen) = run.blockers().await else { continue };
        if seen.is_empty() {
            continue;
        }
        let pids: Vec<i32> = seen.iter().map(|blocker| blocker.holder.id.pid).collect();
        if began.elapsed() >= LOOK_CLOSELY_FOR && told_of != pids {
            let who = told::blocking(&seen, context.literals);
            context.observer.notice(&format!("waiting for {who}"));
            told_of = pids;
        }
        blockers = seen;
    }
}

/// The next moment at which to look: at once when a request to stop comes, and then again every moment.
async fn next_look(cancel: &CancellationToken, every: Duration) {
    match cancel.is_cancelled() {
        true => sleep(LOOK_EVERY).await,
        false => {
            pause(cancel, every).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_differ_and_are_bounded() {
        for tries in [1_u32, 2, 3, 8, 40] {
            let longest = BACKOFF_MIN.saturating_mul(1 << (tries - 1).min(10)).min(BACKOFF_MAX);
            for _ in 0..100 {
                let found = backoff(tries);
                assert!(found >= longest / 2 && found <= longest, "{tries}: {found:?}");
            }
        }
        let pauses: std::collections::BTreeSet<Duration> = (0..100).map(|_| jittered(BACKOFF_MAX)).collect();
        assert!(pauses.len() > 10, "{pauses:?}");
    }
}
