//! Backfills of tables: walked by the primary key, changed by one statement for each range, what was there before kept by the same statement.
//!
//! A step finds the end of its range in the primary key's index alone, so that its work is bounded whatever the guard means. One statement then locks
//! the rows that the guard means, in the order of their keys, updates them, and puts what was there before and after into one row of
//! `mainstay.backfill_undo`; with the segment's new place it is one transaction. Who waits for a lock waits a moment, gives up, and the step is done
//! again.
//!
//! The ledger is in the schema `mainstay` of the same database: `ledger`, `backfill_segments`, `backfill_undo`. Keys and values are kept as text in the
//! server's own output form with fixed settings, which every type reads back as it was. What the declaration says is sent as part of a *prepared* statement,
//! which the server takes only when it is one. Relies on PostgreSQL 14. Refuses tables without a primary key, generated columns, and columns of
//! the key.

mod ledger;
mod statement;
mod step;
mod undo;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use mainstay_engine::{
    Backfill, BackfillBody, BackfillClaim, BackfillHold, BackfillLook, BackfillRemains, BackfillRun,
    BackfillStep, BackfillStore, BackfillTrial, ClaimFor, ImportedChange, TrialWay, UndoPart, UndoneStep,
};
use mainstay_guard::Permit;
use mainstay_model::{Error, ErrorKind, Result, ResultExt, StoreKind};
use tokio::time::{sleep, timeout};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use crate::config::{PostgresConfig, Settings};
use crate::failure::{failure, timed_out};
use crate::probe::{check_user_schema, fingerprint};
use crate::session::Session;

use statement::Shape;

/// What permits must be for.
const RUN: &str = "backfill.run";
const UNDOING: &str = "backfill.undo";
const PAUSE: &str = "backfill.pause";

/// How values are written and read, whatever the role or the database says; and how long a step waits for a lock.
const SETTINGS: &str = "SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres'; SET timezone = 'UTC'; \
     SET extra_float_digits = 1; SET bytea_output = 'hex'; SET lock_timeout = '1s'; SET idle_in_transaction_session_timeout = '60s'";
/// How long one statement may take at most: the work of a step is bounded, counting reads a whole table.
const STATEMENT_TIME_MAX: Duration = Duration::from_secs(10 * 60);
/// How often a step is done again that met locks.
const TRIES_MAX: u32 = 20;
/// SQLSTATEs of what may pass: a lock was not to be had, a deadlock was broken, a serialization failed.
const PASSING: [&str; 3] = ["55P03", "40P01", "40001"];

/// A PostgreSQL whose rows are changed where they stand. Connections are kept for the next step.
#[derive(Debug)]
pub struct PostgresBackfill {
    settings: Settings,
    idle: Mutex<Vec<Client>>,
    /// Tables by their names, once they were looked at.
    shapes: Mutex<BTreeMap<String, Arc<Shape>>>,
    /// Which server this is, once somebody has asked.
    fingerprint: Mutex<Option<String>>,
}

/// What went wrong with a statement.
enum Refusal {
    /// It may pass: the same again.
    Passing(Error),
    /// It does not.
    Lasting(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Lasting(error)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Passing(error) | Refusal::Lasting(error) => error,
        }
    }
}

/// A value that goes with a statement.
type Value<'a> = &'a (dyn ToSql + Sync);

/// A backfill in the server's own form.
struct Work<'a> {
    id: &'a str,
    schema: &'a str,
    table: &'a str,
    guard: &'a str,
    set: &'a [(String, String)],
    verify: Option<&'a str>,
    keeps_undo: bool,
}

impl<'a> Work<'a> {
    fn of(backfill: &'a Backfill) -> Result<Self> {
        let BackfillBody::Rows { schema, table, guard, set, verify } = &backfill.body else {
            return Err(Error::new(ErrorKind::Usage, format!("{} is no backfill of rows", backfill.id)));
        };
        check_user_schema(schema)?;
        Ok(Self {
            id: &backfill.id,
            schema,
            table,
            guard,
            set,
            verify: verify.as_deref(),
            keeps_undo: backfill.keeps_undo,
        })
    }
}

impl PostgresBackfill {
    /// The server that `config` describes. Does not connect.
    ///
    /// # Errors
    /// `Config` when the URL or the CA file cannot be used.
    pub fn new(config: &PostgresConfig) -> Result<Self> {
        Ok(Self {
            settings: Settings::resolve(config)?,
            idle: Mutex::default(),
            shapes: Mutex::default(),
            fingerprint: Mutex::default(),
        })
    }

