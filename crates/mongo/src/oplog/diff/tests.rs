//! Diffs applied here and by a server: the same bytes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;

use bson::{Bson, Document, RawDocumentBuf, doc};
use futures::StreamExt as _;
use mainstay_testkit::{shared_mongod, unique_database};
use mongodb::Client;

use super::*;

fn bytes(document: Document) -> Vec<u8> {
    document.to_vec().unwrap()
}

fn changed(before: Document, diff: Document) -> Result<Document, DiffError> {
    apply(&bytes(before), &bytes(diff)).map(|bytes| Document::from_reader(bytes.as_slice()).unwrap())
}

#[test]
fn each_part_of_the_format_does_its_own() {
    let before = doc! { "_id": 1, "a": 1, "b": { "c": 1, "d": 2 }, "e": [1, 2, 3], "f": "x" };
    for (diff, after) in [
        (doc! {}, before.clone()),
        (
            doc! { "d": { "a": false, "none": false } },
            doc! { "_id": 1, "b": { "c": 1, "d": 2 }, "e": [1, 2, 3], "f": "x" },
        ),
        (
            doc! { "u": { "a": "y" } },
            doc! { "_id": 1, "a": "y", "b": { "c": 1, "d": 2 }, "e": [1, 2, 3], "f": "x" },
        ),
        (
            doc! { "i": { "a": 2, "z": 3 } },
            doc! { "_id": 1, "b": { "c": 1, "d": 2 }, "e": [1, 2, 3], "f": "x", "a": 2, "z": 3 },
        ),
        (
            doc! { "u": { "new": 1 }, "i": { "f": 2 }, "sb": { "d": { "c": false }, "i": { "g": 1 } } },
            doc! { "_id": 1, "a": 1, "b": { "d": 2, "g": 1 }, "e": [1, 2, 3], "new": 1, "f": 2 },
        ),
        (
            doc! { "se": { "a": true, "l": 2, "u0": 9 } },
            doc! { "_id": 1, "a": 1, "b": { "c": 1, "d": 2 }, "e": [9, 2], "f": "x" },
        ),
        (
            doc! { "se": { "a": true, "u5": 6, "s4": { "u": { "x": 1 } } } },
            doc! { "_id": 1, "a": 1, "b": { "c": 1, "d": 2 }, "e": [1, 2, 3, null, null, 6], "f": "x" },
        ),
        (
            doc! { "sb": { "a": true, "u0": 1 }, "sf": { "u": { "x": 1 } }, "snone": { "u": { "x": 1 } } },
            doc! { "_id": 1, "a": 1, "b": null, "e": [1, 2, 3], "f": null },
        ),
    ] {
        assert_eq!(changed(before.clone(), diff.clone()).unwrap(), after, "{diff}");
    }
}

#[test]
fn what_is_no_diff_is_refused() {
    let refused = |diff| changed(doc! { "a": [1], "b": {} }, diff).unwrap_err();
    assert_eq!(refused(doc! { "b": { "x": 1 } }), DiffError::Binary);
    assert!(matches!(refused(doc! { "q": {} }), DiffError::Shape(_)));
    assert!(matches!(refused(doc! { "u": 1 }), DiffError::Shape(_)));
    assert!(matches!(refused(doc! { "sa": { "a": true, "l": -1 } }), DiffError::Shape(_)));
    assert!(matches!(refused(doc! { "sa": { "a": true, "u-1": 1 } }), DiffError::Shape(_)));
    assert!(matches!(refused(doc! { "sa": { "a": true, "u1": 1, "s1": {} } }), DiffError::Shape(_)));
    assert_eq!(refused(doc! { "sa": { "a": true, "l": i64::MAX } }), DiffError::TooLarge);
    assert_eq!(refused(doc! { "sa": { "a": true, "u4000000000": 1 } }), DiffError::TooLarge);
    let (mut before, mut diff) = (doc! {}, doc! {});
    for _ in 0..300 {
        (before, diff) = (doc! { "a": before }, doc! { "sa": diff });
    }
    assert!(matches!(changed(before, diff).unwrap_err(), DiffError::Shape(_)));
}

#[test]
fn no_flipped_bit_and_no_cut_panics() {
    let before = bytes(doc! { "_id": 1, "a": [1, { "b": 2 }], "c": { "d": "e" } });
    let diff = bytes(
        doc! { "d": { "x": false }, "u": { "y": 1 }, "sa": { "a": true, "l": 3, "s1": { "u": { "b": 1 } } }, "sc": { "i": { "z": 1 } } },
    );
    let both = [before.as_slice(), &diff].concat();
    for index in 0..both.len() {
        exercise(&both[..index]);
        for bit in 0..8 {
            let mut damaged = both.clone();
            damaged[index] ^= 1 << bit;
            exercise(&damaged);
            let _ = check(&damaged[before.len()..]);
        }
    }
}

