//! Chains of the stream, and the way from a position through them.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use mainstay_engine::{ReplicationFacts, ReplicationPoint};
use mainstay_model::{ChainId, Error, ErrorKind, LogPosition, Result, ResultExt, StoreKind};
use mainstay_repository::{
    Arrival, Chain, ChainEntry, ChainReason, Repository, Run, Set, Slice, without_arrivals,
};
use serde::{Deserialize, Serialize};

use crate::keyfile::KeyFileSetContents;
use crate::recoverable::{DamagedChain, emptied};

/// How many slices are read ahead of the one that is used.
const SLICE_COUNT_AHEAD: usize = 2;

/// The end of a chain as the server would name it; `None` for a chain of something else.
pub(crate) fn chain_point(chain: &Chain) -> Option<ReplicationPoint> {
    let replication = chain.description().replication.as_ref()?;
    Some(ReplicationPoint { id: replication.id.clone(), offset: chain.end().0 })
}

/// The stream's bytes in a slice, and when they came.
///
/// # Errors
/// `Corrupt` naming the slice; the store's.
pub(crate) async fn read_slice(
    repository: &Repository,
    chain: &Chain,
    slice: &Slice,
) -> Result<(Bytes, Vec<Arrival>)> {
    let plain = repository.read_slice(chain, slice).await?;
    without_arrivals(slice.after.0, slice.through.0, plain).map_err(|fault| {
        Error::new(ErrorKind::Corrupt, format!("slice {} of chain {}: {fault}", slice.name(), chain.id()))
            .with_hint("`mainstay backup verify --log` tells what else is damaged")
    })
}

/// A set that the stream can go on from.
#[derive(Debug, Clone)]
pub(crate) struct BaseSet {
    pub(crate) set: Set,
    pub(crate) contents: KeyFileSetContents,
    pub(crate) at: ReplicationPoint,
}

/// The sets of keys that show a position of a stream, oldest first. Damaged ones are left out: those whose manifest is, and those that a
/// verification found to be.
///
/// # Errors
/// The store's.
pub(crate) async fn sets(repository: &Repository) -> Result<Vec<BaseSet>> {
    let mut found = Vec::new();
    for entry in repository.sets(Some(StoreKind::Redis)).await.context("list backup sets")? {
        let Ok(set) = entry.into_set() else { continue };
        let Ok(contents) = set.contents::<KeyFileSetContents>() else { continue };
        let Some(at) = contents.replication.clone() else { continue };
        if set.verdict().await?.is_none_or(|record| record.is_sound()) {
            found.push(BaseSet { set, contents, at });
        }
    }
    Ok(found)
}

/// All chains of the stream of every server.
#[derive(Debug)]
pub(crate) struct ReplicationLog {
    /// Oldest first.
    pub(crate) chains: Vec<Chain>,
    pub(crate) damaged: Vec<DamagedChain>,
    facts: Vec<ChainFacts>,
}

/// What of a chain decides a way.
#[derive(Debug, Clone)]
struct ChainFacts {
    id: ChainId,
    stream: String,
    runs: Vec<Run>,
    /// The chain that it goes on from without a gap.
    goes_on_from: Option<ChainId>,
}

impl ChainFacts {
    fn of(chain: &Chain) -> Option<Self> {
        let description = chain.description();
        let goes_on = description.why == ChainReason::Timeline;
        Some(Self {
            id: chain.id().clone(),
            stream: description.replication.as_ref()?.id.clone(),
            runs: chain.runs(),
            goes_on_from: description.predecessor.clone().filter(|_| goes_on),
        })
    }

    /// The continuous part in which `offset` lies, its ends included; the one that leads on from there when two meet.
    fn run_at(&self, offset: u64) -> Option<&Run> {
        let at = LogPosition(offset);
        self.runs.iter().rfind(|run| run.covers(at, at))
    }
}

/// A part of a way: bytes of one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Leg {
    chain: usize,
    after: u64,
    through: u64,
}

/// The way from `from`, as far as it leads; nothing where no chain has that position.
fn way(chains: &[ChainFacts], from: &ReplicationPoint) -> Vec<Leg> {
    let begins =
        |(_, chain): &(usize, &ChainFacts)| chain.stream == from.id && chain.run_at(from.offset).is_some();
    let reach = |chain: &ChainFacts| chain.run_at(from.offset).map(|run| run.through);
    let first = chains.iter().enumerate().filter(begins).max_by_key(|(index, chain)| (reach(chain), *index));
    let Some((mut index, _)) = first else { return Vec::new() };
    let (mut at, mut legs) = (from.offset, Vec::new());
    // Each chain comes after the one that it goes on from, so this ends.
    while let Some(run) = chains[index].run_at(at) {
        let next = chains.iter().enumerate().skip(index + 1).rfind(|(_, next)| {
            let begin = next.runs.first().map(|run| run.after);
            next.goes_on_from.as_ref() == Some(&chains[index].id)
                && begin.is_some_and(|begin| run.covers(LogPosition(at), begin))
        });
        let through = next.map_or(run.through, |(_, next)| next.runs[0].after).0;
        legs.push(Leg { chain: index, after: at, through });
        match next {
            None => break,
            Some((next, _)) => (index, at) = (next, through),
        }
    }
    legs
}

