//! Load of a dump in mongodump's formats: judged first, then brought like a restore.
//!
//! [`Dump::open`] reads a file or folder to its end and checks whatever the form lets it check, checksums included, before anything is
//! planned. [`plan()`] decides which collections are meant and how each comes; [`apply()`] re-reads the dump, compares it with what was judged,
//! and hands its collections to `crate::placement`: loaded beside their names, proven by digest, put in place last.
//!
//! A dump that comes through a pipe comes but once. Its collections are loaded beside their names and put in place when their checksums have
//! come and are right, so it can fill names that are free and nothing else: [`plan()`] refuses to replace or merge from it.
//!
//! What belongs to the server (`admin`, `config`, `local`, `system.*`) is left out, and told; users and roles are merged when asked for,
//! without removing anybody. A load that fails removes what it was loading beside the names; what is in place stays.

mod apply;
mod archive;
mod chunks;
mod directory;
mod dump;
mod feed;
mod oplog;
mod patterns;
mod plan;

pub use apply::{LoadContext, LoadReport, apply};
pub use dump::{Dump, DumpInput, PipeUse};
pub use oplog::OplogChoice;
pub use plan::{LoadRequest, dump_of, plan};

/// What happens to collections that exist.
pub use crate::placement::Mode as LoadMode;

/// The beginning of the registered names of loads.
pub const OPERATION: &str = "mongo.load";
