//! Where SQL migrations are and where it is written down which are applied: `[sql]`, then what Drizzle's own configuration says, then its defaults; and
//! the folder itself, read when a command asks for it.
//!
//! `drizzle.config.ts` is a program, which nobody runs here. What it says in plain words is taken: `out`, and `table` and `schema` of `migrations`, each a string
//! in quotes. What it says otherwise (a variable, a call, a spread object, two different values) is an error that asks for `[sql]`, never a guess:
//! by the default table, all that is applied would look pending.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mainstay_migrations::{FILE_COUNT_MAX, FILE_SIZE_MAX, Folder, TrackingTable, is_read};
use mainstay_model::{ByteSize, Error, ErrorKind, Result};

use super::resolved::SqlSettings;
use crate::bounded;

/// Names of Drizzle's configuration, in the order in which its own tool looks for them.
const CONFIG_NAMES: [&str; 5] = [
    "drizzle.config.ts",
    "drizzle.config.mts",
    "drizzle.config.js",
    "drizzle.config.mjs",
    "drizzle.config.json",
];
/// The longest one that is read.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;
/// The most bytes of all files of a folder together.
const FOLDER_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Where Drizzle puts migrations when nobody says otherwise.
const FOLDER: &str = "drizzle";
const HINT: &str = "say it in [sql] of mainstay.toml: `folder`, and `schema` and `table` of the table that says what is applied";
/// What helps when the folder is not to be read.
const HINT_FOLDER: &str = "name the folder of migrations: `folder` of [sql] in mainstay.toml, or --folder";
/// What helps when there is more in it than anybody writes.
const HINT_SIZE: &str = "keep data out of migrations, as seeds for one; where it is another folder, name theirs: `folder` of [sql], or --folder";

/// Where migrations are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The folder.
    pub(crate) folder: PathBuf,
    /// The tracking table.
    pub(crate) table: TrackingTable,
}

/// What Drizzle's configuration says; what it does not say is absent.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    out: Option<String>,
    table: Option<String>,
    schema: Option<String>,
}

impl Place {
    /// What holds for a project in `project`.
    ///
    /// # Errors
    /// `Config` when Drizzle's configuration is needed and cannot be understood without running it.
    pub(crate) fn of(settings: &SqlSettings, project: &Path) -> Result<Self> {
        let is_all_said = settings.folder.is_some() && settings.schema.is_some() && settings.table.is_some();
        let said = if is_all_said { Said::default() } else { said_by_drizzle(settings, project)? };
        let default = TrackingTable::default();
        let folder = match &settings.folder {
            Some(folder) => folder.clone(),
            None => project.join(said.out.as_deref().unwrap_or(FOLDER)),
        };
        Ok(Self {
            folder,
            table: TrackingTable {
                schema: settings.schema.clone().or(said.schema).unwrap_or(default.schema),
                name: settings.table.clone().or(said.table).unwrap_or(default.name),
            },
        })
    }
}

fn said_by_drizzle(settings: &SqlSettings, project: &Path) -> Result<Said> {
    let Some(path) = CONFIG_NAMES.iter().map(|name| project.join(name)).find(|path| path.is_file()) else {
        return Ok(Said::default());
    };
    let refuse = |why: String| {
        Error::new(ErrorKind::Config, format!("{}: {why}", path.display()))
            .with_state("nothing was changed")
            .with_hint(HINT)
    };
    let text = bounded::read_text(&path, CONFIG_BYTES_MAX)
        .map_err(|source| refuse("it cannot be read".to_owned()).with_source(source))?
        .ok_or_else(|| refuse("it is too long for a configuration".to_owned()))?;
    let tokens = tokens(&text);
    let wanted = |is_set: bool, key: &str, inside: Option<&str>| match is_set {
        true => Ok(None),
        false => value_of(&tokens, key, inside).map_err(|unclear| match unclear {
            Unclear::NotLiteral => {
                refuse(format!("`{key}` is no string in quotes, and nobody runs this file"))
            }
            Unclear::Several => refuse(format!("`{key}` is said more than once, and differently")),
        }),
    };
    Ok(Said {
        out: wanted(settings.folder.is_some(), "out", None)?,
        table: wanted(settings.table.is_some(), "table", Some("migrations"))?,
        schema: wanted(settings.schema.is_some(), "schema", Some("migrations"))?,
    })
}

