//! Redis 8: nothing persisted and no password unless asked for.
//!
//! Readiness is `PONG`, so a server that still loads its data set (`-LOADING`) is not ready.
//! Refuses clusters; for Sentinels see [`super::Sentinel`].

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use super::certificate::Certificates;
use super::percent_encoded;
use super::port::free_port;
use super::process::{Folder, Launch, Process, ServerStatus, StartError};
use crate::engines::{EngineKind, locate};

const NAME: &str = "redis";
/// The folder of the configuration file, which is replaced when the server keeps changes.
const CONFIG_FOLDER: &str = "etc";

/// Options and values of a command line as lines of a configuration file.
fn configuration(arguments: &[OsString]) -> String {
    let line = |pair: &[OsString]| {
        let name = pair[0].to_string_lossy().trim_start_matches("--").to_owned();
        let value = pair[1].to_string_lossy().replace('\\', "\\\\").replace('"', "\\\"");
        format!("{name} \"{value}\"\n")
    };
    arguments.chunks_exact(2).map(line).collect()
}

/// How a Redis is to be started. Made by [`Redis::options`], ended by [`RedisOptions::start`].
#[derive(Clone, Debug)]
pub struct RedisOptions {
    password: Option<String>,
    append_only: bool,
    tls: bool,
    settings: Vec<(String, String)>,
    folder: Option<PathBuf>,
    config_file: bool,
    engine: EngineKind,
}

impl RedisOptions {
    /// A Valkey instead of a Redis.
    pub fn valkey(mut self) -> Self {
        self.engine = EngineKind::Valkey;
        self
    }

    /// Asks for this password of the default user (`requirepass`).
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// Keeps an append-only file, so that data outlives a restart.
    pub fn append_only(mut self) -> Self {
        self.append_only = true;
        self
    }

    /// Listens for TLS on a port beside the plain one; see [`Redis::tls_port`] and [`Redis::certificates`].
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// A setting as in `redis.conf`, its value one argument; an empty value is passed as such.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Has everything from a configuration file, in which it can keep changes, instead of its command line; see [`Redis::config_file`].
    pub fn config_file(mut self) -> Self {
        self.config_file = true;
        self
    }

    /// Keeps data and log in this folder, which stays when the server ends; found data is used again.
    pub fn in_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// No Redis installed, or it ended or did not answer; the text holds the end of its log.
    pub fn start(self) -> Result<Redis, StartError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.clone().attempt() {
                Err(error) if attempts < 5 && error.log_tells(&["Address already in use"]) => {}
                outcome => return outcome,
            }
        }
    }

    fn attempt(self) -> Result<Redis, StartError> {
        let program = locate(self.engine)?.program;
        let io_error = |error: io::Error| StartError::prepare(NAME, error);
        let folder = Folder::create(self.folder.as_deref(), None).map_err(io_error)?;
        let data = folder.path().join("data");
        fs::create_dir_all(&data).map_err(io_error)?;
        let certificates =
            self.tls.then(|| Certificates::create(folder.path(), None)).transpose().map_err(io_error)?;
        let port = free_port();
        let tls_port = certificates.as_ref().map(|_| free_port());
        let mut arguments = self.command_line(port, &data, tls_port.zip(certificates.as_ref()));
        if self.config_file {
            let path = folder.path().join(CONFIG_FOLDER).join("redis.conf");
            fs::create_dir_all(folder.path().join(CONFIG_FOLDER)).map_err(io_error)?;
            fs::write(&path, configuration(&arguments)).map_err(io_error)?;
            arguments = vec![path.into()];
        }
        let launch = Launch { name: NAME, program, arguments, user: None, abandon: Signal::KILL };
        let mut redis = Redis {
            process: Process::new(launch, folder),
            port,
            tls_port,
            password: self.password,
            certificates,
        };
        redis.launch()?;
        Ok(redis)
    }

    fn command_line(&self, port: u16, data: &Path, tls: Option<(u16, &Certificates)>) -> Vec<OsString> {
        let append_only = if self.append_only { "yes" } else { "no" };
        let mut settings: Vec<(&str, OsString)> = vec![
            ("bind", "127.0.0.1".into()),
            ("port", port.to_string().into()),
            ("dir", data.into()),
            ("save", "".into()),
            ("appendonly", append_only.into()),
            ("enable-debug-command", "local".into()),
        ];
        if let Some(password) = &self.password {
            settings.push(("requirepass", password.into()));
        }
        if let Some((port, files)) = tls {
            settings.push(("tls-port", port.to_string().into()));
            settings.push(("tls-cert-file", (&files.certificate).into()));
            settings.push(("tls-key-file", (&files.key).into()));
            settings.push(("tls-ca-cert-file", (&files.authority).into()));
            settings.push(("tls-auth-clients", "no".into()));
        }
        settings.extend(self.settings.iter().map(|(name, value)| (name.as_str(), value.into())));
        settings.into_iter().flat_map(|(name, value)| [format!("--{name}").into(), value]).collect()
    }
}

