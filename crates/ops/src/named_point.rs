//! Named restore points: a place in a server's log gets a name, by the server and in the repository.
//!
//! The server writes the name into its log, where a recovery finds it; the repository keeps name and position, so that they can be listed and
//! no name is given twice, for a recovery stops at the first. Relies on [`WalSource`]. Refuses names that could mean another kind of moment.

use mainstay_engine::WalSource;
use mainstay_guard::Permit;
use mainstay_model::{
    BlastRadius, Clock, Effect, Error, ErrorKind, Lsn, PLAN_FORMAT, Plan, PlanStep, Result, ResultExt,
    StoreKind, Target,
};
use mainstay_repository::{NamedPoint, NewPoint, PointEntry, Repository};
use serde::{Deserialize, Serialize};

/// The operation's registered name.
pub const OPERATION: &str = "restore.point.create";

/// The longest name that a server takes, in bytes.
const NAME_BYTES_MAX: usize = 63;

/// The decided parameters.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    name: String,
}

/// Refuses what cannot be the name of a point.
///
/// # Errors
/// `Usage`.
pub fn check_name(name: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
    if (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(allowed)
        && !is_number
        && name != "latest"
    {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Usage, format!("`{name}` cannot be the name of a restore point"))
        .with_state("nothing was changed")
        .with_hint("a name has up to 63 letters, digits, dots, dashes and underscores, is no number and not `latest`"))
}

/// Says what would be named.
///
/// # Errors
/// `Usage` for a name that cannot be; `Conflict` when the server has a point of that name; the store's.
pub async fn plan(
    repository: Option<&Repository>,
    target: Target,
    name: &str,
    clock: &dyn Clock,
) -> Result<Plan> {
    check_name(name)?;
    if let Some(repository) = repository {
        check_free(repository, &target, name).await?;
    }
    let created_at = clock.now();
    Ok(Plan {
        format: PLAN_FORMAT,
        operation: OPERATION.to_owned(),
        effect: Effect::Additive,
        blast_radius: BlastRadius {
            phrase: format!("name a point of {}", target.environment),
            items: 0,
            bytes: 0,
        },
        assumptions: Vec::new(),
        steps: vec![PlanStep {
            name: format!("name {name}"),
            mark: '+',
            summary: format!("the end of the log of {}", target.address),
        }],
        target,
        parameters: serde_json::to_value(Parameters { name: name.to_owned() })
            .expect("a name has a JSON form"),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

async fn check_free(repository: &Repository, target: &Target, name: &str) -> Result<()> {
    match repository.point(target.store, &target.fingerprint, name).await? {
        None => Ok(()),
        Some(point) => Err(Error::new(
            ErrorKind::Conflict,
            format!("restore point `{name}` exists already, at {} of {}", Lsn(point.at.0), point.created_at),
        )
        .with_state("nothing was changed")
        .with_hint("choose another name; `mainstay restore point list` lists those that are taken")),
    }
}

/// Creates the point of `plan`. `created_by` says who, for whoever lists it.
///
/// # Errors
/// As [`plan`]; the server's. When the server has named the point and the repository cannot keep it, the error says so: a restore finds the
/// name in the log nevertheless.
pub async fn create(
    repository: &Repository,
    source: &dyn WalSource,
    created_by: &str,
    plan: &Plan,
    permit: &Permit,
) -> Result<NamedPoint> {
    permit.covers(plan)?;
    let Parameters { name } = serde_json::from_value(plan.parameters.clone()).map_err(|source| {
        Error::new(ErrorKind::Usage, "the plan's parameters are not those of a restore point")
            .with_source(source)
    })?;
    check_name(&name)?;
    check_free(repository, &plan.target, &name).await?;
    let made = source.create_restore_point(&name, permit).await?;
    let new = NewPoint {
        name: name.clone(),
        store: StoreKind::Postgres,
        server: plan.target.fingerprint.clone(),
        environment: plan.target.environment.clone(),
        at: made.at.into(),
        timeline: Some(made.timeline),
        created_by: created_by.to_owned(),
    };
    repository.keep_point(new).await.map_err(|error| {
        error.with_state(format!(
            "the server's log has the point at {}, and a restore finds it there; the repository does not list it",
            made.at
        ))
    })
}

/// All points, by server and position; those that cannot be read last.
///
/// # Errors
/// The store's.
pub async fn list(repository: &Repository) -> Result<Vec<PointEntry>> {
    repository.points(StoreKind::Postgres).await.context("list restore points")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_nothing_else() {
        for good in ["before-sale", "v1.2", "2026-11-25", "a", "5m"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        let long = "x".repeat(64);
        for bad in ["", "latest", "735", "0/3000028", "5m ago", "2026-11-25T19:00:00Z", "a b", "é", &long] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
