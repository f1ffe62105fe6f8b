//! The repository: its description, its sets.

use std::sync::Arc;

use age::x25519::Recipient;
use futures::StreamExt as _;
use jiff::SignedDuration;
use mainstay_journal::{KeptLease, Lease, Sequence};
use mainstay_model::{
    Blake3, Clock, Error, ErrorKind, Result, ResultExt, SetId, StoreKind, Timestamp, sealed,
};
use mainstay_store::{Key, Store};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::compress::FrameCompressor;
use crate::keys::{Identities, parse_recipients};
use crate::layout;
use crate::manifest::{MANIFEST_BYTES_MAX, MANIFEST_FORMAT, MANIFEST_KIND, Manifest, REMOVAL_KIND, Removal};
use crate::options::RepositoryOptions;
use crate::set::{Set, SetEntry};
use crate::writer::SetWriter;

/// The version of the repository's layout that this code writes and the newest it reads.
pub const REPOSITORY_FORMAT: u32 = 1;

/// The kind of the sealed description.
const DESCRIPTION_KIND: &str = "repository";

/// The largest description that is read: some ten thousand recipients.
const DESCRIPTION_BYTES_MAX: u64 = 1024 * 1024;

/// How long the lease of a set lives without being renewed. The writer renews it every third of this; a killed writer's leftovers count
/// as in use until it has run out.
const SET_LEASE_TTL: SignedDuration = SignedDuration::from_secs(60);

/// How many ids are tried for a new set when those before are taken.
const SET_ID_ATTEMPTS_MAX: usize = 64;

/// How many manifests are read at the same time for a listing.
pub(crate) const LISTING_READS: usize = 8;

/// `mainstay.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Description {
    format: u32,
    repository_id: String,
    created_at: Timestamp,
    tool_version: String,
    recipients: Vec<String>,
}

/// Backup sets in an object store. Cheap to clone; clones share threads, buffers and limits.
#[derive(Debug, Clone)]
pub struct Repository(Arc<Inner>);

struct Inner {
    store: Store,
    clock: Arc<dyn Clock>,
    description: Description,
    recipients: Vec<Recipient>,
    identities: Arc<Identities>,
    compressor: Arc<FrameCompressor>,
    lease_ttl: SignedDuration,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "repository {} in {}", self.description.repository_id, self.store.describe())
    }
}

/// What lies where a set's manifest belongs.
pub(crate) enum Place {
    /// Nothing: the set does not exist, or not yet.
    Empty,
    /// A remover is at work there, or was killed at it: the set does not exist.
    Removal,
    /// The set exists.
    Manifest(Box<Manifest>, Blake3),
}

/// The parts of [`RepositoryOptions`] after checking.
struct Settings {
    recipients: Vec<Recipient>,
    identities: Identities,
    compressor: FrameCompressor,
}

impl Settings {
    fn check(options: &RepositoryOptions) -> Result<Self> {
        Ok(Self {
            recipients: parse_recipients(&options.recipients)?,
            identities: Identities::parse(&options.identities)?,
            compressor: FrameCompressor::new(options.compression)?,
        })
    }
}

impl Repository {
    /// Makes a new repository in `store`, encrypting to `options.recipients` from the beginning.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when there is one; [`ErrorKind::Corrupt`] when there are sets whose description is gone;
    /// [`ErrorKind::Config`] for wrong keys or compression; the store's errors.
    pub async fn create(store: Store, clock: Arc<dyn Clock>, options: RepositoryOptions) -> Result<Self> {
        let settings = Settings::check(&options)?;
        refuse_occupied(&store).await?;
        let description = Description {
            format: REPOSITORY_FORMAT,
            repository_id: uuid::Uuid::new_v4().simple().to_string(),
            created_at: clock.now(),
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            recipients: settings.recipients.iter().map(ToString::to_string).collect(),
        };
        let (bytes, _) = sealed::seal(DESCRIPTION_KIND, &description)?;
        let created = store.put_new(&layout::description(), bytes.into()).await;
        created.with_context(|| format!("create repository in {}", store.describe()))?;
        Ok(Self::assemble(store, clock, description, settings))
    }

