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
    let mut pipeline = redis::pipe();
    for index in 0..count {
        pipeline.cmd("SET").arg(format!("{prefix}{index}")).arg("1").ignore();
    }
    let _: () = pipeline.query_async(connection).await.unwrap();
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
    assert_eq!(approved(&place, "purge.json").status, 0);
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
