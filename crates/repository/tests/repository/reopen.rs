//! Going on with an interrupted set: what was complete is kept, everything else is written again.

use mainstay_model::{ErrorKind, StoreKind};
use mainstay_repository::{Encryption, FRAME_BYTES, Interrupted, ObjectEntry, Repository, SetWriter};
use mainstay_store::{Fault, Faults, Key, Store, Verb};

use crate::support::{LONG, Numbers, clock, directory, name, repository, small_set, verify};

fn interrupted(writer: &SetWriter, objects: Vec<ObjectEntry>) -> Interrupted {
    Interrupted { kind: StoreKind::Mongo, id: writer.id().clone(), begun_at: writer.begun_at(), objects }
}

async fn put(writer: &SetWriter, text: &str) -> ObjectEntry {
    writer.put(&name(text), "documents", Numbers::new(text.len() as u64).noise(5_000)).await.unwrap()
}

fn key(writer: &SetWriter, file: &str) -> Key {
    Key::new(format!("mongo/sets/{}/{file}.zst", writer.id())).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_objects_are_adopted_and_the_rest_is_removed() {
    let (_folder, store) = directory();
    let clock = clock();
    let opened = repository(&store, &clock).await;
    let writer = opened.begin_set(StoreKind::Mongo, "host:1 backup").await.unwrap();
    let (kept, shorter, gone) =
        (put(&writer, "kept").await, put(&writer, "short").await, put(&writer, "gone").await);
    put(&writer, "stranger").await;
    let mut half = writer.object(&name("half"), "documents").await.unwrap();
    half.write(Numbers::new(1).noise(3 * FRAME_BYTES)).await.unwrap();
    let set = interrupted(&writer, vec![kept.clone(), shorter.clone(), gone.clone()]);
    store.put(&key(&writer, "short"), "other".into()).await.unwrap();
    store.delete(&key(&writer, "gone")).await.unwrap();

    let locked = opened.reopen_set(set.clone(), "host:2 backup").await.err().unwrap();
    assert_eq!(locked.kind(), ErrorKind::Locked, "{locked:?}");
    let id = writer.id().clone();
    writer.suspend().await.unwrap();
    drop(half);
    assert_eq!(opened.leftovers().await.unwrap().len(), 1);

    let reopened = opened.reopen_set(set, "host:2 backup").await.unwrap();
    assert_eq!(reopened.lost, [shorter, gone]);
    let writer = reopened.writer;
    assert_eq!(writer.id(), &id);
    for text in ["short", "gone", "stranger", "half"] {
        put(&writer, text).await;
    }
    assert_eq!(
        writer.put(&name("kept"), "documents", "x".into()).await.unwrap_err().kind(),
        ErrorKind::Internal
    );
    writer.discard(&name("stranger")).await.unwrap();
    writer.discard(&name("never there")).await.unwrap();
    let set = writer.commit(&serde_json::json!({})).await.unwrap();
    let names: Vec<_> = set.manifest().objects.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["gone", "half", "kept", "short"]);
    assert_eq!(set.entry(&name("kept")), Some(&kept));
    assert_eq!(verify(&opened, &set).await.findings, []);
    assert_eq!(opened.leftovers().await.unwrap(), []);
}

#[tokio::test]
async fn sets_that_are_complete_removed_or_of_other_keys_are_not_gone_on_with() {
    let (store, clock) = (Store::memory(), clock());
    let opened = repository(&store, &clock).await;
    let whole = small_set(&opened).await;
    let again = Interrupted {
        kind: StoreKind::Mongo,
        id: whole.id().clone(),
        begun_at: whole.manifest().begun_at,
        objects: whole.manifest().objects.clone(),
    };
    let error = opened.reopen_set(again, "host:1 backup").await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    assert_eq!(verify(&opened, &whole).await.findings, [], "nothing of it was removed");

    // A removal that was killed half-way.
    clock.advance(LONG);
    let writer = opened.begin_set(StoreKind::Mongo, "host:1 backup").await.unwrap();
    let set = interrupted(&writer, vec![put(&writer, "a").await]);
    writer.suspend().await.unwrap();
    let faults = Faults::new().and(Fault::fail(ErrorKind::Storage).on(Verb::Delete).below("mongo/sets/"));
    let shaky = repository(&store.with_faults(faults.clone()), &clock).await;
    let leftover = shaky.leftovers().await.unwrap().remove(0);
    assert!(shaky.remove_leftover(&leftover).await.is_err());
    faults.mend();
    clock.advance(LONG);
    let error = opened.reopen_set(set, "host:1 backup").await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");

    // Objects that were written in another way than the repository's are not mixed in.
    let writer = opened.begin_set(StoreKind::Mongo, "host:1 backup").await.unwrap();
    let mut entry = put(&writer, "a").await;
    entry.encryption = Encryption::Age;
    let set = interrupted(&writer, vec![entry.clone()]);
    writer.suspend().await.unwrap();
    let reopened = opened.reopen_set(set, "host:1 backup").await.unwrap();
    assert_eq!(reopened.lost, [entry]);
}

/// Whatever operation of the store fails while a set is reopened, repeating it gives the same set.
#[tokio::test(flavor = "multi_thread")]
async fn reopening_can_be_cut_off_anywhere() {
    for n in 1.. {
        let (store, clock) = (Store::memory(), clock());
        let opened: Repository = repository(&store, &clock).await;
        let writer = opened.begin_set(StoreKind::Mongo, "host:1 backup").await.unwrap();
        let set = interrupted(&writer, vec![put(&writer, "a").await, put(&writer, "b").await]);
        put(&writer, "c").await;
        writer.suspend().await.unwrap();
        let faults = Faults::new();
        let shaky = repository(&store.with_faults(faults.clone()), &clock).await;
        let before = faults.operation_count();
        let _ = faults.clone().and(Fault::fail(ErrorKind::Storage).from_nth(n));
        let outcome = shaky.reopen_set(set.clone(), "host:2 backup").await;
        let met = faults.operation_count() - before;
        faults.mend();
        let was_reopened = outcome.is_ok();
        drop(outcome);
        clock.advance(LONG);
        let reopened = opened.reopen_set(set, "host:3 backup").await.unwrap();
        assert_eq!(reopened.lost, [], "operation {n}");
        put(&reopened.writer, "c").await;
        let set = reopened.writer.commit(&serde_json::json!({})).await.unwrap();
        assert_eq!(verify(&opened, &set).await.findings, [], "operation {n}");
        if was_reopened && met < n {
            return;
        }
    }
}
