//! WAL followed over the replication protocol, and the slots that keep it.
//!
//! Source: manual (18), "Streaming Replication Protocol". The server asks for a sign of life before `wal_sender_timeout`; it gets one at once.
//! A piece that does not begin where the last one ended is refused: there is no gap in what comes out here.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use mainstay_engine::{
    FollowWal, RestorePoint, SlotHealth, SlotRetention, TimelineHistory, WalEvent, WalPosition, WalSlot,
    WalSource, WalStream,
};
use mainstay_guard::Permit;
use mainstay_model::{Error, ErrorKind, ErrorStatus, Lsn, Result, ResultExt, StoreKind};
use tokio::time::timeout;

use super::base_backup::{PostgresCluster, segment_bytes};
use super::connection::Gathering;
use super::copy::{StandbyStatus, WalMessage};
use super::error::ServerError;
use super::{Connection, WireError};
use crate::config::Settings;
use crate::wal_state;

/// SQLSTATEs that have a meaning here.
const NOT_IN_STATE: &str = "55000";
const OBJECT_IN_USE: &str = "55006";
const FILE_UNDEFINED: &str = "58P01";

#[async_trait]
impl WalSource for PostgresCluster {
    async fn wal_position(&self) -> Result<WalPosition> {
        let mut connection = self.open().await?;
        let asked = async {
            let system = connection.identify_system().await?;
            let shown = connection.show("wal_segment_size").await?;
            let segment_bytes = segment_bytes(&shown)
                .ok_or_else(|| WireError::Protocol(format!("wal_segment_size is `{shown}`")))?;
            let is_standby = connection.parameter("in_hot_standby") == Some("on");
            let (fingerprint, timeline, flushed) = (system.identifier, system.timeline, system.flushed);
            Ok(WalPosition { fingerprint, timeline, flushed, is_standby, segment_bytes })
        };
        let position =
            asked.await.map_err(|error| self.explain(error)).context("ask for the position of WAL")?;
        connection.end().await;
        Ok(position)
    }

    async fn timeline_history(&self, timeline: u32) -> Result<TimelineHistory> {
        let mut connection = self.open().await?;
        let history = connection.timeline_history(timeline).await.map_err(|error| self.explain(error));
        let history = history.with_context(|| format!("read the history of timeline {timeline}"))?;
        connection.end().await;
        Ok(history)
    }

    async fn wal_slot(&self, name: &str) -> Result<Option<WalSlot>> {
        let mut connection = self.open().await?;
        let slot = connection.read_slot(name).await.map_err(|error| self.explain(error));
        let slot = slot.with_context(|| format!("read replication slot {name}"))?;
        connection.end().await;
        Ok(slot)
    }

    async fn create_wal_slot(&self, name: &str) -> Result<()> {
        let mut connection = self.open().await?;
        let made = connection.create_slot(name).await.map_err(|error| match error {
            WireError::Server(answer) if answer.code == "42710" => Error::new(
                ErrorKind::Conflict,
                format!("{} has a replication slot {name} already", self.settings().address),
            )
            .with_source(answer),
            other => self.explain(other),
        });
        made.with_context(|| format!("create replication slot {name}"))?;
        connection.end().await;
        Ok(())
    }

    async fn slot_health(&self, name: &str) -> Result<Option<SlotHealth>> {
        wal_state::slot_health(self.settings(), name)
            .await
            .with_context(|| format!("look at replication slot {name}"))
    }

    async fn create_restore_point(&self, name: &str, permit: &Permit) -> Result<RestorePoint> {
        let mut connection = self.open().await?;
        let system = connection.identify_system().await.map_err(|error| self.explain(error))?;
        permit.check("restore.point.create", StoreKind::Postgres, &system.identifier)?;
        connection.end().await;
        wal_state::create_restore_point(self.settings(), name)
            .await
            .with_context(|| format!("create restore point {name}"))
    }

    async fn drop_wal_slot(&self, name: &str, permit: &Permit) -> Result<()> {
        let mut connection = self.open().await?;
        let system = connection.identify_system().await.map_err(|error| self.explain(error))?;
        permit.check("capture.postgres", StoreKind::Postgres, &system.identifier)?;
        let dropped = connection.drop_slot(name).await.map_err(|error| self.explain(error));
        dropped.with_context(|| format!("drop replication slot {name}"))?;
        connection.end().await;
        Ok(())
    }

    async fn follow_wal(&self, request: &FollowWal) -> Result<Box<dyn WalStream>> {
        let mut connection = self.open().await?;
        let begun =
            connection.start_replication(request.slot.as_deref(), request.from, request.timeline).await;
        if let Err(error) = begun {
            let error = not_followed(error, self.settings(), request.slot.as_deref()).await;
            return Err(error.context(format!("follow WAL from {}", request.from)));
        }
        Ok(Box::new(Following {
            settings: self.settings().clone(),
            connection,
            received: request.from,
            flushed: request.from,
            ending: None,
            ended: false,
        }))
    }
}

