//! Filling a server as its primary: it is told to replicate from this process, and gets a file and a stream.
//!
//! A server that replicates expires nothing by its own clock, so that what is replayed days later means what it meant then. It acknowledges
//! exact positions, also of commands that it refused; those it counts, and the count is looked at whenever it has settled. What it takes is
//! believed to come from its primary, so the port is open for one connection, from that server's address alone, and only while it is filled.
//! Who is at that address, too, may come before it and gets what is sent; a throw-away server therefore shows a secret that it alone was given
//! when it was started. The server comes without TLS, which [`ReplicaFacts`] tells where that matters.
//!
//! Whatever becomes of a fill, [`ReplicaTarget::take_back`] judges by what the server itself says: it is of the fill when the stream that it
//! replicates has the fill's name, which it takes over when it has loaded the file.
//!
//! The keys bring the environment's marker of the server that they are of. It goes, and the server's own comes back, by commands of the stream:
//! so nobody meets it in a server that takes writes, and the user needs no right to write it.
//!
//! A fill ends when the server has written down what it holds: see [`super::writing`].
//!
//! Source: Redis documentation, "Redis replication"; the exchange as Redis 7 and 8 speak it.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mainstay_engine::{
    BegunFill, FillObstacle, KeptMarker, KeyServerName, KeyServerProgram, KeyspaceSize, PersistenceLook,
    PrimaryAddress, ReplicaFacts, ReplicaFeed, ReplicaInvitation, ReplicaRoom, ReplicaTarget,
    ReplicationPoint, WrittenAs,
};
use mainstay_guard::Permit;
use mainstay_model::progress::Observer;
use mainstay_model::{Error, ErrorKind, Result, ResultExt, Secret, StoreKind};
use mainstay_rdb::stream::{Command, Cutter};
use redis::{Pipeline, Value, cmd};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::link::encoded;
use super::writing::Writing;
use crate::cluster::is_cluster;
use crate::config::{RedisConfig, Settings};
use crate::info::Info;
use crate::keyspace::databases;
use crate::probe::{MARKER_KEY, fingerprint, kept_markers, put_back_markers, read_info};
use crate::sentinel;
use crate::server::look::persistence;
use crate::session::Session;

/// How long the server may take to come.
const COMING_TIME_MAX: Duration = Duration::from_secs(30);
/// How long whoever has connected may take to say what a replica says.
const GREETING_TIME_MAX: Duration = Duration::from_secs(5);
/// How many are listened to at the same time until one proves to be a replica.
const GREETED_COUNT_MAX: usize = 16;
/// How long it may take nothing and say nothing. While it loads the file it says something each second.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long is waited for a server that loads a file before it can be made one of its own again.
const LOADING_TIME_MAX: Duration = Duration::from_secs(900);
/// How often it is told to be one of its own.
const DETACH_TRIES_MAX: usize = 5;
/// Between two looks at whether it still says something.
const LOOK: Duration = Duration::from_millis(500);
/// Where Sentinels that watch a server listen for one another.
const SENTINEL_CHANNEL: &str = "__sentinel__:hello";
/// The fingerprint of a server that was started for this and ends with it.
const SCRATCH: &str = "scratch";
/// What a permit to fill a server is for.
const OPERATION: &str = "restore.apply";

/// What a server is when nothing is left of a fill.
const EMPTY: &str = "the server is one of its own again and is empty";
/// The same without its marker, which the user may not write.
const EMPTY_UNMARKED: &str = "the server is one of its own again and is empty, and has lost its environment's marker \
                              (`mainstay environment mark --store redis` writes one)";
/// What it is when nothing has come of it.
const HELD: &str = "the server is one of its own again and holds what it held";

/// Asks for the position. It is a part of the stream, too.
const ASK: &[&[u8]] = &[b"REPLCONF", b"GETACK", b"*"];

