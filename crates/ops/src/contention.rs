//! Where operations wait for one another, and whether that is bad.
//!
//! Counters since the server began say little about now, so two looks are taken and what lies between them is judged. Judging is pure.
//! Reads only.

use std::time::Duration;

use mainstay_engine::{
    CacheUse, Contention, Inspection, LockMode, LockQueue, LockRequest, LockWaits, RunningOperation,
};
use mainstay_model::{Finding, Result, Severity, StoreKind};
use serde::Serialize;

use crate::bounds::Bounds;
use crate::shape::{Literals, Shape, quoted, shape};

/// Seconds of waiting for locks in a second, over all operations: something is in the way, something blocks. Own.
const WAIT_RATE: Bounds = Bounds { warning: 0.1, critical: 0.5 };
/// Operations that wait for a lock or a ticket. After MongoDB's guidance to watch the queue and not the free tickets.
const QUEUE: Bounds = Bounds { warning: 100.0, critical: 500.0 };
/// Share of the cache that is not on disk yet: the engine's own eviction target and trigger (WiredTiger, `eviction_dirty_target` 5 % and
/// `eviction_dirty_trigger` 20 %, beyond which clients' threads must evict).
const DIRTY: Bounds = Bounds { warning: 0.05, critical: 0.20 };
/// Share of the cache in use: above its target of 80 % eviction works, at 95 % (`eviction_trigger`) clients' threads must help.
const FULL: Bounds = Bounds { warning: 0.90, critical: 0.95 };
/// Seconds that one operation waits for one lock: everything that comes after waits too. Own.
const WAITER: Bounds = Bounds { warning: 1.0, critical: 30.0 };

/// Waiting between two looks, for one kind of resource and mode.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WaitRate {
    /// `Global`, `Database`, `Collection`, …
    pub resource: String,
    /// The mode.
    pub mode: LockMode,
    /// Waits between the looks.
    pub waited: u64,
    /// Seconds waited in each second.
    pub wait_rate: f64,
    /// Waits since the server began.
    pub waited_total: u64,
    /// Microseconds waited since the server began.
    pub wait_micros_total: u64,
}

/// Somebody who has or wants a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Party {
    /// In which mode.
    pub mode: LockMode,
    /// The operation's number; `None` for a transaction between two commands.
    pub operation: Option<String>,
    /// The transaction's session.
    pub session: Option<String>,
    /// What the server calls the thread.
    pub description: String,
    /// What it is about; empty when it has ended meanwhile.
    pub namespace: String,
    /// What it asks; `None` when it has ended meanwhile or asks nothing.
    pub shape: Option<Shape>,
    /// The client's address.
    pub client: Option<String>,
    /// What the client calls itself.
    pub app_name: Option<String>,
}

/// Somebody who waits, and for whom.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Blocked {
    /// What is locked.
    pub resource: String,
    /// Who waits.
    pub waiter: Party,
    /// For how long, as far as told: an operation counts a wait that has not ended only now and then.
    pub wait_seconds: f64,
    /// Who has the lock in a mode that does not go with the wanted one; else those who wait before.
    pub blockers: Vec<Party>,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct ContentionReport {
    /// The second look.
    pub now: Contention,
    /// Seconds between the looks.
    pub seconds: f64,
    /// Waiting between the looks and before; the longest first.
    pub waits: Vec<WaitRate>,
    /// Who waits for whom; `None` when the server does not tell.
    pub blocked: Option<Vec<Blocked>>,
    /// What is bad about it.
    pub findings: Vec<Finding>,
}

/// Looks twice, `over` apart, and judges. `address` is the server's, for findings.
///
/// # Errors
/// The server's.
pub async fn observe(
    inspection: &dyn Inspection,
    address: &str,
    over: Duration,
    literals: Literals,
) -> Result<ContentionReport> {
    let before = inspection.contention().await?;
    tokio::time::sleep(over).await;
    let (now, operations) = futures::try_join!(inspection.contention(), inspection.running_operations())?;
    Ok(judge(before, now, &operations, address, literals))
}

