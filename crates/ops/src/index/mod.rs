//! The indexes of a document store: changed to what is declared, without a moment in which a collection has neither its old nor its new index.
//!
//! [`plan()`] compares and decides, asks the documents, measures, and returns everything as one plan: fingerprints of what it saw, exact
//! commands, answers, costs, and what it will not do. [`retire()`] and [`restore()`] make plans of the same kind, of hiding and dropping what
//! nobody declares, and of building again what was dropped. [`check()`] compares the world with the plan, and asks the documents again;
//! [`apply()`] takes the steps one by one under a lease, each recorded before it is taken and looked at afterwards, so that a run that was
//! killed goes on: a build that goes on without it is recognised and waited for, and never begun twice.
//!
//! Relies on the server to refuse what is not so: uniqueness is promised by its own dry run and conversion, never by a count. Refuses to drop an
//! index before the one in its place stands, unless a gap was asked for, and to expire more documents at once than may.

mod apply;
mod estimate;
mod parameters;
mod plan;
mod questions;
mod records;

pub use mainstay_journal::KeptLease;

pub use apply::{IndexContext, IndexReport, IndexStepDone, apply, check, claim, resumable};
pub use parameters::{Answer, DuplicateGroup, Estimate, IndexParameters, PlannedChange, PlannedCollection};
pub use plan::{DroppedIndexes, IndexPlanning, dropped, plan, restore, retire};
pub use records::DroppedIndex;

/// The registered name of a plan that builds indexes which refuse no write and expire nothing.
pub const OPERATION_BUILD: &str = "index.apply.build";
/// The registered name of a plan that changes or hides indexes, or makes some that refuse writes.
pub const OPERATION_CHANGE: &str = "index.apply.change";
/// The registered name of a plan that drops indexes, too.
pub const OPERATION_DROP: &str = "index.apply.drop";
/// The registered name of a plan by which documents expire, too.
pub const OPERATION_EXPIRE: &str = "index.apply.expire";
/// The beginning of all of them.
pub const OPERATION: &str = "index.apply";
