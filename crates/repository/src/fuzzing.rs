//! What a fuzzer calls: everything that is read from a repository, on any bytes. A broken promise panics.

use std::sync::{Arc, OnceLock};

use mainstay_model::{Secret, sealed};
use serde_json::Value;

use crate::decode;
use crate::keys::Identities;
use crate::log::{Slice, with_arrivals, without_arrivals};
use crate::manifest::{Encryption, MANIFEST_FORMAT, Manifest};
use crate::repository::open_versioned;

/// A stored object, plain and encrypted to `identity`.
///
/// # Panics
/// When whole bytes are told as damaged in the store, or decode to more than was allowed; and when `identity` is none.
pub fn object(bytes: &[u8], identity: &str) {
    static IDENTITIES: OnceLock<Arc<Identities>> = OnceLock::new();
    let identities = IDENTITIES
        .get_or_init(|| Arc::new(Identities::parse(&[Secret::new(identity)]).expect("an identity is given")));
    decode::exercise(bytes, Encryption::None, identities);
    decode::exercise(bytes, Encryption::Age, identities);
}

/// A sealed record, as a manifest; and whatever its body is, sealed anew so that the reading goes on behind the seal.
///
/// # Panics
/// When what was sealed does not open.
pub fn record(bytes: &[u8]) {
    let _ = open_versioned::<Manifest>("manifest", "manifest.json", bytes, MANIFEST_FORMAT);
    let Ok(body) = serde_json::from_slice::<Value>(bytes) else { return };
    let body = body.get("body").cloned().unwrap_or(body);
    let Ok((sealed, _)) = sealed::seal("manifest", &body) else { return };
    let opened = sealed::open::<Value>("manifest", "manifest.json", &sealed);
    assert!(opened.is_ok_and(|(opened, _)| opened == body), "a sealed record does not open");
    let _ = open_versioned::<Manifest>("manifest", "manifest.json", &sealed, MANIFEST_FORMAT);
}

/// The name of a slice.
///
/// # Panics
/// When one that is accepted is not what would be written.
pub fn slice_name(bytes: &[u8]) {
    let Ok(name) = std::str::from_utf8(bytes) else { return };
    if let Some(slice) = Slice::parse(name, 0) {
        assert_eq!(slice.name(), name);
    }
}

/// A slice of a replication stream: a byte says how many bytes of stream it is said to hold, the rest is the slice.
///
/// # Panics
/// When what is accepted is not what would be written.
pub fn arrivals(bytes: &[u8]) {
    let Some((&length, plain)) = bytes.split_first() else { return };
    let (after, through) = (7, 7 + u64::from(length));
    if let Ok((stream, arrivals)) = without_arrivals(after, through, plain.to_vec().into()) {
        assert_eq!(stream.len() as u64, through - after);
        assert_eq!(with_arrivals(stream.as_ref().into(), &arrivals), plain);
    }
}
