//! A throw-away server on a restored folder.
//!
//! It is started by its own program, with settings on its command line that win over all that the folder brings: it listens on a socket in a
//! private folder alone, archives nothing, follows nobody, loads no libraries and runs no workers of theirs, and is promoted where its
//! recovery ends. `postgresql.conf` and `pg_hba.conf` of the folder are not read, and nothing of its configuration is written. What hot standby
//! asks to be as large as on the backed-up server comes from the control file, and is larger where a limit may have been raised since.
//! PostgreSQL refuses to run as root, so this does too.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt as _;
use mainstay_engine::{
    RelationCheck, ScratchAnswer, ScratchHost, ScratchProgress, ScratchQuery, ScratchServer, ScratchTable,
};
use mainstay_model::{Error, ErrorKind, Lsn, Result, ResultExt, Secret};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;
use tokio_postgres::types::Type;
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use crate::config::{PostgresConfig, Settings, TlsMode};
use crate::control::{self, CONTROL_BYTES};
use crate::failure::failure;
use crate::logical::ProgramPlaces;
use crate::logical::passfile::PrivateFolder;
use crate::logical::program::{Pipe, Program, Running, find};
use crate::quote;
use crate::script;
use crate::session::Session;

/// What the socket is called; the folder is private, so that no other can be meant.
const PORT: u16 = 5432;
/// The longest path of a socket.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// How long connecting may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a server may take to end after each kind of asking.
const END_TIME_MAX: Duration = Duration::from_secs(30);
/// How much is read of what a program writes.
const OUTPUT_BYTES_MAX: u64 = 64 * 1024;
/// How many lines of damage are told.
const DAMAGE_COUNT_MAX: usize = 20;

/// Settings of every such server.
const SETTINGS: &[&str] = &[
    "listen_addresses=",
    "unix_socket_group=",
    "ssl=off",
    "archive_mode=off",
    "archive_command=",
    "archive_library=",
    "archive_cleanup_command=",
    "recovery_end_command=",
    "recovery_target_action=promote",
    "hot_standby=on",
    "primary_conninfo=",
    "primary_slot_name=",
    "synchronous_standby_names=",
    "max_logical_replication_workers=0",
    "shared_preload_libraries=",
    "session_preload_libraries=",
    "local_preload_libraries=",
    "autovacuum=off",
    "default_transaction_read_only=off",
    "statement_timeout=0",
    "restart_after_crash=off",
    "shared_buffers=128MB",
    "huge_pages=off",
    "external_pid_file=",
    "logging_collector=off",
    "log_destination=stderr",
    "log_line_prefix=",
    "log_min_messages=log",
    "log_min_error_statement=panic",
    "lc_messages=C",
];

/// Settings of servers from 17 on.
const SETTINGS_17: &[&str] = &["event_triggers=off", "sync_replication_slots=off", "summarize_wal=off"];

/// How many rows of an answer are kept.
const ROW_COUNT_MAX: usize = 20;
/// How many characters of a value are kept.
const VALUE_CHARS_MAX: usize = 200;

/// Starts throw-away servers from local programs.
#[derive(Debug)]
pub struct PostgresScratch {
    places: ProgramPlaces,
    users: Vec<String>,
    /// The configured database.
    database: Option<String>,
    variables: Vec<(String, Secret)>,
}

impl PostgresScratch {
    /// With programs from `places`. The user of `config` is one who may log in, its database the one that is asked; `variables` are what fetching WAL needs in its environment.
    ///
    /// # Errors
    /// `Config` when the URL cannot be used.
    pub fn new(
        config: Option<&PostgresConfig>,
        places: ProgramPlaces,
        variables: Vec<(String, Secret)>,
    ) -> Result<Self> {
        let settings = config.map(Settings::resolve).transpose()?;
        let configured = settings.as_ref().and_then(|settings| settings.driver.get_user().map(str::to_owned));
        let database = settings.as_ref().and_then(|settings| settings.driver.get_dbname().map(str::to_owned));
        let users = configured.into_iter().chain(["postgres".to_owned()]).collect();
        Ok(Self { places, users, database, variables })
    }
}

