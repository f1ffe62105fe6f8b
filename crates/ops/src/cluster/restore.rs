//! Unpacking a set into folders that a server starts from.
//!
//! The plan names every folder and what stands there; [`restore`] looks again, reads the whole set back, and only then writes. What it writes
//! becomes a server with the last file, `global/pg_control`: until that is durable, and everything before it, no server starts from it. An
//! interrupted restore is begun anew by the same plan.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mainstay_basebackup::MANIFEST_BYTES_MAX;
use mainstay_guard::Permit;
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{
    Assumption, BlastRadius, ByteSize, Clock, Count, Effect, Error, ErrorKind, PLAN_FORMAT, Plan, PlanStep,
    Result, ResultExt, SetId, Severity, StoreKind, Target,
};
use mainstay_repository::{Repository, Set};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::contents::ArchiveRecord;
use super::place::{Claimed, claim, standing, storage, sync_folder};
use super::recovery::{FetchCommand, Recovery};
use super::unpack::{Control, Destination, sync_tree, unpack};
use super::{ClusterSetContents, inspect};

/// The registered name of a restore into empty places.
const OPERATION: &str = "restore.apply.new";
/// How many pieces wait for the disk.
const PIECE_COUNT_MAX: usize = 4;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct ClusterRestoreRequest {
    /// The folder of the data directory, absolute.
    pub into: PathBuf,
    /// Tablespaces that come to lie elsewhere: where they lay, and where they go, absolute.
    pub tablespaces: BTreeMap<String, PathBuf>,
    /// The environment that this happens in.
    pub environment: Target,
    /// How the server is to recover further than the set.
    pub recovery: Option<Recovery>,
}

/// Where a tablespace goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestorePlace {
    /// The tablespace.
    pub oid: u32,
    /// Its folder.
    pub folder: PathBuf,
}

/// The decided parameters.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    set: SetId,
    into: PathBuf,
    tablespaces: Vec<RestorePlace>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recovery: Option<Recovery>,
}

impl Parameters {
    fn folders(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(self.into.as_path())
            .chain(self.tablespaces.iter().map(|place| place.folder.as_path()))
    }

    fn folder(&self, archive: &ArchiveRecord) -> Result<&Path> {
        match archive.oid() {
            None => Ok(&self.into),
            Some(oid) => self
                .tablespaces
                .iter()
                .find(|place| place.oid == oid)
                .map(|place| place.folder.as_path())
                .ok_or_else(|| {
                    Error::new(ErrorKind::Usage, format!("the plan has no place for tablespace {oid}"))
                }),
        }
    }
}

/// What a restore works with.
pub struct ClusterRestoreContext<'a> {
    /// Where the set is.
    pub repository: &'a Repository,
    /// How a server that recovers further than the set fetches WAL.
    pub fetch: &'a FetchCommand,
    /// Told how far it is.
    pub observer: &'a dyn Observer,
    /// Stops it at the next piece.
    pub cancel: &'a CancellationToken,
}

/// What a restore made.
#[derive(Debug)]
pub struct ClusterRestoreReport {
    /// The set.
    pub set: SetId,
    /// Its contents.
    pub contents: ClusterSetContents,
    /// The data directory.
    pub into: PathBuf,
    /// Where its tablespaces lie.
    pub tablespaces: Vec<RestorePlace>,
    /// How the server recovers further than the set.
    pub recovery: Option<Recovery>,
}

/// Decides a restore of `set`.
///
/// # Errors
/// `Precondition` when a folder is taken; `Usage` when two things would share one, or a tablespace is mapped that the set does not hold.
pub fn plan_restore(set: &Set, request: &ClusterRestoreRequest, clock: &dyn Clock) -> Result<Plan> {
    let contents: ClusterSetContents = set.contents()?;
    set.check_readable()?;
    let parameters = Parameters {
        set: set.id().clone(),
        into: request.into.clone(),
        tablespaces: places(&contents, &request.tablespaces)?,
        recovery: request.recovery.clone(),
    };
    check_apart(&parameters)?;
    let created_at = clock.now();
    let into = request.into.display();
    Ok(Plan {
        format: PLAN_FORMAT,
        operation: OPERATION.to_owned(),
        effect: Effect::Additive,
        target: request.environment.clone(),
        assumptions: assumptions(set, &parameters)?,
        steps: steps(&contents, &parameters)?,
        blast_radius: BlastRadius { phrase: format!("restore {} into {into}", set.id()), items: 0, bytes: 0 },
        parameters: serde_json::to_value(&parameters).map_err(|source| {
            Error::new(ErrorKind::Usage, "a folder's name is not UTF-8").with_source(source)
        })?,
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// Where each tablespace goes: where it is mapped to, else where it lay.
fn places(contents: &ClusterSetContents, mapped: &BTreeMap<String, PathBuf>) -> Result<Vec<RestorePlace>> {
    if let Some(unknown) =
        mapped.keys().find(|location| contents.tablespaces().all(|place| place.location != **location))
    {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("the set holds no tablespace that lay at {unknown}"),
        )
        .with_state("nothing was changed")
        .with_hint("`mainstay backup show` lists the tablespaces of a set"));
    }
    let place = |tablespace: &mainstay_engine::Tablespace| RestorePlace {
        oid: tablespace.oid,
        folder: mapped
            .get(&tablespace.location)
            .cloned()
            .unwrap_or_else(|| PathBuf::from(&tablespace.location)),
    };
    Ok(contents.tablespaces().map(place).collect())
}

/// No folder may lie in another, or be given twice.
fn check_apart(parameters: &Parameters) -> Result<()> {
    let folders: Vec<&Path> = parameters.folders().collect();
    for (index, one) in folders.iter().enumerate() {
        if !one.is_absolute() {
            return Err(Error::new(ErrorKind::Usage, format!("{} is no absolute path", one.display())));
        }
        let mut others = folders.iter().enumerate().filter(|(other, _)| *other != index);
        if let Some((_, other)) = others.find(|(_, other)| one.starts_with(other)) {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("{} would lie in {}", one.display(), other.display()),
            )
            .with_state("nothing was changed")
            .with_hint("give each tablespace a place of its own: `--tablespace OLD=NEW`"));
        }
    }
    Ok(())
}

