//! How a server of keys is doing: clients, memory, traffic, persistence, replication, each with what to do where it is bad.
//!
//! Rates lie between two looks. What happened since the server began and does not happen now is a note. Judging is pure. Reads only.

use std::time::Duration;

use mainstay_engine::{Backlog, KeyServerInspection, KeyServerLook, PersistenceLook};
use mainstay_model::{ByteSize, Count, Finding, Result, Severity};
use serde::Serialize;

use super::{finding, grown, seconds_between};
use crate::bounds::Bounds;

/// Share of the allowed connections in use.
const CONNECTIONS: Bounds = Bounds { warning: 0.80, critical: 0.95 };
/// Share of its limit that a server which evicts nothing uses.
const MEMORY: Bounds = Bounds { warning: 0.80, critical: 0.95 };
/// Share of the machine's memory that a server without a limit has.
const MACHINE: Bounds = Bounds { warning: 0.75, critical: 0.90 };
/// Share of look-ups that find their key, from which downward it is said, and the fewest look-ups that say anything.
const HIT_RATIO: (f64, u64) = (0.80, 1_000);
/// Bytes given by the system for each byte asked for, and the fewest bytes of which that matters.
const FRAGMENTATION: (f64, u64) = (1.5, 100_000_000);
/// Share of expired keys that are still there, in percent.
const STALE_PERCENT: f64 = 10.0;
/// How long a fork may take for each gigabyte, and for less than one.
const FORK_MICROS_PER_GB: f64 = 20_000.0;
/// Looks that are closer together tell no rate.
const RATE_SECONDS_MIN: f64 = 0.5;

/// What was seen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Overview {
    /// The second look.
    #[serde(flatten)]
    pub look: KeyServerLook,
    /// Between the looks.
    pub seconds: f64,
    /// Commands in each second between the looks.
    pub commands_per_second: f64,
    /// Bytes of the replication stream written in each of them.
    pub stream_bytes_per_second: f64,
    /// How long a replica may be away at that rate and still go on; `None` where nothing is written or no replica was ever there.
    pub backlog_seconds: Option<f64>,
    /// Share of look-ups that found their key, since the server began; `None` before the first.
    pub hit_ratio: Option<f64>,
    /// What is bad about it, the worst first.
    pub findings: Vec<Finding>,
}

/// Looks twice, `over` apart, and judges.
///
/// # Errors
/// The server's.
pub async fn observe(inspection: &dyn KeyServerInspection, over: Duration) -> Result<Overview> {
    let before = inspection.look().await?;
    tokio::time::sleep(over).await;
    let now = inspection.look().await?;
    Ok(judge(&before, now, &inspection.address()))
}

/// Judges two looks.
pub fn judge(before: &KeyServerLook, now: KeyServerLook, address: &str) -> Overview {
    let seconds = seconds_between(before, &now);
    let written = grown(before, &now, |look| look.replication.offset.unwrap_or_default());
    // Two looks at once tell nothing; what the server itself reckons is of the present, too.
    let stream_bytes_per_second = match seconds >= RATE_SECONDS_MIN {
        true => written as f64 / seconds,
        false => now.replication.sent_bytes_per_second.unwrap_or_default() as f64,
    };
    let backlog_seconds = now
        .replication
        .backlog_bytes
        .filter(|_| stream_bytes_per_second > 0.0)
        .map(|bytes| bytes as f64 / stream_bytes_per_second);
    let lookups = now.traffic.hits + now.traffic.misses;
    let mut overview = Overview {
        seconds,
        commands_per_second: grown(before, &now, |look| look.traffic.commands) as f64 / seconds,
        stream_bytes_per_second,
        backlog_seconds,
        hit_ratio: (lookups > 0).then(|| now.traffic.hits as f64 / lookups as f64),
        findings: Vec::new(),
        look: now,
    };
    let mut found = Judge { address, findings: Vec::new() };
    found.clients(before, &overview.look);
    found.memory(before, &overview.look);
    found.persistence(before, &overview.look);
    found.replication(&overview);
    found.traffic(&overview);
    found.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    overview.findings = found.findings;
    overview
}

