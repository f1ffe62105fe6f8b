//! `status`: the three stores and the repository at a glance. A store that is down is a row, not the end.

use std::time::Duration;

use clap::Args;
use mainstay_engine::StoreFacts;
use mainstay_guard::{Environment, identify};
use mainstay_model::{
    ByteSize, Count, Error, ErrorKind, ExitStatus, Result, SetId, Severity, StoreKind, Timestamp,
};
use mainstay_ops::status::{self, LogStatus, RecoveryPoint, RepositoryStatus, StoreBackups, StoreStatus};
use serde_json::{Map, Value, json};

use super::backup::log::damaged_text;
use super::environment;
use crate::printer::shown::{ago, duration};
use crate::printer::{Cell, Look, Report, Table, Tone, problem_details, problem_json};
use crate::wiring::Session;

/// How long a store or the repository may take to answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// Arguments of `status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {}

/// Asks everything at once and reports.
///
/// # Errors
/// `Precondition` when nothing is configured; `Config` when a connection cannot be described. What cannot be reached is part of the
/// report and decides its exit status.
pub(crate) async fn run(_args: StatusArgs, session: &Session) -> Result<ExitStatus> {
    let probes = session.probes().await?;
    if probes.is_empty() && session.configuration.repository.is_none() {
        return Err(Error::new(ErrorKind::Precondition, "nothing is configured")
            .with_hint("`mainstay config init` writes a mainstay.toml; or set MAINSTAY_MONGO_URL, MAINSTAY_POSTGRES_URL, MAINSTAY_REDIS_URL"));
    }
    let (stores, repository, logs) =
        tokio::join!(status::stores(&probes, ANSWER_TIME_MAX), repository(session), logs(session));
    let fingerprints = fingerprints(&stores);
    let repository = repository.map(|read| read.map(|status| status.of_servers(&fingerprints)));
    let environment = identify(&session.configured_environment(), &environment::known_markers(&stores));
    let location = session.repository_location();
    Ok(session.printer.report(&Glance {
        environment,
        stores,
        location,
        repository,
        logs,
        now: session.clock.now(),
    }))
}

/// Which servers answered.
fn fingerprints(stores: &[StoreStatus]) -> Vec<(StoreKind, String)> {
    let known = |store: &StoreStatus| Some((store.kind, store.facts.as_ref().ok()?.fingerprint.clone()));
    stores.iter().filter_map(known).collect()
}

/// What the repository holds; `None` when none is configured.
pub(crate) async fn repository(session: &Session) -> Option<Result<RepositoryStatus>> {
    let location = session.repository_location()?;
    let read = async { status::repository(&session.repository().await?).await };
    let answer = tokio::time::timeout(ANSWER_TIME_MAX, read).await;
    Some(answer.unwrap_or_else(|_| {
        let message =
            format!("the repository {location} did not answer within {} s", ANSWER_TIME_MAX.as_secs());
        Err(Error::new(ErrorKind::Unreachable, message).with_hint("check its address and the network"))
    }))
}

/// The change logs; `None` when no repository is configured.
pub(crate) async fn logs(session: &Session) -> Option<Logs> {
    session.repository_location()?;
    let read = async { status::logs(&session.repository().await?).await };
    Some(match tokio::time::timeout(ANSWER_TIME_MAX, read).await {
        Ok(listed) => Logs::Listed(listed),
        Err(_) => Logs::TooMany,
    })
}

/// What is known of the change logs.
pub(crate) enum Logs {
    /// They were listed, or could not be.
    Listed(Result<Vec<LogStatus>>),
    /// To list them takes longer than a glance: that is no trouble.
    TooMany,
}

impl Logs {
    pub(crate) fn known(&self) -> Option<&[LogStatus]> {
        match self {
            Self::Listed(Ok(logs)) => Some(logs),
            Self::Listed(Err(_)) | Self::TooMany => None,
        }
    }
}

struct Glance {
    environment: Result<Environment>,
    stores: Vec<StoreStatus>,
    location: Option<String>,
    repository: Option<Result<RepositoryStatus>>,
    logs: Option<Logs>,
    now: Timestamp,
}

impl Glance {
    fn backups(&self, store: &StoreStatus) -> Option<&StoreBackups> {
        self.repository.as_ref()?.as_ref().ok()?.of(store.kind)
    }

    /// Why the change logs of a repository that can be read are not known: an error, or that it took too long.
    fn logs_trouble(&self) -> Option<Option<&Error>> {
        self.repository.as_ref()?.as_ref().ok()?;
        match self.logs.as_ref()? {
            Logs::Listed(Ok(_)) => None,
            Logs::Listed(Err(error)) => Some(Some(error)),
            Logs::TooMany => Some(None),
        }
    }
}