/// A generator of numbers from a seed that a failure prints.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    fn of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }

    fn field(&mut self) -> &'static str {
        self.of(&["a", "b", "c", "d", "0", "1", "12", "ä", "sa", "u", "i"])
    }

    fn path(&mut self) -> String {
        let mut path = self.field().to_owned();
        for _ in 0..self.below(4) {
            path.push('.');
            let index = self.below(5).to_string();
            path.push_str(if self.below(3) == 0 { self.field() } else { &index });
        }
        path
    }

    fn value(&mut self, depth: usize) -> Bson {
        match self.below(if depth == 0 { 7 } else { 11 }) {
            0 => Bson::Int32(self.below(100) as i32),
            1 => Bson::Int64(self.below(100) as i64),
            2 => Bson::Double(self.below(100) as f64 / 8.0),
            3 => Bson::String("x".repeat(self.below(12))),
            4 => Bson::Null,
            5 => Bson::DateTime(bson::DateTime::from_millis(self.below(1_000) as i64)),
            6 => Bson::Boolean(self.below(2) == 0),
            7 | 8 => (0..self.below(6)).map(|_| self.value(depth - 1)).collect::<Vec<_>>().into(),
            _ => self.document(depth - 1).into(),
        }
    }

    fn document(&mut self, depth: usize) -> Document {
        (0..self.below(6)).map(|_| (self.field().to_owned(), self.value(depth))).collect()
    }

    /// An update, which the server may refuse for the document it meets.
    fn update(&mut self) -> Bson {
        let (path, other) = (self.path(), self.path());
        let update = match self.below(22) {
            0..=3 => doc! { "$set": { path: self.value(3), other: self.value(2) } },
            4 | 5 => doc! { "$unset": { path: "", other: "" } },
            6 => doc! { "$inc": { path: self.below(9) as i32 } },
            7 => doc! { "$mul": { path: 1.5 } },
            8 => doc! { "$min": { path: self.value(0) }, "$max": { other: self.value(0) } },
            9 => doc! { "$rename": { self.field(): self.field() } },
            10 => {
                doc! { "$push": { path: { "$each": [self.value(2), self.value(1)], "$slice": self.below(9) as i32 - 4 } } }
            }
            11 => doc! { "$push": { path: { "$each": [self.value(2)], "$position": self.below(4) as i32 } } },
            12 => {
                doc! { "$push": { path: { "$each": [self.value(0), self.value(0)], "$sort": if self.below(2) == 0 { 1 } else { -1 } } } }
            }
            13 => doc! { "$addToSet": { path: self.value(1) } },
            14 => doc! { "$pop": { path: if self.below(2) == 0 { 1 } else { -1 } } },
            15 => doc! { "$pull": { path: { "$in": [self.value(0), null, true, false] } } },
            16 => doc! { "$currentDate": { path: true } },
            17 => doc! { "$set": { format!("{}.$[]", self.field()): self.value(1) } },
            18 => return self.pipeline(),
            19 => return self.pipeline(),
            20 => return self.pipeline(),
            _ => {
                let mut replacement = self.document(3);
                replacement.insert("pad", "p".repeat(300));
                return replacement.into();
            }
        };
        update.into()
    }

    fn pipeline(&mut self) -> Bson {
        let stage = match self.below(6) {
            0 => {
                doc! { "$set": { self.field(): { "$literal": self.value(3) }, format!("{}.{}", self.field(), self.field()): { "$literal": self.value(2) } } }
            }
            1 => doc! { "$unset": [self.field(), format!("{}.{}", self.field(), self.field())] },
            2 => {
                doc! { "$replaceWith": { "$setField": { "field": { "$literal": self.of(&["x.y", "$d", "a.0", ""]) }, "input": "$$ROOT", "value": { "$literal": self.value(2) } } } }
            }
            3 => {
                doc! { "$set": { self.field(): { "$cond": [{ "$isArray": ["$a"] }, { "$reverseArray": "$a" }, "$b"] } } }
            }
            4 => {
                doc! { "$set": { self.field(): { "$concatArrays": [{ "$cond": [{ "$isArray": ["$b"] }, "$b", []] }, [self.below(9) as i32, 7]] } } }
            }
            _ => doc! { "$replaceWith": { "$mergeObjects": ["$$ROOT", { "$literal": self.document(3) }] } },
        };
        vec![Bson::from(stage)].into()
    }
}

const DOCUMENTS: i32 = 250;
const ROUNDS: usize = 14;

async fn states(client: &Client, database: &str) -> HashMap<i32, Vec<u8>> {
    let mut cursor = client.database(database).collection::<RawDocumentBuf>("a").find(doc! {}).await.unwrap();
    let mut states = HashMap::new();
    while let Some(document) = cursor.next().await {
        let document = document.unwrap();
        states.insert(document.get_i32("_id").unwrap(), document.into_bytes());
    }
    states
}

/// The updates of collection `a`, in order, by `_id`.
async fn updates(client: &Client, database: &str) -> Vec<(i32, RawDocumentBuf)> {
    let filter = doc! { "ns": format!("{database}.a"), "op": "u" };
    let oplog = client.database("local").collection::<RawDocumentBuf>("oplog.rs");
    let entries = oplog.find(filter).await.unwrap().map(Result::unwrap);
    entries
        .map(|entry| {
            let id = entry.get_document("o2").unwrap().get_i32("_id").unwrap();
            (id, entry.get_document("o").unwrap().to_owned())
        })
        .collect()
        .await
}

