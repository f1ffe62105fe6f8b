//! What one server of a cluster holds, where servers share the keys among them by slots.
//!
//! A copy of such a server is no copy of the cluster: whoever makes one, keeps this beside it and tells it.

use std::fmt;

use mainstay_model::Count;
use serde::{Deserialize, Serialize};

/// How many ranges of slots are told to people; a cluster that was resharded often has many.
const RANGE_COUNT_TOLD: usize = 8;

/// Slots that follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotRange {
    /// The first of them.
    pub first: u16,
    /// The last one, which belongs to them.
    pub last: u16,
}

impl SlotRange {
    fn count(self) -> u64 {
        u64::from(self.last.saturating_sub(self.first)) + 1
    }
}

impl fmt::Display for SlotRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// The part of a cluster that one server holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerPart {
    /// Its slots, in order; those of its primary where it is a replica. None where they are not known.
    pub slots: Vec<SlotRange>,
    /// The other servers that hold slots and take writes, as `host:port`; its own primary is not among them.
    pub others: Vec<String>,
}

impl ServerPart {
    /// How many slots a cluster has.
    pub const SLOT_COUNT: u64 = 16_384;

    /// How many slots the part has.
    pub fn slot_count(&self) -> u64 {
        self.slots.iter().map(|range| range.count()).fold(0, u64::saturating_add)
    }

    /// Whether it is told at all: a user may not be allowed to ask, and older sets do not say.
    pub fn is_known(&self) -> bool {
        !self.slots.is_empty() || !self.others.is_empty()
    }

    /// Whether nothing of the cluster lies elsewhere.
    pub fn is_whole(&self) -> bool {
        self.slot_count() >= Self::SLOT_COUNT
    }
}

/// `slots 0-8191 (8,192 of 16,384)`.
impl fmt::Display for ServerPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = Count(Self::SLOT_COUNT);
        if !self.is_known() {
            return write!(f, "some of {all} slots, and which ones is not known");
        }
        if self.slots.is_empty() {
            return write!(f, "none of {all} slots");
        }
        let told: Vec<String> = self.slots.iter().take(RANGE_COUNT_TOLD).map(SlotRange::to_string).collect();
        let more = match self.slots.len().saturating_sub(RANGE_COUNT_TOLD) {
            0 => String::new(),
            more => format!(" and {more} ranges more"),
        };
        write!(f, "slots {}{more} ({} of {all})", told.join(", "), Count(self.slot_count()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(ranges: &[(u16, u16)], others: &[&str]) -> ServerPart {
        ServerPart {
            slots: ranges.iter().map(|(first, last)| SlotRange { first: *first, last: *last }).collect(),
            others: others.iter().map(|other| (*other).to_owned()).collect(),
        }
    }

    #[test]
    fn a_part_is_told_in_ranges_and_in_numbers() {
        let many: Vec<(u16, u16)> = (0..10).map(|number| (number * 10, number * 10)).collect();
        for (part, told, is_whole) in [
            (part(&[(0, 16_383)], &[]), "slots 0-16383 (16,384 of 16,384)", true),
            (part(&[(0, 5_460), (9_000, 9_000)], &["h:1"]), "slots 0-5460, 9000 (5,462 of 16,384)", false),
            (
                part(&many, &["h:1"]),
                "slots 0, 10, 20, 30, 40, 50, 60, 70 and 2 ranges more (10 of 16,384)",
                false,
            ),
            (part(&[], &["h:1"]), "none of 16,384 slots", false),
            (part(&[], &[]), "some of 16,384 slots, and which ones is not known", false),
            (part(&[(7, 3)], &[]), "slots 7-3 (1 of 16,384)", false),
        ] {
            assert_eq!((part.to_string().as_str(), part.is_whole()), (told, is_whole));
        }
    }
}
