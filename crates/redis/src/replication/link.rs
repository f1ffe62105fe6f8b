//! The stream below a replication link, and the lines that are spoken on it before the data.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mainstay_model::{Error, ErrorKind, Result};
use mainstay_tls::{TlsSettings, client_config};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::config::Settings;
use crate::failure::{broken, not_understood, refused, silent, turned_away, unresolved, untrusted};
use crate::sentinel;

/// How much is asked of the stream at once.
const READ_BYTES: usize = 256 * 1024;
/// The longest line that a server says.
const LINE_BYTES_MAX: usize = 4096;
/// How long the server may be silent. While its child works it sends an empty line each second; a slow disk or a long fork takes longer.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What this process is called among the replicas that a server lists. It is no address: Sentinels take up every replica whose address they can read,
/// and would count this one as a replica that is down.
const NAME: &[u8] = b"mainstay.invalid";

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection to a primary.
pub(super) struct Link {
    stream: Box<dyn Stream>,
    /// What was read and not taken.
    buffer: BytesMut,
    /// `host:port`, for errors.
    address: String,
}

impl Link {
    /// Connects and logs in.
    pub(super) async fn open(settings: &Settings) -> Result<Self> {
        let settings = sentinel::current(settings).await?;
        let settings = settings.as_ref();
        let address = settings.address();
        let connected = timeout(settings.connect_timeout, connect(settings)).await;
        let stream = connected.unwrap_or_else(|_| Err(silent(&address)))?;
        let mut link = Self { stream, buffer: BytesMut::new(), address };
        if let Some(login) = settings.login() {
            let login = login.into_iter().map(str::as_bytes);
            let words: Vec<&[u8]> = [&b"AUTH"[..]].into_iter().chain(login).collect();
            link.ask(settings, &words).await?;
        }
        Ok(link)
    }

    /// Says what kind of replica this is.
    pub(super) async fn introduce(&mut self, settings: &Settings) -> Result<()> {
        self.ask_if_known(settings, &[b"REPLCONF", b"ip-address", NAME]).await?;
        self.ask(settings, &[b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"]).await.map(drop)
    }

    /// One command that is answered with a line.
    ///
    /// # Errors
    /// What the server says instead.
    pub(super) async fn ask(&mut self, settings: &Settings, words: &[&[u8]]) -> Result<String> {
        self.send(words).await?;
        self.answer(settings).await
    }

    /// Whether the server does as it is asked. Servers that do not know the option say so and go on.
    pub(super) async fn ask_if_known(&mut self, settings: &Settings, words: &[&[u8]]) -> Result<bool> {
        match self.ask(settings, words).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::Server => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends a command.
    pub(super) async fn send(&mut self, words: &[&[u8]]) -> Result<()> {
        self.stream.write_all(&encoded(words)).await.map_err(|error| broken(&self.address, &error))
    }

    /// The next line that says something; empty ones only say that the server lives.
    pub(super) async fn answer(&mut self, settings: &Settings) -> Result<String> {
        loop {
            let line = self.line().await?;
            if let Some(refusal) = turned_away(settings, &line) {
                return Err(refusal);
            }
            if !line.is_empty() {
                return Ok(line);
            }
        }
    }

    async fn line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(not_understood(&self.address, &"a line without an end"));
            }
            if self.fill().await? == 0 {
                return Err(self.ended());
            }
        }
    }

    /// The next bytes, whatever they are; none when the server has closed the connection.
    pub(super) async fn bytes(&mut self) -> Result<Bytes> {
        if self.buffer.is_empty() {
            self.fill().await?;
        }
        Ok(self.buffer.split().freeze())
    }

    /// Gives back what belongs to what is read next.
    pub(super) fn give_back(&mut self, bytes: &[u8]) {
        let rest = std::mem::take(&mut self.buffer);
        self.buffer.extend_from_slice(bytes);
        self.buffer.extend_from_slice(&rest);
    }

    async fn fill(&mut self) -> Result<usize> {
        self.buffer.reserve(READ_BYTES);
        match timeout(SILENCE_MAX, self.stream.read_buf(&mut self.buffer)).await {
            Ok(Ok(count)) => Ok(count),
            Ok(Err(error)) => Err(broken(&self.address, &error)),
            Err(_) => Err(Error::new(
                ErrorKind::Unreachable,
                format!("{} has said nothing for {} s", self.address, SILENCE_MAX.as_secs()),
            )
            .with_hint("see whether it runs and its disk is not overloaded: `mainstay redis info`")),
        }
    }

    /// The server has closed the connection where it should not have.
    pub(super) fn ended(&self) -> Error {
        Error::new(ErrorKind::Unreachable, format!("{} closed the connection", self.address))
            .with_hint("look into the server's log: a child that failed, or an output buffer that ran over")
    }
}

/// A command as it is spoken on a link.
pub(super) fn encoded(words: &[&[u8]]) -> Vec<u8> {
    let mut command = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        command.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        command.extend_from_slice(word);
        command.extend_from_slice(b"\r\n");
    }
    command
}

async fn connect(settings: &Settings) -> Result<Box<dyn Stream>> {
    let (host, address) = (settings.host.as_str(), settings.address());
    let place = tokio::net::lookup_host((host, settings.port)).await.map_err(|_| unresolved(host))?;
    let unreached = |error: io::Error| match error.kind() {
        io::ErrorKind::ConnectionRefused => refused(&address),
        _ => broken(&address, &error),
    };
    let tcp = TcpStream::connect(place.collect::<Vec<_>>().as_slice()).await.map_err(unreached)?;
    if !settings.tls {
        return Ok(Box::new(tcp));
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|_| {
        Error::new(ErrorKind::Config, format!("{host} is no name that a certificate can carry"))
    })?;
    let ca_file = settings.ca_file.as_deref();
    let config = client_config(&TlsSettings { ca_file, ..TlsSettings::default() })?;
    let secured = TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
    Ok(Box::new(secured.map_err(|error| untrusted(&address, &error))?))
}
