//! One server process: start until ready, stop, kill, start again; and the watchdog that outlives its parent.
//!
//! The server is started through `sh`, which first leaves a watchdog behind and then becomes the server (`exec`), so the
//! child's process id is the server's. The watchdog blocks on a pipe from the parent. A line from the parent, written
//! once the server has been reaped, lets it go; the end of the pipe without a line means the parent is gone: it ends
//! the server and removes its folder.
//!
//! The server has a process group of its own, so that an interrupt typed at the terminal ends the tests, and the watchdog
//! does the rest. Relies on a POSIX `sh`. Refuses to signal a process that was already reaped.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::engines::EngineError;

const READY_WITHIN: Duration = Duration::from_secs(90);
const STOPPED_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// `$1` is the signal for an orphaned server, `$2` the folder to remove with it (empty: none), the rest the server.
const WATCHDOG: &str = r#"
signal=$1 folder=$2
shift 2
exec 3<&0 </dev/null
server=$$
(
    read -r released <&3 && exit 0
    exec >/dev/null 2>&1
    kill -"$signal" "$server"
    count=0
    while kill -0 "$server" && [ "$count" -lt 40 ]; do
        # An ended process stays until somebody collects it, which not every container does at once.
        read -r state <"/proc/$server/stat" && case $state in *") Z "*) break ;; esac
        sleep 0.1
        count=$((count + 1))
    done
    kill -KILL "$server"
    if [ -n "$folder" ]; then rm -rf -- "$folder" || { sleep 1; rm -rf -- "$folder"; }; fi
) &
exec 3<&-
exec "$@"
"#;

/// A user to run a server as.
#[derive(Clone, Copy, Debug)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl User {
    /// The unprivileged user `nobody` when this process is root, else none: the server runs as whoever runs the tests.
    pub(super) fn unprivileged() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let listed = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let found = listed.lines().find_map(|line| {
            let mut fields = line.strip_prefix("nobody:")?.split(':').skip(1);
            Some(Self { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
        });
        Some(found.unwrap_or(Self { uid: 65_534, gid: 65_534 }))
    }

    pub(super) fn apply(user: Option<Self>, command: &mut Command) {
        if let Some(user) = user {
            command.uid(user.uid).gid(user.gid);
        }
    }
}

/// How a server is started and ended.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) name: &'static str,
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    pub(super) user: Option<User>,
    /// Ends the server at once without leaving anything of the system's held (PostgreSQL's shared memory).
    pub(super) abandon: Signal,
}

/// A server's folder: temporary, or given by the caller and kept.
#[derive(Debug)]
pub(super) enum Folder {
    Temporary(TempDir),
    Kept(PathBuf),
}

impl Folder {
    /// A temporary folder, or the given one, created; owned by `user`.
    pub(super) fn create(kept: Option<&Path>, user: Option<User>) -> io::Result<Self> {
        let folder = match kept {
            Some(path) => {
                fs::create_dir_all(path)?;
                Self::Kept(path.to_path_buf())
            }
            None => Self::Temporary(tempfile::Builder::new().prefix("mainstay-").tempdir_in(scratch(user))?),
        };
        if let Some(user) = user {
            std::os::unix::fs::chown(folder.path(), Some(user.uid), Some(user.gid))?;
        }
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Temporary(folder) => folder.path(),
            Self::Kept(folder) => folder,
        }
    }
}

/// Where temporary folders go: the usual place unless another user could not walk there.
fn scratch(user: Option<User>) -> PathBuf {
    let usual = std::env::temp_dir();
    if user.is_some() && !crate::engines::cache::is_traversable(&usual) {
        PathBuf::from("/tmp")
    } else {
        usual
    }
}

/// A server process with its folder and log.
#[derive(Debug)]
pub(super) struct Process {
    launch: Launch,
    running: Option<Running>,
    // Dropped after `running`: the folder goes when the server is gone.
    folder: Folder,
}

#[derive(Debug)]
struct Running {
    child: Child,
    watchdog: ChildStdin,
}

/// Whether a server process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerStatus {
    /// It runs.
    Running,
    /// It was stopped or killed by its owner.
    Stopped,
    /// It ended by itself.
    Ended(ExitStatus),
}

impl Process {
    pub(super) fn new(launch: Launch, folder: Folder) -> Self {
        Self { launch, running: None, folder }
    }

