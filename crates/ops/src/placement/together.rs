//! Bringing all collections to one moment: a log is replayed once into everything that was loaded, and none gets its name before all are
//! proven and indexed.
//!
//! Replaying is idempotent, so a run that was killed goes on from the last position that it knew to be at the server: what the log did past
//! it may be in already. From there the digest that each collection must reach is reckoned anew, from what it holds then.

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, TryStreamExt};
use jiff::SignedDuration;
use mainstay_engine::{
    ChangeCounts, ChangeReplay, DocumentDigest, ReplayTarget, Replayed, Until, document_frames,
};
use mainstay_model::progress::Work as Amount;
use mainstay_model::{Error, ErrorKind, OpTime, Result, ResultExt, Timestamp};

use super::content::Logged;
use super::item::{ItemReport, ItemWork, Made, Step};
use super::run::{Event, Held, ReplayedItem};
use super::work::{Placement, Turn, Works};

/// How many collections are proven, indexed or put in place at the same time.
const COLLECTION_COUNT_MAX: usize = 3;
/// How much is replayed before the position is recorded: what a run that was killed has to replay again, at most.
const BYTES_BETWEEN_FLUSHES: u64 = 64 * 1024 * 1024;
/// And how long.
const TIME_BETWEEN_FLUSHES: SignedDuration = SignedDuration::from_secs(5);

/// A log that leads to the moment, wherever it lies.
pub(crate) trait Log: Send + Sync {
    /// Its end.
    fn until(&self) -> Until;

    /// Where its reading begins when nothing of it has been replayed: everything up to there is in the collections, or is skipped.
    fn beginning(&self) -> OpTime;

    /// Its entries and bytes.
    fn work(&self) -> Amount;

    /// Whole entries, one piece after the other: those after `after`, and perhaps earlier ones. Called once.
    fn read(&self, after: OpTime) -> BoxStream<'_, Result<Bytes>>;
}

/// What leads from the documents that come to the moment.
pub(crate) struct Moment<'a> {
    pub(crate) replay: &'a dyn ChangeReplay,
    /// Let go of when it has been replayed, so that nobody waits to hand it over.
    pub(crate) log: Box<dyn Log + 'a>,
}

impl<'a> Placement<'a> {
    /// Takes all collections through each step: loads those whose turn comes, at most `at_once` of them at the same time and `documents` in
    /// all, replays the log into them together, proves, indexes, and puts them in place; views last, so that what they read stands before
    /// them.
    pub(crate) async fn bring_together<'w>(
        self,
        turns: impl Stream<Item = Turn<'w>>,
        at_once: usize,
        documents: Amount,
        moment: Moment<'_>,
    ) -> Result<Vec<(usize, ItemReport)>>
    where
        'a: 'w,
    {
        let observer = self.context.observer;
        let advance = || observer.advance(Amount { items: 1, bytes: 0 });
        self.begin_phase("load", documents);
        let steps = self.load(turns, at_once).await?;
        let collections = Amount { items: steps.len() as u64, bytes: 0 };
        let steps = self.replay(moment, steps).await?;
        self.begin_phase("prove", documents);
        let prove = async |work: &ItemWork<'_>, step| work.prove(step).await;
        let steps = self.pass(steps, COLLECTION_COUNT_MAX, prove).await?;
        self.begin_phase("indexes", collections);
        let index = async |work: &ItemWork<'_>, step| work.index(step).await.inspect(|_| advance());
        let steps = self.pass(steps, COLLECTION_COUNT_MAX, index).await?;
        self.begin_phase("put in place", collections);
        let place = async |work: &ItemWork<'_>, step| work.place(step).await.inspect(|_| advance());
        let (views, collections): (Vec<_>, Vec<_>) = steps.into_iter().partition(|(work, _)| work.is_view());
        let mut reports = self.pass(collections, COLLECTION_COUNT_MAX, &place).await?;
        reports.extend(self.pass(views, COLLECTION_COUNT_MAX, &place).await?);
        Ok(reports.into_iter().map(|(work, report)| (work.index, report)).collect())
    }

    fn begin_phase(self, name: &str, expected: Amount) {
        self.context.observer.phase(name);
        self.context.observer.expect(expected);
    }

    /// Brings every collection that was loaded to the end of the log, but for those that an earlier try has brought there.
    async fn replay<'w>(self, moment: Moment<'_>, steps: Works<'w, Step>) -> Result<Works<'w, Step>> {
        let mut steps = steps;
        let waiting: Vec<usize> = (0..steps.len()).filter(|index| is_waiting(&steps[*index].1)).collect();
        if waiting.is_empty() {
            return Ok(steps);
        }
        let beginning = moment.log.beginning();
        let after = waiting.iter().map(|index| replayed_through(&steps[*index].1).unwrap_or(beginning));
        let after = after.min().unwrap_or(beginning);
        let targets = targets(&waiting, &steps).await?;
        // From here on the collections may be ahead of what came.
        self.run.record(Event::Flushed { through: after }).await?;
        let replayed = self.feed(moment, after, targets).await?;
        let items = take(&waiting, replayed, &mut steps)?;
        self.run.record(Event::Replayed { items }).await?;
        Ok(steps)
    }

    /// Feeds the log after `after` to a replayer, and records how far it is now and then.
    async fn feed(
        self,
        moment: Moment<'_>,
        after: OpTime,
        targets: Vec<ReplayTarget>,
    ) -> Result<Vec<Replayed>> {
        let Moment { replay, log } = moment;
        self.begin_phase("replay", log.work());
        let mut replayer = replay.replayer(targets, log.until()).await.context("begin to replay the log")?;
        let mut entries = log.read(after);
        let mut pace = Pace::begin(self.context.clock.now());
        while let Some(piece) = entries.try_next().await? {
            self.check_lease()?;
            let work = work_of(&piece);
            replayer.apply(piece).await.context("replay the log")?;
            self.context.observer.advance(work);
            if pace.is_due(work, self.context.clock.now())
                && let Some(through) = replayer.flush().await.context("replay the log")?
            {
                self.run.record(Event::Flushed { through }).await?;
            }
        }
        replayer.end().await.context("replay the log")
    }
}

