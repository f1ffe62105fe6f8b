//! The duplicate finder against the server's own verdict: random documents, paths, collations, partial and sparse filters.

use futures::TryStreamExt;
use mainstay_indexes::Json;
use mainstay_indexes::checks::DuplicateQuestion;
use mainstay_testkit::history::Random;
use mainstay_testkit::{shared_mongod, unique_database};
use mongodb::bson::{Bson, DateTime, Decimal128, Document, doc};
use mongodb::error::ErrorKind;
use mongodb::{Collection, Database};
use serde_json::Value;

/// How many cases are tried; a soak says more.
fn cases() -> u64 {
    std::env::var("MAINSTAY_TEST_CASES").map_or(300, |count| count.parse().unwrap())
}

/// Where the sequence of cases begins; a failure names its own.
const SEED: u64 = 0x1dce_5a17_0f00_d5ee;
/// The server's answers to what no unique index could hold.
const DUPLICATE_KEY: i32 = 11000;

/// Makes documents of a few values, so that they meet.
struct Making {
    random: Random,
    values: Vec<Bson>,
}

impl Making {
    fn new(mut random: Random) -> Self {
        let values = (0..6).map(|_| any(&mut random)).collect();
        Self { random, values }
    }

    fn scalar(&mut self) -> Bson {
        self.random.pick(&self.values)
    }

    fn object(&mut self) -> Document {
        let mut object = Document::new();
        for name in ["b", "c"] {
            if !self.random.one_in(3) {
                let value = self.value(2);
                object.insert(name, value);
            }
        }
        if self.random.one_in(2) {
            object = object.into_iter().rev_pairs();
        }
        object
    }

    /// A value; documents and arrays in it down to `depth`.
    fn value(&mut self, depth: usize) -> Bson {
        if depth == 0 {
            return self.scalar();
        }
        match self.random.below(8) {
            0 | 1 => Bson::Document(self.object_of(depth - 1)),
            2 | 3 => {
                let length = self.random.below(4);
                Bson::Array((0..length).map(|_| self.element(depth - 1)).collect())
            }
            _ => self.scalar(),
        }
    }

    fn element(&mut self, depth: usize) -> Bson {
        match self.random.below(6) {
            0 => Bson::Array((0..self.random.below(2)).map(|_| self.scalar()).collect()),
            1 | 2 => Bson::Document(self.object_of(depth)),
            _ => self.scalar(),
        }
    }

    fn object_of(&mut self, depth: usize) -> Document {
        if depth > 0 && self.random.one_in(3) {
            return self.object();
        }
        let mut object = Document::new();
        for name in ["b", "c"] {
            if !self.random.one_in(3) {
                object.insert(name, self.scalar());
            }
        }
        if self.random.one_in(2) { object.into_iter().rev_pairs() } else { object }
    }

    fn document(&mut self, number: i32) -> Document {
        let mut document = doc! { "_id": number };
        for name in ["a", "b"] {
            if !self.random.one_in(4) {
                let value = self.value(2);
                document.insert(name, value);
            }
        }
        document
    }
}

/// Any value.
fn any(random: &mut Random) -> Bson {
    let decimal = |text: &str| Bson::Decimal128(text.parse::<Decimal128>().unwrap());
    random.pick(&[
        Bson::Null,
        Bson::Undefined,
        Bson::Int32(1),
        Bson::Int64(1),
        Bson::Double(1.0),
        decimal("1"),
        decimal("1.00"),
        Bson::Int32(0),
        Bson::Double(-0.0),
        Bson::Double(f64::NAN),
        Bson::Double(0.1),
        decimal("0.1"),
        Bson::Boolean(true),
        Bson::Boolean(false),
        Bson::String("a".to_owned()),
        Bson::String("A".to_owned()),
        Bson::String("á".to_owned()),
        Bson::String("2".to_owned()),
        Bson::String("02".to_owned()),
        Bson::String(String::new()),
        Bson::DateTime(DateTime::from_millis(1)),
        Bson::Document(doc! {}),
    ])
}

/// The same fields in the other order.
trait RevPairs {
    fn rev_pairs(self) -> Document;
}

impl<I: IntoIterator<Item = (String, Bson)>> RevPairs for I {
    fn rev_pairs(self) -> Document {
        let mut pairs: Vec<_> = self.into_iter().collect();
        pairs.reverse();
        pairs.into_iter().collect()
    }
}

/// An index that is tried.
struct Case {
    paths: Vec<&'static str>,
    collation: Option<Document>,
    partial: Option<Document>,
    sparse: bool,
    documents: Vec<Document>,
}

