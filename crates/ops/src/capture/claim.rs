//! The right to write a server's log, and the patience of whoever writes it.

use std::time::Duration;

use jiff::SignedDuration;
use mainstay_model::{Error, ErrorKind, LogPosition, Result, Target};
use mainstay_repository::{ChainWriter, LogClaim, Repository, SealedSlice};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{PAUSE_FIRST, PAUSE_MAX, may_pass};

/// Between two looks at a lease that may be a dead process's.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// How long a store that fails may keep a capture from ending that was asked to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Who claims, and where.
pub(super) struct Claiming<'a> {
    pub(super) repository: &'a Repository,
    pub(super) holder: &'a str,
    pub(super) lease_ttl: SignedDuration,
    pub(super) cancel: &'a CancellationToken,
}

/// Claims the server's log. When somebody holds it, waits until they prove to be alive by renewing it, or it runs out: so a capture that
/// was killed can be started again at once. `None` when asked to stop meanwhile.
///
/// # Errors
/// `Locked` when another capture is alive; the store's.
pub(super) async fn claim(claiming: Claiming<'_>, target: &Target) -> Result<Option<LogClaim>> {
    let Claiming { repository, holder, lease_ttl, cancel } = claiming;
    let server = target.fingerprint.as_str();
    let mut first_seen = None;
    loop {
        let locked = match repository.claim_log(target.store, server, holder, lease_ttl).await {
            Err(error) if error.kind() == ErrorKind::Locked => error,
            claimed => return claimed.map(Some),
        };
        let holder = repository.log_holder(target.store, server).await?;
        if let Some(seen) = holder.map(|record| (record.token, record.number))
            && *first_seen.get_or_insert(seen) != seen
        {
            return Err(locked.context("another capture follows this server's log"));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_PAUSE) => {}
            () = cancel.cancelled() => return Ok(None),
        }
    }
}

/// Puts a slice, again and again while what fails may pass and the claim holds. `wait` is told each failure, up to where the log is stored,
/// and how long is waited. With `once` the first failure ends it; so does a store that goes on failing after `cancel`.
///
/// # Errors
/// The store's.
pub(super) async fn put_patiently(
    writer: &mut ChainWriter,
    sealed: &SealedSlice,
    once: bool,
    cancel: &CancellationToken,
    wait: impl Fn(&Error, LogPosition, Duration),
) -> Result<()> {
    let mut pause = PAUSE_FIRST;
    let mut stopping_since = None;
    loop {
        let Err(error) = writer.put(sealed).await else { return Ok(()) };
        if cancel.is_cancelled() {
            stopping_since.get_or_insert_with(Instant::now);
        }
        let out_of_patience = stopping_since.is_some_and(|since| since.elapsed() >= STOP_PATIENCE);
        if once || out_of_patience || !may_pass(&error) {
            return Err(error);
        }
        wait(&error, writer.end(), pause);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(if stopping_since.is_some() { STOP_PATIENCE / 10 } else { PAUSE_MAX });
    }
}
