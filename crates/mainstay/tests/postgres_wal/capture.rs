//! Capture: killed, locked out, cut off, without its store, without its slot.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mainstay_model::{LogPosition, Lsn, Timestamp};
use mainstay_repository::{Chain, Repository};
use mainstay_testkit::engines::{EngineKind, locate};
use mainstay_testkit::s3::S3Fault;
use mainstay_testkit::{FaultProxy, Postgres, S3Server};
use serde_json::json;

use crate::stack::{Capture, Stack, lsn, segment_name, wait_for};

const SEGMENT_BYTES: u64 = 16 << 20;

/// A client that writes until told to stop.
struct Writer<'a> {
    server: &'a Postgres,
    client: Child,
}

impl<'a> Writer<'a> {
    fn begin(server: &'a Postgres) -> Self {
        server
            .execute("postgres", "CREATE TABLE written (n serial, pad text); CREATE TABLE stop ()")
            .unwrap();
        let write = "DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM stop) AND clock_timestamp() < now() + interval '60 s' LOOP \
                     INSERT INTO written (pad) SELECT md5(i::text) FROM generate_series(1, 200) AS i; COMMIT; \
                     PERFORM pg_sleep(0.005); END LOOP; END $$";
        let psql = locate(EngineKind::PgClient).unwrap().tool("psql");
        let client =
            Command::new(psql).args(["--no-psqlrc", "--quiet", "--command", write, &server.uri()]).spawn();
        Self { server, client: client.unwrap() }
    }

    fn end(mut self) {
        self.server.execute("postgres", "INSERT INTO stop DEFAULT VALUES").unwrap();
        assert!(self.client.wait().unwrap().success());
    }
}

pub(crate) async fn stored(repository: &Repository, chain: &Chain) -> Vec<u8> {
    let mut all = Vec::new();
    for slice in chain.slices() {
        all.extend_from_slice(&repository.read_slice(chain, slice).await.unwrap());
    }
    all
}

/// What lies in the server's own segments of timeline 1 from `from` to `through`.
pub(crate) fn on_disk(server: &Postgres, from: LogPosition, through: LogPosition) -> Vec<u8> {
    let mut all = Vec::new();
    for number in from.0 / SEGMENT_BYTES..=(through.0 - 1) / SEGMENT_BYTES {
        let name = format!("00000001{:08X}{:08X}", number / 256, number % 256);
        let bytes = fs::read(server.dir().join("data/pg_wal").join(name)).unwrap();
        let begin = number * SEGMENT_BYTES;
        let within =
            |position: u64| usize::try_from(position.clamp(begin, begin + SEGMENT_BYTES) - begin).unwrap();
        all.extend_from_slice(&bytes[within(from.0)..within(through.0)]);
    }
    all
}

