//! A folder that a backup is unpacked into: what stands there, whose it is, and how it becomes whole.
//!
//! A marker file says that a restore works here and has not ended; its lock says that it works now. While the *last file*, without which no server
//! starts from the folder, is not beside it, what an interrupted restore left may be removed and begun anew. Nothing else is ever removed.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use mainstay_model::{Error, ErrorKind, Result};

/// The marker's name.
const MARKER: &str = ".mainstay-restore";

/// How many files are made durable at the same time.
const SYNC_COUNT: usize = 8;

/// What stands at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing.
    Absent,
    /// An empty folder.
    Empty,
    /// What an interrupted restore left; no server starts from it.
    Unfinished,
}

impl Standing {
    /// In a plan's words.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Empty => "empty",
            Self::Unfinished => "an interrupted restore",
        }
    }
}

/// Looks at `folder`, whose last file is called `last`.
///
/// # Errors
/// `Precondition` when something else stands there; `Storage` when it cannot be looked at.
pub(crate) fn standing(folder: &Path, last: &str) -> Result<Standing> {
    let mut entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Standing::Absent),
        Err(error) => return Err(storage("look at", folder, error)),
    };
    if entries.next().is_none() {
        return Ok(Standing::Empty);
    }
    let holds = |name: &str| folder.join(name).symlink_metadata().is_ok();
    let taken = |message: String, hint: String| {
        Err(Error::new(ErrorKind::Precondition, message).with_state("nothing was changed").with_hint(hint))
    };
    let shown = folder.display();
    if holds("postmaster.pid") {
        return taken(
            format!("a server runs from {shown}, or was killed there"),
            "restore into an empty folder".to_owned(),
        );
    }
    match (holds(MARKER), holds(last)) {
        (true, false) => Ok(Standing::Unfinished),
        (true, true) => taken(
            format!("{shown} holds a restored server that is whole"),
            format!("start it, after `rm {shown}/{MARKER}`, or restore into an empty folder"),
        ),
        (false, _) => taken(
            format!("{shown} is not empty"),
            "restore into an empty folder, or one that does not exist yet".to_owned(),
        ),
    }
}

/// A folder that belongs to this restore.
pub(crate) struct Claimed {
    folder: PathBuf,
    marker: File,
}

/// Makes `folder` ours: makes it, or empties what an interrupted restore left.
///
/// # Errors
/// As [`standing`]; `Locked` when another restore works there now.
pub(crate) fn claim(folder: &Path, last: &str) -> Result<Claimed> {
    let stands = standing(folder, last)?;
    if stands == Standing::Absent {
        make_folder(folder).map_err(|error| storage("make", folder, error))?;
    }
    let path = folder.join(MARKER);
    let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let mut marker = opened.map_err(|error| storage("write", &path, error))?;
    match marker.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::new(
                ErrorKind::Locked,
                format!("another restore works on {} now", folder.display()),
            )
            .with_state("nothing was changed"));
        }
        Err(TryLockError::Error(error)) => return Err(storage("lock", &path, error)),
    }
    let written = marker
        .write_all(b"a restore of mainstay works here, or was interrupted; apply its plan again\n")
        .and_then(|()| marker.sync_all())
        .and_then(|()| sync_folder(folder));
    written.map_err(|error| storage("write", &path, error))?;
    if stands == Standing::Unfinished {
        empty(folder).map_err(|error| storage("empty", folder, error))?;
    }
    Ok(Claimed { folder: folder.to_owned(), marker })
}

impl Claimed {
    /// Makes everything in the folder durable, files before the folders that name them: many at the same time, because a disk makes durable
    /// together what waits together. Links are not followed.
    pub(crate) fn sync(&self) -> Result<()> {
        let (folders, files) = tree(&self.folder)?;
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                let synced = File::open(file).and_then(|opened| opened.sync_all());
                synced.map_err(|error| storage("sync", file, error))?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..SYNC_COUNT).map(|_| scope.spawn(work)).collect();
            let ended_early = |_| Err(Error::new(ErrorKind::Internal, "a syncing thread ended early"));
            workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(ended_early))
        })?;
        let mut inner_first = folders.iter().rev();
        inner_first.try_for_each(|folder| sync_folder(folder).map_err(|error| storage("sync", folder, error)))
    }

    /// Takes the marker away: what is here is whole.
    pub(crate) fn end(self) -> Result<()> {
        let path = self.folder.join(MARKER);
        fs::remove_file(&path)
            .and_then(|()| sync_folder(&self.folder))
            .map_err(|error| storage("remove", &path, error))?;
        drop(self.marker);
        Ok(())
    }
}

/// The folders from `folder` down, outer ones first, and the files in them.
fn tree(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut folders, mut files) = (vec![folder.to_owned()], Vec::new());
    let mut next = 0;
    while let Some(folder) = folders.get(next).cloned() {
        next += 1;
        let entries = fs::read_dir(&folder).map_err(|error| storage("look at", &folder, error))?;
        for entry in entries {
            let entry = entry.map_err(|error| storage("look at", &folder, error))?;
            let kind = entry.file_type().map_err(|error| storage("look at", &entry.path(), error))?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    Ok((folders, files))
}

/// Removes everything but the marker. Links are removed, not followed.
fn empty(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name() == MARKER {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Makes a folder that its owner alone may enter, and those above it.
pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Trouble with a local file.
pub(crate) fn storage(action: &str, path: &Path, error: io::Error) -> Error {
    Error::new(ErrorKind::Storage, format!("cannot {action} {}: {error}", path.display())).with_source(error)
}
