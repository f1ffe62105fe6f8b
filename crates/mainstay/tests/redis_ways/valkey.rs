//! Valkey, which came of Redis and speaks as it does: everything that is asked of a Redis.

use mainstay_testkit::Redis;

use crate::support::{client, expect, json, mark, place};

fn started() -> Redis {
    let options = Redis::options().valkey().config_file().setting("save", "3600 1");
    options.setting("repl-diskless-sync-delay", "0").start().unwrap()
}

#[test]
fn what_works_with_redis_works_with_valkey() {
    let server = started();
    let mut writer = client(&server);
    assert!(writer.info("valkey_version").starts_with('8'));
    for number in 0..200 {
        writer.must(&["SET", &format!("payment:idem:{number}"), &"x".repeat(100), "EX", "9000"]);
        writer.must(&["HSET", &format!("cart:{number}"), "item", "1", "count", "2"]);
    }
    writer.must(&["SELECT", "3"]);
    writer.must(&["XADD", "events", "*", "kind", "signed-in"]);
    writer.must(&["ZADD", "ranks", "1", "first", "2", "second"]);
    let place = place(&server.uri(), "development", "[redis.policy]\nmaxmemory = \"900MB\"");
    mark(&place);
    let run = |arguments: &[&str]| json(&expect(place.run(&[arguments, &["--json"]].concat()), 0));
    let info = run(&["redis", "info"]);
    assert_eq!(info["mode"], "standalone", "{info}");
    run(&["redis", "memory"]);
    run(&["redis", "slowlog"]);
    assert_eq!(run(&["redis", "keys"])["total"]["keys"], 403, "the marker is one");
    let made = run(&["backup", "create", "--store", "redis"]);
    assert_eq!((&made["keys"], &made["checksum"]), (&403.into(), &true.into()), "{made}");
    expect(place.run(&["backup", "verify", "latest", "--store", "redis"]), 0);
    let plain = run(&["backup", "create", "--store", "redis", "--plain-transfer"]);
    assert_eq!((&plain["keys"], &plain["plain_transfer"]), (&403.into(), &true.into()), "{plain}");

    let planned = run(&["redis", "purge", "payment:idem:*", "--output", "purge.json"]);
    let hash = planned["plan_hash"].as_str().unwrap();
    assert_eq!(run(&["apply", "purge.json", "--approve", hash])["removed"], 200);
    let policy = run(&["redis", "policy", "plan", "--output", "policy.json"]);
    let hash = policy["plan_hash"].as_str().unwrap();
    assert_eq!(run(&["apply", "policy.json", "--approve", hash])["durable"], true);

    // Its stream is captured, and another one is filled with it.
    expect(place.run(&["capture", "redis", "--once"]), 0);
    writer.must(&["RPUSH", "queue", "one", "two"]);
    expect(place.run(&["capture", "redis", "--once"]), 0);
    expect(place.run(&["backup", "verify", "latest", "--store", "redis", "--log"]), 0);
    let into = started();
    let uri = into.uri();
    let to = [
        "--redis-url",
        &uri,
        "restore",
        "plan",
        "--store",
        "redis",
        "--to",
        "latest",
        "--output",
        "restore.json",
    ];
    let hash = run(&to)["plan_hash"].as_str().unwrap().to_owned();
    let restored = run(&["--redis-url", &uri, "restore", "apply", "restore.json", "--approve", &hash]);
    assert_eq!(
        (&restored["written_as"], &restored["marked"]),
        (&"snapshot".into(), &false.into()),
        "{restored}"
    );
    // It is another server: of its own marker there was none, and the other's does not come.
    writer.must(&["SELECT", "0"]);
    writer.must(&["DEL", "mainstay:identity:environment"]);
    assert_eq!(client(&into).digest(), writer.digest());
}
