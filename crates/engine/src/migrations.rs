//! SQL migrations applied to a relational server: its tracking table read and written, one run at a time, each migration whole or not at all.
//!
//! Whoever decides reads ([`MigrationTarget`]), opens a run, has it take the lock by trying, never by waiting, and gives one piece of work after
//! another ([`MigrationRun`]). Every piece is done on a connection of its own, so that no setting of one file is met by the next; the lock lives
//! on one that does nothing else. Work under a transaction looks at the tracking table again behind a lock that keeps every reader out, and
//! does nothing when it is not as it was. What cannot be in a transaction is written down before it is begun and after it has ended, in a ledger
//! of the database itself, so that a run that was killed is continued where it was.
//!
//! Texts of statements go to the server as they are given. What the server says comes back as [`WorkFailure`], unjudged: whether to try again is
//! the caller's to decide, who also knows files and lines.

use async_trait::async_trait;
use mainstay_guard::Permit;
use mainstay_migrations::{NewRow, ObjectName, RowRepair, TableVersion, TrackingRow, TrackingTable};
use mainstay_model::{Blake3, ErrorKind, Result};
use serde::Serialize;

use crate::relational::{BackendId, SqlText};

/// A server and a database of it, as a run finds them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MigrationFacts {
    /// Which server: comparable with a permit's target.
    pub fingerprint: String,
    /// `host:port`.
    pub address: String,
    /// Its version, in its own words.
    pub version: String,
    /// The database that is connected to.
    pub database: String,
    /// The role that is acted as.
    pub user: String,
    /// It replays what another server writes, and takes no change.
    pub in_recovery: bool,
}

/// The tracking table at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TrackingLook {
    /// Which columns it has.
    pub version: TableVersion,
    /// Its rows by number; none when it is absent.
    pub rows: Vec<TrackingRow>,
}

/// A session that is in the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LockHolder {
    /// Its process; that of a transaction that is prepared and not committed is 0.
    #[serde(flatten)]
    pub id: BackendId,
    /// What the client calls itself; may be empty.
    pub app_name: String,
    /// The role, where it may be known.
    pub user: Option<String>,
    /// The client's address; `None` over a socket of the machine.
    pub client: Option<String>,
    /// How long it has been connected, in microseconds.
    pub connected_micros: Option<u64>,
}

/// Somebody for whom the work waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockBlocker {
    /// Who.
    pub holder: LockHolder,
    /// In the server's words: `idle in transaction`.
    pub state: Option<String>,
    /// How long its transaction has been open, in microseconds.
    pub transaction_micros: Option<u64>,
    /// Its present statement, or its last one.
    pub statement: Option<SqlText>,
    /// What the work waits for: `public.orders (AccessExclusiveLock)`.
    pub wants: Option<String>,
}

/// One migration, or a piece of one, to be done in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionWork {
    /// What is sent, each text as one message of the simple protocol.
    pub texts: Vec<String>,
    /// What is recorded in the same transaction.
    pub record: WorkRecord,
}

/// What a transaction leaves behind beside its own doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkRecord {
    /// The migration is applied: its row.
    Row {
        /// The row.
        row: NewRow,
        /// The migration's name in the ledger, where steps of it were recorded: these entries go.
        steps_of: Option<String>,
    },
    /// A step of it is done: an entry of the ledger.
    Step(StepEntry),
}

impl WorkRecord {
    /// The step that is recorded, where one is.
    pub fn step(&self) -> Option<&StepEntry> {
        match self {
            Self::Step(entry) => Some(entry),
            Self::Row { .. } => None,
        }
    }
}

/// A step of a migration that is not one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepEntry {
    /// The migration.
    pub tag: String,
    /// Its number in it, from 1.
    pub step: u32,
    /// The number of the chunk that it begins in, from 1.
    pub chunk: u32,
    /// Of the text that was sent.
    pub text_hash: Blake3,
}

/// A change of the tracking table that comes with no migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowWrite {
    /// One more row.
    Insert(NewRow),
    /// One that is there becomes another one, or goes.
    Repair(RowRepair),
    /// A classic table gets the columns of a named one, as Drizzle 1.0 takes it over.
    TakeOver,
    /// What the ledger keeps of a migration goes: somebody says that all of it is done.
    ForgetSteps {
        /// The migration.
        tag: String,
    },
    /// A row of a table that is taken over gets the name of its entry, and no moment at which it was applied.
    Name {
        /// The row.
        row: i64,
        /// The name.
        name: String,
    },
}