/// Moves the moments of expiry of some keys of the database that is selected, and remembers where it is. It is a command of the stream because
/// what has passed already shows itself to the primary alone; but fields of hashes that have passed do not.
///
/// A walk may meet a key twice, so those that were moved are kept in a set. While the walk lasts there are two keys more, the place and that
/// set; behind its end the place alone. A moment that did not move is an error, which the server counts.
const SHIFT: &str = "\
local place, moved, by, count = KEYS[1], KEYS[2], tonumber(ARGV[1]), ARGV[2]
local cursor = redis.call('GET', place) or '0'
if cursor == 'done' then return end
local function later(at) return string.format('%.0f', at + by) end
local function fields_of(key)
  local fields, names = {}, redis.call('HKEYS', key)
  for first = 1, #names, 500 do
    local last = math.min(first + 499, #names)
    local at = redis.call('HPEXPIRETIME', key, 'FIELDS', last - first + 1, unpack(names, first, last))
    for index = 1, #at do
      if at[index] > 0 then table.insert(fields, {names[first + index - 1], at[index]}) end
    end
  end
  return fields
end
redis.call('SADD', moved, '')
local page = redis.call('SCAN', cursor, 'COUNT', count)
for _, key in ipairs(page[2]) do
  if key ~= place and key ~= moved then
    local at, known, fields = redis.call('PEXPIRETIME', key), false, {}
    if redis.call('TYPE', key).ok == 'hash' then
      known, fields = pcall(fields_of, key)
      if not known then fields = {} end
    end
    if (at > 0 or #fields > 0) and redis.call('SADD', moved, 'k' .. key) == 1 then
      if at > 0 then
        redis.call('PEXPIREAT', key, later(at))
        if redis.call('PEXPIRETIME', key) ~= at + by then error('a moment of expiry did not move') end
      end
      for _, field in ipairs(fields) do
        redis.call('HPEXPIREAT', key, later(field[2]), 'FIELDS', 1, field[1])
      end
    end
  end
end
if page[1] == '0' then
  redis.call('SET', place, 'done')
  redis.call('DEL', moved)
else
  redis.call('SET', place, page[1])
end";
/// How many keys a step moves, about.
const SHIFTED_COUNT: &str = "500";
/// How many steps are sent before the server is asked how far it is.
const SHIFTS_AT_ONCE: usize = 8;

/// A Redis that is filled.
#[derive(Debug)]
pub struct RedisReplica {
    settings: Arc<Settings>,
    is_scratch: bool,
    /// What a server that comes to be filled has to show, where it was told.
    secret: Option<Secret>,
    /// The process that a fill was permitted for, and under which fingerprint: its marker comes and goes with its keys.
    permitted: Arc<Mutex<Option<(String, String)>>>,
}

impl RedisReplica {
    /// The server that `config` describes. Does not connect.
    ///
    /// # Errors
    /// `Config` when the URL or the CA file cannot be used.
    pub fn new(config: &RedisConfig) -> Result<Self> {
        let settings = Arc::new(Settings::resolve(config)?);
        Ok(Self { settings, is_scratch: false, secret: None, permitted: Arc::default() })
    }

    /// A server that was started to be filled, and is nobody's. It shows `secret` as a replica.
    ///
    /// # Errors
    /// As [`RedisReplica::new`].
    pub(crate) fn scratch(config: &RedisConfig, secret: Secret) -> Result<Self> {
        Ok(Self { is_scratch: true, secret: Some(secret), ..Self::new(config)? })
    }

    async fn fingerprint(&self, session: &mut Session<'_>, info: &Info) -> Result<String> {
        if self.is_scratch {
            return Ok(SCRATCH.to_owned());
        }
        let process = info.required("run_id")?;
        let permitted = self.permitted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match permitted {
            Some((permitted, fingerprint)) if permitted == process => Ok(fingerprint),
            _ => fingerprint(session, info).await,
        }
    }

    /// From here on the process is the server of `permit`.
    ///
    /// # Errors
    /// `Refused` when the permit is for something else than filling a server.
    fn permit(&self, permit: &Permit, process: &str, fingerprint: &str) -> Result<()> {
        // A throw-away server is nobody's: what it is filled for may be something else than a restore.
        if !self.is_scratch {
            permit.check(OPERATION, StoreKind::Redis, fingerprint)?;
        }
        let permitted = Some((process.to_owned(), fingerprint.to_owned()));
        *self.permitted.lock().unwrap_or_else(PoisonError::into_inner) = permitted;
        Ok(())
    }
}

#[async_trait]
impl ReplicaTarget for RedisReplica {
    async fn replica_facts(&self) -> Result<ReplicaFacts> {
        let mut session = Session::open(&self.settings).await.context("connect to Redis")?;
        let info = read_info(&mut session).await.context("read facts of Redis")?;
        let fingerprint = self.fingerprint(&mut session, &info).await.context("read facts of Redis")?;
        let databases = databases(&info);
        let markers = kept_markers(&mut session, &databases).await.context("read markers of Redis")?;
        let databases = without_markers(databases, &markers);
        let obstacle = obstacle(&mut session, &self.settings, &info).await.context("read facts of Redis")?;
        let comes_unencrypted = self.settings.tls && !addresses(&self.settings).await?.0.is_loopback();
        let room = room(&mut session).await.context("read settings of Redis")?;
        Ok(ReplicaFacts {
            fingerprint,
            process: info.required("run_id")?.to_owned(),
            program: program(&info)?,
            primary: primary(&info),
            databases,
            markers,
            obstacle,
            comes_unencrypted,
            room,
        })
    }

    async fn invite(&self) -> Result<Box<dyn ReplicaInvitation>> {
        if let Some(named) = watched_by_name(&self.settings) {
            return Err(named.refusal(&self.settings.address()));
        }
        let (own, server) = addresses(&self.settings).await?;
        let unopened = |error: std::io::Error| {
            Error::new(ErrorKind::Storage, format!("no port can be opened at {own}: {error}"))
                .with_state("nothing was changed")
                .with_hint("look at the limits of this machine: `ulimit -n`")
        };
        let listener = TcpListener::bind((own, 0)).await.map_err(unopened)?;
        let port = listener.local_addr().map_err(unopened)?.port();
        let primary = PrimaryAddress { host: own.to_string(), port };
        Ok(Box::new(Invitation {
            replica: Self {
                settings: Arc::clone(&self.settings),
                is_scratch: self.is_scratch,
                secret: self.secret.clone(),
                permitted: Arc::clone(&self.permitted),
            },
            listener,
            server,
            primary,
        }))
    }

    async fn take_back(&self, fill: &BegunFill, permit: &Permit) -> Result<&'static str> {
        let (mut session, mut info) = self.loaded().await?;
        let (process, whose) = (info.required("run_id")?.to_owned(), primary(&info));
        if process != fill.process || whose.is_some_and(|whose| whose != fill.primary) {
            return Err(Error::new(
                ErrorKind::StalePlan,
                format!("{} is another server by now than the one that was filled", self.settings.address()),
            )
            .with_hint("make the plan again: `mainstay restore plan --store redis`"));
        }
        let fingerprint = match self.is_scratch {
            true => SCRATCH,
            false => permit.target().fingerprint.as_str(),
        };
        self.permit(permit, &process, fingerprint)?;
        let is_of_fill = |info: &Info| {
            let name = if is_replica(info) { "master_replid" } else { "master_replid2" };
            info.get(name) == Some(fill.stream.as_str())
        };
        let holds_keys = |info: &Info| !without_markers(databases(info), &fill.markers).is_empty();
        // Another run of the plan may have ended since it was looked at: what was written since is nobody's to remove.
        if !is_replica(&info) && is_of_fill(&info) && holds_keys(&info) {
            let message = format!("{} was filled, and takes writes by now", self.settings.address());
            return Err(Error::new(ErrorKind::StalePlan, message)
                .with_state("nothing was changed")
                .with_hint(
                    "to fill it anew, make a new plan: `mainstay restore plan --store redis --drop`",
                ));
        }
        let mut is_emptied = false;
        // Between the look and the command it may have begun to load, and have loaded.
        for _ in 0..DETACH_TRIES_MAX {
            if !is_replica(&info) && (is_emptied || !is_of_fill(&info)) {
                let is_marked = put_back_markers(&mut session, &fill.markers).await;
                let is_marked = is_marked.context("put the server's own marker back")?;
                return Ok(match (is_emptied || databases(&info).is_empty(), is_marked) {
                    (true, true) => EMPTY,
                    (true, false) => EMPTY_UNMARKED,
                    (false, _) => HELD,
                });
            }
            is_emptied |= is_of_fill(&info);
            match detach(&mut session, is_emptied).await? {
                Detached::Done => info = read_info(&mut session).await.context("read facts of Redis")?,
                Detached::Loads => (session, info) = self.loaded().await?,
            }
        }
        Err(Error::new(
            ErrorKind::Server,
            format!("{} is made a replica again and again", self.settings.address()),
        )
        .with_hint("look at what else tells it whom to replicate from"))
    }
}

impl RedisReplica {
    /// A session with the server when it loads nothing any more.
    async fn loaded(&self) -> Result<(Session<'_>, Info)> {
        let deadline = Instant::now() + LOADING_TIME_MAX;
        loop {
            let mut session = Session::open(&self.settings).await.context("connect to Redis")?;
            let info = read_info(&mut session).await.context("read facts of Redis")?;
            if info.number("loading").unwrap_or(0) == 0 && info.number("async_loading").unwrap_or(0) == 0 {
                return Ok((session, info));
            }
            if Instant::now() >= deadline {
                let message = format!("{} still loads what it was filled with", self.settings.address());
                return Err(Error::new(ErrorKind::Unreachable, message)
                    .with_hint("apply the plan again when it has loaded"));
            }
            sleep(LOOK).await;
        }
    }
}

fn is_replica(info: &Info) -> bool {
    info.get("role") == Some("slave")
}

/// The databases that hold more than a marker.
fn without_markers(mut databases: Vec<KeyspaceSize>, markers: &[KeptMarker]) -> Vec<KeyspaceSize> {
    for size in &mut databases {
        if markers.iter().any(|marker| marker.database == size.database) {
            size.keys = size.keys.saturating_sub(1);
        }
    }
    databases.retain(|size| size.keys > 0);
    databases
}

/// Whom the server replicates from.
fn primary(info: &Info) -> Option<PrimaryAddress> {
    let port = info.number("master_port").and_then(|port| u16::try_from(port).ok());
    is_replica(info).then(|| PrimaryAddress {
        host: info.get("master_host").unwrap_or_default().to_owned(),
        port: port.unwrap_or(0),
    })
}

/// What the server is. Valkey tells a version of Redis, too, which it was once compatible with.
fn program(info: &Info) -> Result<KeyServerProgram> {
    Ok(match info.get("valkey_version") {
        Some(version) => KeyServerProgram { name: KeyServerName::Valkey, version: version.to_owned() },
        None => {
            let version = info.required("redis_version")?.to_owned();
            KeyServerProgram { name: KeyServerName::Redis, version }
        }
    })
}

/// What became of making a server one of its own.
enum Detached {
    /// It is.
    Done,
    /// It has begun to load, and takes the command later.
    Loads,
}

/// Makes the server one of its own, and empty at once where that is wanted: nobody writes in between.
async fn detach(session: &mut Session<'_>, empties: bool) -> Result<Detached> {
    let mut pipeline = Pipeline::with_capacity(2);
    pipeline.ignore_errors();
    pipeline.cmd("REPLICAOF").arg("NO").arg("ONE");
    if empties {
        pipeline.cmd("FLUSHALL").arg("ASYNC");
    }
    let answers = session.ask_all(&pipeline).await.context("make the server one of its own")?;
    for answer in answers {
        match answer {
            Value::ServerError(error) if error.code() == "LOADING" => return Ok(Detached::Loads),
            Value::ServerError(error) => {
                let failed = session.refusal(error.code(), error.details().unwrap_or_default()).await;
                return Err(failed.context("make the server one of its own"));
            }
            _ => {}
        }
    }
    Ok(Detached::Done)
}

/// An open port that a server may be told of.
struct Invitation {
    replica: RedisReplica,
    listener: TcpListener,
    /// Where the server comes from.
    server: IpAddr,
    primary: PrimaryAddress,
}

#[async_trait]
impl ReplicaInvitation for Invitation {
    fn primary(&self) -> &PrimaryAddress {
        &self.primary
    }

    async fn feed(
        self: Box<Self>,
        at: &ReplicationPoint,
        file_bytes: u64,
        permit: &Permit,
    ) -> Result<Box<dyn ReplicaFeed>> {
        let Self { replica, listener, server, primary } = *self;
        let settings = &replica.settings;
        let mut session = Session::open(settings).await.context("connect to Redis")?;
        let info = read_info(&mut session).await.context("read facts of Redis")?;
        let fingerprint = replica.fingerprint(&mut session, &info).await.context("read facts of Redis")?;
        replica.permit(permit, info.required("run_id")?, &fingerprint)?;
        check(&mut session, settings, &info).await?;
        let mut replicate = cmd("REPLICAOF");
        replicate.arg(&primary.host).arg(primary.port);
        session.ask::<()>(&replicate).await.context("make it a replica")?;
        let coming = meet(&listener, server, replica.secret.as_ref());
        let stream = timeout(COMING_TIME_MAX, coming).await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Unreachable,
                format!("{} does not come to {primary} to be filled", settings.address()),
            )
            .with_hint("it must be able to connect to this machine; run the command on its own host"))
        })?;
        let mut feed = Feed::new(Arc::clone(settings), stream, at, &info)?;
        let said = format!("+FULLRESYNC {} {}\r\n${file_bytes}\r\n", at.id, at.offset);
        feed.write(said.as_bytes()).await?;
        feed.file_left = file_bytes;
        Ok(Box::new(feed))
    }
}

