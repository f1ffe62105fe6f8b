//! A dump in a folder: one folder for each database, one file of documents and one of metadata for each collection.
//!
//! Files may be compressed or not, each for itself; the first bytes tell. There is no checksum in this form: what can be judged is that every
//! collection has its documents, their framing, gzip's own checksums, and that metadata can be read.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use mainstay_archive::layout::{self, FileKind, Stem};
use mainstay_archive::{Entry, EntryKind, Role};
use mainstay_engine::DocumentDigest;
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{Error, ErrorKind, Result, ResultExt};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::chunks::{Chunks, failed};
use super::dump::{definition_kind, interrupted, metadata_fault};
use super::feed::{Fed, Feed};
use crate::contents::METADATA_BYTES_MAX;
use crate::framing::Framer;

/// What a folder holds.
pub(super) struct Folder {
    /// The version of the server that was dumped, if it is told.
    pub(super) server_version: String,
    /// Each collection, and the file with its documents.
    pub(super) entries: Vec<(Entry, Option<PathBuf>)>,
}

/// Looks through a folder.
///
/// # Errors
/// `Corrupt` for metadata that cannot be read, a name that no collection has, or documents whose definition lacks.
pub(super) fn look_through(root: &Path, observer: &dyn Observer) -> Result<Folder> {
    let mut folder = Folder { server_version: String::new(), entries: Vec::new() };
    for (name, path) in listed(root)? {
        if path.is_dir() {
            let files = Files::of(&path, observer)?;
            folder.entries.extend(files.entries(&name, observer)?);
        } else if name.strip_suffix(".gz").unwrap_or(&name) == layout::PRELUDE {
            folder.server_version = server_version(&text_of(&path)?);
        } else if name == layout::OPLOG {
            folder.entries.push((Entry::oplog(), Some(path)));
        } else if layout::read_file_name(&name).is_some() {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("{} lies where the folders of databases should be", path.display()),
            )
            .with_hint("name the folder above: the one that holds a folder for each database"));
        } else {
            observer.notice(&format!("warning: {} is no file of a dump and is passed over", path.display()));
        }
    }
    Ok(folder)
}

fn listed(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let refuse = |error: std::io::Error| failed(&error).context(format!("read folder {}", folder.display()));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(refuse)? {
        let entry = entry.map_err(refuse)?;
        let name = entry.file_name().into_string().map_err(|name| {
            Error::new(ErrorKind::Corrupt, format!("the name of {} is not UTF-8", name.display()))
        })?;
        let (path, kind) = (entry.path(), std::fs::metadata(entry.path()).map_err(refuse)?.file_type());
        if !kind.is_file() && !kind.is_dir() {
            // Opening a pipe would wait for whoever writes into it.
            return Err(Error::new(
                ErrorKind::Usage,
                format!("{} is neither a file nor a folder", path.display()),
            )
            .with_hint("take it out of the folder"));
        }
        found.push((name, path));
    }
    found.sort();
    Ok(found)
}

/// The files of one database, by stem.
#[derive(Default)]
struct Files {
    metadata: BTreeMap<String, PathBuf>,
    documents: BTreeMap<String, PathBuf>,
}

impl Files {
    fn of(folder: &Path, observer: &dyn Observer) -> Result<Self> {
        let mut files = Self::default();
        for (name, path) in listed(folder)? {
            let before = match layout::read_file_name(&name) {
                Some((stem, FileKind::Metadata)) => files.metadata.insert(stem.to_owned(), path.clone()),
                Some((stem, FileKind::Documents)) => files.documents.insert(stem.to_owned(), path.clone()),
                None if name.starts_with(layout::PRELUDE) => None,
                None => {
                    observer.notice(&format!(
                        "warning: {} is no file of a dump and is passed over",
                        path.display()
                    ));
                    None
                }
            };
            if before.is_some() {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("{} is there compressed and not", path.display()),
                ));
            }
        }
        Ok(files)
    }

    fn entries(mut self, database: &str, observer: &dyn Observer) -> Result<Vec<(Entry, Option<PathBuf>)>> {
        let mut entries = Vec::new();
        for (stem, path) in &self.metadata {
            let reading = || format!("read {}", path.display());
            let metadata = text_of(path)?;
            if let Some(fault) = metadata_fault(&metadata) {
                return Err(Error::new(ErrorKind::Corrupt, fault).context(reading()));
            }
            let collection = collection_of(stem, Some(&metadata)).with_context(reading)?;
            let kind = definition_kind(&metadata).unwrap_or(EntryKind::Collection);
            let entry = Entry { database: database.to_owned(), collection, metadata, kind };
            // Which of the two names a time series' documents have depends on the server that was dumped.
            let buckets = layout::stem(&format!("system.buckets.{}", entry.collection));
            let documents = match kind {
                EntryKind::View => None,
                EntryKind::TimeSeries => {
                    self.documents.remove(&buckets).or_else(|| self.documents.remove(stem))
                }
                EntryKind::Collection => self.documents.remove(stem),
            };
            if documents.is_none() && kind != EntryKind::View {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("{} has no file of documents beside it", path.display()),
                )
                .with_hint("take another copy of the dump: an empty collection has an empty file"));
            }
            if entry.metadata.trim().is_empty() {
                tell_bare(observer, path);
            }
            entries.push((entry, documents));
        }
        for (stem, path) in self.documents {
            let collection =
                collection_of(&stem, None).with_context(|| format!("read {}", path.display()))?;
            let entry = Entry {
                database: database.to_owned(),
                collection,
                metadata: String::new(),
                kind: EntryKind::Collection,
            };
            if entry.collection.starts_with("system.buckets.") && entry.role() == Role::Ordinary {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("{} holds a time series whose metadata file is missing", path.display()),
                ));
            }
            if entry.role() == Role::Ordinary {
                tell_bare(observer, &path);
            }
            entries.push((entry, Some(path)));
        }
        Ok(entries)
    }
}

