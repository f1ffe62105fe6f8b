//! What emptied a database: the commands in the captured stream after which a whole lot is gone.
//!
//! Names of commands and numbers are told, never keys: they may be somebody's data.

use futures::StreamExt as _;
use mainstay_engine::ReplicationPoint;
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{ChainId, Result, ResultExt, Timestamp};
use mainstay_rdb::stream::{Command, Cutter};
use mainstay_repository::{ChainReason, Repository};
use serde::Serialize;

use super::log::{ReplicationLog, WayPart, pieces};
use crate::recoverable::SLICES_MISSING;

/// A command that removes so many keys at once is told.
const REMOVED_COUNT_MIN: u64 = 100;

/// How many are told at most: the newest.
const FOUND_COUNT_MAX: usize = 1000;

/// A command after which a whole lot is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Emptying {
    /// The position after it: a restore `--before` this leaves it out.
    pub at: u64,
    /// When it came.
    pub time: Option<Timestamp>,
    /// `FLUSHALL`, `FLUSHDB`, `SWAPDB`, `DEL` or `UNLINK`.
    pub command: String,
    /// The database; `None` for all, or where that is not known.
    pub database: Option<u64>,
    /// How many keys it names, for commands that name some.
    pub keys: Option<u64>,
    /// The stream.
    pub id: String,
    /// The server whose stream it is.
    pub server: String,
}

/// What a search found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct EmptyingReport {
    /// Oldest first.
    pub found: Vec<Emptying>,
    /// Bytes that were searched.
    pub bytes: u64,
    /// Chains that cannot be searched to their end, with the reason.
    pub unsearched: Vec<(ChainId, String)>,
}

/// Searches the streams of all servers, from `since` on.
///
/// # Errors
/// The store's.
pub async fn search(
    repository: &Repository,
    since: Option<Timestamp>,
    observer: &dyn Observer,
) -> Result<EmptyingReport> {
    observer.phase("search the stream");
    let log = ReplicationLog::read(repository).await?;
    let mut report = EmptyingReport::default();
    for chain in log.chains.iter().filter(|chain| chain.description().why != ChainReason::Timeline) {
        let Some(replication) = &chain.description().replication else { continue };
        let from = ReplicationPoint { id: replication.id.clone(), offset: chain.description().after.0 };
        let way = log.way(&from);
        if let Err(fault) = search_way(repository, &way, &mut report, observer).await? {
            report.unsearched.push((chain.id().clone(), fault));
        }
        for part in &way {
            if part.chain.runs().len() > 1 {
                let why = SLICES_MISSING.to_owned();
                report.unsearched.push((part.chain.id().clone(), why));
            }
        }
    }
    report.found.retain(|found| found.time.is_none_or(|time| since.is_none_or(|since| time >= since)));
    let surplus = report.found.len().saturating_sub(FOUND_COUNT_MAX);
    report.found.drain(..surplus);
    Ok(report)
}

/// Searches one way; tells what keeps it from going on.
async fn search_way(
    repository: &Repository,
    way: &[WayPart],
    report: &mut EmptyingReport,
    observer: &dyn Observer,
) -> Result<Result<(), String>> {
    let (Some(first), Some(last)) = (way.first(), way.last()) else { return Ok(Ok(())) };
    observer.expect(Work { items: 0, bytes: last.through - first.after });
    let mut cutter = Cutter::new(first.after, None);
    let mut pieces = std::pin::pin!(pieces(repository, way, last.through));
    while let Some(piece) = pieces.next().await {
        let piece = match piece {
            Err(error) if error.kind() == mainstay_model::ErrorKind::Corrupt => {
                return Ok(Err(error.message().to_owned()));
            }
            piece => piece.context("search the stream")?,
        };
        let part = way.iter().rfind(|part| part.after <= piece.after).unwrap_or(first);
        let description = part.chain.description();
        let id = description.replication.as_ref().map(|it| it.id.clone()).unwrap_or_default();
        let fed = cutter.feed(&piece.bytes, |command| {
            if let Some((database, keys)) = empties(command) {
                let arrival = piece.arrivals.iter().find(|arrival| arrival.through >= command.end);
                report.found.push(Emptying {
                    at: command.end,
                    time: arrival.and_then(|arrival| Timestamp::from_millisecond(arrival.at_ms).ok()),
                    command: command.to_string(),
                    database,
                    keys,
                    id: id.clone(),
                    server: description.server.clone(),
                });
            }
        });
        report.bytes += piece.bytes.len() as u64;
        observer.advance(Work { items: 0, bytes: piece.bytes.len() as u64 });
        if let Err(fault) = fed {
            return Ok(Err(fault.to_string()));
        }
    }
    Ok(Ok(()))
}

/// The database and the number of keys, when after the command a whole lot is gone.
fn empties(command: &Command<'_>) -> Option<(Option<u64>, Option<u64>)> {
    let keys = command.count - 1;
    match () {
        () if command.is("flushall") => Some((None, None)),
        () if command.is("flushdb") || command.is("swapdb") => Some((command.database, None)),
        () if (command.is("del") || command.is("unlink")) && keys >= REMOVED_COUNT_MIN => {
            Some((command.database, Some(keys)))
        }
        () => None,
    }
}
