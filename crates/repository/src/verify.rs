//! Verification: a set is read back, every byte of every object, and what is wrong is named.

use std::collections::BTreeSet;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use mainstay_journal::Sequence;
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{
    Blake3, Error, ErrorKind, Finding, ObjectName, Result, ResultExt, SetId, Severity, StoreKind, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::decode::{Consumer, Decoding, ObjectSite, prove_stored};
use crate::layout;
use crate::manifest::ObjectEntry;
use crate::repository::{Place, Repository};
use crate::set::Set;

/// The kind of a sealed verification record.
const VERIFICATION_KIND: &str = "verification";

/// How often recording is tried again when another verification of the same set took the number.
const RECORD_ATTEMPTS_MAX: usize = 16;

/// How many of an inspector's faults are told per object.
const FAULTS_MAX: usize = 20;

/// Looks at an object's plain bytes while they are verified, for whoever knows what they mean: every document's frame, a checksum inside.
pub trait Inspector: Send {
    /// The next plain bytes, in order. Runs on a blocking thread.
    fn bytes(&mut self, plain: &[u8]);
    /// The same, for who keeps them.
    fn owned(&mut self, plain: Vec<u8>) {
        self.bytes(&plain);
    }
    /// The faults found, one line each; empty when all is well. Runs on a blocking thread.
    fn end(self: Box<Self>) -> Vec<String>;
}

/// Chooses the inspector of an object, if it has one.
pub type Inspectors<'a> = dyn Fn(&ObjectEntry) -> Option<Box<dyn Inspector>> + Send + Sync + 'a;

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VerifyReport {
    /// The set.
    pub set_id: SetId,
    /// The store it is a backup of.
    pub store: StoreKind,
    /// The hash that seals its manifest.
    pub manifest: Blake3,
    /// How many objects the manifest names.
    pub objects: u64,
    /// How many plain bytes were read back.
    pub bytes: u64,
    /// How many stored bytes the manifest names.
    pub stored_bytes: u64,
    /// What is wrong, worst first, then by object.
    pub findings: Vec<Finding>,
    /// When the verification ended.
    pub at: Timestamp,
    /// How long it took.
    pub seconds: f64,
}

impl VerifyReport {
    /// True when the set can be restored: no finding is critical.
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity < Severity::Critical)
    }
}

/// What a verification of some of a set's objects found. It says nothing of the others, so it cannot be recorded as one of the set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SelectionReport {
    /// How many objects were read back.
    pub objects: u64,
    /// How many plain bytes were read back; stored ones where nothing was decoded.
    pub bytes: u64,
    /// What is wrong, worst first, then by object.
    pub findings: Vec<Finding>,
    /// How long it took.
    pub seconds: f64,
}

impl SelectionReport {
    /// True when the selected objects can be restored: no finding is critical.
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity < Severity::Critical)
    }
}

/// A verification as it is recorded in the repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerificationRecord {
    /// The set.
    pub set_id: SetId,
    /// The hash that sealed its manifest at that time.
    pub manifest: Blake3,
    /// When the verification ended.
    pub at: Timestamp,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// How many objects the manifest named.
    pub objects: u64,
    /// How many plain bytes were read back.
    pub bytes: u64,
    /// The version of mainstay that verified.
    pub tool_version: String,
    /// What was wrong.
    pub findings: Vec<Finding>,
}

impl VerificationRecord {
    /// True when the set could be restored.
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity < Severity::Critical)
    }
}

impl Repository {
    /// Reads back every byte of `set`: description and manifest again, then each object's stored size and hash, decryption,
    /// decompression, plain size, and what its inspector says of the plain bytes. Objects in the folder that the manifest does not name
    /// are noted. At most `concurrency` objects are read at the same time. Changes nothing.
    ///
    /// # Errors
    /// Whatever kept it from reading: [`ErrorKind::Precondition`] or [`ErrorKind::Auth`] when the set is encrypted and no identity fits,
    /// the store's errors. Damage is a finding, not an error.
    pub async fn verify(
        &self,
        set: &Set,
        inspectors: &Inspectors<'_>,
        concurrency: usize,
        observer: &dyn Observer,
    ) -> Result<VerifyReport> {
        let begun_at = self.now();
        let manifest = set.manifest();
        let entries: Vec<&ObjectEntry> = manifest.objects.iter().collect();
        let (mut findings, bytes) = self.read_back(set, &entries, inspectors, concurrency, observer).await?;
        findings.extend(self.unnamed_objects(set).await?);
        sort(&mut findings);
        let at = self.now();
        Ok(VerifyReport {
            set_id: set.id().clone(),
            store: set.kind(),
            manifest: set.manifest_blake3(),
            objects: manifest.objects.len() as u64,
            bytes,
            stored_bytes: manifest.stored_bytes(),
            findings,
            at,
            seconds: at.duration_since(begun_at).as_secs_f64(),
        })
    }

