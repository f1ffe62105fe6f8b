//! How large a batch is and when to wait. Pure but for the numbers that workers share.
//!
//! A batch holds the documents that it changes until it is at its end, so its length is what another client may wait at most. The next batch is as large as
//! would have met the budget by the last one, and never more than twice as large.

use std::time::Duration;

/// The smallest batch: below this the work around it costs more than it spares.
const KEYS_MIN: u32 = 20;

/// The size of the next batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    keys: u32,
    keys_max: u32,
    budget: Duration,
}

impl Pace {
    /// Batches of at most `keys_max` keys that are to take no longer than `budget`.
    pub(super) fn new(keys_max: u32, budget: Duration) -> Self {
        // The first batch finds out what batches cost here.
        let keys = (keys_max / 4).clamp(1, 500);
        Self { keys, keys_max: keys_max.max(1), budget }
    }

    /// How many keys the next batch goes by.
    pub(super) fn keys(&self) -> u32 {
        self.keys
    }

    /// Learns what a batch of so many keys took.
    pub(super) fn learn(&mut self, keys: u32, took: Duration) {
        let took = took.max(Duration::from_micros(100)).as_secs_f64();
        let factor = (self.budget.as_secs_f64() / took).clamp(0.25, 2.0);
        let least = KEYS_MIN.min(self.keys_max);
        // A little below what would meet it exactly, because batches differ.
        let wanted = f64::from(keys) * factor * if factor < 1.0 { 0.9 } else { 1.0 };
        self.keys = (wanted as u32).clamp(least, self.keys_max);
    }

    /// Speed in percent of the largest batch, for people.
    pub(super) fn percent(&self) -> u8 {
        u8::try_from(u64::from(self.keys) * 100 / u64::from(self.keys_max)).unwrap_or(100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_follow_the_budget() {
        let millis = Duration::from_millis;
        let mut pace = Pace::new(2_000, millis(100));
        assert_eq!(pace.keys(), 500);
        for (keys, took, expected) in [
            (500, 10, 1_000),
            (1_000, 20, 2_000),
            // No further than what was declared.
            (2_000, 20, 2_000),
            (2_000, 200, 900),
            // One slow moment does not stop everything.
            (900, 60_000, 202),
            (202, 60_000, 45),
            (45, 60_000, 20),
            (20, 60_000, 20),
            (20, 100, 20),
            (20, 50, 40),
        ] {
            pace.learn(keys, millis(took));
            assert_eq!(pace.keys(), expected, "{keys} keys took {took} ms");
        }
        let mut tiny = Pace::new(3, millis(100));
        tiny.learn(1, millis(1_000));
        assert_eq!(tiny.keys(), 3, "a declared batch below the least is kept");
        assert_eq!(tiny.percent(), 100);
    }
}
