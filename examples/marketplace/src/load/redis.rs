//! The Redis half of a load: keys in pipelines over one connection.

use super::{LoadError, LoadOptions, LoadReport, Meter, Phase, Progress};
use crate::keys::{KeyEntry, KeyFamily, KeyValue, bulk_entries, key_count};
use crate::url::without_secrets;
use redis::aio::MultiplexedConnection;
use redis::{Client, Pipeline, RedisError};

/// Keys of one pipeline; bounds what waits on either side.
const PIPELINE_KEYS: usize = 500;
/// How many keys one step of a scan looks at, roughly.
const SCAN_COUNT: usize = 1000;

pub(super) async fn load(
    url: &str,
    options: &LoadOptions,
    progress: &dyn Progress,
    report: &mut LoadReport,
) -> Result<(), LoadError> {
    let failed = |action, error: RedisError| LoadError::Redis {
        action,
        message: without_secrets(&error.to_string(), url),
    };
    let client = Client::open(url).map_err(|error| failed("read the Redis URL", error))?;
    let connected = Box::pin(client.get_multiplexed_async_connection()).await;
    let mut connection = connected.map_err(|error| failed("connect to Redis", error))?;
    if options.drop && (options.bulk_keys > 0 || !options.sample.scale().is_zero()) {
        remove(&mut connection).await.map_err(|error| failed("remove the sample's keys", error))?;
    }
    report.key_count = key_count(&options.sample) + options.bulk_keys;
    let meter = Meter::begin(progress, Phase::Keys, report.key_count, 0);
    let sample = KeyFamily::ALL.iter().flat_map(|family| family.entries(&options.sample));
    let mut pipeline = redis::pipe();
    let mut pending = 0;
    for entry in sample.chain(bulk_entries(&options.sample, options.bulk_keys)) {
        write(&mut pipeline, entry);
        pending += 1;
        if pending == PIPELINE_KEYS {
            send(&mut connection, &mut pipeline).await.map_err(|error| failed("write keys", error))?;
            meter.add(std::mem::take(&mut pending) as u64, 0);
        }
    }
    if pending > 0 {
        send(&mut connection, &mut pipeline).await.map_err(|error| failed("write keys", error))?;
        meter.add(pending as u64, 0);
    }
    report.keys_took = meter.elapsed();
    Ok(())
}

async fn send(connection: &mut MultiplexedConnection, pipeline: &mut Pipeline) -> Result<(), RedisError> {
    pipeline.exec_async(connection).await?;
    pipeline.clear();
    Ok(())
}

/// Removes every key under the sample's prefixes, by a bounded scan.
async fn remove(connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
    for family in KeyFamily::ALL {
        let mut cursor = 0u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(format!("{}*", family.prefix())).arg("COUNT").arg(SCAN_COUNT);
            let (next, names): (u64, Vec<Vec<u8>>) = scan.query_async(connection).await?;
            if !names.is_empty() {
                redis::cmd("UNLINK").arg(names).exec_async(connection).await?;
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
    }
    Ok(())
}

/// Adds the commands that make a key what it is, whatever it was before.
fn write(pipeline: &mut Pipeline, entry: KeyEntry) {
    let KeyEntry { name, value, expires_ms } = entry;
    if !matches!(value, KeyValue::String(_)) {
        pipeline.cmd("UNLINK").arg(&name);
    }
    match value {
        KeyValue::String(bytes) => {
            pipeline.cmd("SET").arg(&name).arg(bytes);
        }
        KeyValue::Hash(fields) => {
            pipeline.cmd("HSET").arg(&name).arg(fields);
        }
        KeyValue::Set(members) => {
            pipeline.cmd("SADD").arg(&name).arg(members);
        }
        KeyValue::SortedSet(members) => {
            pipeline.cmd("ZADD").arg(&name).arg(members);
        }
        KeyValue::List(items) => {
            pipeline.cmd("RPUSH").arg(&name).arg(items);
        }
        KeyValue::Stream(entries) => {
            for (id, field, value) in entries {
                pipeline.cmd("XADD").arg(&name).arg(id).arg(field).arg(value);
            }
        }
        KeyValue::HyperLogLog(members) => {
            pipeline.cmd("PFADD").arg(&name).arg(members);
        }
    }
    if let Some(at) = expires_ms {
        pipeline.cmd("PEXPIREAT").arg(&name).arg(at);
    }
}