    /// As [`Repository::verify`], for the objects called `names` alone, with description and manifest; the set's folder is not listed. For
    /// whoever needs just these and cannot take back what a damaged one would do.
    ///
    /// # Errors
    /// As [`Repository::verify`]; [`ErrorKind::NotFound`] when the manifest does not name one of them.
    pub async fn verify_objects(
        &self,
        set: &Set,
        names: &BTreeSet<ObjectName>,
        inspectors: &Inspectors<'_>,
        concurrency: usize,
        observer: &dyn Observer,
    ) -> Result<SelectionReport> {
        let begun_at = self.now();
        let entries = names.iter().map(|name| set.require(name)).collect::<Result<Vec<_>>>()?;
        let (mut findings, bytes) = self.read_back(set, &entries, inspectors, concurrency, observer).await?;
        sort(&mut findings);
        let seconds = self.now().duration_since(begun_at).as_secs_f64();
        Ok(SelectionReport { objects: entries.len() as u64, bytes, findings, seconds })
    }

    /// Proves that the stored bytes of every object are those that the manifest of `set` was sealed for, and that the seal is whole. What the
    /// bytes mean is not looked at: for whoever knows from a recorded verification of the same manifest that they are sound, and has to
    /// know that they still are. Costs no decryption and no decompression.
    ///
    /// # Errors
    /// As [`Repository::verify`].
    pub async fn verify_stored(
        &self,
        set: &Set,
        concurrency: usize,
        observer: &dyn Observer,
    ) -> Result<SelectionReport> {
        let begun_at = self.now();
        let entries = &set.manifest().objects;
        set.check_readable()?;
        observer.phase(&format!("check {}", set.id()));
        observer.expect(entries.iter().map(|entry| Work { items: 1, bytes: entry.stored_bytes }).sum());
        let mut findings = self.verify_sealed(set).await?;
        let proven = futures::stream::iter(entries)
            .map(|entry| prove_object(set, entry, observer))
            .buffer_unordered(concurrency.max(1))
            .collect::<Vec<_>>()
            .await;
        for finding in proven {
            findings.extend(finding?);
        }
        sort(&mut findings);
        let seconds = self.now().duration_since(begun_at).as_secs_f64();
        let bytes = set.manifest().stored_bytes();
        Ok(SelectionReport { objects: entries.len() as u64, bytes, findings, seconds })
    }

    /// What both verifications have in common: the sealed files, and every byte of the objects of `entries`.
    async fn read_back(
        &self,
        set: &Set,
        entries: &[&ObjectEntry],
        inspectors: &Inspectors<'_>,
        concurrency: usize,
        observer: &dyn Observer,
    ) -> Result<(Vec<Finding>, u64)> {
        set.check_readable()?;
        observer.phase(&format!("verify {}", set.id()));
        observer.expect(entries.iter().map(|entry| Work { items: 1, bytes: entry.plain_bytes }).sum());
        let mut findings = self.verify_sealed(set).await?;
        let (faults, bytes) = verify_entries(set, entries, inspectors, concurrency.max(1), observer).await?;
        findings.extend(faults);
        Ok((findings, bytes))
    }

