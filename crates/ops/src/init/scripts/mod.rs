//! One-time scripts of database images: what becomes of each, which statements it holds, and the same as a declaration.
//!
//! The images of MongoDB and PostgreSQL run what lies in `/docker-entrypoint-initdb.d` once, on an empty folder of data, and never again. The
//! rules are those of the images' entrypoints. A script is scanned, not run: calls and statements that are known are read with their names,
//! everything else is told by its place and first words. A literal of a script may be a password, so none is ever shown. Bytes of any kind are
//! taken; depth and length are bounded. Where a server was surveyed for the declaration, [`compare`] says which statement it has.

mod live;
mod script;
mod shell;
mod sql;
mod statement;

use serde::Serialize;

pub use live::{Compared, Presence, compare};
pub use statement::{Image, Password, Statement};

/// The most of one file that is read.
pub const FILE_BYTES_MAX: usize = 1024 * 1024;
/// What is said where a script goes on and reading it ends.
const TOO_LONG: &str = "the rest is not read: too long";

/// A file of such a folder.
#[derive(Debug, Clone)]
pub struct ScriptFile {
    /// Its name.
    pub name: String,
    /// What is in it. More than [`FILE_BYTES_MAX`] is not read, and one byte more is enough to tell.
    pub bytes: Vec<u8>,
    /// Whether it may be executed.
    pub executable: bool,
}

/// What becomes of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fate {
    /// The file.
    pub file: String,
    /// Whether the image runs it at all.
    pub runs: bool,
    /// How, or why not.
    pub how: String,
}

/// A statement that is understood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What it does.
    pub statement: Statement,
}

/// Something that is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unread {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// Its first words, without any value.
    pub what: String,
}

/// What a folder of scripts comes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScriptReport {
    /// Whose scripts they are.
    pub image: Image,
    /// What becomes of each file, in the order in which they run.
    pub fates: Vec<Fate>,
    /// What is understood, in order.
    pub found: Vec<Found>,
    /// What is not.
    pub unread: Vec<Unread>,
    /// When such scripts run, and when not.
    pub rules: Vec<&'static str>,
    /// A declaration of what is understood, for mainstay.toml.
    pub toml: String,
}

impl ScriptReport {
    /// The database of which the declaration's indexes are: that of the first one.
    pub fn database_of_indexes(&self) -> Option<&str> {
        statement::database_of_indexes(&self.found)
    }
}

/// Reads the scripts of `files`, which are for `image`; `database` is the one in which they begin.
pub fn read(mut files: Vec<ScriptFile>, image: Image, database: &str) -> ScriptReport {
    // The entrypoints take them in the order of the shell's `*`.
    files.sort_by(|one, other| one.name.cmp(&other.name));
    let (mut found, mut unread, mut fates) = (Vec::new(), Vec::new(), Vec::new());
    for file in &files {
        let fate = fate(image, file);
        if fate.runs {
            let text = String::from_utf8_lossy(&file.bytes[..file.bytes.len().min(FILE_BYTES_MAX)]);
            let mut read = scan(image, file, &text, database);
            if file.bytes.len() > FILE_BYTES_MAX {
                read.unread.push((text.matches('\n').count() + 1, TOO_LONG.to_owned()));
            }
            found.extend(read.found.into_iter().map(|(line, statement)| Found {
                file: file.name.clone(),
                line,
                statement,
            }));
            unread.extend(read.unread.into_iter().map(|(line, what)| Unread {
                file: file.name.clone(),
                line,
                what,
            }));
        }
        fates.push(fate);
    }
    let toml = statement::declaration(image, &found);
    ScriptReport { image, fates, found, unread, rules: rules(image).to_vec(), toml }
}

/// Whose image `files` are for, as they tell; MongoDB's when nothing tells.
pub fn image_of(files: &[ScriptFile]) -> Image {
    let holds = |words: &[&str]| {
        files.iter().any(|file| {
            let text = String::from_utf8_lossy(&file.bytes);
            words.iter().any(|word| text.contains(word))
        })
    };
    let is_sql = files.iter().any(|file| file.name.contains(".sql"));
    match is_sql || (holds(&["psql"]) && !holds(&["mongosh", "mongo "])) {
        true => Image::Postgres,
        false => Image::Mongo,
    }
}

