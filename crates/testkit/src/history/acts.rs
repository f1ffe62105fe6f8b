//! The acts of the random writer.

use bson::{Bson, Decimal128, Document, RawDocumentBuf, doc, oid::ObjectId, spec::BinarySubtype};
use futures::TryStreamExt as _;
use mongodb::options::ReturnDocument;

use super::History;

/// Collections that the writer begins with, and never drops all of.
const FIRST: [&str; 3] = ["orders", "día.de ño", "stock"];
/// The most collections at a time.
const COLLECTION_COUNT_MAX: usize = 9;
/// Above this many documents a collection is rather deleted from.
const DOCUMENT_COUNT_MAX: usize = 250;

impl History {
    pub(super) async fn create_first(&mut self) {
        for name in FIRST {
            self.database.create_collection(name).await.expect("the server creates");
        }
        self.remember("create the first collections".to_owned(), &FIRST.map(str::to_owned), true).await;
    }

    /// Does one thing, and remembers what it came to.
    ///
    /// # Panics
    /// When the server fails.
    pub async fn act(&mut self) {
        match self.random.below(100) {
            0..22 => self.insert_one().await,
            22..50 => self.update_one().await,
            50..56 => self.replace_one().await,
            56..64 => self.delete_one().await,
            64..71 => self.insert_many().await,
            71..76 => self.change_many().await,
            76..82 => self.transact().await,
            82..88 => self.append().await,
            _ => self.define().await,
        }
    }

    /// Does `count` things as fast as the server takes them.
    ///
    /// # Panics
    /// As [`History::act`].
    pub async fn acts(&mut self, count: usize) {
        for _ in 0..count {
            self.act().await;
        }
    }

    /// Drops the largest plain collection: the accident. Gives its name and the position just before.
    ///
    /// # Panics
    /// When the server fails.
    pub async fn drop_largest(&mut self) -> String {
        let plain = self.state.of_kind("collection");
        let largest =
            plain.into_iter().max_by_key(|name| self.state.documents_of(name)).expect("there is one");
        self.database.collection::<Document>(&largest).drop().await.expect("the server drops");
        self.remember(format!("drop {largest}"), &[], true).await;
        largest
    }

    fn collection(&self, name: &str) -> mongodb::Collection<RawDocumentBuf> {
        self.database.collection(name)
    }

    /// A plain collection.
    fn some_collection(&mut self) -> String {
        let names = self.state.of_kind("collection");
        self.random.pick(&names)
    }

    /// A plain collection and the id of a document in it, if it holds any.
    fn some_document(&mut self) -> (String, Option<Bson>) {
        let name = self.some_collection();
        let ids = self.state.ids(&name);
        let id = if ids.is_empty() { None } else { Some(self.random.pick(&ids)) };
        (name, id)
    }

    fn new_name(&mut self, stem: &str) -> String {
        self.next += 1;
        format!("{stem}{}", self.next)
    }

    async fn insert_one(&mut self) {
        let name = self.some_collection();
        let document = self.document();
        let raw = RawDocumentBuf::try_from(&document).expect("a document has a form");
        let done = self.collection(&name).insert_one(&raw).await;
        if done.is_ok() {
            self.note(&name, &id_of(&document), Some(raw));
        }
        self.remember(format!("insert into {name}"), &[], false).await;
    }

    async fn update_one(&mut self) {
        let (name, id) = self.some_document();
        let id = id.unwrap_or(Bson::Int32(-1));
        let update = self.update();
        let filter = doc! { "_id": id };
        let collection = self.collection(&name);
        let changed = match update {
            Update::Operators(update) => {
                let upsert = self.random.one_in(4);
                let act = collection.find_one_and_update(filter.clone(), update);
                act.upsert(upsert).return_document(ReturnDocument::After).await
            }
            Update::Pipeline(stages) => {
                let act = collection.find_one_and_update(filter.clone(), stages);
                act.return_document(ReturnDocument::After).await
            }
        };
        if let Ok(Some(document)) = changed {
            self.note(&name, &filter, Some(document));
        }
        self.remember(format!("update in {name}"), &[], false).await;
    }

    async fn replace_one(&mut self) {
        let (name, Some(id)) = self.some_document() else { return self.insert_one().await };
        let mut document = self.document();
        document.remove("_id");
        let filter = doc! { "_id": id };
        let raw = RawDocumentBuf::try_from(&document).expect("a document has a form");
        let collection = self.collection(&name);
        let act = collection.find_one_and_replace(filter.clone(), raw);
        if let Ok(Some(document)) = act.return_document(ReturnDocument::After).await {
            self.note(&name, &filter, Some(document));
        }
        self.remember(format!("replace in {name}"), &[], false).await;
    }

