//! Building the programs that tasks run, and finding what was built.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// Where cargo puts what it builds.
pub(crate) fn target_folder() -> PathBuf {
    let named = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    named.unwrap_or_else(|| workspace_folder().join("target"))
}

/// The folder of the workspace's `Cargo.toml`.
pub(crate) fn workspace_folder() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("xtask lies two folders below the workspace").to_owned()
}

/// The hash of the plan in `file`, which approves it where nobody sits at a terminal. `mainstay` is the program, set up to run in the plan's
/// folder.
///
/// # Errors
/// When the program does not show the plan.
pub(crate) fn plan_hash(mut mainstay: Command, file: &str) -> Result<String, Box<dyn std::error::Error>> {
    let output = mainstay
        .args(["plan", "show", file, "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .output()?;
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let hash = answer.get("plan_hash").and_then(serde_json::Value::as_str);
    Ok(hash.ok_or("the plan was shown without a hash")?.to_owned())
}

/// Runs a program to its end, which must be a good one.
///
/// # Errors
/// When it cannot be run, or fails: with what it was asked and what it said.
pub(crate) fn must(command: &mut Command) -> Result<Output, Box<dyn std::error::Error>> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(output);
    }
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{} ended with {}: {said}", line.join(" "), output.status).into())
}

/// The cargo that runs this task, else the one on PATH, as somebody at a prompt would start it: what the running one has set for this program
/// would make build scripts that look at it take everything for changed.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Builds the programs `names` (packages of the same name) and gives their paths.
///
/// # Errors
/// When cargo fails; it has told why.
pub(crate) fn build<const N: usize>(
    names: [&str; N],
    release: bool,
) -> Result<[PathBuf; N], Box<dyn std::error::Error>> {
    let mut cargo = cargo();
    cargo.arg("build").arg("--locked").current_dir(workspace_folder());
    for name in names {
        cargo.args(["--package", name]);
    }
    if release {
        cargo.arg("--release");
    }
    if !cargo.status()?.success() {
        return Err("cargo build failed".into());
    }
    let folder = target_folder().join(if release { "release" } else { "debug" });
    Ok(names.map(|name| folder.join(name)))
}
