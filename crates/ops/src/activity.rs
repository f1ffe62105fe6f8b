//! What the server is doing now, and ending one operation of it.
//!
//! Choosing and describing are pure. Ending is planned and permitted: the plan notes whose operation it is and what it does, and applying
//! refuses when that number means something else by then. The server's own work is never ended, nor are index builds, which end by
//! dropping the index.

use std::time::Duration;

use mainstay_engine::{Inspection, OpenTransaction, OperationProgress, RunningOperation};
use mainstay_guard::{Permit, operation};
use mainstay_model::{
    Assumption, BlastRadius, Clock, Error, ErrorKind, PLAN_FORMAT, Plan, PlanStep, Result, ResultExt, Target,
};
use serde::{Deserialize, Serialize};

use crate::shape::{Literals, Shape, quoted, shape};

/// The registered name of ending an operation.
pub const OPERATION_KILL: &str = "mongo.ops.kill";

/// How long an operation gets to notice that it was ended.
const KILL_TIME_MAX: Duration = Duration::from_secs(5);
/// Between two looks whether it has.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// From here on a transaction in which nothing happens is worth ending: it holds locks and keeps history in the cache. Own; the server
/// ends it by itself after `transactionLifetimeLimitSeconds`, 60 unless set.
const IDLE_TRANSACTION_MAX: Duration = Duration::from_secs(10);

/// What something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivityKind {
    /// A client's command.
    Command,
    /// The building of an index.
    IndexBuild,
    /// A transaction between two commands.
    IdleTransaction,
    /// The server's own work, or that of other members of the set.
    Internal,
}

/// Something that the server is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Activity {
    /// What it is.
    pub kind: ActivityKind,
    /// Its number, for ending it; `None` for a transaction between two commands.
    pub id: Option<String>,
    /// What it is about; may be empty.
    pub namespace: String,
    /// What was asked.
    pub shape: Shape,
    /// For how long.
    pub micros: u64,
    /// The client's address.
    pub client: Option<String>,
    /// What the client calls itself.
    pub app_name: Option<String>,
    /// What the server calls the thread.
    pub description: String,
    /// Whose rights it has.
    pub users: Vec<String>,
    /// The plan in the server's words.
    pub plan: Option<String>,
    /// How often it stepped aside.
    pub yields: u64,
    /// Whether it waits for a lock.
    pub waits_for_lock: bool,
    /// Whether it is held back because replication is behind.
    pub waits_for_flow_control: bool,
    /// How long it has waited for locks in all.
    pub lock_wait_micros: u64,
    /// How far it is.
    pub progress: Option<OperationProgress>,
    /// Its session.
    pub session: Option<String>,
    /// Its transaction.
    pub transaction: Option<OpenTransaction>,
    /// A command to copy, where something ought to be done.
    pub advice: Option<String>,
}

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActivityQuery {
    /// Only what has been going on for at least so long.
    pub longer_than: Duration,
    /// The server's own work too.
    pub all: bool,
    /// What becomes of values.
    pub literals: Literals,
}

/// What the server is doing, the longest first.
///
/// # Errors
/// The server's.
pub async fn activities(inspection: &dyn Inspection, query: ActivityQuery) -> Result<Vec<Activity>> {
    Ok(select(&inspection.running_operations().await?, query))
}

/// Those of `operations` that are wanted, the longest first.
pub fn select(operations: &[RunningOperation], query: ActivityQuery) -> Vec<Activity> {
    let mut selected: Vec<Activity> = operations
        .iter()
        .filter(|operation| Duration::from_micros(operation.micros) >= query.longer_than)
        .map(|operation| describe(operation, query.literals))
        .filter(|activity| query.all || activity.kind != ActivityKind::Internal)
        .collect();
    selected.sort_by(|one, other| (other.micros, &one.id).cmp(&(one.micros, &other.id)));
    selected
}

