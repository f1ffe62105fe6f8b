//! Rows of the tracking table changed by themselves: nothing of a migration is run. Shared by marking, a baseline and a repair.
//!
//! A plan says every row that is written, and takes the whole table for granted as it was. The adapter compares it once more behind its lock.

use std::time::Duration;

use mainstay_engine::{MigrationRun, RowWrite, TrackingLook, WorkLimits, WorkOutcome, WorkStart};
use mainstay_guard::{Permit, operation};
use mainstay_migrations::{NewRow, RowRepair, TableVersion, TrackingTable};
use mainstay_model::{
    Assumption, BlastRadius, Error, ErrorKind, PLAN_FORMAT, Plan, PlanStep, Result, Target,
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::apply::{HINT_STALE, millis};
use super::progress::{backoff, pause, watched};
use super::survey::{Survey, shown, survey};
use super::told::{self, blocking};
use super::{SqlContext, rivals};

/// How long the table is waited for, and for how long that is tried again.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY_FOR: Duration = Duration::from_secs(30);

/// The decided parameters of a plan that changes rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowParameters {
    /// The database.
    pub database: String,
    /// The tracking table.
    pub table: TrackingTable,
    /// The rows, in the order in which they are written.
    pub rows: Vec<PlannedRow>,
}

/// A row that will be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum PlannedRow {
    /// One more, which says of this entry that it is applied.
    Insert {
        /// The entry.
        tag: String,
        /// The row.
        row: NewRow,
    },
    /// One that is there becomes another one, or goes.
    Repair {
        /// What is done, and why.
        repair: RowRepair,
    },
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RowReport {
    /// The rows that were written.
    pub rows: Vec<PlannedRow>,
    /// How long it took, in milliseconds.
    pub millis: u64,
}

impl RowParameters {
    /// Those of `plan`.
    ///
    /// # Errors
    /// `Usage` when it is no plan about rows.
    pub fn of(plan: &Plan) -> Result<Self> {
        serde_json::from_value(plan.parameters.clone()).map_err(|source| {
            Error::new(ErrorKind::Usage, "the plan's parameters are not those of rows of a tracking table")
                .with_source(source)
                .with_state("nothing was changed")
        })
    }
}

