//! What kind of change leads from one index to another, as MongoDB 6.0 takes it.
//!
//! The kinds are facts about the server and decide nothing: what is checked first, what is hidden for how long and what is asked before is
//! the plan's business. Without a gap means that at every moment either the old or the new index does its work, uniqueness included.

use serde::{Deserialize, Serialize};

use crate::compare::{Aspect, differences};
use crate::spec::IndexSpec;

/// A change of an index where it stands (`collMod`), without building anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "change")]
pub enum Modification {
    /// Plain to unique: new duplicates are refused first, then those that are there are looked for, then it is converted.
    Unique,
    /// Another number of seconds, or a first one.
    TtlSeconds {
        /// The number.
        seconds: i64,
    },
    /// Hidden, or shown again. Zeroes what the server has counted of its use.
    Hidden {
        /// Whether it is to be hidden.
        hidden: bool,
    },
}

/// What leads from an index to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "route")]
pub enum Route {
    /// Nothing.
    Nothing,
    /// Changed where it stands; no gap, nothing built.
    Modify {
        /// In this order.
        steps: Vec<Modification>,
    },
    /// The new one is built beside the old one under another name, then the old one is hidden and dropped; no gap.
    Beside,
    /// The old one is dropped before the new one is built, since the server has room for one of them; a gap as long as the build.
    Replace {
        /// Why.
        reason: String,
    },
}

/// Whether a collection can have both at the same time, under two names. Not seen from the server are differences of TTL, `hidden` and what
/// a text index is made of (error 85), and there is one text index for each collection (error 67).
pub fn can_stand_beside(one: &IndexSpec, other: &IndexSpec) -> bool {
    if one.is_text() && other.is_text() {
        return false;
    }
    let seen =
        [Aspect::Keys, Aspect::Unique, Aspect::Sparse, Aspect::Partial, Aspect::Collation, Aspect::Wildcard];
    differences(one, other).iter().any(|difference| seen.contains(&difference.aspect))
}

/// The kind of change from `live` to `declared`.
pub fn route(live: &IndexSpec, declared: &IndexSpec) -> Route {
    let steps: Option<Vec<Modification>> = differences(live, declared)
        .iter()
        .map(|difference| match difference.aspect {
            Aspect::Unique if declared.unique => Some(Modification::Unique),
            Aspect::Ttl => declared.ttl_seconds.map(|seconds| Modification::TtlSeconds { seconds }),
            Aspect::Hidden => Some(Modification::Hidden { hidden: declared.hidden }),
            _ => None,
        })
        .collect();
    match steps {
        Some(steps) if steps.is_empty() => Route::Nothing,
        // Shown and hidden last: the rest is then done to an index that nobody misses.
        Some(steps) => Route::Modify { steps },
        None if can_stand_beside(live, declared) => Route::Beside,
        None if live.is_text() && declared.is_text() => {
            Route::Replace { reason: "a collection has room for one text index".to_owned() }
        }
        None => Route::Replace {
            reason: "the server takes both for the same index and changes neither into the other".to_owned(),
        },
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::json::{Json, json};
    use crate::listed::ListedIndex;

    fn spec(options: Json) -> IndexSpec {
        let mut members = options.members().unwrap().to_vec();
        for (name, value) in [("key", json!({"a": 1})), ("name", json!("a_1"))] {
            if options.get(name).is_none() {
                members.push((name.to_owned(), value));
            }
        }
        ListedIndex::read(&Json::Object(members)).unwrap().spec
    }

    #[test]
    fn the_table() {
        use Modification::{Hidden, TtlSeconds, Unique};
        let text = json!({"key": {"_fts": "text", "_ftsx": 1}, "weights": {"a": 1}});
        let other_text = json!({"key": {"_fts": "text", "_ftsx": 1}, "weights": {"a": 2}});
        let modify = |steps: Vec<Modification>| Route::Modify { steps };
        for (live, declared, expected) in [
            (json!({}), json!({}), Route::Nothing),
            (json!({}), json!({"unique": true}), modify(vec![Unique])),
            (
                json!({"hidden": true}),
                json!({"unique": true}),
                modify(vec![Unique, Hidden { hidden: false }]),
            ),
            (json!({}), json!({"expireAfterSeconds": 5}), modify(vec![TtlSeconds { seconds: 5 }])),
            (
                json!({"expireAfterSeconds": 1}),
                json!({"expireAfterSeconds": 5}),
                modify(vec![TtlSeconds { seconds: 5 }]),
            ),
            (json!({}), json!({"hidden": true}), modify(vec![Hidden { hidden: true }])),
            (json!({"unique": true}), json!({}), Route::Beside),
            (json!({}), json!({"sparse": true}), Route::Beside),
            (json!({}), json!({"sparse": true, "unique": true}), Route::Beside),
            (json!({}), json!({"partialFilterExpression": {"b": 1}}), Route::Beside),
            (json!({}), json!({"collation": {"locale": "en"}}), Route::Beside),
            (json!({}), json!({"key": {"b": 1}}), Route::Beside),
            (text.clone(), json!({}), Route::Beside),
        ] {
            assert_eq!(route(&spec(live.clone()), &spec(declared.clone())), expected, "{live} {declared}");
        }
        for (live, declared) in [(json!({"expireAfterSeconds": 5}), json!({})), (text, other_text)] {
            assert!(matches!(route(&spec(live), &spec(declared)), Route::Replace { .. }));
        }
    }
}
