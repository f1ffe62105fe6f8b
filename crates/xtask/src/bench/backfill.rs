//! A backfill of one collection beside one plain `updateMany` and beside a loop that changes one document after the other, while another client works.
//!
//! The change is the same for all: points are added, and a mark says so, which is not idempotent. The loop is tried on a part and reckoned up, and said to be. The
//! other client reads and writes one random document after the other through the official driver, from a thread of its own; what it waits is told as its median,
//! its 99th percentile and its worst. At the end a run is killed at random moments, every document is looked at, some are changed by somebody else, and the backfill is undone.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mainstay_testkit::servers::Mongod;
use mongodb::Collection;
use mongodb::bson::{Document, doc};

use super::describe_hardware;
use crate::Outcome;
use crate::programs::{build, must, plan_hash, target_folder};

const DATABASE: &str = "bench";
const COLLECTION: &str = "users";
const ID: &str = "points";
/// What every document grows by.
const GROWTH: i64 = 7;
/// Documents that somebody changes before the undo.
const TOUCHED: i64 = 100;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Documents of the collection, of about 300 bytes.
    #[arg(long, default_value_t = 5_000_000)]
    documents: i64,
    /// On how many documents the loop is tried.
    #[arg(long, default_value_t = 20_000)]
    loop_sample: i64,
    /// How often a run is killed.
    #[arg(long, default_value_t = 10)]
    kills: u32,
    /// The budget of a batch, as `backfill run` takes it.
    #[arg(long, default_value = "100ms")]
    latency_budget: String,
    /// Runs of `updateMany` and of the backfill, in turns.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// WiredTiger cache of the server in GiB.
    #[arg(long, default_value_t = 2.0)]
    cache: f64,
}

struct Bench<'a> {
    arguments: &'a Arguments,
    mongod: Mongod,
    folder: PathBuf,
    mainstay: PathBuf,
    runtime: tokio::runtime::Runtime,
}

/// What the other client waited for one document.
struct Waits {
    sorted: Vec<Duration>,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    crate::engines::install()?;
    let bench = Bench::set_up(arguments)?;
    describe_hardware();
    println!(
        "{} documents, cache {} GiB, budget {}",
        arguments.documents, arguments.cache, arguments.latency_budget
    );
    let mut plain = Vec::new();
    let mut own = Vec::new();
    for _ in 0..arguments.runs {
        plain.push(bench.measured("updateMany", Bench::update_many)?);
        own.push(bench.measured("mainstay backfill run", Bench::backfill)?);
        bench.check_once()?;
    }
    let one_by_one = bench.one_by_one()?;
    let (plain, own) = (median(&mut plain), median(&mut own));
    println!(
        "one by one: {:.1} s reckoned up from {} documents",
        one_by_one.as_secs_f64(),
        arguments.loop_sample
    );
    println!(
        "backfill takes {:.2} of updateMany's time, and is {:.1} times as fast as one by one",
        own.as_secs_f64() / plain.as_secs_f64(),
        one_by_one.as_secs_f64() / own.as_secs_f64()
    );
    bench.kill_and_undo()
}

impl<'a> Bench<'a> {
    fn set_up(arguments: &'a Arguments) -> Result<Self, Box<dyn std::error::Error>> {
        let folder = target_folder().join("bench-backfill");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        let [mainstay] = build(["mainstay"], true)?;
        let mongod = Mongod::options().cache_gib(arguments.cache).start()?;
        let configuration = format!(
            "[environment]\nname = \"bench\"\nclass = \"development\"\n[mongo]\nurl = \"{}\"\ndatabase = \"{DATABASE}\"\n\
             [repository]\nurl = \"file:./repository\"\nlease_ttl = \"2s\"\n\
             [[backfill]]\nid = \"{ID}\"\nstore = \"mongo\"\ncollection = \"{COLLECTION}\"\n\
             guard = '{{\"counted\": {{\"$exists\": false}}}}'\n\
             update = '{{\"$inc\": {{\"points\": {GROWTH}}}, \"$set\": {{\"counted\": true}}}}'\n\
             fields = [\"points\", \"counted\"]\nbatch = 5000\n",
            mongod.uri()
        );
        fs::write(folder.join("mainstay.toml"), configuration)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let bench = Self { arguments, mongod, folder, mainstay, runtime };
        bench.apply(&["environment", "mark", "--store", "mongo"])?;
        Ok(bench)
    }

