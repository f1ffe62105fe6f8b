//! The life of sets and of the repository: begin, commit, abandon, list, lock, verify, record.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use mainstay_model::progress::{Observer, Silent, Tally, Work};
use mainstay_model::{Clock, ErrorKind, ManualClock, SetId, Severity, StoreKind};
use mainstay_repository::{Compression, Inspector, LeftoverKind, Repository, RepositoryOptions, SetEntry};
use mainstay_store::{Fault, Faults, Key, Store, Verb};

use crate::support::{LONG, Numbers, clock, directory, name, options, repository, small_set, verify};

#[tokio::test]
async fn a_repository_is_made_once_and_found_again() {
    let (store, clock) = (Store::memory(), clock());
    let dynamic: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
    let open = |options: RepositoryOptions| Repository::open(store.clone(), Arc::clone(&dynamic), options);
    let error = open(options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.hint().unwrap().contains("backup create"));

    let made = Repository::create(store.clone(), Arc::clone(&dynamic), options()).await.unwrap();
    let again = Repository::create(store.clone(), Arc::clone(&dynamic), options()).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Conflict);
    let opened = open(options()).await.unwrap();
    assert_eq!((opened.id(), opened.created_at()), (made.id(), clock.now()));
    assert!(!opened.is_encrypted() && opened.format() == 1);

    for compression in [
        Compression { level: 0, threads: 1 },
        Compression { level: 20, threads: 1 },
        Compression { level: 1, threads: 0 },
    ] {
        let error = open(RepositoryOptions { compression, ..options() }).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
    }
}

#[tokio::test]
async fn sets_whose_repository_is_gone_are_not_adopted() {
    let (store, clock) = (Store::memory(), clock());
    small_set(&repository(&store, &clock).await).await;
    store.delete(&Key::new("mainstay.json").unwrap()).await.unwrap();
    for error in [
        Repository::open(store.clone(), clock.clone(), options()).await.unwrap_err(),
        Repository::open_or_create(store, clock, options()).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("mainstay.json is missing"), "{error}");
    }
}

