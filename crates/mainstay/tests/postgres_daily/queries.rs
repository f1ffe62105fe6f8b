//! The daily questions, asked as a role that has `pg_monitor` and nothing else.

use mainstay_testkit::{Postgres, Psql};
use serde_json::Value;

use crate::binary::Place;
use crate::support::{apply, configure, mark, project, url_of, wait_for};

/// What may be shown to nobody who did not ask.
const CANARY: &str = "canary-4711";

/// A marked project on `server` whose user is `watcher`, a role with `pg_monitor` alone.
fn watched(server: &Postgres) -> Place {
    server.execute("postgres", "CREATE ROLE watcher LOGIN IN ROLE pg_monitor").unwrap();
    let place = project(&server.uri());
    mark(&place);
    configure(&place, &url_of(server, "watcher", "postgres"), "");
    place
}

fn ids(report: &Value) -> Vec<&str> {
    report["findings"].as_array().unwrap().iter().map(|finding| finding["id"].as_str().unwrap()).collect()
}

#[test]
fn sessions_are_seen_without_values_and_ended_with_a_permit() {
    let server = Postgres::start().unwrap();
    let place = watched(&server);
    place.run(&["pg", "activity"]).expect(0).says("nothing is going on").says("no findings");

    let mut sleeper = Psql::open(&server, "postgres", "sleeper");
    sleeper.send(&format!("SELECT pg_sleep(600), '{CANARY}', $q${CANARY}$q$ /* {CANARY} */;"));
    let pid = server.process_when("sleeper", "state = 'active'");
    place.run(&["pg", "activity", "--verbose"]).expect(0).says("pg_sleep(<number>), <string>").hides(CANARY);
    let seen = place.run(&["pg", "activity", "--json"]).expect(0).hides(CANARY).json();
    assert_eq!(seen["sessions"][0]["pid"].to_string(), pid);
    assert_eq!((&seen["unseen"], &seen["connections_max"]), (&0.into(), &100.into()), "{seen}");
    place.run(&["pg", "activity", "--show-literals", "--verbose"]).expect(0).says(CANARY);
    place.run(&["pg", "activity", "--longer-than", "1h"]).expect(0).says("nothing is going on");
    place.run(&["pg", "activity", "--all"]).expect(0).says("checkpointer");

    let cancel = ["pg", "activity", "--cancel", &pid];
    place.run(&cancel).expect(5).says("pg_signal_backend");
    server.execute("postgres", "GRANT pg_signal_backend TO watcher").unwrap();
    // A superuser's session takes a superuser.
    place.run(&cancel).expect(5);
    configure(&place, &server.uri(), "");
    place.run(&[&cancel[..], &["--dry-run"]].concat()).expect(0).says("disruptive").hides(CANARY);
    let kept = place.run(&[&cancel[..], &["--output", "cancel.json", "--json"]].concat()).expect(0).json();
    place.run(&cancel).expect(0).says("has ended");
    server.process_when("sleeper", "state = 'idle'");
    place.run(&cancel).expect(8).says("runs no statement now");
    apply(&place, "cancel.json", &kept["plan_hash"]).expect(9).says("at no statement");
    place.run(&["pg", "activity", "--terminate", &pid]).expect(0).says(&format!("process {pid} has ended"));
    place.run(&["pg", "activity", "--terminate", &pid]).expect(1).says("no process of the server");
    let own = server
        .texts("postgres", "SELECT pid::text FROM pg_stat_activity WHERE backend_type = 'checkpointer'");
    place.run(&["pg", "activity", "--terminate", &own[0]]).expect(8).says("the server's own work");
    place.run(&["audit", "list"]).expect(0).says("pg.activity.terminate");
}

