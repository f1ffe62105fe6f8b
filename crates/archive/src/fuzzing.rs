//! What a fuzzer calls: the parsers of this crate on any bytes. A broken promise panics.

use std::io::Read as _;

use bytes::Bytes;

use crate::{ArchiveReader, Event, ReadError, Summary, gzip, layout};

/// Reads `bytes` as an archive in one piece and cut into pieces whose size the bytes themselves give: both must say the same.
///
/// # Panics
/// When they do not.
pub fn archive(bytes: &[u8]) {
    let piece_bytes = usize::from(bytes.last().copied().unwrap_or_default()) % 61 + 1;
    let whole = read(bytes, bytes.len().max(1));
    let pieces = read(bytes, piece_bytes);
    match (&whole, &pieces) {
        (Ok(one), Ok(other)) => assert_eq!(one, other, "pieces of {piece_bytes} bytes"),
        (Err(one), Err(other)) => assert_eq!(one, other, "pieces of {piece_bytes} bytes"),
        _ => panic!("whole: {whole:?}, in pieces of {piece_bytes} bytes: {pieces:?}"),
    }
}

/// Reads `bytes` as gzip, and as a file name of a dump.
pub fn gzip_and_names(bytes: &[u8]) {
    // A few bytes may stand for gigabytes; so many are enough to tell.
    drop(std::io::copy(&mut gzip::Decoder::new(bytes).take(1 << 20), &mut std::io::sink()));
    if gzip::member_length(bytes).is_some() {
        drop(gzip::inflate_member(bytes));
    }
    let Ok(name) = std::str::from_utf8(bytes) else { return };
    let told = layout::read_file_name(name).map_or(name, |(stem, _)| stem);
    if let Ok(layout::Stem::Name(collection)) = layout::read_stem(told) {
        let again = layout::read_stem(&layout::stem(&collection));
        assert!(
            matches!(again, Ok(layout::Stem::Cut)) || again == Ok(layout::Stem::Name(collection)),
            "{name:?} does not come back"
        );
    }
}

fn read(bytes: &[u8], piece_bytes: usize) -> Result<Summary, ReadError> {
    let mut reader = ArchiveReader::default();
    let mut seen = Vec::new();
    for piece in bytes.chunks(piece_bytes) {
        reader.push(Bytes::copy_from_slice(piece));
        while let Some(event) = reader.event()? {
            match event {
                Event::Prelude(prelude) => seen = vec![0; prelude.entries.len()],
                Event::Documents { entry, bytes, .. } => seen[entry] += bytes.len() as u64,
                Event::Opened { .. } | Event::Closed { .. } => {}
            }
        }
    }
    let summary = reader.end()?;
    assert_eq!(summary.entries.iter().map(|sum| sum.bytes).collect::<Vec<_>>(), seen, "bytes were lost");
    Ok(summary)
}
