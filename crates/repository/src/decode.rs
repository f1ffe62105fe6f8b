//! Stored bytes back to plain bytes, for one object: hash and length, decryption, decompression, plain length.
//!
//! A feeding task reads the store into a bounded channel; a blocking thread hashes what arrives, decrypts, decompresses and hands plain
//! chunks to a [`Consumer`], whose items go out through a second bounded channel. Whatever is wrong with the bytes becomes a [`Fault`]:
//! never a panic, never a hang, and never more memory than [`WINDOW_BYTES_MAX`] and a few chunks, whatever a damaged frame claims.
//! When decoding fails, the rest of the object is still hashed, so that damage in the store is told from a fault of the writer.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Buf, Bytes};
use mainstay_model::{Blake3, Error, ErrorKind, Finding, Result, Severity, StoreKind};
use mainstay_store::{ObjectReader, Store};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use crate::keys::Identities;
use crate::manifest::{Encryption, ObjectEntry};

/// Plain bytes handed out at a time, at most.
pub const CHUNK_BYTES: usize = 1024 * 1024;

/// The largest zstd window that is decoded. This version writes windows of at most 2 MiB; a frame that asks for more is refused before
/// memory is taken.
pub const WINDOW_BYTES_MAX: usize = 1 << WINDOW_LOG_MAX;

const WINDOW_LOG_MAX: u32 = 23;

/// The largest age header that is parsed: some two hundred recipients.
const AGE_HEADER_BYTES_MAX: u64 = 32 * 1024;

/// Chunks of the store's reader, and items for the consumer's side, that wait at most.
const QUEUE_CHUNKS: usize = 2;

/// Where an object is, what it should be and how to read it.
pub(crate) struct ObjectSite {
    pub(crate) store: Store,
    pub(crate) key: mainstay_store::Key,
    pub(crate) expected: Expected,
    pub(crate) identities: Arc<Identities>,
}

/// What was recorded of an object when it was written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) stored_bytes: u64,
    pub(crate) blake3: Blake3,
    pub(crate) encryption: Encryption,
    pub(crate) plain: PlainBytes,
}

/// How many plain bytes an object has.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PlainBytes {
    Exactly(u64),
    /// Not recorded; whoever wrote it kept to this bound.
    AtMost(u64),
}

impl PlainBytes {
    fn most(self) -> u64 {
        match self {
            Self::Exactly(bytes) | Self::AtMost(bytes) => bytes,
        }
    }
}

impl From<&ObjectEntry> for Expected {
    fn from(entry: &ObjectEntry) -> Self {
        Self {
            stored_bytes: entry.stored_bytes,
            blake3: entry.blake3,
            encryption: entry.encryption,
            plain: PlainBytes::Exactly(entry.plain_bytes),
        }
    }
}

/// What happens to plain chunks, on the blocking thread.
pub(crate) trait Consumer: Send + 'static {
    /// What goes out for each chunk.
    type Item: Send + 'static;

    /// Takes one plain chunk, never empty, at most [`CHUNK_BYTES`].
    fn chunk(&mut self, plain: Vec<u8>) -> Self::Item;
}

/// What can be wrong with a stored object.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("is missing")]
    Missing,
    #[error("has {found} stored bytes; {expected} were recorded")]
    Size { found: u64, expected: u64 },
    #[error("has stored bytes with BLAKE3 {}; {} was recorded", .found.short(), .expected.short())]
    Hash { found: Blake3, expected: Blake3 },
    #[error("has the bytes that were written, but they do not decode: {0}")]
    Undecodable(String),
    #[error("decodes to {}{found} plain bytes; {expected} were recorded", if *.more { "more than " } else { "" })]
    PlainSize { found: u64, expected: u64, more: bool },
    /// Not the object's fault: the store or the machinery failed.
    #[error("{0}")]
    Reading(Error),
    /// Nobody listens any more.
    #[error("reading was given up")]
    GivenUp,
}

