//! Which moments of a PostgreSQL can be restored: base backups and the WAL after them, server by server, timeline by timeline.
//!
//! A base backup can be brought forward when the log holds everything from the segment in which it began up to its end and further; then
//! every moment from its end to the end of the log can be restored, along the newest timeline that it leads to. Decided from names, manifests
//! and descriptions; only the newest slices of a timeline are read, for the time of its last change.

use mainstay_basebackup::Lineage;
use mainstay_model::progress::Observer;
use mainstay_model::{ChainId, LogPosition, Lsn, Result, ResultExt, SetId, StoreKind, Timestamp};
use mainstay_repository::{Chain, Inspector, LogReport, Repository, Run, Set, Slice};
use serde::Serialize;

use super::log::{WalLog, WalLogs};
use super::{segment_begin, timestamp};
use crate::cluster::{ClusterSetContents, is_restorable};
use crate::logical::LogicalSetContents;
use crate::recoverable::SLICES_MISSING;

/// How many slices are read at the same time when they are verified.
const SLICE_COUNT_MAX: usize = 4;

/// What the captured WAL allows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WalRanges {
    /// Server by server.
    pub servers: Vec<ServerWal>,
    /// Chains of which nobody can tell what they hold, or that have lost slices.
    pub damaged: Vec<crate::recoverable::DamagedChain>,
}

/// What can be restored of one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerWal {
    /// The server's fingerprint.
    pub server: String,
    /// The environment its newest chain was captured in.
    pub environment: String,
    /// Timeline by timeline, the newest first.
    pub timelines: Vec<TimelineWal>,
}

/// What can be restored along one timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TimelineWal {
    /// The timeline.
    pub timeline: u32,
    /// Ranges of moments that can be restored, oldest first.
    pub ranges: Vec<WalRange>,
    /// Continuous parts of this timeline's own log that no set leads to.
    pub without_set: Vec<WalPart>,
    /// What is missing between the continuous parts.
    pub gaps: Vec<WalGap>,
    /// Up to where the log is stored.
    pub recovery_point: Lsn,
    /// When the last transaction before that ended, by the server's clock, where that is known.
    pub last_change_at: Option<Timestamp>,
}

/// A range of moments that can be restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WalRange {
    /// The earliest moment: where its earliest set is consistent.
    pub from: Lsn,
    /// When that set was complete.
    pub from_at: Timestamp,
    /// The end of the log.
    pub through: Lsn,
    /// The earliest set in it.
    pub set: SetId,
}

/// A continuous part of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WalPart {
    /// Where it begins.
    pub from: Lsn,
    /// Where it ends.
    pub through: Lsn,
    /// The chain that it begins in.
    pub chain: ChainId,
}

/// A hole in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WalGap {
    /// The end of what is before it.
    pub from: Lsn,
    /// Where the log is there again.
    pub until: Lsn,
    /// Why.
    pub why: String,
    /// Whether it was captured, and is not in the repository any more.
    pub is_lost: bool,
}

/// A base backup that a log could continue.
#[derive(Debug, Clone)]
pub(crate) struct ContinuedSet {
    pub(crate) set: Set,
    pub(crate) contents: ClusterSetContents,
}

impl ContinuedSet {
    /// The first position that the log must have.
    pub(crate) fn needs_from(&self, segment_bytes: u64) -> Lsn {
        segment_begin(self.contents.begin, segment_bytes)
    }

    /// How far the log leads from it along `lineage`; `None` when it does not even reach the set's end, or another branch does, or the set is of
    /// a history that the server has given up. Ends before the segment in which slices are missing: a server fetches whole segments.
    pub(crate) fn reach(&self, log: &WalLog, lineage: &Lineage) -> Option<Lsn> {
        let reached = self.reach_of_slices(log, lineage)?;
        let usable = match log.is_hole_along(lineage, reached) {
            true => segment_begin(reached, log.segment_bytes),
            false => reached,
        };
        (usable >= self.contents.end).then_some(usable)
    }

    /// Where slices are missing on the way along `lineage`; `None` when the log goes on to its end.
    pub(crate) fn hole(&self, log: &WalLog, lineage: &Lineage) -> Option<Lsn> {
        self.reach_of_slices(log, lineage).filter(|reached| log.is_hole_along(lineage, *reached))
    }

    fn reach_of_slices(&self, log: &WalLog, lineage: &Lineage) -> Option<Lsn> {
        let (_, end) = lineage.part(self.contents.timeline)?;
        if end.is_some_and(|end| self.contents.end.0 > end) {
            return None;
        }
        if log.given_up(self.contents.timeline, self.set.manifest().begun_at, self.contents.end) {
            return None;
        }
        Some(log.reach_along(lineage, self.needs_from(log.segment_bytes)))
    }
}

/// The base backups of `server`, oldest first. Damaged ones are left out: those whose manifest is, and those that a
/// verification found to be, with those that build on them.
///
/// # Errors
/// The store's.
pub(crate) async fn sets_to_continue(
    repository: &Repository,
    server: Option<&str>,
) -> Result<Vec<ContinuedSet>> {
    let mut found = Vec::new();
    for entry in repository.sets(Some(StoreKind::Postgres)).await.context("list backup sets")? {
        let Ok(set) = entry.into_set() else { continue };
        let Ok(contents) = set.contents::<ClusterSetContents>() else { continue };
        if server.is_some_and(|server| contents.server.fingerprint != server) {
            continue;
        }
        if is_restorable(repository, &set, &contents).await? {
            found.push(ContinuedSet { set, contents });
        }
    }
    Ok(found)
}

