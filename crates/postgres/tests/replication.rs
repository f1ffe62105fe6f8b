//! The replication protocol against a real PostgreSQL: base backups, WAL, slots, and what keeps them from working.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use mainstay_engine::{
    BackupEvent, BaseBackup, BaseBackupRequest, BaseBackupSource, CheckpointPace, FileChecksum, FollowWal,
    LinkChoice, WalEvent, WalSource, WalStream,
};
use mainstay_guard::testing_permit;
use mainstay_model::{
    BlastRadius, Effect, EnvironmentClass, ErrorKind, Lsn, PLAN_FORMAT, Plan, Secret, StoreKind, Target,
    Timestamp,
};
use mainstay_postgres::{PostgresCluster, PostgresConfig, TlsMode, TlsOptions};
use mainstay_testkit::proxy::{Direction, Scope, Truncate};
use mainstay_testkit::{FaultProxy, Postgres, shared_postgres};

const PATIENCE: Duration = Duration::from_secs(20);

fn config(uri: &str) -> PostgresConfig {
    PostgresConfig::new(Secret::new(uri))
}

fn cluster(uri: &str) -> PostgresCluster {
    PostgresCluster::new(&config(uri)).unwrap()
}

fn request() -> BaseBackupRequest {
    BaseBackupRequest {
        label: "a test's".to_owned(),
        checkpoint: CheckpointPace::Fast,
        rate_max: None,
        checksum: FileChecksum::Crc32c,
        check_pages: true,
        link: LinkChoice::default(),
    }
}

/// What came of a backup: bytes per archive by oid, and the manifest.
#[derive(Default)]
struct Copied {
    archives: Vec<(Option<u32>, u64)>,
    manifest: Option<Vec<u8>>,
}

async fn copy(backup: &mut dyn BaseBackup) -> mainstay_model::Result<Copied> {
    let mut copied = Copied::default();
    while let Some(event) = backup.next().await? {
        match event {
            BackupEvent::Archive(place) => copied.archives.push((place.map(|place| place.oid), 0)),
            BackupEvent::Manifest => copied.manifest = Some(Vec::new()),
            BackupEvent::Bytes(bytes) => match &mut copied.manifest {
                Some(manifest) => manifest.extend_from_slice(&bytes),
                None => copied.archives.last_mut().unwrap().1 += bytes.len() as u64,
            },
        }
    }
    Ok(copied)
}

#[tokio::test]
async fn a_base_backup_comes_whole_over_tls_with_a_password() {
    let server = Postgres::options().scram("s3cret:@ü").tls().start().unwrap();
    let place = server.make_folder("far");
    server.execute("postgres", &format!("CREATE TABLESPACE far LOCATION '{}'", place.display())).unwrap();
    server
        .execute("postgres", "CREATE TABLE t TABLESPACE far AS SELECT generate_series(1, 1000) AS i")
        .unwrap();
    let mut config = config(&server.uri());
    let ca_file = Some(server.certificates().unwrap().authority.clone());
    config.tls = TlsOptions { mode: Some(TlsMode::VerifyFull), ca_file };
    let cluster = PostgresCluster::new(&config).unwrap();

    let facts = cluster.server_facts().await.unwrap();
    assert!(facts.version.starts_with("18."), "{facts:?}");
    config.url = Secret::new(format!("{}?channel_binding=require", server.uri()));
    assert_eq!(PostgresCluster::new(&config).unwrap().server_facts().await.unwrap(), facts, "bound");
    config.tls.mode = Some(TlsMode::Disable);
    let error = PostgresCluster::new(&config).unwrap().server_facts().await.unwrap_err();
    assert!(error.to_string().contains("channel_binding=require"), "{error}");
    assert_eq!(facts.topology, "primary");

    let mut backup = cluster.begin(&request(), None).await.unwrap();
    let beginning = backup.beginning().clone();
    assert_eq!(beginning.server, facts);
    assert!(beginning.page_checksums && beginning.wal_segment_bytes == 16 << 20 && beginning.timeline == 1);
    let [far] = &beginning.tablespaces[..] else { panic!("{beginning:?}") };
    assert_eq!(far.location, place.to_str().unwrap());

    let copied = copy(backup.as_mut()).await.unwrap();
    let ending = backup.end().await.unwrap();
    assert!(ending.at > beginning.at && ending.timeline == 1, "{ending:?}");
    assert_eq!(copied.archives.iter().map(|(oid, _)| *oid).collect::<Vec<_>>(), [Some(far.oid), None]);
    let bytes: u64 = copied.archives.iter().map(|(_, bytes)| bytes).sum();
    assert!(bytes >= beginning.estimated_bytes, "{bytes} of {}", beginning.estimated_bytes);
    let manifest = String::from_utf8(copied.manifest.unwrap()).unwrap();
    assert!(manifest.contains(&format!("pg_tblspc/{}/", far.oid)) && manifest.contains("CRC32C"));
    assert_eq!(backup.next().await.unwrap(), None);
}

