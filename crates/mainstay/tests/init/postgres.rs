//! PostgreSQL: roles, databases, extensions, schemas and rights, killed at every step; what it logs; what is there otherwise.

use std::fs;

use mainstay_testkit::Postgres;

use crate::binary::Place;
use crate::support::{
    CANARY, apply, apply_killed_at, apply_when_free, done, holds_no_password, marked, plan, project, summary,
    wait_for_lease,
};

const DECLARATION: &str = r#"
[init]
mark = true

[init.postgres.roles.shop_owner]
login = false

[init.postgres.roles.shop_readers]
login = false

[init.postgres.roles.shop_app]
password_variable = "APP_PWD"
connection_limit = 20
member_of = ["shop_readers"]

[init.postgres.databases.shop]
owner = "shop_owner"
encoding = "UTF8"
extensions = ["pg_stat_statements"]

[init.postgres.databases.shop.schemas.audit]
owner = "shop_owner"

[[init.postgres.privileges]]
role = "shop_app"
on = "database"
grant = ["CONNECT", "TEMPORARY"]

[[init.postgres.privileges]]
role = "shop_readers"
on = "schema audit"
grant = ["USAGE"]

[[init.postgres.privileges]]
role = "shop_readers"
on = "tables in public"
grant = ["SELECT"]

[[init.postgres.privileges]]
role = "shop_readers"
on = "future tables in public"
by = "shop_owner"
grant = ["SELECT"]
"#;

fn place() -> Place {
    Place::new().variable("APP_PWD", &format!("{CANARY}-app"))
}

fn configured(place: &Place, url: &str) {
    project(place, &format!("[postgres]\nurl = \"{url}\"\n{DECLARATION}"));
}

#[test]
fn a_server_becomes_what_is_declared_whenever_it_is_killed_and_nothing_is_done_twice() {
    let server = Postgres::options().parameter("log_statement", "all").start().unwrap();
    let place = place();
    // The database of the url is one of those to be made.
    configured(&place, &server.uri_of("shop"));
    let planned = plan(&place, "postgres", &[], 0);
    let all = [
        "role shop_owner",
        "role shop_readers",
        "role shop_app",
        "memberships of role shop_app",
        "database shop",
        "extension pg_stat_statements in shop",
        "schema audit in shop",
        "rights of shop_app on database shop",
        "rights of shop_readers on schema audit in database shop",
        "rights of shop_readers on tables in public in database shop",
        "rights of shop_readers on future tables in public by shop_owner in database shop",
        "environment marker",
    ];
    assert_eq!(marked(&planned, "+"), all);
    let mut kills = 0;
    for record in 1..=24 {
        if apply_killed_at(&place, "postgres", record) {
            kills += 1;
            wait_for_lease();
        }
    }
    assert!(kills >= 8, "{kills}");
    let applied = apply_when_free(&place).expect(0).json();
    assert_eq!(applied["applied"][0]["steps"].as_array().unwrap().len(), all.len());

    let told = |database: &str, query: &str| server.texts(database, query);
    assert_eq!(
        told(
            "postgres",
            "SELECT rolname || ' ' || rolcanlogin || ' ' || rolconnlimit FROM pg_roles WHERE rolname LIKE 'shop%' ORDER BY 1"
        ),
        ["shop_app true 20", "shop_owner false -1", "shop_readers false -1"]
    );
    assert_eq!(
        told("postgres", "SELECT pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = 'shop'"),
        ["shop_owner"]
    );
    server.execute("shop", "SET ROLE shop_owner; CREATE SCHEMA later; RESET ROLE; GRANT CREATE ON SCHEMA public TO shop_owner; SET ROLE shop_owner; CREATE TABLE orders (id int)").unwrap();
    assert_eq!(
        told("shop", "SELECT has_table_privilege('shop_readers', 'orders', 'SELECT')::text"),
        ["true"]
    );
    assert_eq!(told("shop", "SELECT has_table_privilege('shop_app', 'orders', 'INSERT')::text"), ["false"]);

    // Nothing is to be done, nothing is done, and the server's log has neither a password nor a verifier.
    let again = plan(&place, "postgres", &[], 0);
    assert!(marked(&again, "+").is_empty() && marked(&again, "~").is_empty(), "{again}");
    assert_eq!(summary(&again, "password of role shop_app"), "is there already");
    assert!(done(&apply(&place).expect(0).json()).is_empty());
    let log = fs::read_to_string(server.log()).unwrap();
    assert!(log.contains("CREATE DATABASE \"shop\"") && log.matches("CREATE DATABASE").count() == 1);
    assert!(!log.contains(CANARY) && !log.contains("SCRAM-SHA-256"), "the server's log holds a password");
    holds_no_password(&place.path("repository"));
}

