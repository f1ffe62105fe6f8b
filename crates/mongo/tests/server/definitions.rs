//! Collections made again: the same options, the same indexes, the same data, by the server's own judgement.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bson::{Document, doc};
use mainstay_engine::{
    CollectionKind, DocumentSink, DocumentSource, Namespace, Probe, SnapshotRequest, metadata_differences,
};
use mainstay_guard::Marker;
use mainstay_model::progress::Silent;
use mainstay_model::{EnvironmentClass, Error, ErrorKind, Secret, Timestamp};
use mainstay_mongo::{MongoConfig, MongoServer, RetryPolicy};
use mainstay_testkit::{Mongod, shared_mongod, unique_database};

use crate::support::{collection, hashes, insert, open, permit, permit_elsewhere, read_all};

/// A database with every kind of collection and index that MongoDB 6.0 has.
async fn fill(client: &mongodb::Client, name: &str) {
    let database = client.database(name);
    let long = format!("{}é", "L".repeat(200));
    let commands = [
        doc! { "create": "empty" },
        doc! { "create": "log", "capped": true, "size": 65_536, "max": 1_000 },
        doc! { "create": "clustered", "clusteredIndex": { "key": { "_id": 1 }, "unique": true, "name": "by id" }, "expireAfterSeconds": 1_000_000_000_i64 },
        doc! { "create": "folded", "collation": { "locale": "fr", "strength": 1 } },
        doc! { "create": "prices", "timeseries": { "timeField": "at", "metaField": "of", "granularity": "minutes" }, "expireAfterSeconds": 1_000_000_000_i64 },
        doc! { "create": "strict", "validator": { "$jsonSchema": { "required": ["a"], "properties": { "a": { "minimum": 0.5 } } } }, "validationLevel": "moderate", "validationAction": "warn" },
        doc! { "create": "images", "changeStreamPreAndPostImages": { "enabled": true } },
        doc! { "create": "engine", "storageEngine": { "wiredTiger": { "configString": "block_compressor=zlib" } } },
        doc! { "create": "adults", "viewOn": "users", "pipeline": [{ "$match": { "age": { "$gte": 18 } } }], "collation": { "locale": "de" } },
        doc! { "create": "日本 with spaces.and.dots/%+" },
        doc! { "create": &long },
        doc! { "createIndexes": "users", "indexes": [
            { "key": { "email": 1 }, "name": "email", "unique": true, "sparse": true },
            { "key": { "created": 1 }, "name": "ttl", "expireAfterSeconds": 1_000_000_000 },
            { "key": { "bio": "text", "name": "text" }, "name": "words", "weights": { "bio": 10 }, "default_language": "german" },
            { "key": { "place": "2dsphere" }, "name": "place" },
            { "key": { "h": "hashed" }, "name": "hashed" },
            { "key": { "tags": 1, "score": -1 }, "name": "tags_1_score_-1" },
            { "key": { "score": 1 }, "name": "partial", "partialFilterExpression": { "score": { "$gt": 100 } } },
            { "key": { "name": 1 }, "name": "german", "collation": { "locale": "de", "strength": 2 } },
            { "key": { "$**": 1 }, "name": "wild", "wildcardProjection": { "bio": 0 } },
            { "key": { "h": 1.0 }, "name": "hidden", "hidden": true },
        ] },
        doc! { "createIndexes": "folded", "indexes": [
            { "key": { "w": 1 }, "name": "inherited" },
            { "key": { "w": 1 }, "name": "simple", "collation": { "locale": "simple" } },
        ] },
        doc! { "createIndexes": "prices", "indexes": [{ "key": { "of.place": 1, "at": 1 }, "name": "place" }] },
    ];
    for command in commands {
        database.run_command(command).await.unwrap();
    }
    let user = |id: i32| doc! { "_id": id, "email": format!("{id}@x"), "bio": "Äpfel", "score": id, "tags": ["a", "b"], "h": id, "name": "n" };
    insert(client, name, "users", (0..300).map(user)).await;
    insert(client, name, "log", (0..100).rev().map(|id| doc! { "_id": id })).await;
    insert(client, name, "clustered", (0..100).map(|id| doc! { "_id": id })).await;
    insert(client, name, "folded", (0..100).map(|id| doc! { "_id": format!("é{id}"), "w": "é" })).await;
    let price = |number: i64| doc! { "at": bson::DateTime::from_millis(1_700_000_000_000 + number * 60_000), "of": { "place": number % 3 }, "price": number };
    insert(client, name, "prices", (0..1_000).map(price)).await;
    insert(client, name, "strict", [doc! { "_id": 1, "a": 1 }, doc! { "_id": 2 }]).await;
    insert(client, name, "日本 with spaces.and.dots/%+", [doc! { "_id": "x" }]).await;
    insert(client, name, &long, [doc! { "_id": 1 }]).await;
}

