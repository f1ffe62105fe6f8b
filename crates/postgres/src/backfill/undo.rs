//! Bringing back what was there before, part by part, but for what somebody has changed since.

use std::sync::Arc;

use mainstay_engine::{BackfillHold, UndoPart, UndoneStep};
use mainstay_model::{Error, ErrorKind, Result};
use tokio_postgres::Client;

use super::statement::Statements;
use super::{PostgresBackfill, Refusal, Value, Work, count, ledger, text};

pub(super) async fn parts(store: &PostgresBackfill, id: &str) -> Result<Vec<UndoPart>> {
    let query = "SELECT number::text, count::text FROM mainstay.backfill_undo WHERE run = $1::text AND NOT undone \
         ORDER BY round DESC, segment DESC, part DESC";
    let rows = store.asked(query, &[&id]).await?;
    rows.iter().map(|row| Ok(UndoPart { name: text(row, 0)?, entries: count(row, 1)? })).collect()
}

pub(super) async fn bring_back(
    store: &PostgresBackfill,
    work: &Work<'_>,
    hold: &BackfillHold,
    part: &UndoPart,
) -> Result<UndoneStep> {
    let shape = store.shape(work).await?;
    let statement = Statements { work, shape: &shape }.undo();
    let attempt = |client: Arc<Client>| inside(store, client, &statement, hold, part);
    store.in_transaction(attempt).await
}

async fn inside(
    store: &PostgresBackfill,
    client: Arc<Client>,
    statement: &str,
    hold: &BackfillHold,
    part: &UndoPart,
) -> Result<UndoneStep, Refusal> {
    let held = "SELECT 1::text FROM mainstay.ledger WHERE id = $1::text AND token = $2::text";
    let values: [Value<'_>; 2] = [&hold.id, &hold.token];
    if store.rows(&client, held, &values).await?.is_empty() {
        return Err(ledger::lost(&hold.id).into());
    }
    let mut rows = store.rows(&client, statement, &[&part.name]).await?;
    if rows.is_empty() {
        // It was brought back before, by a transaction whose end was not told.
        let undone = "SELECT restored::text, jsonb_array_length(left_behind)::text FROM mainstay.backfill_undo \
             WHERE number = $1::text::bigint AND undone";
        rows = store.rows(&client, undone, &[&part.name]).await?;
    }
    let row = rows.first().ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, format!("part {} of what was kept is gone", part.name))
            .with_hint("somebody has removed rows of mainstay.backfill_undo; `mainstay backup list` tells what can be restored")
    })?;
    Ok(UndoneStep { restored: count(row, 0)?, left: count(row, 1)? })
}

pub(super) async fn left_behind(store: &PostgresBackfill, id: &str, count_max: usize) -> Result<Vec<String>> {
    let query = "SELECT k FROM mainstay.backfill_undo u, jsonb_array_elements_text(u.left_behind) k \
         WHERE u.run = $1::text AND u.undone ORDER BY u.number DESC LIMIT $2::text::bigint";
    let count_max = count_max.to_string();
    let rows = store.asked(query, &[&id, &count_max]).await?;
    rows.iter().map(|row| text(row, 0)).collect()
}
