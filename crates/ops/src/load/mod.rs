//! Load of a dump in mongodump's formats: judged first, then brought like a restore.
//!
//! [`Dump::open`] reads a file or folder to its end and checks whatever the form lets it check, checksums included, before anything is
//! planned. [`plan()`] decides which collections are meant and how each comes; [`apply()`] re-reads the dump, compares it with what was judged,
//! and hands its collections to `crate::placement`: loaded beside their names, proven by digest, put in place last.
//!
//! A dump that comes through a pipe comes but once. Its collections are loaded beside their names and put in place when their checksums have
//! come and are right, so it can fill names that are free and nothing else: [`plan()`] refuses to replace or merge from it.
//!
//! What belongs to the server (`admin`, `config`, `local`, `system.*`) is left out, and told; users and roles are merged when asked for,
//! without removing anybody. A load that fails removes what it was loading beside the names; what is in place stays.

mod archive;
mod chunks;
mod directory;
mod feed;
mod oplog;
mod patterns;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::BytesMut;
use futures::stream;
use jiff::SignedDuration;
use mainstay_archive::{Entry, EntryKind, Prelude, Role};
use mainstay_engine::{
    AccountStore, Accounts, CollectionKind, DocumentDigest, DocumentSink, DocumentSource, Namespace,
    document_frames,
};
use mainstay_guard::Permit;
use mainstay_journal::KeptLease;
use mainstay_model::progress::{Observer, Work as Amount};
use mainstay_model::{Assumption, Blake3, Clock, Error, ErrorKind, Plan, Result, ResultExt, RunId, Target};
use mainstay_repository::Repository;
use tokio::sync::mpsc;
use tokio::task::block_in_place;
use tokio_util::sync::CancellationToken;

use self::archive::{OPEN_COUNT_MAX, Reading, Wanted, keep, too_many_open};
use self::feed::{DumpContent, Source};
pub use self::oplog::OplogChoice;
use self::patterns::{Pattern, Renaming};
use crate::placement::run::{Event, Run};
use crate::placement::{
    Candidate, FinishSlots, ItemReport, Mode, Origin, Parameters, Placement, PlacementContext, SHADOW_PREFIX,
    Way, Wish, Work, amount, decide, existing_collections, leased, stoppable,
};

/// What happens to collections that exist.
pub use crate::placement::Mode as LoadMode;

/// The beginning of the registered names of loads.
pub const OPERATION: &str = "mongo.load";

/// How many collections of a folder are worked on at the same time.
const COLLECTION_COUNT_MAX: usize = 3;
/// How many collections beside the open ones may be under way: proven, indexed, put in place.
const FINISHING_COUNT_MAX: usize = 3;

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct LoadRequest {
    /// Patterns of the collections that are meant; none means all.
    pub include: Vec<String>,
    /// Patterns of those that are not.
    pub exclude: Vec<String>,
    /// Pairs of patterns, the old name and the new.
    pub renames: Vec<(String, String)>,
    /// What may happen to what exists.
    pub mode: Mode,
    /// How many connections load at the same time; at least 1.
    pub load_count_max: usize,
    /// Put collections in place although the server describes them otherwise than the dump: for another server version.
    pub accept_differences: bool,
    /// Whether users and roles are merged.
    pub accounts: bool,
    /// What becomes of the oplog.
    pub oplog: OplogChoice,
}

/// What a load works with.
pub struct LoadContext<'a> {
    /// The target, for reading: what exists, and the proof.
    pub source: &'a dyn DocumentSource,
    /// The target, for writing.
    pub sink: &'a dyn DocumentSink,
    /// The target's users and roles.
    pub accounts: &'a dyn AccountStore,
    /// Where journal and lease are kept, if there is one.
    pub repository: Option<&'a Repository>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who runs this, for the lease: `user@host`.
    pub holder: &'a str,
    /// How long the lease lives without being renewed.
    pub lease_ttl: SignedDuration,
    /// Told how far it is.
    pub observer: &'a dyn Observer,
    /// Stops at the next batch.
    pub cancel: &'a CancellationToken,
}

