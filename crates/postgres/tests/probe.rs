//! The probe against a real PostgreSQL: facts, marker, failures by layer, misconfigurations.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::TcpListener;
use std::time::Duration;

use mainstay_engine::Probe;
use mainstay_guard::{Marker, Permit, testing_permit};
use mainstay_model::{
    BlastRadius, Effect, EnvironmentClass, Error, ErrorKind, PLAN_FORMAT, Plan, Secret, Severity, StoreKind,
    Target, Timestamp,
};
use mainstay_postgres::{PostgresConfig, PostgresProbe, TlsMode, TlsOptions};
use mainstay_testkit::servers::free_port;
use mainstay_testkit::{Postgres, shared_postgres};
use serde_json::json;

fn config(url: &str) -> PostgresConfig {
    PostgresConfig::new(Secret::new(url))
}

fn probe(url: &str) -> PostgresProbe {
    PostgresProbe::new(&config(url)).unwrap()
}

/// The error of asking for facts; its every text is searched for the word all test passwords hold.
async fn failure(config: &PostgresConfig) -> Error {
    let probe = PostgresProbe::new(config).unwrap();
    let error = probe.facts().await.unwrap_err();
    let texts = format!("{error:?} {error} {:?} {probe:?} {config:?}", error.causes());
    assert!(!texts.contains("hunter2"), "{texts}");
    error
}

fn marking_permit(store: StoreKind, fingerprint: &str) -> Permit {
    let now = Timestamp::now();
    testing_permit(&Plan {
        format: PLAN_FORMAT,
        operation: "environment.mark".to_owned(),
        effect: Effect::Disruptive,
        target: Target {
            environment: "shop-dev".to_owned(),
            class: EnvironmentClass::Development,
            store,
            fingerprint: fingerprint.to_owned(),
            address: "127.0.0.1".to_owned(),
        },
        assumptions: vec![],
        steps: vec![],
        blast_radius: BlastRadius { phrase: "mark".to_owned(), items: 0, bytes: 0 },
        parameters: json!({}),
        created_at: now,
        expires_at: now + Plan::LIFETIME,
        tool_version: "0.1.0".to_owned(),
    })
}

fn marker(class: EnvironmentClass) -> Marker {
    Marker {
        environment: "shop-'dé\"v".to_owned(), class, marked_at: Timestamp::now(), id: "m-1".to_owned()
    }
}

#[tokio::test]
async fn facts_are_the_servers_own() {
    let server = shared_postgres();
    let database = server.create_database();
    let probe = probe(&server.uri_of(&database));
    assert_eq!(
        (probe.kind(), probe.address()),
        (StoreKind::Postgres, format!("127.0.0.1:{}", server.port()))
    );
    let facts = probe.facts().await.unwrap();
    assert!(facts.version.starts_with("18."), "{facts:?}");
    assert_eq!((facts.role.as_str(), facts.address), ("primary", probe.address()));
    assert!(facts.size.unwrap().bytes() > 1_000_000);
    assert!(facts.connections >= 1 && facts.connections_max == Some(100));
    assert!(facts.fingerprint.parse::<u64>().unwrap() > 0);

    // A role without any privilege sees the same server.
    server.execute(&database, "CREATE ROLE reader LOGIN").unwrap();
    let as_reader = PostgresConfig { user: Some("reader".to_owned()), ..config(&server.uri_of(&database)) };
    let seen = PostgresProbe::new(&as_reader).unwrap().facts().await.unwrap();
    assert_eq!(seen.fingerprint, facts.fingerprint);
    assert_eq!(seen.connections_max, Some(100));
}

#[tokio::test]
async fn the_fingerprint_outlives_a_restart() {
    let mut server = Postgres::start().unwrap();
    let probe = probe(&server.uri());
    let before = probe.facts().await.unwrap().fingerprint;
    server.restart().unwrap();
    assert_eq!(probe.facts().await.unwrap().fingerprint, before);
}

