//! The S3 backend against a real S3 server: refusals, failures, silence, lost answers, broken connections.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mainstay_model::{Error, ErrorKind, ErrorStatus, Secret};
use mainstay_store::{Key, RetryPolicy, S3Options, Store, StoreOptions, outcome_is_open};
use mainstay_testkit::proxy::{Direction, Scope, Truncate};
use mainstay_testkit::s3::S3Fault;
use mainstay_testkit::servers::free_port;
use mainstay_testkit::{FaultProxy, S3Server};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// Quick enough for tests; the pauses are real.
fn quick() -> RetryPolicy {
    RetryPolicy {
        max_retries: 3,
        timeout: Duration::from_secs(20),
        request_timeout: Duration::from_secs(20),
        backoff_first: Duration::from_millis(5),
        backoff_max: Duration::from_millis(20),
    }
}

struct Access {
    endpoint: String,
    bucket: &'static str,
    secret_key: &'static str,
    retry: RetryPolicy,
}

impl Access {
    fn of(server: &S3Server) -> Self {
        Self {
            endpoint: server.endpoint(),
            bucket: server.bucket(),
            secret_key: server.secret_key(),
            retry: quick(),
        }
    }

    fn open(self, server: &S3Server) -> Store {
        let options = StoreOptions {
            s3: S3Options {
                endpoint: Some(self.endpoint),
                region: Some(server.region().to_owned()),
                access_key_id: Some(Secret::new(server.access_key())),
                secret_access_key: Some(Secret::new(self.secret_key)),
                allow_http: true,
                ..S3Options::default()
            },
            retry: self.retry,
            ..StoreOptions::default()
        };
        Store::open(&format!("s3://{}/repo", self.bucket).parse().unwrap(), &options).unwrap()
    }
}

fn open(server: &S3Server) -> Store {
    Access::of(server).open(server)
}

fn through(proxy: &FaultProxy, server: &S3Server) -> Store {
    Access { endpoint: format!("http://{}", proxy.address()), ..Access::of(server) }.open(server)
}

/// Every operation that asks the service, and its error.
async fn all_errors(store: &Store) -> Vec<Error> {
    let mut errors = vec![
        store.get(&key("a"), 10).await.unwrap_err(),
        store.read(&key("a")).await.unwrap_err(),
        store.put(&key("a"), Bytes::from_static(b"x")).await.unwrap_err(),
        store.put_new(&key("a"), Bytes::from_static(b"x")).await.unwrap_err(),
        store.list(&key("a")).await.unwrap_err(),
        store.folders(&key("a")).await.unwrap_err(),
        store.delete(&key("a")).await.unwrap_err(),
    ];
    for size in [10, 20_000_000] {
        let mut writer = store.writer(&key("a")).await.unwrap();
        errors.push(match writer.write(vec![1; size].into()).await {
            Err(error) => error,
            Ok(()) => writer.finish().await.unwrap_err(),
        });
    }
    errors
}

fn assert_discreet(error: &Error, server: &S3Server) {
    let shown = format!("{error:?}");
    for secret in [server.secret_key(), server.access_key(), "Signature=", "X-Amz", "AWS4-HMAC"] {
        assert!(!shown.contains(secret), "{secret} is shown: {shown}");
    }
    assert!(shown.contains("s3://"), "it says where: {shown}");
}

#[tokio::test]
async fn refused_access_is_told_at_once() {
    let server = S3Server::start();
    server.set_fault(S3Fault::Forbidden);
    let store = open(&server);
    for error in all_errors(&store).await {
        assert_eq!(error.kind(), ErrorKind::Auth, "{error:?}");
        assert!(error.to_string().contains("403 AccessDenied"), "{error}");
        assert!(error.hint().is_some());
        assert_discreet(&error, &server);
    }
    let before = server.requests();
    store.get(&key("a"), 1).await.unwrap_err();
    store.put_new(&key("a"), Bytes::new()).await.unwrap_err();
    assert_eq!(server.requests() - before, 2, "a refusal is not repeated");
}

#[tokio::test]
async fn a_wrong_key_is_a_refusal_and_stays_secret() {
    let server = S3Server::start();
    let store = Access { secret_key: "another-secret-key", ..Access::of(&server) }.open(&server);
    for error in all_errors(&store).await {
        assert_eq!(error.kind(), ErrorKind::Auth, "{error:?}");
        assert_discreet(&error, &server);
        assert!(!format!("{error:?}").contains("another-secret-key"));
    }
}

