//! `index import mongoose|live`: what code declares, or what is there, as a manifest; with `--merge` all three beside each other.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use mainstay_indexes::mongoose::{Declarations, Project};
use mainstay_indexes::toml_text;
use mainstay_model::{Error, ErrorKind, ExitStatus, Result, StoreKind};
use mainstay_ops::index::import::{self, Import, Presence, ThreeWayRow};
use serde_json::{Map, Value, json};

use super::node::{self, Program};
use super::{ManifestArgs, PlaceArgs};
use crate::commands::mongo::choice::parse_duration;
use crate::new_file;
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::Session;

/// The commands below `index import`.
#[derive(Debug, Subcommand)]
pub(crate) enum ImportCommand {
    /// What the models of a Mongoose project declare, loaded by your own Node without a database
    Mongoose(MongooseArgs),
    /// What a database has
    Live(LiveArgs),
}

impl ImportCommand {
    /// The operation's name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Mongoose(_) => "index.import.mongoose",
            Self::Live(_) => "index.import.live",
        }
    }
}

/// Arguments of `index import mongoose`.
#[derive(Debug, Args)]
#[command(
    override_usage = "mainstay index import mongoose [OPTIONS] MODELS…\n       mainstay index import mongoose [OPTIONS] -- node app.js"
)]
pub(crate) struct MongooseArgs {
    /// Files of models, or folders of them
    #[arg(value_name = "MODELS", required_unless_present = "command", conflicts_with = "command")]
    models: Vec<PathBuf>,
    /// The command that loads the models instead, behind `--`: `-- node app.js`, `-- npx tsx src/models.ts`
    #[arg(value_name = "COMMAND", last = true)]
    command: Vec<OsString>,
    /// The program that runs the models
    #[arg(long, value_name = "PROGRAM", default_value = "node", conflicts_with = "command")]
    node: String,
    /// How long the program may take
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    max_time: Duration,
    /// Write the facts, which `index audit --facts` reads, to this file as well
    #[arg(long, value_name = "FILE")]
    facts: Option<PathBuf>,
    /// Show code, manifest and server beside each other instead of writing a manifest
    #[arg(long, conflicts_with = "output")]
    merge: bool,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    manifest: ManifestArgs,
    /// Write the manifest to this file, which must not exist
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// What is said when the manifest's file exists.
const ANOTHER_FILE: &str = "name another file with `--output`";

/// Arguments of `index import live`.
#[derive(Debug, Args)]
pub(crate) struct LiveArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Write the manifest to this file, which must not exist
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Runs a command below `index import`.
///
/// # Errors
/// The operation's; `Precondition` when a file exists already.
pub(super) async fn run(command: ImportCommand, session: &Session) -> Result<ExitStatus> {
    match command {
        ImportCommand::Mongoose(args) => mongoose(args, session).await,
        ImportCommand::Live(args) => live(args, session).await,
    }
}

async fn mongoose(args: MongooseArgs, session: &Session) -> Result<ExitStatus> {
    if let Some(file) = &args.output {
        new_file::expect_free(&session.path(file), ANOTHER_FILE)?;
    }
    let program = match args.command.is_empty() {
        true => Program::Models { node: &args.node, places: &args.models },
        false => Program::Command(&args.command),
    };
    let project = tokio::task::block_in_place(|| node::ask(&program, args.max_time, session))?;
    let declarations = node::declarations(&project)?;
    if let Some(file) = &args.facts {
        write_facts(&project, &session.path(file))?;
    }
    if args.merge {
        return merge(&args, &declarations, session).await;
    }
    let import = import::code(&declarations);
    let source = format!("what the models declare, of Mongoose {}", project.mongoose);
    finish(import, &source, Some(&declarations), args.output.as_deref(), session)
}

async fn merge(args: &MongooseArgs, declarations: &Declarations, session: &Session) -> Result<ExitStatus> {
    let manifest = args.manifest.read_if_any(session)?;
    let database = args.place.database(session)?;
    let documents = session.documents(StoreKind::Mongo).await?;
    let catalog = documents.indexes.as_ref();
    let rows = import::three_way(catalog, &database, declarations, &manifest, &args.place.collection).await?;
    tell(&declarations.notes, session);
    Ok(session.printer.report(&Merge(rows)))
}

async fn live(args: LiveArgs, session: &Session) -> Result<ExitStatus> {
    let database = args.place.database(session)?;
    let documents = session.documents(StoreKind::Mongo).await?;
    let import = import::live(documents.indexes.as_ref(), &database, &args.place.collection).await?;
    let source = format!("what {database} has");
    finish(import, &source, None, args.output.as_deref(), session)
}

fn finish(
    import: Import,
    source: &str,
    code: Option<&Declarations>,
    output: Option<&Path>,
    session: &Session,
) -> Result<ExitStatus> {
    let text = format!("# Indexes: {source}.\n{}", toml_text(&import.manifest));
    if let Some(file) = output {
        new_file::write(&session.path(file), &text, ANOTHER_FILE)?;
    }
    tell(&import.notes, session);
    let auto_index = code.map(|code| code.auto_index.clone());
    Ok(session.printer.report(&Imported { import, text, auto_index, output: output.map(Path::to_owned) }))
}

fn tell(notes: &[String], session: &Session) {
    notes.iter().for_each(|note| session.printer.notice(note));
}

fn write_facts(project: &Project, file: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(project).map_err(|source| {
        Error::new(ErrorKind::Internal, "the facts have no JSON form").with_source(source)
    })?;
    new_file::write(file, &format!("{text}\n"), "name another file with `--facts`")
}

/// A manifest that was made.
struct Imported {
    import: Import,
    text: String,
    auto_index: Option<Vec<String>>,
    output: Option<PathBuf>,
}

impl Imported {
    fn index_count(&self) -> usize {
        self.import.manifest.collections.values().map(Vec::len).sum()
    }
}

impl Report for Imported {
    fn json(&self) -> Map<String, Value> {
        Map::from_iter([
            ("collections".to_owned(), json!(self.import.manifest.collections.len())),
            ("indexes".to_owned(), json!(self.index_count())),
            ("auto_index".to_owned(), json!(self.auto_index)),
            ("notes".to_owned(), json!(self.import.notes)),
            ("manifest".to_owned(), json!(self.text)),
            ("file".to_owned(), json!(self.output)),
        ])
    }

