//! The chains of one server's WAL, put together by timeline.
//!
//! A segment of a timeline is read from chains of that timeline alone, from its first byte on: a server copies what its new timeline shares
//! with the old one into the segment in which it branches off. So does this log, and so does a recovering server read it.
//!
//! What was imported from an archive is older than whatever was captured, whenever that was done: such chains come first.
//!
//! A server that went back to an earlier state (a snapshot of its disk) writes another history on the same timeline. From where the chain begins
//! that was begun then, earlier chains count no more, and neither do sets that were taken before and reach beyond: see [`WalLog::given_up`].
//! What was imported after that, and begins there or behind it, was proven to be of the history that is followed now, and counts.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};

use bytes::Bytes;
use futures::StreamExt as _;
use mainstay_basebackup::{Lineage, SeenRecord, WalWalker};
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{ChainId, Error, ErrorKind, LogPosition, Lsn, Result, ResultExt, StoreKind, Timestamp};
use mainstay_repository::{
    Chain, ChainDamage, ChainDescription, ChainEntry, ChainReason, Repository, Run, Slice, WalChain,
};

use super::segment_begin;

/// How many slices are read at the same time.
const SLICE_READS: usize = 4;

/// The captured WAL of one server.
pub(crate) struct WalLog {
    /// The server's fingerprint.
    pub(crate) server: String,
    /// How long a segment is, in bytes.
    pub(crate) segment_bytes: u64,
    /// Chains with their lineages, oldest first: those that were imported, then those that were captured.
    pub(crate) chains: Vec<(Chain, Lineage)>,
}

/// A part of the log that lies in one slice.
pub(crate) struct Piece<'a> {
    chain: &'a Chain,
    slice: &'a Slice,
    /// What of the slice is meant.
    pub(crate) from: u64,
    pub(crate) through: u64,
}

/// A chain of which nobody can tell what it holds.
pub(crate) struct DamagedLog {
    pub(crate) chain: ChainId,
    /// Whose it is, where that can be read.
    pub(crate) server: Option<String>,
    /// How many slices lie in it.
    pub(crate) slices: usize,
    pub(crate) why: String,
}

/// Everything that was captured of PostgreSQL.
#[derive(Default)]
pub(crate) struct WalLogs {
    /// By server.
    pub(crate) logs: Vec<WalLog>,
    /// Chains of which nobody can tell what they hold.
    pub(crate) damaged: Vec<DamagedLog>,
}

impl DamagedLog {
    fn of(chain: &Chain, slices: usize, why: String) -> Self {
        let server = Some(chain.description().server.clone());
        Self { chain: chain.id().clone(), server, slices, why }
    }
}

impl WalLogs {
    /// Reads descriptions and names; no slice.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn read(repository: &Repository) -> Result<Self> {
        Ok(Self::from_entries(repository.chains(StoreKind::Postgres).await?))
    }

    /// The same of the slices alone that begin in the range that `within` says of chains of WAL; it begins and ends where segments do. How far
    /// a log goes beyond is not known then.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn read_within(
        repository: &Repository,
        within: impl Fn(&WalChain) -> Range<u64>,
    ) -> Result<Self> {
        let positions = |description: &ChainDescription| {
            let Range { start, end } = description.wal.as_ref().map_or(0..0, &within);
            LogPosition(start)..LogPosition(end)
        };
        Ok(Self::from_entries(repository.chains_within(StoreKind::Postgres, positions).await?))
    }

    fn from_entries(entries: Vec<ChainEntry>) -> Self {
        let mut found = Self::default();
        let mut servers: BTreeMap<String, Vec<(Chain, Lineage)>> = BTreeMap::new();
        for entry in entries {
            let chain = match entry {
                ChainEntry::Whole(chain) => chain,
                ChainEntry::Damaged { id, slices, error, .. } => {
                    let why = error.to_string();
                    found.damaged.push(DamagedLog { chain: id, server: None, slices, why });
                    continue;
                }
            };
            let empty =
                chain.damage().iter().filter(|damage| matches!(damage, ChainDamage::Empty(_))).count();
            if empty > 0 {
                let why =
                    format!("{empty} of its slices have 0 bytes; `mainstay backup verify --log` names them");
                found.damaged.push(DamagedLog::of(&chain, chain.slices().len() + empty, why));
            }
            match lineage_of(&chain) {
                Ok(lineage) => {
                    servers.entry(chain.description().server.clone()).or_default().push((chain, lineage))
                }
                Err(why) => found.damaged.push(DamagedLog::of(&chain, chain.slices().len(), why)),
            }
        }
        found.logs = servers.into_iter().filter_map(|(server, chains)| WalLog::new(server, chains)).collect();
        found
    }

    /// The log of `server`.
    pub(crate) fn of(self, server: &str) -> Option<WalLog> {
        self.logs.into_iter().find(|log| log.server == server)
    }
}

