//! What the tests share: a project with a folder of migrations, a database of its own, sessions of other clients.

use std::process::{Child, Stdio};

pub(crate) use mainstay_testkit::wait_for;
use mainstay_testkit::{Postgres, Psql, shared_postgres};
use serde_json::{Value, json};

use crate::binary::{Place, Seen};

/// A project on a database of its own.
pub(crate) struct Shop {
    pub(crate) place: Place,
    pub(crate) database: String,
    entries: Vec<Value>,
}

impl Shop {
    /// One that is marked as development.
    pub(crate) fn new() -> Self {
        let shop = Self::unmarked();
        shop.mark();
        shop
    }

    /// One whose database bears no marker yet.
    pub(crate) fn unmarked() -> Self {
        let database = shared_postgres().create_database();
        let place = Place::new().variable("MAINSTAY_REPOSITORY_URL", "file:./repository");
        let shop = Self { place, database, entries: Vec::new() };
        shop.configure(&server().uri_of(&shop.database), "development");
        shop
    }

    /// Points the project at `url`, as an environment of `class`.
    pub(crate) fn configure(&self, url: &str, class: &str) {
        self.place.write(
            "mainstay.toml",
            &format!("[environment]\nname = \"tests\"\nclass = \"{class}\"\n\n[postgres]\nurl = \"{url}\"\n"),
        );
    }

    /// Marks the database as the configuration says.
    #[track_caller]
    pub(crate) fn mark(&self) {
        let planned =
            self.run(&["environment", "mark", "--store", "postgres", "--output", "mark.json", "--json"]);
        let hash = planned.expect(0).json()["plans"][0]["plan_hash"].as_str().unwrap().to_owned();
        self.run(&["apply", "mark.json", "--approve", &hash]).expect(0);
        std::fs::remove_file(self.place.path("mark.json")).unwrap();
    }

    /// Adds a migration of the 0.x line, `seconds` after the first of them, or writes another text or time for it.
    pub(crate) fn add(&mut self, tag: &str, seconds: i64, text: &str) {
        let when = 1_700_000_000_000 + seconds * 1_000;
        self.entries.retain(|entry| entry["tag"] != tag);
        self.entries.push(json!({"idx": 0, "version": "7", "when": when, "tag": tag, "breakpoints": true}));
        self.entries.sort_by_key(|entry| entry["tag"].as_str().unwrap().to_owned());
        for (index, entry) in self.entries.iter_mut().enumerate() {
            entry["idx"] = json!(index);
        }
        std::fs::create_dir_all(self.place.path("drizzle/meta")).unwrap();
        self.place.write(&format!("drizzle/{tag}.sql"), text);
        let journal = json!({"version": "7", "dialect": "postgresql", "entries": self.entries});
        self.place.write("drizzle/meta/_journal.json", &journal.to_string());
    }

    /// Adds a migration of the 1.0 line.
    pub(crate) fn add_folder(&self, name: &str, text: &str) {
        std::fs::create_dir_all(self.place.path("drizzle").join(name)).unwrap();
        self.place.write(&format!("drizzle/{name}/migration.sql"), text);
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Seen {
        self.place.run(arguments)
    }

    #[track_caller]
    pub(crate) fn apply(&self, more: &[&str]) -> Seen {
        self.run(&[&["sql", "apply"], more].concat())
    }

    #[track_caller]
    pub(crate) fn execute(&self, statements: &str) {
        server().execute(&self.database, statements).unwrap();
    }

    #[track_caller]
    pub(crate) fn texts(&self, query: &str) -> Vec<String> {
        server().texts(&self.database, query)
    }

    /// What the tracking table says, by `id`: `created_at` in seconds after the first migration.
    #[track_caller]
    pub(crate) fn rows(&self) -> Vec<String> {
        self.texts(
            "SELECT ((created_at - 1700000000000) / 1000)::text FROM drizzle.__drizzle_migrations ORDER BY id",
        )
    }

    /// The names of the tables in `public`.
    #[track_caller]
    pub(crate) fn tables(&self) -> Vec<String> {
        self.texts("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
    }
}

pub(crate) fn server() -> &'static Postgres {
    shared_postgres()
}

impl Shop {
    /// A session of somebody else that calls itself `name`.
    pub(crate) fn client(&self, name: &str) -> Psql {
        Psql::open(server(), &self.database, name)
    }

    /// Waits until a session here that calls itself `name` is as `condition` says; gives its process.
    #[track_caller]
    pub(crate) fn process_when(&self, name: &str, condition: &str) -> String {
        server().process_when(name, &format!("datname = '{}' AND {condition}", self.database))
    }
}

/// The binary, started and not waited for; killed when dropped.
pub(crate) struct Started(Child);

impl Started {
    pub(crate) fn begin(shop: &Shop, arguments: &[&str]) -> Self {
        let mut command = shop.place.command(arguments);
        Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), signal).unwrap();
    }

    /// Waits for its end; a status of -1 is that of a signal.
    pub(crate) fn end(mut self) -> Seen {
        let mut texts = [String::new(), String::new()];
        let status = {
            use std::io::Read as _;
            self.0.stdout.take().unwrap().read_to_string(&mut texts[0]).unwrap();
            self.0.stderr.take().unwrap().read_to_string(&mut texts[1]).unwrap();
            self.0.wait().unwrap().code().unwrap_or(-1)
        };
        let [stdout, stderr] = texts;
        Seen { status, stdout, stderr }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
