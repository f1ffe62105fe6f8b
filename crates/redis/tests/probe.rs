//! The probe against a real Redis: facts, marker, failures by layer, misconfigurations.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::TcpListener;
use std::time::Duration;

use mainstay_engine::Probe;
use mainstay_guard::{Marker, Permit, testing_permit};
use mainstay_model::{
    BlastRadius, Effect, EnvironmentClass, Error, ErrorKind, Finding, PLAN_FORMAT, Plan, Secret, Severity,
    StoreKind, Target, Timestamp,
};
use mainstay_redis::{RedisConfig, RedisProbe, TlsMode, TlsOptions};
use mainstay_testkit::Redis;
use mainstay_testkit::servers::free_port;
use redis::aio::MultiplexedConnection;
use redis::cmd;
use serde_json::json;

fn config(url: &str) -> RedisConfig {
    RedisConfig::new(Secret::new(url))
}

fn probe(url: &str) -> RedisProbe {
    RedisProbe::new(&config(url)).unwrap()
}

async fn connection(server: &Redis) -> MultiplexedConnection {
    redis::Client::open(server.uri()).unwrap().get_multiplexed_async_connection().await.unwrap()
}

/// Gives commands to a server, one per line, words separated by spaces; `''` is the empty text.
async fn give(server: &Redis, commands: &str) {
    let mut connection = connection(server).await;
    for line in commands.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut words = line.split(' ').map(|word| if word == "''" { "" } else { word });
        let mut command = cmd(words.next().unwrap());
        let answer: redis::RedisResult<redis::Value> =
            command.arg(words.collect::<Vec<_>>()).query_async(&mut connection).await;
        answer.unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

/// A field of `INFO`.
async fn info(server: &Redis, name: &str) -> String {
    let text: String = cmd("INFO").query_async(&mut connection(server).await).await.unwrap();
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap().to_owned()
}

/// The error of asking for facts; its every text is searched for the word all test passwords hold.
async fn failure(config: &RedisConfig) -> Error {
    let probe = RedisProbe::new(config).unwrap();
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

fn ids(findings: &[Finding]) -> Vec<(&str, Severity)> {
    findings.iter().map(|finding| (finding.id.as_str(), finding.severity)).collect()
}

#[tokio::test]
async fn facts_are_the_servers_own() {
    let server = Redis::start().unwrap();
    let probe = probe(&server.uri());
    assert_eq!((probe.kind(), probe.address()), (StoreKind::Redis, format!("127.0.0.1:{}", server.port())));
    let facts = probe.facts().await.unwrap();
    assert!(facts.version.starts_with("8."), "{facts:?}");
    assert_eq!((facts.role.as_str(), facts.address), ("master", probe.address()));
    assert!(facts.size.unwrap().bytes() > 100_000);
    assert!(facts.connections >= 1 && facts.connections_max.unwrap() > 100);
    assert_eq!(facts.fingerprint.len(), 40);
}

#[tokio::test]
async fn once_marked_the_fingerprint_outlives_restarts_and_marking_again() {
    let mut server = Redis::options().append_only().start().unwrap();
    let probe = probe(&server.uri());
    let unmarked = probe.facts().await.unwrap().fingerprint;
    server.restart().unwrap();
    let first = probe.facts().await.unwrap().fingerprint;
    assert_ne!(first, unmarked, "nothing keeps the identity of a server that was never marked");
    for class in [EnvironmentClass::Development, EnvironmentClass::Staging] {
        probe.set_marker(&marker(class), &marking_permit(StoreKind::Redis, &first)).await.unwrap();
        server.restart().unwrap();
        assert_eq!(probe.facts().await.unwrap().fingerprint, first);
        assert_eq!(probe.marker().await.unwrap().unwrap().class, class);
    }
    give(&server, "FLUSHALL").await;
    assert_ne!(probe.facts().await.unwrap().fingerprint, first);
}

#[tokio::test]
async fn a_replica_says_so_and_refuses_the_marker() {
    let master = Redis::start().unwrap();
    let replica = Redis::start().unwrap();
    give(&replica, &format!("REPLICAOF 127.0.0.1 {}", master.port())).await;
    let probe = probe(&replica.uri());
    let facts = probe.facts().await.unwrap();
    assert_eq!(facts.role, "replica");
    let permit = marking_permit(StoreKind::Redis, &facts.fingerprint);
    let error = probe.set_marker(&marker(EnvironmentClass::Staging), &permit).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error:?}");
}

#[tokio::test]
async fn the_marker_is_kept_in_its_database() {
    let server = Redis::start().unwrap();
    let third = format!("redis://127.0.0.1:{}/3", server.port());
    let probe = probe(&third);
    assert_eq!(probe.marker().await.unwrap(), None);
    let permit = marking_permit(StoreKind::Redis, &probe.facts().await.unwrap().fingerprint);
    for class in [EnvironmentClass::Development, EnvironmentClass::Production] {
        let marker = marker(class);
        probe.set_marker(&marker, &permit).await.unwrap();
        assert_eq!(probe.marker().await.unwrap(), Some(marker));
    }
    assert_eq!(self::probe(&server.uri()).marker().await.unwrap(), None);

    for permit in [
        marking_permit(StoreKind::Redis, "another"),
        marking_permit(StoreKind::Mongo, &probe.facts().await.unwrap().fingerprint),
    ] {
        let error = probe.set_marker(&marker(EnvironmentClass::Staging), &permit).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
    }
    for (damage, text) in [
        ("HSET mainstay:identity:environment class odd", "its class is `odd`"),
        ("HDEL mainstay:identity:environment class", "it has no class"),
        ("SET mainstay:identity:environment x", "it is a string"),
    ] {
        give(&server, &format!("SELECT 3\n{damage}")).await;
        let error = probe.marker().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(text), "{error}");
    }
    give(&server, "SELECT 3\nDEL mainstay:identity:environment").await;
    assert_eq!(probe.marker().await.unwrap(), None);
}

