//! From a moment to a position: the set to begin with, the way from there, and the boundary at which to stop.

use futures::StreamExt as _;
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{Error, ErrorKind, Result, ResultExt, StoreKind, Timestamp};
use mainstay_rdb::stream::Cutter;
use mainstay_repository::{Arrival, Repository, Set};

use super::log::{BaseSet, ReplicationLog, WayPart, WaySlice, pieces, read_slice, sets, slices_of};
use crate::keyfile::KeyFileSetContents;

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
    /// The server that is meant where no set is named, if it was captured. Of several others none is chosen.
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
/// `Precondition` when no set leads there; `Usage` when it could be of several servers or histories; `Corrupt` when the stream cannot be
/// read; the store's.
pub(crate) async fn find(
    repository: &Repository,
    wish: &ReplicationWish,
    observer: &dyn Observer,
) -> Result<(Found, Option<Late>)> {
    observer.phase("look for the moment");
    let log = ReplicationLog::read(repository).await?;
    let with_way = |base: BaseSet| {
        let way = log.way(&base.at);
        Candidate { base, way }
    };
    let mut candidates: Vec<Candidate> = sets(repository).await?.into_iter().map(with_way).collect();
    match &wish.set {
        Some(named) => candidates.retain(|candidate| candidate.base.set.id() == named.id()),
        None => {
            // A set that no stream follows, such as one of the server to be filled, leads to no moment.
            candidates.retain(|candidate| !candidate.way.is_empty());
            one_server(&mut candidates, &wish.server, Candidate::origin)?;
        }
    }
    if let Some(stream) = &wish.stream {
        candidates.retain(|candidate| candidate.way.iter().any(|part| part.stream() == stream));
    }
    let mut nearest = None;
    let mut reached: Option<(Candidate, u64, Option<Late>)> = None;
    for candidate in candidates.into_iter().rev() {
        match limit(repository, &candidate.base, &candidate.way, wish).await? {
            Limit::At(limit, late) => match &reached {
                None => reached = Some((candidate, limit, late)),
                Some((newer, ..)) if !candidate.shares_history(newer) => {
                    return Err(two_histories(&candidate, newer));
                }
                Some(_) => {}
            },
            Limit::Before => {}
            Limit::Beyond(error) => {
                nearest.get_or_insert(error);
            }
        }
        // A time is of one history, and the newest set is the nearest.
        if reached.is_some() && !matches!(wish.target, ReplicationTarget::Offset(_)) {
            break;
        }
    }
    if let Some((Candidate { base, way }, limit, late)) = reached {
        let survey = survey(repository, base.at.offset, &way, limit, observer).await?;
        return Ok((Found { base, way, survey }, late));
    }
    let error = nearest.unwrap_or_else(|| {
        Error::new(ErrorKind::Precondition, "no backup set of redis leads to that moment")
            .with_hint("`mainstay backup list --store redis` shows which moments can be restored")
    });
    Err(error.with_state("nothing was changed"))
}

/// A set, and how far it leads.
struct Candidate {
    base: BaseSet,
    way: Vec<WayPart>,
}

impl Candidate {
    fn origin(&self) -> Origin<'_> {
        Origin {
            server: self.way.first().map_or(self.base.contents.server.fingerprint.as_str(), WayPart::server),
            set: &self.base.set,
            contents: &self.base.contents,
        }
    }

    /// Whether offsets of both mean the same.
    fn shares_history(&self, other: &Self) -> bool {
        self.way.iter().any(|part| other.way.iter().any(|others| others.stream() == part.stream()))
    }
}

fn two_histories(older: &Candidate, newer: &Candidate) -> Error {
    let (older, newer) = (older.base.set.id(), newer.base.set.id());
    Error::new(
        ErrorKind::Usage,
        format!(
            "the server has two histories with that offset: one behind set {older}, one behind set {newer}"
        ),
    )
    .with_state("nothing was changed")
    .with_hint(format!("name the set: `mainstay restore plan {newer} --store redis --to …`, or a time"))
}

/// Where a set comes from.
struct Origin<'s> {
    /// The server under whose name its stream is stored, else its own.
    server: &'s str,
    set: &'s Set,
    contents: &'s KeyFileSetContents,
}

