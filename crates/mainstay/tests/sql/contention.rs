//! Others: who holds locks, who runs at the same time, who cuts the connection.

use mainstay_testkit::{FaultProxy, Psql};
use rustix::process::Signal;

use crate::support::{Shop, Started, server, wait_for};

const USERS: &str = "CREATE TABLE users (id int);\n--> statement-breakpoint\nINSERT INTO users VALUES (1);\n";

/// A database with `users`, which a session called `holder` has locked, and a migration after it that needs that lock.
fn locked() -> (Shop, Psql) {
    let mut shop = Shop::new();
    shop.add("0000_users", 0, USERS);
    shop.apply(&[]).expect(0);
    shop.add("0001_column", 60, "ALTER TABLE users ADD COLUMN name text;");
    let mut holder = shop.client("holder");
    holder.send("BEGIN; SELECT id, 'canary' FROM users;");
    shop.process_when("holder", "state = 'idle in transaction'");
    (shop, holder)
}

#[test]
fn a_lock_that_is_not_to_be_had_is_tried_again_and_whose_it_is_is_told() {
    let (shop, mut holder) = locked();
    let seen = shop.apply(&["--lock-timeout", "300ms", "--retry-for", "0s"]).expect(10);
    let seen = seen.says("55P03").says("holder").says("idle in transaction").says("pg activity --terminate");
    seen.hides("canary");
    shop.apply(&["--lock-timeout", "300ms", "--retry-for", "0s", "--show-literals"])
        .expect(10)
        .says("canary");
    assert_eq!(shop.rows(), ["0"]);

    let started = Started::begin(&shop, &["sql", "apply", "--lock-timeout", "100ms", "--retry-for", "60s"]);
    shop.process_when("mainstay", "query LIKE 'ALTER TABLE users%' AND wait_event_type = 'Lock'");
    holder.send("COMMIT;");
    started.end().expect(0);
    assert_eq!(shop.rows(), ["0", "60"]);
}

#[test]
fn a_request_to_stop_ends_the_statement_and_leaves_nothing_of_it() {
    let (shop, _holder) = locked();
    let started = Started::begin(&shop, &["sql", "apply", "--lock-timeout", "60s"]);
    shop.process_when("mainstay", "query LIKE 'ALTER TABLE users%' AND wait_event_type = 'Lock'");
    started.signal(Signal::INT);
    started.end().expect(75).says("none of 1 migrations").says("the same command goes on");
    assert_eq!(shop.rows(), ["0"]);
}

#[test]
fn two_runs_at_once_apply_everything_once() {
    let mut shop = Shop::new();
    shop.add("0000_users", 0, USERS);
    shop.add("0001_index", 60, "CREATE INDEX CONCURRENTLY users_id ON users (id);");
    shop.add("0002_more", 120, "INSERT INTO users VALUES (2);");
    let runs: Vec<Started> = (0..3).map(|_| Started::begin(&shop, &["sql", "apply"])).collect();
    for run in runs {
        run.end().expect(0);
    }
    assert_eq!(shop.rows(), ["0", "60", "120"]);
    assert_eq!(shop.texts("SELECT count(*)::text FROM users"), ["2"]);
}

#[test]
fn another_run_is_waited_for_and_named() {
    let (shop, _holder) = locked();
    let first = Started::begin(&shop, &["sql", "apply", "--lock-timeout", "60s"]);
    let pid = shop.process_when("mainstay", "query LIKE 'ALTER TABLE users%' AND wait_event_type = 'Lock'");
    shop.apply(&["--wait", "0s"]).expect(10).says("another run").says("(mainstay, postgres");
    // Whoever only looks is told, too, and by whom it is that it cannot.
    shop.run(&["sql", "status"]).expect(10).says(&format!("process {pid} (mainstay)"));
    drop(first);
}

