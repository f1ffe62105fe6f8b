//! Which steps lead from what a server has to what is declared, and what they would cost.

use std::fmt::Display;
use std::time::Duration;

use mainstay_engine::{KeyScanRequest, KeyServerInspection, KeyServerLook, KeyServerSettings, Keyspace};
use mainstay_guard::operation;
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{
    Assumption, BlastRadius, ByteSize, Clock, Count, Error, ErrorKind, PLAN_FORMAT, Plan, PlanStep, Result,
    Target,
};
use tokio_util::sync::CancellationToken;

use super::declared::{EVICTION, LIMIT, LOG, by_name};
use super::forecast::{Forecast, Forecasting};
use super::steps::{PolicyParameters, steps};
use super::{DeclaredPolicy, Difference, Durability, OPERATION, OPERATION_EVICT, StartCommand};
use crate::classes::KeyClasses;
use crate::keyspace::interrupted;

/// How many prefixes of a forecast a plan names.
const FORECAST_ROWS: usize = 20;
/// The eviction policy under which nothing goes.
const EVICTS_NOTHING: &str = "noeviction";

/// What planning works with.
pub struct PolicyRequest<'a> {
    /// The server.
    pub server: &'a dyn KeyServerInspection,
    /// Its keys, for what eviction would take.
    pub keyspace: &'a dyn Keyspace,
    /// What is declared.
    pub declared: &'a DeclaredPolicy,
    /// What keys are for.
    pub classes: &'a KeyClasses,
    /// How a compose file starts the server, when there is one.
    pub start: Option<&'a StartCommand>,
    /// The change may be forgotten when the server ends.
    pub run_time_only: bool,
    /// Keys of protected classes may be evicted.
    pub evict_protected: bool,
    /// The longest that the server should be busy with one answer while keys are counted.
    pub answer_time_max: Duration,
    /// Tells the time.
    pub clock: &'a dyn Clock,
    /// Told how far counting is.
    pub observer: &'a dyn Observer,
    /// Stops counting.
    pub cancel: &'a CancellationToken,
}

