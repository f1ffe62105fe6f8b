//! Rehearsals on a real PostgreSQL 18: what statements lock, rewrite and read; shadows made, filled and removed; catalogues compared.
//!
//! The tables hold no rows: what is measured does not depend on them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

use mainstay_engine::{
    CatalogScope, LiveBounds, Observation, RehearsalHost, RehearsalStage, Rehearsed, ShadowContents,
    StatementFailure,
};
use mainstay_guard::{Permit, testing_permit};
use mainstay_model::{
    BlastRadius, Effect, EnvironmentClass, ErrorKind, PLAN_FORMAT, Plan, Secret, StoreKind, Target, Timestamp,
};
use mainstay_postgres::{PostgresConfig, PostgresRehearsal, ProgramPlaces};
use mainstay_testkit::engines::{EngineKind, locate};
use mainstay_testkit::{Postgres, shared_postgres};
use serde_json::json;

const SHOP: &[&str] = &[
    "CREATE SCHEMA other",
    "CREATE TYPE mood AS ENUM ('fine', 'sad')",
    "CREATE TABLE users (id int PRIMARY KEY, email text, name varchar(20), note text, price numeric(10,2) NOT NULL DEFAULT 0, \
     age int, big int, at timestamp, mood mood)",
    "CREATE INDEX users_name ON users (name)",
    "CREATE INDEX users_note ON users (note)",
    "CREATE INDEX users_age ON users (age)",
    "CREATE UNIQUE INDEX users_email ON users (email)",
    "ALTER TABLE users ADD CONSTRAINT age_there CHECK (age IS NOT NULL)",
    "ALTER TABLE users ADD CONSTRAINT old_age CHECK (age < 200) NOT VALID",
    "CREATE TABLE orders (id int PRIMARY KEY, user_id int, total int, late_id int)",
    "ALTER TABLE orders ADD CONSTRAINT late FOREIGN KEY (late_id) REFERENCES users (id) NOT VALID",
    "CREATE TABLE parts (id int NOT NULL, at date NOT NULL) PARTITION BY RANGE (at)",
    "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
    "CREATE TABLE parts_2 (id int NOT NULL, at date NOT NULL)",
    "CREATE VIEW names AS SELECT email FROM users",
    "CREATE MATERIALIZED VIEW totals AS SELECT total FROM orders",
    "CREATE UNIQUE INDEX totals_total ON totals (total)",
    "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$",
    "CREATE TRIGGER touched BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION touch()",
];

