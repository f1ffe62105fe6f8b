//! Parsers of foreign bytes on inputs made from a corpus, on the stable compiler. Run as `cargo xtask fuzz TARGET`.
//!
//! A target is a plain function of bytes that panics when a promise is broken; [`TARGETS`] names them all, one line each. The same functions
//! are the bodies of `fuzz/fuzz_targets`, for `cargo fuzz` where there is a nightly compiler. What breaks a promise, or takes longer than any
//! input may, is written to `fuzz/crashes/TARGET`; the seed is printed first, and the same seed makes the same inputs. A program of its own,
//! because it needs the adapters, which other tasks shall not wait for.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it talks to the person who typed it")]

use std::hash::{BuildHasher, Hasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{fs, io};

use clap::Parser;
use mainstay_archive::fuzzing as archive;
use mainstay_basebackup::fuzzing as basebackup;
use mainstay_migrations::fuzzing as migrations;
use mainstay_mongo::fuzzing as mongo;
use mainstay_ops::fuzzing as ops;
use mainstay_pgdump::fuzzing as pgdump;
use mainstay_postgres::fuzzing as postgres;
use mainstay_rdb::fuzzing as rdb;
use mainstay_repository::fuzzing as repository;

/// What a program ends with.
type Outcome = Result<(), Box<dyn std::error::Error>>;

/// A parser to try.
struct Target {
    name: &'static str,
    exercise: fn(&[u8]),
}

/// Every target. Its corpus is `fuzz/corpus/NAME`.
const TARGETS: &[Target] = &[
    Target { name: "archive", exercise: archive::archive },
    Target { name: "gzip", exercise: archive::gzip_and_names },
    Target { name: "object", exercise: |bytes| repository::object(bytes, IDENTITY) },
    Target { name: "record", exercise: repository::record },
    Target { name: "slice_name", exercise: repository::slice_name },
    Target { name: "mongo_reply", exercise: mongo::reply },
    Target { name: "mongo_definitions", exercise: mongo::definitions },
    Target { name: "mongo_survey", exercise: mongo::survey },
    Target { name: "mongo_diff", exercise: mongo::diff },
    Target { name: "mongo_challenge", exercise: mongo::challenge },
    Target { name: "mongo_operations", exercise: mongo::operations },
    Target { name: "postgres_messages", exercise: postgres::messages },
    Target { name: "postgres_copy", exercise: postgres::copy },
    Target { name: "postgres_statement", exercise: postgres::statement },
    Target { name: "basebackup_archive", exercise: basebackup::archive },
    Target { name: "basebackup_manifest", exercise: basebackup::manifest },
    Target { name: "basebackup_incremental", exercise: basebackup::incremental },
    Target { name: "rdb", exercise: rdb::file },
    Target { name: "pgdump_archive", exercise: pgdump::archive },
    Target { name: "basebackup_wal", exercise: basebackup::wal },
    Target { name: "redis_stream", exercise: rdb::stream },
    Target { name: "arrivals", exercise: repository::arrivals },
    Target { name: "init_script", exercise: ops::script },
    Target { name: "migration_statements", exercise: migrations::statements },
    Target { name: "migration_journal", exercise: migrations::journal },
    Target { name: "migration_lint", exercise: migrations::lints },
];

/// An identity that opens the corpus' encrypted objects and nothing else.
const IDENTITY: &str = include_str!("../../../fuzz/identity.txt");

/// How much processor time one input may take.
const INPUT_TIME_MAX: Duration = Duration::from_secs(2);
/// How long an input may grow.
const INPUT_BYTES_MAX: usize = 64 * 1024;
/// Numbers that lengths and counts trip over.
const NUMBERS: [i64; 14] = [
    0,
    1,
    -1,
    4,
    5,
    127,
    128,
    255,
    65_535,
    16_777_216,
    16_777_217,
    i32::MAX as i64,
    i32::MIN as i64,
    i64::MIN,
];

/// What may be said after `cargo xtask fuzz`.
#[derive(Parser)]
#[command(name = "cargo xtask fuzz")]
struct Arguments {
    /// Which parser; all of them when left out.
    target: Option<String>,
    /// How long to try each.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Make the inputs of an earlier run again.
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Outcome {
    let is_meant = |target: &&Target| arguments.target.as_deref().is_none_or(|name| name == target.name);
    let targets: Vec<&Target> = TARGETS.iter().filter(is_meant).collect();
    if targets.is_empty() {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        return Err(format!("there is no such target; there are: {}", names.join(", ")).into());
    }
    let seed = arguments.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
    for target in targets {
        println!("fuzz {}: seed {seed}, {} s", target.name, arguments.seconds);
        let count = try_out(target, seed, Duration::from_secs(arguments.seconds))?;
        println!("fuzz {}: {count} inputs, no promise broken", target.name);
    }
    Ok(())
}

/// Tries inputs until the time is over; gives how many.
fn try_out(target: &Target, seed: u64, time: Duration) -> Result<u64, Box<dyn std::error::Error>> {
    let corpus = read_corpus(&workspace_folder().join("fuzz/corpus").join(target.name))?;
    let mut random = Random(seed.max(1));
    let mut count = 0;
    for input in &corpus {
        judge(target, input)?;
    }
    let end = Instant::now() + time;
    while Instant::now() < end {
        let input = mutated(&corpus, &mut random);
        judge(target, &input)?;
        count += 1;
    }
    Ok(count)
}

/// The folder of the workspace's `Cargo.toml`.
fn workspace_folder() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("this crate lies two folders below the workspace").to_owned()
}

fn judge(target: &Target, input: &[u8]) -> Outcome {
    let began = processor_time();
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.exercise)(input)));
    let broken = match outcome {
        Err(_) => "it panicked",
        Ok(()) if processor_time().saturating_sub(began) > INPUT_TIME_MAX => "it took too long",
        Ok(()) => return Ok(()),
    };
    let folder = workspace_folder().join("fuzz/crashes").join(target.name);
    fs::create_dir_all(&folder)?;
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(input);
    let file = folder.join(format!("{:016x}", hasher.finish()));
    fs::write(&file, input)?;
    Err(format!("{}: {broken}; the input is {}", target.name, file.display()).into())
}

