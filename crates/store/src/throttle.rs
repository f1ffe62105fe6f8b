//! The throttle: a bound on bytes written per second, shared by all writers of a store.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

/// Hands out time slots: a write of `n` bytes owns the next `n / rate` seconds, and its writer waits for the slot's end.
#[derive(Debug)]
pub(crate) struct Throttle {
    bytes_per_second: u64,
    free_at: Mutex<Instant>,
}

impl Throttle {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), free_at: Mutex::new(Instant::now()) }
    }

    /// Waits until `bytes` more may have been written.
    pub(crate) async fn take(&self, bytes: u64) {
        let end = {
            let mut free_at = self.free_at.lock().expect("no holder of this lock can panic");
            let needed = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
            *free_at = (*free_at).max(Instant::now()) + needed;
            *free_at
        };
        tokio::time::sleep_until(end).await;
    }
}
