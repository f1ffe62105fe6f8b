//! Commands, in a transaction or by themselves, and what their failure means: done again, or told.

use std::time::Duration;

use bson::{Binary, Bson, Document, RawDocumentBuf};
use mainstay_model::{Error, ErrorKind, Result};
use mongodb::ClientSession;
use mongodb::error::{TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT};
use mongodb::options::{ReadConcern, WriteConcern};
use tokio::time::{Instant, sleep};

use crate::create::majority;
use crate::error::{ServerError, code, driver_code};
use crate::reply::number;
use crate::server::MongoServer;

/// How often the end of a transaction is asked for that the server does not tell.
const COMMIT_TRIES_MAX: u32 = 3;

/// How long a conflict may last. A transaction whose client was killed stays open in the server for a minute (`transactionLifetimeLimitSeconds`)
/// when nobody could end its session.
const CONFLICT_TIME_MAX: Duration = Duration::from_secs(100);
/// Between two looks whether it has gone.
const CONFLICT_LOOK: Duration = Duration::from_millis(500);

/// What went wrong inside a step.
pub(super) enum Failure {
    /// The driver's, by which it is told whether the step may be done again.
    Driver(mongodb::error::Error),
    /// Ours.
    House(Error),
}

impl From<mongodb::error::Error> for Failure {
    fn from(error: mongodb::error::Error) -> Self {
        Self::Driver(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::House(error)
    }
}

/// One conversation: inside a transaction, or with each command for itself.
pub(super) struct Talk<'a> {
    server: &'a MongoServer,
    session: Option<ClientSession>,
}

impl<'a> Talk<'a> {
    /// Begins a transaction where the server `has_transactions`.
    pub(super) async fn begin(server: &'a MongoServer, has_transactions: bool) -> Result<Self, Failure> {
        if !has_transactions {
            return Ok(Self { server, session: None });
        }
        let mut session = server.session().await?;
        session
            .start_transaction()
            .read_concern(ReadConcern::snapshot())
            .write_concern(WriteConcern::majority())
            .await?;
        Ok(Self { server, session: Some(session) })
    }

    /// Which session of the server it is in, when it is in a transaction.
    pub(super) fn session_id(&self) -> Option<Binary> {
        match self.session.as_ref()?.id().get("id") {
            Some(Bson::Binary(id)) => Some(id.clone()),
            _ => None,
        }
    }

    /// Runs a command.
    pub(super) async fn run(
        &mut self,
        database: &str,
        mut command: RawDocumentBuf,
    ) -> Result<Document, Failure> {
        let driver = self.server.driver_database(database);
        match &mut self.session {
            Some(session) => Ok(driver.run_raw_command(command).session(&mut *session).await?),
            None => {
                command.append(bson::cstr!("writeConcern"), majority());
                Ok(self.server.driver_tell(database, command).await?)
            }
        }
    }

    /// Runs a command that writes, and gives how many documents it met, and how many it changed.
    pub(super) async fn write(
        &mut self,
        database: &str,
        command: RawDocumentBuf,
    ) -> Result<(u64, u64), Failure> {
        let reply = self.run(database, command).await?;
        refused_write(&reply)?;
        Ok((number(&reply, "n").unwrap_or(0), number(&reply, "nModified").unwrap_or(0)))
    }

    /// Runs a command that gives a cursor, and everything the cursor gives.
    pub(super) async fn read(
        &mut self,
        database: &str,
        command: RawDocumentBuf,
    ) -> Result<Vec<RawDocumentBuf>, Failure> {
        let driver = self.server.driver_database(database);
        let Some(session) = &mut self.session else {
            return Ok(self.server.driver_list(database, command).await?);
        };
        let mut cursor = driver.run_raw_cursor_command(command).session(&mut *session).await?;
        let mut documents = Vec::new();
        while cursor.advance(session).await? {
            documents.push(cursor.current().to_owned());
        }
        Ok(documents)
    }

    /// Makes it last. What the server does not tell the end of is asked again; whoever still does not know does the whole step again, which
    /// finds nothing to do when it was done.
    pub(super) async fn commit(mut self) -> Result<(), Failure> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let mut tries = 1;
        loop {
            match session.commit_transaction().await {
                Err(error)
                    if error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT)
                        && tries < COMMIT_TRIES_MAX =>
                {
                    tries += 1;
                }
                ended => return Ok(ended?),
            }
        }
    }

    /// Gives it up. A transaction that cannot even be given up runs out on the server.
    pub(super) async fn abort(mut self) {
        if let Some(session) = &mut self.session {
            let _ = session.abort_transaction().await;
        }
    }
}

/// Does `attempt` again while what fails may pass.
pub(super) async fn retried<T, F>(server: &MongoServer, mut attempt: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T, Failure>>,
{
    let mut incident = server.retry().incident();
    let begun = Instant::now();
    loop {
        let (error, passes) = match attempt().await {
            Ok(done) => return Ok(done),
            Err(Failure::House(error)) => {
                let passes = error.is_temporary();
                (error, passes)
            }
            Err(Failure::Driver(failure))
                if driver_code(&failure) == Some(code::WRITE_CONFLICT)
                    && begun.elapsed() < CONFLICT_TIME_MAX =>
            {
                sleep(CONFLICT_LOOK).await;
                continue;
            }
            Err(Failure::Driver(failure)) => {
                let passes = failure.contains_label(TRANSIENT_TRANSACTION_ERROR)
                    || failure.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT);
                let error = server.explain(failure).await;
                let passes = passes || error.is_temporary();
                (error, passes)
            }
        };
        match incident.next_delay() {
            Some(delay) if passes => sleep(delay).await,
            _ => return Err(error),
        }
    }
}

/// The first refusal inside the reply to a write.
fn refused_write(reply: &Document) -> Result<()> {
    let Some((_, refusal)) = ServerError::in_write(reply) else { return Ok(()) };
    Err(match refusal.code {
        code::DOCUMENT_VALIDATION => {
            Error::new(ErrorKind::Precondition, "the collection's validator refuses what the update makes")
                .with_hint("correct `update`, or the validator")
        }
        _ => Error::from(refusal),
    })
}
