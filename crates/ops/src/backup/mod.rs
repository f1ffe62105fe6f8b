//! Backup of a document store: everything selected, read at one moment, streamed to the repository.
//!
//! [`plan`] lists what will be read. [`create`] fixes a moment, scans every range of every collection (several at a time, largest
//! collections first) and writes the manifest last: until then the set does not exist. Batches pass from the wire to the repository as
//! they are; only document borders are looked at, for the digest.
//!
//! A failure, a cancellation or a kill leaves no set behind. Ranges that were complete stay in the repository with the journal of the run:
//! [`plan_resume`] decides whether and how it goes on, and [`create`] then reads what is missing, at the same moment as long as the server
//! has its history. Where nothing was complete, nothing is kept.

mod accounts;
mod pace;
mod resume;
mod run;
mod scan;
mod watch;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use mainstay_engine::{
    AccountStore, CollectionInfo, CollectionKind, Consistency, DocumentSource, ScanSetback, Snapshot,
    SnapshotRequest,
};
use mainstay_guard::Permit;
use mainstay_model::progress::Observer;
use mainstay_model::{
    BlastRadius, ByteSize, Clock, Count, Effect, Error, ErrorKind, OpTime, PLAN_FORMAT, Plan, PlanStep,
    Result, ResultExt, RunId, StoreKind, Target,
};
use mainstay_repository::{Repository, Set, SetWriter};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

pub use resume::{ResumeRequest, plan_resume};
pub(crate) use run::{JOURNAL_OPERATION, forget, resumable};
pub use run::{ResumableRun, resumable_runs};

use crate::Selection;
use crate::contents::{CollectionRecord, DocumentSetContents};
use crate::scan::{tell_snapshot, total_estimate};
use resume::Continued;
use run::{Header, Part, Ready, Recorder, run_of};
use scan::Scan;
use watch::{Meter, Watch};

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
    /// The longest time the server may take to answer a small question while it is read; the scans are held back accordingly.
    pub impact_max: Option<Duration>,
    /// Whether the server's users and roles come along, credentials included.
    pub accounts: bool,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    impact_max_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    accounts: bool,
    /// The run to go on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resume: Option<RunId>,
}

impl Parameters {
    fn of(plan: &Plan) -> Result<Self> {
        serde_json::from_value(plan.parameters.clone()).map_err(|source| {
            Error::new(ErrorKind::Usage, "the plan's parameters are not those of a backup")
                .with_source(source)
        })
    }

    fn impact_max(&self) -> Option<Duration> {
        self.impact_max_ms.map(Duration::from_millis)
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// What a backup works with.
pub struct BackupContext<'a> {
    /// The store to read.
    pub source: &'a dyn DocumentSource,
    /// Its users and roles.
    pub accounts: &'a dyn AccountStore,
    /// Where the set goes.
    pub repository: &'a Repository,
    /// Who runs this, for the lease: `user@host`.
    pub holder: &'a str,
    /// The time.
    pub clock: &'a dyn Clock,
    /// Told how far it is.
    pub observer: &'a dyn Observer,
    /// Stops at the next batch; complete ranges are kept.
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
    /// Whether it continued an interrupted run.
    pub resumed: bool,
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
        impact_max_ms: request.impact_max.map(milliseconds),
        accounts: request.accounts,
        resume: None,
    };
    let steps = collections.iter().map(step_of).chain(accounts_step(request.accounts));
    Ok(plan_of(&parameters, target, steps.collect(), clock))
}

