//! What is not run: guards that go on matching, changes that are not named, declarations that changed, production without a backup.

use mainstay_testkit::shared_mongod;
use mongodb::bson::doc;

use crate::project::{POINTS, Project, count, fill};

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_done_twice_or_more_than_is_named_is_refused() {
    let (project, database) = Project::mongo(shared_mongod(), POINTS).await;
    fill(&database, "users", 500, doc! { "points": 1, "items": [{ "price": 1 }] }).await;
    for (old, new, told) in [
        (
            r#""$set": { "counted": true }"#,
            r#""$set": { "other": true }"#,
            "the guard still means 200 of 200",
        ),
        (
            r#"fields = ["points", "counted"]"#,
            r#"fields = ["counted"]"#,
            "changes points, which `fields` does not name",
        ),
        (r#""$inc": { "points": 7 }"#, r#""$inc": { "items.0.price": 7 }"#, "changes items, which"),
        (r#"collection = "users""#, r#"collection = "absent""#, "is not there"),
        // The environment marker is in there.
        (
            r#"collection = "users""#,
            "database = \"mainstay\"\ncollection = \"identity\"",
            "mainstay.identity is the server's own, or Mainstay's",
        ),
    ] {
        project.declare("development", &POINTS.replace(old, new));
        let seen = project.run(&["backfill", "run", "points", "--dry-run"]);
        assert!(seen.both().contains(told), "{told}: {}", seen.both());
        assert_ne!(seen.status, 0);
        assert!(seen.both().contains("nothing was changed"), "{}", seen.both());
    }
    // A path through an array can be changed, but not kept.
    let through = POINTS
        .replace(r#""$inc": { "points": 7 }"#, r#""$inc": { "items.$[].price": 7 }"#)
        .replace(r#"fields = ["points", "counted"]"#, r#"fields = ["items.price", "counted"]"#);
    project.declare("development", &through);
    drop(std::fs::remove_file(project.place.path("plan.json")));
    let planned = project.run(&["backfill", "run", "points", "--output", "plan.json"]);
    if planned.status == 0 {
        let refused = project.approve("plan.json");
        assert_eq!(refused.status, 8, "{}", refused.both());
        assert!(refused.both().contains("leads through the array items"), "{}", refused.both());
    }
    assert_eq!(count(&database, "users", doc! { "counted": true }).await, 0);
    database.drop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_writes_nothing_and_hides_nothing() {
    let (project, database) = Project::mongo(shared_mongod(), POINTS).await;
    fill(&database, "users", 20, doc! { "points": 1 }).await;
    let update = r#"'{ "$inc": { "points": 7 }, "$set": { "counted": true } }'"#;
    for (pipeline, status, told) in [
        (r#"'[{ "$out": "users" }]'"#, 2, "stage 1 of `update` is none of an update"),
        (r#"'[{ "$set": { "counted": true } }, { "$merge": "copy" }]'"#, 2, "stage 2 of `update`"),
        // What is told by reading must be what an update does: `_id` stays, or the server refuses.
        (r#"'[{ "$replaceWith": { "counted": true } }]'"#, 0, "points: {\"$numberInt\":\"1\"} -> absent"),
        (r#"'[{ "$set": { "_id": 7, "counted": true } }]'"#, 2, "nothing was changed"),
        (r#"'[{ "$set": { "counted": { "$nope": 1 } } }]'"#, 2, "correct the declaration"),
        (r#"'[{ "$set": '"#, 2, "read the backfill points: `update` is not JSON"),
    ] {
        project.declare("development", &POINTS.replace(update, pipeline));
        let seen = project.run(&["backfill", "preview", "points", "--count", "1"]);
        assert_eq!(seen.status, status, "{pipeline}: {}", seen.both());
        assert!(seen.both().contains(told), "{pipeline}: {}", seen.both());
    }
    assert_eq!(count(&database, "users", doc! { "points": 1, "counted": { "$exists": false } }).await, 20);
    assert_eq!(database.list_collection_names().await.unwrap(), ["users"]);
    database.drop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_declaration_of_the_same_id_is_not_the_same() {
    let (project, database) = Project::mongo(shared_mongod(), POINTS).await;
    fill(&database, "users", 100, doc! { "points": 1 }).await;
    project.carry_out(0, &["backfill", "run", "points"]);
    project.declare("development", &POINTS.replace("\"points\": 7", "\"points\": 8"));
    database.collection::<mongodb::bson::Document>("users").insert_one(doc! { "points": 1 }).await.unwrap();
    drop(std::fs::remove_file(project.place.path("plan.json")));
    project.expect(0, &["backfill", "run", "points", "--output", "plan.json"]);
    let refused = project.approve("plan.json");
    assert_eq!(refused.status, 8, "{}", refused.both());
    assert!(refused.both().contains("was declared otherwise"), "{}", refused.both());
    // As it was it walks again, over what came behind the walk.
    project.declare("development", POINTS);
    assert_eq!(project.carry_out(0, &["backfill", "run", "points"])["changed"], 1);
    assert_eq!(count(&database, "users", doc! { "points": 8 }).await, 101);
    database.drop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_asked_for_where_the_declaration_says_so() {
    let declared = format!("{POINTS}backup = \"always\"\n");
    let (project, database) = Project::mongo(shared_mongod(), &declared).await;
    fill(&database, "users", 100, doc! { "points": 1 }).await;
    project.expect(0, &["backfill", "run", "points", "--output", "plan.json"]);
    let refused = project.approve("plan.json");
    assert_eq!(refused.status, 7, "{}", refused.both());
    assert!(refused.both().contains("mainstay backup create"), "{}", refused.both());
    project.expect(0, &["backup", "create"]);
    project.expect(0, &["backup", "verify", "latest"]);
    let ran = project.approve("plan.json");
    assert_eq!(ran.status, 0, "{}", ran.both());
    assert_eq!(count(&database, "users", doc! { "points": 8 }).await, 100);
    project.expect(1, &["backfill", "run", "pionts"]);
    database.drop().await.unwrap();
}
