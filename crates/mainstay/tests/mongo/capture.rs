//! The change log captured by the real binary: killed, locked out, overrun, without its store; and what can be said of it afterwards.

use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStdout, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures::StreamExt as _;
use mainstay_model::{LogPosition, OpTime, StoreKind, SystemClock, Timestamp};
use mainstay_repository::{Chain, Repository, RepositoryOptions};
use mainstay_store::{Location, Store, StoreOptions};
use mainstay_testkit::s3::S3Fault;
use mainstay_testkit::{FaultProxy, Mongod, S3Server};
use mongodb::bson::{Document, RawDocumentBuf, Timestamp as BsonTimestamp, doc};
use serde_json::Value;

use crate::stack::Project;

/// The repository of a project, as a library reads it.
async fn repository(project: &Project) -> Repository {
    let location = Location::directory(project.path("repository"));
    let store = Store::open(&location, &StoreOptions::default()).unwrap();
    Repository::open(store, Arc::new(SystemClock), RepositoryOptions::default()).await.unwrap()
}

async fn chains(repository: &Repository) -> Vec<Chain> {
    let entries = repository.chains(StoreKind::Mongo).await.unwrap();
    entries.into_iter().map(|entry| entry.whole().unwrap()).collect()
}

async fn stored(repository: &Repository, chain: &Chain) -> BytesMut {
    let mut all = BytesMut::new();
    for slice in chain.slices() {
        all.extend_from_slice(&repository.read_slice(chain, slice).await.unwrap());
    }
    all
}

/// What the server has after `after` up to `through`, as its own driver reads it.
async fn oplog(mongod: &Mongod, after: LogPosition, through: LogPosition) -> BytesMut {
    let ts = |at: LogPosition| {
        let OpTime { seconds, increment } = at.optime();
        BsonTimestamp { time: seconds, increment }
    };
    let collection = mongod.oracle().await.database("local").collection::<RawDocumentBuf>("oplog.rs");
    let filter = doc! { "ts": { "$gt": ts(after), "$lte": ts(through) } };
    let mut cursor = collection.find(filter).await.unwrap();
    let mut all = BytesMut::new();
    while let Some(entry) = cursor.next().await {
        all.extend_from_slice(entry.unwrap().as_bytes());
    }
    all
}

/// The server's oldest entry.
async fn oldest(mongod: &Mongod) -> OpTime {
    let collection = mongod.oracle().await.database("local").collection::<Document>("oplog.rs");
    let entry = collection.find_one(doc! {}).sort(doc! { "$natural": 1 }).await.unwrap().unwrap();
    let BsonTimestamp { time, increment } = entry.get_timestamp("ts").unwrap();
    OpTime { seconds: time, increment }
}

/// Inserts, updates and deletes until told to stop; gives how many operations were acknowledged.
fn writer(mongod: &Mongod, database: &str) -> (Arc<AtomicBool>, tokio::task::JoinHandle<u64>) {
    let (stop, uri, database) = (Arc::new(AtomicBool::new(false)), mongod.uri(), database.to_owned());
    let stopped = Arc::clone(&stop);
    let task = tokio::spawn(async move {
        let client = mongodb::Client::with_uri_str(uri).await.unwrap();
        let collection = client.database(&database).collection::<Document>("written");
        let mut count = 0;
        while !stopped.load(Ordering::Relaxed) {
            let id = count as i64;
            let batch: Vec<_> =
                (0..20).map(|n| doc! { "_id": id * 100 + n, "pad": "x".repeat(500) }).collect();
            collection.insert_many(batch).await.unwrap();
            collection.update_one(doc! { "_id": id * 100 }, doc! { "$set": { "seen": true } }).await.unwrap();
            collection.delete_one(doc! { "_id": id * 100 + 1 }).await.unwrap();
            count += 1;
        }
        count * 22
    });
    (stop, task)
}

