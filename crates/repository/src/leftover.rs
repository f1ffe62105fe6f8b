//! Leftovers: what killed or failed writers leave behind, and its removal.
//!
//! Two sorts: set folders without a manifest, and partial files of the store. Neither is ever listed as a backup. Nothing that a living
//! writer may still need is removed: a set folder belongs to whoever holds the set's lease, and a partial file elsewhere counts as in
//! use until it has been quiet for an hour. The order of removal and why it is safe beside a writer that stood still is told in
//! [`SetWriter`](crate::SetWriter)'s module: removal record first, objects next, removal record last.
//!
//! A set folder whose manifest is missing although the set was verified once is no leftover: it was a backup, and it may be one again.

use jiff::SignedDuration;
use mainstay_journal::Lease;
use mainstay_model::{Error, ErrorKind, Result, ResultExt, SetId, StoreKind, sealed};
use mainstay_store::{Key, Store};

use crate::layout;
use crate::manifest::{REMOVAL_KIND, Removal};
use crate::repository::{Place, Repository, kinds, missing_manifest};

/// How long a partial file outside of set folders must have been quiet: what is put there is small and written in one go.
const PARTIAL_QUIET: SignedDuration = SignedDuration::from_hours(1);

/// Something a writer left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// What it is.
    pub kind: LeftoverKind,
    /// How many objects and partial files it has.
    pub objects: usize,
    /// Their size together.
    pub bytes: u64,
    /// Somebody may still be writing it: it is not removed.
    pub in_use: bool,
}

/// What was left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeftoverKind {
    /// The folder of a set that was never committed.
    Set {
        /// The store it was to be a backup of.
        store: StoreKind,
        /// The set.
        id: SetId,
    },
    /// A partial file of the store.
    Partial(mainstay_store::Leftover),
}

impl Leftover {
    /// What it is, in words: the set's folder or the partial file's name.
    pub fn subject(&self) -> String {
        match &self.kind {
            LeftoverKind::Set { store, id } => layout::set(*store, id).to_string(),
            LeftoverKind::Partial(partial) => partial.name.clone(),
        }
    }
}

