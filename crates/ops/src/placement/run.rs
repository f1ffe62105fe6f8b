//! The journal of a run: what was begun, what is in place, and where a repeat must begin.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use mainstay_engine::{CollectionIdentity, DocumentDigest, Namespace};
use mainstay_journal::Journal;
use mainstay_model::{Blake3, Clock, Error, ErrorKind, OpTime, Plan, Result, ResultExt, RunId};
use mainstay_repository::Repository;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::SHADOW_PREFIX;
use super::decide::Parameters;

/// What a run's journal begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    /// Tells journals of runs that fill a server from those of other operations.
    pub(crate) operation: String,
    pub(crate) plan_hash: Blake3,
    pub(crate) plan: Plan,
}

/// The `operation` of a restore's or load's journal.
const JOURNAL_OPERATION: &str = "restore";

/// What is recorded, each before the act it announces or after the act it reports. `item` is the position in the plan's list; `uuid` is the
/// identity that the server gave the collection this run created, which it keeps when it is renamed, and which views lack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub(crate) enum Event {
    /// Work on a collection begins; nothing was written for it before.
    Begun { item: usize },
    /// The collection to load into has been created by this run.
    Created { item: usize, uuid: Option<CollectionIdentity> },
    /// It holds the documents that came: read back, and of this digest.
    Loaded { item: usize, digest: DocumentDigest },
    /// The log up to and including this position is in every collection that was loaded before.
    Flushed { through: OpTime },
    /// The log has been replayed to its end into these collections, which must have these digests now.
    Replayed { items: Vec<ReplayedItem> },
    /// It was read back after the replay and found as it must be.
    Proven { item: usize, digest: DocumentDigest },
    /// It is loaded, proven and indexed, and is about to be put in place.
    Placing { item: usize, uuid: Option<CollectionIdentity> },
    /// It stands under its name, proven.
    Placed { item: usize },
    /// Every collection stands.
    Completed,
    /// The run is being given up: it must not be continued.
    Abandoning,
    /// What the run was loading has been removed.
    Abandoned,
}

/// One collection of [`Event::Replayed`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReplayedItem {
    pub(crate) item: usize,
    /// `None` where the replay cannot tell: capped collections.
    pub(crate) digest: Option<DocumentDigest>,
}

/// How far a collection has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    #[default]
    Untouched,
    Begun,
    /// Created by this run, and loaded by nobody knows how much.
    Created(Option<CollectionIdentity>),
    /// Created and filled by this run.
    Filled(Option<CollectionIdentity>, Held),
    /// About to be put in place.
    Placing(Option<CollectionIdentity>),
    Placed,
}

/// What a collection that was filled is known to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Held {
    /// The documents that came, proven; a replay may have gone on from there, and what it did up to `through` is in for certain.
    Loaded { digest: DocumentDigest, through: Option<OpTime> },
    /// The log has been replayed to its end; what must be there now, where that can be told. Not read back yet.
    End(Option<DocumentDigest>),
    /// What it must hold in the end, read back.
    Proven(DocumentDigest),
}

/// How far a run has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Nobody has said that it ended.
    #[default]
    Open,
    Completed,
    Abandoning,
    Abandoned,
}

/// What a journal's events have led to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) stages: BTreeMap<usize, Stage>,
    /// The digest that was last read back and found right, of each collection that has one.
    pub(crate) proven: BTreeMap<usize, DocumentDigest>,
    pub(crate) ending: Ending,
}

impl Progress {
    /// How far `item` has come.
    pub(crate) fn stage(&self, item: usize) -> Stage {
        self.stages.get(&item).cloned().unwrap_or_default()
    }

    /// How many collections are in place.
    pub(crate) fn placed(&self) -> usize {
        self.stages.values().filter(|stage| **stage == Stage::Placed).count()
    }

