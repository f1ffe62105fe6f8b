//! Sequences and journals: order, gaps, damage, killed writers, lost answers.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use mainstay_journal::{Journal, Sequence};
use mainstay_model::{ErrorKind, ManualClock, RunId, Secret, Timestamp};
use mainstay_store::{Fault, Faults, Key, Location, S3Options, Store, StoreOptions, Verb};
use mainstay_testkit::S3Server;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Step {
    name: String,
    count: u64,
}

fn step(count: u64) -> Step {
    Step { name: format!("step ü{count}"), count }
}

fn sequence(store: &Store) -> Sequence {
    Sequence::new(store.clone(), Key::new("audit").unwrap(), "step")
}

fn run(seconds: i64) -> RunId {
    RunId::new(Timestamp::from_second(seconds).unwrap(), 7)
}

fn clock() -> ManualClock {
    ManualClock::new(Timestamp::from_second(1_000_000).unwrap())
}

async fn overwrite(store: &Store, key: &str, change: impl Fn(&mut Vec<u8>)) {
    let key = Key::new(key).unwrap();
    let mut bytes = store.get(&key, 1_000_000).await.unwrap().to_vec();
    change(&mut bytes);
    store.put(&key, bytes.into()).await.unwrap();
}

#[tokio::test]
async fn records_come_back_in_order() {
    let temporary = tempfile::tempdir().unwrap();
    let store = Store::open(&Location::directory(temporary.path()), &StoreOptions::default()).unwrap();
    let sequence = sequence(&store);
    assert!(sequence.last::<Step>().await.unwrap().is_none());
    assert!(sequence.all::<Step>().await.unwrap().is_empty());
    let mut hashes = Vec::new();
    for number in 1..=25 {
        hashes.push(sequence.append(number, &step(number)).await.unwrap());
    }
    let all = sequence.all::<Step>().await.unwrap();
    assert!(all.iter().zip(1..).all(|(entry, number)| entry.number == number && entry.body == step(number)));
    assert_eq!(all.iter().map(|entry| entry.blake3).collect::<Vec<_>>(), hashes);
    assert_eq!(sequence.last::<Step>().await.unwrap().unwrap(), all[24]);
    assert!(temporary.path().join("audit/000000000025.json").is_file());
    let error = sequence.append(25, &step(99)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(sequence.append(0, &step(0)).await.unwrap_err().kind(), ErrorKind::Internal);
}

#[tokio::test]
async fn the_last_of_thousands_costs_one_listing_and_one_read() {
    let store = Store::memory();
    let writer = sequence(&store);
    for number in 1..=3_000 {
        writer.append(number, &step(number)).await.unwrap();
    }
    let faults = Faults::new();
    let reader = sequence(&store.with_faults(faults.clone()));
    assert_eq!(reader.last::<Step>().await.unwrap().unwrap().body, step(3_000));
    assert_eq!(faults.operation_count(), 2);
    assert_eq!(reader.all::<Step>().await.unwrap().len(), 3_000);
}

fn s3_store(server: &S3Server) -> Store {
    let s3 = S3Options {
        endpoint: Some(server.endpoint()),
        region: Some(server.region().to_owned()),
        access_key_id: Some(Secret::new(server.access_key())),
        secret_access_key: Some(Secret::new(server.secret_key())),
        allow_http: true,
        ..S3Options::default()
    };
    let location = format!("s3://{}/repo", server.bucket()).parse().unwrap();
    Store::open(&location, &StoreOptions { s3, ..StoreOptions::default() }).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn appending_to_a_long_sequence_does_not_list_all_of_it() {
    let server = S3Server::start();
    let store = s3_store(&server);
    let filler = sequence(&store);
    futures::stream::iter(1..=3_000)
        .map(|number| {
            let filler = &filler;
            async move { filler.append(number, &step(number)).await.map(|_| ()) }
        })
        .buffer_unordered(16)
        .try_collect::<()>()
        .await
        .unwrap();

    let before = server.requests();
    sequence(&store).numbers().await.unwrap();
    assert_eq!(server.requests() - before, 3, "a whole listing has three pages");

    let handle = sequence(&store);
    assert_eq!(handle.last::<Step>().await.unwrap().unwrap().number, 3_000);
    let before = server.requests();
    for number in 3_001..=3_050 {
        let last = handle.clone().last::<Step>().await.unwrap().unwrap();
        assert_eq!((last.number, last.body), (number - 1, step(number - 1)));
        handle.append(number, &step(number)).await.unwrap();
    }
    assert_eq!(server.requests() - before, 3 * 50, "one page, one read and one creation each");
}

#[tokio::test]
async fn what_a_handle_remembers_of_the_end_decides_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let on_disk = Store::open(&Location::directory(temporary.path()), &StoreOptions::default()).unwrap();
    for store in [Store::memory(), on_disk] {
        let (handle, other) = (sequence(&store), sequence(&store));
        let last =
            async |of: &Sequence| of.last::<Step>().await.unwrap().map(|entry| (entry.number, entry.body));
        let key = |number: u64| handle.key(number).unwrap();
        assert_eq!(last(&handle).await, None);
        for number in 1..=10 {
            handle.append(number, &step(number)).await.unwrap();
        }
        assert_eq!(last(&handle).await, Some((10, step(10))));
        // Others go on.
        for number in 11..=13 {
            other.append(number, &step(number)).await.unwrap();
        }
        assert_eq!(last(&handle).await, Some((13, step(13))));
        assert_eq!(handle.append(13, &step(0)).await.unwrap_err().kind(), ErrorKind::Conflict);
        // The end is removed, and then everything.
        for number in 6..=13 {
            store.delete(&key(number)).await.unwrap();
        }
        assert_eq!(last(&handle).await, Some((5, step(5))));
        assert_eq!(last(&other).await, Some((5, step(5))));
        for number in 1..=5 {
            store.delete(&key(number)).await.unwrap();
        }
        assert_eq!(last(&handle).await, None);
        // Out of order, with a gap, and something foreign behind the end.
        handle.append(7, &step(7)).await.unwrap();
        handle.append(3, &step(3)).await.unwrap();
        store.put(&Key::new("audit/zzz.json").unwrap(), Bytes::new()).await.unwrap();
        assert_eq!(last(&handle).await, Some((7, step(7))));
        store.delete(&key(7)).await.unwrap();
        assert_eq!(last(&handle).await, Some((3, step(3))), "what is foreign is no record");
        store.delete(&Key::new("audit/zzz.json").unwrap()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_is_taken_once() {
    let store = Store::memory();
    let mut writers = JoinSet::new();
    for writer in 0..20 {
        let sequence = sequence(&store);
        writers.spawn(async move { sequence.append(1, &step(writer)).await.map(|_| writer) });
    }
    let outcomes = writers.join_all().await;
    let winners: Vec<u64> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok().copied()).collect();
    assert_eq!(winners.len(), 1);
    assert!(
        outcomes
            .iter()
            .filter_map(|outcome| outcome.as_ref().err())
            .all(|error| error.kind() == ErrorKind::Conflict)
    );
    assert_eq!(sequence(&store).last::<Step>().await.unwrap().unwrap().body, step(winners[0]));
}

#[tokio::test]
async fn gaps_and_damage_are_named() {
    let store = Store::memory();
    let sequence = sequence(&store);
    for number in 1..=5 {
        sequence.append(number, &step(number)).await.unwrap();
    }
    let third = "audit/000000000003.json";
    let whole = store.get(&Key::new(third).unwrap(), 10_000).await.unwrap();
    for at in 0..whole.len() {
        overwrite(&store, third, |bytes| bytes[at] ^= 0x20).await;
        let error = sequence.all::<Step>().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}");
        assert!(error.to_string().contains(third), "{error}");
        overwrite(&store, third, |bytes| bytes[at] ^= 0x20).await;
    }
    assert_eq!(sequence.all::<Step>().await.unwrap().len(), 5);
    assert_eq!(
        sequence.last::<Step>().await.unwrap().unwrap().number,
        5,
        "damage elsewhere is not in its way"
    );
    for missing in ["audit/000000000003.json", "audit/000000000001.json"] {
        store.delete(&Key::new(missing).unwrap()).await.unwrap();
        let error = sequence.all::<Step>().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(missing), "{error}");
    }
}

#[tokio::test]
async fn a_sealed_record_of_another_kind_is_no_record() {
    let store = Store::memory();
    let other = Sequence::new(store.clone(), Key::new("audit").unwrap(), "other");
    other.append(1, &step(1)).await.unwrap();
    assert_eq!(sequence(&store).all::<Step>().await.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_journal_tells_what_was_to_be_done_and_what_was_done() {
    let store = Store::memory();
    assert_eq!(Journal::open(&store, &run(1)).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(Journal::runs(&store).await.unwrap().is_empty());
    let clock = clock();
    let mut journal = Journal::begin(&store, &clock, &run(1), &"restore shop").await.unwrap();
    journal.record(&step(1)).await.unwrap();
    let mut again = Journal::open(&store, &run(1)).await.unwrap();
    again.record(&step(2)).await.unwrap();
    assert_eq!(again.header::<String>().await.unwrap(), "restore shop");
    assert_eq!(again.begun_at().await.unwrap(), Timestamp::from_second(1_000_000).unwrap());
    assert_eq!(again.events::<Step>().await.unwrap(), [step(1), step(2)]);
    let error = journal.record(&step(3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "the first writer has lost its journal");
    let error = Journal::begin(&store, &clock, &run(1), &"again").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    Journal::begin(&store, &clock, &run(2), &"later").await.unwrap();
    store.put(&Key::new("journals/foreign/x").unwrap(), Bytes::new()).await.unwrap();
    assert_eq!(Journal::runs(&store).await.unwrap(), [run(1), run(2)]);
    assert_eq!(again.events::<String>().await.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn wherever_the_writer_dies_a_whole_prefix_stays() {
    for died_at in 1..=8 {
        for lost in [false, true] {
            let kind = ErrorKind::Storage;
            let fault =
                if lost { Fault::lose_answer(kind).nth(died_at) } else { Fault::fail(kind).nth(died_at) };
            let store = Store::memory();
            let faulty = store.with_faults(Faults::new().and(fault.on(Verb::PutNew)));
            let written = async {
                let mut journal = Journal::begin(&faulty, &clock(), &run(1), &"header").await?;
                for number in 1..=7 {
                    journal.record(&step(number)).await?;
                }
                Ok::<(), mainstay_model::Error>(())
            };
            assert!(written.await.is_err());
            let kept = if lost { died_at } else { died_at - 1 };
            if kept == 0 {
                assert_eq!(Journal::open(&store, &run(1)).await.unwrap_err().kind(), ErrorKind::NotFound);
                continue;
            }
            let mut journal = Journal::open(&store, &run(1)).await.unwrap();
            let events = journal.events::<Step>().await.unwrap();
            assert_eq!(events, (1..kept).map(step).collect::<Vec<_>>(), "died at write {died_at}");
            journal.record(&step(100)).await.expect("another process goes on from there");
            assert_eq!(journal.events::<Step>().await.unwrap().last(), Some(&step(100)));
        }
    }
}

#[tokio::test]
async fn a_killed_writer_on_a_disk_leaves_a_readable_journal() {
    let temporary = tempfile::tempdir().unwrap();
    let store = Store::open(&Location::directory(temporary.path()), &StoreOptions::default()).unwrap();
    let mut journal = Journal::begin(&store, &clock(), &run(1), &"header").await.unwrap();
    journal.record(&step(1)).await.unwrap();
    // What a writer killed inside the next record leaves on a disk.
    let folder = temporary.path().join("journals").join(run(1).as_str());
    std::fs::write(folder.join("000000000003.json#1"), "{\"blake3\":").unwrap();
    let mut journal = Journal::open(&store, &run(1)).await.unwrap();
    assert_eq!(journal.events::<Step>().await.unwrap(), [step(1)]);
    journal.record(&step(2)).await.unwrap();
    assert_eq!(journal.events::<Step>().await.unwrap(), [step(1), step(2)]);
}

#[tokio::test]
async fn recording_again_after_a_lost_answer_keeps_the_event_once() {
    let store = Store::memory();
    let faults = Faults::new().and(Fault::lose_answer(ErrorKind::Unreachable).on(Verb::PutNew).nth(2));
    let faulty = store.with_faults(faults);
    let mut journal = Journal::begin(&faulty, &clock(), &run(1), &"header").await.unwrap();
    assert_eq!(journal.record(&step(1)).await.unwrap_err().kind(), ErrorKind::Unreachable);
    journal.record(&step(1)).await.unwrap();
    journal.record(&step(2)).await.unwrap();
    assert_eq!(journal.events::<Step>().await.unwrap(), [step(1), step(2)]);

    // Another event after a lost answer: the one that was written stays, in its place.
    let faults = Faults::new().and(Fault::lose_answer(ErrorKind::Unreachable).on(Verb::PutNew).nth(1));
    let mut journal = Journal::open(&store.with_faults(faults), &run(1)).await.unwrap();
    assert!(journal.record(&step(3)).await.is_err());
    journal.record(&step(4)).await.unwrap();
    assert_eq!(journal.events::<Step>().await.unwrap(), (1..=4).map(step).collect::<Vec<_>>());

    // A write that had no effect is simply made again.
    let faults = Faults::new().and(Fault::fail(ErrorKind::Unreachable).on(Verb::PutNew).nth(1));
    let mut journal = Journal::open(&store.with_faults(faults), &run(1)).await.unwrap();
    assert!(journal.record(&step(5)).await.is_err());
    journal.record(&step(5)).await.unwrap();
    assert_eq!(journal.events::<Step>().await.unwrap(), (1..=5).map(step).collect::<Vec<_>>());
}

#[tokio::test]
async fn damaged_swapped_and_foreign_records_are_named() {
    let store = Store::memory();
    for seconds in [1, 2] {
        let mut journal = Journal::begin(&store, &clock(), &run(seconds), &"header").await.unwrap();
        for number in 1..=3 {
            journal.record(&step(number)).await.unwrap();
        }
    }
    let key =
        |seconds: i64, number: u64| Key::new(format!("journals/{}/{number:012}.json", run(seconds))).unwrap();
    let original = store.get(&key(1, 3), 10_000).await.unwrap();
    let journal = Journal::open(&store, &run(1)).await.unwrap();
    let impostors: BTreeSet<Vec<u8>> = [
        store.get(&key(2, 3), 10_000).await.unwrap().to_vec(),
        store.get(&key(1, 2), 10_000).await.unwrap().to_vec(),
        store.get(&key(1, 1), 10_000).await.unwrap().to_vec(),
        original[..original.len() - 1].to_vec(),
        Vec::new(),
    ]
    .into();
    for impostor in impostors {
        store.put(&key(1, 3), impostor.into()).await.unwrap();
        let error = journal.events::<Step>().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(key(1, 3).as_str()), "{error}");
    }
    store.put(&key(1, 3), original).await.unwrap();
    assert_eq!(journal.events::<Step>().await.unwrap().len(), 3);
}

/// Who works on several things at once gives up the others when one fails, in the middle of what they record.
#[tokio::test]
async fn a_record_that_was_given_up_does_not_stand_in_the_way() {
    let temporary = tempfile::tempdir().unwrap();
    let store = Store::open(&Location::directory(temporary.path()), &StoreOptions::default()).unwrap();
    let mut journal = Journal::begin(&store, &clock(), &run(1), &"header").await.unwrap();
    let mut recorded = Vec::new();
    for number in 0..100 {
        for _ in 0..number % 7 {
            // Polled a few times, then dropped, with the store at work.
            let event = format!("given up {number}");
            let mut given_up = std::pin::pin!(journal.record(&event));
            for _ in 0..number % 5 {
                if futures::poll!(&mut given_up).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        recorded.push(format!("recorded {number}"));
        journal.record(recorded.last().unwrap()).await.unwrap();
    }
    let events: Vec<String> = Journal::open(&store, &run(1)).await.unwrap().events().await.unwrap();
    let kept: Vec<&String> = events.iter().filter(|event| event.starts_with("recorded")).collect();
    assert_eq!(kept, recorded.iter().collect::<Vec<_>>());
}
