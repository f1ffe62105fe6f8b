//! `INFO` read into what matters. Pure. Field names: Redis documentation, command INFO.

use std::collections::BTreeMap;

use mainstay_engine::{
    ClientsLook, KeyServerLook, MemoryLook, PersistenceLook, ReplicationLook, TrafficLook,
};
use mainstay_model::Result;

use crate::info::Info;
use crate::keyspace::databases;

/// The server that sent `info`, and whose setting `save` this is, where it may be known.
pub(super) fn read(info: &Info, save: Option<&str>) -> Result<KeyServerLook> {
    let uptime_seconds = info.number("uptime_in_seconds").unwrap_or_default();
    Ok(KeyServerLook {
        seen_micros: info.get("server_time_usec").and_then(|text| text.parse().ok()).unwrap_or_default(),
        version: info.required("redis_version")?.to_owned(),
        mode: info.get("redis_mode").unwrap_or("standalone").to_owned(),
        run: info.required("run_id")?.to_owned(),
        uptime_seconds,
        config_file: info.get("config_file").filter(|path| !path.is_empty()).map(str::to_owned),
        clients: ClientsLook {
            connected: count(info, "connected_clients"),
            connected_max: info.number("maxclients"),
            blocked: count(info, "blocked_clients"),
            rejected: count(info, "rejected_connections"),
            cut_off: count(info, "client_output_buffer_limit_disconnections"),
        },
        memory: memory(info),
        traffic: traffic(info),
        persistence: persistence(info, save),
        replication: replication(info),
        databases: databases(info),
    })
}

fn count(info: &Info, name: &str) -> u64 {
    info.number(name).unwrap_or_default()
}

pub(crate) fn memory(info: &Info) -> MemoryLook {
    MemoryLook {
        used: count(info, "used_memory"),
        used_peak: count(info, "used_memory_peak"),
        resident: count(info, "used_memory_rss"),
        used_max: count(info, "maxmemory"),
        eviction: info.get("maxmemory_policy").unwrap_or("noeviction").to_owned(),
        fragmentation: info.get("mem_fragmentation_ratio").and_then(|text| text.parse().ok()),
        dataset: info.number("used_memory_dataset"),
        machine: info.number("total_system_memory"),
        evicted: count(info, "evicted_keys"),
        refused: errors(info).get("OOM").copied().unwrap_or_default(),
    }
}

fn traffic(info: &Info) -> TrafficLook {
    TrafficLook {
        commands: count(info, "total_commands_processed"),
        hits: count(info, "keyspace_hits"),
        misses: count(info, "keyspace_misses"),
        expired: count(info, "expired_keys"),
        expired_stale_percent: info.get("expired_stale_perc").and_then(|text| text.parse().ok()),
        bytes_in: count(info, "total_net_input_bytes"),
        bytes_out: count(info, "total_net_output_bytes"),
        errors: errors(info),
    }
}

/// `errorstat_OOM:count=3`.
fn errors(info: &Info) -> BTreeMap<String, u64> {
    let one = |(name, value): (&str, &str)| {
        let name = name.strip_prefix("errorstat_")?;
        Some((name.to_owned(), value.strip_prefix("count=")?.parse().ok()?))
    };
    info.fields().filter_map(one).collect()
}

pub(crate) fn persistence(info: &Info, save: Option<&str>) -> PersistenceLook {
    let is_on = |name: &str| info.get(name) == Some("1");
    let is_ok = |name: &str| info.get(name).is_none_or(|status| status == "ok");
    PersistenceLook {
        loading: is_on("loading"),
        unsaved_changes: count(info, "rdb_changes_since_last_save"),
        saved_at: count(info, "rdb_last_save_time"),
        save_ok: is_ok("rdb_last_bgsave_status"),
        saving: is_on("rdb_bgsave_in_progress"),
        saves: count(info, "rdb_saves"),
        log_on: is_on("aof_enabled"),
        log_rewriting: is_on("aof_rewrite_in_progress") || is_on("aof_rewrite_scheduled"),
        log_rewrite_ok: is_ok("aof_last_bgrewrite_status"),
        log_rewrite_failures: count(info, "aof_rewrites_consecutive_failures"),
        log_write_ok: is_ok("aof_last_write_status"),
        log_base_bytes: info.number("aof_base_size"),
        log_bytes: info.number("aof_current_size"),
        log_delayed: count(info, "aof_delayed_fsync"),
        fork_micros: count(info, "latest_fork_usec"),
        save_after: save.map(save_after),
    }
}