#[tokio::test]
async fn the_marker_is_kept_and_every_role_may_read_it() {
    let server = shared_postgres();
    let database = server.create_database();
    let probe = probe(&server.uri_of(&database));
    assert_eq!(probe.marker().await.unwrap(), None);
    let permit = marking_permit(StoreKind::Postgres, &probe.facts().await.unwrap().fingerprint);
    for class in [EnvironmentClass::Development, EnvironmentClass::Production] {
        let marker = marker(class);
        probe.set_marker(&marker, &permit).await.unwrap();
        assert_eq!(probe.marker().await.unwrap(), Some(marker));
    }
    server.execute(&database, "CREATE ROLE app_role LOGIN").unwrap();
    let as_app = PostgresConfig { user: Some("app_role".to_owned()), ..config(&server.uri_of(&database)) };
    let as_app = PostgresProbe::new(&as_app).unwrap();
    assert!(as_app.marker().await.unwrap().is_some());
    assert_eq!(
        as_app.set_marker(&marker(EnvironmentClass::Staging), &permit).await.unwrap_err().kind(),
        ErrorKind::Auth
    );

    server.execute(&database, "UPDATE mainstay.identity SET class = 'odd'").unwrap();
    let error = probe.marker().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("its class is `odd`"), "{error}");
    server.execute(&database, "DELETE FROM mainstay.identity").unwrap();
    assert_eq!(probe.marker().await.unwrap(), None);
}

#[tokio::test]
async fn a_permit_for_another_server_marks_nothing() {
    let server = shared_postgres();
    let probe = probe(&server.uri_of(&server.create_database()));
    let fingerprint = probe.facts().await.unwrap().fingerprint;
    for permit in [marking_permit(StoreKind::Postgres, "1"), marking_permit(StoreKind::Mongo, &fingerprint)] {
        let error = probe.set_marker(&marker(EnvironmentClass::Staging), &permit).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
    }
    assert_eq!(probe.marker().await.unwrap(), None);
}

#[tokio::test]
async fn a_standby_says_so_and_refuses_the_marker() {
    let mut server = Postgres::start().unwrap();
    server.stop();
    std::fs::write(server.dir().join("data/standby.signal"), "").unwrap();
    server.restart().unwrap();
    let probe = probe(&server.uri());
    let facts = probe.facts().await.unwrap();
    assert_eq!(facts.role, "standby");
    let permit = marking_permit(StoreKind::Postgres, &facts.fingerprint);
    let error = probe.set_marker(&marker(EnvironmentClass::Staging), &permit).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error:?}");
}

#[tokio::test]
async fn failures_are_told_by_layer_and_without_the_password() {
    let server = Postgres::options().scram("right/hunter2@").start().unwrap();
    assert!(probe(&server.uri()).facts().await.is_ok());
    let port = server.port();

    let wrong =
        failure(&config(&format!("postgres://postgres:wrong-hunter2@127.0.0.1:{port}/postgres"))).await;
    assert_eq!(wrong.kind(), ErrorKind::Auth);
    assert!(wrong.to_string().contains("refused the password of user postgres"), "{wrong}");
    let missing = failure(&config(&format!("postgres://postgres@127.0.0.1:{port}/postgres"))).await;
    assert_eq!(missing.kind(), ErrorKind::Auth);
    assert!(missing.to_string().contains("none is configured"), "{missing}");
    let no_database = failure(&config(&server.uri_of("nowhere"))).await;
    assert_eq!(no_database.kind(), ErrorKind::NotFound);
    assert!(no_database.to_string().contains("database nowhere does not exist"), "{no_database}");

    let refused = failure(&config(&format!("postgres://u:hunter2@127.0.0.1:{}/d", free_port()))).await;
    assert_eq!(refused.kind(), ErrorKind::Unreachable);
    assert!(refused.to_string().contains("refused the connection"), "{refused}");
    let nameless = failure(&config("postgres://u:hunter2@no-such-host.invalid/d")).await;
    assert_eq!(nameless.kind(), ErrorKind::Unreachable);
    assert!(nameless.to_string().contains("no-such-host.invalid cannot be resolved"), "{nameless}");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://u:hunter2@{}/d", silent.local_addr().unwrap());
    let late = failure(&PostgresConfig { connect_timeout: Duration::from_millis(300), ..config(&url) }).await;
    assert_eq!(late.kind(), ErrorKind::Unreachable);
    assert!(late.to_string().contains("did not answer in time"), "{late}");

    server.execute("postgres", "CREATE ROLE crowd LOGIN PASSWORD 'hunter2' CONNECTION LIMIT 0").unwrap();
    let crowded = failure(&config(&format!("postgres://crowd:hunter2@127.0.0.1:{port}/postgres"))).await;
    assert_eq!(crowded.kind(), ErrorKind::Unreachable);
    assert!(crowded.to_string().contains("no connection left"), "{crowded}");
}

