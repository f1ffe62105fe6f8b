//! The custom archives of `pg_dump` as bytes: what is in one, and what of it belongs to a selection.
//!
//! Opens nothing and waits for nothing. [`Toc::read`] reads the table of contents, which stands at the beginning of an archive, from as many
//! bytes as there are; [`Toc::select`] says which entries restore some schemas or tables, with everything they need. The rows behind it are
//! `pg_restore`'s business and never looked at. Every number and length of the archive is foreign: what does not fit is an error, and no
//! more is kept than there were bytes.
//!
//! Reads the versions 1.14 to 1.16 of the format, which PostgreSQL 12 to 18 write.

#[doc(hidden)]
pub mod fuzzing;
mod select;
mod toc;

pub use select::{NotInArchive, Wanted};
pub use toc::{Entry, TOC_BYTES_MAX, Toc, TocError};
