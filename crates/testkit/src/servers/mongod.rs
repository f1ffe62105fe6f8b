//! mongod: a one-node replica set (or a standalone), small caches, fail points allowed.
//!
//! Readiness is `hello` answering over the wire: any answer for a standalone, `isWritablePrimary` for a replica set.
//! The first talk needs no credentials: `replSetInitiate` and the first `createUser` fall under the localhost exception
//! (MongoDB manual, "Localhost Exception").
//!
//! [`Mongod::oracle`] and [`db_hash`] go through the official driver, so that what the product does with its own wire
//! code is judged by somebody else. [`super::ReplicaSet`] makes sets of several.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bson::{Bson, Document, doc};
use rustix::process::Signal;

use super::certificate::Certificates;
use super::percent_encoded;
use super::port::free_port;
use super::process::{Folder, Launch, Process, ServerStatus, StartError};
use crate::engines::{EngineKind, locate};

const NAME: &str = "mongod";
const SET: &str = "rs0";

/// How a mongod is to be started. Made by [`Mongod::options`], ended by [`MongodOptions::start`].
#[derive(Clone, Debug)]
pub struct MongodOptions {
    standalone: bool,
    /// One of several members: somebody else initiates the set, and any answer counts as ready.
    member: bool,
    oplog_mb: u64,
    root: Option<(String, String)>,
    tls: bool,
    cache_gib: f64,
    parameters: BTreeMap<String, String>,
    arguments: Vec<String>,
    folder: Option<PathBuf>,
}

impl MongodOptions {
    /// A standalone server instead of a one-node replica set: no oplog, no snapshot reads.
    pub fn standalone(mut self) -> Self {
        self.standalone = true;
        self
    }

    /// A member of a set that somebody else initiates.
    pub fn member(mut self) -> Self {
        self.member = true;
        self
    }

    /// Asks for authentication and creates this user with role `root` on `admin`.
    pub fn auth(mut self, user: &str, password: &str) -> Self {
        self.root = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// Accepts TLS beside plain connections (`preferTLS`); see [`Mongod::certificates`].
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// The WiredTiger cache in GiB, at least 0.25 (the default).
    pub fn cache_gib(mut self, size: f64) -> Self {
        self.cache_gib = size;
        self
    }

    /// The oplog's size in MiB, 64 unless said: a small one is soon overwritten.
    pub fn oplog_mb(mut self, size: u64) -> Self {
        self.oplog_mb = size;
        self
    }

    /// A server parameter, set at start (`--setParameter`).
    pub fn parameter(mut self, name: &str, value: &str) -> Self {
        self.parameters.insert(name.to_owned(), value.to_owned());
        self
    }

    /// A further argument.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Keeps data and log in this folder, which stays when the server ends; found data is used again.
    pub fn in_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Starts it and waits until it takes writes.
    ///
    /// # Errors
    /// No mongod installed, or it ended or did not answer; the text holds the end of its log.
    pub fn start(self) -> Result<Mongod, StartError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.clone().attempt() {
                Err(error) if attempts < 5 && error.log_tells(&["Address already in use"]) => {}
                outcome => return outcome,
            }
        }
    }

    fn attempt(self) -> Result<Mongod, StartError> {
        let program = locate(EngineKind::Mongod)?.program;
        let io_error = |error: io::Error| StartError::prepare(NAME, error);
        let folder = Folder::create(self.folder.as_deref(), None).map_err(io_error)?;
        let port = free_port();
        let data = folder.path().join("data");
        let fresh = !data.join("WiredTiger").exists();
        fs::create_dir_all(&data).map_err(io_error)?;
        let certificates =
            self.tls.then(|| Certificates::create(folder.path(), None)).transpose().map_err(io_error)?;
        let arguments = self.command_line(port, folder.path(), certificates.as_ref()).map_err(io_error)?;
        let launch = Launch { name: NAME, program, arguments, user: None, abandon: Signal::KILL };
        let mut mongod = Mongod { process: Process::new(launch, folder), port, options: self, certificates };
        mongod.process.start(|| hello(port).is_ok())?;
        if fresh {
            mongod.found()?;
        }
        mongod.await_ready()?;
        if fresh {
            mongod.create_root()?;
        }
        Ok(mongod)
    }

    fn command_line(
        &self,
        port: u16,
        folder: &Path,
        certificates: Option<&Certificates>,
    ) -> io::Result<Vec<OsString>> {
        let mut line: Vec<OsString> = Vec::new();
        let mut push = |words: &[&str]| line.extend(words.iter().map(OsString::from));
        let port = port.to_string();
        let cache = self.cache_gib.to_string();
        push(&[
            "--bind_ip",
            "127.0.0.1",
            "--port",
            &port,
            "--nounixsocket",
            "--wiredTigerCacheSizeGB",
            &cache,
        ]);
        let mut parameters = BTreeMap::from([
            ("enableTestCommands".to_owned(), "1".to_owned()),
            ("ttlMonitorSleepSecs".to_owned(), "1".to_owned()),
            ("minSnapshotHistoryWindowInSeconds".to_owned(), "300".to_owned()),
            ("diagnosticDataCollectionEnabled".to_owned(), "false".to_owned()),
            ("shutdownTimeoutMillisForSignaledShutdown".to_owned(), "100".to_owned()),
        ]);
        parameters.extend(self.parameters.clone());
        for (name, value) in &parameters {
            push(&["--setParameter", &format!("{name}={value}")]);
        }
        if !self.standalone {
            push(&["--replSet", SET, "--oplogSize", &self.oplog_mb.to_string()]);
        }
        if self.root.is_some() {
            push(&["--auth"]);
        }
        let more: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        push(&more);
        line.push("--dbpath".into());
        line.push(folder.join("data").into());
        if self.root.is_some() && !self.standalone {
            line.push("--keyFile".into());
            line.push(key_file(folder)?.into());
        }
        if let Some(certificates) = certificates {
            line.extend(
                ["--tlsMode", "preferTLS", "--tlsAllowConnectionsWithoutCertificates"].map(OsString::from),
            );
            line.push("--tlsCertificateKeyFile".into());
            line.push((&certificates.certificate_and_key).into());
            line.push("--tlsCAFile".into());
            line.push((&certificates.authority).into());
        }
        Ok(line)
    }
}

