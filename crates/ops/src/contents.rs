//! What the manifest of a backup set says of its contents: of a document store's here, of a cluster's in [`crate::cluster`], of a dump's in
//! [`crate::logical`].

use std::collections::{BTreeMap, BTreeSet};

use mainstay_engine::{
    CollectionIdentity, CollectionKind, Consistency, DocumentDigest, Namespace, ServerFacts,
};
use mainstay_model::{Error, ErrorKind, Finding, ObjectName, OpTime, Result, Severity, StoreKind};
use mainstay_repository::Set;
use serde::{Deserialize, Serialize};

use crate::Selection;
use crate::append_only::AppendOnlySetContents;
use crate::cluster::ClusterSetContents;
use crate::keyfile::KeyFileSetContents;
use crate::logical::LogicalSetContents;

/// The role of objects that hold options and indexes.
pub(crate) const ROLE_METADATA: &str = "metadata";
/// The role of objects that hold concatenated documents.
pub(crate) const ROLE_DOCUMENTS: &str = "documents";
/// The role of objects that hold users and roles, credentials included.
pub(crate) const ROLE_ACCOUNTS: &str = "accounts";
/// The most bytes of an object of users or roles.
pub(crate) const ACCOUNTS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The most bytes of a metadata object.
pub(crate) const METADATA_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What is wrong with a set whose contents need objects that its manifest does not list.
pub(crate) fn unlisted<'a>(set: &Set, needed: impl IntoIterator<Item = &'a ObjectName>) -> Vec<Finding> {
    let present: BTreeSet<&ObjectName> = set.manifest().objects.iter().map(|entry| &entry.name).collect();
    let unlisted = needed.into_iter().filter(|name| !present.contains(name));
    let finding = |name: &ObjectName| Finding {
        id: "set.object_unlisted".to_owned(),
        severity: Severity::Critical,
        store: Some(set.kind()),
        subject: name.to_string(),
        message: format!("the contents of set {} need {name}, its manifest does not list it", set.id()),
        remedy: "take a new backup; this set cannot be restored whole".to_owned(),
    };
    unlisted.map(finding).collect()
}

/// The contents of a set of any store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetContents {
    /// Documents.
    Documents(Box<DocumentSetContents>),
    /// The files of a server.
    Cluster(Box<ClusterSetContents>),
    /// A server's own file of all its keys.
    KeyFile(Box<KeyFileSetContents>),
    /// A server's append-only file.
    AppendOnly(Box<AppendOnlySetContents>),
    /// A dump of one database.
    Logical(Box<LogicalSetContents>),
}

impl SetContents {
    /// Those of `set`.
    ///
    /// # Errors
    /// `Unsupported` when another version wrote them.
    pub fn of(set: &Set) -> Result<Self> {
        match set.kind() {
            StoreKind::Postgres if LogicalSetContents::is_of(set) => set.contents().map(Self::Logical),
            StoreKind::Postgres => set.contents().map(Self::Cluster),
            StoreKind::Redis if AppendOnlySetContents::is_of(set) => set.contents().map(Self::AppendOnly),
            StoreKind::Redis => set.contents().map(Self::KeyFile),
            StoreKind::Mongo => set.contents().map(Self::Documents),
        }
    }

    /// The fingerprint of the server it was taken from.
    pub fn server(&self) -> &str {
        match self {
            Self::Documents(contents) => &contents.server.fingerprint,
            Self::Cluster(contents) => &contents.server.fingerprint,
            Self::KeyFile(contents) => &contents.server.fingerprint,
            Self::AppendOnly(contents) => &contents.server.fingerprint,
            Self::Logical(contents) => &contents.server.fingerprint,
        }
    }
}

/// The contents of a set taken from a document store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DocumentSetContents {
    /// The environment it was taken from.
    pub environment: String,
    /// The server it was taken from.
    pub server: ServerFacts,
    /// The moment the set shows; single collections may differ and say so.
    pub consistency: Consistency,
    /// The earliest moment that the set and the change log after it can be brought to: by then every collection had been listed and every
    /// one that was read outside the moment had been read. `None` where there is no change log, and in sets of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<OpTime>,
    /// What the backup was asked for: what of it is not among the collections did not exist. `None` in sets of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection: Option<Selection>,
    /// The collections, by name.
    pub collections: Vec<CollectionRecord>,
    /// The server's users and roles as they were at the end of the backup, when they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accounts: Option<AccountsRecord>,
}