/// Where a dump is.
#[derive(Debug)]
pub enum DumpInput {
    /// An archive in a file, or files in a folder.
    Path(PathBuf),
    /// An archive that comes through a pipe.
    Pipe(File),
}

/// A dump, judged as far as that can be done before it is loaded.
pub struct Dump {
    input: Input,
    /// The version of the server it was taken from; empty when it is not told.
    pub server_version: String,
    found: Vec<Found>,
    accounts: Option<(Accounts, Option<String>)>,
    has_oplog: bool,
    /// How many collections are open at one time.
    open_max: usize,
    /// What was found, as one value; not for a pipe that is still to be read.
    stamp: Option<Blake3>,
}

enum Input {
    Archive(PathBuf),
    Folder(PathBuf),
    Pipe(Reading),
    /// A pipe that was read to its end.
    Spent,
}

/// One collection of a dump.
struct Found {
    /// Its position among the archive's entries.
    entry: usize,
    namespace: Namespace,
    kind: CollectionKind,
    metadata: String,
    digest: Option<DocumentDigest>,
    /// The file with its documents, in a folder.
    file: Option<PathBuf>,
}

/// How a dump that comes through a pipe is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PipeUse {
    /// To be loaded: its beginning is read.
    Load,
    /// To be judged only: it is read to its end.
    Judge,
}

impl Dump {
    /// Opens a dump and judges it.
    ///
    /// # Errors
    /// `Corrupt` when it is damaged or not whole; `Usage` when it is no dump; `NotFound`; `Storage` when it cannot be read; `Interrupted`.
    pub async fn open(
        input: DumpInput,
        pipe_use: PipeUse,
        observer: &dyn Observer,
        cancel: &CancellationToken,
    ) -> Result<Self> {
        observer.phase("check the dump");
        let opening = async {
            match input {
                DumpInput::Path(path) if path.is_dir() => Self::open_folder(path, observer),
                DumpInput::Path(path) => {
                    let (reading, bytes) = open_file(&path)?;
                    observer.expect(Amount { items: 0, bytes });
                    Self::judged(reading, Input::Archive(path), observer).await
                }
                DumpInput::Pipe(file) if pipe_use == PipeUse::Judge => {
                    Self::judged(Reading::begin(file), Input::Spent, observer).await
                }
                DumpInput::Pipe(file) => {
                    let mut reading = Reading::begin(file);
                    let prelude = reading.prelude().await?;
                    let open_max =
                        usize::try_from(prelude.header.concurrent_collections).unwrap_or(usize::MAX);
                    let mut dump = Self::of_prelude(&prelude, Input::Pipe(reading))?;
                    dump.open_max = open_max.clamp(1, OPEN_COUNT_MAX);
                    Ok(dump)
                }
            }
        };
        tokio::select! {
            opened = opening => opened.map_err(|error: Error| error.with_state("nothing was changed")),
            () = cancel.cancelled() => Err(
                Error::new(ErrorKind::Interrupted, "the load was stopped on request").with_state("nothing was changed")
            ),
        }
    }

    /// What it holds: each collection with its documents, as far as they are known.
    pub fn collections(&self) -> impl Iterator<Item = (&Namespace, Option<DocumentDigest>)> {
        self.found.iter().map(|found| (&found.namespace, found.digest))
    }

