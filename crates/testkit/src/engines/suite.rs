//! Engines that come as packages of a newer Debian suite than the machine's, run beside that suite's own libc.
//!
//! apt is started with a configuration of its own — its own source, lists, cache and package state — so that the
//! system's stay as they are; the mirror is the one the system itself is configured for, and the packages are
//! verified by apt against the installed archive keyring. `dpkg -x` unpacks them into one folder and a small script
//! starts each program through the loader found there.
//!
//! Relies on `apt-get`, `dpkg` and `dpkg-deb`. Refuses an archive whose signature does not check, and a package of the
//! locked version with another hash.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::lock::{self, Judgement, Seen, Suite};
use super::package::write_script;
use super::{EngineError, EngineKind, run};

const SOURCES: &str = "/etc/apt/sources.list";
const SOURCES_PARTS: &str = "/etc/apt/sources.list.d";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Downloads and unpacks the suite's packages into `folder`, and tells what came.
pub(super) fn install(
    kind: EngineKind,
    suite: &Suite,
    folder: &Path,
    report: &mut dyn FnMut(&str),
) -> Result<BTreeMap<String, Seen>, EngineError> {
    let archive = system_archive()?;
    let apt = PrivateApt::create(&folder.join("apt"), &archive, &suite.name)?;
    report(&format!("reading the package list of Debian {}", suite.name));
    apt.update()?;
    report(&format!("fetching {} packages", suite.packages.len()));
    let files = apt.download(suite.packages.keys(), &suite.name)?;
    let came = inspect(&files)?;
    compare(suite, &came, report)?;
    let system = folder.join("system");
    for file in &files {
        let mut command = Command::new("dpkg");
        command.arg("-x").arg(file).arg(&system);
        run(&mut command, "unpack a package")?;
    }
    fs::remove_dir_all(&apt.folder).map_err(|source| EngineError::io("remove", &apt.folder, source))?;
    for (program, place) in programs(kind, &system)? {
        write_script(&folder.join("bin").join(&program), &starter(&program, &place))?;
    }
    Ok(came)
}

/// The Debian archive this system is configured for.
#[derive(Debug, PartialEq, Eq)]
struct Archive {
    uri: String,
}

fn system_archive() -> Result<Archive, EngineError> {
    let mut texts = vec![(PathBuf::from(SOURCES), fs::read_to_string(SOURCES).unwrap_or_default())];
    let mut parts: Vec<PathBuf> = fs::read_dir(SOURCES_PARTS)
        .map(|entries| entries.filter_map(Result::ok).map(|entry| entry.path()).collect())
        .unwrap_or_default();
    parts.sort();
    texts.extend(parts.into_iter().map(|path| {
        let text = fs::read_to_string(&path).unwrap_or_default();
        (path, text)
    }));
    texts.iter().find_map(|(path, text)| main_archive(path, text)).ok_or_else(|| EngineError::Client {
        action: "find the Debian archive".to_owned(),
        reason: format!("no entry for it in {SOURCES} or {SOURCES_PARTS}"),
    })
}

/// The main Debian archive in one file of apt's configuration, of either form (sources.list(5)).
fn main_archive(path: &Path, text: &str) -> Option<Archive> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    let uris: Vec<&str> = match extension {
        Some("list") => text
            .lines()
            .map(|line| line.split('#').next().unwrap_or_default())
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                (words.next() == Some("deb")).then_some(())?;
                let rest: Vec<&str> = words.collect();
                // Options stand in brackets, with or without blanks inside.
                let begin = rest.iter().position(|word| word.ends_with(']')).map_or(0, |end| end + 1);
                rest.get(begin).copied()
            })
            .collect(),
        Some("sources") => text
            .split("\n\n")
            .filter(|stanza| {
                field(stanza, "Types").is_none_or(|types| types.split_whitespace().any(|t| t == "deb"))
            })
            .filter(|stanza| field(stanza, "Enabled").is_none_or(|enabled| enabled != "no"))
            .filter_map(|stanza| field(stanza, "URIs"))
            .flat_map(str::split_whitespace)
            .collect(),
        _ => Vec::new(),
    };
    uris.into_iter()
        .find(|uri| matches!(uri.trim_end_matches('/').rsplit('/').next(), Some("debian" | "debian.list")))
        .map(|uri| Archive { uri: uri.to_owned() })
}

