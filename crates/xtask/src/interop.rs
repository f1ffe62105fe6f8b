//! `cargo xtask interop mongo`: dumps of ours restored by the stock tool, and dumps of the stock tool loaded by us.
//!
//! The sample stack's data and one collection of every kind and type go through each form and each direction; the server's own `dbHash` and the
//! descriptions of all collections say whether they came through. Dumps that the stock tool makes with `--oplog`, while somebody writes, must
//! come as the moment of their end. Needs `mongodump` and `mongorestore` on the PATH, and fails without them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mainstay_testkit::servers::Mongod;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::{Acknowledgment, DatabaseOptions, WriteConcern};

use crate::Outcome;
use crate::bench::on_path;
use crate::programs::{build, plan_hash, target_folder};

const DATABASE: &str = "interop";

/// What may be said after `cargo xtask interop`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(clap::Subcommand)]
enum Subject {
    /// Archives and folders of MongoDB, with `mongodump` and `mongorestore`.
    Mongo,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    match arguments.subject {
        Subject::Mongo => mongo(),
    }
}

/// A form of a dump: its name, and what each tool is told to make or take it.
struct Form {
    name: &'static str,
    gzip: bool,
    folder: bool,
}

const FORMS: [Form; 4] = [
    Form { name: "archive", gzip: false, folder: false },
    Form { name: "archive.gz", gzip: true, folder: false },
    Form { name: "folder", gzip: false, folder: true },
    Form { name: "folder.gz", gzip: true, folder: true },
];

struct Bench {
    from: Mongod,
    to: Mongod,
    folder: PathBuf,
    mainstay: PathBuf,
    mongodump: PathBuf,
    mongorestore: PathBuf,
    runtime: tokio::runtime::Runtime,
}

/// What a server says of the database: hashes of its collections, and what each is.
type Testimony = (Vec<(String, String)>, Vec<Document>);

fn mongo() -> Outcome {
    let [Some(mongodump), Some(mongorestore)] = ["mongodump", "mongorestore"].map(on_path) else {
        return Err("mongodump and mongorestore are not both on the PATH".into());
    };
    crate::engines::install()?;
    let [mainstay, marketplace] = build(["mainstay", "marketplace"], false)?;
    let folder = target_folder().join("interop");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (from, to) = (Mongod::start()?, Mongod::start()?);
    let bench = Bench { from, to, folder, mainstay, mongodump, mongorestore, runtime };
    bench.fill(&marketplace)?;
    bench.mark()?;
    let expected = bench.testimony(&bench.from)?;
    for form in &FORMS {
        for ours_first in [true, false] {
            let path =
                bench.folder.join(format!("{}.{}", if ours_first { "ours" } else { "theirs" }, form.name));
            let (made, taken) = if ours_first {
                (bench.dump(form, &path), bench.restore(form, &path))
            } else {
                (bench.stock_dump(form, &path), bench.load(&path))
            };
            succeed(made)?;
            bench.clear()?;
            succeed(taken)?;
            let way = if ours_first { "mainstay dump -> mongorestore" } else { "mongodump -> mainstay load" };
            let found = bench.testimony(&bench.to)?;
            if found != expected {
                return Err(format!("{way}, {}: expected {expected:#?}, found {found:#?}", form.name).into());
            }
            println!("{way}, {}: {} collections equal", form.name, expected.0.len());
        }
    }
    bench.fill_up()?;
    for form in &FORMS {
        bench.busy(form)?;
    }
    Ok(())
}

/// How often a dump is made that ended before the writer had.
const TRIES: u32 = 8;

