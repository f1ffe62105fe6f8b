//! Handing a recovering server the file that it asks for.
//!
//! A segment is put together from slices, each verified; a history stands in the description of its timeline's chain. The file appears under
//! its name only when it is whole. The server must be able to tell "not there" from trouble: where a file is not there it takes its log to
//! end, so only what was never captured is called absent; slices that are missing, damage, or a store that does not answer are errors.
//!
//! A server asks for one segment after another, and waits. So a fetch may bring those behind it along ([`ahead`](super::ahead)), from the same
//! look at the repository, which is one at the names of these segments' slices and not at those of the whole log.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use mainstay_basebackup::{Lineage, WalFile, WalSegment};
use mainstay_model::{Error, ErrorKind, Lsn, Result, ResultExt};
use mainstay_repository::{Repository, WalChain};
use tokio::task::spawn_blocking;

use super::ahead::Ahead;
use super::log::{WalLog, WalLogs};

/// How many slices are read at the same time: a segment of an idle server has many small ones.
const SLICE_READS: usize = 8;

/// How many segments are put together at the same time when they are fetched ahead, each in memory.
const SEGMENTS_AT_ONCE: usize = 2;

/// The most segments that are fetched ahead, and their bytes: of longer segments none is.
pub const AHEAD_COUNT_MAX: u32 = 64;
const AHEAD_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct FetchRequest {
    /// Whose log; `None` when the repository holds that of one server.
    pub server: Option<String>,
    /// The file's name, as the server gives it for `%f`.
    pub name: String,
    /// Where it goes, as the server gives it for `%p`.
    pub path: PathBuf,
    /// How many of the segments behind it are fetched, too, into a folder beside `path`.
    pub ahead: u32,
    /// Where the repository is: what was fetched ahead from another is not used.
    pub repository: String,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    /// It is there.
    Written {
        /// Bytes of it that were captured; the rest of a last segment is zeros.
        captured_bytes: u64,
        /// How many of the segments behind it were fetched, too.
        ahead: u32,
    },
    /// It was fetched with an earlier one, and is there.
    Waited {
        /// Its bytes.
        captured_bytes: u64,
    },
    /// It was never captured.
    Absent,
}

impl FetchRequest {
    fn waiting(&self) -> Ahead {
        Ahead::beside(&self.path, &self.repository, self.server.as_deref())
    }
}

/// Hands over the file when it was fetched ahead; `None` when it was not. Asks the repository nothing.
pub fn take_ahead(request: &FetchRequest) -> Option<Fetched> {
    if request.ahead == 0 {
        return None;
    }
    let captured_bytes = request.waiting().take(&request.name, &request.path)?;
    Some(Fetched::Waited { captured_bytes })
}

/// Fetches a file, and those behind it that are wanted ahead. That one of the latter cannot be fetched is told when it is asked for.
///
/// # Errors
/// `Usage` when it is not clear whose log is meant; `Corrupt` for damage and holes; `Storage` when it cannot be written; the store's.
pub async fn fetch(repository: &Repository, request: &FetchRequest) -> Result<Fetched> {
    let fetched = match WalFile::parse(&request.name) {
        None => {
            return Err(Error::new(ErrorKind::Usage, format!("{:?} is no file of WAL", request.name))
                .with_state("nothing was written")
                .with_hint(
                    "`wal fetch NAME PATH` takes what a server asks for: `mainstay wal fetch %f %p`",
                ));
        }
        Some(WalFile::History { timeline }) => {
            // Histories stand in descriptions.
            let own = own_log(repository, request, |_| 0..0).await?;
            match own.log {
                Some(log) => fetch_history(&log, timeline, own.damaged, request).await?,
                None => absent(own.damaged)?,
            }
        }
        Some(WalFile::Segment(segment)) => fetch_segment(repository, segment, request).await?,
    };
    if fetched == Fetched::Absent && request.ahead > 0 {
        // A server asks for what is not there at the end of a log, and of its recovery.
        request.waiting().keep_only(&[]);
    }
    Ok(fetched)
}

/// The log that is meant, as far as it was listed.
struct OwnLog {
    log: Option<WalLog>,
    /// What may have been part of it, and cannot be read.
    damaged: Option<String>,
}

async fn own_log(
    repository: &Repository,
    request: &FetchRequest,
    within: impl Fn(&WalChain) -> Range<u64>,
) -> Result<OwnLog> {
    let WalLogs { logs, damaged } = WalLogs::read_within(repository, within).await?;
    let log = choose(logs, request.server.as_deref())?;
    if let (None, Some(server)) = (&log, &request.server)
        && damaged.is_empty()
    {
        return Err(Error::new(ErrorKind::NotFound, format!("no WAL of server {server} was captured"))
            .with_state("nothing was written")
            .with_hint("`mainstay backup list --store postgres` names the servers; so does `restore_command` of a restored folder"));
    }
    // What is damaged of another server is no matter of this one.
    let wanted = log.as_ref().map(|log| log.server.as_str()).or(request.server.as_deref());
    let may_be_own = |server: &String| wanted.is_none_or(|wanted| wanted == server);
    let own = damaged.iter().find(|it| it.server.as_ref().is_none_or(may_be_own));
    let damaged = own.map(|it| format!("chain {} cannot be read: {}", it.chain, it.why));
    Ok(OwnLog { log, damaged })
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
        Some(content) => {
            let captured_bytes = write(&request.path, vec![content.into_bytes().into()], 0).await?;
            Ok(Fetched::Written { captured_bytes, ahead: 0 })
        }
        None => absent(damaged),
    }
}

