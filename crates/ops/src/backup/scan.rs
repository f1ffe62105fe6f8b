//! The scanning of one backup: ranges of all collections share a bounded number of scans; a collection whose moment is lost is begun anew.
//!
//! Two things can befall a scan at one moment. The member whose storage is read may go away for good: the collection is divided anew and
//! read at the same moment from another one. Or the history of the moment may pass: the collection is read as it is now, by `_id`, and its
//! record says so and through which change it holds. In both cases the parts of the earlier attempt are thrown away, because only one kind
//! of division at a time gives every document once. Complete collections keep their parts and their moment.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use mainstay_engine::{
    CollectionInfo, Consistency, DocumentBatch, DocumentDigest, PreparedScan, ScanRange, ScanSetback,
    Snapshot, SnapshotRequest,
};
use mainstay_model::progress::Work;
use mainstay_model::{Error, ErrorKind, ObjectName, OpTime, Result, ResultExt};
use mainstay_repository::{ObjectSink, SetWriter};
use tokio_util::sync::CancellationToken;

use super::run::{Division, Part, Ready, Recorder, part_name};
use super::watch::Meter;
use super::{BackupContext, SnapshotChoice};
use crate::contents::{CollectionRecord, PartRecord, ROLE_DOCUMENTS, ROLE_METADATA};
use crate::scan;

/// What a range is meant to hold: so little is read again after an interruption. Much smaller would cost connections and objects.
const RANGE_BYTES: u64 = 256 * 1024 * 1024;
/// The most ranges of one collection: beyond, they grow.
const RANGES_MAX: usize = 2_048;
/// How often one collection is begun anew.
const ATTEMPTS_MAX: u32 = 5;

/// Into how many ranges a collection may be divided.
fn ranges_max(bytes: u64, scan_count_max: usize) -> usize {
    usize::try_from(bytes / RANGE_BYTES)
        .unwrap_or(usize::MAX)
        .clamp(scan_count_max, RANGES_MAX.max(scan_count_max))
}

/// The scanning of one backup.
pub(super) struct Scan<'a> {
    pub(super) context: &'a BackupContext<'a>,
    pub(super) writer: &'a SetWriter,
    pub(super) snapshot: Arc<dyn Snapshot>,
    pub(super) choice: SnapshotChoice,
    pub(super) scan_count_max: usize,
    /// The moment has passed: what was to be read at it is read as it is now.
    pub(super) has_passed: bool,
    pub(super) meter: &'a Meter,
}

