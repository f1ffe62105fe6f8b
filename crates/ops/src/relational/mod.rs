//! Daily questions to a relational server: who does what, who blocks whom, which statements cost most, which tables hold dead weight, how
//! WAL flows and what retains it.
//!
//! Each module reads once (or twice, where a rate is asked for) through [`RelationalInspection`](mainstay_engine::RelationalInspection) and
//! judges what it saw; judging is pure. Values in statements stay hidden unless they are asked for. Reads only, but for ending a session,
//! which is planned and permitted.

pub mod blockers;
pub mod sessions;
pub mod slots;
pub mod statements;
pub mod tables;
pub mod wal;

use mainstay_engine::{Backend, RelationalInspection, SqlText};
use mainstay_model::{Finding, Result, Severity, StoreKind};

use crate::shape::{Literals, quoted};

/// Longest statement that is shown; what is longer ends in an ellipsis.
const STATEMENT_CHARS_MAX: usize = 2_000;

/// What is wrong with a running server beyond its settings: connections, WAL that cannot be archived, slots. `address` is the server's, for
/// findings.
///
/// # Errors
/// The server's.
pub async fn examine(inspection: &dyn RelationalInspection, address: &str) -> Result<Vec<Finding>> {
    // One after the other: a server that runs out of connections is asked over one at a time.
    let backends = inspection.backends().await?;
    let mut findings: Vec<Finding> = sessions::connections(&backends, address).into_iter().collect();
    findings.extend(wal::findings(&inspection.wal_flow().await?, address));
    findings.extend(slots::findings(&inspection.slots().await?, address));
    Ok(findings)
}

fn finding(
    id: &str,
    severity: Severity,
    subject: &str,
    message: String,
    remedy: impl Into<String>,
) -> Finding {
    Finding {
        id: format!("postgres.{id}"),
        severity,
        store: Some(StoreKind::Postgres),
        subject: subject.to_owned(),
        message,
        remedy: remedy.into(),
    }
}

/// A statement as it may be shown.
pub(crate) fn shown(statement: &SqlText, literals: Literals) -> String {
    let text = match literals {
        Literals::Hidden => statement.masked(),
        Literals::Shown => statement.whole().expose(),
    };
    match text.chars().nth(STATEMENT_CHARS_MAX) {
        None => text.to_owned(),
        Some(_) => text.chars().take(STATEMENT_CHARS_MAX).chain(['…']).collect(),
    }
}

/// Who a backend is, in a few words.
fn called(backend: &Backend) -> String {
    let app = match backend.app_name.as_str() {
        "" => String::new(),
        name => format!(" of {}", quoted(name)),
    };
    let user = backend.user.as_deref().map(|user| format!(" ({user})")).unwrap_or_default();
    format!("process {}{app}{user}", backend.id.pid)
}

/// Seconds, for bounds.
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1_000_000.0
}

#[cfg(test)]
pub(crate) mod tests {
    use mainstay_engine::BackendId;

    use super::*;

    pub(crate) fn backend(pid: i32) -> Backend {
        Backend {
            id: BackendId { pid, began_micros: 1_000 + i64::from(pid) },
            kind: Some("client backend".to_owned()),
            database: Some("shop".to_owned()),
            user: Some("app".to_owned()),
            app_name: "api".to_owned(),
            client: Some("10.0.0.7:5000".to_owned()),
            state: Some("active".to_owned()),
            state_micros: Some(2_000_000),
            statement: Some(SqlText::new("SELECT <string>".to_owned(), "SELECT 'canary'".to_owned())),
            statement_began_micros: Some(5_000),
            statement_micros: Some(2_000_000),
            transaction_micros: Some(2_000_000),
            wait: None,
            wants: None,
            blocked_by: Vec::new(),
            holds: Vec::new(),
        }
    }

    #[test]
    fn statements_are_shown_as_asked_and_never_without_end() {
        let text = SqlText::new("SELECT <string>".to_owned(), format!("SELECT '{}'", "x".repeat(3_000)));
        assert_eq!(shown(&text, Literals::Hidden), "SELECT <string>");
        assert_eq!(shown(&text, Literals::Shown).chars().count(), STATEMENT_CHARS_MAX + 1);
    }
}
