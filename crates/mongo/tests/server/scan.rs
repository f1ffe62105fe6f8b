//! Every document exactly once, at one moment, whatever happens to the connection.

use std::time::Duration;

use bson::{Bson, Document, doc};
use mainstay_engine::{Consistency, DocumentSource, SnapshotRequest};
use mainstay_model::{ErrorKind, ErrorStatus};
use mainstay_mongo::{MongoConfig, MongoServer, RetryPolicy};
use mainstay_testkit::proxy::{Direction, Scope, Truncate};
use mainstay_testkit::{FaultProxy, Mongod, shared_mongod, unique_database};

use crate::support::{
    collection, digest, digest_by_driver, insert, mixed_documents, mixed_id, open, prepared, read_all, until,
};

fn is_cluster_time(consistency: &Consistency) -> bool {
    matches!(consistency, Consistency::ClusterTime { .. })
}

#[tokio::test]
async fn ranges_in_storage_order_give_every_document_once() {
    let (mongod, database) = (shared_mongod(), unique_database());
    let client = mongod.oracle().await;
    insert(&client, &database, "mixed", mixed_documents(80)).await;
    let server = open(&mongod.uri()).await;
    let info = collection(&server, &database, "mixed").await;
    for ranges_max in [1, 2, 3, 16] {
        let (snapshot, prepared) = prepared(&server, &info, ranges_max).await;
        assert!(is_cluster_time(&prepared.consistency));
        assert_eq!(prepared.ranges.len(), ranges_max.min(2));
        let batches = read_all(&snapshot, &info, &prepared).await.unwrap();
        assert_eq!(digest(&batches), digest_by_driver(&client, &database, "mixed").await);
        assert!(batches.iter().all(|batch| batch.bytes.len() < 4_000_000));
    }
    client.database(&database).drop().await.unwrap();
}

#[tokio::test]
async fn ranges_by_id_give_every_document_once_on_a_standalone() {
    let mongod = Mongod::options().standalone().start().unwrap();
    let client = mongod.oracle().await;
    let server = open(&mongod.uri()).await;
    let database = client.database("shop");
    database
        .run_command(doc! { "create": "folded", "collation": { "locale": "fr", "strength": 2 } })
        .await
        .unwrap();
    database
        .run_command(
            doc! { "create": "clustered", "clusteredIndex": { "key": { "_id": 1 }, "unique": true } },
        )
        .await
        .unwrap();
    for name in ["mixed", "folded", "clustered"] {
        insert(&client, "shop", name, mixed_documents(100)).await;
        let info = collection(&server, "shop", name).await;
        let (snapshot, prepared) = prepared(&server, &info, 3).await;
        let Consistency::DuringScan { reason } = &prepared.consistency else { panic!("{prepared:?}") };
        assert!(reason.contains("standalone"), "{reason}");
        assert_eq!(prepared.ranges.len(), 3, "{name}");
        let batches = read_all(&snapshot, &info, &prepared).await.unwrap();
        assert_eq!(digest(&batches), digest_by_driver(&client, "shop", name).await, "{name}");
        database.collection::<Document>(name).drop().await.unwrap();
    }
    let refused = server.snapshot(SnapshotRequest::ClusterTime).await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Precondition, "{refused:?}");
}

#[tokio::test]
async fn every_kind_of_collection_can_be_read() {
    let (mongod, name) = (shared_mongod(), unique_database());
    let client = mongod.oracle().await;
    let database = client.database(&name);
    let create = async |command: Document| database.run_command(command).await.map(drop).unwrap();
    create(doc! { "create": "empty" }).await;
    create(doc! { "create": "capped", "capped": true, "size": 1_000_000 }).await;
    create(doc! { "create": "clustered", "clusteredIndex": { "key": { "_id": 1 }, "unique": true } }).await;
    create(doc! { "create": "folded", "collation": { "locale": "fr", "strength": 1 } }).await;
    create(doc! { "create": "prices", "timeseries": { "timeField": "at", "metaField": "of" } }).await;
    insert(&client, &name, "capped", (0..500).map(|id| doc! { "_id": id })).await;
    insert(&client, &name, "clustered", (0..500).map(|id| doc! { "_id": mixed_id(id) })).await;
    insert(&client, &name, "folded", (0..500).map(|id| doc! { "_id": format!("é{id}") })).await;
    let price = |number: i64| doc! { "at": bson::DateTime::from_millis(number * 60_000), "of": number % 3, "price": number };
    insert(&client, &name, "prices", (0..2_000).map(price)).await;
    let huge = |id: i32| doc! { "_id": id, "pad": "x".repeat(16 * 1024 * 1024 - 64) };
    insert(&client, &name, "huge", [huge(1)]).await;
    insert(&client, &name, "huge", [huge(2), doc! { "_id": 3 }]).await;

    let server = open(&mongod.uri()).await;
    let snapshot = server.snapshot(SnapshotRequest::ClusterTime).await.unwrap();
    insert(&client, &name, "late", [doc! { "_id": 1 }]).await;
    for info in server.collections(&name).await.unwrap() {
        let prepared = snapshot.prepare(&info, 4).await.unwrap();
        let subject = info.namespace.collection.as_str();
        assert_eq!(
            is_cluster_time(&prepared.consistency),
            !["capped", "late"].contains(&subject),
            "{prepared:?}"
        );
        let batches = read_all(&snapshot, &info, &prepared).await.unwrap();
        let expected = digest_by_driver(&client, &name, &info.data_namespace().collection).await;
        assert_eq!(digest(&batches), expected, "{subject}");
        assert_eq!(expected.documents == 0, subject == "empty", "{subject}");
    }
    database.drop().await.unwrap();
}

