//! A first reading of a stored log: which collections exist at its end, and what it will do to each.
//!
//! Every entry within the range is looked at, that of databases which are never backed up included, so that a log with something unknown in
//! it is refused before anything is written: so is one whose open transactions are more than a replay keeps. Entries of a transaction count at
//! the position of its commit.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use mainstay_engine::{
    ChangeCounts, ChangeSurvey, CollectionIdentity, CollectionKind, Namespace, PointCollection,
    StoredCollection, Surveyed, Unidentified, Until, document_frames,
};
use mainstay_model::{Error, ErrorKind, OpTime, Result};

use super::catalog::{Catalog, identity, place_of, resharding};
use super::diff;
use super::entry::{Action, Entry, Fault, Update, Uuid};
use super::replay::{self, TRANSACTION_BYTES_MAX};
use super::transaction::{Committed, Role, Transactions, Weight, role};
use super::unnamed::Unnamed;
use crate::catalog::is_user_database;

/// The most bytes of commands of open transactions.
const COMMAND_BYTES_MAX: usize = 64 * 1024 * 1024;

/// See [`ChangeSurvey`].
pub(crate) struct MongoSurvey {
    until: Until,
    stored: HashMap<Uuid, (Namespace, OpTime)>,
    unnamed: Unnamed,
    catalog: Catalog,
    counts: HashMap<Uuid, ChangeCounts>,
    transactions: Transactions<Pending>,
    entries: u64,
    first: Option<OpTime>,
    last: Option<OpTime>,
    past_end: Option<OpTime>,
    needs_from: Option<OpTime>,
    needed_by: Option<OpTime>,
}

/// What an open transaction will do.
#[derive(Debug, Default)]
struct Pending {
    counts: BTreeMap<Uuid, (ChangeCounts, Namespace)>,
    /// Operations that change what exists.
    definitions: Vec<Vec<u8>>,
}

