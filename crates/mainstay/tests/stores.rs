//! `status`, `doctor` and `environment` against real servers: all up, one down, a wrong password, a marker that travels.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod binary;

use binary::{Place, Seen};
use mainstay_testkit::servers::free_port;
use mainstay_testkit::{
    Mongod, Postgres, Redis, shared_mongod, shared_postgres, shared_redis, unique_database,
};
use serde_json::Value;

const CANARY: &str = "canary-5up3r/p@ss";

/// A place configured for the three shared servers, with a repository.
fn all_three() -> Place {
    let place = Place::new();
    let text = format!(
        "[environment]\nname = \"shop-dev\"\nclass = \"development\"\n[mongo]\nurl = \"{}\"\ndatabase = \"{}\"\n\
         [postgres]\nurl = \"{}\"\n[redis]\nurl = \"{}\"\n[repository]\nurl = \"file:./backups\"\n",
        shared_mongod().uri(),
        unique_database(),
        shared_postgres().uri_of(&shared_postgres().create_database()),
        shared_redis().uri(),
    );
    place.write("mainstay.toml", &text);
    place
}

fn json(seen: &Seen) -> Value {
    serde_json::from_str(&seen.stdout).unwrap_or_else(|error| panic!("{error}: {}", seen.both()))
}

fn row<'a>(value: &'a Value, store: &str) -> &'a Value {
    value["stores"].as_array().unwrap().iter().find(|row| row["store"] == store).unwrap()
}

#[test]
fn all_three_are_shown_at_a_glance() {
    let place = all_three();
    let seen = place.run(&["status", "--json"]);
    assert_eq!(seen.status, 3, "there is no repository yet: {}", seen.both());
    let value = json(&seen);
    for (store, version) in [("mongo", "6."), ("postgres", "18."), ("redis", "8.")] {
        let row = row(&value, store);
        assert_eq!(row["state"], "up", "{row}");
        assert!(row["version"].as_str().unwrap().starts_with(version), "{row}");
        assert!(
            row["connections"].as_u64().unwrap() >= 1 && !row["fingerprint"].as_str().unwrap().is_empty(),
            "{row}"
        );
    }
    assert_eq!(row(&value, "mongo")["role"], "primary of rs0");
    assert_eq!(value["repository"]["state"], "not_found");
    assert!(!place.path("backups").exists(), "looking must not make a repository");

    let text = place.run(&["status"]);
    assert_eq!(text.status, 3);
    assert!(text.stdout.contains("STORE") && text.stdout.matches(" up ").count() == 3, "{}", text.stdout);
    assert!(!text.stdout.contains('\u{1b}'), "no colours where there is no terminal");
}

#[test]
fn one_that_is_down_is_a_row_and_an_exit_status() {
    let place = all_three();
    let port = free_port();
    let url = format!("redis://127.0.0.1:{port}");
    let seen = place.run(&["status", "--json", "--redis-url", &url]);
    assert_eq!(seen.status, 6, "{}", seen.both());
    let value = json(&seen);
    assert_eq!(row(&value, "mongo")["state"], "up");
    assert_eq!(row(&value, "postgres")["state"], "up");
    assert_eq!(row(&value, "redis")["state"], "unreachable");
    assert_eq!(row(&value, "redis")["error"]["exit_status"], 6);
    let text = place.run(&["status", "--redis-url", &url]);
    assert!(
        text.stdout.contains("trouble:") && text.stdout.contains(&format!("127.0.0.1:{port}")),
        "{}",
        text.stdout
    );

    let doctor = place.run(&["doctor", "--json", "--redis-url", &url]);
    assert_eq!(doctor.status, 4);
    let findings = json(&doctor)["findings"].as_array().unwrap().clone();
    assert!(findings.iter().any(|finding| finding["id"] == "redis.unreachable"), "{findings:?}");
}