/// The limits that a server on `folder` is given, by its control file, as settings.
fn limits(folder: &Path) -> Result<Vec<String>> {
    let path = folder.join("global/pg_control");
    let unreadable = |error: std::io::Error| {
        Error::new(ErrorKind::Storage, format!("cannot read {}: {error}", path.display()))
            .with_state("the folder is restored; no server was started")
            .with_hint("restore the set anew, or another one: `mainstay backup list --store postgres`")
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(&path).map_err(unreadable)?;
    file.take(CONTROL_BYTES as u64).read_to_end(&mut bytes).map_err(unreadable)?;
    control::limits(&bytes)
}

async fn output(running: &mut Running) -> Result<String> {
    let mut bytes = Vec::new();
    let mut output = running.take_output()?;
    let read = (&mut output).take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes).await;
    read.map_err(|error| running.broken(&error))?;
    // The rest is read, too, so that the program ends.
    tokio::io::copy(&mut output, &mut tokio::io::sink()).await.map_err(|error| running.broken(&error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[async_trait]
impl ScratchHost for PostgresScratch {
    async fn check(&self, version: &str) -> Result<()> {
        if geteuid().is_root() {
            return Err(Error::new(ErrorKind::Precondition, "PostgreSQL does not run as root")
                .with_state("nothing was changed")
                .with_hint("run the same command as the server's user: `sudo -u postgres mainstay …`"));
        }
        control::check_known(major_of(version))?;
        find("postgres", version, &self.places).await.map(drop)
    }

    fn queries(&self, file: &[u8]) -> Result<Vec<ScratchQuery>> {
        script::queries(file)
    }

    async fn start(&self, folder: &Path, version: &str) -> Result<Box<dyn ScratchServer>> {
        let program = find("postgres", version, &self.places).await?;
        let amcheck = find("pg_amcheck", version, &self.places).await;
        let private = PrivateFolder::create(&self.places.temporary)?;
        let sockets = private.path("");
        let sockets = sockets.components().collect::<PathBuf>();
        if sockets.join(format!(".s.PGSQL.{PORT}")).as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::Precondition,
                format!("{} is too long for the path of a socket", sockets.display()),
            )
            .with_hint("name a folder with a shorter path: TMPDIR=/tmp"));
        }
        let files = [
            ("config_file", private.write("postgresql.conf", b"")?),
            ("hba_file", private.write("pg_hba.conf", b"local all all trust\n")?),
            ("ident_file", private.write("pg_ident.conf", b"")?),
            ("unix_socket_directories", sockets.clone()),
        ];
        let newer = if major_of(version) >= 17 { SETTINGS_17 } else { &[] };
        let mut arguments = vec!["-D".to_owned(), folder.display().to_string()];
        let files = files.iter().map(|(name, path)| format!("{name}={}", path.display()));
        let settings = SETTINGS.iter().chain(newer).map(|&setting| setting.to_owned());
        let settings = settings.chain(limits(folder)?).chain(files);
        for setting in settings.chain([format!("port={PORT}")]) {
            arguments.extend(["-c".to_owned(), setting]);
        }
        let running = program.start_with(&arguments, &self.variables, Pipe::None)?;
        Ok(Box::new(Server {
            running,
            amcheck,
            users: self.users.clone(),
            database: self.database.clone(),
            login: None,
            sockets,
            _private: private,
        }))
    }
}

/// A server that was started.
struct Server {
    running: Running,
    amcheck: Result<Program>,
    /// Who may be able to log in.
    users: Vec<String>,
    /// The configured database.
    database: Option<String>,
    /// Who can, a superuser where one can, and a database.
    login: Option<(String, String)>,
    sockets: PathBuf,
    _private: PrivateFolder,
}

impl Server {
    fn settings(&self, user: &str, database: &str) -> Settings {
        let mut driver = tokio_postgres::Config::new();
        driver.host_path(&self.sockets).port(PORT).user(user).dbname(database).application_name("mainstay");
        driver.ssl_mode(tokio_postgres::config::SslMode::Disable).connect_timeout(CONNECT_TIME_MAX);
        Settings {
            driver,
            tls_mode: TlsMode::Disable,
            ca_file: None,
            address: "the scratch server".to_owned(),
            connect_timeout: CONNECT_TIME_MAX,
        }
    }

