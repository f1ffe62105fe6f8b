//! A digest of a set of documents that does not depend on their order.
//!
//! Each document's bytes are hashed with XXH3 (128 bits); the digest is the number of documents, the sum of their bytes and the sum of
//! the hashes modulo 2^128. Equal sets give equal digests in whatever order and in however many parts they are read; digests of parts
//! add up. It tells accidents, not forgery: stored objects carry BLAKE3 for that.

use std::fmt;
use std::ops::{AddAssign, SubAssign};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::documents::{FrameError, document_frames};

/// The digest of a set of documents. Written `documents-bytes-32 hexadecimal digits`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DocumentDigest {
    /// How many documents.
    pub documents: u64,
    /// Their bytes, as BSON.
    pub bytes: u64,
    sum: u128,
}

impl DocumentDigest {
    /// Adds one document.
    pub fn add_document(&mut self, document: &[u8]) {
        self.documents += 1;
        self.bytes += document.len() as u64;
        self.sum = self.sum.wrapping_add(xxh3_128(document));
    }

    /// Adds every document of a concatenation.
    ///
    /// # Errors
    /// [`FrameError`] when `documents` is not a whole number of framed documents; what came before the fault has been added.
    pub fn add_concatenation(&mut self, documents: &[u8]) -> Result<(), FrameError> {
        for frame in document_frames(documents) {
            self.add_document(frame?);
        }
        Ok(())
    }
}

impl AddAssign for DocumentDigest {
    fn add_assign(&mut self, other: Self) {
        self.documents += other.documents;
        self.bytes += other.bytes;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

/// Takes documents out of a set that they are part of.
impl SubAssign for DocumentDigest {
    fn sub_assign(&mut self, other: Self) {
        self.documents = self.documents.wrapping_sub(other.documents);
        self.bytes = self.bytes.wrapping_sub(other.bytes);
        self.sum = self.sum.wrapping_sub(other.sum);
    }
}

/// Text that is not a document digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a document digest")]
pub struct ParseDigestError(String);

impl fmt::Display for DocumentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{:032x}", self.documents, self.bytes, self.sum)
    }
}

impl FromStr for DocumentDigest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, ParseDigestError> {
        let refuse = || ParseDigestError(text.to_owned());
        let mut parts = text.splitn(3, '-');
        let mut next = || parts.next().ok_or_else(refuse);
        let (documents, bytes, sum) = (next()?, next()?, next()?);
        Ok(Self {
            documents: documents.parse().map_err(|_| refuse())?,
            bytes: bytes.parse().map_err(|_| refuse())?,
            sum: u128::from_str_radix(sum, 16).map_err(|_| refuse())?,
        })
    }
}

impl TryFrom<String> for DocumentDigest {
    type Error = ParseDigestError;

    fn try_from(text: String) -> Result<Self, ParseDigestError> {
        text.parse()
    }
}

impl From<DocumentDigest> for String {
    fn from(digest: DocumentDigest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const EMPTY: &[u8] = &[5, 0, 0, 0, 0];
    const WITH_NULL: &[u8] = &[8, 0, 0, 0, 0x0A, b'a', 0, 0];

    #[test]
    fn order_and_partition_do_not_matter_but_content_does() {
        let mut whole = DocumentDigest::default();
        whole.add_concatenation(&[EMPTY, WITH_NULL, EMPTY].concat()).unwrap();
        let mut parts = DocumentDigest::default();
        for part in [WITH_NULL, EMPTY, EMPTY] {
            let mut digest = DocumentDigest::default();
            digest.add_document(part);
            parts += digest;
        }
        assert_eq!(whole, parts);
        assert_eq!(whole.to_string().parse::<DocumentDigest>().unwrap(), whole);
        let mut other = DocumentDigest::default();
        other.add_concatenation(&[WITH_NULL, WITH_NULL, EMPTY].concat()).unwrap();
        assert_ne!(whole, other);
        let mut exchanged = whole;
        let (mut empty, mut null) = (DocumentDigest::default(), DocumentDigest::default());
        empty.add_document(EMPTY);
        null.add_document(WITH_NULL);
        exchanged -= empty;
        exchanged += null;
        assert_eq!(exchanged, other);
    }
}
