//! What somebody who does not know Redis well runs into, through the binary: markers that are damaged, sets of other servers, logs that are,
//! values that a server never keeps, servers that are not there yet.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod binary;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

use binary::{Place, Seen};
use mainstay_testkit::Redis;
use mainstay_testkit::keys::Client;
use mainstay_testkit::servers::free_port;
use serde_json::Value;

fn server() -> Redis {
    Redis::options().setting("repl-diskless-sync-delay", "0").start().unwrap()
}

fn client(server: &Redis) -> Client {
    Client::connect(server.address(), None)
}

fn place_at(uri: &str, policy: &str) -> Place {
    let place = Place::new();
    configure(&place, uri, policy);
    place
}

fn configure(place: &Place, uri: &str, policy: &str) {
    place.write(
        "mainstay.toml",
        &format!(
            "[environment]\nname = \"shop-dev\"\nclass = \"development\"\n[redis]\nurl = \"{uri}\"\n{policy}\n\
             [repository]\nurl = \"file:./backups\"\n",
        ),
    );
}

fn must(place: &Place, arguments: &[&str], status: i32) -> Seen {
    let seen = place.run(arguments);
    assert_eq!(seen.status, status, "{arguments:?}: {}", seen.both());
    seen
}

fn json(seen: &Seen) -> Value {
    serde_json::from_str(&seen.stdout).unwrap_or_else(|error| panic!("{error}: {}", seen.both()))
}

/// Marks the server with the environment of the place, whatever class it counts as.
fn mark(place: &Place, plan: &str) {
    must(place, &["environment", "mark", "--store", "redis", "--output", plan], 0);
    let shown = json(&must(place, &["plan", "show", plan, "--json"], 0));
    must(place, &["apply", plan, "--approve", shown["plan_hash"].as_str().unwrap()], 0);
}

/// What doctor found under this name.
fn found(place: &Place, id: &str) -> Option<Value> {
    let report = json(&place.run(&["doctor", "--json"]));
    report["findings"].as_array().unwrap().iter().find(|finding| finding["id"] == id).cloned()
}

#[test]
fn a_user_who_is_named_without_a_password_is_nobody_else() {
    let server = server();
    let place = place_at(&server.uri(), "").variable("MAINSTAY_REDIS_USERNAME", "nosuchuser");
    let refused = must(&place, &["redis", "keys"], 5);
    assert!(refused.stderr.contains("password"), "{}", refused.both());
}

#[test]
fn a_damaged_marker_counts_as_production_until_it_is_written_anew() {
    let server = server();
    let mut client = client(&server);
    let place = place_at(&server.uri(), "");
    mark(&place, "first.json");
    client.must(&["SET", "cache:page:1", "x"]);
    client.must(&["SET", "mainstay:identity:environment", "oops"]);

    let status = json(&place.run(&["status", "--json"]));
    assert_eq!(status["environment"]["class"], "production", "{status}");
    let shown = place.run(&["environment", "show"]);
    assert!(shown.stdout.contains("damaged"), "{}", shown.both());
    let damaged = found(&place, "environment.marker_damaged").unwrap();
    assert!(damaged["remedy"].as_str().unwrap().contains("environment mark"), "{damaged}");
    assert!(found(&place, "environment.no_marker").is_none());
    must(&place, &["backup", "create", "--store", "redis", "--dry-run"], 0);
    let purge = must(&place, &["redis", "purge", "cache:*", "--dry-run"], 0);
    assert!(purge.stdout.contains("(production)") && purge.stderr.contains("damaged"), "{}", purge.both());

    mark(&place, "second.json");
    let status = json(&place.run(&["status", "--json"]));
    assert_eq!(status["environment"]["class"], "development", "{status}");
    assert!(found(&place, "environment.marker_damaged").is_none());
    let nothing = must(&place, &["redis", "purge", "mainstay:*", "--dry-run"], 8);
    assert!(nothing.stderr.contains("marker"), "{}", nothing.both());
}

#[test]
fn sets_of_another_server_are_no_backups_of_this_one() {
    let (one, other) = (server(), server());
    let place = place_at(&one.uri(), "");
    mark(&place, "one.json");
    client(&one).must(&["SET", "a", "1"]);
    // Where one store is configured, it is the one that is meant.
    let of_one = json(&must(&place, &["backup", "create", "--json"], 0));
    configure(&place, &other.uri(), "");
    mark(&place, "other.json");
    let status = json(&place.run(&["status", "--json"]));
    let backups = status["repository"]["backups"].as_array().unwrap();
    let of_redis = backups.iter().find(|backups| backups["store"] == "redis").unwrap();
    assert_eq!((&of_redis["last"], &of_redis["of_others"]), (&Value::Null, &Value::from(1)), "{status}");
    let none = found(&place, "backup.none").unwrap();
    assert!(none["message"].as_str().unwrap().contains("1 sets are of others"), "{none}");

    must(&place, &["backup", "create"], 0);
    configure(&place, &one.uri(), "");
    let verified = json(&must(&place, &["backup", "verify", "--json"], 0));
    assert_eq!(verified["set"], of_one["set"]["id"], "the newest is of the other one");
    must(&place, &["backup", "show"], 0);
}

