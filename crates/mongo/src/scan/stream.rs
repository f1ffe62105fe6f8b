//! One range, streamed: a cursor on a connection of its own, driven ahead of whoever consumes it.
//!
//! A task owns the connection. It asks for the next batch before it hands on the present one, and one more batch waits in a channel, so
//! that server, network and consumer work at the same time; no more than three batches exist at once.
//!
//! When the connection breaks or the server says that it failed for the moment, the cursor is opened again after the last document handed
//! on: by the server's own resume token in storage order, by the last `_id` in index order. That is exact at a cluster time. Without one,
//! storage order can be continued as long as the last record still exists; otherwise the server refuses and the error tells to read the
//! range again. Dropping the stream kills the server's cursor, as far as the connection still serves.
//!
//! A cursor in storage order stays with its member, whatever elections make of that: see the members' part of [`super`]. One in index order goes
//! on with any other.
//!
//! The end of a range is said in so many words: a task that dies without saying it makes an error, never a short range.

use async_trait::async_trait;
use bson::{RawArrayBuf, RawBson, RawDocumentBuf, rawdoc};
use mainstay_engine::{DocumentBatch, DocumentStream, ScanSetback, document_frames};
use mainstay_model::{Error, ErrorKind, ErrorStatus, Result};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::bounds::{Boundary, Bounds, Exact, RecordId};
use super::{ScanTarget, any_member};
use crate::config::Incident;
use crate::error::{WireError, code};
use crate::page::Page;
use crate::raw;
use crate::server::MongoServer;
use crate::wire::Connection;

/// How large a batch is meant to be: larger ones fall out of the processor's caches, smaller ones cost round trips.
const BATCH_BYTES: u64 = 1_500_000;

/// The most documents in one batch.
const BATCH_DOCUMENTS_MAX: u64 = 4_000;

/// What a cursor is to read, and how.
pub(super) struct CursorPlan {
    pub(super) target: ScanTarget,
    pub(super) bounds: Bounds,
    /// Whether the server walks in an order that can be continued.
    pub(super) resumable: bool,
    /// The member to read; the server that takes writes when none is named.
    pub(super) member: Option<String>,
    /// The collation of the index on `_id`.
    pub(super) collation: Option<RawDocumentBuf>,
    /// The expected size of a document.
    pub(super) document_bytes: u64,
    /// Whether the collection was said to hold documents.
    pub(super) documents_expected: bool,
}

/// The consumer's end.
pub(super) struct MongoStream {
    handed: mpsc::Receiver<Handed>,
    ended: bool,
}

/// What the task hands on.
enum Handed {
    /// The next batch.
    Batch(DocumentBatch),
    /// Why there are no more batches although the range has not been read.
    Failure(Error),
    /// The range has been read.
    End,
}

impl MongoStream {
    /// Begins to read at once.
    pub(super) fn begin(server: MongoServer, plan: CursorPlan) -> Self {
        let (hand_on, handed) = mpsc::channel(1);
        tokio::spawn(Reader::new(server, plan).run(hand_on));
        Self { handed, ended: false }
    }
}

#[async_trait]
impl DocumentStream for MongoStream {
    async fn next(&mut self) -> Result<Option<DocumentBatch>> {
        if self.ended {
            return Ok(None);
        }
        match self.handed.recv().await {
            Some(Handed::Batch(batch)) => Ok(Some(batch)),
            Some(Handed::Failure(error)) => Err(error),
            Some(Handed::End) => {
                self.ended = true;
                Ok(None)
            }
            None => {
                Err(Error::new(ErrorKind::Internal, "the reader of a range stopped before the range's end")
                    .with_state("the range was read in part")
                    .with_hint("run the command again; if it happens again, report it"))
            }
        }
    }
}

