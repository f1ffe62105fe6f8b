//! The change log: what a server recorded between and after backups, in slices that prove by their names that nothing is missing.
//!
//! A *chain* is a run of slices of which each begins where the one before ends. Its description, `chain.json`, is written first and says
//! after which position it begins and why. When continuity with what was stored cannot be proven, a new chain is begun: a gap is the
//! space between chains, and there is none inside. One slice is one object,
//! `<store>/log/<chain>/<after>-<through>-<token>-<blake3>.<kind>.zst[.age]`: it holds what the server recorded after the first position up
//! to and including the second, as the server keeps it. So one listing tells coverage, continuity and the hash of every slice.
//!
//! # Writing
//! Slice n+1 is put only after slice n is durable, by one create-only put each ([`ChainWriter::put`]). Whatever is killed when, what is
//! there is a beginning of the log without a hole. Who writes holds the server's claim ([`LogClaim`]), a fenced lease.
//!
//! # Two writers
//! A writer that stood still for longer than its lease may put one more slice after another has gone on from the same position. Both
//! slices are copies of the same log, because only what the server will never take back is stored, so either may be believed; what must
//! not happen is that entries are read twice or skipped. Reading therefore follows from the chain's beginning the slices that reach
//! furthest, by the listing alone ([`order`]), and sets aside what lies within them. The token in the name, that of its writer's
//! lease, tells such a slice from damage: one writer never covers a position twice.
//!
//! # PostgreSQL
//! A slice of WAL is any range of its bytes; the server's segments are put together from slices again. A chain is of one timeline, says in
//! its description how that came about, and begins where a segment begins, so that it has all bytes of every segment of its timeline. Times
//! stand in the records of commits, and nowhere else.
//!
//! # Redis
//! A slice of the replication stream is any range of its bytes, followed by when they came ([`arrival`]): the stream itself tells no time. A
//! chain is of one history of the data, by the name that the server gives it. One that another server goes on with is a chain of its own,
//! which begins where the one before ends.

mod arrival;
mod chain;
mod order;
mod verify;
mod writer;

pub use arrival::{Arrival, ArrivalFault, with_arrivals, without_arrivals};
pub use chain::{
    Chain, ChainDescription, ChainEntry, ChainReason, LogKind, ReplicationChain, Slice, WalChain,
};
pub use order::{ChainDamage, Run};
pub use verify::LogReport;
pub use writer::{ChainBeginning, ChainWriter, LogClaim, SealedSlice};

/// The most plain bytes of a slice. Writers cut far below it; it bounds what reading one takes.
pub const SLICE_BYTES_MAX: usize = 64 * 1024 * 1024;