    /// Finds a superuser who can log in, and a database that answers; `None` while nobody is answered.
    async fn find_login(&self) -> Result<Option<(String, String)>> {
        let mut refusal = None;
        for (user, database) in self.users.iter().flat_map(|user| [(user, "postgres"), (user, "template1")]) {
            let settings = self.settings(user, database);
            let session = match Session::open(&settings).await {
                Ok(session) => session,
                // Nobody has answered, or it says that it starts up.
                Err(error) if error.kind() == ErrorKind::Auth || error.kind() == ErrorKind::NotFound => {
                    refusal = Some(error);
                    continue;
                }
                Err(_) => return Ok(None),
            };
            let superusers = session
                .rows("SELECT rolname FROM pg_roles WHERE rolsuper AND rolcanlogin ORDER BY oid")
                .await?;
            let user = superusers.first().map_or(Ok(user.as_str()), |row| session.text(row, "rolname"))?;
            return Ok(Some((user.to_owned(), database.to_owned())));
        }
        refusal.map_or(Ok(None), Err)
    }

    fn login(&self) -> Result<&(String, String)> {
        self.login.as_ref().ok_or_else(|| Error::new(ErrorKind::Internal, "the server was not waited for"))
    }

    /// The rows of a question that may take as long as it takes.
    async fn rows(&self, database: &str, query: &str) -> Result<Vec<SimpleQueryRow>> {
        let settings = self.settings(&self.login()?.0, database);
        let session = Session::open(&settings).await?;
        let messages = session.client.simple_query(query).await.map_err(|error| failure(&settings, error))?;
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        };
        Ok(messages.into_iter().filter_map(row).collect())
    }

    async fn databases(&self) -> Result<Vec<String>> {
        let query = "SELECT datname FROM pg_database WHERE datallowconn ORDER BY datname";
        Ok(texts(&self.rows(&self.login()?.1, query).await?, 0))
    }
}

/// The first number of a version.
fn major_of(version: &str) -> u32 {
    version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0)
}

fn texts(rows: &[SimpleQueryRow], column: usize) -> Vec<String> {
    rows.iter().filter_map(|row| row.try_get(column).ok().flatten().map(str::to_owned)).collect()
}

/// The beginning of a value, as text.
fn shown(value: &str) -> String {
    match value.char_indices().nth(VALUE_CHARS_MAX) {
        None => value.to_owned(),
        Some((end, _)) => format!("{}…", &value[..end]),
    }
}

/// Gathers the answer to a query.
fn gather(answer: &mut ScratchAnswer, row: &SimpleQueryRow) {
    answer.row_count += 1;
    let value = |column: usize| row.try_get(column).ok().flatten();
    if answer.is_claim && answer.untrue_row.is_none() && value(0) != Some("t") {
        answer.untrue_row = Some(answer.row_count);
    }
    if answer.rows.len() < ROW_COUNT_MAX {
        answer.rows.push((0..answer.columns.len()).map(|column| value(column).map(shown)).collect());
    }
}

#[async_trait]
impl ScratchServer for Server {
    async fn progress(&mut self) -> Result<Option<ScratchProgress>> {
        if self.running.has_ended() {
            self.running.end().await?;
            return Err(Error::new(ErrorKind::Server, "the server ended by itself"));
        }
        if self.login.is_none() {
            self.login = self.find_login().await?;
        }
        let Some((user, database)) = &self.login else { return Ok(None) };
        let settings = self.settings(user, database);
        // While it changes over from recovery it may end connections.
        let Ok(session) = Session::open(&settings).await else { return Ok(None) };
        let row = session
            .row(
                "SELECT pg_last_wal_replay_lsn()::text AS replayed, CASE WHEN NOT pg_is_in_recovery() THEN \
                 ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END AS timeline",
            )
            .await?;
        let replayed: Option<Lsn> = session.value(&row, "replayed")?;
        Ok(Some(ScratchProgress { replayed, timeline: session.value(&row, "timeline")? }))
    }

    async fn tables(&mut self) -> Result<Vec<ScratchTable>> {
        let query = "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                     WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' \
                     AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_toast' ORDER BY 1, 2";
        let mut tables = Vec::new();
        for database in self.databases().await? {
            let rows = self.rows(&database, query).await?;
            let names = texts(&rows, 0).into_iter().zip(texts(&rows, 1));
            tables.extend(names.map(|(schema, table)| ScratchTable {
                database: database.clone(),
                schema,
                table,
            }));
        }
        Ok(tables)
    }

