//! The shape of a command: what was asked, without what it was asked about.
//!
//! A shape keeps operators and names of fields, collections and indexes, and puts its type in the place of every value, so that one question
//! asked with a thousand e-mail addresses is one shape and shows none of them. What may be a value is taken for one: a string in an
//! expression stays only where it can be nothing but a path (`"$price"`). Names of fields stay as they are; whoever keeps data in them will
//! see it. [`Literals::Shown`] shows the values, for whoever asked.

use std::collections::BTreeSet;

use mainstay_engine::{CommandValue, Literal};
use serde::Serialize;

/// Longest text of a shape; what is longer ends in an ellipsis.
const TEXT_CHARS_MAX: usize = 2_000;

/// What becomes of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Literals {
    /// Their types stand in their places.
    Hidden,
    /// They are shown.
    Shown,
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shape {
    /// The command: `find`, `aggregate`, `update`.
    pub verb: String,
    /// The rest of it as one line; may be empty.
    pub text: String,
}

/// The shape of `command`, which the server calls an operation of `kind`.
pub fn shape(kind: &str, command: &CommandValue, literals: Literals) -> Shape {
    let verb = verb(kind, command);
    let writer = Writer { literals };
    let mut parts = Vec::new();
    for (key, value) in command.fields() {
        if let Some((name, place)) = part(&verb, key) {
            let text = writer.value(value, place);
            parts.push(if name.is_empty() { text } else { format!("{name} {text}") });
        }
    }
    let mut text = parts.join(" ");
    if text.chars().count() > TEXT_CHARS_MAX {
        text = text.chars().take(TEXT_CHARS_MAX).chain(['…']).collect();
    }
    Shape { verb, text }
}

/// Without a name of its own a command is what the server calls the operation: the profiler notes an update as `{q, u}`.
fn verb(kind: &str, command: &CommandValue) -> String {
    let nameless = command.get("q").is_some() || command.fields().is_empty();
    let verb = match command.fields().first() {
        Some((name, _)) if !nameless => name,
        _ => kind,
    };
    match verb {
        "remove" => "delete".to_owned(),
        "findandmodify" => "findAndModify".to_owned(),
        verb => verb.to_owned(),
    }
}

/// Where a value stands decides how it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A query: every literal is a value.
    Filter,
    /// Fields and directions, or fields and whether they are wanted.
    Directions,
    /// Expressions: strings that are paths stay.
    Expression,
    /// Stages, each by its own rules.
    Pipeline,
    /// Names of fields, indexes, collections.
    Name,
    /// A list of `{q, u}`.
    Statements,
    /// Index definitions.
    Indexes,
    /// Nothing is known: every literal is a value.
    Opaque,
}

/// How a field of a command is shown: under which word, and how it is read. `None` for what adds nothing: the collection's name, which the
/// namespace tells, and settings of the cursor.
fn part(verb: &str, key: &str) -> Option<(&'static str, Place)> {
    Some(match (verb, key) {
        (verb, key) if verb == key => return None,
        ("find", "filter") => ("", Place::Filter),
        ("count" | "distinct" | "findAndModify", "query") | ("update" | "delete", "q") => ("", Place::Filter),
        ("distinct", "key") => ("of", Place::Name),
        ("find" | "findAndModify", "sort") => ("sort", Place::Directions),
        ("find", "projection") | ("findAndModify", "fields") => ("projection", Place::Directions),
        ("find" | "count", "limit") => ("limit", Place::Opaque),
        ("find" | "count", "skip") => ("skip", Place::Opaque),
        (_, "hint") => ("hint", Place::Name),
        (_, "collation") => ("collation", Place::Name),
        ("aggregate", "pipeline") => ("", Place::Pipeline),
        ("update", "u") | ("findAndModify", "update") => ("set", Place::Expression),
        ("update", "updates") | ("delete", "deletes") => ("", Place::Statements),
        ("update", "arrayFilters") => ("arrayFilters", Place::Filter),
        ("createIndexes", "indexes") => ("", Place::Indexes),
        ("dropIndexes", "index") => ("", Place::Name),
        _ => return None,
    })
}

struct Writer {
    literals: Literals,
}

