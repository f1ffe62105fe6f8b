//! Verification of a backup set: every stored byte is read back and judged.
//!
//! The repository checks lengths, hashes, decryption and decompression; this module adds what only the contents can tell: the framing of
//! every document, the digest of every part, readable metadata, and that contents and objects name one another.

use std::collections::BTreeSet;

use mainstay_guard::BackupEvidence;
use mainstay_model::progress::Observer;
use mainstay_model::{Finding, ObjectName, Result, ResultExt, Severity, StoreKind};
use mainstay_repository::{Inspector, ObjectEntry, Repository, Set, VerifyReport};

use crate::backup::ROLE_METADATA;
use crate::contents::DocumentSetContents;
use crate::framing::DocumentInspector;

/// How many objects are read at the same time.
const OBJECT_COUNT_MAX: usize = 4;

/// Reads every object of `set` back, judges it, and records the outcome in the repository.
///
/// # Errors
/// `Corrupt` when the manifest itself is not readable; `Storage` or `Unreachable` when the store fails. Damage to objects is not an error
/// but a critical finding in the report.
pub async fn verify(repository: &Repository, set: &Set, observer: &dyn Observer) -> Result<VerifyReport> {
    let contents: DocumentSetContents = set.contents()?;
    let digests = contents.part_digests();
    let inspector = |entry: &ObjectEntry| -> Option<Box<dyn Inspector>> {
        match digests.get(&entry.name) {
            Some(digest) => Some(Box::new(DocumentInspector::new(*digest))),
            None if entry.role == ROLE_METADATA => Some(Box::<MetadataInspector>::default()),
            None => None,
        }
    };
    let mut report = repository.verify(set, &inspector, OBJECT_COUNT_MAX, observer).await?;
    report.findings.extend(cross_check(set, &contents));
    repository.record_verification(&report).await?;
    Ok(report)
}

/// The newest sound backup of the server with this `fingerprint`, as evidence for the guard. Damaged sets and sets of other servers do not
/// count.
///
/// # Errors
/// What the store fails with.
pub async fn evidence(repository: &Repository, fingerprint: &str) -> Result<BackupEvidence> {
    let sets = repository.sets(Some(StoreKind::Mongo)).await.context("look for verified backups")?;
    for entry in sets.into_iter().rev() {
        let Ok(set) = entry.into_set() else { continue };
        let of_this_server = set
            .contents::<DocumentSetContents>()
            .is_ok_and(|contents| contents.server.fingerprint == fingerprint);
        if !of_this_server {
            continue;
        }
        let last = repository.verifications(set.kind(), set.id()).await?.pop();
        if let Some(record) =
            last.filter(|record| record.is_sound() && record.manifest == set.manifest_blake3())
        {
            let newest_verified = Some((set.id().clone(), record.at));
            return Ok(BackupEvidence { newest_verified, fingerprint: Some(fingerprint.to_owned()) });
        }
    }
    Ok(BackupEvidence::default())
}

/// Objects that the contents need and the manifest lacks.
fn cross_check(set: &Set, contents: &DocumentSetContents) -> Vec<Finding> {
    let present: BTreeSet<&ObjectName> = set.manifest().objects.iter().map(|entry| &entry.name).collect();
    let needed = contents.collections.iter().flat_map(|collection| {
        collection.parts.iter().map(|part| &part.object).chain([&collection.metadata])
    });
    needed
        .filter(|name| !present.contains(name))
        .map(|name| Finding {
            id: "set.object_unlisted".to_owned(),
            severity: Severity::Critical,
            store: Some(StoreKind::Mongo),
            subject: name.to_string(),
            message: format!("the contents of set {} need {name}, its manifest does not list it", set.id()),
            remedy: "take a new backup; this set cannot be restored whole".to_owned(),
        })
        .collect()
}

/// Checks that metadata is readable JSON.
#[derive(Default)]
struct MetadataInspector(Vec<u8>);

impl Inspector for MetadataInspector {
    fn bytes(&mut self, plain: &[u8]) {
        self.0.extend_from_slice(plain);
    }

    fn end(self: Box<Self>) -> Vec<String> {
        match serde_json::from_slice::<serde_json::Value>(&self.0) {
            Ok(_) => Vec::new(),
            Err(error) => vec![format!("its metadata is not JSON: {error}")],
        }
    }
}