impl Fault {
    /// The stable name of the finding this fault makes.
    fn finding_id(&self) -> &'static str {
        match self {
            Self::Missing => "object.missing",
            Self::Size { .. } => "object.size_differs",
            Self::Hash { .. } => "object.hash_differs",
            Self::Undecodable(_) => "object.undecodable",
            Self::PlainSize { .. } => "object.plain_size_differs",
            Self::Reading(_) | Self::GivenUp => "object.unread",
        }
    }

    /// As an error about the object at `subject`.
    pub(crate) fn into_error(self, subject: &str) -> Error {
        match self {
            Self::Reading(error) => error.context(format!("read {subject}")),
            Self::GivenUp => Error::new(ErrorKind::Internal, format!("reading {subject} was given up")),
            fault => Error::new(ErrorKind::Corrupt, format!("{subject} {fault}")).with_hint(
                "run `mainstay backup verify` for the full extent, and restore from another backup set",
            ),
        }
    }

    /// As a finding about the object at `subject`.
    ///
    /// # Errors
    /// The error itself when the object is not at fault.
    pub(crate) fn into_finding(self, store: StoreKind, subject: &str) -> Result<Finding> {
        if matches!(self, Self::Reading(_) | Self::GivenUp) {
            return Err(self.into_error(subject));
        }
        Ok(Finding {
            id: self.finding_id().to_owned(),
            severity: Severity::Critical,
            store: Some(store),
            subject: subject.to_owned(),
            message: self.to_string(),
            remedy:
                "Copy this object back from an off-site copy of the repository, or take a new backup with \
                     `mainstay backup create`."
                    .to_owned(),
        })
    }
}

/// A running decoding of one object.
pub(crate) struct Decoding<C: Consumer> {
    items: mpsc::Receiver<C::Item>,
    /// Ends when dropped, which ends the blocking thread, too.
    _feeding: JoinSet<()>,
    thread: JoinHandle<(C, std::result::Result<(), Fault>)>,
}

impl<C: Consumer> Decoding<C> {
    /// Opens the object and begins to decode it into `consumer`.
    pub(crate) async fn begin(site: &ObjectSite, consumer: C) -> Result<Self, Fault> {
        let reader = open(site).await?;
        let (feed, fed) = mpsc::channel(QUEUE_CHUNKS);
        let (send, items) = mpsc::channel(QUEUE_CHUNKS);
        let mut feeding = JoinSet::new();
        feeding.spawn(feed_stored(reader, feed, |_| ()));
        let (expected, identities) = (site.expected, Arc::clone(&site.identities));
        let thread = tokio::task::spawn_blocking(move || {
            let mut decoder = Decoder { expected, identities, consumer, send };
            let outcome = decoder.run(Stored::new(fed));
            (decoder.consumer, outcome)
        });
        Ok(Self { items, _feeding: feeding, thread })
    }

    /// The next item; `None` when there is none left and [`Decoding::end`] has the verdict.
    pub(crate) async fn next(&mut self) -> Option<C::Item> {
        self.items.recv().await
    }

    /// The verdict, and the consumer. Items not taken yet are lost.
    pub(crate) async fn end(mut self) -> (Option<C>, std::result::Result<(), Fault>) {
        self.items.close();
        match self.thread.await {
            Ok((consumer, outcome)) => (Some(consumer), outcome),
            Err(source) => {
                let error =
                    Error::new(ErrorKind::Internal, "decoding of an object ended early").with_source(source);
                (None, Err(Fault::Reading(error)))
            }
        }
    }
}

/// Reads an object's stored bytes and judges these alone, undecoded; `told` hears how many have been read since the last time.
pub(crate) async fn prove_stored(site: &ObjectSite, told: impl Fn(u64)) -> std::result::Result<(), Fault> {
    let reader = open(site).await?;
    let (feed, fed) = mpsc::channel(QUEUE_CHUNKS);
    let expected = site.expected;
    let judging = tokio::task::spawn_blocking(move || Stored::new(fed).check(&expected));
    let ((), judged) = tokio::join!(feed_stored(reader, feed, told), judging);
    judged.unwrap_or_else(|source| {
        let error = Error::new(ErrorKind::Internal, "hashing of an object ended early").with_source(source);
        Err(Fault::Reading(error))
    })
}