/// The users and roles of a set: documents as the server keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountsRecord {
    /// `admin.system.users`, with credentials.
    pub users: PartRecord,
    /// `admin.system.roles`.
    pub roles: PartRecord,
    /// The document of `admin.system.version` that tells their form.
    pub version: PartRecord,
}

impl AccountsRecord {
    fn parts(&self) -> [&PartRecord; 3] {
        [&self.users, &self.roles, &self.version]
    }
}

/// One collection of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectionRecord {
    /// Its name.
    pub namespace: Namespace,
    /// Its kind.
    pub kind: CollectionKind,
    /// Whether it is capped.
    pub capped: bool,
    /// The moment its documents show.
    pub consistency: Consistency,
    /// Which collection it was, whatever its name before and after; `None` for views.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<CollectionIdentity>,
    /// Changes up to and including this position are in its documents; later ones may be when it was read outside the moment. `None`
    /// where there is no change log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds_through: Option<OpTime>,
    /// How many indexes the metadata describes.
    pub index_count: u32,
    /// The object with options and indexes, in the form of mongodump's `.metadata.json`.
    pub metadata: ObjectName,
    /// The objects with its documents: concatenated BSON. None for a view.
    pub parts: Vec<PartRecord>,
}

/// One object of documents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartRecord {
    /// The object.
    pub object: ObjectName,
    /// The digest of its documents.
    pub digest: DocumentDigest,
}

impl CollectionRecord {
    /// The digest of all its documents.
    pub fn digest(&self) -> DocumentDigest {
        self.parts.iter().fold(DocumentDigest::default(), |mut total, part| {
            total += part.digest;
            total
        })
    }
}

/// What a backup must hold for something to be replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needed {
    /// The collections that are replaced or loaded into.
    pub namespaces: Vec<Namespace>,
    /// Whether users and roles are.
    pub accounts: bool,
}

impl DocumentSetContents {
    /// Whether everything that is `needed` could be brought back from it.
    pub(crate) fn holds(&self, needed: &Needed) -> bool {
        needed.namespaces.iter().all(|namespace| self.collection(namespace).is_ok())
            && (!needed.accounts || self.accounts.is_some())
    }

    /// Whether a collection called `namespace` would have been backed up, had it existed. Of sets that do not say what they were asked for,
    /// the databases they hold something of are believed to be whole.
    pub(crate) fn is_about(&self, namespace: &Namespace) -> bool {
        match &self.selection {
            Some(selection) => selection.includes(namespace),
            None => self.collections.iter().any(|record| record.namespace.database == namespace.database),
        }
    }

    /// Every object that it names.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &ObjectName> {
        let parts = self.collections.iter().flat_map(|record| &record.parts).map(|part| &part.object);
        parts.chain(self.metadata_objects()).chain(self.account_objects())
    }

    /// The objects with users and roles.
    pub(crate) fn account_objects(&self) -> impl Iterator<Item = &ObjectName> {
        self.accounts.iter().flat_map(AccountsRecord::parts).map(|part| &part.object)
    }

    /// The objects with the definitions of all collections.
    pub(crate) fn metadata_objects(&self) -> impl Iterator<Item = &ObjectName> {
        self.collections.iter().map(|record| &record.metadata)
    }

    /// The digest of all documents of the set.
    pub fn digest(&self) -> DocumentDigest {
        self.collections.iter().fold(DocumentDigest::default(), |mut total, collection| {
            total += collection.digest();
            total
        })
    }

    /// The recorded digest of each document object.
    pub fn part_digests(&self) -> BTreeMap<ObjectName, DocumentDigest> {
        self.collections
            .iter()
            .flat_map(|collection| &collection.parts)
            .chain(self.accounts.iter().flat_map(AccountsRecord::parts))
            .map(|part| (part.object.clone(), part.digest))
            .collect()
    }

    /// The record of `namespace`.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn collection(&self, namespace: &Namespace) -> Result<&CollectionRecord> {
        self.collections
            .iter()
            .find(|collection| collection.namespace == *namespace)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("the set does not hold {namespace}")))
    }
}