/// Statements, and what each does: of every relation the strongest new lock; whether it gets a new file; else whether it is read whole;
/// indexes that are built. The modes are those of the manual ("ALTER TABLE", "Explicit Locking") where it names them.
const KINDS: &[(&str, &str)] = &[
    ("ALTER TABLE users ADD COLUMN extra text", "users ACCESS EXCLUSIVE"),
    ("ALTER TABLE users ADD COLUMN extra int NOT NULL DEFAULT 7", "users ACCESS EXCLUSIVE"),
    ("ALTER TABLE users ADD COLUMN extra timestamptz DEFAULT now()", "users ACCESS EXCLUSIVE"),
    (
        "ALTER TABLE users ADD COLUMN extra uuid DEFAULT gen_random_uuid()",
        "users ACCESS EXCLUSIVE, rewritten, 5 rebuilt",
    ),
    (
        "ALTER TABLE users ADD COLUMN extra int GENERATED ALWAYS AS (age + 1) STORED",
        "users ACCESS EXCLUSIVE, rewritten, 5 rebuilt",
    ),
    (
        "ALTER TABLE users ADD COLUMN extra int GENERATED ALWAYS AS (age + 1) VIRTUAL",
        "users ACCESS EXCLUSIVE",
    ),
    (
        "ALTER TABLE users ADD COLUMN extra int GENERATED ALWAYS AS IDENTITY",
        "users ACCESS EXCLUSIVE, rewritten, 5 rebuilt",
    ),
    ("ALTER TABLE users ADD COLUMN extra serial", "users ACCESS EXCLUSIVE, rewritten, 5 rebuilt"),
    ("ALTER TABLE users ADD COLUMN extra int UNIQUE", "users ACCESS EXCLUSIVE, read, 1 built"),
    (
        "ALTER TABLE users ADD COLUMN extra int REFERENCES orders (id)",
        "orders SHARE ROW EXCLUSIVE; users ACCESS EXCLUSIVE",
    ),
    ("ALTER TABLE users DROP COLUMN note", "users ACCESS EXCLUSIVE"),
    ("ALTER TABLE users ALTER COLUMN note SET NOT NULL", "users ACCESS EXCLUSIVE, read"),
    // A valid check says so already.
    ("ALTER TABLE users ALTER COLUMN age SET NOT NULL", "users ACCESS EXCLUSIVE"),
    ("ALTER TABLE users ALTER COLUMN price DROP NOT NULL", "users ACCESS EXCLUSIVE"),
    ("ALTER TABLE users ADD CONSTRAINT c NOT NULL note NOT VALID", "users ACCESS EXCLUSIVE"),
    ("ALTER TABLE users ALTER COLUMN note SET DEFAULT 'x'", "users ACCESS EXCLUSIVE"),
    ("ALTER TABLE users ALTER COLUMN big TYPE bigint", "users ACCESS EXCLUSIVE, rewritten, 5 rebuilt"),
    ("ALTER TABLE users ALTER COLUMN name TYPE varchar(40)", "users ACCESS EXCLUSIVE"),
    ("ALTER TABLE users ALTER COLUMN name TYPE varchar(10)", "users ACCESS EXCLUSIVE, rewritten, 5 rebuilt"),
    ("ALTER TABLE users ALTER COLUMN name TYPE text", "users ACCESS EXCLUSIVE"),
    ("ALTER TABLE users ALTER COLUMN note TYPE varchar(100)", "users ACCESS EXCLUSIVE, rewritten, 5 rebuilt"),
    ("ALTER TABLE users ALTER COLUMN price TYPE numeric(12,2)", "users ACCESS EXCLUSIVE"),
    (
        "ALTER TABLE users ALTER COLUMN price TYPE numeric(12,4)",
        "users ACCESS EXCLUSIVE, rewritten, 5 rebuilt",
    ),
    ("ALTER TABLE users ADD CONSTRAINT c CHECK (big > 0)", "users ACCESS EXCLUSIVE, read"),
    ("ALTER TABLE users ADD CONSTRAINT c CHECK (big > 0) NOT VALID", "users ACCESS EXCLUSIVE"),
    ("ALTER TABLE users VALIDATE CONSTRAINT old_age", "users SHARE UPDATE EXCLUSIVE, read"),
    (
        "ALTER TABLE orders ADD CONSTRAINT c FOREIGN KEY (user_id) REFERENCES users (id)",
        "orders SHARE ROW EXCLUSIVE, read; users SHARE ROW EXCLUSIVE",
    ),
    (
        "ALTER TABLE orders ADD CONSTRAINT c FOREIGN KEY (user_id) REFERENCES users (id) NOT VALID",
        "orders SHARE ROW EXCLUSIVE; users SHARE ROW EXCLUSIVE",
    ),
    ("ALTER TABLE orders VALIDATE CONSTRAINT late", "orders SHARE UPDATE EXCLUSIVE, read; users ROW SHARE"),
    ("ALTER TABLE orders DROP CONSTRAINT late", "orders ACCESS EXCLUSIVE; users ACCESS EXCLUSIVE"),
    ("ALTER TABLE users ADD CONSTRAINT c UNIQUE (note, id)", "users ACCESS EXCLUSIVE, read, 1 built"),
    ("ALTER TABLE users ADD CONSTRAINT c UNIQUE USING INDEX users_email", "users ACCESS EXCLUSIVE"),
    ("CREATE INDEX i ON users (big)", "users SHARE, read, 1 built"),
    ("CREATE INDEX i ON parts (id)", "parts SHARE; parts_1 SHARE, read, 1 built"),
    ("DROP INDEX users_age", "users ACCESS EXCLUSIVE"),
    ("ALTER INDEX users_age RENAME TO users_years", ""),
    ("REINDEX TABLE users", "users SHARE, read, 5 rebuilt"),
    ("REINDEX INDEX users_age", "users SHARE, read, 1 rebuilt"),
    (
        "CREATE TRIGGER t BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION touch()",
        "users SHARE ROW EXCLUSIVE",
    ),
    ("DROP TRIGGER touched ON orders", "orders ACCESS EXCLUSIVE"),
    ("ALTER TABLE users RENAME COLUMN note TO remark", "users ACCESS EXCLUSIVE"),
    ("ALTER TABLE users RENAME TO people", "users ACCESS EXCLUSIVE"),
    ("ALTER TABLE users SET SCHEMA other", "users ACCESS EXCLUSIVE"),
    ("CLUSTER users USING users_age", "users ACCESS EXCLUSIVE, rewritten, 5 rebuilt"),
    ("ALTER TABLE users ALTER COLUMN note SET STORAGE EXTERNAL", "users ACCESS EXCLUSIVE"),
    ("ALTER TABLE users ALTER COLUMN note SET STATISTICS 500", "users SHARE UPDATE EXCLUSIVE"),
    ("ALTER TABLE users SET (fillfactor = 70)", "users SHARE UPDATE EXCLUSIVE"),
    ("ALTER TABLE orders SET UNLOGGED", "orders ACCESS EXCLUSIVE, rewritten, 1 rebuilt"),
    (
        "ALTER TABLE parts ATTACH PARTITION parts_2 FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')",
        "parts SHARE UPDATE EXCLUSIVE; parts_2 ACCESS EXCLUSIVE, read",
    ),
    ("ALTER TABLE parts DETACH PARTITION parts_1", "parts ACCESS EXCLUSIVE; parts_1 ACCESS EXCLUSIVE"),
    (
        "CREATE TABLE parts_3 PARTITION OF parts FOR VALUES FROM ('2028-01-01') TO ('2029-01-01')",
        "parts ACCESS EXCLUSIVE",
    ),
    ("ALTER TYPE mood ADD VALUE 'glad'", ""),
    ("CREATE VIEW v AS SELECT * FROM users", "users ACCESS SHARE"),
    (
        "CREATE OR REPLACE VIEW names AS SELECT email, 1 AS one FROM users",
        "names ACCESS EXCLUSIVE; users ACCESS SHARE",
    ),
    (
        "REFRESH MATERIALIZED VIEW totals",
        "orders ACCESS SHARE, read; totals ACCESS EXCLUSIVE, rewritten, 1 rebuilt",
    ),
    ("REFRESH MATERIALIZED VIEW CONCURRENTLY totals", "orders ACCESS SHARE, read; totals EXCLUSIVE, read"),
    ("COMMENT ON COLUMN users.note IS 'x'", "users SHARE UPDATE EXCLUSIVE"),
    ("CREATE STATISTICS st ON age, note FROM users", "users SHARE UPDATE EXCLUSIVE"),
    ("ALTER TABLE users ENABLE ROW LEVEL SECURITY", "users ACCESS EXCLUSIVE"),
    ("CREATE POLICY p ON users USING (true)", "users ACCESS EXCLUSIVE"),
    ("GRANT SELECT ON users TO pg_monitor", "users ACCESS SHARE"),
    ("TRUNCATE orders", "orders ACCESS EXCLUSIVE, rewritten, 1 rebuilt"),
    ("DROP TABLE orders CASCADE", "orders ACCESS EXCLUSIVE; totals ACCESS EXCLUSIVE; users ACCESS EXCLUSIVE"),
    ("CREATE TABLE fresh (id int REFERENCES users (id))", "users SHARE ROW EXCLUSIVE"),
    ("UPDATE users SET note = 'y'", "users ROW EXCLUSIVE, read"),
    ("LOCK TABLE users IN SHARE MODE", "users SHARE"),
    ("CREATE ROLE mainstay_rehearsed", "beyond: pg_auth_members, pg_authid"),
    ("ALTER ROLE postgres SET work_mem = '8MB'", "beyond: pg_db_role_setting"),
    ("COMMENT ON ROLE postgres IS 'x'", "beyond: pg_shdescription"),
];

