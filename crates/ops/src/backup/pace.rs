//! How fast to read from a server that others need, too.
//!
//! A [`Pace`] is told, again and again, how long the server took to answer a small question, and says which share of the time the scans may
//! read. It reacts as congestion control does: over the limit the share is halved at once, and well below it grows by small steps, so that
//! it swings close under what the server bears. Pure: it knows no clock and no server.

use std::time::Duration;

/// The share in percent below which reading never falls: a backup must end, and history passes.
const SHARE_MIN: u8 = 2;
/// What the share grows by, in percent of full speed, when the server answers quickly.
const SHARE_STEP: u8 = 5;
/// Below this percentage of the limit the server counts as quick.
const QUICK_PERCENT: u32 = 70;
/// With so few read tickets left, others queue behind the scans whatever the latency was.
const TICKETS_SCARCE: u64 = 4;
/// The longest pause after one batch, so that a change of pace is felt soon.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Keeps the latency of a server under a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    limit: Duration,
    share: u8,
}

impl Pace {
    /// Full speed, until the server is seen to take longer than `limit`.
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, share: 100 }
    }

    /// Takes in a measurement and gives the new share of full speed, in percent. `read_tickets` are those left, where they can be seen.
    pub(super) fn note(&mut self, latency: Duration, read_tickets: Option<u64>) -> u8 {
        let crowded = read_tickets.is_some_and(|left| left < TICKETS_SCARCE);
        self.share = if latency > self.limit || crowded {
            (self.share / 2).max(SHARE_MIN)
        } else if latency <= self.limit * QUICK_PERCENT / 100 {
            self.share.saturating_add(SHARE_STEP).min(100)
        } else {
            self.share
        };
        self.share
    }
}

/// How long to wait after a batch that took `busy` to read and pass on, so that reading takes `share` percent of the time.
pub(super) fn pause_after(busy: Duration, share: u8) -> Duration {
    let share = u32::from(share.clamp(1, 100));
    (busy * (100 - share) / share).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    #[test]
    fn slow_answers_halve_and_quick_ones_add_a_little() {
        let mut pace = Pace::new(ms(20));
        for (latency, tickets, share) in [
            (ms(1), None, 100),
            (ms(20), None, 100),
            (ms(21), None, 50),
            (ms(500), None, 25),
            (ms(15), None, 25),
            (ms(14), None, 30),
            (ms(1), Some(3), 15),
            (ms(1), Some(4), 20),
            (ms(90), Some(100), 10),
            (ms(90), Some(100), 5),
            (ms(90), Some(100), 2),
            (ms(90), Some(100), 2),
            (ms(0), Some(100), 7),
        ] {
            assert_eq!(pace.note(latency, tickets), share, "{latency:?} {tickets:?}");
        }
        for _ in 0..30 {
            pace.note(ms(3), None);
        }
        assert_eq!(pace.note(ms(3), None), 100);
    }

    #[test]
    fn a_pause_makes_reading_its_share_of_the_time() {
        for (busy, share, pause) in [
            (ms(10), 100, ms(0)),
            (ms(10), 50, ms(10)),
            (ms(10), 25, ms(30)),
            (ms(10), 2, ms(490)),
            (ms(100), 2, PAUSE_MAX),
            (ms(10), 0, ms(990)),
        ] {
            assert_eq!(pause_after(busy, share), pause, "{busy:?} at {share} percent");
        }
    }
}
