//! OP_MSG: the one message both sides speak (MongoDB manual, "MongoDB Wire Protocol").
//!
//! ```text
//! header   message length, request id, response to, opcode 2013      4 × int32, little-endian
//! flags    checksum present 1, more to come 2                        uint32
//! section  0, one document                                           the command or the reply
//! section  1, int32 size, name NUL, documents                        a sequence, requests only
//! ```
//!
//! Encoding gives the bytes before the documents of a sequence; these follow as they are, uncopied. Decoding checks everything that
//! bounds memory before memory is taken.

use bytes::BytesMut;

use crate::error::WireError;
use crate::raw;

/// Bytes of the header.
pub(crate) const HEADER_BYTES: usize = 16;

/// `maxMessageSizeBytes` of every server so far; a message of ours never gets longer.
pub(crate) const MESSAGE_BYTES_MAX: usize = 48_000_000;

/// The longest reply accepted: a batch of 16 MiB and its envelope is far below.
const REPLY_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 16 * 1024;

const OP_MSG: i32 = 2013;
const FLAG_CHECKSUM: u32 = 1;
/// The lower half of the flags must be understood; of these only the checksum is.
const FLAGS_REQUIRED: u32 = 0xFFFF;

/// Documents that travel beside a command as a section of kind 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sequence<'a> {
    /// The field of the command that they stand for, such as `documents`.
    pub(crate) name: &'a str,
    /// The concatenated documents.
    pub(crate) documents: &'a [u8],
}

/// The bytes of a request up to, not including, the documents of its sequence.
pub(crate) fn encode(
    request_id: i32,
    command: &[u8],
    sequence: Option<Sequence<'_>>,
) -> Result<Vec<u8>, WireError> {
    let sequence_bytes =
        sequence.map_or(0, |sequence| 1 + 4 + sequence.name.len() + 1 + sequence.documents.len());
    let length = HEADER_BYTES + 4 + 1 + command.len() + sequence_bytes;
    if length > MESSAGE_BYTES_MAX {
        return Err(WireError::Unsupported(format!(
            "a message of {length} bytes; servers take {MESSAGE_BYTES_MAX}"
        )));
    }
    let mut head = Vec::with_capacity(length - sequence.map_or(0, |sequence| sequence.documents.len()));
    let int = |number: usize| i32::try_from(number).expect("bounded by MESSAGE_BYTES_MAX").to_le_bytes();
    for field in [int(length), request_id.to_le_bytes(), [0; 4], OP_MSG.to_le_bytes(), [0; 4]] {
        head.extend_from_slice(&field);
    }
    head.push(0);
    head.extend_from_slice(command);
    if let Some(sequence) = sequence {
        head.push(1);
        head.extend_from_slice(&int(sequence_bytes - 1));
        head.extend_from_slice(sequence.name.as_bytes());
        head.push(0);
    }
    Ok(head)
}

/// How many bytes follow the header of a reply to `request_id`.
pub(crate) fn decode_header(header: &[u8; HEADER_BYTES], request_id: i32) -> Result<usize, WireError> {
    let field = |index: usize| {
        i32::from_le_bytes([
            header[4 * index],
            header[4 * index + 1],
            header[4 * index + 2],
            header[4 * index + 3],
        ])
    };
    let fault = |what: String| Err(WireError::Protocol(what));
    let length = usize::try_from(field(0)).unwrap_or(0);
    if !(HEADER_BYTES + 4 + 1 + 5..=REPLY_BYTES_MAX).contains(&length) {
        return fault(format!("message length {}", field(0)));
    }
    if field(3) != OP_MSG {
        return fault(format!("opcode {}", field(3)));
    }
    if field(2) != request_id {
        return fault(format!("answer to request {}, not {request_id}", field(2)));
    }
    Ok(length - HEADER_BYTES)
}

/// A reply: one document, whose framing has been checked.
#[derive(Debug)]
pub(crate) struct Reply(BytesMut);

