//! Going on with a set whose writer was interrupted.
//!
//! Relies on its caller to have recorded, when each object was complete, the entry that the object was completed with. Adopts what the
//! store still holds with just that size under just that name; everything else in the set's folder is nobody's any more and is deleted, so
//! that all other names are free again. Objects are not read back: a manifest names their BLAKE3 as it was when they were written, and
//! `verify` finds what has changed since. Refuses while another process holds the set's lease, and sets that exist or are being removed.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_journal::KeptLease;
use mainstay_model::{Error, ErrorKind, Result, ResultExt, SetId, StoreKind, Timestamp};

use crate::layout;
use crate::manifest::{Encryption, ObjectEntry};
use crate::repository::{Place, Repository};
use crate::writer::SetWriter;

/// What an interrupted writer has recorded of its set.
#[derive(Debug, Clone)]
pub struct Interrupted {
    /// The store it was to be a backup of.
    pub kind: StoreKind,
    /// The set.
    pub id: SetId,
    /// When it was begun.
    pub begun_at: Timestamp,
    /// The objects that were complete.
    pub objects: Vec<ObjectEntry>,
}

/// A set that is being written again.
pub struct Reopened {
    /// Writes it.
    pub writer: SetWriter,
    /// Recorded objects that the store does not hold as recorded: they have to be written again.
    pub lost: Vec<ObjectEntry>,
}

impl Repository {
    /// Goes on with the set of an interrupted writer, under a lease of its own; `holder` as for [`Repository::begin_set`].
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] when somebody writes or removes the set now, or did within the last minute and was killed;
    /// [`ErrorKind::Conflict`] when the set exists; [`ErrorKind::NotFound`] when it is being removed; the store's.
    pub async fn reopen_set(&self, set: Interrupted, holder: &str) -> Result<Reopened> {
        let lease = self.set_lease(&set.id, holder).await;
        let lease = lease.with_context(|| format!("reopen backup set {}", set.id))?.keep();
        match self.adopt(&set).await {
            Ok((kept, lost)) => {
                let writer = SetWriter::new(self.clone(), set.kind, set.id, set.begun_at, lease, kept);
                Ok(Reopened { writer, lost })
            }
            Err(error) => Err(self.give_back(&set.id, lease, error).await),
        }
    }

    /// When an object of the set `id` last appeared, by the clock of the store; `None` when there is none.
    ///
    /// # Errors
    /// The store's.
    pub async fn last_change(&self, kind: StoreKind, id: &SetId) -> Result<Option<Timestamp>> {
        let objects = self.store().list(&layout::set(kind, id)).await?;
        Ok(objects.into_iter().map(|info| info.modified).max())
    }

    async fn give_back(&self, id: &SetId, lease: KeptLease, error: Error) -> Error {
        // The first error is the one to tell; a lease that cannot be given back runs out by itself.
        let _ = self.release_set_lease(id, lease, false).await;
        error.context(format!("reopen backup set {id}"))
    }

    /// The recorded objects that are there, and those that are not. Deletes whatever else is in the folder.
    async fn adopt(&self, set: &Interrupted) -> Result<(Vec<ObjectEntry>, Vec<ObjectEntry>)> {
        self.check_unfinished(set).await?;
        let folder = layout::set(set.kind, &set.id);
        let found: BTreeMap<_, _> =
            self.store().list(&folder).await?.into_iter().map(|info| (info.key, info.bytes)).collect();
        let encryption = if self.is_encrypted() { Encryption::Age } else { Encryption::None };
        let (mut kept, mut lost, mut wanted) = (Vec::new(), Vec::new(), BTreeSet::new());
        for entry in set.objects.iter().cloned() {
            let key = layout::object(set.kind, &set.id, &entry.name, entry.encryption)?;
            if entry.encryption == encryption && found.get(&key) == Some(&entry.stored_bytes) {
                wanted.insert(key);
                kept.push(entry);
            } else {
                lost.push(entry);
            }
        }
        for key in found.keys().filter(|key| !wanted.contains(key)) {
            self.store().delete(key).await?;
        }
        for partial in self.store().leftovers(&folder).await? {
            self.store().remove_leftover(&partial).await?;
        }
        Ok((kept, lost))
    }

    async fn check_unfinished(&self, set: &Interrupted) -> Result<()> {
        match self.place(set.kind, &set.id).await? {
            Place::Empty => Ok(()),
            Place::Manifest(..) => {
                Err(Error::new(ErrorKind::Conflict, format!("backup set {} is complete", set.id))
                    .with_state("nothing was changed")
                    .with_hint(format!("`mainstay backup show {}` shows it", set.id)))
            }
            Place::Removal => {
                Err(Error::new(ErrorKind::NotFound, format!("backup set {} is being removed", set.id))
                    .with_state("nothing was changed")
                    .with_hint("take a backup from the beginning: `mainstay backup create`"))
            }
        }
    }
}
