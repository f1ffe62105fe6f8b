//! Writing a chain: description first, then slices, strictly one after another.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use jiff::SignedDuration;
use mainstay_journal::{KeptLease, Lease};
use mainstay_model::{Blake3, ChainId, Error, ErrorKind, LogPosition, Result, ResultExt, StoreKind, sealed};
use mainstay_store::Key;

use super::chain::CHAIN_KIND;
use super::{
    Chain, ChainDescription, ChainReason, LogKind, ReplicationChain, SLICE_BYTES_MAX, Slice, WalChain,
};
use crate::compress::{FRAME_BYTES, Pending, Plain};
use crate::layout;
use crate::manifest::Encryption;
use crate::repository::Repository;
use crate::seal::Sealer;

/// How many ids are tried for a new chain when those before are taken.
const CHAIN_ID_ATTEMPTS_MAX: usize = 64;

/// The right to write the log of one server: a lease that renews itself. Dropped without [`LogClaim::release`], it runs out by itself.
#[derive(Debug, Clone)]
pub struct LogClaim(Arc<Claimed>);

#[derive(Debug)]
struct Claimed {
    repository: Repository,
    store: StoreKind,
    server: String,
    lease: KeptLease,
}

/// What a new chain is.
#[derive(Debug, Clone)]
pub struct ChainBeginning {
    /// What its slices are.
    pub kind: LogKind,
    /// The environment it is captured in.
    pub environment: String,
    /// The position it begins after.
    pub after: LogPosition,
    /// Why it is begun.
    pub why: ChainReason,
    /// The newest chain of the same server.
    pub predecessor: Option<ChainId>,
    /// Which WAL it is; `None` for any other kind.
    pub wal: Option<WalChain>,
    /// Which replication stream it is; `None` for any other kind.
    pub replication: Option<ReplicationChain>,
}

/// A chain being written.
#[derive(Debug)]
pub struct ChainWriter {
    claim: LogClaim,
    description: ChainDescription,
    end: LogPosition,
}

/// A slice ready to be put: compressed, encrypted, named. Putting it again puts the same bytes, so that a lost answer does no harm.
#[derive(Debug, Clone)]
pub struct SealedSlice {
    slice: Slice,
    key: Key,
    bytes: Bytes,
}

impl SealedSlice {
    /// The slice it will be.
    pub fn slice(&self) -> &Slice {
        &self.slice
    }

    /// The key it is put at.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// What is put there.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl Repository {
    /// Claims the log of the server with `fingerprint` for `ttl` at a time. `holder` says who writes it, for whoever finds the lease.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] when somebody else captures it; the store's.
    pub async fn claim_log(
        &self,
        store: StoreKind,
        fingerprint: &str,
        holder: &str,
        ttl: SignedDuration,
    ) -> Result<LogClaim> {
        self.claim(store, fingerprint, &layout::log_lease(store, fingerprint), holder, ttl).await
    }

    /// Claims the import of what an archive has of the log of the server with `fingerprint`: chains of its own, so that the log may be captured
    /// meanwhile.
    ///
    /// # Errors
    /// As [`Repository::claim_log`].
    pub async fn claim_import(
        &self,
        store: StoreKind,
        fingerprint: &str,
        holder: &str,
        ttl: SignedDuration,
    ) -> Result<LogClaim> {
        self.claim(store, fingerprint, &layout::import_lease(store, fingerprint), holder, ttl).await
    }

    async fn claim(
        &self,
        store: StoreKind,
        fingerprint: &str,
        name: &str,
        holder: &str,
        ttl: SignedDuration,
    ) -> Result<LogClaim> {
        let lease = Lease::acquire(self.store(), Arc::clone(self.clock()), name, holder, ttl).await?.keep();
        let (repository, server) = (self.clone(), fingerprint.to_owned());
        Ok(LogClaim(Arc::new(Claimed { repository, store, server, lease })))
    }

    /// The record of who captures the log of the server with `fingerprint` now; `None` when nobody does.
    ///
    /// # Errors
    /// The store's.
    pub async fn log_holder(
        &self,
        store: StoreKind,
        fingerprint: &str,
    ) -> Result<Option<mainstay_journal::LeaseRecord>> {
        Lease::holder(self.store(), self.clock().as_ref(), &layout::log_lease(store, fingerprint)).await
    }
}

impl LogClaim {
    /// Makes sure that the claim was not lost, as far as this process knows.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] when it was. That does not change back.
    pub fn check(&self) -> Result<()> {
        self.0.lease.check()
    }

    /// Begins a new chain. Its description is durable when this returns.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] when the claim was lost; the store's.
    pub async fn begin_chain(&self, beginning: ChainBeginning) -> Result<ChainWriter> {
        let Claimed { repository, store, server, lease } = &*self.0;
        let begun_at = repository.now();
        let nanosecond =
            u32::try_from(begun_at.subsec_nanosecond().max(0)).expect("it is below a thousand million");
        let ChainBeginning { kind, environment, after, why, predecessor, wal, replication } = beginning;
        let mut description = ChainDescription {
            format: ChainDescription::format_of(why, wal.as_ref(), replication.as_ref()),
            repository_id: repository.id().to_owned(),
            chain_id: ChainId::new(begun_at, nanosecond),
            store: *store,
            kind,
            server: server.clone(),
            environment,
            begun_at,
            after,
            why,
            predecessor,
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            recipients: repository.recipients().iter().map(ToString::to_string).collect(),
            wal,
            replication,
        };
        for number in (nanosecond..).take(CHAIN_ID_ATTEMPTS_MAX) {
            description.chain_id = ChainId::new(begun_at, number);
            lease.check()?;
            let key = layout::chain_description(*store, &description.chain_id);
            let (bytes, _) = sealed::seal(CHAIN_KIND, &description)?;
            match repository.store().put_new(&key, bytes.into()).await {
                Ok(()) => return Ok(ChainWriter { claim: self.clone(), description, end: after }),
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(error.context(format!("begin chain {}", description.chain_id))),
            }
        }
        Err(Error::new(ErrorKind::Conflict, format!("every chain id near {begun_at} is taken"))
            .with_state("nothing was changed")
            .with_hint("check this machine's clock, then run the command again"))
    }

