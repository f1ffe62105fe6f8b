//! One connection: opened, greeted, authenticated, then requests and replies in turn.
//!
//! Every wait has a bound: opening the connect timeout, each request and each reply the reply timeout. Relies on the caller to send one
//! request at a time and to receive its reply before the next. After any error but
//! [`WireError::Server`], or a call that was dropped half-way, the connection must not be used again; dropping it closes it.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bson::{Binary, RawDocumentBuf, rawdoc, spec::BinarySubtype};
use bytes::BytesMut;
use mainstay_model::Secret;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::message::{self, HEADER_BYTES, Reply, Sequence};
use super::scram::{Begun, Scram};
use crate::error::{ServerError, WireError};
use crate::raw::{self, kind};

/// Where a server listens. Written `host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// A name or an address.
    pub(crate) host: String,
    /// The port.
    pub(crate) port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// How to prove who we are.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    /// The user.
    pub(crate) username: String,
    /// The password; none with a client certificate.
    pub(crate) password: Option<Secret>,
    /// The database the user was created in.
    pub(crate) source: String,
    /// The mechanism; negotiated when none is configured.
    pub(crate) mechanism: Option<Mechanism>,
}

impl Login {
    /// Whether it cannot work, whatever the server says: only a certificate proves a user without a password.
    pub(crate) fn lacks_password(&self) -> bool {
        self.password.is_none() && self.mechanism != Some(Mechanism::X509)
    }
}

/// The mechanisms spoken on our own connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mechanism {
    /// SCRAM-SHA-1.
    ScramSha1,
    /// SCRAM-SHA-256.
    ScramSha256,
    /// The client certificate of the TLS connection.
    X509,
}

/// What every connection to one deployment has in common.
#[derive(Clone)]
pub(crate) struct WireOptions {
    /// TLS, when used.
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
    /// The login, when the server asks for one.
    pub(crate) login: Option<Login>,
    /// What the server's log and `$currentOp` call us.
    pub(crate) app_name: String,
    /// Bound of name resolution, connecting, TLS and login together.
    pub(crate) connect_timeout: Duration,
    /// Bound of each reply.
    pub(crate) reply_timeout: Duration,
}

/// What the server said in answer to `hello`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Greeting {
    /// The newest wire version it speaks: 8 is MongoDB 4.2, 13 is 5.0, 17 is 6.0, 21 is 7.0, 25 is 8.0.
    pub(crate) wire_version: i64,
    /// The most documents in one write command.
    pub(crate) write_batch_max: usize,
    /// The process that answers (`topologyVersion.processId`): another after a restart.
    pub(crate) process: Vec<u8>,
    /// The election that made it primary (`electionId`): another after a failover.
    pub(crate) election: Vec<u8>,
    /// The replica set it is a member of.
    pub(crate) replica_set: Option<String>,
    /// What the replica set calls this member: `host:port`.
    pub(crate) member: Option<String>,
    /// Whether it is a secondary.
    pub(crate) secondary: bool,
}

/// An open connection.
pub(crate) struct Connection {
    stream: Stream,
    address: String,
    request_id: i32,
    reply_timeout: Duration,
    greeting: Greeting,
}

impl Connection {
    /// Opens a connection to `endpoint`, greets the server and logs in.
    pub(crate) async fn open(endpoint: &Endpoint, options: &WireOptions) -> Result<Self, WireError> {
        let address = endpoint.to_string();
        let opening = async {
            let stream = connect(endpoint, options.tls.as_ref()).await?;
            let mut connection = Self {
                stream,
                address: address.clone(),
                request_id: 0,
                reply_timeout: options.reply_timeout,
                greeting: Greeting::default(),
            };
            let mechanisms = connection.greet(options).await?;
            if let Some(login) = &options.login {
                connection.log_in(login, &mechanisms).await?;
            }
            Ok(connection)
        };
        timeout(options.connect_timeout, opening).await.unwrap_or_else(|_| {
            Err(WireError::Timeout {
                address,
                seconds: options.connect_timeout.as_secs(),
                action: "connecting",
            })
        })
    }

    /// What the server said of itself.
    pub(crate) fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// Runs `command` (with its `$db`) and gives the reply.
    ///
    /// # Errors
    /// [`WireError::Server`] when the reply's `ok` is not 1.
    pub(crate) async fn run(&mut self, command: &[u8]) -> Result<Reply, WireError> {
        self.send(command, None).await?;
        self.receive().await
    }

