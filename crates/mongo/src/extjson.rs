//! Extended JSON v2, canonical: the text form of BSON inside `.metadata.json`.
//!
//! Written as mongodump writes it (no HTML escaping, numbers wrapped, floating-point numbers in Go's `G` form), so that texts made here
//! and there are equal for equal BSON. Read more freely, as mongorestore reads: plain JSON numbers are accepted too. The order of fields
//! is the document's order in both directions. Relies on nothing else; refuses names with NUL, which BSON cannot hold, and a wrapper
//! (`{"$numberInt": …}` and its like) with a value that is not of its type.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bson::oid::ObjectId;
use bson::raw::CString;
use bson::spec::BinarySubtype;
use bson::{RawArray, RawBsonRef, RawDocument};
use mainstay_indexes::Json;

use crate::raw::DocumentWriter;

/// Deepest nesting read; MongoDB itself ends at 180 (MongoDB manual, "Limits and Thresholds": 100 for stored documents).
const DEPTH_MAX: usize = 180;

/// Text that is not Extended JSON, or BSON that has no text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ExtJsonError {
    /// No JSON at all.
    #[error("not JSON: {0}")]
    Syntax(String),
    /// JSON that is no Extended JSON document.
    #[error("{0}")]
    Meaning(String),
    /// BSON that cannot be read.
    #[error("unreadable BSON: {0}")]
    Bson(String),
}

impl From<serde_json::Error> for ExtJsonError {
    fn from(error: serde_json::Error) -> Self {
        Self::Syntax(error.to_string())
    }
}

fn meaning(what: impl Into<String>) -> ExtJsonError {
    ExtJsonError::Meaning(what.into())
}

/// Appends the canonical text of `document` to `out`.
pub(crate) fn write_document(out: &mut String, document: &RawDocument) -> Result<(), ExtJsonError> {
    out.push('{');
    for (index, element) in document.iter().enumerate() {
        let (key, value) = element.map_err(|error| ExtJsonError::Bson(error.to_string()))?;
        if index > 0 {
            out.push(',');
        }
        write_text(out, key.as_str());
        out.push(':');
        write_value(out, value)?;
    }
    out.push('}');
    Ok(())
}

/// The canonical text of `document`.
pub(crate) fn document_text(document: &RawDocument) -> Result<String, ExtJsonError> {
    let mut out = String::new();
    write_document(&mut out, document)?;
    Ok(out)
}

