//! Leases: one holder, expiry by the clock, fencing tokens, take-over, lost answers, background renewal.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use mainstay_journal::{KeptLease, Lease, LeaseState};
use mainstay_model::{Clock, Error, ErrorKind, ManualClock, Result, SystemClock, Timestamp};
use mainstay_store::{Fault, Faults, Key, Location, Store, StoreOptions, Verb};
use tokio::task::JoinSet;

const TTL: SignedDuration = SignedDuration::from_secs(30);

fn manual() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp::from_second(1_700_000_000).unwrap()))
}

async fn acquire(store: &Store, clock: &Arc<ManualClock>, holder: &str) -> Result<Lease> {
    Lease::acquire(store, Arc::clone(clock) as Arc<dyn Clock>, "set-1", holder, TTL).await
}

async fn holder(store: &Store, clock: &ManualClock) -> Option<String> {
    Lease::holder(store, clock, "set-1").await.unwrap().map(|record| record.holder)
}

fn assert_locked(outcome: Result<impl Sized>, words: &[&str]) {
    let error: Error = outcome.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Locked, "{error:?}");
    for word in words {
        assert!(error.to_string().contains(word), "{word}: {error:?}");
    }
}

#[tokio::test]
async fn one_holds_and_the_others_are_told_who_and_until_when() {
    let (store, clock) = (Store::memory(), manual());
    assert_eq!(holder(&store, &clock).await, None);
    let lease = acquire(&store, &clock, "host-a:1 backup create").await.unwrap();
    assert_eq!(holder(&store, &clock).await.unwrap(), "host-a:1 backup create");
    assert_locked(
        acquire(&store, &clock, "host-b").await,
        &["set-1", "host-a:1 backup create", "2023-11-14T22:13:50Z"],
    );
    lease.check().await.unwrap();
    let other =
        Lease::acquire(&store, Arc::clone(&clock) as Arc<dyn Clock>, "set-2", "host-b", TTL).await.unwrap();
    assert_eq!(other.token(), 1, "another name is another lease");
    lease.release().await.unwrap();
    assert_eq!(holder(&store, &clock).await, None);
    let next = acquire(&store, &clock, "host-b").await.unwrap();
    assert_eq!(next.token(), 3, "acquired, released, acquired");
}

#[tokio::test]
async fn an_expired_lease_is_taken_over_with_a_higher_token_and_its_old_holder_is_out() {
    let (store, clock) = (Store::memory(), manual());
    let mut old = acquire(&store, &clock, "host-a").await.unwrap();
    clock.advance(TTL - SignedDuration::from_nanos(1));
    assert_locked(acquire(&store, &clock, "host-b").await, &["host-a"]);
    clock.advance(SignedDuration::from_nanos(1));
    assert_eq!(holder(&store, &clock).await, None);
    assert_locked(old.check().await, &["expired"]);
    let new = acquire(&store, &clock, "host-b").await.unwrap();
    assert!(new.token() > old.token());
    assert_locked(old.renew().await, &["host-a", "lost to host-b"]);
    assert_locked(old.check().await, &[]);
    assert_locked(old.release().await, &["lost"]);
    new.check().await.unwrap();
    assert_eq!(holder(&store, &clock).await.unwrap(), "host-b");
}

#[tokio::test]
async fn renewal_extends_and_keeps_the_token_and_few_records() {
    let (store, clock) = (Store::memory(), manual());
    let mut lease = acquire(&store, &clock, "host-a").await.unwrap();
    for _ in 0..50 {
        clock.advance(TTL / 3);
        lease.renew().await.unwrap();
        assert_locked(acquire(&store, &clock, "host-b").await, &["host-a"]);
    }
    assert_eq!(lease.token(), 1);
    assert!(store.list(&Key::new("leases").unwrap()).await.unwrap().len() <= 6, "old records go");
    lease.release().await.unwrap();
    let next = acquire(&store, &clock, "host-b").await.unwrap();
    assert_eq!(next.token(), 53, "the numbers go on");
}

