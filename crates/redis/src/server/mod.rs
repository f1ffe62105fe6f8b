//! The running server: what it says of itself, and the few settings of it that are changed.
//!
//! Looking reads `INFO`, `MEMORY STATS`, `SLOWLOG` and `CONFIG GET`, whose time does not grow with the data. Changing is `CONFIG SET`,
//! `CONFIG REWRITE` and `BGSAVE`, each behind a permit that is compared with the server that answers on the same connection. Refuses nothing
//! by itself: which settings may be changed, and in which order, whoever asks decides.

mod calls;
pub(crate) mod look;
mod memory;

use async_trait::async_trait;
use mainstay_engine::{
    CommandCost, KeyServerControl, KeyServerInspection, KeyServerLook, KeyServerSettings, MemoryParts,
    SlowCalls,
};
use mainstay_guard::Permit;
use mainstay_model::{Result, ResultExt, StoreKind};
use redis::{Pipeline, Value, cmd};

use crate::config::{RedisConfig, Settings};
use crate::info::Info;
use crate::probe::{fingerprint, read_info};
use crate::session::Session;

/// What a permit to change settings for good is for.
const POLICY: &str = "redis.policy.apply";
/// What a permit to change them while a backup begins is for.
const BACKUP: &str = "backup.create";

/// A running Redis. Each call opens a connection of its own and ends it.
#[derive(Debug)]
pub struct RedisServer {
    settings: Settings,
    /// What its settings are changed for.
    operation: &'static str,
}

impl RedisServer {
    /// The server that `config` describes, changed by permits for its policy. Does not connect.
    ///
    /// # Errors
    /// `Config` when the URL or the CA file cannot be used.
    pub fn new(config: &RedisConfig) -> Result<Self> {
        Ok(Self { settings: Settings::resolve(config)?, operation: POLICY })
    }

    /// The same, changed by permits for a backup.
    ///
    /// # Errors
    /// As [`RedisServer::new`].
    pub fn of_backup(config: &RedisConfig) -> Result<Self> {
        Ok(Self { operation: BACKUP, ..Self::new(config)? })
    }

    async fn open(&self) -> Result<Session<'_>> {
        Session::open(&self.settings).await.context("connect to Redis")
    }

    /// A connection to a server that the permit is for.
    async fn permitted(&self, permit: &Permit) -> Result<Session<'_>> {
        let mut session = self.open().await?;
        let info = read_info(&mut session).await.context("read facts of Redis")?;
        let fingerprint = fingerprint(&mut session, &info).await.context("read facts of Redis")?;
        permit.check(self.operation, StoreKind::Redis, &fingerprint)?;
        Ok(session)
    }
}

#[async_trait]
impl KeyServerInspection for RedisServer {
    fn address(&self) -> String {
        self.settings.address()
    }

    async fn look(&self) -> Result<KeyServerLook> {
        let mut session = self.open().await?;
        let info = read_info(&mut session).await.context("read facts of Redis")?;
        let save: Option<KeyServerSettings> =
            session.ask_if_allowed(cmd("CONFIG").arg("GET").arg("save")).await?;
        let save = save.as_ref().and_then(|settings| settings.get("save")).map(String::as_str);
        look::read(&info, save)
    }

    async fn memory(&self) -> Result<MemoryParts> {
        let mut session = self.open().await?;
        let stats: Value =
            session.ask(cmd("MEMORY").arg("STATS")).await.context("ask what Redis has in memory")?;
        let doctor: Option<String> = session.ask_if_allowed(cmd("MEMORY").arg("DOCTOR")).await?;
        Ok(memory::read(&stats, doctor))
    }

    async fn slow_calls(&self, count_max: u32) -> Result<SlowCalls> {
        let mut session = self.open().await?;
        let entries: Value = { session.ask(cmd("SLOWLOG").arg("GET").arg(count_max)).await }
            .context("read the slow log of Redis")?;
        let entries = calls::entries(&entries);
        let mut names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let known: Option<Value> = match names.is_empty() {
            true => None,
            false => session.ask_if_allowed(cmd("COMMAND").arg("INFO").arg(&names)).await?,
        };
        let forms = known.as_ref().map(calls::forms).unwrap_or_default();
        let asked = ["slowlog-log-slower-than", "slowlog-max-len"];
        let settings: Option<KeyServerSettings> =
            session.ask_if_allowed(cmd("CONFIG").arg("GET").arg(&asked)).await?;
        let settings = settings.unwrap_or_default();
        Ok(SlowCalls {
            calls: entries.into_iter().map(|entry| entry.into_call(&forms)).collect(),
            threshold_micros: settings.get(asked[0]).and_then(|text| text.parse().ok()),
            kept_max: settings.get(asked[1]).and_then(|text| text.parse().ok()),
        })
    }

    async fn command_costs(&self) -> Result<Vec<CommandCost>> {
        let mut session = self.open().await?;
        let mut section = async |name: &str| -> Result<Info> {
            Ok(Info::parse(&session.ask::<String>(cmd("INFO").arg(name)).await?))
        };
        let (costs, latencies) = (section("commandstats").await?, section("latencystats").await?);
        Ok(calls::costs(&costs, &latencies))
    }

    async fn settings(&self, names: &[&str]) -> Result<KeyServerSettings> {
        let mut session = self.open().await?;
        session.ask(cmd("CONFIG").arg("GET").arg(names)).await.context("read settings of Redis")
    }
}

#[async_trait]
impl KeyServerControl for RedisServer {
    async fn set(&self, settings: &KeyServerSettings, permit: &Permit) -> Result<()> {
        let mut session = self.permitted(permit).await?;
        session.ask::<()>(&set_command(settings)).await.context("change settings of Redis")
    }

    async fn keep(&self, permit: &Permit) -> Result<()> {
        let mut session = self.permitted(permit).await?;
        session.ask::<()>(cmd("CONFIG").arg("REWRITE")).await.context("keep settings of Redis in its file")
    }

    async fn set_and_keep(&self, settings: &KeyServerSettings, permit: &Permit) -> Result<()> {
        let mut session = self.permitted(permit).await?;
        let mut pipeline = Pipeline::new();
        pipeline.atomic().add_command(set_command(settings));
        pipeline.cmd("CONFIG").arg("REWRITE");
        let Err(error) = session.ask_all(&pipeline).await else { return Ok(()) };
        let names: Vec<&str> = settings.keys().map(String::as_str).collect();
        let now = self.settings(&names).await;
        Err(match now {
            Ok(now) if now == *settings => {
                error.with_state("the settings are changed until the server ends, and then forgotten")
            }
            Ok(_) => error.with_state("nothing was changed"),
            Err(_) => error,
        }
        .context("change settings of Redis and keep them in its file"))
    }

    async fn begin_snapshot(&self, permit: &Permit) -> Result<()> {
        let mut session = self.permitted(permit).await?;
        session.ask::<String>(&cmd("BGSAVE")).await.context("begin a snapshot of Redis").map(drop)
    }
}

fn set_command(settings: &KeyServerSettings) -> redis::Cmd {
    let mut command = cmd("CONFIG");
    command.arg("SET");
    for (name, value) in settings {
        command.arg(name).arg(value);
    }
    command
}
