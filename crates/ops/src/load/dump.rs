//! Opening a dump: what it holds, judged as far as its form allows before anything is planned.

use std::fs::File;
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use mainstay_archive::{Entry, EntryKind, Prelude, Role};
use mainstay_engine::{
    AccountStore, Accounts, ChangeReplay, CollectionKind, DocumentDigest, Namespace, document_frames,
};
use mainstay_model::progress::{Observer, Work as Amount};
use mainstay_model::{Blake3, Error, ErrorKind, Result, ResultExt};
use tokio::task::block_in_place;
use tokio_util::sync::CancellationToken;

use super::archive::{OPEN_COUNT_MAX, Reading, keep, too_many_open};
use super::feed::Draft;
use super::oplog::{Judging, Oplog, OplogChoice};
use super::{chunks, directory};
use crate::placement::BroughtAccounts;

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
    pub(super) input: Input,
    /// The version of the server it was taken from; empty when it is not told.
    pub server_version: String,
    pub(super) found: Vec<Found>,
    /// Users and roles, and the database they are of when it is one.
    pub(super) accounts: Option<(Accounts, Option<String>)>,
    pub(super) oplog: Oplog,
    /// How many collections are open at one time.
    pub(super) open_max: usize,
    /// What was found, as one value; not for a pipe that is still to be read.
    pub(super) stamp: Option<Blake3>,
}

/// Where it is read from when it is loaded.
pub(super) enum Input {
    Archive(PathBuf),
    Folder(PathBuf),
    Pipe(Reading),
    /// A pipe that was read to its end.
    Spent,
}

/// One collection of a dump.
pub(super) struct Found {
    /// Its position among the archive's entries.
    pub(super) entry: usize,
    pub(super) namespace: Namespace,
    pub(super) kind: CollectionKind,
    pub(super) metadata: String,
    pub(super) digest: Option<DocumentDigest>,
    /// The file with its documents, in a folder.
    pub(super) file: Option<PathBuf>,
}

/// How a dump that comes through a pipe is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PipeUse {
    /// To be loaded: its beginning is read.
    Load,
    /// To be judged only: it is read to its end.
    Judge,
}

/// How a dump is opened, and with what.
#[derive(Clone, Copy)]
pub struct Opening<'a> {
    /// What one that comes through a pipe is for.
    pub pipe_use: PipeUse,
    /// What becomes of its oplog.
    pub oplog: OplogChoice,
    /// Reads oplogs.
    pub replay: &'a dyn ChangeReplay,
    /// Told how far it is.
    pub observer: &'a dyn Observer,
    /// Stops the reading.
    pub cancel: &'a CancellationToken,
}

impl Opening<'_> {
    /// Begins to judge an oplog, if it is to be replayed.
    fn judging(&self, found: &[Found]) -> Result<Option<Judging>> {
        match self.oplog {
            OplogChoice::PassOver => Ok(None),
            choice => Judging::begin(found, choice, self.replay).map(Some),
        }
    }
}

impl Dump {
    /// Opens a dump and judges it, its oplog included if that is to be replayed.
    ///
    /// # Errors
    /// `Corrupt` when it is damaged or not whole; `Usage` when it is no dump; `NotFound`; `Storage` when it cannot be read; `Interrupted`;
    /// `Unsupported` when its oplog holds what cannot be replayed.
    pub async fn open(input: DumpInput, with: &Opening<'_>) -> Result<Self> {
        let Opening { pipe_use, observer, cancel, .. } = *with;
        observer.phase("check the dump");
        let opening = async {
            match input {
                DumpInput::Path(path) if path.is_dir() => Self::open_folder(path, with),
                DumpInput::Path(path) => {
                    let (reading, bytes) = open_file(&path)?;
                    observer.expect(Amount { items: 0, bytes });
                    Self::judged(reading, Input::Archive(path), with).await
                }
                DumpInput::Pipe(file) if pipe_use == PipeUse::Judge => {
                    Self::judged(Reading::begin(file), Input::Spent, with).await
                }
                DumpInput::Pipe(file) => {
                    let mut reading = Reading::begin(file);
                    let prelude = reading.prelude().await?;
                    let open_max =
                        usize::try_from(prelude.header.concurrent_collections).unwrap_or(usize::MAX);
                    let mut dump = Self::of_prelude(&prelude, Input::Pipe(reading))?;
                    dump.open_max = open_max.clamp(1, OPEN_COUNT_MAX);
                    if with.oplog != OplogChoice::PassOver && oplog_of(&prelude).is_some() {
                        dump.oplog = Oplog::Coming;
                    }
                    Ok(dump)
                }
            }
        };
        tokio::select! {
            opened = opening => opened.map_err(|error: Error| error.with_state("nothing was changed")),
            () = cancel.cancelled() => Err(interrupted().with_state("nothing was changed")),
        }
    }

    /// What it holds: each collection with its documents, as far as they are known.
    pub fn collections(&self) -> impl Iterator<Item = (&Namespace, Option<DocumentDigest>)> {
        self.found.iter().map(|found| (&found.namespace, found.digest))
    }

    /// The collection that the dump calls `name`.
    pub(super) fn found(&self, name: &Namespace) -> Option<&Found> {
        self.found.iter().find(|found| found.namespace == *name)
    }

