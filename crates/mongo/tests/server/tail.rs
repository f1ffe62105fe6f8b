//! Following the oplog of real servers: whole, in order, once each, across cuts, restarts and what cannot be bridged.

use std::time::Duration;

use bson::{Document, RawDocumentBuf, doc};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use mainstay_engine::{ChangeAnchor, ChangeSource, ChangeStream, ContinuityBreak, Followed, document_frames};
use mainstay_model::{ErrorKind, OpTime};
use mainstay_mongo::MongoServer;
use mainstay_testkit::{FaultProxy, Mongod, ReplicaSet, unique_database};
use mongodb::Client;

use crate::support::{insert, open};

const WAIT: Duration = Duration::from_millis(500);

async fn stream(server: &MongoServer, anchor: &ChangeAnchor) -> Box<dyn ChangeStream> {
    match server.follow(anchor).await.unwrap() {
        Followed::Stream(stream) => stream,
        Followed::Broken(broken) => panic!("{broken:?}"),
    }
}

async fn from_now(server: &MongoServer) -> ChangeAnchor {
    ChangeAnchor { at: server.change_log_facts().await.unwrap().newest, entry: None }
}

/// Reads until an entry at or after `goal` has been seen.
async fn read_until(stream: &mut Box<dyn ChangeStream>, goal: OpTime) -> (Bytes, OpTime) {
    let mut all = BytesMut::new();
    loop {
        if let Some(batch) = stream.next(WAIT).await.unwrap() {
            assert!(batch.first <= batch.last && batch.entries > 0);
            assert_eq!(document_frames(&batch.bytes).map(Result::unwrap).count() as u64, batch.entries);
            all.extend_from_slice(&batch.bytes);
            if batch.last >= goal {
                return (all.freeze(), batch.last);
            }
        }
    }
}

