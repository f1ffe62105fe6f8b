//! One replication connection: opened, logged in, then one command after the other.
//!
//! Every wait has a bound: opening the connect timeout, each answer [`ANSWER_TIME_MAX`], a piece of a copy what its reader says. After any
//! error but that of the server, and after a call that was dropped half-way, the connection must not be used again; dropping it closes it.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fallible_iterator::FallibleIterator as _;
use mainstay_model::Result as HouseResult;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::command::Row;
use super::error::{ServerError, WireError, malformed};
use super::login::{Channel, log_in};
use super::message::{Incoming, missing};
use super::transport::{self, Opened, Transport};
use crate::config::Settings;

/// How long a server may take over a command that is no copy.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);
/// How much room there is for what is read: many of the server's pieces, so that what has come of the next one when it is used up, and is
/// copied, is little beside them.
const ROOM_BYTES: usize = 1024 * 1024;
/// With less room than this there is new one.
const ROOM_BYTES_MIN: usize = 64 * 1024;
/// The most rows of one result; a timeline or a tablespace each.
const ROW_COUNT_MAX: usize = 100_000;
/// The most notices that are kept for whoever asks.
const NOTICE_COUNT_MAX: usize = 100;

/// An open connection.
pub(crate) struct Connection {
    stream: Box<dyn Transport>,
    received: BytesMut,
    outgoing: BytesMut,
    parameters: BTreeMap<String, String>,
    notices: Vec<String>,
}

/// What has come of a result.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    /// Whether pieces of a copy are passed over.
    behind_copy: bool,
    names: Vec<String>,
    rows: Vec<Row>,
}

impl Gathering {
    /// A result that comes behind a copy that ends: a server may send signs of life behind its last piece, which are passed over.
    pub(crate) fn behind_copy() -> Self {
        Self { behind_copy: true, ..Self::default() }
    }
}

impl Connection {
    /// Opens a physical replication connection to the server of `settings`.
    ///
    /// # Errors
    /// The house's, by layer. `Auth` when the role may not replicate.
    pub(crate) async fn open(settings: &Settings) -> HouseResult<Self> {
        timeout(settings.connect_timeout, Self::begin(settings))
            .await
            .unwrap_or(Err(WireError::Timeout))
            .map_err(|error| error.into_error(settings))
    }

    async fn begin(settings: &Settings) -> Result<Self, WireError> {
        let opened = transport::open(settings).await?;
        let Opened { stream, private, end_point } = opened;
        let mut connection = Self::over(stream);
        let application = settings.driver.get_application_name().unwrap_or("mainstay");
        let parameters = [
            ("user", settings.user()),
            ("replication", "true"),
            ("application_name", application),
            ("client_encoding", "UTF8"),
        ];
        connection.send(|buffer| frontend::startup_message(parameters, buffer).map_err(malformed)).await?;
        log_in(&mut connection, settings, Channel { private, end_point }).await?;
        connection.ready().await?;
        Ok(connection)
    }

    pub(super) fn over(stream: Box<dyn Transport>) -> Self {
        Self {
            stream,
            received: BytesMut::new(),
            outgoing: BytesMut::new(),
            parameters: BTreeMap::new(),
            notices: Vec::new(),
        }
    }

    /// A parameter that the server reports on its own, such as `server_version`.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// What the server has remarked since this was last asked, one line each.
    pub(crate) fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    /// Runs a command that answers with rows: the rows of its only result.
    ///
    /// # Errors
    /// [`WireError::Server`] leaves the connection usable.
    pub(crate) async fn rows(&mut self, command: &str) -> Result<Vec<Row>, WireError> {
        let answering = async {
            self.send_command(command).await?;
            let outcome = self.result().await;
            match outcome {
                Ok(rows) => self.ready().await.map(|()| rows),
                Err(WireError::Server(error)) => {
                    self.ready().await?;
                    Err(error.into())
                }
                Err(error) => Err(error),
            }
        };
        timeout(ANSWER_TIME_MAX, answering).await.unwrap_or(Err(WireError::Timeout))
    }

    /// Sends a command without waiting for what it answers.
    pub(crate) async fn send_command(&mut self, command: &str) -> Result<(), WireError> {
        self.send(|buffer| frontend::query(command, buffer).map_err(malformed)).await
    }

    /// The rows of the next result, up to the end of its command. A command without rows gives none.
    pub(crate) async fn result(&mut self) -> Result<Vec<Row>, WireError> {
        self.gather(&mut Gathering::default()).await
    }

    /// The same, kept in `gathered` meanwhile: a call that was dropped while it waited is gone on with by the next.
    pub(crate) async fn gather(&mut self, gathered: &mut Gathering) -> Result<Vec<Row>, WireError> {
        let Gathering { behind_copy, names, rows } = gathered;
        loop {
            match self.receive().await? {
                Incoming::Other(Message::RowDescription(body)) => {
                    let mut fields = body.fields();
                    while let Some(field) = fields.next().map_err(malformed)? {
                        names.push(field.name().to_owned());
                    }
                }
                Incoming::Other(Message::DataRow(body)) if rows.len() < ROW_COUNT_MAX => {
                    rows.push(Row::read(names, &body)?);
                }
                Incoming::Other(Message::DataRow(_)) => {
                    return Err(WireError::Protocol(format!("more than {ROW_COUNT_MAX} rows")));
                }
                Incoming::Other(Message::CommandComplete(_) | Message::EmptyQueryResponse) => {
                    return Ok(std::mem::take(rows));
                }
                Incoming::Copy(_) if *behind_copy => {}
                other => return Err(self.out_of_turn(&other)),
            }
        }
    }

