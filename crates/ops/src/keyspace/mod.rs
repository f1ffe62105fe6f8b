//! What keys there are, by prefix: how many, what they take, when they expire, which ones nobody would expect.
//!
//! The same census is taken of a server at work, step by step ([`of_server`]), and of a database file without any server ([`of_file`]).
//! Reads only; of values nothing is read but their size. Memory is bounded by the number of prefixes, of which there are at most
//! [`PREFIX_COUNT_MAX`]; what comes after is summed up as one.

mod census;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mainstay_engine::{KeyKind, KeyRecord, KeyScanRequest, Keyspace};
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{Error, ErrorKind, Finding, Result, ResultExt};
use mainstay_rdb::{Fault, Item, Kind, WalkError, Walker};
use tokio_util::sync::CancellationToken;

pub use census::{BigKey, CensusOptions, ExpirySpread, KeyCensus, KeyGroup, PREFIX_COUNT_MAX, PrefixGroup};

pub(crate) use census::{Counting, census_prefix, shown_name};

/// How many keys of a file are counted before the observer is told.
const FILE_STEP_KEYS: u64 = 10_000;

/// Where a census comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CensusSource {
    /// A server at work: what keys take is the memory it says they take.
    Server,
    /// A database file: what keys take are the bytes of their names and of their values' strings. Memory is more.
    File,
}

/// A census, and what there is to say about it.
#[derive(Debug)]
pub struct KeyspaceReport {
    /// Where it comes from.
    pub source: CensusSource,
    /// What was counted.
    pub census: KeyCensus,
    /// Whether sizes are known; on a server the user may not be allowed to ask.
    pub tells_bytes: bool,
    /// What is out of the ordinary, with its remedy.
    pub findings: Vec<Finding>,
}

/// Which keys of a server are counted, and how gently.
#[derive(Debug, Clone)]
pub struct ServerCensusRequest {
    /// These databases; all that hold keys when empty.
    pub databases: Vec<u64>,
    /// Only names that match this glob.
    pub pattern: Option<Vec<u8>>,
    /// The longest that the server should be busy with one answer.
    pub answer_time_max: Duration,
    /// How keys are grouped.
    pub options: CensusOptions,
}

/// Counts the keys of a server at work.
///
/// # Errors
/// The server's; `Interrupted` when cancelled.
pub async fn of_server(
    keyspace: &dyn Keyspace,
    request: ServerCensusRequest,
    observer: &dyn Observer,
    cancel: &CancellationToken,
) -> Result<KeyspaceReport> {
    observer.phase("count keys");
    let sizes = keyspace.databases().await?;
    let wanted = |database: u64| request.databases.is_empty() || request.databases.contains(&database);
    let sizes: Vec<_> = sizes.into_iter().filter(|size| wanted(size.database)).collect();
    observer.expect(Work { items: sizes.iter().map(|size| size.keys).sum(), bytes: 0 });
    let scan_request = KeyScanRequest {
        databases: sizes.iter().map(|size| size.database).collect(),
        pattern: request.pattern,
        answer_time_max: request.answer_time_max,
        now: request.options.now,
        asks_idle: false,
    };
    let mut scan = keyspace.scan(scan_request).await?;
    let tells_bytes = scan.tells_bytes();
    let mut counting = Counting::new(request.options);
    while let Some(records) = scan.next().await? {
        records.iter().for_each(|record| counting.add(record));
        let bytes = records.iter().filter_map(|record| record.bytes).sum();
        observer.advance(Work { items: records.len() as u64, bytes });
        if cancel.is_cancelled() {
            return Err(interrupted());
        }
    }
    let census = counting.end();
    let findings = census.findings();
    Ok(KeyspaceReport { source: CensusSource::Server, census, tells_bytes, findings })
}

