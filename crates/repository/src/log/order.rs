//! From the names in a chain's folder to what is read: decides, and does nothing else.

use std::collections::BTreeMap;

use mainstay_model::LogPosition;
use serde::Serialize;

use super::Slice;

/// A continuous part of a chain: everything after the first position, up to and including the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Run {
    /// Exclusive.
    pub after: LogPosition,
    /// Inclusive.
    pub through: LogPosition,
}

impl Run {
    /// Whether everything after `after`, up to and including `through`, lies within.
    pub fn covers(&self, after: LogPosition, through: LogPosition) -> bool {
        self.after <= after && after <= through && through <= self.through
    }
}

/// What is wrong with the slices of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainDamage {
    /// No slice holds what lies between: slices were removed.
    Missing(Run),
    /// A slice covers what others of the same writer cover, or begins where none ends: it was put there by somebody else, or what it
    /// continues was removed.
    Misplaced(Slice),
    /// A slice of no bytes, which no writer makes: its contents were lost. It is not read, so that a hole is where it was.
    Empty(Slice),
}

/// What the slices of a chain amount to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ordered {
    /// What is read, in order. Each continues the one before, unless `damage` says otherwise.
    pub(super) slices: Vec<Slice>,
    /// Harmless: a writer that had lost its lease put them beside others.
    pub(super) superseded: Vec<Slice>,
    pub(super) damage: Vec<ChainDamage>,
}

/// Orders the slices `found` of a chain that begins after `beginning`. Depends on nothing but the names.
pub(super) fn order(beginning: LogPosition, found: Vec<Slice>) -> Ordered {
    let (empty, mut found): (Vec<Slice>, Vec<Slice>) = found.into_iter().partition(|slice| slice.bytes == 0);
    found.sort_unstable_by(|one, other| {
        (one.after, one.through, one.token, one.blake3.to_string()).cmp(&(
            other.after,
            other.through,
            other.token,
            other.blake3.to_string(),
        ))
    });
    let reached = reach(&found);
    let mut ordered = Ordered::default();
    let mut left = vec![true; found.len()];
    let mut end = beginning;
    loop {
        follow(&found, &reached, &mut end, &mut left, &mut ordered.slices);
        // What lies past the end continues nothing.
        let Some(next) = (0..found.len()).find(|&index| left[index] && found[index].through > end) else {
            break;
        };
        if found[next].after > end {
            ordered.damage.push(ChainDamage::Missing(Run { after: end, through: found[next].after }));
        } else {
            ordered.damage.push(ChainDamage::Misplaced(found[next].clone()));
        }
        end = found[next].after;
    }
    let aside = found.into_iter().zip(left).filter_map(|(slice, left)| left.then_some(slice));
    set_aside(beginning, aside, &mut ordered);
    // What an empty slice held may have been captured once more.
    for slice in empty {
        if is_held(&ordered.slices, &slice) {
            ordered.superseded.push(slice);
        } else {
            ordered.damage.push(ChainDamage::Empty(slice));
        }
    }
    ordered
}

/// Whether `slices`, in order, hold without a hole what `lost` was to hold.
fn is_held(slices: &[Slice], lost: &Slice) -> bool {
    let mut at = lost.after;
    for slice in slices.iter().filter(|slice| slice.through > lost.after) {
        if at >= lost.through || slice.after > at {
            break;
        }
        at = slice.through;
    }
    at >= lost.through
}

/// How far one gets from each slice.
fn reach(found: &[Slice]) -> Vec<LogPosition> {
    let mut reached = vec![LogPosition(0); found.len()];
    let mut furthest_after: BTreeMap<LogPosition, LogPosition> = BTreeMap::new();
    for (index, slice) in found.iter().enumerate().rev() {
        reached[index] = furthest_after.get(&slice.through).copied().unwrap_or(slice.through);
        let furthest = furthest_after.entry(slice.after).or_insert(reached[index]);
        *furthest = reached[index].max(*furthest);
    }
    reached
}

/// Takes slices from `end` on, at a fork the one that gets furthest; among equals the one of the latest writer.
fn follow(
    found: &[Slice],
    reached: &[LogPosition],
    end: &mut LogPosition,
    left: &mut [bool],
    taken: &mut Vec<Slice>,
) {
    loop {
        let from = found.partition_point(|slice| slice.after < *end);
        let candidates = (from..found.len()).take_while(|&index| found[index].after == *end);
        let Some(best) = candidates.max_by_key(|&index| (reached[index], found[index].token, index)) else {
            return;
        };
        left[best] = false;
        *end = found[best].through;
        taken.push(found[best].clone());
    }
}

/// Tells harmless slices from misplaced ones among those that are not read.
fn set_aside(beginning: LogPosition, aside: impl Iterator<Item = Slice>, ordered: &mut Ordered) {
    for slice in aside {
        let from = ordered.slices.partition_point(|read| read.through <= slice.after);
        let beside = ordered.slices[from..].iter().take_while(|read| read.after < slice.through);
        let of_same_writer = beside.into_iter().any(|read| read.token == slice.token);
        if of_same_writer || slice.after < beginning {
            ordered.damage.push(ChainDamage::Misplaced(slice));
        } else {
            ordered.superseded.push(slice);
        }
    }
}

#[cfg(test)]
mod tests {
    use mainstay_model::Blake3;

    use super::super::LogKind;
    use super::*;
    use crate::Encryption;