    async fn delete_one(&mut self) {
        let (name, Some(id)) = self.some_document() else { return self.insert_one().await };
        let filter = doc! { "_id": id };
        if self.collection(&name).delete_one(filter.clone()).await.is_ok() {
            self.note(&name, &filter, None);
        }
        self.remember(format!("delete from {name}"), &[], false).await;
    }

    async fn insert_many(&mut self) {
        let name = self.some_collection();
        let count = 2 + self.random.below(30);
        let documents: Vec<Document> = (0..count).map(|_| self.document()).collect();
        // What a unique index refuses is read back.
        drop(self.database.collection::<Document>(&name).insert_many(&documents).ordered(false).await);
        self.remember(format!("insert {count} into {name}"), &[name], false).await;
    }

    async fn change_many(&mut self) {
        let name = self.some_collection();
        let collection = self.collection(&name);
        let filter = doc! { "n": { "$gt": self.random.below(1_000) as i32 } };
        let is_full = self.state.documents_of(&name) > DOCUMENT_COUNT_MAX;
        let done = if is_full || self.random.one_in(3) {
            collection.delete_many(filter).await.map(drop)
        } else {
            let update = doc! { "$inc": { "n": 1, "touched": 1 }, "$push": { "tags": "many" } };
            collection.update_many(filter, update).await.map(drop)
        };
        drop(done);
        self.remember(format!("change many in {name}"), &[name], false).await;
    }

    async fn transact(&mut self) {
        let (one, other) = (self.some_collection(), self.some_collection());
        let is_aborted = self.random.one_in(5);
        self.session.start_transaction().await.expect("a transaction begins");
        let mut is_whole = true;
        for _ in 0..1 + self.random.below(6) {
            let name = if self.random.one_in(2) { &one } else { &other };
            let collection = self.database.collection::<Document>(name);
            let n = self.random.below(1_000) as i32;
            let document = self.document();
            let done = match self.random.below(3) {
                0 => collection.insert_one(document).session(&mut self.session).await.map(drop),
                1 => {
                    let update = doc! { "$set": { "in_transaction": n, "nested.a": n } };
                    let act = collection.update_many(doc! { "n": { "$lt": n } }, update);
                    act.session(&mut self.session).await.map(drop)
                }
                _ => collection.delete_one(doc! { "n": n }).session(&mut self.session).await.map(drop),
            };
            is_whole &= done.is_ok();
            if !is_whole {
                break;
            }
        }
        let ended = if is_aborted || !is_whole {
            self.session.abort_transaction().await
        } else {
            self.session.commit_transaction().await
        };
        // A transaction that the server has ended by itself has nothing to be aborted.
        drop(ended);
        self.remember(format!("transaction over {one} and {other}"), &[one, other], false).await;
    }

    /// Into a capped collection or a time series.
    async fn append(&mut self) {
        let (capped, series) = (self.state.of_kind("capped"), self.state.of_kind("timeseries"));
        let all = [capped.clone(), series].concat();
        if all.is_empty() {
            return self.define_special().await;
        }
        let name = self.random.pick(&all);
        let n = self.random.below(1_000) as i32;
        self.next += 1;
        let documents: Vec<Document> = (0..1 + self.random.below(5))
            .map(|step| {
                let at = bson::DateTime::from_millis(1_700_000_000_000 + self.next * 1_000 + step as i64);
                doc! { "at": at, "meta": { "sensor": n % 3 }, "n": n, "text": "x".repeat(n as usize % 90) }
            })
            .collect();
        drop(self.database.collection::<Document>(&name).insert_many(documents).await);
        self.remember(format!("append to {name}"), &[name], false).await;
    }

    /// Changes what exists.
    async fn define(&mut self) {
        let plain = self.state.of_kind("collection");
        match self.random.below(12) {
            0 | 1 if self.state.definitions.len() < COLLECTION_COUNT_MAX => self.create().await,
            2 if plain.len() > 3 => self.drop_one().await,
            3 => self.rename().await,
            4 if plain.len() > 3 => self.rename_over().await,
            5 | 6 => self.create_indexes().await,
            7 => self.drop_indexes().await,
            8 => self.modify().await,
            9 => self.view().await,
            10 => self.out().await,
            _ => self.define_special().await,
        }
    }