/// Judges two looks.
pub fn judge(
    before: Contention,
    now: Contention,
    operations: &[RunningOperation],
    address: &str,
    literals: Literals,
) -> ContentionReport {
    // A server that began anew between the looks has counted since then only.
    let restarted = now.uptime_millis < before.uptime_millis;
    let before = if restarted { Contention::default() } else { before };
    let seconds = now.uptime_millis.saturating_sub(before.uptime_millis).max(1) as f64 / 1000.0;
    let waits = wait_rates(&before.waits, &now.waits, seconds);
    let blocked = now.queues.as_ref().map(|queues| blocked(queues, operations, literals));
    let mut findings = Findings { address: address.to_owned(), list: Vec::new() };
    findings.judge_waits(&waits);
    findings.judge_blocked(blocked.as_deref().unwrap_or_default());
    findings.judge_queue(now.queued_readers + now.queued_writers);
    if let Some(cache) = &now.cache {
        findings.judge_cache(cache);
    }
    if now.flow_control.is_some_and(|control| control.lagged) {
        findings.add(
            "flow_control",
            Severity::Warning,
            "writers are held back because members of the set are behind".to_owned(),
            "look at rs.printSecondaryReplicationInfo() for the member that is behind",
        );
    }
    ContentionReport { now, seconds, waits, blocked, findings: findings.list }
}

fn wait_rates(before: &[LockWaits], now: &[LockWaits], seconds: f64) -> Vec<WaitRate> {
    let mut rates: Vec<WaitRate> = now
        .iter()
        .map(|wait| {
            let earlier = before
                .iter()
                .find(|earlier| (&earlier.resource, earlier.mode) == (&wait.resource, wait.mode));
            let waited = wait.waited.saturating_sub(earlier.map_or(0, |earlier| earlier.waited));
            let micros = wait.wait_micros.saturating_sub(earlier.map_or(0, |earlier| earlier.wait_micros));
            WaitRate {
                resource: wait.resource.clone(),
                mode: wait.mode,
                waited,
                wait_rate: micros as f64 / 1_000_000.0 / seconds,
                waited_total: wait.waited,
                wait_micros_total: wait.wait_micros,
            }
        })
        .collect();
    rates.sort_by(|one, other| {
        other.wait_rate.total_cmp(&one.wait_rate).then(other.wait_micros_total.cmp(&one.wait_micros_total))
    });
    rates
}

/// Whether two may have a lock at the same time (MongoDB manual, "FAQ: Concurrency").
fn goes_with(one: LockMode, other: LockMode) -> bool {
    use LockMode::{Exclusive, IntentExclusive, IntentShared, Shared};
    match (one, other) {
        (Exclusive, _) | (_, Exclusive) => false,
        (IntentShared, _) | (_, IntentShared) => true,
        (IntentExclusive, IntentExclusive) | (Shared, Shared) => true,
        (IntentExclusive, Shared) | (Shared, IntentExclusive) => false,
    }
}

fn blocked(queues: &[LockQueue], operations: &[RunningOperation], literals: Literals) -> Vec<Blocked> {
    let mut blocked = Vec::new();
    for queue in queues {
        for (place, waiter) in queue.pending.iter().enumerate() {
            let mut blockers: Vec<&LockRequest> =
                queue.granted.iter().filter(|holder| !goes_with(holder.mode, waiter.mode)).collect();
            if blockers.is_empty() {
                // First come, first served.
                blockers =
                    queue.pending[..place].iter().filter(|one| !goes_with(one.mode, waiter.mode)).collect();
            }
            let own = operation_of(waiter, operations);
            let waited = own.map_or(0, |own| match own.lock_wait_micros {
                0 => own.micros,
                waited => waited,
            });
            blocked.push(Blocked {
                resource: queue.resource.clone(),
                waiter: party(waiter, operations, literals),
                wait_seconds: waited as f64 / 1_000_000.0,
                blockers: blockers.into_iter().map(|one| party(one, operations, literals)).collect(),
            });
        }
    }
    blocked.sort_by(|one, other| other.wait_seconds.total_cmp(&one.wait_seconds));
    blocked
}

