//! Writing one object.
//!
//! `write` gathers plain bytes into frames and hands them to the repository's compressor; a task of the object's own takes the
//! compressed frames in order, seals them (encrypts, hashes, counts) and writes them to the store. Every queue is bounded, so a slow
//! store slows the producer down.
//!
//! The task also makes the object appear, and outlives its [`ObjectSink`]: what a store has begun cannot be called back. The set's writer
//! waits for all such tasks ([`SetWriter::abandon`](crate::SetWriter::abandon)). A task whose sink is gone gives up between two frames; an
//! object that appeared after its sink was dropped is removed again.

use std::sync::Arc;

use bytes::Bytes;
use mainstay_model::{Blake3, Error, ErrorKind, ObjectName, Result, ResultExt};
use mainstay_store::{Key, ObjectWriter};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::compress::{FRAME_BYTES, FrameCompressor, Pending, Plain, gather};
use crate::manifest::{Encryption, ObjectCompression, ObjectEntry};
use crate::seal::Sealer;
use crate::writer::Opened;

/// An object being written. It is part of the set once [`ObjectSink::finish`] has returned its entry; dropped before that, it is not,
/// and what reached the store is removed in the background. Its name stays taken until that has ended.
pub struct ObjectSink {
    opened: Arc<Opened>,
    compressor: Arc<FrameCompressor>,
    role: String,
    key: Key,
    encryption: Encryption,
    /// The frame being gathered: less than [`FRAME_BYTES`].
    gathered: Vec<u8>,
    plain_bytes: u64,
    frame_count: u64,
    /// `None` after the last frame or a failure.
    steps: Option<mpsc::Sender<Step>>,
    /// What became of the object; `None` once it was looked at.
    outcome: Option<oneshot::Receiver<Result<Stored>>>,
    /// Tells the task that the object became part of the set. Dropped without that, the object is removed.
    taken: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    /// Set while a write is under way: a write that was dropped half-way has left a hole.
    torn: bool,
}

/// What the task is asked to do.
enum Step {
    /// Write the next frame.
    Frame(Pending),
    /// There are no more: make the object appear.
    End,
}

/// Hash and length of the stored bytes.
type Stored = (Blake3, u64);

impl ObjectSink {
    pub(crate) async fn begin(opened: Opened, role: String) -> Result<Self> {
        let set = opened.set();
        let encryption = set.encryption();
        let key = set.object_key(opened.name())?;
        let sealer = Sealer::new(set.recipients()).map_err(seal_error)?;
        let writer = set.store().writer(&key).await.with_context(|| format!("write {key}"))?;
        let compressor = Arc::clone(set.compressor());
        let (steps, queue) = mpsc::channel(compressor.queue_frames());
        let (tell, outcome) = oneshot::channel();
        let (taken, kept) = oneshot::channel();
        let opened = Arc::new(opened);
        let work = Work { opened: Arc::clone(&opened), key: key.clone(), queue };
        let task = opened.set().tasks().spawn(work.run(Box::new(sealer), writer, tell, kept));
        Ok(Self {
            gathered: compressor.buffer(),
            steps: Some(steps),
            outcome: Some(outcome),
            taken: Some(taken),
            plain_bytes: 0,
            frame_count: 0,
            torn: false,
            opened,
            compressor,
            role,
            key,
            encryption,
            task,
        })
    }

    /// The object's name.
    pub fn name(&self) -> &ObjectName {
        self.opened.name()
    }

    /// Plain bytes written so far.
    pub fn plain_bytes(&self) -> u64 {
        self.plain_bytes
    }