#[tokio::test]
async fn a_set_exists_when_it_is_committed_and_not_before() {
    let (store, clock) = (Store::memory(), clock());
    let repository = repository(&store, &clock).await;
    let writer = repository.begin_set(StoreKind::Mongo, "host:1 backup").await.unwrap();
    let id = writer.id().clone();
    writer.put(&name("a"), "documents", Bytes::from_static(b"one")).await.unwrap();
    assert!(repository.sets(None).await.unwrap().is_empty());
    assert_eq!(repository.set(None, &id).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(repository.latest(StoreKind::Mongo).await.unwrap().is_none());

    let set = writer.commit(&serde_json::json!({"n": 1})).await.unwrap();
    assert_eq!(set.contents::<serde_json::Value>().unwrap()["n"], 1);
    assert_eq!(set.contents::<Vec<u8>>().unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(repository.set(None, &id).await.unwrap().manifest(), set.manifest());
    assert_eq!(repository.set(Some(StoreKind::Redis), &id).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(repository.leftovers().await.unwrap(), []);
    assert!(
        store.list(&Key::new("leases").unwrap()).await.unwrap().is_empty(),
        "a settled set needs no lease"
    );

    clock.advance(LONG);
    let later = small_set(&repository).await;
    let listed: Vec<_> = repository
        .sets(Some(StoreKind::Mongo))
        .await
        .unwrap()
        .iter()
        .map(|entry| entry.id().clone())
        .collect();
    assert_eq!(listed, [id, later.id().clone()], "oldest first");
    assert_eq!(repository.latest(StoreKind::Mongo).await.unwrap().unwrap().id(), later.id());
}

#[tokio::test]
async fn sets_begun_at_the_same_instant_are_different_sets_in_order() {
    let (store, clock) = (Store::memory(), clock());
    let repository = repository(&store, &clock).await;
    let first = small_set(&repository).await;
    let under_way = repository.begin_set(StoreKind::Mongo, "test").await.unwrap();
    let third = small_set(&repository).await;
    assert!(first.id() < under_way.id() && under_way.id() < third.id());
    assert_eq!(repository.latest(StoreKind::Mongo).await.unwrap().unwrap().id(), third.id());
    for set in [&first, &third] {
        assert_eq!(verify(&repository, set).await.findings, []);
    }
    under_way.abandon().await.unwrap();
}

#[tokio::test]
async fn misuse_is_told() {
    let (store, clock) = (Store::memory(), clock());
    let repository = repository(&store, &clock).await;
    let writer = repository.begin_set(StoreKind::Mongo, "test").await.unwrap();
    let mut open = writer.object(&name("a"), "documents").await.unwrap();
    assert_eq!(writer.object(&name("a"), "documents").await.err().unwrap().kind(), ErrorKind::Internal);
    open.write(Bytes::from_static(b"x")).await.unwrap();
    open.abort().await;
    writer.put(&name("a"), "documents", Bytes::new()).await.expect("an aborted object's name is free again");
    assert!(writer.put(&name("a"), "documents", Bytes::new()).await.is_err());

    let late = writer.object(&name("b"), "documents").await.unwrap();
    let error = writer.commit(&()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(error.to_string().contains("still being written"), "{error}");
    assert!(late.finish().await.is_err(), "the set is closed");
    assert!(repository.sets(None).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_abandoned_set_leaves_nothing() {
    for (_folder, store) in [(None, Store::memory()), {
        let (folder, store) = directory();
        (Some(folder), store)
    }] {
        let repository = repository(&store, &clock()).await;
        let writer = repository.begin_set(StoreKind::Mongo, "test").await.unwrap();
        writer.put(&name("a"), "documents", Numbers::new(1).noise(100_000)).await.unwrap();
        writer.put(&name("b"), "documents", Bytes::new()).await.unwrap();
        writer.abandon().await.unwrap();
        assert_eq!(repository.leftovers().await.unwrap(), []);
        let left: Vec<_> =
            store.list(&Key::root()).await.unwrap().into_iter().map(|info| info.key.to_string()).collect();
        assert_eq!(left, ["mainstay.json"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_writer_leaves_a_leftover_that_is_removed_when_its_lease_has_run_out() {
    let (folder, store) = directory();
    let clock = clock();
    let repository = repository(&store, &clock).await;
    let kept = small_set(&repository).await;
    clock.advance(LONG);
    let writer = repository.begin_set(StoreKind::Mongo, "host:1 backup").await.unwrap();
    let id = writer.id().clone();
    writer.put(&name("done"), "documents", Numbers::new(1).noise(5_000)).await.unwrap();
    let mut half = writer.object(&name("half"), "documents").await.unwrap();
    half.write(Numbers::new(2).noise(20_000_000)).await.unwrap();
    drop((half, writer));
    // What a killed process cannot clean up: a partial file.
    let partial = folder.path().join(format!("mongo/sets/{id}/killed.zst#1"));
    std::fs::write(&partial, b"half").unwrap();

    let sets = repository.sets(None).await.unwrap();
    assert_eq!(sets.iter().map(SetEntry::id).collect::<Vec<_>>(), [kept.id()]);
    let found = repository.leftovers().await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].kind, LeftoverKind::Set { store: StoreKind::Mongo, id: id.clone() });
    assert!(found[0].in_use && found[0].objects >= 2 && found[0].bytes > 5_000);
    let error = repository.remove_leftover(&found[0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(error.to_string().contains("host:1 backup"), "{error}");

    clock.advance(LONG);
    let found = repository.leftovers().await.unwrap();
    assert!(!found[0].in_use);
    repository.remove_leftover(&found[0]).await.unwrap();
    repository.remove_leftover(&found[0]).await.expect("twice is once");
    assert_eq!(repository.leftovers().await.unwrap(), []);
    assert!(!partial.exists());
    assert!(store.list(&Key::new(format!("mongo/sets/{id}")).unwrap()).await.unwrap().is_empty());
    assert!(verify(&repository, &kept).await.findings.is_empty());
}

#[tokio::test]
async fn a_set_that_exists_is_never_removed() {
    let (store, clock) = (Store::memory(), clock());
    let repository = repository(&store, &clock).await;
    let writer = repository.begin_set(StoreKind::Mongo, "test").await.unwrap();
    writer.put(&name("a"), "documents", Bytes::from_static(b"one")).await.unwrap();
    let seen = repository.leftovers().await.unwrap().remove(0);
    let set = writer.commit(&()).await.unwrap();
    clock.advance(LONG);
    let error = repository.remove_leftover(&seen).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(verify(&repository, &set).await.findings.is_empty());
}

/// A writer that stood still while its lease ran out and its set was removed. Its clock is behind, so that the lease looks alive to it.
#[tokio::test]
async fn a_writer_that_was_overtaken_cannot_commit() {
    let (store, behind, ahead) = (Store::memory(), clock(), clock());
    let slow = repository(&store, &behind).await;
    ahead.advance(LONG);
    let pruner = repository(&store, &ahead).await;

    // The remover was there and is gone.
    let writer = slow.begin_set(StoreKind::Mongo, "slow").await.unwrap();
    writer.put(&name("a"), "documents", Bytes::from_static(b"one")).await.unwrap();
    let leftover = pruner.leftovers().await.unwrap().remove(0);
    assert!(!leftover.in_use);
    pruner.remove_leftover(&leftover).await.unwrap();
    writer.put(&name("b"), "documents", Bytes::from_static(b"two")).await.unwrap();
    let error = writer.commit(&()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(error.to_string().contains("removed as a leftover"), "{error}");
    assert!(pruner.sets(None).await.unwrap().is_empty());

    // The remover is half-way.
    let writer = slow.begin_set(StoreKind::Mongo, "slow").await.unwrap();
    writer.put(&name("a"), "documents", Bytes::from_static(b"one")).await.unwrap();
    let stuck = store.with_faults(Faults::new().and(Fault::fail(ErrorKind::Unreachable).on(Verb::Delete)));
    let stuck = repository(&stuck, &ahead).await;
    for leftover in pruner.leftovers().await.unwrap() {
        assert_eq!(stuck.remove_leftover(&leftover).await.unwrap_err().kind(), ErrorKind::Unreachable);
    }
    let error = writer.commit(&()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(pruner.sets(None).await.unwrap().is_empty());
    let left = pruner.leftovers().await.unwrap();
    assert_eq!(left.len(), 2, "the late object of the first, and what the stuck remover left: {left:?}");
    ahead.advance(LONG);
    for leftover in left {
        pruner.remove_leftover(&leftover).await.unwrap();
    }
    assert_eq!(pruner.leftovers().await.unwrap(), []);
}

#[tokio::test]
async fn a_writer_whose_lease_ran_out_stops_early() {
    let (store, clock) = (Store::memory(), clock());
    let repository = repository(&store, &clock).await;
    let writer = repository.begin_set(StoreKind::Mongo, "test").await.unwrap();
    writer.put(&name("a"), "documents", Bytes::from_static(b"one")).await.unwrap();
    clock.advance(LONG);
    assert_eq!(writer.object(&name("b"), "documents").await.err().unwrap().kind(), ErrorKind::Locked);
    let error = writer.commit(&()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(error.state().unwrap().contains("does not exist"));
    assert!(repository.sets(None).await.unwrap().is_empty());
}

#[tokio::test]
async fn partial_files_elsewhere_wait_for_a_day() {
    let (folder, store) = directory();
    let now = Arc::new(ManualClock::new(mainstay_model::SystemClock.now()));
    let repository = repository(&store, &now).await;
    std::fs::create_dir_all(folder.path().join("audit")).unwrap();
    std::fs::write(folder.path().join("audit/000000000001.json#1"), b"half").unwrap();
    let found = repository.leftovers().await.unwrap();
    assert!(found.len() == 1 && found[0].in_use, "{found:?}");
    assert_eq!(repository.remove_leftover(&found[0]).await.unwrap_err().kind(), ErrorKind::Locked);
    now.advance(LONG * 25);
    let found = repository.leftovers().await.unwrap();
    repository.remove_leftover(&found[0]).await.unwrap();
    assert_eq!(repository.leftovers().await.unwrap(), []);
}

/// The newest set that its last verification found sound.
async fn newest_sound(repository: &Repository) -> mainstay_model::Result<Option<SetId>> {
    for entry in repository.sets(Some(StoreKind::Mongo)).await?.into_iter().rev() {
        let Ok(set) = entry.into_set() else { continue };
        if set.verdict().await?.is_some_and(|record| record.is_sound()) {
            return Ok(Some(set.id().clone()));
        }
    }
    Ok(None)
}

#[tokio::test]
async fn verifications_are_recorded_and_the_newest_sound_set_is_known() {
    let (store, clock) = (Store::memory(), clock());
    let repository = repository(&store, &clock).await;
    assert_eq!(newest_sound(&repository).await.unwrap(), None);
    let first = small_set(&repository).await;
    clock.advance(LONG);
    let second = small_set(&repository).await;
    assert_eq!(newest_sound(&repository).await.unwrap(), None, "unverified sets do not count");

    let report = verify(&repository, &first).await;
    assert_eq!(repository.record_verification(&report).await.unwrap(), 1);
    assert_eq!(repository.record_verification(&report).await.unwrap(), 2);
    assert_eq!(newest_sound(&repository).await.unwrap(), Some(first.id().clone()));
    let records = repository.verifications(StoreKind::Mongo, first.id()).await.unwrap();
    assert_eq!((records.len(), records[1].manifest, records[1].objects), (2, first.manifest_blake3(), 3));

    // The newer set is damaged, and its verification says so.
    let key = Key::new(format!("mongo/sets/{}/shop/users.bson.zst", second.id())).unwrap();
    store.delete(&key).await.unwrap();
    let report = verify(&repository, &second).await;
    assert!(!report.is_sound());
    repository.record_verification(&report).await.unwrap();
    assert_eq!(newest_sound(&repository).await.unwrap(), Some(first.id().clone()));
    // A set that is gone was verified in vain.
    store.delete(&Key::new(format!("mongo/sets/{}/manifest.json", first.id())).unwrap()).await.unwrap();
    assert_eq!(newest_sound(&repository).await.unwrap(), None);
}

#[tokio::test]
async fn a_damaged_verification_record_is_no_verification_and_blocks_nothing() {
    let (store, clock) = (Store::memory(), clock());
    let opened = repository(&store, &clock).await;
    let older = small_set(&opened).await;
    clock.advance(LONG);
    let newer = small_set(&opened).await;
    let last = async |id| opened.last_verification(StoreKind::Mongo, id).await.unwrap();
    let newest = async || newest_sound(&opened).await.unwrap();
    assert_eq!(last(newer.id()).await, None);
    for set in [&older, &newer] {
        for _ in 0..2 {
            opened.record_verification(&verify(&opened, set).await).await.unwrap();
        }
    }
    assert_eq!(last(newer.id()).await.unwrap().manifest, newer.manifest_blake3());
    assert_eq!(newest().await.as_ref(), Some(newer.id()));

    let key = |set: &mainstay_repository::Set, number: u32| {
        Key::new(format!("mongo/verifications/{}/{number:012}.json", set.id())).unwrap()
    };
    let whole = store.get(&key(&newer, 2), 1 << 20).await.unwrap();
    let mut flipped = whole.to_vec();
    flipped[20] ^= 1;
    let of_another_set = store.get(&key(&older, 2), 1 << 20).await.unwrap();
    for damaged in [flipped.into(), whole.slice(..30), Bytes::new(), of_another_set] {
        store.put(&key(&newer, 2), damaged).await.unwrap();
        assert_eq!(last(newer.id()).await, None, "an older record does not stand in for it");
        assert_eq!(newest().await.as_ref(), Some(older.id()));
    }
    // A store that fails is no damage.
    let cut = Faults::new().and(Fault::fail(ErrorKind::Unreachable).below("mongo/verifications"));
    let shaky = repository(&store.with_faults(cut), &clock).await;
    let error = shaky.last_verification(StoreKind::Mongo, newer.id()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert_eq!(newest_sound(&shaky).await.unwrap_err().kind(), ErrorKind::Unreachable);
    // Verifying again settles it.
    assert_eq!(opened.record_verification(&verify(&opened, &newer).await).await.unwrap(), 3);
    assert_eq!(newest().await.as_ref(), Some(newer.id()));
}

#[tokio::test]
async fn some_objects_are_verified_without_reading_the_others() {
    let (store, clock) = (Store::memory(), clock());
    let set = small_set(&repository(&store, &clock).await).await;
    let path = |text: &str| format!("mongo/sets/{}/{text}", set.id());
    let key = |text: &str| Key::new(path(text)).unwrap();
    let names = |texts: &[&str]| texts.iter().map(|text| name(text)).collect::<BTreeSet<_>>();
    let chosen = names(&["shop/users.metadata.json", "shop/empty.bson"]);
    // The object that was not chosen cannot even be read.
    let faults = Faults::new().and(Fault::fail(ErrorKind::Unreachable).below(path("shop/users.bson")));
    let opened = repository(&store.with_faults(faults), &clock).await;
    let set = opened.set(None, set.id()).await.unwrap();
    let tally = Tally::default();
    let selected = async |names: &BTreeSet<_>, observer: &dyn Observer| {
        opened.verify_objects(&set, names, &|_| None, 2, observer).await
    };
    let report = selected(&chosen, &tally).await.unwrap();
    assert_eq!((report.objects, report.bytes, report.findings.len()), (2, 60, 0));
    assert!(report.is_sound());
    assert_eq!(tally.total(), Work { items: 2, bytes: 60 });
    assert_eq!(
        selected(&names(&["shop/users.bson"]), &Silent).await.unwrap_err().kind(),
        ErrorKind::Unreachable
    );
    let error = selected(&names(&["shop/empty.bson", "shop/none"]), &Silent).await.unwrap_err();
    assert!(error.kind() == ErrorKind::NotFound && error.to_string().contains("shop/none"), "{error:?}");
    assert_eq!(selected(&BTreeSet::new(), &Silent).await.unwrap().objects, 0);

    store.delete(&key("shop/empty.bson.zst")).await.unwrap();
    let report = selected(&chosen, &Silent).await.unwrap();
    assert!(!report.is_sound());
    assert_eq!(report.findings[0].subject, path("shop/empty.bson.zst"));
    // The sealed files are looked at whatever is chosen.
    store.put(&key("manifest.json"), Bytes::from_static(b"?")).await.unwrap();
    let report = selected(&names(&["shop/users.metadata.json"]), &Silent).await.unwrap();
    assert_eq!(report.findings[0].id, "manifest.damaged");
}

/// Gathers what it sees; finds fault with objects that have no line.
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Inspector for Lines {
    fn bytes(&mut self, plain: &[u8]) {
        self.0.lock().unwrap().extend_from_slice(plain);
    }

    fn end(self: Box<Self>) -> Vec<String> {
        let lines = self.0.lock().unwrap().iter().filter(|byte| **byte == b'\n').count();
        if lines == 0 { (0..25).map(|fault| format!("fault {fault}")).collect() } else { Vec::new() }
    }
}

#[tokio::test]
async fn inspectors_see_the_plain_bytes_and_their_faults_are_findings() {
    let (store, clock) = (Store::memory(), clock());
    let repository = repository(&store, &clock).await;
    let set = small_set(&repository).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let inspectors = |entry: &mainstay_repository::ObjectEntry| -> Option<Box<dyn Inspector>> {
        match entry.name.as_str() {
            "shop/users.bson" => Some(Box::new(Lines(Arc::clone(&seen)))),
            "shop/empty.bson" => Some(Box::new(Lines(Arc::default()))),
            _ => None,
        }
    };
    let report = repository.verify(&set, &inspectors, 2, &Silent).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), Numbers::new(1).documents(700));
    assert_eq!(report.findings.len(), 21, "twenty, and how many more");
    for finding in &report.findings {
        assert_eq!((finding.id.as_str(), finding.severity), ("object.malformed", Severity::Critical));
        assert!(finding.subject.ends_with("shop/empty.bson.zst"));
    }
    assert!(report.findings[20].message.starts_with("5 more"));
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_can_be_done_in_a_spawned_task() {
    let repository = repository(&Store::memory(), &clock()).await;
    let task = tokio::spawn(async move {
        let abandoned = repository.begin_set(StoreKind::Redis, "test").await?;
        abandoned.object(&name("x"), "dump").await?.abort().await;
        abandoned.abandon().await?;
        let set = small_set(&repository).await;
        let report = repository.verify(&set, &|_| None, 2, &Silent).await?;
        repository.record_verification(&report).await?;
        assert!(newest_sound(&repository).await?.is_some());
        for leftover in repository.leftovers().await? {
            repository.remove_leftover(&leftover).await?;
        }
        Ok::<usize, mainstay_model::Error>(repository.sets(None).await?.len())
    });
    assert_eq!(task.await.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn a_place_that_belongs_to_somebody_else_is_left_alone() {
    let store = Store::memory();
    store.put(&Key::new("src/main.rs").unwrap(), Bytes::from_static(b"x")).await.unwrap();
    let clock = Arc::new(mainstay_model::SystemClock);
    let refused = Repository::open_or_create(store.clone(), clock, Default::default()).await;
    let error = refused.map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
    assert!(error.to_string().contains("src/"), "{error}");
    assert_eq!(store.list(&Key::root()).await.unwrap().len(), 1);
}
