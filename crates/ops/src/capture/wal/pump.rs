//! The body of a session: bytes from the server into slices, slices into the repository, and back to the server how far they are durable.
//!
//! The conductor reads, cuts a slice when it is due, large, or at the end of a segment (so that none is in two of them), and gives signs of
//! life; a *writer* seals and puts one slice after another. When the store is slow or down the conductor stops reading, and the server
//! keeps its log: memory holds the open slice, two that are cut and one being written, whatever the store does.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use mainstay_engine::{WalEvent, WalStream};
use mainstay_model::{ChainId, Error, ErrorKind, LogPosition, Lsn, Result, Timestamp};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::begin::Begun;
use super::{
    Ended, WalCaptureContext, WalCaptureEvent, WalCaptureOptions, WalCaptureReport, risk, tell_waiting,
};
use crate::capture::SLICE_AGE_MIN;
use crate::capture::writing::{Cut, SliceObserver, Stored, Writing};

/// Plain bytes at which a slice is cut whatever its age.
const SLICE_BYTES: usize = 8 * 1024 * 1024;

/// How long the next piece is waited for at a time.
const READ_WAIT: Duration = Duration::from_secs(1);

/// How often the server gets a sign of life, which it answers. It ends a connection that is silent for `wal_sender_timeout`, a minute.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// How long a server may be silent, signs of life unanswered, before it counts as away.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// How long the last acknowledgement may take.
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(2);

/// The slice being gathered.
struct OpenSlice {
    bytes: BytesMut,
    begun: Instant,
}

/// Moves bytes until asked to stop, until `goal` is stored, or until something breaks.
///
/// # Errors
/// What broke. Everything read before a failure of the server is stored first.
pub(super) async fn pump(
    context: &WalCaptureContext,
    options: &WalCaptureOptions,
    goal: Option<(u32, Lsn)>,
    begun: Begun,
    report: &mut WalCaptureReport,
) -> Result<Ended> {
    let Begun { writer, stream, first, timeline, segment_bytes } = begun;
    let end = Lsn(writer.end().0);
    let shared = Arc::new(context.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(risk::watch(Arc::clone(&shared), options.slot.clone()));
    let (cuts, to_write) = mpsc::channel(1);
    let (tell, stored) = mpsc::channel(16);
    let (complete, complete_at) = watch::channel(report.complete_at);
    let (observer, cancel) = (Telling { context: shared, timeline }, context.cancel.clone());
    let writing = Writing { observer, writer, once: options.once, cancel, tell, complete_at };
    let written = AbortOnDropHandle::new(tokio::spawn(writing.run(to_write)));
    let goal = goal.and_then(|(number, goal)| match timeline.cmp(&number) {
        Ordering::Less => None,
        Ordering::Equal => Some(goal),
        Ordering::Greater => Some(end),
    });
    let mut conductor = Conductor {
        context,
        slice_age: Duration::from_millis(options.slice_age_ms).max(SLICE_AGE_MIN),
        goal,
        segment_bytes,
        timeline,
        stream,
        open: None,
        ready: VecDeque::new(),
        received: end,
        durable: end,
        stored,
        complete,
        report,
    };
    conductor.add(&first);
    let ended = conductor.run(cuts).await;
    let written = written.await.map_err(|source| {
        Error::new(ErrorKind::Internal, "the writing of slices ended early").with_source(source)
    })?;
    // What kept slices from being stored comes first: it says what is missing.
    written?;
    ended
}

struct Conductor<'a> {
    context: &'a WalCaptureContext,
    slice_age: Duration,
    goal: Option<Lsn>,
    segment_bytes: u64,
    timeline: u32,
    stream: Box<dyn WalStream>,
    open: Option<OpenSlice>,
    /// Slices that wait for the writer.
    ready: VecDeque<Cut>,
    received: Lsn,
    /// Up to where slices are durable.
    durable: Lsn,
    stored: mpsc::Receiver<Stored>,
    complete: watch::Sender<Option<Timestamp>>,
    report: &'a mut WalCaptureReport,
}

