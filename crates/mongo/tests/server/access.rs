//! Who may connect, what is said when that fails, and what a server says of itself.

use std::time::Duration;

use bson::{Document, doc};
use mainstay_engine::{DocumentSource, Probe, SnapshotRequest};
use mainstay_guard::Marker;
use mainstay_model::{EnvironmentClass, ErrorKind, Result, Secret, Severity, Timestamp};
use mainstay_mongo::{MongoConfig, MongoServer, TlsOptions};
use mainstay_testkit::servers::free_port;
use mainstay_testkit::{Mongod, Redis, shared_mongod, unique_database};

use crate::support::{self, collection, insert, open, permit, prepared, read_all};

async fn facts(config: &MongoConfig) -> Result<String> {
    let server = MongoServer::open(config).await?;
    Ok(server.facts().await?.version)
}

/// Reads a collection over one of our own connections.
async fn scans(config: &MongoConfig, database: &str) -> Result<u64> {
    let server = MongoServer::open(config).await?;
    let infos = server.collections(database).await?;
    let snapshot = server.snapshot(SnapshotRequest::Best).await?;
    let mut documents = 0;
    for info in infos {
        let prepared = snapshot.prepare(&info, 1).await?;
        let batches = read_all(&snapshot, &info, &prepared).await?;
        documents += batches.iter().map(|batch| batch.documents).sum::<u64>();
    }
    Ok(documents)
}

fn config(url: impl Into<String>) -> MongoConfig {
    let mut config = MongoConfig::new(Secret::new(url));
    config.server_selection_timeout = Some(Duration::from_secs(2));
    config.connect_timeout = Some(Duration::from_secs(5));
    config
}

fn login(mongod: &Mongod, user: &str, password: &str) -> MongoConfig {
    let mut config = config(format!("mongodb://{}/?directConnection=true", mongod.address()));
    config.username = Some(user.to_owned());
    config.password = Some(Secret::new(password));
    config
}

#[tokio::test]
async fn users_log_in_and_wrong_ones_do_not() {
    let mongod = Mongod::options().auth("root", "p@ss/w:rd").start().unwrap();
    let client = mongod.oracle().await;
    insert(&client, "shop", "a", [doc! { "_id": 1 }]).await;
    let users = [("one", "SCRAM-SHA-1", "päss"), ("two", "SCRAM-SHA-256", "Ⅸ=,x")];
    for (user, mechanism, password) in users {
        let roles = vec![doc! { "role": "read", "db": "shop" }];
        let create = doc! { "createUser": user, "pwd": password, "roles": roles, "mechanisms": [mechanism] };
        client.database("admin").run_command(create).await.unwrap();
        let scanned = scans(&login(&mongod, user, password), "shop").await;
        assert_eq!(scanned.unwrap_or_else(|error| panic!("{user}: {error:?}")), 1);
        let mut wrong = login(&mongod, user, "wrong-hunter2");
        for source in ["admin", "elsewhere"] {
            wrong.auth_source = Some(source.to_owned());
            let error = facts(&wrong).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Auth, "{error:?}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
            assert!(error.hint().unwrap().contains("authSource"), "{error:?}");
        }
    }
    assert_eq!(scans(&config(mongod.uri()), "shop").await.unwrap(), 1);

    // Without a login the server greets but tells nothing.
    let anonymous = config(format!("mongodb://{}/?directConnection=true", mongod.address()));
    let error = scans(&anonymous, "shop").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Auth, "{error:?}");

    // A reader of one database sees facts in part, and is told what it may not examine.
    let reader = MongoServer::open(&login(&mongod, "two", "Ⅸ=,x")).await.unwrap();
    assert_eq!(reader.facts().await.unwrap().role, "primary of rs0");
    let findings = reader.examine().await.unwrap();
    assert!(
        findings
            .iter()
            .all(|finding| finding.id == "mongo.not_permitted" && finding.severity == Severity::Note),
        "{findings:?}"
    );
    assert!(findings.len() >= 3, "{findings:?}");
    let error = reader.collections("other").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Auth);
    assert!(
        error.message().contains("not authorized on other to execute command listCollections"),
        "{error:?}"
    );
}

