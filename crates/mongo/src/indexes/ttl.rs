//! The monitor that deletes what has expired: it works on the primary, once a minute by default.

use bson::{Bson, Document, rawdoc};
use mainstay_engine::TtlMonitor;
use mainstay_model::{Error, ErrorKind, Result, Timestamp};

use crate::error::code;
use crate::inspect::{Right, ask, section, single_server, text};
use crate::reply::{number, number_at};
use crate::server::MongoServer;

const STATUS: Right = Right { action: "serverStatus", role: "clusterMonitor", on: "\"admin\"" };

pub(super) async fn monitor(server: &MongoServer) -> Result<TtlMonitor> {
    let hello = single_server(server, "monitor of expiries").await?;
    let command = rawdoc! { "serverStatus": 1, "repl": 0, "locks": 0, "wiredTiger": 0, "tcmalloc": 0, "transactions": 0 };
    let status = ask(server, "admin", command, &STATUS).await?;
    let metrics = section(&section(&status, "metrics"), "ttl");
    let parameter = rawdoc! { "getParameter": 1, "ttlMonitorEnabled": 1, "ttlMonitorSleepSecs": 1 };
    let parameters = server.ask_unless(code::UNAUTHORIZED, "admin", parameter).await?.unwrap_or_default();
    Ok(TtlMonitor {
        member: hello.get_str("me").map_or_else(|_| text(&status, "host"), str::to_owned),
        enabled: parameters.get_bool("ttlMonitorEnabled").ok(),
        sleep_seconds: number(&parameters, "ttlMonitorSleepSecs"),
        passes: number(&metrics, "passes").unwrap_or(0),
        deleted: number(&metrics, "deletedDocuments").unwrap_or(0),
        uptime_seconds: number_at(&status, &["uptime"]).unwrap_or(0),
        now: local_time(&status)?,
    })
}

/// The server's clock, which `hello` and `serverStatus` tell.
pub(super) fn local_time(reply: &Document) -> Result<Timestamp> {
    let now = match reply.get("localTime") {
        Some(Bson::DateTime(at)) => Timestamp::from_millisecond(at.timestamp_millis()).ok(),
        _ => None,
    };
    now.ok_or_else(|| Error::new(ErrorKind::Corrupt, "the server does not tell its time"))
}
