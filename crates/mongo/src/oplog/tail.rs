//! Following the oplog: a tailable cursor of our own that continues by itself or says why it cannot.
//!
//! The cursor reads with read concern `majority`, so that an entry that may still be rolled back is never seen (MongoDB manual, "Read Concern
//! majority"). It begins *at* the anchor, not after it: that the server still has this very entry proves that what follows it is what
//! followed it before. After a broken connection or an election the same proof is asked for again, at the last entry handed on, so the
//! stream has neither holes nor repetitions.
//!
//! Batches are taken whole; of each, the `ts` of the first and of the last entry are looked at. Relies on the order of the log being that
//! of `ts` (MongoDB manual, "Replica Set Oplog"). Refuses deployments without a log of one order: standalone servers, and routers, behind
//! which each shard keeps its own.

use std::time::Duration;

use async_trait::async_trait;
use bson::{RawDocumentBuf, Timestamp, rawdoc};
use bytes::Bytes;
use mainstay_engine::{
    ChangeAnchor, ChangeBatch, ChangeLogFacts, ChangeSource, ChangeStream, ContinuityBreak, Followed,
    document_frames,
};
use mainstay_model::{Error, ErrorKind, ErrorStatus, OpTime, Result, ResultExt};
use tokio::time::{Instant, sleep};

use super::entry::position_of;
use crate::config::Incident;
use crate::error::{WireError, code};
use crate::page::Page;
use crate::reply::number;
use crate::server::MongoServer;
use crate::topology::Topology;
use crate::wire::Connection;

const DATABASE: &str = "local";
const OPLOG: &str = "oplog.rs";

/// How long a server may take until its majority has the anchor: after an election the new primary learns what is committed only once it
/// has written an entry of its own.
const SETTLING: Duration = Duration::from_secs(30);

/// Between two looks whether it has.
const SETTLING_PAUSE: Duration = Duration::from_millis(250);

#[async_trait]
impl ChangeSource for MongoServer {
    async fn change_log_facts(&self) -> Result<ChangeLogFacts> {
        check_topology(self).await?;
        let (oldest, newest) = (end_of_log(self, 1).await?, end_of_log(self, -1).await?);
        let stats = self
            .ask_unless(code::UNAUTHORIZED, DATABASE, rawdoc! { "collStats": OPLOG })
            .await
            .context("ask for the size of the oplog")?
            .unwrap_or_default();
        let bytes = |key| number(&stats, key).unwrap_or(0);
        Ok(ChangeLogFacts { oldest, newest, bytes: bytes("size"), bytes_max: bytes("maxSize") })
    }

    async fn follow(&self, anchor: &ChangeAnchor) -> Result<Followed> {
        check_topology(self).await?;
        let mut tail = Tail { server: self.clone(), anchor: anchor.clone(), cursor: None, begun: None };
        let mut incident = self.retry().incident();
        loop {
            match tail.open().await {
                Ok(None) => return Ok(Followed::Stream(Box::new(tail))),
                Ok(Some(broken)) => return Ok(Followed::Broken(broken)),
                Err(error) => pause_or_fail(&mut incident, error.context("open the oplog")).await?,
            }
        }
    }
}

async fn pause_or_fail(incident: &mut Incident, error: Error) -> Result<()> {
    match incident.next_delay() {
        Some(delay) if error.is_temporary() => {
            sleep(delay).await;
            Ok(())
        }
        _ => Err(error),
    }
}

async fn check_topology(server: &MongoServer) -> Result<()> {
    let refused = |is: &str, hint: &str| {
        Err(Error::new(ErrorKind::Precondition, format!("the server is {is}")).with_hint(hint))
    };
    match Topology::of(&server.hello().await?) {
        Topology::ReplicaSet { .. } => Ok(()),
        Topology::Standalone => refused(
            "a standalone, which keeps no change log",
            "make it a replica set of one member: start it with `--replSet rs0`, then run `rs.initiate()` once",
        ),
        Topology::Mongos => refused(
            "a router: each shard keeps a change log of its own, and none has the order of all",
            "set `mongo.url` to the replica set of one shard to capture its log",
        ),
    }
}

/// The position of the oldest (1) or the newest (-1) entry that a majority has.
async fn end_of_log(server: &MongoServer, order: i32) -> Result<OpTime> {
    let find = rawdoc! {
        "find": OPLOG,
        "sort": { "$natural": order },
        "limit": 1,
        "singleBatch": true,
        "projection": { "ts": 1 },
        "readConcern": { "level": "majority" },
    };
    let found = server.list(DATABASE, find).await.context("read the oplog")?;
    let entry = found.first().ok_or_else(empty_log)?;
    position_of(entry.as_bytes()).map_err(|error| WireError::from(error).into())
}

fn empty_log() -> Error {
    Error::new(ErrorKind::Server, "the server's oplog is empty")
        .with_status(ErrorStatus::Temporary)
        .with_hint("wait until the replica set has a primary (rs.status() shows it), then run the same command again")
}

/// The stream.
struct Tail {
    server: MongoServer,
    /// The last entry handed on.
    anchor: ChangeAnchor,
    /// `None` while there is no connection, and while one is in use: whoever drops a call half-way leaves none behind.
    cursor: Option<Cursor>,
    /// What the first reply held beyond the anchor.
    begun: Option<ChangeBatch>,
}

struct Cursor {
    connection: Connection,
    id: i64,
}

#[async_trait]
impl ChangeStream for Tail {
    async fn next(&mut self, wait: Duration) -> Result<Option<ChangeBatch>> {
        let mut incident = self.server.retry().incident();
        loop {
            match self.advance(wait).await {
                Err(error) => pause_or_fail(&mut incident, error.context("follow the oplog")).await?,
                batch => return batch,
            }
        }
    }
}

