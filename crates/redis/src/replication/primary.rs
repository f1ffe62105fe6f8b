//! Filling a server as its primary: it is told to replicate from this process, and gets a file and a stream.
//!
//! A server that replicates expires nothing by its own clock, so that what is replayed days later means what it meant then. It acknowledges
//! exact positions. What it takes is believed to come from its primary, so the port is open for one connection, from that server's address
//! alone, and only while it is filled.
//!
//! Source: Redis documentation, "Redis replication"; the exchange as Redis 7 and 8 speak it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mainstay_engine::{KeyspaceSize, ReplicaFacts, ReplicaFeed, ReplicaTarget, ReplicationPoint};
use mainstay_guard::Permit;
use mainstay_model::{Error, ErrorKind, Result, ResultExt, StoreKind};
use mainstay_rdb::stream::{Command, Cutter};
use redis::cmd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::link::encoded;
use crate::config::{RedisConfig, Settings};
use crate::info::Info;
use crate::keyspace::databases;
use crate::probe::{fingerprint, marker_type, read_info};
use crate::session::Session;

/// How long the server may take to come.
const COMING_TIME_MAX: Duration = Duration::from_secs(30);
/// How long it may take nothing and say nothing. While it loads the file it says something each second.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long it may take to move every moment of expiry, which it does in one go.
const SHIFT_TIME_MAX: Duration = Duration::from_secs(1800);
/// Between two looks at whether it still says something.
const LOOK: Duration = Duration::from_millis(500);
/// The fingerprint of a server that was started for this and ends with it.
const SCRATCH: &str = "scratch";

/// Asks for the position. It is a part of the stream, too.
const ASK: &[&[u8]] = &[b"REPLCONF", b"GETACK", b"*"];

/// Moves every moment of expiry of one database. All are gathered first: a walk may meet a key twice. What has passed already is met, too,
/// because this comes from the primary; but fields of hashes that have passed are not.
const SHIFT: &str = "\
local by, cursor, keys, fields = tonumber(ARGV[1]), '0', {}, {}
local function gather_fields(key)
  local names = redis.call('HKEYS', key)
  for first = 1, #names, 500 do
    local last = math.min(first + 499, #names)
    local at = redis.call('HPEXPIRETIME', key, 'FIELDS', last - first + 1, unpack(names, first, last))
    for index = 1, #at do
      if at[index] > 0 then table.insert(fields, {key, names[first + index - 1], at[index]}) end
    end
  end
end
repeat
  local page = redis.call('SCAN', cursor, 'COUNT', 1000)
  cursor = page[1]
  for _, key in ipairs(page[2]) do
    if keys[key] == nil then
      keys[key] = redis.call('PEXPIRETIME', key)
      if redis.call('TYPE', key).ok == 'hash' then pcall(gather_fields, key) end
    end
  end
until cursor == '0'
for key, at in pairs(keys) do
  if at > 0 then redis.call('PEXPIREAT', key, string.format('%.0f', at + by)) end
end
for _, one in ipairs(fields) do
  redis.call('HPEXPIREAT', one[1], string.format('%.0f', one[3] + by), 'FIELDS', 1, one[2])
end";

/// A Redis that is filled.
#[derive(Debug)]
pub struct RedisReplica {
    settings: Arc<Settings>,
    is_scratch: bool,
}

impl RedisReplica {
    /// The server that `config` describes. Does not connect.
    ///
    /// # Errors
    /// `Config` when the URL or the CA file cannot be used.
    pub fn new(config: &RedisConfig) -> Result<Self> {
        Ok(Self { settings: Arc::new(Settings::resolve(config)?), is_scratch: false })
    }

    /// A server that was started to be filled, and is nobody's.
    ///
    /// # Errors
    /// As [`RedisReplica::new`].
    pub fn scratch(config: &RedisConfig) -> Result<Self> {
        Ok(Self { is_scratch: true, ..Self::new(config)? })
    }

    async fn fingerprint(&self, session: &mut Session<'_>, info: &Info) -> Result<String> {
        match self.is_scratch {
            true => Ok(SCRATCH.to_owned()),
            false => fingerprint(session, info).await,
        }
    }
}

#[async_trait]
impl ReplicaTarget for RedisReplica {
    async fn replica_facts(&self) -> Result<ReplicaFacts> {
        let mut session = Session::open(&self.settings).await.context("connect to Redis")?;
        let info = read_info(&mut session).await.context("read facts of Redis")?;
        let fingerprint = self.fingerprint(&mut session, &info).await.context("read facts of Redis")?;
        let mut databases = databases(&info);
        if marker_type(&mut session).await?.is_some_and(|kind| kind != "none") {
            let own = u64::try_from(self.settings.database).unwrap_or(0);
            for size in databases.iter_mut().filter(|size| size.database == own) {
                size.keys = size.keys.saturating_sub(1);
            }
            databases.retain(|size| size.keys > 0);
        }
        Ok(ReplicaFacts {
            fingerprint,
            version: info.required("redis_version")?.to_owned(),
            is_replica: info.get("role") == Some("slave"),
            databases,
        })
    }

    async fn feed(
        &self,
        at: &ReplicationPoint,
        file_bytes: u64,
        permit: &Permit,
    ) -> Result<Box<dyn ReplicaFeed>> {
        let settings = &self.settings;
        if let Some(watch) = &settings.watch {
            return Err(Error::new(
                ErrorKind::Precondition,
                format!("Sentinels watch {}: they would take a server that is being filled for a replica", watch.name),
            )
            .with_state("nothing was changed")
            .with_hint(format!(
                "have them look away meanwhile, `SENTINEL REMOVE {}`, and name the server: `--redis-url redis://host:port`",
                watch.name
            )));
        }
        let mut session = Session::open(settings).await.context("connect to Redis")?;
        let info = read_info(&mut session).await.context("read facts of Redis")?;
        let fingerprint = self.fingerprint(&mut session, &info).await.context("read facts of Redis")?;
        // A throw-away server is nobody's: what it is filled for may be something else than a restore.
        if !self.is_scratch {
            permit.check("restore.apply", StoreKind::Redis, &fingerprint)?;
        }
        check(&mut session, &info).await?;
        let (own, others) = addresses(settings).await?;
        let listener = TcpListener::bind((own, 0)).await.map_err(|error| {
            Error::new(ErrorKind::Storage, format!("no port can be opened at {own}: {error}"))
        })?;
        let port = listener.local_addr().map_or(0, |address| address.port());
        let mut replicate = cmd("REPLICAOF");
        session.ask::<()>(replicate.arg(own.to_string()).arg(port)).await.context("make it a replica")?;
        let met = timeout(COMING_TIME_MAX, meet(&listener, others)).await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Unreachable,
                format!("{} does not come to {own} port {port} to be filled", settings.address()),
            )
            .with_hint("it must be able to connect to this machine; run the command on its own host"))
        });
        let mut feed = match met {
            Ok(stream) => Feed::new(Arc::clone(settings), stream, at.offset),
            Err(error) => {
                // Nothing was sent: it is as it was.
                session.ask::<()>(cmd("REPLICAOF").arg("NO").arg("ONE")).await?;
                return Err(error.with_state("the server is as it was"));
            }
        };
        let said = format!("+FULLRESYNC {} {}\r\n${file_bytes}\r\n", at.id, at.offset);
        feed.write(said.as_bytes()).await?;
        feed.file_left = file_bytes;
        Ok(Box::new(feed))
    }
}

