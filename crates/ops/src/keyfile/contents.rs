//! What the manifest of a set says that holds a store's own file of all its keys.

use mainstay_engine::{KeyServerName, KeyServerProgram, KeyspaceSize, ReplicationPoint, ServerFacts};
use mainstay_guard::BackupEvidence;
use mainstay_model::{ObjectName, Result, StoreKind};
use mainstay_repository::{Repository, Set};
use serde::{Deserialize, Serialize};

use crate::verify::evidence_among;

/// The role of the file.
pub(super) const ROLE_KEY_FILE: &str = "key_file";

/// The contents of a set that holds a server's file of all its keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFileSetContents {
    /// The environment it was taken from.
    pub environment: String,
    /// The server it was taken from.
    pub server: ServerFacts,
    /// The object with the file, as the server wrote it.
    pub file: ObjectName,
    /// Its bytes.
    pub bytes: u64,
    /// The version of its form.
    pub version: u32,
    /// Databases and their keys, counted in the file.
    pub databases: Vec<KeyspaceSize>,
    /// Libraries of functions.
    pub functions: u64,
    /// The place in the server's stream of changes that the file shows; absent when the server keeps none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<ReplicationPoint>,
    /// The database that the stream has selected there; absent when it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_database: Option<u64>,
    /// What wrote the file, as that says; absent in older sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<KeyServerProgram>,
    /// Whether the process that wrote the file sent it itself.
    pub direct: bool,
}

/// From this version of the form on it is Valkey's own; up to this one Redis and Valkey read each other's.
const VALKEY_VERSION_MIN: u32 = 80;
const SHARED_VERSION_MAX: u32 = 11;

impl KeyFileSetContents {
    /// What wrote the file, also of sets that do not say it.
    pub fn program(&self) -> KeyServerProgram {
        let guessed = || KeyServerProgram {
            name: if self.version >= VALKEY_VERSION_MIN {
                KeyServerName::Valkey
            } else {
                KeyServerName::Redis
            },
            version: self.server.version.clone(),
        };
        self.program.clone().unwrap_or_else(guessed)
    }

    /// Whether Redis and Valkey both read its form.
    pub fn is_shared_form(&self) -> bool {
        self.version <= SHARED_VERSION_MAX
    }

    /// Keys of all databases.
    pub fn keys(&self) -> u64 {
        self.databases.iter().map(|size| size.keys).fold(0, u64::saturating_add)
    }

    /// Those that expire.
    pub fn expiring(&self) -> u64 {
        self.databases.iter().map(|size| size.expiring).fold(0, u64::saturating_add)
    }
}

/// The newest backup of the server with this `fingerprint` that was verified and found sound, as evidence for the guard.
///
/// # Errors
/// What the repository fails with.
pub async fn evidence(repository: &Repository, fingerprint: &str) -> Result<BackupEvidence> {
    let counts = |set: &Set| {
        let contents = set.contents::<KeyFileSetContents>();
        contents.is_ok_and(|contents| contents.server.fingerprint == fingerprint)
    };
    evidence_among(repository, StoreKind::Redis, fingerprint, counts).await
}
