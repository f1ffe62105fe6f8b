//! What a fuzzer calls: the walk over any bytes, and the cutting of them. A broken promise panics; what is said is of no interest.

use std::io::{self, Read};

use crate::manifest::LogManifest;
use crate::stream::Cutter;
use crate::walker::{Item, Walker};

/// A file, read at once and in small pieces, with its values passed over.
///
/// # Panics
/// When the pieces decide what comes out, or more is read than there is.
pub fn file(bytes: &[u8]) {
    let whole = walked(bytes, bytes.len());
    assert_eq!(whole, walked(Pieces(bytes), bytes.len()), "the pieces decide what comes out");
    // Behind a magic that is right, whatever the bytes begin with.
    let headed = [b"REDIS0012", bytes].concat();
    walked(&headed[..], headed.len());
    let headed = [b"VALKEY080", bytes].concat();
    walked(&headed[..], headed.len());
}

fn walked(source: impl Read, length: usize) -> (Vec<String>, String) {
    let mut walker = Walker::new(source);
    let mut seen = Vec::new();
    let verdict = loop {
        match walker.next_item() {
            Ok(Some(Item::Key(head))) => match walker.pass_value() {
                Ok(tail) => seen.push(format!("{head:?} {tail:?} up to {}", walker.offset())),
                Err(error) => break error.to_string(),
            },
            Ok(Some(item)) => seen.push(format!("{item:?}")),
            Ok(None) => break "whole".to_owned(),
            Err(error) => break error.to_string(),
        }
    };
    assert!(walker.offset() <= length as u64);
    (seen, verdict)
}

/// A replication stream, and a file of commands, taken at once and in small pieces; and the list of an append-only file.
///
/// # Panics
/// When the pieces decide what comes out, a boundary lies beyond what was taken, or a list that was read is none when it is written.
pub fn stream(bytes: &[u8]) {
    for cutter in [Cutter::new(0, None), Cutter::of_file()] {
        let whole = cut(cutter.clone(), bytes, usize::MAX);
        assert_eq!(whole, cut(cutter, bytes, 5), "the pieces decide what comes out");
    }
    if let Ok(list) = LogManifest::parse(bytes) {
        let again = LogManifest::parse(list.text().as_bytes());
        assert!(
            again.is_ok_and(|again| again.current().eq(list.current())),
            "it is another list when it is written"
        );
    }
}

fn cut(mut cutter: Cutter, bytes: &[u8], piece: usize) -> (Vec<String>, u64, String) {
    let mut seen = Vec::new();
    let mut verdict = "whole".to_owned();
    for piece in bytes.chunks(piece.min(bytes.len().max(1))) {
        let fed = cutter.feed(piece, |command| {
            assert!(command.begin < command.end && command.words.len() as u64 <= command.count);
            seen.push(format!("{command:?}"));
        });
        assert!(cutter.boundary() <= cutter.position() && cutter.position() <= bytes.len() as u64);
        if let Err(fault) = fed {
            verdict = fault.to_string();
            break;
        }
    }
    (seen, cutter.boundary(), verdict)
}

/// Gives seven bytes at a time.
struct Pieces<'b>(&'b [u8]);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(7);
        self.0.read(&mut buffer[..count])
    }
}
