//! What a server keeps of its WAL for a slot, and names given to places in it: asked in SQL, which a replication connection does not speak.
//!
//! Source: manual (18), "pg_replication_slots", "Backup Control Functions". Everybody may read the view; the function needs a grant.

use mainstay_engine::{RestorePoint, SlotHealth, SlotRetention};
use mainstay_model::{Error, ErrorKind, Lsn, Result};
use tokio_postgres::error::SqlState;

use crate::config::Settings;
use crate::session::Session;

/// How it stands with the slot called `name`.
pub(crate) async fn slot_health(settings: &Settings, name: &str) -> Result<Option<SlotHealth>> {
    let session = Session::open(settings).await?;
    let rows = session
        .rows(&format!(
            "SELECT coalesce(wal_status, 'reserved') AS retention, coalesce(safe_wal_size::text, '') AS safe, \
             greatest(coalesce(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
             ELSE pg_current_wal_lsn() END, restart_lsn), 0), 0)::bigint AS retained \
             FROM pg_replication_slots WHERE slot_name = {}",
            literal(name)
        ))
        .await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let retention = match session.text(row, "retention")? {
        "extended" => SlotRetention::Extended,
        "unreserved" => SlotRetention::Unreserved,
        "lost" => SlotRetention::Lost,
        _ => SlotRetention::Reserved,
    };
    // Negative once the limit is passed.
    let safe = session.text(row, "safe")?;
    let safe_bytes =
        (!safe.is_empty()).then(|| safe.parse::<i64>().map_or(0, |bytes| bytes.max(0).unsigned_abs()));
    Ok(Some(SlotHealth { retention, retained_bytes: session.number(row, "retained")?, safe_bytes }))
}

/// Writes a restore point.
pub(crate) async fn create_restore_point(settings: &Settings, name: &str) -> Result<RestorePoint> {
    let session = Session::open(settings).await?;
    refuse_standby(&session).await?;
    let query = format!(
        "SELECT lsn::text AS lsn, ('x' || substr(pg_walfile_name(lsn), 1, 8))::bit(32)::int AS timeline \
         FROM pg_create_restore_point({}) AS lsn",
        literal(name)
    );
    let denied = [SqlState::INSUFFICIENT_PRIVILEGE];
    let Some(rows) = session.rows_unless(&denied, &query).await? else {
        let (user, database) = (settings.user(), settings.database());
        return Err(Error::new(ErrorKind::Auth, format!("user {user} may not create restore points in database {database}"))
            .with_state("nothing was changed")
            .with_hint(format!(
                "as a superuser in {database}: `GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO \"{}\"`",
                user.replace('"', "\"\"")
            )));
    };
    let row = rows.first().ok_or_else(|| Error::new(ErrorKind::Server, "the server told no position"))?;
    let lsn: Lsn = session
        .text(row, "lsn")?
        .parse()
        .map_err(|source| Error::new(ErrorKind::Server, "the server told no position").with_source(source))?;
    let timeline = u32::try_from(session.number(row, "timeline")?).unwrap_or_default();
    make_durable(&session).await?;
    Ok(RestorePoint { at: lsn, timeline })
}

/// Commits something that changes nothing, on this server's disk alone. A restore point is durable, and sent to whoever follows WAL, no
/// sooner than the next commit, which on an idle server may be long in coming.
async fn make_durable(session: &Session<'_>) -> Result<()> {
    const COMMIT: &str = "SELECT set_config('synchronous_commit', 'local', true), \
                          pg_logical_emit_message(true, 'mainstay', 'restore point')::text";
    session.rows(COMMIT).await.map(drop)
}

/// A standby writes no log of its own.
async fn refuse_standby(session: &Session<'_>) -> Result<()> {
    let rows = session.rows("SELECT pg_is_in_recovery()::text AS in_recovery").await?;
    let row = rows.first().ok_or_else(|| Error::new(ErrorKind::Server, "the server told nothing"))?;
    if session.text(row, "in_recovery")? == "false" {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Precondition, "the server is a standby, which writes no WAL of its own")
        .with_state("nothing was changed")
        .with_hint("connect to the primary"))
}

/// Text in the quotes of SQL, whatever `standard_conforming_strings` says.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_cannot_leave_their_quotes() {
        assert_eq!(literal("a'b\\"), "E'a\\'b\\\\'");
    }
}
