//! The keyspace of a server that is at work: `SCAN` in small steps, and of each key what costs the server nothing to speak of.
//!
//! `SCAN`, `TYPE`, `PTTL` and `MEMORY USAGE` leave idleness and frequency of keys alone, and the connection is taken out of both reckonings
//! where the server knows how (`CLIENT NO-TOUCH`, `CLIENT NO-EVICT`). Redis answers one client at a time, so the number of keys in a step
//! follows from how long the last step took: [`Pace`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use mainstay_engine::{
    KeyKind, KeyRecord, KeyRemoval, KeyScan, KeyScanRequest, KeySweep, Keyspace, KeyspaceSize, ListedNames,
    ServerPart, SweepPlace,
};
use mainstay_guard::Permit;
use mainstay_model::{Error, ErrorKind, Result, ResultExt, StoreKind};
use redis::{Pipeline, Value, cmd};

use crate::cluster::{self, is_cluster};
use crate::config::{RedisConfig, Settings};
use crate::info::Info;
use crate::probe::{MARKER_KEY, fingerprint, read_info};
use crate::session::Session;

/// How many keys the first step is of.
const STEP_FIRST: usize = 100;
/// The fewest and the most keys of a step.
const STEP_BOUNDS: (usize, usize) = (10, 5000);
/// How many times the way to the server is measured.
const WAY_SAMPLES: usize = 5;

/// The keys of a Redis. Each scan opens a connection of its own.
#[derive(Debug)]
pub struct RedisKeyspace {
    settings: Settings,
}

impl RedisKeyspace {
    /// The keys of the server that `config` describes. Does not connect.
    ///
    /// # Errors
    /// `Config` when the URL or the CA file cannot be used.
    pub fn new(config: &RedisConfig) -> Result<Self> {
        Ok(Self { settings: Settings::resolve(config)? })
    }
}

#[async_trait]
impl Keyspace for RedisKeyspace {
    fn marker(&self) -> &'static [u8] {
        MARKER_KEY.as_bytes()
    }

    async fn databases(&self) -> Result<Vec<KeyspaceSize>> {
        let mut session = Session::open(&self.settings).await.context("connect to Redis")?;
        let reply: String =
            session.ask(cmd("INFO").arg("keyspace")).await.context("list databases of Redis")?;
        Ok(databases(&Info::parse(&reply)))
    }

    async fn part(&self) -> Result<Option<ServerPart>> {
        let mut session = Session::open(&self.settings).await.context("connect to Redis")?;
        let info = read_info(&mut session).await.context("read facts of Redis")?;
        cluster::part(&mut session, &info).await
    }

    async fn scan<'a>(&'a self, request: KeyScanRequest) -> Result<Box<dyn KeyScan + 'a>> {
        let asks_idle = request.asks_idle;
        let now = request.now;
        let listing = Listing::begin(&self.settings, request).await?;
        let mut session = watching_session(&self.settings).await?;
        let question = cmd("MEMORY").arg("USAGE").arg(MARKER_KEY).to_owned();
        let tells_bytes = session.answers(&question).await?;
        let tells_idle = asks_idle && tells_idle(&mut session).await?;
        let selected = SelectedSession::new(session);
        let describing = Describing { selected, now, tells_bytes, tells_idle, pace: listing.pace };
        Ok(Box::new(Scan { listing, describing }))
    }

    async fn sweep<'a>(
        &'a self,
        request: KeyScanRequest,
        from: Option<&SweepPlace>,
    ) -> Result<Box<dyn KeySweep + 'a>> {
        let mut listing = Listing::begin(&self.settings, request).await?;
        let mut session = Session::open(&self.settings).await.context("connect to Redis")?;
        let info = read_info(&mut session).await.context("read facts of Redis")?;
        let one_by_one = is_cluster(&info);
        let fingerprint = fingerprint(&mut session, &info).await.context("read facts of Redis")?;
        let process = info.required("run_id")?.to_owned();
        if let Some(from) = from.filter(|from| from.process == process) {
            listing.go_on(from);
        }
        let selected = SelectedSession::new(session);
        let removing = Removing { selected, pace: listing.pace, one_by_one };
        Ok(Box::new(Sweep { listing, database: 0, removing, fingerprint, process }))
    }

    async fn removal<'a>(&'a self, answer_time_max: Duration) -> Result<Box<dyn KeyRemoval + 'a>> {
        let mut session = Session::open(&self.settings).await.context("connect to Redis")?;
        let info = read_info(&mut session).await.context("read facts of Redis")?;
        if is_cluster(&info) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "a file has keys of other nodes of the cluster, too",
            )
            .with_state("nothing was changed")
            .with_hint("leave `--rdb` out: each primary lists its own keys"));
        }
        let fingerprint = fingerprint(&mut session, &info).await.context("read facts of Redis")?;
        let way = way(&mut session).await?;
        let pace = Pace { step: STEP_FIRST, way, answer_time_max };
        let selected = SelectedSession::new(session);
        let removing = Removing { selected, pace, one_by_one: false };
        Ok(Box::new(Removal { removing, fingerprint }))
    }
}

