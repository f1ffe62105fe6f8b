//! Where installed engines live: `engines/<name>-<version>/` under the cache folder, each whole or absent.
//!
//! The cache folder is `$MAINSTAY_CACHE`, else `$XDG_CACHE_HOME/mainstay`, else `$HOME/.cache/mainstay`. PostgreSQL
//! refuses to run as root, so under root its programs are executed by the unprivileged user `nobody`, who must be able
//! to walk to them. A folder below a closed home directory (mode 0700) cannot serve: then, under root only,
//! `/var/cache/mainstay` is used for the engines and a line says so.
//!
//! Relies on rename within one file system being atomic and on advisory file locks. Refuses to change the mode of any
//! folder but its own.

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::EngineError;
use super::lock::Installed;

const SHARED: &str = "/var/cache/mainstay";

/// The cache folder, created.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Decides on the folder and creates it; `report` hears when the usual place cannot serve.
    ///
    /// # Errors
    /// When no folder is named by the environment or it cannot be created.
    pub fn open(report: &mut dyn FnMut(&str)) -> Result<Self, EngineError> {
        let usual = usual_folder()?;
        create_open(&usual)?;
        if !rustix::process::geteuid().is_root() || is_traversable(&usual) {
            return Ok(Self { root: usual });
        }
        let shared = PathBuf::from(SHARED);
        create_open(&shared)?;
        report(&format!(
            "engines go to {SHARED}: {} is closed to other users, and PostgreSQL does not run as root",
            usual.display()
        ));
        Ok(Self { root: shared })
    }

    /// The cache folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The installed engine of a name: the version in `engines.lock.toml` if present, else the last by name.
    pub(super) fn installed(&self, name: &str) -> Option<PathBuf> {
        let locked = super::lock::engine(name).ok().map(|lock| format!("{name}-{}", lock.version));
        let engines = self.engines();
        let mut folders: Vec<PathBuf> = fs::read_dir(&engines)
            .ok()?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .filter(|path| version_suffix(path, name).is_some() && Installed::read(path).is_some())
            .collect();
        folders.sort();
        let exact =
            folders.iter().find(|path| path.file_name().and_then(|n| n.to_str()) == locked.as_deref());
        exact.or(folders.last()).cloned()
    }

    /// Where what is called so is installed, if it is.
    pub(super) fn exactly(&self, name: &str) -> PathBuf {
        self.engines().join(name)
    }

    /// Waits until no other process installs; the lock ends with the returned file.
    pub(super) fn exclusive(&self, report: &mut dyn FnMut(&str)) -> Result<File, EngineError> {
        let path = self.root.join("engines.lock");
        let file = File::create(&path).map_err(|source| EngineError::io("create", &path, source))?;
        if file.try_lock().is_err() {
            report("waiting for another installer");
            file.lock().map_err(|source| EngineError::io("lock", &path, source))?;
        }
        Ok(file)
    }

    /// A folder beside the installed engines to unpack into; removed unless published.
    pub(super) fn staging(&self) -> Result<TempDir, EngineError> {
        let engines = self.engines();
        create_open(&engines)?;
        let staging = tempfile::Builder::new()
            .prefix(".unpack-")
            .tempdir_in(&engines)
            .map_err(|source| EngineError::io("create a folder in", &engines, source))?;
        Ok(staging)
    }

    /// Moves a staged folder to its final name, readable by everyone.
    pub(super) fn publish(&self, staging: TempDir, name: &str) -> Result<(), EngineError> {
        open_to_all(staging.path())?;
        let target = self.engines().join(name);
        if target.exists() {
            fs::remove_dir_all(&target).map_err(|source| EngineError::io("remove", &target, source))?;
        }
        let staged = staging.keep();
        fs::rename(&staged, &target).map_err(|source| EngineError::io("rename to", &target, source))
    }

    /// The folder of fetched files whose hash is locked; a file placed there by hand is used when its hash fits.
    pub(super) fn downloads(&self) -> Result<PathBuf, EngineError> {
        let folder = self.root.join("downloads");
        create_open(&folder)?;
        Ok(folder)
    }

    /// The folder of data folders made once and copied for every server.
    pub(crate) fn templates(&self) -> Result<PathBuf, EngineError> {
        let folder = self.root.join("templates");
        create_open(&folder)?;
        Ok(folder)
    }

    fn engines(&self) -> PathBuf {
        self.root.join("engines")
    }
}

fn usual_folder() -> Result<PathBuf, EngineError> {
    let named = |variable: &str| env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    named("MAINSTAY_CACHE")
        .or_else(|| named("XDG_CACHE_HOME").map(|folder| folder.join("mainstay")))
        .or_else(|| named("HOME").map(|folder| folder.join(".cache").join("mainstay")))
        .map(|folder| std::path::absolute(&folder).unwrap_or(folder))
        .ok_or_else(|| EngineError::Client {
            action: "choose a cache folder".to_owned(),
            reason: "none of MAINSTAY_CACHE, XDG_CACHE_HOME and HOME is set".to_owned(),
        })
}

/// Creates the folder; makes a folder of ours walkable, since PostgreSQL may have to reach it as another user.
fn create_open(folder: &Path) -> Result<(), EngineError> {
    fs::create_dir_all(folder).map_err(|source| EngineError::io("create", folder, source))?;
    let found = fs::metadata(folder).map_err(|source| EngineError::io("read", folder, source))?;
    let ours = found.uid() == rustix::process::geteuid().as_raw();
    if ours && found.mode() & 0o055 != 0o055 {
        let mode = fs::Permissions::from_mode((found.mode() & 0o7777) | 0o055);
        fs::set_permissions(folder, mode)
            .map_err(|source| EngineError::io("set the mode of", folder, source))?;
    }
    Ok(())
}

/// Whether every user may walk to this folder.
pub(crate) fn is_traversable(folder: &Path) -> bool {
    let Ok(real) = fs::canonicalize(folder) else { return false };
    real.ancestors().all(|part| fs::metadata(part).is_ok_and(|found| found.mode() & 0o001 != 0))
}

/// Adds what a narrow umask took away: read for all, walk for all where the owner may.
fn open_to_all(folder: &Path) -> Result<(), EngineError> {
    let mut open = vec![folder.to_path_buf()];
    while let Some(path) = open.pop() {
        let found = fs::symlink_metadata(&path).map_err(|source| EngineError::io("read", &path, source))?;
        if found.is_symlink() {
            continue;
        }
        let walk = if found.is_dir() || found.mode() & 0o100 != 0 { 0o555 } else { 0o444 };
        let mode = fs::Permissions::from_mode((found.mode() & 0o7777) | walk);
        fs::set_permissions(&path, mode)
            .map_err(|source| EngineError::io("set the mode of", &path, source))?;
        if found.is_dir() {
            let entries = fs::read_dir(&path).map_err(|source| EngineError::io("list", &path, source))?;
            open.extend(entries.filter_map(Result::ok).map(|entry| entry.path()));
        }
    }
    Ok(())
}

/// The version in `<name>-<version>`; names may hold dashes themselves (`pg-client`), versions begin with a digit.
fn version_suffix<'a>(path: &'a Path, name: &str) -> Option<&'a str> {
    let rest = path.file_name()?.to_str()?.strip_prefix(name)?.strip_prefix('-')?;
    rest.starts_with(|c: char| c.is_ascii_digit()).then_some(rest)
}
