//! A change log replayed: whatever a random writer did, each moment comes back as the server had it.
//!
//! The log is read from the server's oplog directly; states are taken through the driver and the adapter's listing while the writer waits.
//! The set that replays begin with is read while the writer goes on, so that its collections are further on than it says.

use std::collections::BTreeMap;

use bson::{Bson, Document, RawDocumentBuf, Timestamp, doc};
use bytes::Bytes;
use futures::StreamExt as _;
use mainstay_engine::{
    ChangeReplay, CollectionIdentity, CollectionKind, DocumentBatch, DocumentDigest, DocumentSink,
    DocumentSource, Namespace, PointCollection, ReplayTarget, StoredCollection, Surveyed, Unidentified,
    Until, data_namespace, metadata_differences,
};
use mainstay_model::progress::Silent;
use mainstay_model::{ErrorKind, OpTime};
use mainstay_mongo::MongoServer;
use mainstay_testkit::Mongod;
use mongodb::Client;

use crate::support::open;

const DATABASES: [&str; 2] = ["one", "two"];
const MOMENTS: usize = 24;

/// Documents of a collection as they stand, in natural order.
async fn documents(client: &Client, namespace: &Namespace) -> Vec<Vec<u8>> {
    let collection = client.database(&namespace.database).collection::<RawDocumentBuf>(&namespace.collection);
    let mut cursor = collection.find(doc! {}).sort(doc! { "$natural": 1 }).await.unwrap();
    let mut documents = Vec::new();
    while let Some(document) = cursor.next().await {
        documents.push(document.unwrap().into_bytes());
    }
    documents
}

fn digest(documents: &[Vec<u8>]) -> DocumentDigest {
    let mut digest = DocumentDigest::default();
    documents.iter().for_each(|document| digest.add_document(document));
    digest
}

/// The oplog as the test follows it.
struct Log {
    client: Client,
    entries: Vec<(OpTime, RawDocumentBuf)>,
}

impl Log {
    async fn begin(client: &Client) -> Self {
        let oplog = client.database("local").collection::<RawDocumentBuf>("oplog.rs");
        let newest = oplog.find_one(doc! {}).sort(doc! { "$natural": -1 }).await.unwrap().unwrap();
        Self { client: client.clone(), entries: vec![(position(&newest), newest)] }
    }

    fn newest(&self) -> OpTime {
        self.entries.last().unwrap().0
    }

    async fn follow(&mut self) -> OpTime {
        let after = self.newest();
        let after = Timestamp { time: after.seconds, increment: after.increment };
        let oplog = self.client.database("local").collection::<RawDocumentBuf>("oplog.rs");
        let mut cursor =
            oplog.find(doc! { "ts": { "$gt": after } }).sort(doc! { "$natural": 1 }).await.unwrap();
        while let Some(entry) = cursor.next().await {
            let entry = entry.unwrap();
            self.entries.push((position(&entry), entry));
        }
        self.newest()
    }

    /// The entries after `after`, in pieces of different sizes.
    fn pieces(&self, after: OpTime) -> Vec<Bytes> {
        let entries: Vec<_> = self.entries.iter().filter(|(at, _)| *at > after).collect();
        let (mut pieces, mut begin) = (Vec::new(), 0);
        while begin < entries.len() {
            let end = entries.len().min(begin + 1 + pieces.len() * 7 % 40);
            let piece: Vec<u8> =
                entries[begin..end].iter().flat_map(|(_, entry)| entry.as_bytes().to_vec()).collect();
            pieces.push(Bytes::from(piece));
            begin = end;
        }
        pieces
    }
}

fn position(entry: &RawDocumentBuf) -> OpTime {
    let at = entry.get_timestamp("ts").unwrap();
    OpTime { seconds: at.time, increment: at.increment }
}

/// A backup set in memory.
struct Set {
    collections: Vec<StoredCollection>,
    documents: BTreeMap<CollectionIdentity, Vec<Vec<u8>>>,
    holds_through: OpTime,
}

