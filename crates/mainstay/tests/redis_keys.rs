//! `redis keys` through the binary, against a real server and the file it writes: the same census, and bad input.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod binary;
mod keyserver;

use std::fs;

use keyserver::{connection, give, json, place};
use mainstay_testkit::Redis;
use redis::aio::MultiplexedConnection;
use serde_json::Value;

/// What the marketplace keeps in Redis, in small.
async fn fill(connection: &mut MultiplexedConnection) {
    for index in 0..400 {
        give(connection, &format!("SET auth:session:{index} token-{index} EX 3000")).await;
        give(connection, &format!("HSET cache:product:{index} name p price {index}")).await;
    }
    give(connection, "SET auth:session:forgotten token").await;
    give(connection, "SET plain 1").await;
    give(connection, &format!("SET cache:page:home {}", "x".repeat(50_000))).await;
    give(connection, "SELECT 4").await;
    give(connection, "RPUSH queue:mail:1 a b c").await;
}

fn keys_of(census: &Value, prefix: &str) -> u64 {
    let groups = census["prefixes"].as_array().unwrap();
    groups.iter().find(|group| group["prefix"] == prefix).unwrap_or(&Value::Null)["keys"]
        .as_u64()
        .unwrap_or(0)
}

#[tokio::test]
async fn the_census_of_the_server_and_of_its_file_agree() {
    let server = Redis::options().setting("save", "").start().unwrap();
    let mut connection = connection(&server).await;
    fill(&mut connection).await;
    give(&mut connection, "SAVE").await;
    let place = place(&server.uri(), "");
    fs::copy(server.dir().join("data/dump.rdb"), place.path("dump.rdb")).unwrap();
    for (arguments, bytes_are) in [
        (&["redis", "keys", "--json"][..], "memory"),
        (&["redis", "keys", "--json", "--rdb", "dump.rdb"], "data"),
    ] {
        let seen = place.run(arguments);
        assert_eq!(seen.status, 3, "{}", seen.both());
        let census = json(&seen);
        assert_eq!(census["bytes_are"], bytes_are);
        assert_eq!(census["total"]["keys"], 804, "{census}");
        assert_eq!(keys_of(&census, "auth:session:"), 401);
        assert_eq!(keys_of(&census, "cache:product:"), 400);
        assert_eq!(keys_of(&census, "queue:mail:"), 1);
        assert_eq!(census["biggest"][0]["name"], "cache:page:home");
        assert_eq!(
            (&census["unconventional"], &census["unconventional_names"][0]),
            (&Value::from(1), &Value::from("plain"))
        );
        let ids: Vec<_> =
            census["findings"].as_array().unwrap().iter().map(|finding| &finding["id"]).collect();
        assert_eq!(ids, ["redis.keys.never_expire", "redis.keys.unconventional"]);
        assert!(census["findings"][0]["message"].as_str().unwrap().contains("auth:session:forgotten"));
    }
    let text = place.run(&["redis", "keys", "--top", "2"]);
    assert!(
        text.stdout.contains("auth:session:*") && text.stdout.contains("smaller prefixes"),
        "{}",
        text.both()
    );
    let one = json(&place.run(&["redis", "keys", "--json", "--database", "4"]));
    assert_eq!(one["total"]["keys"], 1);
    let matching = json(&place.run(&["redis", "keys", "--json", "--match", "cache:*"]));
    assert_eq!(matching["total"]["keys"], 401);
    let deeper = json(&place.run(&["redis", "keys", "--json", "--depth", "1"]));
    assert_eq!(keys_of(&deeper, "cache:"), 401);
}

#[tokio::test]
async fn counting_leaves_idleness_alone_and_needs_few_rights() {
    let server = Redis::options().setting("maxmemory-policy", "allkeys-lru").start().unwrap();
    let mut connection = connection(&server).await;
    give(&mut connection, "SET a:b:c 1").await;
    give(&mut connection, "ACL SETUSER inspect on >canary-inspect %R~* +@connection +info +scan +type +pttl")
        .await;
    let idle = async |connection: &mut MultiplexedConnection| -> u64 {
        redis::cmd("OBJECT").arg("IDLETIME").arg("a:b:c").query_async(connection).await.unwrap()
    };
    while idle(&mut connection).await < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let place = place(&server.uri(), "");
    let seen = place.run(&["redis", "keys"]);
    assert_eq!(seen.status, 0, "{}", seen.both());
    assert!(idle(&mut connection).await >= 2, "the key counts as used");
    place.write(
        "mainstay.toml",
        &format!("[redis]\nurl = \"{}\"\n", server.uri().replace("redis://", "redis://inspect@")),
    );
    let narrow = place.variable("MAINSTAY_REDIS_PASSWORD", "canary-inspect").run(&["redis", "keys"]);
    assert_eq!(narrow.status, 0, "{}", narrow.both());
    assert!(narrow.stdout.contains("may not give MEMORY USAGE"), "{}", narrow.both());
    assert!(!narrow.both().contains("canary"), "{}", narrow.both());
}

#[tokio::test]
async fn bad_input_is_told_what_it_is() {
    let server = Redis::start().unwrap();
    let mut connection = connection(&server).await;
    give(&mut connection, "SET a:b:c 1").await;
    give(&mut connection, "SAVE").await;
    let place = place(&server.uri(), "");
    let file = fs::read(server.dir().join("data/dump.rdb")).unwrap();
    fs::write(place.path("cut.rdb"), &file[..file.len() - 12]).unwrap();
    let mut flipped = file.clone();
    flipped[file.len() - 12] ^= 1;
    fs::write(place.path("flipped.rdb"), &flipped).unwrap();
    fs::write(place.path("newer.rdb"), b"REDIS0099").unwrap();
    place.write("text.rdb", "not a database file at all");
    for (name, status, text) in [
        ("cut.rdb", 4, "cut off"),
        ("flipped.rdb", 4, "checksum"),
        ("newer.rdb", 1, "version 99"),
        ("text.rdb", 2, "no database file"),
        ("missing.rdb", 1, "there is no"),
        (".", 2, "no file"),
    ] {
        let seen = place.run(&["redis", "keys", "--rdb", name]);
        assert_eq!(seen.status, status, "{name}: {}", seen.both());
        assert!(seen.stderr.contains(text), "{name}: {}", seen.both());
    }
    for arguments in [
        &["redis", "keys", "--busy-at-most", "0s"][..],
        &["redis", "keys", "--delimiter", "::"],
        &["redis", "keys", "--depth", "0"],
        &["redis", "keys", "--rdb", "cut.rdb", "--match", "a*"],
    ] {
        assert_eq!(place.run(arguments).status, 2, "{arguments:?}");
    }
}
