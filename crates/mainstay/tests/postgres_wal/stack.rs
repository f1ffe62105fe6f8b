//! A server, a project beside it, and the binary, which runs as the server's user: a server that recovers runs it, too.

use std::fs;
use std::io::{BufRead as _, BufReader, Lines};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use mainstay_model::{LogPosition, StoreKind, SystemClock};
use mainstay_repository::{Chain, Repository, RepositoryOptions};
use mainstay_store::{Location, Store, StoreOptions};
use mainstay_testkit::{Postgres, S3Server};
pub(crate) use mainstay_testkit::{Seen, wait_for};
use serde_json::Value;

/// A server with a project.
pub(crate) struct Stack {
    pub(crate) server: Postgres,
    program: PathBuf,
    project: PathBuf,
    variables: Vec<(&'static str, String)>,
}

impl Stack {
    pub(crate) fn start() -> Self {
        Self::of(Postgres::options().parameter("wal_keep_size", "512MB").start().unwrap())
    }

    pub(crate) fn of(server: Postgres) -> Self {
        let program = server.make_folder("bin").join("mainstay");
        let built = env!("CARGO_BIN_EXE_mainstay");
        // The folder of builds may be closed to the server's user.
        fs::hard_link(built, &program).or_else(|_| fs::copy(built, &program).map(drop)).unwrap();
        let project = server.make_folder("project");
        let stack = Self { server, program, project, variables: Vec::new() };
        let url = stack.server.uri();
        stack.configure(&url);
        stack
    }

    pub(crate) fn configure(&self, url: &str) {
        self.configure_repository(url, "file:./repository", "lease_ttl = \"2s\"\n");
    }

    pub(crate) fn configure_repository(&self, url: &str, repository: &str, more: &str) {
        let text = format!(
            "[environment]\nname = \"tests\"\nclass = \"development\"\n\n[postgres]\nurl = \"{url}\"\n\n\
             [repository]\nurl = \"{repository}\"\n{more}"
        );
        fs::write(self.path("mainstay.toml"), text).unwrap();
    }

    /// The repository is in the bucket of `s3` from now on, under `prefix`.
    pub(crate) fn configure_s3(&mut self, s3: &S3Server, prefix: &str) {
        let section = format!(
            "\n[repository.s3]\nendpoint = \"{}\"\nregion = \"{}\"\naccess_key_id = \"{}\"\nallow_http = true\n",
            s3.endpoint(),
            s3.region(),
            s3.access_key()
        );
        self.variables = vec![("MAINSTAY_S3_SECRET_ACCESS_KEY", s3.secret_key().to_owned())];
        let repository = format!("s3://{}/{prefix}", s3.bucket());
        self.configure_repository(&self.server.uri(), &repository, &section);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.project.join(name)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let owner = fs::metadata(&self.project).unwrap();
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(&self.project).env_clear().env("HOME", &self.project);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.uid(owner.uid()).gid(owner.gid());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Seen {
        self.command(arguments).output().unwrap().into()
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        self.run(&[arguments, &["--json"]].concat()).expect(0).json()
    }

    /// Stores what the server has now.
    pub(crate) fn catch_up(&self) -> Seen {
        self.run(&["capture", "postgres", "--once"]).expect(0)
    }

    pub(crate) fn back_up(&self) -> String {
        let made = self.json(&["backup", "create", "--store", "postgres"]);
        made["set"]["id"].as_str().unwrap().to_owned()
    }

    /// Runs statements in database `postgres`.
    pub(crate) fn execute(&self, statements: &str) {
        self.server.execute("postgres", statements).unwrap();
    }

    /// The chains of the log, as a library reads them.
    pub(crate) async fn chains(&self) -> (Repository, Vec<Chain>) {
        let location = Location::directory(self.path("repository"));
        let store = Store::open(&location, &StoreOptions::default()).unwrap();
        let repository =
            Repository::open(store, Arc::new(SystemClock), RepositoryOptions::default()).await.unwrap();
        let entries = repository.chains(StoreKind::Postgres).await.unwrap();
        let chains = entries.into_iter().map(|entry| entry.whole().unwrap()).collect();
        (repository, chains)
    }

    /// The file of a slice of the only chain.
    pub(crate) async fn slice_file(&self, number: usize) -> PathBuf {
        let (_, chains) = self.chains().await;
        let key = chains[0].key(&chains[0].slices()[number]).unwrap();
        self.path("repository").join(key.as_str())
    }

    /// Plans a restore to a moment below the folder `name`; `more` says which.
    pub(crate) fn plan(&self, name: &str, more: &[&str]) -> Seen {
        let plan_file = format!("{name}.json");
        let into = self.path(name).join("data");
        let base = [
            "restore",
            "plan",
            "--store",
            "postgres",
            "--into",
            into.to_str().unwrap(),
            "--output",
            &plan_file,
        ];
        self.run(&[&base[..], more].concat())
    }

    pub(crate) fn apply(&self, name: &str) -> Seen {
        self.run(&["restore", "apply", &format!("{name}.json")])
    }

    /// Restores to a moment and starts a server from it; waits until it takes writes.
    pub(crate) fn restore(&self, name: &str, more: &[&str]) -> Postgres {
        self.plan(name, more).expect(0);
        self.apply(name).expect(0).says("it recovers to");
        let restored = start_restored(&self.path(name));
        wait_for("the restored server takes writes", || {
            restored.texts("postgres", "SELECT pg_is_in_recovery()") == ["f"]
        });
        restored
    }
}

pub(crate) fn start_restored(folder: &Path) -> Postgres {
    match Postgres::options().in_folder(folder).start() {
        Ok(server) => server,
        Err(error) => panic!("{error}"),
    }
}

/// A running capture and its events; killed when dropped.
pub(crate) struct Capture {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Capture {
    pub(crate) fn of(stack: &Stack, slice_age: &str) -> Self {
        Self::begin(stack.command(&["capture", "postgres", "--json", "--slice-age", slice_age]))
    }

    pub(crate) fn begin(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Reads events until one is called `name`.
    #[track_caller]
    pub(crate) fn until(&mut self, name: &str) -> Value {
        let mut last = String::new();
        loop {
            let line =
                self.lines.next().unwrap_or_else(|| panic!("the output ends before `{name}`, with {last}"));
            last = line.unwrap();
            let event: Value = serde_json::from_str(&last).unwrap();
            if event["event"] == name {
                return event;
            }
        }
    }

    /// Reads events until everything before `position` is stored.
    #[track_caller]
    pub(crate) fn until_stored(&mut self, position: &str) -> Value {
        let wanted = lsn(position);
        loop {
            let event = self.until("slice_stored");
            if lsn(event["through"].as_str().unwrap()) >= wanted {
                return event;
            }
        }
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop, and gives its last word and its status.
    pub(crate) fn stop(mut self) -> (Value, i32) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let ended = self.until("ended");
        (ended, self.child.wait().unwrap().code().unwrap())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The name of the segment of that number, of the usual length.
pub(crate) fn segment_name(timeline: u32, number: u64) -> String {
    format!("{timeline:08X}{:08X}{:08X}", number / 256, number % 256)
}

pub(crate) fn lsn(text: &str) -> LogPosition {
    text.parse::<mainstay_model::Lsn>().unwrap().into()
}
