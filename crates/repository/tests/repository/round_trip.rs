//! What is written is what is read, whatever its size and however it was cut, and foreign tools read it too.

use std::io::Read as _;
use std::process::{Command, Stdio};

use bytes::Bytes;
use mainstay_model::progress::Tally;
use mainstay_model::{ErrorKind, StoreKind};
use mainstay_repository::{CHUNK_BYTES, FRAME_BYTES, Repository, Set};
use mainstay_store::{Key, Store};

use crate::support::{Numbers, clock, directory, name, repository, verify};

/// Writes `plain` in pieces cut at random, one object per call.
async fn write_cut(
    writer: &mainstay_repository::SetWriter,
    text: &str,
    mut plain: Bytes,
    numbers: &mut Numbers,
) {
    let mut sink = writer.object(&name(text), "documents").await.unwrap();
    while !plain.is_empty() {
        let most = [100, 70_000, 3 * FRAME_BYTES][numbers.below(3)];
        let length = (1 + numbers.below(most)).min(plain.len());
        sink.write(plain.split_to(length)).await.unwrap();
    }
    let entry = sink.finish().await.unwrap();
    assert_eq!(entry.name, name(text));
}

async fn read_back(set: &Set, text: &str) -> Bytes {
    let mut source = set.read(&name(text)).await.unwrap();
    let mut all = Vec::new();
    while let Some(chunk) = source.next().await.unwrap() {
        assert!(!chunk.is_empty() && chunk.len() <= CHUNK_BYTES);
        all.extend_from_slice(&chunk);
    }
    assert_eq!(source.next().await.unwrap(), None, "the end stays the end");
    all.into()
}

fn sizes(numbers: &mut Numbers) -> Vec<usize> {
    let mut sizes = vec![
        0,
        1,
        2,
        FRAME_BYTES - 1,
        FRAME_BYTES,
        FRAME_BYTES + 1,
        3 * FRAME_BYTES,
        CHUNK_BYTES,
        30_000_000,
    ];
    sizes.extend((0..12).map(|_| numbers.below(5 * FRAME_BYTES)));
    sizes
}

async fn round_trip(store: &Store) -> (Repository, Set) {
    let repository = repository(store, &clock()).await;
    let writer = repository.begin_set(StoreKind::Mongo, "test").await.unwrap();
    let mut numbers = Numbers::new(7);
    let mut expected = Vec::new();
    for (index, size) in sizes(&mut numbers).into_iter().enumerate() {
        let text = format!("db/object.{index:04}");
        let plain = if index % 2 == 0 { numbers.documents(size) } else { numbers.noise(size) };
        write_cut(&writer, &text, plain.clone(), &mut numbers).await;
        expected.push((text, plain));
    }
    let set = writer.commit(&serde_json::json!({})).await.unwrap();
    for (text, plain) in &expected {
        assert!(read_back(&set, text).await == *plain, "{text} of {} bytes", plain.len());
        assert_eq!(set.entry(&name(text)).unwrap().plain_bytes, plain.len() as u64);
    }
    let total: usize = expected.iter().map(|(_, plain)| plain.len()).sum();
    let tally = Tally::default();
    let report = repository.verify(&set, &|_| None, 3, &tally).await.unwrap();
    assert_eq!(report.findings, []);
    assert_eq!((report.objects, report.bytes), (expected.len() as u64, total as u64));
    assert_eq!((tally.total().items, tally.total().bytes), (report.objects, report.bytes));
    (repository, set)
}