    fn own(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.mainstay);
        command.arg("--quiet").args(arguments).current_dir(&self.folder).stdin(Stdio::null());
        command
    }

    /// Plans with `command` and gives how the plan is applied.
    fn planned(&self, command: &[&str]) -> Result<Command, Box<dyn std::error::Error>> {
        let file = "bench.plan.json";
        let _ = fs::remove_file(self.folder.join(file));
        must(self.own(command).args(["--output", file]))?;
        let hash = plan_hash(self.own(&[]), file)?;
        let mut apply = self.own(&["apply", file, "--approve"]);
        apply.arg(hash);
        Ok(apply)
    }

    fn apply(&self, command: &[&str]) -> Outcome {
        must(&mut self.planned(command)?).map(drop)
    }

    fn collection(&self) -> Collection<Document> {
        self.runtime.block_on(self.mongod.oracle()).database(DATABASE).collection(COLLECTION)
    }

    /// Makes all documents anew, by the server itself; and forgets what has run.
    fn fill(&self) -> Outcome {
        let collection = self.collection();
        let filler = "x".repeat(220);
        self.runtime.block_on(async {
            let client = self.mongod.oracle().await;
            client
                .database("mainstay")
                .collection::<Document>("ledger")
                .delete_many(doc! { "kind": "backfill" })
                .await?;
            for name in ["backfill_segments", "backfill_undo"] {
                client.database("mainstay").collection::<Document>(name).drop().await?;
            }
            let database = client.database(DATABASE);
            let seeds = database.collection::<Document>("seeds");
            let firsts = (0..self.arguments.documents).step_by(10_000).map(|first| doc! { "_id": first });
            seeds.insert_many(firsts).await?;
            let last = doc! { "$min": [{ "$add": ["$_id", 10_000] }, self.arguments.documents] };
            let document = doc! { "_id": "$n", "points": { "$mod": ["$n", 5] }, "name": filler };
            let stages = [
                doc! { "$project": { "n": { "$range": ["$_id", last] } } },
                doc! { "$unwind": "$n" },
                doc! { "$replaceWith": document },
                doc! { "$out": COLLECTION },
            ];
            let mut made = seeds.aggregate(stages).await?;
            while made.advance().await? {}
            seeds.drop().await?;
            // What was written is not to be paid for by what is measured.
            client.database("admin").run_command(doc! { "fsync": 1 }).await?;
            let count = collection.estimated_document_count().await?;
            Ok::<_, mongodb::error::Error>(count)
        })?;
        Ok(())
    }

    /// Does `work` on fresh documents while the other client works; tells and gives how long it took.
    fn measured(
        &self,
        name: &str,
        work: impl Fn(&Self) -> Outcome,
    ) -> Result<Duration, Box<dyn std::error::Error>> {
        self.fill()?;
        let other = Other::begin(self);
        let begun = Instant::now();
        let done = work(self);
        let took = begun.elapsed();
        let waits = other.end()?;
        done?;
        println!(
            "{name}: {:.1} s, {:.0} documents/s; another client waited {} (median), {} (p99), {} (worst) in {} tries",
            took.as_secs_f64(),
            self.arguments.documents as f64 / took.as_secs_f64(),
            millis(waits.at(0.5)),
            millis(waits.at(0.99)),
            millis(waits.at(1.0)),
            waits.sorted.len()
        );
        Ok(took)
    }

    fn update_many(&self) -> Outcome {
        let collection = self.collection();
        let update = doc! { "$inc": { "points": GROWTH }, "$set": { "counted": true } };
        self.runtime.block_on(async {
            collection.update_many(doc! { "counted": { "$exists": false } }, update).await
        })?;
        Ok(())
    }

    fn backfill(&self) -> Outcome {
        let mut apply =
            self.planned(&["backfill", "run", ID, "--latency-budget", &self.arguments.latency_budget])?;
        must(&mut apply).map(drop)
    }

    /// A loop as a script has it: each document found, changed and saved by itself. Reckoned up from a part.
    fn one_by_one(&self) -> Result<Duration, Box<dyn std::error::Error>> {
        self.fill()?;
        let collection = self.collection();
        let begun = Instant::now();
        self.runtime.block_on(async {
            let filter = doc! { "counted": { "$exists": false } };
            let mut cursor = collection.find(filter).limit(self.arguments.loop_sample).await?;
            while cursor.advance().await? {
                let found: Document = cursor.deserialize_current()?;
                let points = found.get_i64("points").or_else(|_| found.get_i32("points").map(i64::from));
                let set = doc! { "points": points.unwrap_or(0) + GROWTH, "counted": true };
                let id = found.get("_id").cloned().unwrap_or_default();
                collection.update_one(doc! { "_id": id }, doc! { "$set": set }).await?;
            }
            Ok::<_, mongodb::error::Error>(())
        })?;
        let share = self.arguments.documents as f64 / self.arguments.loop_sample.max(1) as f64;
        Ok(begun.elapsed().mul_f64(share))
    }

    /// Every document has grown once. The other client's field does not count.
    fn check_once(&self) -> Outcome {
        let grown = doc! { "$expr": { "$eq": ["$points", { "$add": [{ "$mod": ["$_id", 5] }, GROWTH] }] } };
        let collection = self.collection();
        let count = self.runtime.block_on(async { collection.count_documents(grown).await })?;
        match i64::try_from(count)? == self.arguments.documents {
            true => Ok(()),
            false => Err(format!("{count} of {} documents have grown once", self.arguments.documents).into()),
        }
    }

    fn kill_and_undo(&self) -> Outcome {
        self.fill()?;
        let mut random = Random(0x5eed);
        let command = ["backfill", "run", ID, "--latency-budget", &self.arguments.latency_budget];
        let mut apply = self.planned(&command)?;
        let mut kills = 0;
        while kills < self.arguments.kills {
            let mut child = apply.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
            thread::sleep(Duration::from_millis(300 + random.below(2_000)));
            match child.try_wait()? {
                // It waited for the lease of the one before.
                Some(status) if status.code() == Some(10) => {}
                Some(status) if status.success() => break,
                Some(status) => return Err(format!("a run ended with {status}").into()),
                None => {
                    child.kill()?;
                    child.wait()?;
                    kills += 1;
                }
            }
        }
        let deadline = Instant::now() + Duration::from_secs(3_600);
        while apply.status()?.code() == Some(10) {
            if Instant::now() > deadline {
                return Err("the lease of a run that was killed never ran out".into());
            }
            thread::sleep(Duration::from_millis(100));
        }
        self.check_once()?;
        println!("killed {kills} times: every document has grown once");
        let collection = self.collection();
        let stride = (self.arguments.documents / TOUCHED).max(1);
        let touched: Vec<i64> = (0..self.arguments.documents).step_by(usize::try_from(stride)?).collect();
        let filter = doc! { "_id": { "$in": touched.clone() } };
        self.runtime
            .block_on(async { collection.update_many(filter, doc! { "$inc": { "points": 1 } }).await })?;
        let begun = Instant::now();
        let mut undo = self.planned(&["backfill", "undo", ID])?;
        // What is left is a finding.
        let output = undo.arg("--json").output()?;
        if output.status.code() != Some(3) {
            return Err(format!(
                "undo ended with {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            )
            .into());
        }
        let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let number = |name: &str| report.get(name).and_then(serde_json::Value::as_i64).unwrap_or(-1);
        let touched = i64::try_from(touched.len())?;
        if (number("restored"), number("left")) != (self.arguments.documents - touched, touched) {
            return Err(
                format!("undo brought {} back and left {}", number("restored"), number("left")).into()
            );
        }
        println!(
            "undone in {:.1} s: {} brought back, the {touched} that somebody had changed are left and listed",
            begun.elapsed().as_secs_f64(),
            number("restored")
        );
        Ok(())
    }
}

