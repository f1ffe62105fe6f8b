//! One step of a segment: its range found, changed, kept and written down.

use bson::{RawDocumentBuf, rawdoc};
use mainstay_engine::{BackfillHold, BackfillStep};
use mainstay_model::{Count, Error, ErrorKind, Result};

use super::talk::{Failure, Talk, retried};
use super::{SEGMENTS, UNDO, Update, Work, entry, ledger, owned, stages};
use crate::catalog::OWN_DATABASE;
use crate::metadata::array;
use crate::raw::{self, DocumentWriter, kind};
use crate::server::MongoServer;
use crate::topology::Topology;

/// How large one document of kept values may become; the server's own end is 16 MiB.
const PART_BYTES_MAX: usize = 12 * 1024 * 1024;

/// A segment as it is in the store.
struct Segment {
    /// Where its next range begins: `{_id: …}`, included; from the first key when absent.
    at: Option<RawDocumentBuf>,
    /// Where it ends: `{_id: …}`, not included.
    before: Option<RawDocumentBuf>,
    /// How many parts were kept of it.
    parts: i32,
    is_done: bool,
}

/// A range of keys.
struct Range {
    from: Option<RawDocumentBuf>,
    before: Option<RawDocumentBuf>,
    /// Whether nothing of the segment is behind it.
    is_last: bool,
}

pub(super) async fn step(
    server: &MongoServer,
    work: &Work<'_>,
    hold: &BackfillHold,
    number: u32,
    keys: u32,
) -> Result<BackfillStep> {
    let has_transactions = Topology::of(&server.hello().await?) != Topology::Standalone;
    let name = ledger::segment_name(&work.key, hold.round, number);
    let step = Step { server, work, hold, number, name: &name, keys, has_transactions };
    retried(server, || step.attempt()).await
}

/// A step, to be tried as often as it takes.
struct Step<'a> {
    server: &'a MongoServer,
    work: &'a Work<'a>,
    hold: &'a BackfillHold,
    number: u32,
    name: &'a str,
    keys: u32,
    has_transactions: bool,
}

