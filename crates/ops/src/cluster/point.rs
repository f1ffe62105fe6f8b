//! Finding the base backup and the WAL that lead to a moment: reads only.
//!
//! The newest base backup that is consistent by then is taken. A server would also take one that is newer than a time, and bring back what was
//! committed since; so one must be shown to be older, by a commit behind it that is, or by the clocks where no older set leads there. Whether
//! it is, and whether the log reaches the moment at all, is decided by walking over the log as the server will, for a server that misses its
//! target refuses to start.

use mainstay_basebackup::{Lineage, SeenRecord};
use mainstay_model::progress::Observer;
use mainstay_model::{Error, ErrorKind, Lsn, Result, ResultExt, Timestamp};
use mainstay_repository::{Repository, Set};

use super::recovery::{Recovery, RecoveryAction, reads_up_to};
use crate::wal::log::{WalLog, WalLogs};
use crate::wal::ranges::{ContinuedSet, sets_to_continue};
use crate::wal::seek::{Miss, RecoveryTarget, Seeker};
use crate::wal::timestamp;

/// A moment that is asked for.
#[derive(Debug, Clone)]
pub struct RecoveryRequest {
    /// The set to begin with; `None` for the newest that leads there.
    pub set: Option<Set>,
    /// The moment.
    pub target: RecoveryTarget,
    /// Whether what the recovery stops at belongs to it.
    pub inclusive: bool,
    /// The timeline to follow; `None` for the newest that a set leads to.
    pub timeline: Option<u32>,
    /// What the server does then.
    pub action: RecoveryAction,
}

/// Finds the set, and decides the recovery.
///
/// # Errors
/// `Precondition` when the moment cannot be restored, with the range that can; `Corrupt` when the log is damaged on the way; the store's.
pub async fn find_recovery(
    repository: &Repository,
    request: &RecoveryRequest,
    observer: &dyn Observer,
) -> Result<(Set, Recovery)> {
    let sets = match &request.set {
        Some(set) => vec![ContinuedSet { set: set.clone(), contents: set.contents()? }],
        None => sets_to_continue(repository, None).await?,
    };
    let server = sets.last().map(|newest| newest.contents.server.fingerprint.clone()).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "the repository holds no sound backup set of postgres")
            .with_state("nothing was changed")
            .with_hint("`mainstay backup create --store postgres` makes one")
    })?;
    if let Some(other) = sets.iter().find(|set| set.contents.server.fingerprint != server) {
        return Err(Error::new(
            ErrorKind::Usage,
            format!(
                "the repository holds base backups of servers {server} and {}, and it is not said which is meant",
                other.contents.server.fingerprint
            ),
        )
        .with_state("nothing was changed")
        .with_hint("name a set of the right one: `mainstay backup list --store postgres`"));
    }
    let log = WalLogs::read(repository).await?.of(&server).ok_or_else(|| {
        Error::new(ErrorKind::Precondition, format!("no WAL of server {server} was captured"))
            .with_state("nothing was changed")
            .with_hint("`mainstay capture postgres` captures it; without `--to` a set is restored as it is")
    })?;
    observer.phase("read WAL");
    let search = Search { repository, log: &log, request, observer };
    search.run(&sets).await
}

struct Search<'a> {
    repository: &'a Repository,
    log: &'a WalLog,
    request: &'a RecoveryRequest,
    observer: &'a dyn Observer,
}

