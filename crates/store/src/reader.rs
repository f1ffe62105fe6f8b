//! Streaming reads with bounded memory.

use std::fs::File;
use std::io::Read;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use mainstay_model::{Error, ErrorKind, Result};
use object_store::{GetResult, GetResultPayload};

use crate::store::Store;
use crate::{Key, Verb};

/// Largest chunk handed out.
const CHUNK_BYTES_MAX: usize = 1024 * 1024;

/// An object being read from its beginning to its end. Made by [`Store::read`].
///
/// Reads of a remote store continue where a connection broke, as long as the object is still the same and retries remain.
pub struct ObjectReader {
    store: Store,
    key: Key,
    size: u64,
    delivered: u64,
    source: Source,
    flip_byte: Option<u64>,
}

enum Source {
    File(Option<File>),
    Stream { stream: BoxStream<'static, object_store::Result<Bytes>>, pending: Bytes },
}

impl std::fmt::Debug for ObjectReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ObjectReader({}, {} of {} bytes)", self.key, self.delivered, self.size)
    }
}

impl ObjectReader {
    pub(crate) fn new(store: Store, key: Key, found: GetResult, flip_byte: Option<u64>) -> Self {
        let size = found.meta.size;
        let source = match found.payload {
            GetResultPayload::File(file, _) => Source::File(Some(file)),
            GetResultPayload::Stream(stream) => Source::Stream { stream, pending: Bytes::new() },
        };
        Self { store, key, size, delivered: 0, source, flip_byte }
    }

    /// The object's size in bytes, as the store told it when reading began.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next chunk, never empty and at most 1 MiB; `None` after the last.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when the object ends before or after its size; the kinds of [`Store::get`] otherwise. After an error the reader is done for.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let chunk = match &mut self.source {
            Source::File(file) => next_of_file(file).await,
            Source::Stream { stream, pending } => next_of_stream(stream, pending).await,
        }
        .map_err(|error| self.store.explain(&error, Verb::Read, &self.key))?;
        let Some(chunk) = chunk else {
            return if self.delivered == self.size { Ok(None) } else { Err(self.wrong_size("ends")) };
        };
        let start = self.delivered;
        self.delivered += chunk.len() as u64;
        if self.delivered > self.size {
            return Err(self.wrong_size("goes on"));
        }
        Ok(Some(self.flipped(chunk, start)))
    }

    fn wrong_size(&self, what: &str) -> Error {
        let Self { key, size, delivered, .. } = self;
        Error::new(
            ErrorKind::Corrupt,
            format!("{key} in {} {what} after {delivered} of {size} bytes", self.store.describe()),
        )
        .with_hint("check the disk or the service; an object never changes once it is written")
    }

    fn flipped(&self, chunk: Bytes, start: u64) -> Bytes {
        match self
            .flip_byte
            .and_then(|offset| offset.checked_sub(start))
            .and_then(|at| usize::try_from(at).ok())
        {
            Some(at) if at < chunk.len() => {
                let mut bytes = chunk.to_vec();
                bytes[at] ^= 1;
                bytes.into()
            }
            _ => chunk,
        }
    }
}

async fn next_of_file(slot: &mut Option<File>) -> object_store::Result<Option<Bytes>> {
    let Some(mut file) = slot.take() else { return Ok(None) };
    let (file, read) = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::with_capacity(CHUNK_BYTES_MAX);
        let read = (&mut file).take(CHUNK_BYTES_MAX as u64).read_to_end(&mut bytes).map(|_| bytes);
        (file, read)
    })
    .await?;
    let bytes =
        read.map_err(|source| object_store::Error::Generic { store: "file", source: Box::new(source) })?;
    if bytes.is_empty() {
        return Ok(None);
    }
    *slot = Some(file);
    Ok(Some(bytes.into()))
}

async fn next_of_stream(
    stream: &mut BoxStream<'static, object_store::Result<Bytes>>,
    pending: &mut Bytes,
) -> object_store::Result<Option<Bytes>> {
    while pending.is_empty() {
        match stream.next().await {
            Some(chunk) => *pending = chunk?,
            None => return Ok(None),
        }
    }
    Ok(Some(pending.split_to(pending.len().min(CHUNK_BYTES_MAX))))
}