    /// Reads an archive to its end.
    async fn judged(mut reading: Reading, input: Input, observer: &dyn Observer) -> Result<Self> {
        let prelude = reading.prelude().await?;
        let mut dump = Self::of_prelude(&prelude, input)?;
        let judged = reading.judge(&prelude, observer).await?;
        if judged.open_max > OPEN_COUNT_MAX {
            return Err(too_many_open(OPEN_COUNT_MAX));
        }
        dump.open_max = judged.open_max.max(1);
        for found in &mut dump.found {
            found.digest = Some(judged.digests[found.entry]);
        }
        let oplog = prelude.entries.iter().position(|entry| entry.role() == Role::Oplog);
        dump.has_oplog = oplog.is_some_and(|entry| judged.digests[entry].documents > 0);
        dump.accounts =
            accounts_of(judged.accounts.into_iter().map(|(entry, bytes)| (&prelude.entries[entry], bytes)));
        dump.stamp = Some(dump.stamp());
        Ok(dump)
    }

    fn of_prelude(prelude: &Prelude, input: Input) -> Result<Self> {
        let found = prelude.entries.iter().enumerate().filter(|(_, entry)| entry.role() == Role::Ordinary);
        Ok(Self {
            input,
            server_version: prelude.header.server_version.clone(),
            found: found.map(|(position, entry)| Found::of(position, entry, None)).collect::<Result<_>>()?,
            accounts: None,
            has_oplog: prelude.entries.iter().any(|entry| entry.role() == Role::Oplog),
            open_max: 1,
            stamp: None,
        })
    }

    /// Reads every file of a folder.
    fn open_folder(path: PathBuf, observer: &dyn Observer) -> Result<Self> {
        block_in_place(|| {
            let folder = directory::look_through(&path, observer)?;
            let mut dump = Self {
                input: Input::Folder(path),
                server_version: folder.server_version,
                found: Vec::new(),
                accounts: None,
                has_oplog: false,
                open_max: 1,
                stamp: None,
            };
            let mut accounts = Vec::new();
            for (position, (entry, file)) in folder.entries.iter().enumerate() {
                match entry.role() {
                    Role::Ordinary => {
                        let mut found = Found::of(position, entry, file.clone())?;
                        let judged =
                            file.as_deref().map(|file| directory::judge(file, observer)).transpose()?;
                        found.digest = Some(judged.unwrap_or_default());
                        dump.found.push(found);
                    }
                    Role::Oplog => {
                        let judged =
                            file.as_deref().map(|file| directory::judge(file, observer)).transpose()?;
                        dump.has_oplog = judged.is_some_and(|digest| digest.documents > 0);
                    }
                    Role::Users | Role::Roles | Role::AuthVersion => {
                        let mut bytes = BytesMut::new();
                        if let Some(file) = file {
                            directory::gather(file, |more| keep(&mut bytes, more))
                                .with_context(|| format!("read {}", file.display()))?;
                        }
                        accounts.push((entry, bytes));
                    }
                }
            }
            if folder.entries.is_empty() {
                return Err(Error::new(ErrorKind::Usage, "the folder holds no dump")
                    .with_hint("name the folder that holds a folder for each database"));
            }
            dump.accounts = accounts_of(accounts.into_iter());
            dump.stamp = Some(dump.stamp());
            Ok(dump)
        })
    }

    /// One value for everything that was found.
    fn stamp(&self) -> Blake3 {
        let mut text = String::new();
        for Found { namespace, kind, metadata, digest, .. } in &self.found {
            text.push_str(&format!("{namespace}\0{kind:?}\0{metadata}\0{}\0", digest.unwrap_or_default()));
        }
        if let Some((accounts, _)) = &self.accounts {
            for documents in [&accounts.users, &accounts.roles, &accounts.version] {
                text.push_str(&Blake3::of(documents).to_string());
            }
        }
        Blake3::of(text.as_bytes())
    }
}

fn open_file(path: &Path) -> Result<(Reading, u64)> {
    let refuse = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::new(ErrorKind::NotFound, format!("there is no {}", path.display()))
        }
        _ => chunks::failed(&error).context(format!("open {}", path.display())),
    };
    let file = File::open(path).map_err(refuse)?;
    let bytes = file.metadata().map_err(refuse)?.len();
    Ok((Reading::begin(file), bytes))
}

