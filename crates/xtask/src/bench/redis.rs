//! Removing keys by pattern, reading a database file and fetching one from Redis, beside the server's own tools.
//!
//! Data: keys as `marketplace load --bulk-keys` makes them, three of ten to be removed. Each run of a removal begins with all keys, loaded again from
//! the file that the server wrote, and with a client beside it that asks for one key after the other: what others wait is the price of removing
//! quickly. One process for each key is tried on a part and reckoned up.
//!
//! `rdb` of HDT3213 takes part in reading when it is on the PATH.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mainstay_testkit::Redis;
use mainstay_testkit::engines::{EngineKind, locate};

use super::{
    Cost, Ground, Output, Prepare, Series, Subjected, command, cpu_of, describe_hardware, measure, on_path,
    prepare, print_table, run_once, version_of,
};
use crate::Outcome;
use crate::programs::{build, plan_hash, target_folder};

const PATTERN: &str = "payment:idem:*";
/// How many keys one process for each is tried on.
const SINGLE_COUNT: u64 = 5_000;
/// How long the client beside pauses between two questions.
const PROBE_PAUSE: Duration = Duration::from_millis(1);

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Keys of the server; three of ten are removed.
    #[arg(long, default_value_t = 5_000_000)]
    keys: u64,
    /// Runs of each program.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// What is measured.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["purge", "walk", "fetch"])]
    only: Vec<Part>,
}

/// A part of the measurements.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// `redis purge` beside pipelines of `redis-cli`.
    Purge,
    /// `redis keys --rdb` beside `redis-check-rdb`.
    Walk,
    /// `backup create` beside `redis-cli --rdb`.
    Fetch,
}

/// The bench's server, programs and folder.
struct Bench {
    server: Redis,
    folder: PathBuf,
    mainstay: PathBuf,
    cli: PathBuf,
    check: PathBuf,
    keys: u64,
}

impl Ground for Bench {
    fn folder(&self) -> &Path {
        &self.folder
    }

    /// The server's own, without the children that write files.
    fn server_cpu(&self) -> Result<Duration, Box<dyn std::error::Error>> {
        cpu_of(self.server.pid().ok_or("the server is gone")?, false)
    }

    fn drop_restored(&self) -> Outcome {
        Ok(())
    }
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    crate::engines::install()?;
    let bench = Bench::set_up(arguments.keys)?;
    bench.describe()?;
    let wants = |part| arguments.only.contains(&part);
    if wants(Part::Fetch) {
        bench.fetch(arguments.runs)?;
    }
    if wants(Part::Walk) {
        bench.walk(arguments.runs)?;
    }
    if wants(Part::Purge) {
        bench.purge(arguments.runs)?;
    }
    Ok(())
}

impl Bench {
    fn set_up(keys: u64) -> Result<Self, Box<dyn std::error::Error>> {
        let folder = target_folder().join("bench-redis");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        let [mainstay, marketplace] = build(["mainstay", "marketplace"], true)?;
        // The pause before a transfer is the same for everybody, and no work.
        let server = Redis::options().setting("repl-diskless-sync-delay", "0").start()?;
        let status = Command::new(marketplace)
            .args(["load", "--scale", "0", "--bulk-keys", &keys.to_string()])
            .env("MARKETPLACE_REDIS_URL", server.uri())
            .status()?;
        if !status.success() {
            return Err("the keys could not be loaded".into());
        }
        let configuration = format!(
            "[environment]\nname = \"bench\"\nclass = \"development\"\n[redis]\nurl = \"{}\"\n[repository]\nurl = \"file:./repository\"\n",
            server.uri()
        );
        fs::write(folder.join("mainstay.toml"), configuration)?;
        let engine = locate(EngineKind::Redis)?;
        let (cli, check) = (engine.tool("redis-cli"), engine.tool("redis-check-rdb"));
        let bench = Self { server, folder, mainstay, cli, check, keys };
        bench.mark()?;
        bench.ask(&["SAVE"])?;
        Ok(bench)
    }

    /// Marks the server as development, so that a removal needs nobody's consent.
    fn mark(&self) -> Outcome {
        let file = "mark.plan.json";
        prepare(
            self,
            &Prepare::Run(self.own(&["environment", "mark", "--store", "redis", "--output", file])),
        )?;
        let hash = plan_hash(command(self, &self.own(&[])), file)?;
        prepare(self, &Prepare::Run(self.own(&["apply", file, "--approve", &hash])))
    }

