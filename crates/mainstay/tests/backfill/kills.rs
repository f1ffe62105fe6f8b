//! A run is killed, interrupted and paused wherever it is; each document is changed once.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use mainstay_testkit::shared_mongod;
use mongodb::Database;
use mongodb::bson::doc;
use rustix::process::{Pid, Signal, kill_process};

use crate::project::{POINTS, Project, count, fill};

const DOCUMENTS: i32 = 30_000;
const KILLS: u64 = 6;

/// Begins to apply a plan file.
fn begin(project: &Project, file: &str) -> Child {
    let hash = project.hash(file);
    let mut command = project.place.command(&["apply", file, "--approve", &hash, "--json"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

async fn changed(database: &Database) -> u64 {
    count(database, "users", doc! { "counted": true }).await
}

/// Waits until more than `than` documents are changed, or the child has ended.
async fn until_more(database: &Database, than: u64, child: &mut Child) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while changed(database).await <= than && child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "nothing was ever changed");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A project whose run takes a while, planned into `plan.json`.
async fn planned(more: &str) -> (Project, Database) {
    let declared = format!("{}{more}", POINTS.replace("batch = 500", "batch = 100"));
    let (project, database) = Project::mongo(shared_mongod(), &declared).await;
    fill(&database, "users", DOCUMENTS, doc! { "points": { "$mod": ["$n", 5] } }).await;
    project.expect(0, &["backfill", "run", "points", "--output", "plan.json"]);
    (project, database)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_kills_it_each_document_is_changed_once() {
    let (project, database) = planned("pause = \"3ms\"\n").await;
    let mut killed = 0;
    let deadline = Instant::now() + Duration::from_secs(60);
    while killed < KILLS && changed(&database).await < DOCUMENTS as u64 {
        assert!(Instant::now() < deadline, "{killed} were killed at work");
        let before = changed(&database).await;
        let mut child = begin(&project, "plan.json");
        until_more(&database, before, &mut child).await;
        // Somewhere within a batch. Who waits for the lease of the one before has changed nothing, and ends by itself.
        tokio::time::sleep(Duration::from_millis((killed * 7) % 23)).await;
        killed += u64::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(killed > 0, "none was killed at work");
    let gone_on = tokio::task::block_in_place(|| project.go_on("plan.json"));
    assert_eq!(gone_on.status, 0, "{}", gone_on.both());
    let whole =
        doc! { "$expr": { "$eq": ["$points", { "$add": [{ "$mod": ["$_id", 5] }, 7] }] }, "counted": true };
    assert_eq!(count(&database, "users", whole).await, DOCUMENTS as u64, "each once");
    // What was kept is what was changed, and not one more.
    let undone = project.carry_out(0, &["backfill", "undo", "points"]);
    assert_eq!((undone["restored"].as_i64(), undone["left"].as_i64()), (Some(DOCUMENTS.into()), Some(0)));
    let first =
        doc! { "$expr": { "$eq": ["$points", { "$mod": ["$_id", 5] }] }, "counted": { "$exists": false } };
    assert_eq!(count(&database, "users", first).await, DOCUMENTS as u64);
    database.drop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_interrupt_and_a_pause_end_after_a_batch() {
    let (project, database) = planned("pause = \"20ms\"\n").await;
    let mut child = begin(&project, "plan.json");
    until_more(&database, 0, &mut child).await;
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(75));
    let stopped = changed(&database).await;
    assert!(stopped > 0 && stopped < DOCUMENTS as u64, "{stopped}");
    assert_eq!(changed(&database).await, stopped, "nobody goes on");

    // It was given back, so nobody waits for it.
    let mut child = begin(&project, "plan.json");
    until_more(&database, stopped, &mut child).await;
    let locked = project.approve("plan.json");
    assert_eq!(locked.status, 10, "{}", locked.both());
    project.expect(0, &["backfill", "pause", "points"]);
    assert_eq!(child.wait().unwrap().code(), Some(75));
    let listed = project.expect(0, &["backfill", "list"]);
    assert!(listed.both().contains("paused at"), "{}", listed.both());
    let refused = project.approve("plan.json");
    assert_eq!(refused.status, 8, "{}", refused.both());
    assert!(refused.both().contains("backfill resume"), "{}", refused.both());

    // Brought back before its end, too: nothing of it is left then.
    let undone = project.carry_out(0, &["backfill", "undo", "points"]);
    assert!(undone["restored"].as_u64().unwrap() > stopped, "{undone}");
    assert_eq!(changed(&database).await, 0);
    database.drop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_paused_backfill_is_resumed() {
    let (project, database) = planned("pause = \"20ms\"\n").await;
    let mut child = begin(&project, "plan.json");
    until_more(&database, 0, &mut child).await;
    project.expect(0, &["backfill", "pause", "points"]);
    assert_eq!(child.wait().unwrap().code(), Some(75));
    let ran = project.carry_out(0, &["backfill", "resume", "points"]);
    assert_eq!((ran["changed"].as_i64(), ran["resumed"].as_bool()), (Some(DOCUMENTS.into()), Some(true)));
    // It is at its end: there is nothing to resume, and nothing to pause.
    project.expect(1, &["backfill", "resume", "points"]);
    project.expect(8, &["backfill", "pause", "points"]);
    database.drop().await.unwrap();
}
