//! A restored folder, proven by a throw-away server.
//!
//! [`check_scratch`] looks before the restore whether a server can be started here at all. [`rehearse`] starts one on what was restored, waits
//! until it takes writes, compares where its recovery ended with what was planned, reads every table to its end, asks the queries of a file if
//! there is one, looks at every relation, and ends the server, whatever came of it. What it meets are findings; the folder is used up, for the server wrote into it.

use std::time::Duration;

use mainstay_engine::{
    RelationCheck, ScratchAnswer, ScratchHost, ScratchProgress, ScratchQuery, ScratchServer, ScratchTable,
};
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{Error, ErrorKind, Finding, Lsn, Plan, Result, ResultExt, Severity, StoreKind};
use mainstay_repository::Repository;
use serde::Serialize;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::restore::set_of;
use super::{ClusterRestoreReport, ClusterSetContents, RecoveryTarget};

/// How long a recovery may stand still.
const STILL_TIME_MAX: Duration = Duration::from_secs(300);
/// How often the server is asked how far it is.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

/// What a rehearsal works with.
pub struct ScratchContext<'a> {
    /// Where servers are started.
    pub host: &'a dyn ScratchHost,
    /// What is asked of the server besides, if there is anything.
    pub questions: Option<&'a Questions>,
    /// Told how far it is.
    pub observer: &'a dyn Observer,
    /// Ends server and rehearsal.
    pub cancel: &'a CancellationToken,
}

/// A file of queries.
#[derive(Debug, Clone)]
pub struct Questions {
    /// What the file is called.
    pub file: String,
    /// Its queries, in order.
    pub queries: Vec<ScratchQuery>,
}

/// A query that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Asked {
    /// The query.
    #[serde(flatten)]
    pub query: ScratchQuery,
    /// Whether it was answered, and what it claims is so.
    pub passed: bool,
    /// What came of it; `None` when it failed.
    #[serde(flatten)]
    pub answer: Option<ScratchAnswer>,
}

/// A table that was read to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableRows {
    /// The table.
    #[serde(flatten)]
    pub table: ScratchTable,
    /// How many rows it has.
    pub rows: u64,
}

/// What a rehearsal found.
#[derive(Debug, Default, Serialize)]
pub struct ScratchReport {
    /// Where recovery ended; `None` when the server did not come so far.
    pub reached: Option<Lsn>,
    /// The timeline that the server then wrote on.
    pub timeline: Option<u32>,
    /// What every table holds that could be read.
    pub tables: Vec<TableRows>,
    /// The queries of the file, each with what came of it; empty without a file.
    pub queries: Vec<Asked>,
    /// Whether every relation was looked at with `pg_amcheck`.
    pub relations_checked: bool,
    /// What is wrong; none is what is wanted.
    pub findings: Vec<Finding>,
}

/// Looks whether the set of `plan` can be rehearsed here.
///
/// # Errors
/// `Precondition` when not; what opening the set fails with.
pub async fn check_scratch(host: &dyn ScratchHost, repository: &Repository, plan: &Plan) -> Result<()> {
    let set = repository.set(Some(StoreKind::Postgres), &set_of(plan)?).await.context("open backup set")?;
    let contents: ClusterSetContents = set.contents()?;
    host.check(&contents.server.version).await
}

/// Starts a server on what was restored, looks at it, and ends it.
///
/// # Errors
/// `Interrupted`, when the server has ended; `Precondition` and `Storage` when none can be started.
pub async fn rehearse(
    context: &ScratchContext<'_>,
    restored: &ClusterRestoreReport,
) -> Result<ScratchReport> {
    let version = &restored.contents.server.version;
    let mut server = context.host.start(&restored.into, version).await.context("start a scratch server")?;
    let mut report = ScratchReport::default();
    let looked = tokio::select! {
        looked = look(context, restored, server.as_mut(), &mut report) => looked,
        () = context.cancel.cancelled() => Err(
            Error::new(ErrorKind::Interrupted, "the rehearsal was stopped on request")
                .with_state("the folder is restored and was used; its scratch server has ended")
                .with_hint("empty the folder and apply the same plan again"),
        ),
    };
    context.observer.phase("end the scratch server");
    let ended = server.end().await;
    looked?;
    ended?;
    Ok(report)
}

