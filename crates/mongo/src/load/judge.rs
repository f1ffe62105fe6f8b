//! What became of the documents that were sent: which were there already, which are other ones, which the server has changed.
//!
//! A duplicate is looked up by `_id` and compared byte for byte. `Timestamp(0, 0)` at the top level is the one thing that a server changes
//! when it inserts; where it could not be kept from that, what was inserted here gets its true value with an update. Relies on the loader to
//! know whether documents may have been sent before; refuses to touch a document that somebody else put there.

use std::collections::{HashMap, HashSet};

use bson::rawdoc;
use mainstay_engine::{LoadOutcome, document_frames};
use memchr::memmem;

use super::refusal::{Refusal, refusals_of};
use super::{MongoLoader, Part};
use crate::error::{ServerError, WireError};
use crate::page::Page;
use crate::raw::{self, DocumentWriter, kind};
use crate::replacement::{Form, replacement};
use crate::wire::Sequence;

/// The most bytes and documents in one lookup or correction.
const SMALL_BYTES: usize = 4 * 1024 * 1024;
const SMALL_DOCUMENTS: usize = 1_000;

impl MongoLoader {
    /// What became of the documents of a part, given those refused; corrects timestamps on the way: of what was inserted now, and of what
    /// an earlier try has left uncorrected.
    pub(super) async fn judge(
        &mut self,
        part: &Part<'_>,
        refusals: Vec<Refusal>,
        owner: Owner,
    ) -> Result<LoadOutcome, WireError> {
        let duplicates: Vec<usize> = refusals
            .iter()
            .filter(|refusal| refusal.is_duplicate())
            .map(|refusal| refusal.position)
            .collect();
        let frames: Vec<&[u8]> = duplicates.iter().map(|position| part.frames[*position]).collect();
        let stored = self.compare(&frames, owner).await?;
        let stored: HashMap<usize, Stored> = duplicates.into_iter().zip(stored).collect();

        let mut outcome =
            LoadOutcome { inserted: (part.frames.len() - refusals.len()) as u64, ..LoadOutcome::default() };
        let mut right = HashSet::new();
        for refusal in refusals {
            let stored = stored.get(&refusal.position).copied().unwrap_or(Stored::Different);
            if stored != Stored::Replaced {
                right.insert(refusal.position);
            }
            let document = part.frames[refusal.position];
            let is_double = match stored {
                Stored::Same | Stored::Replaced => owner == Owner::Others,
                Stored::Different => refusal.is_of_id(),
            };
            if is_double {
                outcome.doubles.add_document(document);
            }
            match stored {
                Stored::Same | Stored::Replaced => outcome.identical += 1,
                Stored::Different => outcome.failures.push(refusal.failure(document)),
            }
        }
        if !self.bypass.empty_timestamps {
            let wrong = part.empty_timestamps.iter().filter(|position| !right.contains(position));
            let frames: Vec<&[u8]> = wrong.map(|position| part.frames[*position]).collect();
            self.correct_timestamps(&frames).await?;
        }
        Ok(outcome)
    }

    /// What stands in the collection under the `_id` of each document. Empty timestamps that hold a time there are taken for the server's
    /// doing only where the server was not kept from it and the document may be ours.
    pub(super) async fn compare(
        &mut self,
        documents: &[&[u8]],
        owner: Owner,
    ) -> Result<Vec<Stored>, WireError> {
        let replaced = owner == Owner::PerhapsUs && !self.bypass.empty_timestamps;
        let mut found = vec![Stored::Different; documents.len()];
        let mut begin = 0;
        while begin < documents.len() {
            let end = begin + chunk_length(&documents[begin..]);
            self.look_up(&documents[begin..end], &mut found[begin..end]).await?;
            begin = end;
        }
        if !replaced {
            found.iter_mut().filter(|it| **it == Stored::Replaced).for_each(|it| *it = Stored::Different);
        }
        Ok(found)
    }

