//! What a deployment holds: databases, collections, their definitions and sizes.
//!
//! Left out everywhere: the server's own databases (`admin`, `config`, `local`, `__mdb_internal*`) and Mainstay's own (`mainstay`, which
//! holds the environment marker: a marker must not travel to another environment inside a backup); the server's own collections
//! (`system.*`, except `system.js`, which holds users' functions) and the bucket collections behind time series, which are read under the
//! name of the time series.
//!
//! Definitions are taken byte for byte from listCollections and listIndexes. Sizes are the server's estimates from `$collStats`. A user who
//! may not ask for them gets the number of documents from `count`, and no bytes; one who may not count either gets an error, because zero
//! would say that nothing is there. A collection dropped while the listing runs is left out; one that is renamed is
//! looked for again, because a backup that lacks it could not be brought to any moment.

use std::collections::{BTreeMap, BTreeSet};

use bson::raw::RawDocument;
use bson::{Document, RawDocumentBuf, rawdoc};
use futures::{StreamExt as _, TryStreamExt as _};
use mainstay_engine::{CollectionIdentity, CollectionInfo, CollectionKind, Namespace};
use mainstay_model::progress::Work;
use mainstay_model::{Error, ErrorKind, ErrorStatus, Result, ResultExt};

use crate::error::code;
use crate::metadata::{Metadata, array, kind_of};
use crate::raw;
use crate::reply::{hex, number};
use crate::server::MongoServer;

/// Mainstay's own database.
pub(crate) const OWN_DATABASE: &str = "mainstay";

/// How many collections are asked about at the same time.
const CONCURRENCY: usize = 8;

/// How often collections are looked for under new names. Each time is over in milliseconds.
const LISTING_COUNT_MAX: usize = 20;

/// The databases that hold user data and that the user may see, by name. The server leaves the others out without a word.
pub(crate) async fn databases(server: &MongoServer) -> Result<Vec<String>> {
    Ok(user_databases(&server.ask("admin", rawdoc! { "listDatabases": 1, "nameOnly": true }).await?))
}

/// All databases that hold user data, by name. Asked not to leave any out, the server refuses a user who may not see them all
/// (MongoDB manual, listDatabases, `authorizedDatabases`).
pub(crate) async fn every_database(server: &MongoServer) -> Result<Vec<String>> {
    let command = rawdoc! { "listDatabases": 1, "nameOnly": true, "authorizedDatabases": false };
    match server.ask_unless(code::UNAUTHORIZED, "admin", command).await? {
        Some(reply) => Ok(user_databases(&reply)),
        None => Err(Error::new(
            ErrorKind::Auth,
            "the user may not list all databases of the server, so that some would be left out unseen",
        )
        .with_state("nothing was changed")
        .with_hint(
            "name the databases with `--database`, or grant listDatabases on the cluster, which the role backup has: \
             db.getSiblingDB(\"admin\").grantRolesToUser(USER, [{role: \"backup\", db: \"admin\"}])",
        )),
    }
}

fn user_databases(reply: &Document) -> Vec<String> {
    let listed = reply.get_array("databases").map(Vec::as_slice).unwrap_or_default();
    let names = listed.iter().filter_map(|database| database.as_document()?.get_str("name").ok());
    let mut names: Vec<String> = names.filter(|name| is_user_database(name)).map(str::to_owned).collect();
    names.sort();
    names
}

pub(crate) fn is_user_database(name: &str) -> bool {
    !["admin", "config", "local", OWN_DATABASE].contains(&name) && !name.starts_with("__mdb_internal")
}

pub(crate) fn is_user_collection(name: &str) -> bool {
    !name.starts_with("system.") || name == "system.js"
}

/// Refuses what is the server's own or Mainstay's, such as the environment marker: no data that a project declares goes there.
///
/// # Errors
/// `Refused`.
pub(crate) fn check_user_data(namespace: &Namespace) -> Result<()> {
    if is_user_database(&namespace.database) && is_user_collection(&namespace.collection) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Refused, format!("{namespace} is the server's own, or Mainstay's"))
        .with_state("nothing was changed")
        .with_hint("name a collection that holds data of the application"))
}

