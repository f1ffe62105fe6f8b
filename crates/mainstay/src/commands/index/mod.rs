//! `index …`: the indexes of MongoDB, declared, imported, compared, audited, and changed by plans.

pub(crate) mod audit;
pub(crate) mod change;
pub(crate) mod drift;
pub(crate) mod import;
mod node;
mod view;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use mainstay_indexes::Manifest;
use mainstay_model::{Error, ErrorKind, ExitStatus, Result};

use crate::config::manifest;
use crate::wiring::Session;

/// The commands below `index`.
#[derive(Debug, Subcommand)]
pub(crate) enum IndexCommand {
    /// Write what is there, or what code declares, as a manifest
    #[command(subcommand)]
    Import(import::ImportCommand),
    /// Compare what is there with what is declared
    Drift(drift::DriftArgs),
    /// Find indexes that nobody uses, that are redundant, that were forgotten
    Audit(audit::AuditArgs),
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
            Self::Import(command) => command.name(),
            Self::Drift(_) => "index.drift",
            Self::Audit(_) => "index.audit",
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
        IndexCommand::Import(command) => import::run(command, session).await,
        IndexCommand::Drift(args) => drift::run(args, session).await,
        IndexCommand::Audit(args) => audit::run(args, session).await,
        IndexCommand::Plan(args) => change::plan(&args, session).await,
        IndexCommand::Apply(args) => change::apply(&args, session).await,
        IndexCommand::Retire(args) => change::retire(&args, session).await,
        IndexCommand::Restore(args) => change::restore(&args, session).await,
    }
}

/// Of which database, and which collections of it.
#[derive(Debug, Args)]
pub(crate) struct PlaceArgs {
    /// This database instead of the configured one
    #[arg(long, alias = "db", value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) database: Option<String>,
    /// This collection alone; may be repeated
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) collection: Vec<String>,
}

impl PlaceArgs {
    /// The database that is meant.
    ///
    /// # Errors
    /// `Precondition` when none is named and none configured.
    pub(crate) fn database(&self, session: &Session) -> Result<String> {
        self.database.clone().map_or_else(|| database(session), Ok)
    }
}

/// Where the declared indexes are.
#[derive(Debug, Default, Args)]
pub(crate) struct ManifestArgs {
    /// Read the declared indexes from this file instead of the configured one
    #[arg(long, value_name = "FILE")]
    pub(crate) manifest: Option<PathBuf>,
}

impl ManifestArgs {
    /// What is declared.
    ///
    /// # Errors
    /// `Precondition` when nothing is; `Config` when the manifest is faulty.
    pub(crate) fn read(&self, session: &Session) -> Result<Manifest> {
        match &self.manifest {
            Some(file) => manifest::read(&session.path(file)),
            None => session.index_manifest(),
        }
    }

    /// What is declared; nothing when nobody declares anything.
    ///
    /// # Errors
    /// `Config` when the manifest is faulty.
    pub(crate) fn read_if_any(&self, session: &Session) -> Result<Manifest> {
        match self.manifest.is_none() && session.configuration.index_manifest.is_none() {
            true => Ok(Manifest::default()),
            false => self.read(session),
        }
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
