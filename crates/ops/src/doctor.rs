//! `doctor`: what is wrong with the stack, each finding with its remedy.
//!
//! The stores examine themselves through [`Probe::examine`]; here their answers are gathered, and what no store can know by itself is
//! judged: environment markers, the age of backups, the compose file; of a relational server and of one of keys also what comes and goes. Judging is pure.
//! Reads only; a store that cannot be examined is a finding, so that one broken store hides nothing about the others.

pub mod compose;

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jiff::SignedDuration;
use mainstay_engine::{KeyServerInspection, Probe, RelationalInspection};
use mainstay_guard::{ConfiguredEnvironment, Marker, identify};
use mainstay_model::{Error, ErrorKind, Finding, Result, Severity, StoreKind, Timestamp};
use mainstay_repository::ChainReason;

use crate::classes::KeyClasses;
use crate::key_policy::DeclaredPolicy;
use crate::restore::{Listing, UnfinishedRun};
use crate::status::{LogStatus, RepositoryStatus, within};

/// A captured stream of Redis that ends longer ago is not captured any more; slices are cut more often than that.
const LOG_AGE_MAX: SignedDuration = SignedDuration::from_mins(15);

/// What a store answered.
#[derive(Debug)]
pub struct Examination {
    /// Which store.
    pub kind: StoreKind,
    /// Where it was asked, without credentials.
    pub address: String,
    /// Its findings, or the one that says why there are none.
    pub findings: Vec<Finding>,
    /// Its environment marker; `Err` when it could not be asked.
    pub marker: Result<Option<Marker>>,
    /// Where it keeps its data, when it tells.
    pub data_directory: Option<String>,
    /// Which server it is, when it tells.
    pub fingerprint: Option<String>,
}

/// Examines every store at once, each for at most `bound`. The order is that of `probes`.
pub async fn stores(probes: &[Arc<dyn Probe>], bound: Duration) -> Vec<Examination> {
    join_all(probes.iter().map(|probe| store(probe.as_ref(), bound))).await
}

async fn store(probe: &dyn Probe, bound: Duration) -> Examination {
    let (kind, address) = (probe.kind(), probe.address());
    let findings = within(bound, probe, probe.examine()).await;
    let marker = match &findings {
        Ok(_) => within(bound, probe, probe.marker()).await,
        Err(error) => Err(Error::new(error.kind(), error.message().to_owned())),
    };
    let data_directory = match &findings {
        Ok(_) => within(bound, probe, probe.data_directory()).await.ok().flatten(),
        Err(_) => None,
    };
    let fingerprint = match &findings {
        Ok(_) => within(bound, probe, probe.facts()).await.ok().map(|facts| facts.fingerprint),
        Err(_) => None,
    };
    let findings = match (findings, &marker) {
        // A server that is reading its data tells of itself, and of nothing that it holds.
        (Ok(mut findings), Err(error)) if error.kind() == ErrorKind::Unreachable => {
            findings.push(not_examined(kind, &address, error));
            findings
        }
        (Ok(findings), _) => findings,
        (Err(error), _) => vec![not_examined(kind, &address, &error)],
    };
    Examination { kind, address, findings, marker, data_directory, fingerprint }
}

/// What is wrong with a running relational server beyond its settings, judged as the daily questions judge it, in at most `bound`.
pub async fn relational(
    inspection: &dyn RelationalInspection,
    address: &str,
    bound: Duration,
) -> Vec<Finding> {
    match tokio::time::timeout(bound, crate::relational::examine(inspection, address)).await {
        Ok(Ok(findings)) => findings,
        Ok(Err(error)) => vec![not_examined(StoreKind::Postgres, address, &error)],
        Err(_) => {
            let late = format!("{address} did not answer within {} s", bound.as_secs());
            vec![not_examined(StoreKind::Postgres, address, &Error::new(ErrorKind::Unreachable, late))]
        }
    }
}

/// What is wrong with a running server of keys beyond its settings, judged as the daily questions judge it, and where it is not as `declared`,
/// in at most `bound`.
pub async fn key_server(
    server: &dyn KeyServerInspection,
    declared: &DeclaredPolicy,
    classes: &KeyClasses,
    bound: Duration,
) -> Vec<Finding> {
    let examine = async {
        let mut findings = crate::keyserver::overview::observe(server, Duration::ZERO).await?.findings;
        if *declared != DeclaredPolicy::default() {
            findings.extend(crate::key_policy::drift(server, declared, classes, None).await?.findings);
        }
        Ok::<_, Error>(findings)
    };
    let address = server.address();
    match tokio::time::timeout(bound, examine).await {
        Ok(Ok(findings)) => findings,
        Ok(Err(error)) => vec![not_examined(StoreKind::Redis, &address, &error)],
        Err(_) => {
            let late = format!("{address} did not answer within {} s", bound.as_secs());
            vec![not_examined(StoreKind::Redis, &address, &Error::new(ErrorKind::Unreachable, late))]
        }
    }
}

