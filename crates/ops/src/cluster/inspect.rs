//! Reading a cluster's set back and judging it: what verification and restore share.
//!
//! The repository checks lengths, hashes, decryption and decompression; here every archive is walked again and compared, file by file, with the
//! list that the server made, and every page with its checksum. A set that builds on others is worth nothing without them: they are read back,
//! too, and each must hold what the next one holds changes of. Records nothing.

use std::sync::Arc;

use mainstay_basebackup::{ArchiveJudge, MANIFEST_BYTES_MAX, Manifest};
use mainstay_model::progress::Observer;
use mainstay_model::{Error, ErrorKind, Finding, Result, Severity, StoreKind};
use mainstay_repository::{Inspector, ObjectEntry, Repository, Set, VerifyReport};

use super::chain::{open_chain, open_earlier};
use super::combine::Combination;
use super::contents::EarlierSet;
use super::damage::KnownDamage;
use super::judging::Judging;
use super::{ClusterSetContents, Expected, Foundation, first_of, judge_options};
use crate::contents::unlisted;

/// How many objects are read at the same time.
pub(super) const OBJECT_COUNT_MAX: usize = 4;

/// Reads every object of `set`, and of the sets that it builds on, back and judges it: a report for each set, oldest first. That of a set tells what
/// is wrong with those before it, too; of a set that cannot be opened there is none.
///
/// # Errors
/// As the repository's verification. Damage is not an error but a critical finding in the report.
pub(crate) async fn inspect_chain(
    repository: &Repository,
    set: &Set,
    observer: &dyn Observer,
) -> Result<Vec<VerifyReport>> {
    let contents: ClusterSetContents = set.contents()?;
    let (mut reports, mut told) = (Vec::new(), Vec::new());
    let mut earlier: Option<ClusterSetContents> = None;
    for link in open_earlier(repository, &contents).await? {
        match link.opened {
            Ok((set, contents)) => {
                let mut report = inspect(repository, &set, earlier.as_ref(), observer).await?;
                told.extend(report.findings.iter().cloned());
                report.findings.clone_from(&told);
                reports.push(report);
                earlier = Some(contents);
            }
            Err(error) => {
                told.push(unusable(&link.record, &error));
                earlier = None;
            }
        }
    }
    let mut report = inspect(repository, set, earlier.as_ref(), observer).await?;
    if told.is_empty() {
        report.findings.extend(combination_faults(repository, set, &contents).await?);
    }
    report.findings.splice(0..0, told);
    reports.push(report);
    Ok(reports)
}

/// A set of a chain that is missing or damaged as a whole.
fn unusable(record: &EarlierSet, error: &Error) -> Finding {
    Finding {
        id: "chain.set_unusable".to_owned(),
        severity: Severity::Critical,
        store: Some(StoreKind::Postgres),
        subject: record.set.to_string(),
        message: format!("which this set builds on, cannot be used: {error}"),
        remedy: "Copy it back from an off-site copy of the repository, or take a whole backup with `mainstay backup create --store postgres`."
            .to_owned(),
    }
}

/// Changes of files that the sets before do not hold.
async fn combination_faults(
    repository: &Repository,
    set: &Set,
    contents: &ClusterSetContents,
) -> Result<Vec<Finding>> {
    if !contents.is_incremental() {
        return Ok(Vec::new());
    }
    let chain = open_chain(repository, set, contents).await?;
    match combination(&chain).await {
        Ok(_) => Ok(Vec::new()),
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(vec![Finding {
            id: "chain.incoherent".to_owned(),
            severity: Severity::Critical,
            store: Some(set.kind()),
            subject: set.id().to_string(),
            message: error.message().to_owned(),
            remedy: "Take a whole backup with `mainstay backup create --store postgres`; this set cannot be restored.".to_owned(),
        }]),
        Err(error) => Err(error),
    }
}

