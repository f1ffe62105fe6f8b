//! The small documents that an archive is framed with: made from a few fields, and read without believing them.

use bson::raw::{RawBsonRef, RawDocument};

/// What is at the front of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Front {
    /// Fewer than four bytes.
    Short,
    /// The terminator.
    Terminator,
    /// A document of so many bytes, of which fewer may be there.
    Document(usize),
    /// A length that no document has.
    Neither(i32),
}

/// Looks at the first four bytes.
pub(crate) fn front(bytes: &[u8]) -> Front {
    let Some(first) = bytes.first_chunk::<4>() else { return Front::Short };
    if *first == crate::TERMINATOR {
        return Front::Terminator;
    }
    let length = i32::from_le_bytes(*first);
    match usize::try_from(length) {
        Ok(bytes) if (5..=crate::DOCUMENT_BYTES_MAX).contains(&bytes) => Front::Document(bytes),
        _ => Front::Neither(length),
    }
}

/// A document under construction.
pub(crate) struct DocumentWriter(Vec<u8>);

impl DocumentWriter {
    pub(crate) fn new() -> Self {
        Self(vec![0; 4])
    }

    pub(crate) fn text(mut self, key: &str, text: &str) -> Self {
        self.key(0x02, key);
        self.0.extend_from_slice(&length_of(text.len() + 1).to_le_bytes());
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
        self
    }

    pub(crate) fn flag(mut self, key: &str, flag: bool) -> Self {
        self.key(0x08, key);
        self.0.push(u8::from(flag));
        self
    }

    pub(crate) fn int(mut self, key: &str, number: i32) -> Self {
        self.key(0x10, key);
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    pub(crate) fn long(mut self, key: &str, number: i64) -> Self {
        self.key(0x12, key);
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    /// The whole document.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.0.push(0);
        let length = length_of(self.0.len()).to_le_bytes();
        self.0[..4].copy_from_slice(&length);
        self.0
    }

    fn key(&mut self, kind: u8, key: &str) {
        self.0.push(kind);
        self.0.extend_from_slice(key.as_bytes());
        self.0.push(0);
    }
}

/// A length as BSON writes it. What is too long for a document makes one that is refused for its size.
fn length_of(bytes: usize) -> i32 {
    i32::try_from(bytes).unwrap_or(i32::MAX)
}

/// The fields of a framing document, in its order.
///
/// # Errors
/// Text that says where it is broken.
pub(crate) fn fields(bytes: &[u8]) -> Result<Vec<(&str, RawBsonRef<'_>)>, String> {
    let document = RawDocument::from_bytes(bytes).map_err(|error| error.to_string())?;
    document
        .iter()
        .map(|field| field.map(|(key, value)| (key.as_str(), value)).map_err(|error| error.to_string()))
        .collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let bytes =
            DocumentWriter::new().text("a", "é").flag("b", true).int("c", -1).long("d", i64::MIN).finish();
        let fields = fields(&bytes).unwrap();
        assert_eq!(fields.iter().map(|(key, _)| *key).collect::<String>(), "abcd");
        assert_eq!(fields[0].1.as_str(), Some("é"));
        assert_eq!(fields[3].1.as_i64(), Some(i64::MIN));
        for end in 0..bytes.len() {
            assert!(super::fields(&bytes[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn fronts_are_told_apart() {
        assert_eq!(front(&[5, 0, 0]), Front::Short);
        assert_eq!(front(&[5, 0, 0, 0]), Front::Document(5));
        assert_eq!(front(&[4, 0, 0, 0, 9]), Front::Neither(4));
        assert_eq!(front(&[0, 0, 0, 1]), Front::Document(16 * 1024 * 1024));
        assert_eq!(front(&[1, 0, 0, 1]), Front::Neither(16 * 1024 * 1024 + 1));
        assert_eq!(front(&[0xFE, 0xFF, 0xFF, 0xFF]), Front::Neither(-2));
        assert_eq!(front(&[0xFF; 5]), Front::Terminator);
    }
}
