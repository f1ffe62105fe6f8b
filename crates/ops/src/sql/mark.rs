//! Rows that say of migrations that they are applied, and nothing run: for what was done by hand, and for a database that existed before its
//! migrations did.
//!
//! [`plan()`] decides which rows: those of the entries that are named, or of all up to one. [`check`] compares under the lock, [`apply`] writes all or none.
//! Relies on whoever asks: whether the database has what the files make is not looked at (`sql verify` and a rehearsal do). Refuses entries that have a row.

use mainstay_engine::MigrationRun;
use mainstay_guard::Permit;
use mainstay_migrations::{Format, NewRow, baseline, mark_applied};
use mainstay_model::{Error, ErrorKind, Plan, Result, Target};

use super::apply::HINT_STALE;
use super::rows::{self, PlannedRow, RowParameters, RowReport};
use super::survey::survey;
use super::{OPERATION_BASELINE, OPERATION_MARK, SqlContext};

/// Which entries are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Marked {
    /// These.
    Tags(Vec<String>),
    /// All up to this one, which is among them.
    UpTo(String),
}

/// Decides.
///
/// # Errors
/// `NotFound` for an entry that is not there; `Precondition` for one that has a row, for rows that belong to nothing, and for a table that does not fit
/// the folder; the server's.
pub async fn plan(context: &SqlContext<'_>, marked: &Marked, target: Target) -> Result<Plan> {
    context.observer.phase("compare the folder with the database");
    let survey = survey(context.target, context.folder, context.table, context.clock.now()).await?;
    survey.check_server(None)?;
    let (name, new) = match marked {
        Marked::Tags(tags) => (OPERATION_MARK, mark_applied(context.folder, &survey.verdict, tags)?),
        Marked::UpTo(tag) => (OPERATION_BASELINE, baseline(context.folder, &survey.verdict, tag)?),
    };
    let mut planned = Vec::new();
    for row in new {
        planned.push(PlannedRow::Insert { tag: tag_of(context, &row)?, row });
    }
    rows::sealed(context, name, &survey, planned, target)
}

/// The entry that a row is made of.
fn tag_of(context: &SqlContext<'_>, row: &NewRow) -> Result<String> {
    let folder = context.folder;
    let is_of = |tag: &str, hash: &str, created_at: i64| match folder.format {
        Format::Folders => row.name.as_deref() == Some(tag),
        Format::Journal => row.hash == hash && row.created_at == created_at,
    };
    let found = folder.migrations.iter().find(|found| is_of(&found.tag, &found.hash, found.created_at));
    found.map(|found| found.tag.clone()).ok_or_else(|| {
        Error::new(ErrorKind::Internal, "a row was decided that belongs to no entry of the folder")
            .with_state("nothing was changed")
    })
}

/// Refuses a plan whose table or files are not as they were. To be called under the lock of the run.
///
/// # Errors
/// `StalePlan`; `Usage` for a plan that does something else than marking; `Precondition` on a standby; the server's.
pub async fn check(context: &SqlContext<'_>, plan: &Plan) -> Result<()> {
    let folder = context.folder;
    for planned in &RowParameters::of(plan)?.rows {
        let PlannedRow::Insert { tag, row } = planned else {
            return Err(Error::new(
                ErrorKind::Usage,
                "this is no plan that was made here: it marks migrations, and changes rows that are there",
            )
            .with_state("nothing was changed")
            .with_hint("make the plan again"));
        };
        // A row with the hash of what the file said once would count as applied, and edited.
        let now = folder.migration(tag).map(|migration| NewRow::of(migration, folder.format));
        if now.as_ref() != Some(row) {
            return Err(Error::new(
                ErrorKind::StalePlan,
                format!("the file of {tag} has changed since the plan was made"),
            )
            .with_state("nothing was changed")
            .with_hint(HINT_STALE));
        }
    }
    rows::check(context, plan).await
}

/// Writes the rows, all or none.
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
