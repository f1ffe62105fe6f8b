//! Moments: choosing the set and the piece of change log that lead to one.
//!
//! A moment can be restored when a set had settled by then and one chain of the log goes on from what the set holds, without a hole, to
//! the moment or past it: only an entry at or after the moment proves that none before it is missing. [`find_point`] takes the newest such
//! set, because it leaves the least to replay, and says what could be had when there is none. It then surveys the log: what exists at the
//! moment, under which names, is known before anything is planned.

use std::collections::BTreeSet;

use mainstay_engine::{ChangeReplay, Namespace, PointCollection, Surveyed, Until};
use mainstay_model::progress::Observer;
use mainstay_model::{
    Assumption, ByteSize, ChainId, Count, Error, ErrorKind, OpTime, PlanStep, Result, StoreKind,
};
use mainstay_repository::{Repository, Run, Set};

use super::log::{Log, Piece, is_shadow};
use crate::contents::DocumentSetContents;
use crate::placement::{LogSpan, UntilWords};
use crate::recoverable::{ChainFacts, RecoverableRange, SetMoment, judge, sets_to_continue};

/// How many recoverable ranges an error names.
const RANGE_COUNT_SHOWN: usize = 5;
/// The moment that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The end of the log.
    Latest,
    /// This end.
    Until(Until),
}

/// What [`find_point`] works with.
pub struct PointContext<'a> {
    /// Where sets and log are.
    pub repository: &'a Repository,
    /// Reads the log.
    pub replay: &'a dyn ChangeReplay,
    /// The server that is restored into: its own sets come first.
    pub fingerprint: &'a str,
    /// Told how far it is.
    pub observer: &'a dyn Observer,
}

/// A moment that can be restored: a set, and the piece of log that leads from it to the moment.
pub struct Point {
    pub(super) set: Set,
    log: Log,
    /// The earliest moment that the set can be brought to.
    settled: OpTime,
}

/// The set (by its place in `sets`) and the chain that lead to `until`: the newest set that does.
///
/// # Errors
/// `Precondition` when there is none, with what can be restored instead.
fn decide<'a>(sets: &[SetMoment], chains: &'a [ChainFacts], until: Until) -> Result<(usize, &'a ChainId)> {
    let runs = || {
        let chains = chains.iter().enumerate();
        chains.flat_map(|(index, chain)| chain.runs.iter().map(move |run| (index, run)))
    };
    let leads = |set: &SetMoment, index: usize, run: &Run| {
        set.lies_in(run, chains, index)
            && until.includes(set.settled)
            && run.covers(set.base.into(), until.position().into())
    };
    let pairs = sets.iter().enumerate().flat_map(|(place, set)| {
        let leading = runs().filter(move |(index, run)| leads(set, *index, run));
        leading.map(move |(index, _)| (place, &chains[index].id))
    });
    pairs.max_by_key(|(place, chain)| (sets[*place].settled, *place, *chain)).ok_or_else(|| {
        let known = judge(String::new(), String::new(), sets, chains);
        out_of_reach(until, &known.ranges)
    })
}

/// Why `until` cannot be restored, and what can.
fn out_of_reach(until: Until, ranges: &[RecoverableRange]) -> Error {
    let (Some(first), Some(last)) =
        (ranges.iter().min_by_key(|range| range.from), ranges.iter().max_by_key(|range| range.through))
    else {
        return nothing_recoverable();
    };
    let before = ranges.iter().filter(|range| range.through < until.position());
    let before = before.max_by_key(|range| range.through);
    let after = ranges.iter().filter(|range| !until.includes(range.from)).min_by_key(|range| range.from);
    let (why, hint) = match (before, after) {
        (_, None) => (
            format!("the log ends at {} ({})", last.through, last.through.timestamp()),
            "restore `--to latest`, or wait until `mainstay capture mongo` has stored what came after"
                .to_owned(),
        ),
        (None, Some(_)) => (
            format!("the earliest moment is {} ({})", first.from, first.from.timestamp()),
            format!("restore `--to {}`, or a set as it is: `mainstay backup list`", first.from),
        ),
        (Some(before), Some(after)) => (
            format!("it lies in a gap between {} and {}", before.through, after.from),
            format!(
                "restore the moment before the gap, `--to {}`, or the one after it, `--to {}`",
                before.through, after.from
            ),
        ),
    };
    Error::new(ErrorKind::Precondition, format!("the moment {} cannot be restored: {why}", UntilWords(until)))
        .with_state(format!("nothing was changed; recoverable: {}", shown(ranges)))
        .with_hint(hint)
}