#[tokio::test]
async fn who_may_not_replicate_is_told_why() {
    let server = Postgres::options().scram("right").start().unwrap();
    server.execute("postgres", "CREATE ROLE \"plain role\" LOGIN PASSWORD 'right'").unwrap();

    let mut wrong = config(&server.uri());
    wrong.password = Some(Secret::new("hunter2"));
    let error = PostgresCluster::new(&wrong).unwrap().server_facts().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Auth);
    assert!(error.to_string().contains("refused the password of user postgres"), "{error}");
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");

    let mut plain = config(&server.uri());
    plain.user = Some("plain role".to_owned());
    let error = PostgresCluster::new(&plain).unwrap().begin(&request(), None).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Auth);
    assert!(error.to_string().contains("may not replicate"), "{error}");
    assert_eq!(error.hint(), Some("as a superuser: `ALTER ROLE \"plain role\" REPLICATION`"));

    server.execute("postgres", "ALTER ROLE \"plain role\" REPLICATION").unwrap();
    let backup = PostgresCluster::new(&plain).unwrap().begin(&request(), None).await.unwrap();
    drop(backup);
    let data = server.dir().join("data");
    std::fs::write(data.join("pg_hba.conf"), "host all all 127.0.0.1/32 scram-sha-256\n").unwrap();
    server.execute("postgres", "SELECT pg_reload_conf()").unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    let error = loop {
        match PostgresCluster::new(&plain).unwrap().server_facts().await {
            Err(error) => break error,
            Ok(_) => assert!(std::time::Instant::now() < deadline, "the server does not read its file again"),
        }
    };
    assert_eq!(error.kind(), ErrorKind::Auth);
    assert!(error.hint().unwrap().contains("host replication plain role"), "{error:?}");
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_asked_for() {
    let mut config = config(&shared_postgres().uri());
    config.tls.mode = Some(TlsMode::Require);
    let error = PostgresCluster::new(&config).unwrap().server_facts().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.to_string().contains("offers no TLS"), "{error}");
}

