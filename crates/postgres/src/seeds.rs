//! Rows of a project's files as rows of a table, and who may fill a new installation.
//!
//! Rows cross as one JSON text that the server takes apart itself (`jsonb_populate_recordset`), so that every type is read by its own input
//! function and no value is ever part of a statement. Each step is one transaction. Relies on a unique constraint over the natural key, which
//! the server finds by itself (`ON CONFLICT`); the statement is planned by it (`EXPLAIN`) before anything is decided, so that a column that does
//! not exist or a missing constraint is told then. Refuses to write where the environment marker, read in the same transaction, is not the one
//! that the decision was made under.

use std::collections::BTreeSet;

use async_trait::async_trait;
use mainstay_engine::{
    CLAIM_SECONDS, NewcomerRule, SeedClaim, SeedGround, SeedPlace, SeedRow, SeedStanding, SeedTarget,
    SeedWriting, SeedWritten,
};
use mainstay_guard::{Marker, Permit};
use mainstay_model::{Error, ErrorKind, Result, ResultExt, StoreKind, Timestamp};
use tokio_postgres::SimpleQueryRow;
use tokio_postgres::error::SqlState;

use crate::config::{PostgresConfig, Settings};
use crate::probe::{check_user_schema, fingerprint, read_marker};
use crate::quote::{literal, name as quoted};
use crate::session::Session;

/// What a permit to claim must be for.
const OPERATION: &str = "seed.run";

/// What a table that is not there is told by.
const ABSENT: [SqlState; 2] = [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME];

const CREATE_CLAIMS: &str = "\
    CREATE SCHEMA IF NOT EXISTS mainstay;
    CREATE TABLE IF NOT EXISTS mainstay.seed_claims (
        database text PRIMARY KEY,
        state text NOT NULL,
        held_by text NOT NULL,
        until timestamptz NOT NULL,
        begun boolean NOT NULL DEFAULT false
    )";

/// A PostgreSQL database that is seeded. Each call opens a connection of its own and ends it.
#[derive(Debug)]
pub struct PostgresSeeds {
    settings: Settings,
}

impl PostgresSeeds {
    /// The database that `config` describes. Does not connect.
    ///
    /// # Errors
    /// `Config` when the URL cannot be used.
    pub fn new(config: &PostgresConfig) -> Result<Self> {
        Ok(Self { settings: Settings::resolve(config)? })
    }

    async fn open(&self) -> Result<Session<'_>> {
        Session::open(&self.settings).await.context("connect to PostgreSQL")
    }

    async fn permitted(&self, permit: &Permit, operation: &str) -> Result<Session<'_>> {
        let session = self.open().await?;
        permit.check(operation, StoreKind::Postgres, &fingerprint(&session).await?)?;
        Ok(session)
    }
}

#[async_trait]
impl SeedTarget for PostgresSeeds {
    async fn ground(&self) -> Result<SeedGround> {
        let session = self.open().await?;
        let marker = read_marker(&session).await.context("read environment marker of PostgreSQL")?;
        Ok(SeedGround { database: self.settings.database().to_owned(), marker })
    }

    async fn standing(&self, place: &SeedPlace, rows: &[SeedRow]) -> Result<SeedStanding> {
        let session = self.open().await?;
        standing(&session, &Table::of(place, rows)?, rows)
            .await
            .map_err(|error| error.with_state("nothing was changed"))
            .with_context(|| format!("compare with {}", place.into))
    }

    async fn write(
        &self,
        place: &SeedPlace,
        rows: &[SeedRow],
        writing: SeedWriting,
        under: Option<&Marker>,
        permit: &Permit,
    ) -> Result<SeedWritten> {
        let session = self.permitted(permit, writing.operation()).await?;
        let table = Table::of(place, rows)?;
        session.rows("BEGIN").await?;
        // Whatever fails leaves the transaction to end with its connection.
        write(&session, &table, rows, writing, under).await.with_context(|| format!("seed {}", place.into))
    }

    async fn has_users(&self, rule: &NewcomerRule) -> Result<bool> {
        let session = self.open().await?;
        let (schema, table) = qualified(&rule.users);
        let (schema, table, field) = (quoted(schema), quoted(table), quoted(&rule.field));
        let query = format!(
            "SELECT 1 AS one FROM {schema}.{table} WHERE {field}::text IS DISTINCT FROM {} LIMIT 1",
            literal(&rule.administrator)
        );
        let found = session.rows_unless(&ABSENT, &query).await;
        let found = found.with_context(|| format!("look for users in {}", rule.users))?;
        Ok(found.is_some_and(|rows| !rows.is_empty()))
    }

