//! Frames: plain bytes cut into pieces of [`FRAME_BYTES`], each compressed as a zstd frame of its own on a blocking thread.
//!
//! Frames concatenate to a valid zstd stream, so frames of one object can be compressed at the same time and `zstd -d` still reads the
//! whole. One [`FrameCompressor`] serves the whole repository: it bounds how many frames are compressed at once and how many are on
//! their way, and keeps the zstd contexts and buffers for the next frame.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use mainstay_model::{Error, ErrorKind, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use zstd::zstd_safe::CParameter;

use crate::options::Compression;

/// Plain bytes per frame; the last frame of an object is shorter. Larger gains nothing in size, smaller costs size.
pub const FRAME_BYTES: usize = 2 * 1024 * 1024;

/// The default level, whose search tables are made half as large (256 KiB and 128 KiB), so that both stay in a core's second-level cache: a
/// tenth less CPU for output that is under one percent larger. See [`Compression`](crate::Compression) for the measurement.
const TUNED_LEVEL: i32 = 3;
const TUNED_HASH_LOG: u32 = 16;
const TUNED_CHAIN_LOG: u32 = 15;

/// The plain bytes of one frame.
pub(crate) enum Plain {
    /// Gathered from several writes, in a buffer that goes back to the pool.
    Gathered(Vec<u8>),
    /// Part of one large write, not copied.
    Shared(Bytes),
}

/// A frame on its way to the store.
pub(crate) struct Pending {
    task: JoinHandle<Result<Bytes>>,
    in_flight: OwnedSemaphorePermit,
}

impl Pending {
    /// The compressed frame, and the permit to be kept until the store has taken it.
    pub(crate) async fn compressed(self) -> Result<(Bytes, OwnedSemaphorePermit)> {
        let frame = self.task.await.map_err(|source| {
            Error::new(ErrorKind::Internal, "compression of a frame ended early").with_source(source)
        })??;
        Ok((frame, self.in_flight))
    }
}

#[derive(Debug)]
pub(crate) struct FrameCompressor {
    options: Compression,
    /// Permits for frames being compressed: one per thread.
    running: Arc<Semaphore>,
    /// Permits for frames between producer and store. An object's frames take them in order and give them back in order, and giving
    /// back waits for nothing but the store, so waiting for one always ends.
    in_flight: Arc<Semaphore>,
    pool: Mutex<Pool>,
}

#[derive(Default)]
struct Pool {
    workers: Vec<Worker>,
    buffers: Vec<Vec<u8>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} idle contexts, {} idle buffers", self.workers.len(), self.buffers.len())
    }
}

/// A zstd context and room for its output.
struct Worker {
    context: zstd::bulk::Compressor<'static>,
    output: Vec<u8>,
}

impl FrameCompressor {
    /// # Errors
    /// [`ErrorKind::Config`] when the options are out of range.
    pub(crate) fn new(options: Compression) -> Result<Self> {
        options.check()?;
        Ok(Self {
            options,
            running: Arc::new(Semaphore::new(options.threads)),
            in_flight: Arc::new(Semaphore::new(2 * options.threads + 2)),
            pool: Mutex::default(),
        })
    }

    /// How many frames of one object may wait for the store.
    pub(crate) fn queue_frames(&self) -> usize {
        self.options.threads + 1
    }

    /// An empty buffer to gather a frame in.
    pub(crate) fn buffer(&self) -> Vec<u8> {
        self.pool().buffers.pop().unwrap_or_default()
    }

    /// Begins to compress one frame as soon as a thread is free; waits until then.
    pub(crate) async fn begin(self: &Arc<Self>, plain: Plain) -> Pending {
        let in_flight = acquire(&self.in_flight).await;
        let running = acquire(&self.running).await;
        let compressor = Arc::clone(self);
        let task = tokio::task::spawn_blocking(move || {
            let frame = compressor.compress(plain);
            drop(running);
            frame
        });
        Pending { task, in_flight }
    }

    fn compress(&self, plain: Plain) -> Result<Bytes> {
        let idle = self.pool().workers.pop();
        let mut worker = idle.map_or_else(|| Worker::new(self.options.level), Ok)?;
        let frame = match &plain {
            Plain::Gathered(bytes) => worker.compress(bytes),
            Plain::Shared(bytes) => worker.compress(bytes),
        };
        let mut pool = self.pool();
        // There are never more workers than permits of `running`; buffers are kept for as many frames.
        pool.workers.push(worker);
        if let Plain::Gathered(mut buffer) = plain
            && pool.buffers.len() < self.options.threads
        {
            buffer.clear();
            pool.buffers.push(buffer);
        }
        drop(pool);
        frame.map_err(compression_error)
    }

    fn pool(&self) -> std::sync::MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Worker {
    fn new(level: i32) -> Result<Self> {
        let prepare = || {
            let mut context = zstd::bulk::Compressor::new(level)?;
            if level == TUNED_LEVEL {
                context.set_parameter(CParameter::HashLog(TUNED_HASH_LOG))?;
                context.set_parameter(CParameter::ChainLog(TUNED_CHAIN_LOG))?;
            }
            context.set_parameter(CParameter::ChecksumFlag(true))?;
            context.set_parameter(CParameter::ContentSizeFlag(true))?;
            Ok(context)
        };
        Ok(Self { context: prepare().map_err(compression_error)?, output: Vec::new() })
    }

    /// The frame, in memory of just its size.
    fn compress(&mut self, plain: &[u8]) -> std::io::Result<Bytes> {
        self.output.clear();
        self.output.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        self.context.compress_to_buffer(plain, &mut self.output)?;
        Ok(Bytes::copy_from_slice(&self.output))
    }
}

async fn acquire(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(semaphore).acquire_owned().await.expect("this semaphore is never closed")
}

fn compression_error(source: std::io::Error) -> Error {
    Error::new(ErrorKind::Internal, "zstd refused to compress a frame").with_source(source)
}

/// Appends `bytes` to a frame being gathered. The buffer grows by doubling and ends at [`FRAME_BYTES`] exactly, so that small objects
/// stay small and full frames waste nothing.
pub(crate) fn gather(frame: &mut Vec<u8>, bytes: &[u8]) {
    let length = frame.len() + bytes.len();
    if length > frame.capacity() {
        let capacity = (2 * length).min(FRAME_BYTES).max(length);
        frame.reserve_exact(capacity - frame.len());
    }
    frame.extend_from_slice(bytes);
}
