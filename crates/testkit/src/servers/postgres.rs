//! PostgreSQL 18: a cluster copied from a template, superuser `postgres`.
//!
//! `initdb` takes about a second, a copy much less: the first server of an installation leaves its data folder in the
//! cache, later ones copy it. PostgreSQL refuses to run as root; under root everything runs as `nobody`, see
//! [`crate::engines::cache`].
//!
//! Readiness is an answer to a startup packet that is a request for authentication, not "the database system is
//! starting up". `fsync` is off: these servers are killed, the machine under them is not.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use super::certificate::Certificates;
use super::percent_encoded;
use super::port::free_port;
use super::process::{Folder, Launch, Process, ServerStatus, StartError, User};
use crate::engines::cache::Cache;
use crate::engines::{Engine, EngineKind, locate};

const NAME: &str = "postgres";
const SUPERUSER: &str = "postgres";
const TEMPLATE_PASSWORD: &str = "template";
/// Raised when the arguments of `initdb` change.
const TEMPLATE_REVISION: u32 = 1;

/// How a PostgreSQL is to be started. Made by [`Postgres::options`], ended by [`PostgresOptions::start`].
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    password: Option<String>,
    tls: bool,
    parameters: BTreeMap<String, String>,
    folder: Option<PathBuf>,
}

impl PostgresOptions {
    /// Asks for this password of `postgres` (SCRAM-SHA-256), also for replication connections.
    pub fn scram(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// Accepts TLS beside plain connections; see [`Postgres::certificates`].
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// A configuration parameter (`-c name=value`).
    pub fn parameter(mut self, name: &str, value: &str) -> Self {
        self.parameters.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Keeps data and log in this folder, which stays when the server ends; found data is used again, whoever put it there.
    pub fn in_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Starts it and waits until it takes connections.
    ///
    /// # Errors
    /// No PostgreSQL installed, or it ended or did not answer; the text holds the end of its log.
    pub fn start(self) -> Result<Postgres, StartError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.clone().attempt() {
                Err(error) if attempts < 5 && error.log_tells(&["Address already in use"]) => {}
                outcome => return outcome,
            }
        }
    }

    fn attempt(self) -> Result<Postgres, StartError> {
        let engine = locate(EngineKind::Postgres)?;
        let user = User::unprivileged();
        let io_error = |error: io::Error| StartError::prepare(NAME, error);
        let folder = Folder::create(self.folder.as_deref(), user).map_err(io_error)?;
        let data = folder.path().join("data");
        let fresh = !data.join("PG_VERSION").exists();
        if fresh {
            create_cluster(&engine, &data, user)?;
        } else if let Some(User { uid, gid }) = user {
            let mut give = Command::new("chown");
            run_as(None, give.args(["--recursive", &format!("{uid}:{gid}")]).arg(&data))?;
        }
        write_access(&data, self.password.is_some(), user).map_err(io_error)?;
        let certificates =
            self.tls.then(|| Certificates::create(folder.path(), user)).transpose().map_err(io_error)?;
        let port = free_port();
        let arguments = self.command_line(port, &data, certificates.as_ref());
        let launch = Launch { name: NAME, program: engine.program, arguments, user, abandon: Signal::QUIT };
        let mut postgres =
            Postgres { process: Process::new(launch, folder), port, password: self.password, certificates };
        postgres.launch()?;
        if fresh {
            postgres.set_password()?;
        }
        Ok(postgres)
    }

    fn command_line(&self, port: u16, data: &Path, certificates: Option<&Certificates>) -> Vec<OsString> {
        let mut settings = BTreeMap::from([
            ("listen_addresses".to_owned(), "127.0.0.1".to_owned()),
            ("port".to_owned(), port.to_string()),
            ("unix_socket_directories".to_owned(), String::new()),
            ("fsync".to_owned(), "off".to_owned()),
            ("shared_buffers".to_owned(), "32MB".to_owned()),
            ("logging_collector".to_owned(), "off".to_owned()),
        ]);
        if let Some(files) = certificates {
            settings.insert("ssl".to_owned(), "on".to_owned());
            settings.insert("ssl_cert_file".to_owned(), files.certificate.display().to_string());
            settings.insert("ssl_key_file".to_owned(), files.key.display().to_string());
        }
        settings.extend(self.parameters.clone());
        let mut line = vec![OsString::from("-D"), data.into()];
        for (name, value) in settings {
            line.extend(["-c".into(), format!("{name}={value}").into()]);
        }
        line
    }
}

/// A running PostgreSQL, ended on drop.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    port: u16,
    password: Option<String>,
    certificates: Option<Certificates>,
}

