//! How WAL flows: how fast it is written, whether it is archived, what its directory holds.
//!
//! A rate needs two looks. Judging is pure. Reads only.

use std::time::Duration;

use mainstay_engine::{RelationalInspection, WalFlow};
use mainstay_model::{Count, Finding, Lsn, Result, Severity};
use serde::Serialize;

use super::finding;
use crate::bounds::Bounds;

/// Segments that wait to be archived. Own.
const PENDING: Bounds = Bounds { warning: 10.0, critical: 100.0 };

/// What was seen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WalReport {
    /// Where writing is; on a standby, where replaying is.
    pub at: Lsn,
    /// Whether the server replays what another one writes.
    pub in_recovery: bool,
    /// Between the looks.
    pub seconds: f64,
    /// Bytes written (replayed, on a standby) in each second between the looks.
    pub bytes_per_second: f64,
    /// How long a segment is.
    pub segment_bytes: u64,
    /// Size from which a checkpoint is begun.
    pub size_max_bytes: u64,
    /// Segments in the directory; `None` when the role may not know.
    pub directory_files: Option<u64>,
    /// Their bytes.
    pub directory_bytes: Option<u64>,
    /// `off`, `on`, `always`.
    pub archive_mode: String,
    /// Segments archived since statistics were reset.
    pub archived: u64,
    /// Failed tries since then.
    pub archive_failures: u64,
    /// Seconds since the last success.
    pub archived_seconds: Option<u64>,
    /// Segments that wait to be archived; `None` when the role may not know.
    pub archive_pending: Option<u64>,
    /// What is bad about it.
    pub findings: Vec<Finding>,
}

/// Looks twice, `over` apart, and judges. `address` is the server's, for findings.
///
/// # Errors
/// The server's.
pub async fn observe(
    inspection: &dyn RelationalInspection,
    address: &str,
    over: Duration,
) -> Result<WalReport> {
    let before = inspection.wal_flow().await?;
    tokio::time::sleep(over).await;
    let now = inspection.wal_flow().await?;
    Ok(judge(&before, &now, address))
}

/// Judges two looks.
pub fn judge(before: &WalFlow, now: &WalFlow, address: &str) -> WalReport {
    let seconds = (now.seen_micros - before.seen_micros).max(1) as f64 / 1_000_000.0;
    WalReport {
        at: now.at,
        in_recovery: now.in_recovery,
        seconds,
        bytes_per_second: now.at.0.saturating_sub(before.at.0) as f64 / seconds,
        segment_bytes: now.segment_bytes,
        size_max_bytes: now.size_max_bytes,
        directory_files: now.directory.map(|(files, _)| files),
        directory_bytes: now.directory.map(|(_, bytes)| bytes),
        archive_mode: now.archive_mode.clone(),
        archived: now.archived,
        archive_failures: now.failed,
        archived_seconds: now.archived_seconds,
        archive_pending: now.pending.filter(|_| now.archive_mode != "off"),
        findings: findings(now, address),
    }
}

/// What is bad about it.
pub(super) fn findings(flow: &WalFlow, address: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    // A failure counts until the next success and no longer: "failed" means "failed since".
    if let Some(segment) = &flow.failing {
        findings.push(finding(
            "archive_failing",
            Severity::Critical,
            address,
            format!(
                "archiving fails at WAL segment {segment} ({} failures): WAL piles up and no point in time can be recovered",
                Count(flow.failed)
            ),
            "look into the server's log for the archive_command's output, and mend it",
        ));
    }
    let pending = flow.pending.filter(|_| flow.archive_mode != "off").unwrap_or(0);
    if let Some(severity) = PENDING.severity(pending as f64) {
        findings.push(finding(
            "archive_behind",
            severity,
            address,
            format!("{} WAL segments wait to be archived", Count(pending)),
            "see why the archive_command is slow or fails; until they are archived they fill the disk",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(at: u64, seen_micros: i64) -> WalFlow {
        WalFlow {
            at: Lsn(at),
            in_recovery: false,
            seen_micros,
            segment_bytes: 16 << 20,
            size_max_bytes: 1 << 30,
            archive_mode: "on".to_owned(),
            archived: 3,
            failed: 2,
            archived_seconds: Some(5),
            failing: None,
            pending: Some(0),
            directory: None,
        }
    }

    #[test]
    fn the_rate_lies_between_the_looks() {
        let report = judge(&flow(1_000, 0), &flow(3_000, 500_000), "h:1");
        assert_eq!((report.seconds, report.bytes_per_second), (0.5, 4_000.0));
        // A failover to a server that is behind, and a clock that was set back.
        let report = judge(&flow(9_000, 500_000), &flow(3_000, 0), "h:1");
        assert_eq!(report.bytes_per_second, 0.0);
    }

    #[test]
    fn archiving_has_its_findings() {
        let ids = |flow: WalFlow| -> Vec<(String, Severity)> {
            findings(&flow, "h:1").into_iter().map(|finding| (finding.id, finding.severity)).collect()
        };
        let pending = |count| WalFlow { pending: Some(count), ..flow(1, 1) };
        let failing = WalFlow { failing: Some("00000001".to_owned()), ..flow(1, 1) };
        assert_eq!(ids(pending(9)), []);
        assert_eq!(ids(pending(10)), [("postgres.archive_behind".to_owned(), Severity::Warning)]);
        assert_eq!(ids(pending(100)), [("postgres.archive_behind".to_owned(), Severity::Critical)]);
        assert_eq!(ids(WalFlow { archive_mode: "off".to_owned(), ..pending(100) }), []);
        assert_eq!(ids(failing), [("postgres.archive_failing".to_owned(), Severity::Critical)]);
    }
}