impl Step<'_> {
    /// Everything anew: where the segment is may have changed with a transaction whose end was not told.
    async fn attempt(&self) -> Result<BackfillStep, Failure> {
        let mut talk = Talk::begin(self.server, self.has_transactions).await?;
        ledger::note_session(self.server, self.work, &self.hold.token, &talk).await?;
        match self.inside(&mut talk).await {
            Ok(step) => {
                talk.commit().await?;
                Ok(step)
            }
            Err(failure) => {
                talk.abort().await;
                Err(failure)
            }
        }
    }

    /// What is done in one transaction, where there are any: where the segment is belongs to the same moment as its documents.
    async fn inside(&self, talk: &mut Talk<'_>) -> Result<BackfillStep, Failure> {
        let segment = self.segment(talk).await?;
        if segment.is_done {
            return Ok(BackfillStep { changed: 0, is_last: true });
        }
        let range = self.range(talk, &segment).await?;
        let before = self.guarded(talk, &range).await?;
        let mut parts = segment.parts;
        let changed =
            if before.is_empty() { 0 } else { self.change(talk, &range, &before, &mut parts).await? };
        self.advance(talk, &range, changed, parts).await?;
        Ok(BackfillStep { changed, is_last: range.is_last })
    }

    async fn segment(&self, talk: &mut Talk<'_>) -> Result<Segment, Failure> {
        let command = rawdoc! {
            "find": SEGMENTS, "filter": { "_id": self.name, "token": self.hold.token.as_str() },
            "limit": 1, "singleBatch": true,
        };
        let found = talk.read(OWN_DATABASE, command).await?.into_iter().next();
        let found = found.ok_or_else(|| ledger::lost(&self.hold.id))?;
        let bound = |name: &str| found.get_document(name).ok().map(ToOwned::to_owned);
        Ok(Segment {
            at: bound("at"),
            before: bound("before"),
            parts: found.get_i32("parts").unwrap_or(0),
            is_done: found.get_bool("done").unwrap_or(false),
        })
    }

    /// The next so many keys, found in the index on `_id` alone.
    async fn range(&self, talk: &mut Talk<'_>, segment: &Segment) -> Result<Range, Failure> {
        let mut command = rawdoc! {
            "find": self.work.namespace.collection.as_str(), "projection": { "_id": 1 }, "sort": { "_id": 1 },
            "skip": i64::from(self.keys), "limit": 1, "singleBatch": true,
        };
        bound(&mut command, segment.at.as_ref(), segment.before.as_ref());
        let found = talk.read(&self.work.namespace.database, command).await?.into_iter().next();
        let from = segment.at.clone();
        Ok(match found {
            Some(next) => Range { from, before: Some(key_of(&next)?), is_last: false },
            None => Range { from, before: segment.before.clone(), is_last: true },
        })
    }

    /// The documents of the range that the guard means, by key, as far as they are kept.
    async fn guarded(&self, talk: &mut Talk<'_>, range: &Range) -> Result<Vec<RawDocumentBuf>, Failure> {
        let mut command = rawdoc! {
            "find": self.work.namespace.collection.as_str(), "filter": self.work.guard.clone(),
            "projection": self.work.projection(), "sort": { "_id": 1 }, "batchSize": i32::MAX,
        };
        bound(&mut command, range.from.as_ref(), range.before.as_ref());
        talk.read(&self.work.namespace.database, command).await
    }

    async fn change(
        &self,
        talk: &mut Talk<'_>,
        range: &Range,
        before: &[RawDocumentBuf],
        parts: &mut i32,
    ) -> Result<u64, Failure> {
        let namespace = self.work.namespace;
        let (met, changed) = talk.write(&namespace.database, self.work.command(meant(before)?)).await?;
        if self.has_transactions && met != before.len() as u64 {
            return Err(Error::new(
                ErrorKind::Internal,
                format!("the update met {} documents, {} were read before", Count(met), before.len()),
            )
            .into());
        }
        if self.work.keeps_undo {
            let after = self.again(talk, range, before).await?;
            for part in packed(before, &after, self.work.fields)? {
                self.keep(talk, *parts, part).await?;
                *parts += 1;
            }
        }
        Ok(changed)
    }

    /// The same documents after the change, by key. Where the guard means most of a range, the range is read again, which is less work for the
    /// server than to look as many keys up.
    async fn again(
        &self,
        talk: &mut Talk<'_>,
        range: &Range,
        before: &[RawDocumentBuf],
    ) -> Result<Vec<RawDocumentBuf>, Failure> {
        let mut command = rawdoc! {
            "find": self.work.namespace.collection.as_str(), "projection": self.work.projection(),
            "sort": { "_id": 1 }, "batchSize": i32::MAX,
        };
        if before.len() as u64 * 2 < u64::from(self.keys) {
            command.append(bson::cstr!("filter"), rawdoc! { "_id": { "$in": ids(before)? } });
            return talk.read(&self.work.namespace.database, command).await;
        }
        bound(&mut command, range.from.as_ref(), range.before.as_ref());
        let found = talk.read(&self.work.namespace.database, command).await?;
        Ok(among(found, before)?)
    }

    async fn keep(&self, talk: &mut Talk<'_>, part: i32, packed: Packed) -> Result<(), Failure> {
        let mut document = rawdoc! {
            "_id": format!("{}.{part}", self.name), "run": self.work.key.as_str(),
            "round": i64::from(self.hold.round), "segment": i64::from(self.number), "part": part,
            "count": packed.count, "undone": false,
        };
        document = with_array(&document, "entries", &packed.entries);
        let command = rawdoc! { "insert": UNDO, "documents": array([&document]) };
        talk.write(OWN_DATABASE, command).await?;
        Ok(())
    }

    /// Writes down how far the segment is. Whoever no longer holds the run does not.
    async fn advance(
        &self,
        talk: &mut Talk<'_>,
        range: &Range,
        changed: u64,
        parts: i32,
    ) -> Result<(), Failure> {
        let mut set = rawdoc! { "done": range.is_last, "parts": parts };
        if let (false, Some(next)) = (range.is_last, &range.before) {
            set.append(bson::cstr!("at"), next.clone());
        }
        let changed = i64::try_from(changed).unwrap_or(i64::MAX);
        let update = rawdoc! {
            "q": { "_id": self.name, "token": self.hold.token.as_str() },
            "u": { "$set": set, "$inc": { "changed": changed } },
        };
        let command = rawdoc! { "update": SEGMENTS, "updates": array([&update]) };
        let (met, _) = talk.write(OWN_DATABASE, command).await?;
        if met == 1 { Ok(()) } else { Err(ledger::lost(&self.hold.id).into()) }
    }
}

