//! Segments that were fetched before a recovering server asked for them.
//!
//! They lie in a private folder beside the place that the server names, so that handing one over is a renaming and asks the repository
//! nothing. A file there is whole and durable from the moment it has its name; names say of which repository and server's log it is, and the
//! segment's own name says the timeline, so that whoever asks for another finds nothing. Everything here may be lost, half written or stale:
//! what cannot be used is fetched again, and what is no longer of use is removed by the next fetch.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mainstay_model::Blake3;

/// The folder's name.
const FOLDER: &str = ".mainstay-ahead";

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

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{}.{name}", self.log))
    }

    /// Moves the segment called `name` to `path`, and gives its length; `None` when it does not wait here.
    pub(super) fn take(&self, name: &str, path: &Path) -> Option<u64> {
        let file = self.file(name);
        let length = fs::metadata(&file).ok().filter(fs::Metadata::is_file)?.len();
        fs::rename(file, path).is_ok().then_some(length)
    }

    /// Whether the segment called `name` waits here.
    pub(super) fn has(&self, name: &str) -> bool {
        self.file(name).is_file()
    }

    /// Where the segment called `name` will wait, in a folder that exists.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub(super) fn place(&self, name: &str) -> io::Result<PathBuf> {
        let mut folder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut folder, 0o700);
        match folder.create(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(self.file(name)),
        }
    }

    /// Removes all but the segments called `names`; the folder, too, when nothing is left in it.
    pub(super) fn keep_only(&self, names: &[String]) {
        let kept: Vec<PathBuf> = names.iter().map(|name| self.file(name)).collect();
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
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
    use super::*;

    #[test]
    fn a_segment_waits_for_its_own_log_alone() {
        let folder = std::env::temp_dir().join(format!("mainstay-ahead-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let wanted = folder.join("RECOVERYXLOG");
        let ahead = Ahead::beside(&wanted, "file:/r", Some("7"));
        assert_eq!(ahead.take("one", &wanted), None);
        for name in ["one", "two", "three"] {
            fs::write(ahead.place(name).unwrap(), name).unwrap();
        }
        for (repository, server) in [("file:/r", Some("8")), ("file:/q", Some("7")), ("file:/r", None)] {
            assert_eq!(Ahead::beside(&wanted, repository, server).take("one", &wanted), None);
        }
        assert_eq!((ahead.take("one", &wanted), ahead.take("one", &wanted)), (Some(3), None));
        assert_eq!(fs::read(&wanted).unwrap(), b"one");
        ahead.keep_only(&["three".to_owned()]);
        assert_eq!((ahead.has("two"), ahead.has("three")), (false, true));
        ahead.keep_only(&[]);
        assert!(!folder.join(FOLDER).exists());
        fs::remove_dir_all(folder).unwrap();
    }
}
