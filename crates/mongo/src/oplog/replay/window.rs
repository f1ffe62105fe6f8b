//! A window of the log, folded: for each document that it touches, what will become of it, in as few bytes as can be.
//!
//! Documents are known by their `_id` as bytes. That is exact: entries carry the stored `_id`, whatever number type or letter case the
//! client had asked with. The *server* is less exact: `1` and `1.0`, or `a` and `A` under a collation, cannot be in one collection at the same
//! time, though they can be one after the other. Whoever writes a window therefore deletes first and inserts then.

use std::borrow::Cow;
use std::collections::HashMap;

use bytes::Bytes;

use super::super::diff::{self, DiffError};
use crate::raw::{self, DocumentWriter, Malformed};

/// One change of one document.
#[derive(Debug, Clone)]
pub(super) struct Change {
    /// The element `_id`: type, name and value.
    pub(super) id: Bytes,
    pub(super) effect: Effect,
}

impl Change {
    /// How many bytes it keeps, roughly.
    pub(super) fn weight(&self) -> usize {
        let effect = match &self.effect {
            Effect::Insert(bytes) | Effect::Replace(bytes) | Effect::Diff { diff: bytes, .. } => bytes.len(),
            Effect::Delete => 0,
        };
        weight(self.id.len(), effect)
    }
}

/// How many bytes a change keeps, roughly, whose `_id` and effect have so many.
pub(super) fn weight(id: usize, effect: usize) -> usize {
    id + effect + CHANGE_BYTES
}

/// What a change does.
#[derive(Debug, Clone)]
pub(super) enum Effect {
    /// The document is new.
    Insert(Bytes),
    /// The document gets these bytes, there or not.
    Replace(Bytes),
    /// The document is changed by a diff; made first if it is not there and `upsert` is set.
    Diff { diff: Bytes, upsert: bool },
    /// The document goes.
    Delete,
}

/// All changes of one document within a window.
#[derive(Debug)]
pub(super) struct Fate {
    /// The element `_id`.
    pub(super) id: Bytes,
    /// The window's first change inserts it: it was not there before.
    fresh: bool,
    ground: Ground,
    diffs: Vec<(Bytes, bool)>,
    /// For collections that keep the order of insertion: when it was inserted last.
    pub(super) inserted: Option<usize>,
}

/// What the diffs of a fate apply to.
#[derive(Debug)]
enum Ground {
    /// What stands in the collection.
    Stored,
    Absent,
    Document(Bytes),
}

/// What has to be done for a fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// The document must not be there.
    Removal,
    /// The document must be there, and was not.
    Insertion,
    /// The document must be read before it is written.
    Reading,
}

impl Fate {
    fn begin(id: Bytes, fresh: bool) -> Self {
        Self { id, fresh, ground: Ground::Stored, diffs: Vec::new(), inserted: None }
    }

    fn take(&mut self, effect: Effect, order: usize) {
        match effect {
            Effect::Insert(document) => {
                self.settle(Ground::Document(document));
                self.inserted = Some(order);
            }
            Effect::Replace(document) => self.settle(Ground::Document(document)),
            Effect::Delete => {
                self.settle(Ground::Absent);
                self.inserted = None;
            }
            Effect::Diff { diff, upsert } => match self.ground {
                Ground::Absent if upsert => {
                    let seed = self.seed();
                    self.settle(Ground::Document(seed.into()));
                    self.diffs.push((diff, upsert));
                }
                Ground::Absent => {}
                Ground::Stored | Ground::Document(_) => self.diffs.push((diff, upsert)),
            },
        }
    }

    fn settle(&mut self, ground: Ground) {
        self.ground = ground;
        self.diffs.clear();
    }

    /// What has to be done.
    pub(super) fn need(&self) -> Need {
        match (&self.ground, self.fresh) {
            (Ground::Absent, _) => Need::Removal,
            (Ground::Document(_), true) => Need::Insertion,
            _ => Need::Reading,
        }
    }

    /// The document in the end, given what stands in the collection; `None` when there is none.
    pub(super) fn outcome<'a>(
        &'a self,
        stored: Option<&'a [u8]>,
    ) -> Result<Option<Cow<'a, [u8]>>, DiffError> {
        let mut document = match &self.ground {
            Ground::Stored => stored.map(Cow::Borrowed),
            Ground::Absent => None,
            Ground::Document(document) => Some(Cow::Borrowed(document.as_ref())),
        };
        for (diff, upsert) in &self.diffs {
            let before = match document {
                Some(document) => document,
                None if *upsert => Cow::Owned(self.seed()),
                None => continue,
            };
            document = Some(Cow::Owned(diff::apply(&before, diff)?));
        }
        Ok(document)
    }

    /// The bytes it holds, roughly.
    pub(super) fn weight(&self) -> usize {
        let ground = match &self.ground {
            Ground::Document(document) => document.len(),
            Ground::Stored | Ground::Absent => 0,
        };
        ground + self.diffs.iter().map(|(diff, _)| diff.len()).sum::<usize>()
    }

    /// A document of nothing but the `_id`.
    fn seed(&self) -> Vec<u8> {
        id_document(&self.id)
    }
}

/// The document `{_id: …}` of an element.
pub(super) fn id_document(id: &[u8]) -> Vec<u8> {
    let length = 4 + id.len() + 1;
    let mut document = Vec::with_capacity(length);
    document.extend_from_slice(&(length as u32).to_le_bytes());
    document.extend_from_slice(id);
    document.push(0);
    document
}

