//! What the tests share: projects with a folder of migrations, what a runner leaves behind, sessions that are in the way.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use mainstay_testkit::engines::{Drizzle, EngineKind, StockMigrate, locate};
use mainstay_testkit::{Postgres, Psql, shared_postgres, unique_database};
use serde_json::Value;

use crate::binary::{Place, Seen};

const TRACKING: &str = "drizzle.__drizzle_migrations";

/// A database of its own, marked as development, and a project that applies a folder to it.
pub(crate) struct Project {
    place: Place,
    pub(crate) server: &'static Postgres,
    pub(crate) database: String,
    folder: PathBuf,
}

/// What a runner leaves in a database: equal when nobody could tell which runner it was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Left {
    /// The rows of the tracking table, each as JSON without the moment at which it was written, and whether there is one.
    rows: Vec<String>,
    /// Where its sequence is.
    sequence: Vec<String>,
    /// The tracking table without its rows, as `pg_dump` writes it.
    table: String,
    /// Everything else without rows.
    schema: String,
}

/// The binary at work.
pub(crate) struct Running(Child);

impl Project {
    /// An empty database.
    pub(crate) fn new(folder: &Path) -> Self {
        Self::copy_of(marked_database(), folder)
    }

    /// A database as `template` is now.
    pub(crate) fn copy_of(template: &str, folder: &Path) -> Self {
        let (server, database) = (shared_postgres(), unique_database());
        server
            .execute("postgres", &format!("CREATE DATABASE \"{database}\" TEMPLATE \"{template}\""))
            .unwrap();
        Self { place: place_of(server, &database, folder), server, database, folder: folder.to_path_buf() }
    }

    /// The stock migrator on the same folder and database.
    pub(crate) fn stock(&self, line: Drizzle) -> StockMigrate {
        line.migrate(&self.folder, &self.server.uri_of(&self.database))
    }

    /// Runs `mainstay sql` with these arguments.
    pub(crate) fn sql(&self, arguments: &[&str]) -> Seen {
        let mut all = vec!["sql"];
        all.extend(arguments);
        self.place.run(&all)
    }

    /// Plans, approves and applies what is pending, whatever it does to data.
    #[track_caller]
    pub(crate) fn apply(&self) {
        const FILE: &str = "plan.json";
        let planned = self.sql(&["apply", "--output", FILE, "--json"]).expect(0).json();
        // Nothing is pending, and there is no plan of that.
        if planned["file"].is_null() {
            return;
        }
        let hash = planned["plan_hash"].as_str().unwrap();
        self.place.run(&["apply", FILE, "--approve", hash]).expect(0);
        fs::remove_file(self.place.path(FILE)).unwrap();
    }