impl Work<'_> {
    /// The update of all documents that `these` means and the guard still means.
    pub(super) fn command(&self, these: RawDocumentBuf) -> RawDocumentBuf {
        let mut update = rawdoc! { "q": { "$and": array([&these, &self.guard]) }, "multi": true };
        match &self.update {
            Update::Pipeline(pipeline) => update.append(bson::cstr!("u"), stages(pipeline)),
            Update::Operators(operators) => update.append(bson::cstr!("u"), operators.clone()),
        }
        rawdoc! { "update": self.namespace.collection.as_str(), "updates": array([&update]) }
    }
}

/// Keeps a query to a range of the index on `_id`, whose order is one over all types.
pub(super) fn bound(
    command: &mut RawDocumentBuf,
    from: Option<&RawDocumentBuf>,
    before: Option<&RawDocumentBuf>,
) {
    command.append(bson::cstr!("hint"), rawdoc! { "_id": 1 });
    if let Some(from) = from {
        command.append(bson::cstr!("min"), from.clone());
    }
    if let Some(before) = before {
        command.append(bson::cstr!("max"), before.clone());
    }
}

/// `{_id: …}` of a document.
pub(super) fn key_of(document: &bson::RawDocument) -> Result<RawDocumentBuf> {
    Ok(owned(entry::id_of(document)?.alone("_id")))
}

/// A filter that means the documents of `sorted`, by key, and others only if they came among them: by a range where all are of one type, because
/// a filter's range ends where another type begins.
fn meant(sorted: &[RawDocumentBuf]) -> Result<RawDocumentBuf> {
    let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else {
        return Ok(rawdoc! { "_id": { "$in": bson::RawArrayBuf::new() } });
    };
    let (first, last) = (entry::id_of(first)?, entry::id_of(last)?);
    // Nothing is greater than what is no number, nor less.
    let is_nan = first.kind == kind::DOUBLE
        && first.value.try_into().is_ok_and(|bytes: [u8; 8]| f64::from_le_bytes(bytes).is_nan());
    if first.kind != last.kind || is_nan {
        return Ok(rawdoc! { "_id": { "$in": ids(sorted)? } });
    }
    let mut range = DocumentWriter::new();
    range.element(first.kind, "$gte", first.value);
    range.element(last.kind, "$lte", last.value);
    Ok(rawdoc! { "_id": owned(range.finish()) })
}

/// The `_id`s of documents.
pub(super) fn ids<'d>(documents: impl IntoIterator<Item = &'d RawDocumentBuf>) -> Result<bson::RawArrayBuf> {
    let mut list = bson::RawArrayBuf::new();
    for document in documents {
        let id = document.get("_id").ok().flatten();
        list.push(
            id.ok_or_else(|| Error::new(ErrorKind::Corrupt, "the server sent a document without `_id`"))?,
        );
    }
    Ok(list)
}

/// Those of `found` that are in `wanted`, too. Both come by key.
fn among(found: Vec<RawDocumentBuf>, wanted: &[RawDocumentBuf]) -> Result<Vec<RawDocumentBuf>> {
    let mut kept = Vec::with_capacity(wanted.len());
    for document in found {
        let Some(next) = wanted.get(kept.len()) else { break };
        let is_next = {
            let (one, other) = (entry::id_of(&document)?, entry::id_of(next)?);
            (one.kind, one.value) == (other.kind, other.value)
        };
        if is_next {
            kept.push(document);
        }
    }
    Ok(kept)
}

/// Entries that go into one document of the store.
struct Packed {
    /// The bytes of an array.
    entries: Vec<u8>,
    count: i32,
}

