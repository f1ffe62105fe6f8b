//! How WAL flows, and what retains it.
//!
//! Sources: manual (18), "Backup Control Functions", `pg_stat_archiver`, `pg_replication_slots`. Listing the directories of WAL and of the
//! archiver is granted to `pg_monitor`.

use mainstay_engine::{SlotUse, Slots, WalFlow};
use mainstay_model::{Error, ErrorKind, Lsn, Result};
use tokio_postgres::error::SqlState;

use crate::session::Session;

const FLOW: &str = "\
    SELECT pg_is_in_recovery() AS in_recovery, \
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END AS at, \
    floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS seen, \
    pg_size_bytes(current_setting('wal_segment_size')) AS segment, pg_size_bytes(current_setting('max_wal_size')) AS size_max, \
    current_setting('archive_mode') AS archive_mode, a.archived_count, a.failed_count, \
    floor(extract(epoch FROM clock_timestamp() - a.last_archived_time))::bigint AS archived_seconds, \
    CASE WHEN a.last_failed_time > coalesce(a.last_archived_time, '-infinity') THEN a.last_failed_wal END AS failing \
    FROM pg_stat_archiver a";

/// How WAL flows now.
pub(super) async fn read_flow(session: &Session<'_>) -> Result<WalFlow> {
    let row = session.row(FLOW).await?;
    let denied = [SqlState::INSUFFICIENT_PRIVILEGE];
    let directory = session
        .rows_unless(
            &denied,
            "SELECT count(*) AS files, coalesce(sum(size), 0) AS bytes FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'",
        )
        .await?;
    let pending = session
        .rows_unless(
            &denied,
            "SELECT count(*) AS files FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'",
        )
        .await?;
    let number = |column: &str| session.number(&row, column);
    Ok(WalFlow {
        at: lsn(session.value::<String>(&row, "at")?.as_deref())?,
        in_recovery: session.truth(&row, "in_recovery"),
        seen_micros: session.value(&row, "seen")?.unwrap_or_default(),
        segment_bytes: number("segment")?,
        size_max_bytes: number("size_max")?,
        archive_mode: session.text(&row, "archive_mode")?.to_owned(),
        archived: number("archived_count")?,
        failed: number("failed_count")?,
        archived_seconds: session
            .value::<i64>(&row, "archived_seconds")?
            .map(|seconds| u64::try_from(seconds).unwrap_or(0)),
        failing: session.value(&row, "failing")?,
        pending: pending
            .as_deref()
            .and_then(|rows| rows.first())
            .map(|row| session.number(row, "files"))
            .transpose()?,
        directory: directory
            .as_deref()
            .and_then(|rows| rows.first())
            .map(|row| Ok::<_, Error>((session.number(row, "files")?, session.number(row, "bytes")?)))
            .transpose()?,
    })
}

/// A position; a standby that has replayed nothing has none.
fn lsn(text: Option<&str>) -> Result<Lsn> {
    let Some(text) = text else { return Ok(Lsn(0)) };
    text.parse()
        .map_err(|_| Error::new(ErrorKind::Server, format!("the server calls `{text}` a position in WAL")))
}

// Columns that only newer servers have are asked for by name in the row's JSON, where an absent one is null.
const SLOTS: &str = "\
    SELECT s.slot_name, s.slot_type, s.database, s.active, s.active_pid, s.temporary, s.wal_status, s.safe_wal_size, \
    CASE WHEN s.restart_lsn IS NOT NULL THEN greatest(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN \
    pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, s.restart_lsn), 0)::bigint END AS retained, \
    floor(extract(epoch FROM clock_timestamp() - (to_jsonb(s) ->> 'inactive_since')::timestamptz))::bigint AS inactive, \
    to_jsonb(s) ->> 'invalidation_reason' AS invalid \
    FROM pg_replication_slots s ORDER BY s.slot_name";

/// Every slot.
pub(super) async fn read_slots(session: &Session<'_>) -> Result<Slots> {
    // In megabytes; minus one for no bound.
    let bound = session
        .row("SELECT (SELECT setting FROM pg_settings WHERE name = 'max_slot_wal_keep_size') AS bound")
        .await?;
    let mut list = Vec::new();
    for row in session.rows(SLOTS).await? {
        let active = session.truth(&row, "active");
        let inactive = session.value::<i64>(&row, "inactive")?;
        list.push(SlotUse {
            name: session.text(&row, "slot_name")?.to_owned(),
            kind: session.text(&row, "slot_type")?.to_owned(),
            database: session.value(&row, "database")?,
            active,
            pid: session.value(&row, "active_pid")?,
            temporary: session.truth(&row, "temporary"),
            retained_bytes: session.value(&row, "retained")?,
            wal_status: session.value(&row, "wal_status")?,
            safe_bytes: session.value(&row, "safe_wal_size")?,
            inactive_seconds: inactive.filter(|_| !active).map(|seconds| u64::try_from(seconds).unwrap_or(0)),
            invalid: session.value(&row, "invalid")?,
        });
    }
    let megabytes =
        session.value::<i64>(&bound, "bound")?.and_then(|megabytes| u64::try_from(megabytes).ok());
    Ok(Slots { list, retained_bytes_max: megabytes.map(|megabytes| megabytes.saturating_mul(1024 * 1024)) })
}
