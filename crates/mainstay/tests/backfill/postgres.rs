//! Rows: previewed, changed, verified, brought back; locks that are in the way.

use std::process::Stdio;

use mainstay_testkit::{Postgres, Psql, Seen, shared_postgres, wait_for};
use serde_json::json;

use crate::project::Project;

const CENTS: &str = r#"
[[backfill]]
id = "cents"
store = "postgres"
table = "orders"
guard = "cents IS NULL -- those that have none"
set = { cents = "round(amount * 100)", counted = "counted + 1" }
verify = "cents <> round(amount * 100)"
batch = 1000
"#;

/// A database with orders, and a project on it.
fn shop(declared: &str) -> (&'static Postgres, String, Project) {
    let server = shared_postgres();
    let name = server.create_database();
    server
        .execute(
            &name,
            "CREATE TABLE orders (tenant int, id bigint, amount numeric(10, 2), cents bigint, counted int NOT NULL DEFAULT 0, \
             at timestamptz DEFAULT now(), PRIMARY KEY (tenant, id)); \
             INSERT INTO orders (tenant, id, amount) SELECT i % 3, i, i / 7.0 FROM generate_series(1, 20000) i; ANALYZE orders",
        )
        .unwrap();
    let project = Project::postgres(server, &name, declared);
    (server, name, project)
}

fn texts(server: &Postgres, database: &str, query: &str) -> Vec<String> {
    server.texts(database, query)
}

#[test]
fn rows_are_previewed_changed_once_and_brought_back() {
    let (server, name, project) = shop(CENTS);
    let sum = "SELECT md5(string_agg(orders::text, ',' ORDER BY tenant, id)) FROM orders";
    let before = texts(server, &name, sum);
    let preview = project.json(0, &["backfill", "preview", "cents", "--count", "2"]);
    assert_eq!((&preview["guarded"], &preview["has_transactions"]), (&json!(20_000), &json!(true)));
    assert_eq!(preview["reads_everything"], json!(true));
    let first = &preview["changes"][0];
    assert_eq!(first["key"], json!(r#"["0", "3"]"#));
    let cents = json!({"field": "cents", "before": null, "after": "43"});
    assert!(first["fields"].as_array().unwrap().contains(&cents), "{first}");
    assert_eq!(texts(server, &name, sum), before, "a preview changes nothing");

    let ran = project.carry_out(0, &["backfill", "run", "cents"]);
    assert_eq!((&ran["changed"], &ran["remains"]), (&json!(20_000), &json!({"guarded": 0, "wrong": 0})));
    assert_eq!(texts(server, &name, "SELECT count(*)::text FROM orders WHERE counted <> 1"), ["0"]);
    project.expect(0, &["backfill", "verify"]);
    assert!(project.expect(0, &["backfill", "run", "cents"]).both().contains("nothing to do"));

    server
        .execute(&name, "UPDATE orders SET cents = 5 WHERE id IN (7, 8); DELETE FROM orders WHERE id = 9")
        .unwrap();
    let undone = project.carry_out(3, &["backfill", "undo", "cents"]);
    assert_eq!((&undone["restored"], &undone["left"]), (&json!(19_997), &json!(3)));
    let mut left: Vec<&str> =
        undone["left_keys"].as_array().unwrap().iter().map(|key| key.as_str().unwrap()).collect();
    left.sort_unstable();
    assert_eq!(left, [r#"["0", "9"]"#, r#"["1", "7"]"#, r#"["2", "8"]"#]);
    assert_eq!(
        texts(server, &name, "SELECT count(*)::text FROM orders WHERE cents IS NULL AND counted = 0"),
        ["19997"]
    );
    let listed = project.json(0, &["backfill", "list"]);
    assert_eq!(listed["declared"][0]["run"]["status"], json!("undone"));
}

#[test]
fn declarations_that_the_server_does_not_take_are_refused() {
    let (server, name, project) = shop(CENTS);
    server.execute(&name, "CREATE TABLE bare (cents bigint)").unwrap();
    for (old, new, told) in [
        ("cents IS NULL -- those that have none", "amount > 0", "the guard still means 200 of 200"),
        ("cents IS NULL -- those that have none", "missing IS NULL", "missing"),
        ("cents IS NULL -- those that have none", "true); DROP TABLE orders; --", "syntax"),
        // Conditions and expressions that end inside themselves would leave the range and the key behind.
        ("cents IS NULL -- those that have none", "cents IS NULL) OR (cents IS NULL", "syntax"),
        ("round(amount * 100)\", counted", "1), at = (now()\", counted", "syntax"),
        ("table = \"orders\"", "table = \"bare\"", "has no primary key"),
        ("table = \"orders\"", "table = \"absent\"", "there is no table"),
        ("counted = \"counted + 1\"", "id = \"1\"", "has no column id that could be set"),
    ] {
        project.declare("development", &CENTS.replace(old, new));
        let seen = project.run(&["backfill", "run", "cents", "--dry-run"]);
        assert!(seen.status != 0 && seen.both().contains(told), "{told}: {}", seen.both());
    }
    assert_eq!(texts(server, &name, "SELECT count(*)::text FROM orders WHERE cents IS NULL"), ["20000"]);
}

#[test]
fn a_row_that_a_constraint_refuses_is_not_shown() {
    let (server, name, project) = shop(CENTS);
    server
        .execute(
            &name,
            "ALTER TABLE orders ADD iban text DEFAULT 'DE02-1203', ADD CONSTRAINT few CHECK (counted < 1 OR id < 15000)",
        )
        .unwrap();
    drop(std::fs::remove_file(project.place.path("plan.json")));
    project.expect(0, &["backfill", "run", "cents", "--output", "plan.json"]);
    let refused = project.approve("plan.json");
    assert_eq!(refused.status, 1, "{}", refused.both());
    assert!(refused.both().contains("each wholly and once"), "{}", refused.both());
    assert!(!refused.both().contains("DE02-1203"), "{}", refused.both());
    assert_eq!(texts(server, &name, "SELECT count(*)::text FROM orders WHERE counted > 1"), ["0"]);
}

#[test]
fn a_row_that_somebody_holds_is_waited_for() {
    let (server, name, project) = shop(CENTS);
    let mut holder = Psql::open(server, &name, "holder");
    holder.send("BEGIN; UPDATE orders SET at = at WHERE id = 10000;");
    server.process_when("holder", "state = 'idle in transaction'");
    project.expect(0, &["backfill", "run", "cents", "--output", "plan.json"]);
    let hash = project.hash("plan.json");
    let mut command = project.place.command(&["apply", "plan.json", "--approve", &hash, "--json"]);
    let running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The first step that waits gives up and is done again, so another one waits then.
    let waits = format!("datname = '{name}' AND wait_event_type = 'Lock'");
    server.process_when("mainstay", &waits);
    let since = "SELECT query_start::text FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let first = texts(server, &name, since);
    wait_for("the step is done again", || {
        let now = texts(server, &name, since);
        !now.is_empty() && now != first
    });
    holder.send("COMMIT;");
    let ran = Seen::from(running.wait_with_output().unwrap()).expect(0).json();
    assert_eq!(ran["changed"], json!(20_000));
    assert_eq!(texts(server, &name, "SELECT count(*)::text FROM orders WHERE counted <> 1"), ["0"]);
}
