//! What of an archive is brought, and what stays missing: decided from positions alone.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_model::Lsn;
use serde::{Deserialize, Serialize};

/// A segment that the archive holds, up to where it is of its timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) timeline: u32,
    pub(super) begin: u64,
    pub(super) end: u64,
}

/// A continuous part of one timeline that is brought. It begins where a segment begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportPart {
    /// The timeline.
    pub timeline: u32,
    /// The first position.
    pub from: Lsn,
    /// The position behind the last byte: that of a segment, or where the timeline ended.
    pub through: Lsn,
    /// In how many segments.
    pub segments: u64,
}

/// What neither archive nor repository has, between what they have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImportGap {
    /// The timeline.
    pub timeline: u32,
    /// The first position that is missing.
    pub from: Lsn,
    /// The first one that is there again.
    pub until: Lsn,
}

/// What repository and histories tell, by timeline.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// The continuous parts that are stored.
    pub(super) stored: BTreeMap<u32, Vec<(u64, u64)>>,
    /// Up to where a timeline that another one branches off from is needed: where the segment begins in which it branches off.
    pub(super) ends: BTreeMap<u32, u64>,
    /// Where the server went back to an earlier state: what lies before may be of another history than what lies behind, and no part has both.
    pub(super) turns: BTreeSet<(u32, u64)>,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Decided {
    pub(super) parts: Vec<ImportPart>,
    /// How many segments the repository has already.
    pub(super) known: u64,
    pub(super) gaps: Vec<ImportGap>,
}

/// Decides. `held` is in order.
pub(super) fn decide(held: &[Held], Known { stored, ends, turns }: &Known) -> Decided {
    let mut decided = Decided::default();
    let mut covered = stored.clone();
    // A partial segment may hold no whole record.
    for one in held.iter().filter(|one| one.begin < one.end) {
        let runs = stored.get(&one.timeline).map_or(&[][..], Vec::as_slice);
        covered.entry(one.timeline).or_default().push((one.begin, one.end));
        if reach(runs, one.begin) >= one.end {
            decided.known += 1;
            continue;
        }
        match decided.parts.last_mut() {
            Some(part)
                if part.timeline == one.timeline
                    && part.through.0 == one.begin
                    && !turns.contains(&(one.timeline, one.begin)) =>
            {
                part.through = Lsn(one.end);
                part.segments += 1;
            }
            _ => decided.parts.push(ImportPart {
                timeline: one.timeline,
                from: Lsn(one.begin),
                through: Lsn(one.end),
                segments: 1,
            }),
        }
    }
    for (timeline, mut runs) in covered {
        runs.sort_unstable();
        let Some(mut end) = runs.first().map(|(from, _)| *from) else { continue };
        for (from, through) in runs {
            if from > end {
                decided.gaps.push(ImportGap { timeline, from: Lsn(end), until: Lsn(from) });
            }
            end = end.max(through);
        }
        if let Some(needed) = ends.get(&timeline).copied().filter(|needed| end < *needed) {
            decided.gaps.push(ImportGap { timeline, from: Lsn(end), until: Lsn(needed) });
        }
    }
    decided
}

