//! Removing what matches, one purge of a server at a time: who removes holds a lease of it in the repository.
//!
//! Every few seconds, and when it stops, it is written into the repository how far it is (`redis/settings/<hash of the plan>/`), so that a run that was killed does not
//! walk over the same keys again. The place counts for the same process of the store alone: another one lists in another order.

use std::time::{Duration, Instant};

use mainstay_engine::{KeyScanRequest, Keyspace, SweepPlace};
use mainstay_guard::Permit;
use mainstay_journal::{KeptLease, Sequence};
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{Count, Error, ErrorKind, Plan, Result, ResultExt, StoreKind};
use mainstay_repository::Repository;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::plan::check;
use super::{NamesFile, PurgeRequest};
use crate::keyspace::each_key;
use crate::lease::{self, Holder};

/// How many names of a file go to the server together at most.
const BATCH_NAMES: usize = 1_000;
/// How many such batches are read ahead.
const BATCHES_AHEAD: usize = 4;
/// How often the place is written down.
const NOTE_EVERY: Duration = Duration::from_secs(2);

/// What a purge works with.
pub struct PurgeContext<'a> {
    /// The keys.
    pub keyspace: &'a dyn Keyspace,
    /// Where it is written down how far it is, and that it is under way.
    pub repository: &'a Repository,
    /// Who purges.
    pub holder: &'a Holder<'a>,
    /// Told how far it is.
    pub observer: &'a dyn Observer,
    /// Stops at the next step.
    pub cancel: &'a CancellationToken,
}

/// What a purge did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PurgeReport {
    /// Keys that it removed.
    pub removed: u64,
    /// Keys that the plan had counted.
    pub planned: u64,
    /// Whether it went on where an earlier run of the same plan was.
    pub resumed: bool,
}

/// How far a purge is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
enum Note {
    /// Everything before this place is removed.
    PurgeAt {
        /// The number of the pattern under way.
        pattern: usize,
        /// Where the walk for it is.
        place: SweepPlace,
        /// Keys removed so far, by all runs.
        removed: u64,
    },
    /// A file told the names: the next run walks through it from its beginning.
    PurgeOfFile {
        /// As above.
        removed: u64,
    },
}

impl Note {
    fn removed(&self) -> u64 {
        match self {
            Self::PurgeAt { removed, .. } | Self::PurgeOfFile { removed } => *removed,
        }
    }
}

/// Removes what matches `plan`'s patterns now.
///
/// # Errors
/// `Locked` when another purge of this server is under way; the store's, `Interrupted` when cancelled; the state says how many keys are gone by
/// then. Applying the plan again goes on.
pub async fn apply(context: &PurgeContext<'_>, plan: &Plan, permit: &Permit) -> Result<PurgeReport> {
    permit.covers(plan)?;
    let request: PurgeRequest = serde_json::from_value(plan.parameters.clone()).map_err(|source| {
        Error::new(ErrorKind::Usage, "the plan's parameters are not those of a purge").with_source(source)
    })?;
    check(&request)?;
    let lease = lease::take(context.repository, context.holder, "purge", &plan.target.fingerprint).await;
    let lease = lease.map_err(|error| error.with_state("nothing was changed"))?;
    let purged = Run { context, plan, request: &request, permit, lease: &lease }.to_end().await;
    lease::give_back(lease, "purge", context.observer).await;
    purged
}

/// One application of one plan.
struct Run<'a> {
    context: &'a PurgeContext<'a>,
    plan: &'a Plan,
    request: &'a PurgeRequest,
    permit: &'a Permit,
    lease: &'a KeptLease,
}

