//! Which index serves all that another serves.

use crate::keys::Key;
use crate::spec::IndexSpec;

/// Whether every query that `shorter` serves is served by `longer`: its keys begin with those of `shorter`, both compare texts alike, both
/// hold every document, and `shorter` has no work of its own (uniqueness, expiry). A hidden index serves nothing.
pub fn covers(longer: &IndexSpec, shorter: &IndexSpec) -> bool {
    let holds_everything = |spec: &IndexSpec| !spec.sparse && spec.partial.is_none();
    let is_plain = |spec: &IndexSpec| {
        !spec.is_text()
            && spec.wildcard.is_none()
            && spec.other.is_empty()
            && !spec.keys.iter().any(|key| key.field.ends_with("$**"))
    };
    let has_work = shorter.unique || shorter.is_ttl();
    !has_work
        && !longer.hidden
        && [longer, shorter].into_iter().all(|spec| holds_everything(spec) && is_plain(spec))
        && longer.collation == shorter.collation
        && begins_with(&longer.keys, &shorter.keys)
}

/// Whether `keys` are more than `prefix` and begin with it, or with all of it in the other direction.
fn begins_with(keys: &[Key], prefix: &[Key]) -> bool {
    if keys.len() <= prefix.len() {
        return false;
    }
    let reversed: Option<Vec<Key>> = prefix.iter().map(Key::reversed).collect();
    keys.starts_with(prefix) || reversed.is_some_and(|reversed| keys.starts_with(&reversed))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::json::{Json, json};
    use crate::listed::ListedIndex;

    #[test]
    fn the_table() {
        let spec = |entry: Json| {
            let named =
                entry.members().unwrap().iter().cloned().chain([("name".to_owned(), Json::from("n"))]);
            ListedIndex::read(&Json::object(named)).unwrap().spec
        };
        let a = json!({"key": {"a": 1}});
        for (longer, shorter, expected) in [
            (json!({"key": {"a": 1, "b": 1}}), a.clone(), true),
            (json!({"key": {"a": -1, "b": 1}}), a.clone(), true),
            (json!({"key": {"a": 1, "b": 1}, "unique": true}), a.clone(), true),
            (json!({"key": {"a": 1, "b": -1, "c": 1}}), json!({"key": {"a": -1, "b": 1}}), true),
            (json!({"key": {"a": 1, "b": 1, "c": 1}}), json!({"key": {"a": -1, "b": 1}}), false),
            (json!({"key": {"b": 1, "a": 1}}), a.clone(), false),
            (a.clone(), a.clone(), false),
            (json!({"key": {"a": 1, "b": 1}}), json!({"key": {"a": 1}, "unique": true}), false),
            (json!({"key": {"a": 1, "b": 1}}), json!({"key": {"a": 1}, "expireAfterSeconds": 1}), false),
            (json!({"key": {"a": 1, "b": 1}}), json!({"key": {"a": 1}, "sparse": true}), false),
            (json!({"key": {"a": 1, "b": 1}, "sparse": true}), a.clone(), false),
            (json!({"key": {"a": 1, "b": 1}, "partialFilterExpression": {"c": 1}}), a.clone(), false),
            (json!({"key": {"a": 1, "b": 1}, "collation": {"locale": "en"}}), a.clone(), false),
            (json!({"key": {"a": 1, "b": 1}, "hidden": true}), a.clone(), false),
            (json!({"key": {"a": "hashed", "b": 1}}), json!({"key": {"a": 1}}), false),
        ] {
            assert_eq!(covers(&spec(longer.clone()), &spec(shorter.clone())), expected, "{longer} {shorter}");
        }
    }
}
