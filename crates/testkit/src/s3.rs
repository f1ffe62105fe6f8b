//! An S3 server over a temporary folder, on a free loopback port, that can be made to answer 403, 500 or late.
//!
//! The protocol is the `s3s` crate's, the storage `s3s-fs`'s: signatures are checked, and `If-None-Match: *` and
//! `If-Match` are honoured on `PutObject` and `CompleteMultipartUpload`. `s3s-fs` looks and then writes without holding
//! anything between, so that two writers at once could both win; S3 itself lets one win. Requests with a condition, and
//! deletions, therefore pass one at a time here.
//!
//! The server has a thread and a runtime of its own, so that it serves blocking and asynchronous tests alike. Objects lie
//! as files at `<dir>/<bucket>/<key>` for a test to read or damage. Keys longer than about 160 bytes do not work: the storage
//! keeps notes on an object in a file named by the whole key. Refuses versions, lifecycle rules and anything
//! else that `s3s-fs` has not.

use std::convert::Infallible;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::Body;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

const BUCKET: &str = "mainstay";
const REGION: &str = "us-east-1";
const ACCESS_KEY: &str = "test-access-key";
const SECRET_KEY: &str = "test-secret-key";
const READ_FIRST_BYTES_MAX: usize = 16 << 20;

/// How the server answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum S3Fault {
    /// As it should.
    #[default]
    None,
    /// 403 `AccessDenied` to everything.
    Forbidden,
    /// 500 `InternalError` to everything; nothing is stored.
    Failing,
    /// As it should, after waiting this long.
    Slow(Duration),
}

/// A running S3 server with one empty bucket; ends, and its folder goes, on drop.
pub struct S3Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    // Dropped after the thread has been joined.
    folder: TempDir,
}

struct Shared {
    service: S3Service,
    fault: Mutex<S3Fault>,
    failing_next: AtomicU64,
    requests: AtomicU64,
    /// Held by the one request that may change what a condition looks at.
    conditional: tokio::sync::Mutex<()>,
}

impl S3Server {
    /// Starts a server with an empty bucket.
    ///
    /// # Panics
    /// When no port or temporary folder can be had.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("mainstay-s3-").tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join(BUCKET)).expect("a folder for the bucket");
        let files = FileSystem::new(folder.path()).expect("a storage over the folder");
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let shared = Arc::new(Shared {
            service: builder.build(),
            fault: Mutex::default(),
            failing_next: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            conditional: tokio::sync::Mutex::new(()),
        });
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a listener that does not block");
        let address = listener.local_addr().expect("a bound address");
        let (end, ended) = oneshot::channel();
        let served = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(serve(listener, served, ended));
        });
        Self { address, shared, end: Some(end), thread: Some(thread), folder }
    }

    /// `http://127.0.0.1:<port>`; buckets are addressed by path.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The name of its bucket.
    pub fn bucket(&self) -> &'static str {
        BUCKET
    }

    /// The region to sign for.
    pub fn region(&self) -> &'static str {
        REGION
    }

    /// The access key id.
    pub fn access_key(&self) -> &'static str {
        ACCESS_KEY
    }

    /// The secret access key.
    pub fn secret_key(&self) -> &'static str {
        SECRET_KEY
    }

    /// The folder that holds the bucket's folder.
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// Answers this way from now on.
    pub fn set_fault(&self, fault: S3Fault) {
        *self.shared.fault.lock().expect("no holder panics") = fault;
    }

    /// Answers 500 to this many requests, then as it should.
    pub fn fail_next(&self, count: u64) {
        self.shared.failing_next.store(count, Ordering::SeqCst);
    }

    /// Requests received so far, faulty ones included.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the server's thread has been printed; the test has its own outcome.
            let _ = thread.join();
        }
    }
}

async fn serve(listener: std::net::TcpListener, shared: Arc<Shared>, mut ended: oneshot::Receiver<()>) {
    let listener = TcpListener::from_std(listener).expect("a listener of this runtime");
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => continue,
            },
            _ = &mut ended => return,
            Some(_) = connections.join_next() => continue,
        };
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let answer = hyper::service::service_fn(move |request| answer(Arc::clone(&shared), request));
            // A client that leaves early is the client's matter.
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    shared.requests.fetch_add(1, Ordering::SeqCst);
    let request = request.map(Body::from);
    let failing =
        shared.failing_next.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
    let fault =
        if failing.is_ok() { S3Fault::Failing } else { *shared.fault.lock().expect("no holder panics") };
    match fault {
        S3Fault::None => {}
        S3Fault::Slow(pause) => tokio::time::sleep(pause).await,
        S3Fault::Forbidden => return Ok(refuse(request, StatusCode::FORBIDDEN, "AccessDenied").await),
        S3Fault::Failing => {
            return Ok(refuse(request, StatusCode::INTERNAL_SERVER_ERROR, "InternalError").await);
        }
    }
    let Ok(request) = read_first(request).await else {
        return Ok(plain(StatusCode::BAD_REQUEST, "IncompleteBody"));
    };
    let headers = request.headers();
    let alone = request.method() == Method::DELETE
        || (request.method() != Method::GET && request.method() != Method::HEAD)
            && (headers.contains_key(IF_NONE_MATCH) || headers.contains_key(IF_MATCH));
    let _turn = if alone { Some(shared.conditional.lock().await) } else { None };
    Ok(shared.service.call(request).await.unwrap_or_else(|_| plain(StatusCode::BAD_REQUEST, "BadRequest")))
}

/// Reads a body of moderate length before anything is decided: a refusal that comes while the client still sends would end
/// its connection, and the client's next request, sent on the same connection, would fail for no reason of its own.
async fn read_first(request: Request<Body>) -> Result<Request<Body>, s3s::StdError> {
    let length =
        request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let Some(length) = length.filter(|length| *length <= READ_FIRST_BYTES_MAX) else { return Ok(request) };
    let (parts, mut body) = request.into_parts();
    let bytes = body.store_all_limited(length).await?;
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

/// Reads the request to its end, so that the client is there for the answer, and refuses it.
async fn refuse(request: Request<Body>, status: StatusCode, code: &str) -> Response<Body> {
    // A client that leaves early gets no answer anyway.
    let _ = request.into_body().store_all_limited(usize::MAX).await;
    plain(status, code)
}

fn plain(status: StatusCode, code: &str) -> Response<Body> {
    let text = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>as asked by the test</Message></Error>"
    );
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/xml"));
    response
}
