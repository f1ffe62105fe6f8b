//! Loading: every document arrives or is named, whatever happens to the connection.

use bson::{Document, RawDocumentBuf, Timestamp, doc};
use mainstay_engine::{CollectionKind, DocumentBatch, DocumentSink, DocumentSource, LoadOutcome, Namespace};
use mainstay_model::{ErrorKind, Secret};
use mainstay_mongo::{MongoConfig, MongoServer, RetryPolicy};
use mainstay_testkit::proxy::{Direction, Scope, Truncate};
use mainstay_testkit::{FaultProxy, Mongod, shared_mongod, unique_database};

use crate::support::{digest, digest_by_driver, insert, mixed_documents, open, until};

fn batches(documents: impl IntoIterator<Item = Document>, per_batch: usize) -> Vec<DocumentBatch> {
    let documents: Vec<_> = documents.into_iter().map(|document| document.to_vec().unwrap()).collect();
    let batch =
        |chunk: &[Vec<u8>]| DocumentBatch { bytes: chunk.concat().into(), documents: chunk.len() as u64 };
    documents.chunks(per_batch).map(batch).collect()
}

async fn load_all(server: &MongoServer, target: &Namespace, batches: &[DocumentBatch]) -> LoadOutcome {
    let mut loader = server.loader(target, CollectionKind::Collection).await.unwrap();
    let mut sum = LoadOutcome::default();
    for batch in batches {
        add(&mut sum, loader.load(batch).await.unwrap());
    }
    add(&mut sum, loader.finish().await.unwrap());
    sum
}

fn add(sum: &mut LoadOutcome, more: LoadOutcome) {
    sum.inserted += more.inserted;
    sum.identical += more.identical;
    sum.failures.extend(more.failures);
}

#[tokio::test]
async fn small_and_large_batches_arrive() {
    let (mongod, name) = (shared_mongod(), unique_database());
    let client = mongod.oracle().await;
    let server = open(&mongod.uri()).await;
    for per_batch in [7, 900] {
        let target = Namespace::new(&name, format!("by {per_batch}"));
        let batches = batches(mixed_documents(20), per_batch);
        let outcome = load_all(&server, &target, &batches).await;
        assert_eq!(outcome.inserted, 20 * 128 + 5);
        assert_eq!((outcome.identical, outcome.failures.len()), (0, 0));
        assert_eq!(digest_by_driver(&client, &name, &target.collection).await, digest(&batches));
    }
    client.database(&name).drop().await.unwrap();
}

#[tokio::test]
async fn a_batch_larger_than_a_message_is_split() {
    let (mongod, name) = (shared_mongod(), unique_database());
    let client = mongod.oracle().await;
    let server = open(&mongod.uri()).await;
    let target = Namespace::new(&name, "huge");
    let huge = (0..4).map(|id| doc! { "_id": id, "pad": "x".repeat(16 * 1024 * 1024 - 64) });
    let tiny = (10..100_020).map(|id| doc! { "_id": id });
    for documents in [batches(huge, 4), batches(tiny, 200_000)] {
        assert_eq!(documents.len(), 1);
        let outcome = load_all(&server, &target, &documents).await;
        assert_eq!(outcome.inserted, documents[0].documents);
    }
    assert_eq!(digest_by_driver(&client, &name, "huge").await.documents, 100_014);
    client.database(&name).drop().await.unwrap();
}

/// MongoDB 6.0 words the refusal of these otherwise than that of other duplicates.
#[tokio::test]
async fn fractional_ids_of_a_clustered_collection_may_be_loaded_again() {
    let (mongod, name) = (shared_mongod(), unique_database());
    let client = mongod.oracle().await;
    let server = open(&mongod.uri()).await;
    let clustered = doc! { "create": "a", "clusteredIndex": { "key": { "_id": 1 }, "unique": true } };
    client.database(&name).run_command(clustered).await.unwrap();
    let target = Namespace::new(&name, "a");
    let documents = batches((0..40).map(|n| doc! { "_id": f64::from(n) + 0.5, "n": n }), 10);
    assert_eq!(load_all(&server, &target, &documents).await.inserted, 40);
    let again = load_all(&server, &target, &documents).await;
    assert_eq!((again.inserted, again.identical, again.failures.len()), (0, 40, 0), "{:?}", again.failures);
    let other = batches([doc! { "_id": 0.5, "n": "other" }], 1);
    assert_eq!(load_all(&server, &target, &other).await.failures.len(), 1);
    client.database(&name).drop().await.unwrap();
}

