//! Restore of a document store's backup set, as it is or brought forward by the change log to a moment, cut by phase.
//!
//! [`find_point`] finds the set and the piece of log that lead to a moment. [`plan()`] decides, from what is to come back and from what
//! stands at the target, how each collection comes back ([`Way`]); [`apply()`] re-checks what the plan took for granted, reads everything
//! it needs back before the first write, loads, proves by digest, builds indexes, and puts collections in place last. A collection is
//! loaded beside its name and gets it in one step, so that whatever happens at whatever moment, under the name stands what stood there
//! before or the whole and proven collection. Views and time series, which the server cannot rename, are made under their names; the plan
//! says so.
//!
//! Without a log each collection takes its steps by itself. With one, all are loaded, the log is replayed once into all of them, all are
//! proven against what the replay reckons they must hold, indexed, and only then put in place, one right after the other.
//!
//! Every step is journalled before it is taken, with the UUIDs of what the run creates: the same plan applied again after a kill knows its
//! own collections from others' and continues. [`plan_abandon()`] and [`abandon()`] give up a run and remove what it was loading.

mod abandon;
mod apply;
mod item;
mod log;
mod plan;
mod point;
mod replay;
mod run;
mod wanted;

pub use abandon::{AbandonReport, abandon, plan_abandon};
pub use apply::{MomentReport, RestoreContext, RestoreReport, apply};
pub use item::ItemReport;
pub use plan::{Basis, Renames, RestoreMode, RestoreRequest, Way, plan, replaced_namespaces};
pub use point::{Moment, Point, PointContext, find_point};
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
