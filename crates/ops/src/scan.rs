//! What reading a document store at one moment has in common, wherever the documents go.

use mainstay_engine::{CollectionInfo, CollectionKind, Consistency, Namespace, PreparedScan, Snapshot};
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{Result, ResultExt};

/// Splits a collection into ranges and finds out which moment the server grants it; a view has no ranges. A collection that is read outside
/// the moment is told.
pub(crate) async fn prepare(
    snapshot: &dyn Snapshot,
    info: &CollectionInfo,
    scan_count_max: usize,
    observer: &dyn Observer,
) -> Result<(Option<PreparedScan>, Consistency)> {
    if info.kind == CollectionKind::View {
        return Ok((None, snapshot.consistency().clone()));
    }
    let prepared = snapshot
        .prepare(info, scan_count_max)
        .await
        .with_context(|| format!("prepare scan of {}", info.namespace))?;
    let consistency = prepared.consistency.clone();
    if let Consistency::DuringScan { reason } = &consistency
        && consistency != *snapshot.consistency()
    {
        tell_outside(observer, &info.namespace, reason);
    }
    Ok((Some(prepared), consistency))
}

/// Tells that `namespace` is not read at the moment.
pub(crate) fn tell_outside(observer: &dyn Observer, namespace: &Namespace, reason: &str) {
    observer.notice(&format!("warning: {namespace} is read outside the moment: {reason}"));
}

/// How much there is to read, as far as the server can tell.
pub(crate) fn total_estimate(collections: &[CollectionInfo]) -> Work {
    collections.iter().map(|collection| collection.estimate).sum()
}

/// Tells which moment is read, and what reading it so does not give.
pub(crate) fn tell_snapshot(observer: &dyn Observer, snapshot: &dyn Snapshot) {
    tell_consistency(observer, snapshot.consistency());
    for limit in snapshot.limits() {
        observer.notice(&format!("warning: {limit}"));
    }
}

/// Tells which moment is read.
pub(crate) fn tell_consistency(observer: &dyn Observer, consistency: &Consistency) {
    match consistency {
        Consistency::ClusterTime { at } => {
            observer.notice(&format!(
                "consistency: one moment for all collections, cluster time {at} ({})",
                at.timestamp()
            ));
        }
        Consistency::DuringScan { reason } => {
            observer.notice(&format!(
                "warning: consistency: no single moment, each document as the scan meets it: {reason}"
            ));
        }
    }
}
