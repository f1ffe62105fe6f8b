//! The piece of change log that a restore replays: reading it, and what it tells.
//!
//! It is read twice. [`Log::survey`] reads it without any server and tells what exists at its end; every slice is verified by that, so that
//! nothing is written when one is damaged. The replay reads it again ([`Piece::read`]). Both begin after what the set holds for certain, or
//! earlier, where a transaction began that was still open then.

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use mainstay_engine::{Namespace, PointCollection, StoredCollection, Surveyed, Unidentified, Until};
use mainstay_model::progress::Work;
use mainstay_model::{
    Assumption, Error, ErrorKind, LogPosition, OpTime, Result, ResultExt, SetId, StoreKind, canonical,
};
use mainstay_repository::{Chain, ChainEntry, Repository, Set, Slice};

use super::apply::MomentReport;
use super::point::PointContext;
use super::wanted::read_metadata;
use crate::contents::{CollectionRecord, DocumentSetContents};
use crate::placement::{self, LogSpan, SHADOW_PREFIX, work_of};

/// How many slices are read ahead.
const SLICE_COUNT_AHEAD: usize = 2;
/// How many objects of metadata are read at the same time.
const METADATA_COUNT_AHEAD: usize = 8;
/// What to do about a log that is not whole.
const COPY_BACK: &str = "copy it back from an off-site copy of the repository, or restore another moment: \
                         `mainstay backup list` shows which can be";

/// A piece of log where it lies.
pub(super) struct Piece {
    pub(super) span: LogSpan,
    pub(super) chain: Chain,
}

/// A piece of log that was read from beginning to end and found whole.
pub(super) struct Log {
    pub(super) piece: Piece,
    pub(super) surveyed: Surveyed,
    /// Entries and plain bytes of all its slices.
    pub(super) work: Work,
}

impl Log {
    /// Opens the piece of log that a plan names, and reads it from beginning to end.
    ///
    /// # Errors
    /// `Corrupt`, naming it, when a slice is missing or damaged.
    pub(super) async fn open(
        context: &PointContext<'_>,
        set: &Set,
        contents: &DocumentSetContents,
        span: &LogSpan,
    ) -> Result<Self> {
        let chains = context.repository.chains(StoreKind::Mongo).await?;
        let chain = match chains.into_iter().find(|entry| *entry.id() == span.chain) {
            Some(ChainEntry::Whole(chain)) => chain,
            Some(ChainEntry::Damaged { error, .. }) => return Err(error),
            None => {
                let gone = format!("log {} is gone from the repository", span.chain);
                return Err(Error::new(ErrorKind::Corrupt, gone).with_hint(COPY_BACK));
            }
        };
        Self::survey(context, set, contents, Piece { span: span.clone(), chain }).await
    }

    /// Reads the log from what the set holds to the end, and earlier where a transaction began earlier.
    pub(super) async fn survey(
        context: &PointContext<'_>,
        set: &Set,
        contents: &DocumentSetContents,
        mut piece: Piece,
    ) -> Result<Self> {
        let stored = stored_collections(set, contents).await?;
        loop {
            piece.check_whole()?;
            context.observer.phase("survey the log");
            context.observer.expect(piece.stored_work());
            let mut survey =
                context.replay.survey(stored.clone(), piece.span.until, Unidentified::Refused)?;
            let mut work = Work::default();
            let mut entries = piece.read(context.repository, piece.span.after);
            while let Some((slice, stored)) = entries.try_next().await? {
                survey.add(&slice)?;
                work = work.saturating_add(work_of(&slice));
                context.observer.advance(stored);
            }
            drop(entries);
            let surveyed = survey.end()?;
            match surveyed.needs_from {
                None => return Ok(Self { piece, surveyed, work }),
                Some(needed) => piece.begin_earlier(needed)?,
            }
        }
    }

    /// What existed at the moment, by name, as far as the set can tell: what it held, under whatever name since, and what was created later
    /// within what was backed up. What a restore was loading then is left out.
    pub(super) fn collections<'a>(
        &'a self,
        contents: &'a DocumentSetContents,
    ) -> impl Iterator<Item = &'a PointCollection> {
        let backed_up =
            |found: &PointCollection| found.origin.is_some() || contents.is_about(&found.namespace);
        self.surveyed.collections.iter().filter(move |found| backed_up(found) && !is_shadow(&found.namespace))
    }

    /// The collection that was called `name` at the moment.
    ///
    /// # Errors
    /// `StalePlan` when there was none.
    pub(super) fn collection(&self, name: &Namespace) -> Result<&PointCollection> {
        self.surveyed.collections.iter().find(|found| found.namespace == *name).ok_or_else(|| {
            Error::new(ErrorKind::StalePlan, format!("there was no {name} {}", self.piece.span))
                .with_state("nothing was changed by this run")
                .with_hint("make the plan again and review it")
        })
    }

    /// What it was.
    pub(super) fn report(&self, set: &SetId) -> MomentReport {
        MomentReport {
            until: self.piece.span.until,
            reached: self.surveyed.last,
            set: set.clone(),
            chain: self.piece.span.chain.clone(),
            entries: self.surveyed.entries,
        }
    }

    /// What a plan takes for granted of it: the slices, by their hashes, and what they tell.
    pub(super) fn assumptions(&self) -> Result<Vec<Assumption>> {
        let slices = self.piece.slices();
        let names: Vec<String> = slices.iter().map(Slice::name).collect();
        let [log, collections] = self.piece.span.assumption_names();
        let value = format!("{} slices, {}", slices.len(), canonical::hash(&names)?);
        let told = canonical::hash(&self.surveyed)?.to_string();
        Ok(vec![Assumption { name: log, value }, Assumption { name: collections, value: told }])
    }
}

