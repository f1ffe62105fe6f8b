//! What emptied a database: the commands in the captured stream after which a whole lot is gone.
//!
//! Names of commands and numbers are told, never keys: they may be somebody's data. Flushes and removals of many keys are kept apart, the
//! newest of each, so that a purge hides no flush. A stream is read from its beginning, or from the newest set before the time that is asked for:
//! only there is it known where a command begins, and for which database.

use std::collections::BTreeSet;

use futures::StreamExt as _;
use mainstay_engine::ReplicationPoint;
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{ChainId, ErrorKind, Result, ResultExt, Timestamp};
use mainstay_rdb::stream::{Command, Cutter, Word};
use mainstay_repository::{ChainReason, Repository};
use serde::Serialize;

use super::log::{BaseSet, ReplicationLog, WayPart, pieces, sets, slices_of};
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
    /// The streams that were stored under these names of servers; `None` for all.
    pub servers: Option<BTreeSet<String>>,
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
    for chain in &search.log.chains {
        let description = chain.description();
        let Some(replication) = &description.replication else { continue };
        let is_asked = asked.servers.as_ref().is_none_or(|servers| servers.contains(&description.server));
        // Those that go on from another are on its way.
        if !is_asked || description.why == ChainReason::Timeline {
            continue;
        }
        let from = ReplicationPoint { id: replication.id.clone(), offset: description.after.0 };
        let Some(way) = search.way(&from).await? else { continue };
        let mut found = [&mut flushes, &mut removals];
        if let Err(fault) = search.along(&way, &mut found, &mut report.bytes).await? {
            report.unsearched.push((chain.id().clone(), fault));
        }
        for part in way.parts.iter().filter(|part| part.chain.runs().len() > 1) {
            report.unsearched.push((part.chain.id().clone(), SLICES_MISSING.to_owned()));
        }
    }
    report.left_out = flushes.left_out + removals.left_out;
    report.found = [flushes.sorted(), removals.sorted()].concat();
    report.found.sort_by_key(|found| found.time);
    Ok(report)
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
struct SearchedWay {
    parts: Vec<WayPart>,
    /// Selected at its beginning, where that is known.
    database: Option<u64>,
}

impl Search<'_> {
    /// The way from `from`, without what came too early and need not be read; `None` when all of it came too early.
    async fn way(&self, from: &ReplicationPoint) -> Result<Option<SearchedWay>> {
        let whole = SearchedWay { parts: self.log.way(from), database: self.database(from) };
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
        let parts = self.log.way(&set.at);
        let end = |parts: &[WayPart]| parts.last().map(|part| (part.chain.id().clone(), part.through));
        match end(&parts) == end(&whole.parts) {
            true => Ok(Some(SearchedWay { parts, database: self.database(&set.at) })),
            false => Ok(Some(whole)),
        }
    }

    /// The database that is selected at a position, where a set tells it.
    fn database(&self, at: &ReplicationPoint) -> Option<u64> {
        self.sets.iter().find(|set| set.at == *at).and_then(|set| set.contents.stream_database)
    }

    /// Searches one way, flushes and removals; tells what keeps it from going on.
    async fn along(
        &self,
        way: &SearchedWay,
        [flushes, removals]: &mut [&mut Newest; 2],
        bytes: &mut u64,
    ) -> Result<Result<(), String>> {
        let (Some(first), Some(last)) = (way.parts.first(), way.parts.last()) else { return Ok(Ok(())) };
        self.observer.expect(Work { items: 0, bytes: last.through - first.after });
        let mut cutter = Cutter::new(first.after, way.database);
        let mut pieces = std::pin::pin!(pieces(self.repository, &way.parts, last.through));
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
                let found = Emptying {
                    at: command.end,
                    time,
                    command: command.to_string(),
                    emptied,
                    keys,
                    id: part.stream().to_owned(),
                    server: part.server().to_owned(),
                    environment: part.chain.description().environment.clone(),
                };
                if keys.is_some() { removals.push(found) } else { flushes.push(found) }
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
