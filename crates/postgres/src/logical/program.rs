//! A program of the server's client package: where it is, whether it fits, how it is started, how it ended.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use mainstay_model::{Error, ErrorKind, Result, Secret};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio_postgres::config::Host;

use super::ProgramPlaces;
use super::passfile::PrivateFolder;
use crate::config::{Settings, TlsMode};

/// How much of what a program says is kept: its end.
const SAID_BYTES_MAX: usize = 16 * 1024;
/// How many lines of it are told.
const LINE_COUNT_MAX: usize = 4;
/// How long it may take to say its version.
const VERSION_TIME_MAX: Duration = Duration::from_secs(10);

/// The program that comes with the server.
const SERVER_PROGRAM: &str = "postgres";

/// What a program shares with us, its standard error aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pipe {
    /// Nothing.
    None,
    /// What it reads.
    Input,
    /// What it writes.
    Output,
}

/// A program that fits the server.
#[derive(Debug)]
pub(crate) struct Program {
    name: &'static str,
    path: PathBuf,
    /// With its version.
    title: String,
}

/// Finds the program called `name` and compares its major version with that of the server.
pub(crate) async fn find(
    name: &'static str,
    server_version: &str,
    places: &ProgramPlaces,
) -> Result<Program> {
    let major = major_of(server_version).unwrap_or_default();
    let path = candidates(name, &major, places).into_iter().find(|path| path.is_file());
    let package = if name == SERVER_PROGRAM { "postgresql" } else { "postgresql-client" };
    let hint = match &places.folder {
        Some(folder) => format!(
            "install the programs of PostgreSQL {major} in {}, or correct `client_dir` in [postgres]",
            folder.display()
        ),
        None => format!(
            "install the programs of PostgreSQL {major} (Debian: `{package}-{major}`), or name their folder: `client_dir` in [postgres]"
        ),
    };
    let refused = |message: String| {
        Error::new(ErrorKind::Precondition, message).with_state("nothing was changed").with_hint(hint.clone())
    };
    let path = path.ok_or_else(|| refused(format!("{name} of PostgreSQL {major} is not on this machine")))?;
    let title = version_of(&path)
        .await
        .ok_or_else(|| refused(format!("{} does not say its version", path.display())))?;
    // `pg_dump (PostgreSQL) 18.6 (Debian 18.6-1)`.
    let version =
        title.split(") ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap_or_default();
    if major_of(version).is_none_or(|own| own != major) {
        return Err(refused(format!(
            "{} is of PostgreSQL {version}, the server of {server_version}: both must be of one major version",
            path.display()
        )));
    }
    Ok(Program { name, path, title })
}

pub(crate) fn major_of(version: &str) -> Option<String> {
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    (!digits.is_empty()).then_some(digits)
}

/// Where it may be, in order. Debian keeps each major version in a folder of its own, and a chooser on the PATH.
fn candidates(name: &str, major: &str, places: &ProgramPlaces) -> Vec<PathBuf> {
    match &places.folder {
        Some(folder) => vec![folder.join(name)],
        None => [PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"))]
            .iter()
            .chain(&places.path)
            .map(|folder| folder.join(name))
            .collect(),
    }
}

async fn version_of(path: &Path) -> Option<String> {
    let mut command = bare(path);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let output = tokio::time::timeout(VERSION_TIME_MAX, command.output()).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line: String = text.lines().next()?.chars().filter(|one| !one.is_control()).take(200).collect();
    output.status.success().then_some(line)
}

/// A command whose environment is empty but for its language: no variable of somebody's shell decides where it connects.
fn bare(path: &Path) -> Command {
    let mut command = Command::new(path);
    command.env_clear().env("LC_ALL", "C").kill_on_drop(true);
    // Ctrl-C at a terminal is for us: what it means for the program is decided here.
    #[cfg(unix)]
    command.process_group(0);
    command
}

impl Program {
    /// Starts it.
    pub(crate) fn start(&self, arguments: &[String], pipe: Pipe) -> Result<Running> {
        self.start_with(arguments, &[], pipe)
    }

    /// Starts it with variables in its environment.
    pub(crate) fn start_with(
        &self,
        arguments: &[String],
        variables: &[(String, Secret)],
        pipe: Pipe,
    ) -> Result<Running> {
        let piped = |wanted: Pipe| if pipe == wanted { Stdio::piped() } else { Stdio::null() };
        let mut command = bare(&self.path);
        command.envs(variables.iter().map(|(name, value)| (name, value.expose())));
        command.args(arguments).stdin(piped(Pipe::Input)).stdout(piped(Pipe::Output)).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            Error::new(ErrorKind::Precondition, format!("{} cannot be started: {error}", self.path.display()))
        })?;
        let said = child.stderr.take().map(|stderr| tokio::spawn(listen(stderr)));
        Ok(Running { name: self.name, title: self.title.clone(), child, said })
    }
}

