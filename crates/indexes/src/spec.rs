//! The canonical form of an index.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::collation::Collation;
use crate::ejson::{self, Ejson};
use crate::filter::Filter;
use crate::json::Json;
use crate::keys::{self, Key, KeyKind};
use crate::projection::Projection;

/// The number of seconds that a server lists where nothing ever expires; 6.0 stores it in the place of what is no number.
pub const TTL_NEVER: i64 = 2_147_483_647;

/// What an index is, apart from its name. Equal when the server treats both as the same index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexSpec {
    /// The keys in order. All fields of a text index are one key without a field, where the server puts it.
    pub keys: Vec<Key>,
    /// No two documents may have the same keys.
    pub unique: bool,
    /// Documents that lack all fields are left out.
    pub sparse: bool,
    /// Only documents that match are in it.
    pub partial: Option<Filter>,
    /// Documents expire so many seconds after the date in the key.
    pub ttl_seconds: Option<i64>,
    /// How texts are compared; resolved, never inherited.
    pub collation: Collation,
    /// What a text index is made of; exactly when one of the keys is text.
    pub text: Option<TextOptions>,
    /// Which paths a wildcard index covers; `None` for all.
    pub wildcard: Option<Projection>,
    /// Kept, and not used by queries.
    pub hidden: bool,
    /// Options that are none of the above, as they stand.
    pub other: BTreeMap<String, Ejson>,
}

/// What a text index is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextOptions {
    /// The fields with their weights.
    pub weights: BTreeMap<String, i64>,
    /// The language of documents that name none.
    pub language: String,
    /// The field that names a document's language.
    pub language_override: String,
}

impl TextOptions {
    pub(crate) fn weights_document(&self) -> Json {
        Json::object(self.weights.iter().map(|(field, weight)| (field.clone(), Json::Integer(*weight))))
    }
}

/// A definition that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SpecError(pub String);

impl SpecError {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

/// Options that no two definitions differ by: versions, and what changes nothing but the build or is told elsewhere.
const IGNORED: [&str; 8] =
    ["v", "ns", "name", "key", "background", "textIndexVersion", "2dsphereIndexVersion", "prepareUnique"];

impl IndexSpec {
    /// An index of `keys` without options. Text fields get the weight 1 and English.
    pub fn of_keys(keys: &[Key]) -> Self {
        let fields = keys.iter().filter(|key| key.kind == KeyKind::Text && !key.field.is_empty());
        let weights: BTreeMap<String, i64> = fields.map(|key| (key.field.clone(), 1)).collect();
        let mut canonical: Vec<Key> = Vec::new();
        for key in keys {
            match key.kind {
                KeyKind::Text if canonical.iter().any(|known| known.kind == KeyKind::Text) => {}
                KeyKind::Text => canonical.push(Key::new("", KeyKind::Text)),
                _ => canonical.push(key.clone()),
            }
        }
        let is_text = canonical.iter().any(|key| key.kind == KeyKind::Text);
        Self {
            keys: canonical,
            unique: false,
            sparse: false,
            partial: None,
            ttl_seconds: None,
            collation: Collation::Simple,
            text: is_text.then(|| TextOptions {
                weights,
                language: "english".to_owned(),
                language_override: "language".to_owned(),
            }),
            wildcard: None,
            hidden: false,
            other: BTreeMap::new(),
        }
    }

    /// Whether it is a text index.
    pub fn is_text(&self) -> bool {
        self.text.is_some()
    }

    /// Whether documents expire by it.
    pub fn is_ttl(&self) -> bool {
        self.ttl_seconds.is_some()
    }

    /// Whether a server can compare its texts by a language at all; one that cannot inherits no collation.
    pub fn can_collate(&self) -> bool {
        self.keys.iter().all(|key| {
            matches!(key.kind, KeyKind::Ascending | KeyKind::Descending | KeyKind::Hashed | KeyKind::Sphere)
        })
    }

