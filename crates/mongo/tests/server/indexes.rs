//! Indexes through the adapter: listed, watched while they are built, changed; what the server takes for the same one; its refusals.

use std::collections::BTreeMap;
use std::time::Duration;

use bson::{Document, doc};
use mainstay_engine::{
    AggregateRequest, BuildPhase, CommitQuorum, IndexCatalog, IndexChange, IndexControl, Namespace,
};
use mainstay_indexes::{Collation, DeclaredIndex, IndexSpec, Json, ListedIndex, Manifest};
use mainstay_model::{Error, ErrorKind};
use mainstay_mongo::MongoServer;
use mainstay_testkit::{Mongod, ReplicaSet, shared_mongod, unique_database};
use mongodb::Client;

use crate::support::{insert, open, permit, until};

const CHANGE: &str = "index.apply.change";

fn json(text: &str) -> Json {
    Json::parse(text).unwrap()
}

/// The entries of `createIndexes` for the indexes of one collection in the manifest's grammar.
fn definitions(indexes: &str, inherited: &Collation) -> Vec<Json> {
    let manifest = Manifest::parse(&format!("[indexes]\nc = [{indexes}]\n")).unwrap();
    manifest.collections["c"].iter().map(|index| index.definition(&index.name(), inherited)).collect()
}

async fn build(server: &MongoServer, namespace: &Namespace, indexes: &str) {
    let permit = permit(server, CHANGE).await;
    let definitions = definitions(indexes, &Collation::Simple);
    server.create_indexes(namespace, &definitions, None, &permit).await.unwrap();
}

async fn listed(server: &MongoServer, namespace: &Namespace) -> BTreeMap<String, ListedIndex> {
    let found = server.indexed_collection(namespace).await.unwrap().unwrap();
    found.indexes.into_iter().map(|index| (index.name.clone(), index)).collect()
}

