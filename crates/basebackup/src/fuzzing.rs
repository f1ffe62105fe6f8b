//! What a fuzzer calls: the parsers of this crate on any bytes. A broken promise panics; what a parser answers is of no interest.

use crate::incremental::{Changed, Changes, IncrementalError, IncrementalReader};
use crate::judge::{ArchiveJudge, JudgeOptions};
use crate::label;
use crate::manifest::{Algorithm, Manifest};
use crate::record::{SegmentHeader, WalWalker};
use crate::tar::{Entry, EntryKind, TarError, TarReader, Visitor};
use crate::timeline::Lineage;
use crate::wal::WalFile;

/// An archive, as one of the data directory and as one of a tablespace, whole and in small pieces.
///
/// # Panics
/// When a path leads elsewhere, or the cut decides what comes out.
pub fn archive(bytes: &[u8]) {
    for place in [None, Some(16_400)] {
        let options =
            JudgeOptions { algorithm: Algorithm::Crc32c, pages_since: Some(1 << 24), incremental: true };
        let judged = |cut: usize| {
            let mut judge = ArchiveJudge::new(place, options);
            bytes.chunks(cut).for_each(|piece| judge.bytes(piece));
            let seen = judge.end();
            (seen.files, seen.links, seen.damaged_pages, seen.malformed, seen.label, seen.fault)
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

/// An incremental file, whole and in small pieces; and a label.
///
/// # Panics
/// When a block comes twice, out of a segment or behind its end, or the cut decides what comes out.
pub fn incremental(bytes: &[u8]) {
    let read = |cut: usize| {
        let (mut reader, mut places) = (IncrementalReader::new(bytes.len() as u64), Places::default());
        let pushed = bytes.chunks(cut).try_for_each(|piece| reader.push(piece, &mut places));
        (pushed.and_then(|()| reader.end()), places.begun, places.bytes)
    };
    let (whole, pieces) = (read(bytes.len().max(1)), read(700));
    assert_eq!(whole, pieces, "the cut decides what comes out");
    let _ = label::builds_on(bytes);
    assert_eq!(label::builds_on(&label::combined_label(bytes)), None);
}

/// Looks at where the blocks of an incremental file go.
#[derive(Default)]
struct Places {
    begun: Option<Changes>,
    end: u64,
    bytes: u64,
}

impl Changed for Places {
    type Fault = IncrementalError;

    fn changes(&mut self, changes: &Changes) -> Result<(), IncrementalError> {
        assert!(self.begun.is_none(), "changes are told twice");
        assert!(changes.length() <= 1 << 30 && changes.kept_bytes() <= changes.length());
        self.begun = Some(changes.clone());
        Ok(())
    }

    fn block_bytes(&mut self, at: u64, bytes: &[u8]) -> Result<(), IncrementalError> {
        assert!(!bytes.is_empty() && at >= self.end, "a byte comes twice");
        self.end = at + bytes.len() as u64;
        assert!(self.begun.as_ref().is_some_and(|changes| self.end <= changes.length()));
        self.bytes += bytes.len() as u64;
        Ok(())
    }
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
    if let Ok(header) = SegmentHeader::read(bytes) {
        assert!(header.position.is_multiple_of(header.segment_bytes));
        assert!(header.position.checked_add(header.segment_bytes).is_some());
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
