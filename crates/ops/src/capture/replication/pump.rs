//! Moving: what the server sends, gathered into slices, written one after another, acknowledged when they are durable.
//!
//! Two tasks share the work. The *conductor* takes bytes as they come, notes when, cuts a slice when it is old or large, and acknowledges each
//! second, so that the server does not take it for dead; a *writer* seals and puts one slice after another. When the store is slow or down
//! the conductor stops reading, and the server keeps the stream as far as it may: memory holds the open slice, one that is cut and one being
//! written, whatever the store does.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use mainstay_engine::ReplicationStream;
use mainstay_model::{ChainId, Error, ErrorKind, LogPosition, Result, Timestamp};
use mainstay_repository::{Arrival, with_arrivals};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::begin::{Begun, Behind};
use super::{
    Ended, ReplicationCaptureContext, ReplicationCaptureEvent, ReplicationCaptureOptions,
    ReplicationCaptureReport, risk, stopped, tell_waiting,
};
use crate::capture::SLICE_AGE_MIN;
use crate::capture::writing::{Cut, SliceObserver, Stored, Writing};

/// Bytes of the stream at which a slice is cut whatever its age.
const SLICE_BYTES: usize = 8 * 1024 * 1024;

/// How long the next piece is waited for at a time.
const READ_WAIT: Duration = Duration::from_secs(1);

/// How often the server is told how far we are. It drops whoever says nothing for `repl-timeout`, a minute.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// How long a server may be silent: it sends something every `repl-ping-replica-period`, ten seconds.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Not having read for longer than this, nobody knows when what comes next was recorded.
const PAUSE_NOTED: Duration = Duration::from_secs(1);

/// How long the last acknowledgement may take.
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(2);

/// The slice being gathered.
struct OpenSlice {
    bytes: BytesMut,
    arrivals: Vec<Arrival>,
    begun: Instant,
}

/// Moves bytes until asked to stop, until everything the server has is stored when that is all that is wanted, or until something breaks.
///
/// # Errors
/// What broke. Everything read before a failure of the server is stored first.
pub(super) async fn pump(
    context: &ReplicationCaptureContext,
    options: ReplicationCaptureOptions,
    begun: Begun,
    report: &mut ReplicationCaptureReport,
) -> Result<Ended> {
    let Begun { writer, stream, behind, .. } = begun;
    let end = writer.end().0;
    let goal = match options.once {
        true => Some(context.source.replication_facts().await?.at.offset),
        false => None,
    };
    let shared = Arc::new(context.clone());
    let mut tasks = JoinSet::new();
    let (tell_slack, slack) = watch::channel(report.slack);
    tasks.spawn(risk::watch(Arc::clone(&shared), tell_slack));
    let (cuts, to_write) = mpsc::channel(1);
    let (tell, stored) = mpsc::channel(16);
    let (complete, complete_at) = watch::channel(report.complete_at);
    let (observer, cancel) = (Telling(shared), context.cancel.clone());
    let writing = Writing { observer, writer, once: options.once, cancel, tell, complete_at };
    let written = AbortOnDropHandle::new(tokio::spawn(writing.run(to_write)));
    let conductor = Conductor {
        context,
        slice_age: Duration::from_millis(options.slice_age_ms).max(SLICE_AGE_MIN),
        goal,
        stream,
        behind,
        read_at_ms: context.now_ms(),
        open: None,
        ready: None,
        received: end,
        durable: end,
        stored,
        complete,
        report,
    };
    let ended = conductor.run(cuts).await;
    let written = written.await.map_err(|source| {
        Error::new(ErrorKind::Internal, "the writing of slices ended early").with_source(source)
    })?;
    report.slack = *slack.borrow();
    // What kept slices from being stored comes first: it says what is missing.
    written?;
    ended
}

struct Conductor<'a> {
    context: &'a ReplicationCaptureContext,
    slice_age: Duration,
    goal: Option<u64>,
    stream: Box<dyn ReplicationStream>,
    behind: Behind,
    /// When there was nothing left to read, or the last piece was read.
    read_at_ms: i64,
    open: Option<OpenSlice>,
    /// A slice that waits for the writer.
    ready: Option<Cut>,
    received: u64,
    /// Up to where slices are durable.
    durable: u64,
    stored: mpsc::Receiver<Stored>,
    complete: watch::Sender<Option<Timestamp>>,
    report: &'a mut ReplicationCaptureReport,
}

