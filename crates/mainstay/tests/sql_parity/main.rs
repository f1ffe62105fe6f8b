//! SQL migrations as a user meets them who comes from `drizzle-kit migrate`: stock Drizzle and the real binary on the same folders, a real server
//! as judge.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../binary/mod.rs"]
mod binary;
mod hazards;
mod marketplace;
mod races;
mod support;