#[tokio::test]
async fn tls_is_as_the_mode_says() {
    let server = Postgres::options().scram("hunter2").tls().start().unwrap();
    let authority = server.certificates().unwrap().authority.clone();
    let with = |mode, ca_file| PostgresConfig {
        tls: TlsOptions { mode: Some(mode), ca_file },
        ..config(&server.uri())
    };
    for accepted in [
        with(TlsMode::Disable, None),
        with(TlsMode::Prefer, None),
        with(TlsMode::Require, None),
        with(TlsMode::Require, Some(authority.clone())),
        with(TlsMode::VerifyFull, Some(authority.clone())),
    ] {
        assert!(PostgresProbe::new(&accepted).unwrap().facts().await.is_ok(), "{accepted:?}");
    }
    let unknown_authority = failure(&with(TlsMode::VerifyFull, None)).await;
    assert_eq!(unknown_authority.kind(), ErrorKind::Unreachable);
    assert!(
        unknown_authority.to_string().contains("TLS with") && !unknown_authority.is_temporary(),
        "{unknown_authority}"
    );
    let no_file = failure(&with(TlsMode::VerifyFull, Some("/nowhere/ca.pem".into()))).await;
    assert_eq!(no_file.kind(), ErrorKind::Config);

    let plain = shared_postgres();
    let require = TlsOptions { mode: Some(TlsMode::Require), ca_file: None };
    let not_offered = failure(&PostgresConfig { tls: require, ..config(&plain.uri()) }).await;
    assert!(not_offered.to_string().contains("TLS with"), "{not_offered}");
}

#[tokio::test]
async fn a_misconfigured_server_is_found_out() {
    let server = Postgres::options()
        .parameter("full_page_writes", "off")
        .parameter("wal_level", "minimal")
        .parameter("max_wal_senders", "0")
        .start()
        .unwrap();
    let hba = server.dir().join("data/pg_hba.conf");
    let rules = std::fs::read_to_string(&hba).unwrap();
    std::fs::write(&hba, format!("{rules}host all all 10.0.0.0/8 trust\n")).unwrap();
    let build = "CREATE TABLE twice AS SELECT 1 AS i FROM generate_series(1, 2)";
    server.execute("postgres", build).unwrap();
    server.execute("postgres", "CREATE UNIQUE INDEX CONCURRENTLY failed ON twice (i)").unwrap_err();
    let findings = probe(&server.uri()).examine().await.unwrap();
    let found: Vec<_> = findings.iter().map(|finding| (finding.id.as_str(), finding.severity)).collect();
    for expected in [
        ("postgres.fsync_off", Severity::Critical),
        ("postgres.full_page_writes_off", Severity::Critical),
        ("postgres.wal_level_minimal", Severity::Warning),
        ("postgres.wal_senders_none", Severity::Warning),
        ("postgres.invalid_indexes", Severity::Warning),
        ("postgres.trust_on_network", Severity::Note),
        ("postgres.superuser_role", Severity::Note),
    ] {
        assert!(found.contains(&expected), "{expected:?} is not in {found:?}");
    }
    for finding in &findings {
        assert_eq!(finding.subject, format!("127.0.0.1:{}", server.port()));
        assert!(!finding.remedy.is_empty());
    }
    let invalid = findings.iter().find(|finding| finding.id == "postgres.invalid_indexes").unwrap();
    assert!(invalid.message.ends_with(": failed"), "{invalid:?}");
    let folder = probe(&server.uri()).data_directory().await.unwrap();
    assert_eq!(folder.as_deref(), server.dir().join("data").to_str());
}

#[tokio::test]
async fn what_a_role_may_not_see_becomes_one_note() {
    let server = shared_postgres();
    let database = server.create_database();
    server.execute(&database, "CREATE ROLE onlooker LOGIN").unwrap();
    let as_onlooker =
        PostgresConfig { user: Some("onlooker".to_owned()), ..config(&server.uri_of(&database)) };
    let findings = PostgresProbe::new(&as_onlooker).unwrap().examine().await.unwrap();
    let note = findings.iter().find(|finding| finding.id == "postgres.not_examined").unwrap();
    assert_eq!(note.severity, Severity::Note);
    assert!(
        note.message.contains("data_directory") && note.message.contains("pg_hba.conf"),
        "{}",
        note.message
    );
    assert!(!findings.iter().any(|finding| finding.id == "postgres.superuser_role"));
}