/// Keeps the end of what a program says.
async fn listen(mut stderr: ChildStderr) -> Vec<u8> {
    let mut said = Vec::new();
    let mut piece = vec![0; 4_096];
    while let Ok(read @ 1..) = stderr.read(&mut piece).await {
        said.extend_from_slice(&piece[..read]);
        let over = said.len().saturating_sub(SAID_BYTES_MAX);
        said.drain(..over);
    }
    said
}

/// A program that was started; killed when this is dropped before its end.
pub(crate) struct Running {
    name: &'static str,
    title: String,
    child: Child,
    /// `None` once it was asked how it ended.
    said: Option<JoinHandle<Vec<u8>>>,
}

impl Running {
    /// Its name and version.
    pub(crate) fn title(&self) -> &str {
        &self.title
    }

    /// What it writes.
    pub(crate) fn take_output(&mut self) -> Result<ChildStdout> {
        self.child.stdout.take().ok_or_else(|| Error::new(ErrorKind::Internal, "a program without an output"))
    }

    /// What it reads.
    pub(crate) fn take_input(&mut self) -> Result<ChildStdin> {
        self.child.stdin.take().ok_or_else(|| Error::new(ErrorKind::Internal, "a program without an input"))
    }

    /// The pipe to or from it broke.
    pub(crate) fn broken(&self, error: &std::io::Error) -> Error {
        Error::new(ErrorKind::Internal, format!("the pipe of {} broke: {error}", self.name))
    }

    /// Its process, while it runs.
    pub(crate) fn process(&self) -> Option<u32> {
        self.child.id()
    }

    /// Whether it has ended, and is not yet waited for.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end; gives its exit status.
    pub(crate) async fn exit_code(&mut self) -> Result<Option<i32>> {
        let status = self.child.wait().await.map_err(|error| self.broken(&error))?;
        Ok(status.code())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it ended otherwise than well, with the last lines it said.
    pub(crate) async fn end(&mut self) -> Result<()> {
        let status = self.child.wait().await.map_err(|error| self.broken(&error))?;
        let said = match self.said.take() {
            Some(said) => said.await.unwrap_or_default(),
            None => Vec::new(),
        };
        if status.success() {
            return Ok(());
        }
        let lines = told(self.name, &String::from_utf8_lossy(&said));
        let message = match lines.is_empty() {
            true => format!("{} failed: {status}", self.name),
            false => format!("{} failed: {lines}", self.name),
        };
        let kind = match lines.contains("permission denied") || lines.contains("must be owner") {
            true => ErrorKind::Auth,
            false => ErrorKind::Server,
        };
        Err(Error::new(kind, message))
    }
}

/// The lines that the program says of itself, the last ones: `pg_restore: error: …`. The statements it quotes beside them may hold data.
fn told(name: &str, said: &str) -> String {
    let own: Vec<&str> = said
        .lines()
        .filter_map(|line| own_line(name, line))
        .map(|line| line.strip_prefix("error: ").unwrap_or(line))
        .filter(|line| {
            !line.starts_with("detail:") && !line.starts_with("warning:") && !line.starts_with("while ")
        })
        .collect();
    own[own.len().saturating_sub(LINE_COUNT_MAX)..].join("; ")
}

/// What `line` says, if it is the program's own. A server's log is written without prefix, and shows what its restore_command says, too.
fn own_line<'a>(name: &str, line: &'a str) -> Option<&'a str> {
    let of_server = ["FATAL:  ", "PANIC:  ", "error: "];
    let own = line.strip_prefix(name).and_then(|rest| rest.strip_prefix(": "));
    own.or_else(|| match name {
        "postgres" => of_server.iter().find_map(|prefix| line.strip_prefix(prefix)),
        _ => None,
    })
}

