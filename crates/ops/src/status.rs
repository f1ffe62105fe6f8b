//! `status`: the stores and the repository at a glance.
//!
//! All stores are asked at the same time, each within a bound, so that one that hangs delays nobody for longer than that. A store that does
//! not answer is a row with its error, not the end of the report. The change logs are asked for by themselves ([`logs`]): to list a long one
//! takes a while, and the sets need not wait for it. Reads only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use mainstay_engine::{Probe, StoreFacts};
use mainstay_guard::Marker;
use mainstay_model::{Error, ErrorKind, ExitStatus, Lsn, OpTime, Result, SetId, StoreKind, Timestamp};
use mainstay_repository::{Chain, ChainEntry, ChainReason, LogKind, Repository, Set, SetEntry};
use serde::Serialize;

use crate::contents::SetContents;
use crate::logical::LogicalSetContents;
use crate::recoverable::{DamagedChain, damage_of};
use crate::replication::ranges::last_time;
use crate::replication::remarks::{LostKeys, lost_among};
use crate::verify::newest_sound;

/// How many verification records are read at the same time.
const VERIFICATION_READS: usize = 8;

/// A store as it answered.
#[derive(Debug)]
pub struct StoreStatus {
    /// Which store.
    pub kind: StoreKind,
    /// Where it was asked, without credentials.
    pub address: String,
    /// What it said of itself, or why it did not.
    pub facts: Result<StoreFacts>,
    /// Its environment marker; an error when the store answered and the marker could not be read, `None` inside when it has none.
    pub marker: Result<Option<Marker>>,
}

/// What a store's marker counts as: one that is damaged as none, so that the store counts as production; `None` where it could not be asked.
pub fn counted_marker(marker: &Result<Option<Marker>>) -> Option<Option<Marker>> {
    match marker {
        Ok(marker) => Some(marker.clone()),
        Err(error) if error.kind() == ErrorKind::Corrupt => Some(None),
        Err(_) => None,
    }
}

/// The backups of one server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerBackups {
    /// How many sets are complete.
    pub set_count: usize,
    /// As of the store.
    pub last: Option<(SetId, Timestamp)>,
    /// As of the store.
    pub verified: Option<(SetId, Timestamp)>,
}

/// The backups of one store in the repository: of whichever server until it is [known](RepositoryStatus::of_servers) which one is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreBackups {
    /// Which store.
    pub kind: StoreKind,
    /// How many sets are complete.
    pub set_count: usize,
    /// Those whose manifest is damaged, or that their last verification found damaged.
    pub damaged: Vec<SetId>,
    /// The newest complete set, and when it was completed.
    pub last: Option<(SetId, Timestamp)>,
    /// The newest set that was read back without a fault, and the moment it holds.
    pub verified: Option<(SetId, Timestamp)>,
    /// Of the complete sets, how many are known to be of other servers.
    pub of_others: usize,
    /// By server; dumps of one database, which are no backup of a server, are left out.
    pub servers: BTreeMap<String, ServerBackups>,
}

/// The repository at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryStatus {
    /// One entry for each store, in the order of [`StoreKind::ALL`].
    pub backups: Vec<StoreBackups>,
    /// Newest sets of Redis that hold no keys, where an earlier one of the server does.
    pub lost_keys: Vec<LostKeys>,
}

impl RepositoryStatus {
    /// The backups of one store.
    pub fn of(&self, kind: StoreKind) -> Option<&StoreBackups> {
        self.backups.iter().find(|backups| backups.kind == kind)
    }

    /// The same, where of the stores that tell their fingerprint the sets of that server count alone as its backups.
    #[must_use]
    pub fn of_servers(mut self, fingerprints: &[(StoreKind, String)]) -> Self {
        for (kind, fingerprint) in fingerprints {
            let Some(backups) = self.backups.iter_mut().find(|backups| backups.kind == *kind) else {
                continue;
            };
            let own = backups.servers.get(fingerprint).cloned().unwrap_or_default();
            let all: usize = backups.servers.values().map(|server| server.set_count).sum();
            backups.of_others = all - own.set_count;
            (backups.last, backups.verified) = (own.last, own.verified);
        }
        self
    }
}

/// Asks every store at once, each for at most `bound`. The order is that of `probes`.
pub async fn stores(probes: &[Arc<dyn Probe>], bound: Duration) -> Vec<StoreStatus> {
    join_all(probes.iter().map(|probe| store(probe.as_ref(), bound))).await
}

async fn store(probe: &dyn Probe, bound: Duration) -> StoreStatus {
    let facts = within(bound, probe, probe.facts()).await;
    let marker = match &facts {
        Ok(_) => within(bound, probe, probe.marker()).await,
        // A second attempt would only fail the same way, and later.
        Err(error) => Err(Error::new(error.kind(), error.message().to_owned())),
    };
    StoreStatus { kind: probe.kind(), address: probe.address(), facts, marker }
}