/// How far `runs` get from `from` on without a hole.
fn reach(runs: &[(u64, u64)], from: u64) -> u64 {
    let mut at = from;
    while let Some(through) =
        runs.iter().filter(|(begin, end)| *begin <= at && at < *end).map(|(_, end)| *end).max()
    {
        at = through;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(timeline: u32, begin: u64) -> Held {
        Held { timeline, begin, end: begin + 10 }
    }

    fn part(timeline: u32, from: u64, through: u64, segments: u64) -> ImportPart {
        ImportPart { timeline, from: Lsn(from), through: Lsn(through), segments }
    }

    fn gap(timeline: u32, from: u64, until: u64) -> ImportGap {
        ImportGap { timeline, from: Lsn(from), until: Lsn(until) }
    }

    #[test]
    fn what_is_not_there_is_brought_and_what_nobody_has_is_told() {
        let decided = |held: &[Held], stored: &[(u32, &[(u64, u64)])]| {
            let stored = stored.iter().map(|(timeline, runs)| (*timeline, runs.to_vec())).collect();
            decide(held, &Known { stored, ..Known::default() })
        };
        let archive = [held(1, 10), held(1, 20), held(1, 40), held(2, 40), held(2, 50)];
        assert_eq!(decided(&[], &[]), Decided::default());
        assert_eq!(
            decided(&archive, &[]),
            Decided {
                parts: vec![part(1, 10, 30, 2), part(1, 40, 50, 1), part(2, 40, 60, 2)],
                known: 0,
                gaps: vec![gap(1, 30, 40)],
            }
        );
        // The repository has what is missing, and a part of the last segment.
        assert_eq!(
            decided(&archive, &[(1, &[(30, 44)]), (2, &[(40, 60), (60, 65), (80, 90)])]),
            Decided {
                parts: vec![part(1, 10, 30, 2), part(1, 40, 50, 1)],
                known: 2,
                gaps: vec![gap(2, 65, 80)],
            }
        );
        // All of it was brought before; a segment in the middle splits what is left.
        assert_eq!(decided(&archive[..2], &[(1, &[(10, 20), (20, 30)])]).known, 2);
        assert_eq!(
            decided(&[held(1, 10), held(1, 20), held(1, 30)], &[(1, &[(20, 30)])]).parts,
            [part(1, 10, 20, 1), part(1, 30, 40, 1)]
        );
        // Where a timeline ended in the middle of a segment.
        let ended = Held { timeline: 1, begin: 20, end: 27 };
        assert_eq!(decided(&[held(1, 10), ended], &[]).parts, [part(1, 10, 27, 2)]);
        assert_eq!(decided(&[held(1, 10), ended], &[(1, &[(20, 27)])]).parts, [part(1, 10, 20, 1)]);
        // What holds no whole record is neither brought nor known.
        let empty = Held { timeline: 1, begin: 20, end: 20 };
        assert_eq!(
            decided(&[held(1, 10), empty], &[]),
            Decided { parts: vec![part(1, 10, 20, 1)], ..Decided::default() }
        );
        assert_eq!(decided(&[empty], &[]), Decided::default());
    }

    #[test]
    fn what_was_brought_behind_a_turn_is_not_brought_again() {
        let archive = [held(1, 10), held(1, 20), held(1, 30), held(1, 40)];
        let decided = |runs: &[(u64, u64)]| {
            let turns = BTreeSet::from([(1, 30), (2, 20)]);
            let stored = BTreeMap::from([(1, runs.to_vec())]);
            decide(&archive, &Known { stored, turns, ..Known::default() })
        };
        assert_eq!(decided(&[]).parts, [part(1, 10, 30, 2), part(1, 30, 50, 2)]);
        // The server went back to 30, and its capture was overrun after 34.
        assert_eq!(decided(&[(10, 30), (30, 34)]).parts, [part(1, 30, 50, 2)]);
        let again = decided(&[(10, 30), (30, 34), (30, 50)]);
        assert_eq!((again.parts, again.known, again.gaps), (Vec::new(), 4, Vec::new()));
    }

    #[test]
    fn what_is_missing_before_the_next_timeline_branches_off_is_told() {
        /// What the archive holds, what is stored, where timelines end, what is missing then.
        type Case<'a> = (&'a [Held], &'a [(u64, u64)], &'a [(u32, u64)], &'a [ImportGap]);
        let cases: [Case<'_>; 5] = [
            (&[held(1, 10), held(2, 30)], &[], &[(1, 30)], &[gap(1, 20, 30)]),
            (&[held(1, 10), held(1, 20), held(2, 30)], &[], &[(1, 30)], &[]),
            (&[held(1, 10), held(2, 30)], &[(20, 30)], &[(1, 30)], &[]),
            // The repository has the end of what the archive has the beginning of.
            (&[held(2, 30)], &[(10, 20)], &[(1, 30)], &[gap(1, 20, 30)]),
            // Of a timeline that nobody has anything of nothing is missing.
            (&[held(2, 30)], &[], &[(1, 30)], &[]),
        ];
        for (held, stored, ends, expected) in cases {
            let stored = BTreeMap::from([(1, stored.to_vec())]);
            let known = Known { stored, ends: ends.iter().copied().collect(), ..Known::default() };
            assert_eq!(decide(held, &known).gaps, expected, "{held:?} {known:?}");
        }
    }
}