/// `3600 1 300 100`: pairs of seconds and changes.
fn save_after(save: &str) -> Vec<(u64, u64)> {
    let numbers: Vec<u64> = save.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
}

fn replication(info: &Info) -> ReplicationLook {
    let is_replica = info.get("role") == Some("slave");
    let offset = info.number("master_repl_offset");
    ReplicationLook {
        is_replica,
        link_up: info.get("master_link_status").filter(|_| is_replica).map(|status| status == "up"),
        replicas: count(info, "connected_slaves"),
        lag_bytes_max: offset
            .and_then(|offset| replica_offsets(info).map(|own| offset.saturating_sub(own)).max()),
        backlog_bytes: info.number("repl_backlog_size"),
        offset,
        sent_bytes_per_second: sent_bytes_per_second(info),
    }
}

/// The server tells KiB in a second to all of them, each the same bytes.
fn sent_bytes_per_second(info: &Info) -> Option<u64> {
    let kibibytes: f64 = info.get("instantaneous_output_repl_kbps")?.parse().ok()?;
    ((kibibytes * 1024.0) as u64).checked_div(count(info, "connected_slaves"))
}

/// `slave0:ip=…,port=…,state=online,offset=42,lag=0` of those that are connected.
fn replica_offsets(info: &Info) -> impl Iterator<Item = u64> {
    let is_replica = |name: &str| {
        name.strip_prefix("slave").is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let offset = |value: &str| {
        let field = |wanted: &str| value.split(',').find_map(|field| field.strip_prefix(wanted));
        (field("state=") == Some("online")).then(|| field("offset=")?.parse().ok()).flatten()
    };
    info.fields().filter(move |(name, _)| is_replica(name)).filter_map(move |(_, value)| offset(value))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn what_matters_is_read() {
        let info = Info::parse(
            "redis_version:8.0.2\r\nrun_id:abc\r\nserver_time_usec:5000000\r\nuptime_in_seconds:9\r\nconfig_file:\r\nused_memory:10\r\n\
             maxmemory:0\r\nmem_fragmentation_ratio:1.25\r\nerrorstat_OOM:count=3\r\nerrorstat_ERR:count=1\r\nrole:master\r\n\
             rdb_last_bgsave_status:err\r\naof_rewrite_scheduled:1\r\nmaster_repl_offset:100\r\nconnected_slaves:2\r\n\
             instantaneous_output_repl_kbps:3.00\r\n\
             slave0:ip=h,port=1,state=online,offset=60,lag=0\r\nslave1:ip=h,port=2,state=wait_bgsave,offset=0,lag=0\r\n\
             slave_read_repl_offset:7\r\n",
        );
        let look = read(&info, Some("3600 1 300 100")).unwrap();
        assert_eq!((look.seen_micros, look.config_file.as_deref()), (5_000_000, None));
        assert_eq!((look.memory.refused, look.memory.fragmentation), (3, Some(1.25)));
        assert_eq!(look.traffic.errors.len(), 2);
        let persistence = &look.persistence;
        assert_eq!(persistence.save_after, Some(vec![(3600, 1), (300, 100)]));
        assert!(!persistence.save_ok && persistence.log_rewriting && persistence.log_write_ok);
        assert_eq!((look.replication.lag_bytes_max, look.replication.replicas), (Some(40), 2));
        assert_eq!((look.replication.link_up, look.replication.sent_bytes_per_second), (None, Some(1536)));
        assert_eq!(read(&info, Some("")).unwrap().persistence.save_after, Some(vec![]));
        assert_eq!(read(&info, None).unwrap().persistence.save_after, None);
        assert!(read(&Info::parse(""), None).is_err());
    }
}