/// What a scan gives, with lines from 1.
#[derive(Debug, Default)]
struct Read {
    found: Vec<(usize, Statement)>,
    unread: Vec<(usize, String)>,
}

fn scan(image: Image, file: &ScriptFile, text: &str, database: &str) -> Read {
    if ends(&file.name, ".sh") {
        return shell::scan(image, text, database);
    }
    match image {
        Image::Mongo => script::scan(text, database, 1),
        Image::Postgres if ends(&file.name, ".sql") => sql::scan(text, database, 1),
        Image::Postgres => Read {
            unread: vec![(1, "a packed file: unpack it to have it read".to_owned())],
            ..Read::default()
        },
    }
}

fn ends(name: &str, with: &str) -> bool {
    name.len() > with.len() && name.ends_with(with)
}

/// Source: `docker-entrypoint.sh` of docker-library/mongo and docker-library/postgres.
fn fate(image: Image, file: &ScriptFile) -> Fate {
    let name = &file.name;
    let (runs, how) = match image {
        Image::Mongo if ends(name, ".sh") => (true, "sourced by the entrypoint's shell"),
        Image::Mongo if ends(name, ".js") => {
            (true, "run by the shell of MongoDB in MONGO_INITDB_DATABASE, `test` unless set")
        }
        Image::Mongo => (false, "ignored: only *.sh and *.js are run"),
        Image::Postgres if ends(name, ".sh") && file.executable => (true, "executed"),
        Image::Postgres if ends(name, ".sh") => (true, "sourced by the entrypoint's shell"),
        Image::Postgres if ends(name, ".sql") => {
            (true, "run by psql in POSTGRES_DB, and ends at the first error")
        }
        Image::Postgres if [".sql.gz", ".sql.xz", ".sql.zst"].iter().any(|end| ends(name, end)) => {
            (true, "unpacked, and run by psql in POSTGRES_DB")
        }
        Image::Postgres => (false, "ignored: only *.sh, *.sql and packed *.sql are run"),
    };
    Fate { file: name.clone(), runs, how: how.to_owned() }
}

