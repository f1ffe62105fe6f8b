//! Slow operations: what the profiler recorded, or the server's last log lines about them.
//!
//! The two tell the same under slightly other names (MongoDB manual, "Database Profiler Output", "Log Messages"). MongoDB 8.0 renamed
//! `queryHash` to `planCacheShapeHash`; whichever is there is taken. Lines that the server cut off at its length limit, or that are no slow
//! query at all, are counted or passed over and never an error.

use bson::{Bson, Document, RawDocumentBuf, rawdoc};
use mainstay_engine::{SlowOperation, SlowOperations, SlowRequest, SlowSource};
use mainstay_indexes::Json;
use mainstay_model::{Result, Timestamp};

use super::profiler::COLLECTION;
use super::{Right, ask, command, list, single_server};
use crate::reply::number;
use crate::server::MongoServer;

const RECORDED: Right = Right { action: "find on system.profile", role: "clusterMonitor", on: "\"admin\"" };
const LOG: Right = Right { action: "getLog", role: "clusterMonitor", on: "\"admin\"" };

pub(super) async fn operations(
    server: &MongoServer,
    database: &str,
    request: &SlowRequest,
) -> Result<SlowOperations> {
    single_server(server, "profiler and no log of operations").await?;
    let recorded = recorded(server, database, request).await?;
    if !recorded.operations.is_empty() {
        return Ok(recorded);
    }
    logged(server, database, request).await
}

async fn recorded(server: &MongoServer, database: &str, request: &SlowRequest) -> Result<SlowOperations> {
    let mut filter = rawdoc! { "ns": { "$ne": format!("{database}.{COLLECTION}") } };
    if let Some(since) = request.since {
        let since = bson::DateTime::from_millis(since.as_millisecond());
        filter.append(bson::cstr!("ts"), rawdoc! { "$gte": since });
    }
    let find = rawdoc! {
        "find": COLLECTION, "filter": filter, "sort": { "$natural": -1 }, "limit": i64::from(request.entries_max) + 1,
        "projection": { "execStats": 0, "locks": 0, "flowControl": 0, "storage": 0, "allUsers": 0 },
        "comment": "mainstay mongo slow",
    };
    let found = list(server, database, find, &RECORDED).await?;
    let mut read = SlowOperations {
        source: SlowSource::Profiler,
        operations: Vec::new(),
        more: found.len() > request.entries_max as usize,
        unreadable: 0,
    };
    for entry in found.into_iter().take(request.entries_max as usize) {
        match of_profile(entry) {
            Some(operation) => read.operations.push(operation),
            None => read.unreadable += 1,
        }
    }
    Ok(read)
}

pub(super) fn of_profile(entry: RawDocumentBuf) -> Option<SlowOperation> {
    let entry = Document::try_from(entry).ok()?;
    let at = Timestamp::from_millisecond(entry.get_datetime("ts").ok()?.timestamp_millis()).ok()?;
    let begun = entry.get_document("originatingCommand").ok();
    let command = begun.or_else(|| entry.get_document("command").ok()).cloned().unwrap_or_default();
    Some(operation(&entry, at, "op", "millis", command::of_document(&command)))
}

async fn logged(server: &MongoServer, database: &str, request: &SlowRequest) -> Result<SlowOperations> {
    let reply = ask(server, "admin", rawdoc! { "getLog": "global" }, &LOG).await?;
    let lines = reply.get_array("log").map(Vec::as_slice).unwrap_or_default();
    let mut read =
        SlowOperations { source: SlowSource::Log, operations: Vec::new(), more: false, unreadable: 0 };
    // Newest first, as the profiler's.
    for line in lines.iter().rev().filter_map(Bson::as_str).filter(|line| line.contains("\"Slow query\"")) {
        if read.operations.len() == request.entries_max as usize {
            read.more = true;
            break;
        }
        match of_line(line) {
            Some(operation) if is_beside_the_point(&operation) => {}
            Some(operation) => {
                let ours = operation.namespace.split_once('.').is_some_and(|(name, _)| name == database);
                if ours && request.since.is_none_or(|since| operation.at >= since) {
                    read.operations.push(operation);
                }
            }
            None => read.unreadable += 1,
        }
    }
    Ok(read)
}

/// Questions to the profiler's own collection, which the profiler itself passes over; and commands that hold statements, an update of
/// `shop.$cmd` say, for the statements inside are noted one by one.
fn is_beside_the_point(operation: &SlowOperation) -> bool {
    let holds = |name: &str| operation.command.get(name).is_some();
    let statements = operation.namespace.ends_with(".$cmd") && (holds("update") || holds("delete"));
    statements || operation.namespace.ends_with(&format!(".{COLLECTION}"))
}

pub(super) fn of_line(line: &str) -> Option<SlowOperation> {
    let line = Json::parse(line).ok()?;
    let at = line.get("t")?.get("$date")?.text()?.parse::<Timestamp>().ok()?;
    let attributes = line.get("attr")?;
    let command = attributes.get("originatingCommand").or_else(|| attributes.get("command"));
    let command = command.map_or_else(mainstay_engine::CommandValue::empty, command::of_log);
    Some(operation(attributes, at, "type", "durationMillis", command))
}

