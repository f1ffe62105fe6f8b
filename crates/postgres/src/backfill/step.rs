//! What a table is and holds, a trial of the change, and the change itself, range by range.

use std::time::{Duration, Instant};

use mainstay_engine::{
    BackfillChange, BackfillHold, BackfillLook, BackfillRemains, BackfillStep, BackfillTrial, FieldChange,
};
use mainstay_model::{Error, ErrorKind, Result};
use tokio_postgres::Client;

use super::statement::{Column, Ends, Shape, Statements};
use super::{PostgresBackfill, Refusal, Value, Work, count, ledger, optional, text};
use crate::quote::literal;

/// The columns of a table: name, type, place in the primary key or null, whether it is generated.
fn columns_query(work: &Work<'_>) -> String {
    format!(
        "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), \
         (SELECT k.place::text FROM pg_index i, unnest(i.indkey::smallint[]) WITH ORDINALITY AS k (attribute, place) \
         WHERE i.indrelid = c.oid AND i.indisprimary AND k.attribute = a.attnum AND k.place <= i.indnkeyatts), \
         (a.attgenerated <> '')::text, c.relkind::text \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
         WHERE n.nspname = {} AND c.relname = {} ORDER BY a.attnum",
        literal(work.schema),
        literal(work.table)
    )
}

/// Looks at the table, and refuses what cannot be walked over or set.
pub(super) async fn shape(store: &PostgresBackfill, work: &Work<'_>) -> Result<Shape> {
    let refused = |kind, message: String, hint: &str| {
        Err(Error::new(kind, message).with_state("nothing was changed").with_hint(hint.to_owned()))
    };
    let name = format!("{}.{}", work.schema, work.table);
    let rows = store.asked(&columns_query(work), &[]).await?;
    let Some(first) = rows.first() else {
        return refused(
            ErrorKind::NotFound,
            format!("there is no table {name}"),
            "correct `table`, or run the migrations",
        );
    };
    let relation = text(first, 4)?;
    if relation != "r" && relation != "p" {
        return refused(ErrorKind::Unsupported, format!("{name} is no table"), "name the table behind it");
    }
    let (mut key, mut others) = (Vec::new(), Vec::new());
    for row in &rows {
        let column = Column { name: text(row, 0)?, kind: text(row, 1)? };
        match optional(row, 2)?.and_then(|place| place.parse::<u32>().ok()) {
            Some(place) => key.push((place, column)),
            None if optional(row, 3)?.as_deref() == Some("true") => {}
            None => others.push(column),
        }
    }
    if key.is_empty() {
        return refused(
            ErrorKind::Unsupported,
            format!("{name} has no primary key, by which it could be walked"),
            "add one: ALTER TABLE … ADD PRIMARY KEY",
        );
    }
    key.sort_by_key(|(place, _)| *place);
    for (column, _) in work.set {
        if !others.iter().any(|other| other.name == *column) {
            return refused(
                ErrorKind::Usage,
                format!("{name} has no column {column} that could be set"),
                "`set` may name columns that are there, are not generated and not of the primary key",
            );
        }
    }
    Ok(Shape { key: key.into_iter().map(|(_, column)| column).collect(), others })
}

/// Refuses conditions and expressions that end inside themselves and begin again.
pub(super) async fn check_whole(store: &PostgresBackfill, work: &Work<'_>) -> Result<()> {
    let shape = store.shape(work).await?;
    store.asked(&Statements { work, shape: &shape }.bracketed(), &[]).await.map(drop)
}

pub(super) async fn look(
    store: &PostgresBackfill,
    work: &Work<'_>,
    time_max: Duration,
) -> Result<BackfillLook> {
    check_whole(store, work).await?;
    let shape = store.shape(work).await?;
    let statements = Statements { work, shape: &shape };
    let total = estimated(store, work).await?;
    // Prepared first, which takes one statement alone: what is read below goes the way that takes several.
    store.asked(&statements.explained(), &[]).await?;
    let guarded = counted(store, &statements.count(work.guard), Some(time_max)).await?;
    let reads_everything = reads_everything(store, &statements).await?;
    Ok(BackfillLook {
        total: total.max(guarded.unwrap_or(0)),
        guarded,
        reads_everything,
        has_transactions: true,
    })
}

/// The server's estimate of the rows, over all partitions.
pub(super) async fn estimated(store: &PostgresBackfill, work: &Work<'_>) -> Result<u64> {
    let shape = store.shape(work).await?;
    let table = literal(&Statements { work, shape: &shape }.table());
    let query = format!(
        "SELECT coalesce(sum(greatest(0, c.reltuples)), 0)::bigint::text FROM pg_class c WHERE c.oid IN \
         (SELECT relid FROM pg_partition_tree({table}) WHERE isleaf UNION SELECT {table}::regclass)"
    );
    let rows = store.asked(&query, &[]).await?;
    Ok(rows.first().map(|row| count(row, 0)).transpose()?.unwrap_or(0))
}

