//! Which moments can be restored: backup sets and the change log after them, server by server.
//!
//! A moment can be restored when a set of the same server lies inside a continuous part of a chain and the moment between the set's settled
//! position and that part's end. [`recoverable`] decides it from manifests and the log's listing; no slice is read.
//!
//! Where the server has gone back to an earlier state, the same positions name other changes afterwards. A set is continued by chains of its
//! own history alone: those begun before the server went back for sets taken before, those begun since for sets taken since.

use std::collections::BTreeMap;

use mainstay_model::progress::Observer;
use mainstay_model::{
    ChainId, Error, Finding, LogPosition, OpTime, Result, ResultExt, SetId, Severity, StoreKind,
};
use mainstay_repository::{Chain, ChainDamage, ChainEntry, ChainReason, LogReport, Repository, Run, Set};
use serde::Serialize;

use crate::contents::DocumentSetContents;
use crate::framing::DocumentInspector;
use crate::replication;
use crate::wal::ranges;

/// How many slices are read at the same time when they are verified.
const SLICE_COUNT_MAX: usize = 4;

/// What the repository's change logs allow.
#[derive(Debug, Default)]
pub struct Recoverable {
    /// Server by server.
    pub servers: Vec<ServerLog>,
    /// Chains that lead nowhere, because nobody can tell whose log they are, or that have lost the contents of slices, oldest first.
    pub damaged: Vec<DamagedChain>,
}

/// A chain whose description is missing or cannot be read, or of which slices have no bytes any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DamagedChain {
    /// The chain.
    pub chain: ChainId,
    /// How many slices lie in it.
    pub slices: usize,
    /// What is wrong with it.
    pub damaged: String,
}

/// What can be restored of one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerLog {
    /// The server's fingerprint.
    pub server: String,
    /// The environment its newest chain was captured in.
    pub environment: String,
    /// The ranges of moments that can be restored, oldest first.
    pub ranges: Vec<RecoverableRange>,
    /// Continuous parts of the log that no set lies in: take a backup to make use of what follows.
    pub without_set: Vec<LogPart>,
    /// What is missing between the continuous parts, oldest first.
    pub gaps: Vec<LogGap>,
    /// Up to where the log is stored.
    pub recovery_point: OpTime,
}

/// A range of moments that can be restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecoverableRange {
    /// The earliest moment, inclusive.
    pub from: OpTime,
    /// The latest moment, inclusive.
    pub through: OpTime,
    /// The earliest set in it.
    pub set: SetId,
    /// The chain.
    pub chain: ChainId,
}

/// A continuous part of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogPart {
    /// Exclusive.
    pub after: OpTime,
    /// Inclusive.
    pub through: OpTime,
    /// The chain.
    pub chain: ChainId,
}

/// Why a log has a hole that it had not when it was captured.
pub(crate) const SLICES_MISSING: &str = "slices are missing from the repository";

/// A hole in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogGap {
    /// The last position before it.
    pub after: OpTime,
    /// The position from which on (exclusive) the log is there again. Not after `after` when the server went back.
    pub until: OpTime,
    /// Why.
    pub why: String,
    /// Whether it was captured, and is not in the repository any more.
    pub is_lost: bool,
}

/// What of a set matters here.
#[derive(Debug, Clone)]
pub(crate) struct SetMoment {
    pub(crate) id: SetId,
    /// The log is needed after this.
    pub(crate) base: OpTime,
    /// The earliest moment it can be brought to.
    pub(crate) settled: OpTime,
}

impl SetMoment {
    /// `None` for sets that cannot be continued.
    pub(crate) fn of(id: &SetId, contents: &DocumentSetContents) -> Option<Self> {
        Some(Self { id: id.clone(), base: base_of(contents)?, settled: contents.settled? })
    }

    /// Whether the log goes on from the set in `run`, a part of `chains[index]`.
    pub(crate) fn lies_in(&self, run: &Run, chains: &[ChainFacts], index: usize) -> bool {
        run.covers(self.base.into(), self.settled.into()) && self.is_of_history(chains, index)
    }

    /// Whether the server has not gone back between this set and `chains[index]`.
    fn is_of_history(&self, chains: &[ChainFacts], index: usize) -> bool {
        let turns = chains.iter().enumerate().filter(|(_, chain)| chain.went_back);
        turns.into_iter().all(|(turn, chain)| (turn <= index) == (chain.id.as_str() < self.id.as_str()))
    }
}

/// The position after which a set needs the log; `None` for sets that cannot be continued.
fn base_of(contents: &DocumentSetContents) -> Option<OpTime> {
    let settled = contents.settled?;
    Some(contents.collections.iter().filter_map(|it| it.holds_through).fold(settled, OpTime::min))
}