/// Where the next cursor has to begin.
#[derive(Debug, Clone)]
enum Place {
    /// Where the range begins; nothing has been handed on.
    Begin,
    /// After this resume token, in storage order.
    AfterToken(Vec<u8>),
    /// After the document with this `{_id: …}`, in index order.
    AfterId(Vec<u8>),
    /// Something was handed on and the order is unknown: the range cannot be continued.
    Lost,
}

/// What the present cursor reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The range, or what is left of it.
    Range,
    /// The document whose `_id` is `MaxKey`, if there is one: with a `min` and no `max` the server ends before it.
    Greatest,
}

/// How one cursor ended without an error.
enum Ended {
    /// The range has been read.
    Complete,
    /// The consumer has gone.
    Abandoned,
}

/// The task's end.
struct Reader {
    server: MongoServer,
    plan: CursorPlan,
    place: Place,
    stage: Stage,
    sizer: BatchSizer,
    /// The member that the cursor has to be opened on.
    member: Option<String>,
}

impl Reader {
    fn new(server: MongoServer, mut plan: CursorPlan) -> Self {
        let member = plan.member.take();
        let sizer = BatchSizer { documents: 0, bytes: 0, expected: plan.document_bytes.max(1) };
        Self { server, plan, place: Place::Begin, stage: Stage::Range, sizer, member }
    }

    async fn run(mut self, hand_on: mpsc::Sender<Handed>) {
        let mut incident = self.server.retry().incident();
        loop {
            let error = match self.read(&hand_on, &mut incident).await {
                Ok(Ended::Complete) => {
                    let _ = hand_on.send(Handed::End).await;
                    return;
                }
                Ok(Ended::Abandoned) => return,
                Err(error) => error,
            };
            if matches!(self.place, Place::Lost) || !error.is_temporary() {
                let _ = hand_on.send(Handed::Failure(self.told(error))).await;
                return;
            }
            if self.may_move() {
                self.member = None;
            }
            match incident.next_delay() {
                Some(delay) if !hand_on.is_closed() => sleep(delay).await,
                Some(_) => return,
                None => {
                    let tries = incident.tries();
                    let spent = self
                        .without_member(error)
                        .with_status(ErrorStatus::Persistent)
                        .context(format!("after {tries} more tries"));
                    let _ = hand_on.send(Handed::Failure(self.told(spent))).await;
                    return;
                }
            }
        }
    }

    /// Whether another member can go on from the present place: record ids are each member's own, values of `_id` are everybody's.
    fn may_move(&self) -> bool {
        match (&self.plan.bounds, &self.place) {
            (Bounds::Index { .. }, _) => true,
            (bounds, Place::Begin) => *bounds == Bounds::WHOLE,
            _ => false,
        }
    }

    /// The error of a member that stays away, which another one may be read instead of.
    fn without_member(&self, error: Error) -> Error {
        if self.member.is_some() && error.kind() == ErrorKind::Unreachable {
            error.with_source(ScanSetback::RangesLost)
        } else {
            error
        }
    }

    async fn dial(&mut self) -> Result<Connection> {
        let Some(member) = &self.member else {
            let connection = self.server.dial().await?;
            if matches!(self.plan.bounds, Bounds::Natural { .. }) {
                self.member.clone_from(&connection.greeting().member);
            }
            return Ok(connection);
        };
        self.server.dial_member(member).await
    }

    fn told(&self, error: Error) -> Error {
        error.context(format!("read {}", self.plan.target.namespace))
    }

