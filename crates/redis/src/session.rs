//! One connection: opened, logged in, every answer bounded in time.

use std::borrow::Cow;
use std::time::Duration;

use mainstay_model::{Error, ErrorKind, Result};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, Pipeline, RedisError, Value, cmd};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cluster::bracketed;
use crate::config::Settings;
use crate::failure::{failure, server_failure, turned_away, unresolved};
use crate::info::Info;
use crate::sentinel;

/// How long the server may take over one command.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(15);
/// How long a server that turns a connection away is given to say why.
const REASON_TIME_MAX: Duration = Duration::from_millis(500);
/// How a replica begins to refuse a write.
const READ_ONLY: &str = "READONLY";

/// A connection that ends when this is dropped.
pub(crate) struct Session<'a> {
    settings: Cow<'a, Settings>,
    connection: MultiplexedConnection,
}

impl<'a> Session<'a> {
    /// A session with the server of `settings`, or with the one that Sentinels tell.
    ///
    /// # Errors
    /// `Unsupported` when a Sentinel answers, naming what it watches; the server's.
    pub(crate) async fn open(settings: &'a Settings) -> Result<Self> {
        let mut session = Self::connected(sentinel::current(settings).await?).await?;
        // Also without a database to select: it is the first answer, which tells a server that is not ready or asks for a password.
        match session.select_own().await {
            Ok(()) => Ok(session),
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                let address = session.settings.address();
                Err(sentinel::refusal(&mut session, &address).await)
            }
            Err(error) => Err(session.plainer(error).await),
        }
    }

    /// A connection that is logged in and has selected nothing, to whatever listens at the place of `settings`.
    pub(crate) async fn connect(settings: &'a Settings) -> Result<Self> {
        Self::connected(Cow::Borrowed(settings)).await
    }

    async fn connected(settings: Cow<'a, Settings>) -> Result<Self> {
        let times = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(settings.connect_timeout))
            .set_response_timeout(Some(ANSWER_TIME_MAX));
        let connected = settings.client.get_multiplexed_async_connection_with_config(&times).await;
        let mut session = match connected {
            Ok(connection) => Self { settings, connection },
            Err(error) => {
                let failed = failure(&settings, error);
                return Err(plainer_reason(&settings, &failed).await.unwrap_or(failed));
            }
        };
        match session.log_in().await {
            Ok(()) => Ok(session),
            Err(error) => Err(session.plainer(error).await),
        }
    }

    async fn log_in(&mut self) -> Result<()> {
        let Some(words) = self.settings.login() else { return Ok(()) };
        let mut auth = cmd("AUTH");
        auth.arg(&words);
        self.ask::<()>(&auth).await
    }

    async fn plainer(&self, failed: Error) -> Error {
        plainer_reason(&self.settings, &failed).await.unwrap_or(failed)
    }

    /// Selects the configured database.
    pub(crate) async fn select_own(&mut self) -> Result<()> {
        self.ask::<()>(cmd("SELECT").arg(self.settings.database)).await
    }

    /// One command and its answer.
    pub(crate) async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T> {
        match self.try_ask(command).await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.failure(error).await),
        }
    }

    /// As [`Session::ask`]; `None` when this user may not give the command or the server does not know it.
    pub(crate) async fn ask_if_allowed<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<Option<T>> {
        match self.try_ask(command).await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if is_denied(&error) => Ok(None),
            Err(error) => Err(failure(&self.settings, error)),
        }
    }

    /// Whether the server gives an answer to a command about a key: it may be forbidden, unknown, or not to be told as things are. That the
    /// key is with another node is an answer.
    pub(crate) async fn answers(&mut self, command: &Cmd) -> Result<bool> {
        match self.try_ask::<Value>(command).await {
            Ok(_) => Ok(true),
            Err(error) if is_elsewhere(&error) => Ok(true),
            Err(error) if matches!(error.code(), Some("NOPERM" | "ERR")) => Ok(false),
            Err(error) => Err(failure(&self.settings, error)),
        }
    }

    /// As [`Session::ask_if_allowed`] about a key; `None` also when the key is with another node of the cluster.
    pub(crate) async fn ask_if_here<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<Option<T>> {
        match self.try_ask(command).await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if is_denied(&error) || is_elsewhere(&error) => Ok(None),
            Err(error) => Err(failure(&self.settings, error)),
        }
    }

    /// The node of a cluster that has the key which a command is about, as `host:port`; `None` when it is this one.
    pub(crate) async fn place_of(&mut self, command: &Cmd) -> Result<Option<String>> {
        match self.try_ask::<Value>(command).await {
            Ok(_) => Ok(None),
            Err(error) if is_elsewhere(&error) => {
                // `<slot> <host>:<port>`; a node that does not know its own name tells the port alone, or a mark.
                let place = error.detail().unwrap_or_default().rsplit(' ').next().unwrap_or_default();
                Ok(Some(match place.rsplit_once(':') {
                    Some(("" | "?", port)) => bracketed(&format!("{}:{port}", self.settings.host)),
                    _ => bracketed(place),
                }))
            }
            Err(error) => Err(failure(&self.settings, error)),
        }
    }

    /// Several commands at once, and their answers in the same order.
    pub(crate) async fn ask_all(&mut self, commands: &Pipeline) -> Result<Vec<Value>> {
        match commands.query_async(&mut self.connection).await {
            Ok(answers) => Ok(answers),
            Err(error) => Err(self.failure(error).await),
        }
    }

    /// The house's error; where a replica refuses a write, with the place of its master.
    async fn failure(&mut self, error: RedisError) -> Error {
        let refusals = error.clone().into_server_errors();
        let is_read_only = match refusals.as_deref() {
            Some([(_, first), ..]) => first.code() == READ_ONLY,
            _ => error.code() == Some(READ_ONLY),
        };
        let failed = failure(&self.settings, error);
        if is_read_only { self.toward_master(failed).await } else { failed }
    }

    /// The error for a command among several that the server has refused; where a replica refuses a write, with the place of its master.
    pub(crate) async fn refusal(&mut self, code: &str, detail: &str) -> Error {
        let refused = server_failure(&self.settings, code, detail);
        if code == READ_ONLY { self.toward_master(refused).await } else { refused }
    }

    /// The refusal of a replica, with what to type to reach its master, where the server tells.
    async fn toward_master(&mut self, refused: Error) -> Error {
        let told: Result<String, RedisError> = self.try_ask(cmd("INFO").arg("replication")).await;
        let Ok(info) = told.map(|reply| Info::parse(&reply)) else { return refused };
        let (Some(host), Some(port)) = (info.get("master_host"), info.number("master_port")) else {
            return refused;
        };
        let scheme = if self.settings.tls { "rediss" } else { "redis" };
        let place = bracketed(&format!("{host}:{port}"));
        refused.with_hint(format!("name its master, as it knows it: `--redis-url {scheme}://{place}`"))
    }

    async fn try_ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, RedisError> {
        command.query_async(&mut self.connection).await
    }
}