impl Found {
    fn of(position: usize, entry: &Entry, file: Option<PathBuf>) -> Result<Self> {
        if let Some(fault) = metadata_fault(&entry.metadata) {
            return Err(Error::new(ErrorKind::Corrupt, fault)
                .context(format!("read the metadata of {}", entry.name())));
        }
        let kind = match entry.kind {
            // Texts of some tools tell more than their entries.
            EntryKind::Collection => definition_kind(&entry.metadata).unwrap_or(EntryKind::Collection),
            kind => kind,
        };
        Ok(Self {
            entry: position,
            namespace: Namespace::new(&entry.database, &entry.collection),
            kind: match kind {
                EntryKind::Collection => CollectionKind::Collection,
                EntryKind::View => CollectionKind::View,
                EntryKind::TimeSeries => CollectionKind::TimeSeries,
            },
            metadata: entry.metadata.clone(),
            digest: None,
            file,
        })
    }

    /// Why it is not loaded whatever is asked for.
    fn left_out_because(&self) -> Option<&'static str> {
        let Namespace { database, collection } = &self.namespace;
        match database.as_str() {
            "admin" | "config" | "local" => Some("it belongs to the server"),
            "mainstay" => Some("a marker must not travel to another environment"),
            _ if collection.starts_with("system.") && collection != "system.js" => {
                Some("it belongs to the server")
            }
            _ if collection.starts_with(SHADOW_PREFIX) => {
                Some("it is what an unfinished restore was loading")
            }
            _ => None,
        }
    }

    /// How many connections may load it.
    fn connections(&self, count_max: usize) -> usize {
        let metadata: serde_json::Value = serde_json::from_str(&self.metadata).unwrap_or_default();
        let capped = metadata.pointer("/options/capped");
        let is_capped = capped.is_some_and(|capped| {
            !matches!(capped, serde_json::Value::Bool(false) | serde_json::Value::Null)
        });
        // A capped collection keeps the order of insertion.
        if is_capped { 1 } else { count_max.max(1) }
    }
}

/// What is wrong with a metadata text; an empty one says nothing and is right.
fn metadata_fault(metadata: &str) -> Option<String> {
    if metadata.trim().is_empty() {
        return None;
    }
    match serde_json::from_str::<serde_json::Value>(metadata) {
        Ok(serde_json::Value::Object(_)) => None,
        Ok(_) => Some("it is no JSON object".to_owned()),
        Err(error) => Some(format!("it is not JSON: {error}")),
    }
}

/// The kind that a metadata text says or means.
fn definition_kind(metadata: &str) -> Option<EntryKind> {
    let metadata: serde_json::Value = serde_json::from_str(metadata).ok()?;
    if let Some(name) =
        metadata.get("type").and_then(serde_json::Value::as_str).filter(|name| !name.is_empty())
    {
        return Some(EntryKind::of_name(name));
    }
    let options = metadata.get("options")?;
    match (options.get("viewOn"), options.get("timeseries")) {
        (Some(_), _) => Some(EntryKind::View),
        (_, Some(_)) => Some(EntryKind::TimeSeries),
        _ => None,
    }
}

/// Users and roles, and the database that they are of when it is one.
fn accounts_of<'a>(found: impl Iterator<Item = (&'a Entry, BytesMut)>) -> Option<(Accounts, Option<String>)> {
    let (mut accounts, mut scope, mut any) = (Accounts::default(), None, false);
    for (entry, bytes) in found {
        any = true;
        if entry.collection.starts_with("$admin.") {
            scope = Some(entry.database.clone());
        }
        match entry.role() {
            Role::Users => accounts.users = bytes.freeze(),
            Role::Roles => accounts.roles = bytes.freeze(),
            // All of a server's versions may lie there; one of them is meant.
            Role::AuthVersion => {
                let bytes = bytes.freeze();
                let is_meant =
                    |frame: &&[u8]| frame.windows(b"authSchema".len()).any(|window| window == b"authSchema");
                let frames = document_frames(&bytes).filter_map(std::result::Result::ok);
                accounts.version =
                    { frames }.find(is_meant).map(bytes::Bytes::copy_from_slice).unwrap_or_default();
            }
            Role::Ordinary | Role::Oplog => {}
        }
    }
    (any && !accounts.version.is_empty()).then_some((accounts, scope))
}