/// Which set of `chain`, oldest first, gives what of which file. One list of files is in memory at a time.
///
/// # Errors
/// `Corrupt` when they do not fit together, or a list cannot be read.
pub(super) async fn combination(chain: &[(Set, ClusterSetContents)]) -> Result<Combination> {
    let Some(((last, contents), earlier)) = chain.split_last() else { return Ok(Combination::default()) };
    if earlier.is_empty() {
        return Ok(Combination::default());
    }
    let corrupt = |set: &Set, faults: Vec<String>| {
        let told = first_of(&faults);
        Error::new(ErrorKind::Corrupt, format!("backup set {} does not fit: {told}", set.id()))
    };
    let list = require_file_list(last, contents).await?;
    let mut deciding = Combination::decide(chain.len(), list.paths());
    drop(list);
    for (number, (set, contents)) in earlier.iter().enumerate().rev() {
        let list = require_file_list(set, contents).await?;
        deciding.older(number, |path| list.file(path).is_some());
        let faults = deciding.take_faults();
        if !faults.is_empty() {
            return Err(corrupt(set, faults));
        }
    }
    deciding.end().map_err(|files| corrupt(last, files))
}

/// As [`file_list`], where there is no going on without it.
async fn require_file_list(set: &Set, contents: &ClusterSetContents) -> Result<Manifest> {
    let bytes = set.read_all(&contents.file_list, MANIFEST_BYTES_MAX).await?;
    Manifest::read(&bytes).map_err(|error| {
        Error::new(ErrorKind::Corrupt, format!("the list of files of backup set {}: {error}", set.id()))
    })
}

/// Reads every object of `set` back and judges it; `earlier` are the contents of the set that it builds on, if they are known.
///
/// # Errors
/// As the repository's verification. Damage is not an error but a critical finding in the report.
pub(super) async fn inspect(
    repository: &Repository,
    set: &Set,
    earlier: Option<&ClusterSetContents>,
    observer: &dyn Observer,
) -> Result<VerifyReport> {
    let contents: Arc<ClusterSetContents> = Arc::new(set.contents()?);
    let foundation = Foundation::of(&contents, earlier);
    let manifest = file_list(set, &contents).await?;
    let inspector = |entry: &ObjectEntry| inspector(&contents, foundation, manifest.as_ref(), entry);
    let mut report = repository.verify(set, &inspector, OBJECT_COUNT_MAX, observer).await?;
    let mut findings = unlisted(set, contents.objects());
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
    foundation: Foundation,
    manifest: Option<&Arc<Manifest>>,
    entry: &ObjectEntry,
) -> Option<Box<dyn Inspector>> {
    if entry.name == contents.file_list {
        return Some(Box::<FileListInspector>::default());
    }
    let place = contents.archives.iter().find(|archive| archive.object == entry.name)?.oid();
    let options =
        judge_options(contents.checksum, contents.page_checksums, contents.begin, contents.is_incremental());
    Some(Box::new(ArchiveInspector {
        place,
        contents: Arc::clone(contents),
        foundation,
        manifest: manifest.cloned(),
        judging: Judging::begin(ArchiveJudge::new(place, options)),
    }))
}

/// Checks an archive while it is read.
struct ArchiveInspector {
    place: Option<u32>,
    contents: Arc<ClusterSetContents>,
    foundation: Foundation,
    manifest: Option<Arc<Manifest>>,
    judging: Result<Judging>,
}

impl Inspector for ArchiveInspector {
    fn bytes(&mut self, plain: &[u8]) {
        self.owned(plain.to_vec());
    }

    fn owned(&mut self, plain: Vec<u8>) {
        if let Ok(judging) = &mut self.judging {
            judging.blocking_bytes(plain.into());
        }
    }

    fn end(self: Box<Self>) -> Vec<String> {
        let Self { place, contents, foundation, manifest, judging } = *self;
        let seen = match judging.and_then(Judging::blocking_end) {
            Ok(seen) => seen,
            Err(error) => return vec![format!("it could not be judged: {error}")],
        };
        let Some(manifest) = manifest else {
            return seen.fault.map(|fault| fault.to_string()).into_iter().collect();
        };
        let places = contents.oids();
        let wal_segment_bytes = contents.wal_segment_bytes;
        let expected =
            Expected { manifest: &manifest, place, places: &places, wal_segment_bytes, foundation };
        let mut faults = expected.faults(&seen);
        // Pages that were damaged on the server are known, and have been told when the set was made.
        faults.extend(KnownDamage::of([contents.as_ref()]).unknown(&seen));
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
