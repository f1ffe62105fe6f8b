//! Which moments of a Redis can be restored: backup sets and the stream behind them, server by server. Decided from names, manifests and
//! descriptions; of each server the newest slice is read, for the time of its last byte.

use std::collections::BTreeMap;

use mainstay_model::progress::Observer;
use mainstay_model::{ChainId, LogPosition, Result, ResultExt, SetId, Timestamp};
use mainstay_repository::{
    Chain, ChainReason, Inspector, LogReport, Repository, Set, Slice, without_arrivals,
};
use serde::Serialize;

use super::log::{ReplicationLog, read_slice, sets};
use crate::append_only::AppendOnlySetContents;
use crate::keyfile::KeyFileSetContents;
use crate::recoverable::{DamagedChain, SLICES_MISSING};

/// How many slices are read at the same time when they are verified.
const SLICE_COUNT_MAX: usize = 4;

/// What the captured streams allow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplicationRanges {
    /// Server by server.
    pub servers: Vec<ServerStream>,
    /// Chains of which nobody can tell what they hold, or that have lost slices.
    pub damaged: Vec<DamagedChain>,
}

/// What can be restored of one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerStream {
    /// The server's fingerprint.
    pub server: String,
    /// The environment its newest chain was captured in.
    pub environment: String,
    /// Ranges of moments that can be restored, oldest first.
    pub ranges: Vec<StreamRange>,
    /// Continuous parts that no set leads to.
    pub without_set: Vec<StreamPart>,
    /// What is missing between chains, oldest first.
    pub gaps: Vec<StreamGap>,
    /// Up to where the stream is stored.
    pub recovery_point: u64,
    /// When its last byte came, where that can be read.
    pub recovery_point_at: Option<Timestamp>,
}

/// A range of moments that can be restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StreamRange {
    /// The earliest moment: that of its earliest set.
    pub from: u64,
    /// When that set was complete.
    pub from_at: Timestamp,
    /// The end of the stream.
    pub through: u64,
    /// The earliest set in it.
    pub set: SetId,
    /// The stream that it ends in.
    pub id: String,
}

/// A continuous part of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StreamPart {
    /// Exclusive.
    pub after: u64,
    /// Inclusive.
    pub through: u64,
    /// The chain.
    pub chain: ChainId,
}

/// A hole between chains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StreamGap {
    /// The end of what is before it.
    pub after: u64,
    /// Where the stream is there again. Positions of another history cannot be compared with those before.
    pub until: u64,
    /// Why.
    pub why: String,
    /// Whether it was captured, and is not in the repository any more.
    pub is_lost: bool,
}

/// What can be restored, server by server. Nothing where no stream was captured.
///
/// # Errors
/// The store's.
pub async fn ranges(repository: &Repository) -> Result<ReplicationRanges> {
    let log = ReplicationLog::read(repository).await?;
    let mut found = ReplicationRanges { servers: Vec::new(), damaged: log.damaged.clone() };
    if log.chains.is_empty() {
        return Ok(found);
    }
    let sets = sets(repository).await?;
    // Where each chain is led to, and by which set.
    let mut ranges: BTreeMap<String, Vec<StreamRange>> = BTreeMap::new();
    let mut led_to: Vec<(ChainId, u64)> = Vec::new();
    for base in &sets {
        let way = log.way(&base.at);
        let (Some(first), Some(last)) = (way.first(), way.last()) else { continue };
        led_to.extend(way.iter().map(|part| (part.chain.id().clone(), part.through)));
        let own = ranges.entry(first.chain.description().server.clone()).or_default();
        let id = last.chain.description().replication.as_ref().map(|it| it.id.clone()).unwrap_or_default();
        // One range for each end: the earliest set leads to everything that later ones do.
        if own.iter().all(|range| (range.through, &range.id) != (last.through, &id)) {
            own.push(StreamRange {
                from: base.at.offset,
                from_at: base.set.manifest().completed_at,
                through: last.through,
                set: base.set.id().clone(),
                id,
            });
        }
    }
    let mut servers: BTreeMap<&str, Vec<&Chain>> = BTreeMap::new();
    for chain in &log.chains {
        servers.entry(&chain.description().server).or_default().push(chain);
    }
    for (server, chains) in servers {
        let ranges = ranges.remove(server).unwrap_or_default();
        found.servers.push(of_server(repository, server, &chains, ranges, &led_to).await);
    }
    Ok(found)
}

