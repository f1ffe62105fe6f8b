//! `pg …`: daily questions to PostgreSQL, and the few answers that change something.

pub(crate) mod activity;
mod bloat;
mod blockers;
pub(crate) mod reset;
mod slots;
mod slow;
mod wal;

use clap::Subcommand;
use mainstay_model::{ExitStatus, Result};

use crate::wiring::Session;

/// The commands below `pg`.
#[derive(Debug, Subcommand)]
pub(crate) enum PgCommand {
    /// Show what sessions do now, or end one statement or connection
    Activity(activity::ActivityArgs),
    /// Show who blocks whom, as trees
    Blockers(blockers::BlockersArgs),
    /// Show the statements that cost most, with advice
    Slow(slow::SlowArgs),
    /// Show tables with dead rows and empty pages
    Bloat(bloat::BloatArgs),
    /// Show how fast WAL is written, whether it is archived, and what its directory holds
    Wal(wal::WalArgs),
    /// Show replication slots and how much WAL they retain
    Slots,
    /// Wipe the configured development database and make it anew, empty
    Reset(reset::ResetArgs),
}

impl PgCommand {
    /// The operation's name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Activity(args) => args.name(),
            Self::Blockers(_) => "pg.blockers",
            Self::Slow(_) => "pg.slow",
            Self::Bloat(_) => "pg.bloat",
            Self::Wal(_) => "pg.wal",
            Self::Slots => "pg.slots",
            Self::Reset(_) => mainstay_ops::reset::OPERATION,
        }
    }
}

/// Runs a command below `pg`.
///
/// # Errors
/// The operation's.
pub(crate) async fn run(command: PgCommand, session: &Session) -> Result<ExitStatus> {
    match command {
        PgCommand::Activity(args) => activity::run(args, session).await,
        PgCommand::Blockers(args) => blockers::run(&args, session).await,
        PgCommand::Slow(args) => slow::run(&args, session).await,
        PgCommand::Bloat(args) => bloat::run(&args, session).await,
        PgCommand::Wal(args) => wal::run(&args, session).await,
        PgCommand::Slots => slots::run(session).await,
        PgCommand::Reset(args) => reset::run(args, session).await,
    }
}
