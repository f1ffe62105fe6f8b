//! Where a recovery would stop: decides, record by record, as the server does (`recoveryStopsBefore` and `recoveryStopsAfter`).
//!
//! A server that does not find its target refuses to start, and one that meets it before its files are consistent does, too. Both are found
//! out here first. Where the log ends before a position or time that it is known to reach, the last record stands for it. Of two restore points
//! of one name a server stops at the first, whichever was meant: such a name is looked for to the end of the log, and leads nowhere.

use std::ops::ControlFlow;

use mainstay_basebackup::{RecordKind, SeenRecord};
use mainstay_model::{Lsn, Timestamp};
use serde::{Deserialize, Serialize};

/// What a recovery is to stop at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryTarget {
    /// The end of the log.
    Latest,
    /// Everything that was committed up to a time, by the server's clock.
    Time(Timestamp),
    /// Everything up to a position.
    Lsn(Lsn),
    /// Everything up to the end of a transaction.
    Xid(u32),
    /// A named restore point.
    Name(String),
}

/// Records begin at multiples of this; a server tells as the end of one where the next may begin.
const RECORD_ALIGNMENT: u64 = 8;

/// Looks for a target.
pub(crate) struct Seeker<'a> {
    target: &'a RecoveryTarget,
    inclusive: bool,
    /// Whether a set is known to be older than the time that is looked for.
    is_dated: bool,
    /// Where the repository says that the restore point lies that is looked for.
    recorded: Option<Lsn>,
    pub(crate) seen: Seen,
}

/// What a seeker came across.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Where the recovery stops: the position after the last record that it replays.
    pub(crate) stop: Option<Lsn>,
    /// The last whole record, and its end.
    pub(crate) last: Option<(Lsn, Lsn)>,
    /// The newest time of a commit or rollback before it.
    pub(crate) last_change_us: Option<i64>,
    /// Where the restore point begins that the recovery stops at.
    point: Option<Lsn>,
    /// Where another one of that name begins.
    again: Option<Lsn>,
}

/// How a target is given to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Aim {
    /// What the server is told.
    pub(crate) target: RecoveryTarget,
    /// Whether what it stops at belongs to it.
    pub(crate) inclusive: bool,
    /// The position after the last record that is replayed.
    pub(crate) stop: Lsn,
}

/// Why there is no aim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Miss {
    /// It was met before the files of the set are consistent: an older set is needed.
    TooEarly,
    /// Nothing was committed between the set and a time: the log does not tell whether the set is older than it.
    Undated,
    /// It lies behind the end of the log.
    Beyond,
    /// The log holds no such transaction or restore point since the set.
    Unknown,
    /// The log holds two restore points of that name, which begin here.
    Ambiguous(Lsn, Lsn),
}

impl<'a> Seeker<'a> {
    pub(crate) fn new(target: &'a RecoveryTarget, inclusive: bool) -> Self {
        Self { target, inclusive, is_dated: false, recorded: None, seen: Seen::default() }
    }

    /// The same for a set that is known to be older than the time that is looked for.
    pub(crate) fn dated(self) -> Self {
        Self { is_dated: true, ..self }
    }

    /// The same for a restore point that the repository says lies at `at`, if it says so: no other one can be meant.
    pub(crate) fn recorded(self, at: Option<Lsn>) -> Self {
        Self { recorded: at, ..self }
    }

    /// Takes the next record. Breaks when the target is found, and nothing more has to be known.
    pub(crate) fn see(&mut self, record: &SeenRecord) -> ControlFlow<()> {
        if let Some(stop) = self.seen.stop {
            return self.look_for_another(record, stop);
        }
        self.seen.stop = self.stop_at(record);
        let stops_before = self.seen.stop == Some(Lsn(record.at));
        if !stops_before {
            self.seen.last = Some((Lsn(record.at), Lsn(record.end)));
            self.seen.last_change_us = transaction_time(&record.kind).max(self.seen.last_change_us);
        }
        match self.seen.stop {
            Some(stop) if self.is_settled(stop) => ControlFlow::Break(()),
            Some(_) => {
                self.seen.point = Some(Lsn(record.at));
                ControlFlow::Continue(())
            }
            None => ControlFlow::Continue(()),
        }
    }

    /// Whether what begins behind `stop` is of no matter: but for restore points that the repository does not know to be there.
    fn is_settled(&self, stop: Lsn) -> bool {
        let is_recorded = |at: Lsn| at.0 == stop.0.next_multiple_of(RECORD_ALIGNMENT);
        !matches!(self.target, RecoveryTarget::Name(_)) || self.recorded.is_some_and(is_recorded)
    }

    /// Whether the target is found, and what is read since is looked through for another one of its name alone, of which nobody knows.
    pub(crate) fn looks_for_another(&self) -> bool {
        let is_open = self.recorded.is_none() && self.seen.again.is_none();
        is_open && self.seen.stop.is_some_and(|stop| !self.is_settled(stop))
    }

