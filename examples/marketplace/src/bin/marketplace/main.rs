//! `marketplace`: loads the sample into a MongoDB and a Redis, or says what it would load.
//!
//! A small program of its own beside the library: it reads arguments and two environment variables and prints. Exit status: 0 done,
//! 1 failed, 2 wrong usage.

mod arguments;
mod printer;

use arguments::{Arguments, Command};
use clap::Parser;
use marketplace::{LoadError, LoadReport, Sample, load};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command {
        Command::Load(arguments) => match arguments.resolve(|name| std::env::var(name).ok()) {
            Ok(resolved) => run_load(&resolved),
            Err(refusal) => {
                printer::error(&refusal.to_string(), refusal.hint());
                ExitCode::from(2)
            }
        },
        Command::Describe(size) => {
            printer::description(&Sample::new(size.seed, size.scale, jiff::Timestamp::now()));
            ExitCode::SUCCESS
        }
    }
}

fn run_load(resolved: &arguments::ResolvedLoad) -> ExitCode {
    let progress = printer::Bar::new();
    let loaded: Result<LoadReport, LoadError> = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("the system can start threads")
        .block_on(Box::pin(load(&resolved.target, &resolved.options, &progress)));
    progress.end();
    match loaded {
        Ok(report) => {
            printer::report(&report);
            ExitCode::SUCCESS
        }
        Err(error) => {
            printer::error(&error.to_string(), error.hint());
            ExitCode::FAILURE
        }
    }
}
