//! Bringing fates to the server: reads, deletes, inserts and replacements over several connections.
//!
//! Reads, deletes and replacements have the same effect when they are sent again, so a broken connection is replaced and the command
//! repeated, as long as the same run of the same server answers. An insert is not repeated: whether a document that is there then is ours
//! could not be told, and the digest would be a guess.
//!
//! What a write takes away and adds is told as digests. Documents that the server says it has not written are errors, and so is one that
//! somebody else has taken away meanwhile.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bson::oid::ObjectId;
use bson::{RawDocumentBuf, rawdoc};
use bytes::Bytes;
use mainstay_engine::{DocumentDigest, Namespace, document_frames};
use mainstay_model::{Error, ErrorKind, ErrorStatus, Result, ResultExt};
use tokio::time::sleep;

use super::super::diff::DiffError;
use super::window::{Fate, id_array, id_element};
use crate::create;
use crate::error::{WireError, code};
use crate::load::{DOCUMENT_BYTES_MAX, Incarnation, Refusal, has_empty_timestamp, refusals_of};
use crate::page::Page;
use crate::raw::{self, DocumentWriter, kind};
use crate::replacement::{Form, replacement};
use crate::server::MongoServer;
use crate::wire::{Connection, Reply, Sequence};

/// The most statements in one command.
const STATEMENTS_MAX: usize = 2_000;

/// A command is sent when its documents reach this size.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// What a write did to the set of documents.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Difference {
    /// What is no longer there.
    pub(super) gone: DocumentDigest,
    /// What is there now.
    pub(super) come: DocumentDigest,
}

impl Difference {
    pub(super) fn add(&mut self, other: Self) {
        self.gone += other.gone;
        self.come += other.come;
    }
}

/// The connections of a replay.
pub(super) struct Lanes {
    server: MongoServer,
    incarnation: Incarnation,
    idle: Mutex<Vec<Connection>>,
    /// Whether validators are asked to be left out; withdrawn when the user may not.
    bypass: AtomicBool,
}

impl Lanes {
    /// Opens the first connection.
    pub(super) async fn open(server: MongoServer) -> Result<Self> {
        let connection = server.dial_retried().await?;
        let incarnation = Incarnation::of(&connection);
        Ok(Self { server, incarnation, idle: Mutex::new(vec![connection]), bypass: AtomicBool::new(true) })
    }

    /// A connection to write to `target` with.
    pub(super) async fn lane(self: &Arc<Self>, target: &Namespace) -> Result<Lane> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.dial().await?,
        };
        Ok(Lane { lanes: Arc::clone(self), target: target.clone(), connection: Some(connection) })
    }

    async fn dial(&self) -> Result<Connection> {
        let connection = self.server.dial_retried().await?;
        if Incarnation::of(&connection) == self.incarnation {
            return Ok(connection);
        }
        Err(Error::new(
            ErrorKind::Unreachable,
            "the server restarted, or another took over, while a change log was replayed",
        )
        .with_status(ErrorStatus::Persistent)
        .with_state("what was acknowledged before the restart may be lost")
        .with_hint("run the same command again: it begins anew"))
    }
}

/// One connection, lent.
pub(super) struct Lane {
    lanes: Arc<Lanes>,
    target: Namespace,
    /// `None` after a failure.
    connection: Option<Connection>,
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.lanes.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
    }
}

/// Whether a command may be sent a second time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Allowed,
    Forbidden,
}

impl Lane {
    /// Removes the documents that `fates` name.
    pub(super) async fn remove(&mut self, fates: &[Fate]) -> Result<Difference> {
        let ids: Vec<&[u8]> = fates.iter().map(|fate| fate.id.as_ref()).collect();
        let removing = self.remove_ids(&ids).await;
        removing.with_context(|| format!("replay deletes in {}", self.target))
    }

    /// Inserts the documents of `fates`, which were not there before the first of their changes. Those that are there nevertheless, because
    /// the collection is further on than the log, are taken away first.
    pub(super) async fn insert(&mut self, fates: &[Fate], order: Order) -> Result<Difference> {
        let inserting = async {
            let mut documents = Vec::with_capacity(fates.len());
            for fate in fates {
                documents.extend(fate.outcome(None).map_err(undecidable)?);
            }
            self.insert_documents(&documents, order).await
        };
        let inserted: Result<Difference> = inserting.await;
        inserted.with_context(|| format!("replay inserts into {}", self.target))
    }

    /// Reads what stands in the place of `fates` and writes what is to stand there.
    pub(super) async fn update(&mut self, fates: &[Fate]) -> Result<Difference> {
        let updated = self.update_read(fates).await;
        updated.with_context(|| format!("replay updates of {}", self.target))
    }

