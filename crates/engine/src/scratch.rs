//! Throw-away servers: a restored folder, started for a look at it and ended again.
//!
//! The contract in short. A [`ScratchHost`] starts a server of local programs on a folder that may be used up. The server listens on no network,
//! archives nothing, follows nobody and takes writes when its recovery has ended. A [`ScratchQuery`] is asked in a read-only transaction; what its
//! functions do outside of tables, as a superuser and as this user of the operating system, is its author's responsibility. Whoever drops a
//! [`ScratchServer`] ends it.

use std::path::Path;

use async_trait::async_trait;
use mainstay_model::{Lsn, Result};
use serde::Serialize;

/// Starts throw-away servers.
#[async_trait]
pub trait ScratchHost: Send + Sync {
    /// Finds out whether a server of `version` can be started here.
    ///
    /// # Errors
    /// `Precondition` when its programs are not there or do not fit, or when it must not run as this user.
    async fn check(&self, version: &str) -> Result<()>;

    /// The queries of a file, told apart; never none.
    ///
    /// # Errors
    /// `Usage` for a file that cannot be one of queries, with the line.
    fn queries(&self, file: &[u8]) -> Result<Vec<ScratchQuery>>;

    /// Starts a server of `version` on `folder`; does not wait until it answers.
    ///
    /// # Errors
    /// As [`ScratchHost::check`]; `Storage`.
    async fn start(&self, folder: &Path, version: &str) -> Result<Box<dyn ScratchServer>>;
}

/// How far a server has recovered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScratchProgress {
    /// The end of the last record that it replayed.
    pub replayed: Option<Lsn>,
    /// The timeline that it writes on; `None` while it recovers.
    pub timeline: Option<u32>,
}

/// A table of some database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScratchTable {
    /// The database.
    pub database: String,
    /// The schema.
    pub schema: String,
    /// The table.
    pub table: String,
}

/// A query of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScratchQuery {
    /// Which of the file, counted from 1.
    pub number: u64,
    /// The line that it begins in, counted from 1.
    pub line: u64,
    /// The database that it is asked of; the configured one without.
    #[serde(skip)]
    pub database: Option<String>,
    /// What is asked.
    #[serde(rename = "query")]
    pub text: String,
}

/// What came of a query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScratchAnswer {
    /// The database that was asked.
    pub database: String,
    /// The names of its columns, in order.
    pub columns: Vec<String>,
    /// The first rows, their values as text, long ones cut off; NULL is `None`.
    pub rows: Vec<Vec<Option<String>>>,
    /// How many rows there are.
    pub row_count: u64,
    /// Whether the answer is one column of truth values, so that every row is to be true.
    pub is_claim: bool,
    /// The first row of a claim that is not true, counted from 1.
    pub untrue_row: Option<u64>,
}

/// What the server's own program found in relations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelationCheck {
    /// It cannot be run here, for this reason.
    Unavailable(String),
    /// Everything is sound.
    Sound,
    /// Damage, one line each, the first ones.
    Damaged(Vec<String>),
}

/// A server that was started for a look.
#[async_trait]
pub trait ScratchServer: Send {
    /// How far it is; `None` while it answers nobody yet.
    ///
    /// # Errors
    /// When it has ended, in its own words.
    async fn progress(&mut self) -> Result<Option<ScratchProgress>>;

    /// The tables of all databases, those of the server itself aside.
    async fn tables(&mut self) -> Result<Vec<ScratchTable>>;

    /// Reads a table to its end; gives the number of its rows.
    ///
    /// # Errors
    /// The server's, when it cannot be read.
    async fn count(&mut self, table: &ScratchTable) -> Result<u64>;

    /// Asks a query, in a read-only transaction of its own.
    ///
    /// # Errors
    /// The server's; `NotFound` when there is no such database; `Usage` for what gives no rows at all.
    async fn ask(&mut self, query: &ScratchQuery) -> Result<ScratchAnswer>;

    /// Looks at every relation of every database.
    async fn check_relations(&mut self) -> Result<RelationCheck>;

    /// Ends it, and waits until it has ended.
    async fn end(self: Box<Self>) -> Result<()>;
}
