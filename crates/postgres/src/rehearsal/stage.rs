//! Statements one after the other, each looked at.
//!
//! In a shadow each migration is committed, so that the next one finds it, unless something was done beyond the database (a role, a setting of a database):
//! from then on one transaction goes on to the end and is rolled back. In the live database all is one transaction from the start, with short
//! bounds, and nothing is ever committed.

use async_trait::async_trait;
use mainstay_engine::{
    CatalogObject, CatalogScope, LiveBounds, Observation, RehearsalStage, Rehearsed, StatementFailure,
    WorkingDatabase,
};
use mainstay_model::{Error, ErrorKind, Result, ResultExt};
use tokio::time::Instant;
use tokio_postgres::error::{DbError, ErrorPosition};

use crate::config::Settings;
use crate::failure::failure;
use crate::logical::databases::Databases;
use crate::logical::program::major_of;
use crate::session::Session;

use super::look::{Baseline, Files, Locks, beyond};
use super::{alone, catalog};

/// The rule by which files were split into statements: by the other one, the server might see a `COMMIT` where the splitter saw a string.
const STRINGS: &str = "SET standard_conforming_strings = on";
/// Nobody else is in a shadow, and a rehearsal takes as long as it takes.
const SHADOW_SETTINGS: &str = "\
    SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
    SET client_min_messages = error";
/// From this major version on there is a limit of whole transactions.
const TRANSACTION_TIMEOUT_MAJOR: u32 = 17;

/// Where statements are run.
pub(super) struct Stage {
    /// The server that the database is on.
    server: Settings,
    /// The database itself.
    pub(super) inside: Settings,
    /// The shadow; `None` for the live database.
    working: Option<WorkingDatabase>,
    pub(super) session: Session<'static>,
    /// What keeps a stage in the live database short, as statements.
    bounds: String,
    in_transaction: bool,
    open_ended: bool,
    pub(super) baseline: Option<Baseline>,
    /// What was seen last in the present transaction.
    last: Option<(Files, Locks)>,
}

impl Stage {
    /// A stage in a shadow that `session` is connected to.
    pub(super) fn shadow(server: Settings, working: WorkingDatabase, session: Session<'static>) -> Self {
        let inside = Databases::new(&server).settings_of(&working.name);
        Self {
            server,
            inside,
            working: Some(working),
            session,
            bounds: format!("{SHADOW_SETTINGS}; {STRINGS}"),
            in_transaction: false,
            open_ended: false,
            baseline: None,
            last: None,
        }
    }

    /// A stage in the live database, of which nothing is kept.
    pub(super) async fn live(
        settings: Settings,
        session: Session<'static>,
        bounds: LiveBounds,
        version: &str,
    ) -> Result<Self> {
        let LiveBounds { lock_timeout_ms, statement_timeout_ms, total_timeout_ms } = bounds;
        let mut limits = format!(
            "SET lock_timeout = {lock_timeout_ms}; SET statement_timeout = {statement_timeout_ms}; \
             SET idle_in_transaction_session_timeout = {total_timeout_ms}; SET client_min_messages = error; {STRINGS}"
        );
        let major: u32 = major_of(version).and_then(|major| major.parse().ok()).unwrap_or_default();
        if major >= TRANSACTION_TIMEOUT_MAJOR {
            limits.push_str(&format!("; SET transaction_timeout = {total_timeout_ms}"));
        }
        session.rows(&limits).await?;
        Ok(Self {
            server: settings.clone(),
            inside: settings,
            working: None,
            session,
            bounds: limits,
            in_transaction: false,
            open_ended: false,
            baseline: None,
            last: None,
        })
    }

    /// What was there before the first statement.
    pub(super) async fn look_around(&mut self) -> Result<()> {
        if self.baseline.is_none() {
            if self.working.is_some() {
                self.session.rows(&self.bounds).await?;
            }
            self.baseline = Some(Baseline::read(&self.session).await?);
        }
        Ok(())
    }

    /// Runs a statement: how long it took, or what the server said of it.
    async fn run(&self, statement: &str) -> Result<Result<u64, StatementFailure>> {
        let begun = Instant::now();
        match self.session.client.simple_query(statement).await {
            Ok(_) => Ok(Ok(micros(begun))),
            Err(error) => refusal(error, &self.inside).map(Err),
        }
    }

    /// What is seen of the present transaction.
    async fn look(&self) -> Result<(Files, Locks)> {
        Ok((Files::read(&self.session).await?, Locks::own(&self.session).await?))
    }

