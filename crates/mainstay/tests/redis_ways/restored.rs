//! A server that was restored: who it is, what a crash of it brings back, and which ones are refused before anything is read.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use mainstay_testkit::Redis;
use mainstay_testkit::keys::{Client, Reply};
use mainstay_testkit::servers::RedisOptions;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::binary::{Place, Seen};
use crate::support::{client, expect, json, mark, place, terminate, wait};

const MARKER: &str = "mainstay:identity:environment";
/// Keys of the source.
const KEYS: &str = "1500";

fn options() -> RedisOptions {
    Redis::options().setting("repl-diskless-sync-delay", "0")
}

/// The marker that a server keeps, its fingerprint with it.
fn marker(client: &mut Client) -> BTreeMap<String, String> {
    let Reply::List(fields) = client.must(&["HGETALL", MARKER]) else { return BTreeMap::new() };
    fields.chunks_exact(2).map(|pair| (pair[0].text(), pair[1].text())).collect()
}

/// A marked server of production, captured with a stream in which it is marked again, and in another database, too.
fn source() -> (Redis, Place) {
    let source = options().start().unwrap();
    let place = place(&source.uri(), "production", "");
    mark(&place);
    let mut writer = client(&source);
    writer.must(&["DEBUG", "POPULATE", KEYS, "key", "200"]);
    expect(place.run(&["backup", "create", "--store", "redis"]), 0);
    writer.must(&["HSET", MARKER, "marked_at", "2026-01-01T00:00:00Z"]);
    writer.must(&["SET", "later", "1"]);
    writer.must(&["SELECT", "3"]);
    writer.must(&["HSET", MARKER, "environment", "elsewhere", "class", "development"]);
    writer.must(&["SET", "three", "3"]);
    expect(place.run(&["capture", "redis", "--once"]), 0);
    (source, place)
}

/// What a server holds but markers.
fn digest(server: &Redis) -> String {
    let mut client = client(server);
    for database in ["3", "0"] {
        client.must(&["SELECT", database]);
        client.must(&["DEL", MARKER]);
    }
    client.digest()
}

/// A plan of a restore, and how it is applied.
struct Planned {
    uri: String,
    file: String,
    hash: String,
}

impl Planned {
    fn new(place: &Place, into: &Redis) -> Self {
        let (uri, file) = (into.uri(), format!("plan-{}.json", into.port()));
        let plan = ["--redis-url", &uri, "restore", "plan", "--store", "redis", "--to", "latest"];
        let planned = expect(place.run(&[&plan[..], &["--output", file.as_str(), "--json"]].concat()), 0);
        let hash = json(&planned)["plan_hash"].as_str().unwrap().to_owned();
        Self { uri, file, hash }
    }

    fn words(&self) -> [&str; 7] {
        ["--redis-url", &self.uri, "restore", "apply", &self.file, "--approve", &self.hash]
    }

    fn apply(&self, place: &Place) -> Seen {
        place.run(&self.words())
    }

    fn apply_json(&self, place: &Place) -> Value {
        json(&expect(place.run(&[&self.words()[..], &["--json"]].concat()), 0))
    }

