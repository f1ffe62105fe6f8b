//! One run: the connection that holds its lock, and one more for each piece of work.
//!
//! A transaction begins by locking the tracking table against readers, by reading it again, and by looking for others that have read it before. What the client does not hear of its end is found out
//! from the table itself: whoever reads it waits for that transaction to end, however it does.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use mainstay_engine::{
    AloneOutcome, AloneWork, LockBlocker, LockHolder, MigrationRun, RowWrite, TrackingLook, TransactionWork,
    WorkFailure, WorkLimits, WorkOutcome, WorkPlace, WorkRecord, WorkStart,
};
use mainstay_guard::Permit;
use mainstay_migrations::{TableVersion, TrackingTable};
use mainstay_model::{Error, ErrorKind, Result, ResultExt, StoreKind};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::CancelToken;

use super::lock::{LockKey, Purpose, is_held, process, try_take};
use super::tracking::{self, quoted};
use super::{Answer, Refusal, alone, ledger, rights, rivals, send, waiting};
use crate::config::Settings;
use crate::probe::fingerprint;
use crate::quote::literal;
use crate::session::Session;
use crate::tls;

/// What a permit must be for.
const APPLY: &str = "sql.apply";
/// For how long, and how often, it is asked what became of a commit that was not heard: a server that fell over needs a while.
const FIND_OUT_TIME_MAX: Duration = Duration::from_secs(120);
const FIND_OUT_EVERY: Duration = Duration::from_secs(1);
/// How long asking the server to end a statement may take.
const CANCEL_TIME_MAX: Duration = Duration::from_secs(10);

/// A run on one tracking table.
pub(super) struct PostgresRun<'a> {
    pub(super) settings: &'a Settings,
    pub(super) table: TrackingTable,
    keeper: Session<'a>,
    working: Mutex<Option<Working>>,
}

/// The connection that works now.
#[derive(Clone)]
struct Working {
    pid: i32,
    token: CancelToken,
}

/// What became of beginning a transaction.
enum Begun {
    /// It has the tracking table locked, the relation of this number.
    Locked(u64),
    /// It is over.
    Over(WorkOutcome),
}