    /// Removes everything.
    pub(super) async fn clear(&mut self) -> Result<()> {
        let clearing = self.delete(&rawdoc! { "q": {}, "limit": 0 }).await;
        clearing.with_context(|| format!("empty {}", self.target))
    }

    /// Waits until everything acknowledged so far is committed by a majority and journalled: a write without effect waits for the newest
    /// operation of the server.
    pub(super) async fn settle(&mut self) -> Result<()> {
        let nothing = rawdoc! { "q": { "_id": ObjectId::new() }, "u": { "$unset": { "_": 1 } } };
        let Namespace { database, collection } = self.target.clone();
        let (target, database) = (collection.as_str(), database.as_str());
        let command = rawdoc! { "update": target, "writeConcern": create::majority(), "$db": database };
        let reply =
            self.run(Repeat::Allowed, |_| command.clone(), Some(("updates", nothing.as_bytes()))).await?;
        refusals_of(reply.document()).map(drop).map_err(Error::from)
    }

    async fn remove_ids(&mut self, ids: &[&[u8]]) -> Result<Difference> {
        let mut difference = Difference::default();
        let mut reading = self.read(ids)?;
        while let Some(page) = self.next_page(&mut reading).await? {
            difference
                .gone
                .add_concatenation(&page)
                .map_err(|error| WireError::Protocol(error.to_string()))?;
        }
        if difference.gone.documents > 0 {
            let mut statement = DocumentWriter::new();
            statement.element(kind::DOCUMENT, "q", &among(ids));
            statement.element(kind::INT32, "limit", &0_i32.to_le_bytes());
            self.delete(raw::as_document(&statement.finish()).map_err(WireError::from)?).await?;
        }
        Ok(difference)
    }

    async fn delete(&mut self, statement: &bson::RawDocument) -> Result<()> {
        let Namespace { database, collection } = self.target.clone();
        let (target, database) = (collection.as_str(), database.as_str());
        let command = rawdoc! { "delete": target, "writeConcern": { "w": 1, "j": false }, "$db": database };
        let reply =
            self.run(Repeat::Allowed, |_| command.clone(), Some(("deletes", statement.as_bytes()))).await?;
        refuse(refusals_of(reply.document()).map_err(Error::from)?)
    }

