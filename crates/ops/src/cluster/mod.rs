//! Physical backups of a whole server, and directories made from them that a server starts from.
//!
//! [`plan_backup`] says what would be copied; [`create`] streams the server's archives into a set while every file and page is checked against
//! the server's manifest. [`inspect`] does the same to a set that is read back. [`plan_restore`] decides where a set would be unpacked and
//! [`restore`] does it: it reads the whole set back first, writes into empty places alone, and puts the file without which no server
//! starts into its place last. With captured WAL a set is brought forward: [`find_recovery`] decides where a recovery stops, and a restored
//! folder is told of it. [`rehearse`] proves a restored folder by a throw-away server. Relies on `mainstay-basebackup` for what an archive holds. Refuses to unpack over anything.
//!
//! A set may hold what has changed since an earlier one alone: `chain` says on what it may build, and what it needs; `combine` which set of a chain
//! gives what of which file.

mod backup;
mod chain;
mod combine;
mod contents;
mod damage;
mod inspect;
mod judging;
mod point;
mod read_back;
mod recovery;
mod restore;
mod scratch;
mod unpack;

pub use crate::wal::seek::RecoveryTarget;
pub use backup::{ClusterBackupContext, ClusterBackupReport, create, plan_backup};
pub use chain::{EarlierChoice, find_earlier};
pub(crate) use chain::{is_restorable, needed_sets};
pub use contents::{ArchiveRecord, ClusterSetContents, EarlierSet};
pub use damage::DamagedFile;
pub(crate) use inspect::inspect_chain;
pub use point::{RecoveryRequest, find_recovery};
pub use recovery::{FetchCommand, Recovery, RecoveryAction};
pub use restore::{
    ClusterRestoreContext, ClusterRestoreReport, ClusterRestoreRequest, RestorePlace, plan_restore, restore,
};
pub use scratch::{Asked, Questions, ScratchContext, ScratchReport, TableRows, check_scratch, rehearse};

use mainstay_basebackup::{Algorithm, BuildsOn, JudgeOptions, Manifest, SeenArchive, builds_on};
use mainstay_engine::FileChecksum;
use mainstay_model::Lsn;

/// How the archives of a backup are judged.
fn judge_options(
    checksum: FileChecksum,
    page_checksums: bool,
    begin: Lsn,
    incremental: bool,
) -> JudgeOptions {
    let algorithm = match checksum {
        FileChecksum::Crc32c => Algorithm::Crc32c,
        FileChecksum::Sha256 => Algorithm::Sha256,
    };
    JudgeOptions { algorithm, pages_since: page_checksums.then_some(begin.0), incremental }
}

/// What a backup builds on, and so its label must say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Foundation {
    /// Nothing: it is whole.
    Whole,
    /// Another backup, of which no more is known.
    Unknown,
    /// The backup that began there.
    At(BuildsOn),
}

impl Foundation {
    /// That of a set with `contents`, whose predecessor has the contents `earlier`, if that is known.
    fn of(contents: &ClusterSetContents, earlier: Option<&ClusterSetContents>) -> Self {
        match earlier {
            _ if !contents.is_incremental() => Self::Whole,
            None => Self::Unknown,
            Some(earlier) => Self::At(BuildsOn { begin: earlier.begin.0, timeline: earlier.timeline }),
        }
    }

    /// What is wrong with a label.
    fn fault(self, label: &[u8]) -> Option<String> {
        match (self, builds_on(label)) {
            (Self::Whole, None) | (Self::Unknown, Some(_)) => None,
            (Self::At(wanted), Some(found)) if wanted == found => None,
            (Self::Whole, Some(_)) => {
                Some("backup_label tells of an earlier backup that nobody asked for".to_owned())
            }
            (Self::Unknown | Self::At(_), None) => Some("backup_label tells of no earlier backup".to_owned()),
            (Self::At(wanted), Some(found)) => Some(format!(
                "backup_label tells of an earlier backup from {} on timeline {}, not from {} on timeline {}",
                Lsn(found.begin),
                found.timeline,
                Lsn(wanted.begin),
                wanted.timeline
            )),
        }
    }
}

/// What is expected of an archive.
struct Expected<'a> {
    manifest: &'a Manifest,
    /// The tablespace that it is of; `None` for the data directory.
    place: Option<u32>,
    /// All tablespaces of the backup.
    places: &'a [u32],
    wal_segment_bytes: u64,
    foundation: Foundation,
}

impl Expected<'_> {
    /// What is wrong with an archive, one line each, damaged pages aside.
    fn faults(&self, seen: &SeenArchive) -> Vec<String> {
        if let Some(fault) = &seen.fault {
            return vec![fault.to_string()];
        }
        let mut faults = self.manifest.differences(self.place, self.places, &seen.files);
        faults.extend(seen.malformed.iter().cloned());
        if self.place.is_none() {
            faults.extend(seen.label.as_ref().and_then(|label| self.foundation.fault(label)));
            faults.extend(self.manifest.missing_wal(self.wal_segment_bytes, &seen.files));
            let missing = self.places.iter().filter(|oid| !seen.links.contains(oid));
            faults.extend(missing.map(|oid| format!("the link of tablespace {oid} is missing")));
        }
        faults
    }
}

/// How many faults are told in an error.
const FAULT_COUNT_MAX: usize = 5;

/// The first few lines as one, and how many more there are.
fn first_of(lines: &[impl ToString]) -> String {
    let mut text = lines.iter().take(FAULT_COUNT_MAX).map(ToString::to_string).collect::<Vec<_>>().join("; ");
    if lines.len() > FAULT_COUNT_MAX {
        text.push_str(&format!("; and {} more", lines.len() - FAULT_COUNT_MAX));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_must_tell_what_its_backup_builds_on() {
        let (whole, incremental) =
            (&b"START TIMELINE: 1\n"[..], &b"INCREMENTAL FROM LSN: 0/28\nINCREMENTAL FROM TLI: 1\n"[..]);
        let at = |begin| Foundation::At(BuildsOn { begin, timeline: 1 });
        for (foundation, label, is_right) in [
            (Foundation::Whole, whole, true),
            (Foundation::Whole, incremental, false),
            (Foundation::Unknown, whole, false),
            (Foundation::Unknown, incremental, true),
            (at(0x28), whole, false),
            (at(0x28), incremental, true),
            (at(0x29), incremental, false),
        ] {
            let fault = foundation.fault(label);
            assert_eq!(fault.is_none(), is_right, "{foundation:?}: {fault:?}");
        }
    }
}