/// The ranges in words, the newest of many.
fn shown(ranges: &[RecoverableRange]) -> String {
    let range = |RecoverableRange { from, through, .. }: &RecoverableRange| {
        format!("{from} ({}) to {through} ({})", from.timestamp(), through.timestamp())
    };
    let older = ranges.len().saturating_sub(RANGE_COUNT_SHOWN);
    let told: Vec<String> = ranges[older..].iter().map(range).collect();
    let more = if older > 0 { format!("{older} older ranges, ") } else { String::new() };
    format!("{more}{}", told.join(", "))
}

fn nothing_recoverable() -> Error {
    Error::new(
        ErrorKind::Precondition,
        "no moment can be restored: no backup set is followed by a captured log of its server",
    )
    .with_state("nothing was changed")
    .with_hint("run `mainstay capture mongo`, and take a backup while it runs: `mainstay backup create`")
}

/// Finds the set and the log that lead to `moment`, and surveys the log. `set` is the set to begin with, when one was named.
///
/// # Errors
/// `Precondition` when the moment cannot be restored, with the moments that can; `Corrupt` when the log is damaged; `Unsupported` when it
/// holds what this version does not know how to replay.
pub async fn find_point(context: &PointContext<'_>, set: Option<Set>, moment: Moment) -> Result<Point> {
    let candidates = match set {
        Some(set) => vec![Candidate::named(set)?],
        None => of_one_server(candidates(context.repository).await?, context.fingerprint)?,
    };
    let Some(server) = candidates.first().map(|candidate| candidate.server.clone()) else {
        return Err(nothing_recoverable());
    };
    let mut chains = context.repository.chains_of(StoreKind::Mongo, &server).await?;
    let facts: Vec<ChainFacts> = chains.iter().map(ChainFacts::of).collect();
    let sets: Vec<SetMoment> = candidates.iter().map(|candidate| candidate.moment.clone()).collect();
    let until = match moment {
        Moment::Until(until) => until,
        Moment::Latest => {
            let known = judge(String::new(), String::new(), &sets, &facts);
            let end = known.ranges.iter().map(|range| range.through).max();
            Until::Through(end.ok_or_else(nothing_recoverable)?)
        }
    };
    let (chosen, chain) = decide(&sets, &facts, until)?;
    chains.retain(|found| found.id() == chain);
    let chain = chains.pop().expect("the decision is among the chains");
    let Candidate { set, moment, .. } =
        candidates.into_iter().nth(chosen).expect("the decision is among the sets");
    let span = LogSpan { chain: chain.id().clone(), after: moment.base.into(), until };
    let contents: DocumentSetContents = set.contents()?;
    let log = Log::survey(context, &set, &contents, Piece { span, chain }).await?;
    Ok(Point { set, log, settled: moment.settled })
}

/// A set that a log could go on from.
struct Candidate {
    set: Set,
    server: String,
    moment: SetMoment,
}

impl Candidate {
    fn of(set: Set) -> Option<Self> {
        let contents: DocumentSetContents = set.contents().ok()?;
        let moment = SetMoment::of(set.id(), &contents)?;
        Some(Self { set, server: contents.server.fingerprint, moment })
    }

    fn named(set: Set) -> Result<Self> {
        let id = set.id().clone();
        Self::of(set).ok_or_else(|| {
            Error::new(
                ErrorKind::Precondition,
                format!("no log can go on from set {id}: it was taken from a server without a change log"),
            )
            .with_state("nothing was changed")
            .with_hint("leave `--to` out to restore the set as it is")
        })
    }
}

/// The sets that a log could go on from, oldest first.
async fn candidates(repository: &Repository) -> Result<Vec<Candidate>> {
    let sets = sets_to_continue(repository).await?.into_iter();
    let candidate = |(set, contents, moment): (Set, DocumentSetContents, SetMoment)| Candidate {
        set,
        server: contents.server.fingerprint,
        moment,
    };
    Ok(sets.map(candidate).collect())
}

/// The sets of the server with this `fingerprint`, or those of the one server that there are sets of.
fn of_one_server(sets: Vec<Candidate>, fingerprint: &str) -> Result<Vec<Candidate>> {
    let servers: BTreeSet<&str> = sets.iter().map(|set| set.server.as_str()).collect();
    if servers.contains(fingerprint) {
        return Ok(sets.into_iter().filter(|set| set.server == fingerprint).collect());
    }
    if servers.len() <= 1 {
        return Ok(sets);
    }
    let servers: Vec<&str> = servers.into_iter().collect();
    Err(Error::new(
        ErrorKind::Precondition,
        format!(
            "there are backup sets of {} servers, none of them the one restored into: {}",
            servers.len(),
            servers.join(", ")
        ),
    )
    .with_state("nothing was changed")
    .with_hint("name a set of the server that is meant: `mainstay restore plan SET --to …`"))
}

impl Point {
    /// The piece of log, as a plan carries it.
    pub(super) fn span(&self) -> &LogSpan {
        &self.log.piece.span
    }

