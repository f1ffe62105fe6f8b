//! Restore of a document store's backup set, cut by phase.
//!
//! [`plan()`] decides, from the set and from what stands at the target, how each collection comes back ([`Way`]); [`apply()`] re-checks
//! what the plan took for granted, reads the whole set back before the first write, loads, proves by digest, builds indexes, and puts
//! collections in place last. A collection is loaded beside its name and gets it in one step, so that whatever happens at whatever moment,
//! under the name stands what stood there before or the whole and proven collection. Views and time series, which the server cannot rename,
//! are made under their names; the plan says so.
//!
//! Every step is journalled before it is taken, with the UUIDs of what the run creates: the same plan applied again after a kill knows its
//! own collections from others' and continues. [`plan_abandon()`] and [`abandon()`] give up a run and remove what it was loading.

mod abandon;
mod apply;
mod item;
mod plan;
mod run;

pub use abandon::{AbandonReport, abandon, plan_abandon};
pub use apply::{RestoreContext, RestoreReport, apply};
pub use item::ItemReport;
pub use plan::{RestoreMode, RestoreRequest, Way, plan, replaced_namespaces};
pub use run::{Listing, UnfinishedRun, unfinished_runs};

/// The registered name of a restore that only adds.
pub const OPERATION_NEW: &str = "restore.apply.new";
/// The registered name of a restore that loads into collections that exist.
pub const OPERATION_MERGE: &str = "restore.apply.merge";
/// The registered name of a restore that replaces collections.
pub const OPERATION_DROP: &str = "restore.apply.drop";
/// The registered name of giving up a restore.
pub const OPERATION_ABANDON: &str = "restore.abandon";

/// Collections that a restore loads before they get their names begin with this.
pub(crate) const SHADOW_PREFIX: &str = "mainstay.restore.";