    /// Opens the repository in `store`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none; [`ErrorKind::Corrupt`] when its description is damaged or gone; [`ErrorKind::Unsupported`]
    /// when a newer version made it; [`ErrorKind::Config`] for wrong keys, or recipients other than its own; the store's errors.
    pub async fn open(store: Store, clock: Arc<dyn Clock>, options: RepositoryOptions) -> Result<Self> {
        let mut settings = Settings::check(&options)?;
        let description = read_description(&store).await?;
        let own = parse_recipients(&description.recipients).context("read mainstay.json")?;
        if !settings.recipients.is_empty() && settings.recipients != own {
            return Err(other_recipients(&store, &description, &settings.recipients));
        }
        settings.recipients = own;
        Ok(Self::assemble(store, clock, description, settings))
    }

    /// Opens the repository in `store`, or makes one when there is none.
    ///
    /// # Errors
    /// As [`Repository::open`] and [`Repository::create`].
    pub async fn open_or_create(
        store: Store,
        clock: Arc<dyn Clock>,
        options: RepositoryOptions,
    ) -> Result<Self> {
        match Self::open(store.clone(), Arc::clone(&clock), options.clone()).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            opened => return opened,
        }
        match Self::create(store.clone(), Arc::clone(&clock), options.clone()).await {
            // Somebody else was faster.
            Err(error) if error.kind() == ErrorKind::Conflict => Self::open(store, clock, options).await,
            created => created,
        }
    }

    fn assemble(store: Store, clock: Arc<dyn Clock>, description: Description, settings: Settings) -> Self {
        Self(Arc::new(Inner {
            store,
            clock,
            description,
            recipients: settings.recipients,
            identities: Arc::new(settings.identities),
            compressor: Arc::new(settings.compressor),
            lease_ttl: SET_LEASE_TTL,
        }))
    }

    /// The same repository whose writers' leases live for `ttl` (60 seconds otherwise): shorter means that a killed writer's leftovers
    /// can be removed sooner, and that a slow store loses the lease sooner.
    #[must_use]
    pub fn with_lease_ttl(self, ttl: SignedDuration) -> Self {
        let inner = &self.0;
        Self(Arc::new(Inner {
            store: inner.store.clone(),
            clock: Arc::clone(&inner.clock),
            description: inner.description.clone(),
            recipients: inner.recipients.clone(),
            identities: Arc::clone(&inner.identities),
            compressor: Arc::clone(&inner.compressor),
            lease_ttl: ttl,
        }))
    }

    /// The repository's identifier: 32 hexadecimal digits, made with it and never changed.
    pub fn id(&self) -> &str {
        &self.0.description.repository_id
    }

    /// The version of its layout.
    pub fn format(&self) -> u32 {
        self.0.description.format
    }

    /// When it was made.
    pub fn created_at(&self) -> Timestamp {
        self.0.description.created_at
    }

    /// True when new sets are encrypted.
    pub fn is_encrypted(&self) -> bool {
        !self.0.recipients.is_empty()
    }

    /// The store it lies in.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// The records about settings of one server of `store`, which whoever changes them for a while keeps, so that somebody else can put them
    /// back. `server` is a hash of what names the server.
    pub fn settings_records(&self, store: StoreKind, server: &Blake3) -> Sequence {
        Sequence::new(self.0.store.clone(), layout::settings(store, server), "settings")
    }

    /// The records about the indexes of one server of `store`: what was begun, what ended, and the definitions of what went.
    pub fn index_records(&self, store: StoreKind, fingerprint: &str) -> Sequence {
        Sequence::new(self.0.store.clone(), layout::indexes(store, fingerprint), "indexes")
    }

    /// Takes the right to change the indexes of one server of `store`, and keeps it until it is given back.
    ///
    /// # Errors
    /// `Locked` when somebody has it; the store's.
    pub async fn claim_indexes(
        &self,
        store: StoreKind,
        fingerprint: &str,
        holder: &str,
    ) -> Result<KeptLease> {
        let name = layout::index_lease(store, fingerprint);
        let lease =
            Lease::acquire(&self.0.store, self.0.clock.clone(), &name, holder, self.0.lease_ttl).await?;
        Ok(lease.keep())
    }

    /// The records about bringing one server of `store` to what is declared of it: which steps were begun, and which ended. `server` is a
    /// hash of what names the server.
    pub fn init_records(&self, store: StoreKind, server: &Blake3) -> Sequence {
        Sequence::new(self.0.store.clone(), layout::init(store, server), "init")
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    pub(crate) fn compressor(&self) -> &Arc<FrameCompressor> {
        &self.0.compressor
    }

    pub(crate) fn recipients(&self) -> &[Recipient] {
        &self.0.recipients
    }

    pub(crate) fn identities(&self) -> &Arc<Identities> {
        &self.0.identities
    }

    /// Begins a set of `kind`. `holder` says who writes it (host and process), for whoever finds its lease.
    ///
    /// # Errors
    /// The store's.
    pub async fn begin_set(&self, kind: StoreKind, holder: &str) -> Result<SetWriter> {
        let begun_at = self.now();
        // The time within the second, so that sets of one second have their order, too. Two writers of one nanosecond meet at the lease.
        let nanosecond =
            u32::try_from(begun_at.subsec_nanosecond().max(0)).expect("it is below a thousand million");
        for number in (nanosecond..).take(SET_ID_ATTEMPTS_MAX) {
            let id = SetId::new(begun_at, number);
            let lease = self.claim_set(kind, &id, holder).await;
            if let Some(lease) = lease.with_context(|| format!("begin backup set {id}"))? {
                return Ok(SetWriter::new(self.clone(), kind, id, begun_at, lease.keep(), Vec::new()));
            }
        }
        Err(Error::new(ErrorKind::Conflict, format!("every set id near {begun_at} is taken"))
            .with_state("nothing was changed")
            .with_hint("check this machine's clock, then run the command again"))
    }

    /// The lease of a set whose folder is empty; `None` when the id is taken. A settled set has no lease any more, so the lease alone does
    /// not keep a clock that stands still or was set back from writing into a set that exists.
    async fn claim_set(&self, kind: StoreKind, id: &SetId, holder: &str) -> Result<Option<Lease>> {
        let folder = layout::set(kind, id);
        if !self.0.store.list(&folder).await?.is_empty() {
            return Ok(None);
        }
        let lease = match self.set_lease(id, holder).await {
            Err(error) if error.kind() == ErrorKind::Locked => return Ok(None),
            lease => lease?,
        };
        // Another writer may have come and gone between the look and the lease.
        if self.0.store.list(&folder).await?.is_empty() {
            return Ok(Some(lease));
        }
        lease.release().await?;
        Ok(None)
    }

    /// Takes the lease of one set.
    pub(crate) async fn set_lease(&self, id: &SetId, holder: &str) -> Result<Lease> {
        let clock = Arc::clone(&self.0.clock);
        Lease::acquire(&self.0.store, clock, &layout::set_lease(id), holder, self.0.lease_ttl).await
    }

    /// Gives the lease of a set back, and removes its records when the set's fate is `settled`: a set's name is never used again, and
    /// from then on the manifest's place alone decides. A lease that cannot be given back runs out by itself.
    pub(crate) async fn release_set_lease(&self, id: &SetId, lease: KeptLease, settled: bool) -> Result<()> {
        lease.release().await?;
        if settled {
            for record in self.0.store.list(&layout::set_lease_records(id)).await? {
                self.0.store.delete(&record.key).await?;
            }
        }
        Ok(())
    }

    /// All sets of one store or of all, oldest first. A set with a damaged manifest is listed as such; folders whose name is no set id
    /// are not Mainstay's and are left out.
    ///
    /// # Errors
    /// The store's.
    pub async fn sets(&self, kind: Option<StoreKind>) -> Result<Vec<SetEntry>> {
        let mut places = Vec::new();
        for kind in kinds(kind) {
            places.extend(self.set_ids(kind).await?.into_iter().map(|id| (kind, id)));
        }
        places.sort_unstable_by(|one, other| one.1.cmp(&other.1));
        let mut reads =
            futures::stream::iter(places.into_iter().map(|(kind, id)| self.clone().entry(kind, id)))
                .buffered(LISTING_READS);
        let mut entries = Vec::new();
        while let Some(entry) = reads.next().await {
            entries.extend(entry?);
        }
        Ok(entries)
    }

    /// The set `id`, searched in one store or in all.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none; [`ErrorKind::Corrupt`] or [`ErrorKind::Unsupported`] when its manifest cannot be
    /// read; the store's.
    pub async fn set(&self, kind: Option<StoreKind>, id: &SetId) -> Result<Set> {
        for kind in kinds(kind) {
            if let Some(entry) = self.clone().entry(kind, id.clone()).await? {
                return entry.into_set();
            }
        }
        let of = kind.map_or_else(String::new, |kind| format!(" of {kind}"));
        Err(Error::new(
            ErrorKind::NotFound,
            format!("there is no backup set {id}{of} in {}", self.0.store.describe()),
        )
        .with_hint("run `mainstay backup list` to see the sets there are"))
    }

    /// The newest set of `kind`; `None` when there is none.
    ///
    /// # Errors
    /// That of its manifest when the newest one is damaged: an older set is not taken silently. The store's.
    pub async fn latest(&self, kind: StoreKind) -> Result<Option<Set>> {
        for id in self.set_ids(kind).await?.into_iter().rev() {
            if let Some(entry) = self.clone().entry(kind, id).await? {
                return entry.into_set().map(Some);
            }
        }
        Ok(None)
    }

    /// The identifiers of all set folders of `kind`, oldest first, whether or not the sets exist.
    pub(crate) async fn set_ids(&self, kind: StoreKind) -> Result<Vec<SetId>> {
        let names = self
            .0
            .store
            .folders(&layout::sets(kind))
            .await
            .with_context(|| format!("list sets of {kind}"))?;
        let mut ids: Vec<SetId> = names.iter().filter_map(|name| name.parse().ok()).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// The listing's line for one set folder; `None` when no set exists there.
    async fn entry(self, kind: StoreKind, id: SetId) -> Result<Option<SetEntry>> {
        match self.place(kind, &id).await {
            Ok(Place::Manifest(manifest, blake3)) => {
                Ok(Some(SetEntry::Whole(Set::new(self, *manifest, blake3))))
            }
            Ok(Place::Empty) if self.is_headless(kind, &id).await? => {
                let error = missing_manifest(kind, &id);
                Ok(Some(SetEntry::Damaged { kind, id, error }))
            }
            Ok(Place::Empty | Place::Removal) => Ok(None),
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => {
                Ok(Some(SetEntry::Damaged { kind, id, error }))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether set `id`, in whose manifest's place nothing lies, was complete once: only a set that exists is ever verified. What is left
    /// of it is damaged, and nobody's leftover.
    pub(crate) async fn is_headless(&self, kind: StoreKind, id: &SetId) -> Result<bool> {
        Ok(self.was_verified(kind, id).await? && self.is_occupied(kind, id).await?)
    }

    async fn is_occupied(&self, kind: StoreKind, id: &SetId) -> Result<bool> {
        let objects = self.0.store.list(&layout::set(kind, id)).await;
        Ok(!objects.with_context(|| format!("list objects of set {id}"))?.is_empty())
    }

    /// What lies where the manifest of set `id` belongs.
    pub(crate) async fn place(&self, kind: StoreKind, id: &SetId) -> Result<Place> {
        let key = layout::manifest(kind, id);
        let bytes = match self.0.store.get(&key, MANIFEST_BYTES_MAX).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Place::Empty),
            bytes => bytes.context("read manifest")?,
        };
        let name = key.to_string();
        let opened = open_versioned::<Manifest>(MANIFEST_KIND, &name, &bytes, MANIFEST_FORMAT);
        let (manifest, blake3) = match opened {
            Ok(opened) => opened,
            Err(_) if sealed::open::<Removal>(REMOVAL_KIND, &name, &bytes).is_ok() => {
                return Ok(Place::Removal);
            }
            Err(error) => return Err(error),
        };
        self.check_belonging(&manifest, kind, id, &name)?;
        Ok(Place::Manifest(Box::new(manifest), blake3))
    }

    /// A whole manifest in the wrong place is as bad as a damaged one.
    fn check_belonging(&self, manifest: &Manifest, kind: StoreKind, id: &SetId, name: &str) -> Result<()> {
        let wrong = |what: String| {
            Err(Error::new(ErrorKind::Corrupt, format!("{name} {what}"))
                .with_hint("copy the right manifest back from an off-site copy of the repository"))
        };
        if (manifest.store, &manifest.set_id) != (kind, id) {
            return wrong(format!("belongs to set {} of {}", manifest.set_id, manifest.store));
        }
        if manifest.repository_id != self.id() {
            return wrong(format!("belongs to repository {}, not to {}", manifest.repository_id, self.id()));
        }
        if !manifest.objects.windows(2).all(|pair| pair[0].name < pair[1].name) {
            return wrong("names its objects out of order".to_owned());
        }
        Ok(())
    }

    /// Reads the description again, to find damage that came after opening.
    pub(crate) async fn check_description(&self) -> Result<()> {
        let description = read_description(&self.0.store).await?;
        if description == self.0.description {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Corrupt, "mainstay.json is not the one this repository was opened with"))
    }
}

/// What is wrong with a set that is [headless](Repository::is_headless).
pub(crate) fn missing_manifest(kind: StoreKind, id: &SetId) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("{} is missing, but the set was complete: it has been verified", layout::manifest(kind, id)),
    )
    .with_hint("copy manifest.json back from an off-site copy of the repository; `mainstay backup prune` leaves the set alone")
}

