//! Backups of a store of keys: the file that the server itself writes of all of them, judged while it comes and whenever it is read back.
//!
//! [`plan_backup`] says what would be copied, [`create`] copies it: the bytes go into the repository as they are, and beside that a walk sees
//! every key and the checksum at the end. [`inspect`] does the same to a set that is read back and compares. Relies on `mainstay-rdb` for what
//! a file holds. Refuses a file that is not whole.

mod backup;
mod contents;
mod inspect;
pub(crate) mod judge;
mod packing;

pub(crate) use backup::store;
pub use backup::{
    KeyFileBackupContext, KeyFileBackupReport, OPERATION_PLAIN, create, plan_backup, plan_plain_backup,
};
pub use contents::{KeyFileSetContents, evidence};
pub(crate) use inspect::inspect;
pub use packing::left_off;
