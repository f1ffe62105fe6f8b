//! Rows: previewed, changed, verified, brought back; locks that are in the way.

use mainstay_testkit::{Postgres, shared_postgres};
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
    let url = server.uri_of(&name);
    let holder = std::thread::spawn(move || {
        // Longer than a step waits for a lock, so that it is done again.
        let engine =
            mainstay_testkit::engines::locate(mainstay_testkit::engines::EngineKind::PgClient).unwrap();
        let statements = "BEGIN; UPDATE orders SET at = at WHERE id = 10000; SELECT pg_sleep(2); COMMIT";
        let status = std::process::Command::new(engine.tool("psql"))
            .args(["--no-psqlrc", "--quiet", "--dbname", &url, "--command", statements])
            .status()
            .unwrap();
        assert!(status.success());
    });
    let held = "SELECT 1::text FROM pg_stat_activity WHERE query LIKE '%pg_sleep(2)%' AND datname = current_database() AND pid <> pg_backend_pid()";
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while texts(server, &name, held).is_empty() {
        assert!(std::time::Instant::now() < deadline, "nobody holds the row");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let ran = project.carry_out(0, &["backfill", "run", "cents"]);
    assert_eq!(ran["changed"], json!(20_000));
    holder.join().unwrap();
    assert_eq!(texts(server, &name, "SELECT count(*)::text FROM orders WHERE counted <> 1"), ["0"]);
}
