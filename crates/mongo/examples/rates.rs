//! Tells how fast a collection is filled and read, and what that costs this process.
//!
//! `rates MONGODB-URL fill MEGABYTES` makes `rates.documents` of about 1 kB each; `rates MONGODB-URL scan RANGES` reads it. Start a server
//! for it; nothing else should run on the machine.

#![expect(clippy::print_stdout, reason = "an example prints")]

use std::sync::Arc;
use std::time::Instant;

use bson::doc;
use mainstay_engine::{
    CollectionKind, DocumentBatch, DocumentSink, DocumentSource, Namespace, SnapshotRequest,
};
use mainstay_model::{ByteSize, Error, ErrorKind, Result, Secret};
use mainstay_mongo::{MongoConfig, MongoServer};

const DATABASE: &str = "rates";
const COLLECTION: &str = "documents";

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, mode, number] = arguments.as_slice() else { return Err(usage()) };
    let number = number.parse().map_err(|_| usage())?;
    let server = MongoServer::open(&MongoConfig::new(Secret::new(url.as_str()))).await?;
    let (begin, cpu) = (Instant::now(), cpu_seconds());
    let bytes = match mode.as_str() {
        "fill" => fill(&server, number).await?,
        "scan" => scan(&server, number).await?,
        _ => return Err(usage()),
    };
    let (seconds, cpu) = (begin.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let (megabytes, gigabytes) = (bytes as f64 / 1e6, bytes as f64 / 1e9);
    println!(
        "{} in {seconds:.2} s, {:.0} MB/s, {:.2} CPU-s/GB here",
        ByteSize(bytes),
        megabytes / seconds,
        cpu / gigabytes
    );
    Ok(())
}

fn usage() -> Error {
    Error::new(ErrorKind::Usage, "usage: rates MONGODB-URL fill MEGABYTES | scan RANGES")
}

async fn fill(server: &MongoServer, megabytes: usize) -> Result<u64> {
    let target = Namespace::new(DATABASE, COLLECTION);
    server.create(&target, "").await?;
    let mut loader = server.loader(&target, CollectionKind::Collection).await?;
    let mut bytes = 0;
    for batch in 0..megabytes as u64 / 4 {
        let documents =
            (0..4_000).map(|number| document(batch * 4_000 + number)).collect::<Vec<_>>().concat();
        bytes += documents.len() as u64;
        loader.load(&DocumentBatch { bytes: documents.into(), documents: 4_000 }).await?;
    }
    loader.finish().await?;
    Ok(bytes)
}

fn document(number: u64) -> Vec<u8> {
    let lines: Vec<_> = (0..8)
        .map(|line| doc! { "sku": format!("é-{:08x}", number.wrapping_mul(2_654_435_761 + line)), "count": line as i32, "price": 9.5 })
        .collect();
    let order = doc! { "_id": number as i64, "customer": format!("customer {}", number % 10_007), "lines": lines, "note": "n".repeat(420) };
    order.to_vec().expect("a document made here is BSON")
}

async fn scan(server: &MongoServer, ranges: usize) -> Result<u64> {
    let collections = server.collections(DATABASE).await?;
    let Some(info) = collections.into_iter().find(|info| info.namespace.collection == COLLECTION) else {
        return Err(usage());
    };
    let snapshot = server.snapshot(SnapshotRequest::Best).await?;
    let prepared = snapshot.prepare(&info, ranges).await?;
    println!("{} ranges, {:?}", prepared.ranges.len(), prepared.consistency);
    let mut tasks = Vec::new();
    for range in prepared.ranges.clone() {
        let (snapshot, info, prepared) = (Arc::clone(&snapshot), info.clone(), prepared.clone());
        tasks.push(tokio::spawn(async move {
            let mut stream = snapshot.scan(&info, &prepared, &range).await?;
            let mut bytes = 0;
            while let Some(batch) = stream.next().await? {
                bytes += batch.bytes.len() as u64;
            }
            Ok::<u64, Error>(bytes)
        }));
    }
    let mut sum = 0;
    for task in tasks {
        sum += task.await.expect("a scan does not panic")?;
    }
    Ok(sum)
}

/// User and system time of this process, from `/proc/self/stat` in hundredths of a second.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}