/// A client that reads and writes one random document after the other.
struct Other {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Waits, mongodb::error::Error>>,
}

impl Other {
    fn begin(bench: &Bench<'_>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, collection) = (Arc::clone(&stop), bench.collection());
        let (documents, handle) = (bench.arguments.documents, bench.runtime.handle().clone());
        let thread = thread::spawn(move || {
            let mut random = Random(0xc11e);
            let mut sorted = Vec::new();
            while !seen.load(Ordering::Relaxed) {
                let id = i64::try_from(random.below(documents.unsigned_abs().max(1))).unwrap_or(0);
                let begun = Instant::now();
                handle.block_on(async {
                    collection.find_one(doc! { "_id": id }).await?;
                    collection.update_one(doc! { "_id": id }, doc! { "$inc": { "touches": 1 } }).await
                })?;
                sorted.push(begun.elapsed());
                thread::sleep(Duration::from_millis(1));
            }
            sorted.sort_unstable();
            Ok(Waits { sorted })
        });
        Self { stop, thread }
    }

    fn end(self) -> Result<Waits, Box<dyn std::error::Error>> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.thread.join().map_err(|_| "the other client broke off")??)
    }
}

impl Waits {
    /// The wait that this share of all did not exceed.
    fn at(&self, share: f64) -> Duration {
        let last = self.sorted.len().saturating_sub(1);
        let index = (last as f64 * share).round() as usize;
        self.sorted.get(index.min(last)).copied().unwrap_or_default()
    }
}

/// Numbers that look random and are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end.max(1)
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1_000.0)
}