/// Members of a replica set with authentication know each other by a key file, also when there is one member.
fn key_file(folder: &Path) -> io::Result<PathBuf> {
    let path = folder.join("keyfile");
    if !path.exists() {
        fs::write(&path, "aKeyThatProtectsNothingButTests")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    }
    Ok(path)
}

/// A running mongod, ended on drop.
#[derive(Debug)]
pub struct Mongod {
    process: Process,
    port: u16,
    options: MongodOptions,
    certificates: Option<Certificates>,
}

impl Mongod {
    /// A one-node replica set named `rs0`, no authentication, 0.25 GiB of cache, 64 MiB of oplog.
    ///
    /// # Errors
    /// As [`MongodOptions::start`].
    pub fn start() -> Result<Self, StartError> {
        Self::options().start()
    }

    /// The defaults of [`Mongod::start`], to be changed.
    pub fn options() -> MongodOptions {
        MongodOptions {
            standalone: false,
            member: false,
            oplog_mb: 64,
            root: None,
            tls: false,
            cache_gib: 0.25,
            parameters: BTreeMap::new(),
            arguments: Vec::new(),
            folder: None,
        }
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// A connection string with the credentials of [`MongodOptions::auth`], if any, for a direct connection.
    pub fn uri(&self) -> String {
        self.uri_through(self.address())
    }

    /// The same through another address, such as a [`crate::FaultProxy`]'s.
    pub fn uri_through(&self, address: SocketAddr) -> String {
        match &self.options.root {
            None => format!("mongodb://{address}/?directConnection=true"),
            Some((user, password)) => {
                let (user, password) = (percent_encoded(user), percent_encoded(password));
                format!("mongodb://{user}:{password}@{address}/?directConnection=true&authSource=admin")
            }
        }
    }

    /// The replica set's name, unless standalone.
    pub fn replica_set(&self) -> Option<&'static str> {
        (!self.options.standalone).then_some(SET)
    }

