//! What cannot be in a transaction: steps of their own, recorded, continued after a kill, without leftovers.

use rustix::process::Signal;

use crate::support::{Shop, Started, server, wait_for};

const USERS: &str = "CREATE TABLE users (id int, email text);\n--> statement-breakpoint\nINSERT INTO users VALUES (1, 'a'), (2, 'b');\n";
const INDEX: &str = "INSERT INTO users VALUES (3, 'c');\n--> statement-breakpoint\n\
                     CREATE UNIQUE INDEX CONCURRENTLY users_email ON users (email);\n--> statement-breakpoint\n\
                     INSERT INTO users VALUES (4, 'd');\n";
const VALID: &str = "SELECT indisvalid::text FROM pg_index WHERE indexrelid = to_regclass('users_email')";

fn count(shop: &Shop) -> Vec<String> {
    shop.texts("SELECT count(*)::text FROM users")
}

fn ledger(shop: &Shop) -> Vec<String> {
    shop.texts("SELECT count(*)::text FROM mainstay.sql_steps")
}

/// A database with `users`, and a migration after it that builds an index.
fn indexing() -> Shop {
    let mut shop = Shop::new();
    shop.add("0000_users", 0, USERS);
    shop.apply(&[]).expect(0);
    shop.add("0001_index", 60, INDEX);
    shop
}

#[test]
fn a_concurrent_index_is_a_step_of_its_own() {
    let shop = indexing();
    shop.apply(&["--dry-run"]).expect(0).says("in 3 steps").says("in no transaction");
    shop.apply(&["--tx", "all"]).expect(8).says("cannot be in one transaction");
    shop.apply(&[]).expect(0);
    assert_eq!(
        (shop.texts(VALID), count(&shop), ledger(&shop)),
        (vec!["true".to_owned()], vec!["4".to_owned()], vec!["0".to_owned()])
    );
    assert_eq!(shop.rows(), ["0", "60"]);
}

#[test]
fn a_step_that_fails_leaves_no_invalid_index_and_is_continued() {
    let shop = indexing();
    shop.execute("INSERT INTO users VALUES (5, 'a')");
    let seen = shop.apply(&[]).expect(1);
    seen.says("0001_index.sql:3:1").says("23505").says("recorded");
    assert!(shop.texts(VALID).is_empty(), "what it left is dropped");
    assert_eq!((shop.rows(), ledger(&shop)), (vec!["0".to_owned()], vec!["2".to_owned()]));
    shop.run(&["sql", "status"]).expect(0).says("half applied");
    shop.run(&["sql", "verify"]).expect(3).says("sql.half_applied");
    let planned = shop.run(&["sql", "mark-applied", "0001_index", "--dry-run", "--json"]).expect(0).json();
    assert_eq!(planned["plan"]["effect"], "disruptive", "{planned}");

    // An invalid index of that name from an earlier failure of somebody else.
    let _refused =
        server().execute(&shop.database, "CREATE UNIQUE INDEX CONCURRENTLY users_email ON users (email)");
    assert_eq!(shop.texts(VALID), ["false"]);
    shop.execute("DELETE FROM users WHERE id = 5");
    shop.apply(&[]).expect(0).says("was dropped").says("1 of 3 steps were done before");
    assert_eq!((shop.texts(VALID), count(&shop)), (vec!["true".to_owned()], vec!["4".to_owned()]));
    assert_eq!(ledger(&shop), ["0"]);
}

#[test]
fn an_index_that_somebody_else_made_is_never_taken_for_ours() {
    let shop = indexing();
    shop.execute("CREATE INDEX users_email ON users (id)");
    for _ in 0..2 {
        shop.apply(&[]).expect(1).says("0001_index.sql:3:1").says("42P07");
    }
    assert_eq!((shop.rows(), ledger(&shop)), (vec!["0".to_owned()], vec!["1".to_owned()]));
    shop.execute("DROP INDEX users_email");
    shop.apply(&[]).expect(0).says("1 of 3 steps were done before");
    assert_eq!((count(&shop), ledger(&shop)), (vec!["4".to_owned()], vec!["0".to_owned()]));
}

