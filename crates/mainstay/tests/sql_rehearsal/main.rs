//! Migrations looked at before they run, and a database compared with its migrations, as a user meets it: the real binary, real servers.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../binary/mod.rs"]
mod binary;

use std::fs;

use mainstay_testkit::Postgres;
use mainstay_testkit::engines::{EngineKind, locate};
use serde_json::{Value, json};

use binary::{Place, Seen};

const SHOP: &str = "CREATE TABLE \"users\" (\"id\" serial PRIMARY KEY NOT NULL, \"email\" text, \"age\" integer);\n\
    --> statement-breakpoint\n\
    CREATE TABLE \"orders\" (\"id\" serial PRIMARY KEY NOT NULL, \"user_id\" integer REFERENCES \"users\" (\"id\"), \"total\" integer);\n";
const WIDE: &str = "ALTER TABLE \"orders\" ALTER COLUMN \"total\" SET DATA TYPE bigint;\n\
    --> statement-breakpoint\n\
    ALTER TABLE \"users\" ADD COLUMN \"nick\" text;\n";
const INDEX: &str = "CREATE INDEX CONCURRENTLY \"orders_total\" ON \"orders\" (\"total\");\n";

/// A shop whose first migration is applied, and a project that knows of these migrations.
struct Shop {
    server: Postgres,
    place: Place,
}

impl Shop {
    fn begin(migrations: &[(&str, &str)]) -> Self {
        let server = Postgres::start().unwrap();
        server.execute("postgres", "CREATE DATABASE shop").unwrap();
        let applied = format!(
            "{SHOP} CREATE SCHEMA drizzle; \
             CREATE TABLE drizzle.__drizzle_migrations (id serial PRIMARY KEY, hash text NOT NULL, created_at bigint); \
             INSERT INTO drizzle.__drizzle_migrations (hash, created_at) \
             VALUES (encode(sha256(convert_to($m${SHOP}$m$, 'UTF8')), 'hex'), 1700000000000)"
        );
        server.execute("shop", &applied).unwrap();
        let place = Place::new();
        let temporary = place.path("tmp");
        fs::create_dir(&temporary).unwrap();
        let place = place.variable("TMPDIR", temporary.to_str().unwrap());
        let programs = locate(EngineKind::PgClient).unwrap().tool("pg_dump");
        place.write(
            "mainstay.toml",
            &format!(
                "[environment]\nname = \"tests\"\nclass = \"development\"\n\n[postgres]\nurl = \"{}\"\nclient_dir = \"{}\"\n",
                server.uri_of("shop"),
                programs.parent().unwrap().display()
            ),
        );
        fs::create_dir_all(place.path("drizzle/meta")).unwrap();
        let shop = Self { server, place };
        shop.journal(&[&[("0000_shop", SHOP)][..], migrations].concat());
        shop
    }

    /// Writes a folder of these migrations.
    fn journal(&self, migrations: &[(&str, &str)]) {
        let entry = |(number, (tag, _)): (usize, &(&str, &str))| json!({"idx": number, "version": "7", "when": 1_700_000_000_000_u64 + number as u64, "tag": tag, "breakpoints": true});
        let entries: Vec<Value> = migrations.iter().enumerate().map(entry).collect();
        let journal = json!({"version": "7", "dialect": "postgresql", "entries": entries});
        self.place.write("drizzle/meta/_journal.json", &journal.to_string());
        for (tag, text) in migrations {
            self.place.write(&format!("drizzle/{tag}.sql"), text);
        }
    }

    fn run(&self, arguments: &[&str]) -> Seen {
        self.place.run(arguments)
    }

    fn shadows(&self) -> Vec<String> {
        self.server.texts("postgres", "SELECT datname::text FROM pg_database WHERE datname LIKE 'mainstay%'")
    }
}

const FILLED: &str =
    "INSERT INTO orders (total) SELECT i FROM generate_series(1, 20000) AS i; ANALYZE orders";

