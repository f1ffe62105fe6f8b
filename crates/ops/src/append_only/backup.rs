//! Taking such a backup: the files of one moment are held, pass into the repository as they are, and are judged on the way.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use mainstay_engine::{KeyServerInspection, KeyServerLook, ServerFacts};
use mainstay_guard::Permit;
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{
    BlastRadius, ByteSize, Clock, Effect, Error, ErrorKind, ObjectName, PLAN_FORMAT, Plan, PlanStep, Result,
    ResultExt, StoreKind, Target,
};
use mainstay_repository::{Repository, Set, SetWriter};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::contents::{AppendOnlyFile, AppendOnlyRecord, AppendOnlySetContents, FileForm};
use super::judge::{FileJudge, check_end};
use super::links::{Held, Links, manifest_name};
use crate::backup::OPERATION;
use crate::place::storage;

/// The parameter of a plan that names the folder.
pub const PARAMETER: &str = "append_only_dir";
/// The role of the server's list of its files.
pub(super) const ROLE_MANIFEST: &str = "append_only_manifest";
/// The role of a database file.
const ROLE_KEYS: &str = "append_only_keys";
/// The role of a file of commands.
const ROLE_COMMANDS: &str = "append_only_commands";
/// How much of a file is read at once.
const PIECE_BYTES: usize = 1024 * 1024;
/// How many pieces wait to be stored.
const PIECE_COUNT_MAX: usize = 4;

/// What a backup works with.
pub struct AppendOnlyBackupContext<'a> {
    /// The server whose files they are.
    pub server: &'a dyn KeyServerInspection,
    /// Where the set goes.
    pub repository: &'a Repository,
    /// Who runs this, for the lease: `user@host`.
    pub holder: &'a str,
    /// Tells the time.
    pub clock: &'a dyn Clock,
    /// Told how far it is.
    pub observer: &'a dyn Observer,
    /// Stops it; nothing is kept then.
    pub cancel: &'a CancellationToken,
}

/// What a backup made.
#[derive(Debug)]
pub struct AppendOnlyBackupReport {
    /// The new set.
    pub set: Set,
    /// Its contents.
    pub contents: AppendOnlySetContents,
    /// Bytes in the repository.
    pub stored_bytes: ByteSize,
    /// How often the server had rewritten its file meanwhile, so that the links were made anew.
    pub retries: u64,
}

/// The decided parameters.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    append_only_dir: PathBuf,
}

/// Whether `plan` is one of such a backup.
pub fn is_backup(plan: &Plan) -> bool {
    plan.operation == OPERATION && plan.parameters.get(PARAMETER).is_some()
}