/// How often the server has refused what its primary said, since it was started.
fn refusals(info: &Info) -> u64 {
    info.number("unexpected_error_replies").unwrap_or(0)
}

/// Refuses a server that cannot be filled, whatever was known of it before.
async fn check(session: &mut Session<'_>, settings: &Settings, info: &Info) -> Result<()> {
    if is_replica(info) {
        return Err(Error::new(ErrorKind::Precondition, "the server is a replica of another one")
            .with_state("nothing was changed")
            .with_hint("name its primary with --redis-url"));
    }
    match obstacle(session, settings, info).await? {
        Some(obstacle) => Err(obstacle.refusal(&settings.address())),
        None => Ok(()),
    }
}

/// What keeps the server from being filled, as far as the user may know.
async fn obstacle(
    session: &mut Session<'_>,
    settings: &Settings,
    info: &Info,
) -> Result<Option<FillObstacle>> {
    if let Some(named) = watched_by_name(settings) {
        return Ok(Some(named));
    }
    if is_cluster(info) {
        return Ok(Some(FillObstacle::ClusterNode));
    }
    let question = cmd("PUBSUB").arg("NUMSUB").arg(SENTINEL_CHANNEL).to_owned();
    let listeners: Option<Vec<(String, u64)>> = session.ask_if_allowed(&question).await?;
    if listeners.is_some_and(|channels| channels.iter().any(|(_, count)| *count > 0)) {
        return Ok(Some(FillObstacle::Watched { name: None }));
    }
    let question = cmd("CONFIG").arg("GET").arg("tls-replication").to_owned();
    let setting: Option<Vec<String>> = session.ask_if_allowed(&question).await?;
    let is_tls = setting.is_some_and(|pair| pair.get(1).is_some_and(|value| value == "yes"));
    Ok(is_tls.then_some(FillObstacle::TlsReplication))
}