impl Conductor<'_> {
    async fn run(mut self, cuts: mpsc::Sender<Cut>) -> Result<Ended> {
        let ended = self.gather(&cuts).await;
        // Whatever ended it, what was read is stored.
        self.cut();
        while let Some(cut) = self.ready.pop_front() {
            // A writer that has gone has told why.
            if cuts.send(cut).await.is_err() {
                break;
            }
        }
        drop(cuts);
        while let Some(stored) = self.stored.recv().await {
            self.note(&stored);
        }
        // A server that does not take it learns it from the next capture.
        let _ = timeout(FAREWELL_TIME_MAX, self.stream.acknowledge(self.durable)).await;
        ended
    }

    async fn gather(&mut self, cuts: &mpsc::Sender<Cut>) -> Result<Ended> {
        self.stream.acknowledge(self.durable).await?;
        let mut sign_due = Instant::now() + SIGN_OF_LIFE;
        let mut heard = Instant::now();
        loop {
            if self.goal.is_some_and(|goal| self.received >= goal) {
                return Ok(Ended::Complete);
            }
            let due = self.open.as_ref().map(|open| open.begun + self.slice_age);
            if self.ready.is_empty() && due.is_some_and(|due| due <= Instant::now()) && cuts.capacity() > 0 {
                self.cut();
            }
            let is_behind = !self.ready.is_empty();
            let may_read = !is_behind && self.open.as_ref().is_none_or(|open| open.bytes.len() < SLICE_BYTES);
            if !may_read {
                heard = Instant::now();
            }
            tokio::select! {
                biased;
                () = self.context.cancel.cancelled() => return Ok(Ended::Complete),
                Some(stored) = self.stored.recv() => {
                    self.note(&stored);
                    self.stream.acknowledge(self.durable).await?;
                }
                slot = cuts.reserve(), if is_behind => match (slot, self.ready.pop_front()) {
                    (Ok(slot), Some(cut)) => slot.send(cut),
                    // The writer has failed and says why.
                    _ => return Ok(Ended::Again),
                },
                () = cuts.closed() => return Ok(Ended::Again),
                () = sleep_until(sign_due) => {
                    self.stream.acknowledge(self.durable).await?;
                    sign_due = Instant::now() + SIGN_OF_LIFE;
                }
                event = self.stream.next(READ_WAIT), if may_read => match event? {
                    WalEvent::Bytes { bytes, .. } => {
                        heard = Instant::now();
                        self.add(&bytes);
                    }
                    WalEvent::Quiet { server_end: None } if heard.elapsed() > SILENCE_MAX => {
                        return Err(Error::new(ErrorKind::Unreachable, "the server does not answer"));
                    }
                    WalEvent::Quiet { server_end: None } => {}
                    WalEvent::Quiet { server_end: Some(server_end) } => {
                        heard = Instant::now();
                        if server_end == self.durable {
                            self.complete_as_of(self.context.clock.now());
                        }
                    }
                    WalEvent::TimelineEnd { next, at } => return self.timeline_end(next, at),
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some_and(|due| due > Instant::now()) => {}
            }
        }
    }

    fn timeline_end(&self, next: u32, at: Lsn) -> Result<Ended> {
        if at != self.received {
            return Err(Error::new(
                ErrorKind::Server,
                format!("timeline {} ends at {at}, and came up to {}", self.timeline, self.received),
            ));
        }
        self.context.observer.event(&WalCaptureEvent::TimelineEnded { timeline: self.timeline, next, at });
        Ok(Ended::Again)
    }

    /// Takes bytes into the open slice, which ends where a segment does.
    fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.segment_bytes - self.received.0 % self.segment_bytes;
            let taken = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            let open =
                self.open.get_or_insert_with(|| OpenSlice { bytes: BytesMut::new(), begun: Instant::now() });
            open.bytes.extend_from_slice(&bytes[..taken]);
            let is_large = open.bytes.len() >= SLICE_BYTES;
            self.received = Lsn(self.received.0 + taken as u64);
            bytes = &bytes[taken..];
            if is_large || self.received.0.is_multiple_of(self.segment_bytes) {
                self.cut();
            }
        }
    }

    /// Ends the open slice.
    fn cut(&mut self) {
        let Some(OpenSlice { bytes, begun }) = self.open.take() else { return };
        let complete_at = self.context.clock.now();
        self.ready.push_back(Cut {
            bytes: bytes.len() as u64,
            plain: bytes.freeze(),
            through: self.received.into(),
            begun,
            complete_at,
        });
    }

    fn note(&mut self, stored: &Stored) {
        self.durable = Lsn(stored.through.0);
        self.report.recovery_point = Some(self.durable);
        self.report.slices += 1;
        self.report.bytes += stored.bytes;
        self.report.stored_bytes += stored.stored_bytes;
        self.report.held_ms_max = self.report.held_ms_max.max(stored.held_ms);
        self.complete_as_of(stored.complete_at);
    }

    fn complete_as_of(&mut self, at: Timestamp) {
        self.report.complete_at = self.report.complete_at.max(Some(at));
        // Only the writer listens, and it may have ended.
        let _ = self.complete.send(self.report.complete_at);
    }
}

/// Tells what becomes of slices.
struct Telling {
    context: Arc<WalCaptureContext>,
    timeline: u32,
}

impl SliceObserver for Telling {
    fn position(&self, at: LogPosition) -> String {
        Lsn(at.0).to_string()
    }

    fn waiting(&self, error: &Error, end: LogPosition, complete_at: Option<Timestamp>, pause: Duration) {
        tell_waiting(&self.context, error, Some(Lsn(end.0)), complete_at, pause);
    }

    fn stored(&self, chain: &ChainId, slice: &Stored) {
        self.context.observer.event(&WalCaptureEvent::SliceStored {
            chain: chain.clone(),
            timeline: self.timeline,
            after: Lsn(slice.after.0),
            through: Lsn(slice.through.0),
            bytes: slice.bytes,
            stored_bytes: slice.stored_bytes,
            held_ms: slice.held_ms,
            at: self.context.clock.now(),
        });
    }
}
