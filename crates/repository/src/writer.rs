//! Writing a set: objects in any order and number at the same time, then the manifest.
//!
//! # Why a set is whole or absent
//! The manifest's key is the one place where a writer and a remover of leftovers meet, and the store's create-only put lets exactly one
//! of them in. A remover puts a *removal* there before it deletes the first object and takes it away after the last one; so a writer
//! whose manifest was accepted is in one of two situations:
//! 1. no remover has begun, and none can begin any more: the set is whole;
//! 2. a remover began and ended before, which needs a writer that stood still for longer than its lease: its objects are gone.
//!
//! [`SetWriter::commit`] tells them apart by listing the folder after the manifest is in place. In the second situation it takes its
//! manifest away again and fails. The argument needs no clock: the lease keeps removers away from living writers, but nothing is lost
//! when it does not. Should the process be killed between the two steps of situation 2, a set stays whose missing objects `verify`
//! names; it was never reported as committed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use age::x25519::Recipient;
use bytes::Bytes;
use mainstay_journal::KeptLease;
use mainstay_model::{
    Blake3, Error, ErrorKind, ObjectName, Result, ResultExt, SetId, StoreKind, Timestamp, sealed,
};
use mainstay_store::{Key, Store};
use serde::Serialize;

use crate::compress::FrameCompressor;
use crate::layout;
use crate::leftover::delete_objects;
use crate::manifest::{
    Encryption, MANIFEST_BYTES_MAX, MANIFEST_FORMAT, MANIFEST_KIND, Manifest, ObjectEntry,
};
use crate::repository::Repository;
use crate::set::Set;
use crate::sink::ObjectSink;

/// A set being written. Its objects are durable one by one, but the set exists only once [`SetWriter::commit`] has returned it. Dropped
/// without that, it leaves objects that [`Repository::leftovers`] finds once the set's lease has run out.
pub struct SetWriter {
    shared: Arc<Shared>,
    lease: KeptLease,
}

/// What a set's writer and its objects share.
pub(crate) struct Shared {
    repository: Repository,
    kind: StoreKind,
    id: SetId,
    begun_at: Timestamp,
    ledger: Mutex<Ledger>,
}

/// Which objects are begun, and which are complete.
#[derive(Default)]
struct Ledger {
    open: BTreeSet<ObjectName>,
    complete: BTreeMap<ObjectName, ObjectEntry>,
    /// The set is committed or abandoned: no object may be added any more.
    closed: bool,
}

impl Shared {
    pub(crate) fn store(&self) -> &Store {
        self.repository.store()
    }

    pub(crate) fn compressor(&self) -> &Arc<FrameCompressor> {
        self.repository.compressor()
    }

    pub(crate) fn recipients(&self) -> &[Recipient] {
        self.repository.recipients()
    }

    pub(crate) fn encryption(&self) -> Encryption {
        if self.recipients().is_empty() { Encryption::None } else { Encryption::Age }
    }

    pub(crate) fn object_key(&self, name: &ObjectName) -> Result<Key> {
        layout::object(self.kind, &self.id, name, self.encryption())
    }

    /// Adds how the repository stands and what to do, unless the error says so already.
    pub(crate) fn explain(&self, mut error: Error) -> Error {
        if error.state().is_none() {
            error = error.with_state(format!(
                "backup set {} has no manifest, so it does not exist; all other sets are untouched",
                self.id
            ));
        }
        if error.hint().is_none() {
            let remedy = match error.kind() {
                ErrorKind::Storage => "Make room in the store or mend what it names, ",
                _ => "Mend what it names, ",
            };
            error = error
                .with_hint(format!("{remedy}then run `mainstay backup prune` and `mainstay backup create`."));
        }
        error
    }

    /// Registers an object as begun.
    fn open(&self, name: &ObjectName) -> Result<()> {
        let mut ledger = self.ledger();
        if ledger.closed {
            return Err(Error::new(
                ErrorKind::Internal,
                format!("backup set {} takes no more objects", self.id),
            ));
        }
        if ledger.complete.contains_key(name) || !ledger.open.insert(name.clone()) {
            return Err(Error::new(
                ErrorKind::Internal,
                format!("object {name} was begun twice in set {}", self.id),
            ));
        }
        Ok(())
    }

    /// Registers an object as complete.
    pub(crate) fn complete(&self, entry: ObjectEntry) -> Result<()> {
        let mut ledger = self.ledger();
        if ledger.closed {
            return Err(Error::new(
                ErrorKind::Internal,
                format!("backup set {} takes no more objects", self.id),
            ));
        }
        ledger.open.remove(&entry.name);
        ledger.complete.insert(entry.name.clone(), entry);
        Ok(())
    }

