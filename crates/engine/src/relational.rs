//! Looking into a running relational server: who is connected and does what, who blocks whom, which statements cost most, which tables hold
//! dead weight, how WAL flows and what retains it.
//!
//! Statements cross as [`SqlText`]: their values are somebody's data and stay out of sight unless they are asked for by name. Lengths of time
//! are reckoned by the server's own clock. Nothing here takes a lock on a table.

use std::fmt;

use async_trait::async_trait;
use mainstay_guard::Permit;
use mainstay_model::{Lsn, Result};
use serde::{Deserialize, Serialize};

use crate::literal::Literal;

/// A statement. Shown without its values; the whole of it is a [`Literal`], which must be asked for.
#[derive(Clone, PartialEq, Eq)]
pub struct SqlText {
    masked: String,
    whole: Literal,
}

impl SqlText {
    /// A statement that reads `masked` without its values, and `whole` with them.
    pub fn new(masked: String, whole: String) -> Self {
        Self { masked, whole: Literal::new("statement", whole) }
    }

    /// The statement with the types of its values in their places, on one line.
    pub fn masked(&self) -> &str {
        &self.masked
    }

    /// The statement as it was sent. Somebody's data: only for whoever asked to see it.
    pub fn whole(&self) -> &Literal {
        &self.whole
    }
}

impl fmt::Debug for SqlText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked)
    }
}

/// Which backend is meant: numbers are used again, a number and the moment it began are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendId {
    /// The process.
    pub pid: i32,
    /// When it began, in microseconds since 1970 by the server's clock.
    pub began_micros: i64,
}

/// A lock that somebody has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeldLock {
    /// On what: `public.orders`, `transaction 758`, `advisory lock 42`.
    pub on: String,
    /// In the server's words: `AccessExclusiveLock`.
    pub mode: String,
}

/// A lock that somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WantedLock {
    /// On what, as in [`HeldLock`].
    pub on: String,
    /// In the server's words.
    pub mode: String,
    /// For how long.
    pub micros: u64,
}

/// A process of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Which.
    pub id: BackendId,
    /// In the server's words: `client backend`, `walsender`, `autovacuum worker`. `None` when the role may not know.
    pub kind: Option<String>,
    /// The database it is connected to.
    pub database: Option<String>,
    /// The role it acts as.
    pub user: Option<String>,
    /// What the client calls itself; may be empty.
    pub app_name: String,
    /// The client's address; `None` over a socket of the machine, and for the server's own work.
    pub client: Option<String>,
    /// In the server's words: `active`, `idle in transaction`.
    pub state: Option<String>,
    /// How long it has been in that state.
    pub state_micros: Option<u64>,
    /// The present statement, or the last one when it is idle.
    pub statement: Option<SqlText>,
    /// When that statement began, in microseconds since 1970.
    pub statement_began_micros: Option<i64>,
    /// How long ago that was.
    pub statement_micros: Option<u64>,
    /// How long its transaction has been open; `None` without one.
    pub transaction_micros: Option<u64>,
    /// What it waits for, as `class: event`.
    pub wait: Option<String>,
    /// The lock it waits for.
    pub wants: Option<WantedLock>,
    /// Who keeps it from getting that lock. A process that is prepared and not committed is 0.
    pub blocked_by: Vec<i32>,
    /// What it has locked; told of those who wait or are waited for.
    pub holds: Vec<HeldLock>,
}

impl Backend {
    /// Whether a client is at its other end.
    pub fn is_client(&self) -> bool {
        match &self.kind {
            Some(kind) => kind == "client backend",
            None => self.database.is_some(),
        }
    }
}

/// Every process of a server but the one that answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backends {
    /// The processes, by number.
    pub list: Vec<Backend>,
    /// Connections of clients, this one included.
    pub connections: u64,
    /// How many clients may connect at all.
    pub connections_max: u64,
    /// How many of those are kept for the few: superusers and `pg_use_reserved_connections`.
    pub connections_reserved: u64,
}

/// How a backend is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendEnd {
    /// Its statement ends with an error; the connection stays.
    Cancel,
    /// Its connection ends, and its transaction with it.
    Terminate,
}

/// Which statements are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatementRequest {
    /// At most so many, the dearest first.
    pub count_max: u16,
    /// Those of all databases, not only of the connected one.
    pub all_databases: bool,
}

/// What the server keeps of a statement that was run with different values.
#[derive(Debug, Clone, PartialEq)]
pub struct StatementCost {
    /// The server's number of it.
    pub id: String,
    /// Where it ran; `None` when that database is gone.
    pub database: Option<String>,
    /// Whose it was.
    pub user: Option<String>,
    /// The statement; `None` when the role may not see it.
    pub statement: Option<SqlText>,
    /// How often it ran.
    pub calls: u64,
    /// For how long in all, in milliseconds.
    pub total_ms: f64,
    /// On average.
    pub mean_ms: f64,
    /// At most.
    pub max_ms: f64,
    /// Rows it gave or changed.
    pub rows: u64,
    /// Blocks found in the server's memory.
    pub blocks_hit: u64,
    /// Blocks that had to be read.
    pub blocks_read: u64,
    /// Blocks of temporary files written: sorts and hashes that did not fit into memory.
    pub temporary_blocks_written: u64,
    /// WAL it made, in bytes.
    pub wal_bytes: u64,
}