/// An entry of the ledger: of a step of a migration that has begun and not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecordedStep {
    /// Which.
    pub entry: StepEntry,
    /// Its end was recorded. Without, nobody knows: it may have been done and its recorder killed.
    pub is_done: bool,
}

/// What must be so when a transaction begins: otherwise it does nothing.
#[derive(Debug, Clone, Copy)]
pub struct WorkStart<'a> {
    /// How the tracking table looks.
    pub look: &'a TrackingLook,
    /// Texts by which another runner is known that has begun with the same migrations: what it would send first, or the beginning of that.
    pub texts: &'a [String],
    /// Sessions that have read the tracking table, were waited for, and did nothing about it: in a transaction they count again.
    pub idle: &'a [BackendId],
}

/// How long anything may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkLimits {
    /// How long one lock is waited for, in milliseconds; 0 for as long as it takes.
    pub lock_timeout_ms: u64,
}

/// What came of a piece of work.
#[derive(Debug, Clone, PartialEq)]
pub enum WorkOutcome {
    /// It is done, and durable.
    Done {
        /// Who waited to read the tracking table when it ended: other runners, which read what stands by then and may act on it.
        readers: Vec<LockHolder>,
    },
    /// It was not begun: the tracking table is not as the caller saw it.
    Moved(TrackingLook),
    /// It was not begun: these sessions have read the tracking table as it stands, and may be about to act on it.
    Rivals(Vec<LockHolder>),
    /// The server refused it.
    Failed(Box<WorkFailure>),
}

/// Where a piece of work failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum WorkPlace {
    /// At the lock on the tracking table, before anything was done.
    TrackingTable,
    /// At a text.
    Text {
        /// The work's number among those given, from 0.
        work: usize,
        /// The text's number in it, from 0.
        text: usize,
    },
    /// While its row or its entry was written.
    Record {
        /// The work's number among those given, from 0.
        work: usize,
    },
    /// At the end of the transaction: a constraint that is checked there.
    Commit,
}

/// What a server said. Nothing of the work stays, unless `left` says what.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkFailure {
    /// Where.
    pub place: WorkPlace,
    /// The SQLSTATE.
    pub code: String,
    /// What sort of trouble that is.
    pub kind: ErrorKind,
    /// The server's own line.
    pub message: String,
    /// What the server advises.
    pub hint: Option<String>,
    /// Which character of the text it points at, from 1.
    pub position: Option<u32>,
    /// How many statements of the text had ended before.
    pub statements_done: usize,
    /// What stays of it nevertheless, in words.
    pub left: Option<String>,
}

impl WorkFailure {
    /// Whether the same work may succeed in a moment: a lock that somebody else had, or a transaction that gave way to another one.
    pub fn is_contention(&self) -> bool {
        // lock_not_available, deadlock_detected, serialization_failure
        matches!(self.code.as_str(), "55P03" | "40P01" | "40001")
    }

    /// Whether it was ended on request.
    pub fn is_cancelled(&self) -> bool {
        // query_canceled
        self.code == "57014"
    }
}

/// A statement that cannot be in a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AloneWork {
    /// What is sent before it on the same connection: the settings that the file made further up.
    pub prelude: Vec<String>,
    /// The statement.
    pub text: String,
    /// Its entry of the ledger.
    pub entry: StepEntry,
    /// What shows whether it was done, and what a failed one leaves.
    pub trace: StepTrace,
}

/// What a statement that runs alone can be known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepTrace {
    /// An index of this name on this table, which is valid when it was made.
    IndexMade {
        /// The index.
        index: ObjectName,
        /// The table.
        table: ObjectName,
    },
    /// An index of this name, which is gone when it was dropped.
    IndexDropped {
        /// The index.
        index: ObjectName,
    },
    /// Nothing: doing it again does no harm, or the server says that it was done.
    None,
}

/// What came of a statement that runs alone.
#[derive(Debug, Clone, PartialEq)]
pub enum AloneOutcome {
    /// It is done and recorded.
    Done {
        /// It had been done before: only its end was not recorded.
        was_done: bool,
        /// An invalid index of its name was there, and was dropped first.
        dropped_leftover: bool,
    },
    /// The work of an earlier run goes on in the server; nothing was begun.
    Busy(LockHolder),
    /// The server refused it.
    Failed(Box<WorkFailure>),
}