/// A token of a program, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    /// A string without anything to be put into it.
    Text(String),
    Sign(char),
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if matches!(first, '\'' | '"' | '`') {
            let (token, length) = string(rest, first);
            tokens.push(token);
            length
        } else if first.is_alphanumeric() || matches!(first, '_' | '$') {
            let is_within = |one: char| one.is_alphanumeric() || matches!(one, '_' | '$');
            let length = rest.find(|one: char| !is_within(one)).unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..length].to_owned()));
            length
        } else {
            if !first.is_whitespace() {
                tokens.push(Token::Sign(first));
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    tokens
}

/// The string that `text` begins with, and its length. One with escapes or with something to be put into it is a sign that nobody asks for.
fn string(text: &str, quote: char) -> (Token, usize) {
    let mut is_plain = true;
    let mut escaped = false;
    for (at, one) in text.char_indices().skip(1) {
        match one {
            _ if escaped => escaped = false,
            '\\' => {
                escaped = true;
                is_plain = false;
            }
            '$' if quote == '`' => is_plain = false,
            _ if one == quote => {
                let inside = text[1..at].to_owned();
                return (if is_plain { Token::Text(inside) } else { Token::Sign(quote) }, at + 1);
            }
            _ => {}
        }
    }
    (Token::Sign(quote), text.len())
}

/// Why a value cannot be told.
#[derive(Debug, PartialEq, Eq)]
enum Unclear {
    NotLiteral,
    Several,
}

/// The value of `key`, at whatever depth, or directly within the object that `inside` names.
fn value_of(tokens: &[Token], key: &str, inside: Option<&str>) -> Result<Option<String>, Unclear> {
    let tokens = match inside {
        None => tokens,
        Some(name) => match object_of(tokens, name)? {
            Some(object) => object,
            None => return Ok(None),
        },
    };
    if is_shorthand(tokens, key) {
        return Err(Unclear::NotLiteral);
    }
    let mut found: Option<String> = None;
    for (at, pair) in tokens.windows(2).enumerate() {
        let [name, Token::Sign(':')] = pair else { continue };
        if !is_named(name, key) {
            continue;
        }
        let ends = |token: Option<&Token>| matches!(token, None | Some(Token::Sign(',' | '}' | ';')));
        match (tokens.get(at + 2), tokens.get(at + 3)) {
            (Some(Token::Text(value)), after) if ends(after) => match &found {
                Some(other) if other != value => return Err(Unclear::Several),
                _ => found = Some(value.clone()),
            },
            _ => return Err(Unclear::NotLiteral),
        }
    }
    match found.is_none() && spreads(tokens, inside.is_some()) {
        true => Err(Unclear::NotLiteral),
        false => Ok(found),
    }
}

fn is_named(token: &Token, key: &str) -> bool {
    matches!(token, Token::Word(name) | Token::Text(name) if name == key)
}

/// Whether `{ key }` stands there: a variable of that name.
fn is_shorthand(tokens: &[Token], key: &str) -> bool {
    let begins = |at: usize| {
        let before = at.checked_sub(1).and_then(|before| tokens.get(before));
        before.is_none_or(|token| matches!(token, Token::Sign('{' | ',')))
    };
    let ends = |at: usize| matches!(tokens.get(at + 1), None | Some(Token::Sign(',' | '}')));
    let mut names = tokens.iter().enumerate();
    names.any(|(at, token)| matches!(token, Token::Word(name) if name == key) && begins(at) && ends(at))
}

/// Whether another object is spread into one that may hold the key: one that is no value of another key. `is_object`: the tokens are those of an object.
fn spreads(tokens: &[Token], is_object: bool) -> bool {
    let mut open = vec![is_object];
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Sign('{') => {
                let before = at.checked_sub(1).and_then(|before| tokens.get(before));
                open.push(before != Some(&Token::Sign(':')));
            }
            Token::Sign('[' | '(') => open.push(false),
            Token::Sign('}' | ']' | ')') => {
                open.pop();
            }
            Token::Sign('.') if open.last() == Some(&true) => {
                let three = tokens.get(at..at + 3).unwrap_or_default();
                if three.len() == 3 && three.iter().all(|one| *one == Token::Sign('.')) {
                    return true;
                }
            }
            _ => {}
        }
    }
    false
}

