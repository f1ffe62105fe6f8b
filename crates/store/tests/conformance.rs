//! The conformance suite on every backend, and through every decorator that must not be noticed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use mainstay_model::{ByteSize, Secret};
use mainstay_store::{Faults, Key, Location, S3Options, Store, StoreOptions, conformance};
use mainstay_testkit::S3Server;

fn folder() -> Key {
    Key::new("suite").unwrap()
}

fn directory(folder: &tempfile::TempDir) -> Store {
    Store::open(&Location::directory(folder.path().join("deep/repository")), &StoreOptions::default())
        .unwrap()
}

fn s3(server: &S3Server, prefix: &str) -> Store {
    let options = StoreOptions {
        s3: S3Options {
            endpoint: Some(server.endpoint()),
            region: Some(server.region().to_owned()),
            access_key_id: Some(Secret::new(server.access_key())),
            secret_access_key: Some(Secret::new(server.secret_key())),
            allow_http: true,
            ..S3Options::default()
        },
        ..StoreOptions::default()
    };
    let location: Location = format!("s3://{}{prefix}", server.bucket()).parse().unwrap();
    Store::open(&location, &options).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    conformance::run(Store::memory(), folder()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn local_directory() {
    let temporary = tempfile::tempdir().unwrap();
    conformance::run(directory(&temporary), folder()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_at_the_root_of_a_bucket() {
    conformance::run(s3(&S3Server::start(), ""), folder()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_below_a_prefix() {
    let server = S3Server::start();
    conformance::run(s3(&server, "/some/where"), folder()).await;
    assert!(server.requests() > 100, "the suite really spoke to the server");
}

#[tokio::test(flavor = "multi_thread")]
async fn transparent_decorators() {
    let temporary = tempfile::tempdir().unwrap();
    let store = directory(&temporary).throttled(ByteSize::mib(2_000).bytes()).with_faults(Faults::new());
    conformance::run(store, folder()).await;
}
