//! `wal fetch`: hands a recovering server the file that it asks for.
//!
//! The exit status is the server's, not ours: 1 says that the file is not there, which ends its log; more than 125 says that something is
//! wrong, which ends the recovery. Source: manual (18), `restore_command`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use mainstay_model::{ExitStatus, Result};
use mainstay_ops::wal::fetch::{self, FetchRequest, Fetched};
use serde_json::{Map, Value, json};

use crate::printer::{Look, Report};
use crate::wiring::Session;

/// Added to the exit status of whatever keeps a file from being fetched.
const TROUBLE: u8 = 200;

/// The commands below `wal`.
#[derive(Debug, Subcommand)]
pub(crate) enum WalCommand {
    /// Write one file of captured WAL: a server's restore_command
    Fetch(FetchArgs),
}

/// Arguments of `wal fetch`.
#[derive(Debug, Args)]
pub(crate) struct FetchArgs {
    /// The file, as the server names it: %f
    name: String,
    /// Where it goes: %p
    path: PathBuf,
    /// Whose log, by fingerprint; needed when the repository holds that of several servers
    #[arg(long, value_name = "FINGERPRINT")]
    server: Option<String>,
}

impl WalCommand {
    /// The operation's name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Fetch(_) => "wal.fetch",
        }
    }
}

/// The exit status of `wal fetch` for what ends other commands with `status`.
pub(crate) fn trouble(status: ExitStatus) -> u8 {
    TROUBLE.saturating_add(status as u8)
}

/// Runs a command below `wal`.
///
/// # Errors
/// The operation's.
pub(crate) async fn run(command: WalCommand, session: &Session) -> Result<ExitStatus> {
    let WalCommand::Fetch(args) = command;
    let repository = session.repository().await?;
    let request = FetchRequest { server: args.server, path: session.path(&args.path), name: args.name };
    let fetched = fetch::fetch(&repository, &request).await?;
    Ok(session.printer.report(&Done { request, fetched }))
}

struct Done {
    request: FetchRequest,
    fetched: Fetched,
}

impl Report for Done {
    fn json(&self) -> Map<String, Value> {
        let captured = match self.fetched {
            Fetched::Written { captured_bytes } => Some(captured_bytes),
            Fetched::Absent => None,
        };
        Map::from_iter([
            ("file".to_owned(), json!(self.request.name)),
            ("found".to_owned(), json!(captured.is_some())),
            ("captured_bytes".to_owned(), json!(captured)),
        ])
    }

    fn text(&self, _look: &Look) -> String {
        match self.fetched {
            Fetched::Written { .. } => String::new(),
            Fetched::Absent => format!("{} was not captured\n", self.request.name),
        }
    }

    fn exit_status(&self) -> ExitStatus {
        match self.fetched {
            Fetched::Written { .. } => ExitStatus::Ok,
            Fetched::Absent => ExitStatus::Failed,
        }
    }
}
