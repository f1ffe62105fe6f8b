//! `doctor`: every finding about stores, environment, configuration, backups and the compose file, each with its remedy.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use mainstay_model::{Error, ErrorKind, ExitStatus, Finding, Result, Severity, StoreKind};
use mainstay_ops::doctor::{self, Examination};
use mainstay_ops::keyfile;
use mainstay_ops::restore::unfinished_runs;
use mainstay_ops::status::counted_marker;
use serde_json::{Map, Value, json};

use super::{findings, quotes, status};
use crate::bounded;
use crate::config::check::check;
use crate::printer::{Look, Report, Tone};
use crate::wiring::Session;

/// How long a store may take to be examined.
const EXAMINATION_TIME_MAX: Duration = Duration::from_secs(10);
/// How long quotes may take to be counted, each sort of rows by itself.
const QUOTE_TIME_MAX: Duration = Duration::from_secs(30);
/// The compose files that Docker looks for, in its order, and the name that production stacks use beside it.
const COMPOSE_FILES: &[&str] = &[
    "compose.yaml",
    "compose.yml",
    "docker-compose.yaml",
    "docker-compose.yml",
    "docker-compose.production.yaml",
    "docker-compose.production.yml",
];
/// The longest compose file that is read.
const COMPOSE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The compose file to read; the configured one, or compose.yaml and its kin in the working directory, when left out
    #[arg(long, value_name = "FILE")]
    compose: Option<PathBuf>,
}

/// Gathers every finding.
///
/// # Errors
/// `Config` when a connection cannot be described or a compose file that was named cannot be read. What cannot be reached is a finding.
pub(crate) async fn run(args: DoctorArgs, session: &Session) -> Result<ExitStatus> {
    let composes = compose_files(args.compose.as_deref(), session)?;
    let probes = session.probes().await?;
    let (examinations, repository, logs) = tokio::join!(
        doctor::stores(&probes, EXAMINATION_TIME_MAX),
        status::repository(session),
        status::logs(session)
    );
    let servers: Vec<_> = { examinations.iter() }
        .filter_map(|examination| Some((examination.kind, examination.fingerprint.clone()?)))
        .collect();

    let mut found = check(&session.configuration);
    let markers: Vec<_> = examinations
        .iter()
        .filter_map(|examination| Some((examination.kind, counted_marker(&examination.marker)?)))
        .collect();
    let damaged = doctor::damaged_markers(&examinations);
    let is_damaged = |one: &Finding| damaged.iter().any(|other| other.store == one.store);
    let of_environment = doctor::environment(&session.configured_environment(), &markers);
    found.extend(
        of_environment.into_iter().filter(|one| one.id != "environment.no_marker" || !is_damaged(one)),
    );
    found.extend(damaged);
    let mut looked_at: Vec<String> =
        examinations.iter().map(|one| format!("{} at {}", one.kind, one.address)).collect();
    let postgres = examinations.iter().find(|examination| examination.kind == StoreKind::Postgres);
    let data_directory = postgres.and_then(|examination| examination.data_directory.clone());
    if postgres.is_some_and(|examination| counted_marker(&examination.marker).is_some()) {
        let (inspection, address) = session.relational()?;
        found.extend(doctor::relational(inspection.as_ref(), &address, EXAMINATION_TIME_MAX).await);
        // A count that takes too long is told by itself; a server that does not answer is told already.
        let of_quotes = tokio::time::timeout(QUOTE_TIME_MAX, quotes::examine_or_tell(session)).await;
        found.extend(of_quotes.unwrap_or_default());
    }
    let redis = examinations.iter().find(|examination| examination.kind == StoreKind::Redis);
    let redis_answers = redis.filter(|examination| counted_marker(&examination.marker).is_some());
    let redis_fingerprint = redis_answers.and_then(|examination| examination.fingerprint.clone());
    if redis_answers.is_some() {
        let (server, configuration) = (session.key_server()?, &session.configuration);
        let (declared, classes) = (&configuration.redis_policy, &configuration.redis_classes);
        let more = doctor::key_server(server.as_ref(), declared, classes, EXAMINATION_TIME_MAX).await;
        found.extend(more);
    }
    found.extend(examinations.into_iter().flat_map(|Examination { findings, .. }| findings));
    if let (Some(location), Some(status)) = (session.repository_location(), repository) {
        let stores = session.configuration.stores();
        match status {
            Ok(status) => {
                let age_max = session.configuration.backup_age_max;
                let status = status.of_servers(&servers);
                found.extend(doctor::backups(&status, &stores, age_max, session.clock.now()));
                if let Some(fingerprint) = &redis_fingerprint {
                    found.extend(packing_left_off(fingerprint, session).await);
                }
                if let Some(logs) = logs.as_ref().and_then(status::Logs::known) {
                    let slice_age = session.configuration.slice_age;
                    found.extend(doctor::logs(logs, &servers, slice_age, session.clock.now()));
                }
                let restores = unfinished_runs(&session.repository().await?).await;
                found.extend(restores.map_or_else(
                    |error| vec![doctor::repository_unreadable(&location, &error)],
                    |listing| doctor::restores(&listing),
                ));
            }
            Err(error) => found.push(doctor::repository_unreadable(&location, &error)),
        }
        looked_at.push(format!("repository {location}"));
    }
    for (path, file) in composes {
        let name = path
            .file_name()
            .map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
        found.extend(doctor::compose::examine(&file, &name));
        if let Some(folder) = &data_directory {
            found.extend(doctor::compose::data_on_volume(&file, &name, folder));
        }
        looked_at.push(format!("compose file {}", path.display()));
    }
    doctor::heed_declared(&mut found, &session.configuration.redis_policy);
    Ok(session.printer.report(&Diagnosis { looked_at, findings: found }))
}

