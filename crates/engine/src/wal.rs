//! A server's write-ahead log, followed byte by byte as it is written.
//!
//! The contract in short. A [`WalStream`] gives the log of one timeline without a gap from the position that was asked for on, and says when
//! that timeline ends and which one goes on. What was acknowledged as durable the server may forget; nothing else.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mainstay_guard::Permit;
use mainstay_model::{Lsn, Result};
use serde::Serialize;

/// Where a server's log stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalPosition {
    /// Which cluster it is the log of; a standby shares it with its primary.
    pub fingerprint: String,
    /// The timeline that is written.
    pub timeline: u32,
    /// Durable up to here.
    pub flushed: Lsn,
    /// Whether the server takes its log from elsewhere and may be behind that.
    pub is_standby: bool,
    /// How long a segment is, in bytes.
    pub segment_bytes: u64,
}

/// What makes a server keep its log for somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalSlot {
    /// Kept from here on; `None` before it was used.
    pub kept_from: Option<Lsn>,
    /// The timeline of that position.
    pub timeline: Option<u32>,
}

/// What has become of the log that is kept for a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotRetention {
    /// All of it is there, within what the server keeps anyway.
    Reserved,
    /// All of it is there, beyond what the server keeps anyway.
    Extended,
    /// Some of it may be removed at the next checkpoint.
    Unreserved,
    /// Some of it was removed: the slot is of no use any more.
    Lost,
}

/// How it stands with what a server keeps for a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SlotHealth {
    /// What has become of it.
    pub retention: SlotRetention,
    /// Bytes from where the slot stands to the end of the log.
    pub retained_bytes: u64,
    /// Bytes that may be written before some of it is removed; `None` when the server keeps all of it, whatever that takes.
    pub safe_bytes: Option<u64>,
}

/// A place in the log that was given a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestorePoint {
    /// The position after it: recovery that stops there has everything before it.
    pub at: Lsn,
    /// The timeline of that position.
    pub timeline: u32,
}

/// How a timeline came about, as the server keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineHistory {
    /// The file's name, such as `00000002.history`.
    pub file: String,
    /// Its content as it is.
    pub content: Bytes,
}

/// From where a log is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowWal {
    /// The slot that keeps it meanwhile; without one the server may remove what is asked for.
    pub slot: Option<String>,
    /// The first position wanted.
    pub from: Lsn,
    /// The timeline of that position.
    pub timeline: u32,
}

/// What following gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalEvent {
    /// The log from `at` on: where the piece before it ended.
    Bytes {
        /// The position of the first byte.
        at: Lsn,
        /// The bytes.
        bytes: Bytes,
        /// How far the server's log goes.
        server_end: Lsn,
    },
    /// Nothing came for as long as was waited, or the server said how far its log goes.
    Quiet {
        /// How far the server's log goes, if it said so.
        server_end: Option<Lsn>,
    },
    /// The timeline ends; the next one goes on from there.
    TimelineEnd {
        /// The next timeline.
        next: u32,
        /// Where it branches off.
        at: Lsn,
    },
}

/// Gives a server's log.
#[async_trait]
pub trait WalSource: Send + Sync {
    /// Where the log stands.
    async fn wal_position(&self) -> Result<WalPosition>;

    /// How `timeline` came about. The first has no history.
    async fn timeline_history(&self, timeline: u32) -> Result<TimelineHistory>;

    /// What is known of a slot; `None` when there is none of that name.
    async fn wal_slot(&self, name: &str) -> Result<Option<WalSlot>>;

    /// Makes the server keep its log from now on, until it is acknowledged.
    ///
    /// # Errors
    /// `Conflict` when there is such a slot.
    async fn create_wal_slot(&self, name: &str) -> Result<()>;

    /// How it stands with what is kept for a slot; `None` when there is none of that name. Asks over a connection of the usual kind.
    async fn slot_health(&self, name: &str) -> Result<Option<SlotHealth>>;

    /// Writes a record with a name into the log, at which a recovery can be told to stop.
    ///
    /// # Errors
    /// `Auth` when the role may not; `Precondition` on a standby, which writes no log.
    async fn create_restore_point(&self, name: &str, permit: &Permit) -> Result<RestorePoint>;

    /// Lets the server forget what it keeps for a slot; needs the permit of a capture of this server.
    async fn drop_wal_slot(&self, name: &str, permit: &Permit) -> Result<()>;

    /// Follows the log.
    ///
    /// # Errors
    /// `Precondition` when the server no longer has what is asked for, which may be told by the first event only; `Locked` while the slot
    /// serves somebody else.
    async fn follow_wal(&self, request: &FollowWal) -> Result<Box<dyn WalStream>>;
}

/// A log being followed.
#[async_trait]
pub trait WalStream: Send {
    /// The next event; waits at most `patience` for it. May be dropped while it waits. Nothing comes after [`WalEvent::TimelineEnd`].
    ///
    /// # Errors
    /// `Unreachable` when the connection broke or the server ended; what comes next can be followed anew from where this ended.
    async fn next(&mut self, patience: Duration) -> Result<WalEvent>;

    /// Tells the server that everything before `flushed` is durable here and may be forgotten, and that it is not alone. The server
    /// answers with how far its log goes, which comes as [`WalEvent::Quiet`].
    async fn acknowledge(&mut self, flushed: Lsn) -> Result<()>;
}
