//! Where a value came from, and which of several answers wins.
//!
//! Strongest first: flags, `MAINSTAY_*` variables, the names of the runbook and of other tools, the project's file, the user's file,
//! defaults. Each variable has a `_FILE` twin; setting both is an error, because nobody can say which was meant. An empty variable counts
//! as unset, since compose files hand over empty ones.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use mainstay_model::{Error, ErrorKind, Result};

use super::file::{ConfigFile, Raw};
use super::key::{Form, KEYS, Key};
use crate::bounded;

/// The longest secret file that is read.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// How strong an answer is; the order is the order of precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Rank {
    /// Nothing said so.
    Default,
    /// The user's own file.
    UserFile,
    /// The project's file.
    ProjectFile,
    /// A variable under somebody else's name.
    RunbookVariable,
    /// A variable under our name.
    Variable,
    /// The command line.
    Flag,
}

impl Rank {
    /// Its name in `--json` output.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::UserFile => "user_file",
            Self::ProjectFile => "project_file",
            Self::RunbookVariable => "runbook_variable",
            Self::Variable => "variable",
            Self::Flag => "flag",
        }
    }
}

/// Where an answer came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    /// How strong it is.
    pub(crate) rank: Rank,
    /// The flag, the variable, or file and line.
    pub(crate) place: String,
    /// The file that held the value, when the place only named it.
    pub(crate) value_file: Option<PathBuf>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)?;
        match &self.value_file {
            Some(path) => write!(f, " ({})", path.display()),
            None => Ok(()),
        }
    }
}

/// One answer, not yet checked.
#[derive(Debug)]
pub(crate) struct Answer {
    /// To which key.
    pub(crate) key: &'static Key,
    /// The value. May be a secret: never shown.
    pub(crate) raw: Raw,
    /// Where it came from.
    pub(crate) origin: Origin,
    /// The folder from which a relative path is taken.
    pub(crate) folder: PathBuf,
}

/// Everything the outside says.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    /// The working directory.
    pub(crate) working_dir: PathBuf,
    /// The process environment.
    pub(crate) variables: BTreeMap<String, String>,
    /// Values of global flags, by flag name.
    pub(crate) flags: BTreeMap<&'static str, String>,
    /// `--config`.
    pub(crate) config_flag: Option<PathBuf>,
}

impl Outside {
    /// A variable's value; `None` when unset or empty.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The files of configuration that exist: the project's (or the one that was named), then the user's.
    ///
    /// # Errors
    /// `Config` when the file that was named cannot be read, or any file is faulty.
    pub(crate) fn files(&self) -> Result<Vec<(Rank, ConfigFile)>> {
        let project = self.project_file();
        let user = self.user_file().filter(|path| path.is_file() && Some(path) != project.as_ref());
        let mut files = Vec::new();
        for (rank, path) in [(Rank::ProjectFile, project), (Rank::UserFile, user)] {
            if let Some(path) = path {
                files.push((rank, ConfigFile::read(&path)?));
            }
        }
        Ok(files)
    }

    /// The project's file: the one that was named, or the nearest.
    fn project_file(&self) -> Option<PathBuf> {
        let named = self.config_flag.clone().or_else(|| self.variable("MAINSTAY_CONFIG").map(PathBuf::from));
        match named {
            Some(path) => Some(self.working_dir.join(path)),
            None => super::file::find_project_file(&self.working_dir),
        }
    }

    /// The project's folder: that of its file; the working directory where there is none.
    pub(crate) fn project_folder(&self) -> PathBuf {
        let file = self.project_file();
        file.as_deref().and_then(Path::parent).unwrap_or(&self.working_dir).to_owned()
    }

    fn user_file(&self) -> Option<PathBuf> {
        let folder = match self.variable("XDG_CONFIG_HOME") {
            Some(folder) => PathBuf::from(folder),
            None => Path::new(self.variable("HOME")?).join(".config"),
        };
        folder.is_absolute().then(|| folder.join("mainstay").join("config.toml"))
    }

