//! A capture that outlives what breaks its sessions: each begins from what is stored, so that nothing needs to be kept across them.

use std::time::Duration;

use mainstay_model::{Error, ErrorKind, Result, Target};
use mainstay_repository::LogClaim;
use tokio_util::sync::CancellationToken;

use super::claim::{self, Claiming};
use super::{PAUSE_FIRST, PAUSE_MAX, may_pass};

/// How a session ended without an error.
pub(super) enum Ended {
    /// It was asked to stop, or has caught up; everything read is stored.
    Complete,
    /// The server's log broke off: begin again from what is stored.
    Again,
    /// The claim was lost meanwhile, as the error tells: the same.
    Lost(Error),
}

/// What is captured session by session.
pub(super) trait Sessions {
    /// Captures until asked to stop, until it has caught up, or until something breaks.
    async fn session(&mut self) -> Result<Ended>;

    /// How many slices are stored so far.
    fn slices(&self) -> u64;

    /// Whether a chain was opened before: server and store took our keys then.
    fn has_begun(&self) -> bool;

    /// How long the server is to be left alone after a failure: what it did in vain cost it something.
    fn rest(&self) -> Duration {
        Duration::ZERO
    }

    /// Tells that `error` is met by trying again after `pause`.
    fn tell_waiting(&self, error: &Error, pause: Duration);

    /// Adds up to where the log is stored.
    fn explain(&self, error: Error) -> Error;
}

/// Begins one session after the other until one is complete, or until asked to stop.
///
/// # Errors
/// With `once` whatever failed, otherwise what trying again cannot mend, or what failed when it was asked to stop: what was read is not stored then.
pub(super) async fn keep_on(
    capture: &mut impl Sessions,
    once: bool,
    cancel: &CancellationToken,
) -> Result<()> {
    let mut pause = PAUSE_FIRST;
    loop {
        let stored_before = capture.slices();
        let ended = capture.session().await;
        if capture.slices() > stored_before {
            pause = PAUSE_FIRST;
        }
        let rest = pause.max(capture.rest());
        match ended {
            Ok(Ended::Complete) => return Ok(()),
            Ok(Ended::Again) => {}
            Ok(Ended::Lost(error)) => capture.tell_waiting(&error, rest),
            Err(error) => {
                // Keys that never worked are a mistake; keys that worked before may be renewed.
                let is_refused = error.kind() == ErrorKind::Auth && !capture.has_begun();
                if once || is_refused || !may_pass(&error) || cancel.is_cancelled() {
                    return Err(capture.explain(error));
                }
                capture.tell_waiting(&error, rest);
            }
        }
        tokio::select! {
            // Nothing is held that is not stored: who is asked to stop now has not failed.
            () = cancel.cancelled() => return Ok(()),
            () = tokio::time::sleep(rest) => {}
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Does `work` under a claim to the log of `target`, and gives the claim back. Asked to stop before there is one, it is complete.
///
/// # Errors
/// `Locked` when another capture is alive; those of `work`.
pub(super) async fn under_claim(
    claiming: Claiming<'_>,
    target: &Target,
    work: impl AsyncFnOnce(&LogClaim) -> Result<Ended>,
) -> Result<Ended> {
    let Some(claim) = claim::claim(claiming, target).await? else { return Ok(Ended::Complete) };
    let ended = work(&claim).await;
    let was_lost = claim.check().is_err();
    // A claim that cannot be given back runs out by itself.
    let _ = claim.release().await;
    match ended {
        Err(error) if error.kind() == ErrorKind::Locked && was_lost => Ok(Ended::Lost(error)),
        ended => ended,
    }
}