#[tokio::test]
async fn the_least_privileges_suffice() {
    use mainstay_engine::{CollectionKind, DocumentSink, Namespace};
    use mainstay_model::progress::Silent;

    let mongod = Mongod::options().auth("root", "pw").start().unwrap();
    let client = mongod.oracle().await;
    insert(&client, "shop", "a", (0..10).map(|id| doc! { "_id": id })).await;
    let create = doc! { "create": "prices", "timeseries": { "timeField": "at" } };
    client.database("shop").run_command(create).await.unwrap();
    insert(&client, "shop", "prices", [doc! { "at": bson::DateTime::now() }]).await;
    let validated = doc! { "create": "strict", "validator": { "a": { "$gte": 0 } } };
    client.database("copy").run_command(validated).await.unwrap();
    for (user, role, on) in [
        ("reader", "read", "shop"),
        ("backup", "backup", "admin"),
        ("writer", "readWrite", "copy"),
        ("restore", "restore", "admin"),
    ] {
        let create = doc! { "createUser": user, "pwd": "pw", "roles": [{ "role": role, "db": on }] };
        client.database("admin").run_command(create).await.unwrap();
    }
    assert_eq!(scans(&login(&mongod, "backup", "pw"), "shop").await.unwrap(), 11);
    let reader = MongoServer::open(&login(&mongod, "reader", "pw")).await.unwrap();
    let info = collection(&reader, "shop", "a").await;
    assert_eq!(info.estimate.items, 10);
    let (snapshot, prepared) = prepared(&reader, &info, 1).await;
    let batches = read_all(&snapshot, &info, &prepared).await.unwrap();

    let writer = MongoServer::open(&login(&mongod, "writer", "pw")).await.unwrap();
    let target = Namespace::new("copy", "a");
    writer.create(&target, &info.metadata).await.unwrap();
    for (target, inserted) in [(target.clone(), 10), (Namespace::new("copy", "strict"), 0)] {
        let mut loader = writer.loader(&target, CollectionKind::Collection).await.unwrap();
        let mut outcome = loader.load(&batches[0]).await.unwrap();
        let rest = loader.finish().await.unwrap();
        outcome.inserted += rest.inserted;
        outcome.failures.extend(rest.failures);
        assert_eq!(outcome.inserted, inserted, "{target}");
        assert!(outcome.failures.iter().all(|failure| failure.code == 121), "{outcome:?}");
        assert_eq!(outcome.failures.len() as u64, 10 - inserted);
    }
    let index = r#"{"indexes":[{"key":{"a":1},"name":"a"}],"type":"collection"}"#;
    writer.build_indexes(&target, index, &Silent).await.unwrap();

    let restore = MongoServer::open(&login(&mongod, "restore", "pw")).await.unwrap();
    let mut loader =
        restore.loader(&Namespace::new("copy", "strict"), CollectionKind::Collection).await.unwrap();
    let held = loader.load(&batches[0]).await.unwrap().inserted;
    assert_eq!(held + loader.finish().await.unwrap().inserted, 10);

    restore.build_indexes(&Namespace::new("copy", "strict"), index, &Silent).await.unwrap();

    let backup = MongoServer::open(&login(&mongod, "backup", "pw")).await.unwrap();
    let prices = collection(&backup, "shop", "prices").await;
    let (snapshot, prepared) = support::prepared(&backup, &prices, 1).await;
    let target = Namespace::new("copy", "prices");
    restore.create(&target, &prices.metadata).await.unwrap();
    let mut loader = restore.loader(&target, prices.kind).await.unwrap();
    for batch in read_all(&snapshot, &prices, &prepared).await.unwrap() {
        assert_eq!(loader.load(&batch).await.unwrap().failures, []);
    }
    assert_eq!(loader.finish().await.unwrap().inserted, 1);
}

#[tokio::test]
async fn who_may_see_some_databases_is_not_given_them_for_all() {
    let mongod = Mongod::options().auth("root", "pw").start().unwrap();
    let client = mongod.oracle().await;
    for name in ["shop", "hidden"] {
        insert(&client, name, "a", [doc! { "_id": 1 }]).await;
    }
    for (user, role, on) in [("reader", "read", "shop"), ("backup", "backup", "admin")] {
        let create = doc! { "createUser": user, "pwd": "pw", "roles": [{ "role": role, "db": on }] };
        client.database("admin").run_command(create).await.unwrap();
    }
    let reader = MongoServer::open(&login(&mongod, "reader", "pw")).await.unwrap();
    assert_eq!(reader.databases().await.unwrap(), ["shop"]);
    let error = reader.every_database().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Auth, "{error:?}");
    assert!(error.message().contains("may not list all databases"), "{error:?}");
    for said in ["listDatabases", "backup", "grantRolesToUser", "--database"] {
        assert!(error.hint().unwrap().contains(said), "{said}: {error:?}");
    }
    for user in ["backup", "root"] {
        let server = MongoServer::open(&login(&mongod, user, "pw")).await.unwrap();
        assert_eq!(server.every_database().await.unwrap(), ["hidden", "shop"], "{user}");
    }
}

