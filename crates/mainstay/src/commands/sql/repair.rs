//! `sql repair`: rows of the tracking table that do not fit their migrations, corrected.

use clap::{ArgGroup, Args};
use mainstay_migrations::RepairOptions;
use mainstay_model::{ExitStatus, Result, StoreKind};
use mainstay_ops::shape::Literals;
use mainstay_ops::sql::repair;

use super::rows::{self, MakingArgs};
use super::{FolderArgs, Migrations};
use crate::wiring::Session;

/// Arguments of `sql repair`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).multiple(true).args(["line_endings", "edited", "retimed", "nulls", "duplicates"])))]
pub(crate) struct RepairArgs {
    /// Store the hash that a file has now where only the ends of its lines were changed
    #[arg(long)]
    line_endings: bool,
    /// Store the hash that a file has now, whatever was changed: the database must have it already
    #[arg(long)]
    edited: bool,
    /// Write the time, and the name, that the entry has now
    #[arg(long)]
    retimed: bool,
    /// Fill in times and names that are missing, from the entry of the same hash
    #[arg(long)]
    nulls: bool,
    /// Delete rows that repeat an earlier one
    #[arg(long)]
    duplicates: bool,
    #[command(flatten)]
    folder: FolderArgs,
    #[command(flatten)]
    making: MakingArgs,
}

/// Plans and corrects.
///
/// # Errors
/// The operation's.
pub(super) async fn run(args: &RepairArgs, session: &Session) -> Result<ExitStatus> {
    let migrations = Migrations::open(&args.folder, session)?;
    let progress = session.printer.progress();
    let context = migrations.context(session, progress.as_ref(), Literals::Hidden);
    let options = RepairOptions {
        edited: args.edited,
        line_endings: args.line_endings || args.edited,
        retimed: args.retimed,
        nulls: args.nulls,
        duplicates: args.duplicates,
    };
    let probe = session.probe(StoreKind::Postgres).await?;
    let target = session.target(probe.as_ref()).await?;
    let plan = repair::plan(&context, options, target).await;
    let plan = plan.inspect_err(|_| session.printer.end_progress())?;
    rows::make(&context, &plan, &args.making, session).await
}
