//! Packages of the npm registry that tests run: installed by `npm` into the cache of engines, never while a test runs.
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
use super::{Drizzle, EngineError, Mongoose, run};

/// A package with all that it needs, in one locked version.
#[derive(Clone, Copy, Debug)]
pub struct NodePackage {
    /// Its name in the cache.
    pub(super) name: &'static str,
    /// The package whose version tells all of them apart.
    pub(super) package: &'static str,
    pub(super) manifest: &'static str,
    pub(super) lock: &'static str,
}

impl NodePackage {
    /// All that the test kit knows, in the order they are installed.
    pub fn all() -> impl Iterator<Item = Self> {
        Mongoose::ALL.map(Mongoose::package).into_iter().chain(Drizzle::ALL.map(Drizzle::package))
    }

    /// Its name in the cache.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// The exact version that is locked.
    fn version(self) -> Result<String, EngineError> {
        let lock: serde_json::Value =
            serde_json::from_str(self.lock).map_err(|error| EngineError::Lock(error.to_string()))?;
        let version = lock["packages"][format!("node_modules/{}", self.package)]["version"].as_str();
        version.map(str::to_owned).ok_or_else(|| EngineError::Lock(format!("no version of {}", self.name)))
    }

    /// The `node_modules` folder that holds it.
    ///
    /// # Errors
    /// `Client` when it is not installed; the text says what to type.
    pub fn modules(self) -> Result<PathBuf, EngineError> {
        let version = self.version()?;
        let folder = Cache::open(&mut |_| ())?.exactly(&format!("{}-{version}", self.name));
        match Installed::read(&folder) {
            Some(_) => Ok(folder.join("node_modules")),
            None => Err(EngineError::Client {
                action: format!("looking for {} {version}", self.name),
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
            report(&format!("{:<10} {}", self.name, modules.display()));
            return Ok(modules);
        }
        let (cache, version) = (Cache::open(report)?, self.version()?);
        let guard = cache.exclusive(report)?;
        if let Ok(modules) = self.modules() {
            return Ok(modules); // another installer was here while we waited
        }
        report(&format!("installing {} {version} with npm", self.name));
        let staging = cache.staging()?;
        let write = |name: &str, text: &str| {
            let path = staging.path().join(name);
            fs::write(&path, text).map_err(|source| EngineError::io("write", &path, source))
        };
        write("package.json", self.manifest)?;
        write("package-lock.json", self.lock)?;
        let mut npm = Command::new("npm");
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(staging.path());
        run(&mut npm, "install with npm")?;
        Installed { version: version.clone(), packages: BTreeMap::new() }.write(staging.path())?;
        cache.publish(staging, &format!("{}-{version}", self.name))?;
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
        for package in NodePackage::all() {
            let version = package.version().unwrap();
            assert!(package.name.ends_with(version.split('.').next().unwrap()));
            let lock: serde_json::Value = serde_json::from_str(package.lock).unwrap();
            let packages = lock["packages"].as_object().unwrap();
            let hashes = packages.values().filter(|package| package["integrity"].is_string()).count();
            assert_eq!(hashes, packages.len() - 1, "every package but the root has a hash");
            assert!(!package.lock.contains("://") && !package.manifest.contains("://"));
        }
    }
}
