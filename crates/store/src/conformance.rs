//! The conformance suite: what every backend and every transparent decorator must do, as one function for tests to call.
//!
//! It works below a prefix of its own, relies on nothing but the public interface, panics at the first difference, and leaves nothing behind
//! when it passes. Behind the feature `conformance`; no part of the product.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::{Bytes, BytesMut};
use mainstay_model::{ErrorKind, Timestamp};
use tokio::task::JoinSet;

use crate::{Key, Store};

/// Competitors for one key.
const RACER_COUNT: usize = 20;
/// Size of the streamed object; it makes several parts, the last not full.
const LARGE_BYTES: usize = 30_000_001;
/// Size of the writes that stream it: small, and no divisor of a part.
const WRITE_BYTES: usize = 100_003;

/// Runs every check below `prefix`, which must be empty.
///
/// # Panics
/// When the store does not do what [`Store`] documents.
pub async fn run(store: Store, prefix: Key) {
    assert!(store.list(&prefix).await.unwrap().is_empty(), "{prefix} must be empty");
    absent_objects(&store, &prefix.child("absent").unwrap()).await;
    whole_objects(&store, &prefix.child("whole").unwrap()).await;
    create_only(&store, &prefix.child("create").unwrap()).await;
    create_only_race(&store, &prefix.child("race").unwrap()).await;
    streams(&store, &prefix.child("stream").unwrap()).await;
    aborted_streams(&store, &prefix.child("abort").unwrap()).await;
    listings(&store, &prefix.child("list").unwrap()).await;
    store.probe(&prefix, "conformance").await.unwrap();
    assert!(store.list(&prefix).await.unwrap().is_empty(), "the suite leaves nothing");
    assert!(store.leftovers(&prefix).await.unwrap().is_empty(), "no partial files stay");
}

async fn absent_objects(store: &Store, folder: &Key) {
    let key = folder.child("nothing").unwrap();
    let error = store.get(&key, 10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    assert!(error.to_string().contains(key.as_str()), "{error:?}");
    assert_eq!(store.read(&key).await.unwrap_err().kind(), ErrorKind::NotFound);
    store.delete(&key).await.expect("deleting what is absent is no error");
    assert!(store.list(folder).await.unwrap().is_empty());
    assert!(store.folders(folder).await.unwrap().is_empty());
}

async fn whole_objects(store: &Store, folder: &Key) {
    let empty = folder.child("empty").unwrap();
    store.put(&empty, Bytes::new()).await.unwrap();
    assert_eq!(store.get(&empty, 0).await.unwrap(), Bytes::new());
    let mut reader = store.read(&empty).await.unwrap();
    assert_eq!(reader.size(), 0);
    assert!(reader.next().await.unwrap().is_none());

    let key = folder.child("object").unwrap();
    store.put(&key, Bytes::from_static(b"first")).await.unwrap();
    store.put(&key, Bytes::from_static(b"second!")).await.unwrap();
    assert_eq!(store.get(&key, 7).await.unwrap(), "second!");
    let error = store.get(&key, 6).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "an object larger than expected is not read: {error:?}");
    for key in [empty, key] {
        store.delete(&key).await.unwrap();
        assert_eq!(store.get(&key, 10).await.unwrap_err().kind(), ErrorKind::NotFound);
    }
}

