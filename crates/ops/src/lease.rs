//! One at a time: who changes a server in several steps holds a lease of its name in the repository meanwhile.

use std::sync::Arc;

use jiff::SignedDuration;
use mainstay_journal::{KeptLease, Lease};
use mainstay_model::progress::Observer;
use mainstay_model::{Blake3, Clock, Result, ResultExt};
use mainstay_repository::Repository;

/// Who takes a lease, and for how long it outlives a process that is killed.
pub struct Holder<'a> {
    /// For people: `user@host`.
    pub name: &'a str,
    /// How long the lease is held without being renewed.
    pub lease_ttl: SignedDuration,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

/// Takes the lease of those who do `what` to the server with this `fingerprint`.
///
/// # Errors
/// `Locked` when somebody holds it, saying who and until when; the store's.
pub(crate) async fn take(
    repository: &Repository,
    holder: &Holder<'_>,
    what: &str,
    fingerprint: &str,
) -> Result<KeptLease> {
    let name = format!("{what}-{}", Blake3::of(fingerprint.as_bytes()).short());
    let clock = Arc::clone(&holder.clock);
    let lease = Lease::acquire(repository.store(), clock, &name, holder.name, holder.lease_ttl).await;
    Ok(lease.with_context(|| format!("take the {what} lease of this server"))?.keep())
}

/// Gives a lease back. One that cannot be given back runs out by itself.
pub(crate) async fn give_back(lease: KeptLease, what: &str, observer: &dyn Observer) {
    if let Err(error) = lease.release().await {
        observer.notice(&format!("warning: the {what} lease stays until it runs out: {error}"));
    }
}