#[test]
fn steps_that_are_done_must_stay_what_they_were() {
    let mut shop = indexing();
    shop.execute("INSERT INTO users VALUES (5, 'a')");
    shop.apply(&[]).expect(1);
    shop.add("0001_index", 60, &INDEX.replace("(3, 'c')", "(3, 'changed')"));
    shop.apply(&[]).expect(8).says("with another text");
    shop.add("0001_index", 60, &INDEX.replace("UNIQUE ", ""));
    shop.apply(&[]).expect(0);
    assert_eq!(count(&shop), ["5"]);
}

#[test]
fn what_is_marked_as_applied_is_continued_no_more() {
    let shop = indexing();
    shop.execute("INSERT INTO users VALUES (5, 'a')");
    shop.apply(&[]).expect(1);
    shop.run(&["sql", "mark-applied", "0001_index"]).expect(0);
    assert_eq!((shop.rows(), ledger(&shop)), (vec!["0".to_owned(), "60".to_owned()], vec!["0".to_owned()]));
    shop.apply(&[]).expect(0).says("no migration is pending");
}

#[test]
fn a_run_that_is_killed_in_a_build_is_continued_and_nothing_is_done_twice() {
    let shop = indexing();
    let mut holder = shop.client("holder");
    holder.send("BEGIN; INSERT INTO users VALUES (9, 'z');");
    shop.process_when("holder", "state = 'idle in transaction'");
    let started = Started::begin(&shop, &["sql", "apply"]);
    shop.process_when("mainstay", "query LIKE 'CREATE UNIQUE INDEX%' AND wait_event_type = 'Lock'");
    started.signal(Signal::KILL);
    started.end();
    // The server has not heard of it, and builds on.
    shop.apply(&["--retry-for", "0s"]).expect(10).says("step 2 of 0001_index");
    holder.send("COMMIT;");
    shop.apply(&[]).expect(0);
    assert_eq!((shop.texts(VALID), count(&shop)), (vec!["true".to_owned()], vec!["5".to_owned()]));
    assert_eq!((shop.rows(), ledger(&shop)), (vec!["0".to_owned(), "60".to_owned()], vec!["0".to_owned()]));
}

#[test]
fn a_build_is_stopped_on_request_and_leaves_nothing_of_it() {
    let shop = indexing();
    let mut holder = shop.client("holder");
    holder.send("BEGIN; INSERT INTO users VALUES (9, 'z');");
    shop.process_when("holder", "state = 'idle in transaction'");
    let started = Started::begin(&shop, &["sql", "apply"]);
    shop.process_when("mainstay", "query LIKE 'CREATE UNIQUE INDEX%' AND wait_event_type = 'Lock'");
    started.signal(Signal::INT);
    let building =
        "SELECT pid::text FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'CREATE UNIQUE INDEX%'";
    wait_for("the build is ended", || shop.texts(building).is_empty());
    holder.send("COMMIT;");
    started.end().expect(75).says("recorded");
    wait_for("the leftover is gone", || shop.texts(VALID).is_empty());
    shop.apply(&[]).expect(0);
    assert_eq!(count(&shop), ["5"]);
}

#[test]
fn a_file_that_commits_is_applied_step_by_step() {
    let mut shop = indexing();
    let text = "ALTER TABLE users ADD COLUMN name text;\n--> statement-breakpoint\nCOMMIT;\n--> statement-breakpoint\n\
                CREATE INDEX CONCURRENTLY users_name ON users (absent);\n";
    shop.apply(&[]).expect(0);
    shop.add("0002_hack", 120, text);
    shop.apply(&[]).expect(1).says("0002_hack.sql:5:");
    // With the stock runner the column would be there, unrecorded, and the next run would fail at it.
    shop.add("0002_hack", 120, &text.replace("absent", "name"));
    shop.apply(&[]).expect(0);
    assert_eq!(shop.rows(), ["0", "60", "120"]);
    shop.add("0003_back", 180, "DELETE FROM users; ROLLBACK;");
    shop.apply(&["--dry-run"]).expect(8).says("ROLLBACK");
}
