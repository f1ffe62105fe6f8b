//! What an operation does to the world, and how protected the world is where it does it.

use serde::{Deserialize, Serialize};

/// What an operation does, from harmless to final. The order is the order of danger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Reads only.
    Read,
    /// Adds something that can be taken away again: a backup, an index, a new database.
    Additive,
    /// Disturbs users for a while: kills an operation, fences writers, changes a setting.
    Disruptive,
    /// Destroys data that a verified backup can bring back.
    Destructive,
    /// Destroys what nothing can bring back.
    Irreversible,
}

impl Effect {
    /// The word used in plans and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Additive => "additive",
            Self::Disruptive => "disruptive",
            Self::Destructive => "destructive",
            Self::Irreversible => "irreversible",
        }
    }
}

/// How protected an environment is. The order is the order of protection; what is unknown is [`EnvironmentClass::Production`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnvironmentClass {
    /// May be lost at any time.
    Development,
    /// Shared, rebuilt with some effort.
    Staging,
    /// Holds the only copy of somebody's data, or is not known not to.
    Production,
}

impl EnvironmentClass {
    /// The word used in configuration, markers and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Staging => "staging",
            Self::Production => "production",
        }
    }
}

impl std::fmt::Display for EnvironmentClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::fmt::Display for Effect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
