//! The captured WAL of PostgreSQL: what of it there is, along which timelines, and how a server gets its segments back.
//!
//! Slices are any ranges of bytes; [`log`] puts the chains of a server together, timeline by timeline, and says how far one gets without a
//! hole. [`seek`] decides, record by record, where a recovery would stop. [`fetch`] hands a recovering server the file that it asks for.
//! [`ranges`] says what can be restored. [`import`] brings what an archive has of the time before it was captured. Relies on every chain to begin where a segment begins, so that the segments of a timeline
//! are in chains of that timeline alone. Refuses to make up bytes: only the last segment of a timeline is filled up, with zeros, where
//! the log ends.

mod ahead;
pub mod fetch;
pub mod import;
pub(crate) mod log;
pub mod ranges;
pub(crate) mod seek;

use mainstay_model::{Lsn, Timestamp};

/// Seconds from 1970 to 2000, when the server's count of microseconds begins.
const EPOCH_SECONDS: i64 = 946_684_800;

/// The time of a record.
pub(crate) fn timestamp(at_us: i64) -> Option<Timestamp> {
    Timestamp::from_microsecond(at_us.checked_add(EPOCH_SECONDS * 1_000_000)?).ok()
}

/// The same in the server's count, for comparing.
pub(crate) fn microseconds(at: Timestamp) -> i64 {
    at.as_microsecond().saturating_sub(EPOCH_SECONDS * 1_000_000)
}

/// Where the segment of `position` begins.
pub(crate) fn segment_begin(position: Lsn, segment_bytes: u64) -> Lsn {
    Lsn(position.0 - position.0 % segment_bytes.max(1))
}