    /// Waits until a copy out begins.
    pub(crate) async fn copy_out(&mut self) -> Result<(), WireError> {
        match self.receive().await? {
            Incoming::Other(Message::CopyOutResponse(_)) => Ok(()),
            other => Err(self.out_of_turn(&other)),
        }
    }

    /// Waits until the server takes a copy.
    pub(crate) async fn copy_in(&mut self) -> Result<(), WireError> {
        match timeout(ANSWER_TIME_MAX, self.receive()).await.unwrap_or(Err(WireError::Timeout))? {
            Incoming::Other(Message::CopyInResponse(_)) => Ok(()),
            other => Err(self.out_of_turn(&other)),
        }
    }

    /// Waits until a copy in both directions begins.
    pub(crate) async fn copy_both(&mut self) -> Result<(), WireError> {
        match self.receive().await? {
            Incoming::CopyBoth => Ok(()),
            other => Err(self.out_of_turn(&other)),
        }
    }

    /// The next piece of a copy, not copied; `None` at its end. Waits at most `patience`.
    ///
    /// May be dropped while it waits: nothing that was received is lost.
    pub(crate) async fn copied(&mut self, patience: Duration) -> Result<Option<Bytes>, WireError> {
        match timeout(patience, self.receive()).await {
            Err(_) => Err(WireError::Timeout),
            Ok(Err(error)) => Err(error),
            Ok(Ok(Incoming::Copy(piece))) => Ok(Some(piece)),
            Ok(Ok(Incoming::Other(Message::CopyDone))) => Ok(None),
            // So a WAL sender ends when its server does.
            Ok(Ok(Incoming::Other(Message::CommandComplete(_)))) => Err(WireError::Broken(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the server shuts down",
            ))),
            Ok(Ok(other)) => Err(self.out_of_turn(&other)),
        }
    }

    /// Sends a piece of a copy.
    pub(crate) async fn send_copy(&mut self, piece: &[u8]) -> Result<(), WireError> {
        let piece = frontend::CopyData::new(piece).map_err(malformed)?;
        self.send(|buffer| {
            piece.write(buffer);
            Ok(())
        })
        .await
    }

    /// Ends our direction of a copy.
    pub(crate) async fn send_copy_done(&mut self) -> Result<(), WireError> {
        self.send(|buffer| {
            frontend::copy_done(buffer);
            Ok(())
        })
        .await
    }

    /// Sends what a call that was dropped half-way has left.
    pub(crate) async fn flush(&mut self) -> Result<(), WireError> {
        self.send(|_| Ok(())).await
    }

    /// Waits until the server is ready for the next command.
    pub(crate) async fn ready(&mut self) -> Result<(), WireError> {
        loop {
            match self.receive().await? {
                Incoming::Other(Message::ReadyForQuery(_)) => return Ok(()),
                // Some commands end in a result of their own and then in that of the whole.
                Incoming::Other(Message::CommandComplete(_) | Message::BackendKeyData(_)) => {}
                other => return Err(self.out_of_turn(&other)),
            }
        }
    }

    /// Says goodbye. What the server makes of it is of no interest.
    pub(crate) async fn end(mut self) {
        let goodbye = self.send(|buffer| {
            frontend::terminate(buffer);
            Ok(())
        });
        let _ = timeout(Duration::from_secs(1), goodbye).await;
    }

    /// The next message that is meant for the reader. Parameters and notices are kept aside, an error of the server becomes ours.
    pub(super) async fn receive(&mut self) -> Result<Incoming, WireError> {
        loop {
            match self.take().await? {
                Incoming::Other(Message::ErrorResponse(body)) => {
                    return Err(ServerError::read(body.fields())?.into());
                }
                Incoming::Other(Message::NoticeResponse(body)) => {
                    let notice = ServerError::read(body.fields())?;
                    if self.notices.len() < NOTICE_COUNT_MAX {
                        self.notices.push(notice.text());
                    }
                }
                Incoming::Other(Message::ParameterStatus(body)) => {
                    let name = body.name().map_err(malformed)?.to_owned();
                    let value = body.value().map_err(malformed)?.to_owned();
                    if self.parameters.len() < NOTICE_COUNT_MAX {
                        self.parameters.insert(name, value);
                    }
                }
                Incoming::Other(Message::NotificationResponse(_)) => {}
                message => return Ok(message),
            }
        }
    }

    async fn take(&mut self) -> Result<Incoming, WireError> {
        loop {
            if let Some(message) = Incoming::take(&mut self.received)? {
                return Ok(message);
            }
            let missing = missing(&self.received)?;
            if self.received.capacity() - self.received.len() < missing.max(ROOM_BYTES_MIN) {
                self.received.reserve(missing.max(ROOM_BYTES));
            }
            match self.stream.read_buf(&mut self.received).await {
                Ok(0) => return Err(WireError::Broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(source) => return Err(WireError::Broken(source)),
            }
        }
    }

    /// Sends what `write` puts into the buffer. What a call that was dropped half-way has left there goes first.
    pub(super) async fn send(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        write(&mut self.outgoing)?;
        let sending = async {
            self.stream.write_all_buf(&mut self.outgoing).await?;
            self.stream.flush().await
        };
        match timeout(ANSWER_TIME_MAX, sending).await {
            Ok(sent) => sent.map_err(WireError::Broken),
            Err(_) => Err(WireError::Timeout),
        }
    }

    pub(super) fn out_of_turn(&self, message: &Incoming) -> WireError {
        WireError::Protocol(format!("{} came out of its turn", message.name()))
    }
}