/// The same of statements that no transaction may hold, one after the other.
const ALONE: &[(&str, &str, bool)] = &[
    ("CREATE INDEX CONCURRENTLY i ON users (big)", "users SHARE UPDATE EXCLUSIVE, 1 built", true),
    ("REINDEX INDEX CONCURRENTLY i", "users SHARE UPDATE EXCLUSIVE, 1 rebuilt", true),
    ("REINDEX TABLE CONCURRENTLY users", "users SHARE UPDATE EXCLUSIVE, 6 rebuilt", true),
    ("DROP INDEX CONCURRENTLY i", "users SHARE UPDATE EXCLUSIVE", true),
    (
        "ALTER TABLE parts DETACH PARTITION parts_1 CONCURRENTLY",
        "parts SHARE UPDATE EXCLUSIVE; parts_1 ACCESS EXCLUSIVE",
        true,
    ),
    ("VACUUM users", "users SHARE UPDATE EXCLUSIVE", false),
    ("VACUUM FULL orders", "orders ACCESS EXCLUSIVE, rewritten, 1 rebuilt", false),
];

fn host(server: &Postgres, database: &str) -> PostgresRehearsal {
    let programs = locate(EngineKind::PgClient).unwrap().tool("pg_dump");
    let places = ProgramPlaces {
        folder: programs.parent().map(PathBuf::from),
        path: Vec::new(),
        temporary: std::env::temp_dir(),
    };
    let config = PostgresConfig::new(Secret::new(server.uri_of(database)));
    PostgresRehearsal::new(&config, None, places).unwrap()
}

