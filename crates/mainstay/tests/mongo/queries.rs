//! The daily questions through the real binary: what they find, what they hide, what they change and put back.

use std::process::{Child, Output};
use std::time::{Duration, Instant};

use mainstay_testkit::{Mongod, shared_mongod};
use mongodb::bson::{Document, doc};
use serde_json::Value;

use crate::stack::{Project, Ran, fill};

/// Stands in documents and queries, and may stand in no output that did not ask for values.
const CANARY: &str = "canary-8c1f";

/// A marked development project on `mongod`, with `users` of which every second is a buyer.
async fn marketplace(mongod: &Mongod) -> Project {
    let project = Project::new(&mongod.uri());
    project.mark();
    let users = mongod.oracle().await.database(&project.database).collection::<Document>("users");
    let user = |number: i32| {
        doc! { "_id": number, "n": number, "score": number, "role": if number % 2 == 0 { "buyer" } else { CANARY }, "email": format!("{number}-{CANARY}@x") }
    };
    users.insert_many((0..3_000).map(user)).await.unwrap();
    let index = doc! { "createIndexes": "users", "indexes": [{ "key": { "n": 1 }, "name": "n_1" }] };
    mongod.oracle().await.database(&project.database).run_command(index).await.unwrap();
    project
}

/// Two questions of one shape that scan and sort, and one that an index answers.
async fn ask(mongod: &Mongod, project: &Project) {
    let database = mongod.oracle().await.database(&project.database);
    for role in [CANARY, "buyer"] {
        let scan = doc! {
            "find": "users", "filter": { "role": role, "score": { "$gt": 5 } }, "sort": { "email": -1 }, "limit": 10, "comment": CANARY,
        };
        database.run_command(scan).await.unwrap();
    }
    database.run_command(doc! { "find": "users", "filter": { "n": 7 } }).await.unwrap();
}

async fn profile(mongod: &Mongod, database: &str) -> Document {
    let reply = mongod.oracle().await.database(database).run_command(doc! { "profile": -1 }).await.unwrap();
    let kept = reply
        .into_iter()
        .filter(|(key, _)| ["was", "slowms", "sampleRate", "filter"].contains(&key.as_str()));
    kept.collect()
}

/// Waits until `condition` holds.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition().await {
        assert!(Instant::now() < deadline, "{what} within 30 s");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[track_caller]
fn interrupt(child: Child) -> Output {
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT)
        .unwrap();
    child.wait_with_output().unwrap()
}