#[tokio::test]
async fn each_layer_says_that_it_failed() {
    let mongod = Mongod::options().tls().start().unwrap();
    let certificates = mongod.certificates().unwrap().clone();
    let direct = |host: &str, port: u16| config(format!("mongodb://{host}:{port}/?directConnection=true"));

    let error = facts(&direct("no-such-host.invalid", 27017)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
    assert!(error.message().contains("no-such-host.invalid has no address"), "{error:?}");
    assert!(!error.is_temporary());

    let port = free_port();
    let error = facts(&direct("127.0.0.1", port)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
    assert!(error.message().contains(&format!("127.0.0.1:{port} does not accept connections")), "{error:?}");

    // Not a MongoDB server at all.
    let redis = Redis::start().unwrap();
    let error = facts(&direct("127.0.0.1", redis.port())).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Corrupt), "{error:?}");

    // TLS: trusted, not trusted, accepted unseen, and where there is none.
    let mut secure = direct("localhost", mongod.port());
    secure.tls.ca_file = Some(certificates.authority.clone());
    assert!(facts(&secure).await.unwrap().starts_with("6."));
    scans(&secure, "shop").await.unwrap();
    let mut untrusted = direct("localhost", mongod.port());
    untrusted.tls = TlsOptions { enabled: Some(true), ..TlsOptions::default() };
    let error = facts(&untrusted).await.unwrap_err();
    assert!(error.message().contains("TLS with localhost"), "{error:?}");
    assert!(error.hint().unwrap().contains("ca_file"), "{error:?}");
    untrusted.tls.allow_invalid_certificates = Some(true);
    facts(&untrusted).await.unwrap();
    let mut without = direct("127.0.0.1", shared_mongod().port());
    without.tls.enabled = Some(true);
    let error = facts(&without).await.unwrap_err();
    assert!(error.message().contains("TLS with 127.0.0.1"), "{error:?}");
}

#[tokio::test]
async fn a_client_certificate_is_shown() {
    let mongod = Mongod::options().tls().start().unwrap();
    let certificates = mongod.certificates().unwrap().clone();
    let mut config = config(format!("mongodb://localhost:{}/?directConnection=true", mongod.port()));
    config.tls.ca_file = Some(certificates.authority.clone());
    config.tls.certificate_key_file = Some(certificates.certificate_and_key.clone());
    facts(&config).await.unwrap();
}

#[tokio::test]
async fn a_replica_set_is_found_from_a_seed() {
    let mongod = shared_mongod();
    let name = unique_database();
    let client = mongod.oracle().await;
    insert(&client, &name, "a", [doc! { "_id": 1 }]).await;
    let by_seed = config(format!("mongodb://{}/{name}?replicaSet=rs0", mongod.address()));
    assert_eq!(scans(&by_seed, &name).await.unwrap(), 1);
    let server = MongoServer::open(&by_seed).await.unwrap();
    assert_eq!(server.database(), Some(name.as_str()));
    let facts = server.facts().await.unwrap();
    assert_eq!(
        (facts.role.as_str(), facts.address.as_str()),
        ("primary of rs0", mongod.address().to_string().as_str())
    );
    assert!(facts.size.is_some() && facts.connections > 0 && facts.connections_max.is_some());
    client.database(&name).drop().await.unwrap();
}