fn slot(server: &Postgres) -> LogPosition {
    let query = "SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'mainstay_tests'";
    lsn(&server.texts("postgres", query)[0])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_killed_again_and_again_stores_every_byte_once() {
    let stack = Stack::start();
    stack.catch_up().says("replication slot mainstay_tests").says("capture began");
    let writer = Writer::begin(&stack.server);
    for round in 0..5_u64 {
        let mut capture = Capture::of(&stack, "150ms");
        capture.until("slice_stored");
        // Somewhere between two slices, or inside one.
        thread::sleep(Duration::from_millis(70 * round + 23));
        capture.kill();
        let (_, chains) = stack.chains().await;
        let (kept_from, end) = (slot(&stack.server), chains[0].end());
        assert!(kept_from <= end, "the server may forget what comes before {kept_from}, stored is {end}");
    }
    writer.end();
    stack.catch_up().says("goes on at");

    let (repository, chains) = stack.chains().await;
    assert_eq!(chains.len(), 1, "one chain through all kills");
    let chain = &chains[0];
    assert_eq!((chain.damage(), chain.superseded().len()), (&[][..], 0));
    let (after, end) = (chain.description().after, chain.end());
    assert!(chain.covers(after, end) && after.0.is_multiple_of(SEGMENT_BYTES), "{after}");
    let (stored, expected) = (stored(&repository, chain).await, on_disk(&stack.server, after, end));
    assert!(stored.len() > 1_000_000 && stored == expected, "{} bytes of {}", stored.len(), expected.len());

    // The server's own segment is given back byte for byte, the last one with zeros behind the end.
    let name = format!("0000000100000000{:08X}", after.0 / SEGMENT_BYTES);
    stack.run(&["wal", "fetch", &name, "fetched"]).expect(0);
    let whole = after.0 + SEGMENT_BYTES <= end.0;
    let fetched = fs::read(stack.path("fetched")).unwrap();
    let known = if whole { SEGMENT_BYTES } else { end.0 - after.0 };
    let known = usize::try_from(known).unwrap();
    assert_eq!(fetched.len() as u64, SEGMENT_BYTES);
    assert!(fetched[..known] == expected[..known] && fetched[known..].iter().all(|byte| *byte == 0));
    // What was never captured is not there; what cannot be asked for is not taken for that.
    stack.run(&["wal", "fetch", "0000000100000000000000FF", "other"]).expect(1).says("was not captured");
    stack.run(&["wal", "fetch", "00000002.history", "other"]).expect(1);
    stack.run(&["wal", "fetch", &name]).expect(202);
    stack.run(&["wal", "fetch", &name, "no/such/folder"]).expect(201);
    assert!(!stack.path("other").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_recoverable_soon_and_a_stop_is_no_failure() {
    let stack = Stack::start();
    let writer = Writer::begin(&stack.server);
    let mut capture = Capture::of(&stack, "1s");
    capture.until("slice_stored");
    stack
        .run(&["capture", "postgres", "--once"])
        .expect(10)
        .says("another capture follows this server's log");
    let mut oldest = 0;
    for _ in 0..4 {
        let event = capture.until("slice_stored");
        assert!(event["at"].as_str().unwrap().parse::<Timestamp>().is_ok());
        oldest = oldest.max(event["held_ms"].as_u64().unwrap());
    }
    assert!(oldest <= 2_000, "a byte waited {oldest} ms, with a slice age of one second");
    writer.end();
    let (ended, status) = capture.stop();
    assert_eq!(status, 0);
    let (_, chains) = stack.chains().await;
    let end = Lsn(chains[0].end().0);
    assert_eq!(ended["recovery_point"], json!(end), "what is told is stored");
    assert!(ended["held_ms_max"].as_u64().unwrap() <= 2_000 && ended["complete_at"].is_string(), "{ended}");
    assert_eq!(slot(&stack.server), end.into(), "and the server need not keep it");
    stack.run(&["audit", "list"]).expect(0).says("capture.postgres");
    stack.run(&["status"]).expect(0).says(&end.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_slow_and_then_fails_for_a_while_is_caught_up_with() {
    let (mut stack, s3) = (Stack::start(), S3Server::start());
    stack.configure_s3(&s3, "l");
    let writer = Writer::begin(&stack.server);
    let mut capture = Capture::of(&stack, "200ms");
    let before = capture.until("slice_stored");
    // Slow: slices are put one after another, and each waits for the one before.
    s3.set_fault(S3Fault::Slow(Duration::from_millis(700)));
    let slow = (0..3).map(|_| capture.until("slice_stored")["held_ms"].as_u64().unwrap()).max().unwrap();
    assert!(slow >= 700, "{slow} ms");
    // Down: it stays connected meanwhile, and the server keeps what is not stored.
    s3.set_fault(S3Fault::Failing);
    let position = || lsn(&stack.server.texts("postgres", "SELECT pg_current_wal_flush_lsn()")[0]);
    let down_at = position();
    for _ in 0..3 {
        assert!(capture.until("waiting")["recovery_point"].is_string());
    }
    // More than it holds in memory comes meanwhile.
    stack.execute(
        "INSERT INTO written (pad) SELECT repeat(md5(i::text), 30) FROM generate_series(1, 40000) AS i",
    );
    wait_for("more is written than memory holds", || position().0 - down_at.0 > 40 << 20);
    let active = "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'mainstay'";
    assert_eq!(stack.server.texts("postgres", active), ["1"]);
    assert!(slot(&stack.server) <= down_at, "nothing was acknowledged that is not stored");
    s3.set_fault(S3Fault::None);
    capture.until_stored(&Lsn(position().0).to_string());
    // And then it is as quick as before.
    let held = (0..4).map(|_| capture.until("slice_stored")["held_ms"].as_u64().unwrap()).last().unwrap();
    assert!(held <= 1_200, "a byte waited {held} ms, with a slice age of 200 ms");
    writer.end();
    let (ended, status) = capture.stop();
    assert_eq!((status, &ended["chain"]), (0, &before["chain"]), "the same chain");
    let listed = stack.json(&["backup", "list"]);
    assert_eq!(listed["wal"][0]["timelines"][0]["gaps"], json!([]), "{listed}");
    let first = ended["recovery_point"].as_str().unwrap();
    let number = down_at.0 / SEGMENT_BYTES;
    assert!(lsn(first).0 >= (number + 1) * SEGMENT_BYTES, "{first}");
    stack.run(&["wal", "fetch", &segment_name(1, number), "fetched"]).expect(0);
    let (from, through) = (LogPosition(number * SEGMENT_BYTES), LogPosition((number + 1) * SEGMENT_BYTES));
    assert!(fs::read(stack.path("fetched")).unwrap() == on_disk(&stack.server, from, through));
}

/// Where the server's log was when, as far as somebody looked.
struct Sampler {
    samples: Arc<Mutex<Vec<(Instant, LogPosition)>>>,
    stopped: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Sampler {
    fn begin(server: &Postgres) -> Self {
        let (samples, stopped) = (Arc::<Mutex<Vec<_>>>::default(), Arc::new(AtomicBool::new(false)));
        let psql = locate(EngineKind::PgClient).unwrap().tool("psql");
        let look = "SELECT pg_current_wal_flush_lsn() FROM pg_sleep(0.02)";
        let (uri, into, stop) = (server.uri(), Arc::clone(&samples), Arc::clone(&stopped));
        let thread = thread::spawn(move || {
            let mut client = Command::new(psql)
                .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", &uri])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let (mut ask, answers) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
            let mut answers = BufReader::new(answers).lines();
            while !stop.load(Ordering::Relaxed) {
                writeln!(ask, "{look};").unwrap();
                let position = lsn(&answers.next().unwrap().unwrap());
                into.lock().unwrap().push((Instant::now(), position));
            }
            drop(ask);
            client.wait().unwrap();
        });
        Self { samples, stopped, thread }
    }

    /// How long ago the server was seen to be past `position` for the first time; nothing when it was not.
    fn age(&self, position: LogPosition) -> Duration {
        let samples = self.samples.lock().unwrap();
        let index = samples.partition_point(|(_, seen)| *seen <= position);
        samples.get(index).map_or(Duration::ZERO, |(at, _)| at.elapsed())
    }

    fn end(self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recovery_point_is_no_older_than_a_slice_and_a_second() {
    let stack = Stack::start();
    let writer = Writer::begin(&stack.server);
    let mut capture = Capture::of(&stack, "1s");
    let mut stored = lsn(capture.until("slice_stored")["through"].as_str().unwrap());
    let sampler = Sampler::begin(&stack.server);
    let mut oldest = Duration::ZERO;
    for _ in 0..5 {
        // Right before a slice is stored the recovery point is oldest: what came behind the one before is missing.
        let event = capture.until("slice_stored");
        oldest = oldest.max(sampler.age(stored));
        stored = lsn(event["through"].as_str().unwrap());
    }
    assert!(
        oldest > Duration::from_millis(500) && oldest <= Duration::from_secs(2),
        "the recovery point became {oldest:?} old, with a slice age of one second"
    );
    sampler.end();
    writer.end();
    assert_eq!(capture.stop().1, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_is_made_again() {
    let stack = Stack::start();
    let proxy = FaultProxy::start(stack.server.address());
    stack.configure(&stack.server.uri_through(proxy.address(), "postgres"));
    let writer = Writer::begin(&stack.server);
    let mut capture = Capture::of(&stack, "200ms");
    capture.until("slice_stored");
    proxy.cut();
    let waiting = capture.until("waiting");
    assert!(waiting["recovery_point"].is_string() && waiting["pause_ms"].is_number(), "{waiting}");
    proxy.heal();
    capture.until("chain_resumed");
    capture.until("slice_stored");
    writer.end();
    assert_eq!(capture.stop().1, 0);
    let (_, chains) = stack.chains().await;
    assert_eq!((chains.len(), chains[0].damage()), (1, &[][..]), "one chain, without a gap");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_was_given_up_is_told_and_the_gap_is_shown() {
    let options =
        Postgres::options().parameter("max_slot_wal_keep_size", "16MB").parameter("wal_keep_size", "48MB");
    let options = options.parameter("max_wal_size", "32MB").parameter("min_wal_size", "32MB");
    let stack = Stack::of(options.start().unwrap());
    stack.catch_up();
    let set = stack.back_up();
    stack.catch_up();
    let health = || stack.server.texts("postgres", "SELECT wal_status FROM pg_replication_slots").remove(0);
    wait_for("the slot is lost", || {
        stack.execute("CREATE TABLE IF NOT EXISTS t (i int); INSERT INTO t VALUES (1)");
        stack.server.texts("postgres", "SELECT pg_switch_wal()");
        stack.execute("CHECKPOINT");
        health() == "lost"
    });
    stack.catch_up().says("has given up replication slot mainstay_tests").says("cannot be restored");
    stack.execute("INSERT INTO t VALUES (2)");
    stack.catch_up().says("goes on at");
    assert_ne!(health(), "lost");
    let listed = stack.json(&["backup", "list"]);
    let timeline = &listed["wal"][0]["timelines"][0];
    assert_eq!(timeline["gaps"].as_array().unwrap().len(), 1, "{timeline}");
    assert_eq!(timeline["ranges"][0]["set"], set.as_str());
    assert_eq!(timeline["without_set"].as_array().unwrap().len(), 1, "{timeline}");
    stack.run(&["backup", "list"]).expect(0).says("gap").says("restorable").says("take a backup");
    stack.run(&["backup", "verify", "--store", "postgres", "--log"]).expect(0).says("change log in chain");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_rights_are_enough() {
    let stack = Stack::of(Postgres::options().scram("right").start().unwrap());
    let url = stack.server.uri().replace("postgres:right", "keeper:right");
    stack.execute("CREATE ROLE keeper LOGIN PASSWORD 'right' IN ROLE pg_monitor");
    stack.configure(&url);
    stack.run(&["capture", "postgres", "--once"]).expect(5).says("ALTER ROLE \"keeper\" REPLICATION");
    assert!(!stack.path("repository").exists(), "nothing is made for whoever may not");
    stack.execute("ALTER ROLE keeper REPLICATION");
    stack.catch_up();
    stack.back_up();
    stack
        .run(&["restore", "point", "create", "here"])
        .expect(5)
        .says("GRANT EXECUTE ON FUNCTION pg_create_restore_point(text)");
    stack.execute("GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO keeper");
    stack.run(&["restore", "point", "create", "here", "--dry-run"]).expect(0).says("name here");
    stack.run(&["restore", "point", "create", "here"]).expect(0).says("--to here");
    stack.run(&["restore", "point", "create", "here"]).expect(1).says("exists already");
    stack.run(&["restore", "point", "create", "latest"]).expect(2);
    stack.run(&["restore", "point", "list"]).expect(0).says("here").says("0/");
    stack.catch_up();
    stack.plan("there", &["--to", "here"]).expect(0).says("the restore point `here`");
}
