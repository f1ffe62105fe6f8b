//! Folders of migrations as projects have them, most of them with something wrong about them: what stock Drizzle makes of each stands beside it.
//!
//! Each is a folder of `fixtures/drizzle`: `hazard.toml` says what happened in the project and what the stock migrator then does; `before` are
//! migrations that it applied earlier, if it did; `before.sql` is what somebody then did to the database by hand; `migrations` is the folder that
//! is applied now. Every migration adds its number to the table `ran`, so that one that ran twice, or never, is seen there. Relies on
//! [`crate::engines::Drizzle`]; the bytes of the files are what matters about them, and git leaves them alone.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::Postgres;
use crate::engines::Drizzle;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/drizzle");

/// A project with migrations, and what stock Drizzle makes of it.
#[derive(Clone, Debug)]
pub struct Hazard {
    /// The name of its folder.
    pub name: String,
    /// What happened in the project, a sentence.
    pub about: String,
    /// What the stock migrator does, a sentence.
    pub stock: String,
    /// The line of Drizzle whose folder it is.
    pub line: Drizzle,
    /// What the stock migrator leaves.
    pub expected: StockLeaves,
    before_line: Drizzle,
    folder: PathBuf,
}

/// What the stock migrator leaves of a [`Hazard`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StockLeaves {
    /// Its exit status.
    pub status: i32,
    /// The table `ran`, in the order of its rows; empty also when it is absent.
    pub ran: Vec<String>,
    /// Rows of the tracking table.
    pub rows: usize,
}

/// `hazard.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    about: String,
    stock: String,
    line: u8,
    before_line: Option<u8>,
    expected: StockLeaves,
}

impl Hazard {
    /// All of them, by name.
    ///
    /// # Panics
    /// When a fixture does not read.
    pub fn all() -> Vec<Self> {
        let entries = fs::read_dir(FIXTURES).expect("the fixtures");
        let folders = entries.map(|entry| entry.expect("a fixture").path()).filter(|path| path.is_dir());
        let mut hazards: Vec<Self> = folders.map(|folder| Self::read(&folder)).collect();
        hazards.sort_by(|one, other| one.name.cmp(&other.name));
        hazards
    }

    /// The one of this name.
    ///
    /// # Panics
    /// When there is none.
    pub fn named(name: &str) -> Self {
        Self::read(&Path::new(FIXTURES).join(name))
    }

    /// The folder to be applied.
    pub fn migrations(&self) -> PathBuf {
        self.folder.join("migrations")
    }

    /// Brings a new database to where the project was before: by the stock migrator, and by hand.
    ///
    /// # Panics
    /// When either fails.
    pub fn prepare(&self, server: &Postgres, database: &str) {
        let before = self.folder.join("before");
        if before.is_dir() {
            let ended = self.before_line.migrate(&before, &server.uri_of(database)).run();
            assert_eq!(ended.status, 0, "{}: {ended:?}", self.name);
        }
        if let Ok(statements) = fs::read_to_string(self.folder.join("before.sql")) {
            server.execute(database, &statements).expect("what was done by hand");
        }
    }

    fn read(folder: &Path) -> Self {
        let name = folder.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        let text = fs::read_to_string(folder.join("hazard.toml")).unwrap_or_else(|e| panic!("{name}: {e}"));
        let read: Description = toml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let line = |number| if number == 0 { Drizzle::Zero } else { Drizzle::One };
        Self {
            name,
            about: read.about,
            stock: read.stock,
            line: line(read.line),
            expected: read.expected,
            before_line: line(read.before_line.unwrap_or(read.line)),
            folder: folder.to_path_buf(),
        }
    }
}