/// Opens the object, which must have the size that was recorded.
async fn open(site: &ObjectSite) -> std::result::Result<ObjectReader, Fault> {
    let reader = site.store.read(&site.key).await.map_err(|error| match error.kind() {
        ErrorKind::NotFound => Fault::Missing,
        _ => Fault::Reading(error),
    })?;
    if reader.size() != site.expected.stored_bytes {
        return Err(Fault::Size { found: reader.size(), expected: site.expected.stored_bytes });
    }
    Ok(reader)
}

/// Moves the object from the store to the channel; an empty message says that it is complete.
async fn feed_stored(mut reader: ObjectReader, feed: mpsc::Sender<Result<Bytes>>, told: impl Fn(u64)) {
    loop {
        let message = match reader.next().await {
            Ok(Some(bytes)) if bytes.is_empty() => continue,
            Ok(Some(bytes)) => {
                told(bytes.len() as u64);
                Ok(bytes)
            }
            Ok(None) => Ok(Bytes::new()),
            Err(error) => Err(error),
        };
        let last = message.as_ref().is_ok_and(Bytes::is_empty) || message.is_err();
        if feed.send(message).await.is_err() || last {
            return;
        }
    }
}

/// The stored bytes as they arrive: hashed and counted once, then read by whatever decodes them.
struct Stored {
    fed: mpsc::Receiver<Result<Bytes>>,
    current: Bytes,
    hasher: blake3::Hasher,
    bytes: u64,
    complete: bool,
    error: Option<Error>,
    /// While set, no more than [`AGE_HEADER_BYTES_MAX`] are handed out: parsing a damaged header must not swallow the object.
    in_header: Arc<AtomicBool>,
    consumed: u64,
}

impl Stored {
    fn new(fed: mpsc::Receiver<Result<Bytes>>) -> Self {
        Self {
            fed,
            current: Bytes::new(),
            hasher: blake3::Hasher::new(),
            bytes: 0,
            complete: false,
            error: None,
            in_header: Arc::new(AtomicBool::new(false)),
            consumed: 0,
        }
    }

    /// Reads what is left, and judges the whole.
    fn check(mut self, recorded: &Expected) -> Result<(), Fault> {
        self.in_header.store(false, Ordering::Relaxed);
        self.current = Bytes::new();
        while self.error.is_none() && self.fill_buf().is_ok_and(|bytes| !bytes.is_empty()) {
            self.current = Bytes::new();
        }
        if let Some(error) = self.error {
            return Err(if error.kind() == ErrorKind::NotFound {
                Fault::Missing
            } else {
                Fault::Reading(error)
            });
        }
        if self.bytes != recorded.stored_bytes {
            return Err(Fault::Size { found: self.bytes, expected: recorded.stored_bytes });
        }
        let found = self.hasher.finalize().into();
        if found != recorded.blake3 {
            return Err(Fault::Hash { found, expected: recorded.blake3 });
        }
        Ok(())
    }
}

impl BufRead for Stored {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.in_header.load(Ordering::Relaxed) && self.consumed > AGE_HEADER_BYTES_MAX {
            return Err(io::Error::other("its age header has no end"));
        }
        if self.current.is_empty() && !self.complete {
            match self.fed.blocking_recv() {
                Some(Ok(bytes)) => {
                    self.hasher.update(&bytes);
                    self.bytes += bytes.len() as u64;
                    self.complete = bytes.is_empty();
                    self.current = bytes;
                }
                Some(Err(error)) => self.error = Some(error),
                None => {
                    self.error.get_or_insert_with(|| {
                        Error::new(ErrorKind::Internal, "the reading task ended early")
                    });
                }
            }
        }
        if self.error.is_some() {
            return Err(io::Error::other("the store failed"));
        }
        Ok(&self.current)
    }

    fn consume(&mut self, amount: usize) {
        self.current.advance(amount);
        self.consumed += amount as u64;
    }
}