#[tokio::test]
async fn a_missing_bucket_is_not_an_empty_one() {
    let server = S3Server::start();
    let store = Access { bucket: "elsewhere", ..Access::of(&server) }.open(&server);
    let error = store.list(&key("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage, "{error:?}");
    assert!(error.to_string().contains("elsewhere") && error.hint().is_some(), "{error:?}");
    assert_discreet(&error, &server);
}

#[tokio::test]
async fn passing_failures_are_repeated() {
    let server = S3Server::start();
    let store = open(&server);
    server.fail_next(2);
    store.put_new(&key("a"), Bytes::from_static(b"x")).await.unwrap();
    server.fail_next(2);
    assert_eq!(store.get(&key("a"), 1).await.unwrap(), "x");
    server.fail_next(2);
    assert_eq!(store.list(&Key::root()).await.unwrap().len(), 1);
    server.fail_next(2);
    let mut writer = store.writer(&key("big")).await.unwrap();
    writer.write(vec![7; 20_000_000].into()).await.unwrap();
    server.fail_next(2);
    writer.finish().await.unwrap();
    assert_eq!(store.get(&key("big"), 20_000_000).await.unwrap(), vec![7; 20_000_000]);
}

#[tokio::test]
async fn lasting_failures_end_after_a_told_number_of_attempts() {
    let server = S3Server::start();
    server.set_fault(S3Fault::Failing);
    let store = open(&server);
    for error in all_errors(&store).await {
        assert_eq!(error.kind(), ErrorKind::Storage, "{error:?}");
        assert_eq!(error.status(), ErrorStatus::Persistent, "{error:?}");
        assert!(error.to_string().contains("500 InternalError after 4 attempts"), "{error}");
        let says_so = error.state().is_some_and(|state| state.contains("not known"));
        assert_eq!(outcome_is_open(&error), says_so, "{error:?}");
        assert_discreet(&error, &server);
    }
    let before = server.requests();
    let error = store.put_new(&key("a"), Bytes::new()).await.unwrap_err();
    assert_eq!(server.requests() - before, 4);
    assert!(error.state().unwrap().contains("not known"), "{error:?}");
    server.set_fault(S3Fault::None);
    assert!(store.list(&Key::root()).await.unwrap().is_empty(), "nothing half-written is seen");
}

#[tokio::test]
async fn silence_ends() {
    let server = S3Server::start();
    server.set_fault(S3Fault::Slow(Duration::from_secs(30)));
    let retry = RetryPolicy { max_retries: 1, request_timeout: Duration::from_millis(300), ..quick() };
    let store = Access { retry, ..Access::of(&server) }.open(&server);
    let begun = std::time::Instant::now();
    for error in [
        store.get(&key("a"), 1).await.unwrap_err(),
        store.put_new(&key("a"), Bytes::new()).await.unwrap_err(),
    ] {
        assert_eq!(
            (error.kind(), error.status()),
            (ErrorKind::Storage, ErrorStatus::Persistent),
            "{error:?}"
        );
        assert!(error.to_string().contains("did not answer in time after 2 attempts"), "{error}");
        assert_discreet(&error, &server);
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn nobody_listening_is_unreachable() {
    let server = S3Server::start();
    let store =
        Access { endpoint: format!("http://127.0.0.1:{}", free_port()), ..Access::of(&server) }.open(&server);
    for error in all_errors(&store).await {
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
        assert!(error.to_string().contains("refused"), "{error}");
        assert_discreet(&error, &server);
    }
    let error = store.put_new(&key("a"), Bytes::new()).await.unwrap_err();
    assert!(error.state().unwrap().contains("was not written"), "{error:?}");
}

#[tokio::test]
async fn nobody_answering_is_unreachable() {
    let server = S3Server::start();
    // A listener whose queue is full: what is sent to it is dropped without an answer.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(connected) =
        tokio::time::timeout(Duration::from_millis(500), tokio::net::TcpStream::connect(address)).await
    {
        queued.push(connected.unwrap());
    }
    let retry = RetryPolicy { max_retries: 1, request_timeout: Duration::from_millis(300), ..quick() };
    let store = Access { endpoint: format!("http://{address}"), retry, ..Access::of(&server) }.open(&server);
    for error in [
        store.get(&key("a"), 1).await.unwrap_err(),
        store.put_new(&key("a"), Bytes::new()).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
        assert!(error.to_string().contains("after 2 attempts"), "{error}");
    }
}

/// Ends connections right after the first bytes of the first answer: the server did what was asked, and the client cannot know.
fn lose_answers(proxy: &FaultProxy, scope: Scope) {
    proxy.truncate(Truncate { direction: Direction::FromServer, bytes: 5, scope });
}

#[tokio::test]
async fn a_creation_whose_answer_was_lost_is_recognised() {
    let server = S3Server::start();
    let proxy = FaultProxy::start(server.address());
    let store = through(&proxy, &server);
    lose_answers(&proxy, Scope::FirstConnection);
    store.put_new(&key("a"), Bytes::from_static(b"mine")).await.unwrap();
    assert_eq!(proxy.counters().truncated, 1, "an answer was lost");
    assert_eq!(store.get(&key("a"), 10).await.unwrap(), "mine");
    let error = store.put_new(&key("a"), Bytes::from_static(b"mine")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "without a lost answer the same bytes are somebody else's");
}

#[tokio::test]
async fn somebody_elses_object_is_not_taken_for_ones_own() {
    let server = S3Server::start();
    open(&server).put(&key("a"), Bytes::from_static(b"theirs")).await.unwrap();
    let proxy = FaultProxy::start(server.address());
    lose_answers(&proxy, Scope::FirstConnection);
    let error = through(&proxy, &server).put_new(&key("a"), Bytes::from_static(b"mine")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    assert_eq!(proxy.counters().truncated, 1, "an answer was lost");
    assert_eq!(open(&server).get(&key("a"), 10).await.unwrap(), "theirs");
}

#[tokio::test]
async fn when_every_answer_is_lost_the_outcome_is_open_and_said_to_be() {
    let server = S3Server::start();
    let proxy = FaultProxy::start(server.address());
    lose_answers(&proxy, Scope::EveryConnection);
    let error = through(&proxy, &server).put_new(&key("a"), Bytes::from_static(b"mine")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
    assert!(error.state().unwrap().contains("not known"), "{error:?}");
    assert_eq!(open(&server).get(&key("a"), 10).await.unwrap(), "mine");
}

#[tokio::test]
async fn an_object_that_is_there_is_never_called_unwritten() {
    let server = S3Server::start();
    let proxy = FaultProxy::start(server.address());
    lose_answers(&proxy, Scope::EveryConnection);
    let (shaky, store) = (through(&proxy, &server), open(&server));

    let error = shaky.put(&key("put"), Bytes::from_static(b"mine")).await.unwrap_err();
    assert_eq!(store.get(&key("put"), 10).await.unwrap(), "mine");
    assert_eq!(error.state(), Some("whether put was written is not known"), "{error:?}");
    assert!(outcome_is_open(&error));

    let mut writer = shaky.writer(&key("small")).await.unwrap();
    writer.write(Bytes::from_static(b"mine")).await.unwrap();
    let error = writer.finish().await.unwrap_err();
    assert_eq!(store.get(&key("small"), 10).await.unwrap(), "mine");
    assert_eq!(error.state(), Some("whether small was written is not known"), "{error:?}");

    let error = shaky.delete(&key("put")).await.unwrap_err();
    assert_eq!(store.get(&key("put"), 10).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(error.state(), Some("whether put was deleted is not known"), "{error:?}");

    // The upload was never completed, so nothing of it can be there.
    let mut writer = shaky.writer(&key("large")).await.unwrap();
    let error = match writer.write(vec![1; 20_000_000].into()).await {
        Err(error) => error,
        Ok(()) => writer.finish().await.unwrap_err(),
    };
    assert!(error.state().unwrap().contains("was not written"), "{error:?}");
    assert!(!outcome_is_open(&error));
    assert_eq!(store.get(&key("large"), 10).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_completion_whose_answer_was_lost_is_open() {
    let server = S3Server::start();
    let proxy = FaultProxy::start(server.address());
    let shaky = through(&proxy, &server);
    let mut writer = shaky.writer(&key("large")).await.unwrap();
    writer.write(vec![1; 20_000_000].into()).await.unwrap();
    lose_answers(&proxy, Scope::EveryConnection);
    // Answers are lost from here on, be it that of a part or that of the completion.
    if let Err(error) = writer.finish().await {
        let there = open(&server).get(&key("large"), 20_000_000).await.is_ok();
        assert!(!there || outcome_is_open(&error), "{error:?}");
    }
}

#[tokio::test]
async fn a_read_goes_on_where_the_connection_broke() {
    let server = S3Server::start();
    let bytes: Bytes = (0..6_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    open(&server).put(&key("a"), bytes.clone()).await.unwrap();
    let proxy = FaultProxy::start(server.address());
    proxy.truncate(Truncate {
        direction: Direction::FromServer,
        bytes: 2_500_000,
        scope: Scope::EveryConnection,
    });
    let mut reader = through(&proxy, &server).read(&key("a")).await.unwrap();
    let mut whole = BytesMut::new();
    while let Some(chunk) = reader.next().await.unwrap() {
        whole.extend_from_slice(&chunk);
    }
    assert!(whole == bytes, "{} of {} bytes, or other ones", whole.len(), bytes.len());
    assert!(proxy.counters().truncated >= 2);
}

#[tokio::test]
async fn a_connection_that_stays_broken_is_told() {
    let server = S3Server::start();
    let proxy = FaultProxy::start(server.address());
    let store = through(&proxy, &server);
    store.put(&key("a"), Bytes::from_static(b"x")).await.unwrap();
    proxy.cut();
    for error in all_errors(&store).await {
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
        assert_discreet(&error, &server);
    }
    proxy.heal();
    assert_eq!(store.get(&key("a"), 1).await.unwrap(), "x");
}

#[tokio::test]
async fn a_stream_whose_server_dies_leaves_no_object() {
    let server = S3Server::start();
    let proxy = FaultProxy::start(server.address());
    let store = through(&proxy, &server);
    let mut writer = store.writer(&key("big")).await.unwrap();
    writer.write(vec![1; 20_000_000].into()).await.unwrap();
    proxy.cut();
    let error = match writer.write(vec![1; 20_000_000].into()).await {
        Err(error) => error,
        Ok(()) => writer.finish().await.unwrap_err(),
    };
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
    assert!(open(&server).list(&Key::root()).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_probe_tells_a_service_that_overwrites() {
    let server = S3Server::start();
    open(&server).probe(&key("tests"), "n1").await.unwrap();
    assert!(open(&server).list(&Key::root()).await.unwrap().is_empty());
}
