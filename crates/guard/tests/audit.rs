//! The audit chain: appenders that race, and every way to damage it that a chain can tell.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use mainstay_guard::{Actor, AuditEntry, AuditEvent, AuditLog, NewAuditEntry};
use mainstay_model::{Effect, ErrorKind, Severity, Timestamp, sealed};
use mainstay_store::{Key, Store};
use serde_json::json;

const BYTES_MAX: u64 = 1 << 20;

fn entry(name: &str) -> NewAuditEntry {
    NewAuditEntry {
        at: Timestamp::from_second(1_800_000_000).unwrap(),
        actor: Actor { name: "ann".to_owned(), method: "os user".to_owned(), host: "h1".to_owned() },
        operation: "backup.create".to_owned(),
        effect: Effect::Additive,
        target: None,
        plan_hash: None,
        event: AuditEvent::Note,
        facts: json!({"name": name}),
    }
}

fn key(number: u64) -> Key {
    Key::new(format!("audit/{number:012}.json")).unwrap()
}

/// A log of seven entries.
async fn log() -> (Store, AuditLog) {
    let store = Store::memory();
    let log = AuditLog::new(store.clone());
    for number in 1..=7 {
        assert_eq!(log.append(entry(&format!("e{number}"))).await.unwrap().0, number);
    }
    (store, log)
}

async fn bytes(store: &Store, number: u64) -> Vec<u8> {
    store.get(&key(number), BYTES_MAX).await.unwrap().to_vec()
}

/// Id and subject of the first finding.
async fn first_fault(log: &AuditLog) -> (String, String) {
    let findings = log.verify().await.unwrap();
    assert_eq!(findings[0].severity, Severity::Critical);
    (findings[0].id.clone(), findings[0].subject.clone())
}

fn fault(id: &str, number: u64) -> (String, String) {
    (id.to_owned(), key(number).to_string())
}

#[tokio::test]
async fn a_whole_log_verifies_and_its_head_is_its_last_entry() {
    let empty = AuditLog::new(Store::memory());
    assert_eq!((empty.head().await.unwrap(), empty.entries().await.unwrap()), (None, vec![]));
    assert_eq!(empty.verify().await.unwrap(), []);

    let (_, log) = log().await;
    assert_eq!(log.verify().await.unwrap(), []);
    let entries = log.entries().await.unwrap();
    assert_eq!(entries.iter().map(|entry| entry.number).collect::<Vec<_>>(), (1..=7).collect::<Vec<_>>());
    assert_eq!(entries[0].previous, None);
    let (number, hash) = log.head().await.unwrap().unwrap();
    let (next, _) = log.append(entry("next")).await.unwrap();
    assert_eq!((number, next), (7, 8));
    assert_eq!(log.entries().await.unwrap()[7].previous, Some(hash));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn appenders_that_race_make_one_whole_chain() {
    let store = Store::memory();
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..8 {
        // A log of its own each, as separate processes have.
        let log = AuditLog::new(store.clone());
        tasks.spawn(async move {
            for _ in 0..10 {
                log.append(entry(&format!("w{writer}"))).await.unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let log = AuditLog::new(store);
    assert_eq!(log.verify().await.unwrap(), []);
    let entries = log.entries().await.unwrap();
    assert_eq!(entries.len(), 80);
    for writer in 0..8 {
        let of_writer = entries.iter().filter(|entry| entry.facts["name"] == format!("w{writer}")).count();
        assert_eq!(of_writer, 10);
    }
}

#[tokio::test]
async fn any_flipped_byte_is_found_and_named() {
    let (store, log) = log().await;
    let whole = bytes(&store, 4).await;
    for index in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[index] ^= 0x04;
        store.put(&key(4), damaged.into()).await.unwrap();
        assert_eq!(first_fault(&log).await, fault("audit.damaged", 4), "byte {index}");
    }
    assert_eq!(log.entries().await.unwrap_err().kind(), ErrorKind::Corrupt);
    store.put(&key(4), whole[..whole.len() - 1].to_vec().into()).await.unwrap();
    assert_eq!(first_fault(&log).await, fault("audit.damaged", 4));
    store.put(&key(4), whole.into()).await.unwrap();
    assert_eq!(log.verify().await.unwrap(), []);
}

#[tokio::test]
async fn a_removed_entry_leaves_a_gap_and_a_removed_end_does_not() {
    for number in 1..7 {
        let (store, log) = log().await;
        store.delete(&key(number)).await.unwrap();
        assert_eq!(first_fault(&log).await, fault("audit.gap", number));
    }
    // What a chain cannot tell. The head that was kept elsewhere can.
    let (store, log) = log().await;
    let kept = log.head().await.unwrap();
    store.delete(&key(7)).await.unwrap();
    assert_eq!(log.verify().await.unwrap(), []);
    assert_ne!(log.head().await.unwrap(), kept);
}

#[tokio::test]
async fn a_replaced_entry_is_named_even_when_it_is_well_formed() {
    for number in 1..=6 {
        let (store, log) = log().await;
        let (mut forged, _): (AuditEntry, _) =
            sealed::open("audit", "e", &bytes(&store, number).await).unwrap();
        forged.facts = json!({"name": "forged"});
        let (sealed_bytes, _) = sealed::seal("audit", &forged).unwrap();
        store.put(&key(number), sealed_bytes.into()).await.unwrap();
        assert_eq!(first_fault(&log).await, fault("audit.replaced", number));
        assert_eq!(log.verify().await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn an_entry_from_another_log_is_named() {
    let (store, log) = log().await;
    let (other_store, _) = self::log().await;
    store.put(&key(4), bytes(&other_store, 4).await.into()).await.unwrap();
    assert_eq!(first_fault(&log).await, fault("audit.replaced", 4));
}

#[tokio::test]
async fn entries_that_changed_places_are_named() {
    let (store, log) = log().await;
    let (third, fifth) = (bytes(&store, 3).await, bytes(&store, 5).await);
    store.put(&key(3), fifth.into()).await.unwrap();
    store.put(&key(5), third.into()).await.unwrap();
    let findings = log.verify().await.unwrap();
    let found: Vec<_> =
        findings.iter().map(|finding| (finding.id.clone(), finding.subject.clone())).collect();
    assert_eq!(found, [fault("audit.misplaced", 3), fault("audit.misplaced", 5)]);
}

#[tokio::test]
async fn foreign_objects_are_told_after_the_faults() {
    let (store, log) = log().await;
    store.put(&Key::new("audit/notes.txt").unwrap(), "hello".into()).await.unwrap();
    let findings = log.verify().await.unwrap();
    assert_eq!(findings.len(), 1);
    assert_eq!((findings[0].id.as_str(), findings[0].severity), ("audit.foreign_object", Severity::Warning));
    assert_eq!(log.entries().await.unwrap().len(), 7);
}

#[tokio::test]
async fn a_damaged_end_stops_the_log() {
    let (store, log) = log().await;
    store.put(&key(7), "{}".into()).await.unwrap();
    let error = log.append(entry("more")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("audit/000000000007.json"), "{error}");
}
