//! From a moment to a position: the set to begin with, the way from there, and the boundary at which to stop.

use futures::StreamExt as _;
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{Error, ErrorKind, Result, ResultExt, Timestamp};
use mainstay_rdb::stream::Cutter;
use mainstay_repository::{Arrival, Repository, Set};

use super::log::{BaseSet, ReplicationLog, WayPart, WaySlice, pieces, read_slice, sets, slices_of};

/// Bytes that came this much later than they may have been recorded make a time uncertain, in milliseconds.
const LATE_MS: i64 = 100;

/// A moment of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicationTarget {
    /// The end of what is stored.
    Latest,
    /// A replication offset.
    Offset(u64),
    /// A time, to the millisecond.
    Time(Timestamp),
}

/// What is wished for.
#[derive(Debug)]
pub struct ReplicationWish {
    /// The set to begin with; the newest that leads there when none is named.
    pub set: Option<Set>,
    /// The moment.
    pub target: ReplicationTarget,
    /// Whether what ends exactly there belongs to it.
    pub inclusive: bool,
    /// The server that is meant where several were captured and none is named: this one, if it was.
    pub server: String,
    /// The stream that an offset is of, where that is known: after a history was lost, offsets begin anew.
    pub stream: Option<String>,
}

/// A moment that can be restored.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) base: BaseSet,
    pub(crate) way: Vec<WayPart>,
    pub(crate) survey: Survey,
}

/// What lies between a set and a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// The last boundary that belongs to the moment.
    pub(crate) boundary: u64,
    /// When it was reached, in milliseconds since 1970; `None` when there is nothing behind the set.
    pub(crate) at_ms: Option<i64>,
    /// Commands up to there.
    pub(crate) commands: u64,
    /// Of these, those that emptied a database.
    pub(crate) flushes: u64,
}

/// A moment of which the log knows too little to be exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Late {
    pub(crate) since_ms: i64,
    pub(crate) at_ms: i64,
}

/// Finds the way to what is wished for. Reads a few slices where the moment is a time, and all behind the set to find the boundary.
///
/// # Errors
/// `Precondition` when no set leads there; `Corrupt` when the stream cannot be read; the store's.
pub(crate) async fn find(
    repository: &Repository,
    wish: &ReplicationWish,
    observer: &dyn Observer,
) -> Result<(Found, Option<Late>)> {
    observer.phase("look for the moment");
    let log = ReplicationLog::read(repository).await?;
    let with_way = |base: BaseSet| {
        let way = log.way(&base.at);
        (base, way)
    };
    let mut candidates: Vec<_> = sets(repository).await?.into_iter().map(with_way).collect();
    match &wish.set {
        Some(named) => candidates.retain(|(base, _)| base.set.id() == named.id()),
        None => {
            // A set that no stream follows, such as one of the server to be filled, leads to no moment.
            candidates.retain(|(_, way)| !way.is_empty());
            let is_own =
                |(base, _): &(BaseSet, Vec<WayPart>)| base.contents.server.fingerprint == wish.server;
            if candidates.iter().any(is_own) {
                candidates.retain(is_own);
            }
        }
    }
    if let Some(stream) = &wish.stream {
        let is_of =
            |part: &WayPart| part.chain.description().replication.as_ref().is_some_and(|it| it.id == *stream);
        candidates.retain(|(_, way)| way.iter().any(is_of));
    }
    let mut nearest: Option<Error> = None;
    for (base, way) in candidates.into_iter().rev() {
        match limit(repository, &base, &way, wish).await? {
            Limit::At(limit, late) => {
                let survey = survey(repository, base.at.offset, &way, limit, observer).await?;
                return Ok((Found { base, way, survey }, late));
            }
            Limit::Before => {}
            Limit::Beyond(error) => {
                nearest.get_or_insert(error);
            }
        }
    }
    let error = nearest.unwrap_or_else(|| {
        Error::new(ErrorKind::Precondition, "no backup set of redis leads to that moment")
            .with_hint("`mainstay backup list --store redis` shows which moments can be restored")
    });
    Err(error.with_state("nothing was changed"))
}

/// Where a moment lies, seen from a set.
enum Limit {
    /// Up to this position.
    At(u64, Option<Late>),
    /// The set was taken after it.
    Before,
    /// The stream behind the set ends before it.
    Beyond(Error),
}

