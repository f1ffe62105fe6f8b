//! Moments of PostgreSQL as they are typed, and the recovery that leads to one.

use std::str::FromStr;

use clap::ValueEnum;
use jiff::SignedDuration;
use mainstay_model::{Error, ErrorKind, Lsn, Result, Timestamp};
use mainstay_ops::cluster::{self, Recovery, RecoveryAction, RecoveryRequest, RecoveryTarget};
use mainstay_ops::named_point;
use mainstay_repository::{Repository, Set};

use crate::wiring::Session;

/// What a server does at its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ActionArgument {
    /// Take writes, on a timeline of its own
    Promote,
    /// Answer queries and wait for pg_wal_replay_resume()
    Pause,
}

/// What may be typed, for errors.
const FORMS: &str = "expected a time (`2026-11-25T19:00:00Z`), an LSN (`0/3000028`), the number of a transaction (`735`), \
                     the name of a restore point, how long ago (`5m ago`), or `latest`";

/// The moment that `text` means.
///
/// # Errors
/// `Usage` for text that means none.
fn target(text: &str, now: Timestamp) -> Result<RecoveryTarget> {
    if text == "latest" {
        return Ok(RecoveryTarget::Latest);
    }
    if text.contains('/')
        && let Ok(at) = Lsn::from_str(text)
    {
        return Ok(RecoveryTarget::Lsn(at));
    }
    if let Ok(xid) = text.parse::<u32>() {
        return Ok(RecoveryTarget::Xid(xid));
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(RecoveryTarget::Time(at));
    }
    if let Ok(ago) = text.parse::<SignedDuration>()
        && ago.is_negative()
        && let Ok(at) = now.checked_add(ago)
    {
        return Ok(RecoveryTarget::Time(at));
    }
    named_point::check_name(text)
        .map(|()| RecoveryTarget::Name(text.to_owned()))
        .map_err(|_| Error::new(ErrorKind::Usage, format!("`{text}` is no moment of postgres: {FORMS}")))
}

/// What a restore of PostgreSQL further than its set is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    /// The moment that is the last.
    pub(crate) to: Option<&'a str>,
    /// The moment that is left out.
    pub(crate) before: Option<&'a str>,
    /// The timeline to follow.
    pub(crate) timeline: Option<u32>,
    /// What the server does then.
    pub(crate) action: Option<ActionArgument>,
}

impl Asked<'_> {
    /// Whether there is a moment at all.
    pub(crate) fn is_some(&self) -> bool {
        self.to.is_some() || self.before.is_some()
    }

    /// The set and the recovery that lead there. `set` is the one that was named, if one was.
    ///
    /// # Errors
    /// The operation's.
    pub(crate) async fn find(
        &self,
        repository: &Repository,
        set: Option<Set>,
        session: &Session,
    ) -> Result<(Set, Recovery)> {
        let now = session.clock.now();
        let (target, inclusive) = match (self.to, self.before) {
            (_, Some(before)) => (excluded(target(before, now)?)?, false),
            (to, None) => (target(to.unwrap_or("latest"), now)?, true),
        };
        let action = match self.action {
            None | Some(ActionArgument::Promote) => RecoveryAction::Promote,
            Some(ActionArgument::Pause) => RecoveryAction::Pause,
        };
        let request = RecoveryRequest { set, target, inclusive, timeline: self.timeline, action };
        let progress = session.printer.progress();
        tokio::select! {
            found = cluster::find_recovery(repository, &request, progress.as_ref()) => found,
            () = session.cancel.cancelled() => Err(
                Error::new(ErrorKind::Interrupted, "the plan was stopped on request").with_state("nothing was changed")
            ),
        }
    }
}

/// Refuses what nothing can be just before.
fn excluded(target: RecoveryTarget) -> Result<RecoveryTarget> {
    match target {
        RecoveryTarget::Latest | RecoveryTarget::Name(_) => Err(Error::new(
            ErrorKind::Usage,
            "a server cannot stop just before the end of its log, or before a restore point",
        )
        .with_state("nothing was changed")
        .with_hint("use `--to`, or name the time, position or transaction that is to be left out")),
        target => Ok(target),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn every_form_means_one_moment() {
        let now: Timestamp = "2026-11-25T19:10:00Z".parse().unwrap();
        let at = |text: &str| RecoveryTarget::Time(text.parse().unwrap());
        for (text, expected) in [
            ("latest", RecoveryTarget::Latest),
            ("0/3000028", RecoveryTarget::Lsn(Lsn(0x300_0028))),
            ("735", RecoveryTarget::Xid(735)),
            ("2026-11-25T20:00:00.25+01:00", at("2026-11-25T19:00:00.25Z")),
            ("10m ago", at("2026-11-25T19:00:00Z")),
            ("before-sale", RecoveryTarget::Name("before-sale".to_owned())),
        ] {
            assert_eq!(target(text, now).unwrap(), expected, "{text}");
        }
        for bad in ["", "in 5m", "0/x", "99999999999", "2026-11-25T19:00:00", "a b"] {
            assert_eq!(target(bad, now).unwrap_err().kind(), ErrorKind::Usage, "{bad}");
        }
        assert!(excluded(RecoveryTarget::Latest).is_err() && excluded(RecoveryTarget::Xid(1)).is_ok());
    }
}