/// The lineage that a chain's description tells.
pub(crate) fn lineage_of(chain: &Chain) -> Result<Lineage, String> {
    let wal = chain.description().wal.as_ref().ok_or("it is no chain of WAL")?;
    match &wal.history {
        None => Ok(Lineage::without_history(wal.timeline)),
        Some(history) => Lineage::read(wal.timeline, history.as_bytes()).map_err(|error| error.to_string()),
    }
}

impl WalLog {
    /// Chains whose segments have another length than those of the newest belong to a time before the cluster was changed and are left out.
    fn new(server: String, mut chains: Vec<(Chain, Lineage)>) -> Option<Self> {
        let length = |chain: &Chain| chain.description().wal.as_ref().map(|wal| wal.segment_bytes);
        let segment_bytes = chains.last().and_then(|(chain, _)| length(chain))?;
        chains.retain(|(chain, _)| length(chain) == Some(segment_bytes));
        chains.sort_by_key(|(chain, _)| chain.description().why != ChainReason::Imported);
        Some(Self { server, segment_bytes, chains })
    }

    /// The environment that its newest chain was captured in.
    pub(crate) fn environment(&self) -> &str {
        self.chains.last().map_or("", |(chain, _)| chain.description().environment.as_str())
    }

    /// The lineage of `timeline`, by its newest chain.
    pub(crate) fn lineage(&self, timeline: u32) -> Option<&Lineage> {
        self.chains.iter().rev().map(|(_, lineage)| lineage).find(|lineage| lineage.timeline() == timeline)
    }

    /// All timelines that there are chains of, the newest first.
    pub(crate) fn timelines(&self) -> Vec<u32> {
        let mut timelines: Vec<u32> = self.chains.iter().map(|(_, lineage)| lineage.timeline()).collect();
        timelines.sort_unstable();
        timelines.dedup();
        timelines.reverse();
        timelines
    }

    /// The newest lineage that a server on `timeline` at `position` can follow.
    pub(crate) fn newest_from(&self, timeline: u32, position: Lsn) -> Option<&Lineage> {
        self.timelines().into_iter().filter_map(|number| self.lineage(number)).find(|lineage| {
            lineage.part(timeline).is_some_and(|(_, end)| end.is_none_or(|end| position.0 <= end))
        })
    }

    /// The continuous parts of one timeline's chains, with the chain each is of.
    fn runs(&self, timeline: u32) -> Vec<(usize, Run)> {
        let of_timeline = self.chains.iter().enumerate().filter(|(_, (_, it))| it.timeline() == timeline);
        of_timeline
            .flat_map(|(index, (chain, _))| chain.runs().into_iter().map(move |run| (index, run)))
            .filter_map(|(index, run)| {
                let through = run.through.min(LogPosition(self.valid_end(index)));
                (run.after < through).then_some((index, Run { after: run.after, through }))
            })
            .collect()
    }

    /// The continuous parts of one timeline's chains, as far as they are of the history that the server has now.
    pub(crate) fn parts_of(&self, timeline: u32) -> impl Iterator<Item = (u64, u64)> {
        self.runs(timeline).into_iter().map(|(_, run)| (run.after.0, run.through.0))
    }

    /// From where on the log of one timeline leads to `position` without a hole; `position` itself when nothing leads there.
    pub(crate) fn since(&self, timeline: u32, position: Lsn) -> Lsn {
        let runs = self.runs(timeline);
        let mut at = position.0;
        while let Some(after) = runs
            .iter()
            .filter(|(_, run)| run.after.0 < at && at <= run.through.0)
            .map(|(_, run)| run.after.0)
            .min()
        {
            at = after;
        }
        Lsn(at)
    }

    /// Where the server of `timeline` had gone back, oldest first.
    fn turns(&self, timeline: u32) -> Vec<Turn> {
        let of_timeline = self.chains.iter().enumerate().filter(|(_, (_, it))| it.timeline() == timeline);
        let turns = of_timeline.filter(|(_, (chain, _))| chain.description().why == ChainReason::Diverged);
        turns
            .map(|(index, (chain, _))| {
                let description = chain.description();
                Turn { index, begun_at: description.begun_at, after: description.after.0 }
            })
            .collect()
    }

