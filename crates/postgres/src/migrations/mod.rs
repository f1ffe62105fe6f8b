//! SQL migrations on a PostgreSQL: the tracking table, the lock of a run, transactions and steps.
//!
//! Texts go to the server by the simple protocol, one message each, as Drizzle's own runner sends them. Each piece of work has a connection of its own,
//! opened as the url says: no setting, temporary table or role of one file meets the next, and what a file leaves open ends with it. The lock of a
//! run is an advisory lock on another connection that does nothing else and never waits: a waiter inside the server would hold a snapshot
//! that `CREATE INDEX CONCURRENTLY` waits for. The tracking table is locked in ACCESS EXCLUSIVE mode within each transaction, so that a stock
//! runner waits at its first read and then sees what was applied; one that has read before is found by what it is at, and let go on.
//!
//! Refuses connections that are handed from one client to another between transactions (a pooler in that mode), where a lock of a session means
//! nothing, and a server that replays another one's WAL.
//!
//! | module | what it is for |
//! |---|---|
//! | `tracking` | the tracking table: read, made, written |
//! | `lock` | the advisory locks, who holds them, whether the connection is a direct one |
//! | `run` | one run: its connections, transactions, what became of a commit that was not heard |
//! | `rivals` | other runners that have read the tracking table before it was locked |
//! | `rights` | what to grant when the server refuses one of these |
//! | `alone` | statements that cannot be in a transaction, and the indexes that they make |
//! | `ledger` | `mainstay.sql_steps`: what of a migration is done that is not one transaction |
//! | `waiting` | who is waited for, and who waits |
//!
//! Sources: manual (18), "Explicit Locking", "Advisory Locks", "CREATE INDEX" (building indexes concurrently), `pg_blocking_pids`.

mod alone;
mod ledger;
mod lock;
mod rights;
mod rivals;
mod run;
mod tracking;
mod waiting;

use std::pin::pin;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use mainstay_engine::{MigrationFacts, MigrationRun, MigrationTarget, RecordedStep, TrackingLook};
use mainstay_migrations::TrackingTable;
use mainstay_model::{Error, ErrorKind, Result, ResultExt};
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::error::{DbError, ErrorPosition};

use crate::config::{PostgresConfig, Settings};
use crate::failure::{failure, server_failure};
use crate::probe::fingerprint;
use crate::session::Session;

/// After how long of silence the other end is asked whether it is there: statements take as long as they take.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;

/// A PostgreSQL that migrations are applied to. Each call opens connections of its own and ends them.
#[derive(Debug)]
pub struct PostgresMigrations {
    settings: Settings,
}

impl PostgresMigrations {
    /// The database that `config` describes. Does not connect.
    ///
    /// # Errors
    /// `Config` when the URL or the CA file cannot be used.
    pub fn new(config: &PostgresConfig) -> Result<Self> {
        let mut settings = Settings::resolve(config)?;
        settings
            .driver
            .keepalives(true)
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_RETRIES);
        Ok(Self { settings })
    }

    async fn session(&self) -> Result<Session<'_>> {
        Session::open(&self.settings).await.context("connect to PostgreSQL")
    }
}

#[async_trait]
impl MigrationTarget for PostgresMigrations {
    async fn facts(&self) -> Result<MigrationFacts> {
        let session = self.session().await?;
        let row = session
            .row(
                "SELECT current_setting('server_version') AS version, current_database() AS database, \
                 current_user AS \"user\", pg_is_in_recovery() AS in_recovery",
            )
            .await
            .context("read facts of PostgreSQL")?;
        let text = |column: &str| session.text(&row, column).map(str::to_owned);
        Ok(MigrationFacts {
            fingerprint: fingerprint(&session).await.context("read facts of PostgreSQL")?,
            address: self.settings.address.clone(),
            version: text("version")?,
            database: text("database")?,
            user: text("user")?,
            in_recovery: session.truth(&row, "in_recovery"),
        })
    }

    async fn tracking(&self, table: &TrackingTable) -> Result<TrackingLook> {
        let session = self.session().await?;
        let read = tracking::read_patiently(&session, table).await;
        read.map_err(|error| rights::to_read(error, &self.settings, table))
            .with_context(|| format!("read {table}"))
    }

    async fn recorded_steps(&self, table: &TrackingTable) -> Result<Vec<RecordedStep>> {
        let session = self.session().await?;
        ledger::read(&session, table).await.context("read the recorded steps")
    }

    async fn open<'a>(&'a self, table: &TrackingTable) -> Result<Box<dyn MigrationRun + 'a>> {
        let keeper = lock::open_keeper(&self.settings).await?;
        Ok(Box::new(run::PostgresRun::new(&self.settings, keeper, table.clone())))
    }
}

/// What a server answered instead of doing what it was asked.
struct Answer {
    code: String,
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    position: Option<u32>,
    /// How many statements of the text had ended by then.
    statements_done: usize,
}

/// The server's answer, or the end of the connection.
enum Refusal {
    /// It answered.
    Answered(Answer),
    /// Nobody knows whether it heard.
    Lost(Error),
}

impl Refusal {
    fn of(settings: &Settings, error: tokio_postgres::Error, statements_done: usize) -> Self {
        match error.as_db_error() {
            Some(answer) => Self::Answered(Answer::of(settings, answer, statements_done)),
            None => Self::Lost(failure(settings, error)),
        }
    }

    /// As an error of this house, where it is no failure of somebody's statement.
    fn into_error(self, settings: &Settings) -> Error {
        match self {
            Self::Answered(answer) => server_failure(settings, &answer.code, &answer.message),
            Self::Lost(error) => error,
        }
    }

    /// Whether the server may have done what it was asked although it answers otherwise: it ended the connection.
    fn is_end_of_connection(&self) -> bool {
        match self {
            // admin_shutdown and its kin, and connection exceptions.
            Self::Answered(answer) => answer.code.starts_with("57P") || answer.code.starts_with("08"),
            Self::Lost(_) => true,
        }
    }
}

impl Answer {
    fn of(settings: &Settings, answer: &DbError, statements_done: usize) -> Self {
        let (code, message) = (answer.code().code(), answer.message());
        let position = match answer.position() {
            Some(ErrorPosition::Original(position)) => Some(*position),
            // That of a statement inside a function is of no use to who reads the file.
            Some(ErrorPosition::Internal { .. }) | None => None,
        };
        Self {
            code: code.to_owned(),
            kind: server_failure(settings, code, message).kind(),
            message: message.to_owned(),
            hint: answer.hint().map(str::to_owned),
            position,
            statements_done,
        }
    }
}

/// Sends one text and waits for its end, however long that takes. Rows are dropped as they come.
async fn send(session: &Session<'_>, settings: &Settings, text: &str) -> Result<(), Refusal> {
    let sent = session.client.simple_query_raw(text).await;
    let mut answers = pin!(sent.map_err(|error| Refusal::of(settings, error, 0))?);
    let mut done = 0;
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(SimpleQueryMessage::CommandComplete(_)) => done += 1,
            Ok(_) => {}
            Err(error) => return Err(Refusal::of(settings, error, done)),
        }
    }
    Ok(())
}
