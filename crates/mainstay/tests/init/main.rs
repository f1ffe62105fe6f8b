//! `init` as a user meets it: the real binary against real servers of every age, killed at every step, repeated, looked at by other clients.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../binary/mod.rs"]
mod binary;
mod marketplace;
mod mongo;
mod postgres;
mod redis;
mod scripts;
mod support;
