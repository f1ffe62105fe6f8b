//! The `mainstay` binary: arguments, configuration, wiring, one file per command, and the printer.
//!
//! Only this crate reads arguments, the environment and the home directory, and only [`printer`] prints. What a command does lives in
//! `mainstay-ops`; here it is given its stores and its result is shown.

mod args;
mod bounded;
mod commands;
mod config;
mod interrupt;
mod new_file;
mod printer;
mod run;
mod wiring;

fn main() -> std::process::ExitCode {
    run::run()
}
