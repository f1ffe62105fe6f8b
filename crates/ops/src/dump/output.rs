//! One stream of a dump on its way to a file or pipe: compressed on all cores when asked for, written by a thread of its own.
//!
//! What is handed over is not copied on the plain way. On the other it is gathered into pieces that become gzip members; they are compressed
//! at the same time and written in their order. Between producer and file there is a bounded number of pieces.

use std::fs::File;
use std::io::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use mainstay_archive::gzip::{Compressor, MEMBER_BYTES};
use mainstay_model::{Error, ErrorKind, Result};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_blocking};

/// What a pipe may hold: the most that Linux grants to everybody.
const PIPE_BYTES: usize = 1024 * 1024;

/// Something to write.
enum Piece {
    Plain(Bytes),
    /// A member that is being made.
    Member(oneshot::Receiver<io::Result<Vec<u8>>>),
}

/// A stream that is being written.
pub(crate) struct Output {
    pieces: mpsc::Sender<Piece>,
    writing: JoinHandle<io::Result<Written>>,
    members: Option<Members>,
}

/// What became of a stream.
pub(crate) struct Written {
    /// The file, everything handed to the system.
    pub(crate) file: File,
    /// Bytes in it.
    pub(crate) bytes: u64,
}

/// Makes members.
struct Members {
    gathered: Vec<u8>,
    level: u8,
    any: bool,
    idle: Arc<Mutex<Vec<Compressor>>>,
}

impl Output {
    /// Begins to write into `file`, as gzip when a level is given.
    pub(crate) fn begin(file: File, gzip: Option<u8>) -> Self {
        // A pipe of the usual 64 KiB would wake writer and reader for each piece of it. What is no pipe refuses.
        let _ = rustix::pipe::fcntl_setpipe_size(&file, PIPE_BYTES);
        let core_count = std::thread::available_parallelism().map_or(1, usize::from);
        let (pieces, waiting) = mpsc::channel(core_count);
        let writing = spawn_blocking(move || write_pieces(file, waiting));
        let members =
            gzip.map(|level| Members { gathered: Vec::new(), level, any: false, idle: Arc::default() });
        Self { pieces, writing, members }
    }

    /// Hands bytes over.
    ///
    /// # Errors
    /// What writing earlier ones ended with.
    pub(crate) async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let Some(members) = &mut self.members else { return self.hand_over(Piece::Plain(bytes)).await };
        let mut rest = &bytes[..];
        let mut full = Vec::new();
        while !rest.is_empty() {
            rest = members.gather(rest);
            if members.gathered.len() == MEMBER_BYTES {
                full.push(members.make());
            }
        }
        for member in full {
            self.hand_over(member).await?;
        }
        Ok(())
    }

    /// Writes what is left and waits until all is handed to the system.
    ///
    /// # Errors
    /// `Storage` when it could not be written.
    pub(crate) async fn finish(mut self) -> Result<Written> {
        if let Some(members) = &mut self.members
            && (!members.any || !members.gathered.is_empty())
        {
            // Without any member the file would not be gzip.
            let last = members.make();
            self.hand_over(last).await?;
        }
        let Self { pieces, writing, .. } = self;
        drop(pieces);
        ended(writing).await
    }

    async fn hand_over(&mut self, piece: Piece) -> Result<()> {
        if self.pieces.send(piece).await.is_ok() {
            return Ok(());
        }
        // The writer has gone, and its result says why.
        match ended(&mut self.writing).await {
            Err(error) => Err(error),
            Ok(_) => Err(Error::new(ErrorKind::Internal, "the writer of the dump ended before its end")),
        }
    }
}

impl Members {
    /// Takes from the front of `bytes` what fits into the present member; gives the rest.
    fn gather<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        self.gathered.reserve_exact(MEMBER_BYTES - self.gathered.len());
        let (taken, rest) = bytes.split_at(bytes.len().min(MEMBER_BYTES - self.gathered.len()));
        self.gathered.extend_from_slice(taken);
        rest
    }

    /// Begins to compress what was gathered.
    fn make(&mut self) -> Piece {
        self.any = true;
        let (plain, level, idle) = (std::mem::take(&mut self.gathered), self.level, Arc::clone(&self.idle));
        let (made, member) = oneshot::channel();
        spawn_blocking(move || {
            let kept = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut compressor = kept.unwrap_or_else(|| Compressor::new(level));
            let outcome = compressor.member(&plain);
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(compressor);
            // Nobody waits when the dump has failed.
            let _ = made.send(outcome);
        });
        Piece::Member(member)
    }
}

fn write_pieces(mut file: File, mut pieces: mpsc::Receiver<Piece>) -> io::Result<Written> {
    let mut bytes = 0;
    while let Some(piece) = pieces.blocking_recv() {
        let piece = match piece {
            Piece::Plain(plain) => plain,
            Piece::Member(member) => {
                let made = member.blocking_recv();
                made.map_err(|_| io::Error::other("compression ended early"))??.into()
            }
        };
        file.write_all(&piece)?;
        bytes += piece.len() as u64;
    }
    Ok(Written { file, bytes })
}

async fn ended(
    writing: impl Future<Output = Result<io::Result<Written>, tokio::task::JoinError>>,
) -> Result<Written> {
    match writing.await {
        Ok(written) => written.map_err(|error| failed(&error)),
        Err(source) => {
            Err(Error::new(ErrorKind::Internal, "the writer of the dump ended early").with_source(source))
        }
    }
}

/// Says what writing failed with.
pub(crate) fn failed(error: &io::Error) -> Error {
    let message = match error.kind() {
        io::ErrorKind::BrokenPipe => "whoever reads the dump has closed the pipe before its end".to_owned(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("there is no room for the dump: {error}")
        }
        _ => format!("the dump cannot be written: {error}"),
    };
    let hint = match error.kind() {
        io::ErrorKind::BrokenPipe => "see why the program that reads it ended",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "make room, or name another place with `--output FILE`"
        }
        _ => "name another place with `--output FILE`",
    };
    Error::new(ErrorKind::Storage, message).with_hint(hint)
}
