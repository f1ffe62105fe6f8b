//! The profiler: shown, set for a while, and put back exactly.
//!
//! Before anything is set, what stands is written into the repository, one record after the other for each server: `mongo/settings/<server>/`.
//! There and not in the server, because setting is disruptive, so that a repository is at hand anyway for the audit log; because a secondary's
//! profiler can be set and nothing can be written to a secondary; and because whoever may profile need not be allowed to write. A record
//! names the process whose settings it is about: they live in its memory, and what a restarted server has is not ours to put back.
//!
//! Level and filter are of one database, threshold and sample rate of the whole server. So these two go back when the last database that
//! was set goes back, and not before.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_engine::{Inspection, Profiler, ProfilerSettings, SampleRate, ServerProcess};
use mainstay_guard::{Permit, operation};
use mainstay_journal::Sequence;
use mainstay_model::{
    Assumption, Blake3, BlastRadius, Clock, EnvironmentClass, Error, ErrorKind, PLAN_FORMAT, Plan, PlanStep,
    Result, ResultExt, StoreKind, Target, Timestamp,
};
use mainstay_repository::Repository;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::selection::check_user_database;

/// The registered name of setting.
pub const OPERATION_SET: &str = "mongo.profile.set";
/// The registered name of putting back.
pub const OPERATION_RESET: &str = "mongo.profile.reset";

/// What a database's profiler was before somebody set it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What stood before the first time it was set.
    pub before: ProfilerSettings,
    /// What it was set to last.
    pub set_to: ProfilerSettings,
    /// When that was.
    pub at: Timestamp,
    /// Who did it.
    pub by: String,
    /// Until when whoever set it meant it to last; `None` without an end.
    pub until: Option<Timestamp>,
}

/// One entry of the records about a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
enum Record {
    /// About to be set.
    ProfilerSet {
        server: ServerProcess,
        database: String,
        before: ProfilerSettings,
        set_to: ProfilerSettings,
        at: Timestamp,
        by: String,
        until: Option<Timestamp>,
    },
    /// Put back.
    ProfilerReset { server: ServerProcess, database: String, at: Timestamp, by: String },
}

/// What is set on one server now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Standing {
    changes: BTreeMap<String, Change>,
    /// Threshold and sample rate of the server before the first of them.
    server_wide: Option<(i64, SampleRate)>,
}

impl Standing {
    /// What `records` come to for the process `server`; those of earlier processes are about settings that are gone.
    fn of(records: &[Record], server: &ServerProcess) -> Self {
        let mut standing = Self::default();
        for record in records {
            match record {
                Record::ProfilerSet { server: of, database, before, set_to, at, by, until }
                    if of == server =>
                {
                    if standing.changes.is_empty() {
                        standing.server_wide = Some((before.slow_ms, before.sample_rate));
                    }
                    let before = match standing.changes.remove(database) {
                        Some(earlier) => earlier.before,
                        None => before.clone(),
                    };
                    let change =
                        Change { before, set_to: set_to.clone(), at: *at, by: by.clone(), until: *until };
                    standing.changes.insert(database.clone(), change);
                }
                Record::ProfilerReset { server: of, database, .. } if of == server => {
                    standing.changes.remove(database);
                    if standing.changes.is_empty() {
                        standing.server_wide = None;
                    }
                }
                Record::ProfilerSet { .. } | Record::ProfilerReset { .. } => {}
            }
        }
        standing
    }

    /// The settings that put `database` back, where `now` stands; `None` when nothing is remembered for it.
    fn reset_to(&self, database: &str, now: &ProfilerSettings) -> Option<ProfilerSettings> {
        let change = self.changes.get(database)?;
        let is_last = self.changes.len() == 1;
        let (slow_ms, sample_rate) =
            self.server_wide.filter(|_| is_last).unwrap_or((now.slow_ms, now.sample_rate));
        Some(ProfilerSettings {
            level: change.before.level,
            filter: change.before.filter.clone(),
            slow_ms,
            sample_rate,
        })
    }
}

/// What profiling works with.
pub struct ProfilerContext<'a> {
    /// The server.
    pub inspection: &'a dyn Inspection,
    /// Where what stood before is kept; without one nothing can be set, and nothing is remembered.
    pub repository: Option<&'a Repository>,
    /// Tells the time.
    pub clock: &'a dyn Clock,
    /// Who acts: `user@host`.
    pub holder: &'a str,
}

