//! Writing the files of an archive: on a blocking thread, in the order of the archive, nothing outside its folder.
//!
//! What the archive may hold is decided by [`TarReader`]; files are made anew and never opened when they are there. `global/pg_control` is kept
//! back: it comes last of all. Files are not made durable here, see [`sync_tree`].

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use mainstay_basebackup::{CONTROL_FILE, Entry, EntryKind, TarError, TarReader, Visitor};
use mainstay_model::{Error, ErrorKind, Result};
use tokio::sync::mpsc;

use super::place::{storage, sync_folder};

/// The longest control file that is kept back; a server's has 8 KiB.
const CONTROL_BYTES_MAX: u64 = 64 * 1024;

/// Where an archive goes.
#[derive(Debug, Clone)]
pub(super) struct Destination {
    /// The tablespace that it is of; `None` for the data directory.
    pub(super) oid: Option<u32>,
    /// The folder.
    pub(super) folder: PathBuf,
    /// Where the links of tablespaces lead, by oid.
    pub(super) links: BTreeMap<u32, PathBuf>,
}

/// The control file of an archive, to be written last.
pub(super) struct Control {
    bytes: Vec<u8>,
    mode: u32,
}

/// Writes the archive whose pieces come through `pieces`, to its end.
pub(super) fn unpack(to: Destination, mut pieces: mpsc::Receiver<Bytes>) -> Result<Option<Control>> {
    let mut reader = TarReader::new(to.oid);
    let mut writer = Writer { to, file: None, control: None };
    while let Some(piece) = pieces.blocking_recv() {
        reader.push(&piece, &mut writer).map_err(Fault::into_error)?;
    }
    reader.end().map_err(|error| Fault::from(error).into_error())?;
    Ok(writer.control)
}

impl Control {
    /// Puts it into its place below `folder` and makes it durable: from here on a server starts.
    pub(super) fn put(&self, folder: &Path) -> Result<()> {
        let path = folder.join(CONTROL_FILE);
        let put = || {
            let mut file = create(&path, self.mode)?;
            file.write_all(&self.bytes)?;
            file.sync_all()?;
            path.parent().map_or(Ok(()), sync_folder)
        };
        put().map_err(|error| storage("write", &path, error))
    }
}

/// Makes everything below `folder` durable, files before the folders that name them. Links are not followed.
pub(super) fn sync_tree(folder: &Path) -> Result<()> {
    let mut folders = vec![folder.to_owned()];
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
                let synced = File::open(entry.path()).and_then(|file| file.sync_all());
                synced.map_err(|error| storage("sync", &entry.path(), error))?;
            }
        }
    }
    folders
        .iter()
        .rev()
        .try_for_each(|folder| sync_folder(folder).map_err(|error| storage("sync", folder, error)))
}

/// What ends unpacking.
enum Fault {
    Tar(TarError),
    Io { path: PathBuf, error: io::Error },
    Link(u32),
}

impl From<TarError> for Fault {
    fn from(error: TarError) -> Self {
        Self::Tar(error)
    }
}

impl Fault {
    fn into_error(self) -> Error {
        match self {
            Self::Tar(error) => Error::new(ErrorKind::Corrupt, error.to_string()),
            Self::Io { path, error } => storage("write", &path, error),
            Self::Link(oid) => Error::new(
                ErrorKind::Corrupt,
                format!("the archive links tablespace {oid}, which the set does not hold"),
            ),
        }
    }
}

struct Writer {
    to: Destination,
    file: Option<(PathBuf, File)>,
    /// The control file, while it passes and then.
    control: Option<Control>,
}

impl Visitor for Writer {
    type Fault = Fault;

    fn begin(&mut self, entry: Entry) -> Result<(), Fault> {
        let path = self.to.folder.join(&entry.path);
        let made = match entry.kind {
            EntryKind::Directory => make_directory(&path, entry.mode),
            EntryKind::Link { oid, .. } => match self.to.links.get(&oid) {
                Some(target) => link(target, &path),
                None => return Err(Fault::Link(oid)),
            },
            EntryKind::File if self.to.oid.is_none() && entry.path == CONTROL_FILE => {
                if entry.size > CONTROL_BYTES_MAX || self.control.is_some() {
                    let what = "a control file that is none";
                    return Err(TarError::Entry { path: entry.path, what }.into());
                }
                self.control = Some(Control { bytes: Vec::new(), mode: entry.mode });
                Ok(())
            }
            EntryKind::File => create(&path, entry.mode).map(|file| self.file = Some((path.clone(), file))),
        };
        made.map_err(|error| Fault::Io { path, error })
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        match (&mut self.file, &mut self.control) {
            (Some((path, file)), _) => {
                file.write_all(bytes).map_err(|error| Fault::Io { path: path.clone(), error })
            }
            (None, Some(control)) => {
                control.bytes.extend_from_slice(bytes);
                Ok(())
            }
            (None, None) => Ok(()),
        }
    }

    fn end(&mut self) -> Result<(), Fault> {
        self.file = None;
        Ok(())
    }
}

fn create(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    options.open(path)
}

fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, mode);
    builder.create(path)
}

#[cfg(unix)]
fn link(target: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(not(unix))]
fn link(_target: &Path, _path: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
