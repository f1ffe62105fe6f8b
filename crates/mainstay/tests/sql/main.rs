//! SQL migrations as a user meets them: the real binary, a real PostgreSQL, folders in both of Drizzle's formats.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod applying;
#[path = "../binary/mod.rs"]
mod binary;
mod contention;
mod refused;
mod rows;
mod steps;
mod support;
