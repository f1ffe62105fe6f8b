//! The server's messages, cut from the stream: bounded before they are waited for, bulk data not copied.

use bytes::{Buf as _, Bytes, BytesMut};
use postgres_protocol::message::backend::Message;

use super::error::{WireError, malformed};

/// The longest message that is accepted. A server sends copy data in pieces of 32 to 128 KiB, and few rows.
pub(crate) const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Tag and length.
const HEADER_BYTES: usize = 5;

/// One message.
pub(crate) enum Incoming {
    /// A piece of a copy.
    Copy(Bytes),
    /// A copy in both directions begins; the driver's protocol crate does not know it.
    CopyBoth,
    /// Any other.
    Other(Message),
}

impl Incoming {
    /// Takes the message at the front of `buffer`; `None` while it is not whole. Then at least as much must be read as
    /// [`missing`] says.
    pub(crate) fn take(buffer: &mut BytesMut) -> Result<Option<Self>, WireError> {
        let Some(total) = total_length(buffer)? else { return Ok(None) };
        if buffer.len() < total {
            return Ok(None);
        }
        let mut frame = buffer.split_to(total);
        match frame[0] {
            b'd' => {
                frame.advance(HEADER_BYTES);
                Ok(Some(Self::Copy(frame.freeze())))
            }
            b'W' => Ok(Some(Self::CopyBoth)),
            _ => match Message::parse(&mut frame).map_err(malformed)? {
                Some(message) => Ok(Some(Self::Other(message))),
                None => Err(WireError::Protocol("a message ends before its end".to_owned())),
            },
        }
    }

    /// What it is, for an error that says it came out of its turn.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Copy(_) => "copy data",
            Self::CopyBoth => "the beginning of a copy in both directions",
            Self::Other(Message::CopyOutResponse(_)) => "the beginning of a copy",
            Self::Other(Message::CopyDone) => "the end of a copy",
            Self::Other(Message::DataRow(_)) => "a row",
            Self::Other(Message::RowDescription(_)) => "the description of rows",
            Self::Other(Message::CommandComplete(_)) => "the end of a command",
            Self::Other(Message::ReadyForQuery(_)) => "readiness",
            Self::Other(_) => "a message of another kind",
        }
    }
}

/// How many bytes the message at the front of `buffer` lacks, as far as is known.
pub(crate) fn missing(buffer: &[u8]) -> Result<usize, WireError> {
    let total = total_length(buffer)?.unwrap_or(HEADER_BYTES);
    Ok(total.saturating_sub(buffer.len()))
}

/// The length of the message at the front, header included; `None` before the header is whole.
fn total_length(buffer: &[u8]) -> Result<Option<usize>, WireError> {
    let Some([_, length @ ..]) = buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if (4..MESSAGE_BYTES_MAX).contains(&length) {
        Ok(Some(length + 1))
    } else {
        Err(WireError::Protocol(format!("a message claims {length} bytes")))
    }
}
