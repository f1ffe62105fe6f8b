//! Small files that people name on the command line, such as plans: there whole, or not there.
//!
//! What is written lies under another name in the same folder until it is durable, and gets its own name by a hard link, which the
//! filesystem refuses when the name is taken. So a full disk or a kill leaves nothing that stands in the way of the next try, and a file
//! that exists is never replaced. Where there are no hard links, a look whether the name is free and a renaming must do.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use mainstay_model::{Error, ErrorKind, Result};

/// Writes `text` as the new file `path`. `instead` says what to do when it exists.
///
/// # Errors
/// `Usage` when `path` names no file; `Precondition` when it exists; `Storage` when it cannot be written, and then nothing is left of it.
pub(crate) fn write(path: &Path, text: &str, instead: &str) -> Result<()> {
    let partial = partial_of(path)?;
    place(path, &partial, text).map_err(|source| explain(path, instead, source))
}

/// Refuses a name that is taken, before work is done that ends in a file of that name. `instead` says what to do.
///
/// # Errors
/// `Usage` when `path` names no file; `Precondition` when it exists; `Storage` when that cannot be seen.
pub(crate) fn expect_free(path: &Path, instead: &str) -> Result<()> {
    partial_of(path)?;
    check_free(path).map_err(|source| explain(path, instead, source))
}

/// A file that somebody else fills, and that gets its name when it is whole. Nobody but its owner may read it. Removed when dropped before that.
#[derive(Debug)]
pub(crate) struct NewFile {
    path: PathBuf,
    partial: PathBuf,
    file: File,
    instead: &'static str,
}

impl NewFile {
    /// Makes the file that will be `path`.
    ///
    /// # Errors
    /// As [`write`].
    pub(crate) fn begin(path: &Path, instead: &'static str) -> Result<Self> {
        let partial = partial_of(path)?;
        let opened = check_free(path).and_then(|()| {
            // As in `place`.
            drop(fs::remove_file(&partial));
            owners_alone().open(&partial)
        });
        let file = opened.map_err(|source| explain(path, instead, source))?;
        Ok(Self { path: path.to_owned(), partial, file, instead })
    }

    /// Where its bytes go. They must be durable before [`NewFile::place`].
    ///
    /// # Errors
    /// `Storage` when the system has no handle left.
    pub(crate) fn writer(&self) -> Result<File> {
        self.file.try_clone().map_err(|source| explain(&self.path, self.instead, source))
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// `Precondition` when the name was taken meanwhile; `Storage`.
    pub(crate) fn place(self) -> Result<()> {
        name(&self.partial, &self.path).map_err(|source| explain(&self.path, self.instead, source))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // The partial name, whether the file has got its own or not.
        drop(fs::remove_file(&self.partial));
    }
}

#[cfg(unix)]
fn owners_alone() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options
}

#[cfg(not(unix))]
fn owners_alone() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    options
}

fn explain(path: &Path, instead: &str, source: io::Error) -> Error {
    let shown = path.display();
    match source.kind() {
        io::ErrorKind::AlreadyExists => {
            Error::new(ErrorKind::Precondition, format!("{shown} exists already"))
                .with_state("nothing was changed")
                .with_hint(instead)
        }
        _ => Error::new(ErrorKind::Storage, format!("cannot write {shown}"))
            .with_source(source)
            .with_state("nothing was written")
            .with_hint("see that the folder exists, may be written to and has space left, then run the same command again"),
    }
}

/// A name beside `path` that says that what bears it is not whole, of this process alone.
///
/// # Errors
/// `Usage` when `path` names no file.
pub(crate) fn partial_of(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| {
        Error::new(ErrorKind::Usage, format!("{} names no file", path.display()))
            .with_state("nothing was written")
    })?;
    Ok(path.with_file_name(format!("{}.{}.partial", name.to_string_lossy(), std::process::id())))
}

fn place(path: &Path, partial: &Path, text: &str) -> io::Result<()> {
    check_free(path)?;
    // One of this name was left by a process that is gone, since its number is ours now.
    drop(fs::remove_file(partial));
    let named = fill(partial, text).and_then(|()| name(partial, path));
    // A link leaves the partial name behind, a failure what was written.
    drop(fs::remove_file(partial));
    named
}

fn check_free(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn fill(partial: &Path, text: &str) -> io::Result<()> {
    let mut file = File::create_new(partial)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn name(partial: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(partial, path) {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied) =>
        {
            check_free(path)?;
            fs::rename(partial, path)
        }
        linked => linked,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_whole_or_absent_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let names = || -> Vec<_> {
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect()
        };
        let file = folder.path().join("plan.json");
        write(&file, "one", "-").unwrap();
        let error = write(&file, "two", "name another").unwrap_err();
        assert_eq!((error.kind(), error.hint()), (ErrorKind::Precondition, Some("name another")));
        assert_eq!((fs::read_to_string(&file).unwrap().as_str(), names()), ("one", vec!["plan.json".into()]));

        let error = NewFile::begin(&file, "name another").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Precondition);
        let begun = NewFile::begin(&folder.path().join("dump"), "-").unwrap();
        drop(begun);
        assert_eq!(names(), ["plan.json"]);
        let error = write(&folder.path().join("absent/plan.json"), "three", "-").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Storage, "{error:?}");
        assert!(error.state().is_some() && error.hint().is_some(), "{error:?}");
        assert_eq!(names(), ["plan.json"]);
    }
}
