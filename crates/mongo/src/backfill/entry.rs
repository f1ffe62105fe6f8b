//! What was there before and after, for one document: put together and read as bytes, so that a value comes back as it was to the last bit.
//!
//! An entry is `{i: <_id>, f: [{p: <path>, b: <before>, a: <after>}]}`; a value that was not there is left out. Where a part of a path is
//! missing before, or is no document, the path ends there: who brings `wallet.points` back to a document without `wallet` takes the whole wallet
//! away. Refuses paths that lead through an array, which no update could bring back one by one.

use std::collections::BTreeSet;

use bson::RawDocument;
use mainstay_model::{Error, ErrorKind, Result};

use crate::raw::{self, DocumentWriter, Element, Malformed, kind};

/// A value by its path: where the path ends in this document, and what stands there.
struct Standing<'a> {
    path: String,
    value: Option<Element<'a>>,
}

/// One field of an entry.
pub(super) struct Kept<'a> {
    /// Its path.
    pub(super) path: &'a str,
    /// Its value before.
    pub(super) before: Option<Element<'a>>,
    /// Its value after.
    pub(super) after: Option<Element<'a>>,
}

/// The entry of one document, or `None` when none of its `fields` has changed.
///
/// # Errors
/// `Precondition` when a path leads through an array, or when the document that a field was in is gone: what else was in it would be lost.
pub(super) fn of(before: &RawDocument, after: &RawDocument, fields: &[String]) -> Result<Option<Vec<u8>>> {
    let mut list = DocumentWriter::new();
    let mut count = 0_u32;
    let mut told = BTreeSet::new();
    for field in fields {
        let stood = standing(before.as_bytes(), field)?;
        let Standing { path: reached, value: stands } = standing(after.as_bytes(), &stood.path)?;
        if reached != stood.path {
            return Err(taken_away(field, &reached));
        }
        // Fields of one document that was missing end at the same path, which no update may name twice.
        if is_same(stood.value.as_ref(), stands.as_ref()) || !told.insert(stood.path.clone()) {
            continue;
        }
        let mut one = DocumentWriter::new();
        one.element(kind::STRING, "p", &text(&stood.path));
        if let Some(value) = stood.value {
            one.element(value.kind, "b", value.value);
        }
        if let Some(value) = stands {
            one.element(value.kind, "a", value.value);
        }
        list.element(kind::DOCUMENT, &count.to_string(), &one.finish());
        count += 1;
    }
    if count == 0 {
        return Ok(None);
    }
    let id = id_of(before)?;
    let mut entry = DocumentWriter::new();
    entry.element(id.kind, "i", id.value);
    entry.element(kind::ARRAY, "f", &list.finish());
    Ok(Some(entry.finish()))
}

/// The fields of an entry.
///
/// # Errors
/// `Corrupt` when it is none.
pub(super) fn fields(entry: &[u8]) -> Result<Vec<Kept<'_>>> {
    let list = raw::find(entry, "f").map_err(unreadable)?.filter(|list| list.kind == kind::ARRAY);
    let list = list.ok_or_else(|| Error::new(ErrorKind::Corrupt, "an entry of kept fields holds none"))?;
    let mut kept = Vec::new();
    for one in raw::elements(list.value) {
        let one = one.map_err(unreadable)?;
        let path = raw::find(one.value, "p").map_err(unreadable)?;
        let path = path
            .and_then(|path| path.text())
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, "a kept field has no path"))?;
        kept.push(Kept {
            path,
            before: raw::find(one.value, "b").map_err(unreadable)?,
            after: raw::find(one.value, "a").map_err(unreadable)?,
        });
    }
    Ok(kept)
}

