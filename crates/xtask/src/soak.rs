//! Long runs against real servers: more moments, kills and time than a test may take.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use mainstay_testkit::history::{History, Moment, Position, Random, differences};
use mainstay_testkit::servers::Mongod;
use serde_json::Value;

use crate::Outcome;
use crate::programs::{build, cargo, must, plan_hash, target_folder};
use crate::{soak_postgres, soak_redis};

const DATABASE: &str = "soak";
const RESTORED: &str = "soak_restored";
/// A restore that was killed keeps others out until its lease has run out.
const LOCKED: i32 = 10;

/// What may be said after `cargo xtask soak`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(clap::Subcommand)]
enum Subject {
    /// Restores random moments of a random history of MongoDB, and compares each with what was there.
    Pitr(PitrArguments),
    /// The same of PostgreSQL, by time, position and transaction, across a crash and a new timeline.
    Postgres(soak_postgres::Arguments),
    /// Counts what is in the way of indexes, and compares duplicates with the server's verdict, over more documents than a test may take.
    Indexes(IndexArguments),
    /// The same of Redis, by offset and time, across a server that takes over.
    Redis(soak_redis::Arguments),
}

#[derive(clap::Args)]
struct IndexArguments {
    /// Documents of each collection.
    #[arg(long, default_value_t = 1_000_000)]
    documents: u32,
    /// Indexes that the server judges over random documents.
    #[arg(long, default_value_t = 2_000)]
    cases: u32,
}

#[derive(clap::Args)]
struct PitrArguments {
    /// Moments to restore. Half of them are right after a change of definitions; one in three restores is killed on the way.
    #[arg(long, default_value_t = 50)]
    moments: usize,
    /// Acts of the writer.
    #[arg(long, default_value_t = 2_000)]
    acts: usize,
    /// Backups while it writes.
    #[arg(long, default_value_t = 3)]
    backups: usize,
    /// The same seed gives the same acts; the present time otherwise.
    #[arg(long)]
    seed: Option<u64>,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    crate::engines::install()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match &arguments.subject {
        Subject::Pitr(arguments) => runtime.block_on(pitr(arguments)),
        Subject::Postgres(arguments) => soak_postgres::run(arguments),
        Subject::Indexes(arguments) => indexes(arguments),
        Subject::Redis(arguments) => soak_redis::run(arguments),
    }
}

/// The tests themselves, over more: they know what is to come out.
fn indexes(arguments: &IndexArguments) -> Outcome {
    let mut test = cargo();
    test.args([
        "test",
        "--workspace",
        "--test",
        "index_changes",
        "--",
        "--nocapture",
        "counts",
        "duplicates",
    ])
    .env("MAINSTAY_TEST_DOCUMENTS", arguments.documents.to_string())
    .env("MAINSTAY_TEST_CASES", arguments.cases.to_string());
    match test.status()?.success() {
        true => Ok(()),
        false => Err("the counts were not those that were to come out".into()),
    }
}

async fn pitr(arguments: &PitrArguments) -> Outcome {
    let seed = arguments.seed.unwrap_or_else(|| u64::from(std::process::id()) * 1_000_003);
    println!("seed {seed}: `--seed {seed}` repeats the acts");
    let soak = Soak::set_up()?;
    let mut history = History::begin(soak.mongod.oracle().await, DATABASE, seed).await;
    let began = Instant::now();
    let settled = soak.write(&mut history, arguments).await?;
    let moments: Vec<&Moment> = history.moments().iter().filter(|moment| moment.at >= settled).collect();
    let definitions: Vec<&Moment> = moments.iter().copied().filter(|moment| moment.is_definition).collect();
    println!(
        "{} acts in {:.1} s, {} backups meanwhile; {} moments can be restored, {} of them changes of definitions",
        history.moments().len(),
        began.elapsed().as_secs_f64(),
        arguments.backups,
        moments.len(),
        definitions.len()
    );
    let mut random = Random::new(seed);
    let mut tally = Tally::default();
    for number in 1..=arguments.moments {
        let moment = if number % 2 == 0 { random.pick(&definitions) } else { random.pick(&moments) };
        let kill_after = (number % 3 == 0).then(|| Duration::from_millis(100 + random.below(900) as u64));
        soak.restore(moment, kill_after, &mut tally).await?;
        println!(
            "{number}/{}: {} after `{}`: {} documents, equal{}",
            arguments.moments,
            moment.at,
            moment.act,
            moment.state.documents(),
            if kill_after.is_some() { ", applied again after a kill" } else { "" }
        );
    }
    tally.print();
    Ok(())
}

/// What the restores came to.
#[derive(Default)]
struct Tally {
    seconds: Vec<f64>,
    entries: u64,
    documents: usize,
    kills: usize,
}

impl Tally {
    fn print(&mut self) {
        self.seconds.sort_by(f64::total_cmp);
        println!(
            "{} moments restored and equal: {} documents, {} entries replayed, {} restores killed and continued; {:.2} s each at the median, {:.2} s at most",
            self.seconds.len(),
            self.documents,
            self.entries,
            self.kills,
            self.seconds.get(self.seconds.len() / 2).copied().unwrap_or_default(),
            self.seconds.last().copied().unwrap_or_default()
        );
    }
}