    /// Reads an archive to its end.
    async fn judged(mut reading: Reading, input: Input, with: &Opening<'_>) -> Result<Self> {
        let prelude = reading.prelude().await?;
        let mut dump = Self::of_prelude(&prelude, input)?;
        let entry = oplog_of(&prelude);
        let mut judging = match entry {
            Some(_) => with.judging(&dump.found)?,
            None => None,
        };
        let judged = reading.judge(&prelude, entry.zip(judging.as_mut()), with.observer).await?;
        if judged.open_max > OPEN_COUNT_MAX {
            return Err(too_many_open(OPEN_COUNT_MAX));
        }
        dump.open_max = judged.open_max.max(1);
        for found in &mut dump.found {
            found.digest = Some(judged.digests[found.entry]);
        }
        if let Some(judging) = judging {
            dump.oplog = Oplog::of(judging.end(entry, None)?);
        }
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
            oplog: Oplog::None,
            open_max: 1,
            stamp: None,
        })
    }

    /// Reads every file of a folder.
    fn open_folder(path: PathBuf, with: &Opening<'_>) -> Result<Self> {
        let Opening { observer, cancel, .. } = *with;
        block_in_place(|| {
            let folder = directory::look_through(&path, observer)?;
            let mut dump = Self {
                input: Input::Folder(path),
                server_version: folder.server_version,
                found: Vec::new(),
                accounts: None,
                oplog: Oplog::None,
                open_max: 1,
                stamp: None,
            };
            let (mut accounts, mut oplog) = (Vec::new(), None);
            for (position, (entry, file)) in folder.entries.iter().enumerate() {
                match entry.role() {
                    Role::Ordinary => {
                        let mut found = Found::of(position, entry, file.clone())?;
                        let judged = file
                            .as_deref()
                            .map(|file| directory::judge(file, |_| {}, observer, cancel))
                            .transpose()?;
                        found.digest = Some(judged.unwrap_or_default());
                        dump.found.push(found);
                    }
                    Role::Oplog => oplog = file.clone(),
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
            if let Some(file) = oplog {
                let mut judging = with.judging(&dump.found)?;
                let show = |entries: &[u8]| judging.iter_mut().for_each(|judging| judging.add(entries));
                directory::judge(&file, show, observer, cancel)?;
                if let Some(judging) = judging {
                    dump.oplog = Oplog::of(judging.end(None, Some(file))?);
                }
            }
            dump.accounts = accounts_of(accounts.into_iter());
            dump.stamp = Some(dump.stamp());
            Ok(dump)
        })
    }

    /// Its users and roles, if it holds any, for `store`.
    pub(super) fn brought_accounts<'a>(&self, store: &'a dyn AccountStore) -> Option<BroughtAccounts<'a>> {
        let (accounts, database) = self.accounts.clone()?;
        Some(BroughtAccounts { store, accounts, database })
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
        if let Oplog::Judged(oplog) = &self.oplog {
            text.push_str(&oplog.stamp());
        }
        Blake3::of(text.as_bytes())
    }
}

/// The entry of the oplog.
fn oplog_of(prelude: &Prelude) -> Option<usize> {
    prelude.entries.iter().position(|entry| entry.role() == Role::Oplog)
}

/// The load was stopped while it was only reading.
pub(super) fn interrupted() -> Error {
    Error::new(ErrorKind::Interrupted, "the load was stopped on request")
}

/// Begins to read an archive; gives the bytes of its file too.
pub(super) fn open_file(path: &Path) -> Result<(Reading, u64)> {
    let refuse = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::new(ErrorKind::NotFound, format!("there is no {}", path.display()))
        }
        _ => chunks::failed(&error).context(format!("open {}", path.display())),
    };
    // A pipe gives its bytes once; opening it would wait for whoever writes.
    if !std::fs::metadata(path).map_err(refuse)?.is_file() {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("{} is neither a file nor a folder", path.display()),
        )
        .with_hint("give what comes through a pipe to the standard input: `mainstay mongo load -`"));
    }
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
}

/// What is wrong with a metadata text; an empty one says nothing and is right.
pub(super) fn metadata_fault(metadata: &str) -> Option<String> {
    if metadata.trim().is_empty() {
        return None;
    }
    let metadata = match serde_json::from_str::<serde_json::Value>(metadata) {
        Ok(serde_json::Value::Object(metadata)) => metadata,
        Ok(_) => return Some("it is no JSON object".to_owned()),
        Err(error) => return Some(format!("it is not JSON: {error}")),
    };
    let is_index = |index: &serde_json::Value| {
        index.get("name").is_some_and(serde_json::Value::is_string)
            && index.get("key").is_some_and(serde_json::Value::is_object)
    };
    let indexes = metadata.get("indexes").filter(|indexes| !indexes.is_null());
    if metadata.get("options").is_some_and(|options| !options.is_object() && !options.is_null()) {
        return Some("its options are no document".to_owned());
    }
    match indexes.map(|indexes| indexes.as_array().is_some_and(|all| all.iter().all(is_index))) {
        Some(false) => Some("its indexes are no list of definitions with a name and a key".to_owned()),
        _ => None,
    }
}

/// The kind that a metadata text says or means.
pub(super) fn definition_kind(metadata: &str) -> Option<EntryKind> {
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

impl Found {
    /// What it becomes, without an oplog.
    pub(super) fn draft(self) -> Draft {
        Draft { kind: self.kind, metadata: self.metadata, digest: self.digest, log: None }
    }
}