/// The databases as they are at one moment.
struct State {
    at: OpTime,
    collections: BTreeMap<Namespace, (String, Vec<Vec<u8>>)>,
}

async fn state(server: &MongoServer, client: &Client, at: OpTime) -> State {
    let mut collections = BTreeMap::new();
    for database in DATABASES {
        for info in server.collections(database).await.unwrap() {
            let documents = match info.kind {
                CollectionKind::View => Vec::new(),
                _ => documents(client, &info.data_namespace()).await,
            };
            collections.insert(info.namespace, (info.metadata, documents));
        }
    }
    State { at, collections }
}

/// A writer whose doings follow from a seed.
struct Writer {
    client: Client,
    seed: u64,
    next_id: i32,
    large_transactions: usize,
}

impl Writer {
    fn below(&mut self, bound: usize) -> usize {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed % bound as u64) as usize
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn database(&mut self) -> &'static str {
        self.of(&["one", "one", "two"])
    }

    fn name(&mut self) -> &'static str {
        self.of(&["a", "b", "c", "d", "e"])
    }

    fn id(&mut self) -> Bson {
        let number = self.below(60) as i32;
        match self.below(12) {
            0 => Bson::Int64(number.into()),
            1 => Bson::Double(number.into()),
            2 => Bson::String(self.of(&["x", "X", "é", "E", "y", "Y"]).to_owned()),
            3 => doc! { "n": number }.into(),
            _ => Bson::Int32(number),
        }
    }

    fn document(&mut self) -> Document {
        let id = match self.below(3) {
            0 => self.id(),
            _ => {
                self.next_id += 1;
                Bson::Int32(self.next_id)
            }
        };
        let mut document = doc! {
            "_id": id, "n": self.below(20) as i32, "list": (0..self.below(5) as i32).collect::<Vec<_>>(),
            "in": { "a": self.below(9) as i32, "s": "x".repeat(self.below(40)) }, "u": self.next_id,
        };
        if self.below(9) == 0 {
            document.insert("empty", Timestamp { time: 0, increment: 0 });
        }
        document
    }

    fn update(&mut self) -> Bson {
        let number = self.below(9) as i32;
        let update = match self.below(11) {
            0 => doc! { "$set": { "in.a": number, "new": "y" } },
            1 => {
                doc! { "$inc": { "n": 1 }, "$push": { "list": { "$each": [number, 3], "$slice": -6, "$sort": 1 } } }
            }
            2 => doc! { "$unset": { "in.s": "" }, "$set": { "in.t": [1, { "q": number }] } },
            3 => doc! { "$rename": { "new": "old" } },
            4 => doc! { "$set": { "list.2": number, "in.t.1.q": 5 } },
            5 => doc! { "$pull": { "list": number } },
            6 => doc! { "$addToSet": { "list": number }, "$max": { "n": number } },
            7 => doc! { "n": number, "replaced": true, "empty": Timestamp { time: 0, increment: 0 } },
            8 => {
                return vec![doc! { "$replaceWith": { "$setField": { "field": { "$literal": "$d.x" }, "input": "$$ROOT", "value": number } } }].into();
            }
            9 => {
                return vec![
                    doc! { "$set": { "in.p": { "$add": ["$n", 1] }, "list": { "$slice": ["$list", 2] } } },
                ]
                .into();
            }
            _ => doc! { "$currentDate": { "when": true }, "$pop": { "list": 1 } },
        };
        update.into()
    }

    /// A write of documents in one collection.
    fn write(&mut self) -> Document {
        let (name, number) = (self.name(), self.below(20) as i32);
        match self.below(9) {
            0..=2 => {
                let documents: Vec<Document> = (0..=self.below(25)).map(|_| self.document()).collect();
                doc! { "insert": name, "documents": documents, "ordered": false }
            }
            3..=5 => {
                let updates: Vec<Document> = (0..=self.below(9))
                    .map(|_| {
                        let (update, id) = (self.update(), self.id());
                        let operators = matches!(&update, Bson::Document(update) if update.keys().next().is_some_and(|key| key.starts_with('$')));
                        match self.below(3) {
                            0 if operators => doc! { "q": { "n": number }, "u": update, "multi": true },
                            _ => doc! { "q": { "_id": id }, "u": update, "upsert": self.below(3) == 0 },
                        }
                    })
                    .collect();
                doc! { "update": name, "updates": updates, "ordered": false }
            }
            6 => {
                doc! { "delete": name, "deletes": [{ "q": { "n": number }, "limit": 0 }, { "q": { "_id": self.id() }, "limit": 1 }] }
            }
            7 => {
                doc! { "findAndModify": name, "query": { "n": number }, "update": self.update(), "new": true }
            }
            _ => doc! { "findAndModify": name, "query": { "n": number }, "remove": true },
        }
    }

    fn definition(&mut self) -> Document {
        let (name, other) = (self.name(), self.name());
        let series = self.of(&["prices", "weather"]);
        let far = 1_000_000_000_i64;
        match self.below(40) {
            0 => doc! { "create": name, "collation": { "locale": "en", "strength": self.of(&[1, 2]) } },
            1 => doc! { "create": name, "validator": { "n": { "$gte": 0 } }, "validationLevel": "moderate" },
            2 | 3 => {
                doc! { "create": "log", "capped": true, "size": 4_096 + self.below(9_000) as i32, "max": 30 }
            }
            4 => {
                doc! { "create": name, "clusteredIndex": { "key": { "_id": 1 }, "unique": true }, "expireAfterSeconds": far }
            }
            5 | 6 => {
                doc! { "create": series, "timeseries": { "timeField": "at", "metaField": "of", "granularity": "minutes" }, "expireAfterSeconds": far }
            }
            7 | 8 => doc! { "drop": self.of(&[name, series, "view", "log", "out"]) },
            9 => doc! { "create": name, "changeStreamPreAndPostImages": { "enabled": true } },
            10 => {
                doc! { "createIndexes": name, "indexes": [{ "key": { "n": 1 }, "name": "n" }, { "key": { "list": 1, "in.a": -1 }, "name": "two", "sparse": 1 }] }
            }
            11 => {
                doc! { "createIndexes": name, "indexes": [{ "key": { "in.s": "text" }, "name": "words", "default_language": "german" }, { "key": { "$**": 1 }, "name": "wild" }] }
            }
            12 => {
                doc! { "createIndexes": name, "indexes": [{ "key": { "when": 1 }, "name": "ttl", "expireAfterSeconds": 1_000_000_000.5 }, { "key": { "h": "hashed" }, "name": "hash" }] }
            }
            13 => {
                doc! { "createIndexes": name, "indexes": [{ "key": { "u": 1 }, "name": "unique", "unique": true, "partialFilterExpression": { "u": { "$gt": 5 } } }] }
            }
            14 => {
                doc! { "createIndexes": name, "indexes": [{ "key": { "place": "2d" }, "name": "flat", "min": -10, "max": 10, "bits": 20.0 }, { "key": { "globe": "2dsphere" }, "name": "globe", "background": true }] }
            }
            15 => {
                doc! { "createIndexes": series, "indexes": [{ "key": { "of.x": 1, "at": 1 }, "name": "of" }, { "key": { "p": -1 }, "name": "p" }, { "key": { "of": 1, "at": -1 }, "name": "down" }] }
            }
            16 => {
                doc! { "dropIndexes": self.of(&[name, series]), "index": self.of(&["n", "two", "words", "ttl", "of", "p"]) }
            }
            17 => doc! { "dropIndexes": self.of(&[name, series]), "index": "*" },
            18 => doc! { "collMod": name, "index": { "name": "n", "hidden": self.below(2) == 0 } },
            19 => {
                doc! { "collMod": name, "index": { "name": self.of(&["ttl", "n"]), "expireAfterSeconds": 900_000_000 + self.below(9) as i32 } }
            }
            20 => {
                doc! { "collMod": name, "validator": self.of_documents(), "validationAction": self.of(&["warn", "error"]) }
            }
            21 => doc! { "collMod": name, "validationLevel": self.of(&["off", "strict"]) },
            22 => doc! { "collMod": name, "changeStreamPreAndPostImages": { "enabled": self.below(2) == 0 } },
            23 => doc! { "collMod": name, "index": { "name": "n", "prepareUnique": self.below(2) == 0 } },
            24 => {
                doc! { "collMod": name, "expireAfterSeconds": if self.below(2) == 0 { Bson::from("off") } else { Bson::from(far + 5) } }
            }
            25 => doc! { "collMod": series, "timeseries": { "granularity": "hours" } },
            26 => doc! { "collMod": series, "expireAfterSeconds": self.of(&[999_999_999, 888_888_888]) },
            27 => {
                doc! { "collMod": series, "index": { "name": self.of(&["of", "p"]), "hidden": self.below(2) == 0 } }
            }
            28 => {
                doc! { "collMod": "log", "cappedSize": 5_000 + self.below(9_000) as i32, "cappedMax": 20 + self.below(20) as i32 }
            }
            29 => doc! { "emptycapped": "log" },
            30 => doc! { "convertToCapped": name, "size": 8_192 },
            31 => {
                doc! { "aggregate": name, "pipeline": [{ "$limit": 20 }, { "$out": self.of(&["out", other]) }], "cursor": {} }
            }
            32 => {
                doc! { "aggregate": name, "pipeline": [{ "$limit": 20 }, { "$merge": self.of(&["out", other]) }], "cursor": {} }
            }
            33 => {
                doc! { "create": "view", "viewOn": name, "pipeline": [{ "$match": { "n": { "$gt": self.below(9) as i32 } } }], "collation": { "locale": "de" } }
            }
            34 => doc! { "collMod": "view", "viewOn": other, "pipeline": [] },
            35 => doc! { "cloneCollectionAsCapped": name, "toCollection": "log", "size": 9_000 },
            36 => {
                doc! { "delete": series, "deletes": [{ "q": { "of.x": self.below(3) as i32 }, "limit": 0 }] }
            }
            _ => doc! { "insert": series, "documents": self.measurements() },
        }
    }

    fn of_documents(&mut self) -> Document {
        if self.below(2) == 0 {
            doc! {}
        } else {
            doc! { "n": { "$gte": -1 } }
        }
    }

    fn measurements(&mut self) -> Vec<Document> {
        (0..=self.below(12))
            .map(|_| {
                let at = bson::DateTime::from_millis(1_700_000_000_000 + self.below(90_000_000) as i64);
                doc! { "at": at, "of": { "x": self.below(3) as i32 }, "p": self.below(100) as f64 / 4.0 }
            })
            .collect()
    }

    /// One thing. The server may refuse it, which changes nothing.
    async fn act(&mut self) {
        let name = self.database();
        let database = self.client.database(name);
        match self.below(30) {
            0..=13 => {
                let _ = database.run_command(self.write()).await;
            }
            14..=22 => {
                let _ = database.run_command(self.definition()).await;
            }
            23 | 24 => {
                let documents: Vec<Document> = (0..self.below(40)).map(|_| self.document()).collect();
                let _ = database
                    .run_command(doc! { "insert": "log", "documents": documents, "ordered": false })
                    .await;
            }
            25 => {
                let from = format!("{}.{}", database.name(), self.name());
                let to = format!("{}.{}", self.database(), self.name());
                let rename = doc! { "renameCollection": from, "to": to, "dropTarget": self.below(2) == 0 };
                let _ = self.client.database("admin").run_command(rename).await;
            }
            26 if self.below(12) == 0 => database.drop().await.unwrap(),
            // The same id for the server, another one for us.
            27 => {
                let (name, number) = (self.name(), self.below(60) as i32);
                for id in [Bson::Int32(number), Bson::Int64(number.into()), Bson::Double(number.into())] {
                    let _ = database
                        .run_command(
                            doc! { "delete": name, "deletes": [{ "q": { "_id": number }, "limit": 1 }] },
                        )
                        .await;
                    let _ = database
                        .run_command(doc! { "insert": name, "documents": [{ "_id": id, "n": number }] })
                        .await;
                }
            }
            _ => self.transaction().await,
        }
    }

    async fn transaction(&mut self) {
        let mut session = self.client.start_session().await.unwrap();
        session.start_transaction().await.unwrap();
        let large = self.large_transactions < 3 && self.below(6) == 0;
        if large {
            self.large_transactions += 1;
            let database = self.client.database("one");
            for _ in 0..18 {
                let mut document = self.document();
                document.insert("pad", "p".repeat(1_000_000));
                let insert = doc! { "insert": "large", "documents": [document] };
                let _ = database.run_command(insert).session(&mut session).await;
            }
        }
        for _ in 0..=self.below(6) {
            let name = self.database();
            let database = self.client.database(name);
            let command = match self.below(8) {
                0 => doc! { "create": self.name() },
                _ => self.write(),
            };
            if database.run_command(command).session(&mut session).await.is_err() {
                let _ = session.abort_transaction().await;
                return;
            }
        }
        let admin = self.client.database("admin");
        match self.below(5) {
            0 => {
                let _ = session.abort_transaction().await;
            }
            1 => {
                let prepared =
                    admin.run_command(doc! { "prepareTransaction": 1 }).session(&mut session).await;
                let Ok(prepared) = prepared else { return };
                let at = prepared.get_timestamp("prepareTimestamp").unwrap();
                let end = if self.below(2) == 0 {
                    doc! { "commitTransaction": 1, "commitTimestamp": at }
                } else {
                    doc! { "abortTransaction": 1 }
                };
                admin.run_command(end).session(&mut session).await.unwrap();
                let _ = session.abort_transaction().await;
            }
            _ => {
                let _ = session.commit_transaction().await;
            }
        }
        if large {
            let drop = doc! { "delete": "large", "deletes": [{ "q": {}, "limit": self.below(2) as i32 }] };
            let _ = self.client.database("one").run_command(drop).await;
        }
    }

    async fn act_often(&mut self, times: usize) {
        for _ in 0..times {
            self.act().await;
        }
    }
}