#[tokio::test]
async fn every_kind_is_made_again_equal() {
    let (mongod, from, to) = (shared_mongod(), unique_database(), unique_database());
    let client = mongod.oracle().await;
    fill(&client, &from).await;
    let server = Arc::new(open(&mongod.uri()).await);
    let snapshot = server.snapshot(SnapshotRequest::ClusterTime).await.unwrap();
    let source = server.collections(&from).await.unwrap();
    assert_eq!(source.len(), 12);
    for info in &source {
        let target = Namespace::new(&to, &info.namespace.collection);
        server.create(&target, &info.metadata).await.unwrap();
        let again = server.create(&target, &info.metadata).await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::Conflict, "{again:?}");
        if info.kind != CollectionKind::View {
            let prepared = snapshot.prepare(info, 2).await.unwrap();
            let mut loader = server.loader(&target, info.kind).await.unwrap();
            for batch in read_all(&snapshot, info, &prepared).await.unwrap() {
                assert_eq!(loader.load(&batch).await.unwrap().failures, []);
            }
            assert_eq!(loader.finish().await.unwrap().failures, []);
        }
        server.build_indexes(&target, &info.metadata, &Silent).await.unwrap();
        server.build_indexes(&target, &info.metadata, &Silent).await.unwrap();
        let made = collection(&server, &to, &info.namespace.collection).await;
        assert_eq!(
            metadata_differences(&info.metadata, &made.metadata),
            Vec::<String>::new(),
            "{}",
            info.namespace
        );
        assert_eq!((made.kind, made.capped, made.clustered), (info.kind, info.capped, info.clustered));
        assert_eq!(made.index_count, info.index_count);
    }
    assert_eq!(hashes(&client, &from).await, hashes(&client, &to).await);
    let views = client.database(&to).collection::<Document>("adults").count_documents(doc! {}).await.unwrap();
    assert_eq!(
        views,
        client.database(&from).collection::<Document>("adults").count_documents(doc! {}).await.unwrap()
    );
    for name in [from, to] {
        client.database(&name).drop().await.unwrap();
    }
}

#[tokio::test]
async fn the_servers_own_and_ours_are_not_listed() {
    let (mongod, name) = (shared_mongod(), unique_database());
    let client = mongod.oracle().await;
    insert(&client, &name, "a", [doc! { "_id": 1 }]).await;
    insert(&client, "mainstay", "identity", [doc! {}]).await;
    let server = open(&mongod.uri()).await;
    let databases = server.databases().await.unwrap();
    assert!(databases.contains(&name));
    for own in ["admin", "config", "local", "mainstay"] {
        assert!(!databases.iter().any(|database| database == own), "{databases:?}");
    }
    assert_eq!(server.collections("no such database").await.unwrap_err().kind(), ErrorKind::Server);
    assert_eq!(server.collections("no_such_database").await.unwrap(), []);
    client.database("mainstay").drop().await.unwrap();
    client.database(&name).drop().await.unwrap();
}

#[tokio::test]
async fn replacing_and_dropping() {
    let (mongod, name) = (shared_mongod(), unique_database());
    let client = mongod.oracle().await;
    insert(&client, &name, "old", [doc! { "_id": "old" }]).await;
    insert(&client, &name, "new", [doc! { "_id": "new" }]).await;
    let server = open(&mongod.uri()).await;
    let (old, new) = (Namespace::new(&name, "old"), Namespace::new(&name, "new"));
    let taken = server.rename(&new, &old).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::Conflict, "{taken:?}");
    let permit = permit(&server, "restore.apply.drop").await;
    server.replace(&new, &old, &permit).await.unwrap();
    let stored = client.database(&name).collection::<Document>("old").find_one(doc! {}).await.unwrap();
    assert_eq!(stored, Some(doc! { "_id": "new" }));
    assert_eq!(server.collections(&name).await.unwrap().len(), 1);
    let elsewhere = server.replace(&old, &Namespace::new("elsewhere", "old"), &permit).await.unwrap_err();
    assert_eq!(elsewhere.kind(), ErrorKind::Unsupported);
    let missing = server.replace(&new, &old, &permit).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing:?}");
    server.drop_collection(&old, &permit).await.unwrap();
    server.drop_collection(&old, &permit).await.unwrap();
    assert_eq!(server.collections(&name).await.unwrap(), []);
}

#[tokio::test]
async fn an_index_that_cannot_be_built_is_an_error() {
    let (mongod, name) = (shared_mongod(), unique_database());
    let client = mongod.oracle().await;
    insert(&client, &name, "a", [doc! { "_id": 1, "x": 1 }, doc! { "_id": 2, "x": 1 }]).await;
    let server = open(&mongod.uri()).await;
    let metadata = r#"{"indexes":[{"v":{"$numberInt":"2"},"key":{"x":{"$numberInt":"1"}},"name":"x_1","unique":true}],"type":"collection"}"#;
    let error = server.build_indexes(&Namespace::new(&name, "a"), metadata, &Silent).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    assert!(error.to_string().contains(&format!("build indexes of {name}.a")), "{error}");
    client.database(&name).drop().await.unwrap();
}

