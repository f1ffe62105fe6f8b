//! `config show|check|init`: what holds and why, what contradicts, and a file to begin with. Connects nowhere.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use mainstay_model::{ExitStatus, Finding, Result, Severity};
use serde_json::{Map, Value, json};

use super::findings;
use crate::config::file::PROJECT_FILE;
use crate::config::key::{KEYS, markdown_table};
use crate::config::resolved::{Setting, Value as ConfigValue};
use crate::config::template::TEMPLATE;
use crate::config::{Configuration, Outside, check::check};
use crate::new_file;
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::Session;

/// The commands below `config`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show the value of every key
    Show(ShowArgs),
    /// Find mistakes and contradictions, without connecting
    Check,
    /// Write a commented mainstay.toml into the working directory
    Init(InitArgs),
}

/// Arguments of `config show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Show where each value comes from
    #[arg(long)]
    pub(crate) origin: bool,
    /// Show keys that nothing sets, too
    #[arg(long)]
    pub(crate) all: bool,
    /// Show every key with its variables, as Markdown; needs no configuration
    #[arg(long, conflicts_with_all = ["origin", "all"])]
    pub(crate) variables: bool,
}

/// Arguments of `config init`.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {}

impl ConfigCommand {
    /// The operation's name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Show(_) => "config.show",
            Self::Check => "config.check",
            Self::Init(_) => "config.init",
        }
    }
}

/// Runs `config show` or `config check`.
///
/// # Errors
/// None of their own.
pub(crate) fn run(command: ConfigCommand, session: &Session) -> Result<ExitStatus> {
    let configuration = &session.configuration;
    Ok(match command {
        ConfigCommand::Show(args) => session.printer.report(&Shown { configuration, args }),
        ConfigCommand::Check => session
            .printer
            .report(&Checked { files: configuration.files.clone(), findings: check(configuration) }),
        ConfigCommand::Init(_) => session.printer.report(&init(&session.outside)?),
    })
}

struct Shown<'a> {
    configuration: &'a Configuration,
    args: ShowArgs,
}

impl Shown<'_> {
    fn settings(&self) -> impl Iterator<Item = (String, Option<&Setting>)> {
        KEYS.iter()
            .map(|key| (key.path(), self.configuration.setting(&key.path())))
            .filter(|(_, setting)| self.args.all || setting.is_some())
    }
}

impl Report for Shown<'_> {
    fn json(&self) -> Map<String, Value> {
        let settings: Vec<Value> = self
            .settings()
            .map(|(path, setting)| match setting {
                None => json!({"key": path, "value": null, "origin": null}),
                Some(setting) => json!({
                    "key": path,
                    "value": json_value(setting),
                    "origin": {
                        "kind": setting.origin.rank.name(),
                        "place": setting.origin.place,
                        "value_file": setting.origin.value_file,
                    },
                    "passed_over": setting.passed_over.iter().map(|other| other.origin.to_string()).collect::<Vec<_>>(),
                }),
            })
            .collect();
        Map::from_iter([
            ("files".to_owned(), json!(self.configuration.files)),
            ("settings".to_owned(), json!(settings)),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let heading: &[&'static str] =
            if self.args.origin { &["KEY", "VALUE", "ORIGIN", "INSTEAD OF"] } else { &["KEY", "VALUE"] };
        let mut table = Table::new(heading);
        for (path, setting) in self.settings() {
            let mut row = vec![Cell::new(path)];
            match setting {
                None => row.push(Cell::new("(not set)").tone(Tone::Faint)),
                Some(setting) => {
                    row.push(Cell::new(setting.shown()));
                    if self.args.origin {
                        row.push(Cell::new(setting.origin.to_string()));
                        let others = setting.passed_over.iter().map(|other| other.origin.to_string());
                        row.push(Cell::new(others.collect::<Vec<_>>().join(", ")).tone(Tone::Faint));
                    }
                }
            }
            table.row(row);
        }
        let mut text = table.render(look);
        if self.args.origin {
            for path in &self.configuration.files {
                text.push_str(&format!("file: {}\n", path.display()));
            }
            if self.configuration.files.is_empty() {
                text.push_str("no configuration file; `mainstay config init` writes one\n");
            }
        }
        text
    }
}

fn json_value(setting: &Setting) -> Value {
    match &setting.value {
        ConfigValue::Switch(on) => json!(on),
        ConfigValue::Number(number) => json!(number),
        ConfigValue::Size(size) => json!(size.bytes()),
        ConfigValue::List(items) => json!(items),
        _ => json!(setting.shown()),
    }
}

/// The table of keys.
pub(crate) struct Variables;

impl Report for Variables {
    fn json(&self) -> Map<String, Value> {
        let keys: Vec<Value> = KEYS
            .iter()
            .map(|key| {
                json!({
                    "key": format!("{}.{}", key.section, key.file_name()),
                    "variable": key.variable(),
                    "also": key.also,
                    "file_variable": key.has_file_variable().then(|| format!("{}_FILE", key.variable())),
                    "flag": key.flag.map(|flag| format!("--{flag}")),
                    "form": key.form.describe(),
                    "default": Some(key.default).filter(|default| !default.is_empty()),
                    "meaning": key.summary,
                })
            })
            .collect();
        Map::from_iter([("keys".to_owned(), json!(keys))])
    }

    fn text(&self, _look: &Look) -> String {
        markdown_table()
    }
}

struct Checked {
    files: Vec<PathBuf>,
    findings: Vec<Finding>,
}

impl Report for Checked {
    fn json(&self) -> Map<String, Value> {
        Map::from_iter([
            ("files".to_owned(), json!(self.files)),
            ("findings".to_owned(), json!(self.findings)),
        ])
    }

    fn text(&self, look: &Look) -> String {
        findings::text(&self.findings, look)
    }

    fn exit_status(&self) -> ExitStatus {
        Severity::worst_exit_status(&self.findings)
    }
}

/// A file that was written.
pub(crate) struct Written(PathBuf);

impl Report for Written {
    fn json(&self) -> Map<String, Value> {
        Map::from_iter([("written".to_owned(), json!(self.0))])
    }

    fn text(&self, _look: &Look) -> String {
        format!("wrote {}; edit it, then: mainstay config check\n", self.0.display())
    }
}

/// Writes the template where `--config` says, or as [`PROJECT_FILE`] into the working directory. Never overwrites.
///
/// # Errors
/// `Precondition` when the file exists; `Storage` when it cannot be written.
pub(crate) fn init(outside: &Outside) -> Result<Written> {
    let name = outside.config_flag.clone().unwrap_or_else(|| PathBuf::from(PROJECT_FILE));
    let path = outside.working_dir.join(name);
    new_file::write(&path, TEMPLATE, "edit it, or move it away first")?;
    Ok(Written(path))
}
