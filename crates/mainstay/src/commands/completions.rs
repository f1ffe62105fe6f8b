//! `completions SHELL`: a completion script, made from the command tree itself.

use clap::Args;
use clap_complete::Shell;
use serde_json::{Map, Value, json};

use crate::args;
use crate::printer::{Look, Report};

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// A text that stands for itself.
pub(crate) struct Script(pub(crate) String);

impl Report for Script {
    fn json(&self) -> Map<String, Value> {
        Map::from_iter([("text".to_owned(), json!(self.0))])
    }

    fn text(&self, _look: &Look) -> String {
        self.0.clone()
    }
}

/// Makes the script.
pub(crate) fn run(args: &CompletionsArgs) -> Script {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut args::tree(), "mainstay", &mut text);
    Script(String::from_utf8_lossy(&text).into_owned())
}
