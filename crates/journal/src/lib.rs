//! Numbered records in the object store: sequences, resumable journals, and leases with fencing tokens.
//!
//! Everything here rests on one primitive, [`mainstay_store::Store::put_new`]: a record's number is taken by creating its object, so that of
//! any number of processes exactly one takes it. Records are sealed ([`mainstay_model::sealed`]): a changed byte is found and named.
//! Time comes from a [`mainstay_model::Clock`] alone.
//!
//! It refuses to change a record once it is written, to read past a gap or a damaged record, and to trust a lease further than its
//! holder's clock: see [`Lease`] for what clocks that differ can do and what fencing tokens do about it.

mod journal;
mod kept;
mod lease;
mod sequence;

pub use journal::Journal;
pub use kept::KeptLease;
pub use lease::{Lease, LeaseRecord, LeaseState};
pub use sequence::{Entry, Sequence};
