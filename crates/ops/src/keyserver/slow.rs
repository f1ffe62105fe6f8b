//! Which commands were slow, and what each command costs all in all.
//!
//! The slow log counts the time that the server was busy, in which everybody else waited. [`Following`] tells what is new in it from one look
//! to the next, and how much was pushed out unseen. Judging is pure. Reads only.

use mainstay_engine::{CommandCost, KeyServerInspection, SlowCall, SlowCalls};
use mainstay_model::{Count, Finding, Result, Severity};
use serde::Serialize;

use super::finding;
use crate::bounds::Bounds;
use crate::shape::Literals;

/// Longest command that is shown; what is longer ends in an ellipsis.
const COMMAND_CHARS_MAX: usize = 2_000;
/// Milliseconds that 99 of 100 calls of a command take at most.
const P99_MS: Bounds = Bounds { warning: 10.0, critical: 100.0 };
/// The fewest calls that say anything about a command.
const TELLING_CALLS: u64 = 100;
/// Commands whose time grows with the data set, which others wait for.
const WHOLE_KEYSPACE: [&str; 3] = ["keys", "flushall", "flushdb"];
/// From how many microseconds on the slow log remembers, unless it was set.
const THRESHOLD_MICROS_USUAL: i64 = 10_000;

/// A slow command as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShownCall {
    /// The server's number for it.
    pub id: u64,
    /// When it was given, in seconds since 1970.
    pub at: i64,
    /// How long the server was busy with it.
    pub micros: u64,
    /// The command, with values when they were asked for.
    pub command: String,
    /// Where it came from.
    pub client: Option<String>,
    /// What that connection calls itself.
    pub client_name: Option<String>,
}

impl ShownCall {
    /// How `call` is shown.
    pub fn new(call: &SlowCall, literals: Literals) -> Self {
        let text = match literals {
            Literals::Hidden => call.text.masked(),
            Literals::Shown => call.text.whole().expose(),
        };
        let command = match text.chars().nth(COMMAND_CHARS_MAX) {
            None => text.to_owned(),
            Some(_) => text.chars().take(COMMAND_CHARS_MAX).chain(['…']).collect(),
        };
        Self {
            id: call.id,
            at: call.at,
            micros: call.micros,
            command,
            client: call.client.clone(),
            client_name: call.client_name.clone(),
        }
    }
}

/// What was slow.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SlowReport {
    /// The slow commands, the newest first.
    pub calls: Vec<ShownCall>,
    /// From how many microseconds on one is remembered; negative for none.
    pub threshold_micros: Option<i64>,
    /// Commands by what they cost, the dearest first.
    pub costs: Vec<CommandCost>,
    /// How many commands there are besides those in `costs`.
    pub costs_left_out: usize,
    /// What is bad about it, the worst first.
    pub findings: Vec<Finding>,
}

/// Reads and judges at most `count_max` slow commands, and as many costs.
///
/// # Errors
/// The server's; `Auth` when the user may not see the slow log.
pub async fn report(
    inspection: &dyn KeyServerInspection,
    count_max: u32,
    literals: Literals,
) -> Result<SlowReport> {
    let slow = inspection.slow_calls(count_max).await?;
    let costs = inspection.command_costs().await?;
    Ok(judge(&slow, costs, count_max as usize, literals, &inspection.address()))
}

/// Judges what was read.
pub fn judge(
    slow: &SlowCalls,
    mut costs: Vec<CommandCost>,
    count_max: usize,
    literals: Literals,
    address: &str,
) -> SlowReport {
    costs.sort_by(|one, other| other.micros.cmp(&one.micros).then_with(|| one.name.cmp(&other.name)));
    let mut findings: Vec<Finding> = costs.iter().filter_map(|cost| of_cost(cost, address)).collect();
    findings.extend(of_log(slow, address));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let costs_left_out = costs.len().saturating_sub(count_max);
    costs.truncate(count_max);
    SlowReport {
        calls: slow.calls.iter().map(|call| ShownCall::new(call, literals)).collect(),
        threshold_micros: slow.threshold_micros,
        costs,
        costs_left_out,
        findings,
    }
}

fn of_cost(cost: &CommandCost, address: &str) -> Option<Finding> {
    if WHOLE_KEYSPACE.contains(&cost.name.as_str()) {
        return Some(finding(
            "whole_keyspace_command",
            Severity::Warning,
            address,
            format!(
                "{} was given {} times: everybody waits until it has ended",
                cost.name.to_uppercase(),
                Count(cost.calls)
            ),
            "use SCAN, or `mainstay redis keys` and `mainstay redis purge`; forbid it with `ACL SETUSER … -@dangerous`",
        ));
    }
    let p99 = cost.p99_micros.filter(|_| cost.calls >= TELLING_CALLS)? / 1_000.0;
    let severity = P99_MS.severity(p99)?;
    Some(finding(
        "command_slow",
        severity,
        address,
        format!(
            "one of 100 calls of {} takes {p99:.1} ms or longer, in which everybody waits",
            cost.name.to_uppercase()
        ),
        "give it fewer elements at a time; split the keys that it works on (`mainstay redis keys` names the largest)",
    ))
}

