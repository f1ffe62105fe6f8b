//! Progress of long work: a bar that redraws itself on a terminal, a line every ten seconds elsewhere, nothing under `--quiet`.
//!
//! Operations call [`Observer`] from their hot paths, so telling is adding to atomic counters; a thread of its own does the drawing.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{ByteSize, Count};

use super::Printer;
use super::shown::duration;

/// How often the bar is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(120);
/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows progress. Ended by [`Printer::end_progress`] or by the printing of a result.
pub(crate) struct Progress {
    printer: Arc<Printer>,
    phase: Mutex<Phase>,
    items: AtomicU64,
    bytes: AtomicU64,
    items_expected: AtomicU64,
    bytes_expected: AtomicU64,
    /// The share of full speed that work is held back to, in percent.
    share: AtomicU8,
    bar: Option<ProgressBar>,
    shown: bool,
    ended: AtomicBool,
    end: (Mutex<bool>, Condvar),
}

struct Phase {
    name: String,
    began: Instant,
}

impl Progress {
    pub(super) fn begin(printer: Arc<Printer>, shown: bool, drawn: bool) -> Arc<Self> {
        let bar = drawn.then(|| ProgressBar::new(0).with_style(spinner()));
        let progress = Arc::new(Self {
            printer,
            phase: Mutex::new(Phase { name: "begin".to_owned(), began: Instant::now() }),
            items: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            items_expected: AtomicU64::new(0),
            bytes_expected: AtomicU64::new(0),
            share: AtomicU8::new(100),
            bar,
            shown,
            ended: AtomicBool::new(false),
            end: (Mutex::new(false), Condvar::new()),
        });
        if shown {
            // The thread holds the progress weakly, so that an operation that fails early leaves nothing running.
            let weak = Arc::downgrade(&progress);
            std::thread::spawn(move || {
                let mut next_line = Instant::now() + LINE_EVERY;
                while let Some(progress) = weak.upgrade() {
                    if progress.wait_end() {
                        return;
                    }
                    if progress.bar.is_some() {
                        progress.draw();
                    } else if Instant::now() >= next_line {
                        progress.printer.notice_beside_nothing(&progress.line());
                        next_line = Instant::now() + LINE_EVERY;
                    }
                }
            });
        }
        progress
    }

    /// Runs `write` while the bar is out of the way.
    pub(super) fn beside(&self, write: impl FnOnce()) {
        match &self.bar {
            Some(bar) if !self.ended.load(Ordering::Relaxed) => bar.suspend(write),
            _ => write(),
        }
    }

    /// Takes the bar away.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        *self.end.0.lock().expect("no holder of this lock can panic") = true;
        self.end.1.notify_all();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn wait_end(&self) -> bool {
        let ended = self.end.0.lock().expect("no holder of this lock can panic");
        let (ended, _) = self
            .end
            .1
            .wait_timeout_while(ended, DRAW_EVERY, |ended| !*ended)
            .expect("no holder of this lock can panic");
        *ended
    }

    fn draw(&self) {
        let Some(bar) = &self.bar else { return };
        let (done, expected) = (self.done(), self.expected());
        let (position, length) =
            if expected.bytes > 0 { (done.bytes, expected.bytes) } else { (done.items, expected.items) };
        bar.set_style(if length > 0 { bar_style() } else { spinner() });
        bar.set_length(length.max(position));
        bar.set_position(position);
        bar.set_message(self.line());
        bar.tick();
    }

    fn done(&self) -> Work {
        Work { items: self.items.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }

    fn expected(&self) -> Work {
        Work {
            items: self.items_expected.load(Ordering::Relaxed),
            bytes: self.bytes_expected.load(Ordering::Relaxed),
        }
    }

    fn line(&self) -> String {
        let phase = self.phase.lock().expect("no holder of this lock can panic");
        let line = describe(&phase.name, self.done(), self.expected(), phase.began.elapsed());
        match self.share.load(Ordering::Relaxed) {
            100 => line,
            share => format!("{line}, held back to {share}% to spare the server"),
        }
    }
}

impl Observer for Progress {
    fn phase(&self, name: &str) {
        *self.phase.lock().expect("no holder of this lock can panic") =
            Phase { name: name.to_owned(), began: Instant::now() };
        for counter in [&self.items, &self.bytes, &self.items_expected, &self.bytes_expected] {
            counter.store(0, Ordering::Relaxed);
        }
        if self.shown && self.bar.is_none() {
            self.printer.notice_beside_nothing(name);
        }
    }

