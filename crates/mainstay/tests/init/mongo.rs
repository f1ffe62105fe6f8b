//! MongoDB: standalone, in a set that is not initiated, with root credentials as a container has them, and with the localhost exception.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use mainstay_testkit::Mongod;
use mongodb::bson::{Document, doc};

use crate::binary::Place;
use crate::support::{
    CANARY, apply, apply_killed_at, apply_when_free, done, holds_no_password, marked, plan, project, summary,
    wait_for_lease,
};

const DECLARATION: &str = r#"
[init]
mark = true

[init.mongo]
replica_set = "rs0"

[init.mongo.roles.order_reader]
privileges = [{ collection = "orders", actions = ["find", "listIndexes"] }]

[init.mongo.users.admin]
database = "admin"
password_variable = "ADMIN_PWD"
roles = ["root"]

[init.mongo.users.app]
password_variable = "APP_PWD"
roles = ["readWrite", "order_reader"]

[init.mongo.collections.orders]
validator = '{ "qty": { "$gte": 1 } }'
validation_level = "moderate"

[init.mongo.collections.events]
capped = "64KiB"
collation = { locale = "de", strength = 2 }

[init.mongo.collections.metrics]
time_series = { time = "at", meta = "sensor", granularity = "minutes" }
expire_after = "30d"

[mongo.indexes]
orders = [{ keys = ["buyer", "-at"] }, { keys = ["number"], unique = true }]
"#;

fn place() -> Place {
    Place::new()
        .variable("APP_PWD", &format!("{CANARY}-app"))
        .variable("ADMIN_PWD", &format!("{CANARY}-admin"))
        .variable("ROOT_PWD", &format!("{CANARY}-root"))
}

fn configured(place: &Place, url: &str, declaration: &str) {
    project(place, &format!("[mongo]\nurl = \"{url}\"\ndatabase = \"shop\"\n{declaration}"));
}

fn url(server: &Mongod) -> String {
    format!("mongodb://127.0.0.1:{}/?directConnection=true", server.port())
}

async fn client(server: &Mongod, login: &str) -> mongodb::Client {
    mongodb::Client::with_uri_str(format!(
        "mongodb://{login}127.0.0.1:{}/?directConnection=true",
        server.port()
    ))
    .await
    .unwrap()
}

/// What stands in the server, as another client sees it.
async fn seen(client: &mongodb::Client) -> Vec<String> {
    let mut seen = Vec::new();
    let users =
        client.database("admin").run_command(doc! { "usersInfo": { "forAllDBs": true } }).await.unwrap();
    for user in users.get_array("users").unwrap() {
        let user = user.as_document().unwrap();
        let roles: BTreeSet<String> = user
            .get_array("roles")
            .unwrap()
            .iter()
            .map(|role| role.as_document().unwrap().get_str("role").unwrap().to_owned())
            .collect();
        seen.push(format!("user {} {roles:?}", user.get_str("_id").unwrap()));
    }
    let mut names = client.database("shop").list_collection_names().await.unwrap();
    names.retain(|name| !name.starts_with("system."));
    names.sort();
    seen.extend(names);
    seen
}

