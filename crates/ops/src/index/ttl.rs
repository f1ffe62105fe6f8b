//! What expires, how far behind the server is, and what will never expire.
//!
//! The monitor deletes once a minute by default. What has expired and is still there is counted by the server's own clock; the oldest of it
//! tells how far behind the monitor is. A hidden index deletes as well as any other, though no question may walk it.

use std::time::Duration;

use mainstay_engine::{IndexCatalog, Namespace, TtlMonitor};
use mainstay_indexes::{Check, ListedIndex, TTL_NEVER, rounded_span};
use mainstay_model::{Count, Error, ErrorKind, ErrorStatus, Finding, Result, Severity, StoreKind, Timestamp};
use tokio_util::sync::CancellationToken;

use super::questions::Asking;
pub use super::questions::ExpiryCounts;
use super::{choosable, collections};

/// So many passes of the monitor may go by before what is overdue is a finding.
const PASSES_LATE: u64 = 5;
/// Seconds between two passes where the server does not tell (MongoDB manual, `ttlMonitorSleepSecs`).
const SLEEP_SECONDS: u64 = 60;

/// What was seen.
#[derive(Debug)]
pub struct TtlReport {
    /// The monitor; `None` when this user may not ask, or each shard has its own.
    pub monitor: Option<TtlMonitor>,
    /// The server's time, by which was counted.
    pub now: Timestamp,
    /// The indexes by which documents expire, by collection and name.
    pub rows: Vec<TtlRow>,
    /// What is to be looked at.
    pub findings: Vec<Finding>,
}

/// An index by which documents expire.
#[derive(Debug)]
pub struct TtlRow {
    /// The collection.
    pub namespace: Namespace,
    /// The index.
    pub index: String,
    /// The field of the date.
    pub field: String,
    /// After so many seconds.
    pub seconds: i64,
    /// Only documents that match this expire.
    pub filter: Option<String>,
    /// Queries do not use it.
    pub hidden: bool,
    /// What was counted, or why it was not.
    pub counts: Result<ExpiryCounts>,
}

impl TtlRow {
    /// Whether nothing ever expires by it.
    pub fn is_never(&self) -> bool {
        self.seconds >= TTL_NEVER
    }

    /// For how many seconds the oldest overdue document should have been gone.
    pub fn lag_seconds(&self, now: Timestamp) -> Option<u64> {
        let oldest = self.counts.as_ref().ok()?.oldest?;
        u64::try_from(now.as_second().saturating_sub(oldest.as_second()).saturating_sub(self.seconds)).ok()
    }
}

/// Looks at the expiries of a database, or of some of its collections.
///
/// # Errors
/// `Precondition` when a collection is not there; `Interrupted`; the server's. What cannot be counted of one index is its row.
pub async fn ttl(
    catalog: &dyn IndexCatalog,
    database: &str,
    names: &[String],
    time_max: Duration,
    cancel: &CancellationToken,
) -> Result<TtlReport> {
    let (found, _) = choosable(collections(catalog, database, names, |_| false).await?);
    let monitor = match catalog.ttl_monitor().await {
        Ok(monitor) => Some(monitor),
        Err(error) if matches!(error.kind(), ErrorKind::Auth | ErrorKind::Unsupported) => None,
        Err(error) => return Err(error),
    };
    let now = match &monitor {
        Some(monitor) => monitor.now,
        None => catalog.server_time().await?,
    };
    let asking = Asking { catalog, cancel, time_max };
    let mut report = TtlReport { monitor, now, rows: Vec::new(), findings: Vec::new() };
    for collection in &found {
        for index in collection.indexes.iter().filter(|index| index.is_ready() && !index.is_id()) {
            if let Some(row) = row(&asking, &collection.namespace, index, now).await? {
                report.judge(&row, index, now);
                report.rows.push(row);
            }
        }
    }
    report.judge_monitor();
    Ok(report)
}

async fn row(
    asking: &Asking<'_>,
    namespace: &Namespace,
    index: &ListedIndex,
    now: Timestamp,
) -> Result<Option<TtlRow>> {
    let Some(check) = Check::of_expiry(&index.spec) else { return Ok(None) };
    let Check::Expiry { path, seconds, .. } = &check else { return Ok(None) };
    let walked = (!index.spec.hidden).then_some(index.name.as_str());
    let counts = match asking.expired(namespace, &check, now, walked).await {
        // What is wrong with the way to the server is wrong for every index.
        Err(error) if matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Interrupted) => {
            return Err(error);
        }
        counts => counts.map_err(longer),
    };
    Ok(Some(TtlRow {
        namespace: namespace.clone(),
        index: index.name.clone(),
        field: path.clone(),
        seconds: *seconds,
        filter: index.spec.partial.as_ref().map(ToString::to_string),
        hidden: index.spec.hidden,
        counts,
    }))
}

