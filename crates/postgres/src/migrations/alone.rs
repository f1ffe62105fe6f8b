//! Statements that cannot be in a transaction.
//!
//! Recorded as begun, done, recorded as done: three commits, between any two of which the run may be killed. What was begun and not recorded as done
//! is known by its trace: an index that is there and valid was made, one that is gone was dropped; everything else is done again, and the
//! server says when that cannot be. Where the trace was there before the step began, it tells nothing of the step, and no beginning is written
//! down: an index of that name which somebody else made is refused by the server each time, never taken for ours. A statement goes on in the server when its run is killed, so a lock that lives as long as its
//! connection keeps the next run from beginning it beside.

use mainstay_engine::{AloneOutcome, AloneWork, BackendId, LockHolder, StepTrace, WorkLimits, WorkPlace};
use mainstay_migrations::ObjectName;
use mainstay_model::{Result, ResultExt};

use super::lock::{HOLDERS, LockKey, Purpose, holder, try_take};
use super::run::{AGAIN, PostgresRun, failure_at};
use super::{Refusal, ledger, send};
use crate::quote::{literal, name};
use crate::session::Session;

/// An index of a name, as the catalogue has it.
struct FoundIndex {
    schema: String,
    is_valid: bool,
    /// Nothing but an index by itself: neither a constraint's, nor a part of a partitioned one, nor one over partitions.
    is_plain: bool,
    /// Who may be building it: whoever does has the table locked against others who would, and against vacuum.
    builder: Option<LockHolder>,
}

/// Does it.
pub(super) async fn run(
    run: &PostgresRun<'_>,
    session: &Session<'_>,
    work: &AloneWork,
    limits: WorkLimits,
) -> Result<AloneOutcome> {
    if let Some(holder) = try_take(session, LockKey::of(&run.table, Purpose::Alone)).await? {
        return Ok(AloneOutcome::Busy(holder));
    }
    ledger::create(session, run.settings).await.context("make the ledger of steps")?;
    let timeout = format!("SET lock_timeout = {}", limits.lock_timeout_ms);
    for text in [&timeout].into_iter().chain(&work.prelude) {
        run.must(send(session, run.settings, text).await).context("make the settings of the file")?;
    }
    let has_trace = has_left_its_trace(session, &work.trace).await?;
    if has_trace && was_begun(run, session, work).await? {
        run.must(send(session, run.settings, &ledger::end(&run.table, &work.entry)).await)?;
        return Ok(AloneOutcome::Done { was_done: true, dropped_leftover: false });
    }
    let dropped_leftover = match clear_the_way(run, session, &work.trace).await? {
        Way::Clear { dropped } => dropped,
        Way::Taken(holder) => return Ok(AloneOutcome::Busy(holder)),
    };
    if !has_trace {
        run.must(send(session, run.settings, &ledger::begin(&run.table, &work.entry)).await)?;
    }
    match send(session, run.settings, &work.text).await {
        Ok(()) => {}
        Err(Refusal::Answered(answer)) => {
            let mut failure = failure_at(WorkPlace::Text { work: 0, text: 0 }, answer);
            run.spare();
            failure.left = take_back(run, session, &work.trace).await;
            return Ok(AloneOutcome::Failed(Box::new(failure)));
        }
        Err(Refusal::Lost(error)) => {
            return Err(error
                .with_state(
                    "the connection was lost at this step; whether it was done is found out by the next run",
                )
                .with_hint(AGAIN));
        }
    }
    run.must(send(session, run.settings, &ledger::end(&run.table, &work.entry)).await).map_err(|error| {
        error
            .with_state("the step is done, and its end was not recorded; the next run sees it")
            .with_hint(AGAIN)
    })?;
    Ok(AloneOutcome::Done { was_done: false, dropped_leftover })
}

/// Whether an earlier run began the very same step and did not record its end.
async fn was_begun(run: &PostgresRun<'_>, session: &Session<'_>, work: &AloneWork) -> Result<bool> {
    let recorded = ledger::read(session, &run.table).await.context("read the recorded steps")?;
    Ok(recorded.iter().any(|step| !step.is_done && step.entry == work.entry))
}

