//! What the manifest of a set says that holds a store's own file of all its keys.

use mainstay_engine::{KeyspaceSize, ReplicationPoint, ServerFacts};
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
    /// Whether the process that wrote the file sent it itself.
    pub direct: bool,
}

impl KeyFileSetContents {
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
