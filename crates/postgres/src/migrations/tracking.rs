//! The tracking table: read, made as Drizzle makes it, written row for row as Drizzle writes it.

use mainstay_engine::{RowWrite, TrackingLook};
use mainstay_migrations::{NewRow, RowChange, RowRepair, TableVersion, TrackingRow, TrackingTable};
use mainstay_model::{Error, ErrorKind, Result, Timestamp};
use tokio_postgres::SimpleQueryRow;
use tokio_postgres::error::SqlState;

use super::{ledger, rights, waiting};
use crate::config::Settings;
use crate::quote::{literal, name};
use crate::session::Session;

/// More rows than anybody has migrations: another table by that name.
const ROW_COUNT_MAX: usize = 100_000;
/// How long whoever only looks waits for a run that keeps readers out.
const READ_LOCK_TIMEOUT: &str = "SET lock_timeout = '3s'";

/// The table's name as a statement takes it.
pub(super) fn quoted(table: &TrackingTable) -> String {
    format!("{}.{}", name(&table.schema), name(&table.name))
}

/// The table's name as a text that `to_regclass` takes.
pub(super) fn regclass(table: &TrackingTable) -> String {
    literal(&quoted(table))
}

/// Reads it without waiting for long.
pub(super) async fn read_patiently(session: &Session<'_>, table: &TrackingTable) -> Result<TrackingLook> {
    session.rows(READ_LOCK_TIMEOUT).await?;
    if let Some(look) = read_unless_locked(session, table).await? {
        return Ok(look);
    }
    let holder = waiting::owner(session, table).await?;
    let (who, hint) = match holder {
        Some(holder) => (
            format!("process {} ({})", holder.id.pid, holder.app_name),
            format!(
                "wait until it has ended; `mainstay pg activity --terminate {}` ends it, and its transaction is undone",
                holder.id.pid
            ),
        ),
        None => (
            "somebody".to_owned(),
            "wait until that run has ended; `mainstay pg blockers` shows whose it is".to_owned(),
        ),
    };
    Err(Error::new(
        ErrorKind::Locked,
        format!("{who} keeps readers out of {table}: migrations are being applied"),
    )
    .with_state("nothing was changed")
    .with_hint(hint))
}

/// Reads it. Waits for whoever has it locked.
pub(super) async fn read(session: &Session<'_>, table: &TrackingTable) -> Result<TrackingLook> {
    match read_unless_locked(session, table).await? {
        Some(look) => Ok(look),
        None => Err(Error::new(ErrorKind::Locked, format!("{table} is locked by somebody else"))),
    }
}

async fn read_unless_locked(session: &Session<'_>, table: &TrackingTable) -> Result<Option<TrackingLook>> {
    let version = version(session, table).await?;
    let more = match version {
        TableVersion::Absent => return Ok(Some(TrackingLook { version, rows: Vec::new() })),
        TableVersion::Classic => "NULL AS name, NULL AS applied_at",
        TableVersion::Named => {
            "name, to_char(applied_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS applied_at"
        }
    };
    let query = format!(
        "SELECT id, hash, created_at, {more} FROM {} ORDER BY id LIMIT {}",
        quoted(table),
        ROW_COUNT_MAX + 1
    );
    let Some(rows) = session.rows_unless(&[SqlState::LOCK_NOT_AVAILABLE], &query).await? else {
        return Ok(None);
    };
    if rows.len() > ROW_COUNT_MAX {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("{table} has more than {ROW_COUNT_MAX} rows, which are no migrations"),
        )
        .with_state("nothing was changed")
        .with_hint("check `schema` and `table` in [sql] of mainstay.toml"));
    }
    let rows = rows.iter().map(|found| row(session, found)).collect::<Result<_>>()?;
    Ok(Some(TrackingLook { version, rows }))
}

fn row(session: &Session<'_>, row: &SimpleQueryRow) -> Result<TrackingRow> {
    Ok(TrackingRow {
        id: session.value(row, "id")?.unwrap_or_default(),
        hash: session.value(row, "hash")?.unwrap_or_default(),
        created_at: session.value(row, "created_at")?,
        name: session.value(row, "name")?,
        applied_at: session.value::<Timestamp>(row, "applied_at")?,
    })
}

/// The number of its relation.
pub(super) async fn number(session: &Session<'_>, table: &TrackingTable) -> Result<u64> {
    let query = format!(
        "SELECT c.oid AS number FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = {} AND c.relname = {}",
        literal(&table.schema),
        literal(&table.name)
    );
    session.number(&session.row(&query).await?, "number")
}

/// Which columns it has.
async fn version(session: &Session<'_>, table: &TrackingTable) -> Result<TableVersion> {
    let query = format!(
        "SELECT a.attname AS name FROM pg_catalog.pg_attribute a \
         JOIN pg_catalog.pg_class c ON c.oid = a.attrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = {} AND c.relname = {} AND a.attnum > 0 AND NOT a.attisdropped",
        literal(&table.schema),
        literal(&table.name)
    );
    let rows = session.rows(&query).await?;
    let columns: Vec<String> =
        rows.iter().map(|row| session.text(row, "name").map(str::to_owned)).collect::<Result<_>>()?;
    Ok(TableVersion::of_columns(table, &columns)?)
}

