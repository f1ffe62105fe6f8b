//! BSON as bytes: walking the elements of a document, and putting elements together, without decoding values.
//!
//! The scan and load paths look at a handful of fields of documents that pass by millions; whatever they take out (an `_id`, a resume
//! token, the batch of a reply) must come back byte for byte. The walk checks every length against what is left, so that foreign bytes
//! give [`Malformed`] and never a panic. It refuses to interpret values: text may be any bytes, and depth is not followed.

use bson::RawDocument;
use mainstay_model::OpTime;

/// Element types that are looked for by number. The list of all is in the BSON specification, version 1.1.
pub(crate) mod kind {
    pub(crate) const DOUBLE: u8 = 0x01;
    pub(crate) const STRING: u8 = 0x02;
    pub(crate) const DOCUMENT: u8 = 0x03;
    pub(crate) const ARRAY: u8 = 0x04;
    pub(crate) const BINARY: u8 = 0x05;
    pub(crate) const BOOLEAN: u8 = 0x08;
    pub(crate) const NULL: u8 = 0x0A;
    pub(crate) const INT32: u8 = 0x10;
    pub(crate) const TIMESTAMP: u8 = 0x11;
    pub(crate) const INT64: u8 = 0x12;
}

/// Bytes that are not a BSON document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed BSON at byte {offset}: {what}")]
pub(crate) struct Malformed {
    /// Where, from the beginning of the document walked.
    pub(crate) offset: usize,
    /// What is wrong there.
    pub(crate) what: &'static str,
}

/// One element of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Element<'a> {
    /// Its type byte.
    pub(crate) kind: u8,
    /// Its name without the NUL.
    pub(crate) key: &'a [u8],
    /// Its value's bytes.
    pub(crate) value: &'a [u8],
    /// Where the value begins, from the beginning of the document.
    pub(crate) offset: usize,
}

impl<'a> Element<'a> {
    /// A number of any width, if it is one.
    pub(crate) fn number(&self) -> Option<i64> {
        match self.kind {
            kind::INT32 => self.value.try_into().ok().map(i32::from_le_bytes).map(i64::from),
            kind::INT64 => self.value.try_into().ok().map(i64::from_le_bytes),
            kind::DOUBLE => self.value.try_into().ok().map(f64::from_le_bytes).map(|number| number as i64),
            kind::BOOLEAN => self.value.first().map(|byte| i64::from(*byte)),
            _ => None,
        }
    }

    /// The text of a string, if it is one and valid UTF-8.
    pub(crate) fn text(&self) -> Option<&'a str> {
        let value = self.value;
        let bytes = (self.kind == kind::STRING).then(|| value.get(4..value.len() - 1))??;
        std::str::from_utf8(bytes).ok()
    }

    /// A document `{<key>: <value>}` that holds this element alone, under another name.
    pub(crate) fn alone(&self, key: &str) -> Vec<u8> {
        let mut document = DocumentWriter::new();
        document.element(self.kind, key, self.value);
        document.finish()
    }

    /// The position in a timestamp, if it is one.
    pub(crate) fn optime(&self) -> Option<OpTime> {
        let bytes: [u8; 8] = (self.kind == kind::TIMESTAMP).then(|| self.value.try_into().ok())??;
        let number = u64::from_le_bytes(bytes);
        Some(OpTime { seconds: (number >> 32) as u32, increment: number as u32 })
    }
}

/// The elements of `document` in order; ends after the first fault. The document's own length must be that of the slice.
pub(crate) fn elements(document: &[u8]) -> Elements<'_> {
    let framed = document
        .first_chunk::<4>()
        .map(|length| i32::from_le_bytes(*length))
        .and_then(|length| usize::try_from(length).ok())
        == Some(document.len())
        && document.len() >= 5
        && document.last() == Some(&0);
    Elements { document, offset: 4, state: if framed { State::Walking } else { State::Unframed } }
}

/// The first element named `key`.
pub(crate) fn find<'a>(document: &'a [u8], key: &str) -> Result<Option<Element<'a>>, Malformed> {
    for element in elements(document) {
        let element = element?;
        if element.key == key.as_bytes() {
            return Ok(Some(element));
        }
    }
    Ok(None)
}

/// The document's `_id`. Almost always the first element, so that this costs one step.
pub(crate) fn id_of(document: &[u8]) -> Result<Option<Element<'_>>, Malformed> {
    find(document, "_id")
}

/// `bytes` as the driver's raw document; the framing has been checked by whoever made them.
pub(crate) fn as_document(bytes: &[u8]) -> Result<&RawDocument, Malformed> {
    RawDocument::from_bytes(bytes).map_err(|_| Malformed { offset: 0, what: "not framed as a document" })
}

/// See [`elements`].
pub(crate) struct Elements<'a> {
    document: &'a [u8],
    offset: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Walking,
    Unframed,
    Ended,
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Element<'a>, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match self.state {
            State::Ended => return None,
            State::Unframed => {
                self.state = State::Ended;
                return Some(Err(Malformed { offset: 0, what: "length or final NUL" }));
            }
            State::Walking => {}
        }
        let item = self.step();
        if !matches!(item, Some(Ok(_))) {
            self.state = State::Ended;
        }
        item
    }
}

