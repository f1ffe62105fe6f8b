//! The indexes of MongoDB changed by plans, through the real binary against real servers: what is counted, what is done without a gap, what
//! happens when somebody is in the way, and what a kill leaves.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../binary/mod.rs"]
mod binary;
mod builds;
mod counts;
mod duplicates;
mod kills;
mod refusals;
mod routes;
mod shop;