impl Repository {
    /// All leftovers: set folders first, oldest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn leftovers(&self) -> Result<Vec<Leftover>> {
        // Partial files are listed before the folders: one that became an object meanwhile is then not counted as both.
        let mut partials = self.store().leftovers(&Key::root()).await.context("list partial files")?;
        let mut found = Vec::new();
        for store in kinds(None) {
            for id in self.leftover_ids(store, &partials).await? {
                let (own, others) = partials.into_iter().partition(|partial| in_folder(partial, store, &id));
                partials = others;
                found.extend(self.set_leftover(store, id, own).await?);
            }
        }
        found.extend(partials.into_iter().map(|partial| self.partial_leftover(partial)));
        Ok(found)
    }

    /// Set folders, and those that hold nothing but partial files.
    async fn leftover_ids(
        &self,
        store: StoreKind,
        partials: &[mainstay_store::Leftover],
    ) -> Result<Vec<SetId>> {
        let mut ids = self.set_ids(store).await?;
        let prefix = format!("{}/", layout::sets(store));
        let of_partial = |partial: &mainstay_store::Leftover| {
            partial.name.strip_prefix(&prefix)?.split('/').next()?.parse::<SetId>().ok()
        };
        ids.extend(partials.iter().filter_map(of_partial));
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// The leftover in one set folder. A set that exists has none, but for partial files.
    async fn set_leftover(
        &self,
        store: StoreKind,
        id: SetId,
        partials: Vec<mainstay_store::Leftover>,
    ) -> Result<Vec<Leftover>> {
        let in_use = self.set_in_use(&id).await?;
        let exists = match self.place(store, &id).await {
            Ok(Place::Manifest(..)) => true,
            Ok(Place::Empty) => self.is_headless(store, &id).await?,
            Ok(Place::Removal) => false,
            // A damaged manifest is a damaged set, and nobody's leftover.
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => true,
            Err(error) => return Err(error),
        };
        if exists {
            let single = |partial: mainstay_store::Leftover| Leftover {
                objects: 1,
                bytes: partial.bytes,
                in_use,
                kind: LeftoverKind::Partial(partial),
            };
            return Ok(partials.into_iter().map(single).collect());
        }
        let objects = self.store().list(&layout::set(store, &id)).await?;
        if objects.is_empty() && partials.is_empty() {
            return Ok(Vec::new());
        }
        let sizes = objects.iter().map(|info| info.bytes).chain(partials.iter().map(|partial| partial.bytes));
        let bytes = sizes.fold(0, u64::saturating_add);
        let objects = objects.len() + partials.len();
        Ok(vec![Leftover { kind: LeftoverKind::Set { store, id }, objects, bytes, in_use }])
    }

    fn partial_leftover(&self, partial: mainstay_store::Leftover) -> Leftover {
        let in_use = partial.modified + PARTIAL_QUIET > self.now();
        Leftover { objects: 1, bytes: partial.bytes, in_use, kind: LeftoverKind::Partial(partial) }
    }

    async fn set_in_use(&self, id: &SetId) -> Result<bool> {
        Ok(Lease::holder(self.store(), self.clock().as_ref(), &layout::set_lease(id)).await?.is_some())
    }

    /// Removes a leftover. Repeating it is safe; killed half-way it leaves a smaller leftover.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] when somebody holds the set's lease; [`ErrorKind::Conflict`] when the set exists after all; the store's.
    pub async fn remove_leftover(&self, leftover: &Leftover) -> Result<()> {
        let removed = match &leftover.kind {
            LeftoverKind::Set { store, id } => self.remove_set_leftover(*store, id).await,
            LeftoverKind::Partial(_) if leftover.in_use => {
                Err(Error::new(ErrorKind::Locked, "it may still be written to").with_hint(
                    "run `mainstay backup prune` again when nothing else writes to the repository",
                ))
            }
            LeftoverKind::Partial(partial) => self.store().remove_leftover(partial).await,
        };
        removed.with_context(|| format!("remove leftover {}", leftover.subject()))
    }

    async fn remove_set_leftover(&self, store: StoreKind, id: &SetId) -> Result<()> {
        let lease = self.set_lease(id, "backup prune").await?.keep();
        let removed = self.remove_leased(store, id).await;
        let released = self.release_set_lease(id, lease, removed.is_ok()).await;
        removed.and(released)
    }

    /// The sets that are kept although their manifest is missing, because they were complete once.
    ///
    /// # Errors
    /// The store's.
    pub async fn headless_sets(&self) -> Result<Vec<(StoreKind, SetId)>> {
        let mut headless = Vec::new();
        for store in kinds(None) {
            for id in self.set_ids(store).await? {
                // What is damaged otherwise has something in the manifest's place.
                let is_empty = matches!(self.place(store, &id).await, Ok(Place::Empty));
                if is_empty && self.is_headless(store, &id).await? {
                    headless.push((store, id));
                }
            }
        }
        Ok(headless)
    }

    async fn remove_leased(&self, store: StoreKind, id: &SetId) -> Result<()> {
        if matches!(self.place(store, id).await, Ok(Place::Empty)) && self.is_headless(store, id).await? {
            return Err(missing_manifest(store, id).with_state("nothing was removed"));
        }
        self.bar_manifest(store, id).await?;
        delete_objects(self.store(), store, id).await?;
        self.store().delete(&layout::manifest(store, id)).await
    }

    /// Takes the manifest's place, so that no writer can commit from here on.
    async fn bar_manifest(&self, store: StoreKind, id: &SetId) -> Result<()> {
        let key = layout::manifest(store, id);
        let removal = Removal { set_id: id.clone(), removed_at: self.now() };
        let (bytes, _) = sealed::seal(REMOVAL_KIND, &removal)?;
        let Err(error) = self.store().put_new(&key, bytes.into()).await else { return Ok(()) };
        // The place is taken, or the answer was lost. Only a removal record allows to go on, whoever put it there.
        match self.place(store, id).await? {
            Place::Removal => Ok(()),
            Place::Empty => Err(error),
            Place::Manifest(..) => {
                Err(Error::new(ErrorKind::Conflict, format!("backup set {id} exists: it is no leftover"))
                    .with_state("nothing was removed"))
            }
        }
    }
}

fn in_folder(partial: &mainstay_store::Leftover, store: StoreKind, id: &SetId) -> bool {
    partial.name.starts_with(&format!("{}/", layout::set(store, id)))
}

/// Deletes every object of a set folder but what is in the manifest's place, and its partial files.
pub(crate) async fn delete_objects(store: &Store, kind: StoreKind, id: &SetId) -> Result<()> {
    let (folder, manifest) = (layout::set(kind, id), layout::manifest(kind, id));
    for info in store.list(&folder).await? {
        if info.key != manifest {
            store.delete(&info.key).await?;
        }
    }
    for partial in store.leftovers(&folder).await? {
        store.remove_leftover(&partial).await?;
    }
    Ok(())
}