/// The collections of `database`, by name. One that is renamed meanwhile is met under its new name; created or dropped ones may be missed.
pub(crate) async fn collections(server: &MongoServer, database: &str) -> Result<Vec<CollectionInfo>> {
    let mut specs = list(server, database).await?;
    let mut collections: Vec<CollectionInfo> = Vec::new();
    for _ in 0..LISTING_COUNT_MAX {
        let (described, gone) = describe_all(server, database, specs).await?;
        // What now bears a name was renamed over what bore it.
        let replaced = |known: &CollectionInfo| described.iter().any(|new| new.namespace == known.namespace);
        collections.retain(|known| !replaced(known));
        collections.extend(described);
        if gone.is_empty() {
            collections.sort_by(|one, other| one.namespace.cmp(&other.namespace));
            return Ok(collections);
        }
        // What is gone under its name was dropped, or has another name now.
        specs = list(server, database).await?;
        specs.retain(|spec| uuid_of(spec).is_some_and(|uuid| gone.contains(&uuid)));
    }
    Err(Error::new(
        ErrorKind::Conflict,
        format!("collections of {database} are renamed faster than they can be listed"),
    )
    .with_status(ErrorStatus::Temporary)
    .with_hint("try again when nobody renames them"))
}

async fn list(server: &MongoServer, database: &str) -> Result<Vec<RawDocumentBuf>> {
    server.list(database, rawdoc! { "listCollections": 1, "cursor": {} }).await
}

/// The collections of `specs`, and the UUIDs of those that are gone under their names.
async fn describe_all(
    server: &MongoServer,
    database: &str,
    specs: Vec<RawDocumentBuf>,
) -> Result<(Vec<CollectionInfo>, BTreeSet<String>)> {
    let buckets = bucket_identities(&specs);
    let user = |spec: &RawDocumentBuf| is_user_collection(spec.get_str("name").unwrap_or_default());
    let described: Vec<(Option<String>, Option<CollectionInfo>)> =
        futures::stream::iter(specs.into_iter().filter(user))
            .map(|spec| async {
                let uuid = uuid_of(&spec);
                describe(server, database, spec, &buckets).await.map(|info| (uuid, info))
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await?;
    let gone = described.iter().filter(|(_, info)| info.is_none()).filter_map(|(uuid, _)| uuid.clone());
    let gone = gone.collect();
    Ok((described.into_iter().filter_map(|(_, info)| info).collect(), gone))
}

/// One entry of listCollections with its indexes and sizes; `None` for what is gone.
async fn describe(
    server: &MongoServer,
    database: &str,
    spec: RawDocumentBuf,
    buckets: &BTreeMap<String, String>,
) -> Result<Option<CollectionInfo>> {
    let name = spec.get_str("name").unwrap_or_default();
    let namespace = Namespace::new(database, name);
    let kind = kind_of(spec.get_str("type").unwrap_or("collection"));
    let indexes = match indexes(server, &namespace, kind).await {
        Ok(indexes) => indexes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.context(format!("list indexes of {namespace}"))),
    };
    let metadata = Metadata {
        options: spec.get_document("options").map(ToOwned::to_owned).unwrap_or_default(),
        indexes,
        uuid: uuid_of(&spec),
        name: Some(name.to_owned()),
        kind,
    };
    let mut info = CollectionInfo {
        kind,
        capped: metadata.is_capped(),
        clustered: metadata.is_clustered(),
        estimate: Work::default(),
        index_count: u32::try_from(metadata.indexes.len()).unwrap_or(u32::MAX),
        identity: match kind {
            CollectionKind::TimeSeries => buckets.get(name).cloned(),
            CollectionKind::Collection | CollectionKind::View => metadata.uuid.clone(),
        }
        .map(CollectionIdentity),
        metadata: metadata.to_text().with_context(|| format!("describe {namespace}"))?,
        namespace,
    };
    info.estimate =
        estimate(server, &info).await.with_context(|| format!("ask for the size of {}", info.namespace))?;
    Ok(Some(info))
}

/// The indexes of a collection, byte for byte; none for a view.
pub(crate) async fn indexes(
    server: &MongoServer,
    namespace: &Namespace,
    kind: CollectionKind,
) -> Result<Vec<RawDocumentBuf>> {
    if kind == CollectionKind::View {
        return Ok(Vec::new());
    }
    server
        .list(&namespace.database, rawdoc! { "listIndexes": namespace.collection.as_str(), "cursor": {} })
        .await
}

/// The entry of listCollections for one name, if it exists.
pub(crate) async fn find(server: &MongoServer, namespace: &Namespace) -> Result<Option<RawDocumentBuf>> {
    let command =
        rawdoc! { "listCollections": 1, "filter": { "name": namespace.collection.as_str() }, "cursor": {} };
    Ok(server.list(&namespace.database, command).await?.into_iter().next())
}

/// The UUIDs of the bucket collections among `specs`, by the names of their time series.
fn bucket_identities(specs: &[RawDocumentBuf]) -> BTreeMap<String, String> {
    let identity = |spec: &RawDocumentBuf| {
        Some((spec.get_str("name").ok()?.strip_prefix("system.buckets.")?.to_owned(), uuid_of(spec)?))
    };
    specs.iter().filter_map(identity).collect()
}

pub(crate) fn uuid_of(spec: &RawDocument) -> Option<String> {
    spec.get_document("info").ok()?.get_binary("uuid").ok().map(|uuid| hex(uuid.bytes))
}

/// Documents and bytes as the storage engine counts them; over all shards on a mongos.
async fn estimate(server: &MongoServer, info: &CollectionInfo) -> Result<Work> {
    if info.kind == CollectionKind::View {
        return Ok(Work::default());
    }
    let namespace = info.data_namespace();
    let stages = [rawdoc! { "$collStats": { "storageStats": {} } }];
    let command =
        rawdoc! { "aggregate": namespace.collection.as_str(), "pipeline": array(&stages), "cursor": {} };
    match server.list(&namespace.database, command).await {
        Ok(shards) => Ok(shards.iter().fold(Work::default(), |sum, shard| {
            let stats = shard.get_document("storageStats").map(RawDocument::as_bytes).unwrap_or_default();
            let number = |key| {
                let found = raw::find(stats, key).ok().flatten().and_then(|element| element.number());
                found.and_then(|number| u64::try_from(number).ok()).unwrap_or(0)
            };
            Work { items: sum.items + number("count"), bytes: sum.bytes + number("size") }
        })),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Work::default()),
        Err(error) if error.kind() == ErrorKind::Auth => counted(server, info).await,
        Err(error) => Err(error),
    }
}

