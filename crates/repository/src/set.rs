//! Sets that exist: their manifests, and reading their objects.

use std::sync::Arc;

use bytes::Bytes;
use mainstay_model::{Blake3, Error, ErrorKind, ObjectName, Result, SetId, StoreKind};
use serde::de::DeserializeOwned;

use crate::decode::ObjectSite;
use crate::layout;
use crate::manifest::{Encryption, Manifest, ObjectEntry};
use crate::repository::Repository;
use crate::source::ObjectSource;
use crate::verify::VerificationRecord;

/// A committed set. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Set {
    repository: Repository,
    manifest: Arc<Manifest>,
    blake3: Blake3,
}

/// One line of a listing: a set, or what is left of one.
#[derive(Debug)]
pub enum SetEntry {
    /// A set whose manifest is whole.
    Whole(Set),
    /// A set whose manifest cannot be read.
    Damaged {
        /// The store it is a backup of.
        kind: StoreKind,
        /// The set.
        id: SetId,
        /// What is wrong with its manifest.
        error: Error,
    },
}

impl SetEntry {
    /// The set's identifier.
    pub fn id(&self) -> &SetId {
        match self {
            Self::Whole(set) => set.id(),
            Self::Damaged { id, .. } => id,
        }
    }

    /// The store it is a backup of.
    pub fn kind(&self) -> StoreKind {
        match self {
            Self::Whole(set) => set.kind(),
            Self::Damaged { kind, .. } => *kind,
        }
    }

    /// The set, or what is wrong with it.
    ///
    /// # Errors
    /// That of the damaged manifest.
    pub fn into_set(self) -> Result<Set> {
        match self {
            Self::Whole(set) => Ok(set),
            Self::Damaged { error, .. } => Err(error),
        }
    }
}

impl Set {
    pub(crate) fn new(repository: Repository, manifest: Manifest, blake3: Blake3) -> Self {
        Self { repository, manifest: Arc::new(manifest), blake3 }
    }

    /// The set's identifier.
    pub fn id(&self) -> &SetId {
        &self.manifest.set_id
    }

    /// The store it is a backup of.
    pub fn kind(&self) -> StoreKind {
        self.manifest.store
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// As [`Repository::last_verification`], of this set.
    ///
    /// # Errors
    /// The store's.
    pub async fn last_verification(&self) -> Result<Option<VerificationRecord>> {
        self.repository.last_verification(self.kind(), self.id()).await
    }

    /// The last verification, when it was of the manifest that the set has now.
    ///
    /// # Errors
    /// The store's.
    pub async fn verdict(&self) -> Result<Option<VerificationRecord>> {
        Ok(self.last_verification().await?.filter(|record| record.manifest == self.blake3))
    }

    /// The hash that seals its manifest, and with it every object.
    pub fn manifest_blake3(&self) -> Blake3 {
        self.blake3
    }

    /// The manifest's contents, as the adapter that wrote them knows them.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when they have another shape: another version wrote them.
    pub fn contents<C: DeserializeOwned>(&self) -> Result<C> {
        C::deserialize(&self.manifest.contents).map_err(|source| {
            Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the contents of backup set {}, written by mainstay {}, are not known to this version",
                    self.id(),
                    self.manifest.tool_version
                ),
            )
            .with_source(source)
            .with_hint(format!("use mainstay {} or newer", self.manifest.tool_version))
        })
    }

    /// The entry of one object.
    pub fn entry(&self, name: &ObjectName) -> Option<&ObjectEntry> {
        let index = self.manifest.objects.binary_search_by(|entry| entry.name.cmp(name)).ok()?;
        self.manifest.objects.get(index)
    }

    /// The entry of an object that is asked for by name.
    pub(crate) fn require(&self, name: &ObjectName) -> Result<&ObjectEntry> {
        self.entry(name).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("backup set {} has no object {name}", self.id()))
                .with_hint(format!("run `mainstay backup show {}` to see its objects", self.id()))
        })
    }

    /// Finds out, without reading any object, whether this set's objects can be decrypted with what the repository was opened with.
    ///
    /// # Errors
    /// [`ErrorKind::Precondition`] without any identity, [`ErrorKind::Auth`] when none fits; both name the recipients.
    pub fn check_readable(&self) -> Result<()> {
        if self.manifest.objects.iter().any(|entry| entry.encryption == Encryption::Age) {
            let what = format!("backup set {}", self.id());
            self.repository.identities().check(&self.manifest.recipients, &what)?;
        }
        Ok(())
    }

    /// Opens an object for reading.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the manifest names no such object; [`ErrorKind::Corrupt`] when it does and the object is missing or
    /// has another size; as [`Set::check_readable`] when it is encrypted; the store's errors as they are.
    pub async fn read(&self, name: &ObjectName) -> Result<ObjectSource> {
        let entry = self.require(name)?;
        if entry.encryption == Encryption::Age {
            self.check_readable()?;
        }
        ObjectSource::open(&self.site(entry)?).await
    }

    /// Reads a whole small object.
    ///
    /// # Errors
    /// As [`Set::read`] and [`ObjectSource::next`]; [`ErrorKind::Corrupt`] when it is larger than `bytes_max`.
    pub async fn read_all(&self, name: &ObjectName, bytes_max: usize) -> Result<Bytes> {
        self.read(name).await?.read_all(bytes_max).await
    }

    pub(crate) fn site(&self, entry: &ObjectEntry) -> Result<ObjectSite> {
        Ok(ObjectSite {
            store: self.repository.store().clone(),
            key: layout::object(self.kind(), self.id(), &entry.name, entry.encryption)?,
            expected: entry.into(),
            identities: Arc::clone(self.repository.identities()),
        })
    }
}
