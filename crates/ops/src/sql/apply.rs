//! What is pending, applied.
//!
//! [`plan`] decides: which migrations, in which order, by which steps, and the worst that any statement does. [`check`] compares the world with the
//! plan under the lock of the run; rows that the plan's own migrations have by now do not count as a change, so that a plan whose run was ended
//! goes on. [`apply`] takes one migration after the other, each in a transaction that looks at the tracking table again before it begins.
//!
//! A stock runner that waited to read the table while a migration was under way reads what stands when that ends, and goes on from there: it is let go
//! on first, and what it has applied is found to be applied. So is one that has read before a transaction of ours had the table, the first or any other:
//! the adapter finds it behind the lock, by what it is at. (What it cannot find: a session that hides from our role, which is told; one that takes
//! more than a second between its read and its next statement; one of a tool that writes the table's name otherwise, and no text of the files.)
//!
//! Refuses a standby, entries that would be skipped unless they are asked for, files that have changed since the plan, and steps whose text is
//! another than the one that was done.

use std::collections::BTreeSet;
use std::time::Duration;

use mainstay_engine::{MigrationRun, RecordedStep};
use mainstay_guard::{Permit, operation};
use mainstay_migrations::{ApplyOptions, Format, NewRow, NoticeKind, Reaction, TableVersion, TrackingRow};
use mainstay_model::{
    Assumption, BlastRadius, Effect, Error, ErrorKind, PLAN_FORMAT, Plan, PlanStep, Result, Target,
};
use serde::Serialize;

use super::applying::Applying;
use super::planned::Program;
use super::survey::{Survey, made, shown, survey};
use super::{
    ApplyParameters, OPERATION_APPLY, OPERATION_CHANGE, OPERATION_DESTROY, PlannedMigration, SqlContext,
    Transactions,
};

/// What helps when the world is another one than was planned for.
pub(super) const HINT_STALE: &str = "see what has changed with `mainstay sql status`, then plan again";

/// What may be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Entries that Drizzle would never apply are applied, too.
    pub include_skipped: bool,
    /// Nothing behind this entry.
    pub to: Option<String>,
    /// How they are put into transactions.
    pub transactions: Transactions,
    /// How long one lock is waited for.
    pub lock_timeout: Duration,
    /// For how long a migration that does not get its locks is tried again.
    pub retry_for: Duration,
}

/// Who applied a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AppliedBy {
    /// This run.
    ThisRun,
    /// An earlier run of the same plan, or somebody else meanwhile.
    Another,
}

/// A migration that is applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MigrationDone {
    /// Its tag.
    pub tag: String,
    /// By whom.
    pub by: AppliedBy,
    /// How long it took, repetitions included.
    pub millis: u64,
    /// How often it was begun again because it did not get a lock.
    pub repetitions: u32,
    /// How many steps it took; 1 for one transaction.
    pub steps: usize,
    /// How many of them an earlier run had done.
    pub steps_done_before: usize,
    /// How many invalid indexes of earlier failures were dropped first.
    pub leftovers_dropped: usize,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ApplyReport {
    /// The migrations in order.
    pub migrations: Vec<MigrationDone>,
}

/// Decides.
///
/// # Errors
/// `Precondition` with what must be mended first, or what cannot be in one transaction; `NotFound` when there is no such entry; the server's.
pub async fn plan(context: &SqlContext<'_>, choice: &Choice, target: Target) -> Result<Plan> {
    context.observer.phase("compare the folder with the database");
    let survey = survey(context.target, context.folder, context.table, context.clock.now()).await?;
    survey.check_server(None)?;
    let programs = chosen(context, choice, &survey)?;
    tell_of_files(context, &survey, &programs);
    let parameters = parameters(context, choice, &survey, &programs)?;
    let assumptions = assumptions(context, &parameters, &survey)?;
    Ok(sealed(context, parameters, assumptions, target))
}

/// Tells what is odd about the files that will be sent: bytes that were no UTF-8, for one, which are lost.
fn tell_of_files(context: &SqlContext<'_>, survey: &Survey, programs: &[Program]) {
    let is_sent = |message: &str| programs.iter().any(|program| message.contains(program.path.as_str()));
    for notice in &survey.verdict.notices {
        let is_odd = notice.kind == NoticeKind::Folder && notice.reaction > Reaction::Ok;
        if is_odd && is_sent(&notice.message) {
            context.observer.notice(&notice.message);
        }
    }
}

/// The programs of what is to be applied.
fn chosen(context: &SqlContext<'_>, choice: &Choice, survey: &Survey) -> Result<Vec<Program>> {
    let mut pending =
        survey.verdict.to_apply(context.folder, ApplyOptions { include_skipped: choice.include_skipped })?;
    if let Some(to) = &choice.to {
        let place = |tag: &str| context.folder.migrations.iter().position(|found| found.tag == tag);
        let last = place(to).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("the folder has no migration {to}"))
                .with_state("nothing was changed")
                .with_hint("`mainstay sql status` lists them")
        })?;
        pending.retain(|migration| place(&migration.tag).is_some_and(|place| place <= last));
    }
    pending.into_iter().map(|migration| Program::of(migration, context.folder)).collect()
}

