//! The profiler's settings, read and written (MongoDB manual, "profile").
//!
//! Level and filter are the database's, `slowms` and `sampleRate` the whole server's; all of them live in its memory and go with it.

use bson::{Document, RawDocumentBuf, rawdoc};
use mainstay_engine::{Namespace, Profiler, ProfilerSettings, Recorded, SampleRate, ServerProcess};
use mainstay_model::{Error, ErrorKind, Result};

use super::{Right, ask, list, section, single_server};
use crate::extjson;
use crate::metadata::array;
use crate::reply::number;
use crate::server::MongoServer;

const PROFILER: Right = Right { action: "enableProfiler", role: "dbAdmin", on: "DATABASE" };

/// Where the profiler writes.
pub(super) const COLLECTION: &str = "system.profile";

pub(super) async fn read(server: &MongoServer, database: &str) -> Result<Profiler> {
    let hello = single_server(server, "profiler").await?;
    let reply = ask(server, database, rawdoc! { "profile": -1 }, &PROFILER).await?;
    Ok(Profiler {
        server: process(server, &hello),
        settings: settings(&reply)?,
        recorded: recorded(server, database).await?,
    })
}

fn process(server: &MongoServer, hello: &Document) -> ServerProcess {
    let process = section(hello, "topologyVersion").get_object_id("processId").map(|id| id.to_hex());
    ServerProcess {
        address: hello.get_str("me").map_or_else(|_| server.seed_list(), str::to_owned),
        process: process.unwrap_or_default(),
    }
}

fn settings(reply: &Document) -> Result<ProfilerSettings> {
    let odd =
        |what: &str| Error::new(ErrorKind::Server, format!("the server tells no {what} of its profiler"));
    let rate =
        reply.get_f64("sampleRate").ok().or_else(|| number(reply, "sampleRate").map(|rate| rate as f64));
    let slow_ms = reply
        .get_i64("slowms")
        .or_else(|_| reply.get_i32("slowms").map(i64::from))
        .map_err(|_| odd("threshold"))?;
    let filter = match reply.get_document("filter") {
        Ok(filter) => Some(filter_text(filter)?),
        Err(_) => None,
    };
    Ok(ProfilerSettings {
        level: number(reply, "was").and_then(|level| u8::try_from(level).ok()).ok_or_else(|| odd("level"))?,
        slow_ms,
        sample_rate: rate.and_then(SampleRate::new).unwrap_or(SampleRate::ALL),
        filter,
    })
}

fn filter_text(filter: &Document) -> Result<String> {
    let unreadable = |source: String| {
        Error::new(ErrorKind::Server, format!("the profiler's filter cannot be read: {source}"))
    };
    let raw = RawDocumentBuf::try_from(filter.clone()).map_err(|error| unreadable(error.to_string()))?;
    extjson::document_text(&raw).map_err(|error| unreadable(error.to_string()))
}

/// What the profiler has recorded; also `None` for whoever may not see statistics, since settings are what was asked for.
async fn recorded(server: &MongoServer, database: &str) -> Result<Option<Recorded>> {
    if crate::catalog::find(server, &Namespace::new(database, COLLECTION)).await?.is_none() {
        return Ok(None);
    }
    let stages = [rawdoc! { "$collStats": { "storageStats": {} } }];
    let command = rawdoc! { "aggregate": COLLECTION, "pipeline": array(&stages), "cursor": {} };
    let stats = match list(server, database, command, &PROFILER).await {
        Err(error) if matches!(error.kind(), ErrorKind::Auth | ErrorKind::NotFound) => return Ok(None),
        stats => stats?,
    };
    let stats = stats.into_iter().next().and_then(|stats| Document::try_from(stats).ok()).unwrap_or_default();
    let stats = section(&stats, "storageStats");
    Ok(Some(Recorded {
        entries: number(&stats, "count").unwrap_or(0),
        bytes: number(&stats, "size").unwrap_or(0),
        bytes_max: number(&stats, "maxSize").filter(|max| *max > 0),
    }))
}

pub(super) async fn write(server: &MongoServer, database: &str, settings: &ProfilerSettings) -> Result<()> {
    single_server(server, "profiler").await?;
    let mut command = rawdoc! {
        "profile": i32::from(settings.level), "slowms": settings.slow_ms, "sampleRate": settings.sample_rate.get(),
    };
    match &settings.filter {
        None => command.append(bson::cstr!("filter"), "unset"),
        Some(text) => {
            let filter =
                extjson::parse_document(text).ok().and_then(|bytes| RawDocumentBuf::from_bytes(bytes).ok());
            command.append(
                bson::cstr!("filter"),
                filter.ok_or_else(|| {
                    Error::new(ErrorKind::Corrupt, "the profiler's filter that was kept is no document")
                        .with_state("nothing was changed")
                })?,
            );
        }
    }
    ask(server, database, command, &PROFILER).await?;
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn a_reply_is_read_whatever_its_numbers_are() {
        let read = settings(&doc! { "was": 1, "slowms": 200_i64, "sampleRate": 0.25 }).unwrap();
        assert_eq!((read.level, read.slow_ms, read.sample_rate.get()), (1, 200, 0.25));
        let read = settings(
            &doc! { "was": 2.0, "slowms": -1, "sampleRate": 1, "filter": { "millis": { "$gt": 5_i64 } } },
        )
        .unwrap();
        assert_eq!((read.level, read.slow_ms), (2, -1));
        assert_eq!(read.filter.as_deref(), Some(r#"{"millis":{"$gt":{"$numberLong":"5"}}}"#));
        assert!(settings(&doc! { "ok": 1 }).is_err());
    }
}