    fn describe(&self) -> Outcome {
        describe_hardware();
        let memory = self.ask(&["INFO", "memory"])?;
        let used = memory.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap_or("0").trim();
        println!(
            "{} keys, {:.2} GB in memory, {:.2} GB as a file",
            self.keys,
            used.parse::<f64>()? / 1e9,
            self.file().metadata()?.len() as f64 / 1e9
        );
        for program in [&self.mainstay, &self.cli] {
            println!("program: {}", version_of(program));
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The file that the server wrote.
    fn file(&self) -> PathBuf {
        self.server.dir().join("data/dump.rdb")
    }

    fn own(&self, arguments: &[&str]) -> Vec<String> {
        let head = [self.mainstay.display().to_string(), "--quiet".to_owned()];
        head.into_iter().chain(arguments.iter().map(ToString::to_string)).collect()
    }

    /// `redis-cli` with the server's address, for a shell.
    fn cli(&self) -> String {
        format!("{} -p {}", self.cli.display(), self.server.port())
    }

    fn ask(&self, question: &[&str]) -> Result<String, Box<dyn std::error::Error>> {
        let port = self.server.port().to_string();
        let output = Command::new(&self.cli).args(["-p", &port]).args(question).output()?;
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() || answer.starts_with("ERR") {
            return Err(format!("{question:?}: {answer}").into());
        }
        Ok(answer)
    }

    /// Waits until no child of the server writes keys: it refuses a second one.
    fn idle(&self) -> Prepare {
        Prepare::Run(shell(format!(
            "until {} INFO persistence | grep -q rdb_bgsave_in_progress:0; do sleep 0.05; done",
            self.cli()
        )))
    }

    fn fetch(&self, runs: usize) -> Outcome {
        let repository = self.path("repository");
        let fetched = self.path("fetched.rdb");
        for compressed in ["yes", "no"] {
            self.ask(&["CONFIG", "SET", "rdbcompression", compressed])?;
            let subjects = [
                Subjected {
                    name: "mainstay backup create".to_owned(),
                    before: vec![self.idle(), Prepare::RemoveFolder(repository.clone())],
                    command: self.own(&["backup", "create", "--store", "redis"]),
                    output: Output::Path(repository.clone()),
                },
                Subjected {
                    name: "redis-cli --rdb FILE".to_owned(),
                    before: vec![self.idle(), Prepare::RemoveFile(fetched.clone())],
                    command: shell(format!("exec {} --rdb {}", self.cli(), fetched.display())),
                    output: Output::Path(fetched.clone()),
                },
                Subjected {
                    name: "redis-cli --rdb -, to nowhere".to_owned(),
                    before: vec![self.idle()],
                    command: shell(format!("exec {} --rdb -", self.cli())),
                    output: Output::Pipe,
                },
            ];
            let costs = measure(runs, &subjects, self)?;
            print_table(
                &format!("fetch of all keys, rdbcompression {compressed}"),
                &costs,
                self.file().metadata()?.len(),
            );
        }
        Ok(())
    }

    fn walk(&self, runs: usize) -> Outcome {
        for compressed in ["yes", "no"] {
            self.ask(&["CONFIG", "SET", "rdbcompression", compressed])?;
            prepare(self, &self.idle())?;
            self.ask(&["SAVE"])?;
            let file = self.file().display().to_string();
            let subject = |name: &str, command| Subjected {
                name: name.to_owned(),
                before: Vec::new(),
                command,
                output: Output::None,
            };
            let check = self.check.display().to_string();
            let mut subjects = vec![
                subject("mainstay redis keys --rdb", self.own(&["redis", "keys", "--rdb", &file])),
                subject("redis-check-rdb", vec![check, file.clone()]),
            ];
            if let Some(rdb) = on_path("rdb") {
                let rdb = rdb.display().to_string();
                let line = [&rdb, "-c", "prefix", "-n", "20", "-max-depth", "2", &file].map(str::to_owned);
                subjects.push(subject("rdb -c prefix", line.to_vec()));
            }
            let costs = measure(runs, &subjects, self)?;
            print_table(
                &format!("reading a file, rdbcompression {compressed}"),
                &costs,
                self.file().metadata()?.len(),
            );
        }
        Ok(())
    }

    fn purge(&self, runs: usize) -> Outcome {
        let plan = self.path("purge.plan.json");
        let file = plan.display().to_string();
        let scan = format!("{} --scan --pattern '{PATTERN}'", self.cli());
        let unlink = r#"{printf "*2\r\n$6\r\nUNLINK\r\n$%d\r\n%s\r\n", length($0), $0}"#;
        let subject = |name: &str, before, command| Subjected {
            name: name.to_owned(),
            before,
            command,
            output: Output::None,
        };
        let planned = vec![
            Prepare::RemoveFile(plan),
            Prepare::Run(self.own(&["redis", "purge", PATTERN, "--output", &file])),
        ];
        let own = self.own(&[]).join(" ");
        // Removing wants consent to a plan's hash; there is no terminal to ask at.
        let apply = format!(
            "{own} apply {file} --approve $({own} plan show {file} --json | sed -n 's/.*\"plan_hash\": *\"\\([^\"]*\\)\".*/\\1/p')"
        );
        let both = format!("rm -f {file}; {own} redis purge '{PATTERN}' --output {file}; {apply}");
        let subjects = [
            subject("mainstay apply of a plan", planned, shell(apply)),
            subject("mainstay redis purge, plan and all", Vec::new(), shell(both)),
            subject(
                "--scan | xargs -L 500 DEL",
                Vec::new(),
                shell(format!("{scan} | xargs -L 500 {} DEL >/dev/null", self.cli())),
            ),
            subject(
                "--scan --count 1000 | --pipe",
                Vec::new(),
                shell(format!("{scan} --count 1000 | LC_ALL=C awk '{unlink}' | {} --pipe", self.cli())),
            ),
        ];
        let mut all: Vec<(Series, Vec<Waits>)> = subjects
            .iter()
            .map(|subject| (Series { name: subject.name.clone(), costs: Vec::new() }, Vec::new()))
            .collect();
        for run in 1..=runs {
            for (subject, (series, waits)) in subjects.iter().zip(&mut all) {
                let (cost, waited) = self.purge_once(subject)?;
                eprintln!("run {run}/{runs} {:<36} {:>8.2} s", subject.name, cost.wall.as_secs_f64());
                series.costs.push(cost);
                waits.push(waited);
            }
        }
        let (series, waits): (Vec<Series>, Vec<Vec<Waits>>) = all.into_iter().unzip();
        print_table("three of ten keys removed", &series, self.file().metadata()?.len());
        println!(
            "\nwhat a client beside waits: medians of {runs} runs\n{:<36} {:>8} {:>8} {:>8}",
            "program", "p50 ms", "p99 ms", "max ms"
        );
        for (series, waits) in series.iter().zip(&waits) {
            let median = |of: fn(&Waits) -> Duration| {
                let mut values: Vec<Duration> = waits.iter().map(of).collect();
                values.sort_unstable();
                values[values.len() / 2].as_secs_f64() * 1e3
            };
            println!(
                "{:<36} {:>8.2} {:>8.2} {:>8.1}",
                series.name,
                median(|waits| waits.p50),
                median(|waits| waits.p99),
                median(|waits| waits.max)
            );
        }
        self.one_process_for_each_key(&scan)
    }

    /// Loads the keys again, then lets the subject remove what it removes, with a client beside.
    fn purge_once(&self, subject: &Subjected) -> Result<(Cost, Waits), Box<dyn std::error::Error>> {
        self.ask(&["DEBUG", "RELOAD", "NOSAVE"])?;
        for step in &subject.before {
            prepare(self, step)?;
        }
        let probe = Probe::begin(self.server.address());
        let bare = Subjected {
            name: subject.name.clone(),
            before: Vec::new(),
            command: subject.command.clone(),
            output: Output::None,
        };
        let cost = run_once(self, &bare)?;
        let waits = probe.end()?;
        let left: u64 = self.ask(&["DBSIZE"])?.trim().parse()?;
        // The server's marker is a key of its own.
        if left > self.keys - self.keys * 3 / 10 + 1 {
            return Err(format!("{} left {left} keys", subject.name).into());
        }
        Ok((cost, waits))
    }

    /// The runbook's line on a part of the keys, and what it would take for all.
    fn one_process_for_each_key(&self, scan: &str) -> Outcome {
        self.ask(&["DEBUG", "RELOAD", "NOSAVE"])?;
        let subject = Subjected {
            name: "xargs -L 1".to_owned(),
            before: Vec::new(),
            command: shell(format!(
                "{scan} --count 1000 | head -n {SINGLE_COUNT} | xargs -L 1 {} DEL >/dev/null",
                self.cli()
            )),
            output: Output::None,
        };
        let wall = run_once(self, &subject)?.wall.as_secs_f64();
        let all = wall * (self.keys * 3 / 10) as f64 / SINGLE_COUNT as f64;
        println!("xargs -L 1: {wall:.1} s for {SINGLE_COUNT} keys, which is {all:.0} s for all of them");
        Ok(())
    }
}

/// Text for the shell; a signal by which `head` ends the program before it is no failure.
fn shell(script: String) -> Vec<String> {
    vec!["sh".to_owned(), "-ec".to_owned(), script]
}

/// What a client waited for its answers.
#[derive(Clone, Copy)]
struct Waits {
    p50: Duration,
    p99: Duration,
    max: Duration,
}

/// A client that asks for one key after the other.
struct Probe {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<std::io::Result<Vec<Duration>>>,
}

impl Probe {
    fn begin(address: SocketAddr) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&ended);
        let ask = move || {
            let mut stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            let mut waits = Vec::new();
            let mut answer = [0; 5];
            while !until.load(Ordering::Relaxed) {
                let began = Instant::now();
                stream.write_all(b"*2\r\n$3\r\nGET\r\n$17\r\nno:such:key:there\r\n")?;
                stream.read_exact(&mut answer)?;
                waits.push(began.elapsed());
                thread::sleep(PROBE_PAUSE);
            }
            Ok(waits)
        };
        Self { ended, thread: thread::spawn(ask) }
    }

    fn end(self) -> Result<Waits, Box<dyn std::error::Error>> {
        self.ended.store(true, Ordering::Relaxed);
        let mut waits = self.thread.join().map_err(|_| "the client beside panicked")??;
        waits.sort_unstable();
        let at = |share: f64| waits.get((waits.len() as f64 * share) as usize).or(waits.last()).copied();
        let missing = "the client beside had no answer";
        Ok(Waits {
            p50: at(0.5).ok_or(missing)?,
            p99: at(0.99).ok_or(missing)?,
            max: at(1.0).ok_or(missing)?,
        })
    }
}