async fn create_only(store: &Store, folder: &Key) {
    let key = folder.child("once.json").unwrap();
    store.put_new(&key, Bytes::from_static(b"mine")).await.unwrap();
    let error = store.put_new(&key, Bytes::from_static(b"yours")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    assert_eq!(
        store.put_new(&key, Bytes::from_static(b"mine")).await.unwrap_err().kind(),
        ErrorKind::Conflict,
        "the same bytes are no excuse when no answer was lost"
    );
    assert_eq!(store.get(&key, 10).await.unwrap(), "mine", "the loser leaves the winner's bytes alone");
    store.delete(&key).await.unwrap();
    store.put_new(&key, Bytes::new()).await.expect("a deleted key is free again, and an empty object is one");
    assert_eq!(store.put_new(&key, Bytes::new()).await.unwrap_err().kind(), ErrorKind::Conflict);
    store.delete(&key).await.unwrap();
}

async fn create_only_race(store: &Store, folder: &Key) {
    for round in 0..5 {
        let key = folder.child(format!("round-{round}")).unwrap();
        let mut racers = JoinSet::new();
        for racer in 0..RACER_COUNT {
            let (store, key) = (store.clone(), key.clone());
            let bytes = Bytes::from(format!("racer {racer:02} {}", "x".repeat(racer * 100)));
            racers.spawn(async move { (bytes.clone(), store.put_new(&key, bytes).await) });
        }
        let mut winners = Vec::new();
        while let Some(joined) = racers.join_next().await {
            match joined.unwrap() {
                (bytes, Ok(())) => winners.push(bytes),
                (_, Err(error)) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}"),
            }
        }
        assert_eq!(winners.len(), 1, "exactly one of {RACER_COUNT} creates {key}");
        assert_eq!(store.get(&key, 10_000).await.unwrap(), winners[0], "the object is the winner's, whole");
        store.delete(&key).await.unwrap();
    }
}

async fn streams(store: &Store, folder: &Key) {
    for size in [0, 1, 8 * 1024 * 1024, LARGE_BYTES] {
        let key = folder.child(format!("{size}.bin")).unwrap();
        let bytes = pattern(size);
        let mut writer = store.writer(&key).await.unwrap();
        for start in (0..size).step_by(WRITE_BYTES) {
            writer.write(bytes.slice(start..size.min(start + WRITE_BYTES))).await.unwrap();
        }
        assert_eq!(
            store.get(&key, 1).await.unwrap_err().kind(),
            ErrorKind::NotFound,
            "invisible until finished"
        );
        assert!(store.list(folder).await.unwrap().is_empty(), "and not listed");
        assert_eq!(writer.finish().await.unwrap(), size as u64);
        assert_eq!(read_all(store, &key).await, bytes, "{size} bytes come back as they were");
        assert!(store.get(&key, size as u64).await.unwrap() == bytes);
        store.delete(&key).await.unwrap();
    }
    let key = folder.child("replaced").unwrap();
    store.put(&key, Bytes::from_static(b"old")).await.unwrap();
    let mut writer = store.writer(&key).await.unwrap();
    writer.write(pattern(9_000_000)).await.unwrap();
    assert_eq!(store.get(&key, 10).await.unwrap(), "old", "what was there stays until the writer finishes");
    writer.finish().await.unwrap();
    assert_eq!(read_all(store, &key).await.len(), 9_000_000);
    store.delete(&key).await.unwrap();
}

async fn read_all(store: &Store, key: &Key) -> Bytes {
    let mut reader = store.read(key).await.unwrap();
    let mut whole = BytesMut::new();
    while let Some(chunk) = reader.next().await.unwrap() {
        assert!(!chunk.is_empty() && chunk.len() <= 1024 * 1024, "chunks are bounded");
        whole.extend_from_slice(&chunk);
    }
    assert_eq!(reader.size(), whole.len() as u64);
    whole.freeze()
}

