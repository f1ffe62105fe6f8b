//! A throw-away server: Redis's own program, started for one purpose and ended with it.
//!
//! It listens on this machine alone, asks for a password that nobody else knows, keeps nothing, and gets its configuration through its
//! standard input, so that no secret stands in an argument. Only a program of this name from the given folders is started. As a replica it shows a
//! second secret, so that nobody else gets what it is filled with. What it is filled with goes from the connection into its memory: nothing of it
//! is written to disk, so that no room is needed there.
//!
//! A process that is killed cannot end it. It therefore keeps in the server's folder, which nobody else may look into, how the server is reached,
//! and a lock as long as it lives: the next one that starts such a server ends those whose lock is free, and removes their folders.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mainstay_model::{ByteSize, Error, ErrorKind, Result, Secret};
use redis::cmd;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::config::{RedisConfig, Settings};
use crate::replication::RedisReplica;
use crate::session::Session;

/// More databases than anybody has: a server that meets one more ends.
const DATABASE_COUNT: u32 = 4096;
/// The program.
const PROGRAM: &str = "redis-server";
/// How long it may take to answer.
const START_TIME_MAX: Duration = Duration::from_secs(20);
/// How long it may take to end when asked.
const END_TIME_MAX: Duration = Duration::from_secs(5);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(20);
/// How many ports are tried.
const PORT_COUNT_MAX: usize = 5;
/// With what the names of its folders begin.
const PREFIX: &str = "mainstay-redis-";
/// The file with port and password of a server, locked while the process lives that started it.
const LOCK: &str = "server";
/// How long that file may be.
const LOCK_BYTES_MAX: u64 = 256;
/// What a folder takes on disk at most: itself, and that file.
const FOLDER_BYTES: u64 = 8192;
/// How much of what a server says is kept: the end.
const SAID_BYTES_MAX: usize = 4096;
/// How many lines of it are told when it does not start.
const SAID_LINES_TOLD: usize = 4;
/// How much of each of them.
const SAID_LINE_CHARS_MAX: usize = 240;
/// How long is waited for the rest of it when the server has ended.
const SAID_TIME_MAX: Duration = Duration::from_secs(1);

/// A running throw-away server. It is killed when this is dropped, and its folder goes.
#[derive(Debug)]
pub struct RedisScratch {
    process: Child,
    config: RedisConfig,
    /// What it shows as a replica.
    shown: Secret,
    said: Said,
    folder: Folder,
}

/// The end of what a program says on each of its outputs, heard as it comes so that the program is never held up.
#[derive(Debug, Default)]
struct Said {
    outputs: Vec<Arc<Mutex<Vec<u8>>>>,
    listeners: JoinSet<()>,
}

impl Said {
    /// Listens to an output until it ends, or this is dropped.
    fn listen(&mut self, output: Option<impl AsyncRead + Unpin + Send + 'static>) {
        let Some(mut output) = output else { return };
        let heard: Arc<Mutex<Vec<u8>>> = Arc::default();
        self.outputs.push(Arc::clone(&heard));
        self.listeners.spawn(async move {
            let mut piece = [0; 1024];
            while let Ok(count @ 1..) = output.read(&mut piece).await {
                let mut kept = heard.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&piece[..count]);
                let surplus = kept.len().saturating_sub(SAID_BYTES_MAX);
                kept.drain(..surplus);
            }
        });
    }

    /// The last lines of each, for people, without those that repeat one of `secrets`. Of a program that has ended: there is no more to come.
    async fn last_lines(&mut self, secrets: [&str; 2]) -> String {
        let all = async { while self.listeners.join_next().await.is_some() {} };
        // A child that it has left may keep the output open.
        let _ = timeout(SAID_TIME_MAX, all).await;
        let lines: Vec<String> = { self.outputs.iter() }
            .flat_map(|heard| {
                let heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                last_of(&String::from_utf8_lossy(&heard), secrets)
            })
            .collect();
        if lines.is_empty() { "nothing".to_owned() } else { lines.join(" | ") }
    }
}

/// The last lines of a text that say something.
fn last_of(said: &str, secrets: [&str; 2]) -> Vec<String> {
    let is_told =
        |line: &&str| !line.trim().is_empty() && !secrets.iter().any(|secret| line.contains(secret));
    let plain = |line: &str| -> String {
        let shown = line.trim().chars().take(SAID_LINE_CHARS_MAX);
        shown.map(|one| if one.is_control() { '\u{fffd}' } else { one }).collect()
    };
    let mut lines: Vec<String> =
        said.lines().rev().filter(is_told).take(SAID_LINES_TOLD).map(plain).collect();
    lines.reverse();
    lines
}