impl Search<'_> {
    async fn run(&self, sets: &[ContinuedSet]) -> Result<(Set, Recovery)> {
        let known = self.known_point().await?;
        let (mut missed, mut undated) = (None, Vec::new());
        for set in sets.iter().rev() {
            let reach = self.reach(set)?;
            if let (RecoveryTarget::Latest, Some(hole)) = (&self.request.target, self.hole(set)?) {
                return Err(self.not_the_latest(set, reach, hole).await?);
            }
            let Some((timeline, reach)) = reach else { continue };
            if known.is_some_and(|at| set.contents.end > at) {
                missed = missed.or(Some(Miss::TooEarly));
                continue;
            }
            match self.aim(set, timeline, reach, known).await? {
                Ok(recovery) => return Ok((set.set.clone(), recovery)),
                Err(miss @ Miss::Ambiguous(..)) => return Err(self.refuse(sets, Some(miss)).await),
                Err(Miss::Undated) => undated.push((set, timeline, reach)),
                Err(miss) => missed = Some(miss),
            }
            if missed == Some(Miss::Beyond) {
                break;
            }
        }
        // No older set leads there, so that the clocks must do.
        if let RecoveryTarget::Time(wanted) = self.request.target
            && !undated.is_empty()
        {
            let older = undated.into_iter().find(|(set, ..)| set.set.manifest().completed_at <= wanted);
            if let Some((set, timeline, reach)) = older
                && let Ok(recovery) = self.aim_dated(set, timeline, reach).await?
            {
                return Ok((set.set.clone(), recovery));
            }
            missed = Some(Miss::TooEarly);
        }
        Err(self.refuse(sets, missed).await)
    }

    /// Where a named point lies, when this repository recorded it.
    async fn known_point(&self) -> Result<Option<Lsn>> {
        let RecoveryTarget::Name(name) = &self.request.target else { return Ok(None) };
        let point = self.repository.point(mainstay_model::StoreKind::Postgres, &self.log.server, name).await;
        // A damaged record is of no matter where the log has the point itself.
        Ok(point.ok().flatten().map(|point| Lsn(point.at.0)))
    }

    /// The timeline that is followed from `set`, and how far the log goes on it; `None` when it does not continue the set.
    fn reach(&self, set: &ContinuedSet) -> Result<Option<(u32, Lsn)>> {
        Ok(self.lineage(set)?.and_then(|lineage| Some((lineage.timeline(), set.reach(self.log, lineage)?))))
    }

    /// Where slices are missing behind `set`, when they are.
    fn hole(&self, set: &ContinuedSet) -> Result<Option<Lsn>> {
        Ok(self.lineage(set)?.and_then(|lineage| set.hole(self.log, lineage)))
    }

    fn lineage(&self, set: &ContinuedSet) -> Result<Option<&Lineage>> {
        Ok(match self.request.timeline {
            None => self.log.newest_from(set.contents.timeline, set.contents.end),
            Some(timeline) => Some(self.log.lineage(timeline).ok_or_else(|| {
                let timelines: Vec<_> = self.log.timelines().iter().map(ToString::to_string).collect();
                Error::new(ErrorKind::NotFound, format!("no WAL of timeline {timeline} was captured"))
                    .with_state("nothing was changed")
                    .with_hint(format!("there is WAL of timelines {}", timelines.join(", ")))
            })?),
        })
    }

    async fn aim(
        &self,
        set: &ContinuedSet,
        timeline: u32,
        reach: Lsn,
        known: Option<Lsn>,
    ) -> Result<Result<Recovery, Miss>> {
        let seeker = Seeker::new(&self.request.target, self.request.inclusive).recorded(known);
        self.aim_with(seeker, set, timeline, reach).await
    }

    /// The same for a set that is older than the time that is asked for.
    async fn aim_dated(
        &self,
        set: &ContinuedSet,
        timeline: u32,
        reach: Lsn,
    ) -> Result<Result<Recovery, Miss>> {
        let seeker = Seeker::new(&self.request.target, self.request.inclusive).dated();
        self.aim_with(seeker, set, timeline, reach).await
    }

    async fn aim_with(
        &self,
        mut seeker: Seeker<'_>,
        set: &ContinuedSet,
        timeline: u32,
        reach: Lsn,
    ) -> Result<Result<Recovery, Miss>> {
        let Some(lineage) = self.log.lineage(timeline) else { return Ok(Err(Miss::Unknown)) };
        let from = set.contents.begin;
        let mut see = |record: SeenRecord| seeker.see(&record);
        let walked = self.log.walk(self.repository, lineage, (from, reach), self.observer, &mut see).await;
        let context = || format!("read WAL after set {}", set.set.id());
        let found = seeker.seen.stop.filter(|_| seeker.looks_for_another());
        match (walked, found) {
            (Err(error), Some(stop)) if error.kind() == ErrorKind::Corrupt => {
                self.read_behind(lineage, stop, reach).await.with_context(context)?;
                self.observer.notice(&format!(
                    "the log behind {} cannot be read, so it is not known whether the name was given again; a server stops at the first",
                    asked(&self.request.target)
                ));
            }
            (walked, _) => walked.with_context(context)?,
        }
        Ok(seeker.aim(set.contents.end, reach).map(|aim| Recovery {
            asked: self.request.target.clone(),
            target: aim.target,
            inclusive: aim.inclusive,
            server: self.log.server.clone(),
            timeline,
            from,
            stop: aim.stop,
            action: self.request.action,
        }))
    }

    /// Reads what a server may ask for behind the record that ends at `stop`, which a restore reads, too, before it writes.
    async fn read_behind(&self, lineage: &Lineage, stop: Lsn, reach: Lsn) -> Result<()> {
        let through = reach.min(reads_up_to(stop, self.log.segment_bytes));
        for piece in &self.log.pieces(lineage, stop, through)? {
            piece.read(self.repository).await?;
        }
        Ok(())
    }

    /// What is the latest is known, and cannot be had: `hole` is in the way.
    async fn not_the_latest(
        &self,
        set: &ContinuedSet,
        reach: Option<(u32, Lsn)>,
        hole: Lsn,
    ) -> Result<Error> {
        let error = Error::new(
            ErrorKind::Corrupt,
            format!(
                "the captured WAL has a hole at {hole}: slices are missing, and the end of the log cannot be reached from set {}",
                set.set.id()
            ),
        );
        let names = "`mainstay backup verify --log` names what is missing";
        let recovery = match reach {
            Some((timeline, reach)) => self.aim(set, timeline, reach, None).await?.ok(),
            None => None,
        };
        Ok(match recovery {
            Some(Recovery { stop, .. }) => error
                .with_state(format!("nothing was changed; before the segment with the hole everything can be restored, up to {stop}"))
                .with_hint(format!("`--to {stop}` restores that; {names}")),
            None => error.with_state("nothing was changed; the set itself can be restored without `--to`").with_hint(names),
        })
    }

    async fn refuse(&self, sets: &[ContinuedSet], missed: Option<Miss>) -> Error {
        if let Some(Miss::Ambiguous(first, second)) = missed {
            let what = asked(&self.request.target);
            return Error::new(
                ErrorKind::Precondition,
                format!("{what} is in the captured WAL twice, at {first} and at {second}"),
            )
            .with_state("nothing was changed; a server would stop at the first")
            .with_hint(format!("say which is meant by its position: `--to {first}` or `--to {second}`"));
        }
        let range = self.range(sets);
        let may_lie_behind = matches!(missed, None | Some(Miss::Beyond | Miss::Unknown));
        let hole = sets.iter().rev().find_map(|set| self.hole(set).ok().flatten());
        if let Some(hole) = hole.filter(|_| may_lie_behind) {
            return self.behind(hole, range.as_ref());
        }
        let Some(range) = range else {
            return Error::new(ErrorKind::Precondition, "the captured WAL continues none of the backup sets")
                .with_state("nothing was changed")
                .with_hint("take a base backup while `mainstay capture postgres` runs: `mainstay backup create --store postgres`");
        };
        let what = asked(&self.request.target);
        let message = match missed {
            Some(Miss::TooEarly | Miss::Undated) => {
                format!("{what} lies before the first moment that can be restored")
            }
            Some(Miss::Beyond) => format!("{what} lies behind the end of the captured WAL"),
            Some(Miss::Unknown | Miss::Ambiguous(..)) | None => format!("{what} is not in the captured WAL"),
        };
        let last_change = self.log.last_change(self.repository, range.timeline).await.and_then(timestamp);
        let last_change =
            last_change.map_or_else(String::new, |at| format!(", whose last change is of {at}"));
        let Restorable { from, from_at, through, timeline } = range;
        Error::new(ErrorKind::Precondition, message)
            .with_state(format!(
                "nothing was changed; what can be restored is {from} ({from_at}) to {through}{last_change}, on timeline {timeline}"
            ))
            .with_hint("choose a moment in that range, or the end of it: `--to latest`")
    }

    /// What the sets and the log lead to; `None` when they lead nowhere.
    fn range(&self, sets: &[ContinuedSet]) -> Option<Restorable> {
        let reached = |set| self.reach(set).ok().flatten();
        let first = sets.iter().find(|set| reached(set).is_some())?;
        let (timeline, through) = sets.iter().rev().find_map(reached)?;
        Some(Restorable {
            from: first.contents.end,
            from_at: first.set.manifest().completed_at,
            through,
            timeline,
        })
    }

    /// What was asked for may lie behind a hole, or in its segment.
    fn behind(&self, hole: Lsn, range: Option<&Restorable>) -> Error {
        let state = match range {
            Some(Restorable { from, from_at, through, timeline }) => format!(
                "nothing was changed; what can be restored is {from} ({from_at}) to {through}, where the segment with the hole begins, on timeline {timeline}"
            ),
            None => "nothing was changed; the sets themselves can be restored without `--to`".to_owned(),
        };
        let what = asked(&self.request.target);
        Error::new(
            ErrorKind::Corrupt,
            format!(
                "{what} cannot be reached: the captured WAL has a hole at {hole}, where slices are missing"
            ),
        )
        .with_state(state)
        .with_hint("`mainstay backup verify --log` names what is missing")
    }
}

/// What can be restored.
struct Restorable {
    from: Lsn,
    /// When the set was complete that begins it.
    from_at: Timestamp,
    through: Lsn,
    timeline: u32,
}

/// What was asked for, in words.
fn asked(target: &RecoveryTarget) -> String {
    match target {
        RecoveryTarget::Latest => "the end of the log".to_owned(),
        RecoveryTarget::Time(at) => format!("the time {at}"),
        RecoveryTarget::Lsn(at) => format!("the position {at}"),
        RecoveryTarget::Xid(xid) => format!("the end of transaction {xid}"),
        RecoveryTarget::Name(name) => format!("the restore point `{name}`"),
    }
}

impl Recovery {
    /// What was asked for, in words.
    pub fn asked_for(&self) -> String {
        asked(&self.asked)
    }
}
