//! The plain bytes of a file or pipe, in chunks, whether it is compressed or not.
//!
//! Gzip is known by its first bytes. Members that say how long they are ([`gzip::member_length`]) are inflated on all cores, in order; any
//! other stream on one.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};

use bytes::Bytes;
use mainstay_archive::gzip;
use mainstay_model::{Error, ErrorKind};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

/// Bytes in a chunk: enough that the batches cut from it go to the server as they are.
const CHUNK_BYTES: u64 = 4 * 1024 * 1024;

/// The longest member that is read as a whole.
const MEMBER_BYTES_MAX: usize = 64 * 1024 * 1024;

type Front = io::Chain<Cursor<Vec<u8>>, File>;

/// Gives chunks. To be used on a thread that may wait.
pub(super) enum Chunks {
    Plain(Front),
    Members(Members),
    Inflated(Box<gzip::Decoder<BufReader<Front>>>),
}

/// Members that are being inflated.
pub(super) struct Members {
    compressed: Option<Front>,
    inflating: VecDeque<oneshot::Receiver<io::Result<Vec<u8>>>>,
    core_count: usize,
}

impl Chunks {
    /// The chunks of `file`, from where it stands.
    pub(super) fn of(file: File) -> io::Result<Self> {
        Self::after(Cursor::new(Vec::new()).chain(file))
    }

    fn after(mut front: Front) -> io::Result<Self> {
        let (first, front) = peek(&mut front).map(|first| (first.clone(), again(first, front)))?;
        Ok(if gzip::member_length(&first).is_some() {
            let core_count = std::thread::available_parallelism().map_or(1, usize::from);
            Self::Members(Members { compressed: Some(front), inflating: VecDeque::new(), core_count })
        } else if gzip::is_gzip(&first) {
            Self::Inflated(Box::new(gzip::Decoder::new(BufReader::with_capacity(1 << 18, front))))
        } else {
            Self::Plain(front)
        })
    }

    /// The next chunk; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Bytes>> {
        match self {
            Self::Plain(front) => filled(front),
            Self::Inflated(decoder) => filled(decoder),
            Self::Members(members) => match members.next()? {
                Some(chunk) => Ok(Some(chunk)),
                None => match members.compressed.take() {
                    None => Ok(None),
                    // Somebody has appended members of another making.
                    Some(front) => {
                        *self = Self::after(front)?;
                        self.next()
                    }
                },
            },
        }
    }
}

impl Members {
    /// The next chunk; `None` when there are no more members of our making.
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            while self.inflating.len() <= self.core_count
                && let Some(member) = self.read()?
            {
                let (done, inflated) = oneshot::channel();
                spawn_blocking(move || done.send(gzip::inflate_member(&member)));
                self.inflating.push_back(inflated);
            }
            let Some(inflated) = self.inflating.pop_front() else { return Ok(None) };
            let chunk = inflated.blocking_recv().map_err(|_| io::Error::other("inflating ended early"))??;
            if !chunk.is_empty() {
                return Ok(Some(chunk.into()));
            }
        }
    }

    /// Reads the next member, if it is one of ours. At the end `compressed` is gone.
    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(mut front) = self.compressed.take() else { return Ok(None) };
        let first = peek(&mut front)?;
        if first.is_empty() {
            return Ok(None);
        }
        let Some(length) = gzip::member_length(&first).filter(|length| *length <= MEMBER_BYTES_MAX) else {
            if self.inflating.is_empty() && gzip::member_length(&first).is_some() {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a gzip member claims too many bytes",
                ));
            }
            self.compressed = Some(again(first, front));
            return Ok(None);
        };
        let mut member = first;
        let missing = (length - member.len().min(length)) as u64;
        front.by_ref().take(missing).read_to_end(&mut member)?;
        if member.len() < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let rest = member.split_off(length);
        self.compressed = Some(again(rest, front));
        Ok(Some(member))
    }
}

/// The first bytes of what is left: all that is needed to tell what it is.
fn peek(front: &mut Front) -> io::Result<Vec<u8>> {
    let mut first = Vec::with_capacity(gzip::FRONT_BYTES);
    front.by_ref().take(gzip::FRONT_BYTES as u64).read_to_end(&mut first)?;
    Ok(first)
}

/// Puts bytes back in front of what is left.
fn again(mut first: Vec<u8>, front: Front) -> Front {
    let (cursor, file) = front.into_inner();
    let at = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
    first.extend_from_slice(cursor.get_ref().get(at..).unwrap_or_default());
    Cursor::new(first).chain(file)
}

fn filled(plain: &mut impl Read) -> io::Result<Option<Bytes>> {
    let mut chunk = Vec::with_capacity(CHUNK_BYTES as usize);
    plain.take(CHUNK_BYTES).read_to_end(&mut chunk)?;
    Ok((!chunk.is_empty()).then(|| chunk.into()))
}

/// Says what reading failed with: damage to gzip, or trouble with the file.
pub(super) fn failed(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
            Error::new(ErrorKind::Corrupt, format!("the compressed stream is damaged: {error}"))
        }
        io::ErrorKind::UnexpectedEof => Error::new(ErrorKind::Corrupt, "the compressed stream is cut off"),
        _ => Error::new(ErrorKind::Storage, format!("the dump cannot be read: {error}")),
    }
}
