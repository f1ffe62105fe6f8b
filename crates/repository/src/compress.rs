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

/// With the default level, frames that a quicker one makes as small are left to that: those that hardly compress, and those that compress to next
/// to nothing. Which they are is told by what the quicker level makes of [`SAMPLE_COUNT`] pieces of the frame.
///
/// | 40 MB of a PostgreSQL cluster | level 1: MB/s, ratio | level 3: MB/s, ratio |
/// |---|---|---|
/// | random blobs, 8 KB each | 991, 1.026 | 266, 1.026 |
/// | rows of `pgbench_accounts` | 1951, 42.0 | 1150, 37.3 |
/// | an index of integers | 288, 6.53 | 265, 6.59 |
///
/// `zstd -b1 -e1 -B2M` and `zstd -b3 -e3 -B2M` on the files of the relations.
const QUICK_LEVEL: i32 = 1;
/// With the default level, frames that gain less than this are stored as they are, in raw blocks: pictures, archives, what is encrypted. Large
/// values of PostgreSQL gain 2.6 %, the free space of their pages, and stay with the quick level: `pg_basebackup` makes as much of them.
const RAW_RATIO: f64 = 1.02;
const QUICK_RATIO_LOW: f64 = 1.15;
const QUICK_RATIO_HIGH: f64 = 12.0;
const SAMPLE_COUNT: usize = 4;
const SAMPLE_BYTES: usize = 16 * 1024;

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

/// A zstd context, one for frames that a quicker level makes as small, and room for their output.
struct Worker {
    context: zstd::bulk::Compressor<'static>,
    quick: Option<zstd::bulk::Compressor<'static>>,
    sample: Vec<u8>,
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
        let prepare = |level| {
            let mut context = zstd::bulk::Compressor::new(level)?;
            if level == TUNED_LEVEL {
                context.set_parameter(CParameter::HashLog(TUNED_HASH_LOG))?;
                context.set_parameter(CParameter::ChainLog(TUNED_CHAIN_LOG))?;
            }
            context.set_parameter(CParameter::ChecksumFlag(true))?;
            context.set_parameter(CParameter::ContentSizeFlag(true))?;
            Ok(context)
        };
        let context = prepare(level).map_err(compression_error)?;
        let quick = (level == TUNED_LEVEL).then(|| prepare(QUICK_LEVEL)).transpose();
        let quick = quick.map_err(compression_error)?;
        Ok(Self { context, quick, sample: Vec::new(), output: Vec::new() })
    }

    /// The frame, in memory of about its size: output that fills its buffer is handed on in it.
    fn compress(&mut self, plain: &[u8]) -> std::io::Result<Bytes> {
        self.output.clear();
        self.output.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        let context = match (self.way(plain)?, &mut self.quick) {
            (Way::Raw, _) => return Ok(raw_frame(plain).into()),
            (Way::Quick, Some(quick)) => quick,
            (Way::Quick | Way::Thorough, _) => &mut self.context,
        };
        context.compress_to_buffer(plain, &mut self.output)?;
        if self.output.len() > self.output.capacity() / 8 * 7 {
            return Ok(std::mem::take(&mut self.output).into());
        }
        Ok(Bytes::copy_from_slice(&self.output))
    }

    /// What is worth doing for the frame.
    fn way(&mut self, plain: &[u8]) -> std::io::Result<Way> {
        let Some(quick) = &mut self.quick else { return Ok(Way::Thorough) };
        let stride = plain.len() / SAMPLE_COUNT;
        if stride < 4 * SAMPLE_BYTES {
            return Ok(Way::Thorough);
        }
        self.sample.clear();
        for piece in plain.chunks_exact(stride) {
            self.sample.extend_from_slice(&piece[..SAMPLE_BYTES]);
        }
        self.output.clear();
        self.output.reserve(zstd::zstd_safe::compress_bound(self.sample.len()));
        let length = quick.compress_to_buffer(&self.sample, &mut self.output)?;
        self.output.clear();
        let ratio = self.sample.len() as f64 / length as f64;
        Ok(match ratio {
            _ if ratio < RAW_RATIO => Way::Raw,
            _ if (QUICK_RATIO_LOW..=QUICK_RATIO_HIGH).contains(&ratio) => Way::Thorough,
            _ => Way::Quick,
        })
    }
}