/// An error of the server, with how to give it longer where that is what it lacked.
fn longer(error: Error) -> Error {
    match (error.kind(), error.status()) {
        (ErrorKind::Server, ErrorStatus::Persistent) => {
            error.with_hint("give it longer with `--max-time 30m`, or ask when the server has less to do")
        }
        _ => error,
    }
}

impl TtlReport {
    fn find(&mut self, id: &str, severity: Severity, subject: String, message: String, remedy: &str) {
        let (id, store, remedy) = (id.to_owned(), Some(StoreKind::Mongo), remedy.to_owned());
        self.findings.push(Finding { id, severity, store, subject, message, remedy });
    }

    fn sleep_seconds(&self) -> u64 {
        self.monitor.as_ref().and_then(|monitor| monitor.sleep_seconds).unwrap_or(SLEEP_SECONDS)
    }

    fn judge(&mut self, row: &TtlRow, index: &ListedIndex, now: Timestamp) {
        let subject = format!("{} {}", row.namespace, row.index);
        if index.ttl_is_no_number {
            self.find(
                "ttl.no_number",
                Severity::Critical,
                subject.clone(),
                "its expireAfterSeconds is not a number: early 5.0 and 6.0 servers delete by it at once"
                    .to_owned(),
                "give it a `ttl` in the manifest and run `mainstay index plan`; upgrade the server",
            );
        }
        let late = self.sleep_seconds() * PASSES_LATE;
        if let Some(lag) = row.lag_seconds(now).filter(|lag| *lag > late) {
            let overdue = row.counts.as_ref().map_or(0, |counts| counts.overdue);
            self.find(
                "ttl.behind",
                Severity::Warning,
                subject.clone(),
                format!("{} documents are overdue, the oldest for {}", Count(overdue), rounded_span(lag)),
                "the monitor does not keep up: look at the load of the primary with `mainstay mongo ops`, or delete in batches",
            );
        }
        let Ok(counts) = &row.counts else { return };
        if counts.not_dates > 0 {
            let (count, field) = (Count(counts.not_dates), &row.field);
            self.find(
                "ttl.not_dates",
                Severity::Warning,
                subject.clone(),
                format!("{count} documents have no date in `{field}` and never expire"),
                "store dates, not texts or numbers: find them with {FIELD: {$exists: true, $not: {$type: \"date\"}}}",
            );
        }
        if counts.arrays > 0 {
            let (count, field) = (Count(counts.arrays), &row.field);
            self.find(
                "ttl.arrays",
                Severity::Note,
                subject,
                format!("{count} documents have an array in `{field}`: its earliest date decides"),
                "store one date, unless the earliest is meant",
            );
        }
    }

    fn judge_monitor(&mut self) {
        let Some(monitor) = self.monitor.clone().filter(|_| !self.rows.is_empty()) else { return };
        if monitor.enabled == Some(false) {
            self.find(
                "ttl.monitor_off",
                Severity::Critical,
                monitor.member.clone(),
                "the monitor is off: nothing expires".to_owned(),
                "turn it on: db.adminCommand({setParameter: 1, ttlMonitorEnabled: true})",
            );
        }
        let sleep = self.sleep_seconds();
        if monitor.passes == 0 && monitor.uptime_seconds > sleep * PASSES_LATE {
            self.find(
                "ttl.no_pass",
                Severity::Warning,
                monitor.member.clone(),
                format!("the monitor has made no pass in {}", rounded_span(monitor.uptime_seconds)),
                "look at the server's log for what stops it (a secondary never deletes by itself)",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lacked_time_is_given_longer() {
        let slow = Error::new(ErrorKind::Server, "slow").with_status(ErrorStatus::Persistent);
        assert!(longer(slow).hint().is_some_and(|hint| hint.contains("--max-time")));
        assert_eq!(longer(Error::new(ErrorKind::Server, "broken")).hint(), None);
    }
}