struct Judge<'a> {
    address: &'a str,
    findings: Vec<Finding>,
}

impl Judge<'_> {
    fn say(&mut self, id: &str, severity: Severity, message: String, remedy: &str) {
        self.findings.push(finding(id, severity, self.address, message, remedy));
    }

    /// Something that should never happen: as bad as `severity` when it happened between the looks, a note when it did before.
    fn happened(&mut self, id: &str, severity: Severity, counts: (u64, u64), what: &str, remedy: &str) {
        let (between, since_begun) = counts;
        match (between, since_begun) {
            (0, 0) => {}
            (0, since) => {
                self.say(
                    id,
                    Severity::Note,
                    format!("{} {what} since the server began", Count(since)),
                    remedy,
                );
            }
            (between, _) => self.say(id, severity, format!("{} {what} just now", Count(between)), remedy),
        }
    }

    fn clients(&mut self, before: &KeyServerLook, now: &KeyServerLook) {
        let clients = &now.clients;
        if let Some(max) = clients.connected_max.filter(|max| *max > 0)
            && let Some(severity) = CONNECTIONS.severity(clients.connected as f64 / max as f64)
        {
            self.say(
                "connections_high",
                severity,
                format!("{} of {} connections are in use", Count(clients.connected), Count(max)),
                "end idle clients (`CONFIG SET timeout 300`), or raise maxclients",
            );
        }
        self.happened(
            "connections_rejected",
            Severity::Critical,
            (grown(before, now, |look| look.clients.rejected), clients.rejected),
            "connections were turned away for want of room",
            "raise maxclients, or find out who opens so many: `CLIENT LIST`",
        );
        self.happened(
            "clients_cut_off",
            Severity::Warning,
            (grown(before, now, |look| look.clients.cut_off), clients.cut_off),
            "connections were cut because they did not read their answers",
            "see who is slow; replicas and captures need a larger `client-output-buffer-limit replica`",
        );
    }

    fn memory(&mut self, before: &KeyServerLook, now: &KeyServerLook) {
        let memory = &now.memory;
        let evicts = memory.eviction != "noeviction";
        if memory.used_max > 0
            && !evicts
            && let Some(severity) = MEMORY.severity(memory.used as f64 / memory.used_max as f64)
        {
            self.say(
                "memory_nearly_full",
                severity,
                format!(
                    "{} of {} are used, and nothing is evicted: at the limit writes are refused",
                    ByteSize(memory.used),
                    ByteSize(memory.used_max)
                ),
                "raise maxmemory, or remove what is not needed: `mainstay redis keys` shows what there is",
            );
        }
        if let Some(machine) = memory.machine.filter(|machine| *machine > 0 && memory.used_max == 0)
            && let Some(severity) = MACHINE.severity(memory.resident as f64 / machine as f64)
        {
            self.say(
                "machine_nearly_full",
                severity,
                format!(
                    "the server has no limit and {} of the machine's {}: the system will end it",
                    ByteSize(memory.resident),
                    ByteSize(machine)
                ),
                "set maxmemory below what the machine can spare, with room for the copy that a snapshot makes",
            );
        }
        self.happened(
            "writes_refused",
            Severity::Critical,
            (grown(before, now, |look| look.memory.refused), memory.refused),
            "writes were refused for want of memory",
            "raise maxmemory, or remove keys: `mainstay redis purge`",
        );
        self.happened(
            "keys_evicted",
            Severity::Warning,
            (grown(before, now, |look| look.memory.evicted), memory.evicted),
            "keys were removed to make room",
            "raise maxmemory; `mainstay redis policy drift` tells whether sessions or idempotency keys are among what may go",
        );
        let (ratio_max, bytes_min) = FRAGMENTATION;
        if let Some(ratio) =
            memory.fragmentation.filter(|ratio| *ratio > ratio_max && memory.used >= bytes_min)
        {
            self.say(
                "fragmented",
                Severity::Warning,
                format!("the system gave {ratio:.2} bytes for each that is used, {} in all", ByteSize(memory.resident)),
                "type `CONFIG SET activedefrag yes` where the server was built for it, or restart it in a quiet hour",
            );
        }
    }

    fn persistence(&mut self, before: &KeyServerLook, now: &KeyServerLook) {
        let disk = &now.persistence;
        if disk.loading {
            self.say(
                "loading",
                Severity::Warning,
                "the server is reading its data and answers hardly anything".to_owned(),
                "wait until it has loaded",
            );
        }
        if !disk.save_ok {
            self.say(
                "bgsave_failed",
                Severity::Critical,
                "the last snapshot could not be written: what changed since the one before is not in it"
                    .to_owned(),
                "look into the server's log, mend the disk or the folder's rights, then type `BGSAVE`",
            );
        }
        if !disk.log_write_ok {
            self.say(
                "aof_write_failed",
                Severity::Critical,
                "the last write to the append-only file failed".to_owned(),
                "look into the server's log, and mend the disk",
            );
        }
        if !disk.log_rewrite_ok {
            self.say(
                "aof_rewrite_failed",
                Severity::Warning,
                "the last rewrite of the append-only file failed: it grows without end".to_owned(),
                "look into the server's log, mend the disk, then type `BGREWRITEAOF`",
            );
        }
        if disk.save_after.as_ref().is_some_and(Vec::is_empty) && !disk.log_on {
            self.say(
                "nothing_persisted",
                Severity::Warning,
                "neither snapshots nor the append-only file are on: a restart loses every key".to_owned(),
                "declare `appendonly = true` in [redis.policy] and run `mainstay redis policy plan`",
            );
        }
        if let Some(late) = snapshot_late(disk, now.seen_micros) {
            self.say(
                "snapshot_late",
                Severity::Warning,
                format!(
                    "{} changes wait for a snapshot for {} s: twice as long as the server's own rules say",
                    Count(disk.unsaved_changes),
                    Count(late)
                ),
                "look into the server's log for what keeps it from saving, then type `BGSAVE`",
            );
        }
        self.happened(
            "aof_delayed",
            Severity::Warning,
            (grown(before, now, |look| look.persistence.log_delayed), disk.log_delayed),
            "writes had to wait for the disk of the append-only file",
            "give it a faster disk, or keep other writers off it",
        );
        let fork_max = FORK_MICROS_PER_GB * (now.memory.used as f64 / 1e9).max(1.0);
        if disk.fork_micros as f64 > fork_max {
            self.say(
                "fork_slow",
                Severity::Warning,
                format!("the last fork took {:.1} ms, in which nobody got an answer", disk.fork_micros as f64 / 1_000.0),
                "turn transparent huge pages off on the host; make fewer snapshots, from a replica where there is one",
            );
        }
    }

    fn replication(&mut self, overview: &Overview) {
        let replication = &overview.look.replication;
        if replication.link_up == Some(false) {
            self.say(
                "replication_broken",
                Severity::Warning,
                "the replica has lost its master: it serves old data".to_owned(),
                "check that the master runs, and `masterauth` on the replica",
            );
        }
        let Some(bytes) = replication.backlog_bytes.filter(|_| replication.replicas > 0) else { return };
        if replication.lag_bytes_max.is_some_and(|lag| lag > bytes) {
            self.say(
                "replica_behind",
                Severity::Warning,
                format!("a replica is further behind than the {} that are kept for it", ByteSize(bytes)),
                "see why it is slow; raise repl-backlog-size, or it begins anew when its connection breaks",
            );
        }
        let is_short = |seconds: &f64| *seconds < Backlog::SLACK_SECONDS_MIN as f64;
        if let Some(seconds) = overview.backlog_seconds.filter(is_short) {
            let rate = overview.stream_bytes_per_second as u64;
            let advised = Backlog::advised_bytes(rate, overview.look.memory.room());
            let remedy = match advised > bytes {
                true => format!(
                    "declare `repl_backlog_size = \"{}MiB\"` in [redis.policy] and run `mainstay redis policy plan`",
                    (advised >> 20).max(1)
                ),
                false => "it is as large as the server's memory allows: write less at once, or give the server more memory".to_owned(),
            };
            self.say(
                "backlog_short",
                Severity::Warning,
                format!(
                    "the replication backlog of {} holds {seconds:.0} s at the present rate of {}/s: who is away for longer must copy everything",
                    ByteSize(bytes),
                    ByteSize(rate)
                ),
                &remedy,
            );
        }
    }

    fn traffic(&mut self, overview: &Overview) {
        let traffic = &overview.look.traffic;
        let (ratio_min, lookups_min) = HIT_RATIO;
        if let Some(ratio) = overview.hit_ratio
            && ratio < ratio_min
            && traffic.hits + traffic.misses >= lookups_min
        {
            self.say(
                "hit_ratio_low",
                Severity::Note,
                format!("{:.0} % of look-ups find their key", ratio * 100.0),
                "of a cache: keep keys for longer, or see whether they are evicted; of locks and counters it says nothing",
            );
        }
        if let Some(percent) = traffic.expired_stale_percent.filter(|percent| *percent > STALE_PERCENT) {
            self.say(
                "expiry_behind",
                Severity::Warning,
                format!("{percent:.0} % of keys whose time has come are still there and take memory"),
                "type `CONFIG SET active-expire-effort 4`; spread expiries so that fewer fall together",
            );
        }
    }
}

