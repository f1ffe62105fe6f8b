//! Rows written by themselves: marking, a baseline, repairs.

use crate::support::Shop;

const USERS: &str = "CREATE TABLE users (id int);\n";
const ORDERS: &str = "CREATE TABLE orders (id int);\n";

fn shop() -> Shop {
    let mut shop = Shop::new();
    shop.add("0000_users", 0, USERS);
    shop.add("0001_orders", 60, ORDERS);
    shop.add("0002_more", 120, "CREATE TABLE more (id int);\n");
    shop
}

#[test]
fn migrations_are_marked_and_nothing_is_run() {
    let shop = shop();
    shop.run(&["sql", "baseline", "--to", "0001_orders", "--dry-run"]).expect(0).says("nothing is run");
    assert!(shop.texts("SELECT nspname::text FROM pg_namespace WHERE nspname = 'drizzle'").is_empty());
    shop.run(&["sql", "baseline", "--to", "0001_orders"]).expect(0).says("nothing was run");
    assert_eq!(shop.rows(), ["0", "60"]);
    assert!(shop.tables().is_empty());
    shop.run(&["sql", "mark-applied", "0001_orders"]).expect(8).says("it has a row already");
    shop.run(&["sql", "mark-applied", "absent"]).expect(1);
    shop.run(&["sql", "mark-applied", "0002_more", "--json"]).expect(0);
    shop.apply(&[]).expect(0).says("no migration is pending");
    shop.run(&["sql", "verify"]).expect(0);
    shop.run(&["audit", "list"]).expect(0).says("sql.baseline").says("sql.mark-applied");
}

#[test]
fn a_migration_is_marked_with_the_file_that_was_agreed_to() {
    let mut shop = shop();
    let planned = shop
        .run(&["sql", "mark-applied", "0000_users", "--output", "marked.json", "--json"])
        .expect(0)
        .json();
    let hash = planned["plan_hash"].as_str().unwrap().to_owned();
    shop.add("0000_users", 0, "CREATE TABLE others (id int);\n");
    shop.run(&["apply", "marked.json", "--approve", &hash]).expect(9).says("file of 0000_users");
    shop.add("0000_users", 0, USERS);
    shop.run(&["apply", "marked.json", "--approve", &hash]).expect(0);
    assert_eq!(shop.rows(), ["0"]);
}

#[test]
fn rows_that_do_not_fit_are_told_and_corrected() {
    let mut shop = shop();
    shop.apply(&[]).expect(0);
    shop.add("0000_users", 0, &USERS.replace('\n', "\r\n"));
    shop.run(&["sql", "verify"]).expect(3).says("sql.line_endings");
    shop.apply(&[]).expect(0);
    shop.run(&["sql", "repair", "--line-endings", "--dry-run"]).expect(0).says("correct row 1");
    shop.run(&["sql", "repair", "--line-endings"]).expect(0);
    shop.run(&["sql", "verify"]).expect(0);

    shop.add("0002_more", 180, "CREATE TABLE more (id int);\n");
    shop.run(&["sql", "verify"]).expect(3).says("sql.retimed");
    shop.run(&["sql", "repair", "--retimed"]).expect(0);
    assert_eq!(shop.rows(), ["0", "60", "180"]);

    shop.execute("INSERT INTO drizzle.__drizzle_migrations (hash, created_at) SELECT hash, created_at FROM drizzle.__drizzle_migrations WHERE id = 2");
    shop.run(&["sql", "verify"]).expect(3).says("sql.duplicate_rows");
    shop.run(&["sql", "repair", "--duplicates"]).expect(0);
    shop.run(&["sql", "verify"]).expect(0);
    shop.run(&["sql", "repair", "--duplicates"]).expect(0).says("no row is to be written");

    shop.execute("UPDATE drizzle.__drizzle_migrations SET created_at = NULL WHERE id = 2");
    shop.run(&["sql", "verify"]).expect(4).says("sql.null_rows");
    shop.add("0003_late", 240, "CREATE TABLE late (id int);\n");
    shop.apply(&[]).expect(8).says("repair --nulls");
    shop.run(&["sql", "repair", "--nulls"]).expect(0);
    shop.apply(&[]).expect(0);

    shop.add("0001_orders", 60, "CREATE TABLE orders (id bigint);\n");
    shop.run(&["sql", "verify"]).expect(3).says("sql.edited");
    shop.run(&["sql", "repair", "--line-endings"]).expect(0).says("no row is to be written");
    shop.run(&["sql", "repair", "--edited"]).expect(0);
    shop.run(&["sql", "verify"]).expect(0);
    shop.run(&["sql", "repair"]).expect(2);
}

#[test]
fn the_table_is_where_drizzle_says_and_what_it_cannot_say_is_asked_for() {
    let mut shop = Shop::new();
    shop.add("0000_users", 0, USERS);
    shop.place.write(
        "drizzle.config.ts",
        "export default { out: './drizzle', migrations: { schema: 'public', table: 'applied' } };",
    );
    shop.apply(&[]).expect(0);
    assert_eq!(shop.tables(), ["applied", "users"]);
    shop.place.write("drizzle.config.ts", "export default { out: process.env.OUT };");
    shop.run(&["sql", "status"]).expect(2).says("[sql]");
    shop.run(&["sql", "status", "--folder", "absent"]).expect(1).says("there is no");
}