/// Statements by what they cost.
#[derive(Debug, Clone, PartialEq)]
pub struct StatementCosts {
    /// The dearest first.
    pub list: Vec<StatementCost>,
    /// How many statements the server keeps numbers of, those left out included.
    pub count: u64,
    /// What all of them took, in milliseconds.
    pub total_ms: f64,
    /// Since when, in seconds; `None` when the server does not tell.
    pub since_seconds: Option<u64>,
    /// How often the server forgot statements for want of room.
    pub forgotten: Option<u64>,
}

/// A table, as the server's statistics have it. Pages and rows are of the last vacuum or analyze.
#[derive(Debug, Clone, PartialEq)]
pub struct TableUse {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Pages of the table itself.
    pub pages: u64,
    /// Pages of its indexes.
    pub index_pages: u64,
    /// Pages of what is too long for its rows.
    pub long_value_pages: u64,
    /// How long a page is, in bytes.
    pub page_bytes: u64,
    /// Rows; `None` before the first vacuum or analyze.
    pub rows: Option<u64>,
    /// Rows that are alive, as counted while the server runs.
    pub live_rows: u64,
    /// Rows that are dead and not yet removed.
    pub dead_rows: u64,
    /// Columns.
    pub columns: u32,
    /// Mean bytes of a row's values; `None` when it was never analysed or the role may not read the table.
    pub row_bytes: Option<f64>,
    /// Whether rows have absent values.
    pub has_nulls: bool,
    /// How full a page is made, in percent.
    pub fill_percent: u8,
    /// Seconds since the last vacuum, by hand or not.
    pub vacuumed_seconds: Option<u64>,
    /// Seconds since the last one that nobody asked for.
    pub autovacuumed_seconds: Option<u64>,
    /// Seconds since the last analyze, by hand or not.
    pub analyzed_seconds: Option<u64>,
    /// Transactions since its oldest row was frozen.
    pub freeze_age: u64,
}

/// How WAL flows, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalFlow {
    /// Where writing is; on a standby, where replaying is.
    pub at: Lsn,
    /// Whether the server replays what another one writes.
    pub in_recovery: bool,
    /// When this was seen, in microseconds since 1970.
    pub seen_micros: i64,
    /// How long a segment is, in bytes.
    pub segment_bytes: u64,
    /// Size from which a checkpoint is begun, in bytes.
    pub size_max_bytes: u64,
    /// `off`, `on`, `always`.
    pub archive_mode: String,
    /// Segments archived since statistics were reset.
    pub archived: u64,
    /// Failed tries since then.
    pub failed: u64,
    /// Seconds since the last success.
    pub archived_seconds: Option<u64>,
    /// The segment that fails since the last success.
    pub failing: Option<String>,
    /// Segments that wait to be archived; `None` when the role may not know.
    pub pending: Option<u64>,
    /// Files in the directory of WAL and their bytes; `None` when the role may not know.
    pub directory: Option<(u64, u64)>,
}

/// A slot, and what it retains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SlotUse {
    /// Its name.
    pub name: String,
    /// `physical` or `logical`.
    pub kind: String,
    /// Of a logical slot: its database.
    pub database: Option<String>,
    /// Whether somebody reads it now.
    pub active: bool,
    /// Who, by number of process.
    pub pid: Option<i32>,
    /// Whether it ends with its connection.
    pub temporary: bool,
    /// WAL that it keeps from being removed, in bytes; `None` when it reserves none.
    pub retained_bytes: Option<u64>,
    /// `reserved`, `extended`, `unreserved`, `lost`.
    pub wal_status: Option<String>,
    /// How much WAL may still be written before it is in danger of being lost, in bytes; `None` without a bound.
    pub safe_bytes: Option<i64>,
    /// Seconds since nobody reads it; `None` while somebody does, and on servers that do not tell.
    pub inactive_seconds: Option<u64>,
    /// Why it can no longer be used.
    pub invalid: Option<String>,
}

/// All slots of a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slots {
    /// By name.
    pub list: Vec<SlotUse>,
    /// Most WAL that a slot may retain, in bytes; `None` when nothing bounds it.
    pub retained_bytes_max: Option<u64>,
}

/// Looks into a running relational server.
#[async_trait]
pub trait RelationalInspection: Send + Sync {
    /// Every process but the one that answers, with who blocks whom.
    ///
    /// # Errors
    /// The server's. What the role may not see is left out, not refused.
    async fn backends(&self) -> Result<Backends>;

    /// Ends the statement or the connection of a backend, if it still is the one that is meant. Gives false when it is gone.
    ///
    /// # Errors
    /// `Auth` for want of `pg_signal_backend`; `Refused` when `permit` is for another server or something else.
    async fn end_backend(&self, id: BackendId, how: BackendEnd, permit: &Permit) -> Result<bool>;

    /// The dearest statements.
    ///
    /// # Errors
    /// `Precondition` when the server does not keep them, with what to type so that it does.
    async fn statements(&self, request: StatementRequest) -> Result<StatementCosts>;

    /// Every table of the connected database that is not the server's own.
    ///
    /// # Errors
    /// The server's.
    async fn tables(&self) -> Result<Vec<TableUse>>;

    /// How WAL flows.
    ///
    /// # Errors
    /// The server's.
    async fn wal_flow(&self) -> Result<WalFlow>;

    /// What retains WAL.
    ///
    /// # Errors
    /// The server's.
    async fn slots(&self) -> Result<Slots>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_shows_no_value_unasked() {
        let text = SqlText::new("SELECT <string>".to_owned(), "SELECT 'canary'".to_owned());
        assert_eq!(format!("{text:?}"), "SELECT <string>");
        assert!(!format!("{:?}", text.whole()).contains("canary"));
        assert_eq!(text.whole().expose(), "SELECT 'canary'");
    }
}