#[tokio::test(flavor = "multi_thread")]
async fn any_size_cut_anywhere_in_memory() {
    round_trip(&Store::memory()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_size_cut_anywhere_in_a_directory() {
    let (_folder, store) = directory();
    let (_, set) = round_trip(&store).await;
    // Another process sees the same set.
    let again = repository(&store, &clock()).await;
    let found = again.latest(StoreKind::Mongo).await.unwrap().unwrap();
    assert_eq!(found.id(), set.id());
    assert_eq!(found.manifest_blake3(), set.manifest_blake3());
    assert_eq!(found.manifest(), set.manifest());
    assert!(verify(&again, &found).await.is_sound());
}

#[tokio::test]
async fn a_single_thread_suffices() {
    let store = Store::memory();
    let repository = repository(&store, &clock()).await;
    let writer = repository.begin_set(StoreKind::Redis, "test").await.unwrap();
    let plain = Numbers::new(3).noise(9 * FRAME_BYTES + 5);
    writer.put(&name("dump.rdb"), "dump", plain.clone()).await.unwrap();
    let set = writer.commit(&()).await.unwrap();
    assert!(read_back(&set, "dump.rdb").await == plain);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_objects_at_the_same_time_keep_their_own_order() {
    let store = Store::memory();
    let repository = repository(&store, &clock()).await;
    let writer = std::sync::Arc::new(repository.begin_set(StoreKind::Mongo, "test").await.unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..40_u64 {
        let writer = std::sync::Arc::clone(&writer);
        tasks.spawn(async move {
            let mut numbers = Numbers::new(100 + index);
            let length = numbers.below(4 * FRAME_BYTES);
            let plain = numbers.documents(length);
            let text = format!("db/c{index:03}");
            write_cut(&writer, &text, plain.clone(), &mut numbers).await;
            (text, plain)
        });
    }
    let expected = tasks.join_all().await;
    let set = std::sync::Arc::into_inner(writer).unwrap().commit(&()).await.unwrap();
    let names: Vec<_> = set.manifest().objects.iter().map(|entry| entry.name.clone()).collect();
    assert!(names.is_sorted() && names.len() == 40);
    for (text, plain) in expected {
        assert!(read_back(&set, &text).await == plain, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_objects_are_plain_zstd() {
    let store = Store::memory();
    let repository = repository(&store, &clock()).await;
    let writer = repository.begin_set(StoreKind::Mongo, "test").await.unwrap();
    let mut numbers = Numbers::new(11);
    for (text, length) in [("empty", 0), ("one", 1), ("frames", 3 * FRAME_BYTES + 77)] {
        let plain = numbers.documents(length);
        let entry = writer.put(&name(text), "documents", plain.clone()).await.unwrap();
        let key = Key::new(format!("mongo/sets/{}/{text}.zst", writer.id())).unwrap();
        let stored = store.get(&key, u64::MAX).await.unwrap();
        assert_eq!(entry.stored_bytes, stored.len() as u64);
        assert_eq!(entry.blake3, mainstay_model::Blake3::of(&stored));

        let frame_count = length.div_ceil(FRAME_BYTES).max(1);
        assert_eq!(frames(&stored), frame_count, "{text}");
        let mut decoded = Vec::new();
        zstd::stream::read::Decoder::new(&stored[..]).unwrap().read_to_end(&mut decoded).unwrap();
        assert!(decoded == plain, "{text} by the streaming decoder");
        if let Some(decoded) = zstd_command(&stored) {
            assert!(decoded == plain, "{text} by `zstd -d`");
        }
    }
    writer.abandon().await.unwrap();
}

/// Counts frames and makes sure that each tells its content's size and has a checksum.
fn frames(mut stored: &[u8]) -> usize {
    let mut count = 0;
    while !stored.is_empty() {
        assert!(zstd::zstd_safe::get_frame_content_size(stored).unwrap().is_some(), "content size is told");
        assert_ne!(stored[4] & 0b100, 0, "the checksum flag of the frame header is set");
        stored = &stored[zstd::zstd_safe::find_frame_compressed_size(stored).unwrap()..];
        count += 1;
    }
    count
}

/// What `zstd -d` makes of `stored`; `None` on a machine without it.
fn zstd_command(stored: &[u8]) -> Option<Vec<u8>> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), stored).unwrap();
    let output = Command::new("zstd")
        .args(["-d", "-c"])
        .stdin(std::fs::File::open(file.path()).unwrap())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    assert!(output.status.success(), "zstd -d refuses what was stored");
    Some(output.stdout)
}

#[tokio::test]
async fn an_object_that_is_not_there_is_told() {
    let store = Store::memory();
    let repository = repository(&store, &clock()).await;
    let set = crate::support::small_set(&repository).await;
    let error = set.read(&name("shop/none")).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = set.read_all(&name("shop/users.bson"), 10).await.unwrap_err();
    assert!(error.to_string().contains("shop/users.bson.zst"), "{error}");
}

#[tokio::test]
async fn a_source_may_be_dropped_half_read() {
    let store = Store::memory();
    let repository = repository(&store, &clock()).await;
    let writer = repository.begin_set(StoreKind::Mongo, "test").await.unwrap();
    writer.put(&name("big"), "documents", Numbers::new(1).noise(20 * CHUNK_BYTES)).await.unwrap();
    let set = writer.commit(&()).await.unwrap();
    for _ in 0..700 {
        // More than there are blocking threads: each must end when its source goes.
        let mut source = set.read(&name("big")).await.unwrap();
        source.next().await.unwrap().unwrap();
    }
    assert!(verify(&repository, &set).await.is_sound());
}