/// The sets of documents that a log could go on from, oldest first. Damaged ones are left out: those whose manifest is, and those that a
/// verification found to be.
///
/// # Errors
/// The store's.
pub(crate) async fn sets_to_continue(
    repository: &Repository,
) -> Result<Vec<(Set, DocumentSetContents, SetMoment)>> {
    let mut found = Vec::new();
    for entry in repository.sets(Some(StoreKind::Mongo)).await.context("list backup sets")? {
        let Ok(set) = entry.into_set() else { continue };
        let Ok(contents) = set.contents::<DocumentSetContents>() else { continue };
        let Some(moment) = SetMoment::of(set.id(), &contents) else { continue };
        if set.verdict().await?.is_none_or(|record| record.is_sound()) {
            found.push((set, contents, moment));
        }
    }
    Ok(found)
}

/// What can be restored, server by server. Damaged sets do not count (`backup verify` tells them), nor do damaged chains, which are listed.
///
/// # Errors
/// The store's.
pub async fn recoverable(repository: &Repository) -> Result<Recoverable> {
    let mut servers: BTreeMap<String, Vec<Chain>> = BTreeMap::new();
    let mut damaged = Vec::new();
    for entry in repository.chains(StoreKind::Mongo).await? {
        match entry {
            ChainEntry::Whole(chain) => {
                damaged.extend(emptied(&chain));
                servers.entry(chain.description().server.clone()).or_default().push(chain);
            }
            ChainEntry::Damaged { id, slices, error, .. } => {
                damaged.push(DamagedChain { chain: id, slices, damaged: error.to_string() });
            }
        }
    }
    if servers.is_empty() {
        return Ok(Recoverable { servers: Vec::new(), damaged });
    }
    let mut sets: BTreeMap<String, Vec<SetMoment>> = BTreeMap::new();
    for (_, contents, moment) in sets_to_continue(repository).await? {
        sets.entry(contents.server.fingerprint).or_default().push(moment);
    }
    let server_log = |(server, chains): (String, Vec<Chain>)| {
        let own = sets.get(&server).map_or(&[][..], Vec::as_slice);
        let facts: Vec<_> = chains.iter().map(ChainFacts::of).collect();
        let environment = chains.last().map(|chain| chain.description().environment.clone());
        judge(server, environment.unwrap_or_default(), own, &facts)
    };
    Ok(Recoverable { servers: servers.into_iter().map(server_log).collect(), damaged })
}

/// Chains of `store` with slices that a verification found to be damaged, and that lie there still.
///
/// # Errors
/// The store's.
pub async fn known_damage(repository: &Repository, store: StoreKind) -> Result<Vec<DamagedChain>> {
    let known = repository.known_log_damage(store).await?;
    if known.is_empty() {
        return Ok(Vec::new());
    }
    let chains = repository.chains(store).await?.into_iter().filter_map(ChainEntry::whole);
    Ok(chains.filter_map(|chain| damage_of(&chain, &known)).collect())
}

/// `chain` as a damaged one, when slices of it are among those that are `known` to be.
pub(crate) fn damage_of(chain: &Chain, known: &BTreeMap<ChainId, Vec<String>>) -> Option<DamagedChain> {
    let names = known.get(chain.id())?;
    let count = chain.slices().iter().filter(|slice| names.contains(&slice.name())).count();
    let store = chain.description().store;
    (count > 0).then(|| DamagedChain {
        chain: chain.id().clone(),
        slices: chain.slices().len(),
        damaged: format!(
            "a verification found {count} of its slices damaged; `mainstay backup verify --store {store} --log` reads them again"
        ),
    })
}

/// Records what was found in the logs, for [`known_damage`].
///
/// # Errors
/// The store's.
pub async fn record(repository: &Repository, reports: &[LogReport]) -> Result<()> {
    for report in reports {
        repository.record_log_verification(report).await?;
    }
    Ok(())
}

/// `chain` as a damaged one, when slices of it have no bytes.
pub(crate) fn emptied(chain: &Chain) -> Option<DamagedChain> {
    let is_empty = |damage: &&ChainDamage| matches!(damage, ChainDamage::Empty(_));
    let count = chain.damage().iter().filter(is_empty).count();
    (count > 0).then(|| DamagedChain {
        chain: chain.id().clone(),
        slices: chain.slices().len() + count,
        damaged: format!("{count} of its slices have 0 bytes; `mainstay backup verify --log` names them"),
    })
}

