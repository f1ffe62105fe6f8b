//! Handing a dump out as it is, for `pg_restore` without Mainstay.

use std::fs::File;
use std::io::Write as _;

use mainstay_model::progress::{Observer, Work};
use mainstay_model::{Error, ErrorKind, Result, ResultExt};
use mainstay_repository::Set;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::LogicalSetContents;

/// How many pieces wait for the disk.
const PIECE_COUNT_MAX: usize = 4;

/// Writes the dump of `set` into `file` and makes it durable. Only when this has returned is it known to be whole: whoever names the file does
/// so afterwards.
///
/// # Errors
/// `Unsupported` for a set that holds no dump; `Corrupt` when it is damaged; `Storage` when the file cannot be written.
pub async fn export(set: &Set, file: File, observer: &dyn Observer) -> Result<u64> {
    if !LogicalSetContents::is_of(set) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("backup set {} holds no logical dump", set.id()),
        )
        .with_state("nothing was written")
        .with_hint("`mainstay backup create --store postgres --logical` makes one that can be exported"));
    }
    let contents: LogicalSetContents = set.contents()?;
    observer.phase(&format!("export {}", contents.logical.object));
    observer.expect(Work { items: 0, bytes: contents.logical.bytes });
    let mut source = set.read(&contents.logical.object).await?;
    let (pieces, waiting) = mpsc::channel::<bytes::Bytes>(PIECE_COUNT_MAX);
    let writing = spawn_blocking(move || write(file, waiting));
    let mut written = 0;
    while let Some(bytes) = source.next().await? {
        written += bytes.len() as u64;
        observer.advance(Work { items: 0, bytes: bytes.len() as u64 });
        if pieces.send(bytes).await.is_err() {
            // The writer has gone, and says why below.
            break;
        }
    }
    drop(pieces);
    let ended = writing.await.map_err(|source| {
        Error::new(ErrorKind::Internal, "the writer of the file ended early").with_source(source)
    })?;
    ended
        .map_err(|error| {
            Error::new(ErrorKind::Storage, format!("the file cannot be written: {error}"))
                .with_hint("make room, or name a file elsewhere")
        })
        .context("export the dump")?;
    Ok(written)
}

fn write(mut file: File, mut pieces: mpsc::Receiver<bytes::Bytes>) -> std::io::Result<()> {
    while let Some(piece) = pieces.blocking_recv() {
        file.write_all(&piece)?;
    }
    file.sync_all()
}