/// Refuses a server that cannot be filled.
async fn check(session: &mut Session<'_>, info: &Info) -> Result<()> {
    let refuse = |kind, message: &str, hint: &str| {
        Err(Error::new(kind, message).with_state("nothing was changed").with_hint(hint))
    };
    if info.get("role") != Some("master") {
        let hint = "type `REPLICAOF NO ONE` on it, or fill its primary";
        return refuse(ErrorKind::Precondition, "the server is a replica of another one", hint);
    }
    if info.get("redis_mode") == Some("cluster") {
        let hint = "this version fills single servers";
        return refuse(ErrorKind::Unsupported, "a node of a cluster cannot be filled", hint);
    }
    let question = cmd("CONFIG").arg("GET").arg("tls-replication").to_owned();
    let setting: Option<Vec<String>> = session.ask_if_allowed(&question).await?;
    if setting.is_some_and(|pair| pair.get(1).is_some_and(|value| value == "yes")) {
        let hint = "type `CONFIG SET tls-replication no` while it is filled";
        return refuse(ErrorKind::Unsupported, "the server replicates over TLS alone", hint);
    }
    Ok(())
}

/// The address of this machine that the server can reach, and the server's own.
async fn addresses(settings: &Settings) -> Result<(IpAddr, IpAddr)> {
    let gone = |error: std::io::Error| {
        Error::new(ErrorKind::Unreachable, format!("{} cannot be reached: {error}", settings.address()))
    };
    let stream = TcpStream::connect((settings.host.as_str(), settings.port)).await.map_err(gone)?;
    let ip = |address: SocketAddr| address.ip().to_canonical();
    Ok((ip(stream.local_addr().map_err(gone)?), ip(stream.peer_addr().map_err(gone)?)))
}