/// The element `_id` of a document, as bytes.
pub(super) fn id_element(document: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    let Some(id) = raw::id_of(document)? else { return Ok(None) };
    Ok(document.get(id.offset - ID_HEAD_BYTES..id.offset + id.value.len()))
}

/// What a change takes beside its bytes: pointers, table entries, allocation.
const CHANGE_BYTES: usize = 96;

/// The type byte and the name of an element `_id`.
const ID_HEAD_BYTES: usize = 5;

/// Type and value of an element `_id`.
fn id_value(id: &[u8]) -> (u8, &[u8]) {
    (id[0], &id[ID_HEAD_BYTES..])
}

/// An array of the values of ids.
pub(super) fn id_array<'a>(ids: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut array = DocumentWriter::new();
    for (position, id) in ids.enumerate() {
        let (kind, value) = id_value(id);
        array.element(kind, &position.to_string(), value);
    }
    array.finish()
}

/// The changes of one collection within a window.
#[derive(Debug, Default)]
pub(super) struct Window {
    positions: HashMap<Bytes, usize>,
    fates: Vec<Fate>,
    changes: usize,
}

impl Window {
    /// Takes the next change.
    pub(super) fn take(&mut self, change: Change) {
        let fresh = matches!(change.effect, Effect::Insert(_));
        let position = *self.positions.entry(change.id).or_insert_with_key(|id| {
            self.fates.push(Fate::begin(id.clone(), fresh));
            self.fates.len() - 1
        });
        self.changes += 1;
        self.fates[position].take(change.effect, self.changes);
    }

    /// How many documents are touched.
    pub(super) fn len(&self) -> usize {
        self.fates.len()
    }

    /// Everything taken, in the order in which documents were touched first; begins anew.
    pub(super) fn close(&mut self) -> Vec<Fate> {
        self.positions.clear();
        self.changes = 0;
        std::mem::take(&mut self.fates)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use bson::{Document, doc};

    use super::*;

    fn id(number: i32) -> Bytes {
        Bytes::copy_from_slice(id_element(&doc! { "_id": number }.to_vec().unwrap()).unwrap().unwrap())
    }

    fn insert(document: Document) -> Effect {
        Effect::Insert(document.to_vec().unwrap().into())
    }

    fn diff(field: &str, upsert: bool) -> Effect {
        Effect::Diff { diff: doc! { "u": { field: 1 } }.to_vec().unwrap().into(), upsert }
    }

    /// What has to be done after `effects`, and what comes of a stored `{_id: 1, s: 1}` and of nothing.
    fn fate(effects: Vec<Effect>) -> (Need, [Option<Document>; 2]) {
        let mut window = Window::default();
        for effect in effects {
            window.take(Change { id: id(1), effect });
        }
        let fates = window.close();
        assert_eq!((fates.len(), window.len()), (1, 0));
        let stored = doc! { "_id": 1, "s": 1 }.to_vec().unwrap();
        let outcome = |stored| {
            let outcome = fates[0].outcome(stored).unwrap();
            outcome.map(|document| Document::from_reader(document.as_ref()).unwrap())
        };
        (fates[0].need(), [outcome(Some(stored.as_slice())), outcome(None)])
    }

    #[test]
    fn changes_are_folded_into_the_last_state() {
        let new = || insert(doc! { "_id": 1, "n": 1 });
        let replaced = || Effect::Replace(doc! { "_id": 1, "r": 1 }.to_vec().unwrap().into());
        for (effects, need, outcomes) in [
            (
                vec![new()],
                Need::Insertion,
                [Some(doc! { "_id": 1, "n": 1 }), Some(doc! { "_id": 1, "n": 1 })],
            ),
            (vec![new(), Effect::Delete], Need::Removal, [None, None]),
            (vec![Effect::Delete], Need::Removal, [None, None]),
            (vec![Effect::Delete, diff("a", false)], Need::Removal, [None, None]),
            (
                vec![Effect::Delete, new()],
                Need::Reading,
                [Some(doc! { "_id": 1, "n": 1 }), Some(doc! { "_id": 1, "n": 1 })],
            ),
            (
                vec![diff("a", false), diff("b", false)],
                Need::Reading,
                [Some(doc! { "_id": 1, "s": 1, "a": 1, "b": 1 }), None],
            ),
            (
                vec![diff("a", true)],
                Need::Reading,
                [Some(doc! { "_id": 1, "s": 1, "a": 1 }), Some(doc! { "_id": 1, "a": 1 })],
            ),
            (
                vec![Effect::Delete, diff("a", true)],
                Need::Reading,
                [Some(doc! { "_id": 1, "a": 1 }), Some(doc! { "_id": 1, "a": 1 })],
            ),
            (
                vec![diff("a", false), replaced()],
                Need::Reading,
                [Some(doc! { "_id": 1, "r": 1 }), Some(doc! { "_id": 1, "r": 1 })],
            ),
            (
                vec![new(), diff("a", false), replaced(), diff("b", false)],
                Need::Insertion,
                [Some(doc! { "_id": 1, "r": 1, "b": 1 }), Some(doc! { "_id": 1, "r": 1, "b": 1 })],
            ),
        ] {
            let tell = format!("{effects:?}");
            assert_eq!(fate(effects), (need, outcomes), "{tell}");
        }
    }
}
