//! What a server's memory is taken by, how it grows, and when it is full at that rate.
//!
//! A rate needs two looks; what a few seconds say about a day is little, so the forecast says which seconds it is from. Judging is pure.
//! Reads only.

use std::time::Duration;

use mainstay_engine::{KeyServerInspection, KeyServerLook, MemoryLook, MemoryParts};
use mainstay_model::{ByteSize, Finding, Result, Severity};
use serde::Serialize;

use super::{finding, grown, overview, seconds_between};
use crate::bounds::Bounds;

/// Findings of the overview that are about memory.
const OF_MEMORY: [&str; 5] = [
    "redis.memory_nearly_full",
    "redis.machine_nearly_full",
    "redis.writes_refused",
    "redis.keys_evicted",
    "redis.fragmented",
];
/// Share of memory that is neither keys nor values, and the fewest bytes of which that matters.
const OVERHEAD: (f64, u64) = (0.50, 100_000_000);
/// Share of memory in buffers of clients.
const CLIENT_BUFFERS: Bounds = Bounds { warning: 0.10, critical: 0.30 };
/// Hours until the limit is reached, downward.
const HOURS_LEFT: f64 = 24.0;

/// What was seen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MemoryReport {
    /// The second look.
    #[serde(flatten)]
    pub memory: MemoryLook,
    /// What it is taken by.
    pub parts: MemoryParts,
    /// Between the looks.
    pub seconds: f64,
    /// How fast it grew between them; negative when it shrank.
    pub growth_bytes_per_second: f64,
    /// Keys evicted in each second between them.
    pub evicted_per_second: f64,
    /// When the limit is reached at that rate; `None` without a limit, or when memory does not grow.
    pub seconds_to_limit: Option<u64>,
    /// What is bad about it, the worst first.
    pub findings: Vec<Finding>,
}

/// Looks twice, `over` apart, and judges.
///
/// # Errors
/// The server's; `Auth` when the user may not ask what memory is taken by.
pub async fn observe(inspection: &dyn KeyServerInspection, over: Duration) -> Result<MemoryReport> {
    let before = inspection.look().await?;
    tokio::time::sleep(over).await;
    let now = inspection.look().await?;
    let parts = inspection.memory().await?;
    Ok(judge(&before, &now, parts, &inspection.address()))
}

/// Judges two looks.
pub fn judge(before: &KeyServerLook, now: &KeyServerLook, parts: MemoryParts, address: &str) -> MemoryReport {
    let seconds = seconds_between(before, now);
    let memory = now.memory.clone();
    let growth = (memory.used as f64 - before.memory.used as f64) / seconds;
    let room = memory.used_max.checked_sub(memory.used).filter(|_| memory.used_max > 0);
    let seconds_to_limit = room.filter(|_| growth >= 1.0).map(|room| (room as f64 / growth) as u64);
    let mut findings: Vec<Finding> = overview::judge(before, now.clone(), address)
        .findings
        .into_iter()
        .filter(|finding| OF_MEMORY.contains(&finding.id.as_str()))
        .collect();
    findings.extend(of_parts(&memory, &parts, address));
    findings.extend(soon_full(&memory, seconds_to_limit, seconds, address));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    MemoryReport {
        parts,
        seconds,
        growth_bytes_per_second: growth,
        evicted_per_second: grown(before, now, |look| look.memory.evicted) as f64 / seconds,
        seconds_to_limit,
        findings,
        memory,
    }
}

fn of_parts(memory: &MemoryLook, parts: &MemoryParts, address: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (share_max, bytes_min) = OVERHEAD;
    let share = |bytes: u64| bytes as f64 / memory.used.max(1) as f64;
    if let Some(dataset) = parts.dataset
        && memory.used >= bytes_min
        && 1.0 - share(dataset) > share_max
    {
        findings.push(finding(
            "overhead_high",
            Severity::Warning,
            address,
            format!(
                "only {} of {} are keys and values",
                ByteSize(dataset),
                ByteSize(memory.used)
            ),
            "see the parts: many tiny keys are better kept as fields of hashes, large buffers belong to slow clients",
        ));
    }
    if let Some(severity) = parts.clients.and_then(|bytes| CLIENT_BUFFERS.severity(share(bytes)))
        && memory.used >= bytes_min
    {
        findings.push(finding(
            "client_buffers_large",
            severity,
            address,
            format!("buffers of clients take {}", ByteSize(parts.clients.unwrap_or_default())),
            "see who does not read: `CLIENT LIST`, field `omem`; bound them with `client-output-buffer-limit` and `maxmemory-clients`",
        ));
    }
    if let Some(text) = &parts.doctor {
        findings.push(finding(
            "memory_doctor",
            Severity::Note,
            address,
            "the server has something to say about its memory".to_owned(),
            text.split_whitespace().collect::<Vec<_>>().join(" "),
        ));
    }
    findings
}

fn soon_full(
    memory: &MemoryLook,
    seconds_to_limit: Option<u64>,
    over: f64,
    address: &str,
) -> Option<Finding> {
    let hours = seconds_to_limit? as f64 / 3_600.0;
    if hours >= HOURS_LEFT {
        return None;
    }
    let then = match memory.eviction.as_str() {
        "noeviction" => "writes are refused then",
        _ => "keys are evicted then",
    };
    Some(finding(
        "memory_soon_full",
        Severity::Note,
        address,
        format!("at the rate of the last {over:.0} s the limit is reached in {hours:.1} h: {then}"),
        "look again with `--over 1m`; if it stays so, raise maxmemory or see what grows: `mainstay redis keys`",
    ))
}

#[cfg(test)]
mod tests {
    use super::super::tests::healthy;
    use super::*;

    fn after(seconds: i64, used: u64) -> KeyServerLook {
        let mut look = healthy();
        look.seen_micros += seconds * 1_000_000;
        look.memory.used = used;
        look
    }

    fn ids(report: &MemoryReport) -> Vec<&str> {
        report.findings.iter().map(|finding| finding.id.as_str()).collect()
    }

    #[test]
    fn the_forecast_follows_from_two_looks() {
        let report = judge(&healthy(), &after(10, 1_001_000), MemoryParts::default(), "h:1");
        assert_eq!((report.growth_bytes_per_second, report.seconds_to_limit), (100.0, Some(9_990)));
        assert_eq!(ids(&report), ["redis.memory_soon_full"]);
        let shrinks = judge(&healthy(), &after(10, 900_000), MemoryParts::default(), "h:1");
        assert_eq!((shrinks.seconds_to_limit, ids(&shrinks)), (None, vec![]));
        let mut unlimited = after(10, 1_100_000);
        unlimited.memory.used_max = 0;
        assert_eq!(judge(&healthy(), &unlimited, MemoryParts::default(), "h:1").seconds_to_limit, None);
    }

    #[test]
    fn parts_that_are_too_large_are_told() {
        let mut look = healthy();
        look.memory.used = 200_000_000;
        look.memory.used_max = 0;
        look.memory.machine = None;
        let parts = MemoryParts {
            dataset: Some(90_000_000),
            clients: Some(60_000_000),
            doctor: Some("Sam, I detected\n a few issues".to_owned()),
            ..MemoryParts::default()
        };
        let report = judge(&look, &look, parts, "h:1");
        assert_eq!(
            ids(&report),
            ["redis.client_buffers_large", "redis.overhead_high", "redis.memory_doctor"]
        );
        assert_eq!(report.findings[2].remedy, "Sam, I detected a few issues");
    }
}