    /// Sets one option by the name that the server has for it; names that mean nothing are passed over, unknown ones kept.
    ///
    /// # Errors
    /// One line about a value that is of no use.
    pub fn set(&mut self, name: &str, value: &Json) -> Result<(), SpecError> {
        let wrong = |expected: &str| SpecError::new(format!("`{name}` must be {expected}"));
        match name {
            name if IGNORED.contains(&name) => {}
            "unique" => self.unique = ejson::truthy(value),
            "sparse" => self.sparse = ejson::truthy(value),
            "hidden" => self.hidden = ejson::truthy(value),
            "partialFilterExpression" => {
                self.partial = Some(Filter::of_document(value).ok_or_else(|| wrong("a document"))?);
            }
            "expireAfterSeconds" => {
                let number = ejson::number(value).ok_or_else(|| wrong("a number of seconds"))?;
                self.ttl_seconds =
                    Some(if number.is_nan() { TTL_NEVER } else { ejson::whole(value).unwrap_or(TTL_NEVER) });
            }
            "collation" => self.collation = Collation::of_document(value).map_err(SpecError)?,
            "wildcardProjection" => self.wildcard = Projection::of_document(value),
            "weights" | "default_language" | "language_override" => self.set_text(name, value)?,
            // The defaults of flat coordinates are listed by nobody, and told by some drivers.
            "bits" if ejson::whole(value) == Some(26) => {}
            "min" if ejson::whole(value) == Some(-180) => {}
            "max" if ejson::whole(value) == Some(180) => {}
            name => drop(self.other.insert(name.to_owned(), Ejson::new(value.clone()))),
        }
        Ok(())
    }

    fn set_text(&mut self, name: &str, value: &Json) -> Result<(), SpecError> {
        let Some(text) = &mut self.text else {
            return Err(SpecError::new(format!("`{name}` is for text indexes, and no key is `field:text`")));
        };
        let wrong = |expected: &str| SpecError::new(format!("`{name}` must be {expected}"));
        match (name, value) {
            ("weights", Json::Object(fields)) => {
                for (field, weight) in fields {
                    let weight = ejson::whole(weight).ok_or_else(|| wrong("numbers by field"))?;
                    text.weights.insert(field.clone(), weight);
                }
            }
            ("weights", Json::Text(field)) => drop(text.weights.insert(field.clone(), 1)),
            ("weights", _) => return Err(wrong("numbers by field")),
            ("default_language", value) => {
                value.text().ok_or_else(|| wrong("a language"))?.clone_into(&mut text.language)
            }
            (_, value) => {
                value.text().ok_or_else(|| wrong("a field"))?.clone_into(&mut text.language_override)
            }
        }
        Ok(())
    }

    /// The entry of `createIndexes` that makes this index under `name`, as canonical enough Extended JSON. Written out is all that a
    /// collection whose own collation is `inherited` would not give.
    pub fn definition(&self, name: &str, inherited: &Collation) -> Json {
        self.definition_of(&self.written_keys(), name, inherited)
    }

    /// As [`IndexSpec::definition`], with the keys in the order in which somebody wrote them.
    pub(crate) fn definition_of(&self, keys: &[Key], name: &str, inherited: &Collation) -> Json {
        let mut fields: Vec<(String, Json)> = Vec::new();
        let mut put = |name: &str, value: Json| fields.push((name.to_owned(), value));
        put("key", keys::document(keys));
        put("name", Json::from(name));
        if self.unique {
            put("unique", Json::Flag(true));
        }
        if self.sparse {
            put("sparse", Json::Flag(true));
        }
        if let Some(filter) = &self.partial {
            put("partialFilterExpression", filter.document().clone());
        }
        if let Some(seconds) = self.ttl_seconds {
            put("expireAfterSeconds", Json::Integer(seconds));
        }
        if self.collation != *inherited || !inherited.is_simple() {
            put("collation", self.collation.document());
        }
        if let Some(text) = &self.text {
            if text.weights.values().any(|weight| *weight != 1) {
                put("weights", text.weights_document());
            }
            if text.language != "english" {
                put("default_language", Json::from(&text.language));
            }
            if text.language_override != "language" {
                put("language_override", Json::from(&text.language_override));
            }
        }
        if let Some(projection) = &self.wildcard {
            put("wildcardProjection", projection.document());
        }
        if self.hidden {
            put("hidden", Json::Flag(true));
        }
        for (name, value) in &self.other {
            put(name, value.value().clone());
        }
        Json::Object(fields)
    }

    /// The keys with the fields of a text index in the place of the one key that stands for them.
    pub fn written_keys(&self) -> Vec<Key> {
        let fields = || self.text.iter().flat_map(|text| text.weights.keys());
        let spelled = |key: &Key| match key.kind {
            KeyKind::Text => fields().map(|field| Key::new(field.clone(), KeyKind::Text)).collect(),
            _ => vec![key.clone()],
        };
        self.keys.iter().flat_map(spelled).collect()
    }
}
