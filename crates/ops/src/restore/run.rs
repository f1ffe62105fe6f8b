//! The journal of a restore run: what was begun, what is in place, and where a repeat must begin.

use std::collections::BTreeMap;

use mainstay_journal::Journal;
use mainstay_model::{Blake3, Clock, Error, ErrorKind, Plan, Result, ResultExt, RunId};
use mainstay_repository::Repository;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::SHADOW_PREFIX;
use mainstay_engine::Namespace;

/// What a run's journal begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) plan_hash: Blake3,
    pub(super) plan: Plan,
}

/// What is recorded, each before the act it announces or after the act it reports. `item` is the position in the plan's list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub(super) enum Event {
    /// Work on a collection begins; nothing was written for it before.
    Begun { item: usize },
    /// The collection to load into has been created by this run.
    Created { item: usize },
    /// It is loaded and proven, and is about to be put in place.
    Placing { item: usize },
    /// It stands under its name, proven.
    Placed { item: usize },
    /// Every collection stands.
    Completed,
    /// The run was given up, and what it had loaded beside was removed.
    Abandoned,
}

/// How far a collection has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    #[default]
    Untouched,
    Begun,
    Created,
    Placing,
    Placed,
}

/// How far a run has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Ending {
    /// Nobody has said that it ended.
    #[default]
    Open,
    Completed,
    Abandoned,
}

/// A restore that has begun and not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnfinishedRun {
    /// Its id.
    pub run: RunId,
    /// The hash of its plan.
    pub plan_hash: Blake3,
    /// Collections that stand under their names.
    pub placed: usize,
    /// Collections in the plan.
    pub total: usize,
    /// Collections that were begun and are not in place.
    pub begun: Vec<Namespace>,
}

/// The run of one plan. The id follows from the plan, so that the same plan finds its run again.
pub(super) struct Run {
    pub(super) id: RunId,
    pub(super) resumed: bool,
    pub(super) ending: Ending,
    pub(super) stages: BTreeMap<usize, Stage>,
    journal: Mutex<Journal>,
}

/// The id of the run of `plan`.
pub(super) fn run_id(plan: &Plan) -> Result<RunId> {
    let hash = plan.hash()?.to_string();
    let entropy = u32::from_str_radix(&hash[..8], 16).expect("a hash begins with eight hexadecimal digits");
    Ok(RunId::new(plan.created_at, entropy))
}

impl Run {
    /// Opens the run of `plan`, or begins it.
    pub(super) async fn begin(repository: &Repository, clock: &dyn Clock, plan: &Plan) -> Result<Self> {
        let id = run_id(plan)?;
        match Journal::open(repository.store(), &id).await {
            Ok(journal) => Self::resume(id, journal).await,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let header = Header { plan_hash: plan.hash()?, plan: plan.clone() };
                let journal = Journal::begin(repository.store(), clock, &id, &header).await?;
                Ok(Self {
                    id,
                    resumed: false,
                    ending: Ending::Open,
                    stages: BTreeMap::new(),
                    journal: Mutex::new(journal),
                })
            }
            Err(error) => Err(error),
        }
        .context("open the journal of this plan")
    }

    async fn resume(id: RunId, journal: Journal) -> Result<Self> {
        let events: Vec<Event> = journal.events().await?;
        let (stages, ending) = fold(&events);
        Ok(Self { id, resumed: true, ending, stages, journal: Mutex::new(journal) })
    }

    /// How far `item` had come when the run was opened.
    pub(super) fn stage(&self, item: usize) -> Stage {
        self.stages.get(&item).copied().unwrap_or_default()
    }

    /// Records `event`; it is durable when this returns.
    pub(super) async fn record(&self, event: Event) -> Result<()> {
        self.journal.lock().await.record(&event).await.context("write journal")
    }

    /// The name under which this run loads the replacement of `target`.
    pub(super) fn shadow(&self, item: usize, target: &Namespace) -> Namespace {
        shadow_name(&self.id, item, target)
    }
}

/// See [`Run::shadow`].
pub(super) fn shadow_name(run: &RunId, item: usize, target: &Namespace) -> Namespace {
    let born = &run.as_str()[17..];
    Namespace::new(&target.database, format!("{SHADOW_PREFIX}{born}.{item}"))
}

/// Reads the run `id`.
///
/// # Errors
/// `NotFound`; `Corrupt` when its journal is damaged; `Usage` when it is no restore.
pub(super) async fn read(repository: &Repository, id: &RunId) -> Result<(Header, Vec<Event>)> {
    let journal = Journal::open(repository.store(), id).await?;
    let header = journal.header().await.map_err(|error| {
        Error::new(ErrorKind::Usage, format!("run {id} is not a restore")).with_source(error)
    })?;
    Ok((header, journal.events().await?))
}

/// Where events have led.
pub(super) fn fold(events: &[Event]) -> (BTreeMap<usize, Stage>, Ending) {
    let mut stages = BTreeMap::new();
    let mut ending = Ending::Open;
    for event in events {
        match event {
            Event::Begun { item } => stages.insert(*item, Stage::Begun),
            Event::Created { item } => stages.insert(*item, Stage::Created),
            Event::Placing { item } => stages.insert(*item, Stage::Placing),
            Event::Placed { item } => stages.insert(*item, Stage::Placed),
            Event::Completed => {
                ending = Ending::Completed;
                None
            }
            Event::Abandoned => {
                ending = Ending::Abandoned;
                None
            }
        };
    }
    (stages, ending)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_event_of_an_item_counts() {
        let events = [
            Event::Begun { item: 0 },
            Event::Begun { item: 1 },
            Event::Created { item: 1 },
            Event::Placing { item: 1 },
            Event::Placed { item: 1 },
            Event::Created { item: 0 },
            Event::Begun { item: 0 },
        ];
        let (stages, ending) = fold(&events);
        assert_eq!(stages, BTreeMap::from([(0, Stage::Begun), (1, Stage::Placed)]));
        assert_eq!(ending, Ending::Open);
        assert_eq!(fold(&[Event::Completed]).1, Ending::Completed);
    }
}
