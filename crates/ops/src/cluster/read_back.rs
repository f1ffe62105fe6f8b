//! Reading files back from the disk that were put together there: what they hold, and whether their pages are sound.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::thread::available_parallelism;

use futures::future::try_join_all;
use mainstay_basebackup::{FileJudge, JudgeOptions, SeenArchive};
use mainstay_model::{Error, ErrorKind, Result};
use tokio::task::spawn_blocking;

use crate::place::storage;

/// How many threads read at the same time, at most.
const THREAD_COUNT_MAX: usize = 4;
/// How much is read at once.
const READ_BYTES: usize = 1024 * 1024;

/// Reads each of `files`, given as the lists call it and where it lies, and judges it by `options`; in no order.
///
/// # Errors
/// `Storage` when one cannot be read.
pub(super) async fn read_back(
    files: Vec<(String, PathBuf)>,
    options: JudgeOptions,
) -> Result<Vec<SeenArchive>> {
    let threads = available_parallelism().map_or(1, usize::from).clamp(1, THREAD_COUNT_MAX);
    let mut shares: Vec<Vec<(String, PathBuf)>> = (0..threads).map(|_| Vec::new()).collect();
    for (index, file) in files.into_iter().enumerate() {
        shares[index % threads].push(file);
    }
    let work = shares.into_iter().map(|share| {
        spawn_blocking(move || share.into_iter().map(|file| judge(file, options)).collect::<Result<Vec<_>>>())
    });
    let seen = try_join_all(work).await.map_err(|source| {
        Error::new(ErrorKind::Internal, "the reading thread ended early").with_source(source)
    })?;
    Ok(seen.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

fn judge((name, path): (String, PathBuf), options: JudgeOptions) -> Result<SeenArchive> {
    let read = || {
        let mut file = File::open(&path)?;
        let mut judge = FileJudge::new(name.clone(), file.metadata()?.len(), options);
        let mut piece = vec![0; READ_BYTES];
        loop {
            match file.read(&mut piece)? {
                0 => return Ok(judge.end()),
                length => judge.bytes(&piece[..length]),
            }
        }
    };
    read().map_err(|error| storage("read", &path, error))
}
