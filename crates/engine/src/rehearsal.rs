//! Rehearsals of statements that change a relational schema: what each locks, rewrites and reads, measured and not guessed.
//!
//! The contract in short. A [`RehearsalHost`] knows the live database and makes shadows of it: databases of its own name, marked as its own, with
//! the live schema or with nothing in them. A [`RehearsalStage`] runs statements one after the other and tells of each what it did to the tables that
//! were there when the stage was made, by the names that they had then: the strongest new lock on each, which of them were rewritten or read
//! whole, which indexes were built. What a statement does beyond its database is measured, too, and never committed. A stage on the live
//! database is rolled back whatever happens. A shadow whose stage was not ended, because its process was killed, is removed by the
//! next one that is made; nothing is ever removed that does not bear the mark.

use std::fmt;

use async_trait::async_trait;
use mainstay_guard::Permit;
use mainstay_model::Result;
use serde::{Deserialize, Serialize};

use crate::documents::ServerFacts;
use crate::logical::DatabaseFacts;

/// Modes of locks on tables, the weakest first (PostgreSQL's manual, "Table-Level Locks"). The order is a line only between what the same
/// statement takes; which of them keep each other waiting says [`TableLock::conflicts_with`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableLock {
    /// What reading takes.
    AccessShare,
    /// What locking rows takes.
    RowShare,
    /// What writing takes.
    RowExclusive,
    /// What vacuuming, and work that lets others write, takes.
    ShareUpdateExclusive,
    /// What building an index takes.
    Share,
    /// What a foreign key or a trigger takes.
    ShareRowExclusive,
    /// What lets others read only.
    Exclusive,
    /// What lets nobody do anything.
    AccessExclusive,
}

impl TableLock {
    /// All of them, the weakest first.
    pub const ALL: [Self; 8] = [
        Self::AccessShare,
        Self::RowShare,
        Self::RowExclusive,
        Self::ShareUpdateExclusive,
        Self::Share,
        Self::ShareRowExclusive,
        Self::Exclusive,
        Self::AccessExclusive,
    ];

    /// As statements write it: `ACCESS EXCLUSIVE`.
    pub fn name(self) -> &'static str {
        match self {
            Self::AccessShare => "ACCESS SHARE",
            Self::RowShare => "ROW SHARE",
            Self::RowExclusive => "ROW EXCLUSIVE",
            Self::ShareUpdateExclusive => "SHARE UPDATE EXCLUSIVE",
            Self::Share => "SHARE",
            Self::ShareRowExclusive => "SHARE ROW EXCLUSIVE",
            Self::Exclusive => "EXCLUSIVE",
            Self::AccessExclusive => "ACCESS EXCLUSIVE",
        }
    }

    /// The mode that the server's view of locks calls so: `AccessExclusiveLock`. `None` for what is no mode of a table.
    pub fn of_server(mode: &str) -> Option<Self> {
        let squeezed = |lock: Self| lock.name().replace(' ', "");
        let bare = mode.strip_suffix("Lock")?;
        Self::ALL.into_iter().find(|lock| bare.eq_ignore_ascii_case(&squeezed(*lock)))
    }

    /// Whether who holds one keeps who wants the other waiting.
    pub fn conflicts_with(self, other: Self) -> bool {
        let (weak, strong) = if self <= other { (self, other) } else { (other, self) };
        match weak {
            Self::AccessShare => strong == Self::AccessExclusive,
            Self::RowShare => strong >= Self::Exclusive,
            Self::RowExclusive => strong >= Self::Share,
            // Several may build indexes at the same time.
            Self::Share => strong != Self::Share,
            Self::ShareUpdateExclusive
            | Self::ShareRowExclusive
            | Self::Exclusive
            | Self::AccessExclusive => true,
        }
    }

    /// Whether nobody reads meanwhile.
    pub fn blocks_reads(self) -> bool {
        self.conflicts_with(Self::AccessShare)
    }

    /// Whether nobody writes meanwhile.
    pub fn blocks_writes(self) -> bool {
        self.conflicts_with(Self::RowExclusive)
    }
}

impl fmt::Display for TableLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A table, a partitioned table, a view, a materialized view or a sequence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    /// The schema.
    pub schema: String,
    /// The name in it.
    pub name: String,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// A lock that a statement was seen to take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SeenLock {
    /// On what.
    pub table: TableName,
    /// The strongest mode.
    pub mode: TableLock,
}

/// An index that a statement made, or made anew.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct SeenBuild {
    /// Of which table.
    pub table: TableName,
    /// The index.
    pub index: String,
    /// Whether it was there before.
    pub is_rebuilt: bool,
}