fn not_examined(kind: StoreKind, address: &str, error: &Error) -> Finding {
    let (what, remedy) = match error.kind() {
        ErrorKind::Auth => {
            ("auth", "correct the credentials; `mainstay config show --origin` tells where they come from")
        }
        ErrorKind::Unreachable => {
            ("unreachable", "start the server, or correct its address: `mainstay config show --origin`")
        }
        _ => ("not_examined", "mend this and run `mainstay doctor` again"),
    };
    Finding {
        id: format!("{kind}.{what}"),
        severity: Severity::Critical,
        store: Some(kind),
        subject: address.to_owned(),
        message: error.to_string(),
        remedy: error.hint().unwrap_or(remedy).to_owned(),
    }
}

/// Restores and loads that were begun and have not ended: each may hold collections of its own on the server.
pub fn restores(listing: &Listing) -> Vec<Finding> {
    let unfinished = listing.unfinished.iter().map(|run| Finding {
        id: "restore.unfinished".to_owned(),
        severity: Severity::Warning,
        store: Some(StoreKind::Mongo),
        subject: run.run.to_string(),
        message: format!(
            "a {} has not ended: {} of {} collections are in place",
            if run.can_continue { "restore" } else { "load" },
            run.placed,
            run.total
        ),
        remedy: remedy_of_unfinished(run),
    });
    let damaged = listing.damaged.iter().map(|(run, error)| Finding {
        id: "restore.journal_damaged".to_owned(),
        severity: Severity::Critical,
        store: Some(StoreKind::Mongo),
        subject: run.to_string(),
        message: format!("the journal of a restore cannot be read: {error}"),
        remedy: "look for collections that begin with `mainstay.restore.` and drop those of this run by hand"
            .to_owned(),
    });
    unfinished.chain(damaged).collect()
}

fn remedy_of_unfinished(run: &UnfinishedRun) -> String {
    let give_up = format!("`mainstay restore abandon {}`", run.run);
    if run.can_continue {
        format!("apply the same plan again to continue, or give it up: {give_up}")
    } else {
        format!("remove what it was loading with {give_up}, then load again")
    }
}

/// What is wrong with the environment's identity. `markers` holds the stores that could be asked.
pub fn environment(
    configured: &ConfiguredEnvironment,
    markers: &[(StoreKind, Option<Marker>)],
) -> Vec<Finding> {
    if let Err(contradiction) = identify(configured, markers) {
        return vec![Finding {
            id: "environment.contradiction".to_owned(),
            severity: Severity::Critical,
            store: None,
            subject: "environment".to_owned(),
            message: contradiction.message().to_owned(),
            remedy: contradiction
                .hint()
                .unwrap_or("`mainstay environment show` lists what every source says")
                .to_owned(),
        }];
    }
    let unmarked = markers.iter().filter(|(_, marker)| marker.is_none());
    unmarked
        .map(|(kind, _)| Finding {
            id: "environment.no_marker".to_owned(),
            severity: Severity::Note,
            store: Some(*kind),
            subject: kind.to_string(),
            message: "the store has no environment marker, so it counts as production".to_owned(),
            remedy: "`mainstay environment mark` writes the configured name and class into the stores"
                .to_owned(),
        })
        .collect()
}

/// Markers that are none, though something stands in their place.
pub fn damaged_markers(examinations: &[Examination]) -> Vec<Finding> {
    let damaged = examinations.iter().filter_map(|examination| {
        let error = examination.marker.as_ref().err().filter(|error| error.kind() == ErrorKind::Corrupt)?;
        Some(Finding {
            id: "environment.marker_damaged".to_owned(),
            severity: Severity::Warning,
            store: Some(examination.kind),
            subject: examination.address.clone(),
            message: format!("{error}: the store counts as production"),
            remedy: format!("`mainstay environment mark --store {}` writes it anew", examination.kind),
        })
    });
    damaged.collect()
}