/// For how many seconds the snapshot that the server's rules ask for has been late, beyond twice its time.
fn snapshot_late(disk: &PersistenceLook, now_micros: i64) -> Option<u64> {
    if disk.saving || disk.log_on {
        return None;
    }
    let rules = disk.save_after.as_ref()?;
    let due = rules.iter().filter(|(_, changes)| disk.unsaved_changes >= *changes).map(|(after, _)| *after);
    let age = u64::try_from(now_micros / 1_000_000).ok()?.checked_sub(disk.saved_at)?;
    (age > due.min()?.saturating_mul(2)).then_some(age)
}

#[cfg(test)]
mod tests {
    use super::super::tests::healthy;
    use super::*;

    fn told(before: &KeyServerLook, now: KeyServerLook) -> Vec<(String, Severity)> {
        let findings = judge(before, now, "h:6379").findings;
        findings.into_iter().map(|finding| (finding.id.replace("redis.", ""), finding.severity)).collect()
    }

    #[test]
    fn a_healthy_server_gives_no_finding() {
        assert_eq!(told(&healthy(), healthy()), []);
    }

    #[test]
    fn each_trouble_has_its_finding() {
        use Severity::{Critical, Note, Warning};
        type Change = fn(&mut KeyServerLook);
        let cases: &[(Change, &str, Severity)] = &[
            (|l| l.clients.connected = 80, "connections_high", Warning),
            (|l| l.clients.connected = 95, "connections_high", Critical),
            (|l| l.clients.rejected = 1, "connections_rejected", Critical),
            (|l| l.clients.cut_off = 1, "clients_cut_off", Warning),
            (|l| l.memory.used = 1_600_000, "memory_nearly_full", Warning),
            (|l| l.memory.used = 1_950_000, "memory_nearly_full", Critical),
            (
                |l| {
                    l.memory.used_max = 0;
                    l.memory.resident = 75_000_000;
                },
                "machine_nearly_full",
                Warning,
            ),
            (|l| l.memory.refused = 4, "writes_refused", Critical),
            (|l| l.memory.evicted = 4, "keys_evicted", Warning),
            (
                |l| {
                    l.memory.used = 100_000_000;
                    l.memory.used_max = 1_000_000_000;
                    l.memory.fragmentation = Some(1.6);
                },
                "fragmented",
                Warning,
            ),
            (|l| l.persistence.loading = true, "loading", Warning),
            (|l| l.persistence.save_ok = false, "bgsave_failed", Critical),
            (|l| l.persistence.log_write_ok = false, "aof_write_failed", Critical),
            (|l| l.persistence.log_rewrite_ok = false, "aof_rewrite_failed", Warning),
            (
                |l| {
                    l.persistence.log_on = false;
                    l.persistence.save_after = Some(vec![]);
                },
                "nothing_persisted",
                Warning,
            ),
            (
                |l| {
                    l.persistence.log_on = false;
                    l.persistence.unsaved_changes = 1;
                    l.persistence.saved_at -= 7_201;
                },
                "snapshot_late",
                Warning,
            ),
            (|l| l.persistence.log_delayed = 1, "aof_delayed", Warning),
            (|l| l.persistence.fork_micros = 20_001, "fork_slow", Warning),
            (|l| l.replication.link_up = Some(false), "replication_broken", Warning),
            (
                |l| {
                    l.replication.replicas = 1;
                    l.replication.backlog_bytes = Some(1_000_000);
                    l.replication.offset = Some(100_000);
                    l.seen_micros += 1_000_000;
                },
                "backlog_short",
                Warning,
            ),
            (
                |l| {
                    l.traffic.hits = 500;
                    l.traffic.misses = 500;
                },
                "hit_ratio_low",
                Note,
            ),
            (|l| l.traffic.expired_stale_percent = Some(11.0), "expiry_behind", Warning),
        ];
        for (change, id, severity) in cases {
            let mut now = healthy();
            change(&mut now);
            assert_eq!(told(&healthy(), now), [((*id).to_owned(), *severity)]);
        }
    }

