//! The proxy's faults, seen by plain sockets against a server that echoes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use mainstay_testkit::proxy::{Direction, FaultProxy, Scope, Truncate};

/// A server that sends back what it gets, one thread per connection, until the test process ends.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || io::copy(&mut stream.try_clone().unwrap(), &mut &stream));
        }
    });
    address
}

fn connect(proxy: &FaultProxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

fn round_trip(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(bytes)?;
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back)?;
    Ok(back)
}

#[test]
fn everything_passes_and_is_counted() {
    let proxy = FaultProxy::start(echo());
    let mut stream = connect(&proxy);
    let bytes: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
    let mut writer = stream.try_clone().unwrap();
    let sent = bytes.clone();
    let writing = std::thread::spawn(move || writer.write_all(&sent).unwrap());
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).unwrap();
    writing.join().unwrap();
    assert_eq!(back, bytes);
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the end passes too");
    let counters = proxy.counters();
    assert_eq!(
        (counters.accepted, counters.to_server_bytes, counters.from_server_bytes),
        (1, 100_000, 100_000)
    );
}

#[test]
fn a_cut_ends_idle_connections_and_refuses_new_ones_until_healed() {
    let proxy = FaultProxy::start(echo());
    let mut stream = connect(&proxy);
    round_trip(&mut stream, b"before").unwrap();
    proxy.cut();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    // The reset of a refused connection may come before or after the client's first write.
    let refused = TcpStream::connect(proxy.address()).and_then(|mut stream| round_trip(&mut stream, b"x"));
    assert!(refused.is_err());
    proxy.heal();
    assert_eq!(round_trip(&mut connect(&proxy), b"after").unwrap(), b"after");
    let counters = proxy.counters();
    assert_eq!((counters.accepted, counters.cut, counters.refused), (2, 1, 1));
}

#[test]
fn a_cut_of_the_moment_lets_new_connections_pass() {
    let proxy = FaultProxy::start(echo());
    let mut stream = connect(&proxy);
    round_trip(&mut stream, b"before").unwrap();
    proxy.cut_now();
    assert!(stream.read(&mut [0]).is_err());
    assert_eq!(round_trip(&mut connect(&proxy), b"after").unwrap(), b"after");
}

#[test]
fn delay_and_throttle_take_their_time() {
    let proxy = FaultProxy::start(echo());
    let mut stream = connect(&proxy);
    proxy.delay(Duration::from_millis(60));
    let begin = Instant::now();
    round_trip(&mut stream, b"x").unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(120), "once in each direction");
    proxy.heal();
    proxy.throttle(100_000);
    let begin = Instant::now();
    round_trip(&mut stream, &[7; 20_000]).unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(200), "20 000 bytes at 100 000 per second");
}

#[test]
fn truncation_counts_exactly_and_keeps_to_its_scope() {
    let proxy = FaultProxy::start(echo());
    let read_all = |stream: &mut TcpStream| {
        stream.write_all(&[1; 50]).unwrap();
        // The proxy has ended its side by now when it truncates towards the server.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut back = Vec::new();
        stream.read_to_end(&mut back).map(|_| back.len())
    };
    proxy.truncate(Truncate { direction: Direction::FromServer, bytes: 30, scope: Scope::FirstConnection });
    assert_eq!(read_all(&mut connect(&proxy)).unwrap(), 30);
    assert_eq!(read_all(&mut connect(&proxy)).unwrap(), 50);
    proxy.truncate(Truncate { direction: Direction::FromServer, bytes: 0, scope: Scope::EveryConnection });
    assert_eq!(read_all(&mut connect(&proxy)).unwrap_or(0), 0);
    assert_eq!(read_all(&mut connect(&proxy)).unwrap_or(0), 0);
    proxy.heal();
    proxy.truncate(Truncate { direction: Direction::ToServer, bytes: 20, scope: Scope::EveryConnection });
    let mut stream = connect(&proxy);
    let _ = read_all(&mut stream);
    assert_eq!(proxy.counters().truncated, 4);
}

#[test]
fn an_unreachable_server_refuses() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = FaultProxy::start(unused);
    let refused = TcpStream::connect(proxy.address()).and_then(|mut stream| round_trip(&mut stream, b"x"));
    assert!(refused.is_err());
    proxy.redirect(echo());
    assert_eq!(round_trip(&mut connect(&proxy), b"after").unwrap(), b"after");
}
