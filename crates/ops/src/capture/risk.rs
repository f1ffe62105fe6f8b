//! Whether the server may overwrite its log before it is stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mainstay_engine::ChangeLogFacts;
use mainstay_model::{LogPosition, OpTime};
use serde::Serialize;

use super::{CaptureContext, CaptureEvent};

/// Between two looks at the server's log.
const LOOK: Duration = Duration::from_secs(10);

/// What a capture is behind, and how much it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct OverrunRisk {
    /// Up to where the log is stored.
    pub stored: OpTime,
    /// The server's oldest entry.
    pub oldest: OpTime,
    /// Seconds from what is stored to the server's newest entry.
    pub lag_seconds: u64,
    /// Seconds from the server's oldest to its newest entry.
    pub window_seconds: u64,
}

impl OverrunRisk {
    /// The risk, when the capture lags behind by more than half of what the server keeps. A log that has not yet grown to its size
    /// overwrites nothing.
    pub fn of(facts: &ChangeLogFacts, stored: OpTime) -> Option<Self> {
        let grows = facts.bytes_max > 0 && facts.bytes < facts.bytes_max / 10 * 8;
        let lag_seconds = u64::from(facts.newest.seconds.saturating_sub(stored.seconds));
        let window_seconds = facts.window_seconds();
        (!grows && lag_seconds * 2 > window_seconds && lag_seconds > 0).then_some(Self {
            stored,
            oldest: facts.oldest,
            lag_seconds,
            window_seconds,
        })
    }
}

/// Looks now and then, and tells a risk. Ends when it is dropped.
pub(super) async fn watch(context: CaptureContext, end: Arc<AtomicU64>) {
    loop {
        tokio::time::sleep(LOOK).await;
        // A server that cannot be asked is told by whoever follows it.
        let Ok(facts) = context.source.change_log_facts().await else { continue };
        let stored = LogPosition(end.load(Ordering::Relaxed)).optime();
        if let Some(risk) = OverrunRisk::of(&facts, stored) {
            context.observer.event(&CaptureEvent::OverrunRisk(risk));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_beyond_half_of_a_full_log_is_a_risk() {
        let at = |seconds| OpTime { seconds, increment: 1 };
        let full = ChangeLogFacts { oldest: at(1_000), newest: at(2_000), bytes: 95, bytes_max: 100 };
        let cases = [
            (full, 2_000, None),
            (full, 1_500, None),
            (full, 1_499, Some(501)),
            (full, 900, Some(1_100)),
            (ChangeLogFacts { bytes: 10, ..full }, 1_100, None),
            (ChangeLogFacts { bytes: 0, bytes_max: 0, ..full }, 1_100, Some(900)),
            (ChangeLogFacts { oldest: at(2_000), ..full }, 2_000, None),
        ];
        for (facts, stored, lag) in cases {
            assert_eq!(
                OverrunRisk::of(&facts, at(stored)).map(|risk| risk.lag_seconds),
                lag,
                "{facts:?} {stored}"
            );
        }
    }
}