/// A running capture and its events.
struct Capture {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Capture {
    fn begin(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn of(project: &Project, slice_age: &str) -> Self {
        Self::begin(project.command(&["capture", "mongo", "--json", "--slice-age", slice_age]))
    }

    /// Reads events until one is called `name`.
    fn until(&mut self, name: &str) -> Value {
        loop {
            let line =
                self.lines.next().unwrap_or_else(|| panic!("the output ends before `{name}`")).unwrap();
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["event"] == name {
                return event;
            }
        }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop, and gives its last word and its status.
    fn stop(mut self) -> (Value, i32) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let ended = self.until("ended");
        (ended, self.child.wait().unwrap().code().unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_killed_again_and_again_stores_every_entry_once() {
    let mongod = Mongod::start().unwrap();
    let project = Project::filled(&mongod, 10).await;
    project.run(&["capture", "mongo", "--once"]).expect(0).says("chain");
    let (stop, writing) = writer(&mongod, &project.database);
    for round in 0..4_u64 {
        let mut capture = Capture::of(&project, "200ms");
        capture.until("slice_stored");
        // Somewhere between two slices, or inside one.
        tokio::time::sleep(Duration::from_millis(90 * round + 37)).await;
        capture.kill();
    }
    stop.store(true, Ordering::Relaxed);
    let written = writing.await.unwrap();
    project.run(&["capture", "mongo", "--once"]).expect(0);

    let repository = repository(&project).await;
    let chains = chains(&repository).await;
    assert_eq!(chains.len(), 1, "one chain through all kills");
    let chain = &chains[0];
    assert_eq!((chain.damage(), chain.superseded().len()), (&[][..], 0));
    let (after, end) = (chain.description().after, chain.end());
    assert!(chain.covers(after, end) && written > 1_000);
    let (stored, expected) = (stored(&repository, chain).await, oplog(&mongod, after, end).await);
    assert!(stored == expected, "{} bytes are stored, the server has {}", stored.len(), expected.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_recoverable_soon_and_a_stop_is_no_failure() {
    let mongod = Mongod::start().unwrap();
    let project = Project::filled(&mongod, 10).await;
    let (stop, writing) = writer(&mongod, &project.database);
    let mut capture = Capture::of(&project, "1s");
    capture.until("slice_stored");
    project.run(&["capture", "mongo", "--once"]).expect(10).says("another capture follows this server's log");

    let mut oldest = 0;
    for _ in 0..4 {
        let event = capture.until("slice_stored");
        let held = event["held_ms"].as_u64().unwrap();
        let through: OpTime = event["through"].as_str().unwrap().parse().unwrap();
        let at: Timestamp = event["at"].as_str().unwrap().parse().unwrap();
        assert!(event["entries"].as_u64().unwrap() > 0);
        oldest = oldest.max(held);
        assert!(through.age_seconds(at) <= 2, "{event}");
    }
    assert!(oldest <= 2_000, "an entry waited {oldest} ms, with a slice age of one second");
    stop.store(true, Ordering::Relaxed);
    writing.await.unwrap();
    let (ended, status) = capture.stop();
    assert_eq!(status, 0);
    let repository = repository(&project).await;
    let end = chains(&repository).await[0].end().optime().to_string();
    assert_eq!(ended["recovery_point"], end.as_str(), "what is told is stored");
    project.run(&["audit", "list"]).expect(0).says("capture.mongo");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overwritten_log_begins_a_new_chain_and_the_gap_is_shown() {
    // The server keeps what its last checkpoint needs, and makes one a second.
    let mongod = Mongod::options().oplog_mb(4).argument("--syncdelay").argument("1").start().unwrap();
    let project = Project::filled(&mongod, 10).await;
    project.run(&["capture", "mongo", "--once"]).expect(0);
    let first_set = project.back_up();
    project.run(&["capture", "mongo", "--once"]).expect(0);
    let client = mongod.oracle().await;
    let collection = client.database(&project.database).collection::<Document>("big");
    let deadline = Instant::now() + Duration::from_secs(60);
    let end = chains(&repository(&project).await).await[0].end();
    let mut number = 0;
    while oldest(&mongod).await <= end.optime() {
        let pad = "y".repeat(1 << 18);
        collection.insert_many((0..8).map(|n| doc! { "_id": number + n, "pad": &pad })).await.unwrap();
        number += 8;
        assert!(Instant::now() < deadline, "the oplog is overwritten within a minute");
    }
    project.run(&["capture", "mongo", "--once"]).expect(0).says("was overwritten before it was captured");
    collection.insert_one(doc! { "_id": "after" }).await.unwrap();
    project.run(&["capture", "mongo", "--once"]).expect(0).says("goes on after");
    let listed = project.json(&["backup", "list"]);
    let log = &listed["log"][0];
    assert_eq!(
        (log["gaps"].as_array().unwrap().len(), log["ranges"].as_array().unwrap().len()),
        (1, 1),
        "{log}"
    );
    assert_eq!(log["ranges"][0]["set"], first_set.as_str());
    assert_eq!(log["without_set"].as_array().unwrap().len(), 1, "{log}");
    project.run(&["backup", "list"]).expect(0).says("gap").says("restorable").says("overwritten");
    project.run(&["backup", "verify", "--log"]).expect(0).says("change log in chain");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_for_a_while_is_waited_for() {
    let (mongod, s3) = (Mongod::start().unwrap(), S3Server::start());
    let project = Project::new(&mongod.uri());
    let section = format!(
        "\n[repository.s3]\nendpoint = \"{}\"\nregion = \"{}\"\naccess_key_id = \"{}\"\nallow_http = true\n",
        s3.endpoint(),
        s3.region(),
        s3.access_key()
    );
    project.configure(&mongod.uri(), &format!("s3://{}/log", s3.bucket()), &section);
    let command = |arguments: &[&str]| {
        let mut command = project.command(arguments);
        command.env("MAINSTAY_S3_SECRET_ACCESS_KEY", s3.secret_key());
        command
    };
    let (stop, writing) = writer(&mongod, &project.database);
    let mut capture = Capture::begin(command(&["capture", "mongo", "--json", "--slice-age", "200ms"]));
    let before = capture.until("slice_stored");
    s3.set_fault(S3Fault::Failing);
    let waiting = capture.until("waiting");
    assert!(waiting["recovery_point"].is_string(), "{waiting}");
    s3.set_fault(S3Fault::None);
    capture.until("slice_stored");
    stop.store(true, Ordering::Relaxed);
    writing.await.unwrap();
    let (ended, status) = capture.stop();
    assert_eq!(status, 0);
    assert_eq!(ended["chain"], before["chain"], "the same chain");
    let listed = command(&["backup", "list", "--json"]).output().unwrap();
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed["log"][0]["gaps"].as_array().unwrap().len(), 0, "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_told_and_so_is_its_return() {
    let mongod = Mongod::start().unwrap();
    let proxy = FaultProxy::start(mongod.address());
    let project = Project::new(&format!("mongodb://{}/?directConnection=true", proxy.address()));
    let (stop, writing) = writer(&mongod, &project.database);
    let mut capture = Capture::of(&project, "200ms");
    capture.until("slice_stored");
    proxy.cut();
    let waiting = capture.until("waiting");
    assert!(waiting["message"].as_str().unwrap().contains("does not answer"), "{waiting}");
    assert!(waiting["recovery_point_age_seconds"].is_number(), "{waiting}");
    proxy.heal();
    let back = capture.until("server_back");
    assert!(back["away_ms"].as_u64().unwrap() >= 3_000, "{back}");
    capture.until("slice_stored");
    stop.store(true, Ordering::Relaxed);
    writing.await.unwrap();
    assert_eq!(capture.stop().1, 0);
    assert_eq!(chains(&repository(&project).await).await.len(), 1, "one chain, without a gap");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_moment_before_an_accident_is_found_and_damage_is_told() {
    let mongod = Mongod::start().unwrap();
    let project = Project::filled(&mongod, 50).await;
    project.run(&["capture", "mongo", "--once"]).expect(0);
    project.back_up();
    let client = mongod.oracle().await;
    let database = client.database(&project.database);
    database.collection::<Document>("orders").delete_many(doc! { "number": { "$lt": 10 } }).await.unwrap();
    for command in [
        doc! { "create": "prices", "timeseries": { "timeField": "at" } },
        doc! { "create": "cheap", "viewOn": "orders", "pipeline": [] },
        doc! { "drop": "prices" },
        doc! { "drop": "cheap" },
    ] {
        database.run_command(command).await.unwrap();
    }
    database.collection::<Document>("users").drop().await.unwrap();
    project.run(&["capture", "mongo", "--once"]).expect(0);

    for name in ["prices", "cheap"] {
        let namespace = format!("{}.{name}", project.database);
        let found = project.json(&["backup", "log", "--namespace", &namespace])["found"].clone();
        let told: Vec<_> = found.as_array().unwrap().iter().map(|it| &it["kind"]).collect();
        assert_eq!(told, ["drop"], "{found}");
    }
    let found = project.json(&["backup", "log", "--namespace", &project.database]);
    let found = found["found"].as_array().unwrap();
    let drop = found.iter().rfind(|it| it["kind"] == "drop").unwrap();
    assert_eq!(drop["namespace"], format!("{}.users", project.database));
    let deletes: u64 =
        found.iter().filter(|it| it["kind"] == "delete").map(|it| it["count"].as_u64().unwrap()).sum();
    assert_eq!(deletes, 10);
    let at = drop["at"].as_str().unwrap();
    project.run(&["backup", "log", "--since", at]).expect(0).says(&format!("restore plan --before {at}"));
    project.run(&["backup", "log", "--namespace", "nothing.here"]).expect(0).says("nothing was destroyed");
    project.run(&["backup", "verify"]).expect(0).says("change log in chain");

    let repository = repository(&project).await;
    // A set that is known to be damaged leads to no moment, neither in the list nor in a plan.
    let set = project.json(&["backup", "list"])["sets"][0]["id"].as_str().unwrap().to_owned();
    let object = std::fs::read_dir(project.path("repository/mongo/sets").join(set).join(&project.database));
    let object = object.unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
    let whole = std::fs::read(&object).unwrap();
    std::fs::write(&object, &whole[1..]).unwrap();
    project.run(&["backup", "verify"]).expect(4);
    let ranges =
        |status| project.run(&["backup", "list", "--json"]).expect(status).json()["log"][0]["ranges"].clone();
    assert_eq!(ranges(4), serde_json::json!([]));
    project.run(&["restore", "plan", "--to", "latest"]).expect(8).says("no moment can be restored");
    std::fs::write(&object, &whole).unwrap();
    project.run(&["backup", "verify"]).expect(0);
    assert_eq!(ranges(0).as_array().unwrap().len(), 1);

    // A flipped byte, then a missing slice.
    let chain = chains(&repository).await.remove(0);
    let path = project.path("repository").join(chain.key(&chain.slices()[0]).unwrap().as_str());
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    project.run(&["backup", "verify", "--log"]).expect(4).says(&chain.slices()[0].name());

    // The age of the recovery point, and a chain of which nobody knows whose it is.
    let point = chain.end().optime().to_string();
    project.run(&["status"]).expect(4).says("change log of mongo in tests").says(&point).says("is DAMAGED");
    let id = chain.id().to_string();
    let folder = path.parent().unwrap();
    std::fs::write(folder.join("chain.json"), "{}").unwrap();
    let listed = project.run(&["backup", "list"]).expect(4).says("is DAMAGED");
    assert!(listed.stdout.contains(&id), "{listed}");
    let searched = project.run(&["backup", "log"]).expect(4).says("is DAMAGED").says("is not known");
    assert!(searched.stdout.contains(&id), "{searched}");
    project.run(&["capture", "mongo", "--once"]).expect(0);
    let verified = project.run(&["backup", "verify", "--log", "--json"]).expect(4).json();
    let logs = verified["log"].as_array().unwrap();
    assert_eq!(
        (&logs[0]["chain_id"], &logs[0]["sound"], &logs[1]["sound"]),
        (&id.into(), &false.into(), &true.into())
    );
}