#[test]
fn whoever_blocks_stands_at_the_root() {
    let server = Postgres::start().unwrap();
    let place = watched(&server);
    server
        .execute(
            "postgres",
            "CREATE TABLE orders AS SELECT i, 'open' AS state FROM generate_series(1, 9) AS i",
        )
        .unwrap();
    place.run(&["pg", "blockers"]).expect(0).says("nobody waits for a lock");

    let mut holder = Psql::open(&server, "postgres", "holder");
    holder.send(&format!("BEGIN; UPDATE orders SET state = '{CANARY}' WHERE i = 1;"));
    let root = server.process_when("holder", "state = 'idle in transaction'");
    let mut second = Psql::open(&server, "postgres", "second");
    second.send(&format!("UPDATE orders SET state = '{CANARY}' WHERE i = 1;"));
    server.process_when("second", "wait_event_type = 'Lock'");
    let mut third = Psql::open(&server, "postgres", "third");
    third.send("ALTER TABLE orders ADD COLUMN more int;");
    server.process_when("third", "wait_event_type = 'Lock'");
    let mut fourth = Psql::open(&server, "postgres", "fourth");
    fourth.send("SELECT count(*) FROM orders;");
    server.process_when("fourth", "wait_event_type = 'Lock'");

    let shown = place.run(&["pg", "blockers"]).expect(0).hides(CANARY);
    let shown = shown.says(&format!("process {root} (postgres, holder"));
    shown
        .says("blocks 3")
        .says("orders (RowExclusiveLock)")
        .says("idle in transaction for")
        .says("SET state = <string>");
    let report = place.run(&["pg", "blockers", "--json"]).expect(0).hides(CANARY).json();
    assert_eq!((&report["waiting"], report["trees"].as_array().unwrap().len()), (&3.into(), 1), "{report}");
    let tree = &report["trees"][0];
    assert_eq!((tree["pid"].to_string(), &tree["wants"]), (root.clone(), &Value::Null));
    let below: Vec<&Value> = tree["blocks"].as_array().unwrap().iter().collect();
    let behind = below.iter().find(|waiter| waiter["app_name"] == "third").unwrap();
    assert_eq!(behind["blocks"][0]["app_name"], "fourth", "{report}");
    assert_eq!(behind["wants"]["mode"], "AccessExclusiveLock");
    place.run(&["pg", "blockers", "--show-literals"]).expect(0).says(CANARY);

    configure(&place, &server.uri(), "");
    place.run(&["pg", "activity", "--terminate", &root]).expect(0);
    wait_for("nobody waits any more", || {
        place.run(&["pg", "blockers"]).expect(0).stdout.contains("nobody waits for a lock")
    });
}

#[test]
fn statements_tables_wal_and_slots_are_judged() {
    let server = Postgres::options()
        .parameter("shared_preload_libraries", "pg_stat_statements")
        .parameter("autovacuum", "off")
        .parameter("archive_mode", "on")
        .parameter("archive_command", "false")
        .start()
        .unwrap();
    let place = watched(&server);

    place.run(&["pg", "slow"]).expect(8).says("`CREATE EXTENSION pg_stat_statements;`");
    server.execute("postgres", "CREATE EXTENSION pg_stat_statements").unwrap();
    let fill = "CREATE TABLE items AS SELECT i, md5(i::text) AS text FROM generate_series(1, 30000) AS i";
    server.execute("postgres", fill).unwrap();
    for _ in 0..3 {
        server.execute("postgres", &format!("SELECT count(*) FROM items WHERE text = '{CANARY}'")).unwrap();
    }
    server.execute("postgres", &format!("ALTER ROLE watcher PASSWORD '{CANARY}'")).unwrap();
    let slow = place.run(&["pg", "slow", "--limit", "50", "--json"]).expect(0).hides(CANARY).json();
    let groups = slow["groups"].as_array().unwrap();
    let asked =
        |text: &str| groups.iter().find(|group| group["statement"].as_str().unwrap().contains(text)).unwrap();
    assert_eq!(asked("FROM items WHERE text = $1")["calls"], 3, "{slow}");
    asked("PASSWORD <string>");
    place.run(&["pg", "slow", "--limit", "1"]).expect(0).says("% of the time, postgres, ").says("left out");

    // Whoever may not read a table is not told of its rows.
    server.execute("postgres", "ANALYZE items; DELETE FROM items WHERE i % 5 < 2").unwrap();
    server.execute("postgres", "SELECT pg_stat_force_next_flush()").unwrap();
    let dead = |place: &Place| place.run(&["pg", "bloat", "--json"]).expect(4).json()["tables"][0].clone();
    wait_for("dead rows are counted", || {
        server.texts("postgres", "SELECT n_dead_tup::text FROM pg_stat_user_tables WHERE relname = 'items'")
            == ["12000"]
    });
    let table = dead(&place);
    assert_eq!(
        (&table["table"], &table["dead_rows"], &table["bloat_bytes"]),
        (&"items".into(), &12_000.into(), &Value::Null)
    );
    place.run(&["pg", "bloat"]).expect(4).says("postgres.dead_rows").says("is not estimated").says("never");
    for statement in ["GRANT pg_read_all_data TO watcher", "VACUUM items", "ANALYZE items"] {
        server.execute("postgres", statement).unwrap();
    }
    let report = place.run(&["pg", "bloat", "--json"]).expect(0).json();
    let table = &report["tables"][0];
    let ratio = table["bloat_ratio"].as_f64().unwrap();
    assert!((0.3..0.5).contains(&ratio), "{report}");
    assert!(
        table["vacuumed_seconds"].as_u64().is_some() && table["autovacuumed_seconds"].is_null(),
        "{report}"
    );

    server.execute("postgres", "SELECT pg_create_physical_replication_slot('left_behind', true)").unwrap();
    server.execute("postgres", "SELECT pg_switch_wal()").unwrap();
    server.execute("postgres", "UPDATE items SET text = text || 'x'").unwrap();
    place
        .run(&["pg", "slots"])
        .expect(0)
        .says("left_behind")
        .says("reserved")
        .says("postgres.slots_unbounded");
    let slots = place.run(&["pg", "slots", "--json"]).expect(0).json();
    let slot = &slots["slots"][0];
    assert!(
        slot["retained_bytes"].as_u64().unwrap() > 1_000_000 && slot["inactive_seconds"].is_u64(),
        "{slots}"
    );
    assert_eq!((&slot["active"], &slots["retained_bytes_max"]), (&false.into(), &Value::Null));

    wait_for("archiving has failed", || {
        server.texts("postgres", "SELECT (failed_count > 0)::text FROM pg_stat_archiver") == ["true"]
    });
    let wal = place.run(&["pg", "wal", "--over", "100ms", "--json"]).expect(4).json();
    assert_eq!(ids(&wal), ["postgres.archive_failing"]);
    assert!(
        wal["directory_bytes"].as_u64().unwrap() >= 16 << 20 && wal["archive_pending"].as_u64().unwrap() >= 1,
        "{wal}"
    );
    place
        .run(&["pg", "wal", "--over", "0s"])
        .expect(4)
        .says("segments; a checkpoint begins at")
        .says("failed tries");

    doctor_tells(&server, &place);
}