    fn look_for_another(&mut self, record: &SeenRecord, stop: Lsn) -> ControlFlow<()> {
        if self.is_settled(stop) || self.seen.again.is_some() {
            return ControlFlow::Break(());
        }
        if self.stop_at(record).is_none() {
            return ControlFlow::Continue(());
        }
        self.seen.again = Some(Lsn(record.at));
        ControlFlow::Break(())
    }

    /// The position after the last record that is replayed, when `record` is what the recovery stops at.
    fn stop_at(&self, record: &SeenRecord) -> Option<Lsn> {
        let (before, behind) = (Lsn(record.at), Lsn(record.end));
        let by_inclusion = if self.inclusive { behind } else { before };
        match (self.target, &record.kind) {
            (RecoveryTarget::Lsn(wanted), _) => (record.at >= wanted.0).then_some(by_inclusion),
            (RecoveryTarget::Time(wanted), kind) => {
                let (time, wanted) = (transaction_time(kind)?, super::microseconds(*wanted));
                let is_past = if self.inclusive { time > wanted } else { time >= wanted };
                is_past.then_some(before)
            }
            (RecoveryTarget::Xid(wanted), RecordKind::Commit { xid, .. } | RecordKind::Abort { xid, .. }) => {
                (xid == wanted).then_some(by_inclusion)
            }
            (RecoveryTarget::Name(wanted), RecordKind::RestorePoint { name, .. }) => {
                (name == wanted).then_some(behind)
            }
            _ => None,
        }
    }

    /// What the server is to be told, for a set that is consistent from `consistent` on and a log that ends at `log_end`.
    pub(crate) fn aim(&self, consistent: Lsn, log_end: Lsn) -> Result<Aim, Miss> {
        let (target, inclusive) = (self.target.clone(), self.inclusive);
        let last = self.seen.last;
        if let (Some(first), Some(second)) = (self.seen.point, self.seen.again) {
            return Err(Miss::Ambiguous(first, second));
        }
        match (self.seen.stop, self.target) {
            (Some(stop), _) if stop < consistent => Err(Miss::TooEarly),
            (Some(_), RecoveryTarget::Time(_)) if self.seen.last_change_us.is_none() && !self.is_dated => {
                Err(Miss::Undated)
            }
            (Some(stop), _) => Ok(Aim { target, inclusive, stop }),
            (None, RecoveryTarget::Latest) => {
                let stop = last.map_or(consistent, |(_, end)| end.max(consistent));
                Ok(Aim { target, inclusive: true, stop })
            }
            (None, RecoveryTarget::Lsn(wanted)) => match last {
                Some((at, stop)) if *wanted <= log_end && stop >= consistent => {
                    Ok(Aim { target: RecoveryTarget::Lsn(at), inclusive: true, stop })
                }
                _ => Err(Miss::Beyond),
            },
            (None, RecoveryTarget::Time(wanted)) => match (last, self.seen.last_change_us) {
                (Some((at, stop)), Some(newest))
                    if super::microseconds(*wanted) <= newest && stop >= consistent =>
                {
                    Ok(Aim { target: RecoveryTarget::Lsn(at), inclusive: true, stop })
                }
                _ => Err(Miss::Beyond),
            },
            (None, RecoveryTarget::Xid(_) | RecoveryTarget::Name(_)) => Err(Miss::Unknown),
        }
    }
}