impl Postgres {
    /// A server that asks `postgres` for no password.
    ///
    /// # Errors
    /// As [`PostgresOptions::start`].
    pub fn start() -> Result<Self, StartError> {
        Self::options().start()
    }

    /// The defaults of [`Postgres::start`], to be changed.
    pub fn options() -> PostgresOptions {
        PostgresOptions { password: None, tls: false, parameters: BTreeMap::new(), folder: None }
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// A connection string of the superuser to database `postgres`, with the password if there is one.
    pub fn uri(&self) -> String {
        self.uri_of("postgres")
    }

    /// The same to another database.
    pub fn uri_of(&self, database: &str) -> String {
        self.uri_through(self.address(), database)
    }

    /// The same through another address, such as a [`crate::FaultProxy`]'s.
    pub fn uri_through(&self, address: SocketAddr, database: &str) -> String {
        match &self.password {
            None => format!("postgresql://{SUPERUSER}@{address}/{database}"),
            Some(password) => {
                format!("postgresql://{SUPERUSER}:{}@{address}/{database}", percent_encoded(password))
            }
        }
    }

    /// Runs statements as the superuser in a database, for preparing a test; blocks, also inside a runtime.
    ///
    /// # Errors
    /// Those of the server.
    pub fn execute(&self, database: &str, statements: &str) -> Result<(), tokio_postgres::Error> {
        execute(&self.uri_of(database), statements)
    }

    /// The first column of a query's rows, as text, asked as the superuser; blocks, also inside a runtime.
    ///
    /// # Panics
    /// When the server refuses, or a value is NULL.
    pub fn texts(&self, database: &str, query: &str) -> Vec<String> {
        let work = async {
            let (client, connection) =
                tokio_postgres::connect(&self.uri_of(database), tokio_postgres::NoTls).await?;
            tokio::spawn(connection);
            client.simple_query(query).await
        };
        let text = |message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).expect("a value").to_owned()),
            _ => None,
        };
        on_a_runtime(work).expect("an answer").into_iter().filter_map(text).collect()
    }

    /// Creates an empty database with a name of its own and returns the name.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn create_database(&self) -> String {
        let name = super::unique_database();
        self.execute("postgres", &format!("CREATE DATABASE \"{name}\"")).expect("create a database");
        name
    }

    /// The certificates when started with [`PostgresOptions::tls`].
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// The folder that holds `data/` and the log.
    pub fn dir(&self) -> &Path {
        self.process.dir()
    }

    /// Makes a folder below [`Postgres::dir`] that the server's user owns: a place for a tablespace, or for the data of another server.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn make_folder(&self, name: &str) -> PathBuf {
        let folder = self.dir().join(name);
        fs::create_dir(&folder).expect("a new folder");
        if let Some(user) = User::unprivileged() {
            chown(&folder, Some(user.uid), Some(user.gid)).expect("a folder of the server's user");
        }
        folder
    }

    /// The log file.
    pub fn log(&self) -> PathBuf {
        self.process.log()
    }

    /// The postmaster's process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// Whether it runs.
    pub fn status(&mut self) -> ServerStatus {
        self.process.status()
    }

    /// Shuts it down in order (fast mode) and waits; the data stays for [`Postgres::restart`].
    pub fn stop(&mut self) {
        self.process.stop(Signal::INT);
    }

    /// Kills the postmaster (SIGKILL) and waits; its children end when they notice. The data stays.
    pub fn kill9(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same port and data, after an orderly stop if it still runs.
    ///
    /// # Errors
    /// As [`PostgresOptions::start`].
    pub fn restart(&mut self) -> Result<(), StartError> {
        self.stop();
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.launch() {
                // Children of a killed postmaster hold its shared memory until they notice.
                Err(error) if attempts < 100 && error.log_tells(&["is still in use"]) => {
                    thread::sleep(Duration::from_millis(50));
                    fs::remove_file(self.log()).map_err(|error| StartError::prepare(NAME, error))?;
                }
                outcome => return outcome,
            }
        }
    }

    fn launch(&mut self) -> Result<(), StartError> {
        let port = self.port;
        self.process.start(|| takes_connections(port).unwrap_or(false))
    }

    fn set_password(&self) -> Result<(), StartError> {
        let Some(password) = &self.password else { return Ok(()) };
        let uri = format!("postgresql://{SUPERUSER}:{TEMPLATE_PASSWORD}@{}/postgres", self.address());
        let statement = format!("ALTER ROLE {SUPERUSER} PASSWORD '{}'", password.replace('\'', "''"));
        execute(&uri, &statement).map_err(|error| StartError::prepare(NAME, error))
    }
}

