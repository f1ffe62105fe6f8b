//! Logical dumps through the server's own programs, `pg_dump` and `pg_restore`: nothing else knows how to write a database down as statements.
//!
//! These, and those of a throw-away server (`scratch`), are the only programs that Mainstay starts. Each is looked for where the configuration says, must be of the server's major version,
//! gets an empty environment, its connection as arguments and the password in a private file; what it says on its standard error is kept,
//! bounded, and told when it fails. A dump is whole when the program ended well, and not before.
//!
//! | module | what it is for |
//! |---|---|
//! | `program` | finding a program, its version, starting it, how it ended |
//! | `passfile` | the password, where only the program reads it |
//! | `databases` | databases as wholes: definitions, making, renaming, removing, wiping |

pub(crate) mod databases;
pub(crate) mod passfile;
pub(crate) mod program;

use std::collections::BTreeSet;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use mainstay_engine::{
    DatabaseDefinition, DatabaseFacts, DatabaseReset, LoadRequest, LogicalDump, LogicalLoad, LogicalSink,
    LogicalSource, ServerFacts, WorkingDatabase,
};
use mainstay_guard::{Marker, Permit};
use mainstay_model::{Error, ErrorKind, Result, ResultExt, StoreKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{ChildStdin, ChildStdout};

use self::databases::Databases;
use self::passfile::PrivateFolder;
use self::program::{Pipe, Program, Running};
use crate::config::{PostgresConfig, Settings};

/// How much is read from a program at a time.
const PIECE_BYTES: usize = 256 * 1024;

/// Where programs and their files are.
#[derive(Debug, Clone, Default)]
pub struct ProgramPlaces {
    /// The folder with the programs, when one is configured; no other is looked into then.
    pub folder: Option<PathBuf>,
    /// The folders of the PATH, in order.
    pub path: Vec<PathBuf>,
    /// Where temporary files go.
    pub temporary: PathBuf,
}

/// Dumps and fills the databases of a PostgreSQL.
#[derive(Debug)]
pub struct PostgresDatabases {
    settings: Settings,
    places: ProgramPlaces,
}

impl PostgresDatabases {
    /// The databases of the server that `config` describes. Does not connect.
    ///
    /// # Errors
    /// `Config` when the URL cannot be used; no part of it that may be secret is shown.
    pub fn new(config: &PostgresConfig, places: ProgramPlaces) -> Result<Self> {
        Ok(Self { settings: Settings::resolve(config)?, places })
    }

    fn databases(&self) -> Databases<'_> {
        Databases::new(&self.settings)
    }

    /// A program that fits the server.
    async fn program(&self, name: &'static str) -> Result<Program> {
        let server = self.databases().server().await?;
        program::find(name, &server.version, &self.places).await
    }
}

#[async_trait]
impl LogicalSource for PostgresDatabases {
    async fn database(&self, name: Option<&str>) -> Result<DatabaseFacts> {
        self.databases().facts(name).await.context("look at the database")
    }

    async fn dump(&self, name: &str) -> Result<Box<dyn LogicalDump>> {
        let program = self.program("pg_dump").await?;
        let private = PrivateFolder::create(&self.places.temporary)?;
        let arguments = [
            "--format=custom".to_owned(),
            // What compresses is the repository.
            "--compress=none".to_owned(),
            "--no-password".to_owned(),
            format!("--dbname={}", program::connection(&self.settings, name, &private)?),
        ];
        let mut running = program.start(&arguments, Pipe::Output)?;
        let output = running.take_output()?;
        Ok(Box::new(Dump { running, output, private: Some(private), buffer: BytesMut::new() }))
    }
}

/// A `pg_dump` under way.
struct Dump {
    running: Running,
    output: ChildStdout,
    /// Until the program has connected.
    private: Option<PrivateFolder>,
    buffer: BytesMut,
}

#[async_trait]
impl LogicalDump for Dump {
    fn program(&self) -> &str {
        self.running.title()
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        self.buffer.reserve(PIECE_BYTES);
        let read =
            self.output.read_buf(&mut self.buffer).await.map_err(|error| self.running.broken(&error))?;
        if read == 0 {
            return self.running.end().await.map(|()| None);
        }
        // Whatever it writes comes from the server, so it has read the password.
        self.private = None;
        Ok(Some(self.buffer.split().freeze()))
    }
}

#[async_trait]
impl LogicalSink for PostgresDatabases {
    async fn server_facts(&self) -> Result<ServerFacts> {
        self.databases().server().await
    }

    async fn roles(&self) -> Result<BTreeSet<String>> {
        self.databases().roles().await.context("list roles")
    }

    async fn has_database(&self, name: &str) -> Result<bool> {
        self.databases().has(name).await.with_context(|| format!("look for database {name}"))
    }

