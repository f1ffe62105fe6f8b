//! The checksum that closes a namespace: CRC-64/XZ over its documents, in the order of the stream.

use crc_fast::{CrcAlgorithm, Digest};

/// A checksum under way.
#[derive(Debug, Clone)]
pub(crate) struct Checksum(Option<Digest>);

impl Checksum {
    /// That of nothing.
    pub(crate) const EMPTY: Self = Self(None);

    /// Adds bytes.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.0.get_or_insert_with(|| Digest::new(CrcAlgorithm::Crc64Xz)).update(bytes);
    }

    /// The checksum so far; 0 for no bytes.
    pub(crate) fn value(&self) -> u64 {
        self.0.as_ref().map_or(0, Digest::finalize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_catalogue_comes_out_however_it_is_cut() {
        assert_eq!(Checksum::EMPTY.value(), 0);
        for cut in 0..=9 {
            let (head, tail) = b"123456789".split_at(cut);
            let mut checksum = Checksum::EMPTY;
            checksum.add(head);
            checksum.add(tail);
            assert_eq!(checksum.value(), 0x995D_C9BB_DF19_39FA, "cut at {cut}");
        }
    }
}
