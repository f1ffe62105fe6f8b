//! A TCP proxy on the loopback address whose network can be broken: cut, delayed, throttled, truncated, healed.
//!
//! The proxy has a thread and a runtime of its own, so that it serves blocking and asynchronous tests alike and goes on
//! while a test's own runtime is busy. A change of faults is seen by the next chunk of every open connection; a cut
//! is seen at once, also by a connection on which nothing moves.
//!
//! Refuses to alter bytes: what passes is what was sent. An abrupt end is a reset of both sides, as a broken path gives,
//! and not an orderly end of stream; a truncation is an orderly end towards the reader after the counted bytes.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

const CHUNK_BYTES: usize = 16 * 1024;

/// One of the two ways through the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// What the client sends.
    ToServer,
    /// What the server sends.
    FromServer,
}

/// Which connections a truncation applies to, of those accepted after it was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The first one only; later ones pass whole.
    FirstConnection,
    /// Every one.
    EveryConnection,
}

/// End a connection once this many bytes have passed in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncate {
    /// The direction counted.
    pub direction: Direction,
    /// Bytes that still pass, counted from the connection's begin.
    pub bytes: u64,
    /// Which connections.
    pub scope: Scope,
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections passed on.
    pub accepted: u64,
    /// Connections ended at once because of a cut, or because the server refused them.
    pub refused: u64,
    /// Open connections ended by a cut.
    pub cut: u64,
    /// Connections ended by a truncation.
    pub truncated: u64,
    /// Bytes passed to the server.
    pub to_server_bytes: u64,
    /// Bytes passed from the server.
    pub from_server_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    /// New connections are ended at once.
    refusing: bool,
    /// Raised by every cut; a connection ends when it is no longer the number it began with.
    cuts: u64,
    delay: Duration,
    bytes_per_second: Option<u64>,
    truncate: Option<Truncate>,
}

#[derive(Default)]
struct Tally {
    accepted: AtomicU64,
    refused: AtomicU64,
    cut: AtomicU64,
    truncated: AtomicU64,
    to_server_bytes: AtomicU64,
    from_server_bytes: AtomicU64,
}

/// A running proxy; ends with all its connections on drop.
pub struct FaultProxy {
    address: SocketAddr,
    upstream: Arc<Mutex<SocketAddr>>,
    faults: watch::Sender<Faults>,
    tally: Arc<Tally>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FaultProxy {
    /// Listens on a free port of 127.0.0.1 and passes everything to `upstream`.
    ///
    /// # Panics
    /// When no port can be had.
    pub fn start(upstream: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a listener that does not block");
        let address = listener.local_addr().expect("a bound address");
        let (faults, faults_seen) = watch::channel(Faults::default());
        let (end, ended) = oneshot::channel();
        let tally = Arc::new(Tally::default());
        let upstream = Arc::new(Mutex::new(upstream));
        let acceptor =
            Acceptor { upstream: Arc::clone(&upstream), faults: faults_seen, tally: Arc::clone(&tally) };
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(acceptor.run(listener, ended));
        });
        Self { address, upstream, faults, tally, end: Some(end), thread: Some(thread) }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port of [`FaultProxy::address`].
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Passes new connections to another server.
    pub fn redirect(&self, upstream: SocketAddr) {
        *self.upstream.lock().expect("no holder panics") = upstream;
    }

    /// Resets every connection now and every new one until [`FaultProxy::heal`].
    pub fn cut(&self) {
        self.change(|faults| {
            faults.cuts += 1;
            faults.refusing = true;
        });
    }

    /// Resets every connection now; new ones pass.
    pub fn cut_now(&self) {
        self.change(|faults| faults.cuts += 1);
    }

    /// Waits this long before each chunk (at most 16 KiB), in both directions.
    pub fn delay(&self, delay: Duration) {
        self.change(|faults| faults.delay = delay);
    }

    /// Lets this many bytes per second pass, per connection and direction; at least 1.
    pub fn throttle(&self, bytes_per_second: u64) {
        self.change(|faults| faults.bytes_per_second = Some(bytes_per_second.max(1)));
    }

    /// Ends connections after a number of bytes; applies to those accepted from now on.
    pub fn truncate(&self, truncate: Truncate) {
        self.change(|faults| faults.truncate = Some(truncate));
    }

    /// All faults off; connections already ended stay ended.
    pub fn heal(&self) {
        self.change(|faults| *faults = Faults { cuts: faults.cuts, ..Faults::default() });
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            accepted: read(&self.tally.accepted),
            refused: read(&self.tally.refused),
            cut: read(&self.tally.cut),
            truncated: read(&self.tally.truncated),
            to_server_bytes: read(&self.tally.to_server_bytes),
            from_server_bytes: read(&self.tally.from_server_bytes),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Faults)) {
        self.faults.send_modify(change);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the proxy's thread has been printed; the test has its own outcome.
            let _ = thread.join();
        }
    }
}