/// `db0:keys=3,expires=1,avg_ttl=0` for each database that holds keys.
pub(crate) fn databases(info: &Info) -> Vec<KeyspaceSize> {
    let one = |(name, value): (&str, &str)| {
        let database = name.strip_prefix("db")?.parse().ok()?;
        let number = |wanted: &str| {
            let fields = value.split(',').filter_map(|field| field.split_once('='));
            fields.into_iter().find(|(name, _)| *name == wanted)?.1.parse().ok()
        };
        Some(KeyspaceSize { database, keys: number("keys")?, expiring: number("expires").unwrap_or(0) })
    };
    let mut databases: Vec<KeyspaceSize> = info.fields().filter_map(one).collect();
    databases.sort_by_key(|size| size.database);
    databases
}

/// The time that a command takes which costs the server nothing: the best of some. Not `PING`, which a server that cannot save refuses.
async fn way(session: &mut Session<'_>) -> Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..WAY_SAMPLES {
        let asked = Instant::now();
        session.select_own().await?;
        best = best.min(asked.elapsed());
    }
    Ok(best)
}

/// How many keys a step may be of, so that the server is not busy with it for longer than it should.
#[derive(Debug, Clone, Copy)]
struct Pace {
    step: usize,
    /// The part of every answer's time that is the way there and back.
    way: Duration,
    answer_time_max: Duration,
}

impl Pace {
    /// Learns from a step of `keys` that took `elapsed`. Grows at most to the double, shrinks at most to the half: one answer that something
    /// else has held up does not say much.
    fn learn(&mut self, keys: usize, elapsed: Duration) {
        let busy = elapsed.saturating_sub(self.way).max(Duration::from_micros(1));
        let ratio = (self.answer_time_max.as_secs_f64() / busy.as_secs_f64()).clamp(0.5, 2.0);
        let (fewest, most) = STEP_BOUNDS;
        // A step that was not full says nothing about a fuller one.
        if ratio < 1.0 || keys >= self.step {
            self.step = ((self.step as f64 * ratio) as usize).clamp(fewest, most);
        }
    }
}

/// A connection that leaves no trace in what the server reckons of keys and clients.
async fn watching_session(settings: &Settings) -> Result<Session<'_>> {
    let mut session = Session::open(settings).await.context("connect to Redis")?;
    for mode in ["NO-TOUCH", "NO-EVICT"] {
        session.ask_if_allowed::<()>(cmd("CLIENT").arg(mode).arg("ON")).await?;
    }
    Ok(session)
}

/// A connection, and which database it is in.
pub(crate) struct SelectedSession<'a> {
    session: Session<'a>,
    database: Option<u64>,
}

impl<'a> SelectedSession<'a> {
    pub(crate) fn new(session: Session<'a>) -> Self {
        Self { session, database: None }
    }

    pub(crate) async fn of(&mut self, database: u64) -> Result<&mut Session<'a>> {
        if self.database != Some(database) {
            self.session.ask::<()>(cmd("SELECT").arg(database)).await?;
            self.database = Some(database);
        }
        Ok(&mut self.session)
    }
}