/// How a frame is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Not at all.
    Raw,
    /// With the quicker level.
    Quick,
    /// With the level that was asked for.
    Thorough,
}

/// A zstd frame that holds `plain`, at most [`FRAME_BYTES`], as it is. Source: RFC 8878, sections 3.1.1.1 and 3.1.1.2.
fn raw_frame(plain: &[u8]) -> Vec<u8> {
    /// Length of the content in four bytes, a single segment, a checksum.
    const DESCRIPTOR: u8 = 0b1010_0100;
    const BLOCK_BYTES_MAX: usize = 128 * 1024;
    const BLOCK_HEADER_BYTES: usize = 3;
    /// Magic, descriptor, length and checksum.
    const AROUND_BYTES: usize = 4 + 1 + 4 + 4;

    debug_assert!(!plain.is_empty() && plain.len() <= FRAME_BYTES);
    let block_count = plain.len().div_ceil(BLOCK_BYTES_MAX);
    let mut frame = Vec::with_capacity(plain.len() + block_count * BLOCK_HEADER_BYTES + AROUND_BYTES);
    frame.extend_from_slice(&zstd::zstd_safe::MAGICNUMBER.to_le_bytes());
    frame.push(DESCRIPTOR);
    frame.extend_from_slice(&(plain.len() as u32).to_le_bytes());
    for (index, block) in plain.chunks(BLOCK_BYTES_MAX).enumerate() {
        // Whether it is the last, two bits for its type, which is zero, and its length.
        let header = u32::from(index + 1 == block_count) | (block.len() as u32) << 3;
        frame.extend_from_slice(&header.to_le_bytes()[..BLOCK_HEADER_BYTES]);
        frame.extend_from_slice(block);
    }
    // The checksum is the lower half of the hash.
    frame.extend_from_slice(&xxhash_rust::xxh64::xxh64(plain, 0).to_le_bytes()[..4]);
    frame
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// Bytes that do not compress.
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn frames_get_what_is_worth_doing_for_them() {
        let noise = noise(FRAME_BYTES);
        let sparse: Vec<u8> =
            noise.iter().enumerate().map(|(at, byte)| if at % 8_192 < 700 { 0 } else { *byte }).collect();
        let words: Vec<u8> = noise
            .chunks_exact(8)
            .flat_map(|eight| {
                format!("{:08x}", (u32::from(eight[0]) << 4 | u32::from(eight[1]) >> 4) * 7_919).into_bytes()
            })
            .collect();
        let rows: Vec<u8> =
            (0..FRAME_BYTES / 128).flat_map(|row| format!("{row:<128}").into_bytes()).collect();
        let cases = [(&noise, Way::Raw), (&sparse, Way::Quick), (&words, Way::Thorough), (&rows, Way::Quick)];
        for (plain, way) in cases {
            let mut worker = Worker::new(TUNED_LEVEL).unwrap();
            assert_eq!(worker.way(plain).unwrap(), way);
            let frame = worker.compress(plain).unwrap();
            assert_eq!(zstd::bulk::decompress(&frame, plain.len()).unwrap(), *plain);
            assert_eq!(worker.way(&plain[..100_000]).unwrap(), Way::Thorough, "too short to be worth a look");
            assert_eq!(
                Worker::new(9).unwrap().way(plain).unwrap(),
                Way::Thorough,
                "a level that was asked for"
            );
        }
    }

    #[test]
    fn a_raw_frame_is_one_of_zstd_and_has_its_checksum() {
        let noise = noise(FRAME_BYTES);
        for length in [1, 1_000, 128 * 1024, 128 * 1024 + 1, FRAME_BYTES] {
            let mut frame = raw_frame(&noise[..length]);
            assert_eq!(zstd::bulk::decompress(&frame, length).unwrap(), noise[..length], "{length}");
            frame[length / 2 + 12] ^= 1;
            assert!(zstd::bulk::decompress(&frame, length).is_err(), "{length}: a flipped bit is found");
        }
    }
}
