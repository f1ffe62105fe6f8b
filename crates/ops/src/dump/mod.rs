//! Dump of a document store in mongodump's formats: everything selected, read at one moment, into one archive or a folder of files.
//!
//! What is written is what stock tools restore. Ranges of a collection are read at the same time and lie in the archive as whole slices, in
//! the order in which they came; a collection's checksum is over that order. Batches pass from the wire to the file as they are.
//!
//! The caller opens the file or makes the folder and decides when its name is given to it: a dump that failed half-way must not be taken for
//! a whole one.

mod form;
pub(crate) mod output;

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use mainstay_archive::{Entry, EntryKind, Header};
use mainstay_engine::{
    AccountStore, Accounts, CollectionInfo, CollectionKind, Consistency, DocumentBatch, DocumentSource,
    Namespace, PreparedScan, ScanRange, ServerFacts, Snapshot, SnapshotRequest, document_frames,
};
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{Error, ErrorKind, Result, ResultExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::form::{Archive, Directory, Form};
use crate::Selection;
use crate::scan::{prepare, tell_snapshot, total_estimate};

/// The operation's registered name.
pub const OPERATION: &str = "mongo.dump";

/// What is asked for.
#[derive(Debug, Clone)]
pub struct DumpRequest {
    /// Which collections.
    pub selection: Selection,
    /// What moment is wanted.
    pub snapshot: SnapshotRequest,
    /// How many ranges are read at the same time; at least 1. Also how many workers a stock restore uses at least.
    pub scan_count_max: usize,
    /// Whether users and roles are in it: all of them, or those of the one database that is dumped.
    pub accounts: bool,
    /// The gzip level, if it is to be compressed.
    pub gzip: Option<u8>,
}

/// What a dump works with.
pub struct DumpContext<'a> {
    /// The store to read.
    pub source: &'a dyn DocumentSource,
    /// Its users and roles.
    pub accounts: &'a dyn AccountStore,
    /// Told how far it is.
    pub observer: &'a dyn Observer,
    /// Stops at the next batch; what has been written is not whole then.
    pub cancel: &'a CancellationToken,
}

/// Where a dump goes.
#[derive(Debug)]
pub enum DumpTarget {
    /// One archive, into a file or pipe.
    Archive(File),
    /// Files, into a folder that is there and empty.
    Directory(PathBuf),
}

/// What a dump made.
#[derive(Debug)]
pub struct DumpReport {
    /// The server that was read.
    pub server: ServerFacts,
    /// The moment it shows; single collections may differ.
    pub consistency: Consistency,
    /// Collections, views and time series, by name.
    pub collections: Vec<Dumped>,
    /// Whether users and roles are in it.
    pub accounts: bool,
    /// Bytes that were written.
    pub output_bytes: u64,
    /// The archive's file, everything handed to the system; not for a folder, whose files are closed.
    pub file: Option<File>,
}

/// One namespace of a dump.
#[derive(Debug, Clone)]
pub struct Dumped {
    /// Its name.
    pub namespace: Namespace,
    /// Its kind.
    pub kind: CollectionKind,
    /// The moment its documents show.
    pub consistency: Consistency,
    /// Documents and their bytes.
    pub work: Work,
}

/// Dumps what `request` selects into `target`.
///
/// # Errors
/// `Usage` when users and roles are asked for with a selection that is neither everything nor one database; `Precondition` when a name matches
/// nothing; `Storage` when it cannot be written; `Interrupted` when cancelled; what the source fails with. What was written is not whole then.
pub async fn dump(
    context: &DumpContext<'_>,
    request: &DumpRequest,
    target: DumpTarget,
) -> Result<DumpReport> {
    let account_scope = request.accounts.then(|| account_scope(&request.selection)).transpose()?;
    let dumped = tokio::select! {
        dumped = write(context, request, account_scope, target) => dumped,
        () = context.cancel.cancelled() => Err(Error::new(ErrorKind::Interrupted, "the dump was stopped on request")),
    };
    dumped.map_err(
        |error| if error.state().is_some() { error } else { error.with_state("the dump is not whole") },
    )
}

/// Whose users and roles are meant: everybody's, or one database's.
fn account_scope(selection: &Selection) -> Result<Option<&str>> {
    match (selection.databases.as_slice(), selection.collections.as_slice()) {
        ([], []) => Ok(None),
        ([one], []) => Ok(Some(one)),
        _ => Err(Error::new(
            ErrorKind::Usage,
            "users and roles are dumped with everything, or with one whole database",
        )
        .with_state("nothing was written")
        .with_hint("name one database with `--db NAME`, or leave `--db` and `--collection` out")),
    }
}

