//! The servers themselves: they start, answer, keep their data over a restart, and are gone afterwards.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bson::doc;
use mainstay_testkit::servers::{ServerStatus, db_hash};
use mainstay_testkit::{
    Mongod, Postgres, Redis, shared_mongod, shared_postgres, shared_redis, unique_database,
};

/// Whether a process runs, zombies not counted.
fn runs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

fn await_condition(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} within 20 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn redis_command(port: u16, command: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test]
async fn mongod_is_a_replica_set_that_keeps_its_data_over_a_kill() {
    let mut mongod = Mongod::start().unwrap();
    let pid = mongod.pid().unwrap();
    let folder = mongod.dir().to_path_buf();
    let database = unique_database();
    let client = mongod.oracle().await;
    let hello = client.database("admin").run_command(doc! { "hello": 1 }).await.unwrap();
    assert_eq!(hello.get_str("setName").unwrap(), "rs0");
    client.database(&database).collection("a").insert_one(doc! { "_id": 1, "n": "é" }).await.unwrap();
    let before = db_hash(&client, &database).await.unwrap();
    assert_eq!(before.keys().collect::<Vec<_>>(), ["a"]);

    mongod.kill9();
    assert_eq!(mongod.status(), ServerStatus::Stopped);
    assert!(!runs(pid));
    mongod.restart().unwrap();
    assert_eq!(mongod.db_hash(&database).await.unwrap(), before);
    mongod.stop();
    mongod.restart().unwrap();
    assert_eq!(mongod.db_hash(&database).await.unwrap(), before);

    let pid = mongod.pid().unwrap();
    drop(mongod);
    assert!(!runs(pid));
    assert!(!folder.exists());
}

#[tokio::test]
async fn a_standalone_mongod_has_no_set() {
    let mongod = Mongod::options().standalone().start().unwrap();
    let client = mongod.oracle().await;
    let hello = client.database("admin").run_command(doc! { "hello": 1 }).await.unwrap();
    assert!(hello.get("setName").is_none());
    assert_eq!(mongod.replica_set(), None);
}

#[tokio::test]
async fn mongod_with_authentication_and_tls_admits_its_user_only() {
    let mut mongod = Mongod::options().auth("root", "p@ss/word").tls().start().unwrap();
    mongod.restart().unwrap();
    let list = async |uri: String| {
        let client = mongodb::Client::with_uri_str(uri).await.unwrap();
        client.list_database_names().await.map(drop)
    };
    list(mongod.uri()).await.unwrap();
    let authority = mongod.certificates().unwrap().authority.display().to_string();
    list(format!("{}&tls=true&tlsCAFile={authority}", mongod.uri())).await.unwrap();
    let anonymous = format!("mongodb://{}/?directConnection=true", mongod.address());
    let refused = list(anonymous).await.unwrap_err();
    assert!(refused.to_string().contains("authentication"), "{refused}");
}

#[tokio::test]
async fn a_mongod_that_does_not_start_shows_its_log() {
    let error = Mongod::options().parameter("noSuchParameter", "1").start().unwrap_err();
    assert!(error.to_string().contains("noSuchParameter"), "{error}");
}

#[test]
fn postgres_keeps_its_data_over_a_kill() {
    let mut postgres = Postgres::start().unwrap();
    let pid = postgres.pid().unwrap();
    let folder = postgres.dir().to_path_buf();
    let database = postgres.create_database();
    postgres.execute(&database, "CREATE TABLE a (n int); INSERT INTO a VALUES (1); CHECKPOINT").unwrap();
    postgres.kill9();
    assert!(!runs(pid));
    postgres.restart().unwrap();
    postgres.execute(&database, "DO $$ BEGIN ASSERT (SELECT n FROM a) = 1; END $$").unwrap();
    let pid = postgres.pid().unwrap();
    drop(postgres);
    assert!(!runs(pid));
    assert!(!folder.exists());
}

#[test]
fn postgres_with_a_password_refuses_another() {
    let postgres =
        Postgres::options().scram("it's secret").parameter("wal_level", "logical").tls().start().unwrap();
    postgres
        .execute("postgres", "DO $$ BEGIN ASSERT current_setting('wal_level') = 'logical'; ASSERT current_setting('ssl') = 'on'; END $$")
        .unwrap();
    let wrong = postgres.uri().replace("secret", "wrong");
    let engine = mainstay_testkit::engines::locate(mainstay_testkit::engines::EngineKind::PgClient).unwrap();
    let psql =
        |uri: &str| Command::new(engine.tool("psql")).args([uri, "-Atc", "SELECT 1"]).output().unwrap();
    assert_eq!(psql(&postgres.uri()).stdout, b"1\n");
    let refused = psql(&wrong);
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("password authentication failed"),
        "{refused:?}"
    );
    assert!(psql(&format!("{}?sslmode=require", postgres.uri())).status.success());
}