#[tokio::test]
async fn a_snapshot_does_not_see_what_is_written_later() {
    let (mongod, name) = (shared_mongod(), unique_database());
    let client = mongod.oracle().await;
    insert(&client, &name, "a", mixed_documents(70)).await;
    let server = open(&mongod.uri()).await;
    let info = collection(&server, &name, "a").await;
    let before = digest_by_driver(&client, &name, "a").await;
    let (snapshot, prepared) = prepared(&server, &info, 4).await;
    let writer = tokio::spawn({
        let collection = client.database(&name).collection::<Document>("a");
        async move {
            for round in 0..20 {
                collection.delete_one(doc! { "_id": mixed_id(round * 7) }).await.unwrap();
                collection
                    .update_many(doc! { "number": { "$lt": round * 100 } }, doc! { "$set": { "x": round } })
                    .await
                    .unwrap();
                collection.insert_one(doc! { "_id": format!("new {round}") }).await.unwrap();
            }
        }
    });
    let batches = read_all(&snapshot, &info, &prepared).await.unwrap();
    writer.await.unwrap();
    let again = read_all(&snapshot, &info, &prepared).await.unwrap();
    assert_eq!(digest(&batches), before);
    assert_eq!(digest(&again), before);
    assert_ne!(digest_by_driver(&client, &name, "a").await, before);
    client.database(&name).drop().await.unwrap();
}

#[tokio::test]
async fn what_was_acknowledged_before_is_in_the_snapshot() {
    let (mongod, name) = (shared_mongod(), unique_database());
    let client = mongod.oracle().await;
    let server = open(&mongod.uri()).await;
    insert(&client, &name, "a", [doc! { "_id": -1 }]).await;
    for id in 0..20 {
        insert(&client, &name, "a", [doc! { "_id": id }]).await;
        let info = collection(&server, &name, "a").await;
        let (snapshot, prepared) = prepared(&server, &info, 1).await;
        let batches = read_all(&snapshot, &info, &prepared).await.unwrap();
        assert_eq!(digest(&batches).documents, id as u64 + 2);
    }
    client.database(&name).drop().await.unwrap();
}

/// Cuts the connections again and again while the ranges are read.
async fn survives_cuts(mongod: &Mongod, ranges_max: usize) {
    let client = mongod.oracle().await;
    let name = unique_database();
    insert(&client, &name, "a", mixed_documents(70)).await;
    let proxy = FaultProxy::start(mongod.address());
    let server = open(&mongod.uri_through(proxy.address())).await;
    let info = collection(&server, &name, "a").await;
    let (snapshot, prepared) = prepared(&server, &info, ranges_max).await;
    proxy.truncate(Truncate {
        direction: Direction::FromServer,
        bytes: 7_300_001,
        scope: Scope::EveryConnection,
    });
    let batches = read_all(&snapshot, &info, &prepared).await.unwrap();
    let counters = proxy.counters();
    assert!(counters.truncated >= 8, "{counters:?}");
    assert_eq!(digest(&batches), digest_by_driver(&client, &name, "a").await);
    client.database(&name).drop().await.unwrap();
}

#[tokio::test]
async fn a_cut_connection_leaves_no_gap_and_no_repeat_in_storage_order() {
    survives_cuts(shared_mongod(), 1).await;
    survives_cuts(shared_mongod(), 2).await;
}

#[tokio::test]
async fn a_cut_connection_leaves_no_gap_and_no_repeat_in_id_order() {
    let mongod = Mongod::options().standalone().start().unwrap();
    survives_cuts(&mongod, 2).await;
    survives_cuts(&mongod, 1).await;
}