#[test]
fn pending_migrations_are_measured_and_nothing_is_changed() {
    let shop = Shop::begin(&[("0001_wide", WIDE), ("0002_index", INDEX)]);
    shop.server.execute("shop", FILLED).unwrap();
    shop.run(&["sql", "rehearse"]).expect(0).says("0001_wide.sql").says("access exclusive").says("rewritten");

    let seen = shop.run(&["sql", "rehearse", "--large", "100KB", "--json"]).expect(3).json();
    assert_eq!(
        (&seen["has_findings"], &seen["is_live"], &seen["left_out"]),
        (&json!(true), &json!(false), &json!(0))
    );
    let statement =
        |migration: usize, statement: usize| &seen["migrations"][migration]["statements"][statement];
    let wide = &statement(0, 0)["tables"][0];
    assert_eq!(wide["table"], json!({"schema": "public", "name": "orders"}));
    assert_eq!(
        (&wide["lock"], &wide["blocks"], &wide["work"], &wide["is_over"]),
        (&json!("access_exclusive"), &json!("reads"), &json!("rewritten"), &json!(true))
    );
    assert_eq!(wide["live"]["rows"], 20_000);
    let brief = &statement(0, 1)["tables"][0];
    assert_eq!((&brief["work"], &brief["is_over"]), (&json!("none"), &json!(false)));
    let alone = statement(1, 0);
    assert_eq!((&alone["is_alone"], &alone["waits_for_everybody"]), (&json!(true), &json!(true)));
    let index = &alone["tables"][0];
    assert_eq!((&index["lock"], &index["blocks"]), (&json!("share_update_exclusive"), &json!("nobody")));
    assert_eq!((&index["work"], &index["is_over"]), (&json!("indexed"), &json!(false)));

    for more in [&["--from", "journal"][..], &["--data"]] {
        let seen = shop.run(&[&["sql", "rehearse", "--json"], more].concat()).expect(0).json();
        assert_eq!(seen["migrations"][0]["statements"][0]["tables"][0]["work"], "rewritten", "{more:?}");
    }
    let kinds = "SELECT data_type::text FROM information_schema.columns WHERE table_name = 'orders' AND column_name = 'total'";
    assert_eq!(shop.server.texts("shop", kinds), ["integer"]);
    assert_eq!(shop.shadows(), [] as [&str; 0]);
    shop.run(&["sql", "rehearse", "--shadow-url", "postgres://app:hunter2@127.0.0.1/postgres"])
        .expect(2)
        .says("--shadow-url holds a password");
    // Without a marker it counts as production, where nobody may disturb a server unasked.
    shop.run(&["sql", "rehearse", "--on-live"]).expect(7);
}

#[test]
fn a_migration_that_fails_is_told_with_its_line() {
    let bad = "ALTER TABLE \"users\" ADD COLUMN \"nick\" text;\n--> statement-breakpoint\nALTER TABLE \"users\" ADD COLUMN \"x\" nothing;\n";
    let shop = Shop::begin(&[("0001_bad", bad), ("0002_index", INDEX)]);
    let seen = shop.run(&["sql", "rehearse"]).expect(3).says("42704").says("1 after it had no turn");
    assert!(seen.stdout.contains("3:"), "{}", seen.stdout);
    assert_eq!(shop.shadows(), [] as [&str; 0]);
}

#[test]
fn nothing_pending_is_nothing_to_rehearse() {
    let shop = Shop::begin(&[]);
    shop.run(&["sql", "rehearse"]).expect(0).says("nothing is pending");
}