    async fn create(&mut self) {
        let name = self.new_name("made");
        let mut command = doc! { "create": &name };
        match self.random.below(5) {
            0 => {
                command.insert("collation", doc! { "locale": "de", "strength": 2 });
            }
            1 => {
                command.insert("validator", doc! { "n": { "$gte": -1_000_000 } });
                command.insert("validationAction", "warn");
            }
            2 => {
                command.insert("clusteredIndex", doc! { "key": { "_id": 1 }, "unique": true });
            }
            _ => {}
        }
        self.define_by(command, &[]).await;
    }

    /// A capped collection or a time series, made or dropped.
    async fn define_special(&mut self) {
        let special = [self.state.of_kind("capped"), self.state.of_kind("timeseries")].concat();
        if special.len() >= 3 {
            let name = self.random.pick(&special);
            return self.define_by(doc! { "drop": &name }, &[]).await;
        }
        let name = self.new_name("kept");
        let command = if self.random.one_in(2) {
            doc! { "create": &name, "capped": true, "size": 4_096, "max": 12 }
        } else {
            doc! { "create": &name, "timeseries": { "timeField": "at", "metaField": "meta" } }
        };
        self.define_by(command, &[name]).await;
    }

    async fn drop_one(&mut self) {
        let name = self.some_collection();
        self.define_by(doc! { "drop": &name }, &[]).await;
    }

    async fn rename(&mut self) {
        let (from, to) = (self.some_collection(), self.new_name("renamed"));
        self.rename_to(&from, &to, false).await;
    }

    async fn rename_over(&mut self) {
        let (from, to) = (self.some_collection(), self.some_collection());
        if from != to {
            self.rename_to(&from, &to, true).await;
        }
    }

    async fn rename_to(&mut self, from: &str, to: &str, drops: bool) {
        let database = self.database.name();
        let command = doc! {
            "renameCollection": format!("{database}.{from}"), "to": format!("{database}.{to}"), "dropTarget": drops,
        };
        self.client.database("admin").run_command(command).await.expect("the server renames");
        self.remember(format!("rename {from} to {to}"), &[to.to_owned()], true).await;
    }

    async fn create_indexes(&mut self) {
        let name = self.some_collection();
        let keys = [
            doc! { "key": { "n": 1 }, "name": "n_1" },
            doc! { "key": { "tags": 1, "s": -1 }, "name": "tags_1_s_-1", "sparse": true },
            doc! { "key": { "nested.a": 1 }, "name": "part", "partialFilterExpression": { "n": { "$gt": 3 } } },
            doc! { "key": { "s": "text" }, "name": "words" },
            doc! { "key": { "s": "hashed" }, "name": "s_hashed" },
            doc! { "key": { "never": 1 }, "name": "ttl", "expireAfterSeconds": 86_400 },
            doc! { "key": { "serial": 1 }, "name": "unique", "unique": true, "sparse": true },
            doc! { "key": { "$**": 1 }, "name": "wild", "wildcardProjection": { "nested": 1 } },
        ];
        let first = self.random.below(keys.len());
        let second = (first + 1 + self.random.below(keys.len() - 1)) % keys.len();
        let mut indexes = vec![keys[first].clone()];
        indexes.extend(self.random.one_in(2).then(|| keys[second].clone()));
        self.define_by(doc! { "createIndexes": &name, "indexes": indexes }, &[]).await;
    }

    async fn drop_indexes(&mut self) {
        let name = self.some_collection();
        let index = self.random.pick(&["n_1", "part", "ttl", "unique", "*"]);
        self.define_by(doc! { "dropIndexes": &name, "index": index }, &[]).await;
    }

    async fn modify(&mut self) {
        let name = self.some_collection();
        let n = self.random.below(1_000) as i32;
        let command = match self.random.below(4) {
            0 => {
                doc! { "collMod": &name, "validator": { "n": { "$gte": -n - 1_000_000 } }, "validationLevel": "moderate" }
            }
            1 => doc! { "collMod": &name, "index": { "name": "ttl", "expireAfterSeconds": 90_000 + n } },
            2 => doc! { "collMod": &name, "index": { "name": "n_1", "hidden": n % 2 == 0 } },
            _ => doc! { "collMod": &name, "changeStreamPreAndPostImages": { "enabled": n % 2 == 0 } },
        };
        self.define_by(command, &[]).await;
    }

    async fn view(&mut self) {
        let views = self.state.of_kind("view");
        let on = self.some_collection();
        let pipeline = vec![doc! { "$match": { "n": { "$gt": self.random.below(9) as i32 } } }];
        let command = match (views.first(), self.random.below(3)) {
            (Some(view), 0) => doc! { "drop": view },
            (Some(view), 1) => doc! { "collMod": view, "viewOn": on, "pipeline": pipeline },
            _ => doc! { "create": self.new_name("seen"), "viewOn": on, "pipeline": pipeline },
        };
        self.define_by(command, &[]).await;
    }