/// How a program connects to a database, as libpq reads it; the password is in `private`.
pub(crate) fn connection(settings: &Settings, database: &str, private: &PrivateFolder) -> Result<String> {
    let driver = &settings.driver;
    let hosts: Vec<String> = driver
        .get_hosts()
        .iter()
        .map(|host| match host {
            Host::Tcp(name) => name.clone(),
            #[cfg(unix)]
            Host::Unix(path) => path.display().to_string(),
        })
        .collect();
    let addresses: Vec<String> = driver.get_hostaddrs().iter().map(ToString::to_string).collect();
    let ports: Vec<String> = driver.get_ports().iter().map(ToString::to_string).collect();
    let mode = match (settings.tls_mode, &settings.ca_file) {
        (TlsMode::Disable, _) => "disable",
        // With a file of authorities everything is checked in every mode, as for the other connections.
        (_, Some(_)) | (TlsMode::VerifyFull, _) => "verify-full",
        (TlsMode::Prefer, None) => "prefer",
        (TlsMode::Require, None) => "require",
    };
    let authorities = match (&settings.ca_file, settings.tls_mode) {
        (Some(file), _) => file.display().to_string(),
        (None, TlsMode::VerifyFull) => "system".to_owned(),
        (None, _) => String::new(),
    };
    let passfile = match driver.get_password() {
        Some(password) => private.write_password(password)?.display().to_string(),
        // One that is not there: none of somebody's own is read instead.
        None => private.path("none").display().to_string(),
    };
    let parts = [
        ("host", hosts.join(",")),
        ("hostaddr", addresses.join(",")),
        ("port", ports.join(",")),
        ("user", driver.get_user().unwrap_or_default().to_owned()),
        ("dbname", database.to_owned()),
        ("options", driver.get_options().unwrap_or_default().to_owned()),
        ("sslmode", mode.to_owned()),
        ("sslrootcert", authorities),
        ("passfile", passfile),
        ("gssencmode", "disable".to_owned()),
        ("connect_timeout", settings.connect_timeout.as_secs().max(2).to_string()),
        ("application_name", driver.get_application_name().unwrap_or("mainstay").to_owned()),
    ];
    let quoted = |value: &str| format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"));
    let given = parts.iter().filter(|(_, value)| !value.is_empty());
    Ok(given.map(|(name, value)| format!("{name}={}", quoted(value))).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use mainstay_model::Secret;

    use super::*;
    use crate::config::{PostgresConfig, TlsOptions};

    #[test]
    fn a_connection_shows_no_password_and_quotes_what_it_is_given() {
        let private = PrivateFolder::create(&std::env::temp_dir()).unwrap();
        let of = |url: &str, ca_file: Option<PathBuf>| {
            let tls = TlsOptions { mode: None, ca_file };
            let config = PostgresConfig { tls, ..PostgresConfig::new(Secret::new(url)) };
            connection(&Settings::resolve(&config).unwrap(), "it's\\=x", &private).unwrap()
        };
        let text = of("postgres://app:hunter2@h1:1,h2:2/d", None);
        assert!(!text.contains("hunter2"), "{text}");
        assert!(
            text.starts_with("host='h1,h2' port='1,2' user='app' dbname='it\\'s\\\\=x' sslmode='prefer'"),
            "{text}"
        );
        let text = of("postgres://app@h/d?sslmode=require", Some("/ca.pem".into()));
        assert!(text.contains("sslmode='verify-full' sslrootcert='/ca.pem'"), "{text}");
        let text = of("postgres://app@h/d?sslmode=verify-full", None);
        assert!(text.contains("sslmode='verify-full' sslrootcert='system'"), "{text}");
    }

    #[test]
    fn what_a_program_says_of_itself_is_told_and_nothing_of_statements() {
        let said = "pg_restore: while PROCESSING TOC:\npg_restore: from TOC entry 215; 1259 16385 TABLE t app\n\
            pg_restore: error: could not execute query: ERROR:  role \"app\" does not exist\nCommand was: ALTER TABLE t 'canary';\n";
        let told = told("pg_restore", said);
        assert!(told.ends_with("could not execute query: ERROR:  role \"app\" does not exist"), "{told}");
        assert!(!told.contains("canary"));
        assert_eq!(major_of("18.4"), Some("18".to_owned()));
        assert_eq!(major_of("devel"), None);
    }
}