    /// Opens a connection and a cursor at the present place, and reads until the range ends.
    async fn read(&mut self, hand_on: &mpsc::Sender<Handed>, incident: &mut Incident) -> Result<Ended> {
        let mut connection = self.dial().await?;
        let mut leaves_out_greatest = self.leaves_out_greatest();
        connection.send(self.find().as_bytes(), None).await?;
        loop {
            let mut page = match connection.receive().await {
                Ok(reply) => Page::take(reply)?,
                Err(error) => return Err(self.judged(error)),
            };
            let passed = self.passed_end(&page)?;
            if let Some(end) = &passed {
                page = end.cut(page)?;
            }
            self.skip_repeat(&mut page)?;
            // The server fetches the next batch while this one is handed on. What fails here is told when the next batch is due.
            let more = passed.is_none() && page.cursor != 0;
            let asked = if more {
                connection.send(self.get_more(page.cursor).as_bytes(), None).await
            } else {
                Ok(())
            };
            let (cursor, exhausted) = (page.cursor, page.cursor == 0);
            if page.documents > 0 {
                self.place = self.place_after(&page)?;
                incident.over();
                self.sizer.note(page.documents, page.bytes.len() as u64);
                let batch = DocumentBatch { bytes: page.bytes, documents: page.documents };
                if hand_on.send(Handed::Batch(batch)).await.is_err() {
                    self.abandon(connection, cursor, more && asked.is_ok()).await;
                    return Ok(Ended::Abandoned);
                }
            }
            asked?;
            if passed.is_some() {
                self.abandon(connection, cursor, false).await;
                return Ok(Ended::Complete);
            }
            if exhausted && leaves_out_greatest {
                leaves_out_greatest = false;
                self.stage = Stage::Greatest;
                connection.send(self.find().as_bytes(), None).await?;
            } else if exhausted {
                return self.complete().await;
            }
        }
    }

    /// An error of the server, which may mean that there is no place left to continue at.
    fn judged(&mut self, error: WireError) -> Error {
        if error.server_code() != Some(code::KEY_NOT_FOUND) || !matches!(self.place, Place::AfterToken(_)) {
            return error.into();
        }
        self.place = Place::Lost;
        Error::new(
            ErrorKind::Server,
            "the record after which the scan was to continue has been deleted meanwhile",
        )
        .with_status(ErrorStatus::Temporary)
        .with_hint("run the command again")
    }

    /// Where a cursor in index order begins: `{_id: …}`, inclusive.
    fn index_begin(&self) -> Option<&[u8]> {
        match (&self.place, &self.plan.bounds) {
            (Place::AfterId(id), _) => Some(id),
            (_, Bounds::Index { min, .. }) => min.as_ref().map(Exact::bytes),
            (_, Bounds::Natural { .. }) => None,
        }
    }

    /// Whether the cursor that [`Reader::find`] opens now would end before an `_id` of `MaxKey` that belongs to the range.
    fn leaves_out_greatest(&self) -> bool {
        self.stage == Stage::Range
            && matches!(self.plan.bounds, Bounds::Index { max: None, .. })
            && self.index_begin().is_some()
    }

    /// The command that opens the cursor.
    fn find(&self) -> RawDocumentBuf {
        let namespace = &self.plan.target.namespace;
        let mut find =
            rawdoc! { "find": namespace.collection.as_str(), "batchSize": self.sizer.batch_size() };
        match &self.plan.bounds {
            Bounds::Natural { after, .. } => {
                find.append(bson::cstr!("hint"), rawdoc! { "$natural": 1 });
                if self.plan.resumable {
                    find.append(bson::cstr!("$_requestResumeToken"), true);
                }
                let begin = match &self.place {
                    Place::AfterToken(token) => Some(token.as_slice()),
                    _ => after.as_ref().map(|boundary| boundary.token.bytes()),
                };
                append_document(&mut find, bson::cstr!("$_resumeAfter"), begin);
            }
            Bounds::Index { .. } if self.stage == Stage::Greatest => {
                find.append(bson::cstr!("filter"), rawdoc! { "_id": RawBson::MaxKey });
            }
            Bounds::Index { max, .. } => {
                find.append(bson::cstr!("hint"), rawdoc! { "_id": 1 });
                append_document(&mut find, bson::cstr!("min"), self.index_begin());
                append_document(&mut find, bson::cstr!("max"), max.as_ref().map(|max| max.bytes()));
                append_document(
                    &mut find,
                    bson::cstr!("collation"),
                    self.plan.collation.as_ref().map(|it| it.as_bytes()),
                );
            }
        }
        if let Some(read_concern) = self.plan.target.read_concern() {
            find.append(bson::cstr!("readConcern"), read_concern);
        }
        if self.member.is_some() {
            find.append(bson::cstr!("$readPreference"), any_member());
        }
        find.append(bson::cstr!("$db"), namespace.database.as_str());
        find
    }