/// Makes schema and table where they are absent, each in a transaction of its own, as Drizzle does. What is there needs no right to make it.
///
/// # Errors
/// The server's, with what to grant where a right lacks.
pub(super) async fn create(
    session: &Session<'_>,
    settings: &Settings,
    table: &TrackingTable,
    made: TableVersion,
) -> Result<()> {
    let Some(columns) = columns(made) else { return Ok(()) };
    let query = format!(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = {}) AS present",
        literal(&table.schema)
    );
    if !session.truth(&session.row(&query).await?, "present") {
        let made = session.rows(&format!("CREATE SCHEMA IF NOT EXISTS {}", name(&table.schema))).await;
        made.map_err(|error| rights::to_make_schema(error, settings))?;
    }
    if version(session, table).await? == TableVersion::Absent {
        let made = session.rows(&format!("CREATE TABLE IF NOT EXISTS {} ({columns})", quoted(table))).await;
        made.map_err(|error| rights::to_make_table(error, settings, &table.schema))?;
    }
    Ok(())
}

/// The columns as the stock runners declare them: the names of the sequence, the key and the defaults follow from it.
fn columns(version: TableVersion) -> Option<&'static str> {
    match version {
        TableVersion::Absent => None,
        TableVersion::Classic => Some("id SERIAL PRIMARY KEY, hash text NOT NULL, created_at bigint"),
        TableVersion::Named => Some(
            "id SERIAL PRIMARY KEY, hash text NOT NULL, created_at bigint, name text, \
             applied_at timestamp with time zone DEFAULT now()",
        ),
    }
}

/// What writes a row. The names of its columns follow from the table, not from the row: a row has a name where the table has one.
pub(super) fn insert(table: &TrackingTable, version: TableVersion, row: &NewRow) -> String {
    let (hash, created_at) = (literal(&row.hash), row.created_at);
    match version {
        TableVersion::Named => format!(
            "INSERT INTO {} (\"hash\", \"created_at\", \"name\") VALUES ({hash}, {created_at}, {})",
            quoted(table),
            nullable(row.name.as_deref())
        ),
        TableVersion::Absent | TableVersion::Classic => {
            format!("INSERT INTO {} (\"hash\", \"created_at\") VALUES ({hash}, {created_at})", quoted(table))
        }
    }
}

/// What does a change of rows.
pub(super) fn write(table: &TrackingTable, version: TableVersion, write: &RowWrite) -> String {
    let quoted = quoted(table);
    match write {
        RowWrite::Insert(row) => insert(table, version, row),
        RowWrite::ForgetSteps { tag } => ledger::forget(table, tag),
        // In one statement: the stock runner's two, in its transaction, leave the same.
        RowWrite::TakeOver => format!(
            "ALTER TABLE {quoted} ADD COLUMN IF NOT EXISTS \"name\" text, \
             ADD COLUMN IF NOT EXISTS \"applied_at\" timestamp with time zone DEFAULT now()"
        ),
        RowWrite::Name { row, name } => format!(
            "UPDATE {quoted} SET \"name\" = {}, \"applied_at\" = NULL WHERE \"id\" = {row}",
            literal(name)
        ),
        RowWrite::Repair(RowRepair { row, change: RowChange::Delete, .. }) => {
            format!("DELETE FROM {quoted} WHERE id = {}", row.id)
        }
        RowWrite::Repair(RowRepair { row, change: RowChange::Set(new), .. }) => {
            let named = match version {
                TableVersion::Named => format!(", \"name\" = {}", nullable(new.name.as_deref())),
                TableVersion::Absent | TableVersion::Classic => String::new(),
            };
            format!(
                "UPDATE {quoted} SET \"hash\" = {}, \"created_at\" = {}{named} WHERE id = {}",
                literal(&new.hash),
                new.created_at,
                row.id
            )
        }
    }
}

fn nullable(text: Option<&str>) -> String {
    text.map_or_else(|| "NULL".to_owned(), literal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_row(name: Option<&str>) -> NewRow {
        NewRow { hash: "ab".to_owned(), created_at: 7, name: name.map(str::to_owned) }
    }

    #[test]
    fn rows_are_written_as_the_table_has_columns() {
        let table = TrackingTable { schema: "d\"r".to_owned(), name: "m".to_owned() };
        let cases = [
            (
                TableVersion::Classic,
                RowWrite::Insert(new_row(Some("left out"))),
                "INSERT INTO \"d\"\"r\".\"m\" (\"hash\", \"created_at\") VALUES ('ab', 7)",
            ),
            (
                TableVersion::Named,
                RowWrite::Insert(new_row(Some("it's"))),
                "INSERT INTO \"d\"\"r\".\"m\" (\"hash\", \"created_at\", \"name\") VALUES ('ab', 7, 'it''s')",
            ),
            (
                TableVersion::Named,
                RowWrite::Insert(new_row(None)),
                "INSERT INTO \"d\"\"r\".\"m\" (\"hash\", \"created_at\", \"name\") VALUES ('ab', 7, NULL)",
            ),
        ];
        for (version, given, expected) in cases {
            assert_eq!(write(&table, version, &given), expected);
        }
        let row =
            TrackingRow { id: 3, hash: "cd".to_owned(), created_at: None, name: None, applied_at: None };
        let repair = |change| RowWrite::Repair(RowRepair { row: row.clone(), change, reason: String::new() });
        assert_eq!(
            write(&table, TableVersion::Classic, &repair(RowChange::Set(new_row(None)))),
            "UPDATE \"d\"\"r\".\"m\" SET \"hash\" = 'ab', \"created_at\" = 7 WHERE id = 3"
        );
        assert_eq!(
            write(&table, TableVersion::Classic, &repair(RowChange::Delete)),
            "DELETE FROM \"d\"\"r\".\"m\" WHERE id = 3"
        );
    }
}
