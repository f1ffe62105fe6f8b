//! Writing the files of an archive: on a blocking thread, in the order of the archive, nothing outside its folder.
//!
//! What the archive may hold is decided by [`TarReader`]; files are made anew and never opened when they are there, but for those that an
//! archive holds changes of: these were made by the sets before. `global/pg_control` is kept back: it comes last of all. Files are not made
//! durable here.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use mainstay_basebackup::{
    CONTROL_FILE, Changed, Changes, Entry, EntryKind, INCREMENTAL_PREFIX, IncrementalError,
    IncrementalReader, LABEL_BYTES_MAX, LABEL_FILE, TarError, TarReader, Visitor, combined_label,
};
use mainstay_model::{Error, ErrorKind, Result};
use tokio::sync::mpsc;

use super::combine::{Combination, Share};
use crate::place::{make_folder, storage, sync_folder};

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
    pub(super) links: Arc<BTreeMap<u32, PathBuf>>,
    /// The number of its set in the chain.
    pub(super) number: usize,
    /// What each set of the chain gives.
    pub(super) combination: Arc<Combination>,
}

impl Destination {
    /// What is taken of the archive's file at `path`.
    fn share(&self, path: &str) -> Share {
        match self.oid {
            None => self.combination.share(self.number, path),
            Some(oid) => self.combination.share(self.number, &format!("pg_tblspc/{oid}/{path}")),
        }
    }

    fn is_last(&self) -> bool {
        self.combination.is_last(self.number)
    }
}

/// The control file of an archive, to be written last.
pub(super) struct Control {
    bytes: Vec<u8>,
    mode: u32,
}

/// Writes the archive whose pieces come through `pieces`, to its end.
pub(super) fn unpack(to: Destination, mut pieces: mpsc::Receiver<Bytes>) -> Result<Option<Control>> {
    let mut reader = TarReader::new(to.oid);
    let mut writer = Writer { to, passing: Passing::Nothing, control: None };
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

/// What ends unpacking.
enum Fault {
    Tar(TarError),
    Io { path: PathBuf, error: io::Error },
    Changes { path: PathBuf, error: IncrementalError },
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
            Self::Changes { path, error } => {
                Error::new(ErrorKind::Corrupt, format!("the changes of {}: {error}", path.display()))
            }
            Self::Link(oid) => Error::new(
                ErrorKind::Corrupt,
                format!("the archive links tablespace {oid}, which the set does not hold"),
            ),
        }
    }
}

struct Writer {
    to: Destination,
    passing: Passing,
    /// The control file, while it passes and then.
    control: Option<Control>,
}

/// What becomes of the file that passes.
enum Passing {
    /// It is not wanted, or there is none.
    Nothing,
    /// It is written as it is.
    Whole { path: PathBuf, file: File },
    /// It holds changes of a file that is there.
    Changes { path: PathBuf, file: File, reader: IncrementalReader },
    /// It is the control file, and kept back.
    Control,
    /// It is the label of an incremental backup.
    Label { path: PathBuf, mode: u32, bytes: Vec<u8> },
}

impl Writer {
    /// The file that begins, opened.
    fn open(&mut self, entry: Entry) -> Result<Passing, Fault> {
        let share = self.to.share(&entry.path);
        if share == Share::Nothing {
            return Ok(Passing::Nothing);
        }
        let Entry { path: name, size, mode, .. } = entry;
        let is_of_data = self.to.oid.is_none();
        if is_of_data && name == CONTROL_FILE {
            if size > CONTROL_BYTES_MAX || self.control.is_some() {
                return Err(TarError::Entry { path: name, what: "a control file that is none" }.into());
            }
            self.control = Some(Control { bytes: Vec::new(), mode });
            return Ok(Passing::Control);
        }
        let path = self.to.folder.join(&name);
        if is_of_data && name == LABEL_FILE && !self.to.combination.is_one_set() {
            if size > LABEL_BYTES_MAX as u64 {
                return Err(TarError::Entry { path: name, what: "a label that is none" }.into());
            }
            return Ok(Passing::Label { path, mode, bytes: Vec::new() });
        }
        let opened = match share {
            Share::Changes => {
                let (folder, file) = name.rsplit_once('/').unwrap_or(("", &name));
                let changed = file.strip_prefix(INCREMENTAL_PREFIX).unwrap_or(file);
                let path = self.to.folder.join(folder).join(changed);
                match OpenOptions::new().write(true).open(&path) {
                    Ok(file) => Ok(Passing::Changes { path, file, reader: IncrementalReader::new(size) }),
                    Err(error) => Err((path, error)),
                }
            }
            _ if self.to.is_last() => match create(&path, mode) {
                Ok(file) => Ok(Passing::Whole { path, file }),
                Err(error) => Err((path, error)),
            },
            // The folders of an earlier set come with the last one.
            _ => match path.parent().map_or(Ok(()), make_folder).and_then(|()| create(&path, mode)) {
                Ok(file) => Ok(Passing::Whole { path, file }),
                Err(error) => Err((path, error)),
            },
        };
        opened.map_err(|(path, error)| Fault::Io { path, error })
    }
}

