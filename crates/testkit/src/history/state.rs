//! What a database holds, and how two such differ.

use std::collections::BTreeMap;
use std::sync::Arc;

use bson::{Bson, Document, RawDocumentBuf, doc};
use futures::TryStreamExt as _;
use mongodb::{Client, Database};

use super::hashes;

/// How many differences are told.
const DIFFERENCE_COUNT_MAX: usize = 8;

/// What a database held.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The documents of each collection.
    pub(super) contents: BTreeMap<String, Arc<Contents>>,
    /// Options and indexes of each collection and view, as text.
    pub(super) definitions: Arc<BTreeMap<String, String>>,
    /// The server's own hashes, if they were taken then.
    pub(super) hashes: Option<Arc<BTreeMap<String, String>>>,
}

/// The documents of one collection.
#[derive(Clone, Debug)]
pub(super) enum Contents {
    /// By `{_id: …}` as bytes.
    ById(BTreeMap<Vec<u8>, Arc<RawDocumentBuf>>),
    /// In the order that counts: that of insertion for a capped collection; sorted by bytes for a time series, which promises none.
    InOrder(Vec<RawDocumentBuf>),
}

impl Default for Contents {
    fn default() -> Self {
        Self::ById(BTreeMap::new())
    }
}

impl Contents {
    fn len(&self) -> usize {
        match self {
            Self::ById(documents) => documents.len(),
            Self::InOrder(documents) => documents.len(),
        }
    }
}

impl State {
    /// Collections whose definition says that they are of the kind `kind`: `collection`, `capped`, `timeseries` or `view`.
    pub(super) fn of_kind(&self, kind: &str) -> Vec<String> {
        let is = |definition: &&String| definition.starts_with(&format!("{kind} "));
        let found = self.definitions.iter().filter(|(_, definition)| is(definition));
        found.map(|(name, _)| name.clone()).collect()
    }

    /// The `_id`s of a collection.
    pub(super) fn ids(&self, collection: &str) -> Vec<Bson> {
        let Some(Contents::ById(documents)) = self.contents.get(collection).map(AsRef::as_ref) else {
            return Vec::new();
        };
        let id = |key: &Vec<u8>| Document::from_reader(key.as_slice()).ok()?.remove("_id");
        documents.keys().filter_map(id).collect()
    }

    /// How many documents a collection holds.
    pub fn documents_of(&self, collection: &str) -> usize {
        self.contents.get(collection).map_or(0, |contents| contents.len())
    }

    /// How many documents there are.
    pub fn documents(&self) -> usize {
        self.contents.values().map(|contents| contents.len()).sum()
    }
}

/// Options and indexes of everything in `database`: its kind, then what the server lists, but for UUIDs.
pub(super) async fn definitions(database: &Database) -> BTreeMap<String, String> {
    let specs: Vec<Document> = list(database, doc! { "listCollections": 1 }).await;
    let mut found = BTreeMap::new();
    for spec in specs {
        let name = spec.get_str("name").expect("a collection has a name").to_owned();
        if name.starts_with("system.") {
            continue;
        }
        let options = spec.get_document("options").cloned().unwrap_or_default();
        let listed = spec.get_str("type").unwrap_or("collection");
        let kind = if options.get_bool("capped").unwrap_or(false) { "capped" } else { listed };
        let mut indexes = match kind {
            "view" => Vec::new(),
            _ => list(database, doc! { "listIndexes": &name }).await,
        };
        indexes.sort_by_key(|index| index.get_str("name").unwrap_or_default().to_owned());
        let indexes: Vec<String> = indexes.into_iter().map(text).collect();
        found.insert(name, format!("{kind} {} {}", text(options), indexes.join(" ")));
    }
    found
}

/// As canonical Extended JSON, which keeps types and order.
fn text(document: Document) -> String {
    Bson::Document(document).into_canonical_extjson().to_string()
}

async fn list(database: &Database, command: Document) -> Vec<Document> {
    let cursor = database.run_cursor_command(command).await.expect("the server lists");
    cursor.try_collect().await.expect("the server lists")
}

/// The documents of a collection; `None` for what has none.
pub(super) async fn contents(
    database: &Database,
    name: &str,
    definitions: &BTreeMap<String, String>,
) -> Option<Contents> {
    let kind = definitions.get(name)?.split(' ').next().unwrap_or_default();
    if kind == "view" {
        return None;
    }
    let collection = database.collection::<RawDocumentBuf>(name);
    let cursor = collection.find(doc! {}).sort(doc! { "$natural": 1 }).await.expect("the server reads");
    let mut documents: Vec<RawDocumentBuf> = cursor.try_collect().await.expect("the server reads");
    Some(match kind {
        "capped" => Contents::InOrder(documents),
        "timeseries" => {
            documents.sort_by(|one, other| one.as_bytes().cmp(other.as_bytes()));
            Contents::InOrder(documents)
        }
        _ => {
            let keyed = documents.into_iter().map(|document| (key(&document), Arc::new(document)));
            Contents::ById(keyed.collect())
        }
    })
}

/// `{_id: …}` as bytes.
fn key(document: &RawDocumentBuf) -> Vec<u8> {
    let id = document.get("_id").expect("a readable document").expect("a document has an id");
    doc! { "_id": Bson::try_from(id).expect("a readable id") }.to_vec().expect("a key has a form")
}

/// How `database` differs from `expected`, one line each; empty when it does not.
///
/// # Panics
/// When the server fails.
pub async fn differences(client: &Client, database: &str, expected: &State) -> Vec<String> {
    let handle = client.database(database);
    let found = definitions(&handle).await;
    let mut told = Vec::new();
    for name in found.keys().chain(expected.definitions.keys()) {
        match (expected.definitions.get(name), found.get(name)) {
            (Some(one), Some(other)) if one == other => {}
            (one, other) => told.push(format!("{name} is {other:?}, expected {one:?}")),
        }
    }
    for (name, wanted) in &expected.contents {
        let Some(held) = contents(&handle, name, &found).await else { continue };
        if let Some(difference) = compare(wanted, &held) {
            told.push(format!("{name}: {difference}"));
        }
    }
    if let Some(wanted) = &expected.hashes {
        let held = hashes(client, database).await;
        if held != **wanted {
            told.push(format!("the server's hashes are {held:?}, expected {wanted:?}"));
        }
    }
    told.dedup();
    told.truncate(DIFFERENCE_COUNT_MAX);
    told
}

fn compare(wanted: &Contents, held: &Contents) -> Option<String> {
    match (wanted, held) {
        (Contents::ById(wanted), Contents::ById(held)) => {
            let lost = wanted.keys().filter(|key| !held.contains_key(*key)).count();
            let extra = held.keys().filter(|key| !wanted.contains_key(*key)).count();
            let other: Vec<_> = wanted
                .iter()
                .filter_map(|(key, one)| Some((one, held.get(key)?)))
                .filter(|(one, other)| one.as_bytes() != other.as_bytes())
                .collect();
            let first = other.first().map(|(one, other)| format!("; {other:?}, expected {one:?}"));
            (lost + extra + other.len() > 0).then(|| {
                format!(
                    "{lost} documents are lost, {extra} too many, {} others{}",
                    other.len(),
                    first.unwrap_or_default()
                )
            })
        }
        (Contents::InOrder(wanted), Contents::InOrder(held)) if wanted == held => None,
        _ => Some(format!("{} documents, expected {}, or in another order", held.len(), wanted.len())),
    }
}
