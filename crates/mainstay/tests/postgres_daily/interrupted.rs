//! A restore of a dump that is killed, or refused, at the moments that no transaction covers.

use mainstay_testkit::Psql;
use rustix::process::Signal;
use serde_json::Value;

use crate::logical::{Started, databases, dump, dumping, plan, run, shop_server};
use crate::support::wait_for;

const APPLY: &[&str] = &["restore", "apply", "plan.json"];

/// The name under which the database of `plan.json` is filled.
fn working_name(place: &crate::binary::Place) -> String {
    let planned = std::fs::read_to_string(place.path("plan.json")).unwrap();
    let plan: Value = serde_json::from_str(&planned).unwrap();
    plan["parameters"]["working_name"].as_str().unwrap().to_owned()
}

#[test]
fn a_database_that_was_made_and_not_yet_marked_is_known_again() {
    let server = shop_server();
    let place = dumping(&server);
    dump(&place);
    let before = databases(&server);
    // Nobody can write a comment on a database: what was made stays unmarked.
    let kill_before_the_mark = || {
        let mut holder = Psql::open(&server, "postgres", "holder");
        holder.send("BEGIN; LOCK TABLE pg_shdescription IN EXCLUSIVE MODE;");
        server.process_when("holder", "state = 'idle in transaction'");
        let mut started = Started::begin(&place, APPLY);
        let waiting = server.process_when("mainstay", "query LIKE 'COMMENT%' AND wait_event_type = 'Lock'");
        started.signal(Signal::KILL);
        started.end();
        // The server has not heard of it, and would go on.
        server.execute("postgres", &format!("SELECT pg_terminate_backend({waiting}, 10000)")).unwrap();
        drop(holder);
        wait_for("the lock is free", || {
            server
                .texts("postgres", "SELECT 1::text FROM pg_stat_activity WHERE application_name = 'holder'")
                .is_empty()
        });
        let marked = "SELECT coalesce(shobj_description(oid, 'pg_database'), 'none') FROM pg_database \
                      WHERE datname LIKE 'mainstay\\_restore%'";
        assert_eq!(server.texts("postgres", marked), ["none"]);
    };
    plan(&place, &["--into", "copy"]).expect(0);
    kill_before_the_mark();
    run(&place, APPLY).expect(0).says("into database copy");
    assert_eq!(databases(&server).len(), before.len() + 1);
    let copy = "SELECT concat_ws(' ', datconnlimit, shobj_description(oid, 'pg_database')) FROM pg_database WHERE datname = 'copy'";
    assert_eq!(server.texts("postgres", copy), ["-1"], "no mark is left on what was placed");
    assert_eq!(server.texts("copy", "SELECT count(*)::text FROM users"), ["2000"]);

    // When somebody has used it since, it is nobody's to remove.
    plan(&place, &["--into", "other"]).expect(0);
    kill_before_the_mark();
    let name = working_name(&place);
    for (use_it, take_back) in [
        ("CREATE TABLE mine (i int)", "DROP TABLE mine"),
        ("SELECT lo_create(1)", "SELECT lo_unlink(1)"),
        (
            &format!("ALTER DATABASE {name} SET work_mem = '8MB'"),
            &format!("ALTER DATABASE {name} RESET work_mem"),
        ),
        (&format!("ALTER DATABASE {name} CONNECTION LIMIT 7"), ""),
    ] {
        server.execute(&name, use_it).unwrap();
        run(&place, APPLY).expect(1).says("is not the one that this restore made").says("look what is in it");
        assert!(databases(&server).contains(&name));
        if !take_back.is_empty() {
            server.execute(&name, take_back).unwrap();
        }
    }
}

#[test]
fn what_cannot_be_named_is_removed_and_keeps_neither_name_nor_mark() {
    let server = shop_server();
    let place = dumping(&server);
    dump(&place);
    plan(&place, &["--into", "copy"]).expect(0);
    let before = databases(&server);
    // Once it is filled, whatever touches its comment fails: so it is not renamed either.
    let mut holder = Psql::open(&server, "postgres", "holder");
    let mut started = Started::begin(&place, APPLY);
    wait_for("it is marked", || {
        !server
            .texts(
                "postgres",
                "SELECT description FROM pg_shdescription WHERE description LIKE 'mainstay restore%'",
            )
            .is_empty()
    });
    holder.send("BEGIN; LOCK TABLE pg_shdescription IN EXCLUSIVE MODE;");
    let waiting = server.process_when("mainstay", "query LIKE '%RENAME TO%' AND wait_event_type = 'Lock'");
    server.execute("postgres", &format!("SELECT pg_terminate_backend({waiting}, 10000)")).unwrap();
    drop(holder);
    assert!(started.end().is_some_and(|status| status != 0));
    assert_eq!(databases(&server), before, "what was made is removed");
    run(&place, APPLY).expect(0);
    assert_eq!(server.texts("copy", "SELECT count(*)::text FROM users"), ["2000"]);
}
