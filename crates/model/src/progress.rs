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
        self.items.fetch_add(done.items, Ordering::Relaxed);
        self.bytes.fetch_add(done.bytes, Ordering::Relaxed);
    }
}

/// An observer that can be handed to tasks.
pub type SharedObserver = Arc<dyn Observer>;