    #[test]
    fn no_remedy_turns_the_append_only_file_on_by_hand() {
        let mut now = healthy();
        now.persistence.log_on = false;
        now.persistence.save_after = Some(vec![]);
        let findings = judge(&healthy(), now, "h:6379").findings;
        let remedies: String = findings.into_iter().map(|finding| finding.remedy).collect();
        assert!(remedies.contains("mainstay redis policy plan"), "{remedies}");
        assert!(!remedies.contains("CONFIG SET appendonly"), "{remedies}");
    }

    #[test]
    fn looks_at_once_take_the_servers_own_rate_and_advice_fits_into_it() {
        let mut now = healthy();
        now.memory.used_max = 0;
        now.memory.machine = Some(16 << 30);
        now.replication.replicas = 1;
        now.replication.backlog_bytes = Some(1 << 20);
        // What was written since the server was made says nothing about now.
        now.replication.offset = Some(1 << 50);
        let before = now.clone();
        assert_eq!(told(&before, now.clone()), []);
        now.replication.sent_bytes_per_second = Some(1 << 20);
        let remedy = |now: &KeyServerLook| judge(&before, now.clone(), "h").findings[0].remedy.clone();
        assert!(remedy(&now).contains("repl_backlog_size = \"1024MiB\""), "{}", remedy(&now));
        now.replication.sent_bytes_per_second = Some(1 << 40);
        assert!(remedy(&now).contains("\"2048MiB\""), "{}", remedy(&now));
        now.memory.used_max = 8 << 20;
        assert!(remedy(&now).contains("more memory"), "{}", remedy(&now));
    }

    #[test]
    fn what_is_over_is_a_note() {
        let mut before = healthy();
        before.memory.evicted = 9;
        let now = before.clone();
        assert_eq!(told(&before, now), [("keys_evicted".to_owned(), Severity::Note)]);
    }

    #[test]
    fn a_full_server_that_evicts_is_as_it_should_be() {
        let mut full = healthy();
        full.memory.used = 2_000_000;
        full.memory.eviction = "allkeys-lru".to_owned();
        assert_eq!(told(&full.clone(), full), []);
    }

    #[test]
    fn a_snapshot_is_late_by_the_rule_that_is_due() {
        let disk = |changes, age: u64| PersistenceLook {
            unsaved_changes: changes,
            saved_at: 10_000 - age,
            save_after: Some(vec![(3600, 1), (60, 1000)]),
            ..PersistenceLook::default()
        };
        let late = |changes, age| snapshot_late(&disk(changes, age), 10_000_000_000);
        assert_eq!(late(0, 9_000), None);
        assert_eq!(late(1, 7_200), None);
        assert_eq!(late(1, 7_201), Some(7_201));
        assert_eq!(late(1_000, 121), Some(121));
    }
}
