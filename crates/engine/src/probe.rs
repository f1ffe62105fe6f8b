//! Looking at a store: what it is, which environment it says it belongs to, what is wrong with it.

use async_trait::async_trait;
use mainstay_guard::{Marker, Permit};
use mainstay_model::{ByteSize, Finding, Result, StoreKind};
use serde::Serialize;

/// A store at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoreFacts {
    /// Which of the three.
    pub kind: StoreKind,
    /// The server's version.
    pub version: String,
    /// `primary of rs0`, `standalone`, `primary`, `standby`, `master`, `replica`.
    pub role: String,
    /// Bytes of data in the configured database (MongoDB, PostgreSQL) or in memory (Redis); `None` when not permitted to ask.
    pub size: Option<ByteSize>,
    /// Seconds since the server began.
    pub uptime_seconds: u64,
    /// Client connections now.
    pub connections: u64,
    /// The most it allows, when known.
    pub connections_max: Option<u64>,
    /// Which server this is, stable over restarts. Never an address.
    pub fingerprint: String,
    /// The address that answered, without credentials.
    pub address: String,
}

/// Looks at a store without changing it; the marker is the one thing it may write.
#[async_trait]
pub trait Probe: Send + Sync {
    /// Which store this is.
    fn kind(&self) -> StoreKind;

    /// Where it is, without credentials; known before any connection.
    fn address(&self) -> String;

    /// The store at a glance. Bounded in time; the error says at which layer it failed (name, connection, TLS, authentication, server).
    async fn facts(&self) -> Result<StoreFacts>;

    /// The environment marker kept inside the store; `None` when it has none.
    async fn marker(&self) -> Result<Option<Marker>>;

    /// The server of a cluster that keeps the marker, as `host:port`, where this one cannot: to be asked when it has none. This one counts as
    /// production then, whatever that one says.
    async fn marker_elsewhere(&self) -> Result<Option<String>> {
        Ok(None)
    }

    /// Writes the environment marker.
    async fn set_marker(&self, marker: &Marker, permit: &Permit) -> Result<()>;

    /// Where the server keeps its data, as it says itself; `None` when this user may not know, and of stores that are not asked.
    async fn data_directory(&self) -> Result<Option<String>> {
        Ok(None)
    }

    /// Misconfigurations of the running server, each with its remedy. Needs no more privileges than [`Probe::facts`]; what may not be
    /// asked becomes a note that says so.
    async fn examine(&self) -> Result<Vec<Finding>>;
}