    /// Starts the server and waits until `ready` says so.
    pub(super) fn start(&mut self, mut ready: impl FnMut() -> bool) -> Result<(), StartError> {
        self.spawn().map_err(|error| self.failure(format!("{}: {error}", self.launch.program.display())))?;
        let deadline = Instant::now() + READY_WITHIN;
        while !ready() {
            if let ServerStatus::Ended(status) = self.status() {
                self.reap();
                return Err(self.failure(format!("ended with {status} before it was ready")));
            }
            if Instant::now() > deadline {
                let error = self.failure(format!("not ready within {} s", READY_WITHIN.as_secs()));
                self.kill();
                return Err(error);
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    fn spawn(&mut self) -> io::Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(self.log())?;
        let removed = match &self.folder {
            Folder::Temporary(folder) => folder.path().as_os_str(),
            Folder::Kept(_) => "".as_ref(),
        };
        let signal = if self.launch.abandon == Signal::QUIT { "QUIT" } else { "KILL" };
        let mut command = Command::new("sh");
        command.arg("-c").arg(WATCHDOG).arg("sh").arg(signal).arg(removed);
        command.arg(&self.launch.program).args(&self.launch.arguments);
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        command.current_dir(self.folder.path()).process_group(0);
        User::apply(self.launch.user, &mut command);
        let mut child = command.spawn()?;
        let watchdog = child.stdin.take().expect("standard input was piped");
        self.running = Some(Running { child, watchdog });
        Ok(())
    }

    /// The folder that holds the server's data and log.
    pub(super) fn dir(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn log(&self) -> PathBuf {
        self.folder.path().join(format!("{}.log", self.launch.name))
    }

    /// The process id while the server runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.child.id())
    }

    pub(super) fn status(&mut self) -> ServerStatus {
        match &mut self.running {
            None => ServerStatus::Stopped,
            Some(running) => match running.child.try_wait() {
                Ok(Some(status)) => ServerStatus::Ended(status),
                _ => ServerStatus::Running,
            },
        }
    }

    /// Asks the server to end and waits for it; killed when it does not.
    pub(super) fn stop(&mut self, signal: Signal) {
        self.signal(signal);
        let deadline = Instant::now() + STOPPED_WITHIN;
        while self.status() == ServerStatus::Running && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        self.kill();
    }

    /// Kills the server and waits until it is gone.
    pub(super) fn kill(&mut self) {
        if let Some(running) = &mut self.running {
            // An error means it has ended already.
            let _ = running.child.kill();
        }
        self.reap();
    }

    fn signal(&mut self, signal: Signal) {
        if self.status() == ServerStatus::Running
            && let Some(pid) = self.pid().and_then(|pid| Pid::from_raw(pid.cast_signed()))
        {
            let _ = kill_process(pid, signal);
        }
    }

    /// Collects the ended process, then lets the watchdog go.
    fn reap(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _ = running.child.wait();
            let _ = running.watchdog.write_all(b"released\n");
        }
    }

    fn failure(&self, reason: String) -> StartError {
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(25)..].join("\n");
        StartError::Server { server: self.launch.name, reason, log: end }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.launch.abandon != Signal::KILL {
            self.stop(self.launch.abandon);
        }
        self.kill();
    }
}

/// Why a server did not start.
#[derive(thiserror::Error)]
pub enum StartError {
    /// No program to start.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The server ended, or never answered.
    #[error("{server} {reason}\n--- end of its log ---\n{log}\n---")]
    Server {
        /// Which server.
        server: &'static str,
        /// What happened.
        reason: String,
        /// The last lines of its log.
        log: String,
    },
    /// Its folder could not be prepared, or the first talk with it failed.
    #[error("prepare {server}: {reason}")]
    Prepare {
        /// Which server.
        server: &'static str,
        /// What failed.
        reason: String,
    },
}

impl StartError {
    pub(super) fn prepare(server: &'static str, reason: impl fmt::Display) -> Self {
        Self::Prepare { server, reason: reason.to_string() }
    }

    /// Whether the log holds one of these texts.
    pub(super) fn log_tells(&self, texts: &[&str]) -> bool {
        matches!(self, Self::Server { log, .. } if texts.iter().any(|text| log.contains(text)))
    }
}

/// As the text, so that a test that unwraps shows the log.
impl fmt::Debug for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