struct Soak {
    mongod: Mongod,
    folder: PathBuf,
    mainstay: PathBuf,
}

impl Soak {
    fn set_up() -> Result<Self, Box<dyn std::error::Error>> {
        let folder = target_folder().join("soak");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        let [mainstay] = build(["mainstay"], false)?;
        let mongod = Mongod::start()?;
        let configuration = format!(
            "[environment]\nname = \"soak\"\nclass = \"development\"\n[mongo]\nurl = \"{}\"\ndatabase = \"{DATABASE}\"\n[repository]\nurl = \"file:./repository\"\nlease_ttl = \"2s\"\n",
            mongod.uri()
        );
        fs::write(folder.join("mainstay.toml"), configuration)?;
        let soak = Self { mongod, folder, mainstay };
        soak.must(&["environment", "mark", "--store", "mongo", "--output", "mark.json"])?;
        let hash = plan_hash(soak.command(&[]), "mark.json")?;
        soak.must(&["apply", "mark.json", "--approve", &hash])?;
        Ok(soak)
    }

    /// Lets the history go on while it is captured and backed up; gives the earliest moment that can be restored.
    async fn write(
        &self,
        history: &mut History,
        arguments: &PitrArguments,
    ) -> Result<Position, Box<dyn std::error::Error>> {
        let share = arguments.acts / (arguments.backups + 1);
        history.acts(share / 2).await;
        self.must(&["capture", "mongo", "--once"])?;
        let mut capture = self.spawn(&["capture", "mongo", "--slice-age", "500ms", "--quiet"])?;
        let mut settled = None;
        for _ in 0..arguments.backups {
            self.back_up(history).await?;
            if settled.is_none() {
                let shown: Value = serde_json::from_slice(&self.must(&["backup", "show", "--json"])?.stdout)?;
                settled = position(shown["set"]["settled"].as_str().unwrap_or_default());
            }
            history.acts(share).await;
        }
        capture.kill()?;
        capture.wait()?;
        // It waits for the lease of the one that was killed.
        self.must(&["capture", "mongo", "--once"])?;
        settled.ok_or_else(|| "the first backup tells no settled position".into())
    }

    /// Takes a backup while the history goes on. One that a change of definitions has cut short is taken again.
    async fn back_up(&self, history: &mut History) -> Outcome {
        loop {
            let mut backup = self.spawn(&["--quiet", "backup", "create", "--store", "mongo"])?;
            while backup.try_wait()?.is_none() {
                history.act().await;
            }
            if backup.wait()?.success() {
                return Ok(());
            }
            println!("a backup was cut short, and is taken again");
        }
    }

    async fn restore(&self, moment: &Moment, kill_after: Option<Duration>, tally: &mut Tally) -> Outcome {
        let plan = self.folder.join("plan.json");
        if plan.exists() {
            fs::remove_file(&plan)?;
        }
        let at = moment.at.to_string();
        let began = Instant::now();
        self.must(&["restore", "plan", "--to", &at, "--into", RESTORED, "--output", "plan.json"])?;
        let hash = plan_hash(self.command(&[]), "plan.json")?;
        let apply = ["restore", "apply", "plan.json", "--approve", &hash, "--json"];
        if let Some(delay) = kill_after {
            let mut child = self.spawn(&apply)?;
            tokio::time::sleep(delay).await;
            child.kill()?;
            // One that had ended already cannot be applied again.
            tally.kills += usize::from(child.wait()?.code().is_none());
        }
        let answer = self.apply(&apply)?;
        tally.seconds.push(began.elapsed().as_secs_f64());
        tally.entries += answer["moment"]["entries"].as_u64().unwrap_or_default();
        tally.documents += moment.state.documents();
        let client = self.mongod.oracle().await;
        let found = differences(&client, RESTORED, &moment.state).await;
        if !found.is_empty() {
            return Err(format!("the moment {at}, after `{}`, differs: {found:#?}", moment.act).into());
        }
        client.database(RESTORED).drop().await?;
        Ok(())
    }

    /// Applies until no lease is in the way.
    fn apply(&self, arguments: &[&str]) -> Result<Value, Box<dyn std::error::Error>> {
        loop {
            let output = self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).output()?;
            let answer: Value = serde_json::from_slice(&output.stdout)?;
            let said = answer["error"]["message"].as_str().unwrap_or_default();
            match output.status.code() {
                Some(0) if answer["proven"] == true => return Ok(answer),
                Some(LOCKED) => {}
                _ if said.contains("has been applied already") => return Ok(answer),
                _ => return Err(format!("the restore failed: {answer}").into()),
            }
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.mainstay);
        command.args(arguments).current_dir(&self.folder).stdin(Stdio::null());
        command
    }

    fn spawn(&self, arguments: &[&str]) -> std::io::Result<Child> {
        self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
    }

    fn must(&self, arguments: &[&str]) -> Result<Output, Box<dyn std::error::Error>> {
        must(&mut self.command(arguments))
    }
}

fn position(text: &str) -> Option<Position> {
    let (seconds, increment) = text.split_once(':')?;
    Some(Position { seconds: seconds.parse().ok()?, increment: increment.parse().ok()? })
}
