//! Taking a cursor's reply apart without decoding its documents.
//!
//! A reply to `find` or `getMore` is `{cursor: {firstBatch|nextBatch: [doc, …], id, ns, postBatchResumeToken}, ok: 1, …}`. Inside the array
//! each document follows a type byte and a decimal name. They are moved together within the reply's own buffer, one `memmove` each and no
//! allocation, and the buffer becomes the batch. Whatever is not framed exactly so is an error.

use bson::{RawDocumentBuf, rawdoc};
use bytes::{Bytes, BytesMut};
use mainstay_engine::document_frames;
use mainstay_model::Result as HouseResult;

use crate::error::WireError;
use crate::raw::{self, Malformed, kind};
use crate::wire::{Connection, Reply};

/// One batch of a cursor.
#[derive(Debug)]
pub(crate) struct Page {
    /// The concatenated documents.
    pub(crate) bytes: Bytes,
    /// How many.
    pub(crate) documents: u64,
    /// Where the last document begins, when there is one.
    pub(crate) last: usize,
    /// The cursor; 0 when it is exhausted.
    pub(crate) cursor: i64,
    /// `postBatchResumeToken`, when it was asked for.
    pub(crate) token: Option<Vec<u8>>,
}

impl Page {
    /// Takes `reply` apart.
    pub(crate) fn take(reply: Reply) -> Result<Self, WireError> {
        let mut buffer = reply.into_buffer();
        let envelope = Envelope::of(&buffer)?;
        let Packed { begin, end, documents, last } = pack(&mut buffer, envelope.batch)?;
        let bytes = buffer.freeze().slice(begin..end);
        Ok(Self { bytes, documents, last: last - begin, cursor: envelope.cursor, token: envelope.token })
    }

    /// The last document, when there is one.
    pub(crate) fn last_document(&self) -> Option<&[u8]> {
        (self.documents > 0).then(|| &self.bytes[self.last..])
    }
}

/// Runs a command that gives a cursor on `connection`, and everything the cursor gives, byte for byte.
pub(crate) async fn list_on(
    connection: &mut Connection,
    database: &str,
    mut command: RawDocumentBuf,
) -> HouseResult<Vec<RawDocumentBuf>> {
    let collection = command.iter().next().and_then(Result::ok).and_then(|(_, value)| value.as_str());
    let collection = collection.unwrap_or_default().to_owned();
    command.append(bson::cstr!("$db"), database);
    let mut documents = Vec::new();
    let mut page = Page::take(connection.run(command.as_bytes()).await?)?;
    loop {
        for frame in document_frames(&page.bytes) {
            let frame = frame.map_err(|error| WireError::Protocol(error.to_string()))?;
            documents.push(
                RawDocumentBuf::from_bytes(frame.to_vec())
                    .map_err(|_| WireError::Protocol("a document that is not BSON".to_owned()))?,
            );
        }
        if page.cursor == 0 {
            return Ok(documents);
        }
        let more = rawdoc! { "getMore": page.cursor, "collection": collection.as_str(), "$db": database };
        page = Page::take(connection.run(more.as_bytes()).await?)?;
    }
}

/// What surrounds the documents.
struct Envelope {
    /// The array of documents within the reply.
    batch: std::ops::Range<usize>,
    cursor: i64,
    token: Option<Vec<u8>>,
}

impl Envelope {
    fn of(reply: &[u8]) -> Result<Self, WireError> {
        let missing = |what: &str| WireError::Protocol(format!("a cursor reply without {what}"));
        let cursor = raw::find(reply, "cursor")?
            .filter(|cursor| cursor.kind == kind::DOCUMENT)
            .ok_or_else(|| missing("cursor"))?;
        let (mut batch, mut id, mut token) = (None, None, None);
        for element in raw::elements(cursor.value) {
            let element = element?;
            match (element.key, element.kind) {
                (b"firstBatch" | b"nextBatch", kind::ARRAY) => {
                    let begin = cursor.offset + element.offset;
                    batch = Some(begin..begin + element.value.len());
                }
                (b"id", _) => id = element.number(),
                (b"postBatchResumeToken", kind::DOCUMENT) => token = Some(element.value.to_vec()),
                _ => {}
            }
        }
        Ok(Self {
            batch: batch.ok_or_else(|| missing("batch"))?,
            cursor: id.ok_or_else(|| missing("id"))?,
            token,
        })
    }
}

/// Where the packed documents are.
struct Packed {
    begin: usize,
    end: usize,
    documents: u64,
    last: usize,
}

