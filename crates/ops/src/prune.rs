//! Removal of what interrupted backups left behind.
//!
//! Only leftovers: objects of sets that never got a manifest. A set that exists is never touched here, and neither is one that somebody is
//! writing now (its lease is live).

use mainstay_guard::{Permit, operation};
use mainstay_model::{
    BlastRadius, ByteSize, Clock, EnvironmentClass, PLAN_FORMAT, Plan, PlanStep, Result, ResultExt,
    StoreKind, Target,
};
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

/// Decides a prune of `repository`: what nobody holds is removed. It concerns the repository alone, whatever environment that belongs to.
///
/// # Errors
/// What the store fails with.
pub async fn plan(
    repository: &Repository,
    environment: &str,
    class: EnvironmentClass,
    clock: &dyn Clock,
) -> Result<Plan> {
    let step = |leftover: &Leftover| PlanStep {
        name: format!("remove {}", leftover.subject()),
        mark: if leftover.in_use { ' ' } else { '-' },
        summary: format!("{} objects, {}", leftover.objects, ByteSize(leftover.bytes)),
    };
    let created_at = clock.now();
    Ok(Plan {
        format: PLAN_FORMAT,
        operation: OPERATION.to_owned(),
        effect: operation(OPERATION).expect("prune is registered").effect,
        target: Target {
            environment: environment.to_owned(),
            class,
            store: StoreKind::Mongo,
            fingerprint: format!("repository {}", repository.id()),
            address: repository.store().describe(),
        },
        assumptions: Vec::new(),
        steps: leftovers(repository).await?.iter().map(step).collect(),
        blast_radius: BlastRadius { phrase: "prune leftovers".to_owned(), items: 0, bytes: 0 },
        parameters: serde_json::Value::Null,
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// Removes the leftovers that nobody holds now.
///
/// # Errors
/// What the store fails with; what was removed before stays removed, and repeating is safe.
pub async fn prune(repository: &Repository, plan: &Plan, permit: &Permit) -> Result<PruneReport> {
    permit.covers(plan)?;
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