    /// Sends a command and the documents that belong to it.
    pub(crate) async fn send(
        &mut self,
        command: &[u8],
        sequence: Option<Sequence<'_>>,
    ) -> Result<(), WireError> {
        self.request_id = self.request_id.wrapping_add(1);
        let head = message::encode(self.request_id, command, sequence)?;
        let stream = &mut self.stream;
        let sending = async {
            stream.write_all(&head).await?;
            if let Some(sequence) = sequence {
                stream.write_all(sequence.documents).await?;
            }
            stream.flush().await
        };
        match timeout(self.reply_timeout, sending).await {
            Ok(sent) => sent.map_err(|source| self.broken(source)),
            Err(_) => Err(self.late("taking a request")),
        }
    }

    /// Receives the reply to what was sent last.
    ///
    /// # Errors
    /// [`WireError::Server`] when the reply's `ok` is not 1.
    pub(crate) async fn receive(&mut self) -> Result<Reply, WireError> {
        let reply = match timeout(self.reply_timeout, self.receive_any()).await {
            Ok(reply) => reply?,
            Err(_) => return Err(self.late("answering a request")),
        };
        match ServerError::in_reply(reply.document())? {
            None => Ok(reply),
            Some(error) => Err(error.into()),
        }
    }

    async fn receive_any(&mut self) -> Result<Reply, WireError> {
        let mut header = [0; HEADER_BYTES];
        if let Err(source) = self.stream.read_exact(&mut header).await {
            return Err(self.broken(source));
        }
        let length = message::decode_header(&header, self.request_id)?;
        // One buffer of the exact size, filled without being zeroed first; it becomes the batch that is handed on.
        let mut rest = BytesMut::with_capacity(length);
        let mut limited = (&mut self.stream).take(length as u64);
        while rest.len() < length {
            match limited.read_buf(&mut rest).await {
                Ok(0) => return Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(source) => return Err(self.broken(source)),
            }
        }
        Reply::decode(rest)
    }

    fn broken(&self, source: io::Error) -> WireError {
        WireError::Broken { address: self.address.clone(), source }
    }

    fn late(&self, action: &'static str) -> WireError {
        WireError::Timeout { address: self.address.clone(), seconds: self.reply_timeout.as_secs(), action }
    }

    /// Says hello and learns what the server is and which mechanisms the user has.
    async fn greet(&mut self, options: &WireOptions) -> Result<Vec<String>, WireError> {
        let mut hello = rawdoc! {
            "hello": 1,
            "$db": "admin",
            "client": {
                "application": { "name": options.app_name.as_str() },
                "driver": { "name": "mainstay", "version": env!("CARGO_PKG_VERSION") },
                "os": { "type": std::env::consts::OS },
            },
        };
        if let Some(login) = options.login.as_ref().filter(|login| login.mechanism.is_none()) {
            hello.append(bson::cstr!("saslSupportedMechs"), format!("{}.{}", login.source, login.username));
        }
        let reply = self.run(hello.as_bytes()).await?;
        let hello = reply.document();
        let number = |key| raw::find(hello, key).map(|element| element.and_then(|element| element.number()));
        self.greeting = Greeting {
            wire_version: number("maxWireVersion")?.unwrap_or(0),
            write_batch_max: number("maxWriteBatchSize")?
                .and_then(|count| usize::try_from(count).ok())
                .unwrap_or(1_000),
            process: process_of(hello)?,
            election: raw::find(hello, "electionId")?.map(|id| id.value.to_vec()).unwrap_or_default(),
            replica_set: raw::find(hello, "setName")?.and_then(|name| name.text().map(str::to_owned)),
            member: raw::find(hello, "me")?.and_then(|name| name.text().map(str::to_owned)),
            secondary: raw::find(hello, "secondary")?.is_some_and(|is| is.value == [1]),
        };
        if self.greeting.wire_version < 8 {
            return Err(WireError::Unsupported(format!(
                "{} speaks wire version {}; MongoDB 4.2 (wire version 8) is the oldest that is supported",
                self.address, self.greeting.wire_version
            )));
        }
        mechanisms_of(hello)
    }

