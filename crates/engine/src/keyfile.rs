//! All keys of a store as one file, which the store writes and sends itself.
//!
//! The contract in short. A [`KeyFileSource`] begins; the [`KeyFile`] gives bytes until it gives none, and only then is the file whole. What it
//! holds is for others to judge: it ends in a checksum of its own.

use async_trait::async_trait;
use bytes::Bytes;
use mainstay_model::Result;

use crate::documents::ServerFacts;

/// What is known when the file begins to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFileBeginning {
    /// The server.
    pub server: ServerFacts,
    /// How long the file is; `None` when the server writes it while it sends.
    pub bytes: Option<u64>,
    /// What the server's data take in memory: the file is rarely longer.
    pub estimated_bytes: u64,
    /// Whether the process that writes the file sends it itself, so that the server's one thread need not.
    pub direct: bool,
}

/// Copies all keys of a store.
#[async_trait]
pub trait KeyFileSource: Send + Sync {
    /// Begins; waits until the store has the file, or has begun to write it. Dropping what comes of it ends the copy on the server, too.
    ///
    /// # Errors
    /// `Auth` when the user may not, `Unreachable` while the store loads its data, `Server` when it cannot write the file.
    async fn begin(&self) -> Result<Box<dyn KeyFile>>;
}

/// A file that is coming.
#[async_trait]
pub trait KeyFile: Send {
    /// What was known at the beginning.
    fn beginning(&self) -> &KeyFileBeginning;

    /// The next bytes; `None` when the file is whole. May be dropped while it waits.
    ///
    /// # Errors
    /// `Unreachable` when the connection ends before the file does.
    async fn next(&mut self) -> Result<Option<Bytes>>;
}
