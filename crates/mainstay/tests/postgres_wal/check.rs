//! What a file of queries proves of a restored folder.

use std::fs;

use mainstay_testkit::Postgres;

use crate::scratch::apply;
use crate::stack::{Seen, Stack};

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_queries_is_asked_and_each_failure_is_told_with_its_line() {
    // A limit that recovery insists on, and larger than what is given anyway: the server must be told of it.
    let server = Postgres::options().parameter("max_connections", "1137").start().unwrap();
    server
        .execute(
            "postgres",
            "CREATE TABLE orders AS SELECT i AS id, i > 0 AS paid FROM generate_series(1, 30) AS i",
        )
        .unwrap();
    server.execute("postgres", "CREATE DATABASE shop").unwrap();
    server
        .execute("shop", "CREATE TABLE items (name text); INSERT INTO items VALUES ('chair'), (NULL)")
        .unwrap();
    let stack = Stack::of(server);
    stack.back_up();

    let sound = "SELECT count(*) = 30 FROM orders;\nSELECT paid FROM orders;\nSHOW max_connections;\n\\connect shop\nTABLE items;\n\
        \\connect postgres\nSELECT count(*) = 30 FROM orders;\n";
    fs::write(stack.path("sound.sql"), sound).unwrap();
    stack.plan("sound", &[]).expect(0);
    let seen = Seen::from(apply(&stack, "sound", &["--check", "sound.sql"]).output().unwrap());
    seen.expect(0)
        .says("query 1, line 1: true")
        .says("query 2, line 2: true")
        .says("query 3, line 3: answered\n  max_connections\n  1137\n")
        .says("query 4, line 5: answered\n  name\n  chair\n  NULL\n")
        .says("query 5, line 7: true")
        .says("no findings");

    let failing = "SELECT 1 WHERE false;\n-- the rest fails\nSELECT id < 30 FROM orders ORDER BY id;\nSELECT NULL::bool;\n\
        SELECT nothing FROM orders;\nWITH gone AS (DELETE FROM orders RETURNING id) SELECT * FROM gone;\nSELECT $1::int;\n\
        SELECT set_config('transaction_read_only', 'off', false);\n\
        SELECT id > 0 FROM orders WHERE false;\n\\connect none\nSELECT true;\n";
    fs::write(stack.path("failing.sql"), failing).unwrap();
    stack.plan("failing", &[]).expect(0);
    let output = apply(&stack, "failing", &["--check", "failing.sql", "--json"]).output().unwrap();
    let seen = Seen::from(output).expect(4);
    let scratch = seen.json()["scratch"].clone();
    let told: Vec<(String, String)> = scratch["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["subject"].as_str().unwrap().to_owned(), one["message"].as_str().unwrap().to_owned()))
        .collect();
    let expected = [
        ("failing.sql, line 3", "query 2 is not true in row 30 of 30"),
        ("failing.sql, line 4", "query 3 is not true in row 1 of 1"),
        ("failing.sql, line 5", "query 4 failed: "),
        ("failing.sql, line 6", "query 5 failed: "),
        ("failing.sql, line 7", "query 6 failed: the query has parameters"),
        ("failing.sql, line 8", "query 7 failed: "),
        ("failing.sql, line 9", "query 8 claims nothing: it has no rows"),
        ("failing.sql, line 11", "query 9 failed: "),
    ];
    assert_eq!(told.len(), expected.len(), "{told:?}");
    for ((subject, message), (at, what)) in told.iter().zip(expected) {
        assert!(subject == at && message.starts_with(what), "{subject}: {message}");
    }
    assert!(told[2].1.contains("column \"nothing\" does not exist"), "{told:?}");
    assert!(told[3].1.contains("read-only transaction"), "{told:?}");
    // What was to be deleted is there: tables are read before the queries, amcheck after them.
    let asked = scratch["queries"].as_array().unwrap();
    assert_eq!((asked.len(), &asked[0]["passed"], &asked[1]["passed"]), (9, &true.into(), &false.into()));
    assert_eq!((&asked[1]["row_count"], asked[1]["rows"].as_array().unwrap().len()), (&30.into(), 20));
}

#[test]
fn a_bad_file_is_refused_before_anything_is_restored() {
    let stack = Stack::start();
    stack.back_up();
    stack.plan("refused", &[]).expect(0);
    let check = |text: &str| {
        fs::write(stack.path("bad.sql"), text).unwrap();
        Seen::from(apply(&stack, "refused", &["--check", "bad.sql"]).output().unwrap())
    };
    check("SELECT 1;\nUPDATE t SET a = 1;")
        .expect(2)
        .says("read bad.sql")
        .says("line 2: query 2 begins with `UPDATE`");
    check("SELECT 'x").expect(2).says("line 1: query 1 holds a string that does not end");
    check("-- nothing").expect(2).says("there is no query in it");
    let seen = Seen::from(apply(&stack, "refused", &["--check", "absent.sql"]).output().unwrap());
    seen.expect(1).says("absent.sql");
    stack.run(&["restore", "apply", "refused.json", "--check", "bad.sql"]).expect(2).says("--scratch");
    assert!(!stack.path("refused").join("data").exists());
}
