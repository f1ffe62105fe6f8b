//! What a purge would hit.

use std::time::Duration;

use mainstay_engine::{KeyScanRequest, Keyspace};
use mainstay_guard::{BackupEvidence, operation};
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{
    BlastRadius, ByteSize, Clock, Count, Error, ErrorKind, PLAN_FORMAT, Plan, PlanStep, Result, StoreKind,
    Target,
};
use mainstay_repository::{Repository, Set};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{Glob, OPERATION};
use crate::keyfile::KeyFileSetContents;
use crate::keyspace::{CensusOptions, Counting, KeyCensus, KeyGroup, interrupted};
use crate::verify::evidence_among;

/// How many prefixes a plan names.
const STEP_COUNT_MAX: usize = 30;

/// What is to go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PurgeRequest {
    /// Names that match one of these go.
    pub patterns: Vec<String>,
    /// Names that match one of these stay nevertheless.
    pub protect: Vec<String>,
    /// In these databases; in all when empty.
    pub databases: Vec<u64>,
    /// Every key is meant, where the patterns match all.
    pub everything: bool,
    /// The longest that the server should be busy with one answer, in microseconds.
    pub answer_micros_max: u64,
}

impl PurgeRequest {
    pub(super) fn answer_time_max(&self) -> Duration {
        Duration::from_micros(self.answer_micros_max)
    }

    /// Which names the walk for pattern number `index` means: not those that a pattern before it has met already, and never the store's
    /// `marker`.
    pub(super) fn selector(
        &self,
        index: usize,
        marker: &'static [u8],
    ) -> impl Fn(&[u8]) -> bool + Send + Sync + use<> {
        let globs =
            |patterns: &[String]| patterns.iter().map(|pattern| Glob::new(pattern)).collect::<Vec<_>>();
        let mut passed_over = globs(&self.protect);
        passed_over.extend(globs(&self.patterns[..index]));
        move |name| name != marker && !passed_over.iter().any(|glob| glob.matches(name))
    }

    /// The databases that are meant, of those that hold keys.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn databases(&self, keyspace: &dyn Keyspace) -> Result<Vec<u64>> {
        let sizes = keyspace.databases().await?;
        let wanted = |database: &u64| self.databases.is_empty() || self.databases.contains(database);
        Ok(sizes.into_iter().map(|size| size.database).filter(wanted).collect())
    }
}