/// Why a log cannot be followed. A slot that was given up is refused with a code that means other things, too, so that the server is asked
/// what has become of it.
async fn not_followed(error: WireError, settings: &Settings, slot: Option<&str>) -> Error {
    match (error, slot) {
        (WireError::Server(answer), Some(slot)) if answer.code == NOT_IN_STATE => {
            let health = wal_state::slot_health(settings, slot).await;
            match health.ok().flatten().map(|health| health.retention) {
                Some(SlotRetention::Lost) => lost(answer, settings),
                _ => WireError::Server(answer).into_error(settings),
            }
        }
        (error, _) => lost_or(error, settings),
    }
}

/// The server's word that it has removed a segment is one about the world, not about the server.
fn lost_or(error: WireError, settings: &Settings) -> Error {
    match error {
        WireError::Server(answer) if answer.code == FILE_UNDEFINED => lost(answer, settings),
        WireError::Server(answer) if answer.code == OBJECT_IN_USE => {
            Error::new(ErrorKind::Locked, format!("{} serves that slot to somebody else: {}", settings.address, answer.text()))
                .with_status(ErrorStatus::Temporary)
                .with_hint("the connection of a capture that was killed ends by itself; `pg_stat_replication` shows who it is")
                .with_source(answer)
        }
        other => other.into_error(settings),
    }
}

fn lost(answer: ServerError, settings: &Settings) -> Error {
    Error::new(
        ErrorKind::Precondition,
        format!("{} no longer has that WAL: {}", settings.address, answer.text()),
    )
    .with_state("nothing was changed")
    .with_hint("begin with a new base backup, and let a replication slot keep what comes after it")
    .with_source(answer)
}

struct Following {
    settings: Settings,
    connection: Connection,
    /// The position after the last byte received.
    received: Lsn,
    /// As far as was acknowledged.
    flushed: Lsn,
    /// What has come of the end of the timeline, once it has come.
    ending: Option<Gathering>,
    ended: bool,
}

impl Following {
    async fn step(&mut self, patience: Duration) -> Result<WalEvent, WireError> {
        if self.ending.is_some() {
            return self.timeline_end(patience).await;
        }
        let piece = match self.connection.copied(patience).await {
            Err(WireError::Timeout) => return Ok(WalEvent::Quiet { server_end: None }),
            piece => piece?,
        };
        match piece.map(WalMessage::read).transpose()? {
            Some(WalMessage::Data { begin, end, bytes, .. }) if begin == self.received => {
                self.received = Lsn(begin.0 + bytes.len() as u64);
                Ok(WalEvent::Bytes { at: begin, bytes, server_end: end })
            }
            Some(WalMessage::Data { begin, .. }) => {
                Err(WireError::Protocol(format!("WAL at {begin}, where {} is next", self.received)))
            }
            Some(WalMessage::KeepAlive { end, reply, .. }) => {
                if reply {
                    self.tell(false).await?;
                }
                Ok(WalEvent::Quiet { server_end: Some(end) })
            }
            None => self.timeline_end(patience).await,
        }
    }

    /// The server has sent the last byte of the timeline and says which one goes on. May be dropped while it waits, too.
    async fn timeline_end(&mut self, patience: Duration) -> Result<WalEvent, WireError> {
        let answering = async {
            if self.ending.is_none() {
                self.ending = Some(Gathering::behind_copy());
                self.connection.send_copy_done().await?;
            }
            self.connection.flush().await?;
            self.connection.gather(self.ending.get_or_insert_default()).await
        };
        let Ok(answered) = timeout(patience, answering).await else {
            return Ok(WalEvent::Quiet { server_end: None });
        };
        let rows = answered?;
        let row = rows
            .first()
            .ok_or_else(|| WireError::Protocol("a timeline that ends without a next".to_owned()))?;
        self.ended = true;
        Ok(WalEvent::TimelineEnd { next: row.parsed("next_tli")?, at: row.parsed("next_tli_startpos")? })
    }

    async fn tell(&mut self, reply: bool) -> Result<(), WireError> {
        let sent_at_us = microseconds_since_2000();
        let status = StandbyStatus { written: self.received, flushed: self.flushed, sent_at_us, reply };
        self.connection.send_copy(&status.write()).await
    }
}

#[async_trait]
impl WalStream for Following {
    async fn next(&mut self, patience: Duration) -> Result<WalEvent> {
        if self.ended {
            return Err(Error::new(ErrorKind::Internal, "the timeline that was followed has ended"));
        }
        self.step(patience).await.map_err(|error| lost_or(error, &self.settings)).context("follow WAL")
    }

    async fn acknowledge(&mut self, flushed: Lsn) -> Result<()> {
        if flushed > self.received {
            return Err(Error::new(
                ErrorKind::Internal,
                format!("{flushed} cannot be durable, received is {}", self.received),
            ));
        }
        self.flushed = flushed.max(self.flushed);
        self.tell(true).await.map_err(|error| error.into_error(&self.settings)).context("acknowledge WAL")
    }
}

/// Our clock as the server counts; it shows it in `pg_stat_replication` and decides nothing by it.
#[expect(
    clippy::disallowed_methods,
    reason = "a figure for people on the server's side; nothing here depends on it"
)]
fn microseconds_since_2000() -> i64 {
    /// 2000-01-01T00:00:00Z in seconds since 1970.
    const EPOCH_SECONDS: u64 = 946_684_800;
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.saturating_sub(Duration::from_secs(EPOCH_SECONDS)).as_micros())
        .unwrap_or(i64::MAX)
}
