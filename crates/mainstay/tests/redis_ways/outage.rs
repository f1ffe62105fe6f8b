//! `capture redis` while the object store is slow, and while it fails: nothing acknowledged is lost, and it catches up.

use std::time::Duration;

use mainstay_testkit::engines::{EngineKind, locate};
use mainstay_testkit::keys::Client;
use mainstay_testkit::s3::S3Fault;
use mainstay_testkit::{Redis, S3Server};

use crate::binary::Place;
use crate::support::{Capture, client, expect, json};

fn place(server: &Redis, s3: &S3Server) -> Place {
    let program = locate(EngineKind::Redis).unwrap().program;
    let place = Place::new()
        .variable("PATH", program.parent().unwrap().to_str().unwrap())
        .variable("MAINSTAY_S3_SECRET_ACCESS_KEY", s3.secret_key());
    place.write(
        "mainstay.toml",
        &format!(
            "[environment]\nname = \"tests\"\nclass = \"development\"\n[redis]\nurl = \"{}\"\n\
             [repository]\nurl = \"s3://{}/r\"\n\
             [repository.s3]\nendpoint = \"{}\"\nregion = \"{}\"\naccess_key_id = \"{}\"\nallow_http = true\n",
            server.uri(),
            s3.bucket(),
            s3.endpoint(),
            s3.region(),
            s3.access_key()
        ),
    );
    place
}

fn replica_field(client: &mut Client, field: &str) -> u64 {
    let slave = client.info("slave0");
    let value = slave.split(',').find_map(|part| part.strip_prefix(field)?.strip_prefix('=')).unwrap();
    value.parse().unwrap()
}

#[test]
fn a_store_that_is_slow_and_then_fails_for_a_while_is_caught_up_with() {
    let server = Redis::options()
        .setting("repl-diskless-sync-delay", "0")
        .setting("repl-backlog-size", "1mb")
        .start()
        .unwrap();
    let s3 = S3Server::start();
    let place = place(&server, &s3);
    let mut writer = client(&server);
    let mut number = 0_u64;
    let mut write = |writer: &mut Client, count: u64, bytes: usize| {
        for _ in 0..count {
            number += 1;
            writer.must(&["SET", &format!("written:{number}"), &"x".repeat(bytes)]);
        }
    };
    let mut capture = Capture::of(&place, "200ms");
    let before = capture.until_event("chain_begun");
    write(&mut writer, 10, 100);
    capture.until_event("slice_stored");

    // Slow: a byte waits as long as the store takes, and is stored nevertheless.
    s3.set_fault(S3Fault::Slow(Duration::from_millis(700)));
    write(&mut writer, 10, 100);
    let slow =
        capture.until(|event| event["event"] == "slice_stored" && event["held_ms"].as_u64() >= Some(700));
    assert!(slow["through"].as_u64().is_some(), "{slow}");

    // Down: it stays connected, acknowledges nothing more, and tells where it is.
    s3.set_fault(S3Fault::Failing);
    write(&mut writer, 1, 100);
    let told = capture.until_event("waiting");
    let stored = told["recovery_point"].as_u64().unwrap();
    // Many times what the server keeps for a replica that was away; it would have to begin anew if it let go.
    write(&mut writer, 400, 20_000);
    for _ in 0..2 {
        assert_eq!(capture.until_event("waiting")["recovery_point"].as_u64(), Some(stored));
    }
    assert_eq!(writer.info("connected_slaves"), "1");
    assert_eq!(writer.must(&["WAIT", "1", "300"]).text(), "0", "nothing is acknowledged that is not stored");
    assert!(replica_field(&mut writer, "offset") <= stored, "{}", writer.info("slave0"));
    // What is written faster than the server keeps it for ten minutes is told as it goes.
    let short = capture.told("backlog_short");
    assert!(short["advised_bytes"].as_u64().unwrap() > 1 << 20, "{short}");

    s3.set_fault(S3Fault::None);
    let (digest, end) = (writer.digest(), writer.info("master_repl_offset").parse::<u64>().unwrap());
    capture.until(|event| event["event"] == "slice_stored" && event["through"].as_u64() >= Some(end));
    assert_eq!(writer.must(&["WAIT", "1", "10000"]).text(), "1");
    let ended = capture.stop();
    assert_eq!(
        (&ended["chain"], ended["slack"]["backlog_bytes"].as_u64()),
        (&before["chain"], Some(1 << 20)),
        "{ended}"
    );
    let listed = json(&expect(place.run(&["backup", "list", "--json"]), 0));
    assert_eq!(listed["streams"][0]["gaps"].as_array().unwrap().len(), 0, "{listed}");

    // And all of it can be restored.
    let into = Redis::start().unwrap();
    let uri = into.uri();
    let plan = [
        "--redis-url",
        &uri,
        "restore",
        "plan",
        "--store",
        "redis",
        "--to",
        &end.to_string(),
        "--output",
        "plan.json",
        "--json",
    ];
    let hash = json(&expect(place.run(&plan), 0))["plan_hash"].as_str().unwrap().to_owned();
    expect(place.run(&["--redis-url", &uri, "restore", "apply", "plan.json", "--approve", &hash]), 0);
    assert_eq!(client(&into).digest(), digest);
}

#[test]
fn what_was_acknowledged_before_a_kill_in_an_outage_is_there() {
    let server = Redis::options().setting("repl-diskless-sync-delay", "0").start().unwrap();
    let s3 = S3Server::start();
    let place = place(&server, &s3);
    let mut writer = client(&server);
    let mut capture = Capture::of(&place, "100ms");
    capture.until_event("chain_begun");
    writer.must(&["SET", "acknowledged", "1"]);
    assert_eq!(writer.must(&["WAIT", "1", "10000"]).text(), "1");
    let (digest, offset) = (writer.digest(), writer.info("master_repl_offset"));
    s3.set_fault(S3Fault::Failing);
    writer.must(&["SET", "not:stored", "1"]);
    capture.until_event("waiting");
    capture.child.kill().unwrap();
    capture.child.wait().unwrap();
    s3.set_fault(S3Fault::None);
    let into = Redis::start().unwrap();
    let uri = into.uri();
    let plan = [
        "--redis-url",
        &uri,
        "restore",
        "plan",
        "--store",
        "redis",
        "--to",
        "latest",
        "--output",
        "plan.json",
        "--json",
    ];
    let planned = json(&expect(place.run(&plan), 0));
    let hash = planned["plan_hash"].as_str().unwrap().to_owned();
    let restored = json(&expect(
        place.run(&["--redis-url", &uri, "restore", "apply", "plan.json", "--approve", &hash, "--json"]),
        0,
    ));
    assert!(restored["offset"].as_u64().unwrap() <= offset.parse::<u64>().unwrap() + 200, "{restored}");
    assert_eq!(client(&into).digest(), digest);
}