#[tokio::test]
async fn a_restarted_server_is_read_on() {
    let mut mongod = Mongod::start().unwrap();
    let client = mongod.oracle().await;
    insert(&client, "shop", "a", mixed_documents(20)).await;
    let expected = digest_by_driver(&client, "shop", "a").await;
    let mut config = MongoConfig::new(mainstay_model::Secret::new(mongod.uri()));
    config.retry = RetryPolicy { retries_max: 40, ..RetryPolicy::default() };
    let server = MongoServer::open(&config).await.unwrap();
    let info = collection(&server, "shop", "a").await;
    let (snapshot, prepared) = prepared(&server, &info, 1).await;
    let mut stream = snapshot.scan(&info, &prepared, &prepared.ranges[0]).await.unwrap();
    let mut batches = vec![stream.next().await.unwrap().unwrap()];
    mongod.restart().unwrap();
    // A restarted server has lost the history before its restart: one moment is gone, which must be said.
    let outcome = async {
        while let Some(batch) = stream.next().await? {
            batches.push(batch);
        }
        Ok::<_, mainstay_model::Error>(())
    };
    match outcome.await {
        Ok(()) => assert_eq!(digest(&batches), expected),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Precondition, "{error:?}"),
    }
}

#[tokio::test]
async fn a_cut_before_each_question_is_not_noticed() {
    let (mongod, name) = (shared_mongod(), unique_database());
    let client = mongod.oracle().await;
    insert(&client, &name, "a", mixed_documents(70)).await;
    let proxy = FaultProxy::start(mongod.address());
    let server = open(&mongod.uri_through(proxy.address())).await;
    server.server_facts().await.unwrap();
    for _ in 0..3 {
        proxy.cut_now();
        let snapshot = server.snapshot(SnapshotRequest::Best).await.unwrap();
        proxy.cut_now();
        let info = collection(&server, &name, "a").await;
        proxy.cut_now();
        let prepared = snapshot.prepare(&info, 2).await.unwrap();
        assert!(is_cluster_time(&prepared.consistency));
        assert_eq!(prepared.ranges.len(), 2);
    }
    assert!(proxy.counters().cut >= 9, "{:?}", proxy.counters());
    client.database(&name).drop().await.unwrap();
}

#[tokio::test]
async fn a_connection_that_stays_cut_is_an_error_after_bounded_tries() {
    let (mongod, name) = (shared_mongod(), unique_database());
    let client = mongod.oracle().await;
    insert(&client, &name, "a", mixed_documents(20)).await;
    let proxy = FaultProxy::start(mongod.address());
    let mut config = MongoConfig::new(mainstay_model::Secret::new(mongod.uri_through(proxy.address())));
    config.retry = RetryPolicy {
        retries_max: 3,
        first_delay: Duration::from_millis(10),
        delay_max: Duration::from_millis(50),
    };
    let server = MongoServer::open(&config).await.unwrap();
    let info = collection(&server, &name, "a").await;
    let (snapshot, prepared) = prepared(&server, &info, 1).await;
    let mut stream = snapshot.scan(&info, &prepared, &prepared.ranges[0]).await.unwrap();
    stream.next().await.unwrap().unwrap();
    proxy.cut();
    let error = loop {
        match stream.next().await {
            Ok(batch) => assert!(batch.is_some()),
            Err(error) => break error,
        }
    };
    assert_eq!(
        (error.kind(), error.status()),
        (ErrorKind::Unreachable, ErrorStatus::Persistent),
        "{error:?}"
    );
    assert!(error.to_string().contains(&format!("{name}.a")), "{error}");
    assert!(error.hint().is_some(), "{error:?}");
    proxy.heal();
    client.database(&name).drop().await.unwrap();
}

#[tokio::test]
async fn a_dropped_stream_closes_its_cursor() {
    let mongod = Mongod::start().unwrap();
    let client = mongod.oracle().await;
    insert(&client, "shop", "a", mixed_documents(20)).await;
    let server = open(&mongod.uri()).await;
    let info = collection(&server, "shop", "a").await;
    let (snapshot, prepared) = prepared(&server, &info, 1).await;
    let mut stream = snapshot.scan(&info, &prepared, &prepared.ranges[0]).await.unwrap();
    stream.next().await.unwrap().unwrap();
    let open_cursors = async || {
        let status = client.database("admin").run_command(doc! { "serverStatus": 1 }).await.unwrap();
        let cursors = status
            .get_document("metrics")
            .unwrap()
            .get_document("cursor")
            .unwrap()
            .get_document("open")
            .unwrap()
            .clone();
        match cursors.get("total") {
            Some(Bson::Int64(total)) => *total,
            other => panic!("{other:?}"),
        }
    };
    assert!(open_cursors().await >= 1);
    drop(stream);
    until("the cursor is closed", async || open_cursors().await == 0).await;
}
