//! Who blocks whom, as trees: at the root whoever waits for nobody, below it those who wait for it, and so on.
//!
//! Building and judging are pure. Reads only.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_engine::{Backend, HeldLock, RelationalInspection, WantedLock};
use mainstay_model::{Finding, Result};
use serde::Serialize;

use super::{called, finding, seconds, shown};
use crate::bounds::Bounds;
use crate::shape::Literals;

/// Seconds that [`WAITER_COUNT`] sessions have waited. As pganalyze has them.
const WAIT: Bounds = Bounds { warning: 300.0, critical: 600.0 };
/// How many must wait so long before it is a finding: one or two may well be meant to.
const WAITER_COUNT: usize = 3;

/// A session in a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Blocker {
    /// Its process; 0 for a transaction that is prepared and not committed.
    pub pid: i32,
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
    /// How long its transaction has been open.
    pub transaction_micros: Option<u64>,
    /// How long it has been in its state.
    pub state_micros: Option<u64>,
    /// The present statement, or the last one.
    pub statement: Option<String>,
    /// The lock it waits for; `None` at a root.
    pub wants: Option<WantedLock>,
    /// Everybody it waits for; in the tree it stands below one of them.
    pub blocked_by: Vec<i32>,
    /// What it has locked.
    pub holds: Vec<HeldLock>,
    /// Those who wait for it.
    pub blocks: Vec<Blocker>,
}

impl Blocker {
    /// How many wait for it, directly or not.
    pub fn waiter_count(&self) -> usize {
        self.blocks.iter().map(|waiter| 1 + waiter.waiter_count()).sum()
    }

    /// The longest wait below it, in microseconds.
    pub fn wait_micros_max(&self) -> u64 {
        let own = |waiter: &Self| waiter.wants.as_ref().map_or(0, |wants| wants.micros);
        self.blocks.iter().map(|waiter| own(waiter).max(waiter.wait_micros_max())).max().unwrap_or(0)
    }
}

/// What was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockerReport {
    /// The trees, that with the most waiters first.
    pub trees: Vec<Blocker>,
    /// How many wait.
    pub waiting: usize,
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
    literals: Literals,
) -> Result<BlockerReport> {
    Ok(judge(&inspection.backends().await?.list, address, literals))
}

/// Judges what was seen.
pub fn judge(backends: &[Backend], address: &str, literals: Literals) -> BlockerReport {
    let trees = trees(backends, literals);
    let waiting: Vec<&Backend> = backends.iter().filter(|backend| !backend.blocked_by.is_empty()).collect();
    let findings = finding_of(&waiting, &trees, backends, address).into_iter().collect();
    BlockerReport { trees, waiting: waiting.len(), findings }
}

fn trees(backends: &[Backend], literals: Literals) -> Vec<Blocker> {
    let by_pid: BTreeMap<i32, &Backend> = backends.iter().map(|backend| (backend.id.pid, backend)).collect();
    let waits = |pid: i32| by_pid.get(&pid).is_some_and(|backend| !backend.blocked_by.is_empty());
    let mut waiters: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for backend in backends {
        // Below whoever waits for nobody, so that the tree is as flat as the truth allows.
        let free = backend.blocked_by.iter().find(|pid| !waits(**pid));
        if let Some(above) = free.or(backend.blocked_by.first()) {
            waiters.entry(*above).or_default().push(backend.id.pid);
        }
    }
    let mut forest = Forest { by_pid: &by_pid, waiters: &waiters, seen: BTreeSet::new(), literals };
    let roots: Vec<i32> = waiters.keys().copied().filter(|pid| !waits(*pid)).collect();
    let mut trees: Vec<Blocker> = roots.into_iter().map(|pid| forest.grow(pid)).collect();
    // Those who wait for one another in a circle have no root until the server ends one of them.
    for pid in waiters.keys() {
        if !forest.seen.contains(pid) {
            trees.push(forest.grow(*pid));
        }
    }
    trees.sort_by_key(|tree| (std::cmp::Reverse(tree.waiter_count()), tree.pid));
    trees
}

struct Forest<'a> {
    by_pid: &'a BTreeMap<i32, &'a Backend>,
    waiters: &'a BTreeMap<i32, Vec<i32>>,
    seen: BTreeSet<i32>,
    literals: Literals,
}

impl Forest<'_> {
    fn grow(&mut self, pid: i32) -> Blocker {
        self.seen.insert(pid);
        let mut blocks = Vec::new();
        for waiter in self.waiters.get(&pid).cloned().unwrap_or_default() {
            if !self.seen.contains(&waiter) {
                blocks.push(self.grow(waiter));
            }
        }
        let backend = self.by_pid.get(&pid).copied();
        let text =
            |field: fn(&Backend) -> &Option<String>| backend.and_then(|backend| field(backend).clone());
        Blocker {
            pid,
            database: text(|backend| &backend.database),
            user: text(|backend| &backend.user),
            app_name: backend.map(|backend| backend.app_name.clone()).unwrap_or_default(),
            client: text(|backend| &backend.client),
            state: text(|backend| &backend.state),
            transaction_micros: backend.and_then(|backend| backend.transaction_micros),
            state_micros: backend.and_then(|backend| backend.state_micros),
            statement: backend
                .and_then(|backend| backend.statement.as_ref())
                .map(|statement| shown(statement, self.literals)),
            wants: backend.and_then(|backend| backend.wants.clone()),
            blocked_by: backend.map(|backend| backend.blocked_by.clone()).unwrap_or_default(),
            holds: backend.map(|backend| backend.holds.clone()).unwrap_or_default(),
            blocks,
        }
    }
}