impl Visitor for Writer {
    type Fault = Fault;

    fn begin(&mut self, entry: Entry) -> Result<(), Fault> {
        let path = self.to.folder.join(&entry.path);
        let made = match &entry.kind {
            EntryKind::File => {
                self.passing = self.open(entry)?;
                return Ok(());
            }
            _ if !self.to.is_last() => return Ok(()),
            EntryKind::Directory => make_directory(&path, entry.mode),
            EntryKind::Link { oid, .. } => match self.to.links.get(oid) {
                Some(target) => link(target, &path),
                None => return Err(Fault::Link(*oid)),
            },
        };
        made.map_err(|error| Fault::Io { path, error })
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        match &mut self.passing {
            Passing::Nothing => Ok(()),
            Passing::Whole { path, file } => {
                file.write_all(bytes).map_err(|error| Fault::Io { path: path.clone(), error })
            }
            Passing::Changes { path, file, reader } => {
                reader.push(bytes, &mut Patch(file)).map_err(|fault| fault.of(path))
            }
            Passing::Control => {
                if let Some(control) = &mut self.control {
                    control.bytes.extend_from_slice(bytes);
                }
                Ok(())
            }
            Passing::Label { bytes: label, .. } => {
                label.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    fn end(&mut self) -> Result<(), Fault> {
        match std::mem::replace(&mut self.passing, Passing::Nothing) {
            Passing::Changes { path, reader, .. } => {
                reader.end().map_err(|error| Fault::Changes { path, error })
            }
            Passing::Label { path, mode, bytes } => {
                let put = create(&path, mode).and_then(|mut file| file.write_all(&combined_label(&bytes)));
                put.map_err(|error| Fault::Io { path, error })
            }
            Passing::Nothing | Passing::Whole { .. } | Passing::Control => Ok(()),
        }
    }
}

/// A file that is being changed.
struct Patch<'a>(&'a mut File);

/// What ends changing it.
enum PatchFault {
    Form(IncrementalError),
    Io(io::Error),
}

impl From<IncrementalError> for PatchFault {
    fn from(error: IncrementalError) -> Self {
        Self::Form(error)
    }
}

impl From<io::Error> for PatchFault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl PatchFault {
    fn of(self, path: &Path) -> Fault {
        let path = path.to_owned();
        match self {
            Self::Form(error) => Fault::Changes { path, error },
            Self::Io(error) => Fault::Io { path, error },
        }
    }
}

impl Changed for Patch<'_> {
    type Fault = PatchFault;

    fn changes(&mut self, changes: &Changes) -> Result<(), PatchFault> {
        let length = self.0.metadata()?.len();
        self.0.set_len(length.min(changes.kept_bytes()))?;
        // What is longer than before holds zeros.
        self.0.set_len(changes.length())?;
        Ok(())
    }

    fn block_bytes(&mut self, at: u64, bytes: &[u8]) -> Result<(), PatchFault> {
        self.0.seek(SeekFrom::Start(at))?;
        self.0.write_all(bytes)?;
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

/// Makes a directory; one that a file of an earlier set was put into gets its permissions.
fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    #[cfg(unix)]
    if path.is_dir() {
        return fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode));
    }
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
