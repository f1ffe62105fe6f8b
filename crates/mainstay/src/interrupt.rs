//! Ctrl-C and SIGTERM. The first asks the operation to stop at a safe point; the second ends the process at once.
//!
//! A command without anything to bring to a safe point ends at the first, and so does any command while it waits for an answer.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::printer::Printer;

/// The status of a process that was ended at once, as shells know it: 128 and the number of SIGINT.
const EXIT_AT_ONCE: i32 = 130;

/// Listens from now on: a signal that comes after this call is heard. Must be called inside the runtime.
pub(crate) fn listen(printer: Arc<Printer>, cancel: CancellationToken, has_safe_point: bool) {
    let Some(mut signals) = Signals::new() else { return };
    tokio::spawn(async move {
        while signals.next().await {
            if cancel.is_cancelled() || !has_safe_point || printer.is_prompting() {
                printer.end_progress();
                std::process::exit(EXIT_AT_ONCE);
            }
            cancel.cancel();
            printer.notice("stopping at a safe point; press again to stop at once");
        }
    });
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    /// `None` when they cannot be listened for; the system's own reaction stays in force then.
    fn new() -> Option<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Some(Self {
            interrupt: signal(SignalKind::interrupt()).ok()?,
            terminate: signal(SignalKind::terminate()).ok()?,
        })
    }

    /// Waits for the next one; false when none can come any more.
    async fn next(&mut self) -> bool {
        tokio::select! {
            received = self.interrupt.recv() => received.is_some(),
            received = self.terminate.recv() => received.is_some(),
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> Option<Self> {
        Some(Self)
    }

    async fn next(&mut self) -> bool {
        tokio::signal::ctrl_c().await.is_ok()
    }
}