fn assumptions(set: &Set, parameters: &Parameters) -> Result<Vec<Assumption>> {
    let mut all = vec![Assumption {
        name: format!("manifest of set {}", set.id()),
        value: set.manifest_blake3().to_string(),
    }];
    for folder in parameters.folders() {
        let value = standing(folder)?.name().to_owned();
        all.push(Assumption { name: folder.display().to_string(), value });
    }
    Ok(all)
}

fn steps(contents: &ClusterSetContents, parameters: &Parameters) -> Result<Vec<PlanStep>> {
    let step = |mark, name: String, summary: String| PlanStep { name, mark, summary };
    let mut steps = vec![step(' ', "verify the set".to_owned(), "every file and page of it".to_owned())];
    for archive in &contents.archives {
        let folder = parameters.folder(archive)?.display().to_string();
        let amount = format!("{} files, {}", Count(archive.files), ByteSize(archive.bytes));
        let moved = archive.tablespace.as_ref().filter(|place| place.location != folder);
        steps.push(step(
            '+',
            format!("write {folder}"),
            match moved {
                Some(place) => format!("{amount}, which lay at {}", place.location),
                None => amount,
            },
        ));
    }
    if let Some(recovery) = &parameters.recovery {
        let (asked, stop, timeline) = (recovery.asked_for(), recovery.stop, recovery.timeline);
        steps.insert(
            1,
            step(' ', "verify WAL".to_owned(), format!("every slice from {} to {stop}", recovery.from)),
        );
        let told = format!("the server recovers to {asked}: up to {stop} on timeline {timeline}");
        steps.push(step('+', "write recovery.signal".to_owned(), told));
    }
    let last = parameters.into.join(mainstay_basebackup::CONTROL_FILE).display().to_string();
    steps.push(step('+', format!("write {last}"), "last: from then on a server starts".to_owned()));
    Ok(steps)
}

/// Restores as `plan` says.
///
/// # Errors
/// `StalePlan` when something stands elsewhere than it did; `Corrupt` when the set is damaged, and then nothing was written; `Locked` when
/// another restore works there; `Storage`; `Interrupted`. After a failure no server starts from the folder; the same plan begins anew while
/// it is fresh.
pub async fn restore(
    context: &ClusterRestoreContext<'_>,
    plan: &Plan,
    permit: &Permit,
) -> Result<ClusterRestoreReport> {
    permit.covers(plan)?;
    let parameters: Parameters = serde_json::from_value(plan.parameters.clone()).map_err(|source| {
        Error::new(ErrorKind::Usage, "the plan's parameters are not those of such a restore")
            .with_source(source)
    })?;
    check_apart(&parameters)?;
    let set = context
        .repository
        .set(Some(StoreKind::Postgres), &parameters.set)
        .await
        .context("open backup set")?;
    let contents: ClusterSetContents = set.contents()?;
    check_unmoved(plan, &set, &parameters)?;
    let work = Restoring { context, set: &set, contents: &contents, parameters: &parameters };
    tokio::select! {
        done = work.run() => done?,
        () = context.cancel.cancelled() => {
            return Err(with_state(Error::new(ErrorKind::Interrupted, "the restore was stopped on request")));
        }
    }
    let Parameters { set, into, tablespaces, recovery } = parameters;
    Ok(ClusterRestoreReport { set, contents, into, tablespaces, recovery })
}

/// What an interrupted restore left is none of the world's moves: the same plan goes on.
fn check_unmoved(plan: &Plan, set: &Set, parameters: &Parameters) -> Result<()> {
    let mut seen = assumptions(set, parameters)?;
    for assumption in &mut seen {
        let planned = plan.assumptions.iter().find(|planned| planned.name == assumption.name);
        if assumption.value == super::place::Standing::Unfinished.name()
            && let Some(planned) = planned
        {
            assumption.value.clone_from(&planned.value);
        }
    }
    plan.check_assumptions(&seen)
}

