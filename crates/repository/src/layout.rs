//! Where things lie: the object keys of a repository.
//!
//! ```text
//! mainstay.json
//! <store>/sets/<set-id>/manifest.json
//! <store>/sets/<set-id>/<object>.zst[.age]
//! <store>/verifications/<set-id>/<n>.json
//! <store>/init/<server>/<n>.json                      which steps of bringing a server to what is declared were begun and done
//! <store>/log-verifications/<chain-id>/<n>.json       which slices of a chain were found damaged
//! <store>/settings/<server>/<n>.json                  what settings of a server were before they were changed for a while
//! <store>/indexes/<server>/<n>.json                   what was done to the indexes of a server, and the definitions of those that went
//! <store>/log/<chain-id>/chain.json
//! <store>/log/<chain-id>/<after>-<through>-<token>-<blake3>.<kind>.zst[.age]
//! <store>/points/<server>/<name>.json                 a position with a name
//! leases/set-<set-id>/<n>.json                        while the set is written or removed
//! leases/capture-<store>-<server>/<n>.json            while a server's log is captured
//! leases/import-<store>-<server>/<n>.json             while an archive of a server's log is imported
//! leases/indexes-<store>-<server>/<n>.json            while the indexes of a server are changed
//! ```

use mainstay_model::{Blake3, ChainId, ObjectName, Result, SetId, StoreKind};
use mainstay_store::Key;

use crate::manifest::Encryption;

/// The key of the repository's description.
pub(crate) fn description() -> Key {
    key("mainstay.json".to_owned())
}

/// The folder that holds the sets of `store`.
pub(crate) fn sets(store: StoreKind) -> Key {
    key(format!("{store}/sets"))
}

/// The folder of one set.
pub(crate) fn set(store: StoreKind, id: &SetId) -> Key {
    key(format!("{store}/sets/{id}"))
}

/// The manifest of one set.
pub(crate) fn manifest(store: StoreKind, id: &SetId) -> Key {
    key(format!("{store}/sets/{id}/manifest.json"))
}

/// One object of a set. Every object's key ends in `.zst` or `.age`, so that none can be the manifest.
///
/// # Errors
/// When the name is too long for a key.
pub(crate) fn object(store: StoreKind, id: &SetId, name: &ObjectName, encryption: Encryption) -> Result<Key> {
    set(store, id).child(object_file(name, encryption))
}

/// The path of an object inside its set's folder.
pub(crate) fn object_file(name: &ObjectName, encryption: Encryption) -> String {
    format!("{name}{}", compressed_suffix(encryption))
}

/// How the key of what is compressed, and perhaps encrypted, ends.
pub(crate) fn compressed_suffix(encryption: Encryption) -> &'static str {
    match encryption {
        Encryption::None => ".zst",
        Encryption::Age => ".zst.age",
    }
}

/// The folder of one set's verification records.
pub(crate) fn verifications(store: StoreKind, id: &SetId) -> Key {
    key(format!("{store}/verifications/{id}"))
}

/// The folder of the records about bringing one server to what is declared of it.
pub(crate) fn init(store: StoreKind, server: &Blake3) -> Key {
    key(format!("{store}/init/{server}"))
}

/// The folder of what verifications found in the chains of `store`.
pub(crate) fn all_log_verifications(store: StoreKind) -> Key {
    key(format!("{store}/log-verifications"))
}

/// The folder of what verifications found in one chain.
pub(crate) fn log_verifications(store: StoreKind, id: &ChainId) -> Key {
    key(format!("{store}/log-verifications/{id}"))
}

/// The folder of the records about the settings of one server.
pub(crate) fn settings(store: StoreKind, server: &Blake3) -> Key {
    key(format!("{store}/settings/{server}"))
}

/// The folder of the records about the indexes of one server. Fingerprints may have any characters.
pub(crate) fn indexes(store: StoreKind, fingerprint: &str) -> Key {
    key(format!("{store}/indexes/{}", Blake3::of(fingerprint.as_bytes()).short()))
}

/// The name of the lease that whoever changes the indexes of a server holds.
pub(crate) fn index_lease(store: StoreKind, fingerprint: &str) -> String {
    format!("indexes-{store}-{}", Blake3::of(fingerprint.as_bytes()).short())
}

/// The name of the lease that whoever writes or removes a set holds.
pub(crate) fn set_lease(id: &SetId) -> String {
    format!("set-{id}")
}

/// The folder of that lease's records.
pub(crate) fn set_lease_records(id: &SetId) -> Key {
    key(format!("leases/{}", set_lease(id)))
}

/// The folder that holds the change log of `store`.
pub(crate) fn log(store: StoreKind) -> Key {
    key(format!("{store}/log"))
}

/// The folder of one chain.
pub(crate) fn chain(store: StoreKind, id: &ChainId) -> Key {
    key(format!("{store}/log/{id}"))
}

/// The name of a chain's description in its folder.
pub(crate) const CHAIN_DESCRIPTION: &str = "chain.json";

/// The description of one chain.
pub(crate) fn chain_description(store: StoreKind, id: &ChainId) -> Key {
    key(format!("{store}/log/{id}/{CHAIN_DESCRIPTION}"))
}

/// The folder of the named points of one server. Fingerprints may have any characters.
pub(crate) fn points(store: StoreKind, fingerprint: &str) -> Key {
    key(format!("{store}/points/{}", Blake3::of(fingerprint.as_bytes()).short()))
}

/// The folder of the named points of all servers of `store`.
pub(crate) fn all_points(store: StoreKind) -> Key {
    key(format!("{store}/points"))
}

/// The point called `name`. Names may have any characters.
///
/// # Errors
/// When the name is too long for a key.
pub(crate) fn point(store: StoreKind, fingerprint: &str, name: &str) -> Result<Key> {
    points(store, fingerprint).child(format!("{}.json", ObjectName::from_parts([name])))
}

/// The name of the lease that whoever captures the log of a server holds. Fingerprints may have any characters.
pub(crate) fn log_lease(store: StoreKind, fingerprint: &str) -> String {
    format!("capture-{store}-{}", Blake3::of(fingerprint.as_bytes()).short())
}

/// The name of the lease that whoever imports an archive of a server's log holds.
pub(crate) fn import_lease(store: StoreKind, fingerprint: &str) -> String {
    format!("import-{store}-{}", Blake3::of(fingerprint.as_bytes()).short())
}

fn key(text: String) -> Key {
    Key::new(text).expect("store names and ids are short and made of characters that keys allow")
}
