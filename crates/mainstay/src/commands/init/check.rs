//! `init check [FOLDER]`: what an image's one-time scripts do and do not, how to declare it, and what of it the configured server has.
//!
//! A server that is configured is asked for every statement that is understood, by the survey that `init plan` would make of the same
//! declaration; nothing is changed. One that does not answer is told behind all that the files say.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use mainstay_model::{Error, ErrorKind, ExitStatus, Result, ResultExt as _, StoreKind};
use mainstay_ops::init::scripts::{
    self, Compared, FILE_BYTES_MAX, Image, Presence, ScriptFile, ScriptReport,
};
use serde_json::{Map, Value, json};

use super::declaration::Declaration;
use crate::printer::shown::{plain, plain_lines};
use crate::printer::{Cell, Look, Report, Table, Tone, problem_json};
use crate::wiring::Session;

/// Folders that are looked for when none is named, beside the configuration.
const FOLDERS: [&str; 4] = ["mongo-init", "docker-entrypoint-initdb.d", "postgres-init", "initdb.d"];
/// What is said where there is no such folder.
const HINT: &str = "name the folder of scripts: `mainstay init check FOLDER`";
/// The most files of a folder that are read.
const FILE_COUNT_MAX: usize = 1_000;

/// Arguments of `init check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The folder that is mounted at /docker-entrypoint-initdb.d; mongo-init and its kin in the working directory when left out
    folder: Option<PathBuf>,
    /// Whose image runs the scripts; told by them when left out
    #[arg(long, value_enum)]
    image: Option<ImageArgument>,
    /// The database in which scripts begin: MONGO_INITDB_DATABASE, POSTGRES_DB
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
}

/// An image as it is typed.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ImageArgument {
    Mongo,
    Postgres,
}

/// Reads the folder and tells.
///
/// # Errors
/// `NotFound` when there is no such folder; `Usage` when it is none; `Storage` when it cannot be read. What a server answers is told, errors too.
pub(super) async fn run(args: &CheckArgs, session: &Session) -> Result<ExitStatus> {
    let folder = match &args.folder {
        Some(folder) => session.path(folder),
        None => {
            FOLDERS.iter().map(|name| session.path(Path::new(name))).find(|path| path.is_dir()).ok_or_else(
                || {
                    Error::new(ErrorKind::NotFound, format!("there is no folder {} here", FOLDERS.join(", ")))
                        .with_hint(HINT)
                },
            )?
        }
    };
    let files = files(&folder)?;
    let image = match args.image {
        Some(ImageArgument::Mongo) => Image::Mongo,
        Some(ImageArgument::Postgres) => Image::Postgres,
        None => scripts::image_of(&files),
    };
    // As the images' entrypoints choose.
    let (variables, otherwise): (&[&str], &str) = match image {
        Image::Mongo => (&["MONGO_INITDB_DATABASE"], "test"),
        Image::Postgres => (&["POSTGRES_DB", "POSTGRES_USER"], "postgres"),
    };
    let set = || variables.iter().find_map(|name| session.outside.variable(name));
    let database = args.database.as_deref().or_else(set).unwrap_or(otherwise);
    let report = scripts::read(files, image, database);
    let live = live(&report, session).await;
    Ok(session.printer.report(&Checked { folder, report, live }))
}

/// What the configured server has of what was found; `None` when none is configured, or there is nothing to ask.
async fn live(report: &ScriptReport, session: &Session) -> Option<Result<Live>> {
    let (kind, is_configured) = match report.image {
        Image::Mongo => (StoreKind::Mongo, session.configuration.mongo.is_some()),
        Image::Postgres => (StoreKind::Postgres, session.configuration.postgres.is_some()),
    };
    if !is_configured || report.found.is_empty() {
        return None;
    }
    let asked = async {
        let declaration = Declaration::of_scripts(report, session)?;
        let server = declaration.server(kind, session).await?;
        let survey = server.store(&declaration, &[]).survey().await?;
        let compared = scripts::compare(&report.found, &survey);
        Ok(Live { address: survey.identity.address, compared })
    };
    let asked: Result<Live> = asked.await;
    Some(asked.with_context(|| format!("ask {kind} what is there")))
}

