//! Comparing what two servers say of a collection.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

/// How two collections' metadata (see [`CollectionInfo::metadata`](crate::CollectionInfo)) differ, one line each; empty when they are the
/// same but for what a restore must change: `uuid` and `collectionName`. Indexes are compared by name, whatever their order; numbers by value,
/// whatever their type, since not every tool writes types. The order of fields counts in the key of an index and nowhere else, as for the
/// server. An empty text expects nothing.
pub fn metadata_differences(expected: &str, found: &str) -> Vec<String> {
    if expected.trim().is_empty() {
        return Vec::new();
    }
    let texts = (expected, found);
    let (Ok(Value::Object(expected)), Ok(Value::Object(found))) =
        (serde_json::from_str(expected), serde_json::from_str(found))
    else {
        return if expected == found { Vec::new() } else { vec!["metadata is not readable".to_owned()] };
    };
    let keys = (key_fields_by_index(texts.0), key_fields_by_index(texts.1));
    let mut differences = Vec::new();
    let empty = Value::Object(serde_json::Map::new());
    let options = |map: &serde_json::Map<String, Value>| map.get("options").unwrap_or(&empty).clone();
    compare(&mut differences, "options", &options(&expected), &options(&found));
    compare(
        &mut differences,
        "type",
        expected.get("type").unwrap_or(&Value::Null),
        found.get("type").unwrap_or(&Value::Null),
    );
    let (expected, found) = (indexes_by_name(&expected), indexes_by_name(&found));
    for (name, index) in &expected {
        match found.get(name) {
            None => differences.push(format!("index {name} is missing")),
            Some(other) if !means_the_same(index, other) => {
                compare(&mut differences, &format!("index {name}"), index, other);
            }
            Some(_) if keys.0.get(name) != keys.1.get(name) => {
                let fields =
                    |keys: &BTreeMap<String, Vec<String>>| keys.get(name).unwrap_or(&Vec::new()).join(", ");
                differences.push(format!(
                    "index {name}: expected the key fields {}, found {}",
                    fields(&keys.0),
                    fields(&keys.1)
                ));
            }
            Some(_) => {}
        }
    }
    differences.extend(
        found
            .keys()
            .filter(|name| !expected.contains_key(*name))
            .map(|name| format!("index {name} is extra")),
    );
    differences
}

fn indexes_by_name(metadata: &serde_json::Map<String, Value>) -> BTreeMap<String, Value> {
    let indexes = metadata.get("indexes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let name = |index: &Value| index.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    indexes.iter().map(|index| (name(index), index.clone())).collect()
}

/// The fields of each index's key in their order, which [`Value`] forgets.
fn key_fields_by_index(metadata: &str) -> BTreeMap<String, Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Definition {
        #[serde(default)]
        indexes: Vec<Index>,
    }
    #[derive(serde::Deserialize)]
    struct Index {
        #[serde(default)]
        name: String,
        #[serde(default)]
        key: FieldNames,
    }
    let indexes = serde_json::from_str(metadata).map(|it: Definition| it.indexes).unwrap_or_default();
    indexes.into_iter().map(|index| (index.name, index.key.0)).collect()
}

/// The names of a document's fields in their order.
#[derive(Default)]
struct FieldNames(Vec<String>);

impl<'de> Deserialize<'de> for FieldNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = FieldNames;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a document")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<FieldNames, A::Error> {
                let mut names = Vec::new();
                while let Some((name, IgnoredAny)) = map.next_entry()? {
                    names.push(name);
                }
                Ok(FieldNames(names))
            }
        }
        deserializer.deserialize_map(Names)
    }
}

fn compare(differences: &mut Vec<String>, what: &str, expected: &Value, found: &Value) {
    if !means_the_same(expected, found) {
        differences.push(format!("{what}: expected {expected}, found {found}"));
    }
}

fn means_the_same(one: &Value, other: &Value) -> bool {
    if let (Some(one), Some(other)) = (number(one), number(other)) {
        return one == other;
    }
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len() && { one.iter().zip(other) }
                .all(|((key, value), (other_key, other))| key == other_key && means_the_same(value, other))
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| means_the_same(one, other))
        }
        _ => one == other,
    }
}

/// The value of a number, bare or in the wrapper of its type, as text.
fn number(value: &Value) -> Option<String> {
    match value {
        Value::Number(number) => number.as_f64().map(|number| number.to_string()),
        Value::Object(wrapper) if wrapper.len() == 1 => {
            let (name, text) = wrapper.iter().next()?;
            match (name.as_str(), text.as_str()?) {
                // What a float does not hold exactly is compared as it is written.
                ("$numberLong", text) if text.trim_start_matches('-').len() > 15 => Some(text.to_owned()),
                ("$numberInt" | "$numberLong" | "$numberDouble", text) => {
                    text.parse::<f64>().ok().map(|number| number.to_string())
                }
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_matters_differs() {
        let one = r#"{"options":{"capped":true},"indexes":[{"name":"_id_"},{"name":"a_1"}],"uuid":"11","type":"collection"}"#;
        let two = r#"{"options":{"capped":true},"indexes":[{"name":"a_1"},{"name":"_id_"}],"uuid":"22","type":"collection"}"#;
        assert_eq!(metadata_differences(one, two), Vec::<String>::new());
        let three = r#"{"indexes":[{"name":"_id_"},{"name":"b_1"}],"type":"collection"}"#;
        let differences = metadata_differences(one, three);
        assert_eq!(differences.len(), 3, "{differences:?}");
    }

    #[test]
    fn the_order_of_fields_counts_in_keys_alone() {
        let index = |key: &str, filter: &str| {
            format!(
                r#"{{"indexes":[{{"name":"i","key":{{{key}}},"partialFilterExpression":{{{filter}}}}}]}}"#
            )
        };
        let one = index(r#""a":1,"b":-1"#, r#""x":1,"y":2"#);
        let same = index(r#""a":1,"b":{"$numberInt":"-1"}"#, r#""y":2,"x":1"#);
        let turned = index(r#""b":-1,"a":1"#, r#""x":1,"y":2"#);
        assert_eq!(metadata_differences(&one, &same), Vec::<String>::new());
        assert_eq!(
            metadata_differences(&one, &turned),
            ["index i: expected the key fields a, b, found b, a"]
        );
    }

    #[test]
    fn numbers_count_by_value_and_silence_expects_nothing() {
        let typed = r#"{"options":{"size":{"$numberLong":"4096"}},"indexes":[{"name":"a","key":{"a":{"$numberInt":"1"}}}]}"#;
        let relaxed = r#"{"options":{"size":4096},"indexes":[{"name":"a","key":{"a":1.0}}]}"#;
        assert_eq!(metadata_differences(relaxed, typed), Vec::<String>::new());
        assert_eq!(metadata_differences("", typed), Vec::<String>::new());
        let other = r#"{"options":{"size":4097},"indexes":[{"name":"a","key":{"a":-1}}]}"#;
        assert_eq!(metadata_differences(other, typed).len(), 2);
    }
}
