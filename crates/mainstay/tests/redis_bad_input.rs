//! Servers in bad states and keys nobody would expect: each a precise error with a hint, or shown as it is; never a panic or a hang.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod binary;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use binary::{Place, Seen};
use mainstay_testkit::{Redis, Sentinel};
use redis::Connection;
use serde_json::Value;

fn connection(server: &Redis) -> Connection {
    redis::Client::open(server.uri()).unwrap().get_connection().unwrap()
}

fn give(connection: &mut Connection, line: &str) {
    let mut words = line.split(' ');
    let answer: redis::RedisResult<redis::Value> =
        redis::cmd(words.next().unwrap()).arg(words.collect::<Vec<_>>()).query(connection);
    answer.unwrap_or_else(|error| panic!("{line}: {error}"));
}

fn place(url: &str) -> Place {
    let place = Place::new();
    place.write(
        "mainstay.toml",
        &format!(
            "[environment]\nname = \"shop\"\nclass = \"development\"\n[redis]\nurl = \"{url}\"\n[redis.policy]\nmaxmemory_policy = \"noeviction\"\n\
             [repository]\nurl = \"file:./backups\"\n"
        ),
    );
    place
}

fn json(seen: &Seen) -> Value {
    serde_json::from_str(&seen.stdout).unwrap_or_else(|error| panic!("{error}: {}", seen.both()))
}

/// Writes into the server: its marker.
fn mark(place: &Place) -> Seen {
    let _ = std::fs::remove_file(place.path("mark.json"));
    let planned = place.run(&["environment", "mark", "--store", "redis", "--output", "mark.json"]);
    if planned.status != 0 {
        return planned;
    }
    let shown = json(&place.run(&["plan", "show", "mark.json", "--json"]));
    place.run(&["apply", "mark.json", "--approve", shown["plan_hash"].as_str().unwrap()])
}

/// That a run ended with `status`, says `text`, gives a hint and shows no secret.
fn check(what: &str, seen: &Seen, status: i32, text: &str) {
    assert_eq!(seen.status, status, "{what}: {}", seen.both());
    assert!(seen.stderr.contains(text), "{what}: {}", seen.both());
    assert!(seen.stderr.contains("hint:"), "{what}: {}", seen.both());
    assert!(!seen.both().contains("canary"), "{what}: {}", seen.both());
}

/// The commands that ask a server, each for itself.
const QUESTIONS: [&[&str]; 6] = [
    &["redis", "info", "--over", "0s"],
    &["redis", "memory", "--over", "0s"],
    &["redis", "slowlog"],
    &["redis", "keys"],
    &["redis", "policy", "drift"],
    &["redis", "purge", "a:*", "--dry-run"],
];

#[test]
fn passwords_and_permissions() {
    let server = Redis::options().password("canary-admin").start().unwrap();
    let bare = format!("redis://{}/", server.address());
    let mut connection = connection(&server);
    give(&mut connection, "ACL SETUSER nobody on >canary-nobody +@connection");
    let as_nobody = bare.replace("redis://", "redis://nobody@");
    for question in QUESTIONS {
        check("none", &place(&bare).run(question), 5, "asks for a password");
        let wrong = place(&bare).variable("MAINSTAY_REDIS_PASSWORD", "canary-wrong");
        check("wrong", &wrong.run(question), 5, "refused the password");
        let nobody = place(&as_nobody).variable("MAINSTAY_REDIS_PASSWORD", "canary-nobody");
        check("nobody", &nobody.run(question), 5, "lacks a permission");
    }
    let open = Redis::start().unwrap();
    let needless = place(&open.uri()).variable("MAINSTAY_REDIS_PASSWORD", "canary-needless");
    check("needless", &needless.run(&["redis", "keys"]), 5, "asks for no password");
}

