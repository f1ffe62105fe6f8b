//! Collections and their indexes, those that are being built among them.

use bson::raw::RawDocument;
use bson::{RawDocumentBuf, rawdoc};
use futures::{StreamExt as _, TryStreamExt as _};
use mainstay_engine::{CollectionIdentity, CollectionKind, IndexedCollection, Namespace};
use mainstay_indexes::{Collation, ListedIndex};
use mainstay_model::{Error, ErrorKind, Result};

use super::{builds, json};
use crate::catalog;
use crate::extjson;
use crate::inspect::{Right, lacking, list};
use crate::metadata::kind_of;
use crate::server::MongoServer;
use crate::topology::Topology;

const READ: Right =
    Right { action: "listCollections and listIndexes on the database", role: "read", on: "DATABASE" };
/// How many collections are asked about at the same time.
const CONCURRENCY: usize = 8;

/// The collections of `database` that users made, by name.
pub(super) async fn collections(server: &MongoServer, database: &str) -> Result<Vec<IndexedCollection>> {
    let specs = list(server, database, rawdoc! { "listCollections": 1, "cursor": {} }, &READ).await?;
    let is_users =
        |spec: &RawDocumentBuf| catalog::is_user_collection(spec.get_str("name").unwrap_or_default());
    let found: Vec<Option<IndexedCollection>> = futures::stream::iter(specs.into_iter().filter(is_users))
        .map(|spec| async move { described(server, database, &spec).await })
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await?;
    let mut found: Vec<IndexedCollection> = found.into_iter().flatten().collect();
    found.sort_by(|one, other| one.namespace.cmp(&other.namespace));
    mark_builds(server, database, &mut found).await?;
    Ok(found)
}

/// One collection; `None` when it is not there.
pub(super) async fn collection(
    server: &MongoServer,
    namespace: &Namespace,
) -> Result<Option<IndexedCollection>> {
    let found = catalog::find(server, namespace).await;
    let Some(spec) = found.map_err(|error| lacking(error, &READ))? else { return Ok(None) };
    let mut found = described(server, &namespace.database, &spec).await?;
    mark_builds(server, &namespace.database, found.as_mut_slice()).await?;
    Ok(found)
}

/// An entry of listCollections with its indexes; `None` for what was dropped meanwhile.
async fn described(
    server: &MongoServer,
    database: &str,
    spec: &RawDocument,
) -> Result<Option<IndexedCollection>> {
    let namespace = Namespace::new(database, spec.get_str("name").unwrap_or_default());
    let kind = kind_of(spec.get_str("type").unwrap_or("collection"));
    let indexes = match indexes(server, &namespace, kind).await {
        Ok(indexes) => indexes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.context(format!("list the indexes of {namespace}"))),
    };
    let empty = RawDocumentBuf::new();
    let options = spec.get_document("options").unwrap_or(&empty);
    Ok(Some(IndexedCollection {
        kind,
        identity: catalog::uuid_of(spec).map(CollectionIdentity),
        collation: collation(options).map_err(|what| unreadable(&namespace, &what))?,
        options: extjson::document_text(options)
            .map_err(|error| unreadable(&namespace, &error.to_string()))?,
        indexes,
        namespace,
    }))
}

fn collation(options: &RawDocument) -> std::result::Result<Collation, String> {
    match options.get_document("collation") {
        Ok(collation) => Collation::of_document(&json(collation).map_err(|error| error.to_string())?),
        Err(_) => Ok(Collation::Simple),
    }
}

async fn indexes(
    server: &MongoServer,
    namespace: &Namespace,
    kind: CollectionKind,
) -> Result<Vec<ListedIndex>> {
    if kind == CollectionKind::View {
        return Ok(Vec::new());
    }
    let command = rawdoc! {
        "listIndexes": namespace.collection.as_str(), "includeBuildUUIDs": true, "cursor": {},
    };
    let entries = list(server, &namespace.database, command, &READ).await?;
    let read = |entry: &RawDocumentBuf| {
        ListedIndex::read(&json(entry)?).map_err(|error| unreadable(namespace, &error.to_string()))
    };
    entries.iter().map(read).collect()
}

/// A standalone lists what it builds as if it were there (seen with 6.0.27), and tells of the build among its operations alone. They are asked
/// behind all lists: what is listed and no longer built is there. Who may not see them is told what the lists say.
async fn mark_builds(server: &MongoServer, database: &str, found: &mut [IndexedCollection]) -> Result<()> {
    if found.is_empty() || Topology::of(&server.hello().await?) != Topology::Standalone {
        return Ok(());
    }
    let builds = match builds::under_way(server, Some(database)).await {
        Err(error) if error.kind() == ErrorKind::Auth => return Ok(()),
        builds => builds?,
    };
    for build in builds {
        for collection in found.iter_mut().filter(|collection| collection.namespace == build.namespace) {
            let listed = collection.indexes.iter_mut();
            for index in listed.filter(|index| build.indexes.contains(&index.name)) {
                index.build.get_or_insert_with(|| build.build.clone());
            }
        }
    }
    Ok(())
}

fn unreadable(namespace: &Namespace, what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("the definition of {namespace} is not understood: {what}"))
        .with_hint(format!(
            "look at it with db.getSiblingDB(\"{}\").getCollection(\"{}\").getIndexes()",
            namespace.database, namespace.collection
        ))
}
