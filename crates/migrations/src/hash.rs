//! The hash that Drizzle stores.

use sha2::{Digest, Sha256};

/// The lowercase hexadecimal SHA-256 of a text, as Drizzle makes it: of the text after decoding, so that what was no UTF-8 is U+FFFD already.
/// Nothing else is made equal: neither ends of lines nor a byte order mark.
#[must_use]
pub fn hash(text: &str) -> String {
    use std::fmt::Write as _;
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// The hashes that a text has under the two ways of ending lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HashForms {
    /// With `\n`.
    lf: String,
    /// With `\r\n`.
    crlf: String,
}

impl HashForms {
    /// Both forms of `text`, whichever it has itself, or a mixture.
    pub(crate) fn of(text: &str) -> Self {
        let lf = text.replace("\r\n", "\n");
        let crlf = lf.replace('\n', "\r\n");
        Self { lf: hash(&lf), crlf: hash(&crlf) }
    }

    /// Whether a stored hash is that of the same text with other ends of lines.
    pub(crate) fn contains(&self, stored: &str) -> bool {
        self.lf == stored || self.crlf == stored
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_hashed_as_it_stands() {
        assert_eq!(hash(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_ne!(hash("a\n"), hash("a\r\n"));
        assert_ne!(hash("\u{feff}a"), hash("a"));
    }

    #[test]
    fn what_is_no_utf8_is_hashed_after_decoding() {
        // `printf 'select \xff' | node` through `readFileSync().toString()`.
        let text = String::from_utf8_lossy(b"select \xff");
        assert_eq!(hash(&text), hash("select \u{fffd}"));
        assert_eq!(text.len(), 10);
    }

    #[test]
    fn both_forms_are_known_from_either() {
        let forms = HashForms::of("a\r\nb\n");
        assert!(forms.contains(&hash("a\nb\n")) && forms.contains(&hash("a\r\nb\r\n")));
        assert!(!forms.contains(&hash("a\nb")));
    }
}