    /// A connection, kept or new.
    async fn client(&self) -> Result<Client> {
        let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(client) = kept.filter(|client| !client.is_closed()) {
            return Ok(client);
        }
        let client = Session::open(&self.settings).await.context("connect to PostgreSQL")?.client;
        self.plain(&client, SETTINGS).await?;
        Ok(client)
    }

    /// Keeps a connection that is in no transaction.
    fn keep(&self, client: Client) {
        if !client.is_closed() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(client);
        }
    }

    /// Statements of our own, without values.
    async fn plain(&self, client: &Client, statements: &str) -> Result<(), Refusal> {
        match timeout(STATEMENT_TIME_MAX, client.batch_execute(statements)).await {
            Ok(ended) => ended.map_err(|error| self.refusal(error)),
            Err(_) => Err(Refusal::Lasting(timed_out(&self.settings))),
        }
    }

    /// The rows of one statement.
    async fn rows(
        &self,
        client: &Client,
        statement: &str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, Refusal> {
        match timeout(STATEMENT_TIME_MAX, client.query(statement, values)).await {
            Ok(ended) => ended.map_err(|error| self.refusal(error)),
            Err(_) => Err(Refusal::Lasting(timed_out(&self.settings))),
        }
    }

    fn refusal(&self, error: tokio_postgres::Error) -> Refusal {
        let state = error.code().map(|code| code.code().to_owned()).unwrap_or_default();
        let told = failure(&self.settings, error);
        match state.as_str() {
            passing if PASSING.contains(&passing) => Refusal::Passing(told.with_hint(
                "somebody holds locks: `mainstay pg blockers` tells who; the same command again goes on",
            )),
            // Syntax and names: what was declared cannot be carried out.
            declared if declared.starts_with("42") && declared != "42501" => {
                Refusal::Lasting(Error::new(ErrorKind::Usage, told.message().to_owned()).with_hint(
                    "correct the declaration; `mainstay backfill preview` tries it without changing anything",
                ))
            }
            _ => Refusal::Lasting(told),
        }
    }

    /// Does `attempt` in a transaction, again while it meets locks.
    async fn in_transaction<T, F>(&self, mut attempt: impl FnMut(Arc<Client>) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, Refusal>>,
    {
        let mut delay = Duration::from_millis(50);
        let mut tries = 1;
        loop {
            let client = Arc::new(self.client().await?);
            self.plain(&client, "BEGIN").await?;
            let ended = match attempt(Arc::clone(&client)).await {
                Ok(done) => self.plain(&client, "COMMIT").await.map(|()| done),
                Err(refusal) => {
                    // The server gives up by itself what a broken connection has begun.
                    let _ = self.plain(&client, "ROLLBACK").await;
                    Err(refusal)
                }
            };
            match ended {
                Ok(done) => {
                    if let Some(client) = Arc::into_inner(client) {
                        self.keep(client);
                    }
                    return Ok(done);
                }
                Err(Refusal::Passing(_)) if tries < TRIES_MAX => {
                    tries += 1;
                    sleep(delay).await;
                    delay = (delay * 2).min(Duration::from_secs(2));
                }
                Err(refusal) => return Err(refusal.into()),
            }
        }
    }

    /// Does `question` outside of a transaction.
    async fn asked(&self, statement: &str, values: &[Value<'_>]) -> Result<Vec<Row>> {
        let client = self.client().await?;
        let rows = self.rows(&client, statement, values).await?;
        self.keep(client);
        Ok(rows)
    }

    async fn authorize(&self, permit: &Permit, operation: &str) -> Result<()> {
        let known = self.fingerprint.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let known = match known {
            Some(known) => known,
            None => {
                let session = Session::open(&self.settings).await.context("connect to PostgreSQL")?;
                let asked = fingerprint(&session).await?;
                *self.fingerprint.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked.clone());
                asked
            }
        };
        permit.check(operation, StoreKind::Postgres, &known)
    }

    /// What the table is, looked at once.
    async fn shape(&self, work: &Work<'_>) -> Result<Arc<Shape>> {
        let name = format!("{}.{}", work.schema, work.table);
        if let Some(known) = self.shapes.lock().unwrap_or_else(PoisonError::into_inner).get(&name) {
            return Ok(Arc::clone(known));
        }
        let shape = Arc::new(step::shape(self, work).await?);
        self.shapes.lock().unwrap_or_else(PoisonError::into_inner).insert(name, Arc::clone(&shape));
        Ok(shape)
    }
}

/// An error of what changes nothing.
fn unchanged(error: Error) -> Error {
    if error.state().is_some() { error } else { error.with_state("nothing was changed") }
}

/// A column's text, which is there.
fn text(row: &Row, column: usize) -> Result<String> {
    optional(row, column)?.ok_or_else(|| not_understood(&format!("column {column} is empty")))
}

/// A column's text; `None` where it is null.
fn optional(row: &Row, column: usize) -> Result<Option<String>> {
    row.try_get::<_, Option<String>>(column).map_err(|error| not_understood(&error.to_string()))
}

/// A column's count, sent as text.
fn count(row: &Row, column: usize) -> Result<u64> {
    let text = text(row, column)?;
    text.parse().map_err(|_| not_understood(&format!("`{text}` is no count")))
}

fn not_understood(why: &str) -> Error {
    Error::new(ErrorKind::Server, format!("the server answered in a way that is not understood: {why}"))
}

#[async_trait]
impl BackfillStore for PostgresBackfill {
    async fn look(&self, backfill: &Backfill, time_max: Duration) -> Result<BackfillLook> {
        let work = Work::of(backfill)?;
        let looked_at = step::look(self, &work, time_max).await.map_err(unchanged);
        looked_at.with_context(|| format!("look at {}", backfill.place()))
    }

    async fn try_out(&self, backfill: &Backfill, count: u32, _way: TrialWay) -> Result<BackfillTrial> {
        let work = Work::of(backfill)?;
        let tried = step::try_out(self, &work, count).await.map_err(unchanged);
        tried.with_context(|| format!("try {} out", backfill.id))
    }

    async fn remains(&self, backfill: &Backfill) -> Result<BackfillRemains> {
        let work = Work::of(backfill)?;
        step::remains(self, &work).await.with_context(|| format!("count what {} has to do", backfill.id))
    }

    async fn runs(&self) -> Result<Vec<BackfillRun>> {
        ledger::runs(self).await.context("read the ledger")
    }

    async fn history(&self) -> Result<Vec<ImportedChange>> {
        Ok(Vec::new())
    }

    async fn import(&self, _source: &str, _permit: &Permit) -> Result<u64> {
        Err(Error::new(ErrorKind::Unsupported, "only the changelog of migrate-mongo is imported, from mongo")
            .with_state("nothing was changed"))
    }

    async fn claim(
        &self,
        backfill: &Backfill,
        claim: &BackfillClaim,
        permit: &Permit,
    ) -> Result<BackfillHold> {
        let operation = match claim.purpose {
            ClaimFor::Run { .. } => RUN,
            ClaimFor::Undo => UNDOING,
        };
        let claiming = async {
            self.authorize(permit, operation).await?;
            let work = Work::of(backfill)?;
            if matches!(claim.purpose, ClaimFor::Run { .. }) {
                step::check_whole(self, &work).await.map_err(unchanged)?;
            }
            ledger::claim(self, &work, backfill, claim).await
        };
        claiming.await.with_context(|| format!("take {}", backfill.id))
    }

    async fn beat(&self, hold: &BackfillHold) -> Result<bool> {
        ledger::beat(self, hold).await.with_context(|| format!("hold {}", hold.id))
    }

    async fn release(&self, hold: &BackfillHold, at_end: bool) -> Result<()> {
        ledger::release(self, hold, at_end).await.with_context(|| format!("give {} back", hold.id))
    }

    async fn pause(&self, backfill: &Backfill, permit: &Permit) -> Result<()> {
        let pausing = async {
            self.authorize(permit, PAUSE).await?;
            ledger::pause(self, &backfill.id).await
        };
        pausing.await.with_context(|| format!("pause {}", backfill.id))
    }

    async fn step(
        &self,
        backfill: &Backfill,
        hold: &BackfillHold,
        segment: u32,
        keys: u32,
        permit: &Permit,
    ) -> Result<BackfillStep> {
        let stepping = async {
            self.authorize(permit, RUN).await?;
            step::step(self, &Work::of(backfill)?, hold, segment, keys).await
        };
        stepping.await.with_context(|| format!("change {}", backfill.place()))
    }

    async fn lag(&self) -> Result<Option<Duration>> {
        step::lag(self).await.context("read how far the replicas are")
    }

    async fn undo_parts(&self, backfill: &Backfill) -> Result<Vec<UndoPart>> {
        undo::parts(self, &backfill.id).await.context("list what was kept")
    }

    async fn undo_part(
        &self,
        backfill: &Backfill,
        hold: &BackfillHold,
        part: &UndoPart,
        permit: &Permit,
    ) -> Result<UndoneStep> {
        let undoing = async {
            self.authorize(permit, UNDOING).await?;
            undo::bring_back(self, &Work::of(backfill)?, hold, part).await
        };
        undoing.await.with_context(|| format!("bring {} back", backfill.place()))
    }

    async fn left_behind(&self, backfill: &Backfill, count: usize) -> Result<Vec<String>> {
        undo::left_behind(self, &backfill.id, count).await.context("list what was left")
    }
}
