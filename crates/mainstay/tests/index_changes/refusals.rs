//! Worlds that have moved, rights that are lacking, files that are no plans, environments that ask for more.

use mainstay_testkit::{Mongod, shared_mongod};
use mongodb::bson::{DateTime, doc};
use serde_json::{Value, json};

use crate::shop::Shop;

const DECLARED: &str = r#"
[mongo.indexes]
users = [{ keys = ["email"], unique = true }, { keys = ["role"] }]
"#;

async fn filled() -> Shop {
    let shop = Shop::new(shared_mongod(), DECLARED).await;
    shop.fill("users", 300, doc! { "email": { "$toString": "$n" }, "role": "x" }).await;
    shop.index("users", doc! { "key": { "email": 1 }, "name": "email_1" }).await;
    shop.plan(0, "plan.json", &[]);
    shop
}

#[tokio::test]
async fn a_world_that_has_moved_is_told_difference_by_difference() {
    let shop = filled().await;
    let name = &shop.name;
    let stale = |texts: &[&str]| {
        let seen = shop.approve("plan.json");
        assert_eq!(seen.status, 9, "{}", seen.both());
        for text in texts {
            assert!(seen.stderr.contains(text), "{text}: {}", seen.stderr);
        }
        assert!(seen.stderr.contains("nothing was changed"), "{}", seen.stderr);
    };
    // An index that came.
    shop.index("users", doc! { "key": { "role": 1 }, "name": "role_1" }).await;
    stale(&[&format!("index {name}.users.role_1 is"), "was not there"]);
    shop.database.run_command(doc! { "dropIndexes": "users", "index": "role_1" }).await.unwrap();
    // One that was changed.
    let hide = doc! { "collMod": "users", "index": { "name": "email_1", "hidden": true } };
    shop.database.run_command(hide).await.unwrap();
    stale(&[&format!("index {name}.users.email_1 was"), "hidden"]);
    let show = doc! { "collMod": "users", "index": { "name": "email_1", "hidden": false } };
    shop.database.run_command(show).await.unwrap();
    // Documents that came.
    shop.collection("users").insert_one(doc! { "_id": 9_999, "email": "7" }).await.unwrap();
    stale(&["1 keys of", "users.email_1", "2 in all", "there were 0 such keys"]);
    assert!(shop.indexes("users").await["email_1"].get("prepareUnique").is_none());
    shop.collection("users").delete_one(doc! { "_id": 9_999 }).await.unwrap();
    // One that went.
    shop.database.run_command(doc! { "dropIndexes": "users", "index": "email_1" }).await.unwrap();
    stale(&[&format!("index {name}.users.email_1 was"), "is gone"]);
    // The collection itself, which came back as another one.
    shop.collection("users").drop().await.unwrap();
    stale(&[&format!("collection {name}.users was the one with id"), "is absent"]);
    shop.fill("users", 10, doc! { "email": { "$toString": "$n" } }).await;
    stale(&[&format!("collection {name}.users was the one with id"), "is the one with id"]);
    assert!(shop.names("users").await.is_empty());
    let refused = shop.expect(0, &["audit", "list"]).stdout;
    assert!(refused.contains("index.apply.change"), "{refused}");
    shop.database.drop().await.unwrap();
}

/// The first change of a plan.
fn change_of(plan: &mut Value) -> &mut Value {
    &mut plan["parameters"]["collections"][0]["changes"][0]
}

