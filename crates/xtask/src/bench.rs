//! Measurements beside the field's own tools, in paired runs on the same data.
//!
//! Every figure comes from whole programs as a user would run them: wall time, CPU seconds and peak memory of the program (from the
//! kernel, at its end), CPU seconds of the server meanwhile. The peer runs when it is on the PATH; nothing is printed for it otherwise.
//! Medians over the runs; pairs alternate, so that a noisy neighbour hits both.

mod backfill;
mod postgres;
mod redis;

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mainstay_testkit::servers::Mongod;
use mongodb::IndexModel;
use mongodb::bson::{Bson, Document, doc};
use wait4::Wait4;

use crate::Outcome;
use crate::programs::{build, plan_hash, target_folder};

const DATABASE: &str = "bench";
const COLLECTION: &str = "orders";
const RESTORED: &str = "bench_restored";

/// What may be said after `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(clap::Subcommand)]
enum Subject {
    /// Backup and restore of MongoDB beside `mongodump` and `mongorestore`.
    Mongo(MongoArguments),
    /// Base backup and restore of PostgreSQL beside `pg_basebackup` and `tar`.
    Postgres(postgres::Arguments),
    /// A backfill beside one `updateMany` and a loop of the driver; what another client waits meanwhile; kills and undo.
    Backfill(backfill::Arguments),
    /// Removing keys, reading a database file and fetching one from Redis, beside `redis-cli` and `redis-check-rdb`.
    Redis(redis::Arguments),
}

#[derive(clap::Args)]
struct MongoArguments {
    /// BSON bytes of the one collection that is measured, such as 1GiB; several sizes, separated by commas, are measured one after the
    /// other.
    #[arg(long, default_value = "1GiB", value_delimiter = ',')]
    bytes: Vec<String>,
    /// Secondary indexes of the collection, at most 4: what a restore builds again.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=4))]
    indexes: u8,
    /// What is measured.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["backup", "dump", "restore"])]
    only: Vec<Part>,
    /// Runs of each program.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// WiredTiger cache of the server in GiB.
    #[arg(long, default_value_t = 4.0)]
    cache: f64,
}

/// A part of the measurements.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// `backup create` beside `mongodump` into files.
    Backup,
    /// `mongo dump` beside `mongodump`, into a pipe and compressed into files.
    Dump,
    /// `restore apply` beside `mongorestore`.
    Restore,
}

/// The secondary indexes, by ascending cost to build.
const INDEXES: [&[(&str, i32)]; 4] = [
    &[("number", 1)],
    &[("createdAt", 1), ("status", 1)],
    &[("customer.id", 1)],
    &[("status", 1), ("total", -1)],
];

/// What one run of one program cost.
#[derive(Clone, Copy, Default)]
struct Cost {
    wall: Duration,
    program_cpu: Duration,
    server_cpu: Duration,
    memory_bytes: u64,
    output_bytes: u64,
}

/// A program under measurement, and what its runs cost.
struct Series {
    name: String,
    costs: Vec<Cost>,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    match &arguments.subject {
        Subject::Mongo(arguments) => mongo(arguments),
        Subject::Postgres(arguments) => postgres::run(arguments),
        Subject::Backfill(arguments) => backfill::run(arguments),
        Subject::Redis(arguments) => redis::run(arguments),
    }
}

/// Where programs are measured.
trait Ground {
    /// The folder that they run in.
    fn folder(&self) -> &Path;
    /// CPU seconds of the server so far.
    fn server_cpu(&self) -> Result<Duration, Box<dyn std::error::Error>>;
    /// Removes from the server what was restored into it.
    fn drop_restored(&self) -> Outcome;
}

/// The bench's server, programs and folder.
struct Bench {
    mongod: Mongod,
    folder: PathBuf,
    mainstay: PathBuf,
    raw_bytes: u64,
    runtime: tokio::runtime::Runtime,
}