#[tokio::test]
async fn a_broken_connection_ends_a_backup_with_an_error() {
    let server = shared_postgres();
    let proxy = FaultProxy::start(server.address());
    let through = cluster(&server.uri_through(proxy.address(), "postgres"));
    for bytes in [1, 300, 5_000, 400_000, 4_000_000] {
        proxy.truncate(Truncate { direction: Direction::FromServer, bytes, scope: Scope::EveryConnection });
        let outcome = match through.begin(&request(), None).await {
            Ok(mut backup) => copy(backup.as_mut()).await.map(drop),
            Err(error) => Err(error),
        };
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Unreachable, "after {bytes} bytes");
    }
    proxy.heal();
    let mut backup = through.begin(&request(), None).await.unwrap();
    assert_eq!(backup.next().await.unwrap(), Some(BackupEvent::Archive(None)));
    proxy.cut();
    let error = loop {
        match backup.next().await {
            Ok(event) => assert!(matches!(event, Some(BackupEvent::Bytes(_))), "{event:?}"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(backup.end().await.is_err());
}

fn capture_plan(fingerprint: &str) -> Plan {
    let created_at = Timestamp::from_second(1_800_000_000).unwrap();
    Plan {
        format: PLAN_FORMAT,
        operation: "capture.postgres".to_owned(),
        effect: Effect::Additive,
        target: Target {
            environment: "tests".to_owned(),
            class: EnvironmentClass::Development,
            store: StoreKind::Postgres,
            fingerprint: fingerprint.to_owned(),
            address: String::new(),
        },
        assumptions: Vec::new(),
        steps: Vec::new(),
        blast_radius: BlastRadius { phrase: String::new(), items: 0, bytes: 0 },
        parameters: serde_json::Value::Null,
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: String::new(),
    }
}

/// Follows until everything before `end` has come; gives the bytes.
async fn follow_to(stream: &mut dyn WalStream, from: Lsn, end: Lsn) -> Vec<u8> {
    let mut bytes = Vec::new();
    while from.0 + (bytes.len() as u64) < end.0 {
        match stream.next(PATIENCE).await.unwrap() {
            WalEvent::Bytes { at, bytes: piece, server_end } => {
                assert_eq!(at.0, from.0 + bytes.len() as u64);
                assert!(server_end.0 >= at.0);
                bytes.extend_from_slice(&piece);
            }
            WalEvent::Quiet { server_end } => assert!(server_end.is_some(), "nothing came"),
            end => panic!("{end:?}"),
        }
    }
    bytes
}

#[tokio::test]
async fn wal_is_followed_through_a_slot_and_over_the_end_of_a_timeline() {
    let mut server = Postgres::start().unwrap();
    let cluster = cluster(&server.uri());
    assert_eq!(cluster.wal_slot("mainstay").await.unwrap(), None);
    cluster.create_wal_slot("mainstay").await.unwrap();
    assert_eq!(cluster.create_wal_slot("mainstay").await.unwrap_err().kind(), ErrorKind::Conflict);
    let slot = cluster.wal_slot("mainstay").await.unwrap().unwrap();
    let segment = cluster.wal_position().await.unwrap().segment_bytes;
    let from = Lsn(slot.kept_from.unwrap().0 / segment * segment);

    server
        .execute(
            "postgres",
            "CREATE TABLE t AS SELECT repeat('mark of a test', 10) FROM generate_series(1, 9)",
        )
        .unwrap();
    server.execute("postgres", "CHECKPOINT").unwrap();
    let position = cluster.wal_position().await.unwrap();
    let follow = FollowWal { slot: Some("mainstay".to_owned()), from, timeline: position.timeline };
    let mut stream = cluster.follow_wal(&follow).await.unwrap();
    let bytes = follow_to(stream.as_mut(), from, position.flushed).await;
    let found = bytes.windows(14).filter(|window| *window == b"mark of a test").count();
    assert!(found >= 9, "the log holds the rows {found} times");
    assert_eq!(stream.acknowledge(Lsn(u64::MAX)).await.unwrap_err().kind(), ErrorKind::Internal);
    stream.acknowledge(position.flushed).await.unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    while cluster.wal_slot("mainstay").await.unwrap().unwrap().kept_from != Some(position.flushed) {
        assert!(std::time::Instant::now() < deadline, "the slot does not move");
    }
    drop(stream);

    // A server that wakes up as a standby and is promoted goes on under another timeline.
    server.stop();
    std::fs::write(server.dir().join("data/standby.signal"), "").unwrap();
    server.restart().unwrap();
    server.execute("postgres", "SELECT pg_promote()").unwrap();
    let mut stream = cluster.follow_wal(&FollowWal { from: position.flushed, ..follow }).await.unwrap();
    let (next, at) = loop {
        match stream.next(PATIENCE).await.unwrap() {
            WalEvent::TimelineEnd { next, at } => break (next, at),
            WalEvent::Quiet { server_end: None } => panic!("the timeline does not end"),
            _ => {}
        }
    };
    assert!(next == 2 && at > position.flushed, "timeline {next} from {at}");
    assert_eq!(stream.next(PATIENCE).await.unwrap_err().kind(), ErrorKind::Internal);
    let history = cluster.timeline_history(2).await.unwrap();
    assert_eq!(history.file, "00000002.history");
    assert!(String::from_utf8_lossy(&history.content).contains(&at.to_string()), "{history:?}");
    drop(stream);

    let fingerprint = cluster.wal_position().await.unwrap().fingerprint;
    let foreign = testing_permit(&capture_plan("another"));
    assert_eq!(cluster.drop_wal_slot("mainstay", &foreign).await.unwrap_err().kind(), ErrorKind::Refused);
    let deadline = std::time::Instant::now() + PATIENCE;
    // The sender of the dropped stream holds the slot until it notices.
    while let Err(error) =
        cluster.drop_wal_slot("mainstay", &testing_permit(&capture_plan(&fingerprint))).await
    {
        assert!(std::time::Instant::now() < deadline, "{error}");
    }
    assert_eq!(cluster.wal_slot("mainstay").await.unwrap(), None);

    let gone = FollowWal { slot: None, from: Lsn(0), timeline: 1 };
    let mut stream = cluster.follow_wal(&gone).await.unwrap();
    let error = stream.next(PATIENCE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
    assert!(error.to_string().contains("no longer has that WAL"), "{error}");
}