    async fn claimed(&self) -> Result<Option<SeedClaim>> {
        let session = self.open().await?;
        let query = standing_claim(&literal(self.settings.database()));
        let found =
            session.rows_unless(&ABSENT, &query).await.context("look who has seeded this database")?;
        let rows = found.unwrap_or_default();
        rows.first().map(|row| held_by_another(&session, row)).transpose()
    }

    async fn claim(&self, holder: &str, permit: &Permit) -> Result<SeedClaim> {
        let session = self.permitted(permit, OPERATION).await?;
        claim(&session, self.settings.database(), holder).await.context("claim the seeding")
    }

    async fn end_claim(&self, holder: &str, is_done: bool, permit: &Permit) -> Result<()> {
        let session = self.permitted(permit, OPERATION).await?;
        let own = format!(
            "database = {} AND held_by = {} AND state = 'running'",
            literal(self.settings.database()),
            literal(holder)
        );
        let statement = match is_done {
            true => format!("UPDATE mainstay.seed_claims SET state = 'done' WHERE {own}"),
            false => format!("DELETE FROM mainstay.seed_claims WHERE {own}"),
        };
        session.rows(&statement).await.context("end the claim on the seeding")?;
        Ok(())
    }
}

/// The table of a seed, as SQL.
struct Table {
    /// Its qualified name.
    name: String,
    /// The columns of every row, in the order of the first.
    columns: Vec<String>,
    /// Those of the natural key.
    key: Vec<String>,
}

impl Table {
    /// The table of `place` for `rows`, which must all have the same fields: a column that a row leaves out would be set to null in it.
    fn of(place: &SeedPlace, rows: &[SeedRow]) -> Result<Self> {
        let (schema, table) = qualified(&place.into);
        check_user_schema(schema)?;
        let fields = |row: &SeedRow| row.0.iter().map(|(field, _)| field.clone()).collect::<Vec<_>>();
        let columns = rows.first().map(fields).unwrap_or_default();
        let expected: BTreeSet<&String> = columns.iter().collect();
        for (index, row) in rows.iter().enumerate() {
            let given = fields(row);
            if given.iter().collect::<BTreeSet<_>>() != expected {
                return Err(Error::new(
                    ErrorKind::Precondition,
                    format!("row {} of the seed of {} has other fields than row 1", index + 1, place.into),
                )
                .with_state("nothing was changed")
                .with_hint("give each row the same fields, with null where there is no value"));
            }
        }
        let name = format!("{}.{}", quoted(schema), quoted(table));
        Ok(Self { name, columns, key: place.key.clone() })
    }

    fn list(&self, fields: &[String], one: impl Fn(&str) -> String) -> String {
        fields.iter().map(|field| one(&quoted(field))).collect::<Vec<_>>().join(", ")
    }

    /// The rows of the JSON text that `source` is.
    fn given(&self, source: &str) -> String {
        format!("jsonb_populate_recordset(NULL::{}, {source}::jsonb)", self.name)
    }

    /// The statement that writes the rows of `source`; gives `inserted`, true for each new row.
    fn insert(&self, source: &str, writing: SeedWriting) -> String {
        let columns = self.list(&self.columns, str::to_owned);
        let key = self.list(&self.key, str::to_owned);
        let others: Vec<String> =
            self.columns.iter().filter(|column| !self.key.contains(column)).cloned().collect();
        let conflict = match writing {
            SeedWriting::Replace => String::new(),
            SeedWriting::Upsert if !others.is_empty() => {
                let set = self.list(&others, |column| format!("{column} = excluded.{column}"));
                let differs = others
                    .iter()
                    .map(|column| self.differs("old", "excluded", column))
                    .collect::<Vec<_>>()
                    .join(" OR ");
                format!(" ON CONFLICT ({key}) DO UPDATE SET {set} WHERE {differs}")
            }
            SeedWriting::Upsert | SeedWriting::Insert => format!(" ON CONFLICT ({key}) DO NOTHING"),
        };
        format!(
            "INSERT INTO {} AS old ({columns}) SELECT {columns} FROM {}{conflict}",
            self.name,
            self.given(source)
        )
    }