/// What of a chain matters here.
pub(crate) struct ChainFacts {
    pub(crate) id: ChainId,
    pub(crate) runs: Vec<Run>,
    pub(crate) why: &'static str,
    /// Whether it was begun because the server had gone back to an earlier state.
    pub(crate) went_back: bool,
}

impl ChainFacts {
    pub(crate) fn of(chain: &Chain) -> Self {
        let why = chain.description().why;
        Self {
            id: chain.id().clone(),
            runs: chain.runs(),
            why: why.explanation(),
            went_back: why == ChainReason::Diverged,
        }
    }
}

/// Decides. `sets` and `chains` are in the order they were made.
pub(crate) fn judge(
    server: String,
    environment: String,
    sets: &[SetMoment],
    chains: &[ChainFacts],
) -> ServerLog {
    let mut log = ServerLog {
        server,
        environment,
        ranges: Vec::new(),
        without_set: Vec::new(),
        gaps: Vec::new(),
        recovery_point: LogPosition(0).optime(),
    };
    let mut previous: Option<Run> = None;
    for (place, chain) in chains.iter().enumerate() {
        for (index, run) in chain.runs.iter().enumerate() {
            let (after, through) = (run.after.optime(), run.through.optime());
            let why = if index == 0 { chain.why } else { SLICES_MISSING };
            if let Some(previous) = previous.filter(|previous| previous.through != run.after) {
                let (why, is_lost) = (why.to_owned(), index > 0);
                log.gaps.push(LogGap { after: previous.through.optime(), until: after, why, is_lost });
            }
            previous = Some(*run);
            log.recovery_point = through;
            let covered = sets.iter().filter(|set| set.lies_in(run, chains, place));
            match covered.min_by_key(|set| set.settled) {
                Some(set) => log.ranges.push(RecoverableRange {
                    from: set.settled,
                    through,
                    set: set.id.clone(),
                    chain: chain.id.clone(),
                }),
                None if after < through => {
                    log.without_set.push(LogPart { after, through, chain: chain.id.clone() });
                }
                None => {}
            }
        }
    }
    log
}

/// Reads back the log that continues `set`: the slices of its server's chains from the set's base on, to the end of the chain it lies in; of
/// PostgreSQL and Redis to the end of all chains that it leads to. Nothing when it lies in none.
///
/// # Errors
/// The store's. Damage is a finding.
pub async fn verify_log_after(
    repository: &Repository,
    set: &Set,
    observer: &dyn Observer,
) -> Result<Vec<LogReport>> {
    match set.kind() {
        StoreKind::Mongo => Ok(verify_oplog_after(repository, set, observer).await?.into_iter().collect()),
        StoreKind::Postgres => ranges::verify_log_after(repository, set, observer).await,
        StoreKind::Redis => replication::ranges::verify_log_after(repository, set, observer).await,
    }
}

async fn verify_oplog_after(
    repository: &Repository,
    set: &Set,
    observer: &dyn Observer,
) -> Result<Option<LogReport>> {
    let contents: DocumentSetContents = set.contents()?;
    let Some(moment) = SetMoment::of(set.id(), &contents) else { return Ok(None) };
    let chains = repository.chains_of(set.kind(), &contents.server.fingerprint).await?;
    let facts: Vec<_> = chains.iter().map(ChainFacts::of).collect();
    let base = LogPosition::from(moment.base);
    let holding = |(index, chain): &(usize, &Chain)| {
        chain.description().after <= base && base <= chain.end() && moment.is_of_history(&facts, *index)
    };
    let Some((_, chain)) = chains.iter().enumerate().rfind(holding) else { return Ok(None) };
    verify_chain(repository, chain, base, observer).await.map(Some)
}

/// Reads back every slice of every chain. Of a chain without a readable description none is read: that is its finding.
///
/// # Errors
/// The store's.
pub async fn verify_logs(repository: &Repository, observer: &dyn Observer) -> Result<Vec<LogReport>> {
    let mut reports = Vec::new();
    for store in StoreKind::ALL {
        for entry in repository.chains(store).await? {
            reports.push(match entry {
                ChainEntry::Whole(chain) if store == StoreKind::Redis => {
                    replication::ranges::verify_chain(repository, &chain, LogPosition(0), observer).await?
                }
                ChainEntry::Whole(chain) if store == StoreKind::Postgres => {
                    ranges::verify_chain(repository, &chain, LogPosition(0), observer).await?
                }
                ChainEntry::Whole(chain) => {
                    verify_chain(repository, &chain, LogPosition(0), observer).await?
                }
                ChainEntry::Damaged { store, id, slices, error } => undescribed(store, id, slices, &error),
            });
        }
    }
    Ok(reports)
}

