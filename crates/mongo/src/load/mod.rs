//! Filling a collection over one connection.
//!
//! A batch becomes `insert` commands whose documents travel as they are, beside the command (a section of kind 1). The write concern is
//! `{w: 1, j: false}` while the load runs; `finish` then waits once for everything, with an update that matches nothing and asks for
//! `{w: "majority", j: true}`: a write without effect waits for the newest operation of the server, so it covers all that was acknowledged
//! before.
//!
//! Three things would otherwise happen in silence:
//!
//! * *A repeat after a broken connection* meets its own documents. Every duplicate is therefore looked up by `_id` and compared byte for
//!   byte.
//! * *A restart or failover meanwhile* may have lost what was acknowledged without the journal. The server process and the election are
//!   compared on every new connection; when they differ the load fails and says so.
//! * *`Timestamp(0, 0)` at the top level* is replaced by the server with its clock (MongoDB manual, "BSON Types: Timestamps").
//!   `bypassEmptyTsReplacement` prevents that from 5.0.29, 6.0.17, 7.0.13 and 8.0 on; older servers get the true value with an update, for
//!   what was inserted here alone: a document that was there before keeps its time and counts as another one.
//!
//! Validators do not apply where the user may bypass them: what was in the source belongs into the copy. Documents are refused one by one
//! by the server and told one by one; the message never repeats their values.

mod judge;
mod refusal;

use async_trait::async_trait;
use bson::oid::ObjectId;
use bson::{RawDocumentBuf, rawdoc};
use bytes::BytesMut;
use mainstay_engine::{
    CollectionKind, DocumentBatch, LoadOutcome, Loader, Namespace, data_namespace, document_frames,
};
use mainstay_model::{Error, ErrorKind, ErrorStatus, Result, ResultExt};
use tokio::time::sleep;

pub(crate) use self::judge::has_empty_timestamp;
use self::judge::{Owner, Stored, with_empty_timestamps};
pub(crate) use self::refusal::{Refusal, refusals_of};
use crate::config::Incident;
use crate::create;
use crate::error::{WireError, code};
use crate::metadata::array;
use crate::server::MongoServer;
use crate::wire::{Connection, MESSAGE_BYTES_MAX, Sequence};

/// The most bytes of documents in one message; the rest is room for the command.
pub(crate) const DOCUMENT_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 16 * 1024;

/// A batch of this size is sent as it is; smaller ones are gathered until they reach the second.
const DIRECT_BYTES: usize = 2 * 1024 * 1024;
const DIRECT_DOCUMENTS: u64 = 2_000;
const GATHERED_BYTES: usize = 8 * 1024 * 1024;
const GATHERED_DOCUMENTS: u64 = 5_000;