    /// Registers that nobody writes this object any more.
    pub(crate) fn close(&self, name: &ObjectName) {
        self.ledger().open.remove(name);
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SetWriter {
    pub(crate) fn new(
        repository: Repository,
        kind: StoreKind,
        id: SetId,
        begun_at: Timestamp,
        lease: KeptLease,
    ) -> Self {
        let shared = Shared { repository, kind, id, begun_at, ledger: Mutex::default() };
        Self { shared: Arc::new(shared), lease }
    }

    /// The set's identifier.
    pub fn id(&self) -> &SetId {
        &self.shared.id
    }

    /// Begins an object. Many may be written at the same time, from any task; `role` says what it is.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] when the set's lease was lost: stop, the set cannot be committed any more. [`ErrorKind::Internal`] when the
    /// name is taken. The store's errors as they are.
    pub async fn object(&self, name: &ObjectName, role: &str) -> Result<ObjectSink> {
        self.lease.check().map_err(|error| self.shared.explain(error))?;
        self.shared.open(name)?;
        let sink = ObjectSink::begin(Arc::clone(&self.shared), name.clone(), role.to_owned()).await;
        sink.map_err(|error| {
            self.shared.close(name);
            self.shared.explain(error)
        })
    }

    /// Writes a whole small object.
    ///
    /// # Errors
    /// As [`SetWriter::object`] and [`ObjectSink::write`].
    pub async fn put(&self, name: &ObjectName, role: &str, plain: Bytes) -> Result<ObjectEntry> {
        let mut sink = self.object(name, role).await?;
        sink.write(plain).await?;
        sink.finish().await
    }

    /// Makes the set exist: the manifest, with `contents`, is written last and create-only. When this returns, the set is durable.
    ///
    /// `contents` becomes part of canonical JSON: no floating-point numbers.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when objects are still being written; [`ErrorKind::Locked`] when the lease was lost; the store's errors.
    /// After each of them the set does not exist and its objects are leftovers.
    pub async fn commit<C: Serialize>(self, contents: &C) -> Result<Set> {
        let Self { shared, lease } = self;
        let committed = commit(&shared, &lease, contents).await;
        // Whatever becomes of the lease, it runs out by itself; the outcome is that of the manifest.
        let _ = shared.repository.release_set_lease(&shared.id, lease, committed.is_ok()).await;
        committed.map_err(|error| shared.explain(error.context(format!("commit backup set {}", shared.id))))
    }

    /// Deletes what was written and gives the lease back. Objects still being written fail when they finish.
    ///
    /// # Errors
    /// The store's. What could not be deleted is found among the leftovers.
    pub async fn abandon(self) -> Result<()> {
        let Self { shared, lease } = self;
        shared.ledger().closed = true;
        let deleted = delete_objects(shared.store(), shared.kind, &shared.id).await;
        let released = shared.repository.release_set_lease(&shared.id, lease, deleted.is_ok()).await;
        deleted.and(released).with_context(|| format!("abandon backup set {}", shared.id))
    }
}

async fn commit<C: Serialize>(shared: &Shared, lease: &KeptLease, contents: &C) -> Result<Set> {
    let objects = close_ledger(shared)?;
    let manifest = describe(shared, objects, contents)?;
    let (bytes, blake3) = sealed::seal(MANIFEST_KIND, &manifest)?;
    if bytes.len() as u64 > MANIFEST_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("the manifest would have {} bytes; the most is {MANIFEST_BYTES_MAX}", bytes.len()),
        ));
    }
    lease.check()?;
    put_manifest(shared, bytes.into()).await?;
    check_presence(shared, &manifest, blake3).await?;
    Ok(Set::new(shared.repository.clone(), manifest, blake3))
}

fn close_ledger(shared: &Shared) -> Result<Vec<ObjectEntry>> {
    let mut ledger = shared.ledger();
    ledger.closed = true;
    if let Some(name) = ledger.open.first() {
        return Err(Error::new(
            ErrorKind::Internal,
            format!("{} objects are still being written, {name} among them", ledger.open.len()),
        ));
    }
    Ok(std::mem::take(&mut ledger.complete).into_values().collect())
}

fn describe<C: Serialize>(shared: &Shared, objects: Vec<ObjectEntry>, contents: &C) -> Result<Manifest> {
    let contents = serde_json::to_value(contents).map_err(|source| {
        Error::new(ErrorKind::Internal, "contents have no JSON form").with_source(source)
    })?;
    Ok(Manifest {
        format: MANIFEST_FORMAT,
        repository_id: shared.repository.id().to_owned(),
        set_id: shared.id.clone(),
        store: shared.kind,
        begun_at: shared.begun_at,
        completed_at: shared.repository.now(),
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        recipients: shared.recipients().iter().map(ToString::to_string).collect(),
        objects,
        contents,
    })
}

/// Puts the manifest in its place. An error whose put took effect all the same is no error.
async fn put_manifest(shared: &Shared, bytes: Bytes) -> Result<()> {
    let key = layout::manifest(shared.kind, &shared.id);
    let Err(error) = shared.store().put_new(&key, bytes.clone()).await else { return Ok(()) };
    match shared.store().get(&key, MANIFEST_BYTES_MAX).await {
        Ok(found) if found == bytes => Ok(()),
        Ok(_) => Err(Error::new(
            ErrorKind::Locked,
            format!("{key} is taken: this set was removed as a leftover while its writer stood still"),
        )),
        Err(_) => Err(error.context(format!("write {key}"))),
    }
}

/// Makes sure that no remover was there before the manifest; see the module's text.
async fn check_presence(shared: &Shared, manifest: &Manifest, blake3: Blake3) -> Result<()> {
    let folder = layout::set(shared.kind, &shared.id);
    let found: BTreeMap<_, _> =
        shared.store().list(&folder).await?.into_iter().map(|info| (info.key, info.bytes)).collect();
    for entry in &manifest.objects {
        let key = shared.object_key(&entry.name)?;
        if found.get(&key) == Some(&entry.stored_bytes) {
            continue;
        }
        let place = layout::manifest(shared.kind, &shared.id);
        shared
            .store()
            .delete(&place)
            .await
            .with_context(|| format!("take manifest {} back", blake3.short()))?;
        return Err(Error::new(
            ErrorKind::Locked,
            format!("{key} is gone: this set was removed as a leftover while its writer stood still"),
        ));
    }
    Ok(())
}
