//! Daily questions to a server of keys: how it is doing, what its memory is taken by, which commands were slow.
//!
//! Each module looks once (or twice, where a rate is asked for) through [`KeyServerInspection`](mainstay_engine::KeyServerInspection) and
//! judges what it saw; judging is pure. Arguments of commands stay hidden unless they are asked for. Reads only.

pub mod memory;
pub mod overview;
pub mod slow;

use mainstay_engine::KeyServerLook;
use mainstay_model::{Finding, Severity, StoreKind};

fn finding(
    id: &str,
    severity: Severity,
    subject: &str,
    message: String,
    remedy: impl Into<String>,
) -> Finding {
    Finding {
        id: format!("redis.{id}"),
        severity,
        store: Some(StoreKind::Redis),
        subject: subject.to_owned(),
        message,
        remedy: remedy.into(),
    }
}

/// Seconds between two looks; never nothing, for rates.
fn seconds_between(before: &KeyServerLook, now: &KeyServerLook) -> f64 {
    (now.seen_micros - before.seen_micros).max(1) as f64 / 1_000_000.0
}

/// How much a counter grew between two looks; a server that began anew counts from nothing on.
fn grown(before: &KeyServerLook, now: &KeyServerLook, counter: impl Fn(&KeyServerLook) -> u64) -> u64 {
    let from = if before.run == now.run { counter(before) } else { 0 };
    counter(now).saturating_sub(from)
}

#[cfg(test)]
pub(crate) mod tests {
    use mainstay_engine::{
        ClientsLook, KeyServerLook, MemoryLook, PersistenceLook, ReplicationLook, TrafficLook,
    };

    use super::*;

    /// A server about which there is nothing to say.
    pub(crate) fn healthy() -> KeyServerLook {
        KeyServerLook {
            seen_micros: 1_800_000_000_000_000,
            version: "8.0.2".to_owned(),
            mode: "standalone".to_owned(),
            run: "run".to_owned(),
            uptime_seconds: 90_000,
            config_file: Some("/etc/redis.conf".to_owned()),
            clients: ClientsLook { connected: 3, connected_max: Some(100), ..ClientsLook::default() },
            memory: MemoryLook {
                used: 1_000_000,
                used_peak: 1_000_000,
                resident: 1_200_000,
                used_max: 2_000_000,
                eviction: "noeviction".to_owned(),
                fragmentation: Some(1.2),
                machine: Some(100_000_000),
                ..MemoryLook::default()
            },
            traffic: TrafficLook::default(),
            persistence: PersistenceLook {
                saved_at: 1_800_000_000,
                save_ok: true,
                log_on: true,
                log_rewrite_ok: true,
                log_write_ok: true,
                save_after: Some(vec![(3600, 1)]),
                ..PersistenceLook::default()
            },
            replication: ReplicationLook::default(),
            databases: Vec::new(),
        }
    }

    #[test]
    fn counters_grow_within_one_run_alone() {
        let (mut before, mut now) = (healthy(), healthy());
        before.memory.evicted = 10;
        now.memory.evicted = 12;
        let evicted = |look: &KeyServerLook| look.memory.evicted;
        assert_eq!(grown(&before, &now, evicted), 2);
        now.run = "another".to_owned();
        now.memory.evicted = 3;
        assert_eq!(grown(&before, &now, evicted), 3);
        assert!(seconds_between(&now, &before) > 0.0);
    }
}
