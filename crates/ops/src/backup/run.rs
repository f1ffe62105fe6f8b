//! The journal of a backup run: what was to be read, in which ranges, and which of them lie complete in the repository.
//!
//! The run has the id of the set it writes. Its journal begins when everything is listed and divided, because before that there is nothing
//! to go on with, and is removed once the set exists. An object is recorded after it is durable; one that was not recorded any more when the
//! process died is read again. Refuses to record in another process's run: whoever writes holds the set's lease.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mainstay_engine::{CollectionInfo, Consistency, DocumentDigest, PreparedScan, ServerFacts};
use mainstay_journal::Journal;
use mainstay_model::{
    Clock, Error, ErrorKind, ObjectName, OpTime, Plan, Result, ResultExt, RunId, SetId, StoreKind, Timestamp,
};
use mainstay_repository::{LeftoverKind, ObjectEntry, Repository};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::contents::CollectionRecord;

/// What a run's journal begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    /// Tells journals of backups from those of other operations.
    pub(super) operation: String,
    pub(super) plan: Plan,
    pub(super) set: SetId,
    pub(super) begun_at: Timestamp,
    pub(super) server: ServerFacts,
    /// The moment that the set is to show.
    pub(super) consistency: Consistency,
    /// The server's position before anything was looked at, and after everything was listed.
    pub(super) before_listing: Option<OpTime>,
    pub(super) listed: Option<OpTime>,
    /// How many collections follow.
    pub(super) collections: usize,
}

/// The `operation` of a backup's journal.
pub(crate) const JOURNAL_OPERATION: &str = "backup";

/// A collection that was made ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ready {
    pub(super) info: CollectionInfo,
    /// What the manifest will say of it, but for its parts.
    pub(super) record: CollectionRecord,
    /// Its options and indexes in the set.
    pub(super) metadata: ObjectEntry,
    pub(super) scan: Division,
}

/// How a collection is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Division {
    /// How often it has been begun anew.
    pub(super) attempt: u32,
    pub(super) consistency: Consistency,
    pub(super) holds_through: Option<OpTime>,
    /// Its ranges; none for a view.
    pub(super) ranges: Vec<mainstay_engine::ScanRange>,
}

impl Division {
    /// The ranges as the snapshot takes them.
    pub(super) fn prepared(&self) -> PreparedScan {
        PreparedScan { consistency: self.consistency.clone(), ranges: self.ranges.clone() }
    }
}

/// One range, complete in the repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    /// The collection's position among those made ready.
    pub(super) collection: usize,
    pub(super) attempt: u32,
    pub(super) ordinal: u32,
    pub(super) digest: DocumentDigest,
    pub(super) entry: ObjectEntry,
}

/// What is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
enum Event {
    /// The next collections were made ready.
    Ready { collections: Vec<Ready> },
    /// These ranges are complete.
    Parts { parts: Vec<Part> },
    /// A collection is read anew: the parts of its earlier attempts count no more.
    Again { collection: usize, scan: Division },
}

/// The most collections in one record, which is to stay far below what a record may hold.
const COLLECTIONS_PER_RECORD: usize = 100;
/// The most bytes of metadata in one record, but for a collection that has more by itself.
const METADATA_BYTES_PER_RECORD: usize = 1024 * 1024;
/// Events that wait to be recorded.
const EVENTS_WAITING_MAX: usize = 256;

/// What a journal says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) header: Header,
    pub(super) ready: Vec<Ready>,
    /// The parts that count, by collection and ordinal.
    pub(super) parts: BTreeMap<(usize, u32), Part>,
}

impl Recorded {
    /// What `events` have led to; `None` when the process died before everything was made ready.
    fn of(header: Header, events: Vec<Event>) -> Option<Self> {
        let mut recorded = Self { header, ready: Vec::new(), parts: BTreeMap::new() };
        for event in events {
            match event {
                Event::Ready { collections } => recorded.ready.extend(collections),
                Event::Parts { parts } => {
                    for part in parts {
                        let attempt = recorded.ready.get(part.collection).map(|ready| ready.scan.attempt);
                        if attempt == Some(part.attempt) {
                            recorded.parts.insert((part.collection, part.ordinal), part);
                        }
                    }
                }
                Event::Again { collection, scan } => {
                    recorded.parts.retain(|(of, _), _| *of != collection);
                    recorded.ready.get_mut(collection)?.scan = scan;
                }
            }
        }
        (recorded.ready.len() == recorded.header.collections).then_some(recorded)
    }

