//! `seed …`: rows that a project keeps in files, written where they belong and nowhere else.

mod list;
pub(crate) mod run;

use clap::Subcommand;
use mainstay_model::{Error, ErrorKind, ExitStatus, Result};

use crate::config::seeds::SeedManifest;
use crate::wiring::Session;

/// The commands below `seed`.
#[derive(Debug, Subcommand)]
pub(crate) enum SeedCommand {
    /// List the declared seeds, how they stand, and which may be written here
    List(list::ListArgs),
    /// Write seeds: reference data anywhere, what is made up or replaces data never in production
    Run(run::RunArgs),
}

impl SeedCommand {
    /// The operation's name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::List(_) => "seed.list",
            Self::Run(_) => mainstay_ops::seed::OPERATION,
        }
    }
}

/// Runs a command below `seed`.
///
/// # Errors
/// The operation's.
pub(crate) async fn run(command: SeedCommand, session: &Session) -> Result<ExitStatus> {
    match command {
        SeedCommand::List(args) => list::run(&args, session).await,
        SeedCommand::Run(args) => run::run(args, session).await,
    }
}

/// The declared seeds.
fn manifest(session: &Session) -> Result<SeedManifest> {
    let path = session.configuration.seed_manifest.as_ref().ok_or_else(|| {
        Error::new(ErrorKind::Precondition, "no seeds are declared")
            .with_state("nothing was changed")
            .with_hint(
                "write a manifest as docs/seeds.md says and name it as `file` in [seeds] of mainstay.toml",
            )
    })?;
    SeedManifest::read(path)
}
