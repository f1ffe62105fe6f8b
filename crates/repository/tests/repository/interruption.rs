//! The process or the store stops at any moment: nothing half-written is ever listed, and what is left can be removed.

use std::sync::Arc;

use mainstay_model::{ErrorKind, ManualClock, Result, StoreKind};
use mainstay_repository::{FRAME_BYTES, Repository, Set};
use mainstay_store::{Fault, Faults, Key, Store};

use crate::support::{LONG, Numbers, clock, directory, name, repository, small_set, verify};

async fn backup(repository: &Repository) -> Result<Set> {
    let writer = repository.begin_set(StoreKind::Mongo, "host:1 backup").await?;
    let mut sink = writer.object(&name("shop/users.bson"), "documents").await?;
    for seed in 0..3 {
        sink.write(Numbers::new(seed).documents(FRAME_BYTES / 2 + 1_000)).await?;
    }
    sink.finish().await?;
    writer.put(&name("shop/users.metadata.json"), "metadata", Numbers::new(9).documents(300)).await?;
    writer.commit(&serde_json::json!({})).await
}

/// Every listed set is whole, and removing all leftovers leaves exactly these.
async fn check_clean(store: &Store, clock: &Arc<ManualClock>, what: &str) -> usize {
    let opened = repository(store, clock).await;
    let count = check_sets(&opened, what).await;
    clock.advance(LONG);
    for leftover in opened.leftovers().await.unwrap() {
        assert!(!leftover.in_use, "{what}: {leftover:?}");
        opened.remove_leftover(&leftover).await.unwrap();
    }
    assert_eq!(opened.leftovers().await.unwrap(), [], "{what}");
    assert_eq!(check_sets(&opened, what).await, count, "{what}");
    let folders = store.folders(&Key::new("mongo/sets").unwrap()).await.unwrap();
    assert_eq!(folders.len(), count, "{what}: {folders:?}");
    count
}

async fn check_sets(repository: &Repository, what: &str) -> usize {
    let entries = repository.sets(None).await.unwrap();
    let count = entries.len();
    for entry in entries {
        let set = entry.into_set().unwrap();
        assert_eq!(verify(repository, &set).await.findings, [], "{what}");
    }
    count
}

/// Cuts a backup off before, or right after, each of its operations on the store.
async fn cut_everywhere(fault: fn(ErrorKind) -> Fault, for_good: bool) {
    let mut committed = 0;
    for n in 1.. {
        let (store, clock, faults) = (Store::memory(), clock(), Faults::new());
        repository(&store, &clock).await;
        let shaky = repository(&store.with_faults(faults.clone()), &clock).await;
        let before = faults.operation_count();
        let fault = fault(ErrorKind::Storage);
        let _ = faults.clone().and(if for_good { fault.from_nth(n) } else { fault.nth(n) });
        let outcome = backup(&shaky).await;
        let met = faults.operation_count() - before;
        faults.mend();
        let what = format!("operation {n}");
        let count = check_clean(&store, &clock, &what).await;
        match outcome {
            Ok(_) => assert_eq!(count, 1, "{what}: what was reported exists"),
            Err(error) => {
                assert!(
                    count == 0 || error.contexts().iter().any(|context| context.contains("commit")),
                    "{what}: {error:?}"
                );
                assert!(!error.to_string().is_empty());
            }
        }
        committed += count;
        small_set(&repository(&store, &clock).await).await;
        if met < n {
            assert!(n > 8, "the backup has that many operations");
            assert!(committed > 0);
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_cut_off_before_any_operation_leaves_whole_sets_only() {
    cut_everywhere(Fault::fail, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_cut_off_after_any_operation_leaves_whole_sets_only() {
    cut_everywhere(Fault::lose_answer, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failed_operation_leaves_whole_sets_only() {
    cut_everywhere(Fault::fail, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_lost_answer_leaves_whole_sets_only() {
    cut_everywhere(Fault::lose_answer, false).await;
}

#[tokio::test]
async fn a_removal_cut_off_anywhere_can_be_repeated() {
    for n in 1.. {
        let (store, clock, faults) = (Store::memory(), clock(), Faults::new());
        let opened = repository(&store, &clock).await;
        let kept = small_set(&opened).await;
        clock.advance(LONG);
        let writer = opened.begin_set(StoreKind::Mongo, "test").await.unwrap();
        for text in ["a", "b", "c"] {
            writer.put(&name(text), "documents", Numbers::new(1).noise(50)).await.unwrap();
        }
        drop(writer);
        clock.advance(LONG);
        let shaky = repository(&store.with_faults(faults.clone()), &clock).await;
        let leftover = shaky.leftovers().await.unwrap().remove(0);
        let before = faults.operation_count();
        let _ = faults.clone().and(Fault::fail(ErrorKind::Storage).from_nth(n));
        let outcome = shaky.remove_leftover(&leftover).await;
        let met = faults.operation_count() - before;
        faults.mend();
        let what = format!("operation {n}");
        assert!(outcome.is_ok() == (met < n), "{what}");
        assert_eq!(check_clean(&store, &clock, &what).await, 1, "{what}");
        assert!(verify(&opened, &kept).await.findings.is_empty());
        if met < n {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_leaves_no_set() {
    let (_folder, store) = directory();
    let (clock, faults) = (clock(), Faults::new());
    repository(&store, &clock).await;
    let full = repository(&store.with_faults(faults.clone()), &clock).await;
    for room in [0, 3_000, 1_000_000, 4_000_000, 20_000_000] {
        let _ = faults.clone().disk_full_after(room);
        let error = match full.begin_set(StoreKind::Mongo, "host:1 backup").await {
            Err(error) => error,
            Ok(writer) => {
                let mut sink = writer.object(&name("shop/users.bson"), "documents").await.unwrap();
                let error = loop {
                    if let Err(error) = sink.write(Numbers::new(room).noise(3_000_000)).await {
                        break error;
                    }
                };
                assert!(sink.write(Numbers::new(1).noise(3_000_000)).await.is_err(), "it stays broken");
                assert!(sink.finish().await.is_err());
                let state = error.state().unwrap();
                assert!(state.contains(writer.id().as_str()) && state.contains("does not exist"), "{state}");
                assert!(error.hint().unwrap().contains("mainstay backup prune"), "{error:?}");
                assert!(error.to_string().contains("shop/users.bson.zst"), "{error}");
                error
            }
        };
        assert_eq!(error.kind(), ErrorKind::Storage);
        faults.mend();
        assert_eq!(check_clean(&store, &clock, "full disk").await, 0);
    }
    assert!(verify(&full, &small_set(&full).await).await.is_sound());
}