impl Reply {
    /// The reply inside what followed the header.
    pub(crate) fn decode(mut rest: BytesMut) -> Result<Self, WireError> {
        let fault = |what: &str| Err(WireError::Protocol(what.to_owned()));
        let Some(flags) = rest.first_chunk::<4>().map(|flags| u32::from_le_bytes(*flags)) else {
            return fault("no flags");
        };
        if flags & FLAGS_REQUIRED & !FLAG_CHECKSUM != 0 {
            return fault("flags that were not asked for");
        }
        if flags & FLAG_CHECKSUM != 0 {
            let Some(length) = rest.len().checked_sub(4) else { return fault("no checksum") };
            rest.truncate(length);
        }
        if rest.get(4) != Some(&0) {
            return fault("no body section");
        }
        let document = rest.split_off(5);
        raw::as_document(&document)?;
        Ok(Self(document))
    }

    /// The document.
    pub(crate) fn document(&self) -> &[u8] {
        &self.0
    }

    /// The buffer that holds exactly the document, for whoever takes it apart in place.
    pub(crate) fn into_buffer(self) -> BytesMut {
        self.0
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const OK: &[u8] = &[17, 0, 0, 0, 1, b'o', b'k', 0, 0, 0, 0, 0, 0, 0, 0xF0, 0x3F, 0];

    fn header(fields: [i32; 4]) -> [u8; HEADER_BYTES] {
        fields.map(i32::to_le_bytes).concat().try_into().unwrap()
    }

    fn body(flags: u32, rest: &[u8]) -> BytesMut {
        BytesMut::from([&flags.to_le_bytes(), rest].concat().as_slice())
    }

    #[test]
    fn a_request_says_its_length() {
        let documents = [5, 0, 0, 0, 0];
        let head = encode(7, OK, Some(Sequence { name: "documents", documents: &documents })).unwrap();
        assert_eq!(i32::from_le_bytes(*head.first_chunk().unwrap()) as usize, head.len() + documents.len());
        assert_eq!(&head[head.len() - 14..], b"\x13\0\0\0documents\0".as_slice());
        let huge = vec![0; MESSAGE_BYTES_MAX];
        assert!(encode(7, OK, Some(Sequence { name: "documents", documents: &huge })).is_err());
    }

    #[test]
    fn hostile_headers_are_refused() {
        assert_eq!(decode_header(&header([16 + 5 + 17, 1, 7, OP_MSG]), 7).unwrap(), 22);
        for (fields, why) in [
            ([-1, 1, 7, OP_MSG], "negative length"),
            ([i32::MAX, 1, 7, OP_MSG], "huge length"),
            ([REPLY_BYTES_MAX as i32 + 1, 1, 7, OP_MSG], "too long"),
            ([20, 1, 7, OP_MSG], "too short"),
            ([38, 1, 8, OP_MSG], "another request's"),
            ([38, 1, 7, 1], "OP_REPLY"),
        ] {
            assert!(decode_header(&header(fields), 7).is_err(), "{why}");
        }
    }

    #[test]
    fn hostile_bodies_are_refused() {
        let section = |kind: u8, document: &[u8]| [&[kind], document].concat();
        assert_eq!(Reply::decode(body(0, &section(0, OK))).unwrap().document(), OK);
        let checked = [section(0, OK).as_slice(), &[1, 2, 3, 4]].concat();
        assert_eq!(Reply::decode(body(1, &checked)).unwrap().document(), OK);
        let mut long = OK.to_vec();
        long[0] = 18;
        for (bytes, why) in [
            (body(2, &section(0, OK)), "more to come"),
            (body(4, &section(0, OK)), "unknown required flag"),
            (body(0, &section(1, OK)), "sequence first"),
            (body(0, &section(0, &OK[..16])), "truncated"),
            (body(0, &section(0, &long)), "length beyond the end"),
            (body(0, &[section(0, OK), section(0, OK)].concat()), "two bodies"),
            (body(0, &[]), "no section"),
            (body(1, &[1, 2]), "no room for the checksum"),
            (BytesMut::from([0u8, 1].as_slice()), "no flags"),
        ] {
            assert!(Reply::decode(bytes).is_err(), "{why}");
        }
    }
}
