//! The error vocabulary of the house, and the one table that turns an error into an exit status and a retry decision.
//!
//! Inside a crate errors are small local enums. At a crate's edge they become [`Error`]: a *kind* (what sort of trouble), a *status*
//! (may the same call succeed later?), one factual line, the actions that were under way, and a hint with something to type.
//! An [`Error`] never holds a secret: whoever makes one describes the object by its name, not by its connection string.

use std::fmt;

/// The cause behind an [`Error`], when there is one.
pub type BoxedSource = Box<dyn std::error::Error + Send + Sync + 'static>;

/// A result with the house's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of trouble this is. The kind alone decides the exit status ([`ErrorKind::exit_status`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The command line asks for something impossible or ambiguous.
    Usage,
    /// The configuration is wrong: unknown key, bad value, two answers that contradict each other.
    Config,
    /// A server refused the credentials, or the user lacks a privilege.
    Auth,
    /// A server or an object store cannot be reached, or the connection broke and stayed broken.
    Unreachable,
    /// Policy refuses: environment, effect, missing consent, missing verified backup.
    Refused,
    /// The world is not as the operation needs it; nothing was changed.
    Precondition,
    /// The world has moved since the plan was made.
    StalePlan,
    /// Somebody else holds the lease.
    Locked,
    /// Stopped at a safe point on request; the same command continues.
    Interrupted,
    /// A named thing does not exist.
    NotFound,
    /// Create-only met an existing object, or a compare-and-swap lost.
    Conflict,
    /// Stored or received bytes are not what they were: hash, length, syntax.
    Corrupt,
    /// The server answered with an error that is none of the above.
    Server,
    /// The object store or local disk failed (full, read-only, 5xx after retries).
    Storage,
    /// The server or file uses something this version does not handle.
    Unsupported,
    /// An invariant of Mainstay itself broke.
    Internal,
}

impl ErrorKind {
    /// The exit status of the process when an error of this kind ends it.
    pub fn exit_status(self) -> ExitStatus {
        match self {
            Self::Usage | Self::Config => ExitStatus::Usage,
            Self::Auth => ExitStatus::Auth,
            Self::Unreachable => ExitStatus::Unreachable,
            Self::Refused => ExitStatus::Refused,
            Self::Precondition => ExitStatus::Precondition,
            Self::StalePlan => ExitStatus::StalePlan,
            Self::Locked => ExitStatus::Locked,
            Self::Interrupted => ExitStatus::Interrupted,
            Self::Corrupt => ExitStatus::Critical,
            Self::NotFound
            | Self::Conflict
            | Self::Server
            | Self::Storage
            | Self::Unsupported
            | Self::Internal => ExitStatus::Failed,
        }
    }

    /// The kind's name in `--json` output: stable, snake case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Config => "config",
            Self::Auth => "auth",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Precondition => "precondition",
            Self::StalePlan => "stale_plan",
            Self::Locked => "locked",
            Self::Interrupted => "interrupted",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Corrupt => "corrupt",
            Self::Server => "server",
            Self::Storage => "storage",
            Self::Unsupported => "unsupported",
            Self::Internal => "internal",
        }
    }

    fn default_status(self) -> ErrorStatus {
        match self {
            Self::Unreachable => ErrorStatus::Temporary,
            Self::Locked | Self::Interrupted => ErrorStatus::Persistent,
            _ => ErrorStatus::Permanent,
        }
    }
}

/// Whether trying the same call again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorStatus {
    /// The same call fails the same way.
    Permanent,
    /// The same call may succeed in a moment; bounded retries are right.
    Temporary,
    /// It was temporary, and retries are used up, or only somebody else's action ends it.
    Persistent,
}

