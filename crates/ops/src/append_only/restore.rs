//! A folder made of such a set, from which a server starts.
//!
//! The whole set is read back and judged first. The files go into an empty folder, without what was torn at the end; the list of them is written last,
//! when they are durable: without it a server takes none of them. An interrupted restore is begun anew by the same plan.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use mainstay_guard::Permit;
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{
    Assumption, BlastRadius, ByteSize, Clock, Count, Effect, Error, ErrorKind, PLAN_FORMAT, Plan, PlanStep,
    Result, ResultExt, SetId, Severity, StoreKind, Target,
};
use mainstay_rdb::manifest::LogManifest;
use mainstay_repository::{Repository, Set};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::contents::{AppendOnlyFile, AppendOnlySetContents};
use super::inspect;
use crate::place::{Claimed, Standing, claim, standing, storage, sync_folder};

/// The registered name of a restore into empty places.
const OPERATION: &str = "restore.apply.new";
/// The parameter that tells such a plan from others.
const PARAMETER: &str = "append_only_into";
/// How many pieces wait for the disk.
const PIECE_COUNT_MAX: usize = 4;
/// Where the list is written before it gets its name.
const UNNAMED: &str = "mainstay-list.tmp";

/// What a restore works with.
pub struct AppendOnlyRestoreContext<'a> {
    /// Where the set is.
    pub repository: &'a Repository,
    /// Told how far it is.
    pub observer: &'a dyn Observer,
    /// Stops it at the next piece.
    pub cancel: &'a CancellationToken,
}

/// What a restore made.
#[derive(Debug)]
pub struct AppendOnlyRestoreReport {
    /// The set.
    pub set: SetId,
    /// Its contents.
    pub contents: AppendOnlySetContents,
    /// The folder.
    pub into: PathBuf,
}

/// The decided parameters.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    set: SetId,
    append_only_into: PathBuf,
}

/// Whether `plan` is one of such a restore.
pub fn is_restore(plan: &Plan) -> bool {
    plan.operation == OPERATION && plan.parameters.get(PARAMETER).is_some()
}

