//! Writing BSON bytes straight into a buffer.
//!
//! The generator writes hundreds of megabytes, so it appends each element once, into the buffer that becomes the
//! `insert` command, instead of building a tree of values first. Every element type of the BSON specification 1.1
//! (<https://bsonspec.org/spec.html>) can be written, the deprecated ones too.
//!
//! The writer relies on its caller for valid input: field names without NUL bytes and no name twice in a document.

use std::fmt;

/// Writes one document at the end of `buffer`.
pub(crate) fn write_document(buffer: &mut Vec<u8>, fill: impl FnOnce(&mut Fields<'_>)) {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; 4]);
    fill(&mut Fields { buffer, start });
    end_document(buffer, start);
}

fn end_document(buffer: &mut Vec<u8>, start: usize) {
    buffer.push(0);
    let size = buffer.len() - start;
    set_size(buffer, start, size);
}

fn set_size(buffer: &mut [u8], at: usize, size: usize) {
    let size = i32::try_from(size).expect("a generated document stays far below 2 GiB");
    buffer[at..at + 4].copy_from_slice(&size.to_le_bytes());
}

/// The fields of a document that is being written.
pub(crate) struct Fields<'a> {
    buffer: &'a mut Vec<u8>,
    start: usize,
}

impl Fields<'_> {
    /// Bytes of this document written so far, without its closing byte.
    pub(crate) fn written(&self) -> usize {
        self.buffer.len() - self.start
    }

    fn header(&mut self, element_type: u8, key: &str) {
        debug_assert!(!key.as_bytes().contains(&0), "a field name holds no NUL byte");
        self.buffer.push(element_type);
        self.buffer.extend_from_slice(key.as_bytes());
        self.buffer.push(0);
    }

    fn string_value(&mut self, value: &str) {
        let size = i32::try_from(value.len() + 1).expect("a generated string stays far below 2 GiB");
        self.buffer.extend_from_slice(&size.to_le_bytes());
        self.buffer.extend_from_slice(value.as_bytes());
        self.buffer.push(0);
    }

    pub(crate) fn double(&mut self, key: &str, value: f64) {
        self.header(0x01, key);
        self.buffer.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn string(&mut self, key: &str, value: &str) {
        self.header(0x02, key);
        self.string_value(value);
    }

    /// A string whose text `fill` writes in place.
    pub(crate) fn text(&mut self, key: &str, fill: impl FnOnce(&mut Text<'_>)) {
        self.header(0x02, key);
        let at = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 4]);
        fill(&mut Text { buffer: self.buffer, start: at + 4 });
        self.buffer.push(0);
        let size = self.buffer.len() - at - 4;
        set_size(self.buffer, at, size);
    }

    pub(crate) fn document(&mut self, key: &str, fill: impl FnOnce(&mut Fields<'_>)) {
        self.header(0x03, key);
        write_document(self.buffer, fill);
    }

    pub(crate) fn array(&mut self, key: &str, fill: impl FnOnce(&mut Items<'_>)) {
        self.header(0x04, key);
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 4]);
        fill(&mut Items { fields: Fields { buffer: self.buffer, start }, next: 0 });
        end_document(self.buffer, start);
    }

    pub(crate) fn binary(&mut self, key: &str, subtype: u8, value: &[u8]) {
        self.header(0x05, key);
        let size = i32::try_from(value.len()).expect("a generated value stays far below 2 GiB");
        // The old generic subtype repeats the length inside its payload.
        if subtype == 0x02 {
            self.buffer.extend_from_slice(&(size + 4).to_le_bytes());
            self.buffer.push(subtype);
            self.buffer.extend_from_slice(&size.to_le_bytes());
        } else {
            self.buffer.extend_from_slice(&size.to_le_bytes());
            self.buffer.push(subtype);
        }
        self.buffer.extend_from_slice(value);
    }

    pub(crate) fn undefined(&mut self, key: &str) {
        self.header(0x06, key);
    }

    pub(crate) fn object_id(&mut self, key: &str, value: [u8; 12]) {
        self.header(0x07, key);
        self.buffer.extend_from_slice(&value);
    }

    pub(crate) fn boolean(&mut self, key: &str, value: bool) {
        self.header(0x08, key);
        self.buffer.push(u8::from(value));
    }

    /// Milliseconds since 1970, negative before it.
    pub(crate) fn date(&mut self, key: &str, value: i64) {
        self.header(0x09, key);
        self.buffer.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn null(&mut self, key: &str) {
        self.header(0x0a, key);
    }

    pub(crate) fn regex(&mut self, key: &str, pattern: &str, options: &str) {
        self.header(0x0b, key);
        for part in [pattern, options] {
            self.buffer.extend_from_slice(part.as_bytes());
            self.buffer.push(0);
        }
    }

    pub(crate) fn db_pointer(&mut self, key: &str, namespace: &str, id: [u8; 12]) {
        self.header(0x0c, key);
        self.string_value(namespace);
        self.buffer.extend_from_slice(&id);
    }

    pub(crate) fn code(&mut self, key: &str, source: &str) {
        self.header(0x0d, key);
        self.string_value(source);
    }

    pub(crate) fn symbol(&mut self, key: &str, value: &str) {
        self.header(0x0e, key);
        self.string_value(value);
    }

    pub(crate) fn code_with_scope(&mut self, key: &str, source: &str, scope: impl FnOnce(&mut Fields<'_>)) {
        self.header(0x0f, key);
        let at = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 4]);
        self.string_value(source);
        write_document(self.buffer, scope);
        let size = self.buffer.len() - at;
        set_size(self.buffer, at, size);
    }

    pub(crate) fn int32(&mut self, key: &str, value: i32) {
        self.header(0x10, key);
        self.buffer.extend_from_slice(&value.to_le_bytes());
    }

    /// Seconds since 1970 and the ordinal within that second.
    pub(crate) fn timestamp(&mut self, key: &str, seconds: u32, ordinal: u32) {
        self.header(0x11, key);
        self.buffer.extend_from_slice(&ordinal.to_le_bytes());
        self.buffer.extend_from_slice(&seconds.to_le_bytes());
    }

    pub(crate) fn int64(&mut self, key: &str, value: i64) {
        self.header(0x12, key);
        self.buffer.extend_from_slice(&value.to_le_bytes());
    }

    /// The decimal `coefficient × 10^exponent`; the coefficient has at most 34 digits.
    pub(crate) fn decimal(&mut self, key: &str, coefficient: i128, exponent: i32) {
        const BIAS: i32 = 6176;
        let magnitude = coefficient.unsigned_abs();
        debug_assert!(magnitude < 10u128.pow(34), "a decimal128 coefficient has at most 34 digits");
        let biased = u128::try_from(exponent + BIAS).expect("a decimal128 exponent is at least -6176");
        let bits = (u128::from(coefficient < 0) << 127) | (biased << 113) | magnitude;
        self.decimal_bits(key, bits);
    }

    /// A decimal by its bits: the way to write infinities and NaN.
    pub(crate) fn decimal_bits(&mut self, key: &str, bits: u128) {
        self.header(0x13, key);
        self.buffer.extend_from_slice(&bits.to_le_bytes());
    }

    pub(crate) fn max_key(&mut self, key: &str) {
        self.header(0x7f, key);
    }

    pub(crate) fn min_key(&mut self, key: &str) {
        self.header(0xff, key);
    }
}

