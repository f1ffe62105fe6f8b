//! What the manifest of a set says that holds an append-only file.

use std::path::PathBuf;

use mainstay_engine::{KeyspaceSize, ServerFacts};
use mainstay_model::{ObjectName, Timestamp};
use mainstay_repository::Set;
use serde::{Deserialize, Serialize};

/// The contents of a set that holds a server's append-only file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppendOnlySetContents {
    /// The environment it was taken from.
    pub environment: String,
    /// The server it was taken from.
    pub server: ServerFacts,
    /// The file.
    pub append_only: AppendOnlyRecord,
}

/// An append-only file: several files, and the server's list of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppendOnlyRecord {
    /// The folder that it was taken from, as this machine sees it.
    pub folder: PathBuf,
    /// What the server calls the list, such as `appendonly.aof.manifest`.
    pub manifest: String,
    /// The object with the list.
    pub object: ObjectName,
    /// When the files were held: what the server had written by then is in them.
    pub held_at: Timestamp,
    /// The files in the order in which a server reads them.
    pub files: Vec<AppendOnlyFile>,
}

/// One of the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppendOnlyFile {
    /// What the server calls it.
    pub name: String,
    /// What it holds.
    pub form: FileForm,
    /// The object with its bytes.
    pub object: ObjectName,
    /// Its bytes.
    pub bytes: u64,
    /// Bytes at its end that are a command which was not written whole: of the last file alone, and as good as absent.
    pub torn_bytes: u64,
    /// Databases and their keys, of a database file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub databases: Vec<KeyspaceSize>,
    /// Commands, of a file of commands.
    pub commands: u64,
}

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileForm {
    /// A database file: all keys as they were.
    Keys,
    /// Commands that made the keys what they are.
    Commands,
}

impl AppendOnlySetContents {
    /// Whether `set` holds an append-only file, and not a database file.
    pub fn is_of(set: &Set) -> bool {
        set.manifest().contents.get("append_only").is_some()
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.append_only.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add)
    }

    /// Keys of the base; what the commands behind it made of them, a server alone knows.
    pub fn base_keys(&self) -> u64 {
        let databases = self.append_only.files.iter().flat_map(|file| &file.databases);
        databases.map(|size| size.keys).fold(0, u64::saturating_add)
    }

    /// Commands of all files.
    pub fn commands(&self) -> u64 {
        self.append_only.files.iter().map(|file| file.commands).fold(0, u64::saturating_add)
    }

    /// Bytes of a command that was not written whole.
    pub fn torn_bytes(&self) -> u64 {
        self.append_only.files.iter().map(|file| file.torn_bytes).fold(0, u64::saturating_add)
    }
}