async fn limit(
    repository: &Repository,
    base: &BaseSet,
    way: &[WayPart],
    wish: &ReplicationWish,
) -> Result<Limit> {
    let from = base.at.offset;
    let end = way.last().map_or(from, |part| part.through);
    let beyond = |what: String| {
        let error = Error::new(ErrorKind::Precondition, what);
        Limit::Beyond(error.with_hint("restore `--to latest`, or capture further: `mainstay capture redis`"))
    };
    match wish.target {
        ReplicationTarget::Latest => Ok(Limit::At(end, None)),
        ReplicationTarget::Offset(offset) => {
            let last = if wish.inclusive { offset } else { offset.saturating_sub(1) };
            Ok(match () {
                () if last < from => Limit::Before,
                () if offset > end => {
                    beyond(format!("the stream is stored up to offset {end}, not {offset}"))
                }
                () => Limit::At(last, None),
            })
        }
        ReplicationTarget::Time(time) => {
            let wanted = Wanted { ms: time.as_millisecond(), inclusive: wish.inclusive };
            if base.set.manifest().begun_at > time {
                return Ok(Limit::Before);
            }
            let slices = slices_of(way);
            match wanted.seek(repository, &slices).await? {
                Sought::Within { limit, .. } if limit < from => Ok(Limit::Before),
                Sought::Within { limit, next, is_first } => {
                    // Nobody knows the moment of the set itself to the millisecond.
                    let begun = base.set.manifest().begun_at.as_millisecond();
                    let shown = match next.since_ms > begun {
                        true => next.since_ms,
                        false => base.set.manifest().completed_at.as_millisecond(),
                    };
                    if is_first && limit == from && wanted.ms < shown {
                        return Ok(Limit::Before);
                    }
                    let is_late = next.since_ms < wanted.ms && next.at_ms - next.since_ms > LATE_MS;
                    let late = is_late.then_some(Late { since_ms: next.since_ms, at_ms: next.at_ms });
                    Ok(Limit::At(limit, late))
                }
                Sought::Beyond(last) => {
                    let known = last.and_then(|ms| Timestamp::from_millisecond(ms).ok());
                    let known = known.unwrap_or(base.set.manifest().completed_at);
                    Ok(beyond(format!("the stream is stored up to {known}, not {time}")))
                }
            }
        }
    }
}

/// A time that is looked for.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    ms: i64,
    inclusive: bool,
}

/// Where a time was found.
enum Sought {
    Within {
        /// The position of the last byte that belongs to it.
        limit: u64,
        /// What came next.
        next: Arrival,
        /// Whether that is the first of all.
        is_first: bool,
    },
    /// Behind everything, the last of which came then.
    Beyond(Option<i64>),
}

impl Wanted {
    /// Whether what came then belongs to it.
    fn has(self, arrival: &Arrival) -> bool {
        arrival.at_ms < self.ms || self.inclusive && arrival.at_ms == self.ms
    }

    /// Halves the slices, reading one each time.
    async fn seek(self, repository: &Repository, slices: &[WaySlice]) -> Result<Sought> {
        let (mut low, mut high) = (0, slices.len());
        let mut last = None;
        while low < high {
            let middle = low + (high - low) / 2;
            let arrivals = arrivals(repository, &slices[middle]).await?;
            match arrivals.last() {
                Some(end) if self.has(end) => {
                    low = middle + 1;
                    last = last.max(Some(end.at_ms));
                }
                _ => high = middle,
            }
        }
        let Some(slice) = slices.get(low) else { return Ok(Sought::Beyond(last)) };
        let arrivals = arrivals(repository, slice).await?;
        let index = arrivals.iter().position(|arrival| !self.has(arrival)).unwrap_or(0);
        let limit = match index.checked_sub(1) {
            Some(before) => arrivals[before].through,
            None => slice.slice.after.0,
        };
        let Some(next) = arrivals.get(index).copied() else { return Ok(Sought::Beyond(last)) };
        let is_first = low == 0 && limit <= slice.after;
        Ok(Sought::Within { limit: limit.min(slice.through), next, is_first })
    }
}

async fn arrivals(repository: &Repository, slice: &WaySlice) -> Result<Vec<Arrival>> {
    Ok(read_slice(repository, &slice.chain, &slice.slice).await?.1)
}

/// Cuts the stream behind `from` up to `limit` into commands.
///
/// # Errors
/// `Corrupt` when it is none, or ends before.
pub(crate) async fn survey(
    repository: &Repository,
    from: u64,
    way: &[WayPart],
    limit: u64,
    observer: &dyn Observer,
) -> Result<Survey> {
    observer.phase("read the stream");
    observer.expect(Work { items: 0, bytes: limit.saturating_sub(from) });
    let mut cutter = Cutter::new(from, None);
    let mut survey = Survey { boundary: from, ..Survey::default() };
    let mut arrived: Vec<(u64, i64)> = Vec::new();
    let mut pieces = std::pin::pin!(pieces(repository, way, limit));
    while let Some(piece) = pieces.next().await {
        let piece = piece.context("read the stream")?;
        if piece.after != cutter.position() {
            return Err(missing(cutter.position(), piece.after));
        }
        cutter
            .feed(&piece.bytes, |command| {
                survey.commands += 1;
                survey.flushes += u64::from(command.is("flushall") || command.is("flushdb"));
            })
            .map_err(|fault| {
                Error::new(ErrorKind::Corrupt, format!("what is stored is no replication stream: {fault}"))
                    .with_hint("`mainstay backup verify --log` tells whether it was damaged in the store")
            })?;
        observer.advance(Work { items: 0, bytes: piece.bytes.len() as u64 });
        // The boundary may lie in an earlier piece.
        let boundary = cutter.boundary();
        arrived.retain(|(through, _)| *through >= boundary);
        arrived.extend(piece.arrivals.iter().map(|arrival| (arrival.through, arrival.at_ms)));
        let reached = arrived.iter().find(|(through, _)| *through >= boundary && boundary > from);
        survey.at_ms = reached.map(|(_, at_ms)| *at_ms).or(survey.at_ms);
    }
    if cutter.position() < limit {
        return Err(missing(cutter.position(), limit));
    }
    survey.boundary = cutter.boundary();
    Ok(survey)
}

fn missing(from: u64, until: u64) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("the stream is missing between offsets {from} and {until} in the repository"),
    )
    .with_hint("`mainstay backup verify --log` names what is missing")
}