impl Bench {
    fn fill(&self, marketplace: &Path) -> Outcome {
        let mut load = Command::new(marketplace);
        load.args(["load", "--db", DATABASE, "--scale", "0.02", "--seed", "7"]);
        succeed(load.env("MARKETPLACE_MONGO_URL", self.from.uri()))?;
        self.runtime.block_on(async {
            let database = self.from.oracle().await.database(DATABASE);
            let long = format!("{}{}", "L".repeat(160), "é".repeat(20));
            for command in [
                doc! { "create": "empty" },
                doc! { "create": "capped", "capped": true, "size": 100_000, "max": 50 },
                doc! { "create": "clustered", "clusteredIndex": { "key": { "_id": 1 }, "unique": true } },
                doc! { "create": "french", "collation": { "locale": "fr" } },
                doc! { "create": "checked", "validator": { "n": { "$gte": 0 } }, "validationAction": "error" },
                doc! { "create": "series", "timeseries": { "timeField": "at", "metaField": "m" } },
                doc! { "create": "images", "changeStreamPreAndPostImages": { "enabled": true } },
                doc! { "create": "seen", "viewOn": "checked", "pipeline": [{ "$match": { "n": { "$gt": 1 } } }] },
                doc! { "create": &long },
                doc! { "create": "weird name/with%slash&plus+日本" },
            ] {
                database.run_command(command).await?;
            }
            let documents = (0..40).map(|n| {
                doc! { "_id": n, "n": n, "text": "é\0", "none": Bson::Null, "min": Bson::MinKey, "at": mongodb::bson::Timestamp { time: 0, increment: 0 } }
            });
            let documents: Vec<Document> = documents.collect();
            for name in ["capped", "clustered", "french", "checked", "images", &long, "weird name/with%slash&plus+日本"] {
                database.collection::<Document>(name).insert_many(&documents).await?;
            }
            let points = (0..500_i64).map(|n| doc! { "at": mongodb::bson::DateTime::from_millis(1_700_000_000_000 + n * 1_000), "m": n % 3, "v": n as f64 });
            database.collection::<Document>("series").insert_many(points).await?;
            let indexes = doc! { "createIndexes": "french", "indexes": [
                { "key": { "text": "text" }, "name": "words" },
                { "key": { "n": 1 }, "name": "n", "unique": true, "partialFilterExpression": { "n": { "$gt": 5 } } },
                { "key": { "at": "hashed" }, "name": "hash" },
            ] };
            // A text index cannot have the collection's collation.
            let mut indexes = indexes;
            if let Ok(all) = indexes.get_array_mut("indexes") && let Some(Bson::Document(text)) = all.first_mut() {
                text.insert("collation", doc! { "locale": "simple" });
            }
            database.run_command(indexes).await?;
            Ok::<_, mongodb::error::Error>(())
        })?;
        Ok(())
    }

    /// Marks the target as development, so that loads into it need nobody's consent.
    fn mark(&self) -> Outcome {
        let file = "mark.json";
        succeed(self.own(&self.to, "to").args([
            "environment",
            "mark",
            "--store",
            "mongo",
            "--output",
            file,
        ]))?;
        let hash = plan_hash(self.own(&self.to, "to"), file)?;
        succeed(self.own(&self.to, "to").args(["apply", file, "--approve", &hash]))
    }

    fn clear(&self) -> Outcome {
        self.runtime.block_on(async { self.to.oracle().await.database(DATABASE).drop().await })?;
        Ok(())
    }

    fn testimony(&self, server: &Mongod) -> Result<Testimony, Box<dyn std::error::Error>> {
        self.runtime.block_on(async {
            let mut hashes: Vec<_> = server.db_hash(DATABASE).await?.into_iter().collect();
            hashes.sort();
            let database = server.oracle().await.database(DATABASE);
            let listed = database.run_command(doc! { "listCollections": 1, "cursor": { "batchSize": 1_000 } }).await?;
            let mut described = Vec::new();
            for entry in listed.get_document("cursor")?.get_array("firstBatch")? {
                let Some(entry) = entry.as_document() else { continue };
                let name = entry.get_str("name")?;
                let mut said = doc! { "name": name, "type": entry.get_str("type")?, "options": entry.get_document("options")?.clone() };
                if entry.get_str("type")? == "collection" {
                    let indexes = database.run_command(doc! { "listIndexes": name }).await?;
                    let mut indexes = indexes.get_document("cursor")?.get_array("firstBatch")?.clone();
                    indexes.sort_by_key(ToString::to_string);
                    said.insert("indexes", indexes);
                }
                described.push(said);
            }
            described.sort_by_key(ToString::to_string);
            Ok((hashes, described))
        })
    }

