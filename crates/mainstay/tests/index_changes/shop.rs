//! A project with declared indexes and a database of its own.

use std::io::Read as _;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::binary::{Place, Seen};
use futures::TryStreamExt;
use mainstay_testkit::{Mongod, unique_database};
use mongodb::bson::{Bson, Document, doc};
use mongodb::{Collection, Database};
use serde_json::Value;

/// A project folder whose MongoDB is a test's.
pub(crate) struct Shop {
    pub(crate) place: Place,
    pub(crate) name: String,
    pub(crate) database: Database,
    uri: String,
    class: &'static str,
}

impl Shop {
    /// A development project on `mongod`, marked, with `declared` as its indexes and policy.
    pub(crate) async fn new(mongod: &Mongod, declared: &str) -> Self {
        Self::of_class(mongod, &mongod.uri(), "development", declared).await
    }

    /// The same in an environment of another class, reached by another url.
    pub(crate) async fn of_class(mongod: &Mongod, uri: &str, class: &'static str, declared: &str) -> Self {
        let name = unique_database();
        let database = mongod.oracle().await.database(&name);
        let place = Place::new().variable("NO_COLOR", "1");
        let shop = Self { place, name, database, uri: uri.to_owned(), class };
        shop.declare(declared);
        shop.mark();
        shop
    }

    /// Writes `mainstay.toml` again.
    pub(crate) fn declare(&self, declared: &str) {
        let text = format!(
            "[environment]\nname = \"tests-{0}\"\nclass = \"{0}\"\n[mongo]\nurl = \"{1}\"\ndatabase = \"{2}\"\n[repository]\nurl = \"file:./repository\"\nlease_ttl = \"1s\"\n{declared}",
            self.class, self.uri, self.name
        );
        self.place.write("mainstay.toml", &text);
    }

