//! Manifests made from what is there and from what code declares, and all three beside each other.
//!
//! What is imported from a server is what it has, the hidden and the redundant included; what is only being built is left out and told. The
//! three-way view has one row for each index that is the same one wherever it is known: an index that code and server have with different
//! options is two rows, of which each says where it is known.

use std::collections::BTreeMap;

use mainstay_engine::{IndexCatalog, IndexedCollection};
use mainstay_indexes::mongoose::Declarations;
use mainstay_indexes::{Collation, DeclaredIndex, IndexSpec, Manifest};
use mainstay_model::Result;

use super::{choosable, collections};

/// A manifest that was made, and what a person should know about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// The manifest.
    pub manifest: Manifest,
    /// One factual line each.
    pub notes: Vec<String>,
}

/// Declares what a database has.
///
/// # Errors
/// `Precondition` when a name is not there; the server's.
pub async fn live(catalog: &dyn IndexCatalog, database: &str, names: &[String]) -> Result<Import> {
    let found = collections(catalog, database, names, |_| false).await?;
    Ok(declare(found))
}

fn declare(found: Vec<IndexedCollection>) -> Import {
    let (found, special) = choosable(found);
    let mut notes: Vec<String> = special
        .iter()
        .map(|left| format!("{} is a view or a time series: left out", left.namespace.collection))
        .collect();
    let mut manifest = Manifest::default();
    for collection in found {
        let name = &collection.namespace.collection;
        let (ready, building): (Vec<_>, Vec<_>) =
            collection.indexes.iter().filter(|index| !index.is_id()).partition(|index| index.is_ready());
        notes.extend(building.iter().map(|index| format!("{name}.{} is being built: left out", index.name)));
        let declared =
            ready.iter().map(|index| DeclaredIndex::of_spec(&index.name, &index.spec, &collection.collation));
        manifest.collections.insert(name.clone(), declared.collect());
    }
    Import { manifest, notes }
}

/// What code declares, as a manifest.
pub fn code(declarations: &Declarations) -> Import {
    let mut notes = declarations.notes.clone();
    notes.extend(declarations.auto_index.iter().map(|collection| {
        format!("{collection}: the application builds its indexes when it begins (autoIndex), past any plan")
    }));
    let manifest = Manifest { collections: declarations.collections.clone(), ..Manifest::default() };
    Import { manifest, notes }
}

/// One index, and who knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreeWayRow {
    /// The collection.
    pub collection: String,
    /// The name: the server's, else the manifest's, else the code's.
    pub name: String,
    /// What it is, as a manifest declares it.
    pub declaration: String,
    /// Code declares it.
    pub code: bool,
    /// The manifest does.
    pub manifest: bool,
    /// The server has it.
    pub live: Presence,
}

/// Whether a server has an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It has.
    Ready,
    /// It is getting it.
    Building,
    /// It has not.
    Absent,
}

impl ThreeWayRow {
    /// Whether all three agree.
    pub fn agrees(&self) -> bool {
        self.code && self.manifest && self.live == Presence::Ready
    }
}

/// Code, manifest and server beside each other, by collection.
///
/// # Errors
/// `Precondition` when a name is known nowhere; the server's.
pub async fn three_way(
    catalog: &dyn IndexCatalog,
    database: &str,
    declarations: &Declarations,
    manifest: &Manifest,
    names: &[String],
) -> Result<Vec<ThreeWayRow>> {
    let is_known =
        |name: &str| manifest.collections.contains_key(name) || declarations.collections.contains_key(name);
    let (found, _) = choosable(collections(catalog, database, names, is_known).await?);
    Ok(beside(&found, declarations, manifest, names))
}

/// An index that is known somewhere.
struct Known {
    spec: IndexSpec,
    name: String,
    code: bool,
    manifest: bool,
    live: Presence,
}