    /// Appends `plain`, of any length. Whole frames inside it are compressed without being copied; the rest is copied once. Waits while
    /// compression or the store are behind.
    ///
    /// Not safe to drop half-way: an object whose write was dropped can only be aborted.
    ///
    /// # Errors
    /// Whatever stopped the object, once; afterwards [`ErrorKind::Internal`]. The set has no manifest yet, so nothing is half visible.
    pub async fn write(&mut self, mut plain: Bytes) -> Result<()> {
        self.plain_bytes += plain.len() as u64;
        self.torn = true;
        if !self.gathered.is_empty() {
            let room = FRAME_BYTES - self.gathered.len();
            gather(&mut self.gathered, &plain.split_to(room.min(plain.len())));
            if self.gathered.len() == FRAME_BYTES {
                self.dispatch_gathered().await?;
            }
        }
        while plain.len() >= FRAME_BYTES {
            self.dispatch(Plain::Shared(plain.split_to(FRAME_BYTES))).await?;
        }
        gather(&mut self.gathered, &plain);
        self.torn = false;
        Ok(())
    }

    /// Writes what is left and makes the object durable and part of the set. Dropped half-way, the object is given up.
    ///
    /// # Errors
    /// As [`ObjectSink::write`].
    pub async fn finish(mut self) -> Result<ObjectEntry> {
        if self.torn {
            return Err(Error::new(
                ErrorKind::Internal,
                format!("a write to {} was not completed", self.key),
            ));
        }
        // An empty object is one empty frame: `zstd -d` refuses an empty file.
        if !self.gathered.is_empty() || self.frame_count == 0 {
            self.dispatch_gathered().await?;
        }
        self.hand_over(Step::End).await?;
        let (blake3, stored_bytes) = self.outcome().await.map_err(|error| self.explain(error))?;
        let entry = ObjectEntry {
            name: self.name().clone(),
            role: self.role.clone(),
            stored_bytes,
            plain_bytes: self.plain_bytes,
            blake3,
            compression: ObjectCompression::Zstd,
            encryption: self.encryption,
        };
        self.opened.set().complete(entry.clone())?;
        if let Some(taken) = self.taken.take() {
            // The task waits for this and ends.
            let _ = taken.send(());
        }
        Ok(entry)
    }

    /// Gives the object up and waits until nothing is written any more: it will not be part of the set, and its name is free again. What
    /// cannot be removed now is removed with the set's leftovers.
    pub async fn abort(mut self) {
        self.opened.give_up();
        (self.steps, self.taken) = (None, None);
        // The set's leftovers name what stays behind; there is nobody to tell here.
        let _ = (&mut self.task).await;
    }

    async fn dispatch_gathered(&mut self) -> Result<()> {
        let frame = std::mem::replace(&mut self.gathered, self.compressor.buffer());
        self.dispatch(Plain::Gathered(frame)).await
    }

    async fn dispatch(&mut self, plain: Plain) -> Result<()> {
        let steps = self.steps()?;
        let Ok(slot) = steps.reserve().await else { return Err(self.failure().await) };
        slot.send(Step::Frame(self.compressor.begin(plain).await));
        self.frame_count += 1;
        Ok(())
    }

    async fn hand_over(&mut self, step: Step) -> Result<()> {
        match self.steps()?.send(step).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.failure().await),
        }
    }

    fn steps(&self) -> Result<&mpsc::Sender<Step>> {
        self.steps
            .as_ref()
            .ok_or_else(|| Error::new(ErrorKind::Internal, format!("{} has failed before", self.key)))
    }

    /// The error that ended the task.
    async fn failure(&mut self) -> Error {
        self.steps = None;
        let error = match self.outcome().await {
            Err(error) => error,
            Ok(_) => Error::new(ErrorKind::Internal, "the writing task ended early"),
        };
        self.explain(error)
    }

    async fn outcome(&mut self) -> Result<Stored> {
        match self.outcome.take() {
            Some(outcome) => outcome
                .await
                .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "the writing task ended early"))),
            None => Err(Error::new(ErrorKind::Internal, "the object has failed before")),
        }
    }

    /// Says where it happened, how the repository stands and what to do.
    fn explain(&self, error: Error) -> Error {
        self.opened.set().explain(error.context(format!("write {}", self.key)))
    }
}

