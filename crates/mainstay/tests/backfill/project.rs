//! A project with declared backfills and a database of its own.

use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use mainstay_testkit::{Mongod, Postgres, unique_database};
use mongodb::Database;
use mongodb::bson::{Document, doc};
use serde_json::Value;

use crate::binary::{Place, Seen};

/// Adds points to users, of whom each must get them once.
pub(crate) const POINTS: &str = r#"
[[backfill]]
id = "points"
store = "mongo"
collection = "users"
guard = '{ "counted": { "$exists": false } }'
update = '{ "$inc": { "points": 7 }, "$set": { "counted": true } }'
fields = ["points", "counted"]
verify = '{ "points": { "$lt": 7 } }'
batch = 500
"#;

/// A project folder whose server is a test's.
pub(crate) struct Project {
    pub(crate) place: Place,
    store: &'static str,
    head: String,
}

impl Project {
    /// On a database of its own of `mongod`, which is also given.
    pub(crate) async fn mongo(mongod: &Mongod, declared: &str) -> (Self, Database) {
        let name = unique_database();
        let head = format!("[mongo]\nurl = \"{}\"\ndatabase = \"{name}\"\n", mongod.uri());
        let database = mongod.oracle().await.database(&name);
        (Self::new("mongo", head, declared), database)
    }

    /// On the database `name` of `server`.
    pub(crate) fn postgres(server: &Postgres, name: &str, declared: &str) -> Self {
        Self::new("postgres", format!("[postgres]\nurl = \"{}\"\n", server.uri_of(name)), declared)
    }

    fn new(store: &'static str, head: String, declared: &str) -> Self {
        let project = Self { place: Place::new().variable("NO_COLOR", "1"), store, head };
        project.declare("development", declared);
        project.mark();
        project
    }

    /// Writes `mainstay.toml` again.
    pub(crate) fn declare(&self, class: &str, declared: &str) {
        let text = format!(
            "[environment]\nname = \"tests-{class}\"\nclass = \"{class}\"\n[repository]\nurl = \"file:./repository\"\nlease_ttl = \"1s\"\n{}{declared}",
            self.head
        );
        self.place.write("mainstay.toml", &text);
    }

    /// Marks the server, which others may do at the same moment.
    fn mark(&self) {
        loop {
            drop(std::fs::remove_file(self.place.path("mark.json")));
            let planned = self.run(&["environment", "mark", "--store", self.store, "--output", "mark.json"]);
            if planned.status != 0 || !self.place.path("mark.json").exists() {
                assert!(planned.status == 8 || planned.status == 0, "{}", planned.both());
                return;
            }
            let applied = self.approve("mark.json");
            if applied.status != 9 {
                assert_eq!(applied.status, 0, "{}", applied.both());
                return;
            }
        }
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Seen {
        self.place.run(arguments)
    }

    /// Runs, and expects this status.
    #[track_caller]
    pub(crate) fn expect(&self, status: i32, arguments: &[&str]) -> Seen {
        let seen = self.run(arguments);
        assert_eq!(seen.status, status, "{arguments:?}: {}", seen.both());
        seen
    }

    /// Runs with `--json`, expects this status, and gives what was printed.
    #[track_caller]
    pub(crate) fn json(&self, status: i32, arguments: &[&str]) -> Value {
        let seen = self.expect(status, &[arguments, &["--json"]].concat());
        serde_json::from_str(&seen.stdout).unwrap_or_else(|error| panic!("{error}: {}", seen.both()))
    }

    /// The hash of a plan file.
    pub(crate) fn hash(&self, file: &str) -> String {
        self.json(0, &["plan", "show", file])["plan_hash"].as_str().unwrap().to_owned()
    }

    /// Applies a plan file, approved.
    pub(crate) fn approve(&self, file: &str) -> Seen {
        self.run(&["apply", file, "--approve", &self.hash(file), "--json"])
    }

    /// Plans with `command` into a file, and applies it; the status is that of applying.
    #[track_caller]
    pub(crate) fn carry_out(&self, status: i32, command: &[&str]) -> Value {
        drop(std::fs::remove_file(self.place.path("plan.json")));
        self.expect(0, &[command, &["--output", "plan.json"]].concat());
        let seen = self.approve("plan.json");
        assert_eq!(seen.status, status, "{command:?}: {}", seen.both());
        serde_json::from_str(&seen.stdout).unwrap_or(Value::Null)
    }

    /// Applies again until the lease of whoever was killed has run out.
    pub(crate) fn go_on(&self, file: &str) -> Seen {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let seen = self.approve(file);
            if seen.status != 10 || Instant::now() > deadline {
                return seen;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// `count` documents made by the server itself; `document` is an expression in which `$n` is the number.
pub(crate) async fn fill(database: &Database, name: &str, count: i32, document: Document) {
    let seeds: Vec<Document> = (0..count).step_by(10_000).map(|first| doc! { "_id": first }).collect();
    let from = database.collection::<Document>("seeds");
    from.insert_many(seeds).await.unwrap();
    let last = doc! { "$min": [{ "$add": ["$_id", 10_000] }, count] };
    let stages = [
        doc! { "$project": { "n": { "$range": ["$_id", last] } } },
        doc! { "$unwind": "$n" },
        doc! { "$replaceWith": { "$mergeObjects": [{ "_id": "$n" }, document] } },
        doc! { "$out": name },
    ];
    let run = from.aggregate(stages).await.unwrap();
    let _: Vec<Document> = run.try_collect().await.unwrap();
    from.drop().await.unwrap();
}

/// How many documents match.
pub(crate) async fn count(database: &Database, collection: &str, filter: Document) -> u64 {
    database.collection::<Document>(collection).count_documents(filter).await.unwrap()
}