    /// Every answer to every key, strongest first within a key.
    ///
    /// # Errors
    /// `Config` when a variable and its `_FILE` twin are both set, or a named file cannot be read.
    pub(crate) fn answers(&self, files: &[(Rank, ConfigFile)]) -> Result<Vec<Answer>> {
        let mut answers = Vec::new();
        for key in KEYS {
            if let Some(value) = key.flag.and_then(|flag| self.flags.get(flag)) {
                let place = format!("--{}", key.flag.unwrap_or_default());
                answers.push(self.answer(
                    key,
                    value.clone(),
                    Origin { rank: Rank::Flag, place, value_file: None },
                ));
            }
            answers.extend(self.answer_of_variable(key, &key.variable(), Rank::Variable)?);
            for name in key.also {
                // A second name of our own family is as strong as the first.
                let rank = if name.starts_with("MAINSTAY_") { Rank::Variable } else { Rank::RunbookVariable };
                answers.extend(self.answer_of_variable(key, name, rank)?);
            }
            for (rank, file) in files {
                for entry in file.entries.iter().filter(|entry| entry.key == key) {
                    answers.push(answer_of_file(*rank, file, entry)?);
                }
            }
        }
        Ok(answers)
    }

    fn answer_of_variable(&self, key: &'static Key, name: &str, rank: Rank) -> Result<Option<Answer>> {
        let file_name = format!("{name}_FILE");
        let in_file = if key.has_file_variable() { self.variable(&file_name) } else { None };
        match (self.variable(name), in_file) {
            (Some(_), Some(_)) => {
                Err(Error::new(ErrorKind::Config, format!("{name} and {file_name} are both set"))
                    .with_hint(format!("unset one of them: `unset {name}`")))
            }
            (Some(value), None) => {
                let origin = Origin { rank, place: name.to_owned(), value_file: None };
                Ok(Some(self.answer(key, value.to_owned(), origin)))
            }
            (None, Some(path)) => {
                let path = self.working_dir.join(path);
                let value = read_value_file(&path, &file_name)?;
                let origin = Origin { rank, place: file_name, value_file: Some(path) };
                Ok(Some(self.answer(key, value, origin)))
            }
            (None, None) => Ok(None),
        }
    }

    fn answer(&self, key: &'static Key, value: String, origin: Origin) -> Answer {
        let raw = match key.form {
            Form::List => Raw::Many(
                value
                    .split([',', '\n'])
                    .map(str::trim)
                    .filter(|item| !item.is_empty())
                    .map(str::to_owned)
                    .collect(),
            ),
            _ => Raw::One(value),
        };
        Answer { key, raw, origin, folder: self.working_dir.clone() }
    }

    /// Variables that look like ours and are none, each with the nearest real name.
    pub(crate) fn unknown_variables(&self) -> Vec<(String, Option<String>)> {
        let mut known: Vec<String> =
            super::key::OTHER_VARIABLES.iter().map(|name| (*name).to_owned()).collect();
        for key in KEYS {
            let own = std::iter::once(key.variable()).chain(key.also.iter().map(|name| (*name).to_owned()));
            for name in own {
                if key.has_file_variable() {
                    known.push(format!("{name}_FILE"));
                }
                known.push(name);
            }
        }
        let foreign = |name: &str| {
            name.starts_with("MAINSTAY_")
                && !known.iter().any(|own| own == name)
                && !super::key::OTHER_VARIABLE_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        };
        self.variables
            .keys()
            .filter(|name| foreign(name))
            .map(|name| {
                let nearest = super::key::nearest(name, known.iter().map(String::as_str));
                (name.clone(), nearest.map(str::to_owned))
            })
            .collect()
    }
}

fn answer_of_file(rank: Rank, file: &ConfigFile, entry: &super::file::Entry) -> Result<Answer> {
    let place = format!("{}:{}", file.path.display(), entry.line);
    let folder = file.folder();
    let (raw, value_file) = match (entry.key.form, &entry.raw) {
        (Form::Secret, Raw::One(path)) => {
            let path = folder.join(path);
            (Raw::One(read_value_file(&path, &place)?), Some(path))
        }
        (_, raw) => (raw.clone(), None),
    };
    Ok(Answer { key: entry.key, raw, origin: Origin { rank, place, value_file }, folder })
}

/// The text of a file that holds one value, without its last line break.
///
/// # Errors
/// `Config`, naming the file and never what is in it.
pub(crate) fn read_value_file(path: &Path, named_by: &str) -> Result<String> {
    let refuse = |why: String| {
        Error::new(
            ErrorKind::Config,
            format!("cannot read {}, which {named_by} names: {why}", path.display()),
        )
    };
    let text = bounded::read_text(path, FILE_BYTES_MAX).map_err(|error| refuse(error.to_string()))?;
    let text = text.ok_or_else(|| refuse(format!("it has more than {FILE_BYTES_MAX} bytes")))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(refuse("it is empty".to_owned()));
    }
    Ok(text.to_owned())
}