async fn look(
    context: &ScratchContext<'_>,
    restored: &ClusterRestoreReport,
    server: &mut dyn ScratchServer,
    report: &mut ScratchReport,
) -> Result<()> {
    let observer = context.observer;
    let subject = restored.into.display().to_string();
    let reached = match recover(observer, restored, server).await {
        Ok(reached) => reached,
        Err(error) => {
            let remedy = "look at its log: start it by hand, or restore another moment";
            report.findings.push(finding("postgres.scratch_failed", &subject, error.to_string(), remedy));
            return Ok(());
        }
    };
    (report.reached, report.timeline) = (reached.replayed, reached.timeline);
    if let Some(message) = missed(restored, reached) {
        let remedy = "`mainstay backup verify --log` reads back what it should have replayed";
        report.findings.push(finding("postgres.scratch_target", &subject, message, remedy));
    }
    count(observer, server, report).await?;
    if let Some(questions) = context.questions {
        ask(observer, questions, server, report).await;
    }
    observer.phase("pg_amcheck");
    match server.check_relations().await? {
        RelationCheck::Sound => report.relations_checked = true,
        RelationCheck::Unavailable(why) => report.findings.push(Finding {
            severity: Severity::Note,
            ..finding(
                "postgres.scratch_amcheck",
                &subject,
                format!("pg_amcheck was not run: {why}"),
                "install the programs and extensions of the server's version",
            )
        }),
        RelationCheck::Damaged(lines) => {
            report.relations_checked = true;
            let message = format!("pg_amcheck found damage: {}", super::first_of(&lines));
            report.findings.push(finding("postgres.scratch_damage", &subject, message, OTHER_SET));
        }
    }
    Ok(())
}

/// What to do about damage.
const OTHER_SET: &str = "restore an older set: `mainstay backup list --store postgres`";

/// What to do about a query that fails, or a claim that is not true.
const OTHER_QUERY: &str = "look whether the query asks what is meant; if so, restore an older set: `mainstay backup list --store postgres`";

/// Waits until the server takes writes.
async fn recover(
    observer: &dyn Observer,
    restored: &ClusterRestoreReport,
    server: &mut dyn ScratchServer,
) -> Result<ScratchProgress> {
    observer.phase("recover");
    let from = restored.recovery.as_ref().map_or(restored.contents.begin, |recovery| recovery.from);
    observer.expect(Work { items: 0, bytes: wanted(restored).0.saturating_sub(from.0) });
    let (mut last, mut moved_at) = (from, Instant::now());
    loop {
        let progress = server.progress().await?;
        if let Some(progress) = progress.filter(|progress| progress.timeline.is_some()) {
            return Ok(progress);
        }
        let replayed = progress.and_then(|progress| progress.replayed).unwrap_or(last);
        if replayed > last {
            observer.advance(Work { items: 0, bytes: replayed.0 - last.0 });
            (last, moved_at) = (replayed, Instant::now());
        }
        if moved_at.elapsed() > STILL_TIME_MAX {
            return Err(Error::new(
                ErrorKind::Server,
                format!("the recovery has stood still at {last} for {} s", STILL_TIME_MAX.as_secs()),
            ));
        }
        sleep(ASK_INTERVAL).await;
    }
}

/// Where recovery is to end.
fn wanted(restored: &ClusterRestoreReport) -> Lsn {
    restored.recovery.as_ref().map_or(restored.contents.end, |recovery| recovery.stop)
}

