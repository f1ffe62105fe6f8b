//! Backups that are interrupted and continued, moments that pass, and servers that need sparing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use crate::stack::{Project, Ran};
use mainstay_testkit::servers::ReplicaSet;
use mainstay_testkit::{FaultProxy, Mongod, shared_mongod};
use mongodb::bson::{Document, doc};
use serde_json::Value;

/// What a connection carries in a second, so that a backup of [`fill_slowly`]'s collections takes some.
const SLOW: u64 = 4_000_000;

/// Three collections of which the first is read long before the last: 1, 4 and 12 MB that hardly compress.
async fn fill_slowly(client: &mongodb::Client, database: &str) {
    for (name, documents) in [("small", 250_u32), ("middle", 1_000), ("large", 3_000)] {
        let collection = client.database(database).collection::<Document>(name);
        let batch: Vec<Document> =
            (0..documents).map(|id| doc! { "_id": id as i32, "noise": noise(id) }).collect();
        collection.insert_many(batch).await.unwrap();
    }
}

/// 4 KB that hardly compress.
fn noise(seed: u32) -> mongodb::bson::Binary {
    let mut state = u64::from(seed) * 2_654_435_761 + 88_172_645_463_325_252;
    let bytes = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let bytes = bytes.take(512).flatten().collect();
    mongodb::bson::Binary { subtype: mongodb::bson::spec::BinarySubtype::Generic, bytes }
}

/// A project whose backups of `mongod` take a while, as long as the proxy is not healed.
async fn slow_project(mongod: &Mongod) -> (Project, FaultProxy) {
    let proxy = FaultProxy::start(mongod.address());
    let project = Project::new(&mongod.uri_through(proxy.address()));
    project.mark();
    fill_slowly(&mongod.oracle().await, &project.database).await;
    proxy.throttle(SLOW);
    (project, proxy)
}

/// The journal's records of backups that have recorded a range.
fn has_recorded_a_range(project: &Project) -> bool {
    project.repository_files().iter().any(|(path, bytes)| {
        path.to_string_lossy().contains("/journals/")
            && path.to_string_lossy().ends_with(".json")
            && String::from_utf8_lossy(bytes).contains("\"event\":\"parts\"")
    })
}