fn operation_of<'a>(
    request: &LockRequest,
    operations: &'a [RunningOperation],
) -> Option<&'a RunningOperation> {
    operations.iter().find(|operation| {
        let same = |one: &Option<String>, other: &Option<String>| one.is_some() && one == other;
        same(&operation.id, &request.operation)
            || request.operation.is_none() && same(&operation.session, &request.session)
    })
}

fn party(request: &LockRequest, operations: &[RunningOperation], literals: Literals) -> Party {
    let operation = operation_of(request, operations);
    let asks = operation.filter(|operation| !operation.command.fields().is_empty());
    Party {
        mode: request.mode,
        operation: request.operation.clone(),
        session: request
            .session
            .clone()
            .or_else(|| operation.and_then(|operation| operation.session.clone())),
        description: match (request.description.as_str(), operation) {
            ("", Some(operation)) => operation.description.clone(),
            (description, _) => description.to_owned(),
        },
        namespace: operation.map(|operation| operation.namespace.clone()).unwrap_or_default(),
        shape: asks.map(|operation| shape(&operation.kind, &operation.command, literals)),
        client: operation.and_then(|operation| operation.client.clone()),
        app_name: operation.and_then(|operation| operation.app_name.clone()),
    }
}

/// Who a party is, in a few words.
pub fn called(party: &Party) -> String {
    let who = match (&party.operation, &party.session) {
        (Some(operation), _) => format!("operation {operation}"),
        (None, Some(session)) => format!("an idle transaction of session {session}"),
        (None, None) => party.description.clone(),
    };
    let app = party.app_name.as_deref().map(|name| format!(" of {}", quoted(name))).unwrap_or_default();
    let client = party.client.as_deref().map(|client| format!(" from {client}")).unwrap_or_default();
    format!("{who}{app}{client}")
}

/// How whoever is in the way is sent away.
fn send_away(blocker: &Party) -> String {
    match (&blocker.operation, &blocker.session, blocker.client.is_some()) {
        _ if blocker.description.starts_with("fsyncLock") => {
            "unlock it when the copy of the files is done: db.fsyncUnlock()".to_owned()
        }
        (Some(operation), _, true) => {
            format!("wait for it, or end it: `mainstay mongo ops --kill {operation}`")
        }
        (None, Some(session), _) => {
            format!("end it: db.adminCommand({{killSessions: [{{id: UUID(\"{session}\")}}]}})")
        }
        _ => "look at `mainstay mongo ops --all`".to_owned(),
    }
}

struct Findings {
    address: String,
    list: Vec<Finding>,
}

impl Findings {
    fn add(&mut self, id: &str, severity: Severity, message: String, remedy: impl Into<String>) {
        self.list.push(Finding {
            id: format!("mongo.{id}"),
            severity,
            store: Some(StoreKind::Mongo),
            subject: self.address.clone(),
            message,
            remedy: remedy.into(),
        });
    }

    fn judge_waits(&mut self, waits: &[WaitRate]) {
        for wait in waits {
            let Some(severity) = WAIT_RATE.severity(wait.wait_rate) else { continue };
            self.add(
                "lock_wait",
                severity,
                format!(
                    "operations wait {:.2} s in each second for {} locks in mode {}",
                    wait.wait_rate,
                    wait.resource,
                    wait.mode.name()
                ),
                "`mainstay mongo ops` shows who works; index builds, drops and long transactions hold locks longest",
            );
        }
    }

