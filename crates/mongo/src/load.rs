//! Filling a collection over one connection.
//!
//! A batch becomes `insert` commands whose documents travel as they are, beside the command (a section of kind 1). The write concern is
//! `{w: 1, j: false}` while the load runs; `finish` then waits once for everything, with an update that matches nothing and asks for
//! `{w: "majority", j: true}`: a write without effect waits for the newest operation of the server, so it covers all that was acknowledged
//! before, and needs no privilege that loading does not need.
//!
//! Three things would otherwise happen in silence:
//!
//! * *A repeat after a broken connection* meets its own documents. Every duplicate is therefore looked up by `_id` and compared byte for
//!   byte.
//! * *A restart or failover meanwhile* may have lost what was acknowledged without the journal. The server process and the election are
//!   compared on every new connection; when they differ the load fails and says so.
//! * *`Timestamp(0, 0)` at the top level* is replaced by the server with its clock (MongoDB manual, "BSON Types: Timestamps").
//!   `bypassEmptyTsReplacement` prevents that from 5.0.29, 6.0.17, 7.0.13 and 8.0 on; older servers get the true value with an update.
//!
//! Validators do not apply where the user may bypass them: what was in the source belongs into the copy. Documents are refused one by one
//! by the server and told one by one; the message never repeats their values.

use std::collections::HashMap;

use async_trait::async_trait;
use bson::oid::ObjectId;
use bson::{RawDocumentBuf, rawdoc};
use bytes::BytesMut;
use mainstay_engine::{
    CollectionKind, DocumentBatch, DocumentFailure, LoadOutcome, Loader, Namespace, document_frames,
};
use mainstay_model::{Error, ErrorKind, ErrorStatus, Result, ResultExt};
use memchr::memmem;

use crate::config::Incident;
use crate::create;
use crate::error::{ServerError, WireError, code, without_values};
use crate::extjson;
use crate::page::Page;
use crate::raw::{self, DocumentWriter, kind};
use crate::server::{self, MongoServer};
use crate::wire::{Connection, MESSAGE_BYTES_MAX, Sequence};

/// The most bytes of documents in one message; the rest is room for the command.
const DOCUMENT_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 16 * 1024;

/// The most bytes and documents in one lookup or correction.
const SMALL_BYTES: usize = 4 * 1024 * 1024;
const SMALL_DOCUMENTS: usize = 1_000;

/// A batch of this size is sent as it is; smaller ones are gathered until they reach the second.
const DIRECT_BYTES: usize = 2 * 1024 * 1024;
const DIRECT_DOCUMENTS: u64 = 2_000;
const GATHERED_BYTES: usize = 8 * 1024 * 1024;
const GATHERED_DOCUMENTS: u64 = 5_000;

/// How much of an `_id` is shown.
const SHOWN_ID_CHARS: usize = 200;

/// How long the last wait for the majority may take.
const MAJORITY_TIMEOUT_MS: i32 = 60_000;

/// See [`Loader`].
pub(crate) struct MongoLoader {
    server: MongoServer,
    target: Namespace,
    connection: Connection,
    incarnation: Incarnation,
    /// Capped collections keep the order of insertion, so nothing may follow a document that has not been judged.
    ordered: bool,
    bypass: Bypass,
    /// Small batches, gathered to be sent together.
    held_back: BytesMut,
    held_back_documents: u64,
}

/// What the server is asked to leave out; withdrawn when it or the user may not.
#[derive(Debug, Clone, Copy)]
struct Bypass {
    validation: bool,
    empty_timestamps: bool,
}

/// Which run of which server answers: what another acknowledged may be lost.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Incarnation {
    process: Vec<u8>,
    election: Vec<u8>,
}

impl Incarnation {
    fn of(connection: &Connection) -> Self {
        let greeting = connection.greeting();
        Self { process: greeting.process.clone(), election: greeting.election.clone() }
    }
}

