//! The MongoDB adapter: raw scans and loads over OP_MSG, administration through the driver.
//!
//! [`MongoServer`] implements the engine's traits: [`Probe`](mainstay_engine::Probe), [`DocumentSource`](mainstay_engine::DocumentSource)
//! and [`DocumentSink`](mainstay_engine::DocumentSink). Documents cross as the server sent them; nothing here decodes one on the way.
//!
//! | module | what it is for |
//! |---|---|
//! | `config` | connection string and overrides, resolved for driver and wire alike |
//! | `server` | the deployment: driver client, our own connections, which error tells what |
//! | `wire` | OP_MSG over TCP or TLS, SCRAM |
//! | `scan`, `page` | one moment, ranges, cursors that continue after a cut |
//! | `load` | inserts of raw documents, duplicates compared, durability at the end |
//! | `catalog`, `metadata`, `extjson` | what there is, and its `.metadata.json` |
//! | `create` | collections and indexes made again, replaced, dropped |
//! | `probe`, `topology` | facts, the environment marker, findings |
//! | `error` | the one table of server error codes |
//! | `raw` | BSON as bytes |
//!
//! # Privileges
//!
//! The least a user needs; built-in roles of MongoDB 6.0. Where a right is missing the error says which.
//!
//! | operation | actions | built-in role that has them |
//! |---|---|---|
//! | list databases and collections | `listDatabases`, `listCollections`, `listIndexes`; `collStats` for sizes | `read` on the database |
//! | scan collections | `find` | `read` on the database |
//! | scan time series | `find` on `system.buckets.*` | `backup` on `admin` |
//! | create, index, load | `createCollection`, `createIndex`, `insert`, `update`, `find` | `readWrite` on the database |
//! | load past validators | `bypassDocumentValidation` (done without when missing) | `dbAdmin`, `restore` |
//! | load time series | the same on `system.buckets.*` | `restore` on `admin` |
//! | drop; replace | `dropCollection`; `renameCollectionSameDB` or `insert` and `remove` | `readWrite` on the database |
//! | facts | `serverStatus`, `dbStats`, `replSetGetConfig` (left out when missing) | `clusterMonitor` on `admin` |
//! | examine | `getCmdLineOpts`, `getParameter`, `enableProfiler`, `find` on `local.oplog.rs` (notes when missing) | `clusterMonitor` on `admin` |
//! | environment marker | `find`, and to write it `insert`, `update` on `mainstay.identity` | `readWrite` on `mainstay` |

mod catalog;
mod config;
mod create;
mod error;
mod extjson;
mod load;
mod metadata;
mod page;
mod probe;
mod raw;
mod scan;
mod server;
mod topology;
mod wire;

pub use config::{MongoConfig, RetryPolicy, TlsOptions};
pub use server::MongoServer;