impl MongoSurvey {
    /// Begins a survey; see [`ChangeReplay::survey`](mainstay_engine::ChangeReplay::survey).
    pub(crate) fn begin(
        collections: &[StoredCollection],
        until: Until,
        unidentified: Unidentified,
    ) -> Result<Self> {
        let mut unnamed = Unnamed::default();
        let collections: Cow<'_, [StoredCollection]> = match unidentified {
            Unidentified::Refused => collections.into(),
            Unidentified::FirstOfName => {
                collections.iter().map(|collection| identified(collection, &mut unnamed)).collect()
            }
        };
        let mut stored = HashMap::new();
        for StoredCollection { namespace, identity, holds_through, .. } in collections.iter() {
            let Some(uuid) = identity.as_ref().and_then(Uuid::parse) else { continue };
            if let Some((other, _)) = stored.insert(uuid, (namespace.clone(), *holds_through)) {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("{other} and {namespace} have one UUID, {uuid}"),
                ));
            }
        }
        Ok(Self {
            until,
            stored,
            unnamed,
            catalog: Catalog::of(&collections)?,
            counts: HashMap::new(),
            transactions: Transactions::new(Weight {
                definitions: COMMAND_BYTES_MAX,
                changes: TRANSACTION_BYTES_MAX,
            }),
            entries: 0,
            first: None,
            last: None,
            past_end: None,
            needs_from: None,
            needed_by: None,
        })
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        let before = self.past_end.or(self.last);
        let at = Entry::position(bytes).map_err(|fault| fault.at(after(before)))?;
        if before.is_some_and(|before| at <= before) {
            return Err(out_of_order(at));
        }
        if !self.until.includes(at) {
            self.past_end.get_or_insert(at);
            return Ok(());
        }
        Entry::read(bytes).and_then(|entry| self.entry(&entry)).map_err(|fault| fault.at(at))?;
        self.entries += 1;
        self.first.get_or_insert(at);
        self.last = Some(at);
        Ok(())
    }

    fn entry(&mut self, entry: &Entry<'_>) -> Result<(), Fault> {
        let role = match entry.action {
            Action::Command => role(entry)?,
            _ => None,
        };
        match role {
            None => {
                self.transactions.notice(entry);
                self.operation(entry)
            }
            Some(Role::Immediate) => entry.operations().try_for_each(|operation| self.operation(&operation?)),
            Some(Role::Partial) => self.put_aside(entry),
            Some(Role::Last) => {
                self.put_aside(entry)?;
                // The entry itself is the last of the chain now.
                let committed = self.transactions.end(entry)?;
                self.commit(entry, committed)
            }
            Some(Role::Commit) => {
                let committed = self.transactions.commit(entry)?;
                self.commit(entry, committed)
            }
            Some(Role::Abort) => self.transactions.abort(entry),
        }
    }

    fn put_aside(&mut self, entry: &Entry<'_>) -> Result<(), Fault> {
        if !self.unnamed.is_empty() {
            entry.operations().try_for_each(|operation| self.identify(&operation?))?;
        }
        self.transactions.put_aside(entry, self.last, |pending| {
            let mut weight = Weight::default();
            for operation in entry.raw_operations() {
                let bytes = operation?;
                let operation = Entry::inside(bytes, entry)?;
                match target(&operation)? {
                    Target::Documents(uuid, namespace) => {
                        let (counts, _) = pending
                            .counts
                            .entry(uuid)
                            .or_insert_with(|| (ChangeCounts::default(), namespace));
                        count(counts, operation.action);
                        weight.changes += replay::weight(&operation)?;
                    }
                    Target::Definitions => {
                        weight.definitions += bytes.len();
                        pending.definitions.push(bytes.to_vec());
                    }
                    Target::Nothing => {}
                }
            }
            Ok(weight)
        })
    }

    fn commit(&mut self, entry: &Entry<'_>, committed: Committed<Pending>) -> Result<(), Fault> {
        // What all of the set holds already is not needed.
        let oldest = self.stored.values().map(|(_, holds_through)| *holds_through).min();
        if let Some(missing) = committed.missing.filter(|_| oldest.is_none_or(|oldest| entry.at > oldest)) {
            self.needs_from = Some(self.needs_from.map_or(missing, |known| known.min(missing)));
            self.needed_by = Some(entry.at);
        }
        for bytes in &committed.content.definitions {
            self.operation(&Entry::inside(bytes, entry)?)?;
        }
        for (uuid, (counts, namespace)) in committed.content.counts {
            self.catalog.notice(uuid, || namespace);
            if self.is_news(uuid, entry.at) {
                let sum = self.counts.entry(uuid).or_default();
                sum.inserts += counts.inserts;
                sum.updates += counts.updates;
                sum.deletes += counts.deletes;
            }
        }
        Ok(())
    }

    /// Learns the UUIDs that `operation` tells.
    fn identify(&mut self, operation: &Entry<'_>) -> Result<(), Fault> {
        for (stand_in, uuid) in self.unnamed.told(operation)? {
            self.catalog.identify(stand_in, uuid)?;
            if let Some(stored) = self.stored.remove(&stand_in) {
                self.stored.insert(uuid, stored);
            }
        }
        Ok(())
    }

    fn operation(&mut self, operation: &Entry<'_>) -> Result<(), Fault> {
        if !self.unnamed.is_empty() {
            self.identify(operation)?;
        }
        match target(operation)? {
            Target::Documents(uuid, namespace) => {
                self.catalog.notice(uuid, || namespace);
                if self.is_news(uuid, operation.at) {
                    count(self.counts.entry(uuid).or_default(), operation.action);
                }
                Ok(())
            }
            Target::Definitions if operation.action == Action::Command => self.catalog.command(operation),
            Target::Definitions => self.catalog.change_view(operation),
            Target::Nothing => Ok(()),
        }
    }

    /// Whether a change at `at` is not in the set's documents for sure.
    fn is_news(&self, uuid: Uuid, at: OpTime) -> bool {
        self.stored.get(&uuid).is_none_or(|(_, holds_through)| at > *holds_through)
    }
}

/// `collection` with an identity: its own, or a stand-in.
fn identified(collection: &StoredCollection, unnamed: &mut Unnamed) -> StoredCollection {
    let mut collection = collection.clone();
    let is_known = collection.identity.as_ref().and_then(Uuid::parse).is_some();
    if !is_known && collection.kind != CollectionKind::View {
        let stand_in: CollectionIdentity = identity(unnamed.stand_in(&collection));
        collection.identity = Some(stand_in);
    }
    collection
}

/// What an operation is about.
enum Target {
    Documents(Uuid, Namespace),
    Definitions,
    Nothing,
}

