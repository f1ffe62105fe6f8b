//! What flows inside a copy: the pieces of a base backup, and WAL.
//!
//! Source: manual (18), "Streaming Replication Protocol": `BASE_BACKUP` for [`BackupPiece`], `START_REPLICATION` for [`WalMessage`]. Numbers are
//! big-endian, times count microseconds from 2000-01-01T00:00:00Z.

use bytes::{Buf as _, BufMut as _, Bytes};
use mainstay_model::Lsn;

use super::error::WireError;

/// A piece of the copy of a base backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BackupPiece {
    /// An archive begins: its file name, and the place of its tablespace, empty for that of the data directory.
    Archive { name: String, location: String },
    /// The manifest begins.
    Manifest,
    /// Bytes of what began last.
    Data(Bytes),
    /// How many bytes of this tablespace and those before it are done.
    Progress(u64),
}

impl BackupPiece {
    /// Reads a piece.
    pub(crate) fn read(mut piece: Bytes) -> Result<Self, WireError> {
        match take(&mut piece)? {
            b'd' => Ok(Self::Data(piece)),
            b'n' => {
                let name = text(&mut piece)?;
                let location = text(&mut piece)?;
                nothing_left(&piece)?;
                Ok(Self::Archive { name, location })
            }
            b'm' => nothing_left(&piece).map(|()| Self::Manifest),
            b'p' => {
                let done = piece.try_get_u64().map_err(|_| short())?;
                nothing_left(&piece).map(|()| Self::Progress(done))
            }
            other => Err(WireError::Protocol(format!("a piece of kind {other} in a base backup"))),
        }
    }
}

/// A message of the server while it streams WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WalMessage {
    /// WAL from `begin` on; the server stands at `end`.
    Data { begin: Lsn, end: Lsn, sent_at_us: i64, bytes: Bytes },
    /// The server stands at `end`; it wants an answer at once when `reply` is set.
    KeepAlive { end: Lsn, sent_at_us: i64, reply: bool },
}

impl WalMessage {
    /// Reads a message.
    pub(crate) fn read(mut message: Bytes) -> Result<Self, WireError> {
        match take(&mut message)? {
            b'w' => {
                let begin = Lsn(message.try_get_u64().map_err(|_| short())?);
                let end = Lsn(message.try_get_u64().map_err(|_| short())?);
                let sent_at_us = message.try_get_i64().map_err(|_| short())?;
                if begin.0.checked_add(message.len() as u64).is_none() {
                    return Err(WireError::Protocol(format!(
                        "WAL at {begin} that runs past the last position"
                    )));
                }
                Ok(Self::Data { begin, end, sent_at_us, bytes: message })
            }
            b'k' => {
                let end = Lsn(message.try_get_u64().map_err(|_| short())?);
                let sent_at_us = message.try_get_i64().map_err(|_| short())?;
                let reply = take(&mut message)? == 1;
                nothing_left(&message).map(|()| Self::KeepAlive { end, sent_at_us, reply })
            }
            other => Err(WireError::Protocol(format!("a message of kind {other} in a stream of WAL"))),
        }
    }
}

/// How far we have come, as the server is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StandbyStatus {
    /// Received up to here.
    pub(crate) written: Lsn,
    /// Durable up to here: the server may forget what lies before.
    pub(crate) flushed: Lsn,
    /// Our clock.
    pub(crate) sent_at_us: i64,
    /// Whether the server shall answer at once.
    pub(crate) reply: bool,
}

impl StandbyStatus {
    /// The message. Nothing is ever applied here, so that the applied position is zero: unknown.
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut message = Vec::with_capacity(34);
        message.put_u8(b'r');
        message.put_u64(self.written.0);
        message.put_u64(self.flushed.0);
        message.put_u64(0);
        message.put_i64(self.sent_at_us);
        message.put_u8(u8::from(self.reply));
        message
    }
}

fn take(piece: &mut Bytes) -> Result<u8, WireError> {
    piece.try_get_u8().map_err(|_| short())
}

fn text(piece: &mut Bytes) -> Result<String, WireError> {
    let end = piece.iter().position(|byte| *byte == 0).ok_or_else(short)?;
    let text = piece.split_to(end);
    piece.advance(1);
    String::from_utf8(text.to_vec())
        .map_err(|_| WireError::Protocol("a name in a base backup is not UTF-8".to_owned()))
}

fn nothing_left(piece: &Bytes) -> Result<(), WireError> {
    if piece.is_empty() {
        Ok(())
    } else {
        Err(WireError::Protocol(format!("{} bytes too many in a copy", piece.len())))
    }
}

fn short() -> WireError {
    WireError::Protocol("a piece of a copy ends before its end".to_owned())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_read_and_others_refused() {
        let read = |bytes: &'static [u8]| BackupPiece::read(Bytes::from_static(bytes));
        assert_eq!(
            read(b"nbase.tar\0\0").unwrap(),
            BackupPiece::Archive { name: "base.tar".to_owned(), location: String::new() }
        );
        assert_eq!(read(b"m").unwrap(), BackupPiece::Manifest);
        assert_eq!(read(b"dabc").unwrap(), BackupPiece::Data(Bytes::from_static(b"abc")));
        assert_eq!(read(b"p\0\0\0\0\0\0\x01\x02").unwrap(), BackupPiece::Progress(258));
        for bad in [&b""[..], b"x", b"nbase.tar", b"nbase.tar\0", b"na\0b\0c", b"m!", b"p\0\0", b"n\xFF\0\0"]
        {
            assert!(
                matches!(BackupPiece::read(Bytes::from_static(bad)), Err(WireError::Protocol(_))),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn wal_messages_are_read_and_others_refused() {
        let mut message = vec![b'w'];
        message.extend(7_u64.to_be_bytes());
        message.extend(9_u64.to_be_bytes());
        message.extend((-1_i64).to_be_bytes());
        message.extend(b"xlog");
        let read = WalMessage::read(message.into()).unwrap();
        let bytes = Bytes::from_static(b"xlog");
        assert_eq!(read, WalMessage::Data { begin: Lsn(7), end: Lsn(9), sent_at_us: -1, bytes });
        for bad in [&b""[..], b"w", b"k\0\0\0\0\0\0\0\0", b"z"] {
            assert!(
                matches!(WalMessage::read(Bytes::from_static(bad)), Err(WireError::Protocol(_))),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn a_status_has_the_form_of_the_manual() {
        let status = StandbyStatus { written: Lsn(1), flushed: Lsn(2), sent_at_us: 3, reply: true };
        let message = status.write();
        assert_eq!((message.len(), message[0], message[33]), (34, b'r', 1));
        assert_eq!((message[8], message[16], message[24], message[32]), (1, 2, 0, 3));
    }
}
