//! Load of a dump in mongodump's formats: judged first, then brought like a restore.
//!
//! [`Dump::open`] reads a file or folder to its end and checks whatever the form lets it check, checksums included, before anything is
//! planned. [`plan()`] decides which collections are meant and how each comes; [`apply()`] re-reads the dump, compares it with what was judged,
//! and hands its collections to `crate::placement`: loaded beside their names, proven by digest, put in place last.
//!
//! A dump that comes through a pipe comes but once. Its collections are loaded beside their names and put in place when their checksums have
//! come and are right, so it can fill names that are free and nothing else: [`plan()`] refuses to replace or merge from it.
//!
//! An oplog in the dump is replayed into its collections before they are put in place, so that they show the one moment that it leads to; see
//! `oplog`.
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
pub use dump::{Dump, DumpInput, Opening, PipeUse};
pub use oplog::{OplogChoice, OplogReport};
pub use plan::{LoadRequest, dump_of, plan};

use mainstay_engine::Namespace;

use crate::placement::SHADOW_PREFIX;

/// What happens to collections that exist.
pub use crate::placement::Mode as LoadMode;

/// The beginning of the registered names of loads.
pub const OPERATION: &str = "mongo.load";

/// Why a collection is not loaded whatever is asked for.
fn left_out_because(name: &Namespace) -> Option<&'static str> {
    let Namespace { database, collection } = name;
    match database.as_str() {
        "admin" | "config" | "local" => Some("it belongs to the server"),
        "mainstay" => Some("a marker must not travel to another environment"),
        _ if collection.starts_with("system.") && collection != "system.js" => {
            Some("it belongs to the server")
        }
        _ if collection.starts_with(SHADOW_PREFIX) => Some("it is what an unfinished restore was loading"),
        _ => None,
    }
}
