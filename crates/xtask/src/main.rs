//! Development tasks, run as `cargo xtask <task>`.
//!
//! One file per task. Relies on cargo and on the test kit. Refuses to be part of the product: nothing depends on it.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a task talks to the person who typed it")]

mod bench;
mod ci;
mod demo;
mod engines;
mod fuzz;
mod interop;
mod programs;
mod soak;
mod soak_outage;
mod soak_postgres;
mod soak_redis;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What a task returns; the error is printed by `main`.
type Outcome = Result<(), Box<dyn std::error::Error>>;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Development tasks of Mainstay", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find or install MongoDB, PostgreSQL 18 and Redis 8 for the tests.
    Engines(engines::Arguments),
    /// Fill a real stack, back it up, destroy it, restore it and prove it equal.
    Demo(demo::Arguments),
    /// Install the engines, then run every test.
    Test(ci::TestArguments),
    /// Measure.
    Bench(bench::Arguments),
    /// Try for longer than tests may.
    Soak(soak::Arguments),
    /// Try the parsers of foreign bytes on bytes that nobody meant.
    Fuzz(fuzz::Arguments),
    /// Prove that stock tools read what we write, and we what they write.
    Interop(interop::Arguments),
    /// Check the rules that the compiler does not.
    Tidy,
    /// Check licences, sources and bans of dependencies.
    Deny,
    /// Everything that must pass: format, clippy, tidy, deny, tests.
    Ci,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Engines(arguments) => engines::run(&arguments),
        Task::Demo(arguments) => demo::run(&arguments),
        Task::Test(arguments) => ci::test(&arguments),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Soak(arguments) => soak::run(&arguments),
        Task::Fuzz(arguments) => fuzz::run(&arguments),
        Task::Interop(arguments) => interop::run(&arguments),
        Task::Tidy => tidy::run(),
        Task::Deny => ci::deny(),
        Task::Ci => ci::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
