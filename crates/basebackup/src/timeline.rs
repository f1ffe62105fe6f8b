//! Timeline histories: which timelines lead to one, and where each branches off.
//!
//! A server that leaves recovery begins a new timeline and writes down, in a small file, which ones lead to it. Source: manual (18),
//! "Timelines"; the form of a line is parent, position, reason.

/// Where one timeline ends and the next of a lineage begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Branch {
    /// The timeline that ends.
    pub timeline: u32,
    /// The first position that is no longer its own.
    pub ends_at: u64,
}

/// A timeline with all that lead to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    /// The timeline.
    timeline: u32,
    /// Those before it, oldest first.
    ancestors: Vec<Branch>,
}

/// A file that is no history of its timeline.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the history of timeline {timeline} {what}")]
pub struct LineageError {
    timeline: u32,
    line: usize,
    what: &'static str,
}

impl Lineage {
    /// A timeline without a history: that of a server that never left recovery.
    pub fn without_history(timeline: u32) -> Self {
        Self { timeline, ancestors: Vec::new() }
    }

    /// Reads the history of `timeline`.
    ///
    /// # Errors
    /// For lines that name no timeline and position, or name them out of their order.
    pub fn read(timeline: u32, content: &[u8]) -> Result<Self, LineageError> {
        let mut ancestors: Vec<Branch> = Vec::new();
        for (index, line) in String::from_utf8_lossy(content).lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let fault = |what| LineageError { timeline, line: index + 1, what };
            let branch = branch(line).ok_or_else(|| fault("names no timeline and position"))?;
            let before = ancestors.last();
            let is_ordered = branch.timeline < timeline
                && before.is_none_or(|it| it.timeline < branch.timeline && it.ends_at <= branch.ends_at);
            if !is_ordered {
                return Err(fault("is out of its order"));
            }
            ancestors.push(branch);
        }
        Ok(Self { timeline, ancestors })
    }

    /// The timeline that all others lead to.
    pub fn timeline(&self) -> u32 {
        self.timeline
    }

    /// Those before it, oldest first.
    pub fn ancestors(&self) -> &[Branch] {
        &self.ancestors
    }

    /// All timelines, oldest first, each with the position where it begins, and that where it ends unless it is the last.
    pub fn parts(&self) -> Vec<(u32, u64, Option<u64>)> {
        let mut begin = 0;
        let mut parts = Vec::with_capacity(self.ancestors.len() + 1);
        for branch in &self.ancestors {
            parts.push((branch.timeline, begin, Some(branch.ends_at)));
            begin = branch.ends_at;
        }
        parts.push((self.timeline, begin, None));
        parts
    }

    /// Where `timeline` begins and ends within it; `None` when it does not lead here.
    pub fn part(&self, timeline: u32) -> Option<(u64, Option<u64>)> {
        let (_, begin, end) = self.parts().into_iter().find(|(number, _, _)| *number == timeline)?;
        Some((begin, end))
    }

    /// The timeline that follows `timeline`, and where it begins; `None` for the last, and for those that do not lead here.
    pub fn after(&self, timeline: u32) -> Option<(u32, u64)> {
        let parts = self.parts();
        let index = parts.iter().position(|(number, _, _)| *number == timeline)?;
        parts.get(index + 1).map(|(number, begin, _)| (*number, *begin))
    }

    /// The timeline that the byte at `position` belongs to.
    pub fn timeline_at(&self, position: u64) -> u32 {
        let before = self.ancestors.iter().find(|branch| position < branch.ends_at);
        before.map_or(self.timeline, |branch| branch.timeline)
    }

    /// Whether this lineage leads to `other`, or is the same.
    pub fn leads_to(&self, other: &Self) -> bool {
        if self.timeline == other.timeline {
            return self == other;
        }
        let before = other.ancestors.iter().position(|branch| branch.timeline == self.timeline);
        before.is_some_and(|index| other.ancestors[..index] == self.ancestors)
    }
}

/// Such as `1 0/3000148 no recovery target specified`, with tabs between.
fn branch(line: &str) -> Option<Branch> {
    let mut words = line.split_whitespace();
    let timeline = words.next()?.parse().ok().filter(|number| *number > 0)?;
    let (high, low) = words.next()?.split_once('/')?;
    let half = |digits| u32::from_str_radix(digits, 16).ok().map(u64::from);
    Some(Branch { timeline, ends_at: half(high)? << 32 | half(low)? })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const HISTORY: &[u8] = b"1\t0/3000148\tno recovery target specified\n\n# note\n2\t1/10\tbefore 2000\n";

    #[test]
    fn a_history_says_which_timeline_a_position_belongs_to() {
        let lineage = Lineage::read(5, HISTORY).unwrap();
        let parts =
            [(1, 0, Some(0x300_0148)), (2, 0x300_0148, Some(0x1_0000_0010)), (5, 0x1_0000_0010, None)];
        assert_eq!(lineage.parts(), parts);
        for (position, timeline) in
            [(0, 1), (0x300_0147, 1), (0x300_0148, 2), (0x1_0000_0010, 5), (u64::MAX, 5)]
        {
            assert_eq!(lineage.timeline_at(position), timeline, "{position}");
        }
        assert_eq!((lineage.after(1), lineage.after(5)), (Some((2, 0x300_0148)), None));
        assert_eq!((lineage.after(3), lineage.part(4)), (None, None));
        let first = Lineage::without_history(1);
        assert_eq!((first.timeline_at(7), first.parts()), (1, vec![(1, 0, None)]));
    }

    #[test]
    fn lineages_that_branched_elsewhere_do_not_lead_to_one_another() {
        let lineage = Lineage::read(5, HISTORY).unwrap();
        let leads =
            |timeline, content: &str| Lineage::read(timeline, content.as_bytes()).unwrap().leads_to(&lineage);
        assert!(leads(1, "") && leads(2, "1 0/3000148 x"));
        assert!(lineage.leads_to(&lineage));
        assert!(!leads(2, "1 0/3000150 x"), "another branch of the same number");
        assert!(!leads(3, "1 0/3000148 x") && !leads(5, "1 0/3000148 x"));
    }

    #[test]
    fn what_is_no_history_is_refused() {
        for bad in [
            "x",
            "1",
            "1 0",
            "1 0/x y",
            "0 0/1 y",
            "5 0/1 y",
            "2 0/1 a\n1 0/2 b",
            "1 0/9 a\n2 0/2 b",
            "-1 0/1 y",
        ] {
            assert!(Lineage::read(5, bad.as_bytes()).is_err(), "{bad}");
        }
        let error = Lineage::read(5, b"1 0/1 a\nnonsense").unwrap_err();
        assert_eq!(error.to_string(), "line 2 of the history of timeline 5 names no timeline and position");
    }
}
