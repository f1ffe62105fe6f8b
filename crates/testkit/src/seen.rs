//! What a program that was run has shown, and waiting for what it does.
//!
//! Every check tells the whole output when it fails. No output of a test may ever hold [`CANARY`], the mark of each password that tests hand out, so that
//! looking at a status looks for that, too.

use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// A part of passwords in tests: nothing of them may be seen anywhere.
pub const CANARY: &str = "canary-Pa55";

/// How long a condition may take.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// What was seen of a run.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its exit status; -1 for the end by a signal.
    pub status: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Seen {
    /// Both outputs.
    pub fn both(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }

    /// Ended with `status`, and showed no password.
    ///
    /// # Panics
    /// Otherwise.
    #[track_caller]
    pub fn expect(self, status: i32) -> Self {
        assert_eq!(self.status, status, "{}", self.both());
        assert!(!self.both().contains(CANARY), "{}", self.both());
        self
    }

    /// Showed `text`.
    ///
    /// # Panics
    /// Otherwise.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.both().contains(text), "`{text}` is not in: {}", self.both());
        self
    }

    /// Did not show `text`.
    ///
    /// # Panics
    /// Otherwise.
    #[track_caller]
    pub fn hides(self, text: &str) -> Self {
        assert!(!self.both().contains(text), "`{text}` is in: {}", self.both());
        self
    }

    /// Its standard output, which is JSON.
    ///
    /// # Panics
    /// Otherwise.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.both()))
    }
}

impl From<Output> for Seen {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("what a program of ours shows is UTF-8");
        Self {
            status: output.status.code().unwrap_or(-1),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// Looks every few milliseconds until `is_so`.
///
/// # Panics
/// When it is not for a minute.
#[track_caller]
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT_MAX;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
