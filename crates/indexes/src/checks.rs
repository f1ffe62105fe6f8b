//! What is asked of the documents before an index is built or changed, as aggregation pipelines in canonical Extended JSON.
//!
//! [`DuplicateQuestion`] makes of each document the keys that the server's index would hold of it, and counts keys that several documents
//! have. Its rules are those of the server's key generator (`btree_key_generator.cpp`, MongoDB 6.0), which a property test compares with the
//! server's own verdict: what is missing counts as null, arrays give one key for each distinct element, the empty array one of its own, which it
//! shares with the deprecated `undefined`; where a path leads on below an array, each element is followed, and an array in an array is not
//! looked into. Numbers are compared by value and texts by the collation, which the aggregation must be given, too.
//! [`ExpiryQuestion`] counts what a TTL would remove at once, and what it would never remove.
//!
//! Relies on the caller to run the pipelines with the collation they name. Refuses keys that no aggregation can make again: positions in arrays
//! (`items.0`).

use serde_json::{Value, json};

use crate::ejson;
use crate::json::Json;

/// Why nothing can be counted beforehand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Uncountable {
    /// A name in a path is a number, which may be a field or a place in an array.
    #[error("`{0}` may name a place in an array")]
    Position(String),
}

/// Looks for documents that a unique index could not hold together.
#[derive(Debug, Clone, PartialEq)]
pub struct DuplicateQuestion {
    /// The indexed paths, in any order: equality does not care.
    pub paths: Vec<String>,
    /// Documents that have none of the paths are not indexed.
    pub sparse: bool,
    /// Which documents are indexed, in canonical Extended JSON.
    pub partial: Option<Json>,
}

impl DuplicateQuestion {
    /// The pipeline that gives one document, `{groups, documents}`: how many keys several documents have, and how many documents these are; a
    /// document that has several such keys counts for each. It gives none when there are none.
    ///
    /// # Errors
    /// [`Uncountable::Position`].
    pub fn count(&self) -> Result<Vec<Json>, Uncountable> {
        let mut stages = self.keys()?;
        stages.extend(
            [
                json!({"$group": {"_id": "$k", "n": {"$sum": 1}}}),
                json!({"$match": {"n": {"$gt": 1}}}),
                json!({"$group": {"_id": null, "groups": {"$sum": 1}, "documents": {"$sum": "$n"}}}),
            ]
            .iter()
            .map(stage),
        );
        Ok(stages)
    }

    /// The pipeline that gives the largest groups, at most `groups_max` of them: `{n, ids}` with at most `ids_max` of their `_id`s, the
    /// smallest first. The values that they share are left out: they are somebody's data.
    ///
    /// # Errors
    /// [`Uncountable::Position`].
    pub fn groups(&self, groups_max: u32, ids_max: u32) -> Result<Vec<Json>, Uncountable> {
        let mut stages = self.keys()?;
        stages.extend(
            [
                json!({"$group": {"_id": "$k", "n": {"$sum": 1}, "ids": {"$minN": {"input": "$_id", "n": ids_max}}}}),
                json!({"$match": {"n": {"$gt": 1}}}),
                json!({"$project": {"_id": 0, "n": 1, "ids": 1, "order": {"a": {"$multiply": ["$n", -1]}, "b": {"$first": "$ids"}}}}),
                // A document in one place, since the order of two fields is not kept here.
                json!({"$sort": {"order": 1}}),
                json!({"$limit": groups_max}),
                json!({"$project": {"n": 1, "ids": 1}}),
            ]
            .iter()
            .map(stage),
        );
        Ok(stages)
    }

    /// Stages after which there is one document `{_id, k}` for each document and each of its keys.
    fn keys(&self) -> Result<Vec<Json>, Uncountable> {
        let tree = Tree::of(&self.paths)?;
        let mut stages: Vec<Json> = self.partial.iter().map(matching).collect();
        if self.sparse {
            let any: Vec<Value> = self.paths.iter().map(|path| json!({path: {"$exists": true}})).collect();
            stages.push(stage(&json!({"$match": {"$or": any}})));
        }
        let keys = tree.of_one("$$ROOT", &mut Making { names: 0, marks_absence: self.sparse });
        let keys = if self.sparse { indexed(keys) } else { keys };
        // As a set: a document holds each of its keys once.
        stages.push(stage(&json!({"$project": {"k": {"$setUnion": [keys]}}})));
        stages.push(stage(&json!({"$unwind": "$k"})));
        Ok(stages)
    }
}