    fn of(events: &[Event]) -> Self {
        let mut progress = Self::default();
        for event in events {
            progress.take(event.clone());
        }
        progress
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Begun { item } => {
                self.proven.remove(&item);
                self.set(item, Stage::Begun);
            }
            Event::Created { item, uuid } => self.set(item, Stage::Created(uuid)),
            Event::Loaded { item, digest } => {
                self.proven.insert(item, digest);
                self.fill(item, Held::Loaded { digest, through: None });
            }
            Event::Flushed { through } => self.stages.values_mut().for_each(|stage| stage.flushed(through)),
            Event::Replayed { items } => {
                for ReplayedItem { item, digest } in items {
                    self.fill(item, Held::End(digest));
                }
            }
            Event::Proven { item, digest } => {
                self.proven.insert(item, digest);
                self.fill(item, Held::Proven(digest));
            }
            Event::Placing { item, uuid } => self.set(item, Stage::Placing(uuid)),
            Event::Placed { item } => self.set(item, Stage::Placed),
            Event::Completed => self.ending = Ending::Completed,
            Event::Abandoning => self.ending = Ending::Abandoning,
            Event::Abandoned => self.ending = Ending::Abandoned,
        }
    }

    fn set(&mut self, item: usize, stage: Stage) {
        self.stages.insert(item, stage);
    }

    /// Notes what a collection holds that this run has created; of any other nothing is believed.
    fn fill(&mut self, item: usize, held: Held) {
        if let Stage::Created(uuid) | Stage::Filled(uuid, _) = self.stage(item) {
            self.set(item, Stage::Filled(uuid, held));
        }
    }
}

impl Stage {
    /// The collection that this run created, if it is known to have created one and has not put it in place yet.
    pub(crate) fn created(&self) -> Option<&Option<CollectionIdentity>> {
        match self {
            Self::Created(uuid) | Self::Filled(uuid, _) | Self::Placing(uuid) => Some(uuid),
            Self::Untouched | Self::Begun | Self::Placed => None,
        }
    }

    fn flushed(&mut self, position: OpTime) {
        if let Self::Filled(_, Held::Loaded { through, .. }) = self {
            *through = Some(position);
        }
    }
}

/// The run of one plan. The id follows from the plan, so that the same plan finds its run again.
pub(crate) struct Run {
    pub(crate) id: RunId,
    /// What had been done when the run was opened; empty for a new one.
    pub(crate) before: Progress,
    /// How many collections are in place by now.
    placed: AtomicUsize,
    /// `None` until the first event of a new run, and in a run that is not kept.
    journal: Mutex<Option<Journal>>,
    /// Whether there is a journal at all. A run without one cannot be continued, and ends by removing what it was loading.
    kept: bool,
}

/// The id of the run of `plan`.
pub(crate) fn run_id(plan: &Plan) -> Result<RunId> {
    let hash = plan.hash()?.to_string();
    let entropy = u32::from_str_radix(&hash[..8], 16).expect("a hash begins with eight hexadecimal digits");
    Ok(RunId::new(plan.created_at, entropy))
}

/// The name under which the run loads what `item` of its plan will be.
pub(crate) fn shadow(run: &RunId, item: usize, target: &Namespace) -> Namespace {
    let entropy = run.as_str().rsplit('-').next().unwrap_or_default();
    Namespace::new(&target.database, format!("{SHADOW_PREFIX}{entropy}.{item}"))
}

