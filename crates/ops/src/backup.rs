//! Backup of a document store: everything selected, read at one moment, streamed to the repository.
//!
//! [`plan`] lists what will be read. [`create`] fixes a moment, scans every range of every collection (several at a time, largest
//! collections first) and writes the manifest last: until then the set does not exist. Batches pass from the wire to the repository as
//! they are; only document borders are looked at, for the digest. A failure, a cancellation or a kill leaves no set behind, at most a
//! leftover that `backup prune` removes.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use mainstay_engine::{
    CollectionInfo, CollectionKind, Consistency, DocumentBatch, DocumentDigest, DocumentSource, PreparedScan,
    ScanRange, Snapshot, SnapshotRequest,
};
use mainstay_guard::Permit;
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{
    BlastRadius, ByteSize, Clock, Count, Effect, Error, ErrorKind, ObjectName, OpTime, PLAN_FORMAT, Plan,
    PlanStep, Result, ResultExt, StoreKind, Target,
};
use mainstay_repository::{ObjectSink, Repository, Set, SetWriter};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::Selection;
use crate::contents::{CollectionRecord, DocumentSetContents, PartRecord, ROLE_DOCUMENTS, ROLE_METADATA};

/// The operation's registered name.
pub const OPERATION: &str = "backup.create";

/// What is asked for.
#[derive(Debug, Clone)]
pub struct BackupRequest {
    /// Which collections.
    pub selection: Selection,
    /// What moment is wanted.
    pub snapshot: SnapshotChoice,
    /// How many ranges are read at the same time; at least 1.
    pub scan_count_max: usize,
}

/// [`SnapshotRequest`] in a form that a plan can carry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotChoice {
    /// One cluster time where the server can.
    #[default]
    Best,
    /// One cluster time or an error.
    ClusterTime,
    /// Each document as the scan meets it.
    DuringScan,
}

impl From<SnapshotChoice> for SnapshotRequest {
    fn from(choice: SnapshotChoice) -> Self {
        match choice {
            SnapshotChoice::Best => Self::Best,
            SnapshotChoice::ClusterTime => Self::ClusterTime,
            SnapshotChoice::DuringScan => Self::DuringScan,
        }
    }
}

/// The decided parameters of a backup.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    selection: Selection,
    snapshot: SnapshotChoice,
    scan_count_max: usize,
}

/// What a backup works with.
pub struct BackupContext<'a> {
    /// The store to read.
    pub source: &'a dyn DocumentSource,
    /// Where the set goes.
    pub repository: &'a Repository,
    /// Who runs this, for the lease: `user@host`.
    pub holder: &'a str,
    /// Told how far it is.
    pub observer: &'a dyn Observer,
    /// Stops at the next batch; nothing is kept then.
    pub cancel: &'a CancellationToken,
}

/// What a backup made.
#[derive(Debug)]
pub struct BackupReport {
    /// The new set.
    pub set: Set,
    /// Its contents.
    pub contents: DocumentSetContents,
    /// Bytes in the repository.
    pub stored_bytes: ByteSize,
}