/// A part of a way that can be read.
#[derive(Debug, Clone)]
pub(crate) struct WayPart {
    pub(crate) chain: Chain,
    pub(crate) after: u64,
    pub(crate) through: u64,
}

/// The same, as a plan keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PartRecord {
    pub(crate) chain: ChainId,
    pub(crate) after: u64,
    pub(crate) through: u64,
}

impl WayPart {
    /// The server whose stream it is.
    pub(crate) fn server(&self) -> &str {
        &self.chain.description().server
    }

    /// The name of the stream.
    pub(crate) fn stream(&self) -> &str {
        self.chain.description().replication.as_ref().map_or("", |it| it.id.as_str())
    }

    /// Whether the position lies on it, its ends included.
    pub(crate) fn has(&self, at: &ReplicationPoint) -> bool {
        self.stream() == at.id && self.after <= at.offset && at.offset <= self.through
    }

    pub(crate) fn record(&self) -> PartRecord {
        PartRecord { chain: self.chain.id().clone(), after: self.after, through: self.through }
    }
}

impl ReplicationLog {
    /// # Errors
    /// The store's.
    pub(crate) async fn read(repository: &Repository) -> Result<Self> {
        let (mut chains, mut damaged, mut facts) = (Vec::new(), Vec::new(), Vec::new());
        for entry in repository.chains(StoreKind::Redis).await? {
            match entry {
                ChainEntry::Whole(chain) => {
                    damaged.extend(emptied(&chain));
                    if let Some(known) = ChainFacts::of(&chain) {
                        facts.push(known);
                        chains.push(chain);
                    }
                }
                ChainEntry::Damaged { id, slices, error, .. } => {
                    damaged.push(DamagedChain { chain: id, slices, damaged: error.to_string() });
                }
            }
        }
        Ok(Self { chains, damaged, facts })
    }

    /// The way from `from`, as far as it leads; nothing where no chain has that position.
    pub(crate) fn way(&self, from: &ReplicationPoint) -> Vec<WayPart> {
        let part = |leg: Leg| WayPart {
            chain: self.chains[leg.chain].clone(),
            after: leg.after,
            through: leg.through,
        };
        way(&self.facts, from).into_iter().map(part).collect()
    }

    /// The names under which streams of the server were stored: those that lead to where it stands, and where none does, that of its marker.
    pub(crate) fn servers_of(&self, facts: &ReplicationFacts) -> BTreeSet<String> {
        let leads_here = |chain: &&Chain| chain_point(chain).is_some_and(|end| facts.follow_from(&end));
        let mut servers: BTreeSet<String> =
            self.chains.iter().filter(leads_here).map(|chain| chain.description().server.clone()).collect();
        if servers.is_empty() && facts.is_marked {
            let is_own = |chain: &&Chain| chain.description().server == facts.fingerprint;
            servers.extend(self.chains.iter().find(is_own).map(|chain| chain.description().server.clone()));
        }
        servers
    }

    /// The way that a plan keeps.
    ///
    /// # Errors
    /// `StalePlan` when chains of it are no longer there.
    pub(crate) fn kept_way(&self, records: &[PartRecord]) -> Result<Vec<WayPart>> {
        let part = |record: &PartRecord| {
            let chain = self.chains.iter().find(|chain| *chain.id() == record.chain)?;
            let covers = chain.covers(LogPosition(record.after), LogPosition(record.through));
            covers.then(|| WayPart { chain: chain.clone(), after: record.after, through: record.through })
        };
        let parts: Option<Vec<WayPart>> = records.iter().map(part).collect();
        parts.ok_or_else(|| {
            Error::new(ErrorKind::StalePlan, "the repository no longer holds the stream that the plan needs")
                .with_state("nothing was changed")
                .with_hint("`mainstay backup list` shows what is there; make the plan again")
        })
    }
}

/// A slice on a way.
#[derive(Debug, Clone)]
pub(crate) struct WaySlice {
    pub(crate) chain: Chain,
    pub(crate) slice: Slice,
    /// Of the slice, this is on the way: exclusive.
    pub(crate) after: u64,
    /// Inclusive.
    pub(crate) through: u64,
}

