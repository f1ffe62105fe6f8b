//! Physical backups of a whole server, and directories made from them that a server starts from.
//!
//! [`plan_backup`] says what would be copied; [`create`] streams the server's archives into a set while every file and page is checked against
//! the server's manifest. [`inspect`] does the same to a set that is read back. [`plan_restore`] decides where a set would be unpacked and
//! [`restore`] does it: it reads the whole set back first, writes into empty places alone, and puts the file without which no server
//! starts into its place last. With captured WAL a set is brought forward: [`find_recovery`] decides where a recovery stops, and a restored
//! folder is told of it. Relies on `mainstay-basebackup` for what an archive holds. Refuses to unpack over anything.

mod backup;
mod contents;
mod inspect;
mod place;
mod point;
mod recovery;
mod restore;
mod unpack;

pub use crate::wal::seek::RecoveryTarget;
pub use backup::{ClusterBackupContext, ClusterBackupReport, create, plan_backup};
pub use contents::{ArchiveRecord, ClusterSetContents};
pub(crate) use inspect::inspect;
pub use point::{RecoveryRequest, find_recovery};
pub use recovery::{FetchCommand, Recovery, RecoveryAction};
pub use restore::{
    ClusterRestoreContext, ClusterRestoreReport, ClusterRestoreRequest, RestorePlace, plan_restore, restore,
};

use mainstay_basebackup::{Algorithm, JudgeOptions, Manifest, SeenArchive};
use mainstay_engine::FileChecksum;
use mainstay_model::Lsn;

/// How the archives of a backup are judged.
fn judge_options(checksum: FileChecksum, page_checksums: bool, begin: Lsn) -> JudgeOptions {
    let algorithm = match checksum {
        FileChecksum::Crc32c => Algorithm::Crc32c,
        FileChecksum::Sha256 => Algorithm::Sha256,
    };
    JudgeOptions { algorithm, pages_since: page_checksums.then_some(begin.0) }
}

/// What is expected of an archive.
struct Expected<'a> {
    manifest: &'a Manifest,
    /// The tablespace that it is of; `None` for the data directory.
    place: Option<u32>,
    /// All tablespaces of the backup.
    places: &'a [u32],
    wal_segment_bytes: u64,
}

impl Expected<'_> {
    /// What is wrong with an archive, one line each, damaged pages aside.
    fn faults(&self, seen: &SeenArchive) -> Vec<String> {
        if let Some(fault) = &seen.fault {
            return vec![fault.to_string()];
        }
        let mut faults = self.manifest.differences(self.place, self.places, &seen.files);
        if self.place.is_none() {
            faults.extend(self.manifest.missing_wal(self.wal_segment_bytes, &seen.files));
            let missing = self.places.iter().filter(|oid| !seen.links.contains(oid));
            faults.extend(missing.map(|oid| format!("the link of tablespace {oid} is missing")));
        }
        faults
    }
}