fn mongo(arguments: &MongoArguments) -> Outcome {
    crate::engines::install()?;
    for bytes in &arguments.bytes {
        measure_size(arguments, bytes)?;
    }
    Ok(())
}

fn measure_size(arguments: &MongoArguments, bytes: &str) -> Outcome {
    let bench = Bench::set_up(arguments, bytes)?;
    let [mongodump, mongorestore] = ["mongodump", "mongorestore"].map(on_path);
    describe(&bench, arguments.indexes, &[mongodump.clone(), mongorestore.clone()]);
    let wants = |part| arguments.only.contains(&part);
    if wants(Part::Backup) {
        let costs = measure(arguments.runs, &bench.backups(mongodump.as_deref()), &bench)?;
        print_table("backup", &costs, bench.raw_bytes);
    }
    if wants(Part::Dump) {
        let costs = measure(arguments.runs, &bench.pipes(mongodump.as_deref()), &bench)?;
        print_table("archive, nothing compressed, into a pipe", &costs, bench.raw_bytes);
        let costs = measure(arguments.runs, &bench.gzips(mongodump.as_deref()), &bench)?;
        print_table("archive, gzip, into a file", &costs, bench.raw_bytes);
    }
    if wants(Part::Restore) {
        bench.leave_one_of_each(mongodump.as_deref())?;
        let costs = measure(arguments.runs, &bench.restores(mongorestore.as_deref()), &bench)?;
        print_table("restore (verified before, proven after)", &costs, bench.raw_bytes);
    }
    Ok(())
}

/// One way to do the work: commands that are not measured, then the one that is, and where its output lies.
struct Subjected {
    name: String,
    before: Vec<Prepare>,
    command: Vec<String>,
    output: Output,
}

/// Where a program's output goes.
enum Output {
    /// Nowhere, or into a server.
    None,
    /// Into a file or a folder.
    Path(PathBuf),
    /// To standard output, a pipe that is read as fast as it is filled.
    Pipe,
}

enum Prepare {
    RemoveFolder(PathBuf),
    RemoveFile(PathBuf),
    DropRestored,
    Run(Vec<String>),
}

impl Bench {
    fn set_up(arguments: &MongoArguments, bytes: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let folder = target_folder().join("bench");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        let [mainstay, marketplace] = build(["mainstay", "marketplace"], true)?;
        let mongod = Mongod::options().cache_gib(arguments.cache).start()?;
        let status = Command::new(marketplace)
            .args(["load", "--db", DATABASE, "--bulk-bytes", bytes, "--scale", "0"])
            .env("MARKETPLACE_MONGO_URL", mongod.uri())
            .status()?;
        if !status.success() {
            return Err("the data could not be loaded".into());
        }
        let configuration = format!(
            "[environment]\nname = \"bench\"\nclass = \"development\"\n[mongo]\nurl = \"{}\"\ndatabase = \"{DATABASE}\"\n[repository]\nurl = \"file:./repository\"\n",
            mongod.uri()
        );
        fs::write(folder.join("mainstay.toml"), configuration)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let raw_bytes = runtime.block_on(async {
            let database = mongod.oracle().await.database(DATABASE);
            for keys in &INDEXES[..usize::from(arguments.indexes)] {
                let keys: Document =
                    keys.iter().map(|(key, order)| ((*key).to_owned(), Bson::from(*order))).collect();
                database
                    .collection::<Document>(COLLECTION)
                    .create_index(IndexModel::builder().keys(keys).build())
                    .await?;
            }
            let stats = database.run_command(doc! { "dbStats": 1 }).await?;
            Ok::<_, mongodb::error::Error>(stats.get_f64("dataSize").unwrap_or_default() as u64)
        })?;
        let bench = Self { mongod, folder, mainstay, raw_bytes, runtime };
        bench.mark()?;
        Ok(bench)
    }