impl Conductor<'_> {
    async fn run(mut self, cuts: mpsc::Sender<Cut>) -> Result<Ended> {
        let ended = self.gather(&cuts).await;
        // Whatever ended it, what was read is stored.
        let last = self.ready.take();
        self.cut();
        for cut in last.into_iter().chain(self.ready.take()) {
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
        let mut paused: Option<Instant> = None;
        loop {
            if self.goal.is_some_and(|goal| self.received >= goal) {
                return Ok(Ended::Complete);
            }
            let due = self.open.as_ref().map(|open| open.begun + self.slice_age);
            let is_large = self.open.as_ref().is_some_and(|open| open.bytes.len() >= SLICE_BYTES);
            if self.ready.is_none() && (is_large || due.is_some_and(|due| due <= Instant::now())) {
                self.cut();
            }
            let may_read = self.open.as_ref().is_none_or(|open| open.bytes.len() < SLICE_BYTES);
            match (may_read, paused) {
                (false, _) => {
                    heard = Instant::now();
                    paused.get_or_insert(heard);
                }
                (true, Some(since)) => {
                    paused = None;
                    self.after_pause(since.elapsed()).await;
                }
                (true, None) => {}
            }
            let due = due.filter(|_| self.open.is_some() && self.ready.is_none());
            let waits_since_ms = self.context.now_ms();
            tokio::select! {
                biased;
                // Who was to catch up has not.
                () = self.context.cancel.cancelled() => match self.goal {
                    Some(_) => return Err(stopped()),
                    None => return Ok(Ended::Complete),
                },
                Some(stored) = self.stored.recv() => {
                    self.note(&stored);
                    self.stream.acknowledge(self.durable).await?;
                }
                slot = cuts.reserve(), if self.ready.is_some() => match (slot, self.ready.take()) {
                    (Ok(slot), Some(cut)) => slot.send(cut),
                    // The writer has failed and says why.
                    _ => return Ok(Ended::Again),
                },
                () = cuts.closed() => return Ok(Ended::Again),
                () = sleep_until(sign_due) => {
                    self.stream.acknowledge(self.durable).await?;
                    sign_due = Instant::now() + SIGN_OF_LIFE;
                }
                piece = self.stream.next(READ_WAIT), if may_read => match piece? {
                    Some(bytes) => {
                        heard = Instant::now();
                        self.add(&bytes, waits_since_ms);
                    }
                    None if heard.elapsed() > SILENCE_MAX => {
                        return Err(Error::new(ErrorKind::Unreachable, "the server does not answer")
                            .with_hint("see whether it runs and is busy: `mainstay redis info`"));
                    }
                    None => {
                        self.read_at_ms = self.context.now_ms();
                        if self.received == self.durable {
                            self.complete_as_of(self.context.clock.now());
                        }
                    }
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
    }

    /// Having read nothing for a while, asks how much of what comes next was recorded meanwhile.
    async fn after_pause(&mut self, pause: Duration) {
        if pause > PAUSE_NOTED
            && let Ok(facts) = self.context.source.replication_facts().await
        {
            self.behind = Behind { through: facts.at.offset, since_ms: self.read_at_ms };
        }
    }

    /// Takes bytes into the open slice. What was waited for was recorded as it came; what was there at once, at some time since the last look.
    fn add(&mut self, bytes: &[u8], waits_since_ms: i64) {
        let now_ms = self.context.now_ms();
        let since_ms = if self.received < self.behind.through {
            self.behind.since_ms
        } else if waits_since_ms < now_ms {
            now_ms
        } else {
            self.read_at_ms
        };
        let since_ms = since_ms.min(now_ms);
        self.received += bytes.len() as u64;
        self.read_at_ms = now_ms;
        let open = self.open.get_or_insert_with(|| OpenSlice {
            bytes: BytesMut::new(),
            arrivals: Vec::new(),
            begun: Instant::now(),
        });
        open.bytes.extend_from_slice(bytes);
        let arrival = Arrival { through: self.received, since_ms, at_ms: now_ms };
        match open.arrivals.last_mut() {
            // Within one millisecond nothing is told apart.
            Some(last) if last.at_ms == now_ms => last.through = arrival.through,
            _ => open.arrivals.push(arrival),
        }
    }

    /// Ends the open slice.
    fn cut(&mut self) {
        let Some(OpenSlice { bytes, arrivals, begun }) = self.open.take() else { return };
        self.ready = Some(Cut {
            bytes: bytes.len() as u64,
            plain: with_arrivals(bytes, &arrivals),
            through: LogPosition(self.received),
            begun,
            complete_at: self.context.clock.now(),
        });
    }

    fn note(&mut self, stored: &Stored) {
        self.durable = stored.through.0;
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
struct Telling(Arc<ReplicationCaptureContext>);

impl SliceObserver for Telling {
    fn position(&self, at: LogPosition) -> String {
        format!("offset {}", at.0)
    }

    fn waiting(&self, error: &Error, end: LogPosition, complete_at: Option<Timestamp>, pause: Duration) {
        tell_waiting(&self.0, error, Some(end.0), complete_at, pause);
    }

    fn stored(&self, chain: &ChainId, slice: &Stored) {
        self.0.observer.event(&ReplicationCaptureEvent::SliceStored {
            chain: chain.clone(),
            after: slice.after.0,
            through: slice.through.0,
            bytes: slice.bytes,
            stored_bytes: slice.stored_bytes,
            held_ms: slice.held_ms,
            at: self.0.clock.now(),
        });
    }
}
