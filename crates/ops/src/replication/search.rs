//! What emptied a database: the commands in the captured stream after which a whole lot is gone.
//!
//! Names of commands and numbers are told, never keys: they may be somebody's data. Flushes and removals of many keys are kept apart, the
//! newest of each, so that a purge hides no flush. A stream is read from its beginning, or from the newest set before the time that is asked for:
//! only there is it known where a command begins, and for which database. Where one command is looked for, what lies between two such places is
//! read at once, the newest first: bytes of a slice alone do not tell a command from a value that looks like one.

use std::collections::BTreeSet;

use futures::StreamExt as _;
use mainstay_engine::ReplicationPoint;
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{ChainId, ErrorKind, Result, ResultExt, Timestamp};
use mainstay_rdb::stream::{Command, Cutter, Word};
use mainstay_repository::{Chain, ChainReason, Repository};
use serde::Serialize;

use super::log::{BaseSet, ReplicationLog, WayPart, pieces, sets, slices_of};
use super::ranges::last_time;
use super::seek::{Sought, Wanted};
use crate::recoverable::SLICES_MISSING;

/// A command that removes so many keys at once is told.
const REMOVED_COUNT_MIN: u64 = 100;

/// How many flushes, and how many removals, are told at most: the newest.
const FOUND_COUNT_MAX: usize = 1000;

/// What is searched.
#[derive(Debug, Clone, Default)]
pub struct EmptyingSearch {
    /// From this time on.
    pub since: Option<Timestamp>,
}

/// A command after which a whole lot is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Emptying {
    /// The position after it: a restore `--before` this leaves it out.
    pub at: u64,
    /// When it came.
    pub time: Option<Timestamp>,
    /// `FLUSHALL`, `FLUSHDB`, `SWAPDB`, `DEL` or `UNLINK`.
    pub command: String,
    /// Which databases.
    #[serde(flatten)]
    pub emptied: Emptied,
    /// How many keys it names, for commands that name some.
    pub keys: Option<u64>,
    /// The stream.
    pub id: String,
    /// The server whose stream it is.
    pub server: String,
    /// The environment it was captured in.
    pub environment: String,
}

/// What a command is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "emptied", rename_all = "snake_case")]
pub enum Emptied {
    /// Every database.
    All,
    /// One.
    Database {
        /// Its number.
        database: u64,
    },
    /// One, and the stream does not tell which.
    Unknown,
    /// Two, which took each other's place.
    Swapped {
        /// Their numbers.
        databases: (u64, u64),
    },
}

impl Emptying {
    /// Whether it empties whole databases.
    pub fn is_flush(&self) -> bool {
        self.command == "FLUSHALL" || self.command == "FLUSHDB"
    }
}

/// What a search found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct EmptyingReport {
    /// Oldest first.
    pub found: Vec<Emptying>,
    /// How many older ones are left out.
    pub left_out: u64,
    /// Bytes that were searched.
    pub bytes: u64,
    /// Chains that cannot be searched to their end, with the reason.
    pub unsearched: Vec<(ChainId, String)>,
}

/// Searches captured streams.
///
/// # Errors
/// The store's.
pub async fn search(
    repository: &Repository,
    asked: &EmptyingSearch,
    observer: &dyn Observer,
) -> Result<EmptyingReport> {
    observer.phase("search the stream");
    let log = ReplicationLog::read(repository).await?;
    let search = Search { repository, observer, sets: sets(repository).await?, log, since: asked.since };
    let mut report = EmptyingReport::default();
    let (mut flushes, mut removals) = (Newest::default(), Newest::default());
    for (chain, from) in search.beginnings(None) {
        let Some(way) = search.way(&from).await? else { continue };
        let mut take = |found: Emptying| match found.keys {
            Some(_) => removals.push(found),
            None => flushes.push(found),
        };
        if let Err(fault) = search.along(&way, &mut take, &mut report.bytes).await? {
            report.unsearched.push((chain, fault));
        }
        report.unsearched.extend(way.holes());
    }
    report.left_out = flushes.left_out + removals.left_out;
    report.found = [flushes.sorted(), removals.sorted()].concat();
    report.found.sort_by_key(|found| found.time);
    Ok(report)
}

