//! Removing keys by pattern: counted first, by prefix, then removed in steps that keep the server free for others.
//!
//! [`plan()`] walks over the keys that match and says what they are; [`apply()`] walks again and removes what matches then. Between the two,
//! keys come and go: a plan is the pattern, and its numbers are what it meant when it was made. Where it is, is written down as it goes, so that
//! a run that was killed goes on where it was. Relies on the store to list what is there from
//! beginning to end. Refuses patterns that match everything unless everything is asked for, and never removes the environment's marker, nor keys of a
//! class that the project protects unless that class is named.

mod apply;
mod glob;
mod plan;

pub use apply::{PurgeContext, PurgeReport, apply};
pub use glob::Glob;
pub use plan::{NamesFile, PurgePlanning, PurgeRequest, UndoPoint, plan, undo_point};

pub use crate::keyfile::evidence;

/// The registered name.
pub const OPERATION: &str = "redis.purge";
