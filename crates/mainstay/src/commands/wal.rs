//! `wal fetch`: hands a recovering server the file that it asks for.
//!
//! The exit status is the server's, not ours: 1 says that the file is not there, which ends its log; more than 125 says that something is
//! wrong, which ends the recovery. Source: manual (18), `restore_command`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use mainstay_model::{ExitStatus, Result};
use mainstay_ops::wal::fetch::{self, AHEAD_COUNT_MAX, FetchRequest, Fetched};
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
    /// Fetch up to so many of the segments behind it, too, into a folder beside PATH where the next calls find them; 64 at most
    #[arg(long, value_name = "COUNT", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=i64::from(AHEAD_COUNT_MAX)))]
    prefetch: u32,
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
    let request = FetchRequest {
        server: args.server,
        path: session.path(&args.path),
        name: args.name,
        ahead: args.prefetch,
        repository: session.repository_url()?,
    };
    let fetched = match fetch::take_ahead(&request) {
        Some(fetched) => fetched,
        None => fetch::fetch(&session.repository().await?, &request).await?,
    };
    Ok(session.printer.report(&Done { request, fetched }))
}

struct Done {
    request: FetchRequest,
    fetched: Fetched,
}

impl Report for Done {
    fn json(&self) -> Map<String, Value> {
        let (captured, ahead) = match self.fetched {
            Fetched::Written { captured_bytes, ahead } => (Some(captured_bytes), ahead),
            Fetched::Waited { captured_bytes } => (Some(captured_bytes), 0),
            Fetched::Absent => (None, 0),
        };
        Map::from_iter([
            ("file".to_owned(), json!(self.request.name)),
            ("found".to_owned(), json!(captured.is_some())),
            ("captured_bytes".to_owned(), json!(captured)),
            ("prefetched".to_owned(), json!(ahead)),
            ("was_prefetched".to_owned(), json!(matches!(self.fetched, Fetched::Waited { .. }))),
        ])
    }

    fn text(&self, _look: &Look) -> String {
        match self.fetched {
            Fetched::Written { .. } | Fetched::Waited { .. } => String::new(),
            Fetched::Absent => format!("{} was not captured\n", self.request.name),
        }
    }

    fn exit_status(&self) -> ExitStatus {
        match self.fetched {
            Fetched::Written { .. } | Fetched::Waited { .. } => ExitStatus::Ok,
            Fetched::Absent => ExitStatus::Failed,
        }
    }
}