fn target(operation: &Entry<'_>) -> Result<Target, Fault> {
    if operation.action == Action::Nothing {
        return Ok(Target::Nothing);
    }
    let (database, collection) = operation.split_namespace()?;
    if operation.action == Action::Command {
        return Ok(Target::Definitions);
    }
    if !is_user_database(database) {
        return Ok(Target::Nothing);
    }
    if collection == "system.views" {
        return Ok(Target::Definitions);
    }
    let Some(namespace) = place_of(database, collection) else {
        resharding(&Namespace::new(database, collection))?;
        return Ok(Target::Nothing);
    };
    // What a replay will need is asked for now.
    operation.id()?;
    if operation.action == Action::Update
        && let Update::Diff(changes) = operation.update()?
    {
        diff::check(changes)?;
    }
    let uuid = operation.collection.ok_or_else(|| {
        Fault::Unsupported(format!(
            "a change of {} that does not tell the collection's UUID",
            operation.namespace
        ))
    })?;
    Ok(Target::Documents(uuid, namespace))
}

pub(super) fn count(counts: &mut ChangeCounts, action: Action) {
    match action {
        Action::Insert => counts.inserts += 1,
        Action::Update => counts.updates += 1,
        Action::Delete => counts.deletes += 1,
        Action::Command | Action::Nothing => {}
    }
}

/// Where the entry after `before` is.
pub(super) fn after(before: Option<OpTime>) -> String {
    before.map_or_else(|| "its beginning".to_owned(), |before| format!("the entry after {before}"))
}

pub(super) fn out_of_order(at: OpTime) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the change log is out of order at {at}"))
        .with_hint("verify the stored log with `mainstay backup verify`")
}

impl ChangeSurvey for MongoSurvey {
    fn add(&mut self, entries: &[u8]) -> Result<()> {
        for frame in document_frames(entries) {
            let before = self.past_end.or(self.last);
            let bytes = frame.map_err(|error| Fault::Corrupt(error.to_string()).at(after(before)))?;
            self.take(bytes)?;
        }
        Ok(())
    }

    fn end(self: Box<Self>) -> Result<Surveyed> {
        let mut collections = Vec::new();
        for (uuid, definition) in self.catalog.collections() {
            let metadata = definition.metadata(uuid);
            collections.push(PointCollection {
                namespace: definition.namespace.clone(),
                kind: definition.kind,
                capped: metadata.is_capped(),
                identity: Some(identity(uuid)),
                origin: self.stored.get(&uuid).map(|(namespace, _)| namespace.clone()),
                metadata: metadata.to_text()?,
                changes: self.counts.get(&uuid).copied().unwrap_or_default(),
            });
        }
        for view in self.catalog.views() {
            let (namespace, metadata) = view?;
            collections.push(PointCollection {
                namespace,
                kind: CollectionKind::View,
                capped: false,
                identity: None,
                origin: None,
                metadata,
                changes: ChangeCounts::default(),
            });
        }
        collections.sort_by(|one, other| one.namespace.cmp(&other.namespace));
        if let Some(pair) = collections.windows(2).find(|pair| pair[0].namespace == pair[1].namespace) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("two collections are named {} at the end of the log", pair[0].namespace),
            )
            .with_hint(
                "the log does not continue this set without a hole; choose another set, or take a new backup",
            ));
        }
        Ok(Surveyed {
            collections,
            foreign: self.catalog.foreign(),
            first: self.first,
            last: self.last,
            past_end: self.past_end,
            needs_from: self.needs_from,
            needed_by: self.needed_by,
            entries: self.entries,
        })
    }
}

/// Feeds foreign bytes to the survey. For fuzzers; the outcome is of no interest.
pub(crate) fn exercise(bytes: &[u8]) {
    let end = OpTime { seconds: u32::MAX, increment: u32::MAX };
    let series = StoredCollection {
        namespace: Namespace::new("shop", "series"),
        kind: CollectionKind::TimeSeries,
        identity: None,
        metadata: String::new(),
        holds_through: OpTime { seconds: 0, increment: 0 },
    };
    if let Ok(mut survey) = MongoSurvey::begin(&[series], Until::Through(end), Unidentified::FirstOfName)
        && survey.add(bytes).is_ok()
    {
        let _ = Box::new(survey).end();
    }
}

#[cfg(test)]
mod tests;