    async fn count(&mut self, table: &ScratchTable) -> Result<u64> {
        let name = format!("{}.{}", quote::name(&table.schema), quote::name(&table.table));
        let rows = self.rows(&table.database, &format!("SELECT count(*) FROM {name}")).await?;
        let count = texts(&rows, 0).first().and_then(|text| text.parse().ok());
        count.ok_or_else(|| {
            Error::new(ErrorKind::Server, "the server counted in a way that is not understood")
        })
    }

    async fn ask(&mut self, query: &ScratchQuery) -> Result<ScratchAnswer> {
        let (user, database) = self.login()?;
        let database = query.database.as_ref().or(self.database.as_ref()).unwrap_or(database);
        let settings = self.settings(user, database);
        let session = Session::open(&settings).await?;
        let client = &session.client;
        let refused = |error| failure(&settings, error);
        client
            .batch_execute("SET standard_conforming_strings = on; BEGIN READ ONLY")
            .await
            .map_err(refused)?;
        // The server takes one statement alone here, and says what will come of it.
        let prepared = client.prepare(&query.text).await.map_err(refused)?;
        if prepared.columns().is_empty() || !prepared.params().is_empty() {
            let what = if prepared.params().is_empty() { "gives no rows" } else { "has parameters" };
            return Err(Error::new(ErrorKind::Usage, format!("the query {what}, so that it shows nothing")));
        }
        let mut answer = ScratchAnswer {
            database: database.clone(),
            columns: prepared.columns().iter().map(|column| column.name().to_owned()).collect(),
            rows: Vec::new(),
            row_count: 0,
            is_claim: matches!(prepared.columns(), [only] if *only.type_() == Type::BOOL),
            untrue_row: None,
        };
        let mut messages = pin!(client.simple_query_raw(&query.text).await.map_err(refused)?);
        while let Some(message) = messages.try_next().await.map_err(refused)? {
            if let SimpleQueryMessage::Row(row) = message {
                gather(&mut answer, &row);
            }
        }
        Ok(answer)
    }

    async fn check_relations(&mut self) -> Result<RelationCheck> {
        let program = match &self.amcheck {
            Ok(program) => program,
            Err(error) => return Ok(RelationCheck::Unavailable(error.to_string())),
        };
        let (user, database) = self.login()?;
        let query = "SELECT name FROM pg_available_extensions WHERE name = 'amcheck'";
        if self.rows(database, query).await?.is_empty() {
            return Ok(RelationCheck::Unavailable("the extension amcheck is not installed here".to_owned()));
        }
        let arguments = [
            "--all".to_owned(),
            "--install-missing".to_owned(),
            "--no-password".to_owned(),
            format!("--host={}", self.sockets.display()),
            format!("--port={PORT}"),
            format!("--username={user}"),
            format!("--maintenance-db={database}"),
        ];
        let mut running = program.start(&arguments, Pipe::Output)?;
        let told = output(&mut running).await?;
        match running.exit_code().await? {
            Some(0) => Ok(RelationCheck::Sound),
            // It has found damage (manual, "pg_amcheck").
            Some(2) => {
                let lines = told.lines().map(str::trim).filter(|line| !line.is_empty());
                Ok(RelationCheck::Damaged(lines.take(DAMAGE_COUNT_MAX).map(str::to_owned).collect()))
            }
            _ => running.end().await.context("run pg_amcheck").map(|()| RelationCheck::Sound),
        }
    }

    async fn end(mut self: Box<Self>) -> Result<()> {
        // Fast, then at once; the last is what dropping it does.
        for signal in [Signal::INT, Signal::QUIT] {
            if self.running.has_ended() {
                return Ok(());
            }
            let process = self.running.process().and_then(|id| Pid::from_raw(id.try_into().ok()?));
            let Some(process) = process else { return Ok(()) };
            // It may have ended just now.
            let _ = kill_process(process, signal);
            if timeout(END_TIME_MAX, self.running.exit_code()).await.is_ok() {
                return Ok(());
            }
        }
        Err(Error::new(ErrorKind::Server, "the scratch server did not end when asked, and was killed"))
    }
}
