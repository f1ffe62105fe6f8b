//! Reading a cluster's set back and judging it: what verification and restore share.
//!
//! The repository checks lengths, hashes, decryption and decompression; here every archive is walked again and compared, file by file, with the
//! list that the server made, and every page with its checksum. Records nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use mainstay_basebackup::{ArchiveJudge, MANIFEST_BYTES_MAX, Manifest};
use mainstay_model::progress::Observer;
use mainstay_model::{ErrorKind, Finding, ObjectName, Result, Severity};
use mainstay_repository::{Inspector, ObjectEntry, Repository, Set, VerifyReport};

use super::{ClusterSetContents, Expected, judge_options};

/// How many objects are read at the same time.
const OBJECT_COUNT_MAX: usize = 4;

/// Reads every object of `set` back and judges it.
///
/// # Errors
/// As the repository's verification. Damage is not an error but a critical finding in the report.
pub(crate) async fn inspect(
    repository: &Repository,
    set: &Set,
    observer: &dyn Observer,
) -> Result<VerifyReport> {
    let contents: Arc<ClusterSetContents> = Arc::new(set.contents()?);
    let manifest = file_list(set, &contents).await?;
    let inspector = |entry: &ObjectEntry| inspector(&contents, manifest.as_ref(), entry);
    let mut report = repository.verify(set, &inspector, OBJECT_COUNT_MAX, observer).await?;
    let mut findings = cross_check(set, &contents);
    findings.append(&mut report.findings);
    report.findings = findings;
    Ok(report)
}

/// The server's list of files; `None` when it is damaged, which the verification of its object tells.
async fn file_list(set: &Set, contents: &ClusterSetContents) -> Result<Option<Arc<Manifest>>> {
    match set.read_all(&contents.file_list, MANIFEST_BYTES_MAX).await {
        Ok(bytes) => Ok(Manifest::read(&bytes).ok().map(Arc::new)),
        Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

fn inspector(
    contents: &Arc<ClusterSetContents>,
    manifest: Option<&Arc<Manifest>>,
    entry: &ObjectEntry,
) -> Option<Box<dyn Inspector>> {
    if entry.name == contents.file_list {
        return Some(Box::<FileListInspector>::default());
    }
    let place = contents.archives.iter().find(|archive| archive.object == entry.name)?.oid();
    let options = judge_options(contents.checksum, contents.page_checksums, contents.begin);
    Some(Box::new(ArchiveInspector {
        place,
        contents: Arc::clone(contents),
        manifest: manifest.cloned(),
        judge: ArchiveJudge::new(place, options),
    }))
}

/// Objects that the contents need and the manifest lacks.
fn cross_check(set: &Set, contents: &ClusterSetContents) -> Vec<Finding> {
    let present: BTreeSet<&ObjectName> = set.manifest().objects.iter().map(|entry| &entry.name).collect();
    contents
        .objects()
        .filter(|name| !present.contains(name))
        .map(|name| Finding {
            id: "set.object_unlisted".to_owned(),
            severity: Severity::Critical,
            store: Some(set.kind()),
            subject: name.to_string(),
            message: format!("the contents of set {} need {name}, its manifest does not list it", set.id()),
            remedy: "take a new backup; this set cannot be restored".to_owned(),
        })
        .collect()
}

/// Checks an archive while it is read.
struct ArchiveInspector {
    place: Option<u32>,
    contents: Arc<ClusterSetContents>,
    manifest: Option<Arc<Manifest>>,
    judge: ArchiveJudge,
}

impl Inspector for ArchiveInspector {
    fn bytes(&mut self, plain: &[u8]) {
        self.judge.bytes(plain);
    }

    fn end(self: Box<Self>) -> Vec<String> {
        let Self { place, contents, manifest, judge } = *self;
        let seen = judge.end();
        let Some(manifest) = manifest else {
            return seen.fault.map(|fault| fault.to_string()).into_iter().collect();
        };
        let places = contents.oids();
        let wal_segment_bytes = contents.wal_segment_bytes;
        let expected = Expected { manifest: &manifest, place, places: &places, wal_segment_bytes };
        let mut faults = expected.faults(&seen);
        // Pages that were damaged on the server are known, and have been told when the set was made.
        if seen.damaged_page_count > contents.damaged_pages {
            faults.extend(seen.damaged_pages.iter().map(|page| format!("{page} has a wrong checksum")));
        }
        faults
    }
}

/// Checks the server's list of files.
#[derive(Default)]
struct FileListInspector(Vec<u8>);

impl Inspector for FileListInspector {
    fn bytes(&mut self, plain: &[u8]) {
        // One byte more than is allowed tells that there was too much, without keeping the rest.
        let room = (MANIFEST_BYTES_MAX + 1).saturating_sub(self.0.len()).min(plain.len());
        self.0.extend_from_slice(&plain[..room]);
    }

    fn end(self: Box<Self>) -> Vec<String> {
        if self.0.len() > MANIFEST_BYTES_MAX {
            return vec![format!("it is longer than {MANIFEST_BYTES_MAX} bytes")];
        }
        Manifest::read(&self.0).err().map(|error| error.to_string()).into_iter().collect()
    }
}