fn tell_bare(observer: &dyn Observer, path: &Path) {
    observer.notice(&format!(
        "warning: {} has no metadata: its collection comes without options and indexes",
        path.display()
    ));
}

/// The collection of a file. A long name is told by the metadata alone, and its stem proves it.
fn collection_of(stem: &str, metadata: Option<&str>) -> Result<String> {
    let corrupt = |why: String| Error::new(ErrorKind::Corrupt, why);
    match layout::read_stem(stem).map_err(corrupt)? {
        Stem::Name(name) => Ok(name),
        Stem::Cut => {
            let metadata: serde_json::Value =
                serde_json::from_str(metadata.unwrap_or_default()).unwrap_or_default();
            let name = metadata.get("collectionName").and_then(serde_json::Value::as_str).unwrap_or_default();
            if layout::is_stem_of(stem, name) {
                return Ok(name.to_owned());
            }
            Err(corrupt("the long name of this collection is not told by its metadata".to_owned()))
        }
    }
}

fn server_version(prelude: &str) -> String {
    let prelude: serde_json::Value = serde_json::from_str(prelude).unwrap_or_default();
    prelude.get("ServerVersion").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
}

/// A small file as text.
fn text_of(path: &Path) -> Result<String> {
    let reading = || format!("read {}", path.display());
    let mut bytes = Vec::new();
    let mut chunks =
        File::open(path).and_then(Chunks::of).map_err(|error| failed(&error)).with_context(reading)?;
    while let Some(chunk) = chunks.next().map_err(|error| failed(&error)).with_context(reading)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > METADATA_BYTES_MAX {
            return Err(Error::new(ErrorKind::Corrupt, "it has more than 64 MiB").context(reading()));
        }
    }
    String::from_utf8(bytes).map_err(|_| Error::new(ErrorKind::Corrupt, "it is not UTF-8").context(reading()))
}

/// Begins to read a file of documents.
pub(super) fn feed(path: PathBuf) -> Feed {
    let (feeding, feed) = Feed::new();
    spawn_blocking(move || {
        let last = match read(&path, &feeding) {
            Ok(()) => Fed::End,
            Err(error) => Fed::Failed(error.context(format!("read {}", path.display()))),
        };
        // Nobody listens any more when the load has failed otherwise.
        let _ = feeding.blocking_send(last);
    });
    feed
}

/// The digest of a file of documents, every frame checked, all of them shown to `show`. To be used on a thread that may wait.
pub(super) fn judge(
    path: &Path,
    mut show: impl FnMut(&[u8]),
    observer: &dyn Observer,
    cancel: &CancellationToken,
) -> Result<DocumentDigest> {
    let mut digest = DocumentDigest::default();
    each_batch(path, |batch| {
        digest.add_concatenation(&batch.bytes).expect("the framer gives framed documents");
        show(&batch.bytes);
        observer.advance(Work { items: batch.documents, bytes: batch.bytes.len() as u64 });
        !cancel.is_cancelled()
    })
    .with_context(|| format!("read {}", path.display()))?;
    if cancel.is_cancelled() { Err(interrupted()) } else { Ok(digest) }
}

/// All bytes of a file of documents, up to a bound that `keep` sets.
pub(super) fn gather(path: &Path, mut keep: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut kept = Ok(());
    each_batch(path, |batch| {
        kept = keep(&batch.bytes);
        kept.is_ok()
    })?;
    kept
}

fn read(path: &Path, feeding: &mpsc::Sender<Fed>) -> Result<()> {
    each_batch(path, |batch| feeding.blocking_send(Fed::Documents(batch)).is_ok())
}

/// Gives every batch of a file to `take`, until that says no.
fn each_batch(path: &Path, mut take: impl FnMut(mainstay_engine::DocumentBatch) -> bool) -> Result<()> {
    let unframed = |error: crate::framing::FramingError| {
        Error::new(ErrorKind::Corrupt, error.to_string())
            .with_hint("make the dump again, or take another copy of it")
    };
    let mut chunks = File::open(path).and_then(Chunks::of).map_err(|error| failed(&error))?;
    let mut framer = Framer::default();
    while let Some(chunk) = chunks.next().map_err(|error| failed(&error))? {
        for batch in framer.push(&chunk).map_err(unframed)?.into_iter().flatten() {
            if !take(batch) {
                return Ok(());
            }
        }
    }
    framer.end().map_err(unframed)
}
