//! Removal of what interrupted backups left behind.
//!
//! Only leftovers: objects of sets that never got a manifest. A set that exists is never touched here, and neither is one that somebody is
//! writing now (its lease is live).

use mainstay_guard::Permit;
use mainstay_model::{ByteSize, Result, ResultExt};
use mainstay_repository::{Leftover, Repository};

/// The operation's registered name.
pub const OPERATION: &str = "backup.prune";

/// What a prune found and did.
#[derive(Debug, Default)]
pub struct PruneReport {
    /// Removed.
    pub removed: Vec<Leftover>,
    /// Left alone, because a running backup holds them.
    pub in_use: Vec<Leftover>,
}

impl PruneReport {
    /// Bytes given back.
    pub fn removed_bytes(&self) -> ByteSize {
        ByteSize(self.removed.iter().map(|leftover| leftover.bytes).sum())
    }
}

/// Lists leftovers, those in use included.
///
/// # Errors
/// What the store fails with.
pub async fn leftovers(repository: &Repository) -> Result<Vec<Leftover>> {
    repository.leftovers().await.context("look for leftovers")
}

/// Removes the leftovers that nobody holds.
///
/// # Errors
/// What the store fails with; what was removed before stays removed, and repeating is safe.
pub async fn prune(repository: &Repository, permit: &Permit) -> Result<PruneReport> {
    debug_assert_eq!(permit.operation(), OPERATION);
    let mut report = PruneReport::default();
    for leftover in leftovers(repository).await? {
        if leftover.in_use {
            report.in_use.push(leftover);
            continue;
        }
        repository.remove_leftover(&leftover).await.context("remove leftover")?;
        report.removed.push(leftover);
    }
    Ok(report)
}
