//! Backfills as a user meets them: the real binary against real servers; what is changed once whatever kills it, what comes back, what is refused.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../binary/mod.rs"]
mod binary;
mod kills;
mod mongo;
mod postgres;
mod project;
mod refusals;
