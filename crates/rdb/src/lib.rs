//! Redis's database file (RDB) as bytes: walked key by key, checked, never loaded.
//!
//! [`Walker`] reads from any [`std::io::Read`] — a file, a stored set, the link to a primary — and tells of each key its name, type, expiry,
//! idleness, number of elements and bytes, while the value itself is skipped. Memory is bounded by the
//! longest key name, whatever the values are. The checksum at the end is verified.
//!
//! Relies on RDB 1 to 12 (Redis up to 8.4) and on Valkey's version 80, told apart by the magic. Values have no length of their own: a type that
//! is not known here ends the walk with an error, because nothing behind it could be trusted. Bytes are foreign: lengths are believed only as
//! far as there are bytes, and whatever contradicts itself is an error, never a panic.
//!
//! [`stream`] does the same for what follows the file on a replication link.
//!
//! Source: the format as Redis 8.0 writes it (`rdb.h`, `rdb.c`, `listpack.c` describe it); no code of it is used.

mod fault;
#[doc(hidden)]
pub mod fuzzing;
mod input;
mod kind;
mod lzf;
pub mod manifest;
pub mod stream;
mod string;
mod value;
mod walker;

pub use fault::{Fault, WalkError};
pub use kind::{Encoding, FieldExpiry, Flavor, Kind};
pub use walker::{Item, KeyHead, KeyTail, Walker};

/// The longest name of a key that is read, in bytes. The server's own limit is 512 MiB; a name beyond this one is taken for damage.
pub const KEY_BYTES_MAX: u64 = 64 * 1024 * 1024;
