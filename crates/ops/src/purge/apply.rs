//! Removing what matches.
//!
//! Every few seconds it is written into the repository how far it is (`redis/settings/<hash of the plan>/`), so that a run that was killed does not
//! walk over the same keys again. The place counts for the same process of the store alone: another one lists in another order.

use std::time::{Duration, Instant};

use mainstay_engine::{KeyScanRequest, Keyspace, SweepPlace};
use mainstay_guard::Permit;
use mainstay_journal::Sequence;
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{Count, Error, ErrorKind, Plan, Result, ResultExt, StoreKind};
use mainstay_repository::Repository;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::plan::check;
use super::{NamesFile, PurgeRequest};
use crate::keyspace::{each_key, open};

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
    /// Where it is written down how far it is.
    pub repository: &'a Repository,
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
}

/// Removes what matches `plan`'s patterns now.
///
/// # Errors
/// The store's, `Interrupted` when cancelled; the state says how many keys are gone by then. Applying the plan again goes on.
pub async fn apply(context: &PurgeContext<'_>, plan: &Plan, permit: &Permit) -> Result<PurgeReport> {
    permit.covers(plan)?;
    let request: PurgeRequest = serde_json::from_value(plan.parameters.clone()).map_err(|source| {
        Error::new(ErrorKind::Usage, "the plan's parameters are not those of a purge").with_source(source)
    })?;
    check(&request)?;
    context.observer.phase("purge");
    context.observer.expect(Work { items: plan.blast_radius.items, bytes: 0 });
    let planned = plan.blast_radius.items;
    let mut notes = Notes::open(context.repository, plan).await?;
    let from = notes.last().await?;
    let removed = match &from {
        Some(Note::PurgeAt { removed, .. }) => *removed,
        None => 0,
    };
    let mut report = PurgeReport { removed, planned, resumed: false };
    context.observer.advance(Work { items: removed, bytes: 0 });
    match sweep(context, &request, permit, from.as_ref(), &mut notes, &mut report).await {
        Ok(()) => {
            notes.sequence.remove_all().await.context("forget how far the purge was")?;
            Ok(report)
        }
        Err(error) => Err(error
            .with_state(format!(
                "at least {} keys are removed; the others that match stay whole",
                Count(report.removed)
            ))
            .with_hint("the same plan again goes on, the same patterns again remove the rest")),
    }
}

async fn sweep(
    context: &PurgeContext<'_>,
    request: &PurgeRequest,
    permit: &Permit,
    from: Option<&Note>,
    notes: &mut Notes,
    report: &mut PurgeReport,
) -> Result<()> {
    if let Some(file) = &request.file {
        return remove_named(context, request, file, permit, &mut report.removed).await;
    }
    let databases = request.databases(context.keyspace).await?;
    let (first, mut place) = match from {
        Some(Note::PurgeAt { pattern, place, .. }) => (*pattern, Some(place)),
        None => (0, None),
    };
    for (index, pattern) in request.patterns.iter().enumerate().skip(first) {
        let is_meant = request.selector(index, context.keyspace.marker());
        let scan_request = KeyScanRequest {
            databases: databases.clone(),
            pattern: Some(pattern.clone().into_bytes()),
            answer_time_max: request.answer_time_max(),
            // No lifetimes are asked for.
            now: 0,
            asks_idle: false,
        };
        let from = place.take();
        let mut sweep = context.keyspace.sweep(scan_request, from).await?;
        // Another process of the server begins at its beginning.
        report.resumed |= from.is_some_and(|from| sweep.place().as_ref() == Some(from));
        while let Some(mut names) = sweep.next().await? {
            names.retain(|name| is_meant(name));
            if context.cancel.is_cancelled() {
                return Err(Error::new(ErrorKind::Interrupted, "the purge was stopped on request"));
            }
            let gone = sweep.remove(&names, permit).await.with_context(|| format!("purge {pattern}"))?;
            report.removed += gone;
            context.observer.advance(Work { items: gone, bytes: 0 });
            if let Some(place) = sweep.place().filter(|_| notes.are_due()) {
                notes.write(Note::PurgeAt { pattern: index, place, removed: report.removed }).await?;
            }
        }
    }
    Ok(())
}

/// Removes the keys whose names a file tells, without having the server list any. A run that was killed begins anew: a name that is not there
/// any more costs the server next to nothing.
async fn remove_named(
    context: &PurgeContext<'_>,
    request: &PurgeRequest,
    file: &NamesFile,
    permit: &Permit,
    removed: &mut u64,
) -> Result<()> {
    let opened = open(&file.path)?;
    let bytes = opened.metadata().map(|metadata| metadata.len()).unwrap_or_default();
    if bytes != file.bytes {
        return Err(Error::new(
            ErrorKind::StalePlan,
            format!("{} has {bytes} bytes, it had {}", file.path.display(), file.bytes),
        ));
    }
    let is_meant = request.file_selector(context.keyspace.marker());
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
    let mut removal = context.keyspace.removal(request.answer_time_max()).await?;
    while let Some((database, names)) = batches.recv().await {
        if context.cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Interrupted, "the purge was stopped on request"));
        }
        let gone = removal.remove(database, &names, permit).await?;
        *removed += gone;
        context.observer.advance(Work { items: gone, bytes: 0 });
    }
    let walked =
        walk.await.map_err(|_| Error::new(ErrorKind::Internal, "the walk through the file ended"))?;
    walked.with_context(|| format!("walk through {}", file.path.display()))
}

/// The notes of all runs of one plan.
struct Notes {
    sequence: Sequence,
    next: u64,
    written: Instant,
}

impl Notes {
    async fn open(repository: &Repository, plan: &Plan) -> Result<Self> {
        let sequence = repository.settings_records(StoreKind::Redis, &plan.hash()?);
        let next = sequence.numbers().await?.last().map_or(1, |last| last + 1);
        Ok(Self { sequence, next, written: Instant::now() })
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

    fn are_due(&self) -> bool {
        self.written.elapsed() >= NOTE_EVERY
    }

    async fn write(&mut self, note: Note) -> Result<()> {
        self.sequence.append(self.next, &note).await.context("write down how far the purge is")?;
        self.next += 1;
        self.written = Instant::now();
        Ok(())
    }
}
