//! What the tests share: a project on a server, sessions of real clients, waiting for conditions.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mainstay_testkit::Postgres;
use mainstay_testkit::engines::{EngineKind, locate};
use serde_json::Value;

use crate::binary::{Place, Seen};

/// A project whose PostgreSQL is at `url` and whose repository is a folder in it.
pub(crate) fn project(url: &str) -> Place {
    let place = Place::new().variable("MAINSTAY_REPOSITORY_URL", "file:./repository");
    configure(&place, url, "");
    place
}

/// Points the project at `url`; `more` are lines of its section `[postgres]`.
pub(crate) fn configure(place: &Place, url: &str, more: &str) {
    place.write(
        "mainstay.toml",
        &format!(
            "[environment]\nname = \"tests\"\nclass = \"development\"\n\n[postgres]\nurl = \"{url}\"\n{more}\n\n[repository]\nlease_ttl = \"2s\"\n"
        ),
    );
}

/// Marks the project's PostgreSQL with the configured environment.
#[track_caller]
pub(crate) fn mark(place: &Place) {
    let planned =
        place.run(&["environment", "mark", "--store", "postgres", "--output", "mark.json", "--json"]);
    let planned = planned.expect(0).json();
    apply(place, "mark.json", &planned["plans"][0]["plan_hash"]).expect(0);
    std::fs::remove_file(place.path("mark.json")).unwrap();
}

/// Carries out a plan file that is approved by `hash`.
#[track_caller]
pub(crate) fn apply(place: &Place, file: &str, hash: &Value) -> Seen {
    place.run(&["apply", file, "--approve", hash.as_str().unwrap(), "--json"])
}

/// The url of `role` on `server`.
pub(crate) fn url_of(server: &Postgres, role: &str, database: &str) -> String {
    server.uri_of(database).replace("//postgres", &format!("//{role}"))
}

impl Seen {
    #[track_caller]
    pub(crate) fn expect(self, status: i32) -> Self {
        assert_eq!(self.status, status, "{}", self.both());
        self
    }

    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.both().contains(text), "`{text}` is not in: {}", self.both());
        self
    }

    #[track_caller]
    pub(crate) fn hides(self, text: &str) -> Self {
        assert!(!self.both().contains(text), "`{text}` is in: {}", self.both());
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.both()))
    }
}

/// A server of its own making: those of the test kit are copies of one, and share its number.
pub(crate) fn another_server(beside: &Postgres) -> Postgres {
    let folder = beside.make_folder("another");
    let owner = std::fs::metadata(&folder).unwrap();
    let mut initdb = Command::new(locate(EngineKind::Postgres).unwrap().tool("initdb"));
    initdb.args([
        "--username",
        "postgres",
        "--auth",
        "trust",
        "--encoding",
        "UTF8",
        "--locale",
        "C",
        "--no-sync",
    ]);
    initdb.arg("--pgdata").arg(folder.join("data")).current_dir("/").uid(owner.uid()).gid(owner.gid());
    let made = initdb.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Postgres::options().in_folder(folder).start().unwrap()
}

/// One of the server's own client programs.
pub(crate) fn tool(name: &str) -> Command {
    Command::new(locate(EngineKind::PgClient).unwrap().tool(name))
}

#[track_caller]
pub(crate) fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A session of a client that calls itself `name`; ended when dropped.
pub(crate) struct Client {
    child: Child,
    input: ChildStdin,
}

impl Client {
    pub(crate) fn open(server: &Postgres, database: &str, name: &str) -> Self {
        let url = format!("{}?application_name={name}", server.uri_of(database));
        let mut command = tool("psql");
        command.args(["--no-psqlrc", "--quiet", "--dbname", &url]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        Self { child, input }
    }

    /// Sends statements, and does not wait for what comes of them.
    pub(crate) fn send(&mut self, statements: &str) {
        self.input.write_all(statements.as_bytes()).unwrap();
        self.input.write_all(b"\n").unwrap();
        self.input.flush().unwrap();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process of the client that calls itself `name` once it is as `condition` says.
#[track_caller]
pub(crate) fn process_when(server: &Postgres, name: &str, condition: &str) -> String {
    let query =
        format!("SELECT pid::text FROM pg_stat_activity WHERE application_name = '{name}' AND {condition}");
    let mut found = Vec::new();
    wait_for(&format!("{name}: {condition}"), || {
        found = server.texts("postgres", &query);
        !found.is_empty()
    });
    found.remove(0)
}
