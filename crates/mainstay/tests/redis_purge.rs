//! `redis purge` through the binary: counted, permitted, removed; what is protected stays, whoever asks; stopped and forbidden ones.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod binary;

use std::process::Stdio;

use binary::{Place, Seen};
use mainstay_ops::purge::Glob;
use mainstay_testkit::Redis;
use redis::aio::MultiplexedConnection;
use serde_json::Value;

async fn connection(server: &Redis) -> MultiplexedConnection {
    redis::Client::open(server.uri()).unwrap().get_multiplexed_async_connection().await.unwrap()
}

async fn give<T: redis::FromRedisValue>(connection: &mut MultiplexedConnection, words: &[&str]) -> T {
    let answer = redis::cmd(words[0]).arg(&words[1..]).query_async(connection).await;
    answer.unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

async fn set(connection: &mut MultiplexedConnection, prefix: &str, count: u64) {
    // In pieces that a server which is busy answers in time, too.
    for begin in (0..count).step_by(5_000) {
        let mut pipeline = redis::pipe();
        for index in begin..count.min(begin + 5_000) {
            pipeline.cmd("SET").arg(format!("{prefix}{index}")).arg("1").ignore();
        }
        let _: () = pipeline.query_async(connection).await.unwrap();
    }
}

async fn keys(connection: &mut MultiplexedConnection) -> u64 {
    give(connection, &["DBSIZE"]).await
}

fn place(server: &Redis, class: &str) -> Place {
    let place = Place::new();
    place.write(
        "mainstay.toml",
        &format!(
            "[environment]\nname = \"shop\"\nclass = \"{class}\"\n[redis]\nurl = \"{}\"\n[repository]\nurl = \"file:./backups\"\n",
            server.uri()
        ),
    );
    place
}

/// Marks the server with the environment of the place.
fn mark(place: &Place) {
    assert_eq!(place.run(&["environment", "mark", "--store", "redis", "--output", "mark.json"]).status, 0);
    let seen = approved(place, "mark.json");
    assert_eq!(seen.status, 0, "{}", seen.both());
}

/// Applies a plan with its hash.
fn approved(place: &Place, plan: &str) -> Seen {
    let shown = place.run(&["plan", "show", plan, "--json"]);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    place.run(&["apply", plan, "--approve", shown["plan_hash"].as_str().unwrap()])
}

#[tokio::test]
async fn what_matches_goes_and_nothing_else() {
    let server = Redis::start().unwrap();
    let mut connection = connection(&server).await;
    let place = place(&server, "development");
    mark(&place);
    set(&mut connection, "payment:idem:", 5000).await;
    set(&mut connection, "payment:idem:keep:", 10).await;
    set(&mut connection, "auth:session:", 300).await;
    let before = keys(&mut connection).await;

    let dry = place.run(&["redis", "purge", "payment:idem:*", "--dry-run"]);
    assert_eq!(dry.status, 0, "{}", dry.both());
    assert!(dry.stdout.contains("payment:idem:*") && dry.stdout.contains("5,010 keys"), "{}", dry.stdout);
    assert_eq!(keys(&mut connection).await, before);
    // What is approved is what was asked for, not what it came to when it was counted.
    let told = place.run(&[
        "redis",
        "purge",
        "payment:*",
        "--protect",
        "*:keep:*",
        "--database",
        "0",
        "--output",
        "told.json",
    ]);
    for text in ["patterns [\"payment:*\"]", "protect [\"*:keep:*\"]", "databases [0]"] {
        assert!(told.stdout.contains(text), "{text}: {}", told.both());
    }
    let edited = std::fs::read_to_string(place.path("told.json")).unwrap().replace("payment:*\"", "auth:*\"");
    place.write("edited.json", &edited);
    let shown = place.run(&["plan", "show", "edited.json"]);
    assert!(shown.stdout.contains("patterns [\"auth:*\"]"), "{}", shown.both());

    let planned =
        ["redis", "purge", "payment:idem:*", "payment:*", "--protect", "*:keep:*", "--output", "purge.json"];
    assert_eq!(place.run(&planned).status, 0);
    set(&mut connection, "payment:idem:late:", 3).await;
    let seen = approved(&place, "purge.json");
    assert_eq!(seen.status, 0, "{}", seen.both());
    assert!(seen.stdout.contains("5,003 keys (5,000 when they were counted)"), "{}", seen.stdout);
    assert_eq!(keys(&mut connection).await, before + 3 - 5003);
    let again = place.run(&["redis", "purge", "payment:nothing:*"]);
    assert_eq!(again.status, 8, "{}", again.both());

    // Everything but who the server is.
    let refused = place.run(&["redis", "purge", "*"]);
    assert!(refused.status == 2 && refused.stderr.contains("--everything"), "{}", refused.both());
    for all in [&["?*"][..], &["[a-m]*", "[^a-m]*"]] {
        let refused = place.run(&[&["redis", "purge"], all].concat());
        assert!(refused.status == 2 && refused.stderr.contains("--everything"), "{}", refused.both());
    }
    assert_eq!(place.run(&["redis", "purge", "*", "--everything", "--output", "all.json"]).status, 0);
    assert_eq!(approved(&place, "all.json").status, 0);
    assert_eq!(keys(&mut connection).await, 1);
    assert!(place.run(&["environment", "show"]).stdout.contains("shop"));
}

#[tokio::test]
async fn production_wants_a_verified_backup_of_this_server() {
    let server = Redis::options().setting("repl-diskless-sync-delay", "0").start().unwrap();
    let mut connection = connection(&server).await;
    let place = place(&server, "production");
    mark(&place);
    set(&mut connection, "cache:page:", 50).await;
    set(&mut connection, "auth:session:", 30).await;
    assert_eq!(place.run(&["redis", "purge", "cache:*", "--output", "purge.json"]).status, 0);
    let refused = approved(&place, "purge.json");
    assert!(refused.status == 7 && refused.stderr.contains("backup"), "{}", refused.both());
    assert_eq!(keys(&mut connection).await, 81);
    assert_eq!(place.run(&["backup", "create", "--store", "redis"]).status, 0);
    assert_eq!(approved(&place, "purge.json").status, 7, "it is not verified yet");
    assert_eq!(place.run(&["backup", "verify", "latest", "--store", "redis"]).status, 0);
    let done = approved(&place, "purge.json");
    assert_eq!(done.status, 0, "{}", done.both());
    assert_eq!(keys(&mut connection).await, 31);
    assert!(place.run(&["audit", "list"]).stdout.contains("removed 50 keys"));
    let audited = place.run(&["audit", "list", "--json"]).stdout;
    assert!(audited.contains("\"undo_point\":\""), "{audited}");
}

#[tokio::test]
async fn a_purge_that_is_stopped_says_how_far_it_came_and_can_be_finished() {
    let server = Redis::start().unwrap();
    let mut connection = connection(&server).await;
    let place = place(&server, "development");
    mark(&place);
    set(&mut connection, "cache:page:", 60_000).await;
    set(&mut connection, "auth:session:", 30).await;
    // The smallest steps there are.
    let planned = ["redis", "purge", "cache:*", "--busy-at-most", "1us", "--output", "purge.json"];
    assert_eq!(place.run(&planned).status, 0);
    let shown: Value =
        serde_json::from_str(&place.run(&["plan", "show", "purge.json", "--json"]).stdout).unwrap();
    let mut command =
        place.command(&["apply", "purge.json", "--approve", shown["plan_hash"].as_str().unwrap()]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while keys(&mut connection).await > 59_000 {}
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let stopped: Seen = child.wait_with_output().unwrap().into();
    assert!(stopped.status == 75 && stopped.stderr.contains("keys are removed"), "{}", stopped.both());
    let left = keys(&mut connection).await;
    assert!(left > 31 && left < 60_031, "{left} are left");
    let approve = ["apply", "purge.json", "--approve", shown["plan_hash"].as_str().unwrap(), "--json"];
    let seen = approved_json(&place, &approve);
    // The total is that of both runs.
    assert_eq!((&seen["resumed"], &seen["removed"]), (&Value::from(true), &Value::from(60_000)), "{seen}");
    assert_eq!(keys(&mut connection).await, 31);
}

#[tokio::test]
async fn a_user_who_may_write_one_prefix_is_held_to_it() {
    let server = Redis::start().unwrap();
    let mut connection = connection(&server).await;
    let place = place(&server, "development");
    mark(&place);
    set(&mut connection, "cache:page:", 40).await;
    set(&mut connection, "auth:session:", 40).await;
    let _: redis::Value = give(
        &mut connection,
        &[
            "ACL",
            "SETUSER",
            "janitor",
            "on",
            ">canary-janitor",
            "%R~*",
            "%W~cache:*",
            "+@connection",
            "+@read",
            "+info",
            "+unlink",
        ],
    )
    .await;
    place.write(
        "mainstay.toml",
        &format!(
            "[environment]\nname = \"shop\"\nclass = \"development\"\n[redis]\nurl = \"{}\"\n[repository]\nurl = \"file:./backups\"\n",
            server.uri().replace("redis://", "redis://janitor@")
        ),
    );
    let place = place.variable("MAINSTAY_REDIS_PASSWORD", "canary-janitor");
    for (pattern, status) in [("auth:*", 5), ("cache:*", 0)] {
        let file = format!("{status}.json");
        assert_eq!(place.run(&["redis", "purge", pattern, "--output", &file]).status, 0);
        let seen = approved(&place, &file);
        assert_eq!(seen.status, status, "{}", seen.both());
        assert!(!seen.both().contains("canary"));
    }
    assert_eq!(keys(&mut connection).await, 41);
}

#[tokio::test]
async fn globs_mean_what_the_server_means_by_them() {
    let server = Redis::start().unwrap();
    let mut connection = connection(&server).await;
    let names = ["a", "ab", "abc", "a*c", "a:b:c", "a]c", "-", "a-c", "[a]", "\\", "ä", "abcabc", "^", "b"];
    for name in names {
        let _: redis::Value = give(&mut connection, &["SET", name, "1"]).await;
    }
    for pattern in [
        "*", "", "a", "a*", "*c", "a*c", "a?c", "?", "??", "[a-b]", "[^a]", "[^a-b]*", "a[*]c", "a\\*c",
        "[\\]]", "a[]c", "[", "[a", "a[b-", "[]]", "*[", "\\", "\\\\", "[^]", "[-a]", "[a-]", "*b*", "**",
        "a:*:c", "[b-a]", "ä", "?*?", "[[]a]",
    ] {
        let mut found: Vec<String> = give(&mut connection, &["KEYS", pattern]).await;
        found.sort();
        let glob = Glob::new(pattern);
        let mut ours: Vec<String> = names
            .iter()
            .filter(|name| glob.matches(name.as_bytes()))
            .map(|name| (*name).to_owned())
            .collect();
        ours.sort();
        assert_eq!(ours, found, "{pattern}");
    }
}

#[tokio::test]
async fn protected_classes_stay_unless_they_are_named() {
    let server = Redis::options().setting("repl-diskless-sync-delay", "0").start().unwrap();
    let mut connection = connection(&server).await;
    let place = place(&server, "development");
    mark(&place);
    let declared = std::fs::read_to_string(place.path("mainstay.toml")).unwrap()
        + "[redis.classes]\nsession = [\"auth:session:*\"]\nidempotency = [\"payment:idem:*\"]\ncache = [\"auth:avatar:*\"]\n";
    place.write("mainstay.toml", &declared);
    set(&mut connection, "auth:session:", 30).await;
    set(&mut connection, "auth:avatar:", 40).await;
    set(&mut connection, "payment:idem:", 50).await;
    let all = place.run(&["redis", "purge", "payment:idem:*", "--dry-run"]);
    assert!(all.status == 8 && all.stderr.contains("50 of class idempotency"), "{}", all.both());
    assert!(all.stderr.contains("--with-class idempotency"), "{}", all.stderr);
    let some = place.run(&["redis", "purge", "auth:*", "--dry-run"]);
    for text in ["30 keys match and stay", "40 cached values are made again", "no backup of this server"] {
        assert!(some.stdout.contains(text), "{text}: {}", some.both());
    }
    assert_eq!(place.run(&["backup", "create", "--store", "redis"]).status, 0);
    let told = place.run(&["redis", "purge", "auth:*", "--with-class", "session", "--output", "purge.json"]);
    for text in ["30 sessions are signed out", "begun 0 min ago, not verified"] {
        assert!(told.stdout.contains(text), "{text}: {}", told.both());
    }
    assert_eq!(place.run(&["redis", "purge", "auth:*", "--output", "less.json"]).status, 0);
    assert_eq!(approved(&place, "less.json").status, 0);
    assert_eq!(keys(&mut connection).await, 81);
    assert_eq!(approved(&place, "purge.json").status, 0);
    assert_eq!(keys(&mut connection).await, 51);
    assert_eq!(place.run(&["redis", "purge", "auth:*", "--with-class", "cache"]).status, 2);
}

#[tokio::test]
async fn a_purge_that_is_killed_goes_on_where_it_was() {
    let server = Redis::start().unwrap();
    let mut connection = connection(&server).await;
    let place = place(&server, "development");
    // The lease of who is killed keeps others away for that long.
    let brief = std::fs::read_to_string(place.path("mainstay.toml")).unwrap() + "lease_ttl = \"3s\"\n";
    place.write("mainstay.toml", &brief);
    mark(&place);
    set(&mut connection, "cache:page:", 200_000).await;
    set(&mut connection, "auth:session:", 30).await;
    let planned =
        ["redis", "purge", "auth:none:*", "cache:*", "--busy-at-most", "1us", "--output", "purge.json"];
    assert_eq!(place.run(&planned).status, 0);
    let shown: Value =
        serde_json::from_str(&place.run(&["plan", "show", "purge.json", "--json"]).stdout).unwrap();
    let approve = ["apply", "purge.json", "--approve", shown["plan_hash"].as_str().unwrap(), "--json"];
    let mut child = place.command(&approve).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let notes = || {
        let Ok(plans) = std::fs::read_dir(place.path("backups/redis/settings")) else { return 0 };
        let files = plans.flat_map(|plan| std::fs::read_dir(plan.unwrap().path()).unwrap());
        files
            .filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|kind| kind == "json"))
            .count()
    };
    while notes() == 0 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it wrote down where it is");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    // Nobody else purges the same server meanwhile.
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let second = place.run(&approve);
    assert!(second.status == 10 && second.both().contains("purge"), "{}", second.both());
    child.kill().unwrap();
    child.wait().unwrap();
    let left = keys(&mut connection).await;
    assert!(left > 1_000, "{left}");
    let seen = approved_json(&place, &approve);
    assert_eq!((&seen["resumed"], keys(&mut connection).await), (&Value::from(true), 31), "{seen}");
    let removed = seen["removed"].as_u64().unwrap();
    assert!(removed + left > 200_000 && removed <= 200_000, "{seen}");
    // It has ended: the same plan again begins anew, and finds what came since.
    set(&mut connection, "cache:page:", 5).await;
    let seen = approved_json(&place, &approve);
    assert_eq!((&seen["resumed"], &seen["removed"]), (&Value::from(false), &Value::from(5)), "{seen}");
}

