//! Redis behind TLS with an authority of its own: every way in which this program connects to it.

use mainstay_testkit::Redis;
use mainstay_testkit::keys::Client;

use crate::binary::Place;
use crate::support::{expect, json};

fn place(server: &Redis, trusted: bool) -> Place {
    let authority = match trusted {
        true => format!("ca_file = \"{}\"\n", server.certificates().unwrap().authority.display()),
        false => String::new(),
    };
    let url = format!("rediss://127.0.0.1:{}/", server.tls_port().unwrap());
    let more = format!("{authority}[redis.policy]\nmaxmemory = \"900MB\"");
    crate::support::place(&url, "development", &more).variable("MAINSTAY_REDIS_PASSWORD", "canary-tls")
}

#[test]
fn every_command_speaks_it() {
    let server = Redis::options()
        .tls()
        .password("canary-tls")
        .config_file()
        .setting("save", "3600 1")
        .setting("repl-diskless-sync-delay", "0")
        .start()
        .unwrap();
    let mut client = Client::connect(server.address(), Some("canary-tls"));
    for number in 0..200 {
        client.must(&["SET", &format!("payment:idem:{number}"), &"x".repeat(100), "EX", "9000"]);
        client.must(&["SET", &format!("auth:session:{number}"), "token", "EX", "9000"]);
    }
    let place = place(&server, true);
    let run = |arguments: &[&str]| json(&expect(place.run(&[arguments, &["--json"]].concat()), 0));
    run(&["redis", "info"]);
    assert_eq!(run(&["redis", "keys"])["total"]["keys"], 400);
    let made = run(&["backup", "create", "--store", "redis"]);
    assert_eq!(made["keys"], 400, "{made}");
    expect(place.run(&["backup", "verify", "latest", "--store", "redis"]), 0);
    let planned = run(&["redis", "purge", "payment:idem:*", "--output", "purge.json"]);
    let hash = planned["plan_hash"].as_str().unwrap();
    assert_eq!(run(&["apply", "purge.json", "--approve", hash])["removed"], 200);
    let policy = run(&["redis", "policy", "plan"]);
    assert!(policy["plan"]["steps"].to_string().contains("set maxmemory"), "{policy}");
    client.must(&["SET", "later", "1"]);
    let captured = expect(place.run(&["capture", "redis", "--once", "--json"]), 0);
    assert!(
        captured.stdout.contains("base_joined") && captured.stdout.contains("\"ended\""),
        "{}",
        captured.both()
    );
    client.must(&["SET", "latest", "1"]);
    let captured = expect(place.run(&["capture", "redis", "--once", "--json"]), 0);
    assert!(captured.stdout.contains("slice_stored"), "{}", captured.both());

    // Without its authority nobody is believed, and nothing is sent.
    let stranger = self::place(&server, false);
    for arguments in
        [&["redis", "info"][..], &["backup", "create", "--store", "redis"], &["capture", "redis", "--once"]]
    {
        let refused = expect(stranger.run(arguments), 6);
        assert!(refused.stderr.contains("TLS with 127.0.0.1"), "{}", refused.both());
        assert!(!refused.both().contains("canary"), "{}", refused.both());
    }
}