/// The slices of a way, in order.
pub(crate) fn slices_of(parts: &[WayPart]) -> Vec<WaySlice> {
    let of_part = |part: &WayPart| {
        let slices = part.chain.slices_between(LogPosition(part.after), LogPosition(part.through));
        let one = |slice: &Slice| WaySlice {
            chain: part.chain.clone(),
            slice: slice.clone(),
            after: slice.after.0.max(part.after),
            through: slice.through.0.min(part.through),
        };
        slices.iter().map(one).collect::<Vec<_>>()
    };
    parts.iter().flat_map(of_part).collect()
}

/// Some bytes of a way.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub(crate) after: u64,
    pub(crate) bytes: Bytes,
    /// Those of the whole slice.
    pub(crate) arrivals: Arc<Vec<Arrival>>,
}

/// The bytes of a way up to `through`, in order.
///
/// # Errors
/// As [`read_slice`].
pub(crate) fn pieces(
    repository: &Repository,
    parts: &[WayPart],
    through: u64,
) -> impl Stream<Item = Result<Piece>> {
    let slices: Vec<_> =
        slices_of(parts).into_iter().take_while(move |slice| slice.after < through).collect();
    let repository = repository.clone();
    futures::stream::iter(slices)
        .map(move |slice| {
            let repository = repository.clone();
            async move { piece(&repository, slice, through).await }
        })
        .buffered(SLICE_COUNT_AHEAD)
}

async fn piece(repository: &Repository, on_way: WaySlice, through: u64) -> Result<Piece> {
    let WaySlice { chain, slice, after, through: end } = on_way;
    let (bytes, arrivals) = read_slice(repository, &chain, &slice).await?;
    let within = |position: u64| usize::try_from(position - slice.after.0).unwrap_or(usize::MAX);
    let bytes = bytes.slice(within(after)..within(end.min(through)));
    Ok(Piece { after, bytes, arrivals: Arc::new(arrivals) })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use mainstay_model::Timestamp;

    use super::*;

    fn id(number: u32) -> ChainId {
        ChainId::new(Timestamp::from_second(i64::from(number)).unwrap(), number)
    }

    fn chain(number: u32, stream: &str, runs: &[(u64, u64)], goes_on_from: Option<u32>) -> ChainFacts {
        let run = |(after, through): &(u64, u64)| Run {
            after: LogPosition(*after),
            through: LogPosition(*through),
        };
        ChainFacts {
            id: id(number),
            stream: stream.to_owned(),
            runs: runs.iter().map(run).collect(),
            goes_on_from: goes_on_from.map(id),
        }
    }

    #[test]
    fn a_way_leads_through_the_chains_that_go_on() {
        let told = |chains: &[ChainFacts], stream: &str, offset: u64| -> Vec<(usize, u64, u64)> {
            let from = ReplicationPoint { id: stream.to_owned(), offset };
            way(chains, &from).into_iter().map(|leg| (leg.chain, leg.after, leg.through)).collect()
        };
        let one = [chain(1, "a", &[(10, 90)], None)];
        assert_eq!(told(&one, "a", 10), [(0, 10, 90)], "from its beginning");
        assert_eq!(told(&one, "a", 50), [(0, 50, 90)]);
        assert_eq!(told(&one, "a", 90), [(0, 90, 90)], "from its end");
        assert_eq!((told(&one, "a", 9), told(&one, "a", 91), told(&one, "b", 50)), (vec![], vec![], vec![]));

        let holed = [chain(1, "a", &[(10, 40), (50, 90)], None)];
        assert_eq!((told(&holed, "a", 20), told(&holed, "a", 50)), (vec![(0, 20, 40)], vec![(0, 50, 90)]));
        assert_eq!(told(&holed, "a", 45), []);

        let taken_over = [
            chain(1, "a", &[(10, 90)], None),
            chain(2, "b", &[(90, 120)], Some(1)),
            chain(3, "c", &[(120, 150)], Some(2)),
            chain(4, "d", &[(70, 200)], None),
        ];
        assert_eq!(told(&taken_over, "a", 20), [(0, 20, 90), (1, 90, 120), (2, 120, 150)]);
        assert_eq!(told(&taken_over, "b", 100), [(1, 100, 120), (2, 120, 150)]);
        assert_eq!(told(&taken_over, "d", 70), [(3, 70, 200)]);
        let overrun = [chain(1, "a", &[(10, 40)], None), chain(2, "a", &[(60, 90)], None)];
        assert_eq!(
            (told(&overrun, "a", 10), told(&overrun, "a", 60)),
            (vec![(0, 10, 40)], vec![(1, 60, 90)])
        );
    }
}