/// What a statement did to the tables that were there when the stage was made. Lists are in order and without repetition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Observation {
    /// How long it took, in microseconds.
    pub micros: u64,
    /// The locks that it took and that its transaction did not hold before, the strongest on each table.
    pub taken: Vec<SeenLock>,
    /// The strongest lock that its transaction holds on each table after it.
    pub held: Vec<SeenLock>,
    /// Tables with another file than before: all their rows were written anew, or thrown away.
    pub rewritten: Vec<TableName>,
    /// Tables that were read from their first row to their last.
    pub scanned: Vec<TableName>,
    /// Indexes.
    pub built: Vec<SeenBuild>,
    /// Catalogs of the whole server that it wrote to: roles, databases, their settings and comments. What did so is never committed.
    pub beyond: Vec<String>,
    /// Whether it waited, in phases of its own, for the end of transactions that only read.
    pub waits_for_readers: bool,
}

/// What the server said of a statement that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StatementFailure {
    /// The SQLSTATE.
    pub code: String,
    /// The message.
    pub message: String,
    /// The hint, if there is one.
    pub hint: Option<String>,
    /// Which character of the statement is meant, from 1.
    pub position: Option<u32>,
}

/// What came of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rehearsed {
    /// It was carried out.
    Done(Observation),
    /// The server refused it. Its transaction is over.
    Failed(StatementFailure),
}

/// What a shadow begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ShadowContents {
    /// Nothing.
    Nothing,
    /// The live schema, without a row.
    Schema,
    /// The live schema and all rows.
    Rows,
}

/// How long a stage on the live database may disturb it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveBounds {
    /// How long it waits for a lock, in milliseconds.
    pub lock_timeout_ms: u32,
    /// How long a statement may take, in milliseconds.
    pub statement_timeout_ms: u32,
    /// How long all of it may take, in milliseconds.
    pub total_timeout_ms: u32,
}

/// Somebody who holds a lock on a table of the live database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableHolder {
    /// On which table.
    pub table: TableName,
    /// The strongest mode.
    pub mode: TableLock,
    /// The process; `None` for a prepared transaction.
    pub pid: Option<i32>,
    /// What the client calls itself; may be empty.
    pub app_name: String,
    /// The role, where it may be seen.
    pub user: Option<String>,
    /// For how long its transaction has been open, in seconds.
    pub transaction_seconds: u64,
}

/// An object of a catalogue, as text that is equal when the objects are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct CatalogObject {
    /// What it is: `table`, `column`, `index`.
    pub kind: String,
    /// Its name with its schema, and its table's where it belongs to one: `shop.users.email`.
    pub name: String,
    /// What it is in the server's own words, numbers and owners aside.
    pub definition: String,
}

/// Which things of a database are compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CatalogScope {
    /// Schemas that are left out, beside those of the server and of Mainstay.
    pub without_schemas: Vec<String>,
    /// Tables that are left out.
    pub without_tables: Vec<TableName>,
    /// Whether rights are compared.
    pub privileges: bool,
}

/// Who hears, one line at a time, what is done on the way.
pub type Told<'a> = dyn Fn(&str) + Send + Sync + 'a;

/// The live database, and shadows of it.
#[async_trait]
pub trait RehearsalHost: Send + Sync {
    /// The live database.
    ///
    /// # Errors
    /// The server's.
    async fn live(&self) -> Result<DatabaseFacts>;

    /// The server that shadows are made on.
    ///
    /// # Errors
    /// The server's.
    async fn shadow_server(&self) -> Result<ServerFacts>;

    /// Who holds a lock on a table of the live database now, reading included; the longest transaction first.
    ///
    /// # Errors
    /// The server's.
    async fn lock_holders(&self) -> Result<Vec<TableHolder>>;

    /// What is in the live database.
    ///
    /// # Errors
    /// The server's.
    async fn live_catalog(&self, scope: &CatalogScope) -> Result<Vec<CatalogObject>>;

    /// Removes shadows that killed runs have left, and makes a new one like the live database, with nothing in it. `told` hears what was removed.
    ///
    /// # Errors
    /// `Auth` when the role may not make databases; `Precondition` when the servers are of different major versions; `Refused` when `permit` is
    /// for another server than that of shadows, or something else.
    async fn shadow(&self, told: &Told<'_>, permit: &Permit) -> Result<Box<dyn RehearsalStage>>;

    /// Fills an empty shadow from the live database.
    ///
    /// # Errors
    /// `Precondition` when the programs that dump and load are not there; what they say when they fail; `Refused` as above.
    async fn fill(&self, stage: &dyn RehearsalStage, contents: ShadowContents, permit: &Permit)
    -> Result<()>;

    /// A stage in the live database: one transaction that is rolled back at its end, whatever happens.
    ///
    /// # Errors
    /// `Refused` when `permit` is for another server or something else.
    async fn on_live(&self, bounds: LiveBounds, permit: &Permit) -> Result<Box<dyn RehearsalStage>>;
}

/// Where statements are run to be looked at.
#[async_trait]
pub trait RehearsalStage: Send + Sync {
    /// The name of the database.
    fn database(&self) -> &str;

