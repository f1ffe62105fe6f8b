//! Removing what matches.

use mainstay_engine::{KeyScanRequest, Keyspace};
use mainstay_guard::Permit;
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{Count, Error, ErrorKind, Plan, Result, ResultExt};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::PurgeRequest;
use super::plan::check;

/// What a purge works with.
pub struct PurgeContext<'a> {
    /// The keys.
    pub keyspace: &'a dyn Keyspace,
    /// Told how far it is.
    pub observer: &'a dyn Observer,
    /// Stops at the next step.
    pub cancel: &'a CancellationToken,
}

/// What a purge did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PurgeReport {
    /// Keys that it removed.
    pub removed: u64,
    /// Keys that the plan had counted.
    pub planned: u64,
}

/// Removes what matches `plan`'s patterns now.
///
/// # Errors
/// The store's, `Interrupted` when cancelled; the state says how many keys are gone by then. Applying the plan again goes on.
pub async fn apply(context: &PurgeContext<'_>, plan: &Plan, permit: &Permit) -> Result<PurgeReport> {
    permit.covers(plan)?;
    let request: PurgeRequest = serde_json::from_value(plan.parameters.clone()).map_err(|source| {
        Error::new(ErrorKind::Usage, "the plan's parameters are not those of a purge").with_source(source)
    })?;
    check(&request)?;
    context.observer.phase("purge");
    context.observer.expect(Work { items: plan.blast_radius.items, bytes: 0 });
    let mut removed = 0;
    match sweep(context, &request, permit, &mut removed).await {
        Ok(()) => Ok(PurgeReport { removed, planned: plan.blast_radius.items }),
        Err(error) => Err(error
            .with_state(format!(
                "at least {} keys are removed; the others that match stay whole",
                Count(removed)
            ))
            .with_hint("the same patterns again remove the rest")),
    }
}

async fn sweep(
    context: &PurgeContext<'_>,
    request: &PurgeRequest,
    permit: &Permit,
    removed: &mut u64,
) -> Result<()> {
    let databases = request.databases(context.keyspace).await?;
    for (index, pattern) in request.patterns.iter().enumerate() {
        let is_meant = request.selector(index, context.keyspace.marker());
        let scan_request = KeyScanRequest {
            databases: databases.clone(),
            pattern: Some(pattern.clone().into_bytes()),
            answer_time_max: request.answer_time_max(),
            // No lifetimes are asked for.
            now: 0,
        };
        let mut sweep = context.keyspace.sweep(scan_request).await?;
        while let Some(mut names) = sweep.next().await? {
            names.retain(|name| is_meant(name));
            if context.cancel.is_cancelled() {
                return Err(Error::new(ErrorKind::Interrupted, "the purge was stopped on request"));
            }
            let gone = sweep.remove(&names, permit).await.with_context(|| format!("purge {pattern}"))?;
            *removed += gone;
            context.observer.advance(Work { items: gone, bytes: 0 });
        }
    }
    Ok(())
}
