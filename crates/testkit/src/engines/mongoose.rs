//! Mongoose in its current major versions, for tests of what it declares and does.

use std::path::PathBuf;

use super::EngineError;
use super::node_package::NodePackage;

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

    /// What npm installs.
    pub fn package(self) -> NodePackage {
        let (name, manifest, lock) = match self {
            Self::Eight => (
                "mongoose-8",
                include_str!("mongoose-8/package.json"),
                include_str!("mongoose-8/package-lock.json"),
            ),
            Self::Nine => (
                "mongoose-9",
                include_str!("mongoose-9/package.json"),
                include_str!("mongoose-9/package-lock.json"),
            ),
        };
        NodePackage { name, package: "mongoose", manifest, lock }
    }

    /// The `node_modules` folder that holds it.
    ///
    /// # Errors
    /// `Client` when it is not installed; the text says what to type.
    pub fn modules(self) -> Result<PathBuf, EngineError> {
        self.package().modules()
    }
}