/// Appends the canonical text of one value to `out`.
pub(crate) fn write_value(out: &mut String, value: RawBsonRef<'_>) -> Result<(), ExtJsonError> {
    match value {
        RawBsonRef::Double(number) => wrap_text(out, "$numberDouble", &double_text(number)),
        RawBsonRef::String(text) => write_text(out, text),
        RawBsonRef::Document(document) => write_document(out, document)?,
        RawBsonRef::Array(array) => write_array(out, array)?,
        RawBsonRef::Binary(binary) => {
            let (bytes, subtype) = (BASE64.encode(binary.bytes), u8::from(binary.subtype));
            let _ = write!(out, r#"{{"$binary":{{"base64":"{bytes}","subType":"{subtype:02x}"}}}}"#);
        }
        RawBsonRef::Undefined => out.push_str(r#"{"$undefined":true}"#),
        RawBsonRef::ObjectId(id) => wrap_text(out, "$oid", &id.to_hex()),
        RawBsonRef::Boolean(flag) => out.push_str(if flag { "true" } else { "false" }),
        RawBsonRef::DateTime(date) => {
            let _ = write!(out, r#"{{"$date":{{"$numberLong":"{}"}}}}"#, date.timestamp_millis());
        }
        RawBsonRef::Null => out.push_str("null"),
        RawBsonRef::RegularExpression(regex) => {
            out.push_str(r#"{"$regularExpression":{"pattern":"#);
            write_text(out, regex.pattern.as_str());
            out.push_str(r#","options":"#);
            write_text(out, regex.options.as_str());
            out.push_str("}}");
        }
        RawBsonRef::DbPointer(pointer) => {
            // The driver keeps the two parts to itself, but shows them in its own Extended JSON.
            let shown = bson::Bson::try_from(RawBsonRef::DbPointer(pointer))
                .map_err(|error| ExtJsonError::Bson(error.to_string()))?
                .into_canonical_extjson();
            let part = |path| shown.pointer(path).and_then(serde_json::Value::as_str).unwrap_or_default();
            out.push_str(r#"{"$dbPointer":{"$ref":"#);
            write_text(out, part("/$dbPointer/$ref"));
            out.push_str(r#","$id":"#);
            wrap_text(out, "$oid", part("/$dbPointer/$id/$oid"));
            out.push_str("}}");
        }
        RawBsonRef::JavaScriptCode(code) => wrap_text(out, "$code", code),
        RawBsonRef::JavaScriptCodeWithScope(scoped) => {
            out.push_str(r#"{"$code":"#);
            write_text(out, scoped.code);
            out.push_str(r#","$scope":"#);
            write_document(out, scoped.scope)?;
            out.push('}');
        }
        RawBsonRef::Symbol(text) => wrap_text(out, "$symbol", text),
        RawBsonRef::Int32(number) => wrap_text(out, "$numberInt", &number.to_string()),
        RawBsonRef::Timestamp(at) => {
            let _ = write!(out, r#"{{"$timestamp":{{"t":{},"i":{}}}}}"#, at.time, at.increment);
        }
        RawBsonRef::Int64(number) => wrap_text(out, "$numberLong", &number.to_string()),
        RawBsonRef::Decimal128(number) => wrap_text(out, "$numberDecimal", &number.to_string()),
        RawBsonRef::MinKey => out.push_str(r#"{"$minKey":1}"#),
        RawBsonRef::MaxKey => out.push_str(r#"{"$maxKey":1}"#),
    }
    Ok(())
}

fn write_array(out: &mut String, array: &RawArray) -> Result<(), ExtJsonError> {
    out.push('[');
    for (index, item) in array.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write_value(out, item.map_err(|error| ExtJsonError::Bson(error.to_string()))?)?;
    }
    out.push(']');
    Ok(())
}

fn wrap_text(out: &mut String, name: &str, text: &str) {
    out.push('{');
    write_text(out, name);
    out.push(':');
    write_text(out, text);
    out.push('}');
}

/// A JSON string with the escapes of Go's writer: quotes, backslash, control characters, and the two line separators of JavaScript.
pub(crate) fn write_text(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\0'..='\u{1f}' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(character));
            }
            _ => out.push(character),
        }
    }
    out.push('"');
}

/// A double as Go's `strconv.FormatFloat(f, 'G', -1, 64)` writes it, with `.0` when it would look like an integer: the shortest digits that
/// read back to the same number, with an exponent when that is below -4 or at least 6.
fn double_text(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').expect("the form always has an exponent");
    let exponent: i32 = exponent.parse().expect("the exponent is a number");
    if (-4..6).contains(&exponent) {
        let plain = number.to_string();
        return if plain.contains('.') { plain } else { format!("{plain}.0") };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}E{sign}{:02}", exponent.abs())
}

/// The document that a text is, as BSON.
pub(crate) fn parse_document(text: &str) -> Result<Vec<u8>, ExtJsonError> {
    to_bson(&Json::parse(text)?)
}

/// An object as a BSON document.
pub(crate) fn to_bson(json: &Json) -> Result<Vec<u8>, ExtJsonError> {
    match json {
        Json::Object(members) => object_to_bson(members, 0),
        _ => Err(meaning("expected a document")),
    }
}

fn object_to_bson(members: &[(String, Json)], depth: usize) -> Result<Vec<u8>, ExtJsonError> {
    let mut writer = DocumentWriter::new();
    for (name, value) in members {
        append(&mut writer, name, value, depth + 1)?;
    }
    Ok(writer.finish())
}

fn append(writer: &mut DocumentWriter, name: &str, value: &Json, depth: usize) -> Result<(), ExtJsonError> {
    if depth > DEPTH_MAX {
        return Err(meaning(format!("nested deeper than {DEPTH_MAX}")));
    }
    if name.contains('\0') {
        return Err(meaning("field name with NUL"));
    }
    match value {
        Json::Null => writer.element(0x0A, name, &[]),
        Json::Flag(flag) => writer.element(0x08, name, &[u8::from(*flag)]),
        Json::Integer(number) => match i32::try_from(*number) {
            Ok(number) => writer.element(0x10, name, &number.to_le_bytes()),
            Err(_) => writer.element(0x12, name, &number.to_le_bytes()),
        },
        Json::Real(number) => writer.element(0x01, name, &number.to_le_bytes()),
        Json::Text(text) => writer.element(0x02, name, &text_value(text)?),
        Json::List(items) => {
            let mut list = DocumentWriter::new();
            for (index, item) in items.iter().enumerate() {
                append(&mut list, &index.to_string(), item, depth + 1)?;
            }
            writer.element(0x04, name, &list.finish());
        }
        Json::Object(members) => match wrapped(members, depth)? {
            Some((kind, bytes)) => writer.element(kind, name, &bytes),
            None => writer.element(0x03, name, &object_to_bson(members, depth)?),
        },
    }
    Ok(())
}

fn text_value(text: &str) -> Result<Vec<u8>, ExtJsonError> {
    let length = i32::try_from(text.len() + 1).map_err(|_| meaning("text longer than 2 GiB"))?;
    Ok([&length.to_le_bytes(), text.as_bytes(), &[0]].concat())
}

/// The type and bytes of a wrapper object; `None` for an ordinary document (also one with `$`-names that are no wrappers, such as a
/// validator's `{"$gt": …}`).
fn wrapped(members: &[(String, Json)], depth: usize) -> Result<Option<(u8, Vec<u8>)>, ExtJsonError> {
    let Some((name, value)) = members.first() else { return Ok(None) };
    if !name.starts_with('$') {
        return Ok(None);
    }
    if let ("$code" | "$scope", 2) = (name.as_str(), members.len()) {
        return code_with_scope(members, depth);
    }
    if members.len() != 1 {
        return Ok(None);
    }
    let refuse = || meaning(format!("{name} with a value that is not of its type"));
    let text = || value.text().ok_or_else(refuse);
    let wrapped = match name.as_str() {
        "$numberInt" => (0x10, text()?.parse::<i32>().map_err(|_| refuse())?.to_le_bytes().to_vec()),
        "$numberLong" => (0x12, text()?.parse::<i64>().map_err(|_| refuse())?.to_le_bytes().to_vec()),
        "$numberDouble" => (0x01, parse_double(text()?).ok_or_else(refuse)?.to_le_bytes().to_vec()),
        "$numberDecimal" => {
            (0x13, text()?.parse::<bson::Decimal128>().map_err(|_| refuse())?.bytes().to_vec())
        }
        "$oid" => (0x07, ObjectId::parse_str(text()?).map_err(|_| refuse())?.bytes().to_vec()),
        "$symbol" => (0x0E, text_value(text()?)?),
        "$code" => (0x0D, text_value(text()?)?),
        "$undefined" => (0x06, Vec::new()),
        "$minKey" => (0xFF, Vec::new()),
        "$maxKey" => (0x7F, Vec::new()),
        "$date" => (0x09, parse_date(value).ok_or_else(refuse)?.to_le_bytes().to_vec()),
        "$binary" => (0x05, parse_binary(value).ok_or_else(refuse)?),
        "$timestamp" => (0x11, parse_timestamp(value).ok_or_else(refuse)?),
        // Inside a validator `$regularExpression` could not be an operator: there is none of that name.
        "$regularExpression" => (0x0B, parse_regex(value).ok_or_else(refuse)?),
        "$dbPointer" => (0x0C, parse_pointer(value).ok_or_else(refuse)?),
        _ => return Ok(None),
    };
    Ok(Some(wrapped))
}

fn parse_double(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => text.parse().ok(),
    }
}

fn parse_date(value: &Json) -> Option<i64> {
    match value {
        Json::Integer(millis) => Some(*millis),
        Json::Text(text) => text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond),
        _ => value.get("$numberLong")?.text()?.parse().ok(),
    }
}

fn parse_binary(value: &Json) -> Option<Vec<u8>> {
    let bytes = BASE64.decode(value.get("base64")?.text()?).ok()?;
    let subtype = u8::from_str_radix(value.get("subType")?.text()?, 16).ok()?;
    // The old generic subtype carries its length twice.
    let old = (BinarySubtype::from(subtype) == BinarySubtype::BinaryOld)
        .then(|| i32::try_from(bytes.len()))
        .transpose()
        .ok()?;
    let inner = old.map(i32::to_le_bytes);
    let inner = inner.as_ref().map_or(&[][..], <[u8; 4]>::as_slice);
    let length = i32::try_from(bytes.len() + inner.len()).ok()?;
    Some([&length.to_le_bytes(), &[subtype][..], inner, &bytes].concat())
}

fn parse_timestamp(value: &Json) -> Option<Vec<u8>> {
    let part = |name| match value.get(name) {
        Some(Json::Integer(number)) => u32::try_from(*number).ok(),
        _ => None,
    };
    let (time, increment) = (part("t")?, part("i")?);
    Some([increment.to_le_bytes(), time.to_le_bytes()].concat())
}

fn parse_regex(value: &Json) -> Option<Vec<u8>> {
    let part = |name| CString::try_from(value.get(name)?.text()?.to_owned()).ok();
    let (pattern, options) = (part("pattern")?, part("options")?);
    Some([pattern.as_str().as_bytes(), &[0], options.as_str().as_bytes(), &[0]].concat())
}

fn parse_pointer(value: &Json) -> Option<Vec<u8>> {
    let id = ObjectId::parse_str(value.get("$id")?.get("$oid")?.text()?).ok()?;
    Some([text_value(value.get("$ref")?.text()?).ok()?.as_slice(), &id.bytes()].concat())
}

fn code_with_scope(members: &[(String, Json)], depth: usize) -> Result<Option<(u8, Vec<u8>)>, ExtJsonError> {
    let member = |name: &str| members.iter().find(|(key, _)| key == name).map(|(_, value)| value);
    let (Some(Json::Text(code)), Some(Json::Object(scope))) = (member("$code"), member("$scope")) else {
        return Ok(None);
    };
    let body = [text_value(code)?, object_to_bson(scope, depth)?].concat();
    let length = i32::try_from(body.len() + 4).map_err(|_| meaning("code longer than 2 GiB"))?;
    Ok(Some((0x0F, [length.to_le_bytes().as_slice(), &body].concat())))
}
