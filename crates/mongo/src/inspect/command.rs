//! Commands as the engine's trees: from BSON (the profiler, the current operations) and from the JSON of the server's log.
//!
//! What a driver and the server add to every command says nothing about it and is left out: sessions, cluster times, read preferences. So
//! are the documents of an insert. Depth is bounded by what the server accepts; deeper foreign JSON becomes one opaque literal.

use bson::{Bson, Document};
use mainstay_engine::{CommandValue, Literal};
use mainstay_indexes::Json;

/// Deepest nesting followed; MongoDB stores at most 100 (MongoDB manual, "Limits and Thresholds").
const DEPTH_MAX: usize = 110;

/// Fields of a command that are not the client's question.
const ENVELOPE: &[&str] = &[
    "$clusterTime",
    "$configTime",
    "$topologyTime",
    "$client",
    "$db",
    "$readPreference",
    "$audit",
    "apiVersion",
    "apiStrict",
    "apiDeprecationErrors",
    "clientOperationKey",
    "cursor",
    "documents",
    "lsid",
    "maxTimeMS",
    "mayBypassWriteBlocking",
    "readConcern",
    "shardVersion",
    "databaseVersion",
    "stmtId",
    "stmtIds",
    "txnNumber",
    "autocommit",
    "startTransaction",
    "writeConcern",
];

/// A command without its envelope.
pub(super) fn of_document(command: &Document) -> CommandValue {
    let own = command.iter().filter(|(key, _)| !ENVELOPE.contains(&key.as_str()));
    CommandValue::Document(own.map(|(key, value)| (key.clone(), of_bson(value, 1))).collect())
}

fn of_bson(value: &Bson, depth: usize) -> CommandValue {
    let literal = |kind, text: String| CommandValue::Literal(Literal::new(kind, text));
    if depth > DEPTH_MAX {
        return literal("object", String::new());
    }
    match value {
        Bson::Document(document) => CommandValue::Document(
            document.iter().map(|(key, value)| (key.clone(), of_bson(value, depth + 1))).collect(),
        ),
        Bson::Array(items) => {
            CommandValue::Array(items.iter().map(|item| of_bson(item, depth + 1)).collect())
        }
        Bson::Double(number) => literal("double", number.to_string()),
        Bson::String(text) => literal("string", text.clone()),
        Bson::Boolean(flag) => literal("bool", flag.to_string()),
        Bson::Null => literal("null", "null".to_owned()),
        Bson::RegularExpression(regex) => {
            literal("regex", format!("/{}/{}", regex.pattern.as_str(), regex.options.as_str()))
        }
        Bson::JavaScriptCode(code) => literal("javascript", code.clone()),
        Bson::JavaScriptCodeWithScope(scoped) => literal("javascript", scoped.code.clone()),
        Bson::Int32(number) => literal("int", number.to_string()),
        Bson::Int64(number) => literal("int", number.to_string()),
        Bson::Timestamp(at) => literal("timestamp", format!("{}:{}", at.time, at.increment)),
        Bson::Binary(binary) => literal("binData", format!("{} bytes", binary.bytes.len())),
        Bson::ObjectId(id) => literal("objectId", id.to_hex()),
        Bson::DateTime(date) => literal(
            "date",
            date.try_to_rfc3339_string().unwrap_or_else(|_| date.timestamp_millis().to_string()),
        ),
        Bson::Symbol(text) => literal("string", text.clone()),
        Bson::Decimal128(number) => literal("decimal", number.to_string()),
        Bson::Undefined => literal("undefined", "undefined".to_owned()),
        Bson::MaxKey => literal("maxKey", "MaxKey".to_owned()),
        Bson::MinKey => literal("minKey", "MinKey".to_owned()),
        Bson::DbPointer(_) => literal("dbPointer", "dbPointer".to_owned()),
    }
}

/// A command of the log without its envelope.
pub(super) fn of_log(command: &Json) -> CommandValue {
    match of_json(command, 1) {
        CommandValue::Document(fields) => CommandValue::Document(
            fields.into_iter().filter(|(key, _)| !ENVELOPE.contains(&key.as_str())).collect(),
        ),
        other => other,
    }
}

