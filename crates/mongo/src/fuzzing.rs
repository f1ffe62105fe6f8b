//! What a fuzzer calls: the parsers of this crate on any bytes. A broken promise panics; what a parser answers is of no interest.
//!
//! Foreign are the replies of a server, the oplog, the definitions in a dump or set, and the server's own log.

use bson::{Document, RawDocumentBuf};
use bytes::BytesMut;
use mainstay_engine::document_frames;
use mainstay_model::Secret;

use crate::extjson;
use crate::inspect;
use crate::load::refusals_of;
use crate::metadata::Metadata;
use crate::oplog;
use crate::page::Page;
use crate::raw;
use crate::wire::message::{HEADER_BYTES, Reply, decode_header};
use crate::wire::scram::{Begun, Scram};

/// The client's half of the nonce, which the corpus extends.
const NONCE: &str = "nonce";

/// A server's answer: header, message, and the batch inside.
///
/// # Panics
/// When a batch holds something else than it says.
pub fn reply(bytes: &[u8]) {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return };
    // A length that is accepted is what a reader would wait for; it gets what there is.
    let _ = decode_header(header, 1);
    let Ok(reply) = Reply::decode(BytesMut::from(rest)) else { return };
    let _ = refusals_of(reply.document());
    if let Ok(page) = Page::take(reply) {
        let frames: Vec<_> = document_frames(&page.bytes).collect();
        assert!(frames.iter().all(Result::is_ok), "a batch is not framed");
        assert_eq!(frames.len() as u64, page.documents, "a batch has another number of documents");
    }
}

/// Definitions as text, and documents as text and back.
///
/// # Panics
/// When what was written is not read as it was.
pub fn definitions(bytes: &[u8]) {
    if let Ok(document) = raw::as_document(bytes)
        && let Ok(text) = extjson::document_text(document)
        && let Ok(again) = extjson::parse_document(&text)
    {
        let again = raw::as_document(&again).map(extjson::document_text);
        assert!(matches!(again, Ok(Ok(again)) if again == text), "{text} does not come back");
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(metadata) = Metadata::parse(text)
        && let Ok(written) = metadata.to_text()
    {
        let again = Metadata::parse(&written).and_then(|metadata| metadata.to_text());
        assert!(again.is_ok_and(|again| again == written), "{written} does not come back");
    }
}

/// Entries of an oplog, surveyed to the end.
pub fn survey(bytes: &[u8]) {
    oplog::exercise_survey(bytes);
}

/// The first document changed by the second, a diff.
pub fn diff(bytes: &[u8]) {
    oplog::exercise_diff(bytes);
}

/// The messages of a server that somebody logs in to: the first to the line break, the last after it.
pub fn challenge(bytes: &[u8]) {
    let (first, last) = bytes.split_at(bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len()));
    for scram in [Scram::Sha1, Scram::Sha256] {
        let begun = Begun::with_nonce(scram, "user", NONCE.to_owned());
        if let Ok((proving, _)) = begun.prove(first, "user", &Secret::new("password")) {
            assert!(proving.verify(last.get(1..).unwrap_or_default()).is_err(), "a guess passed for a proof");
        }
    }
}

/// What a server says of its operations: entries of the profiler and of currentOp, lines of its log.
pub fn operations(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        inspect::exercise_line(text);
    }
    if let Ok(raw) = RawDocumentBuf::from_bytes(bytes.to_vec()) {
        inspect::exercise_profile(raw.clone());
        if let Ok(document) = Document::try_from(raw) {
            inspect::exercise_document(&document);
        }
    }
}
