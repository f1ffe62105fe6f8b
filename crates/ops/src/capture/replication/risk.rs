//! How long a capture may be away before the server has forgotten what comes next.

use std::sync::Arc;
use std::time::Duration;

use mainstay_engine::Backlog;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::{ReplicationCaptureContext, ReplicationCaptureEvent};

/// Between two looks at the server.
const LOOK: Duration = Duration::from_secs(5);

/// How often the same is said again, in looks.
const REPEAT: u32 = 60;

/// How long a capture may be away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BacklogSlack {
    /// How much the server keeps.
    pub backlog_bytes: u64,
    /// How fast its stream grew when it was looked at last.
    pub bytes_per_second: u64,
    /// For how many seconds that lasts; `None` when nothing was written.
    pub seconds: Option<u64>,
    /// How much it should keep.
    pub advised_bytes: u64,
}

impl BacklogSlack {
    fn of(backlog: Backlog, grown: u64, time: Duration) -> Self {
        let Backlog { bytes_max: backlog_bytes, room, .. } = backlog;
        let bytes_per_second = (grown as f64 / time.as_secs_f64().max(0.001)) as u64;
        Self {
            backlog_bytes,
            bytes_per_second,
            seconds: backlog_bytes.checked_div(bytes_per_second),
            advised_bytes: Backlog::advised_bytes(bytes_per_second, room),
        }
    }

    /// Whether it is too short.
    fn is_short(&self) -> bool {
        self.seconds.is_some_and(|seconds| seconds < Backlog::SLACK_SECONDS_MIN)
    }
}

/// Looks now and then; tells what it sees, and a risk when it comes up and while it stays. Ends when it is dropped.
pub(super) async fn watch(
    context: Arc<ReplicationCaptureContext>,
    tell: watch::Sender<Option<BacklogSlack>>,
) {
    let mut before: Option<(u64, Instant)> = None;
    let mut told: Option<u32> = None;
    loop {
        // A server that cannot be asked is told by whoever follows it.
        if let Ok(facts) = context.source.replication_facts().await {
            let (offset, now) = (facts.at.offset, Instant::now());
            if let (Some((earlier, at)), Some(backlog)) = (before, facts.backlog)
                && offset >= earlier
            {
                let slack = BacklogSlack::of(backlog, offset - earlier, now - at);
                // Only the conductor listens, and it may have ended.
                let _ = tell.send(Some(slack));
                told = match (slack.is_short(), told) {
                    (false, _) => None,
                    (true, Some(looks)) if looks < REPEAT => Some(looks + 1),
                    (true, _) => {
                        context.observer.event(&ReplicationCaptureEvent::BacklogShort(slack));
                        Some(0)
                    }
                };
            }
            before = Some((offset, now));
        }
        sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slack_is_what_the_backlog_lasts_for() {
        let slack = |bytes_max: u64, grown: u64| {
            BacklogSlack::of(Backlog { bytes_max, after: 0, room: None }, grown, Duration::from_secs(5))
        };
        let idle = slack(1 << 20, 0);
        assert_eq!((idle.seconds, idle.is_short(), idle.advised_bytes), (None, false, 64 << 20));
        let busy = slack(1 << 20, 5 << 20);
        assert_eq!((busy.seconds, busy.is_short()), (Some(1), true));
        assert_eq!(busy.advised_bytes, 1 << 30, "ten minutes at a megabyte a second");
        let roomy = slack(1 << 30, 5 << 20);
        assert_eq!((roomy.seconds, roomy.is_short()), (Some(1024), false));
    }
}
