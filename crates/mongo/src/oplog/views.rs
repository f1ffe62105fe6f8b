//! The collection `system.views` of each database, which holds its views and, for every time series, a view of its buckets.
//!
//! Its documents are the only place where the oplog tells of views. They have `_id` (`database.view`), `viewOn`, `pipeline` and
//! `collation`; what listCollections shows as options is the same without the `_id`.

use std::collections::BTreeMap;

use bson::RawDocumentBuf;
use mainstay_engine::Namespace;

use super::diff;
use super::entry::{Action, Entry, Fault, Update};
use crate::metadata::without;
use crate::raw;

/// The views of all databases.
#[derive(Debug, Default)]
pub(super) struct Views(BTreeMap<Namespace, RawDocumentBuf>);

impl Views {
    /// A view with the options that listCollections shows.
    pub(super) fn put(&mut self, namespace: Namespace, options: RawDocumentBuf) {
        self.0.insert(namespace, options);
    }

    /// Applies a change of a document in `system.views`.
    pub(super) fn change(&mut self, entry: &Entry<'_>) -> Result<(), Fault> {
        let namespace = namespace_of(entry)?;
        let document = match entry.action {
            Action::Insert => entry.object.to_vec(),
            Action::Update => match entry.update()? {
                Update::Replacement(document) => document.to_vec(),
                Update::Diff(changes) => match self.0.get(&namespace) {
                    Some(options) => diff::apply(options.as_bytes(), changes)?,
                    None => return Ok(()),
                },
            },
            Action::Delete => {
                self.0.remove(&namespace);
                return Ok(());
            }
            Action::Command | Action::Nothing => return Ok(()),
        };
        let document = raw::as_document(&document)?;
        self.0.insert(namespace, without(document, &["_id"]));
        Ok(())
    }

    /// Drops all views of a database.
    pub(super) fn drop_database(&mut self, database: &str) {
        self.0.retain(|namespace, _| namespace.database != database);
    }

    /// Whether there is a view of that name.
    pub(super) fn contains(&self, namespace: &Namespace) -> bool {
        self.0.contains_key(namespace)
    }

    /// All that are no time series.
    pub(super) fn proper(&self) -> impl Iterator<Item = (&Namespace, &RawDocumentBuf)> {
        self.0.iter().filter(|(_, options)| {
            !options.get_str("viewOn").is_ok_and(|source| source.starts_with("system.buckets."))
        })
    }
}

fn namespace_of(entry: &Entry<'_>) -> Result<Namespace, Fault> {
    let id = entry.id()?;
    let name = id.text().and_then(|text| text.split_once('.'));
    name.map(|(database, view)| Namespace::new(database, view))
        .ok_or_else(|| Fault::Corrupt("a view without name".to_owned()))
}