#[tokio::test]
async fn an_expired_lease_that_nobody_took_is_held_again_by_renewing() {
    let (store, clock) = (Store::memory(), manual());
    let mut lease = acquire(&store, &clock, "host-a").await.unwrap();
    clock.advance(TTL * 5);
    lease.renew().await.unwrap();
    lease.check().await.unwrap();
    assert_eq!(holder(&store, &clock).await.unwrap(), "host-a");
}

#[tokio::test]
async fn a_sleeper_cannot_come_back_through_a_number_that_was_cleaned_up() {
    let (store, clock) = (Store::memory(), manual());
    let mut sleeper = acquire(&store, &clock, "host-a").await.unwrap();
    clock.advance(TTL);
    let mut new = acquire(&store, &clock, "host-b").await.unwrap();
    for _ in 0..20 {
        new.renew().await.unwrap();
    }
    let second = Key::new("leases/set-1/000000000002.json").unwrap();
    assert_eq!(
        store.get(&second, 10_000).await.unwrap_err().kind(),
        ErrorKind::NotFound,
        "its next number is free"
    );
    assert_locked(sleeper.renew().await, &["lost to host-b"]);
    new.renew().await.unwrap();
    new.check().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_twenty_exactly_one_acquires() {
    let temporary = tempfile::tempdir().unwrap();
    let disk = Store::open(&Location::directory(temporary.path()), &StoreOptions::default()).unwrap();
    for store in [Store::memory(), disk] {
        let clock = manual();
        for round in 0..5 {
            let mut racers = JoinSet::new();
            for racer in 0..20 {
                let (store, clock) = (store.clone(), Arc::clone(&clock));
                racers.spawn(async move { acquire(&store, &clock, &format!("racer-{racer}")).await });
            }
            let outcomes = racers.join_all().await;
            let winners: Vec<&Lease> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).collect();
            assert_eq!(winners.len(), 1, "round {round}");
            winners[0].check().await.unwrap();
            for error in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
                assert_eq!(error.kind(), ErrorKind::Locked, "{error:?}");
            }
            clock.advance(TTL);
        }
    }
}

#[tokio::test]
async fn a_renewal_whose_answer_was_lost_is_gone_on_from() {
    let (store, clock) = (Store::memory(), manual());
    let faults = Faults::new().and(Fault::lose_answer(ErrorKind::Unreachable).on(Verb::PutNew).nth(2));
    let mut lease = acquire(&store.with_faults(faults), &clock, "host-a").await.unwrap();
    assert_eq!(lease.renew().await.unwrap_err().kind(), ErrorKind::Unreachable);
    lease.check().await.expect("it is still this holder's");
    lease.renew().await.unwrap();
    lease.check().await.unwrap();
    assert_eq!(lease.token(), 1);
    lease.release().await.unwrap();
    assert_eq!(holder(&store, &clock).await, None);
}

