//! Wiping a development database, and everything that must keep it from happening.

use mainstay_testkit::{Postgres, Psql};
use serde_json::Value;

use crate::binary::{Place, Seen};
use crate::support::{another_server, apply, configure, mark, project};

/// A server with a database `shop` that belongs to `app` and holds something, and a project on it.
fn shop() -> (Postgres, Place) {
    let server = Postgres::start().unwrap();
    server.execute("postgres", "CREATE ROLE app LOGIN CREATEDB").unwrap();
    let create =
        "CREATE DATABASE shop OWNER app TEMPLATE template0 ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'";
    server.execute("postgres", create).unwrap();
    server
        .execute("shop", "CREATE TABLE items AS SELECT generate_series(1, 500) AS i; ANALYZE items")
        .unwrap();
    let place = project(&server.uri_of("shop"));
    (server, place)
}

/// Plans a reset into `reset.json`; gives its hash.
#[track_caller]
fn planned(place: &Place) -> Value {
    let _ = std::fs::remove_file(place.path("reset.json"));
    let seen = place.run(&["pg", "reset", "--output", "reset.json", "--json"]).expect(0);
    seen.json()["plan_hash"].clone()
}

fn described(server: &Postgres) -> Vec<String> {
    server.texts(
        "postgres",
        "SELECT concat_ws(' ', pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datlocprovider, datcollate, datctype) \
         FROM pg_database WHERE datname = 'shop'",
    )
}

fn rows(server: &Postgres) -> Vec<String> {
    server.texts("shop", "SELECT count(*)::text FROM items")
}

fn reset(place: &Place) -> Seen {
    place.run(&["pg", "reset"])
}

#[test]
fn a_development_database_is_wiped_and_stays_what_it_was() {
    let (server, place) = shop();
    mark(&place);
    let before = described(&server);
    // 500, and the marker's row as soon as the server counts it.
    place.run(&["pg", "reset", "--dry-run"]).expect(0).says("about 50").says("destructive");
    // Whoever is not asked has not agreed, in development too.
    reset(&place).expect(7).says("--output plan.json");
    assert_eq!(rows(&server), ["500"]);

    let hash = planned(&place);
    let mut app = Psql::open(&server, "shop", "app");
    app.send("BEGIN; SELECT 1;");
    server.process_when("app", "state = 'idle in transaction'");
    let report = apply(&place, "reset.json", &hash).expect(0).json();
    assert_eq!(report["reset"]["database"], "shop");
    assert!((500..=501).contains(&report["reset"]["rows"].as_u64().unwrap()), "{report}");
    assert_eq!(
        server.texts("shop", "SELECT count(*)::text FROM pg_stat_user_tables WHERE schemaname = 'public'"),
        ["0"]
    );
    assert_eq!(described(&server), before);
    // It bears its marker as before, so it can be wiped again, though not by the same plan: it is another database.
    apply(&place, "reset.json", &hash).expect(9).says("database shop was number");
    let hash = planned(&place);
    apply(&place, "reset.json", &hash).expect(0);
    place.run(&["audit", "list"]).expect(0).says("pg.reset");
    place.run(&["audit", "verify"]).expect(0);
}

#[test]
fn nothing_but_a_marked_development_database_is_wiped() {
    let (server, place) = shop();
    // The configuration says development; the database says nothing.
    reset(&place).expect(7).says("has no environment marker, so it counts as production");
    mark(&place);
    let hash = planned(&place);

    // What the marker says counts when the plan is made, and when it is applied.
    for class in ["staging", "production"] {
        server.execute("shop", &format!("UPDATE mainstay.identity SET class = '{class}'")).unwrap();
        reset(&place).expect(7);
        place.run(&["pg", "reset", "--output", "other.json"]).expect(7);
        apply(&place, "reset.json", &hash).expect(7);
        // A configuration that does not contradict it helps nobody.
        place.write("mainstay.toml", &format!("[postgres]\nurl = \"{}\"\n", server.uri_of("shop")));
        reset(&place).expect(7).says(class);
        apply(&place, "reset.json", &hash).expect(9);
        configure(&place, &server.uri_of("shop"), "");
    }
    server.execute("shop", "DELETE FROM mainstay.identity").unwrap();
    reset(&place).expect(7).says("no environment marker");
    apply(&place, "reset.json", &hash).expect(9);
    mark(&place);
    // Marked anew it is somebody else's word.
    apply(&place, "reset.json", &hash).expect(9).says("marker was");

    configure(&place, &server.uri(), "");
    reset(&place).expect(8).says("the server's own database");
    let other = another_server(&server);
    other.execute("postgres", "CREATE DATABASE shop").unwrap();
    configure(&place, &other.uri_of("shop"), "");
    mark(&place);
    apply(&place, "reset.json", &hash).expect(9).says("the plan is for server");
    assert_eq!(rows(&server), ["500"]);
    assert_eq!(
        other.texts("postgres", "SELECT count(*)::text FROM pg_database WHERE datname = 'shop'"),
        ["1"]
    );
}

#[test]
fn a_reset_that_the_server_refuses_changes_nothing() {
    let (server, place) = shop();
    mark(&place);
    server.execute("postgres", "CREATE ROLE outsider LOGIN CREATEDB").unwrap();
    configure(&place, &crate::support::url_of(&server, "outsider", "shop"), "");
    let hash = planned(&place);
    apply(&place, "reset.json", &hash).expect(5).says("nothing was changed");
    assert_eq!(rows(&server), ["500"]);
}