    /// Up to where the chain at `index` is of the history that the server has now; beyond, it is of one that was given up.
    pub(crate) fn valid_end(&self, index: usize) -> u64 {
        let Some((chain, lineage)) = self.chains.get(index) else { return 0 };
        let description = chain.description();
        let begun = Begun {
            index,
            is_imported: description.why == ChainReason::Imported,
            at: description.begun_at,
            after: description.after.0,
        };
        valid_end(&self.turns(lineage.timeline()), begun)
    }

    /// The positions on `timeline` that its server went back to.
    pub(crate) fn turned_at(&self, timeline: u32) -> Vec<u64> {
        self.turns(timeline).iter().map(|turn| turn.after).collect()
    }

    /// Whether what was taken from `timeline` at `taken_at`, and goes up to `end`, is of a history that the server has given up since. Of two
    /// histories that cannot be told apart the answer is yes.
    pub(crate) fn given_up(&self, timeline: u32, taken_at: Timestamp, end: Lsn) -> bool {
        given_up(&self.turns(timeline), taken_at, end.0)
    }

    /// How far the log of one timeline goes from `from` on without a hole; `from` itself when it is not there.
    pub(crate) fn reach(&self, timeline: u32, from: Lsn) -> Lsn {
        Lsn(cover(&self.runs(timeline), from.0, u64::MAX).last().map_or(from.0, |(_, _, through)| *through))
    }

    /// Whether slices are missing at `position`, where nothing holds a timeline: one of its chains goes on behind it. Otherwise the log ends there.
    pub(crate) fn is_hole(&self, timeline: u32, position: Lsn) -> bool {
        self.chains.iter().enumerate().any(|(index, (chain, lineage))| {
            let end = chain.end().0.min(self.valid_end(index));
            lineage.timeline() == timeline && chain.description().after.0 <= position.0 && position.0 < end
        })
    }

    /// The same along a lineage, at what [`WalLog::reach_along`] gives.
    pub(crate) fn is_hole_along(&self, lineage: &Lineage, position: Lsn) -> bool {
        // The segment in which a timeline begins is its own.
        let first_of = |position: u64| segment_begin(Lsn(position), self.segment_bytes).0;
        lineage.parts().into_iter().any(|(timeline, begin, end)| {
            let is_within = first_of(begin) <= position.0 && end.is_none_or(|end| position.0 < first_of(end));
            is_within && self.is_hole(timeline, position)
        })
    }

    /// How far one gets from `from` on, along a lineage, without a hole.
    pub(crate) fn reach_along(&self, lineage: &Lineage, from: Lsn) -> Lsn {
        Lsn(self.stretches(lineage, from.0, u64::MAX).last().map_or(from.0, |stretch| stretch.through))
    }

