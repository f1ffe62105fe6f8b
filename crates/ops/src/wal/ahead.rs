//! Segments that were fetched before a recovering server asked for them.
//!
//! They lie in a private folder beside the place that the server names, so that handing one over is a renaming and asks the repository
//! nothing. A file there is whole and durable from the moment it has its name; names say of which repository and server's log it is, and the
//! segment's own name says the timeline, so that whoever asks for another finds nothing. Everything here may be lost, half written or stale:
//! what cannot be used is fetched again, and what is no longer of use is removed by the next fetch. A folder of that name that others may
//! write, or that is somebody else's, is left alone: nothing is taken from it, and nothing put there.

use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use mainstay_basebackup::WalFile;
use mainstay_model::Blake3;
use rustix::process::geteuid;

/// The folder's name.
const FOLDER: &str = ".mainstay-ahead";
/// What others than its owner may do with it: nothing.
const OTHERS: u32 = 0o077;
/// How long segments may be, in bytes.
const SEGMENT_BYTES: RangeInclusive<u64> = 1 << 20..=1 << 30;

/// Where the segments of one log wait.
#[derive(Debug, Clone)]
pub(super) struct Ahead {
    folder: PathBuf,
    /// What the names of its files begin with.
    log: String,
}

impl Ahead {
    /// The segments that wait beside `path`, of the log that `repository` has of `server`.
    pub(super) fn beside(path: &Path, repository: &str, server: Option<&str>) -> Self {
        let log = Blake3::of(format!("{repository}\n{}", server.unwrap_or_default()).as_bytes());
        Self { folder: path.with_file_name(FOLDER), log: log.short() }
    }

    /// The folder, when it is there and nobody else can have put anything into it.
    fn own(&self) -> Option<&Path> {
        let found = fs::symlink_metadata(&self.folder).ok()?;
        let is_own = found.is_dir() && found.mode() & OTHERS == 0 && found.uid() == geteuid().as_raw();
        is_own.then_some(self.folder.as_path())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{}.{name}", self.log))
    }

    /// Moves the segment called `name` to `path`, and gives its length; `None` when it does not wait here.
    pub(super) fn take(&self, name: &str, path: &Path) -> Option<u64> {
        self.own()?;
        let Some(WalFile::Segment(_)) = WalFile::parse(name) else { return None };
        let file = self.file(name);
        let length = fs::symlink_metadata(&file).ok().filter(fs::Metadata::is_file)?.len();
        let is_whole = length.is_power_of_two() && SEGMENT_BYTES.contains(&length);
        (is_whole && fs::rename(file, path).is_ok()).then_some(length)
    }

    /// Whether the segment called `name` waits here.
    pub(super) fn has(&self, name: &str) -> bool {
        self.own().is_some() && self.file(name).is_file()
    }

    /// Where the segment called `name` will wait, in a folder that exists.
    ///
    /// # Errors
    /// When the folder cannot be made, or is not this user's alone.
    pub(super) fn place(&self, name: &str) -> io::Result<PathBuf> {
        match fs::DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let own = self.own().map(|_| self.file(name));
        own.ok_or_else(|| io::Error::new(io::ErrorKind::PermissionDenied, "others may write the folder"))
    }

    /// Removes all but the segments called `names`; the folder, too, when nothing is left in it.
    pub(super) fn keep_only(&self, names: &[String]) {
        let kept: Vec<PathBuf> = names.iter().map(|name| self.file(name)).collect();
        let Some(entries) = self.own().and_then(|own| fs::read_dir(own).ok()) else { return };
        for path in entries.flatten().map(|entry| entry.path()).filter(|path| !kept.contains(path)) {
            // Another fetch may have been quicker.
            drop(fs::remove_file(path));
        }
        if kept.is_empty() {
            drop(fs::remove_dir(&self.folder));
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const ONE: &str = "000000010000000000000001";
    const TWO: &str = "000000010000000000000002";
    const THREE: &str = "000000010000000000000003";
    /// How long they are.
    const LENGTH: u64 = 1 << 20;

    fn segment(of: &str) -> Vec<u8> {
        let last = of.as_bytes().last().copied().unwrap();
        vec![last; 1 << 20]
    }

    /// A folder of this test's own.
    fn folder(test: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("mainstay-ahead-{test}-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        folder
    }

    #[test]
    fn a_segment_waits_for_its_own_log_alone() {
        let folder = folder("log");
        let wanted = folder.join("RECOVERYXLOG");
        let ahead = Ahead::beside(&wanted, "file:/r", Some("7"));
        assert_eq!(ahead.take(ONE, &wanted), None);
        for name in [ONE, TWO, THREE] {
            fs::write(ahead.place(name).unwrap(), segment(name)).unwrap();
        }
        for (repository, server) in [("file:/r", Some("8")), ("file:/q", Some("7")), ("file:/r", None)] {
            assert_eq!(Ahead::beside(&wanted, repository, server).take(ONE, &wanted), None);
        }
        assert_eq!((ahead.take(ONE, &wanted), ahead.take(ONE, &wanted)), (Some(LENGTH), None));
        assert!(fs::read(&wanted).unwrap() == segment(ONE));
        ahead.keep_only(&[THREE.to_owned()]);
        assert_eq!((ahead.has(TWO), ahead.has(THREE)), (false, true));
        ahead.keep_only(&[]);
        assert!(!folder.join(FOLDER).exists());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_others_may_have_written_or_is_no_segment_is_not_taken() {
        let folder = folder("others");
        let wanted = folder.join("RECOVERYXLOG");
        let ahead = Ahead::beside(&wanted, "file:/r", None);
        let waits = |name: &str, bytes: &[u8]| fs::write(ahead.place(name).unwrap(), bytes).unwrap();
        let allow = |mode| {
            fs::set_permissions(folder.join(FOLDER), fs::Permissions::from_mode(mode)).unwrap();
        };
        waits(ONE, &segment(ONE));
        for mode in [0o777, 0o720, 0o701] {
            allow(mode);
            assert_eq!((ahead.take(ONE, &wanted), ahead.has(ONE)), (None, false), "{mode:o}");
            assert!(ahead.place(TWO).is_err(), "{mode:o}");
            ahead.keep_only(&[]);
            assert!(folder.join(FOLDER).exists(), "{mode:o}");
        }
        allow(0o700);
        for (name, length) in [(TWO, 0), (TWO, (1 << 20) - 1), (TWO, 3 << 19), ("00000002.history", 1 << 20)]
        {
            waits(name, &vec![0; length]);
            assert_eq!(ahead.take(name, &wanted), None, "{name} of {length}");
        }
        std::os::unix::fs::symlink(ahead.file(ONE), ahead.file(THREE)).unwrap();
        assert_eq!(ahead.take(THREE, &wanted), None);
        assert_eq!(ahead.take(ONE, &wanted), Some(LENGTH), "it is the user's own again");
        fs::remove_dir_all(folder).unwrap();
    }
}