fn files(folder: &Path) -> Result<Vec<ScriptFile>> {
    let refuse = |path: &Path, source: std::io::Error| {
        Error::new(ErrorKind::Storage, format!("cannot read {}", path.display())).with_source(source)
    };
    let no_folder = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => {
            Error::new(ErrorKind::NotFound, format!("there is no folder {}", folder.display()))
                .with_hint(HINT)
        }
        std::io::ErrorKind::NotADirectory => {
            Error::new(ErrorKind::Usage, format!("{} is no folder", folder.display())).with_hint(HINT)
        }
        _ => refuse(folder, source),
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(no_folder)? {
        let entry = entry.map_err(|source| refuse(folder, source))?;
        let path = entry.path();
        let about = fs::metadata(&path).map_err(|source| refuse(&path, source))?;
        if !about.is_file() {
            continue;
        }
        if files.len() == FILE_COUNT_MAX {
            return Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "{} has more than {FILE_COUNT_MAX} files: it is no folder of scripts",
                    folder.display()
                ),
            ));
        }
        let mut bytes = Vec::new();
        let opened = fs::File::open(&path).map_err(|source| refuse(&path, source))?;
        // One byte more tells that the file goes on.
        let bounded = opened.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
        bounded.map_err(|source| refuse(&path, source))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        files.push(ScriptFile { name, bytes, executable: is_executable(&about) });
    }
    Ok(files)
}

#[cfg(unix)]
fn is_executable(about: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    about.permissions().mode() & 0o111 != 0
}

#[cfg(not(unix))]
fn is_executable(_about: &fs::Metadata) -> bool {
    false
}

struct Checked {
    folder: PathBuf,
    report: ScriptReport,
    live: Option<Result<Live>>,
}

/// What a server has.
struct Live {
    /// Where it was asked.
    address: String,
    /// Of each statement that was understood, in order.
    compared: Vec<Compared>,
}

impl Checked {
    fn compared(&self) -> &[Compared] {
        match &self.live {
            Some(Ok(live)) => &live.compared,
            _ => &[],
        }
    }
}

impl Report for Checked {
    fn json(&self) -> Map<String, Value> {
        let mut fields = match json!(self.report) {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        fields.insert("folder".to_owned(), json!(self.folder));
        let live = match &self.live {
            None => Value::Null,
            Some(Ok(live)) => json!({ "address": live.address, "statements": live.compared }),
            Some(Err(error)) => json!({ "error": problem_json(error) }),
        };
        fields.insert("live".to_owned(), live);
        fields
    }

    fn text(&self, look: &Look) -> String {
        let report = &self.report;
        // Names in scripts are somebody's text.
        let own = |text: &str| plain(text, usize::MAX);
        let heading = |text: &str| format!("{}\n", look.paint(Tone::Strong, text));
        let mut text = heading("what the image does with such scripts");
        report.rules.iter().for_each(|rule| text.push_str(&format!("  {rule}\n")));
        let mut table = Table::new(&["FILE", ""]);
        for fate in &report.fates {
            let tone = if fate.runs { Tone::Plain } else { Tone::Warn };
            table.row(vec![own(&fate.file).into(), Cell::new(fate.how.clone()).tone(tone)]);
        }
        text.push_str(&table.render(look));
        if !report.found.is_empty() {
            text.push_str(&heading(&match &self.live {
                Some(Ok(live)) => format!("understood, and what {} has of it", live.address),
                _ => "understood".to_owned(),
            }));
            let mut compared = self.compared().iter();
            for found in &report.found {
                let statement = own(&found.statement.to_string());
                text.push_str(&format!("  {}:{}: {statement}\n", own(&found.file), found.line));
                if let Some(compared) = compared.next() {
                    text.push_str(&format!("      {}\n", shown(compared, look)));
                }
            }
        }
        if !report.unread.is_empty() {
            text.push_str(&heading("not understood; see for yourself whether it is to be declared"));
            for unread in &report.unread {
                text.push_str(&format!("  {}:{}: {}\n", own(&unread.file), unread.line, own(&unread.what)));
            }
        }
        if !report.toml.is_empty() {
            text.push_str(&heading("the same for mainstay.toml"));
            text.push_str(&plain_lines(&report.toml));
            text.push_str(
                "next: put it into mainstay.toml, set the variables, and run `mainstay init plan`\n",
            );
        }
        if let Some(Err(error)) = &self.live {
            text.push_str(&format!("{} {}\n", look.paint(Tone::Warn, "not compared:"), error.message()));
            let hint = error.hint().map(|hint| format!("{} {hint}\n", look.paint(Tone::Faint, "hint:")));
            text.push_str(&hint.unwrap_or_default());
        }
        text
    }

    fn exit_status(&self) -> ExitStatus {
        match &self.live {
            Some(Err(error)) => error.kind().exit_status(),
            _ if self.compared().iter().any(|one| one.presence != Presence::Present) => ExitStatus::Findings,
            _ => ExitStatus::Ok,
        }
    }
}

/// `present`, `different: give it shop.read`.
fn shown(compared: &Compared, look: &Look) -> String {
    let tone = match compared.presence {
        Presence::Present => Tone::Good,
        Presence::Absent | Presence::Different => Tone::Warn,
        Presence::Unknown => Tone::Faint,
    };
    let word = look.paint(tone, compared.presence.name());
    match compared.detail.is_empty() {
        true => word,
        false => format!("{word}: {}", plain(&compared.detail, usize::MAX)),
    }
}