    /// Marks the server as development, so that restores into it need nobody's consent.
    fn mark(&self) -> Outcome {
        let file = "mark.plan.json";
        let mark = self.own(&["environment", "mark", "--store", "mongo", "--output", file]);
        prepare(self, &Prepare::Run(mark))?;
        let hash = plan_hash(command(self, &self.own(&[])), file)?;
        prepare(self, &Prepare::Run(self.own(&["apply", file, "--approve", &hash])))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn own(&self, arguments: &[&str]) -> Vec<String> {
        let program = self.mainstay.display().to_string();
        std::iter::once(program).chain(arguments.iter().map(ToString::to_string)).collect()
    }

    fn peer(&self, program: &Path, arguments: &[&str]) -> Vec<String> {
        let uri = format!("--uri={}", self.mongod.uri());
        let head = [program.display().to_string(), uri, "--quiet".to_owned()];
        head.into_iter().chain(arguments.iter().map(ToString::to_string)).collect()
    }

    fn backups(&self, mongodump: Option<&Path>) -> Vec<Subjected> {
        let repository = self.path("repository");
        let mut subjects = vec![Subjected {
            name: "mainstay backup create".to_owned(),
            before: vec![Prepare::RemoveFolder(repository.clone())],
            command: self.own(&["--quiet", "backup", "create", "--store", "mongo"]),
            output: Output::Path(repository.join("mongo/sets")),
        }];
        if let Some(mongodump) = mongodump {
            for (name, file, gzip) in [
                ("mongodump --archive", "plain.archive", false),
                ("mongodump --archive --gzip", "gzip.archive", true),
            ] {
                let archive = self.path(file);
                let target = format!("--archive={}", archive.display());
                let mut options = vec!["--db", DATABASE, &target];
                options.extend(gzip.then_some("--gzip"));
                let command = self.peer(mongodump, &options);
                subjects.push(Subjected {
                    name: name.to_owned(),
                    before: Vec::new(),
                    command,
                    output: Output::Path(archive),
                });
            }
        }
        subjects
    }

    fn pipes(&self, mongodump: Option<&Path>) -> Vec<Subjected> {
        let piped = |name: &str, command| Subjected {
            name: name.to_owned(),
            before: Vec::new(),
            command,
            output: Output::Pipe,
        };
        let own = self.own(&["--quiet", "mongo", "dump", "--db", DATABASE, "--output", "-"]);
        let mut subjects = vec![piped("mainstay mongo dump", own)];
        subjects.extend(mongodump.map(|program| {
            piped("mongodump --archive", self.peer(program, &["--db", DATABASE, "--archive"]))
        }));
        subjects
    }

    fn gzips(&self, mongodump: Option<&Path>) -> Vec<Subjected> {
        let (own, other) = (self.path("own.archive.gz"), self.path("gzip.archive"));
        let file = own.display().to_string();
        let mut subjects = vec![Subjected {
            name: "mainstay mongo dump --gzip".to_owned(),
            before: vec![Prepare::RemoveFile(own.clone())],
            command: self.own(&["--quiet", "mongo", "dump", "--db", DATABASE, "--gzip", "--output", &file]),
            output: Output::Path(own),
        }];
        subjects.extend(mongodump.map(|program| {
            let target = format!("--archive={}", other.display());
            let command = self.peer(program, &["--db", DATABASE, &target, "--gzip"]);
            Subjected {
                name: "mongodump --archive --gzip".to_owned(),
                before: Vec::new(),
                command,
                output: Output::Path(other),
            }
        }));
        subjects
    }

    fn restores(&self, mongorestore: Option<&Path>) -> Vec<Subjected> {
        let plan = self.own(&[
            "--quiet",
            "restore",
            "plan",
            "latest",
            "--into",
            RESTORED,
            "--output",
            "bench.plan.json",
        ]);
        let mut subjects = vec![Subjected {
            name: "mainstay restore apply".to_owned(),
            before: vec![
                Prepare::DropRestored,
                Prepare::RemoveFile(self.path("bench.plan.json")),
                Prepare::Run(plan),
            ],
            command: self.own(&["--quiet", "restore", "apply", "bench.plan.json"]),
            output: Output::None,
        }];
        if let Some(mongorestore) = mongorestore {
            for (name, file, gzip) in [
                ("mongorestore --archive", "plain.archive", false),
                ("mongorestore --archive --gzip", "gzip.archive", true),
            ] {
                let source = format!("--archive={}", self.path(file).display());
                let (from, to) = (format!("--nsFrom={DATABASE}.*"), format!("--nsTo={RESTORED}.*"));
                let mut options = vec![&source, &from, &to, "--numInsertionWorkersPerCollection=4"];
                options.extend(gzip.then_some("--gzip"));
                let command = self.peer(mongorestore, &options);
                let before = vec![Prepare::DropRestored];
                subjects.push(Subjected { name: name.to_owned(), before, command, output: Output::None });
            }
        }
        subjects
    }

    /// Makes sure that there is a set and an archive of each kind to restore from.
    fn leave_one_of_each(&self, mongodump: Option<&Path>) -> Outcome {
        for subject in self.backups(mongodump) {
            if !matches!(&subject.output, Output::Path(path) if path.exists()) {
                run_once(self, &subject)?;
            }
        }
        Ok(())
    }
}

impl Ground for Bench {
    fn folder(&self) -> &Path {
        &self.folder
    }