    fn get_more(&self, cursor: i64) -> RawDocumentBuf {
        let namespace = &self.plan.target.namespace;
        rawdoc! {
            "getMore": cursor,
            "collection": namespace.collection.as_str(),
            "batchSize": self.sizer.batch_size(),
            "$db": namespace.database.as_str(),
        }
    }

    /// The range's last document, once a page has reached it.
    fn passed_end(&self, page: &Page) -> Result<Option<Boundary>, WireError> {
        let Bounds::Natural { through: Some(end), .. } = &self.plan.bounds else { return Ok(None) };
        let Some(token) = &page.token else {
            return Err(WireError::Protocol(
                "a batch without the resume token that was asked for".to_owned(),
            ));
        };
        let reached = raw::find(token, "$recordId")?.and_then(|record| RecordId::of(&record));
        Ok(reached.is_some_and(|record| record >= end.record).then(|| end.clone()))
    }

    /// After a continuation in index order the first document is the last one handed on, because `min` is inclusive.
    fn skip_repeat(&self, page: &mut Page) -> Result<(), WireError> {
        let Place::AfterId(handed_on) = &self.place else { return Ok(()) };
        let Some(Ok(first)) = document_frames(&page.bytes).next() else { return Ok(()) };
        if raw::id_of(first)?.is_some_and(|id| id.alone("_id") == *handed_on) {
            let length = first.len();
            page.bytes = page.bytes.slice(length..);
            page.documents -= 1;
            page.last = page.last.saturating_sub(length);
        }
        Ok(())
    }

    /// Where a cursor would have to begin once this page has been handed on.
    fn place_after(&self, page: &Page) -> Result<Place, WireError> {
        if !self.plan.resumable {
            return Ok(Place::Lost);
        }
        match (&self.plan.bounds, &page.token, page.last_document()) {
            (Bounds::Natural { .. }, Some(token), _) => Ok(Place::AfterToken(token.clone())),
            (Bounds::Index { .. }, _, Some(last)) => {
                Ok(raw::id_of(last)?.map_or(Place::Lost, |id| Place::AfterId(id.alone("_id"))))
            }
            _ => Ok(Place::Lost),
        }
    }

    /// The cursor is exhausted. A range that was to end at a boundary must have met it, and a collection that is gone reads as an empty one.
    async fn complete(&self) -> Result<Ended> {
        match &self.plan.bounds {
            Bounds::Natural { through: Some(_), .. } => Err(missing_boundary()),
            _ if self.sizer.documents == 0 && self.plan.documents_expected => self.check_presence().await,
            _ => Ok(Ended::Complete),
        }
    }

    async fn check_presence(&self) -> Result<Ended> {
        let namespace = &self.plan.target.namespace;
        let listing = rawdoc! {
            "listCollections": 1, "nameOnly": true, "filter": { "name": namespace.collection.as_str() }, "cursor": {},
        };
        if self.server.list(&namespace.database, listing).await?.is_empty() {
            return Err(Error::new(
                ErrorKind::NotFound,
                "the collection was dropped or renamed while it was read",
            )
            .with_hint("run the command again when nobody changes the collections"));
        }
        Ok(Ended::Complete)
    }