/// Names, step by step, one step ahead of those who take them.
struct Listing<'a> {
    selected: SelectedSession<'a>,
    pattern: Option<Vec<u8>>,
    /// What has not been begun.
    databases: VecDeque<u64>,
    /// The database under way and the server's cursor in it.
    place: Option<(u64, u64)>,
    pace: Pace,
    /// Names that nobody has taken yet, and where they began.
    ahead: Option<(ListedNames, (u64, u64))>,
}

impl<'a> Listing<'a> {
    async fn begin(settings: &'a Settings, request: KeyScanRequest) -> Result<Self> {
        let mut session = watching_session(settings).await?;
        let way = way(&mut session).await?;
        let pace = Pace { step: STEP_FIRST, way, answer_time_max: request.answer_time_max };
        let KeyScanRequest { databases, pattern, .. } = request;
        let selected = SelectedSession::new(session);
        Ok(Self { selected, pattern, databases: databases.into(), place: None, pace, ahead: None })
    }

    /// Passes over what lies before `from`.
    fn go_on(&mut self, from: &SweepPlace) {
        let Some(at) = self.databases.iter().position(|database| *database == from.database) else { return };
        self.databases.drain(..at);
        if from.cursor != 0 {
            self.databases.pop_front();
            self.place = Some((from.database, from.cursor));
        }
    }

    /// The next names.
    async fn next(&mut self) -> Result<Option<ListedNames>> {
        self.look_ahead().await?;
        Ok(self.ahead.take().map(|(listed, _)| listed))
    }

    /// Lists the next names, unless there are some that nobody has taken.
    async fn look_ahead(&mut self) -> Result<()> {
        if self.ahead.is_some() {
            return Ok(());
        }
        let (database, from) = match self.place {
            Some(place) => place,
            None => {
                let Some(database) = self.databases.pop_front() else { return Ok(()) };
                (database, 0)
            }
        };
        let session = self.selected.of(database).await?;
        let mut scan = cmd("SCAN");
        scan.arg(from).arg("COUNT").arg(self.pace.step);
        if let Some(pattern) = &self.pattern {
            scan.arg("MATCH").arg(pattern.as_slice());
        }
        let (asked, step) = (Instant::now(), self.pace.step);
        let (cursor, names): (u64, Vec<Vec<u8>>) = session.ask(&scan).await.context("list keys of Redis")?;
        self.pace.learn(step, asked.elapsed());
        self.place = (cursor != 0).then_some((database, cursor));
        self.ahead = Some((ListedNames { database, names }, (database, from)));
        Ok(())
    }

    /// Where the names begin that nobody has taken; `None` when there are none.
    fn untaken(&self) -> Option<(u64, u64)> {
        let ahead = self.ahead.as_ref().map(|(_, began)| *began);
        ahead.or(self.place).or_else(|| Some((*self.databases.front()?, 0)))
    }
}

struct Scan<'a> {
    listing: Listing<'a>,
    describing: Describing<'a>,
}

#[async_trait]
impl KeyScan for Scan<'_> {
    async fn names(&mut self) -> Result<Option<ListedNames>> {
        self.listing.next().await
    }

    async fn describe(&mut self, listed: &ListedNames) -> Result<Vec<KeyRecord>> {
        let described = self.describing.describe(listed);
        let (described, ()) = tokio::try_join!(described, self.listing.look_ahead())?;
        Ok(described)
    }

    fn tells_bytes(&self) -> bool {
        self.describing.tells_bytes
    }
}

struct Sweep<'a> {
    listing: Listing<'a>,
    /// That of the names told last.
    database: u64,
    removing: Removing<'a>,
    fingerprint: String,
    process: String,
}

#[async_trait]
impl KeySweep for Sweep<'_> {
    async fn next(&mut self) -> Result<Option<Vec<Vec<u8>>>> {
        let Some(ListedNames { database, names }) = self.listing.next().await? else { return Ok(None) };
        self.database = database;
        Ok(Some(names))
    }

    fn place(&self) -> Option<SweepPlace> {
        let (database, cursor) = self.listing.untaken()?;
        Some(SweepPlace { process: self.process.clone(), database, cursor })
    }

    async fn remove(&mut self, names: &[Vec<u8>], permit: &Permit) -> Result<u64> {
        permit.check("redis.purge", StoreKind::Redis, &self.fingerprint)?;
        let removed = self.removing.unlink(self.database, names);
        let (removed, ()) = tokio::try_join!(removed, self.listing.look_ahead())?;
        Ok(removed)
    }
}

