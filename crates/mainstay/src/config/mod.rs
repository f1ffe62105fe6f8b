//! Configuration in two stages: what was said and where ([`source`], [`file`]), then what holds ([`resolved`]).
//!
//! Nothing here connects anywhere, and nothing here prints. The process environment and the working directory come in as values
//! ([`Outside`]), so that every rule can be tested in a table.

pub(crate) mod check;
pub(crate) mod connection;
pub(crate) mod drizzle;
pub(crate) mod file;
pub(crate) mod init;
pub(crate) mod key;
pub(crate) mod manifest;
pub(crate) mod resolved;
pub(crate) mod source;
pub(crate) mod template;
#[cfg(test)]
mod tests;

pub(crate) use resolved::{Configuration, MongoSettings, PostgresSettings, RedisSettings};
pub(crate) use source::Outside;