    fn slice(after: u64, through: u64, token: u64) -> Slice {
        Slice {
            after: LogPosition(after),
            through: LogPosition(through),
            token,
            blake3: Blake3::of(format!("{after} {through} {token}").as_bytes()),
            kind: LogKind::Oplog,
            encryption: Encryption::None,
            bytes: 1,
        }
    }

    fn span(slice: &Slice) -> (u64, u64, u64) {
        (slice.after.0, slice.through.0, slice.token)
    }

    /// Where slices begin and end, and their tokens.
    type Spans = Vec<(u64, u64, u64)>;

    /// What is read, what is set aside, and the damage in words.
    type Told = (Spans, Spans, Vec<String>);

    fn told(found: &[(u64, u64, u64)]) -> Told {
        let found = found.iter().map(|&(after, through, token)| slice(after, through, token)).collect();
        let ordered = order(LogPosition(10), found);
        let damage = ordered.damage.iter().map(|damage| match damage {
            ChainDamage::Missing(run) => format!("missing {}-{}", run.after.0, run.through.0),
            ChainDamage::Misplaced(slice) => format!("misplaced {:?}", span(slice)),
            ChainDamage::Empty(slice) => format!("empty {:?}", span(slice)),
        });
        (
            ordered.slices.iter().map(span).collect(),
            ordered.superseded.iter().map(span).collect(),
            damage.collect(),
        )
    }

    #[test]
    fn a_slice_of_no_bytes_is_a_hole_unless_others_hold_the_same() {
        let lost = |after, through, token| Slice { bytes: 0, ..slice(after, through, token) };
        let at_the_end = order(LogPosition(10), vec![slice(10, 20, 1), lost(20, 30, 1)]);
        assert_eq!(at_the_end.slices, [slice(10, 20, 1)]);
        assert_eq!(at_the_end.damage, [ChainDamage::Empty(lost(20, 30, 1))]);

        let inside = order(LogPosition(10), vec![slice(10, 20, 1), lost(20, 30, 1), slice(30, 40, 1)]);
        let hole = Run { after: LogPosition(20), through: LogPosition(30) };
        assert_eq!(inside.damage, [ChainDamage::Missing(hole), ChainDamage::Empty(lost(20, 30, 1))]);

        let again = order(LogPosition(10), vec![slice(10, 20, 1), lost(20, 30, 1), slice(20, 35, 2)]);
        assert_eq!((again.damage, again.superseded), (vec![], vec![lost(20, 30, 1)]));
    }

    #[test]
    fn slices_are_read_from_the_beginning_and_what_does_not_fit_is_told() {
        let none = Vec::<String>::new();
        let text = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let cases: Vec<(&str, Spans, Told)> = vec![
            ("nothing yet", vec![], (vec![], vec![], none.clone())),
            (
                "two writers after each other",
                vec![(20, 30, 2), (10, 20, 1)],
                (vec![(10, 20, 1), (20, 30, 2)], vec![], none.clone()),
            ),
            (
                "a stale slice, shorter than what was read on from",
                vec![(10, 20, 1), (20, 23, 1), (20, 30, 2), (30, 40, 2)],
                (vec![(10, 20, 1), (20, 30, 2), (30, 40, 2)], vec![(20, 23, 1)], none.clone()),
            ),
            (
                "a stale slice that is longer than the first, but leads nowhere",
                vec![(10, 20, 1), (20, 35, 1), (20, 30, 2), (30, 40, 2)],
                (vec![(10, 20, 1), (20, 30, 2), (30, 40, 2)], vec![(20, 35, 1)], none.clone()),
            ),
            (
                "a stale slice of a later writer than the one that was gone on from",
                vec![(10, 20, 1), (20, 30, 1), (20, 25, 2), (30, 40, 3)],
                (vec![(10, 20, 1), (20, 30, 1), (30, 40, 3)], vec![(20, 25, 2)], none.clone()),
            ),
            (
                "the same range twice: the later writer's is read",
                vec![(10, 20, 1), (10, 20, 2)],
                (vec![(10, 20, 2)], vec![(10, 20, 1)], none.clone()),
            ),
            (
                "the first is missing",
                vec![(20, 30, 1)],
                (vec![(20, 30, 1)], vec![], text(&["missing 10-20"])),
            ),
            (
                "one in the middle is missing",
                vec![(10, 20, 1), (30, 40, 1), (40, 50, 1)],
                (vec![(10, 20, 1), (30, 40, 1), (40, 50, 1)], vec![], text(&["missing 20-30"])),
            ),
            (
                "one in the middle is missing and a stale one covers a part of it",
                vec![(10, 20, 2), (20, 25, 1), (30, 40, 2)],
                (vec![(10, 20, 2), (20, 25, 1), (30, 40, 2)], vec![], text(&["missing 25-30"])),
            ),
            (
                "one writer covers a position twice",
                vec![(10, 20, 1), (10, 30, 1)],
                (vec![(10, 30, 1)], vec![], text(&["misplaced (10, 20, 1)"])),
            ),
            (
                "a slice begins inside another and goes on past it",
                vec![(10, 20, 1), (15, 30, 1)],
                (vec![(10, 20, 1), (15, 30, 1)], vec![], text(&["misplaced (15, 30, 1)"])),
            ),
            (
                "a slice from before the beginning",
                vec![(5, 10, 1), (10, 20, 1)],
                (vec![(10, 20, 1)], vec![], text(&["misplaced (5, 10, 1)"])),
            ),
        ];
        for (what, found, expected) in cases {
            assert_eq!(told(&found), expected, "{what}");
            let reversed: Vec<_> = found.iter().rev().copied().collect();
            assert_eq!(told(&reversed), expected, "{what}, listed backwards");
        }
    }
}