/// Lists what a backup of `request` would read now.
///
/// # Errors
/// `Precondition` when the selection names something that is not there.
pub async fn plan(
    source: &dyn DocumentSource,
    target: Target,
    request: &BackupRequest,
    clock: &dyn Clock,
) -> Result<Plan> {
    let collections = request.selection.resolve(source).await?;
    let parameters = Parameters {
        selection: request.selection.clone(),
        snapshot: request.snapshot,
        scan_count_max: request.scan_count_max.max(1),
    };
    let created_at = clock.now();
    Ok(Plan {
        format: PLAN_FORMAT,
        operation: OPERATION.to_owned(),
        effect: Effect::Additive,
        blast_radius: BlastRadius { phrase: format!("back up {}", target.environment), items: 0, bytes: 0 },
        target,
        assumptions: Vec::new(),
        steps: collections.iter().map(step_of).collect(),
        parameters: serde_json::to_value(parameters).expect("parameters have a JSON form"),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

fn step_of(collection: &CollectionInfo) -> PlanStep {
    let summary = match collection.kind {
        CollectionKind::View => "view: definition only".to_owned(),
        CollectionKind::Collection | CollectionKind::TimeSeries => format!(
            "about {} documents, {}, {} indexes",
            Count(collection.estimate.items),
            ByteSize(collection.estimate.bytes),
            collection.index_count
        ),
    };
    PlanStep { name: format!("read {}", collection.namespace), mark: ' ', summary }
}

/// Makes a backup set as `plan` says.
///
/// # Errors
/// Whatever the source or the repository fails with; `Interrupted` when cancelled. In each case no set was made, and what had been
/// written was removed as far as the store allowed.
pub async fn create(context: &BackupContext<'_>, plan: &Plan, permit: &Permit) -> Result<BackupReport> {
    let parameters: Parameters = serde_json::from_value(plan.parameters.clone()).map_err(|source| {
        Error::new(ErrorKind::Usage, "the plan's parameters are not those of a backup").with_source(source)
    })?;
    permit.covers(plan)?;
    let scan_count_max = parameters.scan_count_max.max(1);
    let writer =
        context.repository.begin_set(StoreKind::Mongo, context.holder).await.context("begin backup set")?;
    let contents = tokio::select! {
        contents = write_contents(context, &plan.target.environment, &parameters, scan_count_max, &writer) => contents,
        () = context.cancel.cancelled() => Err(interrupted()),
    };
    match contents {
        Ok(contents) => commit(writer, contents).await,
        Err(error) => Err(abandon(writer, error).await),
    }
}

fn interrupted() -> Error {
    Error::new(ErrorKind::Interrupted, "the backup was stopped on request")
        .with_state("no backup set was made; sets made before are untouched")
        .with_hint("run the same command again to start over")
}

async fn commit(writer: SetWriter, contents: DocumentSetContents) -> Result<BackupReport> {
    let set = writer.commit(&contents).await.context("write manifest")?;
    let stored_bytes = ByteSize(set.manifest().stored_bytes());
    Ok(BackupReport { set, contents, stored_bytes })
}

async fn abandon(writer: SetWriter, error: Error) -> Error {
    let set_id = writer.id().clone();
    let removed = writer.abandon().await;
    let state = match removed {
        Ok(()) => "no backup set was made; sets made before are untouched".to_owned(),
        Err(_) => format!(
            "no backup set was made; remains of {set_id} are left, `mainstay backup prune` removes them"
        ),
    };
    error.with_state(state)
}

async fn write_contents(
    context: &BackupContext<'_>,
    environment: &str,
    parameters: &Parameters,
    scan_count_max: usize,
    writer: &SetWriter,
) -> Result<DocumentSetContents> {
    let server = context.source.server_facts().await.context("ask the server for its version")?;
    let snapshot =
        context.source.snapshot(parameters.snapshot.into()).await.context("fix a moment to read at")?;
    tell_consistency(context.observer, snapshot.consistency());
    let before_listing = context.source.position().await.context("ask the server for its position")?;
    let mut collections = parameters.selection.resolve(context.source).await?;
    let listed = context.source.position().await.context("ask the server for its position")?;
    collections.sort_by_key(|collection| std::cmp::Reverse(collection.estimate.bytes));
    context.observer.phase("back up");
    context.observer.expect(total_estimate(&collections));

    let scan = Scan { context, writer, snapshot, before_listing, scan_count_max };
    let mut records = scan.collections(&collections).await?;
    records.sort_by(|one, other| one.namespace.cmp(&other.namespace));
    let consistency = scan.snapshot.consistency().clone();
    let settled = if records.iter().all(|record| record.consistency == consistency) {
        listed
    } else {
        context.source.position().await.context("ask the server for its position")?
    };
    Ok(DocumentSetContents {
        environment: environment.to_owned(),
        server,
        consistency,
        settled,
        collections: records,
    })
}

fn total_estimate(collections: &[CollectionInfo]) -> Work {
    collections.iter().fold(Work::default(), |total, collection| Work {
        items: total.items + collection.estimate.items,
        bytes: total.bytes + collection.estimate.bytes,
    })
}

fn tell_consistency(observer: &dyn Observer, consistency: &Consistency) {
    match consistency {
        Consistency::ClusterTime { at } => {
            observer.notice(&format!(
                "consistency: one moment for all collections, cluster time {at} ({})",
                at.timestamp()
            ));
        }
        Consistency::DuringScan { reason } => {
            observer.notice(&format!(
                "warning: consistency: no single moment, each document as the scan meets it: {reason}"
            ));
        }
    }
}

/// The scanning of one backup.
struct Scan<'a> {
    context: &'a BackupContext<'a>,
    writer: &'a SetWriter,
    snapshot: Arc<dyn Snapshot>,
    /// The server's position before any collection was looked at.
    before_listing: Option<OpTime>,
    scan_count_max: usize,
}

/// A range to scan, and where its documents go.
struct RangeJob<'a> {
    collection: usize,
    info: &'a CollectionInfo,
    prepared: Arc<PreparedScan>,
    range: ScanRange,
}

impl Scan<'_> {
    /// Scans all `collections`: ranges of all of them share the same bounded number of scans, so that a large last collection is still
    /// read by all.
    async fn collections(&self, collections: &[CollectionInfo]) -> Result<Vec<CollectionRecord>> {
        let mut records = Vec::with_capacity(collections.len());
        let mut jobs = Vec::new();
        for (index, info) in collections.iter().enumerate() {
            let (record, ranges) = self.prepare(index, info).await?;
            records.push(record);
            jobs.extend(ranges);
        }
        let parts: Vec<(usize, u32, PartRecord)> = stream::iter(jobs)
            .map(|job| async move {
                let ordinal = job.range.ordinal;
                self.range(&job).await.map(|part| (job.collection, ordinal, part))
            })
            .buffer_unordered(self.scan_count_max)
            .try_collect()
            .await?;
        let mut parts = parts;
        parts.sort_by_key(|(collection, ordinal, _)| (*collection, *ordinal));
        for (collection, _, part) in parts {
            records[collection].parts.push(part);
        }
        Ok(records)
    }

    /// Writes the collection's metadata and splits it into ranges.
    async fn prepare<'c>(
        &self,
        index: usize,
        info: &'c CollectionInfo,
    ) -> Result<(CollectionRecord, Vec<RangeJob<'c>>)> {
        let metadata = object_name(info).with_suffix(".metadata.json");
        self.writer
            .put(&metadata, ROLE_METADATA, info.metadata.clone().into())
            .await
            .with_context(|| format!("store metadata of {}", info.namespace))?;
        let prepared = match info.kind {
            CollectionKind::View => None,
            CollectionKind::Collection | CollectionKind::TimeSeries => Some(
                self.snapshot
                    .prepare(info, self.scan_count_max)
                    .await
                    .with_context(|| format!("prepare scan of {}", info.namespace))?,
            ),
        };
        let consistency = match &prepared {
            Some(prepared) => prepared.consistency.clone(),
            None => self.snapshot.consistency().clone(),
        };
        if consistency != *self.snapshot.consistency()
            && let Consistency::DuringScan { reason } = &consistency
        {
            self.context
                .observer
                .notice(&format!("warning: {} is read outside the moment: {reason}", info.namespace));
        }
        let record = CollectionRecord {
            namespace: info.namespace.clone(),
            kind: info.kind,
            capped: info.capped,
            holds_through: match &consistency {
                Consistency::ClusterTime { at } => Some(*at),
                Consistency::DuringScan { .. } => self.before_listing,
            },
            identity: info.identity.clone(),
            consistency,
            index_count: info.index_count,
            metadata,
            parts: Vec::new(),
        };
        let jobs = prepared.map(Arc::new).map(|prepared| {
            let job = |range: &ScanRange| RangeJob {
                collection: index,
                info,
                prepared: Arc::clone(&prepared),
                range: range.clone(),
            };
            prepared.ranges.iter().map(job).collect()
        });
        Ok((record, jobs.unwrap_or_default()))
    }

    async fn range(&self, job: &RangeJob<'_>) -> Result<PartRecord> {
        let object = object_name(job.info).with_suffix(&format!(".{:04}.bson", job.range.ordinal));
        let mut sink = self.writer.object(&object, ROLE_DOCUMENTS).await?;
        let copied = self.copy(job, &mut sink).await;
        match copied.with_context(|| format!("back up {}", job.info.namespace)) {
            Ok(digest) => {
                sink.finish().await.with_context(|| format!("store {object}"))?;
                Ok(PartRecord { object, digest })
            }
            Err(error) => {
                sink.abort().await;
                Err(error)
            }
        }
    }

    async fn copy(&self, job: &RangeJob<'_>, sink: &mut ObjectSink) -> Result<DocumentDigest> {
        let mut digest = DocumentDigest::default();
        let mut documents = self.snapshot.scan(job.info, &job.prepared, &job.range).await?;
        while let Some(DocumentBatch { bytes, documents }) = documents.next().await? {
            digest.add_concatenation(&bytes).map_err(|source| {
                Error::new(ErrorKind::Corrupt, "the server sent unframed documents").with_source(source)
            })?;
            let work = Work { items: documents, bytes: bytes.len() as u64 };
            sink.write(bytes).await?;
            self.context.observer.advance(work);
        }
        Ok(digest)
    }
}

fn object_name(info: &CollectionInfo) -> ObjectName {
    ObjectName::from_parts([info.namespace.database.as_str(), info.namespace.collection.as_str()])
}