fn beside(
    found: &[IndexedCollection],
    declarations: &Declarations,
    manifest: &Manifest,
    names: &[String],
) -> Vec<ThreeWayRow> {
    let mut all: BTreeMap<&String, Vec<Known>> = BTreeMap::new();
    let collation_of = |name: &String| {
        let found = found.iter().find(|collection| collection.namespace.collection == *name);
        found.map_or(&Collation::Simple, |collection| &collection.collation)
    };
    for collection in found {
        let known = all.entry(&collection.namespace.collection).or_default();
        for index in collection.indexes.iter().filter(|index| !index.is_id()) {
            let live = if index.is_ready() { Presence::Ready } else { Presence::Building };
            let (spec, name) = (index.spec.clone(), index.name.clone());
            known.push(Known { spec, name, code: false, manifest: false, live });
        }
    }
    let is_wanted = |name: &String| names.is_empty() || names.contains(name);
    let mut add = |name, indexes: &[DeclaredIndex], mark: fn(&mut Known)| {
        let known = all.entry(name).or_default();
        for index in indexes {
            let spec = index.spec(collation_of(name));
            let at = known.iter().position(|known| known.spec == spec).unwrap_or_else(|| {
                let name = index.name();
                known.push(Known { spec, name, code: false, manifest: false, live: Presence::Absent });
                known.len() - 1
            });
            mark(&mut known[at]);
        }
    };
    for (name, indexes) in manifest.collections.iter().filter(|(name, _)| is_wanted(name)) {
        add(name, indexes, |known| known.manifest = true);
    }
    for (name, indexes) in declarations.collections.iter().filter(|(name, _)| is_wanted(name)) {
        add(name, indexes, |known| known.code = true);
    }
    let row = |collection: &String, known: Known| ThreeWayRow {
        declaration: mainstay_indexes::toml_of(&DeclaredIndex::of_spec(
            &known.name,
            &known.spec,
            collation_of(collection),
        )),
        collection: collection.clone(),
        name: known.name,
        code: known.code,
        manifest: known.manifest,
        live: known.live,
    };
    all.into_iter()
        .flat_map(|(collection, known)| known.into_iter().map(move |known| (collection, known)))
        .map(|(collection, known)| row(collection, known))
        .collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use mainstay_engine::{CollectionKind, Namespace};
    use mainstay_indexes::{Json, ListedIndex};

    use super::*;

    fn users(indexes: &[&str]) -> IndexedCollection {
        let index = |text: &&str| ListedIndex::read(&Json::parse(text).unwrap()).unwrap();
        IndexedCollection {
            namespace: Namespace::new("shop", "users"),
            kind: CollectionKind::Collection,
            identity: None,
            collation: Collation::Simple,
            options: "{}".to_owned(),
            indexes: indexes.iter().map(index).collect(),
        }
    }

    #[test]
    fn what_is_there_is_declared_as_it_is() {
        let found = users(&[
            r#"{"key":{"_id":1},"name":"_id_"}"#,
            r#"{"key":{"b":1,"a":-1},"name":"mine","unique":true,"sparse":false}"#,
            r#"{"spec":{"key":{"c":1},"name":"c_1"},"buildUUID":"1"}"#,
        ]);
        let import = declare(vec![found]);
        let text = mainstay_indexes::toml_text(&import.manifest);
        assert_eq!(
            text,
            "[mongo.indexes]\nusers = [\n  { keys = [\"b\", \"-a\"], name = \"mine\", unique = true },\n]\n"
        );
        assert_eq!(import.notes, ["users.c_1 is being built: left out"]);
    }

    #[test]
    fn three_sides_are_told_apart() {
        let declared = |text: &str| Manifest::parse(text).unwrap().collections;
        let manifest =
            Manifest::parse("[indexes]\nusers = [{ keys = [\"a\"] }, { keys = [\"b\"], unique = true }]\n")
                .unwrap();
        let declarations = Declarations {
            collections: declared("[indexes]\nusers = [{ keys = [\"a\"] }, { keys = [\"c\"] }]\n"),
            ..Declarations::default()
        };
        let found =
            users(&[r#"{"key":{"a":1},"name":"a_1","sparse":false}"#, r#"{"key":{"b":1},"name":"b_1"}"#]);
        let rows = beside(&[found], &declarations, &manifest, &[]);
        let told: Vec<_> = rows
            .iter()
            .map(|row| (row.name.as_str(), row.code, row.manifest, row.live == Presence::Ready, row.agrees()))
            .collect();
        assert_eq!(
            told,
            [
                ("a_1", true, true, true, true),
                ("b_1", false, false, true, false),
                ("b_1", false, true, false, false),
                ("c_1", true, false, false, false),
            ]
        );
    }
}
