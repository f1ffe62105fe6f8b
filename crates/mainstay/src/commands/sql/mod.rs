//! `sql …`: SQL migrations of PostgreSQL, in Drizzle's own formats and its own tracking table.

pub(crate) mod apply;
mod drift;
mod lint;
pub(crate) mod mark;
mod rehearse;
pub(crate) mod repair;
mod rows;
mod staged;
mod status;
mod verify;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use mainstay_engine::MigrationTarget;
use mainstay_migrations::{Folder, TrackingTable};
use mainstay_model::progress::Observer;
use mainstay_model::{Error, ErrorKind, ExitStatus, Plan, Result};
use mainstay_ops::shape::Literals;
use mainstay_ops::sql::{OPERATION_APPLY, OPERATION_BASELINE, OPERATION_MARK, OPERATION_REPAIR, SqlContext};
use mainstay_repository::Repository;

use crate::commands::mongo::choice::parse_duration;
use crate::wiring::Session;

/// The longest timeout that PostgreSQL takes.
const TIMEOUT_MAX: Duration = Duration::from_millis(2_147_483_647);

/// The commands below `sql`.
#[derive(Debug, Subcommand)]
pub(crate) enum SqlCommand {
    /// Show every migration and every row of the tracking table, with the state of each
    Status(status::StatusArgs),
    /// Find what is skipped, edited, repeated, moved in time or half applied
    Verify(verify::VerifyArgs),
    /// Compare the live database with what the applied migrations make of nothing
    Drift(drift::DriftArgs),
    /// Find what is dangerous in migrations, with the size of the tables that it is about
    Lint(lint::LintArgs),
    /// Measure what pending migrations lock, rewrite and read, in a shadow database
    Rehearse(rehearse::RehearseArgs),
    /// Apply what is pending, each migration in a transaction of its own
    Apply(apply::ApplyArgs),
    /// Say of migrations that they are applied, and run nothing
    MarkApplied(mark::MarkArgs),
    /// Say of all migrations up to one that they are applied, and run nothing
    Baseline(mark::BaselineArgs),
    /// Correct rows of the tracking table that do not fit their migrations
    Repair(repair::RepairArgs),
}

impl SqlCommand {
    /// The operation's name, or the beginning of it where the plan decides the rest.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Status(_) => "sql.status",
            Self::Verify(_) => "sql.verify",
            Self::Drift(_) => "sql.drift",
            Self::Lint(_) => "sql.lint",
            Self::Rehearse(args) => args.name(),
            Self::Apply(_) => OPERATION_APPLY,
            Self::MarkApplied(_) => OPERATION_MARK,
            Self::Baseline(_) => OPERATION_BASELINE,
            Self::Repair(_) => OPERATION_REPAIR,
        }
    }
}

/// Runs a command below `sql`.
///
/// # Errors
/// The operation's.
pub(crate) async fn run(command: SqlCommand, session: &Session) -> Result<ExitStatus> {
    match command {
        SqlCommand::Status(args) => status::run(&args, session).await,
        SqlCommand::Verify(args) => verify::run(&args, session).await,
        SqlCommand::Drift(args) => Box::pin(drift::run(&args, session)).await,
        SqlCommand::Lint(args) => lint::run(&args, session).await,
        SqlCommand::Rehearse(args) => Box::pin(rehearse::run(&args, session)).await,
        SqlCommand::Apply(args) => Box::pin(apply::run(&args, session)).await,
        SqlCommand::MarkApplied(args) => Box::pin(mark::run(&args, session)).await,
        SqlCommand::Baseline(args) => Box::pin(mark::run_baseline(&args, session)).await,
        SqlCommand::Repair(args) => Box::pin(repair::run(&args, session)).await,
    }
}

/// Carries out a plan about SQL migrations.
///
/// # Errors
/// `StalePlan` when files, rows, database or server are others by now; `Locked` while another run is under way; `Refused` by policy; the operation's.
pub(crate) async fn apply_plan(plan: &Plan, approve: Option<&str>, session: &Session) -> Result<ExitStatus> {
    match plan.operation.as_str() {
        OPERATION_MARK | OPERATION_BASELINE | OPERATION_REPAIR => {
            Box::pin(rows::apply_plan(plan, approve, session)).await
        }
        operation if operation.starts_with(OPERATION_APPLY) => {
            Box::pin(apply::apply_plan(plan, approve, session)).await
        }
        operation => Err(Error::new(
            ErrorKind::Unsupported,
            format!("a plan of {operation} cannot be applied by this version"),
        )
        .with_state("nothing was changed")),
    }
}

/// Where the migrations are.
#[derive(Debug, Default, Args)]
pub(crate) struct FolderArgs {
    /// Read the migrations from this folder instead of the configured one
    #[arg(long, value_name = "DIR")]
    pub(crate) folder: Option<PathBuf>,
}

/// Folder, table and database of a command.
pub(crate) struct Migrations {
    pub(crate) target: Arc<dyn MigrationTarget>,
    pub(crate) folder: Folder,
    pub(crate) table: TrackingTable,
}

impl Migrations {
    /// What the command means.
    ///
    /// # Errors
    /// `NotFound` when there is no folder; `Precondition` when PostgreSQL is not configured; what Drizzle's own runner would refuse.
    pub(crate) fn open(args: &FolderArgs, session: &Session) -> Result<Self> {
        let (folder, table) = session.migrations(args.folder.as_deref())?;
        Ok(Self { target: session.migration_target()?, folder, table })
    }

    /// What the operations take.
    pub(crate) fn context<'a>(
        &'a self,
        session: &'a Session,
        observer: &'a dyn Observer,
        literals: Literals,
    ) -> SqlContext<'a> {
        SqlContext {
            target: self.target.as_ref(),
            folder: &self.folder,
            table: &self.table,
            clock: session.clock.as_ref(),
            observer,
            cancel: &session.cancel,
            literals,
        }
    }
}

/// A length of time that a server is to give up after. It takes 0 for no bound at all, and everybody would queue behind who waits.
fn parse_timeout(text: &str) -> Result<Duration, String> {
    let length = parse_duration(text)?;
    match (Duration::from_millis(1)..=TIMEOUT_MAX).contains(&length) {
        true => Ok(length),
        false => Err("expected a length of time from 1ms to 596h, such as 500ms or 5s".to_owned()),
    }
}

/// The repository with the audit log; `None` where none is configured, and then nothing is permitted that does more than add.
async fn repository(session: &Session) -> Result<Option<Repository>> {
    match session.configuration.repository {
        Some(_) => session.repository_or_create().await.map(Some),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_never_none_at_all() {
        assert_eq!(parse_timeout("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_timeout("596h"), Ok(Duration::from_secs(596 * 3_600)));
        for text in ["0s", "1ns", "999us", "597h", "1000000h", "0", "-1s", ""] {
            assert!(parse_timeout(text).is_err(), "{text}");
        }
    }
}
