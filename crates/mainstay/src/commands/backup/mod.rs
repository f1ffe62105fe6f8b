//! `backup create|list|log|show|verify|prune`, one file each; what they share is here, and in `making` what every `create` does.

pub(crate) mod create;
mod list;
pub(crate) mod log;
pub(crate) mod making;
mod prune;
mod show;
mod verify;
mod wal;

use std::str::FromStr;

use clap::{Args, Subcommand};
use mainstay_engine::{Consistency, Namespace};
use mainstay_model::{Error, ErrorKind, ExitStatus, IdError, Result, SetId, StoreKind};
use mainstay_ops::contents::{DocumentSetContents, SetContents};
use mainstay_repository::{Repository, Set};
use serde_json::{Value, json};

use crate::commands::cluster::refuse;
use crate::commands::logical::{self, ExportArgs};
use crate::printer::shown::moment;
use crate::printer::{Look, Tone};
use crate::wiring::Session;

/// How much is done at the same time with MongoDB unless it is said.
pub(crate) const PARALLEL_DEFAULT: u16 = 4;

/// The commands below `backup`.
#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    /// Take a backup of a store into the repository
    Create(Box<create::CreateArgs>),
    /// List the backup sets of the repository, and which moments can be restored
    List(list::ListArgs),
    /// Find in the captured change log what destroyed data
    Log(log::LogArgs),
    /// Show what a backup set holds
    Show(SetArgs),
    /// Read every byte of a backup set, and of the change log after it, back and record the result
    Verify(verify::VerifyArgs),
    /// Write the dump of a logical set to a file that stock pg_restore reads
    Export(ExportArgs),
    /// Remove what interrupted backups left behind
    Prune(prune::PruneArgs),
}

/// Which set is meant.
#[derive(Debug, Clone)]
pub(crate) enum SetChoice {
    /// The newest.
    Latest,
    /// This one.
    Id(SetId),
}

impl FromStr for SetChoice {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text == "latest" { Ok(Self::Latest) } else { text.parse().map(Self::Id) }
    }
}

/// Arguments of `backup show` and `backup verify`.
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// The set: its identifier, or `latest`
    #[arg(default_value = "latest")]
    pub(crate) set: SetChoice,
    /// The store whose latest set is meant [default: the one that is configured; mongo of several]
    #[arg(long)]
    pub(crate) store: Option<StoreKind>,
    /// PostgreSQL: the latest logical dump is meant, not the latest base backup
    #[arg(long)]
    logical: bool,
}

impl SetArgs {
    /// The set that is meant.
    ///
    /// # Errors
    /// As [`choose`]; `Usage` when several are meant, or `--logical` means nothing.
    async fn find(&self, repository: &Repository, session: &Session) -> Result<Set> {
        match (&self.set, session.store_or_usual(self.store)) {
            (SetChoice::Latest, StoreKind::Postgres) => {
                logical::choose_form(repository, &self.set, self.logical).await
            }
            (SetChoice::Latest, StoreKind::Redis) => {
                refuse(&[("logical", self.logical)], StoreKind::Redis)?;
                newest_of_redis(repository, session).await
            }
            (SetChoice::Latest, store) => {
                refuse(&[("logical", self.logical)], store)?;
                choose(repository, &self.set, store).await
            }
            (SetChoice::Id(id), store) => {
                refuse(&[("logical", self.logical)], format!("set {id}, which is named"))?;
                choose(repository, &self.set, store).await
            }
        }
    }
}

impl BackupCommand {
    /// The operation's name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Create(_) => mainstay_ops::backup::OPERATION,
            Self::List(_) => "backup.list",
            Self::Log(_) => "backup.log",
            Self::Show(_) => "backup.show",
            Self::Verify(_) => "backup.verify",
            Self::Export(_) => "backup.export",
            Self::Prune(_) => mainstay_ops::prune::OPERATION,
        }
    }
}