#[test]
fn a_server_that_loads() {
    let mut server = Redis::options().setting("key-load-delay", "20000").start().unwrap();
    let mut admin = connection(&server);
    for index in 0..1_000 {
        give(&mut admin, &format!("SET cache:page:{index} {}", "x".repeat(2_000)));
    }
    give(&mut admin, "CONFIG SET loading-process-events-interval-bytes 1024");
    give(&mut admin, "SAVE");
    let place = place(&server.uri());
    let mut reloading = connection(&server);
    let reload = std::thread::spawn(move || {
        let _: redis::RedisResult<redis::Value> =
            redis::cmd("DEBUG").arg("RELOAD").arg("NOSAVE").query(&mut reloading);
    });
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let loads: redis::RedisResult<redis::Value> = redis::cmd("GET").arg("a").query(&mut admin);
        if loads.is_err_and(|error| error.code() == Some("LOADING")) {
            break;
        }
        assert!(Instant::now() < deadline, "it does not load");
    }
    for question in [&["redis", "keys"][..], &["redis", "purge", "a:*", "--dry-run"]] {
        check("loads", &place.run(question), 6, "is loading its data");
    }
    let info = place.run(&["redis", "info", "--over", "0s", "--json"]);
    assert!(info.status == 3 && info.stdout.contains("redis.loading"), "{}", info.both());
    // An orderly end would wait for the load.
    server.kill9();
    reload.join().unwrap();
}

#[test]
fn a_server_that_cannot_save() {
    let server =
        Redis::options().setting("dbfilename", "blocked.rdb").setting("save", "3600 1").start().unwrap();
    // A folder cannot be replaced by a file.
    std::fs::create_dir_all(server.dir().join("data/blocked.rdb/x")).unwrap();
    let mut connection = connection(&server);
    for index in 0..40 {
        give(&mut connection, &format!("SET cache:page:{index} 1"));
    }
    let saved: redis::RedisResult<redis::Value> = redis::cmd("SAVE").query(&mut connection);
    assert!(saved.is_err());
    give(&mut connection, "BGSAVE");
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let set: redis::RedisResult<redis::Value> =
            redis::cmd("SET").arg("a").arg("1").query(&mut connection);
        if set.is_err_and(|error| error.code() == Some("MISCONF")) {
            break;
        }
        assert!(Instant::now() < deadline, "it saves");
        std::thread::sleep(Duration::from_millis(20));
    }
    let place = place(&server.uri());
    check("MISCONF", &mark(&place), 8, "refuses writes because it cannot save");
    let info = place.run(&["redis", "info", "--over", "0s", "--json"]);
    assert!(info.status == 4 && info.stdout.contains("redis.bgsave_failed"), "{}", info.both());
    // Looking goes on: it asks nothing that is refused then.
    assert_eq!(place.run(&["redis", "keys"]).status, 0);
    place.write(
        "mainstay.toml",
        &format!(
            "[environment]\nname = \"shop\"\nclass = \"development\"\n[redis]\nurl = \"{}\"\n[redis.policy]\nappendonly = true\n\
             [repository]\nurl = \"file:./backups\"\n",
            server.uri()
        ),
    );
    check(
        "policy",
        &place.run(&["redis", "policy", "plan", "--run-time-only"]),
        8,
        "last write to its disk failed",
    );
}

#[test]
fn a_replica_and_a_server_that_is_full() {
    let master = Redis::options().setting("repl-diskless-sync-delay", "0").start().unwrap();
    let replica = Redis::start().unwrap();
    give(&mut connection(&replica), &format!("REPLICAOF 127.0.0.1 {}", master.port()));
    let refused = mark(&place(&replica.uri()));
    check("READONLY", &refused, 8, "read-only replica");
    let master_url = format!("--redis-url redis://127.0.0.1:{}", master.port());
    check("READONLY", &refused, 8, &master_url);

    let full = Redis::start().unwrap();
    let place = place(&full.uri());
    assert_eq!(mark(&place).status, 0);
    give(&mut connection(&full), "SET cache:page:1 1");
    give(&mut connection(&full), "CONFIG SET maxmemory 1");
    check("OOM", &mark(&place), 8, "at its memory limit");
    // Removing is what helps then.
    assert_eq!(place.run(&["redis", "purge", "cache:*", "--output", "p.json"]).status, 0);
    let shown = json(&place.run(&["plan", "show", "p.json", "--json"]));
    let purged = place.run(&["apply", "p.json", "--approve", shown["plan_hash"].as_str().unwrap()]);
    assert_eq!(purged.status, 0, "{}", purged.both());
}

