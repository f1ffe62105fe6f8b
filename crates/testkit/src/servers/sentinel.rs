//! A Redis Sentinel: watches one primary and, with others of its kind, promotes a replica in its place.
//!
//! Times are short, so that a failover takes a second or two. Readiness is an answered `PING`. Refuses passwords and TLS.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use rustix::process::Signal;

use super::port::free_port;
use super::process::{Folder, Launch, Process, StartError};
use super::redis::Redis;
use crate::engines::{EngineKind, locate};

const NAME: &str = "sentinel";

/// A running Sentinel, ended on drop.
#[derive(Debug)]
pub struct Sentinel {
    #[expect(dead_code, reason = "held for its end")]
    process: Process,
    port: u16,
}

impl Sentinel {
    /// Watches `primary` by this name; `quorum` Sentinels must agree that it is gone.
    ///
    /// # Errors
    /// As [`super::RedisOptions::start`].
    pub fn watch(name: &str, primary: &Redis, quorum: u32) -> Result<Self, StartError> {
        let program = locate(EngineKind::Redis)?.program;
        let failed = |error: io::Error| StartError::prepare(NAME, error);
        let folder = Folder::create(None, None).map_err(failed)?;
        let port = free_port();
        let configuration = format!(
            "port {port}\nbind 127.0.0.1\ndir \"{}\"\nsentinel monitor {name} 127.0.0.1 {} {quorum}\n\
             sentinel down-after-milliseconds {name} 500\nsentinel failover-timeout {name} 3000\n",
            folder.path().display(),
            primary.port()
        );
        let file = folder.path().join("sentinel.conf");
        fs::write(&file, configuration).map_err(failed)?;
        let arguments = vec![file.into(), "--sentinel".into()];
        let launch = Launch { name: NAME, program, arguments, user: None, abandon: Signal::KILL };
        let mut process = Process::new(launch, folder);
        process.start(|| pong(port).unwrap_or(false))?;
        Ok(Self { process, port })
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }
}

fn pong(port: u16) -> io::Result<bool> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(b"*1\r\n$4\r\nPING\r\n")?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer)?;
    Ok(&answer == b"+PONG\r\n")
}