#[tokio::test]
async fn a_permit_for_something_else_changes_nothing() {
    let (mongod, name) = (shared_mongod(), unique_database());
    let client = mongod.oracle().await;
    insert(&client, &name, "old", [doc! { "_id": "old" }]).await;
    insert(&client, &name, "new", [doc! { "_id": "new" }]).await;
    let server = open(&mongod.uri()).await;
    let (old, new) = (Namespace::new(&name, "old"), Namespace::new(&name, "new"));
    let before = hashes(&client, &name).await;
    let refused = |outcome: mainstay_model::Result<()>| {
        let error = outcome.unwrap_err();
        assert_eq!(
            (error.kind(), error.state()),
            (ErrorKind::Refused, Some("nothing was changed")),
            "{error:?}"
        );
    };
    for permit in [permit_elsewhere("restore.apply.drop"), permit(&server, "environment.mark").await] {
        refused(server.replace(&new, &old, &permit).await);
        refused(server.drop_collection(&old, &permit).await);
    }
    refused(server.set_marker(&marker(), &permit_elsewhere("environment.mark")).await);
    refused(server.set_marker(&marker(), &permit(&server, "restore.apply.drop").await).await);
    assert_eq!(hashes(&client, &name).await, before);
    server.drop_collection(&old, &permit(&server, "restore.abandon").await).await.unwrap();
    client.database(&name).drop().await.unwrap();
}

fn marker() -> Marker {
    Marker {
        environment: "test".to_owned(),
        class: EnvironmentClass::Development,
        marked_at: Timestamp::now(),
        id: "0123".to_owned(),
    }
}

#[tokio::test]
async fn what_is_not_known_to_be_durable_is_an_error() {
    let mongod = Mongod::start().unwrap();
    let client = mongod.oracle().await;
    insert(&client, "shop", "old", [doc! { "_id": 1 }]).await;
    insert(&client, "shop", "new", [doc! { "_id": 1 }]).await;
    let mut config = MongoConfig::new(Secret::new(mongod.uri()));
    config.retry =
        RetryPolicy { retries_max: 1, first_delay: Duration::from_millis(10), ..RetryPolicy::default() };
    let server = MongoServer::open(&config).await.unwrap();
    let fail = doc! {
        "configureFailPoint": "failCommand", "mode": "alwaysOn",
        "data": {
            "failCommands": ["create", "createIndexes", "drop", "renameCollection", "update"],
            "writeConcernError": { "code": 64, "codeName": "WriteConcernFailed", "errmsg": "waiting for replication timed out" },
        },
    };
    client.database("admin").run_command(fail).await.unwrap();
    let told = |error: Error| {
        let state = error.state().unwrap_or_default();
        assert!(state.contains("whether it is durable is not known"), "{error:?}");
        assert_eq!((error.kind(), error.is_temporary()), (ErrorKind::Unreachable, true), "{error:?}");
        assert!(error.hint().unwrap().contains("rs.status()"), "{error:?}");
    };
    let named = |name: &str| Namespace::new("shop", name);
    let permit_to = async |operation| permit(&server, operation).await;
    let restore = permit_to("restore.apply.drop").await;
    told(server.create(&named("made"), r#"{"indexes":[],"type":"collection"}"#).await.unwrap_err());
    let index = r#"{"indexes":[{"key":{"a":1},"name":"a"}],"type":"collection"}"#;
    told(server.build_indexes(&named("old"), index, &Silent).await.unwrap_err());
    told(server.replace(&named("new"), &named("old"), &restore).await.unwrap_err());
    told(server.rename(&named("old"), &named("other")).await.unwrap_err());
    told(server.drop_collection(&named("other"), &restore).await.unwrap_err());
    told(server.set_marker(&marker(), &permit_to("environment.mark").await).await.unwrap_err());
    // Each was done all the same, as the state says.
    let names = client.database("shop").list_collection_names().await.unwrap();
    assert_eq!(names, ["made"]);
}

/// A collection that somebody renames is met, whenever the listing comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_is_renamed_is_never_missed() {
    let (mongod, name) = (shared_mongod(), unique_database());
    let client = mongod.oracle().await;
    let server = open(&mongod.uri()).await;
    // Others, so that the listing takes a while.
    for number in 0..20 {
        client.database(&name).create_collection(format!("other {number}")).await.unwrap();
    }
    insert(&client, &name, "one", [doc! { "_id": 1 }]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let renaming = {
        let (client, name, stop) = (client.clone(), name.clone(), Arc::clone(&stop));
        tokio::spawn(async move {
            let mut count = 0;
            let mut names = ["one", "two"];
            while !stop.load(Ordering::Relaxed) {
                let [from, to] = names.map(|collection| format!("{name}.{collection}"));
                let rename = doc! { "renameCollection": from, "to": to };
                client.database("admin").run_command(rename).await.unwrap();
                names.reverse();
                count += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            count
        })
    };
    for _ in 0..60 {
        let listed = server.collections(&name).await.unwrap();
        let names: Vec<&str> = listed.iter().map(|info| info.namespace.collection.as_str()).collect();
        let met = names.iter().filter(|name| ["one", "two"].contains(*name)).count();
        assert_eq!((met, names.len()), (1, 21), "{names:?}");
    }
    stop.store(true, Ordering::Relaxed);
    assert!(renaming.await.unwrap() > 10);
    client.database(&name).drop().await.unwrap();
}
