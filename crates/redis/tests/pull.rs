//! The database file over the replication link of a real Redis: whole, whatever the server's settings; and what stands in its way.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod file;

use std::time::Duration;

use file::count_keys;
use mainstay_engine::{KeyFile, KeyFileSource};
use mainstay_model::{ErrorKind, Result, Secret};
use mainstay_rdb::{Item, Walker};
use mainstay_redis::{RedisConfig, RedisKeyFile, TlsMode, TlsOptions};
use mainstay_testkit::Redis;
use redis::aio::MultiplexedConnection;
use redis::cmd;

const KEYS: u64 = 3000;

async fn connection(server: &Redis) -> MultiplexedConnection {
    redis::Client::open(server.uri()).unwrap().get_multiplexed_async_connection().await.unwrap()
}

async fn give(connection: &mut MultiplexedConnection, line: &str) {
    let mut words = line.split(' ');
    let answer: redis::RedisResult<redis::Value> =
        cmd(words.next().unwrap()).arg(words.collect::<Vec<_>>()).query_async(connection).await;
    answer.unwrap_or_else(|error| panic!("{line}: {error}"));
}

/// A server without its wait for further replicas, with some megabytes of keys.
async fn filled() -> (Redis, MultiplexedConnection) {
    let server =
        Redis::options().setting("repl-diskless-sync-delay", "0").setting("save", "").start().unwrap();
    let mut connection = connection(&server).await;
    for index in 0..KEYS {
        give(&mut connection, &format!("SET shop:product:{index} {}", format!("{index}:").repeat(300))).await;
    }
    (server, connection)
}

fn source(url: &str) -> RedisKeyFile {
    RedisKeyFile::new(&RedisConfig::new(Secret::new(url))).unwrap()
}

/// Takes the whole file.
async fn pulled(file: &mut dyn KeyFile) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(piece) = file.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// The value of an auxiliary field.
fn auxiliary(file: &[u8], wanted: &str) -> Option<String> {
    let mut walker = Walker::new(file);
    while let Some(item) = walker.next_item().unwrap() {
        match item {
            Item::Auxiliary { name, value } if name == wanted.as_bytes() => {
                return Some(String::from_utf8(value).unwrap());
            }
            _ => {}
        }
    }
    None
}

#[tokio::test]
async fn the_file_comes_whole_from_memory_and_from_disk() {
    let (server, mut connection) = filled().await;
    for (diskless, direct) in [("yes", true), ("no", true)] {
        give(&mut connection, &format!("CONFIG SET repl-diskless-sync {diskless}")).await;
        let mut file = source(&server.uri()).begin().await.unwrap();
        let beginning = file.beginning().clone();
        assert_eq!((beginning.server.version.as_str(), beginning.direct), ("8.0.2", direct), "{diskless}");
        assert!(beginning.estimated_bytes > 1_000_000);
        let bytes = pulled(file.as_mut()).await.unwrap();
        assert_eq!(count_keys(&bytes[..]).unwrap(), KEYS, "{diskless}");
        assert!(auxiliary(&bytes, "repl-offset").is_some());
        assert_eq!(file.next().await.unwrap(), None, "whole stays whole");
    }
    // The server holds no replica for it any more.
    let info: String = cmd("INFO").arg("replication").query_async(&mut connection).await.unwrap();
    assert!(info.contains("connected_slaves:0"), "{info}");
}

#[tokio::test]
async fn a_user_with_few_rights_is_enough_and_one_with_fewer_is_told() {
    let (server, mut connection) = filled().await;
    give(&mut connection, "ACL SETUSER backup on >canary-backup +psync +sync +replconf +ping +info +select")
        .await;
    give(&mut connection, "ACL SETUSER reader on >canary-reader %R~* +@read +info +select").await;
    let url = |user: &str| server.uri().replace("redis://", &format!("redis://{user}:canary-{user}@"));
    let mut file = source(&url("backup")).begin().await.unwrap();
    assert_eq!(count_keys(&pulled(file.as_mut()).await.unwrap()[..]).unwrap(), KEYS);
    let wrong = server.uri().replace("redis://", "redis://backup:canary-wrong@");
    for (url, text) in [(url("reader"), "permission"), (wrong, "refused the password")] {
        let Err(error) = source(&url).begin().await else { panic!("{text}: it began") };
        assert_eq!(error.kind(), ErrorKind::Auth, "{error}");
        assert!(error.to_string().contains(text), "{error}");
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }
}

#[tokio::test]
async fn tls_is_spoken_where_it_is_asked_for() {
    let server = Redis::options().tls().setting("repl-diskless-sync-delay", "0").start().unwrap();
    let mut config =
        RedisConfig::new(Secret::new(format!("rediss://localhost:{}", server.tls_port().unwrap())));
    config.tls = TlsOptions {
        mode: Some(TlsMode::VerifyFull),
        ca_file: Some(server.certificates().unwrap().authority.clone()),
    };
    let mut file = RedisKeyFile::new(&config).unwrap().begin().await.unwrap();
    assert_eq!(count_keys(&pulled(file.as_mut()).await.unwrap()[..]).unwrap(), 0);
    config.tls.ca_file = None;
    let Err(error) = RedisKeyFile::new(&config).unwrap().begin().await else {
        panic!("a stranger was believed")
    };
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
}

#[tokio::test]
async fn a_server_that_dies_meanwhile_is_told_and_its_file_is_never_whole() {
    let (mut server, mut connection) = filled().await;
    // Slow enough to be killed while it is under way.
    give(&mut connection, "CONFIG SET rdb-key-save-delay 1000").await;
    let mut file = source(&server.uri()).begin().await.unwrap();
    let first = tokio::time::timeout(Duration::from_secs(20), file.next()).await.unwrap().unwrap().unwrap();
    assert!(first.starts_with(b"REDIS"), "{:?}", first.get(..9));
    server.kill9();
    let error = pulled(file.as_mut()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    let Err(error) = source(&server.uri()).begin().await else { panic!("nobody answered") };
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
}
