//! Backups of Redis by its append-only file, through the binary: under load, across rewrites, damaged, and made a server again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use mainstay_testkit::Redis;
use mainstay_testkit::keys::{Client, KeyHistory};
use serde_json::Value;

use crate::binary::{Place, Seen};
use crate::support::{client, expect, json, wait};

fn started() -> Redis {
    Redis::options()
        .append_only()
        .setting("appendfsync", "always")
        .setting("auto-aof-rewrite-percentage", "0")
        .start()
        .unwrap()
}

fn folder(server: &Redis) -> PathBuf {
    server.dir().join("data/appendonlydir")
}

fn place(server: &Redis) -> Place {
    crate::support::place(&server.uri(), "development", "")
}

fn backup(place: &Place, folder: &Path, more: &[&str]) -> Seen {
    let arguments = ["backup", "create", "--store", "redis", "--append-only-dir", folder.to_str().unwrap()];
    place.run(&[&arguments[..], more].concat())
}

fn rewrite(client: &mut Client) {
    client.must(&["BGREWRITEAOF"]);
    wait("the rewrite ends", || {
        client.info("aof_rewrite_in_progress") == "0" && client.info("aof_rewrite_scheduled") == "0"
    });
}

/// Restores the newest append-only file into a folder and starts a stock server from it.
fn restored(place: &Place) -> Redis {
    let into = place.path("server/data/appendonlydir");
    let _ = fs::remove_dir_all(place.path("server"));
    fs::create_dir_all(place.path("server/data")).unwrap();
    let _ = fs::remove_file(place.path("plan.json"));
    let plan = [
        "restore",
        "plan",
        "--store",
        "redis",
        "--into",
        into.to_str().unwrap(),
        "--output",
        "plan.json",
        "--json",
    ];
    let hash = json(&expect(place.run(&plan), 0))["plan_hash"].as_str().unwrap().to_owned();
    let done = expect(place.run(&["restore", "apply", "plan.json", "--approve", &hash]), 0);
    assert!(done.stdout.contains("--appendonly yes"), "{}", done.both());
    let names: Vec<String> =
        fs::read_dir(&into).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().all(|name| !name.starts_with(".mainstay")), "{names:?}");
    // Nothing torn is left for it to forgive.
    Redis::options()
        .append_only()
        .setting("aof-load-truncated", "no")
        .in_folder(place.path("server"))
        .start()
        .unwrap()
}