/// What stands between the braces behind `name:`; an error where something else does.
fn object_of<'t>(tokens: &'t [Token], name: &str) -> Result<Option<&'t [Token]>, Unclear> {
    let begins =
        |three: &[Token]| matches!(three, [key, Token::Sign(':'), Token::Sign('{')] if is_named(key, name));
    let Some(begin) = tokens.windows(3).position(begins).map(|at| at + 3) else {
        let is_said = |two: &[Token]| matches!(two, [key, Token::Sign(':')] if is_named(key, name));
        let is_unclear =
            tokens.windows(2).any(is_said) || is_shorthand(tokens, name) || spreads(tokens, false);
        return if is_unclear { Err(Unclear::NotLiteral) } else { Ok(None) };
    };
    let mut depth = 1_usize;
    for (at, token) in tokens.iter().enumerate().skip(begin) {
        match token {
            Token::Sign('{') => depth += 1,
            Token::Sign('}') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Ok(tokens.get(begin..at));
        }
    }
    Err(Unclear::NotLiteral)
}

/// Reads a folder of migrations.
///
/// # Errors
/// `NotFound` when it is not there; `Storage` when it cannot be read; what Drizzle's own runner would refuse.
pub(crate) fn read(folder: &Path) -> Result<Folder> {
    let named = |error: Error| {
        let hint = error.hint().unwrap_or(HINT_FOLDER).to_owned();
        error.context(format!("read {}", folder.display())).with_hint(hint)
    };
    let files = files(folder).map_err(named)?;
    Folder::read(&files).map_err(|error| named(error.into()))
}

/// The files by their paths relative to the folder, as deep as migrations may be; the bytes of those that are read.
fn files(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let unreadable = |path: &Path| {
        let shown = path.display().to_string();
        move |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => Error::new(ErrorKind::NotFound, format!("there is no {shown}"))
                .with_state("nothing was changed"),
            io::ErrorKind::NotADirectory => Error::new(ErrorKind::NotFound, format!("{shown} is no folder"))
                .with_state("nothing was changed"),
            _ => Error::new(ErrorKind::Storage, format!("cannot read {shown}"))
                .with_source(source)
                .with_state("nothing was changed")
                .with_hint("see that it may be read, then run the same command again"),
        }
    };
    let too_much = |what: String| {
        Error::new(ErrorKind::Unsupported, what).with_state("nothing was changed").with_hint(HINT_SIZE)
    };
    let (mut files, mut bytes) = (BTreeMap::new(), 0_u64);
    for (name, path) in entries(folder, "").map_err(unreadable(folder))? {
        let found = match path.is_dir() {
            true => entries(&path, &format!("{name}/")).map_err(unreadable(&path))?,
            false => vec![(name, path)],
        };
        for (name, path) in found.into_iter().filter(|(_, path)| path.is_file()) {
            if files.len() >= FILE_COUNT_MAX {
                return Err(too_much(format!("there are more than {FILE_COUNT_MAX} files")));
            }
            let read = match is_read(&name) {
                false => Vec::new(),
                true => bounded::read(&path, FILE_SIZE_MAX).map_err(unreadable(&path))?.ok_or_else(|| {
                    too_much(format!("{} has more than {}", path.display(), ByteSize(FILE_SIZE_MAX)))
                })?,
            };
            bytes = bytes.saturating_add(read.len() as u64);
            if bytes > FOLDER_BYTES_MAX {
                return Err(too_much(format!("the files have more than {}", ByteSize(FOLDER_BYTES_MAX))));
            }
            files.insert(name, read);
        }
    }
    Ok(files)
}

