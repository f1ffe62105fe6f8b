//! Files of configuration: found, read, and turned into entries that remember their line.
//!
//! A file may say only what [`super::key::KEYS`] knows. An unknown section or key, a value of the wrong type and a secret written in
//! plain are errors that name file and line; the value itself is never repeated.

use std::path::{Path, PathBuf};

use mainstay_model::{Error, ErrorKind, Result};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::backfills;
use super::init::{self, InitSection};
use super::key::{self, Form, Key};
use crate::bounded;

/// The name looked for from the working directory upwards.
pub(crate) const PROJECT_FILE: &str = "mainstay.toml";

/// The sections that declare indexes. They are a manifest with a grammar of its own.
const INDEXES: &str = "mongo.indexes";
const INDEX_POLICY: &str = "mongo.policy";
/// The longest file that is read.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A value as it stands in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Raw {
    /// Text, number or switch, as text.
    One(String),
    /// A list of texts.
    Many(Vec<String>),
}

/// One key of a file.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Which key.
    pub(crate) key: &'static Key,
    /// Its value: for a secret, the path of the file that holds it.
    pub(crate) raw: Raw,
    /// The line, from 1.
    pub(crate) line: usize,
}

/// A file of configuration.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// What it says.
    pub(crate) entries: Vec<Entry>,
    /// Whether it declares indexes, which are read when a command asks for them.
    pub(crate) declares_indexes: bool,
    /// The line of [mongo.policy], which belongs to declared indexes.
    pub(crate) index_policy: Option<usize>,
    /// What it declares of the servers (`[init]`).
    pub(crate) init: Option<InitSection>,
}

impl ConfigFile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// `Config`, naming file and line.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let name = path.display();
        let text = bounded::read_text(path, FILE_BYTES_MAX).map_err(|source| {
            Error::new(ErrorKind::Config, format!("cannot read the configuration file {name}"))
                .with_source(source)
        })?;
        let text = text.ok_or_else(|| {
            Error::new(ErrorKind::Config, format!("{name} is too long for a file of configuration"))
        })?;
        Self::parse(path, &text)
    }

    /// Takes the `text` of the file at `path` apart.
    ///
    /// # Errors
    /// As [`ConfigFile::read`].
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self> {
        let reader = Reader { path, text };
        let (document, errors) = DeTable::parse_recoverable(text);
        if let Some(first) = errors.iter().min_by_key(|error| error.span().map_or(0, |span| span.start)) {
            // The error's own text would repeat the line, which may hold a password.
            let at = first.span().map_or(0, |span| span.start);
            return Err(reader.error(at, format!("not valid TOML: {}", first.message())));
        }
        let mut file = Self {
            path: path.to_owned(),
            entries: Vec::new(),
            declares_indexes: false,
            index_policy: None,
            init: init::parse(&reader, document.get_ref())?,
        };
        reader.table("", document.get_ref(), &mut file)?;
        file.entries.sort_by_key(|entry| entry.line);
        Ok(file)
    }

    /// The folder against which the file's relative paths are taken.
    pub(crate) fn folder(&self) -> PathBuf {
        self.path.parent().map_or_else(PathBuf::new, Path::to_owned)
    }
}

/// The project's file: the nearest [`PROJECT_FILE`] in `from` or a folder above it.
pub(crate) fn find_project_file(from: &Path) -> Option<PathBuf> {
    from.ancestors().map(|folder| folder.join(PROJECT_FILE)).find(|path| path.is_file())
}

pub(super) struct Reader<'a> {
    pub(super) path: &'a Path,
    text: &'a str,
}