    /// Adds as much as keeps a dump busy for a while.
    fn fill_up(&self) -> Outcome {
        self.runtime.block_on(async {
            let large = self.from.oracle().await.database(DATABASE).collection::<Document>("large");
            for batch in 0..60 {
                let many = (0..1_000)
                    .map(|n| doc! { "_id": batch * 1_000 + n, "text": format!("{n} ").repeat(300) });
                large.insert_many(many).await?;
            }
            Ok::<_, mongodb::error::Error>(())
        })?;
        Ok(())
    }

    /// A dump of the stock tool with `--oplog`, made while somebody writes, comes as the last moment of its oplog. The writer ends before
    /// the dump does, so that this moment is what the server holds afterwards.
    fn busy(&self, form: &Form) -> Outcome {
        let mut quiet = Duration::from_millis(1_500);
        for attempt in 1..=TRIES {
            let path = self.folder.join(format!("busy-{attempt}.{}", form.name));
            let began = Instant::now();
            let mut dump = self.stock_dump_of_all(form, &path).spawn()?;
            let (last, rounds) = self.runtime.block_on(self.write(began + quiet))?;
            let status = dump.wait()?;
            if !status.success() {
                return Err(format!("mongodump --oplog ended with {status}").into());
            }
            self.clear()?;
            let mut load = self.own(&self.to, "to");
            load.args(["mongo", "load", "--json"]).arg(&path).stdout(Stdio::piped());
            let loaded = load.output()?;
            if !loaded.status.success() {
                return Err(format!("{}: {}", form.name, String::from_utf8_lossy(&loaded.stderr)).into());
            }
            let report: serde_json::Value = serde_json::from_slice(&loaded.stdout)?;
            let oplog = &report["oplog"];
            if report["proven"] != true || oplog["entries"].as_u64().is_none() {
                return Err(format!("{}: not proven, or without an oplog: {report}", form.name).into());
            }
            let reached: Vec<u32> = oplog["reached"]
                .as_str()
                .unwrap_or_default()
                .split(':')
                .filter_map(|it| it.parse().ok())
                .collect();
            if reached < vec![last.time, last.increment] {
                // The dump was faster than the writer.
                quiet = quiet * 2 / 3;
                continue;
            }
            let (expected, found) = (self.testimony(&self.from)?, self.testimony(&self.to)?);
            if found != expected {
                return Err(format!(
                    "mongodump --oplog -> mainstay load, {}: expected {expected:#?}, found {found:#?}",
                    form.name
                )
                .into());
            }
            println!(
                "mongodump --oplog while {rounds} rounds were written -> mainstay load, {}: {} collections equal, {} entries replayed",
                form.name,
                expected.0.len(),
                oplog["entries"]
            );
            return Ok(());
        }
        Err(format!("no dump of {TRIES} took longer than its writer").into())
    }

    /// Writes until `deadline`: documents that come, change, go and come again, transactions, definitions. Gives the last position, and how often.
    async fn write(
        &self,
        deadline: Instant,
    ) -> Result<(mongodb::bson::Timestamp, i32), mongodb::error::Error> {
        let client = self.from.oracle().await;
        // Much is to happen in little time, so nobody waits for the journal.
        let options =
            DatabaseOptions::builder().write_concern(WriteConcern::from(Acknowledgment::Nodes(1))).build();
        let database = client.database_with_options(DATABASE, options);
        let busy = |name: &str| database.collection::<Document>(name);
        let mut round = 0;
        while round == 0 || Instant::now() < deadline {
            round += 1;
            for name in ["checked", "clustered", "french", "images"] {
                let (one, other) = (doc! { "_id": round % 40 }, doc! { "_id": (round + 7) % 40 });
                // What one collection has a unique index on is another field than the one that another's validator asks for.
                let field = if name == "french" { "m" } else { "n" };
                let fields = |value: i32| doc! { field: value, "round": round };
                busy(name)
                    .update_one(one.clone(), doc! { "$inc": { field: 1 }, "$set": { "round": round } })
                    .await?;
                busy(name).delete_one(other.clone()).await?;
                busy(name).replace_one(one, fields(1_000 + round)).upsert(true).await?;
                busy(name).update_one(other, doc! { "$set": fields(2_000 + round) }).upsert(true).await?;
            }
            busy("large")
                .update_one(doc! { "_id": round * 997 % 60_000 }, doc! { "$set": { "round": round } })
                .await?;
            busy("large").delete_one(doc! { "_id": round * 499 % 60_000 }).await?;
            for name in ["capped", "busy"] {
                busy(name).insert_one(doc! { "round": round }).await?;
            }
            let point = doc! { "at": mongodb::bson::DateTime::from_millis(1_700_000_000_000 + i64::from(round) * 10), "m": round % 3, "v": round };
            busy("series").insert_one(point).await?;
            let mut session = client.start_session().await?;
            session.start_transaction().await?;
            busy("images").insert_one(doc! { "round": round }).session(&mut session).await?;
            busy("busy").delete_many(doc! { "round": { "$lt": round - 30 } }).session(&mut session).await?;
            session.commit_transaction().await?;
            let other = format!("passing{}", round % 3);
            if round % 4 == 1 {
                database
                .run_command(
                    doc! { "createIndexes": &other, "indexes": [{ "key": { "round": 1 }, "name": "round" }] },
                )
                .await?;
            }
            busy(&other).insert_one(doc! { "round": round }).await?;
            if round % 10 == 0 {
                busy(&other).drop().await?;
            }
        }
        let oplog = client.database("local").collection::<Document>("oplog.rs");
        let newest = oplog
            .find_one(doc! { "ns": { "$regex": format!("^{DATABASE}") } })
            .sort(doc! { "$natural": -1 })
            .await?;
        let last = newest.and_then(|newest| newest.get_timestamp("ts").ok());
        Ok((last.unwrap_or(mongodb::bson::Timestamp { time: 0, increment: 0 }), round))
    }

