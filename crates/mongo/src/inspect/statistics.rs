//! How many documents, and what they take.

use std::time::Duration;

use bson::{Bson, Document, RawDocumentBuf, rawdoc};
use mainstay_engine::{
    CollectionKind, CollectionStatistics, CountRequest, IndexStatistics, Namespace, data_namespace,
};
use mainstay_model::{Error, ErrorKind, ErrorStatus, Result};

use super::{Right, ask, lacking, list, section};
use crate::error::{code, driver_code};
use crate::extjson;
use crate::metadata::array;
use crate::reply::{self, number};
use crate::server::MongoServer;

const READ: Right = Right { action: "find", role: "read", on: "DATABASE" };
const STATISTICS: Right =
    Right { action: "collStats on every database", role: "clusterMonitor", on: "\"admin\"" };

/// Counts by aggregation, which counts right also while a sharded cluster moves chunks (MongoDB manual, "count", "Behavior").
pub(super) async fn count(
    server: &MongoServer,
    namespace: &Namespace,
    request: &CountRequest,
) -> Result<u64> {
    let query = match &request.query {
        Some(text) => parse_query(text)?,
        None => RawDocumentBuf::new(),
    };
    let stages = [rawdoc! { "$match": query }, rawdoc! { "$count": "n" }];
    let millis = i64::try_from(request.time_max.as_millis()).unwrap_or(i64::MAX).max(1);
    let command = rawdoc! {
        "aggregate": namespace.collection.as_str(), "pipeline": array(&stages), "cursor": {}, "maxTimeMS": millis,
        "comment": "mainstay mongo count",
    };
    // Told once: a count that took too long takes as long the next time.
    let reply = match server.driver_tell(&namespace.database, command).await {
        Ok(reply) => reply,
        Err(error) if driver_code(&error) == Some(code::TIME_OVER) => return Err(too_long(request.time_max)),
        Err(error) => return Err(lacking(server.explain(error).await, &READ)),
    };
    let batch = section(&reply, "cursor").get_array("firstBatch").cloned().unwrap_or_default();
    Ok(batch.first().and_then(Bson::as_document).and_then(|counted| number(counted, "n")).unwrap_or(0))
}

fn parse_query(text: &str) -> Result<RawDocumentBuf> {
    let refuse = |why: String| {
        Error::new(ErrorKind::Usage, format!("the query is no Extended JSON document: {why}"))
            .with_state("nothing was asked")
            .with_hint(r#"write it in quotes, such as '{"role": "buyer", "createdAt": {"$gte": {"$date": "2026-01-01T00:00:00Z"}}}'"#)
    };
    let bytes = extjson::parse_document(text).map_err(|error| refuse(error.to_string()))?;
    RawDocumentBuf::from_bytes(bytes).map_err(|error| refuse(error.to_string()))
}

fn too_long(bound: Duration) -> Error {
    // Temporary by the server's meaning, but asking again at once would only load it again.
    Error::new(ErrorKind::Server, format!("it was not counted within {bound:?}"))
        .with_status(ErrorStatus::Permanent)
        .with_hint("give it longer with `--max-time 5m`, or make the query use an index")
}

/// The engine's numbers, summed over shards.
pub(super) async fn statistics(
    server: &MongoServer,
    namespace: &Namespace,
    kind: CollectionKind,
) -> Result<CollectionStatistics> {
    if kind == CollectionKind::View {
        return Ok(CollectionStatistics::default());
    }
    let data = data_namespace(namespace, kind);
    let mut sum = CollectionStatistics::default();
    let stages = [rawdoc! { "$collStats": { "storageStats": {} } }];
    let command = rawdoc! { "aggregate": data.collection.as_str(), "pipeline": array(&stages), "cursor": {} };
    let found = match list(server, &data.database, command, &STATISTICS).await {
        // Buckets are hidden from whoever may see the series alone, of which another command tells the same numbers.
        Err(error) if error.kind() == ErrorKind::Auth && kind == CollectionKind::TimeSeries => {
            let command = rawdoc! { "collStats": namespace.collection.as_str() };
            add(&mut sum, &ask(server, &namespace.database, command, &STATISTICS).await?);
            return Ok(sum);
        }
        found => found?,
    };
    for shard in found {
        let shard = Document::try_from(shard).unwrap_or_default();
        add(&mut sum, &section(&shard, "storageStats"));
    }
    Ok(sum)
}

pub(super) fn add(sum: &mut CollectionStatistics, stats: &Document) {
    let of = |document: &Document, key: &str| number(document, key).unwrap_or(0);
    let engine = section(stats, "wiredTiger");
    let buckets = || number(&section(stats, "timeseries"), "bucketCount");
    sum.documents += number(stats, "count").or_else(buckets).unwrap_or(0);
    sum.data_bytes += of(stats, "size");
    sum.storage_bytes += of(stats, "storageSize");
    sum.reusable_bytes += of(&section(&engine, "block-manager"), "file bytes available for reuse");
    sum.cache_bytes += of(&section(&engine, "cache"), "bytes currently in the cache");
    let details = section(stats, "indexDetails");
    for (name, bytes) in &section(stats, "indexSizes") {
        let detail = details.get_document(name).ok();
        let told =
            |part: &str, key: &str| detail.and_then(|detail| number(detail.get_document(part).ok()?, key));
        let index = IndexStatistics {
            name: name.clone(),
            bytes: reply::count(bytes).unwrap_or(0),
            reusable_bytes: told("block-manager", "file bytes available for reuse"),
            cache_bytes: told("cache", "bytes currently in the cache"),
        };
        match sum.indexes.iter_mut().find(|known| known.name == *name) {
            Some(known) => {
                known.bytes += index.bytes;
                known.reusable_bytes = both(known.reusable_bytes, index.reusable_bytes);
                known.cache_bytes = both(known.cache_bytes, index.cache_bytes);
            }
            None => sum.indexes.push(index),
        }
    }
}

fn both(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.zip(other).map(|(one, other)| one + other)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn shards_are_added_up() {
        let shard = |bytes: i32| {
            doc! {
                "count": 2, "size": i64::from(bytes), "storageSize": 4096.0, "indexSizes": { "_id_": bytes, "n_1": 8 },
                "wiredTiger": { "block-manager": { "file bytes available for reuse": 5 }, "cache": { "bytes currently in the cache": 7 } },
                "indexDetails": { "_id_": { "block-manager": { "file bytes available for reuse": 3 } } },
            }
        };
        let mut sum = CollectionStatistics::default();
        add(&mut sum, &shard(10));
        add(&mut sum, &shard(20));
        assert_eq!((sum.documents, sum.data_bytes, sum.storage_bytes, sum.reusable_bytes), (4, 30, 8192, 10));
        let indexes: Vec<_> = sum
            .indexes
            .iter()
            .map(|index| (index.name.as_str(), index.bytes, index.reusable_bytes))
            .collect();
        assert_eq!(indexes, [("_id_", 30, Some(6)), ("n_1", 16, None)]);
    }

    #[test]
    fn a_query_that_is_none_is_refused() {
        for bad in ["", "{", "[1]", "{a: 1}", r#"{"a": {"$oid": "x"}}"#, "{'a': 1}"] {
            assert_eq!(parse_query(bad).unwrap_err().kind(), ErrorKind::Usage, "{bad}");
        }
        assert!(parse_query(r#"{"a": {"$gt": 5}}"#).is_ok());
    }
}