/// Counts the keys of a database file, with no server at all.
///
/// # Errors
/// `NotFound` and `Storage` when it cannot be read; `Corrupt` when it is damaged; `Unsupported` when it is of a version or has values that are
/// not known here; `Interrupted` when cancelled.
pub async fn of_file(
    path: PathBuf,
    options: CensusOptions,
    observer: Arc<dyn Observer>,
    cancel: CancellationToken,
) -> Result<KeyspaceReport> {
    let walked = tokio::task::spawn_blocking(move || {
        observer.phase("count keys");
        let file = open(&path)?;
        let length = file.metadata().map(|metadata| metadata.len()).unwrap_or_default();
        observer.expect(Work { items: 0, bytes: length });
        let counted = walk(file, options, observer.as_ref(), &cancel);
        counted.with_context(|| format!("walk through {}", path.display()))
    });
    let census =
        walked.await.map_err(|_| Error::new(ErrorKind::Internal, "the walk through the file ended"))??;
    let findings = census.findings();
    Ok(KeyspaceReport { source: CensusSource::File, census, tells_bytes: true, findings })
}

/// Opens a database file.
///
/// # Errors
/// `NotFound`, `Storage`; `Usage` when it is no file.
pub(crate) fn open(path: &Path) -> Result<File> {
    let shown = path.display();
    let refuse = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Error::new(ErrorKind::NotFound, format!("there is no {shown}"))
            .with_hint("the server writes it at `dbfilename` in its `dir`, at the next `BGSAVE`"),
        _ => Error::new(ErrorKind::Storage, format!("cannot read {shown}")).with_source(error),
    };
    if !std::fs::metadata(path).map_err(refuse)?.is_file() {
        return Err(Error::new(ErrorKind::Usage, format!("{shown} is no file")));
    }
    File::open(path).map_err(refuse)
}

fn walk(
    source: impl Read,
    options: CensusOptions,
    observer: &dyn Observer,
    cancel: &CancellationToken,
) -> Result<KeyCensus> {
    let mut counting = Counting::new(options);
    let (mut keys, mut told) = (0, Work::default());
    each_key(source, |record, offset| {
        counting.add(record);
        keys += 1;
        if keys % FILE_STEP_KEYS == 0 {
            let so_far = Work { items: keys, bytes: offset };
            observer.advance(Work { items: so_far.items - told.items, bytes: so_far.bytes - told.bytes });
            told = so_far;
            if cancel.is_cancelled() {
                return Err(interrupted());
            }
        }
        Ok(())
    })?;
    Ok(counting.end())
}

/// Hands over each key of a database file with the place behind it, until the end or the first error.
///
/// # Errors
/// As [`of_file`]; those of `take`.
pub(crate) fn each_key(source: impl Read, mut take: impl FnMut(&KeyRecord, u64) -> Result<()>) -> Result<()> {
    let mut walker = Walker::new(source);
    while let Some(item) = walker.next_item().map_err(damaged)? {
        let Item::Key(head) = item else { continue };
        let tail = walker.pass_value().map_err(damaged)?;
        let record = KeyRecord {
            bytes: Some(tail.data_bytes.saturating_add(head.name.len() as u64)),
            database: head.database,
            kind: kind(head.kind),
            elements: tail.elements,
            expires_at: head.expires_at,
            idle_seconds: head.idle_seconds,
            name: head.name,
        };
        take(&record, walker.offset())?;
        walker.reuse(record.name);
    }
    Ok(())
}

fn kind(kind: Kind) -> KeyKind {
    match kind {
        Kind::String => KeyKind::String,
        Kind::List => KeyKind::List,
        Kind::Set => KeyKind::Set,
        Kind::SortedSet => KeyKind::SortedSet,
        Kind::Hash => KeyKind::Hash,
        Kind::Stream => KeyKind::Stream,
        Kind::Module => KeyKind::Other,
    }
}

/// The house's error for a fault of a database file.
fn damaged(error: WalkError) -> Error {
    let (kind, hint) = match error.fault {
        Fault::Read(_) => (ErrorKind::Storage, "check the disk that the file lies on"),
        Fault::Magic(_) => (ErrorKind::Usage, "name a file that Redis or Valkey wrote with SAVE or BGSAVE"),
        ref fault if fault.is_unknown() => {
            (ErrorKind::Unsupported, "count on the server itself: `mainstay redis keys`")
        }
        _ => (ErrorKind::Corrupt, "`redis-check-rdb` may tell more; take another file"),
    };
    Error::new(kind, error.to_string()).with_hint(hint)
}

/// A count was stopped.
pub(crate) fn interrupted() -> Error {
    Error::new(ErrorKind::Interrupted, "the count was stopped on request").with_state("nothing was changed")
}
