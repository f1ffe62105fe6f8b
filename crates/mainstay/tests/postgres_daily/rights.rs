//! Each operation by a role that has the rights of `docs/privileges.md` and no other, and by one that lacks them.

use mainstay_testkit::Postgres;

use crate::binary::Place;
use crate::logical::{dumping, programs, run};
use crate::support::{apply, configure, mark, url_of};

/// Points the project at the server as `role`.
fn become_role(place: &Place, server: &Postgres, role: &str, database: &str) {
    configure(place, &url_of(server, role, database), &programs());
}

#[test]
fn backups_and_captures_take_replication_alone() {
    let mut server = Postgres::options().parameter("summarize_wal", "on").start().unwrap();
    server.execute("postgres", "CREATE ROLE plain LOGIN; CREATE ROLE copier LOGIN REPLICATION").unwrap();
    let place = dumping(&server);
    let create = ["backup", "create", "--store", "postgres"];
    become_role(&place, &server, "plain", "postgres");
    run(&place, &create).expect(5).says("REPLICATION");
    run(&place, &["capture", "postgres", "--once"]).expect(5).says("REPLICATION");
    become_role(&place, &server, "copier", "postgres");
    run(&place, &create).expect(0);
    run(&place, &[&create[..], &["--incremental"]].concat()).expect(0);
    run(&place, &["capture", "postgres", "--once"]).expect(0);
    run(&place, &["backup", "verify", "--store", "postgres"]).expect(0);
    run(&place, &["status"]).expect(0);
    run(&place, &["restore", "plan", "--store", "postgres", "--into", "folder", "--output", "plan.json"])
        .expect(0);
    run(&place, &["restore", "apply", "plan.json"]).expect(0);
    // While its summarizer sleeps, it ends in no other way.
    server.kill9();
}

#[test]
fn dumps_take_reading_and_their_restores_createdb() {
    let server = Postgres::start().unwrap();
    let roles = "CREATE ROLE plain LOGIN; CREATE ROLE dumper LOGIN IN ROLE pg_read_all_data; CREATE ROLE filler LOGIN CREATEDB; \
                 CREATE ROLE app; CREATE ROLE keeper LOGIN CREATEDB IN ROLE app";
    server.execute("postgres", roles).unwrap();
    let shop = "CREATE SCHEMA sales; CREATE TABLE sales.orders AS SELECT i FROM generate_series(1, 100) AS i; CREATE SEQUENCE numbers; \
                ALTER TABLE sales.orders OWNER TO app; ALTER SCHEMA sales OWNER TO app; ALTER SEQUENCE numbers OWNER TO app";
    server.execute("postgres", "CREATE DATABASE shop OWNER app").unwrap();
    server.execute("shop", shop).unwrap();
    let place = dumping(&server);
    let create = ["backup", "create", "--store", "postgres", "--logical", "--database", "shop"];
    become_role(&place, &server, "plain", "postgres");
    run(&place, &create).expect(5).says("permission denied");
    become_role(&place, &server, "dumper", "postgres");
    run(&place, &create).expect(0);

    let restore = |role: &str, into: &str, more: &[&str]| {
        become_role(&place, &server, role, "postgres");
        let _ = std::fs::remove_file(place.path("plan.json"));
        let plan =
            ["restore", "plan", "--store", "postgres", "--logical", "--into", into, "--output", "plan.json"];
        run(&place, &[&plan[..], more].concat()).expect(0);
        run(&place, &["restore", "apply", "plan.json"])
    };
    restore("plain", "none", &["--without-owners"]).expect(5).says("permission denied to create database");
    restore("filler", "copy", &["--without-owners"]).expect(0);
    restore("filler", "owned", &[]).expect(5);
    restore("keeper", "owned", &[]).expect(0);
    let owner = "SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE relname = 'orders'";
    assert_eq!(
        (server.texts("copy", owner), server.texts("owned", owner)),
        (vec!["filler".to_owned()], vec!["app".to_owned()])
    );
}

#[test]
fn marks_and_resets_take_what_their_database_gives() {
    let server = Postgres::start().unwrap();
    server.execute("postgres", "CREATE ROLE plain LOGIN; CREATE ROLE owner LOGIN CREATEDB").unwrap();
    server.execute("postgres", "CREATE DATABASE play OWNER owner").unwrap();
    let place = dumping(&server);
    become_role(&place, &server, "plain", "play");
    let planned = ["environment", "mark", "--store", "postgres", "--output", "mark.json", "--json"];
    let hash = run(&place, &planned).expect(0).json()["plans"][0]["plan_hash"].clone();
    apply(&place, "mark.json", &hash).expect(5);
    std::fs::remove_file(place.path("mark.json")).unwrap();
    become_role(&place, &server, "owner", "play");
    mark(&place);
    let reset = run(&place, &["pg", "reset", "--output", "reset.json", "--json"]).expect(0).json();
    become_role(&place, &server, "plain", "play");
    apply(&place, "reset.json", &reset["plan_hash"]).expect(5);
    become_role(&place, &server, "owner", "play");
    apply(&place, "reset.json", &reset["plan_hash"]).expect(0);
}