impl Piece {
    fn slices(&self) -> &[Slice] {
        self.slices_after(self.span.after)
    }

    /// The slices from `after` to the moment; the last reaches to it or past it.
    fn slices_after(&self, after: LogPosition) -> &[Slice] {
        self.chain.slices_between(after, self.span.until.position().into())
    }

    /// Refuses a piece with a hole, and one that does not reach the moment.
    fn check_whole(&self) -> Result<()> {
        let Self { span, chain } = self;
        let after = span.after;
        if chain.covers(after, span.until.position().into()) {
            return Ok(());
        }
        let runs = chain.runs();
        let held = runs.iter().find(|run| run.after <= after && run.through >= after);
        let hole = held.map_or(after, |run| run.through);
        Err(Error::new(
            ErrorKind::Corrupt,
            format!(
                "log {} has no slice with what follows {} ({})",
                span.chain,
                hole.optime(),
                hole.optime().timestamp()
            ),
        )
        .with_hint(COPY_BACK))
    }

    /// Begins at `needed`, where a transaction began that was still open at the present beginning.
    fn begin_earlier(&mut self, needed: OpTime) -> Result<()> {
        let earlier = LogPosition(LogPosition::from(needed).0.saturating_sub(1));
        if earlier < self.span.after && self.chain.covers(earlier, self.span.after) {
            self.span.after = earlier;
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Precondition,
            format!("a transaction that was open when the set was taken began at {needed}, before the captured log"),
        )
        .with_state("nothing was changed")
        .with_hint("restore from a newer set (`mainstay backup list`), or a moment before that transaction ended"))
    }

    /// How many slices have to be read, and their stored bytes.
    fn stored_work(&self) -> Work {
        self.slices().iter().map(|slice| Work { items: 0, bytes: slice.bytes }).sum()
    }

    /// The entries of each slice that holds something after `after`, in order, with its stored size.
    fn read<'a>(
        &'a self,
        repository: &'a Repository,
        after: LogPosition,
    ) -> BoxStream<'a, Result<(Bytes, Work)>> {
        let read = move |slice: &'a Slice| async move {
            let entries = repository.read_slice(&self.chain, slice).await.context("read the log")?;
            Ok((entries, Work { items: 0, bytes: slice.bytes }))
        };
        stream::iter(self.slices_after(after)).map(read).buffered(SLICE_COUNT_AHEAD).boxed()
    }
}

/// A log to be replayed from where it is stored.
pub(super) struct StoredLog<'a> {
    pub(super) log: &'a Log,
    pub(super) repository: &'a Repository,
}

impl placement::Log for StoredLog<'_> {
    fn until(&self) -> Until {
        self.log.piece.span.until
    }

    fn beginning(&self) -> OpTime {
        self.log.piece.span.after.optime()
    }

    fn work(&self) -> Work {
        self.log.work
    }

    fn read(&self, after: OpTime) -> BoxStream<'_, Result<Bytes>> {
        self.log.piece.read(self.repository, after.into()).map_ok(|(entries, _)| entries).boxed()
    }
}

/// Whether a restore was loading it.
pub(super) fn is_shadow(name: &Namespace) -> bool {
    name.collection.starts_with(SHADOW_PREFIX)
}

/// The set's collections as a survey needs them.
async fn stored_collections(set: &Set, contents: &DocumentSetContents) -> Result<Vec<StoredCollection>> {
    let read = |record: &CollectionRecord| {
        let record = record.clone();
        async move {
            let holds_through = record.holds_through.ok_or_else(|| {
                Error::new(
                    ErrorKind::Precondition,
                    format!("set {} does not say which part of the log {} holds", set.id(), record.namespace),
                )
            })?;
            Ok(StoredCollection {
                metadata: read_metadata(set, &record).await?,
                namespace: record.namespace,
                kind: record.kind,
                identity: record.identity,
                holds_through,
            })
        }
    };
    stream::iter(&contents.collections).map(read).buffered(METADATA_COUNT_AHEAD).try_collect().await
}
