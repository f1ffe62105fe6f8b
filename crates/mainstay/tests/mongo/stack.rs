//! A user with a project folder, the real binary, and real servers behind it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use mainstay_testkit::{Mongod, unique_database};
use mongodb::bson::{Bson, Document, doc, oid::ObjectId};
use serde_json::Value;

/// A project folder with a `mainstay.toml`, and a database of its own on a mongod.
pub(crate) struct Project {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) database: String,
}

/// What a run of the binary gave.
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The JSON on stdout.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    /// Asserts the exit status, showing everything when it is another.
    #[track_caller]
    pub(crate) fn expect(self, status: i32) -> Self {
        assert_eq!(self.status, status, "{self}");
        self
    }

    /// Asserts that stdout and stderr together say `text`.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.stdout.contains(text) || self.stderr.contains(text), "`{text}` is not in: {self}");
        self
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "status {}\n--- stdout\n{}\n--- stderr\n{}", self.status, self.stdout, self.stderr)
    }
}

impl Project {
    /// A development project whose MongoDB is at `mongo_url` and whose repository is a folder in it.
    pub(crate) fn new(mongo_url: &str) -> Self {
        let project = Self { folder: tempfile::tempdir().unwrap(), database: unique_database() };
        project.configure(mongo_url, "file:./repository", "");
        project
    }

    /// As [`Project::new`] on `mongod`, marked as development, its database filled with `documents` documents; see [`fill`].
    pub(crate) async fn filled(mongod: &Mongod, documents: usize) -> Self {
        let project = Self::new(&mongod.uri());
        project.mark();
        fill(mongod, &project.database, documents).await;
        project
    }

    /// Writes `mainstay.toml` again; `more` is appended.
    pub(crate) fn configure(&self, mongo_url: &str, repository_url: &str, more: &str) {
        let text = format!(
            "[environment]\nname = \"tests\"\nclass = \"development\"\n\n[mongo]\nurl = \"{mongo_url}\"\ndatabase = \"{}\"\n\n[repository]\nurl = \"{repository_url}\"\nlease_ttl = \"2s\"\n{more}",
            self.database
        );
        fs::write(self.path("mainstay.toml"), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The binary, with a clean environment, in the project folder.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("HOME", self.folder.path())
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).output().unwrap())
    }

    pub(crate) fn spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments).spawn().unwrap()
    }

    /// Runs with `--json` and gives the answer; the run must succeed.
    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.push("--json");
        self.run(&all).expect(0).json()
    }

    /// Marks the environment, so that the project counts as development and not as unknown.
    pub(crate) fn mark(&self) {
        loop {
            drop(fs::remove_file(self.path("mark.json")));
            let planned = self.json(&["environment", "mark", "--store", "mongo", "--output", "mark.json"]);
            let hash = planned["plans"][0]["plan_hash"].as_str().unwrap();
            let ran = self.run(&["apply", "mark.json", "--approve", hash]);
            // Tests share a server: another one may have marked it in between, and then this plan is stale.
            if ran.status != 9 {
                ran.expect(0);
                return;
            }
        }
    }

    /// Takes a backup of the project's database and gives the set's id.
    #[track_caller]
    pub(crate) fn back_up(&self) -> String {
        self.json(&["backup", "create", "--store", "mongo"])["set"]["id"].as_str().unwrap().to_owned()
    }

    /// Plans a restore into `plan.json`, in place of an earlier one, and gives the plan's hash.
    #[track_caller]
    pub(crate) fn plan_restore(&self, arguments: &[&str]) -> String {
        drop(fs::remove_file(self.path("plan.json")));
        let mut all = vec!["restore", "plan"];
        all.extend(arguments);
        all.extend(["--output", "plan.json"]);
        self.json(&all)["plan_hash"].as_str().unwrap().to_owned()
    }

    /// Applies `plan.json` with consent.
    pub(crate) fn apply_restore(&self, hash: &str) -> Ran {
        self.run(&["restore", "apply", "plan.json", "--approve", hash])
    }

    /// Every file of the repository, by path.
    pub(crate) fn repository_files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        collect(&self.path("repository"), &mut files);
        files
    }
}

fn collect(folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files)
        } else {
            match fs::read(&path) {
                Ok(bytes) => drop(files.insert(path, bytes)),
                // A file that is being written gets another name when it is whole.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => panic!("{}: {error}", path.display()),
            }
        }
    }
}

/// Fills `database` with `documents` documents in three collections, a view, and indexes.
pub(crate) async fn fill(mongod: &Mongod, database: &str, documents: usize) {
    let database = mongod.oracle().await.database(database);
    for (name, share) in [("users", 2), ("orders", 1), ("día.de ño", 10)] {
        let collection = database.collection::<Document>(name);
        let batch: Vec<Document> = (0..(documents / share).max(1)).map(document).collect();
        for chunk in batch.chunks(5_000) {
            collection.insert_many(chunk).await.unwrap();
        }
    }
    let index = doc! { "createIndexes": "users", "indexes": [
        { "key": { "number": 1 }, "name": "number_1", "unique": true },
        { "key": { "tags": 1, "name": -1 }, "name": "tags_1_name_-1", "partialFilterExpression": { "number": { "$gt": 3 } } },
    ] };
    database.run_command(index).await.unwrap();
    database
        .run_command(
            doc! { "create": "named", "viewOn": "users", "pipeline": [{ "$match": { "name": "ü7" } }] },
        )
        .await
        .unwrap();
}

fn document(number: usize) -> Document {
    let id = if number.is_multiple_of(2) {
        Bson::ObjectId(ObjectId::from_bytes(padded(number)))
    } else {
        Bson::Int64(number as i64)
    };
    doc! {
        "_id": id,
        "number": number as i64,
        "name": format!("ü{}", number % 100),
        "tags": ["a", "b", format!("t{}", number % 7)],
        "text": "lorem ipsum ".repeat(number % 60),
        "nested": { "deep": { "value": number as f64 / 3.0, "nothing": Bson::Null } },
    }
}

fn padded(number: usize) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&(number as u64).to_be_bytes());
    bytes
}