/// Waits for `answer`, but not for longer than `bound`.
///
/// # Errors
/// `Unreachable` when the time is over; the answer's own.
pub(crate) async fn within<T>(
    bound: Duration,
    probe: &dyn Probe,
    answer: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::time::timeout(bound, answer).await.unwrap_or_else(|_| {
        let message =
            format!("{} at {} did not answer within {} s", probe.kind(), probe.address(), bound.as_secs());
        Err(Error::new(ErrorKind::Unreachable, message)
            .with_hint("check the address, the network and the server's load"))
    })
}

/// What the repository holds for each store.
///
/// # Errors
/// The repository's, when it cannot be read. A damaged set is no error; it is counted.
pub async fn repository(repository: &Repository) -> Result<RepositoryStatus> {
    let (mut backups, mut lost_keys) = (Vec::new(), Vec::new());
    for kind in StoreKind::ALL {
        let mut found = StoreBackups {
            kind,
            set_count: 0,
            damaged: Vec::new(),
            last: None,
            verified: None,
            of_others: 0,
            servers: BTreeMap::new(),
        };
        let mut whole = Vec::new();
        for entry in repository.sets(Some(kind)).await? {
            match entry {
                SetEntry::Whole(set) => {
                    found.set_count += 1;
                    // A dump of one database is no backup of its server.
                    if !LogicalSetContents::is_of(&set) {
                        found.last = Some((set.id().clone(), set.manifest().completed_at));
                    }
                    whole.push(set);
                }
                SetEntry::Damaged { id, .. } => found.damaged.push(id),
            }
        }
        if kind == StoreKind::Redis {
            lost_keys = lost_among(&whole);
        }
        found.damaged.extend(unsound(&whole).await?);
        found.damaged.sort_unstable();
        let mut by_server: BTreeMap<String, Vec<&Set>> = BTreeMap::new();
        for set in whole.iter().filter(|set| !LogicalSetContents::is_of(set)) {
            if let Ok(contents) = SetContents::of(set) {
                by_server.entry(contents.server().to_owned()).or_default().push(set);
            }
        }
        for (server, sets) in by_server {
            let newest = newest_sound(sets.iter().rev().copied()).await?;
            let own = ServerBackups {
                set_count: sets.len(),
                last: sets.last().map(|set| (set.id().clone(), set.manifest().completed_at)),
                verified: newest.map(|(set, _)| (set.id().clone(), set.manifest().begun_at)),
            };
            // Identifiers begin with the time.
            found.verified = found.verified.max(own.verified.clone());
            found.servers.insert(server, own);
        }
        backups.push(found);
    }
    Ok(RepositoryStatus { backups, lost_keys })
}

/// Those of `sets` that their last recorded verification found damaged.
async fn unsound(sets: &[Set]) -> Result<Vec<SetId>> {
    let mut records = futures::stream::iter(sets)
        .map(async |set| set.last_verification().await.map(|last| (set, last)))
        .buffered(VERIFICATION_READS);
    let mut unsound = Vec::new();
    while let Some(read) = records.next().await {
        let (set, last) = read?;
        if last.is_some_and(|record| !record.is_sound()) {
            unsound.push(set.id().clone());
        }
    }
    Ok(unsound)
}

/// The change log of one server in the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogStatus {
    /// Which store's log it is.
    pub kind: StoreKind,
    /// The server's fingerprint.
    pub server: String,
    /// The environment it was captured in last.
    pub environment: String,
    /// Up to where it is stored.
    pub recovery_point: RecoveryPoint,
    /// When the server recorded that, where that can be told.
    pub at: Option<Timestamp>,
    /// Why its newest chain was begun.
    pub why: ChainReason,
    /// Its chains with slices that a verification found damaged.
    pub damaged: Vec<DamagedChain>,
}

/// Up to where a change log is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum RecoveryPoint {
    /// Of MongoDB.
    OpTime(OpTime),
    /// Of PostgreSQL, whose positions tell no time.
    Lsn(Lsn),
    /// Of Redis, whose positions tell no time either; its slices do.
    Offset(u64),
}

impl RecoveryPoint {
    fn of(chain: &Chain) -> Self {
        match chain.description().kind {
            LogKind::Oplog => Self::OpTime(chain.end().optime()),
            LogKind::Wal => Self::Lsn(Lsn(chain.end().0)),
            LogKind::Replication => Self::Offset(chain.end().0),
        }
    }
}

