//! `[[backfill]]`: declared backfills, in the project's file or in the files of a folder. Read when a command asks for them.
//!
//! As strict as the rest of the configuration: a key that is not known or does not belong to the store is an error with its line. What a filter, a pipeline or a
//! condition means is the server's to say; here only its place is checked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::SignedDuration;
use mainstay_engine::{Backfill, BackfillBody, Namespace};
use mainstay_model::{Error, ErrorKind, Result};
use mainstay_ops::backfill::{BackupWish, DeclaredBackfill};
use serde::Deserialize;
use toml::Spanned;

use crate::bounded;

/// The array's name at the top of a file.
pub(super) const SECTION: &str = "backfill";
/// The longest file that is read.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// How many files of a folder are read.
const FILE_COUNT_MAX: usize = 10_000;

/// One declaration as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    id: Spanned<String>,
    store: String,
    summary: Option<String>,
    database: Option<String>,
    collection: Option<String>,
    table: Option<String>,
    guard: String,
    update: Option<String>,
    fields: Option<Vec<String>>,
    set: Option<BTreeMap<String, String>>,
    verify: Option<String>,
    batch: Option<u32>,
    pause: Option<String>,
    undo: Option<bool>,
    backup: Option<BackupWish>,
}

/// A project's file, of which only the declarations are looked at here.
#[derive(Debug, Default, Deserialize)]
struct ProjectFile {
    #[serde(default)]
    backfill: Vec<Written>,
}

/// A file of the folder, which holds nothing else.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnFile {
    #[serde(default)]
    backfill: Vec<Written>,
}

/// Where declarations are, and what fills them in.
pub(crate) struct Places<'a> {
    /// The files of configuration, strongest first: the first that declares any counts, and it alone.
    pub(crate) files: &'a [PathBuf],
    /// A folder whose files declare further ones.
    pub(crate) folder: Option<&'a Path>,
    /// The database of collections that name none.
    pub(crate) database: Option<&'a str>,
}

/// Reads what is declared, by id.
///
/// # Errors
/// `Config`, naming file and line.
pub(crate) fn read(places: &Places<'_>) -> Result<Vec<DeclaredBackfill>> {
    let mut declared: BTreeMap<String, DeclaredBackfill> = BTreeMap::new();
    let mut add = |file: &File, written: Vec<Written>| -> Result<()> {
        for one in written {
            let at = one.id.span().start;
            let read = one.read(places.database).map_err(|fault| file.error(at, &fault))?;
            if let Some(fault) = read.faults().into_iter().next() {
                return Err(file.error(at, &fault));
            }
            let id = read.backfill.id.clone();
            if declared.insert(id.clone(), read).is_some() {
                return Err(file.error(at, &format!("the backfill {id} is declared twice")));
            }
        }
        Ok(())
    };
    for path in places.files {
        let file = File::read(path)?;
        let written =
            toml::from_str::<ProjectFile>(&file.text).map_err(|error| file.syntax(&error))?.backfill;
        if !written.is_empty() {
            add(&file, written)?;
            break;
        }
    }
    for path in places.folder.map(files_of).transpose()?.unwrap_or_default() {
        let file = File::read(&path)?;
        let written = toml::from_str::<OwnFile>(&file.text).map_err(|error| file.syntax(&error))?.backfill;
        add(&file, written)?;
    }
    Ok(declared.into_values().collect())
}

/// The files of a folder that declare backfills, by name.
fn files_of(folder: &Path) -> Result<Vec<PathBuf>> {
    let refuse = |source: std::io::Error| {
        Error::new(ErrorKind::Config, format!("cannot read the backfills in {}", folder.display()))
            .with_source(source)
            .with_hint("correct `folder` in [backfills]")
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(refuse)? {
        let path = entry.map_err(refuse)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            // A pipe would be waited for without end.
            if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
                return Err(Error::new(ErrorKind::Config, format!("{} is no regular file", path.display()))
                    .with_hint("correct `folder` in [backfills], or remove it from there"));
            }
            files.push(path);
        }
        if files.len() > FILE_COUNT_MAX {
            return Err(Error::new(
                ErrorKind::Config,
                format!("{} holds more than {FILE_COUNT_MAX} files", folder.display()),
            ));
        }
    }
    files.sort();
    Ok(files)
}

/// A file and where it is.
struct File {
    path: PathBuf,
    text: String,
}

impl File {
    fn read(path: &Path) -> Result<Self> {
        let name = path.display();
        let text = bounded::read_text(path, FILE_BYTES_MAX).map_err(|source| {
            Error::new(ErrorKind::Config, format!("cannot read the declared backfills in {name}"))
                .with_source(source)
        })?;
        let text = text
            .ok_or_else(|| Error::new(ErrorKind::Config, format!("{name} is too long for declarations")))?;
        Ok(Self { path: path.to_owned(), text })
    }

    fn error(&self, at: usize, what: &str) -> Error {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        Error::new(ErrorKind::Config, format!("{}:{line}: {what}", self.path.display()))
            .with_hint("docs/backfill.md tells what is declared how")
    }

    /// The parser's own text would repeat the line.
    fn syntax(&self, error: &toml::de::Error) -> Error {
        self.error(error.span().map_or(0, |span| span.start), error.message())
    }
}

