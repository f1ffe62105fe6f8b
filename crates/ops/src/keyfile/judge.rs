//! The walk over a file that is passing by, on a thread of its own.
//!
//! The walk asks for bytes and the passing gives them, so the two meet at a short queue: whoever is ahead waits. A walk that has found a fault
//! takes no more, and nobody waits for it.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::{Arc, OnceLock};
use std::thread::{Builder, JoinHandle};

use bytes::{Buf as _, Bytes};
use mainstay_engine::{KeyServerName, KeyServerProgram, KeyspaceSize, ReplicationPoint};
use mainstay_model::{Error, ErrorKind, Result};
use mainstay_rdb::{Item, WalkError, Walker};
use mainstay_repository::VerifyReport;
use tokio::sync::mpsc;

/// How many pieces may wait for the walk.
const PIECE_COUNT_MAX: usize = 4;

/// The longest version of a server that is believed.
const VERSION_BYTES_MAX: usize = 32;

/// What to do about a file that is newer than this version.
const NEWER: &str = "a server newer than this version of mainstay wrote it: use a newer one; the server copies itself with `redis-cli --rdb FILE`";

/// What a walk has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) bytes: u64,
    pub(crate) version: u32,
    pub(crate) databases: Vec<KeyspaceSize>,
    pub(crate) functions: u64,
    pub(crate) replication: Option<ReplicationPoint>,
    /// The database that is selected at that place.
    pub(crate) stream_database: Option<u64>,
    /// What wrote the file.
    pub(crate) program: Option<KeyServerProgram>,
    /// Whether the file carries a checksum, which was right.
    pub(crate) has_checksum: bool,
}

/// A walk under way.
pub(crate) struct Judge {
    pieces: mpsc::Sender<Bytes>,
    walk: JoinHandle<Result<Seen, WalkError>>,
}

impl Judge {
    pub(crate) fn begin() -> Result<Self> {
        let (pieces, coming) = mpsc::channel(PIECE_COUNT_MAX);
        let begun =
            Builder::new().name("walk".to_owned()).spawn(|| walk(Pieces { coming, piece: Bytes::new() }));
        let walk = begun.map_err(|source| {
            Error::new(ErrorKind::Internal, "no thread can be started").with_source(source)
        })?;
        Ok(Self { pieces, walk })
    }

    /// The next bytes.
    pub(crate) async fn bytes(&self, piece: Bytes) {
        // A walk that has ended has its verdict; see `end`.
        let _ = self.pieces.send(piece).await;
    }

    /// The next bytes, from a thread that may wait.
    pub(crate) fn bytes_blocking(&self, piece: Bytes) {
        let _ = self.pieces.blocking_send(piece);
    }

    /// The verdict. Waits for the walk, which has at most a few pieces to go.
    ///
    /// # Errors
    /// `Corrupt` of a file that is damaged or none; `Unsupported` of one that holds what this version does not know.
    pub(crate) fn end(self) -> Result<Seen> {
        drop(self.pieces);
        match self.walk.join() {
            Ok(Ok(seen)) => Ok(seen),
            Ok(Err(error)) if error.fault.is_unknown() => {
                Err(Error::new(ErrorKind::Unsupported, error.to_string()).with_hint(NEWER))
            }
            Ok(Err(error)) => Err(Error::new(ErrorKind::Corrupt, error.to_string())),
            Err(_) => Err(Error::new(ErrorKind::Internal, "the walk over the file broke off")),
        }
    }
}

/// Where it is left that a file of a set holds what is not known here. Damage may look like anything: only what is as it was stored is of a newer
/// server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unknown(Arc<OnceLock<Error>>);

impl Unknown {
    /// What was found in a file, or what is wrong with it; nothing is where it is merely unknown.
    pub(crate) fn sift<T>(&self, judged: Result<T>) -> Result<T, Vec<String>> {
        judged.map_err(|error| match error.kind() {
            ErrorKind::Unsupported => {
                // One is enough to say what to do.
                let _ = self.0.set(error);
                Vec::new()
            }
            _ => vec![error.to_string()],
        })
    }