fn undescribed(store: StoreKind, chain: ChainId, slices: usize, error: &Error) -> LogReport {
    let finding = Finding {
        id: "log.description_damaged".to_owned(),
        severity: Severity::Critical,
        store: Some(store),
        subject: chain.to_string(),
        message: format!("{error}; whose log its {slices} slices are is not known, and they were not read"),
        remedy: "Copy its description back from an off-site copy of the repository. Without it nothing can be restored from this chain: take a \
                 new backup with `mainstay backup create`."
            .to_owned(),
    };
    LogReport { store, chain_id: chain, after: LogPosition(0), slices: 0, bytes: 0, findings: vec![finding] }
}

async fn verify_chain(
    repository: &Repository,
    chain: &Chain,
    after: LogPosition,
    observer: &dyn Observer,
) -> Result<LogReport> {
    let inspector = |_: &_| -> Option<Box<dyn mainstay_repository::Inspector>> {
        Some(Box::new(DocumentInspector::frames()))
    };
    repository
        .verify_chain(chain, after, &inspector, SLICE_COUNT_MAX, observer)
        .await
        .with_context(|| format!("verify the log in chain {}", chain.id()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use mainstay_model::Timestamp;

    use super::*;

    fn at(seconds: u32) -> OpTime {
        OpTime { seconds, increment: 0 }
    }

    fn set(number: u32, base: u32, settled: u32) -> SetMoment {
        let id = SetId::new(Timestamp::from_second(i64::from(number)).unwrap(), number);
        SetMoment { id, base: at(base), settled: at(settled) }
    }

    fn chain(number: u32, runs: &[(u32, u32)]) -> ChainFacts {
        ChainFacts {
            id: ChainId::new(Timestamp::from_second(i64::from(number)).unwrap(), number),
            runs: runs
                .iter()
                .map(|(after, through)| Run { after: at(*after).into(), through: at(*through).into() })
                .collect(),
            why: "overrun",
            went_back: false,
        }
    }

    /// Ranges, gaps with their reasons, and how many parts have no set.
    type Told = (Vec<(u32, u32)>, Vec<(u32, u32, String)>, usize);

    fn told(sets: &[SetMoment], chains: &[ChainFacts]) -> Told {
        let log = judge(String::new(), String::new(), sets, chains);
        (
            log.ranges.iter().map(|range| (range.from.seconds, range.through.seconds)).collect(),
            log.gaps.iter().map(|gap| (gap.after.seconds, gap.until.seconds, gap.why.clone())).collect(),
            log.without_set.len(),
        )
    }

    #[test]
    fn a_range_begins_with_the_earliest_set_inside_and_ends_with_the_log() {
        assert_eq!(told(&[], &[chain(1, &[(10, 90)])]), (vec![], vec![], 1));
        assert_eq!(
            told(&[set(1, 20, 25), set(2, 50, 50)], &[chain(1, &[(10, 90)])]),
            (vec![(25, 90)], vec![], 0)
        );
        assert_eq!(
            told(&[set(1, 9, 25)], &[chain(1, &[(10, 90)])]),
            (vec![], vec![], 1),
            "begun before the log"
        );
        assert_eq!(told(&[set(1, 80, 91)], &[chain(1, &[(10, 90)])]), (vec![], vec![], 1), "not settled yet");
        assert_eq!(
            told(&[set(1, 10, 10)], &[chain(1, &[(10, 10)])]),
            (vec![(10, 10)], vec![], 0),
            "an empty chain"
        );
    }

    #[test]
    fn a_set_is_continued_by_its_own_history() {
        let back = ChainFacts { went_back: true, ..chain(3, &[(30, 80)]) };
        let chains = [chain(1, &[(10, 60)]), back];
        assert_eq!(told(&[set(2, 40, 40)], &chains).0, [(40, 60)], "taken before the server went back");
        assert_eq!(told(&[set(4, 40, 40)], &chains).0, [(40, 80)], "taken since");
        assert_eq!(told(&[set(4, 20, 20)], &chains).0, []);
    }

    #[test]
    fn gaps_are_told_with_their_reasons() {
        let chains = [chain(1, &[(10, 40), (50, 60)]), chain(2, &[(70, 99)])];
        let (ranges, gaps, without) = told(&[set(1, 20, 20), set(2, 75, 75)], &chains);
        assert_eq!((ranges, without), (vec![(20, 40), (75, 99)], 1));
        let missing = SLICES_MISSING.to_owned();
        assert_eq!(gaps, vec![(40, 50, missing), (60, 70, "overrun".to_owned())]);
    }
}
