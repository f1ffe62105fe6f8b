//! Entries made by hand: what is refused, how transactions count, what a log leaves out.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bson::{Binary, Document, Timestamp, doc, spec::BinarySubtype};
use mainstay_engine::CollectionIdentity;

use super::*;

fn uuid(number: u8) -> Binary {
    Binary { subtype: BinarySubtype::Uuid, bytes: vec![number; 16] }
}

fn at(increment: u32) -> OpTime {
    OpTime { seconds: 7, increment }
}

fn entry(increment: u32, fields: Document) -> Document {
    let mut entry = doc! { "ts": Timestamp { time: 7, increment }, "t": 1_i64, "v": 2_i64 };
    entry.extend(fields);
    entry
}

fn create(name: &str, number: u8) -> Document {
    doc! { "op": "c", "ns": "shop.$cmd", "ui": uuid(number), "o": { "create": name, "idIndex": { "v": 2, "key": { "_id": 1 }, "name": "_id_" } } }
}

fn insert(number: u8, id: i32) -> Document {
    doc! { "op": "i", "ns": "shop.a", "ui": uuid(number), "o": { "_id": id }, "o2": { "_id": id } }
}

fn in_session(number: i64, previous: u32, fields: Document) -> Document {
    let mut entry = doc! {
        "lsid": { "id": uuid(99) }, "txnNumber": number,
        "prevOpTime": { "ts": Timestamp { time: if previous == 0 { 0 } else { 7 }, increment: previous }, "t": 1_i64 },
        "op": "c", "ns": "admin.$cmd",
    };
    entry.extend(fields);
    entry
}

fn applied(operations: &[Document], flags: Document) -> Document {
    let mut command = doc! { "applyOps": operations.to_vec() };
    command.extend(flags);
    doc! { "o": command }
}

fn bytes(entries: &[Document]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.to_vec().unwrap()).collect()
}

/// Surveys entries whose positions are 1, 2, …, all within the range.
fn survey(set: &[StoredCollection], entries: &[Document]) -> Result<Surveyed> {
    let numbered: Vec<_> =
        (1..).zip(entries).map(|(increment, fields)| entry(increment, fields.clone())).collect();
    let mut survey = MongoSurvey::begin(set, Until::Through(at(1_000)), Unidentified::FirstOfName)?;
    survey.add(&bytes(&numbered))?;
    Box::new(survey).end()
}

fn stored(name: &str, number: u8, holds_through: u32) -> StoredCollection {
    StoredCollection {
        namespace: Namespace::new("shop", name),
        kind: CollectionKind::Collection,
        identity: Some(CollectionIdentity(format!("{number:02x}").repeat(16))),
        metadata: r#"{"indexes":[{"v":{"$numberInt":"2"},"key":{"_id":{"$numberInt":"1"}},"name":"_id_"}],"type":"collection"}"#.to_owned(),
        holds_through: at(holds_through),
    }
}

fn inserts(surveyed: &Surveyed) -> Vec<(String, u64)> {
    let counts = surveyed.collections.iter();
    counts.map(|point| (point.namespace.collection.clone(), point.changes.inserts)).collect()
}

#[test]
fn what_is_unknown_is_refused_by_name() {
    for (fields, kind, told) in [
        (doc! { "op": "q", "ns": "shop.a" }, ErrorKind::Unsupported, "unknown kind `q` at 7:1"),
        (
            doc! { "op": "c", "ns": "shop.$cmd", "o": { "importCollection": "shop.a" } },
            ErrorKind::Unsupported,
            "importCollection",
        ),
        (doc! { "op": "i", "ns": "shop.a", "o": { "_id": 1 } }, ErrorKind::Unsupported, "UUID"),
        (
            doc! { "op": "i", "ns": "shop.a", "ui": uuid(1), "o": { "a": 1 } },
            ErrorKind::Unsupported,
            "without _id",
        ),
        (
            doc! { "op": "u", "ns": "shop.a", "ui": uuid(1), "o": { "$v": 1, "$set": { "a": 1 } }, "o2": { "_id": 1 } },
            ErrorKind::Unsupported,
            "4.4",
        ),
        (
            doc! { "op": "u", "ns": "shop.a", "ui": uuid(1), "o": { "$v": 2, "diff": { "sa": { "b": {} } } }, "o2": { "_id": 1 } },
            ErrorKind::Unsupported,
            "binary",
        ),
        (
            doc! { "op": "i", "ns": "shop.system.resharding.1", "ui": uuid(1), "o": { "_id": 1 } },
            ErrorKind::Unsupported,
            "resharding",
        ),
        (doc! { "op": "c", "ns": "shop.$cmd", "o": {} }, ErrorKind::Corrupt, "7:1"),
        (doc! { "op": "i", "ns": "shop" }, ErrorKind::Corrupt, "without a dot"),
        (doc! { "ns": "shop.a" }, ErrorKind::Corrupt, "without operation"),
    ] {
        let error = survey(&[], std::slice::from_ref(&fields)).unwrap_err();
        assert_eq!(error.kind(), kind, "{fields}: {error}");
        assert!(error.message().contains(told), "{fields}: {error}");
    }
    let change = doc! { "op": "c", "ns": "shop.$cmd", "ui": uuid(1), "o": { "collMod": "a", "novelty": 1 } };
    let error = survey(&[stored("a", 1, 0)], &[change]).unwrap_err();
    assert!(error.message().contains("novelty"), "{error}");
}

