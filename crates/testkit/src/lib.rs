//! What the tests of this workspace stand on: real servers, a network that can be broken, an object store that can be.
//!
//! [`engines`] finds or installs MongoDB, PostgreSQL and Redis; [`servers`] starts them on free loopback ports in
//! temporary folders and ends them whatever happens to the test; [`history`] writes at random to one of them and knows
//! every state that it went through; [`keys`] does the same to Redis; [`hazards`] are folders of SQL migrations with
//! something wrong about them; [`Seen`] is what a program has shown, [`Psql`] a session of
//! PostgreSQL's own client; [`proxy`] is a TCP proxy with faults; [`s3`] is an S3 server over a folder.
//!
//! Development only: nothing here is part of the product, so a failure may panic when its message says what to type.
//! The crate relies on no other crate of the house. It refuses to imitate a store: what is tested is tested against
//! the real server or not at all.

pub mod engines;
pub mod hazards;
pub mod history;
pub mod keys;
pub mod proxy;
mod psql;
pub mod s3;
mod seen;
pub mod servers;

pub use hazards::Hazard;
pub use proxy::FaultProxy;
pub use psql::Psql;
pub use s3::S3Server;
pub use seen::{CANARY, Seen, wait_for};
pub use servers::{
    Mongod, Postgres, Redis, ReplicaSet, Sentinel, StartError, shared_mongod, shared_postgres, shared_redis,
    unique_database,
};
