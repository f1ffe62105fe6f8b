//! Change logs: round trips on every store, writers that stop anywhere, two writers at once, and every kind of damage.

use std::sync::Arc;

use bytes::Bytes;
use jiff::SignedDuration;
use mainstay_model::{Clock, ErrorKind, LogPosition, ManualClock, Result, StoreKind};
use mainstay_repository::{
    Chain, ChainBeginning, ChainDamage, ChainDescription, ChainEntry, ChainReason, ChainWriter, LogClaim,
    LogKind, Repository, SLICE_BYTES_MAX,
};
use mainstay_store::{Fault, Faults, Key, Location, S3Options, Store, StoreOptions};
use mainstay_testkit::S3Server;

use crate::support::{LONG, Numbers, clock, directory, options, repository};

const SERVER: &str = "rs0/65a1";
const TTL: SignedDuration = SignedDuration::from_secs(60);

async fn claim(repository: &Repository, holder: &str) -> Result<LogClaim> {
    repository.claim_log(StoreKind::Mongo, SERVER, holder, TTL).await
}

fn beginning(after: u64) -> ChainBeginning {
    ChainBeginning {
        kind: LogKind::Oplog,
        environment: "tests".to_owned(),
        after: LogPosition(after),
        why: ChainReason::First,
        predecessor: None,
        wal: None,
        replication: None,
    }
}

async fn put(writer: &mut ChainWriter, through: u64, plain: Bytes) -> Result<()> {
    let sealed = writer.seal(LogPosition(through), plain).await?;
    writer.put(&sealed).await
}

/// The plain bytes of the slice that ends at `through`: a few frames for some, a few bytes for others.
fn plain(through: u64) -> Bytes {
    let length = if through.is_multiple_of(30) { 5_000_000 } else { 300 };
    Numbers::new(through).documents(length)
}

/// Slices of ten positions each, through `end`.
async fn write(writer: &mut ChainWriter, end: u64) -> Result<()> {
    while writer.end().0 < end {
        let through = writer.end().0 + 10;
        put(writer, through, plain(through)).await?;
    }
    Ok(())
}

async fn only_chain(repository: &Repository) -> Chain {
    let mut chains = repository.chains_of(StoreKind::Mongo, SERVER).await.unwrap();
    assert_eq!(chains.len(), 1);
    chains.pop().unwrap()
}

async fn check_contents(repository: &Repository, chain: &Chain) {
    for slice in chain.slices() {
        assert_eq!(repository.read_slice(chain, slice).await.unwrap(), plain(slice.through.0));
    }
}

async fn findings(repository: &Repository, chain: &Chain) -> Vec<String> {
    let report = repository
        .verify_chain(chain, LogPosition(0), &|_| None, 4, &mainstay_model::progress::Silent)
        .await
        .unwrap();
    report.findings.into_iter().map(|finding| format!("{} {}", finding.id, finding.subject)).collect()
}

