//! `cargo xtask ci` and its parts that are other programs: format, clippy, deny, the tests.
//!
//! Relies on cargo, and on the network once for `cargo-deny`, which is installed at a pinned version into the cache.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use mainstay_testkit::engines::cache::Cache;

use crate::{Outcome, engines, programs, tidy};

const CARGO_DENY: &str = "0.20.2";

/// What may be said after `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct TestArguments {
    /// Passed on to `cargo test`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Everything, cheapest first; ends at the first failure.
pub(crate) fn run() -> Outcome {
    step("format", || cargo(["fmt", "--all", "--check"]))?;
    step("clippy", || {
        cargo(["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "--deny", "warnings"])
    })?;
    step("tidy", tidy::run)?;
    step("deny", deny)?;
    step("test", || test(&TestArguments { rest: Vec::new() }))
}

/// Installs the engines, then runs every test of the workspace.
pub(crate) fn test(arguments: &TestArguments) -> Outcome {
    engines::install()?;
    let line = ["test", "--workspace", "--locked"].map(str::to_owned);
    cargo(line.iter().chain(&arguments.rest))
}

/// Bans, licences and sources of dependencies; advisories when asked for.
pub(crate) fn deny() -> Outcome {
    let program = cargo_deny()?;
    let mut command = Command::new(program);
    command.args([
        "--workspace",
        "--locked",
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ]);
    if std::env::var_os("MAINSTAY_DENY_ADVISORIES").is_some_and(|value| value == "1") {
        command.arg("advisories");
    } else {
        eprintln!(
            "deny: advisories are not checked; set MAINSTAY_DENY_ADVISORIES=1 where their database can be reached"
        );
    }
    succeed(&mut command)
}

/// The pinned `cargo-deny`: on PATH, in the cache, or installed into the cache now.
fn cargo_deny() -> Result<PathBuf, Box<dyn std::error::Error>> {
    let cache = Cache::open(&mut |_| ())?;
    let tools = cache.root().join("tools");
    let usual = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/mainstay/tools"));
    let folders =
        [Some(tools.clone()), usual].into_iter().flatten().map(|folder| folder.join("bin/cargo-deny"));
    if let Some(found) = [PathBuf::from("cargo-deny")].into_iter().chain(folders).find(is_pinned) {
        return Ok(found);
    }
    eprintln!("deny: installing cargo-deny {CARGO_DENY} into {}", tools.display());
    // Its build products are of no use to the workspace's.
    let build = tools.join("build");
    let mut install = programs::cargo();
    install
        .args(["install", "--quiet", "--locked", "cargo-deny", "--version", CARGO_DENY, "--root"])
        .arg(&tools);
    install.env("CARGO_TARGET_DIR", &build);
    succeed(&mut install)?;
    // The installed program is what counts; a leftover costs disk only.
    let _ = std::fs::remove_dir_all(&build);
    Ok(tools.join("bin/cargo-deny"))
}

fn is_pinned(program: &PathBuf) -> bool {
    let output = Command::new(program).arg("--version").stderr(Stdio::null()).output();
    output.is_ok_and(|output| {
        String::from_utf8_lossy(&output.stdout).trim() == format!("cargo-deny {CARGO_DENY}")
    })
}

fn step(name: &str, work: impl FnOnce() -> Outcome) -> Outcome {
    let begin = std::time::Instant::now();
    eprintln!("ci: {name}");
    work().map_err(|error| format!("{name}: {error}"))?;
    eprintln!("ci: {name} passed in {:.0} s", begin.elapsed().as_secs_f64());
    Ok(())
}

fn cargo(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Outcome {
    succeed(programs::cargo().args(arguments))
}

fn succeed(command: &mut Command) -> Outcome {
    let name = PathBuf::from(command.get_program());
    let name = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let first = command.get_args().next().unwrap_or_default().to_string_lossy().into_owned();
    let status = command.status().map_err(|error| format!("start {name}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("`{name} {first} …` ended with {status}").into()) }
}
