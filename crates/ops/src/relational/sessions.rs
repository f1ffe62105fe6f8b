//! What the sessions of a server do now, whether that is bad, and ending one of them.
//!
//! Choosing, describing and judging are pure. Ending is planned and permitted: the plan notes which process it is and what it was at, and
//! applying refuses when that number means something else by then. Only sessions of clients are ended, never the server's own work nor
//! replication.

use std::time::Duration;

use mainstay_engine::{Backend, BackendEnd, BackendId, Backends, RelationalInspection};
use mainstay_guard::{Permit, operation};
use mainstay_model::{
    Assumption, BlastRadius, Clock, Error, ErrorKind, Finding, PLAN_FORMAT, Plan, PlanStep, Result,
    ResultExt, Target,
};
use serde::{Deserialize, Serialize};

use super::{called, finding, seconds, shown};
use crate::bounds::Bounds;
use crate::shape::Literals;

/// The registered name of ending a statement.
pub const OPERATION_CANCEL: &str = "pg.activity.cancel";
/// The registered name of ending a connection.
pub const OPERATION_TERMINATE: &str = "pg.activity.terminate";

/// How long a backend gets to notice that it was ended.
const END_TIME_MAX: Duration = Duration::from_secs(5);
/// Between two looks whether it has.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// Share of the connections that everybody may use. The warning is that of the common Prometheus mixins.
const CONNECTIONS: Bounds = Bounds { warning: 0.8, critical: 0.95 };
/// Seconds that one statement runs. As pganalyze has them.
const STATEMENT: Bounds = Bounds { warning: 1_800.0, critical: 3_600.0 };
/// Seconds that a transaction is open and nothing happens in it: it holds locks, and keeps vacuum from removing anything newer.
const IDLE: Bounds = Bounds { warning: 30.0, critical: 300.0 };
/// What copies whole databases and takes its time.
const DUMPS: &[&str] = &["pg_dump", "pg_dumpall", "pg_restore", "pg_basebackup", "mainstay"];