    async fn look_up(&mut self, documents: &[&[u8]], found: &mut [Stored]) -> Result<(), WireError> {
        let mut ids = DocumentWriter::new();
        let mut positions = HashMap::new();
        for (position, document) in documents.iter().enumerate() {
            if let Some(id) = raw::id_of(document)? {
                ids.element(id.kind, &position.to_string(), id.value);
                positions.insert((id.kind, id.value), position);
            }
        }
        let mut among = DocumentWriter::new();
        among.element(kind::ARRAY, "$in", &ids.finish());
        let mut filter = DocumentWriter::new();
        filter.element(kind::DOCUMENT, "_id", &among.finish());
        let filter = filter.finish();
        let mut command = rawdoc! { "find": self.target.collection.as_str() };
        command.append(bson::cstr!("filter"), raw::as_document(&filter)?);
        command.append(bson::cstr!("$db"), self.target.database.as_str());
        let mut page = Page::take(self.connection.run(command.as_bytes()).await?)?;
        loop {
            for stored in document_frames(&page.bytes) {
                let stored = stored.map_err(|error| WireError::Protocol(error.to_string()))?;
                let Some(id) = raw::id_of(stored)? else { continue };
                if let Some(position) = positions.get(&(id.kind, id.value)) {
                    found[*position] = comparison(documents[*position], stored)?;
                }
            }
            if page.cursor == 0 {
                return Ok(());
            }
            let more = rawdoc! {
                "getMore": page.cursor, "collection": self.target.collection.as_str(), "$db": self.target.database.as_str(),
            };
            page = Page::take(self.connection.run(more.as_bytes()).await?)?;
        }
    }

    /// Puts documents with empty timestamps in the place of what the server made of them.
    pub(super) async fn correct_timestamps(&mut self, documents: &[&[u8]]) -> Result<(), WireError> {
        let mut begin = 0;
        while begin < documents.len() {
            let end = begin + chunk_length(&documents[begin..]);
            let mut updates = Vec::new();
            for document in &documents[begin..end] {
                updates.extend(replacement(document, Form::Literal)?);
            }
            let mut command = rawdoc! {
                "update": self.target.collection.as_str(), "ordered": false, "writeConcern": { "w": 1, "j": false },
            };
            self.append_bypass(&mut command, false);
            command.append(bson::cstr!("$db"), self.target.database.as_str());
            self.connection
                .send(command.as_bytes(), Some(Sequence { name: "updates", documents: &updates.concat() }))
                .await?;
            let reply = self.connection.receive().await?;
            if let Some(refusal) = refusals_of(reply.document())?.into_iter().next() {
                return Err(ServerError {
                    code: refusal.code,
                    name: String::new(),
                    message: refusal.message,
                }
                .into());
            }
            begin = end;
        }
        Ok(())
    }
}

/// The positions of documents that hold an empty timestamp at the top level. Almost no document does; an empty timestamp is eight zero
/// bytes behind the NUL of its name, so one search over all bytes passes over most of them.
pub(super) fn with_empty_timestamps(bytes: &[u8], frames: &[&[u8]]) -> Vec<usize> {
    let finder = memmem::Finder::new(&[0; 9]);
    let (mut positions, mut offset, mut next_hit) = (Vec::new(), 0, finder.find(bytes));
    for (position, frame) in frames.iter().enumerate() {
        let end = offset + frame.len();
        if next_hit.is_some_and(|hit| hit < end) {
            if has_empty_timestamp(frame) {
                positions.push(position);
            }
            next_hit = finder.find(&bytes[end..]).map(|hit| end + hit);
        }
        offset = end;
    }
    positions
}

/// Whether a document holds an empty timestamp at the top level, which servers replace.
pub(crate) fn has_empty_timestamp(document: &[u8]) -> bool {
    raw::elements(document).map_while(Result::ok).any(|element| is_replaceable(&element))
}

/// True for what the server replaces when it inserts: every empty timestamp of the top level but an `_id`.
fn is_replaceable(element: &raw::Element<'_>) -> bool {
    element.kind == kind::TIMESTAMP && element.value == [0; 8] && element.key != b"_id"
}

/// Who may have put a document there that was to be inserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// Somebody else: nothing of this part has been sent before.
    Others,
    /// Perhaps an earlier try of ours.
    PerhapsUs,
}

/// What stands in the collection under a document's `_id`, compared with the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    /// Nothing, or another document.
    Different,
    /// The same bytes.
    Same,
    /// The same bytes, but for empty timestamps of ours that hold a time there: what a server makes of them when it inserts.
    Replaced,
}

fn comparison(ours: &[u8], stored: &[u8]) -> Result<Stored, WireError> {
    if ours == stored {
        return Ok(Stored::Same);
    }
    if ours.len() != stored.len() || !has_empty_timestamp(ours) {
        return Ok(Stored::Different);
    }
    let mut masked = stored.to_vec();
    for element in raw::elements(ours) {
        let element = element?;
        if is_replaceable(&element) {
            masked[element.offset..element.offset + element.value.len()].fill(0);
        }
    }
    Ok(if masked == ours { Stored::Replaced } else { Stored::Different })
}

