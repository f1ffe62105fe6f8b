//! Reading a set back and judging it: what verification and restore share.
//!
//! The repository checks lengths, hashes, decryption and decompression; this module adds what only the contents can tell: the framing of
//! every document, the digest of every part, readable metadata, and that contents and objects name one another. Records nothing.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_engine::DocumentDigest;
use mainstay_model::progress::Observer;
use mainstay_model::{Finding, ObjectName, Result};
use mainstay_repository::{Inspector, ObjectEntry, Repository, Set, VerifyReport};

use crate::contents::{DocumentSetContents, METADATA_BYTES_MAX, ROLE_METADATA, unlisted};
use crate::framing::DocumentInspector;

/// How many objects are read at the same time.
const OBJECT_COUNT_MAX: usize = 4;

/// Reads every object of `set` back and judges it.
///
/// # Errors
/// `Corrupt` when the manifest itself is not readable; `Storage` or `Unreachable` when the store fails. Damage to objects is not an error
/// but a critical finding in the report.
pub(crate) async fn inspect(
    repository: &Repository,
    set: &Set,
    observer: &dyn Observer,
) -> Result<VerifyReport> {
    let contents: DocumentSetContents = set.contents()?;
    let digests = contents.part_digests();
    let inspector = |entry: &ObjectEntry| inspector(&digests, entry);
    let mut report = repository.verify(set, &inspector, OBJECT_COUNT_MAX, observer).await?;
    let mut findings = unlisted(set, contents.objects());
    findings.append(&mut report.findings);
    report.findings = findings;
    Ok(report)
}

/// Reads the objects of `set` called `names` back and judges them; nothing is said of the others.
///
/// # Errors
/// As for [`inspect`].
pub(crate) async fn inspect_objects(
    repository: &Repository,
    set: &Set,
    names: &BTreeSet<&ObjectName>,
    observer: &dyn Observer,
) -> Result<Vec<Finding>> {
    let contents: DocumentSetContents = set.contents()?;
    let digests = contents.part_digests();
    let inspector = |entry: &ObjectEntry| inspector(&digests, entry);
    let mut findings = unlisted(set, names.iter().copied());
    let listed = names.iter().filter(|name| set.entry(name).is_some()).map(|name| (*name).clone()).collect();
    let report = repository.verify_objects(set, &listed, &inspector, OBJECT_COUNT_MAX, observer).await?;
    findings.extend(report.findings);
    Ok(findings)
}

fn inspector(
    digests: &BTreeMap<ObjectName, DocumentDigest>,
    entry: &ObjectEntry,
) -> Option<Box<dyn Inspector>> {
    match digests.get(&entry.name) {
        Some(digest) => Some(Box::new(DocumentInspector::new(*digest))),
        None if entry.role == ROLE_METADATA => Some(Box::<MetadataInspector>::default()),
        None => None,
    }
}

/// Checks that metadata is readable JSON of a sane size.
#[derive(Default)]
struct MetadataInspector(Vec<u8>);

impl Inspector for MetadataInspector {
    fn bytes(&mut self, plain: &[u8]) {
        // One byte more than is allowed tells that there was too much, without keeping the rest.
        let room = (METADATA_BYTES_MAX + 1).saturating_sub(self.0.len()).min(plain.len());
        self.0.extend_from_slice(&plain[..room]);
    }

    fn end(self: Box<Self>) -> Vec<String> {
        if self.0.len() > METADATA_BYTES_MAX {
            return vec![format!("its metadata is larger than {METADATA_BYTES_MAX} bytes")];
        }
        match serde_json::from_slice::<serde_json::Value>(&self.0) {
            Ok(_) => Vec::new(),
            Err(error) => vec![format!("its metadata is not JSON: {error}")],
        }
    }
}
