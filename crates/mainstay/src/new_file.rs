//! Small files that people name on the command line, such as plans: there whole, or not there.
//!
//! What is written lies under another name in the same folder until it is durable, and gets its own name by a hard link, which the
//! filesystem refuses when the name is taken. So a full disk or a kill leaves nothing that stands in the way of the next try, and a file
//! that exists is never replaced. Where there are no hard links, a look whether the name is free and a renaming must do.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use mainstay_model::{Error, ErrorKind, Result};

/// Writes `text` as the new file `path`. `instead` says what to do when it exists.
///
/// # Errors
/// `Usage` when `path` names no file; `Precondition` when it exists; `Storage` when it cannot be written, and then nothing is left of it.
pub(crate) fn write(path: &Path, text: &str, instead: &str) -> Result<()> {
    let shown = path.display();
    let partial = partial(path).ok_or_else(|| {
        Error::new(ErrorKind::Usage, format!("{shown} names no file")).with_state("nothing was written")
    })?;
    place(path, &partial, text).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => {
            Error::new(ErrorKind::Precondition, format!("{shown} exists already"))
                .with_state("nothing was changed")
                .with_hint(instead)
        }
        _ => Error::new(ErrorKind::Storage, format!("cannot write {shown}"))
            .with_source(source)
            .with_state("nothing was written")
            .with_hint("see that the folder exists, may be written to and has space left, then run the same command again"),
    })
}

/// A name beside `path`, of this process alone.
fn partial(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_string_lossy();
    Some(path.with_file_name(format!(".{name}.{}.partial", std::process::id())))
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

        let error = write(&folder.path().join("absent/plan.json"), "three", "-").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Storage, "{error:?}");
        assert!(error.state().is_some() && error.hint().is_some(), "{error:?}");
        assert_eq!(names(), ["plan.json"]);
    }
}