/// Decides how `dump` comes to the server behind `source`.
///
/// # Errors
/// `Usage` for a pattern that cannot be; `Precondition` when a pattern or the whole selection matches nothing, two collections would have one
/// name, or a name is taken; `Unsupported` for an oplog, and for what a pipe does not allow.
pub async fn plan(
    dump: &Dump,
    source: &dyn DocumentSource,
    target: Target,
    request: &LoadRequest,
    clock: &dyn Clock,
    observer: &dyn Observer,
) -> Result<Plan> {
    oplog::judge(request.oplog, dump.has_oplog)?;
    check_pipe(dump, request)?;
    let candidates = select(dump, request, observer)?;
    if dump.accounts.is_some() && !request.accounts {
        observer.notice("users and roles of the dump are left out; `--users-and-roles` merges them");
    }
    if request.accounts && dump.accounts.is_none() {
        return Err(Error::new(ErrorKind::Precondition, "the dump holds no users and roles")
            .with_state("nothing was changed")
            .with_hint("leave `--users-and-roles` out"));
    }
    let origin = match (&dump.input, dump.stamp) {
        (Input::Archive(path) | Input::Folder(path), Some(stamp)) => {
            Origin::Dump { path: path.clone(), stamp, accounts: request.accounts }
        }
        _ => Origin::Stream,
    };
    let wish = Wish {
        origin,
        mode: request.mode,
        load_count_max: request.load_count_max,
        accept_differences: request.accept_differences,
        assumptions: dump.stamp.map(stamp_assumption).into_iter().collect(),
    };
    decide(source, target, &candidates, wish, clock).await
}

/// The dump is still the one that was planned with.
fn stamp_assumption(stamp: Blake3) -> Assumption {
    Assumption { name: "contents of the dump".to_owned(), value: stamp.to_string() }
}

fn check_pipe(dump: &Dump, request: &LoadRequest) -> Result<()> {
    if !matches!(dump.input, Input::Pipe(_)) {
        return Ok(());
    }
    let refused = match (request.mode, request.accounts) {
        (Mode::Drop | Mode::Merge, _) => "replace or merge collections",
        (_, true) => "merge users and roles",
        (Mode::New, false) => return Ok(()),
    };
    Err(Error::new(
        ErrorKind::Unsupported,
        format!("a dump from standard input cannot {refused}: it cannot be checked before it is loaded"),
    )
    .with_state("nothing was changed")
    .with_hint("write it to a file first and load that"))
}

/// The collections that are meant, under the names they get.
fn select(dump: &Dump, request: &LoadRequest, observer: &dyn Observer) -> Result<Vec<Candidate>> {
    let patterns = |texts: &[String]| texts.iter().map(|text| Pattern::of(text)).collect::<Result<Vec<_>>>();
    let (include, exclude) = (patterns(&request.include)?, patterns(&request.exclude)?);
    let renames =
        request.renames.iter().map(|(from, to)| Renaming::of(from, to)).collect::<Result<Vec<_>>>()?;
    let mut loadable = Vec::new();
    for found in &dump.found {
        match found.left_out_because() {
            None => loadable.push(found),
            Some(why) => observer.notice(&format!("{} is left out: {why}", found.namespace)),
        }
    }
    let matches_any =
        |test: &dyn Fn(&str) -> bool| loadable.iter().any(|found| test(&found.namespace.to_string()));
    let lost = { include.iter().chain(&exclude) }
        .filter(|pattern| !matches_any(&|name| pattern.matches(name)))
        .map(Pattern::text)
        .chain(
            { renames.iter() }
                .filter(|renaming| !matches_any(&|name| renaming.renamed(name).is_some()))
                .map(Renaming::text),
        )
        .collect::<Vec<_>>();
    if !lost.is_empty() {
        return Err(nothing_matches(format!("{} matches no collection of the dump", lost.join(", "))));
    }
    let is_meant = |name: &str| {
        (include.is_empty() || include.iter().any(|pattern| pattern.matches(name)))
            && !exclude.iter().any(|pattern| pattern.matches(name))
    };
    let chosen = loadable.into_iter().filter(|found| is_meant(&found.namespace.to_string()));
    let candidates = chosen.map(|found| candidate(found, &renames)).collect::<Result<Vec<_>>>()?;
    if candidates.is_empty() && !request.accounts {
        return Err(nothing_matches("the dump holds no collection that is meant".to_owned()));
    }
    Ok(candidates)
}