/// How keys are removed.
struct Removing<'a> {
    selected: SelectedSession<'a>,
    pace: Pace,
    /// Each by a command of its own: a node of a cluster takes no command about keys of several slots.
    one_by_one: bool,
}

impl Removing<'_> {
    /// Removes keys of a database, in steps.
    async fn unlink(&mut self, database: u64, names: &[Vec<u8>]) -> Result<u64> {
        let (mut removed, mut rest) = (0, names);
        while !rest.is_empty() {
            let (step, behind) = rest.split_at(self.pace.step.min(rest.len()));
            let session = self.selected.of(database).await?;
            let asked = Instant::now();
            let gone = unlink_step(session, step, self.one_by_one).await;
            removed += gone.context("remove keys of Redis")?;
            self.pace.learn(step.len(), asked.elapsed());
            rest = behind;
        }
        Ok(removed)
    }
}

async fn unlink_step(session: &mut Session<'_>, names: &[Vec<u8>], one_by_one: bool) -> Result<u64> {
    if !one_by_one {
        return session.ask::<u64>(cmd("UNLINK").arg(names)).await;
    }
    let mut pipeline = Pipeline::with_capacity(names.len());
    for name in names {
        pipeline.cmd("UNLINK").arg(name.as_slice());
    }
    let answers = session.ask_all(&pipeline).await?;
    Ok(answers.iter().filter_map(|answer| redis::from_redis_value_ref::<u64>(answer).ok()).sum())
}

struct Removal<'a> {
    removing: Removing<'a>,
    fingerprint: String,
}

#[async_trait]
impl KeyRemoval for Removal<'_> {
    async fn remove(&mut self, database: u64, names: &[Vec<u8>], permit: &Permit) -> Result<u64> {
        permit.check("redis.purge", StoreKind::Redis, &self.fingerprint)?;
        self.removing.unlink(database, names).await
    }
}

/// How it is asked what keys are.
struct Describing<'a> {
    selected: SelectedSession<'a>,
    now: i64,
    tells_bytes: bool,
    tells_idle: bool,
    pace: Pace,
}

impl Describing<'_> {
    async fn describe(&mut self, listed: &ListedNames) -> Result<Vec<KeyRecord>> {
        let mut records = Vec::with_capacity(listed.names.len());
        let mut rest = listed.names.as_slice();
        while !rest.is_empty() {
            let (step, behind) = rest.split_at(self.pace.step.min(rest.len()));
            let described = self.describe_step(listed.database, step, &mut records).await;
            described.context("ask what keys of Redis are")?;
            rest = behind;
        }
        Ok(records)
    }

    async fn describe_step(
        &mut self,
        database: u64,
        names: &[Vec<u8>],
        records: &mut Vec<KeyRecord>,
    ) -> Result<()> {
        let questions = 2 + usize::from(self.tells_bytes) + usize::from(self.tells_idle);
        let mut pipeline = Pipeline::with_capacity(names.len() * questions);
        for name in names {
            pipeline.cmd("TYPE").arg(name.as_slice());
            pipeline.cmd("PTTL").arg(name.as_slice());
            if self.tells_bytes {
                pipeline.cmd("MEMORY").arg("USAGE").arg(name.as_slice());
            }
            if self.tells_idle {
                pipeline.cmd("OBJECT").arg("IDLETIME").arg(name.as_slice());
            }
        }
        let session = self.selected.of(database).await?;
        let asked = Instant::now();
        let answers = session.ask_all(&pipeline).await?;
        self.pace.learn(names.len(), asked.elapsed());
        for (name, answers) in names.iter().zip(answers.chunks_exact(questions)) {
            let (idle, answers) = match answers.split_last() {
                Some((idle, answers)) if self.tells_idle => (redis::from_redis_value_ref(idle).ok(), answers),
                _ => (None, answers),
            };
            let known = record(database, name, answers, self.now);
            records.extend(known.map(|known| KeyRecord { idle_seconds: idle, ..known }));
        }
        Ok(())
    }
}

