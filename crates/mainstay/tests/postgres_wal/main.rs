//! WAL captured, and PostgreSQL brought back to any moment of it, as a user meets it: the real binary, real servers.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod capture;
mod check;
mod continuity;
mod damage;
mod fetch;
mod import;
mod recovery;
mod scratch;
mod stack;