/// Runs a command below `backup`.
///
/// # Errors
/// The operation's.
pub(crate) async fn run(command: BackupCommand, session: &Session) -> Result<ExitStatus> {
    match command {
        BackupCommand::Create(args) => create::run(*args, session).await,
        BackupCommand::List(args) => list::run(&args, session).await,
        BackupCommand::Log(args) => log::run(args, session).await,
        BackupCommand::Show(args) => show::run(&args, session).await,
        BackupCommand::Verify(args) => verify::run(&args, session).await,
        BackupCommand::Export(args) => logical::export(&args, session).await,
        BackupCommand::Prune(args) => prune::run(&args, session).await,
    }
}

/// `database.collection`; the collection may hold dots.
pub(crate) fn parse_namespace(text: &str) -> Result<Namespace, String> {
    match text.split_once('.') {
        Some((database, collection)) if !database.is_empty() && !collection.is_empty() => {
            Ok(Namespace::new(database, collection))
        }
        _ => Err("expected database.collection".to_owned()),
    }
}

/// The set that `choice` means.
///
/// # Errors
/// `NotFound` when there is none; what the repository fails with.
pub(crate) async fn choose(repository: &Repository, choice: &SetChoice, store: StoreKind) -> Result<Set> {
    match choice {
        SetChoice::Id(id) => repository.set(None, id).await,
        SetChoice::Latest => repository.latest(store).await?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("the repository holds no backup set of {store}"))
                .with_hint(format!("`mainstay backup create --store {store}` makes one"))
        }),
    }
}

/// The newest set of the Redis that is configured, as far as it tells which one it is; else the newest of any.
///
/// # Errors
/// As [`choose`].
async fn newest_of_redis(repository: &Repository, session: &Session) -> Result<Set> {
    let kind = StoreKind::Redis;
    let newest = choose(repository, &SetChoice::Latest, kind).await?;
    // A set can be read without the server that it was taken from.
    let Ok(probe) = session.probe(kind).await else { return Ok(newest) };
    let Ok(facts) = probe.facts().await else { return Ok(newest) };
    let is_own =
        |set: &Set| SetContents::of(set).is_ok_and(|contents| contents.server() == facts.fingerprint);
    let mut sets = repository.sets(Some(kind)).await?.into_iter().filter_map(|entry| entry.into_set().ok());
    let own = sets.rfind(is_own);
    if own.is_none() {
        session.printer.notice(&format!(
            "warning: no set is of the Redis at {}; the newest, {}, is of another one",
            facts.address,
            newest.id()
        ));
    }
    Ok(own.unwrap_or(newest))
}

/// The moment a set shows, for people.
pub(crate) fn moment_of(consistency: &Consistency) -> String {
    match consistency {
        Consistency::ClusterTime { at } => format!("cluster time {at}, {}", moment(at.timestamp())),
        Consistency::DuringScan { reason } => format!("no single moment: {reason}"),
    }
}

/// A set as `--json` shows it.
fn set_json(set: &Set, contents: &DocumentSetContents) -> Value {
    let digest = contents.digest();
    json!({
        "id": set.id(),
        "store": set.kind(),
        "environment": contents.environment,
        "server": contents.server,
        "begun_at": set.manifest().begun_at,
        "completed_at": set.manifest().completed_at,
        "manifest": set.manifest_blake3(),
        "consistency": contents.consistency,
        "settled": contents.settled,
        "collections": contents.collections.len(),
        "documents": digest.documents,
        "bytes": digest.bytes,
        "users": contents.accounts.as_ref().map(|accounts| accounts.users.digest.documents),
        "roles": contents.accounts.as_ref().map(|accounts| accounts.roles.digest.documents),
        "stored_bytes": set.manifest().stored_bytes(),
        "digest": digest,
    })
}

/// The name of a fact, before it.
fn label(look: &Look, word: &str) -> String {
    look.paint(Tone::Faint, &format!("{word:8}"))
}
