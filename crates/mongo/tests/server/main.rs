//! The adapter against real servers. What it does is judged by the official driver and by the server's own `dbHash`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access;
mod accounts;
mod definitions;
mod indexes;
mod load;
mod members;
mod replay;
mod scan;
mod support;
mod tail;
