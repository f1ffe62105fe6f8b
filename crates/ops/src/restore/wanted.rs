//! What each collection must become, whether a set alone says so or a set and the log after it.

use mainstay_engine::{
    ChangeCounts, CollectionIdentity, CollectionKind, DocumentDigest, Namespace, PointCollection,
};
use mainstay_model::{Error, ErrorKind, ObjectName, OpTime, Result, ResultExt};
use mainstay_repository::Set;

use crate::contents::{CollectionRecord, DocumentSetContents, METADATA_BYTES_MAX, PartRecord};

/// One collection or view as it must be in the end.
#[derive(Debug, Clone)]
pub(super) struct Wanted<'a> {
    /// Its name: in the set, or at the moment.
    pub(super) namespace: Namespace,
    pub(super) kind: CollectionKind,
    pub(super) capped: bool,
    /// Options and indexes.
    pub(super) metadata: String,
    /// The collection of the set whose documents it begins with; `None` when it was created after the set.
    pub(super) origin: Option<&'a CollectionRecord>,
    /// What the log does to it; `None` without a log.
    pub(super) log: Option<LoggedChanges>,
}

/// What the log after a set does to one collection.
#[derive(Debug, Clone)]
pub(super) struct LoggedChanges {
    /// Which collection of the log it is; `None` for views.
    pub(super) identity: Option<CollectionIdentity>,
    pub(super) counts: ChangeCounts,
}

impl<'a> Wanted<'a> {
    /// As the set holds it.
    pub(super) async fn of_record(set: &Set, record: &'a CollectionRecord) -> Result<Self> {
        Ok(Self {
            namespace: record.namespace.clone(),
            kind: record.kind,
            capped: record.capped,
            metadata: read_metadata(set, record).await?,
            origin: Some(record),
            log: None,
        })
    }

    /// As it was at the end of a log.
    ///
    /// # Errors
    /// `NotFound` when the set has no collection of the name it is said to begin with.
    pub(super) fn of_point(contents: &'a DocumentSetContents, point: &PointCollection) -> Result<Self> {
        Ok(Self {
            namespace: point.namespace.clone(),
            kind: point.kind,
            capped: point.capped,
            metadata: point.metadata.clone(),
            origin: point.origin.as_ref().map(|origin| contents.collection(origin)).transpose()?,
            log: Some(LoggedChanges { identity: point.identity.clone(), counts: point.changes }),
        })
    }

    /// The objects of the set that hold the documents it begins with.
    pub(super) fn parts(&self) -> &'a [PartRecord] {
        self.origin.map_or(&[], |record| &record.parts)
    }

    /// The objects of the set that it needs.
    pub(super) fn objects(&self) -> impl Iterator<Item = &'a ObjectName> + use<'a> {
        let parts = self.parts().iter().map(|part| &part.object);
        parts.chain(self.origin.map(|record| &record.metadata))
    }

    /// The digest of the documents it begins with.
    pub(super) fn digest(&self) -> DocumentDigest {
        self.origin.map(CollectionRecord::digest).unwrap_or_default()
    }

    /// The entries of the log up to and including this one are in the documents it begins with.
    pub(super) fn holds_through(&self) -> OpTime {
        // What was created after the set has nothing yet.
        self.origin.and_then(|record| record.holds_through).unwrap_or(OpTime { seconds: 0, increment: 0 })
    }
}

/// Options and indexes of a collection of the set, as text.
///
/// # Errors
/// `Corrupt` when the object is damaged or no text.
pub(super) async fn read_metadata(set: &Set, record: &CollectionRecord) -> Result<String> {
    let bytes = set.read_all(&record.metadata, METADATA_BYTES_MAX).await.context("read metadata")?;
    String::from_utf8(bytes.into())
        .map_err(|source| Error::new(ErrorKind::Corrupt, "metadata is not UTF-8").with_source(source))
}
