//! The sample stack's own declaration, on fresh servers of all three stores.

use mainstay_testkit::{Mongod, Postgres, Redis};

use crate::binary::Place;
use crate::support::{CANARY, marked};

const DECLARATION: &str = include_str!("../../../../examples/marketplace/mainstay.toml");
const INDEXES: &str = include_str!("../../../../examples/marketplace/indexes.toml");

#[test]
fn the_sample_stack_becomes_what_it_declares() {
    let mongod = Mongod::options().member().start().unwrap();
    let postgres = Postgres::start().unwrap();
    let redis = Redis::options().config_file().start().unwrap();
    let mut place = Place::new();
    for line in DECLARATION.lines().filter_map(|line| line.strip_prefix("password_variable = ")) {
        place = place.variable(line.trim_matches('"'), &format!("{CANARY}-{}", line.len()));
    }
    place.write("mainstay.toml", DECLARATION);
    place.write("indexes.toml", INDEXES);
    let urls = [
        "--mongo-url".to_owned(),
        format!("mongodb://127.0.0.1:{}/?directConnection=true", mongod.port()),
        "--postgres-url".to_owned(),
        postgres.uri_of("marketplace_dev"),
        "--redis-url".to_owned(),
        redis.uri(),
    ];
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    // No server is marked yet, so all count as production, and nobody is here to be asked.
    place
        .run(&[&["init", "apply"], &urls[..]].concat())
        .expect(7)
        .says("init plan --store mongo --output plan.json");
    place
        .run(&[&["init", "plan", "--output", "all.json"], &urls[..]].concat())
        .expect(2)
        .says("--store mongo");
    for (store, count) in [("mongo", 15), ("postgres", 8), ("redis", 4)] {
        let file = format!("{store}.json");
        let arguments = ["init", "plan", "--store", store, "--json", "--output", &file];
        let planned = place.run(&[&arguments[..], &urls].concat()).expect(0).json()["plans"][0].clone();
        assert!(marked(&planned, "+").len() >= count, "{planned}");
        let hash = planned["plan_hash"].as_str().unwrap();
        place.run(&[&["apply", &file, "--approve", hash], &urls[..]].concat()).expect(0);
    }
    let again = place.run(&[&["init", "plan", "--json"], &urls[..]].concat()).expect(0).json();
    for plan in again["plans"].as_array().unwrap() {
        assert!(marked(plan, "+").is_empty() && marked(plan, "~").is_empty(), "{plan}");
    }
    place.run(&[&["init", "apply"], &urls[..]].concat()).expect(0).says("redis: nothing was to be done");
}
