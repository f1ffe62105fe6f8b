//! `sql lint`: what a reviewer should know of migrations before they run, with the size that tables have.
//!
//! The rules are those of [`mainstay_migrations::lint`]; the live database, where it can be asked, adds how large the table is that a finding is about
//! and the oldest transaction, which a lock would wait for. A size never makes a finding go away: a table that is small here may be large
//! where the migration runs next.

use mainstay_engine::{Backend, RelationalInspection, TableName};
use mainstay_migrations::{EntryState, Folder, LintFinding, LintLevel, LintOptions, Migration, Verdict};
use mainstay_model::Result;
use serde::Serialize;

use super::live::{LiveTable, LiveTables};

/// What the live database adds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LintFacts {
    /// Its tables.
    pub tables: LiveTables,
    /// The oldest transaction of a client in the database.
    pub oldest: Option<OldestTransaction>,
}

/// A transaction that a lock may wait for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OldestTransaction {
    /// Its process.
    pub pid: i32,
    /// What the client calls itself; may be empty.
    pub app_name: String,
    /// For how long it has been open, in seconds.
    pub seconds: u64,
}

/// A finding, with the table that it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LintedFinding {
    /// The finding.
    #[serde(flatten)]
    pub finding: LintFinding,
    /// The live table, where there is one.
    pub live_table: Option<TableName>,
    /// How large it is.
    pub live: Option<LiveTable>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LintReport {
    /// How many files were looked at.
    pub file_count: usize,
    /// The findings, by file in the order of the folder, then by place.
    pub findings: Vec<LintedFinding>,
    /// The oldest transaction of the live database.
    pub oldest: Option<OldestTransaction>,
    /// Whether the live database was asked.
    pub is_live_known: bool,
}

impl LintReport {
    /// How many findings have that level.
    pub fn count(&self, level: LintLevel) -> usize {
        self.findings.iter().filter(|one| one.finding.level == level).count()
    }

    /// Whether something should be mended before the migrations run.
    pub fn has_findings(&self) -> bool {
        self.findings.iter().any(|one| one.finding.level > LintLevel::Note)
    }
}

/// Asks the live database. `database` is its name: transactions of others are in nobody's way.
///
/// # Errors
/// The server's.
pub async fn facts(inspection: &dyn RelationalInspection, database: &str) -> Result<LintFacts> {
    let tables = LiveTables::read(inspection).await?;
    let backends = inspection.backends().await?;
    Ok(LintFacts { tables, oldest: oldest(&backends.list, database) })
}

fn oldest(backends: &[Backend], database: &str) -> Option<OldestTransaction> {
    let here = backends.iter().filter(|one| one.is_client() && one.database.as_deref() == Some(database));
    let open = here.filter_map(|one| Some((one.transaction_micros?, one)));
    open.max_by_key(|(micros, _)| *micros).map(|(micros, one)| OldestTransaction {
        pid: one.id.pid,
        app_name: one.app_name.clone(),
        seconds: micros / 1_000_000,
    })
}

/// The migrations that are still to run, those included that a runner would skip, whatever else keeps them from being applied.
pub fn not_applied<'f>(folder: &'f Folder, verdict: &Verdict) -> Vec<&'f Migration> {
    let is_due = |state: &EntryState| {
        matches!(state, EntryState::Pending { .. } | EntryState::Skipped { .. } | EntryState::HalfApplied)
    };
    let due = verdict.entries.iter().filter(|entry| is_due(&entry.state));
    due.filter_map(|entry| folder.migrations.get(entry.index)).collect()
}

/// Looks at `migrations`. `facts` is `None` where the live database is not asked.
pub fn lint(migrations: &[&Migration], options: &LintOptions, facts: Option<&LintFacts>) -> LintReport {
    let sized = |finding: LintFinding| {
        let known = finding.table.as_ref().zip(facts).and_then(|(table, facts)| facts.tables.find(table));
        let (live_table, live) = known.map(|(table, live)| (table.clone(), live)).unzip();
        LintedFinding { finding, live_table, live }
    };
    let found = migrations.iter().flat_map(|migration| mainstay_migrations::lint(migration, options));
    LintReport {
        file_count: migrations.len(),
        findings: found.map(sized).collect(),
        oldest: facts.and_then(|facts| facts.oldest.clone()),
        is_live_known: facts.is_some(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::live::tests::live;
    use super::*;
    use crate::relational::tests::backend;

    #[test]
    fn the_oldest_transaction_is_of_a_client_of_the_same_database() {
        let with = |pid: i32, database: &str, micros: Option<u64>| Backend {
            database: Some(database.to_owned()),
            transaction_micros: micros,
            ..backend(pid)
        };
        let backends = [
            with(1, "shop", Some(3_000_000)),
            with(2, "shop", Some(90_000_000)),
            with(3, "other", Some(900_000_000)),
            with(4, "shop", None),
        ];
        let oldest = oldest(&backends, "shop").unwrap();
        assert_eq!((oldest.pid, oldest.seconds), (2, 90));
        assert_eq!(super::oldest(&backends, "none"), None);
    }

    #[test]
    fn findings_have_the_size_of_their_tables() {
        let migration = Migration::new(
            "0001_big",
            "0001_big.sql",
            1,
            "ALTER TABLE \"orders\" ALTER COLUMN \"total\" SET DATA TYPE bigint;",
        );
        let facts = LintFacts { tables: live(&[("orders", 5_000)]), oldest: None };
        let options = LintOptions::default();
        let report = lint(&[&migration], &options, Some(&facts));
        let sized = report.findings.iter().find(|one| one.live.is_some()).unwrap();
        assert_eq!((sized.live.unwrap().bytes, sized.finding.place.line), (5_000, 1));
        assert!(report.has_findings());
        let offline = lint(&[&migration], &options, None);
        assert!(!offline.is_live_known && offline.findings.iter().all(|one| one.live.is_none()));
    }
}