#[test]
fn a_wrong_password_is_said_and_never_shown() {
    let mongod = Mongod::options().auth("root", "right").start().unwrap();
    let postgres = Postgres::options().scram("right").start().unwrap();
    let redis = Redis::options().password("right").start().unwrap();
    let place = Place::new()
        .variable(
            "MAINSTAY_MONGO_URL",
            &format!("mongodb://127.0.0.1:{}/?directConnection=true", mongod.port()),
        )
        .variable("MONGO_INITDB_ROOT_USERNAME", "root")
        .variable("MONGO_INITDB_ROOT_PASSWORD", CANARY)
        .variable("PG_URL", &format!("postgres://postgres@127.0.0.1:{}/postgres", postgres.port()))
        .variable("MAINSTAY_POSTGRES_PASSWORD", CANARY)
        .variable("MAINSTAY_REDIS_URL", &format!("redis://127.0.0.1:{}", redis.port()))
        .variable("REDIS_PASSWORD", CANARY);
    let encoded = CANARY.replace('/', "%2F").replace('@', "%40");
    for (command, status) in
        [(&["status"][..], 5), (&["doctor"], 4), (&["environment", "show"], 5), (&["config", "check"], 3)]
    {
        for more in [&[][..], &["--json"], &["--verbose"]] {
            let seen = place.run(&[command, more].concat());
            assert_eq!(seen.status, status, "{command:?}: {}", seen.both());
            let text = seen.both();
            assert!(
                !text.contains("canary") && !text.contains(&encoded),
                "{command:?} shows the password: {text}"
            );
        }
    }
    let value = json(&place.run(&["status", "--json"]));
    for store in ["mongo", "postgres", "redis"] {
        assert_eq!(row(&value, store)["state"], "auth", "{value}");
    }
}

#[test]
fn the_right_password_from_a_file_opens_every_store() {
    let mongod = Mongod::options().auth("root", CANARY).start().unwrap();
    let postgres = Postgres::options().scram(CANARY).start().unwrap();
    let redis = Redis::options().password(CANARY).start().unwrap();
    let place = Place::new()
        .variable(
            "MAINSTAY_MONGO_URL",
            &format!("mongodb://127.0.0.1:{}/?directConnection=true", mongod.port()),
        )
        .variable("MONGO_INITDB_ROOT_USERNAME", "root")
        .variable("MONGO_INITDB_ROOT_PASSWORD_FILE", "secret")
        .variable("PG_URL", &format!("postgres://postgres@127.0.0.1:{}/postgres", postgres.port()))
        .variable("MAINSTAY_POSTGRES_PASSWORD_FILE", "secret")
        .variable("MAINSTAY_REDIS_URL", &format!("redis://127.0.0.1:{}", redis.port()))
        .variable("REDIS_PASSWORD_FILE", "secret");
    place.write("secret", &format!("{CANARY}\n"));
    let seen = place.run(&["status"]);
    assert_eq!(seen.status, 3, "no repository is configured: {}", seen.both());
    assert_eq!(seen.stdout.matches(" up ").count(), 3, "{}", seen.stdout);
    assert!(!seen.both().contains("canary"));
}

