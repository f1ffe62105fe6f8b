//! Holding the files of an append-only file as they are at one moment, by hard links.
//!
//! A server lists its files in a manifest, appends to the last of them, and removes what a rewrite has replaced. So every listed file gets a second
//! name in a folder beside, and then the list is read again: where it is the same, the links are the files of one moment; where a rewrite came in
//! between, they are made anew. The last file grows on, so its length is noted: what lies before it does not change any more.
//!
//! The folder of links has a lock in it while somebody works with it, and goes when that ends. One that a killed run has left has nobody's lock,
//! and is removed by the next. Nothing but links of its own is ever removed, and nothing of the server's is touched.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind as IoErrorKind, Read as _};
use std::path::{Path, PathBuf};

use mainstay_model::{Error, ErrorKind, Result};
use mainstay_rdb::manifest::{LogFile, LogFileKind, LogManifest};

use super::FileForm;
use crate::place::storage;

/// What the name of a server's list ends in.
const MANIFEST_SUFFIX: &str = ".manifest";
/// What the name of the folder of links begins with.
const LINKS_PREFIX: &str = ".mainstay-links-";
/// The lock in it.
const LOCK: &str = "lock";
/// How often rewrites may come in between.
const TRIES_MAX: usize = 20;

/// Files that stay as they are while this is held.
#[derive(Debug)]
pub(super) struct Links {
    folder: PathBuf,
    /// What the server calls its list.
    pub(super) manifest_name: String,
    /// The list.
    pub(super) manifest: LogManifest,
    /// Each file with what it holds and its length, in the list's order.
    pub(super) files: Vec<Held>,
    /// How often the list had changed meanwhile.
    pub(super) retries: usize,
    _lock: File,
}

/// A file that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) name: String,
    pub(super) form: FileForm,
    pub(super) bytes: u64,
}

impl Links {
    /// Holds the files of the append-only file in `folder`.
    ///
    /// # Errors
    /// `Precondition` when there is no such file, or it lies on another filesystem than the folder that it is in; `Locked` when another backup holds
    /// it now; `Conflict` when it is rewritten again and again; `Corrupt` when its list is none; `Storage`.
    pub(super) fn make(folder: &Path) -> Result<Self> {
        Self::make_with(folder, || {})
    }

    /// The same; `between` is called between the two readings of the list.
    fn make_with(folder: &Path, mut between: impl FnMut()) -> Result<Self> {
        let manifest_name = manifest_name(folder)?;
        let (_, manifest) = read_manifest(folder, &manifest_name)?;
        let (links, lock) = claim(folder)?;
        // From here on the folder of links goes with this, whatever happens.
        let mut held =
            Self { folder: links, manifest_name, manifest, files: Vec::new(), retries: 0, _lock: lock };
        while held.retries < TRIES_MAX {
            let (before, manifest) = read_manifest(folder, &held.manifest_name)?;
            let linked = held.link_all(folder, &manifest)?;
            between();
            match linked {
                Some(files) if read_manifest(folder, &held.manifest_name)?.0 == before => {
                    (held.manifest, held.files) = (manifest, files);
                    return Ok(held);
                }
                _ => {
                    clear(&held.folder).map_err(|error| storage("empty", &held.folder, error))?;
                    held.retries += 1;
                }
            }
        }
        Err(Error::new(ErrorKind::Conflict, format!("{} is rewritten all the time", folder.display()))
            .with_state("nothing was stored")
            .with_hint("try again when there are fewer writes, or raise `auto-aof-rewrite-percentage`"))
    }

    /// Links every file of the list; `None` when one is gone by now, because a rewrite has replaced it.
    fn link_all(&self, folder: &Path, manifest: &LogManifest) -> Result<Option<Vec<Held>>> {
        let mut files = Vec::new();
        for file in manifest.current() {
            let form = form_of(file)?;
            let (from, to) = (folder.join(&file.name), self.path(&file.name));
            match fs::hard_link(&from, &to) {
                Ok(()) => {}
                Err(error) if error.kind() == IoErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(not_linked(&from, &self.folder, error)),
            }
            let metadata = fs::symlink_metadata(&to).map_err(|error| storage("look at", &to, error))?;
            if !metadata.is_file() {
                let message = format!("{} is no plain file", from.display());
                return Err(Error::new(ErrorKind::Corrupt, message).with_state("nothing was stored"));
            }
            files.push(Held { name: file.name.clone(), form, bytes: metadata.len() });
        }
        Ok(Some(files))
    }

