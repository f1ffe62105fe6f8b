//! Rows that belong to other rows: counted in a read-only transaction, and the constraints that would see to it.
//!
//! Counting reads both tables, so it has a time; when that is over the count is not known, and the rest is told nevertheless.

use async_trait::async_trait;
use mainstay_engine::{
    FoundRows, ReferenceInspection, ReferenceLook, ReferenceRule, SeenConstraint, SeenReference, TableName,
};
use mainstay_model::{Result, ResultExt};
use tokio_postgres::error::SqlState;

use crate::config::{PostgresConfig, Settings};
use crate::quote::{literal, name as quoted};
use crate::session::Session;

/// How long a count may take. Shorter than any answer is waited for.
const COUNT_TIME_MAX: &str = "8s";
/// What ends a count: that time, or somebody who has a table locked.
const GIVEN_UP: [SqlState; 2] = [SqlState::QUERY_CANCELED, SqlState::LOCK_NOT_AVAILABLE];

/// Looks at rows of a PostgreSQL. Each call opens a connection of its own and ends it.
#[derive(Debug)]
pub struct PostgresReferences {
    settings: Settings,
}

impl PostgresReferences {
    /// The database that `config` describes. Does not connect.
    ///
    /// # Errors
    /// `Config` when the URL cannot be used; no part of it that may be secret is shown.
    pub fn new(config: &PostgresConfig) -> Result<Self> {
        Ok(Self { settings: Settings::resolve(config)? })
    }
}

#[async_trait]
impl ReferenceInspection for PostgresReferences {
    async fn look_at_reference(&self, rule: &ReferenceRule) -> Result<ReferenceLook> {
        let session = Session::open(&self.settings).await.context("connect to PostgreSQL")?;
        look(&session, rule).await.with_context(|| format!("look at the rows of {}", rule.child))
    }
}

async fn look(session: &Session<'_>, rule: &ReferenceRule) -> Result<ReferenceLook> {
    let child = columns(session, &rule.child).await?;
    if child.is_empty() {
        return Ok(ReferenceLook::NoTable);
    }
    let parent = columns(session, &rule.parent).await?;
    let mut missing = Vec::new();
    for column in [&rule.child_key, &rule.child_column, &rule.created_column] {
        if !child.iter().any(|(name, _)| name == column) {
            missing.push(format!("{}.{column}", rule.child));
        }
    }
    if parent.is_empty() {
        missing.push(rule.parent.to_string());
    } else if !parent.iter().any(|(name, _)| *name == rule.parent_column) {
        missing.push(format!("{}.{}", rule.parent, rule.parent_column));
    }
    if !missing.is_empty() {
        return Ok(ReferenceLook::Missing(missing));
    }
    let is_required = child.iter().any(|(name, required)| *name == rule.child_column && *required);
    let foreign_keys = foreign_keys(session, rule).await?;
    let limits = format!("SET statement_timeout = '{COUNT_TIME_MAX}'; SET lock_timeout = '2s'");
    session.rows(&limits).await?;
    session.rows("SET default_transaction_read_only = on").await?;
    let column = format!("c.{}", quoted(&rule.child_column));
    let orphan = format!(
        "{column} IS NOT NULL AND NOT EXISTS (SELECT FROM {} p WHERE p.{} = {column})",
        table(&rule.parent),
        quoted(&rule.parent_column)
    );
    let recent = match rule.since {
        Some(since) => format!("c.{} >= {}", quoted(&rule.created_column), literal(&since.to_string())),
        None => "true".to_owned(),
    };
    Ok(ReferenceLook::Seen(Box::new(SeenReference {
        orphans: found(session, rule, &orphan).await?,
        nameless: found(session, rule, &format!("{column} IS NULL")).await?,
        recent: found(session, rule, &recent).await?,
        is_required,
        foreign_keys,
    })))
}

fn table(name: &TableName) -> String {
    format!("{}.{}", quoted(&name.schema), quoted(&name.name))
}

/// The columns of a table, each with whether it must have a value; none when there is no such table.
async fn columns(session: &Session<'_>, table: &TableName) -> Result<Vec<(String, bool)>> {
    let query = format!(
        "SELECT a.attname, a.attnotnull FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
         JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped \
         AND n.nspname = {} AND c.relname = {}",
        literal(&table.schema),
        literal(&table.name)
    );
    let rows = session.rows(&query).await?;
    rows.iter()
        .map(|row| Ok((session.text(row, "attname")?.to_owned(), session.truth(row, "attnotnull"))))
        .collect()
}

/// Foreign keys of exactly the one column to exactly the other. Servers before 18 enforce all that they have.
async fn foreign_keys(session: &Session<'_>, rule: &ReferenceRule) -> Result<Vec<SeenConstraint>> {
    let query = format!(
        "SELECT k.conname, pg_get_constraintdef(k.oid) AS definition, k.convalidated, \
         coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true) AS enforced \
         FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_class f ON f.oid = k.confrelid JOIN pg_namespace m ON m.oid = f.relnamespace \
         JOIN pg_attribute a ON a.attrelid = c.oid AND k.conkey = ARRAY[a.attnum] \
         JOIN pg_attribute b ON b.attrelid = f.oid AND k.confkey = ARRAY[b.attnum] \
         WHERE k.contype = 'f' AND n.nspname = {} AND c.relname = {} AND a.attname = {} AND m.nspname = {} AND f.relname = {} \
         AND b.attname = {} ORDER BY k.conname",
        literal(&rule.child.schema),
        literal(&rule.child.name),
        literal(&rule.child_column),
        literal(&rule.parent.schema),
        literal(&rule.parent.name),
        literal(&rule.parent_column)
    );
    let rows = session.rows(&query).await?;
    rows.iter()
        .map(|row| {
            Ok(SeenConstraint {
                name: session.text(row, "conname")?.to_owned(),
                definition: session.text(row, "definition")?.to_owned(),
                is_valid: session.truth(row, "convalidated"),
                is_enforced: session.truth(row, "enforced"),
            })
        })
        .collect()
}

/// Rows for which `condition` holds; `None` when counting them takes too long.
async fn found(session: &Session<'_>, rule: &ReferenceRule, condition: &str) -> Result<Option<FoundRows>> {
    let (from, key) = (table(&rule.child), quoted(&rule.child_key));
    let count = format!("SELECT count(*) AS count FROM {from} c WHERE {condition}");
    let Some(rows) = session.rows_unless(&GIVEN_UP, &count).await? else { return Ok(None) };
    let mut found = FoundRows::default();
    if let Some(row) = rows.first() {
        found.count = session.number(row, "count")?;
    }
    if found.count > 0 {
        let examples = format!(
            "SELECT c.{key}::text AS key FROM {from} c WHERE {condition} ORDER BY c.{key} LIMIT {}",
            rule.example_count_max
        );
        let rows = session.rows_unless(&GIVEN_UP, &examples).await?.unwrap_or_default();
        found.examples =
            rows.iter().filter_map(|row| session.text(row, "key").ok().map(str::to_owned)).collect();
    }
    Ok(Some(found))
}
