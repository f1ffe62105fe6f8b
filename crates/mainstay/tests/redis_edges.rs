//! Where Redis is looked after at its edges, through the binary: remedies that lose nothing, secrets that a server repeats, captures that are
//! stopped or cut while all keys come, undo points that are sound.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod binary;
mod keyserver;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Stdio};

use binary::{Place, Seen};
use keyserver::{connection, give, json, place};
use mainstay_testkit::proxy::{Direction, Scope, Truncate};
use mainstay_testkit::{FaultProxy, Redis};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A place with a repository.
fn place_at(uri: &str) -> Place {
    let more = "[environment]\nname = \"shop\"\nclass = \"development\"\n\
                [repository]\nurl = \"file:./backups\"\nlease_ttl = \"2s\"\n";
    place(uri, more)
}

/// A run that ends with `status`.
fn must(place: &Place, arguments: &[&str], status: i32) -> Seen {
    let seen = place.run(arguments);
    assert_eq!(seen.status, status, "{arguments:?}: {}", seen.both());
    seen
}

/// Files of sets in the repository, in their order.
fn stored_files(place: &Place) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![place.path("backups/redis/sets")]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.push(path),
            }
        }
    }
    found.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with("dump.rdb"));
    found.sort();
    found
}

/// A server that takes its time over every key when it sends them all.
async fn slow_server() -> Redis {
    let server = Redis::options().setting("repl-diskless-sync-delay", "0").start().unwrap();
    let mut connection = connection(&server).await;
    for index in 0..20 {
        give(&mut connection, &format!("SET page:{index} {}", "x".repeat(10_000))).await;
    }
    give(&mut connection, "CONFIG SET rdb-key-save-delay 150000").await;
    server
}