/// Whether the server's plan for the guard holds a scan of the whole table.
async fn reads_everything(store: &PostgresBackfill, statements: &Statements<'_>) -> Result<bool> {
    let client = store.client().await?;
    let answer = client.simple_query(&statements.explained()).await;
    let answer = answer.map_err(|error| Error::from(store.refusal(error)))?;
    store.keep(client);
    Ok(answer.iter().any(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => {
            row.try_get(0).ok().flatten().is_some_and(|plan: &str| plan.contains("Seq Scan"))
        }
        _ => false,
    }))
}

/// What a statement counts; `None` when that took longer than `time_max`.
async fn counted(
    store: &PostgresBackfill,
    statement: &str,
    time_max: Option<Duration>,
) -> Result<Option<u64>> {
    let millis = time_max.map_or(0, |time_max| time_max.as_millis().max(1));
    let client = store.client().await?;
    store.plain(&client, &format!("SET statement_timeout = {millis}")).await?;
    let rows = match client.query(statement, &[]).await {
        Ok(rows) => Some(rows),
        // Whoever set no time is not told by somebody who cancels it that there is nothing.
        Err(error) if time_max.is_some() && error.code().is_some_and(|code| code.code() == "57014") => None,
        Err(error) => return Err(store.refusal(error).into()),
    };
    store.plain(&client, "RESET statement_timeout").await?;
    store.keep(client);
    match rows {
        Some(rows) => rows.first().map(|row| count(row, 0)).transpose().map(|n| Some(n.unwrap_or(0))),
        None => Ok(None),
    }
}

pub(super) async fn remains(store: &PostgresBackfill, work: &Work<'_>) -> Result<BackfillRemains> {
    let shape = store.shape(work).await?;
    let statements = Statements { work, shape: &shape };
    let guarded = counted(store, &statements.count(work.guard), None).await?.unwrap_or(0);
    let wrong = match work.verify {
        Some(verify) => counted(store, &statements.count(verify), None).await?,
        None => None,
    };
    Ok(BackfillRemains { guarded, wrong })
}

pub(super) async fn try_out(
    store: &PostgresBackfill,
    work: &Work<'_>,
    sample_count: u32,
) -> Result<BackfillTrial> {
    let shape = store.shape(work).await?;
    let statements = Statements { work, shape: &shape };
    let (trial, still) = (statements.trial(), statements.still_guarded());
    let client = store.client().await?;
    store.plain(&client, "BEGIN").await?;
    let tried = inside_trial(store, &client, (&trial, &still), sample_count).await;
    store.plain(&client, "ROLLBACK").await?;
    store.keep(client);
    Ok(tried?)
}

async fn inside_trial(
    store: &PostgresBackfill,
    client: &Client,
    (trial, still): (&str, &str),
    sample_count: u32,
) -> Result<BackfillTrial, Refusal> {
    let begun = Instant::now();
    let rows = store.rows(client, trial, &[&sample_count.max(1).to_string()]).await?;
    let took = begun.elapsed();
    let mut changes = Vec::with_capacity(rows.len());
    for row in &rows {
        let fields: Vec<(String, Option<String>, Option<String>)> = serde_json::from_str(&text(row, 1)?)
            .map_err(|error| super::not_understood(&error.to_string()))?;
        let change = |(field, before, after)| FieldChange { field, before, after };
        changes.push(BackfillChange { key: text(row, 0)?, fields: fields.into_iter().map(change).collect() });
    }
    let keys =
        format!("[{}]", changes.iter().map(|change| change.key.as_str()).collect::<Vec<_>>().join(","));
    let rows = store.rows(client, still, &[&keys]).await?;
    let still_guarded = rows.iter().map(|row| text(row, 0)).collect::<Result<Vec<_>>>()?;
    Ok(BackfillTrial { changes, still_guarded, took: Some(took) })
}

/// Keys that about so many rows are drawn for, in their order.
pub(super) async fn drawn(
    store: &PostgresBackfill,
    work: &Work<'_>,
    total: u64,
    wanted: u64,
) -> Result<Vec<String>> {
    let shape = store.shape(work).await?;
    let statements = Statements { work, shape: &shape };
    // Whole pages are drawn: more of them make the draw more even.
    let percent = (wanted as f64 * 400.0 / total.max(1) as f64).clamp(0.001, 100.0);
    let rows = store.asked(&statements.sample(), &[&percent.to_string()]).await?;
    rows.iter().map(|row| text(row, 0)).collect()
}

/// A segment as it is in the store.
struct Segment {
    /// Where its next range begins, included; from the first key when absent.
    at: Option<String>,
    /// Where it ends, not included.
    before: Option<String>,
    parts: u64,
    is_done: bool,
}

