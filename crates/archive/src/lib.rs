//! The mongodump archive and directory layout, as code that only looks at bytes.
//!
//! Nothing here opens a file, asks a server or waits: whoever has the bytes hands them in and gets events or bytes back, with memory bounded
//! by the largest document and the list of collections, whatever the size of an archive. The documents themselves are never decoded and,
//! inside one chunk, never copied.
//!
//! ```text
//! archive := MAGIC prelude block*              end of stream; no trailer, no index
//! prelude := header-document meta-document* TERM
//! block   := namespace-document body-document* TERM
//! ```
//!
//! | module | what it is for |
//! |---|---|
//! | `reader` | bytes to events, every rule of the format checked, every fault named with its offset |
//! | `writer` | events to bytes, refusing what stock tools could not restore |
//! | `prelude` | the header, the entries, and which namespace an entry's documents lie under |
//! | `layout` | the directory form: file names, their escapes, `prelude.json` |
//! | `gzip` | members that are made and read by themselves, so that all cores work on one stream |
//! | `checksum` | CRC-64/XZ, which closes every namespace |
//!
//! The format has no version to speak of: this is what mongodump 100.x writes and mongorestore 100.x takes.

mod checksum;
mod document;
pub mod fuzzing;
pub mod gzip;
pub mod layout;
mod prelude;
mod reader;
mod writer;

pub use prelude::{Entry, EntryKind, Header, Prelude, Role};
pub use reader::{ArchiveReader, Event, Fault, NamespaceSum, ReadError, Summary};
pub use writer::{ArchiveWriter, WriteError};

/// The first four bytes of an archive.
pub const MAGIC: [u8; 4] = 0x8199_e26d_u32.to_le_bytes();

/// What ends the prelude and every block.
pub const TERMINATOR: [u8; 4] = [0xFF; 4];

/// The largest document that an archive carries.
pub const DOCUMENT_BYTES_MAX: usize = 16 * 1024 * 1024;
