//! Replaying the log into everything that was loaded, once for all collections.
//!
//! Replaying is idempotent, so a run that was killed goes on from the last position that it knew to be at the server: what the log did past
//! it may be in already. From there the digest that each collection must reach is reckoned anew, from what it holds then.

use jiff::SignedDuration;
use mainstay_engine::{ChangeCounts, DocumentDigest, ReplayTarget, Replayed};
use mainstay_model::progress::Work;
use mainstay_model::{Error, ErrorKind, LogPosition, OpTime, Result, ResultExt, Timestamp};

use futures::TryStreamExt;

use super::apply::Restore;
use super::log::{Log, work_of};
use super::wanted::Wanted;
use crate::placement::run::{Event, Held, ReplayedItem};
use crate::placement::{ItemWork, Made, Step, Works};

/// How much is replayed before the position is recorded: what a run that was killed has to replay again, at most.
const BYTES_BETWEEN_FLUSHES: u64 = 64 * 1024 * 1024;
/// And how long.
const TIME_BETWEEN_FLUSHES: SignedDuration = SignedDuration::from_secs(5);

impl Restore<'_> {
    /// Brings every collection that was loaded to the end of the log, but for those that an earlier try has brought there.
    pub(super) async fn replay<'w>(
        self,
        log: &Log,
        wanted: &[Wanted<'_>],
        steps: Works<'w, Step>,
    ) -> Result<Works<'w, Step>> {
        let mut steps = steps;
        let waiting: Vec<usize> = (0..steps.len()).filter(|index| is_waiting(&steps[*index].1)).collect();
        if waiting.is_empty() {
            return Ok(steps);
        }
        let beginning = LogPosition::optime(log.piece.span.after);
        let after = waiting.iter().map(|index| replayed_through(&steps[*index].1).unwrap_or(beginning));
        let after = after.min().unwrap_or(beginning);
        let targets = targets(wanted, &waiting, &steps).await?;
        // From here on the collections may be ahead of the set.
        self.placement.run.record(Event::Flushed { through: after }).await?;
        let replayed = self.feed(log, after, targets).await?;
        let items = take(&waiting, replayed, &mut steps)?;
        self.placement.run.record(Event::Replayed { items }).await?;
        Ok(steps)
    }

    /// Feeds the log after `after` to a replayer, and records how far it is now and then.
    async fn feed(self, log: &Log, after: OpTime, targets: Vec<ReplayTarget>) -> Result<Vec<Replayed>> {
        let context = self.context;
        self.begin_phase("replay", log.work);
        let mut replayer = context
            .replay
            .replayer(targets, log.piece.span.until)
            .await
            .context("begin to replay the log")?;
        let mut entries = log.piece.read(context.repository, after.into());
        let mut pace = Pace::begin(context.clock.now());
        while let Some((slice, _)) = entries.try_next().await? {
            self.placement.check_lease()?;
            let work = work_of(&slice);
            replayer.apply(slice).await.context("replay the log")?;
            context.observer.advance(work);
            if pace.is_due(work, context.clock.now())
                && let Some(through) = replayer.flush().await.context("replay the log")?
            {
                self.placement.run.record(Event::Flushed { through }).await?;
            }
        }
        replayer.end().await.context("replay the log")
    }
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
    fn is_due(&mut self, work: Work, now: Timestamp) -> bool {
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
async fn targets(
    wanted: &[Wanted<'_>],
    waiting: &[usize],
    steps: &Works<'_, Step>,
) -> Result<Vec<ReplayTarget>> {
    let mut targets = Vec::with_capacity(waiting.len());
    for index in waiting {
        let (work, step) = &steps[*index];
        let Step::Made(made) = step else { continue };
        let target = target(&wanted[work.index], work, made).await;
        targets.push(target.with_context(|| format!("restore {}", work.item.target))?);
    }
    Ok(targets)
}

async fn target(wanted: &Wanted<'_>, work: &ItemWork<'_>, made: &Made) -> Result<ReplayTarget> {
    let identity = wanted
        .log
        .as_ref()
        .and_then(|log| log.identity.clone())
        .ok_or_else(|| Error::new(ErrorKind::Internal, "the log does not tell which collection it is"))?;
    let Held::Loaded { digest, through } = made.held else {
        return Err(Error::new(ErrorKind::Internal, "the log was replayed into it already"));
    };
    let digest = match through {
        None => digest,
        // An earlier try has begun to replay.
        Some(_) => work.read_back(&made.name).await?,
    };
    Ok(ReplayTarget {
        identity,
        namespace: made.name.clone(),
        kind: wanted.kind,
        capped: wanted.capped,
        holds_through: through.map_or(wanted.holds_through(), |through| through.max(wanted.holds_through())),
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
        let some = |bytes| Work { items: 1, bytes };
        let mut pace = Pace::begin(at(0));
        assert!(!pace.is_due(some(BYTES_BETWEEN_FLUSHES - 1), at(1)));
        assert!(pace.is_due(some(1), at(1)));
        assert!(!pace.is_due(some(1), at(5)));
        assert!(pace.is_due(some(1), at(6)));
    }
}