fn describe(operation: &RunningOperation, literals: Literals) -> Activity {
    let shape = shape(&operation.kind, &operation.command, literals);
    let kind = kind_of(operation, &shape);
    Activity {
        kind,
        id: operation.id.clone(),
        namespace: named(operation),
        advice: advice(operation, kind),
        shape,
        micros: operation.micros,
        client: operation.client.clone(),
        app_name: operation.app_name.clone(),
        description: operation.description.clone(),
        users: operation.users.clone(),
        plan: operation.plan.clone(),
        yields: operation.yields,
        waits_for_lock: operation.waits_for_lock,
        waits_for_flow_control: operation.waits_for_flow_control,
        lock_wait_micros: operation.lock_wait_micros,
        progress: operation.progress.clone(),
        session: operation.session.clone(),
        transaction: operation.transaction,
    }
}

/// `shop.$cmd` says nothing; the command names its collection.
fn named(operation: &RunningOperation) -> String {
    let Some(database) = operation.namespace.strip_suffix(".$cmd") else {
        return operation.namespace.clone();
    };
    let first = operation.command.fields().first().and_then(|(_, value)| value.literal());
    match first.filter(|literal| literal.kind() == "string" && is_on_a_collection(operation)) {
        Some(collection) => format!("{database}.{}", collection.expose()),
        None => database.to_owned(),
    }
}

fn is_on_a_collection(operation: &RunningOperation) -> bool {
    let verb = operation.command.fields().first().map(|(name, _)| name.as_str());
    matches!(
        verb,
        Some("createIndexes" | "dropIndexes" | "drop" | "create" | "collMod" | "compact" | "validate")
    )
}

fn kind_of(operation: &RunningOperation, shape: &Shape) -> ActivityKind {
    let awaits = matches!(shape.verb.as_str(), "hello" | "isMaster" | "ismaster" | "none");
    let replicates = operation.namespace.starts_with("local.oplog.") && operation.kind == "getmore";
    if operation.description.starts_with("IndexBuilds") || shape.verb == "createIndexes" {
        ActivityKind::IndexBuild
    } else if operation.client.is_none() || replicates {
        ActivityKind::Internal
    } else if !operation.active && operation.transaction.is_some() {
        ActivityKind::IdleTransaction
    } else if awaits {
        ActivityKind::Internal
    } else {
        ActivityKind::Command
    }
}

fn advice(operation: &RunningOperation, kind: ActivityKind) -> Option<String> {
    match kind {
        ActivityKind::IdleTransaction => {
            let idle = Duration::from_micros(operation.transaction?.inactive_micros);
            let session = operation.session.as_deref()?;
            (idle >= IDLE_TRANSACTION_MAX)
                .then(|| format!("db.adminCommand({{killSessions: [{{id: UUID(\"{session}\")}}]}})"))
        }
        ActivityKind::IndexBuild => build_end(operation),
        ActivityKind::Command | ActivityKind::Internal => None,
    }
}

/// The command that ends an index build.
fn build_end(operation: &RunningOperation) -> Option<String> {
    let names: Vec<String> = operation
        .command
        .get("indexes")?
        .items()
        .iter()
        .filter_map(|index| index.get("name")?.literal())
        .map(|name| quoted(name.expose()))
        .collect();
    let namespace = named(operation);
    let (database, collection) = namespace.split_once('.')?;
    (!names.is_empty()).then(|| {
        format!(
            "db.getSiblingDB({}).getCollection({}).dropIndexes([{}])",
            quoted(database),
            quoted(collection),
            names.join(", ")
        )
    })
}

/// The decided parameters.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    operation: String,
}

/// What became of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KillReport {
    /// Its number.
    pub operation: String,
    /// Whether it was seen to be gone; what is not ends at its next safe point.
    pub gone: bool,
}