#[test]
fn keys_nobody_would_expect() {
    let server = Redis::start().unwrap();
    let mut connection = connection(&server);
    let names: [&[u8]; 5] =
        [b"", b"bin:\x00\xff\r\n:1", b"bin:\x1b[2J:2", "käse:ж:3".as_bytes(), &b"huge:".repeat(200_000)];
    for name in names {
        let _: () = redis::cmd("SET").arg(name).arg("canary").query(&mut connection).unwrap();
    }
    let _: () =
        redis::cmd("SET").arg("huge:value:1").arg(vec![b'x'; 80_000_000]).query(&mut connection).unwrap();
    let place = place(&server.uri());
    assert_eq!(mark(&place).status, 0);
    let keys = place.run(&["redis", "keys"]);
    assert_eq!(keys.status, 0, "{}", keys.both());
    assert!(keys.stdout.contains("bin:\\u{0}\\xff") && !keys.stdout.contains('\u{1b}'), "{}", keys.stdout);
    assert!(keys.stdout.len() < 10_000 && !keys.both().contains("canary"));
    let slow = place.run(&["redis", "slowlog", "--json"]);
    assert_eq!(slow.status, 0, "{}", slow.both());
    for (pattern, left) in [("bin:*", 5), ("huge:*", 3), ("käse:*", 2)] {
        let file = format!("{left}.json");
        let planned = place.run(&["redis", "purge", pattern, "--output", &file]);
        assert_eq!(planned.status, 0, "{}", planned.both());
        let shown = json(&place.run(&["plan", "show", &file, "--json"]));
        let purged = place.run(&["apply", &file, "--approve", shown["plan_hash"].as_str().unwrap()]);
        assert_eq!(purged.status, 0, "{}", purged.both());
        let count: u64 = redis::cmd("DBSIZE").query(&mut connection).unwrap();
        assert_eq!(count, left, "{pattern}");
    }
}

#[test]
fn a_server_that_is_no_redis() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // It hears the other side out, so that what it says is what ends the talk.
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0; 512]);
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
                while stream.read(&mut [0; 512]).is_ok_and(|count| count > 0) {}
            });
        }
    });
    let place = place(&format!("redis://{address}/"));
    for question in QUESTIONS {
        let seen = place.run(question);
        assert_eq!(seen.status, 1, "{question:?}: {}", seen.both());
        assert!(seen.stderr.contains(&address.to_string()), "{question:?}: {}", seen.both());
    }
}

#[test]
fn a_sentinel() {
    let primary = Redis::start().unwrap();
    let sentinel = Sentinel::watch("shop", &primary, 1).unwrap();
    let place = place(&format!("redis://{}/", sentinel.address()));
    let watched = format!("is a Sentinel, which holds no keys; it watches shop at {}", primary.address());
    for question in QUESTIONS {
        check("sentinel", &place.run(question), 1, &watched);
    }
    let told = place.run(&["redis", "info"]);
    for way in [
        format!("--redis-url redis://{}", primary.address()),
        format!("redis+sentinel://{}/shop", sentinel.address()),
    ] {
        assert!(told.stderr.contains(&way), "{}", told.both());
    }
    // A name that it does not watch.
    let place = Place::new();
    place
        .write("mainstay.toml", &format!("[redis]\nurl = \"redis+sentinel://{}/shp\"\n", sentinel.address()));
    let told = place.run(&["redis", "info"]);
    assert_eq!(told.status, 1, "{}", told.both());
    assert!(
        told.stderr.contains("watches no primary called shp") && told.stderr.contains("it watches shop"),
        "{}",
        told.both()
    );
}
