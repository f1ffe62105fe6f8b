//! Base backups of PostgreSQL beside `pg_basebackup` in its fastest compressed setting, restores beside fetching and unpacking its output.
//!
//! Data: rows as pgbench makes them, and blobs that do not compress, half and half. The peer is tried once with every compression that program
//! and server know; the fastest takes part, and the fastest that compresses with zstd, when that is another. What it leaves is fetched (copied)
//! and unpacked with `tar`, with what waits for the disk made durable afterwards, as our restore does, and without. Ours is measured on a
//! set that `backup verify` found sound and on one that nobody has looked at.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use mainstay_testkit::Postgres;
use mainstay_testkit::engines::{EngineKind, locate};

use super::{
    Cost, Ground, Output, Prepare, Subjected, bytes_below, cpu_of, describe_hardware, measure, on_path,
    prepare, print_table, run_once, version_of,
};
use crate::Outcome;
use crate::programs::{build, target_folder};

/// Rows of pgbench's largest table for each unit of its scale, and about how many bytes they take with their index.
const ROWS_PER_UNIT: u64 = 100_000;
const BYTES_PER_UNIT: u64 = 15_300_000;
/// How long a blob is, and about how many bytes it takes in its table.
const BLOB_BYTES: u64 = 8_000;
const BYTES_PER_BLOB: u64 = 8_900;

/// Compressions of `pg_basebackup`, quickest setting of each; not every build knows all.
const COMPRESSIONS: [&str; 9] = [
    "client-lz4",
    "server-lz4",
    "client-zstd:level=1",
    "client-zstd:level=1,workers=2",
    "server-zstd:level=1",
    "server-zstd:level=1,workers=2",
    "client-zstd:level=3",
    "client-gzip:1",
    "server-gzip:1",
];

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Bytes of the cluster, about, such as 2GiB.
    #[arg(long, default_value = "2GiB")]
    bytes: String,
    /// Runs of each program.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// What is measured.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["backup", "restore", "incremental"])]
    only: Vec<Part>,
}

/// A part of the measurements.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// `backup create` beside `pg_basebackup`.
    Backup,
    /// `restore apply` beside fetching and unpacking.
    Restore,
    /// `backup create --incremental` after a twentieth of the blocks was touched.
    Incremental,
}

/// The bench's server, programs and folder.
struct Bench {
    server: Postgres,
    folder: PathBuf,
    mainstay: PathBuf,
    peer: PathBuf,
    cluster_bytes: u64,
}

impl Ground for Bench {
    fn folder(&self) -> &Path {
        &self.folder
    }

    /// The postmaster's, and its children's: those that run and those that have ended.
    fn server_cpu(&self) -> Result<Duration, Box<dyn std::error::Error>> {
        let postmaster = self.server.pid().ok_or("the server is gone")?;
        let mut sum = cpu_of(postmaster, true)?;
        let children = fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children"))?;
        for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            // It may have ended meanwhile.
            sum += cpu_of(child, false).unwrap_or_default();
        }
        Ok(sum)
    }

    fn drop_restored(&self) -> Outcome {
        Ok(())
    }
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    crate::engines::install()?;
    let bench = Bench::set_up(bytes_of(&arguments.bytes)?)?;
    bench.describe();
    let wants = |part| arguments.only.contains(&part);
    let peers = bench.choose_peers()?;
    if wants(Part::Backup) {
        let subjects: Vec<Subjected> =
            std::iter::once(bench.backup()).chain(peers.iter().map(|peer| bench.peer(peer))).collect();
        let costs = measure(arguments.runs, &subjects, &bench)?;
        print_table("base backup", &costs, bench.cluster_bytes);
    }
    if wants(Part::Restore) {
        bench.leave_one_of_each(&peers)?;
        let costs = measure(arguments.runs, &bench.restores(&peers), &bench)?;
        print_table("restore of a base backup, WAL included", &costs, bench.cluster_bytes);
    }
    if wants(Part::Incremental) {
        bench.incremental(arguments.runs)?;
    }
    Ok(())
}

/// A number of bytes with a binary or decimal unit.
fn bytes_of(text: &str) -> Result<u64, Box<dyn std::error::Error>> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit: u64 = match &text[digits..] {
        "" | "B" => 1,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        other => return Err(format!("{other:?} is no unit of bytes").into()),
    };
    Ok(text[..digits].parse::<u64>()?.saturating_mul(unit))
}

/// Text for the shell.
fn shell(script: String) -> Vec<String> {
    vec!["sh".to_owned(), "-ec".to_owned(), script]
}

