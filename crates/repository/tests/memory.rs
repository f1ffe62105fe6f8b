//! Memory stays within its bound, whatever the size of an object. Alone in its process, because it looks at the process's peak.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use bytes::Bytes;
use mainstay_model::{StoreKind, SystemClock, progress::Silent};
use mainstay_repository::{Compression, FRAME_BYTES, Repository, RepositoryOptions};
use mainstay_store::{Location, Store, StoreOptions};

const THREADS: usize = 2;
const OBJECTS: usize = 2;
const OBJECT_BYTES: usize = 160 * 1024 * 1024;

/// The most memory this process has had resident, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn large_objects_that_do_not_compress_stay_within_the_bound() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&Location::directory(folder.path()), &StoreOptions::default()).unwrap();
    let compression = Compression { level: 1, threads: THREADS };
    let options = RepositoryOptions { compression, ..RepositoryOptions::default() };
    let repository = Repository::create(store, Arc::new(SystemClock), options).await.unwrap();
    let before = peak();

    let writer = Arc::new(repository.begin_set(StoreKind::Mongo, "test").await.unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for object in 0..OBJECTS {
        let writer = Arc::clone(&writer);
        tasks.spawn(async move {
            let name = mainstay_model::ObjectName::from_parts([format!("o{object}").as_str()]);
            let mut sink = writer.object(&name, "documents").await.unwrap();
            let mut state = object as u64 + 1;
            for _ in 0..OBJECT_BYTES / 100_000 {
                sink.write(noise(&mut state, 100_000)).await.unwrap();
            }
            sink.finish().await.unwrap();
        });
    }
    tasks.join_all().await;
    let set = Arc::into_inner(writer).unwrap().commit(&()).await.unwrap();
    assert!(set.manifest().stored_bytes() > (OBJECTS * OBJECT_BYTES / 2) as u64, "it did not compress");
    let written = peak() - before;
    let report = repository.verify(&set, &|_| None, OBJECTS, &Silent).await.unwrap();
    assert!(report.is_sound());
    let read = peak() - before;

    // The bound of the crate's documentation, the store's three parts of 8 MiB per object, and room for the allocator, whose arenas
    // keep what they have had. The objects together have more than twice as many bytes.
    let frames = (2 * THREADS + 2) * 2 * FRAME_BYTES;
    let contexts = THREADS * (2 * FRAME_BYTES + (1 << 20));
    let objects = OBJECTS * (2 * FRAME_BYTES + 3 * (8 << 20) + FRAME_BYTES);
    let bound = frames + contexts + objects + (40 << 20);
    assert!(bound < OBJECTS * OBJECT_BYTES / 2);
    assert!(written < bound, "writing took {written} bytes; the bound is {bound}");
    assert!(read < bound, "reading took it to {read} bytes; the bound is {bound}");
}

fn noise(state: &mut u64, length: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    bytes.into()
}
