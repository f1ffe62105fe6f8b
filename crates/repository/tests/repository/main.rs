//! Whole-repository tests on real stores: in memory, in a directory, and with deliberate failures in between.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod damage;
mod encryption;
mod interruption;
mod log;
mod reopen;
mod round_trip;
mod sets;
mod support;