impl<'a> Elements<'a> {
    #[inline]
    fn step(&mut self) -> Option<Result<Element<'a>, Malformed>> {
        let end = self.document.len() - 1;
        if self.offset == end {
            return None;
        }
        let start = self.offset;
        let fault = |what| Some(Err(Malformed { offset: start, what }));
        let body = &self.document[..end];
        let kind = body[start];
        let Some(key_length) = body[start + 1..].iter().position(|byte| *byte == 0) else {
            return fault("name without end");
        };
        let offset = start + 1 + key_length + 1;
        let Some(length) = value_length(kind, &body[offset..]) else {
            return fault("value of unknown type or length");
        };
        let Some(value) = body.get(offset..offset.saturating_add(length)) else {
            return fault("value beyond the end");
        };
        self.offset = offset + length;
        Some(Ok(Element { kind, key: &body[start + 1..start + 1 + key_length], value, offset }))
    }
}

/// How long a value of type `kind` is that begins `rest`; `None` when the type is unknown or a length impossible.
#[inline]
fn value_length(kind: u8, rest: &[u8]) -> Option<usize> {
    let prefixed =
        || rest.first_chunk::<4>().and_then(|length| usize::try_from(i32::from_le_bytes(*length)).ok());
    let text = || prefixed().filter(|length| *length >= 1).map(|length| 4 + length);
    let document = || prefixed().filter(|length| *length >= 5);
    let c_string = |rest: &[u8]| rest.iter().position(|byte| *byte == 0).map(|length| length + 1);
    match kind {
        0x06 | 0x0A | 0xFF | 0x7F => Some(0),
        0x08 => Some(1),
        0x10 => Some(4),
        0x01 | 0x09 | 0x11 | 0x12 => Some(8),
        0x07 => Some(12),
        0x13 => Some(16),
        0x02 | 0x0D | 0x0E => text(),
        0x03 | 0x04 => document(),
        0x05 => prefixed().map(|length| 4 + 1 + length),
        0x0B => {
            let pattern = c_string(rest)?;
            Some(pattern + c_string(&rest[pattern..])?)
        }
        0x0C => text().map(|length| length + 12),
        0x0F => prefixed().filter(|length| *length >= 14),
        _ => None,
    }
}

/// Puts a document together from elements whose values are bytes already.
#[derive(Debug)]
pub(crate) struct DocumentWriter(Vec<u8>);

impl DocumentWriter {
    /// An empty document.
    pub(crate) fn new() -> Self {
        Self(vec![0; 4])
    }

    /// Appends one element. `key` must not contain NUL.
    pub(crate) fn element(&mut self, kind: u8, key: &str, value: &[u8]) {
        self.raw_element(kind, key.as_bytes(), value);
    }

    /// As [`DocumentWriter::element`], for a name that may be any bytes.
    pub(crate) fn raw_element(&mut self, kind: u8, key: &[u8], value: &[u8]) {
        debug_assert!(!key.contains(&0), "a name inside BSON ends at NUL");
        self.0.push(kind);
        self.0.extend_from_slice(key);
        self.0.push(0);
        self.0.extend_from_slice(value);
    }

    /// The whole document.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.0.push(0);
        let length = i32::try_from(self.0.len()).expect("a document put together here is far below 2 GiB");
        self.0[..4].copy_from_slice(&length.to_le_bytes());
        self.0
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use bson::oid::ObjectId;
    use bson::{Binary, Bson, JavaScriptCodeWithScope, Regex, Timestamp, doc, spec::BinarySubtype};

    use super::*;

    fn every_type() -> Vec<u8> {
        doc! {
            "double": 1.5, "text": "é\0x", "document": { "a": 1 }, "array": [1, "b"],
            "binary": Binary { subtype: BinarySubtype::Generic, bytes: vec![0, 1, 2] },
            "undefined": Bson::Undefined, "oid": ObjectId::new(), "flag": true, "date": bson::DateTime::now(), "null": Bson::Null,
            "regex": Regex { pattern: bson::cstr!("a+").into(), options: bson::cstr!("i").into() },
            "code": Bson::JavaScriptCode("f()".to_owned()), "symbol": Bson::Symbol("s".to_owned()),
            "scoped": JavaScriptCodeWithScope { code: "g()".to_owned(), scope: doc! { "x": 1 } },
            "int": 7, "timestamp": Timestamp { time: 1, increment: 2 }, "long": 8_i64,
            "decimal": "1.5".parse::<bson::Decimal128>().unwrap(), "min": Bson::MinKey, "max": Bson::MaxKey, "": 1,
        }
        .to_vec()
        .unwrap()
    }

    #[test]
    fn every_type_is_stepped_over_and_put_together_again() {
        let document = every_type();
        let walked: Vec<_> = elements(&document).map(Result::unwrap).collect();
        assert_eq!(walked.len(), 21);
        let mut again = DocumentWriter::new();
        for element in &walked {
            again.element(element.kind, std::str::from_utf8(element.key).unwrap(), element.value);
        }
        assert_eq!(again.finish(), document);
        assert_eq!(find(&document, "long").unwrap().unwrap().number(), Some(8));
        assert_eq!(find(&document, "text").unwrap().unwrap().text(), Some("é\0x"));
    }

    #[test]
    fn damaged_documents_are_faults_and_never_panics() {
        let document = every_type();
        for cut in 0..document.len() {
            assert!(elements(&document[..cut]).any(|element| element.is_err()), "cut at {cut}");
        }
        for index in 0..document.len() {
            for bit in 0..8 {
                let mut damaged = document.clone();
                damaged[index] ^= 1 << bit;
                let _ = elements(&damaged).count();
                for element in elements(&damaged).flatten() {
                    let _ = (element.number(), element.text());
                }
            }
        }
        let huge = [9, 0, 0, 0, 0x02, b'a', 0, 255, 0];
        assert!(elements(&huge).next().unwrap().is_err());
    }
}
