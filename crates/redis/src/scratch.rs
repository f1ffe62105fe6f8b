//! A throw-away server: Redis's own program, started for one purpose and ended with it.
//!
//! It listens on this machine alone, asks for a password that nobody else knows, keeps nothing, and gets its configuration through its
//! standard input, so that no secret stands in an argument. Only a program of this name from the given folders is started. As a replica it shows a
//! second secret, so that nobody else gets what it is filled with.
//!
//! A process that is killed cannot end it. It therefore keeps in the server's folder, which nobody else may look into, how the server is reached,
//! and a lock as long as it lives: the next one that starts such a server ends those whose lock is free, and removes their folders.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use mainstay_model::{Error, ErrorKind, Result, Secret};
use redis::cmd;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

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

/// A running throw-away server. It is killed when this is dropped, and its folder goes.
#[derive(Debug)]
pub struct RedisScratch {
    process: Child,
    config: RedisConfig,
    /// What it shows as a replica.
    shown: Secret,
    folder: Folder,
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
             daemonize no\ndatabases {DATABASE_COUNT}\n",
            folder.path.display()
        );
        let broken = |error: std::io::Error| {
            Error::new(ErrorKind::Server, format!("{} cannot be started: {error}", program.display()))
        };
        let mut process = Command::new(program)
            .arg("-")
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(broken)?;
        if let Some(mut input) = process.stdin.take() {
            input.write_all(settings.as_bytes()).await.map_err(broken)?;
        }
        let config = config(port, password);
        let mut scratch = Self { process, config, shown: Secret::new(shown), folder };
        scratch.answers(program).await?;
        Ok(scratch)
    }

    async fn answers(&mut self, program: &Path) -> Result<()> {
        let settings = Settings::resolve(&self.config)?;
        let deadline = Instant::now() + START_TIME_MAX;
        loop {
            if let Ok(Some(status)) = self.process.try_wait() {
                let message = format!("{} ended at once, with {status}", program.display());
                return Err(
                    Error::new(ErrorKind::Server, message).with_hint("start it by hand to see what it says")
                );
            }
            match Session::open(&settings).await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => {
                    return Err(error.context("wait for the throw-away server"));
                }
                Err(_) => sleep(LOOK).await,
            }
        }
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
        if tokio::time::timeout(END_TIME_MAX, self.process.wait()).await.is_err() {
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
    let unmade = |error: std::io::Error| {
        Error::new(ErrorKind::Storage, format!("{} cannot be made: {error}", path.display()))
            .with_hint("name a folder for temporary files that may be written to: TMPDIR")
    };
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