/// Files of the server's folder and beside it.
fn beside(server: &Redis) -> Vec<String> {
    let entries = fs::read_dir(server.dir().join("data")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_server_that_starts_from_a_set_has_what_the_other_had() {
    let server = started();
    let place = place(&server);
    let mut history = KeyHistory::begin(server.address(), 21);
    (0..150).for_each(|_| drop(history.act()));
    rewrite(&mut client(&server));
    (0..150).for_each(|_| drop(history.act()));
    let digest = client(&server).digest();
    let dry = expect(backup(&place, &folder(&server), &["--dry-run"]), 0);
    assert!(dry.stdout.contains("by hard links"), "{}", dry.both());
    let made = json(&expect(backup(&place, &folder(&server), &["--json"]), 0));
    assert_eq!((&made["torn_bytes"], &made["retries"]), (&Value::from(0), &Value::from(0)), "{made}");
    let set = &made["set"];
    assert!(set["keys_in_base"].as_u64() > Some(0) && set["commands"].as_u64() >= Some(100), "{set}");
    assert_eq!(beside(&server), ["appendonlydir"], "the links are gone");
    (0..50).for_each(|_| drop(history.act()));
    let id = set["id"].as_str().unwrap();
    expect(place.run(&["backup", "verify", id]), 0);
    let shown = expect(place.run(&["backup", "show", id]), 0);
    assert!(shown.stdout.contains(".base.rdb") && shown.stdout.contains(".incr.aof"), "{}", shown.both());
    let listed = expect(place.run(&["backup", "list"]), 0);
    assert!(listed.stdout.contains("end of append-only file"), "{}", listed.both());
    assert_eq!(client(&restored(&place)).digest(), digest);

    // A stopped server's own folder is the measure, too: what it reads back is what the set holds.
    let made = json(&expect(backup(&place, &folder(&server), &["--json"]), 0));
    assert_ne!(made["set"]["id"], set["id"]);
    let mut server = server;
    let digest = client(&server).digest();
    server.stop();
    server.restart().unwrap();
    assert_eq!(client(&server).digest(), digest);
    assert_eq!(client(&restored(&place)).digest(), digest);

    // A database file beside it stays what restores into servers take; this one is for a folder.
    expect(place.run(&["backup", "create", "--store", "redis"]), 0);
    expect(backup(&place, &folder(&server), &[]), 0);
    let into = Redis::start().unwrap();
    let uri = into.uri();
    let plan = ["--redis-url", &uri, "restore", "plan", "--store", "redis"];
    expect(place.run(&plan), 0);
    let refused = expect(place.run(&[&plan[..], &[id]].concat()), 1);
    assert!(refused.stderr.contains("--into DIR"), "{}", refused.both());
    let taken = place.path("server/data/appendonlydir");
    let refused = place.run(&["restore", "plan", "--store", "redis", "--into", taken.to_str().unwrap()]);
    assert!(expect(refused, 8).stderr.contains("is not empty"));
}

/// Writes as fast as it is answered, one after the other, in transactions of two.
fn load(server: &Redis, stop: &AtomicBool) -> u64 {
    let mut client = client(server);
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let value = number.to_string();
        client.must(&["MULTI"]);
        client.must(&["SET", "left", &value]);
        client.must(&["SET", "right", &value]);
        client.must(&["SET", &format!("written:{number}"), &"x".repeat(200)]);
        client.must(&["EXEC"]);
    }
    number
}

/// Ends the load also when a test fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn under_load_and_rewrites_a_set_is_always_one_moment() {
    let server = started();
    let place = place(&server);
    client(&server).must(&["SET", "begun", "1"]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let writer = threads.spawn(|| load(&server, &stop));
        let rewriter = threads.spawn(|| {
            let mut client = client(&server);
            while !stop.load(Ordering::Relaxed) {
                rewrite(&mut client);
            }
        });
        let ending = Ending(&stop);
        for _ in 0..3 {
            let written =
                |client: &mut Client| client.must(&["GET", "left"]).text().parse::<u64>().unwrap_or(0);
            let before = written(&mut client(&server));
            expect(backup(&place, &folder(&server), &[]), 0);
            let after = written(&mut client(&server));
            expect(place.run(&["backup", "verify", "latest", "--store", "redis"]), 0);
            let into = restored(&place);
            let mut into = client(&into);
            let left = into.must(&["GET", "left"]).text();
            assert_eq!(left, into.must(&["GET", "right"]).text(), "transactions are whole");
            let number: u64 = left.parse().unwrap();
            assert!((before..=after).contains(&number), "{before} {number} {after}");
            let size: u64 = into.must(&["DBSIZE"]).text().parse().unwrap();
            assert_eq!(size, number + 3, "every command up to there, and none behind");
        }
        drop(ending);
        assert!(writer.join().unwrap() > 50);
        rewriter.join().unwrap();
    });
}

