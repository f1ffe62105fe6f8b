//! Applying: what is there afterwards, what is refused, what an error says.

use crate::support::{Shop, server};

const USERS: &str =
    "CREATE TABLE users (id int PRIMARY KEY);\n--> statement-breakpoint\nINSERT INTO users VALUES (1);\n";

#[test]
fn a_folder_is_applied_row_for_row_as_drizzle_does() {
    let mut shop = Shop::new();
    shop.add("0000_users", 0, USERS);
    shop.add("0001_orders", 60, "CREATE TABLE orders (id int);");
    let status = shop.run(&["sql", "status", "--json"]).expect(0).json();
    assert_eq!((&status["counts"]["pending"], &status["table"]), (&2.into(), &"absent".into()), "{status}");
    let dry = shop.apply(&["--dry-run", "--verbose"]).expect(0);
    dry.says("0000_users").says("CREATE TABLE").says("INSERT INTO users VALUES (1);");
    assert!(shop.tables().is_empty());

    let report = shop.apply(&["--json"]).expect(0).json();
    assert_eq!(report["applied"][1]["tag"], "0001_orders", "{report}");
    assert_eq!(
        (shop.rows(), shop.tables()),
        (vec!["0".to_owned(), "60".to_owned()], vec!["orders".to_owned(), "users".to_owned()])
    );
    let hashes = shop.texts("SELECT hash FROM drizzle.__drizzle_migrations ORDER BY id");
    let expected = shop.texts(&format!("SELECT encode(sha256(convert_to('{USERS}', 'UTF8')), 'hex')"));
    assert_eq!(hashes[0], expected[0]);
    let columns = "SELECT attname || ' ' || format_type(atttypid, atttypmod) || CASE WHEN attnotnull THEN ' not null' ELSE '' END \
                   FROM pg_attribute WHERE attrelid = 'drizzle.__drizzle_migrations'::regclass AND attnum > 0 ORDER BY attnum";
    assert_eq!(shop.texts(columns), ["id integer not null", "hash text not null", "created_at bigint"]);

    shop.apply(&[]).expect(0).says("no migration is pending");
    shop.run(&["sql", "verify"]).expect(0).says("no findings");
    shop.run(&["audit", "list"]).expect(0).says("sql.apply");
}

#[test]
fn folders_of_the_new_line_get_names_and_take_an_old_table_over() {
    let shop = Shop::new();
    shop.add_folder("20231114221320_users", USERS);
    shop.apply(&[]).expect(0);
    let names =
        "SELECT name || ' ' || (applied_at IS NOT NULL)::text FROM drizzle.__drizzle_migrations ORDER BY id";
    assert_eq!(shop.texts(names), ["20231114221320_users true"]);

    // What an earlier line of Drizzle has written of the same file.
    shop.execute("ALTER TABLE drizzle.__drizzle_migrations DROP COLUMN name, DROP COLUMN applied_at");
    shop.add_folder("20231114221420_orders", "CREATE TABLE orders (id int);");
    shop.run(&["sql", "verify", "--drizzle-v1"]).expect(3).says("can take the table over");
    shop.apply(&["--dry-run"]).expect(0).says("take over");
    shop.apply(&[]).expect(0);
    assert_eq!(shop.texts(names), ["20231114221320_users false", "20231114221420_orders true"]);
}

#[test]
fn a_failure_names_file_line_and_statement_and_leaves_nothing_of_its_migration() {
    let mut shop = Shop::new();
    shop.add("0000_users", 0, USERS);
    shop.add(
        "0001_orders",
        60,
        "CREATE TABLE orders (id int);\n--> statement-breakpoint\nINSERT INTO orders VALUES (1);\nALTER TABLE orders\n  ALTER COLUMN absent SET NOT NULL;\n",
    );
    shop.add("0002_more", 120, "CREATE TABLE more (id int);");
    let seen = shop.apply(&[]).expect(1);
    seen.says("0001_orders.sql:4:1, chunk 2").says("ALTER TABLE").says("42703").says("0000_users");
    assert_eq!((shop.rows(), shop.tables()), (vec!["0".to_owned()], vec!["users".to_owned()]));
    // With one transaction around all of them nothing stays of any.
    let mut other = Shop::new();
    other.add("0000_users", 0, USERS);
    other.add("0001_orders", 60, "SELECT 1/0;");
    other.apply(&["--tx", "all"]).expect(1).says("division by zero");
    assert!(other.rows().is_empty() && other.tables().is_empty());
}

#[test]
fn settings_of_one_file_are_not_met_by_the_next() {
    let mut shop = Shop::new();
    shop.add(
        "0000_dumped",
        0,
        "SELECT pg_catalog.set_config('search_path', '', false);\nCREATE TABLE public.users (id int);",
    );
    shop.add("0001_orders", 60, "CREATE TABLE orders (id int);");
    shop.apply(&[]).expect(0);
    assert_eq!(shop.tables(), ["orders", "users"]);
}

#[test]
fn what_drizzle_would_skip_is_told_and_applied_when_asked() {
    let mut shop = Shop::new();
    shop.add("0000_users", 0, USERS);
    shop.add("0002_orders", 120, "CREATE TABLE orders (id int);");
    shop.apply(&["--to", "0002_orders"]).expect(0);
    shop.add("0001_late", 60, "CREATE TABLE late (id int);");
    shop.run(&["sql", "verify"]).expect(3).says("sql.skipped").says("0001_late");
    shop.run(&["sql", "status"]).expect(0).says("skipped");
    shop.apply(&[]).expect(8).says("0001_late").says("--include-skipped");
    shop.apply(&["--include-skipped"]).expect(0);
    assert_eq!(shop.rows(), ["0", "120", "60"]);
    shop.run(&["sql", "verify"]).expect(0).says("no findings");
    shop.apply(&["--to", "absent"]).expect(1).says("no migration absent");
}

#[test]
fn a_protected_environment_is_asked_and_a_plan_can_be_approved_beforehand() {
    let mut shop = Shop::unmarked();
    shop.add("0000_users", 0, USERS);
    shop.configure(&server().uri_of(&shop.database), "production");
    shop.mark();
    shop.apply(&[]).expect(7).says("--output plan.json");
    assert!(shop.tables().is_empty());
    let planned = shop.apply(&["--output", "plan.json", "--json"]).expect(0).json();
    let hash = planned["plan_hash"].as_str().unwrap().to_owned();
    // A file that has changed since is not what was approved.
    shop.add("0000_users", 0, "CREATE TABLE others (id int);");
    shop.run(&["apply", "plan.json", "--approve", &hash]).expect(9).says("file of 0000_users");
    shop.add("0000_users", 0, USERS);
    shop.run(&["apply", "plan.json", "--approve", &hash]).expect(0);
    shop.run(&["apply", "plan.json", "--approve", &hash]).expect(0).says("by another run");
    assert_eq!(shop.rows(), ["0"]);

    // What destroys needs a verified backup there.
    shop.add("0001_gone", 60, "DROP TABLE users;");
    let planned = shop.apply(&["--output", "drop.json", "--json"]).expect(0).json();
    assert_eq!(planned["plan"]["effect"], "destructive", "{planned}");
    let hash = planned["plan_hash"].as_str().unwrap().to_owned();
    shop.run(&["apply", "drop.json", "--approve", &hash]).expect(7).says("verified backup");
    assert_eq!(shop.tables(), ["users"]);
}
