//! Watching the server while it is read: how long it keeps the moment, whether its cache overflows, and how fast it may be read.
//!
//! One gauge measures every two seconds, five times a second when a limit for the server's latency was given. What it sees becomes warnings,
//! each said once, and the share of full speed that the scans keep to. The backup does not depend on it: a gauge that fails is silent, and
//! with a limit given it makes the scans as slow as they may become, because nobody knows any more what the server bears.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mainstay_engine::{Pressure, PressureGauge};
use mainstay_model::progress::Observer;

use super::pace::{Pace, pause_after};

/// Between two measurements without a limit.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Between two measurements with one.
const LOOK_EVERY_PACED: Duration = Duration::from_millis(200);
/// A server that has not answered for so long counts as one whose latency has no end.
const OVERDUE: Duration = Duration::from_secs(1);
/// No forecast is made before so much of the work is done, and not within the first seconds: it would only jump about.
const FORECAST_PERCENT_MIN: u64 = 2;
const FORECAST_AFTER: Duration = Duration::from_secs(3);
/// At this percentage of dirty pages, and at this one of used ones, WiredTiger makes the threads of applications write pages out
/// (its `eviction_dirty_trigger` and `eviction_trigger`).
const CACHE_DIRTY_PERCENT: u8 = 20;
const CACHE_USED_PERCENT: u8 = 95;

/// What the scans and the watch tell one another.
#[derive(Debug)]
pub(super) struct Meter {
    /// Bytes read so far.
    read_bytes: AtomicU64,
    /// The share of full speed, in percent.
    share: AtomicU8,
}

impl Meter {
    pub(super) fn new() -> Self {
        Self { read_bytes: AtomicU64::new(0), share: AtomicU8::new(100) }
    }

    /// So many bytes were read, which took `busy`; waits as long as the pace demands.
    pub(super) async fn passed(&self, bytes: u64, busy: Duration) {
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
        let pause = pause_after(busy, self.share.load(Ordering::Relaxed));
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}

/// What is watched, and whom to tell.
pub(super) struct Watch<'a> {
    pub(super) observer: &'a dyn Observer,
    pub(super) meter: &'a Meter,
    /// When the moment was fixed; `None` when there is none.
    pub(super) moment: Option<Instant>,
    /// The bytes that are to be read.
    pub(super) expected_bytes: u64,
    /// The longest time the server may take to answer.
    pub(super) impact_max: Option<Duration>,
}

impl Watch<'_> {
    /// Watches until it is dropped.
    pub(super) async fn run(self, mut gauge: Box<dyn PressureGauge>) -> std::convert::Infallible {
        let began = Instant::now();
        let mut pace = self.impact_max.map(Pace::new);
        let mut said = Said::default();
        let every = if pace.is_some() { LOOK_EVERY_PACED } else { LOOK_EVERY };
        loop {
            tokio::time::sleep(every).await;
            let mut measuring = gauge.measure();
            let pressure = loop {
                tokio::select! {
                    measured = &mut measuring => break measured.ok(),
                    // No answer yet: the latency counts as endless, and goes on counting so.
                    () = tokio::time::sleep(OVERDUE), if pace.is_some() => self.keep(&mut pace, None),
                }
            };
            drop(measuring);
            self.keep(&mut pace, pressure.as_ref());
            if let Some(pressure) = pressure {
                self.warn(&mut said, &pressure, began);
            }
        }
    }

    /// Lets the scans go at the pace that `pressure` allows; `None` stands for a server that does not answer.
    fn keep(&self, pace: &mut Option<Pace>, pressure: Option<&Pressure>) {
        let Some(pace) = pace else { return };
        let latency = pressure.map_or(Duration::MAX, |pressure| pressure.latency);
        let share = pace.note(latency, pressure.and_then(|pressure| pressure.read_tickets));
        if self.meter.share.swap(share, Ordering::Relaxed) != share {
            self.observer.hold_back(share);
        }
    }

    fn warn(&self, said: &mut Said, pressure: &Pressure, began: Instant) {
        if !said.cache
            && let Some(text) = cache_warning(pressure)
        {
            said.cache = true;
            self.observer.notice(&text);
        }
        let Some(moment) = self.moment.filter(|_| !said.history) else { return };
        let done = self.meter.read_bytes.load(Ordering::Relaxed);
        if let Some(left) = forecast(done, self.expected_bytes, began.elapsed())
            && let Some(text) = history_warning(pressure.history, moment.elapsed(), left)
        {
            said.history = true;
            self.observer.notice(&text);
        }
    }
}