    fn begin(&self, place: &Place) -> Child {
        let mut command = place.command(&self.words());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

#[test]
fn a_restored_server_stays_who_it_is() {
    let (source, place) = source();
    let own = options().start().unwrap();
    place.write(
        "other.toml",
        &format!(
            "[environment]\nname = \"shop-test\"\nclass = \"development\"\n[redis]\nurl = \"{}\"\n\
             [repository]\nurl = \"file:./backups\"\n",
            own.uri()
        ),
    );
    let run = |arguments: &[&str]| place.run(&[&["--config", "other.toml"][..], arguments].concat());
    let planned = |arguments: &[&str], file: &str| {
        let planned = expect(run(&[arguments, &["--output", file, "--json"]].concat()), 0);
        let planned = json(&planned);
        let shown = planned["plans"].get(0).unwrap_or(&planned);
        shown["plan_hash"].as_str().unwrap().to_owned()
    };
    let hash = planned(&["environment", "mark", "--store", "redis"], "mark-own.json");
    expect(run(&["apply", "mark-own.json", "--approve", &hash]), 0);
    let before = marker(&mut client(&own));
    assert_eq!(before["environment"], "shop-test");

    let hash = planned(&["restore", "plan", "--store", "redis", "--to", "latest"], "restore.json");
    let restored = expect(run(&["restore", "apply", "restore.json", "--approve", &hash]), 0);
    assert!(restored.stdout.contains("marker is the server's own"), "{}", restored.both());
    let mut client = client(&own);
    assert_eq!(marker(&mut client), before, "its environment and its fingerprint are its own");
    let shown = json(&expect(run(&["environment", "show", "--json"]), 0));
    assert_eq!(shown["environment"]["name"], "shop-test", "{shown}");
    client.must(&["SELECT", "3"]);
    assert_eq!(
        (marker(&mut client), client.must(&["GET", "three"]).text()),
        (BTreeMap::new(), "3".to_owned())
    );

    // A server that had none has none, is told so, and what to type.
    let fresh = options().start().unwrap();
    let restored = expect(Planned::new(&place, &fresh).apply(&place), 0);
    let next = format!("`mainstay --redis-url {} environment mark --store redis`", fresh.uri());
    assert!(restored.stdout.contains(&next), "{}", restored.both());
    assert_eq!(marker(&mut self::client(&fresh)), BTreeMap::new());
    assert_eq!(digest(&fresh), digest(&own));
    assert_eq!(digest(&own), digest(&source));
}

#[test]
fn a_crash_right_after_success_brings_back_what_was_restored() {
    let (source, place) = source();
    let slow = |options: RedisOptions| options.setting("rdb-key-save-delay", "500").start().unwrap();
    let expected = digest(&source);
    for (mut into, written_as) in
        [(slow(options().append_only()), "append_only_file"), (slow(options()), "snapshot")]
    {
        let restored = Planned::new(&place, &into).apply_json(&place);
        into.kill9();
        assert_eq!(restored["written_as"], written_as, "{restored}");
        assert_eq!((&restored["marked"], &restored["keys"]), (&false.into(), &1_502.into()), "{restored}");
        into.restart().unwrap();
        let mut after = client(&into);
        assert_eq!(marker(&mut after), BTreeMap::new(), "{written_as}: not even that of the set");
        assert_eq!(digest(&into), expected, "{written_as}");
    }
}

/// Begins a restore into a server that takes seconds over its append-only file, and waits until it writes that and takes writes.
fn writing(place: &Place, into: &Redis) -> (Planned, Child) {
    let planned = Planned::new(place, into);
    let running = planned.begin(place);
    let mut client = client(into);
    wait("it is promoted and writes", || {
        client.info("role") == "master"
            && client.ask(&["EXISTS", "later"]).text() == "1"
            && client.info("aof_rewrite_in_progress") == "1"
    });
    (planned, running)
}

#[test]
fn a_server_that_does_not_write_it_down_is_no_success() {
    let (_source, place) = source();
    let slow = || options().append_only().setting("rdb-key-save-delay", "4000").start().unwrap();
    let into = slow();
    let (_, running) = writing(&place, &into);
    let server = into.pid().unwrap();
    let children = fs::read_to_string(format!("/proc/{server}/task/{server}/children")).unwrap();
    // The first is what ends the server with its test; the writing one came last.
    let child: i32 = children.split_whitespace().last().unwrap().parse().unwrap();
    kill_process(Pid::from_raw(child).unwrap(), Signal::KILL).unwrap();
    let failed: Seen = running.wait_with_output().unwrap().into();
    let failed = expect(failed, 1);
    for told in ["could not write its append-only file", "takes writes", "BGREWRITEAOF"] {
        assert!(failed.stderr.contains(told), "{told}: {}", failed.both());
    }

    let into = slow();
    let (planned, running) = writing(&place, &into);
    terminate(&running);
    let stopped: Seen = running.wait_with_output().unwrap().into();
    let stopped = expect(stopped, 75);
    for told in ["takes writes", "was not seen to write it down", "INFO persistence"] {
        assert!(stopped.stderr.contains(told), "{told}: {}", stopped.both());
    }
    assert_eq!(client(&into).must(&["GET", "later"]).text(), "1", "it stays as it is");
    let again = expect(planned.apply(&place), 8);
    assert!(again.stderr.contains("an earlier run of this plan has filled"), "{}", again.both());
    assert_eq!(client(&into).must(&["GET", "later"]).text(), "1", "nothing is begun anew");
}

/// The file of the set in the repository.
fn stored_file(place: &Place) -> PathBuf {
    let mut folders = vec![place.path("backups/redis/sets")];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().unwrap().to_str().unwrap().starts_with("dump.rdb") {
                return path;
            }
        }
    }
    panic!("no set is stored");
}

#[test]
fn a_server_that_cannot_be_filled_is_refused_before_anything_is_read() {
    let (_source, place) = source();
    let into = options().tls().start().unwrap();
    let planned = Planned::new(&place, &into);
    client(&into).must(&["CONFIG", "SET", "tls-replication", "yes"]);
    let plan = ["--redis-url", &planned.uri, "restore", "plan", "--store", "redis"];
    let told = |seen: Seen| {
        let seen = expect(seen, 8);
        assert!(seen.stderr.contains("CONFIG SET tls-replication no"), "{}", seen.both());
    };
    told(place.run(&plan));
    // Had it begun to read the set back, it would have found the damage first.
    let file = stored_file(&place);
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(&file, &bytes).unwrap();
    told(planned.apply(&place));
    client(&into).must(&["CONFIG", "SET", "tls-replication", "no"]);
    expect(planned.apply(&place), 4);
    assert_eq!(
        (client(&into).info("role"), client(&into).must(&["DBSIZE"]).text()),
        ("master".into(), "0".into())
    );
}