struct Acceptor {
    upstream: Arc<Mutex<SocketAddr>>,
    faults: watch::Receiver<Faults>,
    tally: Arc<Tally>,
}

impl Acceptor {
    async fn run(self, listener: std::net::TcpListener, mut ended: oneshot::Receiver<()>) {
        let listener = TcpListener::from_std(listener).expect("a listener of this runtime");
        let mut connections = JoinSet::new();
        let mut truncated_before = None;
        loop {
            let client = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((client, _)) => client,
                    Err(_) => continue,
                },
                _ = &mut ended => return,
                Some(_) = connections.join_next() => continue,
            };
            let faults = *self.faults.borrow();
            if faults.refusing {
                self.tally.refused.fetch_add(1, Ordering::Relaxed);
                reset(&client);
                continue;
            }
            let upstream = *self.upstream.lock().expect("no holder panics");
            let truncate = faults.truncate.filter(|truncate| {
                let first = truncated_before != Some(*truncate);
                truncated_before = Some(*truncate);
                first || truncate.scope == Scope::EveryConnection
            });
            let connection = Connection {
                truncate,
                cuts: faults.cuts,
                faults: self.faults.clone(),
                tally: Arc::clone(&self.tally),
            };
            connections.spawn(connection.run(client, upstream));
        }
    }
}

/// Makes the end of this socket a reset instead of an orderly end.
fn reset(stream: &TcpStream) {
    // Fails only for a socket that is gone already.
    let _ = stream.set_zero_linger();
}

struct Connection {
    truncate: Option<Truncate>,
    cuts: u64,
    faults: watch::Receiver<Faults>,
    tally: Arc<Tally>,
}

impl Connection {
    async fn run(self, mut client: TcpStream, upstream: SocketAddr) {
        let Ok(mut server) = TcpStream::connect(upstream).await else {
            self.tally.refused.fetch_add(1, Ordering::Relaxed);
            return reset(&client);
        };
        self.tally.accepted.fetch_add(1, Ordering::Relaxed);
        // Chunks are to arrive as they were sent, not gathered.
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        let mut cut_seen = self.faults.clone();
        let end = {
            let (client_reader, client_writer) = client.split();
            let (server_reader, server_writer) = server.split();
            let to_server = self.pass(client_reader, server_writer, Direction::ToServer);
            let from_server = self.pass(server_reader, client_writer, Direction::FromServer);
            tokio::select! {
                _ = cut_seen.wait_for(|faults| faults.cuts != self.cuts) => End::Cut,
                end = both(to_server, from_server) => end,
            }
        };
        match end {
            End::Cut => {
                self.tally.cut.fetch_add(1, Ordering::Relaxed);
                reset(&client);
                reset(&server);
            }
            End::Truncated => {
                self.tally.truncated.fetch_add(1, Ordering::Relaxed);
            }
            End::Closed => {}
        }
    }

    /// Passes chunks until the reader ends, the count is reached or a side breaks.
    async fn pass(
        &self,
        mut reader: impl AsyncRead + Unpin,
        mut writer: impl AsyncWrite + Unpin,
        direction: Direction,
    ) -> End {
        let counter = match direction {
            Direction::ToServer => &self.tally.to_server_bytes,
            Direction::FromServer => &self.tally.from_server_bytes,
        };
        let mut left =
            self.truncate.filter(|truncate| truncate.direction == direction).map(|truncate| truncate.bytes);
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            if left == Some(0) {
                // Fails only when the other side is gone already.
                let _ = writer.shutdown().await;
                return End::Truncated;
            }
            let room = left.map_or(CHUNK_BYTES as u64, |left| left.min(CHUNK_BYTES as u64)) as usize;
            let count = match reader.read(&mut buffer[..room]).await {
                Ok(0) | Err(_) => break,
                Ok(count) => count,
            };
            self.hold_back(count).await;
            if writer.write_all(&buffer[..count]).await.is_err() {
                break;
            }
            counter.fetch_add(count as u64, Ordering::Relaxed);
            left = left.map(|left| left - count as u64);
        }
        let _ = writer.shutdown().await;
        End::Closed
    }

    async fn hold_back(&self, count: usize) {
        let faults = *self.faults.borrow();
        let paid = faults.bytes_per_second.map_or(0.0, |rate| count as f64 / rate as f64);
        let pause = faults.delay + Duration::from_secs_f64(paid);
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }
}

enum End {
    Closed,
    Cut,
    Truncated,
}

/// Both directions to their ends; a truncated one ends the other.
async fn both(to_server: impl Future<Output = End>, from_server: impl Future<Output = End>) -> End {
    tokio::pin!(to_server, from_server);
    let (first, other_is_to_server) = tokio::select! {
        end = &mut to_server => (end, false),
        end = &mut from_server => (end, true),
    };
    match first {
        End::Closed if other_is_to_server => to_server.await,
        End::Closed => from_server.await,
        end => end,
    }
}
