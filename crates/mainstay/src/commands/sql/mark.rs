//! `sql mark-applied` and `sql baseline`: rows that say of migrations that they are applied.

use clap::Args;
use mainstay_model::{ExitStatus, Result, StoreKind};
use mainstay_ops::shape::Literals;
use mainstay_ops::sql::mark::{self, Marked};

use super::rows::{self, MakingArgs};
use super::{FolderArgs, Migrations};
use crate::wiring::Session;

/// Arguments of `sql mark-applied`.
#[derive(Debug, Args)]
pub(crate) struct MarkArgs {
    /// Migrations whose work the database has already
    #[arg(required = true, value_name = "TAG")]
    tags: Vec<String>,
    #[command(flatten)]
    folder: FolderArgs,
    #[command(flatten)]
    making: MakingArgs,
}

/// Arguments of `sql baseline`.
#[derive(Debug, Args)]
pub(crate) struct BaselineArgs {
    /// The last migration whose work the database has already
    #[arg(long, value_name = "TAG")]
    to: String,
    #[command(flatten)]
    folder: FolderArgs,
    #[command(flatten)]
    making: MakingArgs,
}

/// Runs `sql mark-applied`.
///
/// # Errors
/// The operation's.
pub(super) async fn run(args: &MarkArgs, session: &Session) -> Result<ExitStatus> {
    marking(&Marked::Tags(args.tags.clone()), &args.folder, &args.making, session).await
}

/// Runs `sql baseline`.
///
/// # Errors
/// The operation's.
pub(super) async fn run_baseline(args: &BaselineArgs, session: &Session) -> Result<ExitStatus> {
    marking(&Marked::UpTo(args.to.clone()), &args.folder, &args.making, session).await
}

async fn marking(
    marked: &Marked,
    folder: &FolderArgs,
    making: &MakingArgs,
    session: &Session,
) -> Result<ExitStatus> {
    let migrations = Migrations::open(folder, session)?;
    let progress = session.printer.progress();
    let context = migrations.context(session, progress.as_ref(), Literals::Hidden);
    let probe = session.probe(StoreKind::Postgres).await?;
    let target = session.target(probe.as_ref()).await?;
    let plan = mark::plan(&context, marked, target).await;
    let plan = plan.inspect_err(|_| session.printer.end_progress())?;
    rows::make(&context, &plan, making, session).await
}