/// What is in a folder, by name behind `prefix`; names that are no text are nobody's migrations.
fn entries(folder: &Path, prefix: &str) -> io::Result<Vec<(String, PathBuf)>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder)?.take(FILE_COUNT_MAX + 1) {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string() {
            entries.push((format!("{prefix}{name}"), entry.path()));
        }
    }
    Ok(entries)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn place(config: &str, settings: &SqlSettings) -> Result<Place> {
        let project = tempfile::tempdir().unwrap();
        if !config.is_empty() {
            fs::write(project.path().join("drizzle.config.ts"), config).unwrap();
        }
        let mut place = Place::of(settings, project.path())?;
        if let Ok(relative) = place.folder.strip_prefix(project.path()) {
            place.folder = relative.to_owned();
        }
        Ok(place)
    }

    #[test]
    fn what_drizzle_says_in_plain_words_is_taken() {
        let config = "import { defineConfig } from 'drizzle-kit';\n// out: './wrong'\nexport default defineConfig({\n  dialect: 'postgresql',\n  \
                      schema: './src/schema.ts', /* out: 'wrong' */\n  out: \"./db/migrations\",\n  dbCredentials: { url: process.env.PG_URL! },\n  \
                      migrations: { table: 'applied', schema: `public` },\n});\n";
        let cases = [
            ("", "drizzle", "drizzle", "__drizzle_migrations"),
            (config, "db/migrations", "public", "applied"),
            ("export default { dialect: 'postgresql' }", "drizzle", "drizzle", "__drizzle_migrations"),
            ("export default { out: 'a', migrations: { table: 't' } } satisfies Config", "a", "drizzle", "t"),
            (
                "export default { dbCredentials: { ...secret }, tablesFilter: ['a', ...more] }",
                "drizzle",
                "drizzle",
                "__drizzle_migrations",
            ),
            ("{\"out\": \"a\", \"migrations\": {\"schema\": \"s\"}}", "a", "s", "__drizzle_migrations"),
        ];
        for (config, folder, schema, name) in cases {
            let found = place(config, &SqlSettings::default()).unwrap();
            assert_eq!(found.folder, Path::new(folder), "{config}");
            assert_eq!((found.table.schema.as_str(), found.table.name.as_str()), (schema, name), "{config}");
        }
    }

    #[test]
    fn what_would_have_to_be_run_is_never_guessed() {
        for config in [
            "export default { out: process.env.OUT }",
            "export default { out: './' + name }",
            "export default { out: `./${name}` }",
            "const a = { out: 'a' }; export default { out: 'b' }",
            "export default { migrations: { table: name } }",
            "const out = 'a'; export default { out, dialect: 'postgresql' }",
            "export default { migrations }",
            "export default { migrations: shared.migrations }",
            "export default { ...base, dialect: 'postgresql' }",
            "export default { out: 'a', migrations: { ...base, schema: 's' } }",
        ] {
            let error = place(config, &SqlSettings::default()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{config}");
            assert!(error.hint().unwrap().contains("[sql]"));
        }
        let settings = SqlSettings {
            folder: Some("f".into()),
            schema: Some("s".to_owned()),
            table: Some("t".to_owned()),
            ..SqlSettings::default()
        };
        let found = place("export default { out: process.env.OUT }", &settings).unwrap();
        assert_eq!((found.folder, found.table.name), ("f".into(), "t".to_owned()));
    }

    #[test]
    fn a_folder_is_read_as_deep_as_migrations_are() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["meta/_journal.json", "0000_a.sql", "meta/0000_snapshot.json", "deep/er/still.sql"] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        let found = files(folder.path()).unwrap();
        let names: Vec<(&str, usize)> =
            found.iter().map(|(name, bytes)| (name.as_str(), bytes.len())).collect();
        assert_eq!(names, [("0000_a.sql", 1), ("meta/0000_snapshot.json", 0), ("meta/_journal.json", 1)]);
        let error = read(&folder.path().join("absent")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.hint().is_some());
    }
}