impl Read for Stored {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

/// The blocking side.
struct Decoder<C: Consumer> {
    expected: Expected,
    identities: Arc<Identities>,
    consumer: C,
    send: mpsc::Sender<C::Item>,
}

impl<C: Consumer> Decoder<C> {
    fn run(&mut self, mut stored: Stored) -> std::result::Result<(), Fault> {
        let decoded = match self.expected.encryption {
            Encryption::None => self.decompress(&mut stored),
            Encryption::Age => self.decrypt(&mut stored),
        };
        if matches!(decoded, Err(Fault::GivenUp)) {
            return decoded;
        }
        // Damage of the stored bytes explains whatever went wrong later.
        stored.check(&self.expected)?;
        decoded
    }

    fn decrypt(&mut self, stored: &mut Stored) -> std::result::Result<(), Fault> {
        let undecodable = |error: age::DecryptError| Fault::Undecodable(format!("age: {error}"));
        let in_header = Arc::clone(&stored.in_header);
        in_header.store(true, Ordering::Relaxed);
        let decryptor = age::Decryptor::new_buffered(stored).map_err(undecodable)?;
        let identities = Arc::clone(&self.identities);
        let plain = decryptor.decrypt(identities.iter()).map_err(undecodable)?;
        in_header.store(false, Ordering::Relaxed);
        self.decompress(&mut BufReader::with_capacity(128 * 1024, plain))
    }

    fn decompress(&mut self, compressed: &mut impl BufRead) -> std::result::Result<(), Fault> {
        let undecodable = |error: io::Error| Fault::Undecodable(error.to_string());
        let mut frames = zstd::stream::read::Decoder::with_buffer(compressed).map_err(undecodable)?;
        frames.window_log_max(WINDOW_LOG_MAX).map_err(undecodable)?;
        let expected = self.expected.plain.most();
        let mut found = 0;
        loop {
            // One byte of room at the expected end shows whether it is the end.
            let room = usize::try_from(expected - found).unwrap_or(usize::MAX).clamp(1, CHUNK_BYTES);
            let mut chunk = vec![0; room];
            let length = read_full(&mut frames, &mut chunk).map_err(undecodable)?;
            if length == 0 {
                break;
            }
            if length as u64 > expected - found {
                return Err(Fault::PlainSize { found: expected, expected, more: true });
            }
            found += length as u64;
            chunk.truncate(length);
            let item = self.consumer.chunk(chunk);
            self.send.blocking_send(item).map_err(|_| Fault::GivenUp)?;
        }
        match self.expected.plain {
            PlainBytes::Exactly(_) if found != expected => {
                Err(Fault::PlainSize { found, expected, more: false })
            }
            _ => Ok(()),
        }
    }
}

/// Decodes `stored` as if it were an object whose size and hash were recorded so. For fuzzers.
pub(crate) fn exercise(stored: &[u8], encryption: Encryption, identities: &Arc<Identities>) {
    struct Counted(u64);
    impl Consumer for Counted {
        type Item = ();

        fn chunk(&mut self, plain: Vec<u8>) {
            self.0 += plain.len() as u64;
        }
    }
    let (feed, fed) = mpsc::channel(QUEUE_CHUNKS);
    let bytes = Bytes::copy_from_slice(stored);
    let whole = if bytes.is_empty() { vec![bytes] } else { vec![bytes, Bytes::new()] };
    let fits = whole.into_iter().all(|message| feed.try_send(Ok(message)).is_ok());
    assert!(fits, "the queue is shorter than two");
    let expected = Expected {
        stored_bytes: stored.len() as u64,
        blake3: blake3::hash(stored).into(),
        encryption,
        plain: PlainBytes::AtMost(CHUNK_BYTES as u64),
    };
    // As many items as chunks of what is expected, and the end.
    let (send, _items) = mpsc::channel(QUEUE_CHUNKS);
    let mut decoder = Decoder { expected, identities: Arc::clone(identities), consumer: Counted(0), send };
    match decoder.run(Stored::new(fed)) {
        Ok(()) | Err(Fault::Undecodable(_) | Fault::PlainSize { .. }) => {}
        Err(fault) => panic!("whole bytes were told as something else: {fault}"),
    }
    assert!(decoder.consumer.0 <= CHUNK_BYTES as u64, "more plain bytes came than were allowed");
}

/// Reads until `buffer` is full or the input ends.
fn read_full(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