/// Whether `current` still holds what the backfill made of it.
pub(super) fn is_untouched(kept: &[Kept<'_>], current: &RawDocument) -> bool {
    // An array that came into the way is a change like any other.
    kept.iter().all(|field| {
        at(current.as_bytes(), field.path).is_ok_and(|stands| is_same(field.after.as_ref(), stands.as_ref()))
    })
}

/// The update that brings `kept` back.
pub(super) fn restoring(kept: &[Kept<'_>]) -> Vec<u8> {
    let (mut set, mut unset) = (DocumentWriter::new(), DocumentWriter::new());
    let (mut sets, mut unsets) = (false, false);
    for field in kept {
        match &field.before {
            Some(value) => {
                set.element(value.kind, field.path, value.value);
                sets = true;
            }
            None => {
                unset.element(kind::INT32, field.path, &1_i32.to_le_bytes());
                unsets = true;
            }
        }
    }
    let mut update = DocumentWriter::new();
    if sets {
        update.element(kind::DOCUMENT, "$set", &set.finish());
    }
    if unsets {
        update.element(kind::DOCUMENT, "$unset", &unset.finish());
    }
    update.finish()
}

/// The `_id` of a document, which every document has.
pub(super) fn id_of(document: &RawDocument) -> Result<Element<'_>> {
    let id = raw::id_of(document.as_bytes()).map_err(unreadable)?;
    id.ok_or_else(|| Error::new(ErrorKind::Corrupt, "the server sent a document without `_id`"))
}

/// Follows `path` as far as the document goes.
fn standing<'a>(document: &'a [u8], path: &str) -> Result<Standing<'a>> {
    let mut inner = document;
    let mut end = 0;
    for part in path.split('.') {
        end += part.len() + usize::from(end > 0);
        let reached = path.get(..end).unwrap_or(path).to_owned();
        let found = raw::find(inner, part).map_err(unreadable)?;
        match found {
            Some(element) if reached.len() == path.len() => {
                return Ok(Standing { path: reached, value: Some(element) });
            }
            Some(element) if element.kind == kind::DOCUMENT => inner = element.value,
            Some(element) if element.kind == kind::ARRAY => return Err(through_array(path, &reached)),
            // Missing, or no document: an update puts a document into its place.
            found => return Ok(Standing { path: reached, value: found }),
        }
    }
    Ok(Standing { path: path.to_owned(), value: None })
}

/// The value at exactly `path`.
fn at<'a>(document: &'a [u8], path: &str) -> Result<Option<Element<'a>>> {
    let Standing { path: reached, value } = standing(document, path)?;
    Ok(value.filter(|_| reached == path))
}

/// By type and bytes.
fn is_same(one: Option<&Element<'_>>, other: Option<&Element<'_>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => (one.kind, one.value) == (other.kind, other.value),
        (None, None) => true,
        _ => false,
    }
}

fn text(text: &str) -> Vec<u8> {
    let length = i32::try_from(text.len() + 1).unwrap_or(i32::MAX);
    [&length.to_le_bytes(), text.as_bytes(), &[0]].concat()
}

fn through_array(path: &str, array: &str) -> Error {
    Error::new(
        ErrorKind::Precondition,
        format!("the field {path} leads through the array {array}, so that it cannot be kept by itself"),
    )
    .with_hint(format!("name `{array}` in `fields`, or say `undo = false`"))
}

fn taken_away(path: &str, document: &str) -> Error {
    Error::new(
        ErrorKind::Precondition,
        format!("the update takes the document {document} away, of which only {path} would be kept"),
    )
    .with_hint(format!("name `{document}` in `fields`, or say `undo = false`"))
}