    /// The slices that hold the log from `from` to `through` along a lineage, in order.
    ///
    /// # Errors
    /// `Corrupt` when there is a hole, naming it.
    pub(crate) fn pieces(&self, lineage: &Lineage, from: Lsn, through: Lsn) -> Result<Vec<Piece<'_>>> {
        let stretches = self.stretches(lineage, from.0, through.0);
        let reached = stretches.last().map_or(from.0, |stretch| stretch.through);
        if reached < through.0 {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "the captured WAL of server {} has a hole at {} before {through}",
                    self.server,
                    Lsn(reached)
                ),
            )
            .with_hint("`mainstay backup verify --log` names what is missing"));
        }
        Ok(stretches.into_iter().flat_map(|stretch| self.pieces_of(stretch)).collect())
    }

    fn pieces_of(&self, Stretch { chain, from, through }: Stretch) -> impl Iterator<Item = Piece<'_>> {
        let chain = &self.chains[chain].0;
        let slices = chain.slices_between(LogPosition(from), LogPosition(through));
        slices.iter().map(move |slice| Piece {
            chain,
            slice,
            from: slice.after.0.max(from),
            through: slice.through.0.min(through),
        })
    }

    /// What is there of a range along a lineage, from its beginning on without a hole.
    fn stretches(&self, lineage: &Lineage, from: u64, through: u64) -> Vec<Stretch> {
        let mut stretches = Vec::new();
        let mut at = from;
        for (timeline, _, end) in lineage.parts() {
            // The segment in which the next timeline begins is that one's.
            let stop = end.map_or(u64::MAX, |end| segment_begin(Lsn(end), self.segment_bytes).0);
            let until = stop.min(through);
            if at >= until {
                continue;
            }
            let covered = cover(&self.runs(timeline), at, until);
            stretches.extend(covered.iter().map(|(chain, from, through)| Stretch {
                chain: *chain,
                from: *from,
                through: *through,
            }));
            at = covered.last().map_or(at, |(_, _, through)| *through);
            if at < until {
                break;
            }
        }
        stretches
    }

    /// Walks from the record at `from` over the log up to `through`, along a lineage, until `see` has seen enough. Every slice is verified.
    ///
    /// # Errors
    /// `Corrupt` for damage, naming it; the store's.
    pub(crate) async fn walk(
        &self,
        repository: &Repository,
        lineage: &Lineage,
        (from, through): (Lsn, Lsn),
        observer: &dyn Observer,
        see: &mut (dyn FnMut(SeenRecord) -> ControlFlow<()> + Send),
    ) -> Result<()> {
        let pieces = self.pieces(lineage, from, through)?;
        observer
            .expect(pieces.iter().map(|piece| Work { items: 1, bytes: piece.through - piece.from }).sum());
        let mut reads = futures::stream::iter(&pieces)
            .map(|piece| async move { piece.read(repository).await.map(|bytes| (piece, bytes)) })
            .buffered(SLICE_READS);
        let mut walker = WalWalker::at_record(from.0, self.segment_bytes);
        while let Some(read) = reads.next().await {
            let (piece, bytes) = read?;
            let mut enough = false;
            let walked = walker.push(&bytes, &mut |record| enough = enough || see(record).is_break());
            walked.map_err(|error| {
                Error::new(ErrorKind::Corrupt, format!("{}: {error}", piece.slice.name())).with_source(error)
            })?;
            observer.advance(Work { items: 1, bytes: bytes.len() as u64 });
            if enough {
                break;
            }
        }
        Ok(())
    }

    /// The time of the newest commit or rollback on a timeline, as far as its last few slices hold one. `None` when they do not, or cannot be
    /// read: whoever lists is told of that elsewhere.
    pub(crate) async fn last_change(&self, repository: &Repository, timeline: u32) -> Option<i64> {
        /// How many slices are looked at, of which idle servers write few bytes each.
        const SLICE_COUNT_MAX: usize = 16;
        let of_timeline = self.chains.iter().enumerate().filter(|(_, (_, it))| it.timeline() == timeline);
        let (_, chain) = of_timeline
            .max_by_key(|(index, (chain, _))| (chain.end().0.min(self.valid_end(*index)), *index))?;
        let slices = chain.0.slices();
        for count in [1, 4, SLICE_COUNT_MAX] {
            let from = slices.len().saturating_sub(count);
            let mut walker = WalWalker::anywhere(slices.get(from)?.after.0, self.segment_bytes);
            let mut newest = None;
            for slice in &slices[from..] {
                let plain = repository.read_slice(&chain.0, slice).await.ok()?;
                let mut see =
                    |record: SeenRecord| newest = super::seek::transaction_time(&record.kind).or(newest);
                walker.push(&plain, &mut see).ok()?;
            }
            if newest.is_some() || from == 0 {
                return newest;
            }
        }
        None
    }
}

impl Piece<'_> {
    /// Its bytes.
    ///
    /// # Errors
    /// `Corrupt`, naming the slice; the store's.
    pub(crate) async fn read(&self, repository: &Repository) -> Result<Bytes> {
        let name = || format!("read {}", self.slice.name());
        let plain = repository.read_slice(self.chain, self.slice).await.with_context(name)?;
        let (after, through) = (self.slice.after.0, self.slice.through.0);
        if plain.len() as u64 != through - after {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("{} holds {} bytes, not {}", self.slice.name(), plain.len(), through - after),
            ));
        }
        let within = |position: u64| usize::try_from(position - after).unwrap_or(usize::MAX);
        Ok(plain.slice(within(self.from)..within(self.through)))
    }
}

/// A server went back to an earlier state, and another chain was begun.
#[derive(Debug, Clone, Copy)]
struct Turn {
    /// The place of that chain among all chains.
    index: usize,
    begun_at: Timestamp,
    /// Where it begins; before that both histories are the same.
    after: u64,
}