/// Reads a set while the writer goes on.
async fn take_set(server: &MongoServer, client: &Client, writer: &mut Writer, log: &mut Log) -> Set {
    let holds_through = log.follow().await;
    let mut set = Set { collections: Vec::new(), documents: BTreeMap::new(), holds_through };
    writer.act_often(15).await;
    for database in DATABASES {
        for info in server.collections(database).await.unwrap() {
            if let Some(identity) = &info.identity {
                set.documents.insert(identity.clone(), documents(client, &info.data_namespace()).await);
            }
            set.collections.push(StoredCollection {
                namespace: info.namespace,
                kind: info.kind,
                identity: info.identity,
                metadata: info.metadata,
                holds_through,
            });
        }
    }
    // Documents may be further on than the listing, too.
    writer.act_often(10).await;
    for collection in &set.collections {
        let Some(identity) = &collection.identity else { continue };
        let data = data_namespace(&collection.namespace, collection.kind);
        let info = server.collections(&data.database).await.unwrap();
        if info
            .iter()
            .any(|info| info.identity.as_ref() == Some(identity) && info.namespace == collection.namespace)
        {
            set.documents.insert(identity.clone(), documents(client, &data).await);
        }
    }
    log.follow().await;
    set
}

fn survey(server: &MongoServer, set: &Set, log: &Log, until: Until) -> Surveyed {
    let mut survey = server.survey(set.collections.clone(), until, Unidentified::Refused).unwrap();
    for piece in log.pieces(set.holds_through) {
        survey.add(&piece).unwrap();
    }
    survey.end().unwrap()
}