/// Decides the steps.
///
/// # Errors
/// `Config` when what is declared is no policy; `Precondition` when there is nothing to do, when a change would not outlive a restart and may not
/// be forgotten, when the server cannot write to its disk, or copies a primary that does not answer; `Refused` when keys of protected classes may be evicted and that was not asked
/// for; `Auth` when the user may not know the settings; the server's; `Interrupted`.
pub async fn plan(request: &PolicyRequest<'_>, target: Target) -> Result<Plan> {
    let look = request.server.look().await?;
    let now = request.server.settings(&DeclaredPolicy::NAMES).await?;
    let declared = request.declared.settings()?;
    let differences = request.declared.differences(&now)?;
    if differences.is_empty() {
        return Err(precondition("the server is as it is declared already")
            .with_hint("`mainstay redis policy drift` compares"));
    }
    let durability = Durability::of(look.config_file.as_deref(), &declared, request.start);
    if !durability.is_given() && !request.run_time_only {
        return Err(forgotten(&durability));
    }
    check_disk(&look, &differences)?;
    if durability.wants_file() {
        check_replication(&look)?;
    }
    let forecast = match evicts(&differences, &now, &declared) {
        Some((policy, limit)) => Some(forecast(request, &look, policy, limit).await?),
        None => None,
    };
    let keep = durability.wants_file();
    let steps = steps(&differences, &look, keep);
    let mut shown_steps: Vec<PlanStep> = steps.iter().map(|step| step.shown(&look, &durability)).collect();
    shown_steps.extend(forecast.iter().flat_map(forecast_steps));
    let over = forecast.as_ref().filter(|forecast| forecast.over_bytes > 0);
    let name = if over.is_some() { OPERATION_EVICT } else { OPERATION };
    let created_at = request.clock.now();
    let names: Vec<&str> = differences.iter().map(|difference| difference.name.as_str()).collect();
    Ok(Plan {
        format: PLAN_FORMAT,
        operation: name.to_owned(),
        effect: operation(name).expect("a change of policy is registered").effect,
        assumptions: assumptions(&now, &declared, &look),
        steps: shown_steps,
        blast_radius: BlastRadius {
            phrase: format!("set {} of redis@{}", names.join(", "), target.environment),
            items: over.map_or(0, Forecast::keys),
            bytes: over.map_or(0, |forecast| forecast.over_bytes - forecast.short_bytes),
        },
        target,
        parameters: serde_json::to_value(PolicyParameters {
            steps,
            durable: durability.is_given(),
            declared,
        })
        .expect("parameters have a JSON form"),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// What must still be so: the settings that are declared, and where they are kept.
pub(super) fn assumptions(
    now: &KeyServerSettings,
    declared: &KeyServerSettings,
    look: &KeyServerLook,
) -> Vec<Assumption> {
    let setting = |name: &String| Assumption {
        name: setting_assumption(name),
        value: now.get(name).cloned().unwrap_or_default(),
    };
    let file = look.config_file.clone().unwrap_or_else(|| "none".to_owned());
    let mut assumptions: Vec<Assumption> = declared.keys().map(setting).collect();
    assumptions.push(Assumption { name: "configuration file".to_owned(), value: file });
    assumptions
}

/// What an assumption about the setting called `name` is called.
pub(super) fn setting_assumption(name: &str) -> String {
    format!("setting {name}")
}

fn precondition(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Precondition, message).with_state("nothing was changed")
}

fn forgotten(durability: &Durability) -> Error {
    let place = durability.place.as_deref().unwrap_or("the command that starts the server");
    let options = durability.command_line.as_deref().unwrap_or_default();
    precondition(format!("a restart would forget the change: {}", durability.obstacles.join("; "))).with_hint(
        format!("`--run-time-only` changes the running server first, then put into {place}: {options}"),
    )
}

/// A disk that does not take a snapshot does not take an append-only file either.
fn check_disk(look: &KeyServerLook, differences: &[Difference]) -> Result<()> {
    let disk = &look.persistence;
    if disk.loading {
        return Err(precondition("the server is reading its data").with_hint("try again when it has loaded"));
    }
    if by_name(differences).contains_key(LOG) && !(disk.save_ok && disk.log_write_ok) {
        return Err(precondition("the server's last write to its disk failed").with_hint(
            "look into the server's log, mend the disk or the folder's rights, and type `BGSAVE`",
        ));
    }
    Ok(())
}

/// Keeping settings keeps all that the server has, also whom it copies at the moment: one that does not answer may be what a restore that was killed
/// left, and would be kept for good.
fn check_replication(look: &KeyServerLook) -> Result<()> {
    match look.replication.is_replica && look.replication.link_up != Some(true) {
        true => Err(precondition(
            "the server is a replica whose primary does not answer: keeping settings would keep that in its file, too",
        )
        .with_hint(
            "if it is to be a primary, as after a restore that was killed, type `REPLICAOF NO ONE`; otherwise mend the link: `mainstay redis info`",
        )),
        false => Ok(()),
    }
}

/// The eviction policy and the limit that will hold, when one of them changes and keys may go.
fn evicts<'a>(
    differences: &[Difference],
    now: &'a KeyServerSettings,
    declared: &'a KeyServerSettings,
) -> Option<(&'a str, u64)> {
    let changes = by_name(differences);
    if !changes.contains_key(EVICTION) && !changes.contains_key(LIMIT) {
        return None;
    }
    effective(now, declared)
}

/// The eviction policy and the limit that hold when `declared` is in force; `None` without a limit.
pub(super) fn effective<'a>(
    now: &'a KeyServerSettings,
    declared: &'a KeyServerSettings,
) -> Option<(&'a str, u64)> {
    let setting = |name: &str| declared.get(name).or_else(|| now.get(name)).map(String::as_str);
    let limit: u64 = setting(LIMIT)?.parse().ok()?;
    (limit > 0).then_some((setting(EVICTION).unwrap_or(EVICTS_NOTHING), limit))
}

/// What eviction by `policy` at `limit` takes; refused where it must not.
async fn forecast(
    request: &PolicyRequest<'_>,
    look: &KeyServerLook,
    policy: &str,
    limit: u64,
) -> Result<Forecast> {
    let refuses_writes = || {
        precondition(format!(
            "{} are in use: a limit of {} that evicts nothing refuses every write at once",
            ByteSize(look.memory.used),
            ByteSize(limit)
        ))
        .with_hint("declare a higher `maxmemory`, or remove keys before: `mainstay redis purge`")
    };
    if policy == EVICTS_NOTHING {
        return if look.memory.used < limit { Ok(Forecast::default()) } else { Err(refuses_writes()) };
    }
    let all_may_go = policy.starts_with("allkeys-");
    if all_may_go && !request.evict_protected {
        check_declared(policy, request.classes)?;
    }
    let forecast = count(request, policy).await?.end(look.memory.used, limit);
    let protected = forecast.protected();
    if !protected.is_empty() && !request.evict_protected {
        let counts: Vec<String> = protected
            .iter()
            .map(|(class, count)| format!("{} of class {}", Count(*count), class.name()))
            .collect();
        return Err(protected_may_go(policy, format!("keys are among them: {}", counts.join(", "))));
    }
    // Where nothing expires, a policy that takes what expires is no other than one that takes nothing.
    match forecast.over_bytes > 0 && forecast.keys() == 0 {
        true => Err(refuses_writes()),
        false => Ok(forecast),
    }
}