impl Origin<'_> {
    /// Whether it is the server that is called so: a server that nobody has marked is called otherwise after a restart.
    fn is_of(&self, server: &str) -> bool {
        self.server == server || self.contents.server.fingerprint == server
    }

    /// Whether both come from one server, as far as is known: one of the same place in the same environment is the same.
    fn is_kin(&self, other: &Self) -> bool {
        let place =
            |origin: &Self| (origin.contents.environment.clone(), origin.contents.server.address.clone());
        self.server == other.server || place(self) == place(other)
    }
}

/// Leaves those of one server, oldest first: of the one that is called `server` if there are any, else of the only one.
///
/// # Errors
/// `Usage`, naming them, when there are several.
fn one_server<T>(sets: &mut Vec<T>, server: &str, origin: impl Fn(&T) -> Origin<'_>) -> Result<()> {
    // Each group has the indices of its sets.
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (index, set) in sets.iter().enumerate() {
        let is_kin =
            |group: &Vec<usize>| group.iter().any(|other| origin(set).is_kin(&origin(&sets[*other])));
        let (kin, others): (Vec<_>, Vec<_>) = groups.into_iter().partition(is_kin);
        groups = others;
        groups.push(kin.into_iter().flatten().chain([index]).collect());
    }
    let is_own = |group: &Vec<usize>| group.iter().any(|index| origin(&sets[*index]).is_of(server));
    let meant = match (groups.iter().find(|group| is_own(group)), groups.as_slice()) {
        (Some(own), _) => own.clone(),
        (None, [only]) => only.clone(),
        (None, []) => Vec::new(),
        (None, several) => {
            let newest = several.iter().filter_map(|group| group.iter().max());
            return Err(several_servers(newest.map(|index| origin(&sets[*index])).collect()));
        }
    };
    let mut index = 0..sets.len();
    sets.retain(|_| index.next().is_some_and(|index| meant.contains(&index)));
    Ok(())
}

fn several_servers(newest: Vec<Origin<'_>>) -> Error {
    let one = |origin: &Origin<'_>| {
        let (contents, set) = (origin.contents, origin.set.id());
        format!("set {set} of {} at {}", contents.environment, contents.server.address)
    };
    let all: Vec<String> = newest.iter().map(one).collect();
    let example = newest.first().map_or_else(String::new, |origin| origin.set.id().to_string());
    Error::new(
        ErrorKind::Usage,
        format!("several servers were backed up, and none is named: {}", all.join("; ")),
    )
    .with_state("nothing was changed")
    .with_hint(format!(
        "name a set of the one that is meant: `mainstay restore plan {example} --store redis …`"
    ))
}

/// The newest set of keys: of the server that is called `server` if there are any, else of the only one. `None` when there is none.
///
/// # Errors
/// `Usage` when there are sets of several servers; the store's.
pub async fn newest_set(repository: &Repository, server: &str) -> Result<Option<Set>> {
    let log = ReplicationLog::read(repository).await?;
    let mut sets = Vec::new();
    for entry in repository.sets(Some(StoreKind::Redis)).await.context("list backup sets")? {
        let Ok(set) = entry.into_set() else { continue };
        let Ok(contents) = set.contents::<KeyFileSetContents>() else { continue };
        let way = contents.replication.as_ref().map_or_else(Vec::new, |at| log.way(at));
        let server =
            way.first().map_or(&contents.server.fingerprint, |part| &part.chain.description().server);
        sets.push((server.clone(), set, contents));
    }
    one_server(&mut sets, server, |(server, set, contents)| Origin { server, set, contents })?;
    Ok(sets.pop().map(|(_, set, _)| set))
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
                () if last > end => beyond(format!("the stream is stored up to offset {end}, not {offset}")),
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
pub(super) struct Wanted {
    ms: i64,
    inclusive: bool,
}

/// Where a time was found.
pub(super) enum Sought {
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
    /// What came before a time.
    pub(super) fn before(time: Timestamp) -> Self {
        Self { ms: time.as_millisecond(), inclusive: false }
    }

    /// Whether what came then belongs to it.
    fn has(self, arrival: &Arrival) -> bool {
        arrival.at_ms < self.ms || self.inclusive && arrival.at_ms == self.ms
    }

    /// Halves the slices, reading one each time.
    pub(super) async fn seek(self, repository: &Repository, slices: &[WaySlice]) -> Result<Sought> {
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
