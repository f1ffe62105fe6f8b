//! The folder and the database held against each other, and judged: what is wrong, and what to do about it.
//!
//! Reads only. What is pending is no finding; what would be skipped, replayed or run twice is one, and so is a file that says something else than what
//! was applied.

use mainstay_migrations::{EntryState, EntryVerdict, NoticeKind, Reaction, Readiness, readiness};
use mainstay_model::{Finding, Result, Severity, StoreKind};
use serde::Serialize;

use super::SqlContext;
use super::survey::{Survey, survey};

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyReport {
    /// How many entries the folder has.
    pub entries: usize,
    /// How many rows the table has.
    pub rows: usize,
    /// How many entries are to be applied.
    pub pending: usize,
    /// What is wrong, worst first.
    pub findings: Vec<Finding>,
    /// Whether Drizzle 1.0 could take the table over, when that was asked.
    pub readiness: Option<Readiness>,
}

/// Looks, compares and judges. With `for_v1`, also whether Drizzle 1.0 could take the table over.
///
/// # Errors
/// As [`survey`](super::survey()).
pub async fn verify(context: &SqlContext<'_>, for_v1: bool) -> Result<VerifyReport> {
    context.observer.phase("compare the folder with the database");
    let found = survey(context.target, context.folder, context.table, context.clock.now()).await?;
    let readiness = for_v1.then(|| readiness(context.folder, &found.look.rows));
    let mut findings = findings(context, &found);
    if let Some(readiness) = &readiness {
        findings.extend(unready(context, readiness));
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let is_pending = |entry: &&EntryVerdict| matches!(entry.state, EntryState::Pending { .. });
    Ok(VerifyReport {
        entries: found.verdict.entries.len(),
        rows: found.look.rows.len(),
        pending: found.verdict.entries.iter().filter(is_pending).count(),
        findings,
        readiness,
    })
}

/// What is wrong about entries, and about more than one of them. Rows are told by the notices that count them.
fn findings(context: &SqlContext<'_>, found: &Survey) -> Vec<Finding> {
    let subject = || format!("{} in {}", context.table, found.facts.database);
    let entries = found.verdict.entries.iter().filter_map(|entry| {
        Some(finding(
            &entry.state.name().replace(' ', "_"),
            severity(entry.reaction)?,
            entry.tag.clone(),
            entry.message.clone(),
            remedy(entry),
        ))
    });
    let notices = found.verdict.notices.iter().filter_map(|notice| {
        Some(finding(
            notice_word(notice.kind),
            severity(notice.reaction)?,
            subject(),
            notice.message.clone(),
            notice.remedy.clone(),
        ))
    });
    entries.chain(notices).collect()
}

fn unready(context: &SqlContext<'_>, readiness: &Readiness) -> Vec<Finding> {
    const REMEDY: &str = "correct the rows with `mainstay sql repair`, or the folder, before drizzle-kit 1.0 runs against this database";
    let told = |message: String| {
        finding("not_ready_for_v1", Severity::Warning, context.table.to_string(), message, REMEDY.to_owned())
    };
    let unmatched = readiness.unmatched.iter().map(|row| {
        told(format!("row {row} matches no entry by second or hash: Drizzle 1.0 would end with an error"))
    });
    unmatched.chain(readiness.problems.iter().cloned().map(told)).collect()
}

fn finding(id: &str, severity: Severity, subject: String, message: String, remedy: String) -> Finding {
    Finding { id: format!("sql.{id}"), severity, store: Some(StoreKind::Postgres), subject, message, remedy }
}

fn severity(reaction: Reaction) -> Option<Severity> {
    match reaction {
        Reaction::Ok => None,
        Reaction::Warn | Reaction::Fail => Some(Severity::Warning),
        Reaction::Block => Some(Severity::Critical),
    }
}

fn notice_word(kind: NoticeKind) -> &'static str {
    match kind {
        NoticeKind::PoisonedWatermark => "poisoned_watermark",
        NoticeKind::FutureEntry => "future_entry",
        NoticeKind::DuplicateRows => "duplicate_rows",
        NoticeKind::OrphanRows => "orphan_rows",
        NoticeKind::NullRows => "null_rows",
        NoticeKind::NullNames => "null_names",
        NoticeKind::OldFolderNewTable => "old_folder_new_table",
        NoticeKind::TableToUpgrade => "table_to_upgrade",
        NoticeKind::NotReady => "not_ready",
        NoticeKind::PendingOutOfOrder => "pending_out_of_order",
        NoticeKind::Folder => "folder",
    }
}

fn remedy(entry: &EntryVerdict) -> String {
    let tag = &entry.tag;
    match &entry.state {
        EntryState::Edited { line_endings_only: true } => {
            "`mainstay sql repair --line-endings` stores the hash that the file has now".to_owned()
        }
        EntryState::Edited { line_endings_only: false } => format!(
            "put the file of {tag} back as it was, and what is new into a migration of its own; when the database has it already, `mainstay sql repair --edited`"
        ),
        EntryState::Retimed { .. } => {
            "`mainstay sql repair --retimed` writes what the journal says".to_owned()
        }
        EntryState::Skipped { .. } => format!(
            "apply it with `mainstay sql apply --include-skipped`, or generate it again so that it is the latest; when the database has what it makes, `mainstay sql mark-applied {tag}`"
        ),
        EntryState::HalfApplied => "`mainstay sql apply` goes on at the step that is not done".to_owned(),
        EntryState::Applied | EntryState::Pending { .. } => "`mainstay sql apply`".to_owned(),
    }
}
