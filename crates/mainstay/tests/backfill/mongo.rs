//! Documents: previewed, changed, verified, brought back; the sample's three.

use std::path::PathBuf;

use mainstay_testkit::{Mongod, shared_mongod};
use marketplace::{LoadOptions, LoadTarget, MongoTarget, Sample, Scale};
use mongodb::bson::{Document, doc};
use serde_json::json;

use crate::project::{POINTS, Project, count, fill};

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_is_previewed_run_verified_and_brought_back() {
    let (project, database) = Project::mongo(shared_mongod(), POINTS).await;
    fill(&database, "users", 12_000, doc! { "points": { "$mod": ["$n", 5] }, "name": "n" }).await;
    let before = mongod_hash(&database).await;

    let listed = project.json(0, &["backfill", "list"]);
    assert_eq!(listed["declared"][0]["run"], json!(null));
    let preview = project.json(0, &["backfill", "preview", "points", "--count", "2"]);
    assert_eq!((&preview["total"], &preview["guarded"]), (&json!(12_000), &json!(12_000)));
    assert_eq!(preview["changes"].as_array().unwrap().len(), 2);
    let fields = preview["changes"][0]["fields"].as_array().unwrap();
    assert!(fields.iter().any(|field| field["field"] == "counted" && field["before"].is_null()), "{preview}");
    assert_eq!(preview["reads_everything"], json!(true));
    assert_eq!(mongod_hash(&database).await, before, "a preview changes nothing");
    assert_eq!(project.json(3, &["backfill", "verify"])["verified"][0]["remains"]["guarded"], 12_000);

    // Whoever is not asked has not agreed.
    project.expect(7, &["backfill", "run", "points"]);
    let dry = project.expect(0, &["backfill", "run", "points", "--dry-run"]);
    assert!(dry.both().contains("12,000 of 12,000 documents"), "{}", dry.both());
    let ran = project.carry_out(0, &["backfill", "run", "points"]);
    assert_eq!((&ran["changed"], &ran["remains"]["guarded"]), (&json!(12_000), &json!(0)));
    assert_eq!(
        count(&database, "users", doc! { "counted": true, "points": { "$gte": 7, "$lt": 12 } }).await,
        12_000
    );
    project.expect(0, &["backfill", "verify"]);
    let again = project.expect(0, &["backfill", "run", "points"]);
    assert!(again.both().contains("nothing to do"), "{}", again.both());
    let listed = project.json(0, &["backfill", "list"]);
    let run = &listed["declared"][0]["run"];
    assert_eq!((&run["status"], &run["changed"]), (&json!("done"), &json!(12_000)));

    // Somebody goes on with three of them, and removes one.
    let users = database.collection::<Document>("users");
    users.update_many(doc! { "_id": { "$in": [5, 6_000] } }, doc! { "$inc": { "points": 1 } }).await.unwrap();
    users.update_one(doc! { "_id": 7 }, doc! { "$set": { "name": "other" } }).await.unwrap();
    users.delete_one(doc! { "_id": 11_999 }).await.unwrap();
    let undone = project.carry_out(3, &["backfill", "undo", "points"]);
    assert_eq!((&undone["restored"], &undone["left"]), (&json!(11_997), &json!(3)));
    let mut left: Vec<&str> =
        undone["left_keys"].as_array().unwrap().iter().map(|key| key.as_str().unwrap()).collect();
    left.sort_unstable();
    assert_eq!(left, [r#"{"$numberInt":"11999"}"#, r#"{"$numberInt":"5"}"#, r#"{"$numberInt":"6000"}"#]);
    assert_eq!(
        count(&database, "users", doc! { "counted": { "$exists": false }, "points": { "$lt": 5 } }).await,
        11_997
    );
    assert_eq!(count(&database, "users", doc! { "_id": 7, "name": "other", "points": 2 }).await, 1);
    // All that is left of it is undone.
    project.expect(8, &["backfill", "undo", "points"]);
    project.expect(0, &["audit", "verify"]);
    database.drop().await.unwrap();
}

async fn mongod_hash(database: &mongodb::Database) -> Document {
    let reply = database.run_command(doc! { "dbHash": 1 }).await.unwrap();
    reply.get_document("collections").unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runbooks_three_scripts_do_what_they_say_and_undo_it() {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/marketplace/backfills"));
    let declared = format!("[backfills]\nfolder = \"{}\"\n", folder.canonicalize().unwrap().display());
    let (project, database) = Project::mongo(shared_mongod(), &declared).await;
    let now = jiff::Timestamp::from_second(1_800_000_000).unwrap();
    let sample = Sample::new(1, "0.05".parse::<Scale>().unwrap(), now);
    let mongo = MongoTarget { url: shared_mongod().uri(), database: database.name().to_owned() };
    let target = LoadTarget { mongo: Some(mongo), redis_url: None };
    marketplace::load(&target, &LoadOptions::new(sample), &marketplace::Silent).await.unwrap();
    let before = mongod_hash(&database).await;
    let ids = ["dispute-sellers", "transaction-hashes", "user-points"];
    let listed = project.json(0, &["backfill", "list"]);
    let found: Vec<&str> =
        listed["declared"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(found, ids);
    for id in ids {
        project.expect(0, &["backfill", "preview", id]);
        let ran = project.carry_out(0, &["backfill", "run", id]);
        assert!(ran["changed"].as_u64().unwrap() > 20, "{ran}");
    }
    project.expect(0, &["backfill", "verify"]);
    assert_eq!(
        count(&database, "disputes", doc! { "$expr": { "$eq": ["$sellerId", "$against"] } }).await,
        count(&database, "disputes", doc! {}).await,
        "ids of every type are walked over"
    );
    for id in ids {
        let undone = project.carry_out(0, &["backfill", "undo", id]);
        assert_eq!(undone["left"], json!(0));
    }
    assert_eq!(mongod_hash(&database).await, before, "byte for byte as it was");
    database.drop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_server_is_promised_only_what_it_keeps() {
    let mongod = Mongod::options().standalone().start().unwrap();
    let (project, database) = Project::mongo(&mongod, POINTS).await;
    fill(&database, "users", 1_000, doc! { "points": 1 }).await;
    let refused = project.expect(8, &["backfill", "run", "points"]);
    assert!(refused.both().contains("undo = false"), "{}", refused.both());
    // What operators make of a document nobody can tell here without writing.
    project.declare("development", &format!("{POINTS}undo = false\n"));
    let refused = project.expect(1, &["backfill", "run", "points"]);
    assert!(refused.both().contains("pipeline"), "{}", refused.both());
    let pipeline = POINTS.replace(
        r#"'{ "$inc": { "points": 7 }, "$set": { "counted": true } }'"#,
        r#"'[{ "$set": { "points": { "$add": ["$points", 7] }, "counted": true } }]'"#,
    );
    project.declare("development", &format!("{pipeline}undo = false\n"));
    let planned = project.expect(0, &["backfill", "run", "points", "--dry-run"]);
    assert!(planned.both().contains("rests on the guard alone"), "{}", planned.both());
    project.carry_out(0, &["backfill", "run", "points"]);
    assert_eq!(count(&database, "users", doc! { "points": 8 }).await, 1_000);
    project.expect(8, &["backfill", "undo", "points"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_mongos_changelog_becomes_history_once() {
    let (project, database) = Project::mongo(shared_mongod(), "").await;
    project.expect(0, &["backfill", "import", "--dry-run"]);
    drop(std::fs::remove_file(project.place.path("plan.json")));
    let absent = project.expect(1, &["backfill", "import"]);
    assert!(absent.both().contains("there is nothing in"), "{}", absent.both());
    let at = mongodb::bson::DateTime::from_millis(1_700_000_000_000);
    database
        .collection::<Document>("changelog")
        .insert_many([
            doc! { "fileName": "20240101-points.js", "appliedAt": at, "fileHash": "ab12", "migrationBlock": 1_700_000_000_000_i64 },
            doc! { "fileName": "20240102-$odd.js", "appliedAt": at },
        ])
        .await
        .unwrap();
    assert_eq!(project.json(0, &["backfill", "import"])["imported"], 2);
    assert_eq!(project.json(0, &["backfill", "import"])["imported"], 0);
    let listed = project.json(0, &["backfill", "list"]);
    let history = listed["history"].as_array().unwrap();
    let of_ours: Vec<_> = history.iter().filter(|one| one["hash"] == "ab12").collect();
    assert!(!of_ours.is_empty() && of_ours[0]["tool"] == "migrate-mongo", "{listed}");
    database.drop().await.unwrap();
}
