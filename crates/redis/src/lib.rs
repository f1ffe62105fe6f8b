//! The Redis adapter: the one user of the `redis` crate in the product, and the only place that issues commands to a Redis.
//!
//! It looks: what the server is, which environment it says it belongs to, what is misconfigured ([`RedisProbe`]), which keys it holds
//! ([`RedisKeyspace`]), how it is doing ([`RedisServer`]). It copies all keys as the server's own file ([`RedisKeyFile`]), follows what changes
//! ([`RedisReplication`]), fills a server as its primary would ([`RedisReplica`]), which may be a throw-away one ([`RedisScratch`]), carries keys
//! between servers ([`RedisCarrier`]), and makes users ([`RedisInit`]).
//!
//! It relies on `SCAN`, `INFO`, `CLUSTER NODES`, `CONFIG GET`, `PUBSUB NUMSUB`, `ACL GETUSER`, `SYNC`, `PSYNC`, `REPLICAOF`, `BGSAVE` and, of
//! Sentinels, `SENTINEL` (Redis 6 to 8; the replies of older servers and of Valkey have the same form where they exist). Whatever changes a
//! server takes a permit. It never issues `KEYS` or any other command whose time grows with the data set but `FLUSHALL ASYNC`, which takes back
//! a fill, and in a server that is filled, of which nobody has anything yet, one that walks over all fields of a hash. It never puts a password
//! into an error: what the operator gave is named by address alone.

mod acl;
mod carry;
mod cluster;
mod config;
mod examine;
mod failure;
mod info;
mod init;
mod keyspace;
mod probe;
mod replication;
mod scratch;
mod sentinel;
mod server;
mod session;

pub use acl::{AclRole, AclUser};
pub use carry::RedisCarrier;
pub use config::{RedisConfig, TlsMode, TlsOptions};
pub use init::RedisInit;
pub use keyspace::RedisKeyspace;
pub use probe::RedisProbe;
pub use replication::{RedisKeyFile, RedisReplica, RedisReplication};
pub use scratch::RedisScratch;
pub use server::RedisServer;
