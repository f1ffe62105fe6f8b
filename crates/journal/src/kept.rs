//! Leases that renew themselves in the background.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::SignedDuration;
use mainstay_model::{Clock, Error, ErrorKind, Result};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::lease::check_time;
use crate::{Lease, LeaseRecord};

/// Between a failed renewal and the next try, a fraction of the time to live.
const RETRY_FRACTION: i32 = 12;
/// Shortest pause, for times to live of tests.
const PAUSE_MIN: Duration = Duration::from_millis(5);

/// A lease renewed by a background task every third of its time to live, and more often when a renewal fails.
///
/// Dropped without [`KeptLease::release`], the task ends and the lease expires by itself.
#[derive(Debug)]
pub struct KeptLease {
    clock: Arc<dyn Clock>,
    shared: Arc<Shared>,
    stop: CancellationToken,
    task: Option<JoinHandle<Lease>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    lost: CancellationToken,
}

#[derive(Debug)]
struct State {
    current: LeaseRecord,
    loss: Option<String>,
}

impl KeptLease {
    pub(crate) fn new(lease: Lease) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State { current: lease.record().clone(), loss: None }),
            lost: CancellationToken::new(),
        });
        let (clock, stop) = (lease.clock(), CancellationToken::new());
        let task = tokio::spawn(renew_until_stopped(lease, Arc::clone(&shared), stop.clone()));
        Self { clock, shared, stop, task: Some(task) }
    }

    /// The lease's name.
    pub fn name(&self) -> String {
        self.shared.lock().current.name.clone()
    }

    /// The fencing token; see [`Lease::token`].
    pub fn token(&self) -> u64 {
        self.shared.lock().current.token
    }

    /// Makes sure that the lease was not lost and did not expire, as far as this process knows: it asks the clock, not the store.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] when it was lost or not renewed in time. That does not change back.
    pub fn check(&self) -> Result<()> {
        let state = self.shared.lock();
        match &state.loss {
            Some(message) => Err(lost(message)),
            None => check_time(&state.current, self.clock.now()),
        }
    }

    /// Cancelled when the lease is lost or expires unrenewed: whatever runs under it should stop then.
    pub fn lost(&self) -> CancellationToken {
        self.shared.lost.clone()
    }

    /// Stops renewing and gives the lease back.
    ///
    /// # Errors
    /// As [`Lease::release`]; [`ErrorKind::Locked`] also when it was lost before.
    pub async fn release(mut self) -> Result<()> {
        self.stop.cancel();
        let task = self.task.take().expect("only release takes it");
        let lease = task.await.map_err(|error| {
            Error::new(ErrorKind::Internal, format!("lease renewal ended early: {error}"))
        })?;
        if let Some(message) = self.shared.lock().loss.clone() {
            return Err(lost(&message));
        }
        lease.release().await
    }
}

impl Drop for KeptLease {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock can panic")
    }

    fn lose(&self, error: &Error) {
        self.lock().loss = Some(error.to_string());
        self.lost.cancel();
    }
}

fn lost(message: &str) -> Error {
    Error::new(ErrorKind::Locked, message.to_owned())
        .with_hint("the work under it may have been taken over; look at what runs before starting again")
}

async fn renew_until_stopped(mut lease: Lease, shared: Arc<Shared>, stop: CancellationToken) -> Lease {
    let mut pause = fraction(lease.ttl(), 3);
    loop {
        tokio::select! {
            () = stop.cancelled() => return lease,
            () = tokio::time::sleep(pause) => {}
        }
        // A store that hangs must not keep the end of the lease from being noticed.
        let left =
            Duration::try_from(lease.clock().now().duration_until(lease.expires_at())).unwrap_or_default();
        let renewed = tokio::time::timeout(left.max(PAUSE_MIN), lease.renew()).await;
        match renewed
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Unreachable, "renew lease: no answer in time")))
        {
            Ok(()) => {
                shared.lock().current = lease.record().clone();
                pause = fraction(lease.ttl(), 3);
            }
            Err(error) if error.kind() == ErrorKind::Locked => {
                shared.lose(&error);
                return lease;
            }
            // The store may be back before the lease ends.
            Err(_) => {
                if let Err(expired) = check_time(lease.record(), lease.clock().now()) {
                    shared.lose(&expired);
                    return lease;
                }
                pause = fraction(lease.ttl(), RETRY_FRACTION);
            }
        }
    }
}

fn fraction(ttl: SignedDuration, of: i32) -> Duration {
    Duration::try_from(ttl / of).unwrap_or(PAUSE_MIN).max(PAUSE_MIN)
}