async fn of_server(
    repository: &Repository,
    server: &str,
    chains: &[&Chain],
    ranges: Vec<StreamRange>,
    led_to: &[(ChainId, u64)],
) -> ServerStream {
    let (mut without_set, mut gaps) = (Vec::new(), Vec::new());
    let mut previous: Option<u64> = None;
    for chain in chains {
        for (index, run) in chain.runs().iter().enumerate() {
            let (after, through) = (run.after.0, run.through.0);
            let why = chain.description().why;
            let goes_on = index == 0 && matches!(why, ChainReason::Timeline | ChainReason::First);
            let reason = if index == 0 { why.explanation() } else { SLICES_MISSING };
            if let Some(end) = previous.filter(|_| !goes_on) {
                gaps.push(StreamGap { after: end, until: after, why: reason.to_owned(), is_lost: index > 0 });
            }
            let is_led_to = |(id, end): &(ChainId, u64)| id == chain.id() && after <= *end && *end <= through;
            if after < through && !led_to.iter().any(is_led_to) {
                without_set.push(StreamPart { after, through, chain: chain.id().clone() });
            }
            previous = Some(through);
        }
    }
    let newest = chains.last();
    ServerStream {
        server: server.to_owned(),
        environment: newest.map(|chain| chain.description().environment.clone()).unwrap_or_default(),
        ranges,
        without_set,
        gaps,
        recovery_point: previous.unwrap_or_default(),
        recovery_point_at: match newest {
            Some(chain) => last_time(repository, chain).await,
            None => None,
        },
    }
}

/// When the last byte of a chain came, if that can be read.
pub(crate) async fn last_time(repository: &Repository, chain: &Chain) -> Option<Timestamp> {
    let (_, arrivals) = read_slice(repository, chain, chain.slices().last()?).await.ok()?;
    Timestamp::from_millisecond(arrivals.last()?.at_ms).ok()
}

/// Reads back the stream that continues `set`: every slice of the chains that it leads through.
///
/// # Errors
/// The store's. Damage is a finding.
pub(crate) async fn verify_log_after(
    repository: &Repository,
    set: &Set,
    observer: &dyn Observer,
) -> Result<Vec<LogReport>> {
    if AppendOnlySetContents::is_of(set) {
        return Ok(Vec::new());
    }
    let contents: KeyFileSetContents = set.contents()?;
    let Some(at) = contents.replication else { return Ok(Vec::new()) };
    let log = ReplicationLog::read(repository).await?;
    let mut reports = Vec::new();
    for part in log.way(&at) {
        reports.push(verify_chain(repository, &part.chain, LogPosition(part.after), observer).await?);
    }
    Ok(reports)
}

/// Reads back every slice of `chain` that holds something after `after`.
///
/// # Errors
/// The store's.
pub(crate) async fn verify_chain(
    repository: &Repository,
    chain: &Chain,
    after: LogPosition,
    observer: &dyn Observer,
) -> Result<LogReport> {
    let inspector = |slice: &Slice| -> Option<Box<dyn Inspector>> {
        Some(Box::new(Whole { after: slice.after.0, through: slice.through.0, plain: Vec::new() }))
    };
    repository
        .verify_chain(chain, after, &inspector, SLICE_COUNT_MAX, observer)
        .await
        .with_context(|| format!("verify the log in chain {}", chain.id()))
}

/// Checks that a slice has as many bytes of stream as its name says, and says when they came.
struct Whole {
    after: u64,
    through: u64,
    /// A slice is read whole wherever it is used.
    plain: Vec<u8>,
}

impl Inspector for Whole {
    fn bytes(&mut self, plain: &[u8]) {
        self.plain.extend_from_slice(plain);
    }

    fn end(self: Box<Self>) -> Vec<String> {
        let read = without_arrivals(self.after, self.through, self.plain.into());
        read.err().map(|fault| fault.to_string()).into_iter().collect()
    }
}
