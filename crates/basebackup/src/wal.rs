//! Which files of WAL a range of positions lies in.

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
}
