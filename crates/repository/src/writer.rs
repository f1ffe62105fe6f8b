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
//!
//! # What is under way
//! Each object is written by a task that outlives whoever began it: a request that a store is working on cannot be called back, and its
//! object may appear after its caller has gone. [`SetWriter::abandon`] and [`SetWriter::commit`] therefore wait for these tasks before they
//! list or delete anything; a task that is no longer wanted ends at once, unless it is making its object appear, and removes that again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use age::x25519::Recipient;
use bytes::Bytes;
use mainstay_journal::KeptLease;
use mainstay_model::{
    Blake3, Error, ErrorKind, ObjectName, Result, ResultExt, SetId, StoreKind, Timestamp, sealed,
};
use mainstay_store::{Key, Store, outcome_is_open};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

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
    /// The tasks that write objects.
    tasks: TaskTracker,
    /// Ends these tasks.
    cancel: CancellationToken,
}

/// Which objects are begun, and which are complete.
#[derive(Default)]
struct Ledger {
    /// Begun and not complete; the token is cancelled when nobody wants the object any more.
    open: BTreeMap<ObjectName, CancellationToken>,
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

    /// Says how the repository stands and, unless the error does so already, what to do. What became of a single key does not matter while
    /// there is no manifest.
    pub(crate) fn explain(&self, error: Error) -> Error {
        let mut error = error.with_state(format!(
            "backup set {} has no manifest, so it does not exist; all other sets are untouched",
            self.id
        ));
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

    /// The same for an error after which the manifest may be in its place.
    fn explain_open(&self, error: Error) -> Error {
        error
            .with_state(format!(
                "whether backup set {} was committed is not known: `mainstay backup list` tells",
                self.id
            ))
            .with_hint(
                "Run `mainstay backup list`; if the set is not there, run `mainstay backup prune` and `mainstay backup create`.",
            )
    }

    /// Registers an object as begun.
    fn open(self: &Arc<Self>, name: &ObjectName) -> Result<Opened> {
        let mut ledger = self.ledger();
        if ledger.closed {
            return Err(Error::new(
                ErrorKind::Internal,
                format!("backup set {} takes no more objects", self.id),
            ));
        }
        if ledger.complete.contains_key(name) || ledger.open.contains_key(name) {
            return Err(Error::new(
                ErrorKind::Internal,
                format!("object {name} was begun twice in set {}", self.id),
            ));
        }
        let wanted = self.cancel.child_token();
        ledger.open.insert(name.clone(), wanted.clone());
        Ok(Opened { set: Arc::clone(self), name: name.clone(), unwanted: wanted })
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

    /// The tasks that write this set's objects.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Takes no more objects, and gives up those that are being written.
    fn close(&self) {
        self.ledger().closed = true;
        self.cancel.cancel();
    }

    /// Waits until no task writes or removes an object any more.
    async fn drain(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An object's place among those being written, until it is complete or both its sink and its task are gone: so long its name is taken.
pub(crate) struct Opened {
    set: Arc<Shared>,
    name: ObjectName,
    unwanted: CancellationToken,
}

impl Opened {
    /// The set the object belongs to.
    pub(crate) fn set(&self) -> &Arc<Shared> {
        &self.set
    }

    /// The object's name.
    pub(crate) fn name(&self) -> &ObjectName {
        &self.name
    }

    /// Tells the object's task that nobody wants it any more.
    pub(crate) fn give_up(&self) {
        self.unwanted.cancel();
    }

    /// Waits until nobody wants the object any more.
    pub(crate) async fn given_up(&self) {
        self.unwanted.cancelled().await;
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.set.ledger().open.remove(&self.name);
    }
}

impl SetWriter {
    pub(crate) fn new(
        repository: Repository,
        kind: StoreKind,
        id: SetId,
        begun_at: Timestamp,
        lease: KeptLease,
        complete: Vec<ObjectEntry>,
    ) -> Self {
        let complete = complete.into_iter().map(|entry| (entry.name.clone(), entry)).collect();
        let shared = Shared {
            repository,
            kind,
            id,
            begun_at,
            ledger: Mutex::new(Ledger { complete, ..Ledger::default() }),
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
        };
        Self { shared: Arc::new(shared), lease }
    }

    /// The set's identifier.
    pub fn id(&self) -> &SetId {
        &self.shared.id
    }

    /// When the set was begun.
    pub fn begun_at(&self) -> Timestamp {
        self.shared.begun_at
    }

    /// Begins an object. Many may be written at the same time, from any task; `role` says what it is.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] when the set's lease was lost: stop, the set cannot be committed any more. [`ErrorKind::Internal`] when the
    /// name is taken. The store's errors as they are.
    pub async fn object(&self, name: &ObjectName, role: &str) -> Result<ObjectSink> {
        self.lease.check().map_err(|error| self.shared.explain(error))?;
        let opened = self.shared.open(name)?;
        let sink = ObjectSink::begin(opened, role.to_owned()).await;
        sink.map_err(|error| self.shared.explain(error))
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

    /// Takes a complete object out of the set again and deletes it; its name is free then. One that is not there is no error.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] when the set's lease was lost; the store's. The object is no part of the set in any case.
    pub async fn discard(&self, name: &ObjectName) -> Result<()> {
        self.lease.check().map_err(|error| self.shared.explain(error))?;
        let taken = self.shared.ledger().complete.remove(name);
        let Some(entry) = taken else { return Ok(()) };
        let key = layout::object(self.shared.kind, &self.shared.id, name, entry.encryption)?;
        let deleted = self.shared.store().delete(&key).await;
        deleted.map_err(|error| self.shared.explain(error.context(format!("discard {name}"))))
    }

    /// Makes the set exist: the manifest, with `contents`, is written last and create-only. When this returns, the set is durable.
    ///
    /// `contents` becomes part of canonical JSON: no floating-point numbers.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when objects are still being written; [`ErrorKind::Locked`] when the lease was lost; the store's errors.
    /// Each error has a state, to be shown as it is: either the set does not exist and its objects are leftovers, or whether it exists is
    /// not known, because the store failed at or after the manifest. The set is not to be called missing then.
    pub async fn commit<C: Serialize>(self, contents: &C) -> Result<Set> {
        let Self { shared, lease } = self;
        let committed = commit(&shared, &lease, contents).await;
        // Whatever becomes of the lease, it runs out by itself; the outcome is that of the manifest.
        let _ = shared.repository.release_set_lease(&shared.id, lease, committed.is_ok()).await;
        committed.map_err(|uncommitted| {
            let context = format!("commit backup set {}", shared.id);
            match uncommitted {
                Uncommitted::Absent(error) => shared.explain(error.context(context)),
                Uncommitted::Open(error) => shared.explain_open(error.context(context)),
            }
        })
    }

    /// Stops writing, keeps the complete objects and gives the lease back, so that [`Repository::reopen_set`] can go on at once. Objects
    /// still being written are given up as by [`SetWriter::abandon`].
    ///
    /// # Errors
    /// The store's, when the lease could not be given back: then it runs out by itself.
    pub async fn suspend(self) -> Result<()> {
        let Self { shared, lease } = self;
        shared.close();
        shared.drain().await;
        let released = shared.repository.release_set_lease(&shared.id, lease, false).await;
        released.with_context(|| format!("suspend backup set {}", shared.id))
    }

    /// Deletes what was written and gives the lease back. Objects still being written are given up, also those whose sinks or futures were
    /// dropped; what a store is already working on is waited for, so that nothing appears afterwards.
    ///
    /// # Errors
    /// The store's. What could not be deleted is found among the leftovers.
    pub async fn abandon(self) -> Result<()> {
        let Self { shared, lease } = self;
        shared.close();
        shared.drain().await;
        let deleted = delete_objects(shared.store(), shared.kind, &shared.id).await;
        let released = shared.repository.release_set_lease(&shared.id, lease, deleted.is_ok()).await;
        deleted.and(released).with_context(|| format!("abandon backup set {}", shared.id))
    }

    /// As [`SetWriter::abandon`], because of `error`, which is given back with the state that things are in. For sets that cannot be continued.
    pub async fn give_up(self, error: Error) -> Error {
        let set = self.id().clone();
        let error = error.with_state(match self.abandon().await {
            Ok(()) => "no backup set was made; sets made before are untouched".to_owned(),
            Err(_) => {
                format!(
                    "no backup set was made; remains of {set} are left, `mainstay backup prune` removes them"
                )
            }
        });
        match (error.kind(), error.hint()) {
            (ErrorKind::Interrupted, None) => error.with_hint("run the same command again to start over"),
            _ => error,
        }
    }
}

/// Why [`SetWriter::commit`] failed, and what that means for the set.
enum Uncommitted {
    /// The set does not exist.
    Absent(Error),
    /// The set may exist, or may yet appear.
    Open(Error),
}

impl From<Error> for Uncommitted {
    fn from(error: Error) -> Self {
        Self::Absent(error)
    }
}

async fn commit<C: Serialize>(shared: &Shared, lease: &KeptLease, contents: &C) -> Result<Set, Uncommitted> {
    let objects = close_ledger(shared);
    if objects.is_err() {
        shared.close();
    }
    shared.drain().await;
    let manifest = prepare(shared, objects?, contents)?;
    lease.check()?;
    put_manifest(shared, manifest.bytes).await?;
    check_presence(shared, &manifest.keys, manifest.blake3).await?;
    Ok(Set::new(shared.repository.clone(), manifest.manifest, manifest.blake3))
}

/// A manifest ready to be written, and the size that each of its objects must have in the store.
struct Prepared {
    manifest: Manifest,
    bytes: Bytes,
    blake3: Blake3,
    keys: Vec<(Key, u64)>,
}

fn prepare<C: Serialize>(shared: &Shared, objects: Vec<ObjectEntry>, contents: &C) -> Result<Prepared> {
    let manifest = describe(shared, objects, contents)?;
    let (bytes, blake3) = sealed::seal(MANIFEST_KIND, &manifest)?;
    if bytes.len() as u64 > MANIFEST_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("the manifest would have {} bytes; the most is {MANIFEST_BYTES_MAX}", bytes.len()),
        ));
    }
    let keys = manifest.objects.iter().map(|entry| Ok((shared.object_key(&entry.name)?, entry.stored_bytes)));
    let keys = keys.collect::<Result<Vec<_>>>()?;
    Ok(Prepared { manifest, bytes: bytes.into(), blake3, keys })
}

fn close_ledger(shared: &Shared) -> Result<Vec<ObjectEntry>> {
    let mut ledger = shared.ledger();
    ledger.closed = true;
    let mut wanted = ledger.open.iter().filter(|(_, unwanted)| !unwanted.is_cancelled());
    if let Some((name, _)) = wanted.next() {
        return Err(Error::new(
            ErrorKind::Internal,
            format!("{} objects are still being written, {name} among them", wanted.count() + 1),
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
async fn put_manifest(shared: &Shared, bytes: Bytes) -> Result<(), Uncommitted> {
    let key = layout::manifest(shared.kind, &shared.id);
    let Err(error) = shared.store().put_new(&key, bytes.clone()).await else { return Ok(()) };
    let found = shared.store().get(&key, MANIFEST_BYTES_MAX).await;
    let absent = found.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound);
    match found {
        Ok(found) if found == bytes => Ok(()),
        Ok(_) => Err(Uncommitted::Absent(Error::new(
            ErrorKind::Locked,
            format!("{key} is taken: this set was removed as a leftover while its writer stood still"),
        ))),
        // A request without an answer may still be done by the store, so that the manifest is not there yet proves nothing.
        Err(_) if absent && !outcome_is_open(&error) => {
            Err(Uncommitted::Absent(error.context(format!("write {key}"))))
        }
        Err(_) => Err(Uncommitted::Open(error.context(format!("write {key}")))),
    }
}

/// Makes sure that no remover was there before the manifest; see the module's text.
async fn check_presence(shared: &Shared, keys: &[(Key, u64)], blake3: Blake3) -> Result<(), Uncommitted> {
    let folder = layout::set(shared.kind, &shared.id);
    let listed = shared.store().list(&folder).await.context("list what was written");
    let found: BTreeMap<_, _> =
        listed.map_err(Uncommitted::Open)?.into_iter().map(|info| (info.key, info.bytes)).collect();
    let Some((gone, _)) = keys.iter().find(|(key, bytes)| found.get(key) != Some(bytes)) else {
        return Ok(());
    };
    let place = layout::manifest(shared.kind, &shared.id);
    let taken_back = shared.store().delete(&place).await;
    taken_back
        .with_context(|| format!("take manifest {} back", blake3.short()))
        .map_err(Uncommitted::Open)?;
    Err(Uncommitted::Absent(Error::new(
        ErrorKind::Locked,
        format!("{gone} is gone: this set was removed as a leftover while its writer stood still"),
    )))
}
