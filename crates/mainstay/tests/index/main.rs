//! Declared indexes as a user meets them: the real binary, a real server, and both current major versions of Mongoose as they come.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod defects;
mod looking;
mod marketplace;
mod project;
