//! What a fuzzer calls: the parsers of this crate on any bytes. A broken promise panics; what a parser answers is of no interest.

use crate::judge::{ArchiveJudge, JudgeOptions};
use crate::manifest::{Algorithm, Manifest};
use crate::record::WalWalker;
use crate::tar::{Entry, EntryKind, TarError, TarReader, Visitor};
use crate::timeline::Lineage;
use crate::wal::WalFile;

/// An archive, as one of the data directory and as one of a tablespace, whole and in small pieces.
///
/// # Panics
/// When a path leads elsewhere, or the cut decides what comes out.
pub fn archive(bytes: &[u8]) {
    for place in [None, Some(16_400)] {
        let options = JudgeOptions { algorithm: Algorithm::Crc32c, pages_since: Some(1 << 24) };
        let judged = |cut: usize| {
            let mut judge = ArchiveJudge::new(place, options);
            bytes.chunks(cut).for_each(|piece| judge.bytes(piece));
            let seen = judge.end();
            (seen.files, seen.links, seen.damaged_pages, seen.fault)
        };
        assert_eq!(judged(bytes.len().max(1)), judged(700), "the cut decides what comes out");
        let mut reader = TarReader::new(place);
        let _ = reader.push(bytes, &mut Paths);
    }
}

/// A manifest.
pub fn manifest(bytes: &[u8]) {
    if let Ok(manifest) = Manifest::read(bytes) {
        let _ = manifest.differences(None, &[], &[]);
        let _ = manifest.missing_wal(16 << 20, &[]);
    }
    // The seal of a changed manifest is wrong; what is behind it shall be read nevertheless.
    let _ = Manifest::read_unsealed(bytes);
}

/// WAL from a record on and from anywhere, whole and in small pieces; the same bytes as a history and as a name.
///
/// # Panics
/// When the cut decides what comes out.
pub fn wal(bytes: &[u8]) {
    const SEGMENT_BYTES: u64 = 1 << 20;
    for begin in [0, SEGMENT_BYTES + 40] {
        for synced in [true, false] {
            let walked = |cut: usize| {
                let mut walker = match synced {
                    true => WalWalker::at_record(begin, SEGMENT_BYTES),
                    false => WalWalker::anywhere(begin, SEGMENT_BYTES),
                };
                let mut seen = Vec::new();
                let outcome = bytes
                    .chunks(cut)
                    .try_for_each(|piece| walker.push(piece, &mut |record| seen.push(record)));
                (seen, outcome)
            };
            assert_eq!(walked(bytes.len().max(1)), walked(97), "the cut decides what comes out");
        }
    }
    if let Ok(lineage) = Lineage::read(7, bytes) {
        assert!(lineage.leads_to(&lineage));
        let _ = lineage.timeline_at(1 << 24);
    }
    let _ = std::str::from_utf8(bytes).ok().and_then(WalFile::parse);
}

/// Looks at paths.
struct Paths;

impl Visitor for Paths {
    type Fault = TarError;

    fn begin(&mut self, entry: Entry) -> Result<(), TarError> {
        let inside = !entry.path.starts_with('/')
            && entry.path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        assert!(inside, "{:?} leads elsewhere", entry.path);
        assert!(!entry.path.contains('\0'));
        let is_link = matches!(entry.kind, EntryKind::Link { .. });
        assert!(!is_link || entry.path.starts_with("pg_tblspc/"));
        Ok(())
    }

    fn bytes(&mut self, _bytes: &[u8]) -> Result<(), TarError> {
        Ok(())
    }

    fn end(&mut self) -> Result<(), TarError> {
        Ok(())
    }
}