    /// Whether a column has another value: as JSON, because not every type can be compared.
    fn differs(&self, left: &str, right: &str, column: &str) -> String {
        let column = quoted(column);
        format!("to_jsonb({left}.{column}) IS DISTINCT FROM to_jsonb({right}.{column})")
    }
}

/// Schema and table of a name, in which the schema stands before the first dot.
fn qualified(name: &str) -> (&str, &str) {
    name.split_once('.').unwrap_or(("public", name))
}

/// The rows as the text of one JSON array, as a constant.
fn source(rows: &[SeedRow]) -> String {
    literal(&format!("[{}]", rows.iter().map(SeedRow::text).collect::<Vec<_>>().join(",")))
}

async fn standing(session: &Session<'_>, table: &Table, rows: &[SeedRow]) -> Result<SeedStanding> {
    if !rows.is_empty() {
        // The server says whether it would take them: columns, types, and what keeps the key unique.
        let planned = session.rows(&format!("EXPLAIN {}", table.insert("'[]'", SeedWriting::Upsert))).await;
        planned.map_err(|error| told_beforehand(error, table))?;
    }
    let on = table
        .key
        .iter()
        .map(|field| format!("old.{0} IS NOT DISTINCT FROM given.{0}", quoted(field)))
        .collect::<Vec<_>>()
        .join(" AND ");
    let differs = table
        .columns
        .iter()
        .map(|column| table.differs("old", "given", column))
        .collect::<Vec<_>>()
        .join(" OR ");
    let row = match rows.is_empty() {
        true => session.row(&format!("SELECT count(*) AS held, 0 AS there, 0 AS different FROM {}", table.name)).await?,
        false => {
            session
                .row(&format!(
                    "SELECT (SELECT count(*) FROM {0}) AS held, count(*) AS there, count(*) FILTER (WHERE {differs}) AS different \
                     FROM {1} AS given JOIN {0} AS old ON {on}",
                    table.name,
                    table.given(&source(rows))
                ))
                .await?
        }
    };
    let there = session.number(&row, "there")?;
    Ok(SeedStanding {
        held: session.number(&row, "held")?,
        absent: (rows.len() as u64).saturating_sub(there),
        different: session.number(&row, "different")?,
    })
}

/// What the server says against the statement, before anything was written.
fn told_beforehand(error: Error, table: &Table) -> Error {
    let is_key = error.to_string().contains("no unique or exclusion constraint");
    match is_key {
        true => Error::new(
            ErrorKind::Precondition,
            format!(
                "no unique constraint of {} is over {}",
                table.name,
                table.list(&table.key, str::to_owned)
            ),
        )
        .with_state("nothing was changed: without one, two that seed at once would write a row twice")
        .with_hint("add one by a migration, or name another natural key"),
        false => error,
    }
}

/// Writes inside the transaction that is begun, and commits it.
async fn write(
    session: &Session<'_>,
    table: &Table,
    rows: &[SeedRow],
    writing: SeedWriting,
    under: Option<&Marker>,
) -> Result<SeedWritten> {
    // An error inside a transaction ends it, so the table is asked for only where it is.
    let has_marker = session.row("SELECT to_regclass('mainstay.identity') IS NOT NULL AS there").await?;
    let found = match session.truth(&has_marker, "there") {
        true => read_marker(session).await?,
        false => None,
    };
    if found.as_ref() != under {
        return Err(Error::new(
            ErrorKind::Refused,
            "the environment marker inside the database is another one by now",
        )
        .with_state("nothing was changed")
        .with_hint("`mainstay environment show` tells what each source says; then make the plan again"));
    }
    let mut written = SeedWritten::default();
    if writing == SeedWriting::Replace {
        let removed = session
            .row(&format!(
                "WITH gone AS (DELETE FROM {} RETURNING 1) SELECT count(*) AS n FROM gone",
                table.name
            ))
            .await?;
        written.removed = session.number(&removed, "n")?;
    }
    if !rows.is_empty() {
        // A row that was updated still bears the number of the transaction that had locked it.
        let statement = format!(
            "WITH written AS ({} RETURNING old.xmax = 0 AS inserted) \
             SELECT count(*) FILTER (WHERE inserted) AS inserted, count(*) FILTER (WHERE NOT inserted) AS changed FROM written",
            table.insert(&source(rows), writing)
        );
        let row = session.row(&statement).await.map_err(|error| error.with_state("nothing was changed"))?;
        written.inserted = session.number(&row, "inserted")?;
        written.changed = session.number(&row, "changed")?;
    }
    session.rows("COMMIT").await?;
    Ok(written)
}

