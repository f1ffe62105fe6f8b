//! What `sql rehearse` and `sql drift` share: the target and the permit of a shadow database, and what `[init]` has made before any migration.

use mainstay_engine::RehearsalHost;
use mainstay_guard::{BackupEvidence, Guard, Permit};
use mainstay_migrations::ObjectName;
use mainstay_model::{Error, Plan, Result, StoreKind, Target};

use super::repository;
use crate::wiring::Session;

/// The environment, with the server that shadows are made on.
///
/// # Errors
/// The servers'; `Refused` when configuration and marker contradict each other.
pub(super) async fn shadow_target(host: &dyn RehearsalHost, session: &Session) -> Result<Target> {
    let live = live_target(session).await?;
    let server = host.shadow_server().await?;
    Ok(Target { fingerprint: server.fingerprint, address: server.address, ..live })
}

/// The environment, with the live server.
///
/// # Errors
/// As [`shadow_target`].
pub(super) async fn live_target(session: &Session) -> Result<Target> {
    let probe = session.probe(StoreKind::Postgres).await?;
    session.target(probe.as_ref()).await
}

/// A permit for `plan`, and the guard that closes it.
///
/// # Errors
/// `Refused` by policy; the audit log's.
pub(super) async fn permitted(plan: &Plan, session: &Session) -> Result<(Guard, Permit)> {
    let repository = repository(session).await?;
    let guard = session.guard_of(repository.as_ref());
    let permit =
        guard.permit(plan, &BackupEvidence::default(), &session.consent(None)?).await.map_err(by_terminal)?;
    Ok((guard, permit))
}

/// There is no plan file of this to approve by its hash.
fn by_terminal(refusal: Error) -> Error {
    match refusal.hint().is_some_and(|hint| hint.contains("--approve")) {
        true => {
            refusal.with_hint("run it at a terminal, or leave `--on-live` out: a shadow database asks nobody")
        }
        false => refusal,
    }
}

/// Statements that make what `[init.postgres]` declares of the database called `database` and migrations build on: schemas and extensions.
pub(super) fn prelude(session: &Session, database: &str) -> Vec<String> {
    let declared = session.configuration.init.as_ref().and_then(|init| init.postgres.as_ref());
    let of_database = declared.and_then(|section| section.databases.iter().find(|one| one.name == database));
    let Some(declared) = of_database else { return Vec::new() };
    let quoted = |name: &str| ObjectName { schema: None, name: name.to_owned() }.quoted();
    let schemas =
        declared.schemas.iter().map(|(name, _)| format!("CREATE SCHEMA IF NOT EXISTS {}", quoted(name)));
    let extensions =
        declared.extensions.iter().map(|name| format!("CREATE EXTENSION IF NOT EXISTS {}", quoted(name)));
    schemas.chain(extensions).collect()
}