/// The entries of documents before and after, both by key, in as many documents as it takes.
fn packed(before: &[RawDocumentBuf], after: &[RawDocumentBuf], fields: &[String]) -> Result<Vec<Packed>> {
    let mut full = Vec::new();
    let (mut list, mut count, mut bytes) = (DocumentWriter::new(), 0, 0);
    if before.len() != after.len() {
        return Err(Error::new(ErrorKind::Internal, "documents are gone that were changed a moment ago"));
    }
    for (before, after) in before.iter().zip(after) {
        let (one, other) = (entry::id_of(before)?, entry::id_of(after)?);
        if (one.kind, one.value) != (other.kind, other.value) {
            return Err(Error::new(ErrorKind::Internal, "documents come in another order than before"));
        }
        let Some(entry) = entry::of(before, after, fields)? else { continue };
        if entry.len() > PART_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::Precondition,
                "a document's fields are too large to be kept before and after",
            )
            .with_hint("say `undo = false`, and take a backup first"));
        }
        if bytes + entry.len() > PART_BYTES_MAX {
            let entries = std::mem::replace(&mut list, DocumentWriter::new()).finish();
            full.push(Packed { entries, count });
            (count, bytes) = (0, 0);
        }
        list.element(kind::DOCUMENT, &count.to_string(), &entry);
        count += 1;
        bytes += entry.len() + 16;
    }
    if count > 0 {
        full.push(Packed { entries: list.finish(), count });
    }
    Ok(full)
}

/// `document` with an array at its end.
fn with_array(document: &bson::RawDocument, name: &str, bytes: &[u8]) -> RawDocumentBuf {
    let mut writer = DocumentWriter::new();
    for element in raw::elements(document.as_bytes()).map_while(std::result::Result::ok) {
        writer.raw_element(element.kind, element.key, element.value);
    }
    writer.element(kind::ARRAY, name, bytes);
    owned(writer.finish())
}

/// The `n` of a reply that counts.
pub(super) fn counted(documents: &[RawDocumentBuf]) -> u64 {
    let first = documents.first().and_then(|first| raw::find(first.as_bytes(), "n").ok().flatten());
    first.and_then(|count| u64::try_from(count.number()?).ok()).unwrap_or(0)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_used_within_one_type_alone() {
        let numbers = [rawdoc! { "_id": 1 }, rawdoc! { "_id": 5 }, rawdoc! { "_id": 9 }];
        assert_eq!(meant(&numbers).unwrap(), rawdoc! { "_id": { "$gte": 1, "$lte": 9 } });
        let odd = [rawdoc! { "_id": f64::NAN }, rawdoc! { "_id": 1.5 }];
        assert!(meant(&odd).unwrap().get_document("_id").unwrap().get("$in").unwrap().is_some());
        let mixed = [rawdoc! { "_id": 1 }, rawdoc! { "_id": "a" }];
        assert_eq!(meant(&mixed).unwrap(), rawdoc! { "_id": { "$in": [1, "a"] } });
    }

    #[test]
    fn documents_that_were_not_changed_are_passed_by() {
        let found = (0..6).map(|id| rawdoc! { "_id": id, "a": 2 }).collect();
        let wanted = [rawdoc! { "_id": 1, "a": 1 }, rawdoc! { "_id": 4, "a": 1 }];
        let kept = among(found, &wanted).unwrap();
        assert_eq!(kept, [rawdoc! { "_id": 1, "a": 2 }, rawdoc! { "_id": 4, "a": 2 }]);
    }

    #[test]
    fn large_values_go_into_several_documents() {
        let text = "x".repeat(5 * 1024 * 1024);
        let document = |id: i32, text: &str| rawdoc! { "_id": id, "t": text };
        let before: Vec<_> = (0..4).map(|id| document(id, &text)).collect();
        let after: Vec<_> = (0..4).map(|id| document(id, "y")).collect();
        let parts = packed(&before, &after, &["t".to_owned()]).unwrap();
        let counts: Vec<i32> = parts.iter().map(|part| part.count).collect();
        assert_eq!(counts, [2, 2]);
        let swapped: Vec<_> = after.into_iter().rev().collect();
        assert!(packed(&before, &swapped, &["t".to_owned()]).is_err());
    }
}