/// A session as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionActivity {
    /// Its process, for ending it.
    pub pid: i32,
    /// In the server's words: `client backend`, `autovacuum worker`. `None` when the role may not know.
    pub kind: Option<String>,
    /// The database.
    pub database: Option<String>,
    /// The role.
    pub user: Option<String>,
    /// What the client calls itself; may be empty.
    pub app_name: String,
    /// The client's address.
    pub client: Option<String>,
    /// In the server's words.
    pub state: Option<String>,
    /// How long it has been in that state.
    pub state_micros: Option<u64>,
    /// How long the present statement runs; `None` when none does.
    pub statement_micros: Option<u64>,
    /// How long the transaction has been open.
    pub transaction_micros: Option<u64>,
    /// What it waits for.
    pub wait: Option<String>,
    /// Who keeps it from getting a lock.
    pub blocked_by: Vec<i32>,
    /// The present statement, or the last one.
    pub statement: Option<String>,
}

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionQuery {
    /// Only what has been going on for at least so long.
    pub longer_than: Duration,
    /// Idle sessions and the server's own work too.
    pub all: bool,
    /// What becomes of values.
    pub literals: Literals,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionReport {
    /// The sessions, the longest at work first.
    pub sessions: Vec<SessionActivity>,
    /// Connections of clients.
    pub connections: u64,
    /// How many may connect at all.
    pub connections_max: u64,
    /// How many of those are kept for the few.
    pub connections_reserved: u64,
    /// Sessions of which the role may see nothing.
    pub unseen: usize,
    /// What is bad about it.
    pub findings: Vec<Finding>,
}

/// Looks and judges. `address` is the server's, for findings.
///
/// # Errors
/// The server's.
pub async fn observe(
    inspection: &dyn RelationalInspection,
    address: &str,
    query: SessionQuery,
) -> Result<SessionReport> {
    Ok(judge(&inspection.backends().await?, address, query))
}

/// Judges what was seen.
pub fn judge(backends: &Backends, address: &str, query: SessionQuery) -> SessionReport {
    let mut wanted: Vec<&Backend> =
        backends.list.iter().filter(|backend| is_wanted(backend, query)).collect();
    wanted.sort_by_key(|backend| (std::cmp::Reverse(at_work(backend)), backend.id.pid));
    let mut findings: Vec<Finding> = connections(backends, address).into_iter().collect();
    findings.extend(backends.list.iter().filter_map(|backend| long_statement(backend, address)));
    findings.extend(backends.list.iter().filter_map(|backend| idle_transaction(backend, address)));
    SessionReport {
        sessions: wanted.into_iter().map(|backend| describe(backend, query.literals)).collect(),
        connections: backends.connections,
        connections_max: backends.connections_max,
        connections_reserved: backends.connections_reserved,
        unseen: backends.list.iter().filter(|backend| backend.kind.is_none()).count(),
        findings,
    }
}

/// How long a backend has been at what it does: its transaction, or its statement.
fn at_work(backend: &Backend) -> u64 {
    let statement = running(backend).then_some(backend.statement_micros).flatten();
    backend.transaction_micros.max(statement).unwrap_or(0)
}

fn running(backend: &Backend) -> bool {
    backend.state.as_deref().is_some_and(|state| state == "active" || state.starts_with("fastpath"))
}

fn is_wanted(backend: &Backend, query: SessionQuery) -> bool {
    let is_at_work = backend.is_client() && backend.state.as_deref().is_some_and(|state| state != "idle");
    (query.all || is_at_work) && Duration::from_micros(at_work(backend)) >= query.longer_than
}

fn describe(backend: &Backend, literals: Literals) -> SessionActivity {
    SessionActivity {
        pid: backend.id.pid,
        kind: backend.kind.clone(),
        database: backend.database.clone(),
        user: backend.user.clone(),
        app_name: backend.app_name.clone(),
        client: backend.client.clone(),
        state: backend.state.clone(),
        state_micros: backend.state_micros,
        statement_micros: backend.statement_micros.filter(|_| running(backend)),
        transaction_micros: backend.transaction_micros,
        wait: backend.wait.clone(),
        blocked_by: backend.blocked_by.clone(),
        statement: backend.statement.as_ref().map(|statement| shown(statement, literals)),
    }
}

/// Whether the connections that everybody may use run out.
pub(super) fn connections(backends: &Backends, address: &str) -> Option<Finding> {
    let free_for_all = backends.connections_max.saturating_sub(backends.connections_reserved).max(1);
    let severity = CONNECTIONS.severity(backends.connections as f64 / free_for_all as f64)?;
    Some(finding(
        "connections_high",
        severity,
        address,
        format!("{} of {free_for_all} connections are in use", backends.connections),
        "end idle sessions (`mainstay pg activity --all`), put a pooler in front, or raise max_connections",
    ))
}

fn long_statement(backend: &Backend, address: &str) -> Option<Finding> {
    let is_dump = DUMPS.contains(&backend.app_name.as_str());
    if is_dump || !backend.is_client() || !running(backend) {
        return None;
    }
    let ran = seconds(backend.statement_micros?);
    let severity = STATEMENT.severity(ran)?;
    Some(finding(
        "statement_long",
        severity,
        address,
        format!("{} has run one statement for {:.0} min", called(backend), ran / 60.0),
        format!("wait for it, or end it: `mainstay pg activity --cancel {}`", backend.id.pid),
    ))
}

fn idle_transaction(backend: &Backend, address: &str) -> Option<Finding> {
    if !backend.state.as_deref().is_some_and(|state| state.starts_with("idle in transaction")) {
        return None;
    }
    let idle = seconds(backend.state_micros?);
    let severity = IDLE.severity(idle)?;
    Some(finding(
        "idle_in_transaction",
        severity,
        address,
        format!("{} has left its transaction open and idle for {idle:.0} s", called(backend)),
        format!(
            "end it: `mainstay pg activity --terminate {}`; idle_in_transaction_session_timeout ends such sessions by itself",
            backend.id.pid
        ),
    ))
}

/// The decided parameters.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    backend: BackendId,
    how: BackendEnd,
    /// Of a statement that is cancelled: when it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    statement_began_micros: Option<i64>,
}

/// What became of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EndReport {
    /// Its process.
    pub pid: i32,
    /// How it was ended.
    pub how: BackendEnd,
    /// Whether it was seen to be gone; what is not ends at its next safe point.
    pub gone: bool,
}