/// What can be restored, server by server. Nothing where no WAL was captured.
///
/// # Errors
/// The store's.
pub async fn ranges(repository: &Repository) -> Result<WalRanges> {
    let WalLogs { logs, damaged } = WalLogs::read(repository).await?;
    let damaged = damaged.into_iter().map(|it| crate::recoverable::DamagedChain {
        chain: it.chain,
        slices: it.slices,
        damaged: it.why,
    });
    let mut found = WalRanges { servers: Vec::new(), damaged: damaged.collect() };
    if logs.is_empty() {
        return Ok(found);
    }
    let sets = sets_to_continue(repository, None).await?;
    for log in logs {
        let own: Vec<&ContinuedSet> =
            sets.iter().filter(|set| set.contents.server.fingerprint == log.server).collect();
        let mut timelines = Vec::new();
        for number in log.timelines() {
            let Some(lineage) = log.lineage(number) else { continue };
            let last_change = log.last_change(repository, number).await.and_then(timestamp);
            timelines.push(timeline(&log, lineage, &own, last_change));
        }
        let environment = log.environment().to_owned();
        found.servers.push(ServerWal { server: log.server, environment, timelines });
    }
    Ok(found)
}

fn timeline(
    log: &WalLog,
    lineage: &Lineage,
    sets: &[&ContinuedSet],
    last_change_at: Option<Timestamp>,
) -> TimelineWal {
    let number = lineage.timeline();
    let mut ranges: Vec<WalRange> = Vec::new();
    for set in sets {
        let Some(through) = set.reach(log, lineage) else { continue };
        // One range for each end: the earliest set leads to everything that later ones do.
        if ranges.iter().all(|range| range.through != through) {
            let (from, from_at) = (set.contents.end, set.set.manifest().completed_at);
            ranges.push(WalRange { from, from_at, through, set: set.set.id().clone() });
        }
    }
    let (mut without_set, mut gaps) = (Vec::new(), Vec::new());
    let mut previous: Option<Lsn> = None;
    let chains = log.chains.iter().enumerate().filter(|(_, (_, lineage))| lineage.timeline() == number);
    let mut parts: Vec<(Run, usize, &Chain)> = chains
        .flat_map(|(place, (chain, _))| {
            // What lies behind is of a history that the server has given up. A chain may have no slice yet.
            let end = LogPosition(log.valid_end(place));
            chain.runs().into_iter().enumerate().filter_map(move |(index, run)| {
                let counted = Run { after: run.after, through: run.through.min(end) };
                (run.after < end).then_some((counted, index, chain))
            })
        })
        .collect();
    // What was imported may lie between what was captured.
    parts.sort_by_key(|(run, ..)| run.after);
    for (run, index, chain) in parts {
        let (from, through) = (Lsn(run.after.0), Lsn(run.through.0));
        let why = match index {
            0 => chain.description().why.explanation(),
            _ => SLICES_MISSING,
        };
        if let Some(end) = previous.filter(|end| *end < from) {
            gaps.push(WalGap { from: end, until: from, why: why.to_owned(), is_lost: index > 0 });
        }
        let is_led_to = ranges.iter().any(|range| range.through > from && range.from <= through);
        if from < through && !is_led_to {
            without_set.push(WalPart { from, through, chain: chain.id().clone() });
        }
        previous = Some(previous.map_or(through, |end| end.max(through)));
    }
    let recovery_point = previous.unwrap_or_default();
    TimelineWal { timeline: number, ranges, without_set, gaps, recovery_point, last_change_at }
}

/// Reads back the WAL that continues `set`: the slices of its server's chains from its beginning on. A dump is continued by none.
///
/// # Errors
/// The store's. Damage is a finding.
pub async fn verify_log_after(
    repository: &Repository,
    set: &Set,
    observer: &dyn Observer,
) -> Result<Vec<LogReport>> {
    if LogicalSetContents::is_of(set) {
        return Ok(Vec::new());
    }
    let contents: ClusterSetContents = set.contents()?;
    let mut reports = Vec::new();
    for chain in repository.chains_of(StoreKind::Postgres, &contents.server.fingerprint).await? {
        if chain.end().0 > contents.begin.0 {
            reports.push(verify_chain(repository, &chain, contents.begin.into(), observer).await?);
        }
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
        Some(Box::new(Length { expected: slice.through.0 - slice.after.0, found: 0 }))
    };
    repository
        .verify_chain(chain, after, &inspector, SLICE_COUNT_MAX, observer)
        .await
        .with_context(|| format!("verify the log in chain {}", chain.id()))
}

/// Checks that a slice has as many bytes as its name says.
struct Length {
    expected: u64,
    found: u64,
}

impl Inspector for Length {
    fn bytes(&mut self, plain: &[u8]) {
        self.found += plain.len() as u64;
    }

    fn end(self: Box<Self>) -> Vec<String> {
        match self.found == self.expected {
            true => Vec::new(),
            false => vec![format!("it holds {} bytes, not {}", self.found, self.expected)],
        }
    }
}