/// One command that was looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SoughtCommand {
    /// The command.
    pub(crate) found: Option<Emptying>,
    /// Chains that may hold a newer one and cannot be searched to their end, with the reason.
    pub(crate) unsearched: Vec<(ChainId, String)>,
}

/// Looks for the newest flush in the streams that were stored under these names of `servers`, or for the command that ends at the offset `at`.
/// What is older than the place that it lies behind is not read.
///
/// # Errors
/// The store's.
pub(crate) async fn newest(
    repository: &Repository,
    servers: &BTreeSet<String>,
    at: Option<u64>,
    observer: &dyn Observer,
) -> Result<SoughtCommand> {
    observer.phase("search the stream");
    let log = ReplicationLog::read(repository).await?;
    let search = Search { repository, observer, sets: sets(repository).await?, log, since: None };
    let is_meant = |found: &Emptying| at.map_or(found.is_flush(), |at| found.at == at);
    let mut sought = SoughtCommand::default();
    for (chain, from) in search.beginnings(Some(servers)).into_iter().rev() {
        let way = search.whole(&from);
        let known = sought.found.as_ref();
        // A stream that was begun earlier may have been captured for longer, where two were at the same time.
        if known.is_some() && (at.is_some() || search.ended_before(&way, known).await) {
            continue;
        }
        sought.unsearched.extend(way.holes());
        let mut bytes = 0;
        for segment in search.segments(way) {
            let Some(segment) = segment.up_to(at) else { continue };
            let mut last = None;
            let mut take = |found: Emptying| {
                if is_meant(&found) {
                    last = Some(found);
                }
            };
            let searched = search.along(&segment, &mut take, &mut bytes).await?;
            let is_torn = searched.is_err();
            sought.unsearched.extend(searched.err().map(|fault| (chain.clone(), fault)));
            let is_found = last.is_some();
            if let Some(found) = last.filter(|found| known_time(&sought) < Some(found.time)) {
                sought.found = Some(found);
            }
            if is_found || is_torn {
                break;
            }
        }
    }
    Ok(sought)
}

/// When what is known by now came, if anything is.
fn known_time(sought: &SoughtCommand) -> Option<Option<Timestamp>> {
    sought.found.as_ref().map(|found| found.time)
}

/// The newest of what was found.
#[derive(Debug, Default)]
struct Newest {
    found: Vec<Emptying>,
    left_out: u64,
}

impl Newest {
    fn push(&mut self, found: Emptying) {
        self.found.push(found);
        // Those of one stream come in order, those of several do not.
        if self.found.len() >= 2 * FOUND_COUNT_MAX {
            self.cut();
        }
    }

    fn cut(&mut self) {
        self.found.sort_by_key(|found| found.time);
        let surplus = self.found.len().saturating_sub(FOUND_COUNT_MAX);
        self.found.drain(..surplus);
        self.left_out += surplus as u64;
    }

    fn sorted(mut self) -> Vec<Emptying> {
        self.cut();
        self.found
    }
}

/// A search under way.
struct Search<'a> {
    repository: &'a Repository,
    observer: &'a dyn Observer,
    sets: Vec<BaseSet>,
    log: ReplicationLog,
    since: Option<Timestamp>,
}

/// What is read of a stream.
#[derive(Debug, Clone)]
struct SearchedWay {
    parts: Vec<WayPart>,
    /// Selected at its beginning, where that is known.
    database: Option<u64>,
    /// Up to here.
    through: u64,
}

impl SearchedWay {
    fn of(parts: Vec<WayPart>, database: Option<u64>) -> Self {
        let through = parts.last().map_or(0, |part| part.through);
        Self { parts, database, through }
    }

    fn after(&self) -> u64 {
        self.parts.first().map_or(0, |part| part.after)
    }

    /// Where it ends: two that end alike are of one stream.
    fn end(&self) -> Option<(&ChainId, u64)> {
        self.parts.last().map(|part| (part.chain.id(), part.through))
    }

    /// As much of it as a command needs that ends `at` an offset, all where none is named; `None` where that lies elsewhere.
    fn up_to(self, at: Option<u64>) -> Option<Self> {
        let Some(at) = at else { return Some(self) };
        (self.after() < at && at <= self.through).then_some(Self { through: at, ..self })
    }

