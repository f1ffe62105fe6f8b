//! Base backups and restores of PostgreSQL as a user meets them: the real binary, real servers, the server's own tools as judges.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod binary;
mod cluster;
#[path = "postgres_damage/mod.rs"]
mod damage;
#[path = "postgres_damage/link.rs"]
mod link;

use std::fs;
use std::path::PathBuf;

use mainstay_testkit::proxy::{Direction, Scope, Truncate};
use mainstay_testkit::{FaultProxy, Postgres};

use binary::Place;
use cluster::{Running, backup, check_relations, configure, give, project, sets, succeeds, tool, wait_for};

const SUMS: &str = "SELECT count(*)::text || ' ' || sum(hashtextextended(t::text, 0))::text FROM t \
    UNION ALL SELECT count(*)::text || ' ' || sum(hashtextextended(far::text, 0))::text FROM far \
    UNION ALL SELECT md5(lo_get(4711))";

#[test]
fn a_server_comes_back_from_its_backup_with_its_tablespaces_elsewhere() {
    let server = Postgres::start().unwrap();
    let far = server.make_folder("far");
    let fill = format!(
        "CREATE TABLESPACE distant LOCATION '{}';\
         CREATE TABLE t AS SELECT i, md5(i::text) AS text FROM generate_series(1, 30000) AS i;\
         CREATE INDEX ON t (text);\
         SELECT lo_from_bytea(4711, convert_to(repeat('large', 50000), 'UTF8'));",
        far.display()
    );
    for statement in fill.split_inclusive(';') {
        server.execute("postgres", statement).unwrap();
    }
    let statement = "CREATE TABLE far TABLESPACE distant AS SELECT i FROM generate_series(1, 5000) AS i";
    server.execute("postgres", statement).unwrap();
    let expected = server.texts("postgres", SUMS);

    let place = project(&server.uri());
    let dry = ["backup", "create", "--store", "postgres", "--dry-run"];
    place.run(&dry).expect(0).says("every tablespace too");
    assert!(!place.path("repository").exists());
    let made = backup(&place);
    let id = made["set"]["id"].as_str().unwrap();
    assert!(made["pages_checked"].as_u64().unwrap() > 1_000, "{made}");
    assert_eq!(made["set"]["tablespaces"][0]["location"], far.to_str().unwrap());
    // What is written afterwards is not in it.
    server.execute("postgres", "DELETE FROM t").unwrap();

    place.run(&["backup", "list"]).expect(0).says(id).says("postgres").says("LSN ");
    place.run(&["backup", "show", id]).expect(0).says("base.tar").says(far.to_str().unwrap());
    place.run(&["backup", "verify", id]).expect(0).says("is sound");
    place.run(&["status"]).expect(0);

    let folder = server.make_folder("restored");
    let (into, moved) = (folder.join("data"), folder.join("moved"));
    let mapping = format!("{}={}", far.display(), moved.display());
    let plan = |more: &[&str]| {
        let base = [
            "restore",
            "plan",
            "--store",
            "postgres",
            "--into",
            into.to_str().unwrap(),
            "--output",
            "plan.json",
        ];
        place.run(&[&base[..], more].concat())
    };
    plan(&[]).expect(8).says("is not empty");
    plan(&["--tablespace", "/nowhere=/x"]).expect(2).says("holds no tablespace that lay at /nowhere");
    plan(&["--tablespace", &mapping, "--drop"]).expect(2).says("--drop means nothing for postgres");
    plan(&["--tablespace", &mapping]).expect(0).says("global/pg_control");
    assert!(!into.exists());
    place.run(&["restore", "apply", "plan.json"]).expect(0).says("pg_ctl --pgdata=").says("18/docker");
    assert!(into.join("global/pg_control").exists() && !into.join(".mainstay-restore").exists());
    place.run(&["restore", "apply", "plan.json"]).expect(8).says("is not empty");
    plan(&["--tablespace", &mapping]).expect(8).says("is not empty");

    // The package of client programs has no pg_waldump, with which this tool would look into the WAL.
    succeeds(tool("pg_verifybackup").arg("--no-parse-wal").arg(&into));
    give(&folder, &server);
    let restored = Postgres::options().in_folder(&folder).start().unwrap();
    assert_eq!(restored.texts("postgres", SUMS), expected);
    let oid = &made["set"]["tablespaces"][0]["oid"];
    let location = restored.texts("postgres", &format!("SELECT pg_tablespace_location({oid})"));
    assert_eq!(location, [moved.to_str().unwrap()]);
    check_relations(&restored);
}

/// The stored files of the only set, manifest aside.
fn objects(place: &Place) -> Vec<PathBuf> {
    let sets = place.path("repository/postgres/sets");
    let set = fs::read_dir(sets).unwrap().next().unwrap().unwrap().path();
    let files = fs::read_dir(set).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "zst")).collect()
}

#[test]
fn damage_is_found_and_stops_a_restore_before_it_writes() {
    let server = Postgres::start().unwrap();
    let place = project(&server.uri());
    backup(&place);
    let into = place.path("data");
    let plan = ["restore", "plan", "--store", "postgres", "--into", "data", "--output", "plan.json"];
    place.run(&plan).expect(0);
    let objects = objects(&place);
    assert_eq!(objects.len(), 2);
    for object in objects {
        let whole = fs::read(&object).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        for damaged in [flipped, whole[..whole.len() / 2].to_vec()] {
            fs::write(&object, damaged).unwrap();
            place.run(&["backup", "verify", "--store", "postgres"]).expect(4).says("DAMAGED");
            place.run(&["restore", "apply", "plan.json"]).expect(4).says("nothing was written");
            assert!(!into.exists(), "{}", object.display());
        }
        fs::remove_file(&object).unwrap();
        place.run(&["restore", "apply", "plan.json"]).expect(4);
        assert!(!into.exists(), "{}", object.display());
        fs::write(&object, whole).unwrap();
    }
    place.run(&["backup", "verify", "--store", "postgres"]).expect(0);
}

