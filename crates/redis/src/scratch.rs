//! A throw-away server: Redis's own program, started for one purpose and ended with it.
//!
//! It listens on this machine alone, asks for a password that nobody else knows, keeps nothing, and gets its configuration through its
//! standard input, so that no secret stands in an argument. Only a program of this name from the given folders is started.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use mainstay_model::{Error, ErrorKind, Result, Secret};
use redis::cmd;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::config::{RedisConfig, Settings};
use crate::session::Session;

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

/// A running throw-away server. It is killed when this is dropped, and its folder goes.
#[derive(Debug)]
pub struct RedisScratch {
    process: Child,
    config: RedisConfig,
    folder: Folder,
}

/// A folder that goes when it is dropped.
#[derive(Debug)]
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is the system's to clean up: it lies among temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl RedisScratch {
    /// Starts the first program of its name in `places`, with a folder of its own below `temporary`, and waits until it answers.
    ///
    /// # Errors
    /// `Precondition` when there is no such program; `Server` when it does not answer; `Storage` when no folder can be made.
    pub async fn start(places: &[PathBuf], temporary: &std::path::Path) -> Result<Self> {
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

    async fn attempt(program: &std::path::Path, temporary: &std::path::Path) -> Result<Self> {
        let folder = private_folder(temporary)?;
        let port = free_port()?;
        let password = password();
        let settings = format!(
            "bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir \"{}\"\nsave \"\"\nappendonly no\ndaemonize no\n",
            folder.0.display()
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
        let mut config = RedisConfig::new(Secret::new(format!("redis://127.0.0.1:{port}")));
        config.password = Some(Secret::new(password));
        let mut scratch = Self { process, config, folder };
        scratch.answers(program).await?;
        Ok(scratch)
    }

    async fn answers(&mut self, program: &std::path::Path) -> Result<()> {
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

    /// Ends it and waits.
    pub async fn end(mut self) {
        if let Ok(settings) = Settings::resolve(&self.config)
            && let Ok(mut session) = Session::open(&settings).await
        {
            // It answers by closing the connection.
            let _ = session.ask::<()>(cmd("SHUTDOWN").arg("NOSAVE").arg("NOW")).await;
        }
        if tokio::time::timeout(END_TIME_MAX, self.process.wait()).await.is_err() {
            // It keeps nothing, so nothing is lost.
            let _ = self.process.kill().await;
        }
        drop(self.folder);
    }
}

/// Text that nobody can guess, for a server that lives for minutes on this machine alone.
fn password() -> String {
    (0..4).map(|_| format!("{:016x}", RandomState::new().build_hasher().finish())).collect()
}

/// A port that is free now.
fn free_port() -> Result<u16> {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    bound
        .map(|address| address.port())
        .map_err(|error| Error::new(ErrorKind::Storage, format!("no port can be opened: {error}")))
}

/// A new folder that no other user can look into.
fn private_folder(temporary: &std::path::Path) -> Result<Folder> {
    let path = temporary.join(format!("mainstay-redis-{}", &password()[..16]));
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(&path).map_err(|error| {
        Error::new(ErrorKind::Storage, format!("{} cannot be made: {error}", path.display()))
    })?;
    Ok(Folder(path))
}
