//! A Mongoose project in a folder, a database of its own, the binary, and stock Mongoose beside it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use mainstay_testkit::engines::Mongoose;
use mainstay_testkit::{Mongod, unique_database};
use mongodb::bson::{Document, doc};
use serde_json::Value;

const STOCK: &str = include_str!("stock.cjs");

/// A project.
pub(crate) struct Project {
    folder: tempfile::TempDir,
    url: String,
    pub(crate) database: String,
    pub(crate) client: mongodb::Client,
}

/// What a run gave.
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    pub(crate) fn expect(self, status: i32) -> Self {
        assert_eq!(self.status, status, "{}\n{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.both().contains(text), "`{text}` is not in:\n{}", self.both());
        self
    }

    #[track_caller]
    pub(crate) fn silent_about(self, text: &str) -> Self {
        assert!(!self.both().contains(text), "`{text}` is in:\n{}", self.both());
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}:\n{}", self.both()))
    }

    fn both(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }
}

impl Project {
    /// A project on `mongod`; without Mongoose.
    pub(crate) async fn new(mongod: &Mongod) -> Self {
        let (url, client) = (mongod.uri(), mongod.oracle().await);
        let project = Self { folder: tempfile::tempdir().unwrap(), url, database: unique_database(), client };
        project.configure("");
        project
    }

    /// The same with a major version of Mongoose.
    pub(crate) async fn with(mongod: &Mongod, major: Mongoose) -> Self {
        let project = Self::new(mongod).await;
        symlink(major.modules().unwrap(), project.path("node_modules")).unwrap();
        project.write("stock.cjs", STOCK);
        project
    }

    /// Writes `mainstay.toml`; `more` is appended to its section on MongoDB.
    pub(crate) fn configure(&self, more: &str) {
        let text = format!(
            "[environment]\nname = \"tests\"\nclass = \"development\"\n\n[repository]\nurl = \"file:./repository\"\n\n[mongo]\nurl = \"{}\"\ndatabase = \"{}\"\n{more}",
            self.url, self.database
        );
        self.write("mainstay.toml", &text);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Runs the binary with a clean environment, but for the PATH that has Node.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("HOME", self.folder.path())
            .env("PATH", std::env::var_os("PATH").unwrap())
            .stdin(Stdio::null());
        Ran::of(command.output().unwrap())
    }

    /// As [`Project::run`] with `--json`; the run must end with `status`.
    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str], status: i32) -> Value {
        let mut all = arguments.to_vec();
        all.push("--json");
        self.run(&all).expect(status).json()
    }

    /// What stock Mongoose does and says, by model.
    #[track_caller]
    pub(crate) fn stock(&self, action: &str, models: &str) -> Value {
        let mut command = Command::new("node");
        let url = self.url.replacen("/?", &format!("/{}?", self.database), 1);
        assert!(url.contains(&self.database), "{url}");
        command.args(["stock.cjs", action, &url, models]).current_dir(self.folder.path());
        Ran::of(command.output().unwrap()).expect(0).json()
    }

    /// What stock Mongoose would drop and build, over all models: `drop a_1`, `build {"a":1}`.
    #[track_caller]
    pub(crate) fn stock_diff(&self, models: &str) -> Vec<String> {
        let told = self.stock("diff", models);
        let of_model = |diff: &Value| -> Vec<String> {
            let list = |key: &str| diff[key].as_array().cloned().unwrap_or_else(|| panic!("{diff}"));
            let dropped = list("toDrop").into_iter().map(|name| format!("drop {}", name.as_str().unwrap()));
            dropped.chain(list("toCreate").into_iter().map(|index| format!("build {index}"))).collect()
        };
        told.as_object().unwrap().values().flat_map(of_model).collect()
    }

    /// Imports the models and compares: the lines of the drift that are no agreement, as `standing collection.index`.
    #[track_caller]
    pub(crate) fn drift(&self, models: &str) -> Vec<String> {
        drop(fs::remove_file(self.path("indexes.toml")));
        self.run(&["index", "import", "mongoose", models, "--output", "indexes.toml"]).expect(0);
        let arguments = ["index", "drift", "--manifest", "indexes.toml", "--json"];
        let ran = self.run(&arguments);
        let told = ran.json();
        let rows = told["indexes"].as_array().unwrap();
        let apart: Vec<String> = rows
            .iter()
            .filter(|row| row["standing"] != "same")
            .map(|row| {
                let word = |key: &str| row[key].as_str().unwrap().to_owned();
                format!("{} {}.{}", word("standing"), word("collection"), word("index"))
            })
            .collect();
        let is_drift = rows.iter().any(|row| row["standing"] != "same" && row["standing"] != "reversed");
        assert_eq!(ran.status, if is_drift { 3 } else { 0 }, "{told}");
        assert_eq!(told["is_drift"], is_drift);
        apart
    }

    /// Marks the environment, so that the project counts as development, then plans and applies, approved beforehand.
    pub(crate) fn apply(&self) {
        let approve = |planned: &Value, file: &str| {
            let hash =
                planned["plan_hash"].as_str().or_else(|| planned["plans"][0]["plan_hash"].as_str()).unwrap();
            self.run(&["apply", file, "--approve", hash])
        };
        loop {
            drop(fs::remove_file(self.path("mark.json")));
            let planned = self.json(&["environment", "mark", "--store", "mongo", "--output", "mark.json"], 0);
            // Tests share a server: another one may have marked it in between, and then this plan is stale.
            let ran = approve(&planned, "mark.json");
            if ran.status != 9 {
                ran.expect(0);
                break;
            }
        }
        let planned = self.json(&["index", "plan", "--output", "plan.json"], 0);
        approve(&planned, "plan.json").expect(0);
    }

    /// Runs a command on the project's database.
    pub(crate) async fn command(&self, command: Document) {
        self.client.database(&self.database).run_command(command).await.unwrap();
    }

    /// Builds indexes past everybody.
    pub(crate) async fn build(&self, collection: &str, indexes: &[Document]) {
        self.command(doc! { "createIndexes": collection, "indexes": indexes }).await;
    }

    pub(crate) async fn insert(&self, collection: &str, documents: &[Document]) {
        let collection = self.client.database(&self.database).collection::<Document>(collection);
        collection.insert_many(documents).await.unwrap();
    }
}
