//! Replica sets of several members: record ids are each member's own, the moment is everybody's.

use std::time::Duration;

use bson::doc;
use mainstay_engine::{Consistency, DocumentSource, ScanSetback, SnapshotRequest};
use mainstay_model::Secret;
use mainstay_mongo::{MongoConfig, MongoServer, RetryPolicy};
use mainstay_testkit::servers::ReplicaSet;

use crate::support::{collection, digest, digest_by_driver, insert, mixed_documents, prepared, read_all};

async fn impatient(uri: &str) -> MongoServer {
    let mut config = MongoConfig::new(Secret::new(uri));
    config.retry =
        RetryPolicy { retries_max: 3, first_delay: Duration::from_millis(20), ..RetryPolicy::default() };
    MongoServer::open(&config).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_stays_with_its_member_through_an_election_and_says_when_that_is_gone() {
    let mut set = ReplicaSet::start(3).unwrap();
    let client = set.oracle().await;
    insert(&client, "shop", "a", mixed_documents(70)).await;
    let expected = digest_by_driver(&client, "shop", "a").await;
    let server = impatient(&set.uri()).await;
    let info = collection(&server, "shop", "a").await;
    let (snapshot, ranges) = prepared(&server, &info, 2).await;
    assert_eq!(ranges.ranges.len(), 2);
    let before = set.primary().unwrap();

    // An election in the middle: the cursor goes on, and so do cursors that are opened afterwards.
    let mut stream = snapshot.scan(&info, &ranges, &ranges.ranges[0]).await.unwrap();
    let mut batches = vec![stream.next().await.unwrap().unwrap()];
    let command = doc! { "replSetStepDown": 60, "force": true };
    drop(set.member(before).oracle().await.database("admin").run_command(command).await);
    assert_ne!(set.primary().unwrap(), before);
    insert(&client, "shop", "a", [doc! { "_id": "after the election" }]).await;
    while let Some(batch) = stream.next().await.unwrap() {
        batches.push(batch);
    }
    let mut stream = snapshot.scan(&info, &ranges, &ranges.ranges[1]).await.unwrap();
    while let Some(batch) = stream.next().await.unwrap() {
        batches.push(batch);
    }
    assert_eq!(digest(&batches), expected);

    // The member dies: its record ids are worth nothing, and the moment can be read from another one.
    set.member(before).kill9();
    let error = read_all(&snapshot, &info, &ranges).await.unwrap_err();
    assert_eq!(ScanSetback::of(&error), Some(ScanSetback::RangesLost), "{error:?}");
    let anew = snapshot.prepare(&info, 2).await.unwrap();
    assert_eq!((&anew.consistency, anew.ranges.len()), (snapshot.consistency(), 2));
    assert_eq!(digest(&read_all(&snapshot, &info, &anew).await.unwrap()), expected);

    // And so it can by a process that comes later.
    let again = server.snapshot_again(snapshot.consistency(), &info).await.unwrap().unwrap();
    let anew = again.prepare(&info, 1).await.unwrap();
    assert_eq!(digest(&read_all(&again, &info, &anew).await.unwrap()), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secondary_is_read_when_the_url_says_so() {
    let mut set = ReplicaSet::start(3).unwrap();
    let client = set.oracle().await;
    insert(&client, "shop", "a", mixed_documents(70)).await;
    let expected = digest_by_driver(&client, "shop", "a").await;
    let server = impatient(&format!("{}&readPreference=secondary", set.uri())).await;
    let info = collection(&server, "shop", "a").await;
    let primary = set.primary().unwrap();
    let (snapshot, ranges) = prepared(&server, &info, 2).await;
    let address = set.member(primary).address().to_string();
    assert!(ranges.ranges.iter().all(|range| !range.bounds.to_string().contains(&address)), "{ranges:?}");
    assert_eq!(digest(&read_all(&snapshot, &info, &ranges).await.unwrap()), expected);
    assert!(matches!(ranges.consistency, Consistency::ClusterTime { .. }));
    let pressure = snapshot.gauge(&info).measure().await.unwrap();
    assert!(
        pressure.latency > Duration::ZERO && pressure.history == Some(Duration::from_secs(300)),
        "{pressure:?}"
    );

    for index in (0..3).filter(|index| *index != primary) {
        set.member(index).kill9();
    }
    let refused = server.snapshot(SnapshotRequest::Best).await.err().unwrap();
    assert!(
        refused.to_string().contains("secondary") || refused.to_string().contains("majority"),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moment_that_no_majority_commits_is_not_used() {
    let mut set = ReplicaSet::start(3).unwrap();
    let client = set.oracle().await;
    insert(&client, "shop", "a", [doc! { "_id": 1 }]).await;
    let primary = set.primary().unwrap();
    let server = impatient(&set.uri()).await;
    let info = collection(&server, "shop", "a").await;
    for index in (0..3).filter(|index| *index != primary) {
        let fail = doc! { "configureFailPoint": "rsSyncApplyStop", "mode": "alwaysOn" };
        set.member(index).oracle().await.database("admin").run_command(fail).await.unwrap();
    }
    // Acknowledged by the primary alone.
    let uri = format!("{}&w=1", set.member(primary).uri());
    insert(&mongodb::Client::with_uri_str(uri).await.unwrap(), "shop", "a", [doc! { "_id": 2 }]).await;
    let snapshot = tokio::time::timeout(Duration::from_secs(2), server.snapshot(SnapshotRequest::Best)).await;
    assert!(snapshot.is_err(), "it waits for the majority");
    for index in (0..3).filter(|index| *index != primary) {
        let mend = doc! { "configureFailPoint": "rsSyncApplyStop", "mode": "off" };
        set.member(index).oracle().await.database("admin").run_command(mend).await.unwrap();
    }
    let snapshot = server.snapshot(SnapshotRequest::Best).await.unwrap();
    let ranges = snapshot.prepare(&info, 1).await.unwrap();
    assert_eq!(digest(&read_all(&snapshot, &info, &ranges).await.unwrap()).documents, 2);
}