#[test]
fn pg_dump_and_pg_restore_of_the_same_major_version_work() {
    let postgres = shared_postgres();
    let (from, to) = (postgres.create_database(), postgres.create_database());
    postgres.execute(&from, "CREATE TABLE a AS SELECT g FROM generate_series(1, 1000) g").unwrap();
    let engine = mainstay_testkit::engines::locate(mainstay_testkit::engines::EngineKind::PgClient).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("a.dump");
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(engine.tool(program)).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run("pg_dump", &["-Fc", "-f", dump.to_str().unwrap(), &postgres.uri_of(&from)]);
    run("pg_restore", &["-d", &postgres.uri_of(&to), dump.to_str().unwrap()]);
    postgres.execute(&to, "DO $$ BEGIN ASSERT (SELECT count(*) FROM a) = 1000; END $$").unwrap();
}

#[test]
fn redis_with_an_append_only_file_keeps_its_data_over_a_kill() {
    let mut redis = Redis::options().append_only().setting("appendfsync", "always").start().unwrap();
    let folder = redis.dir().to_path_buf();
    assert_eq!(redis_command(redis.port(), "SET a 1"), "+OK\r\n+OK\r\n");
    redis.kill9();
    redis.restart().unwrap();
    assert_eq!(redis_command(redis.port(), "GET a"), "$1\r\n1\r\n+OK\r\n");
    let pid = redis.pid().unwrap();
    drop(redis);
    assert!(!runs(pid));
    assert!(!folder.exists());
}

#[test]
fn redis_with_a_password_and_tls() {
    let redis = Redis::options().password("secret").tls().start().unwrap();
    assert!(redis_command(redis.port(), "GET a").starts_with("-NOAUTH"));
    assert!(redis_command(redis.port(), "AUTH secret\r\nINFO server").contains("redis_version:8."));
    assert!(redis.tls_port().is_some_and(|port| TcpStream::connect(("127.0.0.1", port)).is_ok()));
}

#[test]
fn shared_servers_are_started_once() {
    assert_eq!(shared_mongod().pid(), shared_mongod().pid());
    assert_eq!(shared_redis().pid(), shared_redis().pid());
    assert_ne!(unique_database(), unique_database());
}

/// The body of the process that [`servers_end_when_their_parent_is_killed`] kills; does nothing when run as a test.
#[test]
fn parent_to_be_killed() {
    if std::env::var_os("MAINSTAY_TESTKIT_PARENT").is_none() {
        return;
    }
    let report = |name: &str, pid: Option<u32>, folder: &Path| {
        let line = format!("server {name} {} {}\n", pid.unwrap(), folder.display());
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    };
    let (mongod, postgres, redis) = (shared_mongod(), shared_postgres(), shared_redis());
    report("mongod", mongod.pid(), mongod.dir());
    report("postgres", postgres.pid(), postgres.dir());
    report("redis", redis.pid(), redis.dir());
    std::io::stderr().write_all(b"ready\n").unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn servers_end_when_their_parent_is_killed() {
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "parent_to_be_killed", "--nocapture"])
        .env("MAINSTAY_TESTKIT_PARENT", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(parent.stderr.take().unwrap()).lines().map(Result::unwrap);
    let told: Vec<String> = lines.take_while(|line| line != "ready").collect();
    let servers: Vec<(u32, PathBuf)> = told
        .iter()
        .filter_map(|line| line.strip_prefix("server "))
        .map(|line| {
            let mut words = line.split(' ').skip(1);
            (words.next().unwrap().parse().unwrap(), PathBuf::from(words.next().unwrap()))
        })
        .collect();
    assert_eq!(servers.len(), 3, "{told:?}");
    assert!(servers.iter().all(|(pid, folder)| runs(*pid) && folder.exists()));

    parent.kill().unwrap();
    parent.wait().unwrap();
    for (pid, folder) in servers {
        await_condition("the server ends", || !runs(pid));
        await_condition("its folder goes", || !folder.exists());
    }
}

#[test]
fn a_server_ends_when_the_test_panics() {
    let pid = std::thread::spawn(|| {
        let redis = Redis::start().unwrap();
        let pid = redis.pid().unwrap();
        let folder = redis.dir().to_path_buf();
        std::panic::resume_unwind(Box::new((pid, folder)));
    })
    .join()
    .unwrap_err();
    let (pid, folder) = pid.downcast::<(u32, PathBuf)>().map(|boxed| *boxed).unwrap();
    assert!(!runs(pid));
    assert!(!folder.exists());
}
