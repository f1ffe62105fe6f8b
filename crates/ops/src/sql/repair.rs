//! Rows that do not fit their entries, corrected: moved in time, of a file whose ends of lines were changed, repeated, without what they must have.
//!
//! [`plan()`] shows each row as it is and what it becomes; only what was asked for by name is changed. The file of an entry that was edited is not run
//! again, and the hash of one that says something else now is corrected only when that is asked for by name: nobody knows what the difference is.

use mainstay_engine::MigrationRun;
use mainstay_guard::Permit;
use mainstay_migrations::{RepairOptions, repair};
use mainstay_model::{Error, ErrorKind, Plan, Result, Target};

use super::apply::HINT_STALE;
use super::rows::{self, PlannedRow, RowParameters, RowReport};
use super::survey::survey;
use super::{OPERATION_REPAIR, SqlContext};

/// All that can be asked for.
const EVERYTHING: RepairOptions =
    RepairOptions { edited: true, line_endings: true, retimed: true, nulls: true, duplicates: true };

/// Decides.
///
/// # Errors
/// `Precondition` on a standby; the server's.
pub async fn plan(context: &SqlContext<'_>, options: RepairOptions, target: Target) -> Result<Plan> {
    context.observer.phase("compare the folder with the database");
    let survey = survey(context.target, context.folder, context.table, context.clock.now()).await?;
    survey.check_server(None)?;
    let repairs = repair(context.folder, &survey.verdict, &survey.look.rows, options);
    let planned = repairs.into_iter().map(|repair| PlannedRow::Repair { repair }).collect();
    rows::sealed(context, OPERATION_REPAIR, &survey, planned, target)
}

/// Refuses a plan whose table is not as it was, or whose corrections are not those that the files call for now. To be called under the lock of the
/// run.
///
/// # Errors
/// `StalePlan`; `Precondition` on a standby; the server's.
pub async fn check(context: &SqlContext<'_>, plan: &Plan) -> Result<()> {
    rows::check(context, plan).await?;
    let survey = survey(context.target, context.folder, context.table, context.clock.now()).await?;
    let possible = repair(context.folder, &survey.verdict, &survey.look.rows, EVERYTHING);
    let is_possible = |planned: &PlannedRow| match planned {
        PlannedRow::Insert { .. } => false,
        PlannedRow::Repair { repair } => {
            possible.iter().any(|found| found.row.id == repair.row.id && found.change == repair.change)
        }
    };
    match RowParameters::of(plan)?.rows.iter().all(is_possible) {
        true => Ok(()),
        false => Err(Error::new(
            ErrorKind::StalePlan,
            "the plan does something else to a row than the files of migrations call for now",
        )
        .with_state("nothing was changed")
        .with_hint(HINT_STALE)),
    }
}

/// Changes the rows, all or none.
///
/// # Errors
/// `StalePlan`, `Locked`, `Interrupted`, the server's; nothing was changed then.
pub async fn apply(
    context: &SqlContext<'_>,
    plan: &Plan,
    run: &dyn MigrationRun,
    permit: &Permit,
) -> Result<RowReport> {
    rows::write(context, plan, run, permit).await
}