/// A capture under way, and what it tells.
struct Capture {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Capture {
    fn begin(place: &Place, more: &[&str]) -> Self {
        let mut command = place.command(&[&["capture", "redis", "--json"], more].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn until(&mut self, name: &str) -> Value {
        let mut told = self.lines.by_ref().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
        let found = told.find(|event| event["event"] == name);
        found.unwrap_or_else(|| panic!("it ended before {name}"))
    }

    /// Asks it to stop; gives its status and what it said last.
    fn stop(mut self) -> (i32, String) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let rest: Vec<String> = self.lines.by_ref().map(Result::unwrap).collect();
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code().unwrap(), said + &rest.join("\n"))
    }
}

#[tokio::test]
async fn no_remedy_of_doctor_has_a_server_begin_empty() {
    let server = Redis::options().config_file().setting("save", "").start().unwrap();
    give(&mut connection(&server).await, "SET a 1").await;
    let place = place_at(&server.uri());
    place.write(
        "compose.yaml",
        "services:\n  cache:\n    image: redis:8\n    command: redis-server --save \"\"\n",
    );
    let diagnosis = json(&must(&place, &["doctor", "--json"], 3));
    let findings = diagnosis["findings"].as_array().unwrap();
    let remedy = |id: &str| {
        let mut found = findings.iter().filter(|finding| finding["id"] == id);
        let remedy =
            found.next().unwrap_or_else(|| panic!("no {id}: {diagnosis}"))["remedy"].as_str().unwrap();
        assert!(found.next().is_none(), "{id} is said once: {diagnosis}");
        remedy
    };
    assert!(remedy("redis.nothing_persisted").contains("mainstay redis policy plan"), "{diagnosis}");
    let compose = remedy("compose.redis_not_persistent");
    assert!(
        compose.find("redis policy apply").unwrap() < compose.find("--appendonly yes").unwrap(),
        "{compose}"
    );
    assert!(!diagnosis.to_string().contains("CONFIG SET appendonly"), "{diagnosis}");
}

#[tokio::test]
async fn a_password_that_the_server_repeats_is_shown_to_nobody() {
    let folder = Place::new();
    folder.write("renamed.conf", "rename-command AUTH nonesuch\n");
    let renamed = folder.path("renamed.conf");
    let server = Redis::options().setting("include", renamed.to_str().unwrap()).start().unwrap();
    let place = place(&server.uri(), "").variable("MAINSTAY_REDIS_PASSWORD", "canary-4711");
    let seen = must(&place, &["redis", "info"], 1);
    assert!(seen.stderr.contains("unknown command 'AUTH'"), "{}", seen.both());
    assert!(seen.stderr.contains("rename-command") && !seen.both().contains("canary"), "{}", seen.both());
}

#[tokio::test]
async fn a_capture_that_is_stopped_while_keys_come_leaves_no_set() {
    let server = slow_server().await;
    for (more, status, says) in [(&["--once"][..], 75, "stopped on request"), (&[], 0, "\"ended\"")] {
        let place = place_at(&server.uri());
        let mut capture = Capture::begin(&place, more);
        capture.until("base_begun");
        let (ended, said) = capture.stop();
        assert_eq!(ended, status, "{said}");
        assert!(said.contains(says), "{said}");
        assert!(stored_files(&place).is_empty(), "{said}");
        let listed = json(&must(&place, &["backup", "list", "--json"], 0));
        assert_eq!(listed["sets"].as_array().unwrap().len(), 0, "{listed}");
    }
}

#[tokio::test]
async fn a_server_whose_keys_never_arrive_is_left_alone_for_longer_and_longer() {
    let server = Redis::options().setting("repl-diskless-sync-delay", "0").start().unwrap();
    let mut connection = connection(&server).await;
    for index in 0..100 {
        give(&mut connection, &format!("SET page:{index} {}", format!("{index},").repeat(3_000))).await;
    }
    give(&mut connection, "CONFIG SET rdbcompression no").await;
    let proxy = FaultProxy::start(server.address());
    proxy.throttle(600_000);
    proxy.truncate(Truncate {
        direction: Direction::FromServer,
        bytes: 300_000,
        scope: Scope::EveryConnection,
    });
    let place = place_at(&server.uri_through(proxy.address()));
    let mut capture = Capture::begin(&place, &[]);
    let mut pauses = Vec::new();
    for _ in 0..3 {
        capture.until("base_begun");
        let waiting = capture.until("waiting");
        assert!(waiting["hint"].as_str().unwrap().contains("backup create"), "{waiting}");
        pauses.push(waiting["pause_ms"].as_u64().unwrap());
    }
    // Each took the server about half a second.
    assert!(pauses[0] >= 300 && pauses[1] >= pauses[0] + 200 && pauses[2] >= pauses[1] + 200, "{pauses:?}");
    proxy.heal();
    let stored = capture.until("base_stored");
    assert_eq!(stored["keys"], 100, "{stored}");
    capture.until("chain_begun");
    let (status, said) = capture.stop();
    assert_eq!(status, 0, "{said}");
}

#[tokio::test]
async fn a_damaged_set_is_no_undo_point() {
    let server = Redis::options().setting("repl-diskless-sync-delay", "0").start().unwrap();
    let mut connection = connection(&server).await;
    give(&mut connection, "SET cache:page:1 1").await;
    // Nobody has marked it, so only its process tells which server it is.
    let place = place_at(&server.uri());
    let create = || json(&must(&place, &["backup", "create", "--store", "redis", "--json"], 0));
    let sound = create()["set"]["id"].as_str().unwrap().to_owned();
    let plan = ["redis", "purge", "cache:*", "--dry-run"];
    let shown = must(&place, &plan, 0).stdout;
    assert!(shown.contains(&sound) && shown.contains("what came later it does not have"), "{shown}");
    must(&place, &["capture", "redis", "--once"], 0);
    give(&mut connection, "SET cache:page:2 1").await;
    must(&place, &["capture", "redis", "--once"], 0);
    let shown = must(&place, &plan, 0).stdout;
    assert!(shown.contains(&sound) && shown.contains("the captured stream goes on from it"), "{shown}");

    let newer = create()["set"]["id"].as_str().unwrap().to_owned();
    assert!(must(&place, &plan, 0).stdout.contains(&newer));
    let file = stored_files(&place).into_iter().find(|path| path.to_str().unwrap().contains(&newer)).unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(&file, bytes).unwrap();
    must(&place, &["backup", "verify", &newer], 4);
    let shown = must(&place, &plan, 0).stdout;
    assert!(shown.contains(&sound) && !shown.contains(&newer), "{shown}");
}

#[tokio::test]
async fn a_server_that_evicts_by_frequency_tells_what_goes_first() {
    let server = Redis::options().config_file().setting("maxmemory-policy", "allkeys-lfu").start().unwrap();
    give(&mut connection(&server).await, &format!("SET cache:page:1 {}", "x".repeat(1_000_000))).await;
    // Nobody has marked it: there is no key of ours that could be asked instead.
    let policy = "[redis.policy]\nmaxmemory = \"20MiB\"\nmaxmemory_policy = \"allkeys-lru\"\n\
                  [redis.classes]\ncache = [\"*\"]\n";
    let place = place(&server.uri(), policy);
    let planned = must(&place, &["redis", "policy", "plan"], 0);
    assert!(planned.stdout.contains("go first when the limit is reached"), "{}", planned.both());
}
