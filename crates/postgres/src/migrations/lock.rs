//! Advisory locks: keys, who holds them, and whether a lock of this session is one at all.
//!
//! Keys are those of one database (manual, "Advisory Locks"), so a key of schema and table is enough. A lock is tried and never waited for.

use std::time::Duration;

use mainstay_engine::{BackendId, LockHolder};
use mainstay_migrations::TrackingTable;
use mainstay_model::{Error, ErrorKind, Result, ResultExt};
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;
use tokio_postgres::SimpleQueryRow;

use crate::config::Settings;
use crate::session::Session;

/// How long a pooler with no server connection left may take to let us know by silence.
const POOLED_ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// What a lock keeps to one holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A run.
    Run,
    /// A statement outside a transaction, which goes on in the server when its run was killed.
    Alone,
}

/// The key of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LockKey(i64);

impl LockKey {
    pub(super) fn of(table: &TrackingTable, purpose: Purpose) -> Self {
        let purpose = match purpose {
            Purpose::Run => "run",
            Purpose::Alone => "alone",
        };
        // Names hold no NUL: none can be taken for two others.
        let text = format!("mainstay sql {purpose}\0{}\0{}", table.schema, table.name);
        let digest = Sha256::digest(text.as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        Self(i64::from_be_bytes(first))
    }

    /// The condition by which `pg_locks` has it.
    fn condition(self) -> String {
        let bits = self.0.cast_unsigned();
        format!(
            "l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.classid::bigint = {} AND l.objid::bigint = {} \
             AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())",
            bits >> 32,
            bits & 0xffff_ffff
        )
    }
}

/// Opens the connection that will hold the lock of a run, and makes sure that it is one and the same session whatever is asked over it.
pub(super) async fn open_keeper(settings: &Settings) -> Result<Session<'_>> {
    let keeper = Session::open(settings).await.context("connect to PostgreSQL")?;
    check_direct(settings, &keeper).await?;
    // It has nothing to say for as long as a migration takes.
    keeper.rows("SET idle_session_timeout = 0").await?;
    Ok(keeper)
}

/// A pooler that hands its connections on between transactions gives ours to whoever begins one now.
async fn check_direct(settings: &Settings, keeper: &Session<'_>) -> Result<()> {
    let other = Session::open(settings).await.context("connect to PostgreSQL")?;
    let before = process(keeper).await?;
    other.rows("BEGIN").await?;
    let process_of_other = process(&other).await?;
    let after = match timeout(POOLED_ANSWER_TIME_MAX, process(keeper)).await {
        Ok(after) => Some(after?),
        Err(_) => None,
    };
    other.rows("ROLLBACK").await?;
    if after == Some(before) && process_of_other != before {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Precondition,
        format!(
            "{} hands one connection to several clients between transactions: a lock of a session means nothing there",
            settings.address
        ),
    )
    .with_state("nothing was changed")
    .with_hint("name the server itself in `url` of [postgres], or with --postgres-url, not a pooler in transaction mode"))
}

/// The server's process behind a session.
pub(super) async fn process(session: &Session<'_>) -> Result<i32> {
    let row = session.row("SELECT pg_backend_pid() AS pid").await?;
    Ok(session.value(&row, "pid")?.unwrap_or_default())
}

/// Tries once. `None` when it was taken.
pub(super) async fn try_take(session: &Session<'_>, key: LockKey) -> Result<Option<LockHolder>> {
    // Whoever holds it may let go between the two questions.
    for _ in 0..3 {
        let row = session.row(&format!("SELECT pg_try_advisory_lock({}) AS taken", key.0)).await?;
        if session.truth(&row, "taken") {
            return Ok(None);
        }
        if let Some(holder) = held_by(session, key).await? {
            return Ok(Some(holder));
        }
    }
    let id = BackendId { pid: 0, began_micros: 0 };
    Ok(Some(LockHolder { id, app_name: String::new(), user: None, client: None, connected_micros: None }))
}

/// Who has it.
pub(super) async fn held_by(session: &Session<'_>, key: LockKey) -> Result<Option<LockHolder>> {
    let query = format!(
        "{HOLDERS} FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid WHERE {} LIMIT 1",
        key.condition()
    );
    let rows = session.rows(&query).await?;
    rows.first().map(|row| holder(session, row)).transpose()
}

/// Whether the session has it.
pub(super) async fn is_held(session: &Session<'_>, key: LockKey) -> Result<bool> {
    let query = format!(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.pid = pg_backend_pid() AND {}) AS held",
        key.condition()
    );
    Ok(session.truth(&session.row(&query).await?, "held"))
}

/// The columns that [`holder`] reads, of `pg_stat_activity` as `a`, with the process from `l`.
pub(super) const HOLDERS: &str = "\
    SELECT l.pid, a.application_name, a.usename, host(a.client_addr) AS client, \
    floor(extract(epoch FROM a.backend_start) * 1000000)::bigint AS began, \
    floor(extract(epoch FROM clock_timestamp() - a.backend_start) * 1000000)::bigint AS connected";

/// A session, as [`HOLDERS`] tells of it.
pub(super) fn holder(session: &Session<'_>, row: &SimpleQueryRow) -> Result<LockHolder> {
    let connected = session.value::<i64>(row, "connected")?;
    Ok(LockHolder {
        id: BackendId {
            pid: session.value(row, "pid")?.unwrap_or_default(),
            began_micros: session.value(row, "began")?.unwrap_or_default(),
        },
        app_name: session.value(row, "application_name")?.unwrap_or_default(),
        user: session.value(row, "usename")?,
        client: session.value(row, "client")?,
        // Clocks are set back now and then.
        connected_micros: connected.map(|micros| micros.max(0).unsigned_abs()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_and_purpose_has_a_key_of_its_own() {
        let table =
            |schema: &str, name: &str| TrackingTable { schema: schema.to_owned(), name: name.to_owned() };
        let own = LockKey::of(&table("a", "bc"), Purpose::Run);
        assert_eq!(own, LockKey::of(&table("a", "bc"), Purpose::Run));
        for (other, purpose) in [
            (table("ab", "c"), Purpose::Run),
            (table("a", "bc"), Purpose::Alone),
            (table("a", "b"), Purpose::Run),
        ] {
            assert_ne!(own, LockKey::of(&other, purpose));
        }
        assert!(
            LockKey(-1).condition().contains("classid::bigint = 4294967295 AND l.objid::bigint = 4294967295")
        );
        assert!(LockKey((1 << 33) | 5).condition().contains("classid::bigint = 2 AND l.objid::bigint = 5"));
    }
}
