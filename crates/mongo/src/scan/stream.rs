//! One range, streamed: a cursor on a connection of its own, driven ahead of whoever consumes it.
//!
//! A task owns the connection. It asks for the next batch before it hands on the present one, and one more batch waits in a channel, so
//! that server, network and consumer work at the same time; no more than three batches exist at once.
//!
//! When the connection breaks or the server says that it failed for the moment, the cursor is opened again after the last document handed
//! on: by the server's own resume token in storage order, by the last `_id` in index order. That is exact at a cluster time. Without one,
//! storage order can be continued as long as the last record still exists; otherwise the server refuses and the error tells to read the
//! range again. Dropping the stream kills the server's cursor, as far as the connection still serves.

use async_trait::async_trait;
use bson::{RawArrayBuf, RawDocumentBuf, rawdoc};
use mainstay_engine::{DocumentBatch, DocumentStream, document_frames};
use mainstay_model::{Error, ErrorKind, ErrorStatus, Result};
use tokio::sync::mpsc;

use super::ScanTarget;
use super::bounds::{Boundary, Bounds, RecordId};
use crate::error::{WireError, code};
use crate::page::Page;
use crate::raw;
use crate::server::{self, MongoServer};
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
    /// The collation of the index on `_id`.
    pub(super) collation: Option<RawDocumentBuf>,
    /// The expected size of a document.
    pub(super) document_bytes: u64,
}

/// The consumer's end.
pub(super) struct MongoStream {
    batches: mpsc::Receiver<Result<DocumentBatch>>,
}

impl MongoStream {
    /// Begins to read at once.
    pub(super) fn begin(server: MongoServer, plan: CursorPlan) -> Self {
        let (hand_on, batches) = mpsc::channel(1);
        tokio::spawn(Reader::new(server, plan).run(hand_on));
        Self { batches }
    }
}

#[async_trait]
impl DocumentStream for MongoStream {
    async fn next(&mut self) -> Result<Option<DocumentBatch>> {
        self.batches.recv().await.transpose()
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
    sizer: BatchSizer,
}

impl Reader {
    fn new(server: MongoServer, plan: CursorPlan) -> Self {
        let sizer = BatchSizer { documents: 0, bytes: 0, expected: plan.document_bytes.max(1) };
        Self { server, plan, place: Place::Begin, sizer }
    }

    async fn run(mut self, hand_on: mpsc::Sender<Result<DocumentBatch>>) {
        let mut incident = self.server.retry().incident();
        loop {
            let error = match self.read(&hand_on, &mut incident).await {
                Ok(Ended::Complete | Ended::Abandoned) => return,
                Err(error) => error,
            };
            if matches!(self.place, Place::Lost) || !error.is_temporary() {
                let _ = hand_on.send(Err(self.told(error))).await;
                return;
            }
            match incident.next_delay() {
                Some(delay) if !hand_on.is_closed() => server::pause(delay).await,
                Some(_) => return,
                None => {
                    let tries = incident.tries();
                    let spent = error
                        .with_status(ErrorStatus::Persistent)
                        .context(format!("after {tries} more tries"));
                    let _ = hand_on.send(Err(self.told(spent))).await;
                    return;
                }
            }
        }
    }

    fn told(&self, error: Error) -> Error {
        error.context(format!("read {}", self.plan.target.namespace))
    }

    /// Opens a connection and a cursor at the present place, and reads until the range ends.
    async fn read(
        &mut self,
        hand_on: &mpsc::Sender<Result<DocumentBatch>>,
        incident: &mut crate::config::Incident,
    ) -> Result<Ended> {
        let mut connection = self.server.dial().await?;
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
                if hand_on.send(Ok(batch)).await.is_err() {
                    self.abandon(connection, cursor, more && asked.is_ok()).await;
                    return Ok(Ended::Abandoned);
                }
            }
            asked?;
            if passed.is_some() {
                self.abandon(connection, cursor, false).await;
                return Ok(Ended::Complete);
            }
            if exhausted {
                return self.complete();
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
            Bounds::Index { min, max } => {
                find.append(bson::cstr!("hint"), rawdoc! { "_id": 1 });
                let begin = match &self.place {
                    Place::AfterId(id) => Some(id.as_slice()),
                    _ => min.as_ref().map(|min| min.bytes()),
                };
                append_document(&mut find, bson::cstr!("min"), begin);
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

    /// The cursor is exhausted. A range that was to end at a boundary must have met it.
    fn complete(&self) -> Result<Ended> {
        match &self.plan.bounds {
            Bounds::Natural { through: Some(_), .. } => Err(missing_boundary()),
            _ => Ok(Ended::Complete),
        }
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
mod tests {
    use super::*;

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
