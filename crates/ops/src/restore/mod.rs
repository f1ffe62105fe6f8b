//! Restore of a document store's backup set, cut by phase.
//!
//! [`plan()`] decides, from the set and from what stands at the target, how each collection comes back ([`Way`]); [`apply()`] re-checks
//! what the plan took for granted, reads the whole set back before the first write, loads, builds indexes, proves by digest, and puts
//! collections in place last. A collection that replaces another is loaded beside it and swapped in one step, so that a failure at any
//! moment leaves either the old data or the proven new data under its name.
//!
//! Every step is journalled before it is taken: the same plan applied again after a kill continues, or starts the unfinished collections
//! over. [`abandon()`] gives up a run and removes what it had loaded beside.

mod apply;
mod item;
mod plan;
mod run;

pub use apply::{RestoreContext, RestoreReport, abandon, apply, unfinished_runs};
pub use item::ItemReport;
pub use plan::{RestoreMode, RestoreRequest, Way, plan};
pub use run::UnfinishedRun;

/// The registered name of a restore that only adds.
pub const OPERATION_NEW: &str = "restore.apply.new";
/// The registered name of a restore that loads into collections that exist.
pub const OPERATION_MERGE: &str = "restore.apply.merge";
/// The registered name of a restore that replaces collections.
pub const OPERATION_DROP: &str = "restore.apply.drop";

/// Collections that a restore loads beside the ones they will replace begin with this.
pub(crate) const SHADOW_PREFIX: &str = "mainstay.restore.";