#[tokio::test]
async fn a_damaged_record_is_named_and_never_taken_for_free() {
    let (store, clock) = (Store::memory(), manual());
    let _lease = acquire(&store, &clock, "host-a").await.unwrap();
    let key = Key::new("leases/set-1/000000000001.json").unwrap();
    let whole = store.get(&key, 10_000).await.unwrap();
    let mut damaged = whole.to_vec();
    damaged[80] ^= 1;
    store.put(&key, damaged.into()).await.unwrap();
    let error = acquire(&store, &clock, "host-b").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains(key.as_str()), "{error}");
    assert_eq!(Lease::holder(&store, &*clock, "set-1").await.unwrap_err().kind(), ErrorKind::Corrupt);
    // A whole record of another lease, or of another number, is as bad.
    let other = Key::new("leases/set-2/000000000001.json").unwrap();
    store.put(&other, whole).await.unwrap();
    let taken = Lease::acquire(&store, clock, "set-2", "host-b", TTL).await;
    assert_eq!(taken.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn names_that_lead_elsewhere_are_refused() {
    let clock = manual();
    for name in ["", "a/b", "..", "a b", "a#1"] {
        let outcome =
            Lease::acquire(&Store::memory(), Arc::clone(&clock) as Arc<dyn Clock>, name, "h", TTL).await;
        assert!(outcome.is_err(), "{name:?}");
    }
}

async fn keep(store: &Store, ttl_ms: i64) -> KeptLease {
    let ttl = SignedDuration::from_millis(ttl_ms);
    Lease::acquire(store, Arc::new(SystemClock), "set-1", "host-a", ttl).await.unwrap().keep()
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what} does not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn last_number(store: &Store) -> u64 {
    let listed = store.list(&Key::new("leases/set-1").unwrap()).await.unwrap();
    listed.last().unwrap().key.name()[..12].parse().unwrap()
}

#[tokio::test]
async fn a_kept_lease_renews_itself_until_it_is_released() {
    let store = Store::memory();
    let kept = keep(&store, 300).await;
    assert_eq!((kept.name().as_str(), kept.token()), ("set-1", 1));
    until("renewal", async || last_number(&store).await >= 5).await;
    kept.check().unwrap();
    assert!(!kept.lost().is_cancelled());
    kept.release().await.unwrap();
    assert!(Lease::holder(&store, &SystemClock, "set-1").await.unwrap().is_none());
    let renewed = last_number(&store).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(last_number(&store).await, renewed, "nothing renews a released lease");
}

#[tokio::test]
async fn a_kept_lease_that_was_taken_over_says_so() {
    let (store, clock) = (Store::memory(), manual());
    // Its clock stands still, another host's is far ahead: the case that only the store can settle.
    let ttl = SignedDuration::from_millis(300);
    let kept = Lease::acquire(&store, clock, "set-1", "host-a", ttl).await.unwrap().keep();
    kept.check().unwrap();
    let taken = Lease::acquire(&store, Arc::new(SystemClock), "set-1", "host-b", TTL).await.unwrap();
    assert!(taken.token() > kept.token());
    let lost = kept.lost();
    tokio::time::timeout(Duration::from_secs(30), lost.cancelled()).await.expect("the loss is noticed");
    assert_locked(kept.check(), &["lost to host-b"]);
    assert_locked(kept.release().await, &["lost to host-b"]);
    taken.check().await.unwrap();
}

#[tokio::test]
async fn a_kept_lease_survives_a_short_outage_and_not_a_long_one() {
    let store = Store::memory();
    let faults = Faults::new().and(Fault::fail(ErrorKind::Unreachable).on(Verb::PutNew).nth(2));
    let kept = keep(&store.with_faults(faults), 600).await;
    until("renewal after the outage", async || last_number(&store).await >= 4).await;
    kept.check().unwrap();
    drop(kept);

    let store = Store::memory();
    let faults = Faults::new().and(Fault::fail(ErrorKind::Unreachable).on(Verb::PutNew).from_nth(2));
    let kept = keep(&store.with_faults(faults), 300).await;
    let lost = kept.lost();
    tokio::time::timeout(Duration::from_secs(30), lost.cancelled()).await.expect("the end is noticed");
    assert_locked(kept.check(), &["expired"]);
}

#[tokio::test]
async fn a_store_that_hangs_does_not_hide_the_end_of_a_lease() {
    let store = Store::memory();
    let hanging = Faults::new().and(Fault::delay(Duration::from_secs(3_600)).on(Verb::PutNew).from_nth(2));
    let kept = keep(&store.with_faults(hanging), 300).await;
    let lost = kept.lost();
    tokio::time::timeout(Duration::from_secs(30), lost.cancelled()).await.expect("the end is noticed");
    assert_locked(kept.check(), &["expired"]);
    assert_locked(kept.release().await, &["expired"]);
}

#[tokio::test]
async fn a_dropped_kept_lease_expires_by_itself() {
    let store = Store::memory();
    drop(keep(&store, 150).await);
    until("expiry", async || Lease::holder(&store, &SystemClock, "set-1").await.unwrap().is_none()).await;
    let next = Lease::acquire(&store, Arc::new(SystemClock), "set-1", "host-b", TTL).await.unwrap();
    assert!(next.token() > 1);
    let record = Lease::holder(&store, &SystemClock, "set-1").await.unwrap().unwrap();
    assert_eq!((record.state, record.token), (LeaseState::Held, next.token()));
}