/// The one kind asked for, or all.
pub(crate) fn kinds(kind: Option<StoreKind>) -> Vec<StoreKind> {
    kind.map_or_else(|| StoreKind::ALL.to_vec(), |kind| vec![kind])
}

async fn read_description(store: &Store) -> Result<Description> {
    let key = layout::description();
    let bytes = match store.get(&key, DESCRIPTION_BYTES_MAX).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            refuse_headless(store).await?;
            return Err(Error::new(ErrorKind::NotFound, format!("there is no repository in {}", store.describe()))
                .with_hint("check `repository.url`, or run `mainstay backup create`, which begins a new repository there"));
        }
        bytes => bytes.with_context(|| format!("open repository in {}", store.describe()))?,
    };
    let (description, _) = open_versioned(DESCRIPTION_KIND, key.as_str(), &bytes, REPOSITORY_FORMAT)?;
    Ok(description)
}

/// Opens a sealed body that carries its version in `format`; a newer one is told from a damaged one.
pub(crate) fn open_versioned<T: DeserializeOwned>(
    kind: &str,
    name: &str,
    bytes: &[u8],
    newest: u32,
) -> Result<(T, Blake3)> {
    let (body, blake3): (Value, _) = sealed::open(kind, name, bytes)?;
    let format = body.get("format").and_then(Value::as_u64);
    if format.is_some_and(|format| format > u64::from(newest)) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("{name} has format {}; this version reads format {newest}", format.unwrap_or_default()),
        )
        .with_hint("use a newer mainstay"));
    }
    let body = serde_json::from_value(body).map_err(|source| {
        Error::new(ErrorKind::Corrupt, format!("{name} has a whole seal but is no {kind} of format {newest}"))
            .with_source(source)
    })?;
    Ok((body, blake3))
}

