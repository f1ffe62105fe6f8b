//! Values in a server's replies, as far as they are decoded at all: servers say one number in several types.

use bson::{Bson, Document};

/// A count, of whatever numeric type it is; `None` for what is no number, or below zero.
pub(crate) fn count(value: &Bson) -> Option<u64> {
    match value {
        Bson::Int32(number) => u64::try_from(*number).ok(),
        Bson::Int64(number) => u64::try_from(*number).ok(),
        Bson::Double(number) if *number >= 0.0 => Some(*number as u64),
        _ => None,
    }
}

/// The [`count`] under `key`.
pub(crate) fn number(document: &Document, key: &str) -> Option<u64> {
    count(document.get(key)?)
}

/// The [`count`] at the end of a path of documents.
pub(crate) fn number_at(document: &Document, path: &[&str]) -> Option<u64> {
    let (last, folders) = path.split_last()?;
    let inner = folders.iter().try_fold(document, |inner, folder| inner.get_document(folder).ok())?;
    number(inner, last)
}

/// Bytes, those of a UUID say, as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn counts_are_read_of_every_numeric_type() {
        let reply = doc! { "a": 7, "b": 7_i64, "c": 7.9, "below": -1, "nan": f64::NAN, "text": "7", "in": { "side": 7 } };
        for key in ["a", "b", "c"] {
            assert_eq!(number(&reply, key), Some(7), "{key}");
        }
        for key in ["below", "nan", "text", "in", "nowhere"] {
            assert_eq!(number(&reply, key), None, "{key}");
        }
        assert_eq!(number_at(&reply, &["in", "side"]), Some(7));
        for path in [&["in"][..], &["a", "side"], &["nowhere", "side"], &[]] {
            assert_eq!(number_at(&reply, path), None, "{path:?}");
        }
        assert_eq!(hex(&[0, 10, 255]), "000aff");
    }
}
