//! The object store: immutable objects under text keys, in a local directory, in an S3-compatible service or in memory.
//!
//! Everything Mainstay keeps (backup sets, audit chain, journals, leases) goes through [`Store`]. It relies on the `object_store` crate
//! for the wire and the disk and adds what the house needs on top: validated [`Key`]s, create-only puts that survive a lost answer,
//! bounded streaming writers, errors in the house's vocabulary without credentials, and decorators ([`Store::read_only`],
//! [`Store::throttled`], [`Store::with_faults`]).
//!
//! One primitive carries all coordination: [`Store::put_new`] creates an object if and only if there is none under that key, atomically
//! and durably. Locally that is a hard link to a synced file, on S3 a `PUT` with `If-None-Match: *`.
//!
//! It refuses to interpret what it stores, to read the environment (settings come in through [`StoreOptions`]), and to accept a key or a
//! location that could lead outside of the store's root.

#[cfg(feature = "conformance")]
pub mod conformance;
mod failure;
mod faults;
mod key;
mod leftover;
mod location;
mod options;
mod reader;
mod s3;
mod store;
mod throttle;
mod writer;

pub use failure::outcome_is_open;
pub use faults::{Fault, Faults, Verb};
pub use key::Key;
pub use leftover::Leftover;
pub use location::Location;
pub use options::{RetryPolicy, S3Options, StoreOptions};
pub use reader::ObjectReader;
pub use store::{ObjectInfo, Store};
pub use writer::ObjectWriter;