/// Whether what the statement is known by is there: it was done.
async fn has_left_its_trace(session: &Session<'_>, trace: &StepTrace) -> Result<bool> {
    match trace {
        StepTrace::IndexMade { index, table } => {
            Ok(find_index(session, index, table).await?.is_some_and(|found| found.is_valid))
        }
        StepTrace::IndexDropped { index } => {
            let query =
                format!("SELECT pg_catalog.to_regclass({}) IS NULL AS gone", literal(&index.quoted()));
            Ok(session.truth(&session.row(&query).await?, "gone"))
        }
        StepTrace::None => Ok(false),
    }
}

enum Way {
    Clear {
        /// An invalid index was dropped.
        dropped: bool,
    },
    /// Somebody may be building it.
    Taken(LockHolder),
}

/// Drops the invalid index that a failed build of that name left: the server would refuse the name, or pass over it as if it were there.
async fn clear_the_way(run: &PostgresRun<'_>, session: &Session<'_>, trace: &StepTrace) -> Result<Way> {
    let StepTrace::IndexMade { index, table } = trace else { return Ok(Way::Clear { dropped: false }) };
    let found = find_index(session, index, table).await?;
    let Some(leftover) = found.filter(|found| !found.is_valid && found.is_plain) else {
        return Ok(Way::Clear { dropped: false });
    };
    if let Some(builder) = leftover.builder {
        return Ok(Way::Taken(builder));
    }
    let statement =
        format!("DROP INDEX CONCURRENTLY IF EXISTS {}.{}", name(&leftover.schema), name(&index.name));
    run.must(send(session, run.settings, &statement).await)
        .with_context(|| format!("drop the invalid index {index}"))?;
    Ok(Way::Clear { dropped: true })
}

/// Takes away what a failed build has left, and says what stays if that cannot be.
async fn take_back(run: &PostgresRun<'_>, session: &Session<'_>, trace: &StepTrace) -> Option<String> {
    match trace {
        StepTrace::IndexMade { index, .. } => match clear_the_way(run, session, trace).await {
            Ok(Way::Clear { .. }) => None,
            Ok(Way::Taken(_)) | Err(_) => Some(format!("an invalid index {index}, which the next run drops")),
        },
        StepTrace::IndexDropped { index } => {
            Some(format!("index {index}, which may be invalid by now; the next run drops it"))
        }
        StepTrace::None => None,
    }
}

/// The index of that name on that table; it is in the table's own schema, wherever the search path finds that.
async fn find_index(
    session: &Session<'_>,
    index: &ObjectName,
    table: &ObjectName,
) -> Result<Option<FoundIndex>> {
    let query = format!(
        "{HOLDERS}, n.nspname, i.indisvalid AS valid, \
         c.relkind = 'i' AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = c.oid) \
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = c.oid) AS plain \
         FROM pg_catalog.pg_class t JOIN pg_catalog.pg_index i ON i.indrelid = t.oid \
         JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         LEFT JOIN pg_catalog.pg_locks l ON l.relation = t.oid AND l.mode = 'ShareUpdateExclusiveLock' AND l.granted \
         AND l.pid <> pg_catalog.pg_backend_pid() AND l.database = \
         (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) \
         LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
         WHERE t.oid = pg_catalog.to_regclass({}) AND c.relname = {} LIMIT 1",
        literal(&table.quoted()),
        literal(&index.name)
    );
    let rows = session.rows(&query).await.with_context(|| format!("look for index {index}"))?;
    let Some(row) = rows.first() else { return Ok(None) };
    let found = holder(session, row)?;
    let is_built = found.id != BackendId { pid: 0, began_micros: 0 };
    Ok(Some(FoundIndex {
        schema: session.text(row, "nspname")?.to_owned(),
        is_valid: session.truth(row, "valid"),
        is_plain: session.truth(row, "plain"),
        builder: is_built.then_some(found),
    }))
}