impl Bench {
    fn set_up(bytes: u64) -> Result<Self, Box<dyn std::error::Error>> {
        let folder = target_folder().join("bench-postgres");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        let [mainstay] = build(["mainstay"], true)?;
        let server = Postgres::options()
            .parameter("summarize_wal", "on")
            .parameter("autovacuum", "off")
            .parameter("max_wal_size", "4GB")
            .parameter("shared_buffers", "256MB")
            .start()?;
        eprintln!("filling a server with about {} MB", bytes / 1_000_000);
        fill(&server, bytes)?;
        let configuration = format!(
            "[environment]\nname = \"bench\"\nclass = \"development\"\n[postgres]\nurl = \"{}\"\n[repository]\nurl = \"file:./repository\"\n",
            server.uri()
        );
        fs::write(folder.join("mainstay.toml"), configuration)?;
        let cluster_bytes = bytes_below(&server.dir().join("data/base"))?;
        let peer = locate(EngineKind::PgClient)?.tool("pg_basebackup");
        Ok(Self { server, folder, mainstay, peer, cluster_bytes })
    }

    fn describe(&self) {
        describe_hardware();
        println!(
            "cluster: {:.1} MB, half rows of pgbench, half blobs that do not compress",
            self.cluster_bytes as f64 / 1e6
        );
        for program in [&self.mainstay, &self.peer] {
            println!("program: {}", version_of(program));
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn own(&self, repository: &str, arguments: &[&str]) -> Vec<String> {
        let head = [self.mainstay.display().to_string(), "--quiet".to_owned()];
        let repository = ["--repository-url".to_owned(), format!("file:./{repository}")];
        head.into_iter().chain(repository).chain(arguments.iter().map(ToString::to_string)).collect()
    }

    fn backup(&self) -> Subjected {
        let repository = self.path("repository");
        Subjected {
            name: "mainstay backup create".to_owned(),
            before: vec![Prepare::RemoveFolder(repository.clone())],
            command: self.own("repository", &["backup", "create", "--store", "postgres"]),
            output: Output::Path(repository),
        }
    }

    /// The peer with one compression. Its WAL comes in the archive, as ours.
    fn peer(&self, compression: &str) -> Subjected {
        let output = self.path(&folder_of(compression));
        let command = [
            &self.peer.display().to_string(),
            "--dbname",
            &self.server.uri(),
            "--pgdata",
            &output.display().to_string(),
            "--format=tar",
            "--wal-method=fetch",
            "--checkpoint=fast",
            "--compress",
            compression,
        ]
        .map(str::to_owned)
        .to_vec();
        Subjected {
            name: format!("pg_basebackup {compression}"),
            before: vec![Prepare::RemoveFolder(output.clone())],
            command,
            output: Output::Path(output),
        }
    }

    /// Tries every compression once: the fastest, and the fastest of those with zstd.
    fn choose_peers(&self) -> Result<Vec<String>, Box<dyn std::error::Error>> {
        let mut tried: Vec<(String, Cost)> = Vec::new();
        for compression in COMPRESSIONS {
            match run_once(self, &self.peer(compression)) {
                Ok(cost) => tried.push((compression.to_owned(), cost)),
                Err(error) => println!("pg_basebackup {compression}: not here ({error})"),
            }
        }
        tried.sort_by_key(|(_, cost)| cost.wall);
        for (compression, cost) in &tried {
            println!(
                "pg_basebackup {compression}: tried, {:.2} s, {:.1} MB",
                cost.wall.as_secs_f64(),
                cost.output_bytes as f64 / 1e6
            );
        }
        let fastest = tried.first().ok_or("the peer knows no compression")?.0.clone();
        let with_zstd = tried.iter().find(|(name, _)| name.contains("zstd")).map(|(name, _)| name.clone());
        let mut chosen = vec![fastest];
        chosen.extend(with_zstd.filter(|name| *name != chosen[0]));
        println!("the fastest take part: {}", chosen.join(", "));
        Ok(chosen)
    }

    /// Makes sure that there is a set, one like it that was verified, and an archive of each peer.
    fn leave_one_of_each(&self, peers: &[String]) -> Outcome {
        run_once(self, &self.backup())?;
        prepare(self, &Prepare::RemoveFolder(self.path("verified")))?;
        prepare(self, &Prepare::Run(shell("cp -r repository verified".to_owned())))?;
        prepare(self, &Prepare::Run(self.own("verified", &["backup", "verify", "--store", "postgres"])))?;
        for peer in peers {
            run_once(self, &self.peer(peer))?;
        }
        Ok(())
    }

    fn restores(&self, peers: &[String]) -> Vec<Subjected> {
        let mut subjects: Vec<Subjected> = [("verified", "verified set"), ("repository", "unverified set")]
            .map(|(repository, what)| {
                let plan = ["restore", "plan", "latest", "--store", "postgres", "--into", "restored"];
                let plan = [&plan[..], &["--output", "bench.plan.json"]].concat();
                Subjected {
                    name: format!("mainstay restore, {what}"),
                    before: vec![
                        Prepare::RemoveFolder(self.path("restored")),
                        Prepare::RemoveFile(self.path("bench.plan.json")),
                        Prepare::Run(self.own(repository, &plan)),
                    ],
                    command: self.own(repository, &["restore", "apply", "bench.plan.json"]),
                    output: Output::None,
                }
            })
            .into();
        for peer in peers {
            let unpacker = match peer {
                name if name.contains("zstd") => "zstd",
                name if name.contains("lz4") => "lz4",
                _ => "gzip",
            };
            if on_path(unpacker).is_none() {
                println!("{unpacker} is not on the PATH: nothing to unpack {peer} with");
                continue;
            }
            let fetch = format!("mkdir fetched unpacked; cp {}/* fetched/", folder_of(peer));
            let unpack = format!("{unpacker} -dc fetched/base.tar.* | tar -xf - -C unpacked");
            for (what, sync) in [(", durable", "; sync --file-system unpacked"), ("", "")] {
                subjects.push(Subjected {
                    name: format!("cp, {unpacker} | tar{what}"),
                    before: ["fetched", "unpacked"]
                        .map(|folder| Prepare::RemoveFolder(self.path(folder)))
                        .into(),
                    command: shell(format!("{fetch}; {unpack}{sync}")),
                    output: Output::None,
                });
            }
        }
        subjects
    }

    /// Touches a twentieth of the blocks before each run, which builds on the same whole set.
    fn incremental(&self, runs: usize) -> Outcome {
        let whole = run_once(self, &self.backup())?;
        let set = self.sets()?["sets"][0]["id"].as_str().ok_or("no set was made")?.to_owned();
        self.server.execute(
            "postgres",
            "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE (ctid::text::point)[0]::bigint % 20 = 0 AND (ctid::text::point)[1] = 1",
        )?;
        // A blob takes one block and a quarter, in two blocks at the most.
        self.server.execute("postgres", "DELETE FROM blobs WHERE id % 32 = 0")?;
        let subject = Subjected {
            name: "mainstay backup create --incremental".to_owned(),
            before: Vec::new(),
            command: self
                .own("repository", &["backup", "create", "--store", "postgres", "--incremental", &set]),
            output: Output::Path(self.path("repository")),
        };
        let mut costs = Vec::new();
        let mut before = whole.output_bytes;
        for _ in 0..runs {
            let mut cost = run_once(self, &subject)?;
            let after = cost.output_bytes;
            cost.output_bytes = after.saturating_sub(before);
            before = after;
            costs.push(cost);
        }
        let series = super::Series { name: subject.name, costs };
        let share = series.median(|cost| cost.output_bytes as f64) / whole.output_bytes as f64;
        print_table("incremental, a twentieth of the blocks touched", &[series], self.cluster_bytes);
        println!(
            "stored: {:.1} % of the {:.1} MB of the whole one",
            share * 100.0,
            whole.output_bytes as f64 / 1e6
        );
        let sets = self.sets()?;
        let read = |number: usize| sets["sets"][number]["bytes"].as_f64().unwrap_or_default();
        println!("read: {:.1} % of its {:.1} MB", read(1) / read(0) * 100.0, read(0) / 1e6);
        Ok(())
    }

    /// The sets of the repository, as they are listed.
    fn sets(&self) -> Result<serde_json::Value, Box<dyn std::error::Error>> {
        let mut list = super::command(self, &self.own("repository", &["backup", "list", "--json"]));
        Ok(serde_json::from_slice(&list.stdout(Stdio::piped()).output()?.stdout)?)
    }
}

/// Where the peer's output with a compression goes.
fn folder_of(compression: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    format!("peer-{}", compression.chars().map(plain).collect::<String>())
}

fn fill(server: &Postgres, bytes: u64) -> Outcome {
    let rows = (bytes / 2 / BYTES_PER_UNIT).max(1) * ROWS_PER_UNIT;
    let blobs = (bytes / 2 / BYTES_PER_BLOB).max(1);
    let pieces = vec!["gen_random_bytes(1000)"; (BLOB_BYTES / 1000) as usize].join(" || ");
    let statements = [
        "CREATE EXTENSION pgcrypto".to_owned(),
        "CREATE TABLE pgbench_accounts (aid int NOT NULL, bid int, abalance int, filler char(84)) WITH (fillfactor = 95)".to_owned(),
        format!("INSERT INTO pgbench_accounts SELECT i, i / {ROWS_PER_UNIT} + 1, 0, '' FROM generate_series(1, {rows}) AS i"),
        "ALTER TABLE pgbench_accounts ADD PRIMARY KEY (aid)".to_owned(),
        "CREATE TABLE blobs (id int, content bytea)".to_owned(),
        "ALTER TABLE blobs ALTER content SET STORAGE EXTERNAL".to_owned(),
        format!("INSERT INTO blobs SELECT i, {pieces} FROM generate_series(1, {blobs}) AS i"),
        "VACUUM ANALYZE".to_owned(),
        "CHECKPOINT".to_owned(),
    ];
    for statement in &statements {
        server.execute("postgres", statement)?;
    }
    Ok(())
}