fn parameters(
    context: &SqlContext<'_>,
    choice: &Choice,
    survey: &Survey,
    programs: &[Program],
) -> Result<ApplyParameters> {
    if choice.transactions == Transactions::All
        && let Some(program) = programs.iter().find(|program| !program.is_one_transaction())
    {
        return Err(Error::new(
            ErrorKind::Precondition,
            format!("{} has statements that cannot be in one transaction with others", program.path),
        )
        .with_state("nothing was changed")
        .with_hint("leave out `--tx all`: each migration then has a transaction of its own, and such statements none"));
    }
    let mut migrations = Vec::new();
    for program in programs {
        migrations.push(program.planned(steps_done(program, survey.steps_of(&program.tag))?));
    }
    Ok(ApplyParameters {
        database: survey.facts.database.clone(),
        table: context.table.clone(),
        transactions: choice.transactions,
        lock_timeout_ms: millis(choice.lock_timeout).max(1),
        retry_for_ms: millis(choice.retry_for),
        takes_over: survey.look.version == TableVersion::Classic && context.folder.format == Format::Folders,
        migrations,
    })
}

/// How many of the program's steps are done. They must be the same that they were.
pub(super) fn steps_done<'s>(
    program: &Program,
    recorded: impl Iterator<Item = &'s RecordedStep>,
) -> Result<usize> {
    let mut count = 0;
    for step in recorded.filter(|step| step.is_done) {
        let is_same = program.pieces.iter().any(|piece| piece.entry == step.entry);
        if !is_same {
            return Err(Error::new(
                ErrorKind::Precondition,
                format!("step {} of {} was applied with another text than the file has now", step.entry.step, program.tag),
            )
            .with_state("nothing was changed")
            .with_hint("put back what stood before the statement that failed: only what is behind it may change. Or finish by hand, and then `mainstay sql mark-applied`"));
        }
        count += 1;
    }
    Ok(count)
}

pub(super) fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

/// The table without the rows that the plan's own migrations have, the rest of the world, and the files.
fn assumptions(
    context: &SqlContext<'_>,
    parameters: &ApplyParameters,
    survey: &Survey,
) -> Result<Vec<Assumption>> {
    let mut others = made(&survey.look, context.folder);
    for row in rows_of(context, parameters) {
        let own = others.rows.iter().position(|found| is_of(found, &row, others.version));
        if let Some(place) = own {
            others.rows.remove(place);
        }
    }
    let assumption = |name: &str, value: String| Assumption { name: name.to_owned(), value };
    let mut assumptions = vec![
        assumption("server", survey.facts.fingerprint.clone()),
        assumption("database", survey.facts.database.clone()),
        assumption(&format!("table {}", context.table), shown(&others, context.folder)?),
    ];
    for planned in &parameters.migrations {
        let found = context.folder.migration(&planned.tag);
        let value = found.map_or_else(|| "absent".to_owned(), |migration| migration.hash.clone());
        assumptions.push(assumption(&format!("file of {}", planned.tag), value));
    }
    Ok(assumptions)
}

/// The rows that the planned migrations get.
fn rows_of(context: &SqlContext<'_>, parameters: &ApplyParameters) -> Vec<NewRow> {
    let migrations =
        parameters.migrations.iter().filter_map(|planned| context.folder.migration(&planned.tag));
    migrations.map(|migration| NewRow::of(migration, context.folder.format)).collect()
}

/// Whether a row is the one that applying a migration writes.
pub(super) fn is_of(row: &TrackingRow, new: &NewRow, version: TableVersion) -> bool {
    let has_name = version != TableVersion::Named || row.name == new.name;
    row.hash == new.hash && row.created_at == Some(new.created_at) && has_name
}

