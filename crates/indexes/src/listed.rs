//! An index as a server lists it, also while it is being built.

use serde::{Deserialize, Serialize};

use crate::ejson::{self, Ejson};
use crate::json::Json;
use crate::keys::{Key, KeyKind};
use crate::spec::{IndexSpec, SpecError};

/// An index that a collection has, or is getting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedIndex {
    /// Its name.
    pub name: String,
    /// What it is.
    pub spec: IndexSpec,
    /// The id of its build while that is under way; nothing uses the index until then, and nothing relies on it.
    pub build: Option<String>,
    /// New duplicates are refused already, on the way to a unique index.
    pub prepare_unique: bool,
    /// It is the storage key of a clustered collection.
    pub clustered: bool,
    /// Its number of seconds is none (`NaN`): early 5.0 and 6.0 delete by it at once.
    pub ttl_is_no_number: bool,
    /// The definition as the server tells it.
    pub definition: Ejson,
}

impl ListedIndex {
    /// Reads an entry of `listIndexes`, as a server gives it with `includeBuildUUIDs` (`{spec, buildUUID}` for what is being built) or
    /// without.
    ///
    /// # Errors
    /// One line about what cannot be read.
    pub fn read(entry: &Json) -> Result<Self, SpecError> {
        let (definition, build) = match entry.get("spec") {
            Some(spec) => (spec, Some(build_of(entry))),
            None => (entry, None),
        };
        let name = definition
            .get("name")
            .and_then(Json::text)
            .ok_or_else(|| SpecError::new("an index without a name"))?;
        let spec = read_spec(definition).map_err(|error| SpecError::new(format!("index {name}: {error}")))?;
        let flag = |name: &str| definition.get(name).is_some_and(ejson::truthy);
        let seconds = definition.get("expireAfterSeconds").and_then(ejson::number);
        Ok(Self {
            name: name.to_owned(),
            spec,
            build,
            prepare_unique: flag("prepareUnique"),
            clustered: flag("clustered"),
            ttl_is_no_number: seconds.is_some_and(f64::is_nan),
            definition: Ejson::new(definition.clone()),
        })
    }

    /// Whether it is the index on `_id`, which nobody declares and nobody may drop.
    pub fn is_id(&self) -> bool {
        self.clustered || self.spec.keys == [Key::new("_id", KeyKind::Ascending)] && self.name == "_id_"
    }

    /// Whether it is ready.
    pub fn is_ready(&self) -> bool {
        self.build.is_none()
    }
}

/// The id of a build, which a server tells in one of two places, by its version.
fn build_of(entry: &Json) -> String {
    let told = entry.get("buildUUID").or_else(|| entry.get("indexBuildInfo")?.get("buildUUID"));
    match told {
        Some(Json::Text(id)) => id.clone(),
        Some(id) => ejson::wrapper(id)
            .and_then(|(_, inner)| inner.text().or_else(|| inner.get("base64")?.text()))
            .unwrap_or_default()
            .to_owned(),
        None => String::new(),
    }
}

/// The specification in a definition of the server.
fn read_spec(definition: &Json) -> Result<IndexSpec, SpecError> {
    let keys =
        definition.get("key").and_then(Json::members).ok_or_else(|| SpecError::new("it has no keys"))?;
    // A text index is listed with two keys of the server's own in the place of its fields.
    let keys: Vec<Key> = keys
        .iter()
        .filter(|(field, _)| field != "_ftsx")
        .map(|(field, value)| match field.as_str() {
            "_fts" => Key::new("", KeyKind::Text),
            field => Key::of_pair(field, value),
        })
        .collect();
    let mut spec = IndexSpec::of_keys(&keys);
    for (name, value) in definition.members().into_iter().flatten().filter(|(name, _)| name != "clustered") {
        spec.set(name, value)?;
    }
    Ok(spec)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::collation::Collation;
    use crate::json::json;

    fn read(entry: Json) -> ListedIndex {
        ListedIndex::read(&entry).unwrap()
    }

    #[test]
    fn what_the_server_ignores_is_ignored() {
        let plain = read(json!({"v": 2, "key": {"a": 1}, "name": "a_1"}));
        for entry in [
            json!({"v": 1, "key": {"a": {"$numberDouble": "1.0"}}, "name": "a_1", "ns": "shop.c", "background": true}),
            json!({"v": 2, "key": {"a": {"$numberLong": "1"}}, "name": "other", "sparse": false, "unique": false}),
            json!({"v": 2, "key": {"a": 1}, "name": "a_1", "hidden": false, "collation": {"locale": "simple"}}),
        ] {
            assert_eq!(read(entry).spec, plain.spec);
        }
        for entry in [
            json!({"key": {"a": -1}, "name": "a_1"}),
            json!({"key": {"a": 1}, "name": "a_1", "sparse": true}),
            json!({"key": {"a": 1}, "name": "a_1", "hidden": true}),
            json!({"key": {"a": 1}, "name": "a_1", "storageEngine": {"wiredTiger": {}}}),
            json!({"key": {"a": 1}, "name": "a_1", "expireAfterSeconds": 0}),
        ] {
            assert_ne!(read(entry).spec, plain.spec);
        }
    }

    #[test]
    fn text_indexes_are_read_from_their_weights() {
        let listed = read(json!({
            "v": 2, "key": {"shop": 1, "_fts": "text", "_ftsx": 1, "rank": -1}, "name": "t",
            "weights": {"description": 1, "title": 10}, "default_language": "english", "language_override": "language", "textIndexVersion": 3
        }));
        let keys: Vec<String> = listed.spec.written_keys().iter().map(Key::to_string).collect();
        assert_eq!(keys, ["shop", "description:text", "title:text", "-rank"]);
        let text = listed.spec.text.as_ref().unwrap();
        assert_eq!(text.weights["title"], 10);
        let definition = listed.spec.definition("t", &Collation::Simple);
        assert_eq!(
            definition,
            json!({"key": {"shop": 1, "description": "text", "title": "text", "rank": -1}, "name": "t", "weights": {"description": 1, "title": 10}})
        );
    }

    #[test]
    fn what_is_being_built_is_not_ready() {
        let entry = json!({"spec": {"v": 2, "key": {"a": 1}, "name": "a_1"}, "buildUUID": {"$binary": {"base64": "AAAA", "subType": "04"}}});
        let building = read(entry);
        assert_eq!(
            (building.name.as_str(), building.build.as_deref(), building.is_ready()),
            ("a_1", Some("AAAA"), false)
        );
        let newer = json!({"spec": {"v": 2, "key": {"a": 1}, "name": "a_1"}, "indexBuildInfo": {"buildUUID": {"$uuid": "1-2"}}});
        assert_eq!(read(newer).build.as_deref(), Some("1-2"));
    }

    #[test]
    fn odd_listings_are_told() {
        assert!(read(json!({"key": {"_id": 1}, "name": "_id_"})).is_id());
        assert!(read(json!({"key": {"_id": 1}, "name": "c", "clustered": true, "unique": true})).is_id());
        let nan =
            read(json!({"key": {"a": 1}, "name": "a_1", "expireAfterSeconds": {"$numberDouble": "NaN"}}));
        assert!(nan.ttl_is_no_number);
        assert_eq!(nan.spec.ttl_seconds, Some(crate::TTL_NEVER));
        assert!(ListedIndex::read(&json!({"key": {"a": 1}})).is_err());
        assert!(ListedIndex::read(&json!({"name": "a"})).is_err());
    }
}