    /// The verdict on the set, when nobody judges any more.
    ///
    /// # Errors
    /// `Unsupported` when every byte is as it was stored, and something of it is unknown.
    pub(crate) fn verdict(self, report: VerifyReport) -> Result<VerifyReport> {
        match Arc::into_inner(self.0).and_then(OnceLock::into_inner) {
            Some(error) if report.findings.is_empty() => Err(error),
            _ => Ok(report),
        }
    }
}

/// Pieces as a source to read from.
struct Pieces {
    coming: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.coming.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

fn walk(source: impl Read) -> Result<Seen, WalkError> {
    let mut walker = Walker::new(source);
    let mut seen = Seen::default();
    let mut databases: BTreeMap<u64, KeyspaceSize> = BTreeMap::new();
    let (mut id, mut offset) = (None, None);
    while let Some(item) = walker.next_item()? {
        match item {
            Item::Key(head) => {
                let database = head.database;
                let size =
                    databases.entry(database).or_insert(KeyspaceSize { database, keys: 0, expiring: 0 });
                size.keys += 1;
                size.expiring += u64::from(head.expires_at.is_some());
            }
            Item::Auxiliary { name, value } => match name.as_slice() {
                b"repl-id" => id = ReplicationPoint::id_of(&value),
                b"repl-offset" => {
                    offset = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
                }
                b"repl-stream-db" => {
                    seen.stream_database =
                        std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
                }
                b"redis-ver" => seen.program = program(KeyServerName::Redis, &value),
                b"valkey-ver" => seen.program = program(KeyServerName::Valkey, &value),
                _ => {}
            },
            Item::Function(_) => seen.functions += 1,
            Item::End { checksum } => seen.has_checksum = checksum.is_some(),
            _ => {}
        }
    }
    seen.bytes = walker.offset();
    seen.version = walker.version().1;
    seen.databases = databases.into_values().collect();
    seen.replication = id.zip(offset).map(|(id, offset)| ReplicationPoint { id, offset });
    Ok(seen)
}

/// What wrote a file, if what that says is a version.
fn program(name: KeyServerName, version: &[u8]) -> Option<KeyServerProgram> {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let version = std::str::from_utf8(version).ok().filter(|version| version.len() <= VERSION_BYTES_MAX)?;
    let program = KeyServerProgram { name, version: version.to_owned() };
    (version.as_bytes().iter().all(is_plain) && program.release().is_some()).then_some(program)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// A file without keys that says this of its stream, begun with `magic`.
    fn judged(magic: &[u8], id: &[u8]) -> Result<Seen> {
        let mut file = magic.to_vec();
        for (name, value) in [(&b"repl-id"[..], id), (&b"repl-offset"[..], &b"17"[..])] {
            file.push(0xfa);
            for text in [name, value] {
                file.push(u8::try_from(text.len()).unwrap());
                file.extend(text);
            }
        }
        file.push(0xff);
        file.extend([0; 8]);
        let judge = Judge::begin().unwrap();
        judge.bytes_blocking(Bytes::from(file));
        judge.end()
    }

    #[test]
    fn a_stream_is_named_by_forty_digits_or_not_at_all() {
        let id = "0123456789abcdef0123456789abcdef01234567";
        let seen = judged(b"REDIS0011", id.as_bytes()).unwrap();
        assert_eq!(seen.replication, Some(ReplicationPoint { id: id.to_owned(), offset: 17 }));
        for hostile in
            [&b""[..], b"ab", b"\x1b[2J\x1b[2J\x1b[2J\x1b[2J\x1b[2J\x1b[2J\x1b[2J\x1b[2J\x1b[2J\x1b[2J"]
        {
            assert_eq!(judged(b"REDIS0011", hostile).unwrap().replication, None, "{hostile:?}");
        }
    }

    #[test]
    fn a_newer_file_is_no_damage() {
        for (magic, kind) in [
            (b"REDIS0099", ErrorKind::Unsupported),
            (b"VALKEY999", ErrorKind::Unsupported),
            (b"REDISnope", ErrorKind::Corrupt),
        ] {
            assert_eq!(judged(magic, b"").unwrap_err().kind(), kind, "{magic:?}");
        }
    }
}