/// Keys of which at least one field is there, without the marks of those that are not.
fn indexed(keys: Value) -> Value {
    let is_there = json!({"$ne": [{"$size": {"$filter": {"input": "$$key", "as": "leaf", "cond": {"$ne": ["$$leaf.m", true]}}}}, 0]});
    let unmarked = json!({"$cond": [{"$eq": ["$$leaf.m", true]}, {"$literal": {"v": null}}, "$$leaf"]});
    json!({"$map": {
        "input": {"$filter": {"input": keys, "as": "key", "cond": is_there}},
        "as": "key",
        "in": {"$map": {"input": "$$key", "as": "leaf", "in": unmarked}},
    }})
}

/// An expression being made.
struct Making {
    /// How many names were given to variables, each one once, so that no inner one hides an outer one.
    names: usize,
    /// Whether what is not there is told from null.
    marks_absence: bool,
}

impl Making {
    fn name(&mut self) -> String {
        self.names += 1;
        format!("x{}", self.names)
    }

    fn absent(&self) -> Value {
        match self.marks_absence {
            true => json!({"$literal": {"v": null, "m": true}}),
            false => json!({"$literal": {"v": null}}),
        }
    }
}

/// The indexed paths by their components.
#[derive(Debug, Default)]
struct Tree {
    /// A path ends here.
    ends: bool,
    below: Vec<(String, Self)>,
}

impl Tree {
    fn of(paths: &[String]) -> Result<Self, Uncountable> {
        let mut root = Self::default();
        for path in paths {
            let mut node = &mut root;
            for (depth, name) in path.split('.').enumerate() {
                // The first name is always a field of the document.
                if depth > 0 && name.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(Uncountable::Position(path.clone()));
                }
                let place = match node.below.iter().position(|(known, _)| known == name) {
                    Some(place) => place,
                    None => {
                        node.below.push((name.to_owned(), Self::default()));
                        node.below.len() - 1
                    }
                };
                node = &mut node.below[place].1;
            }
            node.ends = true;
        }
        Ok(root)
    }

    /// The keys of a value that may be an array, which `value` evaluates to; it may evaluate to nothing.
    fn of_any(&self, value: Value, making: &mut Making) -> Value {
        let (here, element) = (making.name(), making.name());
        let one = self.of_one(&format!("$${here}"), making);
        let of_element = self.of_one(&format!("$${element}"), making);
        let array = format!("$${here}");
        let of_elements = match self.below.is_empty() {
            // One key for each element.
            true => json!({"$map": {"input": array, "as": element, "in": {"$arrayElemAt": [of_element, 0]}}}),
            false => json!({"$reduce": {
                "input": array, "initialValue": [],
                "in": {"$concatArrays": ["$$value", {"$let": {"vars": {element: "$$this"}, "in": of_element}}]},
            }}),
        };
        let of_array =
            json!({"$cond": [{"$eq": [{"$size": array}, 0]}, [self.of_nothing(true, making)], of_elements]});
        json!({"$let": {"vars": {here.clone(): value}, "in": {"$cond": [{"$isArray": [array]}, of_array, one]}}})
    }

    /// The keys of a value that is looked at as it is: no array, or an array in an array. An expression for an array of keys, each an array of
    /// leaves in the order of the tree. A leaf is `{v: value}`, `{v: null, m: true}` where nothing is and that matters, and `{}` for the empty
    /// array.
    fn of_one(&self, value: &str, making: &mut Making) -> Value {
        let mut factors = Vec::new();
        factors.extend(self.ends.then(|| json!([[leaf(value, making)]])));
        for (name, below) in &self.below {
            // A path into an array would be followed through its elements.
            let field = json!({"$cond": [{"$eq": [{"$type": value}, "object"]}, format!("{value}.{name}"), "$$REMOVE"]});
            factors.push(below.of_any(field, making));
        }
        factors.into_iter().reduce(|left, right| product(left, right, making)).unwrap_or_else(|| json!([[]]))
    }

    /// The one key of nothing at all; at the end of a path, of an empty array.
    fn of_nothing(&self, is_empty_array: bool, making: &Making) -> Value {
        let mut leaves = Vec::new();
        if self.ends {
            leaves.push(if is_empty_array { json!({"$literal": {}}) } else { making.absent() });
        }
        for (_, below) in &self.below {
            match below.of_nothing(false, making) {
                Value::Array(more) => leaves.extend(more),
                other => leaves.push(other),
            }
        }
        Value::Array(leaves)
    }
}

fn leaf(value: &str, making: &Making) -> Value {
    json!({"$switch": {
        "branches": [
            {"case": {"$eq": [{"$type": value}, "missing"]}, "then": making.absent()},
            {"case": {"$eq": [{"$type": value}, "undefined"]}, "then": {"$literal": {}}},
        ],
        "default": {"v": value},
    }})
}