fn field<'a>(stanza: &'a str, name: &str) -> Option<&'a str> {
    stanza.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

/// An apt that knows one suite and keeps everything in one folder.
struct PrivateApt {
    folder: PathBuf,
    configuration: PathBuf,
}

impl PrivateApt {
    fn create(folder: &Path, archive: &Archive, suite: &str) -> Result<Self, EngineError> {
        for part in ["lists/partial", "cache/archives/partial", "sources", "packages"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).map_err(|source| EngineError::io("create", &part, source))?;
        }
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            fs::write(&path, text).map_err(|source| EngineError::io("write", &path, source)).map(|()| path)
        };
        write(
            "sources/suite.sources",
            format!(
                "Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\nArchitectures: amd64\nSigned-By: {KEYRING}\n",
                archive.uri
            ),
        )?;
        write("status", String::new())?;
        // Hooks that the system runs after an update would touch the system's own state.
        let root = folder.display();
        let configuration = write(
            "apt.conf",
            format!(
                "Dir::State \"{root}\";\nDir::State::lists \"{root}/lists\";\nDir::State::status \"{root}/status\";\n\
                 Dir::Cache \"{root}/cache\";\nDir::Etc::sourcelist \"/dev/null\";\nDir::Etc::sourceparts \"{root}/sources\";\n\
                 Dir::Etc::preferencesparts \"/dev/null\";\nDir::Etc::preferences \"/dev/null\";\n\
                 APT::Architecture \"amd64\";\nAPT::Sandbox::User \"root\";\nAPT::Update::Error-Mode \"any\";\n\
                 APT::Get::AllowUnauthenticated \"false\";\nAcquire::AllowInsecureRepositories \"false\";\n\
                 Acquire::Languages \"none\";\nAcquire::Retries \"3\";\n\
                 Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
                 #clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n\
                 #clear APT::Update::Post-Invoke-Success;\n#clear DPkg::Post-Invoke;\n"
            ),
        )?;
        Ok(Self { folder: folder.to_path_buf(), configuration })
    }

    fn command(&self) -> Command {
        let mut command = Command::new("apt-get");
        command.arg("-c").arg(&self.configuration).arg("-qq").env("LC_ALL", "C");
        command
    }

    fn update(&self) -> Result<(), EngineError> {
        run(self.command().arg("update"), "read the package list").map(drop)
    }

    fn download<'a>(
        &self,
        names: impl Iterator<Item = &'a String>,
        suite: &str,
    ) -> Result<Vec<PathBuf>, EngineError> {
        let folder = self.folder.join("packages");
        let mut command = self.command();
        command.arg("download").args(names.map(|name| format!("{name}/{suite}"))).current_dir(&folder);
        run(&mut command, "download packages")?;
        let entries = fs::read_dir(&folder).map_err(|source| EngineError::io("list", &folder, source))?;
        let mut files: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
        files.sort();
        Ok(files)
    }
}

fn inspect(files: &[PathBuf]) -> Result<BTreeMap<String, Seen>, EngineError> {
    let one = |file: &PathBuf| {
        let mut command = Command::new("dpkg-deb");
        command.args(["--show", "--showformat=${Package} ${Version}"]).arg(file);
        let told = run(&mut command, "read a package's name")?;
        let told = String::from_utf8_lossy(&told).into_owned();
        let (name, version) = told
            .split_once(' ')
            .ok_or_else(|| EngineError::Lock(format!("{} tells no version", file.display())))?;
        Ok((name.to_owned(), Seen { version: version.to_owned(), sha256: lock::sha256_of(file)? }))
    };
    files.iter().map(one).collect()
}

