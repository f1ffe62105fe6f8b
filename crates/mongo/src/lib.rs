//! The MongoDB adapter: raw scans and loads over OP_MSG, administration through the driver.
//!
//! [`MongoServer`] implements the engine's traits: [`Probe`](mainstay_engine::Probe), [`DocumentSource`](mainstay_engine::DocumentSource),
//! [`DocumentSink`](mainstay_engine::DocumentSink), [`ChangeSource`](mainstay_engine::ChangeSource), [`ChangeReplay`](mainstay_engine::ChangeReplay) [`AccountStore`](mainstay_engine::AccountStore), [`IndexCatalog`](mainstay_engine::IndexCatalog), [`IndexControl`](mainstay_engine::IndexControl) and [`BackfillStore`](mainstay_engine::BackfillStore). Documents cross as the server sent them; nothing here decodes one on the way.
//!
//! | module | what it is for |
//! |---|---|
//! | `config` | connection string and overrides, resolved for driver and wire alike |
//! | `server` | the deployment: driver client, our own connections, which error tells what |
//! | `wire` | OP_MSG over TCP or TLS, SCRAM |
//! | `scan`, `page` | one moment, ranges, cursors that continue after a cut |
//! | `oplog` | the change log: followed, surveyed, replayed |
//! | `pressure` | how the server fares while it is read |
//! | `load` | inserts of raw documents, duplicates compared, replaced timestamps corrected, durability at the end |
//! | `catalog`, `metadata`, `extjson` | what there is, and its `.metadata.json` |
//! | `accounts` | users and roles, read and merged |
//! | `create` | collections and indexes made again, replaced, dropped |
//! | `indexes` | indexes listed, watched while they are built, changed; who uses them; expiries |
//! | `backfill` | documents changed where they stand, by ranges of `_id`, and brought back; the ledger of it |
//! | `inspect` | counts, sizes, the profiler, slow and current operations, locks |
//! | `probe`, `topology` | facts, the environment marker, findings |
//! | `error` | the one table of server error codes |
//! | `raw`, `replacement` | BSON as bytes |
//! | `reply` | numbers and UUIDs in replies |
//!
//! # Privileges
//!
//! The least a user needs; roles are those of MongoDB 6.0, on `admin` unless said. Where a right is missing
//! the error names the command.
//!
//! | operation | actions | built-in role that has them |
//! |---|---|---|
//! | list databases and collections | `listDatabases`, `listCollections`, `listIndexes`; `collStats` for sizes (`find` for counts when missing) | `read` on the database, `backup` |
//! | scan collections | `find` | `read` on the database, `backup` |
//! | scan time series | `find` on `system.buckets.*` | `backup` |
//! | follow the change log | `find` on `local.oplog.rs`; `collStats` for its size (told as 0 when missing) | `read` on `local`, `clusterMonitor` |
//! | create, load, build indexes | `listCollections`, `createCollection`, `insert`, `createIndex` | `readWrite` on the database, `restore` |
//! | load where documents may be there already, or a connection broke | `find` besides | `readWrite` on the database |
//! | load past validators | `bypassDocumentValidation` (done without when missing) | `restore` |
//! | load time series | the same on `system.buckets.*` | `restore` |
//! | load empty timestamps into servers that lack `bypassEmptyTsReplacement` | `update` | `readWrite` on the database |
//! | replay a change log | `find`, `insert`, `update`, `remove`, and `bypassDocumentValidation` (done without when missing); for time series on `system.buckets.*` | `readWrite` on the database, `restore` |
//! | drop (under a permit for this server's fingerprint, told with the facts' rights) | `dropCollection` | `readWrite` on the database, `restore` |
//! | rename, replace | `renameCollectionSameDB` | `readWrite` on the database |
//! | read users and roles | `find` on `admin.system.users`, `system.roles`, `system.version` | `backup` |
//! | merge users and roles (under a permit) | `_mergeAuthzCollections`; `update` on `admin.system.users`; `updateRole`, `rolesInfo`; create, insert and drop of `admin.tempusers`, `admin.temproles`; what reads users | `restore` |
//! | facts | `serverStatus`, `dbStats`, `replSetGetConfig` (left out when missing) | `clusterMonitor` and `read` on the database |
//! | examine | `getCmdLineOpts`, `getParameter`, `enableProfiler`, `find` on `local.oplog.rs` (notes when missing) | `clusterMonitor`, and `dbAdmin` on the database |
//! | count | `find` | `read` on the database |
//! | statistics | `collStats` | `clusterMonitor`, `read` on the database (time series: `clusterMonitor`) |
//! | profiler shown | `find` on `system.profile` | `clusterMonitor`, `dbAdmin` on the database |
//! | profiler set and reset | `enableProfiler` | `dbAdmin` on the database |
//! | slow operations | `find` on `system.profile`; `getLog` where the profiler recorded nothing | `clusterMonitor` |
//! | indexes listed | `listCollections`, `listIndexes` | `read` on the database |
//! | use of indexes | `indexStats` on every member | `clusterMonitor` |
//! | builds under way | `inprog` | `clusterMonitor` |
//! | expiries | `find`; `serverStatus` for the monitor, `getParameter` (its settings left out when missing) | `read` on the database, `clusterMonitor` |
//! | indexes changed (under a permit) | `createIndex`, `collMod`, `dropIndex` | `dbAdmin` on the database |
//! | preview a backfill | `find`; `update` inside a transaction that is given up | `readWrite` on the database |
//! | run, undo and pause a backfill (under a permit) | `find`, `update`; `find`, `insert`, `update`, `remove`, `createCollection`, `createIndex` on `mainstay`; `replSetGetStatus` to wait for replicas (done without when missing) | `readWrite` on the database and on `mainstay`, `clusterMonitor` |
//! | current operations | `inprog` | `clusterMonitor` |
//! | kill an operation | `killop` | `hostManager` |
//! | locks, tickets, cache | `serverStatus`; `lockInfo`'s for who blocks (done without when missing), `inprog` | `clusterMonitor` |
//! | initiate, make users, roles and collections | `replSetInitiate`; `viewUser`, `find` on `admin.system.roles`, `createUser`, `createRole`, `grantRole`; `createCollection`, `collMod`, `createIndex` | `root`; `userAdminAnyDatabase`, `dbAdminAnyDatabase` and `clusterAdmin` |
//! | environment marker | `find` and, to write it, `insert` and `update` on `mainstay.identity` | `readWrite` on `mainstay` |

mod accounts;
mod backfill;
mod catalog;
mod config;
mod create;
mod error;
mod extjson;
#[doc(hidden)]
pub mod fuzzing;
mod indexes;
mod init;
mod inspect;
mod load;
mod metadata;
mod oplog;
mod page;
mod pressure;
mod probe;
mod raw;
mod replacement;
mod reply;
mod scan;
mod seeds;
mod server;
mod topology;
mod wire;

pub use config::{MongoConfig, RetryPolicy, TlsOptions};
pub use init::MongoInit;
pub use oplog::OplogLens;
pub use server::MongoServer;
