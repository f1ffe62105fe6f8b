//! Verification of a backup set: every stored byte is read back and judged, and the outcome is recorded.

use mainstay_guard::BackupEvidence;
use mainstay_model::progress::Observer;
use mainstay_model::{Result, ResultExt, StoreKind};
use mainstay_repository::{Repository, Set, VerificationRecord, VerifyReport};

use crate::append_only::{self, AppendOnlySetContents};
use crate::contents::{DocumentSetContents, Needed};
use crate::inspect::inspect;
use crate::logical::{self, LogicalSetContents};
use crate::{cluster, keyfile};

/// Reads every object of `set` and of the sets that it builds on back, judges it, and records the outcome in the repository, for each of
/// them. Whether that could be recorded is told beside the verdict, which is worth as much without a record.
///
/// # Errors
/// `Corrupt` when the manifest itself is not readable; `Storage` or `Unreachable` when the store fails. Damage to objects is not an error
/// but a critical finding in the report.
pub async fn verify(
    repository: &Repository,
    set: &Set,
    observer: &dyn Observer,
) -> Result<(VerifyReport, Result<()>)> {
    let mut reports = match set.kind() {
        StoreKind::Postgres if LogicalSetContents::is_of(set) => {
            vec![logical::inspect(repository, set, observer).await?]
        }
        StoreKind::Postgres => cluster::inspect_chain(repository, set, observer).await?,
        StoreKind::Redis if AppendOnlySetContents::is_of(set) => {
            vec![append_only::inspect(repository, set, observer).await?]
        }
        StoreKind::Redis => vec![keyfile::inspect(repository, set, observer).await?],
        StoreKind::Mongo => vec![inspect(repository, set, observer).await?],
    };
    let mut recorded = Ok(());
    for report in &reports {
        let one = repository.record_verification(report).await.context("record the verification");
        recorded = recorded.and(one.map(drop));
    }
    let mut report = reports.pop().expect("there is a report of the set itself");
    for earlier in reports {
        report.objects += earlier.objects;
        report.bytes = report.bytes.saturating_add(earlier.bytes);
        report.stored_bytes = report.stored_bytes.saturating_add(earlier.stored_bytes);
        report.seconds += earlier.seconds;
    }
    Ok((report, recorded))
}

/// The newest sound backup of the server with this `fingerprint` that holds everything `needed`, as evidence for the guard. Damaged sets,
/// sets of other servers and sets that hold less do not count.
///
/// # Errors
/// What the store fails with.
pub async fn evidence(repository: &Repository, fingerprint: &str, needed: &Needed) -> Result<BackupEvidence> {
    let counts = |set: &Set| covers(set, fingerprint, needed);
    let evidence = evidence_among(repository, StoreKind::Mongo, fingerprint, counts).await?;
    Ok(BackupEvidence { with_accounts: needed.accounts, ..evidence })
}

/// The newest sound set of `kind` that `counts` as a backup of the server with this `fingerprint`.
///
/// # Errors
/// What the store fails with.
pub(crate) async fn evidence_among(
    repository: &Repository,
    kind: StoreKind,
    fingerprint: &str,
    counts: impl Fn(&Set) -> bool,
) -> Result<BackupEvidence> {
    let entries = repository.sets(Some(kind)).await.context("look for verified backups")?;
    let sets: Vec<Set> = entries.into_iter().filter_map(|entry| entry.into_set().ok()).collect();
    let Some((set, record)) = newest_sound(sets.iter().rev().filter(|set| counts(set))).await? else {
        return Ok(BackupEvidence::default());
    };
    Ok(BackupEvidence {
        newest_verified: Some((set.id().clone(), record.at)),
        fingerprint: Some(fingerprint.to_owned()),
        with_accounts: false,
    })
}

/// The first of `sets` that its last verification found sound, with that.
///
/// # Errors
/// What the store fails with.
pub(crate) async fn newest_sound<'s>(
    sets: impl Iterator<Item = &'s Set>,
) -> Result<Option<(&'s Set, VerificationRecord)>> {
    for set in sets {
        if let Some(record) = set.verdict().await?.filter(VerificationRecord::is_sound) {
            return Ok(Some((set, record)));
        }
    }
    Ok(None)
}

fn covers(set: &Set, fingerprint: &str, needed: &Needed) -> bool {
    set.contents::<DocumentSetContents>()
        .is_ok_and(|contents| contents.server.fingerprint == fingerprint && contents.holds(needed))
}