    /// Whether it is the live one, where nothing can be committed and nothing run outside of a transaction.
    fn is_live(&self) -> bool;

    /// Whether something was done beyond the database, so that nothing is committed any more, and nothing can be run outside of a transaction.
    fn is_open_ended(&self) -> bool;

    /// Takes what is there now for what was there when the stage was made.
    fn look_again(&mut self);

    /// Begins a transaction. In one that cannot be committed it goes on.
    ///
    /// # Errors
    /// The server's.
    async fn begin(&mut self) -> Result<()>;

    /// Runs a statement in the transaction, and looks.
    ///
    /// # Errors
    /// When the connection breaks. What the server says of the statement is no error.
    async fn observe(&mut self, statement: &str) -> Result<Rehearsed>;

    /// Runs a statement outside of a transaction, and looks from beside.
    ///
    /// # Errors
    /// As [`RehearsalStage::observe`]; `Internal` where nothing can be run so.
    async fn observe_alone(&mut self, statement: &str) -> Result<Rehearsed>;

    /// Ends the transaction; `None` when it is committed, or stays open because it never may be.
    ///
    /// # Errors
    /// When the connection breaks.
    async fn commit(&mut self) -> Result<Option<StatementFailure>>;

    /// Puts the settings of the connection back to what they were, between two files.
    ///
    /// # Errors
    /// The server's.
    async fn reset_settings(&mut self) -> Result<()>;

    /// What is in its database now.
    ///
    /// # Errors
    /// The server's.
    async fn catalog(&mut self, scope: &CatalogScope) -> Result<Vec<CatalogObject>>;

    /// Removes the shadow, or rolls back what was done in the live database.
    ///
    /// # Errors
    /// The server's; what was left is removed by the next rehearsal.
    async fn end(self: Box<Self>) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::TableLock::{
        AccessExclusive, AccessShare, Exclusive, RowExclusive, RowShare, Share, ShareRowExclusive,
        ShareUpdateExclusive,
    };
    use super::*;

    #[test]
    fn modes_conflict_as_the_manual_says() {
        // Manual, table "Conflicting Lock Modes".
        let table: [(TableLock, &[TableLock]); 8] = [
            (AccessShare, &[AccessExclusive]),
            (RowShare, &[Exclusive, AccessExclusive]),
            (RowExclusive, &[Share, ShareRowExclusive, Exclusive, AccessExclusive]),
            (
                ShareUpdateExclusive,
                &[ShareUpdateExclusive, Share, ShareRowExclusive, Exclusive, AccessExclusive],
            ),
            (Share, &[RowExclusive, ShareUpdateExclusive, ShareRowExclusive, Exclusive, AccessExclusive]),
            (
                ShareRowExclusive,
                &[RowExclusive, ShareUpdateExclusive, Share, ShareRowExclusive, Exclusive, AccessExclusive],
            ),
            (
                Exclusive,
                &[
                    RowShare,
                    RowExclusive,
                    ShareUpdateExclusive,
                    Share,
                    ShareRowExclusive,
                    Exclusive,
                    AccessExclusive,
                ],
            ),
            (AccessExclusive, &TableLock::ALL),
        ];
        for (mode, conflicting) in table {
            let found: Vec<TableLock> =
                TableLock::ALL.into_iter().filter(|other| mode.conflicts_with(*other)).collect();
            assert_eq!(found, conflicting, "{mode}");
        }
        assert!(AccessExclusive.blocks_reads() && !Exclusive.blocks_reads());
        assert!(Share.blocks_writes() && !ShareUpdateExclusive.blocks_writes());
    }

    #[test]
    fn modes_are_known_by_the_servers_names() {
        for mode in TableLock::ALL {
            let name = mode.name().split(' ').map(|word| word[..1].to_owned() + &word[1..].to_lowercase());
            assert_eq!(TableLock::of_server(&(name.collect::<String>() + "Lock")), Some(mode));
        }
        assert_eq!(TableLock::of_server("SIReadLock"), None);
        assert_eq!(TableLock::of_server("Share"), None);
    }
}
