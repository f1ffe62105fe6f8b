//! Unpacking a set into folders that a server starts from.
//!
//! The plan names every folder and what stands there; [`restore`] looks again, reads the whole set back, and only then writes. What it writes
//! becomes a server with the last file, `global/pg_control`: until that is durable, and everything before it, no server starts from it. An
//! interrupted restore is begun anew by the same plan.
//!
//! # What is read back before the first write
//! Every stored byte, compared with the hashes that the manifest is sealed with. Of a set whose last verification found just this manifest sound
//! no more is needed: the bytes are those that were sound. Any other set is judged as by a verification.
//!
//! # Chains
//! A set that builds on others is unpacked after them, oldest first: each gives the files that no newer one holds whole, and its changes are
//! written into the files that are there (`combine`). No list of a server knows the files that come of it. What is proven of them: every
//! byte comes from an archive that is what its server read; every page has the checksum of its place in its relation, read back from the
//! disk; and the list that is put beside them, for the next who wants to know, holds their sums.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use mainstay_basebackup::{
    CONTROL_FILE, LABEL_FILE, MANIFEST_BYTES_MAX, SeenFile, combined_manifest, incremental_path,
};
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

use super::chain::open_chain;
use super::combine::Combination;
use super::contents::ArchiveRecord;
use super::damage::KnownDamage;
use super::inspect::{OBJECT_COUNT_MAX, combination, inspect};
use super::read_back::read_back;
use super::recovery::{FetchCommand, Recovery};
use super::unpack::{Control, Destination, unpack};
use super::{ClusterSetContents, first_of, judge_options};
use crate::place::{Claimed, claim, standing, storage, sync_folder};

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
    fn of(plan: &Plan) -> Result<Self> {
        serde_json::from_value(plan.parameters.clone()).map_err(|source| {
            Error::new(ErrorKind::Usage, "the plan's parameters are not those of such a restore")
                .with_source(source)
        })
    }

    fn folders(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(self.into.as_path())
            .chain(self.tablespaces.iter().map(|place| place.folder.as_path()))
    }

    /// Where the file lies that the lists call `path`.
    fn file(&self, path: &str) -> Result<PathBuf> {
        let of_tablespace = path.strip_prefix("pg_tblspc/").and_then(|rest| rest.split_once('/'));
        match of_tablespace.and_then(|(oid, inside)| Some((oid.parse().ok()?, inside))) {
            None => Ok(self.into.join(path)),
            Some((oid, inside)) => Ok(self.place(Some(oid))?.join(inside)),
        }
    }

    fn folder(&self, archive: &ArchiveRecord) -> Result<&Path> {
        self.place(archive.oid())
    }

    fn place(&self, oid: Option<u32>) -> Result<&Path> {
        match oid {
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

/// The set that a plan restores.
pub(super) fn set_of(plan: &Plan) -> Result<SetId> {
    Parameters::of(plan).map(|parameters| parameters.set)
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
        let value = standing(folder, CONTROL_FILE)?.name().to_owned();
        all.push(Assumption { name: folder.display().to_string(), value });
    }
    Ok(all)
}

fn steps(contents: &ClusterSetContents, parameters: &Parameters) -> Result<Vec<PlanStep>> {
    let step = |mark, name: String, summary: String| PlanStep { name, mark, summary };
    let verified = match contents.chain.len() {
        0 => "every file and page of it".to_owned(),
        count => format!("every file and page of it, and of the {count} sets that it builds on"),
    };
    let mut steps = vec![step(' ', "verify the set".to_owned(), verified)];
    if contents.damaged_pages > 0 {
        let told =
            format!("{} pages were damaged on the server, and will be here", Count(contents.damaged_pages));
        steps.push(step('!', "write damaged pages".to_owned(), told));
    }
    let before = contents.chain.iter().map(|earlier| earlier.set.to_string()).collect::<Vec<_>>();
    if !before.is_empty() {
        steps.push(step(
            '+',
            "write what has not changed".to_owned(),
            format!("since {}", before.join(", ")),
        ));
    }
    for archive in &contents.archives {
        let folder = parameters.folder(archive)?.display().to_string();
        let of_what = if contents.chain.is_empty() { "" } else { " of changes" };
        let amount = format!("{} files, {}{of_what}", Count(archive.files), ByteSize(archive.bytes));
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
    let last = parameters.into.join(CONTROL_FILE).display().to_string();
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
    let parameters = Parameters::of(plan)?;
    check_apart(&parameters)?;
    let set = context
        .repository
        .set(Some(StoreKind::Postgres), &parameters.set)
        .await
        .context("open backup set")?;
    let contents: ClusterSetContents = set.contents()?;
    check_unmoved(plan, &set, &parameters)?;
    let chain = open_chain(context.repository, &set, &contents).await.map_err(refused)?;
    let work = Restoring { context, set: &set, contents: &contents, chain: &chain, parameters: &parameters };
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
        if assumption.value == crate::place::Standing::Unfinished.name()
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
    /// The sets that it builds on and itself, oldest first.
    chain: &'a [(Set, ClusterSetContents)],
    parameters: &'a Parameters,
}

impl Restoring<'_> {
    async fn run(&self) -> Result<()> {
        self.check_sets_whole().await?;
        if let Some(recovery) = &self.parameters.recovery {
            recovery.check_log(self.context.repository, self.context.observer).await?;
        }
        let combination = Arc::new(combination(self.chain).await.map_err(refused)?);
        let claimed = self.claim()?;
        let control = self.unpack(&combination).await.map_err(with_state)?;
        self.put_file_list(&combination).await.map_err(with_state)?;
        if let Some(recovery) = &self.parameters.recovery {
            recovery.arm(&self.parameters.into, self.context.fetch).map_err(with_state)?;
        }
        self.settle(control, claimed).await.map_err(with_state)
    }

    /// Reads everything back; what is damaged is refused before the first write.
    async fn check_sets_whole(&self) -> Result<()> {
        let mut earlier = None;
        for (set, contents) in self.chain {
            self.check_set_whole(set, earlier).await?;
            earlier = Some(contents);
        }
        Ok(())
    }

    async fn check_set_whole(&self, set: &Set, earlier: Option<&ClusterSetContents>) -> Result<()> {
        let ClusterRestoreContext { repository, observer, .. } = *self.context;
        let is_known = set.verdict().await?.is_some_and(|record| record.is_sound());
        let findings = if is_known {
            repository.verify_stored(set, OBJECT_COUNT_MAX, observer).await?.findings
        } else {
            inspect(repository, set, earlier, observer).await?.findings
        };
        let damaged: Vec<String> = findings
            .iter()
            .filter(|finding| finding.severity == Severity::Critical)
            .map(|finding| format!("{}: {}", finding.subject, finding.message))
            .collect();
        if damaged.is_empty() {
            return Ok(());
        }
        let told = damaged.join("; ");
        Err(refused(Error::new(ErrorKind::Corrupt, format!("backup set {} is damaged: {told}", set.id()))))
    }

    fn claim(&self) -> Result<Vec<Claimed>> {
        self.parameters.folders().map(|folder| claim(folder, CONTROL_FILE)).collect()
    }

    /// Unpacks every archive, set by set; gives the control file, which is not written yet.
    async fn unpack(&self, combination: &Arc<Combination>) -> Result<Control> {
        self.context.observer.phase("write");
        let bytes = self.chain.iter().map(|(_, contents)| contents.bytes()).fold(0, u64::saturating_add);
        self.context.observer.expect(Work { items: 0, bytes });
        let places = self.parameters.tablespaces.iter().map(|place| (place.oid, place.folder.clone()));
        let links: Arc<BTreeMap<u32, PathBuf>> = Arc::new(places.collect());
        let mut control = None;
        for (number, (set, contents)) in self.chain.iter().enumerate() {
            // A tablespace that the last set does not hold is no more, and has no place.
            let wanted = |archive: &&ArchiveRecord| {
                archive.oid().is_none_or(|oid| links.contains_key(&oid)) || combination.is_last(number)
            };
            let archives = contents.archives.iter().filter(wanted).map(|archive| {
                let (links, combination) = (Arc::clone(&links), Arc::clone(combination));
                async move {
                    let folder = self.parameters.folder(archive)?.to_owned();
                    let to = Destination { oid: archive.oid(), folder, links, number, combination };
                    let unpacked = self.unpack_one(set, archive, to).await;
                    unpacked.with_context(|| format!("unpack {} of {}", archive.object, set.id()))
                }
            });
            let unpacked = futures::stream::iter(archives).buffer_unordered(OBJECT_COUNT_MAX);
            let found: Vec<Option<Control>> = unpacked.try_collect().await?;
            control = found.into_iter().flatten().next();
        }
        control.ok_or_else(|| Error::new(ErrorKind::Corrupt, "the set holds no control file"))
    }

    async fn unpack_one(
        &self,
        set: &Set,
        archive: &ArchiveRecord,
        to: Destination,
    ) -> Result<Option<Control>> {
        let mut source = set.read(&archive.object).await?;
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

    /// Puts the server's list of files beside them, for `pg_verifybackup`; of files that were put together with what they are now.
    async fn put_file_list(&self, combination: &Combination) -> Result<()> {
        let mut list = self.set.read_all(&self.contents.file_list, MANIFEST_BYTES_MAX).await?;
        if !combination.is_one_set() {
            let replaced = self.read_back(combination).await?;
            let combined = combined_manifest(&list, &replaced);
            list = combined.map_err(|error| Error::new(ErrorKind::Corrupt, error.to_string()))?.into();
        }
        let path = self.parameters.into.join("backup_manifest");
        on_a_thread(move || std::fs::write(&path, list).map_err(|error| storage("write", &path, error))).await
    }

    /// Reads back what was put together, and judges it: by the names that the last server's list has for it, what it is now.
    async fn read_back(&self, combination: &Combination) -> Result<HashMap<String, SeenFile>> {
        self.context.observer.phase("read back");
        let files = combination.files().chain([LABEL_FILE]);
        let files = files.map(|path| Ok((path.to_owned(), self.parameters.file(path)?)));
        let files: Vec<(String, PathBuf)> = files.collect::<Result<_>>()?;
        let contents = self.contents;
        let options = judge_options(contents.checksum, contents.page_checksums, contents.begin, false);
        let known_damage = KnownDamage::of(self.chain.iter().map(|(_, contents)| contents));
        let seen = read_back(files, options).await?;
        let unknown: Vec<String> = seen.iter().flat_map(|seen| known_damage.unknown(seen)).collect();
        if !unknown.is_empty() {
            let told = first_of(&unknown);
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("what was put together has damaged pages: {told}"),
            ));
        }
        let listed = |file: SeenFile| match file.path.as_str() {
            LABEL_FILE => (LABEL_FILE.to_owned(), file),
            path => (incremental_path(path), file),
        };
        Ok(seen.into_iter().flat_map(|seen| seen.files).map(listed).collect())
    }

    /// Makes everything durable, then writes the control file, then takes the markers away.
    async fn settle(&self, control: Control, claimed: Vec<Claimed>) -> Result<()> {
        self.context.observer.phase("make durable");
        let folders: Vec<PathBuf> = self.parameters.folders().map(Path::to_owned).collect();
        let into = self.parameters.into.clone();
        on_a_thread(move || {
            claimed.iter().try_for_each(Claimed::sync)?;
            for above in folders.iter().filter_map(|folder| folder.parent()) {
                sync_folder(above).map_err(|error| storage("sync", above, error))?;
            }
            // The places of tablespaces are marked no more before a server can start: their marks would let another restore empty them.
            let mut claimed = claimed.into_iter();
            let data_directory = claimed.next();
            claimed.try_for_each(Claimed::end)?;
            control.put(&into)?;
            data_directory.map_or(Ok(()), Claimed::end)
        })
        .await
    }
}

/// Says that nothing was written, and of what is damaged what to do.
fn refused(error: Error) -> Error {
    let error = error.with_state("nothing was written");
    match error.kind() {
        ErrorKind::Corrupt => error.with_hint("choose another set: `mainstay backup list --store postgres`"),
        _ => error,
    }
}

/// Does what waits for the disk where it may wait.
async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    spawn_blocking(work).await.map_err(|source| {
        Error::new(ErrorKind::Internal, "the writing thread ended early").with_source(source)
    })?
}