/// How a chain was begun.
#[derive(Debug, Clone, Copy)]
struct Begun {
    /// Its place among all chains.
    index: usize,
    is_imported: bool,
    at: Timestamp,
    /// Where it begins.
    after: u64,
}

impl Turn {
    /// Whether a chain that goes beyond where this happened has another history there.
    fn cuts(&self, chain: Begun) -> bool {
        match chain.is_imported {
            // All of these stand before all that were captured, whenever they came.
            true => self.begun_at > chain.at || self.after > chain.after,
            false => self.index > chain.index,
        }
    }
}

/// Up to where a chain counts: each later turn cuts what it began anew.
fn valid_end(turns: &[Turn], chain: Begun) -> u64 {
    turns.iter().filter(|turn| turn.cuts(chain)).map(|turn| turn.after).min().unwrap_or(u64::MAX)
}

fn given_up(turns: &[Turn], taken_at: Timestamp, end: u64) -> bool {
    turns.iter().any(|turn| taken_at < turn.begun_at && end > turn.after)
}

/// What one chain gives to a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    chain: usize,
    from: u64,
    through: u64,
}

/// What `runs` hold of a range, from its beginning on without a hole: whose run, from where, to where. Where several hold the same, the one
/// that gets furthest is taken.
fn cover(runs: &[(usize, Run)], from: u64, through: u64) -> Vec<(usize, u64, u64)> {
    let mut taken = Vec::new();
    let mut at = from;
    while at < through {
        let holding = runs.iter().filter(|(_, run)| run.after.0 <= at && at < run.through.0);
        let Some((index, run)) = holding.max_by_key(|(index, run)| (run.through, *index)) else { break };
        let until = run.through.0.min(through);
        taken.push((*index, at, until));
        at = until;
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_that_was_given_up_counts_up_to_where_the_next_one_begins() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap_or_default();
        let turn = |index, seconds, after| Turn { index, begun_at: at(seconds), after };
        let turns = [turn(1, 100, 500), turn(3, 200, 700)];
        let captured = |index| Begun { index, is_imported: false, at: at(0), after: 0 };
        let ends: Vec<u64> = (0..4).map(|index| valid_end(&turns, captured(index))).collect();
        assert_eq!(ends, [500, 700, 700, u64::MAX]);
        for (taken_at, end, expected) in
            [(50, 500, false), (50, 501, true), (150, 600, false), (150, 701, true), (250, 900, false)]
        {
            assert_eq!(given_up(&turns, at(taken_at), end), expected, "{taken_at} {end}");
        }
        assert!(!given_up(&[], at(0), 9) && valid_end(&[], captured(0)) == u64::MAX);
    }

    #[test]
    fn what_was_imported_behind_a_turn_after_it_counts() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap_or_default();
        let turns = [Turn { index: 7, begun_at: at(100), after: 500 }];
        let imported = |seconds, after| Begun { index: 0, is_imported: true, at: at(seconds), after };
        for (seconds, after, expected) in [
            // Before the server went back: of the history that it gave up.
            (50, 100, 500),
            (50, 500, 500),
            (50, 600, 500),
            // After it: what leads over that position may be of either.
            (150, 100, 500),
            (150, 500, u64::MAX),
            (150, 600, u64::MAX),
        ] {
            assert_eq!(valid_end(&turns, imported(seconds, after)), expected, "{seconds} {after}");
        }
        let again = [turns[0], Turn { index: 8, begun_at: at(200), after: 700 }];
        assert_eq!(valid_end(&again, imported(150, 600)), 700, "it went back once more");
        assert_eq!(valid_end(&again, imported(250, 600)), 700);
        assert_eq!(valid_end(&again, imported(250, 700)), u64::MAX);
    }

    #[test]
    fn a_range_is_covered_as_far_as_runs_reach() {
        let run =
            |index, after, through| (index, Run { after: LogPosition(after), through: LogPosition(through) });
        let runs = [run(0, 10, 40), run(1, 32, 60), run(2, 80, 90), run(3, 90, 90)];
        assert_eq!(cover(&runs, 10, 100), [(0, 10, 40), (1, 40, 60)]);
        assert_eq!(cover(&runs, 35, 50), [(1, 35, 50)]);
        assert_eq!(cover(&runs, 85, 90), [(2, 85, 90)]);
        for from in [9, 60, 90] {
            assert_eq!(cover(&runs, from, 100), [], "{from}");
        }
    }
}
