//! Filters of partial indexes, equal when the server finds them equal.
//!
//! The server normalises a filter before it compares: `{a: 1}` is `{a: {$eq: 1}}`, the order of conditions does not matter, nested `$and`
//! is one `$and`, `$in` is a set. What is known here of that is applied; a condition that is not known is compared as it stands, so that a
//! difference may be told where the server knows better, and never the other way round.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ejson::{self, Ejson};
use crate::json::Json;

/// The filter of a partial index, kept as it was written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Filter(Ejson);

impl Filter {
    /// The filter that a document is; `None` when it is none.
    pub fn of_document(document: &Json) -> Option<Self> {
        document.members().is_some().then(|| Self(Ejson::new(document.clone())))
    }

    /// As it was written.
    pub fn document(&self) -> &Json {
        self.0.value()
    }

    fn normal(&self) -> String {
        self.0.fields().map(|fields| conjunction(fields).join(" & ")).unwrap_or_default()
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.normal() == other.normal()
    }
}

impl Eq for Filter {}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The conditions that all hold, sorted, each once.
fn conjunction(fields: &[(String, Json)]) -> Vec<String> {
    let mut terms = Vec::new();
    collect(fields, &mut terms);
    terms.sort();
    terms.dedup();
    terms
}

fn collect(fields: &[(String, Json)], terms: &mut Vec<String>) {
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("$and", Json::List(clauses)) if are_documents(clauses) => {
                clauses.iter().filter_map(Json::members).for_each(|clause| collect(clause, terms));
            }
            // One alternative is none.
            ("$or", Json::List(clauses)) if clauses.len() == 1 && are_documents(clauses) => {
                clauses.iter().filter_map(Json::members).for_each(|clause| collect(clause, terms));
            }
            ("$or", Json::List(clauses)) if are_documents(clauses) => {
                let of_clause = |clause: &[(String, Json)]| format!("({})", conjunction(clause).join(" & "));
                let clauses = clauses.iter().filter_map(Json::members).map(of_clause);
                terms.push(format!("$or[{}]", set(clauses)));
            }
            (name, Json::Object(conditions)) if !name.starts_with('$') && are_conditions(conditions) => {
                terms.extend(conditions.iter().map(|(operator, value)| term(name, operator, value)));
            }
            (name, value) if name.starts_with('$') => {
                terms.push(format!("{name} {}", ejson::canonical(value)))
            }
            (name, value) => terms.push(term(name, "$eq", value)),
        }
    }
}

fn are_documents(clauses: &[Json]) -> bool {
    clauses.iter().all(|clause| clause.members().is_some())
}

fn are_conditions(fields: &[(String, Json)]) -> bool {
    fields.first().is_some_and(|(name, _)| name.starts_with('$')) && !ejson::is_wrapper(fields)
}

fn term(field: &str, operator: &str, value: &Json) -> String {
    let field = Json::from(field);
    match (operator, value) {
        ("$exists", value) => format!("{field} $exists {}", ejson::truthy(value)),
        ("$type", Json::List(types)) => format!("{field} $type {}", set(types.iter().map(type_name))),
        ("$type", name) => format!("{field} $type {}", type_name(name)),
        ("$in", Json::List(values)) if values.len() == 1 => term_text(&field, "$eq", &values[0]),
        ("$in", Json::List(values)) => format!("{field} $in {}", set(values.iter().map(ejson::canonical))),
        (operator, value) => term_text(&field, operator, value),
    }
}

fn term_text(field: &Json, operator: &str, value: &Json) -> String {
    format!("{field} {operator} {}", ejson::canonical(value))
}

fn set(items: impl Iterator<Item = String>) -> String {
    let mut items: Vec<String> = items.collect();
    items.sort();
    items.dedup();
    items.join(",")
}

/// The name of a type that is told by its number (MongoDB manual, "BSON Types").
fn type_name(value: &Json) -> String {
    const NAMES: [(i64, &str); 20] = [
        (1, "double"),
        (2, "string"),
        (3, "object"),
        (4, "array"),
        (5, "binData"),
        (6, "undefined"),
        (7, "objectId"),
        (8, "bool"),
        (9, "date"),
        (10, "null"),
        (11, "regex"),
        (12, "dbPointer"),
        (13, "javascript"),
        (14, "symbol"),
        (15, "javascriptWithScope"),
        (16, "int"),
        (17, "timestamp"),
        (18, "long"),
        (19, "decimal"),
        (-1, "minKey"),
    ];
    let by_number = |number: i64| NAMES.iter().find(|(known, _)| *known == number).map(|(_, name)| *name);
    match value.text() {
        Some(name) => name.to_owned(),
        None => {
            ejson::whole(value).and_then(by_number).map_or_else(|| ejson::canonical(value), str::to_owned)
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::json::json;

    fn of(document: Json) -> Filter {
        Filter::of_document(&document).unwrap()
    }

    #[test]
    fn equal_as_the_server_finds_them() {
        for (one, other) in [
            (json!({"a": 1}), json!({"a": {"$eq": 1.0}})),
            (json!({"a": 1, "b": 2}), json!({"b": 2, "a": 1})),
            (json!({"$and": [{"a": 1}, {"$and": [{"b": 2}]}]}), json!({"a": 1, "b": 2})),
            (json!({"a": {"$gt": 1, "$lt": 9}}), json!({"$and": [{"a": {"$lt": 9}}, {"a": {"$gt": 1}}]})),
            (json!({"a": {"$exists": true}}), json!({"a": {"$exists": 1}})),
            (json!({"a": {"$type": "string"}}), json!({"a": {"$type": 2}})),
            (json!({"a": {"$type": ["int", "string"]}}), json!({"a": {"$type": [2, 16]}})),
            (json!({"a": {"$in": [2, 1, 1]}}), json!({"a": {"$in": [1, 2]}})),
            (json!({"a": {"$in": [1]}}), json!({"a": 1})),
            (json!({"$or": [{"a": 1}]}), json!({"a": 1})),
            (json!({"$or": [{"a": 1}, {"b": 2}]}), json!({"$or": [{"b": 2}, {"a": {"$eq": 1}}]})),
            (
                json!({"a": {"$date": "2026-01-01T00:00:00Z"}}),
                json!({"a": {"$eq": {"$date": {"$numberLong": "1767225600000"}}}}),
            ),
        ] {
            assert_eq!(of(one), of(other));
        }
        for (one, other) in [
            (json!({"a": 1}), json!({"a": 2})),
            (json!({"a": 1}), json!({"a": "1"})),
            (json!({"a": {"$gt": 1}}), json!({"a": {"$gte": 1}})),
            (json!({"a": {"$exists": true}}), json!({"a": {"$exists": false}})),
            (json!({"$or": [{"a": 1}, {"b": 2}]}), json!({"a": 1, "b": 2})),
            (json!({"a": {"b": 1}}), json!({"a.b": 1})),
        ] {
            assert_ne!(of(one), of(other));
        }
    }
}
