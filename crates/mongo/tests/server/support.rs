//! What the tests share: opening the adapter, filling a collection through the driver, reading everything back through either.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::{Bson, Document, RawDocumentBuf, doc};
use futures::StreamExt as _;
use mainstay_engine::{
    CollectionInfo, DocumentBatch, DocumentDigest, DocumentSource, PreparedScan, Snapshot, SnapshotRequest,
    document_frames,
};
use mainstay_guard::{Permit, testing_permit};
use mainstay_model::{
    BlastRadius, Effect, EnvironmentClass, PLAN_FORMAT, Plan, Secret, StoreKind, Target, Timestamp,
};
use mainstay_mongo::{MongoConfig, MongoServer};
use mongodb::Client;

pub(crate) async fn open(uri: &str) -> MongoServer {
    MongoServer::open(&MongoConfig::new(Secret::new(uri))).await.unwrap()
}

/// A permit for `operation` on `server`.
pub(crate) async fn permit(server: &MongoServer, operation: &str) -> Permit {
    permit_for(operation, server.server_facts().await.unwrap().fingerprint)
}

/// A permit for `operation` on a server that is not there.
pub(crate) fn permit_elsewhere(operation: &str) -> Permit {
    permit_for(operation, "replica-set-000000000000000000000000".to_owned())
}

fn permit_for(operation: &str, fingerprint: String) -> Permit {
    let now = Timestamp::now();
    testing_permit(&Plan {
        format: PLAN_FORMAT,
        operation: operation.to_owned(),
        effect: Effect::Destructive,
        target: Target {
            environment: "test".to_owned(),
            class: EnvironmentClass::Development,
            store: StoreKind::Mongo,
            fingerprint,
            address: String::new(),
        },
        assumptions: Vec::new(),
        steps: Vec::new(),
        blast_radius: BlastRadius { phrase: String::new(), items: 0, bytes: 0 },
        parameters: serde_json::Value::Null,
        created_at: now,
        expires_at: now,
        tool_version: String::new(),
    })
}

/// One collection of a listing.
pub(crate) async fn collection(server: &MongoServer, database: &str, name: &str) -> CollectionInfo {
    let listed = server.collections(database).await.unwrap();
    listed.into_iter().find(|info| info.namespace.collection == name).unwrap()
}

/// A snapshot of the best kind and the collection prepared in it.
pub(crate) async fn prepared(
    server: &MongoServer,
    info: &CollectionInfo,
    ranges_max: usize,
) -> (Arc<dyn Snapshot>, PreparedScan) {
    let snapshot = server.snapshot(SnapshotRequest::Best).await.unwrap();
    let prepared = snapshot.prepare(info, ranges_max).await.unwrap();
    (snapshot, prepared)
}

/// Reads every range at the same time, through a journal's JSON, and gives all batches.
pub(crate) async fn read_all(
    snapshot: &Arc<dyn Snapshot>,
    info: &CollectionInfo,
    prepared: &PreparedScan,
) -> mainstay_model::Result<Vec<DocumentBatch>> {
    let mut tasks = Vec::new();
    for range in &prepared.ranges {
        let text = serde_json::to_string(range).unwrap();
        let range = serde_json::from_str(&text).unwrap();
        let (snapshot, info, prepared) = (Arc::clone(snapshot), info.clone(), prepared.clone());
        tasks.push(tokio::spawn(async move {
            let mut stream = snapshot.scan(&info, &prepared, &range).await?;
            let mut batches = Vec::new();
            while let Some(batch) = stream.next().await? {
                assert_eq!(document_frames(&batch.bytes).map(Result::unwrap).count() as u64, batch.documents);
                batches.push(batch);
            }
            Ok::<_, mainstay_model::Error>(batches)
        }));
    }
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap()?);
    }
    Ok(all)
}

pub(crate) fn digest(batches: &[DocumentBatch]) -> DocumentDigest {
    let mut digest = DocumentDigest::default();
    for batch in batches {
        digest.add_concatenation(&batch.bytes).unwrap();
    }
    digest
}

/// The digest of a collection as the driver reads it.
pub(crate) async fn digest_by_driver(client: &Client, database: &str, name: &str) -> DocumentDigest {
    let collection = client.database(database).collection::<RawDocumentBuf>(name);
    let mut cursor = collection.find(doc! {}).await.unwrap();
    let mut digest = DocumentDigest::default();
    while let Some(document) = cursor.next().await {
        digest.add_document(document.unwrap().as_bytes());
    }
    digest
}

pub(crate) async fn insert(
    client: &Client,
    database: &str,
    name: &str,
    documents: impl IntoIterator<Item = Document>,
) {
    let documents: Vec<_> = documents.into_iter().collect();
    for chunk in documents.chunks(2_000) {
        client.database(database).collection::<Document>(name).insert_many(chunk).await.unwrap();
    }
}

/// An `_id` of one of nine types, distinct for distinct numbers.
pub(crate) fn mixed_id(number: i32) -> Bson {
    match number % 9 {
        0 => Bson::Int32(number),
        1 => Bson::Int64(i64::from(number) << 32),
        2 => Bson::Double(f64::from(number) + 0.5),
        3 => Bson::String(format!("日本-é-{number}")),
        4 => doc! { "b": number, "a": [1, "x"] }.into(),
        5 => bson::Binary {
            subtype: bson::spec::BinarySubtype::Uuid,
            bytes: (number as u128).to_be_bytes().to_vec(),
        }
        .into(),
        6 => bson::DateTime::from_millis(i64::from(number) * 1_000).into(),
        7 => bson::Timestamp { time: number as u32, increment: 1 }.into(),
        _ => bson::oid::ObjectId::from_bytes(std::array::from_fn(|index| (number >> (index % 4 * 8)) as u8))
            .into(),
    }
}

/// About `megabytes` of documents with mixed ids, and the few ids of which there is one each.
pub(crate) fn mixed_documents(megabytes: usize) -> impl Iterator<Item = Document> {
    let singles = [Bson::Null, Bson::MinKey, Bson::MaxKey, true.into(), false.into()];
    let numbered = (0..(megabytes * 128) as i32).map(mixed_id);
    numbered.chain(singles).enumerate().map(|(number, id)| {
        doc! { "_id": id, "number": number as i64, "pad": format!("{number:08}").repeat(1_000) }
    })
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition().await {
        assert!(Instant::now() < deadline, "{what} within 30 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// `dbHash` of a database. The hash of `system.views` covers the database's name and tells nothing here.
pub(crate) async fn hashes(client: &Client, database: &str) -> BTreeMap<String, String> {
    let mut hashes = mainstay_testkit::servers::db_hash(client, database).await.unwrap();
    hashes.remove("system.views");
    hashes
}