/// Decides to end the operation numbered `id`.
///
/// # Errors
/// `NotFound` when there is none; `Precondition` when it is the server's own or an index build; the server's.
pub async fn plan_kill(
    inspection: &dyn Inspection,
    id: &str,
    target: Target,
    clock: &dyn Clock,
) -> Result<Plan> {
    let operations = inspection.running_operations().await?;
    let found = find(&operations, id).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("no operation is numbered {id} now"))
            .with_state("nothing was changed")
            .with_hint("`mainstay mongo ops --all` lists them")
    })?;
    check_killable(found)?;
    let activity = describe(found, Literals::Hidden);
    let created_at = clock.now();
    let client = activity.client.clone().unwrap_or_default();
    Ok(Plan {
        format: PLAN_FORMAT,
        operation: OPERATION_KILL.to_owned(),
        effect: operation(OPERATION_KILL).expect("ending an operation is registered").effect,
        assumptions: assumptions(&target.fingerprint, id, Some(found)),
        blast_radius: BlastRadius {
            phrase: format!("kill {id} on {}@{}", target.store, target.environment),
            items: 0,
            bytes: 0,
        },
        target,
        steps: vec![PlanStep {
            name: format!("kill {id}"),
            mark: '-',
            summary: format!(
                "{} on {} of {client}{}, running for {} s; what it wrote outside of a transaction stays written",
                activity.shape.verb,
                activity.namespace,
                activity.app_name.as_deref().map(|name| format!(" ({})", quoted(name))).unwrap_or_default(),
                activity.micros / 1_000_000,
            ),
        }],
        parameters: serde_json::to_value(Parameters { operation: id.to_owned() })
            .expect("parameters have a JSON form"),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

fn find<'a>(operations: &'a [RunningOperation], id: &str) -> Option<&'a RunningOperation> {
    operations.iter().find(|operation| operation.id.as_deref() == Some(id))
}

fn check_killable(found: &RunningOperation) -> Result<()> {
    let id = found.id.as_deref().unwrap_or_default();
    let refuse = |why: String| {
        Err(Error::new(ErrorKind::Precondition, format!("operation {id} {why}"))
            .with_state("nothing was changed"))
    };
    match describe(found, Literals::Hidden).kind {
        ActivityKind::IndexBuild => {
            let refused = refuse("builds an index, which goes on when its operation ends".to_owned());
            match build_end(found) {
                Some(command) => refused.map_err(|error| error.with_hint(format!("run {command}"))),
                None => refused,
            }
        }
        ActivityKind::Internal if found.client.is_none() => {
            refuse(format!("is the server's own work ({})", found.description))
        }
        _ => Ok(()),
    }
}

/// What must still be so: the number means the same command of the same connection.
fn assumptions(fingerprint: &str, id: &str, found: Option<&RunningOperation>) -> Vec<Assumption> {
    let value = found.map_or_else(
        || "gone".to_owned(),
        |found| {
            let activity = describe(found, Literals::Hidden);
            let client = activity.client.as_deref().unwrap_or("the server");
            format!("{} on {} of {client} {}", activity.shape.verb, activity.namespace, activity.description)
        },
    );
    vec![
        Assumption { name: "server".to_owned(), value: fingerprint.to_owned() },
        Assumption { name: format!("operation {id}"), value },
    ]
}

fn parameters(plan: &Plan) -> Result<Parameters> {
    serde_json::from_value(plan.parameters.clone()).map_err(|source| {
        Error::new(ErrorKind::Usage, "the plan's parameters are not those of ending an operation")
            .with_source(source)
    })
}

/// Refuses when the operation of `plan` is gone or another one has its number.
///
/// # Errors
/// `StalePlan`; `Usage` when the plan is not one of ending an operation; the server's.
pub async fn check_kill(inspection: &dyn Inspection, plan: &Plan, fingerprint: &str) -> Result<()> {
    let id = parameters(plan)?.operation;
    let operations = inspection.running_operations().await?;
    let found = find(&operations, &id);
    plan.check_assumptions(&assumptions(fingerprint, &id, found))?;
    // A plan that was edited must not do what planning refuses.
    found.map_or(Ok(()), check_killable)
}