#[tokio::test]
async fn failures_are_told_by_layer_and_without_the_password() {
    let server = Redis::options().password("right/hunter2@").start().unwrap();
    let address = server.address();
    assert!(probe(&server.uri()).facts().await.is_ok());
    give(&server, "ACL SETUSER weak on >hunter2 +select +client").await;

    for (url, kind, text) in [
        (
            format!("redis://:wrong-hunter2@{address}"),
            ErrorKind::Auth,
            "refused the password of user default",
        ),
        (format!("redis://ann:hunter2@{address}"), ErrorKind::Auth, "refused the password of user ann"),
        (format!("redis://{address}"), ErrorKind::Auth, "none is configured"),
        (format!("redis://weak:hunter2@{address}"), ErrorKind::Auth, "user weak lacks a permission"),
        (
            format!("redis://:right%2Fhunter2%40@{address}/99"),
            ErrorKind::NotFound,
            "database 99 does not exist",
        ),
        (
            format!("redis://:hunter2@127.0.0.1:{}", free_port()),
            ErrorKind::Unreachable,
            "refused the connection",
        ),
        (
            "redis://:hunter2@no-such-host.invalid".to_owned(),
            ErrorKind::Unreachable,
            "no-such-host.invalid cannot be resolved",
        ),
    ] {
        let error = failure(&config(&url)).await;
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(error.to_string().contains(text), "{error}");
        assert!(error.hint().is_some(), "{error}");
    }
    let open = Redis::start().unwrap();
    let error = failure(&config(&format!("redis://:hunter2@{}", open.address()))).await;
    assert!(error.kind() == ErrorKind::Auth && error.to_string().contains("asks for no password"), "{error}");

    // Connecting succeeds and then nothing comes: over TLS the handshake is what waits.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("rediss://:hunter2@{}", silent.local_addr().unwrap());
    let late = failure(&RedisConfig { connect_timeout: Duration::from_millis(300), ..config(&url) }).await;
    assert_eq!(late.kind(), ErrorKind::Unreachable);
    assert!(late.to_string().contains("did not answer in time"), "{late}");
}