/// Makes a data folder: a copy of the template, which is made first if this installation has none.
fn create_cluster(engine: &Engine, data: &Path, user: Option<User>) -> Result<(), StartError> {
    let template = template(engine, user)?;
    let mut copy = Command::new("cp");
    copy.args(["--archive", "--reflink=auto", "--no-target-directory"]).arg(&template).arg(data);
    run_as(user, &mut copy)
}

fn template(engine: &Engine, user: Option<User>) -> Result<PathBuf, StartError> {
    let templates = Cache::open(&mut |_| ())?.templates()?;
    let owner = user.map_or(rustix::process::geteuid().as_raw(), |user| user.uid);
    let template = templates.join(format!("postgres-{}-{TEMPLATE_REVISION}-{owner}", engine.version));
    if template.join("PG_VERSION").exists() {
        return Ok(template);
    }
    let io_error = |error: io::Error| StartError::prepare(NAME, error);
    let making = tempfile::Builder::new().prefix(".initdb-").tempdir_in(&templates).map_err(io_error)?;
    let password = making.path().join("password");
    fs::write(&password, TEMPLATE_PASSWORD).map_err(io_error)?;
    if let Some(user) = user {
        for path in [making.path(), &password] {
            chown(path, Some(user.uid), Some(user.gid)).map_err(io_error)?;
        }
    }
    let mut initdb = Command::new(engine.tool("initdb"));
    initdb.arg("--pgdata").arg(making.path().join("data")).arg("--pwfile").arg(&password);
    initdb.args(["--username", SUPERUSER, "--auth", "scram-sha-256", "--encoding", "UTF8", "--no-sync"]);
    initdb.args([
        "--locale",
        "C",
        "--locale-provider",
        "builtin",
        "--builtin-locale",
        "C.UTF-8",
        "--data-checksums",
    ]);
    run_as(user, &mut initdb)?;
    // Another process may have been quicker; its template is as good.
    if let Err(error) = fs::rename(making.path().join("data"), &template)
        && !template.join("PG_VERSION").exists()
    {
        return Err(io_error(error));
    }
    Ok(template)
}

fn run_as(user: Option<User>, command: &mut Command) -> Result<(), StartError> {
    User::apply(user, command);
    let shown = command.get_program().to_string_lossy().into_owned();
    let output = command
        .current_dir("/")
        .output()
        .map_err(|error| StartError::prepare(NAME, format!("{shown}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(StartError::prepare(NAME, format!("{shown} ended with {}: {}", output.status, reason.trim())))
}

fn write_access(data: &Path, scram: bool, user: Option<User>) -> io::Result<()> {
    let path = data.join("pg_hba.conf");
    let method = if scram { "scram-sha-256" } else { "trust" };
    fs::write(
        &path,
        format!("host all all 127.0.0.1/32 {method}\nhost replication all 127.0.0.1/32 {method}\n"),
    )?;
    user.map_or(Ok(()), |user| chown(&path, Some(user.uid), Some(user.gid)))
}

/// Sends a startup packet and reads one byte of the answer: `R` asks for authentication, `E` is an error such as 57P03
/// (manual, "Message Formats").
fn takes_connections(port: u16) -> io::Result<bool> {
    const PROTOCOL: i32 = 3 << 16;
    let parameters = format!("user\0{SUPERUSER}\0database\0postgres\0\0");
    let length = i32::try_from(8 + parameters.len()).map_err(io::Error::other)?;
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let packet = [&length.to_be_bytes()[..], &PROTOCOL.to_be_bytes(), parameters.as_bytes()].concat();
    stream.write_all(&packet)?;
    let mut kind = [0];
    stream.read_exact(&mut kind)?;
    Ok(kind == *b"R")
}

fn execute(uri: &str, statements: &str) -> Result<(), tokio_postgres::Error> {
    let work = async {
        let (client, connection) = tokio_postgres::connect(uri, tokio_postgres::NoTls).await?;
        let connection = tokio::spawn(connection);
        let outcome = client.batch_execute(statements).await;
        drop(client);
        // The outcome of the statements is the answer; the connection ends with its client.
        let _ = connection.await;
        outcome
    };
    on_a_runtime(work)
}

/// Does `work` on a thread of its own, since a runtime may not be entered from within another.
fn on_a_runtime<T: Send>(work: impl Future<Output = T> + Send) -> T {
    thread::scope(|scope| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        scope.spawn(move || runtime.block_on(work)).join().expect("the connection's thread")
    })
}
