//! What a fuzzer calls: the parsers of this crate on any bytes. A broken promise panics; what a parser answers is of no interest.
//!
//! Foreign is whatever a server sends: its messages, what flows inside a copy, and the statements of its clients.

use bytes::{Bytes, BytesMut};

use crate::mask::mask;
use crate::replication::{self, Incoming, MESSAGE_BYTES_MAX};
use crate::script::queries;

/// A stream of messages of a server.
///
/// # Panics
/// When a message is longer than any may be, or more comes out than went in.
pub fn messages(bytes: &[u8]) {
    let mut buffer = BytesMut::from(bytes);
    let mut taken = 0;
    while let Ok(Some(message)) = Incoming::take(&mut buffer) {
        taken += 5;
        if let Incoming::Copy(piece) = &message {
            taken += piece.len();
            assert!(piece.len() < MESSAGE_BYTES_MAX, "a piece of {} bytes", piece.len());
        }
        assert!(taken <= bytes.len(), "more came out than went in");
        replication::exercise(message);
    }
}

/// A piece of a copy, of a base backup or of WAL, and the first message of a login with SCRAM.
pub fn copy(bytes: &[u8]) {
    replication::exercise_copy(&Bytes::copy_from_slice(bytes));
}

/// A statement as the server shows it, cut off anywhere; and the same as a file of queries.
///
/// # Panics
/// When a quote is left outside of a quoted name, or a text grows without reason.
pub fn statement(bytes: &[u8]) {
    let masked = mask(&String::from_utf8_lossy(bytes));
    // What stands between double quotes is a name.
    let outside = masked.split('"').step_by(2);
    assert!(outside.into_iter().all(|part| !part.contains('\'')), "a constant is left: {masked}");
    assert!(masked.len() <= bytes.len() * 8 + 8, "more came out than could");
    let asked = queries(bytes).unwrap_or_default();
    let taken: usize = asked.iter().map(|query| query.text.len()).sum();
    assert!(taken <= bytes.len(), "more queries came out than went in");
}
