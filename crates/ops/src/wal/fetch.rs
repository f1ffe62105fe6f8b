//! Handing a recovering server the file that it asks for.
//!
//! A segment is put together from slices, each verified; a history stands in the description of its timeline's chain. The file appears under
//! its name only when it is whole. The server must be able to tell "not there" from trouble: where a file is not there it takes its log to
//! end, so only what was never captured is called absent; slices that are missing, damage, or a store that does not answer are errors.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use mainstay_basebackup::{Lineage, WalFile, WalSegment};
use mainstay_model::{Error, ErrorKind, Lsn, Result, ResultExt};
use mainstay_repository::{Chain, Repository};
use tokio::task::spawn_blocking;

use super::log::{WalLog, WalLogs};

/// How many slices are read at the same time: a segment of an idle server has many small ones.
const SLICE_READS: usize = 8;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct FetchRequest {
    /// Whose log; `None` when the repository holds that of one server.
    pub server: Option<String>,
    /// The file's name, as the server gives it for `%f`.
    pub name: String,
    /// Where it goes, as the server gives it for `%p`.
    pub path: PathBuf,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    /// It is there.
    Written {
        /// Bytes of it that were captured; the rest of a last segment is zeros.
        captured_bytes: u64,
    },
    /// It was never captured.
    Absent,
}

/// Fetches a file.
///
/// # Errors
/// `Usage` when it is not clear whose log is meant; `Corrupt` for damage and holes; `Storage` when it cannot be written; the store's.
pub async fn fetch(repository: &Repository, request: &FetchRequest) -> Result<Fetched> {
    let Some(file) = WalFile::parse(&request.name) else { return Ok(Fetched::Absent) };
    let logs = WalLogs::read(repository).await?;
    let WalLogs { logs, damaged } = logs;
    let log = choose(logs, request.server.as_deref())?;
    // What is damaged of another server is no matter of this one.
    let wanted = log.as_ref().map(|log| log.server.as_str()).or(request.server.as_deref());
    let may_be_own = |server: &String| wanted.is_none_or(|wanted| wanted == server);
    let own = damaged.iter().find(|it| it.server.as_ref().is_none_or(may_be_own));
    let damaged = own.map(|it| format!("chain {} cannot be read: {}", it.chain, it.why));
    let Some(log) = log else { return absent(damaged) };
    match file {
        WalFile::History { timeline } => fetch_history(&log, timeline, damaged, request).await,
        WalFile::Segment(segment) => fetch_segment(repository, &log, segment, damaged, request).await,
    }
}

fn choose(logs: Vec<WalLog>, server: Option<&str>) -> Result<Option<WalLog>> {
    match server {
        Some(server) => Ok(logs.into_iter().find(|log| log.server == server)),
        None if logs.len() > 1 => {
            let servers: Vec<_> = logs.iter().map(|log| log.server.as_str()).collect();
            Err(Error::new(
                ErrorKind::Usage,
                format!("the repository holds WAL of servers {}", servers.join(", ")),
            )
            .with_hint("say which is meant: `--server FINGERPRINT`"))
        }
        None => Ok(logs.into_iter().next()),
    }
}

/// It is not there; unless what is damaged may have been it.
fn absent(damaged: Option<String>) -> Result<Fetched> {
    match damaged {
        None => Ok(Fetched::Absent),
        Some(why) => {
            Err(Error::new(ErrorKind::Corrupt, format!("it is not known whether it was captured: {why}"))
                .with_hint("`mainstay backup verify --log` names what is damaged"))
        }
    }
}

async fn fetch_history(
    log: &WalLog,
    timeline: u32,
    damaged: Option<String>,
    request: &FetchRequest,
) -> Result<Fetched> {
    let chains = log.chains.iter().rev().filter(|(_, lineage)| lineage.timeline() == timeline);
    let content = chains.filter_map(|(chain, _)| chain.description().wal.as_ref()?.history.clone()).next();
    match content {
        Some(content) => write(request, vec![content.into_bytes().into()], 0).await,
        None => absent(damaged),
    }
}

async fn fetch_segment(
    repository: &Repository,
    log: &WalLog,
    segment: WalSegment,
    damaged: Option<String>,
    request: &FetchRequest,
) -> Result<Fetched> {
    let Some(begin) = segment.begin(log.segment_bytes) else { return Ok(Fetched::Absent) };
    let (begin, end) = (Lsn(begin), Lsn(begin.saturating_add(log.segment_bytes)));
    let reached = log.reach(segment.timeline, begin).min(end);
    // Between two chains nothing was captured, and the log ends; within one, slices are missing.
    let is_inside = |(index, (chain, lineage)): (usize, &(Chain, Lineage))| {
        let end = chain.end().0.min(log.valid_end(index));
        let holds = chain.description().after.0 <= reached.0 && reached.0 < end;
        lineage.timeline() == segment.timeline && holds
    };
    if reached < end && log.chains.iter().enumerate().any(is_inside) {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("the captured WAL of timeline {} has a hole at {reached}", segment.timeline),
        )
        .with_hint("`mainstay backup verify --log` names what is missing; restore to a moment before it"));
    }
    if reached == begin {
        return absent(damaged);
    }
    let lineage = Lineage::without_history(segment.timeline);
    let pieces = log.pieces(&lineage, begin, reached)?;
    let reads = futures::stream::iter(&pieces).map(|piece| piece.read(repository)).buffered(SLICE_READS);
    let parts: Vec<Bytes> = reads.try_collect().await?;
    write(request, parts, log.segment_bytes - (reached.0 - begin.0)).await
}

/// Writes the file under another name in its folder, and gives it its own when it is durable.
async fn write(request: &FetchRequest, parts: Vec<Bytes>, zeros: u64) -> Result<Fetched> {
    let path = request.path.clone();
    let captured_bytes = parts.iter().map(|part| part.len() as u64).sum();
    let written = spawn_blocking(move || {
        let partial = partial(&path)?;
        let filled = fill(&partial, &parts, zeros).and_then(|()| fs::rename(&partial, &path));
        filled.map_err(|source| {
            // What is half written is of no use to anybody.
            let _ = fs::remove_file(&partial);
            Error::new(ErrorKind::Storage, format!("cannot write {}: {source}", path.display()))
                .with_source(source)
        })
    });
    let ended = written.await.map_err(|source| {
        Error::new(ErrorKind::Internal, "the writing thread ended early").with_source(source)
    });
    ended?.context("write the file")?;
    Ok(Fetched::Written { captured_bytes })
}

/// A name beside `path`, of this process alone.
fn partial(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| {
        Error::new(ErrorKind::Usage, format!("{} names no file", path.display()))
            .with_state("nothing was written")
    })?;
    Ok(path.with_file_name(format!(".{}.{}.partial", name.to_string_lossy(), std::process::id())))
}

fn fill(partial: &Path, parts: &[Bytes], zeros: u64) -> io::Result<()> {
    let mut file = File::create(partial)?;
    for part in parts {
        file.write_all(part)?;
    }
    io::copy(&mut io::Read::take(io::repeat(0), zeros), &mut file)?;
    file.sync_all()
}