    fn server_cpu(&self) -> Result<Duration, Box<dyn std::error::Error>> {
        cpu_of(self.mongod.pid().ok_or("the server is gone")?, false)
    }

    fn drop_restored(&self) -> Outcome {
        self.runtime.block_on(async { self.mongod.oracle().await.database(RESTORED).drop().await })?;
        Ok(())
    }
}

fn run_once(ground: &dyn Ground, subject: &Subjected) -> Result<Cost, Box<dyn std::error::Error>> {
    for step in &subject.before {
        prepare(ground, step)?;
    }
    let server_before = ground.server_cpu()?;
    let began = Instant::now();
    let mut process = command(ground, &subject.command);
    if matches!(subject.output, Output::Pipe) {
        process.stdout(Stdio::piped());
    }
    let mut child = process.spawn()?;
    let drained = drain(&mut child);
    let usage = child.wait4()?;
    let piped_bytes =
        drained.map_or(Ok(0), |thread| thread.join().expect("reading a pipe does not panic"))?;
    let wall = began.elapsed();
    if !usage.status.success() {
        return Err(format!("{} ended with {}", subject.name, usage.status).into());
    }
    Ok(Cost {
        wall,
        program_cpu: usage.rusage.utime + usage.rusage.stime,
        server_cpu: ground.server_cpu()?.saturating_sub(server_before),
        memory_bytes: usage.rusage.maxrss,
        output_bytes: match &subject.output {
            Output::None => 0,
            Output::Path(path) => bytes_below(path)?,
            Output::Pipe => piped_bytes,
        },
    })
}

fn prepare(ground: &dyn Ground, step: &Prepare) -> Outcome {
    match step {
        Prepare::RemoveFolder(folder) if folder.exists() => fs::remove_dir_all(folder)?,
        Prepare::RemoveFolder(_) => {}
        Prepare::RemoveFile(file) if file.exists() => fs::remove_file(file)?,
        Prepare::RemoveFile(_) => {}
        Prepare::DropRestored => ground.drop_restored()?,
        Prepare::Run(line) => {
            let status = command(ground, line).status()?;
            if !status.success() {
                return Err(format!("{} ended with {status}", line.join(" ")).into());
            }
        }
    }
    Ok(())
}

fn command(ground: &dyn Ground, line: &[String]) -> Command {
    let mut process = Command::new(&line[0]);
    process.args(&line[1..]).current_dir(ground.folder()).stdin(Stdio::null()).stdout(Stdio::null());
    process
}

/// CPU seconds of a process so far, of its children that have ended too when that is asked for: fields 14 to 17 of `/proc/<pid>/stat`, in ticks
/// of 10 ms.
fn cpu_of(pid: u32, with_children: bool) -> Result<Duration, Box<dyn std::error::Error>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let mut ticks = 0;
    for field in &fields[11..if with_children { 15 } else { 13 }] {
        ticks += field.parse::<u64>()?;
    }
    Ok(Duration::from_millis(ticks * 10))
}

