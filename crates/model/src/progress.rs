//! Progress of long work, as events. Operations report; only the binary's printer shows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// What an operation tells while it works. Every method must return at once and must not block: hot paths call them.
pub trait Observer: Send + Sync {
    /// A phase begins, such as `scan`, `verify`, `indexes of shop.users`; what follows belongs to it.
    fn phase(&self, _name: &str) {}
    /// How much there is to do in this phase: an estimate, and it may be told again.
    fn expect(&self, _total: Work) {}
    /// So much more has been done since the last call.
    fn advance(&self, _done: Work) {}
    /// Work is held back to this share of full speed, in percent, to spare a server; 100 when it no longer is.
    fn hold_back(&self, _percent: u8) {}
    /// Something the operator should know now, one line: a fallback taken, a retry under way.
    fn notice(&self, _text: &str) {}
}

/// An amount of work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Documents, rows, keys or objects.
    pub items: u64,
    /// Bytes before compression.
    pub bytes: u64,
}

impl Work {
    /// Both amounts together; sums that are too large for a number stay at the largest. Manifests are foreign numbers.
    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        Self { items: self.items.saturating_add(other.items), bytes: self.bytes.saturating_add(other.bytes) }
    }
}

impl std::iter::Sum for Work {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::default(), Self::saturating_add)
    }
}

/// Observes nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {}

/// Sums up the work told, for reports and tests.
#[derive(Debug, Default)]
pub struct Tally {
    items: AtomicU64,
    bytes: AtomicU64,
}

impl Tally {
    /// The work done so far.
    pub fn total(&self) -> Work {
        Work { items: self.items.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }
}

impl Observer for Tally {
    fn advance(&self, done: Work) {
        add(&self.items, done.items);
        add(&self.bytes, done.bytes);
    }
}

fn add(total: &AtomicU64, more: u64) {
    let grown = |so_far: u64| Some(so_far.saturating_add(more));
    // The update always has a value to store, so it cannot fail.
    let _ = total.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown);
}

/// An observer that can be handed to tasks.
pub type SharedObserver = Arc<dyn Observer>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_foreign_numbers_saturate() {
        let most = Work { items: u64::MAX, bytes: u64::MAX };
        let some = Work { items: 1, bytes: 2 };
        assert_eq!([some, most, some].into_iter().sum::<Work>(), most);
        assert_eq!([some, some].into_iter().sum::<Work>(), Work { items: 2, bytes: 4 });
        let tally = Tally::default();
        for work in [some, most, some] {
            tally.advance(work);
        }
        assert_eq!(tally.total(), most);
    }
}