    /// Its chains that have lost slices.
    fn holes(&self) -> Vec<(ChainId, String)> {
        let holed = self.parts.iter().filter(|part| part.chain.runs().len() > 1);
        holed.map(|part| (part.chain.id().clone(), SLICES_MISSING.to_owned())).collect()
    }
}

impl Search<'_> {
    /// Where streams begin that go on from no other, of these servers alone where some are named, oldest first.
    fn beginnings(&self, servers: Option<&BTreeSet<String>>) -> Vec<(ChainId, ReplicationPoint)> {
        let one = |chain: &Chain| {
            let description = chain.description();
            let is_asked = servers.is_none_or(|servers| servers.contains(&description.server));
            // Those that go on from another are on its way.
            if !is_asked || description.why == ChainReason::Timeline {
                return None;
            }
            let id = description.replication.as_ref()?.id.clone();
            Some((chain.id().clone(), ReplicationPoint { id, offset: description.after.0 }))
        };
        self.log.chains.iter().filter_map(one).collect()
    }

    /// The whole way from `from`.
    fn whole(&self, from: &ReplicationPoint) -> SearchedWay {
        SearchedWay::of(self.log.way(from), self.database(from))
    }

    /// Whether the last byte of a way came before what is `known`.
    async fn ended_before(&self, way: &SearchedWay, known: Option<&Emptying>) -> bool {
        let (Some(last), Some(time)) = (way.parts.last(), known.and_then(|known| known.time)) else {
            return false;
        };
        last_time(self.repository, &last.chain).await.is_some_and(|ended| ended < time)
    }

    /// A way in pieces that can each be read by itself, the newest first: from a set that shows a place on it, or its beginning, up to the next.
    fn segments(&self, whole: SearchedWay) -> Vec<SearchedWay> {
        let is_on_way = |set: &&BaseSet| {
            set.contents.stream_database.is_some() && whole.parts.iter().any(|part| part.has(&set.at))
        };
        let mut begun: Vec<SearchedWay> = { self.sets.iter().filter(is_on_way) }
            .map(|set| self.whole(&set.at))
            .filter(|way| way.end() == whole.end() && way.after() > whole.after())
            .collect();
        begun.sort_by_key(|way| std::cmp::Reverse(way.after()));
        begun.push(whole);
        let mut through = u64::MAX;
        for way in &mut begun {
            way.through = way.through.min(through);
            through = way.after();
        }
        begun.retain(|way| way.after() < way.through);
        begun
    }

    /// The way from `from`, without what came too early and need not be read; `None` when all of it came too early.
    async fn way(&self, from: &ReplicationPoint) -> Result<Option<SearchedWay>> {
        let whole = self.whole(from);
        let Some(since) = self.since else { return Ok(Some(whole)) };
        let limit = match Wanted::before(since).seek(self.repository, &slices_of(&whole.parts)).await {
            // Told where it is read.
            Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(Some(whole)),
            Ok(Sought::Beyond(_)) => return Ok(None),
            Ok(Sought::Within { limit, .. }) => limit,
            Err(error) => return Err(error),
        };
        let is_early =
            |set: &&BaseSet| set.at.offset <= limit && whole.parts.iter().any(|part| part.has(&set.at));
        let Some(set) = self.sets.iter().filter(is_early).max_by_key(|set| set.at.offset) else {
            return Ok(Some(whole));
        };
        let later = self.whole(&set.at);
        Ok(Some(if later.end() == whole.end() { later } else { whole }))
    }

    /// The database that is selected at a position, where a set tells it.
    fn database(&self, at: &ReplicationPoint) -> Option<u64> {
        self.sets.iter().find(|set| set.at == *at).and_then(|set| set.contents.stream_database)
    }

    /// Searches one way and gives what is found, in its order, to `take`; tells what keeps it from going on.
    async fn along(
        &self,
        way: &SearchedWay,
        take: &mut (dyn FnMut(Emptying) + Send),
        bytes: &mut u64,
    ) -> Result<Result<(), String>> {
        let Some(first) = way.parts.first() else { return Ok(Ok(())) };
        self.observer.expect(Work { items: 0, bytes: way.through.saturating_sub(first.after) });
        let mut cutter = Cutter::new(first.after, way.database);
        let mut pieces = std::pin::pin!(pieces(self.repository, &way.parts, way.through));
        while let Some(piece) = pieces.next().await {
            let piece = match piece {
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    return Ok(Err(error.message().to_owned()));
                }
                piece => piece.context("search the stream")?,
            };
            let part = way.parts.iter().rfind(|part| part.after <= piece.after).unwrap_or(first);
            let fed = cutter.feed(&piece.bytes, |command| {
                let Some((emptied, keys)) = empties(command) else { return };
                let arrival = piece.arrivals.iter().find(|arrival| arrival.through >= command.end);
                let time = arrival.and_then(|arrival| Timestamp::from_millisecond(arrival.at_ms).ok());
                if self.since.is_some_and(|since| time.is_some_and(|time| time < since)) {
                    return;
                }
                take(Emptying {
                    at: command.end,
                    time,
                    command: command.to_string(),
                    emptied,
                    keys,
                    id: part.stream().to_owned(),
                    server: part.server().to_owned(),
                    environment: part.chain.description().environment.clone(),
                });
            });
            *bytes += piece.bytes.len() as u64;
            self.observer.advance(Work { items: 0, bytes: piece.bytes.len() as u64 });
            if let Err(fault) = fed {
                return Ok(Err(fault.to_string()));
            }
        }
        Ok(Ok(()))
    }
}

