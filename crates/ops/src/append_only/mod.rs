//! Backups of a store of keys by its append-only file, for whoever can read the server's folder: the base and the commands since, as the server has
//! them on its disk.
//!
//! Nothing is asked of the server but whether it keeps such a file: no fork, no traffic. [`plan_backup`] and [`create`] hold the files of one moment
//! by hard links (`links`), because a server removes what a rewrite has replaced; what is stored is judged on the way (`judge`) and whenever it is read
//! back ([`inspect`]): every key of the base, every command behind it. [`plan_restore`] and [`restore`] make a folder that a server starts from, whose
//! last file is the manifest. Refuses a server whose file is a single one (Redis 6), and what is damaged anywhere but at the very end, where a
//! server may have been writing.

mod backup;
mod contents;
mod inspect;
mod judge;
mod links;
mod restore;

pub use backup::{
    AppendOnlyBackupContext, AppendOnlyBackupReport, PARAMETER, create, is_backup, plan_backup,
};
pub use contents::{AppendOnlyFile, AppendOnlyRecord, AppendOnlySetContents, FileForm};
pub(crate) use inspect::inspect;
pub use restore::{AppendOnlyRestoreContext, AppendOnlyRestoreReport, is_restore, plan_restore, restore};