fn slices(place: &Place) -> Vec<PathBuf> {
    let chains = fs::read_dir(place.path("backups/redis/log")).unwrap();
    let files = chains.flat_map(|chain| fs::read_dir(chain.unwrap().path()).unwrap());
    let paths = files.map(|file| file.unwrap().path());
    paths.filter(|path| path.to_str().unwrap().contains(".replication.zst")).collect()
}

#[test]
fn damage_in_a_captured_stream_is_remembered_until_it_is_mended() {
    let server = server();
    let place = place_at(&server.uri(), "");
    mark(&place, "mark.json");
    must(&place, &["capture", "redis", "--once"], 0);
    for index in 0..50 {
        client(&server).must(&["SET", &format!("key:{index}"), "value"]);
    }
    must(&place, &["capture", "redis", "--once"], 0);
    let status = json(&place.run(&["status", "--json"]));
    let age = status["repository"]["logs"][0]["recovery_point_age_seconds"].as_i64();
    assert!(age.is_some_and(|age| (0..600).contains(&age)), "{status}");
    assert!(found(&place, "log.stale").is_none());
    must(&place, &["backup", "list"], 0);
    let log = place.run(&["backup", "log"]);
    assert!(log.stdout.contains("redis flushes"), "{}", log.both());
    must(&place, &["redis", "flushes", "--since", "latest"], 2);

    let slice = slices(&place).pop().unwrap();
    let sound = fs::read(&slice).unwrap();
    let mut damaged = sound.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x40;
    fs::write(&slice, &damaged).unwrap();
    must(&place, &["backup", "list"], 0);
    must(&place, &["backup", "verify", "--log"], 4);
    let listed = must(&place, &["backup", "list"], 4);
    assert!(listed.stdout.contains("found 1 of its slices damaged"), "{}", listed.both());
    must(&place, &["status"], 4);
    assert!(found(&place, "log.damaged").is_some());
    fs::write(&slice, &sound).unwrap();
    must(&place, &["backup", "list"], 4);
    must(&place, &["backup", "verify", "--log"], 0);
    must(&place, &["backup", "list"], 0);
    assert!(found(&place, "log.damaged").is_none());
}

#[test]
fn a_policy_that_cannot_hold_is_refused_before_anything_is_changed() {
    let server = Redis::options().config_file().start().unwrap();
    let mut client = client(&server);
    let small = "[redis.policy]\nrepl_backlog_size = \"1\"\n";
    let place = place_at(&server.uri(), small);
    let refused = must(&place, &["redis", "policy", "plan"], 2);
    assert!(refused.stderr.contains("less than a server ever keeps"), "{}", refused.both());
    assert!(found(&place, "config.redis_policy").is_some());
    // Nothing expires, so that this policy evicts nothing.
    configure(
        &place,
        &server.uri(),
        "[redis.policy]\nmaxmemory = \"100kB\"\nmaxmemory_policy = \"volatile-ttl\"\n",
    );
    client.must(&["SET", "never:expires", "x"]);
    let refused = must(&place, &["redis", "policy", "plan"], 8);
    assert!(refused.stderr.contains("refuses every write"), "{}", refused.both());
    let endless = must(&place, &["redis", "policy", "plan", "--compose", "/dev/zero"], 2);
    assert!(endless.stderr.contains("too long"), "{}", endless.both());
    // What a restore that was killed leaves is not kept for good.
    configure(&place, &server.uri(), "[redis.policy]\nmaxmemory = \"1GB\"\n");
    must(&place, &["redis", "policy", "plan"], 0);
    client.must(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]);
    let refused = must(&place, &["redis", "policy", "plan"], 8);
    assert!(refused.stderr.contains("REPLICAOF NO ONE"), "{}", refused.both());
}

#[test]
fn a_capture_waits_for_a_server_that_is_not_there_yet() {
    let place = place_at(&format!("redis://127.0.0.1:{}", free_port()), "");
    must(&place, &["capture", "redis", "--once"], 6);
    let mut command = place.command(&["capture", "redis", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(event["event"], "waiting", "{event}");
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(75));
}
