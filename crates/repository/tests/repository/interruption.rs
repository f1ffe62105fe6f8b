//! The process or the store stops at any moment: nothing half-written is ever listed, and what is left can be removed.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use mainstay_model::{ErrorKind, ManualClock, Result, StoreKind};
use mainstay_repository::{FRAME_BYTES, Repository, Set};
use mainstay_store::{Fault, Faults, Key, Store, Verb};

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
                let state = error.state().unwrap_or("");
                assert!(count == 0 || state.contains("was committed is not known"), "{what}: {error:?}");
                assert!(
                    !(state.contains("does not exist") && state.contains("not known")),
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

/// What `commit` says when the store fails behind the manifest, by the verb that fails.
async fn error_of_commit(faults: &[Fault]) -> (mainstay_model::Error, usize) {
    let (store, clock, broken) = (Store::memory(), clock(), Faults::new());
    let shaky = repository(&store.with_faults(broken.clone()), &clock).await;
    let writer = shaky.begin_set(StoreKind::Mongo, "test").await.unwrap();
    writer.put(&name("a"), "documents", Numbers::new(1).noise(50)).await.unwrap();
    for fault in faults {
        let _ = broken.clone().and(fault.clone().below("mongo/"));
    }
    let error = writer.commit(&serde_json::json!({})).await.unwrap_err();
    broken.mend();
    (error, repository(&store, &clock).await.sets(None).await.unwrap().len())
}

#[tokio::test]
async fn a_set_that_may_exist_is_never_called_missing() {
    let unreachable = ErrorKind::Unreachable;
    let open = [
        vec![Fault::fail(unreachable).on(Verb::List)],
        vec![Fault::lose_answer(unreachable).on(Verb::PutNew), Fault::fail(unreachable).on(Verb::Get)],
        vec![Fault::lose_answer(unreachable).on(Verb::PutNew), Fault::fail(unreachable).on(Verb::List)],
    ];
    for faults in open {
        let (error, count) = error_of_commit(&faults).await;
        assert_eq!(count, 1, "{faults:?}");
        let state = error.state().unwrap();
        assert!(state.starts_with("whether backup set ") && state.contains("`mainstay backup list` tells"));
        assert!(!state.contains("does not exist"), "{state}");
        assert!(error.hint().unwrap().contains("mainstay backup list"), "{error:?}");
        assert_eq!(error.kind(), unreachable);
    }
    // Nothing was asked of the store, or it has answered: then it is known.
    let (error, count) = error_of_commit(&[Fault::fail(unreachable).on(Verb::PutNew)]).await;
    assert_eq!(count, 0);
    assert!(error.state().unwrap().contains("does not exist"), "{error:?}");
    // Refused, and then out of sight.
    let faults = [Fault::fail(unreachable).on(Verb::PutNew), Fault::fail(unreachable).on(Verb::Get)];
    let (error, count) = error_of_commit(&faults).await;
    assert_eq!(count, 0);
    assert!(error.state().unwrap().contains("not known"), "{error:?}");
}

/// Everything below the folder of sets, partial files included.
fn files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Polls `work` at most `polls` times and drops it: `None` when it was not done by then.
async fn dropped_after<F: Future>(polls: usize, work: F) -> Option<F::Output> {
    let mut work = std::pin::pin!(work);
    let mut left = polls;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match work.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

const PAUSE: Duration = Duration::from_millis(20);

/// A repository in a directory whose every change takes a while.
async fn slow_repository() -> (tempfile::TempDir, Store, Repository) {
    let (folder, store) = directory();
    let mut faults = Faults::new();
    for verb in [Verb::Write, Verb::Finish] {
        faults = faults.and(Fault::delay(PAUSE).on(verb).below("mongo/sets/"));
    }
    let slow = repository(&store.with_faults(faults), &clock()).await;
    (folder, store, slow)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_appears_after_a_set_was_abandoned_wherever_finishing_was_dropped() {
    // One object that is put at once, and one that is sent in parts.
    for size in [1_000, 10 * FRAME_BYTES] {
        for polls in 0.. {
            let (folder, _, slow) = slow_repository().await;
            let writer = slow.begin_set(StoreKind::Mongo, "test").await.unwrap();
            let mut sink = writer.object(&name("a"), "documents").await.unwrap();
            sink.write(Numbers::new(1).noise(size)).await.unwrap();
            let finished = dropped_after(polls, sink.finish()).await;
            writer.abandon().await.unwrap();
            let sets = folder.path().join("mongo");
            assert_eq!(files(&sets), Vec::<std::path::PathBuf>::new(), "{size} bytes, {polls} polls");
            tokio::time::sleep(3 * PAUSE).await;
            assert_eq!(files(&sets), Vec::<std::path::PathBuf>::new(), "{size} bytes, {polls} polls, later");
            if let Some(entry) = finished {
                entry.unwrap();
                assert!(polls > 1, "there was something to wait for");
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_appears_after_a_set_was_abandoned_whenever_its_objects_were_dropped() {
    let mut complete = 0;
    for step in 0..24_u32 {
        let (folder, _, slow) = slow_repository().await;
        let writer = slow.begin_set(StoreKind::Mongo, "test").await.unwrap();
        let objects = (0..3_u64).map(|seed| {
            let writer = &writer;
            async move {
                let mut sink = writer.object(&name(&format!("o{seed}")), "documents").await.unwrap();
                let size = [1_000, 2 * FRAME_BYTES, 5 * FRAME_BYTES][seed as usize];
                sink.write(Numbers::new(seed).noise(size)).await.unwrap();
                sink.finish().await.unwrap();
            }
        });
        let all = futures::future::join_all(objects);
        complete += usize::from(tokio::time::timeout(PAUSE / 2 * step, all).await.is_ok());
        writer.abandon().await.unwrap();
        let sets = folder.path().join("mongo");
        assert_eq!(files(&sets), Vec::<std::path::PathBuf>::new(), "step {step}");
        tokio::time::sleep(3 * PAUSE).await;
        assert_eq!(files(&sets), Vec::<std::path::PathBuf>::new(), "step {step}, later");
    }
    assert!(complete < 24, "some were dropped half-way");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_can_be_abandoned_beside_sinks_that_nobody_drops() {
    let (folder, _, slow) = slow_repository().await;
    let writer = slow.begin_set(StoreKind::Mongo, "test").await.unwrap();
    let mut idle = writer.object(&name("idle"), "documents").await.unwrap();
    idle.write(Numbers::new(1).noise(3 * FRAME_BYTES)).await.unwrap();
    let mut ending = writer.object(&name("ending"), "documents").await.unwrap();
    ending.write(Numbers::new(2).noise(100)).await.unwrap();
    let mut ending = Box::pin(ending.finish());
    assert!(dropped_after(1, &mut ending).await.is_none());
    writer.abandon().await.unwrap();
    assert_eq!(files(&folder.path().join("mongo")), Vec::<std::path::PathBuf>::new());
    assert!(ending.await.is_err() && idle.finish().await.is_err());
    tokio::time::sleep(3 * PAUSE).await;
    assert_eq!(files(&folder.path().join("mongo")), Vec::<std::path::PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_object_is_no_part_of_the_set_and_leaves_nothing_in_it() {
    for polls in 0..8 {
        let (folder, _, slow) = slow_repository().await;
        let writer = slow.begin_set(StoreKind::Mongo, "test").await.unwrap();
        writer.put(&name("kept"), "documents", Numbers::new(1).noise(100)).await.unwrap();
        let mut sink = writer.object(&name("dropped"), "documents").await.unwrap();
        sink.write(Numbers::new(2).noise(100)).await.unwrap();
        let finished = dropped_after(polls, sink.finish()).await.is_some();
        let set = writer.commit(&serde_json::json!({})).await.unwrap();
        assert_eq!(set.manifest().objects.len(), 1 + usize::from(finished));
        tokio::time::sleep(3 * PAUSE).await;
        assert_eq!(verify(&slow, &set).await.findings, [], "no object is unnamed, after {polls} polls");
        assert_eq!(files(&folder.path().join("mongo/sets")).len(), 2 + usize::from(finished));
    }
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
