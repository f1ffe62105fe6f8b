//! Loads into real servers, judged by what the servers answer.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bson::raw::RawDocumentBuf;
use bson::{Bson, Document, doc};
use futures::TryStreamExt;
use jiff::Timestamp;
use mainstay_testkit::{Mongod, Redis, shared_mongod, unique_database};
use marketplace::keys::{KeyFamily, KeyValue, key_count};
use marketplace::{
    Collection, LoadError, LoadOptions, LoadReport, LoadTarget, MongoTarget, Phase, Progress, Sample, Scale,
    Silent, Snapshot, View, load,
};
use mongodb::Database;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;

fn sample() -> Sample {
    Sample::new(3, Scale::new(0.02).unwrap(), Timestamp::now())
}

fn mongo_target(mongod: &Mongod, database: &str) -> LoadTarget {
    LoadTarget {
        mongo: Some(MongoTarget { url: mongod.uri(), database: database.to_owned() }),
        redis_url: None,
    }
}

/// Keeps every state it is told.
#[derive(Default)]
struct Recorder(Mutex<Vec<Snapshot>>);

impl Progress for Recorder {
    fn report(&self, snapshot: &Snapshot) {
        self.0.lock().unwrap().push(*snapshot);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mongodb_holds_what_was_generated() {
    let mongod = shared_mongod();
    let database = unique_database();
    let options = LoadOptions::new(sample());
    let recorder = Recorder::default();
    let report = load(&mongo_target(mongod, &database), &options, &recorder).await.unwrap();
    let db = mongod.oracle().await.database(&database);

    assert_eq!(report.skipped, []);
    assert_eq!(report.documents(), options.sample.document_count());
    for collection in Collection::ALL {
        let count = db.collection::<Document>(collection.name()).count_documents(doc! {}).await.unwrap();
        assert_eq!(count, options.sample.count(collection), "{}", collection.name());
        same_documents(&db, &options.sample, collection).await;
        same_indexes(&db, collection).await;
    }
    same_options(&db).await;
    same_view(&db, &options.sample).await;
    told_to_the_end(&recorder.0.into_inner().unwrap(), &report);
}

/// The server answers each document byte for byte as it was generated.
async fn same_documents(db: &Database, sample: &Sample, collection: Collection) {
    let generated =
        (0..sample.count(collection)).map(|index| sample.document(collection, index)).collect::<Vec<_>>();
    let stored: Vec<RawDocumentBuf> = db
        .collection(collection.name())
        .find(doc! {})
        .sort(doc! { "$natural": 1 })
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    match collection {
        // Capped: the order of insertion is kept.
        Collection::EventLog => assert!(generated == stored),
        // Time-series: the server takes documents apart and orders their fields anew.
        Collection::PriceHistory => {
            let fields = |documents: &[RawDocumentBuf]| -> BTreeMap<String, BTreeMap<String, Bson>> {
                let documents = documents.iter().map(|raw| Document::try_from(raw.as_ref()).unwrap());
                documents
                    .map(|document| {
                        (document.get("_id").unwrap().to_string(), document.into_iter().collect())
                    })
                    .collect()
            };
            assert_eq!(fields(&generated), fields(&stored));
        }
        _ => {
            let by_id = |documents: Vec<RawDocumentBuf>| -> HashMap<String, RawDocumentBuf> {
                documents
                    .into_iter()
                    .map(|raw| (format!("{:?}", raw.get("_id").unwrap().unwrap()), raw))
                    .collect()
            };
            let (generated, stored) = (by_id(generated), by_id(stored));
            assert!(generated == stored, "{}", collection.name());
        }
    }
}

async fn same_indexes(db: &Database, collection: Collection) {
    let answer = db.run_command(doc! { "listIndexes": collection.name() }).await.unwrap();
    let listed = answer.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
    let listed = listed.iter().map(|index| index.as_document().unwrap());
    let listed: BTreeMap<String, Document> = listed
        .filter(|index| index.get_document("key").unwrap() != &doc! { "_id": 1 })
        .map(|index| (index.get_str("name").unwrap().to_owned(), index.clone()))
        .collect();
    let wanted = collection.indexes();
    // Newer servers add an index of their own to a time-series collection.
    if collection != Collection::PriceHistory {
        assert_eq!(listed.len(), wanted.len(), "{}: {listed:?}", collection.name());
    }
    for index in wanted {
        let listed = &listed[index.get_str("name").unwrap()];
        same_index(collection, &index, listed);
    }
}

fn same_index(collection: Collection, wanted: &Document, listed: &Document) {
    const ADDED_BY_THE_SERVER: [&str; 6] =
        ["v", "weights", "default_language", "language_override", "textIndexVersion", "2dsphereIndexVersion"];
    let (mut expected, mut actual) = (wanted.clone(), listed.clone());
    ADDED_BY_THE_SERVER.iter().for_each(|field| drop(actual.remove(field)));
    let text_fields = |key: &Document| {
        key.iter().filter(|(_, kind)| kind.as_str() == Some("text")).map(|(field, _)| field.clone()).collect()
    };
    let text_fields: BTreeSet<String> = text_fields(wanted.get_document("key").unwrap());
    if !text_fields.is_empty() {
        let weights = listed.get_document("weights").unwrap();
        assert_eq!(weights.keys().cloned().collect::<BTreeSet<_>>(), text_fields);
        expected.insert("key", doc! { "_fts": "text", "_ftsx": 1 });
    }
    // An index inherits its collection's collation unless it asks for the simple one, which is not listed.
    if expected.remove("collation").is_none() && collection == Collection::SearchTerms {
        let inherited = actual.remove("collation").unwrap();
        assert_eq!(inherited.as_document().unwrap().get_str("locale").unwrap(), "de");
    }
    assert_eq!(actual, expected, "{}", collection.name());
}

async fn same_options(db: &Database) {
    let answer = db.run_command(doc! { "listCollections": 1 }).await.unwrap();
    let listed = answer.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
    let options: HashMap<&str, &Document> = listed
        .iter()
        .map(|listed| listed.as_document().unwrap())
        .map(|listed| (listed.get_str("name").unwrap(), listed.get_document("options").unwrap()))
        .collect();
    for collection in Collection::ALL {
        let (wanted, listed) = (collection.creation_options(), options[collection.name()]);
        assert_eq!(listed.is_empty(), wanted.is_empty(), "{}", collection.name());
        assert!(
            holds(&Bson::from(listed.clone()), &Bson::from(wanted.clone())),
            "{listed} does not hold {wanted}"
        );
    }
}

/// Whether `actual` has everything that `wanted` has; the server fills in defaults and may widen numbers.
fn holds(actual: &Bson, wanted: &Bson) -> bool {
    let number = |value: &Bson| {
        value.as_i32().map(f64::from).or(value.as_i64().map(|value| value as f64)).or(value.as_f64())
    };
    match (actual, wanted) {
        (Bson::Document(actual), Bson::Document(wanted)) => {
            wanted.iter().all(|(field, wanted)| actual.get(field).is_some_and(|actual| holds(actual, wanted)))
        }
        _ if number(wanted).is_some() => number(actual) == number(wanted),
        _ => actual == wanted,
    }
}

async fn same_view(db: &Database, sample: &Sample) {
    let users = (0..sample.count(Collection::Users)).map(|index| sample.document(Collection::Users, index));
    let active = |user: &RawDocumentBuf| {
        user.get_str("role").unwrap() == "seller" && user.get_str("status").unwrap() == "active"
    };
    let expected = users.filter(active).count() as u64;
    let [view] = View::all().try_into().unwrap();
    assert_eq!(db.collection::<Document>(view.name).count_documents(doc! {}).await.unwrap(), expected);
}

fn told_to_the_end(told: &[Snapshot], report: &LoadReport) {
    for phase in [Phase::Documents, Phase::Indexes] {
        let states: Vec<&Snapshot> = told.iter().filter(|state| state.phase == phase).collect();
        assert_eq!(states.first().unwrap().done, 0);
        assert!(states.is_sorted_by_key(|state| state.done));
        let last = states.last().unwrap();
        assert_eq!(last.done, last.total);
        assert_eq!(last.bytes, if phase == Phase::Documents { report.bytes() } else { 0 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_seed_loads_the_same_database() {
    let mongod = shared_mongod();
    let (first, second) = (unique_database(), unique_database());
    let mut options = LoadOptions::new(sample());
    load(&mongo_target(mongod, &first), &options, &Silent).await.unwrap();
    options.connections = 1;
    load(&mongo_target(mongod, &second), &options, &Silent).await.unwrap();
    let hashes = async |database: &str| {
        let mut hashes = mongod.db_hash(database).await.unwrap();
        // The server draws the ids of time-series buckets.
        hashes.retain(|collection, _| !collection.starts_with("system."));
        hashes
    };
    let (first, second) = (hashes(&first).await, hashes(&second).await);
    assert!(first.len() >= Collection::ALL.len() - 1);
    assert_eq!(first, second);
}

#[tokio::test(flavor = "multi_thread")]
async fn existing_data_is_replaced_only_when_told() {
    let mongod = shared_mongod();
    let database = unique_database();
    let target = mongo_target(mongod, &database);
    let db = mongod.oracle().await.database(&database);
    db.collection("foreign").insert_one(doc! { "kept": true }).await.unwrap();
    let mut options = LoadOptions::new(sample());
    load(&target, &options, &Silent).await.unwrap();

    let refused = load(&target, &options, &Silent).await.unwrap_err();
    assert!(
        matches!(&refused, LoadError::Exists { collection, .. } if Collection::ALL.iter().any(|c| c.name() == collection) || collection == "activesellers")
    );
    assert!(refused.hint().contains("--drop"));

    db.collection::<Document>("users").delete_many(doc! { "role": "seller" }).await.unwrap();
    options.drop = true;
    load(&target, &options, &Silent).await.unwrap();
    same_documents(&db, &options.sample, Collection::Users).await;
    assert_eq!(db.collection::<Document>("foreign").count_documents(doc! {}).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_goes_beside_the_sample_and_leaves_it_alone() {
    let mongod = shared_mongod();
    let database = unique_database();
    let target = mongo_target(mongod, &database);
    load(&target, &LoadOptions::new(sample()), &Silent).await.unwrap();
    let nothing = Sample::new(3, Scale::new(0.0).unwrap(), Timestamp::now());
    let options = LoadOptions { bulk_bytes: 20_000_001, drop: true, ..LoadOptions::new(nothing) };
    let report = load(&target, &options, &Silent).await.unwrap();
    assert_eq!((report.documents(), report.bytes()), (19_532, 19_532 * 1024));
    let db = mongod.oracle().await.database(&database);
    assert_eq!(db.collection::<Document>("orders").count_documents(doc! {}).await.unwrap(), 19_532);
    same_documents(&db, &sample(), Collection::Users).await;
    same_view(&db, &sample()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_refuses_to_create_is_left_out_and_said() {
    // On a standalone server, which must do as well.
    let mongod = Mongod::options().standalone().start().unwrap();
    let database = unique_database();
    let target = mongo_target(&mongod, &database);
    let mut options = LoadOptions::new(sample());
    let report = load(&target, &options, &Silent).await.unwrap();
    assert_eq!((report.skipped.len(), report.documents()), (0, options.sample.document_count()));

    let refuse = async |collection: Collection| {
        let point = doc! {
            "configureFailPoint": "failCommand",
            "mode": "alwaysOn",
            "data": {
                "failCommands": ["create"],
                "namespace": format!("{database}.{}", collection.name()),
                "errorCode": 72,
            },
        };
        mongod.oracle().await.database("admin").run_command(point).await.unwrap();
    };
    options.drop = true;
    refuse(Collection::PayoutAccounts).await;
    let report = load(&target, &options, &Silent).await.unwrap();
    let skipped: Vec<Collection> = report.skipped.iter().map(|skipped| skipped.collection).collect();
    assert_eq!(skipped, [Collection::PayoutAccounts]);
    assert!(report.skipped[0].reason.contains("InvalidOptions"), "{}", report.skipped[0].reason);
    let rest = options.sample.document_count() - options.sample.count(Collection::PayoutAccounts);
    assert_eq!(report.documents(), rest);

    // An ordinary collection cannot be done without.
    refuse(Collection::Users).await;
    let error = load(&target, &options, &Silent).await.unwrap_err();
    assert!(error.to_string().starts_with("create users: "), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_holds_what_was_generated() {
    let redis = Redis::start().unwrap();
    let client = redis::Client::open(redis.uri()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let foreign = redis::cmd("SET").arg("foreign").arg("kept").to_owned();
    foreign.exec_async(&mut connection).await.unwrap();
    let target = LoadTarget { mongo: None, redis_url: Some(redis.uri()) };
    let mut options = LoadOptions::new(sample());
    // A second load over the first, without and with removing, leaves the same keys.
    for drop in [false, false, true] {
        options.drop = drop;
        let recorder = Recorder::default();
        let report = load(&target, &options, &recorder).await.unwrap();
        assert_eq!(report.key_count, key_count(&options.sample));
        assert_eq!(recorder.0.into_inner().unwrap().last().unwrap().done, report.key_count);
        let size: u64 = redis::cmd("DBSIZE").query_async(&mut connection).await.unwrap();
        assert_eq!(size, report.key_count + 1);
        same_keys(&mut connection, &options.sample).await;
    }
}

async fn same_keys(connection: &mut redis::aio::MultiplexedConnection, sample: &Sample) {
    for entry in KeyFamily::ALL.iter().flat_map(|family| family.entries(sample)) {
        let ask = |words: &[&str]| {
            let mut command = redis::cmd(words[0]);
            command.arg(&entry.name);
            words[1..].iter().for_each(|word| {
                command.arg(*word);
            });
            let mut connection = connection.clone();
            async move { command.query_async::<redis::Value>(&mut connection).await.unwrap() }
        };
        let expires: i64 = redis::from_redis_value(ask(&["PEXPIRETIME"]).await).unwrap();
        assert_eq!(expires, entry.expires_ms.unwrap_or(-1), "{}", entry.name);
        match &entry.value {
            KeyValue::String(bytes) => {
                let stored: Vec<u8> = redis::from_redis_value(ask(&["GET"]).await).unwrap();
                assert_eq!(&stored, bytes, "{}", entry.name);
            }
            KeyValue::Hash(fields) => {
                let stored: BTreeMap<String, String> =
                    redis::from_redis_value(ask(&["HGETALL"]).await).unwrap();
                let fields = fields.iter().map(|(field, value)| ((*field).to_owned(), value.clone()));
                assert_eq!(stored, fields.collect(), "{}", entry.name);
            }
            KeyValue::Set(members) => {
                let stored: BTreeSet<String> = redis::from_redis_value(ask(&["SMEMBERS"]).await).unwrap();
                assert_eq!(stored, members.iter().cloned().collect(), "{}", entry.name);
            }
            KeyValue::SortedSet(members) => {
                let stored: Vec<(String, f64)> =
                    redis::from_redis_value(ask(&["ZRANGE", "0", "-1", "WITHSCORES"]).await).unwrap();
                let members: Vec<(String, f64)> =
                    members.iter().map(|(score, member)| (member.clone(), *score)).collect();
                assert_eq!(stored, members, "{}", entry.name);
            }
            KeyValue::List(items) => {
                let stored: Vec<String> = redis::from_redis_value(ask(&["LRANGE", "0", "-1"]).await).unwrap();
                assert_eq!(&stored, items, "{}", entry.name);
            }
            KeyValue::Stream(entries) => {
                type Entry = (String, Vec<(String, String)>);
                let stored: Vec<Entry> = redis::from_redis_value(ask(&["XRANGE", "-", "+"]).await).unwrap();
                let entries = entries
                    .iter()
                    .map(|(id, field, value)| (id.clone(), vec![((*field).to_owned(), value.clone())]));
                assert_eq!(stored, entries.collect::<Vec<_>>(), "{}", entry.name);
            }
            KeyValue::HyperLogLog(members) => {
                let stored: f64 = redis::from_redis_value(ask(&["PFCOUNT"]).await).unwrap();
                // The standard error is 0.81 %.
                assert!((stored / members.len() as f64 - 1.0).abs() < 0.05, "{}", entry.name);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_server_is_named_without_its_password() {
    let port = mainstay_testkit::servers::free_port();
    let url = format!("mongodb://app:s3cret@127.0.0.1:{port}/?serverSelectionTimeoutMS=300");
    let target =
        LoadTarget { mongo: Some(MongoTarget { url, database: "shop".to_owned() }), redis_url: None };
    let error = load(&target, &LoadOptions::new(sample()), &Silent).await.unwrap_err();
    assert!(
        error.to_string().contains(&port.to_string()) && !error.to_string().contains("s3cret"),
        "{error}"
    );

    let target = LoadTarget { mongo: None, redis_url: Some(format!("redis://:s3cret@127.0.0.1:{port}")) };
    let error = load(&target, &LoadOptions::new(sample()), &Silent).await.unwrap_err();
    assert!(matches!(error, LoadError::Redis { .. }) && !error.to_string().contains("s3cret"), "{error}");

    let nowhere = load(&LoadTarget::default(), &LoadOptions::new(sample()), &Silent).await.unwrap_err();
    assert!(matches!(nowhere, LoadError::NoTarget));
}