#[test]
fn what_is_there_otherwise_is_told_changed_where_it_can_be_and_never_taken_away() {
    let server = Postgres::start().unwrap();
    let place = place();
    server
        .execute(
            "postgres",
            "CREATE ROLE shop_readers LOGIN; CREATE ROLE shop_app LOGIN CONNECTION LIMIT 20 PASSWORD 'another one' IN ROLE pg_monitor",
        )
        .unwrap();
    server.execute("postgres", "CREATE DATABASE shop").unwrap();
    server.execute("shop", "CREATE TABLE old (id int); GRANT DELETE ON old TO shop_readers").unwrap();
    configured(&place, &server.uri_of("shop"));
    let planned = plan(&place, "postgres", &[], 3);
    assert_eq!(marked(&planned, "~"), ["role shop_readers", "database shop"]);
    assert!(summary(&planned, "rights of role shop_app").contains("pg_monitor"), "{planned}");
    assert!(summary(&planned, "password of role shop_app").contains("--rotate shop_app"), "{planned}");
    let more = "more rights of shop_readers on tables in public in database shop";
    assert!(summary(&planned, more).contains("DELETE was given besides"), "{planned}");
    apply(&place).expect(3);
    assert_eq!(
        server.texts("shop", "SELECT has_table_privilege('shop_readers', 'old', 'SELECT, DELETE')::text"),
        ["true"]
    );
    assert_eq!(
        server.texts("shop", "SELECT pg_has_role('shop_app', 'pg_monitor', 'MEMBER')::text"),
        ["true"]
    );

    let verifier = || server.texts("shop", "SELECT rolpassword FROM pg_authid WHERE rolname = 'shop_app'");
    let before = verifier();
    assert!(done(&apply(&place).expect(3).json()).is_empty());
    assert_eq!(verifier(), before, "a password is never set unasked");
    let planned = plan(&place, "postgres", &["--rotate", "shop_app"], 3);
    assert_eq!(marked(&planned, "~"), ["password of role shop_app"]);
    apply(&place).expect(3);
    let rotated = verifier();
    assert_ne!(rotated, before);
    assert!(done(&apply(&place).expect(3).json()).is_empty());
    assert_eq!(verifier(), rotated, "nor twice");
}

#[test]
fn a_missing_right_an_absent_extension_and_a_wrong_password_are_told_with_the_next_step() {
    let server = Postgres::options().scram("right").start().unwrap();
    let lines = |password: &str, declaration: &str| {
        let place = place().variable("MAINSTAY_POSTGRES_PASSWORD", password);
        project(&place, &format!("[postgres]\nurl = \"{}\"\n{declaration}", without_password(&server)));
        place
    };
    lines("wrong", &format!("user = \"postgres\"\n{DECLARATION}"))
        .run(&["init", "plan"])
        .expect(5)
        .says("refused the password");
    let declaration = DECLARATION
        .replace("pg_stat_statements", "not_there_at_all")
        .replace("databases.shop]", "databases.postgres]");
    let planned = plan(&lines("right", &format!("user = \"postgres\"\n{declaration}")), "postgres", &[], 3);
    let name = "extension not_there_at_all in postgres";
    assert!(summary(&planned, name).contains("install its package"), "{planned}");

    server.execute("postgres", "CREATE ROLE weak LOGIN PASSWORD 'right'").unwrap();
    let place = lines("right", "user = \"weak\"\n[init.postgres.roles.other]\nlogin = true\n");
    let planned = plan(&place, "postgres", &[], 0);
    assert_eq!(marked(&planned, "+"), ["role other"]);
    apply(&place).expect(5).says("lacks a privilege").says("role other");
}

/// The server's url without a user and a password.
fn without_password(server: &Postgres) -> String {
    let uri = server.uri_of("postgres");
    let (scheme, rest) = uri.split_once("://").unwrap();
    format!("{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, rest)| rest))
}