pub(super) async fn step(
    store: &PostgresBackfill,
    work: &Work<'_>,
    hold: &BackfillHold,
    number: u32,
    keys: u32,
) -> Result<BackfillStep> {
    let shape = store.shape(work).await?;
    let step = Step { store, work, statements: Statements { work, shape: &shape }, hold, number, keys };
    store.in_transaction(|client| step.attempt(client)).await
}

/// A step, to be tried as often as it takes.
struct Step<'a> {
    store: &'a PostgresBackfill,
    work: &'a Work<'a>,
    statements: Statements<'a>,
    hold: &'a BackfillHold,
    number: u32,
    keys: u32,
}

impl Step<'_> {
    async fn attempt(&self, client: std::sync::Arc<Client>) -> Result<BackfillStep, Refusal> {
        let segment = self.segment(&client).await?;
        if segment.is_done {
            return Ok(BackfillStep { changed: 0, is_last: true });
        }
        let ends = Ends { from: segment.at.is_some(), before: segment.before.is_some() };
        let skipped = self.keys.to_string();
        let border = self.statements.border(ends);
        let found = self.store.rows(&client, &border, &[&segment.at, &segment.before, &skipped]).await?;
        let next = found.first().map(|row| text(row, 0)).transpose()?;
        let is_last = next.is_none();
        let before = next.clone().or_else(|| segment.before.clone());
        let changed = self.change(&client, &segment, before.as_ref()).await?;
        self.advance(&client, next.as_ref(), changed, is_last).await?;
        Ok(BackfillStep { changed, is_last })
    }

    async fn segment(&self, client: &Client) -> Result<Segment, Refusal> {
        let query = "SELECT at, before, parts::text, done::text FROM mainstay.backfill_segments \
             WHERE run = $1::text AND round = $2::text::bigint AND number = $3::text::bigint AND token = $4::text FOR UPDATE";
        let (round, number) = (self.hold.round.to_string(), self.number.to_string());
        let values: [Value<'_>; 4] = [&self.work.id, &round, &number, &self.hold.token];
        let rows = self.store.rows(client, query, &values).await?;
        let row = rows.first().ok_or_else(|| ledger::lost(&self.hold.id))?;
        Ok(Segment {
            at: optional(row, 0)?,
            before: optional(row, 1)?,
            parts: count(row, 2)?,
            is_done: optional(row, 3)?.as_deref() == Some("true"),
        })
    }

    async fn change(
        &self,
        client: &Client,
        segment: &Segment,
        before: Option<&String>,
    ) -> Result<u64, Refusal> {
        let ends = Ends { from: segment.at.is_some(), before: before.is_some() };
        let statement = self.statements.step(ends);
        let before = before.cloned();
        let (round, number, part) =
            (self.hold.round.to_string(), self.number.to_string(), segment.parts.to_string());
        let mut values: Vec<Value<'_>> = Vec::with_capacity(6);
        values.extend([&segment.at as Value<'_>, &before]);
        if self.work.keeps_undo {
            values.extend([&self.work.id as Value<'_>, &round, &number, &part]);
        }
        let rows = self.store.rows(client, &statement, &values).await?;
        Ok(rows.first().map(|row| count(row, 0)).transpose()?.unwrap_or(0))
    }

    /// Writes down how far the segment is.
    async fn advance(
        &self,
        client: &Client,
        next: Option<&String>,
        changed: u64,
        is_last: bool,
    ) -> Result<(), Refusal> {
        let statement = "UPDATE mainstay.backfill_segments SET at = coalesce($5::text, at), done = ($6::text)::boolean, \
             changed = changed + $7::text::bigint, parts = parts + 1 \
             WHERE run = $1::text AND round = $2::text::bigint AND number = $3::text::bigint AND token = $4::text RETURNING 1::text";
        let (round, number) = (self.hold.round.to_string(), self.number.to_string());
        let (next, is_last, changed) = (next.cloned(), is_last.to_string(), changed.to_string());
        let values: [Value<'_>; 7] =
            [&self.work.id, &round, &number, &self.hold.token, &next, &is_last, &changed];
        match self.store.rows(client, statement, &values).await?.is_empty() {
            true => Err(ledger::lost(&self.hold.id).into()),
            false => Ok(()),
        }
    }
}

/// By how much the slowest replica has not replayed what the primary has written.
pub(super) async fn lag(store: &PostgresBackfill) -> Result<Option<Duration>> {
    let query =
        "SELECT ceil(1000 * extract(epoch FROM max(replay_lag)))::bigint::text FROM pg_stat_replication";
    let rows = store.asked(query, &[]).await?;
    let millis = rows.first().map(|row| optional(row, 0)).transpose()?.flatten();
    Ok(millis.and_then(|millis| millis.parse().ok()).map(Duration::from_millis))
}