/// The collection that a surveyed one is restored into.
fn target(point: &PointCollection, moment: usize) -> Namespace {
    Namespace::new(format!("at{moment}_{}", point.namespace.database), &point.namespace.collection)
}

/// Creates the collection of `point` and fills it from the set.
async fn prepare(
    server: &MongoServer,
    set: &Set,
    point: &PointCollection,
    moment: usize,
) -> Option<ReplayTarget> {
    let namespace = target(point, moment);
    server.create(&namespace, &point.metadata).await.unwrap();
    let identity = point.identity.clone()?;
    let begin = match &point.origin {
        Some(_) => set.documents[&identity].clone(),
        None => Vec::new(),
    };
    if !begin.is_empty() {
        let mut loader = server.loader(&namespace, point.kind).await.unwrap();
        let batch = DocumentBatch { bytes: begin.concat().into(), documents: begin.len() as u64 };
        assert_eq!(loader.load(&batch).await.unwrap().failures, []);
        assert_eq!(loader.finish().await.unwrap().failures, []);
    }
    Some(ReplayTarget {
        identity,
        namespace,
        kind: point.kind,
        capped: point.capped,
        holds_through: match point.origin {
            Some(_) => set.holds_through,
            None => OpTime { seconds: 0, increment: 0 },
        },
        digest: digest(&begin),
    })
}

