//! The decorators that are meant to be noticed: read-only, throttled, faults.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use bytes::Bytes;
use mainstay_model::ErrorKind;
use mainstay_store::{Fault, Faults, Key, Store, Verb};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

#[tokio::test]
async fn a_read_only_handle_reads_and_changes_nothing() {
    let store = Store::memory();
    store.put(&key("a/b"), Bytes::from_static(b"x")).await.unwrap();
    let reader = store.read_only();
    assert_eq!(reader.get(&key("a/b"), 1).await.unwrap(), "x");
    assert_eq!(reader.list(&Key::root()).await.unwrap().len(), 1);
    let refusals = [
        reader.put(&key("a/b"), Bytes::new()).await.unwrap_err(),
        reader.put_new(&key("c"), Bytes::new()).await.unwrap_err(),
        reader.writer(&key("c")).await.unwrap_err(),
        reader.delete(&key("a/b")).await.unwrap_err(),
    ];
    for error in refusals {
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert_eq!(error.state(), Some("nothing was changed"));
    }
    assert_eq!(store.get(&key("a/b"), 1).await.unwrap(), "x");
}

#[tokio::test(start_paused = true)]
async fn a_throttle_bounds_all_writers_together() {
    let store = Store::memory().throttled(1_000_000);
    let begun = tokio::time::Instant::now();
    let write = async |name: &str| {
        store.put(&key(name), vec![0; 500_000].into()).await.unwrap();
        let mut writer = store.clone().writer(&key(&format!("{name}-streamed"))).await.unwrap();
        writer.write(vec![0; 20_000_000].into()).await.unwrap();
        writer.finish().await.unwrap();
    };
    futures::future::join(write("a"), write("b")).await;
    let elapsed = begun.elapsed();
    assert!((41.0..42.0).contains(&elapsed.as_secs_f64()), "41 MB at 1 MB/s took {elapsed:?}");
}

#[tokio::test]
async fn the_nth_operation_fails_and_the_others_do_not() {
    let faults =
        Faults::new().and(Fault::fail(ErrorKind::Unreachable).on(Verb::PutNew).below("audit/").nth(2));
    let store = Store::memory().with_faults(faults.clone());
    store.put_new(&key("audit/1"), Bytes::new()).await.unwrap();
    store.put_new(&key("other/2"), Bytes::new()).await.unwrap();
    let error = store.put_new(&key("audit/2"), Bytes::new()).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unreachable && error.is_temporary());
    assert!(error.to_string().contains("audit/2"), "{error}");
    store.put_new(&key("audit/2"), Bytes::new()).await.expect("it had no effect, and the third passes");
    assert_eq!(faults.operation_count(), 4);
}

#[tokio::test]
async fn cut_off_from_the_nth_on() {
    let faults = Faults::new().and(Fault::fail(ErrorKind::Storage).from_nth(3));
    let store = Store::memory().with_faults(faults.clone());
    for name in ["a", "b"] {
        store.put(&key(name), Bytes::new()).await.unwrap();
    }
    assert!(store.get(&key("a"), 1).await.is_err());
    assert!(store.list(&Key::root()).await.is_err());
    faults.mend();
    assert_eq!(store.list(&Key::root()).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_lost_answer_leaves_the_effect() {
    let store = Store::memory();
    let faulty = store.with_faults(Faults::new().and(Fault::lose_answer(ErrorKind::Unreachable).nth(1)));
    let error = faulty.put_new(&key("a"), Bytes::from_static(b"x")).await.unwrap_err();
    assert!(mainstay_store::outcome_is_open(&error) && error.state().unwrap().contains("not known"));
    assert_eq!(store.get(&key("a"), 1).await.unwrap(), "x");
    assert_eq!(faulty.put_new(&key("a"), Bytes::new()).await.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn a_flipped_byte_is_seen_by_both_ways_of_reading() {
    let store = Store::memory();
    let original: Bytes = vec![0; 3_000_000].into();
    store.put(&key("a"), original.clone()).await.unwrap();
    for offset in [0, 1_048_575, 1_048_576, 2_999_999, 3_000_000] {
        let faulty = store.with_faults(Faults::new().and(Fault::flip_byte(offset)));
        let read = faulty.get(&key("a"), 3_000_000).await.unwrap();
        let differing: Vec<u64> =
            (0..).zip(&read).filter(|(_, byte)| **byte != 0).map(|(at, _)| at).collect();
        let expected: Vec<u64> = [offset].into_iter().filter(|offset| *offset < 3_000_000).collect();
        assert_eq!(differing, expected);
        let mut reader = faulty.read(&key("a")).await.unwrap();
        let mut flipped = 0;
        while let Some(chunk) = reader.next().await.unwrap() {
            flipped += chunk.iter().filter(|byte| **byte != 0).count();
        }
        assert_eq!(flipped, expected.len());
    }
}

#[tokio::test]
async fn a_full_disk_stops_a_stream_and_leaves_nothing() {
    let store = Store::memory();
    let faulty = store.with_faults(Faults::new().disk_full_after(10_000_000));
    let mut writer = faulty.writer(&key("big")).await.unwrap();
    writer.write(vec![1; 9_000_000].into()).await.unwrap();
    let error = writer.write(vec![1; 2_000_000].into()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage);
    assert!(writer.write(Bytes::from_static(b"x")).await.is_err(), "a broken writer stays broken");
    assert!(writer.finish().await.is_err());
    assert!(store.list(&Key::root()).await.unwrap().is_empty());
    assert!(faulty.put(&key("small"), Bytes::from_static(b"x")).await.is_err(), "the disk stays full");
}

#[tokio::test]
async fn a_writer_is_finished_in_a_task_of_its_own() {
    let store = Store::memory();
    let mut writer = store.writer(&key("a")).await.unwrap();
    writer.write(vec![1; 9_000_000].into()).await.unwrap();
    assert_eq!(tokio::spawn(writer.finish()).await.unwrap().unwrap(), 9_000_000);
}

#[tokio::test(start_paused = true)]
async fn a_delay_is_waited_out() {
    let store =
        Store::memory().with_faults(Faults::new().and(Fault::delay(Duration::from_secs(5)).on(Verb::Get)));
    store.put(&key("a"), Bytes::new()).await.unwrap();
    let begun = tokio::time::Instant::now();
    store.get(&key("a"), 1).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(5));
}