impl ProfilerContext<'_> {
    async fn standing(&self, server: &ServerProcess) -> Result<Standing> {
        match self.repository {
            Some(repository) => standing(repository, server).await,
            None => Ok(Standing::default()),
        }
    }

    fn put_back(&self, server: &ServerProcess, database: &str) -> Record {
        Record::ProfilerReset {
            server: server.clone(),
            database: database.to_owned(),
            at: self.clock.now(),
            by: self.holder.to_owned(),
        }
    }

    async fn record(&self, server: &ServerProcess, record: &Record) -> Result<()> {
        let repository = self.repository.ok_or_else(|| {
            Error::new(ErrorKind::Precondition, "there is no repository to remember what stands")
                .with_hint("name one in [repository] of mainstay.toml")
        })?;
        records(repository, server).append_next(record).await.map(drop)
    }
}

fn records(repository: &Repository, server: &ServerProcess) -> Sequence {
    repository.settings_records(StoreKind::Mongo, &Blake3::of(server.address.as_bytes()))
}

async fn standing(repository: &Repository, server: &ServerProcess) -> Result<Standing> {
    let entries = records(repository, server)
        .all::<Record>()
        .await
        .context("read what the profiler was before it was set")?;
    let records: Vec<Record> = entries.into_iter().map(|entry| entry.body).collect();
    Ok(Standing::of(&records, server))
}

/// A database's profiler as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The database.
    pub database: String,
    /// What its profiler does now.
    pub profiler: Profiler,
    /// What it was before somebody set it with this program; `None` when nobody did, or no repository is at hand.
    pub change: Option<Change>,
}

/// The profilers of `databases`.
///
/// # Errors
/// The server's; the repository's when there is one.
pub async fn show(
    inspection: &dyn Inspection,
    repository: Option<&Repository>,
    databases: &[String],
) -> Result<Vec<Shown>> {
    let mut shown = Vec::new();
    for database in databases {
        let profiler = inspection.profiler(database).await?;
        let change = match repository {
            Some(repository) => standing(repository, &profiler.server).await?.changes.remove(database),
            None => None,
        };
        shown.push(Shown { database: database.clone(), profiler, change });
    }
    Ok(shown)
}

/// What is to be set; what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetRequest {
    /// The level.
    pub level: Option<u8>,
    /// The threshold.
    pub slow_ms: Option<i64>,
    /// The sample rate.
    pub sample_rate: Option<SampleRate>,
    /// Put it back after this.
    pub hold: Option<Duration>,
}

/// The decided parameters of setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetParameters {
    database: String,
    set_to: ProfilerSettings,
    hold_seconds: Option<u64>,
}

/// The decided parameters of putting back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResetParameters {
    database: String,
}

/// Decides to set the profiler of `database`.
///
/// # Errors
/// `Usage` when nothing is asked for or the database is the server's own; `Precondition` when it is so already; the server's.
pub async fn plan_set(
    context: &ProfilerContext<'_>,
    database: &str,
    request: &SetRequest,
    target: Target,
) -> Result<Plan> {
    check_user_database(database)?;
    let now = context.inspection.profiler(database).await?;
    let set_to = wanted(&now.settings, request)?;
    let standing = context.standing(&now.server).await?;
    let hold_seconds = request.hold.map(|hold| hold.as_secs());
    let mut steps = vec![PlanStep {
        name: format!("profile {database}"),
        mark: '~',
        summary: summary(&now.settings, &set_to, target.class),
    }];
    if let Some(change) = standing.changes.get(database) {
        steps.push(PlanStep {
            name: "keep the first".to_owned(),
            mark: ' ',
            summary: format!(
                "{} set it at {}; a reset puts back what stood before that",
                change.by, change.at
            ),
        });
    }
    if let Some(seconds) = hold_seconds {
        steps.push(PlanStep {
            name: format!("reset {database}"),
            mark: '~',
            summary: format!("put back what stood before after {seconds} s, or at Ctrl-C"),
        });
    }
    let parameters = SetParameters { database: database.to_owned(), set_to, hold_seconds };
    Ok(plan(context, OPERATION_SET, database, &now, target, steps, &parameters))
}