    /// Begins `mainstay sql apply`.
    pub(crate) fn begin(&self) -> Running {
        let mut command = self.place.command(&["sql", "apply"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running(command.spawn().unwrap())
    }

    /// The numbers of the migrations that did anything, in the order in which they did.
    pub(crate) fn ran(&self) -> Vec<String> {
        self.texts_of("ran", "SELECT tag FROM ran ORDER BY id")
    }

    /// How many rows the tracking table has.
    pub(crate) fn row_count(&self) -> usize {
        self.texts_of(TRACKING, &format!("SELECT id::text FROM {TRACKING}")).len()
    }

    pub(crate) fn left(&self) -> Left {
        let rows = format!(
            "SELECT (to_jsonb(t) - 'applied_at')::text || ' ' || (to_jsonb(t) ->> 'applied_at' IS NOT NULL)::text \
             FROM {TRACKING} t ORDER BY id"
        );
        let sequence = format!("SELECT last_value::text || ' ' || is_called::text FROM {TRACKING}_id_seq");
        Left {
            rows: self.texts_of(TRACKING, &rows),
            sequence: self.texts_of(TRACKING, &sequence),
            table: self.dumped(&["--schema=drizzle"]),
            // What is our own alone is not of the project: the marker, and steps that have not ended.
            schema: self.dumped(&["--exclude-schema=mainstay", "--exclude-schema=drizzle"]),
        }
    }

    /// What a query gives, as text; nothing where `table` is absent.
    fn texts_of(&self, table: &str, query: &str) -> Vec<String> {
        let is_there = format!("SELECT (to_regclass('{table}') IS NOT NULL)::text");
        match self.server.texts(&self.database, &is_there) == ["true"] {
            true => self.server.texts(&self.database, query),
            false => Vec::new(),
        }
    }

    /// What `pg_dump` writes of definitions; nothing where there is none of them.
    fn dumped(&self, arguments: &[&str]) -> String {
        let mut dump = tool("pg_dump");
        dump.arg("--schema-only").args(arguments).arg("--dbname").arg(self.server.uri_of(&self.database));
        let dumped = dump.output().unwrap();
        let complaints = String::from_utf8_lossy(&dumped.stderr);
        assert!(dumped.status.success() || complaints.contains("no matching schemas"), "{complaints}");
        let text = String::from_utf8(dumped.stdout).unwrap();
        // Each dump has a word of its own in these lines.
        let is_its_own = |line: &str| line.starts_with("\\restrict") || line.starts_with("\\unrestrict");
        text.lines().filter(|line| !is_its_own(line)).collect::<Vec<_>>().join("\n")
    }

    /// Waits until a query of one truth gives it.
    #[track_caller]
    pub(crate) fn wait_until(&self, condition: &str) {
        let query = format!("SELECT ({condition})::text");
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.server.texts(&self.database, &query) != ["true"] {
            assert!(Instant::now() < deadline, "waited in vain: {condition}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Left {
    /// Everything but the tracking table.
    pub(crate) fn schema(&self) -> &str {
        &self.schema
    }
}

impl Running {
    pub(crate) fn end(self) -> Seen {
        self.0.wait_with_output().unwrap().into()
    }
}

/// The project's folder with its configuration.
fn place_of(server: &Postgres, database: &str, folder: &Path) -> Place {
    let place = Place::new().variable("MAINSTAY_REPOSITORY_URL", "file:./repository");
    let (url, folder) = (server.uri_of(database), folder.display());
    place.write(
        "mainstay.toml",
        &format!("[environment]\nname = \"tests\"\nclass = \"development\"\n\n[postgres]\nurl = \"{url}\"\n\n[sql]\nfolder = \"{folder}\"\n"),
    );
    place
}

/// An empty database that is marked as the projects' environment, to be copied.
fn marked_database() -> &'static str {
    static MARKED: OnceLock<String> = OnceLock::new();
    MARKED.get_or_init(|| {
        let server = shared_postgres();
        let database = server.create_database();
        let place = place_of(server, &database, Path::new("drizzle"));
        let plan = ["environment", "mark", "--store", "postgres", "--output", "mark.json", "--json"];
        let planned = place.run(&plan).expect(0).json();
        let hash = planned["plans"][0]["plan_hash"].as_str().unwrap();
        place.run(&["apply", "mark.json", "--approve", hash]).expect(0);
        database
    })
}

/// A folder for a test.
pub(crate) struct Migrations(tempfile::TempDir);

impl Migrations {
    /// The first `count` migrations of `folder`.
    pub(crate) fn first(count: usize, folder: &Path, line: Drizzle) -> Self {
        let taken = tempfile::tempdir().unwrap();
        match line {
            Drizzle::Zero => {
                let text = fs::read_to_string(folder.join("meta/_journal.json")).unwrap();
                let mut journal: Value = serde_json::from_str(&text).unwrap();
                journal["entries"].as_array_mut().unwrap().truncate(count);
                fs::create_dir(taken.path().join("meta")).unwrap();
                fs::write(taken.path().join("meta/_journal.json"), journal.to_string()).unwrap();
                for entry in journal["entries"].as_array().unwrap() {
                    let name = format!("{}.sql", entry["tag"].as_str().unwrap());
                    fs::copy(folder.join(&name), taken.path().join(&name)).unwrap();
                }
            }
            Drizzle::One => {
                let mut names: Vec<_> =
                    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
                names.sort();
                for name in names.iter().take(count) {
                    fs::create_dir(taken.path().join(name)).unwrap();
                    let file = Path::new(name).join("migration.sql");
                    fs::copy(folder.join(&file), taken.path().join(&file)).unwrap();
                }
            }
        }
        Self(taken)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

fn tool(name: &str) -> Command {
    Command::new(locate(EngineKind::PgClient).unwrap().tool(name))
}

/// A session of somebody else that has done `statements`, and keeps what they opened.
#[track_caller]
pub(crate) fn client_that_did(project: &Project, statements: &str) -> Psql {
    let mut client = Psql::open(project.server, &project.database, "somebody");
    client.send(statements);
    project.wait_until(
        "EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'somebody' \
         AND datname = current_database() AND state = 'idle in transaction' AND query !~* '^begin')",
    );
    client
}
