//! `init check`: the scripts of an image, told with their places and without their passwords; what it prints is a declaration that is read.

use std::fs;

use mainstay_testkit::{Mongod, Postgres};
use mongodb::bson::doc;
use serde_json::Value;

use crate::binary::Place;
use crate::support::{CANARY, project};

#[test]
fn the_runbooks_script_is_explained_and_declared() {
    let place = Place::new();
    fs::create_dir(place.path("mongo-init")).unwrap();
    place.write(
        "mongo-init/01-create-user.js",
        "db = db.getSiblingDB('marketplace');\ndb.createUser({\n  user: 'marketplace_app',\n  pwd: process.env.MARKETPLACE_APP_PWD,\n\
           roles: [{ role: 'readWrite', db: 'marketplace' }],\n});\ndb.createUser({user: 'reports', pwd: 'canary-Pa55', roles: ['read']});\n\
         db.createCollection('users');\ndb.users.createIndex({ email: 1 }, { unique: true });\ndb.users.insertOne({ token: 'canary-Pa55' });\n",
    );
    place.write("mongo-init/readme.txt", "");
    let told = place.run(&["init", "check"]).expect(0);
    let told = told
        .says("run once, when the folder of data is empty")
        .says("ignored: only *.sh and *.js are run")
        .says("01-create-user.js:2: user marketplace.marketplace_app with readWrite; its password is in MARKETPLACE_APP_PWD")
        .says("01-create-user.js:7: user marketplace.reports with read; its password stands in the script")
        .says("01-create-user.js:10: db.users.insertOne()")
        .says("users = [{ keys = [\"email\"], unique = true }]");
    assert!(!told.both().contains(CANARY));

    // What is printed is a declaration as it is.
    let report = place.run(&["init", "check", "mongo-init", "--json"]).expect(0).json();
    let toml = report["toml"].as_str().unwrap();
    let (init, _) = toml.split_once("\n[mongo.indexes]").unwrap();
    project(&place, init);
    place.run(&["init", "plan"]).expect(8).says("mongo is not configured");
}

#[test]
fn a_folder_of_postgres_and_no_folder_are_told() {
    let place = Place::new();
    place.run(&["init", "check"]).expect(1).says("name the folder of scripts");
    place.write("file.js", "");
    place.run(&["init", "check", "file.js"]).expect(2).says("is no folder").says("init check FOLDER");
    place.run(&["init", "check", "nowhere"]).expect(1).says("there is no folder").says("init check FOLDER");
    fs::create_dir(place.path("initdb.d")).unwrap();
    place.write(
        "initdb.d/10.sql",
        "CREATE USER app PASSWORD 'canary-Pa55';\nGRANT CONNECT ON DATABASE shop TO app;\nDROP TABLE x;\n",
    );
    fs::write(place.path("initdb.d/20.sql.gz"), [0xff, 0x00, 0xfe]).unwrap();
    let told = place.run(&["init", "check", "initdb.d"]).expect(0);
    told.says("holds no PG_VERSION")
        .says("10.sql:1: role app")
        .says("10.sql:3: DROP TABLE")
        .says("20.sql.gz:1: a packed file");
    let report = place.run(&["init", "check", "initdb.d", "--json"]).expect(0).json();
    project(&place, report["toml"].as_str().unwrap());
    place.run(&["init", "plan"]).expect(8).says("postgres is not configured");
}

/// What a server has of each statement.
fn presences(report: &Value) -> Vec<&str> {
    let statements = report["live"]["statements"].as_array().unwrap();
    statements.iter().map(|one| one["presence"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_mongodb_has_of_its_scripts_is_told_for_each_statement() {
    let server = Mongod::options().standalone().start().unwrap();
    let place = Place::new();
    fs::create_dir(place.path("mongo-init")).unwrap();
    place.write(
        "mongo-init/01.js",
        "db = db.getSiblingDB('shop');\n\
         db.createUser({ user: 'app', pwd: 'canary-Pa55', roles: ['readWrite'] });\n\
         db.createUser({ user: 'reports', pwd: 'canary-Pa55', roles: ['read'] });\n\
         db.createUser({ user: 'poor', pwd: 'canary-Pa55', roles: ['read', 'dbAdmin'] });\n\
         db.createCollection('orders');\ndb.createCollection('events');\n\
         db.orders.createIndex({ number: 1 }, { unique: true });\ndb.orders.createIndex({ buyer: 1 });\n\
         db.events.createIndex({ at: -1 });\n",
    );
    let database = server.oracle().await.database("shop");
    for command in [
        doc! { "createUser": "app", "pwd": "x", "roles": ["readWrite"] },
        doc! { "createUser": "poor", "pwd": "x", "roles": ["read"] },
        doc! { "insert": "orders", "documents": [doc! { "number": 1 }] },
        doc! { "createIndexes": "orders", "indexes": [
            doc! { "key": { "number": 1 }, "name": "number_1" }, doc! { "key": { "buyer": 1 }, "name": "by_buyer" },
        ] },
    ] {
        database.run_command(command).await.unwrap();
    }
    let url = format!("mongodb://127.0.0.1:{}/?directConnection=true", server.port());
    project(&place, &format!("[mongo]\nurl = \"{url}\"\ndatabase = \"shop\"\n"));
    let report = place.run(&["init", "check", "--json"]).expect(3).json();
    assert_eq!(
        presences(&report),
        ["present", "absent", "different", "present", "absent", "different", "present", "absent"],
        "{report}"
    );
    let told = place.run(&["init", "check"]).expect(3);
    told.says("different: give it shop.dbAdmin").says("present: under the name by_buyer");

    // Who cannot be asked is told behind all that the files say.
    drop(server);
    let told = place.run(&["init", "check"]).expect(6).says("not compared: ");
    told.says("01.js:3: user shop.reports with read").says("[init.mongo.users.reports]");
}

#[test]
fn what_a_postgres_has_of_its_scripts_is_told_for_each_statement() {
    let server = Postgres::start().unwrap();
    let place = Place::new();
    fs::create_dir(place.path("initdb.d")).unwrap();
    place.write(
        "initdb.d/10.sql",
        "CREATE USER app PASSWORD 'canary-Pa55';\nCREATE ROLE readers;\nCREATE ROLE writers;\n\
         GRANT readers TO app;\nGRANT writers TO app;\nCREATE SCHEMA audit;\n\
         GRANT CONNECT ON DATABASE postgres TO readers;\nGRANT USAGE ON SCHEMA public TO readers;\n",
    );
    project(&place, &format!("[postgres]\nurl = \"{}\"\n", server.uri()));
    let check =
        || place.run(&["init", "check", "initdb.d", "--database", "postgres", "--json"]).expect(3).json();
    let report = check();
    assert_eq!(presences(&report), ["absent"; 8], "{report}");
    let made = "CREATE ROLE readers; CREATE ROLE writers; CREATE ROLE app LOGIN; GRANT readers TO app; CREATE SCHEMA audit";
    server.execute("postgres", made).unwrap();
    let report = check();
    // Everybody may connect to a database, and use its schema `public`.
    assert_eq!(
        presences(&report),
        ["present", "present", "present", "present", "absent", "present", "present", "present"],
        "{report}"
    );
}