impl Scan<'_> {
    /// Writes a collection's metadata and divides it into ranges.
    pub(super) async fn ready(&self, info: &CollectionInfo, before_listing: Option<OpTime>) -> Result<Ready> {
        let metadata_name = object_name(info).with_suffix(".metadata.json");
        let metadata = self
            .writer
            .put(&metadata_name, ROLE_METADATA, info.metadata.clone().into())
            .await
            .with_context(|| format!("store metadata of {}", info.namespace))?;
        let (prepared, consistency) = scan::prepare(
            self.snapshot.as_ref(),
            info,
            ranges_max(info.estimate.bytes, self.scan_count_max),
            self.context.observer,
        )
        .await?;
        let prepared = prepared.unwrap_or(PreparedScan { consistency, ranges: Vec::new() });
        let scan = division(0, prepared, before_listing);
        let record = CollectionRecord {
            namespace: info.namespace.clone(),
            kind: info.kind,
            capped: info.capped,
            holds_through: scan.holds_through,
            identity: info.identity.clone(),
            consistency: scan.consistency.clone(),
            index_count: info.index_count,
            metadata: metadata_name,
            parts: Vec::new(),
        };
        Ok(Ready { info: info.clone(), record, metadata, scan })
    }

    async fn prepare(&self, snapshot: &dyn Snapshot, info: &CollectionInfo) -> Result<PreparedScan> {
        let prepared = snapshot.prepare(info, ranges_max(info.estimate.bytes, self.scan_count_max)).await;
        prepared.with_context(|| format!("prepare scan of {}", info.namespace))
    }

    /// Reads what `parts` does not hold yet of everything in `ready`, and gives the records.
    pub(super) async fn read(
        &self,
        ready: Vec<Ready>,
        parts: BTreeMap<(usize, u32), Part>,
        recorder: &Recorder,
    ) -> Result<Vec<CollectionRecord>> {
        let mut works: Vec<CollectionWork> = ready.into_iter().map(CollectionWork::of).collect();
        for ((collection, ordinal), part) in parts {
            if let Some(work) = works.get_mut(collection) {
                work.parts.insert(ordinal, part);
            }
        }
        let mut jobs = VecDeque::new();
        for (index, work) in works.iter_mut().enumerate() {
            let mut snapshot = Arc::clone(&self.snapshot);
            if self.has_passed
                && work.is_missing()
                && matches!(work.ready.scan.consistency, Consistency::ClusterTime { .. })
            {
                work.set_back(ScanSetback::HistoryPassed, passed());
                snapshot = self.again(index, work, recorder).await?;
            }
            jobs.extend(work.jobs(index, &snapshot));
        }
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < self.scan_count_max
                && let Some(job) = jobs.pop_front()
            {
                if !job.stop.is_cancelled() {
                    works[job.collection].running += 1;
                    running.push(self.range(job));
                }
            }
            let Some(ended) = running.next().await else { break };
            let (index, ended) = ended?;
            let work = &mut works[index];
            work.running -= 1;
            match ended {
                Ended::Whole(part) if part.attempt == work.ready.scan.attempt && work.setback.is_none() => {
                    recorder.part(part.clone()).await?;
                    work.parts.insert(part.ordinal, part);
                }
                // The attempt it belongs to was given up while it ended.
                Ended::Whole(part) => self.writer.discard(&part.entry.name).await?,
                Ended::SetBack(setback, error) => work.set_back(setback, error),
                Ended::Stopped => {}
            }
            if work.running == 0 && work.setback.is_some() {
                let snapshot = self.again(index, work, recorder).await?;
                jobs.extend(work.jobs(index, &snapshot));
            }
        }
        Ok(works.into_iter().map(CollectionWork::into_record).collect())
    }

    /// Begins a collection anew after its setback; gives what it is to be read with.
    async fn again(
        &self,
        index: usize,
        work: &mut CollectionWork,
        recorder: &Recorder,
    ) -> Result<Arc<dyn Snapshot>> {
        let Some((setback, error)) = work.setback.take() else { return Ok(Arc::clone(&self.snapshot)) };
        let attempt = work.ready.scan.attempt + 1;
        if attempt > ATTEMPTS_MAX
            || (setback == ScanSetback::HistoryPassed && self.choice != SnapshotChoice::Best)
        {
            return Err(error);
        }
        let info = work.ready.info.clone();
        let (snapshot, scan) = match setback {
            ScanSetback::RangesLost => {
                self.context.observer.notice(&format!(
                    "warning: {} is read anew at the same moment, from another member: {}",
                    info.namespace,
                    error.message()
                ));
                let prepared = self.prepare(self.snapshot.as_ref(), &info).await.map_err(|again| {
                    // The same once more: what was met first says more.
                    if ScanSetback::of(&again).is_some() || again.kind() == ErrorKind::Unreachable {
                        error
                    } else {
                        again
                    }
                })?;
                (Arc::clone(&self.snapshot), division(attempt, prepared, work.ready.scan.holds_through))
            }
            ScanSetback::HistoryPassed => self.outside(attempt, &info).await?,
        };
        recorder.again(index, scan.clone()).await?;
        for part in std::mem::take(&mut work.parts).into_values() {
            self.writer.discard(&part.entry.name).await?;
        }
        work.begin(scan);
        Ok(snapshot)
    }

    /// Makes a collection ready to be read as it is now.
    async fn outside(&self, attempt: u32, info: &CollectionInfo) -> Result<(Arc<dyn Snapshot>, Division)> {
        let source = self.context.source;
        let holds_through = source.position().await.context("ask the server for its position")?;
        let snapshot = source.snapshot(SnapshotRequest::DuringScan).await?;
        let mut prepared = self.prepare(snapshot.as_ref(), info).await?;
        let reason = "the server's history of the moment had passed before it was read".to_owned();
        scan::tell_outside(self.context.observer, &info.namespace, &reason);
        prepared.consistency = Consistency::DuringScan { reason };
        Ok((snapshot, division(attempt, prepared, holds_through)))
    }

    /// Reads one range into its object.
    async fn range(&self, job: RangeJob) -> Result<(usize, Ended)> {
        let object = part_name(&object_name(&job.info), job.attempt, job.range.ordinal);
        let mut sink = self.writer.object(&object, ROLE_DOCUMENTS).await?;
        let copied = tokio::select! {
            copied = self.copy(&job, &mut sink) => copied,
            () = job.stop.cancelled() => {
                sink.abort().await;
                return Ok((job.collection, Ended::Stopped));
            }
        };
        match copied.with_context(|| format!("back up {}", job.info.namespace)) {
            Ok(digest) => {
                let entry = sink.finish().await.with_context(|| format!("store {object}"))?;
                let (collection, attempt, ordinal) = (job.collection, job.attempt, job.range.ordinal);
                Ok((collection, Ended::Whole(Part { collection, attempt, ordinal, digest, entry })))
            }
            Err(error) => {
                sink.abort().await;
                match ScanSetback::of(&error) {
                    Some(setback) => Ok((job.collection, Ended::SetBack(setback, error))),
                    None => Err(error),
                }
            }
        }
    }

    async fn copy(&self, job: &RangeJob, sink: &mut ObjectSink) -> Result<DocumentDigest> {
        let mut digest = DocumentDigest::default();
        let mut documents = job.snapshot.scan(&job.info, &job.prepared, &job.range).await?;
        loop {
            let began = Instant::now();
            let Some(DocumentBatch { bytes, documents }) = documents.next().await? else { return Ok(digest) };
            digest.add_concatenation(&bytes).map_err(|source| {
                Error::new(ErrorKind::Corrupt, "the server sent unframed documents").with_source(source)
            })?;
            let work = Work { items: documents, bytes: bytes.len() as u64 };
            sink.write(bytes).await?;
            self.context.observer.advance(work);
            self.meter.passed(work.bytes, began.elapsed()).await;
        }
    }
}