/// That Sentinels tell which server it is.
fn watched_by_name(settings: &Settings) -> Option<FillObstacle> {
    settings.watch.as_ref().map(|watch| FillObstacle::Watched { name: Some(watch.name.clone()) })
}

/// How much the server has room for; it may not be allowed to tell.
async fn room(session: &mut Session<'_>) -> Result<ReplicaRoom> {
    let mut room = ReplicaRoom::default();
    for (name, value) in [("databases", &mut room.databases), ("maxmemory", &mut room.memory_bytes)] {
        let question = cmd("CONFIG").arg("GET").arg(name).to_owned();
        let setting: Option<Vec<String>> = session.ask_if_allowed(&question).await?;
        // No bound is written as zero.
        *value = setting.and_then(|pair| pair.get(1)?.parse().ok()).filter(|bound| *bound > 0);
    }
    Ok(room)
}

/// The address of this machine that the server can reach, and the server's own.
async fn addresses(settings: &Settings) -> Result<(IpAddr, IpAddr)> {
    let settings = sentinel::current(settings).await?;
    let gone = |error: std::io::Error| {
        Error::new(ErrorKind::Unreachable, format!("{} cannot be reached: {error}", settings.address()))
            .with_hint("check that Redis runs there and listens on this port")
    };
    let stream = TcpStream::connect((settings.host.as_str(), settings.port)).await.map_err(gone)?;
    let ip = |address: SocketAddr| address.ip().to_canonical();
    Ok((ip(stream.local_addr().map_err(gone)?), ip(stream.peer_addr().map_err(gone)?)))
}