fn plan_of(parameters: &Parameters, target: Target, steps: Vec<PlanStep>, clock: &dyn Clock) -> Plan {
    let created_at = clock.now();
    Plan {
        format: PLAN_FORMAT,
        operation: OPERATION.to_owned(),
        effect: Effect::Additive,
        blast_radius: BlastRadius { phrase: format!("back up {}", target.environment), items: 0, bytes: 0 },
        target,
        assumptions: Vec::new(),
        steps,
        parameters: serde_json::to_value(parameters).expect("parameters have a JSON form"),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn accounts_step(asked: bool) -> Option<PlanStep> {
    asked.then(|| PlanStep {
        name: "read users and roles".to_owned(),
        mark: ' ',
        summary: "all of the server, with what their passwords are checked with".to_owned(),
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

/// Makes a backup set as `plan` says, of [`plan`] or of [`plan_resume`].
///
/// # Errors
/// Whatever the source or the repository fails with; `Interrupted` when cancelled. No set was made then; the error's state says whether the
/// run can be continued. `Precondition` when a run cannot be continued any more.
pub async fn create(context: &BackupContext<'_>, plan: &Plan, permit: &Permit) -> Result<BackupReport> {
    let parameters = Parameters::of(plan)?;
    permit.covers(plan)?;
    let recorder = OnceLock::new();
    let (writer, made, kept_before) = match &parameters.resume {
        None => {
            let begun = context.repository.begin_set(StoreKind::Mongo, context.holder).await;
            let writer = begun.context("begin backup set")?;
            let attempt =
                Attempt { context, plan, parameters: &parameters, writer: &writer, recorder: &recorder };
            let made = stoppable(context, attempt.begin()).await;
            (writer, made, 0)
        }
        Some(run) => {
            let Continued { writer, journal, recorded } = resume::open(context, plan, run).await?;
            let kept_before = recorded.parts.len() as u64;
            let attempt =
                Attempt { context, plan, parameters: &parameters, writer: &writer, recorder: &recorder };
            let made = stoppable(context, attempt.go_on(journal, recorded)).await;
            (writer, made, kept_before)
        }
    };
    let (kept, recording) = match recorder.into_inner() {
        None => (kept_before, Ok(())),
        Some(recorder) => recorder.end().await,
    };
    // What kept the journal from being written is the reason why scans were stopped then.
    match recording.and(made) {
        Ok(contents) => commit(context, writer, contents, parameters.resume.is_some()).await,
        Err(error) => Err(give_up(context, writer, kept, error).await),
    }
}

/// Does `work` until it ends or is cancelled.
async fn stoppable<T>(context: &BackupContext<'_>, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        outcome = work => outcome,
        () = context.cancel.cancelled() => {
            Err(Error::new(ErrorKind::Interrupted, "the backup was stopped on request"))
        }
    }
}

async fn commit(
    context: &BackupContext<'_>,
    writer: SetWriter,
    contents: DocumentSetContents,
    resumed: bool,
) -> Result<BackupReport> {
    let set = writer.commit(&contents).await.context("write manifest")?;
    if let Err(error) = forget(context.repository, set.id()).await {
        context
            .observer
            .notice(&format!("warning: the journal of the run stays until `mainstay backup prune`: {error}"));
    }
    let stored_bytes = ByteSize(set.manifest().stored_bytes());
    Ok(BackupReport { set, contents, stored_bytes, resumed })
}

/// Ends a run that failed: with ranges complete it is left to be continued, without any, or when its moment has passed, it is removed.
async fn give_up(context: &BackupContext<'_>, writer: SetWriter, parts: u64, error: Error) -> Error {
    let set = writer.id().clone();
    if parts > 0 && ScanSetback::of(&error) != Some(ScanSetback::HistoryPassed) {
        // A lease that cannot be given back runs out by itself.
        let _ = writer.suspend().await;
        let run = run_of(&set);
        let error = error.with_state(format!(
            "no backup set was made; the {parts} ranges that were complete are kept in run {run}; sets made before are untouched"
        ));
        return match (error.kind(), error.hint()) {
            (ErrorKind::Precondition, Some(_)) => error,
            _ => error.with_hint(format!(
                "continue with `mainstay backup create --resume {run}`, or remove it with `mainstay backup prune --resumable`"
            )),
        };
    }
    let removed = match writer.abandon().await {
        Ok(()) => forget(context.repository, &set).await,
        Err(left) => Err(left),
    };
    let state = match removed {
        Ok(()) => "no backup set was made; sets made before are untouched".to_owned(),
        Err(_) => {
            format!("no backup set was made; remains of {set} are left, `mainstay backup prune` removes them")
        }
    };
    let error = error.with_state(state);
    if error.kind() == ErrorKind::Interrupted {
        error.with_hint("run the same command again to start over")
    } else {
        error
    }
}

/// One try at a backup.
struct Attempt<'a> {
    context: &'a BackupContext<'a>,
    plan: &'a Plan,
    parameters: &'a Parameters,
    writer: &'a SetWriter,
    /// Set once there is something to go on with.
    recorder: &'a OnceLock<Recorder>,
}

impl Attempt<'_> {
    /// Lists, divides and reads everything.
    async fn begin(&self) -> Result<DocumentSetContents> {
        let (context, source) = (self.context, self.context.source);
        let server = source.server_facts().await.context("ask the server for its version")?;
        let snapshot =
            source.snapshot(self.parameters.snapshot.into()).await.context("fix a moment to read at")?;
        let fixed_at = Instant::now();
        let consistency = snapshot.consistency().clone();
        tell_snapshot(context.observer, snapshot.as_ref());
        let before_listing = self.position().await?;
        let mut collections = self.parameters.selection.resolve(source).await?;
        let listed = self.position().await?;
        collections.sort_by_key(|collection| std::cmp::Reverse(collection.estimate.bytes));
        context.observer.phase("back up");
        context.observer.expect(total_estimate(&collections));

        let meter = Meter::new();
        let scan = self.scan(snapshot, &meter);
        let mut ready = Vec::with_capacity(collections.len());
        for info in &collections {
            ready.push(scan.ready(info, before_listing).await?);
        }
        let header = Header {
            operation: JOURNAL_OPERATION.to_owned(),
            plan: self.plan.clone(),
            set: self.writer.id().clone(),
            begun_at: self.writer.begun_at(),
            server,
            consistency,
            before_listing,
            listed,
            collections: ready.len(),
        };
        let recorder = Recorder::begin(context.repository, context.clock, &header, &ready).await;
        let recorder = recorder.context("begin the journal of this run")?;
        self.read(&scan, &header, ready, BTreeMap::new(), recorder, fixed_at).await
    }

    fn scan<'s>(&'s self, snapshot: Arc<dyn Snapshot>, meter: &'s Meter) -> Scan<'s> {
        Scan {
            context: self.context,
            writer: self.writer,
            snapshot,
            choice: self.parameters.snapshot,
            scan_count_max: self.parameters.scan_count_max.max(1),
            has_passed: false,
            meter,
        }
    }

    /// Reads what `parts` lacks, under watch, and says what the set holds.
    async fn read(
        &self,
        scan: &Scan<'_>,
        header: &Header,
        ready: Vec<Ready>,
        parts: BTreeMap<(usize, u32), Part>,
        recorder: Recorder,
        fixed_at: Instant,
    ) -> Result<DocumentSetContents> {
        let recorder = self.recorder.get_or_init(|| recorder);
        let largest = ready.iter().find(|ready| ready.info.kind != CollectionKind::View);
        let gauge = largest.map(|ready| scan.snapshot.gauge(&ready.info));
        let expected: u64 = ready.iter().map(|ready| ready.info.estimate.bytes).sum();
        let watch = Watch {
            observer: self.context.observer,
            meter: scan.meter,
            moment: matches!(header.consistency, Consistency::ClusterTime { .. }).then_some(fixed_at),
            expected_bytes: expected.saturating_sub(parts.values().map(|part| part.digest.bytes).sum()),
            impact_max: self.parameters.impact_max(),
        };
        let records = match gauge {
            None => scan.read(ready, parts, recorder).await?,
            Some(gauge) => tokio::select! {
                records = scan.read(ready, parts, recorder) => records?,
                never = watch.run(gauge) => match never {},
            },
        };
        self.contents(header, records).await
    }

    async fn contents(
        &self,
        header: &Header,
        mut records: Vec<CollectionRecord>,
    ) -> Result<DocumentSetContents> {
        records.sort_by(|one, other| one.namespace.cmp(&other.namespace));
        let consistency = header.consistency.clone();
        let settled = if records.iter().all(|record| record.consistency == consistency) {
            header.listed
        } else {
            self.position().await?
        };
        let accounts = match self.parameters.accounts {
            true => Some(accounts::write(self.context, self.writer).await?),
            false => None,
        };
        Ok(DocumentSetContents {
            environment: self.plan.target.environment.clone(),
            server: header.server.clone(),
            consistency,
            settled,
            selection: Some(self.parameters.selection.clone()),
            collections: records,
            accounts,
        })
    }

    async fn position(&self) -> Result<Option<OpTime>> {
        self.context.source.position().await.context("ask the server for its position")
    }
}