    async fn insert_documents(&mut self, documents: &[Cow<'_, [u8]>], order: Order) -> Result<Difference> {
        let mut difference = Difference::default();
        for batch in batches(documents.iter().map(|document| document.len())) {
            let batch = &documents[batch];
            let refusals = self.try_insert(batch, order).await?;
            let (duplicates, others): (Vec<_>, Vec<_>) =
                refusals.into_iter().partition(Refusal::is_duplicate);
            refuse(others)?;
            let again: Vec<&Cow<'_, [u8]>> =
                duplicates.iter().filter_map(|refusal| batch.get(refusal.position)).collect();
            if !again.is_empty() {
                difference.add(self.supersede(&again, order).await?);
            }
            batch.iter().for_each(|document| difference.come.add_document(document));
            let timed: Vec<Cow<'_, [u8]>> = batch
                .iter()
                .filter(|document| has_empty_timestamp(document))
                .map(|document| Cow::Borrowed(document.as_ref()))
                .collect();
            self.replace(&timed, Form::Literal).await?;
        }
        Ok(difference)
    }

    /// Puts documents in the place of others that the server takes for the same.
    async fn supersede(&mut self, documents: &[&Cow<'_, [u8]>], order: Order) -> Result<Difference> {
        let ids: Vec<&[u8]> =
            documents.iter().filter_map(|document| id_element(document).ok().flatten()).collect();
        let difference = self.remove_ids(&ids).await?;
        let documents: Vec<Cow<'_, [u8]>> =
            documents.iter().map(|document| Cow::Borrowed(document.as_ref())).collect();
        refuse(self.try_insert(&documents, order).await?)?;
        Ok(difference)
    }

    async fn try_insert(&mut self, documents: &[Cow<'_, [u8]>], order: Order) -> Result<Vec<Refusal>> {
        let bytes = documents.concat();
        let Namespace { database, collection } = self.target.clone();
        let (target, database) = (collection.as_str(), database.as_str());
        let command = |bypass: bool| {
            let mut command = rawdoc! {
                "insert": target, "ordered": order == Order::Kept, "writeConcern": { "w": 1, "j": false },
            };
            with_bypass(&mut command, bypass);
            command.append(bson::cstr!("$db"), database);
            command
        };
        let reply = self.run(Repeat::Forbidden, command, Some(("documents", &bytes))).await?;
        refusals_of(reply.document()).map_err(Error::from)
    }

    async fn update_read(&mut self, fates: &[Fate]) -> Result<Difference> {
        let by_id: HashMap<&[u8], usize> =
            fates.iter().enumerate().map(|(position, fate)| (fate.id.as_ref(), position)).collect();
        let ids: Vec<&[u8]> = fates.iter().map(|fate| fate.id.as_ref()).collect();
        let mut met = vec![false; fates.len()];
        let mut difference = Difference::default();
        let mut reading = self.read(&ids)?;
        while let Some(page) = self.next_page(&mut reading).await? {
            let mut changed = Vec::new();
            for stored in document_frames(&page) {
                let stored = stored.map_err(|error| WireError::Protocol(error.to_string()))?;
                let id = id_element(stored).map_err(WireError::from)?;
                // What the server takes for the same but is another document is from further on in the log.
                let Some(position) = id.and_then(|id| by_id.get(id)) else { continue };
                met[*position] = true;
                let outcome = fates[*position].outcome(Some(stored)).map_err(undecidable)?;
                if let Some(document) = outcome.filter(|document| **document != *stored) {
                    difference.gone.add_document(stored);
                    difference.come.add_document(&document);
                    changed.push(document);
                }
            }
            self.replace(&changed, Form::Plain).await?;
        }
        let mut missing = Vec::new();
        for (fate, _) in fates.iter().zip(&met).filter(|(_, met)| !**met) {
            missing.extend(fate.outcome(None).map_err(undecidable)?);
        }
        difference.add(self.insert_documents(&missing, Order::Free).await?);
        Ok(difference)
    }

    /// Gives documents that are there other bytes.
    async fn replace(&mut self, documents: &[Cow<'_, [u8]>], form: Form) -> Result<()> {
        for batch in batches(documents.iter().map(|document| document.len())) {
            let batch = &documents[batch];
            let refused = self.try_replace(batch, form).await?;
            if refused.is_empty() {
                continue;
            }
            if form == Form::Literal {
                return refuse(refused);
            }
            // Servers refuse some field names in a replacement that they take as a literal.
            let again: Vec<&[u8]> =
                refused.iter().filter_map(|refusal| batch.get(refusal.position)).map(AsRef::as_ref).collect();
            let again: Vec<Cow<'_, [u8]>> = again.into_iter().map(Cow::Borrowed).collect();
            refuse(self.try_replace(&again, Form::Literal).await?)?;
        }
        Ok(())
    }

    async fn try_replace(&mut self, documents: &[Cow<'_, [u8]>], form: Form) -> Result<Vec<Refusal>> {
        let mut statements = Vec::with_capacity(documents.iter().map(|document| document.len() + 80).sum());
        for document in documents {
            let form = if has_empty_timestamp(document) { Form::Literal } else { form };
            let statement = replacement(document, form).map_err(WireError::from)?.ok_or_else(without_id)?;
            statements.extend(statement);
        }
        let Namespace { database, collection } = self.target.clone();
        let (target, database) = (collection.as_str(), database.as_str());
        let command = |bypass: bool| {
            let mut command =
                rawdoc! { "update": target, "ordered": false, "writeConcern": { "w": 1, "j": false } };
            with_bypass(&mut command, bypass);
            command.append(bson::cstr!("$db"), database);
            command
        };
        let reply = self.run(Repeat::Allowed, command, Some(("updates", &statements))).await?;
        let refusals = refusals_of(reply.document()).map_err(Error::from)?;
        let matched = raw::find(reply.document(), "n").map_err(WireError::from)?.and_then(|n| n.number());
        let expected = documents.len() - refusals.len();
        if matched != i64::try_from(expected).ok() {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("documents of {target} were deleted by somebody else during the replay"),
            )
            .with_hint(
                "keep other writers away from what is being restored, then run the same command again",
            ));
        }
        Ok(refusals)
    }

    /// Begins to read the documents of `ids`, and what else the server takes for one of them.
    fn read(&self, ids: &[&[u8]]) -> Result<Reading> {
        if ids.is_empty() {
            return Ok(Reading::Ended);
        }
        let text = |text: &str| [&(text.len() as u32 + 1).to_le_bytes(), text.as_bytes(), &[0]].concat();
        let batch_size = i32::try_from(ids.len() + 1).unwrap_or(i32::MAX);
        let mut find = DocumentWriter::new();
        find.element(kind::STRING, "find", &text(&self.target.collection));
        find.element(kind::DOCUMENT, "filter", &among(ids));
        find.element(kind::INT32, "batchSize", &batch_size.to_le_bytes());
        find.element(kind::STRING, "$db", &text(&self.target.database));
        Ok(Reading::First(raw::as_document(&find.finish()).map_err(WireError::from)?.to_owned()))
    }

    /// The next page of documents. An open cursor costs the server little, and memory is bounded by a page.
    async fn next_page(&mut self, reading: &mut Reading) -> Result<Option<Bytes>> {
        let (command, repeat) = match reading {
            Reading::Ended => return Ok(None),
            Reading::First(find) => (find.clone(), Repeat::Allowed),
            Reading::More(cursor) => {
                let Namespace { database, collection } = &self.target;
                let more = rawdoc! { "getMore": *cursor, "collection": collection.as_str(), "$db": database.as_str() };
                (more, Repeat::Forbidden)
            }
        };
        let page = Page::take(self.run(repeat, |_| command.clone(), None).await?)?;
        *reading = if page.cursor == 0 { Reading::Ended } else { Reading::More(page.cursor) };
        Ok(Some(page.bytes))
    }

    /// Runs a command, on a new connection if that is allowed and helps.
    async fn run(
        &mut self,
        repeat: Repeat,
        command: impl Fn(bool) -> RawDocumentBuf,
        documents: Option<(&str, &[u8])>,
    ) -> Result<Reply> {
        let mut incident = self.lanes.server.retry().incident();
        loop {
            let connection = match self.connection.take() {
                Some(connection) => connection,
                None => self.lanes.dial().await?,
            };
            let bypass = self.lanes.bypass.load(Ordering::Relaxed);
            let error = match self.try_run(connection, &command(bypass), documents).await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            if bypass && error.server_code() == Some(code::UNAUTHORIZED) {
                self.lanes.bypass.store(false, Ordering::Relaxed);
                continue;
            }
            let error = Error::from(error);
            if !error.is_temporary() {
                return Err(error);
            }
            match incident.next_delay() {
                Some(delay) if repeat == Repeat::Allowed => sleep(delay).await,
                _ => {
                    return Err(error
                        .with_status(ErrorStatus::Persistent)
                        .with_state("the replayed collections are between beginning and end")
                        .with_hint("run the same command again: it begins anew"));
                }
            }
        }
    }

    /// One try; the connection is kept when it is good for another.
    async fn try_run(
        &mut self,
        mut connection: Connection,
        command: &RawDocumentBuf,
        documents: Option<(&str, &[u8])>,
    ) -> Result<Reply, WireError> {
        let sequence = documents.map(|(name, documents)| Sequence { name, documents });
        connection.send(command.as_bytes(), sequence).await?;
        let reply = connection.receive().await;
        if matches!(reply, Ok(_) | Err(WireError::Server(_))) {
            self.connection = Some(connection);
        }
        reply
    }
}

/// How far a read is.
enum Reading {
    First(RawDocumentBuf),
    More(i64),
    Ended,
}

/// Whether documents must come in the order given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Free,
    Kept,
}

fn without_id() -> Error {
    Error::new(ErrorKind::Corrupt, "a document without _id in the change log")
        .with_hint("verify the stored log with `mainstay backup verify`")
}

fn with_bypass(command: &mut RawDocumentBuf, bypass: bool) {
    if bypass {
        command.append(bson::cstr!("bypassDocumentValidation"), true);
    }
}

/// The filter for documents by their ids.
fn among(ids: &[&[u8]]) -> Vec<u8> {
    let mut list = DocumentWriter::new();
    list.element(kind::ARRAY, "$in", &id_array(ids.iter().copied()));
    let mut filter = DocumentWriter::new();
    filter.element(kind::DOCUMENT, "_id", &list.finish());
    filter.finish()
}

/// Cuts documents of these sizes into batches: at least one each, few enough for one message.
fn batches(sizes: impl Iterator<Item = usize>) -> Vec<std::ops::Range<usize>> {
    const {
        assert!(
            BATCH_BYTES + 17 * 1024 * 1024 < DOCUMENT_BYTES_MAX,
            "a batch and one more document fit a message"
        )
    };
    let (mut batches, mut begin, mut bytes, mut end) = (Vec::new(), 0, 0, 0);
    for size in sizes {
        end += 1;
        bytes += size;
        if bytes >= BATCH_BYTES || end - begin == STATEMENTS_MAX {
            batches.push(begin..end);
            (begin, bytes) = (end, 0);
        }
    }
    if end > begin {
        batches.push(begin..end);
    }
    batches
}

/// An error, if the server refused something.
fn refuse(refusals: Vec<Refusal>) -> Result<()> {
    match refusals.into_iter().next() {
        None => Ok(()),
        Some(refusal) => Err(refusal.into_error()),
    }
}

fn undecidable(error: DiffError) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the change log does not fit the documents: {error}"))
        .with_hint("verify the stored log with `mainstay backup verify`")
}