/// One statement, which takes the claim when nobody has it, when it has run out, or when it is the holder's own.
async fn claim(session: &Session<'_>, database: &str, holder: &str) -> Result<SeedClaim> {
    session.bounded(session.client.batch_execute(CREATE_CLAIMS)).await?;
    let (database, holder) = (literal(database), literal(holder));
    let until = format!("clock_timestamp() + interval '{CLAIM_SECONDS} seconds'");
    let taken = session
        .rows(&format!(
            "INSERT INTO mainstay.seed_claims AS old (database, state, held_by, until) \
             VALUES ({database}, 'running', {holder}, {until}) \
             ON CONFLICT (database) DO UPDATE SET held_by = excluded.held_by, until = excluded.until, \
             begun = old.begun OR old.held_by = excluded.held_by \
             WHERE old.state = 'running' AND (old.until < clock_timestamp() OR old.held_by = excluded.held_by) \
             RETURNING begun"
        ))
        .await?;
    if let Some(claim) = taken.first() {
        return Ok(SeedClaim::Ours { is_continued: session.truth(claim, "begun") });
    }
    let row = session.row(&standing_claim(&database)).await?;
    held_by_another(session, &row)
}

/// The claim on a database, whose name is a constant of SQL.
fn standing_claim(database: &str) -> String {
    format!(
        "SELECT state, held_by, floor(extract(epoch FROM until))::bigint AS until \
         FROM mainstay.seed_claims WHERE database = {database}"
    )
}

fn held_by_another(session: &Session<'_>, row: &SimpleQueryRow) -> Result<SeedClaim> {
    let by = session.text(row, "held_by")?.to_owned();
    if session.text(row, "state")? == "done" {
        return Ok(SeedClaim::Done { by });
    }
    let seconds = i64::try_from(session.number(row, "until")?).unwrap_or(i64::MAX);
    let until = Timestamp::from_second(seconds)
        .map_err(|_| Error::new(ErrorKind::Corrupt, "mainstay.seed_claims holds no time"))?;
    Ok(SeedClaim::Taken { by, until })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn place(into: &str) -> SeedPlace {
        SeedPlace { into: into.to_owned(), key: vec!["slug".to_owned()] }
    }

    fn row(fields: &[(&str, &str)]) -> SeedRow {
        SeedRow(fields.iter().map(|(field, value)| ((*field).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn names_are_quoted_and_rows_must_agree() {
        let table = Table::of(
            &place("shop.ca\"t"),
            &[row(&[("slug", "\"a\""), ("n", "1")]), row(&[("n", "2"), ("slug", "\"b\"")])],
        )
        .unwrap();
        assert_eq!(table.name, r#""shop"."ca""t""#);
        assert_eq!(
            table.insert("'[]'", SeedWriting::Insert),
            r#"INSERT INTO "shop"."ca""t" AS old ("slug", "n") SELECT "slug", "n" FROM jsonb_populate_recordset(NULL::"shop"."ca""t", '[]'::jsonb) ON CONFLICT ("slug") DO NOTHING"#
        );
        let upsert = table.insert("'[]'", SeedWriting::Upsert);
        assert!(upsert.ends_with(
            r#" ON CONFLICT ("slug") DO UPDATE SET "n" = excluded."n" WHERE to_jsonb(old."n") IS DISTINCT FROM to_jsonb(excluded."n")"#
        ), "{upsert}");
        for own in ["mainstay.identity", "pg_catalog.pg_class", "information_schema.tables"] {
            let error = Table::of(&place(own), &[row(&[("slug", "\"a\"")])]).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Refused, "{own}");
        }
        let error =
            Table::of(&place("c"), &[row(&[("slug", "\"a\"")]), row(&[("slug", "\"b\""), ("n", "1")])])
                .err()
                .unwrap();
        assert!(error.to_string().contains("row 2 of the seed of c has other fields"), "{error}");
    }
}