async fn permit(host: &PostgresRehearsal, operation: &str, effect: Effect) -> Permit {
    let now = Timestamp::now();
    let server = host.shadow_server().await.unwrap();
    testing_permit(&Plan {
        format: PLAN_FORMAT,
        operation: operation.to_owned(),
        effect,
        target: Target {
            environment: "shop-dev".to_owned(),
            class: EnvironmentClass::Development,
            store: StoreKind::Postgres,
            fingerprint: server.fingerprint,
            address: server.address,
        },
        assumptions: vec![],
        steps: vec![],
        blast_radius: BlastRadius { phrase: "rehearse".to_owned(), items: 0, bytes: 0 },
        parameters: json!({}),
        created_at: now,
        expires_at: now + Plan::LIFETIME,
        tool_version: "0.1.0".to_owned(),
    })
}

fn done(rehearsed: Rehearsed) -> Observation {
    match rehearsed {
        Rehearsed::Done(seen) => seen,
        Rehearsed::Failed(failure) => panic!("{failure:?}"),
    }
}

fn failed(rehearsed: Rehearsed) -> StatementFailure {
    match rehearsed {
        Rehearsed::Failed(failure) => failure,
        Rehearsed::Done(seen) => panic!("{seen:?}"),
    }
}

/// What was seen, in the words of [`KINDS`].
fn told(seen: &Observation) -> String {
    let mut tables: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for lock in &seen.taken {
        tables.entry(&lock.table.name).or_default().push(lock.mode.to_string());
    }
    for table in &seen.rewritten {
        tables.entry(&table.name).or_default().push("rewritten".to_owned());
    }
    for table in seen.scanned.iter().filter(|table| !seen.rewritten.contains(table)) {
        tables.entry(&table.name).or_default().push("read".to_owned());
    }
    for (is_rebuilt, word) in [(false, "built"), (true, "rebuilt")] {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for build in seen.built.iter().filter(|build| build.is_rebuilt == is_rebuilt) {
            *counts.entry(&build.table.name).or_default() += 1;
        }
        for (table, count) in counts {
            tables.entry(table).or_default().push(format!("{count} {word}"));
        }
    }
    let mut parts: Vec<String> =
        tables.into_iter().map(|(table, words)| format!("{table} {}", words.join(", "))).collect();
    if !seen.beyond.is_empty() {
        parts.push(format!("beyond: {}", seen.beyond.join(", ")));
    }
    parts.join("; ")
}

fn shop(server: &Postgres) -> String {
    let database = server.create_database();
    server.execute(&database, &SHOP.join(";\n")).unwrap();
    database
}