    /// What existed at the moment; see [`Log::collections`].
    pub(super) fn collections<'a>(
        &'a self,
        contents: &'a DocumentSetContents,
    ) -> impl Iterator<Item = &'a PointCollection> {
        self.log.collections(contents)
    }

    /// What existed at the moment and should be in the set, but is not.
    pub(super) fn foreign<'a>(
        &'a self,
        contents: &'a DocumentSetContents,
    ) -> impl Iterator<Item = &'a Namespace> {
        let missing = |name: &Namespace| contents.is_about(name) && !is_shadow(name);
        self.log.surveyed.foreign.iter().filter(move |name| missing(name))
    }

    /// What the plan takes for granted of the log.
    pub(super) fn assumptions(&self) -> Result<Vec<Assumption>> {
        self.log.assumptions()
    }

    /// What is read before anything is written.
    pub(super) fn steps(&self) -> Vec<PlanStep> {
        let Surveyed { entries, last, .. } = &self.log.surveyed;
        let reached = match last {
            Some(last) => format!("the last at {last} ({})", last.timestamp()),
            None => "so that the set is the moment".to_owned(),
        };
        let read = |name: String, summary: String| PlanStep { name, mark: ' ', summary };
        vec![
            read(
                format!("read set {}", self.set.id()),
                format!("settled at {} ({})", self.settled, self.settled.timestamp()),
            ),
            read(
                format!("replay log {}", self.span().chain),
                format!(
                    "to the moment {}: {} entries, {reached}; {} to read",
                    self.span(),
                    Count(*entries),
                    ByteSize(self.log.work.bytes)
                ),
            ),
        ]
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use mainstay_model::SetId;

    use super::*;

    fn at(seconds: u32) -> OpTime {
        OpTime { seconds, increment: 1 }
    }

    fn set(number: u32, base: u32, settled: u32) -> SetMoment {
        let id = SetId::new(at(number).timestamp(), number);
        SetMoment { id, base: at(base), settled: at(settled) }
    }

    fn chain(number: u32, after: u32, through: u32) -> ChainFacts {
        ChainFacts {
            id: ChainId::new(at(number).timestamp(), number),
            runs: vec![Run { after: at(after).into(), through: at(through).into() }],
            why: "overrun",
            went_back: false,
        }
    }

    /// Two sets in a first chain, one between the chains, one in the second.
    fn example() -> (Vec<SetMoment>, Vec<ChainFacts>) {
        (
            vec![set(1, 20, 25), set(2, 60, 60), set(3, 105, 106), set(4, 130, 131)],
            vec![chain(1, 10, 100), chain(2, 120, 200)],
        )
    }

    #[test]
    fn the_newest_set_before_the_moment_is_taken() {
        let (sets, log) = example();
        for (until, expected) in [
            (Until::Through(at(25)), (0, 0)),
            (Until::Through(at(59)), (0, 0)),
            (Until::Before(at(60)), (0, 0)),
            (Until::Through(at(60)), (1, 0)),
            (Until::Through(at(100)), (1, 0)),
            (Until::Before(at(132)), (3, 1)),
            (Until::Through(at(200)), (3, 1)),
            (Until::Through(OpTime { seconds: 199, increment: u32::MAX }), (3, 1)),
        ] {
            let (place, chain) = decide(&sets, &log, until).unwrap();
            assert_eq!((place, chain), (expected.0, &log[expected.1].id), "{until:?}");
        }
    }

    #[test]
    fn a_moment_out_of_reach_is_refused_with_the_nearest() {
        let (sets, log) = example();
        for (until, why, hint) in [
            (Until::Through(at(24)), "the earliest moment is 25:1", "--to 25:1"),
            (Until::Before(at(25)), "the earliest moment is 25:1", "--to 25:1"),
            (Until::Through(at(101)), "a gap between 100:1 and 131:1", "--to 100:1"),
            (Until::Before(at(131)), "a gap between 100:1 and 131:1", "--to 131:1"),
            (Until::Through(at(201)), "the log ends at 200:1", "--to latest"),
            // The second may have gone on after the last entry that is known.
            (
                Until::Through(OpTime { seconds: 200, increment: u32::MAX }),
                "the log ends at 200:1",
                "--to latest",
            ),
        ] {
            let error = decide(&sets, &log, until).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Precondition);
            assert!(error.message().contains(why), "{until:?}: {}", error.message());
            assert!(error.hint().unwrap().contains(hint), "{until:?}: {:?}", error.hint());
            let state = error.state().unwrap();
            assert!(state.contains("25:1") && state.contains("131:1") && state.contains("200:1"), "{state}");
        }
        for (sets, log) in [(vec![], log), (sets, vec![])] {
            let error = decide(&sets, &log, Until::Through(at(60))).unwrap_err();
            assert!(error.hint().unwrap().contains("capture mongo"));
        }
    }
}