/// Exit statuses of the process, as documented in `docs/cli.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExitStatus {
    /// Done.
    Ok = 0,
    /// Failed.
    Failed = 1,
    /// Wrong arguments or configuration.
    Usage = 2,
    /// Done, with findings or drift.
    Findings = 3,
    /// A critical finding: damage, or danger to data.
    Critical = 4,
    /// Authentication or authorisation failed.
    Auth = 5,
    /// A server or store cannot be reached.
    Unreachable = 6,
    /// Refused by policy.
    Refused = 7,
    /// A precondition is unmet; nothing was changed.
    Precondition = 8,
    /// The plan is stale.
    StalePlan = 9,
    /// Another holder has the lease.
    Locked = 10,
    /// Interrupted at a safe point; resumable.
    Interrupted = 75,
}

impl From<ExitStatus> for std::process::ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status as u8)
    }
}

/// An error at a crate's edge. Boxed inside, so that results stay small.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    status: ErrorStatus,
    message: String,
    context: Vec<String>,
    state: Option<String>,
    hint: Option<String>,
    source: Option<BoxedSource>,
}

impl Error {
    /// An error of `kind` whose `message` is one factual line in lower case, without a full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            status: kind.default_status(),
            message: message.into(),
            context: Vec::new(),
            state: None,
            hint: None,
            source: None,
        }))
    }

    /// Replaces the kind's default status.
    #[must_use]
    pub fn with_status(mut self, status: ErrorStatus) -> Self {
        self.0.status = status;
        self
    }

    /// Adds the action that was under way, as a bare verb phrase: `read manifest`, `list collections of shop`. The outermost is added last.
    #[must_use]
    pub fn context(mut self, action: impl Into<String>) -> Self {
        self.0.context.push(action.into());
        self
    }

    /// States what the world looks like now: `nothing was changed`, `shop.users is half loaded; the old data is untouched`.
    #[must_use]
    pub fn with_state(mut self, state: impl Into<String>) -> Self {
        self.0.state = Some(state.into());
        self
    }

    /// Adds a sentence that says what to type next.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds the cause. Its text is shown, so it must not contain a secret.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxedSource>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What sort of trouble this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether trying again can help.
    pub fn status(&self) -> ErrorStatus {
        self.0.status
    }

    /// True when a bounded retry of the same call is right.
    pub fn is_temporary(&self) -> bool {
        self.0.status == ErrorStatus::Temporary
    }

    /// The factual line, without context.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The actions under way, innermost first.
    pub fn contexts(&self) -> &[String] {
        &self.0.context
    }

    /// What the world looks like now, if known.
    pub fn state(&self) -> Option<&str> {
        self.0.state.as_deref()
    }

    /// What to type next, if known.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The texts of the chain of causes, outermost first.
    pub fn causes(&self) -> Vec<String> {
        let mut texts = Vec::new();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            texts.push(cause.to_string());
            next = cause.source();
        }
        texts
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for action in self.0.context.iter().rev() {
            write!(f, "{action}: ")?;
        }
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)?;
        for cause in self.causes() {
            write!(f, ": {cause}")?;
        }
        if let Some(state) = &self.0.state {
            write!(f, " [{state}]")?;
        }
        if let Some(hint) = &self.0.hint {
            write!(f, " (hint: {hint})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// Context for results, so that `?` chains read as actions.
pub trait ResultExt<T> {
    /// Adds the action that was under way to an error; see [`Error::context`].
    fn context(self, action: impl Into<String>) -> Result<T>;
    /// As [`ResultExt::context`], building the text only when there is an error.
    fn with_context<S: Into<String>>(self, action: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<Error>> ResultExt<T> for std::result::Result<T, E> {
    fn context(self, action: impl Into<String>) -> Result<T> {
        self.map_err(|error| error.into().context(action))
    }

    fn with_context<S: Into<String>>(self, action: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| error.into().context(action()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_reads_from_the_outside_in() {
        let error =
            Error::new(ErrorKind::Corrupt, "hash differs").context("read manifest").context("verify set s1");
        assert_eq!(error.to_string(), "verify set s1: read manifest: hash differs");
        assert_eq!(error.kind().exit_status() as u8, 4);
    }

    #[test]
    fn results_stay_one_word_wide() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }
}
