//! One connection, bounded in time from its first packet to its last answer.

use std::borrow::Cow;
use std::time::Duration;

use mainstay_model::{Error, ErrorKind, Result};
use tokio::time::timeout;
use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use crate::config::Settings;
use crate::failure::{failure, timed_out, unresolved};
use crate::tls;

/// How long the server may take over one question.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(15);

/// How long it may take to make or drop a database: it writes everything to disk first.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(15 * 60);

/// A connection that ends when this is dropped.
pub(crate) struct Session<'a> {
    settings: Cow<'a, Settings>,
    pub(crate) client: Client,
}

impl Session<'static> {
    /// One that outlives whoever opened it.
    pub(crate) async fn open_for_long(settings: &Settings) -> Result<Self> {
        let Session { settings, client } = Session::open(settings).await?;
        Ok(Self { settings: Cow::Owned(settings.into_owned()), client })
    }
}

impl<'a> Session<'a> {
    pub(crate) async fn open(settings: &'a Settings) -> Result<Self> {
        let connector = tls::connector(settings)?;
        let connected = timeout(settings.connect_timeout, settings.driver.connect(connector))
            .await
            .map_err(|_| timed_out(settings))?;
        match connected {
            Ok((client, connection)) => {
                // Ends by itself when the client is dropped; what breaks it is told to the client.
                tokio::spawn(async move { drop(connection.await) });
                Ok(Self { settings: Cow::Borrowed(settings), client })
            }
            Err(error) => {
                let failed = failure(settings, error);
                Err(unresolved_name(settings, &failed).await.unwrap_or(failed))
            }
        }
    }

    /// The rows of one simple query: text values, no parameters, no prepared statement left behind.
    pub(crate) async fn rows(&self, query: &str) -> Result<Vec<SimpleQueryRow>> {
        self.bounded(self.client.simple_query(query)).await.map(only_rows)
    }

    /// As [`Session::rows`]; `None` when the server lacks what `absent` names (an SQLSTATE) instead.
    pub(crate) async fn rows_unless(
        &self,
        absent: &[SqlState],
        query: &str,
    ) -> Result<Option<Vec<SimpleQueryRow>>> {
        match timeout(ANSWER_TIME_MAX, self.client.simple_query(query)).await {
            Ok(Ok(messages)) => Ok(Some(only_rows(messages))),
            Ok(Err(error)) if error.code().is_some_and(|code| absent.contains(code)) => Ok(None),
            Ok(Err(error)) => Err(failure(&self.settings, error)),
            Err(_) => Err(timed_out(&self.settings)),
        }
    }

    /// A statement that works on whole databases and may wait for a checkpoint. Also gives the SQLSTATE when the server refuses it.
    pub(crate) async fn command(&self, statement: &str) -> Result<Result<(), (SqlState, Error)>> {
        match timeout(COMMAND_TIME_MAX, self.client.simple_query(statement)).await {
            Ok(Ok(_)) => Ok(Ok(())),
            Ok(Err(error)) => match error.code().cloned() {
                Some(code) => Ok(Err((code, failure(&self.settings, error)))),
                None => Err(failure(&self.settings, error)),
            },
            Err(_) => Err(timed_out(&self.settings)),
        }
    }

    /// The one row of a query that gives exactly one.
    pub(crate) async fn row(&self, query: &str) -> Result<SimpleQueryRow> {
        self.rows(query).await?.into_iter().next().ok_or_else(|| self.not_understood("it sent no row"))
    }

    /// Waits for an answer, but not for ever.
    pub(crate) async fn bounded<T>(
        &self,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T> {
        match timeout(ANSWER_TIME_MAX, answer).await {
            Ok(outcome) => outcome.map_err(|error| failure(&self.settings, error)),
            Err(_) => Err(timed_out(&self.settings)),
        }
    }

    /// A column's text, which must be there.
    pub(crate) fn text<'r>(&self, row: &'r SimpleQueryRow, column: &str) -> Result<&'r str> {
        row.try_get(column).ok().flatten().ok_or_else(|| self.not_understood(&format!("it sent no {column}")))
    }

    /// A column's number.
    pub(crate) fn number(&self, row: &SimpleQueryRow, column: &str) -> Result<u64> {
        let text = self.text(row, column)?;
        text.parse().map_err(|_| self.not_understood(&format!("{column} is `{text}`, not a count")))
    }

    /// A column's value; `None` for an absent one.
    pub(crate) fn value<T: std::str::FromStr>(
        &self,
        row: &SimpleQueryRow,
        column: &str,
    ) -> Result<Option<T>> {
        let text = row.try_get(column).map_err(|_| self.not_understood(&format!("it sent no {column}")))?;
        let parse = |text: &str| {
            text.parse().map_err(|_| self.not_understood(&format!("{column} is `{text}`, which cannot be")))
        };
        text.map(parse).transpose()
    }

    /// A column's truth; an absent one is false.
    pub(crate) fn truth(&self, row: &SimpleQueryRow, column: &str) -> bool {
        row.try_get(column).ok().flatten() == Some("t")
    }

    fn not_understood(&self, why: &str) -> Error {
        Error::new(
            ErrorKind::Server,
            format!("{} answered in a way that is not understood: {why}", self.settings.address),
        )
    }
}

fn only_rows(messages: Vec<SimpleQueryMessage>) -> Vec<SimpleQueryRow> {
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    };
    messages.into_iter().filter_map(row).collect()
}

/// The driver does not say whether it was the name or the connection that failed: ask for the name again.
async fn unresolved_name(settings: &Settings, failed: &Error) -> Option<Error> {
    if failed.kind() != ErrorKind::Unreachable {
        return None;
    }
    for host in settings.driver.get_hosts() {
        let Host::Tcp(name) = host else { continue };
        let resolved =
            timeout(settings.connect_timeout, tokio::net::lookup_host((name.as_str(), 5432))).await;
        if matches!(resolved, Ok(Err(_))) {
            return Some(unresolved(name));
        }
    }
    None
}