/// Decides to put the profiler of `database` back.
///
/// # Errors
/// `Precondition` when nothing is remembered for it on the server that answers; the server's and the repository's.
pub async fn plan_reset(context: &ProfilerContext<'_>, database: &str, target: Target) -> Result<Plan> {
    check_user_database(database)?;
    let now = context.inspection.profiler(database).await?;
    let standing = context.standing(&now.server).await?;
    let to = standing
        .reset_to(database, &now.settings)
        .ok_or_else(|| nothing_remembered(database, &now.server))?;
    let mut steps = vec![PlanStep {
        name: format!("reset {database}"),
        mark: '~',
        summary: summary(&now.settings, &to, target.class),
    }];
    if standing.changes.get(database).is_some_and(|change| change.set_to != now.settings) {
        steps.push(PlanStep {
            name: "overwrite".to_owned(),
            mark: '~',
            summary: "somebody has changed it since by other means; that is put back too".to_owned(),
        });
    }
    let parameters = ResetParameters { database: database.to_owned() };
    Ok(plan(context, OPERATION_RESET, database, &now, target, steps, &parameters))
}

fn nothing_remembered(database: &str, server: &ServerProcess) -> Error {
    Error::new(
        ErrorKind::Precondition,
        format!("nothing is remembered about the profiler of {database} on {} as it runs now", server.address),
    )
    .with_state("nothing was changed")
    .with_hint("a server that began anew has the settings of its configuration; one that is another member of the set is reached with `directConnection=true`; `mainstay mongo profile show` tells what stands")
}

fn wanted(now: &ProfilerSettings, request: &SetRequest) -> Result<ProfilerSettings> {
    let refuse = |message: &str, hint: &str| {
        Err(Error::new(ErrorKind::Usage, message).with_state("nothing was changed").with_hint(hint))
    };
    if request.level.is_none() && request.slow_ms.is_none() && request.sample_rate.is_none() {
        return refuse("nothing to set was given", "give `--level 1 --slow-ms 200`, or one of them");
    }
    let decides_anew = request.slow_ms.is_some() || request.sample_rate.is_some();
    Ok(ProfilerSettings {
        level: request.level.unwrap_or(now.level),
        slow_ms: request.slow_ms.unwrap_or(now.slow_ms),
        sample_rate: request.sample_rate.unwrap_or(now.sample_rate),
        // Where a filter is, the server asks neither threshold nor rate.
        filter: now.filter.clone().filter(|_| !decides_anew),
    })
}

fn summary(now: &ProfilerSettings, to: &ProfilerSettings, class: EnvironmentClass) -> String {
    let mut parts = Vec::new();
    if now.level != to.level {
        parts.push(format!("level {} becomes {}", now.level, to.level));
    }
    if now.slow_ms != to.slow_ms {
        parts.push(format!(
            "slow from {} ms on becomes from {} ms on, for the whole server and its log too",
            now.slow_ms, to.slow_ms
        ));
    }
    if now.sample_rate != to.sample_rate {
        parts.push(format!(
            "sample rate {} becomes {}, for the whole server and its log too",
            now.sample_rate, to.sample_rate
        ));
    }
    match (&now.filter, &to.filter) {
        (Some(_), None) => parts.push("the filter is taken away, for it would decide alone".to_owned()),
        (None, Some(_)) => parts.push("the filter comes back".to_owned()),
        (Some(now), Some(to)) if now != to => parts.push("another filter comes back".to_owned()),
        _ => {}
    }
    if parts.is_empty() {
        parts.push("stays as it is".to_owned());
    }
    if to.level == 2 {
        let where_ = if class == EnvironmentClass::Production { " IN PRODUCTION" } else { "" };
        parts.push(format!("EVERY operation is recorded{where_}, which slows all of them"));
    }
    parts.join("; ")
}

