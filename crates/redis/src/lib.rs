//! The Redis adapter: the one user of the `redis` crate in the product, and the only place that issues commands to a Redis.
//!
//! For now it looks: what the server is, which environment it says it belongs to, what is misconfigured ([`RedisProbe`]), and which keys it
//! holds ([`RedisKeyspace`]), how it is doing ([`RedisServer`]); it copies them all as the server's own file ([`RedisKeyFile`]), changes how the
//! server persists and evicts, follows what changes ([`RedisReplication`]), and fills a server as its primary would ([`RedisReplica`]), which may be a
//! throw-away one ([`RedisScratch`]). It relies on `SCAN`,
//! `INFO`, `CLUSTER NODES`, `CONFIG GET`, `ACL GETUSER`, `SYNC`, `PSYNC`, `REPLICAOF` and, of Sentinels, `SENTINEL` (Redis 6 to 8; the replies of older servers and of Valkey have the same form where they exist). It
//! refuses to write anything but the environment marker, changes settings, removes and brings back keys with a permit alone, never issues `KEYS` or any other command whose time grows with the data set
//! but `FLUSHALL ASYNC`, which takes back a fill, and in a server that is filled, of which nobody has anything yet, one that walks over all fields of a hash; and
//! never puts a password into an error: what the operator gave is named by address alone.

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
