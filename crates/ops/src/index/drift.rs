//! What a database's indexes differ in from what is declared.
//!
//! A collection that is declared and not there yet lacks all its indexes. One that is there and not declared has indexes that nobody declares,
//! unless the policy ignores it. Views and time series are told when they are declared, since their indexes are not compared.

use std::collections::BTreeSet;

use mainstay_engine::{IndexCatalog, IndexedCollection};
use mainstay_indexes::{Collation, Comparison, Manifest, Standing, compare};
use mainstay_model::Result;

use super::{choosable, collections, is_regarded};

/// What was compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriftReport {
    /// The database.
    pub database: String,
    /// By collection, by name.
    pub collections: Vec<CollectionDrift>,
    /// Collections that are declared and have no indexes to be compared.
    pub incomparable: Vec<String>,
}

/// The comparison of one collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectionDrift {
    /// Its name.
    pub collection: String,
    /// Whether it is there.
    pub exists: bool,
    /// Its rows: declared ones in their order, then those that nobody declares.
    pub rows: Vec<Comparison>,
}

/// How many rows stand how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Declared and not there.
    pub missing: usize,
    /// There and different.
    pub changed: usize,
    /// There and not declared.
    pub undeclared: usize,
    /// Being built.
    pub building: usize,
    /// As declared.
    pub same: usize,
}

impl DriftReport {
    /// All rows, with their collections.
    pub fn rows(&self) -> impl Iterator<Item = (&str, &Comparison)> {
        self.collections
            .iter()
            .flat_map(|collection| collection.rows.iter().map(|row| (collection.collection.as_str(), row)))
    }

    /// Whether anything is to be done or waited for.
    pub fn is_drift(&self) -> bool {
        !self.incomparable.is_empty() || self.rows().any(|(_, row)| row.is_drift())
    }

    /// How many rows stand how.
    pub fn totals(&self) -> Totals {
        self.rows().fold(Totals::default(), |mut totals, (_, row)| {
            let counter = match row.standing {
                Standing::Missing => &mut totals.missing,
                Standing::Changed { .. } => &mut totals.changed,
                Standing::Undeclared => &mut totals.undeclared,
                Standing::Building => &mut totals.building,
                Standing::Same | Standing::Reversed => &mut totals.same,
            };
            *counter += 1;
            totals
        })
    }
}

/// Compares a database, or some collections of it, with what is declared.
///
/// # Errors
/// `Precondition` when a collection is neither there nor declared; the server's.
pub async fn drift(
    catalog: &dyn IndexCatalog,
    database: &str,
    manifest: &Manifest,
    names: &[String],
) -> Result<DriftReport> {
    let is_declared = |name: &str| manifest.collections.contains_key(name);
    let found = collections(catalog, database, names, is_declared).await?;
    Ok(decide(database, found, manifest, names))
}

/// The comparison of what was found.
fn decide(
    database: &str,
    found: Vec<IndexedCollection>,
    manifest: &Manifest,
    names: &[String],
) -> DriftReport {
    let (found, special) = choosable(found);
    let is_wanted = |name: &&String| names.is_empty() || names.contains(name);
    let incomparable: Vec<String> = special
        .into_iter()
        .map(|collection| collection.namespace.collection)
        .filter(|name| manifest.collections.get(name).is_some_and(|declared| !declared.is_empty()))
        .collect();
    let of_name = |name: &str| found.iter().find(|collection| collection.namespace.collection == name);
    let there = found.iter().map(|collection| &collection.namespace.collection);
    let all: BTreeSet<&String> = manifest.collections.keys().filter(is_wanted).chain(there).collect();
    let compared = |name: &&String| {
        let declared = manifest.collections.get(*name).map(Vec::as_slice);
        let skipped = incomparable.contains(name) || !is_regarded(manifest, name);
        (!skipped).then(|| {
            let found = of_name(name);
            let live = found.map(|found| found.indexes.as_slice()).unwrap_or_default();
            let inherited = found.map_or(&Collation::Simple, |found| &found.collation);
            CollectionDrift {
                collection: (*name).clone(),
                exists: found.is_some(),
                rows: compare(declared.unwrap_or_default(), live, inherited),
            }
        })
    };
    let collections = all.iter().filter_map(compared).collect();
    DriftReport { database: database.to_owned(), collections, incomparable }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use mainstay_engine::{CollectionKind, Namespace};
    use mainstay_indexes::{Json, ListedIndex};

    use super::*;

    fn collection(name: &str, kind: CollectionKind, indexes: &[&str]) -> IndexedCollection {
        let index = |text: &&str| ListedIndex::read(&Json::parse(text).unwrap()).unwrap();
        IndexedCollection {
            namespace: Namespace::new("shop", name),
            kind,
            identity: None,
            collation: Collation::Simple,
            options: "{}".to_owned(),
            indexes: indexes.iter().map(index).collect(),
        }
    }

    const ID: &str = r#"{"key":{"_id":1},"name":"_id_"}"#;
    const A: &str = r#"{"key":{"a":1},"name":"a_1"}"#;

    fn rows(found: Vec<IndexedCollection>, manifest: &str, names: &[String]) -> Vec<String> {
        let report = decide("shop", found, &Manifest::parse(manifest).unwrap(), names);
        report
            .rows()
            .map(|(collection, row)| format!("{collection}.{} {}", row.name(), row.is_drift()))
            .collect()
    }

    #[test]
    fn collections_are_compared_by_name() {
        let found = || {
            vec![
                collection("users", CollectionKind::Collection, &[ID, A]),
                collection("logs", CollectionKind::Collection, &[ID, A]),
                collection("tmp_1", CollectionKind::Collection, &[ID, A]),
                collection("view", CollectionKind::View, &[]),
            ]
        };
        let manifest = "[indexes]\nusers = [{ keys = [\"a\"] }]\norders = [{ keys = [\"b\"] }]\n[policy]\nignore = [\"tmp_*\"]\n";
        assert_eq!(rows(found(), manifest, &[]), ["logs.a_1 true", "orders.b_1 true", "users.a_1 false"]);
        let users = vec![collection("users", CollectionKind::Collection, &[ID, A])];
        assert_eq!(rows(users, manifest, &["users".to_owned()]), ["users.a_1 false"]);
    }

    #[test]
    fn what_is_declared_of_a_view_is_told() {
        let manifest = Manifest::parse("[indexes]\nview = [{ keys = [\"a\"] }]\n").unwrap();
        let report = decide("shop", vec![collection("view", CollectionKind::View, &[])], &manifest, &[]);
        assert_eq!((report.is_drift(), report.incomparable.len(), report.collections.len()), (true, 1, 0));
    }
}