/// Moves the documents of the array at `range` together, to where the array's first element began.
fn pack(buffer: &mut BytesMut, range: std::ops::Range<usize>) -> Result<Packed, Malformed> {
    let fault = |offset: usize, what| Malformed { offset, what };
    if range.len() < 5 || buffer[range.end - 1] != 0 {
        return Err(fault(range.start, "array without end"));
    }
    let (begin, stop) = (range.start + 4, range.end - 1);
    let (mut read, mut write, mut last, mut documents) = (begin, begin, begin, 0);
    while read < stop {
        if buffer[read] != kind::DOCUMENT {
            return Err(fault(read, "batch element that is no document"));
        }
        // The names are the decimal positions: at most ten digits for as many documents as a message can hold.
        let name = &buffer[read + 1..stop.min(read + 12)];
        let name_length =
            name.iter().position(|byte| *byte == 0).ok_or_else(|| fault(read, "name without end"))?;
        let start = read + 1 + name_length + 1;
        let length = buffer[start..stop]
            .first_chunk::<4>()
            .and_then(|length| usize::try_from(i32::from_le_bytes(*length)).ok())
            .filter(|length| *length >= 5 && *length <= stop - start)
            .ok_or_else(|| fault(start, "document length"))?;
        let end = start + length;
        if buffer[end - 1] != 0 {
            return Err(fault(end - 1, "document without end"));
        }
        buffer.copy_within(start..end, write);
        last = write;
        write += length;
        documents += 1;
        read = end;
    }
    Ok(Packed { begin, end: write, documents, last })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use bson::{RawDocumentBuf, doc};
    use mainstay_engine::document_frames;

    use super::*;

    fn reply(document: &[u8]) -> Result<Reply, WireError> {
        let mut body = BytesMut::from([0u8; 5].as_slice());
        body.extend_from_slice(document);
        Reply::decode(body)
    }

    fn page(document: &[u8]) -> Result<Page, WireError> {
        Page::take(reply(document)?)
    }

    fn cursor_reply(count: i32) -> Vec<u8> {
        let batch: Vec<_> =
            (0..count).map(|id| doc! { "_id": id, "pad": "x".repeat(id as usize % 7) }).collect();
        let cursor = doc! { "firstBatch": batch, "postBatchResumeToken": { "$recordId": 5_i64 }, "id": 77_i64, "ns": "a.b" };
        doc! { "cursor": cursor, "ok": 1.0 }.to_vec().unwrap()
    }

    #[test]
    fn documents_come_out_whole_and_in_order() {
        for count in [0, 1, 9, 10, 11, 1_234] {
            let page = page(&cursor_reply(count)).unwrap();
            assert_eq!((page.documents, page.cursor, page.token.is_some()), (count as u64, 77, true));
            let ids: Vec<_> = document_frames(&page.bytes)
                .map(|frame| {
                    RawDocumentBuf::from_bytes(frame.unwrap().to_vec()).unwrap().get_i32("_id").unwrap()
                })
                .collect();
            assert_eq!(ids, (0..count).collect::<Vec<_>>());
            assert_eq!(page.last_document().is_some(), count > 0);
        }
    }

    #[test]
    fn hostile_replies_are_errors() {
        let bytes = |document: bson::Document| document.to_vec().unwrap();
        for (document, why) in [
            (bytes(doc! { "ok": 1 }), "no cursor"),
            (bytes(doc! { "cursor": 1, "ok": 1 }), "cursor is no document"),
            (bytes(doc! { "cursor": { "id": 0_i64 }, "ok": 1 }), "no batch"),
            (bytes(doc! { "cursor": { "firstBatch": [] }, "ok": 1 }), "no id"),
            (
                bytes(doc! { "cursor": { "firstBatch": [1], "id": 0_i64 }, "ok": 1 }),
                "an element that is no document",
            ),
            (
                bytes(doc! { "cursor": { "firstBatch": { "a": {} }, "id": 0_i64 }, "ok": 1 }),
                "a batch that is no array",
            ),
        ] {
            assert!(page(&document).is_err(), "{why}");
        }
    }

    #[test]
    fn no_flipped_bit_and_no_cut_panics() {
        let document = cursor_reply(12);
        for index in 0..document.len() {
            let _ = page(&document[..index]);
            for bit in 0..8 {
                let mut damaged = document.clone();
                damaged[index] ^= 1 << bit;
                if let Ok(page) = page(&damaged) {
                    assert_eq!(
                        document_frames(&page.bytes).filter(Result::is_ok).count() as u64,
                        page.documents
                    );
                }
            }
        }
    }
}
