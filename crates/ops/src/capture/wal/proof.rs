//! Whether a server's log continues what is stored of it.
//!
//! By the last bytes that are stored, which the server must have as well. Where it has removed the segment that holds them, by the first record
//! behind them, which names the last one before. And where they are the unused rest of a segment, which is the same in every history, by
//! the last record in front of it. Refuses to guess: what tells nothing is told so, and a new chain begins.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mainstay_basebackup::{WalError, WalWalker};
use mainstay_engine::{FollowWal, WalEvent, WalStream};
use mainstay_model::{Error, ErrorKind, Lsn, Result, ResultExt};
use mainstay_repository::{Chain, Slice};
use tokio::time::Instant;

use super::begin::{Beginning, StoredChain};
use crate::wal::segment_begin;

/// How many bytes before the end of what is stored are read again and compared.
const PROOF_BYTES: u64 = 64 * 1024;

/// How many bytes are read for a record that tells which one is before it. Each page of a longer one tells that it goes on with it.
const RECORD_PROOF_BYTES: usize = 1024 * 1024;

/// How long the server may take to send what it has already.
const PROOF_TIME_MAX: Duration = Duration::from_secs(30);

impl Beginning<'_> {
    /// Whether the server's log continues `chain`: by the last bytes that are stored, where the server has these still, or by the record that
    /// follows them.
    pub(super) async fn compare(
        &self,
        chain: &Chain,
        stored: &StoredChain,
        segment_bytes: u64,
    ) -> Result<Compared> {
        let proof = match self.proof(chain).await {
            Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(Compared::Unknown),
            proof => proof?,
        };
        if !proof.is_empty() && proof.iter().all(|byte| *byte == 0) {
            return self.compare_unused(chain, stored, segment_bytes).await;
        }
        let from = Lsn(stored.end.0 - proof.len() as u64);
        let compared = match self.follow(from, stored.lineage.timeline()).await? {
            Some(mut stream) => prove(stream.as_mut(), from, &proof).await?.of(stream),
            None => Compared::Gone,
        };
        match compared {
            // The segment of the last bytes may be gone while what follows them is there.
            Compared::Gone if !proof.is_empty() => self.compare_records(chain, stored, segment_bytes).await,
            compared => Ok(compared),
        }
    }

    /// The last bytes of a chain, all in one segment.
    async fn proof(&self, chain: &Chain) -> Result<Bytes> {
        let Some(last) = chain.slices().last() else { return Ok(Bytes::new()) };
        let plain = self.context.repository.read_slice(chain, last).await.context("read the last slice")?;
        if plain.len() as u64 != last.through.0 - last.after.0 {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("{} is not as long as its name says", last.name()),
            ));
        }
        let length = usize::try_from(PROOF_BYTES).unwrap_or(usize::MAX).min(plain.len());
        Ok(plain.slice(plain.len() - length..))
    }

    /// Compares what follows the chain at the server by its first record alone, which names the one before it.
    async fn compare_records(
        &self,
        chain: &Chain,
        stored: &StoredChain,
        segment_bytes: u64,
    ) -> Result<Compared> {
        let walker = self.walk_end(chain, segment_bytes).await?;
        let Some(walker) = walker else { return Ok(Compared::Unknown) };
        let Some(mut stream) = self.follow(stored.end, stored.lineage.timeline()).await? else {
            return Ok(Compared::Gone);
        };
        Ok(prove_records(stream.as_mut(), stored.end, walker).await?.of(stream))
    }

    /// The same for a chain that ends with the unused rest of a segment, which says nothing: the last record before it is compared.
    async fn compare_unused(
        &self,
        chain: &Chain,
        stored: &StoredChain,
        segment_bytes: u64,
    ) -> Result<Compared> {
        let walker = self.walk_end(chain, segment_bytes).await?;
        let Some(last) = walker.and_then(|walker| walker.last()) else { return Ok(Compared::Unknown) };
        let until = last.saturating_add(PROOF_BYTES).min(stored.end.0);
        let mut expected = BytesMut::new();
        for slice in chain.slices_between(Lsn(last).into(), Lsn(until).into()) {
            let plain = self.context.repository.read_slice(chain, slice).await;
            let plain = plain.with_context(|| format!("read {}", slice.name()))?;
            let within = |position: u64| {
                usize::try_from(position.saturating_sub(slice.after.0)).unwrap_or(usize::MAX).min(plain.len())
            };
            expected.extend_from_slice(&plain[within(last)..within(until)]);
        }
        let timeline = stored.lineage.timeline();
        let look = FollowWal { slot: None, from: Lsn(last), timeline };
        let looked = match self.context.source.follow_wal(&look).await {
            Err(error) if error.kind() == ErrorKind::Precondition => Proof::Gone,
            stream => prove(stream?.as_mut(), Lsn(last), &expected).await?,
        };
        match looked {
            Proof::Same(_) => {}
            Proof::Other => return Ok(Compared::Other),
            Proof::Gone => return self.compare_records(chain, stored, segment_bytes).await,
        }
        match self.follow(stored.end, timeline).await? {
            Some(mut stream) => Ok(prove(stream.as_mut(), stored.end, &[]).await?.of(stream)),
            None => Ok(Compared::Gone),
        }
    }

    /// A walker that has come to the end of `chain`, and knows its last record; `None` when the last slices hold none, or are damaged.
    async fn walk_end(&self, chain: &Chain, segment_bytes: u64) -> Result<Option<WalWalker>> {
        let slices = chain.slices();
        let Some(last) = slices.last() else { return Ok(None) };
        // From the first byte of the last segment on nothing is in the way of finding a record but damage.
        let begin = segment_begin(Lsn(last.after.0), segment_bytes);
        let in_segment = slices.len() - slices.partition_point(|slice| slice.after.0 < begin.0);
        for count in [1, 8, 64].into_iter().filter(|count| *count < in_segment).chain([in_segment]) {
            match self.walk(chain, &slices[slices.len() - count..], segment_bytes).await {
                Ok(walker) if walker.last().is_some() => return Ok(Some(walker)),
                Ok(_) => {}
                // What begins in the unused rest of a segment finds no page there; what is damaged proves nothing.
                Err(error) if error.kind() == ErrorKind::Corrupt => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    async fn walk(&self, chain: &Chain, slices: &[Slice], segment_bytes: u64) -> Result<WalWalker> {
        let from = slices.first().map_or(chain.end(), |slice| slice.after);
        let mut walker = WalWalker::anywhere(from.0, segment_bytes);
        for slice in slices {
            let plain = self.context.repository.read_slice(chain, slice).await;
            let plain = plain.with_context(|| format!("read {}", slice.name()))?;
            walker.push(&plain, &mut |_| ()).map_err(|error| damaged(&slice.name(), error))?;
        }
        Ok(walker)
    }
}

fn damaged(name: &str, error: WalError) -> Error {
    Error::new(ErrorKind::Corrupt, format!("{name}: {error}")).with_source(error)
}

/// Whether the first bytes of a stream continue those that are stored.
pub(super) enum Proof {
    /// They do; these came behind what is stored.
    Same(BytesMut),
    /// They do not.
    Other,
    /// The server no longer has them.
    Gone,
}

/// The same, with the stream that goes on from there.
pub(super) enum Compared {
    Same(Box<dyn WalStream>, BytesMut),
    Other,
    Gone,
    /// What is stored does not tell.
    Unknown,
}

impl Proof {
    fn of(self, stream: Box<dyn WalStream>) -> Compared {
        match self {
            Self::Same(first) => Compared::Same(stream, first),
            Self::Other => Compared::Other,
            Self::Gone => Compared::Gone,
        }
    }
}

/// What a server has sent by now of what it has already.
enum Sent {
    Bytes(Bytes),
    /// How far its log goes, or nothing.
    Word(bool),
    Gone,
}

async fn sent(stream: &mut dyn WalStream) -> Result<Sent> {
    match stream.next(Duration::from_secs(1)).await {
        Ok(WalEvent::Bytes { bytes, .. }) => Ok(Sent::Bytes(bytes)),
        Ok(WalEvent::Quiet { server_end }) => Ok(Sent::Word(server_end.is_some())),
        Ok(WalEvent::TimelineEnd { .. }) => {
            Err(Error::new(ErrorKind::Unreachable, "the timeline ended before what is stored of it did")
                .with_state("nothing was added to what is stored"))
        }
        Err(error) if error.kind() == ErrorKind::Precondition => Ok(Sent::Gone),
        Err(error) => Err(error),
    }
}

fn not_sent() -> Error {
    Error::new(ErrorKind::Unreachable, "the server does not send what it has")
        .with_state("nothing was added to what is stored")
}

/// Reads as many bytes as `expected` has, from `from` on, and compares; without any, waits for a sign that the server has what was asked for.
pub(super) async fn prove(stream: &mut dyn WalStream, from: Lsn, expected: &[u8]) -> Result<Proof> {
    let deadline = Instant::now() + PROOF_TIME_MAX;
    let mut received = BytesMut::new();
    if expected.is_empty() {
        // It answers, or says that it has no longer what was asked for.
        stream.acknowledge(from).await?;
    }
    loop {
        let has_answered = match sent(stream).await? {
            Sent::Bytes(bytes) => {
                received.extend_from_slice(&bytes);
                true
            }
            Sent::Word(is_one) => is_one,
            Sent::Gone => return Ok(Proof::Gone),
        };
        if has_answered && received.len() >= expected.len() {
            let begins = received.split_to(expected.len());
            return Ok(if begins == expected { Proof::Same(received) } else { Proof::Other });
        }
        if Instant::now() >= deadline {
            return Err(not_sent());
        }
    }
}

/// Reads from `from` on, where `walker` is, until a record has ended there that follows the last one it has seen.
async fn prove_records(stream: &mut dyn WalStream, from: Lsn, mut walker: WalWalker) -> Result<Proof> {
    let deadline = Instant::now() + PROOF_TIME_MAX;
    let mut received = BytesMut::new();
    stream.acknowledge(from).await?;
    loop {
        match sent(stream).await? {
            Sent::Bytes(bytes) => {
                let mut has_ended = false;
                if walker.push(&bytes, &mut |_| has_ended = true).is_err() {
                    return Ok(Proof::Other);
                }
                received.extend_from_slice(&bytes);
                if has_ended || received.len() >= RECORD_PROOF_BYTES {
                    return Ok(Proof::Same(received));
                }
            }
            Sent::Word(_) => {}
            Sent::Gone => return Ok(Proof::Gone),
        }
        if Instant::now() >= deadline {
            return Err(not_sent());
        }
    }
}
