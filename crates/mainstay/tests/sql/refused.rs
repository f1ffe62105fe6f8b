//! What cannot be done, and what an error says then: what lacks, what stands, what to type.

use crate::support::{Shop, server};

const USERS: &str = "CREATE TABLE users (id int);\n";

#[test]
fn a_lock_is_never_waited_for_without_a_bound() {
    let mut shop = Shop::new();
    shop.add("0000_users", 0, USERS);
    for length in ["0s", "1ns", "1000000h"] {
        shop.apply(&["--lock-timeout", length]).expect(2).says("from 1ms to 596h");
        shop.run(&["sql", "rehearse", "--on-live", "--statement-timeout", length]).expect(2);
    }
    assert!(shop.tables().is_empty());
}

#[test]
fn rows_through_a_client_are_refused_with_file_and_line() {
    let mut shop = Shop::new();
    shop.add("0000_users", 0, USERS);
    shop.add("0001_rows", 60, "SELECT 1;\n--> statement-breakpoint\nCOPY users FROM STDIN;\n");
    shop.apply(&[]).expect(8).says("0001_rows.sql:3:1: COPY").says("seed");
    shop.add("0001_rows", 60, "COPY users TO STDOUT;\n");
    shop.apply(&["--dry-run"]).expect(8).says("0001_rows.sql:1:1: COPY");
    assert!(shop.tables().is_empty());
}

#[test]
fn a_file_that_takes_the_tracking_table_away_changes_nothing() {
    let mut shop = Shop::new();
    shop.add("0000_users", 0, USERS);
    shop.apply(&[]).expect(0);
    // Statements in a block are nobody's to read beforehand.
    let drop =
        "CREATE TABLE more (id int);\nDO $$ BEGIN EXECUTE 'DROP SCHEMA ' || 'drizzle CASCADE'; END $$;\n";
    shop.add("0001_away", 60, drop);
    let seen = shop.run(&["sql", "apply", "--output", "away.json", "--json"]).expect(0).json();
    let hash = seen["plan_hash"].as_str().unwrap().to_owned();
    shop.run(&["apply", "away.json", "--approve", &hash])
        .expect(1)
        .says("0001_away.sql: its row in the tracking table")
        .says("none of 1 migrations is applied; nothing of the others stays")
        .hides("is committed");
    assert_eq!((shop.rows(), shop.tables()), (vec!["0".to_owned()], vec!["users".to_owned()]));
}

#[test]
fn a_right_that_lacks_is_named_with_what_to_grant() {
    let mut shop = Shop::new();
    shop.add("0000_users", 0, USERS);
    let role = format!("role_of_{}", shop.database);
    shop.execute(&format!("CREATE ROLE {role} LOGIN"));
    let own = server().uri_of(&shop.database);
    let (scheme, rest) = own.split_once("://").unwrap();
    let (_, place) = rest.split_once('@').unwrap();
    let url = format!("{scheme}://{role}@{place}");

    let other = |arguments: &[&str]| shop.run(&[arguments, &["--postgres-url", url.as_str()]].concat());
    other(&["sql", "apply"])
        .expect(5)
        .says(&format!("CREATE ON DATABASE \"{}\" TO \"{role}\"", shop.database));
    other(&["sql", "baseline", "--to", "0000_users"]).expect(5).says("nothing was changed");
    shop.apply(&[]).expect(0);
    other(&["sql", "status"])
        .expect(5)
        .says(&format!("GRANT USAGE ON SCHEMA \"drizzle\" TO \"{role}\""))
        .says(&format!("GRANT SELECT ON \"drizzle\".\"__drizzle_migrations\" TO \"{role}\""));
    shop.execute(&format!(
        "GRANT USAGE ON SCHEMA drizzle TO {role}; GRANT SELECT ON drizzle.__drizzle_migrations TO {role}; \
         DELETE FROM drizzle.__drizzle_migrations"
    ));
    other(&["sql", "status"]).expect(0);
    let grant = "GRANT SELECT, INSERT, UPDATE, DELETE ON \"drizzle\".\"__drizzle_migrations\"";
    other(&["sql", "apply"]).expect(5).says(grant);
    other(&["sql", "mark-applied", "0000_users"]).expect(5).says(grant);
}

#[test]
fn a_row_that_nothing_can_be_said_of_is_to_be_deleted() {
    let mut shop = Shop::new();
    shop.add("0000_users", 0, USERS);
    shop.apply(&[]).expect(0);
    shop.execute("INSERT INTO drizzle.__drizzle_migrations (hash) VALUES ('of nobody')");
    shop.run(&["sql", "verify"]).expect(4).says("by hand").hides("repair --nulls");
    shop.execute("DELETE FROM drizzle.__drizzle_migrations WHERE created_at IS NULL");
    shop.run(&["sql", "verify"]).expect(0);
}