impl Case {
    fn of(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let paths = random.pick(&[
            vec!["a"],
            vec!["a"],
            vec!["a.b"],
            vec!["a.b.c"],
            vec!["a", "b"],
            vec!["b", "a.b"],
            vec!["a.b", "a.c"],
            vec!["a.b.c", "b"],
            vec!["a", "a.b"],
        ]);
        let collation = random.pick(&[
            None,
            None,
            Some(doc! { "locale": "en", "strength": 1 }),
            Some(doc! { "locale": "en", "strength": 2 }),
            Some(doc! { "locale": "de", "numericOrdering": true }),
        ]);
        let sparse = random.one_in(3);
        let partial = match sparse {
            true => None,
            false => random.pick(&[
                None,
                None,
                Some(doc! { "a": { "$exists": true } }),
                Some(doc! { "b": { "$gt": 0 } }),
                Some(doc! { "a": { "$type": "string" } }),
                Some(doc! { "b": "a" }),
                Some(doc! { "a.b": { "$gte": "a" } }),
                Some(doc! { "a": { "b": 1, "c": 1 } }),
            ]),
        };
        let count = 2 + random.below(5);
        let mut making = Making::new(random);
        let documents = (0..count).map(|number| making.document(i32::try_from(number).unwrap())).collect();
        Self { paths, collation, partial, sparse, documents }
    }

    fn definition(&self) -> Document {
        let key: Document = self.paths.iter().map(|path| ((*path).to_owned(), Bson::Int32(1))).collect();
        let mut index = doc! { "key": key, "name": "tried", "unique": true };
        if let Some(collation) = &self.collation {
            index.insert("collation", collation.clone());
        }
        if let Some(partial) = &self.partial {
            index.insert("partialFilterExpression", partial.clone());
        }
        if self.sparse {
            index.insert("sparse", true);
        }
        index
    }

    fn question(&self) -> DuplicateQuestion {
        DuplicateQuestion {
            paths: self.paths.iter().map(|path| (*path).to_owned()).collect(),
            sparse: self.sparse,
            partial: self.partial.clone().map(|filter| {
                Json::parse(&Bson::Document(filter).into_canonical_extjson().to_string()).unwrap()
            }),
        }
    }
}

async fn ask(
    collection: &Collection<Document>,
    pipeline: Vec<Json>,
    collation: Option<&Document>,
) -> Vec<Document> {
    let stages = pipeline.into_iter().map(|stage| {
        match Bson::try_from(serde_json::from_str::<Value>(&stage.to_string()).unwrap()).unwrap() {
            Bson::Document(stage) => stage,
            other => panic!("{other} is no stage"),
        }
    });
    let aggregate = collection.aggregate(stages.collect::<Vec<_>>());
    let aggregate = match collation {
        Some(collation) => {
            aggregate.collation(mongodb::bson::deserialize_from_document(collation.clone()).unwrap())
        }
        None => aggregate,
    };
    aggregate.await.unwrap().try_collect().await.unwrap()
}

/// The code of the server's refusal to build the index, `None` when it was built.
async fn verdict(database: &Database, definition: Document) -> Option<i32> {
    let built = database.run_command(doc! { "createIndexes": "tried", "indexes": [definition] }).await;
    match built {
        Ok(_) => None,
        Err(error) => match error.kind.as_ref() {
            ErrorKind::Command(command) => Some(command.code),
            other => panic!("{other}"),
        },
    }
}

#[tokio::test]
async fn duplicates_are_found_exactly_where_the_server_refuses() {
    let database = shared_mongod().oracle().await.database(&unique_database());
    let collection = database.collection::<Document>("tried");
    database.run_command(doc! { "create": "tried" }).await.unwrap();
    let (mut refused, mut built, mut other) = (0, 0, 0);
    for number in 0..cases() {
        let seed = SEED.wrapping_add(number);
        let case = Case::of(seed);
        let shown = || format!("seed {seed:#x}: {:?} over {:?}", case.definition(), case.documents);
        collection.delete_many(doc! {}).await.unwrap();
        collection.insert_many(&case.documents).await.unwrap();
        let found = ask(&collection, case.question().count().unwrap(), case.collation.as_ref()).await;
        let groups = ask(&collection, case.question().groups(100, 2).unwrap(), case.collation.as_ref()).await;
        let told = found.first().map_or(0, |totals| totals.get_i32("groups").unwrap());
        assert_eq!(usize::try_from(told).unwrap(), groups.len(), "{}", shown());
        match verdict(&database, case.definition()).await {
            None => {
                built += 1;
                assert!(found.is_empty(), "the server built what {found:?} speaks against; {}", shown());
                database.run_command(doc! { "dropIndexes": "tried", "index": "tried" }).await.unwrap();
            }
            Some(DUPLICATE_KEY) => {
                refused += 1;
                assert_eq!(found.len(), 1, "the server refused what nothing was found against; {}", shown());
                // One of the groups is what it met: two documents with one key.
                for group in groups {
                    assert_eq!(group.get_array("ids").unwrap().len(), 2, "{}", shown());
                }
            }
            // Two arrays side by side, which no index holds.
            Some(_) => other += 1,
        }
    }
    database.drop().await.unwrap();
    println!("{refused} refused, {built} built, {other} cannot be indexed at all");
    assert!(refused > 60 && built > 60, "{refused} refused, {built} built, {other} otherwise");
}