    /// Every object that the set has so far.
    pub(super) fn objects(&self) -> Vec<ObjectEntry> {
        let metadata = self.ready.iter().map(|ready| ready.metadata.clone());
        metadata.chain(self.parts.values().map(|part| part.entry.clone())).collect()
    }

    /// Plain bytes that need not be read again.
    fn kept_bytes(&self) -> u64 {
        self.parts.values().map(|part| part.digest.bytes).fold(0, u64::saturating_add)
    }
}

/// The run that writes `set`.
pub(super) fn run_of(set: &SetId) -> RunId {
    set.as_str().parse().expect("sets and runs are named in the same form")
}

/// Reads the run `id`; `None` when there is nothing to continue in it.
///
/// # Errors
/// `NotFound` when there is none; `Usage` when it is a run of another operation; `Corrupt` when its journal is damaged.
pub(super) async fn read(repository: &Repository, id: &RunId) -> Result<Option<(Journal, Recorded)>> {
    let journal = Journal::open(repository.store(), id).await?;
    let header: serde_json::Value = journal.header().await?;
    if header.get("operation").and_then(serde_json::Value::as_str) != Some(JOURNAL_OPERATION) {
        return Err(Error::new(ErrorKind::Usage, format!("run {id} is not a backup"))
            .with_state("nothing was changed")
            .with_hint("`mainstay backup prune --dry-run` lists the backups that can be continued"));
    }
    let header = serde_json::from_value(header).map_err(|source| {
        Error::new(ErrorKind::Unsupported, format!("run {id} was begun by another version"))
            .with_source(source)
            .with_hint("continue it with the version that began it, or take a new backup")
    })?;
    let events = journal.events().await?;
    Ok(Recorded::of(header, events).map(|recorded| (journal, recorded)))
}

/// A backup that was interrupted and can be continued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResumableRun {
    /// Its run, named as its set.
    pub run: RunId,
    /// Ranges that are complete.
    pub parts: usize,
    /// Ranges in all.
    pub total: usize,
    /// Bytes of documents that need not be read again.
    pub bytes: u64,
    /// The environment it is a backup of.
    pub environment: String,
    /// When it last completed a range, by the clock of the store.
    pub last_at: Timestamp,
}

/// The run that was writing `set`, if it is a backup of documents that can be continued. Runs without a complete range have nothing that
/// beginning anew would not give.
///
/// # Errors
/// What the store fails with. A journal that is damaged or another version's cannot be continued.
pub(crate) async fn resumable(repository: &Repository, set: &SetId) -> Result<Option<ResumableRun>> {
    let run = run_of(set);
    let recorded = match read(repository, &run).await {
        Ok(Some((_, recorded))) if !recorded.parts.is_empty() => recorded,
        Ok(_) => return Ok(None),
        Err(error) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::Usage | ErrorKind::Corrupt | ErrorKind::Unsupported => {
                return Ok(None);
            }
            _ => return Err(error),
        },
    };
    let last_at = repository.last_change(StoreKind::Mongo, set).await?.unwrap_or(recorded.header.begun_at);
    Ok(Some(ResumableRun {
        run,
        parts: recorded.parts.len(),
        total: recorded.ready.iter().map(|ready| ready.scan.ranges.len()).sum(),
        bytes: recorded.kept_bytes(),
        environment: recorded.header.plan.target.environment.clone(),
        last_at,
    }))
}

/// The backups that can be continued, oldest first, those that are running now left out.
///
/// # Errors
/// What the store fails with.
pub async fn resumable_runs(repository: &Repository) -> Result<Vec<ResumableRun>> {
    let mut runs = Vec::new();
    for leftover in repository.leftovers().await.context("look for interrupted backups")? {
        if let LeftoverKind::Set { store: StoreKind::Mongo, id } = &leftover.kind
            && !leftover.in_use
        {
            runs.extend(resumable(repository, id).await?);
        }
    }
    Ok(runs)
}