/// Waits for the lease of a run that was killed.
fn approved_json(place: &Place, approve: &[&str]) -> Value {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let mut seen = place.run(approve);
    while seen.status == 10 && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(100));
        seen = place.run(approve);
    }
    assert_eq!(seen.status, 0, "{}", seen.both());
    serde_json::from_str(&seen.stdout).unwrap()
}

#[tokio::test]
async fn names_may_come_from_a_file() {
    let server = Redis::start().unwrap();
    let mut connection = connection(&server).await;
    let place = place(&server, "development");
    mark(&place);
    set(&mut connection, "cache:page:", 5_000).await;
    set(&mut connection, "cache:keep:", 10).await;
    set(&mut connection, "auth:session:", 30).await;
    let _: redis::Value = give(&mut connection, &["SELECT", "3"]).await;
    set(&mut connection, "cache:page:", 7).await;
    let _: redis::Value = give(&mut connection, &["SAVE"]).await;
    let _: redis::Value = give(&mut connection, &["SELECT", "0"]).await;
    set(&mut connection, "cache:page:late:", 3).await;
    let file = server.dir().join("data/dump.rdb");
    let file = file.to_str().unwrap();
    let purge = ["redis", "purge", "cache:page:*", "cache:*", "--protect", "*:keep:*", "--rdb", file];
    let planned = place.run(&[&purge[..], &["--output", "purge.json"]].concat());
    assert_eq!(planned.status, 0, "{}", planned.both());
    let _: redis::Value = give(&mut connection, &["CONFIG", "RESETSTAT"]).await;
    let seen = approved(&place, "purge.json");
    assert!(seen.status == 0 && seen.stdout.contains("5,007 keys"), "{}", seen.both());
    let stats: String = give(&mut connection, &["INFO", "commandstats"]).await;
    assert!(!stats.contains("cmdstat_scan"), "{stats}");
    // The marker, sessions, what is protected, and what the file does not know.
    assert_eq!(keys(&mut connection).await, 1 + 30 + 10 + 3);
    for (bad, status) in [("absent.rdb", 1), ("mainstay.toml", 2)] {
        let seen = place.run(&["redis", "purge", "cache:*", "--rdb", bad, "--dry-run"]);
        assert_eq!(seen.status, status, "{bad}: {}", seen.both());
    }
    assert_eq!(place.run(&[&purge[..], &["--output", "again.json"]].concat()).status, 0);
    let _: redis::Value = give(&mut connection, &["SAVE"]).await;
    assert_eq!(approved(&place, "again.json").status, 9, "the file is another one");

    // One of the same length that names another key, its time of writing put back.
    let copy = place.path("copy.rdb");
    std::fs::copy(file, &copy).unwrap();
    let purge = ["redis", "purge", "cache:keep:*", "--rdb", "copy.rdb", "--output", "same.json"];
    assert_eq!(place.run(&purge).status, 0);
    let before = keys(&mut connection).await;
    let written = std::fs::metadata(&copy).unwrap().modified().unwrap();
    let mut bytes = std::fs::read(&copy).unwrap();
    let at = bytes.windows(12).position(|some| some == b"cache:keep:3").unwrap();
    bytes[at + 11] = b'x';
    std::fs::write(&copy, &bytes).unwrap();
    std::fs::File::options().write(true).open(&copy).unwrap().set_modified(written).unwrap();
    let refused = approved(&place, "same.json");
    assert!(refused.status == 9 && refused.stderr.contains("other contents"), "{}", refused.both());
    assert_eq!(keys(&mut connection).await, before);
}