impl Run {
    /// Opens the run of `plan`. A plan that was never begun has one without events; nothing is written for it yet.
    ///
    /// # Errors
    /// `Corrupt` when the journal is damaged or another plan's.
    pub(crate) async fn open(repository: &Repository, plan: &Plan) -> Result<Self> {
        let id = run_id(plan)?;
        let opened = read(repository, &id).await;
        let (journal, before) = match opened {
            Ok((journal, header, before)) => {
                if header.plan_hash != plan.hash()? {
                    return Err(Error::new(ErrorKind::Corrupt, format!("run {id} belongs to another plan"))
                        .with_state("nothing was changed")
                        .with_hint("make the plan again"));
                }
                (Some(journal), before)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => (None, Progress::default()),
            Err(error) => return Err(error.context("open the journal of this plan")),
        };
        let placed = AtomicUsize::new(before.placed());
        Ok(Self { id, before, placed, journal: Mutex::new(journal), kept: true })
    }

    /// A run of `plan` of which nothing is written down, for when there is no repository.
    pub(crate) fn unkept(plan: &Plan) -> Result<Self> {
        Ok(Self {
            id: run_id(plan)?,
            before: Progress::default(),
            placed: AtomicUsize::new(0),
            journal: Mutex::new(None),
            kept: false,
        })
    }

    /// Whether an earlier try has written something.
    pub(crate) async fn is_begun(&self) -> bool {
        self.journal.lock().await.is_some()
    }

    /// Writes the journal's first record, unless it is there.
    pub(crate) async fn begin(&self, repository: &Repository, clock: &dyn Clock, plan: &Plan) -> Result<()> {
        let mut journal = self.journal.lock().await;
        if journal.is_none() {
            let header = Header {
                operation: JOURNAL_OPERATION.to_owned(),
                plan_hash: plan.hash()?,
                plan: plan.clone(),
            };
            let begun = Journal::begin(repository.store(), clock, &self.id, &header).await;
            *journal = Some(begun.context("begin the journal of this plan")?);
        }
        Ok(())
    }

    /// Records `event`; it is durable when this returns. The lock is held while the store writes, because records are numbered: one writer
    /// after the other is what a journal means.
    pub(crate) async fn record(&self, event: Event) -> Result<()> {
        if self.kept {
            let mut journal = self.journal.lock().await;
            let journal = journal.as_mut().expect("a run is begun before its first event");
            journal.record(&event).await.context("write journal")?;
        }
        if matches!(event, Event::Placed { .. }) {
            self.placed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// How many collections are in place by now.
    pub(crate) fn placed(&self) -> usize {
        self.placed.load(Ordering::Relaxed)
    }

    /// See [`shadow`].
    pub(crate) fn shadow(&self, item: usize, target: &Namespace) -> Namespace {
        shadow(&self.id, item, target)
    }
}

/// Reads the run `id`.
///
/// # Errors
/// `NotFound`; `Usage` when it is a run of another operation; `Corrupt` when its journal is damaged.
pub(crate) async fn read(repository: &Repository, id: &RunId) -> Result<(Journal, Header, Progress)> {
    let journal = Journal::open(repository.store(), id).await?;
    let header: serde_json::Value = journal.header().await?;
    if header.get("operation").and_then(serde_json::Value::as_str) != Some(JOURNAL_OPERATION) {
        return Err(Error::new(ErrorKind::Usage, format!("run {id} is not a restore"))
            .with_hint("`mainstay restore list` lists the restores that are unfinished"));
    }
    let header = serde_json::from_value(header).map_err(|source| {
        Error::new(ErrorKind::Corrupt, format!("run {id} has no readable plan")).with_source(source)
    })?;
    let events: Vec<Event> = journal.events().await?;
    let progress = Progress::of(&events);
    Ok((journal, header, progress))
}

/// A restore or load that has begun and not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedRun {
    /// Its id.
    pub run: RunId,
    /// The hash of its plan.
    pub plan_hash: Blake3,
    /// Whether applying its plan again continues it; a load can only be given up and begun anew.
    pub can_continue: bool,
    /// Collections that stand under their names.
    pub placed: usize,
    /// Collections in the plan.
    pub total: usize,
    /// Collections that were begun and are not in place.
    pub begun: Vec<Namespace>,
}

/// The restores that the repository knows to be unfinished.
#[derive(Debug, Default)]
pub struct Listing {
    /// Those that can be read, oldest first.
    pub unfinished: Vec<UnfinishedRun>,
    /// Runs whose journal is damaged, and why.
    pub damaged: Vec<(RunId, Error)>,
}

/// The restores and loads that were begun and have neither completed nor been given up.
///
/// # Errors
/// What the store fails with. Damaged journals are listed, journals of other operations passed over.
pub async fn unfinished_runs(repository: &Repository) -> Result<Listing> {
    let mut listing = Listing::default();
    for id in Journal::runs(repository.store()).await.context("list journals")? {
        match read(repository, &id).await {
            Ok((_, _, Progress { ending: Ending::Completed | Ending::Abandoned, .. })) => {}
            Ok((_, header, progress)) => match describe(id.clone(), &header, &progress) {
                Ok(run) => listing.unfinished.push(run),
                // A plan of a version that carried other parameters.
                Err(error) => listing.damaged.push((id, error)),
            },
            Err(error) => match error.kind() {
                ErrorKind::Usage => {}
                ErrorKind::Corrupt | ErrorKind::Unsupported => listing.damaged.push((id, error)),
                _ => return Err(error),
            },
        }
    }
    Ok(listing)
}

pub(crate) fn describe(run: RunId, header: &Header, progress: &Progress) -> Result<UnfinishedRun> {
    let parameters = Parameters::of(&header.plan)?;
    let begun = progress
        .stages
        .iter()
        .filter(|(_, stage)| **stage != Stage::Placed)
        .filter_map(|(index, _)| parameters.items.get(*index))
        .map(|item| item.target.clone())
        .collect();
    Ok(UnfinishedRun {
        run,
        plan_hash: header.plan_hash,
        can_continue: parameters.origin.keeps_unfinished(),
        placed: progress.placed(),
        total: parameters.items.len(),
        begun,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u32) -> OpTime {
        OpTime { seconds, increment: 1 }
    }

    #[test]
    fn the_last_event_of_an_item_counts() {
        let uuid = Some(CollectionIdentity("11".to_owned()));
        let events = [
            Event::Begun { item: 0 },
            Event::Begun { item: 1 },
            Event::Created { item: 1, uuid: uuid.clone() },
            Event::Placing { item: 1, uuid: uuid.clone() },
            Event::Placed { item: 1 },
            Event::Created { item: 0, uuid },
            Event::Begun { item: 0 },
        ];
        let progress = Progress::of(&events);
        assert_eq!(
            (progress.stage(0), progress.stage(1), progress.stage(2)),
            (Stage::Begun, Stage::Placed, Stage::Untouched)
        );
        assert_eq!((progress.placed(), progress.ending), (1, Ending::Open));
        assert_eq!(Progress::of(&[Event::Abandoning]).ending, Ending::Abandoning);
    }

    #[test]
    fn a_flush_speaks_of_what_was_loaded_before_it() {
        let uuid = Some(CollectionIdentity("11".to_owned()));
        let digest = DocumentDigest::default();
        let filled = |held| Stage::Filled(uuid.clone(), held);
        let mut events = vec![
            Event::Created { item: 0, uuid: uuid.clone() },
            Event::Loaded { item: 0, digest },
            Event::Flushed { through: at(5) },
            Event::Begun { item: 1 },
            Event::Created { item: 1, uuid: uuid.clone() },
            Event::Loaded { item: 1, digest },
        ];
        let progress = Progress::of(&events);
        assert_eq!(progress.stage(0), filled(Held::Loaded { digest, through: Some(at(5)) }));
        assert_eq!(progress.stage(1), filled(Held::Loaded { digest, through: None }));

        let replayed = |item| ReplayedItem { item, digest: Some(digest) };
        events.push(Event::Replayed { items: vec![replayed(0), replayed(1), replayed(7)] });
        events.push(Event::Proven { item: 1, digest });
        events.push(Event::Placing { item: 1, uuid: uuid.clone() });
        let progress = Progress::of(&events);
        assert_eq!(progress.stage(0), filled(Held::End(Some(digest))));
        assert_eq!(progress.stage(1), Stage::Placing(uuid));
        assert_eq!(progress.stage(7), Stage::Untouched, "of what the run did not create nothing is believed");
    }
}
