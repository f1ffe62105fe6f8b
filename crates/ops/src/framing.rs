//! From chunks of plain bytes, cut anywhere, back to whole documents.
//!
//! Stored objects are concatenated documents; they come back in chunks whose borders mean nothing. [`Framer`] gives whole documents again
//! without copying those that lie inside one chunk; [`DocumentInspector`] checks the framing and the digest of an object that is only read.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use mainstay_engine::{DocumentBatch, DocumentDigest};
use mainstay_repository::Inspector;

/// The largest document a server makes: 16 MiB for users, a little more for its own.
const DOCUMENT_BYTES_MAX: usize = 16 * 1024 * 1024 + 16 * 1024;

/// Bytes that do not frame documents.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FramingError {
    /// A length that no document has.
    #[error("a document claims {0} bytes")]
    Length(i32),
    /// The last byte of a document is not NUL.
    #[error("a document of {0} bytes does not end in NUL")]
    Terminator(usize),
    /// The bytes end inside a document.
    #[error("the object ends inside a document, {0} bytes after its beginning")]
    Truncated(usize),
}

/// Cuts a stream of chunks into whole documents.
#[derive(Debug, Default)]
pub(crate) struct Framer {
    /// The beginning of a document whose rest has not come yet.
    partial: BytesMut,
}

/// The whole documents that a chunk completes.
struct Cut {
    /// The document that lay across the border before the chunk.
    across: Option<Bytes>,
    /// Where in the chunk the whole documents lie, and how many they are.
    inside: Range<usize>,
    documents: u64,
}

impl Framer {
    /// Takes the next chunk and gives the whole documents that it completes: at most two batches, the document that lay across the border
    /// (copied) and those inside the chunk (not copied).
    pub(crate) fn push(&mut self, chunk: &Bytes) -> Result<[Option<DocumentBatch>; 2], FramingError> {
        let Cut { across, inside, documents } = self.cut(chunk)?;
        let across = across.map(|bytes| DocumentBatch { bytes, documents: 1 });
        let inside = (documents > 0).then(|| DocumentBatch { bytes: chunk.slice(inside), documents });
        Ok([across, inside])
    }

    /// Checks that nothing is left over.
    pub(crate) fn end(self) -> Result<(), FramingError> {
        if self.partial.is_empty() { Ok(()) } else { Err(FramingError::Truncated(self.partial.len())) }
    }

    fn cut(&mut self, chunk: &[u8]) -> Result<Cut, FramingError> {
        let (across, begin) = self.complete_partial(chunk)?;
        let (bytes, documents) = whole_documents(&chunk[begin..])?;
        let inside = begin..begin + bytes;
        self.partial.extend_from_slice(&chunk[inside.end..]);
        Ok(Cut { across, inside, documents })
    }

    /// Takes bytes from the front of `chunk` until the partial document is whole; gives it and how many bytes were taken.
    fn complete_partial(&mut self, chunk: &[u8]) -> Result<(Option<Bytes>, usize), FramingError> {
        if self.partial.is_empty() {
            return Ok((None, 0));
        }
        let mut taken = self.take(chunk, 4);
        let Some(length) = document_length(&self.partial)? else { return Ok((None, taken)) };
        taken += self.take(&chunk[taken..], length);
        if self.partial.len() < length {
            return Ok((None, taken));
        }
        check_terminator(&self.partial)?;
        Ok((Some(self.partial.split().freeze()), taken))
    }

    /// Takes bytes from `chunk` until the partial document has `length` of them or the chunk is used up; gives how many.
    fn take(&mut self, chunk: &[u8], length: usize) -> usize {
        let missing = length.saturating_sub(self.partial.len()).min(chunk.len());
        self.partial.extend_from_slice(&chunk[..missing]);
        missing
    }
}

/// How many leading bytes of `chunk` are whole documents, and how many documents.
fn whole_documents(chunk: &[u8]) -> Result<(usize, u64), FramingError> {
    let (mut offset, mut documents) = (0, 0);
    while let Some(length) = document_length(&chunk[offset..])? {
        let Some(document) = chunk[offset..].get(..length) else { break };
        check_terminator(document)?;
        offset += length;
        documents += 1;
    }
    Ok((offset, documents))
}

