//! What a repository is opened with: compression, encryption keys.

use mainstay_model::{Error, ErrorKind, Result, Secret};

/// How objects are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    /// The zstd level, 1 to 19.
    pub level: i32,
    /// How many frames of the whole repository are compressed at the same time, 1 to 256.
    pub threads: usize,
}

/// The most threads that can be asked for.
const THREADS_MAX: usize = 256;

impl Default for Compression {
    /// Level 1 on every processor, but not more than eight. See `examples/pipeline.rs` for the measurement behind the level.
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self { level: 1, threads: processors.min(8) }
    }
}

impl Compression {
    /// # Errors
    /// [`ErrorKind::Config`] when level or threads are out of range.
    pub(crate) fn check(self) -> Result<()> {
        if !(1..=19).contains(&self.level) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("compression level {} is not within 1 to 19", self.level),
            )
            .with_hint("set `repository.compression_level` to a number from 1 (fastest) to 19 (smallest)"));
        }
        if !(1..=THREADS_MAX).contains(&self.threads) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("{} compression threads are not within 1 to {THREADS_MAX}", self.threads),
            )
            .with_hint(
                "set `repository.compression_threads` to the number of processors that backups may use",
            ));
        }
        Ok(())
    }
}

/// What a repository is opened with.
#[derive(Debug, Clone, Default)]
pub struct RepositoryOptions {
    /// How new objects are compressed.
    pub compression: Compression,
    /// The age recipients (`age1…`) that new sets are encrypted to. They are fixed when the repository is created; afterwards an empty
    /// list means those it was created with, and any other list is refused.
    pub recipients: Vec<String>,
    /// The contents of age identity files (`AGE-SECRET-KEY-1…`, comments allowed), needed only to read encrypted sets.
    pub identities: Vec<Secret>,
}
