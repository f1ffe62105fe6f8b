//! `init check`: the scripts of an image, told with their places and without their passwords; what it prints is a declaration that is read.

use std::fs;

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