fn plan<P: Serialize>(
    context: &ProfilerContext<'_>,
    name: &str,
    database: &str,
    now: &Profiler,
    target: Target,
    steps: Vec<PlanStep>,
    parameters: &P,
) -> Plan {
    let created_at = context.clock.now();
    let verb = if name == OPERATION_SET { "profile" } else { "reset profiler of" };
    Plan {
        format: PLAN_FORMAT,
        operation: name.to_owned(),
        effect: operation(name).expect("profiling is registered").effect,
        assumptions: assumptions(&target.fingerprint, now),
        blast_radius: BlastRadius {
            phrase: format!("{verb} {database}@{}", target.environment),
            items: 0,
            bytes: 0,
        },
        target,
        steps,
        parameters: serde_json::to_value(parameters).expect("parameters have a JSON form"),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn assumptions(fingerprint: &str, now: &Profiler) -> Vec<Assumption> {
    let ProfilerSettings { level, slow_ms, sample_rate, filter } = &now.settings;
    let filter =
        filter.as_deref().map_or_else(|| "none".to_owned(), |filter| Blake3::of(filter.as_bytes()).short());
    [
        ("server", fingerprint.to_owned()),
        ("member", now.server.address.clone()),
        ("process", now.server.process.clone()),
        ("profiler", format!("level {level}, {slow_ms} ms, rate {sample_rate}, filter {filter}")),
    ]
    .map(|(name, value)| Assumption { name: name.to_owned(), value })
    .to_vec()
}

/// The database of `plan`, and for how long it is to be held.
///
/// # Errors
/// `Usage` when the plan is not one of profiling, or was edited into something else.
fn set_parameters(plan: &Plan) -> Result<SetParameters> {
    let parameters: SetParameters = parameters(plan)?;
    check_user_database(&parameters.database)?;
    if parameters.set_to.level > 2 {
        return Err(Error::new(ErrorKind::Usage, "the plan sets a level that profilers do not have"));
    }
    Ok(parameters)
}

fn parameters<P: serde::de::DeserializeOwned>(plan: &Plan) -> Result<P> {
    serde_json::from_value(plan.parameters.clone()).map_err(|source| {
        Error::new(ErrorKind::Usage, "the plan's parameters are not those of setting a profiler")
            .with_source(source)
    })
}

/// Refuses when the server or its profiler is no longer what `plan` took for granted.
///
/// # Errors
/// `StalePlan`; `Usage` when the plan is not one of profiling; the server's.
pub async fn check(context: &ProfilerContext<'_>, plan: &Plan, fingerprint: &str) -> Result<()> {
    let database = match plan.operation.as_str() {
        OPERATION_SET => set_parameters(plan)?.database,
        _ => parameters::<ResetParameters>(plan)?.database,
    };
    plan.check_assumptions(&assumptions(fingerprint, &context.inspection.profiler(&database).await?))
}

/// What was set or put back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProfilerReport {
    /// The database.
    pub database: String,
    /// The member whose profiler it is.
    pub server: String,
    /// What stood before.
    pub before: ProfilerSettings,
    /// What stands now.
    pub now: ProfilerSettings,
}

/// Sets what `plan` says, after writing down what stands.
///
/// # Errors
/// `Refused` when `permit` is for another plan; the server's and the repository's. When the state says that it may have been set, a reset
/// puts it back.
pub async fn set(context: &ProfilerContext<'_>, plan: &Plan, permit: &Permit) -> Result<ProfilerReport> {
    permit.covers(plan)?;
    let SetParameters { database, set_to, hold_seconds } = set_parameters(plan)?;
    let before = context.inspection.profiler(&database).await?;
    let at = context.clock.now();
    let until = hold_seconds.and_then(|seconds| at.checked_add(Duration::from_secs(seconds)).ok());
    let record = Record::ProfilerSet {
        server: before.server.clone(),
        database: database.clone(),
        before: before.settings.clone(),
        set_to: set_to.clone(),
        at,
        by: context.holder.to_owned(),
        until,
    };
    context.record(&before.server, &record).await.context("write down what the profiler was")?;
    let now = match put(context, &database, &set_to, permit).await {
        Ok(now) => now,
        Err(error)
            if matches!(error.kind(), ErrorKind::Auth | ErrorKind::Refused | ErrorKind::Unsupported) =>
        {
            // It was not set, so that nothing is to be put back. A record that stays for want of this one does no harm.
            drop(context.record(&before.server, &context.put_back(&before.server, &database)).await);
            return Err(error.with_state("nothing was changed"));
        }
        Err(error) => {
            return Err(error
                .with_state(format!("the profiler of {database} may have been set"))
                .with_hint(format!("`mainstay mongo profile reset {database}` puts it back")));
        }
    };
    Ok(ProfilerReport { database, server: before.server.address, before: before.settings, now })
}

/// Gives the profiler its settings and reads them back.
async fn put(
    context: &ProfilerContext<'_>,
    database: &str,
    settings: &ProfilerSettings,
    permit: &Permit,
) -> Result<ProfilerSettings> {
    context.inspection.set_profiler(database, settings, permit).await?;
    let found = context.inspection.profiler(database).await?.settings;
    if found == *settings {
        return Ok(found);
    }
    Err(Error::new(
        ErrorKind::Server,
        format!("the profiler of {database} did not become what was asked for"),
    )
    .with_hint("somebody else may be setting it; `mainstay mongo profile show` tells what stands"))
}

/// How a hold ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldEnd {
    /// The time was over.
    Expired,
    /// Somebody asked to stop.
    Stopped,
}

