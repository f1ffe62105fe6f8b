//! What the server is doing now (MongoDB manual, "$currentOp"), and ending it.

use bson::{Bson, Document, rawdoc};
use mainstay_engine::{CommandValue, OpenTransaction, OperationProgress, RunningOperation};
use mainstay_model::Result;

use super::{Right, ask, command, list, section, some_text, text};
use crate::metadata::array;
use crate::reply::{hex, number};
use crate::server::MongoServer;

const OPERATIONS: Right = Right { action: "inprog", role: "clusterMonitor", on: "\"admin\"" };
const KILL: Right = Right { action: "killop", role: "hostManager", on: "\"admin\"" };

pub(super) async fn operations(server: &MongoServer) -> Result<Vec<RunningOperation>> {
    let stages =
        [rawdoc! { "$currentOp": { "allUsers": true, "idleSessions": true, "idleConnections": false } }];
    let command =
        rawdoc! { "aggregate": 1, "pipeline": array(&stages), "cursor": {}, "comment": OWN_COMMENT };
    let found = list(server, "admin", command, &OPERATIONS).await?;
    let operations = found.into_iter().filter_map(|entry| Document::try_from(entry).ok());
    Ok(operations.filter(|entry| !is_own(entry)).map(|entry| operation(&entry)).collect())
}

/// The mark of our own question, which sees itself.
const OWN_COMMENT: &str = "mainstay: what is running";

fn is_own(entry: &Document) -> bool {
    section(entry, "command").get_str("comment").ok() == Some(OWN_COMMENT)
}

pub(super) fn operation(entry: &Document) -> RunningOperation {
    let micros = |document: &Document, key: &str| number(document, key).unwrap_or(0);
    let transaction = entry.get_document("transaction").ok().map(|transaction| OpenTransaction {
        open_micros: micros(transaction, "timeOpenMicros"),
        inactive_micros: micros(transaction, "timeInactiveMicros"),
    });
    let begun = section(entry, "cursor");
    let begun = begun.get_document("originatingCommand").ok();
    let sent = section(entry, "command");
    let sent = if sent.contains_key("getMore") { begun.cloned().unwrap_or(sent) } else { sent };
    let active = entry.get_bool("active").unwrap_or(false);
    RunningOperation {
        id: entry.get("opid").and_then(id),
        active,
        kind: text(entry, "op"),
        namespace: text(entry, "ns"),
        command: if sent.is_empty() { CommandValue::empty() } else { command::of_document(&sent) },
        micros: number(entry, "microsecs_running")
            .or(transaction.map(|transaction| transaction.open_micros))
            .unwrap_or(0),
        client: some_text(entry, "client").or_else(|| some_text(entry, "client_s")),
        description: text(entry, "desc"),
        app_name: some_text(entry, "appName"),
        users: users(entry),
        plan: some_text(entry, "planSummary"),
        yields: number(entry, "numYields").unwrap_or(0),
        waits_for_lock: entry.get_bool("waitingForLock").unwrap_or(false),
        waits_for_flow_control: entry.get_bool("waitingForFlowControl").unwrap_or(false),
        lock_wait_micros: lock_wait(&section(entry, "lockStats")),
        progress: progress(entry),
        session: session(entry),
        transaction,
    }
}

/// An operation's id: a number, or through a mongos `shard:number`.
pub(crate) fn id(value: &Bson) -> Option<String> {
    match value {
        Bson::Int32(id) => Some(id.to_string()),
        Bson::Int64(id) => Some(id.to_string()),
        Bson::Double(id) => Some(format!("{id:.0}")),
        Bson::String(id) => Some(id.clone()),
        _ => None,
    }
}

fn users(entry: &Document) -> Vec<String> {
    let users = entry.get_array("effectiveUsers").map(Vec::as_slice).unwrap_or_default();
    let users = users.iter().filter_map(Bson::as_document);
    users.map(|user| format!("{}@{}", text(user, "user"), text(user, "db"))).collect()
}

fn lock_wait(stats: &Document) -> u64 {
    let of_resource = |stats: &Document| -> u64 {
        let waited = section(stats, "timeAcquiringMicros");
        waited.keys().filter_map(|mode| number(&waited, mode)).sum()
    };
    stats.values().filter_map(Bson::as_document).map(of_resource).sum()
}

fn progress(entry: &Document) -> Option<OperationProgress> {
    let message = some_text(entry, "msg")?;
    let steps = section(entry, "progress");
    // `Index Build: scanning collection Index Build: scanning collection: 3000/3000 100%` says it three times.
    let half = message.len() / 2;
    let repeated = (1..=half).find_map(|end| {
        let (first, rest) = (message.get(..end)?, message.get(end..)?);
        (first.len() > 8 && rest.trim_start().starts_with(first)).then(|| first.trim().to_owned())
    });
    Some(OperationProgress {
        message: repeated.unwrap_or(message),
        done: number(&steps, "done"),
        total: number(&steps, "total"),
    })
}

fn session(entry: &Document) -> Option<String> {
    let session = section(entry, "lsid");
    match session.get("id")? {
        Bson::Binary(binary) => Some(hex(&binary.bytes)),
        _ => None,
    }
}

pub(super) async fn kill(server: &MongoServer, operation: &str) -> Result<()> {
    let command = match operation.parse::<i64>() {
        Ok(number) => rawdoc! { "killOp": 1, "op": number },
        Err(_) => rawdoc! { "killOp": 1, "op": operation },
    };
    ask(server, "admin", command, &KILL).await?;
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn an_index_build_tells_how_far_it_is() {
        let entry = doc! {
            "active": true, "desc": "IndexBuildsCoordinatorMongod-0", "opid": 369, "op": "command", "ns": "shop.users",
            "microsecs_running": 417_259_i64, "command": { "createIndexes": "users", "indexes": [{ "key": { "n": 1 } }] },
            "msg": "Index Build: scanning collection Index Build: scanning collection: 3000/6000 50%",
            "progress": { "done": 3000, "total": 6000 },
            "lockStats": { "Collection": { "timeAcquiringMicros": { "W": 5_i64, "w": 7 } }, "Global": { "acquireCount": { "r": 1 } } },
        };
        let operation = operation(&entry);
        let progress = operation.progress.unwrap();
        assert_eq!(progress.message, "Index Build: scanning collection");
        assert_eq!((progress.done, progress.total), (Some(3000), Some(6000)));
        assert_eq!(
            (operation.id.as_deref(), operation.client, operation.lock_wait_micros),
            (Some("369"), None, 12)
        );
    }

    #[test]
    fn an_idle_transaction_has_a_session_and_no_id() {
        let lsid = bson::Binary { subtype: bson::spec::BinarySubtype::Uuid, bytes: vec![0x45; 16] };
        let entry = doc! {
            "type": "idleSession", "active": false, "client": "127.0.0.1:1", "desc": "inactive transaction", "lsid": { "id": lsid },
            "transaction": { "timeOpenMicros": 1_006_976_i64, "timeInactiveMicros": 1_006_845_i64 },
        };
        let operation = operation(&entry);
        assert_eq!((operation.id, operation.micros), (None, 1_006_976));
        assert_eq!(operation.session.as_deref(), Some("45".repeat(16).as_str()));
    }
}