/// Holds what came against the lock: the suite may have moved on, a locked version may not have changed.
fn compare(
    suite: &Suite,
    came: &BTreeMap<String, Seen>,
    report: &mut dyn FnMut(&str),
) -> Result<(), EngineError> {
    for (name, locked) in &suite.packages {
        let Some(seen) = came.get(name) else {
            return Err(EngineError::Lock(format!("package {name} did not come")));
        };
        match lock::judge(locked, seen) {
            Judgement::AsLocked => {}
            Judgement::Moved => report(&format!(
                "note: {name} is {} in {}, locked was {}; accepted, the archive's signature covers it",
                seen.version, suite.name, locked.version
            )),
            Judgement::Forged => {
                return Err(EngineError::Hash {
                    file: format!("{name} {}", seen.version),
                    expected: locked.sha256.clone(),
                    got: seen.sha256.clone(),
                });
            }
        }
    }
    Ok(())
}

/// The programs of an engine and where each lies below the unpacked system.
fn programs(kind: EngineKind, system: &Path) -> Result<Vec<(String, String)>, EngineError> {
    match kind {
        EngineKind::PgClient => {
            let place = "usr/lib/postgresql/18/bin";
            let folder = system.join(place);
            let entries = fs::read_dir(&folder).map_err(|source| EngineError::io("list", &folder, source))?;
            let names =
                entries.filter_map(Result::ok).filter_map(|entry| entry.file_name().into_string().ok());
            Ok(names.map(|name| (name.clone(), format!("{place}/{name}"))).collect())
        }
        EngineKind::Valkey => Ok(["valkey-server", "valkey-cli", "valkey-check-rdb", "valkey-check-aof"]
            .map(|name| (name.to_owned(), format!("usr/bin/{name}")))
            .into()),
        _ => Ok(["redis-server", "redis-cli", "redis-check-rdb", "redis-check-aof"]
            .map(|name| (name.to_owned(), format!("usr/bin/{name}")))
            .into()),
    }
}

/// `--argv0` because Redis tells its programs apart by the name they were called by.
fn starter(program: &str, place: &str) -> String {
    format!(
        "#!/bin/sh\n\
         # Starts the program through the loader and libraries of the suite it was built in.\n\
         system=\"${{0%/*}}/../system\"\n\
         exec \"$system/usr/lib64/ld-linux-x86-64.so.2\" --argv0 {program} \\\n  \
         --library-path \"$system/usr/lib/x86_64-linux-gnu\" \"$system/{place}\" \"$@\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(name: &str, text: &str) -> Option<String> {
        main_archive(Path::new(name), text).map(|archive| archive.uri)
    }

    #[test]
    fn the_archive_is_read_from_either_form() {
        let deb822 = "Types: deb\n# a comment\nURIs: http://mirror.example/debian\nSuites: bookworm\n\n\
                      Types: deb\nURIs: http://mirror.example/debian-security\nSuites: bookworm-security\n";
        assert_eq!(uri("debian.sources", deb822).as_deref(), Some("http://mirror.example/debian"));
        let list = "# deb http://old.example/debian bookworm main\n\
                    deb-src http://mirror.example/debian bookworm main\n\
                    deb http://mirror.example/debian-security bookworm-security main\n\
                    deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian/ bookworm main\n";
        assert_eq!(uri("a.list", list).as_deref(), Some("http://mirror.example/debian/"));
        assert_eq!(
            uri("a.list", "deb [ arch=amd64 ] http://m.example/debian sid main").as_deref(),
            Some("http://m.example/debian")
        );
    }

    #[test]
    fn other_archives_and_switched_off_entries_are_passed_over() {
        assert_eq!(uri("x.sources", "Types: deb\nURIs: http://m.example/ubuntu\nSuites: noble\n"), None);
        assert_eq!(uri("x.sources", "Enabled: no\nTypes: deb\nURIs: http://m.example/debian\n"), None);
        assert_eq!(uri("x.sources", "Types: deb-src\nURIs: http://m.example/debian\n"), None);
        assert_eq!(uri("x.list.disabled", "deb http://m.example/debian sid main"), None);
    }
}