/// Decides a restore of `set` into the folder `into`, which is absolute.
///
/// # Errors
/// `Precondition` when something stands there; `Unsupported` when the set holds no append-only file.
pub fn plan_restore(set: &Set, into: &Path, environment: Target, clock: &dyn Clock) -> Result<Plan> {
    if !AppendOnlySetContents::is_of(set) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("backup set {} holds no append-only file", set.id()),
        )
        .with_state("nothing was changed")
        .with_hint("restore it into a server, or a throw-away one: `--into scratch`"));
    }
    let contents: AppendOnlySetContents = set.contents()?;
    set.check_readable()?;
    let record = &contents.append_only;
    let created_at = clock.now();
    let shown = into.display();
    let step = |mark, name: String, summary: String| PlanStep { name, mark, summary };
    let torn = match contents.torn_bytes() {
        0 => String::new(),
        bytes => format!("; {bytes} bytes of a command that was not written whole are left out"),
    };
    Ok(Plan {
        format: PLAN_FORMAT,
        operation: OPERATION.to_owned(),
        effect: Effect::Additive,
        target: environment,
        assumptions: assumptions(set, record.manifest.as_str(), into)?,
        steps: vec![
            step(' ', "verify the set".to_owned(), "every key and every command of it".to_owned()),
            step(
                '+',
                format!("write {shown}"),
                format!(
                    "{} files, {}: {} keys, and {} commands behind them{torn}",
                    record.files.len(),
                    ByteSize(contents.bytes()),
                    Count(contents.base_keys()),
                    Count(contents.commands())
                ),
            ),
            step(
                '+',
                format!("write {}", into.join(&record.manifest).display()),
                "last: from then on a server starts from them".to_owned(),
            ),
        ],
        blast_radius: BlastRadius {
            phrase: format!("restore {} into {shown}", set.id()),
            items: 0,
            bytes: 0,
        },
        parameters: serde_json::to_value(Parameters {
            set: set.id().clone(),
            append_only_into: into.to_owned(),
        })
        .map_err(|source| {
            Error::new(ErrorKind::Usage, "the folder's name is not UTF-8").with_source(source)
        })?,
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

fn assumptions(set: &Set, last: &str, into: &Path) -> Result<Vec<Assumption>> {
    let manifest = Assumption {
        name: format!("manifest of set {}", set.id()),
        value: set.manifest_blake3().to_string(),
    };
    let place =
        Assumption { name: into.display().to_string(), value: standing(into, last)?.name().to_owned() };
    Ok(vec![manifest, place])
}

/// Restores as `plan` says.
///
/// # Errors
/// `StalePlan` when something stands there by now; `Corrupt` when the set is damaged, and then nothing was written; `Locked` when another restore
/// works there; `Storage`; `Interrupted`. After a failure no server starts from the files; the same plan begins anew.
pub async fn restore(
    context: &AppendOnlyRestoreContext<'_>,
    plan: &Plan,
    permit: &Permit,
) -> Result<AppendOnlyRestoreReport> {
    permit.covers(plan)?;
    let parameters: Parameters = serde_json::from_value(plan.parameters.clone()).map_err(|source| {
        Error::new(ErrorKind::Usage, "the plan's parameters are not those of such a restore")
            .with_source(source)
    })?;
    let into = parameters.append_only_into;
    let set =
        context.repository.set(Some(StoreKind::Redis), &parameters.set).await.context("open backup set")?;
    let contents: AppendOnlySetContents = set.contents()?;
    check_names(&contents)?;
    check_unmoved(plan, &set, &contents, &into)?;
    let restoring = Restoring { context, set: &set, contents: &contents, into: &into };
    tokio::select! {
        done = restoring.run() => done?,
        () = context.cancel.cancelled() => {
            return Err(with_state(Error::new(ErrorKind::Interrupted, "the restore was stopped on request")));
        }
    }
    Ok(AppendOnlyRestoreReport { set: parameters.set, contents, into })
}

/// A manifest is somebody's text: its names lead to plain files in the folder.
fn check_names(contents: &AppendOnlySetContents) -> Result<()> {
    let record = &contents.append_only;
    let mut names = record.files.iter().map(|file| &file.name).chain([&record.manifest]);
    let is_plain = |name: &String| !name.starts_with('.') && !name.contains(['/', '\\']) && !name.is_empty();
    match names.find(|name| !is_plain(name)) {
        None => Ok(()),
        Some(_) => Err(Error::new(ErrorKind::Corrupt, "the set names a file that would lie elsewhere")
            .with_state("nothing was written")),
    }
}

/// What an interrupted restore left is none of the world's moves: the same plan goes on.
fn check_unmoved(plan: &Plan, set: &Set, contents: &AppendOnlySetContents, into: &Path) -> Result<()> {
    let mut seen = assumptions(set, &contents.append_only.manifest, into)?;
    for assumption in seen.iter_mut().filter(|one| one.value == Standing::Unfinished.name()) {
        if let Some(planned) = plan.assumptions.iter().find(|planned| planned.name == assumption.name) {
            assumption.value.clone_from(&planned.value);
        }
    }
    plan.check_assumptions(&seen)
}

fn with_state(error: Error) -> Error {
    let error = match error.state() {
        Some(_) => error,
        None => error.with_state("no server starts from what was written"),
    };
    match error.hint() {
        Some(_) => error,
        None => error.with_hint("apply the same plan again to begin anew"),
    }
}

/// One restore.
struct Restoring<'a> {
    context: &'a AppendOnlyRestoreContext<'a>,
    set: &'a Set,
    contents: &'a AppendOnlySetContents,
    into: &'a Path,
}

impl Restoring<'_> {
    async fn run(&self) -> Result<()> {
        self.check_whole().await?;
        let record = &self.contents.append_only;
        let list = self.set.read_all(&record.object, LogManifest::BYTES_MAX).await?;
        let claimed = claim(self.into, &record.manifest)?;
        self.context.observer.phase("write");
        self.context.observer.expect(Work { items: 0, bytes: self.contents.bytes() });
        for file in &record.files {
            let written = self.write(file).await;
            written.with_context(|| format!("write {}", file.name)).map_err(with_state)?;
        }
        self.context.observer.phase("make durable");
        let (into, name) = (self.into.to_owned(), record.manifest.clone());
        let settled = spawn_blocking(move || settle(&into, &name, &list, claimed)).await;
        settled
            .map_err(|_| Error::new(ErrorKind::Internal, "the writing thread ended early"))?
            .map_err(with_state)
    }

    /// Reads everything back; what is damaged is refused before the first write.
    async fn check_whole(&self) -> Result<()> {
        let report = inspect(self.context.repository, self.set, self.context.observer).await?;
        let critical = report.findings.iter().filter(|finding| finding.severity == Severity::Critical);
        let damaged: Vec<String> =
            critical.map(|finding| format!("{}: {}", finding.subject, finding.message)).collect();
        if damaged.is_empty() {
            return Ok(());
        }
        let message = format!("backup set {} is damaged: {}", self.set.id(), damaged.join("; "));
        Err(Error::new(ErrorKind::Corrupt, message)
            .with_state("nothing was written")
            .with_hint("choose another set: `mainstay backup list --store redis`"))
    }

    async fn write(&self, file: &AppendOnlyFile) -> Result<()> {
        let mut source = self.set.read(&file.object).await?;
        let path = self.into.join(&file.name);
        let (pieces, coming) = mpsc::channel::<Bytes>(PIECE_COUNT_MAX);
        let writing = spawn_blocking(move || write(&path, coming));
        // What was torn would be cut off by the server, which need not be allowed to (`aof-load-truncated`).
        let mut left = file.bytes.saturating_sub(file.torn_bytes);
        while let Some(piece) = source.next().await? {
            self.context.observer.advance(Work { items: 0, bytes: piece.len() as u64 });
            let piece = piece.slice(..piece.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
            left -= piece.len() as u64;
            if pieces.send(piece).await.is_err() {
                break; // The writer has failed; it says why.
            }
        }
        drop(pieces);
        writing.await.map_err(|_| Error::new(ErrorKind::Internal, "the writing thread ended early"))?
    }
}

fn write(path: &Path, mut pieces: mpsc::Receiver<Bytes>) -> Result<()> {
    let failed = |error| storage("write", path, error);
    let mut file = File::create_new(path).map_err(failed)?;
    while let Some(piece) = pieces.blocking_recv() {
        file.write_all(&piece).map_err(failed)?;
    }
    Ok(())
}

/// Makes the files durable, then names the list, then takes the marker away.
fn settle(into: &Path, name: &str, list: &[u8], claimed: Claimed) -> Result<()> {
    claimed.sync()?;
    if let Some(above) = into.parent() {
        sync_folder(above).map_err(|error| storage("sync", above, error))?;
    }
    let (unnamed, named) = (into.join(UNNAMED), into.join(name));
    let put = || {
        let mut file = File::create_new(&unnamed)?;
        file.write_all(list)?;
        file.sync_all()?;
        fs::rename(&unnamed, &named)?;
        sync_folder(into)
    };
    put().map_err(|error| storage("write", &named, error))?;
    claimed.end()
}
