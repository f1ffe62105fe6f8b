//! The server's change log: `local.oplog.rs`.

mod lens;
mod tail;

pub use lens::OplogLens;