/// A folder that goes when it is dropped.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// Open, and so locked, until the folder is gone.
    _lock: File,
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next one.
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl RedisScratch {
    /// Starts the first program of its name in `places`, with a folder of its own below `temporary`, and waits until it answers.
    ///
    /// # Errors
    /// `Precondition` when there is no such program; `Server` when it does not answer; `Storage` when no folder can be made.
    pub async fn start(places: &[PathBuf], temporary: &Path) -> Result<Self> {
        let program = places.iter().map(|place| place.join(PROGRAM)).find(|program| program.is_file());
        let program = program.ok_or_else(|| {
            Error::new(ErrorKind::Precondition, format!("there is no program {PROGRAM} on the PATH"))
                .with_state("nothing was changed")
                .with_hint("install Redis on this machine, of the server's version or newer")
        })?;
        let mut failed = None;
        for _ in 0..PORT_COUNT_MAX {
            match Self::attempt(&program, temporary).await {
                Ok(started) => return Ok(started),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| Error::new(ErrorKind::Internal, "no port was tried")))
    }

    async fn attempt(program: &Path, temporary: &Path) -> Result<Self> {
        let port = free_port()?;
        let [password, shown] = [secret(), secret()];
        let folder = private_folder(temporary, port, &password)?;
        sweep(temporary, &folder.path).await;
        let settings = format!(
            "bind 127.0.0.1\nport {port}\nrequirepass {password}\nmasterauth {shown}\ndir \"{}\"\nsave \"\"\nappendonly no\n\
             repl-diskless-load on-empty-db\ndaemonize no\ndatabases {DATABASE_COUNT}\n",
            folder.path.display()
        );
        let broken = |error: io::Error| {
            Error::new(ErrorKind::Server, format!("{} cannot be started: {error}", program.display()))
        };
        let mut process = Command::new(program)
            .arg("-")
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(broken)?;
        let mut said = Said::default();
        said.listen(process.stdout.take());
        said.listen(process.stderr.take());
        if let Some(mut input) = process.stdin.take() {
            // One that ends before it has read them says why in its own words.
            let _ = input.write_all(settings.as_bytes()).await;
        }
        let config = config(port, password);
        let mut scratch = Self { process, config, shown: Secret::new(shown), said, folder };
        scratch.answers(program).await?;
        Ok(scratch)
    }

    async fn answers(&mut self, program: &Path) -> Result<()> {
        let settings = Settings::resolve(&self.config)?;
        let deadline = Instant::now() + START_TIME_MAX;
        loop {
            if let Ok(Some(status)) = self.process.try_wait() {
                let said = self.last_words().await;
                let message = format!("{} ended at once, with {status}; it said: {said}", program.display());
                return Err(Error::new(ErrorKind::Server, message)
                    .with_state("nothing was changed")
                    .with_hint(format!(
                        "mend what it names; `{} --version` shows whether it starts at all",
                        program.display()
                    )));
            }
            match Session::open(&settings).await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => {
                    let _ = self.process.kill().await;
                    let said = self.last_words().await;
                    return Err(error
                        .context("wait for the throw-away server")
                        .with_state("nothing was changed")
                        .with_hint(format!("it was ended; what it said last: {said}")));
                }
                Err(_) => sleep(LOOK).await,
            }
        }
    }

    /// What it said last, when it has ended.
    async fn last_words(&mut self) -> String {
        let password = self.config.password.as_ref().map_or("", Secret::expose).to_owned();
        self.said.last_lines([password.as_str(), self.shown.expose()]).await
    }

    /// How it is reached.
    pub fn config(&self) -> &RedisConfig {
        &self.config
    }

    /// The server, to be filled.
    ///
    /// # Errors
    /// As [`RedisReplica::new`].
    pub fn replica(&self) -> Result<RedisReplica> {
        RedisReplica::scratch(&self.config, self.shown.clone())
    }

    /// Ends it and waits.
    pub async fn end(mut self) {
        shut_down(&self.config).await;
        if timeout(END_TIME_MAX, self.process.wait()).await.is_err() {
            // It keeps nothing, so nothing is lost.
            let _ = self.process.kill().await;
        }
        drop(self.folder);
    }
}

fn config(port: u16, password: String) -> RedisConfig {
    let mut config = RedisConfig::new(Secret::new(format!("redis://127.0.0.1:{port}")));
    config.password = Some(Secret::new(password));
    config
}

/// Has a server end that keeps nothing.
async fn shut_down(config: &RedisConfig) {
    if let Ok(settings) = Settings::resolve(config)
        && let Ok(mut session) = Session::open(&settings).await
    {
        // It answers by closing the connection.
        let _ = session.ask::<()>(cmd("SHUTDOWN").arg("NOSAVE").arg("NOW")).await;
    }
}

