//! Backup and restore of MongoDB through the real binary, against real servers: the good days and the bad ones.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod backup_restore;
mod bad_input;
mod capture;
mod damage;
mod dump_load;
mod dump_oplog;
mod point_in_time;
mod queries;
mod resume;
mod stack;