/// How many of `documents` go into one lookup or correction: at least one.
fn chunk_length(documents: &[&[u8]]) -> usize {
    let mut bytes = 0;
    let fits = documents.iter().take(SMALL_DOCUMENTS).take_while(|document| {
        bytes += document.len();
        bytes <= SMALL_BYTES
    });
    fits.count().max(1)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use bson::{Document, Timestamp, doc};
    use mainstay_engine::{CollectionKind, Namespace};
    use mainstay_model::Secret;
    use mainstay_testkit::{shared_mongod, unique_database};

    use super::super::tests::concatenation;
    use super::*;
    use crate::config::MongoConfig;
    use crate::server::MongoServer;

    const EMPTY: Timestamp = Timestamp { time: 0, increment: 0 };

    #[test]
    fn documents_are_compared_byte_for_byte_but_for_replaced_timestamps() {
        let compared = |ours: Document, stored: Document| {
            comparison(&ours.to_vec().unwrap(), &stored.to_vec().unwrap()).unwrap()
        };
        let at = Timestamp { time: 9, increment: 9 };
        let ours = doc! { "_id": 1, "at": EMPTY, "x": 1 };
        assert_eq!(compared(ours.clone(), ours.clone()), Stored::Same);
        assert_eq!(compared(ours.clone(), doc! { "_id": 1, "at": at, "x": 1 }), Stored::Replaced);
        assert_eq!(compared(ours, doc! { "_id": 1, "at": at, "x": 2 }), Stored::Different);
        assert_eq!(compared(doc! { "_id": 1, "at": at }, doc! { "_id": 1, "at": EMPTY }), Stored::Different);
        assert_eq!(compared(doc! { "_id": 1, "n": 1 }, doc! { "_id": 1, "n": 1_i64 }), Stored::Different);
    }

    /// A loader into the collection `a` of a new database, and that collection.
    async fn loader(capped: bool) -> (MongoLoader, mongodb::Collection<Document>) {
        let (mongod, database) = (shared_mongod(), unique_database());
        let server = MongoServer::open(&MongoConfig::new(Secret::new(mongod.uri()))).await.unwrap();
        let client = mongod.oracle().await;
        if capped {
            let create = doc! { "create": "a", "capped": true, "size": 1_000_000 };
            client.database(&database).run_command(create).await.unwrap();
        }
        let target = Namespace::new(&database, "a");
        let loader = MongoLoader::open(server, &target, CollectionKind::Collection).await.unwrap();
        (loader, client.database(&database).collection("a"))
    }

    async fn stored(collection: &mongodb::Collection<Document>, id: i32) -> Document {
        collection.find_one(doc! { "_id": id }).await.unwrap().unwrap()
    }

    /// What a server before 5.0.29, 6.0.17 or 7.0.13 needs; the one at hand takes the correction too.
    #[tokio::test]
    async fn old_servers_get_their_empty_timestamps_corrected() {
        let documents =
            [doc! { "_id": 1, "at": EMPTY }, doc! { "_id": 2, "a": EMPTY, "b": EMPTY }, doc! { "_id": 3 }];
        let bytes = concatenation(&documents);
        for capped in [false, true] {
            let (mut loader, collection) = loader(capped).await;
            loader.bypass.empty_timestamps = false;
            // An earlier try had inserted the first and lost its connection before the correction: the server has put a time there.
            collection.insert_one(&documents[0]).await.unwrap();
            assert_ne!(stored(&collection, 1).await, documents[0]);
            loader.landed = true;
            let outcome = loader.try_part(&Part::of(&bytes).unwrap()).await.unwrap();
            assert_eq!((outcome.inserted, outcome.identical, outcome.failures.len()), (2, 1, 0));
            let again = loader.send(&bytes).await.unwrap();
            assert_eq!((again.inserted, again.identical, again.failures.len()), (0, 3, 0));
            for (document, id) in documents.iter().zip(1..) {
                assert_eq!(stored(&collection, id).await, *document);
            }
            collection.drop().await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_time_that_was_there_before_is_another_document() {
        let ours = doc! { "_id": 1, "at": EMPTY };
        let theirs = doc! { "_id": 1, "at": Timestamp { time: 9, increment: 9 } };
        // With the bypass nothing of ours can have got a time, whether this is a repeat or not; without it, in a first try.
        for (bypass, landed) in [(true, false), (true, true), (false, false)] {
            let (mut loader, collection) = loader(false).await;
            loader.bypass.empty_timestamps = bypass;
            collection.insert_one(&theirs).await.unwrap();
            loader.landed = landed;
            let bytes = concatenation(std::slice::from_ref(&ours));
            let outcome = loader.try_part(&Part::of(&bytes).unwrap()).await.unwrap();
            assert_eq!((outcome.inserted, outcome.identical, outcome.failures.len()), (0, 0, 1));
            assert_eq!(stored(&collection, 1).await, theirs);
            collection.drop().await.unwrap();
        }
    }
}