    /// One finding for each resource, by whoever waits longest.
    fn judge_blocked(&mut self, blocked: &[Blocked]) {
        let mut told: Vec<&str> = Vec::new();
        for one in blocked {
            let Some(severity) = WAITER.severity(one.wait_seconds) else { continue };
            if told.contains(&one.resource.as_str()) {
                continue;
            }
            told.push(&one.resource);
            let count = blocked.iter().filter(|other| other.resource == one.resource).count();
            let by = one
                .blockers
                .first()
                .map(|blocker| format!(" held by {}", called(blocker)))
                .unwrap_or_default();
            self.add(
                "lock_waiter",
                severity,
                format!(
                    "{} has waited {:.0} s for {} in mode {}{by}; {count} wait for it",
                    called(&one.waiter),
                    one.wait_seconds,
                    one.resource,
                    one.waiter.mode.name()
                ),
                one.blockers
                    .first()
                    .map_or_else(|| "look at `mainstay mongo ops --all`".to_owned(), send_away),
            );
        }
    }

    fn judge_queue(&mut self, queued: u64) {
        if let Some(severity) = QUEUE.severity(queued as f64) {
            self.add(
                "queue_long",
                severity,
                format!("{queued} operations wait for a lock or a ticket"),
                "`mainstay mongo ops --longer-than 5s` shows what holds them up; `mainstay mongo slow` what ought to be faster",
            );
        }
    }