async fn write(
    context: &DumpContext<'_>,
    request: &DumpRequest,
    account_scope: Option<Option<&str>>,
    target: DumpTarget,
) -> Result<DumpReport> {
    let server = context.source.server_facts().await.context("ask the server for its version")?;
    let snapshot = context.source.snapshot(request.snapshot).await.context("fix a moment to read at")?;
    tell_snapshot(context.observer, snapshot.as_ref());
    let mut collections = request.selection.resolve(context.source).await?;
    // Views first, as stock tools have it; then the largest, so that the longest scan does not begin last.
    collections
        .sort_by_key(|info| (info.kind != CollectionKind::View, std::cmp::Reverse(info.estimate.bytes)));
    let accounts = match account_scope {
        Some(scope) => account_entries(context.accounts, scope).await?,
        None => Vec::new(),
    };
    let prepared = Prepared::of(context, request, snapshot.as_ref(), &collections).await?;

    let header = Header {
        concurrent_collections: u32::try_from(request.scan_count_max.max(1)).unwrap_or(u32::MAX),
        server_version: server.version.clone(),
        tool_version: format!("mainstay {}", env!("CARGO_PKG_VERSION")),
    };
    let first = accounts.len();
    let entries: Vec<Entry> =
        accounts.iter().map(|(entry, _)| entry.clone()).chain(collections.iter().map(entry_of)).collect();
    let mut form = match target {
        DumpTarget::Archive(file) => {
            Form::Archive(Archive::begin(file, request.gzip, &header, &entries).await?)
        }
        DumpTarget::Directory(folder) => {
            Form::Directory(Directory::begin(folder, request.gzip, &header, &entries).await?)
        }
    };
    for (entry, (_, documents)) in accounts.into_iter().enumerate() {
        form.documents(entry, documents).await?;
        form.close(entry).await?;
    }
    context.observer.phase("dump");
    context.observer.expect(total_estimate(&collections));
    let dump = Dump { context, snapshot, scan_count_max: request.scan_count_max.max(1), first };
    let mut dumped = dump.collections(&collections, prepared, &mut form).await?;
    dumped.sort_by(|one, other| one.namespace.cmp(&other.namespace));
    let (file, output_bytes) = form.end().await?;
    Ok(DumpReport {
        server,
        consistency: dump.snapshot.consistency().clone(),
        collections: dumped,
        accounts: account_scope.is_some(),
        output_bytes,
        file,
    })
}

fn entry_of(info: &CollectionInfo) -> Entry {
    Entry {
        database: info.namespace.database.clone(),
        collection: info.namespace.collection.clone(),
        metadata: info.metadata.clone(),
        kind: match info.kind {
            CollectionKind::Collection => EntryKind::Collection,
            CollectionKind::View => EntryKind::View,
            CollectionKind::TimeSeries => EntryKind::TimeSeries,
        },
    }
}

/// Users, roles and the version of their form, as entries and documents. A restore reads the version when it meets the users, so it stands
/// with them in front of everything.
async fn account_entries(
    store: &dyn AccountStore,
    scope: Option<&str>,
) -> Result<Vec<(Entry, DocumentBatch)>> {
    let Accounts { users, roles, version } = store.accounts(scope).await.context("read users and roles")?;
    if version.is_empty() {
        // A server that never had a user.
        return Ok(Vec::new());
    }
    let entry = |name: &str| Entry {
        database: scope.unwrap_or("admin").to_owned(),
        collection: if scope.is_some() { format!("$admin.system.{name}") } else { format!("system.{name}") },
        metadata: String::new(),
        kind: EntryKind::Collection,
    };
    let batch =
        |bytes: bytes::Bytes| DocumentBatch { documents: document_frames(&bytes).count() as u64, bytes };
    Ok([("users", users), ("roles", roles), ("version", version)]
        .map(|(name, documents)| (entry(name), batch(documents)))
        .into())
}

/// The ranges of each collection, and the moment each is granted.
struct Prepared(Vec<(Option<Arc<PreparedScan>>, Consistency)>);

impl Prepared {
    async fn of(
        context: &DumpContext<'_>,
        request: &DumpRequest,
        snapshot: &dyn Snapshot,
        collections: &[CollectionInfo],
    ) -> Result<Self> {
        let mut all = Vec::with_capacity(collections.len());
        for info in collections {
            let (prepared, consistency) =
                prepare(snapshot, info, request.scan_count_max.max(1), context.observer).await?;
            all.push((prepared.map(Arc::new), consistency));
        }
        Ok(Self(all))
    }
}

/// The scanning of one dump.
struct Dump<'a> {
    context: &'a DumpContext<'a>,
    snapshot: Arc<dyn Snapshot>,
    scan_count_max: usize,
    /// How many entries stand before those of the collections.
    first: usize,
}