#[test]
fn whoever_waited_to_read_the_table_is_let_go_on_first() {
    let mut shop = Shop::new();
    shop.add("0000_users", 0, USERS);
    shop.apply(&[]).expect(0);
    shop.add("0001_slow", 60, "SELECT pg_sleep(2); ALTER TABLE users ADD COLUMN a int;");
    shop.add("0002_more", 120, "INSERT INTO users VALUES (2);");
    let hash = shop
        .texts("SELECT encode(sha256(convert_to('INSERT INTO users VALUES (2);', 'UTF8')), 'hex')")
        .remove(0);
    let started = Started::begin(&shop, &["sql", "apply"]);
    shop.process_when("mainstay", "query LIKE 'SELECT pg_sleep%' AND state = 'active'");
    // Another runner, which reads, and applies what it takes for pending.
    let mut other = shop.client("other");
    other.send(&format!(
        "SELECT count(*) FROM drizzle.__drizzle_migrations;\nBEGIN;\nINSERT INTO users VALUES (2);\n\
         INSERT INTO drizzle.__drizzle_migrations (hash, created_at) VALUES ('{hash}', 1700000120000);\nCOMMIT;"
    ));
    started.end().expect(0).says("by another run");
    assert_eq!(shop.rows(), ["0", "60", "120"]);
    assert_eq!(shop.texts("SELECT count(*)::text FROM users"), ["2"]);
}

#[test]
fn another_runner_that_has_begun_before_us_is_let_go_on_first() {
    let mut shop = Shop::new();
    shop.add("0000_users", 0, USERS);
    shop.apply(&[]).expect(0);
    shop.add("0001_column", 60, "ALTER TABLE users ADD COLUMN a int;");
    shop.add("0002_more", 120, "INSERT INTO users VALUES (2);");
    let hash = shop
        .texts("SELECT encode(sha256(convert_to('ALTER TABLE users ADD COLUMN a int;', 'UTF8')), 'hex')")
        .remove(0);
    // It has read the table, and is in the first migration that it takes for pending.
    let mut other = shop.client("other");
    other.send("BEGIN;\nALTER TABLE users ADD COLUMN a int;");
    shop.process_when("other", "state = 'idle in transaction' AND query LIKE 'ALTER TABLE users%'");
    let started = Started::begin(&shop, &["sql", "apply"]);
    shop.process_when("mainstay", "query LIKE 'SELECT a.pid, floor%'");
    other.send(&format!(
        "INSERT INTO drizzle.__drizzle_migrations (hash, created_at) VALUES ('{hash}', 1700000060000);\nCOMMIT;"
    ));
    started.end().expect(0).says("by another run");
    assert_eq!(shop.rows(), ["0", "60", "120"]);
}

#[test]
fn whoever_only_looked_at_the_table_keeps_nobody_waiting() {
    let mut shop = Shop::new();
    shop.add("0000_users", 0, USERS);
    shop.apply(&[]).expect(0);
    shop.add("0001_more", 60, "INSERT INTO users VALUES (2);");
    shop.add("0002_more", 120, "INSERT INTO users VALUES (3);");
    let mut looker = shop.client("looker");
    looker.send("SELECT count(*) FROM \"drizzle\".\"__drizzle_migrations\";");
    shop.process_when("looker", "state = 'idle' AND query LIKE 'SELECT count%'");
    shop.apply(&["--retry-for", "0s"]).expect(0);
    assert_eq!(shop.rows(), ["0", "60", "120"]);
}

#[test]
fn a_table_that_somebody_else_writes_into_is_not_what_was_planned() {
    let (shop, _holder) = locked();
    let started = Started::begin(&shop, &["sql", "apply", "--lock-timeout", "100ms", "--retry-for", "60s"]);
    shop.process_when("mainstay", "query LIKE 'ALTER TABLE users%' AND wait_event_type = 'Lock'");
    shop.execute("INSERT INTO drizzle.__drizzle_migrations (hash, created_at) VALUES ('x', 1)");
    started.end().expect(9).says("somebody else has written");
}

#[test]
fn a_connection_that_is_cut_leaves_nothing_of_a_migration() {
    let (shop, mut holder) = locked();
    let proxy = FaultProxy::start(server().address());
    shop.configure(&server().uri_through(proxy.address(), &shop.database), "development");
    let started = Started::begin(&shop, &["sql", "apply", "--lock-timeout", "60s"]);
    shop.process_when("mainstay", "query LIKE 'ALTER TABLE users%' AND wait_event_type = 'Lock'");
    proxy.cut_now();
    started.end().expect(6).says("nothing of");
    holder.send("COMMIT;");
    proxy.heal();
    wait_for("the old connection has ended", || {
        shop.texts("SELECT 1::text FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'mainstay'")
            .is_empty()
    });
    shop.apply(&[]).expect(0);
    assert_eq!(shop.rows(), ["0", "60"]);
}