impl Drop for ObjectSink {
    fn drop(&mut self) {
        self.opened.give_up();
    }
}

/// The task's side of an object.
struct Work {
    opened: Arc<Opened>,
    key: Key,
    queue: mpsc::Receiver<Step>,
}

impl Work {
    async fn run(
        mut self,
        sealer: Box<Sealer>,
        writer: ObjectWriter,
        tell: oneshot::Sender<Result<Stored>>,
        kept: oneshot::Receiver<()>,
    ) {
        let stored = self.store(sealer, writer).await;
        let is_stored = stored.is_ok();
        let is_told = tell.send(stored).is_ok();
        if is_stored && !(is_told && self.is_kept(kept).await) {
            // Nobody wants it. What cannot be removed now is removed with the set's leftovers.
            let _ = self.opened.set().store().delete(&self.key).await;
        }
    }

    /// Writes frames while they are wanted, then makes the object appear; that is seen through to its end.
    async fn store(&mut self, sealer: Box<Sealer>, mut writer: ObjectWriter) -> Result<Stored> {
        let written = tokio::select! {
            biased;
            () = self.opened.given_up() => Err(given_up()),
            written = write_frames(&mut self.queue, sealer, &mut writer) => written,
        };
        match written {
            Ok(sealer) => end(sealer, writer).await,
            Err(error) => {
                // The first error is the one to tell; what stays behind is found among the set's leftovers.
                let _ = writer.abort().await;
                Err(error)
            }
        }
    }

    /// Waits until the finished object is part of the set, or will never be.
    async fn is_kept(&self, mut kept: oneshot::Receiver<()>) -> bool {
        tokio::select! {
            biased;
            kept = &mut kept => kept.is_ok(),
            // A task that has used up its turn passes over a word that is there: a finished sink is dropped, too.
            () = self.opened.given_up() => kept.try_recv().is_ok(),
        }
    }
}

/// Takes frames in order until there are no more.
async fn write_frames(
    queue: &mut mpsc::Receiver<Step>,
    mut sealer: Box<Sealer>,
    writer: &mut ObjectWriter,
) -> Result<Box<Sealer>> {
    loop {
        match queue.recv().await {
            Some(Step::Frame(pending)) => sealer = write_frame(pending, sealer, writer).await?,
            Some(Step::End) => return Ok(sealer),
            None => return Err(given_up()),
        }
    }
}

async fn write_frame(
    pending: Pending,
    mut sealer: Box<Sealer>,
    writer: &mut ObjectWriter,
) -> Result<Box<Sealer>> {
    let (frame, in_flight) = pending.compressed().await?;
    let (sealer, stored) = tokio::task::spawn_blocking(move || {
        let stored = sealer.frame(frame);
        (sealer, stored)
    })
    .await
    .map_err(task_error)?;
    let stored = stored.map_err(seal_error)?;
    if !stored.is_empty() {
        writer.write(stored).await?;
    }
    drop(in_flight);
    Ok(sealer)
}

async fn end(sealer: Box<Sealer>, mut writer: ObjectWriter) -> Result<Stored> {
    let (last, blake3, stored_bytes) = sealer.end().map_err(seal_error)?;
    if !last.is_empty() {
        writer.write(last).await?;
    }
    let taken = writer.finish().await?;
    if taken != stored_bytes {
        return Err(Error::new(
            ErrorKind::Storage,
            format!("the store took {taken} bytes of {stored_bytes}"),
        ));
    }
    Ok((blake3, stored_bytes))
}

fn given_up() -> Error {
    Error::new(ErrorKind::Interrupted, "the object was given up")
}

fn task_error(source: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Internal, "a writing task ended early").with_source(source)
}

fn seal_error(source: std::io::Error) -> Error {
    Error::new(ErrorKind::Internal, "encryption failed").with_source(source)
}
