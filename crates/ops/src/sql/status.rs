//! Every entry of the folder against every row of the tracking table.

use mainstay_engine::{MigrationFacts, RecordedStep};
use mainstay_migrations::{EntryState, FolderNote, RowState, Verdict};
use mainstay_model::Result;
use serde::Serialize;

use super::SqlContext;
use super::survey::survey;

/// What is there, what is applied, and what Drizzle's own runner would do.
#[derive(Debug, Clone, Serialize)]
pub struct StatusReport {
    /// The server and the database.
    pub facts: MigrationFacts,
    /// The tracking table, by name.
    pub table_name: String,
    /// Entries, rows and what concerns more than one.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// What is suspicious about the folder alone.
    pub notes: Vec<FolderNote>,
    /// Steps of migrations that have begun and not ended.
    pub recorded_steps: Vec<RecordedStep>,
    /// What Drizzle's own runner would apply now, by tag.
    pub drizzle_would_apply: Vec<String>,
    /// How many entries are in which state.
    pub counts: Counts,
}

/// How many entries are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// As they should be.
    pub applied: usize,
    /// To be applied.
    pub pending: usize,
    /// Begun and not ended.
    pub half_applied: usize,
    /// Never to be applied by Drizzle.
    pub skipped: usize,
    /// Changed since they were applied, or moved in time.
    pub changed: usize,
}

/// Looks, and compares.
///
/// # Errors
/// As [`survey`](super::survey()).
pub async fn status(context: &SqlContext<'_>) -> Result<StatusReport> {
    context.observer.phase("compare the folder with the database");
    let found = survey(context.target, context.folder, context.table, context.clock.now()).await?;
    let drizzle_would_apply =
        found.verdict.drizzle_would_apply().into_iter().map(|entry| entry.tag.clone()).collect();
    let mut counts = Counts::default();
    for entry in &found.verdict.entries {
        let count = match entry.state {
            EntryState::Applied => &mut counts.applied,
            EntryState::Edited { .. } | EntryState::Retimed { .. } => &mut counts.changed,
            EntryState::Pending { .. } => &mut counts.pending,
            EntryState::Skipped { .. } => &mut counts.skipped,
            EntryState::HalfApplied => &mut counts.half_applied,
        };
        *count += 1;
    }
    Ok(StatusReport {
        facts: found.facts,
        table_name: context.table.to_string(),
        verdict: found.verdict,
        notes: context.folder.notes.clone(),
        recorded_steps: found.steps,
        drizzle_would_apply,
        counts,
    })
}

/// The state of a row in one word.
pub fn row_state_name(state: &RowState) -> &'static str {
    match state {
        RowState::Matched { .. } => "matched",
        RowState::Duplicate { .. } => "duplicate",
        RowState::NullCreatedAt { .. } => "null_created_at",
        RowState::NullName { .. } => "null_name",
        RowState::Orphan => "orphan",
    }
}