impl Reader<'_> {
    fn line(&self, offset: usize) -> usize {
        1 + self.text.as_bytes()[..offset.min(self.text.len())].iter().filter(|byte| **byte == b'\n').count()
    }

    pub(super) fn error(&self, offset: usize, what: impl Into<String>) -> Error {
        Error::new(
            ErrorKind::Config,
            format!("{}:{}: {}", self.path.display(), self.line(offset), what.into()),
        )
    }

    fn table(&self, section: &str, table: &DeTable<'_>, file: &mut ConfigFile) -> Result<()> {
        for (name, value) in table {
            let path = if section.is_empty() {
                name.get_ref().to_string()
            } else {
                format!("{section}.{}", name.get_ref())
            };
            // Declarations have a grammar of their own.
            let is_list = matches!(value.get_ref(), DeValue::Array(_));
            if path == init::SECTION || (path == backfills::SECTION && is_list) {
                continue;
            }
            let is_section = key::sections().iter().any(|known| *known == path);
            match value.get_ref() {
                DeValue::Table(_) if path == INDEXES => file.declares_indexes = true,
                DeValue::Table(_) if path == INDEX_POLICY => {
                    file.index_policy = Some(self.line(name.span().start));
                }
                DeValue::Table(inner) if is_section => self.table(&path, inner, file)?,
                _ if is_section => {
                    return Err(self
                        .error(name.span().start, format!("`{path}` is a section, not a value"))
                        .with_hint(format!("write [{path}] and its keys on lines of their own")));
                }
                _ => {
                    let offset = name.span().start;
                    let key = key::find(section, name.get_ref())
                        .ok_or_else(|| self.unknown(section, name.get_ref(), value, offset))?;
                    let raw = self.raw(key, value)?;
                    file.entries.push(Entry { key, raw, line: self.line(offset) });
                }
            }
        }
        Ok(())
    }

    fn unknown(&self, section: &str, name: &str, value: &Spanned<DeValue<'_>>, offset: usize) -> Error {
        if let Some(key) = key::KEYS.iter().find(|key| key.section == section && key.name == name) {
            return self
                .error(
                    offset,
                    format!("`{name}` of [{section}] is a secret and does not belong in this file"),
                )
                .with_hint(format!(
                    "set {} or {}_FILE, or name a file with `{}`",
                    key.variable(),
                    key.variable(),
                    key.file_name()
                ));
        }
        let of_section: Vec<String> =
            key::KEYS.iter().filter(|key| key.section == section).map(Key::file_name).collect();
        if section.is_empty() {
            let what = if value.get_ref().is_table() { "section" } else { "key outside a section" };
            let error = self.error(offset, format!("unknown {what} `{name}`"));
            let mut sections = key::sections();
            sections.extend([init::SECTION, backfills::SECTION]);
            return match key::nearest(name, sections.iter().copied()) {
                Some(nearest) => error.with_hint(format!("did you mean [{nearest}]?")),
                None => error.with_hint(format!("known sections: {}", sections.join(", "))),
            };
        }
        let error = self.error(offset, format!("unknown key `{name}` in [{section}]"));
        match key::nearest(name, of_section.iter().map(String::as_str)) {
            Some(nearest) => error.with_hint(format!("did you mean `{nearest}`?")),
            None => error.with_hint(format!("known keys of [{section}]: {}", of_section.join(", "))),
        }
    }

    fn raw(&self, key: &Key, value: &Spanned<DeValue<'_>>) -> Result<Raw> {
        let wrong = |found: &str| {
            let expected = match key.form {
                Form::Secret => "path".to_owned(),
                form => form.describe(),
            };
            self.error(
                value.span().start,
                format!("`{}` of [{}] must be a {expected}, found {found}", key.file_name(), key.section),
            )
        };
        match (key.form, value.get_ref()) {
            (Form::List, DeValue::Array(items)) => items
                .iter()
                .map(|item| {
                    item.get_ref()
                        .as_str()
                        .map(str::to_owned)
                        .ok_or_else(|| wrong("a list of something else"))
                })
                .collect::<Result<_>>()
                .map(Raw::Many),
            (Form::List, other) => Err(wrong(type_name(other))),
            (Form::Switch, DeValue::Boolean(value)) => Ok(Raw::One(value.to_string())),
            (Form::Number(..) | Form::Size, DeValue::Integer(number)) if number.radix() == 10 => {
                Ok(Raw::One(number.as_str().replace('_', "")))
            }
            (Form::Switch | Form::Number(..), other) => Err(wrong(type_name(other))),
            (_, DeValue::String(text)) => Ok(Raw::One(text.to_string())),
            (_, other) => Err(wrong(type_name(other))),
        }
    }
}

pub(super) fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ConfigFile> {
        ConfigFile::parse(Path::new("mainstay.toml"), text)
    }

    #[test]
    fn entries_know_their_line() {
        let file = parse(
            "[mongo]\nurl = \"mongodb://h\"\n\n[repository]\ncompression_level = 3\nrecipients = [\"age1\"]\n[repository.s3]\nallow_http = true\n",
        )
        .unwrap();
        let seen: Vec<_> =
            file.entries.iter().map(|entry| (entry.key.path(), entry.line, entry.raw.clone())).collect();
        assert_eq!(
            seen,
            [
                ("mongo.url".to_owned(), 2, Raw::One("mongodb://h".to_owned())),
                ("repository.compression_level".to_owned(), 5, Raw::One("3".to_owned())),
                ("repository.recipients".to_owned(), 6, Raw::Many(vec!["age1".to_owned()])),
                ("repository.s3.allow_http".to_owned(), 8, Raw::One("true".to_owned())),
            ]
        );
    }

    #[test]
    fn declared_indexes_are_left_to_their_own_grammar() {
        let file = parse(
            "[mongo]\nurl = \"mongodb://h\"\n[mongo.indexes]\nc = [{ keys = [\"a\"] }]\n[mongo.policy]\nmax_expire = 0\n",
        );
        let file = file.unwrap();
        assert_eq!((file.entries.len(), file.declares_indexes, file.index_policy), (1, true, Some(5)));
        let file = parse("[mongo]\nindexes = \"indexes.toml\"\n").unwrap();
        assert_eq!(file.entries[0].raw, Raw::One("indexes.toml".to_owned()));
        assert!(!file.declares_indexes);
    }

    #[test]
    fn faults_name_file_line_and_remedy() {
        let cases = [
            ("[mongo]\nulr = \"x\"", "mainstay.toml:2: unknown key `ulr` in [mongo]", "did you mean `url`?"),
            ("[mongodb]\nurl = \"x\"", "mainstay.toml:1: unknown section `mongodb`", "did you mean [mongo]?"),
            (
                "url = \"x\"",
                "mainstay.toml:1: unknown key outside a section `url`",
                "known sections: environment",
            ),
            ("mongo = 3", "mainstay.toml:1: `mongo` is a section, not a value", "write [mongo]"),
            (
                "[mongo]\npassword = \"canary\"",
                "mainstay.toml:2: `password` of [mongo] is a secret and does not belong in this file",
                "MAINSTAY_MONGO_PASSWORD_FILE",
            ),
            (
                "[mongo]\n\ntls = \"canary\"",
                "mainstay.toml:3: `tls` of [mongo] must be a true or false, found text",
                "",
            ),
            (
                "[mongo]\nurl = 5",
                "mainstay.toml:2: `url` of [mongo] must be a mongodb://… or mongodb+srv://…, found a number",
                "",
            ),
            ("[repository]\nrecipients = \"a\"", "must be a list of text, found text", ""),
            ("[mongo]\nurl = \"canary\nx", "mainstay.toml:2: not valid TOML", ""),
        ];
        for (text, message, hint) in cases {
            let error = parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(message), "{error}");
            assert!(error.hint().unwrap_or_default().contains(hint), "{error:?}");
            assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        }
    }
}