fn unreadable(error: Malformed) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the server sent a document that is not readable: {error}"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use bson::{Document, RawDocumentBuf, doc};

    use super::*;

    fn raw(document: &Document) -> RawDocumentBuf {
        RawDocumentBuf::try_from(document).unwrap()
    }

    fn undone(before: &Document, after: &Document, fields: &[&str]) -> Option<Document> {
        let fields: Vec<String> = fields.iter().map(|field| (*field).to_owned()).collect();
        let entry = of(&raw(before), &raw(after), &fields).unwrap()?;
        let kept = super::fields(&entry).unwrap();
        assert!(is_untouched(&kept, &raw(after)));
        let update = RawDocumentBuf::from_bytes(restoring(&kept)).unwrap();
        Some(Document::try_from(update).unwrap())
    }

    #[test]
    fn what_was_there_comes_back_and_what_was_not_goes() {
        for (before, after, fields, expected) in [
            (
                doc! { "_id": 1, "a": 1_i64 },
                doc! { "_id": 1, "a": 2 },
                &["a"][..],
                Some(doc! { "$set": { "a": 1_i64 } }),
            ),
            (doc! { "_id": 1 }, doc! { "_id": 1, "a": 2 }, &["a"][..], Some(doc! { "$unset": { "a": 1 } })),
            (
                doc! { "_id": 1, "w": { "x": 1 } },
                doc! { "_id": 1, "w": { "x": 1, "p": 2 } },
                &["w.p"][..],
                Some(doc! { "$unset": { "w.p": 1 } }),
            ),
            // The whole wallet came with the points.
            (
                doc! { "_id": 1 },
                doc! { "_id": 1, "w": { "p": 2 } },
                &["w.p"][..],
                Some(doc! { "$unset": { "w": 1 } }),
            ),
            (
                doc! { "_id": 1, "w": 5 },
                doc! { "_id": 1, "w": { "p": 2 } },
                &["w.p"][..],
                Some(doc! { "$set": { "w": 5 } }),
            ),
            // Both came with the wallet, which goes once.
            (
                doc! { "_id": 1 },
                doc! { "_id": 1, "w": { "p": 2, "q": 3 } },
                &["w.p", "w.q"][..],
                Some(doc! { "$unset": { "w": 1 } }),
            ),
            (doc! { "_id": 1, "a": 1 }, doc! { "_id": 1 }, &["a"][..], Some(doc! { "$set": { "a": 1 } })),
            // The same number of another type is another value.
            (
                doc! { "_id": 1, "a": 1 },
                doc! { "_id": 1, "a": 1.0 },
                &["a"][..],
                Some(doc! { "$set": { "a": 1 } }),
            ),
            (doc! { "_id": 1, "a": [1] }, doc! { "_id": 1, "a": [1] }, &["a", "b"][..], None),
        ] {
            assert_eq!(undone(&before, &after, fields), expected, "{before} {after}");
        }
    }

    #[test]
    fn what_somebody_changed_since_is_seen() {
        let (before, after) = (doc! { "_id": 1 }, doc! { "_id": 1, "w": { "p": 2 } });
        let entry = of(&raw(&before), &raw(&after), &["w.p".to_owned()]).unwrap().unwrap();
        let kept = fields(&entry).unwrap();
        for (current, expected) in [
            (doc! { "_id": 1, "w": { "p": 2 }, "other": 1 }, true),
            (doc! { "_id": 1, "w": { "p": 3 } }, false),
            (doc! { "_id": 1, "w": { "p": 2, "new": 1 } }, false),
            (doc! { "_id": 1, "w": [{ "p": 2 }] }, false),
            (doc! { "_id": 1 }, false),
        ] {
            assert_eq!(is_untouched(&kept, &raw(&current)), expected, "{current}");
        }
    }

    #[test]
    fn a_document_that_goes_must_be_named_itself() {
        let before = raw(&doc! { "_id": 1, "w": { "p": 1, "other": 2 } });
        for after in [doc! { "_id": 1 }, doc! { "_id": 1, "w": 5 }] {
            let error = of(&before, &raw(&after), &["w.p".to_owned()]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Precondition);
            assert!(error.hint().unwrap().contains("`w`"), "{error:?}");
            assert!(of(&before, &raw(&after), &["w".to_owned()]).unwrap().is_some());
        }
    }

    #[test]
    fn paths_through_arrays_are_refused() {
        let before = raw(&doc! { "_id": 1, "items": [{ "price": 1 }] });
        let error = of(&before, &before, &["items.price".to_owned()]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Precondition);
        assert!(error.hint().unwrap().contains("`items`"), "{error:?}");
    }
}
