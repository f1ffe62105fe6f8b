//! Rows that belong to other rows, on a real PostgreSQL: counted, named, and what would have kept them away.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use mainstay_engine::{
    FoundRows, ReferenceInspection, ReferenceLook, ReferenceRule, SeenReference, TableName,
};
use mainstay_model::{ErrorKind, Secret, Timestamp};
use mainstay_postgres::{PostgresConfig, PostgresReferences};
use mainstay_testkit::shared_postgres;

fn rule(since: Option<Timestamp>) -> ReferenceRule {
    let name = |name: &str| TableName { schema: "public".to_owned(), name: name.to_owned() };
    ReferenceRule {
        child: name("payment_quotes"),
        child_key: "id".to_owned(),
        child_column: "payment_id".to_owned(),
        created_column: "created_at".to_owned(),
        parent: name("payments"),
        parent_column: "id".to_owned(),
        example_count_max: 2,
        since,
    }
}

fn rows(count: u64, examples: &[&str]) -> Option<FoundRows> {
    Some(FoundRows { count, examples: examples.iter().map(|one| (*one).to_owned()).collect() })
}

#[tokio::test]
async fn rows_and_constraints_are_seen() {
    let server = shared_postgres();
    let database = server.create_database();
    let inspection =
        PostgresReferences::new(&PostgresConfig::new(Secret::new(server.uri_of(&database)))).unwrap();
    let look = async |since: Option<Timestamp>| inspection.look_at_reference(&rule(since)).await.unwrap();
    assert_eq!(look(None).await, ReferenceLook::NoTable);
    let quotes = "CREATE TABLE payment_quotes (id int PRIMARY KEY, payment_id int, created_at timestamptz NOT NULL DEFAULT now())";
    server.execute(&database, quotes).unwrap();
    assert_eq!(look(None).await, ReferenceLook::Missing(vec!["public.payments".to_owned()]));
    let filled = "CREATE TABLE payments (id int PRIMARY KEY); INSERT INTO payments VALUES (1); \
                  INSERT INTO payment_quotes VALUES (10, 1, '2026-01-01'), (11, 7, '2026-01-02'), (12, 8, '2026-01-03'), \
                  (13, 9, '2026-01-04'), (14, NULL, '2026-01-05')";
    server.execute(&database, filled).unwrap();
    let ReferenceLook::Seen(seen) = look(None).await else { panic!("the tables are there") };
    assert_eq!(
        *seen,
        SeenReference {
            orphans: rows(3, &["11", "12"]),
            nameless: rows(1, &["14"]),
            recent: rows(5, &["10", "11"]),
            is_required: false,
            foreign_keys: vec![],
        }
    );
    let since: Timestamp = "2026-01-04T00:00:00Z".parse().unwrap();
    let ReferenceLook::Seen(seen) = look(Some(since)).await else { panic!("the tables are there") };
    assert_eq!(seen.recent, rows(2, &["13", "14"]));

    let kept = "ALTER TABLE payment_quotes ADD CONSTRAINT fk FOREIGN KEY (payment_id) REFERENCES payments (id) NOT VALID; \
                ALTER TABLE payment_quotes ADD CONSTRAINT off FOREIGN KEY (payment_id) REFERENCES payments (id) NOT ENFORCED";
    server.execute(&database, kept).unwrap();
    let ReferenceLook::Seen(seen) = look(None).await else { panic!("the tables are there") };
    let keys: Vec<(&str, bool, bool)> =
        seen.foreign_keys.iter().map(|key| (key.name.as_str(), key.is_valid, key.is_enforced)).collect();
    assert_eq!(keys, [("fk", false, true), ("off", false, false)]);
    let mended = "DELETE FROM payment_quotes WHERE id > 10; ALTER TABLE payment_quotes VALIDATE CONSTRAINT fk; \
                  ALTER TABLE payment_quotes ALTER COLUMN payment_id SET NOT NULL";
    server.execute(&database, mended).unwrap();
    let ReferenceLook::Seen(seen) = look(None).await else { panic!("the tables are there") };
    assert!(seen.is_required && seen.foreign_keys[0].is_valid);
    assert_eq!((seen.orphans, seen.nameless), (rows(0, &[]), rows(0, &[])));
}

#[tokio::test]
async fn a_role_without_rights_is_told() {
    let server = shared_postgres();
    let database = server.create_database();
    let tables = "CREATE TABLE payments (id int PRIMARY KEY); CREATE TABLE payment_quotes (id int, payment_id int, created_at timestamptz); \
                  CREATE ROLE quote_reader LOGIN";
    server.execute(&database, tables).unwrap();
    let config = PostgresConfig {
        user: Some("quote_reader".to_owned()),
        ..PostgresConfig::new(Secret::new(server.uri_of(&database)))
    };
    let inspection = PostgresReferences::new(&config).unwrap();
    let error = inspection.look_at_reference(&rule(None)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Auth, "{error:?}");
}