/// Ends the servers of processes that are gone, and removes their folders. What others hold, or belongs to somebody else than `own`, stays.
async fn sweep(temporary: &Path, own: &Path) {
    let Ok(entries) = fs::read_dir(temporary) else { return };
    for entry in entries.flatten() {
        let folder = entry.path();
        let is_one = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        if !is_one || !is_alike(&folder, own) {
            continue;
        }
        let Some((left, _lock)) = left(&folder) else { continue };
        if let Some(config) = left {
            shut_down(&config).await;
        }
        // What cannot be removed now is removed by the next one.
        let _ = fs::remove_dir_all(folder);
    }
}

/// Whether a folder has the owner of `own` and nobody else may look into it: what is in it was written by a process like this.
#[cfg(unix)]
fn is_alike(folder: &Path, own: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(own) = fs::metadata(own).map(|own| own.uid()) else { return false };
    let is_private = |found: fs::Metadata| found.is_dir() && found.uid() == own && found.mode() & 0o077 == 0;
    fs::symlink_metadata(folder).is_ok_and(is_private)
}

/// Where that cannot be told, nothing is anybody's.
#[cfg(not(unix))]
fn is_alike(_: &Path, _: &Path) -> bool {
    false
}

/// How the server of a folder is reached, if its process is gone; with the lock that nobody else takes meanwhile.
fn left(folder: &Path) -> Option<(Option<RedisConfig>, File)> {
    let file = File::open(folder.join(LOCK)).ok()?;
    file.try_lock().ok()?;
    let mut text = String::new();
    (&file).take(LOCK_BYTES_MAX).read_to_string(&mut text).ok()?;
    let reached = text
        .split_once('\n')
        .and_then(|(port, password)| Some(config(port.parse().ok()?, password.trim_end().to_owned())));
    Some((reached, file))
}

/// Text that nobody can guess, from the system's random source.
fn secret() -> String {
    rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A port that is free now.
fn free_port() -> Result<u16> {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    bound
        .map(|address| address.port())
        .map_err(|error| Error::new(ErrorKind::Storage, format!("no port can be opened: {error}")))
}

/// A new folder that no other user can look into, with how its server will be reached.
fn private_folder(temporary: &Path, port: u16, password: &str) -> Result<Folder> {
    let path = temporary.join(format!("{PREFIX}{}", &secret()[..16]));
    let unmade = |error: io::Error| unmade(temporary, &path, &error);
    let mut builder = DirBuilder::new();
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    builder.create(&path).map_err(unmade)?;
    // Under its name the file is never seen unlocked.
    let new = path.join("server.new");
    let mut lock = options.open(&new).map_err(unmade)?;
    // Where there are no locks, what a killed process left stays.
    let _ = lock.try_lock();
    write!(lock, "{port}\n{password}\n").and_then(|()| fs::rename(&new, path.join(LOCK))).map_err(unmade)?;
    Ok(Folder { path, _lock: lock })
}

/// The folder at `path` below `temporary` cannot be made.
fn unmade(temporary: &Path, path: &Path, error: &io::Error) -> Error {
    let is_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let message = match is_full {
        true => format!(
            "no room is left in {} for the folder of a throw-away server, which takes {}",
            temporary.display(),
            ByteSize(FOLDER_BYTES)
        ),
        false => format!("{} cannot be made: {error}", path.display()),
    };
    let hint = match is_full {
        true => {
            "make room there, or name another folder: `TMPDIR=/var/tmp mainstay …`; the keys themselves are held in memory alone"
        }
        false => "name a folder for temporary files that may be written to: `TMPDIR=/var/tmp mainstay …`",
    };
    Error::new(ErrorKind::Storage, message).with_state("nothing was changed").with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_folder_is_told_with_what_it_takes() {
        let told = |kind: io::ErrorKind| {
            unmade(Path::new("/tmp"), Path::new("/tmp/mainstay-redis-1"), &io::Error::from(kind))
        };
        let full = told(io::ErrorKind::StorageFull);
        assert_eq!(full.kind(), ErrorKind::Storage);
        assert!(full.message().starts_with("no room is left in /tmp for the folder"), "{full}");
        assert!(full.hint().is_some_and(|hint| hint.contains("TMPDIR=")), "{full}");
        let denied = told(io::ErrorKind::PermissionDenied);
        assert!(denied.message().contains("/tmp/mainstay-redis-1 cannot be made"), "{denied}");
    }

    #[test]
    fn the_last_lines_are_told_without_secrets() {
        let said = "1\n2\nrequirepass canary\n3\n\n4\u{1b}[2J\n5\n";
        assert_eq!(last_of(said, ["canary", "other"]), ["2", "3", "4\u{fffd}[2J", "5"]);
        assert!(last_of(" \n", ["canary", "other"]).is_empty());
        let long = "x".repeat(9_000);
        assert_eq!(last_of(&long, ["canary", "other"])[0].len(), SAID_LINE_CHARS_MAX);
    }
}
