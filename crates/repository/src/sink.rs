//! Writing one object.
//!
//! `write` gathers plain bytes into frames and hands them to the repository's compressor; a task of the object's own takes the
//! compressed frames in order, seals them (encrypts, hashes, counts) and writes them to the store. Every queue is bounded, so a slow
//! store slows the producer down.

use std::sync::Arc;

use bytes::Bytes;
use mainstay_model::{Blake3, Error, ErrorKind, ObjectName, Result, ResultExt};
use mainstay_store::{Key, ObjectWriter};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::compress::{FRAME_BYTES, FrameCompressor, Pending, Plain, gather};
use crate::manifest::{Encryption, ObjectCompression, ObjectEntry};
use crate::seal::Sealer;
use crate::writer::Shared;

/// An object being written. It is part of the set once [`ObjectSink::finish`] has returned its entry; dropped before that, it is not,
/// and what reached the store is removed with the set's leftovers.
pub struct ObjectSink {
    set: Arc<Shared>,
    compressor: Arc<FrameCompressor>,
    name: ObjectName,
    role: String,
    key: Key,
    encryption: Encryption,
    /// The frame being gathered: less than [`FRAME_BYTES`].
    gathered: Vec<u8>,
    plain_bytes: u64,
    frame_count: u64,
    /// `None` after a failure.
    frames: Option<mpsc::Sender<Pending>>,
    /// The one task that writes; ended when dropped.
    writing: JoinSet<Result<Written>>,
    /// Set while a write is under way: a write that was dropped half-way has left a hole.
    torn: bool,
}

/// The object when all its frames but the sealer's last bytes are written.
struct Written {
    sealer: Box<Sealer>,
    writer: ObjectWriter,
}

impl ObjectSink {
    pub(crate) async fn begin(set: Arc<Shared>, name: ObjectName, role: String) -> Result<Self> {
        let encryption = set.encryption();
        let key = set.object_key(&name)?;
        let sealer = Sealer::new(set.recipients()).map_err(seal_error)?;
        let writer = set.store().writer(&key).await.with_context(|| format!("write {key}"))?;
        let compressor = Arc::clone(set.compressor());
        let (frames, queue) = mpsc::channel(compressor.queue_frames());
        let mut writing = JoinSet::new();
        writing.spawn(write_frames(queue, Box::new(sealer), writer));
        Ok(Self {
            gathered: compressor.buffer(),
            frames: Some(frames),
            plain_bytes: 0,
            frame_count: 0,
            torn: false,
            set,
            compressor,
            name,
            role,
            key,
            encryption,
            writing,
        })
    }

    /// The object's name.
    pub fn name(&self) -> &ObjectName {
        &self.name
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

    /// Writes what is left and makes the object durable and part of the set.
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
        self.frames = None;
        let written = match self.writing.join_next().await {
            Some(Ok(written)) => written,
            Some(Err(source)) => Err(task_error(source)),
            None => Err(Error::new(ErrorKind::Internal, "the object has failed before")),
        };
        let (blake3, stored_bytes) = match written {
            Ok(written) => end(written).await,
            Err(error) => Err(error),
        }
        .map_err(|error| self.explain(error))?;
        let entry = ObjectEntry {
            name: self.name.clone(),
            role: self.role.clone(),
            stored_bytes,
            plain_bytes: self.plain_bytes,
            blake3,
            compression: ObjectCompression::Zstd,
            encryption: self.encryption,
        };
        self.set.complete(entry.clone())?;
        Ok(entry)
    }

    /// Gives the object up; it will not be part of the set. What cannot be removed now is removed with the set's leftovers.
    pub async fn abort(mut self) {
        self.frames = None;
        if let Some(Ok(Ok(written))) = self.writing.join_next().await {
            // The set's leftovers name what stays behind; there is nobody to tell here.
            let _ = written.writer.abort().await;
        }
    }

    async fn dispatch_gathered(&mut self) -> Result<()> {
        let frame = std::mem::replace(&mut self.gathered, self.compressor.buffer());
        self.dispatch(Plain::Gathered(frame)).await
    }

    async fn dispatch(&mut self, plain: Plain) -> Result<()> {
        let Some(frames) = &self.frames else {
            return Err(Error::new(ErrorKind::Internal, format!("{} has failed before", self.key)));
        };
        let Ok(slot) = frames.reserve().await else { return Err(self.failure().await) };
        slot.send(self.compressor.begin(plain).await);
        self.frame_count += 1;
        Ok(())
    }

    /// The error that ended the writing task.
    async fn failure(&mut self) -> Error {
        self.frames = None;
        let error = match self.writing.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Err(source)) => task_error(source),
            Some(Ok(Ok(_))) | None => Error::new(ErrorKind::Internal, "the writing task ended early"),
        };
        self.explain(error)
    }

    /// Says where it happened, how the repository stands and what to do.
    fn explain(&self, error: Error) -> Error {
        self.set.explain(error.context(format!("write {}", self.key)))
    }
}

impl Drop for ObjectSink {
    fn drop(&mut self) {
        self.set.close(&self.name);
    }
}

/// Takes frames in order until there are no more; on an error gives up what was written so far.
async fn write_frames(
    mut queue: mpsc::Receiver<Pending>,
    mut sealer: Box<Sealer>,
    mut writer: ObjectWriter,
) -> Result<Written> {
    while let Some(pending) = queue.recv().await {
        match write_frame(pending, sealer, &mut writer).await {
            Ok(ready) => sealer = ready,
            Err(error) => {
                // The first error is the one to tell; what stays behind is found among the set's leftovers.
                let _ = writer.abort().await;
                return Err(error);
            }
        }
    }
    Ok(Written { sealer, writer })
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

async fn end(written: Written) -> Result<(Blake3, u64)> {
    let Written { sealer, mut writer } = written;
    let (last, blake3, stored_bytes) = sealer.end().map_err(seal_error)?;
    if !last.is_empty() {
        writer.write(last).await?;
    }
    let taken = finish_writer(writer).await?;
    if taken != stored_bytes {
        return Err(Error::new(
            ErrorKind::Storage,
            format!("the store took {taken} bytes of {stored_bytes}"),
        ));
    }
    Ok((blake3, stored_bytes))
}

/// Finishing a store's writer is not a `Send` future, and objects are finished from spawned tasks: a blocking thread waits for it.
async fn finish_writer(writer: ObjectWriter) -> Result<u64> {
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || runtime.block_on(writer.finish())).await.map_err(task_error)?
}

fn task_error(source: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Internal, "a writing task ended early").with_source(source)
}

fn seal_error(source: std::io::Error) -> Error {
    Error::new(ErrorKind::Internal, "encryption failed").with_source(source)
}