/// The processor time that this thread has had: a busy machine does not make an input slow.
fn processor_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(now).unwrap_or_default()
}

fn read_corpus(folder: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
    files.sort();
    let mut corpus = vec![Vec::new()];
    for file in files {
        corpus.push(fs::read(file)?);
    }
    Ok(corpus)
}

/// One input of the corpus with a few changes.
fn mutated(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(6) {
        let at = random.below(input.len() + 1);
        match random.below(8) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.next() as u8,
            2 => input.truncate(at),
            3 => {
                let number = NUMBERS[random.below(NUMBERS.len())].to_le_bytes();
                let width = [1, 2, 4, 8][random.below(4)];
                for (byte, new) in input[at..].iter_mut().zip(&number[..width]) {
                    *byte = *new;
                }
            }
            4 => {
                let other = &corpus[random.below(corpus.len())];
                input.truncate(at);
                input.extend_from_slice(&other[random.below(other.len() + 1)..]);
            }
            5 => {
                let end = (at + random.below(64)).min(input.len());
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            6 => drop(input.drain(at..(at + random.below(16)).min(input.len()))),
            _ => drop(input.splice(at..at, [0xFF; 4])),
        }
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

/// Numbers that follow from a seed (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn every_target_has_a_corpus_and_stands_a_moment() {
        for target in TARGETS {
            assert!(try_out(target, 7, Duration::from_millis(300)).unwrap() > 0, "{}", target.name);
        }
    }

    #[test]
    fn one_seed_makes_the_same_inputs() {
        let corpus = vec![b"abcdefgh".to_vec(), b"12345".to_vec()];
        let inputs = |seed| {
            let mut random = Random(seed);
            (0..50).map(|_| mutated(&corpus, &mut random)).collect::<Vec<_>>()
        };
        assert_eq!(inputs(3), inputs(3));
        assert_ne!(inputs(3), inputs(5));
    }
}