#[derive(Default)]
struct Said {
    cache: bool,
    history: bool,
}

/// How long the rest will take, once that can be told.
fn forecast(done: u64, expected: u64, elapsed: Duration) -> Option<Duration> {
    if elapsed < FORECAST_AFTER || done == 0 || done.saturating_mul(100) < expected * FORECAST_PERCENT_MIN {
        return None;
    }
    let left = expected.saturating_sub(done);
    Some(Duration::from_secs_f64(elapsed.as_secs_f64() * left as f64 / done as f64))
}

/// What to say when the moment, `age` old, will have passed before the `left` of the work is done.
fn history_warning(history: Option<Duration>, age: Duration, left: Duration) -> Option<String> {
    let history = history?;
    (age + left > history).then(|| {
        format!(
            "warning: about {} s of reading are left, and the server keeps history of {} s only, {} s of which are over: what is not read \
             by then is read outside the moment; db.adminCommand({{setParameter: 1, minSnapshotHistoryWindowInSeconds: {}}}) keeps it longer",
            left.as_secs(),
            history.as_secs(),
            age.as_secs(),
            ((age + left).as_secs() * 2).next_multiple_of(300)
        )
    })
}

fn cache_warning(pressure: &Pressure) -> Option<String> {
    let over = |percent: Option<u8>, limit| percent.filter(|percent| *percent >= limit);
    let advice = "the applications of the server slow down; `--max-impact 20ms` holds the backup back";
    if let Some(percent) = over(pressure.cache_dirty_percent, CACHE_DIRTY_PERCENT) {
        return Some(format!(
            "warning: {percent} percent of the server's cache wait to be written: {advice}"
        ));
    }
    over(pressure.cache_used_percent, CACHE_USED_PERCENT)
        .map(|percent| format!("warning: the server's cache is full to {percent} percent: {advice}"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    #[test]
    fn a_forecast_needs_something_to_go_by() {
        for (done, expected, elapsed, left) in [
            (0, 100, seconds(10), None),
            (1, 100, seconds(10), None),
            (50, 100, seconds(2), None),
            (50, 100, seconds(10), Some(seconds(10))),
            (2, 100, seconds(10), Some(seconds(490))),
            (120, 100, seconds(10), Some(seconds(0))),
        ] {
            assert_eq!(forecast(done, expected, elapsed), left, "{done} of {expected} in {elapsed:?}");
        }
    }

    #[test]
    fn a_history_that_is_too_short_is_told_with_what_to_type() {
        assert_eq!(history_warning(None, seconds(10), seconds(1_000)), None);
        assert_eq!(history_warning(Some(seconds(300)), seconds(10), seconds(290)), None);
        let text = history_warning(Some(seconds(300)), seconds(10), seconds(900)).unwrap();
        assert!(
            text.contains("about 900 s") && text.contains("minSnapshotHistoryWindowInSeconds: 2100"),
            "{text}"
        );
    }

    #[test]
    fn a_full_cache_is_told() {
        let pressure = |used, dirty| Pressure {
            cache_used_percent: used,
            cache_dirty_percent: dirty,
            ..Pressure::default()
        };
        assert_eq!(cache_warning(&pressure(None, None)), None);
        assert_eq!(cache_warning(&pressure(Some(94), Some(19))), None);
        assert!(cache_warning(&pressure(Some(95), Some(3))).unwrap().contains("full to 95"));
        assert!(cache_warning(&pressure(Some(80), Some(20))).unwrap().contains("20 percent"));
    }
}