/// What is wrong with where recovery ended.
fn missed(restored: &ClusterRestoreReport, reached: ScratchProgress) -> Option<String> {
    let wanted = wanted(restored);
    let is_exact =
        restored.recovery.as_ref().is_some_and(|recovery| recovery.target != RecoveryTarget::Latest);
    match reached.replayed {
        None => Some(format!("the server does not say that it recovered, and was to reach {wanted}")),
        Some(replayed)
            if record_end(replayed) < record_end(wanted)
                || (is_exact && record_end(replayed) != record_end(wanted)) =>
        {
            Some(format!("recovery ended at {replayed}, not at {wanted}"))
        }
        Some(_) => None,
    }
}

/// Where the next record may begin: records lie at multiples of eight bytes.
fn record_end(at: Lsn) -> u64 {
    at.0.saturating_add(7) & !7
}

/// Reads every table to its end.
async fn count(
    observer: &dyn Observer,
    server: &mut dyn ScratchServer,
    report: &mut ScratchReport,
) -> Result<()> {
    observer.phase("read tables");
    let tables = server.tables().await.context("list tables")?;
    observer.expect(Work { items: tables.len() as u64, bytes: 0 });
    for table in tables {
        match server.count(&table).await {
            Ok(rows) => report.tables.push(TableRows { table, rows }),
            Err(error) => {
                let subject = format!("{}: {}.{}", table.database, table.schema, table.table);
                let message = format!("the table cannot be read: {error}");
                report.findings.push(finding("postgres.scratch_table", &subject, message, OTHER_SET));
            }
        }
        observer.advance(Work { items: 1, bytes: 0 });
    }
    Ok(())
}

/// Asks the queries of a file; one that fails keeps no other from being asked.
async fn ask(
    observer: &dyn Observer,
    questions: &Questions,
    server: &mut dyn ScratchServer,
    report: &mut ScratchReport,
) {
    observer.phase(&format!("ask {}", questions.file));
    observer.expect(Work { items: questions.queries.len() as u64, bytes: 0 });
    for query in &questions.queries {
        let asked = server.ask(query).await;
        let fault = fault_of(&asked);
        report.queries.push(Asked { query: query.clone(), passed: fault.is_none(), answer: asked.ok() });
        if let Some(fault) = fault {
            let subject = format!("{}, line {}", questions.file, query.line);
            let message = format!("query {} {fault}", query.number);
            report.findings.push(finding("postgres.scratch_query", &subject, message, OTHER_QUERY));
        }
        observer.advance(Work { items: 1, bytes: 0 });
    }
}

/// What is wrong with what came of a query.
fn fault_of(asked: &Result<ScratchAnswer>) -> Option<String> {
    match asked {
        Err(error) => Some(format!("failed: {error}")),
        Ok(ScratchAnswer { untrue_row: Some(row), row_count, .. }) => {
            Some(format!("is not true in row {row} of {row_count}"))
        }
        Ok(ScratchAnswer { is_claim: true, row_count: 0, .. }) => {
            Some("claims nothing: it has no rows".to_owned())
        }
        Ok(_) => None,
    }
}

fn finding(id: &str, subject: &str, message: String, remedy: &str) -> Finding {
    Finding {
        id: id.to_owned(),
        severity: Severity::Critical,
        store: Some(StoreKind::Postgres),
        subject: subject.to_owned(),
        message,
        remedy: remedy.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_passes_when_it_has_rows_and_all_are_true() {
        let asked = |is_claim, row_count, untrue_row| {
            fault_of(&Ok(ScratchAnswer {
                database: "postgres".to_owned(),
                columns: vec!["is".to_owned()],
                rows: Vec::new(),
                row_count,
                is_claim,
                untrue_row,
            }))
        };
        for (is_claim, row_count, untrue_row, fault) in [
            (true, 2, None, None),
            (true, 2, Some(1), Some("is not true in row 1 of 2")),
            (true, 0, None, Some("claims nothing: it has no rows")),
            (false, 0, None, None),
            (false, 2, None, None),
        ] {
            assert_eq!(asked(is_claim, row_count, untrue_row).as_deref(), fault, "{is_claim} {row_count}");
        }
    }
}