/// The length that the document at the front claims; `None` when fewer than four bytes are there.
fn document_length(bytes: &[u8]) -> Result<Option<usize>, FramingError> {
    let Some(length) = bytes.first_chunk::<4>() else { return Ok(None) };
    let length = i32::from_le_bytes(*length);
    match usize::try_from(length) {
        Ok(length) if (5..=DOCUMENT_BYTES_MAX).contains(&length) => Ok(Some(length)),
        _ => Err(FramingError::Length(length)),
    }
}

fn check_terminator(document: &[u8]) -> Result<(), FramingError> {
    if document.last() == Some(&0) { Ok(()) } else { Err(FramingError::Terminator(document.len())) }
}

/// Checks a document object while it is read: every frame, and the digest of all documents where one is known.
pub(crate) struct DocumentInspector {
    expected: Option<DocumentDigest>,
    found: DocumentDigest,
    framer: Framer,
    fault: Option<FramingError>,
}

impl DocumentInspector {
    /// An inspector for an object whose documents should have the digest `expected`.
    pub(crate) fn new(expected: DocumentDigest) -> Self {
        Self { expected: Some(expected), ..Self::frames() }
    }

    /// An inspector for an object of which nothing is known but that it holds documents.
    pub(crate) fn frames() -> Self {
        Self { expected: None, found: DocumentDigest::default(), framer: Framer::default(), fault: None }
    }

    fn push(&mut self, plain: &[u8]) -> Result<(), FramingError> {
        let Cut { across, inside, .. } = self.framer.cut(plain)?;
        if self.expected.is_none() {
            return Ok(());
        }
        for documents in across.as_deref().into_iter().chain([&plain[inside]]) {
            self.found.add_concatenation(documents).expect("the framer gives framed documents");
        }
        Ok(())
    }
}

impl Inspector for DocumentInspector {
    fn bytes(&mut self, plain: &[u8]) {
        if self.fault.is_none() {
            self.fault = self.push(plain).err();
        }
    }

    fn end(self: Box<Self>) -> Vec<String> {
        let Self { expected, found, framer, fault } = *self;
        match fault.or_else(|| framer.end().err()) {
            Some(fault) => vec![fault.to_string()],
            None => match expected.filter(|expected| *expected != found) {
                Some(expected) => {
                    vec![format!("its documents have digest {found}, the manifest says {expected}")]
                }
                None => Vec::new(),
            },
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn documents() -> Vec<u8> {
        let mut bytes = Vec::new();
        for size in [5_usize, 8, 300, 5, 70] {
            let mut document = vec![0; size];
            document[..4].copy_from_slice(&i32::try_from(size).unwrap().to_le_bytes());
            bytes.extend(document);
        }
        bytes
    }

    #[test]
    fn any_cut_gives_the_same_documents() {
        let bytes = documents();
        let mut expected = DocumentDigest::default();
        expected.add_concatenation(&bytes).unwrap();
        for chunk_bytes in 1..=bytes.len() {
            let mut framer = Framer::default();
            let mut found = DocumentDigest::default();
            for chunk in bytes.chunks(chunk_bytes) {
                for batch in framer.push(&Bytes::copy_from_slice(chunk)).unwrap().into_iter().flatten() {
                    found.add_concatenation(&batch.bytes).unwrap();
                }
            }
            framer.end().unwrap();
            assert_eq!(found, expected, "chunks of {chunk_bytes}");
        }
    }

    #[test]
    fn faults_are_told() {
        let mut framer = Framer::default();
        assert_eq!(framer.push(&Bytes::from_static(&[4, 0, 0, 0])).unwrap_err(), FramingError::Length(4));
        let mut framer = Framer::default();
        framer.push(&Bytes::from_static(&[6, 0, 0])).unwrap();
        assert_eq!(framer.push(&Bytes::from_static(&[0, 0, 1])).unwrap_err(), FramingError::Terminator(6));
        let mut framer = Framer::default();
        framer.push(&Bytes::from_static(&[6, 0, 0, 0])).unwrap();
        assert_eq!(framer.end().unwrap_err(), FramingError::Truncated(4));
    }
}