const MADE: [&str; 5] = [
    "user admin.admin {\"root\"}",
    "user shop.app {\"order_reader\", \"readWrite\"}",
    "events",
    "metrics",
    "orders",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_container_with_root_credentials_is_initiated_from_outside_whenever_it_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let root = format!("{CANARY}-root");
    let options = || Mongod::options().auth("root", &root).in_folder(folder.path());
    options().standalone().start().unwrap().stop();
    let server = options().member().start().unwrap();
    let place = place();
    let more = "username = \"root\"\n";
    project(
        &place,
        &format!("[mongo]\nurl = \"{}\"\ndatabase = \"shop\"\n{more}{DECLARATION}", url(&server)),
    );
    let place = place.variable("MAINSTAY_MONGO_PASSWORD", &root);

    let planned = plan(&place, "mongo", &[], 0);
    assert_eq!(
        marked(&planned, "+"),
        [
            "replica set rs0",
            "user admin.admin",
            "role shop.order_reader",
            "user shop.app",
            "collection shop.orders",
            "collection shop.events",
            "collection shop.metrics",
            "index shop.orders.buyer_1_at_-1",
            "index shop.orders.number_1",
            "environment marker"
        ]
    );
    assert!(planned["plan"]["target"]["fingerprint"].as_str().unwrap().starts_with("process-"), "{planned}");

    // Each step leaves a record before and one after it; the process is killed behind each.
    let mut kills = 0;
    for record in 1..=20 {
        if apply_killed_at(&place, "mongo", record) {
            kills += 1;
            wait_for_lease();
        }
    }
    assert!(kills >= 8, "{kills}");
    apply_when_free(&place).expect(0);

    let admin = client(&server, &format!("root:{root}@")).await;
    let all = seen(&admin).await;
    assert_eq!(
        all.iter().filter(|one| !one.starts_with("user admin.root")).collect::<Vec<_>>(),
        MADE.iter().collect::<Vec<_>>()
    );
    let app = client(&server, &format!("app:{CANARY}-app@")).await;
    let refused =
        app.database("shop").run_command(doc! { "insert": "orders", "documents": [{ "qty": 0 }] }).await;
    // Its user is of `shop`, which the connection string does not say: it does not get in through `admin`.
    assert!(refused.is_err());

    // The set has a lasting name now, and everything is there: nothing is to be done, and nothing is.
    let again = plan(&place, "mongo", &[], 0);
    assert!(marked(&again, "+").is_empty() && marked(&again, "~").is_empty(), "{again}");
    assert!(again["plan"]["target"]["fingerprint"].as_str().unwrap().starts_with("replica-set-"), "{again}");
    let before = entries(&admin).await;
    assert!(done(&apply(&place).expect(0).json()).is_empty());
    place.run(&["init", "apply"]).expect(0).says("nothing was to be done");
    assert_eq!(entries(&admin).await, before, "a second run writes nothing");
    place.run(&["environment", "show"]).expect(0).says("tests, development");

    holds_no_password(&place.path("repository"));
    assert!(!fs::read_to_string(place.path("plan.json")).unwrap().contains(CANARY));
    assert!(!fs::read_to_string(server.log()).unwrap().contains(CANARY), "the server's log holds a password");
}