#[tokio::test]
async fn a_server_that_is_full_or_in_trouble_says_so() {
    let full = Redis::options().setting("maxclients", "2").start().unwrap();
    let held = [connection(&full).await, connection(&full).await];
    for _ in 0..10 {
        let error = failure(&config(&full.uri())).await;
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        assert!(error.to_string().contains("no connection left"), "{error}");
    }
    drop(held);

    let server = Redis::options().setting("save", "3600 1").start().unwrap();
    give(&server, "SET a 1").await;
    let probe = probe(&server.uri());
    let permit = marking_permit(StoreKind::Redis, &probe.facts().await.unwrap().fingerprint);
    // A folder of that name is in the way of the snapshot.
    std::fs::create_dir(server.dir().join("data/dump.rdb")).unwrap();
    std::fs::write(server.dir().join("data/dump.rdb/file"), "").unwrap();
    give(&server, "BGSAVE").await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while info(&server, "rdb_last_bgsave_status").await != "err" {
        assert!(tokio::time::Instant::now() < deadline, "the snapshot does not fail");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let error = probe.set_marker(&marker(EnvironmentClass::Staging), &permit).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
    assert!(error.to_string().contains("cannot save its data"), "{error}");
}

#[tokio::test]
async fn tls_is_checked() {
    let server = Redis::options().password("hunter2").tls().start().unwrap();
    let port = server.tls_port().unwrap();
    let authority = server.certificates().unwrap().authority.clone();
    let trusting = TlsOptions { mode: None, ca_file: Some(authority.clone()) };
    let url = format!("rediss://:hunter2@127.0.0.1:{port}");
    let good = RedisConfig { tls: trusting.clone(), ..config(&url) };
    assert!(RedisProbe::new(&good).unwrap().facts().await.is_ok());
    let by_mode = RedisConfig {
        tls: TlsOptions { mode: Some(TlsMode::VerifyFull), ..trusting.clone() },
        ..config(&format!("redis://:hunter2@127.0.0.1:{port}"))
    };
    assert!(RedisProbe::new(&by_mode).unwrap().facts().await.is_ok());

    let other = Redis::options().tls().start().unwrap();
    let foreign = other.certificates().unwrap().authority.clone();
    let distrusted =
        failure(&RedisConfig { tls: TlsOptions { mode: None, ca_file: Some(foreign) }, ..config(&url) })
            .await;
    assert_eq!(distrusted.kind(), ErrorKind::Unreachable);
    assert!(distrusted.to_string().contains("TLS with") && !distrusted.is_temporary(), "{distrusted}");
    let to_plain_port = RedisConfig {
        connect_timeout: Duration::from_millis(300),
        tls: trusting,
        ..config(&format!("rediss://:hunter2@{}", server.address()))
    };
    assert_eq!(failure(&to_plain_port).await.kind(), ErrorKind::Unreachable);
    let no_file = TlsOptions { mode: None, ca_file: Some("/nowhere/ca.pem".into()) };
    assert_eq!(
        RedisProbe::new(&RedisConfig { tls: no_file, ..config(&url) }).unwrap_err().kind(),
        ErrorKind::Config
    );
}

#[tokio::test]
async fn a_misconfigured_server_is_found_out() {
    let server = Redis::options()
        .setting("maxmemory", "100mb")
        .setting("maxmemory-policy", "allkeys-lru")
        .start()
        .unwrap();
    let findings = probe(&server.uri()).examine().await.unwrap();
    assert_eq!(
        ids(&findings),
        [("redis.evicts_keys", Severity::Note), ("redis.config_not_kept", Severity::Note)]
    );
    assert!(findings.iter().all(|finding| finding.subject == format!("127.0.0.1:{}", server.port())));

    let kept = Redis::options().append_only().start().unwrap();
    let findings = probe(&kept.uri()).examine().await.unwrap();
    assert_eq!(
        ids(&findings),
        [("redis.maxmemory_unlimited", Severity::Note), ("redis.config_not_kept", Severity::Note)]
    );
}

#[tokio::test]
async fn whether_the_default_user_is_open_is_read_from_its_flags_alone() {
    let server = Redis::options().password("hunter2").setting("protected-mode", "no").start().unwrap();
    give(&server, "ACL SETUSER onlooker on >hunter2 +info +select").await;
    let findings = probe(&server.uri()).examine().await.unwrap();
    assert!(!format!("{findings:?}").contains("hunter2"));
    assert!(!ids(&findings).iter().any(|(id, _)| id.contains("network")), "{findings:?}");

    let as_onlooker = format!("redis://onlooker:hunter2@{}", server.address());
    let findings = probe(&as_onlooker).examine().await.unwrap();
    let note = findings.iter().find(|finding| finding.id == "redis.not_examined").unwrap();
    assert!(note.message.contains("CONFIG GET and ACL GETUSER"), "{}", note.message);
}
