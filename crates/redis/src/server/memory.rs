//! `MEMORY STATS` read into what memory is taken by. Pure. Names: Redis documentation, command MEMORY STATS.

use mainstay_engine::MemoryParts;
use redis::Value;

/// What the server says when it has nothing to say: an empty instance, or no issue.
const NOTHING_TO_SAY: [&str; 2] = ["Hi Sam, this instance is empty", "Hi Sam, I can't find any memory issue"];

/// The parts that `stats`, names and values in turn, speaks of.
pub(super) fn read(stats: &Value, doctor: Option<String>) -> MemoryParts {
    let pairs = pairs(stats);
    let find = |name: &str| pairs.iter().find(|(own, _)| own == name).and_then(|(_, value)| number(value));
    let sum = |names: &[&str]| {
        let found: Vec<u64> = names.iter().filter_map(|name| find(name)).collect();
        (!found.is_empty()).then(|| found.iter().sum())
    };
    let tables = pairs.iter().filter(|(name, _)| name.starts_with("db.")).flat_map(|(_, value)| {
        self::pairs(value).into_iter().filter_map(|(_, value)| number(&value)).collect::<Vec<_>>()
    });
    let quiet = |text: &String| NOTHING_TO_SAY.iter().any(|quiet| text.starts_with(quiet));
    MemoryParts {
        dataset: find("dataset.bytes"),
        startup: find("startup.allocated"),
        replicas: find("clients.slaves"),
        backlog: find("replication.backlog"),
        clients: find("clients.normal"),
        log: find("aof.buffer"),
        scripts: sum(&["lua.caches", "functions.caches", "script.VMs"]),
        tables: Some(tables.sum()),
        keys: find("keys.count"),
        bytes_per_key: find("keys.bytes-per-key"),
        allocator_waste: sum(&["allocator-fragmentation.bytes", "allocator-rss.bytes"]),
        doctor: doctor.filter(|text| !quiet(text)).map(|text| text.trim().to_owned()),
    }
}

/// Names and values of a reply, which is a map or, from older protocols, a list of both in turn.
fn pairs(value: &Value) -> Vec<(String, Value)> {
    let name = |value: &Value| redis::from_redis_value_ref::<String>(value).ok();
    match value {
        Value::Map(pairs) => {
            pairs.iter().filter_map(|(key, value)| Some((name(key)?, value.clone()))).collect()
        }
        Value::Array(items) => {
            items.chunks_exact(2).filter_map(|pair| Some((name(&pair[0])?, pair[1].clone()))).collect()
        }
        _ => Vec::new(),
    }
}

/// A number of bytes. What the allocator gave back may make one negative; then there is nothing.
fn number(value: &Value) -> Option<u64> {
    let number = redis::from_redis_value_ref::<i64>(value).ok()?;
    Some(u64::try_from(number).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_from_names_and_values_in_turn() {
        let name = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let stats = Value::Array(vec![
            name("dataset.bytes"),
            Value::Int(70),
            name("allocator-fragmentation.bytes"),
            Value::Int(-5),
            name("allocator-rss.bytes"),
            Value::Int(9),
            name("db.0"),
            Value::Array(vec![
                name("overhead.hashtable.main"),
                Value::Int(3),
                name("overhead.hashtable.expires"),
                Value::Int(4),
            ]),
        ]);
        let parts =
            read(&stats, Some("Hi Sam, this instance is empty or is using very little memory".to_owned()));
        assert_eq!((parts.dataset, parts.tables, parts.allocator_waste), (Some(70), Some(7), Some(9)));
        assert_eq!((parts.scripts, parts.doctor), (None, None));
        assert!(read(&Value::Nil, Some("Sam, I detected a few issues".to_owned())).doctor.is_some());
    }
}