async fn fail_point(client: &Client, name: &str, on: bool) {
    let mode = if on { "alwaysOn" } else { "off" };
    client.database("admin").run_command(doc! { "configureFailPoint": name, "mode": mode }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_comes_back_as_it_was_declared() {
    let mongod = shared_mongod();
    let (server, client) = (open(&mongod.uri()).await, mongod.oracle().await);
    let database = unique_database();
    let french = Collation::of_document(&json(r#"{"locale":"fr_CA","strength":2}"#)).unwrap();
    let create = doc! { "create": "c", "collation": { "locale": "fr_CA", "strength": 2 } };
    client.database(&database).run_command(create).await.unwrap();
    for (collection, inherited) in [("plain", &Collation::Simple), ("c", &french)] {
        let namespace = Namespace::new(&database, collection);
        let manifest = Manifest::parse(
            r#"
[indexes]
c = [
  { keys = ["a"] },
  { keys = ["a", "-b"], unique = true, name = "mine" },
  { keys = ["c"], sparse = true },
  { keys = ["d"], partial = { d = { "$exists" = true, "$gt" = 5 }, e = "open" } },
  { keys = ["f"], ttl = "30d" },
  { keys = ["g"], collation = { locale = "de", numericOrdering = true } },
  { keys = ["h"], collation = { locale = "simple" } },
  { keys = ["i", "title:text", "body:text", "-j"], weights = { title = 10, extra = 2 }, language = "german", language_override = "lang" },
  { keys = ["place:2dsphere"] },
  { keys = ["flat:2d"] },
  { keys = ["k:hashed"] },
  { keys = ["$**"], wildcard = { l = 1, m = { n = 1 } } },
  { keys = ["o"], hidden = true },
  { keys = [{ "p:q" = 1 }, { r = 2 }] },
]
"#,
        )
        .unwrap();
        let declared = &manifest.collections["c"];
        let definitions: Vec<Json> =
            declared.iter().map(|index| index.definition(&index.name(), inherited)).collect();
        let permit = permit(&server, CHANGE).await;
        server.create_indexes(&namespace, &definitions, None, &permit).await.unwrap();
        // Once more changes nothing.
        server
            .create_indexes(&namespace, &definitions, Some(&CommitQuorum::Majority), &permit)
            .await
            .unwrap();
        let found = server.indexed_collection(&namespace).await.unwrap().unwrap();
        assert_eq!(found.collation, *inherited);
        for index in declared {
            let live = found.indexes.iter().find(|live| live.name == index.name()).unwrap();
            assert_eq!(live.spec, index.spec(inherited), "{} of {collection}", live.name);
            // And what is read from the server makes the same index again.
            let again = DeclaredIndex::of_spec(&live.name, &live.spec, inherited);
            assert_eq!(again.spec(inherited), live.spec);
        }
        assert_eq!(found.indexes.len(), declared.len() + 1);
        for index in declared {
            assert!(server.drop_index(&namespace, &index.name(), &permit).await.unwrap());
            assert!(!server.drop_index(&namespace, &index.name(), &permit).await.unwrap());
        }
    }
}

/// The server is asked what it takes for the same index: an equal one under another name is refused with code 85, another one is built.
#[tokio::test(flavor = "multi_thread")]
async fn equality_is_the_servers() {
    let mongod = shared_mongod();
    let client = mongod.oracle().await;
    let database = client.database(&unique_database());
    let pairs = [
        (r#"{"unique":true}"#, r#"{"unique":1}"#),
        (r#"{"unique":true}"#, r#"{"unique":true,"sparse":true}"#),
        (r#"{}"#, r#"{"sparse":false,"unique":false,"background":true}"#),
        (r#"{}"#, r#"{"sparse":true}"#),
        (r#"{}"#, r#"{"collation":{"locale":"en"}}"#),
        (r#"{"collation":{"locale":"en","strength":3}}"#, r#"{"collation":{"locale":"en"}}"#),
        (r#"{"collation":{"locale":"en","strength":2}}"#, r#"{"collation":{"locale":"en"}}"#),
        (r#"{"collation":{"locale":"fr_CA"}}"#, r#"{"collation":{"locale":"fr_CA","backwards":true}}"#),
        (r#"{"collation":{"locale":"fr_CA"}}"#, r#"{"collation":{"locale":"fr_CA","backwards":false}}"#),
        (r#"{"collation":{"locale":"da"}}"#, r#"{"collation":{"locale":"da","caseFirst":"off"}}"#),
        (r#"{"collation":{"locale":"da"}}"#, r#"{"collation":{"locale":"da","caseFirst":"upper"}}"#),
        (r#"{"partialFilterExpression":{"x":1}}"#, r#"{"partialFilterExpression":{"x":{"$eq":1.0}}}"#),
        (r#"{"partialFilterExpression":{"x":1,"y":2}}"#, r#"{"partialFilterExpression":{"y":2,"x":1}}"#),
        (
            r#"{"partialFilterExpression":{"$and":[{"x":1},{"y":2}]}}"#,
            r#"{"partialFilterExpression":{"y":2,"x":1}}"#,
        ),
        (
            r#"{"partialFilterExpression":{"x":{"$in":[1,2,2]}}}"#,
            r#"{"partialFilterExpression":{"x":{"$in":[2,1]}}}"#,
        ),
        (r#"{"partialFilterExpression":{"x":{"$in":[1]}}}"#, r#"{"partialFilterExpression":{"x":1}}"#),
        (
            r#"{"partialFilterExpression":{"x":{"$type":"string"}}}"#,
            r#"{"partialFilterExpression":{"x":{"$type":2}}}"#,
        ),
        (
            r#"{"partialFilterExpression":{"x":{"$type":["int","string"]}}}"#,
            r#"{"partialFilterExpression":{"x":{"$type":[2,16]}}}"#,
        ),
        (
            r#"{"partialFilterExpression":{"x":{"$exists":true}}}"#,
            r#"{"partialFilterExpression":{"x":{"$exists":1}}}"#,
        ),
        (
            r#"{"partialFilterExpression":{"$or":[{"x":1},{"y":2}]}}"#,
            r#"{"partialFilterExpression":{"$or":[{"y":2},{"x":1}]}}"#,
        ),
        (r#"{"partialFilterExpression":{"$or":[{"x":1}]}}"#, r#"{"partialFilterExpression":{"x":1}}"#),
        (r#"{"partialFilterExpression":{"x":{"$gt":1}}}"#, r#"{"partialFilterExpression":{"x":{"$gte":1}}}"#),
        (
            r#"{"partialFilterExpression":{"x":{"$gte":1,"$lte":1}}}"#,
            r#"{"partialFilterExpression":{"x":1}}"#,
        ),
        (r#"{"partialFilterExpression":{"x":1}}"#, r#"{"partialFilterExpression":{"x":"1"}}"#),
        (r#"{"partialFilterExpression":{"x":{"b":1}}}"#, r#"{"partialFilterExpression":{"x.b":1}}"#),
        (
            r#"{"partialFilterExpression":{"x":{"$date":"2026-01-01T00:00:00Z"}}}"#,
            r#"{"partialFilterExpression":{"x":{"$eq":{"$date":{"$numberLong":"1767225600000"}}}}}"#,
        ),
        (r#"{"key":{"a":1}}"#, r#"{"key":{"a":1.0}}"#),
        (r#"{"key":{"a":1}}"#, r#"{"key":{"a":2}}"#),
        (r#"{"key":{"a":1}}"#, r#"{"key":{"a":-1}}"#),
        (r#"{"key":{"a":1,"b":1}}"#, r#"{"key":{"b":1,"a":1}}"#),
        (
            r#"{"key":{"$**":1},"wildcardProjection":{"a":{"b":1}}}"#,
            r#"{"key":{"$**":1},"wildcardProjection":{"a.b":true,"_id":0}}"#,
        ),
        (
            r#"{"key":{"$**":1},"wildcardProjection":{"a":1}}"#,
            r#"{"key":{"$**":1},"wildcardProjection":{"a":0}}"#,
        ),
        (r#"{"key":{"$**":1}}"#, r#"{"key":{"$**":1},"wildcardProjection":{"a":1}}"#),
        (r#"{"key":{"a":"2dsphere"}}"#, r#"{"key":{"a":"2dsphere"},"collation":{"locale":"en"}}"#),
    ];
    for (number, (one, other)) in pairs.into_iter().enumerate() {
        let collection = format!("c{number}");
        let entry = |name: &str, options: &str| {
            let options = json(options);
            let mut members = options.members().unwrap().to_vec();
            if options.get("key").is_none() {
                members.push(("key".to_owned(), json(r#"{"a":1}"#)));
            }
            members.push(("name".to_owned(), name.into()));
            Json::Object(members)
        };
        let create = |entry: &Json| {
            let index: Document = serde_json::from_str(&entry.to_string()).unwrap();
            database.run_command(doc! { "createIndexes": &collection, "indexes": [index] })
        };
        let (one, other) = (entry("one", one), entry("other", other));
        create(&one).await.unwrap();
        let refused = create(&other).await.err().map(|error| match *error.kind {
            mongodb::error::ErrorKind::Command(command) => command.code,
            other => panic!("{other}"),
        });
        let spec = |entry: &Json| -> IndexSpec { ListedIndex::read(entry).unwrap().spec };
        let equal = spec(&one) == spec(&other);
        assert_eq!(refused, equal.then_some(85), "{one} and {other}: equal here {equal}");
    }
}

/// Every locale that the server knows, alone: what it fills in is what is filled in here.
#[tokio::test(flavor = "multi_thread")]
async fn defaults_of_collations_are_the_servers() {
    const LOCALES: &str = "af sq am ar hy as az be bn bs bg my ca chr zh zh_Hant hr cs da nl dz en en_US eo et ee fo fil fi fr \
        fr_CA gl ka de de_AT el gu ha haw he hi hu is ig smn id ga it ja kl kn kk km kok ko ky lo lv ln lt dsb lb mk ms ml mt mr mn ne \
        se nb nn or om ps fa fa_AF pl pt pa ro ru sr sr_Latn si sk sl es sw sv ta te th bo to tr uk hsb ur ug vi wae cy yi yo zu \
        de@collation=phonebook es@collation=traditional fr_CA@collation=search da@collation=search si@collation=dictionary";
    let mongod = shared_mongod();
    let (server, client) = (open(&mongod.uri()).await, mongod.oracle().await);
    let name = unique_database();
    let namespace = Namespace::new(&name, "c");
    for locales in LOCALES.split_whitespace().collect::<Vec<_>>().chunks(40) {
        let index =
            |locale: &&str| doc! { "key": { "a": 1 }, "name": *locale, "collation": { "locale": *locale } };
        let indexes: Vec<Document> = locales.iter().map(index).collect();
        let database = client.database(&name);
        database.run_command(doc! { "createIndexes": "c", "indexes": indexes }).await.unwrap();
        let found = listed(&server, &namespace).await;
        for locale in locales {
            let declared = Collation::of_document(&Json::object([("locale", Json::from(*locale))])).unwrap();
            assert_eq!(found[*locale].spec.collation, declared);
        }
        database.run_command(doc! { "dropIndexes": "c", "index": "*" }).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_is_seen_and_ended() {
    let mongod = Mongod::start().unwrap();
    let (server, client) = (open(&mongod.uri()).await, mongod.oracle().await);
    let namespace = Namespace::new(unique_database(), "c");
    insert(&client, &namespace.database, "c", (0..2_000).map(|n| doc! { "n": n, "m": n })).await;
    fail_point(&client, "hangAfterSettingUpIndexBuild", true).await;
    let building = tokio::spawn({
        let (server, namespace) = (server.clone(), namespace.clone());
        async move {
            let permit = permit(&server, CHANGE).await;
            let definitions = definitions("{ keys = [\"n\"] }", &Collation::Simple);
            server.create_indexes(&namespace, &definitions, None, &permit).await
        }
    });
    let mut seen = Vec::new();
    until("a build is seen", async || {
        seen = server.index_builds(Some(&namespace.database)).await.unwrap();
        seen.first().is_some_and(|build| build.phase == BuildPhase::Scanning)
    })
    .await;
    assert_eq!((seen.len(), seen[0].indexes.as_slice()), (1, ["n_1".to_owned()].as_slice()));
    assert_eq!((&seen[0].namespace, seen[0].total), (&namespace, Some(2_000)));
    assert!(seen[0].operation.is_some(), "{seen:?}");
    assert!(server.index_builds(Some("elsewhere")).await.unwrap().is_empty());
    // It is listed as being built, with the id of its build, and nobody is said to use it.
    let index = &listed(&server, &namespace).await["n_1"];
    assert!(!index.is_ready() && index.build.as_ref().is_some_and(|id| !id.is_empty()), "{index:?}");
    let usage = server.index_usage(std::slice::from_ref(&namespace)).await.unwrap();
    assert!(usage.indexes.iter().all(|index| index.name == "_id_"), "{usage:?}");
    // Dropping it ends the build; nothing is left of it.
    let dropping = tokio::spawn({
        let (server, namespace) = (server.clone(), namespace.clone());
        async move { server.drop_index(&namespace, "n_1", &permit(&server, CHANGE).await).await }
    });
    until("the server drops", async || {
        let drops = doc! { "command.dropIndexes": "c", "command.$db": &namespace.database };
        let pipeline = [doc! { "$currentOp": { "allUsers": true } }, doc! { "$match": drops }];
        client.database("admin").aggregate(pipeline).await.unwrap().advance().await.unwrap()
    })
    .await;
    fail_point(&client, "hangAfterSettingUpIndexBuild", false).await;
    assert!(dropping.await.unwrap().unwrap());
    let error = building.await.unwrap().unwrap_err();
    says(&error, ErrorKind::Conflict, &["n_1", &namespace.to_string(), "276", "make the plan again"]);
    assert!(!listed(&server, &namespace).await.contains_key("n_1"));
    assert!(server.index_builds(None).await.unwrap().is_empty());
}

#[track_caller]
fn says(error: &Error, kind: ErrorKind, texts: &[&str]) {
    let told = format!("{error} {}", error.hint().unwrap_or_default());
    assert_eq!(error.kind(), kind, "{told}");
    for text in texts {
        assert!(told.contains(text), "`{text}` is not in: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_becomes_unique_in_place() {
    let mongod = shared_mongod();
    let (server, client) = (open(&mongod.uri()).await, mongod.oracle().await);
    let namespace = Namespace::new(unique_database(), "c");
    let documents = [(1, "a"), (2, "a"), (3, "b"), (4, "c"), (5, "c")];
    insert(&client, &namespace.database, "c", documents.map(|(id, key)| doc! { "_id": id, "k": key })).await;
    build(&server, &namespace, "{ keys = [\"k\"] }").await;
    let permit = permit(&server, CHANGE).await;
    let change = async |change| server.change_index(&namespace, "k_1", change, &permit).await;
    let error = server.try_unique(&namespace, "k_1").await.unwrap_err();
    says(&error, ErrorKind::Precondition, &["k_1", &namespace.to_string(), "72", "mainstay index plan"]);
    change(IndexChange::PrepareUnique { on: true }).await.unwrap();
    assert!(listed(&server, &namespace).await["k_1"].prepare_unique);
    let verdict = server.try_unique(&namespace, "k_1").await.unwrap();
    let mut groups: Vec<String> =
        verdict.violations.iter().map(|group| group.iter().map(Json::to_string).collect()).collect();
    groups.sort();
    assert_eq!(
        groups,
        [r#"{"$numberInt":"1"}{"$numberInt":"2"}"#, r#"{"$numberInt":"4"}{"$numberInt":"5"}"#]
    );
    let error = change(IndexChange::Unique).await.unwrap_err();
    says(&error, ErrorKind::Conflict, &["k_1", &namespace.to_string(), "359", "mainstay index plan"]);
    let collection = client.database(&namespace.database).collection::<Document>("c");
    collection.delete_many(doc! { "_id": { "$in": [2, 5] } }).await.unwrap();
    assert!(server.try_unique(&namespace, "k_1").await.unwrap().violations.is_empty());
    change(IndexChange::Unique).await.unwrap();
    change(IndexChange::Hidden { hidden: true }).await.unwrap();
    let index = &listed(&server, &namespace).await["k_1"];
    assert!(index.spec.unique && index.spec.hidden && !index.prepare_unique);
    build(&server, &namespace, "{ keys = [\"at\"] }").await;
    let ttl = IndexChange::TtlSeconds { seconds: 3_600 };
    server.change_index(&namespace, "at_1", ttl, &permit).await.unwrap();
    assert_eq!(listed(&server, &namespace).await["at_1"].spec.ttl_seconds, Some(3_600));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_name_collection_index_code_and_the_next_step() {
    let mongod = shared_mongod();
    let (server, client) = (open(&mongod.uri()).await, mongod.oracle().await);
    let namespace = Namespace::new(unique_database(), "c");
    insert(&client, &namespace.database, "c", [doc! { "k": 1 }, doc! { "k": 1 }]).await;
    build(&server, &namespace, "{ keys = [\"a\"] }, { keys = [\"words:text\"] }").await;
    let allowed = permit(&server, CHANGE).await;
    for (indexes, kind, code, next) in [
        ("{ keys = [\"a\"], name = \"mine\" }", ErrorKind::Conflict, "85", "mainstay index drift"),
        ("{ keys = [\"b\"], name = \"a_1\" }", ErrorKind::Conflict, "86", "`name` in the manifest"),
        ("{ keys = [\"other:text\"] }", ErrorKind::Conflict, "85", "mainstay index drift"),
        ("{ keys = [\"k\"], unique = true }", ErrorKind::Conflict, "11000", "mainstay index plan"),
        ("{ keys = [\"x:hashed\", \"y:hashed\"] }", ErrorKind::Server, "3130", ""),
    ] {
        let definitions = definitions(indexes, &Collation::Simple);
        let name = definitions[0].get("name").unwrap().text().unwrap().to_owned();
        let error = server.create_indexes(&namespace, &definitions, None, &allowed).await.unwrap_err();
        says(&error, kind, &[&name, &namespace.to_string(), code, next]);
    }
    let hide = IndexChange::Hidden { hidden: true };
    let error = server.change_index(&namespace, "nowhere", hide, &allowed).await.unwrap_err();
    says(&error, ErrorKind::NotFound, &["nowhere", &namespace.to_string(), "27", "mainstay index drift"]);
    // A permit for something else is none.
    let elsewhere = permit(&server, "restore.apply.drop").await;
    let error = server.drop_index(&namespace, "a_1", &elsewhere).await.unwrap_err();
    says(&error, ErrorKind::Refused, &["a_1", &namespace.to_string()]);
    assert!(listed(&server, &namespace).await.contains_key("a_1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn use_is_asked_of_every_member() {
    let mut set = ReplicaSet::start(3).unwrap();
    let (server, client) = (open(&set.uri()).await, set.oracle().await);
    let namespace = Namespace::new(unique_database(), "c");
    insert(&client, &namespace.database, "c", (0..10).map(|n| doc! { "n": n })).await;
    build(&server, &namespace, "{ keys = [\"n\"] }, { keys = [\"idle\"] }").await;
    // The primary has committed the build. A secondary has when it has taken a write behind the commit; before that it reads without the index.
    let written = doc! { "insert": "c", "documents": [doc! { "n": 10 }], "writeConcern": { "w": 3 } };
    client.database(&namespace.database).run_command(written).await.unwrap();
    // One query on the primary, two on a secondary.
    let find = |mode: &str| {
        let options = mongodb::options::SelectionCriteria::ReadPreference(match mode {
            "primary" => mongodb::options::ReadPreference::Primary,
            _ => mongodb::options::ReadPreference::Secondary { options: None },
        });
        let database = client.database(&namespace.database);
        async move {
            let command = doc! { "find": "c", "filter": { "n": 5 } };
            database.run_command(command).selection_criteria(options).await.unwrap();
        }
    };
    find("primary").await;
    find("secondary").await;
    find("secondary").await;
    // Of many collections each member is asked over one connection.
    let mut asked: Vec<Namespace> =
        (0..40).map(|number| Namespace::new(&namespace.database, format!("absent{number}"))).collect();
    asked.insert(20, namespace.clone());
    let member = set.member(1).oracle().await;
    let connections = async || {
        let status = member.database("admin").run_command(doc! { "serverStatus": 1 }).await.unwrap();
        status.get_document("connections").unwrap().get_i32("totalCreated").unwrap()
    };
    let before = connections().await;
    let usage = server.index_usage(&asked).await.unwrap();
    let made = connections().await - before;
    assert!(made < 40, "{made} connections");
    assert!(usage.silent.is_empty(), "{usage:?}");
    let sum = |name: &str| -> (usize, u64) {
        let index = usage.index(&namespace, name).unwrap();
        (index.members.len(), index.members.iter().map(|member| member.operations).sum())
    };
    assert_eq!((sum("n_1"), sum("idle_1")), ((3, 3), (3, 0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_bounded() {
    let mongod = shared_mongod();
    let (server, client) = (open(&mongod.uri()).await, mongod.oracle().await);
    let namespace = Namespace::new(unique_database(), "c");
    insert(&client, &namespace.database, "c", (0..10).map(|n| doc! { "n": n })).await;
    let ask = async |pipeline: &[&str], results_max| {
        let request = AggregateRequest {
            pipeline: pipeline.iter().map(|stage| json(stage)).collect(),
            collation: None,
            hint: None,
            time_max: Duration::from_secs(30),
            results_max,
        };
        server.aggregate(&namespace, &request).await
    };
    let sum = ask(&[r#"{"$group":{"_id":null,"sum":{"$sum":"$n"}}}"#], 1).await.unwrap();
    assert_eq!(sum[0].to_string(), r#"{"_id":null,"sum":{"$numberInt":"45"}}"#);
    assert_eq!(ask(&[], 10).await.unwrap().len(), 10);
    assert_eq!(ask(&[], 9).await.unwrap_err().kind(), ErrorKind::Precondition);
    let room = server.disk_room(&namespace.database).await.unwrap().unwrap();
    assert!(room.total_bytes > room.free_bytes && room.free_bytes > 0);
    let monitor = server.ttl_monitor().await.unwrap();
    assert_eq!((monitor.enabled, monitor.sleep_seconds), (Some(true), Some(1)));
}