/// What `doctor` adds to that, and that it asks as little as the rest.
fn doctor_tells(server: &Postgres, place: &Place) {
    server.execute("postgres", "CREATE UNIQUE INDEX CONCURRENTLY failed ON items ((1))").unwrap_err();
    let folder = server.dir().join("data");
    let compose = format!(
        "services:\n  db:\n    image: postgres:18\n    environment: {{PGDATA: {}}}\n    volumes: [\"pg:/var/lib/postgresql/data\"]\n",
        folder.display()
    );
    place.write("compose.yaml", &compose);
    let report = place.run(&["doctor", "--json"]).expect(4).json();
    let found = ids(&report);
    for expected in [
        "postgres.archive_failing",
        "postgres.fsync_off",
        "postgres.invalid_indexes",
        "postgres.slots_unbounded",
        "compose.postgres_data_not_on_volume",
    ] {
        assert!(found.contains(&expected), "{expected} is not in {found:?}");
    }
    let findings = report["findings"].as_array().unwrap();
    let unseen = findings.iter().find(|finding| finding["id"] == "postgres.not_examined").unwrap();
    assert_eq!(unseen["message"], "the role may not see pg_hba.conf");
    let kept = ["backup.none", "repository.none"].into_iter().filter(|id| found.contains(id)).count();
    assert_eq!(kept, 1, "the absence of backups is told once: {found:?}");
}

#[test]
fn a_server_that_keeps_no_statements_says_how_it_would() {
    let server = Postgres::options().parameter("shared_preload_libraries", "auto_explain").start().unwrap();
    let place = project(&server.uri());
    let hint = "ALTER SYSTEM SET shared_preload_libraries = 'auto_explain', 'pg_stat_statements';";
    place.run(&["pg", "slow"]).expect(8).says("is not loaded").says(hint);
    let connections = Postgres::options()
        .parameter("max_connections", "5")
        .parameter("superuser_reserved_connections", "1")
        .start()
        .unwrap();
    let _held: Vec<Psql> = (0..3).map(|_| Psql::open(&connections, "postgres", "crowd")).collect();
    wait_for("all are connected", || {
        let count = "SELECT count(*)::text FROM pg_stat_activity WHERE application_name = 'crowd'";
        connections.texts("postgres", count) == ["3"]
    });
    let place = project(&connections.uri());
    place
        .run(&["pg", "activity"])
        .expect(4)
        .says("4 of 4 connections are in use")
        .says("postgres.connections_high");
    place.run(&["doctor"]).expect(4).says("postgres.connections_high");
}