    async fn check_program(&self) -> Result<()> {
        self.program("pg_restore").await.map(drop)
    }

    async fn create_database(
        &self,
        working: &WorkingDatabase,
        like: &DatabaseDefinition,
        owner: Option<&str>,
        permit: &Permit,
    ) -> Result<()> {
        let databases = self.databases();
        databases.check(permit).await?;
        let created = databases.create(working, like, owner).await;
        created.with_context(|| format!("create database {}", working.name))
    }

    async fn load(&self, request: &LoadRequest, permit: &Permit) -> Result<Box<dyn LogicalLoad>> {
        self.databases().check(permit).await?;
        let program = self.program("pg_restore").await?;
        let private = PrivateFolder::create(&self.places.temporary)?;
        let mut arguments = vec![
            "--format=custom".to_owned(),
            "--exit-on-error".to_owned(),
            "--no-password".to_owned(),
            format!("--dbname={}", program::connection(&self.settings, &request.database, &private)?),
        ];
        if !request.owners {
            arguments.extend(["--no-owner".to_owned(), "--no-privileges".to_owned()]);
        }
        if let Some(entries) = &request.entries {
            let list: String = entries.iter().map(|entry| format!("{entry};\n")).collect();
            let file = private.write("list", list.as_bytes())?;
            arguments.push(format!("--use-list={}", file.display()));
        }
        if request.jobs <= 1 {
            let mut running = program.start(&arguments, Pipe::Input)?;
            let input = Some(running.take_input()?);
            return Ok(Box::new(Piped { running, input, private }));
        }
        // Several connections each read their own part: that takes a file.
        let file = tokio::fs::File::from_std(private.create_file("dump")?);
        arguments.push(format!("--jobs={}", request.jobs));
        arguments.push(private.path("dump").display().to_string());
        Ok(Box::new(Spooled { program, arguments, file, private }))
    }

    async fn place_database(&self, working: &WorkingDatabase, name: &str, permit: &Permit) -> Result<()> {
        let databases = self.databases();
        databases.check(permit).await?;
        let placed = databases.place(working, name).await;
        placed.with_context(|| format!("rename database {} to {name}", working.name))
    }

    async fn remove_database(&self, working: &WorkingDatabase, permit: &Permit) -> Result<bool> {
        let databases = self.databases();
        databases.check(permit).await?;
        databases.remove(working).await.with_context(|| format!("drop database {}", working.name))
    }
}

/// A `pg_restore` that reads what it is handed.
struct Piped {
    running: Running,
    /// Closed when everything was handed over, or when the program wants no more of it.
    input: Option<ChildStdin>,
    /// Kept until the program has ended.
    private: PrivateFolder,
}

#[async_trait]
impl LogicalLoad for Piped {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let Some(input) = &mut self.input else { return Ok(()) };
        match input.write_all(&bytes).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                // It failed, or has all it wants: of a selection it need not read the rest.
                self.input = None;
                self.running.end().await
            }
            Err(error) => Err(self.running.broken(&error)),
        }
    }

    async fn end(mut self: Box<Self>) -> Result<()> {
        if let Some(mut input) = self.input.take() {
            // A program that has all it wants may have closed its end.
            drop(input.shutdown().await);
        }
        let ended = self.running.end().await;
        drop(self.private);
        ended
    }
}

/// A `pg_restore` that begins when the whole dump lies in a file.
struct Spooled {
    program: Program,
    arguments: Vec<String>,
    file: tokio::fs::File,
    private: PrivateFolder,
}

#[async_trait]
impl LogicalLoad for Spooled {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.file.write_all(&bytes).await.map_err(|error| no_room(&error))
    }

    async fn end(mut self: Box<Self>) -> Result<()> {
        self.file.flush().await.map_err(|error| no_room(&error))?;
        let mut running = self.program.start(&self.arguments, Pipe::None)?;
        let ended = running.end().await;
        drop(self.private);
        ended
    }
}

fn no_room(error: &std::io::Error) -> Error {
    Error::new(ErrorKind::Storage, format!("the dump cannot be kept in a temporary file: {error}")).with_hint(
        "make room, name another place with TMPDIR, or leave `--jobs` out: one connection needs no file",
    )
}

#[async_trait]
impl DatabaseReset for PostgresDatabases {
    async fn resettable(&self) -> Result<(DatabaseFacts, Option<Marker>)> {
        self.databases().resettable().await.context("look at the database")
    }

    async fn reset(
        &self,
        oid: u32,
        like: &DatabaseDefinition,
        marker: &Marker,
        permit: &Permit,
    ) -> Result<()> {
        let databases = self.databases();
        permit.check("pg.reset", StoreKind::Postgres, &databases.server().await?.fingerprint)?;
        databases.reset(oid, like, marker).await.with_context(|| format!("reset database {}", like.name))
    }
}
