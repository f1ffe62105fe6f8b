//! What statements cost, from `pg_stat_statements`.
//!
//! The view is an extension's: the library must be loaded when the server starts, and the extension created in the database that is asked. What is
//! missing is told with the statement that mends it. Source: manual (18), appendix "pg_stat_statements".

use mainstay_engine::{StatementCost, StatementCosts, StatementRequest};
use mainstay_model::{Error, ErrorKind, Result};
use tokio_postgres::SimpleQueryRow;
use tokio_postgres::error::SqlState;

use super::statement;
use crate::config::Settings;
use crate::quote::{literal, name};
use crate::session::Session;

const LIBRARY: &str = "pg_stat_statements";

/// The dearest statements.
pub(super) async fn read(
    session: &Session<'_>,
    request: StatementRequest,
    settings: &Settings,
) -> Result<StatementCosts> {
    let schema = schema(session, settings).await?;
    let of = if request.all_databases { "true" } else { "d.datname = current_database()" };
    let query = format!(
        "SELECT s.queryid, d.datname, r.rolname, s.query, s.calls, s.total_exec_time, s.mean_exec_time, s.max_exec_time, s.rows, \
         s.shared_blks_hit, s.shared_blks_read, s.temp_blks_written, s.wal_bytes, \
         count(*) OVER () AS statements, sum(s.total_exec_time) OVER () AS total \
         FROM {schema}.pg_stat_statements s LEFT JOIN pg_database d ON d.oid = s.dbid LEFT JOIN pg_roles r ON r.oid = s.userid \
         WHERE {of} ORDER BY s.total_exec_time DESC, s.queryid LIMIT {}",
        request.count_max
    );
    // The view answers so when the library was not loaded at start.
    let unloaded = [SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE];
    let Some(rows) = session.rows_unless(&unloaded, &query).await? else {
        return Err(not_loaded(session).await?);
    };
    let mut list = Vec::new();
    for row in &rows {
        list.push(cost(session, row)?);
    }
    let info = format!(
        "SELECT floor(extract(epoch FROM clock_timestamp() - stats_reset))::bigint AS since, dealloc FROM {schema}.pg_stat_statements_info"
    );
    let info = session.rows_unless(&[SqlState::UNDEFINED_TABLE], &info).await?.unwrap_or_default();
    let told = |column: &str| match info.first() {
        Some(row) => {
            session.value::<i64>(row, column).map(|value| value.and_then(|value| value.try_into().ok()))
        }
        None => Ok(None),
    };
    Ok(StatementCosts {
        list,
        count: rows.first().map_or(Ok(0), |row| session.number(row, "statements"))?,
        total_ms: rows.first().map_or(Ok(None), |row| session.value(row, "total"))?.unwrap_or(0.0),
        since_seconds: told("since")?,
        forgotten: told("dealloc")?,
    })
}

fn cost(session: &Session<'_>, row: &SimpleQueryRow) -> Result<StatementCost> {
    let number = |column: &str| session.number(row, column);
    let millis = |column: &str| session.value::<f64>(row, column).map(|value| value.unwrap_or(0.0));
    Ok(StatementCost {
        id: session.value(row, "queryid")?.unwrap_or_default(),
        database: session.value(row, "datname")?,
        user: session.value(row, "rolname")?,
        statement: session.value::<String>(row, "query")?.and_then(|sql| statement(&sql)),
        calls: number("calls")?,
        total_ms: millis("total_exec_time")?,
        mean_ms: millis("mean_exec_time")?,
        max_ms: millis("max_exec_time")?,
        rows: number("rows")?,
        blocks_hit: number("shared_blks_hit")?,
        blocks_read: number("shared_blks_read")?,
        temporary_blocks_written: number("temp_blks_written")?,
        wal_bytes: number("wal_bytes")?,
    })
}

/// The schema that the extension was created in, as it must be written.
async fn schema(session: &Session<'_>, settings: &Settings) -> Result<String> {
    let query = format!(
        "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = '{LIBRARY}'"
    );
    let rows = session.rows(&query).await?;
    if let Some(row) = rows.first() {
        return Ok(name(session.text(row, "nspname")?));
    }
    let loaded = session.rows(&format!("SELECT 1 FROM pg_settings WHERE name = '{LIBRARY}.max'")).await?;
    if loaded.is_empty() {
        return Err(not_loaded(session).await?);
    }
    let database = settings.database();
    Err(Error::new(
        ErrorKind::Precondition,
        format!("database {database} does not have the extension {LIBRARY}"),
    )
    .with_state("nothing was changed")
    .with_hint(format!("as a superuser, in {database}: `CREATE EXTENSION {LIBRARY};`")))
}

/// What to type when the library is not loaded. Others that are loaded stay.
async fn not_loaded(session: &Session<'_>) -> Result<Error> {
    let row = session
        .rows("SELECT setting FROM pg_settings WHERE name = 'shared_preload_libraries'")
        .await?
        .first()
        .map(|row| session.value::<String>(row, "setting"))
        .transpose()?
        .flatten();
    let others = row.unwrap_or_default();
    let libraries: Vec<String> = others
        .split(',')
        .map(|library| library.trim().trim_matches('"'))
        .filter(|library| !library.is_empty() && *library != LIBRARY)
        .chain([LIBRARY])
        .map(literal)
        .collect();
    Ok(Error::new(ErrorKind::Precondition, format!("the server does not keep statements: {LIBRARY} is not loaded"))
        .with_state("nothing was changed")
        .with_hint(format!(
            "as a superuser: `ALTER SYSTEM SET shared_preload_libraries = {};`, restart the server, then `CREATE EXTENSION IF NOT EXISTS {LIBRARY};`",
            libraries.join(", ")
        )))
}