/// What is listed of a chain for `segment` and `count` more: from its first byte to their last; nothing for lengths that have no such segment.
fn window(segment: WalSegment, count: u32) -> impl Fn(&WalChain) -> Range<u64> {
    move |wal| match segment.begin(wal.segment_bytes) {
        Some(begin) => {
            let count = u64::from(ahead_max(count, wal.segment_bytes)) + 1;
            begin..begin.saturating_add(wal.segment_bytes.saturating_mul(count))
        }
        None => 0..0,
    }
}

/// How many segments are fetched ahead when `count` are wanted.
fn ahead_max(count: u32, segment_bytes: u64) -> u32 {
    let by_bytes = u32::try_from(AHEAD_BYTES_MAX / segment_bytes.max(1)).unwrap_or(u32::MAX);
    count.min(AHEAD_COUNT_MAX).min(by_bytes)
}

/// A segment, by the part of the listing that it needs. Only where that does not show all of it the whole rest is listed, to tell the end of the
/// log from a hole.
async fn fetch_segment(
    repository: &Repository,
    segment: WalSegment,
    request: &FetchRequest,
) -> Result<Fetched> {
    let own = own_log(repository, request, window(segment, request.ahead)).await?;
    let whole = own.log.as_ref().and_then(|log| Some((log, whole(log, segment)?)));
    let Some((log, range)) = whole else {
        let from = |wal: &WalChain| segment.begin(wal.segment_bytes).map_or(0..0, |begin| begin..u64::MAX);
        let OwnLog { log, damaged } = own_log(repository, request, from).await?;
        return match log {
            Some(log) => fetch_last(repository, &log, segment, damaged, request).await,
            None => absent(damaged),
        };
    };
    let parts = read(repository, log, segment.timeline, range).await?;
    let captured_bytes = write(&request.path, parts, 0).await?;
    let ahead = fetch_ahead(repository, log, segment, request).await;
    Ok(Fetched::Written { captured_bytes, ahead })
}

/// Where a segment begins and ends, when all of it was captured.
fn whole(log: &WalLog, segment: WalSegment) -> Option<Range<u64>> {
    let begin = segment.begin(log.segment_bytes)?;
    let end = begin.checked_add(log.segment_bytes)?;
    (log.reach(segment.timeline, Lsn(begin)).0 >= end).then_some(begin..end)
}

/// A segment that may be the last of its timeline; `log` is listed to its end.
async fn fetch_last(
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
    if reached < end && log.is_hole(segment.timeline, reached) {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("the captured WAL of timeline {} has a hole at {reached}", segment.timeline),
        )
        .with_hint(
            "`mainstay backup verify --log` names what is missing; restore to a moment before this segment",
        ));
    }
    if reached == begin {
        return absent(damaged);
    }
    let parts = read(repository, log, segment.timeline, begin.0..reached.0).await?;
    let captured_bytes = write(&request.path, parts, log.segment_bytes - (reached.0 - begin.0)).await?;
    Ok(Fetched::Written { captured_bytes, ahead: 0 })
}

/// What a timeline's own chains have of a range, every slice verified.
async fn read(repository: &Repository, log: &WalLog, timeline: u32, range: Range<u64>) -> Result<Vec<Bytes>> {
    let lineage = Lineage::without_history(timeline);
    let pieces = log.pieces(&lineage, Lsn(range.start), Lsn(range.end))?;
    let reads = futures::stream::iter(&pieces).map(|piece| piece.read(repository)).buffered(SLICE_READS);
    reads.try_collect().await
}

/// Fetches the segments behind `segment` that are captured whole, in order and without a hole, and removes what else waits. Gives how many
/// were fetched now. Whatever keeps one from being fetched is told by the fetch that asks for it.
async fn fetch_ahead(
    repository: &Repository,
    log: &WalLog,
    segment: WalSegment,
    request: &FetchRequest,
) -> u32 {
    if request.ahead == 0 {
        return 0;
    }
    let begin = segment.begin(log.segment_bytes).unwrap_or(u64::MAX);
    let behind = (1..=u64::from(ahead_max(request.ahead, log.segment_bytes))).map_while(|number| {
        let position = begin.checked_add(number.checked_mul(log.segment_bytes)?)?;
        let next = WalSegment::at(segment.timeline, position, log.segment_bytes)?;
        Some((next.to_string(), whole(log, next)?))
    });
    let (behind, waiting) = (behind.collect::<Vec<_>>(), request.waiting());
    waiting.keep_only(&behind.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>());
    let missing = behind.into_iter().filter(|(name, _)| !waiting.has(name));
    let fetches = futures::stream::iter(missing).map(|(name, range)| {
        let waiting = &waiting;
        async move {
            let place = waiting.place(&name).ok()?;
            let parts = read(repository, log, segment.timeline, range).await.ok()?;
            write(&place, parts, 0).await.ok()
        }
    });
    let fetched = fetches.buffered(SEGMENTS_AT_ONCE).take_while(|one| std::future::ready(one.is_some()));
    u32::try_from(fetched.count().await).unwrap_or(u32::MAX)
}

/// Writes the file under another name in its folder, and gives it its own when it is durable. Gives the bytes of its parts.
async fn write(path: &Path, parts: Vec<Bytes>, zeros: u64) -> Result<u64> {
    let path = path.to_owned();
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
    Ok(captured_bytes)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_fetched_ahead_is_bounded_by_number_and_bytes() {
        const MIB: u64 = 1024 * 1024;
        for (count, segment_bytes, expected) in [
            (0, 16 * MIB, 0),
            (8, 16 * MIB, 8),
            (64, 16 * MIB, 16),
            (1000, MIB, 64),
            (8, 256 * MIB, 1),
            (8, 512 * MIB, 0),
            (8, 1024 * MIB, 0),
        ] {
            assert_eq!(ahead_max(count, segment_bytes), expected, "{count} of {segment_bytes}");
        }
    }
}
