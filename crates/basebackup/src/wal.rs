//! Files of WAL: which ones a range of positions lies in, and what a name means.

use std::fmt;

/// WAL that a backup needs, on one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalRange {
    /// The timeline.
    pub timeline: u32,
    /// The first position.
    pub begin: u64,
    /// The position after the last byte.
    pub end: u64,
}

/// The most files of WAL that are named for one backup; sixteen terabytes with the usual size.
const FILE_COUNT_MAX: u64 = 1 << 20;

impl WalRange {
    /// The names of the files that hold the range, for segments of `segment_bytes`; `None` when that is no range of a backup.
    pub(crate) fn files(&self, segment_bytes: u64) -> Option<impl Iterator<Item = String>> {
        let per_id = (1_u64 << 32).checked_div(segment_bytes).filter(|count| *count > 0)?;
        let (first, last) =
            (self.begin / segment_bytes, self.end.checked_sub(1)?.checked_div(segment_bytes)?);
        if self.begin >= self.end || last - first >= FILE_COUNT_MAX {
            return None;
        }
        let timeline = self.timeline;
        Some(
            (first..=last)
                .map(move |number| format!("{timeline:08X}{:08X}{:08X}", number / per_id, number % per_id)),
        )
    }
}

/// What a file of WAL is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalFile {
    /// A segment: 24 digits.
    Segment(WalSegment),
    /// How a timeline came about: `00000002.history`.
    History {
        /// The timeline.
        timeline: u32,
    },
}

/// A segment as its name tells it, which takes the length of segments to know its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalSegment {
    /// The timeline.
    pub timeline: u32,
    high: u32,
    low: u32,
}

impl WalFile {
    /// What the file called `name` is; `None` for everything else, such as partial segments and labels of backups.
    pub fn parse(name: &str) -> Option<Self> {
        let number = |digits: &str| {
            let is_hex = digits.len() == 8 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
            if is_hex { u32::from_str_radix(digits, 16).ok() } else { None }
        };
        if let Some(digits) = name.strip_suffix(".history") {
            return Some(Self::History { timeline: number(digits)? });
        }
        let (timeline, high, low) =
            (number(name.get(..8)?)?, number(name.get(8..16)?)?, number(name.get(16..)?)?);
        Some(Self::Segment(WalSegment { timeline, high, low }))
    }
}

impl WalSegment {
    /// The segment of `timeline` that holds `position`; `None` where no server numbers it.
    pub fn at(timeline: u32, position: u64, segment_bytes: u64) -> Option<Self> {
        let per_id = (1_u64 << 32).checked_div(segment_bytes).filter(|count| *count > 0)?;
        let number = position / segment_bytes;
        let half = |number: u64| u32::try_from(number).ok();
        Some(Self { timeline, high: half(number / per_id)?, low: half(number % per_id)? })
    }

    /// The position of its first byte, for segments of `segment_bytes`; `None` when there is no such segment.
    pub fn begin(&self, segment_bytes: u64) -> Option<u64> {
        let within = u64::from(self.low).checked_mul(segment_bytes).filter(|within| *within < 1 << 32)?;
        Some(u64::from(self.high) << 32 | within)
    }
}

/// The name of its file.
impl fmt::Display for WalSegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline, self.high, self.low)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_the_files_that_the_server_calls_so() {
        let files = |begin, end| -> Option<Vec<String>> {
            Some(WalRange { timeline: 2, begin, end }.files(16 << 20)?.collect())
        };
        assert_eq!(files(0x0200_0028, 0x0200_0120).unwrap(), ["000000020000000000000002"]);
        assert_eq!(
            files(0xFFFF_FFFF, 0x1_0000_0001).unwrap(),
            ["0000000200000000000000FF", "000000020000000100000000"]
        );
        assert_eq!(files(0x0200_0000, 0x0300_0000).unwrap().len(), 1, "the end is not in it");
        assert!(files(5, 5).is_none() && files(0, u64::MAX).is_none());
        assert!(WalRange { timeline: 1, begin: 0, end: 1 }.files(0).is_none());
    }

    #[test]
    fn a_name_says_what_a_file_is() {
        let Some(WalFile::Segment(segment)) = WalFile::parse("0000000200000001000000FE") else {
            panic!("a segment");
        };
        assert_eq!((segment.timeline, segment.begin(16 << 20)), (2, Some(0x1_FE00_0000)));
        assert_eq!(segment.to_string(), "0000000200000001000000FE");
        assert_eq!(WalSegment::at(2, 0x1_FE00_0001, 16 << 20), Some(segment));
        assert_eq!(WalSegment::at(2, 5, 0), None);
        assert_eq!(segment.begin(64 << 20), None, "there are 64 such segments in four gigabytes");
        assert_eq!(WalFile::parse("0000000A.history"), Some(WalFile::History { timeline: 10 }));
        for other in [
            "",
            "RECOVERYXLOG",
            "00000002000000010000000",
            "0000000200000001000000FE.partial",
            "0000000200000001000000FE.00000028.backup",
            "0000000200000001000000fe",
            "0000000a.history",
            "0000000200000001000000F\u{e9}",
        ] {
            assert_eq!(WalFile::parse(other), None, "{other}");
        }
    }
}