impl Tail {
    /// The next batch, of a new cursor when there is none.
    async fn advance(&mut self, wait: Duration) -> Result<Option<ChangeBatch>> {
        if self.cursor.is_none()
            && self.begun.is_none()
            && let Some(broken) = self.open().await?
        {
            return Err(broken_off(&broken, self.anchor.at));
        }
        match self.begun.take() {
            Some(batch) => Ok(Some(batch)),
            None => self.get_more(wait).await,
        }
    }

    async fn get_more(&mut self, wait: Duration) -> Result<Option<ChangeBatch>> {
        let Some(Cursor { mut connection, id }) = self.cursor.take() else { return Ok(None) };
        let command = rawdoc! {
            "getMore": id,
            "collection": OPLOG,
            "maxTimeMS": i64::try_from(wait.as_millis()).unwrap_or(i64::MAX).max(1),
            "$db": DATABASE,
        };
        let page = Page::take(connection.run(command.as_bytes()).await?)?;
        if page.cursor != 0 {
            self.cursor = Some(Cursor { connection, id: page.cursor });
        }
        self.batch_of(page)
    }

    /// Opens a cursor at the anchor.
    async fn open(&mut self) -> Result<Option<ContinuityBreak>> {
        let deadline = Instant::now() + SETTLING;
        loop {
            let mut connection = self.server.dial().await?;
            let page = Page::take(connection.run(self.find().as_bytes()).await?)?;
            match self.judge(page).await? {
                Opening::Open { id, begun } => {
                    self.begun = begun;
                    self.cursor = (id != 0).then_some(Cursor { connection, id });
                    return Ok(None);
                }
                Opening::Broken(broken) => return Ok(Some(broken)),
                Opening::Behind if Instant::now() >= deadline => return Ok(Some(ContinuityBreak::Diverged)),
                Opening::Behind => sleep(SETTLING_PAUSE).await,
            }
        }
    }

    fn find(&self) -> RawDocumentBuf {
        let at = Timestamp { time: self.anchor.at.seconds, increment: self.anchor.at.increment };
        rawdoc! {
            "find": OPLOG,
            "filter": { "ts": { "$gte": at } },
            "tailable": true,
            "awaitData": true,
            "readConcern": { "level": "majority" },
            "$readPreference": { "mode": "primaryPreferred" },
            "$db": DATABASE,
        }
    }

    /// What the first reply of a cursor proves.
    async fn judge(&mut self, mut page: Page) -> Result<Opening> {
        let first = document_frames(&page.bytes).next();
        let Some(Ok(first)) = first else {
            let newest = end_of_log(&self.server, -1).await?;
            let is_behind = newest < self.anchor.at;
            return Ok(if is_behind { Opening::Behind } else { Opening::Broken(self.find_break().await?) });
        };
        let at = position_of(first).map_err(WireError::from)?;
        let is_other = self.anchor.entry.as_ref().is_some_and(|entry| entry.as_ref() != first);
        if at != self.anchor.at {
            return Ok(Opening::Broken(self.find_break().await?));
        }
        if is_other {
            return Ok(Opening::Broken(ContinuityBreak::Diverged));
        }
        let length = first.len();
        if self.anchor.entry.is_none() {
            self.anchor.entry = Some(Bytes::copy_from_slice(first));
        }
        page.bytes = page.bytes.slice(length..);
        page.documents -= 1;
        page.last = page.last.saturating_sub(length);
        let id = page.cursor;
        Ok(Opening::Open { id, begun: self.batch_of(page)? })
    }

    /// Why the anchor is not there.
    async fn find_break(&self) -> Result<ContinuityBreak> {
        let oldest = end_of_log(&self.server, 1).await?;
        Ok(if oldest > self.anchor.at {
            ContinuityBreak::Overrun { oldest }
        } else {
            ContinuityBreak::Diverged
        })
    }

    /// The batch of a reply; `None` for an empty one. Its last entry becomes the anchor's bytes.
    fn batch_of(&mut self, page: Page) -> Result<Option<ChangeBatch>> {
        let (Some(Ok(first)), Some(last)) = (document_frames(&page.bytes).next(), page.last_document())
        else {
            return Ok(None);
        };
        let (first, last_at) =
            (position_of(first).map_err(WireError::from)?, position_of(last).map_err(WireError::from)?);
        if first <= self.anchor.at || last_at < first {
            self.cursor = None;
            return Err(WireError::Protocol("oplog entries out of order".to_owned()).into());
        }
        self.anchor = ChangeAnchor { at: last_at, entry: Some(Bytes::copy_from_slice(last)) };
        Ok(Some(ChangeBatch { bytes: page.bytes, entries: page.documents, first, last: last_at }))
    }
}

/// The outcome of opening a cursor at the anchor.
enum Opening {
    /// The anchor is there; what came with it.
    Open { id: i64, begun: Option<ChangeBatch> },
    /// It is not, and will not be.
    Broken(ContinuityBreak),
    /// The server's majority has not come as far yet.
    Behind,
}

fn broken_off(broken: &ContinuityBreak, at: OpTime) -> Error {
    let message = match broken {
        ContinuityBreak::Overrun { oldest } => {
            format!("the oplog was overwritten: {at} is gone, the oldest entry is {oldest}")
        }
        ContinuityBreak::Diverged => format!("the oplog has another entry than before at {at}, or none"),
    };
    Error::new(ErrorKind::Conflict, message)
        .with_hint("begin to follow it anew; what lies between cannot be had any more")
}