/// Counts what matches, and decides its removal.
///
/// # Errors
/// `Usage` for a pattern that matches everything, or patterns that do together, unless `everything` is asked for; `Precondition` when nothing
/// matches; the store's; `Interrupted`.
pub async fn plan(
    keyspace: &dyn Keyspace,
    target: Target,
    request: &PurgeRequest,
    clock: &dyn Clock,
    observer: &dyn Observer,
    cancel: &CancellationToken,
) -> Result<Plan> {
    check(request)?;
    let options = CensusOptions { delimiter: b':', depth: 2, biggest: 0, now: clock.now().as_millisecond() };
    let census = count(keyspace, request, options, observer, cancel).await?;
    if census.total.keys == 0 {
        return Err(Error::new(ErrorKind::Precondition, "no key matches")
            .with_state("nothing was changed")
            .with_hint("`mainstay redis keys` shows what keys there are"));
    }
    check_share(keyspace, request, census.total.keys).await?;
    let created_at = clock.now();
    let (keys, bytes) = (census.total.keys, census.total.bytes);
    Ok(Plan {
        format: PLAN_FORMAT,
        operation: OPERATION.to_owned(),
        effect: operation(OPERATION).expect("a purge is registered").effect,
        assumptions: Vec::new(),
        blast_radius: BlastRadius {
            phrase: format!("purge {keys} keys on {}@{}", target.store, target.environment),
            items: keys,
            bytes,
        },
        steps: steps(&census),
        target,
        parameters: serde_json::to_value(request).expect("a request has a JSON form"),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// Refuses patterns that mean nothing, or everything unasked.
pub(super) fn check(request: &PurgeRequest) -> Result<()> {
    let refuse = |message: &str, hint: &str| {
        Err(Error::new(ErrorKind::Usage, message).with_state("nothing was changed").with_hint(hint))
    };
    if request.patterns.iter().any(String::is_empty) {
        return refuse(
            "an empty pattern matches no name but the empty one",
            "name a pattern, such as 'cache:*'",
        );
    }
    let all = request.patterns.iter().any(|pattern| Glob::new(pattern).is_everything());
    if all && !request.everything {
        return refuse(
            "the pattern matches every key: sessions, locks and queues too",
            "name prefixes, such as 'cache:*'; `--everything` if every key is meant",
        );
    }
    Ok(())
}

/// Refuses to remove all keys of the server unasked, whatever the patterns look like; the marker is one that stays anyway.
async fn check_share(keyspace: &dyn Keyspace, request: &PurgeRequest, matching: u64) -> Result<()> {
    /// So few keys are nobody's store.
    const TELLING_KEYS: u64 = 20;
    let all: u64 = keyspace.databases().await?.iter().map(|size| size.keys).sum();
    if request.everything || all <= TELLING_KEYS || matching + 1 < all {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Usage, "the patterns match every key together: sessions, locks and queues too")
        .with_state("nothing was changed")
        .with_hint("name fewer prefixes; `--everything` if every key is meant"))
}

async fn count(
    keyspace: &dyn Keyspace,
    request: &PurgeRequest,
    options: CensusOptions,
    observer: &dyn Observer,
    cancel: &CancellationToken,
) -> Result<KeyCensus> {
    let databases = request.databases(keyspace).await?;
    let mut counting = Counting::new(options.clone());
    for (index, pattern) in request.patterns.iter().enumerate() {
        observer.phase(&format!("count {pattern}"));
        let is_meant = request.selector(index, keyspace.marker());
        let scan_request = KeyScanRequest {
            databases: databases.clone(),
            pattern: Some(pattern.clone().into_bytes()),
            answer_time_max: request.answer_time_max(),
            now: options.now,
        };
        let mut scan = keyspace.scan(scan_request).await?;
        while let Some(records) = scan.next().await? {
            let meant = records.iter().filter(|record| is_meant(&record.name));
            meant.for_each(|record| counting.add(record));
            observer.advance(Work { items: records.len() as u64, bytes: 0 });
            if cancel.is_cancelled() {
                return Err(interrupted());
            }
        }
    }
    Ok(counting.end())
}

/// One step for each prefix, the largest first.
fn steps(census: &KeyCensus) -> Vec<PlanStep> {
    let summary = |group: &KeyGroup| {
        let lasting = match group.expiry.never {
            0 => "all expire anyway".to_owned(),
            never => format!("{} never expire", Count(never)),
        };
        format!("{} keys, {}; {lasting}", Count(group.keys), ByteSize(group.bytes))
    };
    let step = |name: String, summary: String| PlanStep { name, mark: '-', summary };
    let mut steps: Vec<PlanStep> = { census.prefixes.iter().take(STEP_COUNT_MAX) }
        .map(|group| {
            let name = match group.prefix.as_str() {
                "" => "names of one word".to_owned(),
                prefix => format!("{prefix}*"),
            };
            step(format!("{name} in database {}", group.database), summary(&group.group))
        })
        .collect();
    let rest = census.prefixes.iter().skip(STEP_COUNT_MAX).map(|group| group.group.keys);
    let rest: u64 = rest.sum::<u64>() + census.others.keys;
    if rest > 0 {
        steps.push(step("further prefixes".to_owned(), format!("{} keys", Count(rest))));
    }
    steps
}

/// The newest backup of the server with this `fingerprint` that was verified and found sound, as evidence for the guard.
///
/// # Errors
/// What the repository fails with.
pub async fn evidence(repository: &Repository, fingerprint: &str) -> Result<BackupEvidence> {
    let counts = |set: &Set| {
        let contents = set.contents::<KeyFileSetContents>();
        contents.is_ok_and(|contents| contents.server.fingerprint == fingerprint)
    };
    evidence_among(repository, StoreKind::Redis, fingerprint, counts).await
}
