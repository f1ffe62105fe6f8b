//! Locks, queues, tickets and cache (MongoDB manual, "serverStatus"), and who holds what (the command `lockInfo`).
//!
//! Tickets stand in `wiredTiger.concurrentTransactions` up to 7.0 and in `queues.execution` from 8.0 on. `lockInfo` is not documented; where
//! it is missing, refused or reads otherwise, nobody is named and the rest stands.

use bson::{Bson, Document, rawdoc};
use mainstay_engine::{
    CacheUse, Contention, FlowControl, LockMode, LockQueue, LockRequest, LockWaits, Tickets,
};
use mainstay_model::{ErrorKind, Result};

use super::{Right, ask, running, section, single_server, text};
use crate::reply::number;
use crate::server::MongoServer;

const STATUS: Right = Right { action: "serverStatus", role: "clusterMonitor", on: "\"admin\"" };

pub(super) async fn read(server: &MongoServer) -> Result<Contention> {
    single_server(server, "locks and no tickets").await?;
    let command = rawdoc! { "serverStatus": 1, "repl": 0, "metrics": 0, "tcmalloc": 0, "transactions": 0, "opLatencies": 0 };
    let status = ask(server, "admin", command, &STATUS).await?;
    let queues = match server.ask("admin", rawdoc! { "lockInfo": 1 }).await {
        Ok(reply) => Some(queues(&reply)),
        Err(error) if matches!(error.kind(), ErrorKind::Auth | ErrorKind::Unsupported) => None,
        Err(error) => return Err(error),
    };
    Ok(Contention { queues, ..of_status(&status) })
}

pub(super) fn of_status(status: &Document) -> Contention {
    let queue = section(&section(status, "globalLock"), "currentQueue");
    let engine = section(status, "wiredTiger");
    Contention {
        uptime_millis: number(status, "uptimeMillis").unwrap_or(0),
        waits: waits(&section(status, "locks")),
        queued_readers: number(&queue, "readers").unwrap_or(0),
        queued_writers: number(&queue, "writers").unwrap_or(0),
        tickets: tickets(status, &engine),
        cache: cache(&section(&engine, "cache")),
        flow_control: flow_control(&section(status, "flowControl")),
        queues: None,
    }
}

fn waits(locks: &Document) -> Vec<LockWaits> {
    let mut waits = Vec::new();
    for (resource, stats) in locks {
        let Some(stats) = stats.as_document() else { continue };
        let (acquired, waited, micros) = (
            section(stats, "acquireCount"),
            section(stats, "acquireWaitCount"),
            section(stats, "timeAcquiringMicros"),
        );
        for (short, mode) in [
            ("r", LockMode::IntentShared),
            ("w", LockMode::IntentExclusive),
            ("R", LockMode::Shared),
            ("W", LockMode::Exclusive),
        ] {
            let count = |of: &Document| number(of, short).unwrap_or(0);
            if count(&waited) > 0 || count(&micros) > 0 {
                waits.push(LockWaits {
                    resource: resource.clone(),
                    mode,
                    acquired: count(&acquired),
                    waited: count(&waited),
                    wait_micros: count(&micros),
                });
            }
        }
    }
    waits
}

fn tickets(status: &Document, engine: &Document) -> Vec<Tickets> {
    let execution = section(&section(status, "queues"), "execution");
    let found = if execution.is_empty() { section(engine, "concurrentTransactions") } else { execution };
    let of = |kind: &'static str| {
        let side = found.get_document(kind).ok()?;
        let lengths =
            [Some(side), side.get_document("normalPriority").ok(), side.get_document("lowPriority").ok()];
        let lengths: Vec<u64> =
            lengths.into_iter().flatten().filter_map(|queue| number(queue, "queueLength")).collect();
        Some(Tickets {
            kind,
            used: number(side, "out")?,
            total: number(side, "totalTickets")
                .or_else(|| Some(number(side, "out")? + number(side, "available")?))?,
            queued: (!lengths.is_empty()).then(|| lengths.iter().sum()),
        })
    };
    ["read", "write"].into_iter().filter_map(of).collect()
}

fn cache(cache: &Document) -> Option<CacheUse> {
    Some(CacheUse {
        bytes: number(cache, "bytes currently in the cache")?,
        bytes_max: number(cache, "maximum bytes configured")?,
        dirty_bytes: number(cache, "tracked dirty bytes in the cache")?,
    })
}

fn flow_control(status: &Document) -> Option<FlowControl> {
    Some(FlowControl {
        lagged: status.get_bool("isLagged").ok()?,
        lagged_micros: number(status, "isLaggedTimeMicros").unwrap_or(0),
    })
}