    /// Kills the cursor, after the reply that is still to come if a batch has been asked for. Best effort: a cursor that stays is closed
    /// by the server after ten idle minutes.
    async fn abandon(&self, mut connection: Connection, cursor: i64, awaiting_reply: bool) {
        if awaiting_reply && connection.receive().await.is_err() {
            return;
        }
        if cursor != 0 {
            let namespace = &self.plan.target.namespace;
            let mut cursors = RawArrayBuf::new();
            cursors.push(cursor);
            let kill = rawdoc! {
                "killCursors": namespace.collection.as_str(), "cursors": cursors, "$db": namespace.database.as_str(),
            };
            let _ = connection.run(kill.as_bytes()).await;
        }
    }
}

impl Boundary {
    /// The documents of `page` up to and with this boundary's.
    fn cut(&self, mut page: Page) -> Result<Page> {
        let (mut offset, mut documents) = (0, 0);
        let bytes = page.bytes.clone();
        for frame in document_frames(&bytes) {
            let frame = frame.map_err(|error| WireError::Protocol(error.to_string()))?;
            documents += 1;
            let found = raw::id_of(frame)
                .map_err(WireError::from)?
                .is_some_and(|id| id.alone("_id") == self.id.bytes());
            if found {
                let end = offset + frame.len();
                page.last = offset;
                page.bytes = bytes.slice(..end);
                page.documents = documents;
                return Ok(page);
            }
            offset += frame.len();
        }
        Err(missing_boundary())
    }
}

fn missing_boundary() -> Error {
    Error::new(ErrorKind::Corrupt, "the document at which a range was to end was not met")
        .with_hint("take the backup anew; if it happens again, run validate() on the collection")
}

fn append_document(command: &mut RawDocumentBuf, key: &bson::raw::CStr, document: Option<&[u8]>) {
    if let Some(document) = document.and_then(|bytes| raw::as_document(bytes).ok()) {
        command.append(key, document);
    }
}

/// How many documents make a batch of the size meant, judged by those seen so far.
struct BatchSizer {
    documents: u64,
    bytes: u64,
    expected: u64,
}

impl BatchSizer {
    fn note(&mut self, documents: u64, bytes: u64) {
        self.documents += documents;
        self.bytes += bytes;
    }

    fn batch_size(&self) -> i64 {
        let average = self.bytes.checked_div(self.documents).unwrap_or(self.expected).max(1);
        let documents = (BATCH_BYTES / average).clamp(1, BATCH_DOCUMENTS_MAX);
        i64::try_from(documents).expect("bounded by BATCH_DOCUMENTS_MAX")
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn stream() -> (mpsc::Sender<Handed>, MongoStream) {
        let (hand_on, handed) = mpsc::channel(1);
        (hand_on, MongoStream { handed, ended: false })
    }

    #[tokio::test]
    async fn only_a_said_end_is_an_end() {
        let batch = DocumentBatch { bytes: Bytes::from_static(&[5, 0, 0, 0, 0]), documents: 1 };
        let (hand_on, mut dying) = stream();
        let task = tokio::spawn(async move {
            assert!(hand_on.send(Handed::Batch(batch)).await.is_err(), "the reader dies here");
        });
        assert_eq!(dying.next().await.unwrap().unwrap().documents, 1);
        assert_eq!(dying.next().await.unwrap_err().kind(), ErrorKind::Internal);
        assert!(task.await.unwrap_err().is_panic());

        let (hand_on, mut whole) = stream();
        hand_on.send(Handed::End).await.ok().unwrap();
        drop(hand_on);
        for _ in 0..2 {
            assert!(whole.next().await.unwrap().is_none());
        }
    }

    #[test]
    fn batches_aim_at_one_size() {
        let sizer = |expected| BatchSizer { documents: 0, bytes: 0, expected };
        assert_eq!(sizer(1).batch_size(), 4_000);
        assert_eq!(sizer(1_000).batch_size(), 1_500);
        assert_eq!(sizer(16_000_000).batch_size(), 1);
        let mut seen = sizer(100);
        seen.note(10, 100_000);
        assert_eq!(seen.batch_size(), 150);
    }
}