#[tokio::test]
async fn duplicates_are_compared_and_failures_named() {
    let (mongod, name) = (shared_mongod(), unique_database());
    let client = mongod.oracle().await;
    let server = open(&mongod.uri()).await;
    let database = client.database(&name);
    let positive = doc! { "create": "a", "validator": { "n": { "$gte": 0 } } };
    database.run_command(positive).await.unwrap();
    let unique = doc! { "createIndexes": "a", "indexes": [{ "key": { "email": 1 }, "name": "email", "unique": true, "sparse": true }] };
    database.run_command(unique).await.unwrap();
    insert(
        &client,
        &name,
        "a",
        [
            doc! { "_id": 1, "n": 1 },
            doc! { "_id": "é", "n": 2 },
            doc! { "_id": 3, "n": 3, "email": "secret@example.org" },
        ],
    )
    .await;
    let target = Namespace::new(&name, "a");
    let documents = [
        doc! { "_id": 1, "n": 1 },
        doc! { "_id": "é", "n": "other" },
        doc! { "_id": 4, "n": 4, "email": "secret@example.org" },
        doc! { "_id": 5, "n": -5 },
        doc! { "_id": 6_i64, "n": 6 },
    ];
    let outcome = load_all(&server, &target, &batches(documents, 100)).await;
    assert_eq!((outcome.inserted, outcome.identical), (2, 1));
    let told: Vec<_> =
        outcome.failures.iter().map(|it| (it.id.as_str(), it.code, it.message.as_str())).collect();
    assert_eq!(
        told,
        [
            ("\"é\"", 11000, "another document with this _id is there"),
            (
                r#"{"$numberInt":"4"}"#,
                11000,
                "another document has the same value of the unique index on email"
            ),
        ]
    );
    database.drop().await.unwrap();
}

#[tokio::test]
async fn a_cut_connection_loses_and_repeats_nothing() {
    for capped in [false, true] {
        let (mongod, name) = (shared_mongod(), unique_database());
        let client = mongod.oracle().await;
        if capped {
            let create = doc! { "create": "a", "capped": true, "size": 100_000_000 };
            client.database(&name).run_command(create).await.unwrap();
        }
        let proxy = FaultProxy::start(mongod.address());
        let server = open(&mongod.uri_through(proxy.address())).await;
        let batches = batches(mixed_documents(40), 300);
        let target = Namespace::new(&name, "a");
        let mut loader = server.loader(&target, CollectionKind::Collection).await.unwrap();
        let mut sum = LoadOutcome::default();
        for (number, batch) in batches.iter().enumerate() {
            // Some connections end while a request is sent, some between the server's work and its answer.
            if number % 3 == 0 {
                proxy.cut_now();
            }
            let bytes = batch.bytes.len() as u64 / 2;
            if number % 4 == 1 {
                proxy.cut_now();
                proxy.truncate(Truncate {
                    direction: Direction::ToServer,
                    bytes,
                    scope: Scope::FirstConnection,
                });
            }
            if number % 4 == 3 {
                proxy.cut_now();
                proxy.truncate(Truncate {
                    direction: Direction::FromServer,
                    bytes: 1_500,
                    scope: Scope::FirstConnection,
                });
            }
            add(&mut sum, loader.load(batch).await.unwrap());
        }
        add(&mut sum, loader.finish().await.unwrap());
        assert_eq!(sum.inserted + sum.identical, 40 * 128 + 5);
        assert_eq!(sum.failures, []);
        assert_eq!(digest_by_driver(&client, &name, "a").await, digest(&batches));
        client.database(&name).drop().await.unwrap();
    }
}

#[tokio::test]
async fn a_loader_opens_over_a_connection_that_breaks() {
    let (mongod, name) = (shared_mongod(), unique_database());
    let client = mongod.oracle().await;
    let proxy = FaultProxy::start(mongod.address());
    let server = open(&mongod.uri_through(proxy.address())).await;
    let target = Namespace::new(&name, "a");
    let batches = batches((0..10).map(|id| doc! { "_id": id }), 10);
    assert_eq!(load_all(&server, &target, &batches).await.inserted, 10);
    // The question whether the collection is capped meets a cut connection, then the greeting of our own connection breaks off.
    proxy.cut_now();
    assert_eq!(load_all(&server, &target, &batches).await.identical, 10);
    proxy.truncate(Truncate { direction: Direction::FromServer, bytes: 20, scope: Scope::FirstConnection });
    assert_eq!(load_all(&server, &target, &batches).await.identical, 10);
    assert_eq!(proxy.counters().truncated, 1);
    client.database(&name).drop().await.unwrap();
}

