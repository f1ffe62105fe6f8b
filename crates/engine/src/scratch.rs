//! Throw-away servers: a restored folder, started for a look at it and ended again.
//!
//! The contract in short. A [`ScratchHost`] starts a server of local programs on a folder that may be used up. The server listens on no network,
//! archives nothing, follows nobody and takes writes when its recovery has ended. Whoever drops a [`ScratchServer`] ends it.

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

    /// Looks at every relation of every database.
    async fn check_relations(&mut self) -> Result<RelationCheck>;

    /// Ends it, and waits until it has ended.
    async fn end(self: Box<Self>) -> Result<()>;
}
