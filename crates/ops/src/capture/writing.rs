//! The task that seals and writes slices of a log that is bytes, one after another.

use std::time::Duration;

use bytes::Bytes;
use mainstay_model::{ChainId, Error, LogPosition, Result, ResultExt, Timestamp};
use mainstay_repository::ChainWriter;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::claim::put_patiently;
use super::milliseconds;

/// A slice to be written.
pub(super) struct Cut {
    /// What is stored.
    pub(super) plain: Bytes,
    /// How much of it is of the log.
    pub(super) bytes: u64,
    pub(super) through: LogPosition,
    pub(super) begun: Instant,
    /// When its last byte came.
    pub(super) complete_at: Timestamp,
}

/// A slice that became durable.
pub(super) struct Stored {
    pub(super) after: LogPosition,
    pub(super) through: LogPosition,
    /// Of the log.
    pub(super) bytes: u64,
    /// In the store.
    pub(super) stored_bytes: u64,
    /// How long its oldest byte waited here until it was durable.
    pub(super) held_ms: u64,
    /// When its last byte came.
    pub(super) complete_at: Timestamp,
}

/// Told what becomes of slices.
pub(super) trait SliceObserver: Send + Sync + 'static {
    /// A position of the log, for people.
    fn position(&self, at: LogPosition) -> String;

    /// A slice cannot be stored now; the log is stored up to `end`, and had been complete at `complete_at`.
    fn waiting(&self, error: &Error, end: LogPosition, complete_at: Option<Timestamp>, pause: Duration);

    /// A slice of `chain` is durable.
    fn stored(&self, chain: &ChainId, slice: &Stored);
}

/// Who writes.
pub(super) struct Writing<O> {
    pub(super) observer: O,
    pub(super) writer: ChainWriter,
    /// The first failure ends it.
    pub(super) once: bool,
    pub(super) cancel: CancellationToken,
    /// Where it tells what is durable.
    pub(super) tell: mpsc::Sender<Stored>,
    /// When everything that the server had was stored, for the last time.
    pub(super) complete_at: watch::Receiver<Option<Timestamp>>,
}

impl<O: SliceObserver> Writing<O> {
    /// Writes what comes until nothing does.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn run(mut self, mut cuts: mpsc::Receiver<Cut>) -> Result<()> {
        while let Some(cut) = cuts.recv().await {
            self.write(cut).await?;
        }
        Ok(())
    }

    async fn write(&mut self, cut: Cut) -> Result<()> {
        let Cut { plain, bytes, through, begun, complete_at } = cut;
        let after = self.writer.end();
        let sealed = self.writer.seal(through, plain).await?;
        let (observer, known) = (&self.observer, &self.complete_at);
        let wait = |error: &Error, end, pause| observer.waiting(error, end, *known.borrow(), pause);
        put_patiently(&mut self.writer, &sealed, self.once, &self.cancel, wait)
            .await
            .with_context(|| format!("store the log up to {}", observer.position(through)))?;
        let stored_bytes = sealed.slice().bytes;
        let held_ms = milliseconds(begun.elapsed());
        let stored = Stored { after, through, bytes, stored_bytes, held_ms, complete_at };
        observer.stored(self.writer.id(), &stored);
        // Nobody listens only when the session has been dropped as a whole.
        let _ = self.tell.send(stored).await;
        Ok(())
    }
}
