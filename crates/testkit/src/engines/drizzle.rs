//! Drizzle in both its lines, for tests of what its migrator does: the stock `drizzle-kit migrate`, run as its users run it.
//!
//! Relies on `node` on the PATH. The program is told everything by its environment, the URL with its password included, and sees nothing of ours.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use super::EngineError;
use super::node_package::NodePackage;

const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/engines/drizzle.config.js");
/// The schema and the name of Drizzle's own tracking table.
const TRACKING: (&str, &str) = ("drizzle", "__drizzle_migrations");

/// A line of Drizzle: `drizzle-kit`, `drizzle-orm` and the driver `pg`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drizzle {
    /// 0.x: a journal, and a watermark in the tracking table.
    Zero,
    /// 1.0: a folder for each migration, and their names in the tracking table.
    One,
}

impl Drizzle {
    /// Both, the older first.
    pub const ALL: [Self; 2] = [Self::Zero, Self::One];

    /// What npm installs.
    pub fn package(self) -> NodePackage {
        let (name, manifest, lock) = match self {
            Self::Zero => (
                "drizzle-0",
                include_str!("drizzle-0/package.json"),
                include_str!("drizzle-0/package-lock.json"),
            ),
            Self::One => (
                "drizzle-1",
                include_str!("drizzle-1/package.json"),
                include_str!("drizzle-1/package-lock.json"),
            ),
        };
        NodePackage { name, package: "drizzle-kit", manifest, lock }
    }

    /// The `node_modules` folder that holds it.
    ///
    /// # Errors
    /// `Client` when it is not installed; the text says what to type.
    pub fn modules(self) -> Result<PathBuf, EngineError> {
        self.package().modules()
    }

    /// The stock migrator for a folder of migrations and the database at `url`; it is run by [`StockMigrate::run`] or [`StockMigrate::begin`].
    pub fn migrate(self, folder: &Path, url: &str) -> StockMigrate {
        let (schema, table) = TRACKING;
        StockMigrate {
            line: self,
            folder: folder.to_path_buf(),
            url: url.to_owned(),
            tracking: (schema.to_owned(), table.to_owned()),
        }
    }
}

/// A run of `drizzle-kit migrate` that is yet to begin.
#[derive(Clone)]
pub struct StockMigrate {
    line: Drizzle,
    folder: PathBuf,
    url: String,
    tracking: (String, String),
}

/// A run of `drizzle-kit migrate` that is under way; ended when dropped.
pub struct StockRun(Option<Child>);

/// What a run of `drizzle-kit migrate` gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StockEnd {
    /// The exit status; -1 when it was ended by a signal.
    pub status: i32,
    /// Its output, with the characters that move a terminal's cursor.
    pub stdout: String,
    /// Its complaints.
    pub stderr: String,
}

impl StockMigrate {
    /// Names another tracking table than Drizzle's own.
    #[must_use]
    pub fn tracked_in(mut self, schema: &str, table: &str) -> Self {
        self.tracking = (schema.to_owned(), table.to_owned());
        self
    }

    /// Runs it to its end, whatever that is.
    ///
    /// # Panics
    /// When the package is not installed, or Node cannot be run; the text says what to type.
    #[track_caller]
    pub fn run(&self) -> StockEnd {
        self.begin().end()
    }

    /// Begins it, to be waited for by [`StockRun::end`].
    ///
    /// # Panics
    /// As [`StockMigrate::run`].
    #[track_caller]
    pub fn begin(&self) -> StockRun {
        let modules = self.line.modules().expect("an installed Drizzle");
        let mut node = Command::new("node");
        node.arg(modules.join("drizzle-kit/bin.cjs")).args(["migrate", "--config", CONFIG]);
        node.env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .env("DRIZZLE_FOLDER", &self.folder)
            .env("DRIZZLE_URL", &self.url)
            .env("DRIZZLE_SCHEMA", &self.tracking.0)
            .env("DRIZZLE_TABLE", &self.tracking.1);
        node.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        StockRun(Some(node.spawn().expect("`node` on the PATH, 20 or newer")))
    }
}

impl StockRun {
    /// Waits for its end.
    ///
    /// # Panics
    /// When it cannot be waited for.
    pub fn end(mut self) -> StockEnd {
        let child = self.0.take().expect("a run that nobody waited for");
        child.wait_with_output().expect("the end of `drizzle-kit migrate`").into()
    }
}

impl Drop for StockRun {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl From<Output> for StockEnd {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