/// For how long `plan` holds what it sets; `None` without an end.
///
/// # Errors
/// `Usage` when the plan is not one of setting a profiler.
pub fn hold_of(plan: &Plan) -> Result<Option<Duration>> {
    Ok(set_parameters(plan)?.hold_seconds.map(Duration::from_secs))
}

/// Waits until `hold` is over or somebody asks to stop.
pub async fn hold(hold: Duration, cancel: &CancellationToken) -> HoldEnd {
    tokio::select! {
        () = tokio::time::sleep(hold) => HoldEnd::Expired,
        () = cancel.cancelled() => HoldEnd::Stopped,
    }
}

/// Ends a hold: puts back what `plan` set, of which `set` tells. Where somebody has put it back by hand, or the server has begun anew,
/// nothing is left to do.
///
/// # Errors
/// `Precondition` when another member answers by now, for the profiler of the first one still stands; as [`reset`] otherwise.
pub async fn end_hold(
    context: &ProfilerContext<'_>,
    plan: &Plan,
    set: &ProfilerReport,
    permit: &Permit,
) -> Result<ProfilerReport> {
    let database = &set.database;
    let now = context.inspection.profiler(database).await.map_err(|error| still_set(error, set))?;
    if now.server.address != set.server {
        let message =
            format!("{} answers by now, and the profiler was set on {}", now.server.address, set.server);
        let error = Error::new(ErrorKind::Precondition, message).with_hint(format!(
            "`mainstay mongo profile reset {database} --mongo-url 'mongodb://{}/?directConnection=true'`",
            set.server
        ));
        return Err(still_set(error, set));
    }
    let standing = context.standing(&now.server).await.map_err(|error| still_set(error, set))?;
    if standing.changes.contains_key(database) {
        return reset(context, plan, permit).await;
    }
    Ok(ProfilerReport {
        database: database.clone(),
        server: now.server.address,
        before: now.settings.clone(),
        now: now.settings,
    })
}

fn still_set(error: Error, set: &ProfilerReport) -> Error {
    let state =
        format!("the profiler of {} on {} is still at level {}", set.database, set.server, set.now.level);
    let hint = error.hint().map(str::to_owned);
    error.with_state(state).with_hint(
        hint.unwrap_or_else(|| format!("`mainstay mongo profile reset {}` puts it back", set.database)),
    )
}

