//! The server as a primary: this process asks for its data as a replica would.
//!
//! A server writes its database file in a child process and sends it to whoever says `SYNC`; nothing is needed on its host. What the copy costs
//! it is the fork and the child. Where the server can (`rdb-channel`, from Redis 8.0 on), the child sends the file itself; else every byte
//! passes through the one thread that answers everybody. The replica asks for the file alone (`rdb-only`), so the server keeps no writes for
//! it, and never counts it as one that lags behind.
//!
//! Source: Redis documentation, "Redis replication"; the exchange as Redis 7 and 8 speak it.

mod link;
mod pull;

pub use pull::RedisKeyFile;