fn updated(before: &[u8], update: &RawDocumentBuf) -> Vec<u8> {
    match update.get_document("diff") {
        Ok(diff) => apply(before, diff.as_bytes()).unwrap(),
        Err(_) => update.as_bytes().to_vec(),
    }
}

#[tokio::test]
async fn random_updates_give_what_the_server_has() {
    let seed = rand::random::<u64>() | 1;
    let (mongod, name, mut dice) = (shared_mongod(), unique_database(), Dice(seed));
    let client = mongod.oracle().await;
    let database = client.database(&name);
    let documents: Vec<Document> = (0..DOCUMENTS)
        .map(|id| {
            let mut document = doc! { "_id": id, "pad": "p".repeat(400) };
            document.extend(dice.document(3).into_iter().filter(|(key, _)| key != "_id"));
            document
        })
        .collect();
    database.collection::<Document>("a").insert_many(&documents).await.unwrap();
    let mut history: HashMap<i32, Vec<Vec<u8>>> =
        states(&client, &name).await.into_iter().map(|(id, state)| (id, vec![state])).collect();
    for _ in 0..ROUNDS {
        let updates: Vec<Document> =
            (0..DOCUMENTS).map(|id| doc! { "q": { "_id": id }, "u": dice.update() }).collect();
        // Some are refused; these leave no entry.
        database.run_command(doc! { "update": "a", "updates": updates, "ordered": false }).await.unwrap();
        for (id, state) in states(&client, &name).await {
            let states = history.get_mut(&id).unwrap();
            if states.last() != Some(&state) {
                states.push(state);
            }
        }
    }
    let mut changes: HashMap<i32, Vec<RawDocumentBuf>> = HashMap::new();
    let mut diffs = Vec::new();
    for (id, update) in updates(&client, &name).await {
        diffs.extend(update.get_document("diff").ok().map(ToOwned::to_owned));
        changes.entry(id).or_default().push(update);
    }
    assert!(diffs.len() > 700, "{} diffs", diffs.len());
    for (id, states) in &history {
        let changes = changes.get(id).map(Vec::as_slice).unwrap_or_default();
        let mut step = 0;
        for update in changes {
            assert!(
                update.get_document("diff").ok().is_none_or(|diff| check(diff.as_bytes()).is_ok()),
                "{update:?}"
            );
            let after = updated(&states[step], update);
            // Servers log some updates that change nothing.
            if after != states[step] {
                step += 1;
            }
            assert!(states.get(step) == Some(&after), "seed {seed}, document {id}, step {step}: {update:?}");
            assert!(
                updated(&after, update) == after,
                "seed {seed}, document {id}, step {step}, twice: {update:?}"
            );
        }
        assert_eq!(step, states.len() - 1, "seed {seed}, document {id}");
        // From any state on, everything again comes to the same end.
        for state in states {
            let end = changes.iter().fold(state.clone(), |state, update| updated(&state, update));
            assert!(&end == states.last().unwrap(), "seed {seed}, document {id}");
        }
    }
    misapplied(&client, &name, seed, &mut dice, &diffs, &history).await;
    database.drop().await.unwrap();
}

/// Diffs applied to documents that they were not made for: by the server and here.
async fn misapplied(
    client: &Client,
    name: &str,
    seed: u64,
    dice: &mut Dice,
    diffs: &[RawDocumentBuf],
    history: &HashMap<i32, Vec<Vec<u8>>>,
) {
    let others: Vec<&Vec<u8>> = history.values().flatten().collect();
    let collection = client.database(name).collection::<RawDocumentBuf>("b");
    let (mut operations, mut expected) = (Vec::new(), HashMap::new());
    for id in 0..600 {
        let (diff, before) = (&diffs[dice.below(diffs.len())], others[dice.below(others.len())]);
        let renamed =
            updated(before, &RawDocumentBuf::try_from(&doc! { "diff": { "u": { "_id": id } } }).unwrap());
        expected.insert(id, apply(&renamed, diff.as_bytes()).unwrap());
        collection.insert_one(RawDocumentBuf::from_bytes(renamed).unwrap()).await.unwrap();
        let diff = Document::try_from(diff.as_ref()).unwrap();
        operations.push(doc! { "op": "u", "ns": format!("{name}.b"), "o2": { "_id": id }, "o": { "$v": 2, "diff": diff } });
    }
    for operation in operations {
        client.database("admin").run_command(doc! { "applyOps": [operation] }).await.unwrap();
    }
    let mut cursor = collection.find(doc! {}).await.unwrap();
    while let Some(found) = cursor.next().await {
        let found = found.unwrap();
        let ours = &expected[&found.get_i32("_id").unwrap()];
        assert!(
            found.as_bytes() == ours.as_slice(),
            "seed {seed}: server {found:?}, here {:?}",
            RawDocumentBuf::from_bytes(ours.clone())
        );
    }
}