    fn stock_dump_of_all(&self, form: &Form, path: &Path) -> Command {
        let mut command = Command::new(&self.mongodump);
        command.args([format!("--uri={}", self.from.uri()), "--oplog".to_owned(), "--quiet".to_owned()]);
        command.arg(format!("--{}={}", if form.folder { "out" } else { "archive" }, path.display()));
        command.args(form.gzip.then_some("--gzip"));
        command
    }

    /// Our binary, configured for one of the servers in a folder of its own.
    fn own(&self, server: &Mongod, name: &str) -> Command {
        let folder = self.folder.join(name);
        let text = format!(
            "[environment]\nname = \"interop\"\nclass = \"development\"\n[mongo]\nurl = \"{}\"\n[repository]\nurl = \"file:./repository\"\n",
            server.uri()
        );
        // What cannot be written is told by the command that misses it.
        drop(fs::create_dir_all(&folder));
        drop(fs::write(folder.join("mainstay.toml"), text));
        let mut command = Command::new(&self.mainstay);
        command.current_dir(folder).arg("--quiet").stdout(Stdio::null());
        command
    }

    fn dump(&self, form: &Form, path: &Path) -> Command {
        let mut command = self.own(&self.from, "from");
        command.args([
            "mongo",
            "dump",
            "--db",
            DATABASE,
            if form.folder { "--directory" } else { "--output" },
        ]);
        command.arg(path).args(form.gzip.then_some("--gzip"));
        command
    }

    fn load(&self, path: &Path) -> Command {
        let mut command = self.own(&self.to, "to");
        command.args(["mongo", "load"]).arg(path);
        command
    }

    fn stock_dump(&self, form: &Form, path: &Path) -> Command {
        let mut command = Command::new(&self.mongodump);
        command.args([
            format!("--uri={}", self.from.uri()),
            format!("--db={DATABASE}"),
            "--quiet".to_owned(),
        ]);
        command.arg(format!("--{}={}", if form.folder { "out" } else { "archive" }, path.display()));
        command.args(form.gzip.then_some("--gzip"));
        command
    }

    fn restore(&self, form: &Form, path: &Path) -> Command {
        let mut command = Command::new(&self.mongorestore);
        command.args([format!("--uri={}", self.to.uri()), "--quiet".to_owned(), "--stopOnError".to_owned()]);
        command.arg(format!("--{}={}", if form.folder { "dir" } else { "archive" }, path.display()));
        command.args(form.gzip.then_some("--gzip"));
        command
    }
}

fn succeed(mut command: impl std::borrow::BorrowMut<Command>) -> Outcome {
    let command = command.borrow_mut();
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} ended with {status}").into()) }
}