    /// Where a file is held.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next backup.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What a file holds, by the name that a server gives it.
fn form_of(file: &LogFile) -> Result<FileForm> {
    match file.kind {
        LogFileKind::Base if file.name.ends_with(".base.rdb") => Ok(FileForm::Keys),
        LogFileKind::Base if !file.name.ends_with(".base.aof") => Err(single_file(&file.name)),
        _ => Ok(FileForm::Commands),
    }
}

fn single_file(name: &str) -> Error {
    Error::new(ErrorKind::Precondition, format!("{name} is the single file of an older server"))
        .with_state("nothing was stored")
        .with_hint("`BGREWRITEAOF` makes a base of its own; or take a backup without --append-only-dir")
}

/// The name of the one list in `folder`.
///
/// # Errors
/// `Precondition` when there is none, or more than one.
pub(super) fn manifest_name(folder: &Path) -> Result<String> {
    let refuse = |message: String, hint: &str| {
        Err(Error::new(ErrorKind::Precondition, message).with_state("nothing was stored").with_hint(hint))
    };
    let shown = folder.display();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == IoErrorKind::NotADirectory => {
            return refuse(
                format!("{shown} is a file"),
                "name the folder of an append-only file of Redis 7 or later: `CONFIG GET appenddirname`",
            );
        }
        Err(error) if error.kind() == IoErrorKind::NotFound => {
            return refuse(
                format!("there is no folder {shown}"),
                "name the server's `dir` and `appenddirname`, as this machine sees them",
            );
        }
        Err(error) => return Err(storage("look at", folder, error)),
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut found: Vec<String> = names.filter(|name| name.ends_with(MANIFEST_SUFFIX)).collect();
    match (found.pop(), found.is_empty()) {
        (Some(name), true) => Ok(name),
        (Some(_), false) => refuse(
            format!("{shown} holds the lists of more than one server"),
            "give each server an `appenddirname` of its own",
        ),
        (None, _) => refuse(
            format!("{shown} holds no list of an append-only file"),
            "a server has one when `appendonly` is yes and its first rewrite has ended",
        ),
    }
}

fn read_manifest(folder: &Path, name: &str) -> Result<(Vec<u8>, LogManifest)> {
    let path = folder.join(name);
    let mut text = Vec::new();
    // One byte more than is believed tells that there is too much.
    let most = LogManifest::BYTES_MAX as u64 + 1;
    let read = File::open(&path).and_then(|file| file.take(most).read_to_end(&mut text));
    read.map_err(|error| storage("read", &path, error))?;
    let manifest = LogManifest::parse(&text).map_err(|fault| {
        Error::new(ErrorKind::Corrupt, format!("{} is no list of files: {fault}", path.display()))
            .with_state("nothing was stored")
            .with_hint("the server itself would not start from it: look into its log")
    })?;
    let names_some = manifest.current().next().is_some();
    match names_some {
        true => Ok((text, manifest)),
        false => Err(Error::new(ErrorKind::Precondition, format!("{} names no file", path.display()))
            .with_state("nothing was stored")
            .with_hint("a server has files when its first rewrite has ended")),
    }
}

/// Makes the folder of links beside `folder`, or empties the one that a killed run left.
fn claim(folder: &Path) -> Result<(PathBuf, File)> {
    let name = folder.file_name().and_then(|name| name.to_str());
    let (Some(above), Some(name)) = (folder.parent(), name) else {
        let message = format!("{} is no folder of an append-only file", folder.display());
        return Err(Error::new(ErrorKind::Precondition, message).with_state("nothing was stored"));
    };
    let links = above.join(format!("{LINKS_PREFIX}{name}"));
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(&links) {
        Err(error) if error.kind() != IoErrorKind::AlreadyExists => {
            return Err(storage("make", &links, error).with_hint(
                "run this as a user who may write beside the server's folder: as the server's own",
            ));
        }
        _ => {}
    }
    let path = links.join(LOCK);
    let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let lock = opened.map_err(|error| storage("write", &path, error))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let message = format!("another backup holds the files of {} now", folder.display());
            return Err(Error::new(ErrorKind::Locked, message).with_state("nothing was stored"));
        }
        Err(TryLockError::Error(error)) => return Err(storage("lock", &path, error)),
    }
    clear(&links).map_err(|error| storage("empty", &links, error))?;
    Ok((links, lock))
}

