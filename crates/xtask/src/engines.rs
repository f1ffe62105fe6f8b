//! `cargo xtask engines`: find or install the real servers and check them.

use mainstay_testkit::engines::{EngineKind, Engines, NodePackage, check, locate};

use crate::Outcome;

/// What may be said after `cargo xtask engines`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Fetch nothing: say what is found, start each once for its version, fail when one is missing or unfit.
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    if arguments.check { check_all() } else { install() }
}

/// Installs what is missing, telling each event.
pub(crate) fn install() -> Outcome {
    let report = &mut |line: &str| eprintln!("engines: {line}");
    Engines::install(report)?;
    for package in NodePackage::all() {
        package.install(report)?;
    }
    Ok(())
}

fn check_all() -> Outcome {
    let mut failed = 0;
    for kind in EngineKind::ALL {
        match locate(kind).and_then(|engine| check(&engine).map(|()| engine)) {
            Ok(engine) => println!("{}", engine.describe()),
            Err(error) => {
                failed += 1;
                println!("{:<10} {error}", kind.name());
            }
        }
    }
    for package in NodePackage::all() {
        match package.modules() {
            Ok(modules) => println!("{:<10} {}", package.name(), modules.display()),
            Err(error) => {
                failed += 1;
                println!("{:<10} {error}", package.name());
            }
        }
    }
    if failed > 0 { Err(format!("{failed} engines do not serve").into()) } else { Ok(()) }
}
