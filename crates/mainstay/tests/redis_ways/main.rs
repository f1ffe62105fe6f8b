//! Redis in the ways in which it is met: behind TLS, told by Sentinels, asked to send its keys plain, read from its own folder; captured into a
//! store that fails; restored; and its kin, Valkey. Each test has a server of its own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod append_only;
#[path = "../binary/mod.rs"]
mod binary;
mod outage;
mod restored;
mod sentinel;
mod support;
mod tls;
mod transfer;
mod valkey;