impl MongoLoader {
    /// Opens the loading connection.
    pub(crate) async fn open(server: MongoServer, target: &Namespace, kind: CollectionKind) -> Result<Self> {
        let target = match kind {
            CollectionKind::TimeSeries => {
                Namespace::new(&target.database, format!("system.buckets.{}", target.collection))
            }
            CollectionKind::Collection => target.clone(),
            CollectionKind::View => {
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!("{target} is a view and holds no documents"),
                ));
            }
        };
        let opening = async {
            let ordered = create::is_capped(&server, &target).await?;
            let connection = server.dial().await?;
            let incarnation = Incarnation::of(&connection);
            let bypass = Bypass { validation: true, empty_timestamps: true };
            let (held_back, held_back_documents) = (BytesMut::new(), 0);
            let target = target.clone();
            Ok(Self {
                server,
                target,
                connection,
                incarnation,
                ordered,
                bypass,
                held_back,
                held_back_documents,
            })
        };
        let opened: Result<Self> = opening.await;
        opened.with_context(|| format!("open a connection to load {target}"))
    }

    async fn send_held_back(&mut self) -> Result<LoadOutcome> {
        let documents = self.held_back.split();
        self.held_back_documents = 0;
        self.send(&documents).await
    }

    /// Loads any number of documents.
    async fn send(&mut self, documents: &[u8]) -> Result<LoadOutcome> {
        let mut outcome = LoadOutcome::default();
        for part in parts(documents, self.connection.greeting().write_batch_max.max(1))? {
            let loaded = self.load_part(&part).await;
            add(&mut outcome, loaded.with_context(|| format!("load {}", self.target))?);
        }
        Ok(outcome)
    }

    /// Loads documents that fit one message; tries again on a new connection while that may help.
    async fn load_part(&mut self, part: &Part<'_>) -> Result<LoadOutcome> {
        let mut incident = self.server.retry().incident();
        let mut repeated = false;
        loop {
            let error = match self.try_part(part, repeated).await {
                Ok(outcome) => return Ok(outcome),
                Err(error) => error,
            };
            if self.withdraw_bypass(&error) {
                continue;
            }
            self.reconnect(error.into(), &mut incident).await?;
            repeated = true;
        }
    }

    /// One try. Nothing is remembered of a try that fails: the next one meets what it has put there as duplicates.
    async fn try_part(&mut self, part: &Part<'_>, repeated: bool) -> Result<LoadOutcome, WireError> {
        if !self.ordered {
            let refusals = self.insert(part).await?;
            return self.judge(part, refusals).await;
        }
        if !repeated {
            return self.insert_in_order(part).await;
        }
        // An ordered insert ends at the first duplicate, so what an earlier try has put there is set aside first.
        let there = self.stored_alike(&part.frames).await?;
        let missing = part.frames.iter().zip(&there).filter(|(_, there)| !**there).map(|(frame, _)| *frame);
        let missing = missing.collect::<Vec<_>>().concat();
        let mut outcome = self.insert_in_order(&Part::of(&missing)?).await?;
        outcome.identical += there.iter().filter(|there| **there).count() as u64;
        Ok(outcome)
    }

    /// Inserts in order, going on behind each refused document.
    async fn insert_in_order(&mut self, part: &Part<'_>) -> Result<LoadOutcome, WireError> {
        let mut outcome = LoadOutcome::default();
        let mut begin = 0;
        while begin < part.frames.len() {
            let rest = part.from(begin);
            let refusals = self.insert(&rest).await?;
            let judged = refusals.first().map_or(rest.frames.len(), |first| first.position + 1);
            add(&mut outcome, self.judge(&rest.first(judged), refusals).await?);
            begin += judged;
        }
        Ok(outcome)
    }

    /// One `insert` command.
    async fn insert(&mut self, part: &Part<'_>) -> Result<Vec<Refusal>, WireError> {
        let mut command = rawdoc! {
            "insert": self.target.collection.as_str(), "ordered": self.ordered, "writeConcern": { "w": 1, "j": false },
        };
        self.append_bypass(&mut command, !part.empty_timestamps.is_empty());
        command.append(bson::cstr!("$db"), self.target.database.as_str());
        let documents = Sequence { name: "documents", documents: part.bytes };
        self.connection.send(command.as_bytes(), Some(documents)).await?;
        let reply = self.connection.receive().await?;
        let refusals = refusals_of(reply.document())?;
        match refusals.iter().find(|refusal| refusal.position >= part.frames.len()) {
            Some(refusal) => {
                Err(WireError::Protocol(format!("a write error for document {}", refusal.position)))
            }
            None => Ok(refusals),
        }
    }

    fn append_bypass(&self, command: &mut RawDocumentBuf, empty_timestamps: bool) {
        if self.bypass.validation {
            command.append(bson::cstr!("bypassDocumentValidation"), true);
        }
        if self.bypass.empty_timestamps && empty_timestamps {
            command.append(bson::cstr!("bypassEmptyTsReplacement"), true);
        }
    }

    /// Gives up asking for what the server does not know or the user may not; true when that is worth another try.
    fn withdraw_bypass(&mut self, error: &WireError) -> bool {
        let flag = match error.server_code() {
            Some(code::UNAUTHORIZED) => &mut self.bypass.validation,
            Some(code::UNKNOWN_FIELD | code::FAILED_TO_PARSE) => &mut self.bypass.empty_timestamps,
            _ => return false,
        };
        std::mem::replace(flag, false)
    }

    /// What became of the documents of a part, given those refused; corrects timestamps on the way.
    async fn judge(&mut self, part: &Part<'_>, refusals: Vec<Refusal>) -> Result<LoadOutcome, WireError> {
        let duplicates: Vec<usize> = refusals
            .iter()
            .filter(|refusal| refusal.code == code::DUPLICATE_KEY)
            .map(|refusal| refusal.position)
            .collect();
        let frames: Vec<&[u8]> = duplicates.iter().map(|position| part.frames[*position]).collect();
        let alike = self.stored_alike(&frames).await?;
        let alike: HashMap<usize, bool> = duplicates.into_iter().zip(alike).collect();
        let is_identical = |position: &usize| alike.get(position).copied().unwrap_or(false);

        let mut outcome =
            LoadOutcome { inserted: (part.frames.len() - refusals.len()) as u64, ..LoadOutcome::default() };
        let mut failed = Vec::new();
        for refusal in refusals {
            if is_identical(&refusal.position) {
                outcome.identical += 1;
            } else {
                failed.push(refusal.position);
                outcome.failures.push(refusal.failure(part.frames[refusal.position]));
            }
        }
        if !self.bypass.empty_timestamps {
            let stored = part.empty_timestamps.iter().filter(|position| !failed.contains(position));
            let frames: Vec<&[u8]> = stored.map(|position| part.frames[*position]).collect();
            self.correct_timestamps(&frames).await?;
        }
        Ok(outcome)
    }

    /// For each document whether the same stands in the collection: the same bytes, but for top-level timestamps that are empty here and
    /// that the server may have replaced.
    async fn stored_alike(&mut self, documents: &[&[u8]]) -> Result<Vec<bool>, WireError> {
        let mut alike = vec![false; documents.len()];
        let mut begin = 0;
        while begin < documents.len() {
            let end = begin + chunk_length(&documents[begin..]);
            self.compare_stored(&documents[begin..end], &mut alike[begin..end]).await?;
            begin = end;
        }
        Ok(alike)
    }

    async fn compare_stored(&mut self, documents: &[&[u8]], alike: &mut [bool]) -> Result<(), WireError> {
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
                    alike[*position] = is_alike(documents[*position], stored)?;
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
    async fn correct_timestamps(&mut self, documents: &[&[u8]]) -> Result<(), WireError> {
        let mut begin = 0;
        while begin < documents.len() {
            let end = begin + chunk_length(&documents[begin..]);
            let mut updates = Vec::new();
            for document in &documents[begin..end] {
                updates.extend(replacement(document)?);
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

    /// Opens a new connection after `error`, if it was for the moment and the server is still the one that acknowledged what was loaded.
    async fn reconnect(&mut self, error: Error, incident: &mut Incident) -> Result<()> {
        let mut error = error;
        loop {
            if !error.is_temporary() {
                return Err(error);
            }
            let Some(delay) = incident.next_delay() else {
                let tries = incident.tries();
                return Err(error
                    .with_status(ErrorStatus::Persistent)
                    .context(format!("after {tries} more tries")));
            };
            server::pause(delay).await;
            match self.server.dial().await {
                Ok(connection) => {
                    self.connection = connection;
                    return self.refuse_successor();
                }
                Err(again) => error = again,
            }
        }
    }

    fn refuse_successor(&self) -> Result<()> {
        if Incarnation::of(&self.connection) == self.incarnation {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Unreachable,
            "the server restarted, or another took over, while documents were loaded",
        )
        .with_status(ErrorStatus::Persistent)
        .with_state(format!(
            "{} is partly loaded; what was acknowledged before the restart may be lost",
            self.target
        ))
        .with_hint("run the same command again: it loads this collection anew"))
    }

    /// Waits until everything acknowledged so far is committed by a majority and journalled.
    async fn settle(&mut self) -> Result<(), WireError> {
        let none = rawdoc! { "q": { "_id": ObjectId::new() }, "u": { "$unset": { "_": 1 } } };
        let command = rawdoc! {
            "update": self.target.collection.as_str(),
            "writeConcern": { "w": "majority", "j": true, "wtimeout": MAJORITY_TIMEOUT_MS },
            "$db": self.target.database.as_str(),
        };
        self.connection
            .send(command.as_bytes(), Some(Sequence { name: "updates", documents: none.as_bytes() }))
            .await?;
        let reply = self.connection.receive().await?;
        refusals_of(reply.document()).map(drop)
    }
}

#[async_trait]
impl Loader for MongoLoader {
    async fn load(&mut self, batch: &DocumentBatch) -> Result<LoadOutcome> {
        let large = batch.bytes.len() >= DIRECT_BYTES || batch.documents >= DIRECT_DOCUMENTS;
        if large && self.held_back.is_empty() {
            return self.send(&batch.bytes).await;
        }
        self.held_back.extend_from_slice(&batch.bytes);
        self.held_back_documents += batch.documents;
        let full = self.held_back.len() >= GATHERED_BYTES || self.held_back_documents >= GATHERED_DOCUMENTS;
        if large || full { self.send_held_back().await } else { Ok(LoadOutcome::default()) }
    }

    async fn finish(mut self: Box<Self>) -> Result<LoadOutcome> {
        let outcome = self.send_held_back().await?;
        let mut incident = self.server.retry().incident();
        while let Err(error) = self.settle().await {
            let reconnected = self.reconnect(error.into(), &mut incident).await;
            reconnected.with_context(|| format!("wait until {} is committed", self.target))?;
        }
        Ok(outcome)
    }
}

/// Documents that fit one message.
struct Part<'a> {
    bytes: &'a [u8],
    frames: Vec<&'a [u8]>,
    /// The positions of documents with an empty timestamp at the top level.
    empty_timestamps: Vec<usize>,
}

impl<'a> Part<'a> {
    fn of(bytes: &'a [u8]) -> Result<Self, WireError> {
        let frames = document_frames(bytes)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| WireError::Unsupported(format!("a batch that is not framed: {error}")))?;
        Ok(Self { bytes, empty_timestamps: with_empty_timestamps(bytes, &frames), frames })
    }

    /// The documents from position `begin` on.
    fn from(&self, begin: usize) -> Self {
        let skipped: usize = self.frames[..begin].iter().map(|frame| frame.len()).sum();
        let empty = self.empty_timestamps.iter().filter_map(|position| position.checked_sub(begin)).collect();
        Self { bytes: &self.bytes[skipped..], frames: self.frames[begin..].to_vec(), empty_timestamps: empty }
    }

    /// The first `count` documents.
    fn first(&self, count: usize) -> Self {
        let kept: usize = self.frames[..count].iter().map(|frame| frame.len()).sum();
        let empty = self.empty_timestamps.iter().copied().filter(|position| *position < count).collect();
        Self { bytes: &self.bytes[..kept], frames: self.frames[..count].to_vec(), empty_timestamps: empty }
    }
}