async fn aborted_streams(store: &Store, folder: &Key) {
    for size in [10, 20_000_000] {
        let key = folder.child(format!("aborted-{size}")).unwrap();
        let mut writer = store.writer(&key).await.unwrap();
        writer.write(pattern(size)).await.unwrap();
        writer.abort().await.unwrap();
        assert_eq!(store.get(&key, 1).await.unwrap_err().kind(), ErrorKind::NotFound);

        let key = folder.child(format!("dropped-{size}")).unwrap();
        let mut writer = store.writer(&key).await.unwrap();
        writer.write(pattern(size)).await.unwrap();
        drop(writer);
        // The remains go in the background.
        for _ in 0..500 {
            if store.leftovers(folder).await.unwrap().is_empty() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(store.get(&key, 1).await.unwrap_err().kind(), ErrorKind::NotFound);
    }
    assert!(store.list(folder).await.unwrap().is_empty());
    assert!(store.leftovers(folder).await.unwrap().is_empty());
    assert!(
        store.folders(&folder.parent().unwrap()).await.unwrap().is_empty(),
        "a folder without objects is none"
    );
}

async fn listings(store: &Store, folder: &Key) {
    let names = [
        "aa",
        "a+b",
        "a,b=c@d",
        "a-/x",
        "a.json",
        "a/b",
        "a/b.c/d",
        "a/c",
        "a%2Fb",
        "a%E6%97%A5/%7E~",
        "b~",
        "a~/y",
        "A",
        "a0/z",
        "_",
        ".hidden",
        "z%25/..b",
    ];
    let before = Timestamp::now();
    for (size, name) in names.into_iter().enumerate() {
        store.put_new(&folder.child(name).unwrap(), pattern(size)).await.unwrap();
    }
    let sibling = Key::new(format!("{folder}-sibling/x")).unwrap();
    store.put(&sibling, Bytes::new()).await.unwrap();

    let mut expected: Vec<(String, u64)> =
        (0..).zip(&names).map(|(size, name)| (format!("{folder}/{name}"), size)).collect();
    expected.sort();
    let listed = store.list(folder).await.unwrap();
    let told: Vec<(String, u64)> =
        listed.iter().map(|info| (info.key.as_str().to_owned(), info.bytes)).collect();
    assert_eq!(
        told, expected,
        "sorted by the bytes of the key, nothing of a sibling with the same beginning"
    );
    for info in &listed {
        let age = before.duration_until(info.modified).as_secs();
        assert!((-5..=600).contains(&age), "{} was modified {age} s after this check began", info.key);
        assert_eq!(store.get(&info.key, info.bytes).await.unwrap().len() as u64, info.bytes);
    }
    assert_eq!(
        store.folders(folder).await.unwrap(),
        ["a", "a%E6%97%A5", "a-", "a0", "a~", "z%25"],
        "only the folders right below, sorted"
    );
    assert_eq!(store.folders(&folder.child("a").unwrap()).await.unwrap(), ["b.c"]);
    let below: Vec<_> = store
        .list(&folder.child("a").unwrap())
        .await
        .unwrap()
        .into_iter()
        .map(|info| info.key.name().to_owned())
        .collect();
    assert_eq!(below, ["b", "d", "c"]);
    assert!(
        store.list(&folder.child("a/b").unwrap()).await.unwrap().is_empty(),
        "an object is not below itself"
    );

    let last = Key::new("zzzz").unwrap();
    let absent = [folder.child("a.k").unwrap(), folder.clone(), last];
    for after in listed.iter().map(|info| info.key.clone()).chain(absent) {
        let later: Vec<_> = listed.iter().filter(|info| info.key > after).cloned().collect();
        assert_eq!(store.list_after(folder, &after).await.unwrap(), later, "after {after}");
        for until in listed.iter().map(|info| &info.key) {
            let between: Vec<_> = later.iter().filter(|info| info.key < *until).cloned().collect();
            let found = store.list_between(folder, &after, until).await.unwrap();
            assert_eq!(found, between, "after {after} until {until}");
        }
    }
    assert!(store.list_after(&folder.child("none").unwrap(), folder).await.unwrap().is_empty());

    store.delete(&sibling).await.unwrap();
    for info in listed {
        store.delete(&info.key).await.unwrap();
    }
    assert!(store.folders(folder).await.unwrap().is_empty());
}

/// Bytes that do not repeat with any part or chunk size.
fn pattern(size: usize) -> Bytes {
    (0..size as u64)
        .map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8)
        .collect::<Vec<u8>>()
        .into()
}
