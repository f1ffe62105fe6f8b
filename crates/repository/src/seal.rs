//! The last steps before the store, for one object: encryption of compressed frames, and the hash and length of what is stored.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use age::stream::StreamWriter;
use age::x25519::Recipient;
use bytes::Bytes;
use mainstay_model::Blake3;

/// Turns compressed frames, in order, into stored bytes.
pub(crate) struct Sealer {
    hasher: blake3::Hasher,
    stored_bytes: u64,
    encrypter: Option<Encrypter>,
}

struct Encrypter {
    stream: StreamWriter<Outbox>,
    outbox: Outbox,
}

/// What the encrypter has written and nobody has taken yet. Its lock is never contended: writer and taker are one thread.
#[derive(Clone, Default)]
struct Outbox(Arc<Mutex<Vec<u8>>>);

impl Outbox {
    fn take(&self) -> Bytes {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).into()
    }
}

impl Write for Outbox {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sealer {
    /// A sealer for one object, encrypting when there are `recipients`.
    pub(crate) fn new(recipients: &[Recipient]) -> io::Result<Self> {
        let encrypter = if recipients.is_empty() { None } else { Some(Encrypter::new(recipients)?) };
        Ok(Self { hasher: blake3::Hasher::new(), stored_bytes: 0, encrypter })
    }

    /// The bytes to store for `frame`; they may be none, and may belong to frames before it.
    pub(crate) fn frame(&mut self, frame: Bytes) -> io::Result<Bytes> {
        let stored = match &mut self.encrypter {
            None => frame,
            Some(encrypter) => {
                encrypter.stream.write_all(&frame)?;
                encrypter.outbox.take()
            }
        };
        Ok(self.count(stored))
    }

    /// The last bytes to store, then the hash and the length of all of them.
    pub(crate) fn end(mut self) -> io::Result<(Bytes, Blake3, u64)> {
        let last = match self.encrypter.take() {
            None => Bytes::new(),
            Some(encrypter) => encrypter.stream.finish()?.take(),
        };
        let last = self.count(last);
        Ok((last, self.hasher.finalize().into(), self.stored_bytes))
    }

    fn count(&mut self, stored: Bytes) -> Bytes {
        self.hasher.update(&stored);
        self.stored_bytes += stored.len() as u64;
        stored
    }
}

impl Encrypter {
    fn new(recipients: &[Recipient]) -> io::Result<Self> {
        let recipients = recipients.iter().map(|recipient| recipient as &dyn age::Recipient);
        let encryptor = age::Encryptor::with_recipients(recipients).map_err(io::Error::other)?;
        let outbox = Outbox::default();
        Ok(Self { stream: encryptor.wrap_output(outbox.clone())?, outbox })
    }
}