/// See [`Loader`].
pub(crate) struct MongoLoader {
    server: MongoServer,
    target: Namespace,
    connection: Connection,
    incarnation: Incarnation,
    /// Capped collections keep the order of insertion, so nothing may follow a document that has not been judged.
    ordered: bool,
    bypass: Bypass,
    /// Whether an insert of the documents at hand may have had an effect already.
    landed: bool,
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
pub(crate) struct Incarnation {
    process: Vec<u8>,
    election: Vec<u8>,
}

impl Incarnation {
    /// Which run answers on `connection`.
    pub(crate) fn of(connection: &Connection) -> Self {
        let greeting = connection.greeting();
        Self { process: greeting.process.clone(), election: greeting.election.clone() }
    }
}

impl MongoLoader {
    /// Opens the loading connection.
    pub(crate) async fn open(server: MongoServer, target: &Namespace, kind: CollectionKind) -> Result<Self> {
        if kind == CollectionKind::View {
            return Err(Error::new(ErrorKind::Usage, format!("{target} is a view and holds no documents")));
        }
        let target = data_namespace(target, kind);
        let opening = async {
            let ordered = create::is_capped(&server, &target).await?;
            let connection = server.dial_retried().await?;
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
                landed: false,
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
        self.landed = false;
        loop {
            let error = match self.try_part(part).await {
                Ok(outcome) => return Ok(outcome),
                Err(error) => error,
            };
            if self.withdraw_bypass(&error) {
                continue;
            }
            self.reconnect(error.into(), &mut incident).await?;
        }
    }

    /// One try. Nothing is remembered of a try that fails: the next one meets what it has put there as duplicates.
    async fn try_part(&mut self, part: &Part<'_>) -> Result<LoadOutcome, WireError> {
        let owner = if self.landed { Owner::PerhapsUs } else { Owner::Others };
        if !self.ordered {
            let refusals = self.insert(part).await?;
            return self.judge(part, refusals, owner).await;
        }
        if owner == Owner::Others {
            return self.insert_in_order(part).await;
        }
        // An ordered insert ends at the first duplicate, so what an earlier try has put there is set aside first.
        let there = self.compare(&part.frames, owner).await?;
        let those = |wanted: fn(Stored) -> bool| {
            let pairs = part.frames.iter().zip(&there);
            pairs.filter(|(_, stored)| wanted(**stored)).map(|(frame, _)| *frame).collect::<Vec<_>>()
        };
        self.correct_timestamps(&those(|stored| stored == Stored::Replaced)).await?;
        let missing = those(|stored| stored == Stored::Different);
        let mut outcome = self.insert_in_order(&Part::of(&missing.concat())?).await?;
        outcome.identical += (part.frames.len() - missing.len()) as u64;
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
            add(&mut outcome, self.judge(&rest.first(judged), refusals, Owner::Others).await?);
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
        let reply = match self.connection.send(command.as_bytes(), Some(documents)).await {
            Ok(()) => self.connection.receive().await,
            Err(error) => Err(error),
        };
        // A command that asks for what may not be is refused before its first document; after any other failure some may be there.
        self.landed |= !reply.as_ref().is_err_and(asks_too_much);
        let refusals = refusals_of(reply?.document())?;
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
            sleep(delay).await;
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
        match self.update_nothing().await {
            Err(error) if error.server_code() == Some(code::UNAUTHORIZED) => self.index_nothing().await,
            outcome => outcome,
        }
    }

    async fn update_nothing(&mut self) -> Result<(), WireError> {
        let nothing = rawdoc! { "q": { "_id": ObjectId::new() }, "u": { "$unset": { "_": 1 } } };
        let command = rawdoc! {
            "update": self.target.collection.as_str(),
            "writeConcern": create::majority(),
            "$db": self.target.database.as_str(),
        };
        let updates = Sequence { name: "updates", documents: nothing.as_bytes() };
        self.connection.send(command.as_bytes(), Some(updates)).await?;
        let reply = self.connection.receive().await?;
        refusals_of(reply.document()).map(drop)
    }

    /// The same for users of the role `restore`, who may create indexes but not update: creates the index on `_id` that is there already.
    async fn index_nothing(&mut self) -> Result<(), WireError> {
        let there = rawdoc! { "key": { "_id": 1 }, "name": "_id_" };
        let command = rawdoc! {
            "createIndexes": self.target.collection.as_str(),
            "indexes": array(&[there]),
            "writeConcern": create::majority(),
            "$db": self.target.database.as_str(),
        };
        let reply = self.connection.run(command.as_bytes()).await?;
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

/// Whether the server refused a command for what it asks to be left out; see [`Bypass`].
fn asks_too_much(error: &WireError) -> bool {
    matches!(error.server_code(), Some(code::UNAUTHORIZED | code::UNKNOWN_FIELD | code::FAILED_TO_PARSE))
}

fn add(sum: &mut LoadOutcome, more: LoadOutcome) {
    sum.inserted += more.inserted;
    sum.identical += more.identical;
    sum.failures.extend(more.failures);
    sum.doubles += more.doubles;
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use bson::{Document, Timestamp, doc};

    use super::*;

    const EMPTY: Timestamp = Timestamp { time: 0, increment: 0 };

    pub(super) fn concatenation(documents: &[Document]) -> Vec<u8> {
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
    fn batches_are_cut_at_the_limits() {
        let bytes = concatenation(&(0..10).map(|id| doc! { "_id": id }).collect::<Vec<_>>());
        let counts =
            |max| parts(&bytes, max).unwrap().iter().map(|part| part.frames.len()).collect::<Vec<_>>();
        assert_eq!(counts(4), [4, 4, 2]);
        assert_eq!(counts(100), [10]);
        assert!(parts(&bytes[..bytes.len() - 1], 100).is_err());
        assert_eq!(parts(&[], 100).unwrap().len(), 0);
    }
}
