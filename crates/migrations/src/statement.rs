//! Chunks and statements: where each stands in its file, how it must be run, what it does.

use mainstay_model::Effect;
use serde::{Deserialize, Serialize};

use crate::execution;
use crate::lexer::Lexed;
use crate::name::ObjectName;
use crate::place::Place;

/// What stands between two markers; Drizzle sends it to the server as one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Its number in the file, from 1; empty chunks count.
    pub number: usize,
    /// Where it begins in the file.
    pub place: Place,
    /// How many bytes of the file stand before it.
    pub offset: usize,
    /// The text exactly as it stands, not trimmed.
    pub text: String,
    /// Its statements in order; none when it holds only blanks and comments.
    pub statements: Vec<Statement>,
}

/// One statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The number of its chunk, from 1.
    pub chunk: usize,
    /// Its number in the chunk, from 1.
    pub number: usize,
    /// Where its first word stands in the file.
    pub place: Place,
    /// How many bytes of the file stand before that.
    pub offset: usize,
    /// From its first word to its last, comments inside included, without the semicolon. This is what is sent.
    pub text: String,
    /// Its first words, in upper case: `CREATE INDEX`, `ALTER TABLE`, `DO`.
    pub command: String,
    /// How it must be run.
    pub execution: Execution,
    /// What it does to the data: [`Effect::Read`], [`Effect::Additive`], [`Effect::Disruptive`] (takes away what is no data: an index, a view,
    /// a constraint; changes a setting of the server) or [`Effect::Destructive`] (drops, overwrites or rewrites data).
    pub effect: Effect,
    /// Why the effect is more than additive, a few words with the name: `drops table shop.users`.
    pub reason: Option<String>,
    /// The tables that it names as its object, as far as that can be read from it: of `ALTER TABLE`, `CREATE INDEX … ON`, `DROP TABLE`,
    /// `UPDATE` …; none where it says none.
    pub tables: Vec<ObjectName>,
}

/// How a statement must be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Execution {
    /// In a transaction with others.
    Transactional,
    /// By itself: the server refuses it in a transaction block, and in a text of several statements.
    Alone(Alone),
    /// It begins, ends or parts a transaction.
    Control(Control),
}

/// Why a statement cannot be in a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Alone {
    /// `CREATE INDEX CONCURRENTLY`. A failed one leaves an invalid index of its name.
    CreateIndexConcurrently {
        /// The index, in the schema of its table; `None` where the server makes up the name.
        index: Option<ObjectName>,
        /// The table.
        table: ObjectName,
        /// `IF NOT EXISTS`: an invalid leftover would count as there.
        is_if_not_exists: bool,
        /// `UNIQUE`.
        is_unique: bool,
    },
    /// `DROP INDEX CONCURRENTLY`. A failed one leaves the index invalid.
    DropIndexConcurrently {
        /// The index.
        index: ObjectName,
        /// `IF EXISTS`.
        is_if_exists: bool,
    },
    /// `REINDEX … CONCURRENTLY`, and `REINDEX SCHEMA | DATABASE | SYSTEM` in any form. A failed concurrent one leaves `…_ccnew` or `…_ccold`.
    Reindex {
        /// What is rebuilt.
        target: ReindexTarget,
        /// Its name; `None` for the present database.
        name: Option<ObjectName>,
        /// `CONCURRENTLY`.
        is_concurrent: bool,
    },
    /// `ALTER TABLE … DETACH PARTITION … CONCURRENTLY`. A failed one is ended by `… FINALIZE`.
    DetachPartitionConcurrently {
        /// The partitioned table.
        table: ObjectName,
        /// The partition.
        partition: ObjectName,
    },
    /// `VACUUM`.
    Vacuum,
    /// `CLUSTER` of all tables.
    Cluster,
    /// `CREATE DATABASE`, `DROP DATABASE`, `ALTER DATABASE … SET TABLESPACE`.
    Database,
    /// `CREATE TABLESPACE`, `DROP TABLESPACE`.
    Tablespace,
    /// `ALTER SYSTEM`.
    AlterSystem,
    /// `CREATE`, `ALTER` or `DROP SUBSCRIPTION` in a form that makes, refreshes or drops a slot.
    Subscription,
    /// `DISCARD ALL`.
    DiscardAll,
    /// `COMMIT PREPARED`, `ROLLBACK PREPARED`.
    Prepared,
}

/// What a `REINDEX` rebuilds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReindexTarget {
    /// One index.
    Index,
    /// The indexes of a table.
    Table,
    /// Those of a schema.
    Schema,
    /// Those of the database.
    Database,
    /// Those of the catalogue.
    System,
}

/// What a statement does to the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// `BEGIN`, `START TRANSACTION`.
    Begin,
    /// `COMMIT`, `END`.
    Commit,
    /// `COMMIT AND CHAIN`: ends one and begins the next.
    CommitAndChain,
    /// `ROLLBACK`, `ABORT`.
    Rollback,
    /// `SAVEPOINT`, `RELEASE`, `ROLLBACK TO`: stays inside the transaction.
    Savepoint,
    /// `PREPARE TRANSACTION`.
    Prepare,
}

impl Statement {
    /// Where the character stands in the file that a server calls `position` of this statement, when its text alone was sent.
    #[must_use]
    pub fn locate(&self, position: u32) -> Place {
        self.place.of_position(&self.text, position)
    }

    /// Whether its rows come from the client or go to it: `COPY … FROM STDIN`, `COPY … TO STDOUT`. Who runs a migration has none and wants none.
    #[must_use]
    pub fn copies_through_client(&self) -> bool {
        self.command == "COPY" && execution::copies_through_client(&Lexed::of(&self.text).words())
    }
}