/// What is wrong with the backups of `stores`. A last backup older than `age_max` at `now` is a finding.
pub fn backups(
    status: &RepositoryStatus,
    stores: &[StoreKind],
    age_max: SignedDuration,
    now: Timestamp,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for backups in stores.iter().filter_map(|kind| status.of(*kind)) {
        let kind = backups.kind;
        let finding = |id: &str, severity, message: String, remedy: String| Finding {
            id: format!("backup.{id}"),
            severity,
            store: Some(kind),
            subject: kind.to_string(),
            message,
            remedy,
        };
        let create = || format!("mainstay backup create --store {kind}");
        for id in &backups.damaged {
            let message = format!(
                "set {id} is damaged: its manifest cannot be read, or its last verification found damage"
            );
            let remedy = format!(
                "`mainstay backup verify {id}` tells more; restore the set from an off-site copy, or take a new one: `{}`",
                create()
            );
            findings.push(finding("damaged", Severity::Critical, message, remedy));
        }
        let last = match &backups.last {
            None => {
                let (message, remedy) = match backups.of_others {
                    0 => ("there is no backup".to_owned(), format!("`{}`", create())),
                    others => (
                        format!("there is no backup of this server; {others} sets are of others"),
                        match kind {
                            // Its fingerprint is another one after each restart until it is marked.
                            StoreKind::Redis => {
                                format!("`mainstay environment mark --store redis`, then `{}`", create())
                            }
                            _ => format!("`{}`", create()),
                        },
                    ),
                };
                findings.push(finding("none", Severity::Warning, message, remedy));
                continue;
            }
            Some((id, at)) if now.duration_since(*at) <= age_max => id,
            Some((id, _)) => {
                let message = format!("the last backup, {id}, is older than {age_max:#}");
                findings.push(finding(
                    "old",
                    Severity::Warning,
                    message,
                    format!("`{}`, and let it run regularly", create()),
                ));
                id
            }
        };
        if backups.verified.is_none() {
            let message =
                "no backup has been read back, so nobody knows whether one can be restored".to_owned();
            findings.push(finding(
                "unverified",
                Severity::Warning,
                message,
                format!("`mainstay backup verify {last}`"),
            ));
        }
    }
    findings
}

/// What is wrong with the change logs of these servers at `now`: damage that a verification found; of Redis, whose stream tells its time even where
/// nothing is written and which keeps it for minutes, also that nobody captures any more, and what was missed before the newest chain.
pub fn logs(
    logs: &[LogStatus],
    servers: &[(StoreKind, String)],
    slice_age: SignedDuration,
    now: Timestamp,
) -> Vec<Finding> {
    let age_max = slice_age.saturating_mul(3).max(LOG_AGE_MAX);
    let mut findings = Vec::new();
    for log in logs {
        let kind = log.kind;
        let finding = |id: &str, severity, message: String, remedy: String| Finding {
            id: format!("log.{id}"),
            severity,
            store: Some(kind),
            subject: log.server.clone(),
            message,
            remedy,
        };
        for chain in &log.damaged {
            let message = format!("the change log in chain {} is damaged: {}", chain.chain, chain.damaged);
            let remedy = format!(
                "copy the slices back from an off-site copy of the repository and verify again, or take a new backup: `mainstay backup create --store {kind}`"
            );
            findings.push(finding("damaged", Severity::Critical, message, remedy));
        }
        if kind != StoreKind::Redis || !servers.contains(&(kind, log.server.clone())) {
            continue;
        }
        if let Some(age) = log.at.map(|at| now.duration_since(at)).filter(|age| *age > age_max) {
            let minutes = age.as_mins();
            let message = format!(
                "nothing was captured for {minutes} min: what was written since is not in the repository"
            );
            let remedy = "run `mainstay capture redis` as a service; if it runs, it tells on standard error what holds it up";
            findings.push(finding("stale", Severity::Warning, message, remedy.to_owned()));
        }
        if matches!(log.why, ChainReason::Overrun | ChainReason::Diverged | ChainReason::Unreadable) {
            let message =
                format!("the newest chain does not go on from the one before: {}", log.why.explanation());
            let remedy = "`mainstay backup list` shows what is missing; moments in it cannot be restored";
            findings.push(finding("gap", Severity::Note, message, remedy.to_owned()));
        }
    }
    findings
}

/// Has remedies that change a setting of Redis say so where another value is declared: whoever follows one without the other has drift.
pub fn heed_declared(findings: &mut [Finding], declared: &DeclaredPolicy) {
    let Ok(settings) = declared.settings() else { return };
    for finding in findings.iter_mut().filter(|finding| finding.store == Some(StoreKind::Redis)) {
        let changed =
            |(name, _): &(&String, &String)| finding.remedy.contains(&format!("CONFIG SET {name} "));
        if let Some((name, value)) = settings.iter().find(changed) {
            finding.remedy = format!(
                "[redis.policy] declares {name} as {value}: where it is to be another, change it there and run `mainstay redis policy plan`, not {}",
                finding.remedy.trim_start_matches("type ")
            );
        }
    }
}

