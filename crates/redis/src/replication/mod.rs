//! The replication link from both ends: this process as a replica of the server, and as its primary.
//!
//! A server writes its database file in a child process and sends it to whoever says `SYNC`; nothing is needed on its host. What the copy costs
//! it is the fork and the child. Where the server can (`rdb-channel`, from Redis 8.0 on), the child sends the file itself; else every byte
//! passes through the one thread that answers everybody. The replica asks for the file alone (`rdb-only`), so the server keeps no writes for
//! it, and never counts it as one that lags behind.
//!
//! [`RedisReplication`] stays and takes the stream behind the file ([`follow`]); only there the server counts this process among its replicas.
//! [`RedisReplica`] is the other end ([`primary`]): a server is filled as its primary would fill it, because only so it keeps what has expired
//! meanwhile until the stream says that it goes.
//!
//! Source: Redis documentation, "Redis replication"; the exchange as Redis 7 and 8 speak it.

mod follow;
mod link;
mod primary;
mod pull;
mod writing;

pub use follow::RedisReplication;
pub use primary::RedisReplica;
pub use pull::RedisKeyFile;