fn nothing_matches(message: String) -> Error {
    Error::new(ErrorKind::Precondition, message).with_state("nothing was changed").with_hint(
        "names are matched whole and case-sensitively, as database.collection; `--dry-run` lists what there is",
    )
}

fn candidate(found: &Found, renames: &[Renaming]) -> Result<Candidate> {
    let name = found.namespace.to_string();
    let target = match renames.iter().rev().find_map(|renaming| renaming.renamed(&name)) {
        None => found.namespace.clone(),
        Some(renamed) => match renamed.split_once('.') {
            Some((database, collection)) if !database.is_empty() && is_user_collection(collection) => {
                Namespace::new(database, collection)
            }
            _ => {
                return Err(Error::new(ErrorKind::Usage, format!("{name} cannot become `{renamed}`"))
                    .with_state("nothing was changed")
                    .with_hint("a name is database.collection, and no `system.` collection"));
            }
        },
    };
    Ok(Candidate {
        source: found.namespace.clone(),
        target,
        kind: found.kind,
        metadata: found.metadata.clone(),
        amount: amount(found.digest),
    })
}

fn is_user_collection(name: &str) -> bool {
    !name.is_empty() && !name.contains(['$', '\0']) && (!name.starts_with("system.") || name == "system.js")
}

/// Where the dump of a stored plan is.
///
/// # Errors
/// `Usage` when it is not the plan of a load from a file or folder.
pub fn dump_of(plan: &Plan) -> Result<PathBuf> {
    match Parameters::of(plan)?.origin {
        Origin::Dump { path, .. } => Ok(path),
        Origin::Set { .. } | Origin::Stream => {
            Err(Error::new(ErrorKind::Usage, "the plan is not that of a load from a file or folder"))
        }
    }
}

/// What a load did.
#[derive(Debug)]
pub struct LoadReport {
    /// Its run.
    pub run: RunId,
    /// The collections of the plan, in its order.
    pub items: Vec<ItemReport>,
    /// Users and roles that were merged; `None` when they were not asked for.
    pub accounts: Option<(u64, u64)>,
}

impl LoadReport {
    /// Documents that are not at the target, over all collections.
    pub fn failure_count(&self) -> u64 {
        self.items.iter().map(|item| item.failure_count).sum()
    }

    /// Whether every collection was proven equal to the dump and described equally by the server.
    pub fn is_proven(&self) -> bool {
        self.items.iter().all(ItemReport::is_proven)
    }
}