impl Writer {
    fn value(&self, value: &CommandValue, place: Place) -> String {
        match value {
            CommandValue::Document(fields) if place == Place::Pipeline => self.stage(fields),
            CommandValue::Document(fields) => {
                let fields: Vec<String> = fields
                    .iter()
                    .map(|(key, value)| format!("{}: {}", name(key), self.value(value, inside(place, key))))
                    .collect();
                format!("{{{}}}", fields.join(", "))
            }
            CommandValue::Array(items) => self.array(items, place),
            CommandValue::Literal(literal) => self.literal(literal, place),
        }
    }

    /// Items of the same shape stand there once: `$in` with a thousand strings is `$in` with strings. Stages are told one by one.
    fn array(&self, items: &[CommandValue], place: Place) -> String {
        let mut seen = BTreeSet::new();
        let items: Vec<String> = items
            .iter()
            .map(|item| self.value(item, place))
            .filter(|text| {
                place == Place::Pipeline || self.literals == Literals::Shown || seen.insert(text.clone())
            })
            .collect();
        format!("[{}]", items.join(", "))
    }

    fn stage(&self, fields: &[(String, CommandValue)]) -> String {
        let fields: Vec<String> = fields
            .iter()
            .map(|(stage, value)| {
                let place = match stage.as_str() {
                    "$match" => Place::Filter,
                    "$sort" | "$project" => Place::Directions,
                    "$count" | "$sortByCount" => Place::Name,
                    "$lookup" | "$graphLookup" | "$unionWith" => return self.joining(stage, value),
                    "$facet" => Place::Pipeline,
                    _ => Place::Expression,
                };
                if stage == "$facet" {
                    let facets: Vec<String> = value
                        .fields()
                        .iter()
                        .map(|(facet, stages)| format!("{}: {}", name(facet), self.value(stages, place)))
                        .collect();
                    return format!("$facet: {{{}}}", facets.join(", "));
                }
                format!("{}: {}", name(stage), self.value(value, place))
            })
            .collect();
        format!("{{{}}}", fields.join(", "))
    }

    fn joining(&self, stage: &str, value: &CommandValue) -> String {
        let parts: Vec<String> = value
            .fields()
            .iter()
            .map(|(key, value)| {
                let place = match key.as_str() {
                    "from" | "localField" | "foreignField" | "as" | "coll" | "connectFromField"
                    | "connectToField" => Place::Name,
                    "pipeline" => Place::Pipeline,
                    "restrictSearchWithMatch" => Place::Filter,
                    _ => Place::Expression,
                };
                format!("{}: {}", name(key), self.value(value, place))
            })
            .collect();
        match value {
            CommandValue::Document(_) => format!("{}: {{{}}}", name(stage), parts.join(", ")),
            other => format!("{}: {}", name(stage), self.value(other, Place::Name)),
        }
    }

    fn literal(&self, literal: &Literal, place: Place) -> String {
        let text = literal.expose();
        let stays = match place {
            Place::Directions => {
                matches!(text, "1" | "-1" | "0" | "true" | "false")
                    || literal.kind() == "string" && is_path(text)
            }
            Place::Expression => literal.kind() == "string" && is_path(text),
            Place::Name => true,
            Place::Filter | Place::Pipeline | Place::Statements | Place::Indexes | Place::Opaque => false,
        };
        if !stays && self.literals == Literals::Hidden {
            return format!("<{}>", literal.kind());
        }
        match literal.kind() {
            "string" => quoted(text),
            "int" | "double" | "bool" | "null" => plain(text),
            kind => format!("{kind}({})", quoted(text)),
        }
    }
}

/// How a field's value is read below `place`.
fn inside(place: Place, key: &str) -> Place {
    match (place, key) {
        (Place::Filter, "$expr") => Place::Expression,
        (Place::Expression, "$literal") => Place::Opaque,
        (Place::Directions, key) if key.starts_with('$') && key != "$natural" => Place::Expression,
        (Place::Statements, "q") => Place::Filter,
        (Place::Statements, "u") => Place::Expression,
        (Place::Statements, "hint") | (Place::Indexes, "name") => Place::Name,
        (Place::Indexes, "key") => Place::Directions,
        (Place::Indexes, "partialFilterExpression") => Place::Filter,
        (Place::Statements | Place::Indexes, _) => Place::Opaque,
        (place, _) => place,
    }
}

