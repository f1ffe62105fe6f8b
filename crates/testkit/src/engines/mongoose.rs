//! Mongoose in its current major versions, for tests of what it declares and does: installed by `npm` into the cache, never while a test runs.
//!
//! Each has a `package.json` and a `package-lock.json` of exact versions and hashes beside this file, compiled in; the lock names no registry,
//! for that is npm's own business. Relies on `node` and `npm`; npm refuses a package whose hash is not the locked one. Scripts of packages
//! are not run.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::cache::Cache;
use super::lock::Installed;
use super::{EngineError, run};

/// A major version of Mongoose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mongoose {
    /// 8, which asks for background builds everywhere.
    Eight,
    /// 9.
    Nine,
}

impl Mongoose {
    /// Both, the older first.
    pub const ALL: [Self; 2] = [Self::Eight, Self::Nine];

    /// Its name in the cache.
    pub fn name(self) -> &'static str {
        match self {
            Self::Eight => "mongoose-8",
            Self::Nine => "mongoose-9",
        }
    }

    fn manifest(self) -> &'static str {
        match self {
            Self::Eight => include_str!("mongoose-8/package.json"),
            Self::Nine => include_str!("mongoose-9/package.json"),
        }
    }

    fn lock(self) -> &'static str {
        match self {
            Self::Eight => include_str!("mongoose-8/package-lock.json"),
            Self::Nine => include_str!("mongoose-9/package-lock.json"),
        }
    }

    /// The exact version that is locked.
    fn version(self) -> Result<String, EngineError> {
        let lock: serde_json::Value =
            serde_json::from_str(self.lock()).map_err(|error| EngineError::Lock(error.to_string()))?;
        let version = lock["packages"]["node_modules/mongoose"]["version"].as_str();
        version.map(str::to_owned).ok_or_else(|| EngineError::Lock(format!("no version of {}", self.name())))
    }

    /// The `node_modules` folder that holds it.
    ///
    /// # Errors
    /// `Client` when it is not installed; the text says what to type.
    pub fn modules(self) -> Result<PathBuf, EngineError> {
        let version = self.version()?;
        let folder = Cache::open(&mut |_| ())?.exactly(&format!("{}-{version}", self.name()));
        match Installed::read(&folder) {
            Some(_) => Ok(folder.join("node_modules")),
            None => Err(EngineError::Client {
                action: format!("looking for {} {version}", self.name()),
                reason: "it is not installed\nhint: run `cargo xtask engines`".to_owned(),
            }),
        }
    }

    /// Installs it unless it is there; `report` hears one line per event. Safe to repeat and to run twice at once.
    ///
    /// # Errors
    /// What npm says.
    pub fn install(self, report: &mut dyn FnMut(&str)) -> Result<PathBuf, EngineError> {
        if let Ok(modules) = self.modules() {
            report(&format!("{:<10} {}", self.name(), modules.display()));
            return Ok(modules);
        }
        let (cache, version) = (Cache::open(report)?, self.version()?);
        let guard = cache.exclusive(report)?;
        if let Ok(modules) = self.modules() {
            return Ok(modules); // another installer was here while we waited
        }
        report(&format!("installing {} {version} with npm", self.name()));
        let staging = cache.staging()?;
        let write = |name: &str, text: &str| {
            let path = staging.path().join(name);
            fs::write(&path, text).map_err(|source| EngineError::io("write", &path, source))
        };
        write("package.json", self.manifest())?;
        write("package-lock.json", self.lock())?;
        let mut npm = Command::new("npm");
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(staging.path());
        run(&mut npm, "install with npm")?;
        Installed { version: version.clone(), packages: BTreeMap::new() }.write(staging.path())?;
        cache.publish(staging, &format!("{}-{version}", self.name()))?;
        drop(guard);
        self.modules()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn locks_name_versions_and_hashes_and_no_registry() {
        for major in Mongoose::ALL {
            assert!(major.name().ends_with(major.version().unwrap().split('.').next().unwrap()));
            let lock: serde_json::Value = serde_json::from_str(major.lock()).unwrap();
            let packages = lock["packages"].as_object().unwrap();
            let hashes = packages.values().filter(|package| package["integrity"].is_string()).count();
            assert_eq!(hashes, packages.len() - 1, "every package but the root has a hash");
            assert!(!major.lock().contains("://") && !major.manifest().contains("://"));
        }
    }
}