/// Entries and bytes of a piece of log.
pub(crate) fn work_of(entries: &[u8]) -> Amount {
    let whole = document_frames(entries).filter(std::result::Result::is_ok);
    Amount { items: whole.count() as u64, bytes: entries.len() as u64 }
}

/// When to record how far the replay is.
struct Pace {
    bytes: u64,
    since: Timestamp,
}

impl Pace {
    fn begin(now: Timestamp) -> Self {
        Self { bytes: 0, since: now }
    }

    /// Counts `work` in, and tells whether it is time; then counting begins anew.
    fn is_due(&mut self, work: Amount, now: Timestamp) -> bool {
        self.bytes = self.bytes.saturating_add(work.bytes);
        let is_due =
            self.bytes >= BYTES_BETWEEN_FLUSHES || now.duration_since(self.since) >= TIME_BETWEEN_FLUSHES;
        if is_due {
            *self = Self::begin(now);
        }
        is_due
    }
}

/// Whether the log has not been replayed into it to its end.
fn is_waiting(step: &Step) -> bool {
    matches!(step, Step::Made(made) if matches!(made.held, Held::Loaded { .. }))
}

fn replayed_through(step: &Step) -> Option<OpTime> {
    let Step::Made(made) = step else { return None };
    match made.held {
        Held::Loaded { through, .. } => through,
        Held::End(_) | Held::Proven(_) => None,
    }
}

/// What the log is to be replayed into.
async fn targets(waiting: &[usize], steps: &Works<'_, Step>) -> Result<Vec<ReplayTarget>> {
    let mut targets = Vec::with_capacity(waiting.len());
    for index in waiting {
        let (work, step) = &steps[*index];
        let Step::Made(made) = step else { continue };
        targets.push(target(work, made).await.with_context(|| work.doing())?);
    }
    Ok(targets)
}

async fn target(work: &ItemWork<'_>, made: &Made) -> Result<ReplayTarget> {
    let untold = || Error::new(ErrorKind::Internal, "the log does not tell which collection it is");
    let Logged { identity, capped, holds_through, .. } = work.log().ok_or_else(untold)?;
    let Held::Loaded { digest, through } = made.held else {
        return Err(Error::new(ErrorKind::Internal, "the log was replayed into it already"));
    };
    let digest = match through {
        None => digest,
        // An earlier try has begun to replay.
        Some(_) => work.read_back(&made.name).await?,
    };
    Ok(ReplayTarget {
        identity: identity.ok_or_else(untold)?,
        namespace: made.name.clone(),
        kind: work.kind(),
        capped,
        holds_through: through.map_or(holds_through, |through| through.max(holds_through)),
        digest,
    })
}

/// Notes in `steps` what the collections must hold now, and gives it for the journal.
fn take(
    waiting: &[usize],
    replayed: Vec<Replayed>,
    steps: &mut Works<'_, Step>,
) -> Result<Vec<ReplayedItem>> {
    if waiting.len() != replayed.len() {
        return Err(Error::new(
            ErrorKind::Internal,
            "the replay tells of other collections than it was given",
        ));
    }
    let mut items = Vec::with_capacity(waiting.len());
    for (index, replayed) in waiting.iter().zip(replayed) {
        let (work, step) = &mut steps[*index];
        let Step::Made(made) = step else { continue };
        let digest = replayed.digest.or_else(|| untouched(work, made));
        made.replayed(digest);
        items.push(ReplayedItem { item: work.index, digest });
    }
    Ok(items)
}

/// What a collection holds that the log has left as it was, even if the replay cannot tell.
fn untouched(work: &ItemWork<'_>, made: &Made) -> Option<DocumentDigest> {
    let is_untouched = work.changes() == Some(ChangeCounts::default());
    match made.held {
        Held::Loaded { digest, .. } if is_untouched => Some(digest),
        _ => None,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_due_after_enough_bytes_or_time() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let some = |bytes| Amount { items: 1, bytes };
        let mut pace = Pace::begin(at(0));
        assert!(!pace.is_due(some(BYTES_BETWEEN_FLUSHES - 1), at(1)));
        assert!(pace.is_due(some(1), at(1)));
        assert!(!pace.is_due(some(1), at(5)));
        assert!(pace.is_due(some(1), at(6)));
    }
}