    /// Marks the server, which others of the same class may do at the same moment.
    fn mark(&self) {
        loop {
            drop(std::fs::remove_file(self.place.path("mark.json")));
            let planned = self.run(&["environment", "mark", "--store", "mongo", "--output", "mark.json"]);
            // It bears this very mark already.
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

    /// Plans into `file`, in the place of an earlier one, and gives what is said as JSON.
    #[track_caller]
    pub(crate) fn plan(&self, status: i32, file: &str, more: &[&str]) -> Value {
        drop(std::fs::remove_file(self.place.path(file)));
        let arguments = [&["index", "plan", "--output", file, "--json"], more].concat();
        serde_json::from_str(&self.expect(status, &arguments).stdout).unwrap()
    }

    /// The hash of a plan file.
    pub(crate) fn hash(&self, file: &str) -> String {
        let shown = self.run(&["plan", "show", file, "--json"]);
        let shown: Value =
            serde_json::from_str(&shown.stdout).unwrap_or_else(|error| panic!("{error}: {}", shown.both()));
        shown["plan_hash"].as_str().unwrap().to_owned()
    }

    /// Applies a plan file, approved.
    pub(crate) fn approve(&self, file: &str) -> Seen {
        self.run(&["apply", file, "--approve", &self.hash(file)])
    }

    /// Plans and applies.
    #[track_caller]
    pub(crate) fn change(&self) -> Seen {
        self.plan(0, "plan.json", &[]);
        let seen = self.approve("plan.json");
        assert_eq!(seen.status, 0, "{}", seen.both());
        seen
    }

    /// Begins to apply a plan file.
    pub(crate) fn begin(&self, file: &str) -> Child {
        let hash = self.hash(file);
        let mut command = self.place.command(&["index", "apply", file, "--approve", &hash]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Begins to apply a plan file as soon as the lease of whoever was killed has run out, and gives what it has said by the time that it says
    /// `word`.
    pub(crate) fn begin_until(&self, file: &str, word: &str) -> (Child, String) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let mut child = self.begin(file);
            let said = said_until(&mut child, word);
            if said.contains(word) {
                return (child, said);
            }
            let ended = child.wait().unwrap();
            assert!(ended.code() == Some(10) && Instant::now() < deadline, "{ended}: {said}");
        }
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

    pub(crate) fn collection(&self, name: &str) -> Collection<Document> {
        self.database.collection(name)
    }

    /// `count` documents made by the server itself; `document` is an expression in which `$n` is the number.
    pub(crate) async fn fill(&self, name: &str, count: i32, document: Document) {
        // A million numbers at once would be more than a document may hold.
        let seeds: Vec<Document> = (0..count).step_by(10_000).map(|first| doc! { "_id": first }).collect();
        self.database.collection::<Document>("seeds").insert_many(seeds).await.unwrap();
        let last = doc! { "$min": [{ "$add": ["$_id", 10_000] }, count] };
        let stages = [
            doc! { "$project": { "n": { "$range": ["$_id", last] } } },
            doc! { "$unwind": "$n" },
            doc! { "$replaceWith": { "$mergeObjects": [{ "_id": "$n" }, document] } },
            doc! { "$out": name },
        ];
        let run = self.database.collection::<Document>("seeds").aggregate(stages).await.unwrap();
        let _: Vec<Document> = run.try_collect().await.unwrap();
        self.database.collection::<Document>("seeds").drop().await.unwrap();
    }

    /// Builds an index beside mainstay.
    pub(crate) async fn index(&self, collection: &str, index: Document) {
        self.database.run_command(doc! { "createIndexes": collection, "indexes": [index] }).await.unwrap();
    }

    /// The indexes of a collection as the server lists them, by name, those that are being built under `building …`.
    pub(crate) async fn indexes(&self, collection: &str) -> std::collections::BTreeMap<String, Document> {
        let command = doc! { "listIndexes": collection, "includeBuildUUIDs": true };
        let Ok(cursor) = self.database.run_cursor_command(command).await else { return Default::default() };
        let listed: Vec<Document> = cursor.try_collect().await.unwrap();
        let named = listed.into_iter().map(|entry| match entry.get_document("spec") {
            Ok(spec) => (format!("building {}", spec.get_str("name").unwrap()), spec.clone()),
            Err(_) => (entry.get_str("name").unwrap().to_owned(), entry),
        });
        named.filter(|(name, _)| name != "_id_").collect()
    }

    pub(crate) async fn names(&self, collection: &str) -> Vec<String> {
        self.indexes(collection).await.into_keys().collect()
    }
}

/// The changes of a plan by `collection.index`.
pub(crate) fn changes(plan: &Value) -> std::collections::BTreeMap<String, Value> {
    let collections = plan["plan"]["parameters"]["collections"].as_array().unwrap();
    let of_collection = |collection: &Value| {
        let name = collection["name"].as_str().unwrap().to_owned();
        let changes = collection["changes"].as_array().unwrap().clone();
        changes
            .into_iter()
            .map(move |change| (format!("{name}.{}", change["change"]["index"].as_str().unwrap()), change))
    };
    collections.iter().flat_map(of_collection).collect()
}

/// The server's code when a write is refused.
pub(crate) fn write_code(error: &mongodb::error::Error) -> Option<i32> {
    match error.kind.as_ref() {
        mongodb::error::ErrorKind::Write(mongodb::error::WriteFailure::WriteError(error)) => Some(error.code),
        _ => None,
    }
}

/// Null.
pub(crate) const NULL: Bson = Bson::Null;

/// What `child` says on standard error, until it has said `word` or ends.
fn said_until(child: &mut Child, word: &str) -> String {
    let (mut said, mut piece) = (Vec::new(), [0; 1024]);
    let stderr = child.stderr.as_mut().unwrap();
    loop {
        let count = stderr.read(&mut piece).unwrap();
        said.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&said);
        if count == 0 || text.contains(word) {
            return text.into_owned();
        }
    }
}