/// A connection for one piece of work; while this lives it can be cancelled and watched.
pub(super) struct Worker<'r> {
    pub(super) session: Session<'r>,
    working: &'r Mutex<Option<Working>>,
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        *self.working.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl<'a> PostgresRun<'a> {
    pub(super) fn new(settings: &'a Settings, keeper: Session<'a>, table: TrackingTable) -> Self {
        Self { settings, table, keeper, working: Mutex::new(None) }
    }

    /// From now on the work under way is not cancelled any more: it takes back what it did.
    pub(super) fn spare(&self) {
        *self.working.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn working(&self) -> Option<Working> {
        self.working.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A connection for work that `permit` allows as `operation`.
    pub(super) async fn worker(&self, operation: &str, permit: &Permit) -> Result<Worker<'_>> {
        let session = Session::open(self.settings).await.context("connect to PostgreSQL")?;
        permit.check(operation, StoreKind::Postgres, &fingerprint(&session).await?)?;
        self.refuse_standby(&session).await?;
        let working = Working { pid: process(&session).await?, token: session.client.cancel_token() };
        *self.working.lock().unwrap_or_else(PoisonError::into_inner) = Some(working);
        Ok(Worker { session, working: &self.working })
    }

    /// A url may name several servers, and each connection finds its own: what a standby says may be of before.
    async fn refuse_standby(&self, session: &Session<'_>) -> Result<()> {
        let row = session.row("SELECT pg_is_in_recovery() AS in_recovery").await?;
        match session.truth(&row, "in_recovery") {
            false => Ok(()),
            true => Err(Error::new(
                ErrorKind::Precondition,
                format!("{} is a standby, which takes no change", self.settings.address),
            )
            .with_state("nothing was changed")
            .with_hint("connect to the primary")),
        }
    }

    /// Begins a transaction behind the lock on the tracking table, which must be as expected, and nobody else about to act on it.
    async fn begin(&self, session: &Session<'_>, start: &WorkStart<'_>, limits: WorkLimits) -> Result<Begun> {
        let begin = format!("BEGIN; SET LOCAL lock_timeout = {}", limits.lock_timeout_ms);
        self.must(send(session, self.settings, &begin).await)?;
        let lock = format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", quoted(&self.table));
        match send(session, self.settings, &lock).await {
            Ok(()) => {}
            // Somebody dropped the table since it was looked at.
            Err(Refusal::Answered(answer)) if matches!(answer.code.as_str(), "42P01" | "3F000") => {
                self.roll_back(session).await;
                let look = TrackingLook { version: TableVersion::Absent, rows: Vec::new() };
                return Ok(Begun::Over(WorkOutcome::Moved(look)));
            }
            Err(refusal) => {
                return self.failed(session, WorkPlace::TrackingTable, refusal).await.map(Begun::Over);
            }
        }
        let look = tracking::read(session, &self.table).await?;
        if look != *start.look {
            self.roll_back(session).await;
            return Ok(Begun::Over(WorkOutcome::Moved(look)));
        }
        let own = self.working().map_or(0, |working| working.pid);
        let rivals = rivals::find(&self.keeper, &self.table, start, own).await;
        let rivals = rivals.context("look for other runners")?;
        if !rivals.is_empty() {
            self.roll_back(session).await;
            return Ok(Begun::Over(WorkOutcome::Rivals(rivals)));
        }
        Ok(Begun::Locked(tracking::number(session, &self.table).await?))
    }

    /// Sends texts and records of a transaction that has begun. `None` when all went well; otherwise the transaction is over.
    async fn carry_out(
        &self,
        session: &Session<'_>,
        work: &[TransactionWork],
        version: TableVersion,
        locked: u64,
    ) -> Result<Option<WorkOutcome>> {
        for (number, piece) in work.iter().enumerate() {
            for (text_number, text) in piece.texts.iter().enumerate() {
                if let Err(refusal) = send(session, self.settings, text).await {
                    let place = WorkPlace::Text { work: number, text: text_number };
                    return self.failed(session, place, refusal).await.map(Some);
                }
            }
            self.check_transaction(session, locked).await?;
            for record in self.records(&piece.record, version) {
                if let Err(refusal) = send(session, self.settings, &record).await {
                    return self.failed(session, WorkPlace::Record { work: number }, refusal).await.map(Some);
                }
            }
        }
        Ok(None)
    }

    /// What writes down that a piece of work is done.
    fn records(&self, record: &WorkRecord, version: TableVersion) -> Vec<String> {
        match record {
            WorkRecord::Row { row, steps_of } => {
                let forget = steps_of.as_ref().map(|tag| ledger::forget(&self.table, tag));
                [tracking::insert(&self.table, version, row)].into_iter().chain(forget).collect()
            }
            WorkRecord::Step(entry) => vec![ledger::end(&self.table, entry)],
        }
    }

    /// Whether the transaction that locked the tracking table, the relation of this number, is the one that we are in: a file may have ended it in a way
    /// that nobody read. The number is asked for, not the name: the file may have dropped the table, or taken a role that may not see its schema.
    async fn check_transaction(&self, session: &Session<'_>, locked: u64) -> Result<()> {
        let query = format!(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE pid = pg_catalog.pg_backend_pid() AND granted \
             AND mode = 'AccessExclusiveLock' AND relation = {locked}) AS held"
        );
        if session.truth(&session.row(&query).await?, "held") {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Server, "a statement of the file ended the transaction that it was in")
            .with_state("what stands before that statement is committed, and nothing is recorded of it")
            .with_hint("see what of the file is there; then take that statement out and the rest apart, or `mainstay sql mark-applied`"))
    }

    /// Commits, and finds out what became of it when nobody told.
    async fn commit(&self, session: &Session<'_>) -> Result<WorkOutcome> {
        let own: Vec<i32> = [0].into_iter().chain(self.working().map(|working| working.pid)).collect();
        let readers = waiting::readers(&self.keeper, &self.table, &own).await?;
        let row = session.row("SELECT pg_catalog.pg_current_xact_id()::text AS transaction").await?;
        let transaction = session.text(&row, "transaction")?;
        let refusal = match send(session, self.settings, "COMMIT").await {
            Ok(()) => return Ok(WorkOutcome::Done { readers }),
            Err(refusal) => refusal,
        };
        if !refusal.is_end_of_connection() {
            return self.failed(session, WorkPlace::Commit, refusal).await;
        }
        let lost = refusal.into_error(self.settings);
        let deadline = Instant::now() + FIND_OUT_TIME_MAX;
        loop {
            match self.is_committed(transaction).await {
                Ok(true) => return Ok(WorkOutcome::Done { readers }),
                Ok(false) => {
                    return Err(lost
                        .with_state("the transaction was not committed: nothing of it stays")
                        .with_hint(AGAIN));
                }
                Err(_) if Instant::now() < deadline => sleep(FIND_OUT_EVERY).await,
                Err(_) => {
                    return Err(lost
                        .with_state(
                            "whether the transaction was committed is not known: the server does not answer",
                        )
                        .with_hint(
                            "`mainstay sql status` tells when it does; the same command goes on from there",
                        ));
                }
            }
        }
    }

    /// Whether the transaction of that number was committed, which the server itself keeps.
    async fn is_committed(&self, transaction: &str) -> Result<bool> {
        let session = Session::open(self.settings).await?;
        self.refuse_standby(&session).await?;
        let query = format!("SELECT pg_catalog.pg_xact_status({}::xid8) AS status", literal(transaction));
        match session.text(&session.row(&query).await?, "status")? {
            "committed" => Ok(true),
            "aborted" => Ok(false),
            status => Err(Error::new(ErrorKind::Server, format!("the transaction is {status}"))),
        }
    }

    /// Ends a transaction that failed, and says how.
    async fn failed(&self, session: &Session<'_>, place: WorkPlace, refusal: Refusal) -> Result<WorkOutcome> {
        match refusal {
            Refusal::Answered(answer) => {
                self.roll_back(session).await;
                let mut failure = failure_at(place, answer);
                if matches!(place, WorkPlace::TrackingTable | WorkPlace::Record { .. }) {
                    let grant = rights::to_write(&failure.code, &failure.message, self.settings, &self.table);
                    failure.hint = grant.or(failure.hint);
                }
                Ok(WorkOutcome::Failed(Box::new(failure)))
            }
            Refusal::Lost(error) => Err(error
                .with_state("the transaction was not committed: nothing of it stays")
                .with_hint(AGAIN)),
        }
    }

    /// Ends the transaction; one that cannot be told to end does when its connection does.
    async fn roll_back(&self, session: &Session<'_>) {
        drop(session.rows("ROLLBACK").await);
    }

    pub(super) fn must(&self, sent: Result<(), Refusal>) -> Result<()> {
        sent.map_err(|refusal| refusal.into_error(self.settings))
    }
}

