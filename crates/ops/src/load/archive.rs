//! An archive, read once from its beginning to its end: judged, or spread over the collections that it fills.
//!
//! A thread reads, inflates and parses ahead; a few events wait in a channel. Whoever spreads them hands each slice to the feed of its
//! collection and waits while that is full: a collection that waits for the server holds the others up, but nothing is kept beyond a batch for
//! each open collection.

use std::collections::HashMap;
use std::fs::File;

use bytes::BytesMut;
use mainstay_archive::{ArchiveReader, Event, Fault, Prelude, ReadError, Role, Summary};
use mainstay_engine::{DocumentBatch, DocumentDigest};
use mainstay_model::progress::{Observer, Work as Amount};
use mainstay_model::{Error, ErrorKind, Result};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::chunks::{Chunks, failed};
use super::feed::{Draft, Fed, Feed, Source};
use super::oplog::Judging;
use crate::placement::Turn;

/// The most collections that may be open at one time. Each holds a connection and a batch.
pub(super) const OPEN_COUNT_MAX: usize = 64;
/// The most bytes of users and roles; they are kept in memory.
const ACCOUNT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What the reading thread gives.
enum Step {
    Event(Event),
    End(Summary),
}

/// An archive that is being read.
pub(super) struct Reading {
    steps: mpsc::Receiver<Result<Step>>,
}

impl Reading {
    /// Begins to read.
    pub(super) fn begin(file: File) -> Self {
        let (hand_over, steps) = mpsc::channel(2);
        spawn_blocking(move || {
            if let Err(error) = read(file, &hand_over) {
                // Nobody listens any more when the load has failed otherwise.
                let _ = hand_over.blocking_send(Err(error));
            }
        });
        Self { steps }
    }

    async fn next(&mut self) -> Result<Step> {
        match self.steps.recv().await {
            Some(step) => step,
            None => Err(Error::new(ErrorKind::Internal, "the reader of the archive ended early")),
        }
    }

    /// What stands before the first block.
    pub(super) async fn prelude(&mut self) -> Result<Prelude> {
        match self.next().await? {
            Step::Event(Event::Prelude(prelude)) => Ok(prelude),
            _ => Err(Error::new(ErrorKind::Internal, "an archive began without its prelude")),
        }
    }

    /// Reads to the end, checks everything, and gives what each entry of `prelude` holds; shows `oplog` what its entry holds.
    pub(super) async fn judge(
        mut self,
        prelude: &Prelude,
        mut oplog: Option<(usize, &mut Judging)>,
        observer: &dyn Observer,
    ) -> Result<Judged> {
        let mut oplog_begun = false;
        let mut judged = Judged {
            digests: vec![DocumentDigest::default(); prelude.entries.len()],
            accounts: HashMap::new(),
            open_max: 0,
        };
        loop {
            match self.next().await? {
                Step::End(summary) => {
                    judged.open_max = summary.open_max;
                    return Ok(judged);
                }
                Step::Event(Event::Documents { entry, bytes, count }) => {
                    judged.digests[entry]
                        .add_concatenation(&bytes)
                        .expect("the reader gives framed documents");
                    observer.advance(Amount { items: count, bytes: bytes.len() as u64 });
                    if let Some((_, oplog)) = oplog.as_mut().filter(|(position, _)| *position == entry) {
                        oplog.add(&bytes);
                    }
                    if matches!(prelude.entries[entry].role(), Role::Users | Role::Roles | Role::AuthVersion)
                    {
                        keep(judged.accounts.entry(entry).or_default(), &bytes)?;
                    }
                }
                Step::Event(Event::Opened { entry } | Event::Closed { entry }) => match &oplog {
                    Some((position, _)) if *position == entry => oplog_begun = true,
                    Some(_) if oplog_begun => return Err(oplog_too_early()),
                    _ => {}
                },
                Step::Event(Event::Prelude(_)) => {}
            }
        }
    }

