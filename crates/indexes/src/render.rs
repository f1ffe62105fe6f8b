//! The manifest's grammar, written: what [`Manifest::parse`](crate::Manifest::parse) reads back as the same manifest.

use crate::declared::{DeclaredIndex, Manifest, Policy};
use crate::json::Json;
use crate::keys::{Key, KeyKind};
use crate::manifest::span;

/// The text of a manifest, below `[mongo.indexes]`. What the policy says by default is left out.
pub fn toml_text(manifest: &Manifest) -> String {
    let mut text = String::from("[mongo.indexes]\n");
    for (collection, indexes) in &manifest.collections {
        let name = field_name(collection);
        match indexes.as_slice() {
            [] => text.push_str(&format!("{name} = []\n")),
            indexes => {
                text.push_str(&format!("{name} = [\n"));
                indexes.iter().for_each(|index| text.push_str(&format!("  {},\n", toml_of(index))));
                text.push_str("]\n");
            }
        }
    }
    let policy = policy_lines(&manifest.policy);
    if !policy.is_empty() {
        text.push_str(&format!("\n[mongo.policy]\n{policy}"));
    }
    text
}

fn policy_lines(policy: &Policy) -> String {
    let plain = Policy::default();
    let mut lines = String::new();
    let mut line = |name: &str, value: String, differs: bool| {
        if differs {
            lines.push_str(&format!("{name} = {value}\n"));
        }
    };
    line("undeclared", quoted(policy.undeclared.name()), policy.undeclared != plain.undeclared);
    line("hide_for", quoted(&span(policy.hide_seconds)), policy.hide_seconds != plain.hide_seconds);
    line("watch_for", quoted(&span(policy.watch_seconds)), policy.watch_seconds != plain.watch_seconds);
    line("max_expire", policy.expire_max.to_string(), policy.expire_max != plain.expire_max);
    line("ignore", words(policy.ignore.iter().map(String::as_str)), !policy.ignore.is_empty());
    lines
}

/// One index as a manifest declares it.
pub fn toml_of(index: &DeclaredIndex) -> String {
    let options = index.options();
    let mut parts = vec![format!("keys = [{}]", index.keys.iter().map(key).collect::<Vec<_>>().join(", "))];
    let mut part = |name: &str, value: String| parts.push(format!("{name} = {value}"));
    if let Some(name) = &index.name {
        part("name", quoted(name));
    }
    if let Some(was) = &index.was {
        part("was", quoted(was));
    }
    for (name, flag) in [("unique", options.unique), ("sparse", options.sparse), ("hidden", options.hidden)] {
        if flag {
            part(name, "true".to_owned());
        }
    }
    if let Some(filter) = &options.partial {
        part("partial", inline(filter.document()));
    }
    if let Some(seconds) = options.ttl_seconds {
        part("ttl", quoted(&span(u64::try_from(seconds).unwrap_or(0))));
    }
    if let Some(collation) = &index.collation {
        part("collation", inline(&collation.document()));
    }
    if let Some(text) = &options.text {
        if text.weights.values().any(|weight| *weight != 1) {
            part("weights", inline(&text.weights_document()));
        }
        if text.language != "english" {
            part("language", quoted(&text.language));
        }
        if text.language_override != "language" {
            part("language_override", quoted(&text.language_override));
        }
    }
    if let Some(projection) = &options.wildcard {
        part("wildcard", inline(&projection.document()));
    }
    if !options.other.is_empty() {
        let fields = options.other.iter().map(|(name, value)| (name.clone(), value.value().clone()));
        part("options", inline(&Json::object(fields)));
    }
    if let Some(multikey) = index.multikey {
        part("multikey", multikey.to_string());
    }
    if !index.asserts.is_empty() {
        part("assert", words(index.asserts.iter().map(|word| word.name())));
    }
    if !index.allows.is_empty() {
        part("allow", words(index.allows.iter().map(|word| word.name())));
    }
    if index.pinned {
        part("pin", "true".to_owned());
    }
    format!("{{ {} }}", parts.join(", "))
}

fn key(key: &Key) -> String {
    match (&key.kind, key.is_plain()) {
        (_, true) => quoted(&key.to_string()),
        (KeyKind::Other(value), false) if !fits(value.value()) => {
            // No value that TOML has none for is a key's; the server would have refused it.
            format!("{{ {} = {} }}", field_name(&key.field), quoted(&value.to_string()))
        }
        (_, false) => format!("{{ {} = {} }}", field_name(&key.field), toml_value(&key.value())),
    }
}

fn words<'a>(words: impl Iterator<Item = &'a str>) -> String {
    format!("[{}]", words.map(quoted).collect::<Vec<_>>().join(", "))
}

/// A document as an inline table, or as Extended JSON in quotes when TOML has no value for a part of it.
fn inline(document: &Json) -> String {
    if fits(document) { toml_value(document) } else { quoted(&document.to_string()) }
}

/// Whether TOML has a value for it that reads back as the same.
fn fits(value: &Json) -> bool {
    match value {
        Json::Null => false,
        Json::Flag(_) | Json::Integer(_) | Json::Real(_) | Json::Text(_) => true,
        Json::List(items) => items.iter().all(fits),
        Json::Object(fields) => fields.iter().all(|(_, value)| fits(value)),
    }
}

fn toml_value(value: &Json) -> String {
    match value {
        Json::Null => quoted("null"),
        Json::Flag(flag) => flag.to_string(),
        Json::Integer(number) => number.to_string(),
        // A whole number written as a fraction stays one.
        Json::Real(number) => format!("{number:?}"),
        Json::Text(text) => quoted(text),
        Json::List(items) => format!("[{}]", items.iter().map(toml_value).collect::<Vec<_>>().join(", ")),
        Json::Object(fields) if fields.is_empty() => "{}".to_owned(),
        Json::Object(fields) => {
            let pairs =
                fields.iter().map(|(name, value)| format!("{} = {}", field_name(name), toml_value(value)));
            format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
        }
    }
}

fn field_name(name: &str) -> String {
    let is_bare = !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if is_bare { name.to_owned() } else { quoted(name) }
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            '\0'..='\u{1f}' | '\u{7f}' => quoted.push_str(&format!("\\u{:04X}", u32::from(character))),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let text = r#"
[mongo.indexes]
"odd name" = [
  { keys = [{ "a:b" = 1 }, "-c", { d = 2 }], name = "quo\"te", unique = true },
]
empty = []
things = [
  { keys = ["title:text", "description:text"], weights = { title = 10 }, language = "german", language_override = "lang" },
  { keys = ["a"], sparse = true, assert = ["no-explicit-null"], allow = ["prefix-redundant", "unused"], pin = true, was = "old", multikey = true },
  { keys = ["at"], ttl = "90m", hidden = true },
  { keys = ["$**"], wildcard = { b = 0 } },
  { keys = ["p"], partial = { p = { "$gt" = 1.0, "$lt" = { "$numberLong" = "9" } } } },
  { keys = ["q"], partial = '{"q":null}', collation = { locale = "en", strength = 2 } },
  { keys = ["place:2d"], options = { bits = 20 } },
]
[mongo.policy]
undeclared = "hide"
hide_for = "1d"
watch_for = "2h"
max_expire = 5
ignore = ["x*"]
"#;
        let manifest = Manifest::parse(text).unwrap();
        let written = toml_text(&manifest);
        assert_eq!(Manifest::parse(&written).unwrap(), manifest, "{written}");
        assert_eq!(toml_text(&Manifest::parse(&written).unwrap()), written);
    }
}