/// Whether the documents of a capped collection are within its bounds.
fn fits(metadata: &str, documents: &[Vec<u8>]) -> bool {
    let metadata: serde_json::Value = serde_json::from_str(metadata).unwrap();
    let bound = |key: &str| {
        metadata["options"].get(key)?.as_object()?.values().next()?.as_str()?.parse::<usize>().ok()
    };
    bound("max").is_none_or(|max| documents.len() <= max)
        && bound("size").is_none_or(|size| documents.iter().map(Vec::len).sum::<usize>() <= size)
}

/// Restores the moment and compares it with what was recorded. Every other time the replay is interrupted and continued.
async fn restore(
    server: &MongoServer,
    client: &Client,
    set: &Set,
    log: &Log,
    moment: usize,
    state: &State,
    seed: u64,
) {
    let tell = format!("seed {seed}, moment {moment}");
    let until = Until::Through(state.at);
    let surveyed = survey(server, set, log, until);
    assert_eq!((surveyed.last, surveyed.needs_from), (Some(state.at), None), "{tell}");
    assert_eq!(surveyed.foreign, [], "{tell}");
    let names: Vec<_> = surveyed.collections.iter().map(|point| &point.namespace).collect();
    assert_eq!(names, state.collections.keys().collect::<Vec<_>>(), "{tell}");
    let mut targets = Vec::new();
    for point in &surveyed.collections {
        let recorded = &state.collections[&point.namespace].0;
        assert_eq!(
            metadata_differences(recorded, &point.metadata),
            Vec::<String>::new(),
            "{tell}, {}",
            point.namespace
        );
        targets.extend(prepare(server, set, point, moment).await);
    }
    let pieces = log.pieces(set.holds_through);
    let mut replayer = server.replayer(targets.clone(), until).await.unwrap();
    let mut resumed = set.holds_through;
    if moment % 2 == 1 {
        let (one, two) = (pieces.len() / 3, pieces.len() / 2);
        for piece in &pieces[..one] {
            replayer.apply(piece.clone()).await.unwrap();
        }
        resumed = replayer.flush().await.unwrap().unwrap_or(resumed);
        for piece in &pieces[one..two] {
            replayer.apply(piece.clone()).await.unwrap();
        }
        if moment % 4 == 1 {
            // What is told to be there may be less than what is there.
            replayer.flush().await.unwrap();
        }
        drop(replayer);
        for target in &mut targets {
            target.holds_through = target.holds_through.max(resumed.min(state.at));
            target.digest = digest(&documents(client, &data_namespace(&target.namespace, target.kind)).await);
        }
        replayer = server.replayer(targets.clone(), until).await.unwrap();
    }
    for piece in log.pieces(resumed) {
        replayer.apply(piece).await.unwrap();
    }
    let replayed = replayer.end().await.unwrap();
    for (target, replayed) in targets.iter().zip(replayed) {
        let point = surveyed
            .collections
            .iter()
            .find(|point| point.identity.as_ref() == Some(&target.identity))
            .unwrap();
        let tell = format!("{tell}, {}", point.namespace);
        let expected = &state.collections[&point.namespace].1;
        let found = documents(client, &data_namespace(&target.namespace, target.kind)).await;
        if target.capped {
            assert_eq!(replayed.digest, None, "{tell}");
            // A collMod to a smaller size trims when something is inserted: the copy may have done that already.
            let fits = fits(&state.collections[&point.namespace].0, expected);
            assert!(
                &found == expected || !fits && expected.ends_with(&found),
                "{tell}: {} documents, expected {}",
                found.len(),
                expected.len()
            );
        } else {
            assert_eq!(digest(&found), digest(expected), "{tell}");
            assert_eq!(replayed.digest, Some(digest(expected)), "{tell}");
        }
        if resumed == set.holds_through {
            assert_eq!(replayed.changes, point.changes, "{tell}");
        }
    }
    for point in &surveyed.collections {
        if moment.is_multiple_of(6) {
            let namespace = target(point, moment);
            server.build_indexes(&namespace, &point.metadata, &Silent).await.unwrap();
            let made = server.collections(&namespace.database).await.unwrap();
            let made = made.into_iter().find(|info| info.namespace == namespace).unwrap();
            let mut differences =
                metadata_differences(&state.collections[&point.namespace].0, &made.metadata);
            // Indexes are built as the server does it now.
            differences.retain(|difference| !difference.contains("background"));
            assert_eq!(differences, Vec::<String>::new(), "{tell}, {namespace}");
        }
    }
    for database in DATABASES {
        client.database(&format!("at{moment}_{database}")).drop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_moment_of_a_random_writer_comes_back() {
    let seed = rand::random::<u64>() | 1;
    random_writer(seed).await;
}

async fn random_writer(seed: u64) {
    let mongod = Mongod::start().unwrap();
    let client = mongod.oracle().await;
    let server = open(&mongod.uri()).await;
    let mut writer = Writer { client: client.clone(), seed, next_id: 1_000, large_transactions: 0 };
    let mut log = Log::begin(&client).await;
    writer.act_often(60).await;
    let set = take_set(&server, &client, &mut writer, &mut log).await;
    let mut states = Vec::new();
    for _ in 0..MOMENTS {
        let times = 1 + writer.below(25);
        writer.act_often(times).await;
        let at = log.follow().await;
        states.push(state(&server, &client, at).await);
    }
    for (moment, state) in states.iter().enumerate() {
        restore(&server, &client, &set, &log, moment, state, seed).await;
    }
}

#[tokio::test]
async fn a_log_that_is_no_continuation_is_refused() {
    let mongod = Mongod::start().unwrap();
    let client = mongod.oracle().await;
    let server = open(&mongod.uri()).await;
    let mut log = Log::begin(&client).await;
    client.database("one").collection("a").insert_one(doc! { "_id": 1 }).await.unwrap();
    let at = log.follow().await;
    let pieces = log.pieces(OpTime { seconds: 0, increment: 0 });
    let mut survey = server.survey(Vec::new(), Until::Through(at), Unidentified::Refused).unwrap();
    survey.add(&pieces.concat()).unwrap();
    let again = survey.add(&pieces[0]).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Corrupt, "{again:?}");
    let mut replayer = server.replayer(Vec::new(), Until::Through(at)).await.unwrap();
    replayer.apply(pieces.concat().into()).await.unwrap();
    assert_eq!(replayer.apply(pieces[0].clone()).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(replayer.flush().await.unwrap(), Some(at));
}
