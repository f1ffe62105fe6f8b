//! Real servers on free loopback ports, in temporary folders, ended whatever happens.
//!
//! A server ends when its value is dropped, also while a test panics. When the test binary itself is killed, or ends with
//! the server in a static, a small watchdog beside the server notices the closed pipe, kills the server by its process
//! id and removes its folder.
//!
//! Starting blocks until the server answers in its own protocol; there is no waiting by time. Output goes to a log
//! file, whose end is part of [`StartError`]. Starting is a matter of 0.1 to 2 seconds, so tests that need no server of
//! their own use [`shared_mongod`] and its like with a database each ([`unique_database`]).
//!
//! Relies on [`crate::engines`] having found the programs. Refuses to listen anywhere but on 127.0.0.1.

mod certificate;
mod mongod;
mod port;
mod postgres;
mod process;
mod redis;
mod replica_set;
mod sentinel;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

pub use certificate::Certificates;
pub use mongod::{Mongod, MongodOptions, db_hash};
pub use port::free_port;
pub use postgres::{Postgres, PostgresOptions};
pub use process::{ServerStatus, StartError};
pub use redis::{Redis, RedisOptions};
pub use replica_set::ReplicaSet;
pub use sentinel::Sentinel;

/// The mongod of this test binary: a one-node replica set without authentication.
///
/// # Panics
/// When it does not start; the message holds the end of its log or the command that installs it.
pub fn shared_mongod() -> &'static Mongod {
    static SHARED: OnceLock<Mongod> = OnceLock::new();
    SHARED.get_or_init(|| Mongod::start().expect("the shared mongod starts"))
}

/// The PostgreSQL of this test binary: superuser `postgres`, no password asked.
///
/// # Panics
/// As [`shared_mongod`].
pub fn shared_postgres() -> &'static Postgres {
    static SHARED: OnceLock<Postgres> = OnceLock::new();
    SHARED.get_or_init(|| Postgres::start().expect("the shared PostgreSQL starts"))
}

/// The Redis of this test binary: no password, nothing persisted.
///
/// # Panics
/// As [`shared_mongod`].
pub fn shared_redis() -> &'static Redis {
    static SHARED: OnceLock<Redis> = OnceLock::new();
    SHARED.get_or_init(|| Redis::start().expect("the shared Redis starts"))
}

/// A database name that no other test of any process uses: `test_<process>_<number>`.
pub fn unique_database() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A user name or password as it stands in a connection string.
fn percent_encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