/// What the scans hand to the one who writes. `usize` is the position of a collection.
enum Scanned {
    Documents(usize, DocumentBatch),
    RangeEnd(usize),
}

/// A range to scan.
struct RangeJob {
    collection: usize,
    info: Arc<CollectionInfo>,
    prepared: Arc<PreparedScan>,
    range: ScanRange,
}

/// A collection, as far as it has been written.
struct Progressing {
    dumped: Dumped,
    ranges_left: usize,
}

/// What there is to scan: the collections with nothing written yet, and their ranges, in the order of the collections.
fn queue(collections: &[CollectionInfo], Prepared(prepared): Prepared) -> (Vec<Progressing>, Vec<RangeJob>) {
    let mut jobs = Vec::new();
    let mut progress = Vec::with_capacity(collections.len());
    for (collection, (info, (prepared, consistency))) in collections.iter().zip(prepared).enumerate() {
        let before = jobs.len();
        if let Some(prepared) = prepared {
            let info = Arc::new(info.clone());
            jobs.extend(prepared.ranges.iter().map(|range| RangeJob {
                collection,
                info: Arc::clone(&info),
                prepared: Arc::clone(&prepared),
                range: range.clone(),
            }));
        }
        let (namespace, kind) = (info.namespace.clone(), info.kind);
        progress.push(Progressing {
            dumped: Dumped { namespace, kind, consistency, work: Work::default() },
            ranges_left: jobs.len() - before,
        });
    }
    (progress, jobs)
}

impl Dump<'_> {
    /// Scans all collections and writes what comes, closing each collection with its last range. Ranges begin in the order of the collections,
    /// and a range begins only when another has ended and its end is on the way: so no more collections are open than ranges are read.
    async fn collections(
        &self,
        collections: &[CollectionInfo],
        prepared: Prepared,
        form: &mut Form,
    ) -> Result<Vec<Dumped>> {
        let (mut progress, jobs) = queue(collections, prepared);
        let empty = { progress.iter().enumerate() }.filter(|(_, collection)| collection.ranges_left == 0);
        for (collection, _) in empty {
            form.close(self.first + collection).await?;
        }
        let (hand_over, scanned) = mpsc::channel(1);
        // The first failure ends both, so that no scan waits for a writer that has gone.
        futures::try_join!(self.write(scanned, &mut progress, form), self.scan(jobs, hand_over))?;
        Ok(progress.into_iter().map(|collection| collection.dumped).collect())
    }

    /// Scans the ranges, each in a task of its own so that the cores share the work.
    async fn scan(&self, jobs: Vec<RangeJob>, hand_over: mpsc::Sender<Scanned>) -> Result<()> {
        let begin = |job: RangeJob| {
            let scanning = range(Arc::clone(&self.snapshot), job, hand_over.clone());
            let scanning = AbortOnDropHandle::new(tokio::spawn(scanning));
            async move {
                let early =
                    |source| Error::new(ErrorKind::Internal, "a scan ended early").with_source(source);
                scanning.await.map_err(early)?
            }
        };
        stream::iter(jobs).map(begin).buffer_unordered(self.scan_count_max).try_collect::<()>().await
    }

    async fn write(
        &self,
        mut scanned: mpsc::Receiver<Scanned>,
        progress: &mut [Progressing],
        form: &mut Form,
    ) -> Result<()> {
        while let Some(scanned) = scanned.recv().await {
            match scanned {
                Scanned::Documents(collection, batch) => {
                    let work = Work { items: batch.documents, bytes: batch.bytes.len() as u64 };
                    let dumped = &mut progress[collection].dumped;
                    dumped.work = dumped.work.saturating_add(work);
                    form.documents(self.first + collection, batch).await?;
                    self.context.observer.advance(work);
                }
                Scanned::RangeEnd(collection) => {
                    progress[collection].ranges_left -= 1;
                    if progress[collection].ranges_left == 0 {
                        form.close(self.first + collection).await?;
                    }
                }
            }
        }
        Ok(())
    }
}

async fn range(snapshot: Arc<dyn Snapshot>, job: RangeJob, hand_over: mpsc::Sender<Scanned>) -> Result<()> {
    let gone = || Error::new(ErrorKind::Internal, "nobody takes the documents any more");
    let scanning = async {
        let mut documents = snapshot.scan(&job.info, &job.prepared, &job.range).await?;
        while let Some(batch) = documents.next().await? {
            hand_over.send(Scanned::Documents(job.collection, batch)).await.map_err(|_| gone())?;
        }
        hand_over.send(Scanned::RangeEnd(job.collection)).await.map_err(|_| gone())
    };
    let scanned: Result<()> = scanning.await;
    scanned.with_context(|| format!("dump {}", job.info.namespace))
}
