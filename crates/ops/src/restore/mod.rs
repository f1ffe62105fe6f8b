//! Restore of a document store's backup set, as it is or brought forward by the change log to a moment, cut by phase.
//!
//! [`find_point`] finds the set and the piece of log that lead to a moment. [`plan()`] decides, from what is to come back and from what
//! stands at the target, how each collection comes back ([`Way`]); [`apply()`] re-checks what the plan took for granted, reads everything
//! it needs back before the first write, and hands its collections to `crate::placement`, which loads them beside their names, proves them,
//! and puts them in place last.
//!
//! Without a log each collection takes its steps by itself. With one, all are loaded, the log is replayed once into all of them, all are
//! proven against what the replay reckons they must hold, indexed, and only then put in place, one right after the other.
//!
//! Every step is journalled before it is taken: the same plan applied again after a kill continues. [`plan_abandon()`] and [`abandon()`] give
//! up a run and remove what it was loading.

mod abandon;
mod accounts;
mod apply;
mod content;
mod log;
mod plan;
mod point;
mod wanted;

pub use abandon::{AbandonReport, abandon, plan_abandon};
pub use apply::{MomentReport, RestoreContext, RestoreReport, apply};
pub use plan::{Basis, Renames, RestoreRequest, plan};
pub use point::{Moment, Point, PointContext, find_point};

pub use crate::placement::run::{Listing, UnfinishedRun, unfinished_runs};
pub use crate::placement::{ItemReport, Mode as RestoreMode, Way, needed_backup};

/// The registered name of giving up a restore.
pub const OPERATION_ABANDON: &str = "restore.abandon";
