//! Collections whose UUID nobody has written down, until the log tells it.
//!
//! mongodump writes down the UUIDs of collections, but not those of the buckets of time series, and nothing when there is no metadata. Until
//! the log calls such a collection by its name, it goes under a stand-in: a UUID that no server gives, because theirs are random ones of
//! version 4. What the log never mentions keeps it; nothing is replayed into that.

use std::collections::BTreeMap;

use mainstay_engine::{Namespace, StoredCollection, data_namespace};

use super::entry::{Action, Entry, Fault, Uuid, named};
use crate::raw;

/// The stand-ins, by the name of the collection that holds the documents.
#[derive(Debug, Default)]
pub(super) struct Unnamed {
    waiting: BTreeMap<Namespace, Uuid>,
    given: u64,
}

impl Unnamed {
    /// A stand-in for `collection`.
    pub(super) fn stand_in(&mut self, collection: &StoredCollection) -> Uuid {
        self.given += 1;
        let uuid = Uuid::stand_in(self.given);
        self.waiting.insert(data_namespace(&collection.namespace, collection.kind), uuid);
        uuid
    }

    /// Whether nothing waits for its UUID.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes out the collections that `operation` calls by their names for the first time: the stand-in of each, and its UUID.
    pub(super) fn told(&mut self, operation: &Entry<'_>) -> Result<Vec<(Uuid, Uuid)>, Fault> {
        let mut told = Vec::new();
        for (namespace, uuid) in mentions(operation)? {
            if let Some(stand_in) = self.waiting.remove(&namespace) {
                told.push((stand_in, uuid));
            }
        }
        Ok(told)
    }
}

/// The collections that an operation names, with their UUIDs.
fn mentions(operation: &Entry<'_>) -> Result<Vec<(Namespace, Uuid)>, Fault> {
    let Some(uuid) = operation.collection else { return Ok(Vec::new()) };
    let (database, collection) = operation.split_namespace()?;
    match operation.action {
        Action::Nothing => Ok(Vec::new()),
        Action::Insert | Action::Update | Action::Delete => {
            Ok(vec![(Namespace::new(database, collection), uuid)])
        }
        Action::Command => {
            let name = operation.command()?;
            if name.key != b"renameCollection" {
                return Ok(match name.text() {
                    Some(_) => vec![(named(database, &name)?, uuid)],
                    None => Vec::new(),
                });
            }
            let to = raw::find(operation.object, "to")?;
            let replaced = raw::find(operation.object, "dropTarget")?.as_ref().and_then(Uuid::of);
            let whole = |name: Option<&str>| name?.split_once('.').map(|(db, name)| Namespace::new(db, name));
            let from = whole(name.text()).map(|from| (from, uuid));
            let to = whole(to.and_then(|to| to.text())).map(|to| (to, replaced.unwrap_or(uuid)));
            Ok(from.into_iter().chain(to).collect())
        }
    }
}
