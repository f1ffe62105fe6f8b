//! Streaming writes with bounded memory.

use bytes::Bytes;
use mainstay_model::{Error, ErrorKind, Result};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload, PutPayloadMut};
use tokio::task::JoinSet;

use crate::failure::{self, Trouble};
use crate::store::Store;
use crate::{Key, Verb};

/// Size of a part.
const PART_BYTES: usize = 8 * 1024 * 1024;
/// Size of a part once an object is very large: S3 takes 10,000 parts, so 4,000 of 8 MiB and 6,000 of 32 MiB reach 218 GiB.
const LATE_PART_BYTES: usize = 4 * PART_BYTES;
/// Parts of the first size.
const EARLY_PART_COUNT: usize = 4_000;
/// Parts of an object on S3. <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>
const S3_PART_COUNT_MAX: usize = 10_000;
/// Parts on their way at once.
const PARTS_IN_FLIGHT_MAX: usize = 2;
/// Smaller pieces are copied together, so that a part is not a list of thousands of slices.
const PIECE_BYTES_KEPT: usize = 64 * 1024;

/// An object being written. Made by [`Store::writer`].
///
/// Nothing of it is visible before [`ObjectWriter::finish`] returns; then all of it is, durably, in place of whatever had its key. At most
/// three parts of 8 MiB are in memory (of 32 MiB beyond 31 GiB). Dropped unfinished, it is aborted as well as that can be done in the
/// background.
pub struct ObjectWriter {
    store: Store,
    key: Key,
    path: Path,
    upload: Option<Box<dyn MultipartUpload>>,
    part: PutPayloadMut,
    part_count: usize,
    tasks: JoinSet<object_store::Result<()>>,
    bytes: u64,
    broken: bool,
}

impl std::fmt::Debug for ObjectWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ObjectWriter({}, {} bytes)", self.key, self.bytes)
    }
}

impl ObjectWriter {
    pub(crate) fn new(store: Store, key: Key, path: Path) -> Self {
        Self {
            store,
            key,
            path,
            upload: None,
            part: empty_part(),
            part_count: 0,
            tasks: JoinSet::new(),
            bytes: 0,
            broken: false,
        }
    }