#[tokio::test]
async fn capped_collections_keep_their_order() {
    let (mongod, name) = (shared_mongod(), unique_database());
    let client = mongod.oracle().await;
    let create = doc! { "create": "a", "capped": true, "size": 10_000_000 };
    client.database(&name).run_command(create).await.unwrap();
    insert(&client, &name, "a", [doc! { "_id": 50, "other": true }, doc! { "_id": 70, "n": 70 }]).await;
    let server = open(&mongod.uri()).await;
    let target = Namespace::new(&name, "a");
    let outcome =
        load_all(&server, &target, &batches((0..100).rev().map(|id| doc! { "_id": id, "n": id }), 40)).await;
    assert_eq!((outcome.inserted, outcome.identical, outcome.failures.len()), (98, 1, 1));
    let mut cursor = client.database(&name).collection::<Document>("a").find(doc! {}).await.unwrap();
    let mut ids = Vec::new();
    while cursor.advance().await.unwrap() {
        ids.push(cursor.current().get_i32("_id").unwrap());
    }
    let expected: Vec<_> =
        [50, 70].into_iter().chain((0..100).rev().filter(|id| ![50, 70].contains(id))).collect();
    assert_eq!(ids, expected);
    client.database(&name).drop().await.unwrap();
}

#[tokio::test]
async fn empty_timestamps_stay_empty() {
    let (mongod, name) = (shared_mongod(), unique_database());
    let client = mongod.oracle().await;
    let server = open(&mongod.uri()).await;
    let empty = Timestamp { time: 0, increment: 0 };
    let documents = [
        doc! { "_id": 1, "at": empty, "zero": 0_i64 },
        doc! { "_id": empty, "a": 0.0 },
        doc! { "_id": 2, "nested": { "at": empty }, "then": empty },
    ];
    let batches = batches(documents, 10);
    let target = Namespace::new(&name, "a");
    for _ in 0..2 {
        let outcome = load_all(&server, &target, &batches).await;
        assert_eq!((outcome.inserted + outcome.identical, outcome.failures.len()), (3, 0));
    }
    assert_eq!(digest_by_driver(&client, &name, "a").await, digest(&batches));
    client.database(&name).drop().await.unwrap();
}

#[tokio::test]
async fn a_restart_during_a_load_is_told() {
    let mut mongod = Mongod::start().unwrap();
    let mut config = MongoConfig::new(Secret::new(mongod.uri()));
    config.retry = RetryPolicy { retries_max: 40, ..RetryPolicy::default() };
    let server = MongoServer::open(&config).await.unwrap();
    let target = Namespace::new("shop", "a");
    let batches = batches(mixed_documents(10), 300);
    let mut loader = server.loader(&target, CollectionKind::Collection).await.unwrap();
    loader.load(&batches[0]).await.unwrap();
    mongod.kill9();
    mongod.restart().unwrap();
    let error = loader.load(&batches[1]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
    assert!(error.message().contains("restarted"), "{error:?}");
    assert!(error.state().unwrap().contains("shop.a"), "{error:?}");
}

#[tokio::test]
async fn what_is_finished_survives_a_kill() {
    let mut mongod = Mongod::options().standalone().start().unwrap();
    let server = open(&mongod.uri()).await;
    let batches = batches(mixed_documents(4), 100);
    let outcome = load_all(&server, &Namespace::new("shop", "a"), &batches).await;
    assert_eq!(outcome.inserted, 4 * 128 + 5);
    mongod.kill9();
    mongod.restart().unwrap();
    assert_eq!(digest_by_driver(&mongod.oracle().await, "shop", "a").await, digest(&batches));
}

#[tokio::test]
async fn a_view_cannot_be_loaded() {
    let server = open(&shared_mongod().uri()).await;
    let refused = server.loader(&Namespace::new("shop", "v"), CollectionKind::View).await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Usage);
}

#[tokio::test]
async fn a_listing_sees_what_was_loaded() {
    let (mongod, name) = (shared_mongod(), unique_database());
    let server = open(&mongod.uri()).await;
    let target = Namespace::new(&name, "a");
    load_all(&server, &target, &batches((0..10).map(|id| doc! { "_id": id }), 10)).await;
    until("the listing has it", async || server.collections(&name).await.unwrap().len() == 1).await;
    let client = mongod.oracle().await;
    let stored =
        client.database(&name).collection::<RawDocumentBuf>("a").find_one(doc! { "_id": 3 }).await.unwrap();
    assert!(stored.is_some());
    client.database(&name).drop().await.unwrap();
}