/// Puts back the profiler that `plan`, of setting or of putting back, is about.
///
/// # Errors
/// `Refused` when `permit` is for another plan; `Precondition` when nothing is remembered on the server that answers, which may be another
/// one by now; the server's and the repository's.
pub async fn reset(context: &ProfilerContext<'_>, plan: &Plan, permit: &Permit) -> Result<ProfilerReport> {
    permit.covers(plan)?;
    let database = match plan.operation.as_str() {
        OPERATION_SET => set_parameters(plan)?.database,
        _ => parameters::<ResetParameters>(plan)?.database,
    };
    let putting = async {
        let now = context.inspection.profiler(&database).await?;
        let standing = context.standing(&now.server).await?;
        let to = standing
            .reset_to(&database, &now.settings)
            .ok_or_else(|| nothing_remembered(&database, &now.server))?;
        let found = put(context, &database, &to, permit).await?;
        let record = context.put_back(&now.server, &database);
        context.record(&now.server, &record).await.context("write down that the profiler was put back")?;
        Ok(ProfilerReport {
            database: database.clone(),
            server: now.server.address,
            before: now.settings,
            now: found,
        })
    };
    putting.await.map_err(|error: Error| {
        let state = error.state().unwrap_or("the profiler may still be set").to_owned();
        let hint = error.hint().map(str::to_owned);
        error.context(format!("put the profiler of {database} back")).with_state(state).with_hint(
            hint.unwrap_or_else(|| format!("`mainstay mongo profile reset {database}` tries again")),
        )
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn server(process: &str) -> ServerProcess {
        ServerProcess { address: "h:1".to_owned(), process: process.to_owned() }
    }

    fn settings(level: u8, slow_ms: i64) -> ProfilerSettings {
        ProfilerSettings { level, slow_ms, sample_rate: SampleRate::ALL, filter: None }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn set(process: &str, database: &str, before: ProfilerSettings, set_to: ProfilerSettings) -> Record {
        Record::ProfilerSet {
            server: server(process),
            database: database.to_owned(),
            before,
            set_to,
            at: at(1),
            by: "me".to_owned(),
            until: None,
        }
    }

    fn reset(process: &str, database: &str) -> Record {
        Record::ProfilerReset {
            server: server(process),
            database: database.to_owned(),
            at: at(2),
            by: "me".to_owned(),
        }
    }

    /// What a reset of `shop` would set, given that `now` stands.
    fn back(records: &[Record], now: &ProfilerSettings) -> Option<ProfilerSettings> {
        Standing::of(records, &server("p1")).reset_to("shop", now)
    }

    #[test]
    fn what_stood_before_the_first_change_comes_back() {
        let first = set("p1", "shop", settings(0, 100), settings(1, 200));
        let second = set("p1", "shop", settings(1, 200), settings(2, 5));
        let now = settings(2, 5);
        assert_eq!(back(&[], &now), None);
        assert_eq!(back(std::slice::from_ref(&first), &now), Some(settings(0, 100)));
        assert_eq!(back(&[first.clone(), second.clone()], &now), Some(settings(0, 100)));
        assert_eq!(back(&[first.clone(), reset("p1", "shop")], &now), None);
        assert_eq!(back(&[first, reset("p1", "shop"), second], &now), Some(settings(1, 200)));
    }

    #[test]
    fn a_server_that_began_anew_has_nothing_to_put_back() {
        let records = [set("p0", "shop", settings(0, 100), settings(1, 200))];
        assert_eq!(back(&records, &settings(0, 100)), None);
    }

    #[test]
    fn the_servers_own_settings_go_back_with_the_last_database() {
        let records = [
            set("p1", "shop", settings(0, 100), settings(1, 200)),
            set("p1", "other", settings(0, 200), settings(1, 50)),
        ];
        // `other` still wants 50 ms.
        assert_eq!(back(&records, &settings(1, 50)), Some(settings(0, 50)));
        let standing = Standing::of(&[&records[..], &[reset("p1", "shop")]].concat(), &server("p1"));
        assert_eq!(standing.reset_to("other", &settings(1, 50)), Some(settings(0, 100)));
    }

    #[test]
    fn a_filter_gives_way_to_a_threshold_and_stays_otherwise() {
        let now = ProfilerSettings { filter: Some("{}".to_owned()), ..settings(0, 100) };
        let request = |level, slow_ms| SetRequest { level, slow_ms, ..SetRequest::default() };
        assert_eq!(wanted(&now, &request(Some(1), Some(200))).unwrap(), settings(1, 200));
        assert_eq!(wanted(&now, &request(Some(1), None)).unwrap().filter, now.filter);
        assert_eq!(wanted(&now, &SetRequest::default()).unwrap_err().kind(), ErrorKind::Usage);
    }

    #[test]
    fn level_two_is_warned_of() {
        let text = |to: u8, class| summary(&settings(0, 100), &settings(to, 200), class);
        assert!(text(2, EnvironmentClass::Production).contains("EVERY operation is recorded IN PRODUCTION"));
        assert!(!text(1, EnvironmentClass::Production).contains("EVERY"));
        assert!(text(1, EnvironmentClass::Development).contains("its log too"));
    }
}
