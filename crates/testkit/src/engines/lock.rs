//! `engines.lock.toml`: what is fetched, from where, and the SHA-256 of every file.
//!
//! A file fetched by exact version (`pip`, `npm`) must have the locked hash. The packages of a Debian suite move: there
//! the archive's signature, checked by apt, is what is trusted; the lock records what was seen, a newer version is
//! accepted with a note, and the same version with another hash is refused.
//!
//! The lock is compiled in, so that tests need no path. Refuses unknown keys.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::EngineError;

const LOCK: &str = include_str!("../../../../engines.lock.toml");
const RECORD: &str = "installed.toml";

/// One engine as locked.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct EngineLock {
    /// The version of the engine, as its program tells it.
    pub(crate) version: String,
    #[serde(flatten)]
    pub(crate) source: Source,
}

impl EngineLock {
    /// Holds the packages an installation was made from against the lock.
    pub(super) fn check(&self, installed: &Installed) -> Result<(), EngineError> {
        let locked: BTreeMap<&String, Seen> = match &self.source {
            Source::Pip(file) | Source::Npm(file) => {
                [(&file.package, Seen { version: file.version.clone(), sha256: file.sha256.clone() })].into()
            }
            Source::Suite(suite) => suite.packages.iter().map(|(name, seen)| (name, seen.clone())).collect(),
        };
        for (name, locked) in locked {
            let Some(came) = installed.packages.get(name) else { continue };
            if judge(&locked, came) == Judgement::Forged {
                let file = format!("{name} {}", came.version);
                return Err(EngineError::Hash { file, expected: locked.sha256, got: came.sha256.clone() });
            }
        }
        Ok(())
    }
}

/// Where an engine's packages come from.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Source {
    /// A Python wheel.
    Pip(PinnedFile),
    /// An npm package.
    Npm(PinnedFile),
    /// Packages of a Debian suite.
    Suite(Suite),
}

impl Source {
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Pip(file) => format!("the Python package {} {}", file.package, file.version),
            Self::Npm(file) => format!("the npm package {} {}", file.package, file.version),
            Self::Suite(suite) => format!("{} packages of Debian {}", suite.packages.len(), suite.name),
        }
    }
}

/// A file named exactly.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PinnedFile {
    pub(crate) package: String,
    pub(crate) version: String,
    pub(crate) file: String,
    pub(crate) sha256: String,
}

/// Packages of a suite by name, each with what was last seen of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Suite {
    pub(crate) name: String,
    pub(crate) packages: BTreeMap<String, Seen>,
}

/// A version of a package and the hash of its file.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// The package's version.
    pub version: String,
    /// The SHA-256 of its file, hexadecimal.
    pub sha256: String,
}

/// What stands beside an installed engine: its version and the packages it came from.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Installed {
    /// The version its program tells.
    pub version: String,
    /// The packages it was made from.
    pub packages: BTreeMap<String, Seen>,
}

impl Installed {
    /// The record in an engine's folder, if it is there and whole.
    pub fn read(folder: &Path) -> Option<Self> {
        toml::from_str(&fs::read_to_string(folder.join(RECORD)).ok()?).ok()
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), EngineError> {
        let path = folder.join(RECORD);
        let text = toml::to_string(self).map_err(|error| EngineError::Lock(error.to_string()))?;
        fs::write(&path, text).map_err(|source| EngineError::io("write", &path, source))
    }
}

/// The locked engine of this name.
pub(crate) fn engine(name: &str) -> Result<EngineLock, EngineError> {
    let mut engines: BTreeMap<String, EngineLock> =
        toml::from_str(LOCK).map_err(|error| EngineError::Lock(error.to_string()))?;
    engines.remove(name).ok_or_else(|| EngineError::Lock(format!("no engine named {name}")))
}

/// The SHA-256 of a file, hexadecimal.
pub(super) fn sha256_of(path: &Path) -> Result<String, EngineError> {
    let read = |source| EngineError::io("read", path, source);
    let mut file = fs::File::open(path).map_err(read)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).map_err(read)? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Compares a fetched file with its locked hash.
pub(super) fn check_hash(path: &Path, file: &PinnedFile) -> Result<(), EngineError> {
    let got = sha256_of(path)?;
    if got == file.sha256 {
        return Ok(());
    }
    Err(EngineError::Hash { file: file.file.clone(), expected: file.sha256.clone(), got })
}

/// What to make of a package of a moving suite.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// The locked version with the locked hash.
    AsLocked,
    /// A version not locked; apt has checked it against the archive's signature.
    Moved,
    /// The locked version with another hash.
    Forged,
}

/// Judges a package that apt has let through.
pub(super) fn judge(locked: &Seen, came: &Seen) -> Judgement {
    match (locked.version == came.version, locked.sha256 == came.sha256) {
        (true, true) => Judgement::AsLocked,
        (true, false) => Judgement::Forged,
        (false, _) => Judgement::Moved,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::engines::EngineKind;

    #[test]
    fn every_engine_is_locked() {
        for kind in EngineKind::ALL {
            let lock = engine(kind.name()).unwrap();
            assert!(lock.version.starts_with(|c: char| c.is_ascii_digit()));
            let hashes: Vec<String> = match lock.source {
                Source::Pip(file) | Source::Npm(file) => vec![file.sha256],
                Source::Suite(suite) => suite.packages.into_values().map(|seen| seen.sha256).collect(),
            };
            assert!(hashes.iter().all(|hash| hash.len() == 64), "{hashes:?}");
        }
    }

    #[test]
    fn another_hash_names_the_file_and_both_hashes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc.whl");
        fs::write(&path, "abc").unwrap();
        // SHA-256 of "abc", from FIPS 180-2 appendix B.1.
        let right = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let mut file = PinnedFile {
            package: "abc".to_owned(),
            version: "1".to_owned(),
            file: "abc.whl".to_owned(),
            sha256: right.to_owned(),
        };
        check_hash(&path, &file).unwrap();
        file.sha256 = "00".repeat(32);
        let text = check_hash(&path, &file).unwrap_err().to_string();
        assert!(text.contains("abc.whl") && text.contains(right) && text.contains(&file.sha256), "{text}");
    }

    #[test]
    fn a_suite_may_move_but_not_lie() {
        let seen =
            |version: &str, sha256: &str| Seen { version: version.to_owned(), sha256: sha256.to_owned() };
        let locked = seen("1.0-1", "aa");
        assert_eq!(judge(&locked, &seen("1.0-1", "aa")), Judgement::AsLocked);
        assert_eq!(judge(&locked, &seen("1.0-2", "bb")), Judgement::Moved);
        assert_eq!(judge(&locked, &seen("1.0-1", "bb")), Judgement::Forged);
    }
}
