//! The captured replication stream of Redis: which moments it leads to, where a moment lies in it, and the restore that goes there.
//!
//! A backup set shows a position of a stream; the chains behind it lead further ([`log`]). A moment is a position, or a time, which the index of
//! each slice turns into a position ([`seek`]); either ends at the last boundary between commands before it, outside transactions. [`restore`]
//! fills a server as its primary would: keys do not expire by today's clock while days-old changes are replayed. [`search`] finds what
//! emptied a database; [`undo`] brings keys from before that back; [`remarks`] tells what is to be known of a set.

pub(crate) mod log;
pub mod ranges;
pub mod remarks;
pub mod restore;
pub mod search;
pub mod seek;
pub mod undo;