/// A node of a cluster names the node that has the key.
fn is_elsewhere(error: &RedisError) -> bool {
    matches!(error.code(), Some("MOVED" | "ASK"))
}

/// Managed services forbid commands by ACL, or rename them away.
fn is_denied(error: &RedisError) -> bool {
    match error.code() {
        Some("NOPERM") => true,
        Some("ERR") => error.detail().is_some_and(|text| {
            text.starts_with("unknown command") || text.starts_with("unknown subcommand")
        }),
        _ => false,
    }
}

/// The driver does not say whether it was the name or the connection that failed, and drops what a server says before the first command: ask
/// again, for that alone.
async fn plainer_reason(settings: &Settings, failed: &Error) -> Option<Error> {
    if failed.kind() != ErrorKind::Unreachable {
        return None;
    }
    let place = (settings.host.as_str(), settings.port);
    match timeout(settings.connect_timeout, tokio::net::lookup_host(place)).await {
        Ok(Err(_)) => return Some(unresolved(&settings.host)),
        Ok(Ok(_)) => {}
        Err(_) => return None,
    }
    if settings.tls {
        return None;
    }
    let mut stream = timeout(settings.connect_timeout, TcpStream::connect(place)).await.ok()?.ok()?;
    let mut line = [0; 256];
    let length = timeout(REASON_TIME_MAX, stream.read(&mut line)).await.ok()?.ok()?;
    turned_away(settings, &String::from_utf8_lossy(&line[..length]))
}
