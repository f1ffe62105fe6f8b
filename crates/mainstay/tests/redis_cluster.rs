//! A cluster node by node: looked at, counted and purged, each with its own keys alone.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod binary;

use std::time::{Duration, Instant};

use binary::{Place, Seen};
use mainstay_testkit::Redis;
use redis::Connection;
use serde_json::Value;

fn connection(server: &Redis) -> Connection {
    redis::Client::open(server.uri()).unwrap().get_connection().unwrap()
}

fn give<T: redis::FromRedisValue>(connection: &mut Connection, line: &str) -> redis::RedisResult<T> {
    let mut words = line.split(' ');
    redis::cmd(words.next().unwrap()).arg(words.collect::<Vec<_>>()).query(connection)
}

/// Two primaries that share the slots.
fn cluster() -> [Redis; 2] {
    let start = || {
        Redis::options()
            .config_file()
            .setting("cluster-enabled", "yes")
            .setting("cluster-node-timeout", "2000")
            .setting("repl-diskless-sync-delay", "0")
            .start()
            .unwrap()
    };
    let nodes = [start(), start()];
    for (node, slots) in nodes.iter().zip(["0 8191", "8192 16383"]) {
        let _: () = give(&mut connection(node), &format!("CLUSTER ADDSLOTSRANGE {slots}")).unwrap();
    }
    let _: () =
        give(&mut connection(&nodes[0]), &format!("CLUSTER MEET 127.0.0.1 {}", nodes[1].port())).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    for node in &nodes {
        while !give::<String>(&mut connection(node), "CLUSTER INFO").unwrap().contains("cluster_state:ok") {
            assert!(Instant::now() < deadline, "the cluster does not come together");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    nodes
}

fn place(node: &Redis) -> Place {
    let place = Place::new().variable("MAINSTAY_REDIS_POLICY_MAXMEMORY", "0");
    place.write(
        "mainstay.toml",
        &format!(
            "[environment]\nname = \"shop\"\nclass = \"development\"\n[redis]\nurl = \"{}\"\n[repository]\nurl = \"file:./backups\"\n",
            node.uri()
        ),
    );
    place
}

fn json(seen: &Seen) -> Value {
    assert_eq!(seen.status, 0, "{}", seen.both());
    serde_json::from_str(&seen.stdout).unwrap_or_else(|error| panic!("{error}: {}", seen.both()))
}

#[test]
fn each_node_is_looked_at_and_purged_by_itself() {
    let nodes = cluster();
    let mut connections = nodes.each_ref().map(connection);
    for index in 0..600 {
        for prefix in ["payment:idem", "auth:session"] {
            let line = format!("SET {prefix}:{index} 1");
            let here = connections.iter_mut().any(|connection| give::<()>(connection, &line).is_ok());
            assert!(here, "{line}");
        }
    }
    let places = nodes.each_ref().map(place);
    let mut counted = 0;
    for place in &places {
        let keys = json(&place.run(&["redis", "keys", "--json"]));
        counted += keys["total"]["keys"].as_u64().unwrap();
        assert_eq!(keys["bytes_are"], "memory");
        for question in [
            &["redis", "memory", "--over", "0s"][..],
            &["redis", "slowlog"],
            &["redis", "policy", "drift"],
            &["environment", "show"],
        ] {
            let seen = place.run(question);
            assert_eq!(seen.status, 0, "{question:?}: {}", seen.both());
        }
        let info = place.run(&["redis", "info", "--over", "0s"]);
        assert!(info.stdout.contains("cluster"), "{}", info.both());
    }
    assert_eq!(counted, 1_200);

    // Unmarked counts as production: each node wants a verified backup of its own.
    let mut left = 1_200;
    for place in &places {
        let planned = place.run(&["redis", "purge", "payment:idem:*", "--output", "purge.json"]);
        assert!(planned.status == 0 && planned.stdout.contains("other primaries"), "{}", planned.both());
        let hash = json(&place.run(&["plan", "show", "purge.json", "--json"]))["plan_hash"]
            .as_str()
            .unwrap()
            .to_owned();
        let apply = ["apply", "purge.json", "--approve", &hash, "--json"];
        assert_eq!(place.run(&apply).status, 7);
        assert_eq!(place.run(&["backup", "create", "--store", "redis"]).status, 0);
        assert_eq!(place.run(&["backup", "verify", "latest", "--store", "redis"]).status, 0);
        left -= json(&place.run(&apply))["removed"].as_u64().unwrap();
    }
    let sizes = connections.iter_mut().map(|connection| give::<u64>(connection, "DBSIZE").unwrap());
    assert_eq!((sizes.sum::<u64>(), left), (600, 600));

    // A node alone is not filled, which is known when it is planned.
    for place in &places {
        let refused = place.run(&["restore", "plan", "--store", "redis", "--drop"]);
        assert!(
            refused.status == 8 && refused.stderr.contains("is a node of a cluster"),
            "{}",
            refused.both()
        );
    }

    // The marker has one slot: one node takes it, the other says where it is.
    let marked: Vec<Seen> = places
        .iter()
        .map(|place| {
            let planned = place.run(&["environment", "mark", "--store", "redis", "--output", "mark.json"]);
            assert_eq!(planned.status, 0, "{}", planned.both());
            let hash = json(&place.run(&["plan", "show", "mark.json", "--json"]))["plan_hash"]
                .as_str()
                .unwrap()
                .to_owned();
            place.run(&["apply", "mark.json", "--approve", &hash])
        })
        .collect();
    let mut statuses: Vec<i32> = marked.iter().map(|seen| seen.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [0, 1], "{} {}", marked[0].both(), marked[1].both());
    assert!(marked.iter().any(|seen| seen.stderr.contains("the key is with the node at")));
}
