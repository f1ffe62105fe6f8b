//! The body of a session: entries from the server into slices, slices into the repository.
//!
//! Three tasks with bounded channels between them. The *reader* takes batches from the server. The conductor gathers them into the open
//! slice and cuts it when it is due or large. The *writer* seals and puts one slice after another. When the store is slow or down, the
//! open slice grows to its bound, then the reader waits: memory holds a batch or two and three slices, whatever the store does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mainstay_engine::{ChangeBatch, ChangeStream};
use mainstay_model::{Error, ErrorKind, LogPosition, OpTime, Result, ResultExt};
use mainstay_repository::ChainWriter;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::begin::Begun;
use super::claim::put_patiently;
use super::{
    CaptureContext, CaptureEvent, CaptureOptions, CaptureReport, Ended, PAUSE_FIRST, risk, tell_waiting,
};

/// Plain bytes at which a slice is cut whatever its age. One batch more may be in it.
const SLICE_BYTES: usize = 8 * 1024 * 1024;

/// How long the server may wait for the next entry before it answers with none.
const READ_WAIT: Duration = Duration::from_secs(1);

/// How long a server may be silent before it counts as away. One that has nothing new says so within [`READ_WAIT`].
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// The slice being gathered.
struct OpenSlice {
    bytes: BytesMut,
    entries: u64,
    through: OpTime,
    begun: Instant,
}

/// A slice to be written.
struct Cut {
    plain: Bytes,
    entries: u64,
    through: OpTime,
    begun: Instant,
}

impl OpenSlice {
    fn add(slice: &mut Option<Self>, batch: ChangeBatch) {
        let open = slice.get_or_insert_with(|| Self {
            bytes: BytesMut::new(),
            entries: 0,
            through: batch.last,
            begun: Instant::now(),
        });
        open.bytes.extend_from_slice(&batch.bytes);
        open.entries += batch.entries;
        open.through = batch.last;
    }

    fn cut(self) -> Cut {
        let Self { bytes, entries, through, begun } = self;
        Cut { plain: bytes.freeze(), entries, through, begun }
    }
}

/// Moves entries until asked to stop, until `goal` is stored, or until something breaks.
///
/// # Errors
/// What broke. Everything read before a failure of the server is stored first.
pub(super) async fn pump(
    context: &CaptureContext,
    options: CaptureOptions,
    goal: Option<OpTime>,
    begun: Begun,
    report: &mut CaptureReport,
) -> Result<Ended> {
    let Begun { writer, stream } = begun;
    let end = Arc::new(AtomicU64::new(writer.end().0));
    let mut tasks = JoinSet::new();
    let (hand_on, batches) = mpsc::channel(1);
    let (cuts, to_write) = mpsc::channel(1);
    let (tell, stored) = mpsc::channel(4);
    tasks.spawn(read(Listening { context: context.clone(), end: Arc::clone(&end), stream }, hand_on));
    tasks.spawn(risk::watch(context.clone(), Arc::clone(&end)));
    let writing = Writing { context: context.clone(), writer, once: options.once, tell };
    let written = AbortOnDropHandle::new(tokio::spawn(writing.run(to_write)));
    let slice_age = Duration::from_millis(options.slice_age_ms).max(super::SLICE_AGE_MIN);
    let conductor = Conductor { context, slice_age, goal, batches, cuts, stored, end: &end, report };
    let read = conductor.run().await;
    let written = written.await.map_err(|source| {
        Error::new(ErrorKind::Internal, "the writing of slices ended early").with_source(source)
    })?;
    // What kept slices from being stored comes first: it says what is missing.
    written?;
    read
}

/// Takes batches from the server until nobody wants them or it fails.
async fn read(mut listening: Listening, hand_on: mpsc::Sender<Result<ChangeBatch>>) {
    loop {
        let message = match listening.next().await {
            Ok(None) if hand_on.is_closed() => return,
            Ok(None) => continue,
            Ok(Some(batch)) => Ok(batch),
            Err(error) => Err(error),
        };
        let failed = message.is_err();
        if hand_on.send(message).await.is_err() || failed {
            return;
        }
    }
}

/// The server's log, and whom to tell when the server is away: the stream itself goes on trying for a while before it fails.
struct Listening {
    context: CaptureContext,
    /// Up to where the log is stored.
    end: Arc<AtomicU64>,
    stream: Box<dyn ChangeStream>,
}

impl Listening {
    async fn next(&mut self) -> Result<Option<ChangeBatch>> {
        let asked = Instant::now();
        let mut next = self.stream.next(READ_WAIT);
        if let Ok(answer) = tokio::time::timeout(SILENCE_MAX, &mut next).await {
            return answer;
        }
        let recovery_point = || LogPosition(self.end.load(Ordering::Relaxed)).optime();
        let silent = Error::new(ErrorKind::Unreachable, "the server does not answer");
        tell_waiting(&self.context, &silent, Some(recovery_point()), READ_WAIT);
        let answer = next.await;
        if answer.is_ok() {
            self.context.observer.event(&CaptureEvent::ServerBack {
                recovery_point: recovery_point(),
                away_ms: u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX),
            });
        }
        answer
    }
}

