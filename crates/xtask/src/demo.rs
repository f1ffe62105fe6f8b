//! The demonstration: a real stack filled, backed up, destroyed, restored and proven equal.
//!
//! Everything is done by the programs a user would run, `mainstay` and `marketplace`, against servers of the test kit in temporary
//! folders; only the destruction and the second proof (`dbHash`, index lists) are done with the official driver. Refuses to call
//! anything proven that was not compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mainstay_testkit::servers::{Mongod, Postgres, Redis};
use mongodb::bson::{Document, doc};
use serde_json::Value;

use crate::Outcome;
use crate::programs::{build, plan_hash, target_folder};

const DATABASE: &str = "marketplace";
const PASSWORD: &str = "demo only";

/// What may be said after `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How much data: 1 is about 250,000 documents.
    #[arg(long, default_value = "1")]
    scale: String,
    /// Measure with an optimised build; takes longer to build.
    #[arg(long)]
    release: bool,
}

/// The stack of the demonstration, gone when dropped, and the folder that stays.
struct Stage {
    mongod: Mongod,
    _postgres: Postgres,
    redis: Redis,
    folder: PathBuf,
    mainstay: PathBuf,
    marketplace: PathBuf,
    times: Vec<(String, Duration)>,
}

/// What the server itself says of a database: a hash of every collection, and the indexes and options of each.
#[derive(Debug, PartialEq)]
struct Testimony {
    hashes: BTreeMap<String, String>,
    descriptions: BTreeMap<String, Vec<Document>>,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let began = Instant::now();
    crate::engines::install()?;
    let mut stage = set_up(arguments.release)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;

    chapter("1. fill the stack with the marketplace's data");
    stage.marketplace(&["load", "--db", DATABASE, "--scale", &arguments.scale, "--seed", "7"])?;
    for store in ["mongo", "postgres", "redis"] {
        let file = format!("mark-{store}.json");
        stage.mainstay(&["environment", "mark", "--store", store, "--output", &file])?;
        stage.mainstay(&["apply", &file])?;
    }
    stage.mainstay(&["status"])?;
    let before = runtime.block_on(testimony(&stage.mongod))?;

    chapter("2. back it up, and read the backup back");
    let backup = stage.mainstay_json(&["backup", "create", "--store", "mongo"])?;
    stage.mainstay(&["backup", "verify", "latest"])?;
    stage.mainstay(&["backup", "list"])?;

    chapter("3. destroy it");
    runtime.block_on(destroy(&stage.mongod))?;
    println!("the database `{DATABASE}` is dropped: {} collections gone", before.hashes.len());

    chapter("4. plan the restore, approve the plan, apply it");
    stage.mainstay(&["restore", "plan", "latest", "--drop", "--output", "restore.plan.json"])?;
    stage.mainstay(&["restore", "apply", "restore.plan.json"])?;

    chapter("5. prove it equal by the server's own testimony");
    let after = runtime.block_on(testimony(&stage.mongod))?;
    compare(&before, &after)?;
    stage.mainstay(&["audit", "verify"])?;

    report(&stage, &backup, began.elapsed());
    Ok(())
}

fn set_up(release: bool) -> Result<Stage, Box<dyn std::error::Error>> {
    let folder = target_folder().join("demo");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let [mainstay, marketplace] = build(["mainstay", "marketplace"], release)?;
    println!("starting MongoDB, PostgreSQL and Redis on free loopback ports");
    let mongod = Mongod::options().auth("admin", PASSWORD).cache_gib(0.5).start()?;
    let postgres = Postgres::start()?;
    let redis = Redis::start()?;
    let configuration = format!(
        "[environment]\nname = \"marketplace-demo\"\nclass = \"development\"\n\n\
         [mongo]\nurl = \"mongodb://{}/?directConnection=true\"\nusername = \"admin\"\nauth_source = \"admin\"\ndatabase = \"{DATABASE}\"\n\n\
         [postgres]\nurl = \"{}\"\n\n[redis]\nurl = \"{}\"\n\n[repository]\nurl = \"file:./repository\"\n",
        mongod.address(),
        postgres.uri(),
        redis.uri()
    );
    fs::write(folder.join("mainstay.toml"), configuration)?;
    Ok(Stage { mongod, _postgres: postgres, redis, folder, mainstay, marketplace, times: Vec::new() })
}

impl Stage {
    /// Runs `mainstay` as a user would, shows it, and fails when it fails. Plans are approved by their hash, for nobody sits at the terminal.
    fn mainstay(&mut self, arguments: &[&str]) -> Outcome {
        let approved = self.with_approval(arguments)?;
        println!("\n$ mainstay {}", shown(&approved));
        let mut command = self.mainstay_command(&approved);
        self.timed(&format!("mainstay {}", shown(&arguments[..arguments.len().min(2)])), &mut command)
    }

