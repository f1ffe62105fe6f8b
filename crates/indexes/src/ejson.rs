//! Extended JSON values: canonical or relaxed, with the fields in their order.
//!
//! Two are equal when the server would find them equal in an index's definition: numbers by value and not by type, dates by the moment.
//! Serialised as text, since sealed JSON sorts its keys and holds no fractions.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::json::Json;

/// An Extended JSON value.
#[derive(Clone)]
pub struct Ejson(Json);

impl Ejson {
    /// The value `value`.
    pub fn new(value: Json) -> Self {
        Self(value)
    }

    /// Parses a text.
    ///
    /// # Errors
    /// What is no JSON.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        Json::parse(text).map(Self)
    }

    /// The value.
    pub fn value(&self) -> &Json {
        &self.0
    }

    /// The fields of a document; `None` for anything else.
    pub fn fields(&self) -> Option<&[(String, Json)]> {
        self.0.members()
    }

    /// A text that is the same for equal values.
    pub fn canonical(&self) -> String {
        canonical(&self.0)
    }
}

impl PartialEq for Ejson {
    fn eq(&self, other: &Self) -> bool {
        self.canonical() == other.canonical()
    }
}

impl Eq for Ejson {}

/// As JSON on one line.
impl fmt::Display for Ejson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Ejson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Serialize for Ejson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ejson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// The names of the wrappers that stand for one value.
const WRAPPERS: [&str; 19] = [
    "$numberInt",
    "$numberLong",
    "$numberDouble",
    "$numberDecimal",
    "$oid",
    "$date",
    "$binary",
    "$uuid",
    "$regularExpression",
    "$regex",
    "$timestamp",
    "$symbol",
    "$code",
    "$scope",
    "$undefined",
    "$minKey",
    "$maxKey",
    "$dbPointer",
    "$ref",
];

/// Whether a document stands for one value that is no document.
pub(crate) fn is_wrapper(fields: &[(String, Json)]) -> bool {
    fields.first().is_some_and(|(name, _)| WRAPPERS.contains(&name.as_str()))
}

/// The number that a value is, of whatever type.
pub(crate) fn number(value: &Json) -> Option<f64> {
    match value {
        Json::Integer(number) => Some(*number as f64),
        Json::Real(number) => Some(*number),
        value => match wrapper(value)? {
            ("$numberInt" | "$numberLong" | "$numberDouble" | "$numberDecimal", inner) => {
                match inner.text()? {
                    "Infinity" => Some(f64::INFINITY),
                    "-Infinity" => Some(f64::NEG_INFINITY),
                    "NaN" => Some(f64::NAN),
                    text => text.parse().ok(),
                }
            }
            _ => None,
        },
    }
}

/// The whole number that a value is; fractions are cut off, as the server does with its options.
pub(crate) fn whole(value: &Json) -> Option<i64> {
    match (value, wrapper(value)) {
        (Json::Integer(number), _) => Some(*number),
        (_, Some(("$numberLong" | "$numberInt", inner))) => inner.text()?.parse().ok(),
        (value, _) => number(value).filter(|number| number.is_finite()).map(|number| number as i64),
    }
}

/// What the server takes for true: `true`, and every number but zero.
pub(crate) fn truthy(value: &Json) -> bool {
    match value {
        Json::Flag(flag) => *flag,
        value => number(value).is_some_and(|number| number != 0.0),
    }
}

/// The one field of a document.
pub(crate) fn wrapper(value: &Json) -> Option<(&str, &Json)> {
    match value.members()? {
        [(name, inner)] => Some((name, inner)),
        _ => None,
    }
}

/// A text that is the same for values that the server finds equal.
pub(crate) fn canonical(value: &Json) -> String {
    if let Some(text) = canonical_number(value) {
        return text;
    }
    match value {
        Json::List(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        Json::Object(fields) => {
            if let Some(millis) = date(value) {
                return format!("date({millis})");
            }
            let fields =
                fields.iter().map(|(name, value)| format!("{}:{}", Json::from(name), canonical(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

fn canonical_number(value: &Json) -> Option<String> {
    match (value, wrapper(value)) {
        (Json::Integer(number), _) => return Some(number.to_string()),
        (_, Some(("$numberLong" | "$numberInt", inner))) => {
            return inner.text()?.parse::<i64>().ok().map(|number| number.to_string());
        }
        _ => {}
    }
    let number = number(value)?;
    // Up to 2^53 a double holds every whole number exactly.
    let is_whole = number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0;
    Some(if is_whole { (number as i64).to_string() } else { number.to_string() })
}

/// The moment of a date, in milliseconds since 1970.
pub(crate) fn date(value: &Json) -> Option<i64> {
    let ("$date", inner) = wrapper(value)? else { return None };
    match inner {
        Json::Text(text) => text.parse::<jiff::Timestamp>().ok().map(|at| at.as_millisecond()),
        inner => whole(inner),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn of(text: &str) -> Ejson {
        Ejson::parse(text).unwrap()
    }

    #[test]
    fn numbers_are_equal_by_value() {
        for (one, other) in [
            ("1", r#"{"$numberInt":"1"}"#),
            ("1.0", r#"{"$numberLong":"1"}"#),
            (r#"{"$numberDouble":"5.0"}"#, r#"{"$numberDecimal":"5"}"#),
            (r#"{"a":[1,{"b":2.0}]}"#, r#"{"a":[{"$numberInt":"1"},{"b":2}]}"#),
            (r#"{"$date":"2026-01-01T00:00:00Z"}"#, r#"{"$date":{"$numberLong":"1767225600000"}}"#),
        ] {
            assert_eq!(of(one), of(other));
        }
        for (one, other) in [
            ("1", "2"),
            ("1", "\"1\""),
            ("1", "true"),
            (r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#),
            (r#"{"$numberLong":"9007199254740993"}"#, r#"{"$numberLong":"9007199254740992"}"#),
        ] {
            assert_ne!(of(one), of(other));
        }
    }

    #[test]
    fn text_survives_sealing() {
        let value = of(r#"{"b":1,"a":0.5}"#);
        let sealed = mainstay_model::canonical::to_string(&value).unwrap();
        let back: Ejson = serde_json::from_str(&sealed).unwrap();
        assert_eq!(back.to_string(), value.to_string());
    }
}