/// Ends the operation of `plan`, and looks for a few seconds whether it has ended.
///
/// # Errors
/// `Refused` when `permit` is for another plan; the server's.
pub async fn kill(inspection: &dyn Inspection, plan: &Plan, permit: &Permit) -> Result<KillReport> {
    permit.covers(plan)?;
    let id = parameters(plan)?.operation;
    inspection.kill(&id, permit).await?;
    let gone = async {
        while find(&inspection.running_operations().await?, &id).is_some() {
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        Ok::<(), Error>(())
    };
    match tokio::time::timeout(KILL_TIME_MAX, gone).await {
        Ok(looked) => {
            looked.context("see whether it has ended").map(|()| KillReport { operation: id, gone: true })
        }
        Err(_) => Ok(KillReport { operation: id, gone: false }),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::shape::tests::tree;

    pub(crate) fn running(id: &str, command: &str) -> RunningOperation {
        RunningOperation {
            id: Some(id.to_owned()),
            active: true,
            kind: "command".to_owned(),
            namespace: "shop.users".to_owned(),
            command: tree(command),
            micros: 2_000_000,
            client: Some("10.0.0.7:5000".to_owned()),
            description: "conn7".to_owned(),
            app_name: None,
            users: Vec::new(),
            plan: None,
            yields: 0,
            waits_for_lock: false,
            waits_for_flow_control: false,
            lock_wait_micros: 0,
            progress: None,
            session: None,
            transaction: None,
        }
    }

    fn query() -> ActivityQuery {
        ActivityQuery { longer_than: Duration::ZERO, all: false, literals: Literals::Hidden }
    }

    fn world() -> Vec<RunningOperation> {
        let find = running("1", r#"{"find":"users","filter":{"a":"canary"}}"#);
        let hello = running("2", r#"{"hello":1}"#);
        let own =
            RunningOperation { client: None, description: "Checkpointer".to_owned(), ..running("3", "{}") };
        let drop = RunningOperation {
            namespace: "shop.$cmd".to_owned(),
            micros: 9_000_000,
            ..running("4", r#"{"dropIndexes":"users","index":"n_1"}"#)
        };
        let build = RunningOperation {
            client: None,
            description: "IndexBuildsCoordinatorMongod-0".to_owned(),
            micros: 5,
            ..running("5", r#"{"createIndexes":"users","indexes":[{"name":"n_1","key":{"n":1}}]}"#)
        };
        let idle = RunningOperation {
            id: None,
            active: false,
            session: Some("ab".repeat(16)),
            transaction: Some(OpenTransaction { open_micros: 20_000_000, inactive_micros: 15_000_000 }),
            micros: 20_000_000,
            ..running("", "{}")
        };
        vec![find, hello, own, drop, build, idle]
    }

    #[test]
    fn clients_work_is_shown_longest_first() {
        let told = |query| -> Vec<String> {
            select(&world(), query)
                .into_iter()
                .map(|activity| {
                    format!("{} {:?} {}", activity.id.unwrap_or_default(), activity.kind, activity.namespace)
                })
                .collect()
        };
        assert_eq!(
            told(query()),
            [
                " IdleTransaction shop.users",
                "4 Command shop.users",
                "1 Command shop.users",
                "5 IndexBuild shop.users"
            ]
        );
        assert_eq!(told(ActivityQuery { all: true, ..query() }).len(), 6);
        let longer = ActivityQuery { longer_than: Duration::from_secs(5), ..query() };
        assert_eq!(told(longer).len(), 2);
    }

    #[test]
    fn advice_is_a_command_to_copy() {
        let found = select(&world(), query());
        assert!(
            found[0].advice.as_deref().is_some_and(|advice| advice.contains("killSessions")),
            "{found:?}"
        );
        assert_eq!(
            found[3].advice.as_deref(),
            Some(r#"db.getSiblingDB("shop").getCollection("users").dropIndexes(["n_1"])"#)
        );
        assert!(!format!("{found:?}").contains("canary"));
    }

    #[test]
    fn what_is_not_a_clients_is_not_ended() {
        let killable: Vec<bool> =
            world().iter().filter(|one| one.id.is_some()).map(|one| check_killable(one).is_ok()).collect();
        assert_eq!(killable, [true, true, false, true, false]);
        let world = world();
        assert_ne!(assumptions("f", "1", find(&world, "1")), assumptions("f", "1", find(&world, "4")));
        assert_eq!(assumptions("f", "9", find(&world, "9"))[1].value, "gone");
    }
}