    async fn give_up(&mut self) {
        // A connection that is gone has rolled back by itself.
        drop(self.session.rows("ROLLBACK").await);
        (self.in_transaction, self.open_ended, self.last) = (false, false, None);
    }
}

/// Microseconds since `begun`.
pub(super) fn micros(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// What the server said of a statement; an error when it is not the statement's fault.
pub(super) fn refusal(error: tokio_postgres::Error, settings: &Settings) -> Result<StatementFailure> {
    match error.as_db_error() {
        // The server goes down, or somebody ended the connection.
        Some(said) if !said.code().code().starts_with("57P") => Ok(told(said)),
        _ => Err(failure(settings, error)),
    }
}

fn told(said: &DbError) -> StatementFailure {
    StatementFailure {
        code: said.code().code().to_owned(),
        message: said.message().to_owned(),
        hint: said.hint().map(str::to_owned),
        position: match said.position() {
            Some(ErrorPosition::Original(position)) => Some(*position),
            _ => None,
        },
    }
}

#[async_trait]
impl RehearsalStage for Stage {
    fn database(&self) -> &str {
        self.inside.database()
    }

    fn is_live(&self) -> bool {
        self.working.is_none()
    }

    fn is_open_ended(&self) -> bool {
        self.open_ended
    }

    fn look_again(&mut self) {
        self.baseline = None;
    }

    async fn begin(&mut self) -> Result<()> {
        if self.in_transaction {
            return Ok(());
        }
        self.look_around().await?;
        self.session.rows("BEGIN").await?;
        self.in_transaction = true;
        self.last = None;
        Ok(())
    }

    async fn observe(&mut self, statement: &str) -> Result<Rehearsed> {
        if !self.in_transaction {
            return Err(Error::new(ErrorKind::Internal, "a statement is rehearsed in no transaction"));
        }
        let is_empty = self.baseline.as_ref().is_none_or(Baseline::is_empty);
        let before = match self.last.take() {
            Some(seen) => seen,
            None if is_empty => (Files::default(), Locks::default()),
            None => self.look().await?,
        };
        let micros = match self.run(statement).await? {
            Ok(micros) => micros,
            Err(failed) => {
                self.give_up().await;
                return Ok(Rehearsed::Failed(failed));
            }
        };
        let beyond = beyond(&self.session).await?;
        self.open_ended |= !beyond.is_empty();
        let Some(baseline) = self.baseline.as_ref().filter(|_| !is_empty) else {
            return Ok(Rehearsed::Done(Observation { micros, beyond, ..Observation::default() }));
        };
        let after = self.look().await?;
        let seen = Observation {
            micros,
            taken: baseline.locks(&after.1.taken_since(&before.1)),
            held: baseline.locks(&after.1.held),
            beyond,
            ..before.0.changes(&after.0, baseline)
        };
        self.last = Some(after);
        Ok(Rehearsed::Done(seen))
    }

    async fn observe_alone(&mut self, statement: &str) -> Result<Rehearsed> {
        if self.in_transaction || self.working.is_none() {
            return Err(Error::new(
                ErrorKind::Internal,
                "a statement that runs alone is rehearsed in a transaction",
            ));
        }
        self.look_around().await?;
        if self.baseline.as_ref().is_none_or(Baseline::is_empty) {
            let ran = self.run(statement).await?;
            return Ok(match ran {
                Ok(micros) => Rehearsed::Done(Observation { micros, ..Observation::default() }),
                Err(failed) => Rehearsed::Failed(failed),
            });
        }
        alone::observe(self, statement).await
    }

    async fn commit(&mut self) -> Result<Option<StatementFailure>> {
        if !self.in_transaction || self.open_ended || self.working.is_none() {
            return Ok(None);
        }
        let ended = self.run("COMMIT").await?;
        (self.in_transaction, self.last) = (false, None);
        Ok(ended.err())
    }

    async fn reset_settings(&mut self) -> Result<()> {
        self.session.rows("RESET SESSION AUTHORIZATION").await?;
        self.session.rows("RESET ALL").await?;
        self.session.rows(&self.bounds).await.map(drop)
    }

    async fn catalog(&mut self, scope: &CatalogScope) -> Result<Vec<CatalogObject>> {
        catalog::read(&self.inside, scope).await.context("read the catalogue of the shadow database")
    }

    async fn end(mut self: Box<Self>) -> Result<()> {
        let Some(working) = self.working.take() else {
            self.give_up().await;
            return Ok(());
        };
        let server = self.server.clone();
        // Its own connection goes first: nobody is to be thrown out.
        drop(self);
        let removed = Databases::new(&server).discard(&working).await;
        removed.map(drop).with_context(|| format!("remove shadow database {}", working.name))
    }
}
