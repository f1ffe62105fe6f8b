//! `index …`: the indexes of MongoDB, declared, compared and changed by plans.

pub(crate) mod change;
mod view;

use clap::Subcommand;
use mainstay_model::{Error, ErrorKind, ExitStatus, Result};

use crate::wiring::Session;

/// The commands below `index`.
#[derive(Debug, Subcommand)]
pub(crate) enum IndexCommand {
    /// Decide how the indexes become what is declared, and show it
    Plan(change::PlanArgs),
    /// Carry out a plan, step by step
    Apply(change::ApplyArgs),
    /// Hide indexes that nobody declares; drop those that were hidden for long enough
    Retire(change::RetireArgs),
    /// List dropped indexes, or build one again
    Restore(change::RestoreArgs),
}

impl IndexCommand {
    /// The operation's name, or the beginning of it where the plan decides the rest.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Plan(_) => "index.plan",
            Self::Apply(_) => mainstay_ops::index::OPERATION,
            Self::Retire(_) => "index.retire",
            Self::Restore(_) => "index.restore",
        }
    }
}

/// Runs a command below `index`.
///
/// # Errors
/// The operation's.
pub(crate) async fn run(command: IndexCommand, session: &Session) -> Result<ExitStatus> {
    match command {
        IndexCommand::Plan(args) => change::plan(&args, session).await,
        IndexCommand::Apply(args) => change::apply(&args, session).await,
        IndexCommand::Retire(args) => change::retire(&args, session).await,
        IndexCommand::Restore(args) => change::restore(&args, session).await,
    }
}

/// The database whose indexes are meant.
fn database(session: &Session) -> Result<String> {
    session.configured_database().ok_or_else(|| {
        Error::new(ErrorKind::Precondition, "no database is configured whose indexes are meant")
            .with_state("nothing was changed")
            .with_hint("set `database` in [mongo] of mainstay.toml")
    })
}