    fn text(&self, _look: &Look) -> String {
        match &self.output {
            None => self.text.clone(),
            Some(file) => format!(
                "{} indexes of {} collections are declared in {}\nnext: name it as `indexes` in [mongo] of mainstay.toml, then run `mainstay index drift`\n",
                self.index_count(),
                self.import.manifest.collections.len(),
                file.display()
            ),
        }
    }
}

/// Code, manifest and server beside each other.
struct Merge(Vec<ThreeWayRow>);

impl Report for Merge {
    fn json(&self) -> Map<String, Value> {
        let row = |row: &ThreeWayRow| {
            json!({
                "collection": row.collection, "index": row.name, "declaration": row.declaration,
                "code": row.code, "manifest": row.manifest, "live": live_word(row.live), "agrees": row.agrees(),
            })
        };
        Map::from_iter([("indexes".to_owned(), self.0.iter().map(row).collect())])
    }

    fn text(&self, look: &Look) -> String {
        let mut table = Table::new(&["INDEX", "CODE", "MANIFEST", "LIVE", ""]);
        for row in &self.0 {
            let known = |known: bool, word: &str| {
                let (text, tone) = if known { (word, Tone::Plain) } else { ("-", Tone::Warn) };
                Cell::new(text).tone(tone)
            };
            table.row(vec![
                Cell::new(format!("{}.{}", row.collection, row.name)),
                known(row.code, "yes"),
                known(row.manifest, "yes"),
                known(row.live != Presence::Absent, live_word(row.live)),
                Cell::new(row.declaration.clone()).tone(Tone::Faint),
            ]);
        }
        let apart = self.0.iter().filter(|row| !row.agrees()).count();
        let summary = match apart {
            0 => look.paint(Tone::Good, "code, manifest and server have the same indexes"),
            count => format!("{count} of {} are not everywhere", self.0.len()),
        };
        format!("{}{summary}\n", table.render(look))
    }

    fn exit_status(&self) -> ExitStatus {
        match self.0.iter().all(ThreeWayRow::agrees) {
            true => ExitStatus::Ok,
            false => ExitStatus::Findings,
        }
    }
}

fn live_word(presence: Presence) -> &'static str {
    match presence {
        Presence::Ready => "yes",
        Presence::Building => "building",
        Presence::Absent => "no",
    }
}
