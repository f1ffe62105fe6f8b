//! The keyspace of a server that is at work: `SCAN` in small steps, and of each key what costs the server nothing to speak of.
//!
//! `SCAN`, `TYPE`, `PTTL` and `MEMORY USAGE` leave idleness and frequency of keys alone, and the connection is taken out of both reckonings
//! where the server knows how (`CLIENT NO-TOUCH`, `CLIENT NO-EVICT`). Redis answers one client at a time, so the number of keys in a step
//! follows from how long the last step took: [`Pace`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use mainstay_engine::{KeyKind, KeyRecord, KeyScan, KeyScanRequest, KeySweep, Keyspace, KeyspaceSize};
use mainstay_guard::Permit;
use mainstay_model::{Error, ErrorKind, Result, ResultExt, StoreKind};
use redis::{Pipeline, Value, cmd};

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

    async fn scan<'a>(&'a self, request: KeyScanRequest) -> Result<Box<dyn KeyScan + 'a>> {
        let mut listing = Listing::begin(&self.settings, request).await?;
        let question = cmd("MEMORY").arg("USAGE").arg(MARKER_KEY).to_owned();
        let asked = listing.session.ask_if_allowed::<Option<u64>>(&question).await?;
        let describing = listing.pace;
        Ok(Box::new(Scan { listing, tells_bytes: asked.is_some(), describing }))
    }

    async fn sweep<'a>(&'a self, request: KeyScanRequest) -> Result<Box<dyn KeySweep + 'a>> {
        let mut listing = Listing::begin(&self.settings, request).await?;
        let info = read_info(&mut listing.session).await.context("read facts of Redis")?;
        if info.get("redis_mode") == Some("cluster") {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "a node of a cluster holds a part of the keys alone",
            )
            .with_state("nothing was changed")
            .with_hint("this version purges single servers"));
        }
        let fingerprint = fingerprint(&mut listing.session, &info).await.context("read facts of Redis")?;
        let removing = listing.pace;
        Ok(Box::new(Sweep { listing, removing, fingerprint }))
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

/// The time that a command takes which costs the server nothing: the best of some.
async fn way(session: &mut Session<'_>) -> Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..WAY_SAMPLES {
        let asked = Instant::now();
        session.ask::<()>(&cmd("PING")).await?;
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

/// Names, step by step.
struct Listing<'a> {
    session: Session<'a>,
    pattern: Option<Vec<u8>>,
    now: i64,
    /// What has not been begun.
    databases: VecDeque<u64>,
    /// The database under way and the server's cursor in it.
    place: Option<(u64, u64)>,
    pace: Pace,
}

impl<'a> Listing<'a> {
    async fn begin(settings: &'a Settings, request: KeyScanRequest) -> Result<Self> {
        let mut session = Session::open(settings).await.context("connect to Redis")?;
        for mode in ["NO-TOUCH", "NO-EVICT"] {
            session.ask_if_allowed::<()>(cmd("CLIENT").arg(mode).arg("ON")).await?;
        }
        let way = way(&mut session).await?;
        let pace = Pace { step: STEP_FIRST, way, answer_time_max: request.answer_time_max };
        let KeyScanRequest { databases, pattern, now, .. } = request;
        Ok(Self { session, pattern, now, databases: databases.into(), place: None, pace })
    }

    /// The next names, with the number of their database.
    async fn next(&mut self) -> Result<Option<(u64, Vec<Vec<u8>>)>> {
        let (database, cursor) = match self.place {
            Some(place) => place,
            None => {
                let Some(database) = self.databases.pop_front() else { return Ok(None) };
                self.session.ask::<()>(cmd("SELECT").arg(database)).await?;
                (database, 0)
            }
        };
        let mut scan = cmd("SCAN");
        scan.arg(cursor).arg("COUNT").arg(self.pace.step);
        if let Some(pattern) = &self.pattern {
            scan.arg("MATCH").arg(pattern.as_slice());
        }
        let (asked, step) = (Instant::now(), self.pace.step);
        let (cursor, names): (u64, Vec<Vec<u8>>) =
            self.session.ask(&scan).await.context("list keys of Redis")?;
        self.pace.learn(step, asked.elapsed());
        self.place = (cursor != 0).then_some((database, cursor));
        Ok(Some((database, names)))
    }
}

struct Scan<'a> {
    listing: Listing<'a>,
    tells_bytes: bool,
    describing: Pace,
}

#[async_trait]
impl KeyScan for Scan<'_> {
    async fn next(&mut self) -> Result<Option<Vec<KeyRecord>>> {
        let Some((database, names)) = self.listing.next().await? else { return Ok(None) };
        let mut records = Vec::with_capacity(names.len());
        let mut rest = names.as_slice();
        while !rest.is_empty() {
            let (step, behind) = rest.split_at(self.describing.step.min(rest.len()));
            self.describe(database, step, &mut records).await.context("ask what keys of Redis are")?;
            rest = behind;
        }
        Ok(Some(records))
    }

    fn tells_bytes(&self) -> bool {
        self.tells_bytes
    }
}

struct Sweep<'a> {
    listing: Listing<'a>,
    removing: Pace,
    fingerprint: String,
}

#[async_trait]
impl KeySweep for Sweep<'_> {
    async fn next(&mut self) -> Result<Option<Vec<Vec<u8>>>> {
        Ok(self.listing.next().await?.map(|(_, names)| names))
    }

    async fn remove(&mut self, names: &[Vec<u8>], permit: &Permit) -> Result<u64> {
        permit.check("redis.purge", StoreKind::Redis, &self.fingerprint)?;
        let (mut removed, mut rest) = (0, names);
        while !rest.is_empty() {
            let (step, behind) = rest.split_at(self.removing.step.min(rest.len()));
            let mut unlink = cmd("UNLINK");
            unlink.arg(step);
            let asked = Instant::now();
            removed += self.listing.session.ask::<u64>(&unlink).await.context("remove keys of Redis")?;
            self.removing.learn(step.len(), asked.elapsed());
            rest = behind;
        }
        Ok(removed)
    }
}

impl Scan<'_> {
    async fn describe(
        &mut self,
        database: u64,
        names: &[Vec<u8>],
        records: &mut Vec<KeyRecord>,
    ) -> Result<()> {
        let questions = if self.tells_bytes { 3 } else { 2 };
        let mut pipeline = Pipeline::with_capacity(names.len() * questions);
        for name in names {
            pipeline.cmd("TYPE").arg(name.as_slice());
            pipeline.cmd("PTTL").arg(name.as_slice());
            if self.tells_bytes {
                pipeline.cmd("MEMORY").arg("USAGE").arg(name.as_slice());
            }
        }
        let asked = Instant::now();
        let answers = self.listing.session.ask_all(&pipeline).await?;
        self.describing.learn(names.len(), asked.elapsed());
        for (name, answers) in names.iter().zip(answers.chunks_exact(questions)) {
            records.extend(record(database, name, answers, self.listing.now));
        }
        Ok(())
    }
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
