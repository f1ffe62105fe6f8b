//! The password of a program's connection, where the program alone reads it, and other files of its own.
//!
//! Arguments and environments of a process are seen by others; a file of mode 0600 in a folder of mode 0700 is not. The folder goes when the
//! value is dropped. What a killed process left is removed by the next one: while a process lives it holds a lock in its folder, which
//! every process sees that shares the folder, in whatever container it runs; numbers of processes would mean others there.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use mainstay_model::{Error, ErrorKind, Result};

/// With what the names of such folders begin.
const PREFIX: &str = "mainstay-pg-";
/// The file that is locked while its process lives.
const LOCK: &str = "lock";

/// A folder that nobody else may look into.
#[derive(Debug)]
pub(crate) struct PrivateFolder {
    folder: PathBuf,
    /// Open, and so locked, until the folder is gone.
    lock: Option<File>,
}

impl PrivateFolder {
    /// A new one below `parent`.
    pub(crate) fn create(parent: &Path) -> Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let process = std::process::id();
        for _ in 0..100 {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let folder = parent.join(format!("{PREFIX}{process}-{number}"));
            match DirBuilder::new().mode(0o700).create(&folder) {
                Ok(()) => {
                    let mut created = Self { folder, lock: None };
                    created.lock = created.take_lock()?;
                    created.sweep(parent);
                    return Ok(created);
                }
                // Left by an earlier process of the same number, or put there by somebody; neither is used.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(unwritable(parent, &error)),
            }
        }
        Err(unwritable(parent, &io::ErrorKind::AlreadyExists.into()))
    }

    /// Shows that this process lives. Under its name the file is never seen unlocked.
    fn take_lock(&self) -> Result<Option<File>> {
        let file = self.create_file("lock.new")?;
        if file.try_lock().is_err() {
            // Where there are no locks, nobody can take one either, and what is found stays.
            return Ok(None);
        }
        let named = fs::rename(self.path("lock.new"), self.path(LOCK));
        named.map_err(|error| unwritable(&self.folder, &error))?;
        Ok(Some(file))
    }

    /// Removes what processes left that are gone. Best effort: what stays is nobody else's to read.
    fn sweep(&self, parent: &Path) {
        let Ok(own) = fs::metadata(&self.folder).map(|metadata| metadata.uid()) else { return };
        let Ok(entries) = fs::read_dir(parent) else { return };
        for entry in entries.flatten() {
            let is_one = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
            let is_ours = entry.metadata().is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == own);
            if is_one && is_ours && is_left(&entry.path()) {
                drop(fs::remove_dir_all(entry.path()));
            }
        }
    }

    /// The path of a file in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A new file in it.
    pub(crate) fn create_file(&self, name: &str) -> Result<File> {
        let path = self.path(name);
        let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        created.map_err(|error| unwritable(&path, &error))
    }

    /// A new file in it with these bytes; gives its path.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        self.create_file(name)?.write_all(bytes).map_err(|error| unwritable(&self.path(name), &error))?;
        Ok(self.path(name))
    }

    /// A password file for every connection (manual, "The Password File").
    pub(crate) fn write_password(&self, password: &[u8]) -> Result<PathBuf> {
        if password.iter().any(|byte| matches!(byte, b'\n' | b'\r' | 0)) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the PostgreSQL password holds a line break, which no password file can",
            )
            .with_hint("give the role another password"));
        }
        let mut line = b"*:*:*:*:".to_vec();
        for byte in password {
            if matches!(byte, b':' | b'\\') {
                line.push(b'\\');
            }
            line.push(*byte);
        }
        line.push(b'\n');
        self.write("password", &line)
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next one.
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// Whether the process of a folder is gone. Where that cannot be told, it is not.
fn is_left(folder: &Path) -> bool {
    File::open(folder.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok())
}

fn unwritable(path: &Path, error: &io::Error) -> Error {
    Error::new(ErrorKind::Storage, format!("cannot write below {}: {error}", path.display()))
        .with_hint("name a folder for temporary files that may be written to: TMPDIR")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_kept_for_nobody_else_and_goes_with_its_folder() {
        let parent = std::env::temp_dir().join(format!("mainstay-passfile-{}", std::process::id()));
        fs::create_dir(&parent).unwrap();
        // Left by a process that is gone: nobody holds its lock. And one whose process, of whatever number, is only just beginning.
        let (left, beginning) = (parent.join(format!("{PREFIX}1-0")), parent.join(format!("{PREFIX}2-0")));
        fs::create_dir(&left).unwrap();
        fs::write(left.join(LOCK), b"").unwrap();
        fs::create_dir(&beginning).unwrap();
        let private = PrivateFolder::create(&parent).unwrap();
        let file = private.write_password(b"a:b\\c").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"*:*:*:*:a\\:b\\\\c\n");
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
        assert_eq!(private.write_password(b"a\nb").unwrap_err().kind(), ErrorKind::Unsupported);
        // That of a process that lives is left alone, though no process may have its number here.
        let living = parent.join(format!("{PREFIX}4294967295-0"));
        fs::rename(&private.folder, &living).unwrap();
        drop(PrivateFolder::create(&parent).unwrap());
        assert!(living.join("password").exists() && beginning.exists() && !left.exists());
        drop(private);
        assert!(living.exists());
        // Its lock went with its process.
        drop(PrivateFolder::create(&parent).unwrap());
        assert!(!living.exists());
        fs::remove_dir(&beginning).unwrap();
        fs::remove_dir(&parent).unwrap();
    }
}