    /// As [`Stage::mainstay`], for an additive command, giving its JSON answer.
    fn mainstay_json(&mut self, arguments: &[&str]) -> Result<Value, Box<dyn std::error::Error>> {
        println!("\n$ mainstay {}", arguments.join(" "));
        let began = Instant::now();
        let output = self
            .mainstay_command(&arguments.iter().map(ToString::to_string).collect::<Vec<_>>())
            .arg("--json")
            .stderr(Stdio::inherit())
            .output()?;
        self.times.push((format!("mainstay {}", arguments[..2].join(" ")), began.elapsed()));
        if !output.status.success() {
            return Err(format!("mainstay {} ended with {}", arguments.join(" "), output.status).into());
        }
        let answer: Value = serde_json::from_slice(&output.stdout)?;
        println!("{}", serde_json::to_string_pretty(answer.get("set").unwrap_or(&answer))?);
        Ok(answer)
    }

    /// Commands that apply a plan get `--approve` with its hash.
    fn with_approval(&self, arguments: &[&str]) -> Result<Vec<String>, Box<dyn std::error::Error>> {
        let mut approved: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let (["apply", plan, ..] | ["restore", "apply", plan, ..]) = arguments else { return Ok(approved) };
        let hash = plan_hash(self.mainstay_command(&[]), plan)?;
        approved.extend(["--approve".to_owned(), hash]);
        Ok(approved)
    }

    fn mainstay_command(&self, arguments: &[String]) -> Command {
        let mut command = Command::new(&self.mainstay);
        command
            .args(arguments)
            .current_dir(&self.folder)
            .env("MAINSTAY_MONGO_PASSWORD", PASSWORD)
            .stdin(Stdio::null());
        command
    }

    fn marketplace(&mut self, arguments: &[&str]) -> Outcome {
        println!("\n$ marketplace {}", arguments.join(" "));
        let mut command = Command::new(&self.marketplace);
        command
            .args(arguments)
            .current_dir(&self.folder)
            .env("MARKETPLACE_MONGO_URL", self.mongod.uri())
            .env("MARKETPLACE_REDIS_URL", self.redis.uri())
            .stdin(Stdio::null());
        self.timed("marketplace load", &mut command)
    }

    fn timed(&mut self, name: &str, command: &mut Command) -> Outcome {
        let began = Instant::now();
        let status = command.status()?;
        self.times.push((name.to_owned(), began.elapsed()));
        if status.success() { Ok(()) } else { Err(format!("{name} ended with {status}").into()) }
    }
}

fn shown<T: AsRef<str>>(arguments: &[T]) -> String {
    arguments.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" ")
}

fn chapter(title: &str) {
    println!("\n── {title}");
}

async fn testimony(mongod: &Mongod) -> Result<Testimony, mongodb::error::Error> {
    let hashes = mongod.db_hash(DATABASE).await?;
    let database = mongod.oracle().await.database(DATABASE);
    let mut descriptions = BTreeMap::new();
    let mut collections = database.run_cursor_command(doc! { "listCollections": 1 }).await?;
    while collections.advance().await? {
        let mut description: Document = collections.deserialize_current()?;
        // The identity of a collection is new after a restore; everything else must be as it was.
        if let Ok(info) = description.get_document_mut("info") {
            info.remove("uuid");
        }
        let name = description.get_str("name").unwrap_or_default().to_owned();
        let mut entry = vec![description];
        if let Ok(mut indexes) = database.run_cursor_command(doc! { "listIndexes": &name }).await {
            while indexes.advance().await? {
                entry.push(indexes.deserialize_current()?);
            }
        }
        entry[1..].sort_by_key(|index| index.get_str("name").unwrap_or_default().to_owned());
        descriptions.insert(name, entry);
    }
    Ok(Testimony { hashes, descriptions })
}

async fn destroy(mongod: &Mongod) -> Result<(), mongodb::error::Error> {
    mongod.oracle().await.database(DATABASE).drop().await
}

fn compare(before: &Testimony, after: &Testimony) -> Outcome {
    for (name, hash) in &before.hashes {
        let verdict = if after.hashes.get(name) == Some(hash) { "equal" } else { "DIFFERS" };
        println!("  {name:<28} dbHash {hash}  {verdict}");
    }
    let indexes: usize = after.descriptions.values().map(|entry| entry.len() - 1).sum();
    println!(
        "  {} collections and views, {indexes} indexes: options and indexes compared",
        after.descriptions.len()
    );
    if before == after {
        Ok(())
    } else {
        Err("the restored database differs from the one that was backed up".into())
    }
}

fn report(stage: &Stage, backup: &Value, total: Duration) {
    chapter("report");
    for (name, time) in &stage.times {
        println!("  {name:<28} {:>7.2} s", time.as_secs_f64());
    }
    println!("  {:<28} {:>7.2} s", "in all", total.as_secs_f64());
    if let (Some(plain), Some(stored)) = (number(backup, "bytes"), number(backup, "stored_bytes")) {
        println!("  {:.1} MB of BSON became {:.1} MB in the repository", plain / 1e6, stored / 1e6);
    }
    println!("\nThe restored database equals the original by Mainstay's digests and by mongod's dbHash.");
    println!("The repository stays for you to look at: {}", path_shown(&stage.folder.join("repository")));
    println!("Its format is described in docs/repository-format.md.");
}

fn number(value: &Value, name: &str) -> Option<f64> {
    value.get(name).and_then(Value::as_f64)
}

fn path_shown(path: &Path) -> String {
    let current = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&current).unwrap_or(path).display().to_string()
}