fn rules(image: Image) -> &'static [&'static str] {
    match image {
        Image::Mongo => &[
            "they run once, when the folder of data is empty: none of WiredTiger, journal, local.0 and storage.bson is there. A volume that is kept never runs them again, whatever is changed in them",
            "they run against a server of the image's own on 127.0.0.1 that asks for no password, started without `--replSet` when root credentials are set: rs.initiate() cannot work in them",
            "a script that fails ends the container and leaves a folder that is not empty: the next start skips what did not run",
            "MONGO_INITDB_ROOT_USERNAME and MONGO_INITDB_ROOT_PASSWORD make their user in the same way: once",
        ],
        Image::Postgres => &[
            "they run once, when the folder of data holds no PG_VERSION. A volume that is kept never runs them again, whatever is changed in them",
            "they run as POSTGRES_USER against a server that listens on its socket alone",
            "a script that fails ends the container and leaves a folder that is not empty: the next start skips what did not run",
            "POSTGRES_DB, POSTGRES_USER and POSTGRES_PASSWORD count on that first start alone, too",
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> ScriptFile {
        ScriptFile { name: name.to_owned(), bytes: text.as_bytes().to_vec(), executable: false }
    }

    #[test]
    fn what_becomes_of_a_file_is_told_by_its_name() {
        let report = read(
            vec![file("b.js", ""), file("a.sh", ""), file("readme.md", ""), file(".js", "")],
            Image::Mongo,
            "test",
        );
        let fates: Vec<(&str, bool)> =
            report.fates.iter().map(|fate| (fate.file.as_str(), fate.runs)).collect();
        assert_eq!(fates, [(".js", false), ("a.sh", true), ("b.js", true), ("readme.md", false)]);
        assert_eq!(image_of(&[file("01.sql", "SELECT 1;")]), Image::Postgres);
        assert_eq!(image_of(&[file("01.sh", "psql -v x")]), Image::Postgres);
        assert_eq!(image_of(&[file("01.sh", "mongosh <<E")]), Image::Mongo);
    }

    #[test]
    fn where_reading_ends_is_told() {
        let ends = |name: &str, image, text: &str| {
            let last = read(vec![file(name, text)], image, "test").unread.pop();
            last.map(|unread| (unread.line, unread.what))
        };
        let told = |line| Some((line, TOO_LONG.to_owned()));
        let blank = "\n".repeat(FILE_BYTES_MAX);
        assert_eq!(ends("a.js", Image::Mongo, &blank), None);
        assert_eq!(ends("a.js", Image::Mongo, &format!("{blank}\n")), told(FILE_BYTES_MAX + 1));
        assert_eq!(ends("a.js", Image::Mongo, &format!("\n{}", ";".repeat(300_000))), told(2));
        assert_eq!(ends("a.sql", Image::Postgres, &format!("\n{}", ";".repeat(300_000))), told(2));
        assert_eq!(ends("a.sql", Image::Postgres, &";".repeat(100_000)), None);
    }

    #[test]
    fn the_runbooks_example_becomes_a_declaration_without_its_password() {
        let script = "db = db.getSiblingDB('marketplace');\n\
            db.createUser({\n  user: 'marketplace_app',\n  pwd: process.env.MARKETPLACE_APP_PWD,\n  roles: [{ role: 'readWrite', db: 'marketplace' }],\n});\n\
            db.createUser({ user: 'other', pwd: 'canary', roles: ['read'] });\n";
        let files = vec![file("01-create-user.js", script)];
        let image = image_of(&files);
        let report = read(files, image, "test");
        assert_eq!(report.found.iter().map(|found| found.line).collect::<Vec<_>>(), [2, 7]);
        assert!(report.unread.is_empty(), "{:?}", report.unread);
        assert!(report.toml.contains("[init.mongo.users.marketplace_app]\ndatabase = \"marketplace\"\npassword_variable = \"MARKETPLACE_APP_PWD\"\nroles = [\"readWrite\"]\n"), "{}", report.toml);
        assert!(report.toml.contains("password_variable = \"OTHER_PASSWORD\""), "{}", report.toml);
        assert!(!format!("{report:?}").contains("canary"));
    }

    #[test]
    fn a_statement_of_many_names_does_not_become_their_product() {
        let names = |count: usize| (0..count).map(|n| format!("r{n}")).collect::<Vec<_>>().join(", ");
        let scanned = |text: &str| read(vec![file("a.sql", text)], Image::Postgres, "test");
        let script = format!("GRANT {} TO {};\n", names(2_000), names(2_000));
        assert!(scanned(&script).found.is_empty());
        let script = format!("GRANT {} ON x TO {};\n", names(2_000), names(2_000));
        assert!(scanned(&script).found.is_empty());
        assert_eq!(scanned(&format!("GRANT {} TO {};\n", names(16), names(16))).found.len(), 16);
    }

    #[test]
    fn hostile_bytes_are_read_to_their_end() {
        let mut seed = 1_u64;
        let pieces = [
            "db.",
            "createUser(",
            "{",
            "'",
            "\"",
            "`",
            "/*",
            "*/",
            "//",
            "$$",
            ";",
            "GRANT",
            " ON ",
            "<<EOF\n",
            "EOF\n",
            "[",
            "(",
            "\\",
            "\u{0}",
            "é",
            "CREATE ROLE ",
            "process.env.",
        ];
        for _ in 0..2_000 {
            let mut bytes = Vec::new();
            for _ in 0..40 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let pick = (seed >> 33) as usize;
                bytes.extend_from_slice(pieces[pick % pieces.len()].as_bytes());
                if pick.is_multiple_of(7) {
                    bytes.push(0xff);
                }
            }
            for name in ["a.js", "a.sh", "a.sql"] {
                for image in [Image::Mongo, Image::Postgres] {
                    let file = ScriptFile { name: name.to_owned(), bytes: bytes.clone(), executable: false };
                    let _ = read(vec![file], image, "test");
                }
            }
        }
        let deep = "db.createUser(".to_owned() + &"{a:[".repeat(200_000);
        assert!(read(vec![file("a.js", &deep)], Image::Mongo, "test").found.is_empty());
    }
}