    /// Reads `mainstay.json` and the manifest again: they may have been damaged since they were opened.
    async fn verify_sealed(&self, set: &Set) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        if let Err(error) = self.check_description().await {
            findings.push(sealed_finding(set, "repository.damaged", layout::description().as_str(), error)?);
        }
        let key = layout::manifest(set.kind(), set.id());
        match self.place(set.kind(), set.id()).await {
            Ok(Place::Manifest(_, blake3)) if blake3 == set.manifest_blake3() => {}
            Ok(_) => findings.push(finding(
                set,
                "manifest.changed",
                key.as_str(),
                "is not the manifest that was opened",
            )),
            Err(error) => findings.push(sealed_finding(set, "manifest.damaged", key.as_str(), error)?),
        }
        Ok(findings)
    }

    async fn unnamed_objects(&self, set: &Set) -> Result<Vec<Finding>> {
        let folder = layout::set(set.kind(), set.id());
        let mut named = BTreeSet::from([layout::manifest(set.kind(), set.id())]);
        for entry in &set.manifest().objects {
            named.insert(layout::object(set.kind(), set.id(), &entry.name, entry.encryption)?);
        }
        let objects =
            self.store().list(&folder).await.with_context(|| format!("list objects of set {}", set.id()))?;
        let unnamed = objects.into_iter().filter(|info| !named.contains(&info.key));
        Ok(unnamed
            .map(|info| Finding {
                id: "object.unnamed".to_owned(),
                severity: Severity::Note,
                store: Some(set.kind()),
                subject: info.key.to_string(),
                message: format!(
                    "lies in the set's folder with {} bytes, but the manifest does not name it",
                    info.bytes
                ),
                remedy: "Nothing needs it; delete it by hand if it is not yours.".to_owned(),
            })
            .collect())
    }

    /// Records a verification beside the set, and tells its number.
    ///
    /// # Errors
    /// The store's.
    pub async fn record_verification(&self, report: &VerifyReport) -> Result<u64> {
        let record = VerificationRecord {
            set_id: report.set_id.clone(),
            manifest: report.manifest,
            at: report.at,
            duration_ms: (report.seconds.max(0.0) * 1000.0) as u64,
            objects: report.objects,
            bytes: report.bytes,
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            findings: report.findings.clone(),
        };
        let sequence = self.verification_sequence(report.store, &report.set_id);
        let mut attempt = 1;
        loop {
            // A damaged record does not keep newer ones away, so that verifying again settles the set's state.
            let number = sequence.numbers().await?.last().map_or(1, |last| last + 1);
            match sequence.append(number, &record).await {
                Ok(_) => return Ok(number),
                Err(error) if error.kind() == ErrorKind::Conflict && attempt < RECORD_ATTEMPTS_MAX => {
                    attempt += 1
                }
                Err(error) => {
                    return Err(error.context(format!("record verification of set {}", report.set_id)));
                }
            }
        }
    }

    /// The recorded verifications of a set, oldest first.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] naming a damaged record; the store's.
    pub async fn verifications(&self, kind: StoreKind, id: &SetId) -> Result<Vec<VerificationRecord>> {
        let entries = self.verification_sequence(kind, id).all().await?;
        Ok(entries.into_iter().map(|entry| entry.body).collect())
    }

    /// Whether any verification of a set is recorded, be its record readable or not.
    pub(crate) async fn was_verified(&self, kind: StoreKind, id: &SetId) -> Result<bool> {
        let numbers = self.verification_sequence(kind, id).numbers().await;
        Ok(!numbers.with_context(|| format!("list verifications of set {id}"))?.is_empty())
    }

    /// The last recorded verification of a set; `None` when there is none, and also when its record is damaged or of a newer version, or
    /// belongs to another set: then the set does not count as verified, and nothing else is held up by it.
    ///
    /// # Errors
    /// The store's.
    pub async fn last_verification(&self, kind: StoreKind, id: &SetId) -> Result<Option<VerificationRecord>> {
        match self.verification_sequence(kind, id).last::<VerificationRecord>().await {
            Ok(entry) => Ok(entry.map(|entry| entry.body).filter(|record| record.set_id == *id)),
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => Ok(None),
            Err(error) => Err(error.context(format!("read the last verification of set {id}"))),
        }
    }

    fn verification_sequence(&self, kind: StoreKind, id: &SetId) -> Sequence {
        Sequence::new(self.store().clone(), layout::verifications(kind, id), VERIFICATION_KIND)
    }
}

/// Damage of a sealed object as a finding; any other error is passed on.
fn sealed_finding(set: &Set, id: &str, subject: &str, error: Error) -> Result<Finding> {
    match error.kind() {
        ErrorKind::Corrupt | ErrorKind::Unsupported | ErrorKind::NotFound => {
            Ok(finding(set, id, subject, error.message()))
        }
        _ => Err(error),
    }
}

fn finding(set: &Set, id: &str, subject: &str, message: &str) -> Finding {
    Finding {
        id: id.to_owned(),
        severity: Severity::Critical,
        store: Some(set.kind()),
        subject: subject.to_owned(),
        message: message.to_owned(),
        remedy: "Copy this object back from an off-site copy of the repository, or take a new backup with \
                 `mainstay backup create`."
            .to_owned(),
    }
}