/// Any key may go under a policy that asks for no expiry: those of tomorrow, too.
fn check_declared(policy: &str, classes: &KeyClasses) -> Result<()> {
    if classes.is_empty() {
        return Err(protected_may_go(policy, "nothing is declared of what keys are for"));
    }
    let protected: Vec<&str> = classes.protected().map(crate::classes::KeyClass::name).collect();
    if protected.is_empty() {
        return Ok(());
    }
    Err(protected_may_go(policy, format!("keys of class {} are declared to live here", protected.join(", "))))
}

fn protected_may_go(policy: &str, why: impl Display) -> Error {
    let advice = match policy.starts_with("allkeys-") {
        true => {
            "declare `volatile-lru` and give caches alone an expiry, or keep caches on a server of their own"
        }
        false => "keep what expires and must not go on a server of its own, or raise `maxmemory`",
    };
    Error::new(
        ErrorKind::Refused,
        format!("{policy} may evict sessions, revocations, idempotency keys or jobs: {why}"),
    )
    .with_state("nothing was changed")
    .with_hint(format!(
        "{advice}; [redis.classes] declares which keys are which; `--evict-protected` if they may go"
    ))
}

async fn count(request: &PolicyRequest<'_>, policy: &str) -> Result<Forecasting> {
    let (observer, keyspace) = (request.observer, request.keyspace);
    observer.phase("count what eviction would take");
    let sizes = keyspace.databases().await?;
    observer.expect(Work { items: sizes.iter().map(|size| size.keys).sum(), bytes: 0 });
    let now = request.clock.now().as_millisecond();
    let mut forecasting = Forecasting::new(policy, request.classes.matcher(), now);
    let scan = KeyScanRequest {
        databases: sizes.iter().map(|size| size.database).collect(),
        pattern: None,
        answer_time_max: request.answer_time_max,
        now,
        asks_idle: true,
    };
    let mut scan = keyspace.scan(scan).await?;
    while let Some(records) = scan.next().await? {
        records.iter().for_each(|record| forecasting.add(record));
        observer.advance(Work { items: records.len() as u64, bytes: 0 });
        if request.cancel.is_cancelled() {
            return Err(interrupted());
        }
    }
    Ok(forecasting)
}

fn forecast_steps(forecast: &Forecast) -> Vec<PlanStep> {
    let at_once = forecast.over_bytes > 0;
    let total = ByteSize(forecast.forecast_bytes);
    let mut steps = Vec::new();
    for group in forecast.groups.iter().filter(|group| group.keys > 0).take(FORECAST_ROWS) {
        let class = group.class.map(|class| format!(", declared {}", class.name())).unwrap_or_default();
        let when = match at_once {
            true => format!("at once, of {total} in all"),
            false => format!("of the {total} that go first when the limit is reached"),
        };
        let name = match group.prefix.as_str() {
            "" => "names of one word".to_owned(),
            prefix => format!("{prefix}*"),
        };
        steps.push(PlanStep {
            name: format!("evict {name}"),
            mark: if at_once { '-' } else { ' ' },
            summary: format!(
                "about {} of {} keys, {}{class}; {when}",
                Count(group.keys),
                Count(group.eligible),
                ByteSize(group.bytes)
            ),
        });
    }
    if forecast.short_bytes > 0 {
        steps.push(PlanStep {
            name: "refuse writes".to_owned(),
            mark: '-',
            summary: format!(
                "{} more would have to go, and no other key may: {} never expire",
                ByteSize(forecast.short_bytes),
                Count(forecast.ineligible)
            ),
        });
    }
    steps
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn difference(name: &str, now: &str, declared: &str) -> Difference {
        Difference { name: name.to_owned(), now: now.to_owned(), declared: declared.to_owned() }
    }

    #[test]
    fn eviction_is_looked_at_where_a_limit_will_hold() {
        let settings = |pairs: &[(&str, &str)]| -> KeyServerSettings {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let now = settings(&[(LIMIT, "100"), (EVICTION, "volatile-lru")]);
        let limit = [difference(LIMIT, "100", "50")];
        assert_eq!(evicts(&limit, &now, &settings(&[(LIMIT, "50")])), Some(("volatile-lru", 50)));
        assert_eq!(evicts(&limit, &now, &settings(&[(LIMIT, "0")])), None);
        assert_eq!(evicts(&[difference(LOG, "no", "yes")], &now, &settings(&[(LOG, "yes")])), None);
    }

    #[test]
    fn policies_that_may_take_anything_are_refused_unless_all_may_go() {
        use crate::classes::KeyClass;
        let classes = |class| KeyClasses::new([(class, vec!["a:*".to_owned()])]);
        assert_eq!(
            check_declared("allkeys-lru", &KeyClasses::default()).unwrap_err().kind(),
            ErrorKind::Refused
        );
        let error = check_declared("allkeys-lru", &classes(KeyClass::Revocation)).unwrap_err();
        assert!(error.to_string().contains("revocation"), "{error}");
        assert!(check_declared("allkeys-lru", &classes(KeyClass::Cache)).is_ok());
    }
}
