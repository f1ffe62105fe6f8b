//! Manifests: what a set is, object by object. Sealed JSON, written last.

use mainstay_model::{Blake3, ObjectName, SetId, StoreKind, Timestamp};
use serde::{Deserialize, Serialize};

/// The version of the manifest this code writes and the newest it reads.
pub const MANIFEST_FORMAT: u32 = 1;

/// The kind of a sealed manifest.
pub(crate) const MANIFEST_KIND: &str = "manifest";

/// The largest manifest that is written or read: some two hundred thousand objects.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How an object's plain bytes are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectCompression {
    /// zstd frames of at most [`FRAME_BYTES`](crate::FRAME_BYTES) plain bytes, one after the other.
    Zstd,
}

/// How an object's compressed bytes are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encryption {
    /// Not at all.
    None,
    /// One age file (binary, not armoured) to the manifest's recipients.
    Age,
}

/// One object of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectEntry {
    /// Its name within the set.
    pub name: ObjectName,
    /// What it is, in its writer's words: `documents`, `metadata`.
    pub role: String,
    /// Its size in the store: compressed, encrypted.
    pub stored_bytes: u64,
    /// Its size when decrypted and decompressed.
    pub plain_bytes: u64,
    /// The BLAKE3 of its stored bytes.
    pub blake3: Blake3,
    /// How it is compressed.
    pub compression: ObjectCompression,
    /// How it is encrypted.
    pub encryption: Encryption,
}

/// What a set is. `docs/repository-format.md` explains each field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this structure, [`MANIFEST_FORMAT`].
    pub format: u32,
    /// The repository the set was written to.
    pub repository_id: String,
    /// The set.
    pub set_id: SetId,
    /// The store it is a backup of.
    pub store: StoreKind,
    /// When the set was begun, before its first object.
    pub begun_at: Timestamp,
    /// When its last object was complete.
    pub completed_at: Timestamp,
    /// The version of mainstay that wrote it.
    pub tool_version: String,
    /// The age recipients its objects are encrypted to; empty when they are not.
    pub recipients: Vec<String>,
    /// Its objects, sorted by name.
    pub objects: Vec<ObjectEntry>,
    /// What the store's adapter says of the whole: databases, collections, positions.
    pub contents: serde_json::Value,
}

impl Manifest {
    /// The sum of the objects' sizes in the store.
    pub fn stored_bytes(&self) -> u64 {
        self.objects.iter().map(|object| object.stored_bytes).fold(0, u64::saturating_add)
    }

    /// The sum of the objects' plain sizes.
    pub fn plain_bytes(&self) -> u64 {
        self.objects.iter().map(|object| object.plain_bytes).fold(0, u64::saturating_add)
    }
}

/// What a remover puts in a manifest's place while it deletes the set's objects: with it there, no manifest can be written.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Removal {
    pub(crate) set_id: SetId,
    pub(crate) removed_at: Timestamp,
}

/// The kind of a sealed [`Removal`].
pub(crate) const REMOVAL_KIND: &str = "removal";