pub(super) fn queues(reply: &Document) -> Vec<LockQueue> {
    let locks = reply.get_array("lockInfo").map(Vec::as_slice).unwrap_or_default();
    let requests = |lock: &Document, key: &str| -> Vec<LockRequest> {
        let list = lock.get_array(key).map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(Bson::as_document).filter_map(request).collect()
    };
    locks
        .iter()
        .filter_map(Bson::as_document)
        .map(|lock| LockQueue {
            resource: resource(&text(lock, "resourceId")),
            granted: requests(lock, "granted"),
            pending: requests(lock, "pending"),
        })
        .filter(|queue| !queue.pending.is_empty())
        .collect()
}

/// `{85610: Collection, 16434, shop.users}` as `Collection shop.users`, `{23058: Global, 3}` as `Global`.
fn resource(id: &str) -> String {
    let inner = id.trim_matches(['{', '}']);
    let inner = inner.split_once(": ").map_or(inner, |(_, rest)| rest);
    match inner.splitn(3, ", ").collect::<Vec<_>>().as_slice() {
        [kind, _, name] => format!("{kind} {name}"),
        [kind, ..] => (*kind).to_owned(),
        [] => String::new(),
    }
}

fn request(entry: &Document) -> Option<LockRequest> {
    let mode = match entry.get_str("mode").ok()? {
        "IS" => LockMode::IntentShared,
        "IX" => LockMode::IntentExclusive,
        "S" => LockMode::Shared,
        "X" => LockMode::Exclusive,
        _ => return None,
    };
    let client = section(entry, "clientInfo");
    Some(LockRequest {
        mode,
        operation: client.get("opid").and_then(running::id),
        session: session(&text(entry, "debugInfo")),
        description: text(&client, "desc"),
    })
}

/// `lsid: { id: UUID("451f3c8f-…"), uid: … }` as 32 digits.
fn session(info: &str) -> Option<String> {
    let (_, rest) = info.split_once("UUID(\"")?;
    let (uuid, _) = rest.split_once('"')?;
    let digits: String = uuid.chars().filter(char::is_ascii_hexdigit).collect();
    (digits.len() == 32).then_some(digits)
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn tickets_are_found_where_each_version_keeps_them() {
        let side = |out: i32| doc! { "out": out, "available": 128 - out, "totalTickets": 128 };
        let six = doc! { "wiredTiger": { "concurrentTransactions": { "read": side(1), "write": side(2) } } };
        let found = of_status(&six).tickets;
        assert_eq!(
            found.iter().map(|side| (side.kind, side.used, side.queued)).collect::<Vec<_>>(),
            [("read", 1, None), ("write", 2, None)]
        );
        let mut eight = side(3);
        eight.insert("normalPriority", doc! { "queueLength": 4_i64 });
        eight.insert("lowPriority", doc! { "queueLength": 1 });
        let eight = doc! { "queues": { "execution": { "read": eight } }, "wiredTiger": { "cache": {} } };
        let found = of_status(&eight).tickets;
        assert_eq!((found.len(), found[0].used, found[0].queued), (1, 3, Some(5)));
        assert_eq!(of_status(&doc! {}).tickets, []);
    }

    #[test]
    fn lock_info_names_who_waits_for_whom() {
        let reply = doc! { "lockInfo": [
            { "resourceId": "{8561: Collection, 1643, shop.a, b}",
              "granted": [{ "mode": "IX", "debugInfo": "lsid: { id: UUID(\"451f3c8f-3580-4f0e-8531-365a385273d0\"), uid: BinData(0, E3) }" }],
              "pending": [{ "mode": "X", "debugInfo": "", "clientInfo": { "desc": "conn11", "opid": 1987 } }] },
            { "resourceId": "{2305: Global, 3}", "granted": [], "pending": [] },
        ] };
        let found = queues(&reply);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].resource, "Collection shop.a, b");
        assert_eq!(found[0].granted[0].session.as_deref(), Some("451f3c8f35804f0e8531365a385273d0"));
        assert_eq!(found[0].pending[0].operation.as_deref(), Some("1987"));
        assert_eq!(resource("{2305: Global, 3}"), "Global");
        assert_eq!(queues(&doc! { "lockInfo": "changed" }), []);
    }

    #[test]
    fn waits_are_those_that_happened() {
        let status = doc! { "uptimeMillis": 5_i64, "locks": {
            "Global": { "acquireCount": { "r": 7_i64, "W": 1_i64 } },
            "Collection": { "acquireCount": { "W": 11_i64 }, "acquireWaitCount": { "W": 1_i64 }, "timeAcquiringMicros": { "W": 1_000_498_i64 } },
        } };
        let found = of_status(&status).waits;
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].mode, found[0].acquired, found[0].wait_micros),
            (LockMode::Exclusive, 11, 1_000_498)
        );
    }
}
