//! SQL migrations of a relational database: what is applied, what is not, and applying it so that nothing is skipped, run twice or half.
//!
//! | module | what it answers |
//! |---|---|
//! | [`status`] | every entry of the folder against every row of the tracking table |
//! | [`verify`] | the same, judged: what is wrong, and what to do about it |
//! | [`apply`] | applies what is pending: planned, permitted, one transaction for each migration |
//! | [`mark`] | rows that say of migrations that they are applied, and nothing run: some, or all up to one |
//! | [`repair`] | rows that do not fit their entries, corrected |
//! | [`rehearse`] | what pending migrations lock, rewrite and read, measured in a shadow database |
//! | [`drift`] | the live catalogue against what the applied migrations make of nothing |
//! | [`lint`] | what is dangerous in migrations, with the size of the tables that it is about |
//! | [`quotes`] | the rule of quotes: rows that belong to payments |
//!
//! `survey` is what all of them begin with, `planned` what a plan to apply says, `applying` a run of one, `lock` how a run gets its lock, `progress` how work is watched, tried
//! again and stopped, `told` how a failure is told with file and line, `rows` how rows alone are changed, `rivals` how other runners are let go on first;
//! `staging` how migrations are run where they are only looked at, [`live`] what the live database says of tables.
//!
//! Relies on [`mainstay_migrations`] for what a folder and a table mean, and on a [`MigrationTarget`](mainstay_engine::MigrationTarget) that looks at the
//! tracking table again behind a lock on it before it does anything: what was decided before is never done when the table is another by then.
//! The folder comes as a value; whoever plans and whoever applies may have read it at different times, so a plan names the hash of each file.

pub mod apply;
mod applying;
pub mod drift;
pub mod lint;
pub mod live;
mod lock;
pub mod mark;
mod planned;
mod progress;
pub mod quotes;
pub mod rehearse;
pub mod repair;
mod rivals;
mod rows;
mod staging;
pub mod status;
mod survey;
mod told;
pub mod verify;

use mainstay_engine::{LockHolder, MigrationTarget};
use mainstay_guard::BackupEvidence;
use mainstay_migrations::{Folder, TrackingTable};
use mainstay_model::progress::Observer;
use mainstay_model::{Clock, Result, StoreKind};
use mainstay_repository::Repository;
use tokio_util::sync::CancellationToken;

use crate::contents::SetContents;
use crate::shape::Literals;
use crate::verify::evidence_among;

pub use lock::open;
pub use planned::{ApplyParameters, PlannedMigration, PlannedStatement, Transactions};
pub use rows::{PlannedRow, RowParameters, RowReport};
pub use survey::{Survey, survey};

/// The beginning of the names of all operations here.
pub const OPERATION: &str = "sql.";
/// The registered name of a plan whose migrations only add.
pub const OPERATION_APPLY: &str = "sql.apply";
/// The registered name of a plan whose migrations change or take away what is no data.
pub const OPERATION_CHANGE: &str = "sql.apply.change";
/// The registered name of a plan whose migrations drop, overwrite or rewrite data.
pub const OPERATION_DESTROY: &str = "sql.apply.destroy";
/// The registered name of a plan that says of some migrations that they are applied.
pub const OPERATION_MARK: &str = "sql.mark-applied";
/// The registered name of a plan that says so of all up to one.
pub const OPERATION_BASELINE: &str = "sql.baseline";
/// The registered name of a plan that corrects rows.
pub const OPERATION_REPAIR: &str = "sql.repair";

/// What migrations are applied with.
pub struct SqlContext<'a> {
    /// The database.
    pub target: &'a dyn MigrationTarget,
    /// The folder.
    pub folder: &'a Folder,
    /// The tracking table.
    pub table: &'a TrackingTable,
    /// Tells the time.
    pub clock: &'a dyn Clock,
    /// Told how far it is.
    pub observer: &'a dyn Observer,
    /// Stops at a safe point.
    pub cancel: &'a CancellationToken,
    /// Whether the statements of others are shown with their values.
    pub literals: Literals,
}

/// The newest sound backup of the server that holds this database, as evidence for the guard: a copy of the whole server, or a dump of it.
///
/// # Errors
/// What the store fails with.
pub async fn evidence(repository: &Repository, fingerprint: &str, database: &str) -> Result<BackupEvidence> {
    evidence_among(repository, StoreKind::Postgres, fingerprint, |set| match SetContents::of(set) {
        Ok(SetContents::Cluster(contents)) => contents.server.fingerprint == fingerprint,
        Ok(SetContents::Logical(contents)) => {
            contents.server.fingerprint == fingerprint && contents.database.name == database
        }
        _ => false,
    })
    .await
}

/// A session in words: `process 71 (psql, app, 10.0.0.7)`.
fn called(holder: &LockHolder) -> String {
    if holder.id.pid == 0 {
        return "a transaction that is prepared and not committed".to_owned();
    }
    let app_name = Some(holder.app_name.clone()).filter(|name| !name.is_empty());
    let parts = [app_name, holder.user.clone(), holder.client.clone()];
    let known: Vec<String> = parts.into_iter().flatten().collect();
    match known.is_empty() {
        true => format!("process {}", holder.id.pid),
        false => format!("process {} ({})", holder.id.pid, known.join(", ")),
    }
}

/// A length of time in words: `850 ms`, `12 s`, `5 min`.
fn span(micros: u64) -> String {
    match micros {
        0..1_000_000 => format!("{} ms", micros / 1_000),
        1_000_000..120_000_000 => format!("{} s", micros / 1_000_000),
        _ => format!("{} min", micros / 60_000_000),
    }
}

#[cfg(test)]
mod tests {
    use mainstay_engine::BackendId;

    use super::*;

    #[test]
    fn sessions_and_spans_read_well() {
        let holder = |pid, app_name: &str, user: Option<&str>| LockHolder {
            id: BackendId { pid, began_micros: 0 },
            app_name: app_name.to_owned(),
            user: user.map(str::to_owned),
            client: None,
            connected_micros: None,
        };
        assert_eq!(called(&holder(7, "psql", Some("app"))), "process 7 (psql, app)");
        assert_eq!(called(&holder(7, "", None)), "process 7");
        assert_eq!(called(&holder(0, "", None)), "a transaction that is prepared and not committed");
        for (micros, text) in [(850_000, "850 ms"), (12_000_000, "12 s"), (300_000_000, "5 min")] {
            assert_eq!(span(micros), text);
        }
    }
}