/// `$price.net`, `$$ROOT`: nothing that a hash of a password or a sum of money could look like.
fn is_path(text: &str) -> bool {
    let Some(path) = text.strip_prefix('$') else { return false };
    let path = path.strip_prefix('$').unwrap_or(path);
    path.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && path.chars().all(|character| character.is_ascii_alphanumeric() || "_.".contains(character))
}

/// A field's name, in quotes where it is more than a word.
pub(crate) fn name(key: &str) -> String {
    let word = !key.is_empty() && key.chars().all(|one| one.is_ascii_alphanumeric() || "_$".contains(one));
    if word && !key.starts_with(|first: char| first.is_ascii_digit()) { key.to_owned() } else { quoted(key) }
}

/// Text in quotes, as JavaScript and JSON read it, with no character that a terminal would act upon.
pub(crate) fn quoted(text: &str) -> String {
    let json = serde_json::to_string(text).expect("text has a JSON form");
    plain(&json)
}

/// `text` with control characters escaped.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            plain.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// `{…}` of JSON as a tree; strings of the form `<kind> text` are literals of that kind, so that tests can name every type.
    pub(crate) fn tree(text: &str) -> CommandValue {
        of(&serde_json::from_str::<Ordered>(text).expect("the test's own JSON"))
    }

    enum Ordered {
        Null,
        Flag(bool),
        Number(serde_json::Number),
        Text(String),
        List(Vec<Ordered>),
        Object(Vec<(String, Ordered)>),
    }

    impl<'de> serde::Deserialize<'de> for Ordered {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Visitor;
            impl<'de> serde::de::Visitor<'de> for Visitor {
                type Value = Ordered;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("JSON")
                }
                fn visit_unit<E>(self) -> Result<Ordered, E> {
                    Ok(Ordered::Null)
                }
                fn visit_bool<E>(self, flag: bool) -> Result<Ordered, E> {
                    Ok(Ordered::Flag(flag))
                }
                fn visit_i64<E>(self, number: i64) -> Result<Ordered, E> {
                    Ok(Ordered::Number(number.into()))
                }
                fn visit_u64<E>(self, number: u64) -> Result<Ordered, E> {
                    Ok(Ordered::Number(number.into()))
                }
                fn visit_str<E>(self, text: &str) -> Result<Ordered, E> {
                    Ok(Ordered::Text(text.to_owned()))
                }
                fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Ordered, A::Error> {
                    let mut list = Vec::new();
                    while let Some(item) = seq.next_element()? {
                        list.push(item);
                    }
                    Ok(Ordered::List(list))
                }
                fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Ordered, A::Error> {
                    let mut object = Vec::new();
                    while let Some(entry) = map.next_entry()? {
                        object.push(entry);
                    }
                    Ok(Ordered::Object(object))
                }
            }
            deserializer.deserialize_any(Visitor)
        }
    }

    fn of(value: &Ordered) -> CommandValue {
        let literal = |kind, text: String| CommandValue::Literal(Literal::new(kind, text));
        match value {
            Ordered::Null => literal("null", "null".to_owned()),
            Ordered::Flag(flag) => literal("bool", flag.to_string()),
            Ordered::Number(number) => literal("int", number.to_string()),
            Ordered::Text(text) => match text.strip_prefix("<regex> ") {
                Some(regex) => literal("regex", regex.to_owned()),
                None => literal("string", text.clone()),
            },
            Ordered::List(items) => CommandValue::Array(items.iter().map(of).collect()),
            Ordered::Object(fields) => {
                CommandValue::Document(fields.iter().map(|(key, value)| (key.clone(), of(value))).collect())
            }
        }
    }

    #[test]
    fn values_become_types() {
        #[rustfmt::skip]
        let cases = [
            ("query", r#"{"find":"users","filter":{"role":"canary","n":{"$gt":5,"$lt":9}},"sort":{"email":-1,"a":1},"limit":10}"#,
             "find", "{role: <string>, n: {$gt: <int>, $lt: <int>}} sort {email: -1, a: 1} limit <int>"),
            ("query", r#"{"find":"users","filter":{"a.b":{"$in":["canary","canary2",7]}},"batchSize":2}"#,
             "find", r#"{"a.b": {$in: [<string>, <int>]}}"#),
            ("query", r#"{"find":"u","filter":{"$or":[{"a":1},{"b":"canary"}],"$where":"this.x==\"canary\""},"projection":{"a":1,"b":0}}"#,
             "find", "{$or: [{a: <int>}, {b: <string>}], $where: <string>} projection {a: 1, b: 0}"),
            ("query", r#"{"find":"u","filter":{"password":"$2b$10$canary"}}"#, "find", "{password: <string>}"),
            ("query", r#"{"find":"u","filter":{"path":"$canary"}}"#, "find", "{path: <string>}"),
            ("query", r#"{"find":"u","filter":{"$expr":{"$eq":["$a","canary"]}},"hint":"a_1"}"#,
             "find", r#"{$expr: {$eq: ["$a", <string>]}} hint "a_1""#),
            ("command", r#"{"aggregate":"u","pipeline":[{"$match":{"role":"canary"}},{"$sort":{"e":1}},{"$group":{"_id":"$role","n":{"$sum":1},"x":{"$literal":"$canary"}}}]}"#,
             "aggregate", r#"[{$match: {role: <string>}}, {$sort: {e: 1}}, {$group: {_id: "$role", n: {$sum: <int>}, x: {$literal: <string>}}}]"#),
            ("command", r#"{"aggregate":"u","pipeline":[{"$lookup":{"from":"orders","localField":"_id","foreignField":"user","as":"o","pipeline":[{"$match":{"s":"canary"}}]}}]}"#,
             "aggregate", r#"[{$lookup: {from: "orders", localField: "_id", foreignField: "user", as: "o", pipeline: [{$match: {s: <string>}}]}}]"#),
            ("command", r#"{"aggregate":"u","pipeline":[{"$facet":{"one":[{"$match":{"s":"$canary"}}]}}]}"#,
             "aggregate", "[{$facet: {one: [{$match: {s: <string>}}]}}]"),
            ("update", r#"{"q":{"role":"canary"},"u":{"$set":{"x":"canary"}},"multi":true}"#,
             "update", "{role: <string>} set {$set: {x: <string>}}"),
            ("update", r#"{"update":"u","updates":[{"q":{"a":"canary"},"u":{"$inc":{"n":1}},"multi":false}]}"#,
             "update", "[{q: {a: <string>}, u: {$inc: {n: <int>}}, multi: <bool>}]"),
            ("remove", r#"{"q":{"role":"canary"},"limit":0}"#, "delete", "{role: <string>}"),
            ("command", r#"{"findAndModify":"u","query":{"a":1},"update":{"$set":{"b":"canary"}},"sort":{"c":-1}}"#,
             "findAndModify", "{a: <int>} set {$set: {b: <string>}} sort {c: -1}"),
            ("command", r#"{"distinct":"u","key":"role","query":{"n":5}}"#, "distinct", r#"of "role" {n: <int>}"#),
            ("insert", r#"{"insert":"u","ordered":true}"#, "insert", ""),
            ("command", r#"{"createIndexes":"u","indexes":[{"key":{"n":1},"name":"n_1","partialFilterExpression":{"s":"canary"}}]}"#,
             "createIndexes", r#"[{key: {n: 1}, name: "n_1", partialFilterExpression: {s: <string>}}]"#),
            ("command", r#"{"createUser":"canary","pwd":"canary"}"#, "createUser", ""),
            ("none", "{}", "none", ""),
        ];
        for (kind, command, verb, text) in cases {
            let found = shape(kind, &tree(command), Literals::Hidden);
            assert_eq!((found.verb.as_str(), found.text.as_str()), (verb, text), "{command}");
            assert!(!found.text.contains("<string> canary"), "{found:?}");
        }
    }

    #[test]
    fn values_are_shown_to_whoever_asked() {
        let command = tree(r#"{"find":"u","filter":{"a":"x\u001b[31m","n":{"$in":[1,1]}},"limit":3}"#);
        let found = shape("query", &command, Literals::Shown);
        assert_eq!(found.text, r#"{a: "x\u001b[31m", n: {$in: [1, 1]}} limit 3"#);
    }

    #[test]
    fn a_long_shape_ends() {
        let fields: Vec<String> = (0..2_000).map(|number| format!("\"field{number}\":1")).collect();
        let command = tree(&format!(r#"{{"find":"u","filter":{{{}}}}}"#, fields.join(",")));
        assert_eq!(shape("query", &command, Literals::Hidden).text.chars().count(), TEXT_CHARS_MAX + 1);
    }
}