    fn expect(&self, total: Work) {
        self.items_expected.store(total.items, Ordering::Relaxed);
        self.bytes_expected.store(total.bytes, Ordering::Relaxed);
    }

    fn advance(&self, done: Work) {
        self.items.fetch_add(done.items, Ordering::Relaxed);
        self.bytes.fetch_add(done.bytes, Ordering::Relaxed);
    }

    fn hold_back(&self, percent: u8) {
        let before = self.share.swap(percent, Ordering::Relaxed);
        if before == 100 && percent < 100 && self.bar.is_none() {
            self.printer.notice("the server answers slowly: the work is held back to spare it");
        }
    }

    fn notice(&self, text: &str) {
        self.printer.notice(text);
    }
}

fn bar_style() -> ProgressStyle {
    ProgressStyle::with_template("[{bar:12}] {percent:>3}%  {wide_msg}")
        .expect("the template is valid")
        .progress_chars("=> ")
}

fn spinner() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {wide_msg}").expect("the template is valid").tick_chars("-\\|/ ")
}

/// `scan: 85 MB/s, 3 s left, 120 MB of 300 MB, 48,211 of 250,000`: what matters most first, for a narrow terminal cuts the end off.
fn describe(phase: &str, done: Work, expected: Work, elapsed: Duration) -> String {
    let mut amounts = Vec::new();
    let of = |done: String, expected: u64, text: String| {
        if expected > 0 { format!("{done} of {text}") } else { done }
    };
    if done.bytes > 0 || expected.bytes > 0 {
        amounts.push(of(
            ByteSize(done.bytes).to_string(),
            expected.bytes,
            ByteSize(expected.bytes).to_string(),
        ));
    }
    if done.items > 0 || expected.items > 0 {
        amounts.push(of(Count(done.items).to_string(), expected.items, Count(expected.items).to_string()));
    }
    let mut parts = speeds(done, expected, elapsed.as_secs_f64());
    parts.extend(amounts);
    if parts.is_empty() { phase.to_owned() } else { format!("{phase}: {}", parts.join(", ")) }
}

/// Rate and time left, once they can be told.
fn speeds(done: Work, expected: Work, seconds: f64) -> Vec<String> {
    let mut parts = Vec::new();
    if seconds >= 0.5 && done.bytes > 0 {
        parts.push(format!("{}/s", ByteSize((done.bytes as f64 / seconds) as u64)));
    }
    let share = match (expected.bytes, expected.items) {
        (0, 0) => None,
        (0, items) => Some(done.items as f64 / items as f64),
        (bytes, _) => Some(done.bytes as f64 / bytes as f64),
    };
    // A guess from the first moments would only jump about.
    if let Some(share) = share.filter(|share| (0.01..1.0).contains(share) && seconds >= 2.0) {
        parts.push(format!("{} left", duration((seconds * (1.0 - share) / share).round() as u64)));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_amount_rate_and_time_left() {
        let done = Work { items: 48_211, bytes: 120_000_000 };
        let expected = Work { items: 250_000, bytes: 300_000_000 };
        let line = describe("scan", done, expected, Duration::from_secs(2));
        assert_eq!(line, "scan: 60 MB/s, 3 s left, 120 MB of 300 MB, 48,211 of 250,000");
        assert_eq!(describe("scan", Work::default(), Work::default(), Duration::ZERO), "scan");
        let items = Work { items: 5, bytes: 0 };
        assert_eq!(
            describe("verify", items, Work { items: 10, bytes: 0 }, Duration::from_secs(60)),
            "verify: 60 s left, 5 of 10"
        );
    }
}