    /// Reads to the end and spreads the documents: for each wanted entry that begins, a work with its feed goes to `announce`; what the
    /// oplog's entry holds goes to `oplog`, and nothing is announced any more when that begins.
    pub(super) async fn spread<'w>(
        mut self,
        mut wanted: HashMap<usize, Wanted>,
        oplog: Option<(usize, mpsc::Sender<Fed>)>,
        open_max: usize,
        announce: mpsc::Sender<Turn<'w>>,
    ) -> Result<()> {
        let mut announce = Some(announce);
        let mut oplog = oplog;
        let mut feeds: HashMap<usize, mpsc::Sender<Fed>> = HashMap::new();
        loop {
            // Who has stopped taking has a failure to tell, or found its collection in place already.
            match self.next().await? {
                Step::End(_) => return Ok(()),
                Step::Event(Event::Opened { entry }) => {
                    if let Some((_, feeding)) = oplog.take_if(|(position, _)| *position == entry) {
                        feeds.insert(entry, feeding);
                        announce = None;
                        continue;
                    }
                    let (Some(Wanted { index, draft, connections }), Some(announce)) =
                        (wanted.remove(&entry), &announce)
                    else {
                        continue;
                    };
                    if feeds.len() == open_max {
                        return Err(too_many_open(open_max));
                    }
                    let (feeding, feed) = Feed::new();
                    feeds.insert(entry, feeding);
                    let content = draft.content(connections, Source::Feed(feed));
                    let _ = announce.send((index, Box::new(content))).await;
                }
                Step::Event(Event::Documents { entry, bytes, count }) => {
                    if let Some(feed) = feeds.get(&entry) {
                        let _ = feed.send(Fed::Documents(DocumentBatch { bytes, documents: count })).await;
                    }
                }
                Step::Event(Event::Closed { entry }) => {
                    if let Some(feed) = feeds.remove(&entry) {
                        let _ = feed.send(Fed::End).await;
                    }
                }
                Step::Event(Event::Prelude(_)) => {}
            }
        }
    }
}

/// Refuses an archive that is too much interleaved.
pub(super) fn too_many_open(open_max: usize) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("the archive has more than {open_max} collections open at one time"),
    )
    .with_hint("make the dump again with fewer collections at the same time, or as a directory")
}

fn oplog_too_early() -> Error {
    Error::new(ErrorKind::Unsupported, "the archive's oplog stands before collections that it goes on from")
        .with_hint("make the dump again; `--without-oplog` loads the collections as the dump met them")
}

/// What an archive was found to hold.
pub(super) struct Judged {
    /// The documents of each entry.
    pub(super) digests: Vec<DocumentDigest>,
    /// The documents of users, roles and their version, by entry.
    pub(super) accounts: HashMap<usize, BytesMut>,
    /// The most entries that are open at one time.
    pub(super) open_max: usize,
}

/// An entry that is to be loaded.
pub(super) struct Wanted {
    /// Its position in the plan.
    pub(super) index: usize,
    pub(super) draft: Draft,
    pub(super) connections: usize,
}

/// Keeps documents of users and roles, within bounds.
pub(super) fn keep(kept: &mut BytesMut, bytes: &[u8]) -> Result<()> {
    if kept.len() + bytes.len() > ACCOUNT_BYTES_MAX {
        return Err(Error::new(ErrorKind::Unsupported, "the dump holds more than 64 MiB of users or roles"));
    }
    kept.extend_from_slice(bytes);
    Ok(())
}

/// Reads, on a thread that may wait.
fn read(file: File, hand_over: &mpsc::Sender<Result<Step>>) -> Result<()> {
    let mut chunks = Chunks::of(file).map_err(|error| failed(&error))?;
    let mut reader = ArchiveReader::default();
    while let Some(chunk) = chunks.next().map_err(|error| failed(&error))? {
        reader.push(chunk);
        while let Some(event) = reader.event().map_err(damaged)? {
            if hand_over.blocking_send(Ok(Step::Event(event))).is_err() {
                return Ok(());
            }
        }
    }
    let summary = reader.end().map_err(damaged)?;
    let _ = hand_over.blocking_send(Ok(Step::End(summary)));
    Ok(())
}

fn damaged(error: ReadError) -> Error {
    match error.fault {
        Fault::Magic => Error::new(ErrorKind::Usage, Fault::Magic.to_string())
            .with_hint("name an archive, plain or gzip, or the folder of a dump"),
        Fault::PreludeSize => Error::new(ErrorKind::Unsupported, error.to_string()),
        _ => Error::new(ErrorKind::Corrupt, error.to_string())
            .with_hint("make the dump again, or take another copy of it"),
    }
}