/// What helps when the connection was lost.
pub(super) const AGAIN: &str = "see that the server answers, then run the same command again";

pub(super) fn failure_at(place: WorkPlace, answer: Answer) -> WorkFailure {
    let Answer { code, kind, message, hint, position, statements_done } = answer;
    WorkFailure { place, code, kind, message, hint, position, statements_done, left: None }
}

#[async_trait]
impl MigrationRun for PostgresRun<'_> {
    async fn try_lock(&self) -> Result<Option<LockHolder>> {
        try_take(&self.keeper, LockKey::of(&self.table, Purpose::Run)).await.context("lock the migrations")
    }

    async fn check_lock(&self) -> Result<()> {
        let held = is_held(&self.keeper, LockKey::of(&self.table, Purpose::Run)).await;
        match held.context("look at the lock of the migrations")? {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Locked, "the lock on the migrations was lost")
                .with_hint("run the same command again")),
        }
    }

    async fn create_table(&self, version: TableVersion, permit: &Permit) -> Result<()> {
        // Marking rows as applied makes the table, too, under its own name.
        let worker = self.worker(permit.operation(), permit).await?;
        let created = tracking::create(&worker.session, self.settings, &self.table, version).await;
        created
            .map_err(|error| match error.kind() {
                ErrorKind::Auth => error.with_state("nothing was changed"),
                _ => error,
            })
            .with_context(|| format!("make {}", self.table))
    }

    async fn transact(
        &self,
        work: &[TransactionWork],
        start: &WorkStart<'_>,
        limits: WorkLimits,
        permit: &Permit,
    ) -> Result<WorkOutcome> {
        let worker = self.worker(APPLY, permit).await?;
        let session = &worker.session;
        if work.iter().any(|piece| piece.record.step().is_some()) {
            ledger::create(session, self.settings).await.context("make the ledger of steps")?;
        }
        let locked = match self.begin(session, start, limits).await? {
            Begun::Locked(number) => number,
            Begun::Over(outcome) => return Ok(outcome),
        };
        if let Some(outcome) = self.carry_out(session, work, start.look.version, locked).await? {
            return Ok(outcome);
        }
        self.commit(session).await
    }

    async fn alone(&self, work: &AloneWork, limits: WorkLimits, permit: &Permit) -> Result<AloneOutcome> {
        let worker = self.worker(APPLY, permit).await?;
        alone::run(self, &worker.session, work, limits).await
    }

    async fn write_rows(
        &self,
        writes: &[RowWrite],
        start: &WorkStart<'_>,
        operation: &str,
        limits: WorkLimits,
        permit: &Permit,
    ) -> Result<WorkOutcome> {
        let worker = self.worker(operation, permit).await?;
        let session = &worker.session;
        if let Begun::Over(outcome) = self.begin(session, start, limits).await? {
            return Ok(outcome);
        }
        for (number, write) in writes.iter().enumerate() {
            let statement = tracking::write(&self.table, start.look.version, write);
            if let Err(refusal) = send(session, self.settings, &statement).await {
                return self.failed(session, WorkPlace::Record { work: number }, refusal).await;
            }
        }
        self.commit(session).await
    }

    async fn blockers(&self) -> Result<Vec<LockBlocker>> {
        match self.working() {
            Some(working) => waiting::blockers(&self.keeper, working.pid).await,
            None => Ok(Vec::new()),
        }
    }

    async fn hidden(&self) -> Result<u64> {
        rivals::hidden(&self.keeper, &self.table).await.context("look for other runners")
    }

    async fn still_there(&self, sessions: &[LockHolder]) -> Result<Vec<(LockHolder, bool)>> {
        waiting::still_there(&self.keeper, sessions).await
    }

    async fn cancel(&self) {
        let Some(working) = self.working() else { return };
        let Ok(connector) = tls::connector(self.settings) else { return };
        // What cannot be cancelled ends by itself, or is undone when its connection is gone.
        drop(timeout(CANCEL_TIME_MAX, working.token.cancel_query(connector)).await);
    }
}