fn sealed(
    context: &SqlContext<'_>,
    parameters: ApplyParameters,
    assumptions: Vec<Assumption>,
    target: Target,
) -> Plan {
    let name = operation_of(&parameters);
    let created_at = context.clock.now();
    Plan {
        format: PLAN_FORMAT,
        operation: name.to_owned(),
        effect: operation(name).expect("applying migrations is registered").effect,
        assumptions,
        steps: steps_shown(&parameters),
        blast_radius: BlastRadius { phrase: phrase(&parameters, &target.environment), items: 0, bytes: 0 },
        target,
        parameters: serde_json::to_value(&parameters).expect("parameters have a JSON form"),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// The registered name of what the migrations do at worst.
fn operation_of(parameters: &ApplyParameters) -> &'static str {
    match parameters.effect() {
        Effect::Read | Effect::Additive => OPERATION_APPLY,
        Effect::Disruptive => OPERATION_CHANGE,
        Effect::Destructive | Effect::Irreversible => OPERATION_DESTROY,
    }
}

fn phrase(parameters: &ApplyParameters, environment: &str) -> String {
    let (count, database) = (parameters.migrations.len(), &parameters.database);
    let what = match count {
        1 => "1 migration".to_owned(),
        count => format!("{count} migrations"),
    };
    let worst = parameters.worst_reason().filter(|_| parameters.effect() > Effect::Disruptive);
    let worst = worst.map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("apply {what} to {database}@{environment}{worst}")
}

fn steps_shown(parameters: &ApplyParameters) -> Vec<PlanStep> {
    let shown = |planned: &PlannedMigration| {
        let count = planned.statements.len();
        let statements = if count == 1 { "1 statement".to_owned() } else { format!("{count} statements") };
        let how = match (planned.steps, planned.statements.iter().any(|statement| statement.is_alone)) {
            (1, false) => format!("{statements} in one transaction"),
            (steps, _) if planned.steps_done > 0 => {
                format!("{statements} in {steps} steps, {} of them done", planned.steps_done)
            }
            (1, true) => format!("{statements} in no transaction"),
            (steps, _) => format!("{statements} in {steps} steps, each recorded"),
        };
        let reasons: BTreeSet<&str> =
            planned.statements.iter().filter_map(|statement| statement.reason.as_deref()).collect();
        let why = reasons.into_iter().map(|reason| format!("; {reason}")).collect::<String>();
        PlanStep {
            name: format!("apply {}", planned.tag),
            mark: match planned.effect {
                Effect::Read | Effect::Additive => '+',
                Effect::Disruptive => '~',
                Effect::Destructive | Effect::Irreversible => '-',
            },
            summary: format!("{how}{why}"),
        }
    };
    let take_over = parameters.takes_over.then(|| PlanStep {
        name: format!("take over {}", parameters.table),
        mark: '~',
        summary: "columns `name` and `applied_at`, and the name of each row, as drizzle 1.0 does".to_owned(),
    });
    let is_any = !parameters.migrations.is_empty();
    take_over.filter(|_| is_any).into_iter().chain(parameters.migrations.iter().map(shown)).collect()
}

/// Refuses a plan whose world is not as it was: rows of others, files, another database. To be called under the lock of the run.
///
/// # Errors
/// `StalePlan` with every difference; `Precondition` on a standby; the server's.
pub async fn check(context: &SqlContext<'_>, plan: &Plan) -> Result<()> {
    let parameters = ApplyParameters::of(plan)?;
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
    let seen = assumptions(context, &parameters, &survey)?;
    plan.check_assumptions(&seen).map_err(|stale| stale.with_hint(HINT_STALE))?;
    programs_of(context, plan, &parameters).map(drop)
}

/// The programs of the planned migrations. A plan is believed only as far as what it says of them is what their files say: it was agreed to by that.
fn programs_of(context: &SqlContext<'_>, plan: &Plan, parameters: &ApplyParameters) -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    for planned in &parameters.migrations {
        let migration = context.folder.migration(&planned.tag).filter(|found| found.hash == planned.hash);
        let migration = migration.ok_or_else(|| {
            Error::new(
                ErrorKind::StalePlan,
                format!("the file of {} has changed since the plan was made", planned.tag),
            )
            .with_state("nothing was changed")
            .with_hint(HINT_STALE)
        })?;
        let program = Program::of(migration, context.folder)?;
        if program.planned(planned.steps_done) != *planned {
            return Err(no_plan(&format!("it says something else of {} than its file does", planned.tag)));
        }
        programs.push(program);
    }
    // The server takes 0 for no bound, and everybody would queue behind a statement that waits.
    if parameters.lock_timeout_ms == 0 {
        return Err(no_plan("its statements would wait for locks without end"));
    }
    if parameters.takes_over && context.folder.format != Format::Folders {
        return Err(no_plan("it takes a table over for another format than the folder has"));
    }
    let is_told = plan.blast_radius.phrase == phrase(parameters, &plan.target.environment);
    if plan.operation != operation_of(parameters) || plan.steps != steps_shown(parameters) || !is_told {
        return Err(no_plan("what it tells is not what its parameters do"));
    }
    Ok(programs)
}

fn no_plan(why: &str) -> Error {
    Error::new(ErrorKind::Usage, format!("this is no plan that was made here: {why}"))
        .with_state("nothing was changed")
        .with_hint("make the plan again with `mainstay sql apply --output FILE`")
}

/// Applies what `plan` says, which was [`check`]ed under the lock of `run`.
///
/// # Errors
/// `StalePlan` when somebody else has written into the tracking table what is not of the plan; `Locked` when locks were not to be had in time, naming who
/// has them; `Interrupted`; what the server says of a statement, with file and line. The state says what is applied; the same command goes on.
pub async fn apply(
    context: &SqlContext<'_>,
    plan: &Plan,
    run: &dyn MigrationRun,
    permit: &Permit,
) -> Result<ApplyReport> {
    permit.covers(plan)?;
    // Whoever was asked for consent took their time, and other runners know nothing of our lock.
    check(context, plan).await?;
    let parameters = ApplyParameters::of(plan)?;
    let programs = programs_of(context, plan, &parameters)?;
    let migrations = Applying::run((context, run, permit), &parameters, &programs).await?;
    Ok(ApplyReport { migrations })
}
