//! The PostgreSQL adapter: the one user of `tokio-postgres`, and of the replication protocol, in the house.
//!
//! [`PostgresProbe`] looks: what the server is, which environment it says it belongs to, what is misconfigured. It relies on the server's own
//! views (PostgreSQL 14 to 18) and on simple queries, so that it works through connection poolers, and writes nothing but the environment
//! marker. [`PostgresInspection`] answers the daily questions. [`PostgresCluster`] copies: base backups and WAL over connections of its own
//! (PostgreSQL 15 or newer; no pooler passes the replication protocol on). Neither puts a password into an error: what the operator gave is named by address alone.
//!
//! | module | what it is for |
//! |---|---|
//! | `config` | URL and overrides, resolved for driver and replication alike |
//! | `session`, `probe`, `examine` | simple queries through the driver: facts, marker, findings |
//! | `inspect`, `mask`, `lexical` | processes, locks, statements, tables, WAL, slots; statements without their values; the rules by which they are read |
//! | `migrations` | SQL migrations applied: the tracking table, the lock of a run, transactions, steps outside of one |
//! | `references` | rows that belong to other rows, and what sees to it |
//! | `rehearsal` | statements run in a shadow database, and what each locked, rewrote and read |
//! | `logical` | dumps through `pg_dump` and `pg_restore`; making, renaming, removing and wiping databases |
//! | `scratch`, `control`, `script` | throw-away servers on restored folders; what a control file says; files of queries |
//! | `wal_state` | slots and restore points, as the driver's connections see them |
//! | `replication` | the replication protocol: login, messages, commands, base backups, WAL |
//! | `tls`, `failure` | how much is asked of the server's certificate; what went wrong, by layer |
//!
//! # Privileges
//!
//! The least a role needs; by command in `docs/privileges.md`. Where a right is missing the error says which. No superuser is needed for anything here.
//!
//! | operation | rights |
//! |---|---|
//! | facts | `CONNECT` on the configured database (the size is left out without it) |
//! | examine | `pg_read_all_settings`, `pg_read_all_stats` (both are in `pg_monitor`); a note names what could not be seen |
//! | daily questions | `pg_monitor`; the width of rows, and so the estimate of bloat, of tables that the role may read (`pg_read_all_data`) |
//! | apply migrations | what their statements ask for; `CREATE` on the database where the schema of the tracking table, or `mainstay` for steps, is not there; `UPDATE` or more on the tracking table, to lock it |
//! | end a statement or a connection | `pg_signal_backend`, or the role of that session; a superuser's needs a superuser |
//! | read the environment marker | none beyond `CONNECT`; everybody may read it |
//! | write the environment marker | `CREATE` on the configured database |
//! | logical dump | `SELECT` on everything in the database (`pg_read_all_data`), or to own it; large objects: to own them or be a superuser |
//! | restore of a logical dump | `CREATEDB`; to keep owners, membership in each of their roles |
//! | wipe a database | to own it, and `CREATEDB`; `pg_signal_backend` when others are connected |
//! | rehearsal, drift | `CREATEDB` on the server of shadows; the rights of a logical dump of the schema; to own what the statements change there is in the shadow by itself |
//! | base backup, whole or incremental | `REPLICATION`, a line for `replication` and one for the database in `pg_hba.conf`; one of `max_wal_senders` |
//! | follow WAL; create, read and drop a slot | the same; one of `max_replication_slots` |
//! | look at what a slot retains | `CONNECT` on the configured database |
//! | make roles, databases, schemas, extensions; grant (under a permit) | `CREATEROLE`, `CREATEDB`, and to own what rights are granted on; `SELECT` on `pg_authid` to know whether passwords are right |
//! | create a restore point | `EXECUTE` on `pg_create_restore_point(text)`, which a superuser grants in the configured database |
//!
//! `CREATE ROLE mainstay LOGIN REPLICATION PASSWORD '…' IN ROLE pg_monitor` makes a role for all of it but the marker.

mod config;
mod control;
mod examine;
mod failure;
#[doc(hidden)]
pub mod fuzzing;
mod init;
mod inspect;
mod lexical;
mod logical;
mod mask;
mod migrations;
mod probe;
mod quote;
mod references;
mod rehearsal;
mod replication;
mod scratch;
mod script;
mod session;
mod tls;
mod wal_state;

pub use config::{PostgresConfig, TlsMode, TlsOptions};
pub use init::PostgresInit;
pub use inspect::PostgresInspection;
pub use logical::{PostgresDatabases, ProgramPlaces};
pub use migrations::PostgresMigrations;
pub use probe::PostgresProbe;
pub use references::PostgresReferences;
pub use rehearsal::PostgresRehearsal;
pub use replication::base_backup::PostgresCluster;
pub use scratch::PostgresScratch;
