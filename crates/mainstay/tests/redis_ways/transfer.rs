//! `backup create --plain-transfer`: the server packs nothing while it begins, and packs again whatever ends the backup.

use std::process::{Child, Stdio};

use mainstay_testkit::Redis;
use mainstay_testkit::keys::{Client, Reply};
use serde_json::Value;

use crate::binary::{Place, Seen};
use crate::support::{client, expect, json, mark, place, terminate, wait};

const PLAIN: [&str; 5] = ["backup", "create", "--store", "redis", "--plain-transfer"];

/// A server whose fork comes after so many seconds, and a place that is configured for it as one of this class.
fn stack(delay: &str, class: &str) -> (Redis, Client, Place) {
    let server = Redis::options().setting("repl-diskless-sync-delay", delay).start().unwrap();
    let mut client = client(&server);
    for number in 0..500_u64 {
        // Words that repeat and numbers that do not, as in most values.
        let field = |index: u64| {
            format!("\"attribute_{index}\":{}", (number * 20 + index).wrapping_mul(0x9E37_79B9_7F4A_7C15))
        };
        let value = format!("{{{}}}", (0..20).map(field).collect::<Vec<_>>().join(","));
        client.must(&["SET", &format!("shop:product:{number}"), &value]);
    }
    let place = place(&server.uri(), class, "");
    mark(&place);
    (server, client, place)
}

fn packs(client: &mut Client) -> bool {
    match client.must(&["CONFIG", "GET", "rdbcompression"]) {
        Reply::List(pair) => pair[1].text() == "yes",
        other => panic!("{other:?}"),
    }
}

/// A backup that has turned packing off and waits for the fork.
fn waiting(place: &Place, client: &mut Client) -> Child {
    let child = place.command(&PLAIN).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait("packing is turned off", || {
        !packs(client) && client.must(&["INFO", "replication"]).text().contains("slave0:")
    });
    child
}

fn ended(child: Child) -> Seen {
    child.wait_with_output().unwrap().into()
}

#[test]
fn the_file_comes_plain_and_the_server_packs_again() {
    let (_server, mut client, place) = stack("0", "production");
    let packed = json(&expect(place.run(&["backup", "create", "--store", "redis", "--json"]), 0));
    // It changes the server, so in production somebody has to agree; a plan can be agreed to beforehand.
    let refused = expect(place.run(&PLAIN), 7);
    assert!(refused.stderr.contains("--plain-transfer --output plan.json"), "{}", refused.both());
    let dry = expect(place.run(&[&PLAIN[..], &["--dry-run"]].concat()), 0);
    assert!(dry.stdout.contains("put rdbcompression back"), "{}", dry.both());
    let planned = expect(place.run(&[&PLAIN[..], &["--output", "plan.json", "--json"]].concat()), 0);
    assert!(packs(&mut client), "nothing was changed yet");
    let hash = json(&planned)["plan_hash"].as_str().unwrap().to_owned();
    let plain = json(&expect(place.run(&["apply", "plan.json", "--approve", &hash, "--json"]), 0));
    assert!(packs(&mut client));
    let bytes = |made: &Value, of: &str| made[of].as_u64().unwrap();
    assert!(bytes(&plain, "bytes") > bytes(&packed, "bytes"), "{plain} {packed}");
    assert!(bytes(&plain, "stored_bytes") < bytes(&packed, "stored_bytes"), "{plain} {packed}");
    assert_eq!((&plain["plain_transfer"], &packed["plain_transfer"]), (&true.into(), &false.into()));
    assert_eq!(plain["set"]["databases"], packed["set"]["databases"]);
    expect(place.run(&["backup", "verify", "latest", "--store", "redis"]), 0);

    // Where the server does not pack anyway there is nothing to change, and nobody to ask.
    client.must(&["CONFIG", "SET", "rdbcompression", "no"]);
    expect(place.run(&PLAIN), 0);
    assert!(!packs(&mut client), "it stays as its people want it");
    let elsewhere = place.run(&["backup", "create", "--store", "mongo", "--plain-transfer"]);
    assert!(expect(elsewhere, 2).stderr.contains("means nothing for mongo"));
}

#[test]
fn it_is_put_back_when_the_backup_is_stopped_or_fails() {
    let (server, mut client, place) = stack("60", "development");
    let stopped = waiting(&place, &mut client);
    terminate(&stopped);
    expect(ended(stopped), 75);
    assert!(packs(&mut client));

    let failing = waiting(&place, &mut client);
    client.must(&["CLIENT", "KILL", "TYPE", "replica"]);
    expect(ended(failing), 6);
    assert!(packs(&mut client));

    // A user who is named is that user, also without a password.
    client.must(&["ACL", "SETUSER", "keeper", "on", "nopass", "+@all", "-config|set", "~*"]);
    let uri = server.uri().replace("redis://", "redis://keeper@");
    let denied = expect(place.run(&[&["--redis-url", &uri], &PLAIN[..]].concat()), 5);
    assert!(denied.stderr.contains("user keeper lacks a permission"), "{}", denied.both());
    assert!(packs(&mut client) && !denied.stderr.contains("may still be"), "{}", denied.both());
    client.must(&["ACL", "SETUSER", "keeper", "-config|get"]);
    let denied = expect(place.run(&[&["--redis-url", &uri], &PLAIN[..]].concat()), 5);
    assert!(denied.stderr.contains("leave `--plain-transfer` out"), "{}", denied.both());
}

#[test]
fn what_a_kill_leaves_is_told_and_mended() {
    let (_server, mut client, place) = stack("60", "development");
    let kill = |place: &Place, client: &mut Client| {
        let mut killed = waiting(place, client);
        killed.kill().unwrap();
        killed.wait().unwrap();
        assert!(!packs(client));
    };
    let left = |place: &Place| -> Vec<Value> {
        let findings = json(&place.run(&["doctor", "--json"]))["findings"].as_array().unwrap().clone();
        findings.into_iter().filter(|one| one["id"] == "redis.packing_left_off").collect()
    };
    kill(&place, &mut client);
    let told = left(&place);
    assert_eq!(told.len(), 1);
    assert!(told[0]["remedy"].as_str().unwrap().contains("CONFIG SET rdbcompression yes"), "{told:?}");
    // Any backup of this server mends it.
    client.must(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
    let mended = expect(place.run(&["backup", "create", "--store", "redis"]), 0);
    assert!(mended.stderr.contains("rdbcompression is as it was again"), "{}", mended.both());
    assert!(packs(&mut client));
    assert!(left(&place).is_empty());
    let silent = expect(place.run(&["backup", "create", "--store", "redis"]), 0);
    assert!(!silent.stderr.contains("rdbcompression"), "{}", silent.both());

    // Where somebody has put it back already, nothing is told.
    client.must(&["CONFIG", "SET", "repl-diskless-sync-delay", "60"]);
    kill(&place, &mut client);
    client.must(&["CONFIG", "SET", "rdbcompression", "yes"]);
    assert!(left(&place).is_empty());
}