impl Written {
    /// What it declares, or what is wrong with it.
    fn read(self, database: Option<&str>) -> Result<DeclaredBackfill, String> {
        let body = match self.store.as_str() {
            "mongo" => self.documents(database)?,
            "postgres" => self.rows()?,
            _ => return Err("`store` must be mongo or postgres".to_owned()),
        };
        let pause_ms = match &self.pause {
            None => 0,
            Some(text) => text
                .parse::<SignedDuration>()
                .ok()
                .and_then(|pause| u64::try_from(pause.as_millis()).ok())
                .ok_or_else(|| "`pause` must be a duration such as 50ms".to_owned())?,
        };
        Ok(DeclaredBackfill {
            backfill: Backfill { id: self.id.into_inner(), body, keeps_undo: self.undo.unwrap_or(true) },
            summary: self.summary,
            batch: self.batch.unwrap_or(DeclaredBackfill::BATCH),
            pause_ms,
            backup: self.backup.unwrap_or_default(),
        })
    }

    fn documents(&self, database: Option<&str>) -> Result<BackfillBody, String> {
        if self.table.is_some() || self.set.is_some() {
            return Err("`table` and `set` are for postgres; mongo has `collection` and `update`".to_owned());
        }
        let named = self.database.as_deref().or(database);
        let database = named.ok_or("no `database` is named, here or in [mongo]")?;
        let collection = self.collection.as_deref().ok_or("`collection` is missing")?;
        Ok(BackfillBody::Documents {
            namespace: Namespace::new(database, collection),
            guard: self.guard.clone(),
            update: self.update.clone().ok_or("`update` is missing")?,
            fields: self.fields.clone().ok_or("`fields`, the paths that `update` changes, is missing")?,
            verify: self.verify.clone(),
        })
    }

    fn rows(&self) -> Result<BackfillBody, String> {
        if self.collection.is_some()
            || self.update.is_some()
            || self.fields.is_some()
            || self.database.is_some()
        {
            return Err("`database`, `collection`, `update` and `fields` are for mongo; postgres has `table` and `set`"
                .to_owned());
        }
        let table = self.table.as_deref().ok_or("`table` is missing")?;
        let (schema, table) = table.split_once('.').unwrap_or(("public", table));
        Ok(BackfillBody::Rows {
            schema: schema.to_owned(),
            table: table.to_owned(),
            guard: self.guard.clone(),
            set: self.set.clone().ok_or("`set` is missing")?.into_iter().collect(),
            verify: self.verify.clone(),
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const POINTS: &str = r#"
[mongo]
url = "mongodb://h"

[[backfill]]
id = "points"
store = "mongo"
collection = "users"
guard = '{"points": {"$exists": false}}'
update = '[{"$set": {"points": "$wallet.points"}}]'
fields = ["points"]
pause = "20ms"
"#;

    fn read_text(text: &str) -> Result<Vec<DeclaredBackfill>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mainstay.toml");
        std::fs::write(&path, text).unwrap();
        read(&Places { files: &[path], folder: None, database: Some("shop") })
    }

    #[test]
    fn declarations_are_read_from_file_and_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mainstay.toml");
        std::fs::write(&path, POINTS).unwrap();
        let more = folder.path().join("backfills");
        std::fs::create_dir(&more).unwrap();
        std::fs::write(
            more.join("a.toml"),
            "[[backfill]]\nid = \"amounts\"\nstore = \"postgres\"\ntable = \"shop.orders\"\nguard = \"cents IS NULL\"\nset = { cents = \"amount * 100\" }\nundo = false\nbackup = \"always\"\n",
        )
        .unwrap();
        std::fs::write(more.join("notes.txt"), "[[").unwrap();
        let declared = read(&Places { files: &[path], folder: Some(&more), database: Some("shop") }).unwrap();
        let places: Vec<String> = declared
            .iter()
            .map(|one| format!("{} {} {}", one.backfill.id, one.backfill.place(), one.backfill.keeps_undo))
            .collect();
        assert_eq!(places, ["amounts shop.orders false", "points shop.users true"]);
        assert_eq!((declared[1].pause_ms, declared[1].batch), (20, DeclaredBackfill::BATCH));
        assert_eq!(declared[0].backup, BackupWish::Always);
    }

    #[test]
    fn faults_name_file_and_line() {
        for (old, new, expected) in [
            ("store = \"mongo\"", "store = \"redis\"", ":6: `store` must be mongo or postgres"),
            ("fields = [\"points\"]", "", ":6: `fields`, the paths"),
            ("collection = \"users\"", "table = \"users\"", ":6: `table` and `set` are for postgres"),
            ("pause = \"20ms\"", "pause = \"soon\"", ":6: `pause` must be a duration"),
            ("pause = \"20ms\"", "batch = 0", ":6: `batch` must be from 1"),
            ("pause = \"20ms\"", "paus = \"20ms\"", "unknown field"),
            ("id = \"points\"", "id = \"a b\"", ":6: `id` must be"),
            ("pause = \"20ms\"", "[[backfill]]\nid = \"points\"", "missing field"),
        ] {
            let error = read_text(&POINTS.replace(old, new)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(expected), "{error}");
        }
        let twice = format!("{POINTS}{}", &POINTS[POINTS.find("[[").unwrap()..]);
        assert!(read_text(&twice).unwrap_err().to_string().contains("is declared twice"));
    }
}