#[test]
fn what_keeps_a_backup_from_being_made_leaves_no_set() {
    let server = Postgres::options().scram("right").start().unwrap();
    let place = project(&server.uri());
    let create = ["backup", "create", "--store", "postgres"];

    let url = server.uri();
    configure(&place, &url.replace("right", "hunter2"));
    let seen = place.run(&create).expect(5).says("refused the password of user postgres");
    assert!(!seen.both().contains("hunter2"), "{}", seen.both());

    server.execute("postgres", "CREATE ROLE plain LOGIN PASSWORD 'right' IN ROLE pg_monitor").unwrap();
    configure(&place, &url.replace("postgres:right", "plain:right"));
    place.run(&create).expect(5).says("ALTER ROLE \"plain\" REPLICATION");
    server.execute("postgres", "ALTER ROLE plain REPLICATION").unwrap();
    place.run(&create).expect(0);
    assert_eq!(sets(&place), 1);

    let proxy = FaultProxy::start(server.address());
    configure(&place, &server.uri_through(proxy.address(), "postgres"));
    let cut = Truncate { direction: Direction::FromServer, bytes: 3_000_000, scope: Scope::EveryConnection };
    proxy.truncate(cut);
    place.run(&create).expect(6).says("no backup set was made");
    assert_eq!(sets(&place), 1);
    proxy.heal();

    for wrong in [&["--collection", "a.b"][..], &["--resume"], &["--max-rate", "1B"]] {
        place.run(&[&create[..], wrong].concat()).expect(2);
    }
    place
        .run(&["backup", "create", "--store", "mongo", "--label", "x"])
        .expect(2)
        .says("--label means nothing for mongo");
}

#[test]
fn a_killed_backup_leaves_no_set_and_no_backup_on_the_server() {
    let server = Postgres::start().unwrap();
    let proxy = FaultProxy::start(server.address());
    let place = project(&server.uri_through(proxy.address(), "postgres"));
    proxy.throttle(4_000_000);
    let mut running = Running::start(&place, &["backup", "create", "--store", "postgres"]);
    wait_for("the archive flows", || proxy.counters().from_server_bytes > 5_000_000);
    running.kill();
    assert_eq!(sets(&place), 0);
    proxy.heal();
    wait_for("the server's sender ends", || {
        server.texts("postgres", "SELECT count(*) FROM pg_stat_replication") == ["0"]
    });
    backup(&place);
    assert_eq!(sets(&place), 1);
    wait_for("the lease of the killed one has run out", || {
        place.run(&["backup", "prune", "--json"]).expect(0).json()["in_use"].as_array().unwrap().is_empty()
    });
    let folders =
        fs::read_dir(place.path("repository/postgres/sets")).unwrap().map(|entry| entry.unwrap().path());
    let without_manifest: Vec<PathBuf> = folders
        .filter(|folder| {
            !folder.join("manifest.json").exists() && fs::read_dir(folder).unwrap().next().is_some()
        })
        .collect();
    assert!(without_manifest.is_empty(), "{without_manifest:?}");
    place.run(&["backup", "verify", "--store", "postgres"]).expect(0);
}

#[test]
fn a_killed_restore_is_no_server_and_begins_anew() {
    let server = Postgres::start().unwrap();
    let place = project(&server.uri());
    backup(&place);
    let folder = server.make_folder("restored");
    let into = folder.join("data");
    let plan =
        ["restore", "plan", "--store", "postgres", "--into", into.to_str().unwrap(), "--output", "plan.json"];
    place.run(&plan).expect(0);
    let apply = ["restore", "apply", "plan.json"];
    let mut running = Running::start(&place, &apply);
    wait_for("files are written", || into.join("base").exists());
    place.run(&apply).expect(10).says("another restore works on");
    running.kill();
    assert!(into.join(".mainstay-restore").exists() && !into.join("global/pg_control").exists());

    fs::write(into.join("left behind"), "x").unwrap();
    place.run(&apply).expect(0);
    assert!(!into.join("left behind").exists());
    give(&folder, &server);
    let restored = Postgres::options().in_folder(&folder).start().unwrap();
    assert_eq!(restored.texts("postgres", "SELECT 1"), ["1"]);
    place.run(&plan).expect(8).says("a server runs from");
}

#[test]
fn a_damaged_page_stops_a_backup_unless_it_may_be_damaged() {
    let mut server = Postgres::start().unwrap();
    server.execute("postgres", "CREATE TABLE t AS SELECT generate_series(1, 5000) AS i").unwrap();
    server.execute("postgres", "CHECKPOINT").unwrap();
    let path = server.texts("postgres", "SELECT pg_relation_filepath('t')").remove(0);
    server.stop();
    let file = server.dir().join("data").join(&path);
    let mut bytes = fs::read(&file).unwrap();
    bytes[8192 + 5_000] ^= 1;
    fs::write(&file, bytes).unwrap();
    server.restart().unwrap();

    let place = project(&server.uri());
    let create = ["backup", "create", "--store", "postgres"];
    place.run(&create).expect(4).says("damaged pages").says("no backup set was made");
    assert_eq!(sets(&place), 0);
    let allowed = [&create[..], &["--allow-damaged-pages"]].concat();
    place.run(&allowed).expect(0).says("DAMAGED on the server").says(&format!("block 1 of {path}"));
    place.run(&["backup", "verify", "--store", "postgres"]).expect(0);
}