/// Waits for the server and answers what a replica says first, up to where it asks for the data.
async fn meet(listener: &TcpListener, from: IpAddr) -> Result<TcpStream> {
    loop {
        let accepted = listener.accept().await;
        let (mut stream, peer) = accepted.map_err(|error| {
            Error::new(ErrorKind::Unreachable, format!("no connection can be taken: {error}"))
        })?;
        if peer.ip().to_canonical() == from && greet(&mut stream).await {
            return Ok(stream);
        }
    }
}

/// Whether whoever has connected is a replica that asks for the data.
async fn greet(stream: &mut TcpStream) -> bool {
    let mut reading = Reading::new();
    let mut buffer = [0; 1024];
    loop {
        let Ok(count) = stream.read(&mut buffer).await else { return false };
        if count == 0 {
            return false;
        }
        let (mut answer, mut asks) = (Vec::new(), false);
        let read = reading.take(&buffer[..count], |command| {
            match () {
                () if command.is("psync") || command.is("sync") => asks = true,
                () if command.is("ping") => answer.extend_from_slice(b"+PONG\r\n"),
                () if command.is("replconf") || command.is("auth") => answer.extend_from_slice(b"+OK\r\n"),
                () => answer.extend_from_slice(b"-ERR this is no server\r\n"),
            };
        });
        if read.is_err() || stream.write_all(&answer).await.is_err() {
            return false;
        }
        if asks {
            return true;
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
    /// Bytes of the file that were not sent yet.
    file_left: u64,
    /// The position after what was sent of the stream.
    sent: u64,
    /// Ends with this.
    _listening: JoinSet<()>,
}

impl Feed {
    fn new(settings: Arc<Settings>, stream: TcpStream, sent: u64) -> Self {
        let (read, write) = stream.into_split();
        let beginning = Heard { acknowledged: None, at: Instant::now(), has_ended: false };
        let (tell, heard) = watch::channel(beginning);
        let mut listening = JoinSet::new();
        listening.spawn(listen(read, tell));
        Self { settings, stream: write, heard, file_left: 0, sent, _listening: listening }
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

    /// Waits until everything sent is acknowledged, as long as something is heard within `silence_max`.
    async fn acknowledged(&mut self, silence_max: Duration) -> Result<u64> {
        let expected = self.sent;
        self.command(ASK).await?;
        loop {
            let heard = self.heard.borrow_and_update().clone();
            match heard.acknowledged {
                // The question has been counted by the time of a later acknowledgement.
                Some(at) if at == expected || at == self.sent => return Ok(expected),
                Some(at) if at > expected => {
                    let message = format!("{} is at {at}, {expected} was sent", self.settings.address());
                    return Err(Error::new(ErrorKind::Server, message));
                }
                _ if heard.has_ended => return Err(self.gone("has ended the connection that fills it")),
                _ if heard.at.elapsed() > silence_max => return Err(self.gone("says nothing more")),
                _ => {}
            }
            // Whoever tells has ended when this fails, which is seen at the next look.
            let _ = timeout(LOOK, self.heard.changed()).await;
        }
    }

    async fn session(&self) -> Result<Session<'_>> {
        Session::open(&self.settings).await.context("connect to Redis")
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
        self.acknowledged(SILENCE_MAX).await
    }

    async fn shift_expiry(&mut self, by_ms: i64) -> Result<()> {
        let by = by_ms.to_string();
        for size in self.databases().await? {
            let database = size.database.to_string();
            self.command(&[b"SELECT", database.as_bytes()]).await?;
            self.command(&[b"EVAL", SHIFT.as_bytes(), b"0", by.as_bytes()]).await?;
        }
        self.acknowledged(SHIFT_TIME_MAX).await.map(drop)
    }

    async fn databases(&mut self) -> Result<Vec<KeyspaceSize>> {
        let mut session = self.session().await?;
        let reply: String =
            session.ask(cmd("INFO").arg("keyspace")).await.context("list databases of Redis")?;
        Ok(databases(&Info::parse(&reply)))
    }

    async fn promote(self: Box<Self>) -> Result<()> {
        let mut session = self.session().await?;
        session.ask::<()>(cmd("REPLICAOF").arg("NO").arg("ONE")).await.context("promote the server")?;
        let info = read_info(&mut session).await?;
        match info.required("role")? {
            "master" => Ok(()),
            role => Err(Error::new(ErrorKind::Server, format!("the server is {role} after its promotion"))),
        }
    }

    async fn give_up(self: Box<Self>) -> Result<&'static str> {
        let mut session = self.session().await?;
        session.ask::<()>(cmd("REPLICAOF").arg("NO").arg("ONE")).await?;
        if self.file_left > 0 {
            return Ok("the server is one of its own again and holds what it held");
        }
        session.ask::<()>(&cmd("FLUSHALL")).await?;
        Ok("the server is one of its own again and is empty")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
