//! The `.metadata.json` text of a collection, written as mongodump writes it and read as mongorestore reads it.
//!
//! One line, keys in this order: `options` (left out when empty), `indexes` (always an array), `uuid` (32 hexadecimal digits; left out when
//! the server gives none), `collectionName`, `type`. Options and indexes are the server's documents verbatim, field order kept. What does
//! not come back byte for byte from the text is refused, so that nothing is lost in silence.

use bson::raw::RawDocument;
use bson::{RawArrayBuf, RawDocumentBuf};
use mainstay_engine::CollectionKind;
use mainstay_indexes::Json;
use mainstay_model::{Error, ErrorKind, Result};

use crate::extjson::{self, ExtJsonError};
use crate::raw::{self, DocumentWriter, kind};

/// A collection's definition, options and indexes as the server's own BSON.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Metadata {
    /// The options of listCollections.
    pub(crate) options: RawDocumentBuf,
    /// The indexes of listIndexes, `_id_` included, in the server's order.
    pub(crate) indexes: Vec<RawDocumentBuf>,
    /// The collection's UUID, 32 hexadecimal digits.
    pub(crate) uuid: Option<String>,
    /// The collection's name.
    pub(crate) name: Option<String>,
    /// Its kind.
    pub(crate) kind: CollectionKind,
}

/// The word of listCollections for a kind.
pub(crate) fn kind_name(kind: CollectionKind) -> &'static str {
    match kind {
        CollectionKind::Collection => "collection",
        CollectionKind::View => "view",
        CollectionKind::TimeSeries => "timeseries",
    }
}

/// The kind of a word of listCollections; what is unknown is a collection, as for mongorestore.
pub(crate) fn kind_of(name: &str) -> CollectionKind {
    match name {
        "view" => CollectionKind::View,
        "timeseries" => CollectionKind::TimeSeries,
        _ => CollectionKind::Collection,
    }
}

/// The kind that options belong to, for texts of tools that did not write it.
fn kind_of_options(options: &RawDocument) -> CollectionKind {
    let has = |key| matches!(options.get(key), Ok(Some(_)));
    match (has("viewOn"), has("timeseries")) {
        (true, _) => CollectionKind::View,
        (_, true) => CollectionKind::TimeSeries,
        _ => CollectionKind::Collection,
    }
}

impl Metadata {
    /// The text.
    ///
    /// # Errors
    /// `Unsupported` when a part of it would not come back byte for byte.
    pub(crate) fn to_text(&self) -> Result<String> {
        let mut out = String::from("{");
        if !self.options.is_empty() {
            out.push_str("\"options\":");
            write_exactly(&mut out, &self.options)?;
            out.push(',');
        }
        out.push_str("\"indexes\":[");
        for (position, index) in self.indexes.iter().enumerate() {
            if position > 0 {
                out.push(',');
            }
            write_exactly(&mut out, index)?;
        }
        out.push(']');
        if let Some(uuid) = &self.uuid {
            out.push_str(",\"uuid\":");
            extjson::write_text(&mut out, uuid);
        }
        if let Some(name) = &self.name {
            out.push_str(",\"collectionName\":");
            extjson::write_text(&mut out, name);
        }
        out.push_str(",\"type\":");
        extjson::write_text(&mut out, kind_name(self.kind));
        out.push('}');
        Ok(out)
    }

