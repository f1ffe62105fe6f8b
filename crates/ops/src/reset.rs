//! Wiping a development database: dropped with everything in it, made anew and empty with the same owner, encoding and locale.
//!
//! Impossible anywhere else. The environment must be development by every source, and the marker *inside the database* must say so: without one it
//! counts as production, whatever the configuration says. That is looked at when the plan is made, when it is applied, and by the adapter
//! once more on the connection before it drops anything. The plan is for one database of one server by their own numbers, so that a URL that
//! points elsewhere by then changes nothing.

use mainstay_engine::{DatabaseDefinition, DatabaseFacts, DatabaseReset};
use mainstay_guard::{Marker, Permit, operation};
use mainstay_model::{
    Assumption, BlastRadius, ByteSize, Clock, Count, EnvironmentClass, Error, ErrorKind, PLAN_FORMAT, Plan,
    PlanStep, Result, Target,
};
use serde::{Deserialize, Serialize};

/// The registered name.
pub const OPERATION: &str = "pg.reset";

/// The decided parameters.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    oid: u32,
    definition: DatabaseDefinition,
}

/// What was wiped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResetReport {
    /// The database, which is empty now.
    pub database: String,
    /// About how many rows are gone.
    pub rows: u64,
    /// The bytes it took.
    pub bytes: u64,
}

/// Decides to wipe the configured database.
///
/// # Errors
/// `Refused` unless the environment and the marker inside the database both say development; `Precondition` for one of the server's own databases; the
/// server's.
pub async fn plan(store: &dyn DatabaseReset, target: Target, clock: &dyn Clock) -> Result<Plan> {
    let (facts, marker) = store.resettable().await?;
    check_development(&target, &facts.definition.name, marker.as_ref())?;
    let created_at = clock.now();
    let name = &facts.definition.name;
    let step = |name: String, mark, summary: String| PlanStep { name, mark, summary };
    Ok(Plan {
        format: PLAN_FORMAT,
        operation: OPERATION.to_owned(),
        effect: operation(OPERATION).expect("wiping a database is registered").effect,
        assumptions: assumptions(&facts, marker.as_ref()),
        blast_radius: BlastRadius {
            phrase: format!("reset {name} on {}@{}", target.store, target.environment),
            items: facts.rows,
            bytes: facts.bytes,
        },
        target,
        steps: vec![
            step(
                format!("drop {name}"),
                '-',
                format!(
                    "about {} rows, {}; who is connected is disconnected; settings and rights of the database itself go, too",
                    Count(facts.rows),
                    ByteSize(facts.bytes)
                ),
            ),
            step(
                format!("create {name}"),
                '+',
                format!(
                    "empty, of {}, {}, {}",
                    facts.definition.owner, facts.definition.encoding, facts.definition.collate
                ),
            ),
            step("mark it".to_owned(), '+', "with the environment marker it had".to_owned()),
        ],
        parameters: serde_json::to_value(Parameters { oid: facts.oid, definition: facts.definition.clone() })
            .expect("parameters have a JSON form"),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// Refuses unless everybody says development.
fn check_development(target: &Target, database: &str, marker: Option<&Marker>) -> Result<()> {
    let refused = |why: String| {
        Error::new(ErrorKind::Refused, format!("{OPERATION} is refused: {why}"))
            .with_state("nothing was changed")
            .with_hint("only a database whose marker says development is wiped; `mainstay environment show` tells what each source says")
    };
    match marker {
        None => {
            return Err(refused(format!(
                "database {database} has no environment marker, so it counts as production"
            )));
        }
        Some(marker) if marker.class != EnvironmentClass::Development => {
            return Err(refused(format!(
                "the marker inside database {database} says {}, {}",
                marker.environment, marker.class
            )));
        }
        Some(_) => {}
    }
    match target.class {
        EnvironmentClass::Development => Ok(()),
        class => Err(refused(format!("the environment {} is {class}", target.environment))),
    }
}

/// What must still be so.
fn assumptions(facts: &DatabaseFacts, marker: Option<&Marker>) -> Vec<Assumption> {
    let marker = marker.map_or_else(
        || "absent".to_owned(),
        |marker| format!("{}, {}, {}", marker.environment, marker.class, marker.id),
    );
    vec![
        Assumption { name: "server".to_owned(), value: facts.server.fingerprint.clone() },
        Assumption {
            name: format!("database {}", facts.definition.name),
            value: format!("number {}", facts.oid),
        },
        Assumption { name: "marker".to_owned(), value: marker },
    ]
}

/// Looks again, and refuses when anything is otherwise than `plan` took for granted, or no longer development. Gives what will be gone.
///
/// # Errors
/// `StalePlan`; as [`plan`].
pub async fn check(
    store: &dyn DatabaseReset,
    plan: &Plan,
    target: &Target,
) -> Result<(DatabaseFacts, Marker)> {
    let (facts, marker) = store.resettable().await?;
    // What can never be is told before what has merely moved; and a plan that was edited must not do what planning refuses.
    check_development(target, &facts.definition.name, marker.as_ref())?;
    plan.check_assumptions(&assumptions(&facts, marker.as_ref()))?;
    let marker = marker.ok_or_else(|| Error::new(ErrorKind::Internal, "a marker that was there is not"))?;
    Ok((facts, marker))
}

/// Wipes the database of `plan`, as [`check`] found it.
///
/// # Errors
/// `Refused` when `permit` is for another plan; `StalePlan` when the database or its marker is another one by now; the server's, with what stands then.
pub async fn reset(
    store: &dyn DatabaseReset,
    plan: &Plan,
    found: &(DatabaseFacts, Marker),
    permit: &Permit,
) -> Result<ResetReport> {
    permit.covers(plan)?;
    let parameters: Parameters = serde_json::from_value(plan.parameters.clone()).map_err(|source| {
        Error::new(ErrorKind::Usage, "the plan's parameters are not those of a reset").with_source(source)
    })?;
    let (facts, marker) = found;
    if parameters.oid != facts.oid || parameters.definition.name != facts.definition.name {
        return Err(Error::new(ErrorKind::StalePlan, "the plan's parameters are not of its own assumptions")
            .with_state("nothing was changed"));
    }
    store.reset(parameters.oid, &parameters.definition, marker, permit).await?;
    Ok(ResetReport { database: parameters.definition.name, rows: facts.rows, bytes: facts.bytes })
}

#[cfg(test)]
mod tests {
    use EnvironmentClass::{Development, Production, Staging};
    use mainstay_model::{StoreKind, Timestamp};

    use super::*;

    #[test]
    fn only_what_everybody_calls_development_is_wiped() {
        let target = |class| Target {
            environment: "shop".to_owned(),
            class,
            store: StoreKind::Postgres,
            fingerprint: "7".to_owned(),
            address: "h:1".to_owned(),
        };
        let marker = |class| Marker {
            environment: "shop".to_owned(),
            class,
            marked_at: Timestamp::UNIX_EPOCH,
            id: "m".to_owned(),
        };
        for (environment, inside, allowed) in [
            (Development, Some(Development), true),
            (Development, None, false),
            (Development, Some(Staging), false),
            (Development, Some(Production), false),
            (Staging, Some(Development), false),
            (Production, Some(Development), false),
            (Production, None, false),
        ] {
            let judged = check_development(&target(environment), "shop", inside.map(marker).as_ref());
            assert_eq!(judged.is_ok(), allowed, "{environment} {inside:?}");
            if let Err(error) = judged {
                assert_eq!(error.kind(), ErrorKind::Refused);
            }
        }
    }
}
