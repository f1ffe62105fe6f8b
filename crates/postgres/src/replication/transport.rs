//! The stream below a replication connection: TCP or a Unix socket, with TLS when both sides want it.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_postgres::config::Host;
use tokio_rustls::TlsConnector;

use super::channel::end_point;
use super::error::WireError;
use crate::config::{Settings, TlsMode};
use crate::tls;

/// What a connection reads from and writes to.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// An open stream.
pub(super) struct Opened {
    pub(super) stream: Box<dyn Transport>,
    /// Whether what is sent is encrypted, or never leaves the machine.
    pub(super) private: bool,
    /// What tells a TLS connection to this server apart from one to another, if anything does.
    pub(super) end_point: Option<Vec<u8>>,
}

impl Opened {
    /// A stream without TLS.
    fn plain(stream: impl Transport + 'static, private: bool) -> Self {
        Self { stream: Box::new(stream), private, end_point: None }
    }
}

/// Opens a stream to the first host that takes a connection.
pub(super) async fn open(settings: &Settings) -> Result<Opened, WireError> {
    let driver = &settings.driver;
    let port =
        |index: usize| driver.get_ports().get(index).or(driver.get_ports().first()).copied().unwrap_or(5432);
    let count = driver.get_hosts().len().max(driver.get_hostaddrs().len());
    let mut failed = WireError::Setup("it names no host".to_owned());
    for index in 0..count {
        let place = Place {
            host: driver.get_hosts().get(index),
            address: driver.get_hostaddrs().get(index).map(|ip| SocketAddr::from((*ip, port(index)))),
            port: port(index),
        };
        match place.open(settings).await {
            Ok(opened) => return Ok(opened),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// One place where the server may be.
struct Place<'a> {
    host: Option<&'a Host>,
    address: Option<SocketAddr>,
    port: u16,
}

impl Place<'_> {
    async fn open(&self, settings: &Settings) -> Result<Opened, WireError> {
        let (tcp, name) = match (self.address, self.host) {
            #[cfg(unix)]
            (None, Some(Host::Unix(folder))) => {
                let socket = folder.join(format!(".s.PGSQL.{}", self.port));
                let stream = tokio::net::UnixStream::connect(socket).await.map_err(WireError::Connect)?;
                return Ok(Opened::plain(stream, true));
            }
            (None, Some(Host::Tcp(name))) => (connect(&resolve(name, self.port).await?).await?, name.clone()),
            (Some(address), Some(Host::Tcp(name))) => (connect(&[address]).await?, name.clone()),
            (Some(address), _) => (connect(&[address]).await?, address.ip().to_string()),
            (None, None) => return Err(WireError::Setup("it names no host".to_owned())),
        };
        secured(tcp, &name, settings).await
    }
}

async fn resolve(name: &str, port: u16) -> Result<Vec<SocketAddr>, WireError> {
    match tokio::net::lookup_host((name, port)).await {
        Ok(addresses) => Ok(addresses.collect()),
        Err(source) => Err(WireError::Resolve { host: name.to_owned(), source }),
    }
}

async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, WireError> {
    let tcp = TcpStream::connect(addresses).await.map_err(WireError::Connect)?;
    tcp.set_nodelay(true).map_err(WireError::Connect)?;
    Ok(tcp)
}

/// Asks for TLS and begins it. One byte is read for the answer and no more: what a stranger slipped in behind it is taken for TLS and fails.
async fn secured(mut tcp: TcpStream, name: &str, settings: &Settings) -> Result<Opened, WireError> {
    if settings.tls_mode == TlsMode::Disable {
        return Ok(Opened::plain(tcp, false));
    }
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    tcp.write_all(&request).await.map_err(WireError::Broken)?;
    match (tcp.read_u8().await.map_err(WireError::Broken)?, settings.tls_mode) {
        (b'S', _) => {}
        (b'N', TlsMode::Prefer) => return Ok(Opened::plain(tcp, false)),
        (b'N', _) => return Err(WireError::TlsRefused),
        (other, _) => return Err(WireError::Protocol(format!("it answered a request for TLS with {other}"))),
    }
    let name = ServerName::try_from(name.to_owned())
        .map_err(|_| WireError::Setup(format!("{name} is no name that a certificate can carry")))?;
    let config = tls::client(settings).map_err(|error| WireError::Setup(error.to_string()))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(WireError::Tls)?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let end_point = certificate.and_then(|certificate| end_point(certificate));
    Ok(Opened { stream: Box::new(stream), private: true, end_point })
}