#[test]
fn the_servers_own_and_no_operations_are_passed_over() {
    let surveyed = survey(
        &[],
        &[
            doc! { "op": "n", "ns": "", "o": { "msg": "periodic noop" } },
            doc! { "op": "i", "ns": "config.transactions", "ui": uuid(1), "o": { "_id": 1 } },
            doc! { "op": "c", "ns": "admin.$cmd", "o": { "whatever": 1 } },
            doc! { "op": "i", "ns": "mainstay.identity", "ui": uuid(2), "o": { "_id": 1 } },
        ],
    )
    .unwrap();
    assert_eq!((surveyed.entries, surveyed.last), (4, Some(at(4))));
    assert_eq!((surveyed.collections, surveyed.foreign), (Vec::new(), Vec::new()));
}

#[test]
fn a_transaction_counts_whole_where_it_is_committed() {
    let partial = doc! { "partialTxn": true };
    let one = in_session(1, 0, applied(&[insert(1, 1), insert(1, 2)], partial.clone()));
    let two = in_session(1, 2, applied(&[insert(1, 3), create("b", 2)], doc! { "count": 4 }));
    let entries = [create("a", 1), one.clone(), two.clone()];
    assert_eq!(inserts(&survey(&[], &entries).unwrap()), [("a".to_owned(), 3), ("b".to_owned(), 0)]);
    // Its end is not reached.
    assert_eq!(inserts(&survey(&[], &entries[..2]).unwrap()), [("a".to_owned(), 0)]);
    // The set holds the commit, and with it everything.
    let surveyed = survey(&[stored("a", 1, 3)], &entries).unwrap();
    assert_eq!(inserts(&surveyed), [("a".to_owned(), 0), ("b".to_owned(), 0)]);
    let prepared = in_session(1, 0, applied(&[insert(1, 1)], doc! { "prepare": true }));
    let commit = in_session(1, 2, doc! { "o": { "commitTransaction": 1 } });
    let abort = in_session(1, 2, doc! { "o": { "abortTransaction": 1 } });
    for (end, count) in [(commit, 1), (abort, 0)] {
        let surveyed = survey(&[], &[create("a", 1), prepared.clone(), end]).unwrap();
        assert_eq!(inserts(&surveyed), [("a".to_owned(), count)]);
    }
    // The session begins another one: the first never ended.
    let other = in_session(2, 0, applied(&[insert(1, 9)], doc! {}));
    let surveyed = survey(&[], &[create("a", 1), one.clone(), other]).unwrap();
    assert_eq!(inserts(&surveyed), [("a".to_owned(), 1)]);
    // A hole in the chain.
    let error = survey(
        &[],
        &[create("a", 1), one, doc! { "op": "n", "ns": "" }, in_session(1, 3, applied(&[], doc! {}))],
    )
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn open_transactions_that_no_replay_could_hold_are_refused_before_anything_is_written() {
    let weigh = |entries: &[Document]| -> Result<()> {
        let mut survey = MongoSurvey::begin(&[], Until::Through(at(1_000)), Unidentified::FirstOfName)?;
        survey.transactions = Transactions::new(Weight { definitions: 300, changes: 1_000 });
        let numbered = (1..).zip(entries).map(|(increment, fields)| entry(increment, fields.clone()));
        survey.add(&bytes(&numbered.collect::<Vec<_>>()))
    };
    let large = doc! { "op": "i", "ns": "shop.a", "ui": uuid(1), "o": { "_id": 1, "text": "x".repeat(600) }, "o2": { "_id": 1 } };
    let part = |number: i64, previous: u32, operation: &Document, flags: Document| {
        in_session(number, previous, applied(std::slice::from_ref(operation), flags))
    };
    let partial = doc! { "partialTxn": true };
    let first = part(1, 0, &large, partial.clone());
    let error = weigh(&[first.clone(), part(1, 1, &large, doc! {})]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("of changes together at 7:2"), "{error}");
    // Room is there again when one has ended, or can end no more.
    let abort = in_session(1, 1, doc! { "o": { "abortTransaction": 1 } });
    weigh(&[first.clone(), abort, part(2, 0, &large, doc! {}), part(3, 0, &large, doc! {})]).unwrap();
    weigh(&[first, part(2, 0, &large, partial.clone())]).unwrap();
    // Changes are not kept, definitions are.
    let error = weigh(&[
        part(1, 0, &create("b", 2), partial.clone()),
        part(1, 1, &create("c", 3), partial.clone()),
        part(1, 2, &create("d", 4), partial),
    ])
    .unwrap_err();
    assert!(error.message().contains("of definitions together"), "{error}");
}

#[test]
fn a_transaction_that_began_before_the_log_tells_from_where_it_is_needed() {
    let last = in_session(1, 500, applied(&[insert(1, 1)], doc! {}));
    let surveyed = survey(&[stored("a", 1, 0)], std::slice::from_ref(&last)).unwrap();
    assert_eq!(surveyed.needs_from, Some(at(500)));
    assert_eq!(survey(&[stored("a", 1, 1)], &[last]).unwrap().needs_from, None);
    let commit = in_session(1, 500, doc! { "o": { "commitTransaction": 1 } });
    assert_eq!(survey(&[stored("a", 1, 0)], &[commit]).unwrap().needs_from, Some(at(500)));
    let abort = in_session(1, 500, doc! { "o": { "abortTransaction": 1 } });
    assert_eq!(survey(&[stored("a", 1, 0)], &[abort]).unwrap().needs_from, None);
}

#[test]
fn what_the_set_leaves_out_is_told_unless_it_is_dropped() {
    let drop = |number| doc! { "op": "c", "ns": "shop.$cmd", "ui": uuid(number), "o": { "drop": "a" }, "o2": { "numRecords": 1 } };
    let surveyed = survey(&[], &[insert(1, 1), insert(2, 1), drop(2)]).unwrap();
    assert_eq!(surveyed.foreign, [Namespace::new("shop", "a")]);
    assert_eq!(survey(&[stored("a", 1, 0)], &[insert(1, 1)]).unwrap().foreign, []);
    assert_eq!(
        survey(&[], &[insert(1, 1), doc! { "op": "c", "ns": "shop.$cmd", "o": { "dropDatabase": 1 } }])
            .unwrap()
            .foreign,
        []
    );
}

#[test]
fn the_end_is_where_it_was_asked_for() {
    let entries: Vec<_> = (1..=3)
        .map(|increment| entry(increment, if increment == 1 { create("a", 1) } else { insert(1, 1) }))
        .collect();
    for (until, count, last, past_end) in [
        (Until::Through(at(2)), 1, Some(at(2)), Some(at(3))),
        (Until::Before(at(2)), 0, Some(at(1)), Some(at(2))),
        (Until::Through(at(9)), 2, Some(at(3)), None),
    ] {
        let mut survey = MongoSurvey::begin(&[], until, Unidentified::Refused).unwrap();
        survey.add(&bytes(&entries)).unwrap();
        let surveyed = Box::new(survey).end().unwrap();
        assert_eq!(inserts(&surveyed), [("a".to_owned(), count)]);
        assert_eq!((surveyed.last, surveyed.past_end), (last, past_end));
    }
}

#[test]
fn no_flipped_bit_and_no_cut_panics() {
    let entries = [
        create("a", 1),
        insert(1, 1),
        doc! { "op": "u", "ns": "shop.a", "ui": uuid(1), "o": { "$v": 2, "diff": { "sa": { "a": true, "u1": 2 } } }, "o2": { "_id": 1 } },
        in_session(1, 0, applied(&[insert(1, 1), create("b", 2)], doc! { "prepare": true })),
        in_session(1, 4, doc! { "o": { "commitTransaction": 1 } }),
        doc! { "op": "c", "ns": "shop.$cmd", "ui": uuid(1), "o": { "collMod": "a", "index": { "name": "_id_", "hidden": true } } },
        doc! { "op": "c", "ns": "shop.$cmd", "ui": uuid(1), "o": { "renameCollection": "shop.a", "to": "shop.c", "dropTarget": uuid(2) } },
        doc! { "op": "c", "ns": "shop.$cmd", "ui": uuid(3), "o": { "create": "system.buckets.t", "timeseries": { "timeField": "t", "metaField": "m" } } },
        doc! { "op": "c", "ns": "shop.$cmd", "ui": uuid(3), "o": { "createIndexes": "system.buckets.t", "v": 2, "key": { "meta.x": 1, "control.min.t": 1, "control.max.t": 1 }, "name": "m" } },
        doc! { "op": "i", "ns": "shop.system.views", "ui": uuid(4), "o": { "_id": "shop.t", "viewOn": "system.buckets.t", "pipeline": [] } },
    ];
    let whole: Vec<u8> = (1..)
        .zip(&entries)
        .flat_map(|(increment, fields)| entry(increment, fields.clone()).to_vec().unwrap())
        .collect();
    let surveyed = survey(&[], &entries).unwrap();
    assert_eq!(surveyed.collections.len(), 2, "{surveyed:?}");
    exercise(&whole);
    for index in 0..whole.len() {
        exercise(&whole[..index]);
        for bit in 0..8 {
            let mut damaged = whole.clone();
            damaged[index] ^= 1 << bit;
            exercise(&damaged);
        }
    }
}

/// A time series as mongodump describes it: without UUID.
fn series() -> StoredCollection {
    StoredCollection {
        namespace: Namespace::new("shop", "t"),
        kind: CollectionKind::TimeSeries,
        identity: None,
        metadata: r#"{"options":{"timeseries":{"timeField":"at"}},"indexes":[],"type":"timeseries"}"#
            .to_owned(),
        holds_through: at(0),
    }
}

#[test]
fn what_has_no_uuid_is_what_the_log_first_calls_by_its_name() {
    let bucket = |number: u8, id: i32| doc! { "op": "i", "ns": "shop.system.buckets.t", "ui": uuid(number), "o": { "_id": id } };
    let drop = |number: u8| doc! { "op": "c", "ns": "shop.$cmd", "ui": uuid(number), "o": { "drop": "system.buckets.t" } };
    let make = |number: u8| doc! { "op": "c", "ns": "shop.$cmd", "ui": uuid(number), "o": { "create": "system.buckets.t", "timeseries": { "timeField": "at" } } };
    let view = doc! { "op": "i", "ns": "shop.system.views", "ui": uuid(4), "o": { "_id": "shop.t", "viewOn": "system.buckets.t", "pipeline": [] } };
    let in_transaction = in_session(1, 0, applied(&[bucket(7, 1)], doc! {}));
    for (entries, identity, origin, inserted) in [
        (vec![bucket(7, 1), bucket(7, 2)], 7, true, 2),
        (vec![in_transaction], 7, true, 1),
        (vec![drop(7), make(8), view.clone(), bucket(8, 1)], 8, false, 1),
        // Made while it was dumped: what the dump holds of it is its own.
        (vec![make(8), view, bucket(8, 1)], 8, true, 1),
    ] {
        let surveyed = survey(&[series()], &entries).unwrap();
        let [found] = surveyed.collections.as_slice() else { panic!("{surveyed:?}") };
        assert_eq!(found.identity, Some(CollectionIdentity(format!("{identity:02x}").repeat(16))));
        assert_eq!((found.origin.is_some(), found.changes.inserts), (origin, inserted), "{entries:?}");
        assert_eq!(surveyed.foreign, []);
    }
    let untouched = survey(&[series()], &[insert(1, 1)]).unwrap();
    assert_eq!(untouched.collections.len(), 1);
    assert_eq!(untouched.foreign, [Namespace::new("shop", "a")]);
    assert_eq!(survey(&[series()], &[drop(7)]).unwrap().collections, []);
    let taken = survey(&[stored("a", 7, 0), series()], &[bucket(7, 1)]).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::Corrupt);
    let twice = survey(&[stored("a", 7, 0), stored("b", 7, 0)], &[]).unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::Corrupt);
    let refused = MongoSurvey::begin(&[series()], Until::Through(at(9)), Unidentified::Refused);
    assert_eq!(refused.err().map(|error| error.kind()), Some(ErrorKind::Unsupported));
}