/// What a chain must do on every store.
async fn round_trip(store: &Store) {
    let clock = clock();
    let opened = repository(store, &clock).await;
    assert!(opened.chains(StoreKind::Mongo).await.unwrap().is_empty());
    let first = claim(&opened, "one").await.unwrap();
    assert_eq!(claim(&opened, "two").await.unwrap_err().kind(), ErrorKind::Locked);
    let mut writer = first.begin_chain(beginning(100)).await.unwrap();
    assert!(
        only_chain(&opened).await.covers(LogPosition(100), LogPosition(100)),
        "an empty chain holds nothing there"
    );
    write(&mut writer, 150).await.unwrap();
    drop(writer);
    first.release().await.unwrap();

    let second = claim(&opened, "two").await.unwrap();
    let mut writer = second.resume_chain(&only_chain(&opened).await).unwrap();
    write(&mut writer, 200).await.unwrap();

    // Another process reads it.
    let opened = repository(store, &clock).await;
    let chain = only_chain(&opened).await;
    assert_eq!((chain.description().after, chain.end()), (LogPosition(100), LogPosition(200)));
    assert_eq!((chain.slices().len(), chain.damage(), chain.superseded().len()), (10, &[][..], 0));
    assert!(
        chain.covers(LogPosition(100), LogPosition(200)) && chain.covers(LogPosition(133), LogPosition(134))
    );
    assert!(
        !chain.covers(LogPosition(99), LogPosition(120)) && !chain.covers(LogPosition(120), LogPosition(201))
    );
    let between = chain.slices_between(LogPosition(120), LogPosition(141));
    assert_eq!(between.iter().map(|slice| slice.after.0).collect::<Vec<_>>(), [120, 130, 140]);
    let part = |from, until| {
        let opened = &opened;
        async move {
            let within = |_: &ChainDescription| LogPosition(from)..LogPosition(until);
            let chain =
                opened.chains_within(StoreKind::Mongo, within).await.unwrap().remove(0).whole().unwrap();
            assert_eq!(chain.damage(), []);
            chain.slices().iter().map(|slice| slice.after.0).collect::<Vec<_>>()
        }
    };
    assert_eq!(part(120, 141).await, [120, 130, 140]);
    assert_eq!(part(120, 140).await, [120, 130], "what begins at the end of the range is not in it");
    assert_eq!((part(0, 110).await, part(200, 900).await, part(120, 120).await), (vec![100], vec![], vec![]));
    check_contents(&opened, &chain).await;
    assert_eq!(findings(&opened, &chain).await, Vec::<String>::new());
    assert!(opened.leftovers().await.unwrap().is_empty() && opened.sets(None).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn chains_come_back_from_every_store() {
    round_trip(&Store::memory()).await;
    let (_folder, store) = directory();
    round_trip(&store).await;
    let server = S3Server::start();
    let location: Location = format!("s3://{}/prefix", server.bucket()).parse().unwrap();
    let s3 = S3Options {
        endpoint: Some(server.endpoint()),
        region: Some(server.region().to_owned()),
        access_key_id: Some(mainstay_model::Secret::new(server.access_key())),
        secret_access_key: Some(mainstay_model::Secret::new(server.secret_key())),
        allow_http: true,
        ..S3Options::default()
    };
    round_trip(&Store::open(&location, &StoreOptions { s3, ..StoreOptions::default() }).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn encrypted_slices_are_read_with_the_identity_alone() {
    let identity = age::x25519::Identity::generate();
    let store = Store::memory();
    let clock: Arc<dyn Clock> = clock();
    let recipients = vec![identity.to_public().to_string()];
    let sealed = mainstay_repository::RepositoryOptions { recipients, ..options() };
    let writing = Repository::create(store.clone(), Arc::clone(&clock), sealed).await.unwrap();
    let mut writer = claim(&writing, "one").await.unwrap().begin_chain(beginning(100)).await.unwrap();
    write(&mut writer, 130).await.unwrap();
    let chain = only_chain(&writing).await;
    assert!(chain.slices().iter().all(|slice| slice.name().ends_with(".oplog.zst.age")));
    let error = writing.read_slice(&chain, &chain.slices()[0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
    let key = mainstay_model::Secret::new(
        age::secrecy::ExposeSecret::expose_secret(&identity.to_string()).to_owned(),
    );
    let with_key = mainstay_repository::RepositoryOptions { identities: vec![key], ..options() };
    let reading = Repository::open(store, clock, with_key).await.unwrap();
    check_contents(&reading, &only_chain(&reading).await).await;
}

/// A writer cut off before, or right after, each of its operations on the store; what was told as stored is there, without a hole, and
/// the next writer goes on.
async fn cut_everywhere(fault: fn(ErrorKind) -> Fault) {
    for n in 1.. {
        let (store, clock, faults) = (Store::memory(), clock(), Faults::new());
        repository(&store, &clock).await;
        let shaky = repository(&store.with_faults(faults.clone()), &clock).await;
        let before = faults.operation_count();
        let _ = faults.clone().and(fault(ErrorKind::Storage).from_nth(n));
        let mut told = 100;
        let outcome: Result<()> = async {
            let claim = claim(&shaky, "one").await?;
            let mut writer = claim.begin_chain(beginning(100)).await?;
            for through in [110, 120, 130] {
                put(&mut writer, through, plain(through)).await?;
                told = through;
            }
            Ok(())
        }
        .await;
        let met = faults.operation_count() - before;
        faults.mend();
        clock.advance(LONG);
        let opened = repository(&store, &clock).await;
        let chains = opened.chains_of(StoreKind::Mongo, SERVER).await.unwrap();
        let end = chains.last().map_or(100, |chain| chain.end().0);
        assert!(
            end == told || (end == told + 10 && outcome.is_err()),
            "operation {n}: {end} is stored, {told} was told"
        );
        let claim = claim(&opened, "two").await.unwrap();
        let mut writer = match chains.last() {
            Some(chain) => {
                assert_eq!(chain.damage(), [], "operation {n}");
                claim.resume_chain(chain).unwrap()
            }
            None => claim.begin_chain(beginning(100)).await.unwrap(),
        };
        write(&mut writer, 150).await.unwrap();
        let chain = only_chain(&opened).await;
        assert!(chain.covers(LogPosition(100), LogPosition(150)), "operation {n}");
        check_contents(&opened, &chain).await;
        if met < n {
            assert!(outcome.is_ok() && n > 4);
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_cut_off_anywhere_leaves_a_beginning_without_a_hole() {
    cut_everywhere(Fault::fail).await;
    cut_everywhere(Fault::lose_answer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slice_whose_answer_was_lost_is_put_again_without_harm() {
    let (store, clock, faults) = (Store::memory(), clock(), Faults::new());
    let opened = repository(&store.with_faults(faults.clone()), &clock).await;
    let mut writer = claim(&opened, "one").await.unwrap().begin_chain(beginning(100)).await.unwrap();
    let sealed = writer.seal(LogPosition(110), plain(110)).await.unwrap();
    let _ = faults.clone().and(Fault::lose_answer(ErrorKind::Unreachable).below("mongo/log"));
    assert_eq!(writer.put(&sealed).await.unwrap_err().kind(), ErrorKind::Unreachable);
    assert_eq!(writer.end(), LogPosition(100), "not told as stored");
    faults.mend();
    writer.put(&sealed).await.unwrap();
    assert_eq!(
        writer.put(&sealed).await.unwrap_err().kind(),
        ErrorKind::Internal,
        "it does not continue itself"
    );
    assert_eq!(only_chain(&opened).await.slices().len(), 1);
}

/// A writer that slept for longer than its lease, woken between any two slices of its successor.
#[tokio::test(flavor = "multi_thread")]
async fn a_stale_slice_does_no_harm_whenever_it_comes() {
    for wake_at in [100_u64, 110, 120, 130] {
        for stale_through in [103, 110, 115, 125] {
            let (store, clock) = (Store::memory(), clock());
            let opened = repository(&store, &clock).await;
            let sleeper = claim(&opened, "sleeper").await.unwrap();
            let writer = sleeper.begin_chain(beginning(100)).await.unwrap();
            let stale = writer.seal(LogPosition(stale_through), plain(stale_through)).await.unwrap();
            clock.advance(LONG);
            let successor = claim(&opened, "successor").await.unwrap();
            let mut next = successor.resume_chain(&only_chain(&opened).await).unwrap();
            write(&mut next, wake_at).await.unwrap();
            // The put of a writer that was past its check of the lease when it fell asleep.
            store.put_new(stale.key(), stale.bytes().clone()).await.unwrap();
            write(&mut next, 130).await.unwrap();
            let what = format!("woken at {wake_at}, through {stale_through}");
            let chain = only_chain(&opened).await;
            assert_eq!(chain.damage(), [], "{what}");
            assert!(chain.covers(LogPosition(100), LogPosition(130)), "{what}");
            assert_eq!(chain.slices().len() + chain.superseded().len(), 4, "{what}");
            check_contents(&opened, &chain).await;
            let notes = findings(&opened, &chain).await;
            assert!(notes.len() == 1 && notes[0].starts_with("log.slice_superseded"), "{what}: {notes:?}");
        }
    }
}

async fn three_slices() -> (Store, Arc<ManualClock>, Repository, Chain) {
    let (store, clock) = (Store::memory(), clock());
    let opened = repository(&store, &clock).await;
    let mut writer = claim(&opened, "one").await.unwrap().begin_chain(beginning(100)).await.unwrap();
    for through in [110, 121, 131] {
        put(&mut writer, through, plain(through)).await.unwrap();
    }
    let chain = only_chain(&opened).await;
    (store, clock, opened, chain)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flipped_byte_is_found_and_named() {
    let (store, clock, opened, chain) = three_slices().await;
    let slice = chain.slices()[1].clone();
    let key = chain.key(&slice).unwrap();
    for offset in 0..slice.bytes {
        let faults = Faults::new().and(Fault::flip_byte(offset).below(key.as_str()));
        let damaged = repository(&store.with_faults(faults), &clock).await;
        let error = damaged.read_slice(&only_chain(&damaged).await, &slice).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {offset}");
        assert!(error.to_string().contains(&slice.name()), "{error}");
    }
    let faults = Faults::new().and(Fault::flip_byte(7).below(key.as_str()));
    let damaged = repository(&store.with_faults(faults), &clock).await;
    assert_eq!(findings(&damaged, &only_chain(&damaged).await).await, [format!("object.hash_differs {key}")]);
    let report = opened
        .verify_chain(&chain, slice.through, &|_| None, 2, &mainstay_model::progress::Silent)
        .await
        .unwrap();
    assert_eq!((report.slices, report.is_sound()), (1, true), "what lies before is not read");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_slices_are_found_and_end_what_is_covered() {
    let (store, _, opened, chain) = three_slices().await;
    store.delete(&chain.key(&chain.slices()[1]).unwrap()).await.unwrap();
    // What others put there is not looked at.
    store
        .put_new(&Key::new(format!("mongo/log/{}/notes.txt", chain.id())).unwrap(), Bytes::from_static(b"x"))
        .await
        .unwrap();
    store.put_new(&Key::new("mongo/log/README").unwrap(), Bytes::from_static(b"x")).await.unwrap();
    let holed = only_chain(&opened).await;
    assert!(
        matches!(holed.damage(), [ChainDamage::Missing(run)] if (run.after.0, run.through.0) == (110, 121))
    );
    assert!(
        holed.covers(LogPosition(100), LogPosition(110)) && holed.covers(LogPosition(121), LogPosition(131))
    );
    assert!(!holed.covers(LogPosition(105), LogPosition(125)));
    assert_eq!(findings(&opened, &holed).await, [format!("log.slice_missing mongo/log/{}", chain.id())]);
    // A slice that is there by name but was cut short, or is gone when it is read.
    let error = opened.read_slice(&chain, &chain.slices()[1]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_description_hides_no_other_chain() {
    let (store, _, opened, chain) = three_slices().await;
    let mut other = opened
        .claim_log(StoreKind::Mongo, "other", "two", TTL)
        .await
        .unwrap()
        .begin_chain(beginning(5))
        .await
        .unwrap();
    put(&mut other, 9, plain(9)).await.unwrap();
    let key = Key::new(format!("mongo/log/{}/chain.json", chain.id())).unwrap();
    let whole = store.get(&key, 10_000).await.unwrap();
    for offset in (0..whole.len()).step_by(7) {
        let mut damaged = whole.to_vec();
        damaged[offset] ^= 1;
        store.put(&key, damaged.into()).await.unwrap();
        let entries = opened.chains(StoreKind::Mongo).await.unwrap();
        assert!(
            matches!(&entries[0], ChainEntry::Damaged { id, slices: 3, .. } if id == chain.id()),
            "byte {offset}"
        );
        assert!(matches!(&entries[1], ChainEntry::Whole(_)));
    }
    store.delete(&key).await.unwrap();
    let entries = opened.chains(StoreKind::Mongo).await.unwrap();
    assert!(matches!(&entries[0], ChainEntry::Damaged { error, .. } if error.kind() == ErrorKind::Corrupt));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_slice_is_refused() {
    let (_, _, opened, chain) = three_slices().await;
    let claim = opened.claim_log(StoreKind::Mongo, "other", "two", TTL).await.unwrap();
    assert_eq!(claim.resume_chain(&chain).unwrap_err().kind(), ErrorKind::Internal, "another server's chain");
    let writer = claim.begin_chain(beginning(5)).await.unwrap();
    for (through, plain) in [
        (5, Bytes::from_static(b"x")),
        (4, Bytes::from_static(b"x")),
        (6, Bytes::new()),
        (6, Bytes::from(vec![0; SLICE_BYTES_MAX + 1])),
    ] {
        assert_eq!(writer.seal(LogPosition(through), plain).await.unwrap_err().kind(), ErrorKind::Internal);
    }
}
