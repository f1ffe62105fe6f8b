//! The keys of an index, their grammar in manifests, and the names that drivers make of them.
//!
//! `f` ascends, `-f` descends, `f:text`, `f:hashed`, `f:2dsphere` and `f:2d` are what they say. A field whose name would be misread, and a
//! value that none of these is, are written as the server has them: `{ "a:b" = 1 }`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ejson::{self, Ejson};
use crate::json::Json;

/// One key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// The field, dotted; empty for the place of all text fields in an [`IndexSpec`](crate::IndexSpec).
    pub field: String,
    /// How it is indexed.
    pub kind: KeyKind,
}

/// How a field is indexed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// `1`.
    Ascending,
    /// `-1`.
    Descending,
    /// `"text"`.
    Text,
    /// `"hashed"`.
    Hashed,
    /// `"2dsphere"`.
    Sphere,
    /// `"2d"`.
    Plane,
    /// Anything else, as the server has it: another number, another plugin.
    Other(Ejson),
}

/// The words of the grammar.
const WORDS: [(&str, KeyKind); 4] = [
    ("text", KeyKind::Text),
    ("hashed", KeyKind::Hashed),
    ("2dsphere", KeyKind::Sphere),
    ("2d", KeyKind::Plane),
];

impl Key {
    /// The key of `field`.
    pub fn new(field: impl Into<String>, kind: KeyKind) -> Self {
        Self { field: field.into(), kind }
    }

    /// The key that a definition says, as `{ field: value }`.
    pub(crate) fn of_pair(field: &str, value: &Json) -> Self {
        let kind = match value.text() {
            Some(word) => WORDS.iter().find(|(known, _)| *known == word).map(|(_, kind)| kind.clone()),
            None => match ejson::number(value) {
                Some(1.0) => Some(KeyKind::Ascending),
                Some(-1.0) => Some(KeyKind::Descending),
                _ => None,
            },
        };
        Self::new(field, kind.unwrap_or_else(|| KeyKind::Other(Ejson::new(value.clone()))))
    }

    /// The value in a definition.
    pub(crate) fn value(&self) -> Json {
        match &self.kind {
            KeyKind::Ascending => Json::Integer(1),
            KeyKind::Descending => Json::Integer(-1),
            KeyKind::Other(value) => value.value().clone(),
            word => Json::from(word_of(word)),
        }
    }

    /// The key with its direction turned; `None` when it has none.
    pub(crate) fn reversed(&self) -> Option<Self> {
        let kind = match self.kind {
            KeyKind::Ascending => KeyKind::Descending,
            KeyKind::Descending => KeyKind::Ascending,
            _ => return None,
        };
        Some(Self::new(self.field.clone(), kind))
    }

    /// Whether the grammar's short form is read back as this very key.
    pub(crate) fn is_plain(&self) -> bool {
        !matches!(self.kind, KeyKind::Other(_))
            && self.to_string().parse::<Self>().is_ok_and(|read| read == *self)
    }
}

fn word_of(kind: &KeyKind) -> &'static str {
    WORDS.iter().find(|(_, known)| known == kind).map_or("", |(word, _)| word)
}

/// As the grammar writes it.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = &self.field;
        match &self.kind {
            KeyKind::Ascending => f.write_str(field),
            KeyKind::Descending => write!(f, "-{field}"),
            KeyKind::Other(value) => write!(f, "{field}:{value}"),
            word => write!(f, "{field}:{}", word_of(word)),
        }
    }
}

/// Text that is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseKeyError {
    /// No field.
    #[error("`{0}` names no field")]
    Empty(String),
    /// A kind that does not exist.
    #[error("`{key}` is of no known kind `{kind}`: text, hashed, 2dsphere or 2d")]
    Kind {
        /// The text.
        key: String,
        /// What stands behind its last colon.
        kind: String,
    },
}

impl FromStr for Key {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        let key = match text.rsplit_once(':') {
            Some((field, word)) => match WORDS.iter().find(|(known, _)| *known == word) {
                Some((_, kind)) => Self::new(field, kind.clone()),
                None => return Err(ParseKeyError::Kind { key: text.to_owned(), kind: word.to_owned() }),
            },
            None => match text.strip_prefix('-') {
                Some(field) => Self::new(field, KeyKind::Descending),
                None => Self::new(text, KeyKind::Ascending),
            },
        };
        match key.field.is_empty() {
            true => Err(ParseKeyError::Empty(text.to_owned())),
            false => Ok(key),
        }
    }
}

/// The keys as a definition has them.
pub(crate) fn document(keys: &[Key]) -> Json {
    Json::object(keys.iter().map(|key| (key.field.clone(), key.value())))
}

/// The name that every official driver gives an index without one: `a_1_b_-1`, `title_text_description_text`.
pub fn driver_name(keys: &[Key]) -> String {
    let part = |key: &Key| {
        let value = key.value();
        let value = match (value.text(), ejson::number(&value)) {
            (Some(word), _) => word.to_owned(),
            (None, Some(_)) => ejson::canonical(&value),
            (None, None) => value.to_string(),
        };
        format!("{}_{value}", key.field)
    };
    keys.iter().map(part).collect::<Vec<_>>().join("_")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::json::json;

    #[test]
    fn the_grammar_is_read_and_written() {
        for (text, name) in [
            ("email", "email_1"),
            ("-createdAt", "createdAt_-1"),
            ("title:text", "title_text"),
            ("userId:hashed", "userId_hashed"),
            ("place:2dsphere", "place_2dsphere"),
            ("a.b.c", "a.b.c_1"),
            ("$**", "$**_1"),
            ("attributes.$**", "attributes.$**_1"),
        ] {
            let key: Key = text.parse().unwrap();
            assert_eq!(key.to_string(), text);
            assert!(key.is_plain());
            assert_eq!(driver_name(&[key]), name);
        }
        for text in ["", "-", ":text", "a:b", "a:"] {
            assert!(text.parse::<Key>().is_err(), "{text}");
        }
    }

    #[test]
    fn odd_fields_are_not_plain() {
        assert!(!Key::new("-a", KeyKind::Ascending).is_plain());
        assert!(!Key::new("a:b", KeyKind::Ascending).is_plain());
        assert!(!Key::of_pair("a", &json!(2)).is_plain());
        assert_eq!(
            driver_name(&[Key::of_pair("a", &json!(2.0)), Key::of_pair("b", &json!(-1.0))]),
            "a_2_b_-1"
        );
    }
}