/// Every key of `left` with every key of `right`. No index has two arrays side by side, so one of them is one key.
fn product(left: Value, right: Value, making: &mut Making) -> Value {
    let (ones, others, one, other) = (making.name(), making.name(), making.name(), making.name());
    let joined = json!({"$concatArrays": [format!("$${one}"), format!("$${other}")]});
    let with_one = json!({"$map": {"input": format!("$${others}"), "as": other, "in": joined}});
    json!({"$let": {
        "vars": {ones.clone(): left, others: right},
        "in": {"$reduce": {
            "input": format!("$${ones}"), "initialValue": [],
            "in": {"$concatArrays": ["$$value", {"$let": {"vars": {one: "$$this"}, "in": with_one}}]},
        }},
    }})
}

/// Asks what a TTL removes, and what it never will. The server deletes what its index holds and whose date is old enough: the filter of the index
/// narrows every answer, and texts in it are equal by the collation of the index.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpiryQuestion {
    /// The indexed path.
    pub path: String,
    /// Seconds after the date.
    pub seconds: i64,
    /// Which documents are indexed, in canonical Extended JSON.
    pub partial: Option<Json>,
}

impl ExpiryQuestion {
    /// Counts documents that are removed as soon as the index exists, as `{n, oldest}` with the earliest date of all; gives nothing when there
    /// are none. They are those with a date that lies `seconds` or more before `now_ms`, the server's time in milliseconds since 1970. Of
    /// several dates in an array the earliest decides.
    pub fn overdue(&self, now_ms: i64) -> Vec<Json> {
        let cutoff = now_ms.saturating_sub(self.seconds.saturating_mul(1_000));
        let value = format!("${}", self.path);
        let dates = json!({"$filter": {"input": value, "cond": {"$eq": [{"$type": "$$this"}, "date"]}}});
        let own = [
            // A comparison with a date finds nothing but dates.
            json!({"$match": {&self.path: {"$lte": {"$date": {"$numberLong": cutoff.to_string()}}}}}),
            json!({"$project": {"_id": 0, "at": {"$cond": [{"$isArray": [value]}, {"$min": dates}, value]}}}),
            json!({"$group": {"_id": null, "n": {"$sum": 1}, "oldest": {"$min": "$at"}}}),
        ];
        self.partial.iter().map(matching).chain(own.iter().map(stage)).collect()
    }

    /// Counts documents that are never removed, because they hold no date there.
    pub fn undated(&self) -> Vec<Json> {
        self.counting(json!({&self.path: {"$not": {"$type": "date"}}}))
    }

    /// Counts those of them that hold something else there.
    pub fn not_dates(&self) -> Vec<Json> {
        self.counting(json!({&self.path: {"$exists": true, "$not": {"$type": "date"}}}))
    }

    /// Counts those of them that hold nothing there.
    pub fn missing(&self) -> Vec<Json> {
        self.counting(json!({&self.path: {"$exists": false}}))
    }

    /// Counts documents with an array there.
    pub fn arrays(&self) -> Vec<Json> {
        self.counting(json!({&self.path: {"$type": "array"}}))
    }

    fn counting(&self, condition: Value) -> Vec<Json> {
        counting(self.partial.as_ref(), condition)
    }
}

/// Counts documents in which one of `paths` holds null itself: a sparse index holds these, though not those where nothing is.
pub fn explicit_nulls(paths: &[String], partial: Option<&Json>) -> Vec<Json> {
    let any: Vec<Value> = paths.iter().map(|path| json!({path: {"$type": "null"}})).collect();
    counting(partial, json!({"$or": any}))
}

/// Counts documents that `partial` and `condition` match, as `{n}`; gives nothing when there are none.
fn counting(partial: Option<&Json>, condition: Value) -> Vec<Json> {
    let own = [json!({"$match": condition}), json!({"$count": "n"})];
    partial.map(matching).into_iter().chain(own.iter().map(stage)).collect()
}

/// A stage of our own making, in which no order matters.
fn stage(stage: &Value) -> Json {
    Json::parse(&stage.to_string()).expect("what was JSON is JSON")
}

/// Only what the filter of an index matches, whose order is somebody's.
fn matching(filter: &Json) -> Json {
    Json::object([("$match", filter.clone())])
}

/// A number in what a question gave, whatever its type; 0 when it gave nothing.
pub fn counted(results: &[Json], field: &str) -> u64 {
    let number = results.first().and_then(|result| result.get(field)).and_then(ejson::whole);
    number.and_then(|number| u64::try_from(number).ok()).unwrap_or(0)
}

/// A date in what a question gave, in milliseconds since 1970; `None` when it gave none.
pub fn dated(results: &[Json], field: &str) -> Option<i64> {
    results.first().and_then(|result| result.get(field)).and_then(ejson::date)
}
