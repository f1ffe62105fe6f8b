//! Restores to a moment, as a user runs them: a random history whose every state is known, the accident that somebody takes back, and
//! everything that may go wrong on the way.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use mainstay_testkit::Mongod;
use mainstay_testkit::history::{History, Moment, Position, Random, differences};
use mongodb::bson::{Document, doc};
use rustix::process::{Pid, Signal};

use crate::stack::{Project, Ran};

/// A capture in the background, for as long as it lives.
struct Capture(Child);

impl Capture {
    fn begin(project: &Project) -> Self {
        let mut command = project.command(&["capture", "mongo", "--slice-age", "300ms", "--quiet"]);
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Asks it to end, and makes sure that everything written until now is stored.
    fn end(mut self, project: &Project) {
        signal(&self.0, Signal::TERM);
        assert!(self.0.wait().unwrap().success());
        project.run(&["capture", "mongo", "--once"]).expect(0);
    }
}

/// A test that fails leaves no capture behind.
impl Drop for Capture {
    fn drop(&mut self) {
        // One that has ended is no error.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn signal(child: &Child, signal: Signal) {
    rustix::process::kill_process(Pid::from_child(child), signal).unwrap();
}

/// A mongod with a random history: acts before, during and after two backups, all captured.
struct Story {
    seed: u64,
    mongod: Mongod,
    project: Project,
    history: History,
    /// The earliest moment that can be restored.
    settled: Position,
}

impl Story {
    async fn tell(seed: u64, acts: usize) -> Self {
        let mongod = Mongod::start().unwrap();
        let project = Project::new(&mongod.uri());
        project.mark();
        let mut history = History::begin(mongod.oracle().await, &project.database, seed).await;
        history.acts(acts / 4).await;
        // A set can be brought forward when the log was captured from before it on.
        project.run(&["capture", "mongo", "--once"]).expect(0);
        let capture = Capture::begin(&project);
        let mut settled = None;
        for _ in 0..2 {
            back_up(&project, &mut history).await;
            let set = project.json(&["backup", "show"]);
            settled.get_or_insert_with(|| position(set["set"]["settled"].as_str().unwrap()));
            history.acts(acts / 4).await;
        }
        history.acts(acts / 4).await;
        capture.end(&project);
        Self { seed, mongod, project, history, settled: settled.unwrap() }
    }

    /// The moments that can be restored.
    fn moments(&self) -> Vec<&Moment> {
        self.history.moments().iter().filter(|moment| moment.at >= self.settled).collect()
    }

