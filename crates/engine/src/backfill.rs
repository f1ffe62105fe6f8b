//! Data that is brought into a new form where it stands: looked at, tried out, changed batch by batch, brought back.
//!
//! The contract in short. A [`Backfill`] is declared: where, which documents or rows (the *guard*), and what becomes of them. Its id and its
//! checksum are its identity, and the store keeps in a ledger of its own what has run. A run cuts the place into segments by its key and walks over
//! each; a [`BackfillStore::step`] changes what the guard means within the next so many keys, and writes down in the *same transaction* what
//! was there before and how far the segment is, where the store has transactions. A step that was cut off anywhere is done wholly or not at
//! all, and a step that is done again finds nothing that its guard means: so each document is changed once, whatever kills the run.
//!
//! Whoever runs holds the run by a token, which every step checks in its transaction. Keys cross as text that only the adapter reads; documents
//! and values as text in the store's own notation (canonical Extended JSON; PostgreSQL's output form).

use std::time::Duration;

use async_trait::async_trait;
use mainstay_guard::Permit;
use mainstay_model::{Blake3, Result, Timestamp, canonical};
use serde::{Deserialize, Serialize};

use crate::Namespace;

/// A declared backfill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backfill {
    /// Its name in the ledger: letters, digits, `.`, `-` and `_`.
    pub id: String,
    /// What it does.
    pub body: BackfillBody,
    /// Whether what was there before is kept, so that it can be brought back.
    pub keeps_undo: bool,
}

/// What a backfill does, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum BackfillBody {
    /// To documents of a collection.
    Documents {
        /// The collection.
        namespace: Namespace,
        /// The filter of those that are to be changed, as Extended JSON. No changed document may match it.
        guard: String,
        /// A pipeline or operators of an update, as Extended JSON.
        update: String,
        /// The paths that the update changes. Nothing else is kept, and nothing else may change.
        fields: Vec<String>,
        /// A filter that nothing may match when all is done.
        verify: Option<String>,
    },
    /// To rows of a table.
    Rows {
        /// The table's schema.
        schema: String,
        /// The table.
        table: String,
        /// The condition of those that are to be changed, as SQL. It must not be true of a changed row.
        guard: String,
        /// Columns and the SQL expressions that they are set to.
        set: Vec<(String, String)>,
        /// A condition that is true of no row when all is done.
        verify: Option<String>,
    },
}

impl Backfill {
    /// What tells two declarations of one id apart: a hash of all that they do.
    ///
    /// # Errors
    /// `Internal` when it has no canonical form.
    pub fn checksum(&self) -> Result<Blake3> {
        canonical::hash(self)
    }

    /// The collection or table, as people write it.
    pub fn place(&self) -> String {
        match &self.body {
            BackfillBody::Documents { namespace, .. } => namespace.to_string(),
            BackfillBody::Rows { schema, table, .. } => format!("{schema}.{table}"),
        }
    }
}

/// What a place holds, before anything is changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackfillLook {
    /// The server's estimate of all documents or rows.
    pub total: u64,
    /// How many the guard means; `None` when counting took longer than was granted.
    pub guarded: Option<u64>,
    /// Whether the server reads everything to find what the guard means: no index helps.
    pub reads_everything: bool,
    /// Whether a step is one transaction, so that it is done wholly or not at all and can be brought back.
    pub has_transactions: bool,
}

/// One field or column that changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// Its path or name.
    pub field: String,
    /// Its value before; `None` when it is not there.
    pub before: Option<String>,
    /// Its value after.
    pub after: Option<String>,
}

/// A real document or row, and what would become of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackfillChange {
    /// Its key.
    pub key: String,
    /// Every field that would change, declared or not.
    pub fields: Vec<FieldChange>,
}

/// What a trial on real documents or rows showed. Nothing of it lasts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackfillTrial {
    /// Those that were tried, in the order of their keys.
    pub changes: Vec<BackfillChange>,
    /// Keys of those that the guard still means after the change.
    pub still_guarded: Vec<String>,
    /// How long changing them took the server; `None` when it was reckoned by reading alone.
    pub took: Option<Duration>,
}

