//! Logical dumps of a relational database: its contents as the server's own program writes them, and databases filled from them.
//!
//! The contract in short. A [`LogicalSource`] begins a dump, whose bytes come in order; the end comes only when the program that makes them has said
//! that they are whole. A [`LogicalSink`] makes a database of a name that is free, marks it as somebody's work in progress, fills it, and
//! gives it another name; it removes only what bears that mark. Whoever drops a dump or a load that has not ended ends the program, too.

use std::collections::BTreeSet;

use async_trait::async_trait;
use bytes::Bytes;
use mainstay_guard::{Marker, Permit};
use mainstay_model::Result;
use serde::{Deserialize, Serialize};

use crate::documents::ServerFacts;

/// What a database is, its contents aside: enough to make another one like it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseDefinition {
    /// Its name.
    pub name: String,
    /// The role it belongs to.
    pub owner: String,
    /// In which encoding it keeps text.
    pub encoding: String,
    /// Who knows its locale: `libc`, `icu`, `builtin`. Absent on servers that know of one only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale_provider: Option<String>,
    /// How `libc` sorts.
    pub collate: String,
    /// What `libc` takes for a letter.
    pub ctype: String,
    /// The locale of the other providers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
    /// Rules added to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icu_rules: Option<String>,
    /// The tablespace it lies in unless something in it says otherwise.
    pub tablespace: String,
}

/// A database at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseFacts {
    /// The server.
    pub server: ServerFacts,
    /// The database's number, which another one of its name has not.
    pub oid: u32,
    /// What it is.
    pub definition: DatabaseDefinition,
    /// What it takes, in bytes.
    pub bytes: u64,
    /// About how many rows its tables hold.
    pub rows: u64,
}

/// Dumps databases.
#[async_trait]
pub trait LogicalSource: Send + Sync {
    /// The database called `name`; that of the configuration without a name.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    async fn database(&self, name: Option<&str>) -> Result<DatabaseFacts>;

    /// Begins a dump of the database called `name`, uncompressed.
    ///
    /// # Errors
    /// `Precondition` when the program that dumps is not there or does not fit the server.
    async fn dump(&self, name: &str) -> Result<Box<dyn LogicalDump>>;
}

/// A dump under way.
#[async_trait]
pub trait LogicalDump: Send {
    /// What makes it, with its version.
    fn program(&self) -> &str;

    /// The next bytes, never none; `None` when the program has ended and said that the dump is whole.
    ///
    /// # Errors
    /// What the program failed with, in its own words.
    async fn next(&mut self) -> Result<Option<Bytes>>;
}

/// How a database is filled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadRequest {
    /// The database.
    pub database: String,
    /// The numbers of the entries that are wanted, in order; everything without.
    pub entries: Option<Vec<i32>>,
    /// Whether things get the owners and rights they had.
    pub owners: bool,
    /// How many connections fill it at the same time. With more than one the dump is kept in a file until then.
    pub jobs: u16,
}

/// A database that is somebody's work in progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkingDatabase {
    /// Its name until it is placed.
    pub name: String,
    /// The mark that it bears, by which its maker knows it again.
    pub mark: String,
}

/// Fills databases.
#[async_trait]
pub trait LogicalSink: Send + Sync {
    /// What the server says of itself.
    async fn server_facts(&self) -> Result<ServerFacts>;

    /// The names of all roles.
    async fn roles(&self) -> Result<BTreeSet<String>>;

    /// Whether there is a database called `name`.
    async fn has_database(&self, name: &str) -> Result<bool>;

    /// Finds out whether the program that fills databases is there and fits the server.
    ///
    /// # Errors
    /// `Precondition` when not.
    async fn check_program(&self) -> Result<()>;

    /// Makes the empty database `working`, otherwise like `like`. It belongs to `owner`, or to who makes it.
    ///
    /// # Errors
    /// `Conflict` when the name is taken; `Refused` when `permit` is for another server or something else.
    async fn create_database(
        &self,
        working: &WorkingDatabase,
        like: &DatabaseDefinition,
        owner: Option<&str>,
        permit: &Permit,
    ) -> Result<()>;

    /// Begins to fill a database.
    ///
    /// # Errors
    /// As [`LogicalSink::check_program`]; `Refused` as above.
    async fn load(&self, request: &LoadRequest, permit: &Permit) -> Result<Box<dyn LogicalLoad>>;

    /// Gives `working`, which must bear its mark, the free name `name`, and takes the mark away: both, or neither.
    ///
    /// # Errors
    /// `Conflict` when the name is taken or the mark is another one; `Refused` as above.
    async fn place_database(&self, working: &WorkingDatabase, name: &str, permit: &Permit) -> Result<()>;

    /// Removes `working` if it bears its mark, or was made by [`LogicalSink::create_database`] of the same `working` that was cut off before it was
    /// marked, and is empty. Gives whether there was one.
    ///
    /// # Errors
    /// `Conflict` when it is somebody else's; `Locked` when somebody is connected to it; `Refused` as above.
    async fn remove_database(&self, working: &WorkingDatabase, permit: &Permit) -> Result<bool>;
}

/// A database that is being filled.
#[async_trait]
pub trait LogicalLoad: Send {
    /// Hands the next bytes of the dump over.
    ///
    /// # Errors
    /// What the program failed with, in its own words.
    async fn write(&mut self, bytes: Bytes) -> Result<()>;

    /// Waits until everything is in the database.
    ///
    /// # Errors
    /// As [`LogicalLoad::write`].
    async fn end(self: Box<Self>) -> Result<()>;
}

/// Wipes databases that may be wiped.
#[async_trait]
pub trait DatabaseReset: Send + Sync {
    /// The configured database, and the environment marker inside it.
    ///
    /// # Errors
    /// `NotFound` when it does not exist; `Precondition` for one of the server's own.
    async fn resettable(&self) -> Result<(DatabaseFacts, Option<Marker>)>;

    /// Drops the configured database with everything in it, ends whoever is connected to it, makes it anew and empty like `like`, and puts `marker` back
    /// into it. Looks at its number and at the marker inside once more before it drops anything.
    ///
    /// # Errors
    /// `StalePlan` when it is no longer the database with the number `oid`, its marker is another one, or another server answers; `Refused`
    /// when `permit` is for another server or something else.
    async fn reset(
        &self,
        oid: u32,
        like: &DatabaseDefinition,
        marker: &Marker,
        permit: &Permit,
    ) -> Result<()>;
}
