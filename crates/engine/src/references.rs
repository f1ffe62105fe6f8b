//! Rows that belong to other rows, and whether the server sees to it.
//!
//! The contract in short. A [`ReferenceInspection`] looks at one column of a table that says which row of another one it belongs to: how many rows name
//! none that is there, a few of them by their keys, and which constraints would have kept that from happening. It reads in a transaction that
//! cannot write and that does not go on for long; what takes longer is told as not known. Names are given, never guessed from.

use async_trait::async_trait;
use mainstay_model::{Result, Timestamp};
use serde::Serialize;

use crate::rehearsal::TableName;

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceRule {
    /// The table whose rows belong to others.
    pub child: TableName,
    /// Its key, by which rows are named.
    pub child_key: String,
    /// The column that says to which.
    pub child_column: String,
    /// When a row was made.
    pub created_column: String,
    /// The table that has those.
    pub parent: TableName,
    /// The column of it that is named.
    pub parent_column: String,
    /// How many rows are named of each sort.
    pub example_count_max: u16,
    /// Rows made from then on are counted, too.
    pub since: Option<Timestamp>,
}

/// Rows of one sort.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FoundRows {
    /// How many.
    pub count: u64,
    /// The keys of a few, in order.
    pub examples: Vec<String>,
}

/// A constraint on the column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SeenConstraint {
    /// Its name.
    pub name: String,
    /// What it says, in the server's words.
    pub definition: String,
    /// Whether every row that there is was checked against it.
    pub is_valid: bool,
    /// Whether it is enforced at all.
    pub is_enforced: bool,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReferenceLook {
    /// There is no such table.
    NoTable,
    /// A table or columns of those that are named are not there: `shop.payments`, `shop.payment_quotes.payment_id`.
    Missing(Vec<String>),
    /// The tables as they are.
    Seen(Box<SeenReference>),
}

/// Rows and constraints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeenReference {
    /// Rows that name a row which is not there; `None` when that takes too long to find out.
    pub orphans: Option<FoundRows>,
    /// Rows that name none.
    pub nameless: Option<FoundRows>,
    /// Rows made since the moment that was asked for, or all rows when none was.
    pub recent: Option<FoundRows>,
    /// Whether the column must have a value.
    pub is_required: bool,
    /// Foreign keys from the column to the other one.
    pub foreign_keys: Vec<SeenConstraint>,
}

/// Looks at rows that belong to others.
#[async_trait]
pub trait ReferenceInspection: Send + Sync {
    /// Looks.
    ///
    /// # Errors
    /// The server's; `Auth` when the role may not read the tables.
    async fn look_at_reference(&self, rule: &ReferenceRule) -> Result<ReferenceLook>;
}