/// How a trial is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrialWay {
    /// By reading, where that tells as much; else as the other.
    Gentle,
    /// By a change in a transaction that is given up, where the store has them.
    Measured,
}

/// What still is to be done, and what is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackfillRemains {
    /// How many the guard means now.
    pub guarded: u64,
    /// How many the declared verification finds wrong; `None` when none is declared.
    pub wrong: Option<u64>,
}

/// What a run is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackfillStatus {
    /// Begun and not at its end; whether somebody is at it, [`BackfillRun::holder`] tells.
    Running,
    /// At its end.
    Done,
    /// It is being brought back, and that is not at its end.
    Undoing,
    /// Brought back.
    Undone,
}

impl BackfillStatus {
    /// The word that is shown and stored.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Undoing => "undoing",
            Self::Undone => "undone",
        }
    }

    /// The status of that name.
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::Running, Self::Done, Self::Undoing, Self::Undone]
            .into_iter()
            .find(|status| status.name() == name)
    }
}

/// A backfill in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackfillRun {
    /// Its id.
    pub id: String,
    /// The collection or table.
    pub place: String,
    /// The checksum of the declaration that ran.
    pub checksum: String,
    /// What it is at.
    pub status: BackfillStatus,
    /// Whether somebody asked it to stop.
    pub paused: bool,
    /// Who is at it now: `user@host`. One who has not been heard of for longer than its lease is nobody.
    pub holder: Option<String>,
    /// Who was last at it.
    pub by: String,
    /// When it was first begun.
    pub begun_at: Timestamp,
    /// When it was last heard of.
    pub beat_at: Timestamp,
    /// The version of the program that was last at it.
    pub tool_version: String,
    /// Whether what was there before was kept.
    pub keeps_undo: bool,
    /// The segments of the walk under way, or of the last one.
    pub segments: u32,
    /// Those at their end.
    pub segments_done: u32,
    /// Documents or rows changed, by all walks.
    pub changed: u64,
    /// Of those, how many were brought back.
    pub restored: u64,
}

/// Something that another tool says it has done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportedChange {
    /// The tool.
    pub tool: String,
    /// The file that it ran.
    pub name: String,
    /// When.
    pub applied_at: Option<Timestamp>,
    /// The hash of the file's bytes, where the tool kept one.
    pub hash: Option<String>,
    /// What ran together bears the same number, where the tool keeps one.
    pub block: Option<i64>,
}

/// What somebody takes a run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimFor {
    /// To run it; with `resumes`, though somebody asked it to stop.
    Run {
        /// The wish to stop is over.
        resumes: bool,
    },
    /// To bring back what was there before.
    Undo,
}

/// Who takes a run.
#[derive(Debug, Clone)]
pub struct BackfillClaim {
    /// For people: `user@host`.
    pub holder: String,
    /// The program's version.
    pub tool_version: String,
    /// How long the claim is good without being renewed.
    pub lease: Duration,
    /// For what.
    pub purpose: ClaimFor,
    /// How many segments a new walk is cut into at most.
    pub segments_max: u32,
}

/// A run that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackfillHold {
    /// The id of the run.
    pub id: String,
    /// What every step shows.
    pub token: String,
    /// The number of the walk.
    pub round: u32,
    /// The segments that are not at their end, by number.
    pub open_segments: Vec<u32>,
    /// Documents or rows changed so far by this walk.
    pub changed: u64,
    /// Whether it goes on where an earlier run was.
    pub resumed: bool,
}

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackfillStep {
    /// How many documents or rows it changed.
    pub changed: u64,
    /// Whether the segment is at its end.
    pub is_last: bool,
}

/// What was kept by one step, by its name in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UndoPart {
    /// Its name.
    pub name: String,
    /// How many documents or rows it holds.
    pub entries: u64,
}