fn of_log(slow: &SlowCalls, address: &str) -> Option<Finding> {
    if slow.threshold_micros? >= 0 && slow.kept_max != Some(0) {
        return None;
    }
    Some(finding(
        "slowlog_off",
        Severity::Note,
        address,
        "the server remembers no slow command".to_owned(),
        format!("type `CONFIG SET slowlog-log-slower-than {THRESHOLD_MICROS_USUAL} slowlog-max-len 128`"),
    ))
}

/// What of the slow log has been told.
#[derive(Debug, Default)]
pub struct Following {
    next: Option<u64>,
}

/// What is new in it.
#[derive(Debug, PartialEq, Eq)]
pub struct News {
    /// The oldest first.
    pub calls: Vec<SlowCall>,
    /// How many came and were pushed out before they were read.
    pub missed: u64,
}

impl Following {
    /// What `calls`, the newest first, has that was not told; of the first look nothing.
    pub fn news(&mut self, mut calls: Vec<SlowCall>) -> News {
        calls.sort_by_key(|call| call.id);
        let newest = calls.last().map(|call| call.id);
        let Some(next) = self.next else {
            self.next = Some(newest.map_or(0, |id| id + 1));
            return News { calls: Vec::new(), missed: 0 };
        };
        // Numbers that begin anew are those of a server that did, or whose log was emptied; the latter goes on counting.
        let next = match newest {
            Some(newest) if newest + 1 < next => 0,
            _ => next,
        };
        calls.retain(|call| call.id >= next);
        let missed = calls.first().map_or(0, |first| first.id - next);
        self.next = Some(calls.last().map_or(next, |last| last.id + 1));
        News { calls, missed }
    }
}

#[cfg(test)]
mod tests {
    use mainstay_engine::CallText;

    use super::*;

    fn call(id: u64) -> SlowCall {
        SlowCall {
            id,
            at: 1,
            micros: 20_000,
            name: "GET".to_owned(),
            text: CallText::new("GET a:*".to_owned(), "GET a:canary".to_owned()),
            client: None,
            client_name: None,
        }
    }

    fn cost(name: &str, calls: u64, p99_micros: f64) -> CommandCost {
        CommandCost {
            name: name.to_owned(),
            calls,
            micros: calls * 10,
            rejected: 0,
            failed: 0,
            p50_micros: Some(1.0),
            p99_micros: Some(p99_micros),
            p999_micros: None,
        }
    }

    #[test]
    fn slow_commands_and_what_costs_most_are_judged() {
        let slow = SlowCalls { calls: vec![call(1)], threshold_micros: Some(10_000), kept_max: Some(128) };
        let costs = vec![
            cost("get", 100, 9_999.0),
            cost("lrange", 100, 10_000.0),
            cost("zrange", 200, 100_000.0),
            cost("eval", 99, 900_000.0),
            cost("keys", 1, 5.0),
        ];
        let report = judge(&slow, costs, 2, Literals::Hidden, "h:1");
        let told: Vec<_> = report.findings.iter().map(|found| (found.id.as_str(), found.severity)).collect();
        assert_eq!(
            told,
            [
                ("redis.command_slow", Severity::Critical),
                ("redis.command_slow", Severity::Warning),
                ("redis.whole_keyspace_command", Severity::Warning)
            ]
        );
        assert_eq!((report.costs[0].name.as_str(), report.costs_left_out), ("zrange", 3));
        assert_eq!(report.calls[0].command, "GET a:*");
        assert_eq!(ShownCall::new(&call(1), Literals::Shown).command, "GET a:canary");
        let off = SlowCalls { calls: vec![], threshold_micros: Some(-1), kept_max: Some(128) };
        assert_eq!(judge(&off, vec![], 2, Literals::Hidden, "h:1").findings[0].id, "redis.slowlog_off");
    }

    #[test]
    fn news_are_told_once_and_gaps_are_counted() {
        let mut following = Following::default();
        let mut look = |ids: &[u64]| {
            let news = following.news(ids.iter().rev().copied().map(call).collect());
            (news.calls.iter().map(|call| call.id).collect::<Vec<_>>(), news.missed)
        };
        assert_eq!(look(&[3, 4]), (vec![], 0), "what was there before");
        assert_eq!(look(&[3, 4, 5]), (vec![5], 0));
        assert_eq!(look(&[3, 4, 5]), (vec![], 0));
        assert_eq!(look(&[8, 9]), (vec![8, 9], 2), "two were pushed out");
        assert_eq!(look(&[]), (vec![], 0), "emptied");
        assert_eq!(look(&[10]), (vec![10], 0));
        assert_eq!(look(&[0, 1]), (vec![0, 1], 0), "the server began anew");
    }
}
