//! Deliberate failures: a store that fails where it is told to, for tests of whatever stands on a store.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mainstay_model::{Error, ErrorKind, Result};

use crate::{Key, failure};

/// What is asked of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Reading a whole object.
    Get,
    /// Opening an object for streaming.
    Read,
    /// Creating an object.
    PutNew,
    /// Replacing an object.
    Put,
    /// Opening a streaming writer.
    Writer,
    /// Handing bytes to a streaming writer.
    Write,
    /// Finishing a streaming writer.
    Finish,
    /// Listing objects.
    List,
    /// Listing folders.
    Folders,
    /// Deleting an object.
    Delete,
}

impl Verb {
    /// The bare action used in messages: `read`, `create`, `list`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get | Self::Read => "read",
            Self::PutNew => "create",
            Self::Put | Self::Writer | Self::Write | Self::Finish => "write",
            Self::List => "list",
            Self::Folders => "list folders of",
            Self::Delete => "delete",
        }
    }

    /// True when it changes what is stored.
    pub fn changes(self) -> bool {
        matches!(self, Self::PutNew | Self::Put | Self::Writer | Self::Write | Self::Finish | Self::Delete)
    }
}

/// One deliberate failure: which operations it meets, and what happens to them.
#[derive(Debug, Clone)]
pub struct Fault {
    verb: Option<Verb>,
    prefix: String,
    occurrence: Occurrence,
    action: Action,
}

#[derive(Debug, Clone, Copy)]
enum Occurrence {
    Every,
    Only(u64),
    From(u64),
}

#[derive(Debug, Clone, Copy)]
enum Action {
    Fail(ErrorKind),
    LoseAnswer(ErrorKind),
    Delay(Duration),
    FlipByte(u64),
}

impl Fault {
    fn new(action: Action) -> Self {
        Self { verb: None, prefix: String::new(), occurrence: Occurrence::Every, action }
    }

    /// The operation fails with `kind` and has no effect.
    pub fn fail(kind: ErrorKind) -> Self {
        Self::new(Action::Fail(kind))
    }

    /// The operation takes effect, but its answer is lost: the caller sees an error of `kind`.
    pub fn lose_answer(kind: ErrorKind) -> Self {
        Self::new(Action::LoseAnswer(kind))
    }

    /// The operation begins after `pause`.
    pub fn delay(pause: Duration) -> Self {
        Self::new(Action::Delay(pause))
    }

    /// Reading sees the lowest bit of the byte at `offset` inverted; an object that ends before it reads as it is.
    pub fn flip_byte(offset: u64) -> Self {
        Self::new(Action::FlipByte(offset))
    }

    /// Restricts the fault to operations of `verb`.
    #[must_use]
    pub fn on(mut self, verb: Verb) -> Self {
        self.verb = Some(verb);
        self
    }

    /// Restricts the fault to keys whose text begins with `prefix`.
    #[must_use]
    pub fn below(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Restricts the fault to the `n`th operation it meets, from 1.
    #[must_use]
    pub fn nth(mut self, n: u64) -> Self {
        self.occurrence = Occurrence::Only(n);
        self
    }

    /// Restricts the fault to the `n`th operation it meets, from 1, and all that follow: the process was cut off there.
    #[must_use]
    pub fn from_nth(mut self, n: u64) -> Self {
        self.occurrence = Occurrence::From(n);
        self
    }
}

/// A set of deliberate failures. Clones share their counters, so that a test can look at what it handed out.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    rules: Vec<(Fault, u64)>,
    operation_count: u64,
    write_bytes_left: Option<u64>,
}

/// What is to happen around one operation.
#[derive(Debug, Default)]
pub(crate) struct Ordeal {
    pub(crate) lost_answer: Option<Error>,
    pub(crate) flip_byte: Option<u64>,
}

impl Faults {
    /// No failures yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a failure.
    #[must_use]
    pub fn and(self, fault: Fault) -> Self {
        self.lock().rules.push((fault, 0));
        self
    }

    /// After `bytes` more bytes written, the disk is full: that write and all later ones fail, with [`ErrorKind::Storage`].
    #[must_use]
    pub fn disk_full_after(self, bytes: u64) -> Self {
        self.lock().write_bytes_left = Some(bytes);
        self
    }

    /// Forgets every failure; what follows works.
    pub fn mend(&self) {
        let mut state = self.lock();
        state.rules.clear();
        state.write_bytes_left = None;
    }

    /// How many operations were asked for so far.
    pub fn operation_count(&self) -> u64 {
        self.lock().operation_count
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("no holder of this lock can panic")
    }

    /// Counts the operation and applies what applies before it.
    pub(crate) async fn meet(&self, verb: Verb, key: &Key, write_bytes: u64) -> Result<Ordeal> {
        let (pause, outcome) = self.lock().decide(verb, key, write_bytes);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        outcome
    }
}

impl State {
    fn decide(&mut self, verb: Verb, key: &Key, write_bytes: u64) -> (Duration, Result<Ordeal>) {
        self.operation_count += 1;
        let mut pause = Duration::ZERO;
        let mut ordeal = Ordeal::default();
        let mut failure = None;
        for (fault, met) in &mut self.rules {
            if fault.verb.is_some_and(|wanted| wanted != verb) || !key.as_str().starts_with(&fault.prefix) {
                continue;
            }
            *met += 1;
            let applies = match fault.occurrence {
                Occurrence::Every => true,
                Occurrence::Only(n) => *met == n,
                Occurrence::From(n) => *met >= n,
            };
            if !applies {
                continue;
            }
            match fault.action {
                Action::Fail(kind) => failure = failure.or(Some(kind)),
                Action::LoseAnswer(kind) => {
                    ordeal.lost_answer =
                        Some(failure::with_outcome(injected(kind, verb, key), true, verb, key));
                }
                Action::Delay(by) => pause += by,
                Action::FlipByte(offset) => ordeal.flip_byte = Some(offset),
            }
        }
        if let Some(kind) = failure {
            return (pause, Err(injected(kind, verb, key)));
        }
        if let Some(left) = &mut self.write_bytes_left {
            if write_bytes > *left {
                *left = 0;
                let error =
                    Error::new(ErrorKind::Storage, format!("no space left to write {key} (injected fault)"));
                return (pause, Err(error));
            }
            *left -= write_bytes;
        }
        (pause, Ok(ordeal))
    }
}

fn injected(kind: ErrorKind, verb: Verb, key: &Key) -> Error {
    Error::new(kind, format!("injected fault: {} {key}", verb.name()))
}