#[test]
fn a_marker_is_planned_approved_written_recorded_and_found_again() {
    // Markers are for a whole server, so these are not the shared ones.
    let redis = Redis::options().start().unwrap();
    let mongod = Mongod::start().unwrap();
    let place = Place::new();
    let file = |name: &str| {
        format!(
            "[environment]\nname = \"{name}\"\nclass = \"development\"\n[mongo]\nurl = \"{}\"\n[redis]\nurl = \"{}\"\n[repository]\nurl = \"file:./backups\"\n",
            mongod.uri(),
            redis.uri()
        )
    };
    place.write("mainstay.toml", &file("shop-dev"));

    // Unmarked counts as production, so nothing is written without consent.
    let refused = place.run(&["environment", "mark"]);
    assert_eq!(refused.status, 7, "{}", refused.both());
    let way = "--store mongo --output plan.json`, review the plan, then run `mainstay apply plan.json --approve HASH`";
    assert!(refused.stderr.contains(way), "{}", refused.stderr);

    for store in ["mongo", "redis"] {
        let output = format!("{store}.json");
        let planned = place.run(&["environment", "mark", "--store", store, "--output", &output, "--json"]);
        assert_eq!(planned.status, 0, "{}", planned.both());
        let hash = json(&planned)["plans"][0]["plan_hash"].as_str().unwrap().to_owned();
        assert_eq!(json(&place.run(&["plan", "show", &output, "--json"]))["plan_hash"], hash.as_str());
        let wrong = place.run(&["apply", &output, "--approve", &"0".repeat(64)]);
        assert_eq!(wrong.status, 7, "{}", wrong.both());
        let applied = place.run(&["apply", &output, "--approve", &hash]);
        assert_eq!(applied.status, 0, "{}", applied.both());
        assert_eq!(applied.stdout, format!("{store} is marked as shop-dev (development)\n"));
        // The world has moved: the marker that was absent is there.
        let again = place.run(&["apply", &output, "--approve", &hash]);
        assert_eq!(again.status, 9, "{}", again.both());
    }

    let shown = json(&place.run(&["environment", "show", "--json"]));
    assert_eq!(
        (&shown["environment"]["name"], &shown["environment"]["class"]),
        (&"shop-dev".into(), &"development".into())
    );

    place.write("mainstay.toml", &file("shop-prod"));
    let contradiction = place.run(&["environment", "show"]);
    assert_eq!(contradiction.status, 7, "{}", contradiction.both());
    assert!(contradiction.stdout.contains("configuration says shop-prod"), "{}", contradiction.stdout);
    assert!(contradiction.stdout.contains("\nerror: "), "{}", contradiction.stdout);
    let rows: Vec<_> =
        contradiction.stdout.lines().filter(|line| line.starts_with("configuration ")).collect();
    assert!(matches!(rows[..], [row] if row.contains("shop-prod")), "{}", contradiction.stdout);
    let doctor = json(&place.run(&["doctor", "--json"]));
    let findings = doctor["findings"].as_array().unwrap();
    assert!(findings.iter().any(|finding| finding["id"] == "environment.contradiction"), "{findings:?}");

    let listed = json(&place.run(&["audit", "list", "--json"]));
    let operations: Vec<_> = listed["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["operation"].as_str().unwrap())
        .collect();
    assert!(
        operations.len() >= 8 && operations.iter().all(|name| *name == "environment.mark"),
        "{operations:?}"
    );
    let verified = place.run(&["audit", "verify"]);
    assert_eq!(verified.status, 0, "{}", verified.both());
    assert!(verified.stdout.starts_with("no findings\nhead: entry "), "{}", verified.stdout);
}

#[test]
fn a_changed_byte_in_the_audit_log_is_found() {
    let redis = Redis::options().start().unwrap();
    let place = Place::new()
        .variable("MAINSTAY_REDIS_URL", &redis.uri())
        .variable("MAINSTAY_REPOSITORY_URL", "file:./backups")
        .variable("MAINSTAY_ENVIRONMENT_NAME", "shop-dev")
        .variable("MAINSTAY_ENVIRONMENT_CLASS", "development");
    assert_eq!(place.run(&["environment", "mark"]).status, 7);
    assert_eq!(place.run(&["audit", "verify"]).status, 0);
    let entry = std::fs::read_dir(place.path("backups/audit")).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(&entry).unwrap().replace("shop-dev", "shop-deV");
    std::fs::remove_file(&entry).unwrap();
    std::fs::write(&entry, text).unwrap();
    let seen = place.run(&["audit", "verify"]);
    assert_eq!(seen.status, 4, "{}", seen.both());
    assert!(seen.stdout.contains("critical"), "{}", seen.stdout);
    assert_eq!(place.run(&["audit", "list"]).status, 4);
}