/// What a command is about, and the number of keys that it names, when after it a whole lot is gone.
fn empties(command: &Command<'_>) -> Option<(Emptied, Option<u64>)> {
    let keys = command.count - 1;
    let selected = command.database.map_or(Emptied::Unknown, |database| Emptied::Database { database });
    let number = |at: usize| {
        let word = command.words.get(at).and_then(Word::whole)?;
        std::str::from_utf8(word).ok()?.parse().ok()
    };
    match () {
        () if command.is("flushall") => Some((Emptied::All, None)),
        () if command.is("flushdb") => Some((selected, None)),
        () if command.is("swapdb") => {
            let swapped = number(1).zip(number(2));
            Some((swapped.map_or(Emptied::Unknown, |databases| Emptied::Swapped { databases }), None))
        }
        () if (command.is("del") || command.is("unlink")) && keys >= REMOVED_COUNT_MIN => {
            Some((selected, Some(keys)))
        }
        () => None,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn found(second: i64) -> Emptying {
        Emptying {
            at: u64::try_from(second).unwrap(),
            time: Some(Timestamp::from_second(second).unwrap()),
            command: "FLUSHALL".to_owned(),
            emptied: Emptied::All,
            keys: None,
            id: String::new(),
            server: String::new(),
            environment: String::new(),
        }
    }

    #[test]
    fn the_newest_are_kept_whatever_the_order_of_streams() {
        let mut newest = Newest::default();
        for second in (5_000..8_000).chain(0..3_000) {
            newest.push(found(second));
        }
        assert!(newest.found.len() < 2 * FOUND_COUNT_MAX, "it does not grow");
        let kept: Vec<u64> = newest.sorted().iter().map(|found| found.at).collect();
        assert_eq!(kept, (7_000..8_000).collect::<Vec<u64>>());
    }

    #[test]
    fn what_a_command_empties_is_told_or_that_it_is_not_known() {
        let command = |words: &[&str]| {
            let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
            words.iter().for_each(|word| {
                bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
            });
            bytes
        };
        let told = |database: Option<u64>, words: &[&str]| {
            let mut told = None;
            Cutter::new(0, database).feed(&command(words), |command| told = empties(command)).unwrap();
            told
        };
        let many = [&["DEL"][..], &["k"; 100]].concat();
        assert_eq!(told(None, &["FLUSHALL"]), Some((Emptied::All, None)));
        assert_eq!(told(None, &["FLUSHDB"]), Some((Emptied::Unknown, None)));
        assert_eq!(told(Some(3), &["flushdb", "ASYNC"]), Some((Emptied::Database { database: 3 }, None)));
        assert_eq!(
            told(Some(3), &["SWAPDB", "0", "7"]),
            Some((Emptied::Swapped { databases: (0, 7) }, None))
        );
        assert_eq!(told(Some(0), &many), Some((Emptied::Database { database: 0 }, Some(100))));
        assert_eq!((told(Some(0), &many[1..]), told(None, &["DEL", "k"])), (None, None));
    }
}
