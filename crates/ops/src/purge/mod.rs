//! Removing keys by pattern: counted first, by prefix, then removed in steps that keep the server free for others.
//!
//! [`plan()`] walks over the keys that match and says what they are; [`apply()`] walks again and removes what matches then. Between the two,
//! keys come and go: a plan is the pattern, and its numbers are what it meant when it was made. Relies on the store to list what is there from
//! beginning to end. Refuses patterns that match everything unless everything is asked for, and never removes the environment's marker.

mod apply;
mod glob;
mod plan;

pub use apply::{PurgeContext, PurgeReport, apply};
pub use glob::Glob;
pub use plan::{PurgeRequest, evidence, plan};

/// The registered name.
pub const OPERATION: &str = "redis.purge";
