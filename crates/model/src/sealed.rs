//! Sealed JSON: small objects that tell by themselves whether a byte of them has changed.
//!
//! A sealed object is one line of canonical JSON: `{"blake3":…,"body":…,"format":1,"kind":…}` and a newline. `blake3` is the hash of the
//! same text without the member `blake3`. Reading accepts exactly the bytes that writing would make, so that any changed, added or missing byte is
//! found, whether or not it changes what the JSON means.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Blake3, Error, ErrorKind, Result, canonical};

/// The version of the envelope.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    blake3: Blake3,
    body: Value,
    format: u32,
    kind: String,
}

/// What the seal covers.
#[derive(Serialize)]
struct Covered<'a> {
    body: &'a Value,
    format: u32,
    kind: &'a str,
}

/// The sealed bytes of `body`, and the hash that seals it.
///
/// # Errors
/// [`ErrorKind::Internal`] when the body has no canonical JSON form.
pub fn seal<T: Serialize>(kind: &str, body: &T) -> Result<(Vec<u8>, Blake3)> {
    let body = serde_json::to_value(body).map_err(|source| {
        Error::new(ErrorKind::Internal, format!("{kind} has no JSON form")).with_source(source)
    })?;
    let blake3 = canonical::hash(&Covered { body: &body, format: FORMAT, kind })?;
    let envelope = Envelope { blake3, body, format: FORMAT, kind: kind.to_owned() };
    let mut text = canonical::to_string(&envelope)?;
    text.push('\n');
    Ok((text.into_bytes(), blake3))
}

/// The body inside `bytes`, and the hash that seals it. `name` says in errors which object it was.
///
/// # Errors
/// [`ErrorKind::Corrupt`] when any byte differs from what [`seal`] made or the kind is another; [`ErrorKind::Unsupported`] when a newer
/// version wrote it.
pub fn open<T: DeserializeOwned>(kind: &str, name: &str, bytes: &[u8]) -> Result<(T, Blake3)> {
    let corrupt = |why: String| {
        Error::new(ErrorKind::Corrupt, format!("{name} is damaged: {why}"))
            .with_hint("restore this object from an off-site copy, or take a new backup".to_owned())
    };
    let envelope: Envelope =
        serde_json::from_slice(bytes).map_err(|error| corrupt(format!("not a sealed object ({error})")))?;
    let Envelope { body, format, kind: found_kind, .. } = &envelope;
    let covered = Covered { body, format: *format, kind: found_kind };
    if canonical::hash(&covered).map_err(|error| corrupt(error.to_string()))? != envelope.blake3 {
        return Err(corrupt("its content does not match its hash".to_owned()));
    }
    if found_kind != kind {
        return Err(corrupt(format!("it is a sealed {found_kind}, not a {kind}")));
    }
    if *format != FORMAT {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("{name} has envelope format {format}; this version reads format {FORMAT}"),
        )
        .with_hint("use a newer mainstay"));
    }
    let canonical = canonical::to_string(&envelope).map_err(|error| corrupt(error.to_string()))?;
    if canonical.as_bytes() != bytes.strip_suffix(b"\n").unwrap_or(b"") {
        return Err(corrupt("it has bytes that mainstay did not write".to_owned()));
    }
    let Envelope { blake3, body, .. } = envelope;
    let body = serde_json::from_value(body).map_err(|error| {
        corrupt(format!("its seal is whole but it is no {kind} of this version ({error})"))
    })?;
    Ok((body, blake3))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let (bytes, hash) =
            seal("manifest", &json!({"name": "shöp", "count": 12, "list": [true, null]})).unwrap();
        let (body, read): (Value, _) = open("manifest", "m", &bytes).unwrap();
        assert_eq!((body["count"].as_u64(), read), (Some(12), hash));
        for index in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[index] ^= 1 << bit;
                let error = open::<Value>("manifest", "m", &damaged).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {index} bit {bit}");
            }
            assert!(open::<Value>("manifest", "m", &bytes[..index]).is_err(), "cut at {index}");
        }
        let padded = [bytes.as_slice(), b" "].concat();
        assert!(open::<Value>("manifest", "m", &padded).is_err());
    }

    #[test]
    fn one_kind_is_not_taken_for_another() {
        let (bytes, _) = seal("lease", &json!({})).unwrap();
        assert_eq!(open::<Value>("manifest", "m", &bytes).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