/// Sets without a description are somebody's only backups: they must not become part of a new repository by accident.
/// What belongs to somebody else is left alone, too.
async fn refuse_occupied(store: &Store) -> Result<()> {
    let present = store.get(&layout::description(), DESCRIPTION_BYTES_MAX).await.is_ok();
    if !present {
        refuse_headless(store).await?;
    }
    match store.folders(&Key::root()).await?.into_iter().find(|name| !OWN_FOLDERS.contains(&name.as_str())) {
        Some(foreign) if !present => Err(Error::new(
            ErrorKind::Precondition,
            format!("{} is no repository and holds something else: {foreign}/", store.describe()),
        )
        .with_state("nothing was changed")
        .with_hint("set `repository.url` to a folder or prefix that is empty or not there yet")),
        _ => Ok(()),
    }
}

/// Refuses a place without a description that holds backups.
async fn refuse_headless(store: &Store) -> Result<()> {
    for kind in StoreKind::ALL {
        let (sets, log) = (layout::sets(kind), layout::log(kind));
        if !store.folders(&sets).await?.is_empty() || !store.folders(&log).await?.is_empty() {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("mainstay.json is missing from {}, but there are backups of {kind}", store.describe()),
            )
            .with_state("nothing was changed")
            .with_hint("copy mainstay.json back from an off-site copy, or set `repository.url` to another place for a new one"));
        }
    }
    Ok(())
}

/// The folders of a repository.
const OWN_FOLDERS: [&str; 7] = ["audit", "drills", "journals", "leases", "mongo", "postgres", "redis"];

fn other_recipients(store: &Store, description: &Description, asked: &[Recipient]) -> Error {
    let asked = asked.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let own = match description.recipients.as_slice() {
        [] => "is not encrypted".to_owned(),
        own => format!("is encrypted to {}", own.join(", ")),
    };
    Error::new(ErrorKind::Config, format!("the repository in {} {own}; the configuration says {asked}", store.describe()))
        .with_state("nothing was changed")
        .with_hint("remove `repository.recipients` from the configuration, or set `repository.url` to a place for a new repository")
}