/// How far the change log of each server is stored, by fingerprint; nothing where none was captured. Damaged chains are left out.
///
/// # Errors
/// The store's.
pub async fn logs(repository: &Repository) -> Result<Vec<LogStatus>> {
    let mut logs = Vec::new();
    for kind in StoreKind::ALL {
        let known = repository.known_log_damage(kind).await?;
        let mut servers: BTreeMap<String, Vec<Chain>> = BTreeMap::new();
        for chain in repository.chains(kind).await?.into_iter().filter_map(ChainEntry::whole) {
            servers.entry(chain.description().server.clone()).or_default().push(chain);
        }
        for (server, chains) in servers {
            // Oldest first, so that the newest chain of a server counts.
            let Some(newest) = chains.last() else { continue };
            let recovery_point = RecoveryPoint::of(newest);
            logs.push(LogStatus {
                kind,
                server,
                environment: newest.description().environment.clone(),
                recovery_point,
                at: match recovery_point {
                    RecoveryPoint::OpTime(at) => Some(at.timestamp()),
                    RecoveryPoint::Lsn(_) => None,
                    RecoveryPoint::Offset(_) => last_time(repository, newest).await,
                },
                why: newest.description().why,
                damaged: chains.iter().filter_map(|chain| damage_of(chain, &known)).collect(),
            });
        }
    }
    Ok(logs)
}

/// The exit status for what was found: that of the worst trouble. A store that cannot be reached is worse than one that refuses us, for
/// the latter at least runs.
pub fn exit_status(stores: &[StoreStatus], repository: Option<&Result<RepositoryStatus>>) -> ExitStatus {
    let of_stores = stores.iter().filter_map(|store| store.facts.as_ref().err());
    let of_repository = repository.and_then(|repository| repository.as_ref().err());
    let damaged = repository
        .and_then(|repository| repository.as_ref().ok())
        .is_some_and(|repository| repository.backups.iter().any(|backups| !backups.damaged.is_empty()));
    of_stores
        .chain(of_repository)
        .map(|error| error.kind().exit_status())
        .chain(damaged.then_some(ExitStatus::Critical))
        .max_by_key(|status| *status as u8)
        .unwrap_or(ExitStatus::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(kind: ErrorKind) -> StoreStatus {
        let error = || Error::new(kind, "x");
        StoreStatus {
            kind: StoreKind::Mongo,
            address: "h:1".to_owned(),
            facts: Err(error()),
            marker: Err(error()),
        }
    }

    #[test]
    fn a_damaged_marker_counts_as_none() {
        let error = |kind| Err(Error::new(kind, "x"));
        assert_eq!(counted_marker(&error(ErrorKind::Corrupt)), Some(None));
        assert_eq!(counted_marker(&Ok(None)), Some(None));
        assert_eq!(counted_marker(&error(ErrorKind::Unreachable)), None);
    }

    #[test]
    fn sets_of_other_servers_are_no_backups_of_this_one() {
        let of = |seconds: i64| Timestamp::from_second(seconds).ok().map(|at| (SetId::new(at, 1), at));
        let server = |seconds: i64| ServerBackups { set_count: 2, last: of(seconds), verified: of(seconds) };
        let backups = StoreBackups {
            kind: StoreKind::Redis,
            set_count: 4,
            damaged: vec![],
            last: of(9),
            verified: of(9),
            of_others: 0,
            servers: [("a".to_owned(), server(5)), ("b".to_owned(), server(9))].into(),
        };
        let status = RepositoryStatus { backups: vec![backups], lost_keys: Vec::new() };
        let seen = |fingerprints: &[(StoreKind, String)]| {
            let narrowed = status.clone().of_servers(fingerprints);
            (narrowed.backups[0].last.clone(), narrowed.backups[0].of_others)
        };
        assert_eq!(seen(&[]), (of(9), 0));
        assert_eq!(seen(&[(StoreKind::Redis, "a".to_owned())]), (of(5), 2));
        assert_eq!(seen(&[(StoreKind::Redis, "c".to_owned())]), (None, 4));
        assert_eq!(seen(&[(StoreKind::Mongo, "a".to_owned())]), (of(9), 0));
    }

    #[test]
    fn the_worst_trouble_decides_the_exit_status() {
        let auth = failed(ErrorKind::Auth);
        let down = failed(ErrorKind::Unreachable);
        assert_eq!(exit_status(&[], None), ExitStatus::Ok);
        assert_eq!(exit_status(std::slice::from_ref(&auth), None), ExitStatus::Auth);
        assert_eq!(exit_status(&[down, auth], None), ExitStatus::Unreachable);
        let backups = |damaged| {
            let kind = StoreKind::Mongo;
            let of_mongo = StoreBackups {
                kind,
                set_count: 1,
                damaged,
                last: None,
                verified: None,
                of_others: 0,
                servers: BTreeMap::new(),
            };
            Ok(RepositoryStatus { backups: vec![of_mongo], lost_keys: Vec::new() })
        };
        let damaged = vec![SetId::new(Timestamp::UNIX_EPOCH, 1)];
        assert_eq!(exit_status(&[], Some(&backups(vec![]))), ExitStatus::Ok);
        assert_eq!(exit_status(&[], Some(&backups(damaged))), ExitStatus::Critical);
        let storage = Err(Error::new(ErrorKind::Storage, "x"));
        assert_eq!(exit_status(&[], Some(&storage)), ExitStatus::Failed);
    }
}
