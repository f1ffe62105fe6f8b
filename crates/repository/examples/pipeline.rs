//! Measures the writing pipeline: `cargo run --release -p mainstay-repository --example pipeline -- [threads] [megabytes]`.
//!
//! Documents of about 1 KB, JSON-like, go through one `ObjectSink` into a store in memory, at several levels, plain and encrypted, then
//! come back through `verify`. Prints plain MB/s (10^6 bytes) and the ratio of plain to stored bytes.
#![expect(clippy::print_stdout, reason = "a measurement is printed")]

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use mainstay_model::{ObjectName, Result, Secret, StoreKind, SystemClock, progress::Silent};
use mainstay_repository::{Compression, Repository, RepositoryOptions};
use mainstay_store::Store;

/// How much one write carries, as one answer of a server does.
const WRITE_BYTES: usize = 4 * 1024 * 1024;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments =
        std::env::args().skip(1).map(|text| text.parse::<usize>().expect("arguments are numbers"));
    let threads = arguments.next().unwrap_or(Compression::default().threads);
    let megabytes = arguments.next().unwrap_or(400);
    let writes = documents(megabytes * 1_000_000);
    let bytes: usize = writes.iter().map(Bytes::len).sum();
    println!("{} MB in writes of {} KiB, {threads} threads", bytes / 1_000_000, WRITE_BYTES / 1024);
    println!("level  keys  write MB/s  verify MB/s  ratio");
    for (level, encrypted) in [(1, false), (2, false), (3, false), (6, false), (1, true)] {
        measure(&writes, bytes, Compression { level, threads }, encrypted).await?;
    }
    Ok(())
}

async fn measure(writes: &[Bytes], bytes: usize, compression: Compression, encrypted: bool) -> Result<()> {
    let mut options = RepositoryOptions { compression, ..RepositoryOptions::default() };
    if encrypted {
        use age::secrecy::ExposeSecret as _;
        let identity = age::x25519::Identity::generate();
        options.recipients = vec![identity.to_public().to_string()];
        options.identities = vec![Secret::new(identity.to_string().expose_secret())];
    }
    let repository = Repository::create(Store::memory(), Arc::new(SystemClock), options).await?;
    let writer = repository.begin_set(StoreKind::Mongo, "pipeline").await?;
    let began = Instant::now();
    let mut sink = writer.object(&ObjectName::from_parts(["documents.bson"]), "documents").await?;
    for write in writes {
        sink.write(write.clone()).await?;
    }
    let entry = sink.finish().await?;
    let written = began.elapsed();
    let set = writer.commit(&()).await?;
    let began = Instant::now();
    let report = repository.verify(&set, &|_| None, 1, &Silent).await?;
    let read = began.elapsed();
    assert!(report.is_sound());
    let rate = |elapsed: std::time::Duration| bytes as f64 / 1e6 / elapsed.as_secs_f64();
    println!(
        "{:>5}  {:>4}  {:>10.0}  {:>11.0}  {:>5.2}",
        compression.level,
        if encrypted { "age" } else { "-" },
        rate(written),
        rate(read),
        bytes as f64 / entry.stored_bytes as f64
    );
    Ok(())
}

/// Marketplace-like documents: fixed field names, some prose from a small vocabulary, random identifiers and numbers.
fn documents(total: usize) -> Vec<Bytes> {
    const WORDS: [&str; 16] = [
        "order", "delivery", "blue", "steel", "large", "offer", "price", "request", "seller", "quality",
        "fast", "shipping", "original", "warranty", "package", "review",
    ];
    let mut state = 42_u64;
    let mut number = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    };
    let mut writes = Vec::new();
    let mut text = Vec::with_capacity(WRITE_BYTES + 2048);
    let mut made = 0;
    while made < total {
        let description: Vec<_> = (0..80).map(|_| WORDS[(number() % 16) as usize]).collect();
        let line = format!(
            "{{\"_id\":\"{:016x}{:08x}\",\"createdAt\":{},\"status\":\"{}\",\"buyer\":{{\"id\":\"{:016x}\",\"email\":\"user{}@example.com\"}},\
             \"amount\":{}.{:02},\"currency\":\"USD\",\"tags\":[\"{}\",\"{}\"],\"description\":\"{}\",\"address\":{{\"street\":\"{} Main Street\",\
             \"zip\":\"{:05}\",\"geo\":[{},{}]}},\"token\":\"{:016x}{:016x}\"}}\n",
            number(),
            number() as u32,
            1_700_000_000 + number() % 60_000_000,
            WORDS[(number() % 4) as usize],
            number(),
            number() % 1_000_000,
            number() % 5_000,
            number() % 100,
            WORDS[(number() % 16) as usize],
            WORDS[(number() % 16) as usize],
            description.join(" "),
            number() % 9_999,
            number() % 100_000,
            number() % 180_000,
            number() % 90_000,
            number(),
            number(),
        );
        text.extend_from_slice(line.as_bytes());
        made += line.len();
        if text.len() >= WRITE_BYTES || made >= total {
            writes.push(Bytes::from(std::mem::replace(&mut text, Vec::with_capacity(WRITE_BYTES + 2048))));
        }
    }
    writes
}
