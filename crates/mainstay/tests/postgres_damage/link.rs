//! Archives that the server packs for the way: what arrives is what would have come unpacked, over fewer bytes.

use std::time::Duration;

use mainstay_testkit::{FaultProxy, Postgres};
use serde_json::Value;

use crate::binary::Place;
use crate::cluster::{configure, project, sets};

fn create(place: &Place, more: &[&str]) -> (Value, String) {
    let base = ["backup", "create", "--store", "postgres", "--json"];
    let seen = place.run(&[&base[..], more].concat());
    assert_eq!(seen.status, 0, "{}", seen.both());
    (seen.json(), seen.stderr)
}

#[test]
fn archives_come_packed_when_it_is_asked_or_the_way_is_long() {
    let server = Postgres::start().unwrap();
    let far = server.make_folder("far");
    server.execute("postgres", &format!("CREATE TABLESPACE far LOCATION '{}'", far.display())).unwrap();
    let fill =
        "CREATE TABLE t TABLESPACE far AS SELECT i, md5(i::text) AS text FROM generate_series(1, 20000) AS i";
    server.execute("postgres", fill).unwrap();
    let proxy = FaultProxy::start(server.address());
    let place = project(&server.uri());
    configure(&place, &server.uri_through(proxy.address(), "postgres"));
    let mut sent = 0;
    let mut came = || {
        let before = std::mem::replace(&mut sent, proxy.counters().from_server_bytes);
        sent - before
    };

    let (plain, _) = create(&place, &[]);
    assert_eq!(plain["link_compression"], "none", "the way is short");
    let of_plain = came();
    let (packed, _) = create(&place, &["--link-compression", "gzip"]);
    let of_packed = came();
    assert_eq!((&packed["link_compression"], &packed["files"]), (&"gzip".into(), &plain["files"]));
    assert!(of_packed * 3 < of_plain, "{of_packed} of {of_plain} bytes came");
    let id = packed["set"]["id"].as_str().unwrap();
    place.run(&["backup", "verify", id]).expect(0);
    let tablespace = format!("{}=far", far.display());
    let plan = ["restore", "plan", id, "--store", "postgres", "--into", "data", "--output", "plan.json"];
    place.run(&[&plan[..], &["--tablespace", &tablespace]].concat()).expect(0);
    place.run(&["restore", "apply", "plan.json"]).expect(0);

    // This server was built without it: it says so, and the backup is taken.
    let (refused, said) = create(&place, &["--link-compression", "zstd"]);
    assert_eq!(refused["link_compression"], "none");
    assert!(said.contains("the server sends its files as they are") && said.contains("ZSTD"), "{said}");

    // Far away the best that it has is taken, and nothing is said of the others.
    proxy.delay(Duration::from_millis(6));
    let (packed, said) = create(&place, &[]);
    assert_eq!(packed["link_compression"], "gzip");
    assert!(!said.contains("ZSTD"), "{said}");
    let (plain, _) = create(&place, &["--link-compression", "none"]);
    assert_eq!(plain["link_compression"], "none");
    assert_eq!(sets(&place), 5);
    let other = ["backup", "create", "--store", "mongo", "--link-compression", "gzip"];
    place.run(&other).expect(2).says("means nothing for mongo");
}