/// The finding for a repository that cannot be read.
pub fn repository_unreadable(location: &str, error: &Error) -> Finding {
    // One that does not exist yet endangers nothing but its own emptiness.
    let severity = if error.kind() == ErrorKind::NotFound { Severity::Warning } else { Severity::Critical };
    Finding {
        id: if error.kind() == ErrorKind::NotFound { "repository.none" } else { "repository.unreadable" }
            .to_owned(),
        severity,
        store: None,
        subject: location.to_owned(),
        message: error.to_string(),
        remedy: error
            .hint()
            .unwrap_or("make the repository readable and run `mainstay doctor` again")
            .to_owned(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use mainstay_model::{EnvironmentClass, SetId};

    use super::*;
    use crate::status::{RecoveryPoint, StoreBackups};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn ids(findings: &[Finding]) -> Vec<&str> {
        findings.iter().map(|finding| finding.id.as_str()).collect()
    }

    #[test]
    fn backups_are_judged_by_existence_age_proof_and_damage() {
        let set = SetId::new(at(1_000), 1);
        let status = |last: Option<i64>, verified: bool, damaged: bool| RepositoryStatus {
            backups: vec![StoreBackups {
                kind: StoreKind::Mongo,
                set_count: usize::from(last.is_some()),
                damaged: if damaged { vec![set.clone()] } else { Vec::new() },
                last: last.map(|seconds| (set.clone(), at(seconds))),
                verified: verified.then(|| (set.clone(), at(1_000))),
                of_others: 0,
                servers: std::collections::BTreeMap::new(),
            }],
            lost_keys: Vec::new(),
        };
        let hour = SignedDuration::from_hours(1);
        let judge = |status: &RepositoryStatus| {
            backups(status, &[StoreKind::Mongo, StoreKind::Redis], hour, at(10_000))
        };
        assert_eq!(ids(&judge(&status(Some(9_000), true, false))), [""; 0]);
        assert_eq!(ids(&judge(&status(None, false, false))), ["backup.none"]);
        assert_eq!(ids(&judge(&status(Some(6_399), true, false))), ["backup.old"]);
        assert_eq!(ids(&judge(&status(Some(6_400), false, true))), ["backup.damaged", "backup.unverified"]);
    }

    #[test]
    fn a_remedy_heeds_what_is_declared() {
        let finding = |remedy: &str| Finding {
            id: "redis.x".to_owned(),
            severity: Severity::Warning,
            store: Some(StoreKind::Redis),
            subject: "h:1".to_owned(),
            message: String::new(),
            remedy: remedy.to_owned(),
        };
        let mut found =
            [finding("type `CONFIG SET maxmemory 2gb`"), finding("type `CONFIG SET timeout 300`")];
        let declared = DeclaredPolicy { maxmemory: Some(1 << 30), ..DeclaredPolicy::default() };
        heed_declared(&mut found, &declared);
        assert!(found[0].remedy.starts_with("[redis.policy] declares maxmemory as 1073741824"), "{found:?}");
        assert_eq!(found[1].remedy, "type `CONFIG SET timeout 300`");
    }

    #[test]
    fn a_capture_that_ended_is_noticed() {
        let log = |seconds: i64, why: ChainReason, server: &str| LogStatus {
            kind: StoreKind::Redis,
            server: server.to_owned(),
            environment: "shop".to_owned(),
            recovery_point: RecoveryPoint::Offset(7),
            at: Some(at(seconds)),
            why,
            damaged: vec![],
        };
        let judge = |log: LogStatus| {
            let servers = [(StoreKind::Redis, "own".to_owned())];
            logs(&[log], &servers, SignedDuration::from_secs(10), at(10_000))
        };
        assert_eq!(ids(&judge(log(9_200, ChainReason::First, "own"))), [""; 0]);
        assert_eq!(ids(&judge(log(9_000, ChainReason::First, "own"))), ["log.stale"]);
        assert_eq!(ids(&judge(log(9_000, ChainReason::Overrun, "other"))), [""; 0]);
        assert_eq!(ids(&judge(log(9_900, ChainReason::Overrun, "own"))), ["log.gap"]);
    }

    #[test]
    fn markers_are_compared_with_the_configuration() {
        let configured = ConfiguredEnvironment {
            name: Some("shop-dev".to_owned()),
            class: Some(EnvironmentClass::Development),
        };
        let marker = |name: &str| {
            Some(Marker {
                environment: name.to_owned(),
                class: EnvironmentClass::Development,
                marked_at: at(1),
                id: "m".to_owned(),
            })
        };
        let found =
            environment(&configured, &[(StoreKind::Mongo, marker("shop-dev")), (StoreKind::Redis, None)]);
        assert_eq!((ids(&found), found[0].store), (vec!["environment.no_marker"], Some(StoreKind::Redis)));
        let found = environment(&configured, &[(StoreKind::Mongo, marker("shop-prod"))]);
        assert_eq!(ids(&found), ["environment.contradiction"]);
        assert!(found[0].message.contains("shop-prod"), "{}", found[0].message);
    }
}
