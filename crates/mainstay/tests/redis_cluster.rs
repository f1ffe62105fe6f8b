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
    let mut marked = Vec::new();
    for (index, place) in places.iter().enumerate() {
        let planned = place.run(&["environment", "mark", "--store", "redis", "--output", "mark.json"]);
        if planned.status == 0 {
            let hash = json(&place.run(&["plan", "show", "mark.json", "--json"]))["plan_hash"]
                .as_str()
                .unwrap()
                .to_owned();
            let seen = place.run(&["apply", "mark.json", "--approve", &hash]);
            assert_eq!(seen.status, 0, "{}", seen.both());
            marked.push(index);
        } else {
            assert_eq!(planned.status, 8, "{}", planned.both());
            let other = nodes[1 - index].address();
            let hint = format!("mainstay --redis-url redis://{other} environment mark --store redis");
            assert!(planned.stderr.contains(&hint), "{}", planned.both());
            assert!(!planned.both().contains("MOVED"), "{}", planned.both());
        }
    }
    let [holder] = marked[..] else { panic!("{marked:?}") };
    for (index, place) in places.iter().enumerate() {
        let shown = place.run(&["environment", "show"]);
        assert!(shown.status == 0 && !shown.both().contains("MOVED"), "{}", shown.both());
        let told = json(&place.run(&["environment", "show", "--json"]));
        let (marker, elsewhere) = (&told["markers"][0]["marker"], &told["markers"][0]["elsewhere"]);
        let address = nodes[holder].address().to_string();
        match index == holder {
            true => {
                assert_eq!(
                    (&marker["environment"], elsewhere),
                    (&Value::from("shop"), &Value::Null),
                    "{told}"
                );
                assert!(shown.stdout.contains("shop, development"), "{}", shown.both());
            }
            false => {
                assert_eq!((marker, elsewhere), (&Value::Null, &Value::from(address.as_str())), "{told}");
                let command = format!("mainstay --redis-url redis://{address} environment show");
                for text in ["counts as production", command.as_str()] {
                    assert!(shown.stdout.contains(text), "{text}: {}", shown.both());
                }
                assert_eq!(told["environment"]["class"], "production", "{told}");
            }
        }
    }
}

#[test]
fn a_set_of_one_node_says_whose_keys_are_not_in_it() {
    let nodes = cluster();
    let mut connections = nodes.each_ref().map(connection);
    for index in 0..200 {
        let line = format!("SET cart:{index} 1");
        let here = connections.iter_mut().any(|connection| give::<()>(connection, &line).is_ok());
        assert!(here, "{line}");
    }
    let places = nodes.each_ref().map(place);
    let mut keys = 0;
    for (index, (place, slots)) in places.iter().zip(["0-8191", "8192-16383"]).enumerate() {
        let part = format!("slots {slots} (8,192 of 16,384)");
        let other = nodes[1 - index].address();
        let again = format!("mainstay --redis-url redis://{other} backup create --store redis");
        let dry = place.run(&["backup", "create", "--store", "redis", "--dry-run"]);
        assert!(dry.status == 0 && dry.stdout.contains(&part), "{}", dry.both());
        assert!(dry.stdout.contains(&other.to_string()), "{}", dry.both());
        let made = place.run(&["backup", "create", "--store", "redis"]);
        assert_eq!(made.status, 0, "{}", made.both());
        let shown = place.run(&["backup", "show", "latest", "--store", "redis"]);
        for seen in [&made, &shown] {
            for text in [part.as_str(), again.as_str(), "not in it"] {
                assert!(seen.stdout.contains(text), "{text}: {}", seen.both());
            }
        }
        let listed = place.run(&["backup", "list"]);
        assert!(listed.stdout.contains("8,192 of 16,384 slots"), "{}", listed.both());
        let set = json(&place.run(&["backup", "list", "--json"]))["sets"][0].clone();
        let first: u64 = slots.split('-').next().unwrap().parse().unwrap();
        assert_eq!(set["server"]["part"]["slots"][0]["first"], first, "{set}");
        assert_eq!(set["server"]["part"]["others"][0], other.to_string(), "{set}");
        keys += set["keys"].as_u64().unwrap();
        let restore = place.run(&["restore", "plan", "latest", "--store", "redis", "--into", "scratch"]);
        assert!(restore.status == 0 && restore.stdout.contains(&part), "{}", restore.both());
    }
    assert_eq!(keys, 200, "both sets together are the cluster");

    // Who may not ask which nodes there are still makes a set, and it says so.
    let _: () = give(
        &mut connections[0],
        "ACL SETUSER copier on >canary-copier resetkeys %R~mainstay:identity:environment +ping +info +select +type +hget +hgetall +replconf +sync +psync",
    )
    .unwrap();
    let uri = nodes[0].uri().replace("redis://", "redis://copier@");
    let place = places.into_iter().next().unwrap().variable("MAINSTAY_REDIS_PASSWORD", "canary-copier");
    let made = place.run(&["--redis-url", &uri, "backup", "create", "--store", "redis"]);
    assert_eq!(made.status, 0, "{}", made.both());
    assert!(
        made.stdout.contains("which ones is not known") && !made.both().contains("canary"),
        "{}",
        made.both()
    );
    assert!(
        made.stdout.contains(&format!("next: mainstay --redis-url {uri} backup verify")),
        "{}",
        made.both()
    );
}
