//! Processes of the server, and their locks.
//!
//! Sources: manual (18), `pg_stat_activity`, `pg_locks`, `pg_blocking_pids`, "Server Signaling Functions".

use std::collections::{BTreeMap, BTreeSet};

use mainstay_engine::{Backend, BackendEnd, BackendId, Backends, HeldLock, WantedLock};
use mainstay_model::{ErrorKind, Result};
use tokio_postgres::SimpleQueryRow;

use super::statement;
use crate::session::Session;

const PROCESSES: &str = "\
    SELECT a.pid, floor(extract(epoch FROM a.backend_start) * 1000000)::bigint AS began, a.backend_type, a.datname, a.usename, \
    a.application_name, host(a.client_addr) AS client, a.client_port, a.state, a.query, \
    floor(extract(epoch FROM clock_timestamp() - a.state_change) * 1000000)::bigint AS state_micros, \
    floor(extract(epoch FROM a.query_start) * 1000000)::bigint AS statement_began, \
    floor(extract(epoch FROM clock_timestamp() - a.query_start) * 1000000)::bigint AS statement_micros, \
    floor(extract(epoch FROM clock_timestamp() - a.xact_start) * 1000000)::bigint AS transaction_micros, \
    a.wait_event_type, a.wait_event, \
    CASE WHEN a.wait_event_type = 'Lock' THEN array_to_string(pg_blocking_pids(a.pid), ',') END AS blocked_by \
    FROM pg_stat_activity a WHERE a.pid <> pg_backend_pid() ORDER BY a.pid";

const LIMITS: &str = "\
    SELECT current_setting('max_connections') AS most, \
    current_setting('superuser_reserved_connections')::int \
    + coalesce(current_setting('reserved_connections', true), '0')::int AS reserved";

/// Everything, by process.
pub(super) async fn read(session: &Session<'_>) -> Result<Backends> {
    let limits = session.row(LIMITS).await?;
    let mut list = Vec::new();
    for row in session.rows(PROCESSES).await? {
        list.push(backend(session, &row)?);
    }
    read_locks(session, &mut list).await?;
    // This connection is left out of the list, and counts.
    let connections = 1 + list.iter().filter(|backend| backend.is_client()).count() as u64;
    Ok(Backends {
        list,
        connections,
        connections_max: session.number(&limits, "most")?,
        connections_reserved: session.number(&limits, "reserved")?,
    })
}

fn backend(session: &Session<'_>, row: &SimpleQueryRow) -> Result<Backend> {
    let micros = |column: &str| -> Result<Option<u64>> {
        // Clocks are set back now and then.
        Ok(session.value::<i64>(row, column)?.map(|micros| u64::try_from(micros).unwrap_or(0)))
    };
    let text = |column: &str| session.value::<String>(row, column);
    let client = match (text("client")?, session.value::<i32>(row, "client_port")?) {
        (Some(address), Some(port)) if address.contains(':') => Some(format!("[{address}]:{port}")),
        (Some(address), Some(port)) => Some(format!("{address}:{port}")),
        _ => None,
    };
    let wait = match (text("wait_event_type")?, text("wait_event")?) {
        (Some(class), Some(event)) => Some(format!("{class}: {event}")),
        _ => None,
    };
    let blocked_by = text("blocked_by")?.unwrap_or_default();
    Ok(Backend {
        id: BackendId {
            pid: session.value(row, "pid")?.unwrap_or_default(),
            began_micros: session.value(row, "began")?.unwrap_or_default(),
        },
        kind: text("backend_type")?,
        database: text("datname")?,
        user: text("usename")?,
        app_name: text("application_name")?.unwrap_or_default(),
        client,
        state: text("state")?,
        state_micros: micros("state_micros")?,
        statement: text("query")?.and_then(|sql| statement(&sql)),
        statement_began_micros: session.value(row, "statement_began")?,
        statement_micros: micros("statement_micros")?,
        transaction_micros: micros("transaction_micros")?,
        wait,
        wants: None,
        blocked_by: blocked_by.split(',').filter_map(|pid| pid.parse().ok()).collect(),
        holds: Vec::new(),
    })
}