    /// A collection filled by the server: a temporary one that is renamed into place.
    async fn out(&mut self) {
        let (from, to) = (self.some_collection(), "result".to_owned());
        let stages = [doc! { "$match": { "n": { "$gte": 10 } } }, doc! { "$out": &to }];
        let cursor = self.database.collection::<Document>(&from).aggregate(stages).await;
        drop(cursor.expect("the server computes").try_collect::<Vec<_>>().await);
        self.remember(format!("$out from {from}"), &[to], true).await;
    }

    /// Sends a command. One that the server refuses changes nothing, and that is remembered like anything else.
    async fn define_by(&mut self, command: Document, touched: &[String]) {
        let act = command.iter().next().map(|(verb, name)| format!("{verb} {name}")).unwrap_or_default();
        let done = self.database.run_command(command).await;
        let refused = if done.is_err() { ", refused" } else { "" };
        let touched = [touched, &self.not_yet_read()].concat();
        self.remember(format!("{act}{refused}"), &touched, true).await;
    }

    /// The newest collection of a name of the writer's own, which may have been created just now.
    fn not_yet_read(&self) -> Vec<String> {
        vec![format!("made{}", self.next)]
    }

    /// A new document of many types.
    fn document(&mut self) -> Document {
        self.next += 1;
        let (serial, n) = (self.next, self.random.below(1_000) as i32);
        let id = match self.random.below(5) {
            0 => Bson::Int64(serial),
            1 => Bson::String(format!("ü{serial}")),
            2 => Bson::Document(doc! { "a": serial, "b": n }),
            3 => Bson::Double(serial as f64 + 0.5),
            _ => Bson::ObjectId(ObjectId::from_bytes(padded(serial))),
        };
        let tags: Vec<String> = (0..self.random.below(6)).map(|tag| format!("t{tag}")).collect();
        let rows: Vec<Document> =
            (0..self.random.below(4) as i32).map(|row| doc! { "q": row, "v": [row, n] }).collect();
        let mut document = doc! { "_id": id, "n": n, "s": format!("text {n}"), "tags": tags, "rows": rows };
        document.insert("nested", doc! { "a": n, "b": { "c": f64::from(n) / 3.0, "d": Bson::Null } });
        if self.random.one_in(3) {
            document.insert("serial", serial);
        }
        if self.random.one_in(6) {
            let bytes = vec![7; self.random.below(3_000)];
            document.insert("blob", bson::Binary { subtype: BinarySubtype::Generic, bytes });
            document.insert("price", "12.50".parse::<Decimal128>().expect("a decimal"));
        }
        document
    }

    fn update(&mut self) -> Update {
        let n = self.random.below(1_000) as i32;
        Update::Operators(match self.random.below(13) {
            0 => doc! { "$set": { "n": n, "new": n, "nested.b.c": n } },
            1 => doc! { "$inc": { "n": 1 }, "$unset": { "new": "" } },
            2 => doc! { "$push": { "tags": format!("p{n}") } },
            3 => doc! { "$pull": { "tags": "t1" } },
            4 => doc! { "$set": { "rows.0.q": n, "tags.1": "set" } },
            5 => doc! { "$rename": { "nested.a": "moved" } },
            6 => doc! { "$set": { "rows.$[].v.0": n } },
            7 => doc! { "$push": { "rows": { "$each": [{ "q": n }], "$position": 0, "$slice": 5 } } },
            8 => doc! { "$unset": { "nested.b": "", "rows": "" } },
            9 => doc! { "$set": { "rows": [] }, "$min": { "n": n } },
            10 => doc! { "$currentDate": { "seen": true }, "$mul": { "n": 2 } },
            11 => {
                return Update::Pipeline(vec![
                    doc! { "$set": { "s": { "$concat": ["<", { "$ifNull": ["$s", "?"] }, ">"] }, "n": { "$toInt": 5 } } },
                    doc! { "$unset": ["blob"] },
                ]);
            }
            _ => {
                return Update::Pipeline(vec![
                    doc! { "$replaceWith": { "$mergeObjects": ["$$ROOT", { "whole": n, "nested": { "z": [n] } }] } },
                ]);
            }
        })
    }
}

/// What an update is made of.
enum Update {
    Operators(Document),
    Pipeline(Vec<Document>),
}

/// A number as the twelve bytes of an object id.
fn padded(number: i64) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn id_of(document: &Document) -> Document {
    doc! { "_id": document.get("_id").expect("a new document has an id").clone() }
}
