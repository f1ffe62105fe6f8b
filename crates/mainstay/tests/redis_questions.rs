//! `redis info`, `memory` and `slowlog` through the binary, against real servers in good and bad states.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod binary;
mod keyserver;

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use binary::{Place, Seen};
use keyserver::{connection, give, json, place};
use mainstay_testkit::Redis;
use redis::aio::MultiplexedConnection;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// What may be shown to nobody who did not ask.
const CANARY: &str = "canary-4711";

fn ids(report: &Value) -> Vec<&str> {
    report["findings"].as_array().unwrap().iter().map(|finding| finding["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_server_is_digested_into_what_matters() {
    let server = Redis::options().append_only().start().unwrap();
    let mut connection = connection(&server).await;
    let place = place(&server.uri(), "");
    give(&mut connection, "SET auth:session:1 token EX 900").await;
    let seen = place.run(&["redis", "info", "--over", "100ms"]);
    assert_eq!(seen.status, 0, "{}", seen.both());
    assert!(seen.stdout.contains("8.0") && seen.stdout.contains("no findings"), "{}", seen.stdout);
    assert!(seen.stdout.contains("1 in database 0, 1 expire"), "{}", seen.stdout);
    let report = json(&place.run(&["redis", "info", "--over", "0s", "--json"]));
    assert_eq!((&report["version"], &report["persistence"]["log_on"]), (&Value::from(1), &Value::from(true)));
    assert!(report["server_version"].as_str().unwrap().starts_with("8."), "{report}");

    // A limit that is nearly reached, then reached: writes are refused while it looks.
    give(&mut connection, "CONFIG SET appendonly no").await;
    let used =
        json(&place.run(&["redis", "info", "--over", "0s", "--json"]))["memory"]["used"].as_u64().unwrap();
    give(&mut connection, &format!("CONFIG SET maxmemory {}", used * 10 / 9)).await;
    let seen = place.run(&["redis", "info", "--over", "0s", "--json"]);
    assert_eq!(seen.status, 3, "{}", seen.both());
    assert_eq!(ids(&json(&seen)), ["redis.memory_nearly_full", "redis.nothing_persisted"]);
    give(&mut connection, "CONFIG SET maxmemory 1").await;
    let mut command = place.command(&["redis", "info", "--over", "1s", "--json"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let refused = tokio::spawn(async move {
        loop {
            let written: redis::RedisResult<()> =
                redis::cmd("SET").arg("a").arg("1").query_async(&mut connection).await;
            assert!(written.is_err());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let seen: Seen =
        tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap().into();
    refused.abort();
    assert_eq!(seen.status, 4, "{}", seen.both());
    assert!(ids(&json(&seen)).contains(&"redis.writes_refused"), "{}", seen.both());
    assert!(seen.stdout.contains("were refused for want of memory just now"), "{}", seen.stdout);
}

#[tokio::test]
async fn memory_is_told_by_parts_and_foretold() {
    let server = Redis::options().append_only().start().unwrap();
    let mut connection = connection(&server).await;
    let place = place(&server.uri(), "");
    for index in 0..50 {
        give(&mut connection, &format!("SET cache:page:{index} {}", "x".repeat(10_000))).await;
    }
    let seen = place.run(&["redis", "memory", "--over", "100ms"]);
    assert_eq!(seen.status, 0, "{}", seen.both());
    for text in ["keys and values", "used", "50 keys of", "no limit"] {
        assert!(seen.stdout.contains(text), "{text}: {}", seen.stdout);
    }
    give(&mut connection, "CONFIG SET maxmemory 1gb").await;
    let mut command = place.command(&["redis", "memory", "--over", "1s", "--json"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let writer = tokio::spawn(async move {
        for index in 0_u64.. {
            give(&mut connection, &format!("SET more:page:{index} {}", "x".repeat(10_000))).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    let seen: Seen =
        tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap().into();
    writer.abort();
    let report = json(&seen);
    assert!(report["growth_bytes_per_second"].as_f64().unwrap() > 100_000.0, "{report}");
    assert!(report["seconds_to_limit"].as_u64().unwrap() < 24 * 3600, "{report}");
    assert_eq!((ids(&report), seen.status), (vec!["redis.memory_soon_full"], 0));
    assert!(report["parts"]["dataset"].as_u64().unwrap() > 500_000, "{report}");
}

#[tokio::test]
async fn slow_commands_are_told_without_their_arguments() {
    let server = Redis::start().unwrap();
    let mut connection = connection(&server).await;
    let place = place(&server.uri(), "");
    assert!(place.run(&["redis", "slowlog"]).stdout.contains("no slow command of 10.00 ms or longer"));
    give(&mut connection, "CONFIG SET slowlog-log-slower-than 0").await;
    give(&mut connection, &format!("SET auth:session:{CANARY} {CANARY}")).await;
    give(&mut connection, &format!("EVAL return({CANARY:?}) 1 {CANARY}")).await;
    give(&mut connection, &format!("CONFIG GET {CANARY}")).await;
    give(&mut connection, "CONFIG SET slowlog-log-slower-than -1").await;
    let seen = place.run(&["redis", "slowlog", "--verbose"]);
    assert_eq!(seen.status, 0, "{}", seen.both());
    for text in ["SET auth:session:* <11 bytes>", "EVAL <", "CONFIG GET <11 bytes>", "redis.slowlog_off"] {
        assert!(seen.stdout.contains(text), "{text}: {}", seen.stdout);
    }
    assert!(!seen.both().contains(CANARY), "{}", seen.both());
    let report = json(&place.run(&["redis", "slowlog", "--json", "--limit", "2"]));
    assert_eq!(
        (report["calls"].as_array().unwrap().len(), report["costs"].as_array().unwrap().len()),
        (2, 2)
    );
    assert!(!report.to_string().contains(CANARY), "{report}");
    assert!(place.run(&["redis", "slowlog", "--show-literals", "--json"]).stdout.contains(CANARY));

    give(&mut connection, "KEYS *").await;
    let warned = place.run(&["redis", "slowlog"]);
    assert!(warned.status == 3 && warned.stdout.contains("whole_keyspace_command"), "{}", warned.both());
}

#[tokio::test]
async fn slow_commands_are_told_as_they_come() {
    let server = Redis::start().unwrap();
    let mut connection = connection(&server).await;
    let place = place(&server.uri(), "");
    give(&mut connection, "SET before:follow:1 x").await;
    let mut command = place.command(&["redis", "slowlog", "--follow", "--every", "50ms", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let looks = Instant::now() + Duration::from_secs(20);
    while !client_asked(&mut connection).await {
        assert!(Instant::now() < looks, "nobody looks into the slow log");
    }
    give(&mut connection, "CONFIG SET slowlog-log-slower-than 1").await;
    give(&mut connection, &format!("SET auth:session:{CANARY} {}", CANARY.repeat(100_000))).await;
    give(&mut connection, "CONFIG SET slowlog-log-slower-than -1").await;
    // It goes on until it is asked to stop: when it has told what came.
    let mut told = BufReader::new(child.stdout.take().unwrap());
    let mut came = String::new();
    while !came.contains("auth:session:*") {
        assert!(told.read_line(&mut came).unwrap() > 0, "it ended: {came}");
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    told.read_to_string(&mut came).unwrap();
    let mut seen: Seen = child.wait_with_output().unwrap().into();
    seen.stdout = came;
    assert_eq!(seen.status, 0, "{}", seen.both());
    let lines: Vec<Value> = seen.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told = lines.iter().filter_map(|line| line["call"]["command"].as_str());
    let told: Vec<&str> = told.filter(|command| command.contains("auth:session:*")).collect();
    assert_eq!(told.len(), 1, "{}", seen.stdout);
    assert!(lines.last().unwrap()["costs"].is_array(), "{}", seen.stdout);
    assert!(!seen.both().contains(CANARY));
}

/// Whether somebody has read the slow log.
async fn client_asked(connection: &mut MultiplexedConnection) -> bool {
    let stats: String = redis::cmd("INFO").arg("commandstats").query_async(connection).await.unwrap();
    stats.contains("cmdstat_slowlog|get")
}

#[tokio::test]
async fn what_a_user_may_not_ask_is_told() {
    let server = Redis::start().unwrap();
    let mut connection = connection(&server).await;
    give(&mut connection, &format!("ACL SETUSER reader on >{CANARY} ~* +@connection +@read +info")).await;
    let place = Place::new();
    place.write(
        "mainstay.toml",
        &format!("[redis]\nurl = \"{}\"\n", server.uri().replace("redis://", "redis://reader@")),
    );
    let place = place.variable("MAINSTAY_REDIS_PASSWORD", CANARY);
    let info = place.run(&["redis", "info", "--over", "0s"]);
    assert!(info.status == 0 && info.stdout.contains("not to be seen by this user"), "{}", info.both());
    for command in ["memory", "slowlog"] {
        let seen = place.run(&["redis", command]);
        assert!(seen.status == 5 && seen.stderr.contains("lacks a permission"), "{}", seen.both());
        assert!(!seen.both().contains(CANARY));
    }
}