/// The number of documents, for users who may not see statistics. `count` without a query reads the collection's own counter (MongoDB manual,
/// "count"). Whoever may not look into the buckets of a time series is told of the series itself: its size, or else its measurements.
async fn counted(server: &MongoServer, info: &CollectionInfo) -> Result<Work> {
    let Namespace { database, collection } = &info.namespace;
    if info.kind == CollectionKind::TimeSeries {
        match server.ask(database, rawdoc! { "collStats": collection.as_str() }).await {
            Ok(stats) => {
                let buckets = stats.get_document("timeseries").ok();
                return Ok(Work {
                    items: buckets.and_then(|buckets| number(buckets, "bucketCount")).unwrap_or(0),
                    bytes: number(&stats, "size").unwrap_or(0),
                });
            }
            Err(error) if error.kind() == ErrorKind::Auth => {}
            Err(error) => return Err(error),
        }
    }
    let reply = server.ask(database, rawdoc! { "count": collection.as_str() }).await?;
    Ok(Work { items: number(&reply, "n").unwrap_or(0), bytes: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_own_is_left_out() {
        for name in ["admin", "config", "local", "mainstay", "__mdb_internal_search"] {
            assert!(!is_user_database(name), "{name}");
        }
        assert!(is_user_database("shop") && is_user_database("adminx") && is_user_database("日本"));
        for name in ["system.views", "system.profile", "system.buckets.prices"] {
            assert!(!is_user_collection(name), "{name}");
        }
        assert!(
            is_user_collection("system.js")
                && is_user_collection("systems")
                && is_user_collection("a.system.b")
        );
    }
}