    /// Reads a text. Unknown keys are passed over, a missing `type` is what the options say, an empty text one without options and indexes.
    ///
    /// # Errors
    /// `Corrupt` when it is not Extended JSON of this shape.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        Self::parse_inner(text).map_err(|error| {
            Error::new(ErrorKind::Corrupt, format!("collection metadata is not readable: {error}"))
                .with_hint("verify the backup set with `mainstay backup verify`")
        })
    }

    fn parse_inner(text: &str) -> Result<Self, ExtJsonError> {
        let json = if text.trim().is_empty() { Json::Object(Vec::new()) } else { Json::parse(text)? };
        let options = match json.get("options") {
            None | Some(Json::Null) => RawDocumentBuf::new(),
            Some(options) => owned(extjson::to_bson(options)?)?,
        };
        let indexes = match json.get("indexes") {
            None | Some(Json::Null) => Vec::new(),
            Some(Json::List(items)) => {
                items.iter().map(|item| owned(extjson::to_bson(item)?)).collect::<Result<_, _>>()?
            }
            Some(_) => return Err(ExtJsonError::Meaning("indexes is not an array".to_owned())),
        };
        let text =
            |key| json.get(key).and_then(Json::text).filter(|text| !text.is_empty()).map(str::to_owned);
        let kind = match text("type") {
            Some(name) => kind_of(&name),
            None => kind_of_options(&options),
        };
        Ok(Self { options, indexes, uuid: text("uuid"), name: text("collectionName"), kind })
    }

    /// The collection's default collation, if it is not the simple one.
    pub(crate) fn collation(&self) -> Option<&RawDocument> {
        self.options
            .get_document("collation")
            .ok()
            .filter(|collation| !matches!(collation.get_str("locale"), Ok("simple")))
    }

    /// True when `_id` is the storage key.
    pub(crate) fn is_clustered(&self) -> bool {
        self.options.get("clusteredIndex").ok().flatten().is_some()
            || self.indexes.iter().any(|index| is_clustered_index(index))
    }

    /// True when the collection keeps insertion order in a bounded size.
    pub(crate) fn is_capped(&self) -> bool {
        matches!(raw::find(self.options.as_bytes(), "capped"), Ok(Some(flag)) if flag.number().is_some_and(|flag| flag != 0))
    }

    /// The index on `_id`, for those that have one of their own.
    pub(crate) fn id_index(&self) -> Option<&RawDocumentBuf> {
        self.indexes.iter().find(|index| is_id_index(index))
    }

    /// The indexes to build after the data: all but that on `_id`, whether it is an index of its own or the clustered key.
    pub(crate) fn secondary_indexes(&self) -> impl Iterator<Item = &RawDocumentBuf> {
        self.indexes.iter().filter(|index| !is_id_index(index) && !is_clustered_index(index))
    }
}

fn is_clustered_index(index: &RawDocument) -> bool {
    matches!(index.get_bool("clustered"), Ok(true))
}

/// True for the index on `_id` alone (whatever its direction or number type), unless it is the clustered key.
fn is_id_index(index: &RawDocument) -> bool {
    let Ok(Some(key)) = raw::find(index.as_bytes(), "key") else { return false };
    if key.kind != kind::DOCUMENT || is_clustered_index(index) {
        return false;
    }
    let mut fields = raw::elements(key.value);
    let first = fields.next();
    matches!(first, Some(Ok(field)) if field.key == b"_id" && field.number().is_some())
        && fields.next().is_none()
}

fn write_exactly(out: &mut String, document: &RawDocument) -> Result<()> {
    let text = extjson::document_text(document).map_err(|error| inexact(&error.to_string()))?;
    let again = extjson::parse_document(&text).map_err(|error| inexact(&error.to_string()))?;
    if again != document.as_bytes() {
        return Err(inexact("it would not come back byte for byte"));
    }
    out.push_str(&text);
    Ok(())
}

fn inexact(why: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("collection metadata has no exact text: {why}")).with_hint(
        "look at the collection's options and indexes for values that are not valid UTF-8 or not valid BSON",
    )
}

fn owned(bytes: Vec<u8>) -> Result<RawDocumentBuf, ExtJsonError> {
    RawDocumentBuf::from_bytes(bytes).map_err(|error| ExtJsonError::Bson(error.to_string()))
}

/// `document` without the fields named.
pub(crate) fn without(document: &RawDocument, names: &[&str]) -> RawDocumentBuf {
    let mut writer = DocumentWriter::new();
    for element in raw::elements(document.as_bytes()).map_while(std::result::Result::ok) {
        let key = std::str::from_utf8(element.key).unwrap_or_default();
        if !names.contains(&key) {
            writer.element(element.kind, key, element.value);
        }
    }
    RawDocumentBuf::from_bytes(writer.finish()).expect("elements of a document make a document")
}