/// The objects of a collection begin with this.
fn object_name(info: &CollectionInfo) -> ObjectName {
    ObjectName::from_parts([info.namespace.database.as_str(), info.namespace.collection.as_str()])
}

/// What is known of a division that begins when the server stands at `position`.
fn division(attempt: u32, prepared: PreparedScan, position: Option<OpTime>) -> Division {
    Division {
        attempt,
        holds_through: match &prepared.consistency {
            Consistency::ClusterTime { at } => Some(*at),
            Consistency::DuringScan { .. } => position,
        },
        consistency: prepared.consistency,
        ranges: prepared.ranges,
    }
}

fn passed() -> Error {
    Error::new(ErrorKind::Precondition, "the server no longer has the history of the moment")
        .with_source(ScanSetback::HistoryPassed)
}

/// How one range ended.
enum Ended {
    /// It lies in the repository.
    Whole(Part),
    /// Its collection has to be begun anew.
    SetBack(ScanSetback, Error),
    /// Another range of its collection was set back.
    Stopped,
}

/// A range to read.
struct RangeJob {
    collection: usize,
    attempt: u32,
    info: Arc<CollectionInfo>,
    snapshot: Arc<dyn Snapshot>,
    prepared: Arc<PreparedScan>,
    range: ScanRange,
    /// Cancelled when the collection is begun anew.
    stop: CancellationToken,
}

/// How far a collection has come.
struct CollectionWork {
    ready: Ready,
    parts: BTreeMap<u32, Part>,
    /// Ranges being read now.
    running: usize,
    setback: Option<(ScanSetback, Error)>,
    stop: CancellationToken,
}

impl CollectionWork {
    fn of(ready: Ready) -> Self {
        Self { ready, parts: BTreeMap::new(), running: 0, setback: None, stop: CancellationToken::new() }
    }

    /// Whether ranges are missing.
    fn is_missing(&self) -> bool {
        self.parts.len() < self.ready.scan.ranges.len()
    }

    /// The ranges that are missing.
    fn jobs(&self, collection: usize, snapshot: &Arc<dyn Snapshot>) -> Vec<RangeJob> {
        let info = Arc::new(self.ready.info.clone());
        let prepared = Arc::new(self.ready.scan.prepared());
        let missing = self.ready.scan.ranges.iter().filter(|range| !self.parts.contains_key(&range.ordinal));
        let job = |range: &ScanRange| RangeJob {
            collection,
            attempt: self.ready.scan.attempt,
            info: Arc::clone(&info),
            snapshot: Arc::clone(snapshot),
            prepared: Arc::clone(&prepared),
            range: range.clone(),
            stop: self.stop.clone(),
        };
        missing.map(job).collect()
    }

    /// Notes why the collection has to be begun anew; that the history has passed outweighs a lost member.
    fn set_back(&mut self, setback: ScanSetback, error: Error) {
        self.stop.cancel();
        if self.setback.is_none() || setback == ScanSetback::HistoryPassed {
            self.setback = Some((setback, error));
        }
    }

    fn begin(&mut self, scan: Division) {
        self.stop = CancellationToken::new();
        self.ready.scan = scan;
    }

    fn into_record(self) -> CollectionRecord {
        let Ready { mut record, scan, .. } = self.ready;
        record.consistency = scan.consistency;
        record.holds_through = scan.holds_through;
        record.parts = self
            .parts
            .into_values()
            .map(|part| PartRecord { object: part.entry.name, digest: part.digest })
            .collect();
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_collections_are_divided_finely() {
        for (bytes, scans, ranges) in [
            (0, 4, 4),
            (300 << 20, 4, 4),
            (2 << 30, 4, 8),
            (2 << 30, 16, 16),
            (1 << 40, 4, RANGES_MAX),
            (1 << 40, 4_000, 4_000),
        ] {
            assert_eq!(ranges_max(bytes, scans), ranges, "{bytes} bytes, {scans} scans");
        }
    }
}
