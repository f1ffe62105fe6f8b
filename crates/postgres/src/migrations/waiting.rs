//! Who is waited for, and who waits.
//!
//! Relies on `pg_blocking_pids`, which tells while a session waits and not afterwards: whoever wants to know asks meanwhile, over another connection.

use std::collections::BTreeMap;

use mainstay_engine::{LockBlocker, LockHolder};
use mainstay_migrations::TrackingTable;
use mainstay_model::Result;

use super::lock::{HOLDERS, holder};
use super::tracking::regclass;
use crate::inspect::statement;
use crate::session::Session;

/// Who keeps the session of `pid` waiting for a lock.
pub(super) async fn blockers(session: &Session<'_>, pid: i32) -> Result<Vec<LockBlocker>> {
    let query = format!(
        "{HOLDERS}, a.state, a.query, \
         floor(extract(epoch FROM clock_timestamp() - a.xact_start) * 1000000)::bigint AS transaction_micros, \
         (SELECT coalesce(w.relation::regclass::text, w.locktype) || ' (' || w.mode || ')' \
          FROM pg_catalog.pg_locks w WHERE w.pid = {pid} AND NOT w.granted LIMIT 1) AS wants \
         FROM (SELECT DISTINCT unnest(pg_blocking_pids({pid})) AS pid) l \
         LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid ORDER BY l.pid"
    );
    let mut list = Vec::new();
    for row in session.rows(&query).await? {
        list.push(LockBlocker {
            holder: holder(session, &row)?,
            state: session.value(&row, "state")?,
            transaction_micros: session
                .value::<i64>(&row, "transaction_micros")?
                .map(|micros| micros.max(0).unsigned_abs()),
            statement: session.value::<String>(&row, "query")?.and_then(|sql| statement(&sql)),
            wants: session.value(&row, "wants")?,
        });
    }
    Ok(list)
}

/// Who waits for the tracking table, `own` processes aside.
pub(super) async fn readers(
    session: &Session<'_>,
    table: &TrackingTable,
    own: &[i32],
) -> Result<Vec<LockHolder>> {
    let own: Vec<String> = own.iter().map(ToString::to_string).collect();
    let query = format!(
        "{HOLDERS} FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
         WHERE l.relation = to_regclass({}) AND NOT l.granted AND l.pid NOT IN ({}) \
         AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) ORDER BY l.pid",
        regclass(table),
        own.join(", ")
    );
    let rows = session.rows(&query).await?;
    rows.iter().map(|row| holder(session, row)).collect()
}

/// Who keeps readers out of the tracking table.
pub(super) async fn owner(session: &Session<'_>, table: &TrackingTable) -> Result<Option<LockHolder>> {
    let query = format!(
        "{HOLDERS} FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
         WHERE l.relation = to_regclass({}) AND l.granted AND l.mode = 'AccessExclusiveLock' \
         AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) LIMIT 1",
        regclass(table)
    );
    let rows = session.rows(&query).await?;
    rows.first().map(|row| holder(session, row)).transpose()
}

/// Those of `sessions` that are still there, and whether they are in a transaction: every transaction holds a lock on its own number, which everybody
/// may see.
pub(super) async fn still_there(
    session: &Session<'_>,
    sessions: &[LockHolder],
) -> Result<Vec<(LockHolder, bool)>> {
    let known: BTreeMap<i32, &LockHolder> = sessions.iter().map(|found| (found.id.pid, found)).collect();
    if known.is_empty() {
        return Ok(Vec::new());
    }
    let pids: Vec<String> = known.keys().map(ToString::to_string).collect();
    let query = format!(
        "SELECT a.pid, floor(extract(epoch FROM a.backend_start) * 1000000)::bigint AS began, \
         EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.pid = a.pid AND l.locktype = 'virtualxid') AS busy \
         FROM pg_catalog.pg_stat_activity a WHERE a.pid IN ({})",
        pids.join(", ")
    );
    let mut there = Vec::new();
    for row in session.rows(&query).await? {
        let pid: i32 = session.value(&row, "pid")?.unwrap_or_default();
        let began: i64 = session.value(&row, "began")?.unwrap_or_default();
        // A number is used again by another process.
        if let Some(found) = known.get(&pid).filter(|found| found.id.began_micros == began) {
            there.push(((*found).clone(), session.truth(&row, "busy")));
        }
    }
    Ok(there)
}