#[test]
fn what_was_done_by_hand_is_found() {
    let shop = Shop::begin(&[("0001_wide", WIDE)]);
    // What is pending is no drift.
    shop.run(&["sql", "drift"]).expect(0).says("no difference");
    // Nor is the schema that the runner made for its table, whatever it is called.
    shop.server.execute("shop", "ALTER SCHEMA drizzle RENAME TO \"Kept\"").unwrap();
    shop.place
        .write("drizzle.config.ts", "export default { out: './drizzle', migrations: { schema: 'Kept' } };");
    shop.run(&["sql", "drift"]).expect(0).says("1 migrations replayed").says("no difference");
    let by_hand = "CREATE INDEX by_hand ON orders (total); ALTER TABLE users DROP COLUMN age; \
                   ALTER TABLE users ALTER COLUMN email SET NOT NULL; CREATE TABLE extra (id serial PRIMARY KEY, note text)";
    shop.server.execute("shop", by_hand).unwrap();
    shop.run(&["sql", "drift"])
        .expect(3)
        .says("+ index public.by_hand: only live")
        .says("- column public.users.age: only in the migrations")
        .says("~ column public.users.email: different")
        .says("text NOT NULL")
        .says("+ table public.extra: only live");
    let seen = shop.run(&["sql", "drift", "--json"]).expect(3).json();
    assert_eq!((&seen["is_drift"], seen["differences"].as_array().unwrap().len()), (&json!(true), 4));
    shop.run(&["sql", "verify", "--drift"]).expect(3).says("only live");
    assert_eq!(shop.shadows(), [] as [&str; 0]);

    // A file that was edited to nonsense cannot be replayed.
    shop.journal(&[("0000_shop", "CREATE TABLE \"users\" (\"id\" nothing);\n"), ("0001_wide", WIDE)]);
    shop.run(&["sql", "drift"]).expect(8).says("0000_shop.sql:1:").says("nothing was changed");
    assert_eq!(shop.shadows(), [] as [&str; 0]);
}

#[test]
fn findings_have_file_line_and_the_size_of_their_table() {
    let shop = Shop::begin(&[("0001_index", "CREATE INDEX \"orders_total\" ON \"orders\" (\"total\");\n")]);
    shop.server.execute("shop", FILLED).unwrap();
    shop.run(&["sql", "lint"])
        .expect(3)
        .says("drizzle/0001_index.sql:1:1: ")
        .says("public.orders: ")
        .says("20,000 rows");
    let offline = shop.run(&["sql", "lint", "--offline", "--json"]).expect(3).json();
    assert_eq!((&offline["is_live_known"], &offline["file_count"]), (&json!(false), &json!(2)));
    shop.run(&["sql", "lint", "--exclude", "no-such-rule"]).expect(2).says("there is no rule `no-such-rule`");
}

#[test]
fn quotes_without_their_payment_are_critical() {
    let shop = Shop::begin(&[]);
    shop.run(&["sql", "verify"]).expect(0);
    let quotes = "CREATE TABLE payments (id int PRIMARY KEY); INSERT INTO payments VALUES (1); \
                  CREATE TABLE payment_quotes (id int PRIMARY KEY, payment_id int NOT NULL, created_at timestamptz NOT NULL DEFAULT now()); \
                  INSERT INTO payment_quotes (id, payment_id) VALUES (7, 1), (8, 2)";
    shop.server.execute("shop", quotes).unwrap();
    shop.run(&["sql", "verify"])
        .expect(4)
        .says("public.payment_quotes has 1 row whose payment is not there: id 8")
        .says("[quotes.no_foreign_key]");
    shop.run(&["doctor"]).expect(4).says("[quotes.without_payment]");
    let Shop { server, place } = shop;
    server.execute("shop", "DELETE FROM payment_quotes WHERE id = 8").unwrap();
    let kept = "ALTER TABLE payment_quotes ADD FOREIGN KEY (payment_id) REFERENCES payments (id)";
    server.execute("shop", kept).unwrap();
    place.run(&["sql", "verify"]).expect(0);
    let place = place.variable("ORACLE_QUOTING_ENABLED", "false");
    place.run(&["sql", "verify"]).expect(3).says("[quotes.written_while_off]").says("id 7");
}