fn group<'a>(report: &'a Value, verb: &str, text: &str) -> &'a Value {
    let groups = report["groups"].as_array().unwrap();
    let is = |group: &&Value| {
        group["shape"]["verb"] == verb && group["shape"]["text"].as_str().unwrap().contains(text)
    };
    groups.iter().find(is).unwrap_or_else(|| panic!("no {verb} {text} in {report}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_counted_and_measured() {
    let mongod = shared_mongod();
    let project = Project::filled(mongod, 600).await;
    let database = mongod.oracle().await.database(&project.database);
    let create = doc! { "create": "prices", "timeseries": { "timeField": "at" } };
    database.run_command(create).await.unwrap();
    let price = |minute: i64| doc! { "at": mongodb::bson::DateTime::from_millis(minute * 1_000) };
    database.collection::<Document>("prices").insert_many((0..5).map(price)).await.unwrap();
    let users = format!("{}.users", project.database);

    let estimate = project.json(&["mongo", "count"]);
    let row = |report: &Value, name: &str| {
        let rows = report["collections"].as_array().unwrap();
        rows.iter().find(|row| row["namespace"] == format!("{}.{name}", project.database)).unwrap().clone()
    };
    assert_eq!(row(&estimate, "users")["documents"], 300);
    assert_eq!(row(&estimate, "users")["counted"], "estimate");
    assert_eq!(row(&estimate, "named")["documents"], Value::Null);
    assert_eq!(row(&estimate, "prices")["counted"], "unknown");
    assert_eq!(estimate["documents"], Value::Null);
    let exact = project.json(&["mongo", "count", "--exact"]);
    assert_eq!(row(&exact, "prices")["documents"], 5);
    assert_eq!(row(&exact, "named")["documents"], 3);
    assert_eq!(row(&exact, "users")["counted"], "exact");
    let query = r#"{"number": {"$lt": {"$numberLong": "100"}}}"#;
    let some = project.json(&["mongo", "count", &users, "--query", query]);
    assert_eq!((&some["documents"], &some["collections"][0]["counted"]), (&100.into(), &"exact".into()));
    project.run(&["mongo", "count"]).expect(0).says("estimate").says("--exact counts its measurements");

    let stats = project.json(&["mongo", "stats"]);
    let found = row(&stats, "users");
    assert_eq!((&found["kind"], &found["documents"]), (&"collection".into(), &300.into()));
    for key in ["data_bytes", "document_bytes_mean", "storage_bytes", "index_bytes", "cache_bytes"] {
        assert!(found[key].as_u64().unwrap() > 0, "{key} in {found}");
    }
    let names: Vec<&str> =
        found["indexes"].as_array().unwrap().iter().map(|index| index["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["_id_", "number_1", "tags_1_name_-1"]);
    assert_eq!(
        (&row(&stats, "prices")["kind"], &row(&stats, "prices")["documents"]),
        (&"time_series".into(), &1.into())
    );
    assert_eq!(row(&stats, "named")["kind"], "view");
    let disk: Vec<u64> = stats["collections"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["storage_bytes"].as_u64().unwrap() + row["index_bytes"].as_u64().unwrap())
        .collect();
    assert!(disk.is_sorted_by(|one, other| one >= other), "{disk:?}");
    project.run(&["mongo", "stats", &users]).expect(0).says("number_1").says("REUSABLE");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_operations_are_grouped_and_show_no_value() {
    let mongod = Mongod::start().unwrap();
    let project = marketplace(&mongod).await;
    let before = profile(&mongod, &project.database).await;
    project.run(&["mongo", "profile", "set", "--level", "1", "--slow-ms", "0"]).expect(0).says("its log too");
    ask(&mongod, &project).await;
    let slow = project.json(&["mongo", "slow"]);
    assert_eq!(slow["sources"][0]["source"], "profiler");
    let scan = group(&slow, "find", "role");
    assert_eq!(scan["shape"]["text"], "{role: <string>, score: {$gt: <int>}} sort {email: -1} limit <int>");
    assert_eq!(
        (&scan["count"], &scan["documents_examined"], &scan["sorted"]),
        (&2.into(), &6_000.into(), &2.into())
    );
    let advice: Vec<&str> =
        scan["advice"].as_array().unwrap().iter().map(|advice| advice["id"].as_str().unwrap()).collect();
    assert_eq!(advice, ["collection_scan", "in_memory_sort"]);
    let command = scan["advice"][0]["commands"][0].as_str().unwrap();
    assert!(
        command.ends_with(r#".getCollection("users").createIndex({role: 1, email: -1, score: 1})"#),
        "{command}"
    );
    let indexed = group(&slow, "find", "{n: <int>}");
    assert_eq!((&indexed["count"], &indexed["plans"][0]), (&1.into(), &"IXSCAN { n: 1 }".into()));
    assert_eq!(indexed["advice"].as_array().unwrap().len(), 0);

    let none = project.run(&["mongo", "slow", "--since", "2099-01-01T00:00:00Z"]).expect(0);
    let text = project.run(&["mongo", "slow"]).expect(0).says("advice:").says("sorts in memory");
    for ran in [&text, &none] {
        assert!(!ran.to_string().contains(CANARY), "{ran}");
    }
    assert!(!slow.to_string().contains(CANARY), "{slow}");
    project.run(&["mongo", "slow", "--show-literals"]).expect(0).says("limit 10");
    let shown = project.json(&["mongo", "profile", "show"]);
    assert!(shown["profilers"][0]["recorded"]["entries"].as_u64().unwrap() >= 3, "{shown}");
    assert_eq!(shown["profilers"][0]["change"]["before"]["level"], 0);
    project.run(&["mongo", "profile", "reset"]).expect(0);
    assert_eq!(profile(&mongod, &project.database).await, before);
    project.run(&["mongo", "profile", "reset"]).expect(8).says("nothing was changed");

    // Where the profiler recorded nothing, the log tells, as long as the threshold is low enough for it.
    let database = mongod.oracle().await.database(&project.database);
    database.collection::<Document>("system.profile").drop().await.unwrap();
    project.run(&["mongo", "profile", "set", "--slow-ms", "0"]).expect(0);
    ask(&mongod, &project).await;
    project.run(&["mongo", "profile", "reset"]).expect(0);
    let logged = project.json(&["mongo", "slow", "--limit", "100"]);
    assert_eq!(logged["sources"][0]["source"], "log");
    assert!(group(&logged, "find", "role")["count"].as_u64().unwrap() >= 2, "{logged}");
    assert!(
        !logged.to_string().contains(CANARY) && !logged.to_string().contains("system.profile"),
        "{logged}"
    );
    assert_eq!(profile(&mongod, &project.database).await, before);
    let audit = project.run(&["audit", "list", "--json"]).expect(0);
    assert!(audit.stdout.contains("mongo.profile.reset") && !audit.stdout.contains(CANARY), "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_profiler_goes_back_however_the_hold_ends() {
    let mongod = Mongod::start().unwrap();
    let project = marketplace(&mongod).await;
    let database = mongod.oracle().await.database(&project.database);
    let filtered = doc! { "profile": 1, "slowms": 77, "sampleRate": 0.123_456_789, "filter": { "millis": { "$gt": 5_i64 } } };
    database.run_command(filtered).await.unwrap();
    let before = profile(&mongod, &project.database).await;
    let hold = ["mongo", "profile", "set", "--level", "2", "--slow-ms", "3", "--for"];
    let held = |time| [&hold[..], &[time]].concat();
    let is_set = async || {
        let now = profile(&mongod, &project.database).await;
        let number = |key: &str| now.get_i32(key).ok();
        number("was") == Some(2) && number("slowms") == Some(3) && !now.contains_key("filter")
    };

    let child = project.spawn(&held("1h"));
    until("the profiler is set", is_set).await;
    let shown = project.run(&["mongo", "profile", "show"]).expect(0).says("until").says("before: level 1");
    assert!(!shown.stdout.contains("past"), "{shown}");
    let ended = Ran::of(interrupt(child)).expect(0).says("EVERY operation is recorded").says("stopped");
    assert!(ended.stdout.contains("is back"), "{ended}");
    assert_eq!(profile(&mongod, &project.database).await, before);

    let ended = project.run(&[&held("1s")[..], &["--json"]].concat()).expect(0).json();
    assert_eq!((&ended["hold_end"], &ended["reset"]["now"]["slow_ms"]), (&"expired".into(), &77.into()));
    assert_eq!(profile(&mongod, &project.database).await, before);

    let mut child = project.spawn(&held("1h"));
    until("the profiler is set", is_set).await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(is_set().await);
    // Another set in between does not make us forget what stood first.
    project.run(&["mongo", "profile", "set", "--level", "1"]).expect(0);
    project.run(&["mongo", "profile", "reset", "--dry-run"]).expect(0).says("the filter comes back");
    project.run(&["mongo", "profile", "reset"]).expect(0);
    assert_eq!(profile(&mongod, &project.database).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn production_is_asked_before_its_profiler_is_set() {
    let mongod = Mongod::start().unwrap();
    let project = Project::new(&mongod.uri());
    fill(&mongod, &project.database, 50).await;
    let set = ["mongo", "profile", "set", "--level", "2", "--slow-ms", "5"];
    project.run(&set).expect(7).says("needs consent").says("--output plan.json");
    let planned = project.run(&[&set[..], &["--output", "plan.json", "--json"]].concat()).expect(0).json();
    let hash = planned["plan_hash"].as_str().unwrap();
    assert!(planned.to_string().contains("EVERY operation is recorded IN PRODUCTION"), "{planned}");
    assert_eq!(profile(&mongod, &project.database).await.get_i32("was").unwrap(), 0);
    project.run(&["apply", "plan.json", "--approve", hash]).expect(0);
    assert_eq!(profile(&mongod, &project.database).await.get_i32("was").unwrap(), 2);
    project.run(&["apply", "plan.json", "--approve", hash]).expect(9).says("profiler was level 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_is_seen_and_ended() {
    let mongod = Mongod::options().parameter("internalQueryExecYieldIterations", "1").start().unwrap();
    let project = marketplace(&mongod).await;
    let database = mongod.oracle().await.database(&project.database);
    let asked = tokio::spawn(async move {
        let filter = doc! { "$where": format!("sleep(200); return '{CANARY}' == 1") };
        database.run_command(doc! { "find": "users", "filter": filter }).await
    });
    let mut id = String::new();
    until("the operation is seen", async || {
        let seen = project.json(&["mongo", "ops", "--longer-than", "300ms"]);
        assert!(!seen.to_string().contains(CANARY), "{seen}");
        let found = seen["operations"].as_array().unwrap().iter().find(|one| one["shape"]["verb"] == "find");
        if let Some(found) = found {
            assert_eq!(found["namespace"], format!("{}.users", project.database));
            assert_eq!((&found["plan"], &found["kind"]), (&"COLLSCAN".into(), &"command".into()));
            id = found["id"].as_str().unwrap().to_owned();
        }
        !id.is_empty()
    })
    .await;
    let text = project.run(&["mongo", "ops"]).expect(0).says("{$where: <").says("COLLSCAN");
    assert!(!text.to_string().contains(CANARY), "{text}");
    project.run(&["mongo", "ops", "--show-literals", "--verbose"]).expect(0).says(CANARY);
    project.run(&["mongo", "ops", "--kill", &id, "--dry-run"]).expect(0).says("disruptive");
    let planned = project.json(&["mongo", "ops", "--kill", &id, "--output", "kill.json"]);
    let killed = project.json(&["mongo", "ops", "--kill", &id]);
    assert_eq!(
        (&killed["killed"]["operation"], &killed["killed"]["gone"]),
        (&id.as_str().into(), &true.into())
    );
    let error = asked.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("interrupted"), "{error}");

    project.run(&["mongo", "ops", "--kill", &id]).expect(1).says("no operation is numbered");
    let hash = planned["plan_hash"].as_str().unwrap();
    project.run(&["apply", "kill.json", "--approve", hash]).expect(9).says("is gone");
    let all = project.json(&["mongo", "ops", "--all"]);
    let own = all["operations"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["description"] == "Checkpointer")
        .unwrap();
    project
        .run(&["mongo", "ops", "--kill", own["id"].as_str().unwrap()])
        .expect(8)
        .says("the server's own work");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_blocks_is_named() {
    let mongod = Mongod::start().unwrap();
    let project = marketplace(&mongod).await;
    project.run(&["mongo", "locks", "--over", "100ms"]).expect(0).says("tickets").says("no findings");
    let client = mongod.oracle().await;
    let database = client.database(&project.database);
    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    let users = database.collection::<Document>("users");
    users
        .update_one(doc! { "_id": 1 }, doc! { "$set": { "x": CANARY } })
        .session(&mut session)
        .await
        .unwrap();
    let dropping = {
        let database = database.clone();
        tokio::spawn(
            async move { database.run_command(doc! { "dropIndexes": "users", "index": "n_1" }).await },
        )
    };
    let mut seen = Value::Null;
    until("the waiter is a finding", async || {
        let ran = project.run(&["mongo", "locks", "--over", "200ms", "--json"]);
        seen = ran.json();
        let findings = seen["findings"].as_array().unwrap();
        findings.iter().any(|finding| finding["id"] == "mongo.lock_waiter") && ran.status >= 3
    })
    .await;
    let blocked = &seen["blocked"][0];
    assert_eq!(blocked["resource"], format!("Collection {}.users", project.database));
    assert_eq!(
        (&blocked["waiter"]["mode"], &blocked["waiter"]["shape"]["verb"]),
        (&"X".into(), &"dropIndexes".into())
    );
    let blocker = &blocked["blockers"][0];
    assert_eq!((&blocker["mode"], &blocker["operation"]), (&"IX".into(), &Value::Null));
    let session_id = blocker["session"].as_str().unwrap();
    let finding =
        seen["findings"].as_array().unwrap().iter().find(|one| one["id"] == "mongo.lock_waiter").unwrap();
    assert!(
        finding["remedy"]
            .as_str()
            .unwrap()
            .contains(&format!("killSessions: [{{id: UUID(\"{session_id}\")}}]")),
        "{finding}"
    );
    assert!(seen["queued"]["writers"].as_u64().unwrap() >= 1, "{seen}");
    let ops = project.run(&["mongo", "ops"]).expect(0).says("waits for a lock").says("idle for");
    assert!(!format!("{seen}{ops}").contains(CANARY), "{ops}");
    session.abort_transaction().await.unwrap();
    dropping.await.unwrap().unwrap();

    client.database("admin").run_command(doc! { "fsync": 1, "lock": true }).await.unwrap();
    let writing = tokio::spawn(async move { users.insert_one(doc! { "_id": "late" }).await });
    until("the locked server is a finding", async || {
        let ran = project.run(&["mongo", "locks", "--over", "200ms"]);
        ran.stdout.contains("db.fsyncUnlock()") && ran.status >= 3
    })
    .await;
    client.database("admin").run_command(doc! { "fsyncUnlock": 1 }).await.unwrap();
    writing.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_privilege_is_named_with_its_role() {
    let mongod = Mongod::options().auth("root", "pw").start().unwrap();
    let project = Project::new(&format!(
        "mongodb://reader@{}/?directConnection=true&authSource=admin",
        mongod.address()
    ));
    fill(&mongod, &project.database, 50).await;
    let admin = mongod.oracle().await.database("admin");
    let user = async |name: &str, roles: Vec<Document>| {
        admin.run_command(doc! { "createUser": name, "pwd": "s3cret-pw", "roles": roles }).await.unwrap();
    };
    let on = |role: &str, database: &str| doc! { "role": role, "db": database };
    user("reader", vec![on("read", &project.database)]).await;
    user("monitor", vec![on("read", &project.database), on("clusterMonitor", "admin")]).await;
    let run = |user: &str, arguments: &[&str]| {
        let url = format!("mongodb://{user}@{}/?directConnection=true&authSource=admin", mongod.address());
        project.configure(&url, "file:./repository", "");
        let mut command = project.command(arguments);
        Ran::of(command.env("MAINSTAY_MONGO_PASSWORD", "s3cret-pw").output().unwrap())
    };
    run("reader", &["mongo", "count", "--exact"]).expect(0);
    run("reader", &["mongo", "stats"]).expect(0);
    for (arguments, lacking, role) in [
        (&["mongo", "profile", "show"][..], "enableProfiler", "dbAdmin"),
        (&["mongo", "slow"], "find on system.profile", "clusterMonitor"),
        (&["mongo", "ops"], "inprog", "clusterMonitor"),
        (&["mongo", "locks"], "serverStatus", "clusterMonitor"),
    ] {
        let ran = run("reader", arguments).expect(5).says(lacking).says(role).says("grantRolesToUser");
        assert!(!ran.to_string().contains("s3cret-pw"), "{ran}");
        run("monitor", arguments).expect(0);
    }
}

#[test]
fn bad_input_is_refused_with_its_status() {
    let mongod = shared_mongod();
    let project = Project::new(&mongod.uri());
    let users = format!("{}.users", project.database);
    let count = |rest: &[&str]| project.run(&[&["mongo", "count"], rest].concat());
    count(&["no-dot"]).expect(2);
    count(&[&users, "--max-time", "soon"]).expect(2).says("length of time");
    count(&["--query", "{}"]).expect(2).says("needs a collection");
    count(&[&users]).expect(8).says("does not hold").says("case-sensitive");
    count(&["--database", "admin"]).expect(2).says("belongs to the server");
    project.run(&["mongo", "stats", "--db", "local"]).expect(2);
    project.run(&["mongo", "slow", "--db", "config"]).expect(2);
    project.run(&["mongo", "slow", "--since", "yesterday"]).expect(2);
    project.run(&["mongo", "slow", "--limit", "0"]).expect(2);
    project.run(&["mongo", "slow", "--db", "nowhere"]).expect(8).says("nowhere");
    let profile = |rest: &[&str]| project.run(&[&["mongo", "profile", "set"], rest].concat());
    profile(&["admin", "--level", "1"]).expect(2);
    profile(&["--level", "3"]).expect(2);
    profile(&["--sample-rate", "2"]).expect(2).says("from 0 to 1");
    profile(&["--level", "1", "--for", "9000h"]).expect(2);
    profile(&["nowhere", "--level", "1"]).expect(8);
    project.run(&["mongo", "ops", "--dry-run"]).expect(2);
    project.run(&["mongo", "ops", "--kill", "no-number"]).expect(1).says("no operation is numbered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_and_a_bad_query_are_answered() {
    let mongod = Mongod::options().standalone().start().unwrap();
    let project = marketplace(&mongod).await;
    let users = format!("{}.users", project.database);
    for query in ["{", "[]", r#"{"a": {"$oid": "x"}}"#] {
        project.run(&["mongo", "count", &users, "--query", query]).expect(2).says("Extended JSON");
    }
    let bad = format!(r#"{{"$nonsense": "{CANARY}"}}"#);
    let ran = project.run(&["mongo", "count", &users, "--query", &bad]).expect(1);
    assert!(!ran.to_string().contains(CANARY), "{ran}");
    let slow = project.run(&["mongo", "count", &users, "--exact", "--max-time", "30s"]).expect(0);
    assert!(slow.stdout.contains("3,000"), "{slow}");
    for arguments in [
        &["mongo", "stats"][..],
        &["mongo", "profile", "show"],
        &["mongo", "slow"],
        &["mongo", "ops", "--all"],
        &["mongo", "locks", "--over", "0s"],
    ] {
        project.run(arguments).expect(0);
    }
    let point = doc! { "configureFailPoint": "maxTimeAlwaysTimeOut", "mode": "alwaysOn" };
    let admin = mongod.oracle().await.database("admin");
    admin.run_command(point).await.unwrap();
    project
        .run(&["mongo", "count", &users, "--exact", "--max-time", "5s"])
        .expect(1)
        .says("not counted within 5s");
    admin.run_command(doc! { "configureFailPoint": "maxTimeAlwaysTimeOut", "mode": "off" }).await.unwrap();
}
