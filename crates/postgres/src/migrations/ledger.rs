//! `mainstay.sql_steps`: what is done of a migration that is not one transaction.
//!
//! An entry without an end was begun, and nobody knows more: whoever was to record its end was killed. Entries go in the same transaction that
//! writes the migration's row, so that the ledger holds unfinished migrations alone. Everybody may read it, as the marker beside it; it
//! holds no text of a statement.

use mainstay_engine::{RecordedStep, StepEntry};
use mainstay_migrations::TrackingTable;
use mainstay_model::{Error, ErrorKind, Result};
use tokio_postgres::SimpleQueryRow;
use tokio_postgres::error::SqlState;

use super::rights;
use super::tracking::quoted;
use crate::config::Settings;
use crate::quote::literal;
use crate::session::Session;

const PRESENT: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'mainstay') AS schema_present, \
    EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE n.nspname = 'mainstay' AND c.relname = 'sql_steps') AS table_present";

const SCHEMA: &str = "mainstay";
const CREATE_SCHEMA: &str = "CREATE SCHEMA IF NOT EXISTS mainstay; GRANT USAGE ON SCHEMA mainstay TO PUBLIC";

const CREATE_TABLE: &str = "\
    CREATE TABLE IF NOT EXISTS mainstay.sql_steps (
        tracking_table text NOT NULL,
        tag text NOT NULL,
        step integer NOT NULL,
        chunk integer NOT NULL,
        text_hash text NOT NULL,
        begun_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        done_at timestamptz,
        PRIMARY KEY (tracking_table, tag, step)
    );
    COMMENT ON TABLE mainstay.sql_steps IS 'Steps of SQL migrations that have begun and not ended; written by mainstay sql apply';
    GRANT SELECT ON mainstay.sql_steps TO PUBLIC";

/// The entries of migrations that the tracking table is for.
pub(super) async fn read(session: &Session<'_>, table: &TrackingTable) -> Result<Vec<RecordedStep>> {
    let absent = [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME];
    let query = format!(
        "SELECT tag, step, chunk, text_hash, done_at IS NOT NULL AS done FROM mainstay.sql_steps \
         WHERE tracking_table = {} ORDER BY tag, step",
        literal(&quoted(table))
    );
    let rows = session.rows_unless(&absent, &query).await?.unwrap_or_default();
    rows.iter().map(|row| recorded(session, row)).collect()
}

fn recorded(session: &Session<'_>, row: &SimpleQueryRow) -> Result<RecordedStep> {
    let damaged = |what: &str| {
        Error::new(ErrorKind::Corrupt, format!("an entry of mainstay.sql_steps is damaged: {what}"))
            .with_hint("look at it with `SELECT * FROM mainstay.sql_steps`")
    };
    let text_hash = session.text(row, "text_hash")?;
    Ok(RecordedStep {
        entry: StepEntry {
            tag: session.text(row, "tag")?.to_owned(),
            step: session.value(row, "step")?.ok_or_else(|| damaged("it has no step"))?,
            chunk: session.value(row, "chunk")?.ok_or_else(|| damaged("it has no chunk"))?,
            text_hash: text_hash.parse().map_err(|_| damaged("its text_hash is no hash"))?,
        },
        is_done: session.truth(row, "done"),
    })
}

/// Makes schema and table where they are absent. What is there needs no right to make it.
///
/// # Errors
/// The server's, with what to grant where a right lacks.
pub(super) async fn create(session: &Session<'_>, settings: &Settings) -> Result<()> {
    let present = session.row(PRESENT).await?;
    if !session.truth(&present, "schema_present") {
        let made = session.rows(CREATE_SCHEMA).await;
        made.map_err(|error| rights::to_make_schema(error, settings))?;
    }
    if !session.truth(&present, "table_present") {
        let made = session.rows(CREATE_TABLE).await;
        made.map_err(|error| rights::to_make_table(error, settings, SCHEMA))?;
    }
    Ok(())
}

/// What records that a step has begun; one that was begun before begins again.
pub(super) fn begin(table: &TrackingTable, entry: &StepEntry) -> String {
    upsert(table, entry, "NULL")
}

/// What records that a step has ended.
pub(super) fn end(table: &TrackingTable, entry: &StepEntry) -> String {
    upsert(table, entry, "clock_timestamp()")
}

fn upsert(table: &TrackingTable, entry: &StepEntry, done_at: &str) -> String {
    let StepEntry { tag, step, chunk, text_hash } = entry;
    format!(
        "INSERT INTO mainstay.sql_steps AS s (tracking_table, tag, step, chunk, text_hash, done_at) \
         VALUES ({}, {}, {step}, {chunk}, '{text_hash}', {done_at}) ON CONFLICT (tracking_table, tag, step) \
         DO UPDATE SET chunk = excluded.chunk, text_hash = excluded.text_hash, done_at = excluded.done_at, \
         begun_at = CASE WHEN excluded.done_at IS NULL THEN clock_timestamp() ELSE s.begun_at END",
        literal(&quoted(table)),
        literal(tag)
    )
}

/// What forgets a migration.
pub(super) fn forget(table: &TrackingTable, tag: &str) -> String {
    format!(
        "DELETE FROM mainstay.sql_steps WHERE tracking_table = {} AND tag = {}",
        literal(&quoted(table)),
        literal(tag)
    )
}