#[tokio::test]
async fn files_that_are_no_plans_of_this_are_refused() {
    let shop = filled().await;
    let text = std::fs::read_to_string(shop.place.path("plan.json")).unwrap();
    let plan: Value = serde_json::from_str(&text).unwrap();
    type Case = (&'static str, fn(&mut Value), &'static str);
    let cases: [Case; 13] = [
        ("database", |plan| plan["parameters"]["database"] = json!("admin"), "no database of an application"),
        (
            "collection",
            |plan| plan["parameters"]["collections"][0]["name"] = json!("system.users"),
            "no collection of an application",
        ),
        (
            "commands",
            |plan| change_of(plan)["commands"][0] = json!(r#"{"ping":1}"#),
            "are not those of its steps",
        ),
        (
            "operation",
            |plan| {
                plan["operation"] = json!("index.apply.build");
                plan["effect"] = json!("additive");
            },
            "calls itself index.apply.build and does what index.apply.change does",
        ),
        (
            "drop",
            |plan| {
                let definition = r#"{"v":2,"key":{"email":1},"name":"email_1"}"#;
                let change = change_of(plan);
                change["change"]["steps"] =
                    json!([{"step": "drop", "name": "email_1", "definition": definition}]);
                change["commands"] = json!([r#"{"dropIndexes":"users","index":"email_1"}"#]);
                plan["operation"] = json!("index.apply.drop");
            },
            "email_1 is dropped",
        ),
        (
            "gone",
            |plan| {
                let indexes = plan["parameters"]["collections"][0]["indexes"].as_array().unwrap();
                let seen = indexes.iter().find(|index| index["name"] == "email_1").unwrap();
                let definition = seen["definition"].clone();
                let change = change_of(plan);
                change["change"]["kind"] = json!("rebuild");
                change["change"]["steps"] =
                    json!([{"step": "drop", "name": "email_1", "definition": definition}]);
                change["commands"] = json!([r#"{"dropIndexes":"users","index":"email_1"}"#]);
                plan["operation"] = json!("index.apply.drop");
            },
            "email_1 is dropped and nothing is built in its place",
        ),
        (
            "expiry",
            |plan| {
                let definition = r#"{"key":{"role":1},"name":"role_1","expireAfterSeconds":60}"#;
                let change = change_of(plan);
                change["change"]["steps"] =
                    json!([{"step": "build", "name": "role_1", "definition": definition}]);
                change["commands"] =
                    json!([format!(r#"{{"createIndexes":"users","indexes":[{definition}]}}"#)]);
                plan["operation"] = json!("index.apply.expire");
            },
            "documents expire by `build role_1`, and nobody asks how many",
        ),
        (
            "assumptions",
            |plan| plan["assumptions"].as_array_mut().unwrap().truncate(1),
            "its assumptions are not those of the collections",
        ),
        ("hidden", |plan| plan["steps"] = json!([]), "not what it shows"),
        ("stake", |plan| plan["blast_radius"]["items"] = json!(7), "not what it shows"),
        (
            "stranger",
            |plan| {
                let change = change_of(plan);
                change["change"]["steps"] = json!([{"step": "hide", "name": "other"}]);
                change["commands"] = json!([r#"{"collMod":"users","index":{"name":"other","hidden":true}}"#]);
            },
            "an index that was not seen",
        ),
        (
            "nothing",
            |plan| plan["parameters"]["collections"][0] = Value::Null,
            "not those of a change of indexes",
        ),
        (
            "parameters",
            |plan| plan["parameters"] = json!({"steps": [[[]]]}),
            "not those of a change of indexes",
        ),
    ];
    for (name, spoil, expected) in cases {
        let mut spoilt = plan.clone();
        spoil(&mut spoilt);
        let file = format!("{name}.json");
        shop.place.write(&file, &spoilt.to_string());
        let seen = shop.approve(&file);
        assert_eq!(seen.status, 2, "{name}: {}", seen.both());
        assert!(
            seen.stderr.contains(expected) && seen.stderr.contains("nothing was changed"),
            "{name}: {}",
            seen.stderr
        );
    }
    // Approved as another one, nothing is done.
    shop.expect(7, &["apply", "plan.json", "--approve", &"0".repeat(64)]);
    assert_eq!(shop.names("users").await, ["email_1"]);
    for (text, status) in [("{", 2), ("[]", 2), ("{\"format\":9}", 1)] {
        shop.place.write("bad.json", text);
        assert_eq!(shop.run(&["index", "apply", "bad.json"]).status, status, "{text}");
    }
    shop.database.drop().await.unwrap();
}

#[tokio::test]
async fn rights_that_are_lacking_are_named() {
    let server = Mongod::options().auth("root", "canary-root").start().unwrap();
    let admin = server.oracle().await.database("admin");
    for (user, roles) in [("reader", vec!["readAnyDatabase", "clusterMonitor"]), ("nobody", vec![])] {
        let roles: Vec<_> = roles.into_iter().map(|role| doc! { "role": role, "db": "admin" }).collect();
        admin.run_command(doc! { "createUser": user, "pwd": "canary-reader", "roles": roles }).await.unwrap();
    }
    let plain = server.uri();
    let as_user = |user: &str, password: &str| {
        let (scheme, rest) = plain.split_once("://").unwrap();
        let rest = rest.split_once('@').map_or(rest, |(_, rest)| rest);
        format!("{scheme}://{user}:{password}@{rest}")
    };
    let shop = Shop::of_class(&server, &as_user("root", "canary-root"), "development", DECLARED).await;
    shop.fill("users", 100, doc! { "email": { "$toString": "$n" } }).await;
    shop.index("users", doc! { "key": { "email": 1 }, "name": "email_1" }).await;
    let text = std::fs::read_to_string(shop.place.path("mainstay.toml")).unwrap();
    let reader = text.replace("root:canary-root@", "reader:canary-reader@");
    shop.place.write("mainstay.toml", &reader);
    shop.plan(0, "plan.json", &[]);
    let seen = shop.approve("plan.json");
    assert_eq!(seen.status, 5, "{}", seen.both());
    for text in ["users.role_1", "lacks a privilege", "hint:"] {
        assert!(seen.stderr.contains(text), "{text}: {}", seen.stderr);
    }
    assert!(!seen.both().contains("canary"), "{}", seen.both());
    shop.place.write("mainstay.toml", &text.replace("root:canary-root@", "nobody:canary-reader@"));
    assert_eq!(shop.run(&["index", "plan"]).status, 5);
    // The plan is as good as before for who may.
    shop.place.write("mainstay.toml", &text);
    assert_eq!(shop.approve("plan.json").status, 0);
}

#[tokio::test]
async fn production_wants_a_verified_backup_before_documents_expire() {
    let declared = "[mongo.indexes]\ntokens = [{ keys = [\"at\"], ttl = \"0s\" }, { keys = [\"user\"] }]\n";
    let server = Mongod::start().unwrap();
    let shop = Shop::of_class(&server, &server.uri(), "production", declared).await;
    let past = DateTime::from_millis(DateTime::now().timestamp_millis() - 1_000);
    shop.collection("tokens").insert_many((0..5).map(|id| doc! { "_id": id, "at": past })).await.unwrap();
    let plan = shop.plan(0, "plan.json", &[]);
    assert_eq!(plan["plan"]["blast_radius"]["items"], 5);
    let refused = shop.approve("plan.json");
    assert!(refused.status == 7 && refused.stderr.contains("backup"), "{}", refused.both());
    assert!(shop.names("tokens").await.is_empty());
    shop.expect(0, &["backup", "create", "--store", "mongo"]);
    shop.expect(0, &["backup", "verify", "latest", "--store", "mongo"]);
    let done = shop.approve("plan.json");
    assert_eq!(done.status, 0, "{}", done.both());
    assert_eq!(shop.names("tokens").await, ["at_1", "user_1"]);
}
