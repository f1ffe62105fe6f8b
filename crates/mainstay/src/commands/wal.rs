//! `wal fetch`: hands a recovering server the file that it asks for. `wal import`: brings what an archive has of the time before capture.
//!
//! The exit status of a fetch is the server's, not ours: 1 says that the file is not there, which ends its log; more than 125 says that something is
//! wrong, which ends the recovery. Source: manual (18), `restore_command`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use mainstay_guard::{BackupEvidence, Outcome};
use mainstay_model::{ByteSize, Count, ExitStatus, Result, StoreKind};
use mainstay_ops::wal::fetch::{self, AHEAD_COUNT_MAX, FetchRequest, Fetched};
use mainstay_ops::wal::import::{self, ImportContext, ImportReport};
use serde_json::{Map, Value, json};

use super::close;
use super::plan::PlanReport;
use crate::printer::{Look, Report, Tone};
use crate::wiring::Session;

/// Added to the exit status of whatever keeps a file from being fetched.
const TROUBLE: u8 = 200;

/// The commands below `wal`.
#[derive(Debug, Subcommand)]
pub(crate) enum WalCommand {
    /// Write one file of captured WAL: a server's restore_command
    Fetch(FetchArgs),
    /// Bring what an archive_command has kept into the repository
    Import(ImportArgs),
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

/// Arguments of `wal import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The folder that the server's archive_command copies to, plain, .gz or .zst; it is only read
    dir: PathBuf,
    /// Whose WAL it is, by fingerprint, when that server is not the configured one or is gone; nothing is asked of it then
    #[arg(long, value_name = "FINGERPRINT")]
    server: Option<String>,
    /// Show what would be brought and what is missing, and do nothing
    #[arg(long)]
    dry_run: bool,
}

impl WalCommand {
    /// The operation's name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Fetch(_) => "wal.fetch",
            Self::Import(_) => import::OPERATION,
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
    match command {
        WalCommand::Fetch(args) => fetch_file(args, session).await,
        WalCommand::Import(args) => import_archive(&args, session).await,
    }
}

async fn fetch_file(args: FetchArgs, session: &Session) -> Result<ExitStatus> {
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

async fn import_archive(args: &ImportArgs, session: &Session) -> Result<ExitStatus> {
    let folder = session.path(&args.dir);
    let target = match &args.server {
        Some(server) => {
            session.absent_target(StoreKind::Postgres, server.clone(), folder.display().to_string())?
        }
        None => session.target(session.probe(StoreKind::Postgres).await?.as_ref()).await?,
    };
    let clock = session.clock.as_ref();
    if args.dry_run {
        let repository = session.existing_repository().await?;
        let plan = import::plan(repository.as_ref(), target, &folder, clock).await?;
        return Ok(session.printer.report(&PlanReport::new(plan, None, clock.now())?));
    }
    // What cannot be imported is told before a repository is made for it.
    let existing = session.existing_repository().await?;
    let plan = import::plan(existing.as_ref(), target, &folder, clock).await?;
    let repository = match existing {
        Some(repository) => repository,
        None => session.repository_or_create().await?,
    };
    let guard = session.guard(&repository);
    let permit = guard.permit(&plan, &BackupEvidence::default(), &session.consent(None)?).await?;
    let (holder, observer) = (session.holder(), session.printer.progress());
    let context = ImportContext {
        repository: &repository,
        holder: &holder,
        lease_ttl: session.lease_ttl(),
        observer: observer.as_ref(),
        cancel: &session.cancel,
    };
    let imported = import::import(&context, &plan, &permit).await;
    let outcome = match &imported {
        Ok(report) => Outcome::Done {
            summary: format!("imported {} of WAL", ByteSize(report.bytes)),
            facts: json!({"segments": report.segments, "chains": report.chains, "gaps": report.gaps}),
        },
        Err(error) => Outcome::of_error(error),
    };
    let report = close(&guard, permit, imported, outcome).await?;
    Ok(session.printer.report(&Imported(report)))
}

struct Imported(ImportReport);

impl Report for Imported {
    fn json(&self) -> Map<String, Value> {
        match json!(self.0) {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }

    fn text(&self, look: &Look) -> String {
        let report = &self.0;
        let mut text = match report.segments {
            0 => "nothing was there to import\n".to_owned(),
            count => format!(
                "{} {} segments, {}, {} stored\n",
                look.paint(Tone::Strong, "imported"),
                Count(count),
                ByteSize(report.bytes),
                ByteSize(report.stored_bytes)
            ),
        };
        for part in &report.parts {
            text.push_str(&format!("  timeline {}: {} to {}\n", part.timeline, part.from, part.through));
        }
        if report.known > 0 {
            text.push_str(&format!("  {} segments were in the repository already\n", Count(report.known)));
        }
        for gap in &report.gaps {
            text.push_str(&format!(
                "  {} timeline {}: neither archive nor repository has {} to {}\n",
                look.paint(Tone::Warn, "gap in"),
                gap.timeline,
                gap.from,
                gap.until
            ));
        }
        text.push_str("what can be restored now: mainstay backup list --store postgres\n");
        text
    }
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