#[test]
fn a_torn_end_is_told_and_other_damage_refused() {
    let mut server = started();
    let place = place(&server);
    for number in 0..50 {
        client(&server).must(&["SET", &format!("key:{number}"), "value"]);
    }
    rewrite(&mut client(&server));
    for number in 0..50 {
        client(&server).must(&["SET", &format!("key:{number}"), "newer"]);
    }
    let file = |ending: &str| {
        let found = fs::read_dir(folder(&server)).unwrap().map(|entry| entry.unwrap().path());
        found.filter(|path| path.to_str().unwrap().ends_with(ending)).max().unwrap()
    };
    let (log, base) = (file(".incr.aof"), file(".base.rdb"));
    let digest = client(&server).digest();
    let append = |path: &Path, bytes: &[u8]| {
        let sound = fs::read(path).unwrap();
        fs::write(path, [&sound, bytes].concat()).unwrap();
        sound
    };
    // As a server leaves it that was killed while it wrote.
    let sound = append(&log, b"*3\r\n$3\r\nSET\r\n$3\r\nto");
    let made = expect(backup(&place, &folder(&server), &[]), 0);
    assert!(made.stdout.contains("was not written whole: 19 bytes"), "{}", made.both());
    expect(place.run(&["backup", "verify", "latest", "--store", "redis"]), 0);
    assert_eq!(client(&restored(&place)).digest(), digest);

    fs::write(&log, [&sound[..], b"\0\0\0\0"].concat()).unwrap();
    let refused = expect(backup(&place, &folder(&server), &[]), 4);
    assert!(refused.stderr.contains("BGREWRITEAOF"), "{}", refused.both());
    fs::write(&log, &sound).unwrap();
    let mut damaged = fs::read(&base).unwrap();
    let sound_base = damaged.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x10;
    fs::write(&base, &damaged).unwrap();
    expect(backup(&place, &folder(&server), &[]), 4);
    fs::write(&base, &sound_base).unwrap();
    assert_eq!(beside(&server), ["appendonlydir"]);
    let sets = json(&place.run(&["backup", "list", "--json"]))["sets"].as_array().unwrap().len();
    assert_eq!(sets, 1, "no set was made of what is damaged");

    // Damage in the repository is found, and nothing is written.
    expect(backup(&place, &folder(&server), &[]), 0);
    let mut folders = vec![place.path("backups/redis/sets")];
    let mut stored = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match path.is_dir() {
                true => folders.push(path),
                false => stored.push(path),
            }
        }
    }
    let newest = stored.iter().filter(|path| path.to_str().unwrap().contains(".incr.aof")).max().unwrap();
    let into = place.path("elsewhere/appendonlydir");
    let plan = [
        "restore",
        "plan",
        "--store",
        "redis",
        "--into",
        into.to_str().unwrap(),
        "--output",
        "bad.json",
        "--json",
    ];
    let hash = json(&expect(place.run(&plan), 0))["plan_hash"].as_str().unwrap().to_owned();
    let mut bytes = fs::read(newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x20;
    fs::write(newest, bytes).unwrap();
    expect(place.run(&["backup", "verify", "latest", "--store", "redis"]), 4);
    expect(place.run(&["restore", "apply", "bad.json", "--approve", &hash]), 4);
    assert!(!into.exists());
    server.stop();
}

#[test]
fn what_cannot_be_held_is_refused() {
    let server = started();
    let place = place(&server);
    client(&server).must(&["SET", "key", "value"]);
    let missing = expect(backup(&place, Path::new("/nowhere/appendonlydir"), &[]), 8);
    assert!(missing.stderr.contains("there is no folder"), "{}", missing.both());
    let empty = place.path("empty");
    fs::create_dir(&empty).unwrap();
    assert!(expect(backup(&place, &empty, &[]), 8).stderr.contains("no list"));
    let other = expect(place.run(&["backup", "create", "--store", "mongo", "--append-only-dir", "x"]), 2);
    assert!(other.stderr.contains("means nothing for mongo"), "{}", other.both());

    // Somebody holds the files now: a second one is turned away; a killed one is in nobody's way.
    let links = server.dir().join("data/.mainstay-links-appendonlydir");
    fs::create_dir(&links).unwrap();
    let lock = fs::File::create(links.join("lock")).unwrap();
    lock.lock().unwrap();
    assert!(expect(backup(&place, &folder(&server), &[]), 10).stderr.contains("another backup"));
    drop(lock);
    fs::write(links.join("left.aof"), "left").unwrap();
    expect(backup(&place, &folder(&server), &[]), 0);
    assert!(!links.exists());

    client(&server).must(&["CONFIG", "SET", "appendonly", "no"]);
    let off = expect(backup(&place, &folder(&server), &[]), 8);
    assert!(off.stderr.contains("keeps no append-only file"), "{}", off.both());
}

#[test]
fn a_folder_on_another_filesystem_is_refused() {
    // A mount of one's own takes the right to make one; where that is missing the folder is the only thing that cannot be shown.
    let server = started();
    client(&server).must(&["SET", "key", "value"]);
    let place = place(&server);
    let mounted = place.path("mounted/appendonlydir");
    fs::create_dir_all(&mounted).unwrap();
    let script = format!(
        "mount -t tmpfs none {0} && cp {1}/* {0}/ && exec {2} backup create --store redis --append-only-dir {0}",
        mounted.display(),
        folder(&server).display(),
        env!("CARGO_BIN_EXE_mainstay")
    );
    let seen = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
        .current_dir(place.path(""))
        .output()
        .unwrap();
    let seen = Seen::from(seen);
    assert_eq!(seen.status, 8, "{}", seen.both());
    assert!(seen.stderr.contains("on another filesystem"), "{}", seen.both());
}
