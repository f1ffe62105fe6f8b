//! `backfill …`: data brought into a new form where it stands, as the project declares it.

pub(crate) mod change;
pub(crate) mod look;
mod view;

use std::sync::Arc;

use clap::Subcommand;
use mainstay_engine::BackfillStore;
use mainstay_model::{Error, ErrorKind, ExitStatus, Result};
use mainstay_ops::backfill::DeclaredBackfill;

use crate::config::key::nearest;
use crate::wiring::Session;

/// The commands below `backfill`.
#[derive(Debug, Subcommand)]
pub(crate) enum BackfillCommand {
    /// List what is declared, and what has run of it
    List(look::ListArgs),
    /// Show what would become of real documents or rows, and change nothing
    Preview(look::PreviewArgs),
    /// Change what the guard means, batch by batch
    Run(change::RunArgs),
    /// Ask a backfill at work to stop after its batch
    Pause(change::PauseArgs),
    /// Go on with a backfill that was paused, interrupted or killed
    Resume(change::RunArgs),
    /// Bring back what was there before, but for what somebody has changed since
    Undo(change::UndoArgs),
    /// Count what is left to do, and what is not as it should be
    Verify(look::VerifyArgs),
    /// Take over the changelog of migrate-mongo as history
    Import(change::ImportArgs),
}

impl BackfillCommand {
    /// The operation's name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::List(_) => "backfill.list",
            Self::Preview(_) => "backfill.preview",
            Self::Run(_) => mainstay_ops::backfill::OPERATION,
            Self::Pause(_) => mainstay_ops::backfill::OPERATION_PAUSE,
            Self::Resume(_) => "backfill.resume",
            Self::Undo(_) => mainstay_ops::backfill::OPERATION_UNDO,
            Self::Verify(_) => "backfill.verify",
            Self::Import(_) => mainstay_ops::backfill::OPERATION_IMPORT,
        }
    }
}

/// Runs a command below `backfill`.
///
/// # Errors
/// The operation's.
pub(crate) async fn run(command: BackfillCommand, session: &Session) -> Result<ExitStatus> {
    match command {
        BackfillCommand::List(args) => look::list(&args, session).await,
        BackfillCommand::Preview(args) => look::preview(&args, session).await,
        BackfillCommand::Run(args) => change::run(args, false, session).await,
        BackfillCommand::Pause(args) => change::pause(&args, session).await,
        BackfillCommand::Resume(args) => change::run(args, true, session).await,
        BackfillCommand::Undo(args) => change::undo(&args, session).await,
        BackfillCommand::Verify(args) => look::verify(&args, session).await,
        BackfillCommand::Import(args) => change::import(&args, session).await,
    }
}

/// The declared backfill of that id, and its store.
async fn declared(id: &str, session: &Session) -> Result<(DeclaredBackfill, Arc<dyn BackfillStore>)> {
    let all = session.declared_backfills()?;
    let names: Vec<String> = all.iter().map(|one| one.backfill.id.clone()).collect();
    let Some(found) = all.into_iter().find(|one| one.backfill.id == id) else {
        let error = Error::new(ErrorKind::NotFound, format!("no backfill {id} is declared"))
            .with_state("nothing was changed");
        return Err(match nearest(id, names.iter().map(String::as_str)) {
            Some(name) => error.with_hint(format!("did you mean `{name}`?")),
            None => {
                error.with_hint("declare it as [[backfill]] in mainstay.toml; docs/backfill.md tells how")
            }
        });
    };
    let store = session.backfill_store(found.store()).await?;
    Ok((found, store))
}
