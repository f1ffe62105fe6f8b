//! Projections of wildcard indexes: which paths they cover.
//!
//! Nested documents and dotted paths say the same, so do numbers and booleans, and `_id` is left out unless it is named.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ejson;
use crate::json::Json;

/// Paths, and whether each is covered or left out. The path of everything has no projection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Projection(BTreeMap<String, bool>);

impl Projection {
    /// The projection that a document is; `None` when it says nothing.
    pub fn of_document(document: &Json) -> Option<Self> {
        let mut paths = BTreeMap::new();
        collect("", document.members()?, &mut paths);
        if paths.get("_id") == Some(&false) {
            paths.remove("_id");
        }
        (!paths.is_empty()).then_some(Self(paths))
    }

    /// The document that says it, dotted.
    pub fn document(&self) -> Json {
        Json::object(self.0.iter().map(|(path, covered)| (path.clone(), Json::Integer(i64::from(*covered)))))
    }
}

impl fmt::Display for Projection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.document())
    }
}

fn collect(prefix: &str, fields: &[(String, Json)], paths: &mut BTreeMap<String, bool>) {
    for (name, value) in fields {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value.members().filter(|inner| !ejson::is_wrapper(inner)) {
            Some(inner) => collect(&path, inner, paths),
            None => drop(paths.insert(path, ejson::truthy(value))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::json;

    #[test]
    fn nested_and_dotted_paths_are_the_same() {
        let of = |document: Json| Projection::of_document(&document);
        assert_eq!(of(json!({"a": {"b": 1}})), of(json!({"a.b": true, "_id": false})));
        assert_eq!(of(json!({"_id": 0})), None);
        assert_ne!(of(json!({"a": 1})), of(json!({"a": 0})));
        assert_ne!(of(json!({"a": 1})), of(json!({"a": 1, "_id": 1})));
    }
}
