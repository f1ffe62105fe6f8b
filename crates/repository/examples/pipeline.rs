//! Measures the writing pipeline: `cargo run --release -p mainstay-repository --example pipeline -- [threads] [megabytes] [file]`.
//!
//! Documents of about 1 KB, JSON-like, or the first megabytes of a file (a `.bson` of `mongodump`, say) go through one `ObjectSink` into a
//! store in memory, at several levels, plain and encrypted, then come back through `verify`. Prints plain MB/s (10^6 bytes), the CPU seconds
//! of all threads for writing, and the ratio of plain to stored bytes.
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
    let mut arguments = std::env::args().skip(1);
    let mut number =
        || arguments.next().map(|text| text.parse::<usize>().expect("the first arguments are numbers"));
    let threads = number().unwrap_or(Compression::default().threads);
    let bytes_max = number().unwrap_or(400) * 1_000_000;
    let writes = match arguments.next() {
        None => documents(bytes_max),
        Some(file) => {
            let mut read = std::fs::read(file).expect("the file can be read");
            read.truncate(bytes_max);
            read.chunks(WRITE_BYTES).map(Bytes::copy_from_slice).collect()
        }
    };
    let bytes: usize = writes.iter().map(Bytes::len).sum();
    println!("{} MB in writes of {} KiB, {threads} threads", bytes / 1_000_000, WRITE_BYTES / 1024);
    println!("level  keys  write MB/s  CPU s  verify MB/s  ratio");
    for (level, encrypted) in [(1, false), (2, false), (3, false), (4, false), (6, false), (3, true)] {
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
    let (began, cpu_before) = (Instant::now(), cpu_seconds());
    let mut sink = writer.object(&ObjectName::from_parts(["documents.bson"]), "documents").await?;
    for write in writes {
        sink.write(write.clone()).await?;
    }
    let entry = sink.finish().await?;
    let (written, cpu) = (began.elapsed(), cpu_seconds() - cpu_before);
    let set = writer.commit(&()).await?;
    let began = Instant::now();
    let report = repository.verify(&set, &|_| None, 1, &Silent).await?;
    let read = began.elapsed();
    assert!(report.is_sound());
    let rate = |elapsed: std::time::Duration| bytes as f64 / 1e6 / elapsed.as_secs_f64();
    println!(
        "{:>5}  {:>4}  {:>10.0}  {:>5.2}  {:>11.0}  {:>6.3}",
        compression.level,
        if encrypted { "age" } else { "-" },
        rate(written),
        cpu,
        rate(read),
        bytes as f64 / entry.stored_bytes as f64
    );
    Ok(())
}

/// CPU seconds of this process so far: fields 14 and 15 of `/proc/self/stat`, in ticks of 10 ms; 0 where there is none.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok());
    ticks.sum::<u64>() as f64 / 100.0
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
