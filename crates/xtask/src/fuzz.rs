//! `cargo xtask fuzz [TARGET] [--seconds N] [--seed N]`: builds and runs `mainstay-fuzzing`, which has the targets.
//!
//! In the profile of tests, where arithmetic that overflows panics and the parsers are optimised.

use std::process::Command;

use crate::Outcome;
use crate::programs::build;

/// What the fuzzing program takes.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// Handed on; `--help` tells them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let [program] = build(["mainstay-fuzzing"], false)?;
    if Command::new(program).args(&arguments.arguments).status()?.success() {
        return Ok(());
    }
    Err("a promise was broken".into())
}