/// Says what a backup of the append-only file in `folder` would do, which is that of the server behind `target`.
///
/// # Errors
/// `Precondition` when the server keeps no such file, or the folder holds none; the server's.
pub async fn plan_backup(
    server: &dyn KeyServerInspection,
    folder: &Path,
    target: Target,
    clock: &dyn Clock,
) -> Result<Plan> {
    check_server(&server.look().await?)?;
    let name = manifest_name(folder)?;
    let created_at = clock.now();
    let step = |name: &str, summary: String| PlanStep { name: name.to_owned(), mark: ' ', summary };
    let shown = folder.display();
    Ok(Plan {
        format: PLAN_FORMAT,
        operation: OPERATION.to_owned(),
        effect: Effect::Additive,
        blast_radius: BlastRadius { phrase: format!("back up {}", target.environment), items: 0, bytes: 0 },
        target,
        assumptions: Vec::new(),
        steps: vec![
            step("hold the files", format!("that {name} in {shown} names, by hard links beside that folder")),
            step("read the files", "as they were then; the links go with the end of the backup".to_owned()),
        ],
        parameters: serde_json::to_value(Parameters { append_only_dir: folder.to_owned() }).map_err(
            |source| Error::new(ErrorKind::Usage, "the folder's name is not UTF-8").with_source(source),
        )?,
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

fn check_server(look: &KeyServerLook) -> Result<()> {
    if look.persistence.log_on {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Precondition,
        "the server keeps no append-only file: what lies in its folder is old",
    )
    .with_state("nothing was stored")
    .with_hint("take the backup without --append-only-dir, or declare `appendonly = true` in [redis.policy]"))
}

/// Makes a backup set as `plan` says.
///
/// # Errors
/// `Precondition` and `Locked` as the files cannot be held; `Corrupt` when one of them is damaged; `Interrupted` when cancelled; the server's and the
/// repository's. No set was made then.
pub async fn create(
    context: &AppendOnlyBackupContext<'_>,
    plan: &Plan,
    permit: &Permit,
) -> Result<AppendOnlyBackupReport> {
    permit.covers(plan)?;
    let parameters: Parameters = serde_json::from_value(plan.parameters.clone()).map_err(|source| {
        Error::new(ErrorKind::Usage, "the plan's parameters are not those of such a backup")
            .with_source(source)
    })?;
    let look = context.server.look().await?;
    check_server(&look)?;
    context.observer.phase("hold the files");
    let folder = parameters.append_only_dir;
    let held_at = context.clock.now();
    let links = {
        let folder = folder.clone();
        spawn_blocking(move || Links::make(&folder)).await
    };
    let links = links.map_err(|_| Error::new(ErrorKind::Internal, "the linking thread ended early"))??;
    let begun = context.repository.begin_set(StoreKind::Redis, context.holder).await;
    let writer = begun.context("begin backup set")?;
    let made = tokio::select! {
        made = store(context, &links, &writer) => made,
        () = context.cancel.cancelled() => {
            Err(Error::new(ErrorKind::Interrupted, "the backup was stopped on request"))
        }
    };
    let files = match made {
        Ok(files) => files,
        Err(error) => return Err(writer.give_up(error).await),
    };
    let record = AppendOnlyRecord {
        folder,
        manifest: links.manifest_name.clone(),
        object: ObjectName::from_parts([links.manifest_name.as_str()]),
        held_at,
        files,
    };
    let server = ServerFacts {
        version: look.version,
        topology: look.mode,
        fingerprint: plan.target.fingerprint.clone(),
        address: plan.target.address.clone(),
        part: None,
    };
    let contents =
        AppendOnlySetContents { environment: plan.target.environment.clone(), server, append_only: record };
    let set = writer.commit(&contents).await.context("write manifest")?;
    let stored_bytes = ByteSize(set.manifest().stored_bytes());
    Ok(AppendOnlyBackupReport { set, contents, stored_bytes, retries: links.retries as u64 })
}

async fn store(
    context: &AppendOnlyBackupContext<'_>,
    links: &Links,
    writer: &SetWriter,
) -> Result<Vec<AppendOnlyFile>> {
    context.observer.phase("back up");
    let bytes = links.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add);
    context.observer.expect(Work { items: 0, bytes });
    let mut files = Vec::new();
    for (number, held) in (1..).zip(&links.files) {
        let stored = store_file(context.observer, held, links.path(&held.name), writer).await;
        let file = stored.with_context(|| format!("store {}", held.name))?;
        check_end_of(&file, number == links.files.len())?;
        files.push(file);
    }
    let name = ObjectName::from_parts([links.manifest_name.as_str()]);
    let text = Bytes::from(links.manifest.text());
    writer.put(&name, ROLE_MANIFEST, text).await.with_context(|| format!("store {name}"))?;
    Ok(files)
}

fn check_end_of(file: &AppendOnlyFile, is_last: bool) -> Result<()> {
    let found = super::judge::Found { torn_bytes: file.torn_bytes, ..super::judge::Found::default() };
    check_end(&found, is_last).map_err(|fault| damaged(&file.name, &fault))
}

fn damaged(name: &str, fault: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("{name} of the server is damaged: {fault}")).with_hint(
        "`BGREWRITEAOF` makes new files of what the server has in memory; take a backup without --append-only-dir now",
    )
}

/// Passes a file on to the repository and to the judge.
async fn store_file(
    observer: &dyn Observer,
    held: &Held,
    path: PathBuf,
    writer: &SetWriter,
) -> Result<AppendOnlyFile> {
    let role = match held.form {
        FileForm::Keys => ROLE_KEYS,
        FileForm::Commands => ROLE_COMMANDS,
    };
    let object = ObjectName::from_parts([held.name.as_str()]);
    let mut sink = writer.object(&object, role).await?;
    let mut judge = FileJudge::begin(held.form)?;
    let (pieces, mut coming) = mpsc::channel(PIECE_COUNT_MAX);
    let bytes = held.bytes;
    let reading = spawn_blocking(move || read(&path, bytes, &pieces));
    while let Some(piece) = coming.recv().await {
        observer.advance(Work { items: 0, bytes: piece.len() as u64 });
        judge.bytes(piece.clone()).await;
        sink.write(piece).await?;
    }
    reading.await.map_err(|_| Error::new(ErrorKind::Internal, "the reading thread ended early"))??;
    sink.finish().await?;
    let judged = spawn_blocking(|| judge.end()).await;
    let judged = judged.map_err(|_| Error::new(ErrorKind::Internal, "the walk over the file broke off"))?;
    let found = judged.map_err(|error| match error.kind() {
        ErrorKind::Corrupt => damaged(&held.name, &error.to_string()),
        _ => error,
    })?;
    Ok(AppendOnlyFile {
        name: held.name.clone(),
        form: held.form,
        object,
        bytes: found.bytes,
        torn_bytes: found.torn_bytes,
        databases: found.databases,
        commands: found.commands,
    })
}

/// Reads the first `bytes` of a file; what was appended since is of a later moment.
fn read(path: &Path, bytes: u64, pieces: &mpsc::Sender<Bytes>) -> Result<()> {
    let failed = |error| storage("read", path, error);
    let mut file = File::open(path).map_err(failed)?.take(bytes);
    loop {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        (&mut file).take(PIECE_BYTES as u64).read_to_end(&mut piece).map_err(failed)?;
        // Who stores has failed and says why.
        if piece.is_empty() || pieces.blocking_send(Bytes::from(piece)).is_err() {
            return Ok(());
        }
    }
}