/// A slice that became durable.
struct Stored {
    through: OpTime,
    entries: u64,
    bytes: u64,
    stored_bytes: u64,
}

struct Conductor<'a> {
    context: &'a CaptureContext,
    slice_age: Duration,
    goal: Option<OpTime>,
    batches: mpsc::Receiver<Result<ChangeBatch>>,
    cuts: mpsc::Sender<Cut>,
    stored: mpsc::Receiver<Stored>,
    end: &'a AtomicU64,
    report: &'a mut CaptureReport,
}

impl Conductor<'_> {
    async fn run(mut self) -> Result<Ended> {
        let mut open: Option<OpenSlice> = None;
        let ended = self.gather(&mut open).await;
        // Whatever ended it, what was read is stored.
        if let Some(open) = open {
            // A writer that has gone has told why.
            let _ = self.cuts.send(open.cut()).await;
        }
        drop(self.cuts);
        while let Some(stored) = self.stored.recv().await {
            note(self.report, self.end, &stored);
        }
        ended
    }

    async fn gather(&mut self, open: &mut Option<OpenSlice>) -> Result<Ended> {
        loop {
            if self.goal.is_some_and(|goal| self.reached(open.as_ref()) >= goal) {
                return Ok(Ended::Complete);
            }
            let due = open.as_ref().map(|open| open.begun + self.slice_age);
            let is_full = open.as_ref().is_some_and(|open| open.bytes.len() >= SLICE_BYTES);
            let is_due = is_full || due.is_some_and(|due| due <= Instant::now());
            tokio::select! {
                biased;
                () = self.context.cancel.cancelled() => return Ok(Ended::Complete),
                Some(stored) = self.stored.recv() => note(self.report, self.end, &stored),
                slot = self.cuts.reserve(), if is_due => match (slot, open.take()) {
                    (Ok(slot), Some(open)) => slot.send(open.cut()),
                    // The writer has failed and says why.
                    _ => return Ok(Ended::Again),
                },
                () = self.cuts.closed() => return Ok(Ended::Again),
                batch = self.batches.recv(), if !is_full => match batch {
                    Some(Ok(batch)) => OpenSlice::add(open, batch),
                    Some(Err(error)) if error.kind() == ErrorKind::Conflict => {
                        tell_waiting(self.context, &error, self.report.recovery_point, PAUSE_FIRST);
                        return Ok(Ended::Again);
                    }
                    Some(Err(error)) => return Err(error),
                    None => return Err(Error::new(ErrorKind::Internal, "the reader of the log ended early")),
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() && !is_due => {}
            }
        }
    }

    /// Up to where the log has been read.
    fn reached(&self, open: Option<&OpenSlice>) -> OpTime {
        let stored = LogPosition(self.end.load(Ordering::Relaxed)).optime();
        open.map_or(stored, |open| open.through.max(stored))
    }
}

fn note(report: &mut CaptureReport, end: &AtomicU64, stored: &Stored) {
    end.store(LogPosition::from(stored.through).0, Ordering::Relaxed);
    report.recovery_point = Some(stored.through);
    report.slices += 1;
    report.entries += stored.entries;
    report.bytes += stored.bytes;
    report.stored_bytes += stored.stored_bytes;
}

/// The task that writes slices, one after another.
struct Writing {
    context: CaptureContext,
    writer: ChainWriter,
    once: bool,
    tell: mpsc::Sender<Stored>,
}

impl Writing {
    async fn run(mut self, mut cuts: mpsc::Receiver<Cut>) -> Result<()> {
        while let Some(cut) = cuts.recv().await {
            self.write(cut).await?;
        }
        Ok(())
    }

    async fn write(&mut self, cut: Cut) -> Result<()> {
        let Cut { plain, entries, through, begun } = cut;
        let bytes = plain.len() as u64;
        let after = self.writer.end().optime();
        let sealed = self.writer.seal(through.into(), plain).await?;
        let context = self.context.clone();
        let wait =
            |error: &Error, end: LogPosition, pause| tell_waiting(&context, error, Some(end.optime()), pause);
        put_patiently(&mut self.writer, &sealed, self.once, &context.cancel, wait)
            .await
            .with_context(|| format!("store the log up to {through}"))?;
        let stored_bytes = sealed.slice().bytes;
        self.context.observer.event(&CaptureEvent::SliceStored {
            chain: self.writer.id().clone(),
            after,
            through,
            entries,
            bytes,
            stored_bytes,
            held_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            at: self.context.clock.now(),
        });
        // Nobody listens only when the session has been dropped as a whole.
        let _ = self.tell.send(Stored { through, entries, bytes, stored_bytes }).await;
        Ok(())
    }
}