#[tokio::test]
async fn a_wrong_replica_set_is_named() {
    let standalone = Mongod::options().standalone().start().unwrap();
    for (mongod, rest, found) in [
        (shared_mongod(), "replicaSet=rs9", "is a member of rs0"),
        (shared_mongod(), "replicaSet=rs9&directConnection=true", "is a member of rs0"),
        (&standalone, "replicaSet=rs9", "is a member of none"),
    ] {
        let address = mongod.address();
        let error = facts(&config(format!("mongodb://{address}/?{rest}"))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
        let message = format!("the url asks for replica set rs9, {address} {found}");
        assert_eq!(error.message(), message, "{error:?}");
        assert!(error.hint().unwrap().contains("replicaSet="), "{error:?}");
    }
}

#[tokio::test]
async fn sizes_that_may_not_be_seen_are_counted() {
    let mongod = Mongod::options().auth("root", "pw").start().unwrap();
    let client = mongod.oracle().await;
    insert(&client, "shop", "a", (0..10).map(|id| doc! { "_id": id })).await;
    let create = doc! { "create": "prices", "timeseries": { "timeField": "at" } };
    client.database("shop").run_command(create).await.unwrap();
    let price = |minute: i64| doc! { "at": bson::DateTime::from_millis(minute * 60_000) };
    insert(&client, "shop", "prices", (0..3).map(price)).await;
    client.database("shop").run_command(doc! { "create": "seen", "viewOn": "a" }).await.unwrap();
    let listing = ["listCollections", "listIndexes"];
    let on_shop =
        |actions: Vec<&str>| doc! { "resource": { "db": "shop", "collection": "" }, "actions": actions };
    for (name, actions) in [("counter", [&listing[..], &["find"]].concat()), ("lister", listing.to_vec())] {
        let role = doc! { "createRole": name, "privileges": [on_shop(actions)], "roles": [] };
        client.database("admin").run_command(role).await.unwrap();
        let user = doc! { "createUser": name, "pwd": "pw", "roles": [name] };
        client.database("admin").run_command(user).await.unwrap();
    }
    let reader = doc! { "createUser": "reader", "pwd": "pw", "roles": [{ "role": "read", "db": "shop" }] };
    client.database("admin").run_command(reader).await.unwrap();
    let items = async |user: &str| {
        let server = MongoServer::open(&login(&mongod, user, "pw")).await.unwrap();
        let infos = server.collections("shop").await?;
        Ok::<_, mainstay_model::Error>(
            infos
                .into_iter()
                .map(|info| (info.namespace.collection, info.estimate.items))
                .collect::<Vec<_>>(),
        )
    };
    let expected =
        |prices: u64| vec![("a".to_owned(), 10), ("prices".to_owned(), prices), ("seen".to_owned(), 0)];
    // One bucket, or three measurements where buckets may not be seen.
    assert_eq!(items("reader").await.unwrap(), expected(1));
    assert_eq!(items("counter").await.unwrap(), expected(3));
    let error = items("lister").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Auth, "{error:?}");
    assert!(error.to_string().contains("shop."), "{error}");
}

#[tokio::test]
async fn fingerprints_are_stable_and_differ() {
    let mut standalone = Mongod::options().standalone().start().unwrap();
    let fingerprint =
        async |mongod: &Mongod| open(&mongod.uri()).await.server_facts().await.unwrap().fingerprint;
    let before = fingerprint(&standalone).await;
    assert!(before.starts_with("server-"), "{before}");
    standalone.restart().unwrap();
    assert_eq!(fingerprint(&standalone).await, before);
    let set = fingerprint(shared_mongod()).await;
    assert!(set.starts_with("replica-set-"), "{set}");
}

#[tokio::test]
async fn a_standalone_is_found_out() {
    let mongod = Mongod::options().standalone().start().unwrap();
    let mut config = config(mongod.uri());
    config.database = Some("shop".to_owned());
    let server = MongoServer::open(&config).await.unwrap();
    let profiled = doc! { "profile": 2 };
    mongod.oracle().await.database("shop").run_command(profiled).await.unwrap();
    let findings = server.examine().await.unwrap();
    let ids: Vec<_> = findings.iter().map(|finding| finding.id.as_str()).collect();
    assert_eq!(ids, ["mongo.standalone", "mongo.profiler_all"], "{findings:?}");
    assert_eq!(server.facts().await.unwrap().role, "standalone");
    assert_eq!(open(&shared_mongod().uri()).await.examine().await.unwrap(), []);
}

#[tokio::test]
async fn the_marker_is_kept() {
    let mongod = Mongod::options().standalone().start().unwrap();
    let server = open(&mongod.uri()).await;
    assert_eq!(server.marker().await.unwrap(), None);
    for class in [EnvironmentClass::Staging, EnvironmentClass::Production] {
        let marker = Marker {
            environment: "märket-dev".to_owned(),
            class,
            marked_at: Timestamp::now(),
            id: "0123".to_owned(),
        };
        server.set_marker(&marker, &permit(&server, "environment.mark").await).await.unwrap();
        assert_eq!(server.marker().await.unwrap(), Some(marker));
    }
    let client = mongod.oracle().await;
    let identity = client.database("mainstay").collection::<Document>("identity");
    assert_eq!(identity.count_documents(doc! { "_id": "environment" }).await.unwrap(), 1);
    identity.update_one(doc! {}, doc! { "$set": { "class": "?" } }).await.unwrap();
    assert_eq!(server.marker().await.unwrap_err().kind(), ErrorKind::Corrupt);
}