/// Adds what those who wait and those who are waited for have locked and want.
async fn read_locks(session: &Session<'_>, list: &mut [Backend]) -> Result<()> {
    let involved: BTreeSet<i32> = list
        .iter()
        .filter(|backend| !backend.blocked_by.is_empty())
        .flat_map(|backend| backend.blocked_by.iter().copied().chain([backend.id.pid]))
        .filter(|pid| *pid > 0)
        .collect();
    if involved.is_empty() {
        return Ok(());
    }
    let pids: Vec<String> = involved.iter().map(ToString::to_string).collect();
    // A relation's name is known in its own database alone; a prepared transaction has no process.
    let query = format!(
        "SELECT l.pid, l.granted, l.mode, l.locktype, d.datname, l.relation, l.transactionid, l.virtualxid, l.classid, l.objid, \
         CASE WHEN d.oid IS NULL OR d.datname = current_database() THEN l.relation::regclass::text END AS name, \
         floor(extract(epoch FROM clock_timestamp() - l.waitstart) * 1000000)::bigint AS waited \
         FROM pg_locks l LEFT JOIN pg_database d ON d.oid = l.database WHERE l.pid IN ({}) ORDER BY l.pid, l.locktype, l.relation",
        pids.join(", ")
    );
    let mut holds: BTreeMap<i32, Vec<HeldLock>> = BTreeMap::new();
    let mut wants: BTreeMap<i32, WantedLock> = BTreeMap::new();
    for row in session.rows(&query).await? {
        let Some(pid) = session.value::<i32>(&row, "pid")? else { continue };
        let (on, mode) = (object(session, &row)?, session.text(&row, "mode")?.to_owned());
        if session.truth(&row, "granted") {
            // Everybody has his own virtual transaction; to know of it helps nobody.
            if session.text(&row, "locktype")? != "virtualxid" {
                holds.entry(pid).or_default().push(HeldLock { on, mode });
            }
        } else {
            let micros =
                session.value::<i64>(&row, "waited")?.map_or(0, |micros| micros.max(0).unsigned_abs());
            wants.insert(pid, WantedLock { on, mode, micros });
        }
    }
    for backend in list {
        backend.holds = holds.remove(&backend.id.pid).unwrap_or_default();
        backend.wants = wants.remove(&backend.id.pid);
    }
    Ok(())
}

/// What a lock is on, in words.
fn object(session: &Session<'_>, row: &SimpleQueryRow) -> Result<String> {
    let text = |column: &str| session.value::<String>(row, column);
    let kind = session.text(row, "locktype")?;
    let relation = match (text("name")?, text("relation")?, text("datname")?) {
        (Some(name), _, _) => name,
        (None, Some(oid), database) => format!("relation {oid} of database {}", database.unwrap_or_default()),
        (None, None, _) => String::new(),
    };
    Ok(match kind {
        "relation" => relation,
        "tuple" => format!("a row of {relation}"),
        "page" | "extend" => format!("{kind} of {relation}"),
        "transactionid" => format!("transaction {}", text("transactionid")?.unwrap_or_default()),
        "virtualxid" => format!("transaction {}", text("virtualxid")?.unwrap_or_default()),
        "advisory" => format!(
            "advisory lock {}:{}",
            text("classid")?.unwrap_or_default(),
            text("objid")?.unwrap_or_default()
        ),
        other => other.to_owned(),
    })
}

/// Ends a statement or a connection, if the process still is the one that is meant.
pub(super) async fn end(session: &Session<'_>, id: BackendId, how: BackendEnd) -> Result<bool> {
    let function = match how {
        BackendEnd::Cancel => "pg_cancel_backend",
        BackendEnd::Terminate => "pg_terminate_backend",
    };
    let query = format!(
        "SELECT {function}(pid) AS sent FROM pg_stat_activity \
         WHERE pid = {} AND floor(extract(epoch FROM backend_start) * 1000000)::bigint = {}",
        id.pid, id.began_micros
    );
    let rows = session.rows(&query).await.map_err(|error| match error.kind() {
        ErrorKind::Auth => error.with_hint(
            "as a superuser: `GRANT pg_signal_backend TO …`; a superuser's session is ended by superusers alone",
        ),
        _ => error,
    })?;
    Ok(rows.first().is_some_and(|row| session.truth(row, "sent")))
}