impl Run<'_> {
    /// Goes on where an earlier run of the plan was, and forgets that when nothing is left.
    async fn to_end(&self) -> Result<PurgeReport> {
        let planned = self.plan.blast_radius.items;
        self.context.observer.phase("purge");
        self.context.observer.expect(Work { items: planned, bytes: 0 });
        let mut notes = Notes::open(self.context.repository, self.plan).await?;
        let from = notes.last().await?;
        notes.removed = from.as_ref().map_or(0, Note::removed);
        notes.is_of_file = self.request.file.is_some();
        notes.resumed = notes.is_of_file && from.is_some();
        self.context.observer.advance(Work { items: notes.removed, bytes: 0 });
        let swept = match &self.request.file {
            Some(file) => self.remove_named(file, &mut notes).await,
            None => self.sweep(from.as_ref(), &mut notes).await,
        };
        match swept {
            Ok(()) => {
                // What stays is forgotten by the time that it matters: nothing that it tells of is left.
                let _ = notes.sequence.remove_all().await;
                Ok(PurgeReport { removed: notes.removed, planned, resumed: notes.resumed })
            }
            Err(error) => {
                // The next run knows what this one removed; where that cannot be kept, it still removes what is left.
                let _ = notes.write().await;
                let goes_on = "the same plan again goes on, the same patterns again remove the rest";
                let hint = match (error.kind(), error.hint()) {
                    // The same plan would be refused again.
                    (ErrorKind::StalePlan, Some(own)) => own.to_owned(),
                    (_, Some(own)) => format!("{own}; then {goes_on}"),
                    (_, None) => goes_on.to_owned(),
                };
                Err(error
                    .with_state(format!(
                        "at least {} keys are removed; the others that match stay whole",
                        Count(notes.removed)
                    ))
                    .with_hint(hint))
            }
        }
    }

    /// Refuses to go on when it is asked to stop, or when another run may have begun.
    fn check(&self) -> Result<()> {
        if self.context.cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Interrupted, "the purge was stopped on request"));
        }
        self.lease.check()
    }

    fn count(&self, gone: u64, notes: &mut Notes) {
        notes.removed += gone;
        self.context.observer.advance(Work { items: gone, bytes: 0 });
    }

    async fn sweep(&self, from: Option<&Note>, notes: &mut Notes) -> Result<()> {
        let (keyspace, request) = (self.context.keyspace, self.request);
        let databases = request.databases(keyspace).await?;
        let (first, mut place) = match from {
            Some(Note::PurgeAt { pattern, place, .. }) => (*pattern, Some(place)),
            Some(Note::PurgeOfFile { .. }) | None => (0, None),
        };
        for (index, pattern) in request.patterns.iter().enumerate().skip(first) {
            let is_meant = request.selector(index, keyspace.marker());
            let scan_request = KeyScanRequest {
                databases: databases.clone(),
                pattern: Some(pattern.clone().into_bytes()),
                answer_time_max: request.answer_time_max(),
                // No lifetimes are asked for.
                now: 0,
                asks_idle: false,
            };
            let from = place.take();
            let mut sweep = keyspace.sweep(scan_request, from).await?;
            // Another process of the server begins at its beginning.
            notes.resumed |= from.is_some_and(|from| sweep.place().as_ref() == Some(from));
            while let Some(mut names) = sweep.next().await? {
                names.retain(|name| is_meant(name));
                self.check()?;
                let gone =
                    sweep.remove(&names, self.permit).await.with_context(|| format!("purge {pattern}"))?;
                self.count(gone, notes);
                if let Some(place) = sweep.place() {
                    notes.reached = Some((index, place));
                    notes.write_if_due().await?;
                }
            }
        }
        Ok(())
    }

    /// Removes the keys whose names a file tells, without having the server list any. A run that was killed begins anew: a name that is not there
    /// any more costs the server next to nothing.
    async fn remove_named(&self, file: &NamesFile, notes: &mut Notes) -> Result<()> {
        // Read once before anything goes: what is removed cannot be put back when its end turns out to be another one.
        let opened = file.reopened(self.context.cancel).await?;
        let is_meant = self.request.file_selector(self.context.keyspace.marker());
        let (sender, mut batches) = mpsc::channel(BATCHES_AHEAD);
        let walk = tokio::task::spawn_blocking(move || {
            let mut batch: (u64, Vec<Vec<u8>>) = (0, Vec::new());
            let gone = || Error::new(ErrorKind::Interrupted, "nobody takes the names any more");
            each_key(opened, |record, _| {
                if !is_meant(record.database, &record.name) {
                    return Ok(());
                }
                if batch.0 != record.database || batch.1.len() >= BATCH_NAMES {
                    let full = std::mem::replace(&mut batch, (record.database, Vec::new()));
                    sender.blocking_send(full).map_err(|_| gone())?;
                }
                batch.1.push(record.name.clone());
                Ok(())
            })?;
            sender.blocking_send(batch).map_err(|_| gone())
        });
        let mut removal = self.context.keyspace.removal(self.request.answer_time_max()).await?;
        while let Some((database, names)) = batches.recv().await {
            self.check()?;
            let gone = removal.remove(database, &names, self.permit).await?;
            self.count(gone, notes);
        }
        let walked =
            walk.await.map_err(|_| Error::new(ErrorKind::Internal, "the walk through the file ended"))?;
        walked.with_context(|| format!("walk through {}", file.path.display()))
    }
}

/// The notes of all runs of one plan.
struct Notes {
    sequence: Sequence,
    next: u64,
    written: Instant,
    /// Keys removed so far, by all runs.
    removed: u64,
    /// The pattern under way, and where its walk is; `None` before anything is known to be behind, and where a file tells the names.
    reached: Option<(usize, SweepPlace)>,
    is_of_file: bool,
    /// Whether this run goes on where an earlier one was.
    resumed: bool,
}

impl Notes {
    async fn open(repository: &Repository, plan: &Plan) -> Result<Self> {
        let sequence = repository.settings_records(StoreKind::Redis, &plan.hash()?);
        let next = sequence.numbers().await?.last().map_or(1, |last| last + 1);
        let (removed, reached, is_of_file, resumed) = (0, None, false, false);
        Ok(Self { sequence, next, written: Instant::now(), removed, reached, is_of_file, resumed })
    }

    /// The note written last.
    async fn last(&self) -> Result<Option<Note>> {
        match self.next {
            1 => Ok(None),
            next => {
                let entry = self.sequence.read::<Note>(next - 1).await;
                Ok(Some(entry.context("read how far the purge was")?.body))
            }
        }
    }

    async fn write_if_due(&mut self) -> Result<()> {
        match self.written.elapsed() >= NOTE_EVERY {
            true => self.write().await,
            false => Ok(()),
        }
    }

    /// Writes down how far it is, if anything is done.
    async fn write(&mut self) -> Result<()> {
        let removed = self.removed;
        let note = match self.reached.clone() {
            Some((pattern, place)) => Note::PurgeAt { pattern, place, removed },
            None if self.is_of_file && removed > 0 => Note::PurgeOfFile { removed },
            None => return Ok(()),
        };
        self.sequence.append(self.next, &note).await.context("write down how far the purge is")?;
        self.next += 1;
        self.written = Instant::now();
        Ok(())
    }
}
