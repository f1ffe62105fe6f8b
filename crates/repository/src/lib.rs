//! Backup sets and change logs: objects compressed, encrypted and hashed on the way in, manifests written last, verify and removal of
//! leftovers.
//!
//! A [`Repository`] is a folder of an object store with a sealed description, `mainstay.json`. A backup is a *set*: objects written
//! through [`ObjectSink`], then one sealed [`Manifest`] that names each of them with its size and its BLAKE3. The manifest is written
//! last and create-only: **a set without a manifest does not exist**. Reading goes through [`ObjectSource`], which checks on the way
//! out what the manifest promises. `docs/repository-format.md` describes every key and field, and how to restore by hand.
//!
//! What servers record between backups is kept as *chains* of *slices* ([`Chain`], [`ChainWriter`]): a slice proves by its name what it
//! holds and which slice it continues.
//!
//! Relies on the store for durable create-only puts and on the journal for leases. Refuses to read data it cannot prove, to write
//! without the set's lease, and to remove anything that a manifest names. It knows nothing of databases: what an object means is its
//! writer's business, kept in [`ObjectEntry::role`] and in the manifest's `contents`.
//!
//! # Memory
//! Bounded by configuration, never by the size of an object. With `t` compression threads (frames are [`FRAME_BYTES`] = 2 MiB):
//! - per repository while writing: `2t + 2` frames between producer and store, each at most 2 MiB before and 2 MiB after compression,
//!   and per thread one zstd context (about 1 MiB at level 1, 3 MiB at level 3, 30 MiB at level 19) with one 2 MiB output buffer;
//! - per object being written: one frame being gathered (2 MiB), one being sealed (2 MiB, twice that when encrypted), and the store's
//!   parts in flight;
//! - per object being read: two chunks of the store's reader, the decoder's window (at most [`WINDOW_BYTES_MAX`] = 8 MiB, 2 MiB for
//!   what this version writes) and four plain chunks of [`CHUNK_BYTES`] = 1 MiB;
//! - per slice of a log being written or read: the whole of it, plain and stored, at most [`SLICE_BYTES_MAX`] each.

mod compress;
mod decode;
#[doc(hidden)]
pub mod fuzzing;
mod keys;
mod layout;
mod leftover;
mod log;
mod manifest;
mod options;
mod points;
mod reopen;
mod repository;
mod seal;
mod set;
mod sink;
mod source;
mod verify;
mod writer;

pub use compress::FRAME_BYTES;
pub use decode::{CHUNK_BYTES, WINDOW_BYTES_MAX};
pub use leftover::{Leftover, LeftoverKind};
pub use log::{
    Arrival, ArrivalFault, Chain, ChainBeginning, ChainDamage, ChainDescription, ChainEntry, ChainReason,
    ChainWriter, LogClaim, LogKind, LogReport, ReplicationChain, Run, SLICE_BYTES_MAX, SealedSlice, Slice,
    WalChain, with_arrivals, without_arrivals,
};
pub use manifest::{Encryption, MANIFEST_FORMAT, Manifest, ObjectCompression, ObjectEntry};
pub use options::{Compression, RepositoryOptions};
pub use points::{NamedPoint, NewPoint, PointEntry};
pub use reopen::{Interrupted, Reopened};
pub use repository::{REPOSITORY_FORMAT, Repository};
pub use set::{Set, SetEntry};
pub use sink::ObjectSink;
pub use source::ObjectSource;
pub use verify::{Inspector, Inspectors, SelectionReport, VerificationRecord, VerifyReport};
pub use writer::SetWriter;
