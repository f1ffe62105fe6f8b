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
    /// Level 3, with smaller search tables than zstd's own level 3, on every processor, but not more than eight: the cheapest level whose
    /// output is smaller than that of `mongodump --archive --gzip`, whose ratio on the same documents is 3.28 for 11.4 CPU seconds.
    ///
    /// | level | CPU s | ratio |
    /// |---|---|---|
    /// | 1 | 0.86 | 3.12 |
    /// | 2 | 0.96 | 3.23 |
    /// | 3 | 1.07 | 3.37 |
    /// | 4 | 1.51 | 3.40 |
    /// | 6 | 3.72 | 3.47 |
    ///
    /// Compression and hashing of 268 MB of BSON, medians of three runs of `cargo run -p mainstay-repository --example pipeline -- 2 269
    /// orders.bson`, where `orders.bson` is what `mongodump --out` gives after `marketplace load --bulk-bytes 256MiB --scale 0`.
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self { level: 3, threads: processors.min(8) }
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