/// One or the other way of noting an operation.
trait Noted {
    fn count(&self, key: &str) -> Option<u64>;
    fn text(&self, key: &str) -> Option<&str>;
    fn has(&self, key: &str) -> bool;
    fn flag(&self, key: &str) -> bool;
}

impl Noted for Document {
    fn count(&self, key: &str) -> Option<u64> {
        number(self, key)
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.get_str(key).ok()
    }

    fn has(&self, key: &str) -> bool {
        self.contains_key(key)
    }

    fn flag(&self, key: &str) -> bool {
        self.get_bool(key).unwrap_or(false)
    }
}

impl Noted for Json {
    fn count(&self, key: &str) -> Option<u64> {
        match self.get(key)? {
            Self::Integer(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.text()
    }

    fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    fn flag(&self, key: &str) -> bool {
        self.get(key) == Some(&Self::Flag(true))
    }
}

fn operation(
    noted: &impl Noted,
    at: Timestamp,
    kind: &str,
    millis: &str,
    command: mainstay_engine::CommandValue,
) -> SlowOperation {
    let count = |key: &str| noted.count(key).unwrap_or(0);
    let some = |key: &str| noted.text(key).filter(|text| !text.is_empty()).map(str::to_owned);
    let returned =
        ["nreturned", "nMatched", "ndeleted", "ninserted"].into_iter().find_map(|key| noted.count(key));
    SlowOperation {
        at,
        namespace: some("ns").unwrap_or_default(),
        kind: some(kind).unwrap_or_default(),
        command,
        is_continuation: noted.has("originatingCommand"),
        app_name: some("appName"),
        millis: count(millis),
        documents_examined: count("docsExamined"),
        keys_examined: count("keysExamined"),
        returned: returned.unwrap_or(0),
        plan: some("planSummary"),
        sorted: noted.flag("hasSortStage"),
        used_disk: noted.flag("usedDisk"),
        query_hash: some("planCacheShapeHash").or_else(|| some("queryHash")),
        plan_cache_key: some("planCacheKey"),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn profile_and_log_tell_the_same() {
        let at = bson::DateTime::parse_rfc3339_str("2026-11-25T19:11:29.775Z").unwrap();
        let entry = doc! {
            "op": "query", "ns": "shop.users", "command": { "find": "users", "filter": { "role": "x" }, "$db": "shop" },
            "keysExamined": 0, "docsExamined": 3001, "nreturned": 2, "hasSortStage": true, "queryHash": "DB842A93",
            "planCacheKey": "DB842A93", "millis": 461, "planSummary": "COLLSCAN", "ts": at, "appName": "shop-api",
        };
        let line = r#"{"t":{"$date":"2026-11-25T19:11:29.775+00:00"},"s":"I","c":"COMMAND","id":51803,"ctx":"conn2","msg":"Slow query",
            "attr":{"type":"query","ns":"shop.users","appName":"shop-api","command":{"find":"users","filter":{"role":"x"},"$db":"shop"},
            "planSummary":"COLLSCAN","keysExamined":0,"docsExamined":3001,"hasSortStage":true,"nreturned":2,"planCacheShapeHash":"DB842A93",
            "planCacheKey":"DB842A93","durationMillis":461}}"#;
        let recorded = of_profile(RawDocumentBuf::try_from(entry).unwrap()).unwrap();
        assert_eq!(of_line(line).unwrap(), recorded);
        assert_eq!((recorded.millis, recorded.documents_examined, recorded.sorted), (461, 3001, true));
    }

    #[test]
    fn a_get_more_belongs_to_what_began_its_cursor() {
        let entry = doc! {
            "op": "getmore", "ns": "shop.users", "command": { "getMore": 1_i64, "collection": "users" }, "ts": bson::DateTime::now(),
            "originatingCommand": { "find": "users", "filter": {} }, "millis": 1,
        };
        let operation = of_profile(RawDocumentBuf::try_from(entry).unwrap()).unwrap();
        assert!(operation.is_continuation && operation.command.get("find").is_some());
    }

    #[test]
    fn statements_are_not_told_twice() {
        let line = |namespace: &str, command: &str| {
            let line = format!(
                r#"{{"t":{{"$date":"2026-01-01T00:00:00Z"}},"attr":{{"type":"command","ns":"{namespace}","command":{command}}}}}"#
            );
            is_beside_the_point(&of_line(&line).unwrap())
        };
        assert!(line("shop.$cmd", r#"{"update":"users","ordered":true}"#));
        assert!(line("shop.system.profile", r#"{"find":"system.profile"}"#));
        assert!(!line("shop.users", r#"{"q":{},"u":{}}"#));
        assert!(!line("shop.$cmd", r#"{"dbStats":1}"#));
    }

    #[test]
    fn lines_that_are_none_are_passed_over() {
        for line in [
            "",
            "{",
            "[]",
            r#"{"t":1}"#,
            r#"{"t":{"$date":"x"},"attr":{}}"#,
            r#"{"t":{"$date":"2026-01-01T00:00:00Z"}}"#,
        ] {
            assert!(of_line(line).is_none(), "{line}");
        }
    }
}
