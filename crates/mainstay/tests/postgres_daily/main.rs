//! The daily work with PostgreSQL as a user meets it: the real binary, real servers, the server's own programs as judges.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../binary/mod.rs"]
mod binary;
mod choice;
mod interrupted;
mod logical;
mod queries;
mod reset;
mod rights;
mod support;
