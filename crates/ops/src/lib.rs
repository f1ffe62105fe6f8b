//! The operations, cut by phase: plan (reads only), apply (does what the plan says), verify (proves it).
//!
//! Operations meet stores as the traits of `mainstay-engine` and never name an adapter; they never call one another, and they print
//! nothing: they return reports and tell an [`Observer`](mainstay_model::progress::Observer) how far they are.

pub mod activity;
pub mod append_only;
pub mod backup;
mod bounds;
pub mod capture;
mod classes;
pub mod cluster;
pub mod contention;
pub mod contents;
pub mod doctor;
pub mod dump;
mod framing;
pub mod index;
pub mod init;
mod inspect;
pub mod key_policy;
pub mod keyfile;
pub mod keyserver;
pub mod keyspace;
mod lease;
pub mod load;
pub mod logical;
pub mod named_point;
mod place;
mod placement;
pub mod profiler;
pub mod prune;
pub mod purge;
pub mod recoverable;
pub mod relational;
pub mod replication;
pub mod reset;
pub mod restore;
mod scan;
pub mod search;
mod selection;
pub mod shape;
pub mod slow;
pub mod sql;
pub mod statistics;
pub mod status;
pub mod verify;
pub mod wal;

pub use classes::{KeyClass, KeyClasses};
pub use lease::Holder;
pub use selection::Selection;