/// Reads the child's standard output to its end, if it is a pipe, and counts.
fn drain(child: &mut Child) -> Option<thread::JoinHandle<io::Result<u64>>> {
    let mut pipe = child.stdout.take()?;
    Some(thread::spawn(move || {
        let (mut buffer, mut bytes) = (vec![0; 1 << 20], 0);
        loop {
            match pipe.read(&mut buffer)? {
                0 => return Ok(bytes),
                length => bytes += length as u64,
            }
        }
    }))
}

fn measure(
    runs: usize,
    subjects: &[Subjected],
    ground: &dyn Ground,
) -> Result<Vec<Series>, Box<dyn std::error::Error>> {
    let mut all: Vec<Series> =
        subjects.iter().map(|subject| Series { name: subject.name.clone(), costs: Vec::new() }).collect();
    for run in 1..=runs {
        for (subject, series) in subjects.iter().zip(&mut all) {
            let cost = run_once(ground, subject)?;
            eprintln!("run {run}/{runs} {:<32} {:>8.2} s", subject.name, cost.wall.as_secs_f64());
            series.costs.push(cost);
        }
    }
    Ok(all)
}

fn describe_hardware() {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processor.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    println!("hardware: {cores} cores,{}", model.trim_start_matches(['\t', ' ', ':']));
}

fn describe(bench: &Bench, indexes: u8, peers: &[Option<PathBuf>]) {
    describe_hardware();
    println!(
        "raw BSON: {:.1} MB in one collection with {indexes} secondary indexes, one-node replica set",
        bench.raw_bytes as f64 / 1e6
    );
    for program in std::iter::once(Some(bench.mainstay.clone())).chain(peers.iter().cloned()).flatten() {
        println!("program: {}", version_of(&program));
    }
}

fn version_of(program: &Path) -> String {
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let output = Command::new(program).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    format!("{name} ({})", text.lines().next().unwrap_or("version unknown"))
}

fn print_table(title: &str, all: &[Series], raw_bytes: u64) {
    println!("\n{title}: medians of {} runs", all.first().map_or(0, |series| series.costs.len()));
    println!(
        "{:<32} {:>8} {:>9} {:>10} {:>10} {:>9} {:>10} {:>7}",
        "program", "wall s", "MB/s raw", "own CPU s", "server s", "peak MB", "output MB", "ratio"
    );
    let own = all.first().map_or(0.0, |series| series.median(|cost| cost.wall.as_secs_f64()));
    for series in all {
        let wall = series.median(|cost| cost.wall.as_secs_f64());
        println!(
            "{:<32} {:>8.2} {:>9.0} {:>10.2} {:>10.2} {:>9.0} {:>10.1} {:>6.2}x",
            series.name,
            wall,
            raw_bytes as f64 / 1e6 / wall,
            series.median(|cost| cost.program_cpu.as_secs_f64()),
            series.median(|cost| cost.server_cpu.as_secs_f64()),
            series.median(|cost| cost.memory_bytes as f64 / 1e6),
            series.median(|cost| cost.output_bytes as f64 / 1e6),
            wall / own
        );
    }
}

impl Series {
    fn median(&self, of: impl Fn(&Cost) -> f64) -> f64 {
        let mut values: Vec<f64> = self.costs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or_default()
    }
}

/// A program of the PATH.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

fn bytes_below(path: &Path) -> io::Result<u64> {
    if path.is_file() {
        return Ok(path.metadata()?.len());
    }
    let mut bytes = 0;
    for entry in fs::read_dir(path)? {
        bytes += bytes_below(&entry?.path())?;
    }
    Ok(bytes)
}