fn of_json(value: &Json, depth: usize) -> CommandValue {
    let literal = |kind, text: String| CommandValue::Literal(Literal::new(kind, text));
    if depth > DEPTH_MAX {
        return literal("object", String::new());
    }
    match value {
        Json::Null => literal("null", "null".to_owned()),
        Json::Flag(flag) => literal("bool", flag.to_string()),
        Json::Integer(number) => literal("int", number.to_string()),
        Json::Real(number) => literal("double", number.to_string()),
        Json::Text(text) => literal("string", text.clone()),
        Json::List(items) => CommandValue::Array(items.iter().map(|item| of_json(item, depth + 1)).collect()),
        Json::Object(members) => match wrapper(members) {
            Some(wrapped) => CommandValue::Literal(wrapped),
            None => CommandValue::Document(
                members.iter().map(|(key, value)| (key.clone(), of_json(value, depth + 1))).collect(),
            ),
        },
    }
}

/// A value that JSON has no form for, as the log writes it (MongoDB manual, "Log Messages": relaxed Extended JSON v2).
fn wrapper(members: &[(String, Json)]) -> Option<Literal> {
    let (name, value) = members.first()?;
    let kind = match name.as_str() {
        "$oid" => "objectId",
        "$date" => "date",
        "$uuid" | "$binary" => "binData",
        "$numberInt" | "$numberLong" => "int",
        "$numberDouble" => "double",
        "$numberDecimal" => "decimal",
        "$timestamp" => "timestamp",
        "$regularExpression" => "regex",
        "$code" => "javascript",
        "$symbol" => "string",
        "$undefined" => "undefined",
        "$minKey" => "minKey",
        "$maxKey" => "maxKey",
        _ => return None,
    };
    let text = |json: &Json| match json {
        Json::Text(text) => text.clone(),
        Json::Integer(number) => number.to_string(),
        _ => kind.to_owned(),
    };
    let shown = match (kind, value) {
        ("regex", value) => format!(
            "/{}/{}",
            value.get("pattern").map(text).unwrap_or_default(),
            value.get("options").map(text).unwrap_or_default()
        ),
        (_, value) => text(value),
    };
    (members.len() == 1 || kind == "javascript").then(|| Literal::new(kind, shown))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn bson_and_log_give_the_same_tree() {
        let id = bson::oid::ObjectId::parse_str("6565b0f0a1b2c3d4e5f60718").unwrap();
        let from_bson = of_document(&doc! {
            "find": "users", "filter": { "z": "x", "a": { "$gt": 5, "$in": [id, true, Bson::Null] } }, "sort": { "b": -1, "a": 1 },
            "lsid": { "id": 1 }, "$db": "shop",
        });
        let from_log = of_log(
            &Json::parse(
                r#"{"find":"users","filter":{"z":"x","a":{"$gt":5,"$in":[{"$oid":"6565b0f0a1b2c3d4e5f60718"},true,null]}},
                "sort":{"b":-1,"a":1},"lsid":{"id":{"$uuid":"x"}},"$db":"shop"}"#,
            )
            .unwrap(),
        );
        assert_eq!(from_bson, from_log);
        let fields: Vec<&str> = from_bson.fields().iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(fields, ["find", "filter", "sort"]);
    }

    #[test]
    fn wrappers_of_the_log_are_literals_and_operators_are_not() {
        for (text, kind) in [
            (r#"{"$date":"2026-01-01T00:00:00Z"}"#, "date"),
            (r#"{"$binary":{"base64":"AA==","subType":"0"}}"#, "binData"),
            (r#"{"$numberDecimal":"1.5"}"#, "decimal"),
            (r#"{"$code":"f()","$scope":{}}"#, "javascript"),
            (r#"{"$regularExpression":{"pattern":"^a","options":"i"}}"#, "regex"),
        ] {
            let tree = of_json(&Json::parse(text).unwrap(), 1);
            assert_eq!(tree.literal().map(Literal::kind), Some(kind), "{text}");
        }
        assert!(of_json(&Json::parse(r#"{"$gt":5}"#).unwrap(), 1).literal().is_none());
    }

    #[test]
    fn depth_is_bounded() {
        let mut deep = doc! { "x": 1 };
        for _ in 0..500 {
            deep = doc! { "d": deep };
        }
        let mut tree = &of_document(&deep);
        let mut depth = 0;
        while let Some(next) = tree.get("d") {
            tree = next;
            depth += 1;
        }
        // The command itself is the level above the first.
        assert_eq!(depth, DEPTH_MAX + 1);
    }
}
