//! Other runners that have read the tracking table before it was locked.
//!
//! A stock runner reads it once, outside any transaction, and believes for good what it has read: it applies what we have applied meanwhile. Once the
//! table is locked there are four things that such a session can be at, and `pg_stat_activity` has all of them: idle after its read, at its `BEGIN`,
//! in its first migration, or waiting to write its row. Whoever reads later waits for the lock, and is none.
//!
//! A `BEGIN` may be anybody's. It is watched, behind the lock, until the session shows what it is about, which takes it a moment; new ones are
//! not of interest, since whoever has read before the lock is seen at the first look.
//!
//! Relies on seeing what others do: as the same role, or with `pg_read_all_stats`. Texts of statements are compared in the server and stay there.

use std::time::Duration;

use mainstay_engine::{BackendId, LockHolder, WorkStart};
use mainstay_migrations::TrackingTable;
use mainstay_model::Result;
use tokio::time::{Instant, sleep};

use super::lock::{HOLDERS, holder};
use super::tracking::{quoted, regclass};
use crate::quote::literal;
use crate::session::Session;

/// How many characters of a text tell it from others: servers keep a kilobyte of a statement, unless told otherwise.
const TEXT_LENGTH: usize = 200;
/// For how long at most, and how often, a session that has begun a transaction and done nothing in it is watched.
const BEGUN_TIME_MAX: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A session that is, or may be, another runner.
struct Seen {
    holder: LockHolder,
    doing: Doing,
    /// When its statement began, in microseconds.
    since: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    /// In no transaction; the table is named in its last statement, which was a moment ago.
    Idle,
    /// It has begun a transaction.
    Begun,
    /// In a transaction, at a text of a pending migration or at the table.
    Acting,
}

/// Other runners, `own` process aside. To be asked while the table is locked, over another connection: a transaction sees sessions as they were when it
/// first asked.
pub(super) async fn find(
    session: &Session<'_>,
    table: &TrackingTable,
    start: &WorkStart<'_>,
    own: i32,
) -> Result<Vec<LockHolder>> {
    let query = query(table, start.texts, own);
    let mut seen = look(session, &query).await?;
    let mut begun = begun_of(&seen);
    let deadline = Instant::now() + BEGUN_TIME_MAX;
    loop {
        let rivals: Vec<LockHolder> =
            seen.into_iter().filter(|seen| is_rival(seen, start.idle)).map(|seen| seen.holder).collect();
        if !rivals.is_empty() || begun.is_empty() || Instant::now() >= deadline {
            return Ok(rivals);
        }
        sleep(LOOK_EVERY).await;
        seen = look(session, &query).await?;
        let still = begun_of(&seen);
        begun.retain(|one| still.contains(one));
    }
}

/// Whose transactions have begun, and when.
fn begun_of(seen: &[Seen]) -> Vec<(BackendId, i64)> {
    let begun = seen.iter().filter(|seen| seen.doing == Doing::Begun);
    begun.map(|seen| (seen.holder.id, seen.since)).collect()
}

/// Whether it is another runner, as far as can be told; `idle` ones were waited for.
fn is_rival(seen: &Seen, idle: &[BackendId]) -> bool {
    match seen.doing {
        Doing::Acting => true,
        Doing::Idle => !idle.contains(&seen.holder.id),
        Doing::Begun => false,
    }
}

/// How many sessions may write into the table and do not show what they do.
pub(super) async fn hidden(session: &Session<'_>, table: &TrackingTable) -> Result<u64> {
    let query = format!(
        "SELECT count(*) AS hidden FROM pg_catalog.pg_stat_activity a WHERE a.datname = current_database() \
         AND a.usesysid IS NOT NULL AND a.backend_start IS NULL \
         AND pg_catalog.has_table_privilege(a.usesysid, pg_catalog.to_regclass({})::oid, 'INSERT')",
        regclass(table)
    );
    session.number(&session.row(&query).await?, "hidden")
}

async fn look(session: &Session<'_>, query: &str) -> Result<Vec<Seen>> {
    let mut list = Vec::new();
    for row in session.rows(query).await? {
        let doing = match session.text(&row, "doing")? {
            "idle" => Doing::Idle,
            "begun" => Doing::Begun,
            _ => Doing::Acting,
        };
        let since = session.value(&row, "since")?.unwrap_or_default();
        list.push(Seen { holder: holder(session, &row)?, doing, since });
    }
    Ok(list)
}

/// What asks for them. Statements of ours begin with a capital letter; the url may give a stock runner the name
/// that it gives us.
fn query(table: &TrackingTable, texts: &[String], own: i32) -> String {
    let begun = "'^[[:space:]]*(begin|start[[:space:]]+transaction)[^;]*;?[[:space:]]*$'";
    let starts: Vec<String> =
        texts.iter().map(|text| literal(&text.chars().take(TEXT_LENGTH).collect::<String>())).collect();
    let is_pending = match starts.is_empty() {
        true => "false".to_owned(),
        false => format!("left(a.query, {TEXT_LENGTH}) IN ({})", starts.join(", ")),
    };
    format!(
        "{HOLDERS}, d.doing, floor(extract(epoch FROM a.query_start) * 1000000)::bigint AS since \
         FROM pg_catalog.pg_stat_activity a CROSS JOIN LATERAL (SELECT a.pid) l \
         CROSS JOIN LATERAL (SELECT strpos(a.query, {}) > 0 AND NOT (a.application_name = current_setting('application_name') AND a.query ~ '^[A-Z]') AS named) n \
         CROSS JOIN LATERAL (SELECT CASE \
         WHEN a.state = 'idle' AND n.named AND a.state_change > clock_timestamp() - interval '10 seconds' THEN 'idle' \
         WHEN a.state <> 'idle' AND (n.named OR {is_pending}) THEN 'acting' \
         WHEN a.state <> 'idle' AND a.query ~* {begun} THEN 'begun' END AS doing) d \
         WHERE a.datname = current_database() AND a.backend_type = 'client backend' \
         AND a.pid NOT IN (pg_catalog.pg_backend_pid(), {own}) AND d.doing IS NOT NULL \
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_locks w WHERE w.pid = a.pid AND NOT w.granted \
         AND w.mode = 'AccessShareLock' AND w.relation = pg_catalog.to_regclass({}) \
         AND w.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())) ORDER BY a.pid",
        literal(&quoted(table)),
        regclass(table)
    )
}
