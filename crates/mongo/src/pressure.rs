//! How a server fares while it is being read: what one small question costs it, and how full its cache is.
//!
//! The question is a `find` of one `_id` that no document has, in a collection that is being read: it needs a read ticket and a walk through
//! the `_id` index, as an application's does, and tells what an application would wait. `serverStatus` (sections `wiredTiger` and, from
//! 7.0 on, `queues`) tells the rest; without the right to run it (`clusterMonitor`) latency alone is measured. Each measurement is bounded by
//! the connection's timeouts. Refuses to keep a connection that broke: the next measurement opens another one.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use bson::{Document, RawDocumentBuf, rawdoc};
use mainstay_engine::{Namespace, Pressure, PressureGauge};
use mainstay_model::Result;

use crate::error::{WireError, code};
use crate::reply::number_at;
use crate::server::MongoServer;
use crate::wire::Connection;

/// An `_id` that no document has.
const NOBODY: &str = "mainstay.pressure";

/// Measures one member, or the server that takes writes.
pub(crate) struct MongoGauge {
    server: MongoServer,
    member: Option<String>,
    near: Namespace,
    connection: Option<Connection>,
    /// Whether this user may run `serverStatus`, as far as it was tried.
    may_look_inside: bool,
}

impl MongoGauge {
    pub(crate) fn new(server: MongoServer, member: Option<String>, near: Namespace) -> Self {
        Self { server, member, near, connection: None, may_look_inside: true }
    }

    async fn dial(&self) -> Result<Connection> {
        match &self.member {
            Some(member) => match self.server.dial_member(member).await {
                Ok(connection) => Ok(connection),
                // The member is gone; whatever is read now is read from the one that takes writes.
                Err(_) => self.server.dial().await,
            },
            None => self.server.dial().await,
        }
    }

    async fn look(&mut self, connection: &mut Connection) -> Result<Pressure, WireError> {
        let began = Instant::now();
        connection.run(question(&self.near).as_bytes()).await?;
        let latency = began.elapsed();
        let mut pressure = Pressure { latency, ..Pressure::default() };
        if self.may_look_inside {
            match connection.run(status().as_bytes()).await {
                Ok(reply) => {
                    let status = Document::from_reader(reply.document())
                        .map_err(|error| WireError::Protocol(error.to_string()))?;
                    read_status(&status, &mut pressure);
                }
                Err(error) if error.server_code() == Some(code::UNAUTHORIZED) => self.may_look_inside = false,
                Err(error) => return Err(error),
            }
        }
        Ok(pressure)
    }
}

#[async_trait]
impl PressureGauge for MongoGauge {
    async fn measure(&mut self) -> Result<Pressure> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.dial().await?,
        };
        let pressure = self.look(&mut connection).await?;
        self.connection = Some(connection);
        Ok(pressure)
    }
}

fn question(near: &Namespace) -> RawDocumentBuf {
    rawdoc! {
        "find": near.collection.as_str(),
        "filter": { "_id": NOBODY },
        "limit": 1,
        "singleBatch": true,
        "$readPreference": { "mode": "secondaryPreferred" },
        "$db": near.database.as_str(),
    }
}

/// `serverStatus` without the sections that cost the server most.
fn status() -> RawDocumentBuf {
    rawdoc! {
        "serverStatus": 1,
        "repl": 0, "metrics": 0, "locks": 0, "opLatencies": 0, "transactions": 0, "mirroredReads": 0, "tcmalloc": 0,
        "$readPreference": { "mode": "secondaryPreferred" },
        "$db": "admin",
    }
}

fn read_status(status: &Document, pressure: &mut Pressure) {
    let number = |path: &[&str]| number_at(status, path);
    let cache = |name: &str| number(&["wiredTiger", "cache", name]);
    let percent = |part: Option<u64>| {
        let whole = cache("maximum bytes configured").filter(|whole| *whole > 0)?;
        u8::try_from(part?.saturating_mul(100) / whole).ok()
    };
    pressure.cache_used_percent = percent(cache("bytes currently in the cache"));
    pressure.cache_dirty_percent = percent(cache("tracked dirty bytes in the cache"));
    pressure.read_tickets = number(&["wiredTiger", "concurrentTransactions", "read", "available"])
        .or_else(|| number(&["queues", "execution", "read", "available"]));
    pressure.history =
        number(&["wiredTiger", "snapshot-window-settings", "minimum target snapshot window size in seconds"])
            .map(Duration::from_secs);
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn a_status_is_read_as_far_as_it_goes() {
        let mut pressure = Pressure::default();
        read_status(&doc! {}, &mut pressure);
        assert_eq!(pressure, Pressure::default());
        let cache = doc! { "maximum bytes configured": 1_000.0, "bytes currently in the cache": 960_i64, "tracked dirty bytes in the cache": 55 };
        let window = doc! { "minimum target snapshot window size in seconds": 300 };
        let status = doc! {
            "wiredTiger": { "cache": cache, "snapshot-window-settings": window, "concurrentTransactions": { "read": { "available": 127 } } },
        };
        read_status(&status, &mut pressure);
        assert_eq!((pressure.cache_used_percent, pressure.cache_dirty_percent), (Some(96), Some(5)));
        assert_eq!((pressure.read_tickets, pressure.history), (Some(127), Some(Duration::from_secs(300))));
        read_status(&doc! { "queues": { "execution": { "read": { "available": 3_i64 } } } }, &mut pressure);
        assert_eq!(pressure.read_tickets, Some(3));
    }
}