fn finding_of(
    waiting: &[&Backend],
    trees: &[Blocker],
    backends: &[Backend],
    address: &str,
) -> Option<Finding> {
    let mut waits: Vec<u64> =
        waiting.iter().filter_map(|backend| backend.wants.as_ref()).map(|wants| wants.micros).collect();
    waits.sort_unstable_by_key(|micros| std::cmp::Reverse(*micros));
    let at_least = seconds(*waits.get(WAITER_COUNT - 1)?);
    let severity = WAIT.severity(at_least)?;
    let root = trees.first()?;
    let who = match backends.iter().find(|backend| backend.id.pid == root.pid) {
        Some(backend) => called(backend),
        None => "a transaction that is prepared and not committed".to_owned(),
    };
    let remedy = match root.pid {
        0 => "`SELECT gid, prepared, owner FROM pg_prepared_xacts;` lists them; `ROLLBACK PREPARED 'gid';` undoes one".to_owned(),
        pid => format!("wait for it, or end it: `mainstay pg activity --terminate {pid}`"),
    };
    Some(finding(
        "blocked",
        severity,
        address,
        format!(
            "{} sessions wait for locks, {WAITER_COUNT} of them for {:.0} min and longer; {} of them behind {who}",
            waiting.len(),
            at_least / 60.0,
            root.waiter_count(),
        ),
        remedy,
    ))
}

#[cfg(test)]
mod tests {
    use mainstay_model::Severity;

    use super::super::tests::backend;
    use super::*;

    fn waiter(pid: i32, blocked_by: &[i32], seconds: u64) -> Backend {
        let wants = WantedLock {
            on: "public.orders".to_owned(),
            mode: "AccessShareLock".to_owned(),
            micros: seconds * 1_000_000,
        };
        Backend { blocked_by: blocked_by.to_vec(), wants: Some(wants), ..backend(pid) }
    }

    /// `1(2(3) 4)`.
    fn drawn(tree: &Blocker) -> String {
        let below: Vec<String> = tree.blocks.iter().map(drawn).collect();
        match below.is_empty() {
            true => tree.pid.to_string(),
            false => format!("{}({})", tree.pid, below.join(" ")),
        }
    }

    #[test]
    fn everybody_stands_once_below_whom_he_waits_for() {
        let cases: [(Vec<Backend>, &[&str]); 6] = [
            (vec![backend(1), backend(2)], &[]),
            (vec![backend(1), waiter(2, &[1], 1), waiter(3, &[2], 1), waiter(4, &[1], 1)], &["1(2(3) 4)"]),
            // Behind a holder and behind a waiter: below the holder.
            (vec![backend(1), waiter(2, &[1], 1), waiter(3, &[2, 1], 1)], &["1(2 3)"]),
            (vec![waiter(2, &[0], 1)], &["0(2)"]),
            (
                vec![backend(1), waiter(2, &[1], 1), backend(5), waiter(6, &[5], 1), waiter(7, &[5], 1)],
                &["5(6 7)", "1(2)"],
            ),
            (vec![waiter(1, &[2], 1), waiter(2, &[1], 1), waiter(3, &[2], 1)], &["1(2(3))"]),
        ];
        for (backends, expected) in cases {
            let report = judge(&backends, "h:1", Literals::Hidden);
            assert_eq!(report.trees.iter().map(drawn).collect::<Vec<_>>(), expected);
            assert!(!format!("{report:?}").contains("canary"));
        }
    }

    #[test]
    fn three_that_wait_long_are_a_finding() {
        let behind = |waits: &[u64]| {
            let waiters = waits.iter().zip(2..).map(|(seconds, pid)| waiter(pid, &[1], *seconds));
            judge(&[backend(1)].into_iter().chain(waiters).collect::<Vec<_>>(), "h:1", Literals::Hidden)
        };
        let cases: [(&[u64], Option<Severity>); 4] = [
            (&[9_000, 9_000], None),
            (&[9_000, 300, 299], None),
            (&[9_000, 300, 301], Some(Severity::Warning)),
            (&[600, 601, 602, 1], Some(Severity::Critical)),
        ];
        for (waits, expected) in cases {
            let report = behind(waits);
            assert_eq!(report.findings.first().map(|finding| finding.severity), expected, "{waits:?}");
        }
        let report = behind(&[700, 700, 700]);
        assert_eq!((report.waiting, report.trees[0].wait_micros_max()), (3, 700_000_000));
        assert!(report.findings[0].remedy.contains("--terminate 1"), "{:?}", report.findings);
    }
}
