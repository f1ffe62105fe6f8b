//! A primary that Sentinels tell: looked at, backed up and captured by its name, through a failover.

use mainstay_testkit::keys::Client;
use mainstay_testkit::{Redis, Sentinel};
use serde_json::Value;

use crate::support::{Capture, client, expect, json, mark, place, wait};

#[test]
fn the_name_is_followed_through_a_failover() {
    let start = || {
        Redis::options().setting("save", "3600 1").setting("repl-diskless-sync-delay", "0").start().unwrap()
    };
    let (mut primary, standby) = (start(), start());
    client(&standby).must(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]);
    wait("the replica follows", || client(&standby).info("master_link_status") == "up");
    let sentinels = [(); 3].map(|()| Sentinel::watch("shop", &primary, 2).unwrap());
    let knows = |sentinel: &Sentinel, fields: [&str; 2]| {
        let told =
            format!("{:?}", Client::connect(sentinel.address(), None).must(&["SENTINEL", "MASTER", "shop"]));
        let value = |field: &str| {
            let at = told.find(&format!("\"{field}\"")).unwrap();
            told[at..].split('"').nth(3).unwrap().to_owned()
        };
        fields.map(value)
    };
    for sentinel in &sentinels {
        wait("they know one another and the replica", || {
            knows(sentinel, ["num-slaves", "num-other-sentinels"]) == ["1", "2"]
        });
    }
    // The first does not listen any more: the next is asked.
    let nodes: Vec<String> = sentinels.iter().map(|sentinel| sentinel.address().to_string()).collect();
    // Neither one that is down nor one that knows no such name ends the search.
    let elsewhere = Redis::start().unwrap();
    let stranger = Sentinel::watch("elsewhere", &elsewhere, 1).unwrap();
    let uri = format!("redis+sentinel://127.0.0.1:1,{},{}/shop", stranger.address(), nodes.join(","));
    let place = place(&uri, "development", "");
    mark(&place);
    client(&primary).must(&["SET", "auth:session:1", "token"]);
    let info = json(&expect(place.run(&["redis", "info", "--json"]), 0));
    assert_eq!(info["replication"]["is_replica"], false, "{info}");
    expect(place.run(&["backup", "create", "--store", "redis"]), 0);

    let mut capture = Capture::of(&place, "100ms");
    capture.until_event("chain_begun");
    client(&primary).must(&["SET", "before", "1"]);
    let written = client(&primary).info("master_repl_offset");
    wait("the replica has it", || client(&standby).info("slave_repl_offset") >= written);
    primary.kill9();
    wait("a failover", || client(&standby).info("role") == "master");
    client(&standby).must(&["SET", "after", "2"]);
    // It goes on with the server that was promoted, from what it has.
    capture.until_event("timeline_ended");
    capture.until_event("slice_stored");
    let ended = capture.stop();
    let end = client(&standby).info("master_repl_offset").parse::<u64>().unwrap();
    assert!(ended["recovery_point"].as_u64().unwrap() <= end, "{ended}");
    assert_eq!(ended["base"], Value::Null, "no second copy of all keys was needed: {ended}");
    let keys = json(&expect(place.run(&["redis", "keys", "--json"]), 0));
    assert_eq!(keys["total"]["keys"], 4, "the marker is one: {keys}");

    // They have taken up nobody who cannot be promoted.
    for sentinel in &sentinels {
        let replicas = Client::connect(sentinel.address(), None).must(&["SENTINEL", "REPLICAS", "shop"]);
        assert!(!format!("{replicas:?}").contains(":0\""), "{replicas:?}");
    }
    // A server that Sentinels watch is not made a replica behind their backs, whoever it was named by, and that is known at once.
    wait("they listen to one another on it", || {
        let channel = ["PUBSUB", "NUMSUB", "__sentinel__:hello"];
        !format!("{:?}", client(&standby).must(&channel)).contains("Number(0)")
    });
    let uri = standby.uri();
    let by_itself = ["--redis-url", uri.as_str()];
    let cases: [(&[&str], &str); 2] = [(&[], "SENTINEL REMOVE shop"), (&by_itself, "Sentinels watch")];
    for (more, told) in cases {
        let plan = ["restore", "plan", "--store", "redis", "--to", "latest", "--drop"];
        let refused = expect(place.run(&[more, &plan[..]].concat()), 8);
        assert!(refused.stderr.contains(told), "{}", refused.both());
    }
    assert_eq!(client(&standby).must(&["GET", "after"]).text(), "2");
}
