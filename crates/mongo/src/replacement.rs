//! The update statement that puts a document in the place of the one with the same `_id`, as bytes: what documents hold is not decoded.

use crate::raw::{self, DocumentWriter, Malformed, kind};

/// How a document is put in the place of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// By the document, which is fast. The server puts the time into empty timestamps, and refuses some names of fields.
    Plain,
    /// By a pipeline with the document as a literal, which changes nothing in it.
    Literal,
}

/// The statement `{q: {_id}, u: …}` for `document`; `None` when it has no `_id`.
///
/// # Errors
/// When `document` is none.
pub(crate) fn replacement(document: &[u8], form: Form) -> Result<Option<Vec<u8>>, Malformed> {
    let Some(id) = raw::id_of(document)? else { return Ok(None) };
    let query = match id.kind {
        // A document could be taken for operators.
        kind::DOCUMENT => holding("_id", &id.alone("$eq")),
        _ => id.alone("_id"),
    };
    let mut statement = DocumentWriter::new();
    statement.element(kind::DOCUMENT, "q", &query);
    match form {
        Form::Plain => statement.element(kind::DOCUMENT, "u", document),
        Form::Literal => {
            let stage = holding("$replaceWith", &holding("$literal", document));
            statement.element(kind::ARRAY, "u", &holding("0", &stage));
        }
    }
    Ok(Some(statement.finish()))
}

/// The document `{<key>: <document>}`.
fn holding(key: &str, document: &[u8]) -> Vec<u8> {
    let mut writer = DocumentWriter::new();
    writer.element(kind::DOCUMENT, key, document);
    writer.finish()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use bson::{Document, doc};

    use super::*;

    #[test]
    fn a_document_is_found_by_its_id_whatever_that_is() {
        let statement = |document: &Document, form| {
            let statement = replacement(&document.to_vec().unwrap(), form).unwrap();
            statement.map(|bytes| Document::from_reader(bytes.as_slice()).unwrap())
        };
        let plain = doc! { "_id": 1, "$set": { "a": 1 } };
        assert_eq!(statement(&plain, Form::Plain), Some(doc! { "q": { "_id": 1 }, "u": plain.clone() }));
        let nested = doc! { "_id": { "$gt": 1 }, "a": 1 };
        assert_eq!(
            statement(&nested, Form::Literal),
            Some(doc! {
                "q": { "_id": { "$eq": { "$gt": 1 } } },
                "u": [{ "$replaceWith": { "$literal": nested.clone() } }],
            })
        );
        assert_eq!(statement(&doc! { "a": 1 }, Form::Plain), None);
        assert!(replacement(&[5, 0, 0], Form::Plain).is_err());
    }
}