async fn fill(stage: &mut dyn RehearsalStage, statements: &[&str]) {
    stage.begin().await.unwrap();
    for statement in statements {
        done(stage.observe(statement).await.unwrap());
    }
    assert_eq!(stage.commit().await.unwrap(), None);
    stage.look_again();
}

#[tokio::test]
async fn what_each_kind_of_statement_does_is_measured() {
    let server = shared_postgres();
    let database = shop(server);
    let host = host(server, &database);
    let permit = permit(&host, "sql.rehearse.live", Effect::Disruptive).await;
    let bounds =
        LiveBounds { lock_timeout_ms: 5_000, statement_timeout_ms: 20_000, total_timeout_ms: 30_000 };
    let mut wrong = Vec::new();
    for (statement, expected) in KINDS {
        let mut stage = host.on_live(bounds, &permit).await.unwrap();
        stage.begin().await.unwrap();
        let seen = done(stage.observe(statement).await.unwrap());
        if told(&seen) != *expected {
            wrong.push(format!("{statement}\n  expected {expected}\n  seen     {}", told(&seen)));
        }
        stage.end().await.unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Nothing of it is left.
    let left = "SELECT rolname::text FROM pg_roles WHERE rolname = 'mainstay_rehearsed'";
    assert_eq!(server.texts(&database, left), [] as [&str; 0]);
    let columns = "SELECT count(*)::text FROM information_schema.columns WHERE table_name = 'users'";
    assert_eq!(server.texts(&database, columns), ["9"]);
}

#[tokio::test]
async fn what_must_run_alone_is_watched_through_its_phases() {
    let server = shared_postgres();
    let database = server.create_database();
    let host = host(server, &database);
    let permit = permit(&host, "sql.rehearse", Effect::Additive).await;
    let mut stage = host.shadow(&|_: &str| (), &permit).await.unwrap();
    fill(stage.as_mut(), SHOP).await;
    let mut wrong = Vec::new();
    for (statement, expected, waits) in ALONE {
        let seen = done(stage.observe_alone(statement).await.unwrap());
        if told(&seen) != *expected || seen.waits_for_readers != *waits {
            wrong.push(format!(
                "{statement}\n  expected {expected} ({waits})\n  seen     {} ({})",
                told(&seen),
                seen.waits_for_readers
            ));
        }
    }
    let failure =
        failed(stage.observe_alone("CREATE INDEX CONCURRENTLY i ON users (nothing)").await.unwrap());
    assert_eq!(failure.code, "42703");
    stage.end().await.unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_lock_is_told_by_the_statement_that_takes_it() {
    let server = shared_postgres();
    let database = shop(server);
    let host = host(server, &database);
    let permit = permit(&host, "sql.rehearse", Effect::Additive).await;
    let mut stage = host.shadow(&|_: &str| (), &permit).await.unwrap();
    fill(stage.as_mut(), SHOP).await;
    stage.begin().await.unwrap();
    let first = done(stage.observe("ALTER TABLE users ADD COLUMN extra text").await.unwrap());
    let second =
        done(stage.observe("CREATE TABLE fresh (id int); CREATE INDEX i ON users (extra)").await.unwrap());
    assert_eq!(
        (told(&first), told(&second)),
        ("users ACCESS EXCLUSIVE".to_owned(), "users SHARE, read, 1 built".to_owned())
    );
    let held: Vec<String> = second.held.iter().map(|lock| format!("{} {}", lock.table, lock.mode)).collect();
    assert_eq!(held, ["public.users ACCESS EXCLUSIVE"]);

    // The server says where; what was done goes.
    let failure = failed(stage.observe("ALTER TABLE users ADD COLUMN x nothing").await.unwrap());
    assert_eq!((failure.code.as_str(), failure.position), ("42704", Some(32)));
    stage.begin().await.unwrap();
    done(stage.observe("ALTER TABLE users ADD COLUMN extra text").await.unwrap());
    assert_eq!(stage.commit().await.unwrap(), None);
    stage.end().await.unwrap();
}

#[tokio::test]
async fn what_reaches_beyond_the_database_is_never_committed() {
    let server = Postgres::start().unwrap();
    let host = host(&server, "postgres");
    let permit = permit(&host, "sql.rehearse", Effect::Additive).await;
    let mut stage = host.shadow(&|_: &str| (), &permit).await.unwrap();
    stage.begin().await.unwrap();
    done(stage.observe("CREATE TABLE before (id int)").await.unwrap());
    assert!(!stage.is_open_ended());
    done(stage.observe("CREATE ROLE reader").await.unwrap());
    assert!(stage.is_open_ended());
    assert_eq!(stage.commit().await.unwrap(), None);
    // The next migration finds the role nevertheless.
    stage.begin().await.unwrap();
    done(stage.observe("GRANT SELECT ON before TO reader").await.unwrap());
    assert_eq!(stage.observe_alone("VACUUM").await.unwrap_err().kind(), ErrorKind::Internal);
    assert_eq!(
        server.texts("postgres", "SELECT rolname::text FROM pg_roles WHERE rolname = 'reader'"),
        [] as [&str; 0]
    );
    stage.end().await.unwrap();
    assert_eq!(
        server.texts("postgres", "SELECT rolname::text FROM pg_roles WHERE rolname = 'reader'"),
        [] as [&str; 0]
    );
    assert_eq!(shadows(&server), [] as [&str; 0]);
}

fn shadows(server: &Postgres) -> Vec<String> {
    server
        .texts("postgres", "SELECT datname::text FROM pg_database WHERE datname LIKE 'mainstay\\_shadow\\_%'")
}

#[tokio::test]
async fn a_shadow_that_was_left_goes_with_the_next_and_nobody_elses() {
    let server = Postgres::start().unwrap();
    let host = host(&server, "postgres");
    let permit = permit(&host, "sql.drift", Effect::Additive).await;
    server.execute("postgres", "CREATE DATABASE mainstay_shadow_of_somebody").unwrap();
    server.execute("postgres", "COMMENT ON DATABASE mainstay_shadow_of_somebody IS 'mine'").unwrap();
    server.execute("postgres", "CREATE DATABASE mainstay_shadow_unmarked").unwrap();
    // One of a run that goes on, and one of a run that was killed.
    let living = host.shadow(&|_: &str| (), &permit).await.unwrap();
    let left = host.shadow(&|_: &str| (), &permit).await.unwrap();
    let names = [living.database().to_owned(), left.database().to_owned()];
    drop(left);
    let is_used = format!("SELECT pid::text FROM pg_stat_activity WHERE datname = '{}'", names[1]);
    for _ in 0..500 {
        if server.texts("postgres", &is_used).is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let heard = Mutex::new(Vec::new());
    let next = host.shadow(&|text: &str| heard.lock().unwrap().push(text.to_owned()), &permit).await.unwrap();
    let heard = heard.into_inner().unwrap();
    assert!(heard.len() == 1 && heard[0].contains(&names[1]), "{heard:?}");
    next.end().await.unwrap();
    living.end().await.unwrap();
    assert_eq!(shadows(&server), ["mainstay_shadow_of_somebody", "mainstay_shadow_unmarked"]);

    let other = permit_for_another(&permit);
    assert_eq!(host.shadow(&|_: &str| (), &other).await.err().unwrap().kind(), ErrorKind::Refused);
}

/// The same permit, for a server that this is not.
fn permit_for_another(permit: &Permit) -> Permit {
    let now = Timestamp::now();
    testing_permit(&Plan {
        format: PLAN_FORMAT,
        operation: permit.operation().to_owned(),
        effect: Effect::Additive,
        target: Target { fingerprint: "another".to_owned(), ..permit.target().clone() },
        assumptions: vec![],
        steps: vec![],
        blast_radius: BlastRadius { phrase: "rehearse".to_owned(), items: 0, bytes: 0 },
        parameters: json!({}),
        created_at: now,
        expires_at: now + Plan::LIFETIME,
        tool_version: "0.1.0".to_owned(),
    })
}

#[tokio::test]
async fn a_shadow_has_the_live_schema_and_its_rows_when_asked() {
    let server = shared_postgres();
    let database = shop(server);
    let fixture = "INSERT INTO users (id, age) SELECT i, 20 FROM generate_series(1, 50) AS i; CREATE SCHEMA mainstay; \
                   CREATE TABLE mainstay.identity (id int); CREATE SEQUENCE counter CYCLE; \
                   CREATE FOREIGN DATA WRAPPER far; CREATE SERVER away FOREIGN DATA WRAPPER far; \
                   CREATE USER MAPPING FOR PUBLIC SERVER away; CREATE USER MAPPING FOR CURRENT_USER SERVER away";
    server.execute(&database, fixture).unwrap();
    let host = host(server, &database);
    let permit = permit(&host, "sql.rehearse", Effect::Additive).await;
    let scope = CatalogScope::default();
    let live = host.live_catalog(&scope).await.unwrap();
    assert!(live.iter().any(|one| one.kind == "column" && one.name == "public.users.price"), "{live:?}");
    for (contents, rows) in [(ShadowContents::Schema, "0"), (ShadowContents::Rows, "50")] {
        let mut stage = host.shadow(&|_: &str| (), &permit).await.unwrap();
        host.fill(stage.as_ref(), contents, &permit).await.unwrap();
        assert_eq!(stage.catalog(&scope).await.unwrap(), live, "{contents:?}");
        let shadow = stage.database().to_owned();
        assert_eq!(server.texts(&shadow, "SELECT count(*)::text FROM users"), [rows]);
        // A marker of an environment is of its own database.
        assert_eq!(
            server.texts(&shadow, "SELECT coalesce(to_regnamespace('mainstay')::text, 'none')"),
            ["none"]
        );
        // What would be written through it would stay on another server.
        assert_eq!(server.texts(&shadow, "SELECT srvname::text FROM pg_foreign_server"), ["away"]);
        assert_eq!(server.texts(&shadow, "SELECT count(*)::text FROM pg_user_mapping"), ["0"]);
        stage.begin().await.unwrap();
        let seen = done(stage.observe("ALTER TABLE users ALTER COLUMN big TYPE bigint").await.unwrap());
        assert_eq!(told(&seen), "users ACCESS EXCLUSIVE, rewritten, 5 rebuilt");
        stage.end().await.unwrap();
    }
}

#[tokio::test]
async fn who_holds_a_table_is_told() {
    let server = shared_postgres();
    let database = shop(server);
    let host = host(server, &database);
    assert!(host.lock_holders().await.unwrap().is_empty());
    server.execute("postgres", "SELECT 1").unwrap();
    let permit = permit(&host, "sql.rehearse.live", Effect::Disruptive).await;
    let bounds = LiveBounds { lock_timeout_ms: 300, statement_timeout_ms: 5_000, total_timeout_ms: 30_000 };
    let mut one = host.on_live(bounds, &permit).await.unwrap();
    one.begin().await.unwrap();
    done(one.observe("SELECT * FROM orders; LOCK TABLE orders IN ROW EXCLUSIVE MODE").await.unwrap());
    let holders = host.lock_holders().await.unwrap();
    let held: Vec<String> = holders.iter().map(|one| format!("{} {}", one.table, one.mode)).collect();
    assert_eq!(held, ["public.orders ROW EXCLUSIVE"]);
    // Another one waits for it no longer than it was told to.
    let mut other = host.on_live(bounds, &permit).await.unwrap();
    other.begin().await.unwrap();
    let failure = failed(other.observe("ALTER TABLE orders ADD COLUMN x int").await.unwrap());
    assert_eq!(failure.code, "55P03");
    other.end().await.unwrap();
    one.end().await.unwrap();
}

#[tokio::test]
async fn a_role_that_may_make_no_database_is_told_what_to_do() {
    let server = shared_postgres();
    let database = shop(server);
    server.execute(&database, "CREATE ROLE rehearser LOGIN").unwrap();
    let config = PostgresConfig {
        user: Some("rehearser".to_owned()),
        ..PostgresConfig::new(Secret::new(server.uri_of(&database)))
    };
    let as_owner = host(server, &database);
    let permit = permit(&as_owner, "sql.rehearse", Effect::Additive).await;
    let host = PostgresRehearsal::new(&config, None, ProgramPlaces::default()).unwrap();
    let error = host.shadow(&|_: &str| (), &permit).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Auth, "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.contains("CREATEDB")), "{error:?}");
}
