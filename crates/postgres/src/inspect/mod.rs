//! Looking into a running server: its processes and their locks, statements, tables, WAL and slots.
//!
//! Every question is one query of the server's own views, read as text, and takes no lock on a table: sizes are those of the last vacuum or
//! analyze, so that looking never waits behind what it looks for. Values leave this module as what they are and judged by nobody;
//! statements leave it with their constants hidden ([`crate::mask`]). What the role may not see is left out.

mod backends;
mod statements;
mod tables;
mod wal;

use async_trait::async_trait;
use mainstay_engine::{
    BackendEnd, BackendId, Backends, RelationalInspection, Slots, SqlText, StatementCosts, StatementRequest,
    TableUse, WalFlow,
};
use mainstay_guard::Permit;
use mainstay_model::{Result, ResultExt, StoreKind};

use crate::config::{PostgresConfig, Settings};
use crate::mask::mask;
use crate::probe::fingerprint;
use crate::session::Session;

/// What the server sends instead of a statement that the role may not see.
const NOT_TO_BE_SEEN: &str = "<insufficient privilege>";

/// Looks into a PostgreSQL. Each call opens a connection of its own and ends it.
#[derive(Debug)]
pub struct PostgresInspection {
    settings: Settings,
}

impl PostgresInspection {
    /// An inspection of the server that `config` describes. Does not connect.
    ///
    /// # Errors
    /// `Config` when the URL cannot be used; no part of it that may be secret is shown.
    pub fn new(config: &PostgresConfig) -> Result<Self> {
        Ok(Self { settings: Settings::resolve(config)? })
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        self.settings.address.clone()
    }

    async fn open(&self) -> Result<Session<'_>> {
        Session::open(&self.settings).await.context("connect to PostgreSQL")
    }
}

#[async_trait]
impl RelationalInspection for PostgresInspection {
    async fn backends(&self) -> Result<Backends> {
        let session = self.open().await?;
        backends::read(&session).await.context("read the processes of PostgreSQL")
    }

    async fn end_backend(&self, id: BackendId, how: BackendEnd, permit: &Permit) -> Result<bool> {
        let session = self.open().await?;
        let operation = match how {
            BackendEnd::Cancel => "pg.activity.cancel",
            BackendEnd::Terminate => "pg.activity.terminate",
        };
        permit.check(operation, StoreKind::Postgres, &fingerprint(&session).await?)?;
        backends::end(&session, id, how).await.with_context(|| format!("end process {}", id.pid))
    }

    async fn statements(&self, request: StatementRequest) -> Result<StatementCosts> {
        let session = self.open().await?;
        statements::read(&session, request, &self.settings).await.context("read statements of PostgreSQL")
    }

    async fn tables(&self) -> Result<Vec<TableUse>> {
        let session = self.open().await?;
        tables::read(&session).await.context("read the statistics of tables")
    }

    async fn wal_flow(&self) -> Result<WalFlow> {
        let session = self.open().await?;
        wal::read_flow(&session).await.context("read the state of WAL")
    }

    async fn slots(&self) -> Result<Slots> {
        let session = self.open().await?;
        wal::read_slots(&session).await.context("read replication slots")
    }
}

/// A statement as it crosses to the operations; `None` for one that the role may not see.
pub(crate) fn statement(sql: &str) -> Option<SqlText> {
    (!sql.is_empty() && sql != NOT_TO_BE_SEEN).then(|| SqlText::new(mask(sql), sql.to_owned()))
}