/// An array of documents.
pub(crate) fn array<'a>(documents: impl IntoIterator<Item = &'a RawDocumentBuf>) -> RawArrayBuf {
    let mut array = RawArrayBuf::new();
    for document in documents {
        array.push(document);
    }
    array
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use bson::{Bson, doc};

    use super::*;

    fn fixtures() -> Vec<(String, String)> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/metadata");
        let entries = std::fs::read_dir(folder).unwrap();
        entries
            .map(|entry| {
                let path = entry.unwrap().path();
                (path.display().to_string(), std::fs::read_to_string(&path).unwrap())
            })
            .collect()
    }

    #[test]
    fn what_mongodump_wrote_comes_back_byte_for_byte() {
        let fixtures = fixtures();
        assert!(fixtures.len() >= 15, "{}", fixtures.len());
        for (name, text) in fixtures {
            let metadata = Metadata::parse(&text).unwrap();
            assert_eq!(metadata.to_text().unwrap(), text, "{name}");
        }
    }

    #[test]
    fn every_type_comes_back_byte_for_byte() {
        let document = doc! {
            "whole": 1.0, "fraction": -0.5, "large": 1e6, "huge": 1e300, "small": 1.5e-7, "negative zero": -0.0,
            "text": "a\"\\/\u{8}\u{c}\n\r\t\u{1}\u{2028}<é>&", "list": [1, [2, { "x": 3_i64 }], []], "empty": {},
            "binary": bson::Binary { subtype: bson::spec::BinarySubtype::UserDefined(0x81), bytes: vec![1, 2] },
            "uuid": bson::Binary { subtype: bson::spec::BinarySubtype::Uuid, bytes: vec![7; 16] },
            "undefined": Bson::Undefined, "oid": bson::oid::ObjectId::new(), "flags": [true, false], "null": null,
            "date": bson::DateTime::from_millis(-1), "min": Bson::MinKey, "max": Bson::MaxKey,
            "regex": bson::Regex { pattern: bson::cstr!("^é\"").into(), options: bson::cstr!("im").into() },
            "code": Bson::JavaScriptCode("f()".to_owned()), "symbol": Bson::Symbol("s".to_owned()),
            "scoped": bson::JavaScriptCodeWithScope { code: "g()".to_owned(), scope: doc! { "x": 1 } },
            "timestamp": bson::Timestamp { time: u32::MAX, increment: 2 }, "long": i64::MIN, "int": i32::MIN,
            "decimal": "1.50E+10".parse::<bson::Decimal128>().unwrap(),
            "operators": { "$gt": 5, "$regex": "a", "$and": [{ "$ne": null }] }, "": "empty name",
        };
        let options = RawDocumentBuf::try_from(&document).unwrap();
        let metadata = Metadata {
            options,
            indexes: Vec::new(),
            uuid: None,
            name: Some("ä\u{0}".to_owned()),
            kind: CollectionKind::View,
        };
        let text = metadata.to_text().unwrap();
        assert_eq!(Metadata::parse(&text).unwrap(), metadata);
        assert!(text.contains(r#""whole":{"$numberDouble":"1.0"}"#), "{text}");
        assert!(text.contains(r#""large":{"$numberDouble":"1E+06"}"#), "{text}");
        assert!(text.contains(r#""small":{"$numberDouble":"1.5E-07"}"#), "{text}");
        assert!(text.contains(r#""negative zero":{"$numberDouble":"-0.0"}"#), "{text}");
    }

    #[test]
    fn relaxed_and_empty_texts_are_read_and_broken_ones_refused() {
        let relaxed = Metadata::parse(
            r#"{"options":{"capped":true,"size":4096},"indexes":[{"v":2,"key":{"a":1.5},"name":"a"}]}"#,
        )
        .unwrap();
        assert!(relaxed.is_capped());
        assert_eq!(relaxed.options.get_i32("size").unwrap(), 4096);
        assert_eq!(Metadata::parse("").unwrap().indexes.len(), 0);
        for bad in
            ["{", "[]x", r#"{"indexes":1}"#, r#"{"options":{"a":{"$numberInt":"x"}}}"#, r#"{"options":[]}"#]
        {
            assert_eq!(Metadata::parse(bad).unwrap_err().kind(), ErrorKind::Corrupt, "{bad}");
        }
        let deep = format!(r#"{{"options":{{"a":{}1{}}}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert!(Metadata::parse(&deep).is_err());
    }
}