/// What the server itself has after `after` up to `through`.
async fn oplog(client: &Client, after: OpTime, through: OpTime) -> Bytes {
    let ts = |at: OpTime| bson::Timestamp { time: at.seconds, increment: at.increment };
    let filter = doc! { "ts": { "$gt": ts(after), "$lte": ts(through) } };
    let collection = client.database("local").collection::<RawDocumentBuf>("oplog.rs");
    let mut cursor = collection.find(filter).await.unwrap();
    let mut all = BytesMut::new();
    while let Some(entry) = cursor.next().await {
        all.extend_from_slice(entry.unwrap().as_bytes());
    }
    all.freeze()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_entry_comes_once_in_order_and_byte_for_byte() {
    // The oplog of a server that others write to as well may be overwritten meanwhile.
    let mongod = Mongod::start().unwrap();
    let (server, client, database) = (open(&mongod.uri()).await, mongod.oracle().await, unique_database());
    let anchor = from_now(&server).await;
    let mut following = stream(&server, &anchor).await;
    insert(&client, &database, "a", (0..5_000).map(|n| doc! { "_id": n, "pad": "x".repeat(2_000) })).await;
    client
        .database(&database)
        .collection::<Document>("a")
        .delete_many(doc! { "_id": { "$lt": 50 } })
        .await
        .unwrap();
    let facts = server.change_log_facts().await.unwrap();
    assert!(facts.oldest <= anchor.at && facts.bytes > 0 && facts.bytes_max > facts.bytes / 2);
    let (read, through) = read_until(&mut following, facts.newest).await;
    assert!(read == oplog(&client, anchor.at, through).await, "{} bytes differ", read.len());

    // From the last entry, known by its bytes.
    let last = document_frames(&read).last().unwrap().unwrap().to_vec();
    let anchor = ChangeAnchor { at: through, entry: Some(last.clone().into()) };
    let mut again = stream(&server, &anchor).await;
    insert(&client, &database, "b", [doc! { "_id": 1 }]).await;
    let newest = server.change_log_facts().await.unwrap().newest;
    let (read, end) = read_until(&mut again, newest).await;
    assert_eq!(read, oplog(&client, through, end).await);

    // The same position with other bytes is another history; a position that never was is one, too; one before the beginning is gone.
    let mut other = last;
    let middle = other.len() / 2;
    other[middle] ^= 1;
    let anchors = [
        (ChangeAnchor { at: through, entry: Some(other.into()) }, "diverged"),
        (ChangeAnchor { at: OpTime { increment: 9_999_999, ..facts.oldest }, entry: None }, "diverged"),
        (ChangeAnchor { at: OpTime { seconds: 1, increment: 1 }, entry: None }, "overrun"),
    ];
    for (anchor, expected) in anchors {
        let Followed::Broken(broken) = server.follow(&anchor).await.unwrap() else { panic!("{anchor:?}") };
        match broken {
            ContinuityBreak::Overrun { oldest } => {
                assert_eq!((expected, oldest), ("overrun", server.change_log_facts().await.unwrap().oldest));
            }
            ContinuityBreak::Diverged => assert_eq!(expected, "diverged"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_and_restarts_neither_lose_nor_repeat() {
    let mut mongod = Mongod::start().unwrap();
    let proxy = FaultProxy::start(mongod.address());
    let server = open(&mongod.uri_through(proxy.address())).await;
    let anchor = from_now(&server).await;
    let mut following = stream(&server, &anchor).await;
    let mut read = BytesMut::new();
    let mut through = anchor.at;
    for round in 0..6 {
        {
            let client = mongod.oracle().await;
            insert(&client, "cuts", "a", (0..300).map(|n| doc! { "_id": round * 1_000 + n })).await;
        }
        match round {
            2 => {
                mongod.kill9();
                mongod.restart().unwrap();
            }
            _ => proxy.cut_now(),
        }
        // A read that is given up half-way must not lose anything either.
        let _ = tokio::time::timeout(Duration::from_micros(200), following.next(WAIT)).await;
        let newest = open(&mongod.uri()).await.change_log_facts().await.unwrap().newest;
        if newest > through {
            let (bytes, end) = read_until(&mut following, newest).await;
            read.extend_from_slice(&bytes);
            through = end;
        }
    }
    let expected = oplog(&mongod.oracle().await, anchor.at, through).await;
    assert!(read == expected, "{} bytes read, {} expected", read.len(), expected.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_keeps_no_log_and_says_what_to_do() {
    let mongod = Mongod::options().standalone().start().unwrap();
    let server = open(&mongod.uri()).await;
    let error = server.change_log_facts().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
    assert!(error.hint().unwrap().contains("--replSet"));
    let anchor = ChangeAnchor { at: OpTime { seconds: 1, increment: 1 }, entry: None };
    assert_eq!(server.follow(&anchor).await.err().unwrap().kind(), ErrorKind::Precondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn read_on_local_is_enough() {
    let mongod = Mongod::options().auth("root", "secret").start().unwrap();
    let root = mongod.oracle().await;
    root.database("admin")
        .run_command(
            doc! { "createUser": "tail", "pwd": "tail", "roles": [{ "role": "read", "db": "local" }] },
        )
        .await
        .unwrap();
    let server = open(&format!("mongodb://tail:tail@{}/?directConnection=true", mongod.address())).await;
    let anchor = from_now(&server).await;
    let mut following = stream(&server, &anchor).await;
    insert(&root, "a", "a", [doc! { "_id": 1 }]).await;
    let newest = server.change_log_facts().await.unwrap().newest;
    read_until(&mut following, newest).await;

    root.database("admin")
        .run_command(doc! { "createUser": "none", "pwd": "none", "roles": [] })
        .await
        .unwrap();
    let server = open(&format!("mongodb://none:none@{}/?directConnection=true", mongod.address())).await;
    assert_eq!(server.follow(&anchor).await.err().unwrap().kind(), ErrorKind::Auth);
}

/// Elections, a killed primary, and a write that only it had.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_majority_does_not_have_is_never_seen() {
    let mut set = ReplicaSet::start(3).unwrap();
    let server = open(&set.uri()).await;
    let client = set.oracle().await;
    let anchor = from_now(&server).await;
    let mut following = stream(&server, &anchor).await;
    insert(&client, "kept", "a", (0..100).map(|n| doc! { "_id": n })).await;
    let newest = server.change_log_facts().await.unwrap().newest;
    let (bytes, mut through) = read_until(&mut following, newest).await;
    let mut read = BytesMut::from(bytes.as_ref());

    // The primary alone writes what nobody else will have.
    let alone = set.primary().unwrap();
    for other in (0..3).filter(|index| *index != alone) {
        set.member(other).kill9();
    }
    let own = set.member(alone).oracle().await;
    let lost =
        doc! { "insert": "a", "documents": [{ "_id": "lost" }], "writeConcern": { "w": 1, "j": true } };
    own.database("kept").run_command(lost).await.unwrap();
    if let Ok(Ok(Some(batch))) = tokio::time::timeout(Duration::from_secs(1), following.next(WAIT)).await {
        read.extend_from_slice(&batch.bytes);
        through = batch.last;
    }
    set.member(alone).kill9();
    for other in (0..3).filter(|index| *index != alone) {
        set.member(other).restart().unwrap();
    }
    set.primary().unwrap();
    insert(&client, "kept", "a", (100..200).map(|n| doc! { "_id": n })).await;
    let newest = server.change_log_facts().await.unwrap().newest;
    let (bytes, end) = read_until(&mut following, newest).await;
    read.extend_from_slice(&bytes);
    assert!(end > through);

    // The one that was alone comes back and rolls back; the primary steps down under the cursor.
    set.member(alone).restart().unwrap();
    let primary = set.primary().unwrap();
    let step_down = doc! { "replSetStepDown": 10, "secondaryCatchUpPeriodSecs": 5, "force": true };
    // The server may close the connection before it answers.
    let _ = set.member(primary).oracle().await.database("admin").run_command(step_down).await;
    set.primary().unwrap();
    insert(&client, "kept", "a", (200..300).map(|n| doc! { "_id": n })).await;
    let newest = server.change_log_facts().await.unwrap().newest;
    let (bytes, end) = read_until(&mut following, newest).await;
    read.extend_from_slice(&bytes);

    let expected = oplog(&client, anchor.at, end).await;
    assert!(read == expected, "{} bytes read, {} expected", read.len(), expected.len());
    assert!(!read.windows(4).any(|window| window == b"lost"));
}