/// Waits for the server and answers what a replica says first, up to where it asks for the data. Whoever else connects is in nobody's way.
async fn meet(listener: &TcpListener, from: IpAddr, secret: Option<&Secret>) -> Result<TcpStream> {
    let mut greeted = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if greeted.len() < GREETED_COUNT_MAX => {
                let (stream, peer) = accepted.map_err(|error| {
                    Error::new(ErrorKind::Unreachable, format!("no connection can be taken: {error}"))
                        .with_hint("look at the limits of this machine: `ulimit -n`")
                })?;
                if peer.ip().to_canonical() == from {
                    greeted.spawn(timeout(GREETING_TIME_MAX, greet(stream, secret.cloned())));
                }
            }
            ended = greeted.join_next(), if !greeted.is_empty() => {
                if let Some(Ok(Ok(Some(stream)))) = ended {
                    return Ok(stream);
                }
            }
        }
    }
}

/// The connection, if whoever has made it is a replica that asks for the data, and has shown the secret where there is one.
async fn greet(mut stream: TcpStream, secret: Option<Secret>) -> Option<TcpStream> {
    let mut reading = Reading::new();
    let mut buffer = [0; 1024];
    let mut is_known = secret.is_none();
    loop {
        let count = stream.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
        let (mut answer, mut asks) = (Vec::new(), false);
        let read = reading.take(&buffer[..count], |command| {
            let shown = command.words.get(1).and_then(|word| word.whole());
            match &secret {
                Some(secret) if command.is("auth") => {
                    is_known |= shown == Some(secret.expose().as_bytes());
                    let said = if is_known { "+OK\r\n" } else { "-WRONGPASS another one\r\n" };
                    answer.extend_from_slice(said.as_bytes());
                }
                _ if !is_known => answer.extend_from_slice(b"-NOAUTH Authentication required.\r\n"),
                _ if command.is("psync") || command.is("sync") => asks = true,
                _ if command.is("ping") => answer.extend_from_slice(b"+PONG\r\n"),
                _ if command.is("replconf") || command.is("auth") => answer.extend_from_slice(b"+OK\r\n"),
                _ => answer.extend_from_slice(b"-ERR this is no server\r\n"),
            }
        });
        if read.is_err() || stream.write_all(&answer).await.is_err() {
            return None;
        }
        if asks {
            return Some(stream);
        }
    }
}