/// How many entries the log of changes holds, without the server's own heartbeats.
async fn entries(client: &mongodb::Client) -> u64 {
    let log = client.database("local").collection::<Document>("oplog.rs");
    log.count_documents(doc! { "op": { "$ne": "n" }, "ns": { "$not": { "$regex": "^config\\." } } })
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_auth_gets_its_users_and_the_advice_to_ask_for_them() {
    let server = Mongod::options().member().start().unwrap();
    let place = place();
    configured(&place, &url(&server), DECLARATION);
    plan(&place, "mongo", &[], 0);
    let applied = apply(&place).expect(0).json();
    assert_eq!(done(&applied).len(), 10, "{applied}");
    assert!(applied["applied"][0]["advice"][0].as_str().unwrap().contains("--keyFile"), "{applied}");
    assert_eq!(seen(&client(&server, "").await).await, MADE);

    // An application's url, and the set's own name, work by now.
    configured(&place, &format!("mongodb://127.0.0.1:{}/?replicaSet=rs0", server.port()), DECLARATION);
    let again = plan(&place, "mongo", &[], 0);
    assert!(marked(&again, "+").is_empty(), "{again}");
    assert_eq!(summary(&again, "password of user shop.app"), "is there already");
    assert!(summary(&again, "server").contains("in use: it holds 3 collections"), "{again}");
}

/// How often the server was asked for collections and indexes.
async fn listings(client: &mongodb::Client) -> i64 {
    let status = client.database("admin").run_command(doc! { "serverStatus": 1 }).await.unwrap();
    let commands = status.get_document("metrics").unwrap().get_document("commands").unwrap();
    let total = |name: &str| commands.get_document(name).unwrap().get_i64("total").unwrap();
    total("listCollections") + total("listIndexes")
}

/// Each step is looked at where it is done: what is asked grows with the steps, not with their square.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_grows_with_the_steps_alone() {
    let server = Mongod::options().standalone().start().unwrap();
    let place = place();
    let names: Vec<String> = (0..20).map(|number| format!("c{number}")).collect();
    let collections = names.iter().map(|name| format!("[init.mongo.collections.{name}]\n"));
    let indexes = names.iter().map(|name| format!("{name} = [{{ keys = [\"a\"] }}]\n"));
    let lines: String = collections.chain(["[mongo.indexes]\n".to_owned()]).chain(indexes).collect();
    configured(&place, &url(&server), &lines);
    plan(&place, "mongo", &[], 0);
    let oracle = client(&server, "").await;
    let before = listings(&oracle).await;
    assert_eq!(done(&apply(&place).expect(0).json()).len(), 40);
    let asked = listings(&oracle).await - before;
    assert!(asked < 40 * 10, "{asked} questions for 40 steps");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_user_is_made_by_the_localhost_exception_and_makes_the_others() {
    let server = Mongod::options().standalone().argument("--auth").start().unwrap();
    let place = place();
    let alone = DECLARATION.replace("[init.mongo]\nreplica_set = \"rs0\"\n", "");
    configured(&place, &url(&server), &alone);
    plan(&place, "mongo", &[], 0);
    apply(&place).expect(0);
    assert_eq!(seen(&client(&server, &format!("admin:{CANARY}-admin@")).await).await, MADE);
    let again = plan(&place, "mongo", &[], 0);
    assert!(marked(&again, "+").is_empty() && marked(&again, "~").is_empty(), "{again}");

    // A member of a set that is not initiated, with a key file and without users: the set comes first, then the user.
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    fs::write(&key, "aKeyThatProtectsNothingButTests").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let member =
        Mongod::options().member().argument("--keyFile").argument(key.to_str().unwrap()).start().unwrap();
    configured(&place, &url(&member), DECLARATION);
    plan(&place, "mongo", &[], 0);
    assert_eq!(done(&apply(&place).expect(0).json()).len(), 10);
    assert_eq!(seen(&client(&member, &format!("admin:{CANARY}-admin@")).await).await, MADE);

    // Without an administrator nothing can begin on such a server.
    let other = Mongod::options().standalone().argument("--auth").start().unwrap();
    let start = alone.find("[init.mongo.users.admin]").unwrap();
    let end = alone.find("[init.mongo.users.app]").unwrap();
    configured(&place, &url(&other), &format!("{}{}", &alone[..start], &alone[end..]));
    let planned = plan(&place, "mongo", &[], 3);
    assert!(summary(&planned, "first user").contains("declare one of `admin`"), "{planned}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_otherwise_is_told_changed_where_it_can_be_and_never_taken_away() {
    let server = Mongod::options().start().unwrap();
    let place = place();
    configured(&place, &url(&server), DECLARATION);
    let oracle = server.oracle().await;
    let shop = oracle.database("shop");
    shop.run_command(doc! { "create": "orders", "validator": { "qty": { "$gte": 0 } } }).await.unwrap();
    let orders = shop.collection::<Document>("orders");
    orders.insert_many([doc! { "qty": 0 }, doc! { "qty": 0 }, doc! { "qty": 5 }]).await.unwrap();
    shop.run_command(doc! { "create": "events" }).await.unwrap();
    shop.run_command(doc! {
        "createUser": "app", "pwd": "another one", "roles": ["read", "dbAdmin"],
    })
    .await
    .unwrap();

    let planned = plan(&place, "mongo", &[], 3);
    assert_eq!(marked(&planned, "~"), ["collection shop.orders"]);
    assert!(summary(&planned, "index shop.orders.number_1").contains("mainstay index plan"), "{planned}");
    assert!(
        summary(&planned, "collection shop.orders").contains("2 documents that are there violate it"),
        "{planned}"
    );
    assert!(
        summary(&planned, "options of collection shop.events").contains("cannot be changed"),
        "{planned}"
    );
    assert!(
        summary(&planned, "rights of user shop.app").contains("shop.dbAdmin, shop.read besides"),
        "{planned}"
    );
    assert!(summary(&planned, "password of user shop.app").contains("--rotate app"), "{planned}");

    // Others give the user other rights meanwhile: what was approved is not what would be done.
    shop.run_command(doc! { "grantRolesToUser": "app", "roles": ["readWrite"] }).await.unwrap();
    apply(&place).expect(9).says("user shop.app stands otherwise by now");
    plan(&place, "mongo", &[], 3);
    apply(&place).expect(3);
    let listed = seen(&oracle).await;
    assert!(
        listed.contains(&"user shop.app {\"dbAdmin\", \"order_reader\", \"read\", \"readWrite\"}".to_owned()),
        "{listed:?}"
    );
    assert_eq!(orders.count_documents(doc! {}).await.unwrap(), 3);
    let violation = orders.insert_one(doc! { "qty": 0 }).await;
    assert!(violation.is_err(), "the validator is the declared one");

    // The password is another one until its user is named.
    let log_in = async || {
        let uri = format!(
            "mongodb://app:{CANARY}-app@127.0.0.1:{}/?directConnection=true&authSource=shop",
            server.port()
        );
        let client = mongodb::Client::with_uri_str(uri).await.unwrap();
        client.database("shop").run_command(doc! { "ping": 1 }).await.is_ok()
    };
    assert!(!log_in().await);
    place
        .run(&["init", "plan", "--rotate", "nobody"])
        .expect(2)
        .says("those are admin, admin.admin, app, shop.app");
    let planned = plan(&place, "mongo", &["--rotate", "app"], 3);
    assert_eq!(marked(&planned, "~"), ["password of user shop.app"]);
    apply(&place).expect(3);
    assert!(log_in().await);
    assert!(done(&apply(&place).expect(3).json()).is_empty(), "it is not set twice");
    assert!(!fs::read_to_string(server.log()).unwrap().contains(CANARY));
}

#[test]
fn a_server_that_is_no_member_a_wrong_password_and_a_missing_right_are_told_with_the_next_step() {
    let root = format!("{CANARY}-root");
    let server = Mongod::options().standalone().auth("root", &root).start().unwrap();
    let place = place();
    configured(&place, &url(&server), DECLARATION);
    // Nobody is configured, and the declared administrator is not there: the server says who is missing.
    place.run(&["init", "plan"]).expect(5).says("refused user name or password");
    let with = |user: &str, password: &str| {
        let place = self::place().variable("MAINSTAY_MONGO_PASSWORD", password);
        let lines = format!(
            "[mongo]\nurl = \"{}\"\ndatabase = \"shop\"\nusername = \"{user}\"\n{DECLARATION}",
            url(&server)
        );
        project(&place, &lines);
        place
    };
    with("root", "wrong-password").run(&["init", "plan"]).expect(5).says("refused user name or password");
    let rooted = with("root", &root);
    let planned = plan(&rooted, "mongo", &[], 3);
    assert!(summary(&planned, "replica set rs0").contains("--replSet rs0"), "{planned}");
    apply(&rooted).expect(3).says("--replSet rs0");

    // The application's user may make nobody.
    let declared = DECLARATION.replace("[init.mongo.users.app]", "[init.mongo.users.another]");
    let place = self::place().variable("MAINSTAY_MONGO_PASSWORD", &format!("{CANARY}-app"));
    let lines = format!(
        "[mongo]\nurl = \"{}\"\ndatabase = \"shop\"\nusername = \"app\"\nauth_source = \"shop\"\n{declared}",
        url(&server)
    );
    project(&place, &lines);
    place.run(&["init", "plan"]).expect(5).says("lacks a privilege").says("usersInfo");
}

#[test]
fn a_password_that_is_not_given_and_an_undeclared_server_are_told() {
    let server = Mongod::start().unwrap();
    let place = Place::new();
    configured(&place, &url(&server), "");
    place.run(&["init", "plan"]).expect(8).says("nothing is declared").says("init check");
    configured(&place, &url(&server), DECLARATION);
    let planned = plan(&place, "mongo", &[], 3);
    assert!(summary(&planned, "user shop.app").contains("set variable APP_PWD"), "{planned}");
    place.run(&["init", "plan", "--store", "redis"]).expect(8).says("nothing is declared of redis");
    project(
        &place,
        "[mongo]\nurl = \"mongodb://127.0.0.1:1\"\n[init.mongo.users.app]\npassword = \"canary-Pa55\"\n",
    );
    place.run(&["init", "plan"]).expect(2).says("is a secret and does not belong in this file");
}

#[test]
fn a_plan_that_hides_its_steps_and_one_that_the_server_refuses_are_told() {
    let server = Mongod::options().standalone().start().unwrap();
    let place = Place::new();
    configured(
        &place,
        &url(&server),
        "[init.mongo.roles.odd]\nprivileges = [{ collection = \"c\", actions = [\"nosuchaction\"] }]\n",
    );
    plan(&place, "mongo", &[], 0);
    // Asked again, the server says the same: that is nothing to apply again.
    apply(&place).expect(1).says("role shop.odd").says("correct the declaration");
    let text = fs::read_to_string(place.path("plan.json")).unwrap();
    let mut hiding: serde_json::Value = serde_json::from_str(&text).unwrap();
    hiding["steps"] = serde_json::json!([]);
    place.write("plan.json", &hiding.to_string());
    apply(&place).expect(2).says("not what it shows");
}