/// `bytes` cut into as few parts as messages may hold.
fn parts(bytes: &[u8], documents_max: usize) -> Result<Vec<Part<'_>>, WireError> {
    let mut parts = Vec::new();
    let (mut begin, mut end, mut documents) = (0, 0, 0);
    for frame in document_frames(bytes) {
        let frame =
            frame.map_err(|error| WireError::Unsupported(format!("a batch that is not framed: {error}")))?;
        if documents == documents_max || end + frame.len() - begin > DOCUMENT_BYTES_MAX {
            parts.push(Part::of(&bytes[begin..end])?);
            (begin, documents) = (end, 0);
        }
        end += frame.len();
        documents += 1;
    }
    if documents > 0 {
        parts.push(Part::of(&bytes[begin..end])?);
    }
    Ok(parts)
}

/// The positions of documents that hold an empty timestamp at the top level. Almost no document does; an empty timestamp is eight zero
/// bytes behind the NUL of its name, so one search over all bytes passes over most of them.
fn with_empty_timestamps(bytes: &[u8], frames: &[&[u8]]) -> Vec<usize> {
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

fn has_empty_timestamp(document: &[u8]) -> bool {
    raw::elements(document).map_while(Result::ok).any(|element| is_replaceable(&element))
}

/// True for what the server replaces when it inserts: every empty timestamp of the top level but an `_id`.
fn is_replaceable(element: &raw::Element<'_>) -> bool {
    element.kind == kind::TIMESTAMP && element.value == [0; 8] && element.key != b"_id"
}

/// Whether `stored` is `ours`, but for empty timestamps of ours that hold a time there.
fn is_alike(ours: &[u8], stored: &[u8]) -> Result<bool, WireError> {
    if ours == stored {
        return Ok(true);
    }
    if ours.len() != stored.len() || !has_empty_timestamp(ours) {
        return Ok(false);
    }
    let mut masked = stored.to_vec();
    for element in raw::elements(ours) {
        let element = element?;
        if is_replaceable(&element) {
            masked[element.offset..element.offset + element.value.len()].fill(0);
        }
    }
    Ok(masked == ours)
}

/// The update `{q: {_id}, u: [{$replaceWith: {$literal: document}}]}`; `None` without an `_id`.
fn replacement(document: &[u8]) -> Result<Option<Vec<u8>>, WireError> {
    let Some(id) = raw::id_of(document)? else { return Ok(None) };
    let wrap = |kind, key: &str, value: &[u8]| {
        let mut writer = DocumentWriter::new();
        writer.element(kind, key, value);
        writer.finish()
    };
    let stage = wrap(kind::DOCUMENT, "$replaceWith", &wrap(kind::DOCUMENT, "$literal", document));
    let mut update = DocumentWriter::new();
    update.element(kind::DOCUMENT, "q", &id.alone("_id"));
    update.element(kind::ARRAY, "u", &wrap(kind::DOCUMENT, "0", &stage));
    Ok(Some(update.finish()))
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

/// A refused document.
#[derive(Debug)]
struct Refusal {
    /// Its position in what was sent.
    position: usize,
    code: i32,
    message: String,
    /// The fields of the unique index it violates, for duplicates.
    key: Vec<String>,
}

impl Refusal {
    fn failure(&self, document: &[u8]) -> DocumentFailure {
        let message = match self.code {
            code::DUPLICATE_KEY if self.key.is_empty() || self.key == ["_id"] => {
                "another document with this _id is there".to_owned()
            }
            code::DUPLICATE_KEY => {
                format!("another document has the same value of the unique index on {}", self.key.join(", "))
            }
            code::DOCUMENT_VALIDATION => {
                "the document does not satisfy the collection's validator".to_owned()
            }
            _ => without_values(&self.message),
        };
        DocumentFailure { id: shown_id(document), code: self.code, message }
    }
}

/// The `_id` as canonical Extended JSON, cut.
fn shown_id(document: &[u8]) -> String {
    let id = raw::as_document(document).ok().and_then(|document| document.get("_id").ok().flatten());
    let mut text = String::new();
    match id {
        Some(id) if extjson::write_value(&mut text, id).is_ok() => {
            text.chars().take(SHOWN_ID_CHARS).collect()
        }
        Some(_) => "unreadable".to_owned(),
        None => "none".to_owned(),
    }
}

/// The refused documents of a write's reply, by position.
///
/// # Errors
/// When the write concern failed, or when a document was refused for a reason that will pass, so that the whole write must be repeated.
fn refusals_of(reply: &[u8]) -> Result<Vec<Refusal>, WireError> {
    if let Some(concern) =
        raw::find(reply, "writeConcernError")?.filter(|element| element.kind == kind::DOCUMENT)
    {
        let (code, message) = (number(concern.value, "code")?, text(concern.value, "errmsg")?);
        return Err(ServerError { code, name: text(concern.value, "codeName")?, message }.into());
    }
    let Some(errors) = raw::find(reply, "writeErrors")?.filter(|element| element.kind == kind::ARRAY) else {
        return Ok(Vec::new());
    };
    let mut refusals = Vec::new();
    for error in raw::elements(errors.value) {
        let error = error?.value;
        let refusal = Refusal {
            position: usize::try_from(number(error, "index")?).unwrap_or(usize::MAX),
            code: number(error, "code")?,
            message: text(error, "errmsg")?,
            key: key_fields(error)?,
        };
        let as_error =
            ServerError { code: refusal.code, name: String::new(), message: refusal.message.clone() };
        if Error::from(as_error.clone()).is_temporary() {
            return Err(as_error.into());
        }
        refusals.push(refusal);
    }
    Ok(refusals)
}

fn number(document: &[u8], key: &str) -> Result<i32, WireError> {
    let number = raw::find(document, key)?.and_then(|element| element.number()).unwrap_or(0);
    i32::try_from(number).map_err(|_| WireError::Protocol(format!("{key} out of range")))
}

fn text(document: &[u8], key: &str) -> Result<String, WireError> {
    Ok(raw::find(document, key)?.and_then(|element| element.text().map(str::to_owned)).unwrap_or_default())
}

fn key_fields(error: &[u8]) -> Result<Vec<String>, WireError> {
    let Some(pattern) = raw::find(error, "keyPattern")?.filter(|element| element.kind == kind::DOCUMENT)
    else {
        return Ok(Vec::new());
    };
    raw::elements(pattern.value).map(|field| Ok(String::from_utf8_lossy(field?.key).into_owned())).collect()
}

fn add(sum: &mut LoadOutcome, more: LoadOutcome) {
    sum.inserted += more.inserted;
    sum.identical += more.identical;
    sum.failures.extend(more.failures);
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use bson::{Document, Timestamp, doc};
    use mainstay_model::Secret;
    use mainstay_testkit::{shared_mongod, unique_database};

    use super::*;
    use crate::config::MongoConfig;

    const EMPTY: Timestamp = Timestamp { time: 0, increment: 0 };

    fn concatenation(documents: &[Document]) -> Vec<u8> {
        documents.iter().flat_map(|document| document.to_vec().unwrap()).collect()
    }

    #[test]
    fn empty_timestamps_are_found_at_the_top_level_only() {
        let documents = [
            doc! { "_id": 1, "zero": 0_i64, "none": 0.0 },
            doc! { "_id": 2, "at": EMPTY },
            doc! { "_id": EMPTY },
            doc! { "_id": 3, "in": { "at": EMPTY } },
            doc! { "_id": 4, "a": 0_i64, "at": EMPTY, "b": 1 },
        ];
        let bytes = concatenation(&documents);
        let part = Part::of(&bytes).unwrap();
        assert_eq!(part.empty_timestamps, [1, 4]);
        assert_eq!(part.from(2).empty_timestamps, [2]);
        assert_eq!(part.first(2).empty_timestamps, [1]);
        assert_eq!(part.from(2).bytes, concatenation(&documents[2..]));
    }

    #[test]
    fn documents_are_alike_but_for_replaced_timestamps() {
        let alike = |ours: Document, stored: Document| is_alike(&ours.to_vec().unwrap(), &stored.to_vec().unwrap()).unwrap();
        let at = Timestamp { time: 9, increment: 9 };
        assert!(alike(doc! { "_id": 1, "at": EMPTY, "x": 1 }, doc! { "_id": 1, "at": at, "x": 1 }));
        assert!(!alike(doc! { "_id": 1, "at": EMPTY, "x": 1 }, doc! { "_id": 1, "at": at, "x": 2 }));
        assert!(!alike(doc! { "_id": 1, "at": at }, doc! { "_id": 1, "at": EMPTY }));
        assert!(!alike(doc! { "_id": 1, "n": 1 }, doc! { "_id": 1, "n": 1_i64 }));
    }

    #[test]
    fn batches_are_cut_at_the_limits() {
        let bytes = concatenation(&(0..10).map(|id| doc! { "_id": id }).collect::<Vec<_>>());
        let counts = |max| parts(&bytes, max).unwrap().iter().map(|part| part.frames.len()).collect::<Vec<_>>();
        assert_eq!(counts(4), [4, 4, 2]);
        assert_eq!(counts(100), [10]);
        assert!(parts(&bytes[..bytes.len() - 1], 100).is_err());
        assert_eq!(parts(&[], 100).unwrap().len(), 0);
    }

    /// What a server before 5.0.29, 6.0.17 or 7.0.13 needs; the one at hand takes the correction too.
    #[tokio::test]
    async fn old_servers_get_their_empty_timestamps_corrected() {
        let (mongod, database) = (shared_mongod(), unique_database());
        let server = MongoServer::open(&MongoConfig::new(Secret::new(mongod.uri()))).await.unwrap();
        let documents = [doc! { "_id": 1, "at": EMPTY }, doc! { "_id": 2, "a": EMPTY, "b": EMPTY }, doc! { "_id": 3 }];
        let target = Namespace::new(&database, "a");
        let mut loader = MongoLoader::open(server, &target, CollectionKind::Collection).await.unwrap();
        loader.bypass.empty_timestamps = false;
        let client = mongod.oracle().await;
        let collection = client.database(&database).collection::<Document>("a");
        // As if an earlier try had inserted the first and lost its connection before the correction.
        collection.insert_one(&documents[0]).await.unwrap();
        let bytes = concatenation(&documents);
        for expected in [(2, 1), (0, 3)] {
            let outcome = loader.send(&bytes).await.unwrap();
            assert_eq!((outcome.inserted, outcome.identical, outcome.failures.len()), (expected.0, expected.1, 0));
        }
        for document in &documents {
            let stored = collection.find_one(doc! { "_id": document.get("_id") }).await.unwrap();
            assert_eq!(stored.as_ref(), Some(document));
        }
        client.database(&database).drop().await.unwrap();
    }
}