/// Loads as `plan` says.
///
/// # Errors
/// `StalePlan` when the dump or the world has changed; `Corrupt` when a pipe's dump turns out to be damaged; `Server` when documents were
/// refused; `Locked`, `Interrupted`. What had been loaded beside the names is removed then; what is in place stays, and the state says how much.
pub async fn apply(
    context: &LoadContext<'_>,
    dump: Dump,
    plan: &Plan,
    permit: &Permit,
) -> Result<LoadReport> {
    permit.covers(plan)?;
    let parameters = Parameters::of(plan)?;
    let placement_context = PlacementContext {
        source: context.source,
        sink: context.sink,
        repository: context.repository,
        clock: Arc::clone(&context.clock),
        holder: context.holder,
        lease_ttl: context.lease_ttl,
        observer: context.observer,
        cancel: context.cancel,
        finish_slots: FinishSlots::default(),
    };
    let work = async |lease: Option<&KeptLease>| {
        let run = match context.repository {
            Some(repository) => Run::open(repository, plan).await?,
            None => Run::unkept(plan)?,
        };
        let placement = Placement {
            context: &placement_context,
            plan,
            parameters: &parameters,
            permit,
            run: &run,
            lease,
        };
        placement.check(dump.stamp.map(stamp_assumption).into_iter().collect()).await?;
        placement.begin().await?;
        let load = Load { context, placement };
        match stoppable(&placement_context, lease, load.run(dump)).await {
            Ok(report) => Ok(report),
            Err(error) => Err(load.clean_up(error).await),
        }
    };
    leased(&placement_context, &plan.target.fingerprint, work).await
}

/// One application of one plan.
#[derive(Clone, Copy)]
struct Load<'a> {
    context: &'a LoadContext<'a>,
    placement: Placement<'a>,
}