/// A server that migrations are applied to, looked at.
#[async_trait]
pub trait MigrationTarget: Send + Sync {
    /// The server and its database.
    ///
    /// # Errors
    /// The server's.
    async fn facts(&self) -> Result<MigrationFacts>;

    /// The tracking table.
    ///
    /// # Errors
    /// `Precondition` when a table of that name is none; `Locked` when a run that is under way keeps readers out; `Unsupported` when it has more rows
    /// than anybody's migrations; the server's.
    async fn tracking(&self, table: &TrackingTable) -> Result<TrackingLook>;

    /// What the ledger keeps of migrations that have begun and not ended, by tag and number; none when there is no ledger.
    ///
    /// # Errors
    /// The server's.
    async fn recorded_steps(&self, table: &TrackingTable) -> Result<Vec<RecordedStep>>;

    /// Opens a run, which has no lock yet.
    ///
    /// # Errors
    /// `Precondition` when connections are handed from one client to another between transactions: no lock of a session can be had there; the
    /// server's.
    async fn open<'a>(&'a self, table: &TrackingTable) -> Result<Box<dyn MigrationRun + 'a>>;
}

/// A run. Its lock is gone when this is dropped, and when the process or its connection is.
#[async_trait]
pub trait MigrationRun: Send + Sync {
    /// Tries once to take the lock on the tracking table's migrations, which two runs never have at once. Does not wait: who waits inside the server
    /// holds up the building of indexes, which waits for everybody's transactions. `None` when it was taken.
    ///
    /// # Errors
    /// The server's.
    async fn try_lock(&self) -> Result<Option<LockHolder>>;

    /// Whether the lock is still ours.
    ///
    /// # Errors
    /// `Locked` when it is not; the server's.
    async fn check_lock(&self) -> Result<()>;

    /// Makes schema and table as Drizzle of that line makes them, each where it is absent, each at once. [`TableVersion::Absent`] makes none.
    ///
    /// # Errors
    /// `Refused` when `permit` is for something else; the server's.
    async fn create_table(&self, version: TableVersion, permit: &Permit) -> Result<()>;

    /// Does all of `work` in one transaction that begins by locking the tracking table against readers, by comparing it with `start`, and by looking for
    /// other runners that have read it before. An outcome that the connection did not live to hear of is found out.
    ///
    /// # Errors
    /// `Refused` when `permit` is for something else; `Precondition` when a text ended the transaction itself; `Unreachable` with what is known of
    /// its end.
    async fn transact(
        &self,
        work: &[TransactionWork],
        start: &WorkStart<'_>,
        limits: WorkLimits,
        permit: &Permit,
    ) -> Result<WorkOutcome>;

    /// Does what cannot be in a transaction: recorded as begun, done, recorded as done. An invalid index of the name that is to be made is dropped
    /// first; one that is being built by somebody is not. A failed one takes its own invalid index away.
    ///
    /// # Errors
    /// As [`MigrationRun::transact`].
    async fn alone(&self, work: &AloneWork, limits: WorkLimits, permit: &Permit) -> Result<AloneOutcome>;

    /// Changes rows of the tracking table in one transaction, as [`MigrationRun::transact`] begins it. `operation` is what `permit` must be for.
    ///
    /// # Errors
    /// As [`MigrationRun::transact`].
    async fn write_rows(
        &self,
        writes: &[RowWrite],
        start: &WorkStart<'_>,
        operation: &str,
        limits: WorkLimits,
        permit: &Permit,
    ) -> Result<WorkOutcome>;

    /// Who keeps the work that is under way waiting for a lock.
    ///
    /// # Errors
    /// The server's.
    async fn blockers(&self) -> Result<Vec<LockBlocker>>;

    /// How many sessions in this database may write into the tracking table and do not let us see what they do: other runners among them are not found.
    ///
    /// # Errors
    /// The server's.
    async fn hidden(&self) -> Result<u64>;

    /// Those of `sessions` that are still connected, each with whether it is in a transaction, or at a statement.
    ///
    /// # Errors
    /// The server's.
    async fn still_there(&self, sessions: &[LockHolder]) -> Result<Vec<(LockHolder, bool)>>;

    /// Asks the server to end the statement under way. The work ends by itself, with a failure that says so, or as if nothing had been asked.
    async fn cancel(&self);
}
