//! What goes wrong on a replication connection, by layer, and what the operator is told of it.

use std::io;

use fallible_iterator::FallibleIterator as _;
use mainstay_model::{Error, ErrorKind, ErrorStatus};
use postgres_protocol::message::backend::ErrorFields;

use crate::config::Settings;
use crate::failure::{connection_failure, refused_replication, server_failure, timed_out, unresolved};

/// How much of a server's text is kept.
const TEXT_BYTES_MAX: usize = 2_000;

/// An error of a replication connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    /// The name has no address.
    #[error("the host name {host} cannot be resolved")]
    Resolve { host: String, source: io::Error },
    /// No connection came about.
    #[error("connecting failed")]
    Connect(#[source] io::Error),
    /// TLS was wanted and did not come about.
    #[error("TLS failed")]
    Tls(#[source] io::Error),
    /// TLS was asked for and the server has none.
    #[error("the server offers no TLS")]
    TlsRefused,
    /// The configuration cannot be used for this.
    #[error("{0}")]
    Setup(String),
    /// An established connection ended.
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
    /// Who we are could not be proven, or who the server is.
    #[error("{0}")]
    Login(String),
    /// Bytes that are no message, or one out of its turn.
    #[error("{0}")]
    Protocol(String),
    /// The server's own answer.
    #[error(transparent)]
    Server(#[from] ServerError),
}

/// The server's `ErrorResponse` or `NoticeResponse`.
#[derive(Debug, Default, thiserror::Error)]
#[error("{code}: {message}")]
pub(crate) struct ServerError {
    /// SQLSTATE.
    pub(crate) code: String,
    /// The primary message.
    pub(crate) message: String,
    /// More of it.
    pub(crate) detail: Option<String>,
}

impl ServerError {
    /// Reads the fields of an error or a notice.
    pub(crate) fn read(mut fields: ErrorFields<'_>) -> Result<Self, WireError> {
        let mut error = Self::default();
        while let Some(field) = fields.next().map_err(malformed)? {
            let bytes = field.value_bytes();
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_BYTES_MAX)]).into_owned();
            match field.type_() {
                b'C' => error.code = text,
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                _ => {}
            }
        }
        Ok(error)
    }

    /// Message and detail in one line.
    pub(crate) fn text(&self) -> String {
        match &self.detail {
            Some(detail) => format!("{} ({})", one_line(&self.message), one_line(detail)),
            None => one_line(&self.message),
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A message that the protocol crate cannot read.
pub(crate) fn malformed(error: io::Error) -> WireError {
    WireError::Protocol(format!("a message cannot be read: {error}"))
}

impl WireError {
    /// The house's error, for the server of `settings`.
    pub(crate) fn into_error(self, settings: &Settings) -> Error {
        let address = &settings.address;
        let unreachable = |message: String| Error::new(ErrorKind::Unreachable, message);
        match self {
            Self::Resolve { host, source } => unresolved(&host).with_source(source),
            Self::Connect(source) => connection_failure(address, &source).with_source(source),
            Self::Tls(source) => unreachable(format!("TLS with {address} failed: {source}"))
                .with_status(ErrorStatus::Permanent)
                .with_hint("check sslmode and the CA file; `sslmode=disable` connects without TLS")
                .with_source(source),
            Self::TlsRefused => unreachable(format!("{address} offers no TLS, and sslmode asks for it"))
                .with_status(ErrorStatus::Permanent)
                .with_hint("turn `ssl` on at the server, or set `sslmode=prefer`"),
            Self::Setup(why) => {
                Error::new(ErrorKind::Config, format!("the PostgreSQL configuration cannot be used: {why}"))
            }
            Self::Broken(source) => {
                unreachable(format!("the connection to {address} broke: {source}")).with_source(source)
            }
            Self::Timeout => timed_out(settings),
            Self::Login(why) => {
                Error::new(ErrorKind::Auth, format!("authentication with {address} failed: {why}"))
                    .with_hint("check user and password of the PostgreSQL URL")
            }
            Self::Protocol(why) => Error::new(
                ErrorKind::Server,
                format!("{address} answered in a way that is not understood: {why}"),
            ),
            Self::Server(answer) => {
                let (code, text) = (answer.code.clone(), answer.text());
                refused_replication(settings, &code, &text)
                    .unwrap_or_else(|| server_failure(settings, &code, &text))
                    .with_source(answer)
            }
        }
    }
}
