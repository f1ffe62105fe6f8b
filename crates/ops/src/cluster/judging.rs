//! A judge on a thread of its own: sums and page checks beside whoever reads, not in its way.
//!
//! Pieces are handed over a megabyte or so at a time, and few wait, so that memory is bounded and a judge that is behind slows the reader down.

use std::thread::{self, JoinHandle};

use bytes::Bytes;
use mainstay_basebackup::{ArchiveJudge, SeenArchive};
use mainstay_model::{Error, ErrorKind, Result};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

/// How much is gathered before it is handed over.
const HANDED_BYTES: usize = 1024 * 1024;
/// How many such portions wait.
const PORTION_COUNT_MAX: usize = 4;

/// An archive that is being judged.
pub(super) struct Judging {
    portions: mpsc::Sender<Vec<Bytes>>,
    gathered: Vec<Bytes>,
    gathered_bytes: usize,
    thread: JoinHandle<SeenArchive>,
}

impl Judging {
    /// Begins; the thread ends with the archive, or when this is dropped.
    ///
    /// # Errors
    /// `Internal` when there can be no more threads.
    pub(super) fn begin(mut judge: ArchiveJudge) -> Result<Self> {
        let (portions, mut waiting) = mpsc::channel::<Vec<Bytes>>(PORTION_COUNT_MAX);
        let work = move || {
            while let Some(portion) = waiting.blocking_recv() {
                portion.iter().for_each(|piece| judge.bytes(piece));
            }
            judge.end()
        };
        let thread = thread::Builder::new().name("judge".to_owned()).spawn(work).map_err(|source| {
            Error::new(ErrorKind::Internal, "no thread can be begun").with_source(source)
        })?;
        Ok(Self { portions, gathered: Vec::new(), gathered_bytes: 0, thread })
    }

    /// Takes the next piece.
    pub(super) async fn bytes(&mut self, piece: Bytes) {
        if let Some(portion) = self.gather(piece) {
            // A judge that is gone has panicked: the end tells.
            let _ = self.portions.send(portion).await;
        }
    }

    /// As [`Judging::bytes`], on a thread that may wait.
    pub(super) fn blocking_bytes(&mut self, piece: Bytes) {
        if let Some(portion) = self.gather(piece) {
            let _ = self.portions.blocking_send(portion);
        }
    }

    fn gather(&mut self, piece: Bytes) -> Option<Vec<Bytes>> {
        self.gathered_bytes += piece.len();
        self.gathered.push(piece);
        if self.gathered_bytes < HANDED_BYTES {
            return None;
        }
        self.gathered_bytes = 0;
        Some(std::mem::take(&mut self.gathered))
    }

    /// What was seen.
    ///
    /// # Errors
    /// `Internal` when the judge panicked.
    pub(super) async fn end(self) -> Result<SeenArchive> {
        let Self { portions, gathered, thread, .. } = self;
        let _ = portions.send(gathered).await;
        drop(portions);
        let seen = spawn_blocking(move || thread.join()).await;
        seen.ok().and_then(thread::Result::ok).ok_or_else(ended_early)
    }

    /// As [`Judging::end`], on a thread that may wait.
    pub(super) fn blocking_end(self) -> Result<SeenArchive> {
        let Self { portions, gathered, thread, .. } = self;
        let _ = portions.blocking_send(gathered);
        drop(portions);
        thread.join().map_err(|_| ended_early())
    }
}

fn ended_early() -> Error {
    Error::new(ErrorKind::Internal, "the judge of an archive ended early")
}
