//! The PostgreSQL adapter: the one user of `tokio-postgres` in the house.
//!
//! For now it looks: what the server is, which environment it says it belongs to, and what is misconfigured ([`PostgresProbe`]). It relies on
//! the server's own views (PostgreSQL 14 to 18) and on simple queries, so that it works through connection poolers. It refuses to write
//! anything but the environment marker, and it never puts a password into an error: what the operator gave is named by address alone.

mod config;
mod examine;
mod failure;
mod probe;
mod session;
mod tls;

pub use config::{PostgresConfig, TlsMode, TlsOptions};
pub use probe::PostgresProbe;