    /// The certificates when started with [`MongodOptions::tls`].
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// The folder that holds `data/` and the log.
    pub fn dir(&self) -> &Path {
        self.process.dir()
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

    /// Shuts it down in order and waits; the data stays for [`Mongod::restart`].
    pub fn stop(&mut self) {
        self.process.stop(Signal::TERM);
    }

    /// Kills it (SIGKILL) and waits; the data stays for [`Mongod::restart`].
    pub fn kill9(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same port and data, after an orderly stop if it still runs.
    ///
    /// # Errors
    /// As [`MongodOptions::start`].
    pub fn restart(&mut self) -> Result<(), StartError> {
        self.stop();
        let port = self.port;
        self.process.start(|| hello(port).is_ok())?;
        self.await_ready()
    }

    /// A client of the official driver, bound to the current tokio runtime.
    pub async fn oracle(&self) -> mongodb::Client {
        mongodb::Client::with_uri_str(self.uri()).await.expect("the test kit's own connection string")
    }

    /// The server's own hash of every collection of a database, see [`db_hash`].
    ///
    /// # Errors
    /// Those of the command.
    pub async fn db_hash(&self, database: &str) -> mongodb::error::Result<BTreeMap<String, String>> {
        db_hash(&self.oracle().await, database).await
    }

    fn found(&self) -> Result<(), StartError> {
        if self.options.standalone || self.options.member {
            return Ok(());
        }
        self.initiate(doc! { "_id": SET, "members": [{ "_id": 0, "host": self.address().to_string() }] })
    }

    /// Makes a replica set of this configuration.
    pub(super) fn initiate(&self, configuration: Document) -> Result<(), StartError> {
        let reply = call(self.port, doc! { "replSetInitiate": configuration, "$db": "admin" });
        accept("replSetInitiate", reply)
    }

    /// Whether it is the primary now.
    pub fn is_primary(&self) -> bool {
        hello(self.port).is_ok_and(|reply| reply.get_bool("isWritablePrimary").unwrap_or(false))
    }

    fn await_ready(&mut self) -> Result<(), StartError> {
        if self.options.member { Ok(()) } else { self.await_writable() }
    }

    fn create_root(&self) -> Result<(), StartError> {
        let Some((user, password)) = &self.options.root else { return Ok(()) };
        let roles = vec![Bson::from("root")];
        let command = doc! { "createUser": user, "pwd": password, "roles": roles, "$db": "admin" };
        accept("createUser", call(self.port, command))
    }

    fn await_writable(&mut self) -> Result<(), StartError> {
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        loop {
            let answer = hello(self.port);
            if answer.as_ref().is_ok_and(|reply| reply.get_bool("isWritablePrimary").unwrap_or(false)) {
                return Ok(());
            }
            if std::time::Instant::now() > deadline || self.status() != ServerStatus::Running {
                return Err(StartError::prepare(NAME, format!("not writable; last hello: {answer:?}")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The MD5 of every collection of a database as mongod computes it (`dbHash`, MongoDB manual 6.0): documents in `_id`
/// order, capped collections in natural order. Views, and collections that the server leaves out such as
/// `system.profile`, have none.
///
/// # Errors
/// Those of the command.
pub async fn db_hash(
    client: &mongodb::Client,
    database: &str,
) -> mongodb::error::Result<BTreeMap<String, String>> {
    let reply = client.database(database).run_command(doc! { "dbHash": 1 }).await?;
    let collections = reply.get_document("collections").cloned().unwrap_or_default();
    Ok(collections.into_iter().filter_map(|(name, hash)| Some((name, hash.as_str()?.to_owned()))).collect())
}

fn accept(name: &str, reply: io::Result<Document>) -> Result<(), StartError> {
    match reply {
        Ok(reply) if reply.get_f64("ok").is_ok_and(|ok| ok == 1.0) => Ok(()),
        Ok(reply) => Err(StartError::prepare(NAME, format!("{name}: {reply}"))),
        Err(error) => Err(StartError::prepare(NAME, format!("{name}: {error}"))),
    }
}

fn hello(port: u16) -> io::Result<Document> {
    call(port, doc! { "hello": 1, "$db": "admin" })
}

/// One command over one connection (OP_MSG, one body section).
fn call(port: u16, command: Document) -> io::Result<Document> {
    const OP_MSG: i32 = 2013;
    let body = command.to_vec().map_err(io::Error::other)?;
    let length = i32::try_from(16 + 4 + 1 + body.len()).map_err(io::Error::other)?;
    let header = [length, 1, 0, OP_MSG, 0].map(i32::to_le_bytes).concat();
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(&[header.as_slice(), &[0], &body].concat())?;
    let mut head = [0; 21];
    stream.read_exact(&mut head)?;
    Document::from_reader(&mut stream).map_err(io::Error::other)
}