/// The time of a commit or rollback.
pub(crate) fn transaction_time(kind: &RecordKind) -> Option<i64> {
    match kind {
        RecordKind::Commit { at_us, .. } | RecordKind::Abort { at_us, .. } => Some(*at_us),
        RecordKind::RestorePoint { .. } | RecordKind::Other => None,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// A log with a record every ten bytes from 100 on: commits of transactions 1, 2, 3 at seconds 1, 2, 3, a name, and a rest.
    fn log() -> Vec<SeenRecord> {
        let second = |number: i64| number * 1_000_000;
        let kinds = [
            RecordKind::Other,
            RecordKind::Commit { xid: 1, at_us: second(1) },
            RecordKind::Commit { xid: 2, at_us: second(2) },
            RecordKind::RestorePoint { name: "here".to_owned(), at_us: second(2) },
            RecordKind::Abort { xid: 3, at_us: second(3) },
            RecordKind::Other,
        ];
        let record =
            |(index, kind)| SeenRecord { at: 100 + 10 * index as u64, end: 108 + 10 * index as u64, kind };
        kinds.into_iter().enumerate().map(record).collect()
    }

    fn aim(
        target: &RecoveryTarget,
        inclusive: bool,
        consistent: u64,
    ) -> Result<(RecoveryTarget, bool, u64), Miss> {
        let mut seeker = Seeker::new(target, inclusive);
        let _ = log().iter().try_for_each(|record| seeker.see(record));
        seeker.aim(Lsn(consistent), Lsn(165)).map(|aim| (aim.target, aim.inclusive, aim.stop.0))
    }

    fn time(seconds: i64) -> RecoveryTarget {
        RecoveryTarget::Time(crate::wal::timestamp(seconds * 1_000_000).unwrap())
    }

    #[test]
    fn recovery_stops_where_the_server_would() {
        use RecoveryTarget::{Latest, Lsn as At, Name, Xid};
        let at = |position| At(Lsn(position));
        let cases = [
            (at(120), true, Ok(128)),
            (at(121), true, Ok(138)),
            (at(120), false, Ok(120)),
            (at(50), true, Ok(108)),
            (time(1), true, Ok(120)),
            (time(2), true, Ok(140)),
            (Xid(2), true, Ok(128)),
            (Xid(2), false, Ok(120)),
            (Xid(3), true, Ok(148)),
            (Xid(9), true, Err(Miss::Unknown)),
            (Name("here".to_owned()), true, Ok(138)),
            (Name("there".to_owned()), true, Err(Miss::Unknown)),
            (Latest, true, Ok(158)),
        ];
        for (target, inclusive, expected) in cases {
            let found = aim(&target, inclusive, 100);
            assert_eq!(found.clone().map(|(_, _, stop)| stop), expected, "{target:?} {inclusive}");
            if let Ok((told, told_inclusive, _)) = found {
                assert_eq!((told, told_inclusive), (target, inclusive));
            }
        }
    }

    #[test]
    fn what_the_log_reaches_without_a_record_behind_it_is_its_last_record() {
        let last = |target: &RecoveryTarget, inclusive| aim(target, inclusive, 100);
        let expected = Ok((RecoveryTarget::Lsn(Lsn(150)), true, 158));
        assert_eq!(last(&RecoveryTarget::Lsn(Lsn(158)), true), expected);
        assert_eq!(last(&RecoveryTarget::Lsn(Lsn(165)), false), expected);
        assert_eq!(last(&time(3), true), expected);
        assert_eq!(last(&RecoveryTarget::Lsn(Lsn(166)), true), Err(Miss::Beyond));
        assert_eq!(last(&time(4), true), Err(Miss::Beyond));
    }

    #[test]
    fn a_name_that_was_given_twice_leads_nowhere_unless_it_is_known_which_is_meant() {
        let named = |at| SeenRecord {
            at,
            end: at + 6,
            kind: RecordKind::RestorePoint { name: "here".to_owned(), at_us: 0 },
        };
        let other = SeenRecord { at: 108, end: 116, kind: RecordKind::Other };
        let target = RecoveryTarget::Name("here".to_owned());
        let aim = |recorded: Option<u64>, log: &[SeenRecord]| {
            let mut seeker = Seeker::new(&target, true).recorded(recorded.map(Lsn));
            let _ = log.iter().try_for_each(|record| seeker.see(record));
            seeker.aim(Lsn(90), Lsn(200)).map(|aim| aim.stop.0)
        };
        let twice = [named(100), other.clone(), named(120), named(140)];
        let ambiguous = Err(Miss::Ambiguous(Lsn(100), Lsn(120)));
        assert_eq!(aim(None, &twice), ambiguous);
        assert_eq!(aim(Some(128), &twice), ambiguous, "the server would stop before the one that is meant");
        assert_eq!(aim(Some(112), &[named(104), other.clone(), named(120)]), Ok(110));
        assert_eq!(aim(None, &[named(100), other]), Ok(106));

        // What is damaged behind the first of a name keeps nobody from it; damage before it does.
        let looks_for_another = |recorded: Option<u64>, log: &[SeenRecord]| {
            let mut seeker = Seeker::new(&target, true).recorded(recorded.map(Lsn));
            let _ = log.iter().try_for_each(|record| seeker.see(record));
            seeker.looks_for_another()
        };
        assert!(!looks_for_another(None, &twice[1..2]));
        assert!(looks_for_another(None, &twice[..2]));
        assert!(!looks_for_another(None, &twice), "it was found");
        assert!(!looks_for_another(Some(128), &twice[..2]), "another one is meant");
        assert!(!looks_for_another(Some(112), &[named(104)]), "no other one can be meant");
    }

    #[test]
    fn a_time_without_a_commit_between_it_and_the_set_needs_a_date() {
        assert_eq!(aim(&time(0), true, 100), Err(Miss::Undated));
        let early = time(0);
        let mut seeker = Seeker::new(&early, true).dated();
        let _ = log().iter().try_for_each(|record| seeker.see(record));
        assert_eq!(seeker.aim(Lsn(100), Lsn(165)).unwrap().stop, Lsn(110));
    }

    #[test]
    fn a_set_that_is_not_consistent_by_then_is_too_new() {
        assert_eq!(aim(&time(1), true, 121), Err(Miss::TooEarly));
        assert_eq!(aim(&time(1), true, 120).unwrap().2, 120);
        assert_eq!(
            aim(&RecoveryTarget::Latest, true, 300).unwrap().2,
            300,
            "a set behind the log needs none of it"
        );
    }
}