    /// Goes on after the end of `chain`, which must have been listed under this claim.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] for a chain of another server; [`ErrorKind::Locked`] when the claim was lost.
    pub fn resume_chain(&self, chain: &Chain) -> Result<ChainWriter> {
        self.check()?;
        let description = chain.description().clone();
        if (description.store, &description.server) != (self.0.store, &self.0.server) {
            return Err(Error::new(
                ErrorKind::Internal,
                format!("chain {} is of server {}, not {}", chain.id(), description.server, self.0.server),
            ));
        }
        Ok(ChainWriter { claim: self.clone(), description, end: chain.end() })
    }

    /// Gives the claim back, so that the next capture need not wait for it to run out.
    ///
    /// # Errors
    /// The store's; [`ErrorKind::Locked`] when it was lost; [`ErrorKind::Internal`] while a chain is still written under it.
    pub async fn release(self) -> Result<()> {
        match Arc::into_inner(self.0) {
            Some(claimed) => claimed.lease.release().await,
            None => Err(Error::new(ErrorKind::Internal, "the log's claim is still in use")),
        }
    }
}

impl ChainWriter {
    /// The chain's identifier.
    pub fn id(&self) -> &ChainId {
        &self.description.chain_id
    }

    /// What it is.
    pub fn description(&self) -> &ChainDescription {
        &self.description
    }

    /// The position up to which everything is durable.
    pub fn end(&self) -> LogPosition {
        self.end
    }

    /// Compresses and encrypts `plain`, everything the server recorded after the writer's end up to and including `through`. Nothing is
    /// written yet.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when `through` is not past the end, or there is nothing, or more than [`SLICE_BYTES_MAX`].
    pub async fn seal(&self, through: LogPosition, plain: Bytes) -> Result<SealedSlice> {
        if through <= self.end || plain.is_empty() || plain.len() > SLICE_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::Internal,
                format!("{} bytes through {through} are no slice after {}", plain.len(), self.end),
            ));
        }
        let (bytes, blake3) = seal_plain(&self.claim.0.repository, plain).await?;
        let encryption =
            if self.claim.0.repository.is_encrypted() { Encryption::Age } else { Encryption::None };
        let slice = Slice {
            after: self.end,
            through,
            token: self.claim.0.lease.token(),
            blake3,
            kind: self.description.kind,
            encryption,
            bytes: bytes.len() as u64,
        };
        let key = layout::chain(self.description.store, self.id()).child(slice.name())?;
        Ok(SealedSlice { slice, key, bytes })
    }

    /// Makes a sealed slice durable; it is the chain's last then. After an error it may be durable or not: putting the same one again is
    /// safe and the way to find out.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when it does not continue the chain; [`ErrorKind::Locked`] when the claim was lost: another may have gone on
    /// from the same position, and the chain must be listed again under a new claim; the store's.
    pub async fn put(&mut self, sealed: &SealedSlice) -> Result<()> {
        let SealedSlice { slice, key, bytes } = sealed;
        if slice.after != self.end {
            return Err(Error::new(ErrorKind::Internal, format!("{key} does not continue {}", self.end)));
        }
        self.claim.check()?;
        match self.claim.0.repository.store().put_new(key, bytes.clone()).await {
            // The name holds the hash, so what is there is this slice: an earlier try whose answer was lost.
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            put => put.with_context(|| format!("write {key}"))?,
        }
        self.claim.check()?;
        self.end = slice.through;
        Ok(())
    }
}

/// The stored bytes of `plain` and their hash: frames compressed at the same time, sealed in order.
async fn seal_plain(repository: &Repository, mut plain: Bytes) -> Result<(Bytes, Blake3)> {
    let compressor = repository.compressor();
    let mut sealer = Sealer::new(repository.recipients()).map_err(seal_error)?;
    let mut stored = BytesMut::new();
    let mut pending: VecDeque<Pending> = VecDeque::new();
    loop {
        while !plain.is_empty() && pending.len() < compressor.queue_frames() {
            let frame = plain.split_to(FRAME_BYTES.min(plain.len()));
            pending.push_back(compressor.begin(Plain::Shared(frame)).await);
        }
        let Some(next) = pending.pop_front() else { break };
        let (frame, in_flight) = next.compressed().await?;
        stored.extend_from_slice(&sealer.frame(frame).map_err(seal_error)?);
        drop(in_flight);
    }
    let (last, blake3, _) = sealer.end().map_err(seal_error)?;
    stored.extend_from_slice(&last);
    Ok((stored.freeze(), blake3))
}

fn seal_error(source: std::io::Error) -> Error {
    Error::new(ErrorKind::Internal, "encryption failed").with_source(source)
}