/// Removes every link, and leaves the lock.
fn clear(links: &Path) -> io::Result<()> {
    for entry in fs::read_dir(links)? {
        let entry = entry?;
        if entry.file_name() != LOCK {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn not_linked(from: &Path, links: &Path, error: io::Error) -> Error {
    match error.kind() {
        IoErrorKind::CrossesDevices => Error::new(
            ErrorKind::Precondition,
            format!("{} lies on another filesystem than {}", from.display(), links.display()),
        )
        .with_state("nothing was stored")
        .with_hint("mount the server's whole `dir`, not its `appenddirname` by itself; or take a backup without --append-only-dir"),
        IoErrorKind::PermissionDenied => Error::new(
            ErrorKind::Auth,
            format!("{} cannot be linked: {error}", from.display()),
        )
        .with_state("nothing was stored")
        .with_hint("run this as the user that the server runs as"),
        _ => storage("link", from, error).with_state("nothing was stored"),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// A folder of its own, which goes.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let place = std::env::temp_dir().join(format!("mainstay-links-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&place);
            fs::create_dir_all(place.join("appendonlydir")).unwrap();
            Self(place)
        }

        fn folder(&self) -> PathBuf {
            self.0.join("appendonlydir")
        }

        /// What a server has after its rewrite of this number.
        fn rewrite(&self, number: u64) {
            let folder = self.folder();
            let (base, log) = (format!("a.aof.{number}.base.rdb"), format!("a.aof.{number}.incr.aof"));
            fs::write(folder.join(&base), format!("base {number}")).unwrap();
            fs::write(folder.join(&log), format!("commands {number}")).unwrap();
            let text = format!("file {base} seq {number} type b\nfile {log} seq {number} type i\n");
            fs::write(folder.join("temp"), text).unwrap();
            fs::rename(folder.join("temp"), folder.join("a.aof.manifest")).unwrap();
            if number > 1 {
                for kind in ["base.rdb", "incr.aof"] {
                    fs::remove_file(folder.join(format!("a.aof.{}.{kind}", number - 1))).unwrap();
                }
            }
        }

        fn above(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_rewrite_in_between_makes_the_links_anew() {
        let place = Place::new("rewrite");
        place.rewrite(1);
        let mut rewrites = 1;
        let links = Links::make_with(&place.folder(), || {
            if rewrites < 3 {
                rewrites += 1;
                place.rewrite(rewrites);
            }
        })
        .unwrap();
        assert_eq!(links.retries, 2);
        let names: Vec<&str> = links.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["a.aof.3.base.rdb", "a.aof.3.incr.aof"]);
        // What the server removes and appends from now on changes nothing of what is held.
        place.rewrite(4);
        assert_eq!(fs::read(links.path("a.aof.3.base.rdb")).unwrap(), b"base 3");
        assert_eq!(links.files[1], Held { name: names[1].to_owned(), form: FileForm::Commands, bytes: 10 });
        assert_eq!(Links::make(&place.folder()).unwrap_err().kind(), ErrorKind::Locked);
        drop(links);
        assert_eq!(place.above(), ["appendonlydir"]);
        let mut number = 4;
        let endless = Links::make_with(&place.folder(), || {
            number += 1;
            place.rewrite(number);
        });
        assert_eq!(endless.unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(place.above(), ["appendonlydir"]);
    }

    #[test]
    fn what_a_killed_run_left_is_removed() {
        let place = Place::new("killed");
        place.rewrite(1);
        let left = place.0.join(".mainstay-links-appendonlydir");
        fs::create_dir(&left).unwrap();
        fs::write(left.join(LOCK), "").unwrap();
        fs::hard_link(place.folder().join("a.aof.1.base.rdb"), left.join("a.aof.1.base.rdb")).unwrap();
        place.rewrite(2);
        let links = Links::make(&place.folder()).unwrap();
        assert!(!links.path("a.aof.1.base.rdb").exists() && links.path("a.aof.2.base.rdb").exists());
    }

    #[test]
    fn what_is_no_such_file_is_refused() {
        let place = Place::new("refused");
        let refused = |kind: ErrorKind, text: &str| {
            let error = Links::make(&place.folder()).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(text), "{error}");
            assert_eq!(place.above(), ["appendonlydir"], "{error}");
        };
        refused(ErrorKind::Precondition, "no list");
        let list = place.folder().join("a.aof.manifest");
        fs::write(&list, "file a.aof seq 1 type b\n").unwrap();
        fs::write(place.folder().join("a.aof"), "*1").unwrap();
        refused(ErrorKind::Precondition, "older server");
        fs::write(&list, "file ../../a.base.rdb seq 1 type b\n").unwrap();
        refused(ErrorKind::Corrupt, "elsewhere");
        fs::write(&list, "").unwrap();
        refused(ErrorKind::Precondition, "names no file");
        fs::write(place.folder().join("b.manifest"), "").unwrap();
        refused(ErrorKind::Precondition, "more than one");
        let file = Links::make(&list).unwrap_err();
        assert!(file.to_string().contains("is a file"), "{file}");
    }
}