    fn judge_cache(&mut self, cache: &CacheUse) {
        let share = |bytes: u64| bytes as f64 / cache.bytes_max.max(1) as f64;
        let (dirty, full) = (share(cache.dirty_bytes), share(cache.bytes));
        if let Some(severity) = DIRTY.severity(dirty) {
            self.add(
                "cache_dirty",
                severity,
                format!("{:.0} % of the cache is not on disk yet; from 20 % on clients must write it there themselves", dirty * 100.0),
                "slow down bulk writes, end long transactions (`mainstay mongo ops`), or give the server a faster disk",
            );
        }
        if let Some(severity) = FULL.severity(full) {
            self.add(
                "cache_full",
                severity,
                format!("{:.0} % of the cache is in use; from 95 % on clients must make room themselves", full * 100.0),
                "`mainstay mongo stats` shows what takes the cache; index what scans (`mainstay mongo slow`), or give the server more memory",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use mainstay_engine::{FlowControl, OpenTransaction};

    use super::*;
    use crate::activity::tests::running;

    fn ids(report: &ContentionReport) -> Vec<(&str, Severity)> {
        report.findings.iter().map(|finding| (finding.id.as_str(), finding.severity)).collect()
    }

    fn look(uptime_millis: u64) -> Contention {
        Contention { uptime_millis, ..Contention::default() }
    }

    fn judged(before: Contention, now: Contention, operations: &[RunningOperation]) -> ContentionReport {
        judge(before, now, operations, "h:1", Literals::Hidden)
    }

    #[test]
    fn what_lies_between_two_looks_is_judged() {
        let waits = |wait_micros| {
            vec![LockWaits {
                resource: "Collection".to_owned(),
                mode: LockMode::Exclusive,
                acquired: 5,
                waited: 3,
                wait_micros,
            }]
        };
        for (micros, expected) in
            [(1_099_999, None), (1_200_000, Some(Severity::Warning)), (2_000_000, Some(Severity::Critical))]
        {
            let before = Contention { waits: waits(1_000_000), ..look(10_000) };
            let now = Contention { waits: waits(micros), ..look(11_000) };
            let report = judged(before, now, &[]);
            assert_eq!(report.findings.first().map(|finding| finding.severity), expected, "{micros}");
        }
        // Years of waiting before the first look are no finding, and a restart between the looks is no underflow.
        let report = judged(
            Contention { waits: waits(9_000_000_000), ..look(9_000_000) },
            Contention { waits: waits(1), ..look(1_000) },
            &[],
        );
        assert_eq!((report.findings.len(), report.seconds), (0, 1.0));
    }

    #[test]
    fn queue_cache_and_flow_control_have_their_bounds() {
        let cache = |dirty_bytes, bytes| Some(CacheUse { bytes, bytes_max: 1_000, dirty_bytes });
        let cases = [
            (Contention { queued_writers: 99, ..look(2) }, vec![]),
            (
                Contention { queued_writers: 60, queued_readers: 40, ..look(2) },
                vec![("mongo.queue_long", Severity::Warning)],
            ),
            (Contention { queued_writers: 500, ..look(2) }, vec![("mongo.queue_long", Severity::Critical)]),
            (Contention { cache: cache(49, 800), ..look(2) }, vec![]),
            (
                Contention { cache: cache(50, 950), ..look(2) },
                vec![("mongo.cache_dirty", Severity::Warning), ("mongo.cache_full", Severity::Critical)],
            ),
            (
                Contention { cache: cache(200, 10), ..look(2) },
                vec![("mongo.cache_dirty", Severity::Critical)],
            ),
            (
                Contention { flow_control: Some(FlowControl { lagged: true, lagged_micros: 1 }), ..look(2) },
                vec![("mongo.flow_control", Severity::Warning)],
            ),
        ];
        for (now, expected) in cases {
            let report = judged(look(1), now, &[]);
            assert_eq!(ids(&report), expected);
        }
    }

    #[test]
    fn whoever_waits_and_whoever_is_in_the_way_are_named() {
        let request = |mode, operation: Option<&str>, session: Option<&str>| LockRequest {
            mode,
            operation: operation.map(str::to_owned),
            session: session.map(str::to_owned),
            description: String::new(),
        };
        let session = "ab".repeat(16);
        let queue = LockQueue {
            resource: "Collection shop.users".to_owned(),
            granted: vec![
                request(LockMode::IntentExclusive, None, Some(&session)),
                request(LockMode::IntentShared, Some("9"), None),
            ],
            pending: vec![
                request(LockMode::Exclusive, Some("1"), None),
                request(LockMode::IntentShared, Some("2"), None),
            ],
        };
        let waiting = RunningOperation {
            lock_wait_micros: 40_000_000,
            ..running("1", r#"{"dropIndexes":"users","index":"n_1"}"#)
        };
        let reader = running("2", r#"{"find":"users","filter":{"a":"canary"}}"#);
        let idle = RunningOperation {
            id: None,
            active: false,
            session: Some(session.clone()),
            transaction: Some(OpenTransaction { open_micros: 1, inactive_micros: 1 }),
            ..running("", "{}")
        };
        let report =
            judged(look(1), Contention { queues: Some(vec![queue]), ..look(2) }, &[waiting, reader, idle]);
        assert_eq!(ids(&report), [("mongo.lock_waiter", Severity::Critical)]);
        let finding = &report.findings[0];
        assert!(finding.message.contains("operation 1") && finding.message.contains("2 wait"), "{finding:?}");
        assert!(finding.remedy.contains("killSessions") && finding.remedy.contains(&session), "{finding:?}");
        let blocked = report.blocked.as_deref().unwrap_or_default();
        // Both holders are in the way of the drop; the reader waits for the drop alone.
        assert_eq!(blocked[0].blockers.len(), 2);
        assert_eq!(blocked[1].blockers[0].operation.as_deref(), Some("1"));
        assert!(!format!("{report:?}").contains("canary"));
        assert_eq!(judged(look(1), look(2), &[]).blocked, None);
    }

    #[test]
    fn modes_go_together_as_the_manual_says() {
        use LockMode::{Exclusive, IntentExclusive, IntentShared, Shared};
        let modes = [IntentShared, IntentExclusive, Shared, Exclusive];
        let table = modes.map(|one| modes.map(|other| goes_with(one, other)));
        assert_eq!(
            table,
            [
                [true, true, true, false],
                [true, true, false, false],
                [true, false, true, false],
                [false, false, false, false]
            ]
        );
    }
}