/// Begins a backup and waits until one of its ranges is recorded.
fn caught_in_the_act(project: &Project, arguments: &[&str]) -> Child {
    let mut all = vec!["backup", "create"];
    all.extend(arguments);
    let mut child = project.spawn(&all);
    let deadline = Instant::now() + Duration::from_secs(30);
    while !has_recorded_a_range(project) {
        assert!(child.try_wait().unwrap().is_none(), "the backup was not caught in the act");
        assert!(Instant::now() < deadline, "no range was recorded");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn interrupt(child: Child) -> Ran {
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    Ran::of(child.wait_with_output().unwrap())
}

/// Continues the newest run; a killed one's lease has to run out first.
fn resume(project: &Project, arguments: &[&str]) -> Ran {
    let mut all = vec!["backup", "create", "--resume", "latest", "--json"];
    all.extend(arguments);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let ran = project.run(&all);
        let waits = ran.status == 10
            || ran.stderr.contains("no interrupted backup")
            || ran.stdout.contains("no interrupted backup");
        if !waits || Instant::now() > deadline {
            return ran;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Objects of documents in the repository, with what tells whether they were written again.
fn document_objects(project: &Project) -> BTreeMap<PathBuf, std::time::SystemTime> {
    let paths =
        project.repository_files().into_keys().filter(|path| path.to_string_lossy().ends_with(".bson.zst"));
    paths.map(|path| (path.clone(), std::fs::metadata(&path).unwrap().modified().unwrap())).collect()
}

/// Restores the latest set beside the database and gives the server's hashes of the copy.
async fn restored(project: &Project, client: &mongodb::Client) -> BTreeMap<String, String> {
    let copy = format!("{}_copy", project.database);
    project.run(&["backup", "verify", "latest"]).expect(0);
    let hash = project.plan_restore(&["latest", "--into", &copy]);
    project.apply_restore(&hash).expect(0);
    let hashes = mainstay_testkit::servers::db_hash(client, &copy).await.unwrap();
    client.database(&copy).drop().await.unwrap();
    hashes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_backup_goes_on_at_its_moment() {
    let mongod = shared_mongod();
    let client = mongod.oracle().await;
    let (project, proxy) = slow_project(mongod).await;
    let before = mongod.db_hash(&project.database).await.unwrap();
    kill(caught_in_the_act(&project, &[]));
    let kept = document_objects(&project);
    assert!((1..3).contains(&kept.len()), "{kept:?}");
    // What happens after the moment is not in the set, whenever it is read.
    let large = client.database(&project.database).collection::<Document>("large");
    large.delete_many(doc! { "_id": { "$lt": 1_000 } }).await.unwrap();

    // While its lease lives it may be running; then it is kept for whoever continues it.
    let deadline = Instant::now() + Duration::from_secs(30);
    let resumable = loop {
        let answer = project.json(&["backup", "prune"]);
        assert!(answer["removed"].as_array().unwrap().is_empty(), "{answer}");
        if let Some(run) = answer["resumable"].as_array().unwrap().first() {
            break run.clone();
        }
        assert!(Instant::now() < deadline, "{answer}");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(resumable["total"], 3, "{resumable}");
    project.run(&["backup", "prune"]).expect(0).says("--resume");
    assert_eq!(project.json(&["backup", "list"])["sets"].as_array().unwrap().len(), 0);

    proxy.heal();
    let ran = resume(&project, &[]).expect(0).says("continuing run");
    let answer = ran.json();
    assert_eq!(
        (&answer["resumed"], &answer["consistency"]["kind"]),
        (&Value::from(true), &Value::from("cluster_time"))
    );
    assert_eq!(answer["set"]["id"], resumable["run"]);
    let now = document_objects(&project);
    assert_eq!(now.len(), 3);
    for (path, written) in kept {
        assert_eq!(now[&path], written, "{} was written again", path.display());
    }
    assert_eq!(restored(&project, &client).await, before);
    let journals =
        project.repository_files().into_keys().filter(|path| path.to_string_lossy().contains("/journals/"));
    // The kill may have left a partial file, which is no record.
    let of_backups = journals.filter(|path| {
        let path = path.to_string_lossy();
        path.contains(resumable["run"].as_str().unwrap()) && path.ends_with(".json")
    });
    assert_eq!(of_backups.count(), 0, "the journal of a complete run is removed");
    project.run(&["backup", "create", "--resume", resumable["run"].as_str().unwrap()]).expect(1);
    project.run(&["audit", "verify"]).expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_backup_says_how_to_go_on_and_what_it_kept() {
    let mongod = shared_mongod();
    let client = mongod.oracle().await;
    let (project, proxy) = slow_project(mongod).await;
    let before = mongod.db_hash(&project.database).await.unwrap();
    let ran = interrupt(caught_in_the_act(&project, &[])).expect(75);
    let ran = ran.says("no backup set was made").says("--resume").says("--resumable");
    // The lease was given back: no need to wait.
    let run = ran.stderr.split("--resume ").nth(1).unwrap()[..25].to_owned();
    let dry = project.run(&["backup", "create", "--resume", &run, "--dry-run"]).expect(0);
    dry.says("ranges are complete");
    proxy.heal();
    project.run(&["backup", "create", "--resume", &run]).expect(0).says(&run);
    assert_eq!(restored(&project, &client).await, before);

    // What nobody wants to continue is removed when that is asked for.
    proxy.throttle(SLOW);
    assert!(!has_recorded_a_range(&project), "the journal of the complete run is gone");
    interrupt(caught_in_the_act(&project, &[])).expect(75);
    assert_eq!(project.json(&["backup", "prune", "--dry-run"])["resumable"].as_array().unwrap().len(), 1);
    let pruned = project.json(&["backup", "prune", "--resumable"]);
    assert_eq!(pruned["removed"].as_array().unwrap().len(), 1, "{pruned}");
    project.run(&["backup", "create", "--resume"]).expect(1).says("no interrupted backup");
    project.run(&["backup", "create", "--resume", &run, "--database", "x"]).expect(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_cut_off_for_good_goes_on_and_lost_objects_are_written_again() {
    let mongod = shared_mongod();
    let client = mongod.oracle().await;
    let (project, proxy) = slow_project(mongod).await;
    let before = mongod.db_hash(&project.database).await.unwrap();
    let child = caught_in_the_act(&project, &[]);
    proxy.cut();
    let ran =
        Ran::of(child.wait_with_output().unwrap()).expect(6).says("no backup set was made").says("--resume");
    drop(ran);
    proxy.heal();
    let (lost, _) = document_objects(&project).pop_first().unwrap();
    std::fs::write(&lost, "shorter").unwrap();
    resume(&project, &[]).expect(0).says("is written anew");
    assert_eq!(restored(&project, &client).await, before);
}

/// A server that keeps history of one second, and somebody who writes.
async fn forgetful() -> (Mongod, tokio::task::JoinHandle<()>) {
    let mongod = Mongod::options().parameter("minSnapshotHistoryWindowInSeconds", "1").start().unwrap();
    let ticks = mongod.oracle().await.database("ticks").collection::<Document>("ticks");
    let ticker = tokio::spawn(async move {
        loop {
            ticks.insert_one(doc! {}).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    (mongod, ticker)
}

/// Waits until the server of [`forgetful`] no longer has the history of what was until now.
async fn forgotten(mongod: &Mongod) {
    let ticks = mongod.oracle().await.database("ticks");
    let now = ticks.run_command(doc! { "ping": 1 }).await.unwrap().get("operationTime").cloned().unwrap();
    let read =
        doc! { "find": "ticks", "limit": 1, "readConcern": { "level": "snapshot", "atClusterTime": now } };
    let deadline = Instant::now() + Duration::from_secs(60);
    while ticks.run_command(read.clone()).await.is_ok() {
        assert!(Instant::now() < deadline, "the server remembers what it was told to forget");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let refused = ticks.run_command(read).await.unwrap_err();
    assert!(refused.to_string().contains("SnapshotTooOld"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moment_that_passes_during_the_scan_is_told_and_the_rest_is_read_as_it_is() {
    let (mongod, ticker) = forgetful().await;
    let client = mongod.oracle().await;
    let (project, proxy) = slow_project(&mongod).await;
    let before = mongod.db_hash(&project.database).await.unwrap();
    let strict = project.run(&["backup", "create", "--consistency", "cluster-time"]);
    strict.expect(8).says("SnapshotTooOld").says("minSnapshotHistoryWindowInSeconds");
    let ran = project.run(&["backup", "create", "--json"]).expect(0).says("is read outside the moment");
    assert_eq!(ran.json()["consistency"]["kind"], "cluster_time", "{ran}");
    let shown = project.json(&["backup", "show", "latest"]);
    let contents = shown["set"]["contents"].as_array().unwrap();
    let outside: Vec<_> =
        contents.iter().filter(|record| record["consistency"]["kind"] == "during_scan").collect();
    assert!(
        !outside.is_empty()
            && outside
                .iter()
                .all(|record| record["holds_through"].is_object() || record["holds_through"].is_string()),
        "{shown}"
    );
    project.run(&["backup", "show", "latest"]).expect(0).says("no single moment");
    proxy.heal();
    assert_eq!(restored(&project, &client).await, before);
    // Only the set itself is left of its attempts.
    let pruned = project.json(&["backup", "prune", "--resumable", "--dry-run"]);
    assert!(pruned["removed"].as_array().unwrap().len() <= 1, "{pruned}");
    ticker.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_moment_has_passed_is_refused_without_a_change_log() {
    let (mongod, ticker) = forgetful().await;
    let (project, _proxy) = slow_project(&mongod).await;
    kill(caught_in_the_act(&project, &[]));
    forgotten(&mongod).await;
    let refused = resume(&project, &[]).expect(8);
    refused.says("no longer has the history").says("no change log").says("kept in run");
    ticker.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_moment_has_passed_goes_on_beside_a_change_log() {
    let (mongod, ticker) = forgetful().await;
    let client = mongod.oracle().await;
    let (project, proxy) = slow_project(&mongod).await;
    let before = mongod.db_hash(&project.database).await.unwrap();
    project.run(&["capture", "mongo", "--once"]).expect(0);
    let capture = project.spawn(&["capture", "mongo", "--json", "--slice-age", "200ms"]);
    kill(caught_in_the_act(&project, &[]));
    forgotten(&mongod).await;
    let ran =
        resume(&project, &[]).expect(0).says("continuing run").says("only together with the change log");
    assert_eq!(ran.json()["consistency"]["kind"], "cluster_time");
    let shown = project.json(&["backup", "show", "latest"]);
    let moments: Vec<_> =
        shown["set"]["contents"].as_array().unwrap().iter().map(|it| &it["consistency"]["kind"]).collect();
    assert!(
        moments.contains(&&Value::from("cluster_time")) && moments.contains(&&Value::from("during_scan")),
        "{shown}"
    );
    kill(capture);
    proxy.heal();
    assert_eq!(restored(&project, &client).await, before);
    ticker.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_answers_slowly_is_spared() {
    let mongod = shared_mongod();
    let proxy = FaultProxy::start(mongod.address());
    let project = Project::new(&mongod.uri_through(proxy.address()));
    project.mark();
    fill_slowly(&mongod.oracle().await, &project.database).await;
    proxy.throttle(8_000_000);
    let ran = project.run(&["backup", "create", "--max-impact", "1ms"]).expect(0);
    ran.says("held back");
    proxy.heal();
    project.run(&["backup", "verify", "latest"]).expect(0);
    project.run(&["backup", "create", "--max-impact", "5"]).expect(2).says("20ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn elections_and_dead_members_do_not_end_a_backup() {
    let mut set = ReplicaSet::start(3).unwrap();
    let client = set.oracle().await;
    let project = Project::new(&set.uri());
    // Members are read at their own addresses; what is slow here is the repository, and its lease lives long enough for that.
    project.configure(&set.uri(), "file:./repository", "write_limit = \"10MB\"\n");
    let configuration = std::fs::read_to_string(project.path("mainstay.toml")).unwrap();
    let patient = configuration.replace("lease_ttl = \"2s\"", "lease_ttl = \"20s\"");
    std::fs::write(project.path("mainstay.toml"), patient).unwrap();
    project.mark();
    fill_slowly(&client, &project.database).await;
    // More than a backup holds in memory.
    let huge = client.database(&project.database).collection::<Document>("huge");
    for chunk in 0..8 {
        let batch = (0..2_000).map(|id| doc! { "_id": chunk * 2_000 + id, "noise": noise(id as u32) });
        huge.insert_many(batch).await.unwrap();
    }
    let before = mainstay_testkit::servers::db_hash(&client, &project.database).await.unwrap();

    let child = caught_in_the_act(&project, &["--json"]);
    let read = set.primary().unwrap();
    let command = doc! { "replSetStepDown": 60, "force": true };
    drop(set.member(read).oracle().await.database("admin").run_command(command).await);
    let elected = set.primary().unwrap();
    assert_ne!(read, elected);
    // It is read as a secondary now; then it is gone, and another one is read at the same moment.
    set.member(read).kill9();
    let ran = Ran::of(child.wait_with_output().unwrap()).expect(0).says("from another member");
    assert_eq!(ran.json()["consistency"]["kind"], "cluster_time");
    assert_eq!(restored(&project, &client).await, before);
}