/// Whether the server can tell how long a key has not been used: one that evicts by frequency keeps no time of it. A key that is not there
/// would tell nothing of that.
async fn tells_idle(session: &mut Session<'_>) -> Result<bool> {
    let info = read_info(session).await.context("read facts of Redis")?;
    let by_frequency = info.get("maxmemory_policy").is_some_and(|policy| policy.ends_with("-lfu"));
    let question = cmd("OBJECT").arg("IDLETIME").arg(MARKER_KEY).to_owned();
    Ok(!by_frequency && session.answers(&question).await?)
}

/// What the answers to `TYPE`, `PTTL` and perhaps `MEMORY USAGE` say; `None` when the key has gone meanwhile.
fn record(database: u64, name: &[u8], answers: &[Value], now: i64) -> Option<KeyRecord> {
    let kind = match redis::from_redis_value_ref::<String>(answers.first()?).ok()?.as_str() {
        "none" => return None,
        "string" => KeyKind::String,
        "list" => KeyKind::List,
        "set" => KeyKind::Set,
        "zset" => KeyKind::SortedSet,
        "hash" => KeyKind::Hash,
        "stream" => KeyKind::Stream,
        _ => KeyKind::Other,
    };
    let expires_at = match redis::from_redis_value_ref::<i64>(answers.get(1)?).ok()? {
        // -2 is a key that has gone between the two questions, -1 one that never expires.
        -2 => return None,
        left if left < 0 => None,
        left => Some(now.saturating_add(left)),
    };
    let bytes = match answers.get(2) {
        Some(answer) => Some(redis::from_redis_value_ref::<Option<u64>>(answer).ok()??),
        None => None,
    };
    let (elements, idle_seconds) = (None, None);
    Some(KeyRecord { database, name: name.to_vec(), kind, bytes, elements, expires_at, idle_seconds })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn databases_are_read_from_the_servers_own_list() {
        let info = Info::parse(
            "# Keyspace\r\ndb10:keys=7,expires=2,avg_ttl=0,subexpiry=1\r\ndb0:keys=1,expires=0,avg_ttl=0\r\nodd:keys=1\r\n",
        );
        assert_eq!(
            databases(&info),
            [
                KeyspaceSize { database: 0, keys: 1, expiring: 0 },
                KeyspaceSize { database: 10, keys: 7, expiring: 2 }
            ]
        );
    }

    #[test]
    fn the_pace_follows_the_time_the_server_is_busy() {
        let mut pace =
            Pace { step: 100, way: Duration::from_millis(5), answer_time_max: Duration::from_millis(1) };
        let mut learn = |keys, micros| {
            pace.learn(keys, Duration::from_micros(micros));
            pace.step
        };
        assert_eq!(learn(100, 5_500), 200, "half the time");
        assert_eq!(learn(200, 5_010), 400, "grows at most to the double");
        assert_eq!(learn(50, 5_010), 400, "half a step proves nothing");
        assert_eq!(learn(400, 95_000), 200, "shrinks at most to the half");
        for _ in 0..20 {
            learn(1, 95_000);
        }
        assert_eq!(learn(10, 95_000), 10, "the fewest");
        for _ in 0..20 {
            learn(10_000, 4_000);
        }
        assert_eq!(learn(10_000, 4_000), 5000, "the most");
    }

    #[test]
    fn keys_that_have_gone_are_passed_over() {
        let kind = |name: &str| Value::SimpleString(name.to_owned());
        let told = |answers: &[Value]| record(0, b"a", answers, 10_000);
        assert_eq!(told(&[kind("none"), Value::Int(-2), Value::Nil]), None);
        assert_eq!(told(&[kind("hash"), Value::Int(-2), Value::Nil]), None);
        assert_eq!(told(&[kind("hash"), Value::Int(-1), Value::Nil]), None);
        let key = told(&[kind("zset"), Value::Int(500), Value::Int(72)]).unwrap();
        assert_eq!((key.kind, key.expires_at, key.bytes), (KeyKind::SortedSet, Some(10_500), Some(72)));
        let key = told(&[kind("ReJSON-RL"), Value::Int(-1)]).unwrap();
        assert_eq!((key.kind, key.expires_at, key.bytes), (KeyKind::Other, None, None));
    }
}
