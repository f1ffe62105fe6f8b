//! The S3 server, seen by the client that the product uses.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use futures::TryStreamExt;
use futures::future::join_all;
use mainstay_testkit::S3Server;
use mainstay_testkit::s3::S3Fault;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig, WriteMultipart};

fn client_with(server: &S3Server, secret: &str, retries: usize) -> AmazonS3 {
    // The client asks for a TLS provider even when the endpoint speaks plain HTTP; a second installation is no harm.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let retry = RetryConfig { max_retries: retries, ..RetryConfig::default() };
    AmazonS3Builder::new()
        .with_endpoint(server.endpoint())
        .with_allow_http(true)
        .with_bucket_name(server.bucket())
        .with_region(server.region())
        .with_access_key_id(server.access_key())
        .with_secret_access_key(secret)
        .with_retry(retry)
        .build()
        .unwrap()
}

fn client(server: &S3Server) -> AmazonS3 {
    client_with(server, server.secret_key(), 0)
}

#[tokio::test]
async fn objects_are_stored_listed_and_deleted() {
    let server = S3Server::start();
    let store = client(&server);
    let path = Path::parse("a/b c/é.json").unwrap();
    store.put(&path, PutPayload::from_static(b"hello")).await.unwrap();
    assert_eq!(std::fs::read(server.dir().join(server.bucket()).join("a/b c/é.json")).unwrap(), b"hello");
    assert_eq!(store.get_range(&path, 1..3).await.unwrap().as_ref(), b"el");
    let listed: Vec<_> = store.list(Some(&Path::from("a"))).try_collect().await.unwrap();
    assert_eq!(listed.iter().map(|meta| (&meta.location, meta.size)).collect::<Vec<_>>(), [(&path, 5)]);
    store.delete(&path).await.unwrap();
    assert!(matches!(store.get(&path).await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn of_many_conditional_puts_one_wins() {
    let server = S3Server::start();
    let store = client(&server);
    for round in 0..10 {
        let path = Path::from(format!("lease-{round}"));
        let put = |n: usize| {
            store.put_opts(&path, PutPayload::from(vec![n as u8; 100_000]), PutMode::Create.into())
        };
        let outcomes = join_all((0..8).map(put)).await;
        let won: Vec<usize> = (0..8).filter(|n| outcomes[*n].is_ok()).collect();
        assert_eq!(won.len(), 1);
        assert!(
            outcomes
                .iter()
                .flat_map(|outcome| outcome.as_ref().err())
                .all(|e| matches!(e, Error::AlreadyExists { .. }))
        );
        let stored = store.get(&path).await.unwrap().bytes().await.unwrap();
        assert!(stored.iter().all(|byte| usize::from(*byte) == won[0]));
    }
}

#[tokio::test]
async fn an_update_needs_the_version_it_read() {
    let server = S3Server::start();
    let store = client(&server);
    let path = Path::from("lease");
    let first = store.put(&path, PutPayload::from_static(b"1")).await.unwrap();
    store
        .put_opts(&path, PutPayload::from_static(b"2"), PutMode::Update(first.clone().into()).into())
        .await
        .unwrap();
    let stale =
        store.put_opts(&path, PutPayload::from_static(b"3"), PutMode::Update(first.into()).into()).await;
    assert!(matches!(stale, Err(Error::Precondition { .. })), "{stale:?}");
}

#[tokio::test]
async fn multipart_uploads_appear_when_completed() {
    let server = S3Server::start();
    let store = client(&server);
    let path = Path::from("large");
    let mut upload = WriteMultipart::new(store.put_multipart(&path).await.unwrap());
    for n in 0..12u8 {
        upload.write(&vec![n; 1 << 20]);
    }
    assert!(matches!(store.head(&path).await, Err(Error::NotFound { .. })));
    upload.finish().await.unwrap();
    assert_eq!(store.head(&path).await.unwrap().size, 12 << 20);
}

#[tokio::test]
async fn faults_are_answered_and_end() {
    let server = S3Server::start();
    let store = client(&server);
    let path = Path::from("a");
    server.set_fault(S3Fault::Forbidden);
    let denied = store.put(&path, PutPayload::from(vec![0; 1 << 20])).await.unwrap_err();
    assert!(matches!(denied, Error::PermissionDenied { .. }), "{denied:?}");
    server.set_fault(S3Fault::Failing);
    let failed = store.put(&path, PutPayload::from_static(b"x")).await.unwrap_err();
    assert!(format!("{failed:?}").contains("500"), "{failed:?}");
    server.set_fault(S3Fault::None);
    assert!(matches!(store.head(&path).await, Err(Error::NotFound { .. })));
    server.set_fault(S3Fault::Slow(Duration::from_millis(300)));
    let begin = Instant::now();
    store.put(&path, PutPayload::from_static(b"x")).await.unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(300));

    server.set_fault(S3Fault::None);
    let patient = client_with(&server, server.secret_key(), 3);
    let before = server.requests();
    server.fail_next(2);
    patient.put(&path, PutPayload::from_static(b"y")).await.unwrap();
    assert_eq!(server.requests() - before, 3);
}

#[tokio::test]
async fn another_secret_is_refused() {
    let server = S3Server::start();
    let refused = client_with(&server, "wrong", 0).put(&Path::from("a"), PutPayload::from_static(b"x")).await;
    assert!(matches!(refused, Err(Error::PermissionDenied { .. })), "{refused:?}");
}
