//! Reading one object back.

use bytes::{Bytes, BytesMut};
use mainstay_model::{Error, ErrorKind, Result};

use crate::decode::{Consumer, Decoding, ObjectSite};

/// The plain bytes of one object, in order. Dropping it ends the work behind it.
pub struct ObjectSource {
    subject: String,
    decoding: Option<Decoding<Chunks>>,
    failed: bool,
}

/// Hands chunks out as they are.
struct Chunks;

impl Consumer for Chunks {
    type Item = Bytes;

    fn chunk(&mut self, plain: Vec<u8>) -> Bytes {
        plain.into()
    }
}

impl ObjectSource {
    /// Opens the object at `site`.
    pub(crate) async fn open(site: &ObjectSite) -> Result<Self> {
        let subject = site.key.to_string();
        let decoding = Decoding::begin(site, Chunks).await.map_err(|fault| fault.into_error(&subject))?;
        Ok(Self { subject, decoding: Some(decoding), failed: false })
    }

    /// The next plain bytes, at most [`CHUNK_BYTES`](crate::CHUNK_BYTES) and never empty; `None` at the end.
    ///
    /// Only the end proves the object: hash and sizes are known then. What came before it may stem from damaged bytes, so a caller that
    /// cannot take its effects back verifies the set first.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] naming the object when its bytes are not those that were written; the store's errors as they are.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let Some(decoding) = &mut self.decoding else {
            return if self.failed {
                Err(Error::new(ErrorKind::Internal, format!("reading of {} has failed before", self.subject)))
            } else {
                Ok(None)
            };
        };
        if let Some(chunk) = decoding.next().await {
            return Ok(Some(chunk));
        }
        let Some(decoding) = self.decoding.take() else { return Ok(None) };
        // Should the wait for the verdict be dropped, there is none: that is a failure, not an end.
        self.failed = true;
        let (_, outcome) = decoding.end().await;
        outcome.map_err(|fault| fault.into_error(&self.subject))?;
        self.failed = false;
        Ok(None)
    }

    /// Everything that is left, for small objects.
    ///
    /// # Errors
    /// As [`ObjectSource::next`]; [`ErrorKind::Corrupt`] when it is more than `bytes_max`.
    pub async fn read_all(mut self, bytes_max: usize) -> Result<Bytes> {
        let mut all = BytesMut::new();
        while let Some(chunk) = self.next().await? {
            if all.len() + chunk.len() > bytes_max {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("{} has more than {bytes_max} plain bytes", self.subject),
                ));
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all.freeze())
    }
}
