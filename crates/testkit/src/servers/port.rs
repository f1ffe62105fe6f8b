//! Free ports on the loopback address.
//!
//! Ports are taken from below the range that systems give to outgoing connections (32768 and up on Linux), so that a
//! stopped server finds its port free when it starts again. Relies on binding as the test of freedom; another process
//! may still be quicker, which the servers meet by trying once more.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;

const FIRST: u16 = 15_000;
const COUNT: u16 = 17_000;

/// A port that nothing listens on at 127.0.0.1 and that this process has not been given before.
///
/// # Panics
/// When no port is free.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut given = GIVEN.lock().expect("no holder panics");
    let given = given.get_or_insert_default();
    // A hasher of the standard library is seeded differently in every process.
    let begin = RandomState::new().hash_one(std::process::id()) % u64::from(COUNT);
    (0..u64::from(COUNT))
        .map(|step| FIRST + ((begin + step) % u64::from(COUNT)) as u16)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok() && given.insert(*port))
        .expect("a free port on 127.0.0.1")
}