/// The items of an array that is being written.
pub(crate) struct Items<'a> {
    fields: Fields<'a>,
    next: u32,
}

impl Items<'_> {
    /// Writes one item: `fill` appends exactly one element under the name it is given.
    pub(crate) fn item(&mut self, fill: impl FnOnce(&mut Fields<'_>, &str)) {
        let mut digits = [0u8; 10];
        let mut at = digits.len();
        let mut rest = self.next;
        loop {
            at -= 1;
            digits[at] = b'0' + u8::try_from(rest % 10).expect("a digit is below ten");
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        let key = std::str::from_utf8(&digits[at..]).expect("digits are ASCII");
        fill(&mut self.fields, key);
        self.next += 1;
    }

    pub(crate) fn string(&mut self, value: &str) {
        self.item(|fields, key| fields.string(key, value));
    }

    pub(crate) fn object_id(&mut self, value: [u8; 12]) {
        self.item(|fields, key| fields.object_id(key, value));
    }

    pub(crate) fn document(&mut self, fill: impl FnOnce(&mut Fields<'_>)) {
        self.item(|fields, key| fields.document(key, fill));
    }

    /// Writes one item that is a document: `append` adds its bytes to the buffer.
    pub(crate) fn raw_document(&mut self, append: impl FnOnce(&mut Vec<u8>)) {
        self.item(|fields, key| {
            fields.header(0x03, key);
            append(fields.buffer);
        });
    }
}

/// The text of a string that is being written.
pub(crate) struct Text<'a> {
    buffer: &'a mut Vec<u8>,
    start: usize,
}

impl Text<'_> {
    pub(crate) fn push(&mut self, part: &str) {
        self.buffer.extend_from_slice(part.as_bytes());
    }

    /// Bytes of text written so far.
    pub(crate) fn len(&self) -> usize {
        self.buffer.len() - self.start
    }
}

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        self.push(part);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Bson, Decimal128, Document, doc};

    fn written(fill: impl FnOnce(&mut Fields<'_>)) -> Document {
        let mut buffer = Vec::new();
        write_document(&mut buffer, fill);
        bson::deserialize_from_slice(&buffer).expect("a valid document")
    }

    #[test]
    fn documents_and_arrays_nest() {
        let got = written(|f| {
            f.string("name", "Zoë 🎈");
            f.document("inner", |f| f.boolean("yes", true));
            f.array("list", |items| {
                for value in 0..12 {
                    items.item(|f, key| f.int32(key, value));
                }
            });
        });
        let list = (0..12).map(Bson::Int32).collect::<Vec<_>>();
        assert_eq!(got, doc! { "name": "Zoë 🎈", "inner": { "yes": true }, "list": list });
    }

    #[test]
    fn decimals_read_back_as_they_were_meant() {
        for (coefficient, exponent, text) in [
            (0, 0, "0"),
            (12_345, -2, "123.45"),
            (-1, 0, "-1"),
            (7, 3, "7E+3"),
            (10i128.pow(33), -33, "1.000000000000000000000000000000000"),
        ] {
            let got = written(|f| f.decimal("d", coefficient, exponent));
            assert_eq!(
                got.get("d").expect("was written"),
                &Bson::Decimal128(text.parse::<Decimal128>().expect("a decimal")),
                "{text}"
            );
        }
    }

    #[test]
    fn scoped_code_and_old_binaries_carry_both_of_their_lengths() {
        let got = written(|f| {
            f.code_with_scope("c", "return n", |f| f.int32("n", 1));
            f.binary("b", 0x02, &[1, 2, 3]);
            f.timestamp("t", 5, 6);
        });
        let code = Bson::JavaScriptCodeWithScope(bson::JavaScriptCodeWithScope {
            code: "return n".into(),
            scope: doc! { "n": 1 },
        });
        assert_eq!(got.get("c").expect("was written"), &code);
        let binary = bson::Binary { subtype: bson::spec::BinarySubtype::BinaryOld, bytes: vec![1, 2, 3] };
        assert_eq!(got.get("b").expect("was written"), &Bson::Binary(binary));
        assert_eq!(
            got.get("t").expect("was written"),
            &Bson::Timestamp(bson::Timestamp { time: 5, increment: 6 })
        );
    }
}