impl Report for Glance {
    fn json(&self) -> Map<String, Value> {
        let repository = match &self.repository {
            None => Value::Null,
            Some(Ok(status)) => json!({
                "location": self.location,
                "state": "readable",
                "error": null,
                "backups": status.backups.iter().map(backups_json).collect::<Vec<_>>(),
                "lost_keys": status.lost_keys,
                "logs": self.logs.as_ref().and_then(Logs::known).map(|logs| {
                    logs.iter().map(|log| log_json(log, self.now)).collect::<Vec<_>>()
                }),
            }),
            // One that was never written is no trouble: the first backup makes it.
            Some(Err(error)) => json!({
                "location": self.location,
                "state": error.kind().name(),
                "error": problem_json(error),
                "backups": [],
                "lost_keys": [],
                "logs": null,
            }),
        };
        Map::from_iter([
            ("environment".to_owned(), json!(self.environment.as_ref().ok())),
            (
                "environment_contradiction".to_owned(),
                json!(self.environment.as_ref().err().map(ToString::to_string)),
            ),
            ("stores".to_owned(), self.stores.iter().map(store_json).collect()),
            ("repository".to_owned(), repository),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let mut text = environment::line(&self.environment, look);
        let mut table = Table::new(&[
            "STORE",
            "STATE",
            "VERSION",
            "ROLE",
            "SIZE",
            "UPTIME",
            "CONNECTIONS",
            "LAST BACKUP",
            "VERIFIED",
            "ADDRESS",
        ]);
        for store in &self.stores {
            let (last, verified) = backup_cells(self.backups(store), self.now);
            let mut row = vec![Cell::new(store.kind.name())];
            row.extend(match &store.facts {
                Ok(facts) => facts_cells(facts),
                Err(error) => {
                    let state = Cell::new(error.kind().name()).tone(Tone::Bad);
                    vec![state, "-".into(), "-".into(), Cell::right("-"), "-".into(), Cell::right("-")]
                }
            });
            row.extend([last, verified, store.address.as_str().into()]);
            table.row(row);
        }
        text.push_str(&table.render(look));
        match (&self.location, &self.repository) {
            (Some(location), Some(Ok(_))) => text.push_str(&format!("repository {location}\n")),
            (Some(location), Some(Err(error))) => {
                text.push_str(&format!(
                    "repository {location}: {}\n",
                    look.paint(Tone::Bad, error.kind().name())
                ));
            }
            _ => text.push_str("repository none is configured\n"),
        }
        for log in self.logs.iter().filter_map(Logs::known).flatten() {
            let point = match log.recovery_point {
                RecoveryPoint::OpTime(at) => format!("{} ({at})", ago(at.timestamp(), self.now)),
                RecoveryPoint::Lsn(at) => format!("LSN {at}"),
                RecoveryPoint::Offset(at) => match log.at {
                    Some(moment) => format!("{} (offset {at})", ago(moment, self.now)),
                    None => format!("offset {at}"),
                },
            };
            text.push_str(&format!(
                "change log of {} in {}: recovery point {point}\n",
                log.kind, log.environment
            ));
            text.push_str(&damaged_text(&log.damaged, look));
        }
        match self.logs_trouble() {
            Some(Some(error)) => text.push_str(&format!("change log: not known: {error}\n")),
            Some(None) => text.push_str(&format!(
                "change log: not known: it was not listed within {} s\n",
                ANSWER_TIME_MAX.as_secs()
            )),
            None => {}
        }
        for id in
            self.repository.iter().flatten().flat_map(|status| &status.backups).flat_map(|of| &of.damaged)
        {
            text.push_str(&format!(
                "{} backup set {id} is damaged; `mainstay backup verify {id}` tells more\n",
                look.paint(Tone::Bad, "trouble:")
            ));
        }
        for lost in self.repository.iter().flatten().flat_map(|status| &status.lost_keys) {
            text.push_str(&format!("{} backup {lost}\n", look.paint(Tone::Warn, "look again:")));
        }
        let markers = self.stores.iter().filter(|store| store.facts.is_ok());
        let markers = markers.filter_map(|store| store.marker.as_ref().err());
        let troubles = self.stores.iter().filter_map(|store| store.facts.as_ref().err());
        for error in troubles
            .chain(markers)
            .chain(self.repository.iter().filter_map(|repository| repository.as_ref().err()))
        {
            text.push_str(&format!("{} {error}\n", look.paint(Tone::Bad, "trouble:")));
            text.push_str(&problem_details(error));
        }
        text
    }

    fn exit_status(&self) -> ExitStatus {
        // Without a repository nothing is damaged, but nothing is safe either.
        let is_there = |repository: &&Result<RepositoryStatus>| {
            !repository.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound)
        };
        let is_damaged = |log: &LogStatus| !log.damaged.is_empty();
        let damaged = self.logs.iter().filter_map(Logs::known).flatten().any(is_damaged);
        let of_logs = self.logs_trouble().flatten().map(|error| error.kind().exit_status());
        let of_logs = of_logs.or(damaged.then_some(ExitStatus::Critical));
        let others = match self.repository.as_ref().filter(is_there) {
            Some(repository) => status::exit_status(&self.stores, Some(repository)),
            None => match status::exit_status(&self.stores, None) {
                ExitStatus::Ok => Severity::Warning.exit_status(),
                trouble => trouble,
            },
        };
        of_logs.into_iter().chain([others]).max_by_key(|status| *status as u8).unwrap_or(others)
    }
}

fn facts_cells(facts: &StoreFacts) -> Vec<Cell> {
    let connections = match facts.connections_max {
        Some(most) => format!("{} of {}", Count(facts.connections), Count(most)),
        None => Count(facts.connections).to_string(),
    };
    vec![
        Cell::new("up").tone(Tone::Good),
        facts.version.as_str().into(),
        facts.role.as_str().into(),
        Cell::right(facts.size.map_or_else(|| "-".to_owned(), |size: ByteSize| size.to_string())),
        duration(facts.uptime_seconds).into(),
        Cell::right(connections),
    ]
}

fn backup_cells(backups: Option<&StoreBackups>, now: Timestamp) -> (Cell, Cell) {
    let Some(backups) = backups else { return (Cell::new("-"), Cell::new("-")) };
    let last = match &backups.last {
        Some((_, at)) => Cell::new(ago(*at, now)),
        None if backups.of_others > 0 => {
            Cell::new(format!("never; {} of other servers", backups.of_others)).tone(Tone::Warn)
        }
        None => Cell::new("never").tone(Tone::Warn),
    };
    let verified = match (&backups.verified, &backups.last) {
        (Some((verified, _)), Some((last, _))) if verified == last => Cell::new("yes").tone(Tone::Good),
        (Some((verified, _)), _) => Cell::new(format!("set {verified}")),
        (None, Some(_)) => Cell::new("no").tone(Tone::Warn),
        (None, None) => Cell::new("-"),
    };
    (last, verified)
}

fn store_json(store: &StoreStatus) -> Value {
    let mut value = json!({
        "store": store.kind,
        "state": store.facts.as_ref().map_or_else(|error| error.kind().name(), |_| "up"),
        "address": store.address,
        "version": null,
        "role": null,
        "size_bytes": null,
        "uptime_seconds": null,
        "connections": null,
        "connections_max": null,
        "fingerprint": null,
        "marker": store.marker.as_ref().ok(),
        "error": store.facts.as_ref().err().map(problem_json),
    });
    if let Ok(facts) = &store.facts {
        value["version"] = json!(facts.version);
        value["role"] = json!(facts.role);
        value["size_bytes"] = json!(facts.size.map(ByteSize::bytes));
        value["uptime_seconds"] = json!(facts.uptime_seconds);
        value["connections"] = json!(facts.connections);
        value["connections_max"] = json!(facts.connections_max);
        value["fingerprint"] = json!(facts.fingerprint);
    }
    value
}

fn log_json(log: &LogStatus, now: Timestamp) -> Value {
    json!({
        "store": log.kind,
        "server": log.server,
        "environment": log.environment,
        "recovery_point": log.recovery_point,
        "recovery_point_age_seconds": log.at.map(|at| now.as_second() - at.as_second()),
        "damaged_chains": log.damaged,
    })
}

fn backups_json(backups: &StoreBackups) -> Value {
    let moment =
        |entry: &Option<(SetId, Timestamp)>| entry.as_ref().map(|(set, at)| json!({"set": set, "at": at}));
    json!({
        "store": backups.kind,
        "sets": backups.set_count,
        "of_others": backups.of_others,
        "damaged": backups.damaged,
        "last": moment(&backups.last),
        "verified": moment(&backups.verified),
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use mainstay_model::OpTime;

    use super::*;

    fn glance() -> Glance {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let at = Timestamp::from_second(1_799_990_000).unwrap();
        let set = SetId::new(at, 7);
        let mongo = StoreStatus {
            kind: StoreKind::Mongo,
            address: "127.0.0.1:27017".to_owned(),
            facts: Ok(StoreFacts {
                kind: StoreKind::Mongo,
                version: "6.0.27".to_owned(),
                role: "primary of rs0".to_owned(),
                size: Some(ByteSize(48_211_000)),
                uptime_seconds: 12_000,
                connections: 12,
                connections_max: Some(51_200),
                fingerprint: "65a1".to_owned(),
                address: "127.0.0.1:27017".to_owned(),
            }),
            marker: Ok(None),
        };
        let refused = || {
            Error::new(ErrorKind::Unreachable, "127.0.0.1:6379 refused the connection")
                .with_hint("start the server")
        };
        let redis = StoreStatus {
            kind: StoreKind::Redis,
            address: "127.0.0.1:6379".to_owned(),
            facts: Err(refused()),
            marker: Err(refused()),
        };
        let stores = vec![mongo, redis];
        let backups = StoreKind::ALL
            .into_iter()
            .map(|kind| {
                let is_mongo = kind == StoreKind::Mongo;
                StoreBackups {
                    kind,
                    set_count: usize::from(is_mongo),
                    damaged: vec![],
                    last: is_mongo.then(|| (set.clone(), at)),
                    verified: is_mongo.then(|| (set.clone(), at)),
                    of_others: 0,
                    servers: std::collections::BTreeMap::new(),
                }
            })
            .collect();
        Glance {
            environment: identify(
                &mainstay_guard::ConfiguredEnvironment::default(),
                &environment::known_markers(&stores),
            ),
            stores,
            location: Some("file:./backups".to_owned()),
            repository: Some(Ok(RepositoryStatus { backups, lost_keys: vec![] })),
            logs: Some(Logs::Listed(Ok(vec![LogStatus {
                kind: StoreKind::Mongo,
                server: "replica-set-65a1".to_owned(),
                environment: "shop".to_owned(),
                recovery_point: RecoveryPoint::OpTime(OpTime { seconds: 1_799_999_997, increment: 2 }),
                at: Timestamp::from_second(1_799_999_997).ok(),
                why: mainstay_repository::ChainReason::First,
                damaged: vec![],
            }]))),
            now,
        }
    }

    #[test]
    fn the_text_is_a_table_with_troubles_below() {
        let expected = "\
environment unknown (production)
STORE  STATE        VERSION  ROLE             SIZE  UPTIME       CONNECTIONS  LAST BACKUP     VERIFIED  ADDRESS
mongo  up           6.0.27   primary of rs0  48 MB  3 h 20 min  12 of 51,200  2 h 46 min ago  yes       127.0.0.1:27017
redis  unreachable  -        -                   -  -                      -  never           -         127.0.0.1:6379
repository file:./backups
change log of mongo in shop: recovery point 3 s ago (1799999997:2)
trouble: 127.0.0.1:6379 refused the connection
  hint: start the server
";
        let shown = glance().text(&Look::default());
        assert_eq!(shown, expected, "\n{shown}");
        assert_eq!(glance().exit_status(), ExitStatus::Unreachable);
    }

    #[test]
    fn change_logs_that_are_not_known_are_no_silence() {
        let mut glance = glance();
        glance.stores.pop();
        glance.logs = Some(Logs::Listed(Err(Error::new(ErrorKind::Auth, "the bucket refused the key"))));
        let shown = glance.text(&Look::default());
        assert!(shown.contains("change log: not known: the bucket refused the key\n"), "{shown}");
        assert_eq!(glance.exit_status(), ExitStatus::Auth);
        assert_eq!(glance.json()["repository"]["logs"], Value::Null);
        glance.logs = Some(Logs::TooMany);
        assert!(glance.text(&Look::default()).contains("not listed within 5 s"));
        assert_eq!(glance.exit_status(), ExitStatus::Ok);
        // A repository that cannot be read says so itself, once.
        let missing = || Error::new(ErrorKind::NotFound, "there is no repository at ./backups");
        glance.repository = Some(Err(missing()));
        glance.logs = Some(Logs::Listed(Err(missing())));
        assert!(!glance.text(&Look::default()).contains("change log"));
        assert_eq!(glance.exit_status(), ExitStatus::Findings);
    }

    #[test]
    fn the_json_has_a_row_for_every_store() {
        let value = Value::Object(glance().json());
        assert_eq!(value["stores"][0]["state"], "up");
        assert_eq!(value["stores"][0]["size_bytes"], 48_211_000);
        assert_eq!(value["stores"][1]["state"], "unreachable");
        assert_eq!(value["stores"][1]["error"]["exit_status"], 6);
        assert_eq!(
            value["repository"]["backups"][0]["last"]["set"],
            value["repository"]["backups"][0]["verified"]["set"]
        );
        assert_eq!(value["repository"]["logs"][0]["recovery_point_age_seconds"], 3);
        assert_eq!(value["environment"]["class"], "production");
    }
}