    async fn log_in(&mut self, login: &Login, offered: &[String]) -> Result<(), WireError> {
        let offers = |scram: Scram| offered.iter().any(|name| name == scram.name());
        let scram = match login.mechanism {
            Some(Mechanism::X509) => return self.log_in_by_certificate(login).await,
            Some(Mechanism::ScramSha1) => Scram::Sha1,
            Some(Mechanism::ScramSha256) => Scram::Sha256,
            // A user that does not exist is offered nothing; trying gives the server's own answer.
            None if offers(Scram::Sha1) && !offers(Scram::Sha256) => Scram::Sha1,
            None => Scram::Sha256,
        };
        let Some(password) = &login.password else {
            return Err(WireError::Login(format!("no password is configured for user {}", login.username)));
        };
        let begun = Begun::new(scram, &login.username);
        let reply = self.run(sasl_start(scram, &begun.first_message(), &login.source).as_bytes()).await?;
        let (proving, proof) = begun.prove(payload_of(reply.document())?, &login.username, password)?;
        let conversation =
            raw::find(reply.document(), "conversationId")?.and_then(|id| id.number()).unwrap_or(1);
        let reply = self.run(sasl_continue(conversation, &proof, &login.source).as_bytes()).await?;
        proving.verify(payload_of(reply.document())?)?;
        if is_done(reply.document())? {
            return Ok(());
        }
        let reply = self.run(sasl_continue(conversation, "", &login.source).as_bytes()).await?;
        if is_done(reply.document())? {
            Ok(())
        } else {
            Err(WireError::Protocol("a SCRAM conversation without end".to_owned()))
        }
    }

    async fn log_in_by_certificate(&mut self, login: &Login) -> Result<(), WireError> {
        let mut command = rawdoc! { "authenticate": 1, "mechanism": "MONGODB-X509", "$db": "$external" };
        if !login.username.is_empty() {
            command.append(bson::cstr!("user"), login.username.as_str());
        }
        self.run(command.as_bytes()).await.map(drop)
    }
}

fn sasl_start(scram: Scram, payload: &str, source: &str) -> RawDocumentBuf {
    rawdoc! {
        "saslStart": 1,
        "mechanism": scram.name(),
        "payload": generic_binary(payload),
        "options": { "skipEmptyExchange": true },
        "$db": source,
    }
}

fn sasl_continue(conversation: i64, payload: &str, source: &str) -> RawDocumentBuf {
    let conversation = i32::try_from(conversation).unwrap_or(1);
    rawdoc! { "saslContinue": 1, "conversationId": conversation, "payload": generic_binary(payload), "$db": source }
}

fn generic_binary(text: &str) -> Binary {
    Binary { subtype: BinarySubtype::Generic, bytes: text.as_bytes().to_vec() }
}

fn payload_of(reply: &[u8]) -> Result<&[u8], WireError> {
    raw::find(reply, "payload")?
        .filter(|payload| payload.kind == kind::BINARY)
        .and_then(|payload| payload.value.get(5..))
        .ok_or_else(|| WireError::Protocol("a SASL answer without payload".to_owned()))
}

fn is_done(reply: &[u8]) -> Result<bool, WireError> {
    Ok(raw::find(reply, "done")?.and_then(|done| done.number()) == Some(1))
}

fn process_of(hello: &[u8]) -> Result<Vec<u8>, WireError> {
    match raw::find(hello, "topologyVersion")? {
        Some(version) if version.kind == kind::DOCUMENT => {
            Ok(raw::find(version.value, "processId")?.map(|id| id.value.to_vec()).unwrap_or_default())
        }
        _ => Ok(Vec::new()),
    }
}

fn mechanisms_of(hello: &[u8]) -> Result<Vec<String>, WireError> {
    match raw::find(hello, "saslSupportedMechs")? {
        Some(list) if list.kind == kind::ARRAY => {
            raw::elements(list.value).map(|item| Ok(item?.text().unwrap_or_default().to_owned())).collect()
        }
        _ => Ok(Vec::new()),
    }
}

async fn connect(endpoint: &Endpoint, tls: Option<&Arc<rustls::ClientConfig>>) -> Result<Stream, WireError> {
    let address = endpoint.to_string();
    let addresses: Vec<_> = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port))
        .await
        .map_err(|source| WireError::Resolve { host: endpoint.host.clone(), source })?
        .collect();
    let tcp = TcpStream::connect(addresses.as_slice())
        .await
        .map_err(|source| WireError::Connect { address: address.clone(), source })?;
    tcp.set_nodelay(true).map_err(|source| WireError::Connect { address: address.clone(), source })?;
    let Some(config) = tls else { return Ok(Stream::Plain(tcp)) };
    let name = ServerName::try_from(endpoint.host.clone()).map_err(|_| {
        WireError::TlsSetup(format!("{} is no name that a certificate can carry", endpoint.host))
    })?;
    let stream = TlsConnector::from(Arc::clone(config))
        .connect(name, tcp)
        .await
        .map_err(|source| WireError::Tls { address, source })?;
    Ok(Stream::Tls(Box::new(stream)))
}

/// A plain or a TLS stream.
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
