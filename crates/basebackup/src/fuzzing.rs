//! What a fuzzer calls: the parsers of this crate on any bytes. A broken promise panics; what a parser answers is of no interest.

use crate::judge::{ArchiveJudge, JudgeOptions};
use crate::manifest::{Algorithm, Manifest};
use crate::tar::{Entry, EntryKind, TarError, TarReader, Visitor};

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