/// What a replica says: commands, and empty lines between them by which it shows that it lives.
struct Reading(Cutter);

impl Reading {
    fn new() -> Self {
        Self(Cutter::new(0, None))
    }

    fn take(&mut self, bytes: &[u8], mut each: impl FnMut(&Command<'_>)) -> Result<(), ()> {
        for byte in bytes {
            let is_between = self.0.position() == self.0.boundary();
            if !(is_between && *byte == b'\n') {
                self.0.feed(&[*byte], &mut each).map_err(drop)?;
            }
        }
        Ok(())
    }
}

/// What was heard of the server.
#[derive(Debug, Clone)]
struct Heard {
    acknowledged: Option<u64>,
    at: Instant,
    has_ended: bool,
}

/// Listens until the connection ends.
async fn listen(mut stream: OwnedReadHalf, heard: watch::Sender<Heard>) {
    let mut reading = Reading::new();
    let mut buffer = [0; 1024];
    loop {
        let count = stream.read(&mut buffer).await.unwrap_or(0);
        let mut acknowledged = None;
        let read = reading.take(&buffer[..count], |command| {
            let word = |at: usize| command.words.get(at).and_then(|word| word.whole());
            if command.is("replconf") && word(1).is_some_and(|word| word.eq_ignore_ascii_case(b"ack")) {
                let told = word(2).and_then(|word| std::str::from_utf8(word).ok());
                acknowledged = told.and_then(|told| told.parse::<u64>().ok()).or(acknowledged);
            }
        });
        let has_ended = count == 0 || read.is_err();
        heard.send_modify(|heard| {
            heard.acknowledged = acknowledged.or(heard.acknowledged);
            heard.at = Instant::now();
            heard.has_ended = has_ended;
        });
        if has_ended {
            return;
        }
    }
}

/// A server being filled.
struct Feed {
    settings: Arc<Settings>,
    stream: OwnedWriteHalf,
    heard: watch::Receiver<Heard>,
    /// The name of the stream.
    name: String,
    /// Bytes of the file that were not sent yet.
    file_left: u64,
    /// The position after what was sent of the stream.
    sent: u64,
    /// How often the server had refused something before.
    refusals: u64,
    /// The server's process.
    process: String,
    /// How the server's disk was before.
    disk: PersistenceLook,
    /// Ends with this.
    _listening: JoinSet<()>,
}

impl Feed {
    /// Of a server that says `info` before it is filled.
    fn new(settings: Arc<Settings>, stream: TcpStream, at: &ReplicationPoint, info: &Info) -> Result<Self> {
        let (read, write) = stream.into_split();
        let beginning = Heard { acknowledged: None, at: Instant::now(), has_ended: false };
        let (tell, heard) = watch::channel(beginning);
        let mut listening = JoinSet::new();
        listening.spawn(listen(read, tell));
        Ok(Self {
            settings,
            stream: write,
            heard,
            name: at.id.clone(),
            file_left: 0,
            sent: at.offset,
            refusals: refusals(info),
            process: info.required("run_id")?.to_owned(),
            disk: persistence(info, None),
            _listening: listening,
        })
    }

    fn gone(&self, what: &str) -> Error {
        Error::new(ErrorKind::Unreachable, format!("{} {what}", self.settings.address()))
            .with_hint("look into its log: it says why it does not take the data")
    }