/// A running Redis, ended on drop.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    port: u16,
    tls_port: Option<u16>,
    password: Option<String>,
    certificates: Option<Certificates>,
}

impl Redis {
    /// A server without password and persistence.
    ///
    /// # Errors
    /// As [`RedisOptions::start`].
    pub fn start() -> Result<Self, StartError> {
        Self::options().start()
    }

    /// The defaults of [`Redis::start`], to be changed.
    pub fn options() -> RedisOptions {
        RedisOptions {
            password: None,
            append_only: false,
            tls: false,
            settings: Vec::new(),
            folder: None,
            config_file: false,
            engine: EngineKind::Redis,
        }
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port for TLS when started with [`RedisOptions::tls`].
    pub fn tls_port(&self) -> Option<u16> {
        self.tls_port
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// A connection string with the password, if there is one.
    pub fn uri(&self) -> String {
        self.uri_through(self.address())
    }

    /// The same through another address, such as a [`crate::FaultProxy`]'s.
    pub fn uri_through(&self, address: SocketAddr) -> String {
        match &self.password {
            None => format!("redis://{address}/"),
            Some(password) => format!("redis://:{}@{address}/", percent_encoded(password)),
        }
    }

    /// The certificates when started with [`RedisOptions::tls`].
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// The folder that holds `data/` and the log.
    pub fn dir(&self) -> &Path {
        self.process.dir()
    }

    /// The configuration file when started with [`RedisOptions::config_file`].
    pub fn config_file(&self) -> PathBuf {
        self.dir().join(CONFIG_FOLDER).join("redis.conf")
    }

    /// The log file.
    pub fn log(&self) -> PathBuf {
        self.process.log()
    }

    /// The process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// Whether it runs.
    pub fn status(&mut self) -> ServerStatus {
        self.process.status()
    }

    /// Shuts it down in order and waits; what it persisted stays for [`Redis::restart`].
    pub fn stop(&mut self) {
        self.process.stop(Signal::TERM);
    }

    /// Kills it (SIGKILL) and waits; what it persisted stays for [`Redis::restart`].
    pub fn kill9(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same port and data, after an orderly stop if it still runs.
    ///
    /// # Errors
    /// As [`RedisOptions::start`].
    pub fn restart(&mut self) -> Result<(), StartError> {
        self.stop();
        self.launch()
    }

    fn launch(&mut self) -> Result<(), StartError> {
        let (port, password) = (self.port, self.password.clone());
        self.process.start(|| pong(port, password.as_deref()).unwrap_or(false))
    }
}

/// Whether the server answers `PING`, after `AUTH` when there is a password (RESP).
fn pong(port: u16, password: Option<&str>) -> io::Result<bool> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut expected = String::new();
    if let Some(password) = password {
        write!(stream, "*2\r\n$4\r\nAUTH\r\n${}\r\n{password}\r\n", password.len())?;
        expected.push_str("+OK\r\n");
    }
    stream.write_all(b"*1\r\n$4\r\nPING\r\n")?;
    expected.push_str("+PONG\r\n");
    let mut answer = vec![0; expected.len()];
    // A shorter answer is an error text; the server closes nothing, so the first byte decides.
    stream.read_exact(&mut answer[..1])?;
    if answer[0] != b'+' {
        return Ok(false);
    }
    stream.read_exact(&mut answer[1..])?;
    Ok(answer == expected.as_bytes())
}