/// Removes the journal of the run that wrote `set`; none is no error.
///
/// # Errors
/// What the store fails with.
pub(crate) async fn forget(repository: &Repository, set: &SetId) -> Result<()> {
    match Journal::open(repository.store(), &run_of(set)).await {
        Ok(journal) => journal.remove().await,
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Records what a run does, in a task of its own, so that no scan waits for the store: parts that complete meanwhile share a record.
pub(super) struct Recorder {
    events: mpsc::Sender<Told>,
    task: JoinHandle<Result<()>>,
    recorded: Arc<AtomicU64>,
}

enum Told {
    Part(Box<Part>),
    /// Recorded before the sender goes on.
    Again(usize, Division, oneshot::Sender<()>),
}

impl Recorder {
    /// Begins the journal of a run.
    pub(super) async fn begin(
        repository: &Repository,
        clock: &dyn Clock,
        header: &Header,
        ready: &[Ready],
    ) -> Result<Self> {
        let run = run_of(&header.set);
        let mut journal = Journal::begin(repository.store(), clock, &run, header).await?;
        for collections in chunks(ready) {
            journal.record(&Event::Ready { collections: collections.to_vec() }).await?;
        }
        Ok(Self::on(journal, 0))
    }

    /// Goes on with `journal`, in which `parts` are recorded already.
    pub(super) fn on(journal: Journal, parts: usize) -> Self {
        let (events, told) = mpsc::channel(EVENTS_WAITING_MAX);
        let recorded = Arc::new(AtomicU64::new(parts as u64));
        let task = tokio::spawn(record(journal, told, Arc::clone(&recorded)));
        Self { events, task, recorded }
    }

    /// Has `part` recorded soon.
    ///
    /// # Errors
    /// `Storage` when recording has failed; [`Recorder::end`] tells why.
    pub(super) async fn part(&self, part: Part) -> Result<()> {
        self.events.send(Told::Part(Box::new(part))).await.map_err(|_| stopped())
    }

    /// Records that a collection is read anew; it is durable when this returns.
    ///
    /// # Errors
    /// As [`Recorder::part`].
    pub(super) async fn again(&self, collection: usize, scan: Division) -> Result<()> {
        let (done, recorded) = oneshot::channel();
        self.events.send(Told::Again(collection, scan, done)).await.map_err(|_| stopped())?;
        recorded.await.map_err(|_| stopped())
    }

    /// Waits until everything told has been recorded; gives how many parts the journal holds, and what recording failed with.
    pub(super) async fn end(self) -> (u64, Result<()>) {
        drop(self.events);
        let ended = self.task.await.unwrap_or_else(|source| {
            Err(Error::new(ErrorKind::Internal, "the recording of the run ended early").with_source(source))
        });
        (self.recorded.load(Ordering::Relaxed), ended)
    }
}

fn stopped() -> Error {
    Error::new(ErrorKind::Storage, "the journal of the run cannot be written any more")
}

async fn record(
    mut journal: Journal,
    mut told: mpsc::Receiver<Told>,
    recorded: Arc<AtomicU64>,
) -> Result<()> {
    let mut waiting = Vec::with_capacity(EVENTS_WAITING_MAX);
    while told.recv_many(&mut waiting, EVENTS_WAITING_MAX).await > 0 {
        let mut parts = Vec::new();
        for event in waiting.drain(..) {
            match event {
                Told::Part(part) => parts.push(*part),
                Told::Again(collection, scan, done) => {
                    record_parts(&mut journal, &mut parts, &recorded).await?;
                    journal.record(&Event::Again { collection, scan }).await.context("write journal")?;
                    // Whoever asked may have been stopped meanwhile.
                    let _ = done.send(());
                }
            }
        }
        record_parts(&mut journal, &mut parts, &recorded).await?;
    }
    Ok(())
}

async fn record_parts(journal: &mut Journal, parts: &mut Vec<Part>, recorded: &AtomicU64) -> Result<()> {
    if parts.is_empty() {
        return Ok(());
    }
    let count = parts.len() as u64;
    journal.record(&Event::Parts { parts: std::mem::take(parts) }).await.context("write journal")?;
    recorded.fetch_add(count, Ordering::Relaxed);
    Ok(())
}

/// The collections of one record after the other.
fn chunks(ready: &[Ready]) -> impl Iterator<Item = &[Ready]> {
    let mut rest = ready;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let more = |ready: &&Ready| {
            bytes += ready.info.metadata.len();
            bytes <= METADATA_BYTES_PER_RECORD
        };
        let count = rest.iter().take(COLLECTIONS_PER_RECORD).take_while(more).count().max(1).min(rest.len());
        let (chunk, left) = rest.split_at(count);
        rest = left;
        (!chunk.is_empty()).then_some(chunk)
    })
}

/// The name of a part's object: a collection that is begun anew never meets the names of an earlier attempt.
pub(super) fn part_name(base: &ObjectName, attempt: u32, ordinal: u32) -> ObjectName {
    match attempt {
        0 => base.with_suffix(&format!(".{ordinal:04}.bson")),
        again => base.with_suffix(&format!(".{ordinal:04}.again{again}.bson")),
    }
}