/// A plan of `name` that writes `rows` into the surveyed table.
pub(super) fn sealed(
    context: &SqlContext<'_>,
    name: &'static str,
    survey: &Survey,
    rows: Vec<PlannedRow>,
    target: Target,
) -> Result<Plan> {
    let created_at = context.clock.now();
    let parameters =
        RowParameters { database: survey.facts.database.clone(), table: context.table.clone(), rows };
    let count = parameters.rows.len();
    let changed = parameters.rows.iter().filter(|row| matches!(row, PlannedRow::Repair { .. })).count();
    Ok(Plan {
        format: PLAN_FORMAT,
        operation: name.to_owned(),
        effect: operation(name).expect("changing rows of a tracking table is registered").effect,
        assumptions: assumptions(context, &parameters, survey)?,
        steps: parameters.rows.iter().map(step).collect(),
        blast_radius: BlastRadius {
            phrase: format!(
                "write {count} rows of {} in {}@{}",
                context.table, parameters.database, target.environment
            ),
            items: changed as u64,
            bytes: 0,
        },
        target,
        parameters: serde_json::to_value(&parameters).expect("parameters have a JSON form"),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

fn step(row: &PlannedRow) -> PlanStep {
    match row {
        PlannedRow::Insert { tag, row } => PlanStep {
            name: format!("mark {tag}"),
            mark: '+',
            summary: format!("created_at {}, hash {}; nothing is run", row.created_at, short(&row.hash)),
        },
        PlannedRow::Repair { repair } => {
            use mainstay_migrations::RowChange;
            let id = repair.row.id;
            let (verb, mark, becomes) = match &repair.change {
                RowChange::Delete => ("delete", '-', String::new()),
                RowChange::Set(row) => (
                    "correct",
                    '~',
                    format!(", becomes created_at {}, hash {}", row.created_at, short(&row.hash)),
                ),
            };
            PlanStep {
                name: format!("{verb} row {id}"),
                mark,
                summary: format!("{}{becomes}", repair.reason),
            }
        }
    }
}

/// The first digits of a hash, or what stands in its place.
fn short(hash: &str) -> String {
    hash.chars().take(12).collect()
}

fn assumptions(
    context: &SqlContext<'_>,
    parameters: &RowParameters,
    survey: &Survey,
) -> Result<Vec<Assumption>> {
    let assumption = |name: &str, value: String| Assumption { name: name.to_owned(), value };
    Ok(vec![
        assumption("server", survey.facts.fingerprint.clone()),
        assumption("database", survey.facts.database.clone()),
        assumption(&format!("table {}", parameters.table), shown(&survey.look, context.folder)?),
    ])
}

/// Refuses a plan whose table is not as it was. To be called under the lock of the run.
///
/// # Errors
/// `StalePlan` with every difference; `Precondition` on a standby; the server's.
pub(super) async fn check(context: &SqlContext<'_>, plan: &Plan) -> Result<()> {
    let parameters = RowParameters::of(plan)?;
    context.observer.phase("compare the database with the plan");
    let survey = survey(context.target, context.folder, context.table, context.clock.now()).await?;
    survey.check_server(Some(&parameters.database))?;
    if parameters.table != *context.table {
        return Err(Error::new(
            ErrorKind::StalePlan,
            format!("the plan is for table {}, configured is {}", parameters.table, context.table),
        )
        .with_state("nothing was changed")
        .with_hint(HINT_STALE));
    }
    // It was agreed to by its steps.
    let steps: Vec<PlanStep> = parameters.rows.iter().map(step).collect();
    if plan.steps != steps {
        return Err(Error::new(
            ErrorKind::Usage,
            "this is no plan that was made here: its steps are not those of its parameters",
        )
        .with_state("nothing was changed")
        .with_hint("make the plan again"));
    }
    let seen = assumptions(context, &parameters, &survey)?;
    plan.check_assumptions(&seen).map_err(|stale| stale.with_hint(HINT_STALE))
}

/// Writes the rows of `plan`, all or none.
///
/// # Errors
/// `StalePlan` when the table is another by now; `Locked` when it was not to be had; `Interrupted`; the server's. Nothing was changed then.
pub(super) async fn write(
    context: &SqlContext<'_>,
    plan: &Plan,
    run: &dyn MigrationRun,
    permit: &Permit,
) -> Result<RowReport> {
    permit.covers(plan)?;
    let parameters = RowParameters::of(plan)?;
    let began = Instant::now();
    let mut look = context.target.tracking(context.table).await?;
    if look.version == TableVersion::Absent && !parameters.rows.is_empty() {
        run.create_table(TableVersion::of_format(context.folder.format), permit).await?;
        look = context.target.tracking(context.table).await?;
    }
    // What `check` has seen is what is expected: nobody wrote in between but the table that was made, which is empty.
    let planned = plan.assumptions.iter().find(|found| found.name == format!("table {}", context.table));
    if planned.map(|planned| planned.value.as_str()) != Some(shown(&look, context.folder)?.as_str()) {
        return Err(moved(context));
    }
    let begun = context.target.recorded_steps(context.table).await?;
    let is_begun = |tag: &str| begun.iter().any(|step| step.entry.tag == tag);
    let mut writes: Vec<RowWrite> = parameters.rows.iter().map(write_of).collect();
    for row in &parameters.rows {
        if let PlannedRow::Insert { tag, .. } = row
            && is_begun(tag)
        {
            writes.push(RowWrite::ForgetSteps { tag: tag.clone() });
        }
    }
    rivals::tell_hidden(context, run).await?;
    write_all(context, run, permit, &writes, &look).await?;
    Ok(RowReport { rows: parameters.rows, millis: millis(began.elapsed()) })
}

/// Writes all of it in one transaction into the table that looks like `look`, tried until the table is to be had.
///
/// # Errors
/// As [`write`].
pub(super) async fn write_all(
    context: &SqlContext<'_>,
    run: &dyn MigrationRun,
    permit: &Permit,
    writes: &[RowWrite],
    look: &TrackingLook,
) -> Result<()> {
    let limits = WorkLimits { lock_timeout_ms: millis(LOCK_TIMEOUT) };
    let texts = rivals::texts(context, context.folder.migrations.iter().map(|found| found.tag.as_str()));
    let mut idle = Vec::new();
    let (began, mut tries) = (Instant::now(), 0);
    loop {
        tries += 1;
        run.check_lock().await?;
        let start = WorkStart { look, texts: &texts, idle: &idle };
        let doing = run.write_rows(writes, &start, permit.operation(), limits, permit);
        let (ended, blockers) = watched(context, run, doing).await;
        let failure = match ended? {
            WorkOutcome::Done { .. } => return Ok(()),
            WorkOutcome::Moved(_) => return Err(moved(context)),
            WorkOutcome::Rivals(found) => {
                let deadline = rivals::deadline(began, RETRY_FOR);
                let waited = rivals::let_go_on(context, run, (found.as_slice(), "has read"), deadline).await;
                idle.extend(waited.map_err(|error| error.with_state("nothing was changed"))?);
                continue;
            }
            WorkOutcome::Failed(failure) => failure,
        };
        if failure.is_cancelled() && context.cancel.is_cancelled() {
            return Err(interrupted());
        }
        let message = format!("{}: {} ({})", context.table, failure.message, failure.code);
        if !failure.is_contention() {
            return Err(Error::new(failure.kind, message)
                .context("write rows")
                .with_state("nothing was changed")
                .with_hint(told::hint_about_rows(&failure)));
        }
        if began.elapsed() >= RETRY_FOR {
            return Err(Error::new(
                ErrorKind::Locked,
                format!("{message}; it waited for {}", blocking(&blockers, context.literals)),
            )
            .with_state("nothing was changed")
            .with_hint("`mainstay pg blockers` shows who holds what"));
        }
        if !pause(context.cancel, backoff(tries)).await {
            return Err(interrupted());
        }
    }
}

fn write_of(row: &PlannedRow) -> RowWrite {
    match row {
        PlannedRow::Insert { row, .. } => RowWrite::Insert(row.clone()),
        PlannedRow::Repair { repair } => RowWrite::Repair(repair.clone()),
    }
}

fn moved(context: &SqlContext<'_>) -> Error {
    Error::new(ErrorKind::StalePlan, format!("somebody else has written into {} meanwhile", context.table))
        .with_state("nothing was changed")
        .with_hint(HINT_STALE)
}

fn interrupted() -> Error {
    Error::new(ErrorKind::Interrupted, "writing rows was stopped on request")
        .with_state("nothing was changed")
        .with_hint("run the same command again")
}