/// What a backup of Redis that was killed has left changed. What keeps that from being known is told elsewhere already.
async fn packing_left_off(fingerprint: &str, session: &Session) -> Option<Finding> {
    let look = async {
        let (repository, server) = (session.repository().await?, session.key_server()?);
        keyfile::left_off(&repository, fingerprint, server.as_ref()).await
    };
    tokio::time::timeout(EXAMINATION_TIME_MAX, look).await.ok()?.ok().flatten()
}

/// Compose files with their content: the one that was `given`, the configured one, or those of the working directory.
///
/// # Errors
/// `Config` when one cannot be read or is no YAML.
pub(crate) fn compose_files(given: Option<&Path>, session: &Session) -> Result<Vec<(PathBuf, Value)>> {
    let named = given.map(|path| session.path(path)).or_else(|| session.configuration.compose_file.clone());
    let paths = match named {
        Some(path) => vec![path],
        None => {
            let here = |name: &&str| session.outside.working_dir.join(name);
            COMPOSE_FILES.iter().map(here).filter(|path| path.is_file()).collect()
        }
    };
    paths.into_iter().map(|path| Ok((path.clone(), read_compose(&path)?))).collect()
}

fn read_compose(path: &Path) -> Result<Value> {
    let name = path.display();
    let refuse = |source: std::io::Error| {
        Error::new(ErrorKind::Config, format!("cannot read the compose file {name}")).with_source(source)
    };
    let text = bounded::read_text(path, COMPOSE_BYTES_MAX).map_err(refuse)?.ok_or_else(|| {
        Error::new(ErrorKind::Config, format!("{name} is too long for a compose file"))
            .with_hint("name another file with `--compose FILE`")
    })?;
    serde_saphyr::from_str(&text).map_err(|error| {
        // The parser's text repeats the line, which may hold a password.
        let place = error.location().map(|place| format!(":{}", place.line())).unwrap_or_default();
        Error::new(ErrorKind::Config, format!("{name}{place} is not valid YAML"))
            .with_hint("name another file with `--compose FILE`, or correct this one: `docker compose config` tells more")
    })
}

struct Diagnosis {
    looked_at: Vec<String>,
    findings: Vec<Finding>,
}

impl Report for Diagnosis {
    fn json(&self) -> Map<String, Value> {
        Map::from_iter([
            ("looked_at".to_owned(), json!(self.looked_at)),
            ("findings".to_owned(), json!(self.findings)),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let looked_at = if self.looked_at.is_empty() {
            "the configuration".to_owned()
        } else {
            self.looked_at.join(", ")
        };
        format!(
            "{} {looked_at}\n{}",
            look.paint(Tone::Faint, "looked at:"),
            findings::text(&self.findings, look)
        )
    }

    fn exit_status(&self) -> ExitStatus {
        Severity::worst_exit_status(&self.findings)
    }
}