    /// Appends `bytes`, waiting while too many parts are on their way.
    ///
    /// # Errors
    /// The kinds of [`Store::put`], also for an earlier write's part. After an error the writer is done for, and what was sent is removed
    /// in the background.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.check_whole()?;
        let outcome = self.write_parts(bytes).await;
        if outcome.is_err() {
            self.broken = true;
            self.discard();
        }
        outcome
    }

    /// Makes the object appear and returns its size in bytes.
    ///
    /// Not safe to drop half-way: the store may be doing what it was asked for, and then the object appears, now or a little later. Whoever
    /// needs to know runs this in a task of its own and waits for that.
    ///
    /// # Errors
    /// The kinds of [`Store::put`]; the object has not appeared then, unless the state of the error says otherwise.
    pub async fn finish(mut self) -> Result<u64> {
        self.check_whole()?;
        let ordeal = self.store.enter(Verb::Finish, &self.key, 0).await?;
        self.finish_parts().await?;
        match ordeal.lost_answer {
            Some(error) => Err(error),
            None => Ok(self.bytes),
        }
    }

    /// Gives the object up and removes what was already sent.
    ///
    /// # Errors
    /// The kinds of [`Store::delete`], when what was sent could not be removed.
    pub async fn abort(mut self) -> Result<()> {
        self.tasks.shutdown().await;
        match self.upload.take() {
            Some(mut upload) => {
                upload.abort().await.map_err(|error| self.store.explain(&error, Verb::Delete, &self.key))
            }
            None => Ok(()),
        }
    }

    fn check_whole(&self) -> Result<()> {
        if self.broken {
            return Err(Error::new(
                ErrorKind::Storage,
                format!("{} cannot go on: an earlier write failed", self.key),
            ));
        }
        Ok(())
    }

    async fn write_parts(&mut self, mut bytes: Bytes) -> Result<()> {
        let ordeal = self.store.enter(Verb::Write, &self.key, bytes.len() as u64).await?;
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let room = self.part_bytes() - self.part.content_length();
            let piece = bytes.split_to(bytes.len().min(room));
            if piece.len() < PIECE_BYTES_KEPT {
                self.part.extend_from_slice(&piece);
            } else {
                self.part.push(piece);
            }
            if self.part.content_length() == self.part_bytes() {
                self.send_part().await?;
            }
        }
        ordeal.lost_answer.map_or(Ok(()), Err)
    }

    fn part_bytes(&self) -> usize {
        if self.part_count < EARLY_PART_COUNT { PART_BYTES } else { LATE_PART_BYTES }
    }

    async fn send_part(&mut self) -> Result<()> {
        if self.store.is_s3() && self.part_count == S3_PART_COUNT_MAX {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{} is larger than {S3_PART_COUNT_MAX} parts of a multipart upload", self.key),
            )
            .with_hint("split the object, or use a directory as the location"));
        }
        let payload: PutPayload = std::mem::replace(&mut self.part, empty_part()).freeze();
        self.store.throttle(payload.content_length() as u64).await;
        while self.tasks.len() >= PARTS_IN_FLIGHT_MAX {
            self.join_part().await?;
        }
        if self.upload.is_none() {
            let begun = self.store.objects().put_multipart(&self.path).await;
            self.upload = Some(begun.map_err(|error| self.explain(&error))?);
        }
        let upload = self.upload.as_mut().expect("it was just begun");
        self.tasks.spawn(upload.put_part(payload));
        self.part_count += 1;
        Ok(())
    }

    async fn join_part(&mut self) -> Result<()> {
        match self.tasks.join_next().await {
            Some(outcome) => outcome
                .map_err(object_store::Error::from)
                .and_then(|sent| sent)
                .map_err(|error| self.explain(&error)),
            None => Ok(()),
        }
    }

    async fn finish_parts(&mut self) -> Result<()> {
        if self.upload.is_none() {
            // All of it fits into one part: one request, and on a disk the same atomic rename.
            let payload: PutPayload = std::mem::replace(&mut self.part, empty_part()).freeze();
            self.store.throttle(payload.content_length() as u64).await;
            let put = self.store.objects().put(&self.path, payload).await;
            return put.map(|_| ()).map_err(|error| self.explain_finish(&error));
        }
        if !self.part.is_empty() {
            self.send_part().await?;
        }
        while !self.tasks.is_empty() {
            self.join_part().await?;
        }
        let Some(mut upload) = self.upload.take() else { return Ok(()) };
        match upload.complete().await {
            Ok(_) => Ok(()),
            Err(error) if has_appeared(&self.store, &self.path, self.bytes, &error).await => Ok(()),
            Err(error) => {
                let error = self.explain_finish(&error);
                // Its remains are of no use to anybody; that they could not be removed changes nothing about the error.
                let _ = upload.abort().await;
                Err(error)
            }
        }
    }

    /// Gives up what was sent, in the background and as well as that can be done: what stays is found as a leftover.
    fn discard(&mut self) {
        self.tasks.abort_all();
        let Some(mut upload) = self.upload.take() else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = upload.abort().await;
            });
        }
    }

    fn explain(&self, error: &object_store::Error) -> Error {
        self.store.explain(error, Verb::Write, &self.key)
    }

    fn explain_finish(&self, error: &object_store::Error) -> Error {
        self.store.explain(error, Verb::Finish, &self.key)
    }
}

/// A completion whose answer was lost is repeated by the client, and the service no longer knows the upload: then the object is there
/// with the size that was written. (Keys of streamed objects are used once, so an older object of that size is not to be feared.)
async fn has_appeared(store: &Store, path: &Path, bytes: u64, error: &object_store::Error) -> bool {
    store.is_s3()
        && failure::diagnose(error).trouble == Trouble::Absent
        && store.objects().head(path).await.is_ok_and(|meta| meta.size == bytes)
}

impl Drop for ObjectWriter {
    fn drop(&mut self) {
        self.discard();
    }
}

fn empty_part() -> PutPayloadMut {
    PutPayloadMut::new().with_block_size(PIECE_BYTES_KEPT)
}