/// Worst first, then by object.
pub(crate) fn sort(findings: &mut [Finding]) {
    findings.sort_by(|one, other| (other.severity, &one.subject).cmp(&(one.severity, &other.subject)));
}

/// Verifies the objects of `entries`, `concurrency` at a time: findings and plain bytes read.
async fn verify_entries(
    set: &Set,
    entries: &[&ObjectEntry],
    inspectors: &Inspectors<'_>,
    concurrency: usize,
    observer: &dyn Observer,
) -> Result<(Vec<Finding>, u64)> {
    let mut waiting = entries.iter();
    let mut running = FuturesUnordered::new();
    let (mut findings, mut bytes) = (Vec::new(), 0_u64);
    loop {
        while running.len() < concurrency
            && let Some(entry) = waiting.next()
        {
            running.push(verify_object(set.kind(), set.site(entry)?, inspectors(entry), observer));
        }
        let Some(verified) = running.next().await else { return Ok((findings, bytes)) };
        let (faults, read) = verified?;
        findings.extend(faults);
        bytes = bytes.saturating_add(read);
    }
}

/// What is wrong with the stored bytes of an object, if anything is.
async fn prove_object(set: &Set, entry: &ObjectEntry, observer: &dyn Observer) -> Result<Option<Finding>> {
    let site = set.site(entry)?;
    let proven = prove_stored(&site, |bytes| observer.advance(Work { items: 0, bytes })).await;
    observer.advance(Work { items: 1, bytes: 0 });
    match proven {
        Ok(()) => Ok(None),
        Err(fault) => fault.into_finding(set.kind(), site.key.as_str()).map(Some),
    }
}

pub(crate) async fn verify_object(
    kind: StoreKind,
    site: ObjectSite,
    inspector: Option<Box<dyn Inspector>>,
    observer: &dyn Observer,
) -> Result<(Vec<Finding>, u64)> {
    let subject = site.key.to_string();
    let mut read = 0;
    let (consumer, outcome) = match Decoding::begin(&site, Inspected(inspector)).await {
        Ok(mut decoding) => {
            while let Some(bytes) = decoding.next().await {
                read += bytes;
                observer.advance(Work { items: 0, bytes });
            }
            decoding.end().await
        }
        Err(fault) => (None, Err(fault)),
    };
    observer.advance(Work { items: 1, bytes: 0 });
    match outcome {
        Ok(()) => {
            let faults = match consumer.and_then(|consumer| consumer.0) {
                Some(inspector) => end(inspector).await?,
                None => Vec::new(),
            };
            Ok((inspector_findings(kind, &subject, &faults), read))
        }
        // What an inspector thinks of bytes that are not those that were written does not matter.
        Err(fault) => Ok((vec![fault.into_finding(kind, &subject)?], read)),
    }
}

/// What an inspector found; it may have much to compare.
async fn end(inspector: Box<dyn Inspector>) -> Result<Vec<String>> {
    tokio::task::spawn_blocking(move || inspector.end()).await.map_err(|source| {
        Error::new(ErrorKind::Internal, "the inspection of an object ended early").with_source(source)
    })
}

fn inspector_findings(kind: StoreKind, subject: &str, faults: &[String]) -> Vec<Finding> {
    let malformed = |message: String| Finding {
        id: "object.malformed".to_owned(),
        severity: Severity::Critical,
        store: Some(kind),
        subject: subject.to_owned(),
        message,
        remedy: "The object was stored as it was written; take a new backup with `mainstay backup create`."
            .to_owned(),
    };
    let mut findings: Vec<_> = faults.iter().take(FAULTS_MAX).cloned().map(malformed).collect();
    if faults.len() > FAULTS_MAX {
        findings.push(malformed(format!("{} more faults of the same object", faults.len() - FAULTS_MAX)));
    }
    findings
}

/// Counts plain bytes and shows them to the inspector.
struct Inspected(Option<Box<dyn Inspector>>);

impl Consumer for Inspected {
    type Item = u64;

    fn chunk(&mut self, plain: Vec<u8>) -> u64 {
        let bytes = plain.len() as u64;
        if let Some(inspector) = &mut self.0 {
            inspector.owned(plain);
        }
        bytes
    }
}
