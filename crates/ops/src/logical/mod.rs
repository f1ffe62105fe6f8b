//! Logical dumps of a relational database as backup sets, and databases filled from them.
//!
//! A set holds one dump of one database as the server's own program writes it, whole and readable by that program without Mainstay. [`create`] streams
//! it into the repository and reads its table of contents on the way; a dump that its program did not end well never becomes a set.
//! [`plan_restore`] decides which entries would fill which new database; [`restore`] reads the set back to its end first, fills a database under a name
//! of its own, and gives it the wanted name when everything is in it. Refuses to fill or replace what exists. [`export`] hands the dump out
//! as it is.

mod backup;
mod contents;
mod export;
mod inspect;
mod restore;

pub use backup::{LogicalBackupContext, LogicalBackupReport, create, plan_backup};
pub use contents::{DumpRecord, DumpTable, LogicalSetContents};
pub use export::export;
pub(crate) use inspect::inspect;
pub use restore::{
    LogicalRestoreContext, LogicalRestoreReport, LogicalRestoreRequest, is_restore, plan_restore, restore,
};