/// Decides to end the statement or the connection of process `pid`.
///
/// # Errors
/// `NotFound` when there is none; `Precondition` when it is no client's, or runs no statement that could be cancelled; the server's.
pub async fn plan_end(
    inspection: &dyn RelationalInspection,
    pid: i32,
    how: BackendEnd,
    target: Target,
    clock: &dyn Clock,
) -> Result<Plan> {
    let backends = inspection.backends().await?;
    let found = backends.list.iter().find(|backend| backend.id.pid == pid).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("no process of the server is numbered {pid} now"))
            .with_state("nothing was changed")
            .with_hint("`mainstay pg activity --all` lists them")
    })?;
    check_endable(found, how)?;
    let (name, verb, effect) = match how {
        BackendEnd::Cancel => (OPERATION_CANCEL, "cancel", "its statement fails, its connection stays"),
        BackendEnd::Terminate => {
            (OPERATION_TERMINATE, "terminate", "its connection ends and its transaction is undone")
        }
    };
    let created_at = clock.now();
    let parameters = Parameters {
        backend: found.id,
        how,
        statement_began_micros: found.statement_began_micros.filter(|_| how == BackendEnd::Cancel),
    };
    Ok(Plan {
        format: PLAN_FORMAT,
        operation: name.to_owned(),
        effect: operation(name).expect("ending a session is registered").effect,
        assumptions: assumptions(&target.fingerprint, &parameters, Some(found)),
        blast_radius: BlastRadius {
            phrase: format!("{verb} {pid} on {}@{}", target.store, target.environment),
            items: 0,
            bytes: 0,
        },
        target,
        steps: vec![PlanStep {
            name: format!("{verb} {pid}"),
            mark: '-',
            summary: format!(
                "{} in {}, {} for {:.0} s; {effect}",
                called(found),
                found.database.as_deref().unwrap_or("no database"),
                found.state.as_deref().unwrap_or("in an unknown state"),
                seconds(found.state_micros.unwrap_or(0)),
            ),
        }],
        parameters: serde_json::to_value(&parameters).expect("parameters have a JSON form"),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

fn check_endable(found: &Backend, how: BackendEnd) -> Result<()> {
    let refuse = |why: String| {
        Error::new(ErrorKind::Precondition, format!("process {} {why}", found.id.pid))
            .with_state("nothing was changed")
    };
    match &found.kind {
        None => {
            return Err(refuse("is not to be seen by this role, so nobody knows what would end".to_owned())
                .with_hint("grant the role pg_monitor and pg_signal_backend"));
        }
        Some(kind) if !found.is_client() => return Err(refuse(format!("is the server's own work ({kind})"))),
        Some(_) => {}
    }
    if how == BackendEnd::Cancel && !running(found) {
        return Err(refuse("runs no statement now".to_owned())
            .with_hint(format!("`mainstay pg activity --terminate {}` ends its connection", found.id.pid)));
    }
    Ok(())
}

/// What must still be so: the number means the same process, at the same statement when that is what ends.
fn assumptions(fingerprint: &str, parameters: &Parameters, found: Option<&Backend>) -> Vec<Assumption> {
    let value = match found {
        None => "gone".to_owned(),
        Some(found) => {
            let statement = match parameters.how {
                BackendEnd::Cancel => {
                    let began = found.statement_began_micros.filter(|_| running(found));
                    began.map_or(", at no statement".to_owned(), |began| {
                        format!(", at its statement of {began}")
                    })
                }
                BackendEnd::Terminate => String::new(),
            };
            format!("{}, begun at {}{statement}", called(found), found.id.began_micros)
        }
    };
    vec![
        Assumption { name: "server".to_owned(), value: fingerprint.to_owned() },
        Assumption { name: format!("process {}", parameters.backend.pid), value },
    ]
}

fn parameters(plan: &Plan) -> Result<Parameters> {
    serde_json::from_value(plan.parameters.clone()).map_err(|source| {
        Error::new(ErrorKind::Usage, "the plan's parameters are not those of ending a session")
            .with_source(source)
    })
}

/// Refuses when the process of `plan` is gone, or its number means something else.
///
/// # Errors
/// `StalePlan`; `Usage` when the plan is not one of ending a session; the server's.
pub async fn check_end(inspection: &dyn RelationalInspection, plan: &Plan, fingerprint: &str) -> Result<()> {
    let parameters = parameters(plan)?;
    let backends = inspection.backends().await?;
    let found = backends.list.iter().find(|backend| backend.id.pid == parameters.backend.pid);
    plan.check_assumptions(&assumptions(fingerprint, &parameters, found))?;
    // A plan that was edited must not do what planning refuses.
    found.map_or(Ok(()), |found| check_endable(found, parameters.how))
}

/// Ends the session of `plan`, and looks for a few seconds whether it has ended.
///
/// # Errors
/// `Refused` when `permit` is for another plan; the server's.
pub async fn end(inspection: &dyn RelationalInspection, plan: &Plan, permit: &Permit) -> Result<EndReport> {
    permit.covers(plan)?;
    let Parameters { backend, how, statement_began_micros } = parameters(plan)?;
    inspection.end_backend(backend, how, permit).await?;
    let is_there = |found: &Backend| {
        found.id == backend
            && match how {
                BackendEnd::Terminate => true,
                BackendEnd::Cancel => {
                    running(found) && found.statement_began_micros == statement_began_micros
                }
            }
    };
    let gone = async {
        while inspection.backends().await?.list.iter().any(is_there) {
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        Ok::<(), Error>(())
    };
    let report = |gone| EndReport { pid: backend.pid, how, gone };
    match tokio::time::timeout(END_TIME_MAX, gone).await {
        Ok(looked) => looked.context("see whether it has ended").map(|()| report(true)),
        Err(_) => Ok(report(false)),
    }
}

#[cfg(test)]
mod tests {
    use mainstay_model::Severity;

    use super::super::tests::backend;
    use super::*;

    fn query() -> SessionQuery {
        SessionQuery { longer_than: Duration::ZERO, all: false, literals: Literals::Hidden }
    }

    fn minutes(count: u64) -> Option<u64> {
        Some(count * 60_000_000)
    }

    fn judged(list: Vec<Backend>) -> SessionReport {
        let backends = Backends { list, connections: 1, connections_max: 100, connections_reserved: 3 };
        judge(&backends, "h:1", query())
    }

    #[test]
    fn sessions_at_work_are_shown_longest_first_and_without_values() {
        let idle = Backend { state: Some("idle".to_owned()), transaction_micros: None, ..backend(1) };
        let own = Backend { kind: Some("checkpointer".to_owned()), state: None, ..backend(2) };
        let open = Backend {
            state: Some("idle in transaction".to_owned()),
            transaction_micros: minutes(2),
            ..backend(3)
        };
        let list = vec![idle, own, open, backend(4)];
        let pids = |query| {
            let backends = Backends { list: list.clone(), ..Backends::default() };
            judge(&backends, "h:1", query).sessions.iter().map(|one| one.pid).collect::<Vec<_>>()
        };
        assert_eq!(pids(query()), [3, 4]);
        assert_eq!(pids(SessionQuery { all: true, ..query() }).len(), 4);
        assert_eq!(pids(SessionQuery { longer_than: Duration::from_secs(60), ..query() }), [3]);
        let report = judged(list.clone());
        assert!(!format!("{report:?}").contains("canary"));
        let backends = Backends { list, ..Backends::default() };
        let shown = judge(&backends, "h:1", SessionQuery { literals: Literals::Shown, ..query() });
        assert!(format!("{shown:?}").contains("canary"));
    }

    #[test]
    fn each_bound_has_its_finding() {
        use Severity::{Critical, Warning};
        let long = |micros| Backend { statement_micros: micros, ..backend(1) };
        let idle = |seconds: u64| Backend {
            state: Some("idle in transaction (aborted)".to_owned()),
            state_micros: Some(seconds * 1_000_000),
            ..backend(1)
        };
        let dump = Backend { app_name: "pg_dump".to_owned(), ..long(minutes(600)) };
        let cases = [
            (long(minutes(29)), None),
            (long(minutes(30)), Some(("postgres.statement_long", Warning))),
            (long(minutes(60)), Some(("postgres.statement_long", Critical))),
            (dump, None),
            (Backend { state: Some("idle".to_owned()), ..long(minutes(90)) }, None),
            (idle(29), None),
            (idle(30), Some(("postgres.idle_in_transaction", Warning))),
            (idle(300), Some(("postgres.idle_in_transaction", Critical))),
        ];
        for (backend, expected) in cases {
            let report = judged(vec![backend]);
            let found = report.findings.first().map(|finding| (finding.id.as_str(), finding.severity));
            assert_eq!(found, expected, "{report:?}");
        }
        for (connections, expected) in [(76, None), (78, Some(Warning)), (93, Some(Critical))] {
            let backends = Backends {
                connections,
                connections_max: 100,
                connections_reserved: 3,
                ..Backends::default()
            };
            let severity = super::connections(&backends, "h:1").map(|finding| finding.severity);
            assert_eq!(severity, expected, "{connections}");
        }
    }

    #[test]
    fn only_what_a_client_does_is_ended() {
        let idle = Backend { state: Some("idle".to_owned()), ..backend(1) };
        let sender = Backend { kind: Some("walsender".to_owned()), ..backend(1) };
        let unseen = Backend { kind: None, ..backend(1) };
        let cases = [
            (backend(1), true, true),
            (idle.clone(), false, true),
            (sender, false, false),
            (unseen, false, false),
        ];
        for (backend, cancel, terminate) in cases {
            assert_eq!(check_endable(&backend, BackendEnd::Cancel).is_ok(), cancel, "{backend:?}");
            assert_eq!(check_endable(&backend, BackendEnd::Terminate).is_ok(), terminate, "{backend:?}");
        }
        let parameters = |how| Parameters { backend: backend(1).id, how, statement_began_micros: None };
        let told =
            |how, backend: Option<&Backend>| assumptions("f", &parameters(how), backend)[1].value.clone();
        let later = Backend { statement_began_micros: Some(9_000), ..backend(1) };
        assert_ne!(told(BackendEnd::Cancel, Some(&later)), told(BackendEnd::Cancel, Some(&backend(1))));
        assert_eq!(told(BackendEnd::Terminate, Some(&later)), told(BackendEnd::Terminate, Some(&backend(1))));
        let mut other = backend(1);
        other.id.began_micros += 1;
        assert_ne!(told(BackendEnd::Terminate, Some(&other)), told(BackendEnd::Terminate, Some(&backend(1))));
        assert_eq!(told(BackendEnd::Terminate, None), "gone");
    }
}
