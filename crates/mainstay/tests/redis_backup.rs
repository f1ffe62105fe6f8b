//! Backups of Redis through the binary: made, listed, shown, verified; killed, cut off and damaged ones.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod binary;
mod keyserver;

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use binary::{Place, Seen};
use keyserver::{connection, give, json};
use mainstay_testkit::Redis;
use redis::aio::MultiplexedConnection;
use serde_json::Value;

const KEYS: u64 = 2000;

/// A server that does not wait for further replicas, with some keys in two databases.
async fn filled() -> (Redis, MultiplexedConnection) {
    let server =
        Redis::options().setting("repl-diskless-sync-delay", "0").setting("save", "").start().unwrap();
    let mut connection = connection(&server).await;
    for index in 0..KEYS {
        give(&mut connection, &format!("SET shop:product:{index} {}", format!("{index},").repeat(200))).await;
    }
    give(&mut connection, "SELECT 2").await;
    give(&mut connection, "SET auth:session:1 token EX 9000").await;
    (server, connection)
}

fn place(server: &Redis) -> Place {
    let more = "[environment]\nname = \"shop-dev\"\nclass = \"development\"\n[repository]\nurl = \"file:./backups\"\n";
    keyserver::place(&server.uri(), more)
}

fn create(place: &Place) -> Value {
    let seen = place.run(&["backup", "create", "--store", "redis", "--json"]);
    assert_eq!(seen.status, 0, "{}", seen.both());
    json(&seen)
}

fn sets(place: &Place) -> usize {
    json(&place.run(&["backup", "list", "--json"]))["sets"].as_array().unwrap().len()
}

/// The file of the keys in the repository.
fn stored_file(place: &Place) -> PathBuf {
    let mut folders = vec![place.path("backups/redis/sets")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().unwrap().to_str().unwrap().starts_with("dump.rdb") {
                return path;
            }
        }
    }
    panic!("no file is stored");
}

#[tokio::test]
async fn a_backup_is_made_listed_shown_and_verified() {
    let (server, mut connection) = filled().await;
    let place = place(&server);
    let made = create(&place);
    assert_eq!((&made["keys"], &made["checksum"]), (&Value::from(KEYS + 1), &Value::from(true)));
    let set = &made["set"];
    assert_eq!(set["databases"][1], serde_json::json!({"database": 2, "keys": 1, "expiring": 1}));
    assert!(set["replication"]["offset"].is_u64(), "{set}");
    assert!(
        set["stored_bytes"].as_u64().unwrap() * 4 < made["bytes"].as_u64().unwrap() * 3,
        "it is compressed: {made}"
    );
    let id = set["id"].as_str().unwrap();
    let verified = place.run(&["backup", "verify", id]);
    assert_eq!(verified.status, 0, "{}", verified.both());
    let listed = place.run(&["backup", "list"]);
    assert!(listed.stdout.contains("2,001 keys") && listed.stdout.contains("offset"), "{}", listed.both());
    let shown = place.run(&["backup", "show", id]);
    assert!(shown.stdout.contains("offset") && shown.stdout.contains("RDB version 12"), "{}", shown.both());
    assert!(place.run(&["backup", "show", "latest", "--store", "redis"]).stdout.contains(id));

    // Another one after a flush holds nothing, and the first one still does.
    give(&mut connection, "FLUSHALL").await;
    assert_eq!(create(&place)["keys"], 0);
    assert_eq!((sets(&place), place.run(&["backup", "verify", id]).status), (2, 0));
    let dry = place.run(&["backup", "create", "--store", "redis", "--dry-run"]);
    assert_eq!((dry.status, sets(&place)), (0, 2), "{}", dry.both());
}

#[tokio::test]
async fn a_backup_that_is_killed_stopped_or_cut_off_is_never_a_set() {
    let (mut server, mut connection) = filled().await;
    let place = place(&server);
    create(&place);
    // The child now takes its time over every key.
    give(&mut connection, "CONFIG SET rdb-key-save-delay 2000").await;
    let command = |place: &Place| {
        let mut command = place.command(&["backup", "create", "--store", "redis"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let wait_until = |server: &Redis, sends: bool| {
        let mut connection = redis::Client::open(server.uri()).unwrap().get_connection().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let info: String = redis::cmd("INFO").arg("persistence").query(&mut connection).unwrap();
            if info.contains("rdb_bgsave_in_progress:1") == sends {
                return;
            }
            assert!(Instant::now() < deadline, "waited in vain until sending is {sends}: {info}");
        }
    };
    let begun = |place: &Place, server: &Redis| {
        wait_until(server, false);
        let child = command(place).spawn().unwrap();
        wait_until(server, true);
        child
    };
    let mut killed = begun(&place, &server);
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(sets(&place), 1);

    let stopped = begun(&place, &server);
    let pid = rustix::process::Pid::from_child(&stopped);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let stopped: Seen = stopped.wait_with_output().unwrap().into();
    assert_eq!(stopped.status, 75, "{}", stopped.both());
    assert!(stopped.stderr.contains("no backup set was made"), "{}", stopped.both());

    let cut = begun(&place, &server);
    server.kill9();
    let cut: Seen = cut.wait_with_output().unwrap().into();
    assert_eq!(cut.status, 6, "{}", cut.both());
    assert_eq!(sets(&place), 1);
}

#[tokio::test]
async fn damage_is_found_wherever_it_is() {
    let (server, _connection) = filled().await;
    let place = place(&server);
    create(&place);
    let path = stored_file(&place);
    let sound = fs::read(&path).unwrap();
    for at in [0, sound.len() / 2, sound.len() - 1] {
        let mut damaged = sound.clone();
        damaged[at] ^= 0x10;
        fs::write(&path, &damaged).unwrap();
        let seen = place.run(&["backup", "verify", "latest", "--store", "redis"]);
        assert_eq!(seen.status, 4, "byte {at}: {}", seen.both());
    }
    fs::write(&path, &sound[..sound.len() / 2]).unwrap();
    assert_eq!(place.run(&["backup", "verify", "latest", "--store", "redis"]).status, 4);
    fs::write(&path, &sound).unwrap();
    assert_eq!(place.run(&["backup", "verify", "latest", "--store", "redis"]).status, 0);
}

#[tokio::test]
async fn what_means_nothing_for_redis_is_refused() {
    let (server, mut connection) = filled().await;
    let place = place(&server);
    for arguments in
        [&["--database", "shop"][..], &["--max-rate", "1MB"], &["--users-and-roles"], &["--resume", "latest"]]
    {
        let arguments = [&["backup", "create", "--store", "redis"], arguments].concat();
        let seen = place.run(&arguments);
        assert_eq!(seen.status, 2, "{arguments:?}: {}", seen.both());
    }
    give(&mut connection, "ACL SETUSER reader on >canary-reader ~* +@read +@connection +info").await;
    place.write(
        "mainstay.toml",
        &format!(
            "[redis]\nurl = \"{}\"\n[repository]\nurl = \"file:./backups\"\n",
            server.uri().replace("redis://", "redis://reader@")
        ),
    );
    let place = place.variable("MAINSTAY_REDIS_PASSWORD", "canary-reader");
    let denied = place.run(&["backup", "create", "--store", "redis"]);
    assert_eq!(denied.status, 5, "{}", denied.both());
    assert!(!denied.both().contains("canary"), "{}", denied.both());
}
