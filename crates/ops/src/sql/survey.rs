//! What everything here begins with: the folder held against the database, as both are now.

use std::collections::BTreeSet;

use mainstay_engine::{MigrationFacts, MigrationTarget, RecordedStep, TrackingLook};
use mainstay_migrations::{Folder, TableVersion, TrackingTable, Verdict, classify};
use mainstay_model::{Blake3, Error, ErrorKind, Result, Timestamp, canonical};

/// A database, as it stands to a folder of migrations.
#[derive(Debug, Clone)]
pub struct Survey {
    /// The server and the database.
    pub facts: MigrationFacts,
    /// The tracking table.
    pub look: TrackingLook,
    /// What the ledger keeps of migrations that have begun and not ended.
    pub steps: Vec<RecordedStep>,
    /// Every entry against every row.
    pub verdict: Verdict,
}

/// Looks, and compares. Reads only.
///
/// # Errors
/// `Locked` while a run keeps readers out; `Precondition` when the table is none of Drizzle's; the server's.
pub async fn survey(
    target: &dyn MigrationTarget,
    folder: &Folder,
    table: &TrackingTable,
    now: Timestamp,
) -> Result<Survey> {
    let facts = target.facts().await?;
    let look = target.tracking(table).await?;
    let steps = target.recorded_steps(table).await?;
    let tags: BTreeSet<String> = steps.iter().map(|step| step.entry.tag.clone()).collect();
    let half_applied: Vec<String> = tags.into_iter().collect();
    let verdict = classify(folder, look.version, &look.rows, &half_applied, now);
    Ok(Survey { facts, look, steps, verdict })
}

impl Survey {
    /// The entries of the ledger for `tag`, by their numbers.
    pub(super) fn steps_of<'s>(&'s self, tag: &'s str) -> impl Iterator<Item = &'s RecordedStep> {
        self.steps.iter().filter(move |step| step.entry.tag == tag)
    }

    /// Refuses a server that takes no change, and another database than the one that was planned for.
    ///
    /// # Errors
    /// `Precondition` on a standby; `StalePlan` in another database.
    pub fn check_server(&self, planned_database: Option<&str>) -> Result<()> {
        if self.facts.in_recovery {
            return Err(Error::new(
                ErrorKind::Precondition,
                format!("{} is a standby, which takes no change", self.facts.address),
            )
            .with_state("nothing was changed")
            .with_hint("name the primary in `url` of [postgres], or with --postgres-url"));
        }
        match planned_database.filter(|planned| *planned != self.facts.database) {
            None => Ok(()),
            Some(planned) => Err(Error::new(
                ErrorKind::StalePlan,
                format!("the plan is for database {planned}, this is {}", self.facts.database),
            )
            .with_state("nothing was changed")
            .with_hint("make the plan again and review it")),
        }
    }
}

/// What a table is that will be made when it is needed: the columns that it will have.
pub(super) fn made(look: &TrackingLook, folder: &Folder) -> TrackingLook {
    match look.version {
        TableVersion::Absent => {
            TrackingLook { version: TableVersion::of_format(folder.format), rows: Vec::new() }
        }
        TableVersion::Classic | TableVersion::Named => look.clone(),
    }
}

/// What an assumption says of a table: absent and empty are the same.
pub(super) fn shown(look: &TrackingLook, folder: &Folder) -> Result<String> {
    let look = made(look, folder);
    let hash: Blake3 = canonical::hash(&look)?;
    Ok(format!("{} rows, {}", look.rows.len(), hash.short()))
}