    /// Restores `moment` into a database of its own, compares, and drops it.
    async fn prove(&self, moment: &Moment) {
        let copy = format!("{}_copy", self.project.database);
        let at = moment.at.to_string();
        let hash = self.project.plan_restore(&["--to", &at, "--into", &copy]);
        let ran = self.project.run(&["restore", "apply", "plan.json", "--approve", &hash, "--json"]);
        let context =
            format!("after `{}` at {at} (MAINSTAY_SEED={} repeats it): {ran}", moment.act, self.seed);
        assert_eq!(ran.status, 0, "{context}");
        assert_eq!(ran.json()["proven"], true, "{context}");
        let client = self.mongod.oracle().await;
        let found = differences(&client, &copy, &moment.state).await;
        assert!(found.is_empty(), "{found:#?}\n{context}");
        client.database(&copy).drop().await.unwrap();
    }
}

/// Takes a backup while the history goes on. One that a change of definitions has cut short is taken again.
async fn back_up(project: &Project, history: &mut History) {
    let mut said = String::new();
    for _ in 0..5 {
        let mut backup = project.spawn(&["backup", "create", "--store", "mongo"]);
        while backup.try_wait().unwrap().is_none() {
            history.act().await;
        }
        let ended = backup.wait_with_output().unwrap();
        if ended.status.success() {
            return;
        }
        said = String::from_utf8_lossy(&ended.stderr).into_owned();
    }
    panic!("no backup succeeded; the last said: {said}");
}

fn position(text: &str) -> Position {
    let (seconds, increment) = text.split_once(':').unwrap();
    Position { seconds: seconds.parse().unwrap(), increment: increment.parse().unwrap() }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_moment_of_a_random_history_comes_back() {
    let seed = std::env::var("MAINSTAY_SEED").map_or(20_261_125, |seed| seed.parse().unwrap());
    let story = Story::tell(seed, 400).await;
    let (mut random, moments) = (Random::new(seed), story.moments());
    let definitions: Vec<&Moment> = moments.iter().copied().filter(|moment| moment.is_definition).collect();
    for _ in 0..4 {
        story.prove(random.pick(&moments)).await;
        story.prove(random.pick(&definitions)).await;
    }
    story.prove(moments.last().unwrap()).await;
}

/// The worked example of the manual.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_collection_comes_back_as_it_was_just_before() {
    let mut story = Story::tell(7, 120).await;
    let lost = story.history.drop_largest().await;
    let [.., before, drop] = story.history.moments() else { panic!("two moments") };
    let (before, at) = (before.clone(), drop.at.to_string());
    story.history.acts(20).await;
    let project = &story.project;
    project.run(&["capture", "mongo", "--once"]).expect(0);

    let namespace = format!("{}.{lost}", project.database);
    project.run(&["backup", "log", "--namespace", &namespace]).expect(0).says(&at).says("--before");
    let copy = format!("{}_copy", project.database);
    let plan =
        project.run(&["restore", "plan", "--before", &at, "--collection", &namespace, "--into", &copy]);
    plan.expect(0).says("just before").says(&lost);
    let hash = project.plan_restore(&["--before", &at, "--collection", &namespace, "--into", &copy]);
    project.apply_restore(&hash).expect(0).says("digest equal").says("moment");
    let client = story.mongod.oracle().await;
    let restored = client.database(&copy).collection::<Document>(&lost);
    assert_eq!(restored.count_documents(doc! {}).await.unwrap() as usize, before.state.documents_of(&lost));
    client.database(&copy).drop().await.unwrap();

    // The same in place: what was made since stays, and the plan says so.
    project.run(&["restore", "plan", "--to", "latest", "--merge"]).expect(8).says("cannot be merged");
    let kept = client.database(&project.database).collection::<Document>("made since");
    kept.insert_one(doc! { "_id": 1 }).await.unwrap();
    project
        .run(&["restore", "plan", "--before", &at, "--drop"])
        .expect(0)
        .says("made since")
        .says("stays as it is");
    let hash = project.plan_restore(&["--before", &at, "--drop"]);
    project.apply_restore(&hash).expect(0);
    assert_eq!(kept.count_documents(doc! {}).await.unwrap(), 1);
    let again = client.database(&project.database).collection::<Document>(&lost);
    assert_eq!(again.count_documents(doc! {}).await.unwrap() as usize, before.state.documents_of(&lost));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moment_out_of_reach_is_refused_with_what_can_be_had() {
    let story = Story::tell(11, 40).await;
    let project = &story.project;
    let first = story.settled.to_string();
    project.run(&["restore", "plan", "--to", "1500000000:1"]).expect(8).says(&first).says("recoverable");
    project.run(&["restore", "plan", "--to", "1h ago"]).expect(8).says("the earliest moment");
    project
        .run(&["restore", "plan", "--to", "2100-01-01T00:00:00Z"])
        .expect(8)
        .says("the log ends at")
        .says("--to latest");
    project.run(&["restore", "plan", "--to", "yesterday"]).expect(2).says("expected a time");
    project.run(&["restore", "plan", "--before", "latest"]).expect(2);
}

/// The slices that hold something after `settled` up to `end`, oldest first.
fn slices(project: &Project, settled: Position, end: Position) -> Vec<PathBuf> {
    let hexadecimal = |at: Position| format!("{:08x}{:08x}", at.seconds, at.increment);
    let (settled, end) = (hexadecimal(settled), hexadecimal(end));
    let files = project.repository_files().into_keys();
    let holds = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let mut range = name.split('-');
        name.contains(".oplog.") && range.next() < Some(end.as_str()) && range.next() > Some(settled.as_str())
    };
    files.filter(holds).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_is_refused_before_anything_is_written() {
    let story = Story::tell(13, 80).await;
    let project = &story.project;
    let copy = format!("{}_copy", project.database);
    let last = story.moments().last().unwrap().at;
    let end = last.to_string();
    // From the older set on, so that there is a log to damage.
    let sets = project.json(&["backup", "list"]);
    let oldest =
        sets["sets"].as_array().unwrap().iter().map(|set| set["id"].as_str().unwrap()).min().unwrap();
    let hash = project.plan_restore(&[oldest, "--to", &end, "--into", &copy]);
    let slices = slices(project, story.settled, last);
    let damaged = &slices[slices.len() / 2];
    let name = damaged.file_name().unwrap().to_string_lossy().into_owned();
    let whole = std::fs::read(damaged).unwrap();
    let client = story.mongod.oracle().await;
    let untouched = async || !client.list_database_names().await.unwrap().contains(&copy);

    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 0x04;
    std::fs::write(damaged, &flipped).unwrap();
    project.apply_restore(&hash).expect(4).says(&name).says("nothing was changed");
    assert!(untouched().await);
    std::fs::remove_file(damaged).unwrap();
    project.apply_restore(&hash).expect(4).says("no slice").says("nothing was changed");
    assert!(untouched().await);
    project.run(&["restore", "plan", oldest, "--to", &end, "--into", &copy]).expect(8).says("restored");
    std::fs::write(damaged, &whole).unwrap();
    project.apply_restore(&hash).expect(0);
    assert!(!untouched().await);
}

/// The server is lost; another one, which the repository has never seen, gets what it held.
#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_server_gets_the_last_moment_of_a_lost_one() {
    let mut story = Story::tell(17, 60).await;
    let last = story.moments().last().map(|moment| (*moment).clone()).unwrap();
    story.mongod.kill9();
    let fresh = Mongod::start().unwrap();
    let project = &story.project;
    project.configure(&fresh.uri(), "file:./repository", "");
    project.mark();
    let hash = project.plan_restore(&["--to", "latest"]);
    project.apply_restore(&hash).expect(0).says("moment");
    let found = differences(&fresh.oracle().await, &project.database, &last.state).await;
    assert!(found.is_empty(), "{found:#?}");
}

/// Applies `plan.json`, and stops it `delay` after it has said that `phase` begins. Gives whether it was stopped, and not faster.
fn stopped_in(project: &Project, hash: &str, phase: &str, delay: Duration, signal: Signal) -> bool {
    loop {
        let mut child = project.spawn(&["restore", "apply", "plan.json", "--approve", hash]);
        let said = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let said: Vec<String> = until_said(said, phase);
        if said.last().is_some_and(|last| last == phase) {
            std::thread::sleep(delay);
            self::signal(&child, signal);
        }
        match child.wait().unwrap().code() {
            None if signal == Signal::KILL => return true,
            Some(75) if signal == Signal::INT => return true,
            Some(0) => return false,
            // The lease of the killed run has not run out yet.
            Some(10) => {}
            other => panic!("{other:?} in {phase}: {said:?}"),
        }
    }
}

/// The lines up to `last`, or all.
fn until_said(lines: impl Iterator<Item = String>, last: &str) -> Vec<String> {
    let mut said = Vec::new();
    for line in lines {
        said.push(line);
        if said.last().is_some_and(|line| line == last) {
            break;
        }
    }
    said
}

/// Runs until no lease is in the way.
fn until_free(run: impl Fn() -> Ran) -> Ran {
    loop {
        let ran = run();
        if ran.status != 10 {
            return ran;
        }
    }
}

/// Stops restores in every phase, by a kill or a Ctrl-C: each name shows the old or the new, and in the end all are the moment.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_restore_to_a_moment_continues() {
    let mongod = Mongod::start().unwrap();
    let project = Project::filled(&mongod, 12_000).await;
    project.run(&["capture", "mongo", "--once"]).expect(0);
    project.back_up();
    let client = mongod.oracle().await;
    let database = client.database(&project.database);
    let users = database.collection::<Document>("users");
    for round in 0..3 {
        users
            .update_many(doc! { "number": { "$mod": [3, round] } }, doc! { "$inc": { "number": 1_000_000 } })
            .await
            .unwrap();
        let orders = database.collection::<Document>("orders");
        let batch: Vec<Document> =
            (0..4_000).map(|n| doc! { "_id": format!("{round} {n}"), "pad": "x".repeat(300) }).collect();
        orders.insert_many(batch).await.unwrap();
        orders.delete_many(doc! { "number": { "$mod": [7, round] } }).await.unwrap();
    }
    let new = mongod.db_hash(&project.database).await.unwrap();
    project.run(&["capture", "mongo", "--once"]).expect(0);
    for name in ["users", "orders", "día.de ño"] {
        let collection = database.collection::<Document>(name);
        collection.update_many(doc! {}, doc! { "$set": { "spoiled": true } }).await.unwrap();
    }
    let old = mongod.db_hash(&project.database).await.unwrap();
    let hash = project.plan_restore(&["--to", "latest", "--drop"]);
    for (phase, delay, signal) in [
        ("load", 0, Signal::KILL),
        ("load", 60, Signal::INT),
        ("replay", 0, Signal::KILL),
        ("replay", 60, Signal::KILL),
        ("replay", 30, Signal::INT),
        ("prove", 0, Signal::KILL),
        ("indexes", 0, Signal::INT),
        ("indexes", 20, Signal::KILL),
        ("put in place", 0, Signal::KILL),
    ] {
        if !stopped_in(&project, &hash, phase, Duration::from_millis(delay), signal) {
            break;
        }
        let now = mongod.db_hash(&project.database).await.unwrap();
        let data =
            now.iter().filter(|(name, _)| !name.starts_with("mainstay.restore.") && *name != "system.views");
        for (name, hash) in data {
            assert!(*hash == old[name] || *hash == new[name], "{name}, stopped in {phase} after {delay} ms");
        }
    }
    let ran = until_free(|| project.apply_restore(&hash));
    // The last one may have been killed when all was done.
    assert!(ran.status == 0 || ran.status == 9 && ran.stderr.contains("applied already"), "{ran}");
    assert_eq!(mongod.db_hash(&project.database).await.unwrap(), new);
    project.run(&["audit", "verify"]).expect(0);
}
