//! Applying is killed at each of its records; a writer tries to break uniqueness throughout.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mainstay_testkit::shared_mongod;
use mongodb::bson::{DateTime, Document, doc};
use serde_json::json;
use tokio::task::JoinSet;

use crate::shop::{Shop, write_code};

const DECLARED: &str = r#"
[mongo.indexes]
users = [
  { keys = ["email"], unique = true },
  { keys = ["handle"], unique = true, partial = { handle = { "$type" = "string" } } },
  { keys = ["role"] },
  { keys = ["seen"], ttl = "30d" },
]
[mongo.policy]
undeclared = "hide"
"#;
/// Two records for each of the steps, and one for the plan.
const RECORDS: usize = 2 * 8 + 1;
/// Kills that run beside one another.
const TOGETHER: usize = 3;

/// The records about the indexes of the server.
fn records(shop: &Shop) -> Vec<PathBuf> {
    let folder = shop.place.path("repository/mongo/indexes");
    let servers = std::fs::read_dir(folder).into_iter().flatten();
    let files = servers.flat_map(|server| std::fs::read_dir(server.unwrap().path()).unwrap());
    let paths = files.map(|file| file.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|kind| kind == "json")).collect()
}

async fn filled() -> Shop {
    let shop = Shop::new(shared_mongod(), DECLARED).await;
    let number = doc! { "$toString": "$n" };
    shop.fill("users", 3_000, doc! {
        "email": { "$concat": ["e", &number] }, "handle": { "$concat": ["h", &number] }, "role": "buyer", "seen": DateTime::now(),
    })
    .await;
    shop.index("users", doc! { "key": { "email": 1 }, "name": "email_1" }).await;
    shop.index("users", doc! { "key": { "handle": 1 }, "name": "handle_1", "unique": true }).await;
    shop.index("users", doc! { "key": { "seen": 1 }, "name": "seen_1", "hidden": true }).await;
    shop.index("users", doc! { "key": { "role": 1, "x": 1 }, "name": "stray" }).await;
    shop
}

/// Some index keeps handles apart: whole, unique, of handles.
fn keeps_handles_apart(indexes: &std::collections::BTreeMap<String, Document>) -> bool {
    indexes.iter().any(|(name, index)| {
        !name.starts_with("building ")
            && index.get_document("key").unwrap().contains_key("handle")
            && index.get_bool("unique").unwrap_or(false)
    })
}

/// Applies, kills it a little after the record `at` came, and goes on. Gives whether it was still at work then.
async fn killed_at(at: usize) -> bool {
    let shop = filled().await;
    shop.plan(0, "plan.json", &[]);
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (stop, users) = (Arc::clone(&stop), shop.collection("users"));
        tokio::spawn(async move {
            let mut tries = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let second = users.insert_one(doc! { "handle": "h7", "email": format!("new{tries}") }).await;
                assert_eq!(write_code(&second.unwrap_err()), Some(11000), "try {tries}");
                tries += 1;
            }
            tries
        })
    };
    let mut child = shop.begin("plan.json");
    let deadline = Instant::now() + Duration::from_secs(60);
    while records(&shop).len() < at && child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "record {at} never came");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // Somewhere between this record and the next one.
    tokio::time::sleep(Duration::from_millis((at as u64 * 7) % 23)).await;
    let has_ended = child.try_wait().unwrap().is_some();
    child.kill().unwrap();
    child.wait().unwrap();
    let left = shop.indexes("users").await;
    assert!(keeps_handles_apart(&left), "killed at {at}: {left:?}");

    let gone_on = tokio::task::block_in_place(|| shop.go_on("plan.json"));
    assert_eq!(gone_on.status, 0, "killed at {at}: {}", gone_on.both());
    if !has_ended {
        assert!(gone_on.stderr.contains("it goes on"), "killed at {at}: {}", gone_on.both());
    }
    stop.store(true, Ordering::Relaxed);
    let tries = writer.await.unwrap();
    assert!(tries > 10, "{tries} tries");

    let indexes = shop.indexes("users").await;
    let names: Vec<&str> = indexes.keys().map(String::as_str).collect();
    assert_eq!(names, ["email_1", "handle_1", "handle_1_2", "role_1", "seen_1", "stray"]);
    let flag = |name: &str, option: &str| indexes[name].get_bool(option).unwrap_or(false);
    assert!(flag("email_1", "unique") && flag("handle_1_2", "unique"));
    assert!(flag("handle_1", "hidden") && flag("stray", "hidden") && !flag("seen_1", "hidden"));
    let again = shop.plan(0, "again.json", &[]);
    assert_eq!(again["totals"], json!({"added": 0, "changed": 0, "retired": 0, "blocked": 0}));
    shop.database.drop().await.unwrap();
    !has_ended
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn a_kill_at_any_record_leaves_an_index_and_a_run_that_goes_on() {
    let mut left: Vec<usize> = (1..=RECORDS).rev().collect();
    let mut running = JoinSet::new();
    let mut killed = 0;
    loop {
        while running.len() < TOGETHER
            && let Some(at) = left.pop()
        {
            running.spawn(killed_at(at));
        }
        match running.join_next().await {
            Some(ended) => killed += usize::from(ended.unwrap()),
            None => break,
        }
    }
    assert!(killed > RECORDS / 2, "{killed} of {RECORDS} were killed at work");
}