    /// Writes, as long as the server takes something or says something.
    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let mut left = bytes;
        let mut moved = Instant::now();
        while !left.is_empty() {
            match timeout(LOOK, self.stream.write(left)).await {
                Ok(Ok(count)) if count > 0 => {
                    left = &left[count..];
                    moved = Instant::now();
                }
                Ok(_) => return Err(self.gone("has ended the connection that fills it")),
                Err(_) => {
                    let heard = self.heard.borrow().clone();
                    if heard.has_ended {
                        return Err(self.gone("has ended the connection that fills it"));
                    }
                    if moved.max(heard.at).elapsed() > SILENCE_MAX {
                        return Err(self.gone("takes nothing more"));
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes a command of the stream.
    async fn command(&mut self, words: &[&[u8]]) -> Result<()> {
        let bytes = encoded(words);
        self.write(&bytes).await?;
        self.sent += bytes.len() as u64;
        Ok(())
    }

    async fn select(&mut self, database: u64) -> Result<()> {
        self.command(&[b"SELECT", database.to_string().as_bytes()]).await
    }

    /// Waits until everything sent is acknowledged, as long as something is heard.
    async fn acknowledged(&mut self) -> Result<u64> {
        let expected = self.sent;
        self.command(ASK).await?;
        loop {
            let heard = self.heard.borrow_and_update().clone();
            match heard.acknowledged {
                // The question has been counted by the time of a later acknowledgement.
                Some(at) if at == expected || at == self.sent => return Ok(expected),
                Some(at) if at > expected => {
                    let message = format!("{} is at {at}, {expected} was sent", self.settings.address());
                    return Err(Error::new(ErrorKind::Server, message).with_hint(
                        "somebody else writes to it as its primary: look at `INFO replication` on it",
                    ));
                }
                _ if heard.has_ended => return Err(self.gone("has ended the connection that fills it")),
                _ if heard.at.elapsed() > SILENCE_MAX => return Err(self.gone("says nothing more")),
                _ => {}
            }
            // Whoever tells has ended when this fails, which is seen at the next look.
            let _ = timeout(LOOK, self.heard.changed()).await;
        }
    }

    /// Refuses what the server has acknowledged, and not done.
    async fn check_refusals(&self, session: &mut Session<'_>) -> Result<()> {
        let info = read_info(session).await.context("read facts of Redis")?;
        match refusals(&info).saturating_sub(self.refusals) {
            0 => Ok(()),
            count => Err(Error::new(
                ErrorKind::Server,
                format!("{} refused {count} commands of the stream", self.settings.address()),
            )
            .with_hint(
                "its log names them: `CRITICAL`; a server of the version that the stream is of takes all",
            )),
        }
    }
}

#[async_trait]
impl ReplicaFeed for Feed {
    async fn send(&mut self, bytes: Bytes) -> Result<()> {
        self.write(&bytes).await?;
        let of_file = self.file_left.min(bytes.len() as u64);
        self.file_left -= of_file;
        self.sent += bytes.len() as u64 - of_file;
        Ok(())
    }

    async fn settle(&mut self) -> Result<u64> {
        let at = self.acknowledged().await?;
        let settings = Arc::clone(&self.settings);
        let mut session = Session::open(&settings).await.context("connect to Redis")?;
        self.check_refusals(&mut session).await?;
        Ok(at)
    }

    async fn shift_expiry(&mut self, by_ms: i64) -> Result<()> {
        let settings = Arc::clone(&self.settings);
        let mut session = Session::open(&settings).await.context("connect to Redis")?;
        let by = by_ms.to_string();
        let [place, moved] = ["place", "moved"].map(|what| format!("mainstay:shift:{}:{what}", self.name));
        for size in list_databases(&mut session).await? {
            self.select(size.database).await?;
            loop {
                for _ in 0..SHIFTS_AT_ONCE {
                    self.command(&[
                        b"EVAL",
                        SHIFT.as_bytes(),
                        b"2",
                        place.as_bytes(),
                        moved.as_bytes(),
                        by.as_bytes(),
                        SHIFTED_COUNT.as_bytes(),
                    ])
                    .await?;
                }
                self.acknowledged().await?;
                self.check_refusals(&mut session).await?;
                // Of the two keys that the walk needs, one has gone when it has ended: the user may read neither.
                let now = list_databases(&mut session).await?;
                let now = now.iter().find(|now| now.database == size.database);
                if now.is_none_or(|now| now.keys <= size.keys + 1) {
                    break;
                }
            }
            self.command(&[b"DEL", place.as_bytes()]).await?;
        }
        self.settle().await.map(drop)
    }

    async fn take_identity(&mut self, own: &[KeptMarker]) -> Result<Vec<KeyspaceSize>> {
        let settings = Arc::clone(&self.settings);
        let mut session = Session::open(&settings).await.context("connect to Redis")?;
        for size in list_databases(&mut session).await? {
            self.select(size.database).await?;
            self.command(&[b"UNLINK", MARKER_KEY.as_bytes()]).await?;
        }
        self.acknowledged().await?;
        let databases = list_databases(&mut session).await?;
        for marker in own {
            self.select(marker.database).await?;
            let mut words = vec![b"HSET".as_slice(), MARKER_KEY.as_bytes()];
            words.extend(marker.fields.iter().flat_map(|(name, text)| [name.as_bytes(), text.as_bytes()]));
            self.command(&words).await?;
        }
        self.acknowledged().await?;
        self.check_refusals(&mut session).await?;
        Ok(databases)
    }

    async fn promote(&mut self) -> Result<()> {
        let mut session = Session::open(&self.settings).await.context("connect to Redis")?;
        let info = read_info(&mut session).await?;
        if !is_replica(&info) || info.get("master_replid") != Some(self.name.as_str()) {
            let message = format!("{} does not replicate from here any more", self.settings.address());
            return Err(Error::new(ErrorKind::Server, message).with_hint(
                "look at who else has told it whom to replicate from, such as another run of the same plan",
            ));
        }
        session.ask::<()>(cmd("REPLICAOF").arg("NO").arg("ONE")).await.context("promote the server")?;
        let info = read_info(&mut session).await?;
        match info.required("role")? {
            "master" => Ok(()),
            role => Err(Error::new(ErrorKind::Server, format!("the server is {role} after its promotion"))
                .with_hint("look at what else tells it whom to replicate from")),
        }
    }

    async fn write_down(&mut self, observer: &dyn Observer) -> Result<WrittenAs> {
        let settings = Arc::clone(&self.settings);
        let mut session = Session::open(&settings).await.context("connect to Redis")?;
        Writing::new(&mut session, &self.process, &self.disk, observer).end().await
    }
}

async fn list_databases(session: &mut Session<'_>) -> Result<Vec<KeyspaceSize>> {
    let reply: String = session.ask(cmd("INFO").arg("keyspace")).await.context("list databases of Redis")?;
    Ok(databases(&Info::parse(&reply)))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_cannot_show_the_secret_gets_nothing_and_is_in_nobodys_way() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let silent = TcpStream::connect(address).await.unwrap();
        let mut guest = TcpStream::connect(address).await.unwrap();
        for command in [&[&b"PING"[..]][..], &[b"AUTH", b"guess"], &[b"PSYNC", b"?", b"-1"]] {
            guest.write_all(&encoded(command)).await.unwrap();
        }
        let secret = Secret::new("told");
        let mut server = TcpStream::connect(address).await.unwrap();
        for command in [&[&b"AUTH"[..], b"told"][..], &[b"PING"], &[b"PSYNC", b"?", b"-1"]] {
            server.write_all(&encoded(command)).await.unwrap();
        }
        let met = timeout(Duration::from_secs(20), meet(&listener, address.ip(), Some(&secret)));
        let met = met.await.unwrap().unwrap();
        assert_eq!(met.peer_addr().unwrap(), server.local_addr().unwrap());
        drop((silent, guest));
    }

    #[test]
    fn markers_are_no_keys_of_a_database() {
        let size = |database, keys| KeyspaceSize { database, keys, expiring: 0 };
        let marker = |database| KeptMarker { database, fields: std::collections::BTreeMap::new() };
        let left = without_markers(vec![size(0, 3), size(3, 1), size(4, 1)], &[marker(0), marker(3)]);
        assert_eq!(left, [size(0, 2), size(4, 1)]);
    }

    #[test]
    fn valkey_is_known_by_its_own_version() {
        let told = |reply: &str| program(&Info::parse(reply)).unwrap().to_string();
        assert_eq!(told("redis_version:8.0.2\r\n"), "Redis 8.0.2");
        assert_eq!(
            told("redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.0.0\r\n"),
            "Valkey 9.0.0"
        );
    }

    #[test]
    fn what_a_replica_says_is_read_between_its_signs_of_life() {
        let said = [
            b"\n\n".as_slice(),
            &encoded(&[b"REPLCONF", b"ACK", b"17"]),
            b"\n",
            &encoded(&[b"REPLCONF", b"ACK", b"18", b"FACK", b"3"]),
        ]
        .concat();
        let mut reading = Reading::new();
        let mut seen = Vec::new();
        let read = reading.take(&said, |command| {
            seen.push(command.words.get(2).and_then(|word| word.whole()).map(<[u8]>::to_vec));
        });
        assert_eq!((read, seen), (Ok(()), vec![Some(b"17".to_vec()), Some(b"18".to_vec())]));
        assert!(reading.take(b"HTTP/1.1\r\n", |_| {}).is_err());
    }
}