impl Load<'_> {
    async fn run(self, dump: Dump) -> Result<LoadReport> {
        let Placement { parameters, run, .. } = self.placement;
        self.context.observer.phase("load");
        let positions: HashMap<&Namespace, usize> =
            parameters.items.iter().enumerate().map(|(index, item)| (&item.source, index)).collect();
        let mut chosen: BTreeMap<usize, Found> = BTreeMap::new();
        for found in dump.found {
            if let Some(index) = positions.get(&found.namespace) {
                chosen.insert(*index, found);
            }
        }
        if chosen.len() != parameters.items.len() {
            return Err(Error::new(ErrorKind::StalePlan, "the dump does not hold what the plan says"));
        }
        let known = chosen.values().filter_map(|found| found.digest);
        self.context
            .observer
            .expect(known.map(|digest| Amount { items: digest.documents, bytes: digest.bytes }).sum());
        let (views, collections): (Vec<_>, Vec<_>) =
            chosen.into_iter().partition(|(_, found)| found.kind == CollectionKind::View);
        let mut reports = match dump.input {
            Input::Archive(path) => {
                let mut reading = open_file(&path)?.0;
                reading.prelude().await?;
                self.from_archive(reading, collections, dump.open_max).await?
            }
            Input::Pipe(reading) => self.from_archive(reading, collections, dump.open_max).await?,
            Input::Folder(_) => self.from_folder(collections).await?,
            Input::Spent => return Err(Error::new(ErrorKind::Internal, "the dump has been read already")),
        };
        // Views last, so that what they read stands before them.
        let works = views
            .into_iter()
            .map(|(index, found)| -> Work<'_> { (index, Box::new(found.content(1, Source::Nothing))) });
        reports.extend(self.placement.bring(stream::iter(works), COLLECTION_COUNT_MAX).await?);
        reports.sort_by_key(|(index, _)| *index);
        let items: Vec<ItemReport> = reports.into_iter().map(|(_, report)| report).collect();
        let accounts = self.merge_accounts(dump.accounts.as_ref()).await?;
        if items.iter().all(|item| item.failure_count == 0) {
            run.record(Event::Completed).await?;
        }
        Ok(LoadReport { run: run.id.clone(), items, accounts })
    }

    /// Loads what comes, in the archive's order.
    async fn from_archive(
        self,
        reading: Reading,
        collections: Vec<(usize, Found)>,
        open_max: usize,
    ) -> Result<Vec<(usize, ItemReport)>> {
        let connections = self.placement.parameters.load_count_max / open_max.max(1);
        let wanted: HashMap<usize, Wanted> = collections
            .into_iter()
            .map(|(index, found)| {
                let connections = found.connections(connections);
                let Found { entry, kind, metadata, digest, .. } = found;
                (entry, Wanted { index, kind, metadata, digest, connections })
            })
            .collect();
        let (announce, announced) = mpsc::channel(1);
        let works = stream::unfold(announced, |mut announced| async move {
            announced.recv().await.map(|work: Work<'_>| (work, announced))
        });
        // Whoever reads waits for room in the feeds of all open collections, so all of them must be under way at the same time.
        let brought = self.placement.bring(works, open_max + FINISHING_COUNT_MAX);
        let (reports, ()) = futures::try_join!(brought, reading.spread(wanted, open_max, announce))?;
        Ok(reports)
    }

    async fn from_folder(self, mut collections: Vec<(usize, Found)>) -> Result<Vec<(usize, ItemReport)>> {
        // Largest first, so that the longest load does not begin last.
        collections
            .sort_by_key(|(_, found)| std::cmp::Reverse(found.digest.map_or(0, |digest| digest.bytes)));
        let connections = self.placement.parameters.load_count_max.div_ceil(COLLECTION_COUNT_MAX);
        let works = collections.into_iter().map(|(index, found)| -> Work<'_> {
            let connections = found.connections(connections);
            let source = found.file.clone().map_or(Source::Nothing, Source::File);
            (index, Box::new(found.content(connections, source)))
        });
        self.placement.bring(stream::iter(works), COLLECTION_COUNT_MAX).await
    }

    async fn merge_accounts(
        self,
        accounts: Option<&(Accounts, Option<String>)>,
    ) -> Result<Option<(u64, u64)>> {
        let Origin::Dump { accounts: true, .. } = self.placement.parameters.origin else { return Ok(None) };
        let Some((accounts, scope)) = accounts else {
            return Err(Error::new(ErrorKind::StalePlan, "the dump holds no users and roles"));
        };
        self.context.accounts.merge_accounts(accounts, scope.as_deref(), self.placement.permit).await?;
        let count = |documents: &[u8]| document_frames(documents).count() as u64;
        Ok(Some((count(&accounts.users), count(&accounts.roles))))
    }

    /// Removes what a failed load was loading beside the names, and says how the server stands.
    async fn clean_up(self, error: Error) -> Error {
        let Placement { parameters, run, .. } = self.placement;
        let far = format!("{} of {} collections are in place", run.placed(), parameters.items.len());
        let left = match self.remove_shadows().await {
            Ok(()) => "what was loaded beside them is removed".to_owned(),
            Err(why) => format!(
                "what was loaded beside them begins with `{SHADOW_PREFIX}` and could not be removed: {why}"
            ),
        };
        let before = error.state().map(|state| format!("{state}; ")).unwrap_or_default();
        let error = error.with_state(format!("{before}{far}; {left}"));
        if error.hint().is_some() {
            return error;
        }
        error.with_hint(
            "correct the cause and load again; what is in place can be left out with `--ns-exclude`",
        )
    }

    async fn remove_shadows(self) -> Result<()> {
        let Placement { context, parameters, run, permit, .. } = self.placement;
        run.record(Event::Abandoning).await?;
        let beside = |way| matches!(way, Way::Create | Way::Swap);
        let shadows: Vec<Namespace> = { parameters.items.iter().enumerate() }
            .filter(|(_, item)| beside(item.way))
            .map(|(index, item)| run.shadow(index, &item.target))
            .collect();
        for shadow in existing_collections(context.source, shadows.iter()).await?.into_keys() {
            context.sink.drop_collection(&shadow, permit).await?;
        }
        run.record(Event::Abandoned).await
    }
}

impl Found {
    fn content(self, connections: usize, source: Source) -> DumpContent {
        DumpContent { kind: self.kind, metadata: self.metadata, digest: self.digest, connections, source }
    }
}