fn with_state(error: Error) -> Error {
    let error = if error.state().is_some() {
        error
    } else {
        error.with_state("no server starts from what was written")
    };
    if error.hint().is_some() { error } else { error.with_hint("apply the same plan again to begin anew") }
}

/// One restore.
struct Restoring<'a> {
    context: &'a ClusterRestoreContext<'a>,
    set: &'a Set,
    contents: &'a ClusterSetContents,
    parameters: &'a Parameters,
}

impl Restoring<'_> {
    async fn run(&self) -> Result<()> {
        self.check_set_whole().await?;
        if let Some(recovery) = &self.parameters.recovery {
            recovery.check_log(self.context.repository, self.context.observer).await?;
        }
        let claimed = self.claim()?;
        let control = self.unpack().await.map_err(with_state)?;
        self.put_file_list().await.map_err(with_state)?;
        if let Some(recovery) = &self.parameters.recovery {
            recovery.arm(&self.parameters.into, self.context.fetch).map_err(with_state)?;
        }
        self.settle(control, claimed).await.map_err(with_state)
    }

    /// Reads everything back; what is damaged is refused before the first write.
    async fn check_set_whole(&self) -> Result<()> {
        let report = inspect(self.context.repository, self.set, self.context.observer).await?;
        let damaged: Vec<String> = report
            .findings
            .iter()
            .filter(|finding| finding.severity == Severity::Critical)
            .map(|finding| format!("{}: {}", finding.subject, finding.message))
            .collect();
        if damaged.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Corrupt,
            format!("backup set {} is damaged: {}", self.set.id(), damaged.join("; ")),
        )
        .with_state("nothing was written")
        .with_hint("choose another set: `mainstay backup list --store postgres`"))
    }

    fn claim(&self) -> Result<Vec<Claimed>> {
        self.parameters.folders().map(claim).collect()
    }

    /// Unpacks every archive; gives the control file, which is not written yet.
    async fn unpack(&self) -> Result<Control> {
        self.context.observer.phase("write");
        self.context.observer.expect(Work { items: 0, bytes: self.contents.bytes() });
        let links: BTreeMap<u32, PathBuf> =
            self.parameters.tablespaces.iter().map(|place| (place.oid, place.folder.clone())).collect();
        let mut control = None;
        for archive in &self.contents.archives {
            let folder = self.parameters.folder(archive)?.to_owned();
            let destination = Destination { oid: archive.oid(), folder, links: links.clone() };
            let unpacked = self.unpack_one(archive, destination).await;
            let found = unpacked.with_context(|| format!("unpack {}", archive.object))?;
            control = control.or(found);
        }
        control.ok_or_else(|| Error::new(ErrorKind::Corrupt, "the set holds no control file"))
    }

    async fn unpack_one(&self, archive: &ArchiveRecord, to: Destination) -> Result<Option<Control>> {
        let mut source = self.set.read(&archive.object).await?;
        let (pieces, waiting) = mpsc::channel(PIECE_COUNT_MAX);
        let writing = spawn_blocking(move || unpack(to, waiting));
        let mut ended = Ok(());
        loop {
            match source.next().await {
                Ok(Some(piece)) => {
                    let bytes = piece.len() as u64;
                    if pieces.send(piece).await.is_err() {
                        break; // The writer has failed; it says why.
                    }
                    self.context.observer.advance(Work { items: 0, bytes });
                }
                Ok(None) => break,
                Err(error) => {
                    ended = Err(error);
                    break;
                }
            }
        }
        drop(pieces);
        let written = writing.await.map_err(|source| {
            Error::new(ErrorKind::Internal, "the writing thread ended early").with_source(source)
        })?;
        ended.and(written)
    }

    /// Puts the server's list of files beside them, for `pg_verifybackup`.
    async fn put_file_list(&self) -> Result<()> {
        let bytes = self.set.read_all(&self.contents.file_list, MANIFEST_BYTES_MAX).await?;
        let path = self.parameters.into.join("backup_manifest");
        let written = spawn_blocking(move || {
            std::fs::write(&path, bytes).map_err(|error| storage("write", &path, error))
        });
        written.await.map_err(|source| {
            Error::new(ErrorKind::Internal, "the writing thread ended early").with_source(source)
        })?
    }

    /// Makes everything durable, then writes the control file, then takes the markers away.
    async fn settle(&self, control: Control, claimed: Vec<Claimed>) -> Result<()> {
        self.context.observer.phase("make durable");
        let folders: Vec<PathBuf> = self.parameters.folders().map(Path::to_owned).collect();
        let into = self.parameters.into.clone();
        let settled = spawn_blocking(move || {
            folders.iter().try_for_each(|folder| sync_tree(folder))?;
            for above in folders.iter().filter_map(|folder| folder.parent()) {
                sync_folder(above).map_err(|error| storage("sync", above, error))?;
            }
            control.put(&into)?;
            claimed.into_iter().try_for_each(Claimed::end)
        });
        settled.await.map_err(|source| {
            Error::new(ErrorKind::Internal, "the writing thread ended early").with_source(source)
        })?
    }
}