/// What bringing one part back did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UndoneStep {
    /// How many are as they were before.
    pub restored: u64,
    /// How many somebody has changed, or removed, since: those are left.
    pub left: u64,
}

/// Data changed where it stands. Every function that lasts takes a permit for the server that answers.
#[async_trait]
pub trait BackfillStore: Send + Sync {
    /// Looks at the place.
    ///
    /// # Errors
    /// `NotFound` when it is not there; `Unsupported` when it is of a kind that cannot be walked; `Usage` for what the server cannot read.
    async fn look(&self, backfill: &Backfill, time_max: Duration) -> Result<BackfillLook>;

    /// Tries the change on at most `count` real documents or rows. Nothing of it lasts.
    ///
    /// # Errors
    /// `Unsupported` when it can be told neither by reading nor in a transaction; `Usage` for what the server cannot carry out.
    async fn try_out(&self, backfill: &Backfill, count: u32, way: TrialWay) -> Result<BackfillTrial>;

    /// Counts what is left.
    async fn remains(&self, backfill: &Backfill) -> Result<BackfillRemains>;

    /// The ledger, by id.
    async fn runs(&self) -> Result<Vec<BackfillRun>>;

    /// What other tools have done, as it was imported, by name.
    async fn history(&self) -> Result<Vec<ImportedChange>>;

    /// Takes over what another tool has written down in `source`; what is there already is left. Gives how many came.
    ///
    /// # Errors
    /// `NotFound` when there is nothing to import; `Unsupported` by stores that no such tool writes into.
    async fn import(&self, source: &str, permit: &Permit) -> Result<u64>;

    /// Takes the run: begins a walk, or goes on with the one that is not at its end.
    ///
    /// # Errors
    /// `Locked` when somebody is at it; `Precondition` when the id was used by another declaration, is paused, or is being undone, or when
    /// there is nothing to undo.
    async fn claim(
        &self,
        backfill: &Backfill,
        claim: &BackfillClaim,
        permit: &Permit,
    ) -> Result<BackfillHold>;

    /// Says that the holder lives. True when somebody asked it to stop.
    ///
    /// # Errors
    /// `Locked` when somebody else holds the run by now.
    async fn beat(&self, hold: &BackfillHold) -> Result<bool>;

    /// Gives the run back, at its end or not.
    async fn release(&self, hold: &BackfillHold, at_end: bool) -> Result<()>;

    /// Asks whoever runs it to stop at the next step.
    ///
    /// # Errors
    /// `NotFound` when it was never begun; `Precondition` when it is at its end.
    async fn pause(&self, backfill: &Backfill, permit: &Permit) -> Result<()>;

    /// Goes by the next `keys` keys of a segment and changes what the guard means among them. Two steps of different segments may run at a time.
    ///
    /// # Errors
    /// `Locked` when somebody else holds the run by now; `Precondition` when a value cannot be kept; the server's. Nothing of the step lasts
    /// then, and it may be done again.
    async fn step(
        &self,
        backfill: &Backfill,
        hold: &BackfillHold,
        segment: u32,
        keys: u32,
        permit: &Permit,
    ) -> Result<BackfillStep>;

    /// By how much the slowest replica lags behind; `None` where there are none, or this user may not know.
    async fn lag(&self) -> Result<Option<Duration>>;

    /// What was kept and is not yet brought back, the newest first.
    async fn undo_parts(&self, backfill: &Backfill) -> Result<Vec<UndoPart>>;

    /// Brings one part back, in one transaction, but for what differs by now from what the backfill made of it.
    ///
    /// # Errors
    /// As [`BackfillStore::step`].
    async fn undo_part(
        &self,
        backfill: &Backfill,
        hold: &BackfillHold,
        part: &UndoPart,
        permit: &Permit,
    ) -> Result<UndoneStep>;

    /// Keys of what was left when the backfill was brought back, at most `count`.
    async fn left_behind(&self, backfill: &Backfill, count: usize) -> Result<Vec<String>>;
}
